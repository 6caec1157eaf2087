"""Biases as damped means, and how strongly they are damped."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

import cmf
from cmf import _ranges
from cmf import biases as biases_module
from cmf._checks import check_ratings
from cmf._counts import rating_counts
from cmf.biases import damped_biases


def random_table(n_users=30, n_items=20, density=0.4, seed=0):
    rng = np.random.default_rng(seed)
    table = np.where(rng.random((n_users, n_items)) < density, rng.normal(3, 1, (n_users, 1)), 0)
    return np.where(table, table + rng.normal(0, 0.7, n_items) + rng.normal(0, 0.5, table.shape), 0)


def checked(table, dtype="float64"):
    return check_ratings(sparse.csr_array(table), dtype=dtype)


def twin(cells, shape, mean, n_passes=10):
    """Biases and damping in plain Python; cells maps (u, i) to a rating."""
    b, c = [0.0] * shape[0], [0.0] * shape[1]
    of_users = {u: [i for v, i in cells if v == u] for u in range(shape[0])}
    of_items = {i: [u for u, j in cells if j == i] for i in range(shape[1])}
    d, e = 5.0, 5.0
    for _ in range(n_passes):
        for i, users in of_items.items():
            c[i] = math.fsum(cells[u, i] - mean - b[u] for u in users) / (len(users) + e)
        for u, items in of_users.items():
            b[u] = math.fsum(cells[u, i] - mean - c[i] for i in items) / (len(items) + d)
        squared = math.fsum((r - mean - b[u] - c[i]) ** 2 for (u, i), r in cells.items())
        used = sum(len(items) / (len(items) + d) for items in of_users.values())
        used += sum(len(users) / (len(users) + e) for users in of_items.values())
        noise = squared / max(len(cells) - used, len(cells) / 20)

        def damping(values, ratings, old, noise=noise):
            squares = [
                values[k] ** 2 + noise / (len(rated) + old) for k, rated in ratings.items() if rated
            ]
            mean_square = math.fsum(squares) / len(squares)
            return min(max(noise / mean_square, 0.1), 1e4) if mean_square > 0 else 1e4

        d, e = damping(b, of_users, d), damping(c, of_items, e)
    return b, c, d, e


@pytest.mark.parametrize("seed", range(4))
def test_biases_equal_their_twin(seed):
    table = random_table(seed=seed)
    table[3] = 0  # a user and an item without ratings
    table[:, 4] = 0
    found = damped_biases(checked(table), 2.5)
    cells = {(int(u), int(i)): float(table[u, i]) for u, i in zip(*table.nonzero(), strict=True)}
    b, c, d, e = twin(cells, table.shape, 2.5)
    np.testing.assert_allclose(found.users, b, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.items, c, rtol=1e-9, atol=1e-12)
    assert found.user_damping == pytest.approx(d, rel=1e-9)
    assert found.item_damping == pytest.approx(e, rel=1e-9)
    assert found.users[3] == found.items[4] == 0


@pytest.mark.parametrize(("scale", "shift"), [(1, 7), (20, 0), (20, 7), (-3, 100), (1e-3, -1)])
def test_scale_and_shift_of_ratings_are_those_of_the_biases(scale, shift):
    table = random_table()
    moved = np.where(table, scale * table + shift, 0)
    first = damped_biases(checked(table), 3.0)
    second = damped_biases(checked(moved), scale * 3.0 + shift)
    np.testing.assert_allclose(second.users, scale * first.users, rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(second.items, scale * first.items, rtol=1e-8, atol=1e-11)
    assert second.user_damping == pytest.approx(first.user_damping, rel=1e-8)
    assert second.item_damping == pytest.approx(first.item_damping, rel=1e-8)


def test_damping_is_the_noise_over_the_variance_of_the_biases():
    rng = np.random.default_rng(0)
    b, c = rng.normal(0, 0.5, (2000, 1)), rng.normal(0, 1.0, 300)
    table = b + c + rng.normal(0, 2.0, (2000, 300))
    table = np.where(rng.random(table.shape) < 0.2, table, 0)
    found = damped_biases(checked(table), 0.0)
    assert found.user_damping == pytest.approx(4 / 0.25, rel=0.1)
    assert found.item_damping == pytest.approx(4 / 1.0, rel=0.25)
    assert np.corrcoef(found.items, c)[0, 1] > 0.99


def test_noise_alone_is_damped_away():
    rng = np.random.default_rng(1)
    table = rng.normal(size=(400, 300))
    found = damped_biases(checked(table), 0.0)
    assert min(found.user_damping, found.item_damping) > 300
    assert np.abs(found.users).max() < np.abs(table.mean(axis=1)).max() / 2


def test_equal_ratings_have_no_biases_and_the_most_damping():
    found = damped_biases(checked(np.full((4, 5), 3.0)), 3.0)
    assert not found.users.any()
    assert not found.items.any()
    assert found.user_damping == found.item_damping == biases_module.MOST_DAMPING


def test_biases_of_float32_ratings_are_those_of_double():
    table = random_table().astype(np.float32)
    single, double = (damped_biases(checked(table, dtype), 3.0) for dtype in ("float32", "float64"))
    np.testing.assert_array_equal(single.users, double.users)
    np.testing.assert_array_equal(single.items, double.items)


def test_size_of_tasks_hardly_matters_and_threads_do_not(monkeypatch):
    table = random_table(60)
    whole = damped_biases(checked(table), 3.0)
    monkeypatch.setattr(_ranges, "RATINGS_PER_TASK", 1)  # then four times the items
    assert np.count_nonzero(table) > 3 * 4 * 20
    cut = [damped_biases(checked(table), 3.0, n_threads) for n_threads in (1, 2, 5)]
    np.testing.assert_allclose(cut[0].users, whole.users, rtol=1e-12, atol=1e-15)
    assert cut[0].item_damping == pytest.approx(whole.item_damping, rel=1e-12)
    for found in cut[1:]:
        assert found.users.tobytes() == cut[0].users.tobytes()
        assert found.items.tobytes() == cut[0].items.tobytes()
        assert found.item_damping == cut[0].item_damping


def test_biases_that_leave_nothing_are_damped_least():
    b, c = np.arange(8.0)[:, None], np.arange(1.0, 7.0) ** 2
    found = damped_biases(checked(b + c), float((b + c).mean()))
    assert found.user_damping == found.item_damping == biases_module.LEAST_DAMPING


def test_counts_of_users_and_items():
    table = np.array([[5.0, 0, 2, 0], [0, 0, 3, 0], [0, 0, 0, 0]])
    ratings = checked(table)
    of_users, of_items = found = rating_counts(ratings)
    assert of_users.tolist() == [2, 1, 0]
    assert of_items.tolist() == [1, 0, 2, 0]
    # They are kept, for other arrays of the same indices too, but not for other ratings.
    same = ratings.with_indices(ratings.indices.astype(np.int64))
    assert rating_counts(ratings) is rating_counts(same) is found
    assert not any(counts.flags.writeable for counts in found)
    others = replace(ratings, indices=np.array([1, 3, 0], dtype=np.int32))
    assert rating_counts(others)[1].tolist() == [1, 1, 0, 1]


def test_ratings_beyond_double_when_squared_are_no_warning():
    found = damped_biases(checked(np.array([[1e300, 0], [0, -1e300], [1e250, 1.0]])), 0.0)
    assert found.users.shape == (3,)


def test_defaults_start_from_damped_biases():
    table = random_table()
    model = cmf.MatrixFactorization(2, dtype="float64", init_scale=0, random_state=0)
    model.set_params(early_stopping=False, bias_learning_rate=0).fit(table, epochs=1)
    expected = damped_biases(checked(table), model.global_mean_)
    np.testing.assert_array_equal(model.user_biases_, expected.users)
    np.testing.assert_array_equal(model.item_biases_, expected.items)
    given = cmf.MatrixFactorization(
        2, learning_rate=1e-300, init_scale=0.1, dtype="float64", random_state=0
    ).fit(table, epochs=1)
    assert np.abs(given.user_biases_).max() < 1e-290
