"""Where the tensors of a safetensors file lie.

The `safetensors` library maps whole files into memory; reading rows by their offset keeps a conversion small.
Format: https://huggingface.co/docs/safetensors: eight bytes with the header's length, the header as JSON, the data.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from gemlora.engines.cpu.weights.checkpoint import Floats, Storage
from gemlora.engines.cpu.weights.pieces import Pieces
from gemlora.errors import WeightsInvalid

DTYPES: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
LONGEST_HEADER = 100_000_000
"""Bytes; the library's own limit."""


@dataclass(frozen=True, slots=True)
class FloatTensor:
    """One tensor of a safetensors file. `offset` counts from the start of the file."""

    source: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    pieces: Pieces

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in the file."""
        return self.shape[-1] * self.dtype.itemsize

    @property
    def storage(self) -> Storage:
        """What `rows` gives."""
        return Storage(self.dtype)

    def rows(self, start: int, stop: int) -> Floats:
        """Rows `start` to `stop` of a matrix; a vector has one row."""
        raw = self.pieces.read(self.offset + start * self.row_bytes, (stop - start) * self.row_bytes)
        return np.frombuffer(raw, self.dtype).reshape(stop - start, -1)


def read_tensors(pieces: Pieces, is_wanted: Callable[[str], bool]) -> dict[str, FloatTensor]:
    """The wanted tensors of the file. Raises `WeightsInvalid` if it is damaged or the type of one is not supported."""
    length = int.from_bytes(pieces.read(0, 8), "little")
    if length > min(LONGEST_HEADER, pieces.size - 8):
        raise WeightsInvalid(f"{pieces.name}: this is not a safetensors file, or it is truncated")
    try:
        header = json.loads(pieces.read(8, length))
    except ValueError as error:
        raise WeightsInvalid(f"{pieces.name}: the header is damaged: {error}") from error
    if not isinstance(header, dict):
        raise WeightsInvalid(f"{pieces.name}: the header is no object")
    header.pop("__metadata__", None)
    return {name: _tensor(name, entry, 8 + length, pieces) for name, entry in header.items() if is_wanted(name)}


def _tensor(name: str, entry: Any, start: int, pieces: Pieces) -> FloatTensor:
    try:
        dtype, shape = entry["dtype"], tuple(int(size) for size in entry["shape"])
        begin, end = (int(offset) for offset in entry["data_offsets"])
    except (TypeError, KeyError, ValueError) as error:
        raise WeightsInvalid(f"{pieces.name}: the entry of tensor {name} is damaged") from error
    if dtype not in DTYPES:
        raise WeightsInvalid(f"{pieces.name}: tensor {name} has type {dtype}; only {', '.join(DTYPES)} are supported")
    if not shape or min(shape) < 1 or begin < 0 or end - begin != prod(shape) * DTYPES[dtype].itemsize:
        raise WeightsInvalid(f"{pieces.name}: tensor {name} has {end - begin} bytes, not those of shape {list(shape)}")
    if start + end > pieces.size:
        raise WeightsInvalid(
            f"{pieces.name}: the file is truncated: tensor {name} ends at byte {start + end} of {pieces.size}"
        )
    return FloatTensor(name, shape, DTYPES[dtype], start + begin, pieces)
