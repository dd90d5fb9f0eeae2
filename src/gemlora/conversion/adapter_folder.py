"""A folder as PEFT saves it, checked by the registry's rules against a base that nobody serves."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gemlora.engines.cpu.adapters.originals import WeightsFile
from gemlora.engines.cpu.config import GemmaConfig
from gemlora.engines.cpu.weights.checkpoint import Checkpoint
from gemlora.engines.cpu.weights.packed import FAMILIES
from gemlora.errors import AdapterIncomplete
from gemlora.registry.models import AdapterLimits, Base
from gemlora.registry.validation import check_adapter, read_config
from gemlora.storage.files import storage_errors
from gemlora.storage.manifest import AdapterManifest

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
ANY_RANK = AdapterLimits(max_rank=1 << 31)
"""What is not served may be of any size."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter that takes full effect on a base, its weights file open."""

    manifest: AdapterManifest
    path: Path
    weights: WeightsFile
    warnings: tuple[str, ...]


@contextmanager
def opened_adapter(folder: Path, checkpoint: Checkpoint) -> Iterator[Adapter]:
    """The adapter of a folder on this base.

    Raises `AdapterIncomplete` if a file is missing and `AdapterInvalid` if the adapter could not take full effect.
    """
    path = folder / WEIGHTS_FILE
    config = read_config(read_file(folder / CONFIG_FILE))
    require(path)
    checked = check_adapter(config, path, base_of(checkpoint), ANY_RANK)
    with storage_errors(f"read {path}"), path.open("rb") as file:
        yield Adapter(checked.manifest, path, WeightsFile(file), checked.warnings)


def base_of(checkpoint: Checkpoint) -> Base:
    """What the registry asks of a base; its digest and context play no part here."""
    config: GemmaConfig = checkpoint.config
    return Base(
        name=checkpoint.name,
        family=FAMILIES[config.generation],
        digest="",
        quantization="none",
        context_window=config.context,
        layers=len(config.layers),
        vocabulary=config.vocabulary,
        modules=config.modules,
        hidden=config.hidden,
        tied="head" not in checkpoint.tensors,
    )


def read_file(path: Path) -> bytes:
    """A whole file. Raises `AdapterIncomplete` if it is missing."""
    require(path)
    with storage_errors(f"read {path}"):
        return path.read_bytes()


def require(path: Path) -> None:
    """Raises `AdapterIncomplete` if there is no such file."""
    if not path.is_file():
        raise AdapterIncomplete(f"{path.name} is missing in {path.parent}")
