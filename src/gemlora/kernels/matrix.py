"""A weight matrix in the kernels' packed layout, and how to pack one.

Letters: N outputs, K inputs, G inputs per group, P = ceil(N / 16) panels. A panel holds 16 outputs side by side so
that one vector register is one input (or four int8 inputs) of 16 outputs, and each lane sums its own output in the
order of K. Rows past N and inputs past K are zero.

    float formats   values [P, K', 16]             K' = K
    int8            values [P, K'/4, 16, 4]        K' = K rounded up to a multiple of 32, bytes are q + 128
                    scales [P, K'/G, 16]           float16 or float32; G is 16 or 32
                    minimums [P, K'/G, 16] or None w = scale · q − minimum
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

PANEL = 16
"""Outputs per panel."""

BIAS = 128
"""Added to int8 weights so that they are unsigned, as VNNI's dot product wants its first operand."""


class Format(IntEnum):
    """How the values of a matrix are stored."""

    FLOAT32 = 0
    BFLOAT16 = 1
    FLOAT16 = 2
    INT8 = 3


@dataclass(frozen=True, slots=True)
class Matrix:
    """A packed matrix of `rows` outputs and `columns` inputs; the arrays are usually memory-mapped.

    `quantize_activations` is only meaningful for int8: True multiplies int8 activations (a scale per row and group
    of 32), False multiplies float32 activations by the dequantised weights.
    """

    rows: int
    columns: int
    format: Format
    values: NDArray[np.uint8]
    scales: NDArray[np.float16] | NDArray[np.float32] | None = None
    minimums: NDArray[np.float16] | NDArray[np.float32] | None = None
    group: int = 0
    quantize_activations: bool = False
