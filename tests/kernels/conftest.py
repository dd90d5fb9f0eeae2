"""Native kernels in all variants, and the two checks every kernel must pass: the reference's result, the same bits."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from gemlora.kernels import Kernels
from gemlora.kernels.native import NativeKernels, instruction_sets
from gemlora.kernels.reference import ReferenceKernels

Output = NDArray[np.generic]
Agree = Callable[[Callable[[], Output], Callable[[Kernels, Output], None], float], Output]


@pytest.fixture(scope="session")
def reference() -> ReferenceKernels:
    return ReferenceKernels()


@pytest.fixture(scope="session")
def variants() -> list[NativeKernels]:
    """Every instruction set that this processor has, with one thread and with two."""
    return [NativeKernels(threads, name) for name in instruction_sets() for threads in (1, 2)]


@pytest.fixture(scope="session")
def native(variants: list[NativeKernels]) -> NativeKernels:
    return variants[0]


@pytest.fixture(scope="session")
def agree(reference: ReferenceKernels, variants: list[NativeKernels]) -> Agree:
    """agree(make, call, tolerance): run `call(kernels, make())` on all; returns the native result.

    The tolerance is relative to the largest number of the reference's result.
    """

    def run(make: Callable[[], Output], call: Callable[[Kernels, Output], None], tolerance: float) -> Output:
        expected = make()
        call(reference, expected)
        first: Output | None = None
        for kernels in variants:
            result = make()
            call(kernels, result)
            first = result if first is None else first
            assert result.tobytes() == first.tobytes(), (
                f"{kernels.instruction_set} with {kernels.threads} threads differs from {variants[0].instruction_set}"
            )
        assert first is not None
        scale = np.abs(expected).max(initial=np.finfo(np.float32).tiny)
        assert np.abs(first.astype(np.float64) - expected).max(initial=0) <= tolerance * scale
        return first

    return run
