"""Load on an engine without a server: token ids in, token ids out, and what that took."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

import numpy as np

from gemlora.engines.contract import AdapterRef, GenerateRequest, Sampling
from gemlora.engines.cpu.client import WORKER, CpuEngine
from gemlora.engines.cpu.options import CpuOptions

LEAST_TOKEN = 1000
"""Ids from here on are ordinary text."""


class TokenPrompts:
    """Draws prompts of random token ids; no two begin alike."""

    def __init__(self, vocabulary: int, seed: int) -> None:
        self._vocabulary = vocabulary
        self._random = np.random.default_rng(seed)

    def draw(self, tokens: int) -> tuple[int, ...]:
        """A prompt of so many tokens."""
        return tuple(self._random.integers(LEAST_TOKEN, self._vocabulary, tokens).tolist())


@dataclass(frozen=True)
class Work:
    """A prompt, how many tokens shall follow, and the adapter."""

    prompt: tuple[int, ...]
    tokens: int
    adapter: AdapterRef | None = None


@dataclass(frozen=True)
class Timing:
    """Moments in seconds: the request, and each of its tokens."""

    begin: float
    tokens: tuple[float, ...]


@asynccontextmanager
async def running(options: CpuOptions, command: Sequence[str] = WORKER) -> AsyncIterator[CpuEngine]:
    """An engine in its own process, which the command starts. Fails if that process had to be replaced."""
    engine = CpuEngine(options, command)
    await engine.start()
    try:
        yield engine
        if engine.stats().restarts:
            raise RuntimeError("the engine's process died")
    finally:
        await engine.close()


async def perform(engine: CpuEngine, clients: Sequence[Sequence[Work]]) -> list[Timing]:
    """All work, the clients at the same time, each one piece after the other. Nothing ends an answer early."""
    numbers = count()

    async def one(work: Work) -> Timing:
        request = GenerateRequest(
            str(next(numbers)), work.prompt, work.tokens, Sampling(seed=1, temperature=0), (), work.adapter
        )
        begin, moments = time.perf_counter(), []
        async for output in engine.generate(request):
            moments += [time.perf_counter()] * len(output.tokens)
        return Timing(begin, tuple(moments))

    async def all_of(works: Sequence[Work]) -> list[Timing]:
        return [await one(work) for work in works]

    lists = await asyncio.gather(*map(all_of, clients))
    return [timing for timings in lists for timing in timings]


def first_token(timings: Sequence[Timing]) -> float:
    """Seconds to the first token, median."""
    return statistics.median(timing.tokens[0] - timing.begin for timing in timings)


def rate(timings: Sequence[Timing]) -> float:
    """Tokens a second over the whole time, prompts included."""
    tokens = sum(len(timing.tokens) for timing in timings)
    return tokens / (max(timing.tokens[-1] for timing in timings) - min(timing.begin for timing in timings))


def decode_rate(timings: Sequence[Timing]) -> float:
    """Tokens a second while all sequences decode: between the last first token and the first last token.

    The sum of the sequences' own rates. The tokens of a step come one after the other, so that to count all between two
    moments would lose most of a step.
    """
    begin = max(timing.tokens[0] for timing in timings)
    end = min(timing.tokens[-1] for timing in timings)
    whole = 0.0
    for timing in timings:
        first, *later = (moment for moment in timing.tokens if begin <= moment <= end)
        whole += sum(moment > first for moment in later) / (later[-1] - first)
    return whole
