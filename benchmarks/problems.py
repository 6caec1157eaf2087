"""The ratings that all benchmarks share: MovieLens where it is at hand, generated sets otherwise.

Every set is cut into training and test ratings with a fixed seed. Nothing here uses the network:
MovieLens is taken from the folder that ``CMF_DATA_HOME`` names or from the cache of
`cmf.datasets.fetch_movielens`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import cmf
from benchmarks._problem import Problem
from cmf.model_selection import KFold

SEED = 0


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
    n_test: int | None = None,
    noise: float = 0.8,
    scale: float = 1.0,
    dtype: str = "float32",
) -> Problem:
    """Return generated ratings, `n_test` of them or a fifth held out.

    `scale` multiplies all but the noise.
    """
    n_test = n_ratings // 5 if n_test is None else n_test
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


def small_problem() -> Problem:
    """Return the first fold of MovieLens 100K, or generated ratings of its shape."""
    try:
        return movielens("100k")
    except cmf.DatasetNotFoundError:
        return generated(943, 1_682, 100_000)


def large_problem(*, quick: bool) -> Problem:
    """Return generated ratings in the shape of MovieLens 10M, or a tenth of them.

    Its 9 million training ratings are few for each of many users and items: the factors are larger
    than the second-level cache of most processors, as those of MovieLens 1M are not.
    """
    if quick:
        problem = generated(7_000, 3_400, 1_000_000, n_test=100_000)
    else:
        problem = generated(69_878, 10_677, 10_000_000, n_test=1_000_000)
    return replace(problem, name="generated like MovieLens 10M")


# Where an epoch is timed: the problem, and the epochs of the short and of the long fit.
EPOCH_PROBLEMS = {"main": (main_problem, 5, 25), "large": (large_problem, 2, 12)}
