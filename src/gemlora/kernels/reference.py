"""Every kernel in plain NumPy: the definition that the native library is tested against.

Written to be read, not to be fast. It sums in NumPy's order, so results agree with the native ones up to rounding.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gemlora.kernels.hadamard import spread
from gemlora.kernels.interface import Calls, Float32, Int32, Places
from gemlora.kernels.lora import EmbeddingPair, LoraPair, Segments, from_panels
from gemlora.kernels.matrix import SPREAD_DIVISOR, SPREAD_INPUTS, Matrix
from gemlora.kernels.reference_cache import load_keys, load_values, quantised, spread_queries, store
from gemlora.kernels.reference_sampling import sample_row
from gemlora.kernels.sampling import SamplingBatch, most_likely_of


class ReferenceKernels:
    """Implements `gemlora.kernels.Kernels`."""

    def record(self, calls: Calls, segments: Segments) -> Calls:
        """See `Kernels.record`."""
        calls(segments)
        return calls

    def linear(self, x: Float32, matrices: Sequence[Matrix], out: Float32) -> None:
        """See `Kernels.linear`."""
        start = 0
        for matrix in matrices:
            integer = matrix.format.bits is not None and matrix.quantize_activations
            product = integer_product(x, matrix) if integer else x @ matrix.dequantised().T
            out[:, start : start + matrix.rows] = product
            start += matrix.rows

    def most_likely(self, x: Float32, head: Matrix, softcap: float | None, tokens: Int32) -> None:
        """See `Kernels.most_likely`."""
        logits = np.empty((len(x), head.rows), np.float32)
        self.linear(x, (head,), logits)
        if softcap is not None:
            self.softcap(logits, softcap)
        tokens[:] = most_likely_of(logits)

    def embed(self, matrix: Matrix, tokens: Int32, scale: float, out: Float32) -> None:
        """See `Kernels.embed`."""
        out[:] = matrix.dequantised_rows(tokens) * np.float32(scale)

    def rms_norm(self, x: Float32, weight: Float32, epsilon: float, out: Float32) -> None:
        """See `Kernels.rms_norm`."""
        mean_square = np.mean(np.square(x), axis=-1, keepdims=True, dtype=np.float32)
        out[:] = x * (1 / np.sqrt(mean_square + np.float32(epsilon))) * weight

    def add_branch(
        self, stream: Float32, branch: Float32, branch_norm: Float32 | None, norm: Float32, epsilon: float,
        normed: Float32,
    ) -> None:  # fmt: skip
        """See `Kernels.add_branch`."""
        if branch_norm is not None:
            self.rms_norm(branch, branch_norm, epsilon, branch)
        stream += branch
        self.rms_norm(stream, norm, epsilon, normed)

    def rotate(
        self, queries: Float32, query_norm: Float32 | None, keys: Float32, key_norm: Float32 | None, epsilon: float,
        cosines: Float32, sines: Float32, positions: Int32,
    ) -> None:  # fmt: skip
        """See `Kernels.rotate`."""
        half = queries.shape[-1] // 2
        cosine, sine = cosines[positions][:, None], sines[positions][:, None]
        for x, norm in ((queries, query_norm), (keys, key_norm)):
            if norm is not None:
                self.rms_norm(x, norm, epsilon, x)
            first, second = x[..., :half].copy(), x[..., half:].copy()
            x[..., :half] = first * cosine - second * sine
            x[..., half:] = second * cosine + first * sine

    def store_kv(
        self, keys: Float32, values: Float32, cache: NDArray[np.generic], block_tables: Int32,
        sequence_of_row: Int32, positions: Int32,
    ) -> None:  # fmt: skip
        """See `Kernels.store_kv`."""
        size = cache.shape[3]
        store(cache, block_tables[sequence_of_row, positions // size], positions % size, keys, values)

    def attend(
        self, queries: Float32, cache: NDArray[np.generic], block_tables: Int32, sequence_of_row: Int32,
        positions: Int32, scale: float, window: int | None, softcap: float | None, out: Float32,
    ) -> None:  # fmt: skip
        """See `Kernels.attend`."""
        size, kv_heads, head_size = cache.shape[3], cache.shape[2], queries.shape[2]
        integers = cache.dtype == np.uint8
        for row, (sequence, position) in enumerate(zip(sequence_of_row, positions, strict=True)):
            first = 0 if window is None else max(0, int(position) - window + 1)
            seen = np.arange(first, int(position) + 1)
            blocks, places = block_tables[sequence, seen // size], seen % size
            keys, values = load_keys(cache, blocks, places), load_values(cache, blocks, places, head_size)
            heads = spread_queries(queries[row]) if integers else queries[row]
            grouped = heads.reshape(kv_heads, -1, keys.shape[2])
            scores = np.einsum("cgd,pcd->cgp", grouped, keys) * np.float32(scale)
            if softcap is not None:
                scores = _softcapped(scores, softcap)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            out[row] = np.einsum("cgp,pcd->cgd", weights, values).reshape(-1, head_size)

    def gelu_gate(self, gate_up: Float32, out: Float32) -> None:
        """See `Kernels.gelu_gate`."""
        half = gate_up.shape[1] // 2
        gate = gate_up[:, :half]
        inner = np.float32(np.sqrt(2 / np.pi)) * (gate + np.float32(0.044715) * gate**3)
        out[:] = np.float32(0.5) * gate * (1 + np.tanh(inner)) * gate_up[:, half:]

    def softcap(self, x: Float32, cap: float) -> None:
        """See `Kernels.softcap`."""
        x[:] = _softcapped(x, cap)

    def adapt(self, x: Float32, out: Float32, segments: Segments, layer: int, modules: Places) -> None:
        """See `Kernels.adapt`."""
        for rows, adapter in segments.runs():
            for module, column in modules:
                if (pair := adapter.pairs.get((layer, module))) is not None:
                    _add_low_rank(_lowered(x[rows], pair), pair, out[rows, column : column + pair.outputs])

    def adapt_head(self, x: Float32, out: Float32, segments: Segments) -> None:
        """See `Kernels.adapt_head`."""
        for rows, adapter in segments.runs():
            if (pair := adapter.head) is not None:
                _add_low_rank(_lowered(x[rows], pair), pair, out[rows])

    def adapt_embedding(self, tokens: Int32, scale: float, out: Float32, segments: Segments) -> None:
        """See `Kernels.adapt_embedding`."""
        for rows, adapter in segments.runs():
            if (pair := adapter.embedding) is not None:
                _add_low_rank(pair.a[tokens[rows]].astype(np.float32) * np.float32(scale), pair, out[rows])

    def row_norms(self, matrix: Matrix, left: Float32, right: Float32, out: Float32) -> None:
        """See `Kernels.row_norms`."""
        out[:] = np.linalg.norm(matrix.dequantised() + left @ right, axis=1)

    def column_norms(self, matrix: Matrix, left: Float32, right: Float32, out: Float32) -> None:
        """See `Kernels.column_norms`."""
        out[:] = np.linalg.norm(matrix.dequantised() + left @ right, axis=0)

    def sample(self, logits: Float32, batch: SamplingBatch) -> Int32:
        """See `Kernels.sample`."""
        return np.asarray([sample_row(logits[row], batch, row) for row in range(len(logits))], np.int32)


def _lowered(x: Float32, pair: LoraPair) -> Float32:
    return x @ from_panels(pair.a, pair.inputs).astype(np.float32).T


def _add_low_rank(low_rank: Float32, pair: LoraPair | EmbeddingPair, out: Float32) -> None:
    """out[T, N] = m · (out + scale · low_rank[T, r] · Bᵀ)"""
    out += (low_rank * np.float32(pair.scale)) @ from_panels(pair.b, pair.outputs).astype(np.float32)
    if pair.output_scale is not None:
        out *= pair.output_scale


def integer_product(x: Float32, matrix: Matrix) -> Float32:
    """x · Wᵀ with activations quantised per row and group; the dot product of a group is exact."""
    if matrix.scales is None:
        raise ValueError("an integer matrix needs scales")
    group, groups = matrix.group, matrix.inputs // matrix.group
    numbers, scales = quantise_activations(x, matrix)  # scales [T, K'/G]
    activations = numbers.reshape(len(x), groups, group).transpose(1, 0, 2)
    weights = matrix.quantised().astype(np.float32).reshape(-1, groups, group).transpose(1, 2, 0)
    sums = activations @ weights  # [K'/G, T, N'], integers below 2^24
    weight_scales = matrix.scales.reshape(-1, groups, 16).astype(np.float32).transpose(1, 0, 2).reshape(groups, 1, -1)
    product = (sums * (weight_scales * scales.T[..., None])).sum(axis=0, dtype=np.float64)
    if matrix.minimums is not None:
        minimums = matrix.minimums.reshape(-1, groups, 16).astype(np.float64).transpose(1, 0, 2).reshape(groups, -1)
        product -= (activations.sum(axis=2).T * scales) @ minimums
    rounded: Float32 = product[:, : matrix.rows].astype(np.float32)
    return rounded


def quantise_activations(x: Float32, matrix: Matrix) -> tuple[Float32, Float32]:
    """Whole numbers −127 … 127 [T, K'] and scales [T, K'/G] whose products are what the matrix multiplies: x, or x
    spread and divided by 16."""
    padded_x = np.zeros((len(x), matrix.inputs), np.float32)
    padded_x[:, : x.shape[1]] = x
    groups = padded_x.reshape(len(x), -1, matrix.group)
    if matrix.is_spread:
        numbers, scales = quantised(spread(groups))
        scales /= np.float32(SPREAD_INPUTS / SPREAD_DIVISOR)
    else:
        numbers, scales = quantised(groups)
    return numbers.reshape(len(x), -1), scales


def _softcapped(x: Float32, cap: float) -> Float32:
    capped: Float32 = np.float32(cap) * np.tanh(x / np.float32(cap))
    return capped
