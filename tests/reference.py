"""Slow, obviously right twins of every kernel, with the same arguments.

Plain Python on plain Python floats, which are double, whatever the type of the arrays: a twin of
float32 training is run on float64 copies. Written from the definitions, not from the kernels: the
rule of training as it is stated, not as decay and gain; sums by `math.fsum`; sorting by `sorted`.
"""

import math
from collections import deque
from fractions import Fraction
from itertools import accumulate, pairwise

import numpy as np

# --- orders -------------------------------------------------------------------------------------


def row_order(seed, epoch, n_rows):
    """Return in which order an epoch takes the rows; this is what a seed stands for, for ever."""
    generator = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(1,)))
    return np.random.Generator(generator.jumped(epoch)).permutation(n_rows)


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


AVX512 = 2  # the highest level


def streams_of(n_factors, dtype, level=0, *, rowwise=False):
    """Return how many rows take turns: four of up to 128 bytes, two of the longest, else three.

    Which are the longest depends on the level's registers; the level does not matter up to 128.
    """
    n_bytes = 64 * math.ceil(n_factors * dtype.itemsize / 64)
    if n_bytes <= 128:
        return 4
    if level == AVX512:
        return 3 if n_bytes <= (256 if rowwise else 448) else 2
    return 3 if n_bytes <= 256 and not rowwise else 2


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
        old = list(P[u])
        P[u] = [user_decay * x + alpha * error * y for x, y in zip(P[u], Q[i], strict=True)]
        seen = list(P[u])
        if user_records is not None:
            seen = old
            item_records[i, 0] += gradient_weight * squared_gradient(
                item_records[i], error, Q[i], seen
            )
        Q[i] = [item_decay * y + beta * error * x for x, y in zip(seen, Q[i], strict=True)]
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


# --- implicit -----------------------------------------------------------------------------------


def implicit_streams_of(n_factors, dtype):
    """Return how many rows take turns with implicit factors: three of up to 256 bytes, else two."""
    return 3 if n_factors * dtype.itemsize <= 256 else 2


def implicit_events(indptr, row_order, n_streams):
    """Yield what happens, in order: a row and "begin", one of its positions, or "end"."""
    rows = ((int(u), deque(range(indptr[u], indptr[u + 1]))) for u in row_order)
    rows = ((u, left) for u, left in rows if left)
    streams = []
    for _ in range(n_streams):
        streams.append(next(rows, None))
        if streams[-1] is not None:
            yield streams[-1][0], "begin"
    while None not in streams:
        for u, left in streams:
            yield u, left.popleft()
        for m, (u, left) in enumerate(streams):
            if not left:
                yield u, "end"
                streams[m] = next(rows, None)
                if streams[m] is not None:
                    yield streams[m][0], "begin"
    for u, left in filter(None, streams):
        for position in left:
            yield u, position
        yield u, "end"


def implicit_epoch(
    indptr,
    indices,
    ratings,
    row_order,
    weights,
    user_factors,
    item_factors,
    implicit_factors,
    user_biases,
    item_biases,
    user_records,
    item_records,
    scratch,  # not needed here
    first,
    last,
    n_streams,  # where the kernel has the level, which is not to matter
    global_mean,
    user_rate,
    item_rate,
    bias_rate,
    implicit_rate,
    implicit_shrink,
    gradient_weight,
):
    """Visit the rows at positions first to last - 1 in turns; return the running sum."""
    P, Q, Y, b, c = user_factors, item_factors, implicit_factors, user_biases, item_biases
    first_sums, sums, total = {}, {}, []
    for u, event in implicit_events(indptr, row_order[first:last], n_streams):
        if event == "begin":
            first_sums[u] = sums[u] = weighted_sum(u, indptr, indices, weights, Y)
        elif event == "end":
            change = [
                float(weights[u]) * (s - t) for s, t in zip(sums[u], first_sums[u], strict=True)
            ]
            for i in indices[indptr[u] : indptr[u + 1]].tolist():
                Y[i] = [y + part for y, part in zip(Y[i].tolist(), change, strict=True)]
        else:
            i = int(indices[event])
            p, q, s = P[u].tolist(), Q[i].tolist(), sums[u]
            w = [x + y for x, y in zip(p, s, strict=True)]
            bias, other_bias = float(b[u]), float(c[i])
            product = math.fsum(x * y for x, y in zip(w, q, strict=True))
            error = float(ratings[event]) - global_mean - bias - other_bias - product
            total.append(error * error)
            rate = user_rate / math.sqrt(user_records[u, 0])
            P[u] = moved_row(p, q, error, rate, user_records[u], gradient_weight)
            sums[u] = [
                x + implicit_rate * rate * (error * y - implicit_shrink * x)
                for x, y in zip(s, q, strict=True)
            ]
            rate = item_rate / math.sqrt(item_records[i, 0])
            Q[i] = moved_row(q, w, error, rate, item_records[i], gradient_weight)
            b[u] = bias + bias_rate * (error - float(user_records[u, 3]) * bias)
            c[i] = other_bias + bias_rate * (error - float(item_records[i, 3]) * other_bias)
    return math.fsum(total)


def moved_row(row, other, error, rate, record, gradient_weight):
    """Return a row after its step; the square of the gradient is added to its record."""
    gradient = [error * y - float(record[2]) * x for x, y in zip(row, other, strict=True)]
    record[0] += gradient_weight * math.fsum(x * x for x in gradient)
    return [x + rate * step for x, step in zip(row, gradient, strict=True)]


def weighted_sum(u, indptr, indices, weights, rows):
    """Return the weight of a user times the sum of the rows of the user's items."""
    items = [rows[i].tolist() for i in indices[indptr[u] : indptr[u + 1]]]
    return [float(weights[u]) * math.fsum(numbers) for numbers in zip(*items, strict=True)]


def implicit_sums(indptr, indices, weights, implicit_factors, sums_out, first, last):
    """Write the weighted sums of users first to last - 1."""
    for u in range(first, last):
        if indptr[u] == indptr[u + 1]:
            sums_out[u] = 0
        else:
            sums_out[u] = weighted_sum(u, indptr, indices, weights, implicit_factors)


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


# --- biases -------------------------------------------------------------------------------------


def sum_deviations(indptr, indices, ratings, user_sums, item_sums, first, last, global_mean):
    """Write or add the sums of deviations over rows first to last - 1; return that of squares."""
    squares = []
    for u in range(first, last):
        deviations = [float(ratings[j]) - global_mean for j in range(indptr[u], indptr[u + 1])]
        user_sums[u] = math.fsum(deviations)
        for i, deviation in zip(indices[indptr[u] : indptr[u + 1]], deviations, strict=True):
            item_sums[i] += deviation
        squares += [deviation * deviation for deviation in deviations]
    return math.fsum(squares)


def damp_users(
    indptr, indices, user_sums, item_biases, user_biases, item_sums, first, last, damping
):
    """Write damped means of rows first to last - 1, add them by column; return Σ b_u c_i."""
    products = []
    for u in range(first, last):
        rated = [int(i) for i in indices[indptr[u] : indptr[u + 1]]]
        left = [user_sums[u], *(-float(item_biases[i]) for i in rated)]
        user_biases[u] = math.fsum(left) / (len(rated) + damping) if rated else 0.0
        for i in rated:
            item_sums[i] += user_biases[u]
            products.append(user_biases[u] * item_biases[i])
    return math.fsum(products)


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


def cut_in_parts(indptr, row_order, parts_out):
    """Write where each of several parts of the rows begins, and the number of rows."""
    lengths = [after - start for start, after in pairwise(indptr.tolist())]
    order = range(len(lengths)) if row_order is None else row_order
    ends = list(accumulate(lengths[u] for u in order))
    n_parts = len(parts_out) - 1
    wanted = [Fraction(sum(lengths) * k, n_parts) for k in range(1, n_parts)]
    starts = [next((s for s, end in enumerate(ends) if end >= x), len(ends)) for x in wanted]
    parts_out[:] = [0, *starts, len(ends)]


# --- general ------------------------------------------------------------------------------------


def general_epoch(
    cuts,
    indices,
    ratings,
    weights,
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
    level,  # which is not to matter
    loss,
    huber_threshold,
    slope_limit,
    biased,
    global_mean,
    user_rate,
    item_rate,
    bias_rate,
    gradient_weight,
    l1_user,
    l1_item,
    nonnegative,
    together,
):
    """Visit a strip of the rows at positions first to last - 1; return the sum of the losses."""
    model = user_factors, item_factors, user_biases, item_biases, global_mean
    losses = []
    for s in range(first, last):
        u = s if row_order is None else int(row_order[s])
        for j in range(int(cuts[u * n_strips + strip]), int(cuts[u * n_strips + strip + 1])):
            i = int(indices[j])
            weight = 1.0 if weights is None else float(weights[j])
            value, slope = loss_and_slope(
                loss, float(ratings[j]), prediction(u, i, *model), huber_threshold
            )
            losses.append(weight * value)
            d = max(-slope_limit, min(slope_limit, weight * slope))
            seen = user_factors[u].copy() if together else user_factors[u]
            for row, other, record, rate, l1 in (
                (user_factors[u], item_factors[i], user_records[u], user_rate, l1_user),
                (item_factors[i], seen, item_records[i], item_rate, l1_item),
            ):
                descend(row, other, record, d, rate, gradient_weight, l1, nonnegative)
            if biased:
                user_biases[u] += bias_rate * (d - float(user_records[u, 3] * user_biases[u]))
                item_biases[i] += bias_rate * (d - float(item_records[i, 3] * item_biases[i]))
    return math.fsum(losses)


def descend(row, other, record, d, rate, gradient_weight, l1, nonnegative):
    """Move one row of a pair in place and let its sum of squared gradients, record[0], grow."""
    down = [d * y - float(record[2]) * x for x, y in zip(row.tolist(), other.tolist(), strict=True)]
    eta = rate / math.sqrt(float(record[0]))
    for k in range(len(down)):
        moved = float(row[k]) + eta * down[k]
        shrunk = math.copysign(max(0.0, abs(moved) - eta * l1), moved)
        row[k] = max(0.0, shrunk) if nonnegative else shrunk
    record[0] += gradient_weight * math.fsum(x * x for x in down)


def loss_and_slope(loss, r, x, threshold):
    """Return the loss of one rating and minus its derivative, which is halved for 0 and 2."""
    error = r - x
    if loss == 0:
        return error**2, error
    if loss == 1:
        return abs(error), math.copysign(1.0, error) if error else 0.0
    if loss == 2:
        if abs(error) <= threshold:
            return error**2, error
        return threshold * (2 * abs(error) - threshold), math.copysign(threshold, error)
    if loss == 3:
        probability = 1 / (1 + math.exp(-x))
        return math.log1p(math.exp(x)) - r * x, r - probability
    if x > 40:
        return math.exp(40) * (x - 39) - r * x, r - math.exp(40)
    return math.exp(x) - r * x, r - math.exp(x)


def sum_losses(ratings, weights, predictions, loss, huber_threshold):
    """Return the sum of the weighted losses."""
    return math.fsum(
        (1.0 if weights is None else float(weights[t]))
        * loss_and_slope(loss, float(ratings[t]), float(predictions[t]), huber_threshold)[0]
        for t in range(len(ratings))
    )


# --- gibbs --------------------------------------------------------------------------------------


def solve_upper(upper, right):
    """Return x with Ux = b for an upper triangular U."""
    x = [0.0] * len(right)
    for k in reversed(range(len(right))):
        known = [upper[k][c] * x[c] for c in range(k + 1, len(right))]
        x[k] = (right[k] - math.fsum(known)) / upper[k][k]
    return x


def upper_root(matrix):
    """Return the upper triangular U of U'U = A, or None if A is not positive definite."""
    size = len(matrix)
    upper = [[0.0] * size for _ in range(size)]
    for r in range(size):
        for c in range(r, size):
            left = matrix[r][c] - math.fsum(upper[k][r] * upper[k][c] for k in range(r))
            if c > r:
                upper[r][c] = left / upper[r][r]
            elif not 0 < left < math.inf:
                return None
            else:
                upper[r][r] = math.sqrt(left)
    return upper


def row_given_others(others, ratings, prior_mean, precision, biased, noise_precision):
    """Return the precision A of a row given its ratings, and A times its mean."""
    size = len(prior_mean)
    features = [[*other[:-1], 1.0] if biased else list(other) for other in others]
    targets = [
        rating - (other[-1] if biased else 0.0)
        for rating, other in zip(ratings, others, strict=True)
    ]
    A = [
        [
            precision[r][c] + noise_precision * math.fsum(x[r] * x[c] for x in features)
            for c in range(size)
        ]
        for r in range(size)
    ]
    h = [
        math.fsum(precision[r][c] * prior_mean[c] for c in range(size))
        + noise_precision * math.fsum(t * x[r] for t, x in zip(targets, features, strict=True))
        for r in range(size)
    ]
    return A, h


def draw_rows(
    indptr,
    indices,
    ratings,
    others,
    prior_means,
    precision,
    normals,
    rows,
    means,
    first,
    last,
    biased,
    noise_precision,
):
    """Draw rows first to last - 1 in place; return -1 or the row whose precision is no such."""
    for u in range(first, last):
        entries = slice(int(indptr[u]), int(indptr[u + 1]))
        A, h = row_given_others(
            others[indices[entries]].tolist(),
            ratings[entries].tolist(),
            prior_means[u if len(prior_means) > 1 else 0].tolist(),
            precision.tolist(),
            biased,
            noise_precision,
        )
        upper = upper_root(A)
        if upper is None:
            return u
        lower = [list(column) for column in zip(*upper, strict=True)]
        # U'y = h, with rows and columns turned round to make it upper triangular.
        turned = [row[::-1] for row in lower[::-1]]
        means[u] = solve_upper(upper, solve_upper(turned, h[::-1])[::-1])
        rows[u] = means[u] + solve_upper(upper, normals[u - first].tolist())
    return -1


def row_prediction(row, other, biased):
    """Return the product of the factors and the sum of the biases behind them."""
    if biased:
        return prediction(0, 0, row[None, :-1], other[None, :-1], row[-1:], other[-1:])
    return prediction(0, 0, row[None], other[None])


def squared_errors(indptr, indices, ratings, others, rows, first, last, biased):
    """Return the sum of the squared errors of the ratings of rows first to last - 1."""
    errors = [
        float(ratings[j]) - row_prediction(rows[u], others[indices[j]], biased)
        for u in range(first, last)
        for j in range(int(indptr[u]), int(indptr[u + 1]))
    ]
    return math.fsum(error * error for error in errors)


def draw_features(
    indptr,
    indices,
    weights,
    noise,
    features,
    residuals,
    first,
    last,
    column,
    n_columns,
    strength,
):
    """Draw some columns of features first to last - 1 in place, with the residuals."""
    for j in range(first, last):
        having = indices[int(indptr[j]) : int(indptr[j + 1])].tolist()
        if not having:
            continue
        precision = strength + math.fsum(float(weights[u]) ** 2 for u in having)
        for f in range(column, column + n_columns):
            for u in having:  # as if the feature were zero
                residuals[u, f] += float(weights[u]) * float(features[j, f])
            explained = math.fsum(float(weights[u]) * float(residuals[u, f]) for u in having)
            drawn = explained / precision + float(noise[j, f]) / math.sqrt(precision)
            features[j, f] = drawn
            for u in having:
                residuals[u, f] -= float(weights[u]) * drawn
