"""Small LoRA adapters on disk, as the registry leaves them: a safetensors file and its manifest."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from gemlora.engines.contract import AdapterRef
from gemlora.engines.cpu.config import GemmaConfig
from gemlora.registry.models import AdapterLimits, Base
from gemlora.registry.validation import check_adapter, read_config
from gemlora.storage.manifest import AdapterManifest, BaseCopy, EmbeddingLora, HeadLora, LoraModule, Tensor

STRENGTH = 0.5
"""What an adapter adds to a module's output is about half as large as the output."""


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
    return AdapterRef(manifest.weights_digest, str(path), str(weights), hashlib.sha256(path.read_bytes()).hexdigest())


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


def peft_model(base: PreTrainedModel, config: LoraConfig, seed: int, dtype: torch.dtype = torch.float32) -> PeftModel:
    """PEFT's unmerged float32 model over a copy of `base`, with random weights that `dtype` holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings():
        # PEFT asks transformers by the old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        # Merging is what tied weights make complicated.
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
        model = get_peft_model(deepcopy(base), config).eval()
    with torch.no_grad():
        for layer in [module for module in model.modules() if isinstance(module, LoraLayer)]:
            a, b, magnitude = parts_of(layer)
            inputs = b.shape[0] if a is layer.lora_embedding_A.get("default") else a.shape[1]
            a.normal_(0, inputs**-0.5, generator=generator)
            b.normal_(0, STRENGTH / layer.scaling["default"] * a.shape[0] ** -0.5, generator=generator)
            if magnitude is not None:
                magnitude *= torch.empty_like(magnitude).uniform_(0.7, 1.3, generator=generator)
            for part in (a, b, magnitude):
                if part is not None:
                    part.copy_(part.to(dtype).float())
    return model


def parts_of(layer: LoraLayer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """A, B and DoRA's magnitude of a module that PEFT changes."""
    magnitude = layer.lora_magnitude_vector["default"].weight if layer.lora_magnitude_vector else None
    if layer.lora_embedding_A:
        return layer.lora_embedding_A["default"], layer.lora_embedding_B["default"], magnitude
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight, magnitude


def save_peft(model: PeftModel, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write the folder that PEFT users upload, its tensors in `dtype`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting `save_embedding_layers` to `True`", UserWarning)
        model.save_pretrained(str(folder))
    weights = folder / "adapter_model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(weights).items()}, weights)
    return folder


def registered(folder: Path, config: GemmaConfig) -> AdapterRef:
    """Let the registry check a PEFT folder against the served architecture, and write its manifest."""
    base = Base(
        "tiny", "gemma", "0" * 64, "none", config.context, len(config.layers), config.vocabulary, config.modules,
        config.hidden, tied=True,
    )  # fmt: skip
    weights = folder / "adapter_model.safetensors"
    settings = read_config((folder / "adapter_config.json").read_bytes())
    return register(folder, weights, check_adapter(settings, weights, base, AdapterLimits()).manifest)


def described(model: PeftModel, folder: Path) -> AdapterRef:
    """A PEFT folder with the manifest that says what `model` computes, whatever the registry accepts."""
    weights = folder / "adapter_model.safetensors"
    placed = safetensors_tensors(weights)
    modules, embedding, head = [], None, None
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        kind = "lora_embedding_{}" if layer.lora_embedding_A else "lora_{}.weight"
        parts = {
            "rank": layer.r["default"],
            "scale": layer.scaling["default"],
            "a": placed[f"{name}.{kind.format('A')}"],
            "b": placed[f"{name}.{kind.format('B')}"],
            "magnitude": placed.get(f"{name}.lora_magnitude_vector"),
        }
        if name.endswith("embed_tokens"):
            embedding = EmbeddingLora(**parts)
        elif name.endswith("lm_head"):
            head = HeadLora(**parts)
        else:
            layers = name.split(".")
            modules.append(LoraModule(int(layers[layers.index("layers") + 1]), layers[-1], **parts))
    copies = tuple(
        BaseCopy(name.split(".")[-3], tensor) for name, tensor in placed.items() if name.endswith(".base_layer.weight")
    )
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return register(folder, weights, AdapterManifest(digest, tuple(modules), embedding, head, copies))
