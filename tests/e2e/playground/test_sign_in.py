"""Signing in: by the printed link, once, or by a token, which stays in memory alone."""

from playwright.sync_api import BrowserContext, expect
from tests.e2e.playground.browser import Playground, one_time_link, opened
from tests.e2e.running_server import API_TOKEN, RunningServer

KEPT = """() => [location.href, document.cookie, JSON.stringify(localStorage), JSON.stringify(sessionStorage),
  JSON.stringify(history.state), document.documentElement.outerHTML].join(" ")"""


def test_the_printed_link_signs_in_once_and_leaves_the_address(
    playground: Playground, context: BrowserContext, playground_server: RunningServer
) -> None:
    link = one_time_link(playground_server.log)
    requested: list[str] = []
    playground.page.on("request", lambda request: requested.append(request.url))

    playground.page.goto(link)
    playground.page.get_by_label("Your message").wait_for()

    expect(playground.page).to_have_url(f"{playground_server.url}/")
    code = link.partition("=")[2]
    assert not any(code in url for url in requested)
    playground.set(max_tokens=4)
    expect(playground.ask("Hello").locator(".facts")).to_contain_text("tokens")
    with opened(context, playground_server) as second:
        second.page.goto(link)
        second.page.get_by_text("This link was used already or is too old").wait_for()
        expect(second.page.get_by_label("Your message")).to_be_hidden()


def test_a_token_signs_in_and_is_kept_nowhere(playground: Playground) -> None:
    playground.sign_in()

    assert API_TOKEN not in playground.page.evaluate(KEPT)
    assert playground.page.evaluate("indexedDB.databases()") == []
    playground.page.reload()
    playground.page.get_by_label("Token", exact=True).wait_for()


def test_a_wrong_token_is_refused_with_the_code(playground: Playground) -> None:
    playground.open()
    playground.page.get_by_label("Token", exact=True).fill("wrong")
    playground.page.keyboard.press("Enter")

    playground.page.get_by_role("alert").filter(has_text="code 10000, HTTP 401").wait_for()
    expect(playground.page.get_by_role("navigation")).to_be_hidden()


def test_signing_out_forgets_everything(playground: Playground) -> None:
    playground.sign_in()
    playground.set(max_tokens=4)
    playground.ask("Remember the word heron.")
    playground.page.get_by_role("button", name="Sign out").click()

    playground.page.get_by_label("Token", exact=True).wait_for()
    expect(playground.page.locator("body")).not_to_contain_text("heron")
    playground.sign_in()
    expect(playground.page.locator("#turns article")).to_have_count(0)


def test_a_token_that_is_revoked_meanwhile_ends_the_session(
    playground: Playground, playground_server: RunningServer
) -> None:
    token = playground_server.call("POST", "/tokens", json={"name": "short", "scopes": ["run", "finetunes:read"]})
    playground.sign_in(token=token["value"])
    playground_server.call("DELETE", f"/tokens/{token['id']}")

    playground.page.get_by_label("Your message").fill("Hello")
    playground.page.keyboard.press("Enter")

    playground.page.get_by_text("The token is not accepted any more").wait_for()


def test_it_says_before_and_after_what_is_served(playground: Playground) -> None:
    playground.open()
    expect(playground.page.locator(".models")).to_contain_text("small pretrained starter weights")
    playground.sign_in()

    expect(playground.page.locator("#notice")).to_be_visible()
    expect(playground.page.locator("#notice")).to_contain_text("small pretrained starter weights")
