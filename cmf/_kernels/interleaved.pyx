"""One epoch over rows that are visited in turns, at the best instruction-set level there is.

The steps are those of sgd.pyx; the order of the visits is told in interleaved_template.h.

Checked by cmf._checks and made by cmf._rows, assumed here: as in sgd.pyx; besides, rows of factors
start at multiples of 64 bytes and are padded with zeros to one.
"""

from cython cimport floating
from libc.stdint cimport int32_t, int64_t, uintptr_t

from .point cimport dot


cdef extern from "simd.h" nogil:
    int CMF_ROW_BYTES
    int CMF_NORM
    int cmf_highest_level() noexcept

    ctypedef struct cmf_job_f32:
        const int64_t* cuts
        int64_t row_step
        const int32_t* indices
        const float* ratings
        const int64_t* row_order
        float* user_factors
        float* item_factors
        float* user_biases
        float* item_biases
        float* item_scales
        float* user_records
        float* item_records
        int64_t n_ratings
        int64_t first
        int64_t last
        size_t stride
        float global_mean
        float user_rate
        float item_rate
        float bias_rate
        float user_decay
        float item_decay
        float user_bias_decay
        float item_bias_decay
        float gradient_weight

    ctypedef struct cmf_job_f64:
        const int64_t* cuts
        int64_t row_step
        const int32_t* indices
        const double* ratings
        const int64_t* row_order
        double* user_factors
        double* item_factors
        double* user_biases
        double* item_biases
        double* item_scales
        double* user_records
        double* item_records
        int64_t n_ratings
        int64_t first
        int64_t last
        size_t stride
        double global_mean
        double user_rate
        double item_rate
        double bias_rate
        double user_decay
        double item_decay
        double user_bias_decay
        double item_bias_decay
        double gradient_weight

    double cmf_interleaved_f32(int level, const cmf_job_f32* job) noexcept
    double cmf_interleaved_f64(int level, const cmf_job_f64* job) noexcept


def highest_level():
    """Number of the highest level that this processor has: 0 baseline, 1 AVX2, 2 AVX-512."""
    return cmf_highest_level()


def interleaved_epoch(
    const int64_t[::1] cuts not None,           # in      (n_users * n_strips + 1,) see grid.py
    const int32_t[::1] indices not None,        # in      (nnz,), nnz >= 1
    const floating[::1] ratings not None,       # in      (nnz,)
    const int64_t[::1] row_order not None,      # in      (n_users,) rows to visit
    floating[:, :] user_factors not None,       # in/out  (n_users, n_factors) padded rows
    floating[:, :] item_factors not None,       # in/out  (n_items, n_factors) padded rows
    floating[::1] user_biases not None,         # in/out  (n_users,)
    floating[::1] item_biases not None,         # in/out  (n_items,)
    floating[::1] item_scales not None,         # in/out  (n_items,) ones at first; see settle_rows
    floating[:, ::1] user_records,              # in/out  (n_users, 4), see simd.h; None: none,
    floating[:, ::1] item_records,              # in/out  (n_items, 4)  and all rows are alike
    Py_ssize_t first,                           # positions first <= s < last of row_order
    Py_ssize_t last,
    Py_ssize_t strip,                           # the strip of items to visit, 0 <= strip < n_strips
    Py_ssize_t n_strips,                        # with 1, cuts is indptr
    int level,                                  # at most highest_level()
    floating global_mean,
    floating user_rate,         # steps are rate * (e q - l p)
    floating item_rate,
    floating bias_rate,         # with 0 biases, which must be zero, stay so
    floating user_decay,        # 1 - rate * l; with records, the least that rows can have
    floating item_decay,
    floating user_bias_decay,   # likewise; with records it is not read
    floating item_bias_decay,
    floating gradient_weight,   # of squared gradients in the records' sums
):
    """Visit one strip of some rows of `row_order` and return the sum of squared errors.

    Each error is measured just before its own step; the sum is kept in double. What an item's row
    stands for afterwards is its numbers times its scale. The GIL is released.
    """
    cdef:
        cmf_job_f32 job32
        cmf_job_f64 job64
        Py_ssize_t n_blocks = (
            user_factors.shape[1] * <Py_ssize_t> sizeof(floating) + CMF_ROW_BYTES - 1
        ) // CMF_ROW_BYTES
        Py_ssize_t row_bytes = n_blocks * CMF_ROW_BYTES
        double squared_errors

    # A single row has no stride of its own.
    if (
        <uintptr_t> &user_factors[0, 0] % CMF_ROW_BYTES
        or <uintptr_t> &item_factors[0, 0] % CMF_ROW_BYTES
        or (user_factors.shape[0] > 1 and user_factors.strides[0] != row_bytes)
        or (item_factors.shape[0] > 1 and item_factors.strides[0] != row_bytes)
        or not 0 <= level <= cmf_highest_level()
    ):
        raise ValueError("rows must be padded and aligned, and the level available")

    if floating is float:
        job32.cuts = &cuts[strip]
        job32.row_step = n_strips
        job32.indices = &indices[0]
        job32.ratings = &ratings[0]
        job32.row_order = &row_order[0]
        job32.user_factors = &user_factors[0, 0]
        job32.item_factors = &item_factors[0, 0]
        job32.user_biases = &user_biases[0]
        job32.item_biases = &item_biases[0]
        job32.item_scales = &item_scales[0]
        job32.user_records = NULL if user_records is None else &user_records[0, 0]
        job32.item_records = NULL if user_records is None else &item_records[0, 0]
        job32.n_ratings = indices.shape[0]
        job32.first = first
        job32.last = last
        job32.stride = row_bytes // sizeof(float)
        job32.global_mean = global_mean
        job32.user_rate = user_rate
        job32.item_rate = item_rate
        job32.bias_rate = bias_rate
        job32.user_decay = user_decay
        job32.item_decay = item_decay
        job32.user_bias_decay = user_bias_decay
        job32.item_bias_decay = item_bias_decay
        job32.gradient_weight = gradient_weight
        with nogil:
            squared_errors = cmf_interleaved_f32(level, &job32)
    else:
        job64.cuts = &cuts[strip]
        job64.row_step = n_strips
        job64.indices = &indices[0]
        job64.ratings = &ratings[0]
        job64.row_order = &row_order[0]
        job64.user_factors = &user_factors[0, 0]
        job64.item_factors = &item_factors[0, 0]
        job64.user_biases = &user_biases[0]
        job64.item_biases = &item_biases[0]
        job64.item_scales = &item_scales[0]
        job64.user_records = NULL if user_records is None else &user_records[0, 0]
        job64.item_records = NULL if user_records is None else &item_records[0, 0]
        job64.n_ratings = indices.shape[0]
        job64.first = first
        job64.last = last
        job64.stride = row_bytes // sizeof(double)
        job64.global_mean = global_mean
        job64.user_rate = user_rate
        job64.item_rate = item_rate
        job64.bias_rate = bias_rate
        job64.user_decay = user_decay
        job64.item_decay = item_decay
        job64.user_bias_decay = user_bias_decay
        job64.item_bias_decay = item_bias_decay
        job64.gradient_weight = gradient_weight
        with nogil:
            squared_errors = cmf_interleaved_f64(level, &job64)
    return squared_errors


def settle_rows(
    floating[:, :] rows not None,       # in/out  (n_rows, n_factors)
    floating[::1] scales not None,      # in/out  (n_rows,) ones afterwards
    floating[:, ::1] records,           # in/out  (n_rows, 4) or None; the norms are written
    Py_ssize_t first,                   # rows first <= i < last
    Py_ssize_t last,
):
    """Multiply rows by their scales, as an epoch leaves them. The GIL is released."""
    cdef:
        bint recorded = records is not None
        Py_ssize_t n_factors = rows.shape[1]
        Py_ssize_t i, f
        floating scale
        floating* row

    with nogil:
        for i in range(first, last):
            scale = scales[i]
            row = &rows[i, 0]
            if scale != 1:
                for f in range(n_factors):
                    row[f] *= scale
                scales[i] = 1
            if recorded:
                records[i, CMF_NORM] = dot(row, row, n_factors)
