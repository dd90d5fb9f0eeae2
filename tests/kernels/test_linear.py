from itertools import product

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemlora.kernels import Kernels, Matrix
from gemlora.kernels.hadamard import spread
from gemlora.kernels.matrix import LEVELS
from gemlora.kernels.native import NativeKernels
from gemlora.kernels.reference import ReferenceKernels, quantise_activations

KINDS = [
    *[("float", dtype) for dtype in (np.float32, np.float16, ml_dtypes.bfloat16)],
    *product(("int8 × float32",), (16, 32), (np.float16, np.float32), (False, True)),
    *product(("spread int8", "spread int4"), (128,), (np.float16, np.float32), (False,)),
    *product(("int4", "int4 × float32"), (32,), (np.float16, np.float32), (False, True)),
]


def make_matrix(rng: np.random.Generator, rows: int, columns: int, kind: tuple) -> Matrix:
    if kind[0] == "float":
        return Matrix.from_floats(rng.standard_normal((rows, columns)).astype(kind[1]))
    name, group, dtype, with_minimums = kind
    if group == 128:
        groups = -(-columns // group)
        numbers, bits = (LEVELS, 4) if name == "spread int4" else (np.arange(-128, 128, dtype=np.int8), 8)
        quantised = rng.choice(numbers, (rows, groups * group))
        return Matrix.from_spread(quantised, rng.random((rows, groups)).astype(dtype), columns, bits=bits)
    bits = 8 if name.startswith("int8") else 4
    lowest = 0 if bits == 4 and with_minimums else -(1 << (bits - 1))
    quantised = rng.integers(lowest, lowest + (1 << bits), (rows, columns), dtype=np.int8)
    scales = rng.random((rows, -(-columns // group))).astype(dtype)
    minimums = (rng.random(scales.shape) * 50).astype(dtype) if with_minimums else None
    return Matrix.from_integers(quantised, scales, minimums, bits=bits, quantize_activations="float32" not in name)


def most_likely(kernels: Kernels, x: np.ndarray, head: Matrix, softcap: float | None = None) -> list[int]:
    tokens = np.full(len(x), -2, np.int32)
    kernels.most_likely(x, head, softcap, tokens)
    return tokens.tolist()


@settings(max_examples=40)
@given(
    rows=st.integers(1, 20) | st.just(70),
    columns=st.integers(1, 150) | st.integers(200, 300),
    outputs=st.lists(st.tuples(st.integers(1, 100), st.sampled_from(KINDS)), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
def test_linear_equals_the_reference_and_has_the_same_bits_in_all_variants(agree, rows, columns, outputs, seed) -> None:
    rng = np.random.default_rng(seed)
    matrices = [make_matrix(rng, size, columns, kind) for size, kind in outputs]
    x = rng.standard_normal((rows, columns), np.float32)
    width = sum(matrix.rows for matrix in matrices)
    agree(lambda: np.empty((rows, width), np.float32), lambda k, out: k.linear(x, matrices, out), 1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_row_has_the_same_bits_in_any_company(variants, kind) -> None:
    rng = np.random.default_rng(1)
    matrix = make_matrix(rng, 100, 96, kind)
    x = rng.standard_normal((70, 96), np.float32)
    whole = np.empty((70, 100), np.float32)
    variants[0].linear(x, [matrix], whole)
    for kernels in variants:
        for start, count in ((0, 1), (69, 1), (3, 2), (20, 5), (7, 13), (1, 69)):
            part = np.empty((count, 100), np.float32)
            kernels.linear(x[start : start + count], [matrix], part)
            assert part.tobytes() == whole[start : start + count].tobytes()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind[0] in ("spread int8", "spread int4", "int4")], ids=str)
def test_long_inputs_that_are_summed_in_turns_give_the_same_bits(variants, kind) -> None:
    rng = np.random.default_rng(2)
    columns = 2 * 8192 + 48
    matrix = make_matrix(rng, 21, columns, kind)
    x = rng.standard_normal((13, columns), np.float32)
    for kernels in variants:
        together, alone = np.empty((13, 21), np.float32), np.empty((13, 21), np.float32)
        kernels.linear(x, [matrix], together)
        for row in range(13):
            kernels.linear(x[row : row + 1], [matrix], alone[row : row + 1])
        assert together.tobytes() == alone.tobytes()


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("rows", [1, 13, 70])
def test_the_most_likely_is_the_first_of_the_largest_outputs(variants, kind, softcap, rows) -> None:
    rng = np.random.default_rng(rows)
    size, half = 1500, 750
    weights = make_matrix(rng, half, 40, kind).dequantised()
    twice = Matrix.from_floats(np.concatenate([weights, weights]).astype(kind[1] if kind[0] == "float" else np.float32))
    x = rng.standard_normal((rows, 40), np.float32)
    for head in (twice, make_matrix(rng, size, 40, kind)):
        for kernels in variants:
            logits = np.empty((rows, size), np.float32)
            kernels.linear(x, [head], logits)
            if softcap:
                kernels.softcap(logits, softcap)
            assert most_likely(kernels, x, head, softcap) == logits.argmax(axis=1).tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("of", ["input", "first output", "last output"])
def test_where_an_output_is_not_finite_nothing_is_most_likely(variants, bad, of) -> None:
    rng = np.random.default_rng(3)
    weights, x = rng.random((1500, 40), np.float32), rng.random((5, 40), np.float32)
    expected = (x @ weights.T).argmax(axis=1)
    if of == "input":
        x[2, 7] = bad
        expected[2] = -1
    else:
        weights[0 if of == "first output" else -1, 7] = bad
        expected[:] = expected if bad == -np.inf else -1
    for kernels in variants:
        assert most_likely(kernels, x, Matrix.from_floats(weights)) == expected.tolist()


def test_float_linear_is_exact_where_arithmetic_is(native: NativeKernels) -> None:
    rng = np.random.default_rng(2)
    weights, x = (rng.integers(-9, 10, shape).astype(np.float32) for shape in ((33, 65), (6, 65)))
    out = np.empty((6, 33), np.float32)
    native.linear(x, [Matrix.from_floats(weights)], out)
    assert np.array_equal(out, x @ weights.T)


def test_extreme_integers_do_not_overflow_or_saturate(variants) -> None:
    # A constant times a row of the transform becomes one number where the row is; all others are as large in x.
    signs = spread(np.eye(128, dtype=np.float32))[77]
    for weight, bits in ((-128, 8), (127, 8), (-127, 4), (127, 4)):
        matrix = Matrix.from_spread(np.full((16, 256), weight, np.int8), np.ones((16, 2), np.float32), 256, bits=bits)
        for sign in (-1, 1):
            x = spread(np.concatenate([signs, signs]).reshape(2, 128) * np.float32(sign * 127)).reshape(1, 256)
            agreeing = spread(np.full((2, 128), sign * 127, np.float32)).reshape(1, 256)
            for kernels in variants:
                out = np.empty((2, 16), np.float32)
                kernels.linear(np.concatenate([x, agreeing]), [matrix], out)
                assert (out[0] == weight * sign * 127 * signs.sum() * 2 * 8).all()
                assert (out[1] == weight * sign * 127 * 256 * 8).all()


def test_strided_inputs_and_outputs_are_used_in_place(native: NativeKernels, reference: ReferenceKernels) -> None:
    rng = np.random.default_rng(3)
    matrix = make_matrix(rng, 40, 48, KINDS[0])
    x = rng.standard_normal((5, 100), np.float32)
    out, expected = np.zeros((5, 90), np.float32), np.zeros((5, 90), np.float32)
    native.linear(x[:, 30:78], [matrix], out[:, 10:50])
    reference.linear(x[:, 30:78], [matrix], expected[:, 10:50])
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    assert not out[:, :10].any()
    assert not out[:, 50:].any()


@pytest.mark.parametrize("quantize", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_row_and_reaches_its_outputs(variants, bad, quantize) -> None:
    rng = np.random.default_rng(4)
    scales = rng.random((20, 3), np.float32) + 1
    plain = Matrix.from_integers(np.full((20, 96), 3, np.int8), scales, bits=4, quantize_activations=quantize)
    spread_matrix = Matrix.from_spread(np.full((20, 128), 3, np.int8), scales[:, :1], 96)
    x = rng.standard_normal((3, 96), np.float32)
    x[1, 50] = bad
    for matrix in (plain, spread_matrix):
        for kernels in variants:
            out = np.empty((3, 20), np.float32)
            kernels.linear(x, [matrix], out)
            assert not np.isfinite(out[1]).any()
            assert np.isfinite(out[[0, 2]]).all()


@pytest.mark.parametrize("kind", [("spread int8", 128, np.float16, False), ("int4", 32, np.float16, False)], ids=str)
def test_quantised_activations_are_within_half_a_step(kind) -> None:
    rng = np.random.default_rng(5)
    matrix = make_matrix(rng, 16, 256, kind)
    x = rng.standard_normal((4, 256), np.float32)
    x[2] = 0
    numbers, scales = quantise_activations(x, matrix)
    met = spread(x.reshape(4, 2, 128)).reshape(4, 256) / np.float32(16) if matrix.is_spread else x
    assert np.abs(numbers).max() == 127
    assert np.abs(numbers * np.repeat(scales, kind[1], axis=1) - met).max() <= scales.max() * 0.501
    assert not numbers[2].any()


@pytest.mark.parametrize("name", ["spread int8", "spread int4"])
def test_spreading_changes_no_product(variants, name: str) -> None:
    rng = np.random.default_rng(7)
    matrix = make_matrix(rng, 40, 300, (name, 128, np.float32, False))
    x = rng.standard_normal((5, 300), np.float32)
    x[:, ::37] *= 30  # large ones among small ones
    exact = x.astype(np.float64) @ matrix.dequantised().astype(np.float64).T
    for kernels in variants:
        out = np.empty((5, 40), np.float32)
        kernels.linear(x, [matrix], out)
        assert np.abs(out - exact).max() < 0.02 * np.abs(exact).max()


def test_no_rows_have_no_most_likely_output(native: NativeKernels) -> None:
    assert most_likely(native, np.empty((0, 3), np.float32), Matrix.from_floats(np.ones((5, 3), np.float32))) == []


def test_no_rows_are_no_work(native: NativeKernels) -> None:
    out = np.empty((0, 16), np.float32)
    native.linear(np.empty((0, 32), np.float32), [make_matrix(np.random.default_rng(6), 16, 32, KINDS[0])], out)
