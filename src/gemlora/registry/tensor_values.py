"""The values of an adapter's tensors, read in chunks of bounded memory: all finite, and where all are zero."""

from collections.abc import Iterator
from io import RawIOBase
from pathlib import Path
from typing import Any

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from gemlora.errors import AdapterInvalid
from gemlora.registry.safetensors_header import ITEM_SIZES
from gemlora.registry.tensor_names import name_invalid
from gemlora.storage.manifest import AdapterManifest, EmbeddingLora, HeadLora, LoraModule, Tensor

CHUNK_BYTES = 4 << 20
TIED_COLUMNS = 8192
"""Tokens of the vocabulary that are compared at a time."""

_LIMITS: dict[str, tuple[type[np.uint32] | type[np.uint16], int, int]] = {
    "F32": (np.uint32, 0x7F800000, 0x7F7F8000),
    "F16": (np.uint16, 0x7C00, 0x7C00),
    "BF16": (np.uint16, 0x7F80, 0x7F80),
}
"""The bits of infinity, beyond which lies NaN, and of the lowest number that is infinite as bfloat16."""
_DTYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": bfloat16}

Pair = LoraModule | EmbeddingLora | HeadLora


def check_values(weights: Path, manifest: AdapterManifest) -> tuple[int, int]:
    """Refuse values that no engine can hold; return how many pairs change nothing, and how many there are.

    Raises `AdapterInvalid` with the tensor's name and the value's place.
    """
    pairs: list[Pair] = [*manifest.modules]
    pairs += [pair for pair in (manifest.embedding, manifest.head) if pair is not None]
    with weights.open("rb", buffering=0) as file:
        silent = sum(_is_silent(file, pair) for pair in pairs)
        for copy in manifest.copies:
            _has_nonzero_value(file, copy.tensor)
    return silent, len(pairs)


def check_tied(weights: Path, embedding: EmbeddingLora, head: HeadLora) -> None:
    """The head's pair must be the embedding's transposed, as PEFT ties them: its loading would overwrite one of them.

    Raises `AdapterInvalid`.
    """
    with weights.open("rb", buffering=0) as file:
        for wide, tall in ((embedding.a, head.b), (head.a, embedding.b)):
            for start in range(0, tall.shape[0], TIED_COLUMNS):
                if not np.array_equal(_columns(file, wide, start).T, _rows(file, tall, start)):
                    raise name_invalid(
                        tall.name, f"is not {wide.name} transposed, though ensure_weight_tying is true and they are one"
                    )


def _is_silent(file: RawIOBase, pair: Pair) -> bool:
    """Whether the pair changes nothing: A or B is zero. A magnitude changes something all the same."""
    both = [_has_nonzero_value(file, tensor) for tensor in (pair.a, pair.b)]
    if pair.magnitude is not None:
        _has_nonzero_value(file, pair.magnitude)
        return False
    return not all(both)


def _has_nonzero_value(file: RawIOBase, tensor: Tensor) -> bool:
    kind, infinity, too_large = _LIMITS[tensor.dtype]
    magnitude = np.iinfo(kind).max >> 1
    nonzero = False
    position = 0
    for values in _chunks(file, tensor, kind):
        values &= magnitude
        highest = values.max()
        if highest >= too_large:
            is_infinite = highest >= infinity
            index = position + int(np.argmax(values >= (infinity if is_infinite else too_large)))
            what = "a NaN or infinity" if is_infinite else "a value too large for bfloat16"
            place = ", ".join(map(str, np.unravel_index(index, tensor.shape)))
            raise name_invalid(tensor.name, f"has {what} at [{place}]")
        nonzero = nonzero or bool(highest)
        position += values.size
    return nonzero


def _chunks(file: RawIOBase, tensor: Tensor, kind: type[np.uint32] | type[np.uint16]) -> Iterator[NDArray[Any]]:
    """The tensor's values as unsigned integers, some at a time."""
    step = CHUNK_BYTES // ITEM_SIZES[tensor.dtype] * ITEM_SIZES[tensor.dtype]
    for start in range(0, tensor.size, step):
        yield np.frombuffer(_read(file, tensor, start, min(step, tensor.size - start)), dtype=kind)


def _columns(file: RawIOBase, tensor: Tensor, start: int) -> NDArray[np.float32]:
    """Some columns of every row."""
    rows, columns = tensor.shape
    item = ITEM_SIZES[tensor.dtype]
    count = min(TIED_COLUMNS, columns - start)
    parts = (_read(file, tensor, (row * columns + start) * item, count * item) for row in range(rows))
    return np.stack([np.frombuffer(part, _DTYPES[tensor.dtype]).astype(np.float32) for part in parts])


def _rows(file: RawIOBase, tensor: Tensor, start: int) -> NDArray[np.float32]:
    rows, columns = tensor.shape
    count = min(TIED_COLUMNS, rows - start)
    row_bytes = columns * ITEM_SIZES[tensor.dtype]
    values = np.frombuffer(_read(file, tensor, start * row_bytes, count * row_bytes), _DTYPES[tensor.dtype])
    return values.astype(np.float32).reshape(count, columns)


def _read(file: RawIOBase, tensor: Tensor, start: int, size: int) -> bytearray:
    """`size` bytes of a tensor from its byte `start`."""
    content = bytearray(size)
    view = memoryview(content)
    file.seek(tensor.offset + start)
    while view:
        count = file.readinto(view)
        if not count:
            raise AdapterInvalid(f"adapter_model.safetensors ends before the data of {tensor.name} do")
        view = view[count:]
    return content
