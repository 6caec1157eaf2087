"""Steps of every epoch: rates, regularization, and what adapts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from models import factors_of, same_bits
from scipy import sparse

import cmf
from cmf._checks import check_ratings
from cmf._parameters import Parameters
from cmf.biases import damped_biases
from cmf.schedule import Schedule, uses_defaults

RULE = {"learning_rate": 0.01, "regularization": 0.2, "init_scale": 0.1}
SMALL = {"n_factors": 3, "n_epochs": 3, "random_state": 5, "dtype": "float64"}
POWERS = {"rating": 0, "sqrt": 0.5, "count": 1}
SIDES = {
    "user_regularization": 0.4,
    "item_regularization": 0.05,
    "bias_regularization": 0.3,
    "bias_learning_rate": 0.02,
}


def random_ratings(n_users=12, n_items=9, density=0.5, seed=0):
    rng = np.random.default_rng(seed)
    rated = rng.random((n_users, n_items)) < density
    return sparse.csr_array(np.where(rated, rng.integers(1, 6, rated.shape), 0).astype(float))


def starts(seed=1):
    rng = np.random.default_rng(seed)
    return {
        "user_factors": rng.normal(0, 0.5, (12, 3)),
        "item_factors": rng.normal(0, 0.5, (9, 3)),
    }


def schedule_of(ratings, mean=3.0, before=None, **changed):
    parameters = Parameters.check(cmf.MatrixFactorization(**changed).get_params())
    return Schedule(parameters, check_ratings(ratings, dtype="float64"), mean, before=before)


def counts_of(ratings):
    return np.diff(ratings.indptr), np.bincount(ratings.indices, minlength=ratings.shape[1])


def replay(ratings, n_epochs, arrays, mean, rates, shrinks, records, weight):
    """Train in plain Python; rates are functions of the epoch, shrinks those of the two sides."""
    P, Q, b, c = (array.copy() for array in arrays)
    for epoch in range(1, n_epochs + 1):
        order = reference.row_order(SMALL["random_state"], epoch, len(P))
        rate, bias_rate = (step(epoch) for step in rates)
        decays = [1 - rate * float(shrinks[k]) if records is None else 0 for k in ("p", "q")]
        decays += [1 - bias_rate * float(shrinks["b"]) if records is None else 0] * 2
        scalars = mean, rate, rate, bias_rate, *decays, weight
        stored = ratings.indptr, ratings.indices, ratings.data, order
        both = (None, None) if records is None else records
        n_streams = reference.streams_of(3, P.dtype, rowwise=records is not None)
        visited = 0, len(P), 0, 1, n_streams
        reference.interleaved_epoch(*stored, P, Q, b, c, *both, *visited, *scalars)
    return P, Q, b, c


def records_of(of_factors, of_biases):
    """Records of rows that have not moved: a sum of 1, a norm, and both regularizations."""
    ones = np.ones_like(of_factors)
    return np.column_stack([ones, ones, of_factors, of_biases])


def assert_close(model, arrays):
    for found, expected in zip(factors_of(model), arrays, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


# --- the rule with all its options ----------------------------------------------------------------


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        SIDES,
        {"learning_rate_decay": 0.5},
        {"learning_rate_decay": 0.7, **SIDES},
        {"regularization_scaling": "sqrt"},
        {"regularization_scaling": "count", **SIDES},
        {"adaptive": True},
        {"adaptive": True, "learning_rate_decay": 0.9, "regularization_scaling": "sqrt", **SIDES},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_training_is_the_rule_with_its_options(options, biases):
    ratings = random_ratings()
    model = cmf.MatrixFactorization(**SMALL, **RULE, biases=biases, **options)
    model.fit(ratings, **starts())
    alpha, beta = RULE["learning_rate"], RULE["regularization"]
    decay = options.get("learning_rate_decay", 1)
    bias_alpha = options.get("bias_learning_rate", alpha) if biases else 0

    def own(side):
        return options.get(f"{side}_regularization", beta) / 2

    counts, records = counts_of(ratings), None
    scaling = options.get("regularization_scaling", "rating")
    if scaling != "rating" or options.get("adaptive"):
        divisors = [np.maximum(count, 1.0) ** POWERS[scaling] for count in counts]
        records = [
            records_of(own(side) / divisor, own("bias") / divisor)
            for side, divisor in zip(("user", "item"), divisors, strict=True)
        ]
    expected = replay(
        ratings,
        3,
        [*starts().values(), np.zeros(12), np.zeros(9)],
        ratings.data.mean() if biases else 0.0,
        (
            lambda epoch: 2 * alpha * decay ** (epoch - 1),
            lambda epoch: 2 * bias_alpha * decay ** (epoch - 1),
        ),
        {"p": own("user"), "q": own("item"), "b": own("bias")},
        records,
        1 / 3 if options.get("adaptive") else 0.0,
    )
    assert_close(model, expected)
    rates = [alpha * decay**epoch for epoch in range(3)]
    assert model.history_["learning_rate"] == pytest.approx(rates, rel=1e-14)


@pytest.mark.parametrize("biases", [True, False])
def test_training_by_default_is_the_documented_recipe(biases):
    ratings = random_ratings()
    model = cmf.MatrixFactorization(**SMALL, biases=biases, early_stopping=False)
    model.fit(ratings, **starts())
    mean = ratings.data.mean() if biases else 0.0
    spread = math.sqrt(((ratings.data - mean) ** 2).mean())
    of_users, of_items = (np.maximum(count, 1.0) for count in counts_of(ratings))
    damped = damped_biases(check_ratings(ratings, dtype="float64"), mean)
    expected = replay(
        ratings,
        3,
        [
            *starts().values(),
            damped.users if biases else np.zeros(12),
            damped.items if biases else np.zeros(9),
        ],
        mean,
        (
            lambda epoch: 0.1 / spread * 0.97 ** (epoch - 1),
            lambda epoch: 0.01 * 0.97 ** (epoch - 1) if biases else 0.0,
        ),
        {},
        [
            records_of(0.9 * spread / np.sqrt(of_users), damped.user_damping / of_users),
            records_of(0.27 * spread / of_items**0.25, damped.item_damping / of_items),
        ],
        1 / (3 * spread**3),
    )
    assert_close(model, expected)
    rates = [0.05 / spread * 0.97**epoch for epoch in range(3)]
    assert model.history_["learning_rate"] == pytest.approx(rates, rel=1e-14)


# --- each option has its effect -------------------------------------------------------------------

EFFECTS = {
    "learning_rate_decay": 0.5,
    "bias_learning_rate": 0.001,
    "user_regularization": 0.7,
    "item_regularization": 0.7,
    "bias_regularization": 0.7,
    "regularization": 0.7,
    "init_scale": 0.3,
    "learning_rate": 0.02,
}


@pytest.mark.parametrize("base", [RULE, {"early_stopping": False}], ids=["rule", "default"])
@pytest.mark.parametrize("name", EFFECTS)
def test_every_option_changes_the_factors(name, base):
    ratings = random_ratings()
    plain = cmf.MatrixFactorization(**SMALL, **base).fit(ratings)
    changed = cmf.MatrixFactorization(**{**SMALL, **base, name: EFFECTS[name]}).fit(ratings)
    moved = np.abs(changed.user_factors_ - plain.user_factors_).max()
    assert moved > 1e-6 * np.abs(plain.user_factors_).max()


@pytest.mark.parametrize(
    "changed",
    [{"adaptive": True}, {"regularization_scaling": "sqrt"}, {"regularization_scaling": "count"}],
)
def test_every_switch_changes_the_factors_of_the_rule(changed):
    ratings = random_ratings()
    plain = cmf.MatrixFactorization(**SMALL, **RULE).fit(ratings)
    assert not same_bits(plain, cmf.MatrixFactorization(**SMALL, **RULE, **changed).fit(ratings))


def test_adaptive_false_changes_the_defaults():
    ratings = random_ratings()
    make = {**SMALL, "early_stopping": False, "init_scale": 0.1}
    first = cmf.MatrixFactorization(**make).fit(ratings)
    second = cmf.MatrixFactorization(**make, adaptive=False).fit(ratings)
    assert not same_bits(first, second)
    assert first._get_fitted().state.training.sums is not None
    assert second._get_fitted().state.training.sums is None


def test_scaling_is_without_effect_where_the_ratings_choose():
    ratings = random_ratings()
    make = {**SMALL, "early_stopping": False}
    first = cmf.MatrixFactorization(**make).fit(ratings)
    second = cmf.MatrixFactorization(**make, regularization_scaling="count").fit(ratings)
    assert same_bits(first, second)


@pytest.mark.parametrize("side", ["user", "item"])
def test_regularization_of_a_side_shrinks_that_side(side):
    ratings = random_ratings()
    make = {**SMALL, **RULE, "n_epochs": 30}
    plain = cmf.MatrixFactorization(**make).fit(ratings, **starts())
    strong = cmf.MatrixFactorization(**make, **{f"{side}_regularization": 5.0})
    strong.fit(ratings, **starts())
    before, after = (np.abs(getattr(m, f"{side}_factors_")).sum() for m in (plain, strong))
    assert after < 0.7 * before


# --- stored order ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        {"adaptive": True},
        {"learning_rate_decay": 0.9},
        {"learning_rate_decay": 1.0},
        {"bias_learning_rate": 0.1},
        {"user_regularization": 0.1},
        {"item_regularization": 0.1},
        {"bias_regularization": 0.1},
        {"regularization_scaling": "sqrt"},
        {"regularization_scaling": "count"},
    ],
    ids=str,
)
@pytest.mark.parametrize("base", [{}, RULE], ids=["default", "rule"])
def test_options_beyond_the_plain_rule_are_refused_in_stored_order(option, base):
    model = cmf.MatrixFactorization(**SMALL, shuffle=False, **base, **option)
    for train in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match=r"shuffle=False visits ratings by the plain rule"):
            train(random_ratings())
    with pytest.raises(cmf.NotFittedError):
        model.predict(0, 0)


def test_stored_order_without_options_is_the_rule_with_fixed_numbers():
    ratings = random_ratings()
    bare = cmf.MatrixFactorization(3, shuffle=False, adaptive=False, random_state=0).fit(ratings)
    full = cmf.MatrixFactorization(
        3,
        shuffle=False,
        learning_rate=0.005,
        regularization=0.15,
        n_epochs=40,
        init_scale=0.1,
        random_state=0,
    ).fit(ratings)
    assert same_bits(bare, full)
    assert bare.n_iter_ == 40


def test_the_ratings_choose_without_a_learning_rate_and_with_shuffling():
    for shuffle in (True, False):
        for rate in (None, 0.005):
            model = cmf.MatrixFactorization(shuffle=shuffle, learning_rate=rate)
            chosen = uses_defaults(Parameters.check(model.get_params()))
            assert chosen is (shuffle and rate is None)


# --- numbers of a schedule ------------------------------------------------------------------------


def test_regularization_is_the_given_one_or_its_mean_over_the_ratings():
    ratings = random_ratings()
    of_users, of_items = counts_of(ratings)
    n = ratings.nnz
    assert schedule_of(ratings, **RULE).regularization == 0.2
    assert schedule_of(ratings, learning_rate=0.01).regularization == 0.15
    scaled = schedule_of(ratings, **RULE, regularization_scaling="count")
    # Every row has β / 2 / n at each of n ratings.
    rated = (of_users > 0).sum() + (of_items > 0).sum()
    assert scaled.regularization == pytest.approx(0.1 * rated / n, rel=1e-12)
    chosen = schedule_of(ratings)
    by_users = 0.9 * (of_users / n) @ np.maximum(of_users, 1) ** -0.5
    by_items = 0.27 * (of_items / n) @ np.maximum(of_items, 1) ** -0.25
    expected = chosen.scale.spread * (by_users + by_items)
    assert chosen.regularization == pytest.approx(expected, rel=1e-12)
    chosen.noises = [1.0, 0.5]
    assert chosen.regularization == pytest.approx(expected / 2, rel=1e-12)
    model = cmf.MatrixFactorization(**SMALL, early_stopping=False).fit(ratings)
    squares = sum((array**2).sum() for array in factors_of(model))
    beta = schedule_of(ratings, model.global_mean_).regularization
    assert model.history_["regularization"][-1] == pytest.approx(beta * squares, rel=1e-12)


def test_noise_scales_the_chosen_regularization_of_its_epoch():
    schedule = schedule_of(random_ratings())
    schedule.noises = [1.0, 0.5, 0.25]
    shrinks = [schedule.steps(epoch).user_records[:, 2].copy() for epoch in (1, 2, 3, 4, 9)]
    for found, noise in zip(shrinks[1:], (0.5, 0.25, 0.25, 0.25), strict=True):
        np.testing.assert_allclose(found, noise * shrinks[0], rtol=1e-14)
    given = schedule_of(random_ratings(), regularization=0.3)
    given.noises = [1.0, 0.5]
    np.testing.assert_array_equal(given.steps(1).item_records[:, 2], 0.15)
    np.testing.assert_array_equal(given.steps(2).item_records[:, 2], 0.15)


def test_least_decay_is_that_of_the_strongest_regularized_row():
    steps = schedule_of(random_ratings()).steps(1)
    assert steps.user_decay == 1 - steps.rate * steps.user_records[:, 2].max()
    assert steps.item_decay == 1 - steps.rate * steps.item_records[:, 2].max()


def test_rate_and_start_follow_the_spread_of_the_ratings():
    ratings = random_ratings()
    small, large = schedule_of(ratings, 3.0), schedule_of(ratings * 100, 300.0)
    assert large.scale.spread == pytest.approx(100 * small.scale.spread, rel=1e-12)
    assert large.learning_rate == pytest.approx(small.learning_rate / 100, rel=1e-12)
    assert large.init_scale == pytest.approx(10 * small.init_scale, rel=1e-12)
    assert large.regularization == pytest.approx(100 * small.regularization, rel=1e-12)
    rates = [schedule_of(ratings, n_factors=k).learning_rate for k in (1, 23, 64, 256)]
    expected = np.array([0.05, 0.05, 0.03, 0.015]) / small.scale.spread
    np.testing.assert_allclose(rates, expected, rtol=0.01)
    for init in ("scaled", "uniform"):
        found = schedule_of(ratings, init=init).init_scale
        assert found == pytest.approx(0.1 * small.scale.spread**0.5, rel=1e-12)
        assert schedule_of(ratings, init=init, learning_rate=0.01).init_scale == 0.1
    assert schedule_of(ratings, init_scale=0.7).init_scale == 0.7


@pytest.mark.parametrize("value", [1e-120, 1e120, 1e200])
def test_spreads_whose_cube_is_no_double_give_finite_or_infinite_weights(value):
    ratings = random_ratings() * value
    schedule = schedule_of(ratings, ratings.data.mean())
    assert schedule.steps(1).gradient_weight >= 0


@pytest.mark.parametrize("loss", ["squared", "absolute", "huber"])
@pytest.mark.parametrize(("value", "spread"), [(0.0, 1.0), (2.0, 2.0), (-3e-6, 3e-6)])
def test_equal_ratings_have_their_size_as_spread(value, spread, loss):
    ratings = sparse.csr_array(([value] * 3, ([0, 1, 2], [0, 0, 0])), shape=(3, 1))
    for mean in (value, value * (1 + 1e-15)):  # as sums are rounded
        assert schedule_of(ratings, mean, loss_function=loss).scale.spread == pytest.approx(spread)


@pytest.mark.parametrize("scaling", ["rating", "count"])
@pytest.mark.parametrize("adaptive", [True, False])
def test_given_strengths_begin_with_rates_that_they_allow(adaptive, scaling):
    options = {"adaptive": adaptive, "regularization_scaling": scaling}
    for regularization in (0.02, 1e3):
        schedule = schedule_of(random_ratings(), regularization=regularization, **options)
        steps = schedule.steps(1)
        for record in (steps.user_records, steps.item_records):
            gradients, _, shrink, bias_shrink = record.T
            taken = steps.rate / np.sqrt(gradients) * shrink
            assert taken.max() <= 0.5 + 1e-6
            assert (steps.bias_rate * bias_shrink).max() <= 1 + 1e-6
            if regularization == 0.02:
                np.testing.assert_array_equal(gradients, 1)
                np.testing.assert_allclose(bias_shrink, shrink)
            else:
                np.testing.assert_allclose(taken[gradients > 1], 0.5, rtol=1e-6)
    only_items = schedule_of(random_ratings(), item_regularization=1e3, **options).steps(1)
    np.testing.assert_array_equal(only_items.user_records[:, 0], 1)
    assert only_items.item_records[:, 0].max() > 1


# --- going on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "options",
    [
        {"early_stopping": False},
        {"early_stopping": False, "biases": False},
        {**RULE, "adaptive": True},
        {**RULE, "learning_rate_decay": 0.8, **SIDES},
        {**RULE, "regularization_scaling": "sqrt"},
        {"early_stopping": False, "implicit": True},
        {**RULE, "implicit": True},
        {"early_stopping": False, "loss_function": "huber"},
        {**RULE, "loss_function": "huber"},
        {"early_stopping": False, "loss_function": "poisson"},
        {**RULE, "nonnegative": True, "l1_regularization": 0.01},
    ],
    ids=str,
)
def test_two_halves_are_the_whole(options, dtype):
    ratings = random_ratings()
    make = {**SMALL, **options, "dtype": dtype}
    whole = cmf.MatrixFactorization(**make).fit(ratings, epochs=8)
    half = cmf.MatrixFactorization(**make).fit(ratings, epochs=3).partial_fit(ratings, epochs=5)
    assert same_bits(half, whole)
    assert half.history_["learning_rate"] == whole.history_["learning_rate"]


def test_rows_that_have_moved_take_smaller_steps():
    ratings = random_ratings()
    model = cmf.MatrixFactorization(**SMALL, **RULE, adaptive=True).fit(ratings, **starts())
    of_users, of_items = model._get_fitted().state.training.sums
    assert of_users.shape == (12,)
    assert of_items.shape == (9,)
    for sums, counts in zip((of_users, of_items), counts_of(ratings), strict=True):
        assert ((sums > 1) == (counts > 0)).all()
    before = of_users.copy()
    model.partial_fit(ratings)
    after = model._get_fitted().state.training.sums[0]
    assert (after[np.diff(ratings.indptr) > 0] > before[np.diff(ratings.indptr) > 0]).all()


@pytest.mark.parametrize(
    "given", [{}, {"bias_regularization": 300.0}, {"user_regularization": 2.0}]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_records_are_written_as_if_anew_whatever_they_held(given, dtype):
    ratings = check_ratings(random_ratings(), dtype=dtype)
    parameters = Parameters.check(cmf.MatrixFactorization(**given, dtype=dtype).get_params())
    kept = Schedule(parameters, ratings, 3.0)
    # Limits of biases loosen from epoch to epoch; the noise falls, stays, and rises.
    for epoch, noise in [(1, 1.0), (2, 0.3), (3, 0.3), (30, 0.3), (2, 0.7), (2, 1.0)]:
        anew = Schedule(parameters, ratings, 3.0)
        kept.noises, anew.noises = [noise], [noise]
        found, expected = kept.steps(epoch), anew.steps(epoch)
        for side in ("user", "item"):
            records = getattr(found, f"{side}_records")
            assert records.dtype == dtype
            np.testing.assert_array_equal(records, getattr(expected, f"{side}_records"))
            least = 1 - found.rate * float(records[:, 2].max())
            assert getattr(found, f"{side}_decay") == least
        assert found.rate == expected.rate
