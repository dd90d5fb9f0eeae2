"""Kernels that change each row by itself."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemlora.kernels import Matrix
from gemlora.kernels.matrix import LEVELS

rows, columns, seeds = st.integers(1, 70), st.integers(1, 700), st.integers(0, 1000)


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@settings(max_examples=30)
@given(rows, columns, seeds)
def test_rms_norm_equals_the_reference(agree, rows, columns, seed) -> None:
    x, weight = numbers(seed, rows, columns) * 7, numbers(seed + 1, columns)
    agree(lambda: np.empty_like(x), lambda k, out: k.rms_norm(x, weight, 1e-6, out), 1e-6)


def test_rms_norm_works_on_heads_and_in_place(agree) -> None:
    wide, weight = numbers(0, 9, 3 * 40 + 7), numbers(1, 40)

    def heads(array: np.ndarray) -> np.ndarray:
        return array[:, 5:-2].reshape(9, 3, 40)

    agree(wide.copy, lambda k, out: k.rms_norm(heads(out), weight, 1e-6, heads(out)), 1e-6)


def test_a_normed_row_has_the_same_bits_in_any_company(variants) -> None:
    x, weight = numbers(2, 60, 645), numbers(3, 645)
    whole = np.empty_like(x)
    variants[0].rms_norm(x, weight, 1e-6, whole)
    for kernels in variants:
        for start, count in ((0, 1), (59, 1), (13, 30)):
            part = np.empty_like(x[:count])
            kernels.rms_norm(x[start : start + count], weight, 1e-6, part)
            assert part.tobytes() == whole[start : start + count].tobytes()


@settings(max_examples=30)
@given(rows, columns, st.booleans(), seeds)
def test_add_branch_equals_the_reference(agree, rows, columns, with_norm, seed) -> None:
    both = numbers(seed, 2, rows, columns)  # the stream and its norm
    branch, norms = numbers(seed + 1, rows, columns), numbers(seed + 2, 2, columns)

    def add(kernels, out) -> None:
        kernels.add_branch(out[0], branch.copy(), norms[0] if with_norm else None, norms[1], 1e-6, out[1])

    out = agree(both.copy, add, 1e-6)
    if not with_norm:
        assert np.array_equal(out[0], both[0] + branch)


@settings(max_examples=30)
@given(rows, st.integers(1, 5), st.integers(1, 3), st.integers(1, 140), st.booleans(), seeds)
def test_rotate_equals_the_reference(agree, rows, heads, kv_heads, half, with_norms, seed) -> None:
    x = numbers(seed, rows, heads + kv_heads, 2 * half)
    cosines, sines, norms = numbers(seed + 1, 90, half), numbers(seed + 2, 90, half), numbers(seed + 3, 2, 2 * half)
    positions = np.random.default_rng(seed).integers(0, 90, rows).astype(np.int32)

    def rotate(kernels, out) -> None:
        query_norm, key_norm = norms if with_norms else (None, None)
        queries, keys = out[:, :heads], out[:, heads:]
        kernels.rotate(queries, query_norm, keys, key_norm, 1e-6, cosines, sines, positions)

    agree(x.copy, rotate, 2e-6)


@settings(max_examples=20)
@given(rows, columns, seeds)
def test_gelu_gate_equals_the_reference(agree, rows, columns, seed) -> None:
    gate_up = numbers(seed, rows, 2 * columns) * 4
    agree(lambda: np.empty((rows, columns), np.float32), lambda k, out: k.gelu_gate(gate_up, out), 1e-6)


def test_gelu_is_accurate_over_its_range(native) -> None:
    x = np.linspace(-12, 12, 20001, dtype=np.float32)[None]
    out = np.empty_like(x)
    native.gelu_gate(np.concatenate([x, np.ones_like(x)], axis=1), out)
    wide = x.astype(np.float64)
    expected = wide / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-30)


@settings(max_examples=20)
@given(rows, columns, st.floats(0.1, 100), seeds)
def test_softcap_equals_the_reference(agree, rows, columns, cap, seed) -> None:
    x = numbers(seed, rows, columns) * 10
    agree(x.copy, lambda k, out: k.softcap(out, cap), 1e-6)


def test_tanh_is_accurate_to_its_last_bits(native) -> None:
    x = np.concatenate([np.linspace(-12, 12, 40001), np.logspace(-30, 1, 1000)]).astype(np.float32)[None]
    out = x.copy()
    native.softcap(out, 1.0)
    np.testing.assert_allclose(out, np.tanh(x.astype(np.float64)), rtol=3e-7)


def test_softcap_keeps_infinities_and_nan_apart(variants) -> None:
    for kernels in variants:
        x = np.array([[np.inf, -np.inf, np.nan, 0]], np.float32)
        kernels.softcap(x, 30.0)
        np.testing.assert_array_equal(x, np.array([[30, -30, np.nan, 0]], np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_embed_scales_the_stored_row_exactly(agree, dtype) -> None:
    weights = numbers(4, 50, 45).astype(dtype)
    weights[3, :4] = 6e-8, -6e-8, 0, 65504  # subnormal and largest of float16
    tokens = np.array([3, 49, 0, 3], np.int32)
    matrix = Matrix.from_floats(weights)
    out = agree(lambda: np.empty((4, 45), np.float32), lambda k, out: k.embed(matrix, tokens, 25.25, out), 0)
    assert np.array_equal(out, weights[tokens].astype(np.float32) * np.float32(25.25))


@pytest.mark.parametrize("group", [16, 32])
@pytest.mark.parametrize("with_minimums", [True, False])
def test_embed_dequantises_exactly(agree, group, with_minimums) -> None:
    rng = np.random.default_rng(5)
    scales = rng.random((50, -(-45 // group)), np.float32)
    matrix = Matrix.from_integers(
        rng.integers(-128, 128, (50, 45), dtype=np.int8),
        scales,
        scales * 3 if with_minimums else None,
        quantize_activations=False,
    )
    tokens = rng.integers(0, 50, 40).astype(np.int32)
    out = agree(lambda: np.empty((40, 45), np.float32), lambda k, out: k.embed(matrix, tokens, 1.5, out), 0)
    assert np.array_equal(out, matrix.dequantised()[tokens] * np.float32(1.5))


@pytest.mark.parametrize("columns", [45, 128, 300])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("bits", "numbers"), [(8, np.arange(-127, 128, dtype=np.int8)), (4, LEVELS)])
def test_embed_takes_spread_rows_together_again(agree, columns, dtype, bits, numbers) -> None:
    rng = np.random.default_rng(6)
    groups = -(-columns // 128)
    quantised = rng.choice(numbers, (50, groups * 128))
    matrix = Matrix.from_spread(quantised, rng.random((50, groups)).astype(dtype), columns, bits=bits)
    tokens = rng.integers(0, 50, 40).astype(np.int32)
    out = agree(lambda: np.empty((40, columns), np.float32), lambda k, out: k.embed(matrix, tokens, 1.5, out), 0)
    assert np.array_equal(out, matrix.dequantised()[tokens] * np.float32(1.5))
