"""Writes a checkpoint as a GGUF file: the `gguf` library writes the header, the tensors follow row by row."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gguf import GGUFWriter
from gguf.constants import GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, LlamaFileType

from gemlora.conversion.formats import DTYPES, DtypeName, Output, counting
from gemlora.conversion.tokenizer_files import vocabulary_metadata
from gemlora.engines.cpu.weights.checkpoint import Checkpoint
from gemlora.engines.cpu.weights.folder import sync
from gemlora.engines.cpu.weights.gguf_export import ARCHITECTURES, gguf_metadata
from gemlora.engines.cpu.weights.progress import Progress
from gemlora.engines.cpu.weights.source import Source
from gemlora.engines.cpu.weights.tensor_names import gguf_name

TYPES: Mapping[DtypeName, tuple[GGMLQuantizationType, LlamaFileType]] = {
    "bfloat16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "float16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "float32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
}


def gguf_outputs(checkpoint: Checkpoint, dtype: DtypeName) -> list[Output]:
    """Every tensor as the file holds it: vectors in float32, which llama.cpp wants."""
    return [
        Output(gguf_name(name), tensor, DTYPES[dtype if len(tensor.shape) > 1 else "float32"])
        for name, tensor in checkpoint.tensors.items()
    ]


def write_gguf(
    checkpoint: Checkpoint, source: Source, path: Path, name: str, dtype: DtypeName, progress: Progress
) -> None:
    """Write the file, which must not be there; `name` is what it calls itself.

    Raises `WeightsInvalid` if a number is not finite in `dtype`, or if the format cannot say the architecture.
    """
    outputs = gguf_outputs(checkpoint, dtype)
    _write_header(checkpoint, source, path, name, dtype, outputs)
    count = counting(progress, sum(output.size for output in outputs))
    with path.open("ab") as file:
        for output in outputs:
            file.write(bytes(-file.tell() % GGUF_DEFAULT_ALIGNMENT))
            for chunk in output.chunks():
                file.write(chunk)
                count(len(chunk))
        file.write(bytes(-file.tell() % GGUF_DEFAULT_ALIGNMENT))
    sync(path)


def _write_header(
    checkpoint: Checkpoint, source: Source, path: Path, name: str, dtype: DtypeName, outputs: list[Output]
) -> None:
    writer = GGUFWriter(path, ARCHITECTURES[checkpoint.config.generation])
    writer.add_type("model")
    writer.add_name(name)
    matrix_type, file_type = TYPES[dtype]
    writer.add_file_type(file_type)
    _add(writer, gguf_metadata(checkpoint.config) | vocabulary_metadata(source, checkpoint.config.vocabulary))
    for output in outputs:
        type_ = matrix_type if len(output.shape) > 1 else GGMLQuantizationType.F32
        writer.add_tensor_info(output.spelling, output.shape, output.dtype, output.size, raw_dtype=type_)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _add(writer: GGUFWriter, metadata: Mapping[str, Any]) -> None:
    adders: Mapping[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    for key, value in metadata.items():
        adders[type(value)](key, value)
