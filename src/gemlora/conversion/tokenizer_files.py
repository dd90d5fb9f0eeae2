"""The vocabulary that an exported model takes along: copied where the format stays, rewritten where it changes."""

import json
import shutil
from pathlib import Path
from typing import Any

from gemlora.conversion.tokenizer_json import UNKNOWN, UNMERGED_SCORE, pieces_of, tokenizer_document
from gemlora.engines.cpu.weights.checkpoint import Checkpoint
from gemlora.engines.cpu.weights.gguf_file import GgufHeader
from gemlora.engines.cpu.weights.huggingface_checkpoint import read_json
from gemlora.engines.cpu.weights.piece_file import Piece, PieceType, read_pieces
from gemlora.engines.cpu.weights.pieces import Pieces
from gemlora.engines.cpu.weights.source import FolderSource, GgufSource, Source
from gemlora.engines.cpu.weights.vocabulary import JSON_FILE, SENTENCEPIECE_FILE, SPACE, SpecialTokens, is_control
from gemlora.errors import WeightsInvalid

TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
COPIED = (
    SENTENCEPIECE_FILE, JSON_FILE, TOKENIZER_CONFIG, TEMPLATE_FILE, "chat_template.json", "special_tokens_map.json",
    "added_tokens.json", "generation_config.json",
)  # fmt: skip
"""Files of a Hugging Face folder that say how text becomes tokens and back."""

SPELLINGS = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": UNKNOWN, "pad_token": "<pad>"}
GGUF_IDS = {"bos": "<bos>", "eos": "<eos>", "unknown": UNKNOWN, "padding": "<pad>"}


def write_tokenizer_files(source: Source, checkpoint: Checkpoint, folder: Path) -> None:
    """The tokenizer files of a Hugging Face folder. Raises `WeightsInvalid` if the vocabulary is not Gemma's."""
    if isinstance(source, FolderSource):
        for name in COPIED:
            if (source.folder / name).is_file():
                shutil.copyfile(source.folder / name, folder / name)
        return
    special = checkpoint.write_vocabulary(folder)
    pieces = read_pieces((folder / SENTENCEPIECE_FILE).read_bytes())
    _write_json(folder / JSON_FILE, tokenizer_document(pieces))
    template = _gguf_metadata(source).get("tokenizer.chat_template")
    config = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False, **SPELLINGS}
    _write_json(folder / TOKENIZER_CONFIG, config | ({} if template is None else {"chat_template": template}))
    ids = {"bos_token_id": special.bos, "eos_token_id": list(special.stop)}
    _write_json(folder / "generation_config.json", ids)


def vocabulary_metadata(source: Source, embeddings: int) -> dict[str, Any]:
    """The `tokenizer` keys of a GGUF file, with Python's types, for a model of so many embeddings.

    Raises `WeightsInvalid` if the vocabulary is missing or not Gemma's.
    """
    if isinstance(source, FolderSource):
        return _folder_metadata(source.folder, embeddings)
    found = {key: value for key, value in _gguf_metadata(source).items() if key.startswith("tokenizer.")}
    return {key: value.tolist() if hasattr(value, "tolist") else value for key, value in found.items()}


def _gguf_metadata(source: Source) -> dict[str, Any]:
    if not isinstance(source, GgufSource):
        raise TypeError(source)
    with Pieces(source.paths) as pieces:
        return GgufHeader.read(pieces).metadata


def _folder_metadata(folder: Path, embeddings: int) -> dict[str, Any]:
    pieces = _folder_pieces(folder, embeddings)
    ids = {piece.spelling: number for number, piece in enumerate(pieces)}
    SpecialTokens.find(ids)
    # GGUF spells the spaces of these as they are: llama.cpp looks for them in the text itself.
    tokens = [p.spelling.replace(SPACE, " ") if p.kind == PieceType.USER_DEFINED else p.spelling for p in pieces]
    named = {f"{name}_token_id": ids[spelling] for name, spelling in GGUF_IDS.items() if spelling in ids}
    values = {
        "model": "llama",
        "pre": "default",
        "tokens": tokens,
        "scores": [piece.score for piece in pieces],
        "token_type": [int(piece.kind) for piece in pieces],
        **named,
        "add_bos_token": True,
        "add_eos_token": False,
        "add_space_prefix": False,
    }
    metadata = {f"tokenizer.ggml.{name}": value for name, value in values.items()}
    template = _chat_template(folder)
    return metadata if template is None else metadata | {"tokenizer.chat_template": template}


def _folder_pieces(folder: Path, embeddings: int) -> list[Piece]:
    """One piece for every embedding: those of `tokenizer.model`, what `tokenizer.json` adds to them, and fillers."""
    known: list[Piece] = []
    if (model := folder / SENTENCEPIECE_FILE).is_file():
        try:
            known = read_pieces(model.read_bytes())
        except ValueError as error:
            raise WeightsInvalid(f"{model} is damaged: {error}") from error
    if (document := folder / JSON_FILE).is_file():
        known += pieces_of(read_json(document))[len(known) :]
    if not known:
        raise WeightsInvalid(f"{folder} has neither {SENTENCEPIECE_FILE} nor {JSON_FILE}")
    marked = [_marked(piece) for piece in known[:embeddings]]
    fillers = range(len(marked), embeddings)
    return [*marked, *(Piece(f"[PAD{number}]", UNMERGED_SCORE, PieceType.UNUSED) for number in fillers)]


def _marked(piece: Piece) -> Piece:
    """Checkpoints mark only some control tokens as such."""
    if is_control(piece.spelling) and piece.kind != PieceType.UNKNOWN:
        return Piece(piece.spelling, UNMERGED_SCORE, PieceType.CONTROL)
    return piece


def _chat_template(folder: Path) -> str | None:
    """The template as text; nobody runs it here."""
    if (path := folder / TEMPLATE_FILE).is_file():
        return path.read_text(encoding="utf-8")
    if (path := folder / TOKENIZER_CONFIG).is_file():
        template = read_json(path).get("chat_template")
        return template if isinstance(template, str) else None
    return None


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=None), encoding="utf-8")
