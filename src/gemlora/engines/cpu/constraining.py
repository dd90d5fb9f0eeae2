"""Where the step loop gets constrained texts and their masks from, without waiting for a grammar.

Grammars are compiled on one thread, which also makes the vocabulary's trie, for the first of them or before any comes;
masks are computed on another one while the model computes the logits. The library that does it is loaded with the trie.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gemlora.engines.contract import Constraint, FinishReason

if TYPE_CHECKING:
    from gemlora.engines.constraints import GrammarVocabulary


class Taken(Protocol):
    """See `constraints.Taken`."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens that the text has more."""
        ...

    @property
    def finish_reason(self) -> FinishReason | None:
        """Set if it has ended."""
        ...


class ConstrainedText(Protocol):
    """See `constraints.ConstrainedText`."""

    @property
    def words(self) -> int:
        """Words of a mask."""
        ...

    def take(self, token: int) -> Taken:
        """Go on with a token."""
        ...

    def ends_by(self, token: int) -> bool:
        """Whether the token stands for the end."""
        ...

    def possible(self, draft: Sequence[int]) -> int:
        """How many tokens may come one after the other."""
        ...

    def forced(self) -> list[int]:
        """What must come next."""
        ...

    def masks(self, draft: Sequence[int], masks: NDArray[np.uint32]) -> None:
        """Fill [1 + len(draft), words]."""
        ...


class Opened(NamedTuple):
    """A text behind the tokens that it has already; `ended` is what is left of it if it has its ending."""

    text: ConstrainedText
    ended: Taken | None


class Constraining:
    """Belongs to the step loop's thread; only `on_opened` is called from another one, whenever a text is open."""

    def __init__(
        self,
        load_vocabulary: "Callable[[], GrammarVocabulary]",
        grammar_symbols: int,
        compiler: Executor,
        masker: Executor,
        on_opened: Callable[[], None],
    ) -> None:
        """Grammars may have `grammar_symbols`. Each executor has one thread."""
        self._load_vocabulary = load_vocabulary
        self._grammar_symbols = grammar_symbols
        self._compiler = compiler
        self._masker = masker
        self._on_opened = on_opened
        self._vocabulary: GrammarVocabulary | None = None

    def prepare(self) -> None:
        """Make the trie now, so that no step has to wait for it."""
        self._compiler.submit(self._loaded).result()

    def open(
        self, constraint: Constraint, stop_tokens: Sequence[int], room: int, generated: Sequence[int]
    ) -> Future[Opened]:
        """The text of at most `room` tokens behind those of it that are generated.

        It ends in `ConstraintInvalid` or `ConstraintUnmet` where the contract says so.
        """
        opened = self._compiler.submit(self._open, constraint, stop_tokens, room, generated)
        opened.add_done_callback(self._tell)
        return opened

    def masks(self, text: ConstrainedText, draft: Sequence[int]) -> Future[NDArray[np.uint32]]:
        """[1 + len(draft), words], as `constraints.ConstrainedText.masks` says; nobody may use the text meanwhile."""
        return self._masker.submit(_masks, text, draft)

    def _open(self, constraint: Constraint, stop_tokens: Sequence[int], room: int, generated: Sequence[int]) -> Opened:
        from gemlora.engines.constraints import ConstrainedText, compile_grammar

        vocabulary = self._loaded()
        matcher = compile_grammar(constraint.grammar, vocabulary, self._grammar_symbols)
        text = ConstrainedText(vocabulary, matcher, stop_tokens, room)
        ended = text.resume(generated)
        if ended is None:
            _masks(text, ())  # the first one takes longer
        return Opened(text, ended)

    def _loaded(self) -> "GrammarVocabulary":
        if self._vocabulary is None:
            self._vocabulary = self._load_vocabulary()
        return self._vocabulary

    def _tell(self, _: object) -> None:
        self._on_opened()


def _masks(text: ConstrainedText, draft: Sequence[int]) -> NDArray[np.uint32]:
    masks = np.empty((1 + len(draft), text.words), np.uint32)
    text.masks(draft, masks)
    return masks
