"""`gemlora train`: from examples to an adapter that requests can name."""

from pathlib import Path
from typing import Annotated

import typer

from gemlora.cli.options import with_target
from gemlora.cli.plan_options import with_plan
from gemlora.cli.targets import Target
from gemlora.errors import AdapterExists, AdapterNotFound, TrainingRefused
from gemlora.settings import Settings
from gemlora.training.plan import Plan

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@with_target(
    "cache_dir", "model", "weights", "revision", "hub_token", "quantize", "engine", "limits",
    "max_adapter_rank", "max_adapter_bytes", "max_adapters",
)  # fmt: skip
@with_plan
def train(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            show_default=False,
            help="JSONL: {messages}, {prompt, completion} or {text} in each line; see docs/training.md.",
        ),
    ],
    name: Annotated[str, typer.Option(help="What requests will write in lora.", show_default=False)],
    target: Target,
    settings: Settings,
    plan: Plan,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the adapter. Default: NAME.", metavar="FOLDER", show_default=False)
    ] = None,
    held_out_data: Annotated[
        Path | None,
        typer.Option(
            help="JSONL of examples that are only watched, instead of a share of DATA.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what FOLDER holds and begin anew.")] = False,
    upload: Annotated[bool, typer.Option(help="Register the adapter when it is trained.")] = True,
    description: Annotated[
        str, typer.Option(help="Free text for the registry and the model card.", show_default=False)
    ] = "",
) -> None:
    """Train an adapter from examples: fine-tune the served base with LoRA, and register the result.

    A training that was killed goes on where it was with the same command. Needs the extra `train`: PyTorch,
    transformers and PEFT.
    """
    from gemlora.cli.progress import ProgressBar

    if upload:
        _require_unused(target, name)
    folder = output or Path(name)
    _require_libraries()

    from gemlora.cli.training_view import TrainingView
    from gemlora.engines.cpu.weights.cache import ModelCache
    from gemlora.engines.cpu.weights.source import locate
    from gemlora.training.job import Job

    secret = settings.hub_token.get_secret_value() if settings.hub_token else None
    with ProgressBar() as progress:
        source = locate(settings.weights, settings.revision, secret, progress)
        digest = source.digest(ModelCache(Path(settings.cache_dir).expanduser()), progress)
    job = Job(name, data, source, digest, plan, folder, held_out_data, description, restart)
    with TrainingView() as view:
        history = job.run(view, view.tell)
    view.summary(history)
    print(f"The adapter is in {folder}, with its model card (README.md) and curves.png")
    if upload:
        with ProgressBar() as progress:
            target.add_adapter(name, folder, description, False, progress)
        print(f'Requests can name it now: "lora": "{name}"')


def _require_unused(target: Target, name: str) -> None:
    """Better now than after the training. Raises `AdapterExists`."""
    try:
        target.show_adapter(name)
    except AdapterNotFound:
        return
    raise AdapterExists(f"An adapter named {name!r} exists already")


def _require_libraries() -> None:
    try:
        import peft  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise TrainingRefused(
            f"Training needs PyTorch, transformers and PEFT ({error}). Install them with: pip install 'gemlora[train]'"
        ) from error
