"""Every layer and the logits equal transformers' eager float32 model, however the tokens come."""

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests import checkpoints
from tests.checkpoints import ARCHITECTURES, Checkpoint
from tests.forward import Array, Blocks, Trace, assert_close, assert_identical, relative_errors, run, step
from tests.lora_pairs import random_adapter

from gemlora.engines.cpu.batch import Batch, Chunk
from gemlora.engines.cpu.blocks import BLOCK_SIZE
from gemlora.engines.cpu.config import Rope
from gemlora.engines.cpu.gemma import Gemma, RopeTable
from gemlora.engines.cpu.runner import Runner, all_logits
from gemlora.errors import SettingsInvalid
from gemlora.kernels import Kernels
from gemlora.kernels.cache import cached_numbers
from gemlora.kernels.native import NativeKernels

CHUNKINGS = {
    "ones": [1] * 100,
    "sevens": [7] * 14,
    "blocks": [32, 32, 32],
    "all but one": [99],
    "one, a window, few": [1, 63, 5],
}

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def prompt(length: int, seed: int = 0) -> list[int]:
    tokens: list[int] = np.random.default_rng(seed).integers(0, checkpoints.VOCABULARY, length).tolist()
    return tokens


def runner(checkpoint: Checkpoint, kernels: Kernels, kv_cache_bytes: int = 1 << 26) -> Runner:
    return Runner(checkpoint.weights, kernels, context=checkpoints.CONTEXT, kv_cache_bytes=kv_cache_bytes)


@every_architecture
@pytest.mark.parametrize("length", [1, 2, 31, 33, 100])
def test_the_definition_in_numpy_equals_the_oracle(
    checkpoint: Callable[[str], Checkpoint], reference: Kernels, architecture: str, length: int
) -> None:
    case = checkpoint(architecture)
    assert_close(run(runner(case, reference), prompt(length)), checkpoints.trace(case.oracle, prompt(length)))


@every_architecture
@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 300])
def test_the_native_kernels_equal_the_oracle(
    checkpoint: Callable[[str], Checkpoint], native: Kernels, architecture: str, length: int
) -> None:
    case = checkpoint(architecture)
    assert_close(run(runner(case, native), prompt(length)), checkpoints.trace(case.oracle, prompt(length)))


@pytest.mark.parametrize("architecture", ["gemma1", "gemma2", "gemma3"])
def test_long_prompts_in_chunks_equal_the_oracle(
    checkpoint: Callable[[str], Checkpoint], native: Kernels, architecture: str
) -> None:
    case = checkpoint(architecture)
    tokens = prompt(4096)
    assert_close(run(runner(case, native), tokens, [512] * 8), checkpoints.trace(case.oracle, tokens))


@every_architecture
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_checkpoints_equal_the_oracle_of_the_same_weights(
    checkpoint: Callable[..., Checkpoint], native: Kernels, architecture: str, dtype: torch.dtype
) -> None:
    case = checkpoint(architecture, dtype)
    assert_close(run(runner(case, native), prompt(100)), checkpoints.trace(case.oracle, prompt(100)))


@every_architecture
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_quantised_weights_stay_close_to_the_oracle_of_the_same_weights(
    checkpoint: Callable[..., Checkpoint], native: Kernels, architecture: str, quantize: str
) -> None:
    """What remains is the rounding of activations to 8 bits."""
    case = checkpoint(architecture, quantize=quantize)
    oracle = checkpoints.with_matrices_of(case.weights, case.oracle)
    errors = relative_errors(run(runner(case, native), prompt(100)), checkpoints.trace(oracle, prompt(100)))
    assert 1e-4 < errors["logits"] < 0.1


@every_architecture
@pytest.mark.parametrize("quantize", ["none", "int8", "int4"])
@pytest.mark.parametrize("lengths", CHUNKINGS.values(), ids=CHUNKINGS)
def test_cutting_the_prompt_changes_no_bit(
    checkpoint: Callable[..., Checkpoint], native: Kernels, architecture: str, quantize: str, lengths: list[int]
) -> None:
    case = checkpoint(architecture, quantize=quantize)
    whole = run(runner(case, native), prompt(100))
    assert_identical(run(runner(case, native), prompt(100), lengths), whole)


@every_architecture
def test_decoding_token_by_token_equals_the_oracle_over_the_whole_sequence(
    checkpoint: Callable[[str], Checkpoint], reference: Kernels, architecture: str
) -> None:
    case = checkpoint(architecture)
    tokens = prompt(70)
    assert_close(run(runner(case, reference), tokens, [50, *[1] * 20]), checkpoints.trace(case.oracle, tokens))


@every_architecture
@pytest.mark.parametrize("quantize", ["none", "int8", "int4"])
def test_companions_in_the_batch_change_no_bit(
    checkpoint: Callable[..., Checkpoint], native: Kernels, architecture: str, quantize: str
) -> None:
    case = checkpoint(architecture, quantize=quantize)
    shared = runner(case, native)
    blocks = Blocks(shared)
    prompts = [prompt(length, seed=length) for length in (3, 120, 65, 1, 40)]
    sequences = [blocks.sequence(tokens) for tokens in prompts]
    parts: list[list[Trace]] = [[] for _ in prompts]
    budgets = cycle([5, 1, 17, 40, 2, 64, 9])
    while remaining := [index for index, sequence in enumerate(sequences) if sequence.remaining]:
        chunks = [Chunk(sequences[index], min(next(budgets), sequences[index].remaining)) for index in remaining]
        for index, trace in zip(remaining, step(shared, *chunks), strict=True):
            parts[index].append(trace)
    for tokens, traces in zip(prompts, parts, strict=True):
        assert_identical(Trace.join(traces), run(runner(case, native), tokens))
        if quantize == "none":
            assert_close(Trace.join(traces), checkpoints.trace(case.oracle, tokens))


def test_steps_within_a_step_change_no_bit(checkpoint: Callable[..., Checkpoint], native: Kernels) -> None:
    case = checkpoint("gemma3", quantize="int8")
    shared = runner(case, native)
    blocks = Blocks(shared)
    lengths = (3, 90, 20, 1, 33, 64, 5)  # one after each layer
    outer = Batch.of([Chunk(blocks.sequence(prompt(70)), 70)])
    inner = [Batch.of([Chunk(blocks.sequence(prompt(length)), length)]) for length in lengths]
    found: list[Array] = []
    logits = shared.forward(outer, lambda: found.append(shared.forward(inner[len(found)]).logits().copy())).logits()
    for length, row in zip((*lengths, 70), (*found, logits), strict=True):
        assert np.array_equal(row, run(runner(case, native), prompt(length)).logits[-1:])


def test_only_the_wanted_rows_get_logits(checkpoint: Callable[[str], Checkpoint], native: Kernels) -> None:
    case = checkpoint("gemma2")
    every_row = run(runner(case, native), prompt(40)).logits
    target = runner(case, native)
    batch = Batch.of([Chunk(Blocks(target).sequence(prompt(40)), 40)])
    assert np.array_equal(target.forward(batch).logits(), every_row[39:])
    assert np.array_equal(target.forward(replace(batch, logit_rows=batch.logit_rows[:0])).logits(), every_row[:0])


ROWS = 60
"""Of each of the `two_steps`."""

WANTED = {
    "the last of each prompt": [24, 44, 59],
    "all but one": [row for row in range(ROWS) if row != 30],
    "out of order": [59, 0, 31, 24, 44, 2],
    "backwards": list(range(ROWS))[::-1],
    "none": [],
}


def two_steps(case: Checkpoint, kernels: Kernels, wanted: list[int]) -> tuple[Array, NDArray[np.generic]]:
    """Halves of three prompts, one of them the base's and two of adapters: the wanted rows' logits, and all caches."""
    config, dtype = case.weights.config, np.dtype(np.float32 if case.weights.quantize == "none" else np.uint8)
    shape = (2, config.kv_heads, BLOCK_SIZE, cached_numbers(config.head_dim, dtype))
    model, caches = Gemma(case.weights, kernels, checkpoints.CONTEXT), np.zeros((len(config.layers), 5, *shape), dtype)
    blocks = Blocks(runner(case, kernels, kv_cache_bytes=caches.nbytes))
    adapters = {50: None, 40: random_adapter(config, 1), 30: random_adapter(config, 2)}
    sequences = [blocks.sequence(prompt(length, seed=length), adapter) for length, adapter in adapters.items()]
    logits = []
    for _ in range(2):
        batch = Batch.of([Chunk(sequence, len(sequence.tokens) // 2) for sequence in sequences])
        output = model.forward(replace(batch, logit_rows=np.asarray(wanted, np.int32)), list(caches))
        logits.append(output.logits().copy())
        for chunk in batch.chunks:
            chunk.sequence.computed += chunk.length
    return np.stack(logits), caches


@every_architecture
@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("wanted", WANTED.values(), ids=WANTED)
def test_which_rows_are_wanted_changes_no_bit_of_their_logits_or_of_the_caches(
    checkpoint: Callable[..., Checkpoint], native: Kernels, architecture: str, quantize: str, wanted: list[int]
) -> None:
    case = checkpoint(architecture, quantize=quantize)
    every_row, full_caches = two_steps(case, native, list(range(ROWS)))
    logits, caches = two_steps(case, native, wanted)
    assert np.array_equal(logits, every_row[:, wanted])
    assert np.array_equal(caches, full_caches)


class CountingKernels(NativeKernels):
    """Keeps with how many rows attention and feed-forward were called."""

    def __init__(self) -> None:
        super().__init__(threads=1)
        self.attended: list[int] = []
        self.gated: list[int] = []

    def attend(self, queries: Array, *others: Any, **named: Any) -> None:
        self.attended.append(len(queries))
        super().attend(queries, *others, **named)

    def gelu_gate(self, gate_up: Array, out: Array) -> None:
        self.gated.append(len(gate_up))
        super().gelu_gate(gate_up, out)


@pytest.mark.parametrize(("wanted", "last"), [([39, 2], [2]), ([], []), (list(range(40)), [40])])
def test_behind_the_last_keys_and_values_only_the_wanted_rows_are_computed(
    checkpoint: Callable[[str], Checkpoint], wanted: list[int], last: list[int]
) -> None:
    kernels = CountingKernels()
    target = runner(checkpoint("gemma1"), kernels)
    batch = Batch.of([Chunk(Blocks(target).sequence(prompt(40)), 40)])
    layers: list[int] = []
    target.forward(
        replace(batch, logit_rows=np.asarray(wanted, np.int32)), between=lambda: layers.append(len(kernels.gated))
    )
    assert kernels.attended == kernels.gated == [40, 40, *last]
    assert layers == [1, 2, 2 + len(last)]


def test_observing_sees_every_row_whichever_are_wanted(
    checkpoint: Callable[[str], Checkpoint], native: Kernels
) -> None:
    target = runner(checkpoint("gemma3"), native)
    expected = run(runner(checkpoint("gemma3"), native), prompt(40))
    batch = Batch.of([Chunk(Blocks(target).sequence(prompt(40)), 40)])
    hidden: list[Array] = []
    output = target.forward(batch, observe=lambda _, layer: hidden.append(layer.copy()))
    assert np.array_equal(output.logits(), expected.logits[39:])
    assert_identical(Trace(hidden, expected.logits), expected)


@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_the_most_likely_tokens_are_those_of_the_logits(
    checkpoint: Callable[..., Checkpoint], native: Kernels, reference: Kernels, architecture: str, quantize: str
) -> None:
    case = checkpoint(architecture, quantize=quantize)
    for kernels in (native, reference):
        target = runner(case, kernels)
        batch = Batch.of([Chunk(Blocks(target).sequence(prompt(40)), 40)])
        output = target.forward(replace(batch, logit_rows=np.arange(40, dtype=np.int32), greedy=True))
        assert output.most_likely is not None
        assert output.most_likely.tolist() == output.logits().argmax(axis=1).tolist()


def test_all_logits_come_in_order(checkpoint: Callable[[str], Checkpoint], native: Kernels) -> None:
    case = checkpoint("gemma3")
    pieces = [logits.copy() for logits in all_logits(runner(case, native), prompt(100), rows=48)]
    assert [len(piece) for piece in pieces] == [48, 48, 4]
    assert np.array_equal(np.concatenate(pieces), run(runner(case, native), prompt(100)).logits)


def test_the_cache_holds_as_many_blocks_as_fit(checkpoint: Callable[[str], Checkpoint], native: Kernels) -> None:
    case = checkpoint("gemma2")
    block = 4 * 2 * 2 * 32 * 16 * 4  # layers, keys and values, heads, tokens, head size, bytes of a float32
    assert runner(case, native, kv_cache_bytes=3 * block).blocks == 3
    assert runner(case, native, kv_cache_bytes=3 * block - 1).blocks == 2
    with pytest.raises(SettingsInvalid, match=f"32 tokens of this model take {block}"):
        runner(case, native, kv_cache_bytes=block - 1)


@pytest.mark.parametrize("rope", [Rope(10_000.0), Rope(1_000_000.0, 8.0)])
def test_rope_tables_are_those_of_the_formula(rope: Rope) -> None:
    table = RopeTable.of(rope, 256, 8192)
    angles = np.arange(8192)[:, None] / rope.factor * rope.base ** (-np.arange(0, 256, 2) / 256)
    assert table.cosines.shape == table.sines.shape == (8192, 128)
    # An angle of thousands has an absolute error of 2⁻¹³ in float32, the precision that checkpoints are trained with.
    np.testing.assert_allclose(table.cosines, np.cos(angles), atol=2**-10)
    np.testing.assert_allclose(table.sines, np.sin(angles), atol=2**-10)
