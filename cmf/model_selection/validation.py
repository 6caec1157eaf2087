"""Cross-validation over ratings: train on one part and measure on the other, fold by fold."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cmf._parameters import check_bool, check_int
from cmf._typing import RatingsLike
from cmf.model_selection._folds import (
    Clip,
    Estimator,
    Fold,
    Metric,
    check_clip,
    check_estimator,
    check_metrics,
    clone,
    make_folds,
)
from cmf.model_selection._jobs import Progress, check_jobs, run_all, set_fit_threads

__all__ = ["cross_validate"]


def cross_validate(
    estimator: Estimator,
    ratings: RatingsLike,
    *,
    cv: Any = 5,
    metrics: str | Sequence[str] | Mapping[str, Metric] = ("rmse", "mae"),
    clip: Clip = None,
    n_jobs: int | None = None,
    verbose: int = 0,
    return_estimator: bool = False,
) -> dict[str, Any]:
    """Train and measure an estimator on each of several splits of the ratings.

    Test ratings are only ever predicted: training does not see them, not even to decide when to
    stop. To have parameters or the number of epochs chosen, give a `GridSearch` or `RandomSearch`
    as the estimator, which chooses in each fold with a part of its training ratings.

    Parameters
    ----------
    estimator : MatrixFactorization, GridSearch, RandomSearch or alike
        It stays as it is: a copy without anything fitted is trained on each split. Wanted are
        ``fit(ratings)``, ``predict(users, items)``, ``get_params`` and ``set_params``.
    ratings : sparse array or matrix, array_like or wide data frame, of shape (n_users, n_items)
        As for `train_test_split`. Labels of a data frame are left behind: estimators get rows.
    cv : int, float, splitter or iterable of (train, test), default 5
        An int is ``KFold(cv, random_state=0)``: the same folds at each call, so that estimators can
        be compared. A float is one split, ``train_test_split(ratings, test_size=cv,
        random_state=0)``. A splitter has a method ``split(ratings)`` that yields pairs of ratings,
        as that of `KFold`. Pairs of your own, such as ``[split_by_time(...)]``, are of the shape
        of `ratings`.
    metrics : str, sequence of str, or dict of str to callable, default ("rmse", "mae")
        "rmse", "mae", or functions of your own with their names: ``f(y_true, y_pred)`` gets the
        ratings and the predictions of a test part and returns a number.
    clip : None, "auto" or (low, high), default None
        Bounds that predictions are moved into before they are measured. "auto": the smallest and
        the largest rating of each training part.
    n_jobs : int, optional
        How many splits at once, on threads; -1 stands for the CPUs that this process may use.
        Each then trains with its share of these, unless its `n_threads` says otherwise. None: one
        after the other. No number but the times depends on it.
    verbose : int, default 0
        1 prints a line for each split, 2 shows a progress bar on standard error.
    return_estimator : bool, default False
        Whether to return the trained estimators.

    Returns
    -------
    dict of str to ndarray of shape (n_splits,)
        ``test_rmse``, ``test_mae`` and so on for each metric, in the unit of the ratings: lower is
        better. ``fit_time`` and ``score_time`` in seconds. With `return_estimator` also
        ``estimator``, a list.

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it must be, or training refuses the ratings.
    DivergenceError
        If training diverged on a split.

    See Also
    --------
    GridSearch : Chooses parameters.
    sklearn.model_selection.cross_validate : Splits rows, that is, tests on new users.

    Notes
    -----
    Users or items without a rating in a training part are predicted as the estimator does: by
    `MatrixFactorization` from the mean and what biases it knows. Takes the memory of one more copy
    of the ratings, with `n_jobs` that of `n_splits` copies.

    Examples
    --------
    >>> import cmf
    >>> from cmf.model_selection import cross_validate
    >>> ratings = cmf.datasets.make_ratings(200, 100, 4000, random_state=0).ratings
    >>> model = cmf.MatrixFactorization(n_factors=4, random_state=0)
    >>> found = cross_validate(model, ratings, cv=3, clip="auto")
    >>> sorted(found)
    ['fit_time', 'score_time', 'test_mae', 'test_rmse']
    >>> found["test_rmse"].shape
    (3,)
    """
    check_estimator(estimator, ("fit", "predict"))
    measures = check_metrics(metrics)
    bounds = check_clip(clip)
    jobs = check_jobs(n_jobs)
    keep = check_bool(return_estimator, "return_estimator")
    level = check_int(verbose, "verbose", minimum=0, maximum=2)
    folds = make_folds(cv, ratings, clip=bounds, random_state=0)
    with Progress(level, "split") as progress:
        tasks = (partial(_fit_and_score, estimator, f, measures, jobs, progress) for f in folds)
        results = list(run_all(tasks, jobs))
    if not results:
        raise ValueError("cv gives no splits")
    found: dict[str, Any] = {
        "fit_time": np.array([result.fit_time for result in results]),
        "score_time": np.array([result.score_time for result in results]),
    }
    for place, name in enumerate(measures):
        found[f"test_{name}"] = np.array([result.errors[place] for result in results])
    if keep:
        found["estimator"] = [result.estimator for result in results]
    return found


@dataclass(frozen=True, slots=True)
class _Result:
    """What is reported of one split."""

    errors: list[float]
    fit_time: float
    score_time: float
    estimator: Estimator


def _fit_and_score(
    estimator: Estimator, fold: Fold, metrics: dict[str, Metric], jobs: int, progress: Progress
) -> _Result:
    """Train a copy on one part of a split and measure it on the other."""
    model = clone(estimator)
    given = set_fit_threads(model, jobs)
    started = time.perf_counter()
    model.fit(fold.train)
    fitted = time.perf_counter()
    errors = fold.errors(model, metrics.values())
    scored = time.perf_counter()
    model.set_params(**given)
    text = ", ".join(f"{n} {error:.4f}" for n, error in zip(metrics, errors, strict=True))
    progress.advance(1, text)
    progress.say(f"Split {fold.number}: {text} ({fitted - started:.1f} s)")
    return _Result(errors, fitted - started, scored - fitted, model)
