"""Throughput of the engine by mix of adapters: none, the same, all different, drawn from few or many registered ones.

python -m benchmarks.adapter_mix [--rounds COUNT] [--adapters COUNT …] [--turns COUNT] [--result FILE]

Rank 8 on all seven modules. Every adapter is other content in a file of its own and was tried out by the engine before,
which packs it, as every upload is. Sixteen clients wait for their answers; mixes take turns within a round.
"""

import argparse
import asyncio
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import accumulate, count
from pathlib import Path

from benchmarks.adapter_memory import starter_options
from benchmarks.engine_load import TokenPrompts, Work, decode_rate, perform, rate, running
from benchmarks.machine import Machine
from benchmarks.made_adapters import make_adapter
from benchmarks.results import Figures
from msgspec.structs import replace

from benchmarks import results
from gemlora.engines.contract import AdapterRef
from gemlora.engines.cpu.client import CpuEngine
from gemlora.engines.cpu.options import CpuOptions

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


async def measure(
    engine: CpuEngine, adapters: Sequence[AdapterRef], choices: dict[str, Choice], prompts: TokenPrompts, turns: int
) -> Figures:
    """Tokens a second of each mix: over the whole load, and while all sequences decode if each client asks once."""
    figures: Figures = {}
    for name, choose in choices.items():
        numbers = [[choose() for _ in range(turns)] for _ in range(CLIENTS)]
        load = [
            [Work(prompts.draw(PROMPT), TOKENS, None if number is None else adapters[number]) for number in client]
            for client in numbers
        ]
        timings = await perform(engine, load)
        figures[name] = rate(timings)
        if turns == 1:
            figures[f"{name}_decode"] = decode_rate(timings)
    return figures


async def round_of(
    options: CpuOptions, adapters: Sequence[AdapterRef], counts: Sequence[int], turns: int, seed: int, vocabulary: int
) -> Figures:
    """All mixes once, and those of R7 on an engine whose cache holds few adapters."""
    generator, prompts = random.Random(seed), TokenPrompts(vocabulary, seed)
    warm = [[Work(prompts.draw(PROMPT), 2, adapter)] for adapter in adapters[:CLIENTS]]
    async with running(options) as engine:
        await perform(engine, warm)
        figures = await measure(engine, adapters, fixed(), prompts, 1)
        figures |= await measure(engine, adapters, drawn(counts, generator), prompts, turns)
    working_set = WORKING_SET * CACHED
    if len(adapters) < working_set:
        return figures
    size = adapter_bytes(adapters[0])
    async with running(replace(options, adapter_memory_bytes=CACHED * size * 101 // 100)) as engine:
        await perform(engine, warm)
        sets = {f"cache_{times}": uniform(times * CACHED, generator) for times in (1, WORKING_SET)}
        return figures | await measure(engine, adapters, sets, prompts, turns)


def adapter_bytes(adapter: AdapterRef) -> int:
    """Of its weights, as packed beside a quantised base: the file's tensors are bfloat16 too."""
    return Path(adapter.weights).stat().st_size


def ratios(rounds: Sequence[Figures], most: int, share: float) -> Figures:
    """R1, R2 with `most` adapters, R3 and R7; `share`, an adapter's bytes ÷ the base's, sets R1's roofline."""
    wanted = {
        "r1": ("different_decode", "none_decode"),
        "r1_with_prefill": ("different", "none"),
        f"r2_{most}": (f"zipf_{most}", f"zipf_{FEW}"),
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
    parser.add_argument("--folder", type=Path, help="where the adapters lie: 7.6 MB each")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        options, model = starter_options(folder)
        registered = max(*arguments.adapters, CLIENTS)
        adapters = [make_adapter(folder / str(seed), model.config, RANK, seed) for seed in range(registered)]
        asyncio.run(try_out(options, adapters))
        machine, rounds = Machine(folder), []
        for seed in range(arguments.rounds):
            limits = [asdict(each) for each in machine.limits()]
            figures = asyncio.run(
                round_of(options, adapters, arguments.adapters, arguments.turns, seed, model.config.vocabulary)
            )
            rounds.append({"limits": limits, "figures": figures})
            print(f"round {seed + 1}/{arguments.rounds}", {key: round(value, 1) for key, value in figures.items()})
        share = adapter_bytes(adapters[0]) / model.size
    measured = [each["figures"] for each in rounds]
    figures = results.medians(measured) | ratios(measured, max(arguments.adapters), share)
    results.write(
        arguments.result, figures, rounds, clients=CLIENTS, rank=RANK,
        prompt_tokens=PROMPT, output_tokens=TOKENS, turns=arguments.turns, adapters=arguments.adapters,
        adapter_share=share, cached=CACHED, working_set=WORKING_SET * CACHED,
    )  # fmt: skip


if __name__ == "__main__":
    main()
