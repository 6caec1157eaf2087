"""Work cut into pieces that do not touch each other's data, on threads where that helps."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from cmf._threads import thread_count

__all__ = ["run_pieces"]

Task = Callable[[], None]


def run_pieces(tasks: Sequence[Task], n_threads: int | None) -> None:
    """Run all tasks, each of them a few milliseconds, in any order and at once.

    The calling thread works along; the others are made for the call and joined at its end.

    Parameters
    ----------
    tasks : sequence of callables
        What they compute must not depend on their order. A single one is just called.
    n_threads : int or None
        Most threads to use, as `thread_count` reads it. With one, tasks run in order.

    Raises
    ------
    BaseException
        What the first task raised that raised, Ctrl-C included, when no other runs any more; tasks
        that had not been started then are left out.
    """
    if len(tasks) == 1:
        tasks[0]()
        return
    n_workers = min(thread_count(n_threads), len(tasks)) if tasks else 1
    waiting = deque(tasks)
    errors: list[BaseException] = []
    threads = [
        threading.Thread(target=_work, args=(waiting, errors), daemon=True)
        for _ in range(n_workers - 1)
    ]
    try:
        for thread in threads:
            thread.start()
        _work(waiting, errors)
    finally:
        waiting.clear()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    if errors:
        raise errors[0]


def _work(waiting: deque[Task], errors: list[BaseException]) -> None:
    """Run one task after the other until none is left."""
    try:
        while True:
            try:
                task = waiting.popleft()
            except IndexError:
                return
            task()
    except BaseException as error:
        errors.append(error)
        waiting.clear()
