"""Exact sums over finished factors, all in double whatever the type of the factors.

Checked by cmf._checks, assumed here: as in sgd.pyx; besides, the instruction-set level is one that
the processor has. All levels give the same bits, as exact_template.h tells.
"""

from cython cimport floating
from libc.stdint cimport int32_t, int64_t

from .exact cimport cmf_exact_kernels, cmf_model, cmf_numbers, cmf_ratings, model_of
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
    int level=0,
):
    """Return the sums of squared and of absolute errors over the stored entries of those rows.

    Each row is summed on its own before it joins the total, which keeps rounding at the level of
    the row's length instead of nnz. The GIL is released.
    """
    cdef:
        cmf_model model
        cmf_ratings given
        double sums[2]

    if first >= last or indptr[first] == indptr[last]:
        return 0.0, 0.0
    model = model_of(user_factors, item_factors, user_biases, item_biases, global_mean)
    given.indptr = &indptr[0]
    given.narrow = <const int32_t*> &indices[0] if index_t is int32_t else NULL
    given.wide = <const int64_t*> &indices[0] if index_t is int64_t else NULL
    given.ratings = &ratings[0]
    given.first = first
    given.last = last
    with nogil:
        cmf_exact_kernels(level, sizeof(floating)).sum_errors(&model, &given, sums)
    return sums[0], sums[1]


def sum_squares(
    const floating[:, :] rows not None,             # in  (n_rows, n_columns)
    int level=0,
    tuple more=(),                                  # up to 7 arrays like it, of any shape
):
    """Return the sum of squares of all numbers. The GIL is released, once.

    Pieces of up to 1024 numbers are added up by the thousand before they join the total of their
    array, which keeps rounding far from the number of numbers.
    """
    cdef:
        const floating[:, :] array
        Py_ssize_t n_arrays = 0
        Py_ssize_t k
        double total = 0
        cmf_numbers given[8]

    if len(more) > 7:
        raise ValueError(f"at most 8 arrays, got {1 + len(more)}")
    for array in (rows, *more):
        if array.shape[0] and array.shape[1]:
            given[n_arrays].first = &array[0, 0]
            given[n_arrays].n_rows = array.shape[0]
            given[n_arrays].n_columns = array.shape[1]
            given[n_arrays].stride = array.strides[0] // <Py_ssize_t> sizeof(floating)
            n_arrays += 1
    with nogil:
        for k in range(n_arrays):
            total += cmf_exact_kernels(level, sizeof(floating)).sum_squares(&given[k])
    return total
