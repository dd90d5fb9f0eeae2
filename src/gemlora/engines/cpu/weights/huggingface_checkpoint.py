"""A Hugging Face folder as a checkpoint: `config.json`, safetensors in one file or several, and a tokenizer file."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gemlora.engines.cpu.weights.checkpoint import Floats, Storage
from gemlora.engines.cpu.weights.huggingface_config import (
    MULTIMODAL,
    huggingface_config,
    text_config,
    tied_embeddings,
)
from gemlora.engines.cpu.weights.pieces import Pieces
from gemlora.engines.cpu.weights.safetensors_file import FloatTensor, read_tensors
from gemlora.engines.cpu.weights.tensor_names import claim, huggingface_name, is_norm, shapes
from gemlora.engines.cpu.weights.vocabulary import JSON_FILE, SENTENCEPIECE_FILE, SpecialTokens, write_folder_vocabulary
from gemlora.errors import WeightsInvalid

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

EMBEDDING = "embed_tokens.weight"
PREFIXES = ("model.", "language_model.model.", "model.language_model.", "")
"""What stands before the names of the text model's tensors: text-only, two layouts of Gemma 3 with images, bare."""

HEADS = ("lm_head.weight", "language_model.lm_head.weight")
PASSED_OVER = re.compile(r".*\.rotary_emb\.inv_freq")
"""Tables that old checkpoints carry although they follow from the configuration."""

PASSED_OVER_WITH_IMAGES = re.compile(rf"{PASSED_OVER.pattern}|(model\.)?(vision_tower|multi_modal_projector)\..*")


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm's vector w as 1 + w in float32, the form in which the engine uses it."""

    stored: FloatTensor

    @property
    def source(self) -> str:
        """The folder's own name of it."""
        return self.stored.source

    @property
    def shape(self) -> tuple[int, ...]:
        """(K,)."""
        return self.stored.shape

    @property
    def row_bytes(self) -> int:
        """Bytes in the folder."""
        return self.stored.row_bytes

    @property
    def storage(self) -> Storage:
        """float32."""
        return Storage(np.dtype(np.float32))

    def rows(self, start: int, stop: int) -> Floats:
        """[1, K]."""
        return np.float32(1) + self.stored.rows(start, stop).astype(np.float32)


class HuggingFaceCheckpoint:
    """Implements `Checkpoint`. Raises `WeightsInvalid` if the folder is incomplete or not of Gemma 1, 2 or 3."""

    def __init__(self, folder: Path, files: Mapping[str, Pieces]) -> None:
        """`files` are the opened safetensors files by name."""
        self._folder = folder
        config = read_json(folder / CONFIG_FILE)
        if config.get("quantization_config") is not None:
            raise WeightsInvalid(f"{folder / CONFIG_FILE}: quantization_config is not supported")
        text_config(config)
        found = _merged(files, PASSED_OVER_WITH_IMAGES if config.get("model_type") == MULTIMODAL else PASSED_OVER)
        prefix = _prefix(found, folder)
        embedding = found[prefix + EMBEDDING]
        self.config = huggingface_config(config, embedding.shape[0], embedding.dtype)
        head = next((name for name in HEADS if name in found), HEADS[0])
        tied = tied_embeddings(config)
        if tied and head in found and _equal(found[head], embedding):
            del found[head]
        wanted = shapes(self.config, tied=tied and head not in found)
        generation = self.config.generation
        spelling = {name: prefix + huggingface_name(name, generation) for name in wanted if name != "head"}
        claimed = claim(wanted, {**spelling, "head": head}, found, str(folder))
        self.tensors: Mapping[str, FloatTensor | Norm] = {
            name: Norm(tensor) if is_norm(name) else tensor for name, tensor in claimed.items()
        }

    @property
    def name(self) -> str:
        """The folder's name."""
        return self._folder.resolve().name

    def write_vocabulary(self, folder: Path) -> SpecialTokens:
        """Write the tokenizer file into `folder`."""
        return write_folder_vocabulary(self._folder, folder, self.config.vocabulary)


@contextmanager
def opened_folder(folder: Path) -> Iterator[HuggingFaceCheckpoint]:
    """The checkpoint of a folder, its files open."""
    with ExitStack() as stack:
        files = {path.name: stack.enter_context(Pieces([path])) for path in tensor_files(folder)}
        yield HuggingFaceCheckpoint(folder, files)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `WeightsInvalid` if the file is missing or holds anything else."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise WeightsInvalid(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise WeightsInvalid(f"{path}: is damaged: {error}") from error
    if not isinstance(document, dict):
        raise WeightsInvalid(f"{path}: is not a JSON object")
    return document


def tensor_files(folder: Path) -> list[Path]:
    """The folder's safetensors files: the single one, or all that the index names."""
    if (single := folder / SINGLE_FILE).is_file():
        return [single]
    if not (index := folder / INDEX_FILE).is_file():
        raise WeightsInvalid(f"{folder}: has neither {SINGLE_FILE} nor {INDEX_FILE}; other formats are not read")
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) and n == Path(n).name for n in names.values()):
        raise WeightsInvalid(f"{index}: weight_map does not map tensors to files of this folder")
    return [folder / name for name in sorted(set(names.values()))]


def files_of(folder: Path) -> list[Path]:
    """Every file that a conversion of the folder depends on."""
    tokenizers = [folder / name for name in (SENTENCEPIECE_FILE, JSON_FILE) if (folder / name).is_file()]
    return [folder / CONFIG_FILE, *tensor_files(folder), *tokenizers[:1]]


def _merged(files: Mapping[str, Pieces], passed_over: re.Pattern[str]) -> dict[str, FloatTensor]:
    found: dict[str, FloatTensor] = {}
    for pieces in files.values():
        tensors = read_tensors(pieces, lambda name: passed_over.fullmatch(name) is None)
        if both := sorted(found.keys() & tensors.keys()):
            raise WeightsInvalid(f"{pieces.name}: tensor {both[0]} is also in another file")
        found |= tensors
    return found


def _prefix(found: Mapping[str, FloatTensor], folder: Path) -> str:
    for prefix in PREFIXES:
        if prefix + EMBEDDING in found:
            return prefix
    raise WeightsInvalid(f"{folder}: tensor {PREFIXES[0]}{EMBEDDING} is missing")


def _equal(one: FloatTensor, other: FloatTensor) -> bool:
    """Whether two tensors hold the same bytes: a head that was stored although it is tied to the embedding."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    step = max(1, (1 << 22) // one.row_bytes)
    return all(
        np.array_equal(one.rows(start, stop).view(np.uint8), other.rows(start, stop).view(np.uint8))
        for start in range(0, one.shape[0], step)
        for stop in (min(start + step, one.shape[0]),)
    )
