"""An engine without a model: its tokens are a hash of the request. For tests of everything above the engine."""

import asyncio
import hashlib
import itertools
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gemlora.engines.contract import (
    AdapterRef,
    Constraint,
    EngineStats,
    FinishReason,
    GenerateRequest,
    ModelFacts,
    Output,
    Probe,
)
from gemlora.errors import AdapterInvalid, GemloraError, OutOfCapacity, RequestAborted
from gemlora.storage.manifest import AdapterManifest

if TYPE_CHECKING:
    from gemlora.engines.constraints import GrammarVocabulary

GRAMMAR_SYMBOLS = 500_000

ALPHABET = tuple(b"etaoin shrdlu cmfwyp, ")

FAKE_FACTS = ModelFacts(
    name="fake",
    family="gemma3",
    digest="0" * 64,
    quantization="none",
    context_window=8192,
    layers=2,
    vocabulary=262,
    modules={
        "q_proj": (64, 32),
        "k_proj": (16, 32),
        "v_proj": (16, 32),
        "o_proj": (32, 64),
        "gate_proj": (128, 32),
        "up_proj": (128, 32),
        "down_proj": (32, 128),
    },
    hidden=32,
    tied=True,
)


class FakeEngine:
    """Answers every request with `length` tokens of `alphabet`, then stops.

    The tokens depend on prompt, sampling and adapter digest only, and on the seed only if the request is not greedy.
    A constrained answer keeps to its grammar meanwhile and is completed then. `prefill_seconds` pass before the first
    token and `token_seconds` before each. `live` counts unfinished sequences.
    """

    def __init__(
        self,
        facts: ModelFacts = FAKE_FACTS,
        *,
        alphabet: Sequence[int] = ALPHABET,
        length: int = 24,
        prefill_seconds: float = 0.0,
        token_seconds: float = 0.0,
        capacity: int | None = None,
    ) -> None:
        self._facts = facts
        self._alphabet = alphabet
        self._length = length
        self._prefill_seconds = prefill_seconds
        self._token_seconds = token_seconds
        self._capacity = capacity
        self._failure: tuple[GemloraError, int] | None = None
        self._broken_adapters: set[str] = set()
        self._vocabulary: GrammarVocabulary | None = None
        self._closed = asyncio.Event()
        self.live = 0
        self.requests: list[GenerateRequest] = []
        self.probed: list[str] = []
        self.unloaded: list[str] = []

    @property
    def facts(self) -> ModelFacts:
        """What the fake claims to serve."""
        return self._facts

    def stats(self) -> EngineStats:
        """The number of live sequences."""
        return EngineStats(running=self.live)

    async def start(self) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """End all sequences with `RequestAborted`."""
        self._closed.set()

    def fail_next(self, error: GemloraError, after_tokens: int = 0) -> None:
        """Let the next request end with `error` once it has got that many tokens."""
        self._failure = (error, after_tokens)

    def break_adapter(self, digest: str) -> None:
        """Let every request and every probe with that adapter fail."""
        self._broken_adapters.add(digest)

    @property
    def busy(self) -> bool:
        """Whether the capacity is used up."""
        return self._capacity is not None and self.live >= self._capacity

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Output, None]:
        """Yield one token at a time; see `Engine.generate`."""
        if self._closed.is_set():
            raise RequestAborted("The engine was stopped")
        if self.busy:
            raise OutOfCapacity("The engine's queue is full")
        if request.adapter is not None:
            self._check(request.adapter)
        failure, self._failure = self._failure, None
        self.requests.append(request)
        self.live += 1
        try:
            await self._pause(self._prefill_seconds)
            async for output in self._outputs(request, failure):
                yield output
        finally:
            self.live -= 1

    async def probe(self, adapter: AdapterRef) -> Probe:
        """Read the manifest; every adapter that has one changes the fake's tokens."""
        if self._closed.is_set():
            raise RequestAborted("The engine was stopped")
        self.probed.append(adapter.digest)
        self._check(adapter)
        try:
            content = await asyncio.to_thread(Path(adapter.manifest).read_bytes)
            AdapterManifest.from_json(content)
        except (OSError, ValueError) as error:
            raise AdapterInvalid(f"Adapter {adapter.digest}: the manifest cannot be read: {error}") from error
        if hashlib.sha256(content).hexdigest() != adapter.manifest_digest:
            raise AdapterInvalid(f"Adapter {adapter.digest}: the manifest was changed after registration")
        return Probe(1.0)

    async def unload(self, digest: str) -> None:
        """Nothing was made of its files."""
        self.unloaded.append(digest)

    def _check(self, adapter: AdapterRef) -> None:
        if adapter.digest in self._broken_adapters:
            raise AdapterInvalid("The adapter cannot be loaded")

    async def _outputs(
        self, request: GenerateRequest, failure: tuple[GemloraError, int] | None
    ) -> AsyncGenerator[Output, None]:
        if request.constraint is not None:
            async for output in self._constrained_outputs(request, request.constraint, failure):
                yield output
            return
        digest = _digest(request)
        for index in itertools.count(len(request.generated)):
            if failure is not None and index == failure[1]:
                raise failure[0]
            await self._pause(self._token_seconds)
            if index >= self._length and request.stop_tokens:
                yield Output((), FinishReason.STOP)
                return
            token = _draw(digest, index, self._alphabet)
            last = index + 1 >= request.max_tokens
            yield Output((token,), FinishReason.LENGTH if last else None)
            if last:
                return

    async def _constrained_outputs(
        self, request: GenerateRequest, constraint: Constraint, failure: tuple[GemloraError, int] | None
    ) -> AsyncGenerator[Output, None]:
        """Tokens that the grammar allows, of the alphabet where it can be, and after `length` the shortest ending."""
        from gemlora.engines.constraints import ConstrainedText, compile_grammar

        if self._vocabulary is None:
            self._vocabulary = _byte_vocabulary(self._facts.vocabulary)
        matcher = compile_grammar(constraint.grammar, self._vocabulary, GRAMMAR_SYMBOLS)
        text = ConstrainedText(self._vocabulary, matcher, (), request.max_tokens)
        ended = text.resume(request.generated)
        if ended is not None:
            yield Output(ended.tokens, ended.finish_reason)
            return
        digest = _digest(request)
        for index in itertools.count(len(request.generated)):
            if failure is not None and index == failure[1]:
                raise failure[0]
            await self._pause(self._token_seconds)
            if index >= self._length and not text.closing:
                yield Output((), FinishReason.STOP)
                return
            allowed = text.allowed()
            preferred = [token for token in self._alphabet if token in allowed] or allowed
            taken = text.take(text.closing[0] if index >= self._length else _draw(digest, index, preferred))
            yield Output(taken.tokens, taken.finish_reason)
            if taken.finish_reason is not None:
                return

    async def _pause(self, seconds: float) -> None:
        """Wait, but not beyond the engine's end."""
        if seconds:
            try:
                await asyncio.wait_for(self._closed.wait(), seconds)
            except TimeoutError:
                return
        else:
            await asyncio.sleep(0)
        if self._closed.is_set():
            raise RequestAborted("The engine was stopped")


def _byte_vocabulary(size: int) -> "GrammarVocabulary":
    """The bytes by value; the ids behind them are control tokens."""
    from gemlora.engines.constraints import GrammarVocabulary

    return GrammarVocabulary([*(bytes([byte]) for byte in range(256)), *[b""] * (size - 256)], end=size - 1)


def _draw(digest: bytes, index: int, tokens: Sequence[int]) -> int:
    draw = hashlib.sha256(digest + index.to_bytes(8, "big")).digest()
    return tokens[int.from_bytes(draw[:8], "big") % len(tokens)]


def _digest(request: GenerateRequest) -> bytes:
    sampling = request.sampling
    if sampling.greedy:
        sampling = msgspec.structs.replace(sampling, seed=0)
    adapter = request.adapter.digest if request.adapter else None
    return hashlib.sha256(msgspec.msgpack.encode((request.prompt, sampling, adapter))).digest()
