"""Sums by row and by column, of which damped means are made; all in double.

Checked by cmf._checks, assumed here: as in sgd.pyx.
"""

from cython cimport floating
from libc.stdint cimport int64_t

from .types cimport index_t


def sum_deviations(
    const int64_t[::1] indptr not None,         # in      (n_users + 1,)
    const index_t[::1] indices not None,        # in      (nnz,)
    const floating[::1] ratings not None,       # in      (nnz,)
    double[::1] user_sums not None,             # out     (n_users,)
    double[::1] item_sums not None,             # in/out  (n_items,) added to
    Py_ssize_t first,                           # rows first <= u < last
    Py_ssize_t last,
    double global_mean,
):
    """Sum r - mean by row and by column; return the sum of squares.

    The GIL is released.
    """
    cdef:
        Py_ssize_t u, j
        double deviation, total
        double squared = 0

    with nogil:
        for u in range(first, last):
            total = 0
            for j in range(indptr[u], indptr[u + 1]):
                deviation = <double> ratings[j] - global_mean
                total += deviation
                item_sums[indices[j]] += deviation
                squared += deviation * deviation
            user_sums[u] = total
    return squared


def damp_users(
    const int64_t[::1] indptr not None,         # in      (n_users + 1,)
    const index_t[::1] indices not None,        # in      (nnz,)
    const double[::1] user_sums not None,       # in      (n_users,) of r - mean
    const double[::1] item_biases not None,     # in      (n_items,)
    double[::1] user_biases not None,           # out     (n_users,)
    double[::1] item_sums not None,             # in/out  (n_items,) added to
    Py_ssize_t first,                           # rows first <= u < last
    Py_ssize_t last,
    double damping,
):
    """Take the damped means b_u of r - mean - c_i; without ratings 0.

    By column, sum b_u; return the sum of b_u c_i over all ratings. The GIL is released.
    """
    cdef:
        Py_ssize_t u, j, start, stop
        double total, bias
        double products = 0

    with nogil:
        for u in range(first, last):
            start = indptr[u]
            stop = indptr[u + 1]
            user_biases[u] = 0
            if start == stop:
                continue
            total = 0
            for j in range(start, stop):
                total += item_biases[indices[j]]
            bias = (user_sums[u] - total) / (<double> (stop - start) + damping)
            for j in range(start, stop):
                item_sums[indices[j]] += bias
            user_biases[u] = bias
            products += bias * total
    return products


def moments(
    const int64_t[::1] counts not None,         # in      (n,) ratings of each row or column
    const double[::1] sums not None,            # in      (n,) of their r - mean
    const double[::1] values not None,          # in      (n,) biases
    double damping,
):
    """Sum v (n v - 2 s), n / (n + damping), v² and 1 / (n + damping), these over rated rows.

    Rows without ratings have bias 0. The GIL is released.
    """
    cdef:
        Py_ssize_t k
        double n, share
        double explained = 0
        double freedom = 0
        double squares = 0
        double shares = 0

    with nogil:
        for k in range(counts.shape[0]):
            if counts[k] == 0:
                continue
            n = <double> counts[k]
            share = 1 / (n + damping)
            explained += values[k] * (n * values[k] - 2 * sums[k])
            freedom += n * share
            squares += values[k] * values[k]
            shares += share
    return explained, freedom, squares, shares
