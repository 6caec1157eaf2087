"""The epoch loop: what it reports, when it stops, and that it may be cut anywhere."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import inspect
import itertools
import logging
import math
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import reference
from models import factors_of, same_bits
from scipy import sparse

import cmf
from cmf import _ranges, epochs, training
from cmf._checks import check_ratings
from cmf._kernels.interleaved import highest_level
from cmf._kernels.walk import Walk
from cmf._parameters import Parameters
from cmf._rows import copy_rows
from cmf._state import HISTORY_COLUMNS, Factors
from cmf.schedule import Schedule

RULE = {"learning_rate": 0.005, "regularization": 0.15, "init_scale": 0.1}
SMALL = {"n_factors": 3, "n_epochs": 3, "random_state": 0, **RULE}
LEVELS = ("baseline", "avx2", "avx512")[: highest_level() + 1]


def random_ratings(n_users=12, n_items=9, density=0.5, seed=0):
    rng = np.random.default_rng(seed)
    rated = rng.random((n_users, n_items)) < density
    return sparse.csr_array(np.where(rated, rng.integers(1, 6, rated.shape), 0).astype(float))


def replay(ratings, model, n_epochs, user_factors, item_factors, ranges=None):
    """Train in plain Python; per epoch yield the sum of squared running errors and the factors."""
    P, Q = user_factors.copy(), item_factors.copy()
    b, c = np.zeros(len(P)), np.zeros(len(Q))
    mean = ratings.data.mean() if model.biases else 0.0
    scalars = mean, model.learning_rate, model.regularization
    for epoch in range(1, n_epochs + 1):
        order = reference.row_order(model.random_state, epoch, len(P))
        total = 0.0
        for rows in [(0, len(P))] if ranges is None else ranges[epoch - 1]:
            start = ratings.indptr, ratings.indices, ratings.data
            if model.shuffle:
                rate = 2 * model.learning_rate
                decay = 1 - model.learning_rate * model.regularization
                rates = rate, rate, rate if model.biases else 0.0, *[decay] * 4, 0.0
                visited = *rows, 0, 1, reference.streams_of(P.shape[1], P.dtype)
                total += reference.interleaved_epoch(
                    *start, order, P, Q, b, c, None, None, *visited, mean, *rates
                )
            else:
                biases = (b, c) if model.biases else (None, None)
                total += reference.sgd_epoch(*start, None, None, P, Q, *biases, *rows, *scalars)
        yield total, (P, Q, b, c)


def record_calls(monkeypatch, name):
    """Keep the arguments of every call of a kernel, by the names of its parameters."""
    kernel, calls = getattr(epochs, name), []
    names = list(inspect.signature(kernel).parameters)

    def recorded(*arguments):
        calls.append(dict(zip(names, arguments, strict=True)))
        return kernel(*arguments)

    monkeypatch.setattr(epochs, name, recorded)
    return calls


# --- history --------------------------------------------------------------------------------------


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_history_is_what_a_slow_replay_gives(biases, shuffle):
    ratings = random_ratings()
    rng = np.random.default_rng(1)
    P, Q = rng.normal(0, 0.5, (12, 3)), rng.normal(0, 0.5, (9, 3))
    model = cmf.MatrixFactorization(
        **{**SMALL, "n_epochs": 4, "random_state": 5},
        biases=biases,
        shuffle=shuffle,
        dtype="float64",
    ).fit(ratings, user_factors=P, item_factors=Q, exact_loss=True)
    history, beta = model.history_, model.regularization
    arrays = ()
    for k, (running_sse, arrays) in enumerate(replay(ratings, model, 4, P, Q)):
        running = running_sse / ratings.nnz
        penalty = beta * sum((array**2).sum() for array in arrays)
        exact = cmf.loss(
            ratings,
            *arrays[:2],
            beta,
            user_biases=arrays[2],
            item_biases=arrays[3],
            global_mean=model.global_mean_,
        )
        found = {column: history[column][k] for column in HISTORY_COLUMNS}
        assert found["epoch"] == k + 1
        assert found["learning_rate"] == model.learning_rate
        assert found["running_mse"] == pytest.approx(running, rel=1e-12)
        assert found["regularization"] == pytest.approx(penalty, rel=1e-12)
        assert found["running_total"] == pytest.approx(running + penalty, rel=1e-12)
        assert found["exact_mse"] == pytest.approx(exact.mse, rel=1e-12)
        assert found["exact_total"] == pytest.approx(exact.total, rel=1e-12)
    for found, expected in zip(factors_of(model), arrays, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_history_columns_are_as_long_as_training_and_hold_floats():
    model = cmf.MatrixFactorization(**SMALL).fit(random_ratings())
    assert list(model.history_) == list(HISTORY_COLUMNS)
    for column, numbers in model.history_.items():
        assert len(numbers) == 3, column
        assert {type(number) for number in numbers} == {float}, column
    assert min(model.history_["seconds"]) > 0


def test_exact_loss_is_measured_at_the_end_or_when_asked():
    ratings = random_ratings()
    model = cmf.MatrixFactorization(**SMALL).fit(ratings)
    assert np.isnan(model.history_["exact_mse"]).tolist() == [True, True, False]
    assert np.isnan(model.history_["exact_total"]).tolist() == [True, True, False]
    assert model.history_["exact_mse"][-1] == model.loss(ratings).mse
    assert model.history_["exact_total"][-1] == model.loss(ratings).total
    asked = cmf.MatrixFactorization(**SMALL).fit(ratings, exact_loss=True)
    assert np.isfinite(asked.history_["exact_mse"]).all()
    assert same_bits(asked, model)


def test_validation_errors_are_those_of_predict():
    ratings, held_out = random_ratings(seed=0), random_ratings(seed=1)
    users, items = held_out.nonzero()
    seen = []

    def measure(report):
        P, Q = report.user_factors.astype(float), report.item_factors.astype(float)
        predicted = (
            ratings.data.mean()
            + report.user_biases.astype(float)[users]
            + report.item_biases.astype(float)[items]
            + (P[users] * Q[items]).sum(axis=1)
        )
        errors = held_out.data - predicted
        seen.append((np.sqrt((errors**2).mean()), np.abs(errors).mean()))

    model = cmf.MatrixFactorization(**SMALL).fit(ratings, validation=held_out, callbacks=measure)
    np.testing.assert_allclose(
        np.transpose([model.history_["validation_rmse"], model.history_["validation_mae"]]),
        seen,
        rtol=1e-12,
    )
    predicted = model.predict(users, items)
    assert model.history_["validation_rmse"][-1] == pytest.approx(
        cmf.metrics.rmse(held_out.data, predicted), rel=1e-6
    )
    assert model.history_["validation_mae"][-1] == pytest.approx(
        cmf.metrics.mae(held_out.data, predicted), rel=1e-6
    )
    plain = cmf.MatrixFactorization(**SMALL).fit(ratings)
    assert same_bits(plain, model)
    assert np.isnan(plain.history_["validation_rmse"]).all()
    assert np.isnan(plain.history_["validation_mae"]).all()


def test_validation_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"validation has shape \(9, 12\).*is it transposed\?"):
        cmf.MatrixFactorization().fit(random_ratings(), validation=random_ratings().T)


# --- what people see ------------------------------------------------------------------------------


def test_verbose_1_prints_a_line_an_epoch(capsys):
    model = cmf.MatrixFactorization(**SMALL, verbose=1).fit(random_ratings())
    model.partial_fit(random_ratings(), epochs=2)
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert len(lines) == 5
    number = r"\d+\.\d{4}"
    shape = rf"Epoch \d/\d - Training Loss: {number} \(mse {number}, reg {number}\)"
    assert all(re.fullmatch(shape, line) for line in lines)
    history = model.history_
    for k, line in enumerate(lines):
        expected = [history[c][k] for c in ("running_total", "running_mse", "regularization")]
        assert line.startswith(f"Epoch {k + 1}/{3 if k < 3 else 5} - ")
        assert re.findall(number, line) == [f"{value:.4f}" for value in expected]


def test_verbose_true_is_verbose_1(capsys):
    cmf.MatrixFactorization(**SMALL, verbose=True).fit(random_ratings())
    assert capsys.readouterr().out.startswith("Epoch 1/3 - Training Loss: ")


def test_verbose_2_shows_a_bar_on_standard_error(capsys):
    model = cmf.MatrixFactorization(**SMALL, verbose=2)
    model.fit(random_ratings(), validation=random_ratings(seed=1))
    out, err = capsys.readouterr()
    assert out == ""
    assert "3/3" in err
    assert f"loss={model.history_['running_total'][-1]:.4f}" in err
    assert f"validation_rmse={model.history_['validation_rmse'][-1]:.4f}" in err


def test_bar_is_closed_when_training_fails(capsys):
    def fail(report):
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        cmf.MatrixFactorization(**SMALL, verbose=2).fit(random_ratings(), callbacks=fail)
    assert capsys.readouterr().err.endswith("\n")


def test_silent_by_default():
    code = (
        "import cmf\ncmf.MatrixFactorization(2, random_state=0).fit([[5, 1]]).partial_fit([[5, 1]])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")


def test_log_has_a_record_per_epoch_for_those_who_want_it(caplog):
    logger = logging.getLogger("cmf")
    assert any(isinstance(handler, logging.NullHandler) for handler in logger.handlers)
    assert logger.level == logging.NOTSET
    ratings = random_ratings()
    cmf.MatrixFactorization(**SMALL).fit(ratings)
    assert caplog.records == []
    with caplog.at_level(logging.INFO, logger="cmf"):
        cmf.MatrixFactorization(**SMALL).fit(ratings)
    assert [record.levelno for record in caplog.records] == [logging.INFO] * 3
    assert caplog.messages[2].startswith("Epoch 3/3 - Training Loss: ")


# --- callbacks ------------------------------------------------------------------------------------


def test_callbacks_see_every_epoch_in_order():
    seen = []
    model = cmf.MatrixFactorization(**SMALL).fit(
        random_ratings(),
        callbacks=[lambda report: seen.append(("a", report)), lambda r: seen.append(("b", r))],
    )
    assert [(name, report.epoch) for name, report in seen] == [
        (name, epoch) for epoch in (1, 2, 3) for name in "ab"
    ]
    report = seen[-1][1]
    assert isinstance(report, cmf.EpochReport)
    assert report.n_epochs == 3
    assert report.exact.total == model.history_["exact_total"][-1]
    assert report.validation_rmse is report.validation_mae is None
    for name in ("running_mse", "regularization", "running_total", "learning_rate", "seconds"):
        assert getattr(report, name) == model.history_[name][-1]
    assert seen[0][1].exact is None


def test_reports_are_read_only():
    def meddle(report):
        for name in ("user_factors", "item_factors", "user_biases", "item_biases"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(report, name)[...] = 0
        with pytest.raises(dataclasses.FrozenInstanceError):
            report.epoch = 9

    ratings = random_ratings()
    model = cmf.MatrixFactorization(**SMALL).fit(ratings, callbacks=meddle)
    assert same_bits(model, cmf.MatrixFactorization(**SMALL).fit(ratings))


def test_reports_show_the_factors_of_their_epoch():
    ratings, snapshots = random_ratings(), []
    cmf.MatrixFactorization(**SMALL).fit(
        ratings, callbacks=lambda report: snapshots.append(report.user_factors.copy())
    )
    for k, snapshot in enumerate(snapshots):
        shorter = cmf.MatrixFactorization(**SMALL).fit(ratings, epochs=k + 1)
        np.testing.assert_array_equal(snapshot, shorter.user_factors_)


@pytest.mark.parametrize("true", [True, np.True_])
def test_true_ends_training_with_that_epoch(true):
    ratings, others = random_ratings(), []
    model = cmf.MatrixFactorization(**{**SMALL, "n_epochs": 9}).fit(
        ratings,
        callbacks=[lambda report: true if report.epoch == 2 else None, others.append],
    )
    assert model.history_["epoch"] == [1, 2]
    assert model.n_iter_ == len(others) == 2
    assert math.isnan(model.history_["exact_mse"][0])
    assert model.history_["exact_mse"][1] == model.loss(ratings).mse
    assert model.history_["exact_total"][1] == model.loss(ratings).total
    assert same_bits(model, cmf.MatrixFactorization(**SMALL).fit(ratings, epochs=2))


@pytest.mark.parametrize("answer", [None, False, np.False_, 0, 1, "x", [True], np.ones(2)])
def test_nothing_but_true_ends_training(answer):
    model = cmf.MatrixFactorization(**SMALL).fit(random_ratings(), callbacks=lambda _: answer)
    assert model.n_iter_ == 3


def test_exceptions_of_callbacks_leave_the_old_state():
    model = cmf.MatrixFactorization(**SMALL).fit(random_ratings())
    before, history = copy.deepcopy(model), model.history_

    def fail(report):
        raise RuntimeError("mine")

    for train in (model.fit, model.partial_fit):
        with pytest.raises(RuntimeError, match="mine"):
            train(random_ratings(seed=1), callbacks=fail)
        assert same_bits(model, before)
        assert model.history_ is history
        assert model.history_["epoch"] == [1, 2, 3]
        np.testing.assert_array_equal(model.recommend()[0], before.recommend()[0])


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (3, "callbacks must be a callable or several of them, got int"),
        ([print, "x"], "callbacks holds 'x', which is not callable"),
    ],
)
def test_callbacks_must_be_callable(callbacks, message):
    with pytest.raises(TypeError, match=message):
        cmf.MatrixFactorization(**SMALL).fit(random_ratings(), callbacks=callbacks)


# --- how long, and going on -----------------------------------------------------------------------


def test_epochs_override_the_parameter():
    ratings = random_ratings()
    model = cmf.MatrixFactorization(**SMALL).fit(ratings, epochs=5)
    assert model.n_iter_ == 5
    assert model.n_epochs == 3
    assert same_bits(model, cmf.MatrixFactorization(**{**SMALL, "n_epochs": 5}).fit(ratings))


@pytest.mark.parametrize(
    ("epochs", "error", "message"),
    [
        (0, ValueError, "epochs must be at least 1, got 0"),
        (-1, ValueError, "epochs must be at least 1, got -1"),
        (2.0, TypeError, "epochs must be an integer"),
        (True, TypeError, "epochs must be an integer"),
    ],
)
def test_bad_numbers_of_epochs_are_refused(epochs, error, message):
    model = cmf.MatrixFactorization(**SMALL)
    for train in (model.fit, model.partial_fit):
        with pytest.raises(error, match=message):
            train(random_ratings(), epochs=epochs)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("saved", [False, True])
def test_two_halves_are_the_whole(shuffle, biases, dtype, saved, tmp_path):
    ratings = random_ratings()
    make = {**SMALL, "shuffle": shuffle, "biases": biases, "dtype": dtype}
    whole = cmf.MatrixFactorization(**make).fit(ratings, epochs=10, exact_loss=True)
    half = cmf.MatrixFactorization(**make).fit(ratings, epochs=5, exact_loss=True)
    if saved:
        half.save(tmp_path / "half.cmf")
        half = cmf.MatrixFactorization.load(tmp_path / "half.cmf")
    half.partial_fit(ratings, epochs=5, exact_loss=True)
    assert same_bits(half, whole)
    assert half.n_iter_ == 10
    for column in set(HISTORY_COLUMNS) - {"seconds"}:
        np.testing.assert_array_equal(half.history_[column], whole.history_[column])


def test_first_partial_fit_is_fit():
    ratings = random_ratings()
    first = cmf.MatrixFactorization(**SMALL).partial_fit(ratings, epochs=4)
    assert same_bits(first, cmf.MatrixFactorization(**SMALL).fit(ratings, epochs=4))
    assert cmf.MatrixFactorization(**SMALL).partial_fit(ratings).n_iter_ == 1


def test_new_ratings_join_the_seen_ones_and_keep_the_mean():
    first = np.array([[5, 0, 0, 1], [0, 3, 0, 4]])
    second = np.array([[0, 2, 0, 4], [0, 0, 0, 5]])
    model = cmf.MatrixFactorization(**SMALL).fit(first).partial_fit(second)
    assert model.global_mean_ == first[first > 0].mean()
    ids, _ = model.recommend(n=4)
    assert [set(row[row >= 0]) for row in ids] == [{2}, {0, 2}]
    model.partial_fit(first)
    np.testing.assert_array_equal(np.sort(model.recommend(n=4)[0]), np.sort(ids))


def test_new_ratings_move_only_what_they_touch():
    model = cmf.MatrixFactorization(**SMALL, biases=False).fit(random_ratings())
    before = copy.deepcopy(model)
    new = np.zeros((12, 9))
    new[2, 4] = 5
    model.partial_fit(new)
    moved_users = (model.user_factors_ != before.user_factors_).any(axis=1)
    moved_items = (model.item_factors_ != before.item_factors_).any(axis=1)
    assert np.flatnonzero(moved_users).tolist() == [2]
    assert np.flatnonzero(moved_items).tolist() == [4]


def test_parameters_that_may_change_take_effect_on_continued_training():
    ratings = random_ratings()
    model = cmf.MatrixFactorization(**SMALL).fit(ratings)
    other = copy.deepcopy(model).set_params(learning_rate=0.5e-3, regularization=0.3)
    other.partial_fit(ratings)
    model.partial_fit(ratings)
    assert not same_bits(model, other)
    assert other.history_["learning_rate"] == [0.005] * 3 + [0.5e-3]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_factors": 4}, "n_factors is 4, but the model was fitted with 3: call fit"),
        ({"dtype": "float64"}, "dtype is 'float64', but the model was fitted with 'float32'"),
        ({"biases": False}, "biases is False, but the model was fitted with True"),
    ],
)
def test_parameters_that_may_not_change_are_refused(changed, message):
    model = cmf.MatrixFactorization(**SMALL).fit(random_ratings()).set_params(**changed)
    with pytest.raises(ValueError, match=message):
        model.partial_fit(random_ratings())


def test_continued_training_keeps_to_its_users_and_items():
    model = cmf.MatrixFactorization(**SMALL).fit(random_ratings())
    with pytest.raises(
        ValueError, match=r"ratings has shape \(13, 9\), but the model has 12 users"
    ):
        model.partial_fit(random_ratings(n_users=13))


def test_continued_training_leaves_held_factors_alone():
    model = cmf.MatrixFactorization(**SMALL).fit(random_ratings())
    held = model.user_factors_
    copied, history = held.copy(), model.history_
    model.partial_fit(random_ratings())
    np.testing.assert_array_equal(held, copied)
    assert len(history["epoch"]) == 3
    assert model.user_factors_ is not held


# --- order of visits ------------------------------------------------------------------------------


def test_every_epoch_takes_the_users_in_an_order_of_its_own(monkeypatch):
    ratings = random_ratings(60, 40)
    calls = record_calls(monkeypatch, "interleaved_epoch")
    for seed in (3, 3, 4):
        cmf.MatrixFactorization(**{**SMALL, "n_epochs": 2, "random_state": seed}).fit(ratings)
    orders = [call["row_order"] for call in calls]
    assert len(orders) == 6
    for order, (seed, epoch) in zip(
        orders, [(3, 1), (3, 2), (3, 1), (3, 2), (4, 1), (4, 2)], strict=True
    ):
        np.testing.assert_array_equal(np.sort(order), np.arange(60))
        np.testing.assert_array_equal(order, reference.row_order(seed, epoch, 60))
    # Of 60 rows one stays by chance.
    assert (orders[0] == orders[1]).mean() < 0.2
    assert (orders[1] == orders[5]).mean() < 0.2


def test_cutting_an_epoch_in_stored_order_into_calls_changes_no_bit(monkeypatch):
    ratings = random_ratings(50, 30)
    make = {**SMALL, "shuffle": False}
    whole = cmf.MatrixFactorization(**make).fit(ratings)
    P, Q = whole.user_factors_.astype(float), whole.item_factors_.astype(float)
    P2, Q2 = P.copy(), Q.copy()
    cmf.sgd_epoch(ratings, P, Q, 0.01, 0.1)
    calls = record_calls(monkeypatch, "sgd_epoch")
    for budget in (1, 3 * 40, 3 * 500):
        monkeypatch.setattr(_ranges, "FACTORS_PER_CALL", budget)
        calls.clear()
        cut = cmf.MatrixFactorization(**make).fit(ratings, epochs=3)
        assert same_bits(cut, whole)
        assert [len(ranges) > 1 for ranges in ranges_of_epochs(calls, 50)] == [True] * 3
    cmf.sgd_epoch(ratings, P2, Q2, 0.01, 0.1)
    np.testing.assert_array_equal(P2, P)
    np.testing.assert_array_equal(Q2, Q)


@pytest.mark.parametrize("biases", [True, False])
def test_epoch_of_shuffled_users_in_several_calls_is_the_replay_of_these(biases, monkeypatch):
    # Users are taken in turns inside a call only, so where an epoch is cut shows in the result.
    ratings = random_ratings(50, 30)
    rng = np.random.default_rng(1)
    P, Q = rng.normal(0, 0.5, (50, 3)), rng.normal(0, 0.5, (30, 3))
    model = cmf.MatrixFactorization(**SMALL, biases=biases, dtype="float64")
    whole = model.fit(ratings, user_factors=P, item_factors=Q).user_factors_
    cuts = []

    def recorded_walk(n_strips, calls, group_calls, patience):
        assert (n_strips, group_calls.tolist()) == (1, [0, len(calls) - 1])
        cuts.append(calls.tolist())
        return Walk(n_strips, calls, group_calls, patience)

    monkeypatch.setattr(epochs, "Walk", recorded_walk)
    for budget in (1, 3 * 40, 3 * 500):
        monkeypatch.setattr(_ranges, "FACTORS_PER_CALL", budget)
        cuts.clear()
        model.fit(ratings, user_factors=P, item_factors=Q)
        assert [(cut[0], cut[-1], len(cut) > 2) for cut in cuts] == [(0, 50, True)] * 3
        ranges = [list(itertools.pairwise(cut)) for cut in cuts]
        *_, (_, arrays) = replay(ratings, model, 3, P, Q, ranges)
        for found, expected in zip(factors_of(model), arrays, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
        assert np.abs(model.user_factors_ - whole).max() > 1e-9


def ranges_of_epochs(calls, n_users):
    """Return the first and the last row + 1 of every call of every epoch; they must join."""
    epochs = []
    for call in calls:
        if call["first"] == 0:
            epochs.append([])
        epochs[-1].append((call["first"], call["last"]))
    for ranges in epochs:
        assert ranges[-1][1] == n_users
        assert all(one[1] == other[0] for one, other in itertools.pairwise(ranges))
    return epochs


def test_more_items_than_int32_can_number_are_trained_user_after_user():
    ratings = random_ratings()
    rng = np.random.default_rng(1)
    arrays = [rng.normal(0, 0.5, shape) for shape in ((12, 3), (9, 3), 12, 9)]
    expected = [array.copy() for array in arrays]
    checked = check_ratings(ratings, dtype="float64")
    history = training.new_history()
    parameters = Parameters.check(cmf.MatrixFactorization(**SMALL, dtype="float64").get_params())
    factors = Factors(*map(copy_rows, arrays[:2]), *arrays[2:], global_mean=2.5, biased=True)
    training.train(
        factors,
        dataclasses.replace(checked, indices=checked.indices.astype(np.int64)),
        parameters,
        Schedule(parameters, checked, 2.5),
        history,
        n_epochs=2,
        first_epoch=1,
        seed=7,
    )
    for epoch in (1, 2):
        order = reference.row_order(7, epoch, 12)
        running_sse = reference.sgd_epoch(
            *(ratings.indptr, ratings.indices, ratings.data, order, None),
            *(*expected, 0, 12, 2.5, parameters.learning_rate, parameters.regularization),
        )
        assert history["running_mse"][epoch - 1] == pytest.approx(running_sse / ratings.nnz)
    found = factors.user_factors, factors.item_factors, factors.user_biases, factors.item_biases
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-15)


# --- instruction-set levels -----------------------------------------------------------------------


def digest(model):
    """Return the SHA-256 of all factors and biases."""
    return hashlib.sha256(b"".join(array.tobytes() for array in factors_of(model))).hexdigest()


@pytest.mark.parametrize("n_factors", [3, 64, 100])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LEVELS)
def test_fits_repeat_bit_for_bit_at_each_level(name, dtype, n_factors, monkeypatch):
    monkeypatch.setenv("CMF_SIMD", name)
    ratings = random_ratings(60, 40)
    make = {**SMALL, "n_factors": n_factors, "dtype": dtype}
    assert len({digest(cmf.MatrixFactorization(**make).fit(ratings)) for _ in range(5)}) == 1


FIT = """
import numpy as np
import cmf

ratings = np.arange(600.0).reshape(20, 30) % 7
model = cmf.MatrixFactorization(
    20, learning_rate=0.005, regularization=0.15, init_scale=0.1, n_epochs=3, random_state=0
).fit(ratings)
"""
PRINT_FACTORS = "print(model.user_factors_.tobytes().hex(), model.item_biases_.tobytes().hex())"


@pytest.mark.parametrize("name", LEVELS)
def test_fits_repeat_bit_for_bit_in_another_process(name, monkeypatch, capsys):
    monkeypatch.setenv("CMF_SIMD", name)
    exec(FIT + PRINT_FACTORS, {})
    done = subprocess.run(
        [sys.executable, "-c", FIT + PRINT_FACTORS],
        capture_output=True,
        timeout=60,
        check=True,
        text=True,
    )
    assert done.stdout == capsys.readouterr().out


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("n_factors", [3, 64, 100, 200])
def test_levels_agree_but_for_rounding(n_factors, biases, monkeypatch):
    ratings, models = random_ratings(60, 40), []
    for name in LEVELS:
        monkeypatch.setenv("CMF_SIMD", name)
        model = cmf.MatrixFactorization(
            n_factors, n_epochs=5, biases=biases, dtype="float64", random_state=0, **RULE
        )
        models.append(model.fit(ratings))
    for model in models[1:]:
        for mine, theirs in zip(factors_of(model), factors_of(models[0]), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)
        assert model.history_["running_mse"] == pytest.approx(
            models[0].history_["running_mse"], rel=1e-9
        )


@pytest.mark.parametrize("name", LEVELS)
def test_level_of_the_environment_is_what_the_kernel_is_given(name, monkeypatch):
    monkeypatch.setenv("CMF_SIMD", name)
    calls = record_calls(monkeypatch, "interleaved_epoch")
    cmf.MatrixFactorization(**SMALL).fit(random_ratings())
    assert [call["level"] for call in calls] == [LEVELS.index(name)] * 3


# --- seeds ----------------------------------------------------------------------------------------


def fit_with(random_state):
    model = cmf.MatrixFactorization(2, n_epochs=2, random_state=random_state, **RULE)
    return model.fit(random_ratings())


REPEATING = {
    "int": lambda: 7,
    "large int": lambda: 2**200 + 1,
    "numpy int": lambda: np.uint8(7),
    "list": lambda: [1, 2],
    "array": lambda: np.array([1, 2]),
    "SeedSequence": lambda: np.random.SeedSequence(7),
    "spawned": lambda: np.random.SeedSequence(7).spawn(2)[1],
}
ADVANCING = {
    "Generator": lambda: np.random.default_rng(7),
    "BitGenerator": lambda: np.random.Philox(7),
    "RandomState": lambda: np.random.RandomState(7),
}


@pytest.mark.parametrize("kind", list(REPEATING))
def test_seeds_repeat(kind):
    seed = REPEATING[kind]()
    first = fit_with(seed)
    assert same_bits(first, fit_with(seed))
    assert same_bits(first, fit_with(REPEATING[kind]()))


@pytest.mark.parametrize("kind", list(ADVANCING))
def test_generators_advance(kind):
    generator = ADVANCING[kind]()
    first = fit_with(generator)
    second = fit_with(generator)
    assert not same_bits(first, second)
    again = ADVANCING[kind]()
    assert same_bits(fit_with(again), first)
    assert same_bits(fit_with(again), second)


def test_no_seed_differs_every_time():
    assert not same_bits(fit_with(None), fit_with(None))


def test_different_seeds_differ():
    models = [fit_with(make()) for make in [*REPEATING.values(), *ADVANCING.values()]]
    # 7 and numpy's 7 are one seed, and so are the list and the array.
    assert len({model.user_factors_.tobytes() for model in models}) == len(models) - 2


def test_seed_decides_the_start_and_the_order_of_visits():
    ratings = random_ratings()
    starts = [
        cmf.MatrixFactorization(2, learning_rate=1e-300, shuffle=shuffle, random_state=seed)
        .fit(ratings)
        .item_factors_
        for seed in (0, 1)
        for shuffle in (True, False)
    ]
    np.testing.assert_array_equal(starts[0], starts[1])
    np.testing.assert_array_equal(starts[2], starts[3])
    assert (starts[0] != starts[2]).all()
    given = {"user_factors": np.ones((12, 2)), "item_factors": np.ones((9, 2))}
    orders = [
        cmf.MatrixFactorization(2, n_epochs=1, random_state=seed, **RULE).fit(ratings, **given)
        for seed in (0, 1)
    ]
    assert not same_bits(*orders)


def test_state_of_numpy_is_not_touched():
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()  # noqa: NPY002
    for make in ({}, {"random_state": 1}, {"random_state": np.random.RandomState(1)}):
        model = cmf.MatrixFactorization(2, n_epochs=2, **make).fit(random_ratings())
        model.partial_fit(random_ratings())
    after = np.random.get_state()  # noqa: NPY002
    assert before[0] == after[0]
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2:] == after[2:]


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (-1, ValueError, "random_state must be 0 or more"),
        (True, TypeError, "random_state must be"),
        ("7", TypeError, "random_state must be"),
        (0.5, TypeError, "random_state must be"),
    ],
)
def test_bad_seeds_are_refused(seed, error, message):
    with pytest.raises(error, match=message):
        fit_with(seed)


# --- divergence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_divergence_is_an_error_and_leaves_the_old_state(dtype):
    ratings = random_ratings()
    model = cmf.MatrixFactorization(**SMALL, dtype=dtype).fit(ratings)
    before = copy.deepcopy(model)
    model.set_params(learning_rate=0.9, n_epochs=500)
    for train in (model.fit, lambda r: model.partial_fit(r, epochs=500)):
        with pytest.raises(
            cmf.DivergenceError, match=r"diverged in epoch \d+ with .*=0.9"
        ) as caught:
            train(ratings)
        assert isinstance(caught.value, ArithmeticError)
        assert caught.value.learning_rate == 0.9
        assert 1 <= caught.value.epoch <= 503
        assert same_bits(model, before)
        assert model.n_iter_ == 3
    assert math.isfinite(caught.value.last_finite_loss)


# --- Ctrl-C ---------------------------------------------------------------------------------------


def test_interrupt_keeps_what_was_reached():
    ratings = random_ratings()

    def interrupt(report):
        if report.epoch == 4:
            raise KeyboardInterrupt

    model = cmf.MatrixFactorization(**{**SMALL, "n_epochs": 10})
    with pytest.raises(KeyboardInterrupt):
        model.fit(ratings, callbacks=interrupt)
    assert model.n_iter_ == 4
    assert model.history_["epoch"] == [1, 2, 3, 4]
    assert same_bits(model, cmf.MatrixFactorization(**SMALL).fit(ratings, epochs=4))
    model.partial_fit(ratings, epochs=6)
    assert same_bits(model, cmf.MatrixFactorization(**SMALL).fit(ratings, epochs=10))


@pytest.mark.parametrize(("shuffle", "name"), [(True, "interleaved_epoch"), (False, "sgd_epoch")])
def test_interrupt_inside_an_epoch_keeps_finite_factors(shuffle, name, monkeypatch):
    ratings = random_ratings()
    model = cmf.MatrixFactorization(**SMALL, shuffle=shuffle).fit(ratings)
    before = copy.deepcopy(model)
    kernel, calls = getattr(epochs, name), []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return kernel(*arguments)

    monkeypatch.setattr(_ranges, "FACTORS_PER_CALL", 1)
    monkeypatch.setattr(epochs, "PATIENCE", -1.0)
    monkeypatch.setattr(epochs, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.partial_fit(ratings)
    assert model.n_iter_ == 3
    assert not same_bits(model, before)
    assert all(np.isfinite(array).all() for array in factors_of(model))
    monkeypatch.setattr(epochs, name, kernel)
    assert model.partial_fit(ratings).n_iter_ == 4


LONG_FIT = """
import sys, threading, time
import numpy as np
import cmf

# One epoch visits 10^6 ratings of 2048 factors: seconds, far longer than an answer may take.
ratings = np.random.default_rng(0).integers(1, 6, (1000, 1000)).astype(np.float32)
model = cmf.MatrixFactorization(
    2048, n_epochs=1000, learning_rate=1e-4, init_scale=0.01, random_state=0
)

def announce():
    time.sleep(1.5)
    print("training", flush=True)

threading.Thread(target=announce, daemon=True).start()
try:
    model.fit(ratings)
except KeyboardInterrupt:
    print("interrupted", flush=True)
assert np.isfinite(model.predict(range(1000), 0)).all()
assert model.recommend(0, exclude_seen=False)[0].shape == (10,)
assert len(model.history_["epoch"]) == model.n_iter_
print("usable", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is sent the POSIX way")
def test_ctrl_c_is_answered_soon_and_leaves_a_usable_model():
    with subprocess.Popen(
        [sys.executable, "-c", LONG_FIT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "training\n"
            process.send_signal(signal.SIGINT)
            sent = time.perf_counter()
            assert process.stdout.readline() == "interrupted\n"
            waited = time.perf_counter() - sent
            # Not communicate(), which does not know of what readline() has read ahead.
            out, err = process.stdout.read(), process.stderr.read()
            process.wait(timeout=60)
        finally:
            process.kill()
    assert waited < 2
    assert (out, err) == ("usable\n", "")
    assert process.returncode == 0
