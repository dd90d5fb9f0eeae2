"""Steps that are repeated from a record give the bits of steps whose kernels are called one by one."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from tests import checkpoints
from tests.checkpoints import ARCHITECTURES, Checkpoint
from tests.forward import Array, Blocks
from tests.lora_pairs import random_adapter

from gemlora.engines.cpu.batch import Batch, Chunk
from gemlora.engines.cpu.blocks import BLOCK_SIZE
from gemlora.engines.cpu.gemma import Gemma
from gemlora.engines.cpu.replay import MOST_ROWS
from gemlora.engines.cpu.runner import Runner
from gemlora.engines.cpu.sequence import Sequence
from gemlora.kernels import Kernels
from gemlora.kernels.cache import cached_numbers


def runner(case: Checkpoint, kernels: Kernels) -> Runner:
    return Runner(case.weights, kernels, context=checkpoints.CONTEXT, kv_cache_bytes=1 << 26)


def tokens(random: Random, count: int) -> list[int]:
    return [random.randrange(checkpoints.VOCABULARY) for _ in range(count)]


def decoded(target: Runner, sequences: list[Sequence], seed: int, between: Callable[[], None] | None) -> list[Array]:
    """The logits of steps with changing companies, and of greedy ones the tokens: every sequence's next token, and for
    some a draft behind it.

    With `between` the kernels of no step are recorded.
    """
    random, found = Random(seed), []
    for sequence in sequences:
        target.forward(Batch.of([Chunk(sequence, len(sequence.tokens))]), between)
        sequence.computed = len(sequence.tokens)
    for _ in range(30):
        chunks = []
        for sequence in random.sample(sequences, random.randint(1, 3)):
            sequence.append(random.randrange(checkpoints.VOCABULARY))
            chunks.append(Chunk(sequence, 1, tuple(tokens(random, random.choice([0, 0, 0, 2])))))
        output = target.forward(replace(Batch.of(chunks), greedy=random.random() < 0.5), between)
        found.append(output.logits().copy())
        if output.most_likely is not None:
            found.append(output.most_likely)
        for chunk in chunks:
            chunk.sequence.computed += 1
    return found


@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_repeated_steps_change_no_bit(
    checkpoint: Callable[..., Checkpoint], native: Kernels, architecture: str, quantize: str
) -> None:
    case = checkpoint(architecture, quantize=quantize)
    adapters = [None, None, random_adapter(case.weights.config, 1), random_adapter(case.weights.config, 2)]

    def sequences(target: Runner) -> list[Sequence]:
        blocks, random = Blocks(target), Random(3)
        made = [blocks.sequence(tokens(random, 40), adapters[i % 4]) for i in range(6)]
        for sequence in made:
            del sequence.tokens[random.randint(1, 20) :]  # their blocks have room for what follows
        return made

    repeated, one_by_one = runner(case, native), runner(case, native)
    expected = decoded(one_by_one, sequences(one_by_one), 5, between=lambda: None)
    found = decoded(repeated, sequences(repeated), 5, between=None)
    assert [array.tobytes() for array in found] == [array.tobytes() for array in expected]


def test_steps_of_more_rows_than_are_recorded(checkpoint: Callable[..., Checkpoint], native: Kernels) -> None:
    case = checkpoint("gemma3", quantize="int8")
    alone, together = runner(case, native), runner(case, native)
    prompts = [[token] for token in range(MOST_ROWS + 1)]
    blocks = Blocks(together)
    batch = Batch.of([Chunk(blocks.sequence(prompt), 1) for prompt in prompts])
    rows = together.forward(batch).logits().copy()
    for prompt, row in zip(prompts, rows, strict=True):
        found = alone.forward(Batch.of([Chunk(Blocks(alone).sequence(prompt), 1)])).logits()
        assert np.array_equal(found[0], row)


def test_other_caches_are_written_too(checkpoint: Callable[..., Checkpoint], native: Kernels) -> None:
    case = checkpoint("gemma3", quantize="int8")
    config = case.weights.config
    shape = (2, config.kv_heads, BLOCK_SIZE, cached_numbers(config.head_dim, np.dtype(np.uint8)))
    caches = [np.zeros((len(config.layers), 1, *shape), np.uint8) for _ in range(2)]
    model = Gemma(case.weights, native, checkpoints.CONTEXT)
    batch = Batch.of([Chunk(Blocks(runner(case, native)).sequence([5]), 1)])
    batch.block_tables[:] = 0
    for cache in caches:
        model.forward(batch, list(cache))
    assert caches[0].any()
    assert np.array_equal(*caches)


def test_a_record_keeps_no_adapter(checkpoint: Callable[..., Checkpoint], native: Kernels) -> None:
    case = checkpoint("gemma3", quantize="int8")
    target = runner(case, native)
    adapter = random_adapter(case.weights.config, 1)
    for _ in range(2):
        target.forward(Batch.of([Chunk(Blocks(target).sequence([5], adapter), 1)]))
    weights = weakref.ref(adapter.pairs[0, "q_proj"].a)
    del adapter
    assert weights() is None


def test_a_model_goes_with_its_last_user(checkpoint: Callable[..., Checkpoint], native: Kernels) -> None:
    target = runner(checkpoint("gemma3", quantize="int8"), native)
    for _ in range(2):
        target.forward(Batch.of([Chunk(Blocks(target).sequence([5]), 1)]))
    gone = weakref.ref(target)
    gc.disable()
    try:
        del target
        assert gone() is None
    finally:
        gc.enable()
