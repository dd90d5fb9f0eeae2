"""`gemlora train`: from examples to an adapter that requests can name."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gemlora.cli.options import with_target
from gemlora.cli.targets import Target
from gemlora.errors import AdapterExists, AdapterNotFound, TrainingRefused
from gemlora.settings import Settings, flag
from gemlora.training.plan import Plan

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

DEFAULTS = Plan()


def _option(name: str, text: str, metavar: str) -> Any:
    """An option that is a field of the plan."""
    value = DEFAULTS.to_json()[name]
    shown = ",".join(value) if isinstance(value, list) else value
    return typer.Option(flag(name), help=f"{text} Default: {shown}.", metavar=metavar, show_default=False)


@app.command()
@with_target(
    "cache_dir", "model", "weights", "revision", "hub_token", "quantize", "engine", "limits",
    "max_adapter_rank", "max_adapter_bytes", "max_adapters",
)  # fmt: skip
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
    rank: Annotated[int, _option("rank", "Rank of the update.", "R")] = DEFAULTS.rank,
    alpha: Annotated[float, _option("alpha", "The update is scaled by ALPHA / R.", "ALPHA")] = DEFAULTS.alpha,
    dropout: Annotated[
        float, _option("dropout", "Share of the update's inputs that a step drops.", "SHARE")
    ] = DEFAULTS.dropout,
    modules: Annotated[str, _option("modules", "Linear modules that get an update.", "NAMES")] = ",".join(
        DEFAULTS.modules
    ),
    learning_rate: Annotated[
        float, _option("learning_rate", "Highest learning rate.", "RATE")
    ] = DEFAULTS.learning_rate,
    warmup: Annotated[float, _option("warmup", "Share of the steps in which it rises.", "SHARE")] = DEFAULTS.warmup,
    epochs: Annotated[int, _option("epochs", "How often each example is learnt at most.", "N")] = DEFAULTS.epochs,
    batch_size: Annotated[int, _option("batch_size", "Examples per step.", "N")] = DEFAULTS.batch_size,
    max_tokens: Annotated[int, _option("max_tokens", "Longer examples are left out.", "N")] = DEFAULTS.max_tokens,
    held_out: Annotated[
        float, _option("held_out", "Share of the examples that are only watched; 0 watches none.", "SHARE")
    ] = DEFAULTS.held_out,
    evaluations: Annotated[
        int, _option("evaluations", "Looks at the held-out examples per epoch.", "N")
    ] = DEFAULTS.evaluations,
    patience: Annotated[
        int, _option("patience", "Stop after so many looks without a better one.", "N")
    ] = DEFAULTS.patience,
    seed: Annotated[int, _option("seed", "Draws the order, the start and what dropout drops.", "N")] = DEFAULTS.seed,
) -> None:
    """Train an adapter from examples: fine-tune the served base with LoRA, and register the result.

    A training that was killed goes on where it was with the same command. Needs the extra `train`: PyTorch,
    transformers and PEFT.
    """
    from gemlora.cli.progress import ProgressBar

    plan = Plan(
        rank, alpha, dropout, tuple(modules.split(",")), learning_rate, warmup, epochs,
        batch_size, max_tokens, held_out, evaluations, patience, seed,
    )  # fmt: skip
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
