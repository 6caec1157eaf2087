"""The exact sums: by hand, against their twins, and in double whatever the factors are."""

import math

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOATS, INDICES, make_problem, problems

from cmf._kernels.loss import sum_errors, sum_squares


def arguments(problem, first=0, last=None):
    return (
        problem.indptr,
        problem.indices,
        problem.ratings,
        problem.user_factors,
        problem.item_factors,
        problem.user_biases,
        problem.item_biases,
        first,
        problem.n_users if last is None else last,
        problem.global_mean,
    )


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
    found = sum_errors(*arguments(problem, first, last))
    assert found == pytest.approx(
        reference.sum_errors(*arguments(problem, first, last)), rel=1e-12, abs=1e-13
    )


@given(problem=problems())
def test_both_index_types_give_the_same_sums(problem):
    indptr, indices, *rest = arguments(problem)
    narrow, wide = (sum_errors(indptr, indices.astype(dtype), *rest) for dtype in INDICES)
    assert narrow == wide


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n_factors", [*range(1, 41), 64, 100])
def test_errors_of_whole_numbers_are_exact(n_factors, dtype, rng):
    # No rounding, hence no tolerance: every factor counts once, whatever their number.
    p, q = rng.integers(-9, 10, size=(2, 1, n_factors))
    zero = np.zeros(1, dtype=dtype)
    rating = np.array([p[0] @ q[0] - 3], dtype=dtype)
    ends, column = np.array([0, 1]), np.array([0])
    found = sum_errors(
        ends, column, rating, p.astype(dtype), q.astype(dtype), zero, zero, 0, 1, 0.0
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
    assert sum_errors(*arguments(make_problem(rng, np.zeros(shape, dtype=bool), 2))) == (0.0, 0.0)


# --- sum_squares --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (1, 1), (1, 5000), (5000, 1), (7, 129)])
def test_squares_of_whole_numbers_are_exact(shape, dtype, rng):
    # Whole numbers leave no rounding to tolerate.
    rows = rng.integers(-9, 10, shape)
    assert sum_squares(rows.astype(dtype)) == (rows * rows).sum()


@pytest.mark.parametrize("dtype", FLOATS)
def test_sum_squares_equals_its_twin(dtype, rng):
    rows = (rng.normal(size=(60, 50)) * 10.0 ** rng.integers(-6, 7, (60, 50))).astype(dtype)
    rows.flags.writeable = False
    assert sum_squares(rows) == pytest.approx(reference.sum_squares(rows), rel=1e-14)


@pytest.mark.parametrize("dtype", FLOATS)
def test_padding_is_not_summed(dtype, rng):
    numbers = np.full((6, 16), np.nan, dtype=dtype)
    rows = numbers[:, :5]
    whole = rng.integers(-9, 10, rows.shape)
    rows[...] = whole
    assert sum_squares(rows) == (whole * whole).sum()


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
