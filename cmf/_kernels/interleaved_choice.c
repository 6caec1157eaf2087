/* The choice of an interleaved epoch, and of what ends it, at run time, by level and type. */
#include "simd.h"

#define CMF_DEFINE_CHOICE(TYPE, REAL)                                                              \
    double cmf_interleaved_##TYPE(int level, const cmf_job_##TYPE *job) {                          \
        return CMF_AT_LEVEL(level, cmf_interleaved_##TYPE)(job);                                   \
    }                                                                                              \
    static cmf_job_##TYPE given_##TYPE(const cmf_job *given) {                                     \
        return (cmf_job_##TYPE){                                                                   \
            .cuts = given->cuts,                                                                   \
            .row_step = given->row_step,                                                           \
            .indices = given->indices,                                                             \
            .ratings = given->ratings,                                                             \
            .row_order = given->row_order,                                                         \
            .user_factors = given->user_factors,                                                   \
            .item_factors = given->item_factors,                                                   \
            .user_biases = given->user_biases,                                                     \
            .item_biases = given->item_biases,                                                     \
            .item_scales = given->item_scales,                                                     \
            .user_records = given->user_records,                                                   \
            .item_records = given->item_records,                                                   \
            .n_ratings = given->n_ratings,                                                         \
            .first = given->first,                                                                 \
            .last = given->last,                                                                   \
            .stride = given->stride,                                                               \
            .global_mean = (REAL)given->global_mean,                                               \
            .user_rate = (REAL)given->user_rate,                                                   \
            .item_rate = (REAL)given->item_rate,                                                   \
            .bias_rate = (REAL)given->bias_rate,                                                   \
            .user_decay = (REAL)given->user_decay,                                                 \
            .item_decay = (REAL)given->item_decay,                                                 \
            .user_bias_decay = (REAL)given->user_bias_decay,                                       \
            .item_bias_decay = (REAL)given->item_bias_decay,                                       \
            .gradient_weight = (REAL)given->gradient_weight,                                       \
        };                                                                                         \
    }                                                                                              \
    static double interleaved_##TYPE(int level, const cmf_job *given) {                            \
        const cmf_job_##TYPE job = given_##TYPE(given);                                            \
        return cmf_interleaved_##TYPE(level, &job);                                                \
    }                                                                                              \
    static double settle_##TYPE(int level, const cmf_job *given, int64_t first, int64_t last) {    \
        const cmf_job_##TYPE job = given_##TYPE(given);                                            \
        return CMF_AT_LEVEL(level, cmf_settle_##TYPE)(&job, first, last);                          \
    }                                                                                              \
    static double user_squares_##TYPE(int level, const cmf_job *given, int64_t first,              \
                                      int64_t last) {                                              \
        const cmf_job_##TYPE job = given_##TYPE(given);                                            \
        return CMF_AT_LEVEL(level, cmf_user_squares_##TYPE)(&job, first, last);                    \
    }

CMF_DEFINE_CHOICE(f32, float)
CMF_DEFINE_CHOICE(f64, double)

double cmf_interleaved(int level, size_t itemsize, const cmf_job *job) {
    return itemsize == sizeof(float) ? interleaved_f32(level, job) : interleaved_f64(level, job);
}

double cmf_settle(int level, size_t itemsize, const cmf_job *job, int64_t first, int64_t last) {
    return itemsize == sizeof(float) ? settle_f32(level, job, first, last)
                                     : settle_f64(level, job, first, last);
}

double cmf_user_squares(int level, size_t itemsize, const cmf_job *job, int64_t first,
                        int64_t last) {
    return itemsize == sizeof(float) ? user_squares_f32(level, job, first, last)
                                     : user_squares_f64(level, job, first, last);
}
