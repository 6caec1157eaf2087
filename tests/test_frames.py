"""Wide data frames in and out."""

from __future__ import annotations

import decimal
import subprocess
import sys

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from cmf._frames import is_frame, read_wide, refuse_other_frames, write_wide

NAN = float("nan")
D = decimal.Decimal


def fake(module: str, name: str, **attributes: object) -> object:
    """Something that looks as if it came from a library that is not installed."""
    return type(name, (), {"__module__": module, **attributes})()


# --- what is a frame -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"a": [1]}),
        type("Subclass", (pd.DataFrame,), {})({"a": [1]}),
        pl.DataFrame({"a": [1]}),
        pa.table({"a": [1]}),
        nw.from_native(pl.DataFrame({"a": [1]})),
        fake("modin.pandas.dataframe", "DataFrame"),
        fake("cudf.core.dataframe", "DataFrame"),
        fake("somewhere", "Other", __narwhals_dataframe__=lambda self: self),
    ],
)
def test_frames_are_recognized(frame):
    assert is_frame(frame)
    refuse_other_frames(frame, "ratings")


@pytest.mark.parametrize(
    "thing",
    [
        None,
        3,
        "pandas.DataFrame",
        [[1.0]],
        np.zeros((2, 2)),
        pd.DataFrame,
        fake("mypandas", "DataFrame"),
        fake("pandas_like", "DataFrame"),
        fake("anywhere", "Anything", __module__=property(lambda self: 1)),
    ],
)
def test_other_things_are_no_frames_and_pass(thing):
    assert not is_frame(thing)
    refuse_other_frames(thing, "ratings")


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (pd.Series([1.0]), r"pandas.Series: a 2-D table is wanted, .*; \.unstack"),
        (pd.Index([1]), "pandas.Index: a 2-D table is wanted"),
        (pd.RangeIndex(3), "pandas.RangeIndex: a 2-D table is wanted"),
        (pl.Series([1.0]), "polars.Series: a 2-D table"),
        (pl.LazyFrame({"a": [1]}), r"polars.LazyFrame: call .collect\(\) first"),
        (pa.array([1]), "pyarrow.Int64Array: a 2-D table"),
        (pa.chunked_array([[1]]), "pyarrow.ChunkedArray: a 2-D table"),
        (pa.RecordBatch.from_pydict({"a": [1]}), r"RecordBatch: call pyarrow.Table.from_batches"),
        (nw.from_native(pl.LazyFrame({"a": [1]})), r"narwhals.LazyFrame: call .collect\(\)"),
        (nw.from_native(pl.Series([1]), series_only=True), "narwhals.Series: a 2-D table"),
        (fake("dask.dataframe.dask_expr", "DataFrame"), r"dask.DataFrame: call .compute\(\)"),
        (fake("duckdb", "DuckDBPyRelation"), r"duckdb.DuckDBPyRelation: call .df\(\), .pl\(\)"),
        (fake("pyspark.sql.dataframe", "DataFrame"), r"pyspark.DataFrame: call .toPandas\(\)"),
        (fake("ibis.expr.types.relations", "Table"), r"ibis.Table: call .to_pandas\(\)"),
        (fake("x", "Lazy", __narwhals_lazyframe__=None), r"x.Lazy: call .collect\(\) first"),
    ],
)
def test_relatives_of_frames_are_refused_with_advice(thing, message):
    assert not is_frame(thing)
    with pytest.raises(TypeError, match=f"^validation must not be a .*{message}"):
        refuse_other_frames(thing, "validation")


def test_looking_at_things_imports_no_frame_library():
    code = """
import sys
from cmf._frames import is_frame, refuse_other_frames
assert not is_frame([[1.0]])
refuse_other_frames([[1.0]], "ratings")
loaded = {"narwhals", "pandas", "polars", "pyarrow"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- reading ---------------------------------------------------------------------------------


def test_pandas_index_and_columns_are_the_ids():
    frame = pd.DataFrame({"x": [5, 0], "y": [NAN, 1.5]}, index=["ann", "bob"])
    wide = read_wide(frame)
    assert_array_equal(wide.values, [[5, NAN], [0, 1.5]])
    assert wide.values.dtype == np.float64
    assert wide.values.flags.c_contiguous
    assert wide.user_ids.tolist() == ["ann", "bob"]
    assert wide.item_ids.tolist() == ["x", "y"]
    assert wide.kind == "pandas"


def test_pandas_default_index_gives_integer_ids():
    wide = read_wide(pd.DataFrame([[1, 2], [3, 4]]))
    assert wide.user_ids.dtype == np.int64
    assert wide.user_ids.tolist() == [0, 1]
    assert wide.item_ids.dtype == np.int64
    assert wide.item_ids.tolist() == [0, 1]


@pytest.mark.parametrize(
    "labels",
    [
        pd.Index([7, -2], dtype=np.int16),
        pd.Index([7, 9], dtype="Int64"),
        pd.Index([1, "1"], dtype=object),
        pd.Index([0.5, 1.5]),
        pd.Index([True, False]),
        pd.date_range("2020-01-01", periods=2),
        pd.CategoricalIndex(["b", "a"]),
        pd.Index(["b", "a"], dtype="string"),
        pd.Index([("a", 1), ("b", 2)], tupleize_cols=False),
        pd.interval_range(0, 2),
    ],
)
@pytest.mark.parametrize("values", [[[1, 2], [3, 4]], [[1, True], [3, False]]])
def test_pandas_labels_of_every_type(labels, values):
    frame = pd.DataFrame(values, index=labels, columns=labels).convert_dtypes()
    wide = read_wide(frame)
    assert wide.user_ids.tolist() == labels.tolist()
    assert wide.item_ids.tolist() == labels.tolist()
    assert_array_equal(wide.values, np.array(values, dtype=np.float64))


def test_polars_and_pyarrow_first_column_of_strings_is_the_users():
    data = {"who": ["ann", "bob"], "x": [5, 0], "y": [None, 1.5]}
    categories = pl.DataFrame(data).with_columns(pl.col("who").cast(pl.Categorical))
    fixed = pl.DataFrame(data).with_columns(pl.col("who").cast(pl.Enum(["ann", "bob"])))
    dictionary = pa.table({**data, "who": pa.array(data["who"]).dictionary_encode()})
    large = pa.table({**data, "who": pa.array(data["who"], pa.large_string())})
    for frame in (pl.DataFrame(data), pa.table(data), categories, fixed, dictionary, large):
        wide = read_wide(frame)
        assert wide.user_ids.tolist() == ["ann", "bob"]
        assert wide.item_ids.tolist() == ["x", "y"]
        assert_array_equal(wide.values, [[5, NAN], [0, 1.5]])
        assert wide.kind == type(frame).__module__.partition(".")[0]


def test_polars_and_pyarrow_without_strings_have_no_user_ids():
    data = {"x": [5, 0], "y": [NAN, 1.5]}
    for frame in (pl.DataFrame(data), pa.table(data)):
        wide = read_wide(frame)
        assert wide.user_ids is None
        assert wide.item_ids.tolist() == ["x", "y"]
        assert_array_equal(wide.values, [[5, NAN], [0, 1.5]])


def test_frames_of_narwhals_are_unwrapped():
    for native in (pd.DataFrame({"x": [1]}), pl.DataFrame({"x": [1]}), pa.table({"x": [1]})):
        wide = read_wide(nw.from_native(native))
        assert wide.kind == type(native).__module__.partition(".")[0]
        assert_array_equal(wide.values, [[1.0]])


def test_other_implementations_of_the_protocol_are_read_through_arrow():
    inner = nw.from_native(pl.DataFrame({"u": ["a"], "x": [1.5]}))
    frame = fake("elsewhere", "Frame", __narwhals_dataframe__=lambda self: inner._compliant_frame)
    assert is_frame(frame)
    wide = read_wide(frame)
    assert wide.kind == "pyarrow"
    assert (wide.user_ids.tolist(), wide.values.tolist()) == (["a"], [[1.5]])


PANDAS_COLUMNS = {
    "int8": pd.Series([1, 2], dtype="int8"),
    "uint64": pd.Series([2**63, 2], dtype="uint64"),
    "bool": pd.Series([True, False]),
    "float16": pd.Series([1, NAN], dtype="float16"),
    "float32": pd.Series([1, NAN], dtype="float32"),
    "longdouble": pd.Series(np.array([1, 2], dtype=np.longdouble)),
    "big-endian": pd.Series(np.array([1, 2], dtype=">f8")),
    "inf": pd.Series([np.inf, 2]),
    "Int64": pd.Series([1, None], dtype="Int64"),
    "Float32": pd.Series([1, None], dtype="Float32"),
    "boolean": pd.Series([True, None], dtype="boolean"),
    "categories": pd.Series([1, None], dtype="category"),
    "int categories": pd.Series([7, 2], dtype="category"),
    "sparse": pd.Series(pd.arrays.SparseArray([0.0, 2.0], fill_value=0.0)),
    "arrow int": pd.Series([1, None], dtype="int64[pyarrow]"),
    "arrow bool": pd.Series([True, None], dtype="bool[pyarrow]"),
    "arrow decimal": pd.Series([D("1.5"), None], dtype=pd.ArrowDtype(pa.decimal128(5, 2))),
    "objects, none there": pd.Series([None, None], dtype=object),
    "strings, none there": pd.Series([None, None], dtype="str"),
    "times, none there": pd.Series([pd.NaT, pd.NaT]),
}
POLARS_COLUMNS = {
    "int8": pl.Series([1, None], dtype=pl.Int8),
    "uint64": pl.Series([2**63, None], dtype=pl.UInt64),
    "int128": pl.Series([2**70, None], dtype=pl.Int128),
    "bool": pl.Series([True, None]),
    "float32": pl.Series([1.5, None], dtype=pl.Float32),
    "decimal": pl.Series([D("1.5"), None]),
    "nan": pl.Series([NAN, None]),
    "null": pl.Series([None, None]),
    "strings, none there": pl.Series([None, None], dtype=pl.String),
    "lists, none there": pl.Series([None, None], dtype=pl.List(pl.Int8)),
}
PYARROW_COLUMNS = {
    "int8": pa.array([1, None], pa.int8()),
    "large int": pa.array([2**60, None]),
    "float16": pa.array([np.float16(1.5), None], pa.float16()),
    "bool": pa.array([True, None]),
    "decimal": pa.array([D("1.5"), None]),
    "dictionary": pa.array([2, None]).dictionary_encode(),
    "null": pa.nulls(2),
    "strings, none there": pa.array([None, None], pa.string()),
}
CASES = [
    *(pytest.param(pd, column, id=f"pandas-{name}") for name, column in PANDAS_COLUMNS.items()),
    *(pytest.param(pl, column, id=f"polars-{name}") for name, column in POLARS_COLUMNS.items()),
    *(pytest.param(pa, column, id=f"pyarrow-{name}") for name, column in PYARROW_COLUMNS.items()),
]


def make_frame(library, first, column):
    """A frame of two columns, the second of them under test."""
    data = {"first": first, "tested": column}
    return pa.table(data) if library is pa else library.DataFrame(data)


def as_float(value: object) -> float:
    """One cell by plain Python, null as NaN."""
    return NAN if value is None or pd.isna(value) else float(value)


@pytest.mark.parametrize(("library", "column"), CASES)
def test_numbers_of_every_type(library, column):
    cells = column.to_pylist() if library is pa else column.to_list()
    wide = read_wide(make_frame(library, [3, 4], column))
    assert_array_equal(wide.values[:, 0], [3, 4])
    assert_array_equal(wide.values[:, 1], [as_float(cell) for cell in cells])


def test_pyarrow_dictionary_in_several_chunks_keeps_nulls_and_values():
    chunks = [pa.array([4, None, 2]).dictionary_encode(), pa.array([None, 9]).dictionary_encode()]
    wide = read_wide(pa.table({"x": pa.chunked_array(chunks)}))
    assert_array_equal(wide.values[:, 0], [4, NAN, 2, NAN, 9])


def test_too_large_for_float64_is_infinite():
    column = pd.Series(np.array([np.longdouble("1e400"), 1]))
    if np.finfo(np.longdouble).max <= np.finfo(np.float64).max:
        pytest.skip("longdouble is float64 here")
    for neighbor in ([1, 2], pd.Series([1, 2], dtype="Int64")):
        wide = read_wide(make_frame(pd, neighbor, column))
        assert_array_equal(wide.values, [[1, np.inf], [2, 1]])


@pytest.mark.parametrize(
    ("library", "column", "message"),
    [
        (pd, pd.Series(["a", "b"]), r"has dtype str.*\(.*user ids.* in the index\)"),
        (pd, pd.Series(["1", "2"], dtype="category"), "has dtype category.*in the index"),
        (pd, pd.Series([1, None], dtype=object), "has dtype object: ratings must be numbers$"),
        (pd, pd.Series([D("1"), D("2")]), "has dtype object: ratings must be numbers$"),
        (pd, pd.Series(pd.to_datetime(["2020", None])), r"has dtype datetime64\[.*: ratings must"),
        (pd, pd.Series(pd.to_timedelta([1, 2])), "has dtype timedelta64"),
        (pd, pd.Series(pd.interval_range(0, 2)), "has dtype interval"),
        (pd, pd.Series([[1], [2]]), "has dtype object"),
        (pl, pl.Series(["1", "2"]), r"has dtype String.*in the first column\)"),
        (pl, pl.Series(["1", "2"], dtype=pl.Categorical), "has dtype Categorical"),
        (pl, pl.Series([[1], [2]]), "has dtype List"),
        (pl, pl.Series([{"a": 1}, None]), "has dtype Struct"),
        (pl, pl.Series([1, 2], dtype=pl.Duration), "has dtype Duration"),
        (pl, pl.Series([1, 2], dtype=pl.Date), "has dtype Date"),
        (pl, pl.Series([object(), object()], dtype=pl.Object), "has dtype Object"),
        (pa, pa.array(["1", None]), "has dtype string"),
        (pa, pa.array(["1", None]).dictionary_encode(), "has dtype dictionary"),
        (pa, pa.array([1, None], pa.timestamp("s")), r"has dtype timestamp\[s\]"),
        (pa, pa.array([b"1", None]), "has dtype binary"),
        (pa, pa.RunEndEncodedArray.from_arrays([1, 2], [1.5, 2]), "has dtype run_end_encoded"),
        (pa, pa.array([[1], [2]]), "has dtype list"),
    ],
)
def test_what_is_no_number_is_refused(library, column, message):
    frame = make_frame(library, [3, 4], column)
    with pytest.raises(TypeError, match=f"^training set column 'tested' {message}"):
        read_wide(frame, name="training set")


def test_complex_is_refused():
    frame = make_frame(pd, [3, 4], pd.Series([1j, 2]))
    with pytest.raises(ValueError, match=r"ratings column 'tested' has dtype complex128: .* real"):
        read_wide(frame)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame([[1, 2]], columns=["x", "x"]), r"item ids .* unique, got 'x' more than once"),
        (pd.DataFrame([[1], [2]], index=[7, 7]), r"user ids \(the index of ratings\) .* got 7"),
        (
            pa.table([pa.array([1]), pa.array([2])], names=["x", "x"]),
            r"item ids \(the columns of ratings\) must be unique, got 'x'",
        ),
        (pl.DataFrame({"u": ["a", "a"], "x": [1, 2]}), r"\(column 'u' of ratings\) .* got 'a'"),
        (pl.DataFrame({"u": ["a", None], "x": [1, 2]}), r"'u' of ratings\) must not be null.* 1"),
        (pa.table({"u": ["a", None], "x": [1, 2]}), "user ids .* must not be null"),
        (pd.DataFrame([[1], [2]], index=["a", None]), "user ids .* must not be null"),
        (pd.DataFrame([[1], [2]], index=[1.0, NAN]), "user ids .* must not be null, got nan"),
        (pd.DataFrame([[1, 2]], columns=["a", None]), "item ids .* must not be null"),
        (
            pd.DataFrame([[1], [2]], index=pd.MultiIndex.from_tuples([(1, 2), (3, 4)])),
            r"user ids \(the index .*\) must have one level, got a MultiIndex of 2.*unstack",
        ),
        (
            pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([(1, 2), (3, 4)])),
            "item ids .* must have one level",
        ),
    ],
)
def test_bad_labels_are_refused(frame, message):
    with pytest.raises(ValueError, match=message):
        read_wide(frame)


@pytest.mark.parametrize(
    ("frame", "shape"),
    [
        (pd.DataFrame(), (0, 0)),
        (pd.DataFrame(columns=["a", "b"]), (0, 2)),
        (pd.DataFrame(index=["a", "b"]), (2, 0)),
        (pl.DataFrame(), (0, 0)),
        (pl.DataFrame({"x": []}), (0, 1)),
        (pl.DataFrame({"u": ["a", "b"]}), (2, 0)),
        (pl.DataFrame(schema={"u": pl.String, "x": pl.Int64}), (0, 1)),
        (pa.table({}), (0, 0)),
        (pa.table({"x": pa.array([], pa.int8())}), (0, 1)),
    ],
)
def test_empty_frames_are_read(frame, shape):
    wide = read_wide(frame)
    assert wide.values.shape == shape
    assert wide.item_ids.shape == shape[1:]
    assert wide.user_ids is None or wide.user_ids.shape == shape[:1]


@pytest.mark.parametrize("library", [pd, pl, pa])
def test_input_is_neither_written_to_nor_shared(library):
    cells = np.array([[1.0, 2.0], [3.0, 0.0]])
    data = {"a": cells[:, 0].copy(), "b": cells[:, 1].copy()}
    frames = [pa.table(data) if library is pa else library.DataFrame(data)]
    if library is pd:
        frames += [pd.DataFrame(cells.copy(), copy=False), pd.DataFrame({"a": data["a"]})]
    for frame in frames:
        wide = read_wide(frame)
        wide.values[:] = 7
        n_columns = frame.shape[1]
        after = frame.to_pandas() if library is pa else frame
        assert_array_equal(after.to_numpy(), cells[:, :n_columns])


# --- writing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("users", [["ann", "bob"], None])
def test_round_trip(kind, dtype, users):
    values = np.array([[1.5, np.inf, 3.0], [0.0, -2.0, 7.0]], dtype=dtype)
    user_ids = None if users is None else np.array(users, dtype=object)
    item_ids = np.array(["x", "user", "y"], dtype=object)
    frame = write_wide(values, user_ids, item_ids, kind)
    assert type(frame).__module__.partition(".")[0] == kind
    wide = read_wide(frame)
    assert wide.kind == kind
    assert_array_equal(wide.values, values)
    assert wide.item_ids.tolist() == ["x", "user", "y"]
    if users is not None:
        assert wide.user_ids.tolist() == users
    again = write_wide(wide.values.astype(dtype), wide.user_ids, wide.item_ids, kind)
    assert again.equals(frame)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_written_columns_keep_the_dtype(dtype):
    values = np.ones((2, 2), dtype=dtype)
    ids = np.array(["a", "b"], dtype=object)
    assert set(write_wide(values, ids, ids, "pandas").dtypes) == {np.dtype(dtype)}
    polars_type = pl.Float32 if dtype == np.float32 else pl.Float64
    assert write_wide(values, ids, ids, "polars").dtypes == [pl.String, polars_type, polars_type]
    arrow_type = pa.float32() if dtype == np.float32 else pa.float64()
    assert write_wide(values, ids, ids, "pyarrow").schema.types == [
        pa.string(),
        arrow_type,
        arrow_type,
    ]


def test_pandas_labels_come_back_as_they_were():
    for labels in (
        pd.Index(["b", "a"]),
        pd.Index([7, 9]),
        pd.Index([1, "1"], dtype=object),
        pd.date_range("2020-01-01", periods=2),
        pd.Index([("a", 1), ("b", 2)], tupleize_cols=False),
    ):
        frame = pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], index=labels, columns=labels)
        wide = read_wide(frame)
        again = write_wide(wide.values, wide.user_ids, wide.item_ids, "pandas")
        pd.testing.assert_frame_equal(again, frame, check_freq=False)


def test_user_column_avoids_the_names_of_items():
    ids = np.array(["user", "user_"], dtype=object)
    for kind in ("polars", "pyarrow"):
        frame = write_wide(np.ones((2, 2)), ids, ids, kind)
        names = frame.columns if kind == "polars" else frame.column_names
        assert names == ["user__", "user", "user_"]


def test_labels_without_a_type_of_their_own_become_strings():
    values = np.ones((2, 2))
    for kind in ("polars", "pyarrow"):
        frame = write_wide(values, np.array([1, "b"], dtype=object), np.array([3, 4]), kind)
        assert read_wide(frame).user_ids.tolist() == ["1", "b"]
        assert read_wide(frame).item_ids.tolist() == ["3", "4"]
        frame = write_wide(values, np.array([5, 6]), np.array([3, 4]), kind)
        assert frame["user"].to_numpy().tolist() == [5, 6]
        with pytest.raises(ValueError, match="item ids, as names of columns, must be unique, got"):
            write_wide(values, None, np.array([3, "3"], dtype=object), kind)


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
def test_empty_tables_are_written(kind):
    none = np.array([], dtype=object)
    items = np.array(["x"], dtype=object)
    wide = read_wide(write_wide(np.empty((0, 1)), none, items, kind))
    assert wide.values.shape == (0, 1)
    assert wide.user_ids.shape == (0,)
    assert read_wide(write_wide(np.empty((0, 0)), None, none, kind)).values.shape == (0, 0)


def test_fast_and_slow_reading_of_pandas_agree():
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, NAN], "c": [True, False]})
    fast = read_wide(frame)
    slow = read_wide(frame.astype({"a": "Int64"}))
    assert_array_equal(fast.values, slow.values)
    assert_array_equal(fast.values, [[1, 0.5, 1], [2, NAN, 0]])


CELLS = st.floats(-5, 5, width=32) | st.just(NAN)


@settings(max_examples=25)
@given(data=st.data(), kind=st.sampled_from(["pandas", "polars", "pyarrow"]))
def test_any_table_survives_a_round_trip(data, kind):
    names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=4)
    users = data.draw(st.lists(names, min_size=1, max_size=4, unique=True))
    items = data.draw(st.lists(names, min_size=1, max_size=4, unique=True))
    row = st.lists(CELLS, min_size=len(items), max_size=len(items))
    values = np.array(data.draw(st.lists(row, min_size=len(users), max_size=len(users))))
    user_ids, item_ids = np.array(users, dtype=object), np.array(items, dtype=object)
    wide = read_wide(write_wide(values, user_ids, item_ids, kind))
    assert wide.user_ids.tolist() == users
    assert wide.item_ids.tolist() == items
    assert_array_equal(wide.values, values)


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
@pytest.mark.parametrize(
    "names",
    [
        ("user", "item", "rating"),
        ("userId", "movieId", "rating"),
        ("User_ID", "Item ID", "Score"),
        ("User-ID", "ISBN", "Book-Rating"),
        ("uid", "iid", "r_ui"),
        ("user_id", "item_id"),
        ("user", "movie", "stars"),
    ],
)
def test_long_tables_are_not_taken_for_wide_ones(kind, names):
    # With numbers for ids each would read as a table of three items.
    columns = {name: [1, 2, 3] for name in names} | {"timestamp": [0, 0, 0]}
    frame = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}[kind](columns)
    with pytest.raises(ValueError, match=r"ratings looks like a long table.*coo_array"):
        read_wide(frame)


@pytest.mark.parametrize(
    ("kind", "way_out"),
    [("pandas", "set_index"), ("polars", "cast it to strings"), ("pyarrow", "cast it to strings")],
)
def test_numbers_of_users_are_not_taken_for_ratings(kind, way_out):
    make = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}[kind]
    columns = {"user_id": [101, 102, 103], "x": [5.0, 3.0, 1.0], "y": [1.0, 2.0, 4.0]}
    with pytest.raises(ValueError, match=f"'user_id', looks like user ids.*{way_out}"):
        read_wide(make(columns))
    # An item may have that name, of which ratings repeat, are missing or are no whole numbers.
    for ratings in ([5, 3, 5], [5, 3, None], [5.0, 3.0, 1.0]):
        assert read_wide(make({**columns, "user_id": ratings})).values.shape == (3, 3)
