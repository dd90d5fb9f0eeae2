"""What lies in the paged cache of keys and values: float32 numbers, or whole numbers with a scale per position.

A cache is an array [blocks, 2, C, block size, numbers per position]. As uint8 a position takes one byte per number,
padded to a multiple of 32, and four for a float32 scale. Its key is stored after a Hadamard transform, which spreads
the few large numbers of keys over all of them; queries are transformed alike when they meet it.
"""

import numpy as np
from numpy.typing import DTypeLike

GROUP = 32
"""Whole numbers of a head are padded to a multiple of this."""


def padded(head_size: int) -> int:
    """Whole numbers that hold a head."""
    return -(-head_size // GROUP) * GROUP


def cached_numbers(head_size: int, dtype: DTypeLike) -> int:
    """Numbers per position and head of a cache, its last dimension; `dtype` is uint8 or float32."""
    return padded(head_size) + np.dtype(np.float32).itemsize if np.dtype(dtype) == np.uint8 else head_size
