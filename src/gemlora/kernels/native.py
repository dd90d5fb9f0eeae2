"""The kernels of the C++ library. It knows Python objects; the library sees arrays."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from gemlora.errors import SettingsInvalid
from gemlora.kernels import _native
from gemlora.kernels.cores import usable_cores
from gemlora.kernels.interface import Calls, Float32, Int32, Places
from gemlora.kernels.lora import SCALED_BYTES, LoraWeights, Segments
from gemlora.kernels.matrix import Format, Matrix
from gemlora.kernels.sampling import SamplingBatch


def instruction_sets() -> list[str]:
    """The variants of the kernels that this processor can run, the fastest first."""
    return _native.instruction_sets()


class NativeKernels:
    """Implements `gemlora.kernels.Kernels` with `threads` threads (None: the cores this process may use).

    `instruction_set` is "auto" or one of `instruction_sets()`; all give the same results. Array arguments of a wrong
    type, size or layout, and ids or positions out of range, raise ValueError before anything is written.
    """

    def __init__(self, threads: int | None = None, instruction_set: str = "auto") -> None:
        available = instruction_sets()
        if instruction_set not in ("auto", *available):
            raise SettingsInvalid(
                f"instruction_set: this processor cannot run {instruction_set!r}; it can run {', '.join(available)}"
            )
        if threads is not None and threads < 1:
            raise SettingsInvalid(f"threads: must be at least 1, not {threads}")
        self.threads = usable_cores() if threads is None else threads
        self.instruction_set = available[0] if instruction_set == "auto" else instruction_set
        self._library = _native.Library(self.threads, self.instruction_set)
        self._matrices: WeakKeyDictionary[Matrix, _native.Matrix] = WeakKeyDictionary()
        self._adapters: WeakKeyDictionary[LoraWeights, _native.Adapter] = WeakKeyDictionary()
        self._segments: WeakKeyDictionary[Segments, _native.Segments] = WeakKeyDictionary()

    def record(self, calls: Calls, segments: Segments) -> Calls:
        """See `Kernels.record`. What is returned calls into the library once."""
        program = self._library.begin_recording()
        try:
            calls(segments)
        finally:
            self._library.end_recording()
        return lambda others: program.run(self._rows_of(others))

    def linear(self, x: Float32, matrices: Sequence[Matrix], out: Float32) -> None:
        """See `Kernels.linear`."""
        self._library.linear(x, [self._matrix(matrix) for matrix in matrices], out)

    def most_likely(self, x: Float32, head: Matrix, softcap: float | None, tokens: Int32) -> None:
        """See `Kernels.most_likely`."""
        self._library.most_likely(x, self._matrix(head), softcap, tokens)

    def embed(self, matrix: Matrix, tokens: Int32, scale: float, out: Float32) -> None:
        """See `Kernels.embed`."""
        self._library.embed(self._matrix(matrix), tokens, scale, out)

    def rms_norm(self, x: Float32, weight: Float32, epsilon: float, out: Float32) -> None:
        """See `Kernels.rms_norm`."""
        self._library.rms_norm(x, weight, epsilon, out)

    def add_branch(
        self, stream: Float32, branch: Float32, branch_norm: Float32 | None, norm: Float32, epsilon: float,
        normed: Float32,
    ) -> None:  # fmt: skip
        """See `Kernels.add_branch`."""
        self._library.add_branch(stream, branch, branch_norm, norm, epsilon, normed)

    def rotate(
        self, queries: Float32, query_norm: Float32 | None, keys: Float32, key_norm: Float32 | None, epsilon: float,
        cosines: Float32, sines: Float32, positions: Int32,
    ) -> None:  # fmt: skip
        """See `Kernels.rotate`."""
        self._library.rotate(queries, query_norm, keys, key_norm, epsilon, cosines, sines, positions)

    def store_kv(
        self, keys: Float32, values: Float32, cache: NDArray[np.generic], block_tables: Int32,
        sequence_of_row: Int32, positions: Int32,
    ) -> None:  # fmt: skip
        """See `Kernels.store_kv`."""
        self._library.store_kv(keys, values, cache, block_tables, sequence_of_row, positions)

    def attend(
        self, queries: Float32, cache: NDArray[np.generic], block_tables: Int32, sequence_of_row: Int32,
        positions: Int32, scale: float, window: int | None, softcap: float | None, out: Float32,
    ) -> None:  # fmt: skip
        """See `Kernels.attend`."""
        self._library.attend(
            queries, cache, block_tables, sequence_of_row, positions, scale, window, softcap, out
        )  # fmt: skip

    def gelu_gate(self, gate_up: Float32, out: Float32) -> None:
        """See `Kernels.gelu_gate`."""
        self._library.gelu_gate(gate_up, out)

    def softcap(self, x: Float32, cap: float) -> None:
        """See `Kernels.softcap`."""
        self._library.softcap(x, cap)

    def adapt(self, x: Float32, out: Float32, segments: Segments, layer: int, modules: Places) -> None:
        """See `Kernels.adapt`."""
        self._library.adapt(x, out, self._rows_of(segments), layer, modules)

    def adapt_head(self, x: Float32, out: Float32, segments: Segments) -> None:
        """See `Kernels.adapt_head`."""
        self._library.adapt_head(x, out, self._rows_of(segments))

    def adapt_embedding(self, tokens: Int32, scale: float, out: Float32, segments: Segments) -> None:
        """See `Kernels.adapt_embedding`."""
        self._library.adapt_embedding(tokens, scale, out, self._rows_of(segments))

    def row_norms(self, matrix: Matrix, left: Float32, right: Float32, out: Float32) -> None:
        """See `Kernels.row_norms`."""
        self._library.row_norms(self._matrix(matrix), left, right, out)

    def column_norms(self, matrix: Matrix, left: Float32, right: Float32, out: Float32) -> None:
        """See `Kernels.column_norms`."""
        self._library.column_norms(self._matrix(matrix), left, right, out)

    def sample(self, logits: Float32, batch: SamplingBatch) -> Int32:
        """See `Kernels.sample`."""
        tokens = np.empty(len(logits), np.int32)
        self._library.sample(logits, batch, tokens)
        return tokens

    def _matrix(self, matrix: Matrix) -> _native.Matrix:
        known = self._matrices.get(matrix)
        if known is None:
            known = _native.Matrix(
                matrix.rows, matrix.columns, matrix.format, matrix.values, matrix.scales, matrix.minimums,
                matrix.group, matrix.quantize_activations,
            )  # fmt: skip
            self._matrices[matrix] = known
        return known

    def _adapter(self, adapter: LoraWeights) -> _native.Adapter:
        known = self._adapters.get(adapter)
        if known is None:
            known = _native.Adapter()
            for (layer, module), pair in adapter.pairs.items():
                known.add(
                    layer, module, *_stored(pair.a), *_stored(pair.b), pair.inputs, pair.outputs, pair.scale,
                    pair.output_scale,
                )  # fmt: skip
            if (embedding := adapter.embedding) is not None:
                known.set_embedding(
                    *_stored(embedding.a), *_stored(embedding.b), embedding.outputs, embedding.scale,
                    embedding.output_scale,
                )  # fmt: skip
            if (head := adapter.head) is not None:
                known.set_head(
                    *_stored(head.a), *_stored(head.b), head.inputs, head.outputs, head.scale, head.output_scale
                )
            self._adapters[adapter] = known
        return known

    def _rows_of(self, segments: Segments) -> _native.Segments:
        known = self._segments.get(segments)
        if known is None:
            adapters = [None if adapter is None else self._adapter(adapter) for adapter in segments.adapters]
            known = _native.Segments(adapters, segments.ends)
            self._segments[segments] = known
        return known


def _stored(weights: NDArray[np.generic]) -> tuple[NDArray[np.generic], Format]:
    """A factor and its type; bfloat16 as uint16 and scaled bytes as bytes: the array protocols cannot name them."""
    if weights.dtype == SCALED_BYTES:
        return weights.view(np.uint8).reshape(*weights.shape, SCALED_BYTES.itemsize), Format.INT8
    format_ = Format.of(weights.dtype)
    return (weights.view(np.uint16) if format_ is Format.BFLOAT16 else weights), format_
