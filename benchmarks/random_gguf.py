"""A GGUF file of any Gemma shape with random weights and the starter model's vocabulary, for measurements."""

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from numpy.typing import NDArray

from gemlora.engines.cpu.config import GemmaConfig, LayerConfig, Rope
from gemlora.engines.cpu.weights.tensor_names import gguf_name, is_norm, shapes

POOL = 1 << 24
"""Bytes of random data that the weights repeat: what they are does not matter, that they are many does."""

SCALE = np.float16(2.0**-12)
"""Of every block."""

DEVIATION = 0.02
"""Of normally distributed weights."""

TYPES: Mapping[str, GGMLQuantizationType] = {name: GGMLQuantizationType[name] for name in ("F16", "Q8_0", "Q4_0")}
"""Of the weights: floats, or blocks of a float16 scale and bytes."""


def gemma_7b(layers: int = 28, vocabulary: int = 256000) -> GemmaConfig:
    """Gemma 7B's shape."""
    return GemmaConfig(
        generation=1, hidden=3072, feed_forward=24576, heads=16, kv_heads=16, head_dim=256, vocabulary=vocabulary,
        context=8192, norm_epsilon=1e-6, attention_scale=256**-0.5, embedding_scale=3072**0.5,
        attention_softcap=None, logit_softcap=None, layers=(LayerConfig(Rope(10000.0), None),) * layers,
    )  # fmt: skip


def write_random_gguf(path: Path, config: GemmaConfig, type_name: str, vocabulary: GGUFReader) -> Path:
    """Write the file, a tensor at a time. Its embedding has as many rows as `vocabulary` has tokens."""
    kind = TYPES[type_name]
    block_weights, block_bytes = GGML_QUANT_SIZES[kind]

    def stored(shape: tuple[int, ...]) -> tuple[int, int]:
        """[N, bytes per row] of weights [N, K]."""
        return shape[0], shape[1] // block_weights * block_bytes

    writer = GGUFWriter(path, "gemma")
    writer.add_name(f"random {type_name}")
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.hidden)
    writer.add_block_count(len(config.layers))
    writer.add_feed_forward_length(config.feed_forward)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    for name, value, types in _tokenizer(vocabulary):
        writer.add_key_value(name, value, *types)
    tensors = shapes(config, tied=True)
    pool = _pool(kind)
    for name, shape in tensors.items():
        spelled = gguf_name(name)
        if is_norm(name):
            writer.add_tensor_info(spelled, shape, np.dtype(np.float32), 4 * shape[0])
        else:
            writer.add_tensor_info(spelled, stored(shape), np.dtype(np.uint8), prod(stored(shape)), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, shape in tensors.items():
        writer.write_tensor_data(np.ones(shape, np.float32) if is_norm(name) else np.resize(pool, stored(shape)))
    writer.close()
    return path


def _pool(kind: GGMLQuantizationType) -> NDArray[np.uint8]:
    """Whole blocks, every one with its scale and random weights, or floats."""
    random = np.random.default_rng(0)
    if kind is GGMLQuantizationType.F16:
        floats = random.normal(0, DEVIATION, POOL // 2).astype(np.float16)
        return floats.view(np.uint8)
    block = GGML_QUANT_SIZES[kind][1]
    blocks = random.integers(0, 256, (POOL // block, block), dtype=np.uint8)
    blocks[:, :2] = np.frombuffer(SCALE.tobytes(), np.uint8)
    return blocks.reshape(-1)


def _tokenizer(reader: GGUFReader) -> Iterator[tuple[str, Any, tuple[GGUFValueType, ...]]]:
    """The fields that hold a vocabulary: name, value and types."""
    for name, field in reader.fields.items():
        if name.startswith("tokenizer.") and name != "tokenizer.chat_template":
            yield name, field.contents(), tuple(field.types[:2])
