"""Text to token ids and token ids to pieces of text, with exactly the ids of Gemma's published tokenizer.

Knows nothing of roles and turns (`prompt.py`) nor of characters that are spread over several tokens (`text.py`).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from pathlib import Path
from typing import Final

from sentencepiece import SentencePieceProcessor

from gemlora.engines.cpu.weights.vocabulary import JSON_FILE, RESERVED, SPACE, SpecialTokens
from gemlora.errors import WeightsInvalid

BYTE: Final = re.compile(r"<0x([0-9A-F]{2})>")
"""Spelling of the pieces that stand for one byte of a character without a piece of its own."""

WRITTEN_SPACES: Final = re.compile(f"({SPACE}{{2,31}})")
"""Runs of the character U+2581 itself: the reference takes each for a piece before it looks at spaces."""


REMEMBERED_PIECES: Final = 1 << 14
"""Most used pieces, a megabyte or two: answers repeat them, and asking the library takes twenty times as long."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a loaded tokenizer file offers.

    `encode` leaves spelled control tokens as text and adds nothing. `controls` maps the spelling of every control
    token to its id. No token stands for more than `longest` characters; what has no piece becomes bytes.
    """

    size: int
    longest: int
    encode: Callable[[str], list[int]]
    spelling: Callable[[int], str]
    controls: Mapping[str, int]


class Tokenizer:
    """The vocabulary of the served weights.

    The ids are those that Hugging Face's `tokenizers` gives for Gemma's `tokenizer.json`, except that

    - in message text `<unusedN>` and `<mask>` stay text, although the reference reads them as tokens there: they are
      control tokens too, and adapters are trained on them as marks;
    - a control token without an embedding stays text: `<image_soft_token>` beside Gemma 3's text-only weights.

    Text that is not valid Unicode is made so first: a surrogate pair becomes its character, and a lone surrogate,
    which JSON can spell, becomes U+FFFD. Nothing else is normalised, and no `<bos>` is added.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Raises `WeightsInvalid` if the vocabulary lacks Gemma's special tokens."""
        self.special = SpecialTokens.find(vocabulary.controls)
        self._vocabulary = vocabulary
        self._silent = frozenset(i for name, i in vocabulary.controls.items() if not RESERVED.fullmatch(name))
        self._control = _control_pattern(vocabulary.controls)
        self._remembered = lru_cache(REMEMBERED_PIECES)(self._spell)

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Load the tokenizer file of a packed model. Raises `WeightsInvalid` if it is missing or damaged."""
        return cls(_load_json(path) if path.name == JSON_FILE else _load_pieces(path))

    @property
    def size(self) -> int:
        """Number of ids. A model may have more embeddings, which then have no text."""
        return self._vocabulary.size

    def least(self, characters: int) -> int:
        """So many tokens at least has a text of so many characters, none of them a surrogate."""
        return -(-characters // self._vocabulary.longest)

    def encode(self, text: str, *, control_tokens: bool) -> list[int]:
        """The ids of `text`; control tokens that it spells become tokens only with `control_tokens`."""
        text = _valid(text)
        if not control_tokens:
            return self._encode_plain(text)
        ids: list[int] = []
        start = at = 0
        while match := self._control.search(text, at):
            token = self._vocabulary.controls.get(match[0])
            if token is None:
                at = match.start() + 1
                continue
            ids += self._encode_plain(text[start : match.start()])
            ids.append(token)
            start = at = match.end()
        return ids + self._encode_plain(text[start:])

    def piece(self, token: int) -> bytes:
        """The text of one token in UTF-8, perhaps only a part of a character.

        Control tokens have none, and neither has an id behind the vocabulary; `<unusedN>` and `<mask>` are written as
        they are spelled, so that the marks of a fine-tuned model can be seen.
        """
        return self._remembered(token)

    def _spell(self, token: int) -> bytes:
        if token in self._silent or not 0 <= token < self._vocabulary.size:
            return b""
        spelling = self._vocabulary.spelling(token)
        if byte := BYTE.fullmatch(spelling):
            return bytes.fromhex(byte[1])
        return spelling.replace(SPACE, " ").encode()

    def _encode_plain(self, text: str) -> list[int]:
        if SPACE * 2 not in text:
            return self._vocabulary.encode(text)
        return [token for part in WRITTEN_SPACES.split(text) for token in self._vocabulary.encode(part)]


def _valid(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _control_pattern(controls: Mapping[str, int]) -> re.Pattern[str]:
    """What may be a control token: one short form for the thousands of `<…>`, so that long texts stay fast."""
    longest = max(map(len, controls))
    bracketed = f"<[^<>]{{1,{longest}}}>"
    others = sorted((name for name in controls if not re.fullmatch(bracketed, name)), key=len, reverse=True)
    return re.compile("|".join([bracketed, *map(re.escape, others)]))


def _load_pieces(path: Path) -> Vocabulary:
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromFile(str(path))
        size = processor.get_piece_size()
        ids = list(range(size))  # one call for all ids: a loop over them in Python takes a quarter of a second
        longest = max(map(len, processor.id_to_piece(ids)))
        controls = [processor.unk_id(), *compress(ids, processor.is_control(ids))]
        names = processor.id_to_piece(controls)
    except (OSError, RuntimeError, ValueError) as error:  # ValueError: its message quotes a broken piece
        raise WeightsInvalid(f"{path} is no readable SentencePiece model: {error}") from error
    return Vocabulary(size, longest, processor.encode, processor.id_to_piece, dict(zip(names, controls, strict=True)))


def _load_json(path: Path) -> Vocabulary:
    """Slow and large (a second, 300 MB for Gemma), so its library is imported only for checkpoints that need it."""
    import tokenizers

    try:
        reader = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise WeightsInvalid(f"{path} is no readable tokenizer: {error}") from error
    reader.no_truncation()
    reader.no_padding()
    reader.encode_special_tokens = True
    return Vocabulary(
        size=reader.get_vocab_size(),
        longest=max(map(len, reader.get_vocab())),
        encode=lambda text: reader.encode(text, add_special_tokens=False).ids,
        spelling=lambda token: reader.id_to_token(token) or "",
        controls={token.content: i for i, token in reader.get_added_tokens_decoder().items() if token.special},
    )
