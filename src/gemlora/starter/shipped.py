"""What the package ships: a folder as PEFT saves it for each adapter, with a model card beside its two files."""

import re
from dataclasses import dataclass
from pathlib import Path

from gemlora import __version__
from gemlora.errors import AdapterIncomplete
from gemlora.registry.adapters import CONFIG_FILE, FILE_NAMES, WEIGHTS_FILE
from gemlora.registry.names import PUBLIC_PREFIX
from gemlora.registry.records import adapter_digest
from gemlora.storage.files import storage_errors
from gemlora.storage.objects import digest_of

ADAPTERS = Path(__file__).parent / "adapters"
CHAT = f"{PUBLIC_PREFIX}chat"
"""The adapter that makes a chat model of the starter weights."""

_CARD = "README.md"
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ShippedAdapter:
    """One of them. All methods read files: they block, and raise `StorageFailed` or `AdapterIncomplete`."""

    folder: Path

    @property
    def name(self) -> str:
        """Its name on the shelf."""
        return f"{PUBLIC_PREFIX}{self.folder.name}"

    def fingerprint(self) -> str:
        """Tells this content from that of another release without reading it."""
        with storage_errors(f"read {self.folder}"):
            facts = [path.stat() for path in self._files()]
        return " ".join([__version__, *(f"{fact.st_size}:{fact.st_mtime_ns}" for fact in facts)])

    def digest(self) -> str:
        """The identity that the registry gives to this content."""
        config, weights = self._files()
        with storage_errors(f"read {self.folder}"):
            return adapter_digest(digest_of(config), digest_of(weights))

    def description(self) -> str:
        """The first paragraph of the model card; empty if there is none."""
        card = self.folder / _CARD
        if not card.is_file():
            return ""
        with storage_errors(f"read {card}"):
            text = _FRONT_MATTER.sub("", card.read_text(encoding="utf-8"))
        paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
        return next((part for part in paragraphs if part and not part.startswith("#")), "")

    def _files(self) -> tuple[Path, Path]:
        for name in FILE_NAMES:
            if not (self.folder / name).is_file():
                raise AdapterIncomplete(f"{name} is missing in {self.folder}")
        return self.folder / CONFIG_FILE, self.folder / WEIGHTS_FILE


def shipped_adapters(folder: Path = ADAPTERS) -> tuple[ShippedAdapter, ...]:
    """All adapters in the folder, by name; none if there is no folder."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return tuple(map(ShippedAdapter, folders))
