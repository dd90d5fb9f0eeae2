"""The playground in the distribution's Chromium, as somebody uses it."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Playwright, Route, expect
from tests.e2e.running_server import API_TOKEN, RunningServer

Scheme: TypeAlias = Literal["light", "dark"]

DESK = (1440, 900)
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
WAIT_MILLISECONDS = 60_000
"""How long anything may take: long, because a busy machine stops processes for seconds."""

expect.set_options(timeout=WAIT_MILLISECONDS)


def launch(playwright: Playwright) -> Browser:
    """The system's browser: Playwright's own cannot be downloaded everywhere."""
    if CHROMIUM is None:
        pytest.fail("there is no chromium: run tests/install")
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    # All pages share a process: most of the time that a page takes to open is a process's start.
    arguments = ["--disable-dev-shm-usage", "--process-per-site", *sandbox]
    return playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)


@dataclass
class Playground:
    """One page of the playground, and what it must never do."""

    page: Page
    server: RunningServer
    foreign: list[str] = field(default_factory=list)
    """Requests to anywhere but the server."""
    broken: list[str] = field(default_factory=list)
    """Exceptions, dialogs, and what the page's policy had to stop."""

    @classmethod
    def of(cls, context: BrowserContext, server: RunningServer) -> "Playground":
        page = context.new_page()
        page.set_default_timeout(WAIT_MILLISECONDS)
        playground = cls(page, server)
        page.on("request", lambda request: playground._requested(request.url))
        page.on("pageerror", lambda error: playground.broken.append(str(error)))
        page.on("dialog", lambda dialog: (playground.broken.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("console", lambda message: playground._said(message.text))
        return playground

    def open(self, hash_: str = "") -> None:
        self.page.goto(f"{self.server.url}/{hash_}")

    def sign_in(self, view: str = "chat", token: str = API_TOKEN) -> "Playground":
        self.open(f"#/{view}")
        self.page.get_by_label("Token", exact=True).fill(token)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.locator(f"#{view}").wait_for()
        return self

    def show(self, view: str) -> None:
        """Change to a view and wait until it is there: what is hidden has no lines to read."""
        self.page.get_by_role("link", name=view, exact=True).click()
        self.page.locator(f"#{view.lower()}").wait_for()

    def ask(self, question: str) -> Locator:
        """Send a message and wait for its whole answer."""
        answers = self.page.locator("#turns .assistant")
        before = answers.count()
        self.page.get_by_label("Your message").fill(question)
        self.page.keyboard.press("Enter")
        return self.complete(answers.nth(before))

    def complete(self, answer: Locator) -> Locator:
        answer.locator("xpath=self::*[not(@aria-busy)]").wait_for()
        return answer

    def copied(self, button: Locator) -> str:
        """Press a button that copies; what the clipboard has then. The button itself says so for a moment only."""
        self.page.locator("#announcer").evaluate("node => node.replaceChildren()")
        button.click()
        expect(self.page.locator("#announcer")).to_have_text("Copied")
        text: str = self.page.evaluate("navigator.clipboard.readText()")
        return text

    def set(self, **parameters: Any) -> None:
        for name, value in parameters.items():
            self.page.locator(f"#parameter-{name}").fill(str(value))

    def answers_with(self, text: str) -> None:
        """Let a stub answer the run route with that text."""
        self.reroute("**/ai/run/**", lambda route: self.answer(route, text))

    @staticmethod
    def answer(route: Route, text: str, adapter: str = "none") -> None:
        """Answer one request in three pieces, so that marks are cut apart."""
        third = max(1, len(text) // 3)
        pieces = [text[:third], text[third : 2 * third], text[2 * third :]]
        usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        end = [{"response": ""}, {"response": "", "usage": usage, "finish_reason": "stop"}]
        events = [*({"response": piece} for piece in pieces), *end]
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        headers = {"content-type": "text/event-stream", "gemlora-adapter": adapter}
        route.fulfill(status=200, headers=headers, body=body)

    def reroute(self, pattern: str, handler: Any) -> None:
        self.page.unroute(pattern)
        self.page.route(pattern, handler)

    def bodies(self) -> list[dict[str, Any]]:
        """The bodies of run requests from now on; they go on to the server."""
        seen: list[dict[str, Any]] = []

        def note(route: Route) -> None:
            seen.append(json.loads(route.request.post_data or ""))
            route.continue_()

        self.page.route("**/ai/run/**", note)
        return seen

    def fits(self) -> bool:
        """Nothing makes the page scroll sideways."""
        return self.page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")

    def harmless(self) -> None:
        """Fail if anything ran that should not, or left for elsewhere."""
        assert self.foreign == []
        assert self.broken == []

    def _requested(self, url: str) -> None:
        if not url.startswith((f"{self.server.url}/", f"blob:{self.server.url}/")):
            self.foreign.append(url)

    def _said(self, text: str) -> None:
        if re.search("Content Security Policy|TrustedHTML|TrustedScript", text):
            self.broken.append(text)


@contextmanager
def opened(
    context: BrowserContext, server: RunningServer, size: tuple[int, int] = DESK, scheme: Scheme = "light"
) -> Iterator[Playground]:
    """A page of its own; what must never happen is checked at the end."""
    playground = Playground.of(context, server)
    try:
        playground.page.set_viewport_size({"width": size[0], "height": size[1]})
        playground.page.emulate_media(color_scheme=scheme)
        yield playground
        playground.harmless()
    finally:
        playground.page.close()


def one_time_link(log: Path) -> str:
    """The newest link that the server has printed."""
    return re.findall(r"Playground +(\S+#code=\S+)", log.read_text())[-1]
