"""What an engine is: token ids in, token ids out. It knows no account, no HTTP and no text.

Every engine promises that the tokens of a request depend on nothing but the request itself, the base model and
the adapter: not on the other requests of a batch, on when they arrive, or on how the prompt was cut into chunks.
"""

from collections.abc import AsyncGenerator
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

GREEDY_TEMPERATURE = 1e-5
"""Below this temperature the most likely token is taken."""


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"


class Sampling(Struct, frozen=True):
    """How the next token is drawn; the formulas are in `docs/sampling.md`.

    `seed` together with the index of the output token determines the random number, so the same seed gives the
    same tokens. `top_k` None and `top_p` >= 1 are off; a `repetition_penalty` of 0 or 1 is off.
    """

    seed: int
    temperature: float = 0.6
    top_k: int | None = None
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken, without any chance."""
        return self.temperature < GREEDY_TEMPERATURE

    @property
    def penalises(self) -> bool:
        """Whether it matters which tokens came before."""
        return self.repetition_penalty not in (0, 1) or self.frequency_penalty != 0 or self.presence_penalty != 0


class AdapterRef(Struct, frozen=True):
    """An immutable adapter on local disk.

    `digest` (64 hex digits) identifies the content. `manifest` and `weights` are paths that this server made:
    a `storage.manifest.AdapterManifest` as JSON and the safetensors file that it describes. `manifest_digest` is the
    SHA-256 of the manifest's bytes; that of the weights stands in the manifest.
    """

    digest: str
    manifest: str
    weights: str
    manifest_digest: str


class Probe(Struct, frozen=True):
    """What an adapter does to the next token's logits after a fixed prompt."""

    difference: float
    """max|a - b| / max|b| of the logits a with and b without the adapter; 0 if it changes nothing there."""


class Constraint(Struct, frozen=True):
    """What the text of an answer must look like: a grammar in llguidance's Lark dialect, or its JSON form.

    Every token of the answer keeps the text a prefix of what the grammar allows, and the answer ends only where the
    grammar may. Before `max_tokens` is used up the engine closes the text by the shortest way that it finds.
    """

    grammar: str


class GenerateRequest(Struct, frozen=True):
    """One request to continue `prompt`.

    `generated` holds tokens that an earlier engine process already delivered for this request: the engine goes on
    behind them with exactly the tokens that would have come. `max_tokens` counts them too. `cache_scope` and
    `share_key` are opaque: KV cache entries are shared only between requests in which both are equal.
    """

    id: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    stop_tokens: tuple[int, ...]
    adapter: AdapterRef | None = None
    cache_scope: bytes = b""
    share_key: bytes = b""
    generated: tuple[int, ...] = ()
    constraint: Constraint | None = None


class Output(Struct, frozen=True):
    """New tokens of one request; the last output carries the finish reason.

    The token that stopped the sequence is not among `tokens`.
    """

    tokens: tuple[int, ...]
    finish_reason: FinishReason | None = None


class ModelFacts(Struct, frozen=True):
    """What the engine serves, for the catalogue and for the validation of adapters.

    `modules` maps each linear module that an adapter may target (`q_proj`, … `down_proj`) to its (outputs, inputs).
    `hidden` is the width of the embedding; `tied` says whether the embedding is also the output head.
    """

    name: str
    family: str
    digest: str
    quantization: str
    context_window: int
    layers: int
    vocabulary: int
    modules: dict[str, tuple[int, int]]
    hidden: int
    tied: bool


class EngineStats(Struct, frozen=True):
    """Gauges and counters of an engine. Counters start anew when the engine's process does."""

    running: int = 0
    waiting: int = 0
    queued: int = 0
    """Those of them that wait for others to end, not for their own adapter or grammar."""
    blocks: int = 0
    """Blocks of the KV cache."""
    free_blocks: int = 0
    """Blocks that no sequence holds."""
    cached_blocks: int = 0
    """Those among them whose content is kept in case it is wanted again."""
    adapters: int = 0
    """Resident adapters."""
    adapter_bytes: int = 0
    steps: int = 0
    step_seconds: float = 0
    """Time in all steps together."""
    prompt_tokens: int = 0
    """Tokens computed without sampling a successor, those of preempted sequences once more."""
    output_tokens: int = 0
    drafted_tokens: int = 0
    """Tokens that were guessed and computed before it was known whether they come."""
    accepted_tokens: int = 0
    """Those of them that came; output tokens like all others."""
    cached_tokens: int = 0
    """Tokens that the prefix cache saved from being computed, those of preempted sequences among them."""
    preemptions: int = 0
    restarts: int = 0
    """How often the engine's process was replaced; this one never starts anew."""


class Engine(Protocol):
    """A running engine."""

    @property
    def facts(self) -> ModelFacts:
        """What is served; known once `start` has returned."""
        ...

    @property
    def busy(self) -> bool:
        """Whether a request that came now would wait for others to end."""
        ...

    async def start(self) -> None:
        """Load the model and get ready. Raises `WeightsInvalid` or `EngineFailed`."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Output, None]:
        """Yield the request's tokens as they come. Closing the generator frees the sequence within one step.

        Raises `AdapterInvalid` if the adapter cannot be loaded, `ConstraintInvalid` if the grammar cannot be compiled,
        `ConstraintUnmet` if no text within `max_tokens` satisfies it, `OutOfCapacity` if the queue is full and
        `EngineFailed` if the engine cannot finish the request.
        """
        ...

    async def probe(self, adapter: AdapterRef) -> Probe:
        """Load the adapter and measure what it changes, beside the requests that are running.

        Raises `AdapterInvalid` if it cannot be loaded or makes the logits infinite or undefined, `OutOfCapacity` and
        `EngineFailed`.
        """
        ...

    async def unload(self, digest: str) -> None:
        """Forget everything that was made of an adapter's files: its memory as soon as no request uses it, and what
        lies on disk at once. Requests that still name it load it anew. Raises `EngineFailed`.
        """
        ...

    def stats(self) -> EngineStats:
        """The latest counters; waits for nothing."""
        ...

    async def close(self) -> None:
        """Stop the engine and free everything. Unfinished requests fail with `RequestAborted`."""
        ...
