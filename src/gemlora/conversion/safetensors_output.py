"""Writes safetensors files of tensors that are computed while they are written.

Format: https://huggingface.co/docs/safetensors: eight bytes with the header's length, the header as JSON, the data.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.cpu.weights.safetensors_file import DTYPES

CODES = {dtype: code for code, dtype in DTYPES.items()}


class Entry(Protocol):
    """A tensor on its way into a file."""

    @property
    def spelling(self) -> str: ...  # noqa: D102
    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102
    def chunks(self) -> Iterator[bytes]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class ArrayEntry:
    """An array that is in memory already."""

    spelling: str
    array: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The array's."""
        return self.array.dtype

    @property
    def size(self) -> int:
        """Bytes."""
        return self.array.nbytes

    def chunks(self) -> Iterator[bytes]:
        """All of it."""
        yield self.array.tobytes()


def write_safetensors(path: Path, entries: Sequence[Entry], count: Callable[[int], None] = lambda _bytes: None) -> None:
    """Write a new file; `count` is told of every chunk's bytes. Raises `OSError` and what the chunks raise."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        end = offset + entry.size
        header[entry.spelling] = {
            "dtype": CODES[entry.dtype], "shape": list(entry.shape), "data_offsets": [offset, end],
        }  # fmt: skip
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in entries:
            for chunk in entry.chunks():
                file.write(chunk)
                count(len(chunk))
