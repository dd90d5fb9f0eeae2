"""What the step loop works with, as it sees them."""

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Several
from concurrent.futures import Future
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.contract import AdapterRef, Constraint
from gemlora.engines.cpu.batch import Batch
from gemlora.engines.cpu.constraining import ConstrainedText, Opened
from gemlora.engines.cpu.frames import Command, Event
from gemlora.engines.cpu.sequence import Sequence
from gemlora.kernels import LoraWeights


class Mailbox(Protocol):
    """Where commands come from and events go to."""

    def receive(self, wait: bool) -> list[Command]:
        """All commands that have come; with `wait`, sleep until there is one or the mailbox is woken."""
        ...

    def send(self, events: list[Event]) -> None:
        """Hand over what happened."""
        ...


class Output(Protocol):
    """What is computed of the rows behind which a token is drawn; `gemma.Output` explains."""

    @property
    def most_likely(self) -> NDArray[np.int32] | None:
        """Of a greedy batch the tokens [R] with the largest logits, −1 for a row without finite logits."""
        ...

    def logits(self) -> NDArray[np.float32]:
        """[R, V], valid until those of another output are asked for; the caller may overwrite them."""
        ...


class Runner(Protocol):
    """What computes the model."""

    def forward(self, batch: Batch, between: Callable[[], None] | None = None) -> Output:
        """Compute a batch; the output is that of its logit rows.

        `between` is called now and then while it computes; it may itself call `forward`, with other sequences.
        """
        ...


class Speculation(Protocol):
    """What guesses tokens before they are computed; `speculation.Speculation` explains."""

    def drafts(self, rooms: Mapping[Sequence, int]) -> Mapping[Sequence, Several[int]]:
        """At most so many tokens that may come next, for sequences that decode; wrong ones cost time, nothing else."""
        ...


class Constraints(Protocol):
    """What holds answers to grammars; `constraining.Constraining` explains."""

    def open(
        self, constraint: Constraint, stop_tokens: Several[int], room: int, generated: Several[int]
    ) -> Future[Opened]:
        """A text that is held to a grammar, behind what is generated of it."""
        ...

    def masks(self, text: ConstrainedText, draft: Several[int]) -> Future[NDArray[np.uint32]]:
        """[1 + len(draft), words]: what may come behind the text and behind each token of the draft."""
        ...


class Adapters(Protocol):
    """The pool of resident adapters; `adapters.pool.AdapterPool` explains."""

    @property
    def digests(self) -> tuple[str, ...]:
        """The resident adapters."""
        ...

    @property
    def reserved(self) -> int:
        """Bytes in use."""
        ...

    def acquire(self, ref: AdapterRef) -> LoraWeights | None:
        """The adapter, kept until `release`; None while it is read or waits for room."""
        ...

    def has_room(self, ref: AdapterRef) -> bool:
        """Whether one that `acquire` does not return is being read."""
        ...

    def wait_for_opened(self, seconds: float) -> None:
        """Give those that are packed so long to be read."""
        ...

    def release(self, weights: LoraWeights) -> None:
        """Give back what `acquire` returned."""
        ...

    def settle(self) -> None:
        """Drop what nobody took; to be called when all that wait have been asked for."""
        ...

    def unload(self, digest: str) -> Future[None]:
        """Forget an adapter; done when its files are deleted."""
        ...
