"""Every quantised type of ggml against the `gguf` library's dequantisation, on random blocks."""

import numpy as np
import pytest
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from gemlora.engines.cpu.weights.checkpoint import Quantized
from gemlora.engines.cpu.weights.ggml_blocks import BLOCK_TYPES, unpack_rows

ROWS, BLOCKS = 64, 6

SCALE_BYTES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
"""Where the float16 scales of a K-quant block lie; the others start with them."""


def random_blocks(type_: GGMLQuantizationType, seed: int = 0) -> np.ndarray:
    """Rows of blocks with every bit random, the float16 scales ordinary numbers of both signs."""
    generator = np.random.default_rng(seed)
    block_bytes = GGML_QUANT_SIZES[type_][1]
    blocks = generator.integers(0, 256, (ROWS * BLOCKS, block_bytes), np.uint8)
    starts = SCALE_BYTES.get(type_.name, (0, 2) if type_.name.endswith("_1") else (0,))
    for start in starts:
        scales = generator.normal(0, 0.02, (ROWS * BLOCKS, 1)).astype("<f2")
        blocks[:, start : start + 2] = scales.view(np.uint8)
    return blocks.reshape(ROWS, -1)


def dequantized(rows: Quantized) -> np.ndarray:
    """w = scale · q − minimum in float32."""
    q = rows.q.reshape(*rows.scales.shape, -1).astype(np.float32)
    weights = q * rows.scales.astype(np.float32)[..., None]
    if rows.minimums is not None:
        weights = weights - rows.minimums.astype(np.float32)[..., None]
    return weights.reshape(len(rows.q), -1)


@pytest.mark.parametrize("type_", BLOCK_TYPES, ids=lambda type_: type_.name)
def test_random_blocks_keep_every_bit(type_: GGMLQuantizationType) -> None:
    raw = random_blocks(type_)
    rows = unpack_rows(raw, type_)
    expected = quants.dequantize(raw, type_)
    assert rows.q.shape == expected.shape
    assert rows.q.dtype == np.int8
    np.testing.assert_array_equal(dequantized(rows), expected)


def test_q8_0_keeps_minus_128() -> None:
    raw = random_blocks(GGMLQuantizationType.Q8_0)
    raw[0, 2] = 0x80
    rows = unpack_rows(raw, GGMLQuantizationType.Q8_0)
    assert rows.q[0, 0] == -128
    np.testing.assert_array_equal(dequantized(rows), quants.dequantize(raw, GGMLQuantizationType.Q8_0))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_what_the_library_quantises_comes_back(name: str) -> None:
    type_ = GGMLQuantizationType[name]
    raw = quants.quantize(np.random.default_rng(1).normal(0, 0.02, (ROWS, 96)).astype(np.float32), type_)
    rows = unpack_rows(raw, type_)
    np.testing.assert_array_equal(dequantized(rows), quants.dequantize(raw, type_))
