"""`gemlora worker`: writes the template of a Worker whose `env.AI` is a gemlora server."""

import shlex
import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Workers that run on your machine, with gemlora behind env.AI.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def worker() -> None:
    """Keep `init` a subcommand although it is the only one."""


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write; must be new or empty.")],
) -> None:
    """Write a folder that runs a Worker in workerd, with env.AI answered by gemlora."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        typer.echo(f"Error: {folder} already exists and is not an empty folder; nothing was written", err=True)
        raise typer.Exit(1)
    with as_file(files("gemlora.cli") / "worker_template") as template:
        shutil.copytree(template, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules", "dist"))
    typer.echo(f"Wrote {folder}. Next:\n  cd {shlex.quote(str(folder))}\n  npm install\n  npm start")
