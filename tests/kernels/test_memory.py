import pytest

from gemlora.kernels import aligned_rows


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (1, 1), (3, 640), (2, 2048), (7, 4096)])
def test_rows_begin_with_a_cache_line_an_odd_number_of_lines_apart(rows, columns) -> None:
    numbers = aligned_rows(rows, columns)
    assert numbers.shape == (rows, columns)
    assert numbers.strides[0] // 64 % 2 == 1
    for row in numbers:
        assert row.ctypes.data % 64 == 0
    numbers[:] = 1  # the last row lies within the memory
