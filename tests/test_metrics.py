"""Metrics against worked examples, plain-Python twins and scikit-learn."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import mean_absolute_error, ndcg_score, root_mean_squared_error

from cmf import metrics

RANKING = (
    metrics.precision_at_k,
    metrics.recall_at_k,
    metrics.ndcg_at_k,
    metrics.average_precision_at_k,
    metrics.reciprocal_rank_at_k,
    metrics.hit_rate_at_k,
)
N_ITEMS = 9


def one_user_by_hand(name, ranked, relevant, k):
    """One user's metric from the definition, place by place."""
    hits = [r for r, item in enumerate(ranked[:k], start=1) if item in relevant]
    best = min(k, len(relevant))
    if name == "precision_at_k":
        return len(hits) / k
    if name == "recall_at_k":
        return len(hits) / len(relevant)
    if name == "ndcg_at_k":
        ideal = sum(1 / math.log2(r + 1) for r in range(1, best + 1))
        return sum(1 / math.log2(r + 1) for r in hits) / ideal
    if name == "average_precision_at_k":
        return sum(n / r for n, r in enumerate(hits, start=1)) / best
    if name == "reciprocal_rank_at_k":
        return 1 / hits[0] if hits else 0.0
    assert name == "hit_rate_at_k"
    return float(bool(hits))


def by_hand(name, recommended, relevant, k):
    """Mean over the users with a relevant item."""
    return statistics.fmean(
        one_user_by_hand(name, list(ranked), set(wanted), k)
        for ranked, wanted in zip(recommended, relevant, strict=True)
        if wanted
    )


def as_sparse(relevant, n_items=N_ITEMS, kind=sparse.csr_array):
    users = [user for user, row in enumerate(relevant) for _ in row]
    items = [item for row in relevant for item in row]
    # Zeros: stored entries count whatever their value.
    return kind((np.zeros(len(items)), (users, items)), shape=(len(relevant), n_items))


@st.composite
def problems(draw):
    n_users = draw(st.integers(1, 6))
    width = draw(st.integers(0, N_ITEMS))
    recommended = np.full((n_users, width), -1, dtype=draw(st.sampled_from([np.int32, np.int64])))
    for row in recommended:
        ranked = draw(st.permutations(range(N_ITEMS)))[: draw(st.integers(0, width))]
        row[: len(ranked)] = ranked
    relevant = [
        draw(st.lists(st.integers(0, N_ITEMS - 1), unique=True, max_size=N_ITEMS))
        for _ in range(n_users)
    ]
    if not any(relevant):
        relevant[-1] = [draw(st.integers(0, N_ITEMS - 1))]
    return recommended, relevant, draw(st.integers(1, N_ITEMS + 3))


@pytest.mark.parametrize("metric", RANKING)
@settings(max_examples=150, deadline=None)
@given(problem=problems())
def test_ranking_metrics_equal_their_definitions(metric, problem):
    recommended, relevant, k = problem
    expected = by_hand(metric.__name__, recommended.tolist(), relevant, k)
    assert metric(recommended, relevant, k=k) == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert metric(recommended, as_sparse(relevant), k=k) == metric(recommended, relevant, k=k)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, N_ITEMS + 2))
def test_ndcg_equals_sklearn(seed, k):
    rng = np.random.default_rng(seed)
    recommended = rng.permuted(np.tile(np.arange(N_ITEMS), (5, 1)), axis=1)
    wanted = rng.random((5, N_ITEMS)) < 0.3
    wanted[0, rng.integers(N_ITEMS)] = True
    judged = wanted.any(axis=1)
    scores = -np.argsort(recommended, axis=1)  # place of each item, the first highest
    expected = ndcg_score(wanted[judged], scores[judged], k=k)
    found = metrics.ndcg_at_k(recommended, sparse.csr_array(wanted), k=k)
    assert found == pytest.approx(expected, rel=1e-12)


def test_worked_example():
    # User 0: hits at places 1 and 3 of 3, three relevant items. User 1: no hit. User 2: not judged.
    recommended = [[4, 1, 0], [5, -1, -1], [0, 1, 2]]
    relevant = [[0, 4, 6], [3], []]
    gains = [1, 1 / math.log2(3), 1 / 2]
    expected = {
        "precision_at_k": 2 / 3,
        "recall_at_k": 2 / 3,
        "ndcg_at_k": (gains[0] + gains[2]) / sum(gains),
        "average_precision_at_k": (1 + 2 / 3) / 3,
        "reciprocal_rank_at_k": 1.0,
        "hit_rate_at_k": 1.0,
    }
    for metric in RANKING:
        found = metric(recommended, relevant, k=3)
        assert found == pytest.approx(expected[metric.__name__] / 2, rel=1e-12), metric.__name__
        assert type(found) is float


def test_divisors_are_the_textbook_ones():
    # One relevant item at place 1, k = 4: precision is capped at 1/4, all else is perfect.
    perfect = {metric.__name__: metric([[2, 0, 1, 3]], [[2]], k=4) for metric in RANKING}
    assert perfect.pop("precision_at_k") == 0.25
    assert set(perfect.values()) == {1.0}
    # Four relevant items, k = 2, both places hit: recall is capped at 2/4, all else is perfect.
    perfect = {metric.__name__: metric([[2, 0]], [[0, 1, 2, 3]], k=2) for metric in RANKING}
    assert perfect.pop("recall_at_k") == 0.5
    assert set(perfect.values()) == {1.0}


@pytest.mark.parametrize("metric", RANKING)
def test_ten_is_the_default_length(metric):
    recommended = np.arange(12)[np.newaxis]
    assert metric(recommended, [[9, 11]]) == metric(recommended, [[9, 11]], k=10)
    assert metric(recommended, [[10, 11]]) == 0.0


@pytest.mark.parametrize("metric", RANKING)
@pytest.mark.parametrize(
    "kind", [sparse.csr_array, sparse.csr_matrix, sparse.csc_array, sparse.coo_array]
)
def test_sparse_formats_and_other_containers_agree(metric, kind):
    recommended = np.array([[0, 1, 2], [5, 4, -1], [3, 8, 6]])
    relevant = [[2, 0], [4], []]
    expected = metric(recommended, relevant, k=3)
    assert metric(recommended, as_sparse(relevant, kind=kind), k=3) == expected
    assert metric(recommended, tuple(np.array(row, dtype=int) for row in relevant), k=3) == expected
    assert metric(recommended, [{0, 2}, (4, 4), range(0)], k=3) == expected
    objects = recommended.astype(object)
    objects[recommended == -1] = None
    assert metric(objects, relevant, k=3) == expected
    assert metric(recommended.astype(">i2"), relevant, k=3) == expected


def test_huge_ids_and_lists_cost_nothing():
    huge = 2**63 - 1
    recommended = np.array([[huge, 0, 7]])
    assert metrics.precision_at_k(recommended, [[huge, 7]], k=10**15) == pytest.approx(2e-15)
    assert metrics.ndcg_at_k(recommended, [[huge]], k=10**15) == 1.0
    assert metrics.hit_rate_at_k(np.array([[huge]], dtype=np.uint64), [[huge]]) == 1.0


def test_inputs_are_not_written_to():
    recommended = np.array([[3, 1, -1]])
    relevant = as_sparse([[1, 3]])
    for array in (recommended, relevant.data, relevant.indices, relevant.indptr):
        array.setflags(write=False)
    assert metrics.ndcg_at_k(recommended, relevant) == 1.0
    assert recommended.tolist() == [[3, 1, -1]]


@pytest.mark.parametrize("metric", RANKING)
@pytest.mark.parametrize(
    ("recommended", "relevant", "k", "message"),
    [
        ([[1, 2, 1]], [[1]], 3, "recommended holds item 1 twice in row 0"),
        ([[0, 1], [7, 7]], [[1], [1]], 1, "recommended holds item 7 twice in row 1"),
        ([1, 2], [[1], [2]], 2, "recommended must be two-dimensional.* got 1 dimensions"),
        ([[1, 2], [3]], [[1], [2]], 2, "recommended is not an array of numbers"),
        ([[1.0, 2.0]], [[1]], 2, "recommended must hold integers .* got dtype float64"),
        ([["a", "b"]], [["a"]], 2, "recommended must hold integers .* map labels to rows"),
        ([[True, False]], [[1]], 2, "recommended must hold integers .* got dtype bool"),
        (np.array([[True, None]], dtype=object), [[1]], 2, "recommended must hold integers"),
        (np.array([[2**70, None]], dtype=object), [[1]], 2, "recommended must hold integers"),
        (np.array([[2**64 - 1]], dtype=np.uint64), [[1]], 2, "items from -1 to .* got 1844674407"),
        ([[1, -2]], [[1]], 2, "recommended must hold items from -1 .* got -2"),
        ([[1, 2]], [[1], [2]], 2, "must be of the same users, got 2 and 1 of them"),
        ([[1, 2]], as_sparse([[1], [2]]), 2, "must be of the same users, got 2 and 1 of them"),
        ([[1, N_ITEMS]], as_sparse([[1]]), 2, "holds item 9 in row 0, but relevant has 9 columns"),
        ([[1, 2]], [[]], 2, "relevant names no item for any user"),
        ([[1, 2]], as_sparse([[]]), 2, "relevant names no item for any user"),
        (np.empty((0, 3), dtype=int), [], 2, "relevant names no item for any user"),
        ([[1, 2]], [[1, -1]], 2, r"relevant\[0\] must hold items from 0 .* got -1"),
        ([[1, 2]], [[0.5]], 2, r"relevant\[0\] must hold integers"),
        ([[1, 2]], [[[1]]], 2, r"relevant\[0\] must be one-dimensional, got 2 dimensions"),
        ([[1, 2]], [[1]], 0, "k .*0"),
    ],
)
def test_bad_lists_are_value_errors(metric, recommended, relevant, k, message):
    with pytest.raises(ValueError, match=message):
        metric(recommended, relevant, k=k)


def test_damaged_sparse_arrays_are_refused():
    relevant = as_sparse([[1, 3]])
    relevant.indices[1] = 10**6
    with pytest.raises(ValueError, match="relevant has column index 1000000 at position 1"):
        metrics.recall_at_k([[1, 2]], relevant)
    twice = sparse.coo_array((np.ones(2), ([0, 0], [3, 3])), shape=(1, N_ITEMS))
    with pytest.raises(ValueError, match="relevant holds more than one rating of item 3"):
        metrics.recall_at_k([[1, 2]], twice)


@pytest.mark.parametrize(
    ("relevant", "k", "message"),
    [
        (np.array([[0, 1]]), 2, "relevant must be a SciPy sparse array .* got ndarray"),
        ("a", 2, "relevant must be a SciPy sparse array .* got str"),
        (["a"], 2, r"relevant\[0\] must be a sequence of items, got str"),
        ([1], 2, r"relevant\[0\] must be a sequence of items, got int"),
        ([[1]], 2.0, "k .*float"),
        ([[1]], True, "k .*bool"),
    ],
)
def test_wrong_types_are_type_errors(relevant, k, message):
    with pytest.raises(TypeError, match=message):
        metrics.recall_at_k([[1, 2]], relevant, k=k)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(*2 * [st.floats(-1e6, 1e6, allow_subnormal=False)]), min_size=1, max_size=30)
)
def test_rating_metrics_equal_sklearn(pairs):
    true, predicted = map(list, zip(*pairs, strict=True))
    expected = root_mean_squared_error(true, predicted)
    assert metrics.rmse(true, predicted) == pytest.approx(expected, rel=1e-12, abs=1e-150)
    expected = mean_absolute_error(true, predicted)
    assert metrics.mae(true, predicted) == pytest.approx(expected, rel=1e-12, abs=1e-150)


def test_rating_metrics_are_computed_in_float64():
    true = np.array([16777216.0, 0.0], dtype=np.float32)
    predicted = np.array([1.0, 0.0], dtype=np.float32)
    assert metrics.mae(true, predicted) == 16777215.0 / 2  # not a float32
    assert metrics.rmse(np.array([200], dtype=np.uint8), np.array([201], dtype=np.uint8)) == 1.0
    assert type(metrics.rmse(true, predicted)) is float
    assert metrics.mae(np.array([1.0], dtype=">f8")[::-1], [True]) == 0.0


@pytest.mark.parametrize("metric", [metrics.rmse, metrics.mae])
@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        ([1.0, 2.0], [1.0], "same length, got 2 and 1"),
        ([], [], "y_true is empty"),
        ([1.0], [], "y_pred is empty"),
        ([[1.0]], [1.0], "y_true must be one-dimensional, got 2 dimensions"),
        ([1.0], 1.0, "y_pred must be one-dimensional, got 0 dimensions"),
        ([1.0, math.nan], [1.0, 2.0], "y_true must be finite, got nan at position 1"),
        ([1.0, 2.0], [-math.inf, 2.0], "y_pred must be finite, got -inf at position 0"),
        ([1j], [1.0], "y_true must hold real numbers, got dtype complex128"),
        ([1.0], ["1"], "y_pred must hold real numbers, got dtype"),
        (np.ma.array([1.0], mask=[True]), [1.0], "y_true has masked entries"),
        ([None], [1.0], "y_true must hold real numbers, got dtype object"),
        ([[1.0], [1.0, 2.0]], [1.0], "y_true is not an array of numbers"),
        (sparse.csr_array([[1.0]]), [1.0], "y_true must be one-dimensional"),
    ],
)
def test_bad_ratings_are_value_errors(metric, true, predicted, message):
    with pytest.raises(ValueError, match=message):
        metric(true, predicted)


def test_errors_of_any_size_are_measured_without_a_warning():
    assert metrics.rmse([1e200], [0.0]) == 1e200
    assert metrics.rmse([3e-200, 0], [0, 4e-200]) == pytest.approx(np.sqrt(12.5) * 1e-200)
    assert metrics.mae([1e308] * 3, [0.0] * 3) == 1e308
    assert metrics.mae([1e308], [-1e308]) == metrics.rmse([1e308], [-1e308]) == np.inf
    assert metrics.rmse([2.0, 5.0], [2.0, 5.0]) == metrics.mae([0.0], [0.0]) == 0.0


@pytest.mark.parametrize("judge", RANKING)
def test_lists_may_be_longer_than_any_number(judge):
    expected = 2.0**-63 if judge is metrics.precision_at_k else 1.0
    assert judge([[1]], [[1]], k=2**63) == expected
