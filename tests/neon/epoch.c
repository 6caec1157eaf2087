/* An epoch of the baseline kernel against a plain loop, on an emulated processor: see `make test-neon`.
 *
 * Compiled with -DREAL=float -DTYPE=f32 or -DREAL=double -DTYPE=f64. No two users have an item in
 * common: so it does not matter how the kernel goes from user to user, only that it visits the
 * ratings of each in their order, strip by strip.
 */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "simd.h"

#define JOIN(a, b) a##b
#define NAME(base, type) JOIN(base, type)
#define JOB NAME(cmf_job_, TYPE)
#define KERNEL NAME(cmf_interleaved_, TYPE)

enum { N_USERS = 23, MOST_RATINGS = 9, N_ITEMS = N_USERS * MOST_RATINGS, N_STRIPS = 2 };

static const REAL MEAN = 3, RATE = (REAL)0.01, PENALTY = (REAL)0.1;

typedef struct {
    REAL *users, *items, *user_biases, *item_biases, *item_scales;
} model;

static int64_t cuts[N_USERS * N_STRIPS + 1], row_order[N_USERS];
static int32_t indices[N_ITEMS];
static REAL ratings[N_ITEMS];

/* Numbers from -1/2 to 1/2, the same ones everywhere. */
static REAL drawn(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return (REAL)(*state >> 8) / (1 << 24) - (REAL)0.5;
}

static REAL *rows(int n_rows, int n_factors, size_t stride, uint32_t *state) {
    size_t bytes = (size_t)n_rows * stride * sizeof(REAL);
    REAL *memory = aligned_alloc(CMF_ROW_BYTES, (bytes / CMF_ROW_BYTES + 1) * CMF_ROW_BYTES);
    if (memory == NULL) exit(2);
    memset(memory, 0, bytes);
    for (int row = 0; row < n_rows; row++)
        for (int f = 0; f < n_factors; f++) memory[row * stride + f] = drawn(state);
    return memory;
}

static model make_model(int n_factors, size_t stride) {
    uint32_t state = 7;
    model made;
    made.users = rows(N_USERS, n_factors, stride, &state);
    made.items = rows(N_ITEMS, n_factors, stride, &state);
    made.user_biases = rows(N_USERS, 1, 1, &state);
    made.item_biases = rows(N_ITEMS, 1, 1, &state);
    made.item_scales = rows(N_ITEMS, 1, 1, &state);
    for (int i = 0; i < N_ITEMS; i++) made.item_scales[i] = 1;
    return made;
}

static void free_model(model made) {
    free(made.users);
    free(made.items);
    free(made.user_biases);
    free(made.item_biases);
    free(made.item_scales);
}

/* User u has u % (MOST_RATINGS + 1) ratings, of items of their own, in N_STRIPS parts. */
static void make_ratings(void) {
    uint32_t state = 3;
    int64_t n = 0;
    for (int u = 0; u < N_USERS; u++) {
        int count = u % (MOST_RATINGS + 1);
        for (int s = 0; s < N_STRIPS; s++) cuts[u * N_STRIPS + s] = n + s * (count / N_STRIPS);
        for (int j = 0; j < count; j++, n++) {
            indices[n] = u * MOST_RATINGS + j;
            ratings[n] = MEAN + 4 * drawn(&state);
        }
        row_order[u] = (u * 5) % N_USERS;
    }
    cuts[N_USERS * N_STRIPS] = n;
}

static double run_kernel(model made, size_t stride, int strip) {
    const JOB job = {
        .cuts = cuts + strip,
        .row_step = N_STRIPS,
        .indices = indices,
        .ratings = ratings,
        .row_order = row_order,
        .user_factors = made.users,
        .item_factors = made.items,
        .user_biases = made.user_biases,
        .item_biases = made.item_biases,
        .item_scales = made.item_scales,
        .n_ratings = cuts[N_USERS * N_STRIPS],
        .first = 0,
        .last = N_USERS,
        .stride = stride,
        .global_mean = MEAN,
        .user_rate = 2 * RATE,
        .item_rate = 2 * RATE,
        .bias_rate = 2 * RATE,
        .user_decay = 1 - RATE * PENALTY,
        .item_decay = 1 - RATE * PENALTY,
        .user_bias_decay = 1 - RATE * PENALTY,
        .item_bias_decay = 1 - RATE * PENALTY,
    };
    return KERNEL(CMF_BASELINE, &job);
}

/* Multiply the items' rows by the scales that the kernel has left them with. */
static void settle(model made, size_t stride) {
    for (int i = 0; i < N_ITEMS; i++)
        for (size_t f = 0; f < stride; f++) made.items[i * stride + f] *= made.item_scales[i];
}

/* The rule, as it is written in sgd.pyx. */
static double run_loop(model made, int n_factors, size_t stride, int strip) {
    double squared = 0;
    for (int s = 0; s < N_USERS; s++) {
        int64_t u = row_order[s];
        for (int64_t j = cuts[u * N_STRIPS + strip]; j < cuts[u * N_STRIPS + strip + 1]; j++) {
            REAL *p = made.users + u * stride, *q = made.items + indices[j] * stride;
            REAL *b = made.user_biases + u, *c = made.item_biases + indices[j];
            REAL error = ratings[j] - MEAN - *b - *c;
            for (int f = 0; f < n_factors; f++) error -= p[f] * q[f];
            for (int f = 0; f < n_factors; f++) {
                p[f] += RATE * (2 * error * q[f] - PENALTY * p[f]);
                q[f] += RATE * (2 * error * p[f] - PENALTY * q[f]);
            }
            *b += RATE * (2 * error - PENALTY * *b);
            *c += RATE * (2 * error - PENALTY * *c);
            squared += (double)error * error;
        }
    }
    return squared;
}

/* The larger number, or NaN if one of them is. */
static double worse(double a, double b) { return a >= b || a != a ? a : b; }

static double difference(const REAL *found, const REAL *expected, size_t n) {
    double largest = 0;
    for (size_t j = 0; j < n; j++)
        largest = worse(largest, fabs((double)found[j] - (double)expected[j]));
    return largest;
}

static int is_wrong(int n_factors) {
    const size_t per_block = CMF_ROW_BYTES / sizeof(REAL);
    const size_t stride = (n_factors + per_block - 1) / per_block * per_block;
    const double tolerance = 16 * (sizeof(REAL) == 4 ? FLT_EPSILON : DBL_EPSILON) * n_factors;
    model found = make_model(n_factors, stride), expected = make_model(n_factors, stride);
    double worst = 0;
    for (int epoch = 0; epoch < 3; epoch++)
        for (int strip = 0; strip < N_STRIPS; strip++) {
            double squared = run_kernel(found, stride, strip);
            double wanted = run_loop(expected, n_factors, stride, strip);
            worst = worse(worst, fabs(squared / wanted - 1));
        }
    settle(found, stride);
    worst = worse(worst, difference(found.users, expected.users, N_USERS * stride));
    worst = worse(worst, difference(found.items, expected.items, N_ITEMS * stride));
    worst = worse(worst, difference(found.user_biases, expected.user_biases, N_USERS));
    worst = worse(worst, difference(found.item_biases, expected.item_biases, N_ITEMS));
    free_model(found);
    free_model(expected);
    if (worst <= tolerance) return 0;
    printf("%d factors of %zu bytes: off by %g, %g is allowed\n", n_factors, sizeof(REAL), worst,
           tolerance);
    return 1;
}

int main(void) {
    int n_wrong = 0, n_sizes = 0;
    make_ratings();
    /* Every row length that has code of its own, with and without padding, and longer rows. */
    for (int n_factors = 1; n_factors <= 200; n_factors += n_factors < 20 ? 1 : 4, n_sizes++)
        n_wrong += is_wrong(n_factors);
    printf("%d row lengths of %zu-byte numbers: %d wrong\n", n_sizes, sizeof(REAL), n_wrong);
    return n_wrong != 0;
}
