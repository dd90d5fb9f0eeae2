"""A probe: what an adapter does to the logits after a short prompt, computed first with it and then without."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemlora.errors import AdapterInvalid, EngineFailed
from gemlora.kernels import EmbeddingPair

LENGTH = 12
"""Tokens of the prompt; fewer than the smallest context window."""

MOST_CHANGED = 4
"""Tokens at its end that are chosen among those whose embedding the adapter changes."""


@dataclass(slots=True, eq=False)
class Probing:
    """A probe under way: the logits [V] of its last token as far as they are computed."""

    adapted: NDArray[np.float32] | None = None
    plain: NDArray[np.float32] | None = None

    def keep(self, logits: NDArray[np.float32], *, adapted: bool) -> None:
        """Note a copy of the logits [V] with or without the adapter; computed twice they are the same."""
        if adapted:
            self.adapted = logits.copy()
        else:
            self.plain = logits.copy()

    @property
    def difference(self) -> float:
        """See `contract.Probe`. Raises `AdapterInvalid` if the adapter's logits are not all finite."""
        if self.adapted is None or self.plain is None or not np.isfinite(self.plain).all():
            raise EngineFailed("The model's output for the probe is not finite.")
        if not np.isfinite(self.adapted).all():
            raise AdapterInvalid("With this adapter the model's output is not finite.")
        largest = np.abs(self.plain).max()
        return float(np.abs(self.adapted - self.plain).max() / largest) if largest else float((self.adapted != 0).any())


def probe_prompt(vocabulary: int, bos: int) -> tuple[int, ...]:
    """The tokens of every probe: `<bos>` and ids from all over the vocabulary."""
    return (bos, *(vocabulary * place // LENGTH for place in range(1, LENGTH)))


def with_changed_tokens(prompt: Sequence[int], embedding: EmbeddingPair) -> tuple[int, ...]:
    """The prompt ending with tokens whose embedding the adapter changes, as far as there are any."""
    changed = np.flatnonzero((embedding.a != 0).any(axis=1))
    chosen = changed[np.linspace(0, len(changed) - 1, min(MOST_CHANGED, len(changed)), dtype=np.int64)]
    return (*prompt[: len(prompt) - len(chosen)], *chosen.tolist())
