"""The five losses outside the kernel, and each of them on data drawn from its own model."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from blocks import general_block
from scipy import sparse

from cmf._checks import check_ratings
from cmf._kernels.general import sum_losses as kernel_sum
from cmf._rows import copy_rows, zero_rows
from cmf._state import Factors
from cmf.losses import exact_loss, validation_errors
from cmf.objectives import (
    LOSSES,
    RATINGS_PER_TASK,
    check_rating_range,
    exact_sum,
    link,
    loss_number,
    start_value,
)

FLOATS = ["float32", "float64"]


def ratings_of(table, rated, dtype="float64"):
    """Store the rated cells of a table, zeros included."""
    indptr = np.cumsum([0, *rated.sum(axis=1)])
    columns = np.nonzero(rated)[1].astype(np.int32)
    return check_ratings(
        sparse.csr_array((table[rated].astype(dtype), columns, indptr), shape=rated.shape),
        dtype=dtype,
    )


def random_model(rng, n_users, n_items, n_factors, dtype="float64"):
    return Factors(
        rng.normal(size=(n_users, n_factors)).astype(dtype),
        rng.normal(size=(n_items, n_factors)).astype(dtype),
        rng.normal(size=n_users).astype(dtype),
        rng.normal(size=n_items).astype(dtype),
        global_mean=0.25,
        biased=True,
    )


# --- names and ranges ---------------------------------------------------------------------------


def test_numbers_are_those_of_the_kernel():
    # Rating 3 and x = 1 have a loss of their own under each.
    expected = {
        "squared": 4,
        "absolute": 2,
        "huber": 1.75,
        "logistic": math.log(1 + math.e) - 3,
        "poisson": math.e - 3,
    }
    assert tuple(expected) == LOSSES
    for loss, value in expected.items():
        found = kernel_sum(np.array([3.0]), None, np.array([1.0]), loss_number(loss), 0.5)
        assert found == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("loss", LOSSES)
def test_ratings_that_losses_take(loss, dtype):
    fine = {"logistic": [[1, 0.25], [0.5, 1]], "poisson": [[1, 0.25], [1000, 3]]}
    check_rating_range(check_ratings(fine.get(loss, [[-3, 9], [1, 2]]), dtype=dtype), loss)
    empty = check_ratings(sparse.csr_array((2, 2)), dtype=dtype, allow_empty=True)
    check_rating_range(empty, loss)


@pytest.mark.parametrize(
    ("loss", "bad", "wanted"),
    [
        ("logistic", 1.5, "ratings from 0 to 1 are wanted"),
        ("logistic", -0.5, "ratings from 0 to 1 are wanted"),
        ("poisson", -1.0, "ratings of at least 0 are wanted"),
    ],
)
def test_ratings_out_of_range_are_refused_by_position(loss, bad, wanted):
    table = np.ones((3, 4))
    table[0] = 0  # a row without ratings
    table[2, 1] = table[2, 3] = bad
    ratings = check_ratings(table, dtype="float64")
    message = rf"^new\[2, 1\] is {bad}: with loss_function='{loss}' {wanted}$"
    with pytest.raises(ValueError, match=message):
        check_rating_range(ratings, loss, "new")


# --- links --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_links(dtype):
    x = np.array([[-1e30, -800, -1, 0], [1, 39, 800, np.nan]], dtype=dtype)
    for loss in ("squared", "absolute", "huber"):
        assert link(loss, x) is x
    probability = link("logistic", x)
    mean = link("poisson", x)
    assert probability.dtype == mean.dtype == dtype
    e = math.e
    expected = [[0, 0, 1 / (1 + e), 0.5], [e / (1 + e), 1, 1, np.nan]]
    np.testing.assert_allclose(probability, expected, rtol=1e-6)
    expected = [[0, 0, 1 / e, 1], [e, math.exp(39), math.exp(40), np.nan]]
    np.testing.assert_allclose(mean, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", ["squared", "logistic", "poisson"])
def test_slopes_are_ratings_minus_links(loss, rng):
    # At a rate of 1 the kernel adds the slope to a bias of 0.
    for x in [*rng.normal(0, 3, 20), -60.0, 60.0]:
        factors = one_row(x)
        records = [np.array([[1.0, 0, 0, 0]]) for _ in range(2)]
        rating = check_ratings([[0.75]], dtype="float64")
        step(factors, rating, loss, records=records, bias_rate=1.0)
        assert factors.item_biases[0] == pytest.approx(
            0.75 - link(loss, np.array(x)), rel=1e-12, abs=1e-12
        )


def one_row(x):
    """Return a model of one user, one item, and one prediction."""
    rows = (zero_rows(1, 1, np.dtype("float64")) for _ in range(2))
    return Factors(*rows, np.zeros(1), np.zeros(1), global_mean=x, biased=True)


# --- starts -------------------------------------------------------------------------------------


def values_for(loss, rng, n=501):
    values = rng.gamma(2, 1, n)
    if loss == "logistic":
        return (values > 1).astype(float)
    return np.round(values) if loss == "poisson" else values


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("threshold", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_no_other_number_has_less_loss(loss, threshold, weighted, rng):
    values = values_for(loss, rng)
    weights = rng.choice([0, 0.5, 3], values.shape) if weighted else None
    start = start_value(loss, values, weights, huber_threshold=threshold)

    def total(x):
        predictions = np.full(values.shape, x)
        return kernel_sum(values, weights, predictions, loss_number(loss), threshold)

    least = total(start)
    for distance in (1e-4, 1e-2, 1, 5):  # near a median the loss may be level, but for rounding
        rounding = 1e-12 * abs(least) if distance < 1 else 0
        assert total(start - distance) > least - rounding
        assert total(start + distance) > least - rounding


def test_starts_by_hand():
    values = np.array([1.0, 2, 3, 10])
    assert start_value("squared", values) == 4
    assert start_value("absolute", values) == 2.5
    assert start_value("absolute", values, np.array([1.0, 1, 1, 1])) == 2.5
    assert start_value("absolute", values, np.array([1.0, 1, 1, 0])) == 2
    assert start_value("absolute", values, np.array([1.0, 1, 1, 4])) == 10
    # Errors -1.5, -.5, .5, at most 1.5: -1.5 - .5 + .5 + 1.5 = 0
    assert start_value("huber", values, huber_threshold=1.5) == pytest.approx(2.5)
    assert start_value("huber", values, huber_threshold=100) == pytest.approx(4)
    # No rating is near the middle, where the slope is 0.
    assert start_value("huber", np.array([0.0, 10.0]), huber_threshold=1) == 5
    assert start_value("poisson", values) == pytest.approx(math.log(4))
    assert start_value("logistic", np.array([1.0, 1, 1, 0])) == pytest.approx(math.log(3))


def test_starts_of_equal_ratings_are_finite():
    for n in (1, 3, 1000):
        zeros, ones = np.zeros(n), np.ones(n)
        assert start_value("logistic", zeros) == pytest.approx(-math.log(2 * n + 1))
        assert start_value("logistic", ones) == pytest.approx(math.log(2 * n + 1))
        assert start_value("poisson", zeros) == pytest.approx(math.log(0.5 / (n + 1)))
        assert start_value("huber", ones, huber_threshold=0.1) == 1
    light = np.full(3, 0.5)
    assert start_value("logistic", np.zeros(3), light) == pytest.approx(-math.log(2 * 1.5 + 1))


def test_starts_of_single_precision_ratings_are_taken_in_double():
    values = np.full(3_000_001, 0.1, dtype=np.float32)
    exact = float(values[0])
    for weights in (None, np.full_like(values, 0.3)):
        assert start_value("squared", values, weights) == pytest.approx(exact, rel=1e-12)
        assert start_value("absolute", values, weights) == exact
        logit = math.log(exact / (1 - exact))
        assert start_value("logistic", values, weights) == pytest.approx(logit, rel=1e-12)


# --- exact sums ---------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_exact_sums_equal_numpy(dtype, loss, weighted, rng):
    factors = random_model(rng, 40, 30, 5, dtype)
    rated = rng.random((40, 30)) < 0.3
    rated[[0, 7, 39]] = False  # rows without ratings
    table = rng.integers(0, 2, rated.shape)
    ratings = ratings_of(table, rated, dtype)
    weights = rng.uniform(0, 2, ratings.nnz).astype(dtype) if weighted else None
    P, Q, b, c = (
        array.astype(float)
        for array in (
            factors.user_factors,
            factors.item_factors,
            factors.user_biases,
            factors.item_biases,
        )
    )
    x = (0.25 + b[:, None] + c + P @ Q.T)[rated].astype(dtype).astype(float)
    r = table[rated]
    expected = {
        "squared": (r - x) ** 2,
        "absolute": abs(r - x),
        "huber": np.where(abs(r - x) < 0.7, (r - x) ** 2, 0.7 * (2 * abs(r - x) - 0.7)),
        "logistic": np.logaddexp(0, x) - r * x,
        "poisson": np.exp(x) - r * x,
    }[loss]
    weighted_ratings = replace(ratings, weights=weights)
    found = exact_sum(weighted_ratings, factors, loss, huber_threshold=0.7)
    expected = (expected * (1 if weights is None else weights.astype(float))).sum()
    assert found == pytest.approx(expected, rel=1e-12 if dtype == "float64" else 1e-6)


def test_sums_of_several_pieces_equal_those_of_the_other_losses(rng, monkeypatch):
    factors = random_model(rng, 50, 60, 3)
    factors.user_factors = copy_rows(factors.user_factors)  # rows with gaps between them
    ratings = ratings_of(rng.normal(size=(50, 60)), rng.random((50, 60)) < 0.5)
    rmse, mae = validation_errors(ratings, factors)
    in_one = exact_sum(ratings, factors, "squared")
    assert ratings.nnz < RATINGS_PER_TASK
    for per_task in (1, 7, 64, ratings.nnz - 1, ratings.nnz):
        monkeypatch.setattr("cmf.objectives.RATINGS_PER_TASK", per_task)
        squared = exact_sum(ratings, factors, "squared")
        assert squared == pytest.approx(in_one, rel=1e-13)
        assert squared == exact_sum(ratings, factors, "squared", n_threads=3)
        absolute = exact_sum(ratings, factors, "absolute")
        assert squared == pytest.approx(exact_loss(ratings, factors, 0.0).sse, rel=1e-13)
        assert math.sqrt(squared / ratings.nnz) == pytest.approx(rmse, rel=1e-13)
        assert absolute / ratings.nnz == pytest.approx(mae, rel=1e-13)


def test_sums_of_factors_that_are_not_finite_are_not(rng):
    factors = random_model(rng, 4, 3, 2)
    ratings = ratings_of(np.ones((4, 3)), np.ones((4, 3), dtype=bool))
    for bad in (np.nan, np.inf, -np.inf):
        factors.user_biases[1] = bad
        for loss in LOSSES:
            assert not math.isfinite(exact_sum(ratings, factors, loss))


# --- data from the model of each loss -----------------------------------------------------------

SHAPE = (150, 120)
N_FACTORS = 3


def truth(rng, scale, level):
    """Return a matrix of x: biases and a product of rank 3, of about the scale given."""
    b, c = rng.normal(0, 0.5, SHAPE[0]), rng.normal(0, 0.5, SHAPE[1])
    P, Q = rng.normal(size=(SHAPE[0], N_FACTORS)), rng.normal(size=(SHAPE[1], N_FACTORS))
    return level + scale * (b[:, None] + c + P @ Q.T / N_FACTORS**0.5)


def draw(loss, rng):
    """Draw a table of ratings from the model of a loss; return it and what is to be predicted."""
    if loss == "absolute":
        means = truth(rng, 1.0, 3.0)
        return means + rng.laplace(0, 1.5, SHAPE), means
    if loss == "huber":
        means = truth(rng, 1.0, 3.0)
        spread = np.where(rng.random(SHAPE) < 0.1, 8.0, 0.5)  # a tenth of the ratings is spoiled
        return means + spread * rng.normal(size=SHAPE), means
    if loss == "logistic":
        means = link("logistic", truth(rng, 3.0, 1.0))
        return (rng.random(SHAPE) < means).astype(float), means
    means = link("poisson", truth(rng, 0.4, 1.0))
    return rng.poisson(means).astype(float), means


def step(
    factors, ratings, loss, *, records, order=None, rate=0.0, bias_rate=0.0, gradient_weight=0.0
):
    """Run one epoch of the kernel, of a threshold of 1 for Huber loss."""
    general_block(
        cuts=ratings.indptr,
        indices=ratings.indices,
        ratings=ratings.values,
        weights=None,
        row_order=order,
        user_factors=factors.user_factors,
        item_factors=factors.item_factors,
        user_biases=factors.user_biases,
        item_biases=factors.item_biases,
        user_records=records[0],
        item_records=records[1],
        first=0,
        last=factors.n_users,
        strip=0,
        n_strips=1,
        level=0,
        loss=loss_number(loss),
        huber_threshold=1.0,
        slope_limit=np.inf,
        biased=True,
        global_mean=factors.global_mean,
        user_rate=rate,
        item_rate=rate,
        bias_rate=bias_rate,
        gradient_weight=gradient_weight,
        l1_user=0.0,
        l1_item=0.0,
        nonnegative=False,
        together=False,
    )


def errors_of_training(loss, ratings, means, counts, l_rows, rate, adaptive):
    """Train and yield the distance to the true means, of counts in their standard deviations."""
    mean = start_value(loss, ratings.values)
    rng = np.random.default_rng(7)
    start = [copy_rows(0.1 * rng.normal(size=(n, N_FACTORS))) for n in SHAPE]
    factors = Factors(*start, *map(np.zeros, SHAPE), global_mean=mean, biased=True)
    records = [np.tile([1.0, 0, l_rows, l_rows], (n, 1)) for n in SHAPE]
    for epoch in range(100):
        rates = {"rate": rate * 0.97**epoch, "gradient_weight": 0.1 if adaptive else 0.0}
        rates["bias_rate"] = rates["rate"] * (0.3 if adaptive else 1)
        step(factors, ratings, loss, order=rng.permutation(SHAPE[0]), records=records, **rates)
        if epoch % 5 == 4:
            b, c = factors.user_biases, factors.item_biases
            x = mean + b[:, None] + c + factors.user_factors @ factors.item_factors.T
            found = link(loss, x)
            if loss == "squared":  # in the range of the ratings, as such predictions are used
                found = np.clip(found, ratings.values.min(), ratings.values.max())
            yield np.sqrt(np.mean((found - means) ** 2 / (means if counts else 1)))


def best_error(loss, ratings, means, counts):
    """Return the least distance over regularizations, rates and epochs.

    Constant rates for counts must be small: a step is too long if the rate times the largest mean
    is, and then training is slow. Hence both kinds of rates, and epochs enough for either.
    """
    rates = (0.003, False), (0.01, False), (0.03, False), (0.1, False), (0.03, True), (0.1, True)
    grid = itertools.product((0.01, 0.1, 0.2, 0.4), rates)
    with np.errstate(over="ignore", invalid="ignore"):  # some of these rates are too large
        return np.nanmin(
            [
                list(errors_of_training(loss, ratings, means, counts, ridge, *at))
                for ridge, at in grid
            ]
        )


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "squared"])
def test_each_loss_beats_squared_loss_on_data_of_its_own_model(loss, rng):
    table, means = draw(loss, rng)
    ratings = ratings_of(table, rng.random(SHAPE) < 0.5)
    check_rating_range(ratings, loss)
    own, squared = (
        best_error(name, ratings, means, loss == "poisson") for name in (loss, "squared")
    )
    assert own < 0.95 * squared
