"""From the registry's files to the arrays of a packed adapter."""

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.cpu.adapters.layout import AdapterLayout, PairLayout, ServedBase
from gemlora.engines.cpu.adapters.originals import WeightsFile
from gemlora.engines.cpu.dora import embedding_output_scale, output_scale
from gemlora.errors import AdapterInvalid
from gemlora.kernels import Format, Matrix
from gemlora.storage.manifest import AdapterManifest, BaseCopy, EmbeddingLora

ROWS = 4096
"""Rows of a base matrix that are compared at a time."""

ROUNDING = 1e-2
"""Relative RMS by which a copy of the base may differ: bfloat16 beside float32 differs by 0.002."""

QUANTISATION_MARGIN = 2.0
"""Times the error that evenly spread values have when rounded to the matrix's steps; clipped ones have more."""


def pack(
    layout: AdapterLayout, manifest: AdapterManifest, weights: WeightsFile, base: ServedBase, memory: NDArray[np.uint8]
) -> None:
    """Fill the bytes of all arrays, which must be zero.

    Raises `AdapterInvalid` if a value is not finite or a copy of the base differs from the base that is served.
    """
    for copy in manifest.copies:
        _compare(copy, weights, base)
    for pair in layout.pairs:
        _fill(pair, weights, base, memory)


def _fill(pair: PairLayout, weights: WeightsFile, base: ServedBase, memory: NDArray[np.uint8]) -> None:
    source = pair.source
    of_embedding = isinstance(source, EmbeddingLora)
    a, b = pair.a.view(memory), pair.b.view(memory)
    for letter, tensor, array, transposed in (("A", source.a, a, of_embedding), ("B", source.b, b, True)):
        with np.errstate(over="ignore"):
            values = weights.read(tensor).astype(array.dtype)  # converting while transposing is four times slower
        if not np.isfinite(values).all():
            raise AdapterInvalid(f"{pair.name}, {letter}: not all values are finite as {array.dtype}")
        array[...] = values.T if transposed else values
    if pair.output_scale is not None and source.magnitude is not None:
        magnitude = weights.read(source.magnitude).astype(np.float32)
        scale_of = embedding_output_scale if of_embedding else output_scale
        scale = scale_of(base.matrix(pair.matrix), a, b, source.scale, magnitude)
        if not np.isfinite(scale).all():
            raise AdapterInvalid(f"{pair.name}: the magnitude over the norm of the weights is not finite")
        pair.output_scale.view(memory)[...] = scale


def _compare(copy: BaseCopy, weights: WeightsFile, base: ServedBase) -> None:
    """PEFT saves the base's weights beside an adapter of the embedding, changed or not."""
    matrix = base.matrix("embedding" if copy.module == "embed_tokens" or base.tied else "head")
    difference = total = 0.0
    for start in range(0, matrix.rows, ROWS):
        rows = np.arange(start, min(start + ROWS, matrix.rows))
        served = matrix.dequantised_rows(rows)
        saved = weights.read_rows(copy.tensor, start, start + ROWS).astype(np.float32)
        difference += float(np.square(saved - served, dtype=np.float64).sum())
        total += float(np.square(served, dtype=np.float64).sum())
    steps = _squared_steps(matrix) * matrix.rows * matrix.columns
    allowed = ROUNDING * total**0.5 + QUANTISATION_MARGIN * (steps / 12) ** 0.5
    if not difference**0.5 <= allowed:
        raise AdapterInvalid(
            f"{copy.tensor.name}: the adapter was saved together with a changed embedding or head; "
            f"it differs from the served base by {difference**0.5 / max(total, 1e-30) ** 0.5:.3f} of its size"
        )


def _squared_steps(matrix: Matrix) -> float:
    """The mean square of the distance between neighbouring values that the matrix can hold, 0 for floats."""
    if matrix.format is not Format.INT8 or matrix.scales is None:
        return 0.0
    return float(np.square(matrix.scales, dtype=np.float64).mean())
