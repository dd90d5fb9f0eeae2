"""The adapters that are resident in memory.

They are read by threads of two executors while the step loop goes on: one opens packed files, which is quick, the other
packs, so that nobody whose adapter is packed waits for that. The pool itself belongs to the step loop's thread.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import lru_cache, partial
from threading import Event
from time import monotonic
from typing import Any, Protocol

from gemlora.engines.contract import AdapterRef
from gemlora.errors import AdapterInvalid
from gemlora.kernels import LoraWeights

REMEMBERED_SIZES = 1024
"""Adapters whose size is known without reading their manifest again, while they wait for room."""


class Loader(Protocol):
    """Where the pool gets adapters from."""

    def size(self, ref: AdapterRef) -> int:
        """Bytes that the adapter will take in memory. Raises `AdapterInvalid`."""
        ...

    def open(self, ref: AdapterRef) -> LoraWeights | None:
        """Read the adapter if it is packed; called from the reader's thread. Raises `AdapterInvalid`."""
        ...

    def pack(self, ref: AdapterRef) -> LoraWeights:
        """Pack and read the adapter; called from the packer's thread. Raises `AdapterInvalid`."""
        ...

    def discard(self, digest: str) -> None:
        """Delete what was made of the adapter's files; called from the reader's thread."""
        ...


@dataclass(slots=True, eq=False)
class _Slot:
    """Room for one adapter. `unloaded`: it is to be freed with its last user."""

    size: int
    future: Future[LoraWeights]
    opened: Event = field(default_factory=Event)
    """Set once the packed file was read or is known to be missing."""
    users: int = 0
    unloaded: bool = False

    @property
    def loaded(self) -> bool:
        """Whether the adapter is there."""
        return self.future.done() and self.future.exception() is None

    @property
    def failed(self) -> bool:
        """Whether it will never be."""
        return self.future.done() and self.future.exception() is not None


class AdapterPool:
    """Resident adapters within a budget of bytes; those in use stay, of the others the least recently used leave.

    Room is reserved before an adapter is read, so the budget holds while reading too. Whatever it remembers is bounded
    by the budget, not by the number of adapters. Not thread-safe: only `on_loaded` is called from other threads,
    whenever it is worth asking again.
    """

    def __init__(
        self, loader: Loader, capacity: int, reader: Executor, packer: Executor, on_loaded: Callable[[], None]
    ) -> None:
        """`capacity` in bytes. Each executor has one thread: the loader wants no more."""
        self._loader = loader
        self._capacity = capacity
        self._reader = reader
        self._packer = packer
        self._on_loaded = on_loaded
        self._size = lru_cache(REMEMBERED_SIZES)(loader.size)
        self._slots: OrderedDict[str, _Slot] = OrderedDict()

    @property
    def digests(self) -> tuple[str, ...]:
        """The resident adapters, least recently used first."""
        return tuple(digest for digest, slot in self._slots.items() if slot.loaded)

    @property
    def reserved(self) -> int:
        """Bytes of all adapters that are resident or being read."""
        return sum(slot.size for slot in self._slots.values())

    @property
    def users(self) -> int:
        """How often `acquire` gave an adapter that was not released yet."""
        return sum(slot.users for slot in self._slots.values())

    def acquire(self, ref: AdapterRef) -> LoraWeights | None:
        """The adapter, which then stays until `release`; or None while it is being read or waits for room.

        Raises `AdapterInvalid` if it could not be read or can never fit.
        """
        slot = self._slots.get(ref.digest)
        if slot is None:
            self._load(ref)
            return None
        if not slot.future.done():
            return None
        weights = slot.future.result()
        slot.users += 1
        self._slots.move_to_end(ref.digest)
        return weights

    def has_room(self, ref: AdapterRef) -> bool:
        """Whether there is room for the adapter: one that `acquire` does not return is being read then."""
        return ref.digest in self._slots

    def wait_for_opened(self, seconds: float) -> None:
        """Return when no packed file is being read any more, or after so many seconds; packing is not waited for."""
        deadline = monotonic() + seconds
        for slot in self._slots.values():
            slot.opened.wait(max(0.0, deadline - monotonic()))

    def release(self, weights: LoraWeights) -> None:
        """Give back what `acquire` returned; once for each time."""
        slot = self._slots[weights.digest]
        slot.users -= 1
        if slot.unloaded and not slot.users:
            del self._slots[weights.digest]

    def settle(self) -> None:
        """Drop adapters that could not be read and those that were unloaded and that nobody uses.

        To be called when everybody who waits has asked again, so that nobody misses the reason.
        """
        for digest, slot in list(self._slots.items()):
            if slot.failed or (slot.loaded and slot.unloaded and not slot.users):
                del self._slots[digest]

    def unload(self, digest: str) -> Future[None]:
        """Free the adapter's memory with the next `settle` or with its last user; the future ends when its files are
        deleted.

        Who asks for it later gets it read again.
        """
        slot = self._slots.get(digest)
        discarded: Future[None] = Future()
        discarded.add_done_callback(self._tell)
        if slot is None:
            self._discard(digest, discarded)
        else:  # at once, or when it has been read, lest it be packed again
            slot.unloaded = True
            slot.future.add_done_callback(partial(self._discard, digest, discarded))
        return discarded

    def _load(self, ref: AdapterRef) -> None:
        """Start reading, if there is room."""
        size = self._size(ref)
        if size > self._capacity:
            raise AdapterInvalid(
                f"Adapter {ref.digest} takes {size} bytes; adapter_memory_bytes allows {self._capacity} for all"
            )
        if self._make_room(size):
            slot = _Slot(size, Future())
            self._slots[ref.digest] = slot
            slot.future.add_done_callback(self._tell)
            self._reader.submit(self._loader.open, ref).add_done_callback(partial(self._pack, ref, slot))

    def _pack(self, ref: AdapterRef, slot: _Slot, opened: Future[LoraWeights | None]) -> None:
        """Go on when the packed file was looked for."""
        if opened.exception() is None and opened.result() is None:
            self._packer.submit(self._loader.pack, ref).add_done_callback(partial(_pass_on, slot.future))
        else:
            _pass_on(slot.future, opened)
        slot.opened.set()

    def _discard(self, digest: str, discarded: Future[None], _: object = None) -> None:
        self._reader.submit(self._loader.discard, digest).add_done_callback(partial(_pass_on, discarded))

    def _tell(self, _: object) -> None:
        self._on_loaded()

    def _make_room(self, size: int) -> bool:
        """Evict idle adapters until `size` more bytes fit; evict none if that cannot succeed."""
        excess = self.reserved + size - self._capacity
        leaving: list[str] = []
        for digest in self._idle():
            if excess <= 0:
                break
            leaving.append(digest)
            excess -= self._slots[digest].size
        if excess > 0:
            return False
        for digest in leaving:
            del self._slots[digest]
        return True

    def _idle(self) -> Iterator[str]:
        return (digest for digest, slot in self._slots.items() if slot.future.done() and not slot.users)


def _pass_on(to: Future[Any], outcome: Future[Any]) -> None:
    """Let one future end as another did."""
    if (error := outcome.exception()) is not None:
        to.set_exception(error)
    else:
        to.set_result(outcome.result())
