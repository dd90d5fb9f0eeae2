"""A real `gemlora serve` on folders of its own, and how its adapters get there."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from benchmarks.peft_adapters import Shape, write_peft
from benchmarks.processes import free_port, until_ready

from gemlora.app.application import open_engine, open_records
from gemlora.engines.cpu.weights.progress import silent
from gemlora.registry.models import Model
from gemlora.settings import Settings
from gemlora.telemetry.logs import create_logger

GEMLORA = Path(sys.executable).with_name("gemlora")
ACCOUNT, TOKEN = "0123456789abcdef0123456789abcdef", "benchmark"
RUN_PATH = f"/client/v4/accounts/{ACCOUNT}/ai/run/@cf/google/gemma-7b-it-lora"
ADDED_AT_ONCE = 4


def place(folder: Path, **settings: Any) -> Settings:
    """Settings for a new server; its data and caches lie in the folder unless said otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    folders = {"data_dir": folder / "data", "cache_dir": folder / "cache"}
    return Settings(account_id=ACCOUNT, api_token=TOKEN, **folders | settings)  # type: ignore[arg-type]


@contextmanager
def server(settings: Settings) -> Iterator[tuple[psutil.Popen, str, float]]:
    """A server that answers, its URL, and the seconds that it took to get ready."""
    port = free_port()
    begin = time.perf_counter()
    process = psutil.Popen(
        command(settings, port), env=os.environ | environment(settings), stdout=subprocess.DEVNULL
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with until_ready(process, f"{url}/readyz"):
        yield process, url, time.perf_counter() - begin


def command(settings: Settings, port: int) -> list[str]:
    """Starts a server whose base answers what names no adapter; `environment` has what else it needs."""
    flags = ["--default-adapter", ""]
    flags += ["--port", str(port), "--data-dir", str(settings.data_dir), "--cache-dir", str(settings.cache_dir)]
    for key in sorted(settings.model_fields_set & CHANGED):
        flags += [f"--{key.replace('_', '-')}", str(getattr(settings, key))]
    return [str(GEMLORA), "serve", *flags, "--log-level", "error"]


CHANGED = {
    "adapter_memory_bytes",
    "adapter_cache_bytes",
    "draft_tokens",
    "max_sequences",
    "quantize",
    "weights",
    "step_milliseconds",
    "step_tokens",
}
"""Settings that benchmarks give a server."""


def environment(settings: Settings) -> dict[str, str]:
    """The server's first account and its token."""
    return {"GEMLORA_ACCOUNT_ID": settings.account_id or ACCOUNT, "GEMLORA_API_TOKEN": TOKEN}


def add_adapters(settings: Settings, count: int, rank: int) -> list[str]:
    """Add that many adapters as users do: checked, tried out by the engine, stored durably. Returns their names."""
    folder = settings.data_dir.with_name("peft")
    asyncio.run(add_made(settings, count, lambda shape, number: write_peft(folder / str(number), shape, rank, number)))
    return [name_of(number) for number in range(count)]


async def add_made(settings: Settings, count: int, make: Callable[[Shape, int], Path]) -> tuple[Model, list[float]]:
    """Add the adapters that `make` writes, `ADDED_AT_ONCE` at once. Returns the model, and the seconds of each."""
    times: list[float] = []
    async with (
        open_engine(settings, silent, create_logger("error")) as served,
        open_records(settings, served.engine) as records,
    ):
        account = (await records.prepare()).account_id
        shape = Shape(served.model.base.layers, served.model.base.modules)

        async def add_one(number: int) -> None:
            source = await asyncio.to_thread(make, shape, number)
            begin = time.perf_counter()
            await records.uploads.add(account, served.model, name_of(number), source)
            times.append(time.perf_counter() - begin)
            await asyncio.to_thread(shutil.rmtree, source)

        for start in range(0, count, ADDED_AT_ONCE):
            await asyncio.gather(*map(add_one, range(start, min(start + ADDED_AT_ONCE, count))))
        return served.model, times


def name_of(number: int) -> str:
    """How the adapter is called."""
    return f"adapter {number}"
