"""What a batch is: requests that were accepted now to be answered later, and their answers."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How far a batch is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """One request of a batch: a model's inputs as JSON, and the client's own name for it."""

    inputs: dict[str, Any]
    external_reference: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests of one account to one model."""

    id: str
    account_id: str
    model: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """A request that one server is answering. Nobody else does until the claim expires."""

    batch: Batch
    number: int
    inputs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request of a batch got: its answer as JSON, or why there is none."""

    content: dict[str, Any]
    success: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer beside the name that the client gave the request."""

    answer: Answer
    external_reference: str | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is; the answers, in the order of the requests, once it is done."""

    status: Status
    answers: tuple[Answered, ...] = ()
