import numpy as np
import pytest

from gemlora.kernels.hadamard import spread, squared_length


def hadamard(size: int) -> np.ndarray:
    """By Sylvester's construction."""
    return np.ones((1, 1)) if size == 1 else np.kron([[1, 1], [1, -1]], hadamard(size // 2))


@pytest.mark.parametrize(("size", "parts"), [(128, 1), (640, 5), (24, 3), (7, 7)])
def test_each_part_is_multiplied_by_a_hadamard_matrix(size: int, parts: int) -> None:
    x = np.random.default_rng(size).standard_normal((3, size)).astype(np.float32)
    before = x.copy()
    expected = (x.reshape(3, parts, -1) @ hadamard(size // parts)).reshape(3, size)
    np.testing.assert_allclose(spread(x), expected, rtol=1e-5, atol=1e-5)
    assert np.array_equal(x, before)


@pytest.mark.parametrize("shape", [(128,), (2, 640), (2, 3, 32)])
def test_twice_gives_back_the_numbers_times_the_squared_length(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).integers(-99, 99, shape).astype(np.float32)
    assert np.array_equal(spread(spread(x)), x * squared_length(shape[-1]))
