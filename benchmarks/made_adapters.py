"""Adapters with random weights, on disk as the registry leaves them, for benchmarks of the engine alone."""

import hashlib
import json
from pathlib import Path

import ml_dtypes
from benchmarks.peft_adapters import Shape, pairs
from safetensors.numpy import save_file

from gemlora.engines.contract import AdapterRef
from gemlora.engines.cpu.adapters.layout import ServedBase, adapter_layout
from gemlora.engines.cpu.config import GemmaConfig
from gemlora.storage.manifest import AdapterManifest, LoraModule, Tensor


def make_adapter(folder: Path, config: GemmaConfig, rank: int, seed: int) -> AdapterRef:
    """LoRA in bfloat16 on all linear modules of all layers."""
    folder.mkdir(parents=True)
    weights = folder / "adapter_model.safetensors"
    tensors = {}
    for pair in pairs(Shape(len(config.layers), config.modules), rank, seed):
        tensors[f"{pair.layer}.{pair.module}.a"] = pair.a.astype(ml_dtypes.bfloat16)
        tensors[f"{pair.layer}.{pair.module}.b"] = pair.b.astype(ml_dtypes.bfloat16)
    save_file(tensors, weights)
    places = tensors_of(weights)
    modules = tuple(
        LoraModule(layer, module, rank, 1.0, places[f"{layer}.{module}.a"], places[f"{layer}.{module}.b"])
        for layer in range(len(config.layers))
        for module in config.modules
    )
    manifest = AdapterManifest(hashlib.sha256(weights.read_bytes()).hexdigest(), modules).to_json()
    path = folder / "manifest.json"
    path.write_bytes(manifest)
    digest = hashlib.sha256(f"{seed}".encode()).hexdigest()
    return AdapterRef(digest, str(path), str(weights), hashlib.sha256(manifest).hexdigest())


def resident_bytes(adapter: AdapterRef, base: ServedBase) -> int:
    """What the adapter takes in memory beside this base, with the default settings."""
    return adapter_layout(AdapterManifest.read(Path(adapter.manifest)), base, "auto").size


def tensors_of(path: Path) -> dict[str, Tensor]:
    """Where the tensors of a safetensors file lie."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    return {
        name: Tensor(name, entry["dtype"], tuple(entry["shape"]), 8 + size + start, end - start)
        for name, entry in header.items()
        if name != "__metadata__"
        for start, end in [entry["data_offsets"]]
    }
