"""The fields of a SentencePiece model file that a vocabulary needs, in protobuf's encoding.

Numbers and meaning of the fields: sentencepiece_model.proto of google/sentencepiece. Written out here because the
protobuf library would be needed for nothing else.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from struct import pack, unpack
from typing import NamedTuple

PIECES = 1
TRAINER = 2
NORMALIZER = 3
SELF_TEST = 4

MODEL_TYPE_BPE = 2


class PieceType(IntEnum):
    """`SentencePiece.Type`; GGUF uses the same numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class WireType(IntEnum):
    """How a field's value is encoded: https://protobuf.dev/programming-guides/encoding."""

    VARINT = 0
    FIXED_64 = 1
    BYTES = 2
    FIXED_32 = 5


class Piece(NamedTuple):
    """An entry of the vocabulary."""

    spelling: str
    score: float
    kind: int


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: `value` is its content without length, `raw` the field as it stood in the file."""

    number: int
    value: bytes
    raw: bytes


def encode_piece(spelling: str, score: float, kind: int) -> bytes:
    """One entry of the vocabulary."""
    text = spelling.encode()
    return _bytes_field(PIECES, _bytes_field(1, text) + b"\x15" + pack("<f", score) + _varint_field(3, kind))


def decode_piece(message: bytes) -> Piece:
    """An entry of the vocabulary. Raises `ValueError` if it is damaged."""
    spelling, score, kind = "", 0.0, int(PieceType.NORMAL)
    for field in fields(message):
        if field.number == 1:
            spelling = field.value.decode()
        elif field.number == 2 and len(field.value) == 4:
            (score,) = unpack("<f", field.value)
        elif field.number == 3:
            kind, _ = _read_varint(field.value, 0)
    return Piece(spelling, score, kind)


def read_pieces(content: bytes) -> list[Piece]:
    """The vocabulary of a model file, in the order of its ids. Raises `ValueError` if it is damaged."""
    return [decode_piece(field.value) for field in fields(content) if field.number == PIECES]


def encode_specifications(pieces: int, *, byte_fallback: bool) -> bytes:
    """Trainer and normaliser of a byte-pair model that leaves text as it is: nothing is added, folded or dropped.

    `pieces` is the size of the vocabulary. With `byte_fallback` it has a piece for every byte.
    """
    model_type, vocabulary_size, with_bytes = 3, 4, 35
    trainer = (
        _varint_field(model_type, MODEL_TYPE_BPE)
        + _varint_field(vocabulary_size, pieces)
        + _varint_field(with_bytes, byte_fallback)
    )
    add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces = 3, 4, 5
    normalizer = (
        _bytes_field(1, b"identity")
        + _varint_field(add_dummy_prefix, False)
        + _varint_field(remove_extra_whitespaces, False)
        + _varint_field(escape_whitespaces, True)
    )
    return _bytes_field(TRAINER, trainer) + _bytes_field(NORMALIZER, normalizer)


def fields(message: bytes) -> Iterator[Field]:
    """The fields of a message in their order. Raises `ValueError` if it is damaged."""
    at = 0
    while at < len(message):
        start = at
        key, at = _read_varint(message, at)
        match key & 7:
            case WireType.VARINT:
                begin = at
                _, at = _read_varint(message, at)
            case WireType.FIXED_64:
                begin, at = at, at + 8
            case WireType.FIXED_32:
                begin, at = at, at + 4
            case WireType.BYTES:
                size, begin = _read_varint(message, at)
                at = begin + size
            case other:
                raise ValueError(f"byte {start}: field of unknown wire type {other}")
        if at > len(message):
            raise ValueError(f"byte {start}: the field ends behind the file")
        yield Field(key >> 3, message[begin:at], message[start:at])


def _bytes_field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | WireType.BYTES) + _varint(len(value)) + value


def _varint_field(number: int, value: int) -> bytes:
    return _varint(number << 3 | WireType.VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first, the top bit set on all but the last."""
    if value < 0x80:
        return bytes((value,))
    return bytes((value & 0x7F | 0x80,)) + _varint(value >> 7)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """The number at this place and the place behind it."""
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"byte {at}: the number does not end")
