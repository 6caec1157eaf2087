"""How many threads, and who runs the blocks.

Threads are made for one call and joined before it returns: none outlives it, so that a fork after
it is safe. They run kernels that have released the GIL; there is no OpenMP runtime.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

__all__ = ["Team", "available_cpus", "thread_count"]

VARIABLE = "CMF_NUM_THREADS"
CGROUP = Path("/sys/fs/cgroup")

# Microseconds.
SHORT_SLEEP = 50
LONGEST_START = 5000

Task = Callable[[int, int], None]


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
    """Threads that go through grids of blocks together, one grid after the other.

    They are made when the first grid needs them and joined at the end of the ``with`` statement.

    Parameters
    ----------
    n_threads : int or None
        Threads to use, as `thread_count` reads it when the first grid of several groups wants to
        know: a look at the CPUs takes as long as a small epoch. With one, everything runs in the
        calling thread.
    """

    def __init__(self, n_threads: int | None) -> None:
        self.n_threads = n_threads
        self.pid = 0
        self.threads: list[threading.Thread] = []
        self.orders: SimpleQueue[_Schedule | None] = SimpleQueue()
        self.done: SimpleQueue[None] = SimpleQueue()

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *error: object) -> None:
        for _ in self.threads:
            self.orders.put(None)
        for thread in self.threads:
            if thread.ident is not None:
                thread.join()

    def run_grid(self, task: Task, n: int, meanwhile: Callable[[], None] | None = None) -> None:
        """Run ``task(group, strip)`` for all groups and strips from 0 to ``n - 1``.

        The blocks of one group run one after the other, beginning with the strip of the group's
        own number and going up, behind the last to the first; so do those of one strip, by falling
        groups. All else may run at once: tasks of different groups and different strips must not
        touch each other's data. What the tasks compute does not depend on the number of threads.

        Parameters
        ----------
        task : callable
            Called with the numbers of group and strip. The first exception that any of them raises
            is raised here, and so is Ctrl-C, once every thread has finished the task it was in.
        n : int
            Number of groups and of strips.
        meanwhile : callable, optional
            What the calling thread does while others run the tasks; not called where it runs them
            itself.
        """
        if n > 1:
            self.n_threads = thread_count(self.n_threads)
        n_workers = min(self.n_threads or 1, n)
        if n_workers <= 1:
            for done in range(n):
                for group in range(n):
                    task(group, (group + done) % n)
            return
        schedule = _Schedule(task, n)
        self._start(n_workers)
        try:
            for _ in range(n_workers):
                self.orders.put(schedule)
            if meanwhile is not None:
                schedule.let_begin(n_workers)
                meanwhile()
            self._wait_for(schedule)
        except BaseException:
            schedule.stopped = True
            self._wait_for(schedule)
            raise
        if schedule.errors:
            raise schedule.errors[0]

    def _wait_for(self, schedule: _Schedule) -> None:
        """Wait until no thread is at work on a schedule, and none will be."""
        while not schedule.is_over():
            # Waiting without an end would keep Ctrl-C waiting too on some systems.
            with suppress(Empty):
                self.done.get(timeout=0.1)

    def _start(self, n_workers: int) -> None:
        """Make threads that are still missing; all, in a process that was forked meanwhile."""
        if self.pid != os.getpid():
            self.pid = os.getpid()
            self.threads, self.orders, self.done = [], SimpleQueue(), SimpleQueue()
        while len(self.threads) < n_workers:
            thread = threading.Thread(target=_work, args=(self.orders, self.done), daemon=True)
            self.threads.append(thread)
            thread.start()


def _work(orders: SimpleQueue[_Schedule | None], done: SimpleQueue[None]) -> None:
    """Take part in every schedule that is ordered, until None is."""
    while (schedule := orders.get()) is not None:
        schedule.work()
        done.put(None)


class _Schedule:
    """Which block of a grid is next, and what went wrong.

    In round t group g is to meet strip (g + t) mod n. It may as soon as it has finished the round
    before, and so has group g + 1, which had that strip then.
    """

    def __init__(self, task: Task, n: int) -> None:
        self.task = task
        self.n = n
        self.rounds_taken = [0] * n
        self.rounds_done = [0] * n
        self.changed = threading.Condition(threading.Lock())
        self.stopped = False
        self.errors: list[BaseException] = []
        # Threads by their numbers; to append to a list takes no lock.
        self.came: list[int] = []
        self.left: list[int] = []

    def is_over(self) -> bool:
        """Tell whether every thread that came has left, and those that still come leave at once."""
        at_an_end = self.stopped or min(self.rounds_done) == self.n
        return at_an_end and len(self.left) == len(self.came)

    def let_begin(self, n_workers: int) -> None:
        """Sleep until all threads have come, a few milliseconds at most.

        They cannot begin while another thread is at work in the interpreter.
        """
        for _ in range(LONGEST_START // SHORT_SLEEP):
            if len(self.came) >= n_workers:
                return
            time.sleep(SHORT_SLEEP * 1e-6)

    def work(self) -> None:
        """Do one block after the other until none is left."""
        self.came.append(threading.get_ident())
        try:
            group = self._next(None)
            while group is not None:
                self.task(group, (group + self.rounds_done[group]) % self.n)
                group = self._next(group)
        except BaseException as error:
            self.errors.append(error)
            self.stopped = True
            with self.changed:
                self.changed.notify_all()
        finally:
            self.left.append(threading.get_ident())

    def _next(self, finished: int | None) -> int | None:
        """Note that a group has finished a round, and take the next block there is; wait for it."""
        with self.changed:
            if finished is not None:
                self.rounds_done[finished] += 1
                self.changed.notify_all()
            while not self.stopped:
                group = self._ready()
                if group is not None:
                    self.rounds_taken[group] += 1
                    return group
                if min(self.rounds_taken) == self.n:
                    break
                self.changed.wait()
            return None

    def _ready(self) -> int | None:
        """Return the group, among those that may go on, that is furthest behind."""
        found, least = None, self.n
        for group, rounds in enumerate(self.rounds_taken):
            if (
                rounds < least
                and self.rounds_done[group] == rounds
                and self.rounds_done[group + 1 - self.n] >= rounds
            ):
                found, least = group, rounds
        return found


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
