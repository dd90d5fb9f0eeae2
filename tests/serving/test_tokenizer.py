"""Ids are the reference's; control tokens come from raw text only."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tests.strings import CONTROLS
from tests.tokenizer_reference import PACKAGE, RESERVED, reference_ids

from gemlora.engines.cpu.weights.piece_file import PieceType, encode_piece, encode_specifications
from gemlora.engines.cpu.weights.vocabulary import JSON_FILE, SENTENCEPIECE_FILE, write_folder_vocabulary
from gemlora.errors import WeightsInvalid
from gemlora.serving.tokenizer import Tokenizer, Vocabulary

PROMPT_LIMIT = 131_072
"""Characters that the schema allows in one prompt."""

EMBEDDINGS = 262_144

any_text = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.sampled_from([*CONTROLS, " " * 33, "\n" * 33, "\t\t", "▁▁", "<table>"]),
        st.characters(categories=["Cs"]),
    ),
    max_size=8,
).map("".join)


def differences(
    tokenizer: Tokenizer, reference: tokenizers.Tokenizer, strings: Sequence[str], *, control_tokens: bool
) -> list[str]:
    return [
        text
        for text in strings
        if tokenizer.encode(text, control_tokens=control_tokens)
        != reference_ids(reference, text, control_tokens=control_tokens)
    ]


@pytest.mark.parametrize("control_tokens", [False, True])
def test_ids_equal_the_reference(
    tokenizer: Tokenizer, reference: tokenizers.Tokenizer, strings: Sequence[str], control_tokens: bool
) -> None:
    assert len(set(strings)) > 10_000
    assert differences(tokenizer, reference, strings, control_tokens=control_tokens) == []


@pytest.mark.parametrize("control_tokens", [False, True])
def test_the_reference_as_published_differs_only_where_a_permitted_difference_is_spelled(
    tokenizer: Tokenizer, published_reference: tokenizers.Tokenizer, strings: Sequence[str], control_tokens: bool
) -> None:
    permitted = "<image_soft_token>" if control_tokens else RESERVED.pattern
    differing = differences(tokenizer, published_reference, strings[:4_000], control_tokens=control_tokens)
    assert differing
    assert [text for text in differing if not re.search(permitted, text)] == []


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=any_text, control_tokens=st.booleans())
def test_ids_of_any_text_equal_the_reference(
    tokenizer: Tokenizer, reference: tokenizers.Tokenizer, text: str, control_tokens: bool
) -> None:
    expected = reference_ids(reference, text, control_tokens=control_tokens)
    assert tokenizer.encode(text, control_tokens=control_tokens) == expected


def test_every_control_token_is_read_from_raw_text_and_never_from_a_message(
    tokenizer: Tokenizer, published_reference: tokenizers.Tokenizer
) -> None:
    controls = {
        token.content: id
        for id, token in published_reference.get_added_tokens_decoder().items()
        if (token.special or RESERVED.fullmatch(token.content)) and id < EMBEDDINGS
    }
    assert len(controls) == 6_251
    for spelling, id in controls.items():
        assert tokenizer.encode(f"a{spelling}b", control_tokens=True)[1:-1] == [id]
        assert not set(tokenizer.encode(f"a{spelling}b {spelling}", control_tokens=False)) & set(controls.values())


def test_special_tokens_are_read_from_the_vocabulary(tokenizer: Tokenizer) -> None:
    special = tokenizer.special
    assert (special.bos, special.eos, special.start_of_turn, special.end_of_turn) == (2, 1, 105, 106)
    assert special.stop == (1, 106)
    assert tokenizer.size == EMBEDDINGS


def test_control_tokens_of_any_spelling_are_found_inside_what_looks_like_another() -> None:
    names = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "[@BOS@]", "<|a<b|>"]
    controls = {name: 1000 + rank for rank, name in enumerate(names)}
    letters = Vocabulary(1100, 20, lambda text: list(map(ord, text)), chr, controls)
    ids = Tokenizer(letters).encode("<x[@BOS@]>[<bos>]<|a<b|><eos", control_tokens=True)
    assert "".join(chr(token) if token < 1000 else f"{{{names[token - 1000]}}}" for token in ids) == (
        "<x{[@BOS@]}>[{<bos>}]{<|a<b|>}<eos"
    )


def test_no_text_has_fewer_tokens_than_the_least(
    tokenizer: Tokenizer, starter_vocabulary: Path, strings: Sequence[str]
) -> None:
    pieces = SentencePieceProcessor(model_file=str(starter_vocabulary))
    longest = max(pieces.id_to_piece(list(range(tokenizer.size))), key=len)
    assert tokenizer.least(len(longest)) == len(tokenizer.encode(longest.replace("▁", " "), control_tokens=True)) == 1
    assert tokenizer.least(len(longest) + 1) == 2
    assert tokenizer.least(0) == 0
    for text in strings:
        assert tokenizer.least(len(text)) <= len(tokenizer.encode(text, control_tokens=True))


def test_no_bos_is_added(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("", control_tokens=True) == []
    assert tokenizer.special.bos not in tokenizer.encode("Hello", control_tokens=True)


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("\ud83d\ude00", "😀"),
        ("a\ud83d", "a\ufffd"),
        ("\ude00b", "\ufffdb"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83dx\ude00", "\ufffdx\ufffd"),
    ],
)
def test_surrogates_become_their_character_or_the_replacement_character(
    tokenizer: Tokenizer, text: str, same_as: str
) -> None:
    assert tokenizer.encode(text, control_tokens=False) == tokenizer.encode(same_as, control_tokens=False)


def test_nothing_is_normalised(tokenizer: Tokenizer) -> None:
    decomposed, composed = "e\u0301", "\u00e9"
    assert tokenizer.encode(decomposed, control_tokens=False) != tokenizer.encode(composed, control_tokens=False)
    assert tokenizer.encode("a\0b", control_tokens=False) != tokenizer.encode("a", control_tokens=False)


@pytest.mark.parametrize(
    "unit",
    ["a", " ", "\n", "é", "字", "𒀀", "<", "<bos", "<bos>", "<a>", "[", "▁", "▁▁a", "ab ", "\0", "\ud800", "e\u0301"],
)
def test_the_longest_prompt_is_encoded_in_no_time(
    tokenizer: Tokenizer, reference: tokenizers.Tokenizer, unit: str
) -> None:
    text = (unit * PROMPT_LIMIT)[:PROMPT_LIMIT]
    started = time.process_time()
    ids = tokenizer.encode(text, control_tokens=True)
    assert time.process_time() - started < 2
    assert ids == reference_ids(reference, text, control_tokens=True)


def test_pieces_are_the_text_of_tokens(tokenizer: Tokenizer) -> None:
    hello, newline, spaces = (tokenizer.encode(text, control_tokens=False)[0] for text in (" Hello", "\n\n", "   "))
    assert [tokenizer.piece(token) for token in (hello, newline, spaces)] == [b" Hello", b"\n\n", b"   "]
    assert [tokenizer.piece(token) for token in tokenizer.encode("\x06", control_tokens=False)] == [b"\x06"]


def test_control_tokens_have_no_text_but_the_reserved_ones_show(tokenizer: Tokenizer) -> None:
    silent = tokenizer.encode("<bos><eos><pad><unk><start_of_turn><end_of_turn><start_of_image>", control_tokens=True)
    assert [tokenizer.piece(token) for token in silent] == [b""] * 7
    shown = tokenizer.encode("<unused5><mask>", control_tokens=True)
    assert [tokenizer.piece(token) for token in shown] == [b"<unused5>", b"<mask>"]


@pytest.mark.parametrize("token", [-1, EMBEDDINGS, EMBEDDINGS + 64, 2**31])
def test_ids_outside_the_vocabulary_have_no_text(tokenizer: Tokenizer, token: int) -> None:
    assert tokenizer.piece(token) == b""


def test_a_checkpoint_with_only_tokenizer_json_gives_the_same_ids(
    tokenizer: Tokenizer, strings: Sequence[str], tmp_path: Path
) -> None:
    write_folder_vocabulary(PACKAGE, tmp_path, EMBEDDINGS)
    fallback = Tokenizer.load(tmp_path / JSON_FILE)
    assert fallback.special == tokenizer.special
    assert fallback.size == tokenizer.size
    assert fallback.least(1_000) == tokenizer.least(1_000)
    for text in strings[:2_000]:
        for control_tokens in (False, True):
            ids = tokenizer.encode(text, control_tokens=control_tokens)
            assert fallback.encode(text, control_tokens=control_tokens) == ids
            assert [fallback.piece(token) for token in ids] == [tokenizer.piece(token) for token in ids]


def test_the_slow_library_is_not_imported_for_a_sentencepiece_model(starter_vocabulary: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from gemlora.serving.tokenizer import Tokenizer;"
        "Tokenizer.load(Path(sys.argv[1])); sys.exit('tokenizers' in sys.modules or 'google.protobuf' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(starter_vocabulary)], check=True)


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"", b"not a tokenizer", b"\x0a\xff\xff\xff\xff\x7f", b'{"model": {}}'])
def test_a_missing_or_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsInvalid, match=re.escape(str(tmp_path / name))):
        Tokenizer.load(tmp_path / name)


def test_a_file_with_a_broken_piece_is_refused(tmp_path: Path) -> None:
    path = tmp_path / SENTENCEPIECE_FILE
    pieces = encode_piece("<unk>", 0.0, PieceType.UNKNOWN) + encode_piece("<0x41>", 0.0, PieceType.BYTE)
    path.write_bytes(pieces.replace(b"<0x41>", b"<0x4\xff>") + encode_specifications(2, byte_fallback=True))
    with pytest.raises(WeightsInvalid, match="no readable SentencePiece model"):
        Tokenizer.load(path)


def test_a_vocabulary_of_another_family_is_refused(tmp_path: Path) -> None:
    document = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}
    (tmp_path / JSON_FILE).write_text(json.dumps(document))
    with pytest.raises(WeightsInvalid, match="<start_of_turn>"):
        Tokenizer.load(tmp_path / JSON_FILE)
