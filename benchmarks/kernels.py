"""Each native kernel on the starter model's shapes, against its roofline: what the machine's limits would let it take.

python -m benchmarks.kernels [--rounds COUNT] [--threads N] [--instruction-set NAME] [--only TEXT] [--result FILE]

A call is repeated over the same arrays. What fits the caches is read from there, so it may take less than its roofline.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from benchmarks.machine import Limits, Machine
from benchmarks.results import Figures
from rich.console import Console
from rich.table import Table

from benchmarks import results
from gemlora.kernels import EmbeddingPair, LoraPair, LoraWeights, Matrix, SamplingBatch, Segments, aligned_rows
from gemlora.kernels.cache import cached_numbers
from gemlora.kernels.lora import in_scaled_bytes
from gemlora.kernels.matrix import SPREAD_INPUTS
from gemlora.kernels.native import NativeKernels, instruction_sets

RESULT = results.FOLDER / "kernels.json"
FLOATS_PER_INT8 = 0.25
"""Multiply-adds of float32 in the time of one of int8: a vector holds 16 instead of 64."""

HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, HEAD_SIZE, VOCABULARY = 640, 2048, 4, 1, 256, 262144
BLOCK = 32
RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Case:
    """One call with the work it does: multiply-adds, of float32 or of int8, and bytes that it must read."""

    name: str
    call: Callable[[], object]
    macs: float = 0
    bytes: float = 0
    floats: bool = True

    def roofline(self, limits: Limits) -> float | None:
        """Seconds below which the machine cannot do it; None if its arithmetic's limit is not known."""
        peak = limits.int8_gmacs_per_second * (FLOATS_PER_INT8 if self.floats else 1)
        if self.macs and not peak:
            return None
        return max(self.macs / peak if self.macs else 0, self.bytes / limits.read_gigabytes_per_second) / 1e9


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


def spread_matrix(outputs: int, inputs: int) -> Matrix:
    """The int8 weights that meet quantised activations."""
    quantised = RNG.integers(-127, 128, (outputs, inputs), dtype=np.int8)
    return Matrix.from_spread(quantised, scales_of(outputs, inputs // SPREAD_INPUTS, np.float16), inputs)


def integer_matrix(
    outputs: int, inputs: int, *, bits: int, group: int = 32, minimums: bool = False, quantize: bool = True
) -> Matrix:
    highest = (1 << (bits - 1)) - 1
    quantised = RNG.integers(0 if bits == 4 and minimums else -highest, highest + 1, (outputs, inputs), dtype=np.int8)
    scales = scales_of(outputs, inputs // group, np.float32 if minimums else np.float16)
    return Matrix.from_integers(
        quantised, scales, scales if minimums else None, bits=bits, quantize_activations=quantize
    )


def scales_of(outputs: int, groups: int, dtype: type) -> np.ndarray:
    return (RNG.random((outputs, groups), np.float32) / 1000).astype(dtype)


def size_of(matrices: list[Matrix]) -> int:
    arrays = [array for m in matrices for array in (m.values, m.scales, m.minimums) if array is not None]
    return sum(array.nbytes for array in arrays)


def linear_case(kernels: NativeKernels, name: str, rows: int, matrices: list[Matrix]) -> Case:
    x = floats(rows, matrices[0].columns)
    out = aligned_rows(rows, sum(matrix.rows for matrix in matrices))
    macs = rows * sum(matrix.rows * matrix.columns for matrix in matrices)
    floats_ = any(matrix.format.bits is None or not matrix.quantize_activations for matrix in matrices)
    return Case(f"{name}, {rows} rows", lambda: kernels.linear(x, matrices, out), macs, size_of(matrices), floats_)


def linear_cases(kernels: NativeKernels) -> Iterator[Case]:
    gate_up = [spread_matrix(FEED_FORWARD, HIDDEN), spread_matrix(FEED_FORWARD, HIDDEN)]
    down = [spread_matrix(HIDDEN, FEED_FORWARD)]
    sizes = (HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE)
    qkv = [spread_matrix(size, HIDDEN) for size in sizes]
    head = [spread_matrix(VOCABULARY, HIDDEN)]
    for rows in (1, 4, 16):
        yield linear_case(kernels, "head int8", rows, head)
    for rows in (1, 16, 512):
        yield linear_case(kernels, "qkv int8", rows, qkv)
        yield linear_case(kernels, "gate and up int8", rows, gate_up)
        yield linear_case(kernels, "down int8", rows, down)
    for rows in (16, 512):
        with_minimums = [integer_matrix(FEED_FORWARD, HIDDEN, bits=4, minimums=True)]
        yield linear_case(kernels, "up int4, minimums", rows, with_minimums)
        yield linear_case(kernels, "up int4", rows, [integer_matrix(FEED_FORWARD, HIDDEN, bits=4)])
        as_floats = [integer_matrix(FEED_FORWARD, HIDDEN, bits=8, quantize=False)]
        yield linear_case(kernels, "up int8 × float32", rows, as_floats)
    for dtype in (np.float32, ml_dtypes.bfloat16, np.float16):
        matrix = [Matrix.from_floats(floats(FEED_FORWARD, HIDDEN).astype(dtype))]
        for rows in (1, 512):
            yield linear_case(kernels, f"up {np.dtype(dtype).name}", rows, matrix)


def attention_case(
    kernels: NativeKernels, rows: int, context: int, sequences: int, dtype: type, window: int | None = None
) -> Case:
    """`rows` new rows in each sequence, behind `context` − rows cached ones."""
    blocks = -(-context // BLOCK)
    cache = np.empty((sequences * blocks, 2, KV_HEADS, BLOCK, cached_numbers(HEAD_SIZE, dtype)), dtype)
    tables = np.arange(sequences * blocks, dtype=np.int32).reshape(sequences, blocks)
    sequence_of_row = np.repeat(np.arange(sequences, dtype=np.int32), rows)
    everything = np.arange(context, dtype=np.int32)
    for sequence in range(sequences):
        keys, values = floats(context, KV_HEADS, HEAD_SIZE), floats(context, KV_HEADS, HEAD_SIZE)
        kernels.store_kv(keys, values, cache, tables, np.full_like(everything, sequence), everything)
    positions = np.tile(everything[context - rows :], sequences)
    queries = floats(sequences * rows, HEADS, HEAD_SIZE)
    out = np.empty_like(queries)
    macs = float(2 * HEADS * HEAD_SIZE * np.sum(np.minimum(positions + 1.0, window or context)))
    name = f"attend {np.dtype(dtype).name}, {sequences} × {rows} rows, context {context}"
    if window:
        name += f", window {window}"
    return Case(
        name,
        lambda: kernels.attend(queries, cache, tables, sequence_of_row, positions, 1 / 16, window, None, out),
        macs,
        sequences * min(context, (window or context) + rows) * cache[0, ..., 0, :].nbytes,
        floats=dtype is np.float32,
    )


def attention_cases(kernels: NativeKernels, dtype: type) -> Iterator[Case]:
    yield attention_case(kernels, 512, 512, 1, dtype)
    yield attention_case(kernels, 64, 2048, 1, dtype)
    yield attention_case(kernels, 64, 2048, 1, dtype, window=512)
    for context in (160, 2048):
        for sequences in (1, 16, 32):
            yield attention_case(kernels, 1, context, sequences, dtype)
    yield attention_case(kernels, 1, 8192, 1, dtype)


def pair_of(rank: int, inputs: int, outputs: int) -> LoraPair:
    """A pair as it lies in memory beside a quantised base."""
    a, b = in_scaled_bytes(floats(rank, inputs)), in_scaled_bytes(floats(rank, outputs))
    return LoraPair(a, b, inputs, outputs, 0.5)


def lora_case(kernels: NativeKernels, rows: int, adapters: int, rank: int = 8) -> Case:
    pairs = [pair_of(rank, HIDDEN, FEED_FORWARD) for _ in range(adapters)]
    segments = Segments.of(
        [(LoraWeights(str(i), {(0, "up_proj"): pair}), rows // adapters) for i, pair in enumerate(pairs)]
    )
    x, out = floats(rows, HIDDEN), np.zeros((rows, FEED_FORWARD), np.float32)
    macs = rows * rank * (HIDDEN + FEED_FORWARD)
    return Case(
        f"adapt rank {rank}, {rows} rows, {adapters} adapters",
        lambda: kernels.adapt(x, out, segments, 0, (("up_proj", 0),)),
        macs,
        adapters * (pairs[0].a.nbytes + pairs[0].b.nbytes),
    )


def side_cases(kernels: NativeKernels, rows: int, rank: int = 8) -> Iterator[Case]:
    """LoRA on the embedding and on the output head."""
    vocabulary = VOCABULARY
    head = pair_of(rank, HIDDEN, vocabulary)
    embedding = EmbeddingPair(
        floats(vocabulary, rank).astype(ml_dtypes.bfloat16), in_scaled_bytes(floats(rank, HIDDEN)), HIDDEN, 0.5
    )
    segments = Segments.of([(LoraWeights("both", {}, embedding, head), rows)])
    x, logits = floats(rows, HIDDEN), np.zeros((rows, vocabulary), np.float32)
    tokens = np.arange(rows, dtype=np.int32)
    yield Case(
        f"adapt head rank {rank}, {rows} rows",
        lambda: kernels.adapt_head(x, logits, segments),
        rows * rank * (HIDDEN + vocabulary),
        head.b.nbytes,
    )
    yield Case(
        f"adapt embedding rank {rank}, {rows} rows",
        lambda: kernels.adapt_embedding(tokens, 25.25, x, segments),
        rows * rank * HIDDEN,
        embedding.b.nbytes + rows * rank * embedding.a.itemsize,
    )


def sample_case(kernels: NativeKernels, name: str, rows: int, temperature: float, top_k: int, top_p: float) -> Case:
    logits = floats(rows, VOCABULARY) * 4
    zeros = np.zeros(rows, np.float32)
    batch = SamplingBatch(
        temperature=zeros + np.float32(temperature),
        top_k=np.full(rows, top_k, np.int32),
        top_p=zeros + np.float32(top_p),
        seed=np.arange(rows, dtype=np.uint64),
        index=np.arange(rows, dtype=np.uint64),
        repetition_penalty=zeros,
        frequency_penalty=zeros,
        presence_penalty=zeros,
        history_tokens=np.zeros(0, np.int32),
        history_counts=np.zeros(0, np.int32),
        history_ends=np.zeros(rows, np.int64),
    )
    copy = np.empty_like(logits)

    def call() -> None:
        copy[:] = logits
        kernels.sample(copy, batch)

    return Case(f"sample (and copy) {name}, {rows} rows", call, 0, 2 * logits.nbytes)


def row_cases(kernels: NativeKernels) -> Iterator[Case]:
    for rows in (1, 512):
        x, weight, out = floats(rows, HIDDEN), floats(HIDDEN), np.empty((rows, HIDDEN), np.float32)
        gate_up, gated = floats(rows, 2 * FEED_FORWARD), np.empty((rows, FEED_FORWARD), np.float32)
        queries, tables = floats(rows, HEADS, HEAD_SIZE), floats(8192, HEAD_SIZE // 2)
        positions = np.arange(rows, dtype=np.int32)
        yield Case(
            f"rms_norm, {rows} rows",
            lambda x=x, w=weight, o=out: kernels.rms_norm(x, w, 1e-6, o),
            0,
            2 * x.nbytes,
        )
        yield Case(
            f"add_branch, {rows} rows",
            lambda x=x, y=out, w=weight: kernels.add_branch(x, y, w, w, 1e-6, y),
            0,
            4 * x.nbytes,
        )
        keys = floats(rows, KV_HEADS, HEAD_SIZE)
        norm = floats(HEAD_SIZE)
        yield Case(
            f"rotate, {rows} rows",
            lambda q=queries, k=keys, n=norm, t=tables, p=positions: kernels.rotate(q, n, k, n, 1e-6, t, t, p),
            0,
            3 * (queries.nbytes + keys.nbytes),
        )
        yield Case(
            f"gelu_gate, {rows} rows", lambda g=gate_up, o=gated: kernels.gelu_gate(g, o), 0, 1.5 * gate_up.nbytes
        )
    keys = floats(512, KV_HEADS, HEAD_SIZE)
    cache = np.zeros((16, 2, KV_HEADS, BLOCK, cached_numbers(HEAD_SIZE, np.uint8)), np.uint8)
    table, zeros = np.arange(16, dtype=np.int32)[None], np.zeros(512, np.int32)
    positions = np.arange(512, dtype=np.int32)
    yield Case(
        "store_kv uint8, 512 rows",
        lambda: kernels.store_kv(keys, keys, cache, table, zeros, positions),
        0,
        3 * keys.nbytes,
    )
    matrix, tokens, out = (
        spread_matrix(VOCABULARY // 16, HIDDEN),
        np.arange(512, dtype=np.int32),
        np.empty((512, HIDDEN), np.float32),
    )
    yield Case("embed int8, 512 rows", lambda: kernels.embed(matrix, tokens, 25.25, out), 0, out.nbytes)
    left, right = floats(matrix.rows, 8), floats(8, matrix.columns)
    rows_out, columns_out = np.zeros(matrix.rows, np.float32), np.zeros(matrix.columns, np.float32)
    macs = matrix.rows * matrix.columns * 9
    yield Case(
        "row norms int8, rank 8", lambda: kernels.row_norms(matrix, left, right, rows_out), macs, matrix.values.nbytes
    )
    yield Case(
        "column norms int8, rank 8",
        lambda: kernels.column_norms(matrix, left, right, columns_out),
        macs,
        matrix.values.nbytes,
    )


def cases(kernels: NativeKernels) -> Iterator[Case]:
    yield from linear_cases(kernels)
    for dtype in (np.uint8, np.float32):
        yield from attention_cases(kernels, dtype)
    yield lora_case(kernels, 1, 1)
    yield lora_case(kernels, 16, 1)
    yield lora_case(kernels, 16, 16)
    yield lora_case(kernels, 512, 1)
    yield from side_cases(kernels, 1)
    yield from side_cases(kernels, 16)
    yield from row_cases(kernels)
    for rows in (1, 16):
        yield sample_case(kernels, "greedy", rows, 0, 0, 1)
        yield sample_case(kernels, "temperature 0.6", rows, 0.6, 0, 1)
        yield sample_case(kernels, "top-k 50", rows, 1, 50, 1)
        yield sample_case(kernels, "top-p 0.9", rows, 1, 0, 0.9)


def measure(case: Case, seconds: float) -> float:
    """The median of the seconds that a call takes."""
    case.call()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < until:
        start = time.perf_counter()
        case.call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def figures_of(case: Case, seconds: float, limits: Limits) -> Figures:
    """Its time, and the share of the roofline that it reaches."""
    figures = {f"{case.name}.seconds": seconds}
    if (roofline := case.roofline(limits)) is not None:
        figures[f"{case.name}.share_of_roofline"] = roofline / seconds
    return figures


def table_of(measured: list[Case], figures: Figures, title: str) -> Table:
    """All of it for a terminal."""
    table = Table("kernel", title=title)
    for heading in ("ms", "GMAC/s", "GB/s", "of roofline"):
        table.add_column(heading, justify="right")
    for case in measured:
        seconds, share = figures[f"{case.name}.seconds"], figures.get(f"{case.name}.share_of_roofline")
        table.add_row(
            case.name,
            f"{seconds * 1e3:.3f}",
            f"{case.macs / seconds / 1e9:.1f}" if case.macs else "",
            f"{case.bytes / seconds / 1e9:.1f}",
            "" if share is None else f"{share:.0%}",
        )
    return table


def main() -> None:
    """Measure, show and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--instruction-set", default="auto", choices=["auto", *instruction_sets()])
    parser.add_argument("--only", default="", help="only cases whose name has this text")
    parser.add_argument("--seconds", type=float, default=0.2, help="time per case and round")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    kernels = NativeKernels(arguments.threads, arguments.instruction_set)
    measured = [case for case in cases(kernels) if arguments.only in case.name]
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        machine = Machine(Path(name))
        for number in range(arguments.rounds):
            limits = machine.limits_of(kernels.threads)
            figures: Figures = {}
            for case in measured:
                figures |= figures_of(case, measure(case, arguments.seconds), limits)
            rounds.append({"limits": [asdict(limits)], "figures": figures})
            print(f"round {number + 1}/{arguments.rounds}", asdict(limits))
    figures = results.medians(each["figures"] for each in rounds)
    settings = {"instruction_set": kernels.instruction_set, "threads": kernels.threads}
    Console(width=110).print(table_of(measured, figures, "{instruction_set}, {threads} threads".format(**settings)))
    results.write(arguments.result, figures, rounds, **settings)


if __name__ == "__main__":
    main()
