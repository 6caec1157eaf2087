"""Slow, obviously right twins of every kernel, with the same arguments.

Plain Python on plain Python floats, which are double, whatever the type of the arrays: a twin of
float32 training is run on float64 copies. Written from the definitions, not from the kernels: the
rule of training as it is stated, not as decay and gain; sums by `math.fsum`; sorting by `sorted`.
"""

import math
from collections import deque

# --- sgd ----------------------------------------------------------------------------------------


def sgd_epoch(
    indptr,
    indices,
    ratings,
    row_order,
    entry_order,
    user_factors,
    item_factors,
    user_biases,
    item_biases,
    first,
    last,
    global_mean,
    learning_rate,
    regularization,
):
    """Visit the rows at positions first to last - 1 in place; return the running sum."""
    mean = 0.0 if user_biases is None else global_mean  # a model without biases has no mean
    errors = []
    for s in range(first, last):
        u = s if row_order is None else int(row_order[s])
        start, stop = int(indptr[u]), int(indptr[u + 1])
        for j in range(start, stop):
            entry = j if entry_order is None else start + int(entry_order[j])
            errors.append(
                visit(
                    u,
                    int(indices[entry]),
                    float(ratings[entry]),
                    user_factors,
                    item_factors,
                    user_biases,
                    item_biases,
                    mean,
                    learning_rate,
                    regularization,
                )
            )
    return math.fsum(error * error for error in errors)


def visit(u, i, rating, P, Q, b, c, mean, alpha, beta):
    """Take the step of one rating in place; return the error of before."""
    error = rating - prediction(u, i, P, Q, b, c, mean)
    P[u], Q[i] = step(P[u].tolist(), Q[i].tolist(), error, alpha, beta)
    if b is not None:
        b[u] += alpha * (2 * error - beta * float(b[u]))
        c[i] += alpha * (2 * error - beta * float(c[i]))
    return error


def step(p, q, error, alpha, beta):
    """Return the two rows after one rating; the item row sees the new user row."""
    p, q = list(p), list(q)
    for k in range(len(p)):
        p[k] += alpha * (2 * error * q[k] - beta * p[k])
        q[k] += alpha * (2 * error * p[k] - beta * q[k])
    return p, q


# --- interleaved --------------------------------------------------------------------------------


def streams_of(n_factors, dtype):
    """Return how many rows are visited in turns: three if they are short, else two."""
    n_blocks = math.ceil(n_factors * dtype.itemsize / 64)
    return 3 if n_blocks * 64 <= 256 else 2


def interleaved_visits(cuts, row_order, n_streams, strip=0, n_strips=1):
    """Yield the row and the position of every visit, in order."""
    positions = (
        (int(u), deque(range(cuts[u * n_strips + strip], cuts[u * n_strips + strip + 1])))
        for u in row_order
    )
    rows = ((u, left) for u, left in positions if left)
    streams = [next(rows, None) for _ in range(n_streams)]
    while None not in streams:
        for u, left in streams:
            yield u, left.popleft()
        streams = [stream if stream[1] else next(rows, None) for stream in streams]
    for u, left in filter(None, streams):
        for position in left:
            yield u, position


def interleaved_epoch(
    cuts,
    indices,
    ratings,
    row_order,
    user_factors,
    item_factors,
    user_biases,
    item_biases,
    user_records,
    item_records,
    first,
    last,
    strip,
    n_strips,
    n_streams,  # where the kernel has the level, which is not to matter
    global_mean,
    user_rate,
    item_rate,
    bias_rate,
    user_decay,
    item_decay,
    user_bias_decay,
    item_bias_decay,
    gradient_weight,
):
    """Visit a strip of the rows at positions first to last - 1 in turns; return the running sum."""
    P, Q, b, c = user_factors, item_factors, user_biases, item_biases
    total = []
    for u, j in interleaved_visits(cuts, row_order[first:last], n_streams, strip, n_strips):
        i = int(indices[j])
        error = float(ratings[j]) - prediction(u, i, P, Q, b, c, global_mean)
        total.append(error * error)
        alpha, beta = user_rate, item_rate
        if user_records is not None:
            alpha, user_decay, user_bias_decay = own_rates(user_records[u], alpha, bias_rate)
            beta, item_decay, item_bias_decay = own_rates(item_records[i], beta, bias_rate)
            user_records[u, 0] += gradient_weight * squared_gradient(
                user_records[u], error, P[u], Q[i]
            )
        P[u] = [user_decay * x + alpha * error * y for x, y in zip(P[u], Q[i], strict=True)]
        if user_records is not None:
            item_records[i, 0] += gradient_weight * squared_gradient(
                item_records[i], error, Q[i], P[u]
            )
        Q[i] = [item_decay * y + beta * error * x for x, y in zip(P[u], Q[i], strict=True)]
        b[u] = user_bias_decay * b[u] + bias_rate * error
        c[i] = item_bias_decay * c[i] + bias_rate * error
    return math.fsum(total)


def own_rates(record, rate, bias_rate):
    """Return the rate of a row's next step, and the decays of the row and its bias."""
    rate = rate / math.sqrt(record[0])
    return rate, 1 - rate * record[2], 1 - bias_rate * record[3]


def squared_gradient(record, error, row, other):
    """Return the squared length of e q - l p."""
    return math.fsum(
        (error * float(y) - record[2] * float(x)) ** 2 for x, y in zip(row, other, strict=True)
    )


# --- loss ---------------------------------------------------------------------------------------


def sum_errors(
    indptr,
    indices,
    ratings,
    user_factors,
    item_factors,
    user_biases,
    item_biases,
    first,
    last,
    global_mean,
):
    """Return the sums of squared and of absolute errors over rows first to last - 1."""
    model = user_factors, item_factors, user_biases, item_biases, global_mean
    errors = [
        float(ratings[j]) - prediction(u, int(indices[j]), *model)
        for u in range(first, last)
        for j in range(int(indptr[u]), int(indptr[u + 1]))
    ]
    return math.fsum(error * error for error in errors), math.fsum(map(abs, errors))


def sum_squares(rows):
    """Return the sum of squares."""
    return math.fsum(value * value for row in rows.tolist() for value in row)


# --- predict ------------------------------------------------------------------------------------


def prediction(
    u, i, user_factors, item_factors, user_biases=None, item_biases=None, global_mean=0.0
):
    """Return one prediction; a row of -1 has no factors and no bias."""
    terms = [global_mean]
    if u >= 0 and user_biases is not None:
        terms.append(float(user_biases[u]))
    if i >= 0 and item_biases is not None:
        terms.append(float(item_biases[i]))
    if u >= 0 and i >= 0:
        p, q = user_factors[u].tolist(), item_factors[i].tolist()
        terms += [p[k] * q[k] for k in range(len(p))]
    return math.fsum(terms)


def predict_pairs(
    users,
    items,
    user_factors,
    item_factors,
    user_biases,
    item_biases,
    predictions_out,
    global_mean,
):
    """Write the prediction of each pair."""
    model = user_factors, item_factors, user_biases, item_biases, global_mean
    for t in range(len(users)):
        predictions_out[t] = prediction(int(users[t]), int(items[t]), *model)


def predict_block(
    users,
    items,
    user_factors,
    item_factors,
    user_biases,
    item_biases,
    predictions_out,
    global_mean,
):
    """Write the predictions of every user for every item."""
    model = user_factors, item_factors, user_biases, item_biases, global_mean
    for s in range(len(users)):
        for t in range(len(items)):
            predictions_out[s, t] = prediction(int(users[s]), int(items[t]), *model)


# --- topn ---------------------------------------------------------------------------------------


def select_top(scores, left_out, positions_out):
    """Write the positions of the best scores, NaN last, ties by position; return how many."""

    def rank(position):
        score = float(scores[position])
        return (True, 0.0, position) if math.isnan(score) else (False, -score, position)

    candidates = [position for position in range(len(scores)) if not left_out[position]]
    best = sorted(candidates, key=rank)[: len(positions_out)]
    positions_out[: len(best)] = best
    return len(best)


# --- csr ----------------------------------------------------------------------------------------


def first_out_of_range(indices, n_items):
    """Return the position of the first index outside [0, n_items), or -1."""
    for position, index in enumerate(indices.tolist()):
        if not 0 <= index < n_items:
            return position
    return -1


def first_nonfinite(values):
    """Return the position of the first NaN or infinity, or -1."""
    for position, value in enumerate(values.tolist()):
        if not math.isfinite(value):
            return position
    return -1


def first_duplicate(indptr, indices, last_row):
    """Return the position of the first index that its own row holds already, or -1."""
    for u in range(len(indptr) - 1):
        seen = set()
        for position in range(int(indptr[u]), int(indptr[u + 1])):
            if int(indices[position]) in seen:
                return position
            seen.add(int(indices[position]))
    return -1


def first_unsorted(indptr, indices):
    """Return the position of the first index not above the one before it in its row, or -1."""
    for start, end in zip(indptr[:-1].tolist(), indptr[1:].tolist(), strict=True):
        for position in range(start + 1, end):
            if indices[position] <= indices[position - 1]:
                return position
    return -1
