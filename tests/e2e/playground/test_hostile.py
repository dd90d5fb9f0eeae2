"""Nothing that a model, an adapter or an error says runs, loads anything, or leaves the page unusable."""

import json
from typing import Any

import pytest
import requests
from playwright.sync_api import Route
from tests.e2e.playground.browser import Playground
from tests.e2e.playground.hostile import BREAKING, NAMES, TEXTS
from tests.e2e.running_server import ACCOUNT_ID, MODEL, RunningServer

ANSWERS = TEXTS[1::2]
REFUSALS = TEXTS[::2]
BATCH = 80
"""Adapters of one account: few enough for the page to show all their facts at once."""

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
    assert len(NAMES) >= 190


def is_harmless(playground: Playground, selector: str) -> None:
    found = playground.page.locator(selector).evaluate(FOUND)
    assert found["active"] == []
    assert found["listening"] == []
    assert set(found["addresses"]) <= {"http:", "https:", "mailto:"}
    assert found["pwned"] is None
    playground.harmless()


def test_no_answer_runs_or_loads_anything(playground: Playground) -> None:
    playground.sign_in()
    texts = iter(ANSWERS)

    adapter = "<img src=x onerror=alert(1)>@00"
    playground.reroute("**/ai/run/**", lambda route: playground.answer(route, next(texts), adapter))
    for number, text in enumerate(ANSWERS):
        playground.ask(text[:200] or "x")
        if number % 40 == 39 or number == len(ANSWERS) - 1:
            is_harmless(playground, "#turns")
            playground.page.get_by_role("button", name="Clear").click()


def test_no_answer_breaks_the_page(playground: Playground) -> None:
    playground.sign_in()
    for text in BREAKING:
        playground.answers_with(text)
        playground.ask("x")
        assert playground.fits(), text[:40]
        playground.page.get_by_role("button", name="Clear").click()
    playground.answers_with("Still here")

    assert "Still here" in playground.ask("y").inner_text()


def test_no_error_runs_or_loads_anything(playground: Playground) -> None:
    playground.sign_in()
    texts = iter(REFUSALS)

    def refuse(route: Route) -> None:
        error = {"message": next(texts), "code": 5006}
        body = {"success": False, "errors": [error], "result": None, "messages": []}
        route.fulfill(status=400, content_type="application/json", body=json.dumps(body))

    playground.reroute("**/ai/run/**", refuse)
    for number in range(len(REFUSALS)):
        playground.ask("x")
        if number % 40 == 39 or number == len(REFUSALS) - 1:
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
    playground.page.locator("#adapter-list article").nth(len(names) - 1).wait_for()
    is_harmless(playground, "#adapter-list")
    assert playground.page.locator("#adapter-list h3").all_text_contents() == list(names)
    assert playground.fits()
    for select in ("#adapter", "#first-adapter", "#second-adapter"):
        assert playground.page.locator(f"{select} optgroup option").all_text_contents() == list(names)
        is_harmless(playground, select)
    playground.page.get_by_role("button", name="Rename").first.click()
    assert names[0] in playground.page.get_by_role("dialog").inner_text()
    assert playground.page.locator("#confirm script, #confirm img").count() == 0
    playground.page.keyboard.press("Escape")
    playground.answers_with("x")
    playground.show("Compare")
    playground.page.locator("#first-adapter").select_option(names[3])
    playground.page.get_by_role("textbox", name="Prompt").fill("x")
    playground.page.get_by_role("button", name="Compare", exact=True).click()
    playground.page.locator("#verdicts fieldset").wait_for()
    is_harmless(playground, "#answers")
    assert names[3] in playground.page.locator("#verdicts").inner_text()


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
    }


def test_real_adapters_with_such_names_are_harmless_too(
    playground: Playground, playground_server: RunningServer
) -> None:
    address = f"{playground_server.url}/client/v4/accounts/{ACCOUNT_ID}/ai/finetunes"
    names = NAMES[::16]
    made = []
    for name in names:
        body = {"model": MODEL, "name": name, "description": name}
        response = requests.post(address, json=body, headers=playground_server.authorization, timeout=30)
        assert response.status_code == 200, response.text
        made.append(response.json()["result"]["id"])
    try:
        playground.sign_in("adapters")
        shown = playground.page.locator("#adapter-list h3").all_text_contents()
        assert set(names) <= set(shown)
        is_harmless(playground, "#adapter-list")
    finally:
        for finetune_id in made:
            requests.delete(f"{address}/{finetune_id}", headers=playground_server.authorization, timeout=30)
