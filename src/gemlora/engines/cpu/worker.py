"""The engine's process: opens the packed model and runs the step loop over the socket that it inherited.

Start it with `python -m gemlora.engines.cpu.worker FD`. It ends when it is told to or when the other end of the socket
is gone, however its parent died. Imports stay light here, they are part of every cold start.
"""

import logging
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gemlora.engines.contract import ModelFacts
from gemlora.engines.cpu.adapters import AdapterLoader, AdapterPool, PackedFiles
from gemlora.engines.cpu.blocks import BlockPool
from gemlora.engines.cpu.constraining import Constraining
from gemlora.engines.cpu.engine import StepLoop
from gemlora.engines.cpu.frames import Command, Failed, Ready, Start
from gemlora.engines.cpu.mailbox import SocketMailbox
from gemlora.engines.cpu.options import CpuOptions
from gemlora.engines.cpu.pace import Pace
from gemlora.engines.cpu.prefix_cache import PrefixCache
from gemlora.engines.cpu.probing import probe_prompt
from gemlora.engines.cpu.runner import Runner
from gemlora.engines.cpu.sampler import Sampler
from gemlora.engines.cpu.scheduler import Scheduler
from gemlora.engines.cpu.speculation import Speculation
from gemlora.engines.cpu.weights.packed import PackedModel, facts
from gemlora.errors import EngineFailed, GemloraError, SettingsInvalid
from gemlora.kernels.native import NativeKernels

if TYPE_CHECKING:
    from gemlora.engines.constraints import GrammarVocabulary

logger = logging.getLogger(__name__)


Builder = Callable[[CpuOptions, SocketMailbox], tuple[ModelFacts, StepLoop]]


def build(options: CpuOptions, mailbox: SocketMailbox) -> tuple[ModelFacts, StepLoop]:
    """The engine over a packed model. Raises `WeightsInvalid` or `SettingsInvalid`."""
    model = PackedModel.open(Path(options.model))
    config = model.config
    kernels = NativeKernels(options.threads, options.instruction_set)
    window = config.context if options.context_window is None else min(options.context_window, config.context)
    runner = Runner(model, kernels, context=window, kv_cache_bytes=options.kv_cache_bytes)
    cache = PrefixCache(
        BlockPool(runner.blocks),
        model.digest,
        most_idle=options.prefix_cache_bytes // runner.block_bytes,
        largest_share=options.prefix_cache_share,
        enabled=options.prefix_cache,
    )
    pace = Pace(options.step_tokens, options.step_milliseconds / 1000)
    scheduler = Scheduler(cache, options.max_sequences, pace)
    window = min(window, scheduler.capacity)
    if not window:
        raise SettingsInvalid(f"kv_cache_bytes: {options.kv_cache_bytes} bytes hold no block of this model's cache")
    adapters = AdapterPool(
        AdapterLoader(
            model,
            options.adapter_dtype,
            PackedFiles(Path(options.adapter_cache), options.adapter_cache_bytes),
            NativeKernels(1, options.instruction_set),  # the step loop's own are busy for a step at a time
        ),
        options.adapter_memory_bytes,
        reader=ThreadPoolExecutor(1),
        packer=ThreadPoolExecutor(1),
        on_loaded=mailbox.wake,
    )
    constraints = Constraining(
        partial(_grammar_vocabulary, model),
        options.grammar_symbols,
        compiler=ThreadPoolExecutor(1),
        masker=ThreadPoolExecutor(1),
        on_opened=mailbox.wake,
    )
    if options.prepare_grammars:
        constraints.prepare()
    loop = StepLoop(
        mailbox, scheduler, runner, Sampler(kernels), adapters, Speculation(options.draft_tokens), constraints,
        context_window=window, vocabulary=config.vocabulary,
        probe_prompt=probe_prompt(config.vocabulary, model.tokens.bos),
    )  # fmt: skip
    return facts(model, window), loop


def _grammar_vocabulary(model: PackedModel) -> "GrammarVocabulary":
    from gemlora.engines.constraints import GrammarVocabulary
    from gemlora.engines.cpu.weights.token_bytes import token_bytes

    return GrammarVocabulary(token_bytes(model.tokenizer_path, model.config.vocabulary), model.tokens.eos)


def serve(connection: socket.socket, build: Builder) -> None:
    """Wait for the start command, build the engine and run it to its end."""
    mailbox = SocketMailbox(connection)
    first: list[Command] = []
    while not first:
        first = mailbox.receive(wait=True)
    if not isinstance(first[0], Start):
        return
    try:
        served, loop = build(first[0].options, mailbox)
    except Exception as error:
        if not isinstance(error, GemloraError):
            logger.error("the engine could not be built", exc_info=error)
            error = EngineFailed(f"The engine could not be started: {error}")
        mailbox.send([Failed.of("", error)])
        return
    mailbox.send([Ready(served)])
    loop.run()


def main(build: Builder = build) -> None:
    """Entry point: the socket's file descriptor is the only argument."""
    for interruption in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the parent decides
        signal.signal(interruption, signal.SIG_IGN)
    logging.basicConfig(format="gemlora engine: %(levelname)s %(message)s")
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        serve(connection, build)


if __name__ == "__main__":
    main()
