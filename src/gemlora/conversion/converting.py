"""From an adapter of another kind to a PEFT folder that can be added, verified before it is written."""

from pathlib import Path

from gemlora.conversion.adapter_folder import CONFIG_FILE
from gemlora.conversion.destination import written
from gemlora.conversion.gguf_lora import is_gguf, read_gguf_lora
from gemlora.conversion.lora_pairs import LoraPairs, check_rank, write_pairs
from gemlora.conversion.peft_kinds import convert_peft
from gemlora.errors import AdapterIncomplete, InvalidRequest

HEADER_BYTES = 10_000_000
"""More than names and config take."""


def convert(source: Path, output: Path, initial: Path | None, max_rank: int, replace: bool) -> LoraPairs:
    """Write `source`, a GGUF file or a PEFT folder, as plain LoRA to the folder `output`: whole, or not at all.

    Raises `AdapterInvalid` with the reason if it is no LoRA of this rank, `InvalidRequest` if something is at `output`.
    """
    if output.resolve() == source.resolve():
        raise InvalidRequest(f"{output} is what is read from: name another folder")
    pairs = _read(source, initial)
    check_rank(pairs, max_rank)
    with written(output, pairs.size + HEADER_BYTES, _is_adapter if replace else None) as folder:
        folder.mkdir()
        write_pairs(pairs, folder)
    return pairs


def _read(source: Path, initial: Path | None) -> LoraPairs:
    if source.is_dir():
        return convert_peft(source, initial)
    if not source.is_file():
        raise AdapterIncomplete(f"{source}: there is no such file or folder")
    if not is_gguf(source):
        raise InvalidRequest(f"{source} is neither a GGUF file nor a folder as PEFT saves it")
    return read_gguf_lora(source)


def _is_adapter(path: Path) -> bool:
    return path.is_dir() and ((path / CONFIG_FILE).is_file() or not any(path.iterdir()))
