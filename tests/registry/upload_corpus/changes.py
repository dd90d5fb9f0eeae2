"""Folders that are right but for one thing."""

from collections.abc import Callable
from typing import Any

import numpy as np
from tests.registry.peft_folder import PeftFolder, config, tensor_name, tensors

Q1A, Q1B = tensor_name(1, "q_proj", "A"), tensor_name(1, "q_proj", "B")
ODD = np.ones((2, 8), np.float32)


def with_config(**changes: Any) -> PeftFolder:
    return PeftFolder(config(**changes))


def with_tensors(edit: Callable[[dict[str, np.ndarray]], object]) -> PeftFolder:
    folder = PeftFolder()
    edit(folder.tensors)
    return folder


def put(name: str, value: np.ndarray) -> PeftFolder:
    return with_tensors(lambda all_tensors: all_tensors.__setitem__(name, value))


def without(*names: str) -> PeftFolder:
    return with_tensors(lambda all_tensors: [all_tensors.pop(name) for name in names])


def renamed(rename: Callable[[str], str]) -> PeftFolder:
    return PeftFolder(tensors={rename(name): value for name, value in tensors().items()})


def with_value(number: float, dtype: str = "float32", module: str = "q_proj") -> PeftFolder:
    values = tensors(dtype=dtype)
    values[tensor_name(1, module, "B")][3, 1] = number
    return PeftFolder(tensors=values)


def with_all_zero(side: str, layers: range) -> PeftFolder:
    values = tensors()
    for layer in layers:
        for module in ("q_proj", "v_proj"):
            values[tensor_name(layer, module, side)][:] = 0
    return PeftFolder(tensors=values)


def bfloat16(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The upper halves of float32 values."""
    return {name: (value.view(np.uint32) >> 16).astype(np.uint16) for name, value in values.items()}


def with_bits(bits: int) -> PeftFolder:
    """One bfloat16 value given by its bits."""
    values = bfloat16(tensors())
    values[Q1B][3, 1] = bits
    return PeftFolder(tensors=values)
