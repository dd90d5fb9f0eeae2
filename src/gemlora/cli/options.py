"""Settings as flags of a command."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic.fields import FieldInfo

from gemlora.settings import Settings, flag

Command = Callable[..., None]


def with_settings(*keys: str) -> Callable[[Command], Command]:
    """Give a command a flag for each of these settings, and `--config`; it gets them as its argument `settings`.

    All values stay text here, so that `Settings` reports every error at once.
    """

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(config: Path | None, **arguments: Any) -> None:
            flags = {key: value for key in keys if (value := arguments.pop(key)) is not None}
            command(**arguments, settings=Settings.load(flags, config))

        own = [p for p in inspect.signature(command).parameters.values() if p.name != "settings"]
        parameters = [*own, *(_option(key, Settings.model_fields[key]) for key in keys), _CONFIG]
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        )
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def default_text(field: FieldInfo) -> str:
    """The default as the documentation shows it; empty when there is none."""
    if isinstance(field.json_schema_extra, dict):
        return str(field.json_schema_extra["default"])
    return "" if field.default is None else str(field.default)


def choices(field: FieldInfo) -> tuple[str, ...]:
    """The allowed values, if they are few."""
    return tuple(map(str, get_args(field.annotation))) if str(field.annotation).startswith("typing.Literal") else ()


def _option(key: str, field: FieldInfo) -> inspect.Parameter:
    default = default_text(field)
    option = typer.Option(
        flag(key),
        help=f"{field.description}{f' Default: {default}.' if default else ''}",
        metavar="|".join(choices(field)) or key.rsplit("_", 1)[-1].upper(),
        show_default=False,
    )
    return inspect.Parameter(
        key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )


_CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="TOML file with settings.", show_default=False),
    ],
)
