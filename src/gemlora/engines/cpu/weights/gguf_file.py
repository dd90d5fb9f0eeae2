"""Reads a GGUF file's header: metadata, and where each tensor lies.

The names of types come from the `gguf` library. Its own reader makes an array object per vocabulary entry, which for
Gemma's 262,144 takes many seconds and hundreds of megabytes; this one makes a list.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from gguf.constants import (
    GGML_QUANT_SIZES,
    GGUF_DEFAULT_ALIGNMENT,
    GGMLQuantizationType,
    GGUFValueType,
)

from gemlora.engines.cpu.weights.pieces import Pieces
from gemlora.errors import WeightsInvalid

MAGIC = b"GGUF"
VERSIONS = (2, 3)
READ_AHEAD = 1 << 20
MOST_DIMENSIONS = 4
"""ggml's own limit."""

NUMBERS: Mapping[GGUFValueType, str] = {
    GGUFValueType.UINT8: "u1",
    GGUFValueType.INT8: "i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where one tensor lies. `offset` and `size` count bytes of the file; `shape` has the rows first."""

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Metadata values are str, bool, int, float, a list of str, or an array of numbers."""

    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    @classmethod
    def read(cls, pieces: Pieces) -> "GgufHeader":
        """Raises `WeightsInvalid` if this is no GGUF file, a truncated or a damaged one."""
        cursor = _Cursor(pieces)
        if pieces.size < len(MAGIC) or bytes(cursor.take(len(MAGIC))) != MAGIC:
            raise WeightsInvalid(f"{pieces.name}: this is not a GGUF file (it does not start with GGUF)")
        version = cursor.number("<I")
        if version not in VERSIONS:
            raise WeightsInvalid(f"{pieces.name}: GGUF version {version} is not supported, only little-endian 2 and 3")
        tensor_count, value_count = cursor.number("<Q"), cursor.number("<Q")
        metadata: dict[str, Any] = {}
        for _ in range(value_count):
            key = cursor.string()
            if key in metadata:
                raise WeightsInvalid(f"{pieces.name}: metadata key {key} occurs twice")
            metadata[key] = cursor.value(key)
        tensors = [cursor.tensor() for _ in range(tensor_count)]
        return cls(metadata, _placed(tensors, cursor.position, metadata, pieces))


def _placed(
    tensors: list[GgufTensor], header_size: int, metadata: dict[str, Any], pieces: Pieces
) -> dict[str, GgufTensor]:
    """The tensors by name, with offsets from the start of the file."""
    alignment = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise WeightsInvalid(f"{pieces.name}: general.alignment is {alignment}, not a power of two")
    start = -(-header_size // alignment) * alignment
    placed: dict[str, GgufTensor] = {}
    for tensor in tensors:
        if tensor.name in placed:
            raise WeightsInvalid(f"{pieces.name}: tensor {tensor.name} occurs twice")
        if start + tensor.offset + tensor.size > pieces.size:
            raise WeightsInvalid(
                f"{pieces.name}: the file is truncated: tensor {tensor.name} ends at byte "
                f"{start + tensor.offset + tensor.size} of {pieces.size}"
            )
        placed[tensor.name] = GgufTensor(tensor.name, tensor.type, tensor.shape, start + tensor.offset, tensor.size)
    return placed


class _Cursor:
    """Walks through the header, reading ahead in steps."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._window = bytearray()
        self._start = 0
        self._at = 0

    @property
    def position(self) -> int:
        """Bytes walked so far."""
        return self._start + self._at

    def take(self, size: int) -> bytearray:
        """The next `size` bytes."""
        if self._at + size > len(self._window):
            self._start, self._at = self.position, 0
            rest = self._pieces.size - self._start
            self._window = self._pieces.read(self._start, max(size, min(READ_AHEAD, rest)))
        taken = self._window[self._at : self._at + size]
        self._at += size
        return taken

    def number(self, code: str) -> int:
        """One integer of a `struct` code."""
        value: int = struct.unpack(code, self.take(struct.calcsize(code)))[0]
        return value

    def string(self) -> str:
        """A length and that many bytes of UTF-8."""
        raw = self.take(self.number("<Q"))
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise WeightsInvalid(f"{self._pieces.name}: byte {self.position}: text is not UTF-8") from error

    def value(self, key: str) -> Any:
        """The type and value that follow a metadata key."""
        kind = self._kind(key)
        if kind is GGUFValueType.STRING:
            return self.string()
        if kind is not GGUFValueType.ARRAY:
            return self._numbers(kind, 1)[0].item()
        kind, count = self._kind(key), self.number("<Q")
        if kind is GGUFValueType.STRING:
            return [self.string() for _ in range(count)]
        if kind is GGUFValueType.ARRAY:
            raise WeightsInvalid(f"{self._pieces.name}: metadata key {key} is an array of arrays")
        return self._numbers(kind, count)

    def tensor(self) -> GgufTensor:
        """A tensor's entry; its offset still counts from the end of the header."""
        name = self.string()
        dimensions = self.number("<I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise WeightsInvalid(f"{self._pieces.name}: tensor {name} has {dimensions} dimensions")
        shape = tuple(self.number("<Q") for _ in range(dimensions))[::-1]
        code, offset = self.number("<I"), self.number("<Q")
        try:
            type_ = GGMLQuantizationType(code)
        except ValueError as error:
            raise WeightsInvalid(f"{self._pieces.name}: tensor {name} has the unknown type {code}") from error
        block, block_bytes = GGML_QUANT_SIZES[type_]
        if shape[-1] % block:
            raise WeightsInvalid(
                f"{self._pieces.name}: tensor {name} has rows of {shape[-1]}, not a multiple of {type_.name}'s {block}"
            )
        return GgufTensor(name, type_, shape, offset, prod(shape) // block * block_bytes)

    def _kind(self, key: str) -> GGUFValueType:
        code = self.number("<I")
        try:
            return GGUFValueType(code)
        except ValueError as error:
            raise WeightsInvalid(f"{self._pieces.name}: metadata key {key} has the unknown type {code}") from error

    def _numbers(self, kind: GGUFValueType, count: int) -> np.ndarray[Any, Any]:
        dtype = np.dtype(NUMBERS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)
