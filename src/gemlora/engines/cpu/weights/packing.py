"""Writes a checkpoint into a packed model's folder, a few rows at a time, so that no tensor is ever whole in memory."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from gemlora.engines.cpu.weights import quantization
from gemlora.engines.cpu.weights.checkpoint import Checkpoint, Floats, Quantized, Storage, Tensor
from gemlora.engines.cpu.weights.folder import DESCRIPTION_FILE, LAYOUT, WEIGHTS_FILE, Quantize, sync
from gemlora.engines.cpu.weights.packed import Description, MatrixEntry, Region
from gemlora.engines.cpu.weights.progress import Progress
from gemlora.errors import WeightsInvalid
from gemlora.kernels.matrix import PANEL, SPREAD_INPUTS, pack_float_rows, pack_integer_rows, padded

CHUNK_WEIGHTS = 1 << 18
"""Weights converted at once: their intermediate arrays fit the caches."""

THREADS = 2
"""Chunks converted at the same time: more would need more memory."""

LINE, PAGE = 64, 4096
"""Alignment in bytes of any array, and of a matrix' values."""


def pack(
    checkpoint: Checkpoint, folder: Path, *, name: str, digest: str, quantize: Quantize, progress: Progress
) -> Description:
    """Write `weights.bin`, the tokenizer file and, last, `model.json` into the empty `folder`, and sync them to disk.

    Raises `WeightsInvalid` if a tensor holds numbers that are not finite.
    """
    plan = _Plan(checkpoint.tensors, quantize)
    tokens = checkpoint.write_vocabulary(folder)
    tokenizer = next(folder.iterdir()).name
    steps = _write_weights(checkpoint.tensors, plan, folder / WEIGHTS_FILE, progress)
    description = Description(
        layout=LAYOUT,
        name=name,
        digest=digest,
        quantize=quantize,
        weights_size=plan.size,
        config=checkpoint.config,
        tokens=tokens,
        tokenizer=tokenizer,
        matrices={name: replace(entry, squared_checkpoint_steps=steps[name]) for name, entry in plan.matrices.items()},
        vectors=plan.vectors,
    )
    (folder / DESCRIPTION_FILE).write_bytes(msgspec.json.encode(description))
    for path in (folder / tokenizer, folder / DESCRIPTION_FILE, folder):
        sync(path)
    return description


class _Plan:
    """Where in `weights.bin` every array goes."""

    def __init__(self, tensors: Mapping[str, Tensor], quantize: Quantize) -> None:
        self.size = 0
        self.matrices: dict[str, MatrixEntry] = {}
        self.vectors: dict[str, Region] = {}
        storages = quantization.storages(tensors, quantize)
        for name, tensor in tensors.items():
            if len(tensor.shape) == 1:
                self.vectors[name] = self._region(np.dtype(np.float32), tensor.shape, LINE)
            else:
                self.matrices[name] = self._matrix(tensor.shape, storages[name])
        self.size = _aligned(self.size, PAGE)

    def _matrix(self, shape: tuple[int, ...], storage: Storage) -> MatrixEntry:
        rows, columns = shape
        panels, format_, group = -(-rows // PANEL), storage.format, storage.group or 0
        values = self._region(np.dtype(np.uint8), (panels, format_.panel_bytes(columns, group)), PAGE)
        if not group:
            return MatrixEntry(rows, columns, format_, values)
        groups = (panels, padded(columns, group) // group, PANEL)
        scales = self._region(storage.dtype, groups, LINE)
        minimums = self._region(storage.dtype, groups, LINE) if storage.minimums else None
        return MatrixEntry(rows, columns, format_, values, scales, minimums, group)

    def _region(self, dtype: np.dtype[Any], shape: tuple[int, ...], alignment: int) -> Region:
        region = Region(_aligned(self.size, alignment), dtype.name, shape)  # type: ignore[arg-type]
        self.size = region.offset + region.size
        return region


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _write_weights(tensors: Mapping[str, Tensor], plan: _Plan, path: Path, progress: Progress) -> Mapping[str, float]:
    """Returns `ServedBase.squared_checkpoint_steps` of every matrix."""
    steps = dict.fromkeys(plan.matrices, 0.0)
    total = sum(tensor.row_bytes * _rows(tensor) for tensor in tensors.values())
    done = 0
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def write(name: str, tensor: Tensor, start: int, stop: int) -> tuple[str, int, float]:
        rows = _finite(tensor.rows(start, stop), tensor.source)
        _write_rows(file, name, plan, rows, start // PANEL)
        squares = (
            _squared_steps(rows) if isinstance(rows, Quantized) and plan.matrices[name].group == SPREAD_INPUTS else 0.0
        )
        return name, (stop - start) * tensor.row_bytes, squares

    try:
        os.ftruncate(file, plan.size)
        with ThreadPoolExecutor(THREADS) as threads:
            for name, size, squares in threads.map(write, *zip(*_chunks(tensors), strict=True)):
                done += size
                if name in steps:
                    steps[name] += squares
                progress("Converting", done, total)
        os.fsync(file)
    finally:
        os.close(file)
    return steps


def _squared_steps(rows: Quantized) -> float:
    """The sum over all weights of the squared distance between neighbouring values."""
    group = rows.q.shape[1] // rows.scales.shape[1]
    return float(group * np.square(rows.scales, dtype=np.float64).sum())


def _chunks(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, int, int]]:
    """Name, tensor, first and last row of pieces that are converted independently."""
    for name, tensor in tensors.items():
        step = max(CHUNK_WEIGHTS // tensor.shape[-1] // PANEL, 1) * PANEL
        for start in range(0, _rows(tensor), step):
            yield name, tensor, start, min(start + step, _rows(tensor))


def _rows(tensor: Tensor) -> int:
    return tensor.shape[0] if len(tensor.shape) > 1 else 1


def _write_rows(file: int, name: str, plan: _Plan, rows: Floats | Quantized, panel: int) -> None:
    """Write rows that start with `panel` to their place."""
    if (vector := plan.vectors.get(name)) is not None:
        assert not isinstance(rows, Quantized)  # noqa: S101
        _write(file, rows.astype(np.float32), vector.offset)
        return
    entry = plan.matrices[name]
    for region, packed in zip(entry.regions, _packed(rows, entry, name), strict=True):
        _write(file, packed, region.offset + panel * (packed.nbytes // len(packed)))


def _packed(rows: Floats | Quantized, entry: MatrixEntry, name: str) -> list[NDArray[Any]]:
    """The panels of some rows: values and, for whole numbers, scales and perhaps minimums."""
    bits = entry.format.bits
    if bits is None:
        assert not isinstance(rows, Quantized)  # noqa: S101
        return [pack_float_rows(rows)]
    quantized: Quantized = _finite(_quantized(rows, bits, entry.group), name)
    packed = pack_integer_rows(*quantized, bits, entry.group)
    return [array for array in packed if array is not None]


def _quantized(rows: Floats | Quantized, bits: int, group: int) -> Quantized:
    """Rows as a matrix of whole numbers with scales for so many weights holds them."""
    if group == SPREAD_INPUTS:
        return quantization.spread_rows(rows, bits)
    assert isinstance(rows, Quantized)  # noqa: S101
    return rows


def _finite(rows: Any, source: str) -> Any:
    numbers = [rows.scales, rows.minimums] if isinstance(rows, Quantized) else [rows]
    if not all(np.isfinite(array).all() for array in numbers if array is not None):
        raise WeightsInvalid(f"tensor {source} holds numbers that are not finite or too large")
    return rows


def _write(file: int, array: NDArray[Any], offset: int) -> None:
    view = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    while view:
        written = os.pwrite(file, view, offset)
        offset += written
        view = view[written:]
