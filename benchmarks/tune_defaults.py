"""Which learning rate, regularization and number of epochs are good on ratings of many kinds.

Every pair of settings is trained on every set for as many epochs as asked, with the RMSE on a tenth
of the *training* ratings, set aside, measured after each epoch: one run tells about every number of
epochs. The regret of a setting on a set is how much higher its RMSE is than that of the best
setting there, in percent. Printed are the settings of least mean regret over all sets, the present
defaults, the best of each set, and, for the first two, the RMSE on test ratings, which are used for
nothing else.

Meaningless where one set is all that counts: defaults are a compromise. One seed per run:
differences below 0.001 are chance.
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import cmf
from benchmarks._problem import Problem
from benchmarks._report import parser, print_machine, print_table
from benchmarks.problems import SEED, generated, movielens, movielens_folds
from cmf.model_selection import train_test_split

PRESENT = cmf.MatrixFactorization()
LEARNING_RATES = sorted({0.0025, 0.0035, 0.005, 0.007, 0.01, 0.015, PRESENT.learning_rate})
REGULARIZATIONS = sorted({0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, PRESENT.regularization})
PAIRS = tuple(itertools.product(LEARNING_RATES, REGULARIZATIONS))


@dataclass(frozen=True)
class Setting:
    """One candidate for the defaults."""

    learning_rate: float
    regularization: float
    n_epochs: int

    @property
    def place(self) -> tuple[int, int]:
        """Where the setting is in a grid of pairs and epochs."""
        return PAIRS.index((self.learning_rate, self.regularization)), self.n_epochs - 1

    @classmethod
    def at(cls, position: int, n_epochs: int) -> Setting:
        """Return the setting at a position of the flattened grid."""
        pair, epoch = divmod(position, n_epochs)
        learning_rate, regularization = PAIRS[pair]
        return cls(learning_rate, regularization, epoch + 1)

    @classmethod
    def default(cls) -> Setting:
        """Return what the constructor has."""
        return cls(PRESENT.learning_rate, PRESENT.regularization, PRESENT.n_epochs)

    def __str__(self) -> str:
        return f"{self.learning_rate:g} / {self.regularization:g} / {self.n_epochs}"


def main() -> None:
    """Print what serves all sets, and what would serve each."""
    arguments_parser = parser(__doc__, rounds=0)
    arguments_parser.add_argument("--factors", type=int, default=64)
    arguments_parser.add_argument("--epochs", type=int, default=60)
    arguments = arguments_parser.parse_args()
    n_epochs = max(arguments.epochs, PRESENT.n_epochs)
    print_machine()
    sets = _sets(quick=arguments.quick)
    grids = np.stack(
        [
            np.mean([_grid(part, arguments.factors, n_epochs) for part in parts], axis=0)
            for parts in sets.values()
        ]
    )
    regret = 100.0 * (grids / grids.min(axis=(1, 2), keepdims=True) - 1.0)
    leaders = _leaders(regret.mean(axis=0), 10)
    _print_settings([*leaders, Setting.default()], list(sets), grids, regret)
    _print_bests(list(sets), grids)
    _print_tests(sets, arguments.factors, [leaders[0], Setting.default()])


def _sets(*, quick: bool) -> dict[str, list[Problem]]:
    """Return the sets by name, each in one or several cuts to average over."""
    small = generated(1_000, 500, 60_000, noise=0.5)
    sparse = generated(4_000, 2_000, 60_000)
    if quick:
        return {"generated 60k": [small], "generated 60k sparse": [sparse]}
    return {
        "ML-100K": movielens_folds("100k"),
        "ML-1M": [movielens("1m")],
        "generated 60k": [small],
        "generated 60k sparse": [sparse],
        "generated 500k": [generated(10_000, 4_000, 500_000)],
        "generated 200k, 1-10": [generated(5_000, 2_000, 200_000, noise=1.6, scale=2.0)],
    }


def _grid(problem: Problem, n_factors: int, n_epochs: int) -> NDArray[np.float64]:
    """Return the validation RMSE for each pair and epoch, infinite from divergence on."""
    train, validation = train_test_split(problem.train, test_size=0.1, random_state=SEED)
    grid = np.full((len(PAIRS), n_epochs), np.inf)
    for row, (learning_rate, regularization) in zip(grid, PAIRS, strict=True):
        reports: list[cmf.EpochReport] = []
        model = cmf.MatrixFactorization(
            n_factors,
            learning_rate=learning_rate,
            regularization=regularization,
            n_epochs=n_epochs,
            random_state=SEED,
        )
        with contextlib.suppress(cmf.DivergenceError):
            model.fit(train, validation=validation, callbacks=reports.append)
        row[: len(reports)] = [report.validation_rmse for report in reports]
    return grid


def _leaders(mean_regret: NDArray[np.float64], n_leaders: int) -> list[Setting]:
    """Return the pairs of least mean regret, each with its best number of epochs."""
    best_epochs = mean_regret.argmin(axis=1)
    order = np.argsort(mean_regret.min(axis=1), kind="stable")[:n_leaders]
    n_epochs = mean_regret.shape[1]
    return [Setting.at(int(pair * n_epochs + best_epochs[pair]), n_epochs) for pair in order]


def _print_settings(
    settings: list[Setting],
    names: list[str],
    grids: NDArray[np.float64],
    regret: NDArray[np.float64],
) -> None:
    """Print the validation RMSE of each setting on each set, the defaults last."""
    print_table(
        ["rate / reg / epochs", *names, "mean regret %", "worst %"],
        (
            (
                setting,
                *(f"{grid[setting.place]:.4f}" for grid in grids),
                f"{np.mean([r[setting.place] for r in regret]):.2f}",
                f"{np.max([r[setting.place] for r in regret]):.2f}",
            )
            for setting in settings
        ),
    )


def _print_bests(names: list[str], grids: NDArray[np.float64]) -> None:
    """Print the setting that is best on each set."""
    print_table(
        ["best of its set", "rate / reg / epochs", "validation RMSE"],
        (
            (name, Setting.at(int(grid.argmin()), grid.shape[1]), f"{grid.min():.4f}")
            for name, grid in zip(names, grids, strict=True)
        ),
    )


def _print_tests(sets: dict[str, list[Problem]], n_factors: int, settings: list[Setting]) -> None:
    """Print the clipped RMSE on test ratings after training on all training ratings."""
    rows = []
    for setting in settings:
        model = cmf.MatrixFactorization(
            n_factors,
            learning_rate=setting.learning_rate,
            regularization=setting.regularization,
            n_epochs=setting.n_epochs,
            random_state=SEED,
        )
        errors = [
            np.mean([part.model_rmse(model.fit(part.train)) for part in parts])
            for parts in sets.values()
        ]
        rows.append([setting, *(f"{error:.4f}" for error in errors)])
    print_table(["test RMSE", *sets], rows)


if __name__ == "__main__":
    main()
