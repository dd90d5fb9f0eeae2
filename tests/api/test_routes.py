"""Every route is authorised except a written few, whatever the path, the method or the header looks like."""

import itertools
import json

import httpx
import pytest
from tests.api.parts import ALICE, BOB, BOBS_TOKEN, MODEL, READ_ONLY_TOKEN, RUN, TOKEN, Parts
from tests.api.real_server import RealServer

from gemlora.accounts.records import Scope
from gemlora.api.authentication import Access, Guard
from gemlora.api.guarded import GuardedRoute
from gemlora.errors import StorageFailed

PUBLIC = {"/livez", "/readyz", "/startupz", "/metrics", "/openapi.json"}
BY_CODE = "/client/v4/sign-in"
"""Needs no token: its body proves who asks."""

AUTHENTICATION_ERROR = {
    "result": None,
    "success": False,
    "errors": [{"code": 10000, "message": "Authentication error"}],
    "messages": [],
}

BAD_HEADERS = [
    "",
    "Bearer",
    "Bearer ",
    "Bearer wrong",
    "Bearer alice-token2",
    "Bearer alice-toke",
    "bearer",
    "Basic YWxpY2U6dG9rZW4=",
    "Token alice-token",
    "alice-token",
    "Bearer alice-token, Bearer alice-token",
    "Bearer " + "x" * 5000,
]


def api_routes(parts: Parts) -> list[GuardedRoute]:
    routes = [route for route in parts.api.routes if isinstance(route, GuardedRoute)]
    assert len(routes) == len(parts.api.routes)
    return routes


def address(route: GuardedRoute, account_id: str = ALICE) -> str:
    return (
        route.path.replace("{account_id}", account_id)
        .replace("{model:path}", MODEL)
        .replace("{finetune}", "pirate")
        .replace("{alias}", "support-bot")
        .replace("{file_name}", "adapter_config.json")
    )


def guards_of(route: GuardedRoute) -> list[Guard]:
    return [] if route.guard is None else [route.guard]


def test_the_walk_sees_the_routes(parts: Parts) -> None:
    paths = {route.path for route in api_routes(parts)}

    assert paths >= PUBLIC
    assert "/client/v4/accounts/{account_id}/ai/run/{model:path}" in paths
    assert "/run" in paths


def test_every_route_but_the_public_ones_has_an_authorisation(parts: Parts) -> None:
    for route in api_routes(parts):
        guards = guards_of(route)
        assert len(guards) == (route.path not in PUBLIC | {BY_CODE}), route.path
        for guard in guards:
            assert guard.access is not Access.PUBLIC
            if "{account_id}" in route.path:
                assert guard.access in (Access.ACCOUNT, Access.OPERATOR), route.path
            assert (guard.access is Access.OPERATOR) <= (guard.scope is Scope.ADMIN), route.path


def without_openai_error(response: httpx.Response, route: GuardedRoute) -> object:
    """The body, which has OpenAI's `error` on OpenAI's routes and nowhere else."""
    body = response.json()
    if "/ai/v1/" in route.path:
        assert body.pop("error")["message"] == "Authentication error"
    return body


@pytest.mark.parametrize("header", [None, *BAD_HEADERS])
async def test_no_route_answers_without_a_valid_token(parts: Parts, header: str | None) -> None:
    transport = httpx.ASGITransport(parts.api)
    async with httpx.AsyncClient(transport=transport, base_url="http://gemlora") as client:
        for route in api_routes(parts):
            headers = {} if header is None else {"authorization": header}
            for method in route.methods:
                response = await client.request(method, address(route), headers=headers, content=b"{")
                if route.path in PUBLIC:
                    assert response.status_code == 200
                elif route.path == BY_CODE:
                    assert response.status_code == 400
                else:
                    assert response.status_code == 401, route.path
                    assert method == "HEAD" or without_openai_error(response, route) == AUTHENTICATION_ERROR
                    assert "cf-ai-req-id" not in response.headers


async def test_two_tokens_in_one_request_are_none(parts: Parts) -> None:
    transport = httpx.ASGITransport(parts.api)
    headers = [("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")]
    async with httpx.AsyncClient(transport=transport, base_url="http://gemlora") as client:
        assert (await client.post(RUN, headers=headers, json={"prompt": "x"})).status_code == 401


async def test_a_foreign_account_and_an_unknown_one_are_forbidden_alike(
    client: httpx.AsyncClient, parts: Parts
) -> None:
    bodies = set()
    for route in api_routes(parts):
        if "{account_id}" not in route.path:
            continue
        operators = any(guard.access is Access.OPERATOR for guard in guards_of(route))
        token = READ_ONLY_TOKEN if operators else TOKEN
        for account_id in (BOB, "f" * 32, "..", "a" * 31, ALICE.upper()):
            for method in route.methods:
                url = address(route, account_id.replace("..", "%2e%2e"))
                response = await client.request(method, url, headers={"authorization": f"Bearer {token}"})
                assert response.status_code == 403, (route.path, account_id)
                if method != "HEAD":
                    bodies.add(json.dumps(without_openai_error(response, route)))
    assert len(bodies) == 1
    assert "Authentication error" in bodies.pop()


async def test_the_account_s_own_token_opens_it(client: httpx.AsyncClient) -> None:
    url = RUN.replace(ALICE, BOB)
    headers = {"authorization": f"bearer  {BOBS_TOKEN} "}

    assert (await client.post(url, json={"prompt": "x"}, headers=headers)).status_code == 200


async def test_the_model_page_s_placeholder_means_the_token_s_account(client: httpx.AsyncClient, parts: Parts) -> None:
    url = RUN.replace(ALICE, "your-account-id")
    body = {"prompt": "x", "lora": "pirate"}

    assert (await client.post(url, json=body)).status_code == 200
    assert (await client.post(url, json=body, headers={"authorization": f"Bearer {BOBS_TOKEN}"})).status_code == 404
    assert (await client.post(url, json=body, headers={"authorization": "Bearer wrong"})).status_code == 401


async def test_a_token_without_the_right_to_run_is_forbidden(client: httpx.AsyncClient) -> None:
    headers = {"authorization": f"Bearer {READ_ONLY_TOKEN}"}

    assert (await client.post(RUN, json={"prompt": "x"}, headers=headers)).status_code == 403


async def test_when_the_token_cannot_be_checked_nobody_is_admitted(client: httpx.AsyncClient, parts: Parts) -> None:
    parts.accounts.failure = StorageFailed("the database is gone")

    for route in api_routes(parts):
        for method in route.methods if route.path not in PUBLIC | {BY_CODE} else ():
            response = await client.request(method, address(route), content=b"{")
            assert response.status_code == 429, route.path
            assert method == "HEAD" or response.json()["errors"][0]["code"] == 3040
    assert parts.engine.requests == []


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "message"),
    [
        ("GET", RUN, 405, 7001, "GET not supported for requested URI."),
        ("DELETE", "/run", 405, 7001, "DELETE not supported for requested URI."),
        ("POST", "/readyz", 405, 7001, "POST not supported for requested URI."),
        ("POST", "/client/v4/nothing", 400, 7000, "No route for that URI"),
        ("POST", f"/client/v4/accounts/{ALICE}/ai/tomarkdown", 400, 7000, "No route for that URI"),
        ("GET", "/favicon.ico", 404, 7000, "No route for that URI"),
        (
            "POST",
            f"/client/v4/accounts//ai/run/{MODEL}",
            404,
            7003,
            f"Could not route to /client/v4/accounts//ai/run/{MODEL}, perhaps your object identifier is invalid?",
        ),
    ],
)
async def test_what_has_no_route_is_refused_in_the_gateway_s_form(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: int, message: str
) -> None:
    response = await client.request(method, path)

    assert response.status_code == status
    assert response.json() == {
        "result": None,
        "success": False,
        "errors": [{"code": code, "message": message}],
        "messages": [],
    }
    assert "cf-ai-req-id" not in response.headers


@pytest.mark.parametrize(("path", "allowed"), [(RUN, {"POST"}), ("/readyz", {"GET", "HEAD"})])
async def test_a_method_that_is_not_supported_is_answered_with_those_that_are(
    client: httpx.AsyncClient, path: str, allowed: set[str]
) -> None:
    response = await client.put(path)

    assert set(response.headers["allow"].split(", ")) == allowed


def targets() -> list[str]:
    """The protected path, spelled in ways that other servers were fooled by."""
    odd = [
        "",
        "/",
        "//",
        "/./",
        "/../",
        "/%2e%2e/",
        "/%2f",
        ";",
        "%3b",
        "\\",
        "%5c",
        "%00",
        "?",
        "%3f",
        "#",
        "%23",
        "%0d%0a",
    ]
    run = f"accounts/{ALICE}/ai/run/{MODEL}"
    shapes = [
        "{odd}/client/v4/" + run,
        "/client/v4{odd}/" + run,
        "/client/v4/" + run + "{odd}",
        "/client/v4/accounts/" + ALICE + "{odd}/ai/run/" + MODEL,
        "/livez{odd}/client/v4/" + run,
        "/livez/..{odd}/client/v4/" + run,
        "http://evil{odd}/client/v4/" + run,
        "/run{odd}",
        "/{odd}run?version=3",
        "/ai-gateway{odd}/run",
    ]
    return [shape.replace("{odd}", value) for shape in shapes for value in odd]


async def test_no_spelling_of_a_target_or_host_gets_past_the_token(parts: Parts) -> None:
    hosts = ["gemlora", "x/", "x?", "x#", "x@y", "x/livez", "", "localhost:80:80", "x\\y", "x y", "/livez?"]
    variants = [(target, "gemlora") for target in targets()]
    variants += [(target, host) for target in targets()[::4] for host in hosts]
    variants += [(target, "workers-binding.ai") for target in targets()]
    headers = ["", "Authorization: Bearer wrong\r\n", "X-Forwarded: https://workers-binding.ai/run\r\n"]
    assert len(variants) * len(headers) >= 500
    async with RealServer.running(parts) as server:
        for (target, host), header in itertools.product(variants, headers):
            request = (
                f"POST {target} HTTP/1.1\r\nHost: {host}\r\n{header}Content-Length: 14\r\n"
                'X-HTTP-Method-Override: GET\r\nConnection: close\r\n\r\n{"prompt":"x"}'
            )
            status = (await server.exchange(request.encode())).split(b"\r\n")[0]
            assert not status or status.split()[1] in {b"400", b"401", b"404", b"405"}, (target, host, status)

    assert parts.engine.requests == []
