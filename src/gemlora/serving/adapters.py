"""Adapters between the registry and an engine."""

import asyncio

from structlog.typing import FilteringBoundLogger

from gemlora.engines.contract import AdapterRef, Engine
from gemlora.errors import GemloraError
from gemlora.registry.records import ReadyAdapter

UNLOAD_SECONDS = 5
"""How long whoever removes an adapter waits for the engine to forget it."""


def reference(adapter: ReadyAdapter) -> AdapterRef:
    """What an engine is told about an adapter."""
    return AdapterRef(adapter.digest, str(adapter.manifest_path), str(adapter.weights_path), adapter.manifest_digest)


class ServingEngine:
    """An engine as the registry sees it; see `registry.engine.AdapterEngine`."""

    def __init__(self, engine: Engine, log: FilteringBoundLogger, unload_seconds: float = UNLOAD_SECONDS) -> None:
        self._engine = engine
        self._log = log
        self._unload_seconds = unload_seconds

    async def probe(self, adapter: ReadyAdapter) -> float:
        """How far the adapter moves the logits after a fixed prompt."""
        return (await self._engine.probe(reference(adapter))).difference

    async def unload(self, digest: str) -> None:
        """Forget the adapter; what fails is only logged, since the engine drops what it needs least anyway."""
        try:
            async with asyncio.timeout(self._unload_seconds):
                await self._engine.unload(digest)
        except (GemloraError, TimeoutError) as error:
            self._log.warning("adapter not unloaded", adapter=digest, cause=type(error).__name__)
