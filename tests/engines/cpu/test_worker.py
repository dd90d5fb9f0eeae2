"""The real worker over tiny checkpoints."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.adapters import random_pairs, write_adapter
from tests.collecting import collect, until

from gemlora.engines.contract import AdapterRef, GenerateRequest, Sampling
from gemlora.engines.cpu.client import CpuEngine
from gemlora.engines.cpu.options import CpuOptions
from gemlora.engines.cpu.weights.packed import PackedModel
from gemlora.errors import AdapterInvalid, EngineFailed, SettingsInvalid, WeightsInvalid
from gemlora.kernels.cache import cached_numbers


@pytest.fixture(scope="module")
def model(checkpoint: Callable[..., Any]) -> PackedModel:
    return checkpoint("gemma3", quantize="int8").weights


@pytest.fixture(scope="module")
def adapters(model: PackedModel, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterRef]:
    return [
        write_adapter(
            tmp_path_factory.mktemp("adapter"), random_pairs(model.config.modules, len(model.config.layers), 4, seed)
        )
        for seed in range(3)
    ]


def new_engine(folder: Path, **options: Any) -> CpuEngine:
    defaults = {
        "threads": 1, "kv_cache_bytes": 8 << 20, "max_sequences": 8, "max_queue": 100,
        "step_tokens": 64, "adapter_memory_bytes": 1 << 24, "context_window": 512,
        "adapter_cache": str(folder.parent.parent / "adapters"), "adapter_cache_bytes": 1 << 30,
    }  # fmt: skip
    return CpuEngine(CpuOptions(model=str(folder), **{**defaults, **options}))


@pytest.fixture
async def engine(model: PackedModel) -> AsyncIterator[CpuEngine]:
    engine = new_engine(model.tokenizer_path.parent)
    await engine.start()
    yield engine
    await engine.close()


def requests(adapters: list[AdapterRef], max_tokens: int = 40) -> list[GenerateRequest]:
    return [
        GenerateRequest(
            id=str(number),
            prompt=tuple(range(number + 1, 60)),
            max_tokens=max_tokens,
            sampling=Sampling(seed=number, temperature=number % 2),
            stop_tokens=(),
            adapter=[None, *adapters][number % (len(adapters) + 1)],
        )
        for number in range(12)
    ]


async def test_a_mixed_batch_gets_what_each_request_gets_alone(engine: CpuEngine, adapters: list[AdapterRef]) -> None:
    together = await asyncio.gather(*(collect(engine, request) for request in requests(adapters)))
    alone = [await collect(engine, request) for request in requests(adapters)]
    assert together == alone
    assert len(set(together)) > len(together) - 3
    assert engine.stats().adapters == 3


async def test_streams_survive_the_death_of_the_worker(
    engine: CpuEngine, adapters: list[AdapterRef], caplog: pytest.LogCaptureFixture
) -> None:
    expected = [await collect(engine, request) for request in requests(adapters, 150)]
    sinks: list[list[int]] = [[] for _ in expected]
    with caplog.at_level(logging.CRITICAL):
        tasks = [
            asyncio.create_task(collect(engine, *pair)) for pair in zip(requests(adapters, 150), sinks, strict=True)
        ]
        await until(lambda: sum(map(len, sinks)) >= 300)
        assert engine.worker_pid is not None
        os.kill(engine.worker_pid, signal.SIGKILL)
        assert await asyncio.gather(*tasks) == expected
    assert engine.stats().restarts == 1


@pytest.mark.parametrize("prepare", [True, False])
async def test_grammars_are_prepared_before_the_engine_is_ready_only_where_that_is_wanted(
    model: PackedModel, prepare: bool
) -> None:
    engine = new_engine(model.tokenizer_path.parent, prepare_grammars=prepare)
    await engine.start()
    try:
        loaded = {Path(mapped.path).parent.name for mapped in psutil.Process(engine.worker_pid).memory_maps()}
    finally:
        await engine.close()
    assert ("llguidance" in loaded) is prepare


async def test_facts_describe_the_model(engine: CpuEngine, model: PackedModel) -> None:
    assert engine.facts.digest == model.digest
    assert engine.facts.quantization == "int8"
    assert engine.facts.context_window == 512
    assert engine.facts.modules == model.config.modules


def flip_last_bit(source: Path, target: Path) -> None:
    data = bytearray(source.read_bytes())
    data[-1] ^= 1
    target.write_bytes(data)


async def test_a_damaged_adapter_fails_its_requests_only(
    engine: CpuEngine, adapters: list[AdapterRef], tmp_path: Path
) -> None:
    weights = tmp_path / "adapter.safetensors"
    flip_last_bit(Path(adapters[0].weights), weights)
    damaged, whole, *_ = requests(adapters)
    damaged = GenerateRequest(
        "x",
        (1,),
        5,
        whole.sampling,
        (),
        AdapterRef("d" * 64, adapters[0].manifest, str(weights), adapters[0].manifest_digest),
    )
    good = asyncio.create_task(collect(engine, whole))
    with pytest.raises(AdapterInvalid, match="changed after registration"):
        await collect(engine, damaged)
    assert len(await good) == 40


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"instruction_set": "abacus"}, SettingsInvalid, "instruction_set"),
        ({"kv_cache_bytes": 1}, SettingsInvalid, "kv_cache_bytes"),
    ],
)
async def test_options_that_cannot_work_prevent_the_start(
    model: PackedModel, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        await new_engine(model.tokenizer_path.parent, **options).start()


async def test_a_folder_without_a_model_prevents_the_start(tmp_path: Path) -> None:
    with pytest.raises(WeightsInvalid, match=r"model\.json"):
        await new_engine(tmp_path).start()


async def test_a_small_cache_shortens_the_context_window(model: PackedModel) -> None:
    layers, heads, head_dim = len(model.config.layers), model.config.kv_heads, model.config.head_dim
    block = 32 * 2 * layers * heads * cached_numbers(head_dim, np.uint8)
    engine = new_engine(model.tokenizer_path.parent, kv_cache_bytes=5 * block, context_window=512)
    await engine.start()
    assert engine.facts.context_window == 5 * 32
    await engine.close()


async def test_the_seed_may_have_64_bits_and_no_more(engine: CpuEngine) -> None:
    def request(seed: int) -> GenerateRequest:
        return GenerateRequest("x", (1, 2), 3, Sampling(seed=seed, temperature=1), ())

    assert len(await collect(engine, request((1 << 64) - 1))) == 3
    with pytest.raises(EngineFailed):
        await collect(engine, request(-1))


def test_the_worker_imports_nothing_heavy() -> None:
    heavy = "{'pydantic', 'starlette', 'sqlalchemy', 'gguf', 'safetensors', 'sentencepiece', 'asyncio', 'structlog'}"
    code = f"import sys, gemlora.engines.cpu.worker; print(*{heavy} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
