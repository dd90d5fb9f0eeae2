"""From logits to tokens. The formulas are the kernels'; this turns the requests' parameters into their arrays."""

from collections.abc import Sequence as Several
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.contract import GREEDY_TEMPERATURE, Sampling
from gemlora.engines.cpu.sequence import Sequence
from gemlora.kernels import Kernels, SamplingBatch

_NOTHING = np.zeros(0, np.int32)


class Sampler:
    """Draws the next token of each sequence."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels

    def sample(
        self,
        logits: NDArray[np.float32],
        sequences: Several[Sequence],
        drafts: Several[Several[int]] = (),
        masks: Several[NDArray[np.uint32] | None] = (),
    ) -> list[int | None]:
        """One token per row of logits [R, V], which are overwritten; None where the logits are not finite.

        A row's token is what comes behind its sequence and, if there are drafts, its draft. Of a row with a mask
        [words] it is one whose bit is set.
        """
        batch = sampling_batch(sequences, drafts)
        if masked := [row for row, mask in enumerate(masks) if mask is not None]:
            words = [mask for mask in masks if mask is not None]
            batch = replace(batch, masks=np.stack(words), mask_rows=np.array(masked, np.int32))
        tokens = self._kernels.sample(logits, batch)
        return [token if token >= 0 else None for token in tokens.tolist()]


def sampling_batch(sequences: Several[Sequence], drafts: Several[Several[int]] = ()) -> SamplingBatch:
    """The parameters and penalty histories of the sequences, in their order, each behind its draft if there are any."""
    drafts = drafts or [()] * len(sequences)
    samplings = [sequence.request.sampling for sequence in sequences]
    histories = [
        None if sequence.history is None else sequence.history.followed_by(draft)
        for sequence, draft in zip(sequences, drafts, strict=True)
    ]
    tokens = [_NOTHING if history is None else history.tokens for history in histories]
    counts = [_NOTHING if history is None else history.counts for history in histories]
    return SamplingBatch(
        temperature=np.array([_temperature(sampling) for sampling in samplings], np.float32),
        top_k=np.array([sampling.top_k or 0 for sampling in samplings], np.int32),
        top_p=np.array([sampling.top_p for sampling in samplings], np.float32),
        seed=np.array([sampling.seed for sampling in samplings], np.uint64),
        index=np.array(
            [sequence.generated + len(draft) for sequence, draft in zip(sequences, drafts, strict=True)], np.uint64
        ),
        repetition_penalty=np.array([sampling.repetition_penalty or 1 for sampling in samplings], np.float32),
        frequency_penalty=np.array([sampling.frequency_penalty for sampling in samplings], np.float32),
        presence_penalty=np.array([sampling.presence_penalty for sampling in samplings], np.float32),
        history_tokens=np.concatenate(tokens),
        history_counts=np.concatenate(counts),
        history_ends=np.cumsum([len(part) for part in tokens], dtype=np.int64),
    )


def _temperature(sampling: Sampling) -> float:
    return 0 if sampling.temperature < GREEDY_TEMPERATURE else sampling.temperature
