"""The exact sums: by hand, against their twins, in double, and the same bits at every level."""

import math

import numpy as np
import pytest
import reference
from arrays import padded
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOATS, INDICES, make_problem, problems

from cmf._kernels.interleaved import highest_level
from cmf._kernels.loss import sum_errors, sum_squares
from cmf._kernels.predict import predict_pairs

LEVELS = range(highest_level() + 1)
# Of every length up to some turns of the widest loop, and long ones.
N_FACTORS = (*range(1, 41), 64, 100)


def arguments(problem, first=0, last=None, rows=np.asarray):
    return (
        problem.indptr,
        problem.indices,
        problem.ratings,
        rows(problem.user_factors),
        rows(problem.item_factors),
        problem.user_biases,
        problem.item_biases,
        first,
        problem.n_users if last is None else last,
        problem.global_mean,
    )


def rows_of_every_length(rng, n_factors, dtype):
    """A problem in which user u has rated u items, and one has rated many."""
    rated = np.tri(40, 90, -1, dtype=bool)
    rated[7] = True
    return make_problem(rng, rated, n_factors, dtype=dtype, unsorted=True, global_mean=0.75)


# --- sum_errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("index_dtype", INDICES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_two_errors_by_hand(dtype, index_dtype):
    squared, absolute = sum_errors(
        np.array([0, 1, 2]),
        np.array([1, 0], dtype=index_dtype),
        np.array([10.0, 1.0], dtype=dtype),
        np.array([[1.0, 2.0], [0.0, 1.0]], dtype=dtype),
        np.array([[5.0, -1.0], [3.0, 0.5]], dtype=dtype),
        np.array([0.5, -0.5], dtype=dtype),
        np.array([1.0, 2.0], dtype=dtype),
        0,
        2,
        0.25,
    )
    # 10 - (0.25 + 0.5 + 2 + 1·3 + 2·0.5) = 3.25 and 1 - (0.25 - 0.5 + 1 + 0·5 + 1·-1) = 1.25
    assert squared == 3.25**2 + 1.25**2
    assert absolute == 3.25 + 1.25


@given(problem=problems(), data=st.data())
def test_sum_errors_equals_its_twin(problem, data):
    # Products of float32 are exact in double, so one tolerance serves both types.
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, problem.n_users)] * 2)))
    level = data.draw(st.sampled_from(LEVELS))
    found = sum_errors(*arguments(problem, first, last), level)
    assert found == pytest.approx(
        reference.sum_errors(*arguments(problem, first, last)), rel=1e-12, abs=1e-13
    )


@given(problem=problems())
def test_levels_index_types_and_strides_change_no_bit(problem):
    found = set()
    for rows in (np.asarray, padded):
        indptr, indices, *rest = arguments(problem, rows=rows)
        for dtype in INDICES:
            found |= {sum_errors(indptr, indices.astype(dtype), *rest, level) for level in LEVELS}
    assert len(found) == 1


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n_factors", [1, 3, 4, 5, 16, 31, 100])
def test_rows_of_every_length_are_summed(n_factors, dtype, rng):
    problem = rows_of_every_length(rng, n_factors, dtype)
    found = {sum_errors(*arguments(problem), level) for level in LEVELS}
    assert len(found) == 1
    assert found.pop() == pytest.approx(reference.sum_errors(*arguments(problem)), rel=1e-12)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_rating_of_a_row_counts_once(dtype, level, rng):
    # Whole numbers: no rounding, hence no tolerance.
    problem = rows_of_every_length(rng, 5, dtype)
    for array in problem.arrays[2:7]:
        array[...] = rng.integers(-9, 10, array.shape)
    for u in range(problem.n_users):
        found = sum_errors(*arguments(problem, u, u + 1), level)
        assert found == reference.sum_errors(*arguments(problem, u, u + 1))


@given(problem=problems(dtypes=(np.float64,)), level=st.sampled_from(LEVELS))
def test_errors_are_those_of_the_predictions_to_the_bit(problem, level):
    items = problem.indices.astype(np.int64)
    predicted = np.empty(items.shape[0])
    predict_pairs(problem.rows, items, *problem.arrays[3:7], predicted, problem.global_mean, level)
    errors = problem.ratings - predicted
    indptr = np.arange(2, dtype=np.int64)
    for j, (u, error) in enumerate(zip(problem.rows, errors, strict=True)):
        single = sum_errors(
            indptr,
            problem.indices[j : j + 1],
            problem.ratings[j : j + 1],
            problem.user_factors[u : u + 1],
            problem.item_factors,
            problem.user_biases[u : u + 1],
            problem.item_biases,
            0,
            1,
            problem.global_mean,
            level,
        )
        assert single == (error * error, abs(error))


@given(problem=problems(dtypes=(np.float32,)))
def test_float32_has_the_sums_of_the_same_numbers_in_float64(problem):
    # Products of float32 are exact in double, so that fused or not they round once.
    indptr, indices, *arrays, first, last, mean = arguments(problem)
    wide = [array.astype(np.float64) for array in arrays]
    for level in LEVELS:
        assert sum_errors(indptr, indices, *arrays, first, last, mean, level) == sum_errors(
            indptr, indices, *wide, first, last, mean, level
        )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n_factors", N_FACTORS)
def test_errors_of_whole_numbers_are_exact(n_factors, dtype, rng):
    # No rounding, hence no tolerance: every factor counts once, whatever their number.
    p, q = rng.integers(-9, 10, size=(2, 1, n_factors))
    zero = np.zeros(1, dtype=dtype)
    rating = np.array([p[0] @ q[0] - 3], dtype=dtype)
    ends, column = np.array([0, 1]), np.array([0])
    for level in LEVELS:
        found = sum_errors(
            ends, column, rating, p.astype(dtype), q.astype(dtype), zero, zero, 0, 1, 0.0, level
        )
        assert found == (9.0, 3.0)


def test_float32_products_are_summed_in_double():
    # 1e4·1e4 + 1·1 - 1e4·1e4 is 1, but 0 if 1e8 + 1 is rounded to float32.
    p = np.array([[1e4, 1.0, -1e4]], dtype=np.float32)
    q = np.array([[1e4, 1.0, 1e4]], dtype=np.float32)
    zero, one = np.zeros(1, dtype=np.float32), np.ones(1, dtype=np.float32)
    found = sum_errors(np.array([0, 1]), np.array([0]), one, p, q, zero, zero, 0, 1, 0.0)
    assert found == (0.0, 0.0)


def test_half_a_million_float32_errors_are_summed_to_twelve_digits(rng):
    problem = make_problem(
        rng, np.ones((500, 1000), dtype=bool), 4, dtype=np.float32, global_mean=2.5
    )
    P, Q = problem.user_factors.astype(np.float64), problem.item_factors.astype(np.float64)
    levels = 2.5 + problem.user_biases.astype(np.float64)[:, None] + problem.item_biases
    errors = (problem.ratings.reshape(500, 1000) - (levels + P @ Q.T)).ravel()
    squared, absolute = sum_errors(*arguments(problem))
    assert squared == pytest.approx(math.fsum(errors * errors), rel=1e-12)
    assert absolute == pytest.approx(math.fsum(np.abs(errors)), rel=1e-12)


def test_inputs_of_the_loss_may_be_read_only_and_are_not_changed(rng):
    problem = make_problem(rng, rng.random((6, 5)) < 0.6, 4, read_only=True)
    before = [array.copy() for array in problem.arrays]
    sum_errors(*arguments(problem))
    for array, copy in zip(problem.arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (3, 3)])
def test_no_ratings_have_no_error(shape, rng):
    given = arguments(make_problem(rng, np.zeros(shape, dtype=bool), 2))
    assert {sum_errors(*given, level) for level in LEVELS} == {(0.0, 0.0)}


# --- sum_squares --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "shape", [(0, 0), (0, 3), (3, 0), (1, 1), (1, 5000), (5000, 1), (7, 129), (6, 1027)]
)
def test_squares_of_whole_numbers_are_exact(shape, dtype, rng):
    # Whole numbers leave no rounding to tolerate.
    rows = rng.integers(-9, 10, shape)
    for level in LEVELS:
        assert sum_squares(rows.astype(dtype), level) == (rows * rows).sum()


@pytest.mark.parametrize("dtype", FLOATS)
def test_sum_squares_equals_its_twin(dtype, rng):
    rows = (rng.normal(size=(60, 50)) * 10.0 ** rng.integers(-6, 7, (60, 50))).astype(dtype)
    rows.flags.writeable = False
    found = {sum_squares(rows, level) for level in LEVELS}
    found |= {sum_squares(padded(rows), level) for level in LEVELS}
    assert len(found) == 1
    assert found.pop() == pytest.approx(reference.sum_squares(rows), rel=1e-14)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n_factors", N_FACTORS)
def test_padding_is_not_summed(n_factors, dtype, rng):
    whole = rng.integers(-9, 10, (6, n_factors))
    rows = padded(whole.astype(dtype))
    for level in LEVELS:
        assert sum_squares(rows, level) == (whole * whole).sum()


@pytest.mark.parametrize("dtype", FLOATS)
def test_squares_of_several_arrays_are_those_of_each(dtype, rng):
    arrays = [rng.normal(size=shape).astype(dtype) for shape in ((7, 3), (1, 9), (0, 3), (2, 0))]
    arrays += [padded(rng.normal(size=(5, 2)).astype(dtype)) for _ in range(4)]
    for n in range(1, 9):
        total = sum(sum_squares(array) for array in arrays[:n])
        assert sum_squares(arrays[0], 0, tuple(arrays[1:n])) == total
    with pytest.raises(ValueError, match="at most 8 arrays, got 9"):
        sum_squares(arrays[0], 0, tuple(arrays))
    with pytest.raises(ValueError, match="dtype mismatch"):
        sum_squares(arrays[0], 0, (arrays[0].astype("int64"),))


@pytest.mark.parametrize("shape", [(1, 2_000_000), (2_000_000, 1), (2000, 1000)])
def test_two_million_squares_are_summed_to_ten_digits(shape):
    # Each square of the float32 nearest to 0.1, and their sum, as far as double goes.
    tenth = np.float32(0.1)
    expected = 2e6 * float(tenth) ** 2
    assert sum_squares(np.full(shape, tenth)) == pytest.approx(expected, rel=1e-10)


def test_squares_of_float32_are_taken_in_double():
    # (1e30)² overflows float32, (1e-30)² would be 0 there.
    rows = np.array([[1e30]], dtype=np.float32)
    assert sum_squares(rows) == pytest.approx(1e60, rel=1e-6)
    assert sum_squares(1 / rows) == pytest.approx(1e-60, rel=1e-6)
