"""The conventions of scikit-learn, which cmf follows without needing it."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone, is_classifier, is_outlier_detector, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted

import cmf

PAIRS = "predict takes pairs of users and items, not a table"
OBJECTS = "tables of dtype object are refused: whether they hold numbers is not looked at"
EXPECTED_FAILURES = {
    "check_dict_unchanged": PAIRS,
    "check_estimator_sparse_array": PAIRS,
    "check_estimator_sparse_matrix": PAIRS,
    "check_estimators_dtypes": PAIRS,
    "check_estimators_pickle": PAIRS,
    "check_estimators_unfitted": PAIRS,
    "check_f_contiguous_array_estimator": PAIRS,
    "check_fit2d_predict1d": PAIRS,
    "check_fit_idempotent": PAIRS,
    "check_methods_sample_order_invariance": PAIRS,
    "check_methods_subset_invariance": PAIRS,
    "check_n_features_in_after_fitting": PAIRS,
    "check_dtype_object": OBJECTS,
}


class WithoutPairs(cmf.MatrixFactorization):
    """The estimator as scikit-learn would see it if `predict` had another name."""

    @property
    def predict(self):
        raise AttributeError("predict")


def run_checks(estimator):
    """Return the results of scikit-learn's own checks by status."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Estimator .* does not inherit", UserWarning)
        results = check_estimator(estimator, on_fail=None, on_skip=None)
    by_status = {"passed": set(), "failed": set(), "skipped": set()}
    for result in results:
        by_status[result["status"]].add(result["check_name"])
    return by_status


def test_checks_of_scikit_learn_fail_only_where_the_design_differs():
    found = run_checks(cmf.MatrixFactorization(n_factors=3, n_epochs=3))
    assert found["failed"] == set(EXPECTED_FAILURES)
    assert len(found["passed"]) > 20


def test_nothing_but_the_pairs_of_predict_is_behind_those_failures():
    found = run_checks(WithoutPairs(n_factors=3, n_epochs=3))
    assert found["failed"] == {
        name for name, reason in EXPECTED_FAILURES.items() if reason is OBJECTS
    }
    assert len(found["passed"]) > 30


def ratings_of(n_users=60, n_items=20, seed=0):
    return cmf.datasets.make_ratings(
        n_users, n_items, n_users * n_items // 2, n_factors=2, random_state=seed
    ).ratings


def small(**changed):
    return cmf.MatrixFactorization(**{"n_factors": 2, "n_epochs": 5, "random_state": 0, **changed})


def test_clone_copies_parameters_and_nothing_fitted():
    model = small(init="scaled", n_threads=2).fit(ratings_of())
    copied = clone(model)
    assert copied.get_params() == model.get_params()
    with pytest.raises(NotFittedError, match="not fitted yet"):
        check_is_fitted(copied)
    check_is_fitted(model)
    copied.fit(ratings_of())
    np.testing.assert_array_equal(copied.user_factors_, model.user_factors_)


def test_errors_of_one_are_caught_as_those_of_the_other():
    # Their NotFittedError is not a base of ours, but both are these two.
    for base in (ValueError, AttributeError):
        assert issubclass(NotFittedError, base)
        assert issubclass(cmf.NotFittedError, base)


def test_kind_of_estimator():
    model = small()
    assert not is_classifier(model)
    assert not is_regressor(model)
    assert not is_outlier_detector(model)
    tags = model.__sklearn_tags__()
    assert tags.input_tags.sparse
    assert tags.input_tags.allow_nan
    assert not tags.target_tags.required


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csr_array, lambda r: r.toarray()])
def test_pipeline_fits_transforms_and_scores(kind):
    ratings = kind(ratings_of())
    pipeline = make_pipeline(
        FunctionTransformer(lambda table: table * 2, accept_sparse=True), small()
    )
    transformed = pipeline.fit_transform(ratings)
    assert transformed.shape == (60, 2)
    np.testing.assert_array_equal(pipeline.transform(ratings), transformed)
    alone = small().fit(ratings * 2)
    np.testing.assert_array_equal(alone.transform(ratings * 2), transformed)
    assert pipeline.score(ratings) == alone.score(ratings * 2)
    fitted = pipeline.set_params(matrixfactorization__n_factors=5).fit(ratings)
    assert fitted.named_steps["matrixfactorization"].user_factors_.shape == (60, 5)


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csr_array, lambda r: r.toarray()])
def test_grid_search_scores_rows_as_new_users(kind):
    ratings = kind(ratings_of(150, 30))
    grid = {"regularization": [0.05, 50.0], "n_factors": [1, 2]}
    model = small(n_epochs=40, learning_rate=0.01, init_scale=0.3)
    search = GridSearchCV(model, grid, cv=3).fit(ratings)
    # So strong a penalty leaves a model of next to nothing.
    assert search.best_params_["regularization"] == 0.05
    assert search.best_score_ < 0
    assert search.best_estimator_.user_factors_.shape[0] == 150
    train, test = np.arange(50, 150), np.arange(50)
    expected = clone(search.best_estimator_).fit(ratings[train]).score(ratings[test])
    best = search.cv_results_["params"].index(search.best_params_)
    assert search.cv_results_["split0_test_score"][best] == expected
    scores = cross_val_score(clone(search.best_estimator_), ratings, cv=3)
    assert scores.mean() == pytest.approx(search.best_score_, rel=1e-12)


def test_grid_search_in_two_processes_gives_the_same():
    ratings = ratings_of()
    grid = {"n_factors": [1, 3]}
    one, two = (
        GridSearchCV(small(), grid, cv=2, n_jobs=n_jobs).fit(ratings).cv_results_["mean_test_score"]
        for n_jobs in (1, 2)
    )
    np.testing.assert_array_equal(one, two)


def test_cmf_does_not_need_scikit_learn():
    code = (
        "import sys\n"
        "sys.modules['sklearn'] = None\n"  # any import of it raises
        "import cmf\n"
        "model = cmf.MatrixFactorization(2, random_state=0).fit([[5, 1], [4, 2]])\n"
        "model.set_params(n_epochs=2).fit_transform([[5, 1], [4, 2]])\n"
        "model.score([[5, 1]]), model.recommend(0), repr(model), model.get_params()\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_importing_and_fitting_loads_nothing_of_scikit_learn():
    code = (
        "import sys, cmf\n"
        "cmf.MatrixFactorization(2, random_state=0).fit([[5, 1], [4, 2]])\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] == 'sklearn'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"
