import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemlora.kernels.cache import cached_numbers
from gemlora.kernels.native import NativeKernels

TOLERANCE = {np.float32: 2e-6, np.uint8: 0.02}
"""Relative to the largest output; beside whole numbers the reference's softmax weights are floats."""


class Scene:
    """Sequences of random lengths in a paged cache whose unused places hold NaN."""

    def __init__(self, reference, seed: int, heads: int, kv_heads: int, size: int, block_size: int, dtype, lengths):
        rng = np.random.default_rng(seed)
        widest = max(-(-length // block_size) for length in lengths)
        blocks = rng.permutation(widest * len(lengths)).astype(np.int32)
        self.tables = blocks.reshape(len(lengths), widest)
        self.sequence_of_row = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        self.positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
        rows = len(self.positions)
        self.keys = rng.standard_normal((rows, kv_heads, size), np.float32)
        self.values = rng.standard_normal((rows, kv_heads, size), np.float32)
        self.queries = rng.standard_normal((rows, heads, size), np.float32)
        layers = np.empty((len(blocks), 3, 2, kv_heads, block_size, cached_numbers(size, dtype)), dtype)
        layers.view(np.uint8)[:] = 0xFF  # NaN, where a float lies
        self.cache = layers[:, 1]
        reference.store_kv(self.keys, self.values, self.cache, self.tables, self.sequence_of_row, self.positions)

    def attend(self, kernels, out, rows=slice(None), window=None, softcap=None) -> None:
        kernels.attend(
            self.queries[rows], self.cache, self.tables, self.sequence_of_row[rows], self.positions[rows],
            self.queries.shape[2] ** -0.5, window, softcap, out,
        )  # fmt: skip


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    kv_heads=st.integers(1, 2),
    group=st.sampled_from([1, 2, 4, 7, 33]),
    size=st.sampled_from([8, 16, 24, 80]),
    block_size=st.sampled_from([16, 32, 48]),
    dtype=st.sampled_from([np.float32, np.uint8]),
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=2),
    window=st.none() | st.integers(1, 60),
    softcap=st.none() | st.floats(0.5, 50),
)
def test_attention_equals_the_reference_and_has_the_same_bits_in_all_variants(
    agree, reference, seed, kv_heads, group, size, block_size, dtype, lengths, window, softcap
) -> None:
    scene = Scene(reference, seed, kv_heads * group, kv_heads, size, block_size, dtype, lengths)
    agree(
        lambda: np.empty_like(scene.queries),
        lambda kernels, out: scene.attend(kernels, out, window=window, softcap=softcap),
        TOLERANCE[dtype],
    )


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("window", [None, 1, 33, 100])
def test_a_row_has_the_same_bits_in_any_chunk(reference, variants: list[NativeKernels], window, dtype) -> None:
    scene = Scene(reference, 0, 4, 1, 32, 16, dtype, [300, 20])
    whole = np.empty_like(scene.queries)
    scene.attend(variants[0], whole, window=window)
    for kernels in variants:
        for start, count in ((0, 1), (149, 1), (31, 2), (40, 70), (140, 30), (299, 1), (319, 1)):
            part = np.empty_like(scene.queries[start : start + count])
            scene.attend(kernels, part, slice(start, start + count), window)
            assert part.tobytes() == whole[start : start + count].tobytes()


def test_rows_in_any_order_give_the_same_bits(reference, native: NativeKernels) -> None:
    scene = Scene(reference, 1, 4, 2, 16, 16, np.float32, [40, 33])
    whole = np.empty_like(scene.queries)
    scene.attend(native, whole)
    order = np.random.default_rng(2).permutation(len(whole))
    shuffled = np.empty_like(whole)
    scene.attend(native, shuffled, order)
    assert shuffled.tobytes() == whole[order].tobytes()


def test_the_first_row_returns_its_own_value(reference, native: NativeKernels) -> None:
    scene = Scene(reference, 3, 4, 2, 24, 16, np.float32, [1])
    out = np.empty_like(scene.queries)
    scene.attend(native, out)
    assert np.array_equal(out[0], np.repeat(scene.values[0], 2, axis=0))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-4), (np.uint8, TOLERANCE[np.uint8])])
def test_large_scores_do_not_overflow(agree, reference, dtype, tolerance) -> None:
    scene = Scene(reference, 4, 2, 1, 16, 16, dtype, [50])
    scene.queries *= 1000
    out = agree(lambda: np.empty_like(scene.queries), lambda kernels, out: scene.attend(kernels, out), tolerance)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("what", ["keys", "values"])
def test_a_number_that_is_not_finite_reaches_the_rows_that_see_it_and_no_other(reference, variants, what) -> None:
    scene = Scene(reference, 6, 4, 1, 32, 16, np.uint8, [40, 40])
    bad = getattr(scene, what)
    bad[30, 0, 3] = np.nan
    reference.store_kv(scene.keys, scene.values, scene.cache, scene.tables, scene.sequence_of_row, scene.positions)
    for kernels in variants:
        out = np.empty_like(scene.queries)
        scene.attend(kernels, out)
        finite = np.isfinite(out).all(axis=(1, 2))
        assert finite.tolist() == [not 30 <= row < 40 for row in range(80)]


def test_whole_numbers_hold_keys_with_one_large_coordinate(reference, native: NativeKernels) -> None:
    scenes = [Scene(reference, 7, 4, 1, 256, 32, dtype, [200]) for dtype in (np.float32, np.uint8)]
    outputs = []
    for scene in scenes:
        scene.keys[:, :, 5] *= 30
        scene.queries[:, :, 5] /= 30
        native.store_kv(scene.keys, scene.values, scene.cache, scene.tables, scene.sequence_of_row, scene.positions)
        outputs.append(np.empty_like(scene.queries))
        scene.attend(native, outputs[-1])
    exact, whole = outputs
    assert np.sqrt(np.mean((whole - exact) ** 2) / np.mean(exact**2)) < 0.03


@pytest.mark.parametrize("size", [20, 32, 80])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_stored_keys_and_values_are_the_reference_s_bytes(agree, dtype, size) -> None:
    rng = np.random.default_rng(5)
    keys, values = (rng.standard_normal((37, 2, size), np.float32) * 1e4 for _ in range(2))
    keys[4], values[5] = 0, 1e-38
    tables = np.array([[2, 0], [1, 3]], np.int32)
    sequences = np.repeat(np.array([0, 1], np.int32), [20, 17])
    positions = np.concatenate([np.arange(20), np.arange(10, 27)]).astype(np.int32)
    agree(
        lambda: np.zeros((4, 3, 2, 2, 16, cached_numbers(size, dtype)), dtype),
        lambda kernels, layers: kernels.store_kv(keys, values, layers[:, 1], tables, sequences, positions),
        0,
    )
