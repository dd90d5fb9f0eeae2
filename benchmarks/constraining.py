"""What holding answers to a schema costs per token: the starter model, constrained beside unconstrained.

python -m benchmarks.constraining [--rounds COUNT] [--tokens COUNT] [--result FILE]

Both take turns on the same engine, at batch 1 and 8, without guesses and with them. The schema cannot end before the
measured tokens are there. A figure is the median time between two tokens while all answers are being written; with
guesses, where several come at once, the time per token of the whole stretch.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from benchmarks.adapter_memory import starter_options
from benchmarks.engine_load import Timing, TokenPrompts, decode_rate, running
from benchmarks.results import Figures
from llguidance import LLMatcher
from msgspec.structs import replace

from benchmarks import results
from gemlora.engines.contract import Constraint, GenerateRequest, Sampling
from gemlora.engines.cpu.client import CpuEngine
from gemlora.engines.cpu.options import CpuOptions

RESULT = results.FOLDER / "constraining.json"
PROMPT = 64
BATCHES = (1, 8)
GUESSES = (0, 8)
ITEMS = 40
"""Least items of the answer: each takes about a dozen tokens."""

SCHEMA = {
    "type": "array",
    "minItems": ITEMS,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 3},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    },
}
MOST_TOKENS = 4000
"""Room for the shortest answer; only the first tokens are read."""

NUMBERS = count()


async def answer(engine: CpuEngine, prompt: tuple[int, ...], tokens: int, constraint: Constraint | None) -> Timing:
    """The moments of the first tokens of an answer, which is then given up."""
    request = GenerateRequest(
        str(next(NUMBERS)), prompt, MOST_TOKENS, Sampling(seed=1, temperature=0), (), constraint=constraint
    )
    begin, moments = time.perf_counter(), list[float]()
    stream = engine.generate(request)
    async for output in stream:
        moments += [time.perf_counter()] * len(output.tokens)
        if len(moments) >= tokens:
            break
    await stream.aclose()
    return Timing(begin, tuple(moments))


async def answers(
    engine: CpuEngine, prompts: Sequence[tuple[int, ...]], tokens: int, constraint: Constraint | None
) -> list[Timing]:
    """Several at the same time."""
    return await asyncio.gather(*(answer(engine, prompt, tokens, constraint) for prompt in prompts))


def token_seconds(timings: Sequence[Timing], guesses: int) -> float:
    """Of one answer among all."""
    if guesses:
        return len(timings) / decode_rate(timings)
    begin = max(timing.tokens[0] for timing in timings)
    gaps = [later - earlier for one in timings for earlier, later in zip(one.tokens, one.tokens[1:], strict=False)
            if earlier >= begin]  # fmt: skip
    return statistics.median(gaps)


async def measure(options: CpuOptions, vocabulary: int, seed: int, tokens: int) -> Figures:
    """One round: milliseconds per token of each kind."""
    kinds = {"plain": None, "constrained": Constraint(LLMatcher.grammar_from_json_schema(SCHEMA))}
    figures: Figures = {}
    for guesses in GUESSES:
        async with running(replace(options, draft_tokens=guesses)) as engine:
            prompts = TokenPrompts(vocabulary, seed)
            begin = time.perf_counter()
            await answer(engine, prompts.draw(PROMPT), 4, kinds["constrained"])
            figures[f"first_answer_seconds_{guesses}"] = time.perf_counter() - begin
            for batch in BATCHES:
                drawn = [prompts.draw(PROMPT) for _ in range(batch)]
                for name, constraint in kinds.items():
                    timings = await answers(engine, drawn, tokens, constraint)
                    figures[f"{name}_{batch}_{guesses}"] = 1000 * token_seconds(timings, guesses)
    return figures


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        options, model = starter_options(Path(name))
        for seed in range(arguments.rounds):
            rounds.append(asyncio.run(measure(options, model.config.vocabulary, seed, arguments.tokens)))
            print(f"round {seed + 1}/{arguments.rounds}", {key: round(value, 2) for key, value in rounds[-1].items()})
    figures = results.medians(rounds)
    for batch in BATCHES:
        for guesses in GUESSES:
            ends = f"{batch}_{guesses}"
            ratio = results.median_ratio(rounds, f"constrained_{ends}", f"plain_{ends}")
            if ratio is not None:
                figures[f"ratio_{ends}"] = ratio
    results.write(arguments.result, figures, rounds, prompt_tokens=PROMPT, measured_tokens=arguments.tokens)


if __name__ == "__main__":
    main()
