/* The choice of an interleaved epoch at run time, by level and type. */
#include "simd.h"

#define CMF_DEFINE_CHOICE(TYPE, REAL)                                                              \
    double cmf_interleaved_##TYPE(int level, const cmf_job_##TYPE *job) {                          \
        return CMF_AT_LEVEL(level, cmf_interleaved_##TYPE)(job);                                   \
    }                                                                                              \
    static double given_##TYPE(int level, const cmf_job *given) {                                  \
        const cmf_job_##TYPE job = {                                                               \
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
        return cmf_interleaved_##TYPE(level, &job);                                                \
    }

CMF_DEFINE_CHOICE(f32, float)
CMF_DEFINE_CHOICE(f64, double)

double cmf_interleaved(int level, size_t itemsize, const cmf_job *job) {
    return itemsize == sizeof(float) ? given_f32(level, job) : given_f64(level, job);
}
