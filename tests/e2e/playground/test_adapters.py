"""Adapters in the page: uploaded by picking and dropping, shown, renamed, published, deleted, or refused."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from tests.e2e.peft_folder import write_peft_folder
from tests.e2e.playground.browser import Playground
from tests.e2e.running_server import RunningServer

DROP = """([files]) => {
  const transfer = new DataTransfer();
  for (const [name, content] of files) {
    const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
    transfer.items.add(new File([bytes], name));
  }
  document.getElementById("drop-zone").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer }));
}"""


@pytest.fixture
def view(playground: Playground) -> Playground:
    return playground.sign_in("adapters")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_peft_folder(tmp_path / "sailor", seed=7)


@pytest.fixture(autouse=True)
def only_known(playground_server: RunningServer) -> Iterator[None]:
    """Nothing stays of what a test made."""
    before = {finetune["id"] for finetune in finetunes(playground_server)}
    yield
    for finetune in finetunes(playground_server):
        if finetune["id"] not in before:
            playground_server.call("DELETE", f"/ai/finetunes/{finetune['id']}")


def finetunes(server: RunningServer) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = server.call("GET", "/ai/finetunes")
    return result


def upload(view: Playground, name: str | None = None) -> str:
    """Press the button and wait for the verdict."""
    if name is not None:
        view.page.locator("#upload-name").fill(name)
    view.page.get_by_role("button", name="Upload", exact=True).click()
    verdict = view.page.locator("#verdict.accepted, #verdict.refused")
    verdict.wait_for()
    return verdict.inner_text()


def pick(view: Playground, folder: Path) -> None:
    view.page.locator("#pick-files").set_input_files(sorted(folder.iterdir()))


def test_two_picked_files_become_an_adapter_with_its_facts(view: Playground, folder: Path) -> None:
    view.page.evaluate(
        """() => {
          window.seen = [];
          const shown = document.getElementById("upload-progress");
          const note = () => shown.hidden || seen.push(document.getElementById("upload-bar").value);
          new MutationObserver(note).observe(shown, { subtree: true, childList: true, attributes: true });
        }"""
    )
    pick(view, folder)
    verdict = upload(view, "sailor")

    assert verdict.startswith("sailor is ready: rank 4, ")
    assert "moves the logits" in verdict
    view.page.wait_for_function("() => seen.includes(1)")
    facts = view.page.get_by_role("article", name="sailor")
    for fact in (
        re.compile(r"Rank\s*4"),
        "q_proj",
        "729 KiB",
        "@cf/google/gemma-7b-it-lora",
        "moves the logits by",
        "Uploaded",
        "Hash",
    ):
        expect(facts).to_contain_text(fact)


def test_a_folder_gives_the_adapter_its_name(view: Playground, folder: Path) -> None:
    view.page.locator("#pick-folder").set_input_files(folder)

    expect(view.page.locator("#upload-name")).to_have_value("sailor")
    assert upload(view).startswith("sailor is ready")


def test_files_can_be_dropped(view: Playground, folder: Path) -> None:
    files = [(file.name, base64.b64encode(file.read_bytes()).decode()) for file in folder.iterdir()]
    view.page.evaluate(DROP, [files])
    view.page.locator("#picked li").first.wait_for()

    assert upload(view, "dropped").startswith("dropped is ready")


def test_a_folder_can_be_dropped(view: Playground, folder: Path) -> None:
    box = view.page.locator("#drop-zone").bounding_box()
    assert box is not None
    browser = view.page.context.new_cdp_session(view.page)
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        browser.send("Input.dispatchDragEvent", {"type": kind, "data": data, **place})

    expect(view.page.locator("#picked li")).to_have_count(2)
    assert upload(view).startswith("sailor is ready")


def test_a_missing_file_is_named_before_anything_is_sent(view: Playground, folder: Path) -> None:
    view.page.locator("#pick-files").set_input_files(folder / "adapter_config.json")

    expect(view.page.locator("#verdict")).to_contain_text("adapter_model.safetensors is missing")
    expect(view.page.get_by_role("button", name="Upload", exact=True)).to_be_disabled()


def test_a_refusal_is_shown_as_it_came_and_leaves_nothing(
    view: Playground, folder: Path, playground_server: RunningServer
) -> None:
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 5}))
    before = finetunes(playground_server)
    pick(view, folder)
    verdict = upload(view, "wrong")

    assert "code 5004, HTTP 400" in verdict
    assert "lora_A" in verdict
    assert finetunes(playground_server) == before


def test_an_adapter_is_renamed_and_a_taken_name_is_refused(
    view: Playground, folder: Path, adapters: tuple[str, ...], playground_server: RunningServer
) -> None:
    pick(view, folder)
    upload(view, "sailor")
    view.page.get_by_role("article", name="sailor").get_by_role("button", name="Rename").click()
    dialog = view.page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("pirate")
    dialog.get_by_role("button", name="Rename").click()
    dialog.get_by_role("alert").filter(has_text="exists already").wait_for()
    dialog.get_by_label("Name").fill("captain")
    dialog.get_by_role("button", name="Rename").click()

    view.page.get_by_role("article", name="captain").wait_for()
    assert "sailor" not in {finetune["name"] for finetune in finetunes(playground_server)}


def test_an_adapter_is_published_as_a_copy(view: Playground, folder: Path) -> None:
    pick(view, folder)
    upload(view, "sailor")
    view.page.get_by_role("article", name="sailor").get_by_role("button", name="Publish").click()
    view.page.get_by_role("dialog").get_by_role("button", name="Publish").click()

    view.page.get_by_role("article", name="cf-public-sailor").get_by_text("on the shelf").wait_for()
    expect(view.page.get_by_role("article", name="sailor", exact=True)).to_be_visible()


def test_a_card_counts_the_answers_that_the_account_got(
    view: Playground, folder: Path, playground_server: RunningServer
) -> None:
    pick(view, folder)
    upload(view, "sailor")
    used = view.page.get_by_role("article", name="sailor").locator("dl.facts div", has_text="Used")
    expect(used).to_contain_text("0 answers since the server's start, ")
    playground_server.text({"prompt": "x", "max_tokens": 1, "lora": "sailor"})
    view.show("Server")
    view.show("Adapters")

    expect(used).to_contain_text("1 answer since the server's start, ")


def test_publishing_is_offered_to_operators_alone(
    playground: Playground, adapters: tuple[str, ...], playground_server: RunningServer
) -> None:
    token = playground_server.call("POST", "/tokens", json={"name": "reader", "scopes": ["run", "finetunes:read"]})
    playground.sign_in("adapters", token["value"])
    card = playground.page.get_by_role("article", name="pirate")

    expect(card.get_by_role("button")).to_have_text(["Copy", "Chat", "Compare"])
    expect(playground.page.get_by_role("button", name="Upload", exact=True)).to_be_hidden()


def test_an_adapter_is_deleted_after_a_question(
    view: Playground, folder: Path, playground_server: RunningServer
) -> None:
    pick(view, folder)
    upload(view, "sailor")
    card = view.page.get_by_role("article", name="sailor")
    card.get_by_role("button", name="Delete").click()
    view.page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(view.page.get_by_role("dialog")).to_be_hidden()
    expect(card).to_be_visible()
    card.get_by_role("button", name="Delete").click()
    view.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    card.wait_for(state="detached")

    assert "sailor" not in {finetune["name"] for finetune in finetunes(playground_server)}


@pytest.mark.parametrize(("button", "field"), [("Chat", "#adapter"), ("Compare", "#first-adapter")])
def test_an_adapter_is_taken_to_where_it_is_tried(
    view: Playground, adapters: tuple[str, ...], button: str, field: str
) -> None:
    view.page.get_by_role("article", name="poet").get_by_role("button", name=button, exact=True).click()

    expect(view.page.locator(field)).to_be_visible()
    expect(view.page.locator(field)).to_have_value("poet")
