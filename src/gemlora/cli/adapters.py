"""`gemlora adapters`: the first account's adapters in a data folder, also while a server runs on it."""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gemlora.cli.options import with_settings
from gemlora.cli.progress import ProgressBar
from gemlora.registry.records import Adapter
from gemlora.settings import Settings
from gemlora.telemetry.logs import create_logger

app = typer.Typer(
    help="Add, list and remove LoRA adapters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name or id of the adapter.", show_default=False)]


@app.command()
@with_settings(
    "data_dir", "cache_dir", "model", "weights", "revision", "hub_token", "quantize", "engine", "limits",
    "max_adapter_rank", "max_adapter_bytes", "max_adapters",
)  # fmt: skip
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What requests write in lora.", show_default=False)],
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="With adapter_config.json and adapter_model.safetensors.", show_default=False
        ),
    ],
    settings: Settings,
    description: Annotated[str, typer.Option(help="Free text.", show_default=False)] = "",
) -> None:
    """Register a folder that PEFT saved; when this returns, requests can name it."""
    adapter = asyncio.run(_add(settings, name, folder, description))
    if adapter.files is not None:
        for warning in adapter.files.warnings:
            print(f"Warning: {warning}", file=sys.stderr)
        print(f"Added {adapter.name} ({adapter.id}): rank {adapter.files.rank}, {', '.join(adapter.files.modules)}")


@app.command("list")
@with_settings("data_dir")
def list_(
    settings: Settings, as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False
) -> None:
    """List the adapters, oldest first."""
    adapters = asyncio.run(_list(settings))
    if as_json:
        print(json.dumps([_plain(adapter) for adapter in adapters], indent=2))
        return
    rows = [("NAME", "ID", "RANK", "SIZE", "MODULES"), *map(_row, adapters)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command()
@with_settings("data_dir")
def remove(name: Name, settings: Settings) -> None:
    """Remove an adapter. Requests that run keep it until they end."""
    asyncio.run(_remove(settings, name))
    print(f"Removed {name}")


async def _add(settings: Settings, name: str, folder: Path, description: str) -> Adapter:
    from gemlora.app import open_engine, open_records

    log = create_logger(settings.log_level, settings.log_format)
    async with AsyncExitStack() as stack:
        with ProgressBar() as progress:
            served = await stack.enter_async_context(open_engine(settings, progress, log))
        records = await stack.enter_async_context(open_records(settings, served.engine))
        last = await records.adapter_rows.find_base(settings.model)
        if last is not None and last.digest != served.model.base.digest:
            print(f"Warning: checked with {served.model.base.name}; the server last had {last.name}", file=sys.stderr)
        return await records.uploads.add(records.access.account_id, served.model, name, folder, description)


async def _list(settings: Settings) -> tuple[Adapter, ...]:
    from gemlora.app import open_records

    async with open_records(settings) as records:
        return await records.adapters.list(records.access.account_id)


async def _remove(settings: Settings, name: str) -> None:
    from gemlora.app import open_records

    async with open_records(settings) as records:
        await records.adapters.remove(records.access.account_id, name)


def _row(adapter: Adapter) -> tuple[str, ...]:
    files = adapter.files
    if files is None:
        return (adapter.name, adapter.id, "-", "-", "files missing")
    return (adapter.name, adapter.id, str(files.rank), f"{files.size / 1e6:.1f} MB", ",".join(files.modules))


def _plain(adapter: Adapter) -> dict[str, object]:
    fields = asdict(adapter)
    return fields | {key: getattr(adapter, key).isoformat() for key in ("created_at", "modified_at")}
