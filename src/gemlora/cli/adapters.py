"""`gemlora adapters`: an account's adapters in a data folder, also while a server runs on it, or on a server."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from gemlora.cli.options import with_settings, with_target
from gemlora.cli.tables import print_json, print_table, shown
from gemlora.cli.targets import CONFIG_FILE, WEIGHTS_FILE, Record, Target
from gemlora.errors import InvalidRequest
from gemlora.settings import Settings

app = typer.Typer(
    help="Add, list, show, download, publish, convert and remove LoRA adapters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name or id of the adapter.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("upload", hidden=True, help="The same as add.")
@app.command()
@with_target(
    "cache_dir", "model", "weights", "revision", "hub_token", "quantize", "engine", "limits",
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
    target: Target,
    description: Annotated[str, typer.Option(help="Free text.", show_default=False)] = "",
    public: Annotated[bool, typer.Option("--public", help="On the shelf; the name begins with cf-public-.")] = False,
    as_json: Json = False,
) -> None:
    """Register a folder that PEFT saved; when this returns, requests can name it.

    The adapter is checked and tried out by the server, or by the one that runs on the data directory; without one an
    engine is started for it, with the settings below.
    """
    from gemlora.cli.progress import ProgressBar

    with ProgressBar() as progress:
        adapter = target.add_adapter(name, folder, description, public, progress)
    _tell("Added", adapter, as_json)


@app.command("list")
@with_target()
def list_(target: Target, as_json: Json = False) -> None:
    """List the account's adapters, oldest first."""
    adapters = target.list_adapters()
    if as_json:
        print_json(adapters)
    elif all("ready" in adapter for adapter in adapters):
        print_table(("NAME", "ID", "RANK", "SIZE", "MODULES"), list(map(_row, adapters)))
    else:
        keys = ("name", "id", "created_at", "description")
        print_table(("NAME", "ID", "CREATED", "DESCRIPTION"), [[adapter[key] for key in keys] for adapter in adapters])


@app.command()
@with_target()
def show(name: Name, target: Target, as_json: Json = False) -> None:
    """Show an adapter, of the account or public."""
    adapter = target.show_adapter(name)
    if as_json:
        print_json(adapter)
        return
    width = max(map(len, adapter))
    for key, value in adapter.items():
        print(f"{key.ljust(width)}  {shown(value)}")


@app.command()
@with_target()
def download(
    name: Name,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Created when missing.", show_default=False)],
    target: Target,
    force: Annotated[bool, typer.Option("--force", help="Replace the files that are there.")] = False,
) -> None:
    """Write an adapter's two files into a folder, as they were uploaded."""
    from gemlora.cli.progress import ProgressBar

    for path in (folder / CONFIG_FILE, folder / WEIGHTS_FILE):
        if path.exists() and not force:
            raise InvalidRequest(f"{path} is there already; --force replaces it")
    with ProgressBar() as progress:
        target.download_adapter(name, folder, progress)
    print(f"Wrote {name} to {folder}")


@app.command()
@with_target()
def publish(
    name: Name,
    public_name: Annotated[
        str, typer.Argument(metavar="PUBLIC_NAME", help="Begins with cf-public-.", show_default=False)
    ],
    target: Target,
    as_json: Json = False,
) -> None:
    """Put a copy of an adapter on the shelf, where every account can use it. On a server for operators only."""
    _tell("Published", target.publish_adapter(name, public_name), as_json)


@app.command()
@with_settings("max_adapter_rank", "limits")
def convert(
    source: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="GGUF LoRA, or a folder as PEFT saves it.", show_default=False),
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="To write plain LoRA to.", show_default=False)],
    settings: Settings,
    initial: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="The adapter before its training, if it began with PiSSA, OLoRA or the like.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the adapter that is there.")] = False,
) -> None:
    """Write an adapter of another kind as plain LoRA, if it is one exactly: GGUF, LoKr, LoHa, AdaLoRA, PiSSA, OLoRA.

    Every pair is compared with what it stands for before anything is written.
    """
    from gemlora.conversion.converting import convert as run

    pairs = run(source, folder, initial, settings.max_adapter_rank, force)
    print(f"Wrote {pairs.kind} as LoRA to {folder}: {len(pairs.pairs)} modules, rank {pairs.rank}")
    print(f"The largest difference to the original is {pairs.difference:.1g} of a module's largest weight.")
    print(f"Add it with: gemlora adapters add NAME {shlex.quote(str(folder))}")


@app.command("delete", hidden=True, help="The same as remove.")
@app.command()
@with_target()
def remove(name: Name, target: Target) -> None:
    """Remove an adapter. Requests that run keep it until they end."""
    target.remove_adapter(name)
    print(f"Removed {name}")


def _tell(what: str, adapter: Record, as_json: bool) -> None:
    for warning in adapter["warnings"]:
        print(f"Warning: {shown(warning)}", file=sys.stderr)
    if as_json:
        print_json(adapter)
    else:
        modules = ", ".join(adapter["modules"])
        print(f"{what} {shown(adapter['name'])} ({adapter['id']}): rank {adapter['rank']}, {modules}")


def _row(adapter: Record) -> tuple[object, ...]:
    if not adapter["ready"]:
        return (adapter["name"], adapter["id"], None, None, "files missing")
    size = f"{adapter['size'] / 1e6:.1f} MB"
    return (adapter["name"], adapter["id"], adapter["rank"], size, adapter["modules"])
