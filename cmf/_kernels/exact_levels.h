/* Both floating types of the exact kernels, for the level that the including file describes:
 *
 * CMF_LEVEL         its name
 * CMF_VECTOR_BYTES  size of its vectors of doubles
 * CMF_ITEMS_OF_ONE  items that are multiplied with one user at once,
 * CMF_USERS         or users that are at once multiplied
 * CMF_ITEMS         with so many items: as many products as there are registers for their sums
 * CMF_LOAD_FLOATS(p), CMF_GATHER_FLOATS(table, indices), CMF_FUSED(a, b, sum)
 *                   optionally, better ways than those below to read floats as doubles, and a fused
 *                   multiply-add
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "compiler.h"
#include "exact.h"

/* Sums are kept in so many lanes, factors are taken so many at a time. */
#define CMF_LANES 4
/* Most ratings, or products, that are worked on at once. */
#define CMF_GROUP 8
/* Pairs that are worked on at once, and what is left of the ratings of a row. */
#define CMF_FEW (CMF_ITEMS_OF_ONE < 4 ? CMF_ITEMS_OF_ONE : 4)
/* Items whose rows are multiplied with one user after the other. */
#define CMF_STRIP 32
/* How many pairs ahead rows are fetched. */
#define CMF_PAIRS_AHEAD 12

#if defined(__GNUC__)
#define CMF_PER_VECTOR (CMF_VECTOR_BYTES / 8)
typedef double cmf_vector __attribute__((vector_size(CMF_VECTOR_BYTES)));
typedef int64_t cmf_mask __attribute__((vector_size(CMF_VECTOR_BYTES)));
typedef cmf_mask cmf_loose_mask __attribute__((aligned(8), may_alias));
#else /* one number at a time, for compilers without vector types */
#define CMF_PER_VECTOR 1
typedef double cmf_vector;
#endif
#define CMF_VECTORS (CMF_LANES / CMF_PER_VECTOR)

typedef struct {
    cmf_vector part[CMF_VECTORS];
} cmf_lanes;

#if defined(__clang__)
#define CMF_SHUFFLE2(a, b, i, j) __builtin_shufflevector(a, b, i, j)
#define CMF_SHUFFLE4(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#elif defined(__GNUC__)
#define CMF_SHUFFLE2(a, b, i, j) __builtin_shuffle(a, b, (cmf_mask){i, j})
#define CMF_SHUFFLE4(a, b, i, j, k, l) __builtin_shuffle(a, b, (cmf_mask){i, j, k, l})
#endif

/* The v-th vector of four lanes, with zeros in all but the last `rest` lanes. */
CMF_INLINE cmf_vector cmf_last_lanes(cmf_vector numbers, int v, int64_t rest) {
    static const int64_t kept[2 * CMF_LANES] = {0, 0, 0, 0, -1, -1, -1, -1};
#if defined(__GNUC__)
    cmf_mask mask = *(const cmf_loose_mask *)(kept + rest + v * CMF_PER_VECTOR);
    return (cmf_vector)((cmf_mask)numbers & mask);
#else
    return kept[rest + v] ? numbers : 0;
#endif
}

/* Sum of four, as all of them are made here. */
CMF_INLINE double cmf_sum(const double *x) { return (x[0] + x[1]) + (x[2] + x[3]); }

CMF_INLINE double cmf_sum_lanes(const cmf_lanes *lanes) {
    double x[CMF_LANES];
    memcpy(x, lanes, sizeof x);
    return cmf_sum(x);
}

/* The same for CMF_PER_VECTOR times four. */
CMF_INLINE cmf_vector cmf_fold(const cmf_lanes *s) {
#if CMF_PER_VECTOR == 4
    cmf_vector a = s[0].part[0], b = s[1].part[0], c = s[2].part[0], d = s[3].part[0];
    cmf_vector ab = CMF_SHUFFLE4(a, b, 0, 4, 2, 6) + CMF_SHUFFLE4(a, b, 1, 5, 3, 7);
    cmf_vector cd = CMF_SHUFFLE4(c, d, 0, 4, 2, 6) + CMF_SHUFFLE4(c, d, 1, 5, 3, 7);
    return CMF_SHUFFLE4(ab, cd, 0, 1, 4, 5) + CMF_SHUFFLE4(ab, cd, 2, 3, 6, 7);
#elif CMF_PER_VECTOR == 2
    cmf_vector a = s[0].part[0], b = s[1].part[0], c = s[0].part[1], d = s[1].part[1];
    return (CMF_SHUFFLE2(a, b, 0, 2) + CMF_SHUFFLE2(a, b, 1, 3)) +
           (CMF_SHUFFLE2(c, d, 0, 2) + CMF_SHUFFLE2(c, d, 1, 3));
#else
    return cmf_sum(s->part);
#endif
}

CMF_INLINE cmf_vector cmf_absolute(cmf_vector x) {
#if defined(__GNUC__)
    return (cmf_vector)((cmf_mask)x & INT64_MAX);
#else
    return fabs(x);
#endif
}

#if defined(__GNUC__)
/* Numbers as they stand in rows, of any alignment. */
typedef double cmf_loose_double
    __attribute__((vector_size(CMF_VECTOR_BYTES), aligned(8), may_alias));
typedef float cmf_loose_float
    __attribute__((vector_size(CMF_VECTOR_BYTES / 2), aligned(4), may_alias));
#define CMF_LOAD_DOUBLES(p) (*(const cmf_loose_double *)(p))
#if !defined(CMF_LOAD_FLOATS)
#define CMF_LOAD_FLOATS(p) __builtin_convertvector(*(const cmf_loose_float *)(p), cmf_vector)
#endif
#if CMF_PER_VECTOR == 4
#define CMF_GATHER_DOUBLES(t, i) ((cmf_vector){(t)[(i)[0]], (t)[(i)[1]], (t)[(i)[2]], (t)[(i)[3]]})
#else
#define CMF_GATHER_DOUBLES(t, i) ((cmf_vector){(t)[(i)[0]], (t)[(i)[1]]})
#endif
#if !defined(CMF_GATHER_FLOATS)
#define CMF_GATHER_FLOATS(t, i) CMF_GATHER_DOUBLES(t, i)
#endif
#else
#define CMF_GATHER_DOUBLES(t, i) ((double)(t)[(i)[0]])
#define CMF_GATHER_FLOATS(t, i) CMF_GATHER_DOUBLES(t, i)
#define CMF_LOAD_DOUBLES(p) (*(p))
#define CMF_LOAD_FLOATS(p) ((double)*(p))
#endif

#define REAL float
#define LOAD(p) CMF_LOAD_FLOATS(p)
#define GATHER(table, indices) CMF_GATHER_FLOATS(table, indices)
#define NAME(base) CMF_NAME_OF(base, f32, CMF_LEVEL)
/* The product of two floats is exact in double: fused or not, there is one rounding. */
#if defined(CMF_FUSED)
#define MULTIPLY_ADD(a, b, sum) CMF_FUSED(a, b, sum)
#else
#define MULTIPLY_ADD(a, b, sum) ((sum) + (a) * (b))
#endif
#include "exact_template.h"
#undef REAL
#undef NAME
#undef LOAD
#undef GATHER
#undef MULTIPLY_ADD

#define REAL double
#define LOAD(p) CMF_LOAD_DOUBLES(p)
#define GATHER(table, indices) CMF_GATHER_DOUBLES(table, indices)
#define NAME(base) CMF_NAME_OF(base, f64, CMF_LEVEL)
/* Two roundings at every level: setup.py keeps compilers from fusing them. */
#define MULTIPLY_ADD(a, b, sum) ((sum) + (a) * (b))
#include "exact_template.h"
#undef REAL
#undef NAME
#undef LOAD
#undef GATHER
#undef MULTIPLY_ADD
