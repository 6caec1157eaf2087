"""The epoch over rows in turns: its order, its numbers and what it leaves alone, at each level."""

import itertools
import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import reference
from arrays import assert_identical, misaligned, overpadded, padding, unpadded
from blocks import interleaved_block
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOATS, LENGTHS, make_problem, rated_rows

from cmf._kernels.interleaved import highest_level, settle_rows
from cmf._rows import copy_rows, zero_rows

LEVELS = range(highest_level() + 1)
LEVEL = 14  # where epochs take it, among the arguments below

# Every length that has code of its own, and rows on either side of an even number of blocks beyond.
BLOCKS = (*range(1, 9), 9, 10, 17)

# A row is visited at most 9 times, and each visit rounds numbers below 4, whose last place is
# 2**-22, a handful of times. 2500 problems differed by 3 units; a missing term is 1e-4.
FLOAT32 = {"rtol": 0, "atol": 32 * 2.0**-22}
FLOAT64 = {"rtol": 1e-12, "atol": 1e-14}


class Outcome(NamedTuple):
    """What an epoch leaves behind."""

    squared_errors: float
    user_factors: np.ndarray
    item_factors: np.ndarray
    user_biases: np.ndarray
    item_biases: np.ndarray

    @property
    def arrays(self):
        return self[1:]

    @property
    def model(self):
        """The arrays by the names that problems have for them."""
        return dict(zip(self._fields[1:], self.arrays, strict=True))


def run(problem, level, **visited):
    """Run one epoch on padded copies of the factors; the padding must come back as it was."""
    P, Q = copy_rows(problem.user_factors), copy_rows(problem.item_factors)
    b, c = problem.user_biases.copy(), problem.item_biases.copy()
    total = settled_epoch(*arguments(problem, (P, Q, b, c), level, **visited))
    for rows in (P, Q):
        assert not padding(rows).any()
    return Outcome(total, P, Q, b, c)


def settled_epoch(*given):
    """Run one epoch and settle the items' rows, as training does."""
    *arrays, Q, b, c, _, item_records = given[:10]
    scales, level = np.ones(len(c), dtype=c.dtype), given[LEVEL]
    settle_rows(Q, scales, item_records, 0, len(c), level)
    total = interleaved_block(*arrays, Q, b, c, scales, *given[8:])
    settle_rows(Q, scales, item_records, 0, len(c), level)
    assert (scales == 1).all()
    return total


def run_twin(problem, level, **visited):
    """Run one epoch of the twin of a level on copies in double."""
    n_streams = reference.streams_of(problem.user_factors.shape[1], problem.dtype, level)
    return run_twin_of_streams(problem, n_streams, **visited)


def run_twin_of_streams(problem, n_streams, **visited):
    """Run one epoch of the twin on copies in double, so many rows in turns."""
    arrays = tuple(np.array(array, dtype=np.float64) for array in model_of(problem))
    total = reference.interleaved_epoch(*arguments(problem, arrays, n_streams, **visited))
    return Outcome(total, *arrays)


def arguments(problem, arrays, level, *, biased=True, rows=None, cuts=None, strip=0, n_strips=1):
    """Arrange what the kernel is given; all ratings are visited unless rows or cuts are given."""
    rate = 2 * problem.learning_rate
    decay = 1 - problem.learning_rate * problem.regularization
    return (
        problem.indptr if cuts is None else cuts,
        problem.indices,
        problem.ratings,
        problem.row_order,
        *arrays,
        None,
        None,
        *((0, problem.n_users) if rows is None else rows),
        strip,
        n_strips,
        level,
        problem.global_mean,
        rate,
        rate,
        rate if biased else 0.0,
        *[decay] * 4,
        0.0,
    )


def model_of(problem):
    return (
        problem.user_factors,
        problem.item_factors,
        problem.user_biases,
        problem.item_biases,
    )


def without_biases(problem):
    """Return the problem with biases of zero."""
    return replace(
        problem,
        user_biases=np.zeros_like(problem.user_biases),
        item_biases=np.zeros_like(problem.item_biases),
    )


def problems_of_blocks(rng, n_blocks, dtype, *, biased):
    """Yield problems with rows of so many blocks, the last of them full, nearly so and begun."""
    per_block = 64 // np.dtype(dtype).itemsize
    for missing in (0, 1, per_block - 1):
        problem = make_problem(
            rng,
            rated_rows(rng, [4, 0, 9, 1, 3, 9, 2], n_items=9),
            n_blocks * per_block - missing,
            dtype=dtype,
            unsorted=True,
            global_mean=2.5,
        )
        yield problem if biased else without_biases(problem)


def assert_equals_twin(found, expected):
    double = found.user_factors.dtype == np.float64
    for mine, theirs in zip(found.arrays, expected.arrays, strict=True):
        np.testing.assert_allclose(mine, theirs, **(FLOAT64 if double else FLOAT32))
    assert found.squared_errors == pytest.approx(
        expected.squared_errors, rel=1e-12 if double else 2e-5, abs=1e-14 if double else 1e-6
    )


@st.composite
def interleaved_problems(draw):
    """Small problems in rows of every number of blocks; few items, so that streams meet."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from(FLOATS))
    per_block = 64 // np.dtype(dtype).itemsize
    problem = make_problem(
        rng,
        rated_rows(rng, draw(LENGTHS), n_items=draw(st.integers(1, 9))),
        draw(st.sampled_from(BLOCKS)) * per_block - draw(st.integers(0, per_block - 1)),
        dtype=dtype,
        unsorted=draw(st.booleans()),
        read_only=draw(st.booleans()),
        # Scalars are float32 numbers, so that kernels of both types are given the same.
        global_mean=draw(st.floats(-4, 4, width=32)),
        learning_rate=draw(st.floats(2**-10, 2**-5, width=32)),
        regularization=draw(st.floats(0, 0.5, width=32)),
    )
    return problem, draw(st.booleans())


@st.composite
def visits(draw, indptr):
    """What an epoch is to visit: some rows, often all, and of each the whole or one of its strips.

    For the kernel a strip is any part of the row; that strips hold certain items is for others.
    """
    n_rows = len(indptr) - 1
    rows = draw(
        st.just((0, n_rows)) | st.tuples(*[st.integers(0, n_rows)] * 2).map(sorted).map(tuple)
    )
    n_strips = draw(st.integers(1, 4))
    inner = [
        sorted(
            draw(st.lists(st.integers(start, stop), min_size=n_strips - 1, max_size=n_strips - 1))
        )
        for start, stop in itertools.pairwise(indptr.tolist())
    ]
    cuts = [[start, *row] for start, row in zip(indptr.tolist(), inner, strict=False)]
    return {
        "rows": rows,
        "cuts": np.array([*itertools.chain(*cuts), indptr[-1]], dtype=np.int64),
        "strip": draw(st.integers(0, n_strips - 1)),
        "n_strips": n_strips,
    }


# --- the order of visits ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "n_streams", "expected"),
    [
        # All streams in turns, and all rows end at once.
        ([2, 2], 2, [(0, 0), (1, 2), (0, 1), (1, 3)]),
        # Row 2 takes the place of row 0, row 1 goes on; the rest is finished stream by stream.
        ([1, 3, 3], 2, [(0, 0), (1, 1), (2, 4), (1, 2), (2, 5), (1, 3), (2, 6)]),
        ([1, 2, 3], 2, [(0, 0), (1, 1), (2, 3), (1, 2), (2, 4), (2, 5)]),
        ([3, 1, 1], 2, [(0, 0), (1, 3), (0, 1), (2, 4), (0, 2)]),
        # No turns without a row for every stream.
        ([2, 2], 3, [(0, 0), (0, 1), (1, 2), (1, 3)]),
        ([3], 2, [(0, 0), (0, 1), (0, 2)]),
        # Rows without ratings take no place.
        ([0, 1, 0, 2, 0], 2, [(1, 0), (3, 1), (3, 2)]),
        ([0, 0], 2, []),
        ([], 3, []),
        # Two rows end in one turn: the first stream takes the next row first.
        ([1, 1, 2, 1, 1], 3, [(0, 0), (1, 1), (2, 2), (3, 4), (4, 5), (2, 3)]),
    ],
)
def test_twin_visits_as_it_is_told(lengths, n_streams, expected):
    indptr = np.cumsum([0, *lengths])
    visits = reference.interleaved_visits(indptr, range(len(lengths)), n_streams)
    assert list(visits) == expected


@given(lengths=LENGTHS, n_streams=st.sampled_from((2, 3, 4)), seed=st.integers(0, 99))
def test_twin_visits_everything_once_and_every_row_in_stored_order(lengths, n_streams, seed):
    indptr = np.cumsum([0, *lengths])
    order = np.random.default_rng(seed).permutation(len(lengths))
    visits = list(reference.interleaved_visits(indptr, order, n_streams))
    assert sorted(visits) == [
        (u, j) for u in range(len(lengths)) for j in range(indptr[u], indptr[u + 1])
    ]
    for u in range(len(lengths)):
        in_row = [position for row, position in visits if row == u]
        assert in_row == sorted(in_row)
    # Rows are begun in the order that was asked for.
    begun = list(dict.fromkeys(u for u, _ in visits))
    assert begun == [u for u in order.tolist() if lengths[u]]


def whole_number_problem(rng, lengths, n_factors, dtype):
    """Return a problem whose steps are free of rounding and all depend on each other.

    All ratings are of one item. With factors of zero, a rate of 1/2 and no regularization a visit
    makes (b, c) into (r - c, r - b): numbers grow by at most the rating, and any two visits that
    change places change what is left behind.
    """
    indptr = np.cumsum([0, *lengths], dtype=np.int64)
    return replace(
        make_problem(rng, np.zeros((len(lengths), 1), dtype=bool), n_factors, dtype=dtype),
        indptr=indptr,
        indices=np.zeros(indptr[-1], dtype=np.int32),
        ratings=rng.integers(-1000, 1000, indptr[-1]).astype(dtype),
        user_factors=np.zeros((len(lengths), n_factors), dtype=dtype),
        item_factors=np.zeros((1, n_factors), dtype=dtype),
        user_biases=rng.integers(-1000, 1000, len(lengths)).astype(dtype),
        item_biases=rng.integers(-1000, 1000, 1).astype(dtype),
        global_mean=7.0,
        learning_rate=0.5,
        regularization=0.0,
    )


@pytest.mark.parametrize("level", LEVELS)
@given(
    lengths=LENGTHS,
    dtype=st.sampled_from(FLOATS),
    n_blocks=st.sampled_from(BLOCKS),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_order_of_visits_is_exactly_that_of_the_twin(level, lengths, dtype, n_blocks, seed, data):
    problem = whole_number_problem(
        np.random.default_rng(seed), lengths, n_blocks * 64 // np.dtype(dtype).itemsize, dtype
    )
    visited = data.draw(visits(problem.indptr))
    found = run(problem, level, **visited)
    expected = run_twin(problem, level, **visited)
    assert found.squared_errors == expected.squared_errors
    for mine, theirs in zip(found.arrays, expected.arrays, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("lengths", [[40] * 12, [1, 60, 2, 30, 30, 5], [7, 0, 0, 9, 3, 1]])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("n_bytes", "more", "streams"),  # at the levels without and with registers of 64 bytes
    [
        (0, 1, (4, 4)),
        (128, 0, (4, 4)),
        (128, 1, (3, 3)),
        (256, 0, (3, 3)),
        (256, 1, (2, 3)),
        (448, 0, (2, 3)),
        (448, 1, (2, 2)),
        (512, 1, (2, 2)),  # beyond what is held
    ],
)
def test_so_many_users_take_turns_as_registers_hold(
    n_bytes, more, streams, dtype, lengths, level, rng
):
    n_factors = n_bytes // np.dtype(dtype).itemsize + more
    problem = whole_number_problem(rng, lengths, n_factors, dtype)
    found = run(problem, level)
    n_streams = streams[level == reference.AVX512]
    for n in (1, 2, 3, 4):
        expected = run_twin_of_streams(problem, n)
        same = np.array_equal(found.user_biases, expected.user_biases)
        assert same == (n == n_streams)
        assert (found.squared_errors == expected.squared_errors) == (n == n_streams)


# --- the numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("level", LEVELS)
def test_four_users_in_turns_by_hand(level, dtype):
    # One factor, one item, a rate of 1/2 and no regularization: p += e q, then q += e p.
    problem = replace(
        make_problem(np.random.default_rng(0), np.ones((5, 1), dtype=bool), 1, dtype=dtype),
        indptr=np.array([0, 2, 2, 4, 5, 6]),
        indices=np.zeros(6, dtype=np.int32),
        ratings=np.array([2, 10, 1, 6, 0, 3], dtype=dtype),
        user_factors=np.array([[1], [9], [2], [-1], [1]], dtype=dtype),
        item_factors=np.array([[1]], dtype=dtype),
        row_order=np.array([3, 1, 2, 0, 4]),
        learning_rate=0.5,
        regularization=0.0,
    )
    found = run(without_biases(problem), level, biased=False)
    # user 3: e = 0 + 1 = 1, p = -1 + 1 = 0, q = 1
    # user 2: e = 1 - 2 = -1, p = 2 - 1 = 1, q = 1 - 1 = 0
    # user 0: e = 2 - 0 = 2, p = 1 + 0 = 1, q = 0 + 2 = 2
    # user 4: e = 3 - 2 = 1, p = 1 + 2 = 3, q = 2 + 3 = 5
    # Two are left, and go one after the other.
    # user 2: e = 6 - 5 = 1, p = 1 + 5 = 6, q = 5 + 6 = 11
    # user 0: e = 10 - 11 = -1, p = 1 - 11 = -10, q = 11 + 10 = 21
    assert found.squared_errors == 1 + 1 + 4 + 1 + 1 + 1
    assert found.user_factors.tolist() == [[-10], [9], [6], [0], [3]]
    assert found.item_factors.tolist() == [[21]]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("level", LEVELS)
def test_whole_numbers_are_exact_for_every_number_of_factors(level, dtype, rng):
    # Whole numbers this small are added without rounding, in any order: no tolerance is needed, and
    # a factor that is counted twice or not at all shows.
    for n_factors in range(1, 18 * 64 // np.dtype(dtype).itemsize):
        p, q = rng.integers(-3, 4, size=(2, 4, n_factors))
        error = rng.integers(-5, 6, 4)
        problem = replace(
            make_problem(rng, np.eye(4, dtype=bool), n_factors, dtype=dtype),
            ratings=((p * q).sum(axis=1) + error).astype(dtype),
            user_factors=p.astype(dtype),
            item_factors=q.astype(dtype),
            learning_rate=0.5,
            regularization=0.0,
        )
        found = run(without_biases(problem), level, biased=False)
        new = p + error[:, None] * q
        assert found.squared_errors == (error**2).sum()
        np.testing.assert_array_equal(found.user_factors, new)
        np.testing.assert_array_equal(found.item_factors, q + error[:, None] * new)


@pytest.mark.parametrize("level", LEVELS)
@given(drawn=interleaved_problems(), data=st.data())
def test_epoch_equals_its_twin(level, drawn, data):
    problem, biased = drawn
    if not biased:
        problem = without_biases(problem)
    visited = data.draw(visits(problem.indptr))
    found = run(problem, level, biased=biased, **visited)
    assert_equals_twin(found, run_twin(problem, level, biased=biased, **visited))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("n_blocks", BLOCKS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("level", LEVELS)
def test_every_length_of_rows_equals_its_twin(level, dtype, n_blocks, biased, rng):
    for problem in problems_of_blocks(rng, n_blocks, dtype, biased=biased):
        found = run(problem, level, biased=biased)
        assert_equals_twin(found, run_twin(problem, level, biased=biased))


@pytest.mark.parametrize("n_factors", [1, 64, 100, 200])
@pytest.mark.parametrize("level", LEVELS)
def test_running_sum_of_float32_errors_is_kept_in_double(level, n_factors, rng):
    # With p·q = 1 and a rate too small to move them, every error is rating - 1, rounded once. A
    # float32 sum of so many numbers would be off by 1e-5 and more.
    problem = make_problem(
        rng, np.ones((200, 1000), dtype=bool), n_factors, dtype=np.float32, learning_rate=1e-30
    )
    unit = np.eye(1, n_factors, dtype=np.float32)
    problem = replace(
        without_biases(problem),
        user_factors=np.repeat(unit, 200, axis=0),
        item_factors=np.repeat(unit, 1000, axis=0),
    )
    errors = (problem.ratings - np.float32(1)).astype(np.float64)
    found = run(problem, level)
    assert found.squared_errors == pytest.approx(math.fsum(errors * errors), rel=1e-12)


@pytest.mark.parametrize("n_factors", [1, 20, 70, 200])
@pytest.mark.parametrize("dtype", FLOATS)
def test_levels_agree_but_for_rounding(dtype, n_factors, rng):
    # Where users share no items it does not matter how many of them take turns.
    rated = np.repeat(np.eye(9, dtype=bool), rng.integers(1, 9, 9), axis=1)
    problem = make_problem(rng, rated, n_factors, dtype=dtype, global_mean=2.5)
    outcomes = [run(problem, level) for level in LEVELS]
    for found in outcomes[1:]:
        assert_equals_twin(found, outcomes[0])


def shrinking_problem(rng, n_factors, dtype, decay):
    """Return a problem of long rows whose factors are multiplied by `decay` at every visit."""
    problem = make_problem(
        rng,
        rated_rows(rng, [90, 3, 90, 41, 0, 90, 17], n_items=90),
        n_factors,
        dtype=dtype,
        learning_rate=2.0**-7,
        regularization=(1 - decay) * 2.0**7,
        global_mean=0.5,
    )
    # Small ratings, so that the factors follow their decay and do not settle elsewhere.
    return replace(problem, ratings=(0.5 + problem.ratings / 16).astype(dtype))


# Rows of at least three blocks have scales, unless the decay is below 1/2. A row's scale is at
# decay**90 before rows are given back: with 0.9, 0.75 and 0.5 far below what scales may become.
@pytest.mark.parametrize("decay", [1.0, 0.9, 0.75, 0.5, 0.49, 0.25, 0.0, -0.5])
@pytest.mark.parametrize("n_blocks", [1, 3, 4, 8, 9])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("level", LEVELS)
def test_strong_regularization_equals_its_twin(level, dtype, n_blocks, decay, rng):
    problem = shrinking_problem(rng, n_blocks * 64 // np.dtype(dtype).itemsize, dtype, decay)
    problem = replace(
        problem,
        indices=np.where(rng.random(len(problem.indices)) < 0.3, 0, problem.indices).astype(
            np.int32
        ),  # one item that is visited most of the time
    )
    found, expected = run(problem, level), run_twin(problem, level)
    assert_equals_twin(found, expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("level", LEVELS)
def test_scales_stay_within_their_bounds(level, dtype, rng):
    problem = shrinking_problem(rng, 200 if dtype == np.float32 else 100, dtype, 0.9)
    for n_factors in (64 // np.dtype(dtype).itemsize * 3, problem.user_factors.shape[1]):
        rows = [
            copy_rows(np.ascontiguousarray(array[:, :n_factors])) for array in model_of(problem)[:2]
        ]
        scales = np.ones(problem.n_items, dtype=dtype)
        given = arguments(problem, (*rows, *(b.copy() for b in model_of(problem)[2:])), level)
        interleaved_block(*given[:8], scales, *given[8:])
        assert (scales > 2.0**-21).all()
        assert (scales <= 1).all()
        # Rows this short have no scales of their own; these have.
        assert (scales < 1).any() == (n_factors * np.dtype(dtype).itemsize <= 512)


# Held rows are settled after 128 visits at the latest, in turns with others and alone.
LONG_ROWS = ([300, 3, 128, 129, 127, 257, 200], [129, 256, 128], [300])


@pytest.mark.parametrize("rowwise", [False, True])
@pytest.mark.parametrize("lengths", LONG_ROWS)
@pytest.mark.parametrize("n_blocks", [2, 3, 8, 9])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("level", LEVELS)
def test_rows_of_hundreds_of_ratings_equal_their_twin(
    level, dtype, n_blocks, lengths, rowwise, rng
):
    problem = make_problem(
        rng,
        rated_rows(rng, lengths, n_items=300),
        n_blocks * 64 // np.dtype(dtype).itemsize,
        dtype=dtype,
        learning_rate=2.0**-7,
        regularization=0.25,
        global_mean=0.5,
    )
    if not rowwise:
        assert_equals_twin(run(problem, level), run_twin(problem, level))
        return
    records = records_of(rng, len(lengths), dtype), records_of(rng, 300, dtype)
    found, *_ = run_rowwise(problem, level, records, 0.5)
    expected, *_ = run_rowwise_twin(problem, level, records, 0.5)
    assert_equals_twin(found, expected)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n_factors", [1, 7, 16, 100])
@pytest.mark.parametrize("recorded", [False, True])
def test_settled_rows_are_multiplied_by_their_scales(level, dtype, n_factors, recorded, rng):
    rows = copy_rows(rng.normal(size=(5, n_factors)).astype(dtype))
    scales = np.array([1, 0.5, 0.25, 2, 0.75], dtype=dtype)
    records = np.full((5, 4), 9, dtype=dtype) if recorded else None
    expected = rows * np.array([1, 0.5, 0.25, 1, 1], dtype=dtype)[:, None]
    squares = settle_rows(rows, scales, records, 1, 3, level)
    np.testing.assert_array_equal(rows, expected)
    assert scales.tolist() == [1, 1, 1, 2, 0.75]
    assert not padding(rows).any()
    norms = np.square(expected, dtype=np.float64).sum(axis=1)
    assert squares == pytest.approx(norms[1] + norms[2], rel=1e-14)
    if recorded:
        np.testing.assert_allclose(records[1:3, 1], norms[1:3], rtol=np.finfo(dtype).eps)
        records[1:3, 1] = 9
        assert (records == 9).all()


def test_rows_that_are_not_padded_are_not_settled():
    for rows, level in ((np.ones((2, 3)), 0), (copy_rows(np.ones((2, 3))), highest_level() + 1)):
        with pytest.raises(ValueError, match="padded and aligned"):
            settle_rows(rows, np.ones(2), None, 0, 2, level)


# --- rates and regularization of every row ------------------------------------------------------


def records_of(rng, n_rows, dtype):
    """Return records: sums of squared gradients, norms to be written, and two penalties."""
    return np.column_stack(
        [
            1 + rng.exponential(2.0, n_rows),
            np.full(n_rows, np.nan),
            rng.uniform(0, 0.3, n_rows),
            rng.uniform(0, 0.3, n_rows),
        ]
    ).astype(dtype)


def run_rowwise(problem, level, records, gradient_weight, *, biased=True, rate=2**-6):
    """Run one epoch with records; return the outcome and the records afterwards."""
    P, Q = copy_rows(problem.user_factors), copy_rows(problem.item_factors)
    b, c = problem.user_biases.copy(), problem.item_biases.copy()
    users, items = (record.copy() for record in records)
    given = list(arguments(problem, (P, Q, b, c), level))
    given[8:10] = users, items
    least = 1 - rate * 0.3
    given[16:] = rate, rate / 2, rate / 4 if biased else 0.0, *[least] * 4, gradient_weight
    total = settled_epoch(*given)
    for rows in (P, Q):
        assert not padding(rows).any()
    return Outcome(total, P, Q, b, c), users, items


def run_rowwise_twin(problem, level, records, gradient_weight, *, biased=True, rate=2**-6):
    arrays = tuple(np.array(array, dtype=np.float64) for array in model_of(problem))
    users, items = (record.astype(np.float64) for record in records)
    n_streams = reference.streams_of(
        problem.user_factors.shape[1], problem.dtype, level, rowwise=True
    )
    given = list(arguments(problem, arrays, n_streams))
    given[8:10] = users, items
    given[16:] = rate, rate / 2, rate / 4 if biased else 0.0, *[1.0] * 4, gradient_weight
    total = reference.interleaved_epoch(*given)
    return Outcome(total, *arrays), users, items


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("gradient_weight", [0.0, 0.5])
@pytest.mark.parametrize("n_blocks", BLOCKS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("level", LEVELS)
def test_rows_with_rates_of_their_own_equal_their_twin(
    level, dtype, n_blocks, gradient_weight, biased, rng
):
    for problem in problems_of_blocks(rng, n_blocks, dtype, biased=biased):
        records = records_of(rng, 7, dtype), records_of(rng, 9, dtype)
        found, users, items = run_rowwise(problem, level, records, gradient_weight, biased=biased)
        expected, twin_users, twin_items = run_rowwise_twin(
            problem, level, records, gradient_weight, biased=biased
        )
        assert_equals_twin(found, expected)
        tolerance = 1e-12 if dtype == np.float64 else 2e-5
        for mine, theirs in ((users, twin_users), (items, twin_items)):
            np.testing.assert_allclose(mine[:, 0], theirs[:, 0], rtol=tolerance)
            np.testing.assert_array_equal(mine[:, 2:], theirs[:, 2:])
        norms = (found.item_factors.astype(np.float64) ** 2).sum(axis=1)
        np.testing.assert_allclose(items[:, 1], norms, rtol=1e-6, atol=1e-12)


# --- what stays -----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@given(drawn=interleaved_problems(), data=st.data())
def test_rows_that_are_not_visited_stay_bit_identical(level, drawn, data):
    problem, biased = drawn
    visited = data.draw(visits(problem.indptr))
    found = run(problem, level, biased=biased, **visited)
    (first, last), cuts = visited["rows"], visited["cuts"]
    positions = [
        j
        for cut in problem.row_order[first:last] * visited["n_strips"] + visited["strip"]
        for j in range(cuts[cut], cuts[cut + 1])
    ]
    users = np.setdiff1d(np.arange(problem.n_users), problem.rows[positions])
    items = np.setdiff1d(np.arange(problem.n_items), problem.indices[positions])
    assert_identical(
        (found.user_factors[users], found.user_biases[users]),
        (problem.user_factors[users], problem.user_biases[users]),
    )
    assert_identical(
        (found.item_factors[items], found.item_biases[items]),
        (problem.item_factors[items], problem.item_biases[items]),
    )


@pytest.mark.parametrize("level", LEVELS)
@given(drawn=interleaved_problems())
def test_without_biases_they_stay_exactly_zero(level, drawn):
    problem = without_biases(drawn[0])
    found = run(problem, level, biased=False)
    assert_identical(
        (found.user_biases, found.item_biases), (problem.user_biases, problem.item_biases)
    )


@pytest.mark.parametrize("level", LEVELS)
@given(drawn=interleaved_problems())
def test_the_same_epoch_gives_the_same_bits(level, drawn):
    problem, biased = drawn
    once = run(problem, level, biased=biased)
    spacer = zero_rows(3, 5, np.dtype(np.float64))  # so that rows lie elsewhere
    again = run(problem, level, biased=biased)
    assert spacer.shape == (3, 5)
    assert_identical(again, once)


@pytest.mark.parametrize("level", LEVELS)
@given(drawn=interleaved_problems(), data=st.data())
def test_every_call_starts_anew(level, drawn, data):
    problem, biased = drawn
    cuts = data.draw(st.lists(st.integers(0, problem.n_users), max_size=3))
    P, Q = copy_rows(problem.user_factors), copy_rows(problem.item_factors)
    b, c = problem.user_biases.copy(), problem.item_biases.copy()
    expected = problem
    for rows in itertools.pairwise([0, *sorted(cuts), problem.n_users]):
        settled_epoch(*arguments(problem, (P, Q, b, c), level, biased=biased, rows=rows))
        after = run(expected, level, biased=biased, rows=rows)
        expected = replace(expected, **after.model)
    assert_identical((P, Q, b, c), model_of(expected))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("level", LEVELS)
def test_inputs_may_be_read_only_and_are_not_changed(level, dtype, rng):
    problem = make_problem(rng, rng.random((6, 5)) < 0.6, 4, dtype=dtype, read_only=True)
    before = [array.copy() for array in problem.arrays]
    run(problem, level)
    assert_identical(problem.arrays, before)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("n_factors", [3, 20, 70, 201])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("wrong", [misaligned, unpadded, overpadded])
def test_rows_that_are_not_padded_and_aligned_are_refused(wrong, which, dtype, n_factors, rng):
    problem = make_problem(rng, np.ones((4, 4), dtype=bool), n_factors, dtype=dtype)
    arrays = [copy_rows(array) for array in model_of(problem)[:2]]
    arrays[which] = wrong(model_of(problem)[which])
    arrays += [problem.user_biases.copy(), problem.item_biases.copy()]
    before = [array.copy() for array in arrays]
    with pytest.raises(ValueError, match="rows must be padded and aligned"):
        settled_epoch(*arguments(problem, arrays, 0))
    assert_identical(arrays, before)


@pytest.mark.parametrize("level", [-1, highest_level() + 1, 99])
@pytest.mark.parametrize("dtype", FLOATS)
def test_levels_that_are_not_available_are_refused(level, dtype, rng):
    problem = make_problem(rng, np.ones((4, 4), dtype=bool), 3, dtype=dtype)
    with pytest.raises(ValueError, match="the level available"):
        run(problem, level)
