"""For keyboards and screen readers: axe finds nothing serious, and no pointer is needed for anything."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Locator, expect
from tests.e2e.documents import REPOSITORY
from tests.e2e.playground.browser import Playground, Scheme, opened
from tests.e2e.playground.test_shape import WEATHER, answers_with_calls, by_schema, with_tools
from tests.e2e.running_server import API_TOKEN, RunningServer

AXE = REPOSITORY / "tests/node/node_modules/axe-core/axe.min.js"
MARKDOWN = """# Title

Text with `code` and [a link](https://example.com).

- one
- two

```python
print(1)
```

| a | b |
|---|---|
| 1 | 2 |
"""
MOST_TABS = 60


def serious(playground: Playground) -> list[str]:
    """What axe finds serious or critical in the page as it is."""
    playground.page.evaluate(AXE.read_text())
    found: dict[str, Any] = playground.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{violation['id']}: {node['html']} {node['failureSummary']}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_axe_finds_nothing_serious_anywhere(
    context: BrowserContext, playground_server: RunningServer, adapters: tuple[str, ...], scheme: Scheme, width: int
) -> None:
    with opened(context, playground_server, (width, 900), scheme) as playground:
        playground.open()
        assert serious(playground) == []
        playground.sign_in()
        assert serious(playground) == []
        playground.answers_with(MARKDOWN)
        playground.ask("Show me everything")
        toggle = playground.page.get_by_role("button", name="Settings")
        if toggle.is_visible():
            toggle.click()
        assert serious(playground) == []
        by_schema(playground, "{")
        with_tools(playground, "{", "auto")
        assert serious(playground) == []
        by_schema(playground)
        with_tools(playground)
        answers_with_calls(playground, {"name": "weather", "arguments": {"city": "Rome" * 50}}, WEATHER)
        playground.ask("Show me calls")
        assert serious(playground) == []
        playground.answers_with(MARKDOWN)
        for temperature in ("6", ""):
            playground.page.locator("#parameter-temperature").fill(temperature)
            playground.page.get_by_role("button", name="View code").click()
            assert serious(playground) == []
            playground.page.keyboard.press("Escape")
        compare(playground)
        assert serious(playground) == []
        playground.show("Adapters")
        assert serious(playground) == []
        playground.page.get_by_role("button", name="Rename").first.click()
        assert serious(playground) == []
        playground.page.keyboard.press("Escape")
        playground.show("Server")
        assert serious(playground) == []


def compare(playground: Playground) -> None:
    playground.show("Compare")
    playground.page.locator("#first-adapter").select_option("pirate")
    playground.page.get_by_role("textbox", name="Prompt").fill("x")
    playground.page.get_by_role("button", name="Compare", exact=True).click()
    playground.page.locator("#verdicts fieldset").wait_for()


def test_skipping_to_the_content_stays_in_the_view(playground: Playground) -> None:
    playground.sign_in("server")
    playground.page.get_by_role("link", name="Skip to the content").focus()
    playground.page.keyboard.press("Enter")

    expect(playground.page).to_have_url(re.compile("#content$"))
    expect(playground.page.locator("#content")).to_be_focused()
    expect(playground.page.locator("#server")).to_be_visible()


def tab_to(playground: Playground, target: Locator, key: str = "Tab") -> None:
    """Press Tab until the target has the focus."""
    for _ in range(MOST_TABS):
        if target.evaluate("node => node === document.activeElement"):
            assert target.evaluate("node => node.matches(':focus-visible')")
            return
        playground.page.keyboard.press(key)
    raise AssertionError(f"Tab never reaches {target}")


def test_everything_can_be_done_by_keyboard(
    playground: Playground, adapters: tuple[str, ...], folders: dict[str, Path]
) -> None:
    page, keyboard = playground.page, playground.page.keyboard
    page.on("filechooser", lambda chooser: None)  # the browser hears of it long before it opens one
    playground.open()
    tab_to(playground, page.locator("#token"))
    keyboard.type(API_TOKEN)
    keyboard.press("Enter")
    page.locator("#question").wait_for()
    playground.answers_with("An answer")

    tab_to(playground, page.locator("#adapter"))
    keyboard.press("ArrowDown")
    expect(page.locator("#adapter")).to_have_value("pirate")
    tab_to(playground, page.locator("[name=form]:checked"))
    keyboard.press("ArrowRight")
    expect(page.locator("[name=form][value=prompt]")).to_be_checked()
    keyboard.press("ArrowLeft")
    tab_to(playground, page.locator("[name=answer]:checked"))
    keyboard.press("ArrowRight")
    keyboard.press("ArrowRight")
    tab_to(playground, page.locator("#schema-example"))
    keyboard.press("Enter")
    tab_to(playground, page.locator("#schema"))
    tab_to(playground, page.locator("#tools-example"))
    keyboard.press("Enter")
    tab_to(playground, page.locator("#tools"))
    tab_to(playground, page.locator("[name=tool-choice]:checked"))
    keyboard.press("ArrowRight")
    expect(page.locator("[name=tool-choice][value=required]")).to_be_checked()
    tab_to(playground, page.locator("#parameter-max_tokens"))
    keyboard.type("8")

    tab_to(playground, page.locator("#question"), "Shift+Tab")
    keyboard.type("Hello")
    keyboard.press("Enter")
    playground.complete(page.locator("#turns .assistant"))
    tab_to(playground, page.locator("#turns .user").get_by_role("button", name="Edit"), "Shift+Tab")
    keyboard.press("Enter")
    keyboard.type(" again")
    tab_to(playground, page.get_by_role("button", name="Send again"))
    keyboard.press("Enter")
    playground.complete(page.locator("#turns .assistant"))
    tab_to(playground, page.get_by_role("button", name="Regenerate"))
    keyboard.press("Enter")
    playground.complete(page.locator("#turns .assistant"))

    answers_with_calls(playground, {"name": "weather", "arguments": {}})
    tab_to(playground, page.get_by_role("button", name="Regenerate"))
    keyboard.press("Enter")
    tab_to(playground, page.get_by_label("Result of"))
    keyboard.type("sunny")
    playground.answers_with("An answer")
    tab_to(playground, page.get_by_role("button", name="Send the result"))
    keyboard.press("Enter")
    playground.complete(page.locator("#turns .assistant").nth(1))

    tab_to(playground, page.locator("#view-code"), "Shift+Tab")
    keyboard.press("Enter")
    tab_to(playground, page.get_by_role("tab", selected=True))
    keyboard.press("ArrowRight")
    tab_to(playground, page.locator("#code-copy"))
    keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()

    tab_to(playground, page.get_by_role("link", name="Compare"), "Shift+Tab")
    keyboard.press("Enter")
    expect(page.locator("#content")).to_be_focused()
    tab_to(playground, page.locator("#first-adapter"))
    keyboard.press("ArrowDown")
    tab_to(playground, page.locator("#compare-prompt"))
    keyboard.type("Hello")
    keyboard.press("Enter")
    verdict = page.locator("#verdicts input").first
    verdict.wait_for()
    tab_to(playground, verdict)
    keyboard.press("Space")
    page.get_by_text("1 of 1 pairs judged").wait_for()
    tab_to(playground, page.locator("#export-csv"))

    tab_to(playground, page.get_by_role("link", name="Adapters"), "Shift+Tab")
    keyboard.press("Enter")
    expect(page.locator("#content")).to_be_focused()
    tab_to(playground, page.locator("#pick-files"))
    with page.expect_file_chooser() as chooser:
        keyboard.press("Enter")
    chooser.value.set_files(sorted(folders["poet"].iterdir()))
    tab_to(playground, page.locator("#upload-name"))
    keyboard.type("by-keyboard")
    keyboard.press("Enter")
    page.locator("#verdict.accepted").wait_for()
    card = page.get_by_role("article", name="by-keyboard")
    tab_to(playground, card.get_by_role("button", name="Delete"))
    keyboard.press("Enter")
    tab_to(playground, page.get_by_role("dialog").get_by_role("button", name="Delete"))
    keyboard.press("Enter")
    card.wait_for(state="detached")

    tab_to(playground, page.locator("#sign-out"), "Shift+Tab")
    keyboard.press("Enter")
    expect(page.locator("#token")).to_be_focused()
