"""The text side of the served model in one place: a prompt to ids, and a decoder for each answer."""

from gemlora.serving.prompt import Prompt, Room, render
from gemlora.serving.text import TextDecoder
from gemlora.serving.tokenizer import Tokenizer


class GemmaCodec:
    """Gemma's chat format over one tokenizer. May be used from several threads; a decoder belongs to one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        """The tokens that end an answer."""
        return self._tokenizer.special.stop

    def encode(self, prompt: Prompt, room: Room) -> tuple[int, ...]:
        """The prompt's token ids. Raises `InvalidRequest` if it has no messages, or `PromptTooLong`."""
        return render(prompt, self._tokenizer, room)

    def decoder(self) -> TextDecoder:
        """A decoder for one answer."""
        return TextDecoder(self._tokenizer)
