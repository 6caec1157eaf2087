"""Test errors on MovieLens: of the defaults, of tuned settings, of SVD++ and of averages.

Protocols: the five official folds of MovieLens 100K, five random folds of 1M (seed 0), and one
random tenth of 1M held out. Predictions are clipped to one to five stars. The number of epochs is
always found on a part of the training ratings, never on the test ratings. Printed are the settings,
the mean RMSE, that of each fold, the epochs and the seconds of all fits.

The settings were found on other random splits of training ratings. These overlap with the test
ratings of other folds, as they do in every published number: the last digit is soft.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import cmf
from benchmarks._problem import Problem
from benchmarks._report import add_only_option, is_chosen, parser, print_machine, print_table
from benchmarks.problems import SEED, movielens_folds
from cmf.model_selection import train_test_split

SMALL: dict[str, dict[str, Any]] = {
    "defaults": {},
    "tuned": {"n_factors": 128},
    "SVD++": {"implicit": True},
    "average": {"n_factors": 16, "posterior_samples": 50, "burn_in": 20},
}
LARGE: dict[str, dict[str, Any]] = {
    "defaults": {},
    "tuned, 64 factors": {"learning_rate_decay": 0.95},
    "tuned, 256 factors": {"n_factors": 256, "learning_rate_decay": 0.95},
    "SVD++": {"implicit": True},
    "average": {"n_factors": 32, "posterior_samples": 50, "burn_in": 20},
}
TENTH: dict[str, dict[str, Any]] = {
    "defaults": {},
    "tuned": {"n_factors": 256, "learning_rate_decay": 0.95},
    "tuned SVD++": {"n_factors": 128, "implicit": True, "learning_rate_decay": 0.95},
    "average": {"n_factors": 32, "posterior_samples": 50, "burn_in": 20},
}


def main() -> None:
    """Print a table for each protocol."""
    arguments_parser = parser(__doc__)
    add_only_option(arguments_parser, "rows")
    arguments = arguments_parser.parse_args()
    print_machine()
    n_folds = 1 if arguments.quick else 5
    try:
        small, large = movielens_folds("100k")[:n_folds], movielens_folds("1m")[:n_folds]
    except cmf.DatasetNotFoundError as error:
        print(error)
        return
    _print_protocol("official folds", small, SMALL, arguments.only)
    _print_protocol("random folds", large, LARGE, arguments.only)
    if not arguments.quick:
        _print_protocol("a random tenth", [_tenth()], TENTH, arguments.only)


def _tenth() -> Problem:
    """Return MovieLens 1M with a random tenth held out."""
    ratings = cmf.datasets.fetch_movielens("1m", download=False).ratings
    train, test = train_test_split(ratings, test_size=0.1, random_state=SEED)
    return Problem("MovieLens 1M", train, test, low=1.0, high=5.0)


def _print_protocol(
    name: str, folds: list[Problem], settings: dict[str, dict[str, Any]], only: str
) -> None:
    """Print the errors of all settings on the folds of a set."""
    print(f"{folds[0].name}, {name}: {len(folds)}", end="\n\n")
    rows = (
        (
            row,
            ", ".join(f"{key}={value!r}" for key, value in chosen.items()),
            *_errors(folds, chosen),
        )
        for row, chosen in settings.items()
        if is_chosen(row, only)
    )
    print_table(["", "settings", "RMSE", "of each fold", "epochs", "s"], rows)


def _errors(folds: list[Problem], settings: dict[str, Any]) -> tuple[str, ...]:
    """Return the mean error, that of each fold, epochs and seconds."""
    errors, epochs, seconds = [], [], 0.0
    for fold in folds:
        model = cmf.MatrixFactorization(**settings, random_state=SEED)
        started = time.perf_counter()
        model.fit(fold.train)
        seconds += time.perf_counter() - started
        errors.append(fold.model_rmse(model))
        epochs.append(len(model.history_["epoch"]))
    return (
        f"{statistics.mean(errors):.4f}",
        " ".join(f"{error:.4f}" for error in errors),
        " ".join(map(str, epochs)),
        f"{seconds:.1f}",
    )


if __name__ == "__main__":
    main()
