"""Sums of deviations, and damped means made of them."""

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOATS, INDICES, make_problem, problems

from cmf._kernels.biases import damp_users, sum_deviations


def sums_of(problem, kernel, first, last, item_sums=0.0):
    """Return the sums of users and of items, and that of the squares."""
    user_sums = np.full(problem.n_users, 7.0)
    of_items = np.full(problem.n_items, item_sums)
    squared = kernel(
        problem.indptr,
        problem.indices,
        problem.ratings,
        user_sums,
        of_items,
        first,
        last,
        problem.global_mean,
    )
    return user_sums, of_items, squared


def means_of(problem, kernel, first, last, item_sums=0.0):
    """Return biases of users, their sums by items, and the sum of products of biases."""
    user_biases = np.full(problem.n_users, 7.0)
    of_items = np.full(problem.n_items, item_sums)
    products = kernel(
        problem.indptr,
        problem.indices,
        problem.user_biases.astype(np.float64) * 10,
        problem.item_biases.astype(np.float64),
        user_biases,
        of_items,
        first,
        last,
        2.5,
    )
    return user_biases, of_items, products


BOTH = [
    (sums_of, sum_deviations, reference.sum_deviations),
    (means_of, damp_users, reference.damp_users),
]


@pytest.mark.parametrize(("run", "kernel", "twin"), BOTH)
@given(problems(), st.data())
def test_sums_equal_their_twin(run, kernel, twin, problem, data):
    first = data.draw(st.integers(0, problem.n_users))
    last = data.draw(st.integers(first, problem.n_users))
    found, expected = (run(problem, function, first, last) for function in (kernel, twin))
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("run", "kernel", "twin"), BOTH)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("index_dtype", INDICES)
def test_sums_of_a_large_problem_are_exact_in_double(rng, run, kernel, twin, dtype, index_dtype):
    rated = rng.random((300, 200)) < 0.3
    problem = make_problem(rng, rated, 2, dtype=dtype, index_dtype=index_dtype, global_mean=2.5)
    found, expected = (run(problem, function, 0, 300) for function in (kernel, twin))
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize(("run", "kernel"), [both[:2] for both in BOTH])
def test_sums_of_parts_are_the_sums_of_the_whole(rng, run, kernel):
    problem = make_problem(rng, rng.random((40, 30)) < 0.5, 2)
    whole = run(problem, kernel, 0, 40)
    parts = [run(problem, kernel, *rows) for rows in ((0, 7), (7, 7), (7, 40))]
    np.testing.assert_allclose(sum(part[1] for part in parts), whole[1], rtol=1e-12, atol=1e-14)
    assert sum(part[2] for part in parts) == pytest.approx(whole[2], rel=1e-12)


@pytest.mark.parametrize(("run", "kernel"), [both[:2] for both in BOTH])
def test_users_are_written_and_items_added_to(rng, run, kernel):
    problem = make_problem(rng, rng.random((6, 5)) < 0.7, 2)
    zeros, tens = (run(problem, kernel, 2, 4, start) for start in (0.0, 10.0))
    np.testing.assert_allclose(tens[1], zeros[1] + 10, rtol=1e-12)
    # Users outside the range keep what was there.
    assert zeros[0][[0, 1, 4, 5]].tolist() == [7.0] * 4
    assert (zeros[0][2:4] != 7).all()


def test_users_without_ratings_have_no_bias():
    user_biases, item_sums = np.full(3, 7.0), np.zeros(1)
    products = damp_users(
        np.array([0, 0, 1, 1]),
        np.zeros(1, dtype=np.int32),
        np.array([0.0, 6.0, 0.0]),
        np.array([2.0]),
        user_biases,
        item_sums,
        0,
        3,
        0.0,
    )
    assert user_biases.tolist() == [0.0, 4.0, 0.0]
    assert item_sums.tolist() == [4.0]
    assert products == 8.0


def test_float32_ratings_are_summed_in_double():
    n = 10_000
    item_sums, user_sums = np.zeros(1), np.zeros(n)
    squared = sum_deviations(
        np.arange(n + 1),
        np.zeros(n, dtype=np.int32),
        np.full(n, 0.1, dtype=np.float32),
        user_sums,
        item_sums,
        0,
        n,
        0.0,
    )
    tenth = float(np.float32(0.1))
    assert item_sums[0] == pytest.approx(n * tenth, rel=1e-12)
    assert squared == pytest.approx(n * tenth**2, rel=1e-12)
