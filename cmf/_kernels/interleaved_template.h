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
 * A step waits for its inner product, and processors look ahead at no more than a step or two: the
 * inner product of the next turn is taken before the rows of this one move. It is the same then,
 * as streams hold different users, except where both turns are on the same item, and it waits.
 * Where registers can hold the item's row besides, each step rather takes its own product, and
 * reads that row only once.
 *
 * Longer rows of these are kept as a scale times a vector (L. Bottou, "Stochastic gradient descent
 * tricks", 2012): the decay of a step then multiplies one number instead of the row, and two of
 * five operations a vector are saved. Users' rows are settled, that is multiplied by their scale,
 * when they are given back, before their scale becomes too small, and after CMF_MOST_VISITS visits;
 * items' rows by settle_rows of interleaved.pyx and before their scale becomes too small. With
 * p = s x, q = t y and the decay d, the step on p, q is
 *     s' = d s,  x' = x + (g t / s') y,   t' = d t,  y' = y + (g s' / t') x'.
 *
 * Rows with records (simd.h) have rates of their own, as in AdaGrad (J. Duchi, E. Hazan, Y. Singer,
 * 2011) with one sum a row (W.-S. Chin et al., "A learning-rate schedule for stochastic gradient
 * methods to matrix factorization", PAKDD 2015). The square of a gradient g = e q - l p needs no
 * pass over the row: with p.g = e p.q - l |p|^2 it is e^2 |q|^2 - l (e p.q + p.g), and the norm
 * follows from |p + r g|^2 = |p|^2 + r (2 p.g + r |g|^2), where r is the rate.
 * Here both rows see each other as they were before the step: with rates this large, an item that
 * sees the user's new row grows by g e^2 at every visit, whatever the sign of e.
 *
 * The including file defines REAL, TYPE, JOB, NAME(base), CMF_VECTOR_BYTES. Assumed, and made sure
 * of by cmf._checks and cmf.training: rows are aligned and padded with zeros (which steps leave
 * zero), all indices and orders are in range, first <= last.
 */

#include "vectors_template.h"

/* PAIR is a number of the user and one of the item, which undergo the same operations; a stream
 * keeps pairs for the sake of the first. EACH is one number, the same in both lanes of a pair. */
#if defined(__GNUC__)
#define PAIR SHORT
#define EACH SHORT
#define OF_USER(pair) (pair)[0]
#define OF_ITEM(pair) (pair)[1]
#define ONE_OF(each) (each)[0]
#define FOR_PAIR(function) CMF_NAME(cmf_##function##_, TYPE)
#else
typedef struct { REAL of[2]; } NAME(pair_);
#define PAIR NAME(pair_)
#define EACH REAL
#define OF_USER(pair) (pair).of[0]
#define OF_ITEM(pair) (pair).of[1]
#define ONE_OF(each) (each)
#endif

/* A user's number. Lanes behind a pair hold `rest`, which no step changes: 1 for what is multiplied
 * or divided by, 0 for norms and shrinkage. */
CMF_INLINE PAIR NAME(users_)(REAL number, REAL rest) {
#if defined(__GNUC__)
    return FOR_PAIR(pair)(number, rest, rest);
#else
    return (PAIR){{number, rest}};
#endif
}

/* The row that a stream holds. */
typedef struct {
    int64_t row;  /* -1: none */
    int64_t next; /* position of the next rating to visit */
    int64_t end;  /* and behind the last one */
    int64_t settled; /* position of the first one since the row was settled */
    REAL bias;
    REAL bias_decay;
    /* With records: the scale of the row held, and as in them, the norm that of the row itself. */
    PAIR scale, gradients, norm, shrink;
} NAME(stream_);

/* A user's row that is held, or an item's during a step. GCC keeps it in registers from row to row
 * only if it never sees a pointer that moves over it: vectors are elements of this member, not of
 * what a VECTOR * points to, and there is no array of such rows or of streams. */
typedef struct {
    VECTOR of[CMF_MAX_HELD_BLOCKS * PER_BLOCK];
} NAME(held_);

/* The turn of a stream: its row, if that is held, and the position of the rating to visit. */
typedef struct {
    NAME(stream_) *stream;
    NAME(held_) *user;
    int64_t position;
} NAME(turn_);

/* A scale below LEAST_SCALE is not let become any smaller: its square is still a good number. Rows
 * that streams hold are settled earlier, before theirs falls below its square root. */
#define LEAST_SCALE ((REAL)0x1p-20)
#define SMALL_SCALE ((REAL)0x1p-10)

/* Where rows are scaled and have no records, all users' scales go the same way, which is worked out
 * beforehand: the scale s after so many visits since the row was settled and, with s' the one after
 * the visit, what the gains of its step are made of. */
typedef struct {
    REAL scale;     /* s */
    REAL user_rate; /* the rate of users / s' */
    REAL item_rate; /* the rate of items * s' */
    REAL unused;    /* makes the size a power of two */
} NAME(visit_);

/* Below, n_blocks is the number of blocks of CMF_ROW_BYTES in a row, `held` says that the user's
 * row is in registers, not in memory, `scaled` that rows have scales, which takes held rows, and
 * `rowwise` that they have records. All are constants wherever `held` is true. */

CMF_INLINE VECTOR *NAME(user_row_)(const JOB *job, int64_t row) {
    return (VECTOR *)(job->user_factors + (size_t)row * job->stride);
}

/* Inner product, in two sums and more, so that additions need not wait for each other; with vector
 * types in all lanes. */
CMF_INLINE EACH NAME(held_dots_)(const NAME(held_) * user, const VECTOR *item,
                                 const int n_blocks) {
    VECTOR even = user->of[0] * item[0];
    if (n_blocks * PER_BLOCK == 1) return NAME(sum_each_)(even);
    VECTOR odd = user->of[1] * item[1];
    CMF_UNROLL for (int v = 2; v < n_blocks * PER_BLOCK; v++) {
        if (v % 2 == 0)
            even += user->of[v] * item[v];
        else
            odd += user->of[v] * item[v];
    }
    return NAME(sum_each_)(even + odd);
}

/* The same for a row in memory, of two vectors at least, in the same order. */
CMF_INLINE EACH NAME(dots_)(const VECTOR *user, const VECTOR *item, const int n_blocks) {
    const int n_vectors = n_blocks * PER_BLOCK;
    VECTOR even = user[0] * item[0], odd = user[1] * item[1];
    for (int v = 2; v + 1 < n_vectors; v += 2) {
        even += user[v] * item[v];
        odd += user[v + 1] * item[v + 1];
    }
    if (n_vectors % 2 == 1) even += user[n_vectors - 1] * item[n_vectors - 1];
    return NAME(sum_each_)(even + odd);
}

/* Numbers from row to row; a constant for held rows. */
CMF_INLINE size_t NAME(stride_)(const JOB *job, const int n_blocks, const int held) {
    return held ? n_blocks * (CMF_ROW_BYTES / sizeof(REAL)) : job->stride;
}

/* Fetch the item of a rating. */
CMF_INLINE void NAME(fetch_item_)(const JOB *job, const int n_blocks, const int held,
                                  int64_t entry) {
    const size_t i = (size_t)job->indices[entry];
    const char *item = (const char *)(job->item_factors + i * NAME(stride_)(job, n_blocks, held));
    CMF_UNROLL_BY_8 for (int k = 0; k < n_blocks; k++)
        CMF_FETCH_TO_WRITE(item + k * CMF_ROW_BYTES);
}

/* Fetch what the rows from a position of row_order on will want: their cuts first, then the rest,
 * and of the very next row the first item, which no visit before it fetches. */
CMF_INLINE void NAME(fetch_rows_)(const JOB *job, const int n_blocks, const int held,
                                  int64_t position) {
    if (CMF_STEPS_AHEAD && position < job->last) {
        const int64_t next = job->cuts[job->row_order[position] * job->row_step];
        if (next < job->n_ratings) NAME(fetch_item_)(job, n_blocks, held, next);
    }
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
CMF_INLINE int64_t NAME(take_)(const JOB *job, NAME(stream_) * stream, NAME(held_) * user,
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
        stream->settled = cut[0];
        stream->bias = job->user_biases[row];
        NAME(fetch_rows_)(job, n_blocks, held, position);
        const VECTOR *factors = NAME(user_row_)(job, row);
        if (held) {
            CMF_UNROLL for (int v = 0; v < n_blocks * PER_BLOCK; v++) user->of[v] = factors[v];
        }
        stream->bias_decay = job->user_bias_decay;
        if (rowwise) {
            const REAL *record = job->user_records + row * CMF_RECORD;
            const EACH norm = held ? NAME(held_dots_)(user, factors, n_blocks)
                                   : NAME(dots_)(factors, factors, n_blocks);
            stream->scale = NAME(users_)(1, 1);
            stream->gradients = NAME(users_)(record[CMF_GRADIENTS], 1);
            stream->shrink = NAME(users_)(record[CMF_SHRINK], 0);
            stream->norm = NAME(users_)(ONE_OF(norm), 0);
            stream->bias_decay = 1 - job->bias_rate * record[CMF_BIAS_SHRINK];
        }
        break;
    }
    return position;
}

/* The scale of a held row before its next visit. */
CMF_INLINE REAL NAME(user_scale_)(const NAME(stream_) * stream, const NAME(visit_) * visits,
                                  const int rowwise) {
    return rowwise ? OF_USER(stream->scale) : visits[stream->next - stream->settled].scale;
}

/* Multiply a held row by its scale. */
CMF_INLINE void NAME(settle_)(NAME(stream_) * stream, NAME(held_) * user,
                              const NAME(visit_) * visits, const int n_blocks,
                              const int rowwise) {
    const REAL scale = NAME(user_scale_)(stream, visits, rowwise);
    CMF_UNROLL for (int v = 0; v < n_blocks * PER_BLOCK; v++) user->of[v] *= scale;
    if (rowwise) OF_USER(stream->scale) = 1;
    stream->settled = stream->next;
}

/* Write the row of a stream back. */
CMF_INLINE void NAME(give_)(const JOB *job, NAME(stream_) * stream, NAME(held_) * user,
                            const NAME(visit_) * visits, const int n_blocks, const int held,
                            const int scaled, const int rowwise) {
    if (scaled) NAME(settle_)(stream, user, visits, n_blocks, rowwise);
    if (rowwise)
        job->user_records[stream->row * CMF_RECORD + CMF_GRADIENTS] = OF_USER(stream->gradients);
    if (held) {
        VECTOR *factors = NAME(user_row_)(job, stream->row);
        CMF_UNROLL for (int v = 0; v < n_blocks * PER_BLOCK; v++) factors[v] = user->of[v];
    }
    job->user_biases[stream->row] = stream->bias;
}

/* Fetch what a stream will want in a few visits, if it still holds this row then. Indices are
 * looked up `ahead` positions ahead, where there must be one. */
CMF_INLINE void NAME(fetch_items_)(const JOB *job, const int n_blocks, const int held,
                                   int64_t position, int64_t ahead) {
    if (CMF_RATINGS_AHEAD) {
        CMF_FETCH_TO_WRITE(job->indices + position + CMF_RATINGS_AHEAD);
        CMF_FETCH_TO_WRITE(job->ratings + position + CMF_RATINGS_AHEAD);
    }
    if (CMF_STEPS_AHEAD) NAME(fetch_item_)(job, n_blocks, held, position + ahead);
}

/* Before the scale of an item becomes too small, multiply the row by it. */
CMF_INLINE void NAME(keep_scale_)(const JOB *job, VECTOR *item, const int n_blocks, int64_t i) {
    const REAL scale = job->item_scales[i];
    if (CMF_UNLIKELY(scale < LEAST_SCALE)) {
        /* Rare, and rolled up lest it takes registers from the rest. */
        CMF_ROLL for (int v = 0; v < n_blocks * PER_BLOCK; v++) item[v] *= scale;
        job->item_scales[i] = 1;
    }
}

/* What a step does to two rows: each is multiplied by its decay, unless rows are scaled, and the
 * other one is added, multiplied by the gain. */
typedef struct {
    REAL error, user_gain, item_gain, user_decay, item_decay;
} NAME(change_);

CMF_INLINE void NAME(move_biases_)(const JOB *job, NAME(stream_) * stream, REAL *item_bias,
                                   REAL item_decay, REAL error) {
    const REAL gain = job->bias_rate * error;
    stream->bias = stream->bias_decay * stream->bias + gain;
    *item_bias = item_decay * *item_bias + gain;
}

/* The step by the rule. Biases and, with scales, that of the item are brought to after it. */
CMF_INLINE NAME(change_) NAME(by_rule_)(const JOB *job, NAME(stream_) * stream,
                                        const NAME(visit_) * visit, REAL *item_bias,
                                        REAL *item_scale, REAL rating, REAL product,
                                        const int scaled) {
    REAL user_rate = job->user_rate, item_rate = job->item_rate;
    if (scaled) {
        const REAL before = *item_scale, after = before * job->item_decay;
        product *= visit->scale * before;
        user_rate = visit->user_rate * before;
        item_rate = visit->item_rate * (1 / after);
        *item_scale = after;
    }
    const REAL error = rating - job->global_mean - *item_bias - stream->bias - product;
    NAME(move_biases_)(job, stream, item_bias, job->item_bias_decay, error);
    return (NAME(change_)){error, user_rate * error, item_rate * error, job->user_decay,
                           job->item_decay};
}

/* The step on rows with records. Biases, records and, with scales, both are brought to after it. */
CMF_INLINE NAME(change_) NAME(by_records_)(const JOB *job, NAME(stream_) * stream, REAL *record,
                                           REAL *item_bias, REAL *item_scale, REAL rating,
                                           EACH product, const int scaled) {
    PAIR gradients = stream->gradients, own = stream->norm, shrink = stream->shrink;
    PAIR scale = stream->scale;
    OF_ITEM(gradients) = record[CMF_GRADIENTS];
    OF_ITEM(own) = record[CMF_NORM];
    OF_ITEM(shrink) = record[CMF_SHRINK];
    OF_ITEM(scale) = *item_scale;
#if defined(__GNUC__)
    const PAIR rates = FOR_PAIR(pair)(job->user_rate, job->item_rate, 0);
    const PAIR rate = rates / FOR_PAIR(roots)(gradients);
    const PAIR decay = 1 - rate * shrink;
    PAIR gain = rate;
    if (scaled) {
        const PAIR crossed = FOR_PAIR(swapped)(scale), after = scale * decay;
        product *= scale * crossed;
        gain *= crossed / after;
        stream->scale = after;
        *item_scale = OF_ITEM(after);
    }
    const EACH given = rating - (EACH){0};
    const EACH error = given - job->global_mean - *item_bias - stream->bias - product;
    const EACH slope = error * product;
    const PAIR along = slope - shrink * own;
    const PAIR square = error * error * FOR_PAIR(swapped)(own) - shrink * (slope + along);
    /* Rounding can make a square of almost zero negative; a sum must never fall below 1. */
    stream->gradients = gradients + job->gradient_weight * FOR_PAIR(sizes)(square);
    stream->norm = own + rate * (along + along + rate * square);
    gain *= error;
#else /* the same, one number at a time */
    PAIR rate = {{job->user_rate, job->item_rate}}, decay, gain;
    NAME(divide_by_roots_)(rate.of, gradients.of[0], gradients.of[1]);
    for (int s = 0; s < 2; s++) {
        gain.of[s] = rate.of[s];
        decay.of[s] = 1 - rate.of[s] * shrink.of[s];
    }
    if (scaled) {
        product *= scale.of[0] * scale.of[1];
        for (int s = 0; s < 2; s++) {
            stream->scale.of[s] = scale.of[s] * decay.of[s];
            gain.of[s] *= scale.of[1 - s] / stream->scale.of[s];
        }
        *item_scale = stream->scale.of[1];
    }
    const EACH error = rating - job->global_mean - *item_bias - stream->bias - product;
    const EACH slope = error * product;
    for (int s = 0; s < 2; s++) {
        const REAL along = slope - shrink.of[s] * own.of[s];
        const REAL square = error * error * own.of[1 - s] - shrink.of[s] * (slope + along);
        stream->gradients.of[s] = gradients.of[s] + job->gradient_weight * (REAL)fabs(square);
        stream->norm.of[s] = own.of[s] + rate.of[s] * (along + along + rate.of[s] * square);
        gain.of[s] *= error;
    }
#endif
    record[CMF_GRADIENTS] = OF_ITEM(stream->gradients);
    record[CMF_NORM] = OF_ITEM(stream->norm);
    NAME(move_biases_)(job, stream, item_bias, 1 - job->bias_rate * record[CMF_BIAS_SHRINK],
                       ONE_OF(error));
    return (NAME(change_)){ONE_OF(error), OF_USER(gain), OF_ITEM(gain), OF_USER(decay),
                           OF_ITEM(decay)};
}

CMF_INLINE VECTOR *NAME(item_row_)(const JOB *job, const int n_blocks, const int held, int64_t i) {
    return (VECTOR *)(job->item_factors + (size_t)i * NAME(stride_)(job, n_blocks, held));
}

/* A vector of a row, read once. */
CMF_INLINE VECTOR NAME(read_)(const VECTOR *vector) {
    VECTOR read = *vector;
    CMF_KEEP(read);
    return read;
}

/* Whether steps take their own inner products. */
CMF_INLINE int NAME(reads_once_)(const int n_blocks, const int held, const int rowwise) {
    return held && CMF_READ_ONCE(n_blocks, rowwise);
}

/* Inner product of the row of a turn and of an item, both without their scales. The item's is left
 * in `row` if that is not null, which takes a held row. */
CMF_INLINE EACH NAME(product_)(const JOB *job, NAME(turn_) turn, NAME(held_) * row,
                               const int n_blocks, const int held, const int scaled, int64_t i) {
    VECTOR *item = NAME(item_row_)(job, n_blocks, held, i);
    if (scaled) NAME(keep_scale_)(job, item, n_blocks, i);
    if (row) {
        CMF_UNROLL for (int v = 0; v < n_blocks * PER_BLOCK; v++)
            row->of[v] = NAME(read_)(item + v);
        return NAME(held_dots_)(turn.user, row->of, n_blocks);
    }
    if (held) return NAME(held_dots_)(turn.user, item, n_blocks);
    return NAME(dots_)(NAME(user_row_)(job, turn.stream->row), item, n_blocks);
}

/* Add two vectors of rows to each other, as a change tells: `other` is what `item` points to. The
 * user's is returned. */
CMF_INLINE VECTOR NAME(moved_)(VECTOR user, VECTOR other, VECTOR *item, NAME(change_) step,
                               const int scaled, const int rowwise) {
    VECTOR moved = user;
    if (!scaled) moved *= step.user_decay;
    moved += step.user_gain * other;
    if (!scaled) other *= step.item_decay;
    *item = other + step.item_gain * (rowwise ? user : moved);
    return moved;
}

/* The same for the rows of a turn; the item's is in `row` already if that is not null. */
CMF_INLINE void NAME(move_)(const JOB *job, NAME(turn_) turn, const NAME(held_) * row,
                            NAME(change_) step, const int n_blocks, const int held,
                            const int scaled, const int rowwise, int64_t i) {
    VECTOR *item = NAME(item_row_)(job, n_blocks, held, i);
    if (held) {
        NAME(held_) *user = turn.user;
        CMF_UNROLL for (int v = 0; v < n_blocks * PER_BLOCK; v++) {
            const VECTOR other = row ? row->of[v] : NAME(read_)(item + v);
            user->of[v] = NAME(moved_)(user->of[v], other, item + v, step, scaled, rowwise);
        }
        return;
    }
    VECTOR *user = NAME(user_row_)(job, turn.stream->row);
    CMF_UNROLL_BY_8 for (int k = 0; k < n_blocks; k++)
        CMF_UNROLL for (int v = k * PER_BLOCK; v < (k + 1) * PER_BLOCK; v++)
            user[v] = NAME(moved_)(user[v], item[v], item + v, step, scaled, rowwise);
}

/* The step of a turn. Unless it takes its own inner product, `product` is that of this turn, and is
 * brought to that of the next one, if there is one. The squared error is returned. */
CMF_INLINE double NAME(step_)(const JOB *job, NAME(turn_) turn, NAME(turn_) next, EACH *product,
                              const NAME(visit_) * visits, const int n_blocks, const int held,
                              const int scaled, const int rowwise, int64_t ahead, int is_next) {
    NAME(stream_) *stream = turn.stream;
    const int once = NAME(reads_once_)(n_blocks, held, rowwise), takes_next = is_next && !once;
    const int early = CMF_EARLY(n_blocks, rowwise);
    const int64_t i = job->indices[turn.position];
    REAL *item_bias = job->item_biases + i, *item_scale = job->item_scales + i;
    REAL *record = rowwise ? job->item_records + i * CMF_RECORD : 0;
    const NAME(visit_) *visit = scaled ? visits + (turn.position - stream->settled) : visits;
    NAME(held_) read = {{{0}}}, *row = once ? &read : 0; /* the item's */

    NAME(fetch_items_)(job, n_blocks, held, turn.position, ahead);
    if (once) *product = NAME(product_)(job, turn, row, n_blocks, held, scaled, i);
    const NAME(change_) step =
        rowwise ? NAME(by_records_)(job, stream, record, item_bias, item_scale,
                                    job->ratings[turn.position], *product, scaled)
                : NAME(by_rule_)(job, stream, visit, item_bias, item_scale,
                                 job->ratings[turn.position], ONE_OF(*product), scaled);
    const int64_t next_i = takes_next ? job->indices[next.position] : -1;
    if (takes_next && early && !CMF_UNLIKELY(next_i == i))
        *product = NAME(product_)(job, next, 0, n_blocks, held, scaled, next_i);
    NAME(move_)(job, turn, row, step, n_blocks, held, scaled, rowwise, i);
    if (takes_next && (!early || CMF_UNLIKELY(next_i == i)))
        *product = NAME(product_)(job, next, 0, n_blocks, held, scaled, next_i);
    return (double)step.error * (double)step.error;
}

/* Work out at most CMF_MOST_VISITS visits between which a row need not be settled; their number is
 * returned. With records, which have decays of their own, only the number is of use. */
CMF_INLINE int64_t NAME(plan_)(const JOB *job, NAME(visit_) * visits) {
    const double decay = job->user_decay;
    double scale = 1;
    int64_t n = 0;
    while (n < CMF_MOST_VISITS && scale * decay >= SMALL_SCALE) {
        visits[n].scale = (REAL)scale;
        scale *= decay;
        visits[n].user_rate = (REAL)(job->user_rate / scale);
        visits[n++].item_rate = (REAL)(job->item_rate * scale);
    }
    visits[n].scale = (REAL)scale;
    return n;
}

/* How many turns a stream can take before its row ends or wants to be settled. */
CMF_INLINE int64_t NAME(turns_of_)(const NAME(stream_) * stream, const int scaled,
                                   int64_t most_visits) {
    const int64_t settle = stream->settled + most_visits;
    return (scaled && settle < stream->end ? settle : stream->end) - stream->next;
}

/* How far ahead indices can be looked up in as many visits. */
CMF_INLINE int64_t NAME(ahead_)(const JOB *job, const NAME(stream_) * stream, int64_t turns) {
    return stream->next + turns + CMF_STEPS_AHEAD <= job->n_ratings ? CMF_STEPS_AHEAD : 0;
}

/* The visits of a row that no other stream takes turns with. */
CMF_INLINE double NAME(finish_)(const JOB *job, NAME(stream_) * stream, NAME(held_) * user,
                                const NAME(visit_) * visits, const int n_blocks, const int held,
                                const int scaled, const int rowwise, int64_t most_visits) {
    double squared = 0;
    while (stream->next < stream->end) {
        const int64_t turns = NAME(turns_of_)(stream, scaled, most_visits);
        const int64_t ahead = NAME(ahead_)(job, stream, turns), last = stream->next + turns;
        for (int64_t position = stream->next; position < last; position++) {
            const NAME(turn_) turn = {stream, user, position}; /* also stands for none behind it */
            EACH product = {0};
            if (!NAME(reads_once_)(n_blocks, held, rowwise))
                product = NAME(product_)(job, turn, 0, n_blocks, held, scaled,
                                         job->indices[position]);
            squared += NAME(step_)(job, turn, turn, &product, visits, n_blocks, held, scaled,
                                   rowwise, ahead, 0);
        }
        stream->next = last;
        if (scaled) NAME(settle_)(stream, user, visits, n_blocks, rowwise);
    }
    NAME(give_)(job, stream, user, visits, n_blocks, held, scaled, rowwise);
    return squared;
}

/* Streams are variables of their own, stream0 with user0 and squared0 and so on, for the sake of
 * registers (see held_). This does something for each of them. */
#define CMF_FOR_STREAMS(DO)                                                                        \
    { DO(0) }                                                                                      \
    if (n_streams > 1) { DO(1) }                                                                   \
    if (n_streams > 2) { DO(2) }                                                                   \
    if (n_streams > 3) { DO(3) }
#define CMF_TURN(m, turn) ((NAME(turn_)){&stream##m, &user##m, stream##m.next + (turn)})
/* The turn behind one of stream m: of the next stream, or in the next round of the first one. */
#define CMF_NEXT_TURN(m, turn, next_round)                                                         \
    ((m) == 0 && n_streams > 1   ? CMF_TURN(1, turn)                                               \
     : (m) == 1 && n_streams > 2 ? CMF_TURN(2, turn)                                               \
     : (m) == 2 && n_streams > 3 ? CMF_TURN(3, turn)                                               \
                                 : CMF_TURN(0, next_round))
#define CMF_STEP(m, turn, next_round, is_next)                                                     \
    squared##m += NAME(step_)(job, CMF_TURN(m, turn), CMF_NEXT_TURN(m, turn, next_round),          \
                              &product, visits, n_blocks, held, scaled, rowwise, ahead, is_next);
#define CMF_TAKE(m)                                                                                \
    position = NAME(take_)(job, &stream##m, &user##m, n_blocks, held, rowwise, position);          \
    active = active && stream##m.row >= 0;
#define CMF_FINISH(m)                                                                              \
    if (stream##m.row >= 0)                                                                        \
        squared##m += NAME(finish_)(job, &stream##m, &user##m, visits, n_blocks, held, scaled,     \
                                    rowwise, most_visits);
/* The turns that every stream can take, */
#define CMF_LEAST_TURNS(m)                                                                         \
    {                                                                                              \
        const int64_t own_turns = NAME(turns_of_)(&stream##m, scaled, most_visits);                \
        turns = own_turns < turns ? own_turns : turns;                                             \
    }
/* and how far ahead all may look meanwhile. */
#define CMF_LEAST_AHEAD(m)                                                                         \
    {                                                                                              \
        const int64_t own_ahead = NAME(ahead_)(job, &stream##m, turns);                            \
        ahead = own_ahead < ahead ? own_ahead : ahead;                                             \
    }
/* The last turn of a stream before a row ends, and what follows if it is its own. The first stream
 * has its next row when the last one takes this turn, so that there is no wait for its product. */
#define CMF_LAST_TURN(m)                                                                           \
    CMF_STEP(m, turns - 1, 0, (m) + 1 < n_streams || active)                                       \
    stream##m.next += turns;                                                                       \
    if (stream##m.next == stream##m.end) {                                                         \
        NAME(give_)(job, &stream##m, &user##m, visits, n_blocks, held, scaled, rowwise);           \
        CMF_TAKE(m)                                                                                \
    } else if (scaled && CMF_UNLIKELY(stream##m.next - stream##m.settled == most_visits)) {        \
        NAME(settle_)(&stream##m, &user##m, visits, n_blocks, rowwise);                            \
    }

CMF_INLINE double NAME(epoch_)(const JOB *given, const int n_blocks, const int n_streams,
                               const int held, const int scaled, const int rowwise) {
    /* A copy that nothing else can point to: no store to a row can change it. */
    const JOB own = *given;
    const JOB *job = &own;
    /* Zeros: compilers cannot know that what is never taken is never looked at. */
    NAME(held_) user0 = {{{0}}}, user1 = user0, user2 = user0, user3 = user0;
    NAME(stream_) stream0 = {0}, stream1 = stream0, stream2 = stream0, stream3 = stream0;
    double squared0 = 0, squared1 = 0, squared2 = 0, squared3 = 0;
    NAME(visit_) visits[CMF_MOST_VISITS + 1];
    const int64_t most_visits = scaled ? NAME(plan_)(job, visits) : 0;
    int64_t position = job->first;
    int active = 1; /* whether every stream has a row */
    EACH product = {0};

    CMF_FOR_STREAMS(CMF_TAKE)
    while (active && n_streams == 1) { /* a setting of ablations; the rest is for two or more */
        CMF_FINISH(0)
        CMF_TAKE(0)
    }
    if (active && !NAME(reads_once_)(n_blocks, held, rowwise))
        product = NAME(product_)(job, CMF_TURN(0, 0), 0, n_blocks, held, scaled,
                                 job->indices[stream0.next]);
    while (active) {
        int64_t turns = INT64_MAX, ahead = CMF_STEPS_AHEAD;
        CMF_FOR_STREAMS(CMF_LEAST_TURNS)
        CMF_FOR_STREAMS(CMF_LEAST_AHEAD)
        for (int64_t turn = 0; turn < turns - 1; turn++) {
#define CMF_INNER_TURN(m) CMF_STEP(m, turn, turn + 1, 1)
            CMF_FOR_STREAMS(CMF_INNER_TURN)
        }
        CMF_FOR_STREAMS(CMF_LAST_TURN)
    }
    CMF_FOR_STREAMS(CMF_FINISH)
    return squared0 + squared1 + squared2 + squared3;
}

#undef CMF_FOR_STREAMS
#undef CMF_TURN
#undef CMF_NEXT_TURN
#undef CMF_STEP
#undef CMF_INNER_TURN
#undef CMF_LAST_TURN
#undef CMF_TAKE
#undef CMF_FINISH
#undef CMF_LEAST_TURNS
#undef CMF_LEAST_AHEAD

#define CMF_HELD_LENGTHS(OF) OF(1) OF(2) OF(3) OF(4) OF(5) OF(6) OF(7) OF(8)

/* Every length is a function of its own: in one large one compilers make worse use of registers,
 * and take their time. */
#define CMF_DEFINE(n)                                                                              \
    static CMF_NOINLINE double NAME(rows_of_##n##_)(const JOB *job) {                              \
        return NAME(epoch_)(job, n, CMF_STREAMS(n, 0), 1, CMF_SCALED(n), 0);                       \
    }                                                                                              \
    static CMF_NOINLINE double NAME(recorded_rows_of_##n##_)(const JOB *job) {                     \
        return NAME(epoch_)(job, n, CMF_STREAMS(n, 1), 1, CMF_SCALED(n), 1);                       \
    }
CMF_HELD_LENGTHS(CMF_DEFINE)

/* Rows of any length, which are not held; those of one block or two always are. */
#define CMF_ANY_LENGTH(rowwise)                                                                    \
    if (CMF_STREAMS(n_blocks, rowwise) > 2)                                                        \
        return NAME(epoch_)(job, n_blocks, CMF_STREAMS(3, rowwise), 0, 0, rowwise);                \
    return NAME(epoch_)(job, n_blocks, CMF_STREAMS(9, rowwise), 0, 0, rowwise);
static CMF_NOINLINE double NAME(rows_)(const JOB *job, int n_blocks) { CMF_ANY_LENGTH(0) }
static CMF_NOINLINE double NAME(recorded_rows_)(const JOB *job, int n_blocks) { CMF_ANY_LENGTH(1) }

double NAME(cmf_interleaved_)(const JOB *job) {
    const int n_blocks = (int)(job->stride * sizeof(REAL) / CMF_ROW_BYTES);
    /* Scales want decays that are not far from 1, as rates of use give them. */
    const int mild = job->user_decay >= (REAL)0.5 && job->item_decay >= (REAL)0.5;
#define CMF_CASE(n)                                                                                \
    case n:                                                                                        \
        if (!mild && CMF_SCALED(n)) break;                                                         \
        return job->user_records ? NAME(recorded_rows_of_##n##_)(job) : NAME(rows_of_##n##_)(job);
    switch (n_blocks) {
        CMF_HELD_LENGTHS(CMF_CASE)
    default: break;
    }
    return job->user_records ? NAME(recorded_rows_)(job, n_blocks) : NAME(rows_)(job, n_blocks);
}

/* Sum of the squares of a row, in double: those of floats are exact there. Padding adds nothing. */
CMF_INLINE double NAME(squares_)(const REAL *row, size_t stride) {
    double sums[8] = {0};
    for (size_t f = 0; f < stride; f += 8)
        for (int l = 0; l < 8; l++) sums[l] += (double)row[f + l] * (double)row[f + l];
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) +
           ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

/* That of a bias, if there are any. */
CMF_INLINE double NAME(square_)(const REAL *biases, int64_t row) {
    return biases ? (double)biases[row] * (double)biases[row] : 0;
}

double NAME(cmf_settle_)(const JOB *job, int64_t first, int64_t last) {
    double squared = 0;
    for (int64_t i = first; i < last; i++) {
        REAL *row = job->item_factors + (size_t)i * job->stride;
        const REAL scale = job->item_scales[i];
        if (scale != 1) {
            for (size_t f = 0; f < job->stride; f++) row[f] *= scale;
            job->item_scales[i] = 1;
        }
        const double squares = NAME(squares_)(row, job->stride);
        if (job->item_records) job->item_records[i * CMF_RECORD + CMF_NORM] = (REAL)squares;
        squared += squares + NAME(square_)(job->item_biases, i);
    }
    return squared;
}

double NAME(cmf_user_squares_)(const JOB *job, int64_t first, int64_t last) {
    double squared = 0;
    for (int64_t position = first; position < last; position++) {
        const int64_t u = job->row_order[position];
        squared += NAME(squares_)(job->user_factors + (size_t)u * job->stride, job->stride) +
                   NAME(square_)(job->user_biases, u);
    }
    return squared;
}

#undef CMF_HELD_LENGTHS
#undef CMF_DEFINE
#undef CMF_ANY_LENGTH
#undef CMF_CASE
#undef VECTOR
#undef SHORT
#undef PER_BLOCK
#undef LEAST_SCALE
#undef SMALL_SCALE
#undef PAIR
#undef EACH
#undef OF_USER
#undef OF_ITEM
#undef ONE_OF
#undef FOR_PAIR
