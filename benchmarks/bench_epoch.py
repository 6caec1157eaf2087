"""Training speed: one epoch on one thread, next to LIBMF in two builds and to Surprise's SVD.

We train at every instruction-set level there is, and in stored order, as Surprise does. Measured is
what an epoch adds to a whole fit: the time of a long fit minus the time of a short one, divided by
the epochs between them. Start, checks, set-up and the final loss are in both and cancel; what a
library does besides in every epoch counts. That includes the Python generator through which
Surprise visits its ratings: it is how Surprise trains.

The RMSE on held-out ratings after the long fit stands next to the speed. cmf runs by the plain rule
with a decaying rate, with the adaptive rates of its defaults and, in one row, with Surprise's
settings; LIBMF with η = 0.1 and λ = 0.05, with which it does best or nearly so on MovieLens in as
few epochs; its λ is counted once per rating, as ours.

Meaningless where contestants do not run in turns on the same machine, where another process comes
and goes within a round, where the times of a row spread by much more than the differences between
rows, where a faster row has a clearly worse RMSE, or where one column of numbers is compared with a
table of another day. Factors of MovieLens 1M fit into the second-level cache or nearly so, those of
the large problem do not.
"""

from __future__ import annotations

from typing import Any

import cmf
from benchmarks._contest import (
    Arena,
    Contestant,
    add_contest_options,
    libmf_builds,
    present,
    print_results,
)
from benchmarks._report import parser, print_machine
from benchmarks.peers.own import ADAPTIVE, PLAIN
from benchmarks.peers.surprise import DEFAULTS
from benchmarks.problems import EPOCH_PROBLEMS


def main() -> None:
    """Print one table per problem and number of factors."""
    arguments_parser = parser(__doc__)
    option = arguments_parser.add_argument
    option("--factors", type=int, nargs="+", default=[32, 64, 128])
    option("--problems", nargs="+", choices=EPOCH_PROBLEMS, default=list(EPOCH_PROBLEMS))
    add_contest_options(arguments_parser)
    arguments = arguments_parser.parse_args()
    print_machine("scikit-surprise", "libmf")
    contestants = {
        n_factors: present(_contestants(arguments.libmf, n_factors), arguments.only)
        for n_factors in arguments.factors
    }
    references = [*libmf_builds(arguments.libmf), "Surprise SVD"]
    for key in arguments.problems:
        make, few, many = EPOCH_PROBLEMS[key]
        problem = make(quick=arguments.quick)
        print(problem.describe(), end="\n\n")
        with Arena(problem) as arena:
            for n_factors, those in contestants.items():
                results = arena.time_epochs(those, few, many, arguments.rounds)
                print(
                    f"n_factors={n_factors}, one epoch, median of {arguments.rounds} interleaved "
                    f"rounds, RMSE after {many} epochs"
                )
                print_results(results, problem.train.nnz, references)


def _contestants(libmf: str | None, n_factors: int) -> list[Contestant]:
    """Return all contestants with one number of factors."""
    levels = cmf.show_config(mode="dicts")["simd_available"]  # type: ignore[index]
    own: dict[str, Any] = {"n_factors": n_factors, "n_threads": 1}
    plain = {**PLAIN, **own}
    return [
        *(Contestant(f"cmf {level}", "cmf", plain, {"CMF_SIMD": level}) for level in levels),
        Contestant("cmf adaptive", "cmf", {**ADAPTIVE, **own}),
        Contestant("cmf SVD++", "cmf", {**ADAPTIVE, **own, "implicit": True}),
        Contestant("cmf Huber loss", "cmf", {**ADAPTIVE, **own, "loss_function": "huber"}),
        Contestant("cmf float64", "cmf", {**plain, "dtype": "float64"}),
        Contestant("cmf stored order", "cmf", {**own, "shuffle": False}),
        Contestant("cmf Surprise's settings", "cmf", {**DEFAULTS, **own}),
        *(
            Contestant(name, "LIBMF", {"k": n_factors}, environment)
            for name, environment in libmf_builds(libmf).items()
        ),
        Contestant("Surprise SVD", "Surprise", {"n_factors": n_factors}),
    ]


if __name__ == "__main__":
    main()
