"""What each trick of the kernel is worth: an epoch with it taken away, next to one with everything.

Some tricks are settings of the C headers, which a compiler flag overrides: for each set of flags
the working tree is built anew in a temporary folder. Others are switched at run time. All variants
live in processes of their own and run in turns; the time of an epoch is what a long fit takes more
than a short one, divided by the epochs between. "Times as built" above 1 is what the trick gains.

Meaningless where rows spread by more than they differ. Tricks are taken away one at a time: what
two of them gain together is not the product. Another number of streams, a grid of other blocks, or
no shuffling is another order of the ratings, hence a slightly different RMSE.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import cmf
from benchmarks import _builds
from benchmarks._contest import Arena, Contestant
from benchmarks._report import (
    add_only_option,
    is_chosen,
    parser,
    print_machine,
    print_table,
    ratio,
    spread,
)
from benchmarks.peers.own import ADAPTIVE, PLAIN
from benchmarks.problems import EPOCH_PROBLEMS

AS_BUILT = "as built"


@dataclass(frozen=True, eq=False)
class Variant:
    """Definitions for the compiler, environment variables and parameters that differ."""

    name: str
    defines: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def flags(self) -> str:
        """Return the definitions as compiler flags, quoted as distutils reads CFLAGS."""
        return " ".join(f"'-D{name}={value}'" for name, value in self.defines.items())


VARIANTS = [
    Variant("one user at a time", {"CMF_STREAMS(n,rowwise)": "1"}),
    Variant("two users interleaved", {"CMF_STREAMS(n,rowwise)": "2"}),
    Variant("three users interleaved", {"CMF_STREAMS(n,rowwise)": "3"}),
    Variant("four users interleaved", {"CMF_STREAMS(n,rowwise)": "4"}),
    Variant("items not fetched ahead", {"CMF_STEPS_AHEAD": "0"}),
    Variant("users not fetched ahead", {"CMF_ROWS_AHEAD": "0"}),
    Variant("ratings not fetched ahead", {"CMF_RATINGS_AHEAD": "0"}),
    Variant("rows without scales", {"CMF_SCALED(n)": "0"}),
    Variant("all rows with scales", {"CMF_SCALED(n)": "1"}),
    Variant("inner products not early", {"CMF_EARLY(n,rowwise)": "0"}),
    Variant("no item read once", {"CMF_READ_ONCE(n,rowwise)": "0"}),
    Variant("adaptive rates", settings={**dict.fromkeys(PLAIN), **ADAPTIVE}),
    # Without them the first steps are larger: at half the rate of the others they still diverge.
    Variant("no biases", settings={"biases": False, "learning_rate": 0.003}),
    Variant("stored order", settings={**dict.fromkeys(PLAIN), "shuffle": False}),
    Variant("float64", settings={"dtype": "float64"}),
    Variant("two threads", settings={"n_threads": 2}),
]


def main() -> None:
    """Build all variants and print one table per problem and number of factors."""
    arguments_parser = parser(__doc__)
    option = arguments_parser.add_argument
    option("--factors", type=int, nargs="+", default=[32, 64, 128])
    option("--problems", nargs="+", choices=EPOCH_PROBLEMS, default=list(EPOCH_PROBLEMS))
    add_only_option(arguments_parser, "variants")
    arguments = arguments_parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        variants = [
            variant
            for variant in [*VARIANTS, *_levels()]
            if is_chosen(variant.name, arguments.only)
        ]
        trees = _build(variants, Path(folder))
        for key in arguments.problems:
            make, few, many = EPOCH_PROBLEMS[key]
            problem = make(quick=arguments.quick)
            print(problem.describe(), end="\n\n")
            with Arena(problem) as arena:
                for n_factors in arguments.factors:
                    _ablate(arena, _contestants(trees, n_factors), (few, many), arguments.rounds)


def _levels() -> list[Variant]:
    """Return a variant for every instruction-set level below the best."""
    levels = cmf.show_config(mode="dicts")["simd_available"]  # type: ignore[index]
    return [Variant(f"level {level}", environment={"CMF_SIMD": level}) for level in levels[:-1]]


def _build(variants: list[Variant], folder: Path) -> dict[Variant, Path]:
    """Build the tree as it is and once for every set of flags that it heeds."""
    base = _builds.build(_builds.working_tree(folder / "base"))
    heeded = _builds.macros(base)
    trees = {Variant(AS_BUILT): base}
    by_flags = {"": base}
    for variant in variants:
        unknown = {name.partition("(")[0] for name in variant.defines} - heeded
        if unknown:
            print(f"{variant.name}: the headers do not heed {', '.join(unknown)}; left out.\n")
            continue
        if variant.flags not in by_flags:
            copy = folder / f"variant-{len(by_flags)}"
            by_flags[variant.flags] = _builds.variant(base, copy, variant.flags)
        trees[variant] = by_flags[variant.flags]
    return trees


def _contestants(trees: Mapping[Variant, Path], n_factors: int) -> list[Contestant]:
    """Return the variants with one number of factors."""
    return [
        Contestant(
            variant.name,
            "cmf",
            {**PLAIN, "n_factors": n_factors, "n_threads": 1, **variant.settings},
            variant.environment,
            tree,
        )
        for variant, tree in trees.items()
    ]


def _ablate(
    arena: Arena, contestants: list[Contestant], epochs: tuple[int, int], rounds: int
) -> None:
    """Time everyone and print the table."""
    results = arena.time_epochs(contestants, *epochs, rounds)
    n_factors = contestants[0].settings["n_factors"]
    print(f"n_factors={n_factors}, one epoch, one thread, median of {rounds} interleaved rounds")
    n_ratings = arena.problem.train.nnz
    print_table(
        ["", "ns a rating", "spread", "times as built", "RMSE"],
        (
            (
                name,
                f"{1e9 * median(seconds) / n_ratings:.2f}",
                spread(seconds),
                f"{ratio(results.times, name, AS_BUILT):.2f}",
                f"{results.rmse[name]:.4f}",
            )
            for name, seconds in results.times.items()
        ),
    )


if __name__ == "__main__":
    main()
