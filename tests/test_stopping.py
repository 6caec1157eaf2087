"""Early stopping: what is held out, which epoch is kept, and what is trained in the end."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
from models import factors_of, same_bits
from scipy import sparse

import cmf
from cmf import model as model_module
from cmf import stopping, training
from cmf._checks import check_ratings
from cmf.biases import damped_biases
from cmf.stopping import hold_out

SMALL = {"n_factors": 16, "random_state": 0}
RULE = {"learning_rate": 0.01, "regularization": 0.05, "init_scale": 0.1}


@functools.cache
def ratings_of(seed=0, dtype="float64"):
    """Ratings with a structure that a few epochs learn and many overdo."""
    rng = np.random.default_rng(seed)
    P, Q = rng.normal(size=(200, 3)), rng.normal(size=(150, 3))
    means = 3 + rng.normal(0, 0.3, (200, 1)) + rng.normal(0, 0.3, 150)
    table = means + P @ Q.T + rng.normal(0, 0.5, (200, 150))
    rated = np.zeros(200 * 150, dtype=bool)
    rated[rng.choice(200 * 150, 9000, replace=False)] = True
    return sparse.csr_array(np.where(rated.reshape(200, 150), table, 0), dtype=dtype)


@functools.cache
def noise():
    """Ratings about which nothing can be learned."""
    rng = np.random.default_rng(0)
    return sparse.csr_array(
        np.where(rng.random((80, 60)) < 0.4, rng.integers(1, 6, (80, 60)), 0) * 1.0
    )


def split_for_validation(ratings, seed=0):
    """Return two parts of ratings, in the shape of both."""
    part = cmf.model_selection.train_test_split(ratings, test_size=0.2, random_state=seed)
    return part[0], part[1]


def count_trainings(monkeypatch):
    """Keep what every training was asked for."""
    calls, train = [], training.train

    def counted(factors, ratings, *arguments, **options):
        calls.append({"nnz": ratings.nnz, **options})
        return train(factors, ratings, *arguments, **options)

    monkeypatch.setattr(model_module.training, "train", counted)
    return calls


# --- what is held out -----------------------------------------------------------------------------


def entries(ratings):
    """Return all ratings as a set of (user, item, value)."""
    users = np.repeat(np.arange(ratings.shape[0]), np.diff(ratings.indptr))
    return set(zip(users.tolist(), ratings.indices.tolist(), ratings.values.tolist(), strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("fraction", [None, 0.01, 0.5, 0.99])
def test_parts_are_disjoint_and_together_all(fraction, dtype):
    ratings = check_ratings(ratings_of(dtype=dtype), dtype=dtype)
    rest, held_out = hold_out(ratings, fraction, seed=3)
    assert rest.nnz + held_out.nnz == ratings.nnz
    assert not entries(rest) & entries(held_out)
    assert entries(rest) | entries(held_out) == entries(ratings)
    for part in (rest, held_out):
        assert part.shape == ratings.shape
        assert part.values.dtype == ratings.values.dtype
        assert part.indices.dtype == ratings.indices.dtype
        # A valid CSR matrix with the order inside rows kept.
        again = check_ratings(
            sparse.csr_array((part.values, part.indices, part.indptr), shape=part.shape),
            dtype=dtype,
        )
        np.testing.assert_array_equal(again.indices, part.indices)


@pytest.mark.parametrize(
    ("n_ratings", "fraction", "n_held_out"),
    [
        (10_000, None, 500),  # a twentieth
        (2_000, None, 200),  # but at least 200
        (500, None, 100),  # or a fifth
        (5, None, 1),
        (4_000_000, None, 100_000),  # and at most 100,000
        (1000, 0.3, 300),
        (10, 0.25, 2),
        (3, 0.5, 2),
    ],
)
def test_number_of_what_is_held_out(n_ratings, fraction, n_held_out):
    row = sparse.csr_array(np.ones((1, n_ratings), dtype=np.float32))
    rest, held_out = hold_out(check_ratings(row, dtype="float32"), fraction, seed=0)
    assert (rest.nnz, held_out.nnz) == (n_ratings - n_held_out, n_held_out)


@pytest.mark.parametrize(
    ("n_ratings", "fraction"), [(1, None), (4, None), (1, 0.5), (10, 0.01), (10, 0.99)]
)
def test_too_few_ratings_are_not_split(n_ratings, fraction):
    row = check_ratings(np.ones((1, n_ratings)), dtype="float64")
    assert hold_out(row, fraction, seed=0) is None


def test_the_seed_decides_what_is_held_out():
    ratings = check_ratings(ratings_of(), dtype="float64")
    first, again, other = (entries(hold_out(ratings, None, seed)[1]) for seed in (1, 1, 2))
    assert first == again
    # Of 450 out of 9000 about 22 are in both by chance.
    assert len(first & other) < 60


def test_every_rating_is_as_likely_to_be_held_out():
    row = check_ratings(np.arange(1.0, 101.0)[None], dtype="float64")
    chosen = np.zeros(100)
    for seed in range(300):
        chosen[hold_out(row, 0.2, seed)[1].indices] += 1
    # 60 each on average, with a standard deviation of 7.
    assert chosen.sum() == 6000
    assert 30 < chosen.min() < chosen.max() < 90


def test_splitting_leaves_the_ratings_alone():
    ratings = check_ratings(ratings_of(), dtype="float64")
    before = [array.copy() for array in (ratings.indptr, ratings.indices, ratings.values)]
    hold_out(ratings, 0.3, 0)
    after = (ratings.indptr, ratings.indices, ratings.values)
    for array, old in zip(after, before, strict=True):
        np.testing.assert_array_equal(array, old)


# --- two trainings --------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [{}, {**RULE, "early_stopping": True}], ids=["default", "rule"])
def test_a_search_is_followed_by_training_on_all_ratings(make, monkeypatch):
    ratings, calls = ratings_of(), count_trainings(monkeypatch)
    model = cmf.MatrixFactorization(**SMALL, **make, n_epochs=60).fit(ratings)
    search, final = calls
    assert (search["nnz"], final["nnz"]) == (8550, 9000)
    assert search["validation"].nnz == 450
    assert final["validation"] is None
    assert search["n_epochs"] == 60
    assert 0 < final["n_epochs"] == model.best_epoch_ == model.n_iter_
    assert model.global_mean_ == pytest.approx(ratings.data.mean(), rel=1e-6)
    assert model.history_["epoch"] == list(range(1, model.best_epoch_ + 1))
    # Errors on what was held out are those of the search, of which the best is the last here.
    errors = model.history_["validation_rmse"]
    assert min(errors) == errors[-1]
    assert np.isfinite(model.history_["exact_mse"][-1])


def test_the_final_training_is_that_of_as_many_epochs():
    found = cmf.MatrixFactorization(**SMALL, **RULE, early_stopping=True).fit(ratings_of())
    plain = cmf.MatrixFactorization(**SMALL, **RULE).fit(ratings_of(), epochs=found.best_epoch_)
    assert same_bits(found, plain)


def test_more_epochs_change_no_bit_once_training_stops():
    fits = [cmf.MatrixFactorization(**SMALL, n_epochs=n).fit(ratings_of()) for n in (30, 100, None)]
    assert 0 < fits[0].best_epoch_ < 30
    assert same_bits(fits[0], fits[1])
    assert same_bits(fits[0], fits[2])
    assert len({fit.best_epoch_ for fit in fits}) == 1


def test_more_epochs_do_not_hurt_where_they_would():
    ratings, held_out = split_for_validation(ratings_of())
    make = {**SMALL, "learning_rate": 0.01, "regularization": 0.01, "init_scale": 0.1}
    overdone = cmf.MatrixFactorization(**make, n_epochs=300).fit(ratings)
    stopped = cmf.MatrixFactorization(**make, n_epochs=300, early_stopping=True).fit(ratings)
    assert stopped.best_epoch_ < 150
    assert stopped.loss(held_out).rmse < overdone.loss(held_out).rmse - 0.01


def test_early_stopping_is_for_the_defaults_unless_asked_for(monkeypatch):
    calls = count_trainings(monkeypatch)
    for make, expected in (
        ({}, 2),
        ({"early_stopping": True}, 2),
        ({"early_stopping": False}, 1),
        ({"learning_rate": 0.01}, 1),
        ({"learning_rate": 0.01, "early_stopping": True}, 2),
        ({"shuffle": False}, 1),
        ({"shuffle": False, "early_stopping": True}, 2),
    ):
        calls.clear()
        model = cmf.MatrixFactorization(**SMALL, **make, n_epochs=5).fit(ratings_of())
        assert len(calls) == expected, make
        assert hasattr(model, "best_epoch_") == (expected == 2), make


def test_share_held_out_is_a_parameter(monkeypatch):
    calls = count_trainings(monkeypatch)
    cmf.MatrixFactorization(**SMALL, n_epochs=3, validation_fraction=0.4).fit(ratings_of())
    assert [call["nnz"] for call in calls] == [5400, 9000]


def test_too_few_ratings_are_trained_on_once(monkeypatch):
    calls = count_trainings(monkeypatch)
    model = cmf.MatrixFactorization(**SMALL, n_epochs=7).fit([[5.0, 1.0], [4.0, 0.0]])
    assert [call["n_epochs"] for call in calls] == [7]
    assert model.n_iter_ == 7


def test_fits_with_a_search_repeat_bit_for_bit():
    fits = [cmf.MatrixFactorization(**SMALL).fit(ratings_of()) for _ in range(2)]
    other = cmf.MatrixFactorization(16, random_state=1).fit(ratings_of())
    assert same_bits(*fits)
    assert not same_bits(fits[0], other)


def test_callbacks_see_the_final_training_alone():
    reports = []
    model = cmf.MatrixFactorization(**SMALL).fit(ratings_of(), callbacks=reports.append)
    assert [report.epoch for report in reports] == model.history_["epoch"]
    assert {report.n_epochs for report in reports} == {model.best_epoch_}


@pytest.mark.parametrize("make", [{}, {**RULE, "early_stopping": True}], ids=["default", "rule"])
def test_what_fails_leaves_the_old_state(make):
    model = cmf.MatrixFactorization(**SMALL, **make, n_epochs=20).fit(ratings_of())
    before = copy.deepcopy(model)

    def fail(report):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        model.fit(ratings_of(seed=1), callbacks=fail)
    assert same_bits(model, before)
    assert model.n_iter_ == before.n_iter_
    assert model.best_epoch_ == before.best_epoch_


def test_divergence_in_the_search_leaves_the_old_state():
    model = cmf.MatrixFactorization(**SMALL).fit(ratings_of())
    before = copy.deepcopy(model)
    model.set_params(learning_rate=5.0, early_stopping=True)
    with pytest.raises(cmf.DivergenceError, match="diverged in epoch"):
        model.fit(ratings_of())
    assert same_bits(model, before)


# --- the best epoch -------------------------------------------------------------------------------


def test_validation_ratings_decide_without_a_second_training(monkeypatch):
    ratings, held_out = split_for_validation(ratings_of())
    calls = count_trainings(monkeypatch)
    model = cmf.MatrixFactorization(**SMALL).fit(ratings, validation=held_out)
    assert [call["nnz"] for call in calls] == [ratings.nnz]
    errors = model.history_["validation_rmse"]
    assert model.best_epoch_ == int(np.argmin(errors)) + 1 < len(errors)
    assert model.loss(held_out).rmse == pytest.approx(min(errors), rel=1e-6)


@pytest.mark.parametrize("make", [{}, {**RULE, "early_stopping": True}], ids=["default", "rule"])
@pytest.mark.parametrize("patience", [1, 3, 10])
def test_training_ends_when_the_best_epoch_is_long_past(make, patience):
    ratings, held_out = split_for_validation(ratings_of())
    model = cmf.MatrixFactorization(**SMALL, **make, patience=patience, n_epochs=500)
    model.fit(ratings, validation=held_out)
    errors = model.history_["validation_rmse"]
    assert len(errors) == model.best_epoch_ + patience
    # Never before were there as many epochs without a better one.
    best, best_epoch = np.inf, 0
    for epoch, error in enumerate(errors[:-1], 1):
        if error < best:
            best, best_epoch = error, epoch
        assert epoch - best_epoch < patience
    assert best_epoch == model.best_epoch_


def test_factors_of_the_best_epoch_are_put_back():
    ratings, held_out = split_for_validation(ratings_of())
    snapshots = []

    def keep(report):
        names = ("user_factors", "item_factors", "user_biases", "item_biases")
        snapshots.append([getattr(report, name).copy() for name in names])

    model = cmf.MatrixFactorization(**SMALL).fit(ratings, validation=held_out, callbacks=keep)
    assert 0 < model.best_epoch_ < len(snapshots)
    for found, kept in zip(factors_of(model), snapshots[model.best_epoch_ - 1], strict=True):
        np.testing.assert_array_equal(found, kept)


def test_a_last_epoch_that_is_the_best_is_kept():
    ratings, held_out = split_for_validation(ratings_of())
    model = cmf.MatrixFactorization(**SMALL, n_epochs=3).fit(ratings, validation=held_out)
    assert model.best_epoch_ == model.n_iter_ == 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_biases_alone_are_left_where_factors_are_no_better(dtype):
    model = cmf.MatrixFactorization(**SMALL, dtype=dtype).fit(noise())
    assert model.best_epoch_ == model.n_iter_ == 0
    assert not model.user_factors_.any()
    assert not model.item_factors_.any()
    damped = damped_biases(check_ratings(noise(), dtype=dtype), noise().data.mean())
    np.testing.assert_array_equal(model.user_biases_, damped.users.astype(dtype))
    np.testing.assert_array_equal(model.item_biases_, damped.items.astype(dtype))
    assert all(column == [] for column in model.history_.values())
    model.partial_fit(noise())
    assert model.n_iter_ == 1


def test_biases_alone_are_left_with_validation_ratings_too():
    ratings, held_out = split_for_validation(noise())
    model = cmf.MatrixFactorization(**SMALL, dtype="float64")
    model.fit(ratings, validation=held_out)
    assert model.best_epoch_ == 0
    assert not model.user_factors_.any()
    assert not model.item_factors_.any()
    damped = damped_biases(check_ratings(ratings, dtype="float64"), ratings.data.mean())
    np.testing.assert_array_equal(model.user_biases_, damped.users)


def test_gains_within_chance_do_not_count(monkeypatch):
    ratings, held_out = split_for_validation(ratings_of())
    make = {**SMALL, "dtype": "float64"}
    assert cmf.MatrixFactorization(**make).fit(ratings, validation=held_out).best_epoch_ > 0
    monkeypatch.setattr(stopping, "SURENESS", 1e3)
    sure = cmf.MatrixFactorization(**make).fit(ratings, validation=held_out)
    assert sure.best_epoch_ == 0
    assert not sure.item_factors_.any()


def test_given_factors_that_no_epoch_improves_are_kept():
    rng = np.random.default_rng(0)
    P, Q = rng.normal(size=(200, 16)), rng.normal(size=(150, 16))
    exact = sparse.csr_array(np.where(rng.random((200, 150)) < 0.3, P @ Q.T, 0))
    model = cmf.MatrixFactorization(**SMALL, biases=False, dtype="float64")
    model.fit(exact, user_factors=P, item_factors=Q)
    assert model.best_epoch_ == 0
    np.testing.assert_array_equal(model.user_factors_, P)
    np.testing.assert_array_equal(model.item_factors_, Q)


# --- continued training ---------------------------------------------------------------------------


def test_continued_training_goes_on_from_what_was_found():
    model = cmf.MatrixFactorization(**SMALL).fit(ratings_of())
    best = model.best_epoch_
    noise_then = model._get_fitted().state.training.noise
    assert 0 < noise_then < 1
    model.partial_fit(ratings_of(), epochs=2)
    assert model.n_iter_ == best + 2
    assert model._get_fitted().state.training.noise == noise_then
    rates = model.history_["learning_rate"]
    assert rates[-1] == pytest.approx(rates[0] * 0.97 ** (best + 1))


def test_first_partial_fit_is_fit():
    first = cmf.MatrixFactorization(**SMALL).partial_fit(ratings_of(), epochs=5)
    assert same_bits(first, cmf.MatrixFactorization(**SMALL).fit(ratings_of(), epochs=5))


# --- Ctrl-C ---------------------------------------------------------------------------------------


def interrupt_at(monkeypatch, epoch, number):
    """Have the training of a number end with an interrupt after an epoch."""
    trainings, train = [], training.train

    def interrupted(*arguments, callbacks=(), **options):
        trainings.append(options)

        def stop(report):
            if (len(trainings), report.epoch) == (number, epoch):
                raise KeyboardInterrupt

        return train(*arguments, callbacks=(*callbacks, stop), **options)

    monkeypatch.setattr(model_module.training, "train", interrupted)


@pytest.mark.parametrize("number", [1, 2], ids=["search", "final"])
@pytest.mark.parametrize("fitted_before", [False, True])
def test_an_interrupt_leaves_a_usable_model(number, fitted_before, monkeypatch):
    ratings = ratings_of()
    model = cmf.MatrixFactorization(**SMALL)
    if fitted_before:
        model.fit(ratings_of(seed=1))
    interrupt_at(monkeypatch, 3, number)
    with pytest.raises(KeyboardInterrupt):
        model.fit(ratings)
    monkeypatch.undo()
    assert model.history_["epoch"] == [1, 2, 3]
    assert model.n_iter_ == 3
    assert model.loss(ratings).rmse < ratings.data.std()
    # What was held out is known to be rated all the same.
    ids, _ = model.recommend(n=150)
    rated = np.diff(ratings.indptr)
    assert [int((row >= 0).sum()) for row in ids] == (150 - rated).tolist()
    assert np.isfinite(model.fold_in(ratings[:3]).factors).all()
    assert model.partial_fit(ratings).n_iter_ == 4


# --- units ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("float64", 1e-8)])
@pytest.mark.parametrize(("scale", "shift"), [(20, 7), (0.01, 0), (1, -100)])
def test_scale_and_shift_of_ratings_are_those_of_predictions(scale, shift, dtype, tolerance):
    ratings = ratings_of().copy()
    moved = ratings.copy()
    moved.data = scale * moved.data + shift
    first, second = (
        cmf.MatrixFactorization(**SMALL, dtype=dtype).fit(table) for table in (ratings, moved)
    )
    assert first.best_epoch_ == second.best_epoch_ > 0
    expected = scale * first.reconstruct().astype(np.float64) + shift
    spread = scale * ratings.data.std()
    np.testing.assert_allclose(second.reconstruct(), expected, rtol=0, atol=tolerance * spread)


def test_ratings_of_any_size_are_judged_alike():
    ratings = ratings_of()
    first, second = (
        cmf.MatrixFactorization(**SMALL, dtype="float64").fit(table)
        for table in (ratings, ratings * 2.0**300)
    )
    assert first.best_epoch_ == second.best_epoch_ > 0


@pytest.mark.parametrize("loss", ["squared", "absolute", "huber", "poisson"])
@pytest.mark.parametrize("scale", [1e100, 1e160, 1e307])
def test_losses_that_are_not_finite_give_no_warning(scale, loss):
    model = cmf.MatrixFactorization(**SMALL, loss_function=loss, dtype="float64")
    try:
        model.fit(abs(ratings_of()) * scale)
    except cmf.DivergenceError as error:
        assert "scale the ratings down" in str(error)  # noqa: PT017
    else:
        assert np.isfinite(model.reconstruct()).all()


def test_a_callback_may_end_training_before_the_best_epoch(tmp_path):
    ratings = ratings_of()
    model = cmf.MatrixFactorization(**SMALL)
    model.fit(ratings, callbacks=lambda report: report.epoch == 2)
    assert model.best_epoch_ == model.n_iter_ == 2
    assert len(model.history_["validation_rmse"]) == 2
    model.save(tmp_path / "model.cmf")
    assert same_bits(cmf.MatrixFactorization.load(tmp_path / "model.cmf"), model)


def test_callbacks_of_an_iterator_are_called_where_nothing_can_be_held_out():
    epochs = []
    callbacks = iter([lambda report: epochs.append(report.epoch)])
    model = cmf.MatrixFactorization(2, random_state=0, n_epochs=3)
    model.fit([[5, 1], [0, 3]], callbacks=callbacks)
    assert epochs == [1, 2, 3]
