"""A conversation: streamed, stopped, asked again, mended; with every parameter of the model's page."""

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Route, expect
from tests.e2e.playground.browser import Playground
from tests.e2e.running_server import MODEL, RunningServer

PARAMETERS = {
    "max_tokens": 5,
    "temperature": 0.25,
    "top_p": 0.5,
    "top_k": 7,
    "seed": 9999999999,
    "repetition_penalty": 1.25,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.75,
}
LABELS = """button => {
  const labels = [];
  new MutationObserver(() => labels.push(button.textContent)).observe(button, { childList: true });
  return labels;
}"""
"""What a button says from now on, label by label."""
FACTS = re.compile(r"\d+ tokens · [\d.]+ tokens/s · first after [\d.]+ s · prompt \d+ tokens")
SLOW = 7000
"""Tokens of an answer that is stopped long before its end; with seed 1 it has that many."""


@pytest.fixture
def chat(playground: Playground) -> Playground:
    playground.sign_in()
    playground.set(max_tokens=12)
    return playground


def test_an_answer_is_streamed_and_measured(chat: Playground, playground_server: RunningServer) -> None:
    chat.set(temperature=0, max_tokens=48)  # long enough for a rate
    answer = chat.ask("Why is the sky blue?")

    body = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "temperature": 0, "max_tokens": 48}
    expected = playground_server.text(body)
    assert "".join(answer.locator(".text").inner_text().split()) == "".join(re.sub("[*_#>`]", "", expected).split())
    expect(answer.locator(".facts")).to_have_text(FACTS)
    expect(answer.locator(".facts")).to_contain_text("cut at max_tokens")


def test_text_appears_before_the_answer_is_complete_and_stop_ends_it(
    chat: Playground, playground_server: RunningServer
) -> None:
    chat.set(max_tokens=SLOW, seed=1)
    chat.page.get_by_label("Your message").fill("Tell me a very long story about the sea.")
    chat.page.keyboard.press("Enter")
    answer = chat.page.locator("#turns .assistant[aria-busy]")
    answer.locator(".text").filter(has_text=re.compile(r"\w")).wait_for()

    chat.page.get_by_role("button", name="Stop").click()

    done = chat.complete(chat.page.locator("#turns .assistant"))
    expect(done.locator(".facts")).to_contain_text("stopped")
    expect(done.locator(".text")).to_have_text(re.compile(r"\w"))
    expect(chat.page.get_by_role("button", name="Send")).to_be_visible()


def test_the_conversation_is_sent_along_with_the_system_message(chat: Playground) -> None:
    chat.answers_with("An answer")
    chat.page.get_by_label("System message").fill("Be brief.")
    chat.ask("One")
    chat.page.unroute("**/ai/run/**")
    bodies = chat.bodies()
    chat.ask("Two")

    assert [(message["role"], message["content"]) for message in bodies[0]["messages"]] == [
        ("system", "Be brief."),
        ("user", "One"),
        ("assistant", "An answer"),
        ("user", "Two"),
    ]


def test_the_last_answer_can_be_asked_for_again(chat: Playground) -> None:
    bodies = chat.bodies()
    chat.ask("One")
    chat.page.get_by_role("button", name="Regenerate").click()
    chat.complete(chat.page.locator("#turns .assistant"))

    assert len(bodies) == 2
    assert bodies[0] == bodies[1]
    expect(chat.page.locator("#turns article")).to_have_count(2)


def test_a_question_can_be_mended_and_what_followed_it_goes(chat: Playground) -> None:
    bodies = chat.bodies()
    chat.ask("One")
    chat.ask("Two")
    chat.page.locator("#turns .user").first.get_by_role("button", name="Edit").click()
    chat.page.get_by_label("Edit the question").fill("Three")
    chat.page.get_by_role("button", name="Send again").click()
    chat.complete(chat.page.locator("#turns .assistant"))

    assert bodies[-1]["messages"] == [{"role": "user", "content": "Three"}]
    expect(chat.page.locator("#turns .user .text")).to_have_text(["Three"])


def test_an_answer_is_copied_as_the_model_wrote_it(chat: Playground) -> None:
    chat.answers_with("**bold** and `code`")
    answer = chat.ask("One")
    button = answer.get_by_role("button").first
    labels = button.evaluate_handle(LABELS)

    assert chat.copied(button) == "**bold** and `code`"
    assert labels.json_value()[0] == "Copied"
    expect(button).to_have_text("Copy")
    expect(answer.locator("strong")).to_have_text("bold")


def test_clear_begins_anew(chat: Playground) -> None:
    bodies = chat.bodies()
    chat.ask("One")
    chat.page.get_by_role("button", name="Clear").click()
    chat.ask("Two")

    assert len(bodies[-1]["messages"]) == 1
    expect(chat.page.locator("#turns article")).to_have_count(2)


def test_every_parameter_of_the_model_s_page_is_there_and_is_sent(chat: Playground) -> None:
    bodies = chat.bodies()
    chat.page.get_by_role("button", name="Reset").click()
    chat.ask("One")
    chat.set(**PARAMETERS)
    chat.ask("Two")

    messages = bodies[0].pop("messages")
    assert messages == [{"role": "user", "content": "One"}]
    assert bodies[0] == {"stream": True}
    assert {name: bodies[1][name] for name in PARAMETERS} == PARAMETERS


def test_each_parameter_shows_its_range_its_default_and_what_it_does(chat: Playground, page_schema: Any) -> None:
    rules = page_schema["oneOf"][0]["properties"]
    for name in PARAMETERS:
        about = chat.page.locator(f"#about-{name}")
        rule = rules[name]
        expect(about).to_contain_text(rule["description"])
        if "maximum" in rule:
            expect(about).to_contain_text(f"{rule['minimum']} to {rule['maximum']:,}")
        expect(about).to_contain_text(f"default {rule.get('default', '')}")


@pytest.fixture(scope="module")
def page_schema(playground_server: RunningServer) -> Any:
    return playground_server.call("GET", f"/ai/models/schema?model={MODEL}")["input"]


def test_a_prompt_stands_alone_and_can_be_raw(chat: Playground) -> None:
    bodies = chat.bodies()
    chat.page.get_by_role("radio", name="Prompt").check()
    chat.ask("One")
    chat.page.get_by_role("checkbox", name="raw").check()
    chat.ask("Two")

    assert [(body.get("prompt"), body.get("raw"), "messages" in body) for body in bodies] == [
        ("One", None, False),
        ("Two", True, False),
    ]


def test_a_value_out_of_range_is_named_and_not_sent(chat: Playground) -> None:
    bodies = chat.bodies()
    chat.set(temperature=6)
    answer = chat.ask("One")

    expect(answer.get_by_role("alert")).to_contain_text("temperature")
    assert bodies == []


def test_a_refusal_is_shown_with_its_code(chat: Playground) -> None:
    answer = chat.ask("word " * 9000)

    expect(answer.get_by_role("alert")).to_contain_text("code 5021, HTTP 413")


def test_a_stream_that_breaks_off_is_no_complete_answer(chat: Playground) -> None:
    headers = {"content-type": "text/event-stream"}
    body = f"data: {json.dumps({'response': 'Half an'})}\n\n"
    chat.reroute("**/ai/run/**", lambda route: route.fulfill(status=200, headers=headers, body=body))
    answer = chat.ask("One")

    expect(answer).to_contain_text("Half an")
    expect(answer.get_by_role("alert")).to_contain_text("broke off")


def test_without_a_default_none_named_means_the_base(chat: Playground) -> None:
    options = chat.page.locator("#adapter option")

    expect(options.first).to_have_text("Base model, no adapter")
    expect(options.filter(has_text="Bare base")).to_have_count(0)


def test_a_default_is_shown_and_the_bare_base_can_be_chosen(playground: Playground, adapters: tuple[str, ...]) -> None:
    def describe(route: Route) -> None:
        body = route.fetch().json()
        body["result"][0]["properties"].append({"property_id": "default_adapter", "value": "poet"})
        route.fulfill(json=body)

    playground.page.route("**/ai/models/search**", describe)
    playground.sign_in()
    bodies = playground.bodies()
    playground.set(max_tokens=1)
    field = playground.page.locator("#adapter")

    expect(field.locator("option").first).to_have_text("Default: poet")
    unnamed = playground.ask("One")
    field.select_option(label="Bare base (cf-public-base)")
    bare = playground.ask("Two")
    field.select_option("")
    playground.page.get_by_role("radio", name="Prompt").check()
    playground.page.get_by_role("checkbox", name="raw").check()
    raw = playground.ask("Three")

    assert [body.get("lora") for body in bodies] == [None, "cf-public-base", None]
    for answer, heading in ((unnamed, "poet"), (bare, "Base model"), (raw, "Base model")):
        expect(answer.get_by_role("heading")).to_have_text(heading)
    playground.show("Server")
    expect(playground.page.locator("#served")).to_contain_text(re.compile(r"Where no adapter is named\s*poet"))


def test_an_answer_names_the_adapter_that_gave_it(chat: Playground, adapters: tuple[str, ...]) -> None:
    chat.page.reload()
    chat.sign_in()
    chat.set(max_tokens=4)
    chat.page.locator("#adapter").select_option("pirate")
    bodies = chat.bodies()
    answer = chat.ask("One")

    assert bodies[0]["lora"] == "pirate"
    expect(answer.get_by_role("heading")).to_have_text("pirate")
