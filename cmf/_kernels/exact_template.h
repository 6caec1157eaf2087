/* Inner products in a fixed order of summation, and what is made of them.
 *
 * An inner product is kept in four sums. Factor f is added to sum f mod 4, in ascending order, as
 * long as there are four more; of the last r < 4 factors, the j-th is added to sum 4 - r + j. So
 * these can be read as the last four factors of the row with zeros for what has been added before,
 * whatever lies behind the row. cmf_sum tells how the four become one. In pairs, in tiles of users
 * and items, at every level: the same additions in the same order.
 *
 * The including file defines REAL, NAME(base), LOAD, GATHER and MULTIPLY_ADD.
 */

/* Inner product of two rows, one number at a time. */
static double NAME(dot_)(const REAL *user, const REAL *item, int64_t n) {
    const int64_t rest = n % CMF_LANES;
    double a = 0, b = 0, c = 0, d = 0;
    for (int64_t f = 0; f < n - rest; f += CMF_LANES) {
        a += (double)user[f] * (double)item[f];
        b += (double)user[f + 1] * (double)item[f + 1];
        c += (double)user[f + 2] * (double)item[f + 2];
        d += (double)user[f + 3] * (double)item[f + 3];
    }
    if (rest > 2) b += (double)user[n - 3] * (double)item[n - 3];
    if (rest > 1) c += (double)user[n - 2] * (double)item[n - 2];
    if (rest > 0) d += (double)user[n - 1] * (double)item[n - 1];
    return (a + b) + (c + d);
}

/* The v-th vector of four factors, from f on; if rest > 0, with zeros but for the last `rest`. */
CMF_INLINE cmf_vector NAME(take_)(const REAL *row, int64_t f, int v, int64_t rest) {
    cmf_vector numbers = LOAD(row + f + v * CMF_PER_VECTOR);
    return rest ? cmf_last_lanes(numbers, v, rest) : numbers;
}

/* Add the products of these factors to n sums: of pairs, or of every left row with every item. */
CMF_INLINE void NAME(multiply_)(const REAL *const *lefts, const REAL *const *items,
                                const int n_left, const int n_items, const int n, int64_t f,
                                int64_t rest, cmf_lanes *sums) {
    const int per_left = n / n_left; /* 1 for pairs */
    CMF_UNROLL for (int v = 0; v < CMF_VECTORS; v++) {
        cmf_vector left[CMF_GROUP];
        CMF_UNROLL for (int s = 0; s < n_left; s++) left[s] = NAME(take_)(lefts[s], f, v, rest);
        CMF_UNROLL for (int t = 0; t < n_items; t++) {
            cmf_vector right = NAME(take_)(items[t], f, v, rest);
            CMF_UNROLL for (int r = t; r < n; r += n_items)
                sums[r].part[v] = MULTIPLY_ADD(left[r / per_left], right, sums[r].part[v]);
        }
    }
}

/* Inner products of n_users rows with n_items rows, in out as [n_users][n_items]; with n_users of
 * 0, of as many pairs of rows as there are items. Both numbers are constants; there are at most
 * CMF_GROUP products, a multiple of CMF_PER_VECTOR. */
CMF_INLINE void NAME(dots_)(const REAL *const *users, const REAL *const *items, const int n_users,
                            const int n_items, int64_t n_factors, cmf_vector *out) {
    const int n_left = n_users ? n_users : n_items;
    const int n = n_users ? n_users * n_items : n_items;
    const int64_t rest = n_factors % CMF_LANES;
    cmf_lanes sums[CMF_GROUP];
    if (CMF_PER_VECTOR == 1 || n_factors < CMF_LANES) {
        double dots[CMF_GROUP];
        for (int r = 0; r < n; r++)
            dots[r] = NAME(dot_)(users[n_users ? r / n_items : r], items[r % n_items], n_factors);
        memcpy(out, dots, n * sizeof(double));
        return;
    }
    CMF_UNROLL for (int r = 0; r < n; r++)
        CMF_UNROLL for (int v = 0; v < CMF_VECTORS; v++) sums[r].part[v] = (cmf_vector){0};
    for (int64_t f = 0; f < n_factors - rest; f += CMF_LANES)
        NAME(multiply_)(users, items, n_left, n_items, n, f, 0, sums);
    if (rest) NAME(multiply_)(users, items, n_left, n_items, n, n_factors - CMF_LANES, rest, sums);
    CMF_UNROLL for (int r = 0; r < n; r += CMF_PER_VECTOR)
        out[r / CMF_PER_VECTOR] = cmf_fold(sums + r);
}

CMF_INLINE const REAL *NAME(user_)(const cmf_model *model, int64_t u) {
    return (const REAL *)model->user_factors + (size_t)u * (size_t)model->user_stride;
}

CMF_INLINE const REAL *NAME(item_)(const cmf_model *model, int64_t i) {
    return (const REAL *)model->item_factors + (size_t)i * (size_t)model->item_stride;
}

/* Fetch a row into the cache. */
CMF_INLINE void NAME(fetch_)(const REAL *row, int64_t n_factors) {
    for (int64_t f = 0; f < n_factors; f += 64 / (int64_t)sizeof(REAL)) CMF_FETCH_TO_READ(row + f);
}

/* --- losses ----------------------------------------------------------------------------------- */

CMF_INLINE int64_t NAME(column_)(const cmf_ratings *ratings, int64_t position) {
    return ratings->narrow ? ratings->narrow[position] : ratings->wide[position];
}

/* Add the errors of eight ratings of one user to four sums. */
CMF_INLINE void NAME(add_errors_)(const cmf_model *model, const cmf_ratings *ratings,
                                  const REAL *user, double base, int64_t position,
                                  cmf_lanes *squared, cmf_lanes *absolute) {
    const REAL *rated = (const REAL *)ratings->ratings + position;
    const REAL *biases = (const REAL *)model->item_biases;
    int64_t indices[CMF_GROUP];
    const REAL *items[CMF_GROUP];
    cmf_vector levels[CMF_GROUP / CMF_PER_VECTOR], dots[CMF_GROUP / CMF_PER_VECTOR];
    CMF_UNROLL for (int r = 0; r < CMF_GROUP; r++) {
        indices[r] = NAME(column_)(ratings, position + r);
        items[r] = NAME(item_)(model, indices[r]);
    }
    CMF_UNROLL for (int v = 0; v < CMF_GROUP / CMF_PER_VECTOR; v++)
        levels[v] = base + GATHER(biases, indices + v * CMF_PER_VECTOR);
    CMF_UNROLL for (int r = 0; r < CMF_GROUP; r += CMF_ITEMS_OF_ONE)
        NAME(dots_)(&user, items + r, 1, CMF_ITEMS_OF_ONE, model->n_factors,
                    dots + r / CMF_PER_VECTOR);
    CMF_UNROLL for (int v = 0; v < CMF_GROUP / CMF_PER_VECTOR; v++) {
        cmf_vector errors = LOAD(rated + v * CMF_PER_VECTOR) - (levels[v] + dots[v]);
        squared->part[v % CMF_VECTORS] += errors * errors;
        absolute->part[v % CMF_VECTORS] += cmf_absolute(errors);
    }
}

/* Add the errors of fewer ratings. */
static void NAME(add_last_errors_)(const cmf_model *model, const cmf_ratings *ratings,
                                   const REAL *user, double base, int64_t position, int n,
                                   cmf_lanes *squared, cmf_lanes *absolute) {
    const REAL *rated = (const REAL *)ratings->ratings + position;
    const REAL *items[CMF_GROUP];
    double dots[CMF_GROUP], of_squared[CMF_LANES], of_absolute[CMF_LANES];
    memcpy(of_squared, squared, sizeof of_squared);
    memcpy(of_absolute, absolute, sizeof of_absolute);
    for (int r = 0; r < CMF_GROUP; r++)
        items[r] = NAME(item_)(model, NAME(column_)(ratings, position + (r < n ? r : n - 1)));
    for (int r = 0; r < n; r += CMF_FEW) {
        cmf_vector few[CMF_FEW / CMF_PER_VECTOR];
        NAME(dots_)(&user, items + r, 1, CMF_FEW, model->n_factors, few);
        memcpy(dots + r, few, sizeof few);
    }
    for (int r = 0; r < n; r++) {
        int64_t i = NAME(column_)(ratings, position + r);
        double level = base + (double)((const REAL *)model->item_biases)[i];
        double error = (double)rated[r] - (level + dots[r]);
        of_squared[r % CMF_LANES] += error * error;
        of_absolute[r % CMF_LANES] += fabs(error);
    }
    memcpy(squared, of_squared, sizeof of_squared);
    memcpy(absolute, of_absolute, sizeof of_absolute);
}

/* Sums of squared and of absolute errors: in every row the j-th rating is added to sum j mod 4,
 * these are folded, and the rows are added in order. */
static void NAME(sum_errors_)(const cmf_model *given, const cmf_ratings *rated, double *sums) {
    /* Copies that nothing else can point to, which may stay in registers. */
    const cmf_model own = *given, *model = &own;
    const cmf_ratings own_ratings = *rated, *ratings = &own_ratings;
    double squared = 0, absolute = 0;
    for (int64_t u = ratings->first; u < ratings->last; u++) {
        const REAL *user = NAME(user_)(model, u);
        const double base = model->global_mean + (double)((const REAL *)model->user_biases)[u];
        const int64_t stop = ratings->indptr[u + 1];
        int64_t position = ratings->indptr[u];
        cmf_lanes of_squared = {0}, of_absolute = {0};
        for (; position + CMF_GROUP <= stop; position += CMF_GROUP)
            NAME(add_errors_)(model, ratings, user, base, position, &of_squared, &of_absolute);
        if (position < stop) { /* by copies, so that the sums above need no address */
            cmf_lanes s = of_squared, a = of_absolute;
            NAME(add_last_errors_)(model, ratings, user, base, position, (int)(stop - position),
                                   &s, &a);
            of_squared = s, of_absolute = a;
        }
        squared += cmf_sum_lanes(&of_squared);
        absolute += cmf_sum_lanes(&of_absolute);
    }
    sums[0] = squared;
    sums[1] = absolute;
}

/* Sum of squares of the numbers in some rows.
 *
 * Pieces of up to 1024 numbers are added up by the thousand before they join the total, which
 * keeps rounding far from the number of numbers.
 */
static double NAME(sum_squares_)(const cmf_numbers *numbers) {
    const int64_t n_rows = numbers->n_rows, n_columns = numbers->n_columns;
    int64_t n_pieces = 0;
    double pieces = 0, total = 0;
    for (int64_t u = 0; u < n_rows; u += CMF_FEW)
        for (int64_t start = 0; start < n_columns; start += 1024) {
            const int64_t n = n_columns - start < 1024 ? n_columns - start : 1024;
            const REAL *rows[CMF_FEW];
            cmf_vector folded[CMF_FEW / CMF_PER_VECTOR];
            double squares[CMF_FEW];
            for (int r = 0; r < CMF_FEW; r++)
                rows[r] = (const REAL *)numbers->first + start +
                          (size_t)(u + r < n_rows ? u + r : u) * (size_t)numbers->stride;
            NAME(dots_)(rows, rows, 0, CMF_FEW, n, folded);
            memcpy(squares, folded, sizeof squares);
            for (int r = 0; r < CMF_FEW && u + r < n_rows; r++) {
                pieces += squares[r];
                if (++n_pieces % 1024 == 0) {
                    total += pieces;
                    pieces = 0;
                }
            }
        }
    return total + pieces;
}

/* --- predictions ------------------------------------------------------------------------------ */

/* What a prediction is without its inner product; a row of -1 is unknown and has no bias. */
CMF_INLINE double NAME(user_level_)(const cmf_model *model, int64_t u) {
    return u < 0 ? model->global_mean
                 : model->global_mean + (double)((const REAL *)model->user_biases)[u];
}

CMF_INLINE double NAME(level_)(const cmf_model *model, double user_level, int64_t i) {
    return i < 0 ? user_level : user_level + (double)((const REAL *)model->item_biases)[i];
}

/* Predict n >= 1 pairs of known rows, at the given positions of `out`. */
CMF_INLINE void NAME(predict_few_)(const REAL **users, const REAL **items, int64_t n_factors,
                                   const double *levels, const int64_t *positions, int n,
                                   REAL *out) {
    cmf_vector folded[CMF_FEW / CMF_PER_VECTOR];
    double dots[CMF_FEW];
    for (int r = n; r < CMF_FEW; r++) {
        users[r] = users[0];
        items[r] = items[0];
    }
    NAME(dots_)(users, items, 0, CMF_FEW, n_factors, folded);
    memcpy(dots, folded, sizeof dots);
    for (int r = 0; r < n; r++) out[positions[r]] = (REAL)(levels[r] + dots[r]);
}

/* Predictions of n pairs of rows. Those of which both are known are predicted a few at once. */
static void NAME(predict_pairs_)(const cmf_model *model, const int64_t *users,
                                 const int64_t *items, int64_t n, void *out) {
    const REAL *user_rows[CMF_FEW], *item_rows[CMF_FEW];
    double levels[CMF_FEW];
    int64_t positions[CMF_FEW];
    int n_waiting = 0;
    for (int64_t t = 0; t < n; t++) {
        const int64_t u = users[t], i = items[t];
        const double level = NAME(level_)(model, NAME(user_level_)(model, u), i);
        if (t + CMF_PAIRS_AHEAD < n) {
            const int64_t next_u = users[t + CMF_PAIRS_AHEAD], next_i = items[t + CMF_PAIRS_AHEAD];
            if (next_u >= 0) NAME(fetch_)(NAME(user_)(model, next_u), model->n_factors);
            if (next_i >= 0) NAME(fetch_)(NAME(item_)(model, next_i), model->n_factors);
        }
        if (u < 0 || i < 0) {
            ((REAL *)out)[t] = (REAL)level;
            continue;
        }
        user_rows[n_waiting] = NAME(user_)(model, u);
        item_rows[n_waiting] = NAME(item_)(model, i);
        levels[n_waiting] = level;
        positions[n_waiting++] = t;
        if (n_waiting == CMF_FEW) {
            NAME(predict_few_)(user_rows, item_rows, model->n_factors, levels, positions, CMF_FEW,
                               out);
            n_waiting = 0;
        }
    }
    if (n_waiting)
        NAME(predict_few_)(user_rows, item_rows, model->n_factors, levels, positions, n_waiting,
                           out);
}

/* Known ones of CMF_STRIP items at most. */
typedef struct {
    const REAL *rows[CMF_STRIP + CMF_GROUP]; /* behind the last one, the first one again */
    double biases[CMF_STRIP];
    int positions[CMF_STRIP];
    int n;
} NAME(strip_);

/* Predict the items of a strip for n_users known users, a constant: n_items of them at once, also a
 * constant. `out` is where the strip starts in the row of the first user. */
CMF_INLINE void NAME(predict_strip_)(const cmf_model *model, const int64_t *users,
                                     const NAME(strip_) * strip, const int n_users,
                                     const int n_items, REAL *const *out) {
    const REAL *rows[CMF_GROUP];
    double user_levels[CMF_GROUP];
    for (int s = 0; s < n_users; s++) {
        rows[s] = NAME(user_)(model, users[s]);
        user_levels[s] = NAME(user_level_)(model, users[s]);
    }
    for (int t = 0; t < strip->n; t += n_items) {
        const int n = strip->n - t < n_items ? strip->n - t : n_items;
        cmf_vector folded[CMF_GROUP / CMF_PER_VECTOR];
        double dots[CMF_GROUP];
        NAME(dots_)(rows, strip->rows + t, n_users, n_items, model->n_factors, folded);
        memcpy(dots, folded, n_users * n_items * sizeof(double));
        for (int s = 0; s < n_users; s++)
            for (int r = 0; r < n; r++)
                out[s][strip->positions[t + r]] =
                    (REAL)((user_levels[s] + strip->biases[t + r]) + dots[s * n_items + r]);
    }
}

/* Note which of some items are known. */
CMF_INLINE void NAME(fill_)(const cmf_model *model, const int64_t *items, int n,
                            NAME(strip_) * strip) {
    strip->n = 0;
    for (int t = 0; t < n; t++)
        if (items[t] >= 0) {
            strip->rows[strip->n] = NAME(item_)(model, items[t]);
            strip->biases[strip->n] = ((const REAL *)model->item_biases)[items[t]];
            strip->positions[strip->n++] = t;
        }
    for (int r = 0; strip->n && r < CMF_GROUP; r++) strip->rows[strip->n + r] = strip->rows[0];
}

/* Predictions of n_users users for n_items items, out[n_users][n_items]: strips of items that stay
 * in the cache, and in each, tiles of users and items. */
static void NAME(predict_block_)(const cmf_model *model, const int64_t *users, int64_t n_users,
                                 const int64_t *items, int64_t n_items, void *out) {
    for (int64_t start = 0; start < n_items; start += CMF_STRIP) {
        const int n = (int)(n_items - start < CMF_STRIP ? n_items - start : CMF_STRIP);
        int64_t known[CMF_USERS];
        REAL *rows[CMF_USERS];
        int n_waiting = 0;
        NAME(strip_) strip;
        NAME(fill_)(model, items + start, n, &strip);
        for (int64_t s = 0; s < n_users; s++) {
            REAL *row = (REAL *)out + (size_t)s * (size_t)n_items + start;
            if (users[s] < 0 || strip.n < n) {
                const double level = NAME(user_level_)(model, users[s]);
                for (int t = 0; t < n; t++)
                    if (users[s] < 0 || items[start + t] < 0)
                        row[t] = (REAL)NAME(level_)(model, level, items[start + t]);
                if (users[s] < 0) continue;
            }
            known[n_waiting] = users[s];
            rows[n_waiting++] = row;
            if (n_waiting == CMF_USERS) {
                NAME(predict_strip_)(model, known, &strip, CMF_USERS, CMF_ITEMS, rows);
                n_waiting = 0;
            }
        }
        for (int s = 0; s < n_waiting; s++)
            NAME(predict_strip_)(model, known + s, &strip, 1, CMF_ITEMS_OF_ONE, rows + s);
    }
}

const cmf_exact NAME(cmf_exact_) = {NAME(sum_errors_), NAME(sum_squares_), NAME(predict_pairs_),
                                    NAME(predict_block_)};
