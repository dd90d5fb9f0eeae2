"""`gemlora accounts`: the accounts of a data folder, or of a server."""

from typing import Annotated

import typer

from gemlora.cli.options import with_target
from gemlora.cli.tables import print_json, print_table, shown
from gemlora.cli.targets import Target

app = typer.Typer(
    help="List, create and delete accounts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
@with_target(of_account=False)
def list_(target: Target, as_json: Json = False) -> None:
    """List the accounts, oldest first."""
    accounts = target.list_accounts()
    if as_json:
        print_json(accounts)
    else:
        print_table(("ID", "NAME", "CREATED"), [(one["id"], one["name"], one["created_on"]) for one in accounts])


@app.command()
@with_target(of_account=False)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Free text.", show_default=False)],
    target: Target,
    as_json: Json = False,
) -> None:
    """Create an account. It has no tokens yet: see gemlora tokens create."""
    account = target.create_account(name)
    if as_json:
        print_json(account)
    else:
        print(f"Created {shown(account['name'])} ({account['id']})")


@app.command()
@with_target(of_account=False)
def delete(
    account_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the account.", show_default=False)],
    target: Target,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete an account with its tokens and adapters. Requests that run end with what they started with."""
    if not yes:
        typer.confirm(f"Delete the account {account_id} with all its tokens and adapters?", abort=True)
    target.delete_account(account_id)
    print(f"Deleted {account_id}")
