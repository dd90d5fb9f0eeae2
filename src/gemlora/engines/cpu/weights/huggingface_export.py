"""A checkpoint, whatever its files look like, in Hugging Face's words: its `config.json` and its float tensors."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.cpu.config import GemmaConfig, LayerConfig, Rope
from gemlora.engines.cpu.weights.checkpoint import Checkpoint, Tensor, dequantised
from gemlora.engines.cpu.weights.huggingface_config import FULL, SLIDING
from gemlora.engines.cpu.weights.tensor_names import huggingface_name, is_norm

CLASSES: Mapping[int, tuple[str, str]] = {
    1: ("gemma", "GemmaForCausalLM"),
    2: ("gemma2", "Gemma2ForCausalLM"),
    3: ("gemma3_text", "Gemma3ForCausalLM"),
}
"""Model type and class of each generation in transformers."""

HEAD = "lm_head.weight"


def huggingface_document(config: GemmaConfig, *, tied: bool, dtype: str) -> dict[str, Any]:
    """The `config.json` of a model of this architecture; `dtype` is what its tensors are saved in, such as `bfloat16`.

    `huggingface_config` reads the same architecture from it.
    """
    model_type, name = CLASSES[config.generation]
    document: dict[str, Any] = {
        "architectures": [name],
        "model_type": model_type,
        "dtype": dtype,
        "vocab_size": config.vocabulary,
        "hidden_size": config.hidden,
        "intermediate_size": config.feed_forward,
        "num_hidden_layers": len(config.layers),
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_epsilon,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": tied,
        "rope_parameters": _rope_parameters(config),
    }
    if config.generation == 1:
        return document | {"hidden_act": "gelu_pytorch_tanh"}
    windows = [layer.window for layer in config.layers if layer.window is not None]
    document |= {
        "query_pre_attn_scalar": _whole(round(config.attention_scale**-2, 6)),
        "layer_types": [_kind(layer) for layer in config.layers],
        "final_logit_softcapping": config.logit_softcap,
    }
    if windows:
        document["sliding_window"] = windows[0]
    if config.generation == 2:
        document["attn_logit_softcapping"] = config.attention_softcap
    return document


def huggingface_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every tensor by its Hugging Face name, one at a time and whole, as float32.

    Quantised weights become the numbers that they stand for; norms lose the 1 that the engine's form contains.
    """
    generation = checkpoint.config.generation
    for name, tensor in checkpoint.tensors.items():
        values = floats(tensor)
        yield spelled(name, generation), values - np.float32(1) if is_norm(name) else values


def spelled(name: str, generation: int) -> str:
    """`layers.0.q_proj` → `model.layers.0.self_attn.q_proj.weight`, as a model for text alone has it."""
    return HEAD if name == "head" else f"model.{huggingface_name(name, generation)}"


def floats(tensor: Tensor) -> NDArray[np.float32]:
    """All of a tensor's numbers, [N, K] or [K]."""
    rows = tensor.rows(0, tensor.shape[0] if len(tensor.shape) > 1 else 1)
    return dequantised(rows).reshape(tensor.shape)


def _whole(number: float) -> int | float:
    """Transformers refuses 256.0 where it expects 256."""
    return int(number) if number.is_integer() else number


def _kind(layer: LayerConfig) -> str:
    return FULL if layer.window is None else SLIDING


def _rope_parameters(config: GemmaConfig) -> dict[str, Any]:
    if config.generation < 3:
        return _rope(config.layers[0].rope)
    ropes = {_kind(layer): _rope(layer.rope) for layer in config.layers}
    return {kind: ropes.get(kind, next(iter(ropes.values()))) for kind in (FULL, SLIDING)}


def _rope(rope: Rope) -> dict[str, Any]:
    if rope.factor == 1.0:
        return {"rope_type": "default", "rope_theta": rope.base}
    return {"rope_type": "linear", "rope_theta": rope.base, "factor": rope.factor}
