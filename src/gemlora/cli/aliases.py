"""`gemlora aliases`: names that point to versions with weights, in a data folder or on a server."""

import json
from pathlib import Path
from typing import Annotated

import typer

from gemlora.cli.options import with_target
from gemlora.cli.pairs import print_pair, print_pairs
from gemlora.cli.tables import print_json, print_table, shown
from gemlora.cli.targets import Record, Target
from gemlora.errors import InvalidRequest

app = typer.Typer(
    help="Names that split their requests between versions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="What requests write in lora.", show_default=False)]
Note = Annotated[str, typer.Option(help="Why, for the log.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
@with_target()
def list_(target: Target, as_json: Json = False) -> None:
    """List the account's aliases, oldest first."""
    aliases = target.list_aliases()
    if as_json:
        print_json(aliases)
    else:
        rows = [(alias["name"], alias["revision"], _versions(alias)) for alias in aliases]
        print_table(("NAME", "REVISION", "VERSIONS"), rows)


@app.command()
@with_target()
def show(name: Name, target: Target, as_json: Json = False) -> None:
    """Show where an alias points, and what was reported of its answers."""
    alias = target.show_alias(name)
    if as_json:
        print_json(alias)
        return
    rows = [
        (one["version"], f"{one['weight']:g}", one["outcomes"], _mean(one), f"{one['shadow']:g}", _runs(one))
        for one in alias["versions"]
    ]
    print_table(("VERSION", "WEIGHT", "OUTCOMES", "MEAN", "SHADOW", "RUN/DROPPED/FAILED"), rows)
    if "test" in alias:
        test = alias["test"]
        print(f"Test of {shown(test['metric'])}: {shown(test['candidate'])} against {shown(test['control'])}: "
              f"{shown(test['verdict'])}")  # fmt: skip


@app.command("set")
@with_target()
def set_(
    name: Name,
    versions: Annotated[
        list[str],
        typer.Argument(
            metavar="VERSION=WEIGHT...",
            help="Adapters, by name or id, with the weights of their shares; cf-public-base is the bare base.",
            show_default=False,
        ),
    ],
    target: Target,
    shadow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VERSION=SHARE",
            help="Let a version answer this share of the requests too, from 0 to 1, unseen; repeatable.",
            show_default=False,
        ),
    ] = None,
    note: Note = "",
    test: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON of a test that the alias declares.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Let an alias point to these versions from the next request on; make it if there is none."""
    wanted: Record = {"versions": _shares(versions, shadow or []), "note": note}
    _tell(target.set_alias(name, wanted if test is None else wanted | {"test": _read(test)}), as_json)


@app.command()
@with_target()
def promote(
    name: Name,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="One of the alias's versions.", show_default=False)],
    target: Target,
    note: Note = "",
    as_json: Json = False,
) -> None:
    """Give all weight to one of the alias's versions."""
    _tell(target.promote_alias(name, version, note), as_json)


@app.command()
@with_target()
def rollback(
    name: Name,
    target: Target,
    revision: Annotated[int | None, typer.Option(metavar="N", help="Go back to this one.", show_default=False)] = None,
    note: Note = "",
    as_json: Json = False,
) -> None:
    """Point where the previous revision pointed, from the next request on."""
    _tell(target.roll_back_alias(name, revision, note), as_json)


@app.command()
@with_target()
def log(name: Name, target: Target, as_json: Json = False) -> None:
    """Show all revisions of an alias, the newest first."""
    revisions = target.list_alias_revisions(name)
    if as_json:
        print_json(revisions)
        return
    heads = ("REVISION", "MADE", "BY", "ACTION", "VERSIONS", "NOTE")
    keys = ("revision", "made_at", "made_by", "action")
    rows = [(*(one[key] for key in keys), _versions(one), one["note"]) for one in revisions]
    print_table(heads, rows)


@app.command()
@with_target()
def shadows(
    name: Name,
    target: Target,
    texts: Annotated[bool, typer.Option("--texts", help="Print prompts and answers, where they are kept.")] = False,
    as_json: Json = False,
) -> None:
    """Show the pairs of answers that shadow runs left, the newest first."""
    pairs = target.list_alias_pairs(name)
    if as_json:
        print_json(pairs)
    elif texts:
        for pair in pairs:
            print_pair(pair)
    else:
        print_pairs(pairs)


@app.command()
@with_target()
def remove(name: Name, target: Target) -> None:
    """Remove an alias with its log. Requests that run keep the version that they got."""
    target.remove_alias(name)
    print(f"Removed {name}")


def _shares(versions: list[str], shadows: list[str]) -> list[Record]:
    """The versions of a body; one that is a shadow alone has the weight 0."""
    shares: dict[str, Record] = {}
    for key, texts in (("weight", versions), ("shadow", shadows)):
        for text in texts:
            version, _, number = text.rpartition("=")
            try:
                shares.setdefault(version, {"version": version, "weight": 0.0})[key] = float(number)
            except ValueError:
                raise InvalidRequest(f"{text}: must be VERSION={'WEIGHT' if key == 'weight' else 'SHARE'}") from None
    return [*shares.values()]


def _read(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{file}: {error}") from None


def _tell(alias: Record, as_json: bool) -> None:
    if as_json:
        print_json(alias)
    else:
        print(f"{shown(alias['name'])} is at revision {alias['revision']}: {', '.join(_versions(alias))}")


def _versions(alias: Record) -> list[str]:
    return [f"{shown(one['version'])}={one['weight']:g}{_as_shadow(one)}" for one in alias["versions"]]


def _as_shadow(version: Record) -> str:
    return f" (shadow {version['shadow']:g})" if version["shadow"] else ""


def _runs(version: Record) -> str | None:
    runs = version["shadow_runs"]
    return f"{runs['run']}/{runs['dropped']}/{runs['failed']}" if version["shadow"] or any(runs.values()) else None


def _mean(version: Record) -> str | None:
    return None if version["mean"] is None else f"{version['mean']:.3f}"
