/* The five losses, and the step that works with any of them.
 *
 * Nothing here can fail. Every comparison is written so that NaN passes through it: a number that
 * is no longer finite shows in the sums of the losses, or stays in the factors.
 */
#ifndef CMF_GENERAL_H
#define CMF_GENERAL_H

#include <math.h>

#include "point.h"

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

/* Factors whose changes are kept until their squares are summed. */
#define CMF_AT_ONCE 256

/* NAME(row, other, n, record, slope, ...): the step of one rating on one of its two rows, whose
 * record holds G, unused, l, lb.
 *
 * Loops over numbers and sums of squares are apart, as a compiler can vectorize them. */
#define CMF_DEFINE_DESCEND(NAME, REAL, DOT)                                                        \
    /* Shrink numbers toward 0 by threshold, then raise them to lowest. */                         \
    CMF_INLINE void NAME##_proximal(REAL *CMF_RESTRICT row, ptrdiff_t n, REAL threshold,           \
                                    REAL lowest) {                                                 \
        for (ptrdiff_t f = 0; f < n; f++) {                                                        \
            REAL removed = row[f] > threshold ? threshold : row[f];                                \
            removed = removed < -threshold ? -threshold : removed;                                 \
            REAL left = row[f] - removed;                                                          \
            row[f] = left < lowest ? lowest : left;                                                \
        }                                                                                          \
    }                                                                                              \
    CMF_INLINE void NAME(REAL *CMF_RESTRICT row, const REAL *CMF_RESTRICT other, ptrdiff_t n,      \
                         REAL *CMF_RESTRICT record, REAL slope, REAL rate, REAL gradient_weight,   \
                         REAL l1, int nonnegative) {                                               \
        const REAL own_rate = rate / (REAL)sqrt((double)record[0]), l = record[2];                 \
        REAL down[CMF_AT_ONCE], squares = 0;                                                       \
        for (ptrdiff_t start = 0; start < n; start += CMF_AT_ONCE) {                               \
            const ptrdiff_t width = n - start < CMF_AT_ONCE ? n - start : CMF_AT_ONCE;             \
            for (ptrdiff_t f = 0; f < width; f++) {                                                \
                down[f] = slope * other[start + f] - l * row[start + f];                           \
                row[start + f] += own_rate * down[f];                                              \
            }                                                                                      \
            if (gradient_weight > 0) squares += DOT(down, down, width);                            \
        }                                                                                          \
        if (gradient_weight > 0) record[0] += gradient_weight * squares;                           \
        if (l1 > 0 || nonnegative)                                                                 \
            NAME##_proximal(row, n, own_rate * l1, nonnegative ? 0 : -(REAL)INFINITY);             \
    }

CMF_DEFINE_DESCEND(cmf_descend_f32, float, cmf_dot_f32)
CMF_DEFINE_DESCEND(cmf_descend_f64, double, cmf_dot_f64)

#endif
