"""Adapters with random weights, on disk as the registry leaves them, for benchmarks of the engine alone."""

import hashlib
import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from gemlora.engines.contract import AdapterRef
from gemlora.engines.cpu.config import GemmaConfig
from gemlora.storage.manifest import AdapterManifest, LoraModule, Tensor


def make_adapter(folder: Path, config: GemmaConfig, rank: int, seed: int) -> AdapterRef:
    """LoRA in bfloat16 on all linear modules of all layers."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    weights = folder / "adapter_model.safetensors"
    tensors = {}
    for layer in range(len(config.layers)):
        for module, (outputs, inputs) in config.modules.items():
            for side, shape in (("a", (rank, inputs)), ("b", (outputs, rank))):
                values = generator.standard_normal(shape, np.float32) * inputs**-0.5
                tensors[f"{layer}.{module}.{side}"] = values.astype(ml_dtypes.bfloat16)
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
