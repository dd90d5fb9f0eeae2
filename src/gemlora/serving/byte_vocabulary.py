"""The vocabulary beside an engine without weights: one token for each byte, and Gemma's control tokens."""

from gemlora.serving.tokenizer import Vocabulary

CONTROLS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")


def byte_vocabulary() -> Vocabulary:
    """262 tokens: the bytes by value, then the control tokens."""
    return Vocabulary(
        size=256 + len(CONTROLS),
        longest=max(map(len, CONTROLS)),
        encode=lambda text: list(text.encode()),
        spelling=_spelling,
        controls={name: 256 + index for index, name in enumerate(CONTROLS)},
    )


def _spelling(token: int) -> str:
    return f"<0x{token:02X}>" if token < 256 else CONTROLS[token - 256]
