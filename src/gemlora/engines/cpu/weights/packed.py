"""The packed model: a folder with the weights in the kernels' layout, mapped into memory, and what describes them."""

import mmap
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from gemlora.engines.contract import ModelFacts
from gemlora.engines.cpu.config import GemmaConfig
from gemlora.engines.cpu.weights.folder import DESCRIPTION_FILE, WEIGHTS_FILE, Quantize, Summary
from gemlora.engines.cpu.weights.tensor_names import shapes
from gemlora.engines.cpu.weights.vocabulary import SpecialTokens
from gemlora.errors import WeightsInvalid
from gemlora.kernels.matrix import PANEL, SPREAD_INPUTS, Format, Matrix, padded

FAMILIES = {1: "gemma", 2: "gemma2", 3: "gemma3"}

GROUPS = {Format.INT8: (16, 32, SPREAD_INPUTS), Format.INT4: (32, SPREAD_INPUTS)}
"""How many weights may share a scale."""


class Region(msgspec.Struct, frozen=True):
    """An array inside `weights.bin`; `offset` counts bytes."""

    offset: int
    dtype: Literal["uint8", "float16", "float32"]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


class MatrixEntry(msgspec.Struct, frozen=True):
    """A `Matrix` whose arrays lie in `weights.bin`."""

    rows: int
    columns: int
    format: Format
    values: Region
    scales: Region | None = None
    minimums: Region | None = None
    group: int = 0
    squared_checkpoint_steps: float = 0.0
    """See `ServedBase.squared_checkpoint_steps`."""

    @property
    def regions(self) -> tuple[Region, ...]:
        """The arrays that there are."""
        return tuple(region for region in (self.values, self.scales, self.minimums) if region is not None)


class Description(Summary, frozen=True):
    """`model.json`."""

    config: GemmaConfig
    tokens: SpecialTokens
    matrices: dict[str, MatrixEntry]
    vectors: dict[str, Region]


class PackedModel:
    """An opened packed model. Its arrays are read-only views of the mapped file."""

    def __init__(self, folder: Path, description: Description, weights: mmap.mmap) -> None:
        self._folder = folder
        self._description = description
        self._weights = weights

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Raises `WeightsInvalid` if a file is missing, cut off or of another layout."""
        try:
            description = Description.read(folder)
            check(description, folder)
            with (folder / WEIGHTS_FILE).open("rb") as file:
                weights = mmap.mmap(file.fileno(), description.weights_size, prot=mmap.PROT_READ)
        except OSError as error:
            raise WeightsInvalid(f"{folder}: {error.filename}: {error.strerror}") from error
        return cls(folder, description, weights)

    @property
    def config(self) -> GemmaConfig:
        """The architecture."""
        return self._description.config

    @property
    def name(self) -> str:
        """For people."""
        return self._description.name

    @property
    def family(self) -> str:
        """`gemma`, `gemma2` or `gemma3`."""
        return FAMILIES[self.config.generation]

    @property
    def digest(self) -> str:
        """SHA-256 of the checkpoint's files, 64 hex digits."""
        return self._description.digest

    @property
    def quantize(self) -> Quantize:
        """`none`, `int8` or `int4`."""
        return self._description.quantize

    @property
    def tied(self) -> bool:
        """Whether the embedding is also the output head."""
        return "head" not in self._description.matrices

    @property
    def tokens(self) -> SpecialTokens:
        """Ids of the tokens of Gemma's chat format, those that stop an answer among them."""
        return self._description.tokens

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer file."""
        return self._folder / self._description.tokenizer

    @cached_property
    def size(self) -> int:
        """Bytes of the weights."""
        return self._description.weights_size

    def matrix(self, name: str) -> Matrix:
        """A weight matrix; KeyError if the architecture has none of that name."""
        entry = self._description.matrices[name]
        return Matrix(
            entry.rows,
            entry.columns,
            entry.format,
            self._array(entry.values),
            None if entry.scales is None else self._array(entry.scales),
            None if entry.minimums is None else self._array(entry.minimums),
            entry.group,
            quantize_activations=entry.format.bits is not None and self.quantize != "none",
        )

    def squared_checkpoint_steps(self, name: str) -> float:
        """See `ServedBase`; KeyError if the architecture has none of that name."""
        return self._description.matrices[name].squared_checkpoint_steps

    def vector(self, name: str) -> NDArray[np.float32]:
        """The weights of a norm, Gemma's 1 + already added; KeyError if there is none of that name."""
        return self._array(self._description.vectors[name])

    def _array(self, region: Region) -> NDArray[Any]:
        count = prod(region.shape)
        return np.frombuffer(self._weights, region.dtype, count, region.offset).reshape(region.shape)


def facts(model: PackedModel, context_window: int) -> ModelFacts:
    """What the catalogue shows of the model when prompts and outputs may have `context_window` tokens."""
    return ModelFacts(
        name=model.name,
        family=model.family,
        digest=model.digest,
        quantization=model.quantize,
        context_window=context_window,
        layers=len(model.config.layers),
        vocabulary=model.config.vocabulary,
        modules=model.config.modules,
        hidden=model.config.hidden,
        tied=model.tied,
    )


def check(description: Description, folder: Path) -> None:
    """Raises `WeightsInvalid` if the table does not fit the architecture or the file."""
    size = description.weights_size
    wanted = shapes(description.config, tied="head" not in description.matrices)
    found = {name: (entry.rows, entry.columns) for name, entry in description.matrices.items()}
    if wanted != {**found, **{name: region.shape for name, region in description.vectors.items()}}:
        raise WeightsInvalid(f"{folder / DESCRIPTION_FILE}: the tensors are not those of the architecture")
    for name, entry in description.matrices.items():
        if [region.shape for region in entry.regions] != _region_shapes(entry):
            raise WeightsInvalid(f"{folder / DESCRIPTION_FILE}: the arrays of {name} have wrong shapes")
        if not _fits_quantize(entry, description.quantize):
            raise WeightsInvalid(f"{folder / DESCRIPTION_FILE}: {name} does not fit quantize {description.quantize}")
        for region in entry.regions:
            _check_inside(region, name, size, folder)
    for name, region in description.vectors.items():
        _check_inside(region, name, size, folder)


def _fits_quantize(entry: MatrixEntry, quantize: Quantize) -> bool:
    if entry.group == SPREAD_INPUTS:
        return quantize == "int4" or (quantize == "int8" and entry.format is Format.INT8)
    return entry.format is not Format.INT8 or quantize == "none"


def _check_inside(region: Region, name: str, size: int, folder: Path) -> None:
    if region.offset < 0 or region.offset % 64 or min(region.shape) < 1 or region.offset + region.size > size:
        raise WeightsInvalid(f"{folder}: {name} lies outside {WEIGHTS_FILE}")


def _region_shapes(entry: MatrixEntry) -> list[tuple[int, ...]]:
    """Values [P, bytes per panel]; scales and minimums [P, K'/G, 16]."""
    panels = -(-entry.rows // PANEL)
    values = (panels, entry.format.panel_bytes(entry.columns, entry.group))
    if entry.format.bits is None:
        return [values]
    if entry.scales is None or entry.group not in GROUPS[entry.format]:
        return []
    if entry.group == SPREAD_INPUTS and entry.minimums is not None:
        return []
    groups = (panels, padded(entry.columns, entry.group) // entry.group, PANEL)
    return [values, *[groups] * (len(entry.regions) - 1)]
