"""The kernels' contract. `native.py` implements it over the C++ library, `reference.py` in NumPy.

Letters: T rows (tokens), K inputs, N outputs, H query heads, C key/value heads, D head size, S sequences,
V vocabulary. All activations are float32. Row strides are free, the last dimension is contiguous.

**Order of sums.** What a kernel computes for a row depends on that row alone, bit for bit: not on T, not on the other
rows, not on the number of threads, not on the instruction set.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gemlora.kernels.lora import Segments
from gemlora.kernels.matrix import Matrix
from gemlora.kernels.sampling import SamplingBatch

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

Places = Sequence[tuple[str, int]]
"""Modules, each with the first column of its outputs; they follow one another from column 0 on."""

Calls = Callable[[Segments], None]
"""Calls of kernels, of which those for adapters get these segments."""


class Kernels(Protocol):
    """One set of kernels with its threads."""

    def record(self, calls: Calls, segments: Segments) -> Calls:
        """Make calls of these kernels, and return what makes them again, perhaps faster: with the same arrays, whatever
        these hold by then, and with other segments.

        Only kernels that write into arrays may be called, but for norms of matrices, and by nobody else meanwhile.
        """
        ...

    def linear(self, x: Float32, matrices: Sequence[Matrix], out: Float32) -> None:
        """out[T, N1 + N2 + …] = x[T, K] · Wᵀ for several matrices that share their input, side by side."""
        ...

    def most_likely(self, x: Float32, head: Matrix, softcap: float | None, tokens: Int32) -> None:
        """tokens[T] = what `linear`, `softcap` if given and a greedy `sample` would say of x[T, K], without writing the
        logits."""
        ...

    def embed(self, matrix: Matrix, tokens: Int32, scale: float, out: Float32) -> None:
        """out[T, K] = scale · row `token` of the (dequantised) matrix."""
        ...

    def rms_norm(self, x: Float32, weight: Float32, epsilon: float, out: Float32) -> None:
        """out = x / sqrt(mean(x²) + epsilon) · weight over the last dimension.

        `x` and `out` are [T, K] or [T, H, D]; they may be the same array. `weight` already contains Gemma's 1 +.
        """
        ...

    def add_branch(
        self, stream: Float32, branch: Float32, branch_norm: Float32 | None, norm: Float32, epsilon: float,
        normed: Float32,
    ) -> None:  # fmt: skip
        """stream += branch, after `rms_norm` with `branch_norm` if given; normed = rms_norm(stream, norm). All [T, K].

        `branch` is overwritten.
        """
        ...

    def rotate(
        self, queries: Float32, query_norm: Float32 | None, keys: Float32, key_norm: Float32 | None, epsilon: float,
        cosines: Float32, sines: Float32, positions: Int32,
    ) -> None:  # fmt: skip
        """Apply rotary embedding to queries [T, H, D] and keys [T, C, D] in place, after `rms_norm` of each head with
        the norms [D] if given.

        Halves are paired as (i, i + D/2). `cosines` and `sines` are tables [context, D/2] indexed by position.
        """
        ...

    def store_kv(
        self, keys: Float32, values: Float32, cache: NDArray[np.generic], block_tables: Int32,
        sequence_of_row: Int32, positions: Int32,
    ) -> None:  # fmt: skip
        """Write keys and values [T, C, D] of one layer into its paged cache.

        `cache` is [blocks, 2, C, block size, N], float32 or uint8 for whole numbers, with N as `cached_numbers` says;
        only its blocks need to be contiguous.
        Row t goes to block `block_tables[sequence_of_row[t], position // block size]`. How numbers lie inside a block
        is the kernels' affair; the block size is a multiple of 16.
        """
        ...

    def attend(
        self, queries: Float32, cache: NDArray[np.generic], block_tables: Int32, sequence_of_row: Int32,
        positions: Int32, scale: float, window: int | None, softcap: float | None, out: Float32,
    ) -> None:  # fmt: skip
        """Causal attention of queries [T, H, D] over the paged cache; out is [T, H, D].

        Row t sees cached positions max(0, p − window + 1) … p with p = positions[t]. The score is scale · q·k, then
        softcap · tanh(score / softcap) if given, then softmax. Query head h reads key/value head h // (H / C).
        With a cache of whole numbers the queries, and the weights of the softmax, become whole numbers too.
        """
        ...

    def gelu_gate(self, gate_up: Float32, out: Float32) -> None:
        """out[T, F] = gelu_tanh(gate_up[:, :F]) · gate_up[:, F:]."""
        ...

    def softcap(self, x: Float32, cap: float) -> None:
        """x = cap · tanh(x / cap), in place."""
        ...

    def adapt(self, x: Float32, out: Float32, segments: Segments, layer: int, modules: Places) -> None:
        """out[T, N] += scale · B (A x) for the rows of each segment, for the modules that its adapter changes.

        The outputs of several modules with the same input lie side by side in `out`. With DoRA the sum is then
        multiplied by the adapter's output scale. Rows without an adapter, and adapters without a module, are left
        untouched bit for bit.
        """
        ...

    def adapt_head(self, x: Float32, out: Float32, segments: Segments) -> None:
        """As `adapt`, for the output head: x[R, E] is what the head reads, out[R, V] its logits."""
        ...

    def adapt_embedding(self, tokens: Int32, scale: float, out: Float32, segments: Segments) -> None:
        """As `adapt`, for what `embed` wrote with the same tokens [T] and scale: out[T, E] += scale · B A[:, token]."""
        ...

    def row_norms(self, matrix: Matrix, left: Float32, right: Float32, out: Float32) -> None:
        """out[N] = the norms of the rows of W + left · right: the (dequantised) weights [N, K] with low-rank changes.

        `left` is [N, r] and `right` is [r, K].
        """
        ...

    def column_norms(self, matrix: Matrix, left: Float32, right: Float32, out: Float32) -> None:
        """out[K] = the norms of the columns of what `row_norms` describes."""
        ...

    def sample(self, logits: Float32, batch: SamplingBatch) -> Int32:
        """Draw one token per row of logits [R, V] (which it may overwrite); −1 marks a row without finite logits."""
        ...
