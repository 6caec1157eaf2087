/* Training with implicit features: what a kernel is told, and the kernels, one per level.
 *
 * One file per level compiles the same template: implicit_<level>.c. They define CMF_LEVEL and
 * CMF_VECTOR_BYTES, and get both floating types.
 */
#ifndef CMF_IMPLICIT_H
#define CMF_IMPLICIT_H

#include "simd.h"

/* So many rows are visited in turns at most; each takes two rows of scratch. */
#define CMF_IMPLICIT_STREAMS 3

#define CMF_DEFINE_IMPLICIT(JOB, REAL)                                                             \
    typedef struct {                                                                               \
        const int64_t *indptr;      /* (n_users + 1,) */                                           \
        const int32_t *indices;     /* (nnz,) */                                                   \
        const REAL *ratings;        /* (nnz,) */                                                   \
        const int64_t *row_order;   /* (n_users,) */                                               \
        const REAL *weights;        /* (n_users,) v of the sums */                                 \
        REAL *user_factors;         /* (n_users, stride), aligned and padded, as all rows are */   \
        REAL *item_factors;         /* (n_items, stride) */                                        \
        REAL *implicit_factors;     /* (n_items, stride) */                                        \
        REAL *user_biases;          /* (n_users,) */                                               \
        REAL *item_biases;          /* (n_items,) */                                               \
        REAL *user_records;         /* (n_users, CMF_RECORD) */                                    \
        REAL *item_records;         /* (n_items, CMF_RECORD); norms are neither read nor kept */   \
        REAL *sums;                 /* (2 * CMF_IMPLICIT_STREAMS, stride) scratch, or the sums */  \
        int64_t n_ratings;          /* nnz */                                                      \
        int64_t first, last;        /* positions of row_order to visit */                          \
        size_t stride;              /* numbers from row to row, a multiple of CMF_ROW_BYTES */     \
        REAL global_mean;                                                                          \
        REAL user_rate, item_rate, bias_rate; /* of steps of the form e q - l p */                 \
        REAL implicit_rate;         /* of sums, in rates of their users */                         \
        REAL implicit_shrink;       /* l of the sums */                                            \
        REAL gradient_weight;       /* of squared gradients in the records' sums */                \
    } JOB;

CMF_DEFINE_IMPLICIT(cmf_implicit_f32, float)
CMF_DEFINE_IMPLICIT(cmf_implicit_f64, double)

/* The kernels of one level for one floating type; their comments are in implicit_template.h. */
#define CMF_DECLARE_IMPLICIT(LEVEL)                                                                \
    double cmf_implicit_epoch_f32_##LEVEL(const cmf_implicit_f32 *job);                            \
    double cmf_implicit_epoch_f64_##LEVEL(const cmf_implicit_f64 *job);                            \
    int cmf_implicit_sums_f32_##LEVEL(const cmf_implicit_f32 *job);                                \
    int cmf_implicit_sums_f64_##LEVEL(const cmf_implicit_f64 *job);

CMF_DECLARE_IMPLICIT(baseline)
CMF_DECLARE_IMPLICIT(avx2)
CMF_DECLARE_IMPLICIT(avx512)

/* The choice of a level, which must not be above cmf_highest_level(). */
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#define CMF_AT_LEVEL(level, kernel, job)                                                           \
    ((level) == CMF_AVX512 ? kernel##_avx512(job)                                                  \
     : (level) == CMF_AVX2 ? kernel##_avx2(job)                                                    \
                           : kernel##_baseline(job))
#else
#define CMF_AT_LEVEL(level, kernel, job) ((void)(level), kernel##_baseline(job))
#endif

static inline double cmf_implicit_epoch_f32(int level, const cmf_implicit_f32 *job) {
    return CMF_AT_LEVEL(level, cmf_implicit_epoch_f32, job);
}

static inline double cmf_implicit_epoch_f64(int level, const cmf_implicit_f64 *job) {
    return CMF_AT_LEVEL(level, cmf_implicit_epoch_f64, job);
}

static inline int cmf_implicit_sums_f32(int level, const cmf_implicit_f32 *job) {
    return CMF_AT_LEVEL(level, cmf_implicit_sums_f32, job);
}

static inline int cmf_implicit_sums_f64(int level, const cmf_implicit_f64 *job) {
    return CMF_AT_LEVEL(level, cmf_implicit_sums_f64, job);
}

#if defined(CMF_LEVEL)
#include "vectors.h"

/* The settings below were found by measurement. */

/* How many of a stream's own visits ahead an item's row is fetched. */
#ifndef CMF_STEPS_AHEAD
#define CMF_STEPS_AHEAD 2
#endif
/* How many ratings ahead rows of implicit factors are fetched for a sum. */
#ifndef CMF_SUMS_AHEAD
#define CMF_SUMS_AHEAD 8
#endif
/* How many rows of row_order ahead a user's row is fetched, and twice as many its indptr. */
#ifndef CMF_ROWS_AHEAD
#define CMF_ROWS_AHEAD 2
#endif

#define NAME(base) CMF_OF_LEVEL(base, TYPE, CMF_LEVEL)

#define REAL float
#define TYPE f32
#define JOB cmf_implicit_f32
#include "implicit_template.h"
#undef REAL
#undef TYPE
#undef JOB

#define REAL double
#define TYPE f64
#define JOB cmf_implicit_f64
#include "implicit_template.h"
#endif

#endif
