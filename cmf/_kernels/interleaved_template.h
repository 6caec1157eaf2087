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
 * While a stream holds a row, the user's factors are in registers (or next to them); rows of at most
 * 8 * CMF_ROW_BYTES bytes have code of their own length, which is what makes this possible.
 *
 * The including file defines REAL, JOB, NAME(base), CMF_VECTOR_BYTES. Assumed, and made sure of by
 * cmf._checks and cmf.training: rows are aligned and padded with zeros (which steps leave zero), all
 * indices and orders are in range, first <= last.
 */

#if defined(__GNUC__)
/* may_alias: rows are arrays of REAL, and are read and written as vectors of them. */
typedef REAL NAME(vector_) __attribute__((vector_size(CMF_VECTOR_BYTES), may_alias));
#define LANES (CMF_VECTOR_BYTES / (int)sizeof(REAL))
#else /* one number at a time, for compilers without vector types */
typedef REAL NAME(vector_);
#define LANES 1
#endif
#define VECTOR NAME(vector_)
#define PER_BLOCK (CMF_ROW_BYTES / (LANES * (int)sizeof(REAL)))

/* Sum of the lanes: halves are added until there is one number. */
CMF_INLINE REAL NAME(sum_)(VECTOR values) {
#if defined(__GNUC__)
    typedef REAL quarter __attribute__((vector_size(16), may_alias));
#if CMF_VECTOR_BYTES >= 32
    typedef REAL half __attribute__((vector_size(32), may_alias));
#endif
#if CMF_VECTOR_BYTES == 64
    union { VECTOR whole; half halves[2]; } wide = {values};
    union { half whole; quarter halves[2]; } narrow = {wide.halves[0] + wide.halves[1]};
    quarter last = narrow.halves[0] + narrow.halves[1];
#elif CMF_VECTOR_BYTES == 32
    union { half whole; quarter halves[2]; } narrow = {values};
    quarter last = narrow.halves[0] + narrow.halves[1];
#else
    quarter last = values;
#endif
    if (sizeof(REAL) == 4) /* of four numbers, the upper two are added to the lower two */
        last += (quarter){last[16 / sizeof(REAL) - 2], last[16 / sizeof(REAL) - 1]};
    return last[0] + last[1];
#else
    return values;
#endif
}

/* The row that a stream holds. */
typedef struct {
    int64_t row;  /* -1: none */
    int64_t next; /* position of the next rating to visit */
    int64_t end;  /* and behind the last one */
    REAL bias;
} NAME(stream_);

/* Below, n_blocks is the number of blocks of CMF_ROW_BYTES in a row, and `held` says that the
 * user's row is in `user`, not in memory. Both are constants wherever `held` is true. */

CMF_INLINE VECTOR *NAME(user_row_)(const JOB *job, int64_t row) {
    return (VECTOR *)(job->user_factors + (size_t)row * job->stride);
}

/* Fetch what the rows after a position of row_order will want: their cuts first, then the rest. */
CMF_INLINE void NAME(fetch_rows_)(const JOB *job, const int n_blocks, int64_t position) {
    if (position + 2 * CMF_ROWS_AHEAD < job->last)
        CMF_FETCH(job->cuts + job->row_order[position + 2 * CMF_ROWS_AHEAD] * job->row_step);
    if (position + CMF_ROWS_AHEAD >= job->last) return;
    int64_t row = job->row_order[position + CMF_ROWS_AHEAD];
    int64_t entry = job->cuts[row * job->row_step];
    const char *factors = (const char *)NAME(user_row_)(job, row);
    CMF_UNROLL_BLOCKS for (int k = 0; k < n_blocks; k++) CMF_FETCH(factors + k * CMF_ROW_BYTES);
    CMF_FETCH(job->user_biases + row);
    if (entry < job->n_ratings) {
        CMF_FETCH(job->indices + entry);
        CMF_FETCH(job->ratings + entry);
    }
}

/* Give a stream the next row that has ratings; the position after it is returned. */
CMF_INLINE int64_t NAME(take_)(const JOB *job, NAME(stream_) * stream, VECTOR *user,
                               const int n_blocks, const int held, int64_t position) {
    stream->row = -1;
    while (position < job->last) {
        int64_t row = job->row_order[position++];
        const int64_t *cut = job->cuts + row * job->row_step;
        if (cut[0] == cut[1]) continue;
        stream->row = row;
        stream->next = cut[0];
        stream->end = cut[1];
        stream->bias = job->user_biases[row];
        NAME(fetch_rows_)(job, n_blocks, position);
        if (held) {
            const VECTOR *factors = NAME(user_row_)(job, row);
            CMF_UNROLL for (int v = 0; v < n_blocks * PER_BLOCK; v++) user[v] = factors[v];
        }
        break;
    }
    return position;
}

/* Write the row of a stream back. */
CMF_INLINE void NAME(give_)(const JOB *job, const NAME(stream_) * stream, const VECTOR *user,
                            const int n_blocks, const int held) {
    if (held) {
        VECTOR *factors = NAME(user_row_)(job, stream->row);
        CMF_UNROLL for (int v = 0; v < n_blocks * PER_BLOCK; v++) factors[v] = user[v];
    }
    job->user_biases[stream->row] = stream->bias;
}

/* Inner product, in two sums and more, so that additions need not wait for each other. */
CMF_INLINE REAL NAME(dot_)(const VECTOR *user, const VECTOR *item, const int n_blocks,
                           const int held) {
    const int n_vectors = n_blocks * PER_BLOCK;
    VECTOR even = user[0] * item[0];
    if (n_vectors == 1) return NAME(sum_)(even);
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
    return NAME(sum_)(even + odd);
}

/* The step on the rating at a position; the squared error is returned. */
CMF_INLINE double NAME(step_)(const JOB *job, NAME(stream_) * stream, VECTOR *held_user,
                              const int n_blocks, const int held, int64_t position, REAL decay) {
    VECTOR *user = held ? held_user : NAME(user_row_)(job, stream->row);
    int64_t i = job->indices[position];
    VECTOR *item = (VECTOR *)(job->item_factors + (size_t)i * job->stride);
    REAL *item_bias = job->item_biases + i;

    int64_t ahead = position + CMF_STEPS_AHEAD < job->n_ratings ? position + CMF_STEPS_AHEAD : position;
    const char *later = (const char *)(job->item_factors + (size_t)job->indices[ahead] * job->stride);
    CMF_UNROLL_BLOCKS for (int k = 0; k < n_blocks; k++) CMF_FETCH(later + k * CMF_ROW_BYTES);

    REAL error = job->ratings[position] - job->global_mean - *item_bias - stream->bias -
                 NAME(dot_)(user, item, n_blocks, held);
    REAL gain = 2 * job->learning_rate * error;
    REAL bias_gain = 2 * job->bias_rate * error;
    CMF_UNROLL_BLOCKS for (int k = 0; k < n_blocks; k++)
        CMF_UNROLL for (int v = k * PER_BLOCK; v < (k + 1) * PER_BLOCK; v++) {
            VECTOR before = item[v];
            VECTOR moved = decay * user[v] + gain * before;
            user[v] = moved;
            item[v] = decay * before + gain * moved;
        }
    stream->bias = decay * stream->bias + bias_gain;
    *item_bias = decay * *item_bias + bias_gain;
    return (double)error * (double)error;
}

CMF_INLINE double NAME(epoch_)(const JOB *given, const int n_blocks, const int n_streams,
                               const int held) {
    /* A copy that nothing else can point to: no store to a row can change it. */
    const JOB own = *given;
    const JOB *job = &own;
    VECTOR users[CMF_MAX_STREAMS][CMF_MAX_HELD_BLOCKS * PER_BLOCK];
    NAME(stream_) streams[CMF_MAX_STREAMS];
    double squared[CMF_MAX_STREAMS] = {0};
    const REAL decay = 1 - job->learning_rate * job->regularization;
    int64_t position = job->first;
    int active = 1;

    CMF_UNROLL for (int m = 0; m < n_streams; m++) {
        position = NAME(take_)(job, &streams[m], users[m], n_blocks, held, position);
        active = active && streams[m].row >= 0;
    }
    while (active) {
        int64_t turns = streams[0].end - streams[0].next;
        CMF_UNROLL for (int m = 1; m < n_streams; m++) {
            int64_t left = streams[m].end - streams[m].next;
            turns = left < turns ? left : turns;
        }
        for (int64_t turn = 0; turn < turns; turn++)
            CMF_UNROLL for (int m = 0; m < n_streams; m++)
                squared[m] += NAME(step_)(job, &streams[m], users[m], n_blocks, held,
                                          streams[m].next + turn, decay);
        CMF_UNROLL for (int m = 0; m < n_streams; m++) {
            streams[m].next += turns;
            if (streams[m].next == streams[m].end) {
                NAME(give_)(job, &streams[m], users[m], n_blocks, held);
                position = NAME(take_)(job, &streams[m], users[m], n_blocks, held, position);
                active = active && streams[m].row >= 0;
            }
        }
    }
    double total = 0;
    CMF_UNROLL for (int m = 0; m < n_streams; m++) {
        if (streams[m].row >= 0) {
            for (int64_t j = streams[m].next; j < streams[m].end; j++)
                squared[m] += NAME(step_)(job, &streams[m], users[m], n_blocks, held, j, decay);
            NAME(give_)(job, &streams[m], users[m], n_blocks, held);
        }
        total += squared[m];
    }
    return total;
}

double NAME(cmf_interleaved_)(const JOB *job) {
    const int n_blocks = (int)(job->stride * sizeof(REAL) / CMF_ROW_BYTES);
    switch (n_blocks) {
    case 1: return NAME(epoch_)(job, 1, CMF_STREAMS(1), 1);
    case 2: return NAME(epoch_)(job, 2, CMF_STREAMS(2), 1);
    case 3: return NAME(epoch_)(job, 3, CMF_STREAMS(3), 1);
    case 4: return NAME(epoch_)(job, 4, CMF_STREAMS(4), 1);
    case 5: return NAME(epoch_)(job, 5, CMF_STREAMS(5), 1);
    case 6: return NAME(epoch_)(job, 6, CMF_STREAMS(6), 1);
    case 7: return NAME(epoch_)(job, 7, CMF_STREAMS(7), 1);
    case 8: return NAME(epoch_)(job, 8, CMF_STREAMS(8), 1);
    default: return NAME(epoch_)(job, n_blocks, CMF_STREAMS(9), 0);
    }
}

#undef VECTOR
#undef LANES
#undef PER_BLOCK
