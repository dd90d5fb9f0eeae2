"""The plan of a training as options of a command."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any

import typer

from gemlora.cli.options import Command, with_signature
from gemlora.settings import flag
from gemlora.training.plan import Plan

DEFAULTS = Plan()

OPTIONS: Mapping[str, tuple[str, str]] = {
    "rank": ("Rank of the update.", "R"),
    "alpha": ("The update is scaled by ALPHA / R.", "ALPHA"),
    "dropout": ("Share of the update's inputs that a step drops.", "SHARE"),
    "modules": ("Linear modules that get an update.", "NAMES"),
    "learning_rate": ("Highest learning rate.", "RATE"),
    "warmup": ("Share of the steps in which it rises.", "SHARE"),
    "epochs": ("How often each example is learnt at most.", "N"),
    "batch_size": ("Examples per step.", "N"),
    "max_tokens": ("Longer examples are left out.", "N"),
    "held_out": ("Share of the examples that are only watched; 0 watches none.", "SHARE"),
    "evaluations": ("Looks at the held-out examples per epoch.", "N"),
    "patience": ("Stop after so many looks without a better one.", "N"),
    "seed": ("Draws the order, the start and what dropout drops.", "N"),
}
"""What each field of the plan says in the help, and how its value is called."""


def with_plan(command: Command) -> Command:
    """Give a command an option for each field of the plan; it gets the plan as its argument `plan`."""

    @wraps(command)
    def run(**arguments: Any) -> None:
        chosen = {name: arguments.pop(name) for name in OPTIONS}
        plan = Plan(**chosen | {"modules": tuple(chosen["modules"].split(","))})
        command(**arguments, plan=plan)

    own = [p for p in inspect.signature(command).parameters.values() if p.name != "plan"]
    return with_signature(run, [*own, *(_parameter(name, *texts) for name, texts in OPTIONS.items())])


def _parameter(name: str, text: str, metavar: str) -> inspect.Parameter:
    value = getattr(DEFAULTS, name)
    default = ",".join(value) if isinstance(value, tuple) else value
    option = typer.Option(flag(name), help=f"{text} Default: {default}.", metavar=metavar, show_default=False)
    kind: Callable[..., Any] = type(default)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])
