"""Runs batches: the model together with the paged cache of keys and values. Which blocks are whose it does not know."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from gemlora.engines import contract
from gemlora.engines.cpu.batch import Batch, Chunk
from gemlora.engines.cpu.blocks import BLOCK_SIZE, blocks_for
from gemlora.engines.cpu.gemma import Float32, Gemma, Observer, Output, Weights
from gemlora.engines.cpu.sequence import Sequence as EngineSequence
from gemlora.errors import SettingsInvalid
from gemlora.kernels import Kernels, LoraWeights
from gemlora.kernels.cache import cached_numbers


class Runner:
    """One model with as many cache blocks as `kv_cache_bytes` hold.

    The cache holds whole numbers beside int8 arithmetic, else float32; its memory is touched as blocks are used. All
    layers of a block lie together: what the system gives in large pages is then soon used, and seldom asked for.
    """

    def __init__(self, weights: Weights, kernels: Kernels, *, context: int, kv_cache_bytes: int) -> None:
        """`context` is the longest sequence in tokens. Raises `SettingsInvalid` if the bytes hold no block."""
        config = weights.config
        dtype = np.dtype(np.float32 if weights.quantize == "none" else np.uint8)
        shape = (2, config.kv_heads, BLOCK_SIZE, cached_numbers(config.head_dim, dtype))
        self.block_bytes = len(config.layers) * prod(shape) * dtype.itemsize
        self.blocks = kv_cache_bytes // self.block_bytes
        if not self.blocks:
            needed = f"{BLOCK_SIZE} tokens of this model take {self.block_bytes}"
            raise SettingsInvalid(f"kv_cache_bytes: {kv_cache_bytes} are too few, {needed}")
        cache = np.empty((self.blocks, len(config.layers), *shape), dtype)
        self._caches = [cache[:, layer] for layer in range(len(config.layers))]
        self._model = Gemma(weights, kernels, context)

    def forward(
        self, batch: Batch, between: Callable[[], None] | None = None, observe: Observer | None = None
    ) -> Output:
        """Compute one step up to the head of the batch's logit rows.

        `between` is called after each layer; it may itself call this, with a batch of other sequences.
        """
        return self._model.forward(batch, self._caches, between, observe)


def all_logits(
    runner: Runner, tokens: Sequence[int], adapter: LoraWeights | None = None, rows: int = 128
) -> Iterator[Float32]:
    """The logits after every token, at most `rows` positions [rows, V] at a time, each valid until the next.

    For measurements without an engine process: it uses the runner's first blocks, so no other sequence may.
    """
    request = contract.GenerateRequest("", tuple(tokens), 0, contract.Sampling(seed=0), ())
    sequence = EngineSequence.start(request, arrival=0)
    sequence.adapter = adapter
    sequence.blocks = list(range(blocks_for(len(tokens))))
    while sequence.remaining:
        chunk = Chunk(sequence, min(rows, sequence.remaining))
        batch = replace(Batch.of([chunk]), logit_rows=np.arange(chunk.length, dtype=np.int32))
        yield runner.forward(batch).logits()
        sequence.computed += chunk.length
