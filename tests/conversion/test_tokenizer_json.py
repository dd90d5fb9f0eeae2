"""SentencePiece and `tokenizer.json` as each other, and the published file as the judge."""

import json
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor
from tests.checkpoints import VOCABULARY, write_tokenizer
from tests.tokenizer_reference import published
from tokenizers import Tokenizer

from gemlora.conversion.tokenizer_json import pieces_of, tokenizer_document
from gemlora.engines.cpu.weights.piece_file import PieceType, encode_piece, encode_specifications, read_pieces
from gemlora.errors import WeightsInvalid

PIECES = 3000
"""The beginning of Gemma's vocabulary: control tokens, runs of newlines and blanks, bytes, common pieces."""


def test_gemmas_published_file_is_made_from_the_pieces_that_are_read_from_it() -> None:
    reference = json.loads(published("tokenizer.json").read_bytes())
    pieces = pieces_of(reference)[:PIECES]
    made = tokenizer_document(pieces)
    known = made["model"]["vocab"]
    assert made["model"]["merges"] == [
        pair for pair in reference["model"]["merges"] if all(part in known for part in (*pair, "".join(pair)))
    ]
    assert len(made["model"]["merges"]) > PIECES // 2
    for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        assert made[key] == reference[key]
    added = {token["content"]: token["id"] for token in reference["added_tokens"] if token["id"] < PIECES}
    assert {token["content"]: token["id"] for token in made["added_tokens"]} == added


def test_a_tokenizer_json_merges_as_the_pieces_that_it_becomes(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer.model")
    document = tokenizer_document(read_pieces((tmp_path / "tokenizer.model").read_bytes()))
    pieces = pieces_of(document)
    (tmp_path / "back.model").write_bytes(
        b"".join(encode_piece(*piece) for piece in pieces) + encode_specifications(len(pieces), byte_fallback=True)
    )
    original = SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    back = SentencePieceProcessor(model_file=str(tmp_path / "back.model"))
    tokenizer = Tokenizer.from_str(json.dumps(document))
    assert len(back) == VOCABULARY
    for text in ("the quick brown fox", "what question  is the answer", "ß🙂\n"):
        assert back.encode(text) == original.encode(text) == tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode("the").ids[0] == 2


@pytest.mark.parametrize("damage", ["type", "normalizer", "gap"])
def test_another_kind_of_tokenizer_is_refused(tmp_path: Path, damage: str) -> None:
    write_tokenizer(tmp_path / "tokenizer.model")
    document = tokenizer_document(read_pieces((tmp_path / "tokenizer.model").read_bytes()))
    if damage == "type":
        document["model"]["type"] = "WordPiece"
    elif damage == "normalizer":
        document["normalizer"] = None
    else:
        document["model"]["vocab"].pop("<0x07>")
    with pytest.raises(WeightsInvalid, match=r"tokenizer\.json"):
        pieces_of(document)


def test_types_of_pieces_come_from_what_is_added(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer.model")
    kinds = {
        p.spelling: p.kind
        for p in pieces_of(tokenizer_document(read_pieces((tmp_path / "tokenizer.model").read_bytes())))
    }
    assert kinds["<unk>"] == PieceType.UNKNOWN
    assert kinds["<start_of_turn>"] == kinds["<bos>"] == PieceType.CONTROL
    assert kinds["<0x41>"] == PieceType.BYTE
    assert kinds["e"] == PieceType.NORMAL
