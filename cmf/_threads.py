"""How many threads, and who runs the blocks.

Threads are made for one call and joined before it returns: none outlives it, so that a fork after
it is safe. They run kernels that have released the GIL; there is no OpenMP runtime.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["available_cpus", "run_rounds", "thread_count"]

VARIABLE = "CMF_NUM_THREADS"
CGROUP = Path("/sys/fs/cgroup")

Task = Callable[[], None]


def thread_count(n_threads: int | None) -> int:
    """Return how many threads to use: the argument, ``CMF_NUM_THREADS``, or the CPUs there are.

    Inside a worker process or thread of joblib it is one, unless the caller or the variable says
    otherwise: there the CPUs are shared out already.
    """
    if n_threads is not None:
        return n_threads
    wanted = os.environ.get(VARIABLE, "")
    if wanted:
        if not wanted.isdecimal() or int(wanted) < 1:
            raise ValueError(
                f"the environment variable {VARIABLE} must be a whole number of at least 1, got "
                f"{wanted!r}"
            )
        return int(wanted)
    return 1 if _inside_joblib() else available_cpus()


def available_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, and the quota of its container."""
    known = hasattr(os, "sched_getaffinity")
    cpus = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    quota = _cgroup_quota()
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def run_rounds(rounds: Sequence[Sequence[Task]], n_threads: int) -> None:
    """Run the tasks of each round, in any order and at once, one round after the other.

    Parameters
    ----------
    rounds : sequence of sequences of callables
        Tasks of one round must not touch each other's data.
    n_threads : int
        Threads to use. With one, everything runs in the calling thread, in order.

    Raises
    ------
    BaseException
        What the first task raised that raised; other tasks of its round may have run.
    KeyboardInterrupt
        After every thread has finished the task it was in.
    """
    n_workers = min(n_threads, max((len(tasks) for tasks in rounds), default=0))
    if n_workers <= 1:
        for tasks in rounds:
            for task in tasks:
                task()
        return
    _Team(rounds, n_workers).run()


class _Team:
    """Threads that go through the rounds together."""

    def __init__(self, rounds: Sequence[Sequence[Task]], n_workers: int) -> None:
        self.rounds = rounds
        self.n_workers = n_workers
        self.barrier = threading.Barrier(n_workers)
        self.errors: list[BaseException] = []

    def run(self) -> None:
        """Start the threads, wait for them, and raise what went wrong."""
        threads = [
            threading.Thread(target=self.work, args=(number,), daemon=True)
            for number in range(self.n_workers)
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    # Waiting without an end would keep Ctrl-C waiting too on some systems.
                    thread.join(timeout=0.1)
        except BaseException:
            self.barrier.abort()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            raise
        if self.errors:
            raise self.errors[0]

    def work(self, number: int) -> None:
        """Do every n-th task of each round; wait for the others between rounds."""
        try:
            for tasks in self.rounds:
                for task in tasks[number :: self.n_workers]:
                    if self.barrier.broken:
                        return
                    task()
                self.barrier.wait()
        except threading.BrokenBarrierError:
            return
        except BaseException as error:
            self.errors.append(error)
            self.barrier.abort()


def _inside_joblib() -> bool:
    """Tell whether joblib has shared out the CPUs among workers of which this is one."""
    parallel = sys.modules.get("joblib.parallel")
    if parallel is None:
        return False
    backend, _ = parallel.get_active_backend()
    return bool(getattr(backend, "nesting_level", 0))


def _cgroup_quota() -> float | None:
    """Return the CPUs that a container may use, if its files tell (version 2, then 1)."""
    for folder in (CGROUP, CGROUP / "cpu"):
        try:
            if folder == CGROUP:
                quota, period = (folder / "cpu.max").read_text("ascii").split()[:2]
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text("ascii")
                period = (folder / "cpu.cfs_period_us").read_text("ascii")
            if quota != "max" and int(quota) > 0 and int(period) > 0:
                return int(quota) / int(period)
        except (OSError, ValueError):
            continue
    return None
