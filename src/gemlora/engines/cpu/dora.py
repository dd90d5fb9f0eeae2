"""DoRA (Liu et al. 2024, arXiv:2402.09353): the magnitude over the norm of the changed weights, one factor per output.

y = m · (W x + s · B A x) with m = magnitude / ‖W + s · B A‖, the norm of each output's weights. The norms depend on the
base that is served, so they are computed when an adapter is packed.

Letters: N outputs, K inputs, r rank, V vocabulary, E width of the embedding.
"""

import numpy as np
from numpy.typing import NDArray

from gemlora.kernels import Matrix

ROWS = 1024
"""Rows of the base that are unpacked at a time."""

Float32 = NDArray[np.float32]


def output_scale(
    base: Matrix, a: NDArray[np.generic], b: NDArray[np.generic], scale: float, magnitude: Float32
) -> Float32:
    """m [N] of a linear module: base [N, K], `a` [r, K], `b` [r, N] (B transposed), `magnitude` [N]."""
    norms = np.empty(base.rows, np.float32)
    inputs = a.astype(np.float32) * np.float32(scale)
    for start in range(0, base.rows, ROWS):
        rows = np.arange(start, min(start + ROWS, base.rows))
        changed = base.dequantised_rows(rows) + b[:, rows].astype(np.float32).T @ inputs
        norms[rows] = np.sqrt(np.square(changed, dtype=np.float64).sum(axis=1))
    return _quotient(magnitude, norms)


def embedding_output_scale(
    base: Matrix, a: NDArray[np.generic], b: NDArray[np.generic], scale: float, magnitude: Float32
) -> Float32:
    """m [E] of the embedding, whose outputs are the columns of base [V, E]: `a` is [V, r] (A transposed), `b` [r, E]
    (B transposed), `magnitude` [E]."""
    squares = np.zeros(base.columns, np.float64)
    outputs = b.astype(np.float32) * np.float32(scale)
    for start in range(0, base.rows, ROWS):
        rows = np.arange(start, min(start + ROWS, base.rows))
        changed = base.dequantised_rows(rows) + a[rows].astype(np.float32) @ outputs
        squares += np.square(changed, dtype=np.float64).sum(axis=0)
    return _quotient(magnitude, np.sqrt(squares).astype(np.float32))


def _quotient(magnitude: Float32, norms: Float32) -> Float32:
    """Infinite or not a number where a norm is zero, which the caller refuses."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: Float32 = magnitude / norms
    return quotient
