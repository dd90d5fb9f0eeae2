"""Throughput of the engine by mix of adapters: none, the same, all different, drawn from few or many registered ones.

python -m benchmarks.adapter_mix [--rounds COUNT] [--adapters COUNT …] [--turns COUNT] [--times COUNT] [--result FILE]

Rank 8 on all seven modules. Every adapter is other content in a file of its own and was tried out by the engine before,
which packs it, as every upload is. Sixteen clients wait for their answers. The mixes of one ratio are measured several
times within a round, there and back again, since the machine changes from one minute to the next.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, count
from pathlib import Path

from benchmarks.adapter_memory import starter_options
from benchmarks.engine_load import TokenPrompts, Work, decode_rate, perform, rate, running
from benchmarks.machine import Machine
from benchmarks.made_adapters import make_adapter, resident_bytes
from benchmarks.results import Figures
from msgspec.structs import replace

from benchmarks import results
from gemlora.engines.contract import AdapterRef
from gemlora.engines.cpu.client import CpuEngine
from gemlora.engines.cpu.options import CpuOptions
from gemlora.engines.cpu.weights.packed import PackedModel

RESULT = results.FOLDER / "adapter_mix.json"
RANK = 8
CLIENTS = 16
PROMPT, TOKENS = 128, 64
FEW = 5
CACHED = 32
"""Adapters that the small cache of R7 holds."""
WORKING_SET = 4
"""Times that many adapters are in use there."""

Choice = Callable[[], int | None]
"""The number of the next request's adapter."""


def uniform(registered: int, generator: random.Random) -> Choice:
    """All are equally likely."""
    return lambda: generator.randrange(registered)


def zipf(registered: int, generator: random.Random) -> Choice:
    """The k-th most popular one is asked for 1/k times as often as the first."""
    weights = list(accumulate(1 / (rank + 1) for rank in range(registered)))
    return lambda: generator.choices(range(registered), cum_weights=weights)[0]


def fixed() -> dict[str, Choice]:
    """The mixes that do not depend on how many adapters there are."""
    numbers = count()
    return {"none": lambda: None, "same": lambda: 0, "different": lambda: next(numbers) % CLIENTS}


def drawn(registered: Sequence[int], generator: random.Random) -> dict[str, Choice]:
    """Both ways of drawing from each number of adapters."""
    ways = {"uniform": uniform, "zipf": zipf}
    return {f"{way}_{number}": choose(number, generator) for number in registered for way, choose in ways.items()}


@dataclass(frozen=True)
class Plan:
    """What is measured in a round."""

    registered: Sequence[int]
    """From how many adapters requests draw theirs."""
    turns: int
    """Requests of each client where adapters are drawn."""
    times: int
    """How often the mixes of a ratio are measured."""

    @property
    def compared(self) -> tuple[str, str]:
        """The mixes of R2."""
        return f"zipf_{FEW}", f"zipf_{max(self.registered)}"


async def measure(
    engine: CpuEngine,
    adapters: Sequence[AdapterRef],
    choices: dict[str, Choice],
    prompts: TokenPrompts,
    turns: int,
    times: int = 1,
) -> Figures:
    """Tokens a second of each mix: over the whole load, and while all sequences decode if each client asks once.

    Every second time the mixes are measured in reverse. The loads being equal, the harmonic mean is that of all.
    """
    rates: dict[str, list[float]] = {}
    for time in range(times):
        for name, choose in reversed(choices.items()) if time % 2 else choices.items():
            numbers = [[choose() for _ in range(turns)] for _ in range(CLIENTS)]
            load = [
                [Work(prompts.draw(PROMPT), TOKENS, None if number is None else adapters[number]) for number in client]
                for client in numbers
            ]
            timings = await perform(engine, load)
            rates.setdefault(name, []).append(rate(timings))
            if turns == 1:
                rates.setdefault(f"{name}_decode", []).append(decode_rate(timings))
    return {name: statistics.harmonic_mean(found) for name, found in rates.items()}


async def round_of(
    options: CpuOptions, adapters: Sequence[AdapterRef], plan: Plan, seed: int, model: PackedModel
) -> Figures:
    """All mixes, and those of R7 on an engine whose cache holds few adapters."""
    generator, prompts = random.Random(seed), TokenPrompts(model.config.vocabulary, seed)
    warm = [[Work(prompts.draw(PROMPT), 2, adapter)] for adapter in adapters[:CLIENTS]]
    mixes = drawn(plan.registered, generator)
    compared = {name: mixes.pop(name) for name in plan.compared}
    async with running(options) as engine:
        await perform(engine, warm)
        figures = await measure(engine, adapters, fixed(), prompts, 1, plan.times)
        figures |= await measure(engine, adapters, mixes, prompts, plan.turns)
        figures |= await measure(engine, adapters, compared, prompts, plan.turns, plan.times)
    working_set = WORKING_SET * CACHED
    if len(adapters) < working_set:
        return figures
    memory = CACHED * resident_bytes(adapters[0], model) * 101 // 100
    async with running(replace(options, adapter_memory_bytes=memory)) as engine:
        await perform(engine, warm)
        sets = {f"cache_{times}": uniform(times * CACHED, generator) for times in (1, WORKING_SET)}
        return figures | await measure(engine, adapters, sets, prompts, plan.turns, plan.times)


def ratios(rounds: Sequence[Figures], plan: Plan, share: float) -> Figures:
    """R1, R2, R3 and R7; `share`, an adapter's bytes ÷ the base's, sets R1's roofline."""
    few, many = plan.compared
    wanted = {
        "r1": ("different_decode", "none_decode"),
        "r1_with_prefill": ("different", "none"),
        f"r2_{max(plan.registered)}": (many, few),
        "r3": ("different", "same"),
        "r7": (f"cache_{WORKING_SET}", "cache_1"),
    }
    found = {name: results.median_ratio(rounds, *pair) for name, pair in wanted.items()}
    figures = {name: value for name, value in found.items() if value is not None}
    roofline = 1 / (1 + CLIENTS * share)
    return figures | {"r1_roofline": roofline, "r1_share_of_roofline": figures["r1"] / roofline}


async def try_out(options: CpuOptions, adapters: Sequence[AdapterRef]) -> None:
    """Probe all, as uploads do."""
    async with running(options) as engine:
        for adapter in adapters:
            await engine.probe(adapter)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, FEW, 16, 128, 2000])
    parser.add_argument("--turns", type=int, default=4, help="requests of each client where adapters are drawn")
    parser.add_argument("--times", type=int, default=8, help="how often the mixes of a ratio are measured in a round")
    parser.add_argument("--folder", type=Path, help="where the adapters lie: 7.6 MB each")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    plan = Plan(arguments.adapters, arguments.turns, arguments.times)
    if FEW not in plan.registered or max(plan.registered) == FEW:
        parser.error(f"--adapters: R2 compares {FEW} with more")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        options, model = starter_options(folder)
        registered = max(*plan.registered, CLIENTS)
        adapters = [make_adapter(folder / str(seed), model.config, RANK, seed) for seed in range(registered)]
        asyncio.run(try_out(options, adapters))
        machine, rounds = Machine(folder), []
        for seed in range(arguments.rounds):
            limits = [asdict(each) for each in machine.limits()]
            figures = asyncio.run(round_of(options, adapters, plan, seed, model))
            rounds.append({"limits": limits, "figures": figures})
            print(f"round {seed + 1}/{arguments.rounds}", {key: round(value, 1) for key, value in figures.items()})
        share = resident_bytes(adapters[0], model) / model.size
    measured = [each["figures"] for each in rounds]
    figures = results.medians(measured) | ratios(measured, plan, share)
    results.write(
        arguments.result, figures, rounds, clients=CLIENTS, rank=RANK,
        prompt_tokens=PROMPT, output_tokens=TOKENS, turns=plan.turns, times=plan.times, adapters=plan.registered,
        adapter_share=share, cached=CACHED, working_set=WORKING_SET * CACHED,
    )  # fmt: skip


if __name__ == "__main__":
    main()
