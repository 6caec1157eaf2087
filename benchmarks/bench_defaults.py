"""How good the defaults are on ratings of many kinds, next to a grid of settings.

For every set the defaults are fitted as they are, and so are 30 settings: 16 and 64 factors, three
learning rates, five regularizations, each with adaptive rates and early stopping on a part of the
training ratings, its rates and penalties in units of the ratings' spread. Printed are test errors:
of the defaults, of the best setting of the grid for that very set (chosen on the test ratings, in
the grid's favor), of biases alone, and of the true means where ratings are generated.

The constants of ``cmf/schedule.py`` were chosen with runs like these on ten generated shapes and on
MovieLens 100K and 1M. Differences below a hundredth are chance on the small sets: one seed each.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import cmf
from benchmarks._problem import Problem
from benchmarks._report import add_only_option, is_chosen, parser, print_machine, print_table
from benchmarks.problems import SEED, movielens

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"n_users": 100, "n_items": 60, "n_ratings": 1_000},
    "sparse and flat, 0 to 1": {
        "n_users": 2_000,
        "n_items": 1_000,
        "n_ratings": 5_000,
        "mean": 0.5,
        "noise": 0.15,
        "user_exponent": 0,
        "item_exponent": 0,
        "bias_scale": 0.1,
        "signal_scale": 0.12,
    },
    "dense, -10 to 10": {
        "n_users": 300,
        "n_items": 200,
        "n_ratings": 40_000,
        "mean": 0,
        "noise": 2,
        "bias_scale": 2,
        "signal_scale": 4,
        "n_factors": 4,
    },
    "heavy tails, 0 to 100": {
        "n_users": 1_000,
        "n_items": 500,
        "n_ratings": 50_000,
        "mean": 60,
        "noise": 15,
        "user_exponent": 1.0,
        "item_exponent": 1.2,
        "bias_scale": 10,
        "signal_scale": 15,
    },
    "noisy": {
        "n_users": 2_000,
        "n_items": 1_000,
        "n_ratings": 100_000,
        "noise": 1.0,
        "signal_scale": 0.15,
    },
    "clean": {
        "n_users": 2_000,
        "n_items": 1_000,
        "n_ratings": 200_000,
        "noise": 0.1,
        "signal_scale": 0.8,
    },
    "few ratings a user": {
        "n_users": 30_000,
        "n_items": 1_500,
        "n_ratings": 150_000,
        "user_exponent": 0.3,
    },
    "flat, rank 32": {
        "n_users": 5_000,
        "n_items": 2_000,
        "n_ratings": 500_000,
        "n_factors": 32,
        "user_exponent": 0,
        "item_exponent": 0,
    },
    "no signal": {
        "n_users": 500,
        "n_items": 400,
        "n_ratings": 20_000,
        "signal_scale": 0.0,
        "n_factors": 0,
    },
    "large": {"n_users": 70_000, "n_items": 10_000, "n_ratings": 9_000_000},
}
QUICK = ("tiny", "sparse and flat, 0 to 1")


def main() -> None:
    """Print one table."""
    arguments_parser = parser(__doc__, rounds=0)
    arguments_parser.add_argument("--seed", type=int, default=SEED, help="of the generated sets")
    add_only_option(arguments_parser, "sets")
    arguments = arguments_parser.parse_args()
    print_machine()
    names = QUICK if arguments.quick else SHAPES
    chosen = [name for name in names if is_chosen(name, arguments.only)]
    problems = [generated(name, arguments.seed) for name in chosen]
    if not arguments.quick and is_chosen("MovieLens", arguments.only):
        problems += local_movielens()
    print_table(
        ["", "defaults", "seconds", "best of 30", "ratio", "biases alone", "ratio", "true means"],
        (row(problem) for problem in problems),
    )


def generated(name: str, seed: int) -> Problem:
    """Return generated ratings of a shape."""
    shape = SHAPES[name]
    n_test = max(2_000, shape["n_ratings"] // 10)
    data = cmf.datasets.make_ratings(**shape, n_test=n_test, dtype="float32", random_state=seed)
    return Problem(name, data.ratings, data.test, best_rmse=data.best_rmse)


def local_movielens() -> list[Problem]:
    """Return the first folds of MovieLens, where it is at hand."""
    try:
        return [movielens("100k"), movielens("1m")]
    except cmf.DatasetNotFoundError:
        return []


def row(problem: Problem) -> list[object]:
    """Fit everything to one set."""
    started = time.perf_counter()
    model = cmf.MatrixFactorization(random_state=0).fit(problem.train)
    seconds = time.perf_counter() - started
    own = problem.model_rmse(model)
    best = min(problem.model_rmse(candidate.fit(problem.train)) for candidate in grid(problem))
    biases = cmf.MatrixFactorization(1, init_scale=0, random_state=0).fit(problem.train)
    alone = problem.model_rmse(biases)
    floor = "" if problem.best_rmse is None else f"{problem.best_rmse:.4f}"
    return [
        problem.name,
        f"{own:.4f}",
        f"{seconds:.2f}",
        f"{best:.4f}",
        f"{own / best:.3f}",
        f"{alone:.4f}",
        f"{own / alone:.3f}",
        floor,
    ]


def grid(problem: Problem) -> Iterator[cmf.MatrixFactorization]:
    """Yield the settings that the defaults are compared with."""
    spread = float(np.std(problem.train.data))
    for n_factors, rate, penalty in itertools.product(
        (16, 64), (0.03, 0.06, 0.12), (0.01, 0.03, 0.06, 0.12, 0.3)
    ):
        yield cmf.MatrixFactorization(
            n_factors,
            adaptive=True,
            learning_rate=rate / spread / 2,
            regularization=2 * penalty * spread,
            init_scale=0.01 * spread**0.5,
            early_stopping=True,
            n_epochs=100,
            random_state=0,
        )


if __name__ == "__main__":
    main()
