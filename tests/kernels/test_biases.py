"""Sums of residuals, of which damped means are made."""

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOATS, INDICES, make_problem, problems

from cmf._kernels.biases import sum_residuals


def sums_of(problem, kernel, first, last, item_sums=0.0):
    """Return the sums of users and of items, and that of the squares."""
    user_sums = np.full(problem.n_users, 7.0)
    of_items = np.full(problem.n_items, item_sums)
    squared = kernel(
        problem.indptr,
        problem.indices,
        problem.ratings,
        problem.user_biases.astype(np.float64),
        problem.item_biases.astype(np.float64),
        user_sums,
        of_items,
        first,
        last,
        problem.global_mean,
    )
    return user_sums, of_items, squared


@given(problems(), st.data())
def test_sums_equal_their_twin(problem, data):
    first = data.draw(st.integers(0, problem.n_users))
    last = data.draw(st.integers(first, problem.n_users))
    found = sums_of(problem, sum_residuals, first, last)
    expected = sums_of(problem, reference.sum_residuals, first, last)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("index_dtype", INDICES)
def test_sums_of_a_large_problem_are_exact_in_double(rng, dtype, index_dtype):
    rated = rng.random((300, 200)) < 0.3
    problem = make_problem(rng, rated, 2, dtype=dtype, index_dtype=index_dtype, global_mean=2.5)
    found = sums_of(problem, sum_residuals, 0, 300)
    expected = sums_of(problem, reference.sum_residuals, 0, 300)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-11)


def test_sums_of_parts_are_the_sums_of_the_whole(rng):
    problem = make_problem(rng, rng.random((40, 30)) < 0.5, 2)
    whole = sums_of(problem, sum_residuals, 0, 40)
    parts = [sums_of(problem, sum_residuals, *rows) for rows in ((0, 7), (7, 7), (7, 40))]
    np.testing.assert_allclose(sum(part[1] for part in parts), whole[1], rtol=1e-12)
    assert sum(part[2] for part in parts) == pytest.approx(whole[2], rel=1e-12)


def test_users_are_written_and_items_added_to(rng):
    problem = make_problem(rng, rng.random((6, 5)) < 0.7, 2)
    zeros, tens = (sums_of(problem, sum_residuals, 2, 4, start) for start in (0.0, 10.0))
    np.testing.assert_allclose(tens[1], zeros[1] + 10, rtol=1e-12)
    # Users outside the range keep what was there.
    assert zeros[0][[0, 1, 4, 5]].tolist() == [7.0] * 4
    assert (zeros[0][2:4] != 7).all()


def test_float32_ratings_are_summed_in_double():
    n = 10_000
    item_sums, user_sums = np.zeros(1), np.zeros(n)
    squared = sum_residuals(
        np.arange(n + 1),
        np.zeros(n, dtype=np.int32),
        np.full(n, 0.1, dtype=np.float32),
        np.zeros(n),
        np.zeros(1),
        user_sums,
        item_sums,
        0,
        n,
        0.0,
    )
    tenth = float(np.float32(0.1))
    assert item_sums[0] == pytest.approx(n * tenth, rel=1e-12)
    assert squared == pytest.approx(n * tenth**2, rel=1e-12)
