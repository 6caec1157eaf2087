"""Slow, obviously right twins of every kernel, with the same arguments.

Plain Python on plain Python floats, which are double, whatever the type of the arrays: a twin of
float32 training is run on float64 copies. Written from the definitions, not from the kernels: the
rule of training as it is stated, not as decay and gain; sums by `math.fsum`; sorting by `sorted`.
"""

import math

MASK = 2**64 - 1


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
    P, Q, b, c = user_factors, item_factors, user_biases, item_biases
    mean = 0.0 if b is None else global_mean  # a model without biases has no mean
    alpha, beta = learning_rate, regularization
    squared_errors = []
    for s in range(first, last):
        u = s if row_order is None else int(row_order[s])
        start, stop = int(indptr[u]), int(indptr[u + 1])
        for j in range(start, stop):
            entry = j if entry_order is None else start + int(entry_order[j])
            i = int(indices[entry])
            error = float(ratings[entry]) - prediction(u, i, P, Q, b, c, mean)
            squared_errors.append(error * error)
            P[u], Q[i] = step(P[u].tolist(), Q[i].tolist(), error, alpha, beta)
            if b is not None:
                b[u] += alpha * (2 * error - beta * float(b[u]))
                c[i] += alpha * (2 * error - beta * float(c[i]))
    return math.fsum(squared_errors)


def step(p, q, error, alpha, beta):
    """Return the two rows after one rating; the item row sees the new user row."""
    p, q = list(p), list(q)
    for k in range(len(p)):
        p[k] += alpha * (2 * error * q[k] - beta * p[k])
        q[k] += alpha * (2 * error * p[k] - beta * q[k])
    return p, q


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


def sum_squares(values):
    """Return the sum of squares."""
    return math.fsum(value * value for value in values.tolist())


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


def split_mix_64(state):
    """Yield the numbers of SplitMix64 from a start."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def shuffle_rows(indptr, entry_order, seed):
    """Write a random order of the entries inside each row, as offsets from the row's start."""
    for u in range(len(indptr) - 1):
        start, stop = int(indptr[u]), int(indptr[u + 1])
        numbers = split_mix_64((seed + u * 0xD1342543DE82EF95) & MASK)
        order = []
        for i in range(stop - start):
            # Inside out: the new entry goes to a random place, what was there to the end.
            place = ((next(numbers) >> 32) * (i + 1)) >> 32
            order.append(i)
            order[i], order[place] = order[place], order[i]
        entry_order[start:stop] = order
