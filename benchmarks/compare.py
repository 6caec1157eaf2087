"""Two commits on the same problems: ``python -m benchmarks.compare COMMIT [COMMIT]``.

Both are built in temporary folders with the same compiler; without a second commit, the working
tree is the other side. Every case runs both in turns, in two live processes. The ratio says how
many times as long the first takes, as the median over rounds: above 1, the second is faster.
"Beyond the spread" says that every single round agrees on who is faster; of two equal commits, one
case in 64 does so by chance with the 7 rounds that are the default. RMSE is that of the held-out
ratings.

Meaningless where another process comes and goes within a round, as always, and where the commits
do not mean the same by the same parameters: then the RMSE differs too.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import _builds
from benchmarks._contest import Arena, Contestant
from benchmarks._report import parser, print_machine, print_table, ratios, spread
from benchmarks.problems import large_problem, main_problem, small_problem

FEW, MANY, WHOLE = 5, 25, 20
HEADER = [
    "",
    *("first, ms", "spread", "second, ms", "spread"),
    *("ratio", "lowest, highest", "beyond the spread"),
    *("RMSE, first", "RMSE, second"),
]

# The plain rule, which is the same in all versions.
RULE: dict[str, Any] = {"learning_rate": 0.005, "regularization": 0.15}
# What is timed, an epoch or a whole fit, and the parameters.
Case = tuple[str, dict[str, Any]]
CASES: list[Case] = [
    ("fit", {**RULE, "n_factors": 64, "n_threads": 1}),
    ("fit", {**RULE, "n_factors": 64, "n_threads": 2}),
    ("epoch", {**RULE, "n_factors": 32, "n_threads": 1}),
    ("epoch", {**RULE, "n_factors": 64, "n_threads": 1}),
    ("epoch", {**RULE, "n_factors": 128, "n_threads": 1}),
    ("epoch", {**RULE, "n_factors": 64, "n_threads": 1, "dtype": "float64"}),
    ("epoch", {**RULE, "n_factors": 64, "n_threads": 1, "shuffle": False}),
]
PROBLEMS = {
    "small": lambda quick: small_problem(),
    "main": lambda quick: main_problem(quick=quick),
    "large": lambda quick: large_problem(quick=quick),
}


def main() -> None:
    """Build both sides and print one table per problem."""
    arguments_parser = parser(__doc__, rounds=7)
    option = arguments_parser.add_argument
    option("commits", nargs="+", metavar="COMMIT", help="one or two commits")
    option("--problems", nargs="+", choices=PROBLEMS, default=["small", "main"])
    arguments = arguments_parser.parse_args()
    if len(arguments.commits) > 2:
        arguments_parser.error("more than two commits")
    cases = [case for case in CASES if not arguments.quick or case[1]["n_factors"] <= 32]
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        sides = _sides(arguments.commits, Path(folder))
        print(", ".join(f"{side}: {name}" for side, (name, _) in sides.items()), end="\n\n")
        for key in arguments.problems:
            problem = PROBLEMS[key](arguments.quick)
            print(problem.describe(), end="\n\n")
            with Arena(problem) as arena:
                trees = {side: tree for side, (_, tree) in sides.items()}
                print_table(HEADER, [_row(arena, trees, case, arguments.rounds) for case in cases])


def _sides(commits: list[str], folder: Path) -> dict[str, tuple[str, Path]]:
    """Build both sides and return name and tree of each."""
    named = [(_builds.commit_name(commit), commit) for commit in commits]
    sides = {}
    for side, (name, commit) in zip(("first", "second"), named, strict=False):
        sides[side] = (name, _builds.build(_builds.commit_tree(commit, folder / side)))
    if len(commits) == 1:
        tree = _builds.build(_builds.working_tree(folder / "second"))
        sides["second"] = ("the working tree", tree)
    return sides


def _row(arena: Arena, trees: dict[str, Path], case: Case, rounds: int) -> list[str]:
    """Time one case on both sides."""
    what, settings = case
    sides = [Contestant(side, "cmf", settings, tree=tree) for side, tree in trees.items()]
    if what == "epoch":
        results = arena.time_epochs(sides, FEW, MANY, rounds)
    else:
        results = arena.time_fits(sides, WHOLE, rounds)
    by_round = sorted(ratios(results.times, "first", "second"))
    times = [
        text
        for seconds in results.times.values()
        for text in (f"{1e3 * median(seconds):.4g}", spread(seconds))
    ]
    return [
        f"{what}, " + ", ".join(f"{name}={value}" for name, value in settings.items()),
        *times,
        f"{median(by_round):.3f}",
        f"{by_round[0]:.3f} {by_round[-1]:.3f}",
        "yes" if by_round[0] > 1 or by_round[-1] < 1 else "no",
        *(f"{rmse:.6f}" for rmse in results.rmse.values()),
    ]


if __name__ == "__main__":
    main()
