"""Splits of ratings: nothing lost, nothing twice, exact sizes, and chance where it belongs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import cmf
from cmf._frames import read_wide
from cmf.model_selection import KFold, split_by_time, split_by_user, train_test_split


def make_ratings(n_users=7, n_items=9, density=0.5, seed=0, dtype=np.float64):
    """Ratings whose values tell where they belong; one of them is an explicit 0."""
    rng = np.random.default_rng(seed)
    users, items = np.nonzero(rng.random((n_users, n_items)) < density)
    values = (users * n_items + items).astype(dtype)
    values[0] = 0.0
    return sparse.csr_array((values, (users, items)), shape=(n_users, n_items))


def few_ratings(rng, shape, n_first):
    """Ratings from 0 to 2 of random cells; the first user has rated the first items for sure."""
    rated = rng.random(shape) < 0.6
    rated[0, :n_first] = True
    users, items = np.nonzero(rated)
    return sparse.csr_array((rng.integers(0, 3, len(users)), (users, items)), shape=shape)


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
    ratings = few_ratings(np.random.default_rng(seed), shape, 2)

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


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
def test_wide_data_frames_are_split_into_their_kind(kind):
    library = pytest.importorskip(kind)
    cells = {"x": [5.0, None, 2.0], "y": [0.0, 3.0, 1.0], "z": [None, None, 4.0]}
    users = ["ann", "bob", "cid"]
    if kind == "pandas":
        frame = library.DataFrame(cells, index=users, dtype=float)
    else:
        make = library.DataFrame if kind == "polars" else library.table
        frame = make({"user": users, **cells})
    splits = [
        *KFold(2, random_state=0).split(frame),
        train_test_split(frame, test_size=0.3, random_state=0),
        split_by_user(frame, test_size=1, random_state=0),
        split_by_time(frame, np.arange(9).reshape(3, 3)),
    ]
    for parts in splits:
        read = [read_wide(part) for part in parts]
        for part, wide in zip(parts, read, strict=True):
            assert type(part) is type(frame)
            assert wide.user_ids.tolist() == users
            assert wide.item_ids.tolist() == ["x", "y", "z"]
        train, test = ({(u, i): t.values[u, i] for u, i in rated(t.values)} for t in read)
        assert not train.keys() & test.keys()
        assert train | test == {(0, 0): 5, (1, 1): 3, (2, 0): 2, (2, 1): 1, (2, 2): 4}
        model = cmf.MatrixFactorization(2, random_state=0).fit(parts[0], validation=parts[1])
        assert model.user_ids_.tolist() == users


def rated(table):
    return np.argwhere(~np.isnan(table)).tolist()


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


@pytest.mark.parametrize(
    "split",
    [train_test_split, KFold(2).split, split_by_user, lambda ratings: split_by_time(ratings, [1])],
)
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


# --- by user --------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 8), st.integers(3, 8)),
    test_size=st.one_of(
        st.floats(0.0, 1.0, exclude_min=True, exclude_max=True), st.integers(1, 10)
    ),
    min_train=st.integers(1, 4),
    timed=st.booleans(),
)
def test_each_user_is_split_as_asked(seed, shape, test_size, min_train, timed):
    rng = np.random.default_rng(seed)
    ratings = few_ratings(rng, shape, 3)
    lengths = np.diff(ratings.indptr)
    wanted = np.rint(test_size * lengths) if isinstance(test_size, float) else test_size
    expected = np.minimum(wanted, np.maximum(lengths - min_train, 0))
    times = rng.integers(0, 10, ratings.nnz)

    def split():
        if timed:
            return split_by_time(
                ratings, times, test_size=test_size, per_user=True, min_train=min_train
            )
        return split_by_user(ratings, test_size=test_size, min_train=min_train, random_state=seed)

    if expected.sum() == 0:
        with pytest.raises(ValueError, match="hold out no rating of any user, of whom none has"):
            split()
        return
    train, test = split()
    assert entries(train) | entries(test) == entries(ratings)
    assert train.nnz + test.nnz == ratings.nnz
    np.testing.assert_array_equal(np.diff(test.indptr), expected)
    when = dict(zip(entries(ratings), times.tolist(), strict=True))
    for user in np.flatnonzero(expected) if timed else ():
        last = max(when[key] for key in entries(train) if key[0] == user)
        assert last <= min(when[key] for key in entries(test) if key[0] == user)


def test_every_rating_of_a_user_is_as_likely_to_be_held_out():
    ratings = sparse.csr_array(np.ones((2, 4)))
    rng = np.random.default_rng(2)
    n_draws = 2000
    found = sum(
        split_by_user(ratings, test_size=1, random_state=rng)[1].toarray() for _ in range(n_draws)
    )
    np.testing.assert_allclose(found, n_draws / 4, atol=4.5 * np.sqrt(n_draws * 3 / 16))


def test_split_by_user_does_not_depend_on_storage_and_repeats_with_its_seed():
    ratings = make_ratings(12, 15)
    expected = entries(split_by_user(ratings, random_state=3)[1])
    for other in (ratings.tocsc(), ratings.tocoo(), sparse.csr_matrix(ratings)):
        assert entries(split_by_user(other, random_state=3)[1]) == expected
    assert entries(split_by_user(ratings, random_state=4)[1]) != expected


# --- by time --------------------------------------------------------------------------------------


TIME_TYPES = [np.int64, np.float32, "datetime64[s]", "datetime64[ns]"]


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        *((form, np.int64) for form in ("csr", "csc", "coo", "lil")),
        *((form, dtype) for form in ("stored", "dense") for dtype in TIME_TYPES),
    ],
)
def test_the_latest_ratings_are_held_out(form, dtype):
    ratings = make_ratings(9, 7).tocsc() if form == "stored" else make_ratings(9, 7)
    coo = ratings.tocoo()
    order = np.random.default_rng(1).permutation(ratings.nnz)
    numbers = order.astype(dtype)
    when = dict(zip(zip(coo.row.tolist(), coo.col.tolist(), strict=True), order, strict=True))
    if form == "stored":
        timestamps = numbers
    elif form == "dense":
        timestamps = np.zeros(ratings.shape, dtype=dtype)
        timestamps[coo.row, coo.col] = numbers
    elif form == "coo":
        timestamps = sparse.coo_array((numbers[::-1], (coo.row[::-1], coo.col[::-1])), coo.shape)
    elif form == "csr":
        timestamps = sparse.csr_array((numbers, ratings.indices, ratings.indptr), coo.shape)
    else:
        places = sparse.csr_array((order + 1, (coo.row, coo.col)), coo.shape).asformat(form)
        if form == "csc":
            stored = (places.data - 1).astype(dtype)
            timestamps = sparse.csc_array((stored, places.indices, places.indptr), coo.shape)
        else:
            timestamps = places.astype(dtype)
    train, test = split_by_time(ratings, timestamps, test_size=0.25)
    assert_partition(ratings, train, test)
    assert test.nnz == round(0.25 * ratings.nnz)
    assert max(when[key] for key in entries(train)) < min(when[key] for key in entries(test))


def test_times_closer_than_floats_can_tell_are_told_apart():
    ratings = sparse.csr_array([[1.0, 2.0, 3.0]])
    nanoseconds = 1_700_000_000_000_000_000 + np.array([1, 2, 0])
    for timestamps in (nanoseconds, sparse.csr_array(nanoseconds[np.newaxis])):
        _, test = split_by_time(ratings, timestamps, test_size=1)
        assert entries(test) == {(0, 1): 2.0}


def test_equal_times_are_in_order_of_place():
    _, test = split_by_time(sparse.csr_array(np.ones((2, 2))), [5, 5, 5, 5], test_size=1)
    assert entries(test) == {(1, 1): 1.0}
    _, test = split_by_time(
        sparse.csr_array(np.ones((2, 2))), [5, 5, 5, 5], test_size=1, per_user=True
    )
    assert entries(test) == {(0, 1): 1.0, (1, 1): 1.0}


@pytest.mark.parametrize(
    ("error", "message", "timestamps"),
    [
        (ValueError, r"timestamps has shape \(3,\): \(4,\), one for every rating, or", [1, 2, 3]),
        (ValueError, r"timestamps has shape \(2, 3\)", np.ones((2, 3))),
        (ValueError, "stores 3 entries in shape", sparse.csr_array([[1, 2], [0, 3]])),
        (ValueError, "one entry for every rating", sparse.csr_array(np.ones((2, 3)))),
        (ValueError, "finite, found NaN, NaT or infinity", [1.0, 2.0, np.nan, 3.0]),
        (ValueError, "finite", np.array([1, 2, "NaT", 3], dtype="datetime64[s]")),
        (ValueError, "timestamps is 1-D", sparse.coo_array(np.ones(4))),
        (TypeError, "of type object", [1, 2, 3, None]),
        (TypeError, "of type <U1", ["1", "2", "3", "4"]),
    ],
)
def test_bad_timestamps(error, message, timestamps):
    with pytest.raises(error, match=message):
        split_by_time(sparse.csr_array(np.ones((2, 2))), timestamps)


def test_timestamps_that_nothing_says_how_to_align():
    with pytest.raises(ValueError, match="only the formats CSR, CSC and COO have"):
        split_by_time(np.ones((2, 3)), [1, 2, 3, 4, 5, 6])
    pd = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match=r"got a data frame: call \.to_numpy\(\)"):
        split_by_time(np.ones((2, 2)), pd.DataFrame(np.ones((2, 2))))


def test_bad_arguments_of_splits_by_user_and_time():
    ratings = sparse.csr_array(np.ones((3, 4)))
    for error, message, arguments in (
        (ValueError, "min_train must be at least 1", {"min_train": 0}),
        (TypeError, "min_train must be an integer", {"min_train": 1.5}),
        (ValueError, "test_size must be at least 1", {"test_size": 0}),
        (ValueError, "test_size must be below 1 as a float", {"test_size": 1.0}),
        (TypeError, "test_size must be a number", {"test_size": "all"}),
    ):
        with pytest.raises(error, match=message):
            split_by_user(ratings, **arguments)
        with pytest.raises(error, match=message):
            split_by_time(ratings, np.arange(12), per_user=True, **arguments)
    with pytest.raises(ValueError, match="min_train must be 1 where per_user=False, got 2"):
        split_by_time(ratings, np.arange(12), min_train=2)
    with pytest.raises(TypeError, match="per_user must be True or False"):
        split_by_time(ratings, np.arange(12), per_user="yes")
