"""What the document asks for in words or by a format, because no schema can say it: such data for Schemathesis."""

import copy
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import strategies
from schemathesis import Case, HookContext
from schemathesis.hooks import unregister
from schemathesis.specs.openapi.formats import unregister_string_format
from tests.e2e.running_server import RunningServer
from tests.registry.peft_folder import PeftFolder, tensors

from gemlora.engines.fake import FAKE_FACTS
from gemlora.registry.adapters import CONFIG_FILE, WEIGHTS_FILE
from gemlora.registry.names import PUBLIC_PREFIX

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
AI = "/client/v4/accounts/{account_id}/ai"
FINETUNES = f"{AI}/finetunes"
NAMING = {
    *(f"POST {place}" for place in (FINETUNES, f"{FINETUNES}/{{finetune}}/publish", f"{AI}/aliases")),
    f"PATCH {FINETUNES}/{{finetune}}",
}
"""Operations that want a name which is free."""
BINDING = {"POST /run", "POST /ai-gateway/run", f"POST {AI}/run/proxy"}
"""Operations that have what generates text as a member of their bodies."""
GENERATING = BINDING | {f"POST {AI}/{place}" for place in ("run/{model}", "v1/chat/completions", "v1/completions")}
ANSWER = {"enum": [True, False]}
ENOUGH_TOKENS = 200
"""For an answer that is held to these."""
VISIBLE = strategies.characters(categories=("L", "N", "P", "S"))
NAMES = strategies.text(VISIBLE, min_size=1, max_size=40)
MOMENTS = strategies.timedeltas(timedelta(days=1), timedelta(days=10_000)).map(
    lambda later: (datetime.now(UTC) + later).isoformat()
)


def formats() -> dict[str, strategies.SearchStrategy[Any]]:
    """A strategy for each format of the document's own."""
    config, weights = _adapter()
    return {
        "printable-name": NAMES,
        "own-name": NAMES,
        "public-name": NAMES.map(f"{PUBLIC_PREFIX}{{}}".format),
        "future-date-time": MOMENTS,
        "adapter-config": strategies.just(config),
        "adapter-weights": strategies.just(weights),
    }


class Mended:
    """Bodies that meet the document's schemas, so changed that they meet its descriptions too."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self._used: set[str] = set()
        self._numbers = itertools.count()

    def mend(self, case: Case) -> None:
        """Change the body of a case that shall be accepted."""
        if case.meta is None or not isinstance(case.body, dict):
            return
        names = case.operation.label in NAMING
        if not case.meta.generation.mode.is_positive:
            if names and isinstance(case.body.get("name"), str):
                self._used.add(case.body["name"])
            return
        body = copy.deepcopy(case.body)
        if names:
            body["name"] = self._fresh(self._named(case, body["name"]))
        elif case.operation.label in GENERATING:
            for request in _asked(body["inputs"] if case.operation.label in BINDING else body):
                _mend_shape(request)
        case.body = body

    def _named(self, case: Case, name: str) -> str:
        """A new name of a public finetune has the public prefix, and one of another finetune has not."""
        if case.method != "PATCH":
            return name
        url = f"{self._server.url}{case.formatted_path}"
        shown = requests.get(url, headers=self._server.authorization, timeout=10).json()["result"]
        public = shown is not None and shown["public"]
        return f"{PUBLIC_PREFIX if public else ''}{name.removeprefix(PUBLIC_PREFIX)}"

    def _fresh(self, name: str) -> str:
        """The name if it was not used yet, or one of its length like it."""
        while name in self._used:
            number = str(next(self._numbers))
            name = name[: max(len(PUBLIC_PREFIX), len(name) - len(number))] + number
        self._used.add(name)
        return name


def _asked(inputs: dict[str, Any]) -> list[dict[str, Any]]:
    """The inputs of the requests that a body makes: one, or those of a batch, which then waits for its turn.

    A question about a batch makes none: what else stands in it may be anything.
    """
    if "prompt" in inputs or "messages" in inputs:
        return [inputs]
    if "request_id" in inputs or "requests" not in inputs:
        return []
    inputs["queueRequest"] = True
    several: list[dict[str, Any]] = inputs["requests"]
    return several


def _mend_shape(body: dict[str, Any]) -> None:
    """Schemas that answers can be held to, tools of different names, a choice of one of them, and enough tokens."""
    wanted, tools, choice = (body.get(key) for key in ("response_format", "tools", "tool_choice"))
    if wanted and wanted["type"] == "json_schema":
        wanted["json_schema"] = {"name": "x", "schema": ANSWER} if "schema" in wanted["json_schema"] else ANSWER
    for number, tool in enumerate(tools or ()):
        function = tool.get("function", tool)
        function["name"] = f"{function['name'][:60]}-{number}"
        if function.get("parameters"):
            function["parameters"] = CITY
    if isinstance(choice, dict) and tools:
        function = choice.get("function", choice)
        name = tools[0].get("function", tools[0])["name"]
        if isinstance(function, str):
            choice["function"] = name
        elif isinstance(function, dict) and isinstance(function.get("name"), str):
            function["name"] = name
    if tools or (wanted and wanted["type"] != "text"):
        body |= {limit: ENOUGH_TOKENS for limit in ("max_tokens", "max_completion_tokens") if limit in body}


@contextmanager
def supplied(server: RunningServer) -> Iterator[None]:
    """With strategies and the hook in place."""
    names, mended = formats(), Mended(server)

    def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
        mended.mend(case)

    for name, strategy in names.items():
        schemathesis.openapi.format(name, strategy)
    schemathesis.hook(before_call)
    try:
        yield
    finally:
        unregister(before_call)
        for name in names:
            unregister_string_format(name)


def _adapter() -> tuple[bytes, bytes]:
    """The files of an adapter that fits what the fake engine claims to serve."""
    folder = PeftFolder(tensors=tensors(layers=range(FAKE_FACTS.layers), shapes=dict(FAKE_FACTS.modules)))
    with tempfile.TemporaryDirectory() as place:
        written = folder.write(Path(place))
        return (written / CONFIG_FILE).read_bytes(), (written / WEIGHTS_FILE).read_bytes()
