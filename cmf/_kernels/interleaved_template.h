/* One epoch of stochastic gradient descent over rows that are visited in turns.
 *
 * The rule is that of sgd.pyx, and so is every step, one after the other. Only the order differs:
 * the rows of row_order are dealt to a few streams, and the streams take turns, one rating each.
 * Neighboring steps then work on different users (and mostly on different items), so that the
 * processor can start one while another still waits for its sum: visiting a user's ratings back to
 * back, each step waits for the one before.
 *
 * The order, exactly: every stream holds one row. They take turns, one rating each, until the
 * shortest of what is left of the rows is used up. Then each stream whose row has ended takes the
 * next row of row_order, the streams in order. When there is no next row, the streams, in order,
 * finish their rows one after the other. Rows without ratings are passed over. tests/reference.py
 * has it as a few lines of Python. Of each row only the ratings in one strip of items are visited;
 * with one strip, that is all of them.
 *
 * While a stream holds a row, the user's factors are in registers (or next to them); rows of at
 * most 8 * CMF_ROW_BYTES bytes have code of their own length, which is what makes this possible.
 *
 * Longer rows of these are kept as a scale times a vector (L. Bottou, "Stochastic gradient descent
 * tricks", 2012): the decay of a step then multiplies one number instead of the row, and two of
 * five operations a vector are saved. Users' rows are settled, that is multiplied by their scale,
 * when they are given back; items' rows by cmf_settle at the end of an epoch; both also before a
 * scale becomes too small. With p = s x, q = t y and the decay d, the step on p, q is
 *     s' = d s,  x' = x + (g t / s') y,   t' = d t,  y' = y + (g s' / t') x'.
 *
 * Rows with records (simd.h) have rates of their own, as in AdaGrad (J. Duchi, E. Hazan, Y. Singer,
 * 2011) with one sum a row (W.-S. Chin et al., "A learning-rate schedule for stochastic gradient
 * methods to matrix factorization", PAKDD 2015). The square of a gradient e q - l p needs no pass
 * over the row: it is e^2 |q|^2 - 2 e l p.q + l^2 |p|^2, and the norms follow from
 *     |a p + g q|^2 = a^2 |p|^2 + 2 a g p.q + g^2 |q|^2.
 * Here both rows see each other as they were before the step: with rates this large, an item that
 * sees the user's new row grows by g e^2 at every visit, whatever the sign of e.
 *
 * The including file defines REAL, TYPE, JOB, NAME(base), CMF_VECTOR_BYTES. Assumed, and made sure
 * of by cmf._checks and cmf.training: rows are aligned and padded with zeros (which steps leave
 * zero), all indices and orders are in range, first <= last.
 */

#include "vectors_template.h"

/* The row that a stream holds. */
typedef struct {
    int64_t row;  /* -1: none */
    int64_t next; /* position of the next rating to visit */
    int64_t end;  /* and behind the last one */
    REAL bias;
    REAL scale; /* what the row held is still to be multiplied by */
    REAL bias_decay;
    REAL gradients, norm, shrink; /* with records: as in them, the norm that of the row itself */
} NAME(stream_);

/* A scale below LEAST_SCALE is not let become any smaller: its square is still a good number. Rows
 * that streams hold are settled earlier, below its square root. */
#define LEAST_SCALE ((REAL)0x1p-20)
#define SMALL_SCALE ((REAL)0x1p-10)

/* Below, n_blocks is the number of blocks of CMF_ROW_BYTES in a row, `held` says that the user's
 * row is in `user`, not in memory, `scaled` that rows have scales, which takes held rows, and
 * `rowwise` that they have records. All are constants wherever `held` is true. */

CMF_INLINE VECTOR *NAME(user_row_)(const JOB *job, int64_t row) {
    return (VECTOR *)(job->user_factors + (size_t)row * job->stride);
}

/* Inner product, in two sums and more, so that additions need not wait for each other. */
CMF_INLINE REAL NAME(dot_)(const VECTOR *user, const VECTOR *item, const int n_blocks,
                           const int held) {
    const int n_vectors = n_blocks * PER_BLOCK;
    VECTOR even = user[0] * item[0];
    if (n_vectors == 1) return NAME(sum_halves_)(even);
    VECTOR odd = user[1] * item[1];
    if (held) {
        CMF_UNROLL for (int v = 2; v < n_vectors; v++) {
            if (v % 2 == 0)
                even += user[v] * item[v];
            else
                odd += user[v] * item[v];
        }
    } else {
        for (int v = 2; v + 1 < n_vectors; v += 2) {
            even += user[v] * item[v];
            odd += user[v + 1] * item[v + 1];
        }
        if (n_vectors % 2 == 1) even += user[n_vectors - 1] * item[n_vectors - 1];
    }
    return NAME(sum_halves_)(even + odd);
}

/* Fetch what the rows after a position of row_order will want: their cuts first, then the rest. */
CMF_INLINE void NAME(fetch_rows_)(const JOB *job, const int n_blocks, int64_t position) {
    if (position + 2 * CMF_ROWS_AHEAD < job->last)
        CMF_FETCH_TO_WRITE(job->cuts +
                           job->row_order[position + 2 * CMF_ROWS_AHEAD] * job->row_step);
    if (position + CMF_ROWS_AHEAD >= job->last) return;
    int64_t row = job->row_order[position + CMF_ROWS_AHEAD];
    int64_t entry = job->cuts[row * job->row_step];
    const char *factors = (const char *)NAME(user_row_)(job, row);
    CMF_UNROLL_BY_8 for (int k = 0; k < n_blocks; k++)
        CMF_FETCH_TO_WRITE(factors + k * CMF_ROW_BYTES);
    CMF_FETCH_TO_WRITE(job->user_biases + row);
    if (entry < job->n_ratings) {
        CMF_FETCH_TO_WRITE(job->indices + entry);
        CMF_FETCH_TO_WRITE(job->ratings + entry);
        if (CMF_RATINGS_AHEAD) {
            CMF_FETCH_TO_WRITE(job->indices + entry + CMF_RATINGS_AHEAD);
            CMF_FETCH_TO_WRITE(job->ratings + entry + CMF_RATINGS_AHEAD);
        }
    }
}

/* Give a stream the next row that has ratings; the position after it is returned. */
CMF_INLINE int64_t NAME(take_)(const JOB *job, NAME(stream_) * stream, VECTOR *user,
                               const int n_blocks, const int held, const int rowwise,
                               int64_t position) {
    stream->row = -1;
    while (position < job->last) {
        int64_t row = job->row_order[position++];
        const int64_t *cut = job->cuts + row * job->row_step;
        if (cut[0] == cut[1]) continue;
        stream->row = row;
        stream->next = cut[0];
        stream->end = cut[1];
        stream->bias = job->user_biases[row];
        stream->scale = 1;
        NAME(fetch_rows_)(job, n_blocks, position);
        if (held) {
            const VECTOR *factors = NAME(user_row_)(job, row);
            CMF_UNROLL for (int v = 0; v < n_blocks * PER_BLOCK; v++) user[v] = factors[v];
        }
        stream->bias_decay = job->user_bias_decay;
        if (rowwise) {
            const REAL *record = job->user_records + row * CMF_RECORD;
            const VECTOR *factors = held ? user : NAME(user_row_)(job, row);
            stream->gradients = record[CMF_GRADIENTS];
            stream->shrink = record[CMF_SHRINK];
            stream->norm = NAME(dot_)(factors, factors, n_blocks, held);
            stream->bias_decay = 1 - job->bias_rate * record[CMF_BIAS_SHRINK];
        }
        break;
    }
    return position;
}

/* Multiply a held row by its scale. */
CMF_INLINE void NAME(settle_)(NAME(stream_) * stream, VECTOR *user, const int n_blocks) {
    CMF_UNROLL for (int v = 0; v < n_blocks * PER_BLOCK; v++) user[v] *= stream->scale;
    stream->scale = 1;
}

/* Write the row of a stream back. */
CMF_INLINE void NAME(give_)(const JOB *job, NAME(stream_) * stream, VECTOR *user,
                            const int n_blocks, const int held, const int scaled,
                            const int rowwise) {
    if (scaled) NAME(settle_)(stream, user, n_blocks);
    if (rowwise)
        job->user_records[stream->row * CMF_RECORD + CMF_GRADIENTS] = stream->gradients;
    if (held) {
        VECTOR *factors = NAME(user_row_)(job, stream->row);
        CMF_UNROLL for (int v = 0; v < n_blocks * PER_BLOCK; v++) factors[v] = user[v];
    }
    job->user_biases[stream->row] = stream->bias;
}

/* Fetch what a stream will want in a few visits, if it still holds this row then. */
CMF_INLINE void NAME(fetch_items_)(const JOB *job, const int n_blocks, int64_t position) {
    if (CMF_RATINGS_AHEAD) {
        CMF_FETCH_TO_WRITE(job->indices + position + CMF_RATINGS_AHEAD);
        CMF_FETCH_TO_WRITE(job->ratings + position + CMF_RATINGS_AHEAD);
    }
    if (CMF_STEPS_AHEAD) {
        int64_t ahead = position + CMF_STEPS_AHEAD;
        if (ahead >= job->n_ratings) ahead = position;
        size_t i = (size_t)job->indices[ahead];
        const char *later = (const char *)(job->item_factors + i * job->stride);
        CMF_UNROLL_BY_8 for (int k = 0; k < n_blocks; k++)
            CMF_FETCH_TO_WRITE(later + k * CMF_ROW_BYTES);
    }
}

/* The scale of an item; before it becomes too small, the row is multiplied by it. */
CMF_INLINE REAL NAME(item_scale_)(const JOB *job, VECTOR *item, const int n_blocks, int64_t i) {
    REAL scale = job->item_scales[i];
    if (CMF_UNLIKELY(scale < LEAST_SCALE)) {
        /* Rare, and rolled up lest it takes registers from the rest. */
        CMF_ROLL for (int v = 0; v < n_blocks * PER_BLOCK; v++) item[v] *= scale;
        scale = 1;
    }
    return scale;
}

/* A number of the user and one of the item, which undergo the same operations. */
#if defined(__GNUC__)
#define PAIR(user, item) ((SHORT){(user), (item)})
#define OF_USER(pair) (pair)[0]
#define OF_ITEM(pair) (pair)[1]
#endif

/* What one step does to its two rows, as numbers. */
typedef struct {
#if defined(__GNUC__)
    SHORT rate, decay, shrink;
#else
    struct { REAL user, item; } rate, decay, shrink;
#endif
    REAL item_bias_decay;
} NAME(rates_);

#if defined(__GNUC__)

CMF_INLINE NAME(rates_) NAME(rates_of_)(const JOB *job, const NAME(stream_) * stream,
                                        const REAL *record, const int rowwise) {
    NAME(rates_) rates = {.rate = PAIR(job->user_rate, job->item_rate),
                          .decay = PAIR(job->user_decay, job->item_decay),
                          .item_bias_decay = job->item_bias_decay};
    if (rowwise) {
        rates.shrink = PAIR(stream->shrink, record[CMF_SHRINK]);
        const SHORT squares =
            CMF_NAME(cmf_pair_and_ones_, TYPE)(stream->gradients, record[CMF_GRADIENTS]);
        rates.rate /= CMF_NAME(cmf_roots_, TYPE)(squares);
        rates.decay = 1 - rates.rate * rates.shrink;
        rates.item_bias_decay = 1 - job->bias_rate * record[CMF_BIAS_SHRINK];
    }
    return rates;
}

/* Add up squared gradients and bring the norms to where the step takes the rows. */
CMF_INLINE void NAME(account_)(const JOB *job, NAME(stream_) * stream, REAL *record,
                               NAME(rates_) rates, REAL error, REAL product) {
    const SHORT own = PAIR(stream->norm, record[CMF_NORM]);
    const SHORT other = PAIR(record[CMF_NORM], stream->norm);
    const SHORT gain = rates.rate * error;
    const REAL twice = 2 * product;
    const SHORT square =
        error * (error * other - twice * rates.shrink) + rates.shrink * rates.shrink * own;
    const SHORT norm = rates.decay * (rates.decay * own + twice * gain) + gain * gain * other;
    /* Rounding can make a square of almost zero negative; a sum must never fall below 1. */
    stream->gradients += job->gradient_weight * (REAL)fabs(OF_USER(square));
    record[CMF_GRADIENTS] += job->gradient_weight * (REAL)fabs(OF_ITEM(square));
    stream->norm = OF_USER(norm);
    record[CMF_NORM] = OF_ITEM(norm);
}

#else /* the same, one number at a time */

#define OF_USER(pair) (pair).user
#define OF_ITEM(pair) (pair).item

CMF_INLINE NAME(rates_) NAME(rates_of_)(const JOB *job, const NAME(stream_) * stream,
                                        const REAL *record, const int rowwise) {
    NAME(rates_) rates = {{job->user_rate, job->item_rate}, {job->user_decay, job->item_decay},
                          {0, 0}, job->item_bias_decay};
    if (rowwise) {
        REAL rate[2] = {job->user_rate, job->item_rate};
        rates.shrink.user = stream->shrink;
        rates.shrink.item = record[CMF_SHRINK];
        NAME(divide_by_roots_)(rate, stream->gradients, record[CMF_GRADIENTS]);
        rates.rate.user = rate[0];
        rates.rate.item = rate[1];
        rates.decay.user = 1 - rates.rate.user * rates.shrink.user;
        rates.decay.item = 1 - rates.rate.item * rates.shrink.item;
        rates.item_bias_decay = 1 - job->bias_rate * record[CMF_BIAS_SHRINK];
    }
    return rates;
}

CMF_INLINE REAL NAME(square_)(REAL error, REAL product, REAL shrink, REAL own, REAL other) {
    return (REAL)fabs(error * (error * other - 2 * shrink * product) + shrink * shrink * own);
}

CMF_INLINE REAL NAME(norm_)(REAL decay, REAL gain, REAL product, REAL own, REAL other) {
    return decay * (decay * own + 2 * gain * product) + gain * gain * other;
}

CMF_INLINE void NAME(account_)(const JOB *job, NAME(stream_) * stream, REAL *record,
                               NAME(rates_) rates, REAL error, REAL product) {
    const REAL p = stream->norm, q = record[CMF_NORM];
    stream->gradients +=
        job->gradient_weight * NAME(square_)(error, product, rates.shrink.user, p, q);
    record[CMF_GRADIENTS] +=
        job->gradient_weight * NAME(square_)(error, product, rates.shrink.item, q, p);
    stream->norm = NAME(norm_)(rates.decay.user, rates.rate.user * error, product, p, q);
    record[CMF_NORM] = NAME(norm_)(rates.decay.item, rates.rate.item * error, product, q, p);
}

#endif

/* The step on the rating at a position; the squared error is returned. */
CMF_INLINE double NAME(step_)(const JOB *job, NAME(stream_) * stream, VECTOR *held_user,
                              const int n_blocks, const int held, const int scaled,
                              const int rowwise, int64_t position) {
    const int n_vectors = n_blocks * PER_BLOCK;
    const int keep = held && n_vectors <= CMF_MAX_KEPT;
    VECTOR *user = held ? held_user : NAME(user_row_)(job, stream->row);
    int64_t i = job->indices[position];
    VECTOR *item = (VECTOR *)(job->item_factors + (size_t)i * job->stride);
    REAL *item_bias = job->item_biases + i;
    REAL *record = rowwise ? job->item_records + i * CMF_RECORD : 0;
    VECTOR kept[CMF_MAX_KEPT];
    REAL item_scale = 1;

    NAME(fetch_items_)(job, n_blocks, position);
    if (scaled) item_scale = NAME(item_scale_)(job, item, n_blocks, i);
    if (keep) CMF_UNROLL for (int v = 0; v < n_vectors; v++) {
            kept[v] = item[v];
            CMF_KEEP(kept[v]);
        }
    const VECTOR *before = keep ? kept : item;
    const NAME(rates_) rates = NAME(rates_of_)(job, stream, record, rowwise);

    REAL product = NAME(dot_)(user, before, n_blocks, held);
    if (scaled) product *= stream->scale * item_scale;
    REAL error = job->ratings[position] - job->global_mean - *item_bias - stream->bias - product;
    REAL user_gain = OF_USER(rates.rate) * error;
    REAL item_gain = OF_ITEM(rates.rate) * error;
    REAL bias_gain = job->bias_rate * error;
    if (scaled) {
        REAL s = stream->scale * OF_USER(rates.decay), t = item_scale * OF_ITEM(rates.decay);
        REAL inverse = 1 / (s * t); /* does not wait for the error */
        user_gain *= item_scale * t * inverse;
        item_gain *= (rowwise ? stream->scale : s) * s * inverse;
        stream->scale = s;
        job->item_scales[i] = t;
    }
    CMF_UNROLL_BY_8 for (int k = 0; k < n_blocks; k++)
        CMF_UNROLL for (int v = k * PER_BLOCK; v < (k + 1) * PER_BLOCK; v++) {
            VECTOR moved = user[v], other = before[v];
            VECTOR seen = moved;
            if (!scaled) moved *= OF_USER(rates.decay);
            moved += user_gain * other;
            if (!rowwise) seen = moved;
            if (!scaled) other *= OF_ITEM(rates.decay);
            user[v] = moved;
            item[v] = other + item_gain * seen;
        }
    if (rowwise) NAME(account_)(job, stream, record, rates, error, product);
    stream->bias = stream->bias_decay * stream->bias + bias_gain;
    *item_bias = rates.item_bias_decay * *item_bias + bias_gain;
    return (double)error * (double)error;
}

/* Visits of one row in a turn after which its scale can at most be SMALL_SCALE times smaller: a
 * power of two. */
CMF_INLINE int64_t NAME(most_turns_)(REAL decay) {
    int64_t turns = 1;
    for (REAL scale = decay * decay; scale > SMALL_SCALE && turns < INT64_C(1) << 40;
         scale *= scale)
        turns *= 2;
    return turns;
}

/* The visits of a row that no other stream takes turns with. */
CMF_INLINE double NAME(finish_)(const JOB *job, NAME(stream_) * stream, VECTOR *user,
                                const int n_blocks, const int held, const int scaled,
                                const int rowwise, int64_t most_turns) {
    double squared = 0;
    while (stream->next < stream->end) {
        int64_t left = stream->end - stream->next;
        int64_t until = stream->next + (left < most_turns ? left : most_turns);
        for (int64_t j = stream->next; j < until; j++)
            squared += NAME(step_)(job, stream, user, n_blocks, held, scaled, rowwise, j);
        stream->next = until;
        if (scaled) NAME(settle_)(stream, user, n_blocks);
    }
    NAME(give_)(job, stream, user, n_blocks, held, scaled, rowwise);
    return squared;
}

CMF_INLINE double NAME(epoch_)(const JOB *given, const int n_blocks, const int n_streams,
                               const int held, const int scaled, const int rowwise) {
    /* A copy that nothing else can point to: no store to a row can change it. */
    const JOB own = *given;
    const JOB *job = &own;
    VECTOR users[CMF_MAX_STREAMS][CMF_MAX_HELD_BLOCKS * PER_BLOCK];
    NAME(stream_) streams[CMF_MAX_STREAMS];
    double squared[CMF_MAX_STREAMS] = {0};
    const int64_t most_turns = scaled ? NAME(most_turns_)(job->user_decay) : INT64_MAX;
    int64_t position = job->first;
    int active = 1;

    CMF_UNROLL for (int m = 0; m < n_streams; m++) {
        position = NAME(take_)(job, &streams[m], users[m], n_blocks, held, rowwise, position);
        active = active && streams[m].row >= 0;
    }
    while (active) {
        int64_t turns = most_turns;
        CMF_UNROLL for (int m = 0; m < n_streams; m++) {
            int64_t left = streams[m].end - streams[m].next;
            turns = left < turns ? left : turns;
        }
        for (int64_t turn = 0; turn < turns; turn++)
            CMF_UNROLL for (int m = 0; m < n_streams; m++)
                squared[m] += NAME(step_)(job, &streams[m], users[m], n_blocks, held, scaled,
                                          rowwise, streams[m].next + turn);
        CMF_UNROLL for (int m = 0; m < n_streams; m++) {
            streams[m].next += turns;
            if (streams[m].next == streams[m].end) {
                NAME(give_)(job, &streams[m], users[m], n_blocks, held, scaled, rowwise);
                position = NAME(take_)(job, &streams[m], users[m], n_blocks, held, rowwise,
                                       position);
                active = active && streams[m].row >= 0;
            } else if (scaled && CMF_UNLIKELY(streams[m].scale < SMALL_SCALE)) {
                NAME(settle_)(&streams[m], users[m], n_blocks);
            }
        }
    }
    double total = 0;
    CMF_UNROLL for (int m = 0; m < n_streams; m++) {
        if (streams[m].row >= 0) {
            if (scaled) NAME(settle_)(&streams[m], users[m], n_blocks);
            squared[m] += NAME(finish_)(job, &streams[m], users[m], n_blocks, held, scaled, rowwise,
                                        most_turns);
        }
        total += squared[m];
    }
    return total;
}

CMF_INLINE double NAME(any_length_)(const JOB *job, const int rowwise) {
    const int n_blocks = (int)(job->stride * sizeof(REAL) / CMF_ROW_BYTES);
    /* Scales want decays that are not far from 1, as rates of use give them. */
    const int mild = job->user_decay >= (REAL)0.5 && job->item_decay >= (REAL)0.5;
#define CMF_OF(n)                                                                                  \
    case n:                                                                                        \
        if (mild || !CMF_SCALED(n))                                                                \
            return NAME(epoch_)(job, n, CMF_STREAMS(n), 1, CMF_SCALED(n), rowwise);                \
        break;
    switch (n_blocks) {
        CMF_OF(1)
        CMF_OF(2)
        CMF_OF(3)
        CMF_OF(4)
        CMF_OF(5)
        CMF_OF(6)
        CMF_OF(7)
        CMF_OF(8)
    default: break;
    }
#undef CMF_OF
    if (n_blocks <= 4) return NAME(epoch_)(job, n_blocks, CMF_STREAMS(4), 0, 0, rowwise);
    return NAME(epoch_)(job, n_blocks, CMF_STREAMS(9), 0, 0, rowwise);
}

double NAME(cmf_interleaved_)(const JOB *job) {
    return job->user_records ? NAME(any_length_)(job, 1) : NAME(any_length_)(job, 0);
}

#undef VECTOR
#undef SHORT
#undef PER_BLOCK
#undef LEAST_SCALE
#undef SMALL_SCALE
#undef PAIR
#undef OF_USER
#undef OF_ITEM
