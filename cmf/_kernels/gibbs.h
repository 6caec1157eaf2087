/* Blocked Gibbs sampling for matrix factorization: the kernels and the choice of their level.
 *
 * One file per instruction-set level compiles the same template: gibbs_<level>.c.
 */
#ifndef CMF_GIBBS_H
#define CMF_GIBBS_H

#include <stdint.h>

#include "simd.h"

/* Numbers in a row at most, bias included, that are drawn; that products are taken of; and of a
 * feature that are drawn at once. */
#define CMF_GIBBS_MAX_WIDTH 65
#define CMF_GIBBS_MAX_COLUMNS 256
#define CMF_GIBBS_MAX_STRIP 32

/* Rows of one side to be drawn, given those of the other; see gibbs_template.h. */
typedef struct {
    const int64_t *indptr;    /* (n_rows + 1,) */
    const int32_t *indices;   /* (nnz,) */
    const float *ratings;     /* (nnz,) */
    const float *others;      /* (n_others, width) */
    const float *prior_means; /* (n_rows, width), or one row if prior_step is 0 */
    int64_t prior_step;       /* numbers from row to row */
    const double *precision;  /* (width, width) of the prior */
    const float *normals;     /* (last - first, width) */
    float *rows;              /* (n_rows, width) */
    float *means;             /* (n_rows, width) */
    int64_t first, last;      /* rows to draw */
    int n_factors, width;     /* width is n_factors, or one more if there are biases */
    double noise_precision;
} cmf_gibbs_job;

#define CMF_GIBBS_ROWS(NAME) int64_t NAME(const cmf_gibbs_job *job)
#define CMF_GIBBS_ERRORS(NAME) double NAME(const cmf_gibbs_job *job)
#define CMF_GIBBS_PAIRS(NAME)                                                                      \
    void NAME(const int32_t *users, const int32_t *items, const float *user_rows,                  \
              const float *item_rows, double *means, double *squares, int64_t n_pairs,             \
              int64_t width, int64_t n_factors, double number)
#define CMF_GIBBS_FEATURES(NAME)                                                                   \
    void NAME(const int64_t *indptr, const int32_t *indices, const float *weights,                 \
              const float *noise, float *features, float *residuals, int64_t first, int64_t last,  \
              int64_t width, int64_t column, int64_t n_columns, double strength)
#define CMF_GIBBS_PRODUCTS(NAME)                                                                   \
    void NAME(const float *rows, int64_t n_rows, int64_t n_columns, double *products)
#define CMF_GIBBS_MULTIPLY(NAME)                                                                   \
    void NAME(const float *rows, const float *matrix, float *out, int64_t n_rows,                  \
              int64_t n_columns, int64_t n_out)

#define CMF_DECLARE_GIBBS(LEVEL)                                                                   \
    CMF_GIBBS_ROWS(cmf_gibbs_rows_##LEVEL);                                                        \
    CMF_GIBBS_ERRORS(cmf_gibbs_errors_##LEVEL);                                                    \
    CMF_GIBBS_PAIRS(cmf_gibbs_pairs_##LEVEL);                                                      \
    CMF_GIBBS_FEATURES(cmf_gibbs_features_##LEVEL);                                                \
    CMF_GIBBS_PRODUCTS(cmf_gibbs_products_##LEVEL);                                                \
    CMF_GIBBS_MULTIPLY(cmf_gibbs_multiply_##LEVEL);

CMF_DECLARE_GIBBS(baseline)
CMF_DECLARE_GIBBS(avx2)
CMF_DECLARE_GIBBS(avx512)

/* The kernel of a level, which must not be above cmf_highest_level(). */
#define cmf_gibbs_rows(level, job) CMF_AT_LEVEL(level, cmf_gibbs_rows)(job)
#define cmf_gibbs_errors(level, job) CMF_AT_LEVEL(level, cmf_gibbs_errors)(job)
#define cmf_gibbs_pairs(level, ...) CMF_AT_LEVEL(level, cmf_gibbs_pairs)(__VA_ARGS__)
#define cmf_gibbs_features(level, ...) CMF_AT_LEVEL(level, cmf_gibbs_features)(__VA_ARGS__)
#define cmf_gibbs_products(level, ...) CMF_AT_LEVEL(level, cmf_gibbs_products)(__VA_ARGS__)
#define cmf_gibbs_multiply(level, ...) CMF_AT_LEVEL(level, cmf_gibbs_multiply)(__VA_ARGS__)

#endif
