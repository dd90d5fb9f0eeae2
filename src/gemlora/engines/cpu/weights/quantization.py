"""Floats → 8-bit weights with a float16 scale for every 32 of a row, or 4-bit ones with a scale and a minimum.

Rounding leaves an error that depends on the exact numbers, so a few are tried and those with the least squared error
are kept. On normally distributed weights that is 14 % less mean squared error than amax / 127 alone with 8 bits, and
with 4 bits 42 % less than amax / 7. Without minimums the best scales leave 21 % more error, on the starter weights
44 % more.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.cpu.weights.checkpoint import Floats, Quantized, Storage
from gemlora.engines.cpu.weights.folder import Quantize

Float32 = NDArray[np.float32]
Float16 = NDArray[np.float16]

GROUP = 32
EIGHT_BITS = Storage(np.dtype(np.float16), GROUP)
FOUR_BITS = Storage(np.dtype(np.float16), GROUP, minimums=True, bits=4)

VOCABULARY_MATRICES = ("embedding", "head")
"""Always of 8 bits: on the starter weights four would add 0.07 nats to a divergence of 0.18, see docs/quality.md."""

LARGEST = 127
TRIED = (127.0, 126.0, 125.0, 124.0)
"""amax is divided by each of these; the largest weight becomes the number itself, so none is cut off."""

STEPS = 15
REACHES = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Shares of the range from the smallest to the largest weight that the 16 numbers of 4 bits span before the fit."""


def storage(name: str, stored: Storage, quantize: Quantize) -> Storage:
    """How the matrix `name` is kept; one that is quantised already stays as it is."""
    if quantize == "none" or stored.group is not None:
        return stored
    return FOUR_BITS if quantize == "int4" and name not in VOCABULARY_MATRICES else EIGHT_BITS


def quantize_rows(weights: Floats, bits: int) -> Quantized:
    """[N, K] to 8 or 4 bits. Scales and minimums that do not fit float16 come out infinite."""
    rows, columns = weights.shape
    padded = np.zeros((rows, -(-columns // GROUP) * GROUP), np.float32)
    padded[:, :columns] = weights
    groups = padded.reshape(-1, GROUP)
    with np.errstate(over="ignore", invalid="ignore"):
        q, scales, minimums = _best(groups, FITS[bits](groups))
    return Quantized(
        q.reshape(rows, -1)[:, :columns],
        scales.reshape(rows, -1),
        None if minimums is None else minimums.reshape(rows, -1),
    )


class Fit(NamedTuple):
    """w ≈ scale · q − minimum: whole numbers q [groups, 32], the others [groups, 1]."""

    q: Float32
    scale: Float16
    minimum: Float16 | None = None

    def squared_error(self, groups: Float32) -> Float32:
        """Σ (w − (scale · q − minimum))² of each group, [groups, 1]."""
        error = groups - self.q * self.scale.astype(np.float32)
        if self.minimum is not None:
            error += self.minimum.astype(np.float32)
        squares: Float32 = np.einsum("gk,gk->g", error, error)
        return squares[:, None]


def _best(groups: Float32, fits: Iterator[Fit]) -> tuple[NDArray[np.int8], Float16, Float16 | None]:
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
        if minimums is not None and fit.minimum is not None:
            np.copyto(minimums, fit.minimum, where=better)
    return q, scales, minimums


def _symmetric(groups: Float32) -> Iterator[Fit]:
    """8 bits: whole numbers in −127 … 127."""
    largest = np.maximum(groups.max(axis=1, keepdims=True), -groups.min(axis=1, keepdims=True))
    for divisor in TRIED:
        scale = (largest / np.float32(divisor)).astype(np.float16)
        yield Fit(_rounded(groups, scale.astype(np.float32), -LARGEST, LARGEST), scale)


def _with_minimums(groups: Float32) -> Iterator[Fit]:
    """4 bits: whole numbers in 0 … 15, then the scale and minimum that fit them best."""
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
    spread = GROUP * q_squares - q_sums * q_sums  # exact, and 0 where all q are one
    slope = GROUP * products - q_sums * sums
    scale = np.divide(slope, spread, out=np.zeros_like(slope), where=spread != 0)
    return Fit(q, scale.astype(np.float16), ((scale * q_sums - sums) / GROUP).astype(np.float16))


def _rounded(groups: Float32, scale: Float32, lowest: int, highest: int) -> Float32:
    """Whole numbers in lowest … highest."""
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    scaled = groups * inverse
    return np.clip(np.rint(scaled, out=scaled), lowest, highest, out=scaled)


FITS: Mapping[int, Callable[[Float32], Iterator[Fit]]] = {8: _symmetric, 4: _with_minimums}
"""What is tried, by the bits of a weight."""
