"""The `gemlora` command: one file per noun, imported only when its command runs."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from gemlora import __version__
from gemlora.app.importing import import_uncollected
from gemlora.errors import GemloraError

COMMANDS = {
    "serve": "Start the server.",
    "adapters": "Add, list, show, download, publish, convert and remove LoRA adapters.",
    "aliases": "Names that split their requests between versions.",
    "accounts": "List, create and delete accounts.",
    "tokens": "List, create and revoke tokens.",
    "models": "Get checkpoints, and write them in other formats.",
    "train": "Train an adapter from examples: fine-tune the served base with LoRA, and register the result.",
    "evaluate": "Compare adapters with the base on cases of your own.",
    "merge": "Write the base model with an adapter merged into it, as a Hugging Face folder or a GGUF file.",
    "worker": "Workers that run on your machine, with gemlora behind env.AI.",
}


class LazyGroup(TyperGroup):
    """Knows the commands' names and helps; imports a command's module when it is run."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """All names."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """What the overview shows of a command."""
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command itself."""
        if args[0] in COMMANDS:
            return args[0], load_command(args[0]), args[1:]
        return super().resolve_command(ctx, args)


def load_command(name: str) -> Any:
    """Import a command."""
    return typer.main.get_command(import_uncollected(f"gemlora.cli.{name}").app)


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gemlora {__version__}")
        raise typer.Exit


@app.callback()
def gemlora(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Serve a Gemma base model with any number of LoRA adapters, behind the Workers AI wire protocol."""


def main() -> None:
    """Run the command line; what gemlora refuses becomes one clear text and exit status 1."""
    try:
        app(prog_name="gemlora")
    except GemloraError as error:
        # Names are free text: their control characters would speak to the terminal.
        text = "".join(mark if mark.isprintable() or mark == "\n" else "\ufffd" for mark in str(error))
        print(f"Error: {text}", file=sys.stderr)
        raise SystemExit(1) from None
