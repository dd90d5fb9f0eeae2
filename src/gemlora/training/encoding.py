"""Examples → token ids, in the very format in which requests are served.

A conversation is rendered by `serving/prompt.py` as the requests would be that asked for each of its answers: what is
learnt is what the engine would have to draw, the end of the turn included.
"""

from dataclasses import dataclass

from gemlora.serving.prompt import MODEL_ROLES, Prompt, Room, render
from gemlora.serving.tokenizer import Tokenizer
from gemlora.training.examples import Example


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sequence. `learnt[i]` says whether token `ids[i]` is drawn by the model, and so is to be learnt."""

    ids: tuple[int, ...]
    learnt: tuple[bool, ...]

    @property
    def learnt_tokens(self) -> int:
        """How many tokens are learnt."""
        return sum(self.learnt)


def encode(example: Example, tokenizer: Tokenizer, room: Room) -> Encoded:
    """The sequence of an example. Raises `PromptTooLong` if it does not fit into the room."""
    if example.text is not None:
        text = render(Prompt.of_text(example.text, raw=True), tokenizer, room)
        return Encoded((*text, tokenizer.special.eos), (False, *(True for _ in text)))
    ids: tuple[int, ...] = ()
    learnt: list[bool] = []
    for index, message in enumerate(example.messages):
        if message.role not in MODEL_ROLES:
            continue
        asked = render(Prompt(example.messages[:index]), tokenizer, room)
        answer = (*tokenizer.encode(message.text.strip(), control_tokens=False), tokenizer.special.end_of_turn)
        # Answers that were learnt stand in the next prompt as they were drawn, which `test_encoding.py` proves.
        learnt += [False] * (len(asked) - len(ids)) + [True] * len(answer)
        ids = asked + answer
    room.require(len(ids))
    return Encoded(ids, tuple(learnt))
