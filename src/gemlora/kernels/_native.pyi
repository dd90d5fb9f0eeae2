"""The native kernels; gemlora.kernels.native is their typed face.

Arrays are checked: a wrong type, dimension, size, layout, id or position raises ValueError.
"""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from gemlora.kernels.interface import Float32, Int32
from gemlora.kernels.sampling import SamplingBatch

_Array = NDArray[Any]

def instruction_sets() -> list[str]:
    """Those this processor can run, the fastest first."""

class Matrix:
    def __init__(
        self,
        rows: int,
        columns: int,
        format: int,
        values: _Array,
        scales: _Array | None,
        minimums: _Array | None,
        group: int,
        quantize_activations: bool,
    ) -> None: ...

class Adapter:
    def __init__(self) -> None: ...
    def add(
        self,
        layer: int,
        module: str,
        a: _Array,
        a_type: int,
        b: _Array,
        b_type: int,
        inputs: int,
        outputs: int,
        scale: float,
        output_scale: Float32 | None,
    ) -> None: ...
    def set_embedding(
        self, a: _Array, a_type: int, b: _Array, b_type: int, outputs: int, scale: float, output_scale: Float32 | None
    ) -> None: ...
    def set_head(
        self,
        a: _Array,
        a_type: int,
        b: _Array,
        b_type: int,
        inputs: int,
        outputs: int,
        scale: float,
        output_scale: Float32 | None,
    ) -> None: ...

class Segments:
    def __init__(self, adapters: list[Adapter | None], ends: Int32) -> None: ...

class Program:
    def run(self, segments: Segments) -> None:
        """Make the recorded calls again."""

class Library:
    def __init__(self, threads: int, instruction_set: str) -> None: ...
    def begin_recording(self) -> Program:
        """From now on calls become part of a program; not those of `sample` and the norms."""

    def end_recording(self) -> None: ...
    def linear(self, x: Float32, matrices: Sequence[Matrix], out: Float32) -> None: ...
    def most_likely(self, x: Float32, head: Matrix, softcap: float | None, tokens: Int32) -> None: ...
    def embed(self, matrix: Matrix, tokens: Int32, scale: float, out: Float32) -> None: ...
    def rms_norm(self, x: Float32, weight: Float32, epsilon: float, out: Float32) -> None: ...
    def add_branch(
        self,
        stream: Float32,
        branch: Float32,
        branch_norm: Float32 | None,
        norm: Float32,
        epsilon: float,
        normed: Float32,
    ) -> None: ...
    def rotate(
        self,
        queries: Float32,
        query_norm: Float32 | None,
        keys: Float32,
        key_norm: Float32 | None,
        epsilon: float,
        cosines: Float32,
        sines: Float32,
        positions: Int32,
    ) -> None: ...
    def store_kv(
        self,
        keys: Float32,
        values: Float32,
        cache: _Array,
        block_tables: Int32,
        sequence_of_row: Int32,
        positions: Int32,
    ) -> None: ...
    def attend(
        self,
        queries: Float32,
        cache: _Array,
        block_tables: Int32,
        sequence_of_row: Int32,
        positions: Int32,
        scale: float,
        window: int | None,
        softcap: float | None,
        out: Float32,
    ) -> None: ...
    def gelu_gate(self, gate_up: Float32, out: Float32) -> None: ...
    def softcap(self, x: Float32, cap: float) -> None: ...
    def adapt(
        self, x: Float32, out: Float32, segments: Segments, layer: int, modules: Sequence[tuple[str, int]]
    ) -> None: ...
    def adapt_head(self, x: Float32, out: Float32, segments: Segments) -> None: ...
    def adapt_embedding(self, tokens: Int32, scale: float, out: Float32, segments: Segments) -> None: ...
    def row_norms(self, matrix: Matrix, left: Float32, right: Float32, out: Float32) -> None: ...
    def column_norms(self, matrix: Matrix, left: Float32, right: Float32, out: Float32) -> None: ...
    def sample(self, logits: Float32, batch: SamplingBatch, tokens: Int32) -> None: ...
