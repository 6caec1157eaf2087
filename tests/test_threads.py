"""Many threads at once: what they see, and that they are not held up."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
import threading
import time
import timeit
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from blocks import run_grid, walk_of

import cmf
from cmf import _ranges, _threads, config, grid
from cmf._kernels.interleaved import highest_level
from cmf._kernels.walk import Walk

RULE = {"learning_rate": 0.005, "regularization": 0.15, "init_scale": 0.1}


def ratings_of(n_users=200, n_items=80, seed=0):
    return cmf.datasets.make_ratings(
        n_users, n_items, n_users * n_items // 4, random_state=seed, dtype="float32"
    ).ratings


def everything(model):
    """Return what one state of a model answers, as bytes."""
    ids, scores = model.recommend(range(20), n=5)
    return (
        model.predict(range(50), range(50)).tobytes()
        + ids.tobytes()
        + scores.tobytes()
        + model.similar_items(3, n=5)[1].tobytes()
    )


def run(program):
    """Run a program in a new interpreter that sees the installed package and the tests' modules."""
    here = str(Path(__file__).parent)
    return subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.append({here!r})\n{program}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_readers_see_the_old_state_or_the_new_one():
    ratings = ratings_of()
    model = cmf.MatrixFactorization(8, n_epochs=1, random_state=0, **RULE).fit(ratings)
    calls = (
        lambda: model.reconstruct().tobytes(),
        lambda: b"".join(array.tobytes() for array in model.recommend(n=5)),
        lambda: b"".join(array.tobytes() for array in model.similar_items(range(80), n=5)),
        lambda: np.array(model.loss(ratings)).tobytes(),
        lambda: b"".join(array.tobytes() for array in model.fold_in(ratings[:20])),
        lambda: np.array(model.history_["running_mse"]).tobytes(),
    )
    answers = [[call()] for call in calls]  # of every state there will have been
    seen = [set() for _ in calls]
    done = threading.Event()

    def read(k):
        while not done.is_set():
            seen[k].add(calls[k]())

    with ThreadPoolExecutor(len(calls)) as pool:
        readers = [pool.submit(read, k) for k in range(len(calls))]
        try:
            for _ in range(8):
                model.partial_fit(ratings, epochs=3)
                for k, call in enumerate(calls):
                    answers[k].append(call())
        finally:
            done.set()
        for reader in readers:
            reader.result()
    assert len(set(answers[0])) == 9
    for k in range(len(calls)):
        assert seen[k] <= set(answers[k])
    assert max(map(len, seen)) > 1  # some reader did see it change


def test_many_readers_agree_with_one():
    model = cmf.MatrixFactorization(8, n_epochs=2, random_state=0, **RULE).fit(ratings_of())
    expected = everything(model)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: everything(model), range(64))) == {expected}


@pytest.mark.parametrize("shuffle", [True, False])
def test_fits_in_threads_equal_fits_in_turn(shuffle):
    ratings = ratings_of()

    def fit(seed):
        model = cmf.MatrixFactorization(8, n_epochs=5, shuffle=shuffle, random_state=seed, **RULE)
        return everything(model.fit(ratings))

    in_turn = [fit(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fit, range(8))) == in_turn
    assert len(set(in_turn)) == 8


def test_epochs_on_disjoint_factors_may_run_at_once():
    ratings = ratings_of()
    rng = np.random.default_rng(0)
    starts = [(rng.normal(size=(200, 8)), rng.normal(size=(80, 8))) for _ in range(4)]

    def train(start):
        P, Q = start[0].copy(), start[1].copy()
        return [cmf.sgd_epoch(ratings, P, Q, 1e-3, 0.1) for _ in range(5)], P.tobytes(), Q.tobytes()

    in_turn = [train(start) for start in starts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(train, starts)) == in_turn


def largest_gap(work):
    """Run `work` beside a thread that ticks every 2 ms; return its longest pause and the time."""
    ticks, done = [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.002)

    heart = threading.Thread(target=tick)
    heart.start()
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    done.set()
    heart.join()
    return max(np.diff(ticks)), seconds


def assert_runs_beside_others(work, longest_call):
    """Assert that another thread does not wait for `longest_call` seconds of compiled code."""
    # A busy machine may well stop a thread for long, hence the best of three tries.
    gaps = []
    for _ in range(3):
        gap, seconds = largest_gap(work)
        assert seconds > longest_call / 2
        gaps.append(gap)
        if gap < longest_call / 2:
            return
    pytest.fail(f"another thread paused {gaps} s beside compiled calls of {longest_call} s")


def test_other_threads_run_on_during_training(monkeypatch):
    monkeypatch.setattr(_ranges, "FACTORS_PER_CALL", 2**60)  # a whole epoch is one call
    ratings = np.random.default_rng(0).integers(1, 6, (600, 500)).astype(np.float32)
    model = cmf.MatrixFactorization(
        1024, **{**RULE, "learning_rate": 1e-4, "init_scale": 0.01}, n_epochs=3, random_state=0
    ).fit(ratings)
    assert_runs_beside_others(lambda: model.fit(ratings), min(model.history_["seconds"]))


@pytest.mark.parametrize("method", ["reconstruct", "loss"])
def test_other_threads_run_on_during_long_answers(method):
    ratings = np.random.default_rng(0).integers(1, 6, (1500, 1200)).astype(np.float32)
    model = cmf.MatrixFactorization(
        256, n_epochs=1, random_state=0, **{**RULE, "init_scale": 0.01}
    ).fit(ratings)
    arguments = (ratings,) if method == "loss" else ()

    def answer():
        getattr(model, method)(*arguments)

    # One call into compiled code is nearly all there is to it.
    assert_runs_beside_others(answer, min(timeit.repeat(answer, number=1, repeat=3)))


def test_no_thread_is_left_after_training_and_serving():
    before = threading.active_count()
    model = cmf.MatrixFactorization(8, n_epochs=2, random_state=0, n_threads=4, **RULE).fit(
        ratings_of()
    )
    model.recommend()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "options", [{}, {"early_stopping": False}, {"loss_function": "huber"}, RULE]
)
def test_training_leaves_the_processors_to_others(options):
    # Idle threads of BLAS keep a processor busy for a tenth of a second, where training wants it.
    ratings = cmf.datasets.make_ratings(15_000, 12_000, 60_000, random_state=0).ratings
    model = cmf.MatrixFactorization(4, n_epochs=2, random_state=0, n_threads=1, **options)
    time.sleep(0.3)  # for those that tests before have woken
    model.fit(ratings)
    started = time.process_time()
    time.sleep(0.1)
    assert time.process_time() - started < 0.05


# --- who runs the blocks --------------------------------------------------------------------------


def digest(model):
    """Return a hash of all that training has made."""
    arrays = (model.user_factors_, model.item_factors_, model.user_biases_, model.item_biases_)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("level", config.LEVELS[: highest_level() + 1])
@pytest.mark.parametrize("options", [RULE, {}, {**RULE, "adaptive": True}])
def test_bits_are_the_same_for_every_number_of_threads(options, level, dtype, monkeypatch):
    monkeypatch.setenv("CMF_SIMD", level)
    monkeypatch.setattr(grid, "LEAST_WORK", 2**12)
    ratings = ratings_of(300, 200, seed=1)
    make = {"n_factors": 9, "dtype": dtype, "random_state": 0, "n_epochs": 5, **options}
    fits = [
        cmf.MatrixFactorization(**make, n_threads=n).fit(ratings) for n in (1, 2, 3, 5, 8, 3, 1)
    ]
    assert len({digest(model) for model in fits}) == 1
    assert len({tuple(model.history_["running_mse"]) for model in fits}) == 1


def run_alone(task, n_strips, n_threads, per_strip=1):
    """Run one grid with a team of its own, of which no thread may be left."""
    before = threading.active_count()
    try:
        run_grid(task, n_strips, n_threads, per_strip)
    finally:
        assert threading.active_count() == before


@pytest.mark.parametrize("n_threads", [1, 2, 3, 4, 30])
@pytest.mark.parametrize("per_strip", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 16])
def test_blocks_that_share_users_or_items_run_in_one_order(n, per_strip, n_threads):
    begun, ended, lock, clock = {}, {}, threading.Lock(), itertools.count()

    def note(times, block):
        with lock:
            assert block not in times
            times[block] = next(clock)

    def task(group, strip):
        note(begun, (group, strip))
        if (group * 5 + strip * 3) % 4 == 0:  # some blocks take longer than others
            time.sleep(0.0005)
        note(ended, (group, strip))

    run_alone(task, n, n_threads, per_strip)
    places = n * per_strip
    assert len(begun) == len(ended) == n * places
    by_group = [
        [(g, (g + t) % places // per_strip) for t in range(places) if (g + t) % per_strip == 0]
        for g in range(places)
    ]
    by_strip = [[((per_strip * s - t) % places, s) for t in range(places)] for s in range(n)]
    for blocks in by_group + by_strip:
        for before, after in itertools.pairwise(blocks):
            assert ended[before] < begun[after]


def test_one_worker_stays_with_a_strip_until_it_is_ahead_and_shares_all_at_the_end():
    strips = []
    run_alone(lambda group, strip: strips.append(strip), 3, 1, per_strip=2)
    assert strips == [0, 0, 1, 1, 2, 2, 2, 2, 0, 0, 1, 1, 1, 0, 2, 2, 0, 1]


def test_several_threads_are_in_use():
    meeting = threading.Barrier(3)  # passes only if three tasks run at once
    run_alone(lambda group, strip: meeting.wait(30), 3, 3)


def test_a_slow_block_does_not_hold_up_blocks_that_do_not_need_it():
    # Block (0, 0) ends when all others are done that wait neither for group 0 nor for strip 0: of
    # group 1 three rounds, of group 2 two, of group 3 one.
    others, last = {(1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3)}, threading.Event()

    def task(group, strip):
        if (group, strip) == (0, 0):
            assert last.wait(30)
        others.discard((group, strip))
        if not others:
            last.set()

    run_alone(task, 4, 2)


def test_a_walk_visits_every_block_and_knows_its_workers():
    walk = walk_of(2)
    assert walk.losses == walk.squares == 0.0
    assert [walk.next_call(0) for _ in range(5)] == [
        (0, 0, 0, 1),
        (1, 1, 1, 2),
        (0, 1, 0, 1),
        (1, 0, 1, 2),
        None,
    ]
    assert walk.next_call(0) is walk.next_call(1) is None
    for worker in (-1, 2):
        with pytest.raises(ValueError, match="there are 2 workers"):
            walk.next_call(worker)


def test_a_block_is_visited_call_by_call():
    calls = np.array([0, 5, 5, 7, 9])
    walk = Walk(2, calls, np.array([0, 3, 4]), 10.0)
    visits = [walk.next_call(0) for _ in range(9)]
    first, second = [(0, 5), (5, 5), (5, 7)], [(7, 9)]
    assert visits == [
        *((0, 0, *call) for call in first),
        *((1, 1, *call) for call in second),
        *((0, 1, *call) for call in first),
        *((1, 0, *call) for call in second),
        None,
    ]


@pytest.mark.parametrize(
    ("n_strips", "n_groups"), [(0, 0), (0, 1), (2, 1), (2, 3), (1, 0), (-1, 1)]
)
def test_a_walk_wants_as_many_groups_for_each_strip(n_strips, n_groups):
    edges = np.arange(n_groups + 1)
    with pytest.raises(ValueError, match="as many groups for each"):
        Walk(n_strips, edges, edges, 1.0)


def test_nothing_begins_after_a_stop():
    walk = walk_of(3)
    assert walk.next_call(0) is not None
    walk.stop()
    assert walk.next_call(0) is walk.next_call(1) is None


def test_a_team_runs_one_grid_after_the_other_with_the_same_threads():
    used, lock = [], threading.Lock()
    with _threads.Team(2) as team:
        for n in (4, 1, 2, 8):
            meeting = threading.Barrier(min(n, 2))

            def task(group, strip, meeting=meeting, n=n):
                if strip == group and group < 2:
                    meeting.wait(30)  # each of two threads has a block of the first round
                with lock:
                    used.append((n, threading.get_ident()))

            run_grid(task, n, 2, team=team)
    counts = {n: sum(size == n for size, _ in used) for n in (4, 1, 2, 8)}
    assert counts == {4: 16, 1: 1, 2: 4, 8: 64}
    workers = {ident for n, ident in used if n > 1}
    assert len(workers) == 2
    assert threading.get_ident() in workers
    assert {ident for n, ident in used if n == 1} == {threading.get_ident()}


def test_threads_may_be_made_before_there_is_work_for_them():
    meeting = threading.Barrier(3)
    with _threads.Team(3) as team:
        for most, n_threads in ((0, 0), (1, 0), (2, 1), (9, 2), (2, 2)):
            team.prepare(most)
            assert len(team.threads) == n_threads
        made = list(team.threads)
        team.run(lambda worker: meeting.wait(30), pytest.fail, 3)
        assert team.threads == made
    assert not any(thread.is_alive() for thread in made)


def test_another_thread_does_the_other_work_before_it_takes_part():
    came, done = [], threading.Event()

    def work(worker):
        if worker == 0:
            assert done.wait(30)
        came.append(worker)

    def meanwhile():
        assert threading.current_thread() is not threading.main_thread()
        came.append("meanwhile")
        done.set()

    for n_threads, most in ((1, 3), (2, 1)):  # where there is no other thread
        with _threads.Team(n_threads) as team:
            team.run(came.append, pytest.fail, most, meanwhile)
    assert came == [0, 0]
    with _threads.Team(2) as team:
        team.run(work, pytest.fail, 3, meanwhile)
    assert sorted(came[2:], key=str) == [0, 1, "meanwhile"]
    assert came.index("meanwhile") < came.index(1)


def test_a_thread_that_comes_too_late_is_left_out():
    came, begin = [], threading.Event()
    with _threads.Team(2) as team:
        team.run(lambda worker: begin.wait(30) if worker else None, pytest.fail, 2)
        late = _threads._Order(came.append, pytest.fail, 2, None)
        late.wait()
        late.take_part()
        begin.set()
    assert came == []


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_an_error_in_a_task_ends_the_grid_and_reaches_the_caller(n_threads):
    done = []

    def task(group, strip):
        if (group, strip) == (1, 1):
            raise LookupError("in a block")
        done.append((group, strip))

    with pytest.raises(LookupError, match="in a block"):
        run_alone(task, 4, n_threads)
    assert not {(1, 2), (0, 1)} & set(done)  # what comes after it in its group and its strip


@pytest.mark.parametrize("of_caller", [True, False])
def test_an_error_of_any_worker_stops_the_others_and_is_raised_when_they_have(of_caller):
    walk, left = walk_of(8), []

    def work(worker):
        if (worker == 0) == of_caller:
            raise LookupError("of one")
        while walk.next_call(worker) is not None:
            time.sleep(0.01)
        left.append(worker)

    with _threads.Team(2) as team:
        for _ in range(3):  # a team goes on after an error
            walk = walk_of(8)
            with pytest.raises(LookupError, match="of one"):
                team.run(work, walk.stop, 8)
    assert set(left) <= {int(of_caller)}
    assert len(left) >= (0 if of_caller else 3)


def test_an_error_of_the_other_work_ends_the_grid():
    walk, finished = walk_of(8), []

    def work(worker):
        while (call := walk.next_call(worker)) is not None:
            time.sleep(0.02)
            finished.append(call)

    def meanwhile():
        raise LookupError("of its own")

    with _threads.Team(2) as team:
        with pytest.raises(LookupError, match="of its own"):
            team.run(work, walk.stop, 8, meanwhile)
        ended = len(finished)
        assert ended < 64
        time.sleep(0.1)
        assert len(finished) == ended


def test_an_interrupt_waits_for_the_tasks_and_leaves_no_thread():
    begun, finished = threading.Semaphore(0), []

    def task(group, strip):
        begun.release()
        if threading.current_thread() is threading.main_thread():
            for _ in range(2):  # both threads are at work
                assert begun.acquire(timeout=10)
            raise KeyboardInterrupt
        time.sleep(0.3)
        finished.append((group, strip))

    before = threading.active_count()
    with _threads.Team(2) as team:
        with pytest.raises(KeyboardInterrupt):
            run_grid(task, 4, 2, team=team)
        assert len(finished) == 1  # and no second, before nor after
    assert len(finished) == 1
    assert threading.active_count() == before


def test_an_interrupt_while_waiting_for_others_stops_them_too():
    walk, at_work = walk_of(40), threading.Event()

    class Interrupted:
        def get(self, **options):
            order.left = _threads.SimpleQueue()
            raise KeyboardInterrupt

    def work(worker):
        nonlocal order
        if worker == 0:
            assert at_work.wait(30)
            return
        at_work.set()
        while walk.next_call(worker) is not None:
            time.sleep(0.005)

    def note(*arguments):
        nonlocal order
        order = make(*arguments)
        order.left = Interrupted()
        return order

    order, make = None, _threads._Order
    with pytest.MonkeyPatch.context() as patched, _threads.Team(2) as team:
        patched.setattr(_threads, "_Order", note)
        with pytest.raises(KeyboardInterrupt):
            team.run(work, walk.stop, 40)
        assert order.n_at_work == 0
    assert walk.next_call(0) is None


INTERRUPT = """
import os, signal, sys, threading, time
from blocks import run_grid

def task(group, strip):
    if (group, strip) == (0, 0):
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)

started = time.perf_counter()
try:
    run_grid(task, 40, 2)  # forty seconds of work
except KeyboardInterrupt:
    assert time.perf_counter() - started < 5
    assert threading.active_count() == 1
    sys.exit(7)
"""


# The main thread sleeps in compiled code: all that is left waits for the block of the other one.
INTERRUPT_ASLEEP = """
import os, signal, sys, threading
from blocks import walk_of
from cmf._threads import Team

walk, stopped = walk_of(2), threading.Event()

def stop():
    stopped.set()
    walk.stop()

def work(worker):
    if worker == 1:
        assert stopped.wait(30)
    while walk.next_call(worker) is not None:
        pass

threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
assert walk.next_call(1) == (0, 0, 0, 1)
try:
    with Team(2) as team:
        team.run(work, stop, 2)
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("program", [INTERRUPT, INTERRUPT_ASLEEP])
def test_a_real_interrupt_ends_the_grid(program):
    done = run(program)
    assert done.returncode == 7, done.stderr


def test_number_of_threads_is_the_argument_the_variable_or_the_cpus(monkeypatch):
    monkeypatch.delenv("CMF_NUM_THREADS", raising=False)
    assert _threads.thread_count(7) == 7
    assert _threads.thread_count(None) == _threads.available_cpus() >= 1
    monkeypatch.setenv("CMF_NUM_THREADS", "3")
    assert _threads.thread_count(None) == 3
    assert _threads.thread_count(7) == 7
    for wrong in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv("CMF_NUM_THREADS", wrong)
        with pytest.raises(ValueError, match=f"CMF_NUM_THREADS must be .*, got '{wrong}'"):
            _threads.thread_count(None)


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ({"cpu.max": "nonsense"}, 64),
        ({}, 64),
    ],
)
def test_the_quota_of_a_container_counts(files, cpus, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(_threads, "CGROUP", tmp_path)
    monkeypatch.setattr(_threads.os, "sched_getaffinity", lambda _: range(64), raising=False)
    assert _threads.available_cpus() == cpus


def test_one_thread_inside_workers_of_joblib(monkeypatch):
    joblib = pytest.importorskip("joblib")
    monkeypatch.delenv("CMF_NUM_THREADS", raising=False)
    monkeypatch.setattr(_threads, "available_cpus", lambda: 4)
    assert _threads.thread_count(None) == 4
    inside = joblib.Parallel(n_jobs=2, prefer="threads")(
        joblib.delayed(_threads.thread_count)(None) for _ in range(2)
    )
    assert inside == [1, 1]


FORK = """
import os, sys
import cmf
ratings = cmf.datasets.make_ratings(400, 300, 40_000, random_state=0).ratings
make = dict(n_factors=512, n_epochs=2, random_state=0, n_threads=2, learning_rate=0.005)
first = cmf.MatrixFactorization(**make).fit(ratings)
child = os.fork()
if child == 0:
    second = cmf.MatrixFactorization(**make).fit(ratings)
    os._exit(0 if (second.user_factors_ == first.user_factors_).all() else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


FORK_IN_BETWEEN = """
import os, sys, warnings
from blocks import run_grid
from cmf._threads import Team
warnings.simplefilter("ignore")  # of threads and forks: here they are safe
counted = []
with Team(2) as team:
    run_grid(lambda group, strip: counted.append(1), 4, 2, team=team)
    child = os.fork()
    run_grid(lambda group, strip: counted.append(1), 4, 2, team=team)
assert len(counted) == 32
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("program", [FORK, FORK_IN_BETWEEN])
def test_fork_after_a_threaded_fit_and_in_the_middle_of_one(program):
    done = run(program)
    assert done.returncode == 0, done.stderr
