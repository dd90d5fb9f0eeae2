"""The starter weights' tokenizer and its reference, each loaded once."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import tokenizers
from tests.strings import varied_strings
from tests.tokenizer_reference import as_published, with_permitted_differences

from gemlora.engines.cpu.weights.gguf_file import GgufHeader
from gemlora.engines.cpu.weights.pieces import Pieces
from gemlora.engines.cpu.weights.source import starter_pieces
from gemlora.engines.cpu.weights.vocabulary import SENTENCEPIECE_FILE, write_gguf_vocabulary
from gemlora.serving.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def starter_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer file made from the starter GGUF."""
    folder = tmp_path_factory.mktemp("starter")
    with Pieces(starter_pieces()) as pieces:
        write_gguf_vocabulary(GgufHeader.read(pieces).metadata, folder)
    return folder / SENTENCEPIECE_FILE


@pytest.fixture(scope="session")
def tokenizer(starter_vocabulary: Path) -> Tokenizer:
    return Tokenizer.load(starter_vocabulary)


@pytest.fixture(scope="session")
def published_reference() -> tokenizers.Tokenizer:
    return as_published()


@pytest.fixture(scope="session")
def reference() -> tokenizers.Tokenizer:
    return with_permitted_differences()


@pytest.fixture(scope="session")
def strings(published_reference: tokenizers.Tokenizer) -> Sequence[str]:
    """12,000 varied texts."""
    vocabulary = sorted(published_reference.get_vocab(with_added_tokens=False))
    return varied_strings(12_000, seed=20_240_221, pieces=[piece.replace("▁", " ") for piece in vocabulary])
