"""What the first use of an adapter costs an engine over the starter model: times to the first token.

python -m benchmarks.adapters [--adapters COUNT] [--turns COUNT] [--result FILE]

`warm` adapters are in memory, `cold` ones lie packed on disk, `new` ones were never packed. There is room in memory for
two; the others take turns, and every cold request is followed by a warm one for the same adapter, so that both meet the
same machine. No two prompts begin alike. New adapters are packed right after their upload, when the registry tries
them out; their figure is what a request costs that finds the cache empty.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.adapter_memory import starter_options
from benchmarks.engine_load import TokenPrompts, Work, first_token, perform
from benchmarks.made_adapters import make_adapter, resident_bytes
from msgspec.structs import replace

from gemlora.engines.contract import AdapterRef
from gemlora.engines.cpu.client import CpuEngine
from gemlora.engines.cpu.options import CpuOptions

RESULT = Path(__file__).parent / "results" / "adapters.json"
RANK = 16
RESIDENT = 2
LENGTHS = (16, 64, 128, 256)
"""Tokens of the prompts: a question, a question with instructions, the other benchmarks' prompt, a page."""
MOST_RATIO = 1.5

Times = dict[str, list[float]]
"""Seconds to the first token of warm, cold and new adapters."""


async def first_token_of(engine: CpuEngine, adapter: AdapterRef, prompt: tuple[int, ...]) -> float:
    """Seconds from the request to its first token."""
    return first_token(await perform(engine, [[Work(prompt, 1, adapter)]]))


async def first_uses(options: CpuOptions, adapters: Sequence[AdapterRef], turns: int) -> dict[int, Times]:
    """Times by length of the prompt. The cache of packed adapters must be empty."""
    engine = CpuEngine(options)
    await engine.start()
    prompts = TokenPrompts(engine.facts.vocabulary, seed=0)
    times: dict[int, Times] = {length: {"warm": [], "cold": [], "new": []} for length in LENGTHS}
    try:
        for length in LENGTHS:
            for adapter in adapters:
                await engine.unload(adapter.digest)
            for turn in range(turns + 1):
                for adapter in adapters:
                    times[length]["cold" if turn else "new"].append(
                        await first_token_of(engine, adapter, prompts.draw(length))
                    )
                    times[length]["warm"].append(await first_token_of(engine, adapter, prompts.draw(length)))
    finally:
        await engine.close()
    return times


def summary(times: Times) -> dict[str, float]:
    """Medians in milliseconds and what cold and new adapters cost in warm ones."""
    medians = {kind: statistics.median(found) * 1e3 for kind, found in times.items()}
    return {
        **{f"{kind}_ms": value for kind, value in medians.items()},
        "cold_to_warm": medians["cold"] / medians["warm"],
        "new_to_warm": medians["new"] / medians["warm"],
    }


def main() -> None:
    """Measure and write the result; fails if cold adapters cost too much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=12)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        options, model = starter_options(Path(name))
        adapters = [
            make_adapter(Path(name) / str(seed), model.config, RANK, seed) for seed in range(arguments.adapters)
        ]
        size = resident_bytes(adapters[0], model)
        options = replace(options, adapter_memory_bytes=RESIDENT * size * 11 // 10)
        times = asyncio.run(first_uses(options, adapters, arguments.turns))
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "adapters": arguments.adapters,
        "adapter_bytes": size,
        "prompt_tokens": {str(length): summary(found) for length, found in times.items()},
    }
    arguments.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    if any(summary(found)["cold_to_warm"] > MOST_RATIO for found in times.values()):
        raise SystemExit(f"a cold adapter costs more than {MOST_RATIO} warm ones")


if __name__ == "__main__":
    main()
