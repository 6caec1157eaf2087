"""A whole fit: 20 epochs from ratings in memory, and the time to a stated quality.

The first tables time whole fits of as many epochs. cmf starts from a CSR matrix; its checks, its
set-up, its start and the final loss are counted. LIBMF starts from its own records in memory, of
which it makes a copy; reading text and the conversions of python-libmf are not counted, so that
what it does is what cmf does. Surprise starts from a ready `Trainset`, cornac from a ready
`Dataset`, neither of whose building is counted, and cmfrec, which runs ten iterations of ALS on
its own terms, from triplets.

The last table is about small work: MovieLens 100K and a matrix of ten rows and columns.
"""

from __future__ import annotations

import argparse
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
    parser,
    print_machine,
)
from benchmarks.peers.own import ADAPTIVE, PLAIN
from benchmarks.peers.surprise import DEFAULTS
from benchmarks.problems import SEED, large_problem, main_problem, small_problem

EPOCHS = 20
PEERS = ("Surprise SVD", "cornac MF", "cmfrec ALS")
# ALS wants its λ times the ratings of a row on such data, as LIBMF and SGD have it by themselves.
CMFREC = {"niter": 10, "lambda_": 0.08, "scale_lam": True}
PARTS = ("main", "large", "small")


def main() -> None:
    """Print the tables."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add_contest_options(arguments_parser)
    arguments = arguments_parser.parse_args()
    print_machine("scikit-surprise", "libmf", "cornac", "cmfrec")
    if "main" in arguments.parts:
        with _arena(main_problem(quick=arguments.quick)) as arena:
            _whole_fits(arena, 100, arguments)
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
