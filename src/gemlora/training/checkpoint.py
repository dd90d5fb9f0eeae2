"""The state of a training in one file: whole or not there, so that a killed training goes on where it was.

Tensors are named by what they are for: `weights.NAME`, `best.NAME`, `first_moment.INDEX`, `second_moment.INDEX`.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from gemlora.engines.cpu.weights.folder import sync
from gemlora.errors import StorageFailed, TrainingRefused
from gemlora.training.history import History

Tensors = dict[str, torch.Tensor]
FILE = "checkpoint.safetensors"


class State(msgspec.Struct, frozen=True):
    """What is known beside the tensors. `fingerprint` names data, base and plan: all that decides the outcome."""

    fingerprint: str
    history: History


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A training after a whole number of steps. `moments` are AdamW's, by the parameters' order."""

    state: State
    weights: Tensors
    best: Tensors
    first_moments: list[torch.Tensor]
    second_moments: list[torch.Tensor]


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Put the checkpoint in place of the last one, on disk. Raises `StorageFailed`."""
    tensors = {
        **{f"weights.{name}": tensor for name, tensor in checkpoint.weights.items()},
        **{f"best.{name}": tensor for name, tensor in checkpoint.best.items()},
        **{f"first_moment.{index}": tensor for index, tensor in enumerate(checkpoint.first_moments)},
        **{f"second_moment.{index}": tensor for index, tensor in enumerate(checkpoint.second_moments)},
    }
    path, partial = folder / FILE, folder / f"{FILE}.partial"
    try:
        metadata = {"state": msgspec.json.encode(checkpoint.state).decode()}
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, partial, metadata)
        sync(partial)
        partial.replace(path)
        sync(folder)
    except (OSError, SafetensorError) as error:
        raise StorageFailed(f"{path}: the checkpoint cannot be written: {error}") from error


def load(folder: Path) -> Checkpoint | None:
    """The last checkpoint, if there is one. Raises `TrainingRefused` if it is damaged."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            state = msgspec.json.decode(file.metadata()["state"], type=State)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, msgspec.DecodeError) as error:
        raise TrainingRefused(f"{path}: is damaged ({error}); --restart begins anew") from error

    def named(prefix: str) -> Tensors:
        start = f"{prefix}."
        return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}

    def ordered(prefix: str) -> list[torch.Tensor]:
        found = named(prefix)
        return [found[str(index)] for index in range(len(found))]

    return Checkpoint(state, named("weights"), named("best"), ordered("first_moment"), ordered("second_moment"))


def remove(folder: Path) -> None:
    """Forget the checkpoint, and what a killed process left of one."""
    for name in (FILE, f"{FILE}.partial"):
        (folder / name).unlink(missing_ok=True)
