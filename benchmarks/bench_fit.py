"""A whole fit: 20 epochs from ratings in memory, and the time to a stated quality.

The first tables time whole fits of as many epochs. cmf starts from a CSR matrix; its checks, its
set-up, its start and the final loss are counted. LIBMF starts from its own records in memory, of
which it makes a copy; reading text and the conversions of python-libmf are not counted, so that
what it does is what cmf does. Surprise starts from a ready `Trainset`, cornac from a ready
`Dataset`, neither of whose building is counted, and cmfrec, which runs ten iterations of ALS on
its own terms, from triplets.

The second table is the time to a given RMSE on held-out ratings. First the number of epochs of each
contestant is found: the least with which its clipped RMSE on the test ratings is at the target or
below. Then whole fits of that many epochs are timed in turns. Nobody pays for measuring on the way.
cmf runs with Surprise's settings, which tells what the implementation is worth, and with its own,
which tells what one gets.

The last table is about small work: MovieLens 100K and a matrix of ten rows and columns.

Meaningless, the second table, with a target that suits one contestant (hence the option), and as a
statement about generalization: the epochs are chosen on the test ratings. A contestant whose RMSE
turns before the target has no time in the table, but the RMSE of the turn.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from benchmarks._contest import (
    Arena,
    Contestant,
    add_contest_options,
    libmf_builds,
    present,
    print_results,
)
from benchmarks._problem import Problem
from benchmarks._report import (
    Times,
    interleave,
    parser,
    print_machine,
    print_table,
    ratio,
    spread,
)
from benchmarks.peers.own import ADAPTIVE, PLAIN
from benchmarks.peers.surprise import DEFAULTS
from benchmarks.problems import SEED, large_problem, main_problem, small_problem

EPOCHS = 20
MOST_EPOCHS = 60
PEERS = ("Surprise SVD", "cornac MF", "cmfrec ALS")
# ALS wants its λ times the ratings of a row on such data, as LIBMF and SGD have it by themselves.
CMFREC = {"niter": 10, "lambda_": 0.08, "scale_lam": True}
PARTS = ("main", "large", "target", "small")


def main() -> None:
    """Print the tables."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    arguments_parser.add_argument(
        "--target", type=float, help="test RMSE to reach; default 0.875, or 1.3 x the noise"
    )
    add_contest_options(arguments_parser)
    arguments = arguments_parser.parse_args()
    print_machine("scikit-surprise", "libmf", "cornac", "cmfrec")
    if {"main", "target"} & {*arguments.parts}:
        with _arena(main_problem(quick=arguments.quick)) as arena:
            if "main" in arguments.parts:
                _whole_fits(arena, 100, arguments)
            if "target" in arguments.parts:
                _fits_to_target(arena, arguments)
    if "large" in arguments.parts:
        with _arena(large_problem(quick=arguments.quick)) as arena:
            _whole_fits(arena, 64, arguments)
    if "small" in arguments.parts:
        _small_fits(arguments.rounds)


def _arena(problem: Problem) -> Arena:
    """Print what the problem is and make its arena."""
    print(problem.describe(), end="\n\n")
    return Arena(problem)


def _whole_fits(arena: Arena, n_factors: int, arguments: argparse.Namespace) -> None:
    """Time fits of 20 epochs of everyone."""
    contestants = present(_contestants(arguments.libmf, n_factors), arguments.only)
    results = arena.time_fits(contestants, EPOCHS, arguments.rounds)
    print(
        f"n_factors={n_factors}, {EPOCHS} epochs, median of {arguments.rounds} interleaved rounds"
    )
    references = [*libmf_builds(arguments.libmf), *PEERS]
    print_results(results, EPOCHS * arena.problem.train.nnz, references)


def _contestants(libmf: str | None, n_factors: int) -> list[Contestant]:
    """Return everyone, on one thread and, where threads can be had, on two."""
    surprise = {**DEFAULTS, "n_factors": n_factors}
    contestants = []
    for threads, tail in ((1, ""), (2, ", two threads")):
        own: dict[str, Any] = {"n_factors": n_factors, "n_threads": threads}
        contestants += [
            Contestant(f"cmf{tail}", "cmf", {**PLAIN, **own}),
            Contestant(f"cmf adaptive{tail}", "cmf", {**ADAPTIVE, **own}),
            Contestant(f"cmf, Surprise's settings{tail}", "cmf", {**surprise, **own}),
            *(
                Contestant(
                    f"{name}{tail}",
                    "LIBMF",
                    {"k": n_factors, "nr_threads": threads},
                    environment,
                )
                for name, environment in libmf_builds(libmf).items()
            ),
            Contestant(f"cornac MF{tail}", "cornac", {"k": n_factors, "num_threads": threads}),
            Contestant(
                f"cmfrec ALS{tail}",
                "cmfrec",
                {"k": n_factors, "nthreads": threads, **CMFREC},
            ),
        ]
    return [*contestants, Contestant("Surprise SVD", "Surprise", {"n_factors": n_factors})]


def _fits_to_target(arena: Arena, arguments: argparse.Namespace) -> None:
    """Find everyone's epochs, then time fits of as many in turns."""
    best = arena.problem.best_rmse
    target = arguments.target or (0.875 if best is None else 1.3 * best)
    contestants = present(_targeted(arguments.libmf), arguments.only)
    reached = {one: _least_epochs(arena, one, target) for one in contestants}
    timed = {
        one.name: partial(_seconds, arena, one, n_epochs)
        for one, (n_epochs, rmse) in reached.items()
        if rmse <= target
    }
    times = interleave(timed, arguments.rounds)
    print(f"target RMSE {target:.4f}, median of {arguments.rounds} interleaved rounds")
    _print_reached({one.name: found for one, found in reached.items()}, times)


def _targeted(libmf: str | None) -> list[Contestant]:
    """Return who is to reach the target, on one thread."""
    settings: dict[str, dict[str, Any]] = {
        "cmf, Surprise's settings, stored order": {**DEFAULTS, "shuffle": False},
        "cmf, Surprise's settings": dict(DEFAULTS),
        "cmf": dict(PLAIN),
        "cmf adaptive": dict(ADAPTIVE),
        "cmf, 32 factors": {**PLAIN, "n_factors": 32},
    }
    return [
        *(Contestant(name, "cmf", {**own, "n_threads": 1}) for name, own in settings.items()),
        *(
            Contestant(f"{name}, {k} factors", "LIBMF", {"k": k}, environment)
            for name, environment in libmf_builds(libmf).items()
            for k in (64, 32)
        ),
        Contestant("Surprise SVD", "Surprise"),
    ]


def _least_epochs(arena: Arena, one: Contestant, target: float) -> tuple[int, float]:
    """Return the least number of epochs that reaches the target, and the RMSE there.

    Where the RMSE turns before the target is reached, the epochs and the RMSE of the turn.
    """
    best = (0, float("inf"))
    for n_epochs in range(1, MOST_EPOCHS + 1):
        arena.fit(one, n_epochs)
        rmse = arena.rmse(one)
        if rmse >= best[1] + 0.001:
            break
        best = min(best, (n_epochs, rmse), key=lambda pair: pair[1])
        if rmse <= target:
            break
    return best


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


def _small_fits(rounds: int) -> None:
    """Time fits of a small data set and of next to nothing, at 32 factors."""
    tiny = csr_array(np.random.default_rng(SEED).integers(1, 6, (10, 10)).astype(np.float32))
    for problem in (small_problem(), Problem("ten by ten", tiny, tiny)):
        contestants = [
            Contestant(
                f"cmf, n_threads={n_threads}",
                "cmf",
                {**PLAIN, "n_factors": 32, "n_threads": n_threads},
            )
            for n_threads in (1, 2, None)
        ]
        with _arena(problem) as arena:
            results = arena.time_fits(contestants, EPOCHS, rounds, repeat=5)
        print(f"n_factors=32, {EPOCHS} epochs, median of {rounds} rounds, each the mean of 5 fits")
        print_results(results, EPOCHS * problem.train.nnz, ())


if __name__ == "__main__":
    main()
