"""From the registry's files to the arrays of a packed adapter."""

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.cpu.adapters.layout import FILE_DTYPES, AdapterLayout, PairLayout, ServedBase
from gemlora.engines.cpu.adapters.originals import WeightsFile
from gemlora.engines.cpu.dora import embedding_output_scale, output_scale
from gemlora.errors import AdapterInvalid
from gemlora.kernels import Kernels, Matrix
from gemlora.kernels.lora import SCALED_BYTES, from_panels, in_panels, in_scaled_bytes
from gemlora.kernels.matrix import SPREAD_DIVISOR, SPREAD_INPUTS
from gemlora.storage.manifest import AdapterManifest, BaseCopy, EmbeddingLora, Tensor

ROWS = 4096
"""Rows of a base matrix that are compared at a time."""

ROUNDING = 0.505
"""Steps of each float type by which a copy of the base may differ where the types do: half, and the second order."""

STEPS = {"float32": (2.0**-23, 2.0**-149), "float16": (2.0**-10, 2.0**-24), "bfloat16": (2.0**-7, 2.0**-133)}
"""Between neighbouring values of a float type: relative to their size, and the least."""

QUANTISED_ROUNDING = 1e-2
"""Relative RMS by which a copy may differ from a quantised base beside the quantisation: bfloat16 differs by 0.002."""

QUANTISATION_MARGIN = 2.0
"""Times the error that evenly spread values have when rounded to the matrix's steps; clipped ones have more."""


def pack(
    layout: AdapterLayout,
    manifest: AdapterManifest,
    weights: WeightsFile,
    base: ServedBase,
    kernels: Kernels,
    memory: NDArray[np.uint8],
) -> None:
    """Fill the bytes of all arrays, which must be zero.

    Raises `AdapterInvalid` if a value is not finite or a copy of the base differs from the base that is served.
    """
    for copy in manifest.copies:
        _compare(copy, weights, base, kernels)
    for pair in layout.pairs:
        _fill(pair, weights, base, kernels, memory)


def _fill(
    pair: PairLayout, weights: WeightsFile, base: ServedBase, kernels: Kernels, memory: NDArray[np.uint8]
) -> None:
    source = pair.source
    of_embedding = isinstance(source, EmbeddingLora)
    a = _read(f"{pair.name}, A", source.a, weights, pair.a.dtype)
    b = _read(f"{pair.name}, B", source.b, weights, pair.b.dtype)
    if of_embedding:
        pair.a.view(memory)[...] = a.T
    else:
        a = _fill_panels(pair.a.view(memory), a)
    b = _fill_panels(pair.b.view(memory), b.T).T
    if pair.output_scale is not None and source.magnitude is not None:
        magnitude = weights.read(source.magnitude).astype(np.float32)
        scale_of = embedding_output_scale if of_embedding else output_scale
        scale = scale_of(kernels, base.matrix(pair.matrix), a, b, source.scale, magnitude)
        if not np.isfinite(scale).all():
            raise AdapterInvalid(f"{pair.name}: the magnitude over the norm of the weights is not finite")
        pair.output_scale.view(memory)[...] = scale


def _fill_panels(panels: NDArray[np.generic], factor: NDArray[np.generic]) -> NDArray[np.generic]:
    """Pack A [r, K], or B transposed [r, N]. Returns what the panels hold, which may be rounded."""
    if panels.dtype != SCALED_BYTES:
        panels[...] = in_panels(factor)
        return factor
    panels[...] = in_scaled_bytes(factor)
    return from_panels(panels, factor.shape[1])


def _read(name: str, tensor: Tensor, weights: WeightsFile, resident: np.dtype[np.generic]) -> NDArray[np.generic]:
    dtype = FILE_DTYPES["F32"] if resident == SCALED_BYTES else resident
    with np.errstate(over="ignore"):
        values = weights.read(tensor).astype(dtype)  # converting while transposing is four times slower
    if not np.isfinite(values).all():
        raise AdapterInvalid(f"{name}: not all values are finite as {dtype}")
    return values


def _compare(copy: BaseCopy, weights: WeightsFile, base: ServedBase, kernels: Kernels) -> None:
    """PEFT saves the base's weights beside an adapter of the embedding or the head, changed or not."""
    name = "embedding" if copy.module == "embed_tokens" or base.tied else "head"
    matrix = base.matrix(name)
    comparison = _Comparison(matrix, base.squared_checkpoint_steps(name), FILE_DTYPES[copy.tensor.dtype])
    for start in range(0, matrix.rows, ROWS):
        served = np.empty((min(ROWS, matrix.rows - start), matrix.columns), np.float32)
        kernels.embed(matrix, np.arange(start, start + len(served), dtype=np.int32), 1.0, served)
        comparison.add(served, weights.read_rows(copy.tensor, start, start + ROWS).astype(np.float32))
    if not comparison.equal:
        raise AdapterInvalid(
            f"{copy.tensor.name}: the adapter was saved together with a changed embedding or head; "
            f"it differs from the served base by {comparison.relative:.2g} of its size"
        )


class _Comparison:
    """Whether saved rows are those of the served matrix, as far as its type and theirs can say."""

    def __init__(self, matrix: Matrix, squared_checkpoint_steps: float, saved_dtype: np.dtype[np.generic]) -> None:
        self._squared_steps = _squared_steps(matrix) + squared_checkpoint_steps
        self._squares = self._total = 0.0
        self._close = True
        self._quantised = matrix.format.bits is not None
        types = set() if self._quantised else {str(saved_dtype), str(matrix.format.dtype)}
        steps = [STEPS[each] for each in types if len(types) > 1]
        self._step = ROUNDING * sum(step for step, _ in steps)
        self._least = ROUNDING * sum(least for _, least in steps)

    def add(self, served: NDArray[np.float32], saved: NDArray[np.float32]) -> None:
        """Compare some rows [T, K]."""
        difference = np.abs(saved - served)
        self._squares += float(np.square(difference, dtype=np.float64).sum())
        self._total += float(np.square(served, dtype=np.float64).sum())
        if not self._quantised:
            self._close &= bool((difference <= self._step * np.abs(served) + self._least).all())

    @property
    def equal(self) -> bool:
        """Floats within half a step of both types, exactly with one type; quantised ones by their size altogether."""
        if not self._quantised:
            return self._close
        rounding = (self._squared_steps / 12) ** 0.5
        allowed = QUANTISED_ROUNDING * self._total**0.5 + QUANTISATION_MARGIN * rounding
        return bool(self._squares**0.5 <= allowed)

    @property
    def relative(self) -> float:
        """The size of the difference over that of the served matrix."""
        return float(self._squares**0.5 / max(self._total, 1e-30) ** 0.5)


def _squared_steps(matrix: Matrix) -> float:
    """The sum over all weights of the squared distance between neighbouring values that a quantised matrix can hold.

    Embedding and head never have 4 bits that are spread, whose neighbouring values lie at other distances. An error e
    of a spread weight becomes one of e / 16 in each of its group, so all 128 together leave e² / 2 in each. A whole
    group's error is counted although some of it falls on padding: where at most half of a group are weights,
    its spread numbers repeat themselves, and so do their errors, which then fall on those weights alone.
    """
    if matrix.scales is None:
        return 0.0
    squares = float(np.square(matrix.scales, dtype=np.float64).sum()) * matrix.group
    return squares * SPREAD_DIVISOR**2 / SPREAD_INPUTS if matrix.is_spread else squares
