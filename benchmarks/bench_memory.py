"""Memory of training: the peak of `fit` over the input and the factors, in bytes per rating.

Each row is a process of its own, which loads the ratings, trains once on a handful of ratings so
that everything is imported, and then measures one `fit`. Two measures stand side by side: how far
the peak of the process's resident memory rises (it counts everything, but in pages, and not what
fits into memory freed before), and the peak of what Python and NumPy ask for (`tracemalloc`, which
sees no memory that compiled code takes by itself; the kernels take none).
The factors and biases are subtracted; what the fitted model keeps about seen items is not.

Meaningless with few ratings, where a few megabytes of other things are many bytes a rating, and
with few ratings a user, where arrays of one number per user weigh more. The exit status is 1 if a
row is above the limit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tracemalloc
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

import cmf
from benchmarks._memory import peak_memory
from benchmarks._problem import Problem
from benchmarks._report import parser, print_machine, print_table
from benchmarks.problems import generated

N_FACTORS = 16


def main() -> None:
    """Print one row per type of ratings and indices, with and without shuffling."""
    arguments_parser = parser(__doc__, rounds=0)
    arguments_parser.add_argument("--limit", type=float, default=16.0, help="bytes per rating")
    arguments_parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = arguments_parser.parse_args()
    if arguments.child is not None:
        _measure(**json.loads(arguments.child))
        return
    print_machine()
    problem = generated(20_000, 5_000, 300_000 if arguments.quick else 5_000_000)
    print(problem.describe(), end="\n\n")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for dtype, index_dtype in product(("float32", "float64"), ("int32", "int64")):
            train = _of_types(problem.train, dtype, index_dtype)
            replace(problem, train=train).save(Path(folder))
            for shuffle in (False, True):
                peaks = [_in_child(folder, shuffle, traced) for traced in (False, True)]
                rows.append((dtype, index_dtype, shuffle, *peaks))
    print_table(
        ["ratings", "indices", "shuffle", "resident, bytes a rating", "traced, bytes a rating"],
        ([*row[:3], *(f"{peak:.2f}" for peak in row[3:])] for row in rows),
    )
    worst = max(max(row[3:]) for row in rows)
    print(f"worst {worst:.2f}, limit {arguments.limit:g}")
    sys.exit(worst > arguments.limit)


def _of_types(ratings: csr_array, dtype: str, index_dtype: str) -> csr_array:
    """Return the ratings in the types asked for."""
    indices, indptr = (array.astype(index_dtype) for array in (ratings.indices, ratings.indptr))
    made = csr_array((ratings.data.astype(dtype), indices, indptr), shape=ratings.shape)
    if (made.dtype.name, made.indices.dtype.name) != (dtype, index_dtype):
        raise RuntimeError(f"SciPy has changed the types to {made.dtype}, {made.indices.dtype}")
    return made


def _in_child(folder: str, shuffle: bool, traced: bool) -> float:
    """Measure in a new process and return bytes per rating."""
    order = json.dumps({"folder": folder, "shuffle": shuffle, "traced": traced})
    command = [sys.executable, "-m", "benchmarks.bench_memory", "--child", order]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _measure(folder: str, shuffle: bool, traced: bool) -> None:
    """Train and print the peak over the input and the factors, in bytes per rating."""
    ratings = Problem.load(Path(folder)).train
    model = cmf.MatrixFactorization(
        N_FACTORS, learning_rate=0.005, n_epochs=2, shuffle=shuffle, random_state=0
    )
    model.fit(np.eye(5))
    del model._fitted
    if traced:
        tracemalloc.start()
        model.fit(ratings)
        peak = tracemalloc.get_traced_memory()[1]
    else:
        before = peak_memory()
        model.fit(ratings)
        peak = peak_memory() - before
    arrays = ("user_factors_", "item_factors_", "user_biases_", "item_biases_")
    factors = sum(getattr(model, name).nbytes for name in arrays)
    print((peak - factors) / ratings.nnz)


if __name__ == "__main__":
    main()
