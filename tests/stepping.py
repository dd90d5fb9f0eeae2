"""A step loop without model, socket and process: its tokens are a pure function of each sequence's own tokens."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from gemlora.engines.contract import AdapterRef, Constraint, FinishReason, GenerateRequest, Sampling
from gemlora.engines.cpu.adapters import AdapterPool
from gemlora.engines.cpu.batch import Batch
from gemlora.engines.cpu.blocks import BLOCK_SIZE, BlockPool
from gemlora.engines.cpu.constraining import Constraining
from gemlora.engines.cpu.engine import StepLoop
from gemlora.engines.cpu.frames import Cancel, Command, Counted, Delivered, Event, Failed, Shutdown, Submit
from gemlora.engines.cpu.interfaces import Speculation as Speculating
from gemlora.engines.cpu.pace import Pace
from gemlora.engines.cpu.prefix_cache import PrefixCache
from gemlora.engines.cpu.sampler import Sampler
from gemlora.engines.cpu.scheduler import Scheduler
from gemlora.engines.cpu.sequence import Sequence
from gemlora.engines.cpu.speculation import Speculation
from gemlora.errors import AdapterInvalid
from gemlora.kernels import LoraWeights
from gemlora.kernels.reference import ReferenceKernels
from gemlora.kernels.sampling import most_likely_of

if TYPE_CHECKING:
    from gemlora.engines.constraints import GrammarVocabulary

VOCABULARY = 50
CONTEXT = 512

DRAWN = 45
"""Tokens that can be drawn; the others have special meanings in prompts."""
NOT_FINITE = 47
"""Makes the logits NaN."""
RAISING = 48
"""Makes the forward pass raise."""
IMPOSSIBLE = -1000.0
"""The logit of the others."""
ADAPTER_SIZE = 100
BROKEN = "broken"
BASE = "the digest of no weights"
PROBE_PROMPT = (2, 9, 16, 23)


def logits_of(tokens: NDArray[np.int32], adapter: LoraWeights | None) -> NDArray[np.float32]:
    """The logits [V] after a sequence: random, but always the same for the same tokens and adapter."""
    digest = hashlib.sha256(tokens.astype(np.int32).tobytes() + (adapter.digest if adapter else "").encode()).digest()
    if NOT_FINITE in tokens:
        return np.full(VOCABULARY, np.nan, np.float32)
    values = np.frombuffer(b"".join(hashlib.sha256(digest + bytes([i])).digest() for i in range(2)), np.uint8)
    logits = np.full(VOCABULARY, IMPOSSIBLE, np.float32)
    logits[:DRAWN] = values[:DRAWN] / np.float32(32)
    return logits


def owner(sequence: Sequence) -> int:
    """Tells apart what must not share keys and values; the values of `PagedRunner` depend on nothing else."""
    request = sequence.request
    return hash((request.cache_scope, request.share_key, request.adapter and request.adapter.digest))


class Computed:
    """Logits as a runner's output."""

    def __init__(self, logits: NDArray[np.float32], *, greedy: bool) -> None:
        self._logits = logits
        self.most_likely = most_likely_of(logits) if greedy else None

    def logits(self) -> NDArray[np.float32]:
        return self._logits


class PagedRunner:
    """Keeps nothing but the tokens and their owners in its paged cache and reads them back through the block tables.

    So a block that is wrongly shared, lost or too early reused changes tokens.
    """

    def __init__(self, blocks: int) -> None:
        self.cache = np.full((blocks, BLOCK_SIZE), -1, np.int32)
        self.owners = np.zeros((blocks, BLOCK_SIZE), np.int64)
        self.rows: list[int] = []

    def forward(self, batch: Batch, between: Callable[[], None] | None = None) -> "Computed":
        self.rows.append(len(batch.tokens))
        blocks = batch.block_tables[batch.sequence_of_row, batch.positions // BLOCK_SIZE]
        self.cache[blocks, batch.positions % BLOCK_SIZE] = batch.tokens
        owners = np.array([owner(chunk.sequence) for chunk in batch.chunks])
        self.owners[blocks, batch.positions % BLOCK_SIZE] = owners[batch.sequence_of_row]
        if RAISING in batch.tokens:
            raise RuntimeError("poisonous token")
        if between:
            between()
        rows = [self._logits(batch, row) for row in batch.logit_rows]
        return Computed(np.stack(rows) if rows else np.zeros((0, VOCABULARY), np.float32), greedy=batch.greedy)

    def _logits(self, batch: Batch, row: int) -> NDArray[np.float32]:
        table = batch.block_tables[batch.sequence_of_row[row]]
        tokens = self.cache[table].reshape(-1)[: batch.positions[row] + 1]
        owners = self.owners[table].reshape(-1)[: batch.positions[row] + 1]
        if (owners != owner(batch.chunks[batch.sequence_of_row[row]].sequence)).any():
            return np.full(VOCABULARY, np.nan, np.float32)
        segment = np.searchsorted(batch.segments.ends, row, side="right")
        return logits_of(tokens, batch.segments.adapters[segment])


class Prophet:
    """Guesses of requests' tokens that are right as often as is wanted, also beyond where the requests end."""

    def __init__(self, accuracy: float, random: Random, vocabulary: int = VOCABULARY) -> None:
        self.truths: dict[str, tuple[int, ...]] = {}
        self._accuracy = accuracy
        self._random = random
        self._vocabulary = vocabulary

    def learn(self, *requests: GenerateRequest) -> None:
        """Find out what would come if nothing stopped them."""
        endless = [replace(one, stop_tokens=(), max_tokens=one.max_tokens + 10) for one in requests]
        self.truths |= {one.id: tokens for one, tokens in zip(requests, alone(*endless), strict=True)}

    def drafts(self, rooms: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        return {sequence: self._draft(sequence, room) for sequence, room in rooms.items()}

    def _draft(self, sequence: Sequence, room: int) -> list[int]:
        truth = self.truths.get(sequence.request.id, ())[sequence.generated :]
        right = [token if self._random.random() < self._accuracy else self._wrong() for token in truth]
        return right[: self._random.randint(0, room)]

    def _wrong(self) -> int:
        return self._random.randrange(self._vocabulary)


class ListMailbox:
    """Commands are put in, events are taken out."""

    def __init__(self, most: int | None = None) -> None:
        """It hands out at most so many commands at a time; the next ones can be had while a step is computed."""
        self.most = most
        self.commands: list[Command] = []
        self.events: list[Event] = []
        self.waited = False

    def receive(self, wait: bool) -> list[Command]:
        self.waited = wait and not self.commands
        commands = self.commands[: self.most]
        del self.commands[: self.most]
        return commands

    def send(self, events: list[Event]) -> None:
        self.events += events


class EmptyLoader:
    """Adapters without pairs; their digests alone change the logits of `PagedRunner`."""

    def __init__(self) -> None:
        self.packed: set[str] = set()
        self.discarded: list[str] = []

    def size(self, ref: AdapterRef) -> int:
        return ADAPTER_SIZE

    def open(self, ref: AdapterRef) -> LoraWeights | None:
        return LoraWeights(ref.digest, {}) if ref.digest in self.packed else None

    def pack(self, ref: AdapterRef) -> LoraWeights:
        if ref.digest == BROKEN:
            raise AdapterInvalid("this adapter is broken")
        return LoraWeights(ref.digest, {})

    def discard(self, digest: str) -> None:
        self.discarded.append(digest)


class LateExecutor(Executor):
    """Runs what was submitted when the test says so."""

    def __init__(self) -> None:
        self.tasks: list[Callable[[], None]] = []

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(function(*arguments, **named))
            except Exception as error:
                future.set_exception(error)

        self.tasks.append(run)
        return future

    def run(self) -> None:
        while self.tasks:
            self.tasks.pop(0)()


class PromptExecutor(Executor):
    """Runs what is submitted at once."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        late = LateExecutor()
        future = late.submit(function, *arguments, **named)
        late.run()
        return future


TOKENS = [bytes([byte]) for byte in b'{}[]",:0123456789-. abcdefghijklmnopqrstuvwxyz'][:DRAWN]
"""The bytes of the tokens that can be drawn."""


def constraining(tokens: list[bytes], compiler: Executor, size: int = VOCABULARY) -> Constraining:
    """Constraints over a vocabulary of `size` ids, of which the last ones have no text; the last one is its end."""

    def load() -> "GrammarVocabulary":
        from gemlora.engines.constraints import GrammarVocabulary

        return GrammarVocabulary([*tokens, *[b""] * (size - len(tokens))], size - 1)

    return Constraining(load, 500_000, compiler, PromptExecutor(), lambda: None)


class Bench:
    """A step loop that a test drives by hand, and everything that came out of it."""

    def __init__(
        self, blocks: int = 64, max_sequences: int = 8, step_tokens: int = 64, adapters: int = 4,
        context: int = CONTEXT, step_seconds: float = inf, speculation: Speculating | None = None,
        commands: int | None = None, **caching: Any,
    ) -> None:  # fmt: skip
        """At most `commands` come at a time. `caching` are arguments of the prefix cache, which keeps all that it can
        by default."""
        self.pool = BlockPool(blocks)
        self.cache = PrefixCache(self.pool, BASE, **{"most_idle": blocks, **caching})
        self.runner = PagedRunner(blocks)
        self.mailbox = ListMailbox(commands)
        self.executor = LateExecutor()
        self.scheduler = Scheduler(self.cache, max_sequences, Pace(step_tokens, step_seconds))
        self.loader = EmptyLoader()
        self.adapters = AdapterPool(self.loader, adapters * ADAPTER_SIZE, self.executor, self.executor, lambda: None)
        self.loop = StepLoop(
            self.mailbox,
            self.scheduler,
            self.runner,
            Sampler(ReferenceKernels()),
            self.adapters,
            speculation or Speculation(0),
            constraining(TOKENS, self.executor),
            context_window=min(context, self.scheduler.capacity),
            vocabulary=VOCABULARY,
            probe_prompt=PROBE_PROMPT,
        )

    def submit(self, *requests: GenerateRequest) -> None:
        self.mailbox.commands += [Submit(request) for request in requests]

    def cancel(self, id: str) -> None:
        self.mailbox.commands.append(Cancel(id))

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.executor.run()
            assert self.loop.step()

    def run(self, most: int = 10_000) -> None:
        """Step until nothing is left."""
        self.step()
        while self.mailbox.commands or self.scheduler.running or self.scheduler.waiting:
            assert (most := most - 1), "the loop makes no progress"
            self.step()

    def shut_down(self) -> bool:
        self.mailbox.commands.append(Shutdown())
        return not self.loop.step()

    def tokens(self, id: str) -> tuple[int, ...]:
        return sum((e.tokens for e in self.mailbox.events if isinstance(e, Delivered) and e.id == id), ())

    def finish_reason(self, id: str) -> FinishReason | None:
        reasons = [e.finish_reason for e in self.mailbox.events if isinstance(e, Delivered) and e.id == id]
        assert None not in reasons[-1:], f"{id} has not ended"
        return reasons[-1] if reasons else None

    def failure(self, id: str) -> Failed:
        (failed,) = [e for e in self.mailbox.events if isinstance(e, Failed) and e.id == id]
        return failed

    def stats(self) -> Any:
        return [e.stats for e in self.mailbox.events if isinstance(e, Counted)][-1]

    def running(self, id: str) -> Sequence:
        (sequence,) = [s for s in (*self.scheduler.running, *self.scheduler.waiting) if s.request.id == id]
        return sequence


def request(
    id: str, prompt: Iterable[int] = (1, 2, 3), max_tokens: int = 8, *, stop: tuple[int, ...] = (),
    adapter: str | None = None, generated: tuple[int, ...] = (), scope: bytes = b"", share: bytes = b"",
    grammar: str | None = None, **sampling: Any,
) -> GenerateRequest:  # fmt: skip
    """A request; greedy unless a temperature is given."""
    return GenerateRequest(
        id=id,
        prompt=tuple(prompt),
        max_tokens=max_tokens,
        sampling=Sampling(**{"seed": 0, "temperature": 0.0, **sampling}),
        stop_tokens=stop,
        adapter=AdapterRef(adapter, "", "", "") if adapter else None,
        generated=generated,
        cache_scope=scope,
        share_key=share,
        constraint=Constraint(grammar) if grammar else None,
    )


def alone(*requests: GenerateRequest) -> list[tuple[int, ...]]:
    """The tokens of each request when there is no other."""
    outputs = []
    for one in requests:
        bench = Bench(step_tokens=CONTEXT, enabled=False)
        bench.submit(one)
        bench.run()
        outputs.append(bench.tokens(one.id))
    return outputs
