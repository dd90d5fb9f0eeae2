"""What an engine is told about adapters, and what its failures mean for the registry."""

import asyncio
import hashlib
import io
import json
from pathlib import Path

import pytest

from gemlora.engines.fake import FakeEngine
from gemlora.errors import AdapterInvalid, EngineFailed
from gemlora.registry.records import ReadyAdapter
from gemlora.serving.adapters import ServingEngine
from gemlora.storage.manifest import AdapterManifest
from gemlora.telemetry.logs import create_logger

DIGEST = "ab" * 32


class Unwilling(FakeEngine):
    """Its `unload` fails, or never ends."""

    def __init__(self, failure: Exception | None) -> None:
        super().__init__()
        self._failure_to_unload = failure

    async def unload(self, digest: str) -> None:
        if self._failure_to_unload is None:
            await asyncio.Event().wait()
        else:
            raise self._failure_to_unload


@pytest.fixture
def adapter(tmp_path: Path) -> ReadyAdapter:
    manifest = tmp_path / "manifest"
    AdapterManifest("cd" * 32, ()).write(manifest)
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    return ReadyAdapter("id", "poet", DIGEST, manifest, tmp_path / "weights", digest)


async def test_a_probe_s_difference_and_refusal_come_through(adapter: ReadyAdapter) -> None:
    engine = FakeEngine()
    serving = ServingEngine(engine, create_logger("error"))

    assert await serving.probe(adapter) == 1.0
    assert engine.probed == [DIGEST]
    engine.break_adapter(DIGEST)
    with pytest.raises(AdapterInvalid):
        await serving.probe(adapter)


@pytest.mark.parametrize("failure", [EngineFailed("dead"), None])
async def test_an_engine_that_cannot_forget_an_adapter_stops_nobody(failure: Exception | None) -> None:
    log = io.StringIO()

    await ServingEngine(Unwilling(failure), create_logger("info", "json", log), unload_seconds=0.01).unload(DIGEST)

    (line,) = map(json.loads, log.getvalue().splitlines())
    assert (line["event"], line["adapter"]) == ("adapter not unloaded", DIGEST)
    assert line["cause"] == ("TimeoutError" if failure is None else "EngineFailed")


async def test_an_adapter_is_forgotten() -> None:
    engine = FakeEngine()

    await ServingEngine(engine, create_logger("error")).unload(DIGEST)

    assert engine.unloaded == [DIGEST]
