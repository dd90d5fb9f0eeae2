"""The page at `/` and its files, before any browser runs them."""

import gzip
import re
from importlib.resources import files

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from tests.api.parts import MODEL

from gemlora.engines.fake import FAKE_FACTS
from gemlora.playground.page import Playground
from gemlora.registry.models import AdapterLimits, Base, Catalogue, served_model

NAMES = sorted(file.name for file in (files("gemlora.playground") / "assets").iterdir())
SCRIPTS = [name for name in NAMES if name.endswith(".js")]
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setTimeout\(\s*['\"]|srcdoc|"
    r"DOMParser|createContextualFragment|localStorage|sessionStorage|document\.cookie|indexedDB"
)
"""What makes scripts of text, or keeps it."""


@pytest.fixture
def playground() -> Playground:
    model = served_model(MODEL, "starter", Base.of(FAKE_FACTS), AdapterLimits())
    odd = served_model("<script>alert(1)</script>", "x", Base.of(FAKE_FACTS), AdapterLimits())
    return Playground(Catalogue([model, odd]))


def request(name: str = "", **headers: str) -> Request:
    raw = [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
    return Request({"type": "http", "headers": raw, "path_params": {"name": name}})


async def test_it_says_honestly_what_is_served(playground: Playground) -> None:
    text = bytes((await playground.page(request())).body).decode()

    assert f"<code>{MODEL}</code>" in text
    assert "small pretrained starter weights for development, not the model that the name promises" in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>" not in text


async def test_the_page_has_nothing_inline_and_nothing_remote(playground: Playground) -> None:
    text = bytes((await playground.page(request())).body).decode()

    addresses = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert {address.partition("/playground/")[0] for address in addresses if not address.startswith("#")} == {""}
    assert not re.search(r"\sstyle=|\son[a-z]+=|<style|<script(?! type=\"module\" src=)", text)


async def test_every_answer_has_the_strict_policy(playground: Playground) -> None:
    for response in [await playground.page(request()), *[await playground.file(request(name)) for name in SCRIPTS]]:
        parts = response.headers["content-security-policy"].split(";")
        policy = dict(part.strip().partition(" ")[::2] for part in parts)
        assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["img-src"] == "'self'"
        assert policy["require-trusted-types-for"] == "'script'"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", SCRIPTS)
async def test_no_script_can_make_a_script_of_text_or_keep_anything(playground: Playground, name: str) -> None:
    text = bytes((await playground.file(request(name))).body).decode()

    assert not FORBIDDEN.search(text)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)[a-z]", text)
    assert all(address.startswith("./") for address in re.findall(r'from "([^"]*)"', text))


async def test_its_style_loads_nothing(playground: Playground) -> None:
    response = await playground.file(request("style.css"))

    assert response.headers["content-type"] == "text/css; charset=utf-8"
    assert b"url(" not in response.body
    assert b"@import" not in response.body


async def test_files_are_compressed_for_those_who_can_read_that(playground: Playground) -> None:
    plain = await playground.file(request("main.js"))
    compressed = await playground.file(request("main.js", accept_encoding="gzip, br"))

    assert "content-encoding" not in plain.headers
    assert compressed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(bytes(compressed.body)) == plain.body


async def test_what_a_browser_has_already_is_not_sent_again(playground: Playground) -> None:
    etag = (await playground.file(request("main.js"))).headers["etag"]

    assert (await playground.file(request("main.js", if_none_match=etag))).status_code == 304
    assert (await playground.file(request("main.js", if_none_match='"other"'))).status_code == 200


@pytest.mark.parametrize("name", ["", "index.html", "page.py", "../page.py", "main.js/", "MAIN.JS"])
async def test_other_names_are_not_there(playground: Playground, name: str) -> None:
    with pytest.raises(HTTPException) as refused:
        await playground.file(request(name))

    assert refused.value.status_code == 404


async def test_all_of_it_together_is_small(playground: Playground) -> None:
    responses = [await playground.file(request(name, accept_encoding="gzip")) for name in NAMES if name != "index.html"]
    page = await playground.page(request(accept_encoding="gzip"))

    assert sum(len(response.body) for response in [page, *responses]) <= 100_000
