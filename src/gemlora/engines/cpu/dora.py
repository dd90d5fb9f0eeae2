"""DoRA (Liu et al. 2024, arXiv:2402.09353): the magnitude over the norm of the changed weights, one factor per output.

y = m · (W x + s · B A x) with m = magnitude / ‖W + s · B A‖, the norm of each output's weights. The norms depend on the
base that is served, so they are computed when an adapter is packed.

Letters: N outputs, K inputs, r rank, V vocabulary, E width of the embedding.
"""

import numpy as np
from numpy.typing import NDArray

from gemlora.kernels import Kernels, Matrix

Float32 = NDArray[np.float32]


def output_scale(
    kernels: Kernels, base: Matrix, a: NDArray[np.generic], b: NDArray[np.generic], scale: float, magnitude: Float32
) -> Float32:
    """m [N] of a linear module: base [N, K], `a` [r, K], `b` [N, r], `magnitude` [N]."""
    norms = np.empty(base.rows, np.float32)
    kernels.row_norms(base, _scaled(b, scale), a.astype(np.float32), norms)
    return _quotient(magnitude, norms)


def embedding_output_scale(
    kernels: Kernels, base: Matrix, a: NDArray[np.generic], b: NDArray[np.generic], scale: float, magnitude: Float32
) -> Float32:
    """m [E] of the embedding, whose outputs are the columns of base [V, E]: `a` is [r, V], `b` [E, r],
    `magnitude` [E]."""
    norms = np.empty(base.columns, np.float32)
    kernels.column_norms(base, _scaled(a.T, scale), np.ascontiguousarray(b.T, np.float32), norms)
    return _quotient(magnitude, norms)


def _scaled(factors: NDArray[np.generic], scale: float) -> Float32:
    scaled: Float32 = np.ascontiguousarray(factors, np.float32) * np.float32(scale)
    return scaled


def _quotient(magnitude: Float32, norms: Float32) -> Float32:
    """Infinite or not a number where a norm is zero, which the caller refuses."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: Float32 = magnitude / norms
    return quotient
