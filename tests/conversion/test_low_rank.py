"""Factors of matrices, and of what they are combined to."""

import numpy as np
import pytest

from gemlora.conversion.low_rank import Factors, difference, factors_of, hadamard, kronecker

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(("rows", "columns", "rank"), [(6, 4, 2), (4, 6, 4), (6, 4, 4), (3, 3, 0), (5, 1, 1)])
def test_a_matrix_has_factors_of_its_own_rank(rows: int, columns: int, rank: int) -> None:
    matrix = RANDOM.normal(size=(rows, rank)) @ RANDOM.normal(size=(rank, columns))
    factors = factors_of(matrix.astype(np.float32))
    assert factors.rank == max(rank, 1)
    assert difference(factors.product, matrix) < 1e-6


def test_factors_at_full_rank_are_exact() -> None:
    for matrix in (RANDOM.normal(size=(5, 3)), RANDOM.normal(size=(3, 5))):
        np.testing.assert_array_equal(factors_of(matrix).product, matrix)


def test_products_of_factored_matrices_are_factored() -> None:
    one = Factors(RANDOM.normal(size=(4, 2)), RANDOM.normal(size=(2, 5)))
    other = Factors(RANDOM.normal(size=(4, 3)), RANDOM.normal(size=(3, 5)))
    for combined, expected in (
        (kronecker(one, other), np.kron(one.product, other.product)),
        (hadamard(one, other), one.product * other.product),
    ):
        assert combined.rank == 6
        np.testing.assert_allclose(combined.product, expected, rtol=1e-12, atol=1e-12)


def test_a_difference_is_relative_and_tells_what_is_no_number() -> None:
    assert difference(np.array([1.0, 2.5]), np.array([1.0, 2.0])) == 0.25
    assert difference(np.array([0.0]), np.array([0.0])) == 0.0
    assert np.isnan(difference(np.array([np.nan]), np.array([1.0])))
