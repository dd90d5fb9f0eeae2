"""The packed model's tensors, and how GGUF files and Hugging Face folders spell them."""

import re
from collections.abc import Mapping
from typing import TypeVar

from gemlora.engines.cpu.config import GemmaConfig
from gemlora.engines.cpu.weights.checkpoint import Tensor
from gemlora.errors import WeightsInvalid

GGUF_NAMES: Mapping[str, str] = {
    "embedding": "token_embd.weight",
    "head": "output.weight",
    "final_norm": "output_norm.weight",
    "q_proj": "attn_q.weight",
    "k_proj": "attn_k.weight",
    "v_proj": "attn_v.weight",
    "o_proj": "attn_output.weight",
    "gate_proj": "ffn_gate.weight",
    "up_proj": "ffn_up.weight",
    "down_proj": "ffn_down.weight",
    "input_norm": "attn_norm.weight",
    "feed_forward_norm": "ffn_norm.weight",
    "post_attention_norm": "post_attention_norm.weight",
    "post_feed_forward_norm": "post_ffw_norm.weight",
    "query_norm": "attn_q_norm.weight",
    "key_norm": "attn_k_norm.weight",
}

HUGGINGFACE_NAMES: Mapping[str, str] = {
    "embedding": "embed_tokens.weight",
    "final_norm": "norm.weight",
    "q_proj": "self_attn.q_proj.weight",
    "k_proj": "self_attn.k_proj.weight",
    "v_proj": "self_attn.v_proj.weight",
    "o_proj": "self_attn.o_proj.weight",
    "gate_proj": "mlp.gate_proj.weight",
    "up_proj": "mlp.up_proj.weight",
    "down_proj": "mlp.down_proj.weight",
    "input_norm": "input_layernorm.weight",
    "post_attention_norm": "post_attention_layernorm.weight",
    "feed_forward_norm": "pre_feedforward_layernorm.weight",
    "post_feed_forward_norm": "post_feedforward_layernorm.weight",
    "query_norm": "self_attn.q_norm.weight",
    "key_norm": "self_attn.k_norm.weight",
}

GEMMA1_NAMES: Mapping[str, str] = {**HUGGINGFACE_NAMES, "feed_forward_norm": "post_attention_layernorm.weight"}
"""Gemma 1 has Llama's names: what it calls post-attention is the norm before the feed-forward."""


def shapes(config: GemmaConfig, *, tied: bool) -> dict[str, tuple[int, ...]]:
    """Every tensor that a model of this architecture has."""
    table: dict[str, tuple[int, ...]] = {"embedding": (config.vocabulary, config.hidden)}
    if not tied:
        table["head"] = (config.vocabulary, config.hidden)
    norms = {"input_norm": config.hidden, "feed_forward_norm": config.hidden}
    if config.post_norms:
        norms |= {"post_attention_norm": config.hidden, "post_feed_forward_norm": config.hidden}
    if config.head_norms:
        norms |= {"query_norm": config.head_dim, "key_norm": config.head_dim}
    for layer in range(len(config.layers)):
        table |= {f"layers.{layer}.{norm}": (size,) for norm, size in norms.items()}
        table |= {f"layers.{layer}.{module}": shape for module, shape in config.modules.items()}
    return table | {"final_norm": (config.hidden,)}


def is_norm(name: str) -> bool:
    """Whether this is a vector that multiplies a normalised row."""
    return name.endswith("norm")


def gguf_name(name: str) -> str:
    """`layers.0.q_proj` → `blk.0.attn_q.weight`."""
    layer, part = _split(name)
    return GGUF_NAMES[part] if layer is None else f"blk.{layer}.{GGUF_NAMES[part]}"


def huggingface_name(name: str, generation: int) -> str:
    """`layers.0.q_proj` → `layers.0.self_attn.q_proj.weight`, without the prefix that folders differ in."""
    layer, part = _split(name)
    names = GEMMA1_NAMES if generation == 1 else HUGGINGFACE_NAMES
    return names[part] if layer is None else f"layers.{layer}.{names[part]}"


def _split(name: str) -> tuple[str | None, str]:
    layer = re.fullmatch(r"layers\.(\d+)\.(\w+)", name)
    return (None, name) if layer is None else (layer[1], layer[2])


AnyTensor = TypeVar("AnyTensor", bound=Tensor)


def claim(
    wanted: Mapping[str, tuple[int, ...]], spelling: Mapping[str, str], found: Mapping[str, AnyTensor], where: str
) -> dict[str, AnyTensor]:
    """The wanted tensors among those found, by the packed model's names.

    Raises `WeightsInvalid` if one is missing, has another shape, or if one is left over: it would be ignored.
    """
    missing = [spelling[name] for name in wanted if spelling[name] not in found]
    if missing:
        raise WeightsInvalid(f"{where}: tensor {_some(missing)} is missing")
    unexpected = sorted(set(found) - {spelling[name] for name in wanted})
    if unexpected:
        raise WeightsInvalid(f"{where}: tensor {_some(unexpected)} is not part of this architecture")
    for name, shape in wanted.items():
        if (tensor := found[spelling[name]]).shape != shape:
            raise WeightsInvalid(
                f"{where}: tensor {tensor.source} has shape {list(tensor.shape)}, the configuration wants {list(shape)}"
            )
    return {name: found[spelling[name]] for name in wanted}


def _some(names: list[str]) -> str:
    """The first names, and how many more."""
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")
