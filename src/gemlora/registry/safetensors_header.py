"""A strict reader of safetensors headers. Source: the format's text in the safetensors repository.

Stricter than the library, which accepts duplicate names, blanks before the header and unknown fields: here a file has
exactly one reading. Sizes are Python integers, so no sum or product overflows.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemlora.errors import AdapterInvalid
from gemlora.registry.strict_json import JsonInvalid, parse_object, shown

MAX_HEADER_BYTES = 4 << 20
MAX_TENSORS = 16384
MAX_DIMENSION = 1 << 40
ITEM_SIZES = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes per value of the dtypes that adapters may have."""

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,512}")
_FIELDS = {"dtype", "shape", "data_offsets"}
_OTHER_FORMATS = (
    (b"PK\x03\x04", "a zip archive (PyTorch's pickle format?)"),
    (b"\x80", "a Python pickle"),
    (b"GGUF", "a GGUF file"),
    (b"\x1f\x8b", "gzip data"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"\x89HDF", "an HDF5 file"),
    (b"{", "JSON text"),
    (b"<", "HTML or XML text"),
)


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor. `offset` counts bytes from the start of the file, `size` is its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


def read_header(path: Path) -> tuple[TensorEntry, ...]:
    """The tensors of a safetensors file in the order of their data. Raises `AdapterInvalid` with the reason."""
    with path.open("rb") as file:
        total = os.fstat(file.fileno()).st_size
        start = file.read(32)
        length = _header_length(start, total)
        file.seek(8)
        header = file.read(length)
    if len(header) != length:
        raise _invalid("ends inside its header")
    return _tensors(header, total)


def _header_length(start: bytes, total: int) -> int:
    if len(start) < 8:
        raise _invalid(f"has only {total} bytes; a safetensors file starts with an 8-byte header length")
    length = int.from_bytes(start[:8], "little")
    if length > total - 8 or start[8:9] != b"{":
        for magic, description in _OTHER_FORMATS:
            if start.startswith(magic):
                raise _invalid(f"is not a safetensors file but {description}")
    if length > total - 8:
        raise _invalid(f"says that its header has {length} bytes, but only {total - 8} follow")
    if length > MAX_HEADER_BYTES:
        raise _invalid(f"has a header of {length} bytes; at most {MAX_HEADER_BYTES} are allowed")
    if start[8:9] != b"{":
        raise _invalid("has a header that does not start with '{'")
    return length


def _tensors(header: bytes, total: int) -> tuple[TensorEntry, ...]:
    text = header.rstrip(b" ")
    if not text.endswith(b"}"):
        raise _invalid("has a header that does not end with '}' and blanks")
    try:
        records = parse_object(text)
    except JsonInvalid as error:
        raise _invalid(f"has a header that {error}") from None
    _check_metadata(records.pop("__metadata__", {}))
    if not records:
        raise _invalid("contains no tensors")
    if len(records) > MAX_TENSORS:
        raise _invalid(f"contains {len(records)} tensors; at most {MAX_TENSORS} are allowed")
    start = 8 + len(header)
    tensors = sorted((_entry(name, record, start) for name, record in records.items()), key=lambda t: t.offset)
    _check_layout(tensors, start, total)
    return tuple(tensors)


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _invalid("has a __metadata__ that does not map texts to texts")


def _entry(name: str, record: Any, start: int) -> TensorEntry:
    if not _NAME.fullmatch(name):
        raise _invalid(f"has a tensor with a malformed name: {shown(name)}")
    if not isinstance(record, dict) or record.keys() != _FIELDS:
        raise _tensor_invalid(name, "has a record without exactly dtype, shape and data_offsets")
    dtype = record["dtype"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise _tensor_invalid(name, f"has the dtype {shown(dtype)}; expected {', '.join(ITEM_SIZES)}")
    shape = _shape(name, record["shape"])
    begin, end = _offsets(name, record["data_offsets"])
    size = ITEM_SIZES[dtype]
    for dimension in shape:
        size *= dimension
    if end - begin != size:
        raise _tensor_invalid(
            name, f"needs {size} bytes as {dtype} of shape {list(shape)}, but its offsets span {end - begin}"
        )
    return TensorEntry(name, dtype, shape, start + begin, size)


def _shape(name: str, shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, list) or len(shape) > 8 or not all(_is_natural(d) and d > 0 for d in shape):
        raise _tensor_invalid(name, f"has the shape {shown(shape)}, which is not a list of at most 8 positive integers")
    return tuple(shape)


def _offsets(name: str, offsets: Any) -> tuple[int, int]:
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_natural, offsets)):
        raise _tensor_invalid(name, f"has data_offsets {shown(offsets)}, which are not two natural numbers")
    begin, end = offsets
    if begin > end:
        raise _tensor_invalid(name, f"has data_offsets {shown(offsets)}, which run backwards")
    return begin, end


def _is_natural(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_DIMENSION


def _check_layout(tensors: list[TensorEntry], start: int, total: int) -> None:
    position = start
    for tensor in tensors:
        if tensor.offset < position:
            raise _tensor_invalid(tensor.name, "overlaps another tensor's data")
        if tensor.offset > position:
            raise _tensor_invalid(tensor.name, f"leaves a gap of {tensor.offset - position} bytes before its data")
        position += tensor.size
        if position > total:
            raise _tensor_invalid(tensor.name, f"ends {position - total} bytes behind the end of the file")
    if position != total:
        raise _invalid(f"has {total - position} bytes behind the last tensor")


def _invalid(reason: str) -> AdapterInvalid:
    return AdapterInvalid(f"adapter_model.safetensors {reason}")


def _tensor_invalid(name: str, reason: str) -> AdapterInvalid:
    return AdapterInvalid(f"adapter_model.safetensors: tensor {name} {reason}")
