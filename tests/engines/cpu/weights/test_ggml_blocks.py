"""Every quantised type of ggml against the `gguf` library's dequantisation, on random blocks."""

import numpy as np
import pytest
from gguf import quants
from gguf.constants import GGMLQuantizationType
from tests.gguf_files import random_blocks

from gemlora.engines.cpu.weights.checkpoint import Quantized
from gemlora.engines.cpu.weights.ggml_blocks import BLOCK_TYPES, unpack_rows
from gemlora.kernels.matrix import zero_point

ROWS, COLUMNS = 64, 1536


def dequantized(rows: Quantized) -> np.ndarray:
    """w = scale · q − minimum in float32."""
    q = rows.q.reshape(*rows.scales.shape, -1).astype(np.float32)
    weights = q * rows.scales.astype(np.float32)[..., None]
    if rows.minimums is not None:
        weights = weights - rows.minimums.astype(np.float32)[..., None]
    return weights.reshape(len(rows.q), -1)


@pytest.mark.parametrize("type_", BLOCK_TYPES, ids=lambda type_: type_.name)
def test_random_blocks_keep_every_bit(type_: GGMLQuantizationType) -> None:
    raw = random_blocks(type_, ROWS, COLUMNS)
    rows = unpack_rows(raw, type_)
    assert rows.q.shape == (ROWS, COLUMNS)
    assert rows.q.dtype == np.int8
    np.testing.assert_array_equal(dequantized(rows), quants.dequantize(raw, type_))


@pytest.mark.parametrize("type_", BLOCK_TYPES, ids=lambda type_: type_.name)
def test_what_comes_out_is_what_the_type_promises(type_: GGMLQuantizationType) -> None:
    rows = unpack_rows(random_blocks(type_, ROWS, COLUMNS), type_)
    storage = BLOCK_TYPES[type_].storage
    assert rows.scales.dtype == storage.dtype
    assert rows.scales.shape == (ROWS, COLUMNS // (storage.group or 0))
    assert (rows.minimums is not None) == storage.minimums
    zero = zero_point(storage.bits, minimums=storage.minimums)
    assert (rows.q.astype(int) + zero).min() >= 0
    assert (rows.q.astype(int) + zero).max() < 1 << storage.bits
    if rows.minimums is not None:
        assert rows.minimums.dtype == storage.dtype


def test_q8_0_keeps_minus_128() -> None:
    raw = random_blocks(GGMLQuantizationType.Q8_0, ROWS, COLUMNS)
    raw[0, 2] = 0x80
    rows = unpack_rows(raw, GGMLQuantizationType.Q8_0)
    assert rows.q[0, 0] == -128
    np.testing.assert_array_equal(dequantized(rows), quants.dequantize(raw, GGMLQuantizationType.Q8_0))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_what_the_library_quantises_comes_back(name: str) -> None:
    type_ = GGMLQuantizationType[name]
    raw = quants.quantize(np.random.default_rng(1).normal(0, 0.02, (ROWS, 96)).astype(np.float32), type_)
    np.testing.assert_array_equal(dequantized(unpack_rows(raw, type_)), quants.dequantize(raw, type_))
