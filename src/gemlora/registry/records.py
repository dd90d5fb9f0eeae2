"""What an adapter is, as the registry knows it."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """The immutable content of a complete adapter. Blobs are SHA-256 digests in the object store."""

    digest: str
    """SHA-256 over both uploaded files: the adapter's identity for engines and caches."""
    config_blob: str
    weights_blob: str
    manifest_blob: str
    geometry: str
    """The `Base.geometry` that the adapter was last checked against."""
    size: int
    """Bytes of the weights file."""
    rank: int
    """Highest rank of any module."""
    modules: tuple[str, ...]
    """Names of the modules that it changes."""
    warnings: tuple[str, ...]
    difference: float | None = None
    """What the probe found: max|with - without| / max|without| of the logits; None if it was not probed."""
    probed_base: str | None = None
    """`Base.digest` of the weights that it was probed on."""


@dataclass(frozen=True, slots=True)
class PendingFiles:
    """What has been uploaded for an adapter that is not ready: the digests of its blobs."""

    config_blob: str | None = None
    weights_blob: str | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """LoRA weights and config, owned by an account. `files` is None until both files are there and were probed."""

    id: str
    account_id: str
    model: str
    name: str
    description: str
    public: bool
    created_at: datetime
    modified_at: datetime
    files: AdapterFiles | None = None
    pending: PendingFiles = PendingFiles()
    """Empty once the adapter is ready."""

    @property
    def ready(self) -> bool:
        """Whether requests can name it; its content never changes from then on."""
        return self.files is not None


@dataclass(frozen=True, slots=True)
class ShippedContent:
    """What a release of gemlora brought for the shelf, whether it is there now or not."""

    name: str
    digest: str
    """As `AdapterFiles.digest`."""
    fingerprint: str
    """Of the files where they were last seen: as long as it is the same, nobody has to hash them again."""


@dataclass(frozen=True, slots=True)
class ReadyAdapter:
    """An adapter that an engine can load: its content's digest and where the manifest and the weights lie."""

    id: str
    name: str
    digest: str
    manifest_path: Path
    weights_path: Path
    manifest_digest: str
    """SHA-256 of the manifest's file; that of the weights is inside the manifest."""
    public: bool = False
    """Whether it is on the shelf that every account can use."""


def adapter_digest(config: str, weights: str) -> str:
    """SHA-256 over the digests of both files, each field tagged."""
    return hashlib.sha256(f"gemlora adapter\nconfig {config}\nweights {weights}\n".encode()).hexdigest()
