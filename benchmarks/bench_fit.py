"""Time to a stated quality: a whole fit that reaches a given RMSE on held-out ratings.

First the number of epochs of each contestant is found: the least with which its clipped RMSE on the
test ratings is at the target or below. Then whole fits of that many epochs are timed in turns: from
a CSR matrix for cmf, checks, start and final loss included; from a ready `Trainset` for Surprise,
whose building is not counted. Nobody pays for measuring on the way. cmf runs with Surprise's
settings, which tells what the implementation is worth, and with its own, which tells what one gets.

Meaningless with a target that suits one contestant (hence the option), and as a statement about
generalization: the epochs are chosen on the test ratings. A contestant whose RMSE turns before the
target has no time in the table, but the RMSE of the turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import cmf
from benchmarks import peers
from benchmarks._report import interleave, parser, print_machine, print_table, ratio, spread
from benchmarks.problems import SEED, Problem, main_problem

MOST_EPOCHS = 60

Fit = Callable[[int], tuple[float, float]]  # epochs -> seconds and test RMSE


def main() -> None:
    """Print epochs, time and RMSE reached in one row per contestant."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument(
        "--target", type=float, help="test RMSE to reach; default 0.875, or 1.3 x the noise"
    )
    arguments = arguments_parser.parse_args()
    print_machine("scikit-surprise")
    problem = main_problem(quick=arguments.quick)
    print(problem.describe(), end="\n\n")
    default_target = 0.875 if problem.best_rmse is None else 1.3 * problem.best_rmse
    target = default_target if arguments.target is None else arguments.target
    fits = _contestants(problem)
    reached = {name: _least_epochs(fit, target) for name, fit in fits.items()}
    timed = {
        name: partial(_seconds, fits[name], n_epochs)
        for name, (n_epochs, rmse) in reached.items()
        if rmse <= target
    }
    times = interleave(timed, arguments.rounds)
    print(f"target RMSE {target:.4f}, median of {arguments.rounds} interleaved rounds")
    _print_results(reached, times)


def _contestants(problem: Problem) -> dict[str, Fit]:
    """Return what is compared, by name."""
    settings: dict[str, dict[str, Any]] = {
        "cmf, Surprise's settings, CSR order": {**peers.SURPRISE_DEFAULTS, "shuffle": False},
        "cmf, Surprise's settings, shuffled": dict(peers.SURPRISE_DEFAULTS),
        "cmf, own defaults": {},
        "cmf, own defaults, 32 factors": {"n_factors": 32},
    }
    fits: dict[str, Fit] = {
        name: partial(_fit_cmf, problem, parameters) for name, parameters in settings.items()
    }
    if peers.has_surprise():
        fits["Surprise SVD, own defaults"] = partial(
            _fit_surprise, problem, peers.trainset(problem.train)
        )
    return fits


def _fit_cmf(problem: Problem, parameters: dict[str, Any], n_epochs: int) -> tuple[float, float]:
    model = cmf.MatrixFactorization(**parameters, n_threads=1, random_state=SEED)
    started = time.perf_counter()
    model.fit(problem.train, epochs=n_epochs)
    seconds = time.perf_counter() - started
    return seconds, problem.model_rmse(model)


def _fit_surprise(problem: Problem, trainset: Any, n_epochs: int) -> tuple[float, float]:
    svd = peers.svd(int(peers.SURPRISE_DEFAULTS["n_factors"]), n_epochs)
    started = time.perf_counter()
    svd.fit(trainset)
    seconds = time.perf_counter() - started
    return seconds, peers.svd_rmse(problem, svd)


def _least_epochs(fit: Fit, target: float) -> tuple[int, float]:
    """Return the least number of epochs that reaches the target, and the RMSE there.

    Where the RMSE turns before the target is reached, the epochs and the RMSE of the turn.
    """
    best = (0, float("inf"))
    for n_epochs in range(1, MOST_EPOCHS + 1):
        rmse = fit(n_epochs)[1]
        if rmse >= best[1] + 0.001:
            break
        best = min(best, (n_epochs, rmse), key=lambda pair: pair[1])
        if rmse <= target:
            break
    return best


def _seconds(fit: Fit, n_epochs: int) -> float:
    return fit(n_epochs)[0]


def _print_results(reached: dict[str, tuple[int, float]], times: dict[str, list[float]]) -> None:
    """Print a row per contestant; one that never reached the target has no time."""
    peer = "Surprise SVD, own defaults"
    rows = []
    for name, (n_epochs, rmse) in reached.items():
        row = [name, str(n_epochs), f"{rmse:.4f}", "not reached", "", ""]
        if name in times:
            row[3:5] = [f"{statistics.median(times[name]):.3f}", spread(times[name])]
            row[5] = f"{ratio(times, peer, name):.2f}" if peer in times else ""
        rows.append(row)
    print_table(["", "epochs", "RMSE reached", "seconds", "spread", "times Surprise"], rows)


if __name__ == "__main__":
    main()
