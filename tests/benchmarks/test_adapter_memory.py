"""A sample of `make adapters`: memory returns after adapters were loaded and unloaded on a tiny model."""

import asyncio
from pathlib import Path

import pytest
from benchmarks.adapter_memory import LARGEST_GROWTH, growth, measure
from benchmarks.made_adapters import make_adapter

from gemlora.engines.cpu.options import CpuOptions


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0], ids=["mapped", "private"])
def test_memory_returns_after_a_hundred_loads_and_unloads(tmp_path: Path, cache_bytes: int) -> None:
    from tests.checkpoints import random_model, save

    from gemlora.engines.cpu.weights.packed import PackedModel
    from gemlora.engines.cpu.weights.prepare import prepare
    from gemlora.engines.cpu.weights.progress import silent

    save(random_model("gemma3"), tmp_path / "checkpoint")
    packed = prepare(str(tmp_path / "checkpoint"), None, None, "int8", tmp_path / "cache", silent)
    config = PackedModel.open(packed).config
    options = CpuOptions(
        model=str(packed), threads=1, kv_cache_bytes=8 << 20, max_sequences=8, max_queue=8, step_tokens=64,
        adapter_memory_bytes=1 << 28, adapter_cache=str(tmp_path / "packed"), adapter_cache_bytes=cache_bytes,
    )  # fmt: skip
    adapters = [make_adapter(tmp_path / str(seed), config, 256, seed) for seed in range(2)]
    size = sum(Path(adapter.weights).stat().st_size for adapter in adapters)
    before, after = asyncio.run(measure(options, adapters, rounds=100, warm_up=20))
    assert growth(before, after)["rss"] <= LARGEST_GROWTH
    assert after["rss"] - before["rss"] < size
    assert not list((tmp_path / "packed").glob("*/*"))
