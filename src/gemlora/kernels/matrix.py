"""A weight matrix in the kernels' packed layout, and how to pack one.

Letters: N outputs, K inputs, G inputs per group, P = ceil(N / 16) panels. A panel holds 16 outputs side by side so
that one vector register is one input (or four int8 inputs) of 16 outputs, and each lane sums its own output in the
order of K. Rows past N and inputs past K are zero.

    float formats   values [P, K', 16]             K' = K
    int8            values [P, K'/4, 16, 4]        K' = K rounded up to a multiple of 32, bytes are q + 128
                    scales [P, K'/G, 16]           float16 or float32; G is 16 or 32
                    minimums [P, K'/G, 16] or None w = scale · q − minimum, each operation rounded to float32
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

PANEL = 16
"""Outputs per panel."""

BIAS = 128
"""Added to int8 weights so that they are unsigned, as VNNI's dot product wants its first operand."""

BLOCK = 32
"""Inputs of an int8 matrix are padded to a multiple of this; also the group size of quantised activations."""

Scales = NDArray[np.float16] | NDArray[np.float32]


class Format(IntEnum):
    """How the values of a matrix are stored."""

    FLOAT32 = 0
    BFLOAT16 = 1
    FLOAT16 = 2
    INT8 = 3

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The NumPy type of one stored value."""
        return _DTYPES[self]

    @classmethod
    def of(cls, dtype: np.dtype[np.generic]) -> "Format":
        """The float format that stores `dtype` as it is; ValueError for other types."""
        for format_, stored in _DTYPES.items():
            if dtype == stored and format_ is not cls.INT8:
                return format_
        raise ValueError(f"weights must be float32, bfloat16 or float16, not {dtype}")


_DTYPES: dict[Format, np.dtype[np.generic]] = {
    Format.FLOAT32: np.dtype(np.float32),
    Format.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    Format.FLOAT16: np.dtype(np.float16),
    Format.INT8: np.dtype(np.uint8),
}


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Matrix:
    """A packed matrix of `rows` outputs and `columns` inputs; the arrays are usually memory-mapped.

    `values` are the bytes of the layout above in any contiguous shape, usually [P, bytes per panel].
    `quantize_activations` is only meaningful for int8: True multiplies int8 activations (a scale per row and group
    of 32), False multiplies float32 activations by the dequantised weights.
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
    def from_int8(
        cls, quantised: NDArray[np.int8], scales: Scales, minimums: Scales | None = None, *, quantize_activations: bool
    ) -> "Matrix":
        """Pack q [N, K] with scales (and minimums) [N, ceil(K / G)]; G is the one of 16 and 32 that fits."""
        rows, columns = quantised.shape
        group = group_size(columns, scales.shape[1])
        packed = pack_int8_rows(quantised, scales, minimums)
        return cls(rows, columns, Format.INT8, *packed, group, quantize_activations)

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
        """q [P·16, K'] of an int8 matrix, padding included."""
        return self._panel_integers(np.arange(-(-self.rows // PANEL))).reshape(-1, padded(self.columns))

    def _panel_integers(self, panels: NDArray[np.integer]) -> NDArray[np.int8]:
        """q [P, 16, K'] of the chosen panels."""
        stored = self.values.reshape(-1, padded(self.columns) // 4, PANEL, 4)[panels]
        signed: NDArray[np.int8] = (stored ^ BIAS).view(np.int8)
        return signed.transpose(0, 2, 1, 3).reshape(len(panels), PANEL, -1)

    def _panel_weights(self, panels: NDArray[np.integer]) -> NDArray[np.float32]:
        """Weights [P, 16, K or K'] of the chosen panels."""
        if self.format is not Format.INT8:
            stored = self.values.reshape(-1).view(self.format.dtype).reshape(-1, self.columns, PANEL)
            floats: NDArray[np.float32] = stored[panels].astype(np.float32)
            return floats.transpose(0, 2, 1)
        if self.scales is None:
            raise ValueError("an int8 matrix needs scales")
        integers = self._panel_integers(panels).astype(np.float32).reshape(len(panels), PANEL, -1, self.group)
        weights = integers * _by_output(self.scales, panels, integers.shape[2])
        if self.minimums is not None:
            weights -= _by_output(self.minimums, panels, integers.shape[2])
        return weights.reshape(len(panels), PANEL, -1)


class PackedRows(NamedTuple):
    """Consecutive panels of an int8 matrix; the panels of a matrix are those of its chunks, one after the other."""

    values: NDArray[np.uint8]  # [P, K'·16]
    scales: Scales  # [P, K'/G, 16]
    minimums: Scales | None


def padded(columns: int) -> int:
    """K' of an int8 matrix."""
    return -(-columns // BLOCK) * BLOCK


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


def pack_int8_rows(quantised: NDArray[np.int8], scales: Scales, minimums: Scales | None = None) -> PackedRows:
    """Pack q [N, K] and scales, minimums [N, ceil(K / G)]; N must be a multiple of 16 but in the last chunk."""
    if quantised.dtype != np.int8:
        raise ValueError(f"quantised weights must be int8, not {quantised.dtype}")
    rows, columns = quantised.shape
    panels, inputs = -(-rows // PANEL), padded(columns)
    groups = inputs // group_size(columns, scales.shape[1])
    biased = np.full((panels * PANEL, inputs), BIAS, np.uint8)
    np.bitwise_xor(quantised.view(np.uint8), BIAS, out=biased[:rows, :columns])
    values = np.ascontiguousarray(biased.reshape(panels, PANEL, inputs // 4, 4).transpose(0, 2, 1, 3))
    return PackedRows(
        values.reshape(panels, -1),
        _pack_groups(scales, panels, groups),
        None if minimums is None else _pack_groups(minimums, panels, groups),
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
