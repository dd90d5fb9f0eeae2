"""Checkpoints on the Hugging Face hub, kept in that library's own cache.

The library forgets a half-loaded file when its process ends. Files of gigabytes are therefore loaded here, into the
place where the library looks for them (`blobs/SHA256`), from where an earlier attempt stopped.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from hashlib import file_digest
from pathlib import Path
from typing import Any, BinaryIO

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url, scan_cache_dir, snapshot_download
from huggingface_hub.errors import (
    CacheNotFound,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]
from tqdm import tqdm

from gemlora.engines.cpu.weights.huggingface_checkpoint import CONFIG_FILE, files_of, read_json
from gemlora.engines.cpu.weights.huggingface_config import text_config
from gemlora.engines.cpu.weights.progress import Progress
from gemlora.errors import StorageFailed, WeightsInvalid

PATTERNS = [
    "config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.model",
    "tokenizer.json",
]
"""What a conversion reads; Gemma's repositories also hold GGUF files and other formats of the same size."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """A checkpoint in the library's cache; `size` counts bytes."""

    repository: str
    commit: str
    size: int


def pulled() -> list[Pulled]:
    """Every complete Gemma checkpoint in the library's cache."""
    try:
        cached = scan_cache_dir()
    except CacheNotFound:
        return []
    return [
        Pulled(repository.repo_id, revision.commit_hash, revision.size_on_disk)
        for repository in sorted(cached.repos, key=lambda repository: repository.repo_id)
        if repository.repo_type == "model"
        for revision in repository.revisions
        if find(repository.repo_id, revision.commit_hash) is not None and _is_gemma(revision.snapshot_path)
    ]


def _is_gemma(folder: Path) -> bool:
    try:
        text_config(read_json(folder / CONFIG_FILE))
    except WeightsInvalid:
        return False
    return True


def find(repository: str, revision: str | None) -> Path | None:
    """The folder of a checkpoint that was pulled completely; asks no network."""
    try:
        folder = snapshot_download(repository, revision=revision, allow_patterns=PATTERNS, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    try:
        return Path(folder) if all(path.is_file() for path in files_of(Path(folder))) else None
    except WeightsInvalid:
        return None


def pull(repository: str, revision: str | None, token: str | None, progress: Progress) -> Path:
    """Load what is missing of a checkpoint, and give its folder. A commit as `revision` pins it.

    Raises `WeightsInvalid` if the hub has no such checkpoint, refuses it or cannot be reached, and `StorageFailed` if
    it cannot be stored.
    """
    constants.HF_HUB_DISABLE_TELEMETRY = True  # else each request also names installed packages and what runs them
    with _explained(repository, revision):
        api = HfApi(token=token)
        commit = api.model_info(repository, revision=revision).sha
        listing = api.list_repo_tree(repository, revision=commit)
        files = [file for file in listing if isinstance(file, RepoFile) and _is_wanted(file.path)]
        _check_complete(repository, {file.path for file in files})
        big = [file for file in files if file.lfs is not None]
        meter = _Meter(sum(file.size for file in big), progress)
        for file in big:
            _load(repository, file, commit, token, meter)
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=PATTERNS, token=token, tqdm_class=_Silent)
        )


def _is_wanted(path: str) -> bool:
    return any(fnmatch(path, pattern) for pattern in PATTERNS)


def _check_complete(repository: str, paths: set[str]) -> None:
    if not any(path.endswith(".safetensors") for path in paths):
        raise WeightsInvalid(f"{repository} holds no safetensors weights; other formats are not read")
    if "config.json" not in paths:
        raise WeightsInvalid(f"{repository} holds no config.json")


class _Meter:
    """Sums the progress of several files."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total = total
        self._progress = progress
        self._done = 0

    def add(self, size: int) -> None:
        self._done += size
        self._progress("Downloading", self._done, self._total)

    def bar(self) -> type[tqdm]:
        """A class that the library uses for the progress of one file."""
        meter = self

        class Bar(_Silent):
            def __init__(self, *arguments: Any, initial: int = 0, **options: Any) -> None:
                super().__init__(*arguments, **options)
                meter.add(initial)

            def update(self, size: float | None = 1) -> None:
                meter.add(int(size or 0))

        return Bar


class _Silent(tqdm):  # type: ignore[misc]
    """Shows nothing."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "disable": True})


def _load(repository: str, file: RepoFile, commit: str | None, token: str | None, meter: _Meter) -> None:
    """Bring one big file into the library's cache, going on where an earlier attempt stopped."""
    assert file.lfs is not None  # noqa: S101
    blobs = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type="model"), "blobs")
    blobs.mkdir(parents=True, exist_ok=True)
    blob, part = blobs / file.lfs.sha256, blobs / f"{file.lfs.sha256}.part"
    with part.open("ab") as target:
        fcntl.flock(target, fcntl.LOCK_EX)
        if blob.exists():
            meter.add(file.size)
            part.unlink(missing_ok=True)
            return
        _append(target, hf_hub_url(repository, file.path, revision=commit), file.size, token, meter)
        with part.open("rb") as loaded:
            intact = file_digest(loaded, "sha256").hexdigest() == file.lfs.sha256
        if not intact:
            part.unlink()
            raise WeightsInvalid(f"{repository}: {file.path} arrived damaged; pull it again")
        part.rename(blob)


def _append(target: BinaryIO, url: str, size: int, token: str | None, meter: _Meter) -> None:
    """Load the rest of a file of `size` bytes."""
    start = target.seek(0, os.SEEK_END)
    if start > size:
        target.truncate(start := 0)
    if start == size:
        meter.add(size)
        return
    headers = build_hf_headers(token=token)
    http_get(url, target, resume_size=start, headers=headers, expected_size=size, tqdm_class=meter.bar())
    target.flush()
    os.fsync(target.fileno())


@contextmanager
def _explained(repository: str, revision: str | None) -> Iterator[None]:
    """Say what an error of the hub means for the user."""
    try:
        yield
    except GatedRepoError as error:
        raise WeightsInvalid(
            f"{repository} is gated: accept its terms on the hub, then pass a token of the same account "
            "(--token, GEMLORA_HUB_TOKEN or HF_TOKEN)"
        ) from error
    except RevisionNotFoundError as error:
        raise WeightsInvalid(f"{repository} has no revision {revision}") from error
    except RepositoryNotFoundError as error:
        raise WeightsInvalid(
            f"The hub has no model {repository}, or it is private and the token may not read it"
        ) from error
    except (HFValidationError, EntryNotFoundError) as error:
        raise WeightsInvalid(f"{repository}: {error}") from error
    except HfHubHTTPError as error:
        refused = error.response.status_code in (401, 403)
        reason = "refused the token" if refused else f"answered {error.response.status_code}"
        raise WeightsInvalid(f"{repository}: the hub {reason}") from error
    except (OfflineModeIsEnabled, httpx2.TransportError) as error:
        raise WeightsInvalid(f"{repository} was not pulled yet and the hub cannot be reached: {error}") from error
    except OSError as error:
        raise StorageFailed(f"{repository} cannot be stored: {error}") from error
