"""Time to a test RMSE: that of LIBMF's best setting and epoch, for 64 and 128 factors.

First LIBMF is run with a grid of learning rates and regularizations and with more and more epochs;
the least clipped RMSE on the test ratings that it reaches anywhere is the target. Then the least
number of epochs with which each contestant is at the target or below is found, and whole fits of
so many epochs are timed in turns, on one thread each. Nobody pays for measuring on the way, nor for
the search for settings. cmf runs with settings for few epochs, with the rates and regularization of
its defaults and a given number of epochs, and as it is: looking for the number of epochs and
training again is in the time then.

Meaningless as a statement about generalization: epochs and LIBMF's settings are chosen on the test
ratings. A contestant whose RMSE turns before the target has no time, but the RMSE of the turn.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from functools import partial
from typing import Any

from benchmarks._contest import (
    Arena,
    Contestant,
    add_contest_options,
    libmf_builds,
    present,
)
from benchmarks._report import Times, interleave, parser, print_machine, print_table, ratio, spread
from benchmarks.peers.own import ADAPTIVE
from benchmarks.problems import large_problem, main_problem

FACTORS = (64, 128)
GRID = {"eta": (0.05, 0.1), "lambda": (0.03, 0.05, 0.08)}
# Epochs after which LIBMF's error is looked at.
LOOKS = (5, 8, 12, 16, 20, 25, 30, 40, 60)
MOST_EPOCHS = 100
# What does well in few epochs: found with the test ratings, as LIBMF's settings are.
TUNED: dict[str, dict[str, Any]] = {
    "main": {
        "learning_rate": 0.03,
        "learning_rate_decay": 0.92,
        "regularization_scaling": "sqrt",
        "user_regularization": 1.5,
        "item_regularization": 1.0,
        "bias_regularization": 0.5,
        "bias_learning_rate": 0.006,
        "init_scale": 0.01,
    },
    "large": {
        "learning_rate": 0.0263,
        "learning_rate_decay": 0.87,
        "user_regularization": 0.075,
        "item_regularization": 0.06,
        "bias_regularization": 0.15,
        "bias_learning_rate": 0.009,
        "init_scale": 0.036,
    },
}
PARTS = {"main": main_problem, "large": large_problem}


def main() -> None:
    """Print a table for each problem and number of factors."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    arguments_parser.add_argument("--target", type=float, help="test RMSE to reach without LIBMF")
    arguments_parser.add_argument("--factors", nargs="+", type=int, default=list(FACTORS))
    add_contest_options(arguments_parser)
    arguments = arguments_parser.parse_args()
    print_machine("libmf", "scikit-surprise")
    for part in arguments.parts:
        problem = PARTS[part](quick=arguments.quick)
        print(problem.describe(), end="\n\n")
        for n_factors in arguments.factors:
            with Arena(problem) as arena:
                _race(arena, part, n_factors, arguments)


def _race(arena: Arena, part: str, n_factors: int, arguments: argparse.Namespace) -> None:
    """Find the target and everyone's epochs, then time fits of as many in turns."""
    peers = present(_best_of_libmf(arena, n_factors, arguments), arguments.only)
    errors = [_rmse(arena, one, one.settings["nr_iters"]) for one in peers]
    if arguments.target is None and not errors:
        print("without LIBMF there must be a --target\n")
        return
    target = min(errors) if arguments.target is None else arguments.target
    reached = {
        one: (one.settings["nr_iters"], error) for one, error in zip(peers, errors, strict=True)
    }
    for one in present(_own(part, n_factors), arguments.only):
        reached[one] = _least_epochs(arena, one, target)
    timed = {
        one.name: partial(_seconds, arena, one, n_epochs)
        for one, (n_epochs, rmse) in reached.items()
        if rmse <= target
    }
    times = interleave(timed, arguments.rounds)
    print(
        f"n_factors={n_factors}, target RMSE {target:.4f}, median of {arguments.rounds} "
        "interleaved rounds"
    )
    for one in peers:
        print(f"{one.name}: eta={one.settings['eta']}, lambda={one.settings['lambda']}")
    _print_reached({one.name: found for one, found in reached.items()}, times)


def _own(part: str, n_factors: int) -> list[Contestant]:
    """Return cmf on one thread: tuned, its own rates for a number of epochs, and as it is."""
    common = {"n_factors": n_factors, "n_threads": 1}
    return [
        Contestant("cmf tuned", "cmf", {**TUNED[part], "adaptive": True, **common}),
        Contestant("cmf with the defaults' rates", "cmf", {**ADAPTIVE, **common}),
        Contestant("cmf as it is", "cmf", common),
    ]


def _best_of_libmf(arena: Arena, n_factors: int, arguments: argparse.Namespace) -> list[Contestant]:
    """Return every build of LIBMF with its best setting of the grid and its best epoch."""
    found = []
    for name, environment in libmf_builds(arguments.libmf).items():
        candidates = [
            Contestant(name, "LIBMF", dict(zip(GRID, values, strict=True)), environment)
            for values in itertools.product(*GRID.values())
        ]
        best: tuple[float, dict[str, Any]] = (float("inf"), {})
        for one in present(candidates, arguments.only):
            settings = {**one.settings, "k": n_factors, "nr_threads": 1}
            candidate = Contestant(name, "LIBMF", settings, environment)
            last = float("inf")
            for n_epochs in LOOKS:
                rmse = _rmse(arena, candidate, n_epochs)
                if rmse < best[0]:
                    best = rmse, {**settings, "nr_iters": n_epochs}
                if rmse > last:
                    break
                last = rmse
        if best[1]:
            found.append(Contestant(name, "LIBMF", best[1], environment))
    return found


def _least_epochs(arena: Arena, one: Contestant, target: float) -> tuple[int, float]:
    """Return the least number of epochs that reaches the target, and the RMSE there.

    Where the RMSE turns before the target is reached, the epochs and the RMSE of about the turn.
    """
    if not one.settings.keys() & {"learning_rate", "early_stopping"}:  # which finds its own epochs
        return MOST_EPOCHS, _rmse(arena, one, MOST_EPOCHS)
    found: dict[int, float] = {}
    n_epochs = 1
    while n_epochs <= MOST_EPOCHS:
        found[n_epochs] = _rmse(arena, one, n_epochs)
        if found[n_epochs] <= target or found[n_epochs] > min(found.values()) + 0.001:
            break
        n_epochs *= 2
    best = min(found, key=lambda n: found[n])
    if found[best] > target:
        return best, found[best]
    low = best // 2  # which was not enough
    while best - low > 1:
        middle = (low + best) // 2
        found[middle] = _rmse(arena, one, middle)
        low, best = (low, middle) if found[middle] <= target else (middle, best)
    return best, found[best]


def _rmse(arena: Arena, one: Contestant, n_epochs: int) -> float:
    """Return the test RMSE after a number of epochs."""
    arena.fit(one, n_epochs)
    return arena.rmse(one)


def _seconds(arena: Arena, one: Contestant, n_epochs: int) -> float:
    """Return the seconds of a fit."""
    return float(arena.fit(one, n_epochs)["seconds"])


def _print_reached(reached: dict[str, tuple[int, float]], times: Times) -> None:
    """Print a row per contestant; one that never reached the target has no time."""
    against = [name for name in times if not name.startswith("cmf")]
    rows = []
    for name, (n_epochs, rmse) in reached.items():
        row = [name, str(n_epochs), f"{rmse:.4f}", "not reached", *[""] * (1 + len(against))]
        if name in times:
            row[3:5] = [f"{1e3 * statistics.median(times[name]):.1f}", spread(times[name])]
            row[5:] = [f"{ratio(times, peer, name):.2f}" for peer in against]
        rows.append(row)
    headings = (f"times {name}" for name in against)
    print_table(["", "epochs", "RMSE reached", "ms", "spread", *headings], rows)


if __name__ == "__main__":
    main()
