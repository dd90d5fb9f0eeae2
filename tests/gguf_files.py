"""Tiny GGUF files of every generation and every tensor type, written by the `gguf` library."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 256, 512, 4, 2, 64, 300

SCALE_BYTES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
"""Where the float16 scales of a K-quant block lie; other blocks start with one, those with a minimum with two."""

METADATA: dict[str, Any] = {
    "context_length": 512,
    "embedding_length": HIDDEN,
    "block_count": 2,
    "feed_forward_length": FEED_FORWARD,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "attention.key_length": HEAD_DIM,
    "attention.value_length": HEAD_DIM,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.sliding_window": 16,
    "rope.freq_base": 1_000_000.0,
}

TypeOf = Callable[[str], GGMLQuantizationType]


def random_blocks(type_: GGMLQuantizationType, rows: int, columns: int, seed: int = 0) -> NDArray[np.uint8]:
    """Rows of blocks with every bit random, the float16 scales ordinary numbers of both signs; [rows, bytes]."""
    generator = np.random.default_rng(seed)
    block, block_bytes = GGML_QUANT_SIZES[type_]
    blocks = generator.integers(0, 256, (rows * columns // block, block_bytes), np.uint8)
    starts = SCALE_BYTES.get(type_.name, (0, 2) if type_.name.endswith("_1") else (0,))
    for start in starts:
        scales = generator.normal(0, 0.02, (len(blocks), 1)).astype("<f2")
        blocks[:, start : start + 2] = scales.view(np.uint8)
    return blocks.reshape(rows, -1)


def random_tensor(type_: GGMLQuantizationType, shape: tuple[int, ...], seed: int) -> NDArray[Any]:
    """Weights of about 0.02, or 1 + that for vectors, as the library stores them."""
    if type_ in (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16):
        weights = np.random.default_rng(seed).normal(len(shape) == 1, 0.02, shape).astype(np.float32)
        return gguf.quantize(weights, type_)
    return random_blocks(type_, *shape, seed=seed)


def tensor_shapes(architecture: str, layers: int = 2) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a file's tensors, rows first."""
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (HIDDEN,),
        "attn_q": (HEADS * HEAD_DIM, HIDDEN),
        "attn_k": (KV_HEADS * HEAD_DIM, HIDDEN),
        "attn_v": (KV_HEADS * HEAD_DIM, HIDDEN),
        "attn_output": (HIDDEN, HEADS * HEAD_DIM),
        "ffn_norm": (HIDDEN,),
        "ffn_gate": (FEED_FORWARD, HIDDEN),
        "ffn_up": (FEED_FORWARD, HIDDEN),
        "ffn_down": (HIDDEN, FEED_FORWARD),
    }
    if architecture != "gemma":
        layer |= {"post_attention_norm": (HIDDEN,), "post_ffw_norm": (HIDDEN,)}
    if architecture == "gemma3":
        layer |= {"attn_q_norm": (HEAD_DIM,), "attn_k_norm": (HEAD_DIM,)}
    blocks = {f"blk.{i}.{name}.weight": shape for i in range(layers) for name, shape in layer.items()}
    return {"token_embd.weight": (VOCABULARY, HIDDEN), "output_norm.weight": (HIDDEN,), **blocks}


def write_gguf(
    path: Path,
    architecture: str = "gemma3",
    type_of: TypeOf = lambda _name: GGMLQuantizationType.F32,
    metadata: Mapping[str, Any] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, tuple[GGMLQuantizationType, NDArray[Any]]]:
    """Write a file of random tensors, vectors in F32. Returns what was written, by name.

    `metadata` replaces architecture keys (None removes one) and `shapes` tensors (an empty shape removes one).
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("Tiny")
    for key, value in {**METADATA, **(metadata or {})}.items():
        if value is not None:
            _add(writer, f"{architecture}.{key}", value)
    _add_vocabulary(writer)
    written: dict[str, tuple[GGMLQuantizationType, NDArray[Any]]] = {}
    wanted = {**tensor_shapes(architecture), **(shapes or {})}
    for seed, (name, shape) in enumerate((n, s) for n, s in wanted.items() if s):
        type_ = type_of(name) if len(shape) > 1 else GGMLQuantizationType.F32
        tensor = random_tensor(type_, shape, seed)
        writer.add_tensor(name, tensor, raw_dtype=type_)
        written[name] = (type_, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    else:
        writer.add_float32(key, value)


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    tokens = [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *"abcdefghijklmnopqrstuvwxyz▁"]
    tokens += [f"<unused{i}>" for i in range(VOCABULARY - len(tokens))]
    types = [3] * len(control) + [6] * 256 + [1] * (VOCABULARY - len(control) - 256)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0 if kind != 1 else -float(i) for i, kind in enumerate(types)])
    writer.add_token_types(types)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
