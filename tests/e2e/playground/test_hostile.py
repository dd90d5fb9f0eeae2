"""Nothing that a model, an adapter or an error says runs, loads anything, or leaves the page unusable."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from playwright.sync_api import Route, expect
from tests.e2e.playground.browser import Playground
from tests.e2e.playground.hostile import BREAKING, NAMES, TEXTS
from tests.e2e.running_server import MODEL, RunningServer

ANSWERS = TEXTS[1::2]
REFUSALS = TEXTS[::2]
BATCH = 80
"""Adapters of one account: few enough for the page to show all their facts at once."""
CONVERSATION = 40
"""Questions until the conversation is looked at and cleared."""
ADAPTER = "<img src=x onerror=alert(1)>@00"

ASK = """async ([texts, refused, adapter]) => {
  const json = (value) => new TextEncoder().encode(JSON.stringify(value));
  const event = (value) => new TextEncoder().encode(`data: ${JSON.stringify(value)}\\n\\n`);
  function refusal(message) {
    const body = json({ success: false, errors: [{ message, code: 5006 }], result: null, messages: [] });
    return new Response(body, { status: 400, headers: { "content-type": "application/json" } });
  }
  function answer(text) {
    const third = Math.max(1, Math.floor(text.length / 3));
    const pieces = [text.slice(0, third), text.slice(third, 2 * third), text.slice(2 * third)];
    const usage = { prompt_tokens: 3, completion_tokens: 5, total_tokens: 8 };
    const events = [...pieces.map((response) => ({ response })), { response: "", usage, finish_reason: "stop" }];
    const parts = [...events.map(event), new TextEncoder().encode("data: [DONE]\\n\\n")];
    const pull = (stream) => (parts.length ? stream.enqueue(parts.shift()) : stream.close());
    const body = new ReadableStream({ pull });
    return new Response(body, { headers: { "content-type": "text/event-stream", "gemlora-adapter": adapter } });
  }
  const question = document.getElementById("question");
  for (const text of texts) {
    window.fetch = async () => (refused ? refusal(text) : answer(text));
    question.value = text.slice(0, 200) || "x";
    question.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", cancelable: true }));
    while (document.querySelector("#turns [aria-busy]")) await new Promise(requestAnimationFrame);
  }
  return document.querySelectorAll("#turns .assistant").length;
}"""
"""Asks a question for each text, which the server answers or refuses with that text, in three pieces."""

ACTIVE = "script, img, svg, iframe, object, embed, link, style, video, audio, form, base, meta, input, math, template"
FOUND = f"""(root) => ({{
  active: [...root.querySelectorAll("{ACTIVE}")].map((node) => node.outerHTML),
  listening: [...root.querySelectorAll("*")].flatMap((node) => [...node.attributes].map((attribute) => attribute.name))
    .filter((name) => name.startsWith("on") || name === "style" || name === "src"),
  addresses: [...root.querySelectorAll("[href]")].map((node) => new URL(node.href).protocol),
  pwned: window.pwned ?? null,
}})"""


def test_there_are_enough_of_them() -> None:
    assert len(ANSWERS) + len(BREAKING) >= 200
    assert len(REFUSALS) >= 200
    assert len(NAMES) >= 200


def is_harmless(playground: Playground, selector: str) -> None:
    found = playground.page.locator(selector).evaluate(FOUND)
    assert found["active"] == []
    assert found["listening"] == []
    assert set(found["addresses"]) <= {"http:", "https:", "mailto:"}
    assert found["pwned"] is None
    playground.harmless()


def test_no_answer_runs_or_loads_anything(playground: Playground) -> None:
    converse(playground, ANSWERS, refused=False)


def test_no_answer_breaks_the_page(playground: Playground) -> None:
    playground.sign_in()
    for text in BREAKING:
        playground.answers_with(text)
        playground.ask("x")
        assert playground.fits(), text[:40]
        playground.page.get_by_role("button", name="Clear").click()
    playground.answers_with("Still here")

    expect(playground.ask("y")).to_contain_text("Still here")


def test_no_error_runs_or_loads_anything(playground: Playground) -> None:
    converse(playground, REFUSALS, refused=True)


def converse(playground: Playground, texts: Sequence[str], refused: bool) -> None:
    """Let the chat show every text, as the question too."""
    playground.sign_in()
    for begin in range(0, len(texts), CONVERSATION):
        batch = texts[begin : begin + CONVERSATION]
        assert playground.page.evaluate(ASK, [batch, refused, ADAPTER]) == len(batch)
        alerts = playground.page.locator("#turns").get_by_role("alert")
        expect(alerts).to_have_count(len(batch) if refused else 0)
        is_harmless(playground, "#turns")
        playground.page.get_by_role("button", name="Clear").click()


@pytest.mark.parametrize("begin", range(0, len(NAMES), BATCH))
def test_no_adapter_runs_or_loads_anything(playground: Playground, begin: int) -> None:
    """Names, descriptions and warnings, in every place that shows them."""
    names = NAMES[begin : begin + BATCH]
    listed = [finetune(number, name) for number, name in enumerate(names)]

    def answer(route: Route) -> None:
        path = route.request.url.rpartition("/ai/finetunes")[2]
        result: Any = (
            [] if path.startswith("/public") else listed if path == "" else listed[int(path.rpartition("-")[2])]
        )
        body = {"success": True, "errors": [], "messages": [], "result": result}
        route.fulfill(status=200, content_type="application/json", body=json.dumps(body))

    playground.page.route("**/ai/finetunes**", answer)
    playground.page.route("**/ai/finetunes/**", answer)
    playground.sign_in("adapters")
    expect(playground.page.locator("#adapter-list article")).to_have_count(len(names))
    is_harmless(playground, "#adapter-list")
    assert playground.page.locator("#adapter-list h3").all_text_contents() == list(reversed(names))
    assert playground.fits()
    for select in ("#adapter", "#first-adapter", "#second-adapter"):
        assert playground.page.locator(f"{select} optgroup option").all_text_contents() == list(names)
        is_harmless(playground, select)
    playground.page.get_by_role("button", name="Rename").first.click()
    expect(playground.page.get_by_role("dialog")).to_contain_text(names[-1])
    expect(playground.page.locator("#confirm script, #confirm img")).to_have_count(0)
    playground.page.keyboard.press("Escape")
    playground.answers_with("x")
    playground.show("Compare")
    playground.page.locator("#first-adapter").select_option(names[3])
    playground.page.get_by_role("textbox", name="Prompt").fill("x")
    playground.page.get_by_role("button", name="Compare", exact=True).click()
    playground.page.locator("#verdicts fieldset").wait_for()
    is_harmless(playground, "#answers")
    expect(playground.page.locator("#verdicts")).to_contain_text(names[3])


def finetune(number: int, text: str) -> dict[str, Any]:
    return {
        "id": f"00000000-0000-0000-0000-{number:012d}",
        "model": text,
        "name": text,
        "description": text,
        "created_at": "2026-01-01T00:00:00.000Z",
        "modified_at": "2026-01-01T00:00:00.000Z",
        "public": False,
        "ready": True,
        "files": ["adapter_config.json", "adapter_model.safetensors"],
        "digest": "ab" * 32,
        "size": 1,
        "rank": 4,
        "modules": [text],
        "difference": 0.5,
        "warnings": [text],
        "answers": 1,
        "answers_since": "2026-01-01T00:00:00.000Z",
    }


def test_real_adapters_with_such_names_are_harmless_too(
    playground: Playground, playground_server: RunningServer
) -> None:
    names = NAMES[::16]
    made = []
    for name in names:
        body = {"model": MODEL, "name": name, "description": name}
        made.append(playground_server.call("POST", "/ai/finetunes", json=body)["id"])
    try:
        playground.sign_in("adapters")
        shown = playground.page.locator("#adapter-list h3").all_text_contents()
        assert set(names) <= set(shown)
        is_harmless(playground, "#adapter-list")
    finally:
        for finetune_id in made:
            playground_server.call("DELETE", f"/ai/finetunes/{finetune_id}")
