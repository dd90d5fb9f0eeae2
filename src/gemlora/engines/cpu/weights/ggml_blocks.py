"""ggml's quantised blocks → 8-bit or 4-bit weights with scales and minimums, without loss.

Letters: B blocks. Every function takes raw blocks [B, bytes] and gives the three arrays of `Blocks`. The products of
scales are rounded to float32 once, as in ggml's own dequantisation (ggml-quants.c), so the weights are bit-equal.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from gemlora.engines.cpu.weights.checkpoint import Quantized, Storage

Bytes = NDArray[np.uint8]


class Blocks(NamedTuple):
    """w = scale · q − minimum. `q` holds a block's weights in their order; scales and minimums one number per group."""

    q: NDArray[Any]
    scales: NDArray[Any]
    minimums: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class BlockType:
    """How a quantised type is unpacked, and what comes out."""

    unpack: Callable[[Bytes], Blocks]
    storage: Storage


def unpack_rows(raw: Bytes, type_: GGMLQuantizationType) -> Quantized:
    """Raw rows [N, bytes] of a type in `BLOCK_TYPES`."""
    rows = len(raw)
    blocks = BLOCK_TYPES[type_].unpack(raw.reshape(-1, GGML_QUANT_SIZES[type_][1]))
    return Quantized(
        blocks.q.reshape(rows, -1).view(np.int8),
        blocks.scales.reshape(rows, -1),
        None if blocks.minimums is None else blocks.minimums.reshape(rows, -1),
    )


def _half(raw: Bytes, start: int) -> NDArray[np.float16]:
    """The float16 at byte `start` of every block, [B, 1]."""
    return np.ascontiguousarray(raw[:, start : start + 2]).view("<f2")


def _single(raw: Bytes, start: int) -> NDArray[np.float32]:
    return _half(raw, start).astype(np.float32)


def _nibbles(raw: Bytes, run: int) -> Bytes:
    """4-bit weights: of every `run` bytes first all low halves, then all high halves."""
    runs = raw.reshape(len(raw), -1, 1, run)
    return np.concatenate([runs & 0x0F, runs >> 4], axis=2).reshape(len(raw), -1)


def _fields(raw: Bytes, bits: int, run: int) -> Bytes:
    """Fields of `bits` bits: of every `run` bytes first all lowest fields, and so on."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8).reshape(1, 1, -1, 1)
    fields = (raw.reshape(len(raw), -1, 1, run) >> shifts) & np.uint8((1 << bits) - 1)
    return fields.reshape(len(raw), -1)


def _high_bits(raw: Bytes) -> Bytes:
    """The fifth bits of the 32 weights of a Q5_0 or Q5_1 block, as 0 or 16."""
    return np.unpackbits(raw, axis=1, bitorder="little") << np.uint8(4)


def _q4_0(raw: Bytes) -> Blocks:
    return Blocks(_nibbles(raw[:, 2:], 16).view(np.int8) - np.int8(8), _half(raw, 0))


def _q4_1(raw: Bytes) -> Blocks:
    return Blocks(_nibbles(raw[:, 4:], 16), _half(raw, 0), -_half(raw, 2))


def _q5_0(raw: Bytes) -> Blocks:
    q = _nibbles(raw[:, 6:], 16) | _high_bits(raw[:, 2:6])
    return Blocks(q.view(np.int8) - np.int8(16), _half(raw, 0))


def _q5_1(raw: Bytes) -> Blocks:
    return Blocks(_nibbles(raw[:, 8:], 16) | _high_bits(raw[:, 4:8]), _half(raw, 0), -_half(raw, 2))


def _q8_0(raw: Bytes) -> Blocks:
    return Blocks(raw[:, 2:].copy(), _half(raw, 0))


def _q2_k(raw: Bytes) -> Blocks:
    both = raw[:, :16]
    scales = _single(raw, 80) * (both & 0x0F).astype(np.float32)
    minimums = _single(raw, 82) * (both >> 4).astype(np.float32)
    return Blocks(_fields(raw[:, 16:80], 2, 32), scales, minimums)


def _q3_k(raw: Bytes) -> Blocks:
    low, high = _nibbles(raw[:, 96:104], 8), _fields(raw[:, 104:108], 2, 4)
    scales = _single(raw, 108) * ((low | high << 4).view(np.int8) - np.int8(32)).astype(np.float32)
    # A set bit of the mask means that 4 is not subtracted.
    missing = _fields(raw[:, :32], 1, 32) ^ 1
    return Blocks(_fields(raw[:, 32:96], 2, 32).view(np.int8) - (missing << 2).view(np.int8), scales)


def _packed_scales(raw: Bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Eight 6-bit scales and eight 6-bit minimums in twelve bytes, as in Q4_K and Q5_K; [B, 8] each."""
    first, second, rest = raw[:, :4], raw[:, 4:8], raw[:, 8:12]
    scales = np.concatenate([first & 0x3F, (rest & 0x0F) | (first >> 2 & 0x30)], axis=1)
    minimums = np.concatenate([second & 0x3F, (rest >> 4) | (second >> 2 & 0x30)], axis=1)
    return scales.astype(np.float32), minimums.astype(np.float32)


def _q4_k(raw: Bytes) -> Blocks:
    scales, minimums = _packed_scales(raw[:, 4:16])
    return Blocks(_nibbles(raw[:, 16:], 32), _single(raw, 0) * scales, _single(raw, 2) * minimums)


def _q5_k(raw: Bytes) -> Blocks:
    scales, minimums = _packed_scales(raw[:, 4:16])
    q = _nibbles(raw[:, 48:], 32) | _fields(raw[:, 16:48], 1, 32) << 4
    return Blocks(q, _single(raw, 0) * scales, _single(raw, 2) * minimums)


def _q6_k(raw: Bytes) -> Blocks:
    q = _nibbles(raw[:, :128], 64) | _fields(raw[:, 128:192], 2, 32) << 4
    scales = np.ascontiguousarray(raw[:, 192:208]).view(np.int8).astype(np.float32)
    return Blocks(q.view(np.int8) - np.int8(32), _single(raw, 208) * scales)


HALF, SINGLE = np.dtype(np.float16), np.dtype(np.float32)

BLOCK_TYPES: Mapping[GGMLQuantizationType, BlockType] = {
    GGMLQuantizationType.Q4_0: BlockType(_q4_0, Storage(HALF, 32, bits=4)),
    GGMLQuantizationType.Q4_1: BlockType(_q4_1, Storage(HALF, 32, minimums=True, bits=4)),
    GGMLQuantizationType.Q5_0: BlockType(_q5_0, Storage(HALF, 32)),
    GGMLQuantizationType.Q5_1: BlockType(_q5_1, Storage(HALF, 32, minimums=True)),
    GGMLQuantizationType.Q8_0: BlockType(_q8_0, Storage(HALF, 32)),
    GGMLQuantizationType.Q2_K: BlockType(_q2_k, Storage(SINGLE, 16, minimums=True)),
    GGMLQuantizationType.Q3_K: BlockType(_q3_k, Storage(SINGLE, 16)),
    GGMLQuantizationType.Q4_K: BlockType(_q4_k, Storage(SINGLE, 32, minimums=True, bits=4)),
    GGMLQuantizationType.Q5_K: BlockType(_q5_k, Storage(SINGLE, 32, minimums=True)),
    GGMLQuantizationType.Q6_K: BlockType(_q6_k, Storage(SINGLE, 16)),
}
