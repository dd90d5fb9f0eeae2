"""Runs sequences through a runner without an engine, and keeps what came out of every layer."""

from collections.abc import Iterable
from collections.abc import Sequence as Several
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.contract import GenerateRequest, Sampling
from gemlora.engines.cpu.batch import Batch, Chunk
from gemlora.engines.cpu.blocks import blocks_for
from gemlora.engines.cpu.runner import Runner
from gemlora.engines.cpu.sequence import Sequence
from gemlora.kernels import LoraWeights

Array = NDArray[np.float32]

TOLERANCE = 1e-4
"""Of a `relative_errors` to an oracle that computes in float32."""


@dataclass(frozen=True)
class Trace:
    """Of consecutive rows: the embeddings and every layer's output [T, E], and the logits [T, V]."""

    hidden: list[Array]
    logits: Array

    @classmethod
    def join(cls, traces: Several["Trace"]) -> "Trace":
        hidden = [np.concatenate(parts) for parts in zip(*(trace.hidden for trace in traces), strict=True)]
        return cls(hidden, np.concatenate([trace.logits for trace in traces]))

    @property
    def tensors(self) -> dict[str, Array]:
        return {**{f"hidden {index}": array for index, array in enumerate(self.hidden)}, "logits": self.logits}


class Blocks:
    """Gives sequences blocks in random order, none twice."""

    def __init__(self, runner: Runner, seed: int = 0) -> None:
        self._free = list(range(runner.blocks))
        Random(seed).shuffle(self._free)

    def sequence(self, tokens: Iterable[int], adapter: LoraWeights | None = None) -> Sequence:
        tokens = tuple(tokens)
        sequence = Sequence.start(GenerateRequest("", tokens, 1, Sampling(seed=0), ()), 0)
        sequence.adapter = adapter
        sequence.blocks = [self._free.pop() for _ in range(blocks_for(len(tokens)))]
        return sequence


def step(runner: Runner, *chunks: Chunk) -> list[Trace]:
    """Compute one batch, with the logits of all rows. The traces are in the order of the chunks."""
    batch = Batch.of(chunks)
    batch = replace(batch, logit_rows=np.arange(len(batch.tokens), dtype=np.int32))
    hidden: list[Array] = []
    output = runner.forward(batch, observe=lambda _, layer: hidden.append(layer.copy()))
    traces = []
    for chunk in chunks:
        rows = batch.sequence_of_row == batch.chunks.index(chunk)
        traces.append(Trace([layer[rows] for layer in hidden], output.logits()[rows]))
        chunk.sequence.computed += chunk.length
    return traces


def run(
    runner: Runner, tokens: Iterable[int], lengths: Iterable[int] = (), adapter: LoraWeights | None = None
) -> Trace:
    """Compute one sequence in chunks of the given lengths, the rest in one."""
    sequence = Blocks(runner).sequence(tokens, adapter)
    traces = [step(runner, Chunk(sequence, length))[0] for length in lengths]
    if sequence.remaining:
        traces += step(runner, Chunk(sequence, sequence.remaining))
    return Trace.join(traces)


def relative_errors(actual: Trace, expected: Trace) -> dict[str, float]:
    """max|a − b| / max|b| of every tensor."""
    return {
        name: float(np.abs(actual.tensors[name] - tensor).max() / np.abs(tensor).max())
        for name, tensor in expected.tensors.items()
    }


def assert_close(actual: Trace, expected: Trace) -> None:
    errors = relative_errors(actual, expected)
    assert max(errors.values()) <= TOLERANCE, errors


def assert_identical(actual: Trace, expected: Trace) -> None:
    differing = [name for name, tensor in expected.tensors.items() if not np.array_equal(actual.tensors[name], tensor)]
    assert differing == []
