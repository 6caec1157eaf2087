"""Averages over the posterior: what they are, that they predict well, and how sure they are."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

import cmf
from cmf import posterior
from cmf._checks import check_ratings
from cmf.exceptions import DivergenceError
from cmf.posterior import MAX_FACTORS, Uncertainty, predictive_std, sample_posterior


def generated(rng, n_users=150, n_items=100, rank=3, noise=0.5, density=0.3):
    """Ratings of a model with biases and noise: a training part, and pairs to be predicted."""
    P, Q = rng.standard_normal((n_users, rank)), rng.standard_normal((n_items, rank))
    b, c = rng.standard_normal(n_users) / 2, rng.standard_normal(n_items) / 2
    truth = 3 + b[:, None] + c + P @ Q.T / 2
    ratings = truth + noise * rng.standard_normal(truth.shape)
    rated = rng.random(truth.shape) < density
    rated[:, 0] = rated[0] = True
    users, items = np.nonzero(rated)
    matrix = sparse.csr_array((ratings[rated], (users, items)), shape=truth.shape)
    return matrix, (*np.nonzero(~rated), ratings[~rated])


def sample(ratings, dtype=np.float32, **settings):
    defaults = {
        "n_factors": 8,
        "n_samples": 20,
        "burn_in": 20,
        "implicit": False,
        "biased": True,
        "dtype": np.dtype(dtype),
        "seed": 1,
        "n_threads": 1,
    }
    checked = check_ratings(ratings, dtype=dtype)
    return sample_posterior(checked, **(defaults | settings))


def dense(mean):
    """All predictions of an average."""
    factors = mean.factors
    products = factors.user_factors.astype(np.float64) @ factors.item_factors.T
    return factors.global_mean + factors.user_biases[:, None] + factors.item_biases + products


def rmse(predictions, test):
    return np.sqrt(np.mean((predictions[test[0], test[1]] - test[2]) ** 2))


def arrays(mean):
    factors, uncertainty = mean.factors, mean.uncertainty
    return [
        factors.user_factors,
        factors.item_factors,
        factors.user_biases,
        factors.item_biases,
        uncertainty.user_spreads,
        uncertainty.item_spreads,
        np.array([factors.global_mean, uncertainty.noise_std]),
    ]


# --- error --------------------------------------------------------------------------------------


def test_error_is_near_the_noise_and_below_that_of_gradient_descent(rng):
    ratings, test = generated(rng)
    error = rmse(dense(sample(ratings)), test)
    single = cmf.MatrixFactorization(8, random_state=0).fit(ratings)
    assert error < 0.5 * 1.2
    assert error < rmse(single.reconstruct(), test)


def test_more_samples_do_better_than_one(rng):
    ratings, test = generated(rng, noise=1.0, density=0.15)
    errors = [rmse(dense(sample(ratings, n_samples=n)), test) for n in (1, 30)]
    assert errors[1] < 0.97 * errors[0]


def test_without_biases_there_is_neither_mean_nor_bias(rng):
    ratings, test = generated(rng)
    mean = sample(ratings, biased=False)
    assert mean.factors.global_mean == 0
    assert not mean.factors.biased
    assert not mean.factors.user_biases.any()
    assert not mean.factors.item_biases.any()
    assert rmse(dense(mean), test) < 0.5 * 1.2


def test_implicit_features_tell_of_users_whose_factors_follow_from_what_they_rated(rng):
    rated = rng.random((600, 60)) < 8 / 60
    rated[:, 0] = rated[0] = True
    Y, Q = rng.standard_normal((2, 60, 3))
    P = rated @ Y / np.sqrt(rated.sum(axis=1, keepdims=True))
    ratings = 3 + P @ Q.T + rng.standard_normal(rated.shape)
    users, items = np.nonzero(rated)
    matrix = sparse.csr_array((ratings[rated], (users, items)), shape=rated.shape)
    test = (*np.nonzero(~rated), ratings[~rated])
    plain, implicit = (rmse(dense(sample(matrix, implicit=i)), test) for i in (False, True))
    assert implicit < 0.9 * plain
    assert implicit < 1.2  # of which the noise is 1


@pytest.mark.parametrize("rank", [1, 4, 20])
def test_rank_of_the_average(rank, rng):
    ratings, test = generated(rng)
    mean = sample(ratings, rank=rank)
    assert mean.factors.user_factors.shape == (150, rank)
    assert mean.factors.item_factors.shape == (100, rank)
    if rank >= 4:
        assert rmse(dense(mean), test) < 0.5 * 1.2


def test_best_maps_keep_the_best_approximation(rng):
    A, B = rng.standard_normal((30, 8)), rng.standard_normal((20, 8))
    A[:, 5] = 0  # as before the first draw is added
    B[:, 5] = 0
    left, right = posterior._best_maps(A.T @ A, B.T @ B, 3)
    U, s, Vt = np.linalg.svd(A @ B.T)
    best = U[:, :3] * s[:3] @ Vt[:3]
    np.testing.assert_allclose(A @ left @ (B @ right).T, best, atol=1e-3 * s[0])


def test_wishart_draws_have_the_mean_of_their_distribution(rng):
    root = rng.standard_normal((3, 3)) + 2 * np.eye(3)
    scale = root @ root.T
    draws = np.array([posterior._wishart_root(rng, np.linalg.inv(scale), 7) for _ in range(4000)])
    found = np.mean(draws @ draws.transpose(0, 2, 1), axis=0)
    deviations = np.sqrt(7 * (scale**2 + np.outer(np.diag(scale), np.diag(scale))) / 4000)
    assert (np.abs(found - 7 * scale) < 5 * deviations).all()


# --- invariance ---------------------------------------------------------------------------------


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("n_threads", [2, 3])
def test_threads_do_not_change_a_bit(n_threads, implicit, rng, monkeypatch):
    monkeypatch.setattr(posterior, "PIECE_WORK", 2**12)
    ratings, _ = generated(rng)
    settings = {"n_factors": 20, "implicit": implicit, "n_samples": 3, "burn_in": 3}
    alone = sample(ratings, **settings)
    together = sample(ratings, n_threads=n_threads, **settings)
    for one, other in zip(arrays(alone), arrays(together), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_seed_decides(rng):
    ratings, _ = generated(rng)
    first, again, other = (sample(ratings, seed=seed, n_samples=2) for seed in (1, 1, 2))
    np.testing.assert_array_equal(dense(first), dense(again))
    assert np.abs(dense(first) - dense(other)).max() > 0.01


@pytest.mark.parametrize("implicit", [False, True])
def test_scale_and_shift_of_the_ratings_do_not_matter(implicit, rng):
    ratings, _ = generated(rng)
    ratings.data = np.round(2 * ratings.data) / 2
    moved = ratings.copy()
    moved.data = 20 * ratings.data + 7
    settings = {"implicit": implicit, "n_samples": 5, "dtype": np.float64}
    first, second = sample(ratings, **settings), sample(moved, **settings)
    np.testing.assert_allclose(dense(second), 20 * dense(first) + 7, rtol=1e-4, atol=1e-3)
    pairs = np.array([0, 3]), np.array([5, 5])
    np.testing.assert_allclose(
        predictive_std(second.uncertainty, *pairs),
        20 * predictive_std(first.uncertainty, *pairs),
        rtol=1e-4,
    )


def test_without_biases_the_scale_does_not_matter(rng):
    ratings, _ = generated(rng)
    first = sample(ratings, biased=False, n_samples=5)
    second = sample(ratings * 4, biased=False, n_samples=5)
    np.testing.assert_allclose(dense(second), 4 * dense(first), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("index_dtype", [np.int32, np.int64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_types(dtype, index_dtype, rng):
    ratings, _ = generated(rng, noise=0.0)
    checked = check_ratings(np.round(ratings).astype(dtype), dtype=dtype)
    wide = replace(checked, indices=checked.indices.astype(index_dtype))
    settings = {"n_factors": 2, "n_samples": 2, "burn_in": 1, "implicit": True, "biased": True}
    settings |= {"dtype": np.dtype(dtype), "seed": 0, "n_threads": 1}
    found, expected = sample_posterior(wide, **settings), sample_posterior(checked, **settings)
    np.testing.assert_array_equal(dense(found), dense(expected))
    assert {a.dtype for a in arrays(found)[:4]} == {np.dtype(dtype)}


def test_ratings_are_not_written_to(rng):
    ratings, _ = generated(rng)
    checked = check_ratings(ratings, dtype=np.float64)
    for array in (checked.indptr, checked.indices, checked.values):
        array.flags.writeable = False
    before = checked.values.copy()
    sample_posterior(
        checked,
        n_factors=2,
        n_samples=1,
        burn_in=0,
        implicit=True,
        biased=True,
        dtype=np.dtype(np.float64),
        seed=0,
        n_threads=1,
    )
    np.testing.assert_array_equal(checked.values, before)


# --- uncertainty --------------------------------------------------------------------------------


@pytest.mark.parametrize("implicit", [False, True])
def test_deviations_are_those_of_the_errors(implicit, rng):
    ratings, test = generated(rng, n_users=300, n_items=200, density=0.12)
    mean = sample(ratings, n_samples=40, implicit=implicit)
    deviations = predictive_std(mean.uncertainty, test[0], test[1])
    standard = np.abs(dense(mean)[test[0], test[1]] - test[2]) / deviations
    # Errors of one row go together: what 50 000 pairs of 500 rows may be off.
    assert np.mean(standard < 1) == pytest.approx(0.683, abs=0.03)
    assert np.mean(standard < 2) == pytest.approx(0.954, abs=0.02)
    assert mean.uncertainty.noise_std == pytest.approx(0.5, rel=0.05)


def test_rows_with_few_ratings_are_less_sure(rng):
    ratings, _ = generated(rng)
    thinned = ratings.tolil()
    thinned[:50, 4:] = 0
    thinned[:10] = 0
    spreads = sample(thinned.tocsr()).uncertainty.user_spreads
    assert spreads[:10].mean() > 1.2 * spreads[10:50].mean()
    assert spreads[10:50].mean() > 1.5 * spreads[50:].mean()


def test_unknown_rows_count_as_the_least_known():
    uncertainty = Uncertainty(
        np.array([1, 4], dtype=np.float32), np.array([2, 1], dtype=np.float32), 3.0
    )
    users, items = np.array([0, 1, -1, -1]), np.array([0, 1, 1, -1])
    found = predictive_std(uncertainty, users, items)
    np.testing.assert_allclose(found, np.sqrt([2 + 9, 4 + 9, 4 + 9, 8 + 9]))


# --- rows without ratings, and other small things -----------------------------------------------


@pytest.mark.parametrize("implicit", [False, True])
def test_rows_without_ratings_hold_the_mean_of_their_prior(implicit, rng):
    ratings, _ = generated(rng)
    wide = sparse.csr_array(
        (ratings.data, ratings.indices, np.append(ratings.indptr, [ratings.nnz] * 2)),
        shape=(152, 103),
    )
    mean = sample(wide, implicit=implicit)
    predictions = dense(mean)
    np.testing.assert_allclose(predictions[150], predictions[151], rtol=1e-5)
    np.testing.assert_allclose(predictions[:, 101], predictions[:, 102], rtol=1e-5)
    # Between the other rows, where the mean of all of these is.
    assert predictions[:150].min() < predictions[150:].min()
    assert predictions[150:].max() < predictions[:150].max()
    assert np.isfinite(mean.uncertainty.user_spreads).all()
    assert np.isfinite(mean.uncertainty.item_spreads).all()


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (3, 3)])
def test_matrices_smaller_than_the_model(shape, biased, implicit):
    ratings = np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    mean = sample(ratings, n_factors=20, implicit=implicit, biased=biased)
    assert all(np.isfinite(array).all() for array in arrays(mean))
    assert mean.factors.user_factors.shape == (shape[0], 20)


def test_equal_ratings_are_predicted(rng):
    mean = sample(np.full((20, 30), 4.0), n_samples=20)
    np.testing.assert_allclose(dense(mean), 4, atol=0.1)
    assert predictive_std(mean.uncertainty, np.array([0]), np.array([0]))[0] < 0.5


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_every_level_samples_the_same_posterior(level, rng, monkeypatch):
    monkeypatch.setenv("CMF_SIMD", level)
    ratings, test = generated(rng)
    assert rmse(dense(sample(ratings, implicit=True)), test) < 0.5 * 1.2


# --- reports and ends ---------------------------------------------------------------------------


def test_every_sweep_is_reported_with_its_error(rng):
    ratings, _ = generated(rng)
    reports = []
    mean = sample(ratings, report=lambda *numbers: reports.append(numbers))
    assert [number for number, _ in reports] == [*range(1, 41)]
    assert all(0.3 < error < 0.7 for _, error in reports[20:])
    assert mean.n_samples == 20
    assert not mean.interrupted


def test_a_report_may_stop_sampling(rng):
    ratings, _ = generated(rng)
    mean = sample(ratings, report=lambda sweep, error: sweep == 23)
    assert mean.n_samples == 3
    assert not mean.interrupted
    np.testing.assert_array_equal(dense(mean), dense(sample(ratings, n_samples=3)))


def test_stopping_before_there_is_an_average_is_an_error(rng):
    ratings, _ = generated(rng)
    with pytest.raises(ValueError, match="before burn_in=20 sweeps"):
        sample(ratings, report=lambda sweep, error: True)


def interrupt_at(sweep):
    def report(number, error):
        if number == sweep:
            raise KeyboardInterrupt

    return report


def test_an_interruption_leaves_the_average_so_far(rng):
    ratings, _ = generated(rng)
    mean = sample(ratings, report=interrupt_at(22))
    assert mean.interrupted
    assert mean.n_samples == 2
    np.testing.assert_array_equal(dense(mean), dense(sample(ratings, n_samples=2)))


def test_an_interruption_of_the_burn_in_is_passed_on(rng):
    ratings, _ = generated(rng)
    with pytest.raises(KeyboardInterrupt):
        sample(ratings, report=interrupt_at(20))


def test_an_interruption_inside_a_sweep_leaves_the_average_so_far(rng, monkeypatch):
    ratings, _ = generated(rng)
    calls = []

    def draw_rows(*arguments):
        calls.append(1)
        if len(calls) == 46:  # two calls a sweep: the items of the twenty-third
            raise KeyboardInterrupt
        return original(*arguments)

    original = posterior.draw_rows
    monkeypatch.setattr(posterior, "draw_rows", draw_rows)
    mean = sample(ratings)
    assert mean.interrupted
    assert mean.n_samples == 2


@pytest.mark.parametrize(
    ("name", "result"), [("draw_rows", 0), ("squared_errors", np.nan), ("squared_errors", np.inf)]
)
def test_what_is_no_distribution_ends_sampling(name, result, rng, monkeypatch):
    ratings, _ = generated(rng)
    monkeypatch.setattr(posterior, name, lambda *arguments: result)
    with pytest.raises(DivergenceError, match="failed in sweep 1") as caught:
        sample(ratings)
    assert caught.value.epoch == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_factors": 0}, "n_factors must be from 1 to 64"),
        ({"n_factors": MAX_FACTORS + 1}, "n_factors must be from 1 to 64"),
        ({"rank": 0}, "rank must be from 1 to 240"),
        ({"rank": 241}, "rank must be from 1 to 240"),
    ],
)
def test_numbers_out_of_range_are_refused(settings, message, rng):
    ratings, _ = generated(rng)
    with pytest.raises(ValueError, match=message):
        sample(ratings, **settings)


@pytest.mark.parametrize("size", [1e37, 1e200])
def test_ratings_whose_spread_float32_may_not_hold_are_refused(size):
    with pytest.raises(ValueError, match=r"ratings are too large: with a spread above 1e\+36"):
        sample(np.array([[size, -size]]), dtype=np.float64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_ratings_are_no_trouble(dtype, rng):
    ratings, test = generated(rng)
    mean = sample(ratings * 1e35, dtype=dtype)
    assert rmse(dense(mean) / 1e35, test) < 0.5 * 1.2
    assert np.isfinite(predictive_std(mean.uncertainty, *np.indices((9, 9)).reshape(2, -1))).all()


@pytest.mark.parametrize("size", [2.0**-60, 2.0**60])
def test_new_users_are_found_in_any_unit(size, rng):
    ratings, _ = generated(rng)
    first, second = (
        cmf.MatrixFactorization(
            4, posterior_samples=5, burn_in=3, dtype="float64", random_state=0
        ).fit(table)
        for table in (ratings, ratings * size)
    )
    users = ratings[:20]
    expected = first.fold_in(users)
    found = second.fold_in(users * size)
    root = np.sqrt(size)
    np.testing.assert_allclose(found.factors, expected.factors * root, rtol=1e-4, atol=1e-4 * root)
    np.testing.assert_allclose(found.biases, expected.biases * size, rtol=1e-4, atol=1e-4 * size)


@pytest.mark.parametrize("adaptive", [True, False, None])
def test_models_that_name_rates_of_no_use_are_saved(adaptive, tmp_path, rng):
    ratings, _ = generated(rng)
    model = cmf.MatrixFactorization(
        2, adaptive=adaptive, posterior_samples=2, burn_in=1, random_state=0
    ).fit(ratings)
    model.save(tmp_path / "model.cmf")
    loaded = cmf.MatrixFactorization.load(tmp_path / "model.cmf")
    np.testing.assert_array_equal(loaded.reconstruct(), model.reconstruct())


@pytest.mark.parametrize(
    "given", [{"epochs": 3}, {"callbacks": print}, {"user_factors": np.ones((2, 2))}]
)
def test_what_steers_gradient_descent_is_refused(given, rng):
    ratings, _ = generated(rng)
    model = cmf.MatrixFactorization(2, posterior_samples=2, random_state=0)
    with pytest.raises(ValueError, match="are for gradient descent"):
        model.fit(ratings, **given)
