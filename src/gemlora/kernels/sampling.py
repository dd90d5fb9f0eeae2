"""The sampling parameters of a batch as arrays, one entry per row of logits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """Letters: R rows; E all history entries.

    The formulas and their order are in `docs/sampling.md`: penalties, temperature, top-k, top-p, draw.
    The history of row r is entries `history_ends[r − 1]` … `history_ends[r]`: each different token of prompt and
    output once, with the number of times that it occurs in the output (0 if only in the prompt). Rows without
    penalties have no entries.
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
