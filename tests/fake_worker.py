"""A worker process over `stepping.PagedRunner`; `options.model` is its behaviour as JSON."""

import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.stepping import (
    ADAPTER_SIZE,
    BASE,
    CONTEXT,
    PROBE_PROMPT,
    TOKENS,
    VOCABULARY,
    Computed,
    EmptyLoader,
    PagedRunner,
    constraining,
)

from gemlora.engines.contract import AdapterRef, ModelFacts
from gemlora.engines.cpu.adapters import AdapterPool
from gemlora.engines.cpu.batch import Batch
from gemlora.engines.cpu.blocks import BlockPool
from gemlora.engines.cpu.engine import StepLoop
from gemlora.engines.cpu.mailbox import SocketMailbox
from gemlora.engines.cpu.options import CpuOptions
from gemlora.engines.cpu.pace import Pace
from gemlora.engines.cpu.prefix_cache import PrefixCache
from gemlora.engines.cpu.sampler import Sampler
from gemlora.engines.cpu.scheduler import Scheduler
from gemlora.engines.cpu.speculation import Speculation
from gemlora.engines.cpu.worker import main
from gemlora.errors import WeightsInvalid
from gemlora.kernels import LoraWeights
from gemlora.kernels.reference import ReferenceKernels

DEADLY = 49
"""A prompt with this token kills the process."""
DEADLY_ADAPTER = "deadly"

FACTS = ModelFacts("fake", "gemma3", "0" * 64, "none", CONTEXT, 1, VOCABULARY, {}, 1, True)


class Behaviour(msgspec.Struct):
    """`step_seconds` per step; `start_failure`: how the start fails; `flag`: a file that must exist to start."""

    step_seconds: float = 0.0
    start_failure: str = ""
    flag: str = ""


class MortalRunner(PagedRunner):
    """Dies of some prompts, like native code does."""

    def __init__(self, blocks: int, step_seconds: float) -> None:
        super().__init__(blocks)
        self._step_seconds = step_seconds

    def forward(self, batch: Batch, between: Callable[[], None] | None = None) -> Computed:
        if DEADLY in batch.tokens:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self._step_seconds)
        self.rows.clear()
        return super().forward(batch, between)


class DeadlyLoader(EmptyLoader):
    """Some adapters kill the process while they are read."""

    def pack(self, ref: AdapterRef) -> LoraWeights:
        if ref.digest == DEADLY_ADAPTER:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().pack(ref)


def build(options: CpuOptions, mailbox: SocketMailbox) -> tuple[ModelFacts, StepLoop]:
    behaviour = msgspec.json.decode(options.model, type=Behaviour)
    if behaviour.start_failure == "weights":
        raise WeightsInvalid("these weights are damaged")
    if behaviour.start_failure == "error":
        raise RuntimeError("no such luck")
    if behaviour.start_failure == "death" or (behaviour.flag and not Path(behaviour.flag).exists()):
        sys.exit(3)
    blocks = options.kv_cache_bytes
    pace = Pace(options.step_tokens, options.step_milliseconds / 1000)
    scheduler = Scheduler(PrefixCache(BlockPool(blocks), BASE, most_idle=blocks), options.max_sequences, pace)
    capacity = options.adapter_memory_bytes * ADAPTER_SIZE
    adapters = AdapterPool(DeadlyLoader(), capacity, ThreadPoolExecutor(1), ThreadPoolExecutor(1), mailbox.wake)
    loop = StepLoop(
        mailbox, scheduler, MortalRunner(blocks, behaviour.step_seconds), Sampler(ReferenceKernels()), adapters,
        Speculation(options.draft_tokens), constraining(TOKENS, ThreadPoolExecutor(1)),
        context_window=min(CONTEXT, scheduler.capacity), vocabulary=VOCABULARY, probe_prompt=PROBE_PROMPT,
    )  # fmt: skip
    return FACTS, loop


if __name__ == "__main__":
    main(build)
