"""Folds: what an estimator is trained on, and how its predictions of the rest are measured."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cmf import metrics as rating_metrics
from cmf._checks import CheckedRatings
from cmf._parameters import check_float, check_int
from cmf._typing import RandomState, RatingsLike
from cmf.exceptions import DivergenceError
from cmf.model_selection.splits import KFold, as_csr, sorted_ratings, train_test_split

__all__ = [
    "Clip",
    "Estimator",
    "Fold",
    "Metric",
    "check_clip",
    "check_estimator",
    "check_metrics",
    "clone",
    "make_folds",
]

Metric: TypeAlias = Callable[[NDArray[Any], NDArray[Any]], float]
Clip: TypeAlias = tuple[float, float] | Literal["auto"] | None

METRICS: dict[str, Metric] = {"rmse": rating_metrics.rmse, "mae": rating_metrics.mae}


class Estimator(Protocol):
    """What can be cross-validated: `cmf.MatrixFactorization`, searches and alike."""

    def get_params(self, deep: bool = ...) -> dict[str, Any]:
        """Return the constructor parameters."""

    def set_params(self, **parameters: Any) -> Any:
        """Set constructor parameters."""

    def fit(self, ratings: Any) -> Any:
        """Train on ratings."""

    def predict(self, users: Any, items: Any) -> Any:
        """Predict the ratings of pairs of rows and columns."""


def check_estimator(estimator: Any, methods: Iterable[str]) -> None:
    """Refuse what is no estimator, or the class of one."""
    missing = [
        name for name in (*methods, "get_params", "set_params") if not hasattr(estimator, name)
    ]
    if isinstance(estimator, type) or missing:
        what = f"the class {estimator.__name__}" if isinstance(estimator, type) else repr(estimator)
        raise TypeError(
            f"estimator must be an object with {', '.join(methods)}, get_params and set_params, "
            f"got {what}"
        )


def clone(estimator: Any) -> Any:
    """Return an estimator of the same parameters, without anything fitted."""
    parameters = {
        name: clone(value)
        if hasattr(value, "get_params") and not isinstance(value, type)
        else copy.deepcopy(value)
        for name, value in estimator.get_params(deep=False).items()
    }
    return type(estimator)(**parameters)


def check_metrics(metrics: object) -> dict[str, Metric]:
    """Return functions by their names."""
    if isinstance(metrics, Mapping):
        for name, function in metrics.items():
            if not isinstance(name, str) or not callable(function):
                raise TypeError(
                    f"metrics must map names to functions, got {function!r} for {name!r}"
                )
        named = dict(metrics)
    elif isinstance(metrics, Iterable):
        names = [metrics] if isinstance(metrics, str) else list(metrics)
        for name in names:
            if not isinstance(name, str) or name not in METRICS:
                known = ", ".join(map(repr, METRICS))
                raise ValueError(
                    f"metrics must be of {known}, or a dict of functions, got {name!r}"
                )
        named = {name: METRICS[name] for name in names}
    else:
        raise TypeError(f"metrics must be names or a dict of functions, got {metrics!r}")
    if not named:
        raise ValueError("metrics must name at least one")
    return named


def check_clip(clip: object) -> Clip:
    """Return bounds of predictions as floats, "auto" or None."""
    if clip is None:
        return None
    if isinstance(clip, str):
        if clip == "auto":
            return "auto"
    elif isinstance(clip, Sequence) and len(clip) == 2:
        low, high = (check_float(bound, "clip", minimum=-math.inf) for bound in clip)
        if low < high:
            return low, high
    raise ValueError(f"clip must be None, 'auto' or (low, high) with low < high, got {clip!r}")


@dataclass(frozen=True, slots=True)
class Fold:
    """One split: ratings to train on, and pairs with their ratings to predict."""

    number: int
    train: sparse.csr_array
    test: sparse.csr_array
    users: NDArray[Any]
    items: NDArray[Any]
    values: NDArray[Any]
    bounds: tuple[float, float] | None

    @classmethod
    def of(cls, number: int, train: Any, test: Any, clip: Clip) -> Fold:
        """Take a split apart."""
        held_out = test.tocoo()
        if clip == "auto":
            clip = (float(train.data.min()), float(train.data.max()))
        return cls(number, train, test, held_out.row, held_out.col, held_out.data, clip)

    def errors(self, estimator: Estimator, metrics: Iterable[Metric]) -> list[float]:
        """Measure the predictions of the test part."""
        predicted = estimator.predict(self.users, self.items)
        if not np.isfinite(predicted).all():
            raise DivergenceError("training diverged: some predictions are not finite")
        if self.bounds is not None:
            predicted = np.clip(predicted, *self.bounds)
        return [float(metric(self.values, predicted)) for metric in metrics]


def make_folds(
    cv: Any, ratings: RatingsLike, *, clip: Clip, random_state: RandomState
) -> Iterator[Fold]:
    """Check ratings once and yield their splits, as `cross_validate` describes `cv`."""
    checked = sorted_ratings(ratings)
    table = as_csr(checked)
    pairs: Iterable[Any]
    if isinstance(cv, float | np.floating):
        pairs = [train_test_split(table, test_size=float(cv), random_state=random_state)]
    elif isinstance(cv, int | np.integer):
        n_splits = check_int(cv, "cv", minimum=2)
        pairs = KFold(n_splits, random_state=random_state).split(table)
    elif hasattr(cv, "split") and not isinstance(cv, str):
        pairs = _checked_pairs(cv.split(table), checked)
    elif isinstance(cv, Iterable) and not isinstance(cv, str):
        pairs = _checked_pairs(cv, checked)
    else:
        raise TypeError(
            "cv must be an int, a float, an object with a method split, or pairs (train, test), "
            f"got {cv!r}"
        )
    return (Fold.of(number, train, test, clip) for number, (train, test) in enumerate(pairs))


def _checked_pairs(pairs: Iterable[Any], whole: CheckedRatings) -> Iterator[tuple[Any, Any]]:
    """Check splits that come from outside."""
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"cv must give pairs (train, test), got {type(pair).__name__}")
        if all(np.ndim(part) == 1 for part in pair):
            raise TypeError(
                "cv must give pairs of ratings, got pairs of 1-D arrays: splitters of scikit-learn "
                "cut rows, those of cmf.model_selection cut ratings"
            )
        parts = [
            sorted_ratings(part, name)
            for part, name in zip(pair, ("the training part", "the test part"), strict=True)
        ]
        found = [part.shape for part in parts]
        if found != [whole.shape, whole.shape]:
            raise ValueError(
                f"cv gives parts of shapes {found[0]} and {found[1]}, but ratings has shape "
                f"{whole.shape}"
            )
        total = sum(part.nnz for part in parts)
        if total > whole.nnz:
            raise ValueError(
                f"cv gives {total} ratings in two parts, but ratings holds {whole.nnz}: are they "
                "parts of other ratings?"
            )
        train, test = map(as_csr, parts)
        yield train, test
