"""The incremental decoder's texts, put together, are the whole decode; each is whole characters."""

import random
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemlora.serving.text import TextDecoder
from gemlora.serving.tokenizer import Tokenizer

SEQUENCES = 50_000
VOCABULARY = 262_144
CONTROL = (0, 1, 2, 3, 105, 106, 255_999, 256_000)
RESERVED = (4, 6, 104, 256_001, 262_143)
FIRST_BYTE = 238
"""Id of `<0x00>`."""

ids = st.lists(st.one_of(st.integers(0, VOCABULARY - 1), st.integers(FIRST_BYTE, FIRST_BYTE + 255)), max_size=40)


def decoded(tokenizer: Tokenizer, tokens: Sequence[int], cuts: random.Random) -> str:
    """All texts of a decoder that is fed in pieces of random size; each must be valid Unicode by itself."""
    decoder = TextDecoder(tokenizer)
    texts = []
    at = 0
    while at < len(tokens):
        size = cuts.choice((1, 1, 1, 2, 5))
        texts.append(decoder.push(tokens[at : at + size]))
        at += size
    texts.append(decoder.finish())
    for text in texts:
        text.encode()
    return "".join(texts)


def spelled(character: str) -> list[int]:
    """A character as byte tokens."""
    return [FIRST_BYTE + byte for byte in character.encode()]


def sequences(rng: random.Random) -> Iterator[list[int]]:
    """Tokens of all kinds; runs of byte tokens are sometimes no characters."""
    while True:
        tokens: list[int] = []
        for _ in range(rng.randrange(1, 12)):
            kind = rng.random()
            if kind < 0.4:
                tokens.append(rng.randrange(VOCABULARY))
            elif kind < 0.5:
                tokens.append(rng.choice(CONTROL + RESERVED))
            elif kind < 0.9:
                tokens += spelled(chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))))
            else:
                tokens += [FIRST_BYTE + rng.randrange(256) for _ in range(rng.randrange(1, 5))]
        yield tokens


def has_only_characters(tokens: Sequence[int]) -> bool:
    """Whether every run of byte tokens, control tokens left out, is valid UTF-8."""
    visible = (token for token in tokens if token not in CONTROL)
    for is_byte, run in groupby(visible, lambda token: 0 <= token - FIRST_BYTE < 256):
        if is_byte:
            try:
                bytes(token - FIRST_BYTE for token in run).decode()
            except UnicodeDecodeError:
                return False
    return True


def test_texts_equal_the_reference_where_byte_tokens_are_characters(
    tokenizer: Tokenizer, published_reference: tokenizers.Tokenizer
) -> None:
    rng = random.Random(7)
    checked = 0
    for tokens in sequences(rng):
        if has_only_characters(tokens):
            assert decoded(tokenizer, tokens, rng) == published_reference.decode(tokens, skip_special_tokens=True)
            checked += 1
        if checked == SEQUENCES:
            break


def test_texts_equal_sentencepiece_whatever_the_byte_tokens_are(tokenizer: Tokenizer, starter_vocabulary: Path) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(starter_vocabulary))
    rng = random.Random(8)
    for tokens, _ in zip(sequences(rng), range(SEQUENCES), strict=False):
        visible = [token for token in tokens if not processor.is_control(token) and token != processor.unk_id()]
        assert decoded(tokenizer, visible, rng) == processor.decode(visible)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tokens=ids, seed=st.integers(0, 2**32))
def test_how_tokens_are_cut_into_calls_changes_nothing(tokenizer: Tokenizer, tokens: list[int], seed: int) -> None:
    whole = TextDecoder(tokenizer)
    assert decoded(tokenizer, tokens, random.Random(seed)) == whole.push(tokens) + whole.finish()


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text())
def test_decoding_what_was_encoded_gives_the_text_back(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text, control_tokens=False)
    written_spaces_are_spaces = text.replace("▁", " ")
    assert decoded(tokenizer, tokens, random.Random(0)) == written_spaces_are_spaces


def test_a_character_comes_whole_with_its_last_token(tokenizer: Tokenizer) -> None:
    decoder = TextDecoder(tokenizer)
    assert [decoder.push([token]) for token in spelled("é𒀀")] == ["", "é", "", "", "", "𒀀"]
    assert decoder.finish() == ""


def test_each_byte_of_no_character_becomes_one_replacement_character(tokenizer: Tokenizer) -> None:
    decoder = TextDecoder(tokenizer)
    broken = [FIRST_BYTE + byte for byte in b"\xff\xe2\x82A\xed\xa0\x80\xc0\xaf"]
    assert decoder.push(broken) == "\ufffd\ufffd\ufffdA" + "\ufffd" * 5


def test_an_incomplete_character_at_the_end_becomes_replacement_characters(tokenizer: Tokenizer) -> None:
    decoder = TextDecoder(tokenizer)
    assert decoder.push(spelled("𒀀")[:3]) == ""
    assert decoder.finish() == "\ufffd" * 3
    assert decoder.finish() == ""


def test_an_incomplete_character_gives_way_to_the_next_token(tokenizer: Tokenizer) -> None:
    decoder = TextDecoder(tokenizer)
    assert decoder.push(spelled("€")[:2]) == ""
    assert decoder.push(tokenizer.encode(" a", control_tokens=False)) == "\ufffd\ufffd a"


@pytest.mark.parametrize("token", CONTROL)
def test_control_tokens_have_no_text(tokenizer: Tokenizer, token: int) -> None:
    decoder = TextDecoder(tokenizer)
    assert decoder.push([token]) + decoder.finish() == ""


def test_text_behind_a_character_of_several_tokens_is_kept(tokenizer: Tokenizer) -> None:
    decoder = TextDecoder(tokenizer)
    assert decoder.push([*spelled("é"), *spelled("𒀀")[:1]]) == "é"
    assert decoder.push([*spelled("𒀀")[1:], *tokenizer.encode("a", control_tokens=False)]) == "𒀀a"


def test_the_first_space_is_kept(tokenizer: Tokenizer) -> None:
    decoder = TextDecoder(tokenizer)
    assert decoder.push(tokenizer.encode(" Hello", control_tokens=False)) == " Hello"
