"""The epoch kernel: by hand, against its twin, against the derivative, and its properties."""

import functools
import itertools
import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import reference
from arrays import assert_identical
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from strategies import FLOATS, INDICES, make_problem, problems

import cmf
from cmf._kernels.loss import sum_errors
from cmf._kernels.sgd import sgd_epoch

# A row is visited at most 8 times, and each visit rounds numbers below 4, whose last place is
# 2**-22, a handful of times. 1500 problems differed by 4 units at most; a missing term is 1e-4.
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


def run(problem, epoch=sgd_epoch, *, biased=True, ordered=True, ranges=None, dtype=None):
    """Run one epoch on copies of the factors and biases."""
    P, Q, b, c = (
        np.array(array, dtype=dtype or problem.dtype)
        for array in (
            problem.user_factors,
            problem.item_factors,
            problem.user_biases,
            problem.item_biases,
        )
    )
    total = 0.0
    for first, last in ranges or [(0, problem.n_users)]:
        total += epoch(
            problem.indptr,
            problem.indices,
            problem.ratings,
            problem.row_order if ordered else None,
            problem.entry_order if ordered else None,
            P,
            Q,
            b if biased else None,
            c if biased else None,
            first,
            last,
            problem.global_mean,
            problem.learning_rate,
            problem.regularization,
        )
    return Outcome(total, P, Q, b, c)


def assert_close(found, expected, **tolerance):
    for mine, theirs in zip(found.arrays, expected.arrays, strict=True):
        np.testing.assert_allclose(mine, theirs, **tolerance)


def one_rating(p, q, rating, *, dtype=np.float64, b=0.0, c=0.0, **scalars):
    """One user, one item, one rating."""
    problem = make_problem(np.random.default_rng(0), np.ones((1, 1), dtype=bool), len(p))
    return replace(
        problem,
        ratings=np.array([rating], dtype=dtype),
        user_factors=np.array([p], dtype=dtype),
        item_factors=np.array([q], dtype=dtype),
        user_biases=np.array([b], dtype=dtype),
        item_biases=np.array([c], dtype=dtype),
        **scalars,
    )


# --- by hand ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_one_step_by_hand(dtype):
    # error = 10 - (2·3 + 1·-2) = 6
    problem = one_rating(
        [2.0, 1.0], [3.0, -2.0], 10.0, dtype=dtype, learning_rate=0.1, regularization=0.5
    )
    found = run(problem, biased=False)
    assert found.squared_errors == 36.0
    # 2 + .1 (2·6·3 - .5·2),  1 + .1 (2·6·-2 - .5·1)
    assert found.user_factors.tolist() == [pytest.approx([5.5, -1.45], rel=1e-6)]
    # 3 + .1 (2·6·5.5 - .5·3),  -2 + .1 (2·6·-1.45 - .5·-2): with the new user row
    assert found.item_factors.tolist() == [pytest.approx([9.45, -3.64], rel=1e-6)]


@pytest.mark.parametrize("dtype", FLOATS)
def test_one_step_with_biases_by_hand(dtype):
    # error = 10 - (1 + 2 - 3 + 2·3) = 4
    problem = one_rating(
        [2.0],
        [3.0],
        10.0,
        dtype=dtype,
        b=2.0,
        c=-3.0,
        global_mean=1.0,
        learning_rate=0.1,
        regularization=0.5,
    )
    found = run(problem)
    assert found.squared_errors == 16.0
    assert found.user_factors[0, 0] == pytest.approx(4.3, rel=1e-6)  # 2 + .1 (2·4·3 - .5·2)
    assert found.item_factors[0, 0] == pytest.approx(6.29, rel=1e-6)  # 3 + .1 (2·4·4.3 - .5·3)
    assert found.user_biases[0] == pytest.approx(2.7, rel=1e-6)  # 2 + .1 (2·4 - .5·2)
    assert found.item_biases[0] == pytest.approx(-2.05, rel=1e-6)  # -3 + .1 (2·4 - .5·-3)


def test_second_rating_sees_what_the_first_has_changed():
    # Two items of factor 1 for a user of factor 1, ratings 2 and 2, rate 0.5, no regularization.
    problem = replace(
        make_problem(np.random.default_rng(0), np.ones((1, 2), dtype=bool), 1),
        ratings=np.array([2.0, 2.0]),
        user_factors=np.array([[1.0]]),
        item_factors=np.array([[1.0], [1.0]]),
        learning_rate=0.5,
        regularization=0.0,
    )
    found = run(problem, biased=False, ordered=False)
    # error 1: p = 1 + 1·1 = 2, q0 = 1 + 1·2 = 3; then error 2 - 2·1 = 0: nothing moves.
    assert found.squared_errors == 1.0
    assert found.user_factors.tolist() == [[2.0]]
    assert found.item_factors.tolist() == [[3.0], [1.0]]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n_factors", [*range(1, 41), 47, 63, 64, 65, 100, 129])
def test_whole_numbers_are_exact_for_every_number_of_factors(n_factors, dtype, rng):
    # Whole numbers this small are added without rounding, in any order: no tolerance is needed, and
    # a factor that is counted twice or not at all shows.
    p, q = rng.integers(-3, 4, size=(2, n_factors))
    error = 5
    problem = one_rating(p, q, p @ q + error, dtype=dtype, learning_rate=0.5, regularization=0.0)
    found = run(problem, biased=False)
    assert found.squared_errors == 25.0
    np.testing.assert_array_equal(found.user_factors, [p + error * q])
    np.testing.assert_array_equal(found.item_factors, [q + error * (p + error * q)])


SAMPLE = np.array(
    [[5, 3, 0, 1], [4, 0, 0, 1], [1, 1, 0, 5], [1, 0, 0, 4], [0, 1, 5, 4], [2, 1, 3, 0]]
)


def teaching_program(R, P, Q, steps, alpha, beta):
    """Visit the cells of a dense matrix one by one, as the classic program is described."""
    R, P, Q = R.tolist(), P.tolist(), Q.tolist()
    for _ in range(steps):
        for i in range(len(R)):
            for j in range(len(R[0])):
                if R[i][j] > 0:
                    e = R[i][j] - sum(x * y for x, y in zip(P[i], Q[j], strict=True))
                    for k in range(len(P[0])):
                        P[i][k] = P[i][k] + alpha * (2 * e * Q[j][k] - beta * P[i][k])
                        Q[j][k] = Q[j][k] + alpha * (2 * e * P[i][k] - beta * Q[j][k])
    return np.array(P), np.array(Q)


def test_epochs_of_the_teaching_program(rng):
    P, Q = rng.random((6, 3)), rng.random((4, 3))
    expected = teaching_program(SAMPLE, P, Q, steps=5000, alpha=0.0002, beta=0.02)
    ratings = sparse.csr_array(SAMPLE.astype(np.float64))
    for _ in range(5000):
        cmf.sgd_epoch(ratings, P, Q, 0.0002, 0.02)
    np.testing.assert_allclose(P, expected[0], rtol=1e-10)
    np.testing.assert_allclose(Q, expected[1], rtol=1e-10)
    # Its outcome is said to reproduce the known cells to about 0.1.
    known = SAMPLE > 0
    assert np.abs((P @ Q.T - SAMPLE)[known]).max() < 0.25


# --- the twin -----------------------------------------------------------------------------------


@given(problem=problems(), biased=st.booleans(), ordered=st.booleans())
def test_epoch_equals_its_twin(problem, biased, ordered):
    found = run(problem, biased=biased, ordered=ordered)
    expected = run(problem, reference.sgd_epoch, biased=biased, ordered=ordered, dtype=np.float64)
    double = problem.dtype == np.float64
    assert_close(found, expected, **(FLOAT64 if double else FLOAT32))
    assert found.squared_errors == pytest.approx(
        expected.squared_errors, rel=1e-12 if double else 2e-5, abs=1e-14 if double else 1e-6
    )


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("index_dtype", INDICES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_combination_equals_its_twin(dtype, index_dtype, ordered, biased, rng):
    problem = make_problem(
        rng, rng.random((7, 8)) < 0.5, 11, dtype=dtype, index_dtype=index_dtype, unsorted=True
    )
    found = run(problem, biased=biased, ordered=ordered)
    expected = run(problem, reference.sgd_epoch, biased=biased, ordered=ordered, dtype=np.float64)
    assert_close(found, expected, **(FLOAT64 if dtype == np.float64 else FLOAT32))


@functools.cache
def thousand_epochs(n_factors):
    """Return a problem and the factors of its twin after 1000 epochs, columns in any order."""
    rng = np.random.default_rng(n_factors)
    problem = make_problem(
        rng, rng.random((6, 5)) < 0.6, n_factors, unsorted=True, learning_rate=0.005
    )
    P, Q = problem.user_factors.copy(), problem.item_factors.copy()
    for _ in range(1000):
        reference.sgd_epoch(
            problem.indptr,
            problem.indices,
            problem.ratings,
            None,
            None,
            P,
            Q,
            None,
            None,
            0,
            problem.n_users,
            0.0,
            problem.learning_rate,
            problem.regularization,
        )
    return problem, P, Q


def as_csr(problem, container, index_dtype):
    """Return a SciPy matrix of exactly these arrays; SciPy's constructor narrows indices."""
    matrix = container((problem.n_users, problem.n_items), dtype=problem.dtype)
    matrix.indptr = problem.indptr.astype(index_dtype)
    matrix.indices = problem.indices.astype(index_dtype)
    matrix.data = problem.ratings
    return matrix


def over_containers(test):
    """Run a test for every kind of CSR, on either side of the widths of the loops of point.h."""
    for name, values in (
        ("n_factors", [1, 2, 3, 5, 8, 9, 17, 31]),
        ("index_dtype", INDICES),
        ("container", [sparse.csr_matrix, sparse.csr_array]),
    ):
        test = pytest.mark.parametrize(name, values)(test)
    return test


@over_containers
def test_function_equals_the_plain_loop_after_1000_epochs(container, index_dtype, n_factors):
    problem, expected_P, expected_Q = thousand_epochs(n_factors)
    ratings = as_csr(problem, container, index_dtype)
    P, Q = problem.user_factors.copy(), problem.item_factors.copy()
    for _ in range(1000):
        cmf.sgd_epoch(ratings, P, Q, problem.learning_rate, problem.regularization)
    assert ratings.indices.dtype == index_dtype
    np.testing.assert_allclose(P, expected_P, rtol=1e-10, atol=0)
    np.testing.assert_allclose(Q, expected_Q, rtol=1e-10, atol=0)


@over_containers
def test_estimator_equals_the_plain_loop_after_1000_epochs(container, index_dtype, n_factors):
    problem, expected_P, expected_Q = thousand_epochs(n_factors)
    model = cmf.MatrixFactorization(
        n_factors,
        learning_rate=problem.learning_rate,
        regularization=problem.regularization,
        n_epochs=1000,
        biases=False,
        shuffle=False,
        dtype="float64",
    ).fit(
        as_csr(problem, container, index_dtype),
        user_factors=problem.user_factors,
        item_factors=problem.item_factors,
    )
    np.testing.assert_allclose(model.user_factors_, expected_P, rtol=1e-10, atol=0)
    np.testing.assert_allclose(model.item_factors_, expected_Q, rtol=1e-10, atol=0)


# --- the derivative -----------------------------------------------------------------------------


def objective(p, q, b, c, rating, mean, beta):
    """Loss of one rating whose gradient, times minus the learning rate, is the step."""
    error = rating - (mean + b + c + p @ q)
    return error**2 + beta / 2 * (p @ p + q @ q + b**2 + c**2)


def slope(function, x):
    """Central differences, which are exact for quadratic functions but for rounding."""
    x = np.atleast_1d(x)
    moved = 0.5 * np.eye(len(x))
    return np.array([function(x + h) - function(x - h) for h in moved])


@pytest.mark.parametrize("n_factors", [1, 3, 8])
def test_step_goes_down_the_gradient(n_factors, rng):
    p, q = rng.normal(size=(2, n_factors))
    b, c, rating, mean, beta, rate = 0.4, -0.7, 4.0, 2.5, 0.3, 0.05
    found = run(
        one_rating(
            p, q, rating, b=b, c=c, global_mean=mean, learning_rate=rate, regularization=beta
        )
    )
    error = rating - (mean + b + c + p @ q)
    new_p = found.user_factors[0]

    def by_p(x):
        return objective(x, q, b, c, rating, mean, beta)

    def by_b(x):
        return objective(p, q, x[0], c, rating, mean, beta)

    def by_c(x):
        return objective(p, q, b, x[0], rating, mean, beta)

    def by_q(x):
        # The rule keeps the error of before the step while the item sees the new user row: the
        # square is replaced by its tangent there.
        return -2 * error * (new_p @ x) + beta / 2 * (x @ x)

    np.testing.assert_allclose(new_p, p - rate * slope(by_p, p), rtol=1e-12)
    np.testing.assert_allclose(found.item_factors[0], q - rate * slope(by_q, q), rtol=1e-12)
    np.testing.assert_allclose(found.user_biases, b - rate * slope(by_b, b), rtol=1e-12)
    np.testing.assert_allclose(found.item_biases, c - rate * slope(by_c, c), rtol=1e-12)


@given(problem=problems(dtypes=(np.float64,)))
def test_tiny_learning_rate_is_one_step_of_full_gradient_descent(problem):
    rate = 1e-7
    found = run(replace(problem, learning_rate=rate))
    P, Q, b, c = (
        problem.user_factors,
        problem.item_factors,
        problem.user_biases,
        problem.item_biases,
    )
    rated = np.zeros((problem.n_users, problem.n_items), dtype=bool)
    rated[problem.rows, problem.indices] = True
    R = np.zeros(rated.shape)
    R[problem.rows, problem.indices] = problem.ratings
    E = np.where(rated, R - (problem.global_mean + b[:, None] + c + P @ Q.T), 0)
    beta, of_user, of_item = problem.regularization, rated.sum(axis=1), rated.sum(axis=0)
    directions = (
        2 * E @ Q - beta * of_user[:, None] * P,
        2 * E.T @ P - beta * of_item[:, None] * Q,
        2 * E.sum(axis=1) - beta * of_user * b,
        2 * E.sum(axis=0) - beta * of_item * c,
    )
    # Ratings of one user or item feel each other only in the second order of the rate.
    for new, old, direction in zip(found.arrays, (P, Q, b, c), directions, strict=True):
        np.testing.assert_allclose((new - old) / rate, direction, rtol=1e-4, atol=1e-3)
    squared, _ = sum_errors(
        problem.indptr,
        problem.indices,
        problem.ratings,
        P,
        Q,
        b,
        c,
        0,
        problem.n_users,
        problem.global_mean,
    )
    assert found.squared_errors == pytest.approx(squared, rel=1e-4, abs=1e-8)


# --- properties ---------------------------------------------------------------------------------


@given(problem=problems(dtypes=(np.float64,)), data=st.data())
def test_order_of_factor_columns_does_not_matter(problem, data):
    columns = data.draw(st.permutations(range(problem.user_factors.shape[1])))
    found = run(
        replace(
            problem,
            user_factors=np.ascontiguousarray(problem.user_factors[:, columns]),
            item_factors=np.ascontiguousarray(problem.item_factors[:, columns]),
        )
    )
    expected = run(problem)
    np.testing.assert_allclose(found.user_factors, expected.user_factors[:, columns], **FLOAT64)
    np.testing.assert_allclose(found.item_factors, expected.item_factors[:, columns], **FLOAT64)


@given(problem=problems(), biased=st.booleans(), ordered=st.booleans(), data=st.data())
def test_rows_in_several_calls_equal_rows_in_one(problem, biased, ordered, data):
    cuts = data.draw(st.lists(st.integers(0, problem.n_users), max_size=4))
    ends = [0, *sorted(cuts), problem.n_users]
    in_one = run(problem, biased=biased, ordered=ordered)
    in_parts = run(
        problem,
        biased=biased,
        ordered=ordered,
        ranges=list(itertools.pairwise(ends)),
    )
    assert_identical(in_parts.arrays, in_one.arrays)
    assert in_parts.squared_errors == pytest.approx(in_one.squared_errors, rel=1e-14)


@given(problem=problems(), biased=st.booleans(), ordered=st.booleans())
def test_both_index_types_give_the_same_bits(problem, biased, ordered):
    narrow, wide = (
        run(replace(problem, indices=problem.indices.astype(dtype)), biased=biased, ordered=ordered)
        for dtype in INDICES
    )
    assert_identical(narrow, wide)


@given(problem=problems(), biased=st.booleans(), ordered=st.booleans())
def test_rows_without_ratings_stay_bit_identical(problem, biased, ordered):
    found = run(problem, biased=biased, ordered=ordered)
    users = np.setdiff1d(np.arange(problem.n_users), problem.rows)
    items = np.setdiff1d(np.arange(problem.n_items), problem.indices)
    assert_identical(
        (found.user_factors[users], found.user_biases[users]),
        (problem.user_factors[users], problem.user_biases[users]),
    )
    assert_identical(
        (found.item_factors[items], found.item_biases[items]),
        (problem.item_factors[items], problem.item_biases[items]),
    )


def test_rows_outside_the_range_stay_bit_identical(rng):
    problem = make_problem(rng, np.ones((5, 4), dtype=bool), 3)
    found = run(problem, ranges=[(1, 3)])
    untouched = problem.row_order[[0, 3, 4]]
    assert_identical(
        (found.user_factors[untouched], found.user_biases[untouched]),
        (problem.user_factors[untouched], problem.user_biases[untouched]),
    )
    visited = problem.row_order[1:3]
    assert (found.user_factors[visited] != problem.user_factors[visited]).all()


def test_without_biases_they_and_the_mean_are_ignored(rng):
    problem = make_problem(rng, np.ones((3, 4), dtype=bool), 3, global_mean=3.0)
    found = run(problem, biased=False)
    assert_identical(
        (found.user_biases, found.item_biases), (problem.user_biases, problem.item_biases)
    )
    assert_identical(found.arrays, run(replace(problem, global_mean=0.0), biased=False).arrays)


@pytest.mark.parametrize("index_dtype", INDICES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_inputs_may_be_read_only_and_are_not_changed(dtype, index_dtype, rng):
    problem = make_problem(
        rng, rng.random((6, 5)) < 0.6, 4, dtype=dtype, index_dtype=index_dtype, read_only=True
    )
    before = [array.copy() for array in problem.arrays]
    run(problem)
    assert_identical(problem.arrays, before)


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (3, 3)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_nothing_rated_changes_nothing(shape, dtype, rng):
    problem = make_problem(rng, np.zeros(shape, dtype=bool), 2, dtype=dtype)
    found = run(problem)
    assert found.squared_errors == 0.0
    assert_identical(
        found.arrays,
        (problem.user_factors, problem.item_factors, problem.user_biases, problem.item_biases),
    )


def test_running_sum_of_float32_errors_is_kept_in_double(rng):
    # With p = q = 1 and a rate too small to move them, every error is rating - 1, rounded once.
    # A float32 sum of so many numbers would be off by 1e-5 and more.
    nnz = 200_000
    problem = replace(
        make_problem(rng, np.ones((1, nnz), dtype=bool), 1, dtype=np.float32),
        user_factors=np.ones((1, 1), dtype=np.float32),
        item_factors=np.ones((nnz, 1), dtype=np.float32),
        learning_rate=1e-30,
        regularization=0.0,
    )
    errors = (problem.ratings - np.float32(1)).astype(np.float64)
    found = run(problem, biased=False)
    assert found.squared_errors == pytest.approx(math.fsum(errors * errors), rel=1e-12)
