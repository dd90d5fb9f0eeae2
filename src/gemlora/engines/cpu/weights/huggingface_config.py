"""A Hugging Face `config.json` → `GemmaConfig`, with the defaults that transformers has for absent keys.

Both spellings are read: `rope_parameters` and `layer_types` of transformers 5, and the older `rope_theta`,
`rope_scaling`, `rope_local_base_freq` and `sliding_window_pattern`.
"""

from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import DTypeLike

from gemlora.engines.cpu.config import GemmaConfig, LayerConfig, Rope
from gemlora.engines.cpu.weights.embedding_scale import embedding_scale
from gemlora.errors import WeightsInvalid

GENERATIONS = {"gemma": 1, "gemma2": 2, "gemma3_text": 3}
MULTIMODAL = "gemma3"
"""Model type whose `text_config` is a `gemma3_text`; its images are not served."""

SLIDING, FULL = "sliding_attention", "full_attention"
TANH_GELU = ("gelu_pytorch_tanh", None)

DEFAULTS: Mapping[int, Mapping[str, Any]] = {
    1: {
        "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 16, "head_dim": 256, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
    },
    2: {
        "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 256, "sliding_window": 4096, "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    3: {
        "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 256, "sliding_window": 4096, "final_logit_softcapping": None,
    },
}  # fmt: skip


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a `config.json` that describes the text model.

    Raises `WeightsInvalid` for model types other than Gemma 1, 2 and 3.
    """
    model_type = config.get("model_type")
    if model_type == MULTIMODAL:
        text = config.get("text_config")
        if not isinstance(text, Mapping):
            raise WeightsInvalid("config.json: text_config is missing")
        return {"model_type": "gemma3_text", **text}
    if model_type not in GENERATIONS:
        supported = ", ".join([*GENERATIONS, MULTIMODAL])
        raise WeightsInvalid(f"config.json: model_type is {model_type!r}: only {supported} are supported")
    return config


def tied_embeddings(config: Mapping[str, Any]) -> bool:
    """Whether the embedding is also the output head. The outermost setting counts."""
    inner = text_config(config).get("tie_word_embeddings", True)
    return bool(config.get("tie_word_embeddings", inner))


def huggingface_config(config: Mapping[str, Any], vocabulary: int, dtype: DTypeLike) -> GemmaConfig:
    """Raises `WeightsInvalid` with the key's name if its value is of another type or not supported.

    `vocabulary` and `dtype` are the embedding's rows and element type.
    """
    keys = _Keys(text_config(config))
    _refuse_variants(keys)
    generation = keys.generation
    head_dim, hidden = keys.integer("head_dim"), keys.integer("hidden_size")
    heads, kv_heads = keys.integer("num_attention_heads"), keys.integer("num_key_value_heads")
    if heads % kv_heads:
        raise keys.unsupported("num_key_value_heads")
    return GemmaConfig(
        generation=generation,
        hidden=hidden,
        feed_forward=keys.integer("intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        context=keys.integer("max_position_embeddings"),
        norm_epsilon=keys.real("rms_norm_eps"),
        attention_scale=(head_dim if generation == 1 else keys.real("query_pre_attn_scalar")) ** -0.5,
        embedding_scale=embedding_scale(hidden, dtype),
        # Gemma 3 has no cap on attention: transformers ignores the key there.
        attention_softcap=keys.optional_real("attn_logit_softcapping") if generation == 2 else None,
        logit_softcap=keys.optional_real("final_logit_softcapping") if generation >= 2 else None,
        layers=_layers(keys),
    )


def _refuse_variants(keys: "_Keys") -> None:
    """Refuse what changes the mathematics in a way that this engine does not follow."""
    if keys.value("attention_bias"):
        raise keys.unsupported("attention_bias")
    if keys.value("use_bidirectional_attention"):
        raise keys.unsupported("use_bidirectional_attention")
    if keys.value("hidden_activation") not in TANH_GELU:
        raise keys.unsupported("hidden_activation")
    # Early Gemma 1 configs say "gelu" and mean the tanh approximation.
    if keys.generation == 1 and keys.value("hidden_act") not in (*TANH_GELU, "gelu"):
        raise keys.unsupported("hidden_act")


def _layers(keys: "_Keys") -> tuple[LayerConfig, ...]:
    ropes = _ropes(keys)
    window = keys.integer("sliding_window") if SLIDING in (types := _layer_types(keys)) else None
    return tuple(LayerConfig(ropes[kind], window if kind == SLIDING else None) for kind in types)


def _layer_types(keys: "_Keys") -> list[str]:
    """`sliding_attention` or `full_attention` for every layer."""
    count = keys.integer("num_hidden_layers")
    if keys.generation == 1:
        return [FULL] * count
    if (types := keys.value("layer_types")) is not None:
        if not isinstance(types, list) or len(types) != count or not set(types) <= {SLIDING, FULL}:
            raise keys.unsupported("layer_types")
        return types
    key = "sliding_window_pattern" if keys.value("sliding_window_pattern") is not None else "_sliding_window_pattern"
    period = 2 if keys.generation == 2 else keys.integer(key, 6)
    return [SLIDING if (layer + 1) % period else FULL for layer in range(count)]


def _ropes(keys: "_Keys") -> dict[str, Rope]:
    """The rotary embedding of each layer type."""
    given = keys.value("rope_parameters") or {}
    scaling = keys.value("rope_scaling") or {}
    if not isinstance(given, Mapping):
        raise keys.unsupported("rope_parameters")
    if not isinstance(scaling, Mapping):
        raise keys.unsupported("rope_scaling")
    nested = bool({FULL, SLIDING} & set(given))
    if nested != (keys.generation == 3) and given:
        raise keys.unsupported("rope_parameters")
    if keys.generation == 3:
        full = _rope(keys, {**(given.get(FULL) or {}), **scaling}, "rope_theta", 1_000_000.0)
        local = _rope(keys, given.get(SLIDING) or {}, "rope_local_base_freq", 10_000.0)
        return {FULL: full, SLIDING: local}
    rope = _rope(keys, scaling or given, "rope_theta", 10_000.0)
    return {FULL: rope, SLIDING: rope}


def _rope(keys: "_Keys", parameters: Mapping[str, Any], base_key: str, default: float) -> Rope:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in ("default", "linear") or parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise WeightsInvalid(f"config.json: rotary embedding {dict(parameters)} is not supported, only linear scaling")
    base = parameters.get("rope_theta")
    factor = parameters.get("factor") if kind == "linear" else 1.0
    base = keys.real(base_key, default) if base is None else base
    if not _is_positive(base) or not _is_positive(factor):
        raise WeightsInvalid(f"config.json: rotary embedding {dict(parameters)} has no positive base and factor")
    return Rope(float(base), float(factor))


def _is_positive(value: object) -> TypeGuard[float]:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 < value < np.inf


class _Keys:
    """The keys of one text config, with transformers' defaults and checks of types."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        model_type = config.get("model_type")
        if model_type not in GENERATIONS:
            raise WeightsInvalid(f"config.json: model_type of text_config is {model_type!r}, not gemma3_text")
        self.generation = GENERATIONS[model_type]

    def value(self, key: str) -> Any:
        return self._config.get(key, DEFAULTS[self.generation].get(key))

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.value(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise WeightsInvalid(f"config.json: {key} is {value!r}, not a positive whole number")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value = self.value(key)
        value = default if value is None else value
        if not _is_positive(value):
            raise WeightsInvalid(f"config.json: {key} is {value!r}, not a positive number")
        return float(value)

    def optional_real(self, key: str) -> float | None:
        return None if self.value(key) is None else self.real(key)

    def unsupported(self, key: str) -> WeightsInvalid:
        return WeightsInvalid(f"config.json: {key} is {self.value(key)!r}: this is not supported")
