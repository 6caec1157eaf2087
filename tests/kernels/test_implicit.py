"""The epoch with implicit features: its order, its numbers and what it leaves alone, by level."""

import itertools
import math
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import reference
from arrays import assert_identical, misaligned, padding, unpadded
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOATS, LENGTHS, make_problem, rated_rows

from cmf._kernels.implicit import SCRATCH_ROWS, implicit_epoch, implicit_sums
from cmf._kernels.interleaved import highest_level
from cmf._rows import copy_rows, zero_rows

LEVELS = range(highest_level() + 1)

# Every length that has code of its own, and rows on either side of an even number of blocks beyond.
BLOCKS = (*range(1, 9), 9, 10, 17)

# A row is visited at most 9 times, and each visit rounds numbers below 4, whose last place is
# 2**-22, a handful of times; sums of squared gradients can be larger. A missing term is 1e-4.
FLOAT32 = {"rtol": 2.0**-19, "atol": 32 * 2.0**-22}
FLOAT64 = {"rtol": 1e-12, "atol": 1e-14}


@dataclass(frozen=True, eq=False)
class Implicit:
    """Ratings, a model with implicit features, and all that an epoch is told."""

    indptr: np.ndarray
    indices: np.ndarray
    ratings: np.ndarray
    row_order: np.ndarray
    weights: np.ndarray
    user_factors: np.ndarray
    item_factors: np.ndarray
    implicit_factors: np.ndarray
    user_biases: np.ndarray
    item_biases: np.ndarray
    user_records: np.ndarray
    item_records: np.ndarray
    global_mean: float = 0.0
    user_rate: float = 2.0**-5
    item_rate: float = 2.0**-6
    bias_rate: float = 2.0**-7
    implicit_rate: float = 0.5
    implicit_shrink: float = 0.25
    gradient_weight: float = 0.5

    @property
    def values(self):
        return [getattr(self, field.name) for field in fields(self)]

    @property
    def inputs(self):
        return self.values[:5]

    @property
    def model(self):
        """What an epoch changes."""
        return self.values[5:12]

    @property
    def scalars(self):
        return self.values[12:]

    @property
    def dtype(self):
        return self.ratings.dtype

    @property
    def n_users(self):
        return len(self.user_biases)

    @property
    def n_factors(self):
        return self.user_factors.shape[1]

    def with_model(self, model):
        names = [field.name for field in fields(self)][5:12]
        return replace(self, **dict(zip(names, model, strict=True)))


def make_implicit(rng, rated, n_factors, *, dtype=np.float64, **settings):
    """Fill a pattern of rated cells with numbers of a sane size."""
    problem = make_problem(rng, rated, n_factors, dtype=dtype, unsorted=True)
    counts = np.maximum(1, np.diff(problem.indptr))
    shape = problem.item_factors.shape

    def records(n):
        """Sums from 1 to 2, norms that nobody reads, and two regularizations."""
        columns = [rng.uniform(1, 2, n), np.full(n, np.nan), rng.random(n) / 4, rng.random(n) / 4]
        return np.stack(columns, axis=1).astype(dtype)

    return Implicit(
        problem.indptr,
        problem.indices,
        problem.ratings,
        problem.row_order,
        (counts**-0.5).astype(dtype),
        problem.user_factors,
        problem.item_factors,
        (rng.normal(size=shape) / n_factors**0.5).astype(dtype),
        problem.user_biases,
        problem.item_biases,
        records(problem.n_users),
        records(problem.n_items),
        **settings,
    )


def run(problem, level, rows=None, scratch=None):
    """Run one epoch on padded copies; return the running sum and what the model has become."""
    model = [
        copy_rows(array) if array.ndim == 2 and position < 3 else array.copy()
        for position, array in enumerate(problem.model)
    ]
    if scratch is None:
        scratch = zero_rows(SCRATCH_ROWS, problem.n_factors, problem.dtype)
    rows = (0, problem.n_users) if rows is None else rows
    total = implicit_epoch(*problem.inputs, *model, scratch, *rows, level, *problem.scalars)
    for padded in (*model[:3], scratch):
        assert not padding(padded).any()
    return total, model


def run_twin(problem, rows=None, n_streams=None):
    """Run one epoch of the twin on copies in double."""
    model = [array.astype(np.float64) for array in problem.model]
    rows = (0, problem.n_users) if rows is None else rows
    if n_streams is None:
        n_streams = reference.implicit_streams_of(problem.n_factors, problem.dtype)
    total = reference.implicit_epoch(
        *problem.inputs, *model, None, *rows, n_streams, *problem.scalars
    )
    return total, model


def assert_equal_models(found, expected):
    (total, model), (expected_total, expected_model) = found, expected
    double = model[0].dtype == np.float64
    for mine, theirs in zip(model, expected_model, strict=True):
        np.testing.assert_allclose(mine, theirs, **(FLOAT64 if double else FLOAT32))
    assert total == pytest.approx(
        expected_total, rel=1e-12 if double else 2e-5, abs=1e-14 if double else 1e-6
    )


RATES = st.floats(2**-10, 2**-5, width=32)


@st.composite
def implicit_problems(draw):
    """Small problems in rows of every number of blocks; few items, so that streams meet."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from(FLOATS))
    per_block = 64 // np.dtype(dtype).itemsize
    return make_implicit(
        rng,
        rated_rows(rng, draw(LENGTHS), n_items=draw(st.integers(1, 9) | st.just(40))),
        draw(st.sampled_from(BLOCKS)) * per_block - draw(st.integers(0, per_block - 1)),
        dtype=dtype,
        # Scalars are float32 numbers, so that kernels of both types are given the same.
        global_mean=draw(st.floats(-4, 4, width=32)),
        user_rate=draw(RATES),
        item_rate=draw(RATES),
        bias_rate=draw(st.just(0.0) | RATES),
        implicit_rate=draw(st.floats(0, 2, width=32)),
        implicit_shrink=draw(st.floats(0, 0.5, width=32)),
        gradient_weight=draw(st.floats(0, 1, width=32)),
    )


def ranges(n_rows):
    """Some rows, often all."""
    return st.just((0, n_rows)) | st.tuples(*[st.integers(0, n_rows)] * 2).map(sorted).map(tuple)


# --- the order of visits ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "n_streams", "expected"),
    [
        # Rows 0 and 1 end at once: row 2 begins behind what row 0 adds to y, before row 1 does.
        ([1, 1, 1], 2, "0+ 1+ 0:0 1:1 0- 2+ 1- 2:2 2-"),
        # Row 2 takes the place of row 0; row 1 goes on.
        ([1, 3, 2], 2, "0+ 1+ 0:0 1:1 0- 2+ 2:4 1:2 2:5 1:3 2- 1-"),
        # No turns without a row for every stream.
        ([2, 2], 3, "0+ 1+ 0:0 0:1 0- 1:2 1:3 1-"),
        # Rows without ratings take no place.
        ([0, 1, 0, 2, 0], 2, "1+ 3+ 1:0 3:1 1- 3:2 3-"),
        ([0, 0], 2, ""),
        ([], 3, ""),
    ],
)
def test_twin_visits_as_it_is_told(lengths, n_streams, expected):
    events = reference.implicit_events(np.cumsum([0, *lengths]), range(len(lengths)), n_streams)
    marks = {"begin": "+", "end": "-"}
    assert " ".join(f"{u}{marks.get(event, f':{event}')}" for u, event in events) == expected


@given(lengths=LENGTHS, n_streams=st.sampled_from((2, 3)), seed=st.integers(0, 99))
def test_twin_visits_in_the_order_of_the_plain_epoch(lengths, n_streams, seed):
    indptr = np.cumsum([0, *lengths])
    order = np.random.default_rng(seed).permutation(len(lengths))
    events = list(reference.implicit_events(indptr, order, n_streams))
    visits = [(u, event) for u, event in events if not isinstance(event, str)]
    assert visits == list(reference.interleaved_visits(indptr, order, n_streams))
    for u in range(len(lengths)):  # begun once before, ended once behind all of its visits
        in_row = [event for row, event in events if row == u]
        assert in_row == (["begin", *range(*indptr[u : u + 2]), "end"] if lengths[u] else [])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("lengths", [[40] * 12, [1, 60, 2, 30, 30, 5], [7, 0, 0, 9, 3, 1]])
@pytest.mark.parametrize(
    ("n_factors", "n_streams"),
    [(1, 3), (32, 3), (33, 2), (64, 2), (65, 2)],  # 256 bytes are 32 numbers
)
def test_rows_up_to_256_bytes_are_visited_three_at_a_time(
    n_factors, n_streams, lengths, level, rng
):
    problem = make_implicit(rng, rated_rows(rng, lengths, n_items=max(lengths)), n_factors)
    total, _ = run(problem, level)
    for n in (1, 2, 3):
        expected, _ = run_twin(problem, n_streams=n)
        assert (total == pytest.approx(expected, rel=1e-12)) == (n == n_streams)


# --- the numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("level", LEVELS)
def test_two_users_by_hand(level, dtype):
    # Two users, one factor. User 0 rated both items, user 1 the second. Rates are 1 for
    # users (G = 1) and 1/2 for items (G = 4) at first.
    def numbers(*values):
        return np.array(values, dtype=dtype)

    problem = Implicit(
        indptr=np.array([0, 2, 3]),
        indices=np.array([0, 1, 1], dtype=np.int32),
        ratings=numbers(8, 9, 4),
        row_order=np.array([1, 0]),
        weights=numbers(0.5, 2),
        user_factors=numbers([1], [1]),
        item_factors=numbers([2], [1]),
        implicit_factors=numbers([2], [4]),
        user_biases=numbers(1, 0),
        item_biases=numbers(0, -1),
        user_records=numbers([1, 7, 0.5, 1], [1, 7, 0, 0]),
        item_records=numbers([4, 7, 0, 0], [4, 7, 1, 0]),
        user_rate=1.0,
        item_rate=1.0,
        bias_rate=0.5,
        implicit_rate=0.5,
        implicit_shrink=2.0,
        gradient_weight=1.0,
    )
    total, (P, Q, Y, b, c, user_records, item_records) = run(problem, level)
    # Only two rows for three streams: user 1 begins with s = 2·4 = 8, user 0 with s = (2+4)/2 = 3.
    # user 1, item 1: w = 9, e = 4 + 1 - 9 = -4; p = 1 - 4 = -3, G = 1 + 16;
    #   s = 8 + (-4 - 16)/2 = -2; q = 1 + (-36 - 1)/2 = -17.5, G = 4 + 37²; b = -2, c = -3
    #   y1 = 4 + 2·(-2 - 8) = -16
    # user 0, item 0: w = 4, e = 8 - 1 - 8 = -1; p = 1 - 2 - 1/2 = -1.5, G = 1 + 2.5² = 7.25;
    #   s = 3 + (-2 - 6)/2 = -1; q = 2 + (-4)/2 = 0, G = 4 + 16; b = 1 - (1 + 1)/2 = 0, c = -1/2
    # user 0, item 1: w = -2.5, e = 9 - 0 + 3 - 43.75 = -31.75 ...
    gradient, rate = -31.75 * -17.5 - 0.5 * -1.5, 1 / math.sqrt(7.25)
    s = -1 + rate / 2 * (-31.75 * -17.5 - 2 * -1)
    item_gradient = -31.75 * -2.5 + 17.5
    exact = {"rtol": 4 * np.finfo(dtype).eps}
    np.testing.assert_allclose(total, 16 + 1 + 31.75**2, **exact)
    np.testing.assert_allclose(P, [[-1.5 + rate * gradient], [-3]], **exact)
    np.testing.assert_allclose(Q, [[0], [-17.5 + item_gradient / math.sqrt(4 + 37**2)]], **exact)
    np.testing.assert_allclose(Y, [[2 + (s - 3) / 2], [-16 + (s - 3) / 2]], **exact)
    np.testing.assert_allclose(b, [-15.875, -2], **exact)
    np.testing.assert_allclose(c, [-0.5, -3 - 15.875], **exact)
    np.testing.assert_allclose(user_records[:, 0], [7.25 + gradient**2, 17], **exact)
    np.testing.assert_allclose(item_records[:, 0], [20, 4 + 37**2 + item_gradient**2], **exact)


@pytest.mark.parametrize("level", LEVELS)
@given(problem=implicit_problems(), data=st.data())
def test_epoch_equals_its_twin(level, problem, data):
    rows = data.draw(ranges(problem.n_users))
    assert_equal_models(run(problem, level, rows), run_twin(problem, rows))


@pytest.mark.parametrize("n_items", [9, 300])
@pytest.mark.parametrize("n_blocks", BLOCKS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("level", LEVELS)
def test_every_length_of_rows_equals_its_twin(level, dtype, n_blocks, n_items, rng):
    per_block = 64 // np.dtype(dtype).itemsize
    rated = rated_rows(rng, [4, 0, 9, 1, 3, 9, 2], n_items)
    for missing in (0, 1, per_block - 1):
        n_factors = n_blocks * per_block - missing
        problem = make_implicit(rng, rated, n_factors, dtype=dtype, global_mean=2.5)
        assert_equal_models(run(problem, level), run_twin(problem))


@pytest.mark.parametrize("level", LEVELS)
@given(problem=implicit_problems())
def test_without_implicit_factors_steps_are_those_of_the_plain_epoch(level, problem):
    problem = replace(
        problem, implicit_factors=np.zeros_like(problem.implicit_factors), implicit_rate=0.0
    )
    total, model = run(problem, level)
    P, Q, _, b, c, user_records, item_records = (a.astype(np.float64) for a in problem.model)
    n_streams = reference.implicit_streams_of(problem.n_factors, problem.dtype)
    expected = reference.interleaved_epoch(
        *problem.inputs[:4],
        *(P, Q, b, c, user_records, item_records),
        *(0, problem.n_users, 0, 1, n_streams),
        *(problem.global_mean, problem.user_rate, problem.item_rate, problem.bias_rate),
        *(1.0, 1.0, 1.0, 1.0, problem.gradient_weight),
    )
    assert not model[2].any()
    assert_equal_models(
        (total, [*model[:2], *model[3:]]), (expected, [P, Q, b, c, user_records, item_records])
    )


def objective(problem, model):
    """Return half of what the epoch descends: squared errors and, per rating, all penalties."""
    P, Q, Y, b, c, user_records, item_records = model
    sums = np.zeros_like(P)
    reference.implicit_sums(*problem.inputs[:2], problem.weights, Y, sums, 0, problem.n_users)
    total = 0.0
    for u in range(problem.n_users):
        for j in range(problem.indptr[u], problem.indptr[u + 1]):
            i = problem.indices[j]
            error = problem.ratings[j] - problem.global_mean - b[u] - c[i] - (P[u] + sums[u]) @ Q[i]
            total += error**2
            total += user_records[u, 2] * P[u] @ P[u] + user_records[u, 3] * b[u] ** 2
            total += item_records[i, 2] * Q[i] @ Q[i] + item_records[i, 3] * c[i] ** 2
            total += problem.implicit_shrink * sums[u] @ sums[u]
    return total / 2


@pytest.mark.parametrize("level", LEVELS)
def test_a_small_epoch_goes_down_the_gradient_of_the_objective(level, rng):
    rate = 1e-7
    problem = make_implicit(
        rng,
        rated_rows(rng, [3, 0, 5, 1, 2], n_items=6),
        3,
        global_mean=1.5,
        user_rate=rate,
        item_rate=rate,
        bias_rate=rate,
        implicit_rate=1.0,
        gradient_weight=0.0,  # rates stay as they are
    )
    for records in (problem.user_records, problem.item_records):
        records[:, 0] = 1
    _, model = run(problem, level)
    assert objective(problem, model) < objective(problem, problem.model)
    for which, (before, after) in enumerate(zip(problem.model[:5], model[:5], strict=True)):
        gradient = np.zeros_like(before)
        for place in np.ndindex(before.shape):
            values = []
            for sign in (-1, 1):
                moved = [array.copy() for array in problem.model]
                moved[which][place] += sign * 1e-5
                values.append(objective(problem, moved))
            gradient[place] = (values[1] - values[0]) / 2e-5
        np.testing.assert_allclose((before - after) / rate, gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_factors", [1, 64, 100, 200])
@pytest.mark.parametrize("level", LEVELS)
def test_running_sum_of_float32_errors_is_kept_in_double(level, n_factors, rng):
    # With w·q = 1 and rates too small to move them, every error is rating - 1, rounded once. A
    # float32 sum of so many numbers would be off by 1e-5 and more.
    unit = np.eye(1, n_factors, dtype=np.float32)
    problem = make_implicit(
        rng,
        np.ones((200, 1000), dtype=bool),
        n_factors,
        dtype=np.float32,
        user_rate=1e-30,
        item_rate=1e-30,
        bias_rate=0.0,
    )
    problem = replace(
        problem,
        user_factors=np.repeat(unit, 200, axis=0),
        item_factors=np.repeat(unit, 1000, axis=0),
        implicit_factors=np.zeros((1000, n_factors), dtype=np.float32),
        user_biases=np.zeros(200, dtype=np.float32),
        item_biases=np.zeros(1000, dtype=np.float32),
    )
    errors = (problem.ratings - np.float32(1)).astype(np.float64)
    total, _ = run(problem, level)
    assert total == pytest.approx(math.fsum(errors * errors), rel=1e-12)


@pytest.mark.parametrize("n_factors", [1, 20, 70, 200])
@pytest.mark.parametrize("dtype", FLOATS)
def test_levels_agree_but_for_rounding(dtype, n_factors, rng):
    problem = make_implicit(rng, rng.random((9, 9)) < 0.6, n_factors, dtype=dtype)
    outcomes = [run(problem, level) for level in LEVELS]
    for found in outcomes[1:]:
        assert_equal_models(found, outcomes[0])


# --- sums ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@given(problem=implicit_problems(), data=st.data())
def test_sums_equal_their_twin_and_other_rows_stay(level, problem, data):
    first, last = data.draw(ranges(problem.n_users))
    found = zero_rows(problem.n_users, problem.n_factors, problem.dtype)
    found[...] = 7
    expected = np.full(found.shape, 7.0)
    given_arrays = (*problem.inputs[:2], problem.weights)
    implicit_sums(*given_arrays, copy_rows(problem.implicit_factors), found, first, last, level)
    reference.implicit_sums(*given_arrays, problem.implicit_factors, expected, first, last)
    tolerance = FLOAT64 if problem.dtype == np.float64 else FLOAT32
    np.testing.assert_allclose(found, expected, **tolerance)
    assert not padding(found).any()


@pytest.mark.parametrize("n_blocks", BLOCKS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("level", LEVELS)
def test_whole_numbers_are_summed_exactly(level, dtype, n_blocks, rng):
    n_factors = n_blocks * 64 // np.dtype(dtype).itemsize
    rated = rated_rows(rng, [0, 1, 7, 300], n_items=300)
    problem = make_implicit(rng, rated, n_factors, dtype=dtype)
    weights = np.array([1, 2, 0.5, 1], dtype=dtype)
    rows = rng.integers(-9, 10, size=(300, n_factors)).astype(dtype)
    found = zero_rows(4, n_factors, np.dtype(dtype))
    implicit_sums(*problem.inputs[:2], weights, copy_rows(rows), found, 0, 4, level)
    np.testing.assert_array_equal(found, weights[:, None] * (rated.astype(dtype) @ rows))


# --- what stays -----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@given(problem=implicit_problems(), data=st.data())
def test_rows_that_are_not_visited_stay_bit_identical(level, problem, data):
    first, last = data.draw(ranges(problem.n_users))
    _, model = run(problem, level, (first, last))
    rows = [u for u in problem.row_order[first:last] if problem.indptr[u] < problem.indptr[u + 1]]
    items = [i for u in rows for i in problem.indices[problem.indptr[u] : problem.indptr[u + 1]]]
    users = np.setdiff1d(np.arange(problem.n_users), rows)
    others = np.setdiff1d(np.arange(len(problem.item_biases)), items)
    for position, (mine, theirs) in enumerate(zip(model, problem.model, strict=True)):
        untouched = users if position in (0, 3, 5) else others
        assert_identical((mine[untouched],), (theirs[untouched],))
    for mine, theirs in zip(model[5:], problem.model[5:], strict=True):
        assert_identical((mine[:, 1:],), (theirs[:, 1:],))


@pytest.mark.parametrize("level", LEVELS)
@given(problem=implicit_problems())
def test_without_a_rate_biases_of_zero_stay_so(level, problem):
    model = list(problem.model)
    model[3:5] = (np.zeros_like(biases) for biases in model[3:5])
    problem = replace(problem.with_model(model), bias_rate=0.0)
    _, found = run(problem, level)
    assert_identical(found[3:5], model[3:5])


@pytest.mark.parametrize("level", LEVELS)
@given(problem=implicit_problems())
def test_the_same_epoch_gives_the_same_bits(level, problem):
    once = run(problem, level)
    scratch = zero_rows(SCRATCH_ROWS + 1, problem.n_factors, problem.dtype)
    scratch[...] = np.nan  # whatever it held does not matter
    again = run(problem, level, scratch=scratch)
    assert again[0] == once[0]
    assert_identical(again[1], once[1])


@pytest.mark.parametrize("level", LEVELS)
@given(problem=implicit_problems(), data=st.data())
def test_every_call_starts_anew(level, problem, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, problem.n_users), max_size=3)))
    model = [
        copy_rows(array) if position < 3 else array.copy()
        for position, array in enumerate(problem.model)
    ]
    scratch = zero_rows(SCRATCH_ROWS, problem.n_factors, problem.dtype)
    expected = problem
    for rows in itertools.pairwise([0, *cuts, problem.n_users]):
        implicit_epoch(*problem.inputs, *model, scratch, *rows, level, *problem.scalars)
        expected = expected.with_model(run(expected, level, rows)[1])
    assert_identical(model, expected.model)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("level", LEVELS)
def test_inputs_may_be_read_only_and_are_not_changed(level, dtype, rng):
    problem = make_implicit(rng, rng.random((6, 5)) < 0.6, 4, dtype=dtype)
    for array in problem.inputs:
        array.flags.writeable = False
    before = [array.copy() for array in problem.inputs]
    run(problem, level)
    assert_identical(problem.inputs, before)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("n_factors", [3, 20, 201])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("wrong", [misaligned, unpadded])
def test_rows_that_are_not_padded_and_aligned_are_refused(wrong, which, dtype, n_factors, rng):
    problem = make_implicit(rng, np.ones((4, 4), dtype=bool), n_factors, dtype=dtype)
    rows = [copy_rows(array) for array in problem.model[:3]]
    rows.append(zero_rows(SCRATCH_ROWS, n_factors, problem.dtype))
    rows[which] = wrong(rows[which])
    arrays = (*problem.inputs, *rows[:3], *problem.model[3:], rows[3])
    with pytest.raises(ValueError, match="rows must be padded and aligned"):
        implicit_epoch(*arrays, 0, 4, 0, *problem.scalars)
    if which in (2, 3):
        sums = wrong(rows[0]) if which == 3 else rows[0]
        with pytest.raises(ValueError, match="rows must be padded and aligned"):
            implicit_sums(*problem.inputs[:2], problem.weights, rows[2], sums, 0, 4, 0)


@pytest.mark.parametrize("shape", [(SCRATCH_ROWS - 1, 20), (SCRATCH_ROWS, 19), (SCRATCH_ROWS, 30)])
def test_scratch_of_another_shape_is_refused(shape, rng):
    problem = make_implicit(rng, np.ones((4, 4), dtype=bool), 20)
    with pytest.raises(ValueError, match="scratch must be SCRATCH_ROWS rows"):
        run(problem, 0, scratch=zero_rows(*shape, problem.dtype))


@pytest.mark.parametrize("level", [-1, highest_level() + 1, 99])
@pytest.mark.parametrize("dtype", FLOATS)
def test_levels_that_are_not_available_are_refused(level, dtype, rng):
    problem = make_implicit(rng, np.ones((4, 4), dtype=bool), 3, dtype=dtype)
    with pytest.raises(ValueError, match="the level must be from 0 to"):
        run(problem, level)
    rows = copy_rows(problem.implicit_factors)
    with pytest.raises(ValueError, match="the level must be from 0 to"):
        implicit_sums(*problem.inputs[:2], problem.weights, rows, rows.copy(), 0, 4, level)
