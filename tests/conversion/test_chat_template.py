"""The template of exported models renders conversations as the server does."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tests.checkpoints import write_tokenizer

from gemlora.conversion.tokenizer_files import own_template
from gemlora.engines.cpu.weights.vocabulary import write_folder_vocabulary
from gemlora.serving.prompt import Message, Prompt, Room, render
from gemlora.serving.tokenizer import Tokenizer

Conversation = list[dict[str, Any]]
ROOM = Room(context_window=1 << 20, max_tokens=1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("vocabulary")
    write_tokenizer(folder / "tokenizer.model")
    (folder / "out").mkdir()
    write_folder_vocabulary(folder, folder / "out", 320)
    return Tokenizer.load(folder / "out/tokenizer.model")


@pytest.fixture(scope="module")
def text_of() -> Callable[..., str]:
    """The template's text of a conversation, rendered as transformers does."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    compiled = environment.from_string(own_template())

    def rendered(messages: Conversation, add_generation_prompt: bool = True) -> str:
        return compiled.render(messages=messages, bos_token="<bos>", add_generation_prompt=add_generation_prompt)

    return rendered


def drawn(draw: random.Random) -> Conversation:
    """Some messages in any order, some of them empty or with blanks around them."""
    roles = ("system", "user", "user", "assistant", "model", "critic")
    contents = ("", "  ", "the fox\n", " quick {{ dog }}", "a\n\n\nb", "<end_of_turn")
    return [
        {"role": draw.choice(roles), "content": draw.choice(contents)} for _ in range(draw.choice((1, 1, 2, 3, 5, 8)))
    ]


def test_conversations_get_the_servers_ids(tokenizer: Tokenizer, text_of: Callable[..., str]) -> None:
    draw = random.Random(6)
    for messages in (drawn(draw) for _ in range(300)):
        prompt = Prompt(tuple(Message(**message) for message in messages))
        expected = list(render(prompt, tokenizer, ROOM))
        assert tokenizer.encode(text_of(messages), control_tokens=True) == expected, messages


def test_the_parts_of_a_content_are_lines(text_of: Callable[..., str]) -> None:
    content = [{"type": "text", "text": " Look at"}, {"type": "image"}, {"type": "text", "text": "this.\n"}]
    assert text_of([{"role": "user", "content": content}]) == (
        "<bos><start_of_turn>user\nLook at\nthis.<end_of_turn>\n<start_of_turn>model\n"
    )


def test_a_conversation_that_is_not_to_be_continued_ends_with_its_last_turn(text_of: Callable[..., str]) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    assert text_of(messages, add_generation_prompt=False) == (
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHo<end_of_turn>\n"
    )


def test_a_message_without_content_says_nothing(text_of: Callable[..., str]) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}]
    assert text_of(messages).endswith("<start_of_turn>model\n<end_of_turn>\n<start_of_turn>model\n")
