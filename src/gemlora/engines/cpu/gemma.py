"""The forward pass of Gemma 1, 2 and 3: one definition, driven by the configuration.

Letters: T rows (tokens), E hidden size, F feed-forward size, H query heads, C key/value heads, D head size,
V vocabulary, R rows whose logits are wanted.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.cpu.batch import Batch
from gemlora.engines.cpu.config import GemmaConfig, LayerConfig, Rope
from gemlora.engines.cpu.replay import MOST_ROWS, Replay
from gemlora.kernels import Kernels, Matrix, Segments, aligned_rows
from gemlora.kernels.interface import Places

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

LayerCache = NDArray[np.generic]
"""Keys and values of one layer: [blocks, 2, C, block size, D]."""

OUTPUT_PLACES: Places = (("o_proj", 0),)
DOWN_PLACES: Places = (("down_proj", 0),)

Observer = Callable[[int, Float32], None]
"""Called with 0 and the embeddings, then with i + 1 and the output of layer i: [T, E], valid during the call."""


class Weights(Protocol):
    """Where the model finds its tensors by name; `PackedModel` is one."""

    @property
    def config(self) -> GemmaConfig:
        """The architecture."""
        ...

    @property
    def quantize(self) -> str:
        """`none`, `int8` or `int4`."""
        ...

    @property
    def tied(self) -> bool:
        """Whether the embedding is also the output head."""
        ...

    def matrix(self, name: str) -> Matrix:
        """A weight matrix."""
        ...

    def vector(self, name: str) -> Float32:
        """The weights of a norm, Gemma's 1 + already added."""
        ...


@dataclass(frozen=True, slots=True)
class RopeTable:
    """Cosines and sines of every position, each [context, D/2]."""

    cosines: Float32
    sines: Float32

    @classmethod
    def of(cls, rope: Rope, head_dim: int, context: int) -> "RopeTable":
        """Frequencies and angles are rounded to float32 in the same places as in Hugging Face's models; between
        them float64 makes the result independent of the machine's vector library."""
        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        powers = np.power(rope.base, exponents, dtype=np.float64).astype(np.float32)
        frequencies = np.float32(1) / powers / np.float32(rope.factor)
        angles = (np.arange(context, dtype=np.float32)[:, None] * frequencies).astype(np.float64)
        return cls(np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer; a norm that the generation does not have is None."""

    index: int
    window: int | None
    rope: RopeTable
    input_norm: Float32
    qkv: tuple[Matrix, Matrix, Matrix]
    query_norm: Float32 | None
    key_norm: Float32 | None
    output: Matrix
    post_attention_norm: Float32 | None
    feed_forward_norm: Float32
    gate_up: tuple[Matrix, Matrix]
    down: Matrix
    post_feed_forward_norm: Float32 | None
    next_norm: Float32
    """The next layer's input norm, or the final one."""

    @classmethod
    def of(cls, weights: Weights, index: int, config: LayerConfig, rope: RopeTable) -> "Layer":
        """Look up the layer's tensors."""
        prefix, layers = f"layers.{index}.", len(weights.config.layers)
        post_norms, head_norms = weights.config.post_norms, weights.config.head_norms
        return cls(
            index=index,
            window=config.window,
            rope=rope,
            input_norm=weights.vector(prefix + "input_norm"),
            qkv=(
                weights.matrix(prefix + "q_proj"),
                weights.matrix(prefix + "k_proj"),
                weights.matrix(prefix + "v_proj"),
            ),
            query_norm=weights.vector(prefix + "query_norm") if head_norms else None,
            key_norm=weights.vector(prefix + "key_norm") if head_norms else None,
            output=weights.matrix(prefix + "o_proj"),
            post_attention_norm=weights.vector(prefix + "post_attention_norm") if post_norms else None,
            feed_forward_norm=weights.vector(prefix + "feed_forward_norm"),
            gate_up=(weights.matrix(prefix + "gate_proj"), weights.matrix(prefix + "up_proj")),
            down=weights.matrix(prefix + "down_proj"),
            post_feed_forward_norm=weights.vector(prefix + "post_feed_forward_norm") if post_norms else None,
            next_norm=weights.vector(f"layers.{index + 1}.input_norm" if index + 1 < layers else "final_norm"),
        )


class Activations:
    """The arrays that one step writes, T rows each, and the views of them that the kernels take."""

    def __init__(self, config: GemmaConfig, arrays: Iterable[Float32]) -> None:
        """`arrays` are those of `allocate`, cut to T rows."""
        self._config, self._arrays = config, tuple(arrays)
        self.hidden, self.normed, self.branch, self.qkv, self.attended, self.gate_up, self.gated = self._arrays
        values_start = config.query_size + config.kv_size
        self.query_heads = self._heads(self.qkv[:, : config.query_size], config)  # [T, H, D]
        self.key_heads = self._heads(self.qkv[:, config.query_size : values_start], config)  # [T, C, D]
        self.value_heads = self._heads(self.qkv[:, values_start:], config)  # [T, C, D]
        self.attended_heads = self._heads(self.attended, config)  # [T, H, D]
        self.most_likely: Int32 = np.empty(len(self.hidden), np.int32)

    def of_rows(self, rows: Int32) -> "Activations":
        """Some rows [R], each at most once, in the first R places of these arrays: their stream and their queries."""
        count = len(rows)
        self.hidden[:count] = self.hidden[rows]
        self.query_heads[:count] = self.query_heads[rows]
        return Activations(self._config, (array[:count] for array in self._arrays))

    @staticmethod
    def allocate(config: GemmaConfig, rows: int) -> tuple[Float32, ...]:
        """Uninitialised arrays for `rows` rows, see `aligned_rows`."""
        columns = (
            config.hidden,  # hidden: the residual stream
            config.hidden,  # normed: the stream as a layer's halves read it
            config.hidden,  # branch: what a half adds to the stream
            config.query_size + 2 * config.kv_size,  # qkv
            config.query_size,  # attended
            2 * config.feed_forward,  # gate_up
            config.feed_forward,  # gated
        )
        return tuple(aligned_rows(rows, count) for count in columns)

    @classmethod
    def room(cls, config: GemmaConfig, most: int) -> "Callable[[int], Activations]":
        """Room for `most` rows, and the views of the first ones there."""
        arrays = cls.allocate(config, most)
        return lambda rows: cls(config, (array[:rows] for array in arrays))

    @staticmethod
    def _heads(x: Float32, config: GemmaConfig) -> Float32:
        return x.reshape(len(x), x.shape[1] // config.head_dim, config.head_dim)


@dataclass(frozen=True, slots=True)
class Output:
    """What the last layer leaves of the batch's logit rows, and what the head made of it if the batch is greedy."""

    _model: "Gemma"
    _normed: Float32  # [R, E]
    _segments: Segments  # of the R rows
    most_likely: Int32 | None
    """Of a greedy batch the tokens [R] with the largest logits, of equal ones the first; −1 for a row without finite
    logits."""

    def logits(self) -> Float32:
        """The logits [R, V], valid until those of another output are asked for; the caller may overwrite them."""
        return self._model.logits(self._normed, self._segments)


class Gemma:
    """A Gemma model with its kernels. Not thread-safe: it writes into arrays that the next step reuses."""

    def __init__(self, weights: Weights, kernels: Kernels, context: int) -> None:
        """`context` is the longest sequence in tokens."""
        self.config = weights.config
        self._kernels = kernels
        self._embedding = weights.matrix("embedding")
        self._head = self._embedding if weights.tied else weights.matrix("head")
        ropes = {
            rope: RopeTable.of(rope, self.config.head_dim, context)
            for rope in {layer.rope for layer in self.config.layers}
        }
        self._layers = [
            Layer.of(weights, index, layer, ropes[layer.rope]) for index, layer in enumerate(self.config.layers)
        ]
        self._qkv_places = (
            ("q_proj", 0),
            ("k_proj", self.config.query_size),
            ("v_proj", self.config.query_size + self.config.kv_size),
        )
        self._gate_up_places = (("gate_proj", 0), ("up_proj", self.config.feed_forward))
        self._spare: list[tuple[Float32, ...]] = []
        self._replay = Replay(kernels, Activations.room(self.config, MOST_ROWS), context)
        self._logits = aligned_rows(0, self.config.vocabulary)

    def forward(
        self,
        batch: Batch,
        caches: Sequence[LayerCache],
        between: Callable[[], None] | None = None,
        observe: Observer | None = None,
    ) -> Output:
        """Compute the batch's logit rows up to the head, or with it if the batch is greedy; write all rows' keys and
        values into `caches` (one per layer).

        `between` is called after each layer; it may itself call this, with a batch of other sequences. With `observe`
        all rows are computed up to the head.
        """
        wanted = batch.of_logit_rows()
        if wanted is batch and not between and not observe and self._replay.takes(batch):
            step = self._replay.run(self._compute, batch, caches)
            return Output(self, step.normed.copy(), batch.segments, step.most_likely.copy() if batch.greedy else None)
        with self._activations(len(batch.tokens)) as step:
            last = batch if observe else wanted
            normed = self._compute_layers(batch, caches, step, last, between, observe)[last.logit_rows]
            most_likely = step.most_likely[: len(normed)]
            if batch.greedy:
                self._find_most_likely(normed, most_likely)
            return Output(self, normed, wanted.segments, most_likely if batch.greedy else None)

    def _compute(self, batch: Batch, caches: Sequence[LayerCache], step: Activations) -> None:
        """Compute all rows, all of whose logits are wanted."""
        self._compute_layers(batch, caches, step, batch)
        if batch.greedy:
            self._find_most_likely(step.normed, step.most_likely)

    def _compute_layers(
        self,
        batch: Batch,
        caches: Sequence[LayerCache],
        step: Activations,
        last: Batch,
        between: Callable[[], None] | None = None,
        observe: Observer | None = None,
    ) -> Float32:
        """What the last layer leaves, normed. Behind its keys and values it computes the batch `last` alone: the batch
        itself or its logit rows."""
        self._embed(batch, step)
        if observe:
            observe(0, step.hidden)
        for layer, cache in zip(self._layers, caches, strict=True):
            self._project(layer, batch, cache, step)
            if layer is self._layers[-1] and last is not batch:
                # With its keys and values in the last cache, nothing reads a row again but the head.
                step, batch = step.of_rows(batch.logit_rows), last
            if len(batch.tokens):
                self._attention(layer, batch, cache, step)
                self._feed_forward(layer, batch, step)
            if observe:
                observe(layer.index + 1, step.hidden)
            if between:
                between()
        return step.normed

    def _embed(self, batch: Batch, step: Activations) -> None:
        """Begin the stream with the tokens' embeddings, and let the first layer read them normed."""
        scale = self.config.embedding_scale
        self._kernels.embed(self._embedding, batch.tokens, scale, step.hidden)
        self._kernels.adapt_embedding(batch.tokens, scale, step.hidden, batch.segments)
        self._kernels.rms_norm(step.hidden, self._layers[0].input_norm, self.config.norm_epsilon, step.normed)

    def _project(self, layer: Layer, batch: Batch, cache: LayerCache, step: Activations) -> None:
        """Compute queries, keys and values of the normed stream, and store keys and values in the cache."""
        config, kernels = self.config, self._kernels
        kernels.linear(step.normed, layer.qkv, step.qkv)
        self._adapt(step.normed, step.qkv, batch, layer, self._qkv_places)
        kernels.rotate(
            step.query_heads,
            layer.query_norm,
            step.key_heads,
            layer.key_norm,
            config.norm_epsilon,
            layer.rope.cosines,
            layer.rope.sines,
            batch.positions,
        )
        kernels.store_kv(
            step.key_heads, step.value_heads, cache, batch.block_tables, batch.sequence_of_row, batch.positions
        )

    def _attention(self, layer: Layer, batch: Batch, cache: LayerCache, step: Activations) -> None:
        """Add what the queries find in the cache to the stream."""
        config, kernels = self.config, self._kernels
        kernels.attend(
            step.query_heads,
            cache,
            batch.block_tables,
            batch.sequence_of_row,
            batch.positions,
            config.attention_scale,
            layer.window,
            config.attention_softcap,
            step.attended_heads,
        )
        kernels.linear(step.attended, (layer.output,), step.branch)
        self._adapt(step.attended, step.branch, batch, layer, OUTPUT_PLACES)
        self._add_branch(layer.post_attention_norm, layer.feed_forward_norm, step)

    def _feed_forward(self, layer: Layer, batch: Batch, step: Activations) -> None:
        """Add the gated feed-forward of the normed stream to the stream."""
        kernels = self._kernels
        kernels.linear(step.normed, layer.gate_up, step.gate_up)
        self._adapt(step.normed, step.gate_up, batch, layer, self._gate_up_places)
        kernels.gelu_gate(step.gate_up, step.gated)
        kernels.linear(step.gated, (layer.down,), step.branch)
        self._adapt(step.gated, step.branch, batch, layer, DOWN_PLACES)
        self._add_branch(layer.post_feed_forward_norm, layer.next_norm, step)

    def _adapt(self, x: Float32, out: Float32, batch: Batch, layer: Layer, places: Places) -> None:
        if batch.segments.adapted:
            self._kernels.adapt(x, out, batch.segments, layer.index, places)

    def _add_branch(self, branch_norm: Float32 | None, norm: Float32, step: Activations) -> None:
        """Add the branch to the stream, and let the next half read the stream normed."""
        self._kernels.add_branch(step.hidden, step.branch, branch_norm, norm, self.config.norm_epsilon, step.normed)

    def logits(self, normed: Float32, segments: Segments) -> Float32:
        """See `Output.logits`; of the rows normed[R, E] that the last layer leaves, whose segments these are."""
        rows = len(normed)
        if rows > len(self._logits):
            self._logits = aligned_rows(rows, self.config.vocabulary)
        logits = self._logits[:rows]
        if rows:
            self._kernels.linear(normed, (self._head,), logits)
            self._kernels.adapt_head(normed, logits, segments)
            if self.config.logit_softcap is not None:
                self._kernels.softcap(logits, self.config.logit_softcap)
        return logits

    def _find_most_likely(self, normed: Float32, tokens: Int32) -> None:
        """The tokens [R] with the largest logits of rows [R, E] that the last layer leaves."""
        self._kernels.most_likely(normed, self._head, self.config.logit_softcap, tokens)

    @contextmanager
    def _activations(self, rows: int) -> Iterator[Activations]:
        """Room for `rows` rows, kept from step to step so that its pages are touched once.

        A step within another one gets room of its own.
        """
        arrays = self._spare.pop() if self._spare else ()
        if not arrays or rows > len(arrays[0]):
            arrays = Activations.allocate(self.config, rows)
        try:
            yield Activations(self.config, (array[:rows] for array in arrays))
        finally:
            self._spare.append(arrays)
