"""Exact sums over finished factors, all in double whatever the type of the factors.

Checked by cmf._checks, assumed here: as in sgd.pyx.
"""

from cython cimport floating
from libc.math cimport fabs
from libc.stdint cimport int64_t

from .point cimport exact_dot
from .types cimport index_t


def sum_errors(
    const int64_t[::1] indptr not None,             # in  (n_users + 1,)
    const index_t[::1] indices not None,            # in  (nnz,)
    const floating[::1] ratings not None,           # in  (nnz,)
    const floating[:, :] user_factors not None,     # in  (n_users, n_factors)
    const floating[:, :] item_factors not None,     # in  (n_items, n_factors)
    const floating[::1] user_biases not None,       # in  (n_users,)
    const floating[::1] item_biases not None,       # in  (n_items,)
    Py_ssize_t first,                               # rows first <= u < last
    Py_ssize_t last,
    double global_mean,
):
    """Return the sums of squared and of absolute errors over the stored entries of those rows.

    Each row is summed on its own before it joins the total, which keeps rounding at the level of
    the row's length instead of nnz. The GIL is released.
    """
    cdef:
        Py_ssize_t n_factors = user_factors.shape[1]
        Py_ssize_t u, i, j
        double error, base, squared_in_row, absolute_in_row
        double squared = 0
        double absolute = 0

    with nogil:
        for u in range(first, last):
            base = global_mean + <double> user_biases[u]
            squared_in_row = 0
            absolute_in_row = 0
            for j in range(indptr[u], indptr[u + 1]):
                i = indices[j]
                error = <double> ratings[j] - (
                    base
                    + <double> item_biases[i]
                    + exact_dot(&user_factors[u, 0], &item_factors[i, 0], n_factors)
                )
                squared_in_row += error * error
                absolute_in_row += fabs(error)
            squared += squared_in_row
            absolute += absolute_in_row

    return squared, absolute


def sum_squares(const floating[:, :] rows not None):
    """Return the sum of squares. The GIL is released.

    Pieces of up to 1024 numbers are added up by the thousand before they join the total, which
    keeps rounding far from the number of numbers.
    """
    cdef:
        Py_ssize_t n_columns = rows.shape[1]
        Py_ssize_t n_pieces = 0
        Py_ssize_t u, start
        double pieces = 0
        double total = 0

    with nogil:
        for u in range(rows.shape[0]):
            start = 0
            while start < n_columns:
                pieces += exact_dot(&rows[u, start], &rows[u, start], min(1024, n_columns - start))
                start += 1024
                n_pieces += 1
                if n_pieces % 1024 == 0:
                    total += pieces
                    pieces = 0

    return total + pieces
