"""One epoch with implicit features, at the best instruction-set level there is, and their sums.

The rule and the order of the visits are told in implicit_template.h.

Checked by cmf._checks and made by cmf._rows, assumed here: indptr, indices, orders and shapes fit
each other; indices are in range and no row holds an item twice; there is a rating at least; sums of
squared gradients are above zero; arrays do not overlap. Checked here: rows of factors start at
multiples of 64 bytes and are padded to one.
"""

from cython cimport floating
from libc.stdint cimport int32_t, int64_t, uintptr_t

from cmf._kernels.interleaved import highest_level


cdef extern from "implicit.h" nogil:
    int CMF_ROW_BYTES
    int CMF_IMPLICIT_STREAMS

    ctypedef struct cmf_implicit_f32:
        const int64_t* indptr
        const int32_t* indices
        const float* ratings
        const int64_t* row_order
        const float* weights
        float* user_factors
        float* item_factors
        float* implicit_factors
        float* user_biases
        float* item_biases
        float* user_records
        float* item_records
        float* sums
        int64_t n_ratings
        int64_t first
        int64_t last
        size_t stride
        float global_mean
        float user_rate
        float item_rate
        float bias_rate
        float implicit_rate
        float implicit_shrink
        float gradient_weight

    ctypedef struct cmf_implicit_f64:
        const int64_t* indptr
        const int32_t* indices
        const double* ratings
        const int64_t* row_order
        const double* weights
        double* user_factors
        double* item_factors
        double* implicit_factors
        double* user_biases
        double* item_biases
        double* user_records
        double* item_records
        double* sums
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

    double cmf_implicit_epoch_f32(int level, const cmf_implicit_f32* job) noexcept
    double cmf_implicit_epoch_f64(int level, const cmf_implicit_f64* job) noexcept
    int cmf_implicit_sums_f32(int level, const cmf_implicit_f32* job) noexcept
    int cmf_implicit_sums_f64(int level, const cmf_implicit_f64* job) noexcept


SCRATCH_ROWS = 2 * CMF_IMPLICIT_STREAMS  # of an epoch

cdef int HIGHEST_LEVEL = highest_level()


cdef inline Py_ssize_t bytes_of(Py_ssize_t n_factors, Py_ssize_t itemsize) noexcept:
    """Bytes from row to row, padding included."""
    return (n_factors * itemsize + CMF_ROW_BYTES - 1) // CMF_ROW_BYTES * CMF_ROW_BYTES


cdef int check_rows(const floating[:, :] rows) except -1:
    """Refuse rows that are not padded and aligned; a single row has no stride of its own."""
    if <uintptr_t> &rows[0, 0] % CMF_ROW_BYTES or (
        rows.shape[0] > 1
        and rows.strides[0] != bytes_of(rows.shape[1], <Py_ssize_t> sizeof(floating))
    ):
        raise ValueError("rows must be padded and aligned")
    return 0


cdef int check_level(int level) except -1:
    """Refuse levels that the processor does not have."""
    if not 0 <= level <= HIGHEST_LEVEL:
        raise ValueError(f"the level must be from 0 to {HIGHEST_LEVEL}, got {level}")
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
        cmf_implicit_f32 job32
        cmf_implicit_f64 job64
        double squared_errors

    check_level(level)
    check_rows[floating](user_factors)
    check_rows[floating](item_factors)
    check_rows[floating](implicit_factors)
    check_rows[floating](scratch)
    if scratch.shape[0] < 2 * CMF_IMPLICIT_STREAMS or scratch.shape[1] != user_factors.shape[1]:
        raise ValueError("scratch must be SCRATCH_ROWS rows of the same length as the others")

    if floating is float:
        job32.indptr = &indptr[0]
        job32.indices = &indices[0]
        job32.ratings = &ratings[0]
        job32.row_order = &row_order[0]
        job32.weights = &weights[0]
        job32.user_factors = &user_factors[0, 0]
        job32.item_factors = &item_factors[0, 0]
        job32.implicit_factors = &implicit_factors[0, 0]
        job32.user_biases = &user_biases[0]
        job32.item_biases = &item_biases[0]
        job32.user_records = &user_records[0, 0]
        job32.item_records = &item_records[0, 0]
        job32.sums = &scratch[0, 0]
        job32.n_ratings = indices.shape[0]
        job32.first = first
        job32.last = last
        job32.stride = bytes_of(user_factors.shape[1], sizeof(float)) // sizeof(float)
        job32.global_mean = global_mean
        job32.user_rate = user_rate
        job32.item_rate = item_rate
        job32.bias_rate = bias_rate
        job32.implicit_rate = implicit_rate
        job32.implicit_shrink = implicit_shrink
        job32.gradient_weight = gradient_weight
        with nogil:
            squared_errors = cmf_implicit_epoch_f32(level, &job32)
    else:
        job64.indptr = &indptr[0]
        job64.indices = &indices[0]
        job64.ratings = &ratings[0]
        job64.row_order = &row_order[0]
        job64.weights = &weights[0]
        job64.user_factors = &user_factors[0, 0]
        job64.item_factors = &item_factors[0, 0]
        job64.implicit_factors = &implicit_factors[0, 0]
        job64.user_biases = &user_biases[0]
        job64.item_biases = &item_biases[0]
        job64.user_records = &user_records[0, 0]
        job64.item_records = &item_records[0, 0]
        job64.sums = &scratch[0, 0]
        job64.n_ratings = indices.shape[0]
        job64.first = first
        job64.last = last
        job64.stride = bytes_of(user_factors.shape[1], sizeof(double)) // sizeof(double)
        job64.global_mean = global_mean
        job64.user_rate = user_rate
        job64.item_rate = item_rate
        job64.bias_rate = bias_rate
        job64.implicit_rate = implicit_rate
        job64.implicit_shrink = implicit_shrink
        job64.gradient_weight = gradient_weight
        with nogil:
            squared_errors = cmf_implicit_epoch_f64(level, &job64)
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
    cdef:
        cmf_implicit_f32 job32
        cmf_implicit_f64 job64

    check_level(level)
    check_rows[floating](implicit_factors)
    check_rows[floating](sums_out)

    if floating is float:
        job32.indptr = &indptr[0]
        job32.indices = &indices[0]
        job32.weights = &weights[0]
        job32.implicit_factors = &implicit_factors[0, 0]
        job32.sums = &sums_out[0, 0]
        job32.n_ratings = indices.shape[0]
        job32.first = first
        job32.last = last
        job32.stride = bytes_of(sums_out.shape[1], sizeof(float)) // sizeof(float)
        with nogil:
            cmf_implicit_sums_f32(level, &job32)
    else:
        job64.indptr = &indptr[0]
        job64.indices = &indices[0]
        job64.weights = &weights[0]
        job64.implicit_factors = &implicit_factors[0, 0]
        job64.sums = &sums_out[0, 0]
        job64.n_ratings = indices.shape[0]
        job64.first = first
        job64.last = last
        job64.stride = bytes_of(sums_out.shape[1], sizeof(double)) // sizeof(double)
        with nogil:
            cmf_implicit_sums_f64(level, &job64)
