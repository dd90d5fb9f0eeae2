"""An architecture in GGUF's words: the metadata that `gguf_config`, and llama.cpp, read it from."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gemlora.engines.cpu.config import GemmaConfig
from gemlora.engines.cpu.weights.gguf_config import GENERATIONS, LOCAL_ROPE_BASE, gguf_config
from gemlora.errors import WeightsInvalid

ARCHITECTURES: Mapping[int, str] = {generation: name for name, generation in GENERATIONS.items()}
"""`general.architecture` of each generation."""

WITH_OWN_HEAD = frozenset({3})
"""Generations of which llama.cpp reads a head that is not the embedding."""


def gguf_metadata(config: GemmaConfig) -> dict[str, Any]:
    """The architecture's keys, with Python's types. What follows from llama.cpp's defaults is left out.

    Raises `WeightsInvalid` if the format cannot say it, such as layers with different windows.
    """
    keys = _plain(config)
    assumed = _read(config, keys)
    if not _same(assumed.attention_scale, config.attention_scale):
        keys["attention.scale"] = config.attention_scale
    if _windows(assumed) != _windows(config):
        keys["attention.sliding_window_pattern"] = [layer.window is not None for layer in config.layers]
    if _numbers(_read(config, keys)) != _numbers(config):
        raise WeightsInvalid("this architecture cannot be written as GGUF, which has no keys for its layers")
    return {f"{ARCHITECTURES[config.generation]}.{key}": value for key, value in keys.items()}


def _plain(config: GemmaConfig) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "context_length": config.context,
        "embedding_length": config.hidden,
        "block_count": len(config.layers),
        "feed_forward_length": config.feed_forward,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_epsilon,
    }
    ropes = {layer.window is None: layer.rope for layer in config.layers}
    everywhere = ropes.get(True) or ropes[False]
    keys["rope.freq_base"] = everywhere.base
    if everywhere.factor != 1.0:
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": everywhere.factor}
    if config.generation > 1:
        keys["attention.sliding_window"] = max((layer.window or 0 for layer in config.layers), default=0)
        default = LOCAL_ROPE_BASE if config.generation == 3 else everywhere.base
        if False in ropes and ropes[False].base != default:
            keys["rope.freq_base_swa"] = ropes[False].base
    if config.attention_softcap is not None:
        keys["attn_logit_softcapping"] = config.attention_softcap
    if config.logit_softcap is not None:
        keys["final_logit_softcapping"] = config.logit_softcap
    return keys


def _read(config: GemmaConfig, keys: Mapping[str, Any]) -> GemmaConfig:
    """What a reader takes these keys for."""
    architecture = ARCHITECTURES[config.generation]
    metadata: dict[str, Any] = {f"{architecture}.{key}": value for key, value in keys.items()}
    pattern = metadata.get(f"{architecture}.attention.sliding_window_pattern")
    if pattern is not None:
        metadata[f"{architecture}.attention.sliding_window_pattern"] = np.array(pattern)
    return gguf_config({"general.architecture": architecture, **metadata}, config.vocabulary)


def _windows(config: GemmaConfig) -> list[int | None]:
    return [layer.window for layer in config.layers]


def _numbers(config: GemmaConfig) -> GemmaConfig:
    """The part that GGUF can say: a reader always scales embeddings by the float32 root."""
    return replace(config, embedding_scale=0.0, attention_scale=float(np.float32(config.attention_scale)))


def _same(one: float, other: float) -> bool:
    return bool(np.float32(one) == np.float32(other))
