"""Adapters are read exactly, refused with a reason, and kept within their budget of memory."""

import mmap
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ml_dtypes import bfloat16
from tests.adapters import random_pairs, write_adapter

from gemlora.engines.contract import AdapterRef
from gemlora.engines.cpu.adapters import AdapterLoader, AdapterPool
from gemlora.engines.cpu.config import GemmaConfig, LayerConfig, Rope
from gemlora.errors import AdapterInvalid
from gemlora.kernels import LoraPair, LoraWeights
from gemlora.storage.manifest import AdapterManifest, LoraModule

CONFIG = GemmaConfig(
    generation=1,
    hidden=24,
    feed_forward=40,
    heads=4,
    kv_heads=2,
    head_dim=8,
    vocabulary=64,
    context=128,
    norm_epsilon=1e-6,
    attention_scale=1.0,
    embedding_scale=1.0,
    attention_softcap=None,
    logit_softcap=None,
    layers=(LayerConfig(Rope(10_000.0), None),) * 2,
)
LOADER = AdapterLoader(CONFIG, "auto", quantized=False)


def write(folder: Path, dtype: torch.dtype = torch.float32, seed: int = 0) -> AdapterRef:
    return write_adapter(folder, random_pairs(CONFIG.modules, len(CONFIG.layers), rank=3, seed=seed, dtype=dtype))


def change_manifest(ref: AdapterRef, change: Callable[[LoraModule], LoraModule]) -> None:
    manifest = AdapterManifest.read(Path(ref.manifest))
    first, *others = manifest.modules
    AdapterManifest(manifest.weights_digest, (change(first), *others)).write(Path(ref.manifest))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_beside_an_unquantised_base_an_adapter_keeps_its_values_and_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    pairs = random_pairs(CONFIG.modules, 2, rank=3, seed=1, dtype=dtype)
    loaded = LOADER.load(write_adapter(tmp_path, pairs))
    assert loaded.pairs.keys() == pairs.keys()
    for key, (a, b, scale, _) in loaded.pairs.items():
        assert str(a.dtype) == str(b.dtype) == str(dtype).removeprefix("torch.")
        assert np.array_equal(a.astype(np.float32), pairs[key].a.float().numpy())
        assert np.array_equal(b.astype(np.float32), pairs[key].b.float().numpy().T)
        assert a.flags.c_contiguous
        assert b.flags.c_contiguous
        assert a.ctypes.data % 64 == b.ctypes.data % 64 == 0
        assert scale == pairs[key].scale


def test_beside_a_quantised_base_an_adapter_becomes_bfloat16(tmp_path: Path) -> None:
    pairs = random_pairs(CONFIG.modules, 2, rank=3, seed=1)
    loaded = AdapterLoader(CONFIG, "auto", quantized=True).load(write_adapter(tmp_path, pairs))
    a = loaded.pairs[1, "up_proj"].a
    assert a.dtype == bfloat16
    assert np.array_equal(a.astype(np.float32), pairs[1, "up_proj"].a.bfloat16().float().numpy())


@pytest.mark.parametrize(("dtype", "expected"), [("float32", np.float32), ("bfloat16", bfloat16)])
def test_the_setting_overrules_the_adapters_dtype(tmp_path: Path, dtype: Any, expected: Any) -> None:
    for quantized in (False, True):
        loaded = AdapterLoader(CONFIG, dtype, quantized).load(write(tmp_path, torch.float16))
        assert {pair.a.dtype for pair in loaded.pairs.values()} == {np.dtype(expected)}


def test_the_announced_size_is_what_the_adapter_takes(tmp_path: Path) -> None:
    ref = write(tmp_path)
    assert 0 <= LOADER.size(ref) - LOADER.load(ref).size < 64 * 2 * 14


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: replace(m, module="lm_head"), "layers.0.lm_head: the served base has no such linear module"),
        (lambda m: replace(m, layer=2), "layers.2.q_proj: the served base has only 2 layers"),
        (lambda m: replace(m, layer=-1), "layers.-1.q_proj: the served base has only 2 layers"),
        (lambda m: replace(m, layer=1), "layers.1.q_proj is named twice"),
        (lambda m: replace(m, magnitude=m.a), "changes more than this engine computes"),
        (lambda m: replace(m, scale=float("nan")), "layers.0.q_proj: the scale is not finite"),
        (lambda m: replace(m, rank=2), r"layers.0.q_proj, A: shape \(3, 24\) does not fit.*expected \(2, 24\)"),
        (lambda m: replace(m, a=replace(m.a, dtype="F64")), "layers.0.q_proj, A: dtype F64 is not one of"),
        (lambda m: replace(m, b=replace(m.b, size=8)), r"layers.0.q_proj, B: 8 bytes do not hold shape \(32, 3\)"),
        (lambda m: replace(m, b=replace(m.b, offset=10**6)), "0.q_proj.lora_B lies outside the weights file"),
    ],
)
def test_a_manifest_that_does_not_fit_the_base_is_refused(
    tmp_path: Path, change: Callable[[LoraModule], LoraModule], reason: str
) -> None:
    ref = write(tmp_path)
    change_manifest(ref, change)
    with pytest.raises(AdapterInvalid, match=reason):
        LOADER.load(ref)


def test_an_adapter_of_another_base_is_refused_with_both_shapes(tmp_path: Path) -> None:
    ref = write(tmp_path)
    with pytest.raises(AdapterInvalid, match=r"shape \(3, 24\) does not fit the served base, expected \(3, 32\)"):
        AdapterLoader(replace(CONFIG, hidden=32), "auto", quantized=False).load(ref)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    pairs = random_pairs(CONFIG.modules, 2, rank=3, seed=1)
    pairs[1, "v_proj"].b[5, 2] = value
    with pytest.raises(AdapterInvalid, match=r"layers\.1\.v_proj, B: not all values are finite"):
        LOADER.load(write_adapter(tmp_path, pairs))


def test_values_beyond_bfloat16_are_refused_beside_a_quantised_base(tmp_path: Path) -> None:
    pairs = random_pairs(CONFIG.modules, 2, rank=3, seed=1)
    pairs[0, "q_proj"].b[0, 0] = pairs[0, "q_proj"].a[0, 0] = torch.finfo(torch.float32).max
    ref = write_adapter(tmp_path, pairs)
    LOADER.load(ref)
    with pytest.raises(AdapterInvalid, match=r"layers\.0\.q_proj, A: not all values are finite as bfloat16"):
        AdapterLoader(CONFIG, "auto", quantized=True).load(ref)


def test_an_adapter_without_modules_is_refused(tmp_path: Path) -> None:
    ref = write(tmp_path)
    AdapterManifest("0" * 64, ()).write(Path(ref.manifest))
    with pytest.raises(AdapterInvalid, match="changes no module"):
        LOADER.load(ref)


def test_changed_bytes_of_the_weights_are_noticed(tmp_path: Path) -> None:
    ref = write(tmp_path)
    data = bytearray(Path(ref.weights).read_bytes())
    data[-1] ^= 1
    Path(ref.weights).write_bytes(data)
    with pytest.raises(AdapterInvalid, match="changed after registration"):
        LOADER.load(ref)


@pytest.mark.parametrize("content", [None, "", "[]", '{"weights_digest": ""}', '{"modules": [{}]}'])
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: str | None) -> None:
    ref = write(tmp_path)
    Path(ref.manifest).unlink() if content is None else Path(ref.manifest).write_text(content)
    with pytest.raises(AdapterInvalid, match="manifest cannot be read"):
        LOADER.load(ref)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    ref = write(tmp_path)
    Path(ref.weights).unlink()
    with pytest.raises(AdapterInvalid, match="cannot be read: No such file"):
        LOADER.load(ref)


def test_dropping_an_adapter_returns_its_memory(tmp_path: Path) -> None:
    loaded = LOADER.load(write(tmp_path))
    owners = [weakref.ref(owner(matrix)) for pair in loaded.pairs.values() for matrix in (pair.a, pair.b)]
    assert {type(found()) for found in owners} == {mmap.mmap}
    assert len({id(found()) for found in owners}) == 1
    del loaded
    assert {found() for found in owners} == {None}


def owner(array: Any) -> Any:
    """The object that owns an array's memory."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


class Shelf:
    """A loader of made-up adapters, `sizes` in bytes by digest; counts how often each was read."""

    def __init__(self, **sizes: int) -> None:
        self.sizes = sizes
        self.reads: list[str] = []
        self.broken: set[str] = set()

    def size(self, ref: AdapterRef) -> int:
        return self.sizes[ref.digest]

    def load(self, ref: AdapterRef) -> LoraWeights:
        self.reads.append(ref.digest)
        if ref.digest in self.broken:
            raise AdapterInvalid("broken")
        half = np.zeros((1, self.sizes[ref.digest] // 2), np.int8)
        return LoraWeights(ref.digest, {(0, "q_proj"): LoraPair(half, half, 1.0)})


class Later(Executor):
    """Runs what was submitted when told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, function: Callable[..., Any], /, *args: Any, **keywords: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, lambda: function(*args, **keywords)))
        return future

    def run(self) -> None:
        for future, call in self.waiting:
            try:
                future.set_result(call())
            except AdapterInvalid as error:
                future.set_exception(error)
        self.waiting.clear()


class Bench:
    """A pool of 100 bytes over a shelf."""

    def __init__(self, **sizes: int) -> None:
        self.shelf = Shelf(**sizes)
        self.executor = Later()
        self.calls = 0
        self.pool = AdapterPool(self.shelf, 100, self.executor, self._count)

    def _count(self) -> None:
        self.calls += 1

    def acquire(self, digest: str) -> LoraWeights | None:
        return self.pool.acquire(AdapterRef(digest, "", "", ""))

    def take(self, digest: str) -> LoraWeights:
        """Acquire, loading when necessary."""
        weights = self.acquire(digest)
        if weights is None:
            self.executor.run()
            weights = self.acquire(digest)
        assert weights is not None
        return weights


def test_an_adapter_is_read_once_while_several_wait_for_it() -> None:
    bench = Bench(red=40)
    assert bench.acquire("red") is bench.acquire("red") is None
    assert bench.calls == 0
    bench.executor.run()
    assert bench.calls == 1
    first, second = bench.acquire("red"), bench.acquire("red")
    assert first is second is not None
    assert bench.shelf.reads == ["red"]


def test_the_least_recently_used_idle_adapter_leaves_first() -> None:
    bench = Bench(red=40, blue=40, green=40)
    for digest in ("red", "blue", "red"):
        bench.pool.release(bench.take(digest))
    bench.take("green")
    assert bench.pool.digests == ("red", "green")


def test_adapters_in_use_stay_and_others_wait_until_one_is_released() -> None:
    bench = Bench(red=60, blue=60)
    red = bench.take("red")
    bench.take("red")
    assert bench.acquire("blue") is None
    bench.pool.release(red)
    assert bench.acquire("blue") is None
    assert bench.shelf.reads == ["red"]
    assert bench.pool.digests == ("red",)
    bench.pool.release(red)
    assert bench.take("blue").digest == "blue"
    assert bench.pool.digests == ("blue",)


def test_nothing_is_evicted_in_vain() -> None:
    bench = Bench(red=60, blue=30, green=50)
    bench.take("red")
    bench.pool.release(bench.take("blue"))
    assert bench.acquire("green") is None
    assert bench.pool.digests == ("red", "blue")


def test_room_is_reserved_while_an_adapter_is_read() -> None:
    bench = Bench(red=60, blue=60)
    assert bench.acquire("red") is None
    assert bench.acquire("blue") is None
    assert bench.pool.is_loading(AdapterRef("red", "", "", ""))
    assert not bench.pool.is_loading(AdapterRef("blue", "", "", ""))
    bench.executor.run()
    assert bench.shelf.reads == ["red"]
    assert bench.pool.reserved == 60


def test_an_adapter_that_nobody_waits_for_any_more_makes_room() -> None:
    bench = Bench(red=60, blue=60)
    assert bench.acquire("red") is None
    bench.executor.run()
    assert bench.take("blue").digest == "blue"
    assert bench.pool.reserved == 60


def test_a_failure_is_told_and_leaves_nothing_behind() -> None:
    bench = Bench(red=60, blue=60)
    bench.shelf.broken.add("red")
    assert bench.acquire("red") is None
    bench.executor.run()
    with pytest.raises(AdapterInvalid, match="broken"):
        bench.acquire("red")
    assert bench.pool.reserved == 0
    assert bench.take("blue").digest == "blue"


def test_an_adapter_larger_than_the_budget_is_refused() -> None:
    with pytest.raises(AdapterInvalid, match="takes 101 bytes; adapter_memory_bytes allows 100"):
        Bench(red=101).acquire("red")
