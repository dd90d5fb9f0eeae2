"""Adapters are kept within their budget of memory, unloaded when told to, and nothing else is remembered."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from gemlora.engines.contract import AdapterRef
from gemlora.engines.cpu.adapters import AdapterPool
from gemlora.errors import AdapterInvalid
from gemlora.kernels import LoraPair, LoraWeights


class Shelf:
    """A loader of made-up adapters, `sizes` in bytes by digest; counts how often each was read."""

    def __init__(self, **sizes: int) -> None:
        self.sizes = sizes
        self.reads: list[str] = []
        self.broken: set[str] = set()
        self.unpacked: set[str] = set()
        self.discarded: list[str] = []

    def size(self, ref: AdapterRef) -> int:
        return self.sizes[ref.digest]

    def open(self, ref: AdapterRef) -> LoraWeights | None:
        return None if ref.digest in self.unpacked else self._read(ref)

    def pack(self, ref: AdapterRef) -> LoraWeights:
        self.unpacked.remove(ref.digest)
        return self._read(ref)

    def _read(self, ref: AdapterRef) -> LoraWeights:
        self.reads.append(ref.digest)
        if ref.digest in self.broken:
            raise AdapterInvalid("broken")
        half = np.zeros((1, self.sizes[ref.digest] // 2), np.int8)
        return LoraWeights(ref.digest, {(0, "q_proj"): LoraPair(half, half, 1, 1, 1.0)})

    def discard(self, digest: str) -> None:
        self.discarded.append(digest)


class Later(Executor):
    """Runs what was submitted when told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, function: Callable[..., Any], /, *args: Any, **keywords: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, lambda: function(*args, **keywords)))
        return future

    def run(self) -> None:
        while self.waiting:
            future, call = self.waiting.pop(0)
            try:
                future.set_result(call())
            except AdapterInvalid as error:
                future.set_exception(error)


class Bench:
    """A pool of 100 bytes over a shelf."""

    def __init__(self, **sizes: int) -> None:
        self.shelf = Shelf(**sizes)
        self.executor = Later()
        self.packer = Later()
        self.calls = 0
        self.pool = AdapterPool(self.shelf, 100, self.executor, self.packer, self._count)

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
    assert bench.pool.has_room(AdapterRef("red", "", "", ""))
    assert not bench.pool.has_room(AdapterRef("blue", "", "", ""))
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
    for _ in range(3):
        with pytest.raises(AdapterInvalid, match="broken"):
            bench.acquire("red")
    assert bench.shelf.reads == ["red"]
    bench.pool.settle()
    assert bench.pool.reserved == 0
    assert bench.take("blue").digest == "blue"


def test_an_adapter_that_is_not_packed_is_packed_and_holds_up_no_other() -> None:
    bench = Bench(red=40, blue=40)
    bench.shelf.unpacked.add("red")
    assert bench.acquire("red") is bench.acquire("blue") is None
    bench.executor.run()
    assert bench.acquire("red") is None
    assert bench.acquire("blue") is not None
    assert bench.pool.has_room(AdapterRef("red", "", "", ""))
    bench.packer.run()
    assert bench.acquire("red") is not None
    assert bench.shelf.reads == ["blue", "red"]


def test_a_failure_of_packing_is_told() -> None:
    bench = Bench(red=40)
    bench.shelf.unpacked.add("red")
    bench.shelf.broken.add("red")
    assert bench.acquire("red") is None
    bench.executor.run()
    bench.packer.run()
    with pytest.raises(AdapterInvalid, match="broken"):
        bench.acquire("red")


def test_an_adapter_unloaded_while_it_is_packed_is_deleted_afterwards() -> None:
    bench = Bench(red=40)
    bench.shelf.unpacked.add("red")
    assert bench.acquire("red") is None
    bench.executor.run()
    done = bench.pool.unload("red")
    bench.executor.run()
    assert bench.shelf.discarded == []
    bench.packer.run()
    bench.executor.run()
    assert done.done()
    assert bench.shelf.discarded == ["red"]


def test_an_adapter_larger_than_the_budget_is_refused() -> None:
    with pytest.raises(AdapterInvalid, match="takes 101 bytes; adapter_memory_bytes allows 100"):
        Bench(red=101).acquire("red")


def test_an_unloaded_adapter_leaves_memory_and_disk_at_once_if_nobody_uses_it() -> None:
    bench = Bench(red=40)
    bench.pool.release(bench.take("red"))
    done = bench.pool.unload("red")
    bench.pool.settle()
    assert bench.pool.digests == ()
    assert bench.pool.reserved == 0
    assert not done.done()
    bench.executor.run()
    assert done.done()
    assert bench.shelf.discarded == ["red"]


def test_an_unloaded_adapter_stays_for_its_users_and_goes_with_the_last() -> None:
    bench = Bench(red=40)
    first = bench.take("red")
    bench.pool.unload("red")
    second = bench.take("red")
    assert second is first
    bench.pool.release(first)
    assert bench.pool.digests == ("red",)
    bench.pool.release(second)
    assert bench.pool.reserved == 0


def test_an_adapter_unloaded_while_it_is_read_serves_who_waits_and_then_goes() -> None:
    bench = Bench(red=40)
    assert bench.acquire("red") is None
    bench.pool.unload("red")
    bench.executor.run()
    weights = bench.acquire("red")
    bench.pool.settle()
    assert weights is not None
    bench.pool.release(weights)
    assert bench.pool.reserved == 0


def test_an_adapter_unloaded_while_it_is_read_and_wanted_by_nobody_goes() -> None:
    bench = Bench(red=40)
    assert bench.acquire("red") is None
    bench.pool.unload("red")
    bench.executor.run()
    bench.pool.settle()
    assert bench.pool.reserved == 0


def test_who_waited_gets_an_adapter_that_is_unloaded_before_they_could_take_it() -> None:
    bench = Bench(red=40)
    assert bench.acquire("red") is None
    bench.executor.run()
    bench.pool.unload("red")
    weights = bench.acquire("red")
    bench.pool.settle()
    assert weights is not None
    bench.pool.release(weights)
    assert bench.pool.reserved == 0
    assert bench.shelf.reads == ["red"]


def test_an_unloaded_adapter_is_read_again_for_who_asks_later() -> None:
    bench = Bench(red=40)
    bench.pool.release(bench.take("red"))
    bench.pool.unload("red")
    bench.pool.settle()
    bench.executor.run()
    bench.take("red")
    assert bench.shelf.reads == ["red", "red"]


def test_what_is_unknown_can_be_unloaded() -> None:
    bench = Bench()
    bench.pool.unload("red")
    bench.executor.run()
    assert bench.shelf.discarded == ["red"]
    assert bench.calls == 1


def test_a_failure_that_nobody_asks_for_is_forgotten() -> None:
    bench = Bench(red=60)
    bench.shelf.broken.add("red")
    assert bench.acquire("red") is None
    bench.executor.run()
    bench.pool.settle()
    assert bench.pool.reserved == 0
    bench.shelf.broken.clear()
    assert bench.take("red").digest == "red"


def test_thousands_of_adapters_leave_nothing_behind() -> None:
    names = [f"adapter {number}" for number in range(3000)]
    bench = Bench(**dict.fromkeys(names, 50))
    for number, name in enumerate(names):
        if number % 3 == 0:
            bench.shelf.broken.add(name)
            assert bench.acquire(name) is None
            bench.executor.run()
            bench.pool.settle()
        else:
            bench.pool.release(bench.take(name))
    assert len(bench.pool.digests) == 2
    assert len(bench.pool._slots) <= 2
    assert bench.pool._size.cache_info().currsize <= 1024


def test_packed_adapters_are_waited_for_and_packing_is_not() -> None:
    shelf, packer = Shelf(packed=40, new=40), Later()
    shelf.unpacked.add("new")
    with ThreadPoolExecutor(1) as reader:
        pool = AdapterPool(shelf, 100, reader, packer, lambda: None)
        refs = [AdapterRef(digest, "", "", "") for digest in ("new", "packed")]
        assert [pool.acquire(ref) for ref in refs] == [None, None]
        pool.wait_for_opened(60)
        new, packed = (pool.acquire(ref) for ref in refs)
    assert new is None
    assert packed is not None
    packer.run()
    assert pool.acquire(refs[0]) is not None


def test_waiting_for_packed_adapters_ends() -> None:
    bench = Bench(slow=40)
    assert bench.acquire("slow") is None
    bench.pool.wait_for_opened(0.001)
    assert bench.acquire("slow") is None
    assert bench.take("slow").digest == "slow"
