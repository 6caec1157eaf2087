"""Ids to rows and back: `RowMap`, `IdMap`, and what they share."""

from __future__ import annotations

import copy
import datetime
import enum
import pickle
import threading

import hypothesis.extra.numpy as hnp
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmf._ids import IdMap, RowMap, check_rows, check_unique, make_lookup, normalize_labels


class Color(str, enum.Enum):  # noqa: UP042  str() of these is not their value
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Answers:
    """Equal to everything, like a careless stand-in."""

    __hash__ = None


# --- check_rows and RowMap -------------------------------------------------------------------


@pytest.mark.parametrize(
    "user", [3, np.int8(3), np.uint64(3), np.array(3), np.array(3, dtype=">u2"), Level.HIGH]
)
def test_single_row_is_scalar(user):
    rows, is_scalar = check_rows(user, 5, "user")
    assert is_scalar is True
    assert rows.dtype == np.int64
    assert rows.tolist() == [3]


@pytest.mark.parametrize(
    "users",
    [
        [3, 0, 3],
        (3, 0, 3),
        [np.int32(3), 0, np.uint8(3)],
        np.array([3, 0, 3], dtype=np.uint64),
        np.array([3, 0, 3], dtype=">i4"),
        np.array([3, 9, 0, 9, 3, 9], dtype=np.int16)[::2],
        pd.Series([3, 0, 3], index=[7, 8, 9]),
        pd.Series([3, 0, 3], dtype="Int64"),
        pd.Index([3, 0, 3]),
        pl.Series([3, 0, 3]),
        pa.array([3, 0, 3]),
        pa.chunked_array([[3], [0, 3]]),
    ],
)
def test_many_rows_of_every_kind(users):
    rows, is_scalar = check_rows(users, 5, "user")
    assert is_scalar is False
    assert rows.dtype == np.int64
    assert rows.dtype.isnative
    assert rows.tolist() == [3, 0, 3]


def test_range_and_empty_sequences_are_rows():
    assert check_rows(range(1, 5, 2), 5, "user")[0].tolist() == [1, 3]
    for empty in ([], (), range(0), np.array([], dtype=np.uint8)):
        rows, is_scalar = check_rows(empty, 5, "user")
        assert (rows.dtype, rows.shape, is_scalar) == (np.int64, (0,), False)


def test_rows_are_a_copy_of_a_read_only_input():
    users = np.array([1, 2])
    users.flags.writeable = False
    rows, _ = check_rows(users, 5, "user")
    rows[0] = 4
    assert users.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("users", "found"),
    [
        (True, "bool True"),
        (np.True_, "bool"),
        (1.0, "float 1.0"),
        (np.float32(1), "float32"),
        ("1", "str '1'"),
        (b"1", "bytes"),
        (None, "NoneType None"),
        ({1: 2}, "dict"),
        ({1}, "set"),
        (np.timedelta64(1, "s"), "timedelta64"),
        ([1, True], "bool True"),
        ([1, 1.0], "float 1.0"),
        ([1, "a"], "str 'a'"),
        ([1, None], "NoneType None"),
        ([[1], [2]], r"list \[1\]"),
        (np.array([True]), "dtype bool"),
        (np.array([1.0]), "dtype float64"),
        (np.array([1], dtype=object), "dtype object"),
        (np.array(["1"]), "dtype <U1"),
        (np.ma.array([1, 2], mask=[False, True]), "NoneType None"),
        (pd.Series([1, None], dtype="Int64"), "NAType"),
        (pa.chunked_array([pa.array([1, None]).dictionary_encode()]), "NoneType None"),
    ],
)
def test_what_is_no_integer_is_refused(users, found):
    message = rf"items must be integer rows .*1-D sequence.*got .*{found}"
    for unknown in ("raise", "mean"):
        with pytest.raises(TypeError, match=message):
            check_rows(users, 5, "item", unknown)


@pytest.mark.parametrize("users", [np.zeros((2, 2), dtype=int), np.zeros((0, 3), dtype=int)])
def test_two_dimensions_are_refused(users):
    with pytest.raises(ValueError, match="users must be one-dimensional, got 2 dimensions"):
        check_rows(users, 5, "user")


def test_data_frame_is_no_list_of_rows():
    with pytest.raises(ValueError, match="users must be one-dimensional, got 2"):
        check_rows(pd.DataFrame({"a": [1]}), 5, "user")


@pytest.mark.parametrize(
    ("users", "n", "message"),
    [
        (-1, 200, r"^user -1 is not a row of this model \(it has 200 users: 0 to 199\)$"),
        (200, 200, r"^user 200 is not a row .*0 to 199"),
        (np.int16(-7), 3, r"^user -7 is not"),
        (0, 0, r"^user 0 is not a row of this model \(it has 0 users\)$"),
        (1, 1, r"^user 1 is not a row of this model \(it has 1 user: 0 to 0\)$"),
        ([0, 7], 5, r"^user 7 \(1 of 2\) is not a row"),
        ([9, 0, 8], 5, r"^users 9, 8 \(2 of 3\) are not rows of this model"),
        ([5, 6, 7, 8, 0], 5, r"^users 5, 6, 7, … \(4 of 5\) are not rows"),
        (2**63, 5, r"^user 9223372036854775808 is not"),
        ([0, -(2**80)], 5, r"^user -1208925819614629174706176 \(1 of 2\) is not"),
        ([2**63, -1], 5, r"^users 9223372036854775808, -1 \(2 of 2\) are not"),
        (np.array([2**64 - 1], dtype=np.uint64), 5, r"^user 18446744073709551615 is not"),
        ([np.uint64(2**64 - 1)], 5, r"^user 18446744073709551615 is not"),
    ],
)
def test_rows_out_of_range(users, n, message):
    with pytest.raises(ValueError, match=message):
        check_rows(users, n, "user")
    rows, _ = check_rows(users, n, "user", "mean")
    inside = [0 <= int(user) < n for user in np.atleast_1d(np.array(users, dtype=object))]
    assert (rows == -1).tolist() == [not ok for ok in inside]


def test_unknown_must_be_a_policy():
    for lookup in (RowMap(3, "user"), IdMap([0, 1, 2], "user")):
        with pytest.raises(ValueError, match='unknown must be "raise" or "mean", got \'zero\''):
            lookup.lookup(0, unknown="zero")


def test_row_map_is_its_own_ids():
    users = RowMap(4, "user")
    assert len(users) == 4
    assert users.lookup(2)[0].tolist() == [2]
    rows = np.array([[1, -1], [0, 3]])
    taken = users.take(rows)
    assert taken.dtype == np.int64
    np.testing.assert_array_equal(taken, rows)
    assert not np.shares_memory(taken, rows)
    assert pickle.loads(pickle.dumps(users)).lookup(3)[0].tolist() == [3]


# --- normalize_labels ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        [3, 1],
        range(3, 0, -2),
        [np.int8(3), np.uint64(1)],
        np.array([3, 1], dtype=">u8"),
        np.array([3, 1], dtype=object),
        pd.Index([3, 1]),
        pd.Index([3, 1], dtype="Int64"),
        pl.Series([3, 1]),
    ],
)
def test_integer_labels_become_int64(labels):
    normal = normalize_labels(labels, "user ids")
    assert normal.dtype == np.int64
    assert normal.dtype.isnative
    assert normal.tolist() == [3, 1]


@pytest.mark.parametrize(
    "labels",
    [
        ["b", "a"],
        ("b", "a"),
        np.array(["b", "a"]),
        np.array(["b", "a"], dtype=np.dtypes.StringDType()),
        [np.str_("b"), "a"],
        pd.Index(["b", "a"]),
        pd.CategoricalIndex(["b", "a"]),
        pl.Series(["b", "a"]),
        pa.array(["b", "a"]),
    ],
)
def test_string_labels_become_objects_all_str(labels):
    normal = normalize_labels(labels, "user ids")
    assert normal.dtype == object
    assert normal.tolist() == ["b", "a"]
    assert set(map(type, normal)) == {str}


def test_members_of_an_enum_become_their_values():
    normal = normalize_labels([Color.RED, Level.HIGH], "user ids")
    assert [(type(label), label) for label in normal] == [(str, "red"), (int, 3)]


def test_other_labels_stay_python_objects():
    day = datetime.date(2020, 1, 2)
    labels = [("a", 1), ("b", 2), True, np.True_, 1.5, np.float64(2.5), day, b"x", 2**70]
    normal = normalize_labels(labels, "user ids")
    assert normal.dtype == object
    assert normal.shape == (9,)
    assert normal.tolist() == [("a", 1), ("b", 2), True, True, 1.5, 2.5, day, b"x", 2**70]
    assert [type(label) for label in normal[3:6]] == [bool, float, float]


def test_integers_beyond_64_bits_stay_python_objects():
    for labels in ([2**63, 1], np.array([2**63, 1], dtype=np.uint64)):
        normal = normalize_labels(labels, "user ids")
        assert normal.dtype == object
        assert normal.tolist() == [2**63, 1]
        assert set(map(type, normal)) == {int}


def test_datetime_labels_keep_their_type():
    stamps = pd.date_range("2020-01-01", periods=2)
    assert normalize_labels(stamps, "user ids").tolist() == list(stamps)
    nanoseconds = stamps.to_numpy().astype("M8[ns]")
    assert set(map(type, normalize_labels(nanoseconds, "user ids"))) == {np.datetime64}


@pytest.mark.parametrize(
    "null", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT", "s")]
)
def test_null_label_is_refused(null):
    with pytest.raises(ValueError, match=r"user ids must not be null, got .* at position 1"):
        normalize_labels(["a", null], "user ids")


def test_unhashable_label_is_refused():
    with pytest.raises(TypeError, match=r"item ids must be hashable, got list \[1\] at position 1"):
        normalize_labels([0, [1]], "item ids")
    with pytest.raises(TypeError, match=r"item ids must be hashable, got tuple \(1, \[2\]\)"):
        normalize_labels([(1, [2])], "item ids")
    with pytest.raises(TypeError, match="item ids must be hashable, got Answers"):
        normalize_labels([Answers()], "item ids")


@pytest.mark.parametrize("labels", ["abc", b"abc", 3])
def test_labels_must_be_a_sequence(labels):
    with pytest.raises(TypeError, match=f"ids must be a sequence, got {type(labels).__name__}"):
        normalize_labels(labels, "user ids")
    with pytest.raises(TypeError, match="ids must be a sequence"):
        IdMap(["abc"], "user").rows(labels)


def test_normal_form_is_a_copy():
    for labels in (np.array([1, 2]), np.array(["a", "b"], dtype=object)):
        assert not np.shares_memory(normalize_labels(labels, "user ids"), labels)


@pytest.mark.parametrize("labels", [[5, 3, 5, 3], ["e", "c", "e", "c"], [5, "c", 5, "c"]])
def test_check_unique_names_the_first_repeat(labels):
    normal = normalize_labels(labels, "user ids")
    with pytest.raises(ValueError, match=f"user ids must be unique, got {labels[2]!r} more than"):
        check_unique(normal, "user ids")
    check_unique(normal[:2], "user ids")


def test_check_unique_is_typed():
    check_unique(normalize_labels([1, True, 1.0, "1", (1,), (True,)], "user ids"), "user ids")


# --- IdMap -----------------------------------------------------------------------------------


def test_labels_are_read_only_and_own_memory():
    given_labels = np.array([4, 2])
    users = IdMap(given_labels, "user")
    given_labels[0] = 7
    assert users.labels.tolist() == [4, 2]
    with pytest.raises(ValueError, match="read-only"):
        users.labels[0] = 1
    assert given_labels.flags.writeable


@pytest.mark.parametrize(
    "labels", [[30, -10, 20], ["30", "-10", "20"], [30, "-10", 2.5], [(1, 2), (3,), ()]]
)
def test_rows_and_take_undo_each_other(labels):
    users = IdMap(labels, "user")
    assert len(users) == 3
    rows = users.rows([labels[2], labels[0], labels[2], labels[1]])
    assert rows.dtype == np.int64
    assert rows.tolist() == [2, 0, 2, 1]
    taken = users.take(rows)
    assert taken.dtype == users.labels.dtype
    assert taken.tolist() == [labels[2], labels[0], labels[2], labels[1]]


EVERYTHING = [3, "3", 3.0, True, 1, 1.0, None, float("nan"), (3,), b"3", 2**70, np.uint64(2**63)]


@pytest.mark.parametrize(
    ("labels", "known"),
    [
        ([3, 1], {3: 0, 1: 1}),
        (["3"], {"3": 0}),
        ([True, 3.0], {True: 0, 3.0: 1}),
        ([3, "3", 3.0, True, 1, 1.0, (3,)], None),
        ([2**70, 2**63], {2**70: 0, 2**63: 1}),
    ],
)
def test_equality_of_labels_is_typed(labels, known):
    users = IdMap(labels, "user")
    expected = []
    for query in EVERYTHING:
        plain = query.item() if isinstance(query, np.generic) else query
        same = [row for row, x in enumerate(labels) if type(x) is type(plain) and x == plain]
        expected.append(same[0] if same else -1)
    assert users.rows(EVERYTHING).tolist() == expected
    assert [users.lookup(query, "mean")[0][0] for query in EVERYTHING if query != (3,)] == [
        row for query, row in zip(EVERYTHING, expected, strict=True) if query != (3,)
    ]
    assert known is None or sum(row >= 0 for row in expected) == len(known)


def test_types_that_differ_by_origin_only_are_equal():
    numbers = IdMap([3, 1], "user")
    for three in (np.int8(3), np.uint64(3), Level.HIGH, np.array(3)):
        assert numbers.lookup(three)[0].tolist() == [0]
    words = IdMap(["red"], "user")
    for red in (np.str_("red"), Color.RED, np.array("red")):
        assert words.lookup(red)[0].tolist() == [0]
    mixed = IdMap([True, 2.5, 3, "red"], "user")
    queries = [np.True_, np.float64(2.5), np.int32(3), np.str_("red")]
    assert mixed.rows(queries).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "queries",
    [
        ["b", "x", "a"],
        ("b", "x", "a"),
        np.array(["b", "x", "a"]),
        np.array(["b", "x", "a"], dtype=object),
        np.array(["b", "x", "a"], dtype=np.dtypes.StringDType()),
        pd.Series(["b", "x", "a"]),
        pd.Index(["b", "x", "a"]),
        pd.Series(["b", "x", "a"], dtype="category"),
        pl.Series(["b", "x", "a"]),
        pa.array(["b", "x", "a"]),
        pa.chunked_array([["b"], ["x", "a"]]),
    ],
)
def test_collections_of_every_kind_are_many(queries):
    rows, is_scalar = IdMap(["a", "b"], "user").lookup(queries, unknown="mean")
    assert is_scalar is False
    assert rows.tolist() == [1, -1, 0]


def test_integer_labels_take_integer_collections_and_no_others():
    users = IdMap([10, 5, -3], "user")
    for queries in (
        [5, -3, 7],
        np.array([5, -3, 7], dtype=">i2"),
        pd.Series([5, -3, 7]),
        pl.Series([5, -3, 7]),
    ):
        assert users.rows(queries).tolist() == [1, 2, -1]
    assert users.rows(np.array([5, 2**64 - 3], dtype=np.uint64)).tolist() == [1, -1]
    assert users.rows(range(4, 6)).tolist() == [-1, 1]
    assert users.rows(np.array([5.0, 10.0])).tolist() == [-1, -1]
    assert users.rows(np.array([True, False])).tolist() == [-1, -1]
    assert users.rows([]).tolist() == []
    assert users.rows([0]).tolist() == [-1]  # what does not fit is looked up as 0 internally
    assert IdMap([0], "user").rows([None, 2**80, 0]).tolist() == [-1, -1, 0]


def test_tuples_are_one_label_where_labels_are_tuples():
    pairs = IdMap([("a", 1), ("b", 2)], "user")
    rows, is_scalar = pairs.lookup(("b", 2))
    assert (rows.tolist(), is_scalar) == ([1], True)
    rows, is_scalar = pairs.lookup([("b", 2), ("a", 1)])
    assert (rows.tolist(), is_scalar) == ([1, 0], False)
    assert pairs.lookup(("a", True), "mean")[0].tolist() == [-1]
    rows, is_scalar = IdMap(["a", "b"], "user").lookup(("b", "a"))
    assert (rows.tolist(), is_scalar) == ([1, 0], False)


@pytest.mark.parametrize("labels", [[1, 2], ["a", "b"], [1, "a"]])
def test_unhashable_query_is_refused_by_name(labels):
    users = IdMap(labels, "user")
    with pytest.raises(TypeError, match=r"user ids must be hashable, got list \['x'\] at posit"):
        users.lookup([labels[0], ["x"]])
    with pytest.raises(TypeError, match="user ids must be hashable, got dict"):
        users.lookup({"x": 1}, unknown="mean")
    with pytest.raises(ValueError, match="user ids must be one-dimensional, got 2"):
        users.lookup(np.array([["a", "b"]]))


def test_unknown_ids_are_named():
    users = IdMap(["ann", "bob"], "user")
    with pytest.raises(
        ValueError,
        match=r"^unknown user ids: 'Bob'; this model knows 2 user ids, such as 'ann'$",
    ):
        users.lookup("Bob")
    with pytest.raises(ValueError, match=r"^unknown user ids: 'x', 3, None, … \(4 of 5\); this"):
        users.lookup(["x", "ann", 3, None, "y"])
    with pytest.raises(ValueError, match=r"^unknown item ids: 7 \(1 of 2\); .*such as 3$"):
        IdMap([3], "item").lookup(np.array([3, 7]))
    with pytest.raises(ValueError, match=r"^unknown item ids: 'a'; this model knows 0 item ids$"):
        IdMap([], "item").lookup("a")
    assert users.lookup(["x", "ann"], unknown="mean")[0].tolist() == [-1, 0]


def test_unknown_lists_the_first_few():
    users = IdMap(["ann", "bob"], "user")
    assert users.unknown(["ann", np.str_("x"), "bob", np.int64(3), "z", "y"]) == ["'x'", "3", "'z'"]
    assert users.unknown(["x", "y"], limit=1) == ["'x'"]
    assert users.unknown(["ann", "bob"]) == []


@pytest.mark.parametrize("labels", [[7, 8], ["a", "b"]])
def test_take_of_no_row_is_none(labels):
    users = IdMap(labels, "user")
    taken = users.take(np.array([[1, -1], [0, 1]]))
    assert taken.dtype == object
    assert taken.tolist() == [[labels[1], None], [labels[0], labels[1]]]
    whole = users.take(np.array([[1, 0]]))
    assert whole.dtype == users.labels.dtype
    assert whole.shape == (1, 2)
    assert whole.flags.writeable
    with pytest.raises(IndexError, match="out of bounds"):
        users.take(np.array([2]))


@pytest.mark.parametrize("labels", [[5, 3, 5], ["e", "c", "e"], [5, "c", 5]])
def test_labels_that_occur_twice_are_refused_by_the_first_look_up(labels):
    users = IdMap(labels, "user")
    with pytest.raises(ValueError, match=f"user ids must be unique, got {labels[0]!r} more"):
        users.rows([labels[0]])


@pytest.mark.parametrize("labels", [[5, 3], ["e", "c"], [5, "c"]])
def test_map_survives_pickle_and_copy(labels):
    users = IdMap(labels, "user")
    users.rows(labels)
    for again in (pickle.loads(pickle.dumps(users)), copy.deepcopy(users)):
        assert again.labels.dtype == users.labels.dtype
        assert again.rows([labels[1], 9]).tolist() == [1, -1]
        with pytest.raises(ValueError, match="unknown user ids"):
            again.lookup(9)


@pytest.mark.parametrize("labels", [range(2000), [str(i) for i in range(2000)]])
def test_first_look_ups_from_many_threads_agree(labels):
    users = IdMap(labels, "user")
    barrier = threading.Barrier(8)
    results = []

    def look_up():
        barrier.wait()
        results.append(users.rows(labels).tolist())

    threads = [threading.Thread(target=look_up) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [list(range(2000))] * 8


def test_make_lookup_chooses_by_labels():
    assert isinstance(make_lookup(None, 3, "user"), RowMap)
    assert isinstance(make_lookup(np.array([4, 5]), 2, "user"), IdMap)
    assert repr(make_lookup(None, 3, "user")) == "RowMap(3, 'user')"
    assert repr(make_lookup(np.array([4, 5]), 2, "user")) == "IdMap([4, 5], 'user')"


# --- the two maps agree, and with a loop -----------------------------------------------------

INTEGER_QUERIES = st.one_of(
    st.integers(-(2**65), 2**65),
    st.integers(-3, 12),
    st.lists(st.integers(-3, 12) | st.integers(-(2**65), 2**65), max_size=8),
    hnp.arrays(
        hnp.integer_dtypes(endianness="?") | hnp.unsigned_integer_dtypes(endianness="?"),
        st.integers(0, 8),
    ),
)


@given(n=st.integers(1, 10), queries=INTEGER_QUERIES)
def test_row_map_agrees_with_id_map_of_its_rows(n, queries):
    by_row, by_label = RowMap(n, "user"), IdMap(range(n), "user")
    rows, is_scalar = by_row.lookup(queries, unknown="mean")
    rows_of_labels, is_label = by_label.lookup(queries, unknown="mean")
    assert is_scalar is is_label
    np.testing.assert_array_equal(rows, rows_of_labels)
    many = [queries] if is_scalar else [int(query) for query in queries]
    assert rows.tolist() == [query if 0 <= query < n else -1 for query in many]
    known = rows[rows >= 0]
    np.testing.assert_array_equal(by_row.take(known), by_label.take(known))
    if len(known) < len(rows):
        for lookup in (by_row, by_label):
            with pytest.raises(ValueError, match=r"is not a row|are not rows|unknown user ids"):
                lookup.lookup(queries)


LABELS = st.one_of(
    st.integers(-5, 5), st.text(max_size=2), st.booleans(), st.floats(-2, 2, width=16)
)


@given(
    labels=st.lists(LABELS, unique_by=lambda x: (type(x), x), max_size=12)
    | st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=12)
    | st.lists(st.text(max_size=3), unique=True, max_size=12),
    queries=st.lists(LABELS, max_size=12),
    data=st.data(),
)
def test_id_map_agrees_with_a_loop(labels, queries, data):
    if labels:
        queries = queries + data.draw(st.lists(st.sampled_from(labels), max_size=6))
    expected = [
        next((r for r, x in enumerate(labels) if type(x) is type(q) and x == q), -1)
        for q in queries
    ]
    users = IdMap(labels, "user")
    assert users.rows(queries).tolist() == expected
    assert users.take(users.rows(queries)).tolist() == [
        q if r >= 0 else None for q, r in zip(queries, expected, strict=True)
    ]
