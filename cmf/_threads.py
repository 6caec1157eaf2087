"""How many threads, and what they do together.

Threads are made for one call and joined before it returns: none outlives it, so that a fork after
it is safe. They run kernels that have released the GIL; there is no OpenMP runtime.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

__all__ = ["Team", "available_cpus", "thread_count"]

VARIABLE = "CMF_NUM_THREADS"
CGROUP = Path("/sys/fs/cgroup")


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


class Team:
    """Threads that do one piece of work after the other, together with the calling thread.

    They are made when the first piece needs them, or before, and joined at the end of the ``with``
    statement.

    Parameters
    ----------
    n_threads : int or None
        Threads to use, as `thread_count` reads it when the first piece for several threads wants to
        know: a look at the CPUs takes as long as a small epoch. With one, everything runs in the
        calling thread.
    """

    def __init__(self, n_threads: int | None) -> None:
        self.n_threads = n_threads
        self.pid = 0
        self.threads: list[threading.Thread] = []
        self.orders: SimpleQueue[_Order | None] = SimpleQueue()

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *error: object) -> None:
        for _ in self.threads:
            self.orders.put(None)
        for thread in self.threads:
            if thread.ident is not None:
                thread.join()

    def run(
        self,
        work: Callable[[int], None],
        stop: Callable[[], None],
        most: int,
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        """Call ``work(0)``, and in other threads ``work(1)`` and so on, at once.

        Parameters
        ----------
        work : callable
            Takes the number of the worker. A thread that is late is left out: each call must go on
            until all is done, whoever does it.
        stop : callable
            Makes all calls of `work` return soon. It is called when any of them has raised an
            exception, which is raised here, Ctrl-C included, when none runs any more.
        most : int
            More workers than this are of no use.
        meanwhile : callable, optional
            What another thread than the caller's does before it takes part in the work, if there
            is one.
        """
        n_workers = self._n_workers(most)
        if n_workers <= 1:
            work(0)
            return
        order = _Order(work, stop, n_workers, meanwhile)
        self._start(n_workers - 1)
        try:
            for _ in range(n_workers - 1):
                self.orders.put(order)
            work(0)
            order.wait()
        except BaseException:
            stop()
            order.wait()
            raise
        if order.errors:
            raise order.errors[0]

    def prepare(self, most: int) -> None:
        """Make the threads for work to come, of which more workers than `most` are of no use.

        Those made just before it are at times put on the CPU of the calling thread, and wait for a
        millisecond until they are moved.
        """
        self._start(self._n_workers(most) - 1)

    def _n_workers(self, most: int) -> int:
        if most > 1:
            self.n_threads = thread_count(self.n_threads)
        return min(self.n_threads or 1, most)

    def _start(self, n_threads: int) -> None:
        """Make threads that are still missing; all, in a process that was forked meanwhile."""
        if self.pid != os.getpid():
            self.pid = os.getpid()
            self.threads, self.orders = [], SimpleQueue()
        while len(self.threads) < n_threads:
            thread = threading.Thread(target=_take_part, args=(self.orders,), daemon=True)
            self.threads.append(thread)
            thread.start()


class _Order:
    """A piece of work, and who is at it besides the caller."""

    def __init__(
        self,
        work: Callable[[int], None],
        stop: Callable[[], None],
        n_workers: int,
        meanwhile: Callable[[], None] | None,
    ) -> None:
        self.work = work
        self.stop = stop
        self.meanwhile = meanwhile
        self.errors: list[BaseException] = []
        self.lock = threading.Lock()
        self.numbers = list(range(n_workers - 1, 0, -1))
        self.closed = False
        self.n_at_work = 0
        self.left: SimpleQueue[None] = SimpleQueue()

    def take_part(self) -> None:
        """Do what another worker has to do, unless the work is over."""
        with self.lock:
            if self.closed:
                return
            self.n_at_work += 1
            number = self.numbers.pop()
        try:
            if number == 1 and self.meanwhile is not None:
                self.meanwhile()
            self.work(number)
        except BaseException as error:
            self.errors.append(error)
            self.stop()
        finally:
            with self.lock:
                self.n_at_work -= 1
            self.left.put(None)

    def wait(self) -> None:
        """Let nobody begin any more, and wait for those who have."""
        with self.lock:
            self.closed = True
        while self.n_at_work:
            # Waiting without an end would keep Ctrl-C waiting too on some systems.
            with suppress(Empty):
                self.left.get(timeout=0.1)


def _take_part(orders: SimpleQueue[_Order | None]) -> None:
    """Take part in everything that is ordered, until None is."""
    while (order := orders.get()) is not None:
        order.take_part()


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
