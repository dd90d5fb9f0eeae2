import json
from pathlib import Path

import pytest
from tests.checkpoints import VOCABULARY, write_tokenizer

from gemlora.engines.cpu.weights.token_bytes import token_bytes
from gemlora.engines.cpu.weights.vocabulary import write_folder_vocabulary
from gemlora.errors import WeightsInvalid
from gemlora.serving.tokenizer import Tokenizer

CONTROLS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")


def test_tokens_have_the_bytes_that_answers_show_and_control_tokens_none(tmp_path: Path) -> None:
    (checkpoint := tmp_path / "checkpoint").mkdir()
    write_tokenizer(checkpoint / "tokenizer.model")
    write_folder_vocabulary(checkpoint, tmp_path, VOCABULARY)
    path = tmp_path / "tokenizer.model"
    tokens, tokenizer = token_bytes(path, VOCABULARY + 7), Tokenizer.load(path)
    assert len(tokens) == VOCABULARY + 7
    assert tokens[: len(CONTROLS)] == [b""] * len(CONTROLS)
    spelled = [number for number, text in enumerate(tokens) if text]
    assert all(tokens[number] == tokenizer.piece(number) for number in spelled)
    assert {bytes([byte]) for byte in range(256)} < {*tokens}
    assert len({tokens[number] for number in spelled}) == len(spelled)
    assert tokens[tokenizer.encode("e", control_tokens=False)[0]] == b"e"


def test_a_json_file_is_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    added = [{"id": 0, "content": "<bos>", "special": True}, {"id": 6, "content": "<start_of_turn>", "special": False}]
    vocab = {"<bos>": 0, "<0x61>": 1, "a": 2, "▁the": 3, "<0xFF>": 4, "<unused7>": 5}
    path.write_text(json.dumps({"added_tokens": added, "model": {"vocab": vocab}}))
    assert token_bytes(path, 8) == [b"", b"", b"a", b" the", b"\xff", b"", b"", b""]


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'{"no": "tokenizer"}')
    with pytest.raises(WeightsInvalid, match="no readable tokenizer"):
        token_bytes(tmp_path / name, 8)
    with pytest.raises(WeightsInvalid):
        token_bytes(tmp_path / "missing" / name, 8)
