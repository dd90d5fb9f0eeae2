"""A base with an adapter merged into it, as a checkpoint whose rows are computed when they are read.

Every row is computed in float32 from the base's row and the adapter alone, so that no tensor is ever whole in memory.

Letters: N rows and K columns of a matrix, r rank, V vocabulary, E width of the embedding.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gemlora.conversion.adapter_folder import Adapter
from gemlora.engines.cpu.adapters.originals import WeightsFile
from gemlora.engines.cpu.config import GemmaConfig
from gemlora.engines.cpu.weights.checkpoint import Checkpoint, Floats, Storage, Tensor, dequantised
from gemlora.engines.cpu.weights.vocabulary import SpecialTokens
from gemlora.errors import AdapterInvalid
from gemlora.registry.tensor_values import check_tied
from gemlora.storage.manifest import BaseCopy, EmbeddingLora, HeadLora, LoraModule

ROWS = 4096
"""Rows that are looked through at a time."""

Pair = LoraModule | EmbeddingLora | HeadLora
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Copied:
    """The embedding or head that PEFT saved beside the adapter, in place of the base's."""

    copy: BaseCopy
    weights: WeightsFile

    @property
    def source(self) -> str:
        """The adapter's name of it."""
        return self.copy.tensor.name

    @property
    def shape(self) -> tuple[int, ...]:
        """(V, E)."""
        return self.copy.tensor.shape

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in the adapter's file."""
        return self.copy.tensor.size // self.shape[0]

    @property
    def storage(self) -> Storage:
        """float32."""
        return Storage(np.dtype(np.float32))

    def rows(self, start: int, stop: int) -> Floats:
        """[stop - start, E]."""
        return self.weights.read_rows(self.copy.tensor, start, stop).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Merged:
    """A matrix W with a pair merged into it: W + s · B A; with DoRA each output times magnitude / ‖W + s · B A‖.

    The outputs of the embedding are the columns of its matrix: there W + s · (B A)ᵀ, and DoRA scales columns.
    """

    base: Tensor
    pair: Pair
    weights: WeightsFile
    column_scales: Float32 | None = None
    """[K], DoRA's of the embedding; those of other matrices follow from each row."""

    @property
    def source(self) -> str:
        """The base's name of it."""
        return self.base.source

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, K)."""
        return self.base.shape

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.shape[1] * 4

    @property
    def storage(self) -> Storage:
        """float32."""
        return Storage(np.dtype(np.float32))

    def rows(self, start: int, stop: int) -> Float32:
        """[stop - start, K]."""
        values = dequantised(self.base.rows(start, stop)) + self._update(start, stop)
        if self.pair.magnitude is None:
            return values
        if self.column_scales is not None:
            return values * self.column_scales
        magnitude = self.weights.read_rows(self.pair.magnitude, start, stop).astype(np.float32)
        return values * quotient(magnitude, np.square(values, dtype=np.float64).sum(axis=1), self.source)[:, None]

    def _update(self, start: int, stop: int) -> Float32:
        """s · B A of these rows."""
        scale, weights = np.float32(self.pair.scale), self.weights
        if isinstance(self.pair, EmbeddingLora):
            a = weights.read(self.pair.a)[:, start:stop].astype(np.float32)
            return scale * (a.T @ weights.read(self.pair.b).astype(np.float32).T)
        b = weights.read_rows(self.pair.b, start, stop).astype(np.float32)
        return scale * (b @ weights.read(self.pair.a).astype(np.float32))


@dataclass(frozen=True, slots=True)
class MergedCheckpoint:
    """Implements `Checkpoint`."""

    base: Checkpoint
    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...]
    """What its user should know, in sentences."""

    @property
    def name(self) -> str:
        """The base's."""
        return self.base.name

    @property
    def config(self) -> GemmaConfig:
        """The base's."""
        return self.base.config

    def write_vocabulary(self, folder: Path) -> SpecialTokens:
        """Write the base's tokenizer file into `folder`."""
        return self.base.write_vocabulary(folder)


def merge(base: Checkpoint, adapter: Adapter) -> MergedCheckpoint:
    """The base with everything that the adapter changes.

    Raises `AdapterInvalid` if the folder's copies of one matrix differ.
    """
    manifest, weights = adapter.manifest, adapter.weights
    tensors = dict(base.tensors)
    notes: list[str] = []
    tied = "head" not in tensors
    if copies := {copy.module: Copied(copy, weights) for copy in manifest.copies}:
        notes.append("Embedding and head are those that PEFT saved beside the adapter.")
        _use_copies(tensors, copies, tied=tied)
    for module in manifest.modules:
        name = f"layers.{module.layer}.{module.module}"
        tensors[name] = Merged(tensors[name], module, weights)
    embedding = tensors["embedding"]
    if manifest.embedding is not None:
        tensors["embedding"] = _merged_embedding(embedding, manifest.embedding, weights)
    if manifest.head is not None and not (tied and _stays_tied(adapter)):
        tensors["head"] = Merged(tensors.get("head", embedding), manifest.head, weights)
    elif manifest.embedding is not None and manifest.head is None and tied:
        tensors["head"] = embedding
    if tied and "head" in tensors:
        notes.append("Embedding and head are two matrices now: the adapter changes them differently.")
    return MergedCheckpoint(base, tensors, tuple(notes))


def quotient(magnitude: Float32, squares: NDArray[np.float64], where: str) -> Float32:
    """DoRA's factor of each output, from the sums of squares of its weights. Raises `AdapterInvalid` if one is zero."""
    if not squares.all():
        raise AdapterInvalid(f"{where}: the weights of an output are all zero, so DoRA has no direction for them")
    factors: Float32 = np.divide(magnitude, np.sqrt(squares), dtype=np.float64).astype(np.float32)
    return factors


def for_chunks(rows: int, use: Callable[[int, int], None]) -> None:
    """Call `use` with the bounds of some rows at a time."""
    for start in range(0, rows, ROWS):
        use(start, min(start + ROWS, rows))


def _use_copies(tensors: dict[str, Tensor], copies: Mapping[str, Copied], *, tied: bool) -> None:
    """As PEFT loads them: what is saved of a matrix that is both embedding and head is saved of both."""
    embedding, head = copies.get("embed_tokens"), copies.get("lm_head")
    if not tied:
        tensors["embedding"] = embedding or tensors["embedding"]
        tensors["head"] = head or tensors["head"]
        return
    chosen = embedding or head
    if chosen is None:
        return
    if embedding is not None and head is not None:
        _check_equal(embedding, head)
    tensors["embedding"] = chosen


def _check_equal(one: Copied, other: Copied) -> None:
    def compare(start: int, stop: int) -> None:
        if not np.array_equal(one.rows(start, stop), other.rows(start, stop)):
            raise AdapterInvalid(f"{one.source} and {other.source} differ, though the base has one matrix for both")

    for_chunks(one.shape[0], compare)


def _merged_embedding(base: Tensor, pair: EmbeddingLora, weights: WeightsFile) -> Merged:
    plain = Merged(base, EmbeddingLora(pair.rank, pair.scale, pair.a, pair.b), weights)
    if pair.magnitude is None:
        return plain
    squares = np.zeros(base.shape[1], np.float64)

    def add(start: int, stop: int) -> None:
        squares[:] += np.square(plain.rows(start, stop), dtype=np.float64).sum(axis=0)

    for_chunks(base.shape[0], add)
    magnitude = weights.read(pair.magnitude).astype(np.float32)
    return Merged(base, pair, weights, quotient(magnitude, squares, base.source))


def _stays_tied(adapter: Adapter) -> bool:
    """Whether both pairs change the one matrix alike, as with `ensure_weight_tying`."""
    embedding, head = adapter.manifest.embedding, adapter.manifest.head
    if embedding is None or head is None or embedding.scale != head.scale:
        return False
    if embedding.magnitude is not None or head.magnitude is not None or embedding.rank != head.rank:
        return False
    with suppress(AdapterInvalid):
        check_tied(adapter.path, embedding, head)
        return True
    return False
