"""Writes a base, alone or with an adapter merged into it, for use elsewhere."""

from dataclasses import dataclass
from pathlib import Path

from gemlora.conversion.adapter_folder import opened_adapter
from gemlora.conversion.destination import written
from gemlora.conversion.formats import DtypeName, FormatName, is_quantised
from gemlora.conversion.gguf_model import gguf_outputs, write_gguf
from gemlora.conversion.huggingface_folder import huggingface_outputs, write_huggingface
from gemlora.conversion.merging import merge
from gemlora.engines.cpu.weights.checkpoint import Checkpoint
from gemlora.engines.cpu.weights.gguf_export import WITH_OWN_HEAD
from gemlora.engines.cpu.weights.gguf_file import MAGIC
from gemlora.engines.cpu.weights.huggingface_checkpoint import CONFIG_FILE
from gemlora.engines.cpu.weights.progress import Progress
from gemlora.engines.cpu.weights.source import FolderSource, GgufSource, Source
from gemlora.errors import InvalidRequest

VOCABULARY_BYTES = 50_000_000
"""More than the files take that tell text and tokens apart."""


@dataclass(frozen=True, slots=True)
class Export:
    """What is to be written where."""

    path: Path
    format: FormatName
    dtype: DtypeName
    replace: bool = False


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written. `notes` are sentences about it."""

    name: str
    size: int
    notes: tuple[str, ...]
    for_llama: bool
    """Whether llama.cpp reads it."""


def export(source: Source, adapter: tuple[str, Path] | None, wanted: Export, progress: Progress) -> Exported:
    """Write a base, with the adapter of a name and folder, to `wanted.path`: whole, or not at all.

    Raises `AdapterInvalid` and `AdapterIncomplete` for the adapter, `WeightsInvalid` for the base, `InvalidRequest` if
    there is something at the path and `StorageFailed` if it cannot be written.
    """
    _check_apart(source, adapter, wanted.path)
    with source.opened() as base:
        name = source.name or base.name
        notes: tuple[str, ...] = ()
        if is_quantised(base):
            notes = (f"The base's weights were quantised; they are {wanted.dtype} now, no more exact than before.",)
        if adapter is None:
            return _write(base, source, name, notes, wanted, progress)
        called, folder = adapter
        with opened_adapter(folder, base) as opened:
            merged = merge(base, opened)
            notes = (*notes, *map(_sentence, opened.warnings), *merged.notes)
            return _write(merged, source, f"{name} with {called}", notes, wanted, progress)


def _write(
    checkpoint: Checkpoint, source: Source, name: str, notes: tuple[str, ...], wanted: Export, progress: Progress
) -> Exported:
    outputs = (gguf_outputs if wanted.format == "gguf" else huggingface_outputs)(checkpoint, wanted.dtype)
    size = sum(output.size for output in outputs)
    with written(wanted.path, size + VOCABULARY_BYTES, _is_model if wanted.replace else None) as path:
        if wanted.format == "gguf":
            write_gguf(checkpoint, source, path, name, wanted.dtype, progress)
        else:
            path.mkdir()
            write_huggingface(checkpoint, source, path, wanted.dtype, progress)
    own_head = "head" in checkpoint.tensors and checkpoint.config.generation not in WITH_OWN_HEAD
    if own_head and wanted.format == "gguf":
        notes += ("llama.cpp reads a head of its own for Gemma 3 only; gemlora serves this file all the same.",)
    return Exported(name, size, notes, for_llama=wanted.format == "gguf" and not own_head)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _is_model(path: Path) -> bool:
    """Whether what is there is a model that may be replaced."""
    if path.is_dir():
        return (path / CONFIG_FILE).is_file() or not any(path.iterdir())
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _check_apart(source: Source, adapter: tuple[str, Path] | None, path: Path) -> None:
    """Nothing that is read may be overwritten."""
    read = [] if adapter is None else [adapter[1]]
    if isinstance(source, FolderSource):
        read.append(source.folder)
    elif isinstance(source, GgufSource):
        read += source.paths
    resolved = path.resolve()
    for one in read:
        if resolved == one.resolve() or resolved in one.resolve().parents:
            raise InvalidRequest(f"{path} holds what is read from: name another output")
