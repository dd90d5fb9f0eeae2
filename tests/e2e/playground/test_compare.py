"""The same prompt with and without adapters: at once, with one seed, marked, judged, kept, exported."""

import csv
import io
import json
from pathlib import Path

import pytest
from playwright.sync_api import expect
from tests.e2e.playground.browser import Playground
from tests.e2e.running_server import RunningServer

PROMPT = 'Say "hello", please'


@pytest.fixture
def compare(playground: Playground, adapters: tuple[str, ...]) -> Playground:
    playground.sign_in("compare")
    playground.set(max_tokens=16)
    return playground


def run(compare: Playground, first: str = "pirate", second: str = "", prompt: str = PROMPT) -> None:
    compare.page.locator("#first-adapter").select_option(first)
    compare.page.get_by_label("Second adapter").select_option(second)
    compare.page.get_by_role("textbox", name="Prompt").fill(prompt)
    compare.page.get_by_role("button", name="Compare", exact=True).click()
    compare.page.locator("#verdicts fieldset").first.wait_for()


def test_base_and_two_adapters_are_asked_at_once_with_the_same_seed(
    compare: Playground, playground_server: RunningServer
) -> None:
    bodies = compare.bodies()
    order: list[str] = []
    compare.page.on("request", lambda request: order.append("asked") if "/ai/run/" in request.url else None)
    compare.page.on("requestfinished", lambda request: order.append("done") if "/ai/run/" in request.url else None)
    run(compare, "pirate", "poet")

    assert [body["lora"] for body in bodies] == ["cf-public-base", "pirate", "poet"]
    assert len({body["seed"] for body in bodies}) == 1
    assert len({json.dumps({**body, "lora": None}, sort_keys=True) for body in bodies}) == 1
    assert order[:3] == ["asked"] * 3
    expect(compare.page.locator("#answers h3")).to_have_text(["Base model", "pirate", "poet"])
    compare.page.get_by_role("button", name="View code").click()
    expect(compare.page.locator("#code-text")).to_contain_text(f'"seed":{bodies[0]["seed"]}')
    for body, side in zip(bodies, compare.page.locator("#answers .side").all(), strict=True):
        expected = playground_server.text({key: value for key, value in body.items() if key != "stream"})
        assert side.locator(".text").text_content() == expected


def test_what_differs_is_marked_on_both_sides_and_marks_can_be_hidden(compare: Playground) -> None:
    texts = iter(["the sea is calm today", "the sea is rough today"])
    compare.reroute("**/ai/run/**", lambda route: compare.answer(route, next(texts)))
    run(compare)

    expect(compare.page.locator("#answers del")).to_have_text(["calm"])
    expect(compare.page.locator("#answers ins")).to_have_text(["rough"])
    compare.page.get_by_label("Mark differences").uncheck()
    expect(compare.page.locator("#answers ins")).to_have_css("background-color", "rgba(0, 0, 0, 0)")


def test_equal_answers_are_called_equal(compare: Playground) -> None:
    compare.answers_with("The same.")
    run(compare)

    compare.page.get_by_text("The same text as the base model's.").wait_for()
    expect(compare.page.locator("#answers ins, #answers del")).to_have_count(0)


def test_each_pair_gets_a_verdict_and_all_are_exported(compare: Playground, tmp_path: Path) -> None:
    run(compare, "pirate", "poet")
    fieldsets = compare.page.locator("#verdicts fieldset")
    expect(fieldsets).to_have_count(3)
    for fieldset, verdict in zip(fieldsets.all(), ("better", "worse", "same"), strict=True):
        fieldset.get_by_role("radio", name=verdict).check()
    run(compare, "poet", "", "=1+1")
    compare.page.get_by_text("2 comparisons, 3 of 4 pairs judged").wait_for()

    exported = json.loads(download(compare, "Export JSON", tmp_path))
    assert [[pair["verdict"] for pair in item["pairs"]] for item in exported] == [["better", "worse", "same"], [None]]
    assert [answer["adapter"] for answer in exported[0]["answers"]] == [None, "pirate", "poet"]
    assert exported[0]["prompt"] == PROMPT
    assert exported[0]["parameters"] == {"max_tokens": 16}

    rows = list(csv.DictReader(io.StringIO(download(compare, "Export CSV", tmp_path), newline="")))
    assert [(row["left"], row["right"], row["verdict"]) for row in rows] == [
        ("Base model", "pirate", "better"),
        ("Base model", "poet", "worse"),
        ("pirate", "poet", "same"),
        ("Base model", "poet", ""),
    ]
    assert rows[0]["prompt"] == PROMPT
    assert rows[3]["prompt"] == "'=1+1"
    for row in rows[:3]:
        left = next(answer for answer in exported[0]["answers"] if answer["name"] == row["left"])
        assert row["left_response"].removeprefix("'") == left["response"]


def download(compare: Playground, button: str, folder: Path) -> str:
    with compare.page.expect_download() as download:
        compare.page.get_by_role("button", name=button).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path.read_bytes().decode()


def test_a_comparison_without_an_adapter_is_none(compare: Playground) -> None:
    compare.page.get_by_role("textbox", name="Prompt").fill(PROMPT)
    compare.page.get_by_role("button", name="Compare", exact=True).click()

    compare.page.get_by_text("Choose an adapter to compare the base model with.").wait_for()
    expect(compare.page.locator("#answers .side")).to_have_count(0)


def test_a_comparison_can_be_stopped(compare: Playground) -> None:
    compare.set(max_tokens=7000, temperature=0)  # which both do write
    compare.page.locator("#first-adapter").select_option("pirate")
    compare.page.get_by_role("textbox", name="Prompt").fill("Tell me a very long story.")
    compare.page.get_by_role("button", name="Compare", exact=True).click()
    compare.page.get_by_role("button", name="Stop").click()

    compare.page.get_by_role("button", name="Compare", exact=True).wait_for()
    expect(compare.page.locator("#verdicts fieldset")).to_have_count(0)
