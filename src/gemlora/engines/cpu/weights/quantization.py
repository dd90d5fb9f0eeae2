"""Which matrices become 8 bits and which 4, and how they are rounded: 128 spread weights share a scale.

With 8 bits the scale is amax / 127: on normally distributed weights the best of four scales would leave 6 % less mean
squared error and take three times as long. With 4 bits the weights take the nearest of 16 levels that are best for a
normal distribution, and the best of a few scales is kept, which leaves 12 % less than the distribution's own scale.
"""

from collections.abc import Iterator, Mapping
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.cpu.weights.checkpoint import Floats, Quantized, Storage, Tensor, dequantised
from gemlora.engines.cpu.weights.folder import Quantize
from gemlora.kernels.hadamard import spread
from gemlora.kernels.matrix import LEVELS, SPREAD_DIVISOR, SPREAD_INPUTS

Float32 = NDArray[np.float32]
Float16 = NDArray[np.float16]

EIGHT_BITS = Storage(np.dtype(np.float16), SPREAD_INPUTS)
FOUR_BITS = Storage(np.dtype(np.float16), SPREAD_INPUTS, bits=4)

VOCABULARY_MATRICES = ("embedding", "head")
"""Their floats become 8 bits, never 4: on the starter weights four bits, fitted to each 32, added 0.07 nats to a
divergence of 0.18."""

LARGEST = 127
"""Of the whole numbers; the smallest is −127."""

DEVIATION = 46.5
"""Of normally distributed numbers for which `LEVELS` are best."""

REACHES = (1.0, 0.9, 1.1, 0.8, 1.2)
"""Multiples of the normal distribution's scale from which a fit starts."""

_MIDDLES = np.arange(256, dtype=np.uint8).view(np.int8) + np.float32(0.5)
_NEAREST = LEVELS[(np.abs(_MIDDLES[:, None] - LEVELS) + np.abs(LEVELS) / 1000).argmin(axis=1)]
"""The level that is nearest to most numbers from n to n + 1, by the byte of n; the smaller one where two are, lest the
levels have a mean, which the transform would put into one weight of each 128."""


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


def spread_rows(weights: Floats | Quantized, bits: int = 8) -> Quantized:
    """[N, K] as a spread matrix holds them: q [N, K'] and scales [N, K'/128] of the spread weights.

    Scales that do not fit float16 come out infinite or not a number.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        groups = spread(_groups(dequantised(weights)))
        groups /= SPREAD_DIVISOR
        q, scales = _eight_bits(groups) if bits == 8 else _four_bits(groups)
    return Quantized(q.reshape(len(q), -1), scales[..., 0])


def _eight_bits(groups: Float32) -> tuple[NDArray[np.int8], Float16]:
    """Whole numbers [N, G, 128] and scales [N, G, 1]."""
    scales = _scales(groups)
    scaled = _scaled(groups, scales.astype(np.float32))
    return np.rint(scaled, out=scaled).astype(np.int8), scales


def _scales(groups: Float32) -> Float16:
    """[N, G, 1] of groups [N, G, 128]: 127 steps reach the largest number, or fall short of it by half a step."""
    largest = np.maximum(groups.max(axis=-1, keepdims=True), -groups.min(axis=-1, keepdims=True))
    scales: Float16 = (largest / np.float32(LARGEST)).astype(np.float16)
    short = scales.astype(np.float32) * np.float32(LARGEST + 0.5) < largest
    np.nextafter(scales, np.float16(np.inf), out=scales, where=short)
    return scales


def _four_bits(groups: Float32) -> tuple[NDArray[np.int8], Float16]:
    """Levels [N, G, 128] and scales [N, G, 1] with the least squared error of a few fits, group by group."""
    fits = _fits(groups)
    q, scales = first = next(fits)
    least = first.squared_error(groups)
    for fit in fits:
        error = fit.squared_error(groups)
        better = error < least
        np.copyto(least, error, where=better)
        np.copyto(q, fit.q, where=better)
        np.copyto(scales, fit.scales, where=better)
    return q, scales


class Fit(NamedTuple):
    """w ≈ scale · q: levels q [N, G, 128], scales [N, G, 1]."""

    q: NDArray[np.int8]
    scales: Float16

    def squared_error(self, groups: Float32) -> Float32:
        """Σ (w − scale · q)² of each group, [N, G, 1]."""
        return _sums_of_squares(groups - self.q * self.scales.astype(np.float32))


def _fits(groups: Float32) -> Iterator[Fit]:
    """The levels nearest to the weights by some scales, each with the scale that then fits best."""
    deviation = np.sqrt(_sums_of_squares(groups) / SPREAD_INPUTS)
    for reach in REACHES:
        scaled = _scaled(groups, deviation * np.float32(reach / DEVIATION))
        q = _NEAREST[np.floor(scaled, out=scaled).astype(np.int8).view(np.uint8)]
        levels = q.astype(np.float32)
        products = np.einsum("ngk,ngk->ng", groups, levels)[..., None]
        yield Fit(q, (products / _sums_of_squares(levels)).astype(np.float16))


def _sums_of_squares(groups: Float32) -> Float32:
    sums: Float32 = np.einsum("ngk,ngk->ng", groups, groups)[..., None]
    return sums


def _groups(weights: Float32) -> Float32:
    """[N, K] as [N, ceil(K / 128), 128], filled up with zeros."""
    missing = -weights.shape[1] % SPREAD_INPUTS
    filled = np.pad(weights, ((0, 0), (0, missing))) if missing else weights
    return filled.reshape(len(weights), -1, SPREAD_INPUTS)


def _scaled(groups: Float32, scales: Float32) -> Float32:
    """The groups in units of their scales, at most 127 of them."""
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    scaled = groups * inverse
    return np.clip(scaled, -LARGEST, LARGEST, out=scaled)
