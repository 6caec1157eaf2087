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

#define CMF_DEFINE_IMPLICIT(NAME, ARRAY, NUMBER)                                                   \
    typedef struct {                                                                               \
        const int64_t *indptr;      /* (n_users + 1,) */                                           \
        const int32_t *indices;     /* (nnz,) */                                                   \
        const ARRAY *ratings;       /* (nnz,) */                                                   \
        const int64_t *row_order;   /* (n_users,) */                                               \
        const ARRAY *weights;       /* (n_users,) v of the sums */                                 \
        ARRAY *user_factors;        /* (n_users, stride), aligned and padded, as all rows are */   \
        ARRAY *item_factors;        /* (n_items, stride) */                                        \
        ARRAY *implicit_factors;    /* (n_items, stride) */                                        \
        ARRAY *user_biases;         /* (n_users,) */                                               \
        ARRAY *item_biases;         /* (n_items,) */                                               \
        ARRAY *user_records;        /* (n_users, CMF_RECORD) */                                    \
        ARRAY *item_records;        /* (n_items, CMF_RECORD); norms are neither read nor kept */   \
        ARRAY *sums;                /* (2 * CMF_IMPLICIT_STREAMS, stride) scratch, or the sums */  \
        int64_t n_ratings;          /* nnz */                                                      \
        int64_t first, last;        /* positions of row_order to visit */                          \
        size_t stride;              /* numbers from row to row, a multiple of CMF_ROW_BYTES */     \
        NUMBER global_mean;                                                                        \
        NUMBER user_rate, item_rate, bias_rate; /* of steps of the form e q - l p */               \
        NUMBER implicit_rate;       /* of sums, in rates of their users */                         \
        NUMBER implicit_shrink;     /* l of the sums */                                            \
        NUMBER gradient_weight;     /* of squared gradients in the records' sums */                \
    } NAME;

CMF_DEFINE_IMPLICIT(cmf_implicit, void, double) /* whose arrays are of float or of double */
CMF_DEFINE_IMPLICIT(cmf_implicit_f32, float, float)
CMF_DEFINE_IMPLICIT(cmf_implicit_f64, double, double)

/* The kernels of one level for one floating type; their comments are in implicit_template.h. */
#define CMF_DECLARE_IMPLICIT(LEVEL)                                                                \
    double cmf_implicit_epoch_f32_##LEVEL(const cmf_implicit_f32 *job);                            \
    double cmf_implicit_epoch_f64_##LEVEL(const cmf_implicit_f64 *job);                            \
    int cmf_implicit_sums_f32_##LEVEL(const cmf_implicit_f32 *job);                                \
    int cmf_implicit_sums_f64_##LEVEL(const cmf_implicit_f64 *job);

CMF_DECLARE_IMPLICIT(baseline)
CMF_DECLARE_IMPLICIT(avx2)
CMF_DECLARE_IMPLICIT(avx512)

/* The kernels of a level, which must not be above cmf_highest_level(); the size of a number tells
 * float (4) from double (8). What comes from a float is the same again when it is turned back. */
double cmf_implicit_epoch(int level, size_t itemsize, const cmf_implicit *job);
void cmf_implicit_sums(int level, size_t itemsize, const cmf_implicit *job);

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

#define JOB CMF_NAME(cmf_implicit_, TYPE)
#define CMF_OF_ONE_TYPE "implicit_template.h"
#include "both_types.h"
#endif

#endif
