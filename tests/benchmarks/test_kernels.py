"""What a kernel could take at least on a machine with these limits."""

import pytest
from benchmarks.kernels import Case, cases, figures_of
from benchmarks.machine import Limits

from gemlora.kernels.native import NativeKernels

LIMITS = Limits(threads=2, int8_gmacs_per_second=400.0, read_gigabytes_per_second=20.0)


@pytest.mark.parametrize(
    ("macs", "size", "floats", "seconds"),
    [(8e9, 1e9, False, 0.05), (8e9, 1e8, False, 0.02), (8e9, 1e8, True, 0.08), (0, 1e9, True, 0.05)],
)
def test_a_roofline_is_arithmetic_or_memory(macs: float, size: float, floats: bool, seconds: float) -> None:
    case = Case("some", lambda: None, macs, size, floats)
    assert case.roofline(LIMITS) == pytest.approx(seconds)
    assert figures_of(case, 0.1, LIMITS) == {
        "some.seconds": 0.1,
        "some.share_of_roofline": pytest.approx(seconds / 0.1),
    }


def test_without_a_known_peak_arithmetic_has_no_roofline() -> None:
    unknown = Limits(threads=2, int8_gmacs_per_second=0.0, read_gigabytes_per_second=20.0)
    assert figures_of(Case("some", lambda: None, macs=1e9), 0.1, unknown) == {"some.seconds": 0.1}
    assert Case("some", lambda: None, bytes=20e9).roofline(unknown) == 1


def test_every_kernel_is_called_with_arrays_that_it_takes() -> None:
    names = set()
    for case in cases(NativeKernels(1)):
        case.call()
        names.add(case.name)
    assert {name.replace(",", "").split()[0] for name in names} >= {
        "head",
        "qkv",
        "attend",
        "adapt",
        "rms_norm",
        "sample",
        "store_kv",
    }
