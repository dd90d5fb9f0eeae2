"""From what the user named as weights to the folder of a packed model."""

from pathlib import Path

from gemlora.engines.cpu.weights.cache import ModelCache
from gemlora.engines.cpu.weights.folder import LAYOUT, Quantize
from gemlora.engines.cpu.weights.progress import Progress
from gemlora.engines.cpu.weights.source import locate


def prepare(
    weights: str, revision: str | None, token: str | None, quantize: Quantize, cache_dir: Path, progress: Progress
) -> Path:
    """The packed model's folder, for `PackedModel.open`. Downloads and converts what is not in the cache yet.

    `weights` is `starter`, a GGUF file, a Hugging Face folder or a hub id; `revision` and `token` are for the hub.
    Raises `WeightsInvalid` if the weights cannot be found or served, `StorageFailed` if the cache cannot be written.
    """
    cache = ModelCache(cache_dir.expanduser())
    source = locate(weights, revision, token, progress)
    digest = source.digest(cache, progress)

    def convert(folder: Path) -> None:
        # Only here: a start from the cache needs no arrays.
        from gemlora.engines.cpu.weights.packing import pack

        with source.opened() as checkpoint:
            name = source.name or checkpoint.name
            pack(checkpoint, folder, name=name, digest=digest, quantize=quantize, progress=progress)

    return cache.model(f"{digest[:32]}-{quantize}-{LAYOUT}", convert)
