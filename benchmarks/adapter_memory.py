"""Whether an engine's memory returns after adapters were loaded, used and unloaded many times.

python -m benchmarks.adapter_memory [--rounds COUNT] [--result FILE]

Each round loads an adapter that was never packed, computes a few tokens with it, and unloads it. Memory is the worker's
resident set and its proportional share; the first rounds, which touch the model and warm up allocators, do not count.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from benchmarks.made_adapters import make_adapter, resident_bytes

from gemlora.engines.contract import AdapterRef, GenerateRequest, Sampling
from gemlora.engines.cpu.client import CpuEngine
from gemlora.engines.cpu.options import CpuOptions
from gemlora.engines.cpu.weights.packed import PackedModel
from gemlora.engines.cpu.weights.prepare import prepare
from gemlora.engines.cpu.weights.progress import silent
from gemlora.settings import Settings

RESULT = Path(__file__).parent / "results" / "adapter_memory.json"
ADAPTERS = 8
RANK = 16
WARM_UP = 100
PROMPT = tuple(range(2, 34))
TOKENS = 4
LARGEST_GROWTH = 0.02

Memory = dict[str, int]


def memory_of(pid: int) -> Memory:
    """Bytes of a process: resident, proportional and its own."""
    found = psutil.Process(pid).memory_full_info()
    return {"rss": found.rss, "pss": found.pss, "uss": found.uss}


async def use(engine: CpuEngine, adapter: AdapterRef) -> None:
    """One round."""
    request = GenerateRequest("round", PROMPT, TOKENS, Sampling(seed=0, temperature=0), (), adapter)
    async for _ in engine.generate(request):
        pass
    await engine.unload(adapter.digest)


async def measure(
    options: CpuOptions, adapters: Sequence[AdapterRef], rounds: int, warm_up: int = WARM_UP
) -> tuple[Memory, Memory]:
    """A worker's memory before and after the rounds."""
    engine = CpuEngine(options)
    await engine.start()
    try:
        for number in range(warm_up):
            await use(engine, adapters[number % len(adapters)])
        assert engine.worker_pid is not None
        before = memory_of(engine.worker_pid)
        for number in range(rounds):
            await use(engine, adapters[number % len(adapters)])
        after = memory_of(engine.worker_pid)
        if engine.stats().restarts:
            raise SystemExit("the worker died")
        return before, after
    finally:
        await engine.close()


def growth(before: Memory, after: Memory) -> dict[str, float]:
    """How much larger each kind of memory is, as a share of what it was."""
    return {kind: after[kind] / before[kind] - 1 for kind in before}


def starter_options(folder: Path) -> tuple[CpuOptions, PackedModel]:
    """The starter model with the default settings; packed adapters lie in the folder."""
    settings = Settings()
    packed = prepare("starter", None, None, "int8", settings.cache_dir, silent)
    options = CpuOptions(
        model=str(packed), kv_cache_bytes=1 << 28, max_sequences=settings.max_sequences, max_queue=settings.max_queue,
        step_tokens=settings.step_tokens, adapter_memory_bytes=settings.adapter_memory_bytes,
        adapter_cache=str(folder / "packed"), adapter_cache_bytes=settings.adapter_cache_bytes,
    )  # fmt: skip
    return options, PackedModel.open(packed)


def main() -> None:
    """Measure and write the result; fails if memory grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        options, model = starter_options(Path(name))
        adapters = [make_adapter(Path(name) / str(seed), model.config, RANK, seed) for seed in range(ADAPTERS)]
        size = resident_bytes(adapters[0], model)
        del model
        gc.collect()
        before, after = asyncio.run(measure(options, adapters, arguments.rounds))
    grown = growth(before, after)
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "rounds": arguments.rounds,
        "adapter_bytes": size,
        "before": before,
        "after": after,
        "growth": grown,
    }
    arguments.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    if max(grown["rss"], grown["pss"]) > LARGEST_GROWTH:
        raise SystemExit(f"memory grew by more than {LARGEST_GROWTH:.0%}")


if __name__ == "__main__":
    main()
