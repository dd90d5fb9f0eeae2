"""Puts every case to the base and to each adapter: a client of the run route, and all that is known here of the wire.

Many requests are under way at once, those of one case side by side, so that the server computes the base and all
adapters in the same batches.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import quote

import httpx2

from gemlora.errors import ServerRefused, ServerUnreachable
from gemlora.evaluation.cases import Case, Object, as_text

BASE_LABEL = "base model"
BASE_NAME = "cf-public-base"
"""What requests write in `lora` to get no adapter, not even the server's default."""

UNKNOWN_ADAPTER = 3037
UNSERVABLE = frozenset({UNKNOWN_ADAPTER, 3039, 5004, 5005, 5007})
"""Codes of what no case would get an answer for: adapters and models that are unknown, incomplete or do not fit."""

CLOSED = frozenset({401, 403, 404, 405})
"""The same by HTTP status."""

PASSING = frozenset({408, 429})
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
"""Seconds between two tries; it doubles from the first to the longest, unless the server names one."""

ADAPTER_HEADER = "gemlora-adapter"
CONNECT_SECONDS = 10
ANSWER_SECONDS = 1800
"""An answer comes behind all requests that the server has to do before."""

Pause: TypeAlias = Callable[[float], Awaitable[None]]
Progress: TypeAlias = Callable[[int, int], None]
"""Called with how many answers are there, of how many."""


@dataclass(frozen=True, slots=True)
class Contender:
    """What is evaluated: an adapter by its name, or with None the bare base."""

    adapter: str | None

    @property
    def label(self) -> str:
        """Its name for people."""
        return BASE_LABEL if self.adapter is None else self.adapter


@dataclass(frozen=True, slots=True)
class Settings:
    """How answers are asked for. `tries` counts the first one; `concurrency` requests are under way at once."""

    model: str
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 1
    concurrency: int = 16
    tries: int = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a text, or why there is none. `served_by` is the server's word for the adapter."""

    text: str = ""
    failure: str | None = None
    served_by: str | None = None
    completion_tokens: int = 0
    cut: bool = False
    """Whether it ended because it had as many tokens as it may."""


@dataclass(frozen=True, slots=True)
class Server:
    """What the server says of itself."""

    model: str
    notice: str
    weights: str
    quantization: str


@dataclass(frozen=True, slots=True)
class Asked:
    """All answers, [case][contender], and how long they took together."""

    answers: list[list[Answer]]
    seconds: float

    @property
    def failures(self) -> list[str]:
        """Why answers are missing."""
        return [answer.failure for row in self.answers for answer in row if answer.failure is not None]

    @property
    def tokens(self) -> int:
        """Tokens of all answers."""
        return sum(answer.completion_tokens for row in self.answers for answer in row)

    @property
    def rate(self) -> float:
        """Tokens of a second, of all requests together."""
        return self.tokens / self.seconds if self.seconds else 0.0


class Asker:
    """Asks one server. `client` is connected to an account's `…/ai/`, with its token."""

    def __init__(self, client: httpx2.AsyncClient, settings: Settings, pause: Pause = asyncio.sleep) -> None:
        self._client = client
        self._settings = settings
        self._pause = pause
        self._base: Object = {"lora": BASE_NAME}
        self._served: dict[Contender, str] = {}

    async def server(self) -> Server:
        """What is served. Raises `ServerRefused`."""
        answer = await self._send("GET", "models/search", params={"search": self._settings.model})
        found = _envelope(answer)["result"] if answer.status_code == httpx2.codes.OK else _refuse(answer)
        for model in found:
            if model["name"] == self._settings.model:
                properties = {one["property_id"]: one["value"] for one in model["properties"]}
                return Server(
                    model["name"],
                    model["description"],
                    properties.get("weights", "unknown"),
                    properties.get("quantization", "unknown"),
                )
        raise ServerRefused(f"The server has no model {self._settings.model}", 0)

    async def ask(self, cases: Sequence[Case], contenders: Sequence[Contender], progress: Progress) -> Asked:
        """An answer, or why there is none, for every case and contender.

        Raises `ServerRefused` for what no case would get an answer for.
        """
        answers = [[Answer()] * len(contenders) for _ in cases]
        places = iter([(row, column) for row in range(len(cases)) for column in range(len(contenders))])
        done = 0

        async def work() -> None:
            nonlocal done
            for row, column in places:
                answers[row][column] = await self._answer(cases[row], contenders[column])
                done += 1
                progress(done, len(cases) * len(contenders))

        started = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._settings.concurrency):
                    group.create_task(work())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return Asked(answers, time.monotonic() - started)

    async def _answer(self, case: Case, contender: Contender) -> Answer:
        """Try until there is an answer or a refusal that trying again would not change."""
        failure = ""
        for wait in _pauses(self._settings.tries):
            try:
                response = await self._run(case, contender)
            except ServerUnreachable as error:
                failure = str(error)
            else:
                if response.status_code == httpx2.codes.OK:
                    return self._read(response, contender)
                failure = _failure(response)
                if response.status_code not in PASSING and response.status_code < 500:
                    break
                wait = _named_pause(response) or wait
            if wait is not None:
                await self._pause(wait)
        return Answer(failure=failure)

    async def _run(self, case: Case, contender: Contender) -> httpx2.Response:
        """One request. A server that does not know the base by its name gets requests that name no adapter."""
        named = self._base if contender.adapter is None else {"lora": contender.adapter}
        response = await self._post(case, named)
        if _code(response) == UNKNOWN_ADAPTER and contender.adapter is None and named:
            self._base = {}
            response = await self._post(case, self._base)
        if response.status_code in CLOSED or _code(response) in UNSERVABLE:
            _refuse(response)
        return response

    async def _post(self, case: Case, named: Object) -> httpx2.Response:
        settings = self._settings
        body = {
            **case.inputs,
            **named,
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
            "seed": settings.seed,
        }
        return await self._send("POST", f"run/{quote(settings.model, safe='@/')}", json=body)

    async def _send(self, method: str, path: str, **content: Any) -> httpx2.Response:
        try:
            return await self._client.request(method, path, **content)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            text = f"The server at {self._client.base_url.host} does not answer: {error or type(error).__name__}"
            raise ServerUnreachable(text) from error

    def _read(self, response: httpx2.Response, contender: Contender) -> Answer:
        result = _envelope(response)["result"]
        tokens = int(result.get("usage", {}).get("completion_tokens", 0))
        served_by = response.headers.get(ADAPTER_HEADER)
        self._check(contender, served_by)
        return Answer(as_text(result["response"]), None, served_by, tokens, result.get("finish_reason") == "length")

    def _check(self, contender: Contender, served_by: str | None) -> None:
        """Raise `ServerRefused` if something else answered than was asked for, or than answered before."""
        if served_by is None:
            return
        if (served_by == "none") != (contender.adapter is None):
            raise ServerRefused(f"{contender.label} was asked for, but the server answered with {served_by}")
        if self._served.setdefault(contender, served_by) != served_by:
            raise ServerRefused(f"{contender.label} was replaced during the evaluation: run it again")


@asynccontextmanager
async def account_client(
    url: str, account: str, token: str, transport: httpx2.AsyncBaseTransport | None = None, *, direct: bool = False
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of an account's `…/ai/`. `direct` ignores the proxies of the environment."""
    async with httpx2.AsyncClient(
        base_url=f"{url}/client/v4/accounts/{quote(account, safe='')}/ai/",
        headers={"authorization": f"Bearer {token}"},
        timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
        limits=httpx2.Limits(max_connections=None),
        transport=transport,
        trust_env=not direct,
    ) as client:
        yield client


def _pauses(tries: int) -> Iterator[float | None]:
    """How long to wait after each try that fails; after the last one not at all."""
    for number in range(tries - 1):
        yield min(FIRST_PAUSE * 2**number, LONGEST_PAUSE)
    yield None


def _named_pause(response: httpx2.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return min(float(text), LONGEST_PAUSE) if text.isascii() and text.isdigit() else None


def _envelope(response: httpx2.Response) -> Any:
    try:
        envelope = response.json()
    except ValueError:
        envelope = None
    if not isinstance(envelope, dict) or "result" not in envelope:
        raise ServerUnreachable(f"The server answers {response.status_code}, but not as gemlora does")
    return envelope


def _first_error(response: httpx2.Response) -> tuple[int | None, str]:
    try:
        error = response.json()["errors"][0]
        return int(error["code"]), str(error["message"])
    except (ValueError, TypeError, KeyError, IndexError):
        return None, response.text[:200]


def _code(response: httpx2.Response) -> int | None:
    return None if response.status_code == httpx2.codes.OK else _first_error(response)[0]


def _failure(response: httpx2.Response) -> str:
    code, text = _first_error(response)
    return f"{response.status_code}{f', code {code}' if code else ''}: {text}"


def _refuse(response: httpx2.Response) -> Any:
    code, text = _first_error(response)
    raise ServerRefused(f"The server refuses with {response.status_code}: {text}", code or 0)
