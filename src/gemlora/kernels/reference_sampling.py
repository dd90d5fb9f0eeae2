"""The sampler of one row in plain NumPy; `docs/sampling.md` has the formulas."""

import numpy as np
from numpy.typing import NDArray

from gemlora.kernels.interface import Float32
from gemlora.kernels.sampling import SamplingBatch

WEIGHT_BITS = 40
"""Weights are whole numbers of 2^-40 of the most likely token's, so that sums are exact in any order."""


def sample_row(logits: Float32, batch: SamplingBatch, row: int) -> int:
    """Draw the token of one row of logits [V], which the penalties change in place; −1 without finite logits."""
    penalise(logits, batch, row)
    hide(logits, batch, row)
    largest = logits.max()
    if not np.isfinite(largest):
        return -1
    temperature = batch.temperature[row]
    if temperature == 0:
        return int(logits.argmax())
    with np.errstate(over="ignore"):
        likelihoods = np.exp((logits - largest) / temperature)
    weights = np.floor(likelihoods.astype(np.float64) * (1 << WEIGHT_BITS)).astype(np.uint64)
    if 0 < batch.top_k[row] < len(logits):
        ranked = np.argsort(-logits, kind="stable")
        weights[ranked[batch.top_k[row] :]] = 0
    if batch.top_p[row] < 1:
        keep_nucleus(likelihoods, weights, float(batch.top_p[row]))
    sums = np.cumsum(weights)
    target = (random_bits(int(batch.seed[row]), int(batch.index[row])) * int(sums[-1])) >> 64
    return int(np.searchsorted(sums, target, side="right"))


def penalise(logits: Float32, batch: SamplingBatch, row: int) -> None:
    """Apply the penalties of a row to its logits [V] in place."""
    start = int(batch.history_ends[row - 1]) if row else 0
    end = int(batch.history_ends[row])
    tokens, counts = batch.history_tokens[start:end], batch.history_counts[start:end]
    seen = logits[tokens]
    repetition = batch.repetition_penalty[row]
    if repetition not in (0, 1):
        seen = np.where(seen > 0, seen / repetition, seen * repetition)
    seen = seen - batch.frequency_penalty[row] * counts.astype(np.float32)
    logits[tokens] = seen - np.where(counts > 0, batch.presence_penalty[row], np.float32(0))


def hide(logits: Float32, batch: SamplingBatch, row: int) -> None:
    """Give the logits [V] that the row's mask excludes, if it has one, the value −∞."""
    for mask in batch.masks[batch.mask_rows == row]:
        allowed = np.unpackbits(mask.astype("<u4").view(np.uint8), bitorder="little")[: len(logits)]
        logits[allowed == 0] = -np.inf


def keep_nucleus(likelihoods: Float32, weights: NDArray[np.uint64], top_p: float) -> None:
    """Set to 0 the weights [V] past the shortest run of most likely tokens that has `top_p` of the sum."""
    total = int(weights.sum())
    needed = min(max(int(np.ceil(top_p * total)), 1), total)
    ranked = np.argsort(-np.where(weights > 0, likelihoods, np.float32(0)), kind="stable")
    kept = int(np.searchsorted(np.cumsum(weights[ranked]), needed)) + 1
    weights[ranked[kept:]] = 0


def random_bits(seed: int, index: int) -> int:
    """64 random bits: Philox4x32-10 (Salmon et al., SC 2011) with the seed as key and the index as counter."""
    low, high = 0xFFFFFFFF, 32
    counter = [index & low, index >> high, 0, 0]
    key = [seed & low, seed >> high]
    for _ in range(10):
        first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            (second >> high) ^ counter[1] ^ key[0],
            second & low,
            (first >> high) ^ counter[3] ^ key[1],
            first & low,
        ]
        key = [(key[0] + 0x9E3779B9) & low, (key[1] + 0xBB67AE85) & low]
    return counter[0] << high | counter[1]
