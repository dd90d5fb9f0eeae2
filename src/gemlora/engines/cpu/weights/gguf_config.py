"""The metadata of a GGUF file → `GemmaConfig`, with the defaults that llama.cpp has for absent keys."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gemlora.engines.cpu.config import GemmaConfig, LayerConfig, Rope
from gemlora.engines.cpu.weights.embedding_scale import embedding_scale
from gemlora.errors import WeightsInvalid

GENERATIONS = {"gemma": 1, "gemma2": 2, "gemma3": 3}
LOCAL_ROPE_BASE = 10_000.0
WINDOW_PERIOD = {2: 2, 3: 6}
"""Every so many layers one sees all tokens: the last of the period."""

DEEPEST = {2: 46, 3: 62}
"""Layers of the 27B checkpoints, whose query_pre_attn_scalar is hidden / heads; the format has no key for it."""


def gguf_config(metadata: Mapping[str, Any], vocabulary: int) -> GemmaConfig:
    """Raises `WeightsInvalid` with the key's name if it is missing, of another type or not supported.

    `vocabulary` is the number of rows of the embedding.
    """
    keys = _Keys(metadata)
    generation = keys.generation
    heads = keys.integer("attention.head_count")
    hidden = keys.integer("embedding_length")
    kv_heads = keys.integer("attention.head_count_kv", heads)
    if heads % kv_heads:
        raise keys.unsupported("attention.head_count_kv")
    head_dim = keys.integer("attention.key_length", hidden // heads)
    if keys.integer("attention.value_length", head_dim) != head_dim:
        raise keys.unsupported("attention.value_length")
    if keys.integer("rope.dimension_count", head_dim) != head_dim:
        raise keys.unsupported("rope.dimension_count")
    return GemmaConfig(
        generation=generation,
        hidden=hidden,
        feed_forward=keys.integer("feed_forward_length"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        context=keys.integer("context_length"),
        norm_epsilon=keys.real("attention.layer_norm_rms_epsilon"),
        attention_scale=_attention_scale(keys, hidden, heads, head_dim),
        embedding_scale=embedding_scale(hidden, np.float32),
        attention_softcap=keys.real("attn_logit_softcapping", 50.0) if generation == 2 else None,
        logit_softcap=_logit_softcap(keys),
        layers=_layers(keys),
    )


def _attention_scale(keys: "_Keys", hidden: int, heads: int, head_dim: int) -> float:
    if keys.holds("attention.scale"):
        return keys.real("attention.scale")
    deepest = keys.integer("block_count") == DEEPEST.get(keys.generation)
    return float((hidden // heads if deepest else head_dim) ** -0.5)


def _logit_softcap(keys: "_Keys") -> float | None:
    if keys.generation == 2:
        return keys.real("final_logit_softcapping", 30.0)
    if keys.generation == 3 and keys.holds("final_logit_softcapping"):
        return keys.real("final_logit_softcapping")
    return None


def _layers(keys: "_Keys") -> tuple[LayerConfig, ...]:
    everywhere = LayerConfig(_global_rope(keys), None)
    count = keys.integer("block_count")
    window = keys.integer("attention.sliding_window", 4096 if keys.generation == 2 else 0)
    if keys.generation == 1 or not window:
        return (everywhere,) * count
    same = Rope(LOCAL_ROPE_BASE) if keys.generation == 3 else everywhere.rope
    nearby = LayerConfig(Rope(keys.real("rope.freq_base_swa", same.base), same.factor), window)
    return tuple(nearby if local else everywhere for local in _local_layers(keys, count))


def _local_layers(keys: "_Keys", count: int) -> list[bool]:
    """Which layers see only the window: given one by one, or by the period, whose last layer sees all."""
    pattern = keys.value("attention.sliding_window_pattern", WINDOW_PERIOD[keys.generation])
    if isinstance(pattern, np.ndarray):
        if len(pattern) != count:
            raise keys.unsupported("attention.sliding_window_pattern")
        return [bool(local) for local in pattern]
    if not isinstance(pattern, int) or pattern < 0:
        raise keys.unsupported("attention.sliding_window_pattern")
    return [pattern == 0 or layer % pattern < pattern - 1 for layer in range(count)]


def _global_rope(keys: "_Keys") -> Rope:
    scaling = keys.value("rope.scaling.type", "linear")
    if scaling not in ("linear", "none"):
        raise keys.unsupported("rope.scaling.type")
    factor = keys.real("rope.scaling.factor", keys.real("rope.scale_linear", 0.0))
    return Rope(keys.real("rope.freq_base", 10_000.0), factor if factor and scaling == "linear" else 1.0)


class _Keys:
    """Metadata of one architecture, with checks of types."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata
        self._architecture = metadata.get("general.architecture")
        if self._architecture not in GENERATIONS:
            raise WeightsInvalid(
                f"general.architecture is {self._architecture!r}: only {', '.join(GENERATIONS)} are supported"
            )
        self.generation = GENERATIONS[self._architecture]

    def holds(self, key: str) -> bool:
        return f"{self._architecture}.{key}" in self._metadata

    def value(self, key: str, default: object = None) -> Any:
        name = f"{self._architecture}.{key}"
        if name not in self._metadata and default is None:
            raise WeightsInvalid(f"metadata key {name} is missing")
        return self._metadata.get(name, default)

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise WeightsInvalid(f"metadata key {self._architecture}.{key} is {value!r}, not a whole number")
        if value == 0 and default != 0:
            raise WeightsInvalid(f"metadata key {self._architecture}.{key} is 0")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value = self.value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise WeightsInvalid(f"metadata key {self._architecture}.{key} is {value!r}, not a number")
        return float(value)

    def unsupported(self, key: str) -> WeightsInvalid:
        return WeightsInvalid(
            f"metadata key {self._architecture}.{key} is {self._metadata.get(f'{self._architecture}.{key}')!r}: "
            "this is not supported"
        )
