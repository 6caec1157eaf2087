# The exact kernels of exact.h, and how they are handed a model. Nothing here can fail.

from cython cimport floating
from libc.stdint cimport int32_t, int64_t


cdef extern from "exact.h" nogil:
    ctypedef struct cmf_model:
        const void* user_factors
        const void* item_factors
        const void* user_biases
        const void* item_biases
        int64_t user_stride
        int64_t item_stride
        int64_t n_factors
        double global_mean

    ctypedef struct cmf_ratings:
        const int64_t* indptr
        const int32_t* narrow
        const int64_t* wide
        const void* ratings
        int64_t first
        int64_t last

    ctypedef struct cmf_numbers:
        const void* first
        int64_t n_rows
        int64_t n_columns
        int64_t stride

    ctypedef struct cmf_exact:
        void (*sum_errors)(
            const cmf_model* model, const cmf_ratings* ratings, double* sums
        ) noexcept nogil
        double (*sum_squares)(const cmf_numbers* numbers) noexcept nogil
        void (*predict_pairs)(
            const cmf_model* model, const int64_t* users, const int64_t* items, int64_t n, void* out
        ) noexcept nogil
        void (*predict_block)(
            const cmf_model* model,
            const int64_t* users,
            int64_t n_users,
            const int64_t* items,
            int64_t n_items,
            void* out,
        ) noexcept nogil

    const cmf_exact* cmf_exact_kernels(int level, size_t itemsize) noexcept


cdef inline cmf_model model_of(
    const floating[:, :] user_factors,
    const floating[:, :] item_factors,
    const floating[::1] user_biases,
    const floating[::1] item_biases,
    double global_mean,
) noexcept:
    # A model without users or without items has no rows to point to.
    cdef cmf_model model
    model.user_factors = &user_factors[0, 0] if user_factors.shape[0] else NULL
    model.item_factors = &item_factors[0, 0] if item_factors.shape[0] else NULL
    model.user_biases = &user_biases[0] if user_biases.shape[0] else NULL
    model.item_biases = &item_biases[0] if item_biases.shape[0] else NULL
    model.user_stride = user_factors.strides[0] // <Py_ssize_t> sizeof(floating)
    model.item_stride = item_factors.strides[0] // <Py_ssize_t> sizeof(floating)
    model.n_factors = user_factors.shape[1]
    model.global_mean = global_mean
    return model
