"""What a decoding step takes beside its kernels: Python, the step loop and the messages to the client's process.

python -m benchmarks.overhead [--rounds COUNT] [--result FILE]

The engine runs as always, in a process of its own, but with a clock around every kernel. Overhead is what is left of
the time between the ends of two steps.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from benchmarks.adapter_memory import starter_options
from benchmarks.clocked_worker import Step
from benchmarks.engine_load import TokenPrompts, Work, perform, running
from benchmarks.machine import Machine
from benchmarks.made_adapters import make_adapter
from benchmarks.offline import STAGGER
from benchmarks.results import Figures
from msgspec.structs import replace

from benchmarks import results
from gemlora.engines.contract import AdapterRef
from gemlora.engines.cpu.options import CpuOptions

RESULT = results.FOLDER / "overhead.json"
RANK = 8
PROMPT, TOKENS = 128, 128
BATCH = 16


def overheads(steps: Sequence[Step], rows: int) -> tuple[float, float]:
    """Median seconds of a step with so many rows that followed one like it, and of what was no kernel in it."""
    whole, beside = [], []
    for before, step in pairwise(steps):
        if before.rows == step.rows == rows:
            whole.append(step.end - before.end)
            beside.append(step.end - before.end - step.kernels)
    return statistics.median(whole), statistics.median(beside)


async def steps_of(options: CpuOptions, load: Sequence[Work], folder: Path) -> list[Step]:
    """The steps in which an engine computes the load, all of it at once."""
    path = folder / "steps.json"
    async with running(options, (sys.executable, "-m", "benchmarks.clocked_worker", str(path))) as engine:
        await perform(engine, [[work] for work in load])
    return [Step(*step) for step in json.loads(path.read_text(encoding="utf-8"))]


def loads(prompts: TokenPrompts, adapters: Sequence[AdapterRef]) -> dict[str, list[Work]]:
    """One sequence, 16, and 16 with different adapters. Who is admitted first decodes beside others' prompts."""

    def work(batch: int, adapter: AdapterRef | None = None) -> Work:
        return Work(prompts.draw(PROMPT), TOKENS + STAGGER * batch, adapter)

    return {
        "batch_1": [work(1)],
        f"batch_{BATCH}": [work(BATCH) for _ in range(BATCH)],
        f"batch_{BATCH}_different_adapters": [work(BATCH, adapter) for adapter in adapters],
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options, model = starter_options(folder)
        options = replace(options, draft_tokens=0)  # a guess changes how many rows a step has
        adapters = [make_adapter(folder / str(seed), model.config, RANK, seed) for seed in range(BATCH)]
        machine = Machine(folder)
        for seed in range(arguments.rounds):
            limits = [asdict(each) for each in machine.limits()]
            figures: Figures = {}
            for mix, load in loads(TokenPrompts(model.config.vocabulary, seed), adapters).items():
                step, beside = overheads(asyncio.run(steps_of(options, load, folder)), len(load))
                figures |= {f"{mix}.step_seconds": step, f"{mix}.overhead_seconds": beside}
                figures[f"{mix}.overhead_share"] = beside / step
            rounds.append({"limits": limits, "figures": figures})
            print(f"round {seed + 1}/{arguments.rounds}", {key: round(value, 6) for key, value in figures.items()})
    figures = results.medians(each["figures"] for each in rounds)
    results.write(arguments.result, figures, rounds, prompt_tokens=PROMPT, output_tokens=TOKENS, rank=RANK)


if __name__ == "__main__":
    main()
