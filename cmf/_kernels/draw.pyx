"""Random numbers that are looked up in a table."""

from cython cimport floating
from libc.stdint cimport uint16_t


def look_up(
    const floating[::1] table not None,         # in   (2**16,), so that no index is out of range
    const uint16_t[::1] drawn not None,         # in   as many as there are numbers in the rows
    floating[:, :] rows_out not None,           # out  (n_rows, n_columns), each in one piece
):
    """Fill rows with the numbers that were drawn, row by row. The GIL is released."""
    cdef:
        Py_ssize_t n_rows = rows_out.shape[0]
        Py_ssize_t n_columns = rows_out.shape[1]
        Py_ssize_t u, f
        floating* row

    if table.shape[0] != 2**16 or drawn.shape[0] != n_rows * n_columns or n_columns == 0:
        raise ValueError("there must be 2**16 numbers, and an index for each that is wanted")
    with nogil:
        for u in range(n_rows):
            row = &rows_out[u, 0]
            for f in range(n_columns):
                row[f] = table[drawn[u * n_columns + f]]
