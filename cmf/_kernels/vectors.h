/* Vectors of 16 bytes, where there are vector types; longer ones are in vectors_template.h. */
#ifndef CMF_VECTORS_H
#define CMF_VECTORS_H

#include <math.h>
#include <stdint.h>
#if defined(__GNUC__) && defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "compiler.h"

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

/* Two numbers; lanes behind them hold the same again or ones, so that nothing is divided by
 * nothing. Which it is moves a compiler's choices in all of a step: change it by measurement. */
CMF_INLINE cmf_short_f32 cmf_pair_f32(float a, float b) { return (cmf_short_f32){a, b, a, b}; }
CMF_INLINE cmf_short_f64 cmf_pair_f64(double a, double b) { return (cmf_short_f64){a, b}; }
CMF_INLINE cmf_short_f32 cmf_pair_and_ones_f32(float a, float b) {
    return (cmf_short_f32){a, b, 1, 1};
}
CMF_INLINE cmf_short_f64 cmf_pair_and_ones_f64(double a, double b) { return cmf_pair_f64(a, b); }

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
