"""Top-N lists, similar rows and the neighborhood scheme, each against a literal twin."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

import cmf
from cmf import recommendation
from cmf._state import Factors
from cmf.config import LEVELS


def random_ratings(n_users=40, n_items=25, density=0.4, seed=0):
    rng = np.random.default_rng(seed)
    rated = rng.random((n_users, n_items)) < density
    return np.where(rated, rng.integers(1, 6, rated.shape), 0).astype(float)


RATINGS = random_ratings()


@pytest.fixture(scope="module", params=["float32", "float64"])
def model(request):
    return cmf.MatrixFactorization(
        5, n_epochs=5, init_scale=0.5, dtype=request.param, random_state=0
    ).fit(RATINGS)


def best_by_argsort(scores, allowed):
    """Return the allowed positions, best first, equal scores by position."""
    order = np.argsort(-scores, kind="stable")
    return order[allowed[order]]


# --- predict --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_and_levels_change_no_bit_of_predictions(dtype, monkeypatch):
    rng = np.random.default_rng(0)
    shapes = (9, 7), (12, 7), 9, 12
    factors = Factors(*(rng.normal(size=shape).astype(dtype) for shape in shapes), 2.5, biased=True)
    users, items = rng.integers(-1, 9, 500), rng.integers(-1, 12, 500)
    expected = recommendation.predictions(factors, np.arange(-1, 9), np.arange(-1, 12))
    monkeypatch.setattr(recommendation, "FACTORS_PER_TASK", 70)  # ten pairs
    for level in LEVELS:
        monkeypatch.setenv("CMF_SIMD", level)
        for n_threads in (None, 1, 2, 3, 8):
            found = recommendation.pair_predictions(factors, users, items, n_threads)
            assert found.tobytes() == expected[users + 1, items + 1].tobytes()
    assert recommendation.pair_predictions(factors, users[:0], items[:0], 8).shape == (0,)


# --- recommend ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 10, 25, 60])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_lists_are_those_of_argsort(model, n, exclude_seen):
    table = model.reconstruct()
    ids, scores = model.recommend(n=n, exclude_seen=exclude_seen)
    assert ids.shape == scores.shape == (40, n)
    assert ids.dtype == np.int64
    assert scores.dtype == table.dtype
    for u in range(40):
        allowed = RATINGS[u] == 0 if exclude_seen else np.ones(25, dtype=bool)
        expected = best_by_argsort(table[u], allowed)[:n]
        count = len(expected)
        np.testing.assert_array_equal(ids[u, :count], expected)
        np.testing.assert_array_equal(scores[u, :count], table[u, expected])
        assert (ids[u, count:] == -1).all()
        assert np.isnan(scores[u, count:]).all()


def test_candidates_and_exclusions(model):
    table = model.reconstruct()
    ids, _ = model.recommend(n=25, items=[9, 3, 7, 3, 20], exclude=[7, 8])
    for u in range(40):
        allowed = np.isin(np.arange(25), [9, 3, 20]) & (RATINGS[u] == 0)
        np.testing.assert_array_equal(ids[u][ids[u] >= 0], best_by_argsort(table[u], allowed))
    only_seen = np.flatnonzero(RATINGS[0])
    assert model.recommend(0, items=only_seen)[0].shape == (0,)
    assert model.recommend(0, items=only_seen, exclude_seen=False, n=99)[0].size == only_seen.size
    assert model.recommend(0, items=[])[0].shape == (0,)
    assert model.recommend([0, 1], n=2, items=[])[0].tolist() == [[-1, -1]] * 2
    np.testing.assert_array_equal(model.recommend(exclude=[])[0], model.recommend()[0])


def test_one_user_many_users_and_all_users_agree(model):
    ids, scores = model.recommend(n=20)
    for users in (range(40), list(range(40)), np.arange(40, dtype=np.uint8)):
        found = model.recommend(users, n=20)
        np.testing.assert_array_equal(found[0], ids)
        np.testing.assert_array_equal(found[1], scores)
    for u in (0, np.int64(7), 39):
        one_ids, one_scores = model.recommend(u, n=20)
        left = ids[u] >= 0
        np.testing.assert_array_equal(one_ids, ids[u][left])
        np.testing.assert_array_equal(one_scores, scores[u][left])
        np.testing.assert_array_equal(model.recommend([u], n=20)[0], ids[[u]])
    twice = model.recommend([5, 2, 5], n=20)[0]
    np.testing.assert_array_equal(twice, ids[[5, 2, 5]])
    assert model.recommend([], n=4)[0].shape == (0, 4)


def test_shorter_lists_are_beginnings_of_longer_ones(model):
    longest, scores = model.recommend(n=25)
    for n in range(1, 25):
        ids, found = model.recommend(n=n)
        np.testing.assert_array_equal(ids, longest[:, :n])
        np.testing.assert_array_equal(found, scores[:, :n])


@pytest.mark.parametrize("scores_at_once", [1, 25, 60, 24 * 25])
def test_blocks_of_users_change_nothing(model, monkeypatch, scores_at_once):
    ids, scores = model.recommend(n=8)
    similar, cosines = model.similar_items(range(25))
    monkeypatch.setattr(recommendation, "SCORES_AT_ONCE", scores_at_once)
    np.testing.assert_array_equal(model.recommend(n=8)[0], ids)
    np.testing.assert_array_equal(model.recommend(n=8)[1], scores)
    np.testing.assert_array_equal(model.similar_items(range(25))[0], similar)
    np.testing.assert_array_equal(model.similar_items(range(25))[1], cosines)


def test_equal_scores_come_by_row():
    ratings = random_ratings()
    ratings[:, [1, 4, 5, 17, 18, 22]] = 0  # never rated: zero factors and bias, so all alike
    ratings[3, :] = 0
    ratings[3, [0, 24]] = 1
    model = cmf.MatrixFactorization(4, n_epochs=2, random_state=0).fit(ratings)
    for n in range(1, 7):
        ids, scores = model.recommend(3, n=n, items=[22, 18, 17, 5, 4, 1])
        assert ids.tolist() == [1, 4, 5, 17, 18, 22][:n]
        assert len(set(scores.tolist())) == 1
    assert model.similar_items(4, n=24)[0].tolist()[-5:] == sorted(
        model.similar_items(4, n=24)[0].tolist()[-5:]
    )
    assert model.similar_items(4, n=24)[0].tolist() == [i for i in range(25) if i != 4]


def test_seen_items_are_left_out_whatever_their_order():
    table = random_ratings()
    ratings = sparse.csr_array(table)
    for u in range(40):
        row = slice(ratings.indptr[u], ratings.indptr[u + 1])
        ratings.indices[row] = ratings.indices[row][::-1].copy()
        ratings.data[row] = ratings.data[row][::-1].copy()
    ratings.has_sorted_indices = False
    ids, _ = cmf.MatrixFactorization(3, n_epochs=1, random_state=0).fit(ratings).recommend(n=25)
    for u in range(40):
        assert set(ids[u][ids[u] >= 0]) == set(np.flatnonzero(table[u] == 0))


def test_stored_zeros_have_been_seen():
    ratings = sparse.csr_array(([0.0, 4.0], [1, 0], [0, 1, 2]), shape=(2, 3))
    model = cmf.MatrixFactorization(2, n_epochs=1, random_state=0).fit(ratings)
    assert sorted(model.recommend(0)[0]) == [0, 2]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 0}, ValueError, "n must be at least 1, got 0"),
        ({"n": -3}, ValueError, "n must be at least 1, got -3"),
        ({"n": 2.0}, TypeError, "n must be an integer, got 2.0"),
        ({"n": True}, TypeError, "n must be an integer, got True"),
        ({"exclude_seen": 1}, TypeError, "exclude_seen must be True or False, got 1"),
        ({"users": 40}, ValueError, "40"),
        ({"users": [0, -1]}, ValueError, "-1"),
        ({"users": "0"}, TypeError, "user"),
        ({"users": 0.0}, TypeError, "user"),
        ({"items": [25]}, ValueError, "25"),
        ({"exclude": [-1]}, ValueError, "-1"),
        ({"unknown": "drop"}, ValueError, "unknown must be one of"),
    ],
)
def test_bad_requests_are_refused(model, arguments, error, message):
    with pytest.raises(error, match=message):
        model.recommend(**arguments)


# --- similar --------------------------------------------------------------------------------------


def cosines_of(factors):
    rows = factors.astype(float)
    norms = np.linalg.norm(rows, axis=1)
    norms[norms == 0] = 1
    return (rows / norms[:, None]) @ (rows / norms[:, None]).T


@pytest.mark.parametrize("what", ["users", "items"])
def test_similar_rows_are_those_of_the_largest_cosine(model, what):
    similar = getattr(model, f"similar_{what}")
    expected = cosines_of(model.user_factors_ if what == "users" else model.item_factors_)
    size = len(expected)
    ids, scores = similar(range(size), n=size)
    assert scores.dtype == np.float64
    for row in range(size):
        others = np.arange(size) != row
        np.testing.assert_array_equal(ids[row, :-1], best_by_argsort(expected[row], others))
        np.testing.assert_allclose(scores[row, :-1], expected[row, ids[row, :-1]], atol=1e-14)
        assert ids[row, -1] == -1
        assert np.isnan(scores[row, -1])
        one_ids, one_scores = similar(row, n=size)
        np.testing.assert_array_equal(one_ids, ids[row, :-1])
        np.testing.assert_array_equal(one_scores, scores[row, :-1])
    assert np.nanmax(np.abs(scores)) <= 1
    assert similar(0)[0].shape == (10,)
    assert similar([], n=3)[0].shape == (0, 3)


def test_rows_without_factors_are_like_nothing():
    ratings = random_ratings()
    ratings[7] = 0
    model = cmf.MatrixFactorization(4, n_epochs=2, random_state=0).fit(ratings)
    ids, cosines = model.similar_users(7, n=40)
    assert ids.tolist() == [u for u in range(40) if u != 7]
    assert not cosines.any()
    ids, cosines = model.similar_users(0, n=40)
    assert cosines[ids.tolist().index(7)] == 0


def test_equal_rows_have_cosine_one_and_no_more():
    P = np.array([[1.0, 3.0], [0.1, 0.3], [1e-30, 3e-30], [-1, -3]])
    model = cmf.MatrixFactorization(2, learning_rate=1e-300, dtype="float64", biases=False).fit(
        np.ones((4, 2)), user_factors=P
    )
    ids, cosines = model.similar_users(0)
    assert ids.tolist()[-1] == 3
    assert cosines.max() <= 1
    np.testing.assert_allclose(cosines, [1, 1, -1], atol=1e-15)


@pytest.mark.parametrize("size", [2.0**-600, 2.0**600])
def test_similar_rows_are_the_same_in_any_unit(size):
    factors = np.random.default_rng(0).normal(size=(30, 5))
    factors[3] = 0
    expected = recommendation.similar(factors, np.arange(30), 29)
    found = recommendation.similar(factors * size, np.arange(30), 29)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_similar_refuses_what_it_does_not_know(model):
    with pytest.raises(ValueError, match="25"):
        model.similar_items(25)
    with pytest.raises(ValueError, match="n must be at least 1"):
        model.similar_users(0, n=0)


# --- neighborhood scheme --------------------------------------------------------------------------


def by_neighbors(model, seen, user, n_neighbors):
    """Score all items literally: predicted table, cosine of its rows, weighted sum of the best."""
    table = model.reconstruct().astype(float)
    norms = np.linalg.norm(table, axis=1)
    similarity = (table @ table[user]) / (norms * norms[user])
    others = np.delete(np.arange(len(table)), user)
    best = others[np.argsort(-similarity[others], kind="stable")][:n_neighbors]
    scores = similarity[best] @ table[best]
    order = np.argsort(-scores, kind="stable")
    order = order[~seen[order]]
    return order, scores[order]


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("n_neighbors", [1, 3, 39, 1000])
def test_neighborhood_scheme_is_the_described_one(biases, n_neighbors):
    model = cmf.MatrixFactorization(
        5, n_epochs=20, biases=biases, dtype="float64", init_scale=0.5, random_state=0
    ).fit(RATINGS)
    for user in range(0, 40, 3):
        for exclude_seen in (True, False):
            seen = (RATINGS[user] > 0) & exclude_seen
            expected, expected_scores = by_neighbors(model, seen, user, n_neighbors)
            ids, scores = model.recommend_by_neighbors(
                user, n=25, n_neighbors=n_neighbors, exclude_seen=exclude_seen
            )
            np.testing.assert_array_equal(ids, expected)
            np.testing.assert_allclose(scores, expected_scores, rtol=1e-10)
            few = model.recommend_by_neighbors(
                user, n=4, n_neighbors=n_neighbors, exclude_seen=exclude_seen
            )
            np.testing.assert_array_equal(few[0], expected[:4])
            assert scores.dtype == np.float64


def test_neighborhood_scheme_in_single_precision_uses_double_sums():
    model = cmf.MatrixFactorization(5, n_epochs=20, init_scale=0.5, random_state=0).fit(RATINGS)
    for user in range(40):
        _, expected = by_neighbors(model, RATINGS[user] > 0, user, 3)
        _, scores = model.recommend_by_neighbors(user, n=25)
        np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_a_lone_user_has_no_neighbors():
    model = cmf.MatrixFactorization(2, n_epochs=1, random_state=0).fit([[5, 0, 3]])
    ids, scores = model.recommend_by_neighbors(0)
    assert ids.tolist() == [1]
    assert scores.tolist() == [0.0]


def test_neighborhood_scheme_is_for_one_user(model):
    with pytest.raises(TypeError, match="user must be one id, got several"):
        model.recommend_by_neighbors([0])
    with pytest.raises(ValueError, match="n_neighbors must be at least 1, got 0"):
        model.recommend_by_neighbors(0, n_neighbors=0)
    with pytest.raises(ValueError, match="40"):
        model.recommend_by_neighbors(40)


def test_hermione_gets_the_recommendations_of_the_classic_program():
    table = cmf.datasets.load_music(as_frame=True).ratings
    scores = []
    for seed in range(10):
        model = cmf.MatrixFactorization(
            n_factors=75,
            learning_rate=0.001,
            regularization=0.02,
            n_epochs=600,
            biases=False,
            shuffle=False,
            init_scale=1 / 75,
            dtype="float64",
            random_state=seed,
        ).fit(table)
        ids, found = model.recommend_by_neighbors("Hermione", n_neighbors=3)
        assert ids.tolist() == ["Back in Black", "Brandenburg Concerto No. 3"]
        scores.append(found)
        known = table.to_numpy() > 0
        errors = (model.reconstruct().to_numpy() - table.to_numpy())[known]
        assert np.sqrt((errors**2).mean()) < 0.25
    # Seen over 30 seeds: 9.78 ± 0.14 and 5.79 ± 0.05 (one run of the classic program: 10.7, 5.5).
    np.testing.assert_allclose(np.mean(scores, axis=0), [9.8, 5.8], atol=0.3)
    assert np.std(scores, axis=0).max() < 0.5
