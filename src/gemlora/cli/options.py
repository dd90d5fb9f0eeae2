"""Settings as flags of a command, and the flags that say what a command acts on."""

import inspect
import os
from collections.abc import Callable
from contextlib import closing
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic.fields import FieldInfo

from gemlora.cli.targets import Target
from gemlora.errors import SettingsInvalid
from gemlora.settings import CLIENT_VARIABLE, Settings, flag

Command = Callable[..., None]

OWN_ACCOUNT = "your-account-id"
"""What servers take for the token's own account."""


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
        return with_signature(run, [*own, *(_option(key, Settings.model_fields[key]) for key in keys), _CONFIG])

    return decorate


def with_target(*keys: str, of_account: bool = True) -> Callable[[Command], Command]:
    """Give a command `--data-dir` and these settings as flags, `--url`, `--token` and, if wanted, `--account`.

    It gets a data folder or a server as its argument `target`, and the settings too if it has an argument `settings`.
    What a flag names wins over what a variable names.
    """

    def decorate(command: Command) -> Command:
        parameters = inspect.signature(command).parameters

        @wraps(command)
        def run(
            url: str | None, token: str | None, config: Path | None, account: str | None = None, **arguments: Any
        ) -> None:
            flags = {key: value for key in ("data_dir", *keys) if (value := arguments.pop(key)) is not None}
            if url and "data_dir" in flags:
                raise SettingsInvalid("--url and --data-dir exclude each other")
            settings = Settings.load(flags, config)
            if "data_dir" not in flags:
                url = url or os.environ.get(CLIENT_VARIABLE)
            if "settings" in parameters:
                arguments["settings"] = settings
            with closing(_target(settings, url, token, account)) as target:
                command(**arguments, target=target)

        own = [p for p in parameters.values() if p.name not in ("target", "settings")]
        settings = [_option(key, Settings.model_fields[key]) for key in ("data_dir", *keys)]
        account = [_ACCOUNT] if of_account else []
        return with_signature(run, [*own, *settings, *_SERVER, *account, _CONFIG])

    return decorate


def _target(settings: Settings, url: str | None, token: str | None, account: str | None) -> Target:
    if not url:
        if token:
            raise SettingsInvalid(f"--token is for a server: name it with --url or {CLIENT_VARIABLE}")
        from gemlora.cli.local import LocalTarget

        return LocalTarget(settings, account)
    token = token or (settings.api_token.get_secret_value() if settings.api_token else None)
    if not token:
        raise SettingsInvalid(f"The server at {url} wants a token: --token or GEMLORA_API_TOKEN")
    from gemlora.cli.remote import RemoteTarget

    return RemoteTarget(url, token, account or OWN_ACCOUNT, settings.model)


def with_signature(run: Command, parameters: list[inspect.Parameter]) -> Command:
    """Let typer see these parameters."""
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


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


def _text_option(name: str, description: str, metavar: str) -> inspect.Parameter:
    option = typer.Option(flag(name), help=description, metavar=metavar, show_default=False)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )


_SERVER = (
    _text_option("url", f"Act on this server, not on a data directory. Default: {CLIENT_VARIABLE}.", "URL"),
    _text_option("token", "Token for the server. Default: GEMLORA_API_TOKEN.", "TOKEN"),
)
_ACCOUNT = _text_option(
    "account", "Id of the account. Default: the token's own; in a data directory the first one.", "ID"
)
