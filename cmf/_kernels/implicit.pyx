"""One epoch with implicit features, at the best instruction-set level there is, and their sums.

The rule and the order of the visits are told in implicit_template.h.

Checked by cmf._checks and made by cmf._rows, assumed here: indptr, indices, orders and shapes fit
each other; indices are in range and no row holds an item twice; there is a rating at least; sums of
squared gradients are above zero; arrays do not overlap. Checked here: rows of factors start at
multiples of 64 bytes and are padded to one.
"""

from cython cimport floating
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memset

from .simd cimport are_padded, cmf_highest_level, has_level, padded_bytes


cdef extern from "implicit.h" nogil:
    int CMF_IMPLICIT_STREAMS

    ctypedef struct cmf_implicit:
        const int64_t* indptr
        const int32_t* indices
        const void* ratings
        const int64_t* row_order
        const void* weights
        void* user_factors
        void* item_factors
        void* implicit_factors
        void* user_biases
        void* item_biases
        void* user_records
        void* item_records
        void* sums
        int64_t n_ratings
        int64_t first
        int64_t last
        size_t stride
        double global_mean
        double user_rate
        double item_rate
        double bias_rate
        double implicit_rate
        double implicit_shrink
        double gradient_weight

    double cmf_implicit_epoch(int level, size_t itemsize, const cmf_implicit* job) noexcept
    void cmf_implicit_sums(int level, size_t itemsize, const cmf_implicit* job) noexcept


SCRATCH_ROWS = 2 * CMF_IMPLICIT_STREAMS  # of an epoch


cdef int check_rows(const floating[:, :] rows) except -1:
    """Refuse rows that are not padded and aligned."""
    if not are_padded[floating](rows):
        raise ValueError("rows must be padded and aligned")
    return 0


cdef int check_level(int level) except -1:
    """Refuse levels that the processor does not have."""
    if not has_level(level):
        raise ValueError(f"the level must be from 0 to {cmf_highest_level()}, got {level}")
    return 0


def implicit_epoch(
    const int64_t[::1] indptr not None,         # in      (n_users + 1,)
    const int32_t[::1] indices not None,        # in      (nnz,), nnz >= 1
    const floating[::1] ratings not None,       # in      (nnz,)
    const int64_t[::1] row_order not None,      # in      (n_users,) rows to visit
    const floating[::1] weights not None,       # in      (n_users,) of the sums of y
    floating[:, :] user_factors not None,       # in/out  (n_users, n_factors) padded rows
    floating[:, :] item_factors not None,       # in/out  (n_items, n_factors) padded rows
    floating[:, :] implicit_factors not None,   # in/out  (n_items, n_factors) padded rows: y
    floating[::1] user_biases not None,         # in/out  (n_users,)
    floating[::1] item_biases not None,         # in/out  (n_items,)
    floating[:, ::1] user_records not None,     # in/out  (n_users, 4), see simd.h
    floating[:, ::1] item_records not None,     # in/out  (n_items, 4)
    floating[:, :] scratch not None,            # out     (SCRATCH_ROWS, n_factors) padded rows
    Py_ssize_t first,                           # positions first <= s < last of row_order
    Py_ssize_t last,
    int level,                                  # at most highest_level()
    floating global_mean,                       # scalars last: the arrays choose the type
    floating user_rate,                         # steps are rate * (e q - l p)
    floating item_rate,
    floating bias_rate,                         # with 0 biases, which must be zero, stay so
    floating implicit_rate,                     # of sums, in rates of their users
    floating implicit_shrink,                   # l of the sums
    floating gradient_weight,                   # of squared gradients in the records' sums
):
    """Visit the rows at some positions of `row_order` and return the sum of squared errors.

    Each error is measured just before its own step; the sum is kept in double. The norms in the
    records are neither read nor kept. The GIL is released.
    """
    cdef:
        cmf_implicit job
        double squared_errors

    check_level(level)
    check_rows[floating](user_factors)
    check_rows[floating](item_factors)
    check_rows[floating](implicit_factors)
    check_rows[floating](scratch)
    if scratch.shape[0] < 2 * CMF_IMPLICIT_STREAMS or scratch.shape[1] != user_factors.shape[1]:
        raise ValueError("scratch must be SCRATCH_ROWS rows of the same length as the others")

    job.indptr = &indptr[0]
    job.indices = &indices[0]
    job.ratings = &ratings[0]
    job.row_order = &row_order[0]
    job.weights = &weights[0]
    job.user_factors = &user_factors[0, 0]
    job.item_factors = &item_factors[0, 0]
    job.implicit_factors = &implicit_factors[0, 0]
    job.user_biases = &user_biases[0]
    job.item_biases = &item_biases[0]
    job.user_records = &user_records[0, 0]
    job.item_records = &item_records[0, 0]
    job.sums = &scratch[0, 0]
    job.n_ratings = indices.shape[0]
    job.first = first
    job.last = last
    job.stride = padded_bytes(user_factors.shape[1], sizeof(floating)) // sizeof(floating)
    job.global_mean = global_mean
    job.user_rate = user_rate
    job.item_rate = item_rate
    job.bias_rate = bias_rate
    job.implicit_rate = implicit_rate
    job.implicit_shrink = implicit_shrink
    job.gradient_weight = gradient_weight
    with nogil:
        squared_errors = cmf_implicit_epoch(level, sizeof(floating), &job)
    return squared_errors


def implicit_sums(
    const int64_t[::1] indptr not None,         # in   (n_users + 1,)
    const int32_t[::1] indices not None,        # in   (nnz,), nnz >= 1
    const floating[::1] weights not None,       # in   (n_users,)
    floating[:, :] implicit_factors not None,   # in   (n_items, n_factors) padded rows
    floating[:, :] sums_out not None,           # out  (n_users, n_factors) padded rows
    Py_ssize_t first,                           # users first <= u < last
    Py_ssize_t last,
    int level,                                  # at most highest_level()
):
    """Write the weighted sums of the implicit factors of each user's items, as an epoch makes them.

    The GIL is released.
    """
    cdef cmf_implicit job

    check_level(level)
    check_rows[floating](implicit_factors)
    check_rows[floating](sums_out)

    memset(&job, 0, sizeof(job))
    job.indptr = &indptr[0]
    job.indices = &indices[0]
    job.weights = &weights[0]
    job.implicit_factors = &implicit_factors[0, 0]
    job.sums = &sums_out[0, 0]
    job.n_ratings = indices.shape[0]
    job.first = first
    job.last = last
    job.stride = padded_bytes(sums_out.shape[1], sizeof(floating)) // sizeof(floating)
    with nogil:
        cmf_implicit_sums(level, sizeof(floating), &job)
