"""Where each array of an adapter lies in memory and in its packed file: a function of manifest and served base alone.

Letters: K inputs and N outputs of a module, r rank, V vocabulary, E width of the embedding. A module's arrays lie one
behind the other, and modules in the order of their use.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from gemlora.engines.cpu.config import GemmaConfig
from gemlora.errors import AdapterInvalid
from gemlora.kernels import EmbeddingPair, LoraPair, LoraWeights, Matrix
from gemlora.kernels.lora import SCALED_BYTES, SCALED_PANEL
from gemlora.kernels.matrix import PANEL
from gemlora.storage.manifest import AdapterManifest, EmbeddingLora, HeadLora, LoraModule, Tensor

LAYOUT = 4
"""Raised whenever the bytes of a packed adapter change."""

AdapterDtype = Literal["auto", "float32", "bfloat16", "int8"]

FILE_DTYPES: dict[str, np.dtype[np.generic]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(bfloat16),
}

LARGEST_SCALE = float(np.finfo(np.float32).max)

ALIGNMENT = 64
"""Bytes; every array starts on a cache line."""

Source = LoraModule | EmbeddingLora | HeadLora


class ServedBase(Protocol):
    """The base that adapters are packed for; `PackedModel` is one."""

    @property
    def config(self) -> GemmaConfig:
        """The architecture."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of the checkpoint's files."""
        ...

    @property
    def quantize(self) -> str:
        """`none`, `int8` or `int4`."""
        ...

    @property
    def tied(self) -> bool:
        """Whether the embedding is also the output head."""
        ...

    def matrix(self, name: str) -> Matrix:
        """A weight matrix."""
        ...

    def squared_checkpoint_steps(self, name: str) -> float:
        """The sum, over a matrix' weights, of the squared distance between the neighbouring values that the checkpoint
        could hold there; 0 unless the checkpoint was quantised and the matrix is so otherwise."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """An array of the packed adapter; `offset` counts bytes from its first array."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    offset: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    def view(self, memory: NDArray[np.uint8]) -> NDArray[np.generic]:
        """The array in the bytes of all arrays."""
        return np.ndarray(self.shape, self.dtype, memory, self.offset)


@dataclass(frozen=True, slots=True)
class PairLayout:
    """One LoRA pair. `name` is for people, `matrix` is the base's name of the matrix that it changes."""

    name: str
    matrix: str
    source: Source
    a: Place
    b: Place
    output_scale: Place | None

    @property
    def inputs(self) -> int:
        """K, or V of the embedding."""
        return self.source.a.shape[1]

    @property
    def outputs(self) -> int:
        """N, or E of the embedding."""
        return self.source.b.shape[0]

    def linear_pair(self, memory: NDArray[np.uint8]) -> LoraPair:
        """The pair of a module or of the head as views of the bytes of all arrays."""
        a, b, output_scale = self._views(memory)
        return LoraPair(a, b, self.inputs, self.outputs, self.source.scale, output_scale)

    def embedding_pair(self, memory: NDArray[np.uint8]) -> EmbeddingPair:
        """The pair of the embedding, likewise."""
        a, b, output_scale = self._views(memory)
        return EmbeddingPair(a, b, self.outputs, self.source.scale, output_scale)

    def _views(
        self, memory: NDArray[np.uint8]
    ) -> tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.float32] | None]:
        output_scale = None if self.output_scale is None else self.output_scale.view(memory).view(np.float32)
        return self.a.view(memory), self.b.view(memory), output_scale


@dataclass(frozen=True, slots=True)
class AdapterLayout:
    """All arrays of one adapter in `size` bytes."""

    modules: dict[tuple[int, str], PairLayout]
    embedding: PairLayout | None
    head: PairLayout | None
    size: int

    @property
    def pairs(self) -> tuple[PairLayout, ...]:
        """Every pair, in the order of their places."""
        return (*self.modules.values(), *(pair for pair in (self.embedding, self.head) if pair is not None))

    def weights(self, digest: str, memory: NDArray[np.uint8]) -> LoraWeights:
        """The adapter as views of the bytes of all arrays."""
        return LoraWeights(
            digest,
            {position: layout.linear_pair(memory) for position, layout in self.modules.items()},
            None if self.embedding is None else self.embedding.embedding_pair(memory),
            None if self.head is None else self.head.linear_pair(memory),
        )


def adapter_layout(manifest: AdapterManifest, base: ServedBase, dtype: AdapterDtype) -> AdapterLayout:
    """Place every array of the manifest. Raises `AdapterInvalid` for what does not fit the served base.

    `dtype` is the setting `adapter_dtype`.
    """
    planner = _Planner(base, dtype)
    modules: dict[tuple[int, str], PairLayout] = {}
    order = {name: place for place, name in enumerate(base.config.modules)}
    for module in sorted(manifest.modules, key=lambda module: (module.layer, order.get(module.module, 0))):
        if (position := (module.layer, module.module)) in modules:
            raise AdapterInvalid(f"layers.{module.layer}.{module.module} is named twice")
        modules[position] = planner.module(module)
    embedding = None if manifest.embedding is None else planner.embedding(manifest.embedding)
    head = None if manifest.head is None else planner.head(manifest.head)
    if not modules and embedding is None and head is None:
        raise AdapterInvalid("The adapter changes no module")
    for copy in manifest.copies:
        name, shape = f"{copy.module}.base_layer", (base.config.vocabulary, base.config.hidden)
        if copy.module not in ("embed_tokens", "lm_head"):
            raise AdapterInvalid(f"{name}: the served base has no such matrix")
        check_tensor(name, copy.tensor, shape)
    return AdapterLayout(modules, embedding, head, planner.size)


def check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raises `AdapterInvalid` unless the tensor has this shape and a type that is served."""
    if tensor.dtype not in FILE_DTYPES:
        raise AdapterInvalid(f"{name}: dtype {tensor.dtype} is not one of F32, F16, BF16")
    if min(shape) < 1 or tensor.shape != shape:
        raise AdapterInvalid(f"{name}: shape {tensor.shape} does not fit the served base, expected {shape}")
    if tensor.size != math.prod(shape) * FILE_DTYPES[tensor.dtype].itemsize:
        raise AdapterInvalid(f"{name}: {tensor.size} bytes do not hold shape {shape}")


class _Planner:
    """Gives out places one behind the other. The registry checked all shapes; the served base may have changed."""

    def __init__(self, base: ServedBase, dtype: AdapterDtype) -> None:
        self._base = base
        self._modules = base.config.modules
        self._dtype = "int8" if dtype == "auto" and base.quantize != "none" else dtype
        self.size = 0

    def module(self, source: LoraModule) -> PairLayout:
        """A pair on a linear module, both factors in panels, see `LoraPair`."""
        name = f"layers.{source.layer}.{source.module}"
        layers = len(self._base.config.layers)
        if source.module not in self._modules:
            raise AdapterInvalid(f"{name}: the served base has no such linear module")
        if not 0 <= source.layer < layers:
            raise AdapterInvalid(f"{name}: the served base has only {layers} layers")
        outputs, inputs = self._modules[source.module]
        return self._pair(name, name, source, outputs, inputs)

    def head(self, source: HeadLora) -> PairLayout:
        """A pair on the output head, likewise."""
        config = self._base.config
        matrix = "embedding" if self._base.tied else "head"
        return self._pair("lm_head", matrix, source, config.vocabulary, config.hidden)

    def embedding(self, source: EmbeddingLora) -> PairLayout:
        """A pair on the input embedding: A transposed [V, r] in floats, B in panels, see `EmbeddingPair`."""
        config = self._base.config
        return self._pair("embed_tokens", "embedding", source, config.hidden, config.vocabulary)

    def _pair(self, name: str, matrix: str, source: Source, outputs: int, inputs: int) -> PairLayout:
        check_tensor(f"{name}, A", source.a, (source.rank, inputs))
        check_tensor(f"{name}, B", source.b, (outputs, source.rank))
        if source.magnitude is not None:
            check_tensor(f"{name}, magnitude", source.magnitude, (outputs,))
        if not abs(source.scale) <= LARGEST_SCALE:
            raise AdapterInvalid(f"{name}: the scale is not finite as float32")
        if isinstance(source, EmbeddingLora):
            a = self._place((inputs, source.rank), self._floats(source.a))
        else:
            a = self._panels(inputs, source.a, source.rank)
        b = self._panels(outputs, source.b, source.rank)
        magnitude = None if source.magnitude is None else self._place((outputs,), FILE_DTYPES["F32"])
        return PairLayout(name, matrix, source, a, b, magnitude)

    def _panels(self, columns: int, tensor: Tensor, rank: int) -> Place:
        if self._dtype == "int8":
            return self._place((-(-columns // SCALED_PANEL), rank), SCALED_BYTES)
        return self._place((-(-columns // PANEL), rank, PANEL), self._floats(tensor))

    def _place(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Place:
        place = Place(shape, dtype, self.size)
        self.size = -(-place.end // ALIGNMENT) * ALIGNMENT
        return place

    def _floats(self, tensor: Tensor) -> np.dtype[np.generic]:
        if self._dtype == "auto":
            return FILE_DTYPES[tensor.dtype]
        return FILE_DTYPES["F32" if self._dtype == "float32" else "BF16"]
