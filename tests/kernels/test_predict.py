"""Predictions: by hand, against their twins, and pairs, blocks and levels bit for bit."""

import numpy as np
import pytest
import reference
from arrays import padded
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOATS, make_problem, problems

from cmf._kernels.interleaved import highest_level
from cmf._kernels.predict import predict_block, predict_pairs

LEVELS = range(highest_level() + 1)

# Computed in double, rounded once: half a unit in the last place of the result, and a little where
# the terms cancel.
TOLERANCE = {
    np.dtype(np.float32): {"rtol": 2.0**-24 * 1.001, "atol": 1e-13},
    np.dtype(np.float64): {"rtol": 1e-12, "atol": 1e-13},
}


def ask(kernel, problem, users, items, out, *level, rows=np.asarray):
    kernel(
        np.asarray(users, dtype=np.int64),
        np.asarray(items, dtype=np.int64),
        rows(problem.user_factors),
        rows(problem.item_factors),
        problem.user_biases,
        problem.item_biases,
        out,
        problem.global_mean,
        *level,
    )
    return out


def pairs(problem, users, items, *level, kernel=predict_pairs, rows=np.asarray):
    out = np.full(len(users), np.nan, dtype=problem.dtype)
    return ask(kernel, problem, users, items, out, *level, rows=rows)


def block(problem, users, items, *level, kernel=predict_block, rows=np.asarray):
    out = np.full((len(users), len(items)), np.nan, dtype=problem.dtype)
    return ask(kernel, problem, users, items, out, *level, rows=rows)


def all_ways(problem, users, items):
    """Return the bytes of all predictions as pairs and as a block, at every level and stride."""
    found = []
    for rows in (np.asarray, padded):
        for level in LEVELS:
            found.append(block(problem, users, items, level, rows=rows).tobytes())
            by_pair = np.repeat(users, len(items)), np.tile(items, len(users))
            found.append(pairs(problem, *by_pair, level, rows=rows).tobytes())
    return found


@st.composite
def questions(draw):
    """A problem, and rows of users and items to ask for: repeated, in any order, unknown."""
    problem = draw(problems())
    users = draw(st.lists(st.integers(-1, problem.n_users - 1), max_size=6))
    items = draw(st.lists(st.integers(-1, problem.n_items - 1), max_size=6))
    return problem, users, items


def hand_made(dtype, rng):
    """One user, one item: μ = 0.25, b = 0.5, c = -2, p·q = 1·3 + 2·0.5 = 4."""
    problem = make_problem(rng, np.ones((1, 1), dtype=bool), 2, dtype=dtype, global_mean=0.25)
    problem.user_factors[...] = [1.0, 2.0]
    problem.item_factors[...] = [3.0, 0.5]
    problem.user_biases[...] = 0.5
    problem.item_biases[...] = -2.0
    return problem


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("user", "item", "expected"),
    [
        (0, 0, 2.75),  # 0.25 + 0.5 - 2 + 4
        (0, -1, 0.75),  # 0.25 + 0.5: what is known of the user
        (-1, 0, -1.75),  # 0.25 - 2: what is known of the item
        (-1, -1, 0.25),  # the mean
    ],
)
def test_known_and_unknown_rows_by_hand(dtype, user, item, expected, rng):
    problem = hand_made(dtype, rng)
    for level in LEVELS:
        assert pairs(problem, [user], [item], level).tolist() == [expected]
        assert block(problem, [user], [item], level).tolist() == [[expected]]


@given(questions(), st.sampled_from(LEVELS))
def test_block_equals_its_twin(question, level):
    problem, users, items = question
    np.testing.assert_allclose(
        block(problem, users, items, level),
        block(problem, users, items, kernel=reference.predict_block),
        **TOLERANCE[problem.dtype],
    )


@given(questions(), st.sampled_from(LEVELS))
def test_pairs_equal_their_twin(question, level):
    problem, users, items = question
    n = min(len(users), len(items))
    np.testing.assert_allclose(
        pairs(problem, users[:n], items[:n], level),
        pairs(problem, users[:n], items[:n], kernel=reference.predict_pairs),
        **TOLERANCE[problem.dtype],
    )


@given(questions())
def test_routes_levels_and_strides_change_no_bit(question):
    problem, users, items = question
    assert len(set(all_ways(problem, users, items))) == 1


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize(("n_users", "n_items"), [(1, 33), (2, 64), (3, 71), (9, 100), (50, 1)])
def test_large_blocks_are_their_pairs(n_users, n_items, unknown, dtype, rng):
    # More than fits into a tile of users and items, or a strip of items.
    problem = make_problem(rng, np.ones((20, 30), dtype=bool), 21, dtype=dtype, global_mean=2.5)
    first = -1 if unknown else 0
    users, items = rng.integers(first, 20, n_users), rng.integers(first, 30, n_items)
    found = all_ways(problem, users, items)
    assert len(set(found)) == 1
    expected = block(problem, users, items, kernel=reference.predict_block)
    np.testing.assert_allclose(
        np.frombuffer(found[0], dtype).reshape(n_users, n_items),
        expected,
        **TOLERANCE[problem.dtype],
    )


def test_only_unknown_rows_need_no_factors(rng):
    # A model without users or without items has no row that could be read.
    problem = make_problem(rng, np.ones((0, 0), dtype=bool), 3, global_mean=1.5)
    for level in LEVELS:
        assert pairs(problem, [-1] * 5, [-1] * 5, level).tolist() == [1.5] * 5
        assert block(problem, [-1, -1], [-1] * 40, level).tolist() == [[1.5] * 40] * 2


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n_factors", [*range(1, 41), 64, 100])
def test_whole_numbers_are_predicted_exactly(n_factors, dtype, rng):
    problem = make_problem(rng, np.ones((3, 4), dtype=bool), n_factors, dtype=dtype)
    for array in problem.arrays[3:7]:  # factors and biases
        array[...] = rng.integers(-9, 10, array.shape)
    expected = (
        problem.user_biases[:, None]
        + problem.item_biases
        + problem.user_factors @ problem.item_factors.T
    )
    for level in LEVELS:
        np.testing.assert_array_equal(block(problem, range(3), range(4), level), expected)


def test_float32_predictions_are_summed_in_double(rng):
    # 1e4·1e4 + 1·1 - 1e4·1e4 is 1, but 0 if 1e8 + 1 is rounded to float32.
    problem = make_problem(rng, np.ones((1, 1), dtype=bool), 3, dtype=np.float32)
    problem.user_factors[...] = [1e4, 1.0, -1e4]
    problem.item_factors[...] = [1e4, 1.0, 1e4]
    problem.user_biases[...] = problem.item_biases[...] = 0
    for level in LEVELS:
        assert pairs(problem, [0], [0], level).tolist() == [1.0]
        assert block(problem, [0], [0], level).tolist() == [[1.0]]


@pytest.mark.parametrize("dtype", FLOATS)
def test_inputs_of_predictions_may_be_read_only_and_are_not_changed(dtype, rng):
    problem = make_problem(rng, np.ones((2, 3), dtype=bool), 4, dtype=dtype, read_only=True)
    before = [array.copy() for array in problem.arrays]
    users, items = np.array([1, 0]), np.array([2, -1])
    users.flags.writeable = items.flags.writeable = False
    assert np.isfinite(pairs(problem, users, items)).all()
    assert np.isfinite(block(problem, users, items)).all()
    for array, copy in zip(problem.arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)
