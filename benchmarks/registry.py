"""Measures what many registered adapters cost the starter model: start-up, memory, lookups and first tokens.

python -m benchmarks.registry [--adapters COUNT …] [--json FILE]

Every adapter is added as users add one: checked, tried out by the engine, stored durably.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import httpx
import psutil
from benchmarks.gemlora_server import RUN_PATH, TOKEN, add_made, name_of, place, server
from benchmarks.peft_adapters import Shape, write_peft
from rich.console import Console
from rich.table import Table

from gemlora.app.application import open_records
from gemlora.registry.models import Model
from gemlora.settings import Settings

RANK = 4
MODULES = ("q_proj", "v_proj")
TURNS = 9
LOOKUPS = 100
USED = 10
"""Adapters that each server is asked for."""
PROMPT = {"prompt": "The sea is", "raw": True, "temperature": 0, "max_tokens": 1}

Figures = dict[str, float]
Samples = dict[str, list[float]]


async def add(settings: Settings, count: int, folder: Path) -> tuple[Model, Figures]:
    """Add that many adapters; what each took, several being added at once."""

    def make(shape: Shape, number: int) -> Path:
        return write_peft(folder / f"peft-{number}", shape, RANK, number, MODULES)

    model, times = await add_made(settings, count, make)
    return model, {"add, ms": 1000 * statistics.median(times)}


async def look_up(settings: Settings, model: Model, generator: random.Random) -> Samples:
    """Resolving names and ids of adapters that are ready, as every request does; listing them all."""
    async with open_records(settings) as records:
        account = (await records.prepare()).account_id
        adapters = await records.adapters.list(account)
        chosen = [generator.choice(adapters) for _ in range(LOOKUPS)]

        async def resolve(reference: str) -> None:
            await records.adapters.resolve(account, reference, model)

        return {
            "lookup by name, ms": [await timed(resolve(adapter.name)) for adapter in chosen],
            "lookup by id, ms": [await timed(resolve(adapter.id)) for adapter in chosen],
            "list, ms": [await timed(records.adapters.list(account)) for _ in range(5)],
        }


async def timed(work: Awaitable[Any]) -> float:
    begin = time.perf_counter()
    await work
    return milliseconds_since(begin)


def milliseconds_since(begin: float) -> float:
    return (time.perf_counter() - begin) * 1e3


def megabytes(process: psutil.Process) -> float:
    """The process's own share of memory; mapped weights count as far as they were touched."""
    return float(process.memory_full_info().pss) / 1e6


def serve_once(settings: Settings, names: list[str]) -> Samples:
    """Start-up and memory of the server's processes, then first tokens of adapters at their first and second use."""
    with server(settings) as (process, url, seconds):
        time.sleep(1)
        memory = megabytes(process)
        engine_memory = sum(map(megabytes, process.children(recursive=True)))
        tokens = first_tokens(url, names)
    return {
        "start-up, s": [seconds], "server's memory, MB": [memory], "engine's memory, MB": [engine_memory], **tokens
    }  # fmt: skip


def first_tokens(url: str, names: list[str]) -> Samples:
    with httpx.Client(headers={"authorization": f"Bearer {TOKEN}"}, timeout=60) as client:

        def request(adapter: str | None) -> float:
            body = PROMPT if adapter is None else PROMPT | {"lora": adapter}
            begin = time.perf_counter()
            client.post(url + RUN_PATH, json=body).raise_for_status()
            return milliseconds_since(begin)

        for _ in range(10):
            request(None)
        return {
            "first token, base, ms": [request(None) for _ in names],
            "first token, cold adapter, ms": [request(name) for name in names],
            "first token, warm adapter, ms": [request(name) for name in names],
        }


def measure(counts: list[int], folder: Path) -> dict[int, Figures]:
    """The medians; places with few and with many adapters take turns, so that what else runs slows down both."""
    places = {count: place(folder / str(count)) for count in counts}
    models: dict[int, Model] = {}
    figures: dict[int, Figures] = {}
    samples: dict[int, Samples] = {count: {} for count in counts}
    for count, settings in places.items():
        models[count], figures[count] = asyncio.run(add(settings, count, folder / str(count)))
    for turn in range(TURNS):
        for count, settings in places.items():
            generator = random.Random(turn)
            found = asyncio.run(look_up(settings, models[count], generator))
            numbers = generator.sample(range(count), min(USED, count))
            served = serve_once(settings, [name_of(number) for number in numbers])
            for name, values in {**found, **served}.items():
                samples[count].setdefault(name, []).extend(values)
    for count in counts:
        figures[count] |= {name: statistics.median(values) for name, values in samples[count].items()}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapters", type=int, nargs="+", default=[10, 2000])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gemlora-registry-") as folder:
        figures = measure(options.adapters, Path(folder))
    table = Table(title="adapters")
    table.add_column("")
    for count in figures:
        table.add_column(str(count), justify="right")
    for row in next(iter(figures.values())):
        table.add_row(row, *(f"{columns[row]:.2f}" for columns in figures.values()))
    Console(width=100).print(table)
    if options.json:
        machine = {"cores": len(os.sched_getaffinity(0)), "memory_gb": round(psutil.virtual_memory().total / 1e9)}
        kind = {"rank": RANK, "modules": MODULES, "turns": TURNS, "adapters_used_each": USED}
        options.json.write_text(json.dumps({"machine": machine, **kind, "adapters": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
