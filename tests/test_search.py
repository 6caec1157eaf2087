"""Searches: the winner wins, work is shared, chance is seeded, and nothing outside is looked at."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import loguniform, randint

import cmf
from cmf.model_selection import (
    GridSearch,
    KFold,
    RandomSearch,
    cross_validate,
    train_test_split,
)

RULE = {"learning_rate": 0.005, "regularization": 0.15, "init_scale": 0.1}
GRID = {"regularization": [0.05, 1.0, 20.0], "learning_rate": [0.005, 0.02]}


@pytest.fixture(scope="module")
def ratings():
    return cmf.datasets.make_ratings(80, 50, 2000, n_factors=2, random_state=0).ratings


def small(**changed):
    return cmf.MatrixFactorization(**{"n_factors": 2, "n_epochs": 12, **RULE, **changed})


def all_in_full(**changed):
    return {"factor": None, "patience": None, "random_state": 0, **changed}


def same_factors(first, second):
    np.testing.assert_array_equal(first.user_factors_, second.user_factors_)
    np.testing.assert_array_equal(first.item_factors_, second.item_factors_)


# --- what is found --------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["rmse", "mae"])
def test_scores_are_validation_errors_of_the_best_epoch(ratings, metric):
    pairs = list(KFold(2, random_state=5).split(ratings))
    model = small(random_state=3)
    search = GridSearch(model, GRID, cv=pairs, metric=metric, **all_in_full()).fit(ratings)
    found = search.cv_results_
    assert len(found["params"]) == 6
    for place, params in enumerate(found["params"]):
        histories = []
        for train, test in pairs:
            trained = small(random_state=3, **params).fit(train, validation=test)
            histories.append(trained.history_[f"validation_{metric}"])
        curve = np.mean(histories, axis=0)
        np.testing.assert_array_equal(search.curves_[place], curve)
        best = int(np.argmin(curve))
        assert found["best_epoch"][place] == best + 1
        assert found["n_epochs"][place] == 12
        assert found["mean_test_score"][place] == curve[best]
        for split in range(2):
            assert found[f"split{split}_test_score"][place] == histories[split][best]
        assert found["std_test_score"][place] == np.std([h[best] for h in histories])
        assert found["param_regularization"][place] == params["regularization"]
    assert search.best_index_ == np.argmin(found["mean_test_score"])
    assert search.best_score_ == found["mean_test_score"].min()
    assert search.best_params_ == {
        **found["params"][search.best_index_],
        "n_epochs": search.best_epoch_,
    }
    assert (np.argsort(found["rank_test_score"]) == np.argsort(found["mean_test_score"])).all()
    assert search.n_splits_ == 2
    same_factors(search.best_estimator_, small(random_state=3, **search.best_params_).fit(ratings))


def test_own_metrics_and_clipped_predictions_are_measured_epoch_by_epoch(ratings):
    train, test = train_test_split(ratings, random_state=1)
    held_out = test.tocoo()

    def worst(y_true, y_pred):
        return np.abs(y_true - y_pred).max()

    model = small(random_state=3)
    arguments = all_in_full(cv=[(train, test)], refit=False)
    own = GridSearch(model, {}, metric=worst, **arguments).fit(ratings)
    clipped = GridSearch(model, {}, clip="auto", **arguments).fit(ratings)
    for epoch in (1, 7, 12):
        predicted = model.fit(train, epochs=epoch).predict(held_out.row, held_out.col)
        assert own.curves_[0][epoch - 1] == worst(held_out.data, predicted)
        inside = np.clip(predicted, train.data.min(), train.data.max())
        assert clipped.curves_[0][epoch - 1] == cmf.metrics.rmse(held_out.data, inside)


def test_number_of_epochs_is_found_where_more_do_harm(ratings):
    model = small(n_factors=8, learning_rate=0.03, regularization=0.0, init_scale=0.3)
    search = GridSearch(model, {}, max_epochs=60, cv=0.2, patience=None, random_state=0)
    search.fit(ratings)
    curve = search.curves_[0]
    assert len(curve) == 60
    assert search.best_epoch_ < 60
    assert curve[-1] > curve[search.best_epoch_ - 1]
    assert search.best_params_ == {"n_epochs": search.best_epoch_}
    assert search.best_estimator_.n_iter_ == search.best_epoch_
    impatient = GridSearch(model, {}, max_epochs=60, cv=0.2, patience=4, random_state=0)
    impatient.fit(ratings)
    assert impatient.cv_results_["n_epochs"].tolist() == [impatient.best_epoch_ + 4]
    np.testing.assert_array_equal(impatient.curves_[0], curve[: impatient.best_epoch_ + 4])


def test_dictionaries_of_a_list_are_tried_one_after_the_other(ratings):
    grid = [{"n_factors": [1, 3]}, {"regularization": np.array([0.5])}, {}]
    search = GridSearch(small(), grid, max_epochs=2, random_state=0).fit(ratings)
    assert search.cv_results_["params"] == [
        {"n_factors": 1},
        {"n_factors": 3},
        {"regularization": 0.5},
        {},
    ]
    assert type(search.cv_results_["params"][2]["regularization"]) is float
    column = search.cv_results_["param_n_factors"]
    assert column[:2].tolist() == [1, 3]
    assert column.mask.tolist() == [False, False, True, True]


# --- sharing work ---------------------------------------------------------------------------------


def test_the_better_part_goes_on_from_where_it_stands(ratings):
    full = GridSearch(small(), GRID, **all_in_full()).fit(ratings)
    halved = GridSearch(small(), GRID, patience=None, random_state=0).fit(ratings)
    assert halved.rungs_ == [(6, 3), (3, 6), (2, 12)]
    np.testing.assert_array_equal(np.sort(halved.cv_results_["n_epochs"]), [3, 3, 3, 6, 12, 12])
    alive = range(6)
    for n_left, epoch in halved.rungs_:
        assert [len(halved.curves_[place]) >= epoch for place in alive].count(True) == n_left
        alive = [place for place in alive if len(halved.curves_[place]) >= epoch]
        score = [full.curves_[place][:epoch].min() for place in range(6)]
        left = [place for place in alive if len(halved.curves_[place]) > epoch]
        dropped = [place for place in alive if len(halved.curves_[place]) == epoch]
        if left:
            assert max(score[place] for place in left) <= min(score[place] for place in dropped)
    for mine, whole in zip(halved.curves_, full.curves_, strict=True):
        np.testing.assert_array_equal(mine, whole[: len(mine)])
    # Whoever goes on can only win.
    assert halved.cv_results_["n_epochs"][halved.best_index_] == 12


@pytest.mark.parametrize(
    ("n", "arguments", "expected"),
    [
        (1, {}, [(1, 12)]),
        (2, {}, [(2, 6), (1, 12)]),
        (8, {"min_epochs": 1}, [(8, 1), (4, 3), (2, 6), (1, 12)]),
        (8, {"min_epochs": 12}, [(8, 12)]),
        (8, {"factor": None}, [(8, 12)]),
        (8, {"factor": None, "min_epochs": 2}, [(8, 12)]),
        (7, {"factor": 3}, [(7, 1), (3, 4), (1, 12)]),
        (8, {"max_epochs": 1}, [(8, 1)]),
        (5, {"max_epochs": 8}, [(5, 2), (3, 4), (2, 8)]),
    ],
)
def test_rungs(ratings, n, arguments, expected):
    grid = {"regularization": np.linspace(0.1, 1, n)}
    search = GridSearch(small(), grid, random_state=0, **arguments).fit(ratings)
    assert search.rungs_ == expected


def test_folds_of_a_candidate_end_together(ratings):
    model = small(n_factors=8, learning_rate=0.03, regularization=0.0, init_scale=0.3)
    grid = {"regularization": [0.0, 0.01]}
    search = GridSearch(model, grid, max_epochs=60, cv=3, patience=2, random_state=0)
    search.fit(ratings)
    for curve, trained in zip(search.curves_, search.cv_results_["n_epochs"], strict=True):
        assert len(curve) <= trained < 60
        assert np.isfinite(curve).all()


@pytest.mark.parametrize("clip", [None, "auto"])
def test_candidates_that_diverge_lose(ratings, clip):
    grid = {"learning_rate": [1e9, 0.01, 1e9]}
    search = GridSearch(small(), grid, clip=clip, random_state=0).fit(ratings)
    assert search.best_params_["learning_rate"] == 0.01
    found = search.cv_results_
    assert np.isnan(found["mean_test_score"]).tolist() == [True, False, True]
    assert found["rank_test_score"][1] == 1
    assert (found["rank_test_score"][[0, 2]] > 1).all()
    assert found["best_epoch"][0] == found["n_epochs"][0] == 0


def test_nothing_is_found_where_all_diverge(ratings):
    search = GridSearch(small(), {"learning_rate": [1e9, 1e8]}, random_state=0)
    with pytest.raises(cmf.DivergenceError, match="each of 2 candidates: search lower learning"):
        search.fit(ratings)


def test_an_estimator_that_stops_by_itself_is_not_asked_to_go_on(ratings):
    class Stopping(cmf.MatrixFactorization):
        def partial_fit(self, ratings, *, epochs, **keywords):
            return super().partial_fit(ratings, epochs=min(epochs, 2), **keywords)

    search = GridSearch(Stopping(2, n_epochs=12, **RULE), GRID, patience=None, random_state=0).fit(
        ratings
    )
    assert search.cv_results_["n_epochs"].tolist() == [2] * 6


# --- chance ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("early_stopping", [None, True, False])
@pytest.mark.parametrize(
    "options", [{}, {"clip": (-99.0, 99.0)}, {"metric": cmf.metrics.rmse}, {"factor": None}]
)
def test_candidates_of_the_defaults_are_trained_as_if_at_once(ratings, options, early_stopping):
    # In pieces, of one epoch or more, none of which early stopping may undo.
    pair = train_test_split(ratings, random_state=1)
    model = cmf.MatrixFactorization(random_state=0, early_stopping=early_stopping)
    search = GridSearch(model, {"n_factors": [2, 4]}, cv=[pair], max_epochs=16, patience=None)
    search.set_params(min_epochs=2, refit=False, **options).fit(ratings)
    for params, curve in zip(search.cv_results_["params"], search.curves_, strict=True):
        alone = cmf.MatrixFactorization(random_state=0, early_stopping=early_stopping, patience=99)
        alone.set_params(**params).fit(pair[0], epochs=16, validation=pair[1])
        expected = alone.history_["validation_rmse"][: len(curve)]
        np.testing.assert_allclose(curve, expected, rtol=1e-6)
    assert max(map(len, search.curves_)) == 16


def test_winner_of_the_defaults_stops_early_by_itself(ratings):
    model = cmf.MatrixFactorization(2, random_state=0)
    search = GridSearch(model, {}, max_epochs=30, random_state=0).fit(ratings)
    found = search.best_estimator_
    assert found.n_iter_ == found.best_epoch_ <= search.best_epoch_
    assert found.get_params() == {**model.get_params(), **search.best_params_}
    same_factors(found, cmf.MatrixFactorization(**found.get_params()).fit(ratings))


def test_a_search_that_fails_leaves_what_the_last_one_found(ratings):
    search = GridSearch(small(random_state=0), {}, random_state=0).fit(ratings)
    before = dict(vars(search))
    with pytest.raises(ValueError, match="finite"):
        search.fit([[math.inf, 1.0]])
    with pytest.raises(cmf.DivergenceError):
        search.set_params(estimator=small(learning_rate=1e30)).fit(ratings)
    search.estimator = before["estimator"]
    assert vars(search) == before
    search.set_params(refit=False).fit(ratings)
    assert not {"best_estimator_", "refit_time_"} & set(vars(search))


def test_lists_of_more_combinations_than_there_are_numbers(ratings):
    names = [
        *("learning_rate", "bias_learning_rate", "implicit_learning_rate", "validation_fraction"),
        *("regularization", "user_regularization", "item_regularization", "bias_regularization"),
        *("init_scale", "huber_threshold"),
    ]
    lists = {name: list(np.linspace(0.01, 0.1, 200)) for name in names}
    search = RandomSearch(small(random_state=0), lists, n_iter=5, max_epochs=1, random_state=0)
    found = search.set_params(refit=False).fit(ratings).cv_results_["params"]
    assert len({tuple(params.values()) for params in found}) == 5
    again = search.fit(ratings).cv_results_["params"]
    assert again == found


def test_an_infinite_metric_is_no_warning(ratings):
    search = GridSearch(small(random_state=0), {}, metric=lambda a, b: math.inf, random_state=0)
    assert search.set_params(refit=False).fit(ratings).best_score_ == math.inf


@pytest.mark.parametrize("cv", [0.2, 2])
def test_a_seed_decides_everything(ratings, cv):
    distributions = {"learning_rate": loguniform(1e-3, 1e-2), "n_factors": [1, 2, 3]}

    def run(random_state, n_jobs=None):
        return RandomSearch(
            small(n_epochs=4),
            distributions,
            n_iter=6,
            cv=cv,
            random_state=random_state,
            n_jobs=n_jobs,
        ).fit(ratings)

    first = run(1)
    for other in (run(1), run(1, n_jobs=2), run(1, n_jobs=-1)):
        assert other.cv_results_["params"] == first.cv_results_["params"]
        np.testing.assert_array_equal(
            other.cv_results_["mean_test_score"], first.cv_results_["mean_test_score"]
        )
        assert other.best_params_ == first.best_params_
        same_factors(other.best_estimator_, first.best_estimator_)
        assert other.best_estimator_.n_threads is None
    assert run(2).cv_results_["params"] != first.cv_results_["params"]
    assert run(None).cv_results_["params"] != run(None).cv_results_["params"]


def test_distributions_are_drawn_from(ratings):
    distributions = {"learning_rate": loguniform(1e-3, 1e-2), "n_factors": randint(1, 4)}
    search = RandomSearch(small(), distributions, n_iter=40, max_epochs=1, random_state=0)
    drawn = search.fit(ratings).cv_results_
    rates = np.array(drawn["param_learning_rate"], dtype=float)
    assert len(np.unique(rates)) == 40
    assert 1e-3 <= rates.min() < 2e-3
    assert 5e-3 < rates.max() <= 1e-2
    assert set(drawn["param_n_factors"]) == {1, 2, 3}
    assert {type(params["n_factors"]) for params in drawn["params"]} == {int}


def test_combinations_of_lists_are_drawn_once(ratings):
    lists = {"n_factors": [1, 2], "regularization": [0.1, 0.2, 0.3]}
    for n_iter, expected in ((4, 4), (6, 6), (100, 6)):
        search = RandomSearch(small(), lists, n_iter=n_iter, max_epochs=1, random_state=0)
        drawn = search.fit(ratings).cv_results_["params"]
        assert len({tuple(params.values()) for params in drawn}) == len(drawn) == expected


def test_candidates_start_alike_unless_the_estimator_says_otherwise(ratings):
    # Twice the same parameters: without a seed of the estimator they differ by nothing.
    twice = {"regularization": [0.1, 0.1]}
    search = GridSearch(small(), twice, **all_in_full()).fit(ratings)
    np.testing.assert_array_equal(*search.curves_)
    assert search.estimator.random_state is None
    seeds = {"random_state": [1, 2]}
    search = GridSearch(small(), seeds, **all_in_full()).fit(ratings)
    assert (search.curves_[0] != search.curves_[1]).any()
    assert search.best_estimator_.random_state in (1, 2)


# --- as an estimator ------------------------------------------------------------------------------


def test_cross_validation_repeats_the_search_in_every_fold(ratings):
    search = GridSearch(small(), GRID, random_state=0)
    found = cross_validate(search, ratings, cv=2, return_estimator=True)
    for place, (train, test) in enumerate(KFold(2, random_state=0).split(ratings)):
        alone = GridSearch(small(), GRID, random_state=0).fit(train)
        assert found["estimator"][place].best_params_ == alone.best_params_
        assert found["test_rmse"][place] == pytest.approx(
            alone.best_estimator_.loss(test).rmse, rel=1e-5
        )
    assert not hasattr(search, "best_params_")


def test_conventions_of_scikit_learn(ratings):
    sklearn = pytest.importorskip("sklearn.base")
    search = RandomSearch(small(), {"n_factors": [1, 2]}, n_iter=2, max_epochs=2, random_state=0)
    copied = sklearn.clone(search.fit(ratings))
    assert not hasattr(copied, "best_estimator_")
    assert copied.estimator is not search.estimator
    assert copied.set_params(n_iter=1) is copied
    assert len(copied.fit(ratings).curves_) == 1
    assert repr(search).startswith("RandomSearch(estimator=MatrixFactorization(n_factors=2")
    with pytest.raises(ValueError, match="Invalid parameter 'n_trials'"):
        search.set_params(n_trials=3)
    held_out = ratings.tocoo()
    np.testing.assert_array_equal(
        search.predict(held_out.row, held_out.col),
        search.best_estimator_.predict(held_out.row, held_out.col),
    )


def test_predict_before_there_is_a_winner(ratings):
    search = GridSearch(small(), {}, max_epochs=2, refit=False)
    for _ in range(2):
        with pytest.raises(cmf.NotFittedError, match="with refit=True"):
            search.predict(0, 0)
        search.fit(ratings)
    assert search.best_params_["n_epochs"] in (1, 2)
    search.set_params(refit=True).fit(ratings).predict(0, 0)
    search.set_params(refit=False).fit(ratings)
    with pytest.raises(cmf.NotFittedError, match="with refit=True"):
        search.predict(0, 0)


def test_winner_knows_the_labels_of_a_frame():
    pd = pytest.importorskip("pandas")
    table = np.random.default_rng(0).integers(1, 6, (12, 8)).astype(float)
    frame = pd.DataFrame(table, index=[f"user {u}" for u in range(12)])
    search = GridSearch(small(), {"n_factors": [1, 2]}, max_epochs=3, random_state=0).fit(frame)
    assert search.best_estimator_.user_ids_[3] == "user 3"
    plain = GridSearch(small(), {"n_factors": [1, 2]}, max_epochs=3, random_state=0).fit(table)
    assert plain.best_score_ == search.best_score_


# --- what is shown and refused --------------------------------------------------------------------


def test_progress(ratings, capsys):
    search = functools.partial(GridSearch, small(), GRID, patience=2, cv=2, random_state=0)
    search().fit(ratings)
    assert capsys.readouterr() == ("", "")
    search(verbose=1, n_jobs=2).fit(ratings)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(", ")[0] for line in lines] == [
        "Rung 1/3: 6 to epoch 3",
        "Rung 2/3: 3 to epoch 6",
        "Rung 3/3: 2 to epoch 12",
    ]
    search(verbose=2).fit(ratings)
    output = capsys.readouterr()
    assert output.out == ""
    assert "78/78" in output.err  # 6 * 3 + 3 * 3 + 2 * 6 epochs of two folds


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "n_epochs is found by the search", {"param_grid": {"n_epochs": [1, 2]}}),
        (ValueError, "Invalid parameter 'rate'", {"param_grid": {"rate": [1]}}),
        (ValueError, "learning_rate must be greater", {"param_grid": {"learning_rate": [-1.0]}}),
        (TypeError, r"param_grid\['init'\] must be a list", {"param_grid": {"init": "scaled"}}),
        (TypeError, "must be a list of values, got 3", {"param_grid": {"n_factors": 3}}),
        (ValueError, r"param_grid\['n_factors'\] holds no", {"param_grid": {"n_factors": []}}),
        (TypeError, "param_grid must be a dict, got int", {"param_grid": [3]}),
        (ValueError, "there is no candidate", {"param_grid": []}),
        (ValueError, "metrics must be of 'rmse', 'mae'", {"metric": "r2"}),
        (TypeError, "metric must be 'rmse', 'mae' or a function", {"metric": ["rmse"]}),
        (ValueError, "max_epochs must be at least 1", {"max_epochs": 0}),
        (ValueError, "min_epochs must be at most 12, got 13", {"min_epochs": 13}),
        (ValueError, "factor must be at least 2", {"factor": 1}),
        (TypeError, "factor must be an integer", {"factor": 1.5}),
        (ValueError, "patience must be at least 1", {"patience": 0}),
        (ValueError, "clip must be None", {"clip": "low"}),
        (ValueError, "cv gives no splits", {"cv": ()}),
        (TypeError, "refit must be True or False", {"refit": 1}),
        (ValueError, "verbose must be at most 2", {"verbose": 3}),
        (ValueError, "n_jobs must be at least 1", {"n_jobs": -2}),
        (TypeError, "random_state must be None", {"random_state": "x"}),
        (TypeError, "an object with fit, partial_fit, predict", {"estimator": 3}),
    ],
)
def test_bad_arguments(ratings, error, message, arguments):
    search = GridSearch(**{"estimator": small(), "param_grid": {}, **arguments})
    with pytest.raises(error, match=message):
        search.fit(ratings)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "n_iter must be at least 1", {"n_iter": 0}),
        (TypeError, "param_distributions must be a dict", {"param_distributions": [{}]}),
        (TypeError, "must be a list", {"param_distributions": {"n_factors": 2}}),
    ],
)
def test_bad_arguments_of_random_searches(ratings, error, message, arguments):
    search = RandomSearch(**{"estimator": small(), "param_distributions": {}, **arguments})
    with pytest.raises(error, match=message):
        search.fit(ratings)


def test_estimators_that_leave_the_number_of_epochs_open(ratings):
    class Open:
        def __init__(self, n_epochs=None):
            pass

        def get_params(self, deep=True):
            return {"n_epochs": None}

        def set_params(self, **parameters):
            return self

        def partial_fit(self, ratings, *, epochs, validation, callbacks):
            for epoch in range(epochs):
                callbacks(SimpleNamespace(validation_rmse=1 / (epoch + 1)))

        fit = predict = partial_fit

    search = GridSearch(Open(), {}, refit=False, random_state=0)
    assert search.fit(ratings).rungs_ == [(1, 100)]


def test_estimators_without_a_number_of_epochs_are_refused(ratings):
    inner = GridSearch(small(), {})
    inner.partial_fit = None
    with pytest.raises(TypeError, match="must have a parameter n_epochs"):
        GridSearch(inner, {}).fit(ratings)


def test_nan_of_a_metric_ends_a_candidate(ratings):
    calls = []

    def fickle(y_true, y_pred):
        calls.append(len(y_true))
        return 1.0 / len(calls) if len(calls) < 4 else math.nan

    search = GridSearch(small(), {}, metric=fickle, random_state=0).fit(ratings)
    assert search.best_epoch_ == 3
    assert search.cv_results_["n_epochs"].tolist() == [3]


@pytest.mark.parametrize("grid", [{}, {"posterior_samples": [0, 3]}])
def test_averages_over_the_posterior_cannot_be_searched(ratings, grid):
    model = cmf.MatrixFactorization(2, posterior_samples=0 if grid else 3, random_state=0)
    with pytest.raises(ValueError, match="compare such models with cross_validate"):
        GridSearch(model, grid).fit(ratings)
