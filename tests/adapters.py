"""Small LoRA adapters on disk, as the registry leaves them: a safetensors file and its manifest."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file

from gemlora.engines.contract import AdapterRef
from gemlora.storage.manifest import AdapterManifest, LoraModule, Tensor


class Pair(NamedTuple):
    """A [rank, inputs], B [outputs, rank]."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float = 1.0


def random_pairs(
    modules: Mapping[str, tuple[int, int]], layers: int, rank: int, seed: int, dtype: torch.dtype = torch.float32
) -> dict[tuple[int, str], Pair]:
    """Pairs for all layers and the given modules (outputs, inputs), strong enough to change the output visibly."""
    generator = torch.Generator().manual_seed(seed)
    return {
        (layer, name): Pair(
            (torch.randn(rank, inputs, generator=generator) * inputs**-0.5).to(dtype),
            (torch.randn(outputs, rank, generator=generator) * 0.3).to(dtype),
        )
        for layer in range(layers)
        for name, (outputs, inputs) in modules.items()
    }


def write_adapter(folder: Path, pairs: Mapping[tuple[int, str], Pair]) -> AdapterRef:
    """Write the adapter; its digest is that of the weights file."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "adapter_model.safetensors"
    tensors = {
        f"{layer}.{module}.lora_{letter}": getattr(pair, letter.lower()).contiguous()
        for (layer, module), pair in pairs.items()
        for letter in "AB"
    }
    save_file(tensors, weights)
    placed = safetensors_tensors(weights)
    manifest = AdapterManifest(
        hashlib.sha256(weights.read_bytes()).hexdigest(),
        tuple(
            LoraModule(
                layer,
                module,
                pair.a.shape[0],
                pair.scale,
                placed[f"{layer}.{module}.lora_A"],
                placed[f"{layer}.{module}.lora_B"],
            )
            for (layer, module), pair in pairs.items()
        ),
    )
    return register(folder, weights, manifest)


def register(folder: Path, weights: Path, manifest: AdapterManifest) -> AdapterRef:
    """Write the manifest beside the weights."""
    path = folder / "manifest.json"
    manifest.write(path)
    return AdapterRef(manifest.weights_digest, str(path), str(weights))


def safetensors_tensors(path: Path) -> dict[str, Tensor]:
    """Where each tensor of a safetensors file lies."""
    data = path.read_bytes()
    header_size = int.from_bytes(data[:8], "little")
    placed = {}
    for name, entry in json.loads(data[8 : 8 + header_size]).items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            placed[name] = Tensor(name, entry["dtype"], tuple(entry["shape"]), 8 + header_size + start, end - start)
    return placed
