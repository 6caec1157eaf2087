"""Draws of rows from their posterior given all else, at the best instruction-set level there is.

The mathematics are told in gibbs_template.h. Rows hold their factors and then, if there are biases,
their bias: `width` is the number of factors or one more.

Checked by cmf._checks and cmf.posterior, assumed here: indptr is monotone and ends at nnz, indices
are in range, arrays have the shapes given.
"""

from libc.stdint cimport int32_t, int64_t
from libc.string cimport memset

from .simd cimport has_level


cdef extern from "gibbs.h" nogil:
    int CMF_GIBBS_MAX_WIDTH
    int CMF_GIBBS_MAX_COLUMNS
    int CMF_GIBBS_MAX_STRIP

    ctypedef struct cmf_gibbs_job:
        const int64_t* indptr
        const int32_t* indices
        const float* ratings
        const float* others
        const float* prior_means
        int64_t prior_step
        const double* precision
        const float* normals
        float* rows
        float* means
        int64_t first
        int64_t last
        int n_factors
        int width
        double noise_precision

    int64_t cmf_gibbs_rows(int level, const cmf_gibbs_job* job) noexcept
    double cmf_gibbs_errors(int level, const cmf_gibbs_job* job) noexcept
    void cmf_gibbs_pairs(
        int level, const int32_t* users, const int32_t* items, const float* user_rows,
        const float* item_rows, double* means, double* squares, int64_t n_pairs, int64_t width,
        int64_t n_factors, double number
    ) noexcept
    void cmf_gibbs_features(
        int level, const int64_t* indptr, const int32_t* indices, const float* weights,
        const float* noise, float* features, float* residuals, int64_t first, int64_t last,
        int64_t width, int64_t column, int64_t n_columns, double strength
    ) noexcept
    void cmf_gibbs_products(
        int level, const float* rows, int64_t n_rows, int64_t n_columns, double* products
    ) noexcept
    void cmf_gibbs_multiply(
        int level, const float* rows, const float* matrix, float* out, int64_t n_rows,
        int64_t n_columns, int64_t n_out
    ) noexcept


# Numbers at most: of a row to be drawn, of one to take products of, of a strip of features.
MAX_WIDTH = CMF_GIBBS_MAX_WIDTH
MAX_COLUMNS = CMF_GIBBS_MAX_COLUMNS
MAX_STRIP = CMF_GIBBS_MAX_STRIP


cdef inline cmf_gibbs_job job_of(
    const int64_t[::1] indptr,
    const int32_t[::1] indices,
    const float[::1] ratings,
    const float[:, ::1] others,
    float[:, ::1] rows,
    Py_ssize_t first,
    Py_ssize_t last,
    bint biased,
) noexcept:
    # What all jobs have; draws have more, which is zero here.
    cdef cmf_gibbs_job job
    memset(&job, 0, sizeof(job))
    job.indptr = &indptr[0]
    job.indices = &indices[0]
    job.ratings = &ratings[0]
    job.others = &others[0, 0]
    job.rows = &rows[0, 0]
    job.first = first
    job.last = last
    job.width = <int> rows.shape[1]
    job.n_factors = job.width - biased
    return job


def draw_rows(
    const int64_t[::1] indptr not None,         # in   (n_rows + 1,)
    const int32_t[::1] indices not None,        # in   (nnz,), nnz >= 1
    const float[::1] ratings not None,          # in   (nnz,)
    const float[:, ::1] others not None,        # in   (n_others, width)
    const float[:, ::1] prior_means not None,   # in   (n_rows, width), or (1, width) for all rows
    const double[:, ::1] precision not None,    # in   (width, width) of the prior, symmetric
    const float[:, ::1] normals not None,       # in   (last - first, width)
    float[:, ::1] rows not None,                # out  (n_rows, width) what is drawn
    float[:, ::1] means not None,               # out  (n_rows, width) what it is drawn around
    Py_ssize_t first,                           # rows first <= u < last
    Py_ssize_t last,
    bint biased,                                # whether the last column holds biases
    double noise_precision,
    int level,                                  # at most highest_level()
):
    """Draw some rows of one side given the other side.

    Returns -1, or the first row whose precision is not positive definite: rows from there on are
    as they were. The GIL is released.
    """
    cdef:
        cmf_gibbs_job job
        int64_t failed = -1

    if not has_level(level) or not 1 <= rows.shape[1] <= CMF_GIBBS_MAX_WIDTH:
        raise ValueError("the level must be available and the rows within their limit")
    if first == last:
        return -1
    job = job_of(indptr, indices, ratings, others, rows, first, last, biased)
    job.prior_means = &prior_means[0, 0]
    job.prior_step = 0 if prior_means.shape[0] == 1 else rows.shape[1]
    job.precision = &precision[0, 0]
    job.normals = &normals[0, 0]
    job.means = &means[0, 0]
    job.noise_precision = noise_precision
    with nogil:
        failed = cmf_gibbs_rows(level, &job)
    return failed


def squared_errors(
    const int64_t[::1] indptr not None,         # in   (n_rows + 1,)
    const int32_t[::1] indices not None,        # in   (nnz,), nnz >= 1
    const float[::1] ratings not None,          # in   (nnz,)
    const float[:, ::1] others not None,        # in   (n_others, width)
    float[:, ::1] rows not None,                # in   (n_rows, width)
    Py_ssize_t first,                           # rows first <= u < last
    Py_ssize_t last,
    bint biased,
    int level,                                  # at most highest_level()
):
    """Sum the squared errors of the ratings of some rows. The GIL is released."""
    cdef:
        cmf_gibbs_job job
        double squares

    if not has_level(level):
        raise ValueError("the level must be available")
    job = job_of(indptr, indices, ratings, others, rows, first, last, biased)
    with nogil:
        squares = cmf_gibbs_errors(level, &job)
    return squares


def add_predictions(
    const int32_t[::1] users not None,          # in      (n_pairs,)
    const int32_t[::1] items not None,          # in      (n_pairs,)
    const float[:, ::1] user_rows not None,     # in      (n_users, width)
    const float[:, ::1] item_rows not None,     # in      (n_items, width)
    double[::1] means not None,                 # in/out  (n_pairs,) of the predictions so far
    double[::1] squares not None,               # in/out  (n_pairs,) of their distances from that
    Py_ssize_t number,                          # of predictions, this one included
    bint biased,
    int level,                                  # at most highest_level()
):
    """Add one prediction of each pair to mean and sum of squared deviations. Releases the GIL."""
    if not has_level(level):
        raise ValueError("the level must be available")
    if users.shape[0] == 0:
        return
    with nogil:
        cmf_gibbs_pairs(
            level, &users[0], &items[0], &user_rows[0, 0], &item_rows[0, 0], &means[0],
            &squares[0], users.shape[0], user_rows.shape[1], user_rows.shape[1] - biased, number
        )


def draw_features(
    const int64_t[::1] indptr not None,         # in      (n_features + 1,)
    const int32_t[::1] indices not None,        # in      (nnz,), nnz >= 1: rows that have a feature
    const float[::1] weights not None,          # in      (n_rows,) of the features of each row
    const float[:, ::1] noise not None,         # in      (n_features, width) from N(0, 1 / L)
    float[:, ::1] features not None,            # in/out  (n_features, width)
    float[:, ::1] residuals not None,           # in/out  (n_rows, width)
    Py_ssize_t first,                           # features first <= j < last
    Py_ssize_t last,
    Py_ssize_t column,                          # columns from here, at most MAX_STRIP
    Py_ssize_t n_columns,
    double strength,
    int level,                                  # at most highest_level()
):
    """Draw features one after the other: a row's mean is its weight times the sum of its features.

    Residuals are rows less their means, and are kept so. A row with precision L has features from
    N(0, 1 / (strength L)). Features that no row has are left as they are. The GIL is released.
    """
    if (
        not has_level(level)
        or not 1 <= n_columns <= CMF_GIBBS_MAX_STRIP
        or not 0 <= column <= features.shape[1] - n_columns
    ):
        raise ValueError("the level must be available and the columns within their limit")
    with nogil:
        cmf_gibbs_features(
            level, &indptr[0], &indices[0], &weights[0], &noise[0, 0], &features[0, 0],
            &residuals[0, 0], first, last, features.shape[1], column, n_columns, strength
        )


def row_products(
    const float[:, ::1] rows not None,          # in   (n_rows, n), n <= MAX_COLUMNS
    double[:, ::1] products_out not None,       # out  (n, n)
    int level,                                  # at most highest_level()
):
    """Write rows' rows, the products of all columns with all columns. The GIL is released."""
    if not has_level(level) or not 1 <= rows.shape[1] <= CMF_GIBBS_MAX_COLUMNS:
        raise ValueError("the level must be available and the columns within their limit")
    if rows.shape[0] == 0:
        products_out[:, :] = 0
        return
    with nogil:
        cmf_gibbs_products(level, &rows[0, 0], rows.shape[0], rows.shape[1], &products_out[0, 0])


def multiply_rows(
    const float[:, ::1] rows not None,          # in   (n_rows, n)
    const float[:, ::1] matrix not None,        # in   (n, n_out)
    float[:, ::1] rows_out not None,            # out  (n_rows, n_out)
    int level,                                  # at most highest_level()
):
    """Write rows times a matrix. The GIL is released."""
    if not has_level(level):
        raise ValueError("the level must be available")
    if rows.shape[0] == 0:
        return
    with nogil:
        cmf_gibbs_multiply(
            level, &rows[0, 0], &matrix[0, 0], &rows_out[0, 0], rows.shape[0], rows.shape[1],
            matrix.shape[1]
        )
