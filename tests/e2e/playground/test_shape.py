"""The answer's shape: JSON, JSON by a schema, and tools, as the settings offer them and the server honours them."""

import json
import re
from typing import Any

import jsonschema
import pytest
from playwright.sync_api import Locator, Route, expect
from tests.e2e.playground.browser import Playground
from tests.e2e.playground.test_compare import run
from tests.e2e.running_server import RunningServer

SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 12},
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["title", "stars"],
}
WEATHER = {
    "name": "weather",
    "description": "Tells the weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
    },
}
HOSTILE = '</code><img src=x onerror="alert(1)"><script>alert(2)</script>'


@pytest.fixture
def chat(playground: Playground) -> Playground:
    playground.sign_in()
    playground.set(max_tokens=60, temperature=0)
    return playground


def by_schema(playground: Playground, schema: Any = SCHEMA) -> None:
    """Hold answers to a schema."""
    playground.page.get_by_role("radio", name="JSON by a schema").check()
    text = schema if isinstance(schema, str) else json.dumps(schema)
    playground.page.get_by_role("textbox", name="Schema").fill(text)


def with_tools(playground: Playground, tools: Any = (WEATHER,), choice: str = "required") -> None:
    text = tools if isinstance(tools, str) else json.dumps(tools)
    playground.page.get_by_role("textbox", name="Tools").fill(text)
    playground.page.get_by_role("radio", name=choice, exact=True).check()


def answers_with_calls(playground: Playground, *calls: dict[str, Any]) -> None:
    """Let a stub answer with calls, each in an event of its own as the server sends them."""
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    events: list[dict[str, Any]] = [{"response": "", "tool_calls": [call]} for call in calls]
    events.append({"response": "", "usage": usage, "finish_reason": "tool_calls"})
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    headers = {"content-type": "text/event-stream", "gemlora-adapter": "none"}
    playground.reroute("**/ai/run/**", lambda route: route.fulfill(status=200, headers=headers, body=body))


def give(playground: Playground, answer: Locator, *results: str) -> Locator:
    """Send the results of an answer's calls and wait for the next answer."""
    answers = playground.page.locator("#turns .assistant")
    before = answers.count()
    for field, text in zip(answer.get_by_label("Result of").all(), results, strict=True):
        field.fill(text)
    answer.get_by_role("button", name="Send the result").click()
    return playground.complete(answers.nth(before))


def card(answer: Locator) -> tuple[str, Any]:
    """The name and the arguments of an answer's first call."""
    first = answer.get_by_role("list", name="Tool calls").get_by_role("listitem").first
    return first.locator(".name").inner_text(), json.loads(first.locator("pre").inner_text())


def test_nothing_is_sent_of_what_is_left_as_it_is(chat: Playground) -> None:
    bodies = chat.bodies()
    chat.ask("One")

    assert bodies[0].keys() == {"messages", "max_tokens", "temperature", "stream"}


def test_an_answer_can_be_any_json(chat: Playground) -> None:
    bodies = chat.bodies()
    chat.page.get_by_role("radio", name="JSON", exact=True).check()
    answer = chat.ask("Name three rivers as JSON.")

    assert bodies[0]["response_format"] == {"type": "json_object"}
    assert isinstance(json.loads(answer.locator("pre.json").inner_text()), dict)


def test_an_answer_by_a_schema_meets_it(chat: Playground) -> None:
    bodies = chat.bodies()
    by_schema(chat)
    answer = chat.ask("Rate the sea as JSON.")

    assert bodies[0]["response_format"] == {"type": "json_schema", "json_schema": SCHEMA}
    jsonschema.validate(json.loads(answer.locator("pre.json").inner_text()), SCHEMA)
    jsonschema.validate(json.loads(chat.copied(answer.get_by_role("button", name="Copy"))), SCHEMA)


def test_the_example_schema_is_one_that_the_server_takes(chat: Playground) -> None:
    chat.page.get_by_role("radio", name="JSON by a schema").check()
    chat.page.get_by_role("button", name="Example schema").click()
    schema = json.loads(chat.page.get_by_role("textbox", name="Schema").input_value())

    answer = chat.ask("Rate the sea as JSON.")
    jsonschema.validate(json.loads(answer.locator("pre.json").inner_text()), schema)


@pytest.mark.parametrize(
    ("text", "fault"), [('{"type": ', "This is not JSON"), ("[1]", "A schema is an object"), ("null", "is an object")]
)
def test_a_schema_that_is_none_is_told_while_it_is_typed_and_not_sent(chat: Playground, text: str, fault: str) -> None:
    bodies = chat.bodies()
    by_schema(chat, text)
    field = chat.page.get_by_role("textbox", name="Schema")

    expect(chat.page.locator("#schema-error")).to_contain_text(fault)
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(chat.ask("One").get_by_role("alert")).to_contain_text(fault)
    assert bodies == []
    field.fill("{}")
    expect(chat.page.locator("#schema-error")).to_have_text("")
    expect(field).to_have_attribute("aria-invalid", "false")


def test_a_schema_that_is_left_empty_is_asked_for(chat: Playground) -> None:
    by_schema(chat, "")

    expect(chat.ask("One").get_by_role("alert")).to_contain_text("Schema: nothing is there yet")


def test_a_schema_that_cannot_be_enforced_is_refused_with_its_place(chat: Playground) -> None:
    by_schema(chat, {"type": "array", "uniqueItems": True})
    alert = chat.ask("One").get_by_role("alert")

    expect(alert).to_contain_text("/response_format/json_schema/uniqueItems")
    expect(alert).to_contain_text("code 5006, HTTP 400")


def test_an_answer_that_cannot_be_complete_in_time_is_an_error(chat: Playground) -> None:
    by_schema(chat, {**SCHEMA, "properties": {"title": {"type": "string", "minLength": 200}}, "required": ["title"]})
    chat.set(max_tokens=5)

    expect(chat.ask("One").get_by_role("alert")).to_contain_text("code 5024")


def test_a_demanded_call_is_a_card(chat: Playground) -> None:
    bodies = chat.bodies()
    with_tools(chat)
    answer = chat.ask("What is the weather in Rome?")
    name, arguments = card(answer)

    assert (bodies[0]["tools"], bodies[0]["tool_choice"]) == ([WEATHER], "required")
    assert name == "weather"
    jsonschema.validate(arguments, WEATHER["parameters"])
    expect(answer.locator(".facts")).to_have_text(re.compile(r"\d+ tokens .*first after"))


def test_a_call_stays_in_the_conversation(chat: Playground) -> None:
    bodies = chat.bodies()
    with_tools(chat)
    name, arguments = card(chat.ask("What is the weather in Rome?"))
    chat.page.get_by_role("radio", name="none", exact=True).check()
    answer = chat.ask("It is sunny there. Say so.")

    sent = bodies[1]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert sent[1]["content"] == ""
    assert sent[1]["tool_calls"][0] == {"name": name, "arguments": arguments}
    assert bodies[1]["tool_choice"] == "none"
    expect(answer.get_by_role("alert")).to_have_count(0)
    expect(answer.locator(".text")).to_have_text(re.compile(r"\S"))


def test_a_result_is_sent_as_a_message_of_its_tool(chat: Playground) -> None:
    bodies = chat.bodies()
    with_tools(chat)
    call = chat.ask("What is the weather in Rome?")
    name, arguments = card(call)
    chat.page.get_by_role("radio", name="none", exact=True).check()
    calls = call.get_by_role("listitem").count()
    answer = give(chat, call, *['{"sky": "sunny"}'] * calls)

    question, called, *results = bodies[1]["messages"]
    assert (question["role"], called["role"]) == ("user", "assistant")
    assert called["tool_calls"][0] == {"name": name, "arguments": arguments}
    assert results == [{"role": "tool", "name": "weather", "content": '{"sky": "sunny"}'}] * calls
    expect(answer.get_by_role("alert")).to_have_count(0)
    expect(answer.locator(".text")).to_have_text(re.compile(r"\S"))
    expect(chat.page.locator("form.results")).to_be_hidden()


def test_all_calls_get_results_and_one_that_is_mended_leaves_the_others(chat: Playground) -> None:
    calls = [{"name": name, "arguments": {}} for name in ("first", "second")]
    answers_with_calls(chat, *calls)
    call = chat.ask("One")
    chat.page.unroute("**/ai/run/**")
    bodies = chat.bodies()
    chat.set(max_tokens=2)
    give(chat, call, "1", "2")
    chat.page.get_by_role("article", name="Result of first").get_by_role("button", name="Edit").click()
    chat.page.get_by_label("Edit the result").fill("one")
    chat.page.get_by_role("button", name="Send again").click()
    chat.complete(chat.page.locator("#turns .assistant").nth(1))

    results = [[message for message in body["messages"] if message["role"] == "tool"] for body in bodies]
    assert results == [
        [{"role": "tool", "name": "first", "content": text}, {"role": "tool", "name": "second", "content": "2"}]
        for text in ("1", "one")
    ]
    expect(chat.page.locator("#turns .tool .text")).to_have_text(["one", "2"])


def test_a_prompt_has_no_room_for_results_and_the_page_says_so(chat: Playground) -> None:
    answers_with_calls(chat, {"name": "weather", "arguments": {}})
    call = chat.ask("One")
    chat.page.get_by_role("radio", name="Prompt").check()

    expect(give(chat, call, "sunny").get_by_role("alert")).to_contain_text("choose Messages")


def test_the_example_tool_is_one_that_the_server_takes(chat: Playground) -> None:
    bodies = chat.bodies()
    expect(chat.page.get_by_role("radio", name="required")).to_be_hidden()
    chat.page.get_by_role("button", name="Example tool").click()
    chat.ask("Hello")
    assert "tool_choice" not in bodies[0]
    chat.page.get_by_role("radio", name="required").check()

    assert card(chat.ask("What is the weather in Rome?"))[0] == bodies[0]["tools"][0]["name"]


def test_tools_that_are_no_list_are_told_while_they_are_typed(chat: Playground) -> None:
    bodies = chat.bodies()
    chat.page.get_by_role("textbox", name="Tools").fill(json.dumps(WEATHER))

    expect(chat.page.locator("#tools-error")).to_have_text("Tools are a list, in brackets.")
    expect(chat.ask("One").get_by_role("alert")).to_contain_text("Tools are a list")
    assert bodies == []


def test_a_tool_that_cannot_be_called_is_refused_with_its_place(chat: Playground) -> None:
    with_tools(chat, [{**WEATHER, "name": "two words"}])

    expect(chat.ask("One").get_by_role("alert")).to_contain_text("/tools/0/name")


def test_all_calls_of_an_answer_are_shown_and_none_becomes_html(chat: Playground) -> None:
    calls = [
        {"name": HOSTILE, "arguments": {HOSTILE: HOSTILE}},
        {"name": "second", "arguments": {"deep": [1, {"a": None}]}},
    ]
    answers_with_calls(chat, *calls)
    answer = chat.ask("One")

    expect(answer.locator(".call .name")).to_have_text([HOSTILE, "second"])
    assert [json.loads(text) for text in answer.locator(".call pre").all_inner_texts()] == [
        call["arguments"] for call in calls
    ]
    assert json.loads(chat.copied(answer.get_by_role("button", name="Copy"))) == calls


def test_the_comparison_asks_with_them_and_shows_calls(playground: Playground, adapters: tuple[str, ...]) -> None:
    playground.sign_in("compare")
    playground.set(max_tokens=60)
    bodies = playground.bodies()
    with_tools(playground)
    run(playground)

    assert [(body["tools"], body["tool_choice"]) for body in bodies] == [([WEATHER], "required")] * 2
    for side in playground.page.locator("#answers .side").all():
        jsonschema.validate(card(side)[1], WEATHER["parameters"])
    same = len({side.locator(".calls").inner_text() for side in playground.page.locator("#answers .side").all()}) == 1
    expect(playground.page.locator("#answers .side .note").last).to_have_text(
        "The same calls as the base model's." if same else "Other calls than the base model's."
    )


def test_a_server_that_has_neither_offers_neither(playground: Playground, playground_server: RunningServer) -> None:
    def older(route: Route) -> None:
        document = route.fetch().json()
        for form in document["components"]["schemas"]["RunInputs"]["oneOf"]:
            for name in ("response_format", "tools", "tool_choice"):
                form["properties"].pop(name, None)
        for name in ("response_format", "tools", "tool_choice"):
            document["components"]["schemas"]["RunInputs"].get("properties", {}).pop(name, None)
        route.fulfill(json=document)

    playground.page.route("**/openapi.json", older)
    playground.sign_in()
    for name in ("Schema", "Tools"):
        expect(playground.page.get_by_role("textbox", name=name)).to_have_count(0)
    expect(playground.page.get_by_role("group", name="Answer")).to_have_count(0)
    bodies = playground.bodies()
    playground.set(max_tokens=2)
    playground.ask("One")
    assert bodies[0].keys() == {"messages", "max_tokens", "stream"}
