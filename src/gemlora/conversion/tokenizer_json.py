"""Gemma's vocabulary between its two forms: SentencePiece pieces, and Hugging Face's `tokenizer.json`.

Both merge pairs of neighbouring pieces: SentencePiece the pair whose result has the highest score, `tokenizer.json` the
pair that its list of merges names first. Source of the order: `generate_merges` of transformers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gemlora.engines.cpu.weights.piece_file import Piece, PieceType
from gemlora.engines.cpu.weights.vocabulary import SPACE, is_control
from gemlora.errors import WeightsInvalid

ADDED = (PieceType.CONTROL, PieceType.USER_DEFINED, PieceType.UNKNOWN)
UNKNOWN = "<unk>"
UNMERGED_SCORE = -1000.0
"""Of pieces that no merge makes."""


def tokenizer_document(pieces: Sequence[Piece], bos: str = "<bos>") -> dict[str, Any]:
    """The `tokenizer.json` of a vocabulary; encoding with special tokens puts `bos` first."""
    ids = {piece.spelling: number for number, piece in enumerate(pieces)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(number, piece) for number, piece in enumerate(pieces) if piece.kind in ADDED],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": {
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False,
        },
        "post_processor": _post_processor(bos, ids[bos]),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE", "dropout": None, "unk_token": UNKNOWN, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": ids, "merges": _merges(pieces, ids),
        },
    }  # fmt: skip


def pieces_of(document: Mapping[str, Any]) -> list[Piece]:
    """The pieces of a `tokenizer.json` of Gemma's kind. Raises `WeightsInvalid` for one of another kind."""
    try:
        model = document["model"]
        if (
            model["type"] != "BPE"
            or not model["byte_fallback"]
            or (document["normalizer"] or {}).get("content") != SPACE
        ):
            raise WeightsInvalid("tokenizer.json is not of Gemma's kind: byte pairs with bytes to fall back to")
        spellings = {number: spelling for spelling, number in model["vocab"].items()}
        added = {token["id"]: token for token in document["added_tokens"]}
        merged = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        results = (left + right for left, right in merged)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsInvalid(f"tokenizer.json is damaged: {error!r}") from error
    spellings |= {number: token["content"] for number, token in added.items()}
    if sorted(spellings) != list(range(len(spellings))):
        raise WeightsInvalid("tokenizer.json gives not every id up to its largest one to a token")
    ranks: dict[str, int] = {}
    for result in results:
        ranks.setdefault(result, len(ranks))
    last = len(ranks)
    pieces = []
    for number in range(len(spellings)):
        spelling = spellings[number]
        kind = _kind(spelling, added.get(number))
        if kind is PieceType.NORMAL:
            score = -float(ranks.get(spelling, last + number))
        else:
            score = 0.0 if kind is PieceType.BYTE else UNMERGED_SCORE
        pieces.append(Piece(spelling, score, kind))
    return pieces


def _kind(spelling: str, added: Mapping[str, Any] | None) -> PieceType:
    if spelling == UNKNOWN:
        return PieceType.UNKNOWN
    if added is not None:
        return PieceType.CONTROL if added["special"] or is_control(spelling) else PieceType.USER_DEFINED
    is_byte = len(spelling) == 6 and spelling.startswith("<0x") and spelling.endswith(">")
    return PieceType.BYTE if is_byte else PieceType.NORMAL


def _added(number: int, piece: Piece) -> dict[str, Any]:
    return {
        "id": number, "content": piece.spelling, "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": piece.kind != PieceType.USER_DEFINED,
    }  # fmt: skip


def _post_processor(bos: str, number: int) -> dict[str, Any]:
    def sequence(name: str, kind: int) -> list[dict[str, Any]]:
        first = {"SpecialToken": {"id": bos, "type_id": kind}}
        return [first, {"Sequence": {"id": name, "type_id": kind}}]

    return {
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": [*sequence("A", 0), *sequence("B", 1)],
        "special_tokens": {bos: {"id": bos, "ids": [number], "tokens": [bos]}},
    }


def _merges(pieces: Sequence[Piece], ids: Mapping[str, int]) -> list[list[str]]:
    """All pairs that make a piece: user-defined pieces first, as SentencePiece finds them before it merges."""
    found = [pair for piece in pieces for pair in _pairs(piece, ids)]
    found.sort(key=lambda pair: (pair[2], len(pair[0]), len(pair[1])), reverse=True)
    return [[left, right] for left, right, _ in found]


def _pairs(piece: Piece, ids: Mapping[str, int]) -> Iterator[tuple[str, str, float]]:
    if piece.kind not in (PieceType.NORMAL, PieceType.USER_DEFINED):
        return
    score = piece.score if piece.kind == PieceType.NORMAL else float("inf")
    for at in range(1, len(piece.spelling)):
        left, right = piece.spelling[:at], piece.spelling[at:]
        if left in ids and right in ids:
            yield left, right, score
