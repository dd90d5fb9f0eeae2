"""Adapters of the engine: reading one from disk, and the pool of those that are resident in memory.

They are read by worker threads while the step loop goes on; the pool itself belongs to the step loop's thread.
"""

import hashlib
import math
import mmap
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from gemlora.engines.contract import AdapterRef
from gemlora.engines.cpu.config import GemmaConfig
from gemlora.errors import AdapterInvalid
from gemlora.kernels import LoraPair, LoraWeights
from gemlora.storage.manifest import AdapterManifest, LoraModule, Tensor

AdapterDtype = Literal["auto", "float32", "bfloat16"]

FILE_DTYPES: dict[str, np.dtype[np.generic]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(bfloat16),
}

ALIGNMENT = 64
"""Bytes; every matrix starts on a cache line."""


class Loader(Protocol):
    """Where the pool gets adapters from. Both methods raise `AdapterInvalid`."""

    def size(self, ref: AdapterRef) -> int:
        """Bytes that the adapter will take in memory."""
        ...

    def load(self, ref: AdapterRef) -> LoraWeights:
        """Read the adapter; called from worker threads."""
        ...


@dataclass(frozen=True, slots=True)
class AdapterLoader:
    """Reads adapters for one served model. It holds no state, so any thread may use it.

    `dtype` is the setting `adapter_dtype`; `quantized` says whether the base is.
    """

    config: GemmaConfig
    dtype: AdapterDtype
    quantized: bool

    def size(self, ref: AdapterRef) -> int:
        """Bytes that the adapter will take in memory, from its manifest alone."""
        return sum(
            _aligned(self._resident_dtype(tensor).itemsize * math.prod(tensor.shape))
            for module in self._manifest(ref).modules
            for tensor in (module.a, module.b)
        )

    def load(self, ref: AdapterRef) -> LoraWeights:
        """Read, check and convert the adapter.

        Raises `AdapterInvalid` if a file is missing or differs from its digest, if a module does not fit the served
        base, or if a value is not finite.
        """
        manifest = self._manifest(ref)
        space = _Space(self.size(ref))
        try:
            with Path(ref.weights).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != manifest.weights_digest:
                    raise AdapterInvalid(f"Adapter {ref.digest}: the weights file was changed after registration")
                pairs = {(m.layer, m.module): self._read_pair(m, file, space) for m in manifest.modules}
        except OSError as error:
            raise AdapterInvalid(f"Adapter {ref.digest}: the weights file cannot be read: {error.strerror}") from error
        return LoraWeights(ref.digest, pairs)

    def _manifest(self, ref: AdapterRef) -> AdapterManifest:
        try:
            manifest = AdapterManifest.read(Path(ref.manifest))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise AdapterInvalid(f"Adapter {ref.digest}: the manifest cannot be read: {error}") from error
        if manifest.embedding or manifest.head or manifest.copies or any(m.magnitude for m in manifest.modules):
            raise AdapterInvalid(f"Adapter {ref.digest} changes more than this engine computes: plain LoRA on layers")
        if not manifest.modules:
            raise AdapterInvalid(f"Adapter {ref.digest} changes no module")
        seen: set[tuple[int, str]] = set()
        for module in manifest.modules:
            self._check(module)
            if (module.layer, module.module) in seen:
                raise AdapterInvalid(f"{_name(module)} is named twice")
            seen.add((module.layer, module.module))
        return manifest

    def _check(self, module: LoraModule) -> None:
        """The registry checked this at upload; the served base may have changed since."""
        if module.module not in self.config.modules:
            raise AdapterInvalid(f"{_name(module)}: the served base has no such linear module")
        if not 0 <= module.layer < len(self.config.layers):
            raise AdapterInvalid(f"{_name(module)}: the served base has only {len(self.config.layers)} layers")
        outputs, inputs = self.config.modules[module.module]
        for letter, tensor, shape in (
            ("A", module.a, (module.rank, inputs)),
            ("B", module.b, (outputs, module.rank)),
        ):
            if tensor.dtype not in FILE_DTYPES:
                raise AdapterInvalid(f"{_name(module)}, {letter}: dtype {tensor.dtype} is not one of F32, F16, BF16")
            if module.rank < 1 or tensor.shape != shape:
                raise AdapterInvalid(
                    f"{_name(module)}, {letter}: shape {tensor.shape} does not fit the served base, expected {shape}"
                )
            if tensor.size != math.prod(shape) * FILE_DTYPES[tensor.dtype].itemsize:
                raise AdapterInvalid(f"{_name(module)}, {letter}: {tensor.size} bytes do not hold shape {shape}")
        if not math.isfinite(module.scale):
            raise AdapterInvalid(f"{_name(module)}: the scale is not finite")

    def _resident_dtype(self, tensor: Tensor) -> np.dtype[np.generic]:
        if self.dtype == "float32":
            return FILE_DTYPES["F32"]
        if self.dtype == "bfloat16" or self.quantized:
            return FILE_DTYPES["BF16"]
        return FILE_DTYPES[tensor.dtype]

    def _read_pair(self, module: LoraModule, file: BinaryIO, space: "_Space") -> LoraPair:
        a = space.take(module.a.shape, self._resident_dtype(module.a))
        b = space.take((module.rank, module.b.shape[0]), self._resident_dtype(module.b))
        a[...] = _read(file, module.a)
        b[...] = _read(file, module.b).astype(b.dtype).T  # converting while transposing is four times slower
        for letter, values in (("A", a), ("B", b)):
            if not np.isfinite(values).all():
                raise AdapterInvalid(f"{_name(module)}, {letter}: not all values are finite as {values.dtype}")
        return LoraPair(a, b, module.scale)


class AdapterPool:
    """Resident adapters within a budget of bytes; those in use stay, of the others the least recently used leave.

    Room is reserved before an adapter is read, so the budget holds while reading too. Not thread-safe: only
    `on_loaded` is called from other threads, whenever it is worth asking again.
    """

    def __init__(self, loader: Loader, capacity: int, executor: Executor, on_loaded: Callable[[], None]) -> None:
        self._loader = loader
        self._capacity = capacity
        self._executor = executor
        self._on_loaded = on_loaded
        self._resident: OrderedDict[str, LoraWeights] = OrderedDict()
        self._users: Counter[str] = Counter()
        self._loading: dict[str, Future[LoraWeights]] = {}
        self._failed: dict[str, BaseException] = {}
        self._sizes: dict[str, int] = {}

    @property
    def digests(self) -> tuple[str, ...]:
        """The resident adapters, least recently used first."""
        return tuple(self._resident)

    @property
    def reserved(self) -> int:
        """Bytes of all adapters that are resident or being read."""
        return sum(self._sizes[digest] for digest in (*self._resident, *self._loading))

    def acquire(self, ref: AdapterRef) -> LoraWeights | None:
        """The adapter, which then stays until `release`; or None while it is being read or waits for room.

        Raises `AdapterInvalid` if it could not be read or can never fit.
        """
        self._collect()
        if (failure := self._failed.pop(ref.digest, None)) is not None:
            raise failure
        if (weights := self._resident.get(ref.digest)) is not None:
            self._resident.move_to_end(ref.digest)
            self._users[ref.digest] += 1
            return weights
        if ref.digest not in self._loading and self._make_room(self._size(ref)):
            self._loading[ref.digest] = future = self._executor.submit(self._loader.load, ref)
            future.add_done_callback(lambda _: self._on_loaded())
        return None

    def is_loading(self, ref: AdapterRef) -> bool:
        """Whether the adapter is being read; if not, one that `acquire` does not return waits for room."""
        return ref.digest in self._loading

    def release(self, weights: LoraWeights) -> None:
        """Give back what `acquire` returned; once for each time."""
        self._users[weights.digest] -= 1
        if not self._users[weights.digest]:
            del self._users[weights.digest]

    def _collect(self) -> None:
        """Move finished loads to the resident ones, also if nobody asks for them any more."""
        for digest, future in [entry for entry in self._loading.items() if entry[1].done()]:
            del self._loading[digest]
            if (failure := future.exception()) is not None:
                self._failed[digest] = failure
            else:
                self._resident[digest] = future.result()

    def _size(self, ref: AdapterRef) -> int:
        if ref.digest not in self._sizes:
            self._sizes[ref.digest] = self._loader.size(ref)
        if (size := self._sizes[ref.digest]) > self._capacity:
            raise AdapterInvalid(
                f"Adapter {ref.digest} takes {size} bytes; adapter_memory_bytes allows {self._capacity} for all"
            )
        return size

    def _make_room(self, size: int) -> bool:
        """Evict idle adapters until `size` more bytes fit; evict none if that cannot succeed."""
        excess = self.reserved + size - self._capacity
        leaving: list[str] = []
        for digest in self._idle():
            if excess <= 0:
                break
            leaving.append(digest)
            excess -= self._sizes[digest]
        if excess > 0:
            return False
        for digest in leaving:
            del self._resident[digest]
        return True

    def _idle(self) -> Iterator[str]:
        return (digest for digest in self._resident if not self._users[digest])


class _Space:
    """One private mapping for all matrices of an adapter: dropping the last of them returns the memory at once,
    which many small heap allocations would not."""

    def __init__(self, size: int) -> None:
        self._memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._used = 0

    def take(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
        """The next matrix, zeroed."""
        array = np.frombuffer(self._memory, dtype, math.prod(shape), self._used).reshape(shape)
        self._used += _aligned(array.nbytes)
        return array


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _read(file: BinaryIO, tensor: Tensor) -> NDArray[np.generic]:
    file.seek(tensor.offset)
    data = file.read(tensor.size)
    if len(data) != tensor.size:
        raise AdapterInvalid(f"{tensor.name} lies outside the weights file")
    return np.frombuffer(data, FILE_DTYPES[tensor.dtype]).reshape(tensor.shape)


def _name(module: LoraModule) -> str:
    return f"layers.{module.layer}.{module.module}"
