import gc
import sys
import weakref

import ml_dtypes
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gemlora.kernels import LoraPair, LoraWeights, Segments, _native
from gemlora.kernels.native import NativeKernels

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


def make_adapter(rng, rank: int, inputs: int, outputs: int, dtype: type = np.float32) -> LoraWeights:
    a = rng.standard_normal((rank, inputs)).astype(dtype)
    b = rng.standard_normal((rank, outputs)).astype(dtype)
    return LoraWeights("digest", {(2, "q_proj"): LoraPair(a, b, 0.5)})


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
            (None if rank is None else make_adapter(rng, rank, inputs, outputs, DTYPES[rank % 3]), rows)
            for rank, rows in runs
        ]
    )
    total = int(segments.ends[-1])
    x, base = rng.standard_normal((total, inputs), np.float32), rng.standard_normal((total, outputs), np.float32)
    out = agree(base.copy, lambda k, out: k.adapt(x, out, segments, 2, "q_proj"), 1e-5)
    starts = [0, *segments.ends[:-1]]
    for adapter, start, end in zip(segments.adapters, starts, segments.ends, strict=True):
        if adapter is None:
            assert out[start:end].tobytes() == base[start:end].tobytes()


def test_a_row_has_the_same_bits_in_any_company(variants: list[NativeKernels]) -> None:
    rng = np.random.default_rng(0)
    adapter, other = make_adapter(rng, 9, 70, 90), make_adapter(rng, 4, 70, 90)
    x, base = rng.standard_normal((50, 70), np.float32), rng.standard_normal((50, 90), np.float32)
    whole = base.copy()
    variants[0].adapt(x, whole, Segments.of([(adapter, 50)]), 2, "q_proj")
    for kernels in variants:
        for start, count in ((0, 1), (49, 1), (13, 2), (17, 33)):
            out = np.concatenate([base[:3], base[start : start + count]])
            inputs = np.concatenate([x[:3], x[start : start + count]])
            kernels.adapt(inputs, out, Segments.of([(other, 3), (adapter, count)]), 2, "q_proj")
            assert out[3:].tobytes() == whole[start : start + count].tobytes()


def test_modules_and_layers_without_a_pair_are_left_alone(native: NativeKernels) -> None:
    rng = np.random.default_rng(1)
    segments = Segments.of([(make_adapter(rng, 4, 20, 30), 5)])
    x, base = rng.standard_normal((5, 20), np.float32), rng.standard_normal((5, 30), np.float32)
    for layer, module in ((1, "q_proj"), (2, "k_proj")):
        out = base.copy()
        native.adapt(x, out, segments, layer, module)
        assert out.tobytes() == base.tobytes()


def test_an_adapter_of_zeros_changes_nothing(native: NativeKernels) -> None:
    rng = np.random.default_rng(2)
    pair = LoraPair(rng.standard_normal((4, 20)).astype(np.float32), np.zeros((4, 30), np.float32), 2.0)
    base = rng.standard_normal((5, 30), np.float32)
    out = base.copy()
    segments = Segments.of([(LoraWeights("zero", {(0, "o_proj"): pair}), 5)])
    native.adapt(rng.standard_normal((5, 20), np.float32), out, segments, 0, "o_proj")
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
    kernels.adapt(np.ones((1, 20), np.float32), np.ones((1, 30), np.float32), segments, 2, "q_proj")
    weights = weakref.ref(adapter.pairs[2, "q_proj"].a)
    del adapter, segments
    gc.collect()
    assert weights() is None
