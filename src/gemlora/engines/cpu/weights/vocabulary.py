"""Writes a checkpoint's vocabulary into the packed model folder: the file that the tokenizer loads.

A GGUF file's own vocabulary and a checkpoint's `tokenizer.model` become a SentencePiece model, a checkpoint that has
only `tokenizer.json` keeps that form. In both, every control token is marked as one.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemlora.engines.cpu.weights import piece_file
from gemlora.engines.cpu.weights.piece_file import PieceType
from gemlora.errors import WeightsInvalid

SENTENCEPIECE_FILE = "tokenizer.model"
JSON_FILE = "tokenizer.json"

SPACE = "▁"
"""How a space is written inside a piece."""

STRUCTURE = re.compile(r"<(?:pad|eos|bos|unk|(?:start|end)_of_(?:turn|image)|image_soft_token)>")
"""Spellings of the control tokens that give a sequence its structure."""

RESERVED = re.compile(r"<unused\d+>|<mask>|<2mass>|\[@BOS@\]")
"""Spellings of the control tokens that Gemma was never trained on; fine-tuned models use some as marks of their own."""


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids of the tokens of Gemma's chat format; they differ between generations."""

    bos: int
    eos: int
    start_of_turn: int
    end_of_turn: int

    @property
    def stop(self) -> tuple[int, int]:
        """The tokens that end an answer."""
        return (self.eos, self.end_of_turn)

    @classmethod
    def find(cls, ids: Mapping[str, int]) -> "SpecialTokens":
        """Look them up by their spelling. Raises `WeightsInvalid` if one is missing."""
        spellings = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
        missing = [spelling for spelling in spellings if spelling not in ids]
        if missing:
            raise WeightsInvalid(f"This is not Gemma's vocabulary: it has no {', '.join(missing)}")
        return cls(*(ids[spelling] for spelling in spellings))


def is_control(spelling: str) -> bool:
    """Whether this piece is a control token, which a message that spells it must never become.

    Checkpoints mark only some of them: in Google's `tokenizer.model` even the turn markers are user-defined pieces,
    which SentencePiece finds in any text.
    """
    return STRUCTURE.fullmatch(spelling) is not None or RESERVED.fullmatch(spelling) is not None


def write_gguf_vocabulary(metadata: Mapping[str, Any], folder: Path) -> SpecialTokens:
    """Write `tokenizer.model` into `folder` from the `tokenizer.ggml` metadata of a GGUF file.

    `tokens` is a list of str, `scores` and `token_type` are sequences of as many numbers.
    Raises `WeightsInvalid` if the vocabulary is missing, inconsistent or not of Gemma's kind.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model != "llama":
        raise WeightsInvalid(f"tokenizer.ggml.model is {model!r}, but Gemma's vocabulary is of the kind 'llama'")
    tokens, scores, types = (_column(metadata, name) for name in ("tokens", "scores", "token_type"))
    if not len(tokens) == len(scores) == len(types):
        raise WeightsInvalid(
            f"tokenizer.ggml has {len(tokens)} tokens, but {len(scores)} scores and {len(types)} token_type"
        )
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise WeightsInvalid(f"tokenizer.ggml.tokens has {len(tokens) - len(ids)} tokens twice")
    if unknown_types := set(types) - set(PieceType):
        raise WeightsInvalid(f"tokenizer.ggml.token_type has the unknown type {min(unknown_types)}")
    special = SpecialTokens.find(ids)
    unk = metadata.get("tokenizer.ggml.unknown_token_id", ids.get("<unk>"))
    if not isinstance(unk, int) or not 0 <= unk < len(tokens):
        raise WeightsInvalid(f"tokenizer.ggml.unknown_token_id is {unk}, which is no token")
    types = [PieceType.CONTROL if is_control(token) else kind for token, kind in zip(tokens, types, strict=True)]
    types[unk] = PieceType.UNKNOWN
    with (folder / SENTENCEPIECE_FILE).open("wb") as file:
        for token, score, kind in zip(tokens, scores, types, strict=True):
            file.write(piece_file.encode_piece(token.replace(" ", SPACE), score, kind))
        file.write(piece_file.encode_specifications(len(tokens), byte_fallback=PieceType.BYTE in types))
    return special


def _column(metadata: Mapping[str, Any], name: str) -> list[Any]:
    values = metadata.get(f"tokenizer.ggml.{name}")
    if isinstance(values, list):
        return values
    tolist = getattr(values, "tolist", None)  # a NumPy array's; the server imports this module, but no NumPy
    if tolist is None:
        raise WeightsInvalid(f"tokenizer.ggml.{name} is missing or no array")
    return list(tolist())


def write_folder_vocabulary(checkpoint: Path, folder: Path, embeddings: int) -> SpecialTokens:
    """Write the tokenizer file of a Hugging Face folder, whose model has so many embeddings, into `folder`.

    `tokenizer.model` is preferred: it loads ten times faster in a fifth of the memory. Raises `WeightsInvalid` if
    there is neither, if it is damaged, or if it is not Gemma's.
    """
    if (source := checkpoint / SENTENCEPIECE_FILE).is_file():
        return _copy_pieces(source, folder / SENTENCEPIECE_FILE, embeddings)
    if (source := checkpoint / JSON_FILE).is_file():
        return _copy_json(source, folder / JSON_FILE, embeddings)
    raise WeightsInvalid(f"{checkpoint} has neither {SENTENCEPIECE_FILE} nor {JSON_FILE}")


def _copy_pieces(source: Path, target: Path, embeddings: int) -> SpecialTokens:
    """The copy has no self-test, which some versions of the library run: its samples may contain control tokens."""
    ids: dict[str, int] = {}
    try:
        with target.open("wb") as file:
            for field in piece_file.fields(source.read_bytes()):
                raw = field.raw
                if field.number == piece_file.SELF_TEST:
                    continue
                if field.number == piece_file.PIECES:
                    spelling, _, kind = piece_file.decode_piece(field.value)
                    if is_control(spelling) and kind != PieceType.UNKNOWN:
                        raw = piece_file.encode_piece(spelling, 0.0, PieceType.CONTROL)
                    ids[spelling] = len(ids)
                file.write(raw)
    except ValueError as error:
        raise WeightsInvalid(f"{source} is damaged: {error}") from error
    if len(ids) > embeddings:
        raise WeightsInvalid(f"{source} has {len(ids)} pieces, but the model has only {embeddings} embeddings")
    return SpecialTokens.find(ids)


def _copy_json(source: Path, target: Path, embeddings: int) -> SpecialTokens:
    """The copy drops tokens without an embedding: Gemma 3's `<image_soft_token>` beside a text-only model."""
    try:
        document = json.loads(source.read_bytes())
        added = [token for token in document["added_tokens"] if token["id"] < embeddings]
        for token in added:
            token["special"] = token["special"] or is_control(token["content"])
        special = SpecialTokens.find({token["content"]: token["id"] for token in added})
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsInvalid(f"{source} is damaged: {error!r}") from error
    document["added_tokens"] = added
    target.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    return special
