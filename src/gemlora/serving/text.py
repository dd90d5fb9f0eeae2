"""Token ids to text as they come. Knows nothing of requests or transports."""

import re
from codecs import utf_8_decode
from collections.abc import Iterable
from typing import Final

from gemlora.serving.tokenizer import Tokenizer

UNDECODABLE: Final = re.compile("[\udc80-\udcff]")
"""What the `surrogateescape` handler makes of a byte that belongs to no character."""


class TextDecoder:
    """Decodes one answer token by token.

    The texts of `push` and `finish`, put together, are the same however the tokens are cut into calls, and always
    valid Unicode: a character spread over several byte tokens comes whole with the last of them, and each byte that
    belongs to no character is one U+FFFD, as SentencePiece decodes it. (`tokenizers` instead gives up every byte of
    a run of byte tokens of which one is wrong, which nobody can know before the run has ended.)

    Spaces are kept as they are, also the first. Control tokens have no text, see `Tokenizer.piece`.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._piece = tokenizer.piece
        self._incomplete = b""

    def push(self, tokens: Iterable[int]) -> str:
        """The text that these tokens complete; empty while a character is incomplete."""
        return self._decode(b"".join(map(self._piece, tokens)), final=False)

    def finish(self) -> str:
        """What is left at the end: U+FFFD for each byte of an incomplete character."""
        return self._decode(b"", final=True)

    def _decode(self, data: bytes, *, final: bool) -> str:
        data = self._incomplete + data
        text, decoded = utf_8_decode(data, "surrogateescape", final)
        self._incomplete = data[decoded:]
        return text if text.isascii() else UNDECODABLE.sub("\N{REPLACEMENT CHARACTER}", text)
