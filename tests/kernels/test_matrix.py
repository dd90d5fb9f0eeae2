import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemlora.kernels import Format, Matrix
from gemlora.kernels.matrix import LEVELS, group_size, pack_float_rows, pack_integer_rows

sizes = st.integers(1, 80)


@given(sizes, sizes, st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16]))
def test_float_weights_come_back_exactly(rows: int, columns: int, dtype: type) -> None:
    weights = np.random.default_rng(rows * columns).standard_normal((rows, columns)).astype(dtype)
    matrix = Matrix.from_floats(weights)
    assert np.array_equal(matrix.dequantised(), weights.astype(np.float32))
    assert matrix.values.nbytes == -(-rows // 16) * 16 * columns * weights.itemsize


@given(sizes, sizes, st.sampled_from([16, 32]), st.sampled_from([np.float16, np.float32]), st.booleans())
def test_int8_weights_come_back_as_scale_times_q_minus_minimum(
    rows: int, columns: int, group: int, dtype: type, with_minimums: bool
) -> None:
    rng = np.random.default_rng(rows * columns)
    quantised = rng.integers(-128, 128, (rows, columns), dtype=np.int8)
    scales = rng.random((rows, -(-columns // group))).astype(dtype)
    minimums = rng.random(scales.shape).astype(dtype) if with_minimums else None
    matrix = Matrix.from_integers(quantised, scales, minimums, quantize_activations=False)

    def spread(numbers: np.ndarray) -> np.ndarray:
        return np.repeat(numbers.astype(np.float32), matrix.group, axis=1)[:, :columns]

    expected = spread(scales) * quantised
    if minimums is not None:
        expected = expected - spread(minimums)
    assert np.array_equal(matrix.dequantised(), expected)
    chosen = rng.integers(0, rows, 5)
    assert np.array_equal(matrix.dequantised_rows(chosen), expected[chosen])


def test_chunks_of_whole_panels_are_packed_like_the_whole() -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((70, 40)).astype(np.float32)
    chunks = [pack_float_rows(weights[start : start + 32]) for start in range(0, 70, 32)]
    assert np.array_equal(np.concatenate(chunks), pack_float_rows(weights))

    quantised = rng.integers(-128, 128, (70, 40), dtype=np.int8)
    scales, minimums = rng.random((70, 2), np.float32), rng.random((70, 2), np.float32)
    whole = pack_integer_rows(quantised, scales, minimums)
    parts = [
        pack_integer_rows(quantised[start : start + 32], scales[start : start + 32], minimums[start : start + 32])
        for start in range(0, 70, 32)
    ]
    for joined, expected in zip(map(np.concatenate, zip(*parts, strict=True)), whole, strict=True):
        assert np.array_equal(joined, expected)


def test_the_levels_of_spread_4_bit_weights_come_back() -> None:
    levels = np.random.default_rng(0).choice(LEVELS, (20, 256))
    matrix = Matrix.from_spread(levels, np.ones((20, 2), np.float16), 200, bits=4)
    assert matrix.values.nbytes == 2 * 16 * 256 // 2
    assert np.array_equal(matrix.quantised()[:20], levels)


def test_padding_is_zero_weights_with_zero_scales() -> None:
    packed = pack_integer_rows(np.full((3, 5), 7, np.int8), np.ones((3, 1), np.float16))
    values = packed.values.reshape(8, 16, 4)
    assert (values[:, 3:] == 128).all()
    assert (values[2:] == 128).all()
    assert (packed.scales[0, 0] == [1] * 3 + [0] * 13).all()


@pytest.mark.parametrize(("columns", "groups", "expected"), [(640, 20, 32), (640, 40, 16), (45, 3, 16), (16, 1, 32)])
def test_group_size_is_the_one_that_fits(columns: int, groups: int, expected: int) -> None:
    assert group_size(columns, groups) == expected


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(ValueError, match="7 scales do not fit 640 inputs"):
        group_size(640, 7)
    with pytest.raises(ValueError, match="4-bit weights need a scale per 32 or 128 inputs, not 16"):
        pack_integer_rows(np.zeros((16, 32), np.int8), np.zeros((16, 2), np.float16), bits=4)
    with pytest.raises(ValueError, match="a weight does not fit 4 bits"):
        Matrix.from_spread(np.full((16, 128), 7, np.int8), np.zeros((16, 1), np.float16), 128, bits=4)
    with pytest.raises(ValueError, match="not float64"):
        pack_float_rows(np.zeros((16, 16)))
    with pytest.raises(ValueError, match="must be int8, not uint8"):
        pack_integer_rows(np.zeros((16, 32), np.uint8), np.zeros((16, 1), np.float16))
    with pytest.raises(ValueError, match="float16 or float32, not float64"):
        pack_integer_rows(np.zeros((16, 32), np.int8), np.zeros((16, 1)))


def test_formats_name_their_stored_types() -> None:
    assert Format.of(np.dtype(ml_dtypes.bfloat16)) is Format.BFLOAT16
    assert Format.BFLOAT16.dtype.itemsize == 2
    with pytest.raises(ValueError, match="not uint8"):
        Format.of(np.dtype(np.uint8))
