"""The paged cache in NumPy: what `store_kv` writes, and what `attend` reads there.

P is the padded size of a head of whole numbers.
"""

import numpy as np
from numpy.typing import NDArray

from gemlora.kernels.cache import padded
from gemlora.kernels.hadamard import spread, squared_length
from gemlora.kernels.interface import Float32, Int32

Cache = NDArray[np.generic]


def store(cache: Cache, blocks: Int32, places: Int32, keys: Float32, values: Float32) -> None:
    """Write keys and values [T, C, D] to places [T] of blocks [T]."""
    if cache.dtype == np.uint8:
        numbers, scales = quantised(spread(_padded(keys)))
        cached, cached_scales = _integer_keys(cache)
        cached[blocks, :, :, places] = (numbers + 128).astype(np.uint8).reshape(*numbers.shape[:2], -1, 4)
        cached_scales[blocks, :, places] = scales
        numbers, scales = quantised(_padded(values))
        cached, cached_scales = _integer_values(cache)
        cached[blocks, :, places // 4, :, places % 4] = numbers.astype(np.int8).view(np.uint8)
        cached_scales[blocks, :, places] = scales
    else:
        _float_keys(cache)[blocks, :, :, places] = keys
        cache[blocks, 1, :, places] = values


def load_keys(cache: Cache, blocks: Int32, places: Int32) -> Float32:
    """The keys [T, C, D] at places of blocks; those of whole numbers are spread, [T, C, P]."""
    if cache.dtype != np.uint8:
        return _float_keys(cache)[blocks, :, :, places]
    cached, scales = _integer_keys(cache)
    biased: Float32 = cached[blocks, :, :, places].reshape(len(blocks), cache.shape[2], -1).astype(np.float32)
    keys: Float32 = (biased - np.float32(128)) * scales[blocks, :, places][..., None]
    return keys


def load_values(cache: Cache, blocks: Int32, places: Int32, head_size: int) -> Float32:
    """The values [T, C, D] at places of blocks."""
    if cache.dtype != np.uint8:
        return cache[blocks, 1, :, places].astype(np.float32)
    cached, scales = _integer_values(cache)
    numbers = cached[blocks, :, places // 4, :, places % 4].view(np.int8).astype(np.float32)
    whole: Float32 = numbers * scales[blocks, :, places][..., None]
    return whole[..., :head_size]


def spread_queries(queries: Float32) -> Float32:
    """Queries [H, D] as they meet the keys of a cache of whole numbers: [H, P], so that q · k stays the same."""
    numbers, scales = quantised(spread(_padded(queries)))
    return numbers * (scales / np.float32(squared_length(numbers.shape[-1])))[..., None]


def _padded(heads: Float32) -> Float32:
    result = np.zeros((*heads.shape[:-1], padded(heads.shape[-1])), np.float32)
    result[..., : heads.shape[-1]] = heads
    return result


def quantised(x: Float32) -> tuple[Float32, Float32]:
    """Whole numbers −127 … 127 like x[…, P] and scales […] with x ≈ number · scale."""
    largest = np.abs(x).max(axis=-1, keepdims=True)
    usable = (largest >= 2.0**-100) & np.isfinite(largest)  # else all zeros; what is not finite reaches the scale
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=usable)
    return np.rint(np.where(usable, x, 0) * inverse), largest[..., 0] / np.float32(127)


def _float_keys(cache: Cache) -> Float32:
    """[blocks, C, D, block size]"""
    blocks, _, kv_heads, size, head_size = cache.shape
    keys: Float32 = cache[:, 0].view(np.float32)
    keys.shape = (blocks, kv_heads, head_size, size)
    return keys


def _integer_keys(cache: Cache) -> tuple[NDArray[np.uint8], Float32]:
    """Biased by 128 [blocks, C, P / 4, block size, 4], and scales [blocks, C, block size]."""
    numbers, scales = _numbers_and_scales(cache[:, 0])
    numbers.shape = (*numbers.shape[:2], -1, cache.shape[3], 4)
    return numbers, scales


def _integer_values(cache: Cache) -> tuple[NDArray[np.uint8], Float32]:
    """As int8 [blocks, C, block size / 4, P, 4], and scales [blocks, C, block size]."""
    numbers, scales = _numbers_and_scales(cache[:, 1])
    numbers.shape = (*numbers.shape[:2], cache.shape[3] // 4, -1, 4)
    return numbers, scales


def _numbers_and_scales(heads: Cache) -> tuple[NDArray[np.uint8], Float32]:
    blocks, kv_heads, size, bytes_per_position = heads.shape
    flat: NDArray[np.uint8] = heads.view(np.uint8)
    flat.shape = (blocks, kv_heads, size * bytes_per_position)
    end = size * (bytes_per_position - 4)
    return flat[..., :end], flat[..., end:].view(np.float32)
