"""A weight matrix in the kernels' packed layout, and how to pack one.

Letters: N outputs, K inputs, G inputs per group, P = ceil(N / 16) panels. A panel holds 16 outputs side by side so
that one vector register is one input (or four int8 inputs) of 16 outputs, and each lane sums its own output in the
order of K. Rows past N and inputs past K are zero; in a spread matrix they were so before it was spread.

    float formats   values [P, K', 16]             K' = K
    int8            values [P, K'/4, 16, 4]        K' = K rounded up to a multiple of 32, bytes are q + 128
    int4            values [P, K'/8, 16, 4]        the low halves of four bytes are the first four of eight inputs;
                                                   they are q + 8, or q itself where there are minimums
    both            scales [P, K'/G, 16]           float16 or float32; G is 32, or 16 with int8
                    minimums [P, K'/G, 16] or None of the scales' type
                                                   w = scale · q − minimum, each operation rounded to float32
    spread          as int8 or int4                K' = K rounded up to a multiple of G = 128, no minimums;
                                                   w = spread(scale · q) / 16 of each 128 inputs; with int4 q is one of
                                                   `LEVELS`, and its place among them is stored

In a spread matrix each 128 inputs of weights and activations are replaced by their sums and differences
(`hadamard.spread`), which leaves the products as they were, times 128. Large weights and activations are then spread
over all 128, so that they can share a scale: with scales for 32 inputs an 8-bit product takes a third as many
operations on floats as on bytes. What is spread is distributed normally, so that the same 16 levels fit all weights.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gemlora.kernels.hadamard import spread

PANEL = 16
"""Outputs per panel."""

BLOCK = 32
"""Inputs of an integer matrix are padded to a multiple of this."""

SPREAD_INPUTS = 128
"""Inputs of a spread matrix that are spread over each other and share a scale; its inputs are padded to a multiple."""

SPREAD_DIVISOR = 8.0
"""Spread weights are divided by this before they are quantised, and what is dequantised by 128 / this."""

LEVELS = np.array([-127, -96, -75, -58, -44, -31, -18, -6, 6, 18, 31, 44, 58, 75, 96, 127], np.int8)
"""What the weights of a spread int4 matrix can be: the 16 numbers with the least mean squared error for normally
distributed ones (Max, "Quantizing for minimum distortion", 1960), as parts of 127."""

_PLACES = np.full(256, 255, np.uint8)
_PLACES[LEVELS.view(np.uint8)] = np.arange(len(LEVELS), dtype=np.uint8)
"""A level's place among them by its byte; 255 for other numbers."""

Scales = NDArray[np.float16] | NDArray[np.float32]


class Format(IntEnum):
    """How the values of a matrix are stored."""

    FLOAT32 = 0
    BFLOAT16 = 1
    FLOAT16 = 2
    INT8 = 3
    INT4 = 4

    @property
    def bits(self) -> int | None:
        """Of the whole numbers of an integer matrix; None for floats."""
        return {Format.INT8: 8, Format.INT4: 4}.get(self)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The NumPy type of one stored value, or of two with int4."""
        return _DTYPES[self]

    def panel_bytes(self, columns: int, group: int) -> int:
        """Bytes of the values of 16 outputs of `columns` inputs; `group` is meaningless for floats."""
        if self.bits is None:
            return columns * PANEL * self.dtype.itemsize
        return padded(columns, group) * PANEL * self.bits // 8

    @classmethod
    def of_bits(cls, bits: int) -> "Format":
        """The integer format of 8 or 4 bits."""
        return {8: cls.INT8, 4: cls.INT4}[bits]

    @classmethod
    def of(cls, dtype: np.dtype[np.generic]) -> "Format":
        """The float format that stores `dtype` as it is; ValueError for other types."""
        format_ = _FLOAT_FORMATS.get(dtype)
        if format_ is None:
            raise ValueError(f"weights must be float32, bfloat16 or float16, not {dtype}")
        return format_


_DTYPES: dict[Format, np.dtype[np.generic]] = {
    Format.FLOAT32: np.dtype(np.float32),
    Format.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    Format.FLOAT16: np.dtype(np.float16),
    Format.INT8: np.dtype(np.uint8),
    Format.INT4: np.dtype(np.uint8),
}

_FLOAT_FORMATS = {dtype: format_ for format_, dtype in _DTYPES.items() if format_.bits is None}


def zero_point(bits: int, *, minimums: bool) -> int:
    """Added to whole numbers (not to levels) so that they are unsigned, as VNNI's dot product wants its first one."""
    if bits == 8:
        return 128
    return 0 if minimums else 8


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Matrix:
    """A packed matrix of `rows` outputs and `columns` inputs; the arrays are usually memory-mapped.

    `values` are the bytes of the layout above in any contiguous shape, usually [P, bytes per panel].
    `quantize_activations` is only meaningful for whole numbers: True multiplies int8 activations (a scale per row and
    group of inputs), False multiplies float32 activations by the dequantised weights. Spread matrices have the former,
    others with 8 bits the latter.
    """

    rows: int
    columns: int
    format: Format
    values: NDArray[np.uint8]
    scales: Scales | None = None
    minimums: Scales | None = None
    group: int = 0
    quantize_activations: bool = False

    @classmethod
    def from_floats(cls, weights: NDArray[np.generic]) -> "Matrix":
        """Pack weights [N, K] in their own float type."""
        rows, columns = weights.shape
        return cls(rows, columns, Format.of(weights.dtype), pack_float_rows(weights))

    @classmethod
    def from_integers(
        cls, quantised: NDArray[np.int8], scales: Scales, minimums: Scales | None = None, *, quantize_activations: bool,
        bits: int = 8,
    ) -> "Matrix":  # fmt: skip
        """Pack q [N, K] with scales (and minimums) [N, ceil(K / G)]; G is the one of 16 and 32 that fits."""
        rows, columns = quantised.shape
        group = group_size(columns, scales.shape[1])
        packed = pack_integer_rows(quantised, scales, minimums, bits)
        return cls(rows, columns, Format.of_bits(bits), *packed, group, quantize_activations)

    @classmethod
    def from_spread(cls, quantised: NDArray[np.int8], scales: Scales, columns: int, *, bits: int = 8) -> "Matrix":
        """Pack the q [N, K'] and scales [N, K'/128] of a spread matrix with K = `columns`."""
        packed = pack_integer_rows(quantised, scales, bits=bits, group=SPREAD_INPUTS)
        return cls(len(quantised), columns, Format.of_bits(bits), *packed, SPREAD_INPUTS, quantize_activations=True)

    @property
    def is_spread(self) -> bool:
        """Whether its inputs are spread."""
        return self.group == SPREAD_INPUTS

    def dequantised(self) -> NDArray[np.float32]:
        """The float32 weights [N, K] that the kernels multiply by."""
        panels = -(-self.rows // PANEL)
        weights = self._panel_weights(np.arange(panels))
        return weights.reshape(panels * PANEL, -1)[: self.rows, : self.columns]

    def dequantised_rows(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Rows [T, K] of `dequantised()`, unpacking only the panels that hold them."""
        weights = self._panel_weights(rows // PANEL)
        return weights[np.arange(len(rows)), rows % PANEL, : self.columns]

    def quantised(self) -> NDArray[np.int8]:
        """q [P·16, K'] of an integer matrix, padding included."""
        return self._panel_integers(np.arange(-(-self.rows // PANEL))).reshape(-1, self.inputs)

    @property
    def inputs(self) -> int:
        """K' of an integer matrix."""
        return padded(self.columns, self.group)

    def _panel_integers(self, panels: NDArray[np.integer]) -> NDArray[np.int8]:
        """q [P, 16, K'] of the chosen panels."""
        fours = self.inputs // 4
        if self.format is Format.INT8:
            stored = self.values.reshape(-1, fours, PANEL, 4)[panels]
        else:
            both = self.values.reshape(-1, fours // 2, 1, PANEL, 4)[panels]
            stored = np.concatenate([both & 0x0F, both >> 4], axis=2).reshape(len(panels), fours, PANEL, 4)
        signed: NDArray[np.int8]
        if self.is_spread and self.format is Format.INT4:
            signed = LEVELS[stored]
        else:
            zero = zero_point(self.format.bits or 8, minimums=self.minimums is not None)
            signed = (stored - np.uint8(zero)).view(np.int8)
        return signed.transpose(0, 2, 1, 3).reshape(len(panels), PANEL, -1)

    def _panel_weights(self, panels: NDArray[np.integer]) -> NDArray[np.float32]:
        """Weights [P, 16, K or K'] of the chosen panels."""
        if self.format.bits is None:
            stored = self.values.reshape(-1).view(self.format.dtype).reshape(-1, self.columns, PANEL)
            floats: NDArray[np.float32] = stored[panels].astype(np.float32)
            return floats.transpose(0, 2, 1)
        if self.scales is None:
            raise ValueError("an integer matrix needs scales")
        integers = self._panel_integers(panels).astype(np.float32).reshape(len(panels), PANEL, -1, self.group)
        weights = integers * _by_output(self.scales, panels, integers.shape[2])
        if self.minimums is not None:
            weights -= _by_output(self.minimums, panels, integers.shape[2])
        if self.is_spread:
            weights = spread(weights) / np.float32(SPREAD_INPUTS / SPREAD_DIVISOR)
        return weights.reshape(len(panels), PANEL, -1)


class PackedRows(NamedTuple):
    """Consecutive panels of an integer matrix; the panels of a matrix are those of its chunks, one after the other."""

    values: NDArray[np.uint8]  # [P, K'·16] or [P, K'·8]
    scales: Scales  # [P, K'/G, 16]
    minimums: Scales | None


def padded(columns: int, group: int) -> int:
    """K' of an integer matrix with scales for so many inputs."""
    block = max(group, BLOCK)
    return -(-columns // block) * block


def group_size(columns: int, groups: int) -> int:
    """G for rows of `columns` inputs with `groups` scales; ValueError if neither 16 nor 32 fits."""
    for group in (32, 16):
        if -(-columns // group) == groups:
            return group
    raise ValueError(f"{groups} scales do not fit {columns} inputs in groups of 16 or 32")


def pack_float_rows(weights: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Pack float rows [N, K] as bytes [P, K·16·item size]; N must be a multiple of 16 but in the last chunk."""
    Format.of(weights.dtype)
    rows, columns = weights.shape
    panels = -(-rows // PANEL)
    packed = np.zeros((panels, columns, PANEL), weights.dtype)
    whole = rows // PANEL
    packed[:whole] = weights[: whole * PANEL].reshape(whole, PANEL, columns).transpose(0, 2, 1)
    if whole < panels:
        packed[whole, :, : rows - whole * PANEL] = weights[whole * PANEL :].T
    return packed.view(np.uint8).reshape(panels, -1)


def pack_integer_rows(
    quantised: NDArray[np.int8], scales: Scales, minimums: Scales | None = None, bits: int = 8, group: int | None = None
) -> PackedRows:
    """Pack q [N, K] and scales, minimums [N, ceil(K / G)]; N must be a multiple of 16 but in the last chunk.

    `group` is G; without it the one of 16 and 32 that fits.
    """
    if quantised.dtype != np.int8:
        raise ValueError(f"quantised weights must be int8, not {quantised.dtype}")
    rows, columns = quantised.shape
    group = group or group_size(columns, scales.shape[1])
    panels, inputs = -(-rows // PANEL), padded(columns, group)
    if bits == 4 and group not in (BLOCK, SPREAD_INPUTS):
        raise ValueError(f"4-bit weights need a scale per {BLOCK} or {SPREAD_INPUTS} inputs, not {group}")
    if bits == 4 and group == SPREAD_INPUTS:
        unsigned = np.zeros((panels * PANEL, inputs), np.uint8)
        unsigned[:rows, :columns] = _PLACES[quantised.view(np.uint8)]
    else:
        zero = np.uint8(zero_point(bits, minimums=minimums is not None))
        unsigned = np.full((panels * PANEL, inputs), zero, np.uint8)
        np.add(quantised.view(np.uint8), zero, out=unsigned[:rows, :columns])
    values = unsigned.reshape(panels, PANEL, inputs // 4, 4).transpose(0, 2, 1, 3)
    if bits == 4:
        if unsigned.max(initial=0) > 15:
            raise ValueError("a weight does not fit 4 bits")
        values = values[:, 0::2] | values[:, 1::2] << 4
    return PackedRows(
        np.ascontiguousarray(values).reshape(panels, -1),
        _pack_groups(scales, panels, inputs // group),
        None if minimums is None else _pack_groups(minimums, panels, inputs // group),
    )


def _pack_groups(numbers: Scales, panels: int, groups: int) -> Scales:
    """[N, ceil(K / G)] to [P, K'/G, 16], padded with zeros."""
    if numbers.dtype not in (np.float16, np.float32):
        raise ValueError(f"scales and minimums must be float16 or float32, not {numbers.dtype}")
    rows, columns = numbers.shape
    padded_numbers = np.zeros((panels * PANEL, groups), numbers.dtype)
    padded_numbers[:rows, :columns] = numbers
    return np.ascontiguousarray(padded_numbers.reshape(panels, PANEL, groups).transpose(0, 2, 1))


def _by_output(numbers: Scales, panels: NDArray[np.integer], groups: int) -> NDArray[np.float32]:
    """[P, K'/G, 16] of the chosen panels as [P, 16, K'/G, 1]."""
    chosen: NDArray[np.float32] = numbers.reshape(-1, groups, PANEL)[panels].astype(np.float32)
    return chosen.transpose(0, 2, 1)[..., None]
