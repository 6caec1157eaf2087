/* The five losses, and the step that works with any of them, at each instruction-set level.
 *
 * Nothing here can fail. Every comparison is written so that NaN passes through it: a number that
 * is no longer finite shows in the sums of the losses, or stays in the factors.
 */
#ifndef CMF_GENERAL_H
#define CMF_GENERAL_H

#include <math.h>
#include <stddef.h>

#include "simd.h"

enum { CMF_SQUARED, CMF_ABSOLUTE, CMF_HUBER, CMF_LOGISTIC, CMF_POISSON, CMF_N_LOSSES };

/* Above this a Poisson mean is no longer exp(x) but its tangent. No count that a double tells from
 * its neighbors is so large (2^53 = e^36.7), and its square is still far inside a float. */
#define CMF_LARGEST_LOG_MEAN 40.0

/* Return the loss of one rating under x = mu + b + c + p.q, and its slope: the negative derivative
 * by x of half the loss (squared, Huber) or of the loss itself (the others). */
CMF_INLINE double cmf_loss(int loss, double rating, double x, double threshold, double *slope) {
    double error = rating - x;
    switch (loss) {
    case CMF_SQUARED:
        *slope = error;
        return error * error;
    case CMF_ABSOLUTE:
        *slope = (error > 0) - (error < 0);
        return fabs(error);
    case CMF_HUBER: {
        double clipped = error > threshold ? threshold : error;
        clipped = clipped < -threshold ? -threshold : clipped;
        *slope = clipped;
        return clipped * (2 * error - clipped);
    }
    case CMF_LOGISTIC: {
        /* exp of nothing positive, so that it cannot overflow */
        double small = exp(-fabs(x));
        double probability = (x < 0 ? small : 1) / (1 + small);
        *slope = rating - probability;
        return (x < 0 ? 0 : x) - rating * x + log1p(small);
    }
    case CMF_POISSON: {
        double limited = x > CMF_LARGEST_LOG_MEAN ? CMF_LARGEST_LOG_MEAN : x;
        double mean = exp(limited);
        *slope = rating - mean;
        return mean * (1 + (x - limited)) - rating * x;
    }
    default:
        *slope = NAN;
        return NAN;
    }
}

/* What descends with a rating, and how: the settings of all steps of an epoch. */
#define CMF_DEFINE_DESCENT(NAME, REAL)                                                             \
    typedef struct {                                                                               \
        REAL user_rate, item_rate;                                                                 \
        REAL gradient_weight;                                                                      \
        REAL l1_user, l1_item;                                                                     \
        int nonnegative;                                                                           \
        int together; /* the item steps from the user's old row, not from the new one */           \
    } NAME;

CMF_DEFINE_DESCENT(cmf_descent_f32, float)
CMF_DEFINE_DESCENT(cmf_descent_f64, double)

/* Of two rows of n_blocks blocks of CMF_ROW_BYTES: the inner product, and the step of one rating.
 * Records hold G, unused, l, lb. One file per level compiles both: general_<level>.c. */
#define CMF_DECLARE_GENERAL(TYPE, REAL, LEVEL)                                                     \
    REAL cmf_general_product_##TYPE##_##LEVEL(const REAL *p, const REAL *q, ptrdiff_t n_blocks);   \
    void cmf_general_descend_##TYPE##_##LEVEL(REAL *p, REAL *q, ptrdiff_t n_blocks,                \
                                              REAL *user_record, REAL *item_record, REAL slope,    \
                                              const cmf_descent_##TYPE *descent);

CMF_DECLARE_GENERAL(f32, float, baseline)
CMF_DECLARE_GENERAL(f32, float, avx2)
CMF_DECLARE_GENERAL(f32, float, avx512)
CMF_DECLARE_GENERAL(f64, double, baseline)
CMF_DECLARE_GENERAL(f64, double, avx2)
CMF_DECLARE_GENERAL(f64, double, avx512)

/* Those of a level, which must not be above cmf_highest_level(). */
#define cmf_general_product_f32(level, ...)                                                        \
    CMF_AT_LEVEL(level, cmf_general_product_f32)(__VA_ARGS__)
#define cmf_general_product_f64(level, ...)                                                        \
    CMF_AT_LEVEL(level, cmf_general_product_f64)(__VA_ARGS__)
#define cmf_general_descend_f32(level, ...)                                                        \
    CMF_AT_LEVEL(level, cmf_general_descend_f32)(__VA_ARGS__)
#define cmf_general_descend_f64(level, ...)                                                        \
    CMF_AT_LEVEL(level, cmf_general_descend_f64)(__VA_ARGS__)

/* Fetch a row that a step will want. */
CMF_INLINE void cmf_fetch_row(const void *row, ptrdiff_t n_blocks) {
    for (ptrdiff_t k = 0; k < n_blocks; k++)
        CMF_FETCH_TO_WRITE((const char *)row + k * CMF_ROW_BYTES);
}

#endif
