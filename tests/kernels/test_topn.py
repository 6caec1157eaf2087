"""The best n of many scores: by hand, against sorting, and where order has to be defined."""

import numpy as np
import pytest
import reference
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import FLOATS, score_lists

from cmf._kernels.topn import select_top

UNSET = -7


def top(scores, n, left_out=None, kernel=select_top, dtype=np.float64):
    """Return the chosen positions, having checked that nothing else was written."""
    scores = np.asarray(scores, dtype=getattr(scores, "dtype", dtype))
    mask = np.zeros(len(scores), dtype=np.uint8)
    if left_out is not None:
        mask[...] = left_out
    out = np.full(n, UNSET, dtype=np.int64)
    count = kernel(scores, mask, out)
    assert out[count:].tolist() == [UNSET] * (n - count)
    return out[:count].tolist()


@pytest.mark.parametrize("dtype", FLOATS)
def test_best_first_by_hand(dtype):
    assert top([1.0, 5.0, 3.0, 4.0], 3, dtype=dtype) == [1, 3, 2]


def test_what_is_left_out_is_never_chosen():
    assert top([1.0, 5.0, 3.0, 4.0], 3, left_out=[0, 1, 0, 255]) == [2, 0]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_equal_scores_come_by_position(n):
    assert top([2.0] * 8, n) == list(range(min(n, 8)))


def test_both_zeros_are_equal():
    assert top([-0.0, 0.0, -0.0], 3) == [0, 1, 2]


def test_infinities_are_the_ends_and_nan_comes_after_them():
    scores = [np.nan, -np.inf, 0.0, np.inf, np.nan, np.inf, -np.inf]
    assert top(scores, 7) == [3, 5, 2, 1, 6, 0, 4]
    assert top(scores, 6) == [3, 5, 2, 1, 6, 0]
    assert top(scores, 2) == [3, 5]


def test_only_nan_comes_by_position():
    assert top([np.nan] * 5, 3) == [0, 1, 2]


@pytest.mark.parametrize("n", [4, 5, 100])
def test_asking_for_more_than_is_left_gives_what_is_left(n):
    assert top([1.0, 5.0, 3.0, 4.0, 2.0], n, left_out=[0, 1, 0, 1, 0]) == [2, 4, 0]


def test_everything_left_out_gives_nothing():
    assert top([1.0, 5.0], 2, left_out=[1, 1]) == []


def test_asking_for_none_gives_nothing():
    assert top([1.0, 5.0], 0) == []


def test_no_scores_give_nothing():
    assert top([], 3) == []


@given(case=score_lists(), n=st.integers(0, 33))
# The heap turns over from its root at every score.
@example(case=(np.arange(30.0), np.zeros(30, dtype=np.uint8)), n=7)
@example(case=(-np.arange(30.0), np.zeros(30, dtype=np.uint8)), n=7)
def test_selection_equals_sorting(case, n):
    scores, left_out = case
    assert top(scores, n, left_out) == top(scores, n, left_out, reference.select_top)


@given(case=score_lists(), n=st.integers(0, 33), more=st.integers(0, 10))
def test_longer_answer_begins_with_the_shorter(case, n, more):
    scores, left_out = case
    shorter = top(scores, n, left_out)
    assert top(scores, n + more, left_out)[: len(shorter)] == shorter


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [1, 2, 10, 1000, 19_999, 20_000])
def test_many_scores_with_ties_equal_a_stable_sort(n, dtype, rng):
    scores = rng.integers(0, 5000, 20_000).astype(dtype)
    expected = np.argsort(-scores, kind="stable")[:n]
    assert top(scores, n) == expected.tolist()


def test_scores_may_be_read_only_and_are_not_changed(rng):
    scores, left_out = rng.random(50), (rng.random(50) < 0.3).astype(np.uint8)
    before = scores.copy(), left_out.copy()
    scores.flags.writeable = left_out.flags.writeable = False
    select_top(scores, left_out, np.empty(10, dtype=np.int64))
    np.testing.assert_array_equal(scores, before[0])
    np.testing.assert_array_equal(left_out, before[1])
