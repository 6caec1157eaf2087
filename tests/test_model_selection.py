"""Splits of ratings: nothing lost, nothing twice, exact sizes, and chance where it belongs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cmf.model_selection import KFold, train_test_split


def make_ratings(n_users=7, n_items=9, density=0.5, seed=0, dtype=np.float64):
    """Ratings whose values tell where they belong; one of them is an explicit 0."""
    rng = np.random.default_rng(seed)
    users, items = np.nonzero(rng.random((n_users, n_items)) < density)
    values = (users * n_items + items).astype(dtype)
    values[0] = 0.0
    return sparse.csr_array((values, (users, items)), shape=(n_users, n_items))


def entries(matrix):
    """Stored entries as a dict, explicit zeros included; refuses an entry stored twice."""
    coo = matrix.tocoo()
    found = dict(zip(zip(*map(np.ndarray.tolist, coo.coords), strict=True), coo.data, strict=True))
    assert len(found) == matrix.nnz
    return found


def assert_partition(ratings, train, test):
    for part in (train, test):
        assert isinstance(part, sparse.csr_array)
        assert part.shape == ratings.shape
        part.check_format(full_check=True)
        assert part.has_canonical_format
        assert part.nnz >= 1
    assert not entries(train).keys() & entries(test).keys()
    assert entries(train) | entries(test) == entries(ratings)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 8), st.integers(2, 8)),
    test_size=st.floats(0.0, 1.0, exclude_min=True, exclude_max=True),
    n_splits=st.integers(2, 6),
    shuffle=st.booleans(),
)
def test_every_rating_is_on_exactly_one_side(seed, shape, test_size, n_splits, shuffle):
    rng = np.random.default_rng(seed)
    rated = rng.random(shape) < 0.6
    rated[0, :2] = True
    users, items = np.nonzero(rated)
    ratings = sparse.csr_array((rng.integers(0, 3, len(users)), (users, items)), shape=shape)

    train, test = train_test_split(ratings, test_size=test_size, random_state=seed)
    assert_partition(ratings, train, test)
    wanted = round(test_size * ratings.nnz)
    assert test.nnz == min(max(wanted, 1), ratings.nnz - 1)

    n_splits = min(n_splits, ratings.nnz)
    folds = KFold(n_splits, shuffle=shuffle, random_state=seed if shuffle else None)
    tested = []
    for train, test in folds.split(ratings):
        assert_partition(ratings, train, test)
        tested.append(entries(test))
    sizes = [len(fold) for fold in tested]
    assert len(sizes) == n_splits
    assert sum(sizes) == ratings.nnz
    assert max(sizes) - min(sizes) <= 1
    assert {key: value for fold in tested for key, value in fold.items()} == entries(ratings)


@pytest.mark.parametrize(
    ("test_size", "expected"), [(0.2, 20), (0.555, 56), (1e-9, 1), (1 - 1e-9, 99), (1, 1), (99, 99)]
)
def test_size_is_exact(test_size, expected):
    ratings = sparse.csr_array(np.ones((10, 10)))
    for size in (test_size, np.asarray(test_size)[()]):
        train, test = train_test_split(ratings, test_size=size, random_state=0)
        assert (train.nnz, test.nnz) == (100 - expected, expected)


def test_a_fifth_is_the_default():
    _, test = train_test_split(sparse.csr_array(np.ones((10, 10))))
    assert test.nnz == 20


def test_every_choice_is_as_likely():
    ratings = sparse.csr_array(np.ones((2, 2)))
    rng = np.random.default_rng(1)
    n_draws = 3000
    of_split, of_folds = np.zeros((2, 2)), np.zeros((2, 2))
    pairs = {}
    for _ in range(n_draws):
        _, test = train_test_split(ratings, test_size=2, random_state=rng)
        of_split += test.toarray()
        key = tuple(test.toarray().ravel())
        pairs[key] = pairs.get(key, 0) + 1
        (_, fold), _ = KFold(2, random_state=rng).split(ratings)
        of_folds += fold.toarray()
    sigma = np.sqrt(n_draws / 4)
    np.testing.assert_allclose(of_split, n_draws / 2, atol=4.5 * sigma)
    np.testing.assert_allclose(of_folds, n_draws / 2, atol=4.5 * sigma)
    np.testing.assert_allclose(
        list(pairs.values()), n_draws / 6, atol=4.5 * np.sqrt(n_draws * 5 / 36)
    )
    assert len(pairs) == 6


@pytest.mark.parametrize("split", [train_test_split, None])
def test_seeds(split):
    ratings = make_ratings(20, 20)

    def test_part(random_state):
        if split is None:
            return entries(next(KFold(4, random_state=random_state).split(ratings))[1])
        return entries(split(ratings, random_state=random_state)[1])

    assert test_part(3) == test_part(3)
    assert test_part(3) == test_part(np.random.default_rng(3))
    assert test_part(3) != test_part(4)
    assert test_part(None) != test_part(None)
    generator = np.random.default_rng(3)
    assert test_part(generator) != test_part(generator)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    test_part(np.random.RandomState(5))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_folds_with_a_seed_are_the_same_at_each_call():
    folds = KFold(3, random_state=7)
    ratings = make_ratings()
    first, second = ([entries(test) for _, test in folds.split(ratings)] for _ in range(2))
    assert first == second


def test_split_does_not_depend_on_storage():
    ratings = make_ratings(12, 15)
    expected = entries(train_test_split(ratings, random_state=0)[1])
    backwards = sparse.csr_array(
        (
            np.concatenate([ratings.data[a:b][::-1] for a, b in _rows(ratings)]),
            np.concatenate([ratings.indices[a:b][::-1] for a, b in _rows(ratings)]),
            ratings.indptr.astype(np.int64),
        ),
        shape=ratings.shape,
    )
    data, indices = backwards.data.copy(), backwards.indices.copy()
    for other in (backwards, ratings.tocsc(), ratings.tocoo(), sparse.csr_matrix(ratings)):
        train, test = train_test_split(other, random_state=0)
        assert_partition(ratings, train, test)
        assert entries(test) == expected
    np.testing.assert_array_equal(backwards.data, data)
    np.testing.assert_array_equal(backwards.indices, indices)


def _rows(matrix):
    return list(zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True))


def test_unshuffled_folds_deal_ratings_in_order():
    ratings = sparse.csr_array(np.arange(1.0, 11.0).reshape(2, 5))
    tested = [test.data.tolist() for _, test in KFold(3, shuffle=False).split(ratings)]
    assert tested == [[1, 4, 7, 10], [2, 5, 8], [3, 6, 9]]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.int8, np.float64),
        (np.int64, np.float64),
        (np.bool_, np.float64),
        (">f4", np.float32),
    ],
)
def test_type_of_values(dtype, expected):
    ratings = np.ones((3, 3), dtype=dtype)
    if ratings.dtype.isnative:
        ratings = sparse.csr_array(ratings)
    parts = [*train_test_split(ratings), *next(KFold(2).split(ratings))]
    assert [part.dtype for part in parts] == [expected] * 4


def test_dense_zeros_and_nans_are_not_rated():
    train, test = train_test_split([[5.0, 0.0], [np.nan, 3.0]], test_size=1, random_state=0)
    assert entries(train) | entries(test) == {(0, 0): 5.0, (1, 1): 3.0}


def test_wide_data_frames_lose_their_labels():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"x": [5.0, np.nan], "y": [0.0, 3.0]}, index=["ann", "bob"])
    for train, test in KFold(2, random_state=0).split(frame):
        assert entries(train) | entries(test) == {(0, 0): 5.0, (1, 1): 3.0}
        assert train.shape == test.shape == (2, 2)


def test_parts_are_new_arrays_and_inputs_untouched():
    ratings = make_ratings()
    before = entries(ratings)
    for array in (ratings.data, ratings.indices, ratings.indptr):
        array.setflags(write=False)
    train, test = train_test_split(ratings, random_state=0)
    train.data += 1.0
    test.data += 1.0
    for train, test in KFold(2, shuffle=False).split(ratings):
        train.data += 1.0
        test.indices += 0
    assert entries(ratings) == before


@pytest.mark.parametrize(
    ("test_size", "message"),
    [
        (0.0, "test_size"),
        (1.0, "test_size must be below 1 as a float, got 1.0"),
        (-0.1, "test_size"),
        (float("nan"), "test_size"),
        (float("inf"), "test_size"),
        (0, "test_size"),
        (-3, "test_size"),
        (4, "test_size must be at most 3, got 4"),
        (10**30, "test_size must be at most 3"),
    ],
)
def test_bad_test_size(test_size, message):
    with pytest.raises(ValueError, match=message):
        train_test_split(sparse.csr_array(np.ones((2, 2))), test_size=test_size)


@pytest.mark.parametrize("test_size", [True, "0.2", None, [0.2], 1j])
def test_test_size_of_wrong_type(test_size):
    with pytest.raises(TypeError, match="test_size"):
        train_test_split(sparse.csr_array(np.ones((2, 2))), test_size=test_size)


def test_too_few_ratings():
    one = sparse.csr_array([[1.0, 0.0]])
    with pytest.raises(ValueError, match="hold at least two ratings to be split, got 1"):
        train_test_split(one)
    with pytest.raises(ValueError, match=r"at least n_splits=5 ratings, got 4"):
        KFold().split(sparse.csr_array(np.ones((2, 2))))


@pytest.mark.parametrize("split", [train_test_split, KFold(2).split])
def test_bad_ratings_are_refused_at_the_call(split):
    with pytest.raises(ValueError, match="ratings"):
        split(sparse.csr_array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match="ratings"):
        split([1.0, 2.0])
    with pytest.raises(ValueError, match="ratings"):
        split(sparse.csr_array((3, 3)))


def test_kfold_says_what_it_is():
    folds = KFold(3, random_state=1)
    assert repr(folds) == "KFold(n_splits=3, shuffle=True, random_state=1)"
    assert folds.get_n_splits() == 3
    assert repr(KFold(shuffle=False)) == "KFold(n_splits=5, shuffle=False, random_state=None)"


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "n_splits", {"n_splits": 1}),
        (TypeError, "n_splits", {"n_splits": 2.0}),
        (TypeError, "n_splits", {"n_splits": True}),
        (TypeError, "shuffle must be True or False, got 'no'", {"shuffle": "no"}),
        (ValueError, "random_state must be None where shuffle=False", {"random_state": 0}),
    ],
)
def test_bad_kfold(error, message, arguments):
    if "random_state" in arguments:
        arguments["shuffle"] = False
    with pytest.raises(error, match=message):
        KFold(**arguments)
