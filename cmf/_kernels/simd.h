/* Which instruction-set levels there are, and the interleaved epoch, which exists once per level.
 *
 * One file per level compiles the same template: interleaved_<level>.c. The level is chosen at run
 * time by what the processor has; nothing is compiled for the machine at hand.
 */
#ifndef CMF_SIMD_H
#define CMF_SIMD_H

#include <stddef.h>
#include <stdint.h>

#include "compiler.h"

/* Rows of factors start at multiples of this many bytes and are padded with zeros to one. */
#define CMF_ROW_BYTES 64

enum { CMF_BASELINE = 0, CMF_AVX2 = 1, CMF_AVX512 = 2 };

/* Highest level that the processor, the operating system and the compiler support. */
int cmf_highest_level(void);

/* The function of a level, which must not be above cmf_highest_level(). */
#if CMF_X86
#define CMF_AT_LEVEL(level, base)                                                                  \
    ((level) == CMF_AVX512 ? base##_avx512 : (level) == CMF_AVX2 ? base##_avx2 : base##_baseline)
#else
#define CMF_AT_LEVEL(level, base) ((void)(level), base##_baseline)
#endif

/* With records every row has a rate and a regularization of its own: four numbers a row. */
enum {
    CMF_GRADIENTS,    /* sum of weighted squared gradients, at least 1; rate / sqrt(it) counts */
    CMF_NORM,         /* of items: the squared norm of the row; kept by recurrence in an epoch */
    CMF_SHRINK,       /* l of the factors */
    CMF_BIAS_SHRINK,  /* l of the bias */
    CMF_RECORD
};

/* Visits of some rows of a CSR matrix in a given order; see interleaved_template.h. */
#define CMF_DEFINE_JOB(NAME, ARRAY, NUMBER)                                                        \
    typedef struct {                                                                               \
        const int64_t *cuts;        /* row u: cuts[u * row_step] to cuts[u * row_step + 1] */      \
        int64_t row_step;                                                                          \
        const int32_t *indices;     /* (nnz,) */                                                   \
        const ARRAY *ratings;       /* (nnz,) */                                                   \
        const int64_t *row_order;   /* (n_users,) */                                               \
        ARRAY *user_factors;        /* (n_users, stride), aligned and padded */                    \
        ARRAY *item_factors;        /* (n_items, stride), aligned and padded */                    \
        ARRAY *user_biases;         /* (n_users,) */                                               \
        ARRAY *item_biases;         /* (n_items,) */                                               \
        ARRAY *item_scales;         /* (n_items,) what item rows are still to be multiplied by */  \
        ARRAY *user_records;        /* (n_users, CMF_RECORD), or null: see above */                \
        ARRAY *item_records;        /* (n_items, CMF_RECORD), or null */                           \
        int64_t n_ratings;          /* nnz */                                                      \
        int64_t first, last;        /* positions of row_order to visit */                          \
        size_t stride;              /* numbers from row to row, a multiple of CMF_ROW_BYTES */     \
        NUMBER global_mean;                                                                        \
        NUMBER user_rate, item_rate, bias_rate; /* of steps of the form e q - l p */               \
        NUMBER user_decay, item_decay;      /* 1 - rate * l; with records, the least there is */   \
        NUMBER user_bias_decay, item_bias_decay;                                                   \
        NUMBER gradient_weight;             /* of squared gradients in their sums */               \
    } NAME;

CMF_DEFINE_JOB(cmf_job, void, double) /* whose arrays are of float or of double */
CMF_DEFINE_JOB(cmf_job_f32, float, float)
CMF_DEFINE_JOB(cmf_job_f64, double, double)

/* Of each type at each level: an epoch over some rows, which returns the sum of squared errors. Then,
 * for items first to last - 1, an end of all visits: their rows are multiplied by their scales, and
 * the norms in their records are written. Then nothing but a look at the rows of users, at positions
 * first to last - 1 of row_order. These two return the sum of squares of the rows, in double. */
#define CMF_DECLARE_OF_ONE_TYPE(TYPE, LEVEL)                                                       \
    double cmf_interleaved_##TYPE##_##LEVEL(const cmf_job_##TYPE *job);                            \
    double cmf_settle_##TYPE##_##LEVEL(const cmf_job_##TYPE *job, int64_t first, int64_t last);    \
    double cmf_user_squares_##TYPE##_##LEVEL(const cmf_job_##TYPE *job, int64_t first,             \
                                             int64_t last);
#define CMF_DECLARE_INTERLEAVED(LEVEL)                                                             \
    CMF_DECLARE_OF_ONE_TYPE(f32, LEVEL)                                                            \
    CMF_DECLARE_OF_ONE_TYPE(f64, LEVEL)

CMF_DECLARE_INTERLEAVED(baseline)
CMF_DECLARE_INTERLEAVED(avx2)
CMF_DECLARE_INTERLEAVED(avx512)

/* The epoch of a level, which must not be above cmf_highest_level(). */
double cmf_interleaved_f32(int level, const cmf_job_f32 *job);
double cmf_interleaved_f64(int level, const cmf_job_f64 *job);

/* All three with the type left open: its size tells float (4) from double (8). What comes from a
 * float is the same again when it is turned back. */
double cmf_interleaved(int level, size_t itemsize, const cmf_job *job);
double cmf_settle(int level, size_t itemsize, const cmf_job *job, int64_t first, int64_t last);
double cmf_user_squares(int level, size_t itemsize, const cmf_job *job, int64_t first,
                        int64_t last);

#endif
