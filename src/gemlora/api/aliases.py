"""Aliases on the wire: made, changed, promoted, rolled back, their log, and what clients report of answers."""

from dataclasses import asdict
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response
from structlog.typing import FilteringBoundLogger

from gemlora.aliases.records import Alias, Revision, Share, Standing, Tally, Trial
from gemlora.aliases.sequential import Design
from gemlora.aliases.service import Aliases, Wanted
from gemlora.aliases.shadowing import ShadowRecords
from gemlora.aliases.shadows import Facts, KeptPair
from gemlora.api.accounts import page_asked, page_info
from gemlora.api.authentication import caller_of
from gemlora.api.body import BodyReader
from gemlora.api.changes import changing
from gemlora.api.envelope import envelope
from gemlora.api.members import members, required, string
from gemlora.api.validation import Json, type_mismatch
from gemlora.errors import InvalidRequest

HIGHEST_REVISION = 2**53
DEFAULT_DESIGN = Design(1.0)
"""For what a test leaves out; its effect it must name."""


class AliasRoutes:
    """The routes below `/ai/aliases`. Every alias is looked up among those of the caller's account."""

    def __init__(self, aliases: Aliases, shadows: ShadowRecords, bodies: BodyReader, log: FilteringBoundLogger) -> None:
        self._aliases = aliases
        self._shadows = shadows
        self._bodies = bodies
        self._log = log

    async def list(self, request: Request) -> Response:
        """All aliases of the account, oldest first."""
        return envelope([alias_body(alias) for alias in await self._aliases.list(caller_of(request).account_id)])

    async def create(self, request: Request) -> Response:
        """A new alias."""
        wanted = await self._bodies.json(request, members)
        name, described = string(wanted, "name"), wanted_of(wanted, caller_of(request).token.id)
        with changing(self._log):
            alias = await self._aliases.create(caller_of(request).account_id, name, described)
        return await self._shown(alias)

    async def show(self, request: Request) -> Response:
        """One alias, and what was reported of its answers."""
        return await self._shown(await self._aliases.find(caller_of(request).account_id, _named(request)))

    async def change(self, request: Request) -> Response:
        """Let the alias point elsewhere from the next request on."""
        described = wanted_of(await self._bodies.json(request, members), caller_of(request).token.id)
        with changing(self._log):
            alias = await self._aliases.change(caller_of(request).account_id, _named(request), described)
        return await self._shown(alias)

    async def promote(self, request: Request) -> Response:
        """Give all weight to one version."""
        caller, wanted = caller_of(request), await self._bodies.json(request, members)
        version, note = string(wanted, "version"), _note(wanted)
        with changing(self._log):
            alias = await self._aliases.promote(caller.account_id, _named(request), version, caller.token.id, note)
        return await self._shown(alias)

    async def roll_back(self, request: Request) -> Response:
        """Point where the previous revision pointed, or another one. The body may be `{}`."""
        caller, wanted = caller_of(request), await self._bodies.json(request, members)
        number, note = _revision(wanted), _note(wanted)
        with changing(self._log):
            alias = await self._aliases.roll_back(caller.account_id, _named(request), caller.token.id, note, number)
        return await self._shown(alias)

    async def revisions(self, request: Request) -> Response:
        """One page of the alias's log, the newest first."""
        page, size = page_asked(request.query_params)
        total, shown = await self._aliases.revisions(
            caller_of(request).account_id, _named(request), (page - 1) * size, size
        )
        bodies = [revision_body(revision, standing) for revision, standing in shown]
        return envelope(bodies, info=page_info(page, size, len(bodies), total))

    async def shadows(self, request: Request) -> Response:
        """One page of the pairs of answers that shadow runs left, the newest first."""
        page, size = page_asked(request.query_params)
        total, kept = await self._shadows.list(caller_of(request).account_id, _named(request), (page - 1) * size, size)
        return envelope([pair_body(pair) for pair in kept], info=page_info(page, size, len(kept), total))

    async def report(self, request: Request) -> Response:
        """Count the outcome of one answer; if a test says so, the alias changes at once."""
        wanted = await self._bodies.json(request, members)
        version, number, value = string(wanted, "version"), _revision(wanted), _number(wanted, "value", ())
        with changing(self._log):
            alias, standing = await self._aliases.report(
                caller_of(request).account_id, _named(request), version, value, number
            )
        return envelope(alias_body(alias, standing))

    async def delete(self, request: Request) -> Response:
        """Requests in flight keep the version that they got."""
        with changing(self._log):
            alias = await self._aliases.remove(caller_of(request).account_id, _named(request))
        return envelope({"id": alias.id})

    async def _shown(self, alias: Alias) -> Response:
        return envelope(alias_body(alias, await self._aliases.standing(alias)))


def alias_body(alias: Alias, standing: Standing | None = None) -> dict[str, Json]:
    """An alias as the wire shows it, in detail with what was reported in its current revision."""
    shown = revision_body(alias.current, standing)
    modified = shown.pop("made_at")
    return {
        "id": alias.id,
        "name": alias.name,
        "created_at": _moment(alias.created_at),
        "modified_at": modified,
        **shown,
    }


def revision_body(revision: Revision, standing: Standing | None = None) -> dict[str, Json]:
    """A revision as the wire shows it."""
    tallies = {} if standing is None else {tally.version: tally for tally in standing.tallies}
    versions: list[Json] = [
        {
            "version": version.name,
            "weight": version.weight,
            "shadow": version.shadow,
            **_outcomes(tallies.get(version.name)),
        }
        for version in revision.versions
    ]
    body: dict[str, Json] = {
        "revision": revision.number,
        "made_at": _moment(revision.made_at),
        "made_by": revision.made_by,
        "action": revision.action.value,
        "note": revision.note,
        "versions": versions,
    }
    if revision.trial is not None:
        verdict = None if standing is None else standing.verdict
        body["test"] = _trial_body(revision.trial) | ({} if verdict is None else {"verdict": verdict.value})
    return body


def pair_body(kept: KeptPair) -> dict[str, Json]:
    """A pair as the wire shows it."""
    pair, texts = kept.pair, kept.pair.texts or {}
    return {
        "pair": kept.serial,
        "revision": pair.shadow.revision,
        "made_at": _moment(pair.made_at),
        "request_id": pair.request_id,
        "equal": pair.equal,
        "error": pair.error,
        "served": _answer_body(pair.served, pair.served_facts, texts.get("served")),
        "shadow": _answer_body(pair.shadow.version, pair.shadow_facts, texts.get("shadow")),
        "messages": texts.get("messages"),
    }


def wanted_of(wanted: dict[str, Json], by: str) -> Wanted:
    """What a body says an alias shall be. Raises `IncompleteRequest` or `InvalidRequest`."""
    versions = required(wanted, "versions")
    if not isinstance(versions, list):
        raise InvalidRequest(type_mismatch(("versions",), "array", versions))
    shares = tuple(_share(version, ("versions", str(index))) for index, version in enumerate(versions))
    test = wanted.get("test")
    return Wanted(shares, by, _note(wanted), None if test is None else _trial(test))


def _share(value: Json, path: tuple[str, ...]) -> Share:
    if not isinstance(value, dict):
        raise InvalidRequest(type_mismatch(path, "object", value))
    shadow = _number(value, "shadow", path) if value.get("shadow") is not None else 0.0
    return Share(string(value, "version"), _number(value, "weight", path), shadow)


def _trial(test: Json) -> Trial:
    if not isinstance(test, dict):
        raise InvalidRequest(type_mismatch(("test",), "object", test))
    sample = _number(test, "sample", ("test",)) if test.get("sample") is not None else None
    if sample is not None and not sample.is_integer():
        raise InvalidRequest("'/test/sample' must be an integer")
    return Trial(
        control=string(test, "control"),
        candidate=string(test, "candidate"),
        metric=string(test, "metric"),
        lower_is_better=_choice(test, "better", ("higher", "lower")) == "lower",
        design=Design(
            effect=_number(test, "effect", ("test",)),
            alpha=_number({"alpha": DEFAULT_DESIGN.alpha, **test}, "alpha", ("test",)),
            power=_number({"power": DEFAULT_DESIGN.power, **test}, "power", ("test",)),
        ),
        sample=None if sample is None else int(sample),
        rolls_back=_choice(test, "on_worse", ("keep", "rollback")) == "rollback",
        measured=_choice(test, "measured_by", ("clients", "server")) == "server",
    )


def _trial_body(trial: Trial) -> dict[str, Json]:
    return {
        "control": trial.control,
        "candidate": trial.candidate,
        "metric": trial.metric,
        "better": "lower" if trial.lower_is_better else "higher",
        "effect": trial.design.effect,
        "alpha": trial.design.alpha,
        "power": trial.design.power,
        "sample": trial.sample,
        "on_worse": "rollback" if trial.rolls_back else "keep",
        "measured_by": "server" if trial.measured else "clients",
    }


def _outcomes(tally: Tally | None) -> dict[str, Json]:
    if tally is None:
        return {}
    return {
        "outcomes": tally.outcomes,
        "mean": tally.total / tally.outcomes if tally.outcomes else None,
        "shadow_runs": {**asdict(tally.shadow)},
    }


def _answer_body(version: str, facts: Facts | None, text: Json) -> dict[str, Json]:
    """What is known of an answer of a pair; `text` is what it says, if that is kept."""
    return {"version": version, **({} if facts is None else asdict(facts)), **(text if isinstance(text, dict) else {})}


def _choice(test: dict[str, Json], key: str, choices: tuple[str, ...]) -> str:
    """One of a few words, the first where the test has none."""
    value = test.get(key, choices[0])
    if value not in choices:
        raise InvalidRequest(f"'/test/{key}' must be one of {', '.join(choices)}")
    return str(value)


def _note(wanted: dict[str, Json]) -> str:
    return "" if wanted.get("note") is None else string(wanted, "note")


def _number(wanted: dict[str, Json], key: str, path: tuple[str, ...]) -> float:
    value = required(wanted, key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(type_mismatch((*path, key), "number", value))
    try:
        return float(value)
    except OverflowError:
        raise InvalidRequest(f"'/{'/'.join((*path, key))}' is too large") from None


def _revision(wanted: dict[str, Json]) -> int | None:
    if wanted.get("revision") is None:
        return None
    value = _number(wanted, "revision", ())
    if not value.is_integer() or not 1 <= value <= HIGHEST_REVISION:
        raise InvalidRequest(f"'/revision' must be an integer from 1 to {HIGHEST_REVISION}")
    return int(value)


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _named(request: Request) -> str:
    name: str = request.path_params["alias"]
    return name
