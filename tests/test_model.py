"""The estimator as a whole: what it learns, what it answers, and how it travels."""

from __future__ import annotations

import copy
import io
import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import cmf
from cmf import serialization

# The plain rule, which learns from any few ratings; the defaults hold some of them out.
SCRATCH = {
    "n_factors": 4,
    "learning_rate": 0.005,
    "regularization": 0.15,
    "n_epochs": 3,
    "init_scale": 0.1,
    "random_state": 0,
}


def random_ratings(n_users=30, n_items=20, density=0.4, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    rated = rng.random((n_users, n_items)) < density
    rated[0, 0] = True
    return sparse.csr_array(np.where(rated, rng.integers(1, 6, rated.shape), 0).astype(dtype))


def factors_of(model):
    return [
        model.user_factors_,
        model.item_factors_,
        model.user_biases_,
        model.item_biases_,
        np.array(model.global_mean_),
    ]


def same_bits(first, second):
    return all(
        a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for a, b in zip(factors_of(first), factors_of(second), strict=True)
    )


@pytest.fixture(scope="module")
def fitted():
    return cmf.MatrixFactorization(**SCRATCH).fit(random_ratings())


# --- what it learns -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_planted_low_rank_is_recovered(dtype):
    data = cmf.datasets.make_ratings(
        500, 300, 40_000, n_test=4_000, n_factors=4, noise=0.5, random_state=0
    )
    model = cmf.MatrixFactorization(
        4, learning_rate=0.01, regularization=0.05, n_epochs=60, dtype=dtype, random_state=1
    ).fit(data.ratings)
    # The mean alone reaches 0.98, the planted numbers themselves 0.5. Seen here: 0.536.
    assert model.loss(data.test).rmse < 1.1 * data.best_rmse


def test_biases_alone_recover_planted_biases():
    data = cmf.datasets.make_ratings(
        300, 200, 20_000, n_test=4_000, n_factors=0, noise=0.5, random_state=0
    )
    model = cmf.MatrixFactorization(
        1, init_scale=0, learning_rate=0.005, regularization=0.02, n_epochs=40
    ).fit(data.ratings)
    assert not model.user_factors_.any()
    assert not model.item_factors_.any()
    assert model.loss(data.test).rmse < 1.05 * data.best_rmse


@pytest.mark.parametrize("biases", [True, False])
def test_checkerboard_is_learned(biases):
    # Even users like even items, odd users odd ones. Every user's own number, which is liked, and
    # the two after the next, one liked and one not, are withheld; then only one liked is kept.
    n = 20
    users, items = np.indices((n, n))
    ratings = np.where((users + items) % 2 == 0, 5, 1)
    for offset in (0, 1, 3):
        ratings[np.arange(n), (np.arange(n) + offset) % n] = 0
    model = cmf.MatrixFactorization(
        3, learning_rate=0.02, regularization=0.01, n_epochs=150, biases=biases, random_state=0
    ).fit(ratings)
    ids, scores = model.recommend(n=3)
    np.testing.assert_array_equal(ids[:, 0], np.arange(n))
    assert scores[:, 0].min() > 4
    assert scores[:, 1].max() < 2


CHANGES: dict[str, list[Any]] = {
    "n_factors": [5],
    "learning_rate": [0.006],
    "regularization": [0.2],
    "n_epochs": [4],
    "biases": [False],
    "shuffle": [False],
    "init": ["scaled", "uniform"],
    "init_scale": [0.2],
    "dtype": ["float64"],
    "random_state": [1],
    "n_threads": [1, 2, 64],
    "verbose": [1, 2],
    "learning_rate_decay": [0.9],
    "adaptive": [True],
    "bias_learning_rate": [0.0, 0.002],
    "user_regularization": [0.0, 0.3],
    "item_regularization": [0.0, 0.3],
    "bias_regularization": [0.0, 0.3],
    "regularization_scaling": ["sqrt", "count"],
    "early_stopping": [True],
    "validation_fraction": [0.3],
    "patience": [1],
    "posterior_samples": [5],
    "burn_in": [3],
    "implicit": [False],
    "implicit_learning_rate": [0.0, 0.02],
    "implicit_regularization": [0.0, 2.0],
    "loss_function": ["absolute", "huber"],
    "huber_threshold": [0.1],
    "l1_regularization": [0.01],
    "nonnegative": [True],
    "averaged_epochs": [2],
}
# What some have an effect on.
OPTIONS_OF: dict[str, dict[str, Any]] = {
    "implicit_learning_rate": {"implicit": True},
    "implicit_regularization": {"implicit": True},
    "huber_threshold": {"loss_function": "huber"},
}
WITHOUT_EFFECT = {"n_threads", "verbose"}
# Under the defaults these are other values than those that are chosen by the ratings.
CHANGED_DEFAULTS = {
    **CHANGES,
    "learning_rate": [0.03],
    "n_epochs": [3],
    "shuffle": [False],
    "adaptive": [False],
    "early_stopping": [False],
}
# How strengths that are given depend on counts: none is.
WITHOUT_EFFECT_ON_DEFAULTS = {*WITHOUT_EFFECT, "regularization_scaling"}


def planted_ratings():
    return cmf.datasets.make_ratings(120, 60, 3_000, n_factors=2, noise=0.3, random_state=0).ratings


def check_effect(name, values, base, without_effect):
    """Compare models that differ in one parameter."""
    ratings = planted_ratings()
    unchanged = cmf.MatrixFactorization(**base).fit(ratings)
    assert unchanged.user_factors_.any()
    for value in values:
        changed = cmf.MatrixFactorization(**{**base, name: value}).fit(ratings)
        assert same_bits(unchanged, changed) == (name in without_effect), f"{name}={value!r}"


@pytest.mark.parametrize("name", list(CHANGES))
def test_every_parameter_has_its_effect_and_no_other(name):
    base = dict(SCRATCH)
    if name in ("burn_in", "implicit"):
        base.update(posterior_samples=5)
    if name in ("early_stopping", "validation_fraction", "patience"):
        # So large steps that the best epoch is not the last.
        base.update(early_stopping=name != "early_stopping", learning_rate=0.05, n_epochs=60)
    base.update(OPTIONS_OF.get(name, {}))
    check_effect(name, CHANGES[name], base, WITHOUT_EFFECT)


def test_implicit_features_change_gradient_descent_as_well():
    for base in (SCRATCH, {"n_factors": 4, "random_state": 0}):
        check_effect("implicit", [True], base, WITHOUT_EFFECT)


@pytest.mark.parametrize("name", list(CHANGED_DEFAULTS))
def test_every_parameter_has_its_effect_on_the_defaults(name):
    base = {"n_factors": 4, "random_state": 0}
    if name in ("burn_in", "implicit"):
        base.update(posterior_samples=5)
    base.update(OPTIONS_OF.get(name, {}))
    check_effect(name, CHANGED_DEFAULTS[name], base, WITHOUT_EFFECT_ON_DEFAULTS)


def test_the_list_of_parameters_is_whole():
    assert set(CHANGES) == set(cmf.MatrixFactorization().get_params())


def test_fit_starts_anew_each_time():
    ratings = random_ratings()
    model = cmf.MatrixFactorization(**SCRATCH).fit(ratings)
    once = copy.deepcopy(model)
    assert same_bits(model.fit(ratings), once)
    assert len(model.history_["epoch"]) == 3


def test_users_and_items_without_ratings_are_predicted_from_the_rest():
    ratings = random_ratings().toarray()
    ratings[3] = 0
    ratings[:, 5] = 0
    model = cmf.MatrixFactorization(**SCRATCH, dtype="float64").fit(ratings)
    mean = ratings[ratings > 0].mean()
    assert model.global_mean_ == pytest.approx(mean, rel=1e-14)
    assert model.predict(3, 5) == pytest.approx(mean)
    assert model.predict(3, 0) == pytest.approx(mean + model.item_biases_[0])
    assert model.predict(0, 5) == pytest.approx(mean + model.user_biases_[0])


def test_without_biases_there_is_no_mean():
    model = cmf.MatrixFactorization(**SCRATCH, biases=False).fit(random_ratings())
    assert model.global_mean_ == 0.0
    assert not model.user_biases_.any()
    assert not model.item_biases_.any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_attributes_have_the_documented_shapes(dtype):
    model = cmf.MatrixFactorization(**SCRATCH, dtype=dtype).fit(random_ratings(30, 20))
    shapes = [array.shape for array in factors_of(model)]
    assert shapes == [(30, 4), (20, 4), (30,), (20,), ()]
    assert {array.dtype for array in factors_of(model)[:4]} == {np.dtype(dtype)}
    assert type(model.global_mean_) is float
    assert (model.n_features_in_, model.n_iter_) == (20, 3)
    assert model.user_ids_ is None
    assert model.item_ids_ is None


# --- predictions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_predictions_follow_the_formula(dtype):
    model = cmf.MatrixFactorization(**SCRATCH, dtype=dtype).fit(random_ratings())
    P, Q, b, c, mean = (array.astype(np.float64) for array in factors_of(model))
    expected = mean + b[:, None] + c + P @ Q.T
    tolerance = 1e-6 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(model.reconstruct(), expected, rtol=tolerance)
    assert model.reconstruct().dtype == dtype


def test_one_pair_many_pairs_and_blocks_have_the_same_bits(fitted):
    table = fitted.reconstruct()
    users, items = np.indices(table.shape)
    pairs = fitted.predict(users.ravel(), items.ravel()).reshape(table.shape)
    np.testing.assert_array_equal(pairs, table)
    np.testing.assert_array_equal(fitted.predict(3, range(20)), table[3])
    np.testing.assert_array_equal(fitted.predict(range(30), 7), table[:, 7])
    np.testing.assert_array_equal(fitted.predict([4], [5]), table[4:5, 5])
    one = fitted.predict(3, 7)
    assert isinstance(one, np.float32)
    assert one == table[3, 7]


def test_reconstruct_takes_rows_in_any_order_and_twice(fitted):
    table = fitted.reconstruct()
    np.testing.assert_array_equal(fitted.reconstruct([5, 0, 5]), table[[5, 0, 5]])
    np.testing.assert_array_equal(fitted.reconstruct(items=[2, 1]), table[:, [2, 1]])
    np.testing.assert_array_equal(fitted.reconstruct([9], [4]), table[9:10, 4:5])
    assert fitted.reconstruct([], [4]).shape == (0, 1)


def test_unknown_rows_by_policy(fitted):
    mean, b, c = fitted.global_mean_, fitted.user_biases_, fitted.item_biases_
    with pytest.raises(ValueError, match=r"99"):
        fitted.predict([0, 99], [0, 0])
    with pytest.raises(ValueError, match=r"-1"):
        fitted.predict([-1], [0])
    predicted = fitted.predict([0, 99, 99], [99, 0, 99], unknown="mean")
    np.testing.assert_allclose(predicted, [mean + b[0], mean + c[0], mean], rtol=1e-6)
    ids, scores = fitted.recommend(99, n=20, unknown="mean")
    np.testing.assert_array_equal(ids, np.argsort(-c, kind="stable"))
    np.testing.assert_allclose(scores, mean + c[ids], rtol=1e-6)
    with pytest.raises(ValueError, match=r"unknown must be one of 'raise', 'mean', got 'zero'"):
        fitted.predict(0, 0, unknown="zero")


def test_pairs_must_match(fitted):
    with pytest.raises(ValueError, match="users has 2 ids and items has 3: pairs are wanted"):
        fitted.predict([0, 1], [0, 1, 2])


METHODS = {
    "predict": lambda model: model.predict([0], [0]),
    "reconstruct": lambda model: model.reconstruct(),
    "loss": lambda model: model.loss([[1.0]]),
    "recommend": lambda model: model.recommend(0),
    "similar_items": lambda model: model.similar_items(0),
    "similar_users": lambda model: model.similar_users(0),
    "recommend_by_neighbors": lambda model: model.recommend_by_neighbors(0),
    "fold_in": lambda model: model.fold_in([[1.0]]),
    "transform": lambda model: model.transform([[1.0]]),
    "score": lambda model: model.score([[1.0]]),
    "save": lambda model: model.save(io.BytesIO()),
    **{
        name: lambda model, name=name: getattr(model, name)
        for name in (
            "user_factors_",
            "item_factors_",
            "user_biases_",
            "item_biases_",
            "global_mean_",
            "history_",
            "user_ids_",
            "item_ids_",
            "n_iter_",
            "n_features_in_",
            "best_epoch_",
        )
    },
}


@pytest.mark.parametrize("name", list(METHODS))
def test_nothing_works_before_fit(name):
    with pytest.raises(cmf.NotFittedError, match="not fitted yet") as caught:
        METHODS[name](cmf.MatrixFactorization())
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, AttributeError)


def test_a_fit_that_is_refused_changes_nothing(fitted):
    model = copy.deepcopy(fitted)
    for arguments in (
        {"ratings": [[np.inf, 1.0]]},
        {"ratings": random_ratings(), "epochs": 0},
        {"ratings": random_ratings(), "validation": np.ones((2, 2))},
        {"ratings": random_ratings(), "callbacks": 3},
        {"ratings": random_ratings(), "user_factors": np.ones((2, 2))},
    ):
        with pytest.raises((TypeError, ValueError)):
            model.fit(**arguments)
        assert same_bits(model, fitted)
    unfitted = cmf.MatrixFactorization()
    with pytest.raises(ValueError, match="holds no rating"):
        unfitted.fit([[0.0]])
    with pytest.raises(cmf.NotFittedError):
        _ = unfitted.user_factors_


# --- inputs are only read -------------------------------------------------------------------------


def call_everything(ratings, as_ids):
    model = cmf.MatrixFactorization(**SCRATCH)
    model.fit(ratings, validation=ratings, exact_loss=True)
    model.partial_fit(ratings)
    model.loss(ratings)
    model.recommend(model.fold_in(ratings))
    model.transform(ratings)
    model.score(ratings)
    model.fit_transform(ratings)
    ids = as_ids([0, 1, 2])
    model.predict(ids, ids)
    model.reconstruct(ids, ids)
    model.recommend(ids, items=ids, exclude=as_ids([1]))
    model.similar_items(ids)
    model.similar_users(ids)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@pytest.mark.parametrize("unsorted", [False, True])
def test_sparse_inputs_are_only_read(dtype, index_dtype, unsorted):
    ratings = random_ratings(dtype=dtype)
    if unsorted:
        for u in range(ratings.shape[0]):
            row = slice(ratings.indptr[u], ratings.indptr[u + 1])
            ratings.indices[row] = ratings.indices[row][::-1].copy()
            ratings.data[row] = ratings.data[row][::-1].copy()
        ratings.has_sorted_indices = False
    ratings.indptr = ratings.indptr.astype(index_dtype)
    ratings.indices = ratings.indices.astype(index_dtype)
    arrays = (ratings.indptr, ratings.indices, ratings.data)
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False

    def read_only_ids(ids):
        array = np.array(ids)
        array.flags.writeable = False
        return array

    call_everything(ratings, read_only_ids)
    for array, old in zip((ratings.indptr, ratings.indices, ratings.data), before, strict=True):
        assert array.dtype == old.dtype
        np.testing.assert_array_equal(array, old)


def test_dense_inputs_are_only_read():
    table = random_ratings().toarray()
    table[0, 1] = np.nan
    before = table.copy()
    table.flags.writeable = False
    call_everything(table, tuple)
    np.testing.assert_array_equal(table, before)
    nested = before.tolist()
    call_everything(nested, list)
    np.testing.assert_array_equal(nested, before)


def test_model_keeps_nothing_of_its_inputs():
    ratings = random_ratings(dtype=np.float32)
    ratings.indptr, ratings.indices = ratings.indptr.astype(np.int64), ratings.indices
    model = cmf.MatrixFactorization(**SCRATCH).fit(ratings)
    newcomers = model.fold_in(ratings)
    expected = [model.recommend(), model.recommend(newcomers)]
    ratings.indptr[1:] = 0
    ratings.indices[:] = 0
    ratings.data[:] = np.nan
    for (ids, scores), found in zip(
        expected, [model.recommend(), model.recommend(newcomers)], strict=True
    ):
        np.testing.assert_array_equal(found[0], ids)
        np.testing.assert_array_equal(found[1], scores)


# --- parameters -----------------------------------------------------------------------------------


def test_constructor_only_stores():
    thing = object()
    model = cmf.MatrixFactorization(thing, dtype=thing, random_state=thing)
    assert model.n_factors is model.dtype is model.random_state is thing
    assert vars(model) == model.get_params()


def test_set_params_is_checked_by_name_and_then_by_fit(fitted):
    model = cmf.MatrixFactorization()
    assert model.set_params(n_factors=3, verbose=1) is model
    assert (model.n_factors, model.verbose) == (3, 1)
    with pytest.raises(
        ValueError, match=r"Invalid parameter 'factors'.*Valid parameters are.*init"
    ):
        model.set_params(n_factors=5, factors=4)
    assert model.n_factors == 3
    with pytest.raises(ValueError, match="n_factors must be at least 1, got 0"):
        model.set_params(n_factors=0).fit([[1.0]])


def test_changed_parameters_leave_what_is_fitted(fitted):
    model = copy.deepcopy(fitted)
    model.set_params(n_factors=50, dtype="float64", biases=False)
    assert same_bits(model, fitted)
    np.testing.assert_array_equal(model.reconstruct(), fitted.reconstruct())


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(cmf.MatrixFactorization()) == "MatrixFactorization()"
    model = cmf.MatrixFactorization(
        3, init="scaled", random_state=0, learning_rate=None, patience=10
    )
    assert repr(model) == "MatrixFactorization(n_factors=3, init='scaled', random_state=0)"
    model.set_params(learning_rate=0.005)
    assert "learning_rate=0.005" in repr(model)


# --- travel ---------------------------------------------------------------------------------------


def assert_same_model(found, expected):
    assert same_bits(found, expected)
    assert repr(found.history_) == repr(expected.history_)  # repr, since NaN is not itself
    assert found.n_iter_ == expected.n_iter_
    assert found.get_params() == expected.get_params()
    np.testing.assert_array_equal(found.reconstruct(), expected.reconstruct())
    for mine, others in zip(found.recommend(n=7), expected.recommend(n=7), strict=True):
        np.testing.assert_array_equal(mine, others)
    ratings = random_ratings(n_items=expected.n_features_in_, seed=5)
    for mine, others in zip(found.fold_in(ratings), expected.fold_in(ratings), strict=True):
        np.testing.assert_array_equal(mine, others)


def through_file(model, tmp_path):
    model.save(tmp_path / "model.cmf")
    return cmf.MatrixFactorization.load(tmp_path / "model.cmf")


def through_mapped_file(model, tmp_path):
    model.save(str(tmp_path / "model.cmf"))
    return cmf.MatrixFactorization.load(str(tmp_path / "model.cmf"), mmap=True)


def through_stream(model, tmp_path):
    stream = io.BytesIO()
    model.save(stream)
    stream.seek(0)
    return cmf.MatrixFactorization.load(stream)


JOURNEYS = {
    "file": through_file,
    "mapped file": through_mapped_file,
    "stream": through_stream,
    "pickle": lambda model, tmp_path: pickle.loads(pickle.dumps(model)),
    "pickle 2": lambda model, tmp_path: pickle.loads(pickle.dumps(model, protocol=2)),
    "deepcopy": lambda model, tmp_path: copy.deepcopy(model),
}


@pytest.mark.parametrize("journey", list(JOURNEYS))
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"dtype": "float64", "biases": False, "shuffle": False},
        {"adaptive": True, "regularization_scaling": "sqrt", "learning_rate_decay": 0.9},
        {"learning_rate": None, "regularization": None, "early_stopping": False},
    ],
)
def test_a_model_survives_the_journey_and_trains_on(journey, changed, tmp_path):
    ratings = random_ratings()
    model = cmf.MatrixFactorization(**{**SCRATCH, **changed})
    model.fit(ratings, validation=random_ratings(seed=1))
    arrived = JOURNEYS[journey](model, tmp_path)
    assert type(arrived) is cmf.MatrixFactorization
    assert_same_model(arrived, model)
    arrived.partial_fit(ratings, epochs=2)
    assert arrived.n_iter_ == 5
    assert not same_bits(arrived, model)
    assert same_bits(arrived, model.partial_fit(ratings, epochs=2))


@pytest.mark.parametrize("journey", ["pickle", "pickle 2", "deepcopy"])
def test_an_unfitted_model_survives_too(journey, tmp_path):
    model = cmf.MatrixFactorization(3, random_state=np.random.default_rng(0))
    arrived = JOURNEYS[journey](model, tmp_path)
    assert arrived.n_factors == 3
    with pytest.raises(cmf.NotFittedError):
        arrived.predict(0, 0)
    assert same_bits(arrived.fit(random_ratings()), model.fit(random_ratings()))


@pytest.mark.parametrize("journey", list(JOURNEYS))
def test_the_best_epoch_survives_the_journey_and_training_goes_on(journey, tmp_path):
    ratings = planted_ratings()
    model = cmf.MatrixFactorization(4, random_state=0).fit(ratings)
    arrived = JOURNEYS[journey](model, tmp_path)
    assert_same_model(arrived, model)
    assert arrived.best_epoch_ == model.best_epoch_ == model.n_iter_ > 0
    assert same_bits(arrived.partial_fit(ratings), model.partial_fit(ratings))


@pytest.mark.parametrize("journey", list(JOURNEYS))
def test_an_average_over_the_posterior_survives_the_journey(journey, tmp_path):
    model = cmf.MatrixFactorization(4, posterior_samples=5, random_state=0).fit(planted_ratings())
    arrived = JOURNEYS[journey](model, tmp_path)
    assert same_bits(arrived, model)
    users, items = np.indices(model.reconstruct().shape).reshape(2, -1)
    np.testing.assert_array_equal(
        arrived.predict_std(users, items), model.predict_std(users, items), strict=True
    )


def test_mapped_factors_are_read_only_and_training_copies_them(tmp_path, fitted):
    model = through_mapped_file(fitted, tmp_path)
    for array in factors_of(model)[:4]:
        assert not array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        model.user_factors_[0, 0] = 1
    before = (tmp_path / "model.cmf").read_bytes()
    model.partial_fit(random_ratings())
    assert all(array.flags.writeable for array in factors_of(model)[:4])
    assert (tmp_path / "model.cmf").read_bytes() == before


SEEDS = {
    "None": (lambda: None, None),
    "int": (lambda: 7, 7),
    "numpy int": (lambda: np.int64(7), 7),
    "list": (lambda: [7, 8], [7, 8]),
    "SeedSequence": (lambda: np.random.SeedSequence(7), None),
    "BitGenerator": (lambda: np.random.PCG64(7), None),
    "Generator": (lambda: np.random.default_rng(7), None),
    "RandomState": (lambda: np.random.RandomState(7), None),
}


@pytest.mark.parametrize("kind", list(SEEDS))
def test_training_goes_on_after_loading_whatever_the_seed_was(kind, tmp_path):
    make, kept = SEEDS[kind]
    ratings = random_ratings()
    model = cmf.MatrixFactorization(3, n_epochs=2, random_state=make()).fit(ratings)
    loaded = through_file(model, tmp_path)
    assert loaded.random_state == kept
    assert same_bits(loaded.partial_fit(ratings), model.partial_fit(ratings))


def test_parameters_of_numpy_types_are_saved_as_plain_ones(tmp_path):
    model = cmf.MatrixFactorization(
        np.int64(3),
        learning_rate=np.float32(0.5),
        regularization=1,
        n_epochs=np.int8(2),
        biases=np.bool_(False),
        dtype=np.float64,
        init_scale=np.float64(0.1),
        random_state=0,
    ).fit([[1.0, 0.5]])
    loaded = through_file(model, tmp_path)
    assert same_bits(loaded, model)
    assert loaded.get_params() == {**model.get_params(), "dtype": "float64"}
    assert same_bits(loaded.fit([[1.0, 0.5]]), model)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate must be greater than 0"),
        ({"regularization": -0.5}, "regularization must be at least 0"),
        ({"n_epochs": 0}, "n_epochs must be at least 1"),
        ({"init": "zeros"}, "init must be one of"),
        ({"verbose": 9}, "verbose must be at most 2"),
        ({"random_state": -1}, "random_state must be 0 or more"),
        ({"random_state": [1, -1]}, r"random_state\[1\] must be 0 or more"),
    ],
)
def test_files_with_parameters_that_fit_would_refuse_are_refused(
    changed, message, tmp_path, fitted
):
    state = fitted._get_fitted().state
    path = tmp_path / "model.cmf"
    with path.open("wb") as stream:
        serialization.save_state(stream, replace(state, parameters={**state.parameters, **changed}))
    with pytest.raises(cmf.ModelFileError, match=message) as caught:
        cmf.MatrixFactorization.load(path)
    assert re.search(re.escape(str(path)), str(caught.value))


def test_another_process_loads_what_this_one_saved(tmp_path, fitted):
    fitted.save(tmp_path / "model.cmf")
    code = (
        "import sys, cmf, numpy as np\n"
        "model = cmf.MatrixFactorization.load(sys.argv[1], mmap=True)\n"
        "np.save(sys.argv[2], model.reconstruct())\n"
        "print(model)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "model.cmf", tmp_path / "table.npy"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    assert done.stdout.strip() == repr(fitted)
    np.testing.assert_array_equal(np.load(tmp_path / "table.npy"), fitted.reconstruct())


def test_load_of_a_subclass_gives_the_subclass(tmp_path, fitted):
    class Special(cmf.MatrixFactorization):
        pass

    fitted.save(tmp_path / "model.cmf")
    assert type(Special.load(tmp_path / "model.cmf")) is Special
