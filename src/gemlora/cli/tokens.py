"""`gemlora tokens`: the tokens of an account in a data folder, or on a server."""

import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from gemlora.accounts.records import Scope
from gemlora.cli.options import with_target
from gemlora.cli.tables import print_json, print_table, shown
from gemlora.cli.targets import Target

app = typer.Typer(
    help="List, create and revoke tokens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

UNITS = {"m": "minutes", "h": "hours", "d": "days"}
DEFAULT_SCOPES = (Scope.RUN, Scope.FINETUNES_READ, Scope.FINETUNES_WRITE)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
@with_target()
def list_(target: Target, as_json: Json = False) -> None:
    """List an account's tokens that were not revoked, oldest first. Their plain text is not known."""
    tokens = target.list_tokens()
    if as_json:
        print_json(tokens)
        return
    keys = ("id", "name", "status", "scopes", "issued_on", "expires_on")
    heads = ("ID", "NAME", "STATUS", "SCOPES", "CREATED", "EXPIRES")
    print_table(heads, [[token.get(key) for key in keys] for token in tokens])


@app.command()
@with_target()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the token is for.", show_default=False)],
    target: Target,
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="What it may do; can be repeated. Default: all but admin.", show_default=False),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="When it ends: 12h, 90d, or a time like 2027-01-31T12:00:00Z. Default: never.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Create a token, and print its plain text, which is shown only now."""
    ends = None if expires is None else moment(expires, datetime.now(UTC))
    token = target.create_token(name, sorted(scope or DEFAULT_SCOPES), ends)
    if as_json:
        print_json(token)
        return
    print(f"Created {shown(token['name'])} ({token['id']}) for {shown(token['scopes'])}", file=sys.stderr)
    print(token["value"])


@app.command()
@with_target()
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the token.", show_default=False)],
    target: Target,
) -> None:
    """Revoke a token: it opens nothing from the next request on."""
    target.revoke_token(token_id)
    print(f"Revoked {token_id}")


def moment(text: str, now: datetime) -> datetime:
    """When `text` is: so long from now, or that time, here if it has no offset. Raises `typer.BadParameter`."""
    try:
        if match := re.fullmatch("([0-9]{1,9})([mhd])", text):
            return now + timedelta(**{UNITS[match[2]]: int(match[1])})
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no time: say 12h, 90d, or 2027-01-31T12:00:00Z", param_hint="--expires"
        ) from None
