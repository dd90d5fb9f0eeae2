"""The bytes that each token of a packed model stands for, read from its tokenizer file."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from gemlora.engines.cpu.weights.vocabulary import JSON_FILE, SPACE, is_control
from gemlora.errors import WeightsInvalid

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""Spelling of the pieces that stand for one byte of a character without a piece of its own."""


def token_bytes(path: Path, size: int) -> list[bytes]:
    """The bytes of `size` ids: none for control tokens, for ids without a piece, and for the second of two alike.

    Pieces for single bytes stand back behind those that models use for the same byte. Raises `WeightsInvalid`.
    """
    try:
        spellings = _json_spellings(path) if path.name == JSON_FILE else _piece_spellings(path)
        tokens = [b""] * size
        known: set[bytes] = set()
        for text, number in sorted(spellings, key=_is_byte):
            spelled = _bytes_of(text)
            if spelled not in known:
                known.add(spelled)
                tokens[number] = spelled
    except (OSError, RuntimeError, ValueError, LookupError, msgspec.MsgspecError) as error:
        raise WeightsInvalid(f"{path} is no readable tokenizer: {error}") from error
    return tokens


def _is_byte(entry: tuple[str, int]) -> bool:
    return BYTE.fullmatch(entry[0]) is not None


def _bytes_of(spelling: str) -> bytes:
    byte = BYTE.fullmatch(spelling)
    return bytes.fromhex(byte[1]) if byte else spelling.replace(SPACE, " ").encode()


def _piece_spellings(path: Path) -> Iterable[tuple[str, int]]:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor()
    processor.LoadFromFile(str(path))
    ids = list(range(processor.get_piece_size()))
    silent = zip(processor.is_control(ids), processor.is_unknown(ids), strict=True)
    named = zip(processor.id_to_piece(ids), ids, silent, strict=True)
    return [(name, number) for name, number, kinds in named if name and not any(kinds) and not is_control(name)]


def _json_spellings(path: Path) -> Iterable[tuple[str, int]]:
    document: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    added = {token["content"]: token["id"] for token in document.get("added_tokens", [])}
    special = {token["content"] for token in document.get("added_tokens", []) if token.get("special")}
    names: dict[str, int] = {**document["model"]["vocab"], **added}
    return [(name, i) for name, i in names.items() if name and name not in special and not is_control(name)]
