"""Threaded training for ThreadSanitizer to watch, at every level and in both types.

`make test-tsan` runs it on kernels that are compiled for the sanitizer, whose exit status is 66 if
it has seen a data race. With --racy the blocks run in no order: then it must see one.
"""

from __future__ import annotations

import argparse
import hashlib
import os

import numpy as np

import cmf
from cmf import _ranges, config, epochs, grid, initialization
from cmf._kernels.interleaved import highest_level
from cmf._kernels.walk import Walk

OPTIONS = ({}, {"loss_function": "huber"}, {"implicit": True})


def main() -> None:
    """Train, and compare the results of different numbers of threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--racy", action="store_true")
    racy = parser.parse_args().racy
    if racy:
        epochs._Interleaved.visit = visit_everything
    # A grid and several tasks for little work: code that is watched is slow.
    grid.LEAST_WORK = 2**12
    grid.CUT_AT_ONCE = _ranges.RATINGS_PER_TASK = 2**12
    initialization.DRAWN_AT_ONCE = 2**11
    ratings = cmf.datasets.make_ratings(600, 300, 40_000, random_state=0, dtype="float32").ratings
    validation = cmf.datasets.make_ratings(600, 300, 2_000, random_state=1, dtype="float32").ratings
    for level in config.LEVELS[: highest_level() + 1]:
        os.environ["CMF_SIMD"] = level
        for dtype in ("float32", "float64"):
            for options in OPTIONS:
                results = {fit(n, dtype, ratings, validation, options) for n in (1, 2, 4)}
                assert racy or len(results) == 1, (level, dtype, options)


def fit(n_threads, dtype, ratings, validation, options):
    """Train with so many threads and return a hash of all that has come of it."""
    model = cmf.MatrixFactorization(
        20, n_epochs=3, dtype=dtype, random_state=0, n_threads=n_threads, **options
    )
    model.fit(ratings, validation=validation)
    arrays = (model.user_factors_, model.item_factors_, model.user_biases_, model.item_biases_)
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


def visit_everything(kernel, blocks, worker, rows, visit=epochs._Interleaved.visit):
    """Let a worker visit all blocks, whatever others do."""
    n = kernel.grid.n_strips
    edges = np.linspace(0, len(rows), n + 1).astype(int)
    return visit(kernel, Walk(n, edges, np.arange(n + 1), 10.0), 0, rows)


if __name__ == "__main__":
    main()
