"""Arrays of a wrong type, size or layout, and numbers out of range, are refused before anything is written."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from tests.lora_pairs import embedding_pair, linear_pair

from gemlora.kernels import Format, LoraPair, LoraWeights, Matrix, SamplingBatch, Segments
from gemlora.kernels.lora import SCALED_BYTES
from gemlora.kernels.native import NativeKernels


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def integers(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def misaligned(array: np.ndarray) -> np.ndarray:
    copy = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


SPREAD = {
    "format": Format.INT8, "group": 128, "values": np.zeros((2, 2048), np.uint8), "scales": floats(2, 1, 16),
}  # fmt: skip
"""What makes a spread matrix of the one below."""


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return Matrix.from_integers(np.ones((20, 64), np.int8), floats(20, 2), bits=4, quantize_activations=True)


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("x", "out", "message"),
    [
        (np.ones((3, 64)), floats(3, 20), "x must be of type float32"),
        (floats(64), floats(3, 20), "x must be an array of 2 dimensions"),
        (np.asfortranarray(floats(3, 64)), floats(3, 20), "x must be contiguous in its last dimension"),
        (floats(3, 128)[:, ::2], floats(3, 20), "x must be contiguous in its last dimension"),
        (floats(3, 63), floats(3, 20), "inputs of a matrix: 64 instead of 63"),
        (floats(3, 64), floats(2, 20), "rows of out: 2 instead of 3"),
        (floats(3, 64), floats(3, 21), "columns of out: 21 instead of 20"),
        (floats(3, 64), read_only(floats(3, 20)), "out must be a writable array"),
        ([[1.0]], floats(3, 20), "x must be an array"),
        (misaligned(floats(3, 64)), floats(3, 20), "x must be aligned"),
        (floats(3, 64), misaligned(floats(3, 20)), "out must be aligned"),
        (as_strided(floats(64), (2**31 + 1, 64), (0, 4)), floats(3, 20), "x must be at most 2\\^31 long"),
    ],
)
def test_linear_checks_its_arrays(native: NativeKernels, matrix: Matrix, x, out, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        native.linear(x, [matrix], out)


def test_the_most_likely_outputs_are_those_of_rows_that_fit(native: NativeKernels, matrix: Matrix) -> None:
    with pytest.raises(ValueError, match="inputs of the head: 64 instead of 60"):
        native.most_likely(floats(3, 60), matrix, None, np.empty(3, np.int32))
    with pytest.raises(ValueError, match="tokens"):
        native.most_likely(floats(3, 64), matrix, None, np.empty(2, np.int32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": np.zeros(100, np.uint8)}, "values must be contiguous and 1024 bytes long"),
        ({"scales": floats(2, 2, 15)}, "scales must be 256 bytes long, not 240"),
        ({"scales": np.ones((2, 2, 16))}, "scales must be float16 or float32"),
        ({"scales": None}, "scales must be an array"),
        ({"minimums": floats(1)}, "minimums must be 256 bytes long, not 4"),
        ({"group": 16}, "group must be 32 or 128"),
        ({"group": 128, "quantize_activations": False}, "group must be 32"),
        ({"format": Format.INT8}, "group must be 128"),
        ({"format": Format.INT8, "group": 128, "quantize_activations": False}, "group must be 16 or 32"),
        ({**SPREAD, "minimums": floats(2, 1, 16)}, "minimums must be None for a spread matrix"),
        ({"rows": 0}, "rows and columns must be between"),
        ({"columns": -1}, "rows and columns must be between"),
        ({"rows": 2**28 + 1}, "rows and columns must be between"),
        ({"columns": 2**28 + 1}, "rows and columns must be between"),
        ({"scales": misaligned(floats(2, 2, 16))}, "scales must be contiguous and aligned"),
        ({"format": 7}, "type must be 0"),
    ],
)
def test_matrices_are_checked(native: NativeKernels, matrix: Matrix, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        native.linear(floats(1, 64), [replace(matrix, **change)], floats(1, 20))


def test_read_only_weights_are_fine(native: NativeKernels, matrix: Matrix) -> None:
    out = floats(1, 20)
    native.linear(floats(1, 64), [replace(matrix, values=read_only(matrix.values.copy()))], out)
    np.testing.assert_allclose(out, 64)


@pytest.mark.parametrize("token", [-1, 20, 2**31 - 1])
def test_embed_checks_ids(native: NativeKernels, matrix: Matrix, token: int) -> None:
    out = floats(2, 64)
    with pytest.raises(ValueError, match=rf"tokens\[1\] is {token}, must be in 0 … 19"):
        native.embed(matrix, integers(0, token), 2.0, out)
    assert (out == 1).all()


def test_rows_check_their_shapes(native: NativeKernels) -> None:
    with pytest.raises(ValueError, match="weight must be 8 long"):
        native.rms_norm(floats(2, 8), floats(7), 1e-6, floats(2, 8))
    with pytest.raises(ValueError, match="shape of out"):
        native.rms_norm(floats(2, 8), floats(8), 1e-6, floats(3, 8))
    with pytest.raises(ValueError, match="shape of branch"):
        native.add_branch(floats(2, 8), floats(2, 9), None, floats(8), 1e-6, floats(2, 8))
    with pytest.raises(ValueError, match="columns of gate_up: 8 instead of 10"):
        native.gelu_gate(floats(2, 8), floats(2, 5))
    with pytest.raises(ValueError, match="size of a head: 8 instead of 6"):
        native.rotate(floats(2, 1, 8), None, floats(2, 1, 8), None, 1e-6, floats(9, 3), floats(9, 3), integers(0, 1))
    with pytest.raises(ValueError, match=r"positions\[1\] is 9, must be in 0 … 8"):
        native.rotate(floats(2, 1, 8), None, floats(2, 1, 8), None, 1e-6, floats(9, 4), floats(9, 4), integers(0, 9))
    with pytest.raises(ValueError, match="positions must be of type int32"):
        native.rotate(
            floats(1, 1, 8), None, floats(1, 1, 8), None, 1e-6, floats(9, 4), floats(9, 4), np.zeros(1, np.int64)
        )
    with pytest.raises(ValueError, match="key_norm must be 8 long"):
        native.rotate(
            floats(2, 1, 8), None, floats(2, 1, 8), floats(7), 1e-6, floats(9, 4), floats(9, 4), integers(0, 1)
        )
    with pytest.raises(ValueError, match="rows of keys: 1 instead of 2"):
        native.rotate(floats(2, 1, 8), None, floats(1, 1, 8), None, 1e-6, floats(9, 4), floats(9, 4), integers(0, 1))


CACHE = np.zeros((4, 2, 1, 16, 8), np.float32)
GOOD = {
    "queries": floats(2, 2, 8), "cache": CACHE, "block_tables": integers(1, 3)[None],
    "sequence_of_row": integers(0, 0), "positions": integers(4, 17), "scale": 1.0, "window": None, "softcap": None,
    "out": floats(2, 2, 8),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": floats(2, 2, 9)}, "shape of out"),
        ({"queries": floats(2, 2, 9), "out": floats(2, 2, 9)}, "numbers of a cached position: 8 instead of 9"),
        ({"cache": CACHE[:, :1]}, "cache must be an array .*contiguous within a block"),
        ({"cache": CACHE[:, :, :, :8]}, "cache must be an array .*contiguous within a block"),
        ({"cache": np.zeros((4, 2, 1, 10, 8), np.float32)}, "whose size 16 divides"),
        ({"queries": floats(2, 0, 8), "out": floats(2, 0, 8)}, "query heads must be a positive multiple"),
        ({"cache": np.zeros((4, 2, 0, 16, 8), np.float32)}, "query heads must be a positive multiple"),
        ({"cache": np.zeros((4, 2, 3, 16, 8), np.float32)}, "query heads must be a positive multiple"),
        ({"cache": misaligned(CACHE)}, "cache must be aligned"),
        ({"cache": CACHE.astype(np.float64)}, "cache must be uint8 or float32"),
        ({"block_tables": integers(1, 4)[None]}, "block_tables names a block that the cache does not have"),
        ({"block_tables": integers(-1, 3)[None]}, "block_tables names a block that the cache does not have"),
        ({"block_tables": integers(1)[None]}, r"positions\[1\] is 17, must be in 0 … 15"),
        ({"sequence_of_row": integers(0, 1)}, r"sequence_of_row\[1\] is 1, must be in 0 … 0"),
        ({"sequence_of_row": integers(0)}, "sequence_of_row must be 2 long"),
        ({"positions": integers(-1, 3)}, r"positions\[0\] is -1"),
        ({"window": 0}, "window must be at least 1"),
    ],
)
def test_attend_checks_its_arguments(native: NativeKernels, change: dict, message: str) -> None:
    native.attend(**GOOD)
    with pytest.raises(ValueError, match=message):
        native.attend(**{**GOOD, **change})


def test_blocks_before_the_window_need_not_exist(native: NativeKernels) -> None:
    tables, position = integers(-1, 3)[None], integers(20)
    native.attend(**{**GOOD, "queries": floats(1, 2, 8), "out": floats(1, 2, 8), "block_tables": tables,
                     "sequence_of_row": integers(0), "positions": position, "window": 5})  # fmt: skip


def test_store_kv_checks_its_arguments(native: NativeKernels) -> None:
    keys, cache = floats(1, 1, 8), CACHE.copy()
    with pytest.raises(ValueError, match="heads of keys: 2 instead of 1"):
        native.store_kv(floats(1, 2, 8), floats(1, 2, 8), cache, integers(1)[None], integers(0), integers(0))
    with pytest.raises(ValueError, match="names a block"):
        native.store_kv(keys, keys, cache, integers(9)[None], integers(0), integers(0))
    with pytest.raises(ValueError, match=r"positions\[0\] is 16"):
        native.store_kv(keys, keys, cache, integers(1)[None], integers(0), integers(16))
    with pytest.raises(ValueError, match="cache must be a writable array"):
        native.store_kv(keys, keys, read_only(cache.copy()), integers(1)[None], integers(0), integers(0))
    assert not cache.any()


def test_adapt_checks_pairs_and_segments(native: NativeKernels) -> None:
    def adapter(a: np.ndarray, b: np.ndarray) -> LoraWeights:
        return LoraWeights("x", {(0, "q_proj"): linear_pair(a, b, 1.0)})

    def packed(a: np.ndarray, b: np.ndarray, inputs: int = 8, outputs: int = 6, layer: int = 0) -> LoraWeights:
        return LoraWeights("x", {(layer, "q_proj"): LoraPair(a, b, inputs, outputs, 1.0)})

    def adapt(weights: LoraWeights, ends: np.ndarray) -> None:
        native.adapt(floats(2, 8), floats(2, 6), Segments((weights,), ends), 0, (("q_proj", 0),))

    good = adapter(floats(4, 8), floats(4, 6))
    adapt(good, integers(2))
    with pytest.raises(ValueError, match="within the rows"):
        adapt(good, integers(3))
    with pytest.raises(ValueError, match="ends must be in order"):
        adapt(good, integers(-1))
    with pytest.raises(ValueError, match="ends must be 1 long"):
        adapt(good, integers(1, 2))
    with pytest.raises(ValueError, match="inputs of a: 9 instead of 8"):
        adapt(adapter(floats(4, 9), floats(4, 6)), integers(2))
    with pytest.raises(ValueError, match="outputs of b: 7 instead of 6"):
        adapt(adapter(floats(4, 8), floats(4, 7)), integers(2))
    panel = floats(1, 4, 16)
    adapt(packed(panel, panel), integers(2))
    for wrong in (floats(4, 16), floats(2, 4, 16), floats(1, 4, 15)):
        with pytest.raises(ValueError, match=r"a must be \[ceil\(8 / 16\), rank, 16\]"):
            adapt(packed(wrong, panel), integers(2))
    for wrong in (floats(4, 16), floats(2, 4, 16), floats(1, 3, 16)):
        with pytest.raises(ValueError, match=r"b must be \[ceil\(6 / 16\), rank, 16\]"):
            adapt(packed(panel, wrong), integers(2))
    with pytest.raises(ValueError, match="columns of a must be between 1 and"):
        adapt(packed(floats(0, 4, 16), panel, inputs=0), integers(2))
    with pytest.raises(ValueError, match="columns of b must be between 1 and"):
        adapt(packed(panel, panel, outputs=2**63 - 1), integers(2))
    with pytest.raises(ValueError, match="a must be contiguous"):
        adapt(packed(floats(1, 16, 4).transpose(0, 2, 1), panel), integers(2))
    with pytest.raises(ValueError, match="b must be contiguous and aligned"):
        adapt(packed(panel, misaligned(panel)), integers(2))
    with pytest.raises(ValueError, match="not float64"):
        adapt(packed(panel.astype(np.float64), panel), integers(2))
    scaled = np.zeros((1, 4), SCALED_BYTES)
    adapt(packed(scaled, scaled), integers(2))
    adapt(packed(panel, scaled), integers(2))
    for wrong in (scaled[0], np.zeros((2, 4), SCALED_BYTES), scaled[:, :3]):
        with pytest.raises(ValueError, match=r"b must be \[ceil\(6 / 64\), rank, 66\]"):
            adapt(packed(panel, wrong), integers(2))
    for layer in (-1, 2**16):
        with pytest.raises(ValueError, match="layer must be between 0 and 65535"):
            adapt(packed(panel, panel, layer=layer), integers(2))
    scaled = LoraWeights("x", {(0, "q_proj"): linear_pair(floats(4, 8), floats(4, 6), 1.0, floats(5))})
    with pytest.raises(ValueError, match="output_scale must be 6 long"):
        adapt(scaled, integers(2))


def test_adapt_head_checks_its_pair(native: NativeKernels) -> None:
    def adapt(a: np.ndarray, b: np.ndarray) -> None:
        weights = LoraWeights("x", {}, head=linear_pair(a, b, 1.0))
        native.adapt_head(floats(2, 8), floats(2, 6), Segments((weights,), integers(2)))

    adapt(floats(4, 8), floats(4, 6))
    with pytest.raises(ValueError, match="inputs of a: 9 instead of 8"):
        adapt(floats(4, 9), floats(4, 6))
    with pytest.raises(ValueError, match="outputs of b: 7 instead of 6"):
        adapt(floats(4, 8), floats(4, 7))


def test_adapt_embedding_checks_its_pair_and_tokens(native: NativeKernels) -> None:
    def adapt(a: np.ndarray, b: np.ndarray, tokens: np.ndarray, out: np.ndarray | None = None) -> None:
        weights = LoraWeights("x", {}, embedding=embedding_pair(a, b, 1.0))
        segments = Segments((None, weights), integers(1, 2))
        native.adapt_embedding(tokens, 1.0, floats(2, 6) if out is None else out, segments)

    adapt(floats(8, 4), floats(4, 6), integers(9, 7))
    with pytest.raises(ValueError, match=r"a must be \[inputs, rank\]"):
        adapt(floats(8, 4, 1), floats(4, 6), integers(0, 0))
    with pytest.raises(ValueError, match=r"b must be \[ceil\(6 / 16\), rank, 16\]"):
        adapt(floats(4, 8), floats(4, 6), integers(0, 0))
    with pytest.raises(ValueError, match="outputs of b: 7 instead of 6"):
        adapt(floats(8, 4), floats(4, 7), integers(0, 0))
    for token in (8, -1):
        with pytest.raises(ValueError, match=rf"tokens\[0\] is {token}, must be in 0 … 7"):
            adapt(floats(8, 4), floats(4, 6), integers(0, token))
    with pytest.raises(ValueError, match="tokens must be 1 long"):
        adapt(floats(8, 4), floats(4, 6), integers(0, 0), floats(1, 6))
    with pytest.raises(ValueError, match="within the rows of out"):
        adapt(floats(8, 4), floats(4, 6), integers(0), floats(1, 6))


def test_norms_check_their_arrays(native: NativeKernels, matrix: Matrix) -> None:
    native.row_norms(matrix, floats(20, 3), floats(3, 64), floats(20))
    native.column_norms(matrix, floats(20, 3), floats(3, 64), floats(64))
    for norms, size in ((native.row_norms, 20), (native.column_norms, 64)):
        with pytest.raises(ValueError, match="rows of left: 19 instead of 20"):
            norms(matrix, floats(19, 3), floats(3, 64), floats(size))
        with pytest.raises(ValueError, match="columns of left: 2 instead of 3"):
            norms(matrix, floats(20, 2), floats(3, 64), floats(size))
        with pytest.raises(ValueError, match="columns of right: 63 instead of 64"):
            norms(matrix, floats(20, 3), floats(3, 63), floats(size))
        with pytest.raises(ValueError, match=f"out: 9 instead of {size}"):
            norms(matrix, floats(20, 3), floats(3, 64), floats(9))


BATCH = SamplingBatch(
    temperature=floats(1), top_k=integers(0), top_p=floats(1), seed=np.zeros(1, np.uint64),
    index=np.zeros(1, np.uint64), repetition_penalty=floats(1), frequency_penalty=floats(1),
    presence_penalty=floats(1), history_tokens=integers(3), history_counts=integers(1),
    history_ends=np.ones(1, np.int64),
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": floats(1) * -1}, "temperature must be finite and at least 0"),
        ({"temperature": floats(1) * np.nan}, "temperature must be finite"),
        ({"temperature": floats(1) * np.inf}, "temperature must be finite"),
        ({"temperature": floats(2)}, "temperature must be 1 long"),
        ({"top_p": floats(1) * np.nan}, "top_p must be at least 0"),
        ({"top_k": integers(-1)}, "top_k must be at least 0"),
        ({"top_k": np.zeros(1, np.int64)}, "top_k must be of type int32"),
        ({"seed": np.zeros(1, np.int64)}, "seed must be of type uint64"),
        ({"history_tokens": integers(8)}, r"history_tokens\[0\] is 8, must be in 0 … 7"),
        ({"history_tokens": integers(-1)}, r"history_tokens\[0\] is -1"),
        ({"history_counts": integers(1, 2)}, "must be equally long"),
        ({"history_ends": np.full(1, 2)}, "history_ends must grow"),
        ({"history_ends": np.full(1, -1)}, "history_ends must grow"),
        ({"masks": np.ones((1, 1), np.uint32)}, "masks and mask_rows must be equally long"),
        ({"masks": np.ones((1, 2), np.uint32), "mask_rows": integers(0)}, "masks must have a bit for each token"),
        ({"masks": np.ones((1, 1), np.int32), "mask_rows": integers(0)}, "masks must be of type uint32"),
        ({"masks": np.ones((1, 1), np.uint32), "mask_rows": integers(1)}, r"mask_rows\[0\] is 1, must be in 0 … 0"),
    ],
)
def test_sample_checks_its_batch(native: NativeKernels, change: dict, message: str) -> None:
    native.sample(floats(1, 8), BATCH)
    with pytest.raises(ValueError, match=message):
        native.sample(floats(1, 8), replace(BATCH, **change))


@pytest.mark.parametrize("columns", [0, 2**24])
def test_sample_needs_a_vocabulary_of_some_size(native: NativeKernels, columns: int) -> None:
    with pytest.raises(ValueError, match="between 1 and"):
        native.sample(as_strided(floats(1), (1, columns), (4, 4)), BATCH)
