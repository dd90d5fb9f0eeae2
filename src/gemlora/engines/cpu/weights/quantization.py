"""Which matrices become 8 bits (128 spread weights share a scale) and which 4 bits (32 share a scale and a minimum),
and how they are rounded.

With 8 bits the scale is amax / 127: on normally distributed weights the best of four scales would leave 6 % less mean
squared error and take three times as long. With 4 bits the best of a few fits is kept, which leaves 42 % less than
amax / 7; without minimums the best scales leave 21 % more error, on the starter weights 44 % more.
"""

from collections.abc import Iterator, Mapping
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.cpu.weights.checkpoint import Floats, Quantized, Storage, Tensor, dequantised
from gemlora.engines.cpu.weights.folder import Quantize
from gemlora.kernels.hadamard import spread
from gemlora.kernels.matrix import SPREAD_DIVISOR, SPREAD_INPUTS

Float32 = NDArray[np.float32]
Float16 = NDArray[np.float16]

GROUP = 32
"""Weights of 4 bits that share a scale and a minimum."""

EIGHT_BITS = Storage(np.dtype(np.float16), SPREAD_INPUTS)
FOUR_BITS = Storage(np.dtype(np.float16), GROUP, minimums=True, bits=4)

VOCABULARY_MATRICES = ("embedding", "head")
"""Their floats become 8 bits, never 4: on the starter weights four would add 0.07 nats to a divergence of 0.18, see
docs/quality.md."""

LARGEST = 127
"""Of the whole numbers of 8 bits; the smallest is −127."""

STEPS = 15
REACHES = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Shares of the range from the smallest to the largest weight that the 16 numbers of 4 bits span before the fit."""


def storages(tensors: Mapping[str, Tensor], quantize: Quantize) -> dict[str, Storage]:
    """How every matrix is kept."""
    matrices = {name: tensor for name, tensor in tensors.items() if len(tensor.shape) > 1}
    keep_four = quantize == "int4" or _mostly_four_bits(matrices)
    return {name: _storage(name, tensor.storage, quantize, keep_four) for name, tensor in matrices.items()}


def _storage(name: str, stored: Storage, quantize: Quantize, keep_four: bool) -> Storage:
    if quantize == "none" or (stored.bits == 4 and keep_four):
        return stored
    if quantize == "int4" and stored.group is None and name not in VOCABULARY_MATRICES:
        return FOUR_BITS
    return EIGHT_BITS


def _mostly_four_bits(matrices: Mapping[str, Tensor]) -> bool:
    """Whether the layers would become nearly twice as large if no tensor stayed in 4 bits."""
    layers = [tensor for name, tensor in matrices.items() if name not in VOCABULARY_MATRICES]
    four = sum(prod(tensor.shape) for tensor in layers if tensor.storage.bits == 4)
    return 2 * four > sum(prod(tensor.shape) for tensor in layers)


def spread_rows(weights: Floats | Quantized) -> Quantized:
    """[N, K] as a spread matrix holds them: q [N, K'] and scales [N, K'/128] of the spread weights.

    Scales that do not fit float16 come out infinite or not a number.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        groups = spread(_groups(dequantised(weights), SPREAD_INPUTS))
        groups /= SPREAD_DIVISOR
        scales = _scales(groups)
        q = _rounded(groups, scales.astype(np.float32), -LARGEST, LARGEST).astype(np.int8)
    return Quantized(q.reshape(len(q), -1), scales[..., 0])


def _scales(groups: Float32) -> Float16:
    """[N, G, 1] of groups [N, G, 128]: 127 steps reach the largest number, or fall short of it by half a step."""
    largest = np.maximum(groups.max(axis=-1, keepdims=True), -groups.min(axis=-1, keepdims=True))
    scales: Float16 = (largest / np.float32(LARGEST)).astype(np.float16)
    short = scales.astype(np.float32) * np.float32(LARGEST + 0.5) < largest
    np.nextafter(scales, np.float16(np.inf), out=scales, where=short)
    return scales


def quantize_rows(weights: Floats) -> Quantized:
    """[N, K] to 4 bits. Scales and minimums that do not fit float16 come out infinite."""
    rows, columns = weights.shape
    groups = _groups(weights.astype(np.float32), GROUP).reshape(-1, GROUP)
    with np.errstate(over="ignore", invalid="ignore"):
        q, scales, minimums = _best(groups, _fits(groups))
    return Quantized(q.reshape(rows, -1)[:, :columns], scales.reshape(rows, -1), minimums.reshape(rows, -1))


class Fit(NamedTuple):
    """w ≈ scale · q − minimum: whole numbers q [groups, 32], the others [groups, 1]."""

    q: Float32
    scale: Float16
    minimum: Float16

    def squared_error(self, groups: Float32) -> Float32:
        """Σ (w − (scale · q − minimum))² of each group, [groups, 1]."""
        error = groups - self.q * self.scale.astype(np.float32) + self.minimum.astype(np.float32)
        squares: Float32 = np.einsum("gk,gk->g", error, error)
        return squares[:, None]


def _best(groups: Float32, fits: Iterator[Fit]) -> tuple[NDArray[np.int8], Float16, Float16]:
    """The q, scales and minimums with the least squared error, group by group."""
    first = next(fits)
    q, scales, minimums = first.q.astype(np.int8), first.scale, first.minimum
    least = first.squared_error(groups)
    for fit in fits:
        error = fit.squared_error(groups)
        better = error < least
        np.copyto(least, error, where=better)
        np.copyto(q, fit.q, where=better, casting="unsafe")
        np.copyto(scales, fit.scale, where=better)
        np.copyto(minimums, fit.minimum, where=better)
    return q, scales, minimums


def _fits(groups: Float32) -> Iterator[Fit]:
    """Whole numbers in 0 … 15, then the scale and minimum that fit them best."""
    low, high = groups.min(axis=1, keepdims=True), groups.max(axis=1, keepdims=True)
    middle, half = (high + low) / 2, (high - low) / 2
    sums = groups.sum(axis=1, keepdims=True)
    for reach in REACHES:
        start = half * np.float32(reach) - middle
        scale = half * np.float32(2 * reach / STEPS)
        q = _rounded(groups + start, scale, 0, STEPS)
        yield _least_squares(groups, sums, q)


def _least_squares(groups: Float32, sums: Float32, q: Float32) -> Fit:
    """The straight line from q to the weights; `sums` [groups, 1] are those of the weights."""
    q_sums = q.sum(axis=1, keepdims=True)
    q_squares = np.einsum("gk,gk->g", q, q)[:, None]
    products = np.einsum("gk,gk->g", groups, q)[:, None]
    variance = GROUP * q_squares - q_sums * q_sums  # exact, and 0 where all q are one
    slope = GROUP * products - q_sums * sums
    scale = np.divide(slope, variance, out=np.zeros_like(slope), where=variance != 0)
    return Fit(q, scale.astype(np.float16), ((scale * q_sums - sums) / GROUP).astype(np.float16))


def _groups(weights: Float32, size: int) -> Float32:
    """[N, K] as [N, ceil(K / size), size], filled up with zeros."""
    missing = -weights.shape[1] % size
    filled = np.pad(weights, ((0, 0), (0, missing))) if missing else weights
    return filled.reshape(len(weights), -1, size)


def _rounded(groups: Float32, scale: Float32, lowest: int, highest: int) -> Float32:
    """Whole numbers in lowest … highest."""
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    scaled = groups * inverse
    return np.clip(np.rint(scaled, out=scaled), lowest, highest, out=scaled)
