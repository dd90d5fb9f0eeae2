"""Arrays that lie in memory as the kernels like them."""

import numpy as np

from gemlora.kernels.interface import Float32

CACHE_LINE = 64
"""Bytes."""


def aligned_rows(rows: int, columns: int) -> Float32:
    """An uninitialised array [rows, columns] whose rows begin with a cache line, an odd number of lines apart.

    Vectors that straddle lines, and rows a power of two apart, which share few places in a cache, halve the speed.
    """
    lines = -(-columns * 4 // CACHE_LINE) | 1
    memory = np.empty(rows * lines * CACHE_LINE + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    numbers = memory[start : start + rows * lines * CACHE_LINE].view(np.float32)
    return numbers.reshape(rows, lines * CACHE_LINE // 4)[:, :columns]
