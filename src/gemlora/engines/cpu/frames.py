"""What client and worker say to each other over their socket: msgpack with a length in front, never pickle.

A frame holds all that is said at once, so that a step costs one, however many requests have tokens.
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from gemlora.engines.contract import AdapterRef, EngineStats, FinishReason, GenerateRequest, ModelFacts
from gemlora.engines.cpu.options import CpuOptions
from gemlora.errors import (
    AdapterInvalid,
    ConstraintInvalid,
    ConstraintUnmet,
    EngineFailed,
    GemloraError,
    InvalidRequest,
    SettingsInvalid,
    WeightsInvalid,
)

LENGTH_BYTES = 4
LONGEST_FRAME = 1 << 26
"""Bytes; far above the longest prompt. A greater length means that the stream is damaged."""

FAILURES: dict[str, type[GemloraError]] = {
    "adapter": AdapterInvalid,
    "constraint": ConstraintInvalid,
    "unmet": ConstraintUnmet,
    "request": InvalidRequest,
    "weights": WeightsInvalid,
    "settings": SettingsInvalid,
    "engine": EngineFailed,
}
"""Errors by the name under which they travel; the first that fits is taken, all others travel as `engine`."""


class Start(Struct, frozen=True, tag="start"):
    """The first command: load the model."""

    options: CpuOptions


class Submit(Struct, frozen=True, tag="submit"):
    """Continue a prompt. No two requests that are under way have the same id."""

    request: GenerateRequest


class Cancel(Struct, frozen=True, tag="cancel"):
    """Forget a request; unknown ids are ignored, the request may just have ended."""

    id: str


class ProbeAdapter(Struct, frozen=True, tag="probe"):
    """Measure what an adapter changes. The id is like that of a request."""

    id: str
    adapter: AdapterRef


class UnloadAdapter(Struct, frozen=True, tag="unload"):
    """Forget what was made of an adapter's files."""

    id: str
    digest: str


class Shutdown(Struct, frozen=True, tag="shutdown"):
    """Exit. The worker also reads the end of the stream as this."""


Command = Start | Submit | Cancel | ProbeAdapter | UnloadAdapter | Shutdown


class Ready(Struct, frozen=True, tag="ready"):
    """The model is loaded."""

    facts: ModelFacts


class Started(Struct, frozen=True, tag="started"):
    """The request is about to be computed, for the first time or again; said before anything can go wrong with it."""

    id: str


class Delivered(Struct, frozen=True, tag="delivered"):
    """New tokens of a request; with a finish reason it has ended."""

    id: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason | None = None


class Probed(Struct, frozen=True, tag="probed"):
    """A probe has ended; `difference` is that of `contract.Probe`."""

    id: str
    difference: float


class Unloaded(Struct, frozen=True, tag="unloaded"):
    """An adapter is forgotten."""

    id: str


class Failed(Struct, frozen=True, tag="failed"):
    """A request has ended without a result, or, with an empty id, the start has."""

    id: str
    failure: str
    message: str

    @classmethod
    def of(cls, id: str, error: GemloraError) -> "Failed":
        """The frame that carries `error`."""
        names = (name for name, kind in FAILURES.items() if isinstance(error, kind))
        return cls(id, next(names, "engine"), str(error))

    @property
    def error(self) -> GemloraError:
        """The error that it carries."""
        return FAILURES[self.failure](self.message)


class Counted(Struct, frozen=True, tag="counted"):
    """The engine's counters, as they stand after a step."""

    stats: EngineStats


Event = Ready | Started | Delivered | Probed | Unloaded | Failed | Counted

Said = TypeVar("Said")


def encode(said: Sequence[Struct]) -> bytes:
    """Commands or events as one frame."""
    body = msgspec.msgpack.encode(said)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class FrameReader(Generic[Said]):
    """Cuts a stream of bytes into frames, and those into what was said."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[list[Said]]) -> None:
        self._decoder = decoder
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[Said]:
        """What the frames say that `data` completes. Raises `ValueError` if the stream is damaged."""
        self._pending += data
        said: list[Said] = []
        start = 0
        while (end := self._end(start)) <= len(self._pending):
            said += self._decoder.decode(self._pending[start + LENGTH_BYTES : end])
            start = end
        del self._pending[:start]
        return said

    def _end(self, start: int) -> int:
        """Where the frame at `start` ends, as far as is known."""
        body = start + LENGTH_BYTES
        if len(self._pending) < body:
            return body
        length = int.from_bytes(self._pending[start:body], "big")
        if length > LONGEST_FRAME:
            raise ValueError(f"a frame of {length} bytes; the longest is {LONGEST_FRAME}")
        return body + length


def command_reader() -> FrameReader[Command]:
    """What the worker reads with."""
    return FrameReader(msgspec.msgpack.Decoder(list[Command]))


def event_reader() -> FrameReader[Event]:
    """What the client reads with."""
    return FrameReader(msgspec.msgpack.Decoder(list[Event]))
