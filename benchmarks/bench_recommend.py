"""Serving speed: ten recommendations for one user and for many, and folding in new users.

The peer is what one writes in NumPy without a library: one product of user and item factors, seen
items masked, `argpartition` and a sort of the ten. Both run on one thread and answer the same
question; that their ten scores are equal up to rounding is checked. Folding in has no peer here.

Latency is the median and the 99th percentile over single calls, each for another user, in turns
with the peer; a call for 500 users is repeated `rounds` times.

Meaningless where linear algebra runs on several threads on one side (the package sets it to one),
and for a catalogue that is not yours: time grows with items times factors, and with a handful of
items the fixed costs of a call are all there is.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

import cmf
from benchmarks._report import interleave, parser, print_machine, print_table, ratio
from benchmarks.problems import SEED, generated

N_BEST = 10
N_FACTORS = 64
N_USERS = 500  # users that are asked about

Rows = NDArray[np.int64]
Contestants = dict[str, Callable[[Rows], Any]]


def main() -> None:
    """Print latencies and throughputs for a small and a large catalogue."""
    arguments = parser(__doc__).parse_args()
    print_machine()
    sizes = [(500, 1_000)] if arguments.quick else [(6_000, 4_000), (20_000, 60_000)]
    for n_users, n_items in sizes:
        ratings = generated(n_users, n_items, 100 * n_users).train
        model = cmf.MatrixFactorization(
            N_FACTORS, learning_rate=0.005, n_epochs=5, random_state=SEED
        ).fit(ratings)
        print(f"{n_items:,} items, {N_FACTORS} factors, {ratings.nnz // n_users} ratings a user")
        _check_answers(model, ratings)
        recommend: Contestants = {
            "cmf": partial(model.recommend, n=N_BEST),
            "NumPy": partial(_numpy_recommend, model, ratings),
        }
        fold_in: Contestants = {"cmf": lambda users: model.fold_in(ratings[users])}  # noqa: B023
        rows = [
            row
            for task, contestants in (("recommend", recommend), ("fold_in", fold_in))
            for n_at_once, rounds in ((1, 60 * arguments.rounds), (N_USERS, arguments.rounds))
            for row in _rows(task, contestants, n_at_once, rounds)
        ]
        print_table(["", "", "ms a call", "99th percentile", "users/s", "times NumPy"], rows)


def _check_answers(model: cmf.MatrixFactorization, ratings: csr_array) -> None:
    """Stop if the two ways to recommend do not agree."""
    users = np.arange(N_USERS)
    scores = model.recommend(users, n=N_BEST)[1]
    np.testing.assert_allclose(scores, _numpy_recommend(model, ratings, users)[1], rtol=1e-4)


def _rows(
    task: str, contestants: Contestants, n_at_once: int, rounds: int
) -> Iterator[tuple[str, ...]]:
    """Time the contestants in turns, each call for the next users; yield a row for each."""
    times = interleave({name: _calls(ask, n_at_once) for name, ask in contestants.items()}, rounds)
    for name, seconds in times.items():
        yield (
            f"{task}, {n_at_once} at once",
            name,
            f"{1e3 * statistics.median(seconds):.3f}",
            f"{1e3 * np.percentile(seconds, 99):.3f}",
            f"{n_at_once / statistics.median(seconds):,.0f}",
            f"{ratio(times, 'NumPy', name):.2f}" if "NumPy" in times else "",
        )


def _calls(ask: Callable[[Rows], Any], n_at_once: int) -> Callable[[], float]:
    """Return a function that times one call for the next users, over and over again."""
    starts = itertools.count(step=n_at_once)

    def call() -> float:
        users = (next(starts) + np.arange(n_at_once)) % N_USERS
        started = time.perf_counter()
        ask(users)
        return time.perf_counter() - started

    return call


def _numpy_recommend(
    model: cmf.MatrixFactorization, ratings: csr_array, users: Rows
) -> tuple[Rows, NDArray[np.floating[Any]]]:
    """Return the best unseen items and their scores."""
    scores = model.user_factors_[users] @ model.item_factors_.T
    scores += model.item_biases_
    scores += (model.user_biases_[users] + model.global_mean_)[:, None]
    for row, user in enumerate(users):
        scores[row, ratings.indices[ratings.indptr[user] : ratings.indptr[user + 1]]] = -np.inf
    best = np.argpartition(scores, -N_BEST, axis=1)[:, -N_BEST:]
    of_best = np.take_along_axis(scores, best, axis=1)
    order = np.argsort(-of_best, axis=1)
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(of_best, order, axis=1)


if __name__ == "__main__":
    main()
