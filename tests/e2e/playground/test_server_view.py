"""What the page says about the server, idle and at work."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor

from playwright.sync_api import expect
from tests.e2e.playground.browser import Playground
from tests.e2e.running_server import RunningServer

STREAMS = 16
RESPONSIVE_MILLISECONDS = 30_000
"""How long the page may take to show another view: long, since a test measures no time."""


def test_it_says_what_is_served(playground: Playground, adapters: tuple[str, ...]) -> None:
    playground.sign_in("server")
    served = playground.page.locator("#served")

    expect(served).to_contain_text("small pretrained starter weights for development, not the model that the name")
    for fact in ("@cf/google/gemma-7b-it-lora", "gemma", "Context", "tokens", "finetunes:write"):
        expect(served).to_contain_text(fact)


def test_gauges_and_charts_come_from_the_metrics(
    playground: Playground, playground_server: RunningServer, adapters: tuple[str, ...]
) -> None:
    playground.sign_in("server")
    playground_server.text({"prompt": "x", "max_tokens": 4, "lora": "pirate"})
    playground.page.wait_for_function(
        "() => document.querySelector('#charts .line').getAttribute('d').includes('L')", timeout=60_000
    )
    resident = int(playground_server.metric("gemlora_engine_adapters"))

    expect(playground.page.locator("#tiles div", has_text="Resident adapters")).to_contain_text(f"{resident} (")
    for title in ("Tokens per second", "Time to first token", "Running", "Waiting"):
        picture = playground.page.get_by_role("img", name=re.compile(f"^{title}: now "))
        expect(picture).to_have_attribute("aria-label", re.compile("in the last five minutes"))


def test_the_page_can_be_used_while_sixteen_streams_run(
    playground: Playground, playground_server: RunningServer, adapters: tuple[str, ...]
) -> None:
    playground.sign_in("server")
    stop = threading.Event()

    def stream(number: int) -> None:
        body = {"prompt": f"Count from {number}", "max_tokens": 1500, "stream": True, "seed": number + 1}
        while not stop.is_set():
            with playground_server.run(body, stream=True) as response:
                for _ in response.iter_lines():
                    if stop.is_set():
                        return

    with ThreadPoolExecutor(STREAMS) as pool:
        running = [pool.submit(stream, number) for number in range(STREAMS)]
        try:
            playground.page.wait_for_function(
                f"() => Number(document.querySelector('#tiles dd').textContent) >= {STREAMS}", timeout=60_000
            )
            playground.page.set_default_timeout(RESPONSIVE_MILLISECONDS)
            playground.show("Chat")
            playground.set(max_tokens=6)
            expect(playground.ask("Hello").locator(".facts")).to_contain_text("tokens")
            playground.show("Adapters")
            playground.page.get_by_role("article", name="pirate").wait_for()
        finally:
            stop.set()
        for future in running:
            future.result(timeout=60)


def test_a_server_that_is_gone_is_said_to_be(playground: Playground) -> None:
    playground.sign_in("server")
    playground.reroute("**/metrics", lambda route: route.abort())

    playground.page.get_by_text("The server cannot be reached; what is shown is old.").wait_for()
