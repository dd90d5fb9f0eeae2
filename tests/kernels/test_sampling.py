from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemlora.kernels import SamplingBatch
from gemlora.kernels.native import NativeKernels
from gemlora.kernels.reference_sampling import random_bits


def make_batch(rows: int, **given_arrays) -> SamplingBatch:
    """Plain sampling at temperature 1 without history, with the given arrays instead."""
    plain = SamplingBatch(
        temperature=np.ones(rows, np.float32),
        top_k=np.zeros(rows, np.int32),
        top_p=np.ones(rows, np.float32),
        seed=np.zeros(rows, np.uint64),
        index=np.arange(rows, dtype=np.uint64),
        repetition_penalty=np.zeros(rows, np.float32),
        frequency_penalty=np.zeros(rows, np.float32),
        presence_penalty=np.zeros(rows, np.float32),
        history_tokens=np.zeros(0, np.int32),
        history_counts=np.zeros(0, np.int32),
        history_ends=np.zeros(rows, np.int64),
    )
    arrays = {
        name: np.full(rows, value, getattr(plain, name).dtype) if np.isscalar(value) else value
        for name, value in given_arrays.items()
    }
    return replace(plain, **arrays)


def draw_many(kernels: NativeKernels, logits: np.ndarray, draws: int, **parameters) -> np.ndarray:
    """How often each token is drawn from the same logits."""
    rows = np.repeat(logits[None].astype(np.float32), draws, axis=0)
    return np.bincount(kernels.sample(rows, make_batch(draws, **parameters)), minlength=len(logits))


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Normalised so that 0 ± 1 is expected: (χ² − degrees) / sqrt(2 · degrees)."""
    expected = probabilities * counts.sum()
    assert not counts[probabilities == 0].any()
    drawn = probabilities > 0
    statistic = float((((counts - expected) ** 2)[drawn] / expected[drawn]).sum())
    degrees = int(drawn.sum()) - 1
    return (statistic - degrees) / np.sqrt(2 * degrees)


def softmax(logits: np.ndarray, temperature: float = 1) -> np.ndarray:
    weights = np.exp((logits - logits.max()) / temperature)
    return weights / weights.sum()


@settings(max_examples=60)
@given(
    rows=st.integers(1, 5),
    vocabulary=st.integers(1, 300),
    temperature=st.sampled_from([0, 0.01, 0.6, 1, 5]),
    top_k=st.sampled_from([0, 1, 2, 7, 50]),
    top_p=st.sampled_from([0, 0.1, 0.5, 0.9, 1, 2]),
    ties=st.booleans(),
    seed=st.integers(0, 10000),
)
def test_native_tokens_are_the_reference_tokens(
    variants, reference, rows, vocabulary, temperature, top_k, top_p, ties, seed
) -> None:
    rng = np.random.default_rng(seed)
    # Whole numbers make many ties; their exponentials are no sums' edge cases, as rounding differs in the last bit.
    logits = (rng.integers(-3, 4, (rows, vocabulary)) if ties else rng.standard_normal((rows, vocabulary)) * 3).astype(
        np.float32
    )
    entries = rng.integers(0, 6, rows)
    batch = make_batch(
        rows,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=rng.integers(0, 9_999_999_999, rows).astype(np.uint64),
        repetition_penalty=rng.choice([0, 1, 1.5], rows).astype(np.float32),
        frequency_penalty=rng.choice([0, 0.5, -1], rows).astype(np.float32),
        presence_penalty=rng.choice([0, 2, -0.3], rows).astype(np.float32),
        history_tokens=np.concatenate(
            [rng.permutation(vocabulary)[:count] for count in np.minimum(entries, vocabulary)]
        ).astype(np.int32),
        history_counts=rng.integers(0, 4, int(np.minimum(entries, vocabulary).sum())).astype(np.int32),
        history_ends=np.cumsum(np.minimum(entries, vocabulary)).astype(np.int64),
    )
    expected = reference.sample(logits.copy(), batch)
    for kernels in variants:
        assert kernels.sample(logits.copy(), batch).tolist() == expected.tolist()


def test_draws_follow_the_softmax(native: NativeKernels) -> None:
    logits = np.random.default_rng(0).standard_normal(40)
    for temperature in (0.5, 1, 3):
        counts = draw_many(native, logits, 20000, temperature=temperature, seed=7)
        assert abs(chi_square(counts, softmax(logits, temperature))) < 4


def test_draws_follow_the_softmax_over_the_seeds(native: NativeKernels) -> None:
    logits = np.random.default_rng(1).standard_normal(30)
    counts = draw_many(native, logits, 20000, seed=np.arange(20000, dtype=np.uint64), index=0)
    assert abs(chi_square(counts, softmax(logits))) < 4


def test_top_k_draws_from_the_k_largest_in_their_proportion(native: NativeKernels) -> None:
    logits = np.random.default_rng(2).standard_normal(60)
    probabilities = softmax(logits)
    probabilities[np.argsort(-logits)[10:]] = 0
    counts = draw_many(native, logits, 20000, top_k=10)
    assert abs(chi_square(counts, probabilities / probabilities.sum())) < 4


def test_top_p_draws_from_the_shortest_run_of_likely_tokens(native: NativeKernels) -> None:
    logits = np.log(np.array([0.05, 0.4, 0.05, 0.3, 0.2]))
    for top_p, kept in ((0, [1]), (0.39, [1]), (0.41, [1, 3]), (0.69, [1, 3]), (0.8, [1, 3, 4]), (0.92, [0, 1, 3, 4])):
        probabilities = np.zeros(5)
        probabilities[kept] = np.exp(logits[kept])
        counts = draw_many(native, logits, 5000, top_p=top_p)
        if len(kept) == 1:
            assert counts[kept[0]] == 5000
        else:
            assert abs(chi_square(counts, probabilities / probabilities.sum())) < 4


def test_equal_logits_rank_by_index(native: NativeKernels) -> None:
    logits = np.zeros(64)
    assert np.flatnonzero(draw_many(native, logits, 500, top_k=3)).tolist() == [0, 1, 2]
    assert np.flatnonzero(draw_many(native, logits, 500, top_p=0.0625)).tolist() == [0, 1, 2, 3]
    assert draw_many(native, logits, 5, temperature=0)[0] == 5


@pytest.mark.parametrize("vocabulary", [1, 15, 16, 17, 262144])
def test_greedy_takes_the_first_of_the_largest(variants, vocabulary) -> None:
    logits = np.full((1, vocabulary), -3, np.float32)
    logits[0, [vocabulary // 2, -1]] = 4
    for kernels in variants:
        assert kernels.sample(logits.copy(), make_batch(1, temperature=0)).tolist() == [vocabulary // 2]


@pytest.mark.parametrize("position", [0, 16, 36])
@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_without_finite_logits_give_no_token(variants, position, temperature, bad) -> None:
    logits = np.zeros((4, 37), np.float32)
    logits[1, position] = bad
    logits[2] = -np.inf
    logits[3, : position + 1] = -np.inf
    for kernels in variants:
        tokens = kernels.sample(logits.copy(), make_batch(4, temperature=temperature))
        assert tokens[0] >= 0
        assert tokens[1:3].tolist() == [-1, -1]
        assert (tokens[3] > position) == (position < 36)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_no_part_of_a_large_vocabulary_is_overlooked(variants, bad) -> None:
    for kernels in variants:
        for position in (0, 5000, 9999):
            logits = np.full((2, 10_000), -np.inf, np.float32)
            logits[:, position] = bad, -7
            logits[0, [1, 4096, 9998]] = 3
            assert kernels.sample(logits, make_batch(2, temperature=0)).tolist() == [-1, position]


def test_masked_tokens_are_never_drawn(native: NativeKernels) -> None:
    logits = np.full(50, -np.inf)
    logits[[7, 30]] = 0
    for parameters in ({}, {"top_k": 5}, {"top_p": 0.99}, {"temperature": 5}):
        counts = draw_many(native, logits, 300, **parameters)
        assert counts[7] + counts[30] == 300


def test_penalties_follow_their_formulas(native: NativeKernels) -> None:
    logits = np.array([[2.0, -2.0, 1.0, 0.5, 1.8]], np.float32)
    batch = make_batch(
        1,
        temperature=0,
        repetition_penalty=2,
        frequency_penalty=0.25,
        presence_penalty=0.5,
        history_tokens=np.array([0, 1, 2], np.int32),
        history_counts=np.array([0, 2, 1], np.int32),
        history_ends=np.array([3], np.int64),
    )
    penalised = logits.copy()
    assert native.sample(penalised, batch).tolist() == [4]
    np.testing.assert_allclose(penalised[0], [1.0, -5.0, -0.25, 0.5, 1.8])


def test_the_same_seed_and_index_give_the_same_token_in_any_row(variants) -> None:
    logits = np.random.default_rng(3).standard_normal((6, 5000)).astype(np.float32)
    seeds, indices = np.arange(6, dtype=np.uint64) * 99991, np.arange(6, dtype=np.uint64)
    batch = make_batch(6, seed=seeds, index=indices, top_p=0.95)
    together = variants[0].sample(logits.copy(), batch)
    for kernels in variants:
        for row in range(6):
            alone = make_batch(1, seed=seeds[row : row + 1], index=indices[row : row + 1], top_p=0.95)
            assert kernels.sample(logits[row : row + 1].copy(), alone)[0] == together[row]


def test_arrays_that_a_batch_makes_when_asked_live_until_the_draw(native: NativeKernels) -> None:
    logits = np.random.default_rng(4).standard_normal((300, 50)).astype(np.float32)
    batch = make_batch(300, temperature=0.5, top_p=0.9, frequency_penalty=3)

    class Copies:
        def __getattr__(self, name: str) -> np.ndarray:
            return getattr(batch, name).copy()

    assert native.sample(logits.copy(), Copies()).tolist() == native.sample(logits.copy(), batch).tolist()


def test_random_bits_are_philox() -> None:
    """The known answers that the authors publish with Random123 for a zero key, and our own for a seed."""
    assert random_bits(0, 0) == 0x6627E8D5_E169C58D
    assert random_bits(9_999_999_999, 3) != random_bits(9_999_999_999, 4)


def test_a_large_vocabulary_is_drawn_evenly(native: NativeKernels) -> None:
    logits = np.zeros((8, 262144), np.float32)
    counts = np.zeros(16)
    for seed in range(50):
        tokens = native.sample(logits, make_batch(8, seed=seed))
        logits[:] = 0
        counts += np.bincount(tokens // 16384, minlength=16)
    assert abs(chi_square(counts, np.full(16, 1 / 16))) < 4


def test_top_p_cuts_a_large_vocabulary_at_the_right_place(native: NativeKernels) -> None:
    logits = np.zeros((8, 262144), np.float32)
    tokens = native.sample(logits, make_batch(8, top_p=0.03125))
    assert tokens.max() < 8192
    assert tokens.max() > 4096


@settings(max_examples=60)
@given(
    rows=st.integers(1, 5),
    vocabulary=st.sampled_from([1, 31, 32, 33, 300]),
    share=st.sampled_from([0.02, 0.1, 0.5, 0.99]),
    temperature=st.sampled_from([0, 0.6, 5]),
    top_k=st.sampled_from([0, 1, 7, 50]),
    top_p=st.sampled_from([0, 0.5, 0.9, 1]),
    seed=st.integers(0, 10000),
)
def test_native_tokens_behind_masks_are_the_reference_tokens_and_allowed(
    variants, reference, rows, vocabulary, share, temperature, top_k, top_p, seed
) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((rows, vocabulary)) * 3).astype(np.float32)
    masked = np.flatnonzero(rng.random(rows) < 0.7).astype(np.int32)
    allowed = rng.random((len(masked), vocabulary)) < share
    logits[masked] = np.where(~allowed & (rng.random(allowed.shape) < 0.1), np.nan, logits[masked])
    bits = np.packbits(np.pad(allowed, ((0, 0), (0, -vocabulary % 32)), constant_values=True), 1, "little")
    batch = make_batch(
        rows,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=1.5,
        history_tokens=np.zeros(rows, np.int32),
        history_counts=np.ones(rows, np.int32),
        history_ends=np.arange(1, rows + 1),
        masks=bits.view(np.uint32),
        mask_rows=masked,
    )
    expected = reference.sample(logits.copy(), batch).tolist()
    for row, mask in zip(masked, allowed, strict=True):
        assert mask[expected[row]] if mask.any() else expected[row] == -1
    for kernels in variants:
        assert kernels.sample(logits.copy(), batch).tolist() == expected
