/* Blocked Gibbs sampling for matrix factorization, at one instruction-set level.
 *
 * A row w of one side holds its factors and then, if there are biases, its bias; the other side's
 * rows likewise. With x = (q, 1) for a row (q, c) of the other side, a rating r of w is taken as
 * drawn from N(w.x + c, 1 / a), and w from N(m, L^-1). Given its ratings, w is normal with
 *     precision A = L + a sum x x'   and mean   A^-1 h,   h = L m + a sum (r - c) x.
 * With the upper factor A = U'U and z standard normal, U^-1 U^-T h + U^-1 z is a draw. The rows of
 * one side are independent given the other side (R. Salakhutdinov, A. Mnih, "Bayesian
 * probabilistic matrix factorization using Markov chain Monte Carlo", ICML 2008).
 *
 * Sums over ratings are taken in float for a block of them that fits the first-level cache, in
 * tiles that fit the registers, and added up in double; systems are solved in double. The sums for
 * the bias's row of A need no products, x being 1 there.
 *
 * The including file defines CMF_LEVEL and CMF_VECTOR_BYTES. Assumed, and made sure of by
 * cmf._checks and cmf.posterior: indices are in range, first <= last, sizes are within the limits.
 */
#include <math.h>
#include <string.h>

#include "compiler.h"
#include "gibbs.h"

#define NAME(base) CMF_NAME(base, CMF_LEVEL)

#if defined(__GNUC__)
/* may_alias: rows are arrays of float, and are read and written as vectors of them. */
typedef float VECTOR __attribute__((vector_size(CMF_VECTOR_BYTES), may_alias));
typedef float LOOSE __attribute__((vector_size(CMF_VECTOR_BYTES), aligned(4), may_alias));
typedef double WIDE __attribute__((vector_size(CMF_VECTOR_BYTES), aligned(8), may_alias));
#define LANES (CMF_VECTOR_BYTES / 4)
#define WIDE_LANES (CMF_VECTOR_BYTES / 8)
#define ALIGNED __attribute__((aligned(64)))
#else /* one number at a time, for compilers without vector types */
typedef float VECTOR;
typedef float LOOSE;
typedef double WIDE;
#define LANES 1
#define WIDE_LANES 1
#define ALIGNED
#endif

/* Rows are padded to a multiple of so many numbers in a block. A tile's sums fill the registers. */
#define PADDING 16
#if defined(CMF_VECTOR_BYTES) && CMF_VECTOR_BYTES == 64
#define TILE_ROWS 16
#define TILE_VECTORS 1
#else
#define TILE_ROWS 4
#define TILE_VECTORS 2
#endif
#define TILE_COLUMNS (TILE_VECTORS * LANES)

#define BLOCK_NUMBERS 4096     /* 16 kB, half of a small first-level cache */
#define RATINGS_AHEAD 6
#define ROWS_AT_ONCE 8         /* that are multiplied with a matrix */
#define PIVOTS 4               /* rows of a system that are eliminated at once */
#define MAX_STEP 80            /* CMF_GIBBS_MAX_WIDTH, rounded up to PIVOTS, and one, to eight */

CMF_INLINE int NAME(padded_)(int n, int multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

/* How many padded rows of so many numbers make a block. */
CMF_INLINE int NAME(block_rows_)(int stride) { return BLOCK_NUMBERS / stride; }

/* Copy the first n numbers of a row to an aligned place, whose padding is zero already. */
CMF_INLINE void NAME(copy_)(const float *CMF_RESTRICT row, int n, float *CMF_RESTRICT out) {
    int f = 0;
    for (; f + LANES <= n; f += LANES) *(VECTOR *)(out + f) = *(const LOOSE *)(row + f);
    for (; f < n; f++) out[f] = row[f];
}

/* Add scale * sum of x[row + .] x[column + .] over a block to a tile of products, as far as it lies
 * in the upper triangle of n rows. */
CMF_INLINE void NAME(tile_)(const float *CMF_RESTRICT block, int n_rows, int stride, int row,
                            int column, double scale, int n, double *CMF_RESTRICT products,
                            int step) {
    VECTOR sums[TILE_ROWS][TILE_VECTORS];
    float numbers[TILE_ROWS * TILE_COLUMNS] ALIGNED;
    memset(sums, 0, sizeof sums);
    for (int j = 0; j < n_rows; j++) {
        const float *x = block + j * stride;
        const VECTOR *y = (const VECTOR *)(x + column);
        CMF_UNROLL for (int r = 0; r < TILE_ROWS; r++)
            CMF_UNROLL for (int v = 0; v < TILE_VECTORS; v++) sums[r][v] += x[row + r] * y[v];
    }
    memcpy(numbers, sums, sizeof sums);
    for (int r = 0; r < TILE_ROWS && row + r < n; r++) {
        const float *CMF_RESTRICT from = numbers + r * TILE_COLUMNS;
        double *CMF_RESTRICT to = products + (row + r) * step + column;
        int end = n - column < TILE_COLUMNS ? n - column : TILE_COLUMNS;
        for (int c = 0; c < end; c++) to[c] += scale * (double)from[c];
    }
}

/* Add scale * sum x x' over a block to the upper triangle of (n, n) products, and next to it. */
CMF_INLINE void NAME(add_block_)(const float *block, int n_rows, int stride, double scale, int n,
                                 double *products, int step) {
    for (int row = 0; row < n; row += TILE_ROWS)
        for (int column = row / TILE_COLUMNS * TILE_COLUMNS; column < n; column += TILE_COLUMNS)
            NAME(tile_)(block, n_rows, stride, row, column, scale, n, products, step);
}

/* Sum of x over a block, and of target * x. */
CMF_INLINE void NAME(sum_block_)(const float *block, const float *targets, int n_rows, int stride,
                                 float *sums, float *weighted) {
    for (int f = 0; f < stride; f += LANES) {
        VECTOR sum, product;
        memset(&sum, 0, sizeof sum);
        memset(&product, 0, sizeof product);
        for (int j = 0; j < n_rows; j++) {
            VECTOR x = *(const VECTOR *)(block + j * stride + f);
            sum += x;
            product += targets[j] * x;
        }
        *(VECTOR *)(sums + f) = sum;
        *(VECTOR *)(weighted + f) = product;
    }
}

/* --- one row's system ------------------------------------------------------------------------ */

/* The upper triangle of A in `size` rows of `step` numbers, h as column `size`: what is done to the
 * rows to make U of A makes U^-T h of h. Rows behind `width` are those of the identity. */
typedef struct {
    double numbers[(CMF_GIBBS_MAX_WIDTH + PIVOTS) * MAX_STEP] ALIGNED;
    int width, size, step;
} NAME(system_);

/* Write L and L m; `product` has room for `width` numbers. */
CMF_INLINE void NAME(begin_)(NAME(system_) * system, const double *CMF_RESTRICT precision,
                             const float *mean, double *CMF_RESTRICT product) {
    const int width = system->width, size = system->size, step = system->step;
    memset(system->numbers, 0, (size_t)(size * step) * sizeof(double));
    memset(product, 0, (size_t)width * sizeof(double));
    for (int r = 0; r < width; r++) {
        const double *from = precision + r * width, m = (double)mean[r];
        double *to = system->numbers + r * step;
        for (int c = 0; c < width; c++) to[c] = from[c];
        for (int c = 0; c < width; c++) product[c] += m * from[c];
    }
    for (int r = 0; r < width; r++) system->numbers[r * step + size] = product[r];
    for (int r = width; r < size; r++) system->numbers[r * step + r] = 1;
}

/* to -= factor * from, from a column that divides by WIDE_LANES on. */
CMF_INLINE void NAME(eliminate_)(const double *from, double factor, double *to, int column,
                                 int step) {
    for (int c = column; c < step; c += WIDE_LANES)
        *(WIDE *)(to + c) -= factor * *(const WIDE *)(from + c);
}

/* Turn the system into U and U^-T h; 0 if A is not positive definite or holds a NaN. */
CMF_INLINE int NAME(factorize_)(NAME(system_) * system, double *inverses) {
    const int size = system->size, step = system->step;
    double *A = system->numbers;
    for (int j = 0; j < size; j += PIVOTS) {
        for (int i = j; i < j + PIVOTS; i++) {
            double *pivot = A + i * step;
            if (!(pivot[i] > 0) || !(pivot[i] < HUGE_VAL)) return 0;
            inverses[i] = 1 / sqrt(pivot[i]);
            for (int c = i / WIDE_LANES * WIDE_LANES; c < step; c += WIDE_LANES)
                *(WIDE *)(pivot + c) *= inverses[i];
            for (int r = i + 1; r < j + PIVOTS; r++)
                NAME(eliminate_)(pivot, pivot[r], A + r * step, r / WIDE_LANES * WIDE_LANES, step);
        }
        const double *pivots = A + j * step;
        for (int r = j + PIVOTS; r < size; r++) {
            double *row = A + r * step;
            const double a = pivots[r], b = pivots[step + r];
            const double c = pivots[2 * step + r], d = pivots[3 * step + r];
            for (int k = r / WIDE_LANES * WIDE_LANES; k < step; k += WIDE_LANES)
                *(WIDE *)(row + k) -= (a * *(const WIDE *)(pivots + k) +
                                       b * *(const WIDE *)(pivots + step + k)) +
                                      (c * *(const WIDE *)(pivots + 2 * step + k) +
                                       d * *(const WIDE *)(pivots + 3 * step + k));
        }
    }
    return 1;
}

/* Solve U (mean, shift) = (U^-T h, z); the right sides lie in mean and shift, padded with zeros to
 * `step`, and are replaced. What is left of the lower triangle and the diagonal is lost. */
CMF_INLINE void NAME(substitute_)(NAME(system_) * system, const double *inverses, double *mean,
                                  double *shift) {
    const int step = system->step;
    for (int j = system->size - 1; j >= 0; j--) {
        double *row = system->numbers + j * step;
        double m[8] = {0}, s[8] = {0};
        for (int c = j / 8 * 8; c <= j; c++) row[c] = 0;
        for (int c = j / 8 * 8; c < step; c += 8)
            for (int l = 0; l < 8; l++) {
                m[l] += row[c + l] * mean[c + l];
                s[l] += row[c + l] * shift[c + l];
            }
        mean[j] -= ((m[0] + m[4]) + (m[2] + m[6])) + ((m[1] + m[5]) + (m[3] + m[7]));
        shift[j] -= ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
        mean[j] *= inverses[j];
        shift[j] *= inverses[j];
    }
}

/* --- the kernels ----------------------------------------------------------------------------- */

/* Add what the ratings from start to end say to a row's system; block and targets are scratch. */
CMF_INLINE void NAME(add_ratings_)(const cmf_gibbs_job *job, NAME(system_) * system, int64_t start,
                                   int64_t end, int stride, float *block, float *targets) {
    const int n_factors = job->n_factors, width = job->width, step = system->step;
    const int at_once = NAME(block_rows_)(stride);
    const double a = job->noise_precision;
    double *A = system->numbers, *h = A + system->size, *last = A + n_factors * step;
    float sums[CMF_GIBBS_MAX_WIDTH + PADDING] ALIGNED;
    float weighted[CMF_GIBBS_MAX_WIDTH + PADDING] ALIGNED;
    for (int64_t from = start; from < end; from += at_once) {
        const int n = end - from < at_once ? (int)(end - from) : at_once;
        double total = 0;
        for (int j = 0; j < n; j++) {
            const float *x = job->others + (int64_t)job->indices[from + j] * width;
            if (from + j + RATINGS_AHEAD < end)
                CMF_FETCH_TO_READ(job->others +
                                  (int64_t)job->indices[from + j + RATINGS_AHEAD] * width);
            NAME(copy_)(x, n_factors, block + j * stride);
            targets[j] = job->ratings[from + j] - (width > n_factors ? x[n_factors] : 0);
            total += (double)targets[j];
        }
        NAME(add_block_)(block, n, stride, a, n_factors, A, step);
        NAME(sum_block_)(block, targets, n, stride, sums, weighted);
        for (int f = 0; f < n_factors; f++) h[f * step] += a * (double)weighted[f];
        if (width > n_factors) {
            for (int f = 0; f < n_factors; f++) A[f * step + n_factors] += a * (double)sums[f];
            last[n_factors] += a * n;
            h[n_factors * step] += a * total;
        }
    }
}

/* Draw rows; return -1, or the row whose system could not be solved. */
CMF_GIBBS_ROWS(NAME(cmf_gibbs_rows_)) {
    const int width = job->width, stride = NAME(padded_)(job->n_factors, PADDING);
    float block[BLOCK_NUMBERS] ALIGNED, targets[BLOCK_NUMBERS / PADDING];
    double inverses[MAX_STEP], mean[MAX_STEP] ALIGNED, shift[MAX_STEP] ALIGNED;
    NAME(system_) system;
    system.width = width;
    system.size = NAME(padded_)(width, PIVOTS);
    system.step = NAME(padded_)(system.size + 1, 8);
    memset(block, 0, sizeof block);
    for (int64_t u = job->first; u < job->last; u++) {
        const float *normals = job->normals + (u - job->first) * width;
        NAME(begin_)(&system, job->precision, job->prior_means + u * job->prior_step, mean);
        NAME(add_ratings_)(job, &system, job->indptr[u], job->indptr[u + 1], stride, block,
                           targets);
        if (!NAME(factorize_)(&system, inverses)) return u;
        for (int d = 0; d < system.step; d++) {
            mean[d] = d < width ? system.numbers[d * system.step + system.size] : 0;
            shift[d] = d < width ? (double)normals[d] : 0;
        }
        NAME(substitute_)(&system, inverses, mean, shift);
        for (int d = 0; d < width; d++) {
            job->means[u * width + d] = (float)mean[d];
            job->rows[u * width + d] = (float)(mean[d] + shift[d]);
        }
    }
    return -1;
}

/* What rows of both sides say of their rating. */
CMF_INLINE float NAME(predict_)(const float *row, const float *x, int n_factors, int width) {
    float lanes[LANES] ALIGNED, rest = 0;
    VECTOR sum;
    int f = 0;
    memset(&sum, 0, sizeof sum);
    for (; f + LANES <= n_factors; f += LANES)
        sum += *(const LOOSE *)(row + f) * *(const LOOSE *)(x + f);
    for (; f < n_factors; f++) rest += row[f] * x[f];
    if (width > n_factors) rest += row[n_factors] + x[n_factors];
    memcpy(lanes, &sum, sizeof sum);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) lanes[l] += lanes[l + half];
    return rest + lanes[0];
}

/* Sum of the squared errors of rows' ratings. */
CMF_GIBBS_ERRORS(NAME(cmf_gibbs_errors_)) {
    const int n_factors = job->n_factors, width = job->width;
    double squares = 0;
    for (int64_t u = job->first; u < job->last; u++) {
        const float *row = job->rows + u * width;
        for (int64_t j = job->indptr[u]; j < job->indptr[u + 1]; j++) {
            const float *x = job->others + (int64_t)job->indices[j] * width;
            if (j + RATINGS_AHEAD < job->indptr[u + 1])
                CMF_FETCH_TO_READ(job->others + (int64_t)job->indices[j + RATINGS_AHEAD] * width);
            double error = (double)(job->ratings[j] - NAME(predict_)(row, x, n_factors, width));
            squares += error * error;
        }
    }
    return squares;
}

/* Add one prediction of each pair to mean and sum of squared deviations (B. P. Welford, 1962). */
CMF_GIBBS_PAIRS(NAME(cmf_gibbs_pairs_)) {
    for (int64_t t = 0; t < n_pairs; t++) {
        const float *row = user_rows + (int64_t)users[t] * width;
        const float *x = item_rows + (int64_t)items[t] * width;
        double moved = (double)NAME(predict_)(row, x, (int)n_factors, (int)width) - means[t];
        means[t] += moved / number;
        squares[t] += moved * (moved - moved / number);
    }
}

/* Some columns of one pass over the features; the usual numbers of columns are constants. */
CMF_INLINE void NAME(features_)(const int64_t *indptr, const int32_t *indices, const float *weights,
                                const float *noise, float *features, float *residuals,
                                int64_t first, int64_t last, int64_t width, const int n_columns,
                                float strength) {
    for (int64_t j = first; j < last; j++) {
        float sums[CMF_GIBBS_MAX_STRIP] = {0}, moves[CMF_GIBBS_MAX_STRIP], squares = 0;
        float *y = features + j * width;
        if (indptr[j] == indptr[j + 1]) continue;
        for (int64_t t = indptr[j]; t < indptr[j + 1]; t++) {
            const float weight = weights[indices[t]];
            const float *residual = residuals + (int64_t)indices[t] * width;
            squares += weight * weight;
            for (int f = 0; f < n_columns; f++) sums[f] += weight * residual[f];
        }
        const float variance = 1 / (squares + strength), spread = sqrtf(variance);
        for (int f = 0; f < n_columns; f++) {
            const float drawn =
                (sums[f] + squares * y[f]) * variance + spread * noise[j * width + f];
            moves[f] = drawn - y[f];
            y[f] = drawn;
        }
        for (int64_t t = indptr[j]; t < indptr[j + 1]; t++) {
            const float weight = weights[indices[t]];
            float *residual = residuals + (int64_t)indices[t] * width;
            for (int f = 0; f < n_columns; f++) residual[f] -= weight * moves[f];
        }
    }
}

/* Draw features one after the other; what a column does depends on no other one. */
CMF_GIBBS_FEATURES(NAME(cmf_gibbs_features_)) {
#define STRIP(n)                                                                                   \
    NAME(features_)(indptr, indices, weights, noise + column, features + column,                   \
                    residuals + column, first, last, width, (n), (float)strength)
    if (n_columns == 16)
        STRIP(16);
    else if (n_columns == 17) /* with the bias */
        STRIP(17);
    else
        STRIP((int)n_columns);
#undef STRIP
}

/* Write rows' rows: the sum of x x' over rows of at most CMF_GIBBS_MAX_COLUMNS numbers. */
CMF_GIBBS_PRODUCTS(NAME(cmf_gibbs_products_)) {
    const int n = (int)n_columns, stride = NAME(padded_)(n, PADDING);
    const int at_once = NAME(block_rows_)(stride);
    float block[BLOCK_NUMBERS] ALIGNED;
    memset(block, 0, sizeof block);
    memset(products, 0, (size_t)(n * n) * sizeof(double));
    for (int64_t from = 0; from < n_rows; from += at_once) {
        const int n_now = n_rows - from < at_once ? (int)(n_rows - from) : at_once;
        for (int j = 0; j < n_now; j++) NAME(copy_)(rows + (from + j) * n, n, block + j * stride);
        NAME(add_block_)(block, n_now, stride, 1, n, products, n);
    }
    for (int r = 0; r < n; r++)
        for (int c = 0; c < r; c++) products[r * n + c] = products[c * n + r];
}

/* Write some rows times matrix; `n_rows` is a constant. */
CMF_INLINE void NAME(multiply_)(const float *rows, const float *matrix, float *out,
                                const int n_rows, int64_t n_columns, int64_t n_out) {
    int64_t c = 0;
    for (; c + LANES <= n_out; c += LANES) {
        VECTOR sums[ROWS_AT_ONCE];
        memset(sums, 0, sizeof sums);
        for (int64_t k = 0; k < n_columns; k++) {
            const VECTOR factors = *(const LOOSE *)(matrix + k * n_out + c);
            CMF_UNROLL for (int r = 0; r < n_rows; r++)
                sums[r] += rows[r * n_columns + k] * factors;
        }
        CMF_UNROLL for (int r = 0; r < n_rows; r++) *(LOOSE *)(out + r * n_out + c) = sums[r];
    }
    for (; c < n_out; c++)
        for (int r = 0; r < n_rows; r++) {
            float sum = 0;
            for (int64_t k = 0; k < n_columns; k++)
                sum += rows[r * n_columns + k] * matrix[k * n_out + c];
            out[r * n_out + c] = sum;
        }
}

/* Write rows times matrix. */
CMF_GIBBS_MULTIPLY(NAME(cmf_gibbs_multiply_)) {
    int64_t r = 0;
    for (; r + ROWS_AT_ONCE <= n_rows; r += ROWS_AT_ONCE)
        NAME(multiply_)(rows + r * n_columns, matrix, out + r * n_out, ROWS_AT_ONCE, n_columns,
                        n_out);
    for (; r < n_rows; r++)
        NAME(multiply_)(rows + r * n_columns, matrix, out + r * n_out, 1, n_columns, n_out);
}
