"""The OpenAPI document says what the server does: every route, who may call it, and which bodies it accepts."""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from tests.api.bodies import LONGEST, SCHEMA, SCHEMA_FILE, Bodies
from tests.api.openapi.shaped_bodies import ShapedBodies
from tests.api.parts import MODEL, RUN, TOKEN, Parts
from tests.api.test_routes import api_routes, guards_of
from tests.api.test_shapes import CALL, CHAT, SECOND, TIME, WEATHER, Client

from gemlora.accounts.records import Scope
from gemlora.api.authentication import Access
from gemlora.api.batches import QUEUE, Batching
from gemlora.api.envelope import error_text
from gemlora.api.guarded import GuardedRoute
from gemlora.api.inputs import InputReader
from gemlora.api.limits import Limits
from gemlora.api.openai_inputs import Reader
from gemlora.api.openapi.batches import with_batches
from gemlora.api.openapi.operation import SCHEME
from gemlora.api.shapes import ShapeLimits, ShapeReader
from gemlora.batches.records import Answer, Answered, Batch, Progress, Status
from gemlora.engines.fake import FakeEngine
from gemlora.errors import BatchNotFound, ConstraintInvalid, InvalidRequest, PromptTooLong
from gemlora.playground.page import Playground
from gemlora.registry.models import Catalogue

COUNT = 6000
SHAPES = ShapeReader(ShapeLimits())
OPENAI = "/client/v4/accounts/{account_id}/ai/v1"
RUN_PLACE = "/client/v4/accounts/{account_id}/ai/run/{model}"
BEYOND_SCHEMAS = (" has the name of another tool", "'/tool_choice' names none of the tools")
COMMITTED = Path(__file__).parents[3] / "docs" / "openapi.json"


@pytest.fixture
def described(parts: Parts) -> Any:
    return parts.document


def with_page(parts: Parts) -> Parts:
    """The whole router, the page included."""
    page = Playground(Catalogue(parts.services.catalogue.list()))
    for path, handler in (("/", page.page), ("/playground/{name}", page.file)):
        parts.api.routes.append(GuardedRoute(path, handler, ("GET", "HEAD"), guard=None))
    return parts


def test_every_route_is_described_and_nothing_else(parts: Parts, described: Any) -> None:
    routed = {
        (route.path.replace(":path", ""), method.lower())
        for route in api_routes(with_page(parts))
        for method in route.methods
    }
    documented = {
        (place, method) for place, methods in described["paths"].items() for method in methods if method != "parameters"
    }

    assert documented == routed


def test_each_route_s_token_and_scope_are_those_of_its_guard(parts: Parts, described: Any) -> None:
    for route in api_routes(parts):
        guards = guards_of(route)
        scopes = [Scope.ADMIN if guard.access is Access.OPERATOR else guard.scope for guard in guards]
        wanted = [{SCHEME: [] if scope is None else [scope.value]} for scope in scopes]
        for method in route.methods:
            operation = described["paths"][route.path.replace(":path", "")][method.lower()]
            assert operation["security"] == wanted, route.path


def test_each_part_of_a_path_is_described(described: Any) -> None:
    for place, methods in described["paths"].items():
        for method, operation in methods.items():
            if method == "parameters":
                continue
            parameters = [*methods.get("parameters", []), *operation.get("parameters", [])]
            names = {parameter["name"] for parameter in parameters if parameter["in"] == "path"}
            assert names == {part[1:-1] for part in place.split("/") if part.startswith("{")}, place


def test_all_schemas_are_valid(described: Any) -> None:
    assert described["openapi"] == "3.2.0"
    for schema in described["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)


def validator(described: Any, schema: Any) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for({**schema, "components": described["components"]})


def refusal(read: Callable[[Any], object], body: Any) -> str | None:
    """The server's text, empty if it accepts; None where no schema can say what it refuses.

    That is a schema that answers cannot be held to, a second tool of a name, and a choice of a tool that is not there.
    """
    try:
        read(body)
    except InvalidRequest as error:
        text = str(error)
        is_schema_s = any(isinstance(one, ConstraintInvalid) for one in (error, error.__context__))
        return None if is_schema_s or text.endswith(BEYOND_SCHEMAS) else text
    return ""


def is_counted_otherwise(body: Any) -> bool:
    """Whether a text may be longer in UTF-16 units than the bound, and not in the characters that schemas count."""
    text = json.dumps(body, ensure_ascii=False)
    return len(text) > LONGEST // 2 and any(character > "\uffff" for character in text)


def check(schema: jsonschema_rs.Validator, read: Callable[[Any], object], bodies: Iterable[Any]) -> list[Any]:
    """Those that both accept, once it is clear that both accept the same."""
    accepted, differences = [], []
    for body in bodies:
        text = refusal(read, body)
        if text is None or is_counted_otherwise(body):
            continue
        if schema.is_valid(body) is bool(text):
            differences.append(f"{json.dumps(body)[:1000]}\n  server: {text or 'accepted'}")
        elif not text:
            accepted.append(body)
    assert len(differences) == 0, f"{len(differences)}:\n" + "\n".join(differences[:5])
    return accepted


def without_options(bodies: Iterable[Any]) -> Iterator[Any]:
    """Where they are read depends on the route."""
    for body in bodies:
        if isinstance(body, dict):
            body.pop("options", None)
        yield body


def body_schema(described: Any, place: str) -> jsonschema_rs.Validator:
    """Of what is posted there."""
    content = described["paths"][place]["post"]["requestBody"]["content"]
    return validator(described, content["application/json"]["schema"])


@pytest.mark.parametrize("kind", [Bodies, ShapedBodies])
def test_the_run_route_s_schema_and_the_server_accept_the_same_inputs(described: Any, kind: type[Bodies]) -> None:
    schema = validator(described, {"$ref": "#/components/schemas/RunInputs"})
    reader = InputReader(SCHEMA, SHAPES)

    accepted = check(schema, lambda body: reader.read(body, MODEL), without_options(itertools.islice(kind(2), COUNT)))

    assert 500 < len(accepted) < COUNT - 1000


def test_the_accepted_inputs_have_shapes_of_many_kinds() -> None:
    reader = InputReader(SCHEMA, SHAPES)
    shapes = []
    for body in itertools.islice(ShapedBodies(2), COUNT):
        with contextlib.suppress(InvalidRequest):
            shapes.append(reader.read(body, MODEL).shape)

    assert sum(shape.is_document for shape in shapes) > 50
    assert sum(shape.tools is not None for shape in shapes) > 50
    assert sum(shape.tools is not None and shape.tools.required for shape in shapes) > 10


@pytest.mark.parametrize("kind", [Bodies, ShapedBodies])
def test_the_schemas_of_completions_and_the_server_accept_the_same_bodies(described: Any, kind: type[Bodies]) -> None:
    reader = Reader(256, 0.6, SHAPES)
    bodies = [
        {"model": MODEL, "max_completion_tokens": number % 5 - 1, **body} if isinstance(body, dict) else body
        for number, body in enumerate(itertools.islice(kind(3), COUNT))
    ]

    chats = check(body_schema(described, f"{OPENAI}/chat/completions"), reader.chat, bodies)
    texts = check(body_schema(described, f"{OPENAI}/completions"), reader.completion, bodies)

    assert 300 < len(chats) < COUNT - 1000
    assert 300 < len(texts) < COUNT - 1000


def test_the_schema_of_batches_and_the_server_accept_the_same_bodies(parts: Parts, described: Any) -> None:
    inputs = InputReader(SCHEMA, SHAPES)
    batching = Batching(parts.services.batches, inputs, 100)

    def read(body: Any) -> object:
        return batching.asked(body, None, {QUEUE: "true"}, MODEL) or inputs.read(body, MODEL)

    requests = without_options(itertools.islice(ShapedBodies(4), COUNT))
    references = itertools.cycle((None, "first", "", "l" * 1024, "l" * 1025, 5))
    bodies: list[Any] = [
        {"requests": [{**request, "external_reference": reference}] if isinstance(request, dict) else [request]}
        for request, reference in zip(requests, references, strict=False)
    ]
    single = {"prompt": "x"}
    bodies += [{"requests": wrong} for wrong in ([], None, {}, "x", [single, []])]
    bodies += [{"request_id": value} for value in ("x", "", "l" * 1024, "l" * 1025, None, 5)]
    bodies += [{"requests": [single], **more} for more in (single, {"messages": []}, {"request_id": "x"})]
    bodies += [{"request_id": "x", **single}, {"request_id": 5, **single}, {"request_id": 5, "requests": [single]}]

    accepted = check(validator(described, with_batches({"$ref": "#/components/schemas/RunInputs"})), read, bodies)

    assert sum("requests" in body for body in accepted) > 200
    assert sum("request_id" in body for body in accepted) > 2


def test_lists_may_be_as_long_as_the_limits_say() -> None:
    limits = Limits(batch_requests=3, shapes=ShapeLimits(tools=2))
    described = Parts(FakeEngine(), limits).document
    shapes = ShapeReader(limits.shapes)
    inputs = InputReader(SCHEMA, shapes)
    batching = Batching(Finished(), inputs, limits.batch_requests)
    single = {"prompt": "x"}
    tooled = [{**single, "tools": [{"name": f"t{number}"} for number in range(count)]} for count in range(5)]
    chats = [{"model": MODEL, "messages": [{"role": "user", "content": "x"}], "tools": one["tools"]} for one in tooled]
    batches = [{"requests": [single] * count} for count in range(1, 6)]

    def read_batch(body: Any) -> object:
        return batching.asked(body, None, {QUEUE: "true"}, MODEL)

    run = body_schema(described, RUN_PLACE)
    chat = body_schema(described, f"{OPENAI}/chat/completions")
    assert check(run, lambda body: inputs.read(body, MODEL), tooled) == tooled[:3]
    assert check(chat, Reader(256, 0.6, shapes).chat, chats) == chats[:3]
    assert check(run, read_batch, batches) == batches[:3]


def answer_schema(described: Any, place: str) -> jsonschema_rs.Validator:
    """Of a whole answer from there."""
    content = described["paths"][place]["post"]["responses"]["200"]["content"]
    return validator(described, content["application/json"]["schema"])


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("text", {}),
        ('{"city": "Rome"}', {"response_format": {"type": "json_object"}}),
        (f"{CALL}\n{SECOND}", {"tools": [WEATHER, TIME], "tool_choice": "required"}),
    ],
)
async def test_answers_of_every_shape_are_as_described(described: Any, text: str, body: Any) -> None:
    for path, place in ((RUN, RUN_PLACE), (CHAT, f"{OPENAI}/chat/completions")):
        schema, answer = answer_schema(described, place), (await Client(text).response(path, **body)).json()
        schema.validate(answer)
        inner = answer["result"] if path == RUN else answer["choices"][0]
        inner["finish_reason"] = "bored"
        assert not schema.is_valid(answer)


@pytest.mark.parametrize(
    ("text", "body"), [("text", {}), (f"{CALL}\n{SECOND}", {"tools": [WEATHER, TIME], "tool_choice": "required"})]
)
async def test_each_event_of_a_stream_is_as_described(described: Any, text: str, body: Any) -> None:
    for path, chunk in ((RUN, "GeneratedChunk"), (CHAT, "ChatCompletionChunk")):
        schema = validator(described, {"$ref": f"#/components/schemas/{chunk}"})
        chunks = await Client(text).chunks(path, **body)
        for one in chunks:
            schema.validate(one)
            assert not schema.is_valid({**one, "response": 5, "choices": 5})
        last = chunks[-1]
        (last if path == RUN else last["choices"][0])["finish_reason"] = "bored"
        assert not schema.is_valid(last)


ORIGINALS = (
    "https://workers-binding.ai/run", "https://workers-binding.ai/run?version=3", "http://x:80/ai-gateway/run?lora=",
    "https://x/run?version=3&lora=pirate&queueRequest=false", "https://x/run?lora=%70irate", "https://x/run?version=2",
    "https://x/run?version=3&version=4", "https://x/run?lora=&version=", "https://x/run/", "https://x/ai/run",
    "https://x/ai-api/models/search", "run", "",
)  # fmt: skip


async def test_the_original_urls_that_are_described_are_those_that_are_answered(
    client: httpx.AsyncClient, described: Any
) -> None:
    place = "/client/v4/accounts/{account_id}/ai/run/proxy"
    parameters = described["paths"][place]["post"]["parameters"]
    (schema,) = (validator(described, one["schema"]) for one in parameters if one["name"] == "x-forwarded")
    path, body = place.format(account_id="your-account-id"), {"inputs": {"prompt": "x"}}

    answered = []
    for url in ORIGINALS:
        response = await client.post(path, json=body, headers={"x-forwarded": url, "cf-consn-model-id": MODEL})
        assert schema.is_valid(url) is (response.status_code == 200), url
        answered += [url] if response.status_code == 200 else []
    assert len(answered) == 5


class Finished:
    """Batches of which one request was answered and one was not."""

    async def submit(self, account_id: str, model: str, _requests: Any) -> Batch:
        return Batch("b", account_id, model, datetime.now(UTC))

    async def progress(self, account_id: str, _model: str, batch_id: str) -> Progress:
        if batch_id != "b":
            raise BatchNotFound(batch_id)
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        answer = Answer({"response": "x", "usage": usage, "finish_reason": "stop"}, success=True)
        refused = Answer(error_text(PromptTooLong(9, 8), account_id), success=False)
        return Progress(Status.DONE, (Answered(answer, "first"), Answered(refused, None)))


async def test_answers_about_batches_are_as_described(described: Any) -> None:
    schema = answer_schema(described, RUN_PLACE)
    transport = httpx.ASGITransport(Parts(FakeEngine(), batches=Finished()).api)
    headers = {"authorization": f"Bearer {TOKEN}"}

    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
        queued = await client.post(f"{RUN}?{QUEUE}=true", json={"requests": [{"prompt": "x"}]})
        done = await client.post(RUN, json={"request_id": "b"})
        unknown = await client.post(RUN, json={"request_id": "c"})

    for answer in (queued.json(), done.json()):
        schema.validate(answer)
        assert not schema.is_valid({**answer, "result": {"status": "lost"}})
    assert len(done.json()["result"]["responses"]) == 2
    failures = described["paths"][RUN_PLACE]["post"]["responses"]
    assert unknown.status_code == 404
    assert "7003" in failures["404"]["description"]
    validator(described, failures["404"]["content"]["application/json"]["schema"]).validate(unknown.json())


async def test_the_document_is_served_to_everybody(parts: Parts, described: Any) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(parts.api), base_url="http://gemlora") as client:
        response = await client.get("/openapi.json")

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == json.loads(json.dumps(described))


async def test_models_schema_serves_the_page_s_schema_verbatim(client: httpx.AsyncClient) -> None:
    response = await client.get(f"/client/v4/accounts/your-account-id/ai/models/schema?model={MODEL}")

    assert response.json()["result"]["input"] == json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))


def test_the_committed_document_is_current(described: Any) -> None:
    assert json.loads(COMMITTED.read_text(encoding="utf-8")) == described, "run: make docs"
