"""The routes of aliases in the document."""

from gemlora.accounts.records import Scope
from gemlora.aliases import service
from gemlora.aliases.records import Action
from gemlora.aliases.sequential import Verdict
from gemlora.aliases.shadows import MEASURES, Outcome
from gemlora.api.aliases import DEFAULT_DESIGN, HIGHEST_REVISION
from gemlora.api.openapi.failures import READING, WITH_BODY
from gemlora.api.openapi.operation import Operation, answer, path
from gemlora.api.openapi.registry import CHANGING, INFO, OWN_NAME, PAGE
from gemlora.api.openapi.shapes import (
    BOOLEAN,
    COUNT,
    MOMENT,
    TEXT,
    UUID,
    Schema,
    enveloped,
    json_content,
    members,
    one_of,
    or_null,
    ref,
    sequence,
)
from gemlora.errors import (
    AdapterExists,
    AdapterIncomplete,
    AdapterNotFound,
    AliasNotFound,
    OutcomesMeasured,
    TooManyAliases,
)
from gemlora.registry.names import BARE_BASE, MAX_DESCRIPTION_LENGTH

ALIAS = path("alias", {"type": "string", "minLength": 1}, "Its name.")

_NOTE: dict[str, Schema] = {
    "note": or_null({"type": "string", "maxLength": MAX_DESCRIPTION_LENGTH, "pattern": "^[^\\x00]*$"})
}
_REVISION: dict[str, Schema] = {"revision": or_null({"type": "integer", "minimum": 1, "maximum": HIGHEST_REVISION})}
_WEIGHT: Schema = {"type": "number", "minimum": 0, "maximum": service.HIGHEST_WEIGHT}
_SHADOW: Schema = {
    "type": "number", "minimum": 0, "maximum": 1,
    "description": "The share of the alias's requests that the version answers too, without its answers being seen.",
}  # fmt: skip
_SHARE: Schema = members(
    {
        "version": {**TEXT, "description": f"An adapter's name or id, each once; `{BARE_BASE}`: the bare base."},
        "weight": _WEIGHT,
    },
    {"shadow": or_null(_SHADOW)},
)
_SHARES = ref("AliasShares")


def _between(lowest: float, highest: float, **more: float) -> Schema:
    return {"type": "number", "minimum": lowest, "maximum": highest, **more}


_TEST_OPTIONAL: dict[str, Schema] = {
    "better": {**one_of("higher", "lower"), "default": "higher"},
    "alpha": _between(service.LEAST_ALPHA, service.LARGEST_ALPHA, default=DEFAULT_DESIGN.alpha),
    "power": _between(service.LEAST_POWER, service.LARGEST_POWER, default=DEFAULT_DESIGN.power),
    "on_worse": {**one_of("keep", "rollback"), "default": "keep"},
    "measured_by": {**one_of("clients", "server"), "default": "clients"},
}
_TEST: dict[str, Schema] = {
    "control": {**TEXT, "description": "One of the versions, with a weight above 0."},
    "candidate": {**TEXT, "description": "Another one, with a weight or a share as a shadow above 0."},
    "metric": {
        "type": "string",
        "minLength": 1,
        "maxLength": service.LONGEST_METRIC,
        "format": "printable",
        "description": f"What the server measures, of a candidate that is a shadow, is one of {', '.join(MEASURES)}.",
    },
    "effect": _between(service.LEAST_EFFECT, service.LARGEST_EFFECT),
}
_SAMPLE: Schema = {"type": "integer", "minimum": 1, "maximum": service.LARGEST_SAMPLE}
_DECLARED: Schema = members(
    _TEST,
    {
        **_TEST_OPTIONAL,
        "sample": or_null({**_SAMPLE, "description": "At least what effect, alpha and power need; null: just that."}),
    },
)
_WANTED: dict[str, Schema] = {"test": or_null(_DECLARED), **_NOTE}
_RUNS: Schema = members({outcome.value: COUNT for outcome in Outcome})
_VERSION = members(
    {"version": TEXT, "weight": _WEIGHT, "shadow": _SHADOW},
    {"outcomes": COUNT, "mean": or_null(_between(0, 1)), "shadow_runs": _RUNS},
)
_STATE: dict[str, Schema] = {
    "revision": COUNT,
    "made_by": {**TEXT, "description": "A token's id; `test` and `command line` are no tokens."},
    "action": one_of(*Action),
    "note": TEXT,
    "versions": sequence(_VERSION, minItems=1),
}
_TESTED: dict[str, Schema] = {
    "test": members({**_TEST, **_TEST_OPTIONAL, "sample": _SAMPLE}, {"verdict": one_of(*Verdict)})
}

_FACTS: dict[str, Schema] = {
    "finish_reason": TEXT,
    "completion_tokens": COUNT,
    "max_tokens": COUNT,
    "characters": COUNT,
    "calls": COUNT,
    "json": {**BOOLEAN, "description": "Whether the text is a JSON document."},
    "seconds": {"type": "number", "minimum": 0},
}
_SAID: dict[str, Schema] = {
    "response": {**TEXT, "description": "Only where texts are kept."},
    "tool_calls": sequence(members({"name": TEXT, "arguments": TEXT})),
}
_MESSAGES: Schema = sequence(members({"role": TEXT, "content": TEXT}))


def schemas(most_versions: int) -> dict[str, Schema]:
    """Components, with how many versions an alias may point to."""
    weighty: Schema = {"properties": {"weight": {"exclusiveMinimum": 0}}}
    return {
        "AliasShares": {
            **sequence(_SHARE, minItems=1, maxItems=most_versions, contains=weighty),
            "description": "At most `max_alias_versions` of the server's settings.",
        },
        "Alias": members({"id": UUID, "name": TEXT, "created_at": MOMENT, "modified_at": MOMENT, **_STATE}, _TESTED),
        "AliasRevision": members({**_STATE, "made_at": MOMENT}, _TESTED),
        "AliasPair": members(
            {
                "pair": {**COUNT, "description": "Its number among all pairs of the alias."},
                "revision": COUNT,
                "made_at": MOMENT,
                "request_id": {**TEXT, "description": "The caller's `cf-ai-req-id`."},
                "equal": {**BOOLEAN, "description": "Whether both answers say the same."},
                "error": or_null({**TEXT, "description": "What the shadow failed with."}),
                "served": members({"version": TEXT, **_FACTS}, _SAID),
                "shadow": members({"version": TEXT}, {**_FACTS, **_SAID}),
                "messages": or_null({**_MESSAGES, "description": "The prompt; null where texts are not kept."}),
            }
        ),
    }


def aliases() -> dict[str, dict[str, Operation]]:
    """By path below `/ai/aliases`, and method."""
    read, write, found = Scope.FINETUNES_READ, Scope.FINETUNES_WRITE, frozenset({AliasNotFound})
    pointing = WITH_BODY | CHANGING | {AdapterNotFound, AdapterIncomplete}
    alias = answer(enveloped(ref("Alias")))
    return {
        "": {
            "get": Operation("The account's aliases", answer(enveloped(sequence(ref("Alias")))), scope=read),
            "post": Operation(
                "Create an alias", alias, pointing | {AdapterExists, TooManyAliases},
                body=json_content(members({"name": OWN_NAME, "versions": _SHARES}, _WANTED)), scope=write,
            ),
        },
        "/{alias}": {
            "get": Operation("One alias", alias, found, parameters=(ALIAS,), scope=read),
            "put": Operation(
                "Let an alias point elsewhere", alias, pointing | found,
                body=json_content(members({"versions": _SHARES}, _WANTED)), parameters=(ALIAS,), scope=write,
            ),
            "delete": Operation(
                "Delete an alias with its log", answer(enveloped(members({"id": UUID}))), found | CHANGING,
                parameters=(ALIAS,), scope=write,
            ),
        },
        "/{alias}/revisions": {
            "get": Operation(
                "The alias's log, the newest revision first",
                answer(enveloped(sequence(ref("AliasRevision")), INFO)), READING | found,
                parameters=(ALIAS, *PAGE), scope=read,
            )
        },
        "/{alias}/shadows": {
            "get": Operation(
                "Pairs of answers that shadow runs left, the newest first",
                answer(enveloped(sequence(ref("AliasPair")), INFO)), READING | found,
                parameters=(ALIAS, *PAGE), scope=read,
            )
        },
        "/{alias}/promote": {
            "post": Operation(
                "Give all weight to one version", alias, WITH_BODY | CHANGING | found,
                body=json_content(members({"version": TEXT}, _NOTE)), parameters=(ALIAS,), scope=write,
            )
        },
        "/{alias}/rollback": {
            "post": Operation(
                "Point where an earlier revision pointed", alias, WITH_BODY | CHANGING | found | {AdapterNotFound},
                body=json_content(members({}, {**_REVISION, **_NOTE})), parameters=(ALIAS,), scope=write,
            )
        },
        "/{alias}/outcomes": {
            "post": Operation(
                "Report the outcome of an answer", alias, WITH_BODY | CHANGING | found | {OutcomesMeasured},
                body=json_content(members({"version": TEXT, "value": _between(0, 1)}, _REVISION)),
                parameters=(ALIAS,), scope=Scope.RUN,
            )
        },
    }  # fmt: skip
