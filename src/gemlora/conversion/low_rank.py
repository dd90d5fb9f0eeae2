"""Matrices as products of two thin ones, and what becomes of the factors when such matrices are combined.

Letters: N rows, K columns, r the number of columns of the left factor, which is that of rows of the right one.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[Any]

NOISE = float(np.finfo(np.float32).eps)
"""Singular values below this part of the largest, times the longer side, are what rounding leaves of zeros."""

TOLERANCE = 1e-5
"""Of the largest number of a matrix: as close as two ways to compute it in float32 come."""


class Factors(NamedTuple):
    """left [N, r] · right [r, K]."""

    left: Matrix
    right: Matrix

    @property
    def rank(self) -> int:
        """r."""
        return int(self.right.shape[0])

    @property
    def product(self) -> Matrix:
        """[N, K]."""
        product: Matrix = self.left @ self.right
        return product


def factors_of(matrix: Matrix) -> Factors:
    """The factors of least rank. At full rank one of them is the matrix itself and the other one is the identity."""
    rows, columns = matrix.shape
    u, values, v = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    rank = max(1, int((values > values[0] * max(rows, columns) * NOISE).sum()))
    if rank < min(rows, columns):
        return Factors(u[:, :rank] * values[:rank], v[:rank])
    return Factors(matrix, np.eye(columns)) if columns <= rows else Factors(np.eye(rows), matrix)


def kronecker(first: Factors, second: Factors) -> Factors:
    """(P Q) ⊗ (R S) = (P ⊗ R)(Q ⊗ S): the ranks multiply."""
    return Factors(np.kron(first.left, second.left), np.kron(first.right, second.right))


def hadamard(first: Factors, second: Factors) -> Factors:
    """The factors of the product element by element: all products of a column of one and of the other."""
    left = first.left[:, :, None] * second.left[:, None, :]
    right = first.right[:, None, :] * second.right[None, :, :]
    return Factors(left.reshape(len(left), -1), right.reshape(-1, right.shape[-1]))


def difference(one: Matrix, other: Matrix) -> float:
    """The largest difference, relative to the largest number of `other`."""
    largest = float(np.abs(other).max())
    return float(np.abs(one - other).max()) / largest if largest else float(np.abs(one).max())
