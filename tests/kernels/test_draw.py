"""Random numbers that are looked up in a table."""

import numpy as np
import pytest
from strategies import FLOATS

from cmf._kernels.draw import look_up
from cmf._rows import zero_rows


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("n_rows", "n_columns"), [(1, 1), (3, 5), (40, 16), (2, 33), (0, 4)])
def test_rows_are_filled_with_what_was_drawn(dtype, n_rows, n_columns, rng):
    table = rng.normal(size=2**16).astype(dtype)
    drawn = rng.integers(0, 2**16, n_rows * n_columns, dtype=np.uint16)
    drawn[:2] = [0, 2**16 - 1][: drawn.size]
    rows = zero_rows(n_rows + 1, n_columns, np.dtype(dtype))
    look_up(table, drawn, rows[:n_rows])
    np.testing.assert_array_equal(rows[:n_rows], table[drawn].reshape(n_rows, n_columns))
    assert not rows[n_rows:].any()


def test_tables_and_indices_of_other_lengths_are_refused():
    table, drawn, rows = np.zeros(2**16), np.zeros(6, dtype=np.uint16), np.zeros((2, 3))
    for wrong in (
        (table[1:], drawn, rows),
        (table, drawn[1:], rows),
        (table, drawn[:0], rows[:, :0]),
    ):
        with pytest.raises(ValueError, match="an index for each"):
            look_up(*wrong)
