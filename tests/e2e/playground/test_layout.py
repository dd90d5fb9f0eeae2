"""At every size and in both schemes nothing scrolls sideways or is cut off, and the first sight is light.

With SCREENSHOTS=1 (`make screenshots`) the pictures in docs/playground are taken anew.
"""

import io
import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Request
from tests.e2e.documents import REPOSITORY
from tests.e2e.playground.browser import Playground, Scheme, opened
from tests.e2e.playground.test_shape import WEATHER, answers_with_calls, by_schema, with_tools
from tests.e2e.running_server import RunningServer

PICTURES = REPOSITORY / "docs/playground"
HEIGHTS = {360: 780, 768: 1024, 1440: 900}
COLOURS = 128
FIRST_PAINT_BYTES = 100_000
ANSWER = """**A paper clip** can do more than hold paper:

1. reset a router,
2. mark a page,
3. mend a zip.

```python
print("clip")
```
"""
PLAIN = ("The sea is calm today and the gulls are quiet.", "Arr, the sea be rough today and the gulls be loud!")

CALLS: tuple[dict[str, Any], ...] = (
    {"name": "weather", "arguments": {"city": "Rome"}},
    {"name": "weather", "arguments": {"city": "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch"}},
)

CUT = """() => {
  const shown = (node) => node.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const name = (node) => `${node.tagName}#${node.id}.${node.className} ${node.textContent.trim().slice(0, 30)}`;
  const faults = [];
  for (const node of document.querySelectorAll("button, a, input, select, textarea, h1, h2, h3, label, dt, dd, p")) {
    if (!shown(node) || node.closest(".offscreen, .skip, pre, .scroll, [aria-hidden=true]")) continue;
    const box = node.getBoundingClientRect();
    if (box.left < -0.5 || box.right > innerWidth + 0.5) faults.push(`outside: ${name(node)}`);
    const scrolls = ["auto", "scroll"].includes(getComputedStyle(node).overflowX);
    if (!["INPUT", "SELECT", "TEXTAREA"].includes(node.tagName) && !scrolls && node.scrollWidth > node.clientWidth + 1
      && getComputedStyle(node).display !== "inline") faults.push(`cut off: ${name(node)}`);
  }
  const kinds = "button, a, select, input:not([type=range]):not([type=radio]):not([type=file])";
  const controls = [...document.querySelectorAll(kinds)]
    .filter((node) => shown(node) && !node.closest(".skip, .composer, dialog"));
  const open = document.querySelector("dialog[open]");
  controls.forEach((one, i) => controls.slice(i + 1).forEach((other) => {
    if (open || one.contains(other)) return;
    const [a, b] = [one.getBoundingClientRect(), other.getBoundingClientRect()];
    const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (width > 1 && height > 1) faults.push(`overlap: ${name(one)} and ${name(other)}`);
  }));
  return faults;
}"""


def keep(playground: Playground, state: str, width: int, scheme: str) -> None:
    """Check what is shown, and take its picture if they are wanted."""
    assert playground.fits(), state
    assert playground.page.evaluate(CUT) == [], state
    if os.environ.get("SCREENSHOTS"):
        PICTURES.mkdir(exist_ok=True)
        picture = Image.open(io.BytesIO(playground.page.screenshot(animations="disabled", caret="hide")))
        small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        small.save(PICTURES / f"{state}-{width}-{scheme}.png", optimize=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", HEIGHTS)
def test_every_state_fits_the_window(
    context: BrowserContext, playground_server: RunningServer, adapters: tuple[str, ...], width: int, scheme: Scheme
) -> None:
    with opened(context, playground_server, (width, HEIGHTS[width]), scheme) as playground:
        page = playground.page

        def state(name: str) -> None:
            keep(playground, name, width, scheme)

        playground.open()
        state("sign-in")
        playground.sign_in()
        state("welcome")
        playground.answers_with(ANSWER)
        playground.ask("List three uses of a paper clip")
        state("chat")
        toggle = page.get_by_role("button", name="Settings")
        if toggle.is_visible():
            toggle.click()
            page.evaluate("scrollTo(0, 0)")
            state("settings")
            toggle.click()
        page.get_by_role("button", name="View code").click()
        state("code")
        page.keyboard.press("Escape")
        playground.show("Compare")
        page.locator("#first-adapter").select_option("pirate")
        page.get_by_role("textbox", name="Prompt").fill("How is the sea?")
        answers = iter(PLAIN)
        playground.reroute("**/ai/run/**", lambda route: playground.answer(route, next(answers)))
        page.get_by_role("button", name="Compare", exact=True).click()
        page.locator("#verdicts fieldset").wait_for()
        page.evaluate("scrollTo(0, 0)")
        state("compare")
        playground.show("Adapters")
        state("adapters")
        page.get_by_role("button", name="Delete").first.click()
        state("delete")
        page.keyboard.press("Escape")
        playground.show("Server")
        page.wait_for_function("() => document.querySelector('#charts .line').getAttribute('d')", timeout=60_000)
        state("server")
        shaped(playground, state)


def shaped(playground: Playground, state: Callable[[str], None]) -> None:
    """Settings of the answer's shape, where they cover the page with a fault, and calls."""
    page = playground.page
    playground.show("Chat")
    page.get_by_role("button", name="Clear").click()
    toggle = page.get_by_role("button", name="Settings")
    narrow = toggle.is_visible()
    if narrow:
        toggle.click()
    with_tools(playground, json.dumps([WEATHER], indent=2))
    by_schema(playground, '{"type": "object", properties')
    if narrow:
        page.locator("#answer-field").evaluate("node => node.scrollIntoView()")
        state("shape")
    by_schema(playground)
    if narrow:
        toggle.click()
    answers_with_calls(playground, *CALLS)
    playground.ask("How is the weather?")
    state("calls")


def test_the_first_sight_takes_little_and_comes_from_here(browser: Browser, playground_server: RunningServer) -> None:
    requests: list[Request] = []
    with browser.new_context() as nothing_cached, opened(nothing_cached, playground_server) as playground:
        playground.page.on("request", lambda request: requests.append(request))
        playground.open()
        playground.page.get_by_label("Token", exact=True).wait_for()
        playground.page.wait_for_load_state("networkidle")
        sizes = [request.sizes() for request in requests]

    assert len(sizes) > 5
    assert sum(size["responseBodySize"] + size["responseHeadersSize"] for size in sizes) <= FIRST_PAINT_BYTES


def test_light_and_dark_can_be_chosen(playground: Playground) -> None:
    playground.sign_in()
    ground = "() => getComputedStyle(document.documentElement).backgroundColor"
    before = playground.page.evaluate(ground)
    playground.page.get_by_role("button", name="Light or dark").click()
    chosen = playground.page.evaluate(ground)
    playground.page.get_by_role("button", name="Light or dark").click()

    assert before != chosen
    assert playground.page.evaluate(ground) == before
