"""Who does the work: several fits at once on threads, and how far they are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from typing import Any, Self, TypeVar

from cmf._parameters import check_int
from cmf._threads import available_cpus, thread_count

__all__ = ["Progress", "check_jobs", "run_all", "set_fit_threads"]

T = TypeVar("T")


def check_jobs(n_jobs: int | None) -> int:
    """Return how many things to do at once."""
    if n_jobs is None:
        return 1
    if n_jobs == -1:
        return available_cpus()
    return check_int(n_jobs, "n_jobs", minimum=1)


def set_fit_threads(estimator: Any, jobs: int) -> dict[str, None]:
    """Give an estimator its share of the CPUs, and return the parameters that undo that."""
    if jobs == 1 or estimator.get_params().get("n_threads", 0) is not None:
        return {}
    estimator.set_params(n_threads=max(1, thread_count(None) // jobs))
    return {"n_threads": None}


def run_all(tasks: Iterable[Callable[[], T]], jobs: int) -> Iterator[T]:
    """Run tasks, so many at once, and yield their results in order."""
    if jobs == 1:
        for task in tasks:
            yield task()
        return
    from concurrent.futures import ThreadPoolExecutor  # spares `import cmf` its milliseconds

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            for future in futures:
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class Progress:
    """Lines on standard output, a bar on standard error, or nothing; for several threads."""

    def __init__(self, verbose: int, unit: str, total: int | None = None) -> None:
        self.verbose = verbose
        self.unit = unit
        self.total = total
        self.bar: Any = None
        self.lock = Lock()

    def __enter__(self) -> Self:
        if self.verbose == 2:
            from tqdm.auto import tqdm

            self.bar = tqdm(total=self.total, unit=self.unit, file=sys.stderr)
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def advance(self, steps: int, text: str | None = None) -> None:
        """Move the bar on."""
        if self.bar is not None:
            with self.lock:
                if text is not None:
                    self.bar.set_postfix_str(text, refresh=False)
                self.bar.update(steps)

    def say(self, line: str) -> None:
        """Print a line."""
        if self.verbose == 1:
            with self.lock:
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
