"""The load on a server: clients that wait for their answers (closed loop) or requests that come when they come (open).

Runs as a process of its own, `python -m benchmarks.load`: a plan on standard input, the answers on standard output.
"""

import asyncio
import math
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import uvloop
from benchmarks.client import Answer, Call, CallFailed, answered
from msgspec import Struct


class Closed(Struct, frozen=True, tag=True):
    """Each client sends its next request when the last one is answered; all start together."""

    clients: tuple[tuple[Call, ...], ...]


class Open(Struct, frozen=True, tag=True):
    """Requests and the seconds after the start at which they are sent, whatever became of those before."""

    arrivals: tuple[tuple[float, Call], ...]


Plan = Closed | Open


class Summary(Struct, frozen=True):
    """What a load measured. Times are seconds."""

    requests: int
    prompt_tokens: int
    output_tokens: int
    seconds: float
    """From the first request to the last answer."""
    tokens_per_second: float
    """Output tokens over the whole time."""
    first_token_median: float
    first_token_worst: float
    first_token_p99: float
    between_tokens_median: float
    """Of an answer's tokens behind the first, median over answers."""
    short_answers: int
    """Answers of fewer tokens than the longest one."""


def run(plan: Plan, seconds: float) -> list[Answer]:
    """The answers, in the plan's order; measured in a process of its own. Raises `CallFailed`."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"], input=msgspec.json.encode(plan), capture_output=True,
        timeout=seconds, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    if done.returncode:
        raise CallFailed(done.stderr.decode())
    return msgspec.json.decode(done.stdout, type=list[Answer])


def summary(answers: Sequence[Answer]) -> Summary:
    """Over all answers of one load."""
    seconds = max(answer.end for answer in answers) - min(answer.begin for answer in answers)
    first = [answer.first - answer.begin for answer in answers]
    between = [
        (answer.end - answer.first) / (answer.output_tokens - 1) for answer in answers if answer.output_tokens > 1
    ]
    output = sum(answer.output_tokens for answer in answers)
    longest = max(answer.output_tokens for answer in answers)
    return Summary(
        requests=len(answers),
        prompt_tokens=sum(answer.prompt_tokens for answer in answers),
        output_tokens=output,
        seconds=seconds,
        tokens_per_second=output / seconds,
        first_token_median=statistics.median(first),
        first_token_worst=max(first),
        first_token_p99=quantile(first, 0.99),
        between_tokens_median=statistics.median(between) if between else 0.0,
        short_answers=sum(answer.output_tokens < longest for answer in answers),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of the values does not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def poisson(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Moments of arrival, `rate` a second on average, independent of each other."""
    generator = random.Random(seed)
    moment = generator.expovariate(rate)
    while moment < seconds:
        yield moment
        moment += generator.expovariate(rate)


async def perform(plan: Plan) -> list[Answer]:
    """The answers, in the plan's order. Raises `CallFailed`."""
    match plan:
        case Closed(clients):
            lists = await asyncio.gather(*map(_one_by_one, clients))
            return [answer for answers in lists for answer in answers]
        case Open(arrivals):
            return await asyncio.gather(*(_later(delay, call) for delay, call in arrivals))


async def _one_by_one(calls: Sequence[Call]) -> list[Answer]:
    return [await answered(call) for call in calls]


async def _later(delay: float, call: Call) -> Answer:
    await asyncio.sleep(delay)
    return await answered(call)


def main() -> None:
    """Perform the plan."""
    plan: Plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)  # type: ignore[arg-type]
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(perform(plan))))


if __name__ == "__main__":
    main()
