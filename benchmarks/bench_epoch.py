"""Training speed: one epoch on one thread, next to Surprise's SVD.

We train in stored order, as Surprise does, and shuffled, at every instruction-set level there is.

Measured is what an epoch adds to a whole fit: the time of a fit of 25 epochs minus the time of one
of 5, divided by 20. Start, checks and the final loss are in both and cancel; what either library
does besides in every epoch counts. That includes the Python generator through which Surprise
visits its ratings: it is how Surprise trains. All train on the same ratings with the same
settings, and the RMSE on held-out ratings after 25 epochs stands next to the speed.

Meaningless where contestants do not run in turns on the same machine, where another process comes
and goes within a round, where the times of a row spread by much more than the differences between
rows, where the RMSE of two rows is not about the same, or where one column of numbers is compared
with a table of another day. Factors of MovieLens 1M fit into the second-level cache or nearly so:
sets of many more users or items run slower.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import cmf
from benchmarks import peers
from benchmarks._report import interleave, parser, print_machine, print_table, ratio, spread
from benchmarks.problems import Problem, main_problem

FEW, MANY = 5, 25


def main() -> None:
    """Print one table per number of factors."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--factors", type=int, nargs="+", default=[32, 64, 100, 128])
    arguments = arguments_parser.parse_args()
    print_machine("scikit-surprise")
    problem = main_problem(quick=arguments.quick)
    print(problem.describe(), end="\n\n")
    trainset = peers.trainset(problem.train) if peers.has_surprise() else None
    for n_factors in arguments.factors:
        _compare(problem, trainset, n_factors, arguments.rounds)


def _variants() -> dict[str, dict[str, Any]]:
    """Return our contestants: name, and what to train with."""
    levels = cmf.show_config(mode="dicts")["simd_available"]  # type: ignore[index]
    return {
        "cmf float32, stored order": {"dtype": "float32", "shuffle": False},
        "cmf float64, stored order": {"dtype": "float64", "shuffle": False},
        **{f"cmf float32, {level}": {"dtype": "float32", "level": level} for level in levels},
        f"cmf float64, {levels[-1]}": {"dtype": "float64", "level": levels[-1]},
    }


def _compare(problem: Problem, trainset: Any, n_factors: int, rounds: int) -> None:
    """Measure all contestants with one number of factors and print them."""
    variants = _variants()
    fits: dict[str, Callable[[int], float]] = {
        name: partial(_fit_cmf, problem, n_factors, variant) for name, variant in variants.items()
    }
    if trainset is not None:
        fits["Surprise SVD"] = partial(_fit_surprise, trainset, n_factors)
    quality = {name: _rmse(variants.get(name), problem, trainset, n_factors) for name in fits}
    times = interleave({name: partial(_epoch, fit) for name, fit in fits.items()}, rounds)
    print(f"n_factors={n_factors}, median of {rounds} interleaved rounds")
    print_table(
        [
            "",
            "ms an epoch",
            "spread",
            "million ratings/s",
            "times Surprise",
            f"RMSE, {MANY} epochs",
        ],
        (
            (
                name,
                f"{1e3 * statistics.median(times[name]):.1f}",
                spread(times[name]),
                f"{problem.train.nnz / statistics.median(times[name]) / 1e6:.1f}",
                "" if trainset is None else f"{ratio(times, 'Surprise SVD', name):.2f}",
                f"{quality[name]:.4f}",
            )
            for name in fits
        ),
    )


def _epoch(fit: Callable[[int], float]) -> float:
    """Return the seconds of one epoch: what is left after the set-up cancels."""
    return (fit(MANY) - fit(FEW)) / (MANY - FEW)


def _trained(
    problem: Problem, n_factors: int, variant: dict[str, Any], n_epochs: int
) -> cmf.MatrixFactorization:
    settings: dict[str, Any] = peers.SURPRISE_DEFAULTS | {"n_factors": n_factors} | variant
    os.environ["CMF_SIMD"] = settings.pop("level", "")
    model = cmf.MatrixFactorization(**settings, n_threads=1, random_state=0)
    return model.fit(problem.train, epochs=n_epochs)


def _fit_cmf(problem: Problem, n_factors: int, variant: dict[str, Any], n_epochs: int) -> float:
    started = time.perf_counter()
    _trained(problem, n_factors, variant, n_epochs)
    return time.perf_counter() - started


def _fit_surprise(trainset: Any, n_factors: int, n_epochs: int) -> float:
    svd = peers.svd(n_factors, n_epochs)
    started = time.perf_counter()
    svd.fit(trainset)
    return time.perf_counter() - started


def _rmse(variant: dict[str, Any] | None, problem: Problem, trainset: Any, n_factors: int) -> float:
    if variant is None:
        return peers.svd_rmse(problem, peers.svd(n_factors, MANY).fit(trainset))
    return problem.model_rmse(_trained(problem, n_factors, variant, MANY))


if __name__ == "__main__":
    main()
