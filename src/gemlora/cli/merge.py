"""`gemlora merge`: a base with an adapter merged into it, for programs that know no adapters."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from gemlora.cli.exports import Dtype, Force, Format, Output, write_export
from gemlora.cli.options import with_target
from gemlora.cli.targets import Target
from gemlora.settings import Settings

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@with_target("weights", "revision", "hub_token")
def merge(
    adapter: Annotated[
        str,
        typer.Argument(
            metavar="ADAPTER", help="Name or id of an adapter, or a folder as PEFT saves it.", show_default=False
        ),
    ],
    output: Output,
    target: Target,
    settings: Settings,
    format_: Format = None,
    dtype: Dtype = "bfloat16",
    force: Force = False,
) -> None:
    """Write the base model with an adapter merged into it, as a Hugging Face folder or a GGUF file.

    Everything is computed in float32 from the base that --weights names. `gemlora models export` writes the base alone.
    """
    if (folder := Path(adapter)).is_dir():
        write_export((folder.resolve().name, folder), output, format_, dtype, force, settings)
        return
    from gemlora.cli.progress import ProgressBar

    with TemporaryDirectory(prefix="gemlora-") as temporary:
        with ProgressBar() as progress:
            target.download_adapter(adapter, Path(temporary), progress)
        write_export((adapter, Path(temporary)), output, format_, dtype, force, settings)
