/* Which instruction-set levels there are, and the kernels that exist once per level.
 *
 * One file per level compiles the same template: interleaved_<level>.c. The level is chosen at run
 * time by what the processor has; nothing is compiled for the machine at hand.
 */
#ifndef CMF_SIMD_H
#define CMF_SIMD_H

#include <stddef.h>
#include <stdint.h>

/* Rows of factors start at multiples of this many bytes and are padded with zeros to one. */
#define CMF_ROW_BYTES 64

enum { CMF_BASELINE = 0, CMF_AVX2 = 1, CMF_AVX512 = 2, CMF_N_LEVELS = 3 };

/* Highest level that the processor, the operating system and the compiler support. */
int cmf_highest_level(void);

/* With records every row has a rate and a regularization of its own: four numbers a row. */
enum {
    CMF_GRADIENTS,    /* sum of weighted squared gradients, at least 1; rate / sqrt(it) counts */
    CMF_NORM,         /* of items: the squared norm of the row; kept by recurrence in an epoch */
    CMF_SHRINK,       /* l of the factors */
    CMF_BIAS_SHRINK,  /* l of the bias */
    CMF_RECORD
};

/* Visits of some rows of a CSR matrix in a given order; see interleaved_template.h. */
#define CMF_DEFINE_JOB(NAME, REAL)                                                                 \
    typedef struct {                                                                               \
        const int64_t *cuts;        /* row u: cuts[u * row_step] to cuts[u * row_step + 1] */      \
        int64_t row_step;                                                                          \
        const int32_t *indices;     /* (nnz,) */                                                   \
        const REAL *ratings;        /* (nnz,) */                                                   \
        const int64_t *row_order;   /* (n_users,) */                                               \
        REAL *user_factors;         /* (n_users, stride), aligned and padded */                    \
        REAL *item_factors;         /* (n_items, stride), aligned and padded */                    \
        REAL *user_biases;          /* (n_users,) */                                               \
        REAL *item_biases;          /* (n_items,) */                                               \
        REAL *item_scales;          /* (n_items,) what item rows are still to be multiplied by */  \
        REAL *user_records;         /* (n_users, CMF_RECORD), or null: see below */                \
        REAL *item_records;         /* (n_items, CMF_RECORD), or null */                           \
        int64_t n_ratings;          /* nnz */                                                      \
        int64_t first, last;        /* positions of row_order to visit */                          \
        size_t stride;              /* numbers from row to row, a multiple of CMF_ROW_BYTES */     \
        REAL global_mean;                                                                          \
        REAL user_rate, item_rate, bias_rate; /* of steps of the form e q - l p */                 \
        REAL user_decay, item_decay;          /* 1 - rate * l; with records, the least there is */ \
        REAL user_bias_decay, item_bias_decay;                                                     \
        REAL gradient_weight;                 /* of squared gradients in their sums */             \
    } NAME;

CMF_DEFINE_JOB(cmf_job_f32, float)
CMF_DEFINE_JOB(cmf_job_f64, double)

#define CMF_DECLARE_LEVEL(LEVEL)                                                                   \
    double cmf_interleaved_f32_##LEVEL(const cmf_job_f32 *job);                                    \
    double cmf_interleaved_f64_##LEVEL(const cmf_job_f64 *job);

CMF_DECLARE_LEVEL(baseline)
CMF_DECLARE_LEVEL(avx2)
CMF_DECLARE_LEVEL(avx512)

/* The kernel of a level, which must not be above cmf_highest_level(). */
double cmf_interleaved_f32(int level, const cmf_job_f32 *job);
double cmf_interleaved_f64(int level, const cmf_job_f64 *job);

#endif
