"""The server under requests that come when they come (open loop, Poisson), and what long prompts do to a short one.

python -m benchmarks.online [--rounds COUNT] [--rates RATE …] [--seconds SECONDS] [--result FILE]

Each request names one of sixteen adapters, uniformly. For the second part eight prompts of 2,000 tokens arrive at once,
and short prompts while those are prefilled; the same short prompts arrive at an idle server before.
"""

import argparse
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
from benchmarks.client import Answer, Call
from benchmarks.load import Closed, Open, poisson, quantile, run, summary
from benchmarks.machine import Machine
from benchmarks.peers.gemlora import Gemlora, call
from benchmarks.peers.peer import HttpServed, Question
from benchmarks.prompts import Prompts
from benchmarks.results import Figures
from benchmarks.starter import starter_model

from benchmarks import results
from gemlora.serving.tokenizer import Tokenizer

RESULT = results.FOLDER / "online.json"
ADAPTERS, RANK = 16, 8
PROMPT, TOKENS = 128, 64
LONG_PROMPTS, LONG = 8, 2000
SHORT, SHORT_PROMPTS = 16, 20
PATIENCE = 600.0


def under_rate(served: HttpServed, prompts: Prompts, rate: float, seconds: float, seed: int) -> Figures:
    """What so many requests a second meet; without a bound on how many wait."""
    generator = random.Random(seed)
    arrivals = [
        (moment, call(served.port, Question(prompts.draw(PROMPT), TOKENS, generator.randrange(ADAPTERS))))
        for moment in poisson(rate, seconds, seed)
    ]
    if not arrivals:
        return {}
    found: Figures = msgspec.to_builtins(summary(run(Open(tuple(arrivals)), PATIENCE)))
    return found


def short_among_long(served: HttpServed, prompts: Prompts) -> Figures:
    """Times to the first token of short prompts: on an idle server, and while long prompts are prefilled."""
    alone = first_tokens(run(Closed((tuple(_short(served, prompts) for _ in range(SHORT_PROMPTS)),)), PATIENCE))
    long = tuple((0.0, call(served.port, Question(prompts.draw(LONG), 1, None))) for _ in range(LONG_PROMPTS))
    seconds = summary(run(Open(long), PATIENCE)).seconds
    gap = seconds / (SHORT_PROMPTS + 1)
    long = tuple((0.0, call(served.port, Question(prompts.draw(LONG), 1, None))) for _ in range(LONG_PROMPTS))
    short = tuple(((number + 1) * gap, _short(served, prompts)) for number in range(SHORT_PROMPTS))
    answers = run(Open(long + short), PATIENCE)
    prefilled = max(answer.first for answer in answers[:LONG_PROMPTS])
    among = first_tokens([answer for answer in answers[LONG_PROMPTS:] if answer.begin < prefilled])
    return {
        "long_prefill_seconds": seconds,
        "short_alone_median": statistics.median(alone),
        "short_alone_p99": quantile(alone, 0.99),
        "short_among_long_median": statistics.median(among),
        "short_among_long_p99": quantile(among, 0.99),
        "short_among_long": len(among),
    }


def first_tokens(answers: Sequence[Answer]) -> list[float]:
    """Seconds from each request to its first text."""
    return [answer.first - answer.begin for answer in answers]


def _short(served: HttpServed, prompts: Prompts) -> Call:
    return call(served.port, Question(prompts.draw(SHORT), 1, None))


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0], help="requests a second")
    parser.add_argument("--seconds", type=float, default=30.0, help="of arrivals at each rate")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        machine = Machine(Path(name))
        peer = Gemlora(Path(name) / "gemlora", ADAPTERS, RANK)
        prompts = Prompts(Tokenizer.load(starter_model().tokenizer_path), seed=0)
        for seed in range(arguments.rounds):
            limits = [asdict(each) for each in machine.limits()]
            with peer.serve() as served:
                figures = short_among_long(served, prompts)
                for rate in arguments.rates:
                    found = under_rate(served, prompts, rate, arguments.seconds, seed)
                    figures |= {f"rate_{rate:g}_{key}": value for key, value in found.items()}
            rounds.append({"limits": limits, "figures": figures})
            print(f"round {seed + 1}/{arguments.rounds}", {key: round(value, 3) for key, value in figures.items()})
    measured = [each["figures"] for each in rounds]
    figures = results.medians(measured)
    for share in ("median", "p99"):
        ratio = results.median_ratio(measured, f"short_among_long_{share}", f"short_alone_{share}")
        if ratio is not None:
            figures[f"short_among_long_{share}_over_alone"] = ratio
    results.write(
        arguments.result, figures, rounds, version=peer.version, adapters=ADAPTERS, rank=RANK, prompt_tokens=PROMPT,
        output_tokens=TOKENS, rates=arguments.rates, seconds=arguments.seconds, long_prompts=LONG_PROMPTS,
        long_prompt_tokens=LONG, short_prompt_tokens=SHORT,
    )  # fmt: skip


if __name__ == "__main__":
    main()
