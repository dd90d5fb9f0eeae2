"""The step loop: receive, next batch, forward, sample, deliver. It knows no socket and no process.

Guessed tokens are computed in the same step as the token before them. Each logit row gets the token that would be drawn
there anyway; as long as that is the guessed one, the next row counts too. So a guess changes no token.

Between the layers of a step with prompts the loop looks whether new requests have come. Short ones among them are
computed at once, in a step within the step, and do not wait for its end.

A request's failure ends that request alone. If a whole step fails, its chunks are computed one by one: a row's result
does not depend on its neighbours and storing keys and values twice changes nothing, so the innocent ones lose nothing.
"""

import logging
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Several
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import count
from math import inf

from msgspec.structs import replace

from gemlora.engines.contract import EngineStats, FinishReason, GenerateRequest, Sampling
from gemlora.engines.cpu.batch import Batch, Chunk
from gemlora.engines.cpu.constraining import Opened
from gemlora.engines.cpu.frames import (
    Cancel,
    Command,
    Counted,
    Delivered,
    Event,
    Failed,
    ProbeAdapter,
    Probed,
    Shutdown,
    Started,
    Submit,
    UnloadAdapter,
    Unloaded,
)
from gemlora.engines.cpu.interfaces import Adapters, Constraints, Mailbox, Runner, Speculation
from gemlora.engines.cpu.probing import Probing, with_changed_tokens
from gemlora.engines.cpu.sampler import Drawn, Sampler
from gemlora.engines.cpu.scheduler import Scheduler
from gemlora.engines.cpu.sequence import Sequence
from gemlora.errors import EngineFailed, GemloraError, InvalidRequest, PromptTooLong

REPORT_SECONDS = 0.1
"""How old the counters may be that the client has, while steps are computed."""

OPENING_PATIENCE = 0.005
"""Seconds that a step waits for adapters which it begins to read: packed ones take a millisecond, and the next step
comes much later."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Counters:
    """The counters of `EngineStats` that the loop itself keeps."""

    steps: int = 0
    step_seconds: float = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class StepLoop:
    """All sequences of one engine and the loop that drives them."""

    def __init__(
        self,
        mailbox: Mailbox,
        scheduler: Scheduler,
        runner: Runner,
        sampler: Sampler,
        adapters: Adapters,
        speculation: Speculation,
        constraints: Constraints,
        *,
        context_window: int,
        vocabulary: int,
        probe_prompt: tuple[int, ...],
    ) -> None:
        """`context_window` is the longest sequence in tokens; the scheduler's capacity must not be less."""
        self._mailbox = mailbox
        self._scheduler = scheduler
        self._runner = runner
        self._sampler = sampler
        self._adapters = adapters
        self._speculation = speculation
        self._constraints = constraints
        self._context_window = context_window
        self._vocabulary = vocabulary
        self._probe_prompt = probe_prompt
        self._arrivals = count()
        self._sequences: dict[str, Sequence] = {}
        self._unloading: dict[str, Future[None]] = {}
        self._events: list[Event] = []
        self._later: list[Command] = []
        self._inserted_seconds = 0.0
        self._broken: Exception | None = None
        self._idle = True
        self._counters = Counters()
        self._reported = EngineStats()
        self._reported_at = -inf

    def run(self) -> None:
        """Step until told to shut down."""
        self._report()
        self._flush()
        while self.step():
            pass

    def step(self) -> bool:
        """Take commands, compute one batch and report; False once told to shut down. Sleeps when there is nothing."""
        if not self._receive():
            return False
        started = time.monotonic()
        self._confirm_unloads()
        self._open_texts()
        self._acquire_adapters()
        chunks = self._scheduler.next_chunks(self._drafts())
        self._announce(chunks)
        self._inserted_seconds = 0
        has_prompts = any(chunk.length > 1 for chunk in chunks)
        for chunk, tokens in self._compute(chunks, self._insert if has_prompts else None):
            self._deliver(chunk, tokens)
        if self._broken is not None:
            self._flush()
            raise self._broken
        self._idle = not chunks
        seconds = time.monotonic() - started
        if chunks:
            self._scheduler.note(seconds - self._inserted_seconds)
            self._counters.steps += 1
            self._counters.step_seconds += seconds
        if self._idle or not self._sequences or started + seconds >= self._reported_at + REPORT_SECONDS:
            self._report()
            self._reported_at = started + seconds
        self._flush()
        return True

    def _insert(self) -> None:
        """Compute short prompts that have come since the step was planned, while its chunks are being computed.

        Those keep their sequences and blocks until the step ends, so other commands than new requests wait till then.
        A defect here is none of the step's: it is raised when that has ended.
        """
        if self._broken is not None:
            return
        started = time.monotonic()
        try:
            if self._take_requests() or not all(sequence.ready for sequence in self._scheduler.waiting):
                self._open_texts()
                self._acquire_adapters()
                if chunks := self._scheduler.inserted_chunks():
                    self._announce(chunks)
                    for chunk, tokens in self._compute(chunks):
                        self._deliver(chunk, tokens)
                self._flush()
        except Exception as error:
            self._broken = error
        self._inserted_seconds += time.monotonic() - started

    def _take_requests(self) -> bool:
        """Take the requests that have come, except those that an earlier command speaks of; False if there are none."""
        self._later += self._mailbox.receive(wait=False)
        taken, place = False, 0
        named: set[str | None] = set()
        while place < len(self._later):
            match self._later[place]:
                case Submit(request) if named.isdisjoint({request.id, request.adapter and request.adapter.digest}):
                    del self._later[place]
                    self._submit(Sequence.start(request, next(self._arrivals)))
                    taken = True
                    continue
                case Cancel(id):
                    named.add(id)
                case UnloadAdapter(_, digest):
                    named.add(digest)
                case Shutdown():
                    break
            place += 1
        return taken

    def _receive(self) -> bool:
        commands, self._later = self._later, []
        for command in [*commands, *self._mailbox.receive(wait=self._idle and not commands)]:
            match command:
                case Submit(request):
                    self._submit(Sequence.start(request, next(self._arrivals)))
                case ProbeAdapter(id, adapter):
                    request = GenerateRequest(id, self._probe_prompt, 1, Sampling(seed=0), (), adapter)
                    self._submit(Sequence.start(request, next(self._arrivals), Probing()))
                case UnloadAdapter(id, digest):
                    self._unloading[id] = self._adapters.unload(digest)
                case Cancel(id) if id in self._sequences:
                    self._forget(self._sequences[id])
                case Shutdown():
                    return False
        return True

    def _submit(self, sequence: Sequence) -> None:
        request = sequence.request
        try:
            self._check(request)
            self._scheduler.add(sequence)
        except GemloraError as error:
            self._events.append(Failed.of(request.id, error))
            return
        self._sequences[request.id] = sequence
        if self._is_full(sequence):
            self._finish(sequence, FinishReason.LENGTH)

    def _check(self, request: GenerateRequest) -> None:
        """Raises `InvalidRequest` for what would break the step."""
        if request.id in self._sequences:
            raise InvalidRequest(f"id: {request.id} is under way already")
        if not request.prompt:
            raise InvalidRequest("prompt: expected at least one token")
        if len(request.prompt) >= self._context_window:
            raise PromptTooLong(len(request.prompt) + 1, self._context_window)
        tokens = (*request.prompt, *request.generated)
        if min(tokens) < 0 or max(tokens) >= self._vocabulary:
            raise InvalidRequest(f"prompt: expected tokens from 0 to {self._vocabulary - 1}")

    def _acquire_adapters(self) -> None:
        """Give adapters to sequences that have none yet; those whose adapter is packed need not wait for the next step.

        Reading an adapter may be what the process dies of, so those who wait for it are named first.
        """
        if self._ask_for_adapters():
            self._flush()
            self._adapters.wait_for_opened(OPENING_PATIENCE)
            self._ask_for_adapters()
        self._adapters.settle()
        self._flush()

    def _ask_for_adapters(self) -> bool:
        """Oldest first. While one waits for room, newer ones take none, so that it gets what is released.

        Returns whether any adapter is being read since now.
        """
        begun = False
        for sequence in self._scheduler.waiting:
            ref = sequence.request.adapter
            if ref is None or sequence.has_adapter:
                continue
            try:
                sequence.adapter = self._adapters.acquire(ref)
            except Exception as error:
                self._fail(sequence, error)
                continue
            if sequence.adapter is None:
                if not self._adapters.has_room(ref):
                    break
                if not sequence.announced:
                    self._start(sequence)
                    begun = True
            if sequence.adapter is not None and sequence.probing and sequence.adapter.embedding:
                sequence.tokens = [*with_changed_tokens(sequence.tokens, sequence.adapter.embedding)]
        return begun

    def _open_texts(self) -> None:
        """Have the grammars of new sequences compiled; go on with those that are, and end those that cannot be.

        Compiling a grammar may be what the process dies of, so those who wait for it are named first.
        """
        for sequence in self._scheduler.waiting:
            request = sequence.request
            if request.constraint is None or sequence.text is not None:
                continue
            if sequence.opening is None:
                self._start(sequence)
                self._flush()
                sequence.opening = self._constraints.open(
                    request.constraint,
                    request.stop_tokens,
                    self._room(sequence) + sequence.generated,
                    request.generated,
                )
            if sequence.opening.done():
                self._continue_opened(sequence, sequence.opening)

    def _continue_opened(self, sequence: Sequence, opening: Future[Opened]) -> None:
        if (error := opening.exception()) is not None:  # a panic of the library is no `Exception`
            self._fail(sequence, error)
            return
        opened = opening.result()
        sequence.text = opened.text
        if opened.ended is not None and opened.ended.finish_reason is not None:
            self._finish(sequence, opened.ended.finish_reason, *opened.ended.tokens)

    def _confirm_unloads(self) -> None:
        for id, future in [entry for entry in self._unloading.items() if entry[1].done()]:
            del self._unloading[id]
            if (error := future.exception()) is None:
                self._events.append(Unloaded(id))
            else:
                logger.error("the files of an adapter could not be deleted", exc_info=error)
                self._events.append(Failed.of(id, EngineFailed("The files of the adapter could not be deleted.")))

    def _drafts(self) -> Mapping[Sequence, Several[int]]:
        """What is guessed to come next. The token before it must not be the last that may come."""
        decoding = [sequence for sequence in self._scheduler.running if sequence.remaining == 1]
        drafts = self._speculation.drafts({sequence: self._room(sequence) - 1 for sequence in decoding})
        return {sequence: _possible(sequence, draft) for sequence, draft in drafts.items()}

    def _announce(self, chunks: Several[Chunk]) -> None:
        """Name the sequences that start now, so that the client knows whose fault it may be if the process dies."""
        for chunk in chunks:
            if not chunk.sequence.announced:
                self._start(chunk.sequence)
        self._flush()

    def _start(self, sequence: Sequence) -> None:
        sequence.announced = True
        self._events.append(Started(sequence.request.id))

    def _compute(self, chunks: Several[Chunk], between: Callable[[], None] | None = None) -> list[Drawn]:
        if not chunks:
            return []
        try:
            return self._forward(chunks, between)
        except Exception as error:
            if len(chunks) == 1 and not chunks[0].draft:
                self._fail(chunks[0].sequence, error)
                return []
            logger.warning("a step of %d chunks failed, computing them one by one: %r", len(chunks), error)
            return [drawn for chunk in chunks for drawn in self._compute([Chunk(chunk.sequence, chunk.length)])]

    def _forward(self, chunks: Several[Chunk], between: Callable[[], None] | None) -> list[Drawn]:
        batch = Batch.of(chunks)
        complete = [chunk for chunk in batch.chunks if chunk.completes]
        masks = {
            chunk: self._constraints.masks(chunk.sequence.text, chunk.draft)
            for chunk in complete
            if chunk.sequence.text is not None
        }
        try:
            output = self._runner.forward(batch, between)
        finally:
            wait(masks.values())
        drawn = self._sampler.draw(output, complete, masks)
        for chunk in chunks:
            chunk.sequence.computed += chunk.length
        outputs = sum(chunk.sequence.probing is None for chunk in complete)
        drafted = sum(len(chunk.draft) for chunk in complete)
        self._counters.prompt_tokens += len(batch.tokens) - drafted - outputs
        self._counters.output_tokens += outputs
        self._counters.drafted_tokens += drafted
        return drawn

    def _deliver(self, chunk: Chunk, tokens: Several[int | None] | BaseException) -> None:
        sequence = chunk.sequence
        if isinstance(tokens, BaseException):
            self._fail(sequence, tokens)
            return
        if sequence.probing is not None:
            self._continue_probe(sequence, sequence.probing)
            return
        known = len(sequence.tokens)
        ending = self._take(sequence, tokens, chunk.draft)
        new = tuple(sequence.tokens[known:])
        if isinstance(ending, FinishReason):
            self._finish(sequence, ending, *new)
            return
        if new:
            self._events.append(Delivered(sequence.request.id, new))
        if ending is not None:
            self._fail(sequence, ending)

    def _take(
        self, sequence: Sequence, tokens: Several[int | None], draft: Several[int]
    ) -> FinishReason | Exception | None:
        """Append the tokens as far as the draft was right, and say how the sequence ended if it did."""
        for token, drafted in zip(tokens, (*draft, None), strict=True):
            if token is None:
                return EngineFailed("The model's output for this request is not finite.")
            if token in sequence.request.stop_tokens or (sequence.text and sequence.text.ends_by(token)):
                return FinishReason.STOP
            try:
                reason = self._append(sequence, token)
            except Exception as error:
                return error
            if reason is not None:
                return reason
            if token != drafted:
                return None
            sequence.computed += 1
            self._counters.accepted_tokens += 1
            self._counters.output_tokens += 1
        return None

    def _append(self, sequence: Sequence, token: int) -> FinishReason | None:
        """Add an output token, or what a constrained text ends with instead. Raises `ConstraintUnmet`."""
        if sequence.text is None:
            sequence.append(token)
            return FinishReason.LENGTH if self._is_full(sequence) else None
        taken = sequence.text.take(token)
        for appended in taken.tokens:
            sequence.append(appended)
        return taken.finish_reason

    def _continue_probe(self, sequence: Sequence, probing: Probing) -> None:
        """Compute the same tokens without the adapter, or conclude if that was done."""
        self._forget(sequence)
        request = sequence.request
        if sequence.adapter is not None:
            plain = replace(request, prompt=tuple(sequence.tokens), adapter=None)
            self._submit(Sequence.start(plain, sequence.arrival, probing))
            return
        try:
            self._events.append(Probed(request.id, probing.difference))
        except GemloraError as error:
            self._events.append(Failed.of(request.id, error))

    def _is_full(self, sequence: Sequence) -> bool:
        return self._room(sequence) <= 0  # resumed requests may have all their tokens

    def _room(self, sequence: Sequence) -> int:
        """Tokens that may still come."""
        return min(sequence.request.max_tokens - sequence.generated, self._context_window - len(sequence.tokens))

    def _finish(self, sequence: Sequence, reason: FinishReason, *tokens: int) -> None:
        self._forget(sequence)
        self._events.append(Delivered(sequence.request.id, tokens, reason))

    def _fail(self, sequence: Sequence, error: BaseException) -> None:
        """End a request. Texts that were not written for users stay in the log."""
        self._forget(sequence)
        if not isinstance(error, GemloraError):
            logger.error("request %s failed", sequence.request.id, exc_info=error)
            error = EngineFailed("The engine failed while computing this request.")
        self._events.append(Failed.of(sequence.request.id, error))

    def _forget(self, sequence: Sequence) -> None:
        del self._sequences[sequence.request.id]
        self._scheduler.remove(sequence)
        if sequence.adapter is not None:
            self._adapters.release(sequence.adapter)

    def _report(self) -> None:
        """Say how the counters stand, if they changed."""
        stats = EngineStats(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            queued=self._scheduler.queued,
            blocks=self._scheduler.blocks,
            free_blocks=self._scheduler.free_blocks,
            cached_blocks=self._scheduler.cached_blocks,
            adapters=len(self._adapters.digests),
            adapter_bytes=self._adapters.reserved,
            cached_tokens=self._scheduler.cached_tokens,
            preemptions=self._scheduler.preemptions,
            steps=self._counters.steps,
            step_seconds=self._counters.step_seconds,
            prompt_tokens=self._counters.prompt_tokens,
            output_tokens=self._counters.output_tokens,
            drafted_tokens=self._counters.drafted_tokens,
            accepted_tokens=self._counters.accepted_tokens,
        )
        if stats != self._reported:
            self._events.append(Counted(stats))
            self._reported = stats

    def _flush(self) -> None:
        if self._events:
            self._mailbox.send(self._events)
            self._events = []


def _possible(sequence: Sequence, draft: Several[int]) -> Several[int]:
    """As much of a draft as the sequence's grammar allows, if it has one."""
    return draft if sequence.text is None else draft[: sequence.text.possible(draft)]
