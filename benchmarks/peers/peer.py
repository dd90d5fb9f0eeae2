"""What the comparison needs of a server, ours or another one."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from benchmarks.client import Answer, Call, answered
from benchmarks.load import Closed, run

LONGEST_LOAD = 900.0
"""Seconds that one load may take."""


@dataclass(frozen=True)
class Question:
    """A raw prompt, how many tokens shall follow it, and the adapter's number; None is the base."""

    prompt: str
    tokens: int
    adapter: int | None


Clients = Sequence[Sequence[Question]]
"""The questions of each client, which it asks one after the other."""


class Served(Protocol):
    """A running server that answers."""

    @property
    def pid(self) -> int:
        """The process that everything descends from."""
        ...

    def ask(self, question: Question) -> Answer:
        """The answer to one question, at once, without starting a process for the client."""
        ...

    def answer(self, clients: Clients) -> list[Answer]:
        """Answer all questions, greedily, the clients at the same time."""
        ...


class Peer(Protocol):
    """A kind of server. Everything it needs is installed and made when it is constructed."""

    @property
    def name(self) -> str:
        """As pages call it."""
        ...

    @property
    def version(self) -> str:
        """What exactly was measured: version, build, precision."""
        ...

    def serve(self) -> AbstractContextManager[Served]:
        """A new process, its adapters loaded, ready to answer; it ends with the block."""
        ...


class CallMaker(Protocol):
    """Spells a question for an HTTP server."""

    def __call__(self, port: int, question: Question) -> Call: ...


@dataclass(frozen=True)
class HttpServed:
    """A server that is asked over HTTP."""

    pid: int
    port: int
    call: CallMaker

    def ask(self, question: Question) -> Answer:
        """The answer to one question."""
        return asyncio.run(answered(self.call(self.port, question)))

    def answer(self, clients: Clients) -> list[Answer]:
        """The answers in the clients' order."""
        plan = Closed(tuple(tuple(self.call(self.port, question) for question in each) for each in clients))
        return run(plan, LONGEST_LOAD)
