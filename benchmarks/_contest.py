"""Contestants in workers of their own, timed in turns, and their table."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks._problem import Problem
from benchmarks._report import (
    Times,
    add_only_option,
    interleave,
    is_chosen,
    print_table,
    ratio,
    spread,
)
from benchmarks._worker import Worker

Settings = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Contestant:
    """What is compared: a package, what to train with, and where it runs.

    `environment` holds environment variables of the worker, `tree` another build of cmf. Of
    `copies`, each in a worker of its own, all run at once, and the last to end counts.
    """

    name: str
    package: str = "cmf"
    settings: Settings = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    tree: Path | None = None
    copies: int = 1

    @property
    def seat(self) -> tuple[Any, ...]:
        """Return what contestants have in common that can share a worker."""
        return (self.package, tuple(sorted(self.environment.items())), self.tree)


@dataclass(frozen=True)
class Results:
    """Seconds of every round and the RMSE after the first timed fit, by name of contestant."""

    times: Times
    rmse: dict[str, float]


class Arena:
    """One problem and a live worker for every library, build and environment in use."""

    def __init__(self, problem: Problem) -> None:
        """Write the problem where workers find it."""
        self.problem = problem
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        problem.save(self._folder)
        self._workers: dict[tuple[Any, ...], Worker] = {}

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def fit(self, contestant: Contestant, n_epochs: int, repeat: int = 1) -> dict[str, Any]:
        """Fit `repeat` times; return the mean ``seconds`` and ``memory``, a rise in bytes."""
        request = {"n_epochs": n_epochs, "settings": dict(contestant.settings), "repeat": repeat}
        workers = [self._worker(contestant, copy) for copy in range(contestant.copies)]
        with ThreadPoolExecutor(len(workers)) as pool:
            answers = pool.map(lambda worker: worker.ask(**request), workers)
            return max(answers, key=itemgetter("seconds"))

    def rmse(self, contestant: Contestant) -> float:
        """Return the test RMSE of the last fit in the contestant's worker."""
        return float(self._worker(contestant).ask()["rmse"])

    def time_fits(
        self, contestants: Sequence[Contestant], n_epochs: int, rounds: int, repeat: int = 1
    ) -> Results:
        """Time whole fits in turns; with `repeat`, the mean of as many counts as one."""

        def seconds(one: Contestant) -> float:
            return float(self.fit(one, n_epochs, repeat)["seconds"])

        return self._time(contestants, rounds, seconds)

    def time_epochs(
        self, contestants: Sequence[Contestant], few: int, many: int, rounds: int
    ) -> Results:
        """Time an epoch in turns: what is left of a long fit after a short one is subtracted."""

        def seconds(one: Contestant) -> float:
            short, long = (self.fit(one, n_epochs)["seconds"] for n_epochs in (few, many))
            return float(long - short) / (many - few)

        return self._time(contestants, rounds, seconds)

    def _time(
        self,
        contestants: Sequence[Contestant],
        rounds: int,
        seconds: Callable[[Contestant], float],
    ) -> Results:
        """Time in turns, and judge the last fit of everyone's first turn."""
        rmse: dict[str, float] = {}

        def turn(one: Contestant) -> float:
            taken = seconds(one)
            if one.name not in rmse:
                rmse[one.name] = self.rmse(one)
            return taken

        return Results(
            interleave({one.name: partial(turn, one) for one in contestants}, rounds), rmse
        )

    def _worker(self, contestant: Contestant, copy: int = 0) -> Worker:
        """Return a worker of a contestant, at first use a new one that has read its ratings."""
        worker = self._workers.get((contestant.seat, copy))
        if worker is None:
            worker = self._stack.enter_context(
                Worker(contestant.package, self._folder, contestant.environment, contestant.tree)
            )
            worker.ask(n_epochs=0)
            self._workers[contestant.seat, copy] = worker
        return worker


def print_results(results: Results, n_ratings: int, references: Sequence[str]) -> None:
    """Print a row per contestant: time, ratings a second, ratios and quality.

    Of the names in `references`, those that take part get a column with how many times as long
    they take as the row does. `n_ratings` are visited in one of the times.
    """
    times = results.times
    against = [name for name in references if name in times]
    print_table(
        ["", "ms", "spread", "million ratings/s", *(f"times {name}" for name in against), "RMSE"],
        (
            (
                name,
                f"{1e3 * statistics.median(seconds):.4g}",
                spread(seconds),
                f"{n_ratings / statistics.median(seconds) / 1e6:.1f}",
                *(f"{ratio(times, slow, name):.2f}" for slow in against),
                f"{results.rmse[name]:.4f}",
            )
            for name, seconds in times.items()
        ),
    )


def add_contest_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of benchmarks with peers."""
    parser.add_argument(
        "--libmf", metavar="PATH", help="a shared library of LIBMF to run besides the one of pip"
    )
    add_only_option(parser, "contestants")


_told: set[str] = set()


def present(contestants: Iterable[Contestant], only: str = "") -> list[Contestant]:
    """Return the chosen ones whose library is there; print, once, how to get the others."""
    kept = []
    for contestant in contestants:
        module = peers.module(contestant.package)
        if not is_chosen(contestant.name, only):
            continue
        if contestant.environment.get("LIBMF_OBJ") or module.present():
            kept.append(contestant)
        elif contestant.package not in _told:
            print(f"{contestant.package} is not there ({module.INSTALL}): we go on without.\n")
            _told.add(contestant.package)
    return kept


def libmf_builds(path: str | None) -> dict[str, dict[str, str]]:
    """Return the builds of LIBMF that take part, each with its worker's environment.

    `path` is a shared library besides the one of pip; ``LIBMF_OBJ`` says the same.
    """
    path = path or os.environ.get("LIBMF_OBJ")
    builds = {"LIBMF of pip": {"LIBMF_OBJ": ""}}
    if path:
        if not Path(path).is_file():
            raise SystemExit(f"no LIBMF at {path}")
        builds = {f"LIBMF {Path(path).stem}": {"LIBMF_OBJ": str(Path(path).resolve())}, **builds}
    return builds
