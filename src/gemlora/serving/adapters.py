"""Adapters between the registry and an engine."""

from structlog.typing import FilteringBoundLogger

from gemlora.engines.contract import AdapterRef, Engine
from gemlora.errors import GemloraError
from gemlora.registry.records import ReadyAdapter


def reference(adapter: ReadyAdapter) -> AdapterRef:
    """What an engine is told about an adapter."""
    return AdapterRef(adapter.digest, str(adapter.manifest_path), str(adapter.weights_path), adapter.manifest_digest)


class ServingEngine:
    """An engine as the registry sees it; see `registry.engine.AdapterEngine`."""

    def __init__(self, engine: Engine, log: FilteringBoundLogger) -> None:
        self._engine = engine
        self._log = log

    async def probe(self, adapter: ReadyAdapter) -> float:
        """How far the adapter moves the logits after a fixed prompt."""
        return (await self._engine.probe(reference(adapter))).difference

    async def unload(self, digest: str) -> None:
        """Forget the adapter; what fails is only logged, since the engine drops what it needs least anyway."""
        try:
            await self._engine.unload(digest)
        except GemloraError as error:
            self._log.warning("adapter not unloaded", adapter=digest, cause=type(error).__name__)
