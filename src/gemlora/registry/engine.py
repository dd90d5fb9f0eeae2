"""What the registry asks of the engine: to try an adapter out, and to forget one."""

from dataclasses import replace
from typing import Protocol

from gemlora.registry.models import Base
from gemlora.registry.records import AdapterFiles, ReadyAdapter

NO_DIFFERENCE = "the adapter does not change the logits of the probe's prompt"


class AdapterEngine(Protocol):
    """The engine that serves the adapters."""

    async def probe(self, adapter: ReadyAdapter) -> float:
        """How far the adapter moves the logits after a fixed prompt, relative to the largest one.

        Raises `AdapterInvalid` if the engine cannot run it, `OutOfCapacity` or `EngineFailed` if it cannot run now.
        """
        ...

    async def unload(self, digest: str) -> None:
        """Forget the adapter. Never fails: it is a matter of memory alone."""
        ...


def with_difference(files: AdapterFiles, difference: float, base: Base) -> AdapterFiles:
    """The same files with what a probe on `base` found."""
    warnings = tuple(warning for warning in files.warnings if warning != NO_DIFFERENCE)
    if difference == 0:
        warnings += (NO_DIFFERENCE,)
    return replace(files, warnings=warnings, difference=difference, probed_base=base.digest)
