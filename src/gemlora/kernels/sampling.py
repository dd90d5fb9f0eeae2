"""The sampling parameters of a batch as arrays, one entry per row of logits, and what needs none of them."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

NO_MASKS = np.zeros((0, 0), np.uint32)
NO_ROWS = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """Letters: R rows; E all history entries; M rows with a mask; W words of 32 tokens.

    The formulas and their order are in `docs/sampling.md`: penalties, mask, temperature, top-k, top-p, draw.
    The history of row r is entries `history_ends[r − 1]` … `history_ends[r]`: each different token of prompt and
    output once, with the number of times that it occurs in the output (0 if only in the prompt). Rows without
    penalties have no entries. A mask has a bit for each token that may be drawn, the lowest bit of a word first.
    """

    temperature: NDArray[np.float32]  # [R], 0 is greedy
    top_k: NDArray[np.int32]  # [R], 0 is off
    top_p: NDArray[np.float32]  # [R], >= 1 is off; 0 keeps the most likely token
    seed: NDArray[np.uint64]  # [R]
    index: NDArray[np.uint64]  # [R], the output token's index: the counter of the random number
    repetition_penalty: NDArray[np.float32]  # [R], 1 is off
    frequency_penalty: NDArray[np.float32]  # [R]
    presence_penalty: NDArray[np.float32]  # [R]
    history_tokens: NDArray[np.int32]  # [E]
    history_counts: NDArray[np.int32]  # [E]
    history_ends: NDArray[np.int64]  # [R]
    masks: NDArray[np.uint32] = field(default_factory=lambda: NO_MASKS)  # [M, W]
    mask_rows: NDArray[np.int32] = field(default_factory=lambda: NO_ROWS)  # [M], whose they are, ascending


def most_likely_of(logits: NDArray[np.float32]) -> NDArray[np.int32]:
    """What a greedy `Kernels.sample` without penalties or masks draws for rows of logits [R, V]."""
    return np.where(np.isfinite(logits.max(axis=1)), logits.argmax(axis=1), -1).astype(np.int32)
