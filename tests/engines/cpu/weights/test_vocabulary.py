"""The tokenizer file of a packed model: SentencePiece reads it, and control tokens are marked as such."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor
from tests.checkpoints import VOCABULARY, write_tokenizer

from gemlora.engines.cpu.weights.piece_file import (
    NORMALIZER,
    PIECES,
    TRAINER,
    PieceType,
    encode_piece,
    encode_specifications,
    fields,
)
from gemlora.engines.cpu.weights.vocabulary import (
    JSON_FILE,
    SENTENCEPIECE_FILE,
    SpecialTokens,
    write_folder_vocabulary,
    write_gguf_vocabulary,
)
from gemlora.errors import WeightsInvalid

CONTROLS = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<unused7>"]
TEXTS = ["  ", "\n", "<b>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = ["▁a", "ab", "a", "b", "▁", "c"]


def metadata(**changes: Any) -> dict[str, Any]:
    """A small vocabulary as a GGUF file has it. As converters do, it marks only some control tokens."""
    tokens = [*CONTROLS, *TEXTS, *BYTES, *WORDS]
    types = (
        [PieceType.CONTROL] * 4
        + [PieceType.USER_DEFINED] * (len(CONTROLS) - 4 + len(TEXTS))
        + [PieceType.BYTE] * len(BYTES)
        + [PieceType.NORMAL] * len(WORDS)
    )
    scores = (
        [-1000.0] * (len(CONTROLS) + len(TEXTS)) + [0.0] * len(BYTES) + [-float(rank) for rank in range(len(WORDS))]
    )
    values = {
        "model": "llama",
        "tokens": tokens,
        "scores": np.array(scores, np.float32),
        "token_type": np.array(types, np.int32),
        "unknown_token_id": 3,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in {**values, **changes}.items() if value is not None}


def load(folder: Path) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(folder / SENTENCEPIECE_FILE))


def test_a_gguf_vocabulary_becomes_a_sentencepiece_model(tmp_path: Path) -> None:
    special = write_gguf_vocabulary(metadata(), tmp_path)
    assert special == SpecialTokens(bos=2, eos=1, start_of_turn=4, end_of_turn=5)
    processor = load(tmp_path)
    first_word = len(CONTROLS) + len(TEXTS) + len(BYTES)
    assert len(processor) == first_word + len(WORDS)
    assert processor.unk_id() == 3
    assert processor.encode(" ab", out_type=str) == ["▁a", "b"]
    assert processor.encode("a  b<b>\nc ", out_type=str) == ["a", "▁▁", "b", "<b>", "\n", "c", "▁"]
    assert processor.encode("é", out_type=str) == ["<0xC3>", "<0xA9>"]
    assert processor.decode(processor.encode(" ab  é\n")) == " ab  é\n"
    assert processor.get_score(first_word + 1) == -1.0


def test_every_control_token_of_a_gguf_vocabulary_is_marked(tmp_path: Path) -> None:
    write_gguf_vocabulary(metadata(), tmp_path)
    processor = load(tmp_path)
    assert [processor.is_control(i) or processor.is_unknown(i) for i in range(len(CONTROLS))] == [True] * len(CONTROLS)
    assert not any(processor.is_control(i) for i in range(len(CONTROLS), len(processor)))
    for spelling in CONTROLS:
        assert not set(processor.encode(spelling)) & set(range(len(CONTROLS)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "gpt2"}, "gpt2"),
        ({"model": None}, "tokenizer.ggml.model"),
        ({"tokens": None}, "tokenizer.ggml.tokens is missing"),
        ({"scores": 1.0}, "tokenizer.ggml.scores is missing or no array"),
        ({"token_type": np.array([1, 1])}, "2 token_type"),
        ({"tokens": ["<bos>", "<bos>"], "scores": [0.0] * 2, "token_type": [3, 3]}, "1 tokens twice"),
        ({"tokens": ["<bos>", "a"], "scores": [0.0] * 2, "token_type": [3, 1]}, "no <eos>, <start_of_turn>"),
        ({"token_type": [-1] * (len(CONTROLS) + len(TEXTS) + len(BYTES) + len(WORDS))}, "unknown type -1"),
        ({"unknown_token_id": 1 << 20}, "unknown_token_id is 1048576"),
    ],
)
def test_a_gguf_vocabulary_that_cannot_be_right_is_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(WeightsInvalid, match=reason):
        write_gguf_vocabulary(metadata(**changes), tmp_path)


def test_a_checkpoints_sentencepiece_model_keeps_its_pieces_and_gets_its_turn_markers_marked(tmp_path: Path) -> None:
    checkpoint, folder = tmp_path / "checkpoint", tmp_path / "packed"
    checkpoint.mkdir()
    folder.mkdir()
    write_tokenizer(checkpoint / SENTENCEPIECE_FILE)
    (checkpoint / JSON_FILE).write_text("not read when there is tokenizer.model")
    special = write_folder_vocabulary(checkpoint, folder, VOCABULARY)
    before, after = load(checkpoint), load(folder)
    assert special.start_of_turn == before.piece_to_id("<start_of_turn>")
    assert before.encode("<start_of_turn>") == [special.start_of_turn]
    assert special.start_of_turn not in after.encode("<start_of_turn>")
    assert after.is_control([special.start_of_turn, special.end_of_turn]) == [True, True]
    everyone = list(range(len(before)))
    assert after.id_to_piece(everyone) == before.id_to_piece(everyone)
    for text in ("the quick  brown fox", " ünïcode 字", "", "\n\t<b>"):
        assert after.encode(text) == before.encode(text)


def test_the_self_test_of_a_checkpoints_sentencepiece_model_is_left_out(tmp_path: Path) -> None:
    checkpoint, folder = tmp_path / "checkpoint", tmp_path / "packed"
    checkpoint.mkdir()
    folder.mkdir()
    write_tokenizer(checkpoint / SENTENCEPIECE_FILE)
    with (checkpoint / SENTENCEPIECE_FILE).open("ab") as file:
        file.write(b"\x22\x02\x0a\x00")
    write_folder_vocabulary(checkpoint, folder, VOCABULARY)
    numbers = {field.number for field in fields((folder / SENTENCEPIECE_FILE).read_bytes())}
    assert numbers == {PIECES, TRAINER, NORMALIZER}


def test_a_checkpoints_tokenizer_json_is_copied_with_its_control_tokens_marked(tmp_path: Path) -> None:
    checkpoint, folder = tmp_path / "checkpoint", tmp_path / "packed"
    checkpoint.mkdir()
    folder.mkdir()
    spellings = [*CONTROLS, "<b>", "<image_soft_token>"]
    added = [{"id": i, "content": text, "special": i < 4, "normalized": False} for i, text in enumerate(spellings)]
    document = {"added_tokens": added, "model": {"vocab": {"é": 9}}}
    (checkpoint / JSON_FILE).write_text(json.dumps(document))
    special = write_folder_vocabulary(checkpoint, folder, len(spellings) - 1)
    copy = json.loads((folder / JSON_FILE).read_bytes())
    assert copy["model"] == document["model"]
    assert {token["content"]: token["special"] for token in copy["added_tokens"]} == {
        **dict.fromkeys(CONTROLS, True),
        "<b>": False,
    }
    assert special == SpecialTokens(bos=2, eos=1, start_of_turn=4, end_of_turn=5)
    assert not (folder / SENTENCEPIECE_FILE).exists()


def pieces(*spellings: str) -> bytes:
    return b"".join(encode_piece(spelling, 0.0, PieceType.NORMAL) for spelling in spellings)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (None, b"", "neither tokenizer.model nor tokenizer.json"),
        (SENTENCEPIECE_FILE, b"\x0a\x7fabc", "is damaged: byte 0: the field ends behind the file"),
        (SENTENCEPIECE_FILE, b"\x0a" + b"\xff" * 11, "is damaged: byte 11: the number does not end"),
        (SENTENCEPIECE_FILE, b"\x0f\x00", "is damaged: byte 0: field of unknown wire type 7"),
        (
            SENTENCEPIECE_FILE,
            pieces("a") + encode_specifications(1, byte_fallback=False),
            "no <bos>",
        ),
        (SENTENCEPIECE_FILE, pieces(*map(str, range(65))), "65 pieces, but the model has only 64 embeddings"),
        (JSON_FILE, b"[]", "is damaged"),
        (JSON_FILE, b'{"added_tokens": [{"id": "x"}]}', "is damaged"),
        (JSON_FILE, b'{"added_tokens": []}', "no <bos>"),
        (JSON_FILE, b"\xff", "is damaged"),
    ],
)
def test_a_folder_without_a_usable_tokenizer_is_refused(
    tmp_path: Path, name: str | None, content: bytes, reason: str
) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsInvalid, match=reason):
        write_folder_vocabulary(tmp_path, folder, embeddings=64)
