"""From outputs to tokens. The formulas are the kernels'; this turns the requests' parameters into their arrays."""

from collections.abc import Mapping
from collections.abc import Sequence as Several
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.contract import Sampling
from gemlora.engines.cpu.batch import Chunk
from gemlora.engines.cpu.interfaces import Output
from gemlora.engines.cpu.sequence import Sequence
from gemlora.kernels import Kernels, SamplingBatch

_NOTHING = np.zeros(0, np.int32)


Drawn = tuple[Chunk, list[int | None] | BaseException]
"""The tokens drawn behind a chunk and each token of its draft, None where logits were not finite; for a probe none.
Or why there are none for this sequence."""


class Sampler:
    """Draws the next token of each sequence."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels

    def draw(
        self, output: Output, complete: Several[Chunk], masks: Mapping[Chunk, Future[NDArray[np.uint32]]]
    ) -> list[Drawn]:
        """The tokens behind the logit rows of the chunks that complete; the logits of probes are kept instead.

        Behind a chunk with masks [1 + len(draft), words], which must be done, only tokens come whose bit is set.
        """
        if output.most_likely is not None:
            tokens = iter(output.most_likely.tolist())
            return [(chunk, [*map(_token, islice(tokens, 1 + len(chunk.draft)))]) for chunk in complete]
        places = [(chunk, length) for chunk in complete for length in range(len(chunk.draft) + 1)]
        drawn: dict[Chunk, list[int | None]] = {chunk: [] for chunk in complete}
        failures = {chunk: error for chunk, future in masks.items() if (error := future.exception()) is not None}
        logits = output.logits()
        for row, (chunk, _) in enumerate(places):
            if (probing := chunk.sequence.probing) is not None:
                probing.keep(logits[row], adapted=chunk.sequence.adapter is not None)
        rows = [
            row for row, (chunk, _) in enumerate(places) if chunk.sequence.probing is None and chunk not in failures
        ]
        tokens = self._sample(
            logits if len(rows) == len(places) else logits[rows], [places[row] for row in rows], masks
        )
        for row, token in zip(rows, tokens.tolist(), strict=True):
            drawn[places[row][0]].append(_token(token))
        return [*(drawn | failures).items()]

    def _sample(
        self,
        logits: NDArray[np.float32],
        places: Several[tuple[Chunk, int]],
        masks: Mapping[Chunk, Future[NDArray[np.uint32]]],
    ) -> NDArray[np.int32]:
        """The tokens [R] behind the chunks and so many tokens of their drafts; the logits [R, V] are overwritten."""
        if not places:
            return _NOTHING
        batch = sampling_batch(
            [chunk.sequence for chunk, _ in places], [chunk.draft[:length] for chunk, length in places]
        )
        if masked := [row for row, (chunk, _) in enumerate(places) if chunk in masks]:
            words = [masks[chunk].result()[length] for chunk, length in places if chunk in masks]
            batch = replace(batch, masks=np.stack(words), mask_rows=np.array(masked, np.int32))
        return self._kernels.sample(logits, batch)


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


def _token(drawn: int) -> int | None:
    """None for what the kernels give where logits are not finite."""
    return drawn if drawn >= 0 else None


def _temperature(sampling: Sampling) -> float:
    return 0 if sampling.greedy else sampling.temperature
