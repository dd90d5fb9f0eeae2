"""How floats become 8-bit weights."""

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from gemlora.engines.cpu.weights.checkpoint import Quantized
from gemlora.engines.cpu.weights.quantization import quantize_rows


def dequantized(rows: Quantized) -> NDArray[np.float32]:
    scales = np.repeat(rows.scales.astype(np.float32), 32, axis=1)[:, : rows.q.shape[1]]
    return rows.q.astype(np.float32) * scales


def error(weights: NDArray[np.float32], quantized: NDArray[np.float32]) -> float:
    return float(np.square(weights - quantized, dtype=np.float64).mean())


def by_largest(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """The plain way: scale = amax / 127."""
    groups = weights.reshape(-1, 32)
    scale = (np.abs(groups).max(1, keepdims=True) / 127).astype(np.float16).astype(np.float32)
    return (np.rint(groups / scale).clip(-127, 127) * scale).reshape(weights.shape)


def test_the_search_beats_the_plain_scale_by_a_tenth() -> None:
    weights = np.random.default_rng(0).normal(0, 0.02, (512, 1024)).astype(np.float32)
    ours, plain = error(weights, dequantized(quantize_rows(weights))), error(weights, by_largest(weights))
    assert ours < 0.9 * plain


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_weight_is_within_half_a_step(dtype: DTypeLike) -> None:
    weights = np.random.default_rng(1).standard_t(3, (64, 320)).astype(dtype)
    rows = quantize_rows(weights)
    assert rows.minimums is None
    assert rows.scales.dtype == np.float16
    steps = np.repeat(rows.scales.astype(np.float32), 32, axis=1)
    assert (np.abs(dequantized(rows) - weights.astype(np.float32)) <= 0.51 * steps).all()


def test_rows_do_not_depend_on_their_neighbours() -> None:
    weights = np.random.default_rng(2).normal(size=(48, 96)).astype(np.float32)
    whole, part = quantize_rows(weights), quantize_rows(weights[16:32])
    np.testing.assert_array_equal(whole.q[16:32], part.q)
    np.testing.assert_array_equal(whole.scales[16:32], part.scales)


def test_a_last_group_may_be_short() -> None:
    weights = np.random.default_rng(3).normal(size=(4, 40)).astype(np.float32)
    rows = quantize_rows(weights)
    assert rows.q.shape == (4, 40)
    assert rows.scales.shape == (4, 2)
    assert np.abs(dequantized(rows) - weights).max() < 0.02


def test_zeros_stay_zeros() -> None:
    weights = np.zeros((2, 64), np.float32)
    weights[1, 32:] = 1
    np.testing.assert_allclose(dequantized(quantize_rows(weights)), weights, rtol=1e-3)


def test_what_no_half_float_scale_can_reach_becomes_infinite_not_wrong() -> None:
    weights = np.full((1, 32), 1e9, np.float32)
    assert np.isinf(quantize_rows(weights).scales).all()
