"""The Hadamard transform by which a few large numbers are spread over all, so that bytes with one scale hold them."""

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


def spread(x: Float32) -> Float32:
    """Sums and differences of all pairs whose indices differ in one bit, bit for bit: a Hadamard transform of
    x[…, P], in as many parts as P has odd factors. Applied twice it gives `squared_length(P)` · x."""
    longest = squared_length(x.shape[-1])
    parts = np.array(np.moveaxis(x.reshape(*x.shape[:-1], -1, longest), -1, 0), np.float32, order="C")
    step = 1
    while step < longest:  # the step's own axis comes first, so that long runs of numbers are added
        halves = parts.reshape(longest // (2 * step), 2, step, -1)
        first, second = halves[:, 0], halves[:, 1]
        difference = first - second
        first += second
        second[...] = difference
        step *= 2
    return np.moveaxis(parts, 0, -1).reshape(x.shape)


def squared_length(size: int) -> int:
    """The square of how much longer `spread` makes a vector: the largest power of two that divides `size`."""
    return size & -size
