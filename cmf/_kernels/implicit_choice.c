/* The choice of kernels with implicit features at run time, by level and type. */
#include "implicit.h"

#define CMF_DEFINE_CHOICE(TYPE, REAL)                                                              \
    static cmf_implicit_##TYPE job_##TYPE(const cmf_implicit *given) {                             \
        return (cmf_implicit_##TYPE){                                                              \
            .indptr = given->indptr,                                                               \
            .indices = given->indices,                                                             \
            .ratings = given->ratings,                                                             \
            .row_order = given->row_order,                                                         \
            .weights = given->weights,                                                             \
            .user_factors = given->user_factors,                                                   \
            .item_factors = given->item_factors,                                                   \
            .implicit_factors = given->implicit_factors,                                           \
            .user_biases = given->user_biases,                                                     \
            .item_biases = given->item_biases,                                                     \
            .user_records = given->user_records,                                                   \
            .item_records = given->item_records,                                                   \
            .sums = given->sums,                                                                   \
            .n_ratings = given->n_ratings,                                                         \
            .first = given->first,                                                                 \
            .last = given->last,                                                                   \
            .stride = given->stride,                                                               \
            .global_mean = (REAL)given->global_mean,                                               \
            .user_rate = (REAL)given->user_rate,                                                   \
            .item_rate = (REAL)given->item_rate,                                                   \
            .bias_rate = (REAL)given->bias_rate,                                                   \
            .implicit_rate = (REAL)given->implicit_rate,                                           \
            .implicit_shrink = (REAL)given->implicit_shrink,                                       \
            .gradient_weight = (REAL)given->gradient_weight,                                       \
        };                                                                                         \
    }                                                                                              \
    static double epoch_##TYPE(int level, const cmf_implicit *given) {                             \
        const cmf_implicit_##TYPE job = job_##TYPE(given);                                         \
        return CMF_AT_LEVEL(level, cmf_implicit_epoch_##TYPE)(&job);                               \
    }                                                                                              \
    static void sums_##TYPE(int level, const cmf_implicit *given) {                                \
        const cmf_implicit_##TYPE job = job_##TYPE(given);                                         \
        CMF_AT_LEVEL(level, cmf_implicit_sums_##TYPE)(&job);                                       \
    }

CMF_DEFINE_CHOICE(f32, float)
CMF_DEFINE_CHOICE(f64, double)

double cmf_implicit_epoch(int level, size_t itemsize, const cmf_implicit *job) {
    return itemsize == sizeof(float) ? epoch_f32(level, job) : epoch_f64(level, job);
}

void cmf_implicit_sums(int level, size_t itemsize, const cmf_implicit *job) {
    if (itemsize == sizeof(float))
        sums_f32(level, job);
    else
        sums_f64(level, job);
}
