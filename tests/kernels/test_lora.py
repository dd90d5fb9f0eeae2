import gc
import sys
import weakref

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lora_pairs import linear_pair

from gemlora.kernels import EmbeddingPair, LoraPair, LoraWeights, Matrix, Segments, _native
from gemlora.kernels.lora import SCALED_BYTES, from_panels, in_panels, in_scaled_bytes
from gemlora.kernels.native import NativeKernels

FLOATS = [np.float32, np.float16, ml_dtypes.bfloat16]
DTYPES = [*FLOATS, SCALED_BYTES]


def panels_of(factor: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    return in_scaled_bytes(factor) if dtype is SCALED_BYTES else in_panels(factor.astype(dtype))


def make_pair(rng, rank: int, inputs: int, outputs: int, dtype: type = np.float32, dora: bool = False) -> LoraPair:
    a, b = rng.standard_normal((rank, inputs), np.float32), rng.standard_normal((rank, outputs), np.float32)
    output_scale = rng.uniform(0.5, 2, outputs).astype(np.float32) if dora else None
    return LoraPair(panels_of(a, dtype), panels_of(b, dtype), inputs, outputs, 0.5, output_scale)


def make_adapter(
    rng, rank: int, inputs: int, outputs: int, dtype: type = np.float32, dora: bool = False
) -> LoraWeights:
    return LoraWeights("digest", {(2, "q_proj"): make_pair(rng, rank, inputs, outputs, dtype, dora)})


def make_embedding(rng, rank: int, vocabulary: int, width: int, dtype: type, dora: bool) -> LoraWeights:
    a = rng.standard_normal((vocabulary, rank)).astype(ml_dtypes.bfloat16 if dtype is SCALED_BYTES else dtype)
    b = rng.standard_normal((rank, width), np.float32)
    output_scale = rng.uniform(0.5, 2, width).astype(np.float32) if dora else None
    return LoraWeights("digest", {}, embedding=EmbeddingPair(a, panels_of(b, dtype), width, 0.5, output_scale))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("columns", [1, 16, 40])
def test_a_panel_holds_all_ranks_of_16_columns_and_zeros_past_the_last(dtype: type, columns: int) -> None:
    factor = np.arange(1, 3 * columns + 1).reshape(3, columns).astype(dtype)
    panels = in_panels(factor)
    assert (panels.shape, panels.dtype) == ((-(-columns // 16), 3, 16), np.dtype(dtype))
    for panel, rank, lane in np.ndindex(panels.shape):
        column = 16 * panel + lane
        assert panels[panel, rank, lane] == (factor[rank, column] if column < columns else 0)
    assert np.array_equal(from_panels(panels, columns), factor)


def test_scaled_bytes_are_half_a_step_off_at_most_and_keep_what_fits() -> None:
    rng = np.random.default_rng(0)
    factor = (rng.standard_normal((4, 5, 64)) * 10.0 ** rng.uniform(-30, 30, (4, 5, 1))).astype(np.float32)
    factor[0, 0] = 0
    factor[1, 1] = np.arange(64) * 4 - 127
    scaled = in_scaled_bytes(factor.reshape(4, -1)[:, :310])
    assert (scaled.shape, scaled.dtype.itemsize) == ((5, 4), 66)
    found = np.zeros_like(factor)
    found.reshape(4, -1)[:, :310] = from_panels(scaled, 310)
    factor.reshape(4, -1)[:, 310:] = 0
    steps = np.abs(factor).max(axis=2, keepdims=True) / 127
    assert (np.abs(found - factor) <= 0.51 * steps).all()
    assert np.array_equal(found[0, 0], factor[0, 0])
    assert np.array_equal(found[1, 1], factor[1, 1])
    assert not scaled["numbers"][4, :, 310 - 256 :].any()


@pytest.mark.parametrize("size", [1e-45, 1e-38, 3e38])
def test_scaled_bytes_of_the_least_and_the_largest_numbers_are_finite(size: float) -> None:
    factor = np.full((1, 64), size, np.float32)
    factor[0, 0] *= -1
    found = from_panels(in_scaled_bytes(factor), 64)
    assert (np.abs(found - factor) <= max(0.004 * size, 1e-38)).all()


@settings(max_examples=50)
@given(
    inputs=st.integers(1, 150),
    outputs=st.integers(1, 200),
    runs=st.lists(st.tuples(st.none() | st.integers(1, 20), st.integers(1, 40)), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
)
def test_adapt_equals_the_reference_and_has_the_same_bits_in_all_variants(agree, inputs, outputs, runs, seed) -> None:
    rng = np.random.default_rng(seed)
    segments = Segments.of(
        [
            (None if rank is None else make_adapter(rng, rank, inputs, outputs, DTYPES[rank % 4], rank % 3 == 0), rows)
            for rank, rows in runs
        ]
    )
    total = int(segments.ends[-1])
    x, base = rng.standard_normal((total, inputs), np.float32), rng.standard_normal((total, outputs), np.float32)
    out = agree(base.copy, lambda k, out: k.adapt(x, out, segments, 2, (("q_proj", 0),)), 1e-5)
    starts = [0, *segments.ends[:-1]]
    for adapter, start, end in zip(segments.adapters, starts, segments.ends, strict=True):
        if adapter is None:
            assert out[start:end].tobytes() == base[start:end].tobytes()


@settings(max_examples=50)
@given(
    width=st.integers(1, 150),
    runs=st.lists(st.tuples(st.none() | st.integers(1, 20), st.integers(1, 40)), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
)
def test_adapt_embedding_equals_the_reference_and_has_the_same_bits_in_all_variants(agree, width, runs, seed) -> None:
    rng = np.random.default_rng(seed)
    segments = Segments.of(
        [
            (None if rank is None else make_embedding(rng, rank, 30, width, DTYPES[rank % 4], rank % 3 == 0), rows)
            for rank, rows in runs
        ]
    )
    tokens = rng.integers(0, 30, segments.ends[-1]).astype(np.int32)
    base = rng.standard_normal((len(tokens), width), np.float32)
    out = agree(base.copy, lambda k, out: k.adapt_embedding(tokens, 7.5, out, segments), 1e-5)
    for adapter, rows in zip(segments.adapters, np.split(np.arange(len(tokens)), segments.ends[:-1]), strict=True):
        if adapter is None:
            assert out[rows].tobytes() == base[rows].tobytes()


def test_the_head_of_a_large_vocabulary_is_cut_into_pieces(agree, variants: list[NativeKernels]) -> None:
    rng = np.random.default_rng(4)
    vocabulary = 2 * 32768 + 100
    adapters = [LoraWeights(str(i), {}, head=make_pair(rng, 3, 40, vocabulary, dora=i > 0)) for i in range(2)]
    x, base = rng.standard_normal((22, 40), np.float32), rng.standard_normal((22, vocabulary), np.float32)
    segments = Segments.of([(adapters[0], 18), (None, 1), (LoraWeights("no head", {}), 1), (adapters[1], 2)])
    out = agree(base.copy, lambda k, out: k.adapt_head(x, out, segments), 1e-5)
    assert out[18:20].tobytes() == base[18:20].tobytes()
    alone = base[21:].copy()
    variants[-1].adapt_head(x[21:], alone, Segments.of([(adapters[1], 1)]))
    assert alone.tobytes() == out[21:].tobytes()


def test_dora_multiplies_the_base_and_the_change(native: NativeKernels) -> None:
    a, b = np.ones((1, 2), np.float32), np.ones((1, 3), np.float32)
    pair = linear_pair(a, b, 0.5, np.array([1, 2, -1], np.float32))
    out = np.full((1, 3), 10, np.float32)
    native.adapt_head(np.array([[4, 6]], np.float32), out, Segments.of([(LoraWeights("x", {}, head=pair), 1)]))
    assert out.tolist() == [[15, 30, -15]]


def test_segments_of_some_rows() -> None:
    one, two = LoraWeights("one", {}), LoraWeights("two", {})
    segments = Segments.of([(one, 3), (None, 2), (two, 1)])
    some = segments.of_rows(np.array([0, 2, 4, 5], np.int32))
    assert some.adapters == (one, None, two)
    assert some.ends.tolist() == [2, 3, 4]
    assert segments.of_rows(np.zeros(0, np.int32)).adapters == ()


def test_a_row_has_the_same_bits_in_any_company(variants: list[NativeKernels]) -> None:
    rng = np.random.default_rng(0)
    adapter, other = make_adapter(rng, 9, 70, 90, dora=True), make_adapter(rng, 4, 70, 90)
    x, base = rng.standard_normal((50, 70), np.float32), rng.standard_normal((50, 90), np.float32)
    whole = base.copy()
    variants[0].adapt(x, whole, Segments.of([(adapter, 50)]), 2, (("q_proj", 0),))
    for kernels in variants:
        for start, count in ((0, 1), (49, 1), (13, 2), (17, 33)):
            out = np.concatenate([base[:3], base[start : start + count]])
            inputs = np.concatenate([x[:3], x[start : start + count]])
            kernels.adapt(inputs, out, Segments.of([(other, 3), (adapter, count)]), 2, (("q_proj", 0),))
            assert out[3:].tobytes() == whole[start : start + count].tobytes()


def test_modules_and_layers_without_a_pair_are_left_alone(native: NativeKernels) -> None:
    rng = np.random.default_rng(1)
    segments = Segments.of([(make_adapter(rng, 4, 20, 30), 5)])
    x, base = rng.standard_normal((5, 20), np.float32), rng.standard_normal((5, 30), np.float32)
    for layer, module in ((-1, "q_proj"), (1, "q_proj"), (2, "k_proj"), (3, "q_proj")):
        out = base.copy()
        native.adapt(x, out, segments, layer, ((module, 0),))
        assert out.tobytes() == base.tobytes()


def test_an_adapter_of_zeros_changes_nothing(native: NativeKernels) -> None:
    rng = np.random.default_rng(2)
    pair = linear_pair(rng.standard_normal((4, 20)).astype(np.float32), np.zeros((4, 30), np.float32), 2.0)
    base = rng.standard_normal((5, 30), np.float32)
    out = base.copy()
    segments = Segments.of([(LoraWeights("zero", {(0, "o_proj"): pair}), 5)])
    native.adapt(rng.standard_normal((5, 20), np.float32), out, segments, 0, (("o_proj", 0),))
    assert out.tobytes() == base.tobytes()


def test_native_segments_keep_their_adapters() -> None:
    adapter = _native.Adapter()
    adapters = [adapter]
    segments = _native.Segments(adapters, np.ones(1, np.int32))
    adapters.clear()
    kept = sys.getrefcount(adapter)
    del segments
    assert sys.getrefcount(adapter) == kept - 1


def test_kernels_do_not_keep_an_adapter_that_nobody_else_has() -> None:
    kernels = NativeKernels(1)
    rng = np.random.default_rng(3)
    adapter = make_adapter(rng, 4, 20, 30)
    segments = Segments.of([(adapter, 1)])
    kernels.adapt(np.ones((1, 20), np.float32), np.ones((1, 30), np.float32), segments, 2, (("q_proj", 0),))
    weights = weakref.ref(adapter.pairs[2, "q_proj"].a)
    del adapter, segments
    gc.collect()
    assert weights() is None


@settings(max_examples=30)
@given(rows=st.integers(1, 40), columns=st.integers(1, 100), rank=st.integers(1, 9), kind=st.sampled_from([0, 1, 2, 8]))
def test_norms_equal_the_reference_and_have_the_same_bits_in_all_variants(agree, rows, columns, rank, kind) -> None:
    rng = np.random.default_rng(rows * columns)
    weights = rng.standard_normal((rows, columns)).astype(np.float32)
    if kind < len(DTYPES):
        matrix = Matrix.from_floats(weights.astype(DTYPES[kind]))
    else:
        scales = rng.uniform(0.01, 0.02, (rows, -(-columns // 32))).astype(np.float16)
        quantised = rng.integers(-127, 128, (rows, columns)).astype(np.int8)
        matrix = Matrix.from_integers(quantised, scales, scales * 3, quantize_activations=False)
    left, right = rng.standard_normal((rows, rank), np.float32), rng.standard_normal((rank, columns), np.float32)
    agree(lambda: np.empty(rows, np.float32), lambda k, out: k.row_norms(matrix, left, right, out), 1e-6)
    agree(lambda: np.empty(columns, np.float32), lambda k, out: k.column_norms(matrix, left, right, out), 1e-6)


def test_norms_of_many_rows_have_the_same_bits_in_all_variants(agree) -> None:
    rng = np.random.default_rng(5)
    matrix = Matrix.from_floats(rng.standard_normal((5000, 33), np.float32))
    left, right = rng.standard_normal((5000, 4), np.float32), rng.standard_normal((4, 33), np.float32)
    agree(lambda: np.empty(5000, np.float32), lambda k, out: k.row_norms(matrix, left, right, out), 1e-6)
    agree(lambda: np.empty(33, np.float32), lambda k, out: k.column_norms(matrix, left, right, out), 1e-6)


def test_several_modules_change_their_outputs_side_by_side(agree, native: NativeKernels) -> None:
    rng = np.random.default_rng(6)
    pairs = {(0, name): make_pair(rng, 4, 20, size) for name, size in (("q_proj", 30), ("v_proj", 17))}
    segments = Segments.of([(None, 2), (LoraWeights("a", pairs), 5)])
    x, base = rng.standard_normal((7, 20), np.float32), rng.standard_normal((7, 60), np.float32)
    places = (("q_proj", 0), ("k_proj", 30), ("v_proj", 43))
    out = agree(base.copy, lambda k, out: k.adapt(x, out, segments, 0, places), 1e-5)
    assert np.array_equal(out[:, 30:43], base[:, 30:43])
    for name, start, end in (("q_proj", 0, 30), ("v_proj", 43, 60)):
        alone = base[:, start:end].copy()
        native.adapt(x, alone, segments, 0, ((name, 0),))
        assert np.array_equal(out[:, start:end], alone)
    for wrong in ((("q_proj", 1),), (("q_proj", 0), ("v_proj", 61)), (("q_proj", 0), ("v_proj", 29))):
        with pytest.raises(ValueError, match=r"columns|outputs of b"):
            native.adapt(x, base.copy(), segments, 0, wrong)
