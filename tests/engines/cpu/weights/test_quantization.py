"""How floats become 8-bit and 4-bit weights."""

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from gemlora.engines.cpu.weights.checkpoint import Quantized, Storage
from gemlora.engines.cpu.weights.folder import Quantize
from gemlora.engines.cpu.weights.quantization import EIGHT_BITS, FOUR_BITS, quantize_rows, storage

every_width = pytest.mark.parametrize("bits", [8, 4])


def dequantized(rows: Quantized) -> NDArray[np.float32]:
    columns = rows.q.shape[1]
    weights = rows.q.astype(np.float32) * np.repeat(rows.scales.astype(np.float32), 32, axis=1)[:, :columns]
    if rows.minimums is not None:
        weights -= np.repeat(rows.minimums.astype(np.float32), 32, axis=1)[:, :columns]
    return weights


def error(weights: NDArray[np.float32], quantized: NDArray[np.float32]) -> float:
    return float(np.square(weights - quantized, dtype=np.float64).mean())


def by_largest(weights: NDArray[np.float32], largest: int) -> NDArray[np.float32]:
    """The plain way: scale = amax / 127, or / 7."""
    groups = weights.reshape(-1, 32)
    scale = (np.abs(groups).max(1, keepdims=True) / largest).astype(np.float16).astype(np.float32)
    return (np.rint(groups / scale).clip(-largest, largest) * scale).reshape(weights.shape)


def by_range(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """The plain way with minimums: 0 is the smallest weight, 15 the largest."""
    groups = weights.reshape(-1, 32)
    minimum = groups.min(1, keepdims=True)
    scale = (groups.max(1, keepdims=True) - minimum) / np.float32(15)
    return (np.rint((groups - minimum) / scale) * scale + minimum).reshape(weights.shape)


def test_the_search_beats_the_plain_scale_by_a_tenth() -> None:
    weights = np.random.default_rng(0).normal(0, 0.02, (512, 1024)).astype(np.float32)
    ours, plain = error(weights, dequantized(quantize_rows(weights, 8))), error(weights, by_largest(weights, 127))
    assert ours < 0.9 * plain


def test_with_four_bits_the_fit_beats_the_plain_range_by_a_tenth_and_the_plain_scale_by_two_fifths() -> None:
    weights = np.random.default_rng(0).normal(0, 0.02, (512, 1024)).astype(np.float32)
    ours = error(weights, dequantized(quantize_rows(weights, 4)))
    assert ours < 0.9 * error(weights, by_range(weights))
    assert ours < 0.6 * error(weights, by_largest(weights, 7))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_weight_is_within_half_a_step(dtype: DTypeLike) -> None:
    weights = np.random.default_rng(1).standard_t(3, (64, 320)).astype(dtype)
    rows = quantize_rows(weights, 8)
    assert rows.minimums is None
    assert rows.scales.dtype == np.float16
    steps = np.repeat(rows.scales.astype(np.float32), 32, axis=1)
    assert (np.abs(dequantized(rows) - weights.astype(np.float32)) <= 0.51 * steps).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_four_bits_fit_the_kernels_format(dtype: DTypeLike) -> None:
    weights = np.random.default_rng(1).standard_t(3, (64, 320)).astype(dtype)
    rows = quantize_rows(weights, 4)
    assert rows.minimums is not None
    assert rows.scales.dtype == rows.minimums.dtype == np.float16
    assert (rows.q.min(), rows.q.max()) == (0, 15)
    steps = np.repeat(rows.scales.astype(np.float32), 32, axis=1)
    # The fit may leave the outermost weights outside of its range.
    assert (np.abs(dequantized(rows) - weights.astype(np.float32)) <= 2.5 * steps).all()


@every_width
def test_rows_do_not_depend_on_their_neighbours(bits: int) -> None:
    weights = np.random.default_rng(2).normal(size=(48, 96)).astype(np.float32)
    whole, part = quantize_rows(weights, bits), quantize_rows(weights[16:32], bits)
    np.testing.assert_array_equal(whole.q[16:32], part.q)
    np.testing.assert_array_equal(whole.scales[16:32], part.scales)


@pytest.mark.parametrize(("bits", "largest_error"), [(8, 0.02), (4, 0.3)])
def test_a_last_group_may_be_short(bits: int, largest_error: float) -> None:
    weights = np.random.default_rng(3).normal(size=(4, 40)).astype(np.float32)
    rows = quantize_rows(weights, bits)
    assert rows.q.shape == (4, 40)
    assert rows.scales.shape == (4, 2)
    assert np.abs(dequantized(rows) - weights).max() < largest_error


@every_width
def test_zeros_and_other_groups_of_one_number_stay_what_they_are(bits: int) -> None:
    weights = np.zeros((2, 64), np.float32)
    weights[1, 32:] = 1
    np.testing.assert_allclose(dequantized(quantize_rows(weights, bits)), weights, rtol=1e-3)


@every_width
@pytest.mark.parametrize("smallest", [1e9, -1e9])
def test_what_no_half_float_can_reach_becomes_infinite_not_wrong(bits: int, smallest: float) -> None:
    weights = np.full((1, 32), 1e9, np.float32)
    weights[0, ::2] = smallest
    rows = quantize_rows(weights, bits)
    assert np.isinf(rows.scales if rows.minimums is None else rows.minimums).all()


HALF = Storage(np.dtype(np.float16))
Q6_K = Storage(np.dtype(np.float32), 16)


@pytest.mark.parametrize(
    ("name", "stored", "quantize", "kept"),
    [
        ("layers.0.q_proj", HALF, "none", HALF),
        ("layers.0.q_proj", HALF, "int8", EIGHT_BITS),
        ("layers.0.q_proj", HALF, "int4", FOUR_BITS),
        ("embedding", HALF, "int4", EIGHT_BITS),
        ("head", HALF, "int4", EIGHT_BITS),
        ("layers.0.q_proj", Q6_K, "none", Q6_K),
        ("layers.0.q_proj", Q6_K, "int4", Q6_K),
    ],
)
def test_only_floats_are_quantised_and_the_vocabulary_never_to_four_bits(
    name: str, stored: Storage, quantize: Quantize, kept: Storage
) -> None:
    assert storage(name, stored, quantize) == kept
