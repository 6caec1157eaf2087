"""Sums of residuals by row and by column, of which damped means are made; all in double.

Checked by cmf._checks, assumed here: as in sgd.pyx.
"""

from cython cimport floating
from libc.stdint cimport int64_t

from .types cimport index_t


def sum_residuals(
    const int64_t[::1] indptr not None,         # in      (n_users + 1,)
    const index_t[::1] indices not None,        # in      (nnz,)
    const floating[::1] ratings not None,       # in      (nnz,)
    const double[::1] user_biases not None,     # in      (n_users,)
    const double[::1] item_biases not None,     # in      (n_items,)
    double[::1] user_sums not None,             # out     (n_users,)
    double[::1] item_sums not None,             # in/out  (n_items,) added to
    Py_ssize_t first,                           # rows first <= u < last
    Py_ssize_t last,
    double global_mean,
):
    """Sum r - mean - b_u - c_i by row and by column; return the sum of squares.

    The GIL is released.
    """
    cdef:
        Py_ssize_t u, i, j
        double residual, total
        double squared = 0

    with nogil:
        for u in range(first, last):
            total = 0
            for j in range(indptr[u], indptr[u + 1]):
                i = indices[j]
                residual = <double> ratings[j] - global_mean - user_biases[u] - item_biases[i]
                total += residual
                item_sums[i] += residual
                squared += residual * residual
            user_sums[u] = total
    return squared
