"""How much of what the machine can do the kernel reaches, for each number of factors.

Two floors for one rating on one thread. Operations: a rating takes so many arithmetic instructions
for each vector of factors, of which the machine does so many a nanosecond. Bytes: it reads and
writes the row of an item and reads the rating and its index, while the user's row stays in
registers; where all items fit into the second-level cache, that is where they come from and go. The
rates are measured with a few lines of C, compiled for this machine into a temporary folder, or
given by options. The higher floor is the roofline, and the fraction is that floor over the time of
an epoch a rating: on ratings of few items, which stay in the cache, and on MovieLens 1M.

Meaningless if the probe and the kernel do not have the machine for themselves, and as a bound for
items beyond the cache. Not in the floors, and so in what is missing from 1: the sum over the lanes
of a vector and the chain of dependent steps behind it, rows of users loaded and stored, and
book-keeping.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from statistics import median

import cmf
from benchmarks._contest import Arena, Contestant
from benchmarks._report import parser, print_machine, print_table, spread
from benchmarks.peers.own import PLAIN
from benchmarks.problems import generated, main_problem

# Instructions for each vector of factors: a multiply-add for the inner product and one for each of
# the two rows; rows of one or two blocks, which have no scales, need a product more for each row.
OPERATIONS = 3
FLOAT = 4
RECORD = 8  # bytes of a rating: its value and its index
VECTOR_BYTES = {"baseline": 16, "avx2": 32, "avx512": 64}

PROBE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef float vector __attribute__((vector_size(VECTOR_BYTES)));

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * t.tv_sec + t.tv_nsec;
}

/* Multiply-adds a nanosecond, in chains enough to keep two units of latency 4 busy; the best of
 * many short runs, of which a busy machine lets some be. */
static double operations(void) {
    vector sums[12] = {{0}}, factor = {0}, term = {0};
    const long n = 100000;
    double best = 0;
    for (int repeat = 0; repeat < 200; repeat++) {
        double start = now();
        for (long i = 0; i < n; i++) {
            _Pragma("GCC unroll 12") for (int c = 0; c < 12; c++) sums[c] = sums[c] * factor + term;
            __asm__ volatile("" : "+x"(factor));
        }
        double rate = 12 * n / (now() - start);
        if (rate > best) best = rate;
    }
    for (int c = 1; c < 12; c++) sums[0] += sums[c];
    return sums[0][0] == 1 ? 0 : best;
}

/* Bytes a nanosecond, read and written, over a buffer that is changed in place. */
static double bytes(size_t size) {
    vector *buffer = aligned_alloc(64, size), factor = {0};
    size_t n = size / sizeof(vector), passes = ((size_t)16 << 20) / size;
    double best = 0;
    for (size_t i = 0; i < n; i++) buffer[i] = factor;
    for (int repeat = 0; repeat < 200; repeat++) {
        double start = now();
        for (size_t pass = 0; pass < passes; pass++) {
            for (size_t i = 0; i < n; i++) buffer[i] = buffer[i] * factor + factor;
            __asm__ volatile("" : : "r"(buffer) : "memory");
        }
        double rate = 2.0 * size * passes / (now() - start);
        if (rate > best) best = rate;
    }
    free(buffer);
    return best;
}

int main(void) {
    printf("{\"operations\": %.3f, ", operations());
    printf("\"l1\": %.1f, \"l2\": %.1f}\n", bytes(L1), bytes(L2));
    return 0;
}
"""


def main() -> None:
    """Print the rates of the machine, and a row per number of factors."""
    arguments_parser = parser(__doc__)
    option = arguments_parser.add_argument
    option("--factors", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    option("--level", choices=VECTOR_BYTES, help="instruction-set level; default: the best")
    option("--operations", type=float, help="vector multiply-adds a nanosecond; default: measured")
    option("--bandwidth", type=float, help="bytes a nanosecond from and to L2; default: measured")
    arguments = arguments_parser.parse_args()
    print_machine()
    available = cmf.show_config(mode="dicts")["simd_available"]  # type: ignore[index]
    level = arguments.level or available[-1]
    rates = _rates(arguments, VECTOR_BYTES[level])
    print(f"level {level}: " + ", ".join(f"{name} {rate:.4g}" for name, rate in rates.items()))
    print(f"{OPERATIONS} operations a vector; rates are a nanosecond, of vectors and of bytes\n")
    _print_fractions(arguments, level, rates)


def _rates(arguments: argparse.Namespace, vector_bytes: int) -> dict[str, float]:
    """Return operations and bytes a nanosecond, given or measured."""
    given = {"operations": arguments.operations, "l2": arguments.bandwidth}
    measured = {} if None not in given.values() else _probe(vector_bytes)
    return measured | {name: rate for name, rate in given.items() if rate is not None}


def _probe(vector_bytes: int) -> dict[str, float]:
    """Compile and run the probe, with buffers of half a cache."""
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        raise SystemExit("there is no C compiler (CC, cc): give --operations and --bandwidth")
    sizes = {
        "L1": _cache("SC_LEVEL1_DCACHE_SIZE", 32 << 10),
        "L2": _cache("SC_LEVEL2_CACHE_SIZE", 1 << 20),
    }
    defines = {"VECTOR_BYTES": vector_bytes, **{name: size // 2 for name, size in sizes.items()}}
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "probe.c", Path(folder) / "probe"
        source.write_text(PROBE)
        flags = [f"-D{name}={value}" for name, value in defines.items()]
        command = [compiler, "-O3", "-march=native", *flags, str(source), "-o", str(program)]
        subprocess.run(command, check=True)
        done = subprocess.run([str(program)], check=True, capture_output=True, text=True)
    rates: dict[str, float] = json.loads(done.stdout)
    return rates


def _cache(name: str, default: int) -> int:
    """Return the size of a cache in bytes, as far as the system tells."""
    try:
        return os.sysconf(name) or default
    except (AttributeError, ValueError):
        return default


def _print_fractions(arguments: argparse.Namespace, level: str, rates: dict[str, float]) -> None:
    """Time an epoch for each number of factors and print it next to the floors."""
    contestants = [
        Contestant(str(n), "cmf", {**PLAIN, "n_factors": n, "n_threads": 1}, {"CMF_SIMD": level})
        for n in arguments.factors
    ]
    cached = generated(*((2_000, 400, 100_000) if arguments.quick else (10_000, 500, 1_250_000)))
    rows = [[n, *(f"{floor:.2f}" for floor in _floors(n, level, rates))] for n in arguments.factors]
    for problem in (cached, main_problem(quick=arguments.quick)):
        print(problem.describe(), end="\n\n")
        with Arena(problem) as arena:
            times = arena.time_epochs(contestants, 5, 25, arguments.rounds).times
        for row, n in zip(rows, arguments.factors, strict=True):
            cost = 1e9 * median(times[str(n)]) / problem.train.nnz
            floor = max(_floors(n, level, rates))
            row += [f"{cost:.2f}", spread(times[str(n)]), f"{floor / cost:.0%}"]
    measured = ("ns a rating", "spread", "of the roofline")
    print("ns a rating; first with few items, then on the second set of ratings")
    print_table(["factors", "operations", "bytes", *measured, *measured], rows)


def _floors(n_factors: int, level: str, rates: dict[str, float]) -> tuple[float, float]:
    """Return the nanoseconds that operations and bytes take at least for one rating."""
    vectors = -(-n_factors * FLOAT // VECTOR_BYTES[level])
    n_bytes = 2 * vectors * VECTOR_BYTES[level] + RECORD
    return OPERATIONS * vectors / rates["operations"], n_bytes / rates["l2"]


if __name__ == "__main__":
    main()
