"""What is learnt is what the engine would be asked to draw: the format of training is the format of serving."""

from itertools import groupby
from pathlib import Path

import pytest

from gemlora.engines.cpu.weights.gguf_file import GgufHeader
from gemlora.engines.cpu.weights.pieces import Pieces
from gemlora.engines.cpu.weights.source import starter_pieces
from gemlora.engines.cpu.weights.vocabulary import write_gguf_vocabulary
from gemlora.errors import PromptTooLong
from gemlora.serving.prompt import Message, Prompt, Room, render
from gemlora.serving.tokenizer import Tokenizer
from gemlora.training.encoding import Encoded, encode
from gemlora.training.examples import Example, read_examples

ROOM = Room(4096, 0)
STARTER_DATA = [
    path for path in sorted((Path(__file__).parents[2] / "starter").glob("*/*.jsonl")) if path.stem != "questions"
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("starter")
    with Pieces(starter_pieces()) as pieces:
        write_gguf_vocabulary(GgufHeader.read(pieces).metadata, folder)
    return Tokenizer.load(next(folder.iterdir()))


def learnt_runs(encoded: Encoded) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Each run of learnt tokens with all that stands before it."""
    runs, at = [], 0
    for learnt, run in groupby(encoded.learnt):
        length = len(list(run))
        if learnt:
            runs.append((encoded.ids[:at], encoded.ids[at : at + length]))
        at += length
    return runs


def test_each_answer_is_learnt_behind_the_prompt_that_would_ask_for_it(tokenizer: Tokenizer) -> None:
    messages = (
        Message("system", "Be brief"),
        Message("user", "Two\nlines"),
        Message("assistant", " Yes.\n\nThey are. "),
        Message("user", "Sure?"),
        Message("assistant", "1. Yes"),
    )
    runs = learnt_runs(encode(Example(1, messages), tokenizer, ROOM))
    assert [before for before, _ in runs] == [render(Prompt(messages[:end]), tokenizer, ROOM) for end in (2, 4)]
    assert [b"".join(map(tokenizer.piece, answer)).decode() for _, answer in runs] == ["Yes.\n\nThey are.", "1. Yes"]
    assert all(answer[-1] == tokenizer.special.end_of_turn for _, answer in runs)


@pytest.mark.parametrize("path", STARTER_DATA, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_answers_stand_in_later_prompts_as_they_were_learnt(tokenizer: Tokenizer, path: Path) -> None:
    for example in read_examples(path).items:
        encoded = encode(example, tokenizer, ROOM)
        answers = [index for index, message in enumerate(example.messages) if message.role == "assistant"]
        assert [before for before, _ in learnt_runs(encoded)] == [
            render(Prompt(example.messages[:index]), tokenizer, ROOM) for index in answers
        ]


def test_plain_text_is_learnt_whole_and_ends(tokenizer: Tokenizer) -> None:
    encoded = encode(Example(1, text="Once upon a time"), tokenizer, ROOM)
    assert encoded.ids == (
        *render(Prompt.of_text("Once upon a time", raw=True), tokenizer, ROOM),
        tokenizer.special.eos,
    )
    assert encoded.learnt == (False, *[True] * (len(encoded.ids) - 1))
    assert encoded.learnt_tokens == len(encoded.ids) - 1


def test_what_does_not_fit_is_refused(tokenizer: Tokenizer) -> None:
    example = Example(1, (Message("user", "a b c d"), Message("assistant", "e f g h i j")))
    length = len(encode(example, tokenizer, ROOM).ids)
    encode(example, tokenizer, Room(length + 1, 0))
    with pytest.raises(PromptTooLong):
        encode(example, tokenizer, Room(length, 0))
