"""A GGUF file as a checkpoint: its norms already contain Gemma's 1 +, query and key rows are in their usual order."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from gguf.constants import GGMLQuantizationType

from gemlora.engines.cpu.weights.checkpoint import Floats, Quantized, Storage
from gemlora.engines.cpu.weights.ggml_blocks import BLOCK_TYPES, unpack_rows
from gemlora.engines.cpu.weights.gguf_config import gguf_config
from gemlora.engines.cpu.weights.gguf_file import GgufHeader, GgufTensor
from gemlora.engines.cpu.weights.pieces import Pieces
from gemlora.engines.cpu.weights.tensor_names import claim, gguf_name, shapes
from gemlora.engines.cpu.weights.vocabulary import SpecialTokens, write_gguf_vocabulary
from gemlora.errors import WeightsInvalid

FLOAT_TYPES: Mapping[GGMLQuantizationType, np.dtype[Any]] = {
    GGMLQuantizationType.F32: np.dtype(np.float32),
    GGMLQuantizationType.F16: np.dtype(np.float16),
    GGMLQuantizationType.BF16: np.dtype(ml_dtypes.bfloat16),
}

TIED_WITHOUT = gguf_name("head")
"""The embedding is also the head unless the file has this tensor."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of the file."""

    entry: GgufTensor
    pieces: Pieces

    @property
    def source(self) -> str:
        """The file's own name of it."""
        return self.entry.name

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, K) or (K,)."""
        return self.entry.shape

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in the file."""
        return self.entry.size // (self.shape[0] if len(self.shape) > 1 else 1)

    @property
    def storage(self) -> Storage:
        """What `rows` gives."""
        if (dtype := FLOAT_TYPES.get(self.entry.type)) is not None:
            return Storage(dtype)
        return BLOCK_TYPES[self.entry.type].storage

    def rows(self, start: int, stop: int) -> Floats | Quantized:
        """Rows `start` to `stop` of a matrix; a vector has one row."""
        raw = self.pieces.read(self.entry.offset + start * self.row_bytes, (stop - start) * self.row_bytes)
        stored = np.frombuffer(raw, np.uint8).reshape(stop - start, -1)
        if (dtype := FLOAT_TYPES.get(self.entry.type)) is not None:
            return stored.view(dtype)
        return unpack_rows(stored, self.entry.type)


class GgufCheckpoint:
    """Implements `Checkpoint`. Raises `WeightsInvalid` if the file is damaged, incomplete or not of Gemma 1, 2 or 3."""

    def __init__(self, pieces: Pieces) -> None:
        header = GgufHeader.read(pieces)
        self._metadata = header.metadata
        self._where = pieces.name
        if header.metadata.get("split.count", 1) not in (0, 1):
            raise WeightsInvalid(f"{self._where}: a file split into several is not supported; merge it first")
        stored = {name: StoredTensor(entry, pieces) for name, entry in header.tensors.items()}
        _check_types(stored, self._where)
        embedding = header.tensors.get(gguf_name("embedding"))
        if embedding is None:
            raise WeightsInvalid(f"{self._where}: tensor {gguf_name('embedding')} is missing")
        try:
            self.config = gguf_config(header.metadata, vocabulary=embedding.shape[0])
        except WeightsInvalid as error:
            raise WeightsInvalid(f"{self._where}: {error}") from error
        wanted = shapes(self.config, tied=TIED_WITHOUT not in stored)
        self.tensors = claim(wanted, {name: gguf_name(name) for name in wanted}, stored, self._where)

    @property
    def name(self) -> str:
        """What the file calls itself, else the file's name."""
        return str(self._metadata.get("general.name") or Path(self._where).stem)

    def write_vocabulary(self, folder: Path) -> SpecialTokens:
        """Write the tokenizer file into `folder`."""
        return write_gguf_vocabulary(self._metadata, folder)


def _check_types(tensors: Mapping[str, StoredTensor], where: str) -> None:
    for tensor in tensors.values():
        if tensor.entry.type not in FLOAT_TYPES and tensor.entry.type not in BLOCK_TYPES:
            raise WeightsInvalid(
                f"{where}: tensor {tensor.source} has type {tensor.entry.type.name}, which is not supported"
            )
        if len(tensor.shape) == 1 and tensor.entry.type not in FLOAT_TYPES:
            raise WeightsInvalid(f"{where}: tensor {tensor.source} is a vector of type {tensor.entry.type.name}")
