"""Blocks of the grid: each rating in exactly one, none of a round share a row or a column."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from scipy import sparse

import cmf
from cmf import _ranges, epochs
from cmf import grid as grid_module
from cmf._checks import check_ratings
from cmf._kernels.interleaved import highest_level
from cmf.config import LEVELS
from cmf.grid import make_grid

RULE = {"learning_rate": 0.005, "regularization": 0.15, "init_scale": 0.1}


def ratings_of(n_users=60, n_items=40, density=0.3, seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)
    table = np.where(
        rng.random((n_users, n_items)) < density, rng.normal(size=(n_users, n_items)), 0
    )
    return check_ratings(sparse.csr_array(table), dtype=dtype)


@pytest.fixture
def little_work(monkeypatch):
    """Have small problems cut as large ones are."""
    monkeypatch.setattr(grid_module, "LEAST_WORK", 1)
    monkeypatch.setattr(grid_module, "LEAST_VISIT", 1)


def blocks_of(grid, row_order):
    """Rows and entries of each block, by (group, strip)."""
    groups, n = grid.groups(row_order), grid.n_strips
    assert len(groups) == grid.n_groups + 1
    return {
        (g, s): [
            (int(u), range(grid.cuts[u * n + s], grid.cuts[u * n + s + 1]))
            for u in row_order[groups[g] : groups[g + 1]]
        ]
        for g in range(grid.n_groups)
        for s in range(n)
    }


def rounds_of(grid):
    """Blocks of each round: groups on a circle where the places of strips have others between."""
    n_groups, per_strip = grid.n_groups, grid.n_groups // grid.n_strips
    return [
        [
            (g, (g + t) % n_groups // per_strip)
            for g in range(n_groups)
            if (g + t) % n_groups % per_strip == 0
        ]
        for t in range(n_groups)
    ]


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_tasks_of_any_size_make_the_same_grid(little_work, monkeypatch, n_threads):
    ratings = ratings_of()
    whole = make_grid(ratings, n_factors=8)
    monkeypatch.setattr(_ranges, "RATINGS_PER_TASK", 7)  # then as many as four times the items
    monkeypatch.setattr(grid_module, "CUT_AT_ONCE", 50)
    assert ratings.nnz > 8 * 40
    cut = make_grid(ratings, n_factors=8, n_threads=n_threads)
    np.testing.assert_array_equal(cut.cuts, whole.cuts)
    np.testing.assert_array_equal(cut.bounds, whole.bounds)


@pytest.mark.parametrize("seed", range(5))
def test_every_rating_is_in_one_block_and_rounds_share_nothing(little_work, seed):
    ratings = ratings_of(seed=seed)
    grid = make_grid(ratings, n_factors=8)
    n = grid.n_strips
    assert n >= 4
    row_order = np.random.default_rng(seed).permutation(60)
    blocks = blocks_of(grid, row_order)
    visited = [j for block in blocks.values() for _, entries in block for j in entries]
    assert sorted(visited) == list(range(ratings.nnz))
    for pairs in rounds_of(grid):
        users, items = [], []
        for g, s in pairs:
            block = blocks[g, s]
            users += {u for u, _ in block}
            items += {int(grid.ratings.indices[j]) for _, entries in block for j in entries}
        assert len(users) == len(set(users))
        assert len(items) == len(set(items))


def test_groups_and_strips_hold_about_as_many_ratings(little_work):
    ratings = ratings_of(2000, 500, density=0.1)
    grid = make_grid(ratings, n_factors=8)
    sizes = {
        block: sum(len(entries) for _, entries in rows)
        for block, rows in blocks_of(grid, np.arange(2000)).items()
    }
    for side, n_parts in enumerate((grid.n_groups, grid.n_strips)):
        totals = [sum(sizes[b] for b in sizes if b[side] == part) for part in range(n_parts)]
        mean = ratings.nnz / n_parts
        assert 0.85 * mean < min(totals) <= max(totals) < 1.15 * mean


def test_little_work_is_one_block():
    ratings = ratings_of()
    grid = make_grid(ratings, n_factors=8)
    assert grid.n_strips == 1
    assert grid.cuts is ratings.indptr
    assert grid.ratings is ratings


@pytest.mark.parametrize(
    ("n_ratings", "n_users", "n_factors", "n_strips"),
    [
        (80_000, 943, 64, 1),  # MovieLens 100K
        (800_000, 6040, 64, 4),  # MovieLens 1M
        (9_000_000, 69_878, 64, 4),  # MovieLens 10M
        (100_000_000, 480_000, 128, 6),  # Netflix
        (10**10, 10**6, 128, 32),
        (10**8, 10**8, 64, 4),  # a rating each
    ],
)
def test_number_of_strips_follows_the_work(n_ratings, n_users, n_factors, n_strips):
    assert grid_module._n_strips(n_ratings, n_users, n_factors) == n_strips


def test_unsorted_rows_are_sorted_in_a_copy(little_work):
    ratings = ratings_of()
    mixed = sparse.csr_array(
        (ratings.values.copy(), ratings.indices.copy(), ratings.indptr), shape=ratings.shape
    )
    for u in range(60):
        row = slice(mixed.indptr[u], mixed.indptr[u + 1])
        mixed.indices[row] = mixed.indices[row][::-1]
        mixed.data[row] = mixed.data[row][::-1]
    before = mixed.indices.copy()
    grid = make_grid(check_ratings(mixed, dtype="float32"), n_factors=8)
    np.testing.assert_array_equal(grid.ratings.indices, ratings.indices)
    np.testing.assert_array_equal(grid.ratings.values, ratings.values)
    np.testing.assert_array_equal(mixed.indices, before)


def test_one_popular_item_leaves_strips_empty_and_nothing_out(little_work):
    table = np.zeros((30, 5))
    table[:, 2] = 1
    grid = make_grid(check_ratings(table, dtype="float64"), n_factors=4)
    blocks = blocks_of(grid, np.arange(30))
    assert sum(len(e) for block in blocks.values() for _, e in block) == 30
    model = cmf.MatrixFactorization(4, random_state=0, n_epochs=3).fit(table)
    assert np.isfinite(model.user_factors_).all()


@pytest.mark.parametrize("options", [RULE, {"loss_function": "huber", "early_stopping": False}])
def test_a_worker_leaves_the_interpreter_once_an_epoch(little_work, options, monkeypatch):
    name = "general_epoch" if "loss_function" in options else "interleaved_epoch"
    kernel, workers = getattr(epochs, name), []

    def counted(blocks, worker, *arguments):
        workers.append(worker)
        return kernel(blocks, worker, *arguments)

    monkeypatch.setattr(epochs, name, counted)
    monkeypatch.setattr(epochs, "PATIENCE", 60.0)
    ratings = ratings_of()
    assert make_grid(ratings, 4).n_strips > 1
    make = {"n_factors": 4, "n_epochs": 3, "random_state": 0, **options}
    cmf.MatrixFactorization(**make, n_threads=1).fit(sparse_of(ratings))
    assert workers == [0, 0, 0]
    cmf.MatrixFactorization(**make, n_threads=2).fit(sparse_of(ratings))
    assert workers[3:].count(0) == 3
    assert workers[3:].count(1) <= 3


@pytest.mark.parametrize("rows", [2**16, 100, 1])  # with 40 users: 8 epochs at once, 2, 1
@pytest.mark.parametrize("n_threads", [1, 2])
def test_orders_are_drawn_for_as_many_epochs_as_there_are(
    little_work, n_threads, rows, monkeypatch
):
    draw, drawn = epochs._RowOrders.of, []

    def recorded(orders, epoch):
        drawn.append(epoch)
        return draw(orders, epoch)

    make = {"n_factors": 4, "n_epochs": 11, "random_state": 0, **RULE}
    table = sparse_of(ratings_of(40))
    with monkeypatch.context() as patch:
        patch.setattr(epochs, "PLANS_AT_ONCE", 1)
        expected = cmf.MatrixFactorization(**make).fit(table)
    monkeypatch.setattr(epochs._RowOrders, "of", recorded)
    monkeypatch.setattr(epochs, "ROWS_OF_PLANS", rows)
    model = cmf.MatrixFactorization(**make, n_threads=n_threads).fit(table)
    assert drawn == list(range(1, 12))
    assert model.user_factors_.tobytes() == expected.user_factors_.tobytes()
    drawn.clear()
    model.partial_fit(table, epochs=3)
    assert drawn == [12, 13, 14]


@pytest.mark.parametrize("level", LEVELS[: highest_level() + 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"adaptive": True}, {"loss_function": "huber"}])
@pytest.mark.parametrize("n_factors", [1, 8, 33])
def test_penalty_of_an_epoch_is_that_of_its_factors(
    little_work, level, dtype, options, n_factors, monkeypatch
):
    monkeypatch.setenv("CMF_SIMD", level)
    monkeypatch.setattr(_ranges, "FACTORS_PER_CALL", 100)  # several calls for every block
    table = sparse_of(ratings_of()).toarray()
    table[7] = table[:, 5] = 0  # a user and an item without ratings, which start from numbers
    starts = {
        f"{side}_factors": np.random.default_rng(n).normal(size=(n, n_factors)).astype(dtype)
        for side, n in (("user", 60), ("item", 40))
    }
    told, expected = [], []

    def measure(report):
        told.append(report.regularization)
        arrays = report.user_factors, report.item_factors, report.user_biases, report.item_biases
        squares = [np.square(array, dtype=np.float64).sum() for array in arrays]
        expected.append(RULE["regularization"] * math.fsum(squares))

    model = cmf.MatrixFactorization(n_factors, dtype=dtype, **RULE, **options)
    model.fit(sparse.csr_array(table), epochs=3, callbacks=measure, **starts)
    assert len(told) == 3
    np.testing.assert_allclose(told, expected, rtol=1e-13)


def test_sums_of_epochs_beyond_double_are_divergence(little_work):
    # The squared error of each block is a number, their sum is none.
    table = np.full((60, 40), 1e153)
    make = {"dtype": "float64", "biases": False, "learning_rate": 1e-300, "init_scale": 1e-3}
    with pytest.raises(cmf.DivergenceError, match="diverged in epoch 1"):
        cmf.MatrixFactorization(4, **make, regularization=0).fit(table, epochs=1)


def sparse_of(ratings):
    """Return checked ratings as people have them."""
    return sparse.csr_array((ratings.values, ratings.indices, ratings.indptr), shape=ratings.shape)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_fewer_users_than_groups(little_work, n_threads):
    table = np.arange(1.0, 13.0).reshape(2, 6)
    fits = [
        cmf.MatrixFactorization(3, random_state=0, n_epochs=5, n_threads=n, **RULE).fit(table)
        for n in (1, n_threads)
    ]
    np.testing.assert_array_equal(fits[0].user_factors_, fits[1].user_factors_)
    assert fits[0].history_["running_mse"] == fits[1].history_["running_mse"]


@pytest.mark.parametrize("n_rows", [1, 5, 64, 100, 1000])
@pytest.mark.parametrize("together", [1, 7, 64])
def test_rows_are_shuffled_in_runs(together, n_rows):
    orders = epochs._RowOrders(5, n_rows, together)
    order = orders.of(1)
    assert order.dtype == np.int64
    assert np.sort(order).tolist() == list(range(n_rows))
    runs = order // together
    starts = np.flatnonzero(np.diff(runs, prepend=-1))
    assert len(starts) == math.ceil(n_rows / together)  # each run in one piece
    within = np.setdiff1d(np.arange(n_rows), starts)
    assert (np.diff(order)[within - 1] == 1).all()
    second = orders.of(2)
    assert order.tolist() == orders.of(1).tolist()
    if len(starts) > 10:
        assert order.tolist() != second.tolist()
        assert order.tolist() != epochs._RowOrders(6, n_rows, together).of(1).tolist()


@pytest.mark.parametrize("epoch", [1, 2, 3, 1000, 2**40, 2**64 + 1])
def test_orders_are_drawn_by_jumped_generators(epoch):
    orders = epochs._RowOrders(5, 100)
    orders.of(7)
    assert orders.of(epoch).tolist() == reference.row_order(5, epoch, 100).tolist()


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("biases", [True, False])
def test_training_on_a_grid_equals_its_twin(little_work, biases, together, monkeypatch):
    monkeypatch.setattr(epochs, "MOST_CACHED", 100 if together > 1 else 10**6)
    monkeypatch.setattr(epochs, "ROWS_TOGETHER", together)
    table = np.where(np.random.default_rng(3).random((40, 30)) < 0.4, 1.0, 0.0)
    table *= np.random.default_rng(4).normal(size=table.shape)
    make = {"n_factors": 5, "dtype": "float64", "biases": biases, "random_state": 0, **RULE}
    model = cmf.MatrixFactorization(**make, n_threads=2)
    start = cmf.MatrixFactorization(**{**make, "learning_rate": 1e-300}).fit(table, epochs=1)
    model.fit(table, epochs=2)
    ratings = check_ratings(table, dtype="float64")
    grid = make_grid(ratings, 5)
    n = grid.n_strips
    assert n >= 4
    P, Q = start.user_factors_.copy(), start.item_factors_.copy()
    b, c = np.zeros(40), np.zeros(30)
    rate, decay = 2 * model.learning_rate, 1 - model.learning_rate * model.regularization
    rates = rate, rate, rate if biases else 0.0, *[decay] * 4, 0.0
    for epoch in (1, 2):
        orders = epochs._RowOrders(start._get_fitted().state.seed, 40, together)
        row_order = orders.of(epoch)
        groups = grid.groups(row_order)
        squared = sum(
            reference.interleaved_epoch(
                grid.cuts,
                grid.ratings.indices,
                grid.ratings.values,
                row_order,
                P,
                Q,
                b,
                c,
                None,
                None,
                groups[g],
                groups[g + 1],
                s,
                n,
                reference.streams_of(5, np.dtype("float64")),
                model.global_mean_,
                *rates,
            )
            for pairs in rounds_of(grid)
            for g, s in pairs
        )
        assert model.history_["running_mse"][epoch - 1] == pytest.approx(squared / ratings.nnz)
    np.testing.assert_allclose(model.user_factors_, P, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(model.item_factors_, Q, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(model.user_biases_, b, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(model.item_biases_, c, rtol=1e-10, atol=1e-14)
