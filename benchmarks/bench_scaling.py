"""How the cost of training goes with threads, the number of factors, and the number of ratings.

Threads: whole fits and epochs on 1, 2, ... threads up to the processors this process may use, and
how many times as fast they are as one. The last row is what the machine gives: as many fits at
once, on one thread each and in processes of their own, and how many times as much is done as by one
alone. Factors: the cost of a rating on one thread for each number of them, and how it compares with
the next multiple of 16 in the table; what is above 1 is what a number that fills no whole vectors
costs. Ratings: an epoch and the memory of a fit at more and more ratings by more and more users, of
the same 10,677 items. Memory is how far the peak of resident memory rises during a fit after the
first; the ratings themselves are there before. From it 1.25 times the factors and biases are
subtracted, and the rest is given in bytes a rating.

Meaningless with more threads than free processors, with another process on the machine, and at
sizes that do not fit into memory; those that would not are left out (about 80 bytes a rating are
needed, most of them to make the ratings up).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from typing import Any

from benchmarks._contest import Arena, Contestant, Results
from benchmarks._report import parser, print_machine, print_table, ratio, spread
from benchmarks.peers.own import PLAIN
from benchmarks.problems import generated, large_problem, main_problem
from cmf._threads import available_cpus

PARTS = ("threads", "factors", "ratings")
FACTORS = (8, 16, 20, 32, 33, 48, 50, 64, 100, 112, 128, 192, 256)
SIZES = (1, 3, 10, 30, 100)  # million ratings
BYTES_A_RATING = 80  # of memory, to make ratings up and train on them
# The value is glibc's own; giving one keeps it from growing, so that what is freed is given back.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024)}
FEW, MANY, WHOLE = 2, 12, 20


def main() -> None:
    """Print the tables asked for."""
    arguments_parser = parser(__doc__)
    option = arguments_parser.add_argument
    option("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    option("--factors", type=int, nargs="+", default=list(FACTORS))
    option("--millions", type=float, nargs="+", default=list(SIZES), help="of ratings")
    arguments = arguments_parser.parse_args()
    print_machine()
    if "threads" in arguments.parts:
        _threads(arguments)
    if "factors" in arguments.parts:
        _factors(arguments)
    if "ratings" in arguments.parts:
        _ratings(arguments)


def _threads(arguments: argparse.Namespace) -> None:
    """Time whole fits and epochs on more and more threads."""
    problem = large_problem(quick=arguments.quick)
    print(problem.describe(), end="\n\n")
    counts = _thread_counts()
    one = Contestant("1", settings={**PLAIN, "n_factors": 64, "n_threads": 1})
    contestants = [
        one,
        *(replace(one, name=str(n), settings={**one.settings, "n_threads": n}) for n in counts[1:]),
    ]
    if counts[-1] > 1:
        contestants.append(replace(one, name=f"{counts[-1]} fits at once", copies=counts[-1]))
    with Arena(problem) as arena:
        fits = arena.time_fits(contestants, WHOLE, arguments.rounds)
        epochs = arena.time_epochs(contestants, FEW, MANY, arguments.rounds)
    print(f"n_factors=64, whole fits of {WHOLE} epochs and epochs, {arguments.rounds} rounds")
    print_table(
        [
            "threads",
            *("fit, ms", "spread", "times as fast as 1"),
            *("epoch, ms", "spread", "times as fast as 1"),
        ],
        ((one.name, *_speed(fits, one), *_speed(epochs, one)) for one in contestants),
    )


def _thread_counts() -> list[int]:
    """Return 1, 2, 4, ... and the number of processors this process may use."""
    most = available_cpus()
    return [*(2**n for n in range(most.bit_length()) if 2**n < most), most]


def _speed(results: Results, one: Contestant) -> tuple[str, str, str]:
    """Return the cells of a row: time, spread, and how much more is done than by one thread."""
    seconds = results.times[one.name]
    return (
        f"{1e3 * median(seconds):.4g}",
        spread(seconds),
        f"{one.copies * ratio(results.times, '1', one.name):.2f}",
    )


def _factors(arguments: argparse.Namespace) -> None:
    """Time an epoch for each number of factors."""
    problem = main_problem(quick=arguments.quick)
    print(problem.describe(), end="\n\n")
    contestants = {
        n: Contestant(str(n), settings={**PLAIN, "n_factors": n, "n_threads": 1})
        for n in sorted(arguments.factors)
    }
    with Arena(problem) as arena:
        results = arena.time_epochs([*contestants.values()], 5, 25, arguments.rounds)
    print(f"one thread, one epoch, median of {arguments.rounds} interleaved rounds")
    rows = []
    for n in contestants:
        seconds = results.times[str(n)]
        full = -(-n // 16) * 16
        over = f"{ratio(results.times, str(n), str(full)):.2f}" if full in contestants else ""
        cost = 1e9 * median(seconds) / problem.train.nnz
        rows.append((n, f"{cost:.2f}", f"{1e3 * cost / n:.0f}", spread(seconds), full, over))
    header = ["factors", "ns a rating", "ps a rating and factor", "spread"]
    print_table([*header, "next multiple of 16", "times its time"], rows)


def _ratings(arguments: argparse.Namespace) -> None:
    """Time an epoch and measure memory at each number of ratings."""
    sizes = [0.1, 0.3, 1] if arguments.quick else sorted(arguments.millions)
    print(f"n_factors=64, one thread, one epoch, median of {arguments.rounds} rounds")
    print_table(
        [
            *("million ratings", "users", "ns a rating", "spread"),
            *("memory, bytes a rating", "factors, bytes a rating", "less 1.25 x factors"),
        ],
        _rows_of_sizes(sizes, arguments.rounds),
    )


def _rows_of_sizes(sizes: list[float], rounds: int) -> Iterator[tuple[Any, ...]]:
    """Yield a row per number of ratings that fits into memory."""
    n_factors, n_items = 64, 10_677
    first = Contestant(
        "first", settings={**PLAIN, "n_factors": 1, "n_threads": 1}, environment=GIVE_BACK
    )
    one = replace(first, name="cmf", settings={**PLAIN, "n_factors": n_factors, "n_threads": 1})
    for size in sizes:
        n_ratings = round(1e6 * size)
        if BYTES_A_RATING * n_ratings > _memory():
            continue
        problem = generated(max(n_ratings // 129, 100), n_items, n_ratings, n_test=n_ratings // 100)
        with Arena(problem) as arena:
            arena.fit(first, 1)  # imports and whatever else only a first fit needs
            memory = arena.fit(one, 2)["memory"]
            seconds = arena.time_epochs([one], 1, 4, rounds).times["cmf"]
        n_trained = problem.train.nnz
        factors = 4 * (n_factors + 1) * sum(problem.train.shape)
        yield (
            f"{size:g}",
            f"{problem.train.shape[0]:,}",
            f"{1e9 * median(seconds) / n_trained:.2f}",
            spread(seconds),
            f"{memory / n_trained:.2f}",
            f"{factors / n_trained:.2f}",
            f"{(memory - 1.25 * factors) / n_trained:.2f}",
        )


def _memory() -> float:
    """Return the bytes of memory of the machine."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return float("inf")


if __name__ == "__main__":
    main()
