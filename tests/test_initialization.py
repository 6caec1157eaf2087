"""Where training starts."""

from __future__ import annotations

import copy
from statistics import NormalDist

import numpy as np
import pytest

import cmf
from cmf import initialization
from cmf._checks import check_ratings
from cmf._parameters import Parameters

DEFAULTS = cmf.MatrixFactorization(init_scale=0.1).get_params()


def start(table, seed=0, *, user_factors=None, item_factors=None, **changed):
    parameters = Parameters.check({**DEFAULTS, "dtype": "float64", **changed})
    ratings = check_ratings(table, dtype=parameters.dtype)
    return initialization.initialize(
        ratings,
        parameters,
        parameters.init_scale,
        initialization.mean_of(ratings, parameters),
        np.random.default_rng(seed),
        user_factors=user_factors,
        item_factors=item_factors,
    )


@pytest.mark.parametrize(
    ("init", "init_scale", "n_factors", "std"),
    [
        ("normal", 0.1, 50, 0.1),
        ("normal", 2.0, 50, 2.0),
        ("normal", 0.1, 7, 0.1),
        ("scaled", 0.1, 50, 0.1 / np.sqrt(50)),
        ("scaled", 3.0, 4, 1.5),
    ],
)
def test_normal_starts_have_the_stated_spread(init, init_scale, n_factors, std):
    factors = start(np.ones((1500, 1000)), init=init, init_scale=init_scale, n_factors=n_factors)
    for drawn in (factors.user_factors, factors.item_factors):
        # Relative standard error of a standard deviation: 1/sqrt(2n), here below 0.0112.
        assert drawn.std() == pytest.approx(std, rel=0.05)
        assert abs(drawn.mean()) < 5 * std / np.sqrt(drawn.size)
        # Of a normal distribution 4.55 % lie beyond two standard deviations; uniform has none.
        assert (np.abs(drawn) > 2 * std).mean() == pytest.approx(0.0455, abs=0.015)
    assert not np.array_equal(factors.user_factors[:1000], factors.item_factors)


def test_uniform_starts_fill_their_interval():
    factors = start(np.ones((1500, 1000)), init="uniform", init_scale=0.25, n_factors=20)
    for drawn in (factors.user_factors, factors.item_factors):
        assert drawn.min() >= 0
        assert drawn.max() < 0.25
        counts = np.histogram(drawn, bins=10, range=(0, 0.25))[0]
        np.testing.assert_allclose(counts, drawn.size / 10, rtol=0.1)


def test_scaled_starts_predict_with_the_same_spread_whatever_the_number_of_factors():
    spread = []
    for n_factors in (2, 200):
        factors = start(np.ones((300, 300)), init="scaled", init_scale=1.0, n_factors=n_factors)
        predicted = factors.user_factors @ factors.item_factors.T
        spread.append(predicted.std() * np.sqrt(n_factors))
    # A product of two factors has variance 1/k²; k of them 1/k.
    np.testing.assert_allclose(spread, 1.0, rtol=0.15)


def test_normal_numbers_are_the_quantiles_of_the_normal_distribution():
    quantiles = initialization._quantiles()
    assert quantiles.shape == (2**16,)
    positions = [0, 1, 2, 100, 6553, 20_000, 32_767, 32_768, 50_000, 65_534, 65_535]
    expected = [NormalDist().inv_cdf((k + 0.5) / 2**16) for k in positions]
    np.testing.assert_allclose(quantiles[positions], expected, rtol=1e-6)
    assert (np.diff(quantiles) > 0).all()
    drawn = start(np.ones((300, 300)), n_factors=10, init_scale=0.5).user_factors
    assert np.isin(drawn, quantiles * 0.5).all()


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("init", ["normal", "scaled"])
def test_small_starts_are_drawn_as_large_ones(monkeypatch, init, dtype, nonnegative):
    make = {"n_factors": 6, "init": init, "dtype": dtype, "nonnegative": nonnegative}
    small = start(np.ones((30, 40)), **make, init_scale=0.3)
    monkeypatch.setattr(initialization, "DRAWN_SINGLY", 0)
    large = start(np.ones((30, 40)), **make, init_scale=0.3)
    np.testing.assert_array_equal(small.user_factors, large.user_factors)
    np.testing.assert_array_equal(small.item_factors, large.item_factors)


def test_large_starts_are_drawn_in_blocks_without_repeats(monkeypatch):
    table = np.ones((100, 40))
    whole = start(table, n_factors=6)
    assert len(np.unique(whole.user_factors, axis=0)) == 100
    for size in (1, 6, 100):
        monkeypatch.setattr(initialization, "BLOCK_SIZE", size)
        cut = start(table, n_factors=6)
        np.testing.assert_array_equal(cut.user_factors, whole.user_factors)
        np.testing.assert_array_equal(cut.item_factors, whole.item_factors)


def test_tasks_draw_the_same_whatever_the_number_of_threads_and_nothing_twice(monkeypatch):
    table = np.ones((100, 40))
    whole = start(table, n_factors=6)
    monkeypatch.setattr(initialization, "DRAWN_ALONE", 0)
    monkeypatch.setattr(initialization, "DRAWN_AT_ONCE", 100)  # rows 0 to 15, and so on
    cut = [start(table, n_factors=6, n_threads=n_threads) for n_threads in (1, 2, 5)]
    for factors in cut:
        assert factors.user_factors.tobytes() == cut[0].user_factors.tobytes()
        assert factors.item_factors.tobytes() == cut[0].item_factors.tobytes()
    np.testing.assert_array_equal(cut[0].user_factors[:16], whole.user_factors[:16])
    assert not (cut[0].user_factors[16:] == whole.user_factors[16:]).all(axis=1).any()
    rows = np.concatenate([cut[0].user_factors, cut[0].item_factors])
    assert len(np.unique(rows, axis=0)) == 140


@pytest.mark.parametrize("init", ["normal", "scaled", "uniform"])
def test_rows_without_ratings_are_zero_and_the_others_as_if_they_were_not(init):
    table = np.ones((6, 5))
    full = start(table, init=init)
    table[2] = 0
    table[:, 3] = 0
    factors = start(table, init=init)
    assert not factors.user_factors[2].any()
    assert not factors.item_factors[3].any()
    np.testing.assert_array_equal(
        np.delete(factors.user_factors, 2, 0), np.delete(full.user_factors, 2, 0)
    )
    np.testing.assert_array_equal(
        np.delete(factors.item_factors, 3, 0), np.delete(full.item_factors, 3, 0)
    )


@pytest.mark.parametrize("init", ["normal", "scaled", "uniform"])
def test_float32_starts_are_the_float64_ones_rounded(init):
    table = np.ones((9, 7))
    double, single = start(table, init=init), start(table, init=init, dtype="float32")
    assert (double.dtype, single.dtype) == (np.float64, np.float32)
    for name in ("user_factors", "item_factors"):
        expected = getattr(double, name).astype(np.float32)
        np.testing.assert_array_equal(getattr(single, name), expected)


@pytest.mark.parametrize("init", ["normal", "scaled", "uniform"])
def test_starts_beyond_float32_are_infinite_without_a_warning(init):
    factors = start(np.ones((9, 7)), init=init, init_scale=1e300, dtype="float32")
    assert np.isinf(factors.user_factors).all()


def test_biases_start_at_zero_and_the_mean_is_that_of_the_ratings():
    table = np.array([[5.0, 0, 2], [0, 2, 0]])
    factors = start(table)
    assert not factors.user_biases.any()
    assert not factors.item_biases.any()
    assert factors.user_biases.shape == (2,)
    assert factors.item_biases.shape == (3,)
    assert factors.global_mean == 3.0
    assert factors.biased
    plain = start(table, biases=False)
    assert plain.global_mean == 0.0
    assert not plain.biased


def test_mean_of_float32_ratings_is_taken_in_double():
    table = np.full((3000, 1500), 0.1, dtype=np.float32)
    found = start(table, dtype="float32", n_factors=1).global_mean
    assert found == pytest.approx(float(np.float32(0.1)), rel=1e-12)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_given_factors_are_copied(order, dtype):
    rng = np.random.default_rng(1)
    P = np.array(rng.normal(size=(4, 3)), dtype=dtype, order=order)
    Q = np.array(rng.normal(size=(5, 3)), dtype=dtype, order=order)
    factors = start(np.ones((4, 5)), n_factors=3, dtype=dtype, user_factors=P, item_factors=Q)
    for found, given in ((factors.user_factors, P), (factors.item_factors, Q)):
        np.testing.assert_array_equal(found, given)
        assert not np.shares_memory(found, given)
        assert found.ctypes.data % 64 == found.strides[0] % 64 == 0
        assert found.flags.writeable
        assert found.dtype == dtype


def test_one_side_may_be_given():
    table, Q = np.ones((4, 5)), np.arange(15.0).reshape(5, 3)
    drawn = start(table, n_factors=3)
    factors = start(table, n_factors=3, item_factors=Q)
    np.testing.assert_array_equal(factors.user_factors, drawn.user_factors)
    np.testing.assert_array_equal(factors.item_factors, Q)
    P = np.arange(12.0).reshape(4, 3)
    factors = start(table, n_factors=3, user_factors=P)
    np.testing.assert_array_equal(factors.user_factors, P)
    np.testing.assert_array_equal(factors.item_factors, drawn.item_factors)


def test_given_factors_of_unrated_rows_are_kept():
    P, Q = np.ones((2, 1)), np.ones((2, 1))
    factors = start([[1.0, 0.0], [0.0, 0.0]], n_factors=1, user_factors=P, item_factors=Q)
    np.testing.assert_array_equal(factors.user_factors, P)
    np.testing.assert_array_equal(factors.item_factors, Q)


def test_fit_starts_from_given_factors_and_leaves_them_alone():
    rng = np.random.default_rng(2)
    table = rng.integers(1, 6, (4, 5)).astype(float)
    P, Q = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    before = copy.deepcopy((P, Q))
    model = cmf.MatrixFactorization(
        3,
        n_epochs=1,
        biases=False,
        shuffle=False,
        dtype="float64",
        learning_rate=0.01,
        regularization=0.15,
    ).fit(table, user_factors=P, item_factors=Q)
    np.testing.assert_array_equal(P, before[0])
    np.testing.assert_array_equal(Q, before[1])
    sse = cmf.sgd_epoch(table, P, Q, 0.01, model.regularization)
    np.testing.assert_array_equal(model.user_factors_, P)
    np.testing.assert_array_equal(model.item_factors_, Q)
    assert model.history_["running_mse"] == [sse / 20]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"user_factors": np.ones((4, 2))}, ValueError, "n_factors=3 columns"),
        ({"user_factors": np.ones((3, 3))}, ValueError, "one row per user and one per item"),
        ({"item_factors": np.ones((5, 3, 1))}, ValueError, "item_factors is 3-D"),
        ({"item_factors": np.full((5, 3), np.nan)}, ValueError, r"item_factors\[0, 0\] is nan"),
        ({"user_factors": np.full((4, 3), "a")}, TypeError, "user_factors holds values of type"),
    ],
)
def test_bad_starts_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        start(np.ones((4, 5)), n_factors=3, **given)


def test_a_start_that_no_step_leaves_is_refused():
    with pytest.raises(ValueError, match="init_scale=0 with biases=False starts at a saddle point"):
        cmf.MatrixFactorization(init_scale=0, biases=False).fit([[1.0]])
