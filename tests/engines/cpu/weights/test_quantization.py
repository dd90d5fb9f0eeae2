"""How floats and a file's whole numbers become spread weights of 8 or 4 bits."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from gemlora.engines.cpu.weights.checkpoint import Floats, Quantized, Storage, dequantised
from gemlora.engines.cpu.weights.folder import Quantize
from gemlora.engines.cpu.weights.quantization import EIGHT_BITS, FOUR_BITS, spread_rows, storages
from gemlora.kernels import Matrix
from gemlora.kernels.hadamard import spread
from gemlora.kernels.matrix import LEVELS

every_width = pytest.mark.parametrize("bits", [8, 4])
every_float = pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])


def unspread(rows: Quantized, columns: int, bits: int = 8) -> NDArray[np.float32]:
    """The weights that a spread matrix of these rows stands for."""
    assert rows.minimums is None
    return Matrix.from_spread(rows.q, rows.scales, columns, bits=bits).dequantised()


def error(weights: NDArray[np.float32], quantized: NDArray[np.float32]) -> float:
    return float(np.square(weights - quantized, dtype=np.float64).mean())


def by_largest(weights: NDArray[np.float32], largest: int) -> NDArray[np.float32]:
    """The plain way: scale = amax / 127, or / 7, of 32."""
    groups = weights.reshape(-1, 32)
    scale = (np.abs(groups).max(1, keepdims=True) / largest).astype(np.float16).astype(np.float32)
    return (np.rint(groups / scale).clip(-largest, largest) * scale).reshape(weights.shape)


def assert_within_half_a_step(weights: Floats, rows: Quantized) -> None:
    """Every weight, spread over its group of 128."""
    filled = np.zeros((len(weights), rows.scales.shape[1] * 128), np.float32)
    filled[:, : weights.shape[1]] = weights
    exact = spread(filled.reshape(len(weights), -1, 128)) / 8
    steps = rows.scales[..., None].astype(np.float32)
    numbers = rows.q.reshape(exact.shape)
    assert (np.abs(numbers * steps - exact) <= 0.5001 * steps).all()
    assert numbers.min() >= -127


@every_float
@pytest.mark.parametrize("columns", [384, 320, 40])
def test_every_spread_weight_is_within_half_a_step(columns: int, dtype: DTypeLike) -> None:
    weights = np.random.default_rng(1).standard_t(3, (64, columns)).astype(dtype)
    rows = spread_rows(weights)
    assert rows.scales.dtype == np.float16
    assert_within_half_a_step(weights, rows)


@pytest.mark.parametrize("size", [1e-4, 1e-6, 1e-7])
def test_weights_that_are_as_small_as_the_steps_of_scales_are_within_half_a_step(size: float) -> None:
    weights = np.random.default_rng(1).normal(0, size, (256, 256)).astype(np.float32)
    assert_within_half_a_step(weights, spread_rows(weights))


@pytest.mark.parametrize("columns", [1024, 640, 200])
def test_normal_weights_differ_by_less_than_a_percent_when_they_are_spread(columns: int) -> None:
    weights = np.random.default_rng(0).normal(0, 0.02, (512, columns)).astype(np.float32)
    assert error(weights, unspread(spread_rows(weights), columns)) < (0.01 * 0.02) ** 2


def test_beside_a_large_weight_128_spread_ones_lose_less_than_32_that_are_not() -> None:
    weights = np.random.default_rng(0).normal(0, 0.02, (512, 128)).astype(np.float32)
    plain = error(weights, unspread(spread_rows(weights), 128))
    weights[:, 5] = 0.2
    spread_out = error(weights, unspread(spread_rows(weights), 128))
    assert plain < spread_out < 2 * plain
    assert spread_out < error(weights, by_largest(weights, 127)) / 2


@pytest.mark.parametrize("group", [16, 32])
@pytest.mark.parametrize("minimums", [False, True])
def test_a_files_whole_numbers_are_spread_as_the_floats_that_they_stand_for(group: int, minimums: bool) -> None:
    generator = np.random.default_rng(4)
    q = generator.integers(-32, 32, (32, 160)).astype(np.int8)
    scales = generator.normal(0, 0.01, (32, 160 // group)).astype(np.float32)
    rows = Quantized(q, scales, np.abs(scales) if minimums else None)
    ours, expected = spread_rows(rows), spread_rows(dequantised(rows))
    np.testing.assert_array_equal(ours.q, expected.q)
    np.testing.assert_array_equal(ours.scales, expected.scales)
    assert error(dequantised(rows), unspread(ours, 160)) < 1e-4 * np.square(dequantised(rows)).mean()


def test_four_bits_of_128_beat_those_of_32_that_share_a_plain_scale() -> None:
    weights = np.random.default_rng(0).normal(0, 0.02, (512, 1024)).astype(np.float32)
    ours = error(weights, unspread(spread_rows(weights, 4), 1024, 4))
    assert ours < 0.0083 * 0.02**2
    assert ours < 0.9 * error(weights, by_largest(weights, 7))


def test_how_weights_are_distributed_hardly_matters_to_four_bits() -> None:
    random = np.random.default_rng(0)
    for weights in (
        random.standard_t(3, (256, 1024)),
        random.uniform(-1, 1, (256, 1024)),
        random.laplace(size=(256, 1024)),
    ):
        floats = weights.astype(np.float32)
        assert error(floats, unspread(spread_rows(floats, 4), 1024, 4)) < 0.0085 * np.square(floats).mean()


@every_width
def test_rounding_prefers_neither_side_and_no_place(bits: int) -> None:
    # A mean of the rounded numbers would go to the first weight of each 128, with one sign in all rows.
    weights = np.random.default_rng(0).normal(size=(4096, 128)).astype(np.float32)
    rows = spread_rows(weights, bits)
    errors = unspread(rows, 128, bits) - weights
    deviations = errors.mean(axis=0) / (errors.std(axis=0) / 64)
    assert np.abs(deviations).max() < 4.5


@every_float
def test_four_bits_are_the_levels_nearest_to_the_spread_weights(dtype: DTypeLike) -> None:
    weights = np.random.default_rng(1).standard_t(3, (64, 320)).astype(dtype)
    rows = spread_rows(weights, 4)
    assert rows.scales.dtype == np.float16
    assert set(rows.q.ravel()) == set(LEVELS)
    filled = np.zeros((64, 384), np.float32)
    filled[:, :320] = weights
    scaled = (spread(filled.reshape(64, 3, 128)) / 8 / rows.scales[..., None].astype(np.float32)).reshape(64, 384)
    distance = np.abs(scaled - rows.q)
    nearest = np.abs(scaled[..., None] - LEVELS).min(axis=-1)
    assert (distance <= 1.25 * nearest + 4).all()  # the scale was fitted to the levels afterwards


@every_width
def test_rows_do_not_depend_on_their_neighbours(bits: int) -> None:
    weights = np.random.default_rng(2).normal(size=(48, 96)).astype(np.float32)
    whole, part = spread_rows(weights, bits), spread_rows(weights[16:32], bits)
    np.testing.assert_array_equal(whole.q[16:32], part.q)
    np.testing.assert_array_equal(whole.scales[16:32], part.scales)


@every_width
def test_the_last_128_are_filled_up(bits: int) -> None:
    weights = np.random.default_rng(3).normal(size=(4, 200)).astype(np.float32)
    rows = spread_rows(weights, bits)
    assert rows.q.shape == (4, 256)
    assert rows.scales.shape == (4, 2)
    assert np.abs(unspread(rows, 200, bits) - weights).max() < {8: 0.03, 4: 0.4}[bits]


@every_width
def test_zeros_stay_zeros(bits: int) -> None:
    weights = np.random.default_rng(5).normal(size=(2, 256)).astype(np.float32)
    weights[1, :128] = 0
    rows = spread_rows(weights, bits)
    assert not unspread(rows, 256, bits)[1, :128].any()
    assert rows.scales[:, 1].all()


def test_groups_of_one_number_stay_what_they_are_with_eight_bits() -> None:
    weights = np.zeros((2, 256), np.float32)
    weights[1, 128:] = 1
    np.testing.assert_allclose(unspread(spread_rows(weights), 256), weights, rtol=1e-3)


@every_width
@pytest.mark.parametrize("smallest", [1e9, -1e9, 3e38, -3e38])
def test_what_no_half_float_can_reach_becomes_infinite_or_no_number_not_wrong(bits: int, smallest: float) -> None:
    weights = np.full((1, 128), abs(smallest), np.float32)
    weights[0, ::2] = smallest
    assert not np.isfinite(spread_rows(weights, bits).scales).any()


HALF = Storage(np.dtype(np.float16))
Q4_0 = Storage(np.dtype(np.float16), 32, bits=4)
Q6_K = Storage(np.dtype(np.float32), 16)


@dataclass(frozen=True)
class Stored:
    """What the choice of a storage asks of a tensor."""

    storage: Storage
    shape: tuple[int, ...] = (64, 32)


@pytest.mark.parametrize(
    ("name", "file", "quantize", "kept"),
    [
        ("layers.0.q_proj", HALF, "none", HALF),
        ("layers.0.q_proj", HALF, "int8", EIGHT_BITS),
        ("layers.0.q_proj", HALF, "int4", FOUR_BITS),
        ("embedding", HALF, "int4", EIGHT_BITS),
        ("head", HALF, "int4", EIGHT_BITS),
        ("layers.0.q_proj", Q6_K, "none", Q6_K),
        ("layers.0.q_proj", Q6_K, "int8", EIGHT_BITS),
        ("layers.0.q_proj", Q6_K, "int4", EIGHT_BITS),
        ("embedding", Q6_K, "int4", EIGHT_BITS),
        ("layers.0.q_proj", Q4_0, "int4", Q4_0),
        ("embedding", Q4_0, "int4", Q4_0),
        ("embedding", Q4_0, "int8", EIGHT_BITS),
    ],
)
def test_a_matrix_is_kept_as_the_file_has_it_or_becomes_eight_or_four_bits(
    name: str, file: Storage, quantize: Quantize, kept: Storage
) -> None:
    assert storages({name: Stored(file), "layers.0.input_norm": Stored(HALF, (32,))}, quantize) == {name: kept}


@pytest.mark.parametrize(("rows", "kept"), [(31, EIGHT_BITS), (32, EIGHT_BITS), (33, Q4_0)])
def test_with_int8_four_bits_are_kept_where_most_weights_of_the_layers_have_them(rows: int, kept: Storage) -> None:
    tensors = {
        "embedding": Stored(Q4_0, (1000, 32)),
        "layers.0.q_proj": Stored(Q4_0, (rows, 32)),
        "layers.0.k_proj": Stored(Q6_K, (64 - rows, 32)),
    }
    chosen = storages(tensors, "int8")
    assert (chosen["embedding"], chosen["layers.0.q_proj"], chosen["layers.0.k_proj"]) == (kept, kept, EIGHT_BITS)
