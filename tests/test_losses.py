"""The exact loss, against hand and NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import sparse

import cmf
from cmf._checks import check_ratings
from cmf._state import Factors
from cmf.config import LEVELS
from cmf.losses import exact_loss, regularization_term, validation_errors


def problem(dtype="float64", n_users=40, n_items=30, n_factors=7, seed=0):
    rng = np.random.default_rng(seed)
    rated = rng.random((n_users, n_items)) < 0.3
    table = np.where(rated, rng.normal(3, 1, rated.shape), 0).astype(dtype)
    return (
        sparse.csr_array(table),
        rng.normal(size=(n_users, n_factors)).astype(dtype),
        rng.normal(size=(n_items, n_factors)).astype(dtype),
        rng.normal(size=n_users).astype(dtype),
        rng.normal(size=n_items).astype(dtype),
    )


def by_numpy(ratings, P, Q, beta, b, c, mean):
    users, items = ratings.nonzero()
    P, Q, b, c = (array.astype(float) for array in (P, Q, b, c))
    errors = ratings.data.astype(float) - (
        mean + b[users] + c[items] + (P[users] * Q[items]).sum(axis=1)
    )
    penalty = beta * sum((array**2).sum() for array in (P, Q, b, c))
    sse = (errors**2).sum()
    mse = sse / ratings.nnz
    return cmf.Loss(sse, mse, np.sqrt(mse), penalty, mse + penalty, ratings.nnz)


def test_loss_by_hand():
    # Predictions: user 0: 1·1 = 1 and 1·2 = 2; user 1: 3·2 = 6. Errors: 2 - 1 and 4 - 6.
    P, Q = np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]])
    found = cmf.loss([[2, 0], [0, 4]], P, Q, regularization=0.1)
    assert found == pytest.approx((5.0, 2.5, math.sqrt(2.5), 1.5, 4.0, 2), rel=1e-15)
    # With mean 1 and biases the predictions are 1 + 0.5 - 1 + 1 = 1.5 and 1 + 0 + 2 + 6 = 9.
    found = cmf.loss(
        [[2, 0], [0, 4]],
        P,
        Q,
        0.1,
        user_biases=[0.5, 0],
        item_biases=[-1, 2],
        global_mean=1,
    )
    sse = 0.25 + 25
    assert found.sse == pytest.approx(sse, rel=1e-15)
    assert found.regularization == pytest.approx(0.1 * (1 + 9 + 1 + 4 + 0.25 + 1 + 4), rel=1e-15)
    assert found.total == pytest.approx(sse / 2 + 2.025, rel=1e-15)


def test_loss_is_a_named_tuple():
    found = cmf.loss([[1.0]], np.ones((1, 1)), np.ones((1, 1)), 0.5)
    assert isinstance(found, cmf.Loss)
    assert found._fields == ("sse", "mse", "rmse", "regularization", "total", "n_ratings")
    assert found == (0.0, 0.0, 0.0, 1.0, 1.0, 1)
    assert [type(number) for number in found] == [float] * 5 + [int]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csr_matrix, sparse.csc_array, np.array])
def test_loss_equals_numpy(dtype, kind):
    ratings, P, Q, b, c = problem(dtype)
    table = ratings.toarray() if kind is np.array else kind(ratings)
    found = cmf.loss(table, P, Q, 0.3, user_biases=b, item_biases=c, global_mean=2.5)
    # In double also where the factors are single: only the order of summation differs.
    assert found == pytest.approx(by_numpy(ratings, P, Q, 0.3, b, c, 2.5), rel=1e-13)


def test_sums_of_single_precision_factors_are_double():
    # In float32 the sum of 4·10^6 squares of 0.1 would be off by several percent.
    n = 2000
    ones = np.ones((n, 1), dtype=np.float32)
    ratings = np.full((n, n), 1.1, dtype=np.float32)
    error = float(np.float32(1.1)) - 1.0
    found = cmf.loss(ratings, ones, ones, 0.0)
    assert found.sse == pytest.approx(error**2 * n * n, rel=1e-12)
    many = np.full((200_000, 8), 0.1, dtype=np.float32)
    penalty = regularization_term(
        Factors(many, many, many[:, 0].copy(), many[:, 0].copy(), 0.0, biased=True), 1.0
    )
    assert penalty == pytest.approx(float(np.float32(0.1)) ** 2 * 200_000 * 18, rel=1e-12)


def test_every_stored_entry_counts_and_dense_zeros_do_not():
    P = Q = np.ones((2, 1))
    stored = sparse.csr_array(([0.0, 3.0], [0, 1], [0, 1, 2]), shape=(2, 2))
    assert cmf.loss(stored, P, Q, 0).n_ratings == 2
    assert cmf.loss(stored, P, Q, 0).sse == 1 + 4
    assert cmf.loss(stored.toarray(), P, Q, 0).n_ratings == 1
    assert cmf.loss([[np.nan, 3], [0, 0]], P, Q, 0).sse == 4


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_loss_of_a_model_is_that_of_its_factors(biases, dtype):
    ratings, *_ = problem()
    model = cmf.MatrixFactorization(
        5,
        learning_rate=0.005,
        n_epochs=2,
        regularization=0.7,
        biases=biases,
        dtype=dtype,
        random_state=0,
    ).fit(ratings)
    expected = cmf.loss(
        ratings,
        model.user_factors_,
        model.item_factors_,
        0.7,
        user_biases=model.user_biases_,
        item_biases=model.item_biases_,
        global_mean=model.global_mean_,
    )
    assert model.loss(ratings) == expected
    assert model.loss(ratings.tocsc()) == expected
    if not biases:
        assert expected == cmf.loss(ratings, model.user_factors_, model.item_factors_, 0.7)
    arrays = (model.user_factors_, model.item_factors_, model.user_biases_, model.item_biases_)
    penalty = sum((array.astype(float) ** 2).sum() for array in arrays)
    assert expected.regularization == pytest.approx(0.7 * penalty, rel=1e-13)


def test_loss_of_other_ratings_has_the_same_penalty():
    ratings, *_ = problem()
    held_out, *_ = problem(seed=1)
    model = cmf.MatrixFactorization(5, learning_rate=0.005, n_epochs=2, random_state=0).fit(ratings)
    assert model.loss(held_out).regularization == model.loss(ratings).regularization
    users, items = held_out.nonzero()
    assert model.loss(held_out).rmse == pytest.approx(
        cmf.metrics.rmse(held_out.data, model.predict(users, items)), rel=1e-6
    )


def test_loss_uses_the_regularization_of_the_fit():
    ratings, *_ = problem()
    model = cmf.MatrixFactorization(5, learning_rate=0.005, n_epochs=2, random_state=0).fit(ratings)
    before = model.loss(ratings)
    assert before.total == model.history_["exact_total"][-1]
    assert model.set_params(regularization=5.0).loss(ratings) == before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_validation_errors_are_rmse_and_mae(dtype):
    ratings, P, Q, b, c = problem(dtype)
    factors = Factors(P, Q, b, c, 2.0, biased=True)
    rmse, mae = validation_errors(check_ratings(ratings, dtype=dtype), factors)
    users, items = ratings.nonzero()
    P, Q, b, c = (array.astype(float) for array in (P, Q, b, c))
    errors = ratings.data - (2.0 + b[users] + c[items] + (P[users] * Q[items]).sum(axis=1))
    assert rmse == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-13)
    assert mae == pytest.approx(np.abs(errors).mean(), rel=1e-13)
    assert rmse == exact_loss(check_ratings(ratings, dtype=dtype), factors, 9.0).rmse


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_and_levels_change_no_bit(dtype, monkeypatch):
    ratings, P, Q, b, c = problem(dtype)
    factors = Factors(P, Q, b, c, 2.0, biased=True)
    checked = check_ratings(ratings, dtype=dtype)
    expected = exact_loss(checked, factors, 0.5), validation_errors(checked, factors)
    monkeypatch.setattr("cmf.losses.FACTORS_PER_TASK", 200)  # so that there are many pieces
    found = set()
    for level in LEVELS:
        monkeypatch.setenv("CMF_SIMD", level)
        for n_threads in (None, 1, 2, 3, 8):
            measured = exact_loss(checked, factors, 0.5, n_threads)
            found.add((measured, validation_errors(checked, factors, n_threads)))
            whole = cmf.loss(
                ratings,
                P,
                Q,
                0.5,
                user_biases=b,
                item_biases=c,
                global_mean=2.0,
                n_threads=n_threads,
            )
            assert whole == measured
    assert len(found) == 1
    measured, errors = found.pop()
    assert measured == pytest.approx(expected[0], rel=1e-13)
    assert errors == pytest.approx(expected[1], rel=1e-13)


def test_unsorted_rows_change_nothing_but_rounding():
    ratings, P, Q, *_ = problem()
    expected = cmf.loss(ratings, P, Q, 0.1)
    for u in range(ratings.shape[0]):
        row = slice(ratings.indptr[u], ratings.indptr[u + 1])
        ratings.indices[row] = ratings.indices[row][::-1].copy()
        ratings.data[row] = ratings.data[row][::-1].copy()
    ratings.has_sorted_indices = False
    assert cmf.loss(ratings, P, Q, 0.1) == pytest.approx(expected, rel=1e-13)


def test_larger_factors_do_not_overflow_in_double():
    found = cmf.loss([[1.0]], np.full((1, 1), 1e30, "f4"), np.full((1, 1), 1e30, "f4"), 1.0)
    assert found.sse == pytest.approx(1e120, rel=1e-6)
    assert found.regularization == pytest.approx(2e60, rel=1e-6)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"regularization": -0.1}, ValueError, "regularization must be at least 0, got -0.1"),
        ({"regularization": math.nan}, ValueError, "regularization must be finite, got nan"),
        ({"regularization": True}, TypeError, "regularization must be a number, got True"),
        ({"n_threads": 0}, ValueError, "n_threads must be at least 1, got 0; None takes"),
        ({"n_threads": 1.5}, TypeError, "n_threads must be an integer, got 1.5"),
        ({"global_mean": math.inf}, ValueError, "global_mean must be finite"),
        ({"global_mean": "3"}, TypeError, "global_mean must be a number, got '3'"),
        ({"ratings": [[0.0, 0.0]]}, ValueError, "holds no rating"),
        ({"ratings": [[1.0], [2.0]]}, ValueError, r"ratings has.* shape \(2, 1\)"),
        (
            {"user_biases": [1.0, 2.0]},
            ValueError,
            r"user_biases has shape \(2,\): \(1,\) is wanted",
        ),
        ({"item_biases": [1.0]}, ValueError, r"item_biases has shape \(1,\): \(2,\) is wanted"),
        ({"item_biases": [1.0, math.nan]}, ValueError, r"item_biases\[1\] is nan"),
        ({"item_factors": np.ones((2, 3))}, ValueError, "same number of columns"),
        ({"item_factors": np.ones((2, 2), "f4")}, ValueError, "one dtype is wanted"),
    ],
)
def test_bad_arguments_are_refused(changed, error, message):
    arguments = {
        "ratings": [[1.0, 2.0]],
        "user_factors": np.ones((1, 2)),
        "item_factors": np.ones((2, 2)),
        "regularization": 0.1,
    }
    cmf.loss(**arguments)
    with pytest.raises(error, match=message):
        cmf.loss(**{**arguments, **changed})
