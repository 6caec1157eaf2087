"""The ratings that all benchmarks share: MovieLens where it is at hand, generated sets otherwise.

Every set is cut into training and test ratings with a fixed seed. Nothing here uses the network:
MovieLens is taken from the folder that ``CMF_DATA_HOME`` names or from the cache of
`cmf.datasets.fetch_movielens`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.sparse import csr_array

import cmf
from cmf.model_selection import KFold

SEED = 0


@dataclass(frozen=True)
class Problem:
    """Ratings to train on, ratings to measure on, and what there is to know about them."""

    name: str
    train: csr_array
    test: csr_array
    low: float = -np.inf  # predictions are clipped to the rating scale, where there is one
    high: float = np.inf
    best_rmse: float | None = None  # of generated ratings: the standard deviation of the noise

    def rmse(self, predicted: Any) -> float:
        """Return the RMSE of predictions of the test ratings, in stored order, once clipped."""
        return cmf.metrics.rmse(self.test.data, np.clip(predicted, self.low, self.high))

    def model_rmse(self, model: cmf.MatrixFactorization) -> float:
        """Return the clipped RMSE of a fitted model on the test ratings."""
        return self.rmse(model.predict(*self.test_pairs()))

    def test_pairs(self) -> tuple[Any, Any]:
        """Return rows and columns of the test ratings, in stored order."""
        rows, columns = self.test.tocoo().coords
        return rows, columns

    def describe(self) -> str:
        """Return one line for the head of a table."""
        n_users, n_items = self.train.shape
        floor = "" if self.best_rmse is None else f", noise {self.best_rmse:g}"
        return (
            f"{self.name}: {n_users:,} users x {n_items:,} items, {self.train.nnz:,} ratings to "
            f"train on, {self.test.nnz:,} to test on{floor}"
        )


def movielens(name: Literal["100k", "1m"], dtype: str = "float32") -> Problem:
    """Return the first of `movielens_folds`."""
    return movielens_folds(name, dtype)[0]


def movielens_folds(name: Literal["100k", "1m"], dtype: str = "float32") -> list[Problem]:
    """Return five folds: the official ones of 100K, random ones of 1M.

    Raises `cmf.DatasetNotFoundError` where there is no local copy.
    """
    data = cmf.datasets.fetch_movielens(name, download=False, dtype=dtype)
    folds = data.folds or KFold(5, random_state=SEED).split(data.ratings)
    return [
        Problem(f"MovieLens {name.upper()}", train, test, low=1.0, high=5.0)
        for train, test in folds
    ]


def generated(
    n_users: int,
    n_items: int,
    n_ratings: int,
    *,
    noise: float = 0.8,
    scale: float = 1.0,
    dtype: str = "float32",
) -> Problem:
    """Return generated ratings, a fifth held out; `scale` multiplies all but the noise."""
    n_test = n_ratings // 5
    data = cmf.datasets.make_ratings(
        n_users,
        n_items,
        n_ratings - n_test,
        n_test=n_test,
        noise=noise,
        mean=3.5 * scale,
        bias_scale=0.4 * scale,
        signal_scale=0.6 * scale,
        dtype=dtype,
        random_state=SEED,
    )
    return Problem("generated", data.ratings, data.test, best_rmse=data.best_rmse)


def main_problem(*, quick: bool) -> Problem:
    """Return MovieLens 1M, generated ratings of its shape without it, or a tenth of them."""
    if quick:
        return generated(2_000, 1_200, 100_000)
    try:
        return movielens("1m")
    except cmf.DatasetNotFoundError:
        return generated(6_040, 3_706, 1_000_000)
