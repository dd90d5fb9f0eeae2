"""The vocabulary that an exported model takes along: copied where the format stays, rewritten where it changes.

With it goes what makes other programs chat as gemlora does: a template if the base has none, and the end of a turn
among the tokens that end an answer.
"""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
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
GENERATION_CONFIG = "generation_config.json"
TEMPLATE_FILE = "chat_template.jinja"
COPIED = (
    SENTENCEPIECE_FILE, JSON_FILE, TOKENIZER_CONFIG, TEMPLATE_FILE, "chat_template.json", "special_tokens_map.json",
    "added_tokens.json", GENERATION_CONFIG,
)  # fmt: skip
"""Files of a Hugging Face folder that say how text becomes tokens and back."""

TEMPLATE_KEY = "tokenizer.chat_template"

SPELLINGS = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": UNKNOWN, "pad_token": "<pad>"}
GGUF_IDS = {"bos": "<bos>", "eos": "<eos>", "unknown": UNKNOWN, "padding": "<pad>"}


def write_tokenizer_files(source: Source, checkpoint: Checkpoint, folder: Path) -> None:
    """The tokenizer files of a Hugging Face folder. Raises `WeightsInvalid` if the vocabulary is not Gemma's."""
    if isinstance(source, FolderSource):
        _copy_files(source.folder, folder)
        template = _chat_template(folder)
    else:
        template = _gguf_metadata(source).get(TEMPLATE_KEY)
    special = _write_vocabulary(checkpoint, folder)
    if not (folder / TOKENIZER_CONFIG).is_file():
        config = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False, **SPELLINGS}
        _write_json(folder / TOKENIZER_CONFIG, config)
    if _chat_template(folder) is None:
        (folder / TEMPLATE_FILE).write_text(template or own_template(), encoding="utf-8")
    _write_stop_tokens(folder / GENERATION_CONFIG, special)


def own_template() -> str:
    """`serving/prompt.py`'s format for programs that run templates. Nobody runs it here."""
    return Path(__file__).with_name(TEMPLATE_FILE).read_text(encoding="utf-8")


def _copy_files(source: Path, folder: Path) -> None:
    for name in COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _write_vocabulary(checkpoint: Checkpoint, folder: Path) -> SpecialTokens:
    """The vocabulary in each form that is not there: transformers reads pieces only beside other libraries."""
    with TemporaryDirectory(prefix="gemlora-tokenizer-") as temporary:
        special = checkpoint.write_vocabulary(Path(temporary))
        pieces = Path(temporary, SENTENCEPIECE_FILE)
        if not (folder / JSON_FILE).is_file():
            _write_json(folder / JSON_FILE, tokenizer_document(read_pieces(pieces.read_bytes())))
            if not (folder / SENTENCEPIECE_FILE).is_file():
                shutil.copyfile(pieces, folder / SENTENCEPIECE_FILE)
    return special


def _write_stop_tokens(path: Path, special: SpecialTokens) -> None:
    """Let the generation config's answers end where the server's do."""
    document = read_json(path) if path.is_file() else {"bos_token_id": special.bos}
    known = document.get("eos_token_id")
    ends = known if isinstance(known, list) else [] if known is None else [known]
    _write_json(path, document | {"eos_token_id": list(dict.fromkeys([*ends, *special.stop]))})


def vocabulary_metadata(source: Source, embeddings: int) -> dict[str, Any]:
    """The `tokenizer` keys of a GGUF file, with Python's types, for a model of so many embeddings.

    Raises `WeightsInvalid` if the vocabulary is missing or not Gemma's.
    """
    if isinstance(source, FolderSource):
        metadata = _folder_metadata(source.folder, embeddings)
    else:
        found = {key: value for key, value in _gguf_metadata(source).items() if key.startswith("tokenizer.")}
        metadata = {key: value.tolist() if hasattr(value, "tolist") else value for key, value in found.items()}
    return {TEMPLATE_KEY: own_template(), **metadata}


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
    return metadata if template is None else metadata | {TEMPLATE_KEY: template}


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
