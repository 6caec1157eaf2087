/* Vectors of 16 bytes, where there are vector types; longer ones are in vectors_template.h. */
#ifndef CMF_VECTORS_H
#define CMF_VECTORS_H

#include <math.h>
#include <stdint.h>
#if defined(__GNUC__) && defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "compiler.h"

/* The lesser and the greater of two numbers, lane by lane; NaN of the first one stays. */
#if defined(__GNUC__)
#define CMF_CHOOSE(condition, a, b)                                                                \
    ((__typeof__(a))(((condition) & (__typeof__(condition))(a)) |                                  \
                     (~(condition) & (__typeof__(condition))(b))))
#else
#define CMF_CHOOSE(condition, a, b) ((condition) ? (a) : (b))
#endif
#define CMF_AT_MOST(x, most) CMF_CHOOSE((x) > (most), most, x)
#define CMF_AT_LEAST(x, least) CMF_CHOOSE((x) < (least), least, x)

/* Sums of neighbors: first those of a, then those of b. */
#if defined(__GNUC__)
typedef float cmf_short_f32 __attribute__((vector_size(16), may_alias));
typedef double cmf_short_f64 __attribute__((vector_size(16), may_alias));
#if defined(__clang__)
#define CMF_SHUFFLE(mask, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t cmf_lanes_f32 __attribute__((vector_size(16)));
typedef int64_t cmf_lanes_f64 __attribute__((vector_size(16)));
#define CMF_SHUFFLE(mask, a, b, ...) __builtin_shuffle(a, b, (mask){__VA_ARGS__})
#endif
CMF_INLINE cmf_short_f32 cmf_add_neighbors_f32(cmf_short_f32 a, cmf_short_f32 b) {
    return CMF_SHUFFLE(cmf_lanes_f32, a, b, 0, 2, 4, 6) +
           CMF_SHUFFLE(cmf_lanes_f32, a, b, 1, 3, 5, 7);
}
CMF_INLINE cmf_short_f64 cmf_add_neighbors_f64(cmf_short_f64 a, cmf_short_f64 b) {
    return CMF_SHUFFLE(cmf_lanes_f64, a, b, 0, 2) + CMF_SHUFFLE(cmf_lanes_f64, a, b, 1, 3);
}

/* The sum of the lanes in all of them. */
CMF_INLINE cmf_short_f32 cmf_sum_each_f32(cmf_short_f32 a) {
    a += CMF_SHUFFLE(cmf_lanes_f32, a, a, 2, 3, 0, 1);
    return a + CMF_SHUFFLE(cmf_lanes_f32, a, a, 1, 0, 3, 2);
}
CMF_INLINE cmf_short_f64 cmf_sum_each_f64(cmf_short_f64 a) {
    return a + CMF_SHUFFLE(cmf_lanes_f64, a, a, 1, 0);
}

/* Two numbers, and another one in lanes behind them. */
CMF_INLINE cmf_short_f32 cmf_pair_f32(float a, float b, float rest) {
    return (cmf_short_f32){a, b, rest, rest};
}
CMF_INLINE cmf_short_f64 cmf_pair_f64(double a, double b, double rest) {
    (void)rest;
    return (cmf_short_f64){a, b};
}

/* Two numbers the other way round. */
CMF_INLINE cmf_short_f32 cmf_swapped_f32(cmf_short_f32 a) {
    return CMF_SHUFFLE(cmf_lanes_f32, a, a, 1, 0, 3, 2);
}
CMF_INLINE cmf_short_f64 cmf_swapped_f64(cmf_short_f64 a) {
    return CMF_SHUFFLE(cmf_lanes_f64, a, a, 1, 0);
}

/* Numbers without their signs. */
CMF_INLINE cmf_short_f32 cmf_sizes_f32(cmf_short_f32 a) {
    typedef int32_t bits __attribute__((vector_size(16)));
    return (cmf_short_f32)((bits)a & INT32_MAX);
}
CMF_INLINE cmf_short_f64 cmf_sizes_f64(cmf_short_f64 a) {
    typedef int64_t bits __attribute__((vector_size(16)));
    return (cmf_short_f64)((bits)a & INT64_MAX);
}

/* Square roots, all lanes in the time of one. */
CMF_INLINE cmf_short_f32 cmf_roots_f32(cmf_short_f32 x) {
#if defined(__SSE2__)
    return (cmf_short_f32)_mm_sqrt_ps((__m128)x);
#else
    return (cmf_short_f32){sqrtf(x[0]), sqrtf(x[1]), sqrtf(x[2]), sqrtf(x[3])};
#endif
}
CMF_INLINE cmf_short_f64 cmf_roots_f64(cmf_short_f64 x) {
#if defined(__SSE2__)
    return (cmf_short_f64)_mm_sqrt_pd((__m128d)x);
#else
    return (cmf_short_f64){sqrt(x[0]), sqrt(x[1])};
#endif
}
#endif

#endif
