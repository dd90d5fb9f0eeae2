"""Settings become an engine that starts. Imports stay light here: everything else is imported while it does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from gemlora.engines.contract import Engine
from gemlora.engines.cpu.weights.progress import Progress
from gemlora.serving.tokenizer import Tokenizer
from gemlora.settings import Settings

DEFAULT_CONTEXT_WINDOW = 8192
"""Unless set; weights with a smaller one keep theirs."""


@dataclass(frozen=True, slots=True)
class Backend:
    """An engine that has not been started, and its tokenizer to be loaded meanwhile: each takes part of a second."""

    engine: Engine
    load_tokenizer: Callable[[], Tokenizer]


class StartingBackend:
    """An engine that starts while its tokenizer is loaded."""

    def __init__(self, backend: Backend) -> None:
        self.engine = backend.engine
        self._started = asyncio.create_task(backend.engine.start())
        self._loaded = asyncio.create_task(asyncio.to_thread(backend.load_tokenizer))

    async def ready(self) -> Tokenizer:
        """Wait for both; raises what `Engine.start` and `Tokenizer.load` raise."""
        await self._started
        return await self._loaded

    async def stop(self) -> None:
        """Stop the engine, started or not."""
        for task in (self._started, self._loaded):
            task.cancel()
        await asyncio.gather(self._started, self._loaded, return_exceptions=True)
        await self.engine.close()


@asynccontextmanager
async def starting_backend(settings: Settings, progress: Progress) -> AsyncIterator[StartingBackend]:
    """Get the weights and begin to start the engine; stop it at the end of the block.

    Raises `WeightsInvalid` or `StorageFailed`.
    """
    starting = StartingBackend(await asyncio.to_thread(_backend, settings, progress))
    try:
        await asyncio.sleep(0)  # both have begun when the caller goes on with what takes long
        yield starting
    finally:
        await starting.stop()


def _backend(settings: Settings, progress: Progress) -> Backend:
    return _fake_backend(settings) if settings.engine == "fake" else _cpu_backend(settings, progress)


def _fake_backend(settings: Settings) -> Backend:
    from gemlora.engines.fake import FAKE_FACTS, FakeEngine
    from gemlora.serving.byte_vocabulary import byte_vocabulary

    window = settings.context_window or DEFAULT_CONTEXT_WINDOW
    return Backend(FakeEngine(replace(FAKE_FACTS, context_window=window)), lambda: Tokenizer(byte_vocabulary()))


def _cpu_backend(settings: Settings, progress: Progress) -> Backend:
    # Only here: the fake engine starts without the readers of checkpoints.
    from gemlora.engines.cpu.client import CpuEngine
    from gemlora.engines.cpu.options import CpuOptions
    from gemlora.engines.cpu.weights.folder import Summary

    folder = packed_folder(settings, progress)
    options = CpuOptions(
        model=str(folder),
        threads=settings.threads,
        instruction_set=settings.instruction_set,
        kv_cache_bytes=settings.kv_cache_bytes,
        prefix_cache=settings.prefix_cache,
        prefix_cache_bytes=settings.prefix_cache_bytes,
        prefix_cache_share=settings.prefix_cache_share,
        max_sequences=settings.max_sequences,
        max_queue=settings.max_queue,
        step_tokens=settings.step_tokens,
        step_milliseconds=settings.step_milliseconds,
        draft_tokens=settings.draft_tokens,
        grammar_symbols=settings.grammar_symbols,
        prepare_grammars=settings.prepare_grammars,
        adapter_memory_bytes=settings.adapter_memory_bytes,
        adapter_cache=str(settings.cache_dir / "adapters"),
        adapter_cache_bytes=settings.adapter_cache_bytes,
        adapter_dtype=settings.adapter_dtype,
        context_window=settings.context_window or DEFAULT_CONTEXT_WINDOW,
    )
    return Backend(CpuEngine(options), lambda: Tokenizer.load(folder / Summary.read(folder).tokenizer))


def packed_folder(settings: Settings, progress: Progress) -> Path:
    """The weights in the packed layout, converted now if they were not."""
    from gemlora.engines.cpu.weights.prepare import prepare

    hub_token = settings.hub_token.get_secret_value() if settings.hub_token else None
    return prepare(settings.weights, settings.revision, hub_token, settings.quantize, settings.cache_dir, progress)
