"""What `gemlora merge` and `gemlora models export` have in common: their options, and what they say at the end."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from gemlora.errors import InvalidRequest
from gemlora.settings import Settings

if TYPE_CHECKING:
    from gemlora.conversion.exporting import Exported
    from gemlora.conversion.formats import DtypeName, FormatName

GGUF_ENDING = ".gguf"
FORMATS = ("huggingface", "gguf")
DTYPES = ("bfloat16", "float16", "float32")

Output = Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder to write, or a GGUF file.", show_default=False)]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="|".join(FORMATS),
        help="Default: gguf if OUTPUT ends with .gguf, else huggingface.",
        show_default=False,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="|".join(DTYPES),
        help="Type of the weights that are written. Default: bfloat16.",
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the model that is at OUTPUT.")]


def write_export(
    adapter: tuple[str, Path] | None, output: Path, format_: str | None, dtype: str, force: bool, settings: Settings
) -> None:
    """Write the base of the settings, with the adapter of a name and folder merged into it, and say how to use it."""
    from gemlora.cli.progress import ProgressBar
    from gemlora.conversion.exporting import Export, export
    from gemlora.engines.cpu.weights.source import locate

    format_ = _chosen("format", format_ or ("gguf" if output.suffix == GGUF_ENDING else "huggingface"), FORMATS)
    wanted = Export(output, cast("FormatName", format_), cast("DtypeName", _chosen("dtype", dtype, DTYPES)), force)
    token = settings.hub_token.get_secret_value() if settings.hub_token else None
    with ProgressBar() as progress:
        source = locate(settings.weights, settings.revision, token, progress)
        exported = export(source, adapter, wanted, progress)
    for note in exported.notes:
        print(note, file=sys.stderr)
    print("\n".join(usage(exported, output, format_, dtype)))


def usage(exported: "Exported", output: Path, format_: str, dtype: str) -> list[str]:
    """What was written and what can be done with it."""
    path = shlex.quote(str(output))
    lines = [
        f"Wrote {exported.name} to {output} ({exported.size / 1e9:.2f} GB, {dtype})",
        f"Serve it with: gemlora serve --weights {path}",
    ]
    if exported.for_llama:
        lines.append(f"With llama.cpp: llama-server -m {path}")
    elif format_ == "huggingface":
        lines.append(f"In Python: transformers.AutoModelForCausalLM.from_pretrained({str(output)!r})")
    return lines


def _chosen(option: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise InvalidRequest(f"--{option} is {value}; expected one of {', '.join(choices)}")
    return value
