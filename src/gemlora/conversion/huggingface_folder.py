"""Writes a checkpoint as a Hugging Face folder: safetensors in one file or several, `config.json`, tokenizer files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemlora.conversion.formats import DTYPES, DtypeName, Output, counting
from gemlora.conversion.safetensors_output import write_safetensors
from gemlora.conversion.tokenizer_files import write_tokenizer_files
from gemlora.engines.cpu.weights.checkpoint import Checkpoint
from gemlora.engines.cpu.weights.folder import sync
from gemlora.engines.cpu.weights.huggingface_checkpoint import CONFIG_FILE, INDEX_FILE, SINGLE_FILE
from gemlora.engines.cpu.weights.huggingface_export import huggingface_document, spelled
from gemlora.engines.cpu.weights.progress import Progress
from gemlora.engines.cpu.weights.source import Source
from gemlora.engines.cpu.weights.tensor_names import is_norm

SHARD_BYTES = 5_000_000_000
"""The largest file, unless a single tensor is larger; what hubs and their clients are used to."""


def huggingface_outputs(checkpoint: Checkpoint, dtype: DtypeName) -> list[Output]:
    """Every tensor as the folder holds it."""
    return [
        Output(spelled(name, checkpoint.config.generation), tensor, DTYPES[dtype], -1.0 if is_norm(name) else 0.0)
        for name, tensor in checkpoint.tensors.items()
    ]


def write_huggingface(
    checkpoint: Checkpoint,
    source: Source,
    folder: Path,
    dtype: DtypeName,
    progress: Progress,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Fill the empty folder. Raises `WeightsInvalid` if a number is not finite in `dtype`, `OSError` if it cannot."""
    outputs = huggingface_outputs(checkpoint, dtype)
    shards = _shards(outputs, shard_bytes)
    names = _names(len(shards))
    total = sum(output.size for output in outputs)
    count = counting(progress, total)
    for name, shard in zip(names, shards, strict=True):
        write_safetensors(folder / name, shard, count)
    if len(shards) > 1:
        files = {output.spelling: name for name, shard in zip(names, shards, strict=True) for output in shard}
        _write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": files})
    document = huggingface_document(checkpoint.config, tied="head" not in checkpoint.tensors, dtype=dtype)
    write_tokenizer_files(source, checkpoint, folder)
    _write_json(folder / CONFIG_FILE, document)
    for path in (*folder.iterdir(), folder):
        sync(path)


def _shards(outputs: Sequence[Output], shard_bytes: int) -> list[list[Output]]:
    shards: list[list[Output]] = [[]]
    size = 0
    for output in outputs:
        if shards[-1] and size + output.size > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(output)
        size += output.size
    return shards


def _names(count: int) -> list[str]:
    if count == 1:
        return [SINGLE_FILE]
    return [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
