"""Tiny checkpoints with their oracles, converted once, and both sets of kernels."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from gemlora.kernels import Kernels

if TYPE_CHECKING:
    from tests.checkpoints import Checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., "Checkpoint"]:
    """Makes the checkpoint of an architecture, by default in float32 and unquantised, once."""
    # The oracles are slow to import, and most tests of the engine need none.
    import torch
    from tests.checkpoints import Checkpoint, random_model, save

    from gemlora.engines.cpu.weights.packed import PackedModel
    from gemlora.engines.cpu.weights.prepare import prepare
    from gemlora.engines.cpu.weights.progress import silent

    torch.set_num_threads(1)

    @cache
    def make(architecture: str, dtype: Any = torch.float32, quantize: str = "none") -> Checkpoint:
        folder = tmp_path_factory.mktemp(architecture)
        oracle = save(random_model(architecture), folder / "checkpoint", dtype)
        packed = prepare(str(folder / "checkpoint"), None, None, quantize, folder / "cache", silent)
        return Checkpoint(oracle, PackedModel.open(packed))

    return make


@pytest.fixture(scope="session")
def reference() -> Kernels:
    """The definition of the kernels in NumPy."""
    from gemlora.kernels.reference import ReferenceKernels

    return ReferenceKernels()


@pytest.fixture(scope="session")
def native() -> Kernels:
    """The native kernels with two threads."""
    from gemlora.kernels.native import NativeKernels

    return NativeKernels(threads=2, instruction_set="auto")
