"""Measures what many registered adapters cost the starter model: start-up, memory, lookups and first tokens.

python benchmarks/registry.py [--adapters COUNT …] [--json FILE]

Every adapter is added as users add one: checked, tried out by the engine, stored durably.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import ml_dtypes
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save_file

from gemlora.app.application import open_engine, open_records
from gemlora.engines.cpu.weights.progress import silent
from gemlora.registry.models import Base, Model
from gemlora.settings import Settings
from gemlora.telemetry.logs import create_logger

RANK = 4
MODULES = ("q_proj", "v_proj")
TURNS = 9
LOOKUPS = 100
USED = 10
"""Adapters that each server is asked for."""
ADDED_AT_ONCE = 4
PROMPT = {"prompt": "The sea is", "raw": True, "temperature": 0, "max_tokens": 1}
ACCOUNT, TOKEN = "0123456789abcdef0123456789abcdef", "benchmark"
GEMLORA = Path(sys.executable).with_name("gemlora")

Figures = dict[str, float]
Samples = dict[str, list[float]]


def write_adapter(folder: Path, base: Base, seed: int) -> Path:
    """A PEFT folder with random bfloat16 weights."""
    folder.mkdir()
    generator = np.random.default_rng(seed)
    tensors = {}
    for layer in range(base.layers):
        for module in MODULES:
            outputs, inputs = base.modules[module]
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            for side, shape in (("A", (RANK, inputs)), ("B", (outputs, RANK))):
                values = generator.standard_normal(shape, np.float32) * inputs**-0.5
                tensors[f"{name}.lora_{side}.weight"] = values.astype(ml_dtypes.bfloat16)
    save_file(tensors, folder / "adapter_model.safetensors")
    configuration = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": [*MODULES],
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(configuration))
    return folder


async def add(settings: Settings, count: int, folder: Path) -> tuple[Model, Figures]:
    """Add that many adapters; what each took while `ADDED_AT_ONCE` were added at once."""
    times: list[float] = []
    async with (
        open_engine(settings, silent, create_logger("error")) as served,
        open_records(settings, served.engine) as records,
    ):

        async def add_one(number: int) -> None:
            source = await asyncio.to_thread(write_adapter, folder / f"peft-{number}", served.model.base, number)
            begin = time.perf_counter()
            await records.uploads.add(records.access.account_id, served.model, f"adapter {number}", source)
            times.append(milliseconds_since(begin))
            await asyncio.to_thread(shutil.rmtree, source)

        for start in range(0, count, ADDED_AT_ONCE):
            await asyncio.gather(*map(add_one, range(start, min(start + ADDED_AT_ONCE, count))))
        return served.model, {"add, ms": statistics.median(times)}


async def look_up(settings: Settings, model: Model, generator: random.Random) -> Samples:
    """Resolving names and ids of adapters that are ready, as every request does; listing them all."""
    async with open_records(settings) as records:
        account = records.access.account_id
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


@contextmanager
def server(settings: Settings) -> Iterator[tuple[psutil.Popen, str, float]]:
    """A server that answers, its URL, and the seconds that it took to get ready."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = os.environ | {"GEMLORA_ACCOUNT_ID": ACCOUNT, "GEMLORA_API_TOKEN": TOKEN}
    arguments = ["--port", str(port), "--data-dir", str(settings.data_dir), "--cache-dir", str(settings.cache_dir)]
    arguments += ["--log-level", "error"]
    url = f"http://127.0.0.1:{port}"
    begin = time.perf_counter()
    process = psutil.Popen([GEMLORA, "serve", *arguments], env=environment, stdout=subprocess.DEVNULL)
    try:
        while not is_ready(url):
            assert process.poll() is None, "the server ended"
            time.sleep(0.01)
        yield process, url, time.perf_counter() - begin
    finally:
        process.terminate()
        process.wait()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


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
    run = f"{url}/client/v4/accounts/{ACCOUNT}/ai/run/@cf/google/gemma-7b-it-lora"
    with httpx.Client(headers={"authorization": f"Bearer {TOKEN}"}, timeout=60) as client:

        def request(adapter: str | None) -> float:
            body = PROMPT if adapter is None else PROMPT | {"lora": adapter}
            begin = time.perf_counter()
            client.post(run, json=body).raise_for_status()
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
            served = serve_once(settings, [f"adapter {number}" for number in numbers])
            for name, values in {**found, **served}.items():
                samples[count].setdefault(name, []).extend(values)
    for count in counts:
        figures[count] |= {name: statistics.median(values) for name, values in samples[count].items()}
    return figures


def place(folder: Path) -> Settings:
    folder.mkdir()
    return Settings(
        data_dir=folder / "data",
        cache_dir=folder / "cache",
        account_id=ACCOUNT,
        api_token=TOKEN,  # type: ignore[arg-type]
    )


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
