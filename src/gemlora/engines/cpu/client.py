"""The CPU engine as the server sees it: requests go to a worker process, and survive its death.

When the worker dies, another one is started and every unfinished request is submitted again, together with the tokens
that were already delivered; the tokens of a request depend on nothing else, so its stream continues as if nothing had
happened. Requests that may have caused the death are tried one at a time and given up after a few attempts.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator, Sequence
from itertools import count

from msgspec import MsgspecError
from msgspec.structs import replace

from gemlora.engines.contract import AdapterRef, EngineStats, GenerateRequest, ModelFacts, Output, Probe
from gemlora.engines.cpu.frames import (
    Cancel,
    Command,
    Counted,
    Delivered,
    Event,
    Failed,
    ProbeAdapter,
    Probed,
    Ready,
    Start,
    Started,
    UnloadAdapter,
    Unloaded,
    command_reader,
    encode,
)
from gemlora.engines.cpu.jobs import Inquiry, Stream
from gemlora.engines.cpu.options import CpuOptions
from gemlora.engines.cpu.process import WorkerProcess
from gemlora.errors import EngineFailed, GemloraError, InvalidRequest, OutOfCapacity, PromptTooLong, RequestAborted

WORKER = (sys.executable, "-P", "-m", "gemlora.engines.cpu.worker")

FIRST_DELAY = 0.05
LONGEST_DELAY = 5.0
"""Seconds between a death and the next start; it doubles from the first to the longest until a token comes."""

STARTS_BEFORE_FAILURE = 3
"""Starts that may fail in a row before the requests that wait for one fail too."""

STOP_PATIENCE = 5.0
"""Seconds that a worker has to exit by itself; the step under way must end first."""

logger = logging.getLogger(__name__)


class CpuEngine:
    """The engine contract over a supervised worker process. It belongs to the event loop that starts it."""

    def __init__(self, options: CpuOptions, command: Sequence[str] = WORKER) -> None:
        """`command` starts the worker; the socket's file descriptor is appended."""
        self._options = options
        self._command = command
        self._facts: ModelFacts | None = None
        self._stats = EngineStats()
        self._restarts = 0
        self._delay = FIRST_DELAY
        self._numbers = count()
        self._jobs: dict[str, Stream | Inquiry] = {}
        self._worker: WorkerProcess | None = None
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def facts(self) -> ModelFacts:
        """What is served; known once `start` has returned."""
        if self._facts is None:
            raise EngineFailed("The engine has not been started.")
        return self._facts

    @property
    def worker_pid(self) -> int | None:
        """The process id of the worker, None while there is none that is ready."""
        return None if self._worker is None else self._worker.pid

    @property
    def busy(self) -> bool:
        """Whether as many requests are under way as are computed at the same time, or one waited for others after the
        last step, for memory perhaps."""
        return len(self._jobs) >= self._options.max_sequences or self._stats.queued > 0

    def stats(self) -> EngineStats:
        """The worker's latest counters."""
        return replace(self._stats, restarts=self._restarts)

    async def start(self) -> None:
        """Start the worker and wait until it has loaded the model. Raises `WeightsInvalid` or `EngineFailed`."""
        self._worker = await self._launch()
        self._supervisor = asyncio.create_task(self._supervise(self._worker))

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Output, None]:
        """Yield the request's tokens as they come; the contract's errors are raised by the first step or later."""
        stream = self._open(request)
        try:
            while True:
                output = await stream.next()
                yield output
                if output.finish_reason is not None:
                    return
        finally:
            self._abandon(stream)

    async def probe(self, adapter: AdapterRef) -> Probe:
        """Measure what an adapter changes; it queues like a request."""
        self._check_room()
        id = f"probe/{next(self._numbers)}"
        match await self._ask(id, ProbeAdapter(id, adapter)):
            case Probed(_, difference):
                return Probe(difference)
        raise EngineFailed("The engine's process gave no answer to a probe.")

    async def unload(self, digest: str) -> None:
        """Forget an adapter; how many requests there are does not matter."""
        id = f"unload/{next(self._numbers)}"
        await self._ask(id, UnloadAdapter(id, digest))

    async def close(self) -> None:
        """Stop the worker; unfinished requests fail with `RequestAborted`."""
        if self._supervisor is None:
            return
        supervisor, self._supervisor = self._supervisor, None
        self._fail_all(RequestAborted("The engine was stopped."))
        supervisor.cancel()
        await asyncio.wait([supervisor])
        if self._worker is not None:  # cancelled before its first step
            await self._worker.stop(STOP_PATIENCE)

    def _open(self, request: GenerateRequest) -> Stream:
        if len(request.prompt) >= self.facts.context_window:
            raise PromptTooLong(len(request.prompt) + request.max_tokens, self.facts.context_window)
        self._check_room()
        stream = Stream(replace(request, id=f"{request.id}/{next(self._numbers)}"))
        self._accept(stream)
        return stream

    async def _ask(self, id: str, command: Command) -> Event:
        inquiry = Inquiry(id, command)
        self._accept(inquiry)
        try:
            return await inquiry.result()
        finally:
            self._abandon(inquiry)

    def _check_room(self) -> None:
        if len(self._jobs) >= self._options.max_sequences + self._options.max_queue:
            raise OutOfCapacity(f"{len(self._jobs)} requests are running or waiting; try again later.")

    def _accept(self, job: Stream | Inquiry) -> None:
        """Raises `EngineFailed` or, for what the worker could not read, `InvalidRequest`."""
        if self._supervisor is None:
            raise EngineFailed("The engine is not running.")
        _check_readable(job.command)
        self._jobs[job.id] = job
        self._submit()

    def _abandon(self, job: Stream | Inquiry) -> None:
        """The consumer is gone; if the job has not ended, the worker shall forget it."""
        if self._jobs.pop(job.id, None) is None:
            return
        if job.sent and self._worker is not None:
            self._worker.send(Cancel(job.id))
        self._submit()

    def _submit(self) -> None:
        """Send the worker what it does not have yet; of the suspects one at a time, in case it dies of that."""
        if self._worker is None:
            return
        trial = any(job.sent and job.suspect for job in self._jobs.values())
        for job in self._jobs.values():
            if job.sent or (trial and job.suspect):
                continue
            trial = trial or job.suspect
            job.sent = True
            self._worker.send(job.command)

    async def _supervise(self, worker: WorkerProcess) -> None:
        """Listen to the worker and replace it whenever it dies, until cancelled."""
        while True:
            try:
                self._worker = worker
                self._submit()
                await self._listen(worker)
            finally:
                self._worker = None
                self._stats = EngineStats()
                status = await worker.stop(STOP_PATIENCE)
            logger.error("the engine's process died with status %d, starting another", status)
            self._mourn()
            worker = await self._replace()

    async def _listen(self, worker: WorkerProcess) -> None:
        try:
            while events := await worker.receive():
                for event in events:
                    self._handle(event)
        except (ValueError, MsgspecError) as error:
            logger.error("the engine's process cannot be understood: %r", error)

    def _handle(self, event: Event) -> None:
        match event:
            case Delivered(id, tokens, finish_reason) if isinstance(job := self._jobs.get(id), Stream):
                self._delay = FIRST_DELAY
                was_suspect = job.suspect
                job.deliver(tokens, finish_reason)
                if finish_reason is not None:
                    del self._jobs[id]
                if was_suspect:
                    self._submit()
            case Counted(stats):
                self._stats = stats
            case Started(id) if job := self._jobs.get(id):
                job.started = True
            case Probed(id) | Unloaded(id) if isinstance(job := self._jobs.get(id), Inquiry):
                self._delay = FIRST_DELAY
                del self._jobs[id]
                job.answer(event)
                self._submit()
            case Failed(id) if job := self._jobs.pop(id, None):
                job.fail(event.error)
                self._submit()

    def _mourn(self) -> None:
        """Note the death with all jobs, and give up those that may have caused it too often."""
        sent = [job for job in self._jobs.values() if job.sent]
        suspects = [job for job in sent if job.started] or sent
        for job in sent:
            job.bereave(suspected=job in suspects)
            if job.hopeless:
                del self._jobs[job.id]
                job.fail(EngineFailed("The engine's process died repeatedly while computing this request."))

    async def _replace(self) -> WorkerProcess:
        """Start another worker, however often that takes."""
        for attempt in count(1):
            await asyncio.sleep(self._delay)
            self._delay = min(2 * self._delay, LONGEST_DELAY)
            try:
                worker = await self._launch()
            except (GemloraError, OSError) as error:
                logger.error("the engine's process could not be started: %s", error)
                if attempt >= STARTS_BEFORE_FAILURE:
                    self._fail_all(EngineFailed("The engine's process cannot be started."))
            else:
                break
        self._restarts += 1
        return worker

    async def _launch(self) -> WorkerProcess:
        """A worker that has loaded the model."""
        worker = await WorkerProcess.spawn(self._command)
        try:
            worker.send(Start(self._options))
            match await worker.receive():
                case [Ready(facts), *others]:
                    self._facts = facts
                    for event in others:
                        self._handle(event)
                    return worker
                case [Failed() as failed, *_]:
                    raise failed.error
            raise EngineFailed("The engine's process died while loading the model.")
        except BaseException:
            await worker.stop(patience=0)
            raise

    def _fail_all(self, error: GemloraError) -> None:
        for job in self._jobs.values():
            job.fail(error)
        self._jobs.clear()


def _check_readable(command: Command) -> None:
    """Raises `InvalidRequest` for what the worker could not read: it would die of it, again and again."""
    try:
        command_reader().feed(encode([command]))
    except (OverflowError, TypeError, ValueError, MsgspecError) as error:
        raise InvalidRequest(f"The request cannot be sent to the engine: {error}") from error
