/* One epoch of stochastic gradient descent with implicit features, as in SVD++.
 *
 * A user's row is p + s, where s = v * (sum of y over the items that the user rated): besides what
 * the ratings say, it tells what was rated at all (Y. Koren, "Factorization meets the
 * neighborhood", KDD 2008). To move every y at every rating would take as many times longer as the
 * user has ratings. Here s moves as p does, and when the user's ratings are done, v times its
 * change is added to each y: what the single steps add up to, but for terms of second order.
 *
 * At a rating r of user u and item i, with w = p + s and the records of both (see simd.h):
 *     e = r - mean - b - c - w.q
 *     p' = p + eta (e q - l p),  eta = user_rate / sqrt(G),  G' = G + g |e q - l p|^2
 *     s' = s + implicit_rate * eta (e q - implicit_shrink * s)
 *     q' = q + eta (e w - l q),  eta = item_rate / sqrt(G),  G' = G + g |e w - l q|^2
 *     b' = b + bias_rate (e - l b),  c' = c + bias_rate (e - l c)
 * Both rows see each other as they were before the step, as in interleaved_template.h: without y,
 * the steps are those of its rows with records.
 *
 * The order, exactly: every stream, in order, takes the next row of row_order, and makes its s from
 * the y of that moment. They take turns, one rating each, until a row ends. Then each stream whose
 * row has ended, in order, adds to the y and takes the next row. When there is no next row, the
 * streams, in order, finish their rows one after the other. Rows without ratings are passed over.
 *
 * Streams make neighboring steps work on different users, so that the processor can do one while
 * another waits for its sums. For the same reason what a step begins with is worked out before the
 * step ahead of it is done, and once more in the rare case that both are on one item.
 *
 * The including file defines REAL, TYPE, JOB, NAME(base), CMF_VECTOR_BYTES. Assumed: rows are
 * aligned and padded with zeros (which steps leave zero), all indices and orders are in range, no
 * row holds an item twice, first <= last.
 */

#include "vectors_template.h"

/* Rows of so many blocks are held in registers, as far as there are any; sums are made of as many
 * blocks at a time. */
#define CHUNK (CMF_VECTOR_BYTES / 8)

/* Below, n_blocks is the number of blocks of CMF_ROW_BYTES in a row, and `held` says that p and s
 * of a stream are in arrays of the epoch's own. Both are constants wherever `held` is true. */

/* The row that a stream holds. */
typedef struct {
    int64_t row;  /* -1: none */
    int64_t next; /* position of the next rating to visit */
    int64_t end;  /* and behind the last one */
    REAL bias, bias_decay;
    REAL gradients, shrink; /* as in the record */
} NAME(stream_);

/* Its rows. */
typedef struct {
    VECTOR factors[CHUNK * PER_BLOCK]; /* p */
    VECTOR sum[CHUNK * PER_BLOCK];     /* s */
} NAME(held_);

CMF_INLINE VECTOR *NAME(row_)(const JOB *job, REAL *rows, int64_t row) {
    return (VECTOR *)(rows + (size_t)row * job->stride);
}

/* Fetch what the rating some positions ahead has of a few blocks of the rows of items. */
CMF_INLINE void NAME(fetch_)(const JOB *job, REAL *rows, int64_t position, const int ahead,
                             const int skipped, const int n_blocks) {
    if (ahead == 0) return;
    int64_t later = position + ahead < job->n_ratings ? position + ahead : position;
    const char *row = (const char *)NAME(row_)(job, rows, job->indices[later]);
    CMF_UNROLL_BY_8 for (int k = skipped; k < skipped + n_blocks; k++)
        CMF_FETCH_TO_WRITE(row + k * CMF_ROW_BYTES);
}

/* --- sums ------------------------------------------------------------------------------------ */

/* Make a few blocks of the sum of a row. */
CMF_INLINE void NAME(sum_blocks_)(const JOB *job, int64_t row, VECTOR *sum, const int skipped,
                                  const int n_blocks) {
    const int n_vectors = n_blocks * PER_BLOCK;
    const REAL weight = job->weights[row];
    VECTOR total[CHUNK * PER_BLOCK];
    CMF_UNROLL_BY_8 for (int v = 0; v < n_vectors; v++) total[v] = (VECTOR){0};
    for (int64_t j = job->indptr[row]; j < job->indptr[row + 1]; j++) {
        const VECTOR *y = NAME(row_)(job, job->implicit_factors, job->indices[j]);
        NAME(fetch_)(job, job->implicit_factors, j, CMF_SUMS_AHEAD, skipped, n_blocks);
        CMF_UNROLL_BY_8 for (int v = 0; v < n_vectors; v++) total[v] += y[skipped * PER_BLOCK + v];
    }
    CMF_UNROLL_BY_8 for (int v = 0; v < n_vectors; v++)
        sum[skipped * PER_BLOCK + v] = weight * total[v];
}

/* Deal a few blocks of the change of a sum to the items of the row. */
CMF_INLINE void NAME(deal_blocks_)(const JOB *job, int64_t row, const VECTOR *sum,
                                   const VECTOR *first_sum, const int skipped, const int n_blocks) {
    const int n_vectors = n_blocks * PER_BLOCK;
    const REAL weight = job->weights[row];
    VECTOR part[CHUNK * PER_BLOCK];
    CMF_UNROLL_BY_8 for (int v = 0; v < n_vectors; v++)
        part[v] = weight * (sum[skipped * PER_BLOCK + v] - first_sum[skipped * PER_BLOCK + v]);
    for (int64_t j = job->indptr[row]; j < job->indptr[row + 1]; j++) {
        VECTOR *y = NAME(row_)(job, job->implicit_factors, job->indices[j]);
        NAME(fetch_)(job, job->implicit_factors, j, CMF_SUMS_AHEAD, skipped, n_blocks);
        CMF_UNROLL_BY_8 for (int v = 0; v < n_vectors; v++) y[skipped * PER_BLOCK + v] += part[v];
    }
}

/* Both for whole rows, a chunk of blocks at a time. */
CMF_INLINE void NAME(make_sum_)(const JOB *job, int64_t row, VECTOR *sum, const int n_blocks,
                                const int held) {
    int done = 0;
    if (held) {
        NAME(sum_blocks_)(job, row, sum, 0, n_blocks);
        return;
    }
    for (; done + CHUNK <= n_blocks; done += CHUNK) NAME(sum_blocks_)(job, row, sum, done, CHUNK);
    for (; done < n_blocks; done++) NAME(sum_blocks_)(job, row, sum, done, 1);
}

CMF_INLINE void NAME(deal_)(const JOB *job, int64_t row, const VECTOR *sum, const VECTOR *first_sum,
                            const int n_blocks, const int held) {
    int done = 0;
    if (held) {
        NAME(deal_blocks_)(job, row, sum, first_sum, 0, n_blocks);
        return;
    }
    for (; done + CHUNK <= n_blocks; done += CHUNK)
        NAME(deal_blocks_)(job, row, sum, first_sum, done, CHUNK);
    for (; done < n_blocks; done++) NAME(deal_blocks_)(job, row, sum, first_sum, done, 1);
}

/* --- rows ------------------------------------------------------------------------------------ */

/* Where p, s and the first s of stream m are. */
CMF_INLINE VECTOR *NAME(factors_of_)(const JOB *job, NAME(held_) * rows, int64_t row,
                                     const int held) {
    return held ? rows->factors : NAME(row_)(job, job->user_factors, row);
}

CMF_INLINE VECTOR *NAME(sum_of_)(const JOB *job, NAME(held_) * rows, const int m, const int held) {
    return held ? rows->sum : NAME(row_)(job, job->sums, 2 * m + 1);
}

CMF_INLINE VECTOR *NAME(first_sum_)(const JOB *job, const int m) {
    return NAME(row_)(job, job->sums, 2 * m);
}

CMF_INLINE void NAME(copy_)(VECTOR *to, const VECTOR *from, const int n_blocks) {
    CMF_UNROLL_BY_8 for (int v = 0; v < n_blocks * PER_BLOCK; v++) to[v] = from[v];
}

/* Fetch what a row after a position of row_order will begin with. */
CMF_INLINE void NAME(fetch_row_)(const JOB *job, int64_t position, const int n_blocks) {
    if (position + 2 * CMF_ROWS_AHEAD < job->last)
        CMF_FETCH_TO_WRITE(job->indptr + job->row_order[position + 2 * CMF_ROWS_AHEAD]);
    if (position + CMF_ROWS_AHEAD >= job->last) return;
    const int64_t row = job->row_order[position + CMF_ROWS_AHEAD];
    const char *factors = (const char *)NAME(row_)(job, job->user_factors, row);
    CMF_UNROLL_BY_8 for (int k = 0; k < n_blocks; k++)
        CMF_FETCH_TO_WRITE(factors + k * CMF_ROW_BYTES);
    CMF_FETCH_TO_WRITE(job->user_records + row * CMF_RECORD);
    CMF_FETCH_TO_WRITE(job->user_biases + row);
    if (job->indptr[row] < job->n_ratings) CMF_FETCH_TO_WRITE(job->indices + job->indptr[row]);
}

/* Give stream m the next row that has ratings; the position after it is returned. */
CMF_INLINE int64_t NAME(take_)(const JOB *job, NAME(stream_) * stream, NAME(held_) * rows,
                               const int m, const int n_blocks, const int held, int64_t position) {
    stream->row = -1;
    while (position < job->last) {
        const int64_t row = job->row_order[position++];
        if (job->indptr[row] == job->indptr[row + 1]) continue;
        const REAL *record = job->user_records + row * CMF_RECORD;
        stream->row = row;
        stream->next = job->indptr[row];
        stream->end = job->indptr[row + 1];
        stream->bias = job->user_biases[row];
        stream->bias_decay = 1 - job->bias_rate * record[CMF_BIAS_SHRINK];
        stream->gradients = record[CMF_GRADIENTS];
        stream->shrink = record[CMF_SHRINK];
        NAME(fetch_row_)(job, position, n_blocks);
        NAME(make_sum_)(job, row, NAME(first_sum_)(job, m), n_blocks, held);
        NAME(copy_)(NAME(sum_of_)(job, rows, m, held), NAME(first_sum_)(job, m), n_blocks);
        if (held) NAME(copy_)(rows->factors, NAME(row_)(job, job->user_factors, row), n_blocks);
        break;
    }
    return position;
}

/* Write back what stream m has. */
CMF_INLINE void NAME(give_)(const JOB *job, NAME(stream_) * stream, NAME(held_) * rows, const int m,
                            const int n_blocks, const int held) {
    const int64_t row = stream->row;
    NAME(deal_)(job, row, NAME(sum_of_)(job, rows, m, held), NAME(first_sum_)(job, m), n_blocks,
                held);
    if (held) NAME(copy_)(NAME(row_)(job, job->user_factors, row), rows->factors, n_blocks);
    job->user_biases[row] = stream->bias;
    job->user_records[row * CMF_RECORD + CMF_GRADIENTS] = stream->gradients;
}

/* --- steps ----------------------------------------------------------------------------------- */

/* Inner product of p + s with an item's row, in two sums, so that additions need not wait. */
CMF_INLINE REAL NAME(product_)(const VECTOR *factors, const VECTOR *sum, const VECTOR *item,
                               const int n_blocks) {
    const int n_vectors = n_blocks * PER_BLOCK;
    VECTOR even = (factors[0] + sum[0]) * item[0], odd = {0};
    CMF_UNROLL_BY_8 for (int v = 1; v + 1 < n_vectors; v += 2) {
        odd += (factors[v] + sum[v]) * item[v];
        even += (factors[v + 1] + sum[v + 1]) * item[v + 1];
    }
    if (n_vectors % 2 == 0)
        odd += (factors[n_vectors - 1] + sum[n_vectors - 1]) * item[n_vectors - 1];
    return NAME(sum_neighbors_)(even + odd);
}

/* What a step begins with: all that does not change anything. */
typedef struct {
    int64_t item;
    REAL error, user_rate, item_rate;
} NAME(start_);

CMF_INLINE NAME(start_) NAME(begin_)(const JOB *job, const NAME(stream_) * stream,
                                     NAME(held_) * rows, const int m, const int n_blocks,
                                     const int held, int64_t position) {
    const int64_t i = job->indices[position];
    const REAL product = NAME(product_)(NAME(factors_of_)(job, rows, stream->row, held),
                                        NAME(sum_of_)(job, rows, m, held),
                                        NAME(row_)(job, job->item_factors, i), n_blocks);
    REAL rates[2] = {job->user_rate, job->item_rate};
    NAME(divide_by_roots_)(rates, stream->gradients,
                           job->item_records[i * CMF_RECORD + CMF_GRADIENTS]);
    return (NAME(start_)){
        .item = i,
        .error = job->ratings[position] - job->global_mean - job->item_biases[i] - stream->bias -
                 product,
        .user_rate = rates[0],
        .item_rate = rates[1],
    };
}

/* The step; the squared error is returned. */
CMF_INLINE double NAME(end_)(const JOB *job, NAME(stream_) * stream, NAME(held_) * rows,
                             const int m, const int n_blocks, const int held,
                             const NAME(start_) start) {
    VECTOR *factors = NAME(factors_of_)(job, rows, stream->row, held);
    VECTOR *sum = NAME(sum_of_)(job, rows, m, held);
    VECTOR *item = NAME(row_)(job, job->item_factors, start.item);
    REAL *bias = job->item_biases + start.item;
    REAL *record = job->item_records + start.item * CMF_RECORD;
    const REAL error = start.error, user_shrink = stream->shrink, item_shrink = record[CMF_SHRINK];
    const REAL sum_rate = job->implicit_rate * start.user_rate;
    const REAL sum_decay = 1 - sum_rate * job->implicit_shrink, sum_gain = sum_rate * error;
    VECTOR user_squares = {0}, item_squares = {0};
    REAL squares[2];

    CMF_UNROLL_BY_8 for (int v = 0; v < n_blocks * PER_BLOCK; v++) {
        const VECTOR q = item[v], p = factors[v], s = sum[v];
        const VECTOR user_gradient = error * q - user_shrink * p;
        const VECTOR item_gradient = error * (p + s) - item_shrink * q;
        user_squares += user_gradient * user_gradient;
        item_squares += item_gradient * item_gradient;
        factors[v] = p + start.user_rate * user_gradient;
        sum[v] = sum_decay * s + sum_gain * q;
        item[v] = q + start.item_rate * item_gradient;
    }
    NAME(sum_two_)(user_squares, item_squares, squares);
    stream->gradients += job->gradient_weight * squares[0];
    record[CMF_GRADIENTS] += job->gradient_weight * squares[1];
    stream->bias = stream->bias_decay * stream->bias + job->bias_rate * error;
    *bias = (1 - job->bias_rate * record[CMF_BIAS_SHRINK]) * *bias + job->bias_rate * error;
    return (double)error * (double)error;
}

/* Turns of all streams, one rating each; the sum of squared errors is returned. */
CMF_INLINE double NAME(take_turns_)(const JOB *job, NAME(stream_) * streams, NAME(held_) * rows,
                                    const int n_streams, const int n_blocks, const int held,
                                    int64_t turns) {
    double squared[CMF_IMPLICIT_STREAMS] = {0}, total = 0;
    NAME(start_) start =
        NAME(begin_)(job, &streams[0], &rows[0], 0, n_blocks, held, streams[0].next);
    for (int64_t turn = 0; turn < turns; turn++)
        CMF_UNROLL_BY_8 for (int m = 0; m < n_streams; m++) {
            const int n = (m + 1) % n_streams;
            /* The last step of all has none behind it: what is begun then is not used. */
            const int64_t later = turn + (n == 0 && turn + 1 < turns);
            NAME(fetch_)(job, job->item_factors, streams[m].next + turn, CMF_STEPS_AHEAD, 0,
                         n_blocks);
            NAME(start_) next = NAME(begin_)(job, &streams[n], &rows[n], n, n_blocks, held,
                                             streams[n].next + later);
            squared[m] += NAME(end_)(job, &streams[m], &rows[m], m, n_blocks, held, start);
            if (CMF_UNLIKELY(next.item == start.item))
                next = NAME(begin_)(job, &streams[n], &rows[n], n, n_blocks, held,
                                    streams[n].next + later);
            start = next;
        }
    CMF_UNROLL_BY_8 for (int m = 0; m < n_streams; m++) {
        streams[m].next += turns;
        total += squared[m];
    }
    return total;
}

/* The ratings of a row that no other stream takes turns with. */
CMF_INLINE double NAME(finish_)(const JOB *job, NAME(stream_) * stream, NAME(held_) * rows,
                                const int m, const int n_blocks, const int held) {
    double squared = 0;
    for (; stream->next < stream->end; stream->next++) {
        const NAME(start_) start =
            NAME(begin_)(job, stream, rows, m, n_blocks, held, stream->next);
        squared += NAME(end_)(job, stream, rows, m, n_blocks, held, start);
    }
    return squared;
}

CMF_INLINE double NAME(epoch_)(const JOB *given, const int n_blocks, const int n_streams,
                               const int held) {
    /* A copy that nothing else can point to: no store to a row can change it. */
    const JOB own = *given;
    const JOB *job = &own;
    NAME(held_) rows[CMF_IMPLICIT_STREAMS];
    NAME(stream_) streams[CMF_IMPLICIT_STREAMS];
    double squared = 0;
    int64_t position = job->first;
    int active = 1;

    CMF_UNROLL_BY_8 for (int m = 0; m < n_streams; m++) {
        position = NAME(take_)(job, &streams[m], &rows[m], m, n_blocks, held, position);
        active = active && streams[m].row >= 0;
    }
    while (active) {
        int64_t turns = INT64_MAX;
        CMF_UNROLL_BY_8 for (int m = 0; m < n_streams; m++) {
            const int64_t left = streams[m].end - streams[m].next;
            turns = left < turns ? left : turns;
        }
        squared += NAME(take_turns_)(job, streams, rows, n_streams, n_blocks, held, turns);
        CMF_UNROLL_BY_8 for (int m = 0; m < n_streams; m++) {
            if (streams[m].next < streams[m].end) continue;
            NAME(give_)(job, &streams[m], &rows[m], m, n_blocks, held);
            position = NAME(take_)(job, &streams[m], &rows[m], m, n_blocks, held, position);
            active = active && streams[m].row >= 0;
        }
    }
    CMF_UNROLL_BY_8 for (int m = 0; m < n_streams; m++) {
        if (streams[m].row < 0) continue;
        squared += NAME(finish_)(job, &streams[m], &rows[m], m, n_blocks, held);
        NAME(give_)(job, &streams[m], &rows[m], m, n_blocks, held);
    }
    return squared;
}

/* --- what the level has ---------------------------------------------------------------------- */

/* Rows that are held have code for their own length. */
#define FOR_LENGTH(n, n_streams, KERNEL)                                                           \
    case n:                                                                                        \
        if (n <= CHUNK) return KERNEL(n, n_streams, 1);                                            \
        break;
#define FOR_ALL_LENGTHS(KERNEL, n_blocks)                                                          \
    switch (n_blocks) {                                                                            \
        FOR_LENGTH(1, 3, KERNEL)                                                                   \
        FOR_LENGTH(2, 3, KERNEL)                                                                   \
        FOR_LENGTH(3, 3, KERNEL)                                                                   \
        FOR_LENGTH(4, 3, KERNEL)                                                                   \
        FOR_LENGTH(5, 2, KERNEL)                                                                   \
        FOR_LENGTH(6, 2, KERNEL)                                                                   \
        FOR_LENGTH(7, 2, KERNEL)                                                                   \
        FOR_LENGTH(8, 2, KERNEL)                                                                   \
    default: break;                                                                                \
    }                                                                                              \
    if (n_blocks <= 4) return KERNEL(n_blocks, 3, 0);                                              \
    return KERNEL(n_blocks, 2, 0);

/* Visit the ratings of some rows; the sum of squared errors is returned. */
double NAME(cmf_implicit_epoch_)(const JOB *job) {
    const int n_blocks = (int)(job->stride * sizeof(REAL) / CMF_ROW_BYTES);
#define EPOCH(n, n_streams, held) NAME(epoch_)(job, n, n_streams, held)
    FOR_ALL_LENGTHS(EPOCH, n_blocks)
#undef EPOCH
}

/* Returns something, as FOR_ALL_LENGTHS does. */
CMF_INLINE int NAME(sums_)(const JOB *job, const int n_blocks, const int held) {
    for (int64_t row = job->first; row < job->last; row++)
        NAME(make_sum_)(job, row, NAME(row_)(job, job->sums, row), n_blocks, held);
    return 0;
}

/* Write the sums of some rows, weights included, to where scratch is otherwise. */
int NAME(cmf_implicit_sums_)(const JOB *job) {
    const int n_blocks = (int)(job->stride * sizeof(REAL) / CMF_ROW_BYTES);
#define SUMS(n, n_streams, held) NAME(sums_)(job, n, held)
    FOR_ALL_LENGTHS(SUMS, n_blocks)
#undef SUMS
}

#undef VECTOR
#undef SHORT
#undef PER_BLOCK
#undef CHUNK
#undef FOR_LENGTH
#undef FOR_ALL_LENGTHS
