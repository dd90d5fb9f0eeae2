"""`gemlora models`: gets checkpoints from the hub, lists those on this machine, writes them in other formats."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from gemlora.cli.exports import Dtype, Force, Format, Output, write_export
from gemlora.cli.options import with_settings
from gemlora.settings import Settings

app = typer.Typer(
    help="Get checkpoints, and write them in other formats.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
@with_settings()
def pull(
    model: Annotated[str, typer.Argument(metavar="ID", help="Hub id, like google/gemma-7b-it.")],
    settings: Settings,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit. A commit pins the checkpoint.")] = None,
    token: Annotated[
        str | None, typer.Option(help="Hugging Face token. Default: GEMLORA_HUB_TOKEN, then the hub's own login.")
    ] = None,
) -> None:
    """Load a checkpoint from the Hugging Face hub; a pull that was cut off goes on where it stopped."""
    from gemlora.cli.progress import ProgressBar
    from gemlora.engines.cpu.weights import hub

    secret = settings.hub_token.get_secret_value() if settings.hub_token else None
    with ProgressBar() as progress:
        folder = hub.pull(model, revision or settings.revision, token or secret, progress)
    pinned = f" --revision {revision}" if revision else ""
    print(f"{model} is in {folder}\nServe it with: gemlora serve --weights {model}{pinned}")


@app.command("list")
@with_settings("cache_dir")
def list_models(settings: Settings) -> None:
    """Show the checkpoints that were pulled, and those that are converted and start at once."""
    from gemlora.engines.cpu.weights import hub
    from gemlora.engines.cpu.weights.cache import ModelCache

    table = Table("Model", "What", "Size", "Revision or digest")
    for pulled in hub.pulled():
        table.add_row(pulled.repository, "pulled", _gigabytes(pulled.size), pulled.commit[:12])
    for packed in ModelCache(Path(settings.cache_dir).expanduser()).packed():
        table.add_row(packed.name, f"converted, {packed.quantize}", _gigabytes(packed.weights_size), packed.digest[:12])
    if table.row_count:
        Console(soft_wrap=True).print(table)
    else:
        print("No models yet. Get one with: gemlora models pull google/gemma-7b-it")


@app.command()
@with_settings("weights", "revision", "hub_token")
def export(
    output: Output,
    settings: Settings,
    format_: Format = None,
    dtype: Dtype = "bfloat16",
    force: Force = False,
) -> None:
    """Write the base model alone as a Hugging Face folder or a GGUF file, for use elsewhere."""
    write_export(None, output, format_, dtype, force, settings)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
