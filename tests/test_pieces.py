"""Pieces of work: each is done once, by several threads if there are, and errors come out."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from cmf._pieces import run_pieces


@pytest.mark.parametrize("n_threads", [None, 1, 2, 3, 8])
@pytest.mark.parametrize("n_tasks", [0, 1, 2, 7, 100])
def test_every_task_is_run_once(n_tasks, n_threads):
    done = []
    before = threading.active_count()
    run_pieces([partial(done.append, number) for number in range(n_tasks)], n_threads)
    assert sorted(done) == list(range(n_tasks))
    assert threading.active_count() == before


def test_one_thread_runs_them_in_order_itself():
    done = []
    tasks = [lambda n=n: done.append((n, threading.current_thread())) for n in range(5)]
    run_pieces(tasks, 1)
    assert done == [(n, threading.current_thread()) for n in range(5)]


def test_several_threads_run_at_once():
    # Each task waits for the two others.
    barrier = threading.Barrier(3, timeout=30)
    run_pieces([barrier.wait] * 3, 3)
    assert not barrier.broken


def test_a_single_task_does_not_look_for_threads(monkeypatch):
    monkeypatch.setenv("CMF_NUM_THREADS", "a few")
    done = []
    run_pieces([partial(done.append, 1)], None)
    assert done == [1]
    with pytest.raises(ValueError, match="CMF_NUM_THREADS must be a whole number"):
        run_pieces([partial(done.append, 1)] * 2, None)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("error", [ValueError, IndexError, KeyboardInterrupt])
def test_an_error_comes_out_and_ends_the_work(error, n_threads):
    done = []

    def fail():
        raise error("in a task")

    # Whoever begins is given a task that fails, and then no other.
    before = threading.active_count()
    with pytest.raises(error, match="in a task"):
        run_pieces([fail] * n_threads + [partial(done.append, 1)] * 100, n_threads)
    assert done == []
    assert threading.active_count() == before
