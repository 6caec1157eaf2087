"""Cross-validation: what is trained on, what is measured, and that nothing leaks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import sparse

import cmf
from cmf.model_selection import KFold, cross_validate, split_by_user, train_test_split


@pytest.fixture(scope="module")
def ratings():
    return cmf.datasets.make_ratings(60, 40, 1200, n_factors=2, random_state=0).ratings


def small(**changed):
    given = {"n_factors": 2, "n_epochs": 3, "learning_rate": 0.005, "random_state": 0, **changed}
    return cmf.MatrixFactorization(**given)


class Recorder:
    """An estimator that keeps what it is given, and predicts one number."""

    log: list

    def __init__(self, number=0.0, n_threads=None):
        self.number = number
        self.n_threads = n_threads

    def get_params(self, deep=True):
        return {"number": self.number, "n_threads": self.n_threads}

    def set_params(self, **parameters):
        vars(self).update(parameters)
        return self

    def fit(self, ratings):
        Recorder.log.append((ratings, self.n_threads))
        return self

    def predict(self, users, items):
        return np.full(len(users), self.number)


@pytest.fixture
def log():
    Recorder.log = []
    return Recorder.log


@pytest.mark.parametrize("n_jobs", [None, 2, -1])
def test_errors_are_those_of_each_fold(ratings, n_jobs):
    found = cross_validate(small(), ratings, cv=3, n_jobs=n_jobs)
    assert set(found) == {"test_rmse", "test_mae", "fit_time", "score_time"}
    for place, (train, test) in enumerate(KFold(3, random_state=0).split(ratings)):
        held_out = test.tocoo()
        predicted = small().fit(train).predict(held_out.row, held_out.col)
        assert found["test_rmse"][place] == cmf.metrics.rmse(held_out.data, predicted)
        assert found["test_mae"][place] == cmf.metrics.mae(held_out.data, predicted)
    assert (found["fit_time"] > 0).all()
    assert (found["score_time"] > 0).all()


def test_each_kind_of_cv(ratings, log):
    pairs = [split_by_user(ratings, random_state=1), train_test_split(ratings, random_state=2)]
    cases = [
        (4, list(KFold(4, random_state=0).split(ratings))),
        (np.int64(4), list(KFold(4, random_state=0).split(ratings))),
        (0.3, [train_test_split(ratings, test_size=0.3, random_state=0)]),
        (KFold(2, shuffle=False), list(KFold(2, shuffle=False).split(ratings))),
        (pairs, pairs),
        (iter(pairs), pairs),
    ]
    for cv, expected in cases:
        log.clear()
        found = cross_validate(Recorder(), ratings, cv=cv)
        assert len(found["test_rmse"]) == len(expected)
        for (train, _), (wanted, test), rmse in zip(log, expected, found["test_rmse"], strict=True):
            assert (train != wanted).nnz == 0
            assert rmse == pytest.approx(math.sqrt(np.square(test.data).mean()))


def test_predictions_are_clipped_into_the_range_of_the_training_part(log):
    train = sparse.csr_array([[2.0, 4.0, 0.0], [3.0, 0.0, 0.0]])
    test = sparse.csr_array([[0.0, 0.0, 5.0], [0.0, 1.0, 0.0]])
    for number, clip, errors in (
        (9.0, None, (4.0, 8.0)),
        (9.0, "auto", (1.0, 3.0)),
        (-9.0, "auto", (3.0, 1.0)),
        (9.0, (0, 6), (1.0, 5.0)),
        (9.0, [0, 6], (1.0, 5.0)),
    ):
        found = cross_validate(Recorder(number), train + test, cv=[(train, test)], clip=clip)
        assert found["test_mae"] == pytest.approx([np.mean(errors)])
        assert found["test_rmse"] == pytest.approx([math.sqrt(np.square(errors).mean())])


def test_metrics_of_your_own(ratings, log):
    def worst(y_true, y_pred):
        return np.abs(y_true - y_pred).max()

    found = cross_validate(Recorder(), ratings, cv=2, metrics={"worst": worst})
    assert set(found) == {"test_worst", "fit_time", "score_time"}
    for place, (_, test) in enumerate(KFold(2, random_state=0).split(ratings)):
        assert found["test_worst"][place] == np.abs(test.data).max()
    assert "test_mae" in cross_validate(Recorder(), ratings, cv=2, metrics="mae")


def test_estimator_stays_as_it_is_and_copies_are_returned(ratings):
    model = small().fit(ratings)
    before = model.user_factors_.copy()
    found = cross_validate(model, ratings, cv=2, n_jobs=2, return_estimator=True)
    np.testing.assert_array_equal(model.user_factors_, before)
    assert [one.get_params() for one in found["estimator"]] == [model.get_params()] * 2
    assert all(one.n_iter_ == 3 for one in found["estimator"])


def test_fits_at_once_share_the_cpus(ratings, log, monkeypatch):
    monkeypatch.setenv("CMF_NUM_THREADS", "8")
    cross_validate(Recorder(), ratings, cv=4, n_jobs=3)
    cross_validate(Recorder(n_threads=5), ratings, cv=4, n_jobs=3)
    cross_validate(Recorder(), ratings, cv=4)
    assert [n_threads for _, n_threads in log] == [2] * 4 + [5] * 4 + [None] * 4


def test_labelled_frames_and_dense_tables_are_read(log):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(np.arange(1.0, 7.0).reshape(2, 3), index=["a", "b"])
    expected = cross_validate(Recorder(), frame.to_numpy(), cv=2)["test_rmse"]
    np.testing.assert_array_equal(cross_validate(Recorder(), frame, cv=2)["test_rmse"], expected)
    pairs = list(KFold(2, random_state=0).split(frame))
    found = cross_validate(Recorder(), frame, cv=pairs)["test_rmse"]
    np.testing.assert_array_equal(found, expected)


def test_progress(ratings, log, capsys):
    cross_validate(Recorder(), ratings, cv=2)
    assert capsys.readouterr() == ("", "")
    cross_validate(Recorder(), ratings, cv=2, verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": rmse ")[0] for line in lines] == ["Split 0", "Split 1"]
    cross_validate(Recorder(), ratings, cv=2, verbose=2)
    output = capsys.readouterr()
    assert output.out == ""
    assert "2split" in output.err


def test_divergence_is_told(ratings, log):
    for n_jobs in (None, 2):
        with pytest.raises(cmf.DivergenceError, match="diverged"):
            cross_validate(small(learning_rate=1e9), ratings, n_jobs=n_jobs)
    with pytest.raises(cmf.DivergenceError, match="some predictions are not finite"):
        cross_validate(Recorder(math.inf), ratings)


def one_row():
    return [(sparse.csr_array(np.ones((1, 2))), sparse.csr_array(np.ones((1, 2))))]


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "cv must be at least 2, got 1", {"cv": 1}),
        (TypeError, "cv must be an integer, got True", {"cv": True}),
        (ValueError, "test_size must be below 1 as a float", {"cv": 1.5}),
        (TypeError, "cv must be an int, a float, an object with a method split", {"cv": None}),
        (TypeError, "cv must be an int", {"cv": "5"}),
        (TypeError, r"cv must give pairs \(train, test\), got csr_array", {"cv": one_row()[0]}),
        (ValueError, "cv gives no splits", {"cv": []}),
        (ValueError, r"cv gives parts of shapes \(1, 2\) and \(1, 2\)", {"cv": one_row()}),
        (TypeError, "splitters of scikit-learn cut rows", {"cv": [([0, 1], [2])]}),
        (ValueError, "metrics must be of 'rmse', 'mae', or a dict", {"metrics": ["r2"]}),
        (ValueError, "metrics must be of 'rmse'", {"metrics": "r2"}),
        (ValueError, "metrics must name at least one", {"metrics": ()}),
        (TypeError, "metrics must map names to functions, got 3 for 'a'", {"metrics": {"a": 3}}),
        (TypeError, "metrics must be names", {"metrics": 3}),
        (ValueError, "clip must be None, 'auto' or", {"clip": "range"}),
        (ValueError, "with low < high, got", {"clip": (5, 1)}),
        (ValueError, "clip must be None", {"clip": (1, 2, 3)}),
        (TypeError, "clip must be a number", {"clip": ("1", "5")}),
        (ValueError, "n_jobs must be at least 1, got 0", {"n_jobs": 0}),
        (TypeError, "n_jobs must be an integer", {"n_jobs": 2.0}),
        (ValueError, "verbose must be at most 2", {"verbose": 3}),
        (TypeError, "return_estimator must be True or False", {"return_estimator": 1}),
        (TypeError, "got the class MatrixFactorization", {"estimator": cmf.MatrixFactorization}),
        (TypeError, "an object with fit, predict, get_params and set_params", {"estimator": 3}),
    ],
)
def test_bad_arguments(ratings, error, message, arguments):
    with pytest.raises(error, match=message):
        cross_validate(**{"estimator": small(), "ratings": ratings, **arguments})


def test_parts_of_other_ratings_are_refused(ratings):
    # As when a search inside of a fold is given splits of all ratings, test ratings included.
    train, _ = train_test_split(ratings, random_state=0)
    pairs = [train_test_split(ratings, random_state=1)]
    with pytest.raises(ValueError, match=r"1200 ratings in two parts, but ratings holds 960"):
        cross_validate(small(), train, cv=pairs)
