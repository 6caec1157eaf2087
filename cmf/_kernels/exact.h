/* Exact arithmetic, in double whatever the type of the factors: losses, predictions, scores.
 *
 * One file per instruction-set level compiles exact_template.h: exact_<level>.c. Unlike in
 * training, the order of every sum is fixed, so that all levels, and all ways to ask for a number,
 * give the same bits.
 */
#ifndef CMF_EXACT_H
#define CMF_EXACT_H

#include <stddef.h>
#include <stdint.h>

/* A model; all of its arrays have the type of the kernels that it is handed to. */
typedef struct {
    const void *user_factors;   /* (n_users, n_factors), a row at every user_stride numbers */
    const void *item_factors;   /* (n_items, n_factors), a row at every item_stride numbers */
    const void *user_biases;    /* (n_users,) */
    const void *item_biases;    /* (n_items,) */
    int64_t user_stride, item_stride;
    int64_t n_factors;
    double global_mean;
} cmf_model;

/* Rows first <= u < last of a CSR matrix of ratings. */
typedef struct {
    const int64_t *indptr;
    const int32_t *narrow;      /* column indices, if they are so narrow, */
    const int64_t *wide;        /* else here */
    const void *ratings;
    int64_t first, last;
} cmf_ratings;

/* Rows of numbers, one at every `stride` of them. */
typedef struct {
    const void *first;
    int64_t n_rows, n_columns, stride;
} cmf_numbers;

/* The kernels of one level for one floating type; their comments are in exact_template.h. */
typedef struct {
    void (*sum_errors)(const cmf_model *model, const cmf_ratings *ratings, double *sums);
    double (*sum_squares)(const cmf_numbers *numbers);
    void (*predict_pairs)(const cmf_model *model, const int64_t *users, const int64_t *items,
                          int64_t n, void *out);
    void (*predict_block)(const cmf_model *model, const int64_t *users, int64_t n_users,
                          const int64_t *items, int64_t n_items, void *out);
} cmf_exact;

/* The kernels of a level of simd.h that the processor has, for float (4) or double (8) factors. */
const cmf_exact *cmf_exact_kernels(int level, size_t itemsize);

#endif
