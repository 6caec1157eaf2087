"""Wide data frames: rows are users, columns are items, cells are ratings.

Frames of pandas, Polars and PyArrow (and through those of Modin, cuDF and narwhals) are read into
plain arrays and labels, and predictions are written back as a frame of the same kind. No frame
library is imported before a frame of it arrives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from cmf._ids import check_unique, normalize_labels
from cmf._typing import FloatArray, FrameKind, Ids

if TYPE_CHECKING:
    import narwhals.stable.v2 as nw

__all__ = ["WideFrame", "is_frame", "read_wide", "refuse_other_frames", "write_wide"]


_EAGER_FRAMES: Final = frozenset(
    {
        ("cudf", "DataFrame"),
        ("modin", "DataFrame"),
        ("narwhals", "DataFrame"),
        ("pandas", "DataFrame"),
        ("polars", "DataFrame"),
        ("pyarrow", "Table"),
    }
)
# Names of columns, by their letters in lower case, of tables that hold ids in columns.
_USER_IDS: Final = frozenset({"userid", "uid", "customerid"})
_ITEM_IDS: Final = frozenset(
    {"itemid", "iid", "productid", "movieid", "bookid", "isbn", "songid", "trackid", "placeid"}
)
_USERS: Final = _USER_IDS | {"user", "users"}
_ITEMS: Final = _ITEM_IDS | {"item", "items", "movie", "product"}
_RATINGS: Final = frozenset({"rating", "ratings", "score", "stars", "value"})
_WANT_TABLE: Final = "a 2-D table is wanted, with a row for each user and a column for each item"
_COLLECT: Final = "call .collect() first"
_ADVICE: Final = {
    ("cudf", "Index"): _WANT_TABLE,
    ("cudf", "Series"): _WANT_TABLE,
    ("modin", "Series"): _WANT_TABLE,
    ("narwhals", "Series"): _WANT_TABLE,
    ("pandas", "Index"): _WANT_TABLE,
    ("pandas", "Series"): f"{_WANT_TABLE}; .unstack() makes one if the index is users and items",
    ("polars", "Series"): _WANT_TABLE,
    ("pyarrow", "Array"): _WANT_TABLE,
    ("pyarrow", "ChunkedArray"): _WANT_TABLE,
    ("narwhals", "LazyFrame"): _COLLECT,
    ("polars", "LazyFrame"): _COLLECT,
    ("pyarrow", "RecordBatch"): "call pyarrow.Table.from_batches([...]) first",
    ("dask", "DataFrame"): "call .compute() first",
    ("duckdb", "DuckDBPyRelation"): "call .df(), .pl() or .to_arrow_table() first",
    ("_duckdb", "DuckDBPyRelation"): "call .df(), .pl() or .to_arrow_table() first",
    ("ibis", "Table"): "call .to_pandas(), .to_polars() or .to_pyarrow() first",
    ("pyspark", "DataFrame"): "call .toPandas() first",
}
_USER_COLUMN: Final = "user"


@dataclass(frozen=True, slots=True)
class WideFrame:
    """A wide data frame, read.

    Attributes
    ----------
    values : ndarray of shape (n_users, n_items), float64, C order
        The cells. NaN where the frame has NaN or null; zeros and infinities are as they were.
    user_ids : ndarray of shape (n_users,) or None
        Labels of the rows in normal form (see `cmf._ids.normalize_labels`), unique; None if the
        frame has none.
    item_ids : ndarray of shape (n_items,)
        Labels of the columns, likewise.
    kind : {"pandas", "polars", "pyarrow"}
        What to hand to `write_wide` to get a frame like the one read.
    """

    values: NDArray[np.float64]
    user_ids: Ids | None
    item_ids: Ids
    kind: FrameKind


def is_frame(obj: object) -> bool:
    """Tell whether something is a data frame that `read_wide` reads.

    Parameters
    ----------
    obj : object
        Anything. Looked at by the names of its classes, so that nothing is imported.

    Returns
    -------
    bool
        True for frames in memory: ``DataFrame`` of pandas, Polars, Modin, cuDF and narwhals,
        ``Table`` of PyArrow, and what implements ``__narwhals_dataframe__``. False for series,
        indexes and lazy frames (see `refuse_other_frames`) and for all else.

    Examples
    --------
    >>> is_frame([[1.0, 2.0]])
    False
    """
    names = _class_names(obj)
    return not _EAGER_FRAMES.isdisjoint(names) or hasattr(type(obj), "__narwhals_dataframe__")


def refuse_other_frames(obj: object, name: str) -> None:
    """Refuse what belongs to a frame library and is no data frame in memory.

    Parameters
    ----------
    obj : object
        Anything. Frames that `is_frame` knows pass, and so does all that is of no frame library.
    name : str
        What to call it in the error message.

    Raises
    ------
    TypeError
        If `obj` is a series, an index or a lazy frame; the message says what to do.

    Examples
    --------
    >>> refuse_other_frames([[1.0, 2.0]], "ratings")
    """
    if is_frame(obj):
        return
    found = f"{_root(type(obj))}.{type(obj).__name__}"
    for names in _class_names(obj):
        if names in _ADVICE:
            raise TypeError(f"{name} must not be a {found}: {_ADVICE[names]}")
    if hasattr(type(obj), "__narwhals_lazyframe__"):
        raise TypeError(f"{name} must not be a {found}: {_COLLECT}")


def read_wide(frame: Any, name: str = "ratings") -> WideFrame:
    """Read a wide data frame: rows are users, columns are items, cells are ratings.

    In pandas the index holds the user ids and ``columns`` the item ids. Polars and PyArrow have no
    index: there the first column holds the user ids if it is one of strings, and the names of the
    other columns are the item ids.

    Parameters
    ----------
    frame : data frame
        One for which `is_frame` is true. It is not written to. Columns may be integer, floating
        point, boolean or decimal of any width, nullable or sparse, or categories of numbers; a
        column without a single value may be of any type.
    name : str, default "ratings"
        What to call it in error messages.

    Returns
    -------
    WideFrame
        New arrays, which share no memory with `frame`.

    Raises
    ------
    TypeError
        If a column holds something else than real numbers, or if narwhals does not know `frame`.
    ValueError
        If labels are null, occur twice or have several levels, if a column is complex, or if the
        columns are called user, item and rating.

    Notes
    -----
    Takes O(n_users n_items) time and memory, 8 bytes a cell. Whether 0 means "not rated", and that
    infinities are none, is not decided here.

    Examples
    --------
    >>> import pandas as pd
    >>> ratings = pd.DataFrame({"x": [5, 3], "y": [None, 1]}, index=["ann", "bob"])
    >>> wide = read_wide(ratings)
    >>> wide.values
    array([[ 5., nan],
           [ 3.,  1.]])
    >>> wide.user_ids, wide.item_ids, wide.kind
    (array(['ann', 'bob'], dtype=object), array(['x', 'y'], dtype=object), 'pandas')
    """
    import narwhals.stable.v2 as nw

    native, kind = _unwrap(frame)
    names = native.column_names if kind == "pyarrow" else native.columns
    _refuse_long_table(names, name)
    if len(names) and _word(names[0]) in _USERS:
        first = native.iloc[:, 0] if kind == "pandas" else native[names[0]]
        _refuse_ids_for_ratings(nw.from_native(first, series_only=True), names[0], name)
    if kind == "pandas":
        return _read_pandas(native, name)
    return _read_columns(native, kind, name)


def write_wide(values: FloatArray, user_ids: Ids | None, item_ids: Ids, kind: FrameKind) -> Any:
    """Write a table of predictions as a wide data frame.

    Parameters
    ----------
    values : ndarray of shape (n_users, n_items), float32 or float64
        The cells. The frame may share their memory.
    user_ids : ndarray of shape (n_users,) or None
        Labels of the rows. pandas: the index, 0 to n_users - 1 for None. Polars and PyArrow: a
        first column named "user" (with underscores appended while an item has that name), integers
        as int64 and all else as strings; for None there is no such column.
    item_ids : ndarray of shape (n_items,)
        Labels of the columns; Polars and PyArrow get them as strings.
    kind : {"pandas", "polars", "pyarrow"}
        The library whose frame to make.

    Returns
    -------
    pandas.DataFrame, polars.DataFrame or pyarrow.Table
        Its columns have the dtype of `values`.

    Raises
    ------
    ImportError
        If the library is not installed.
    ValueError
        If two item ids are the same once they are strings, where they have to be.

    Examples
    --------
    >>> table = write_wide(np.ones((1, 2)), None, np.array(["x", "y"], dtype=object), "polars")
    >>> table.columns
    ['x', 'y']
    """
    if kind == "pandas":
        return _write_pandas(values, user_ids, item_ids)
    return _write_columns(values, user_ids, item_ids, kind)


def _class_names(obj: object) -> list[tuple[str, str]]:
    """Root module and name of every class that an object is an instance of."""
    return [(_root(base), base.__name__) for base in type(obj).__mro__]


def _root(kind: type) -> str:
    """First part of the name of the module of a class; a class may say anything there."""
    return str(kind.__module__).partition(".")[0]


def _unwrap(frame: Any) -> tuple[Any, FrameKind]:
    """Return the frame as one of the three kinds, converting only what is none of them."""
    import narwhals.stable.v2 as nw

    native = nw.to_native(frame, pass_through=True)
    roots = {root for root, _ in _class_names(native)}
    if "pandas" in roots:
        return native, "pandas"
    if "polars" in roots:
        return native, "polars"
    if "pyarrow" in roots:
        return native, "pyarrow"
    table = nw.from_native(native, eager_only=True)
    if table.implementation.is_pandas_like():
        return table.to_pandas(), "pandas"
    return table.to_arrow(), "pyarrow"


def _read_pandas(frame: Any, name: str) -> WideFrame:
    """Read a pandas frame, at once where NumPy holds all of its columns."""
    import narwhals.stable.v2 as nw

    user_ids = _index_labels(frame.index, f"user ids (the index of {name})")
    item_ids = _index_labels(frame.columns, f"item ids (the columns of {name})")
    if all(isinstance(dtype, np.dtype) and dtype.kind in "biuf" for dtype in frame.dtypes):
        with np.errstate(over="ignore"):
            values = np.array(frame.to_numpy(dtype=np.float64), order="C")
    else:
        columns = (
            nw.from_native(frame.iloc[:, place], series_only=True) for place in range(len(item_ids))
        )
        values = _stack(columns, item_ids, len(user_ids), name)
    return WideFrame(values, user_ids, item_ids, "pandas")


def _read_columns(frame: Any, kind: FrameKind, name: str) -> WideFrame:
    """Read a frame without an index."""
    import narwhals.stable.v2 as nw

    names = frame.column_names if kind == "pyarrow" else frame.columns
    item_ids = _unique_labels(names, f"item ids (the columns of {name})")
    columns: Iterator[nw.Series[Any]] = nw.from_native(frame, eager_only=True).iter_columns()
    user_ids = None
    if len(item_ids):
        first = next(columns)
        if _holds_strings(first):
            user_ids = _unique_labels(first.to_list(), f"user ids (column {names[0]!r} of {name})")
            item_ids = item_ids[1:]
        else:
            columns = iter([first, *columns])
    values = _stack(columns, item_ids, frame.shape[0], name)
    return WideFrame(values, user_ids, item_ids, kind)


def _refuse_long_table(columns: Iterable[Any], name: str) -> None:
    """Refuse a table of triples, which would pass for one of very few items if ids are numbers."""
    words = {_word(column) for column in columns}
    are_ids = words & _USER_IDS and words & _ITEM_IDS
    if are_ids or (words & _USERS and words & _ITEMS and words & _RATINGS):
        raise ValueError(
            f"{name} looks like a long table, with a row for each rating: a wide one is wanted, "
            "with a row for each user and a column for each item, or a sparse matrix. In pandas: "
            "frame.pivot(index=user, columns=item, values=rating), or, of any size, "
            "rows, users = pandas.factorize(frame[user]), likewise columns, items, and "
            "scipy.sparse.coo_array((frame[rating], (rows, columns)))"
        )


def _refuse_ids_for_ratings(first: nw.Series[Any], column: Any, name: str) -> None:
    """Refuse numbers of users in a column of that name: they would pass for ratings of an item."""
    are_numbers = len(first) > 1 and first.dtype.is_integer() and first.null_count() == 0
    if are_numbers and first.is_unique().all():
        way_out = (
            "set_index takes it to the index"
            if first.implementation.is_pandas_like()
            else "cast it to strings"
        )
        raise ValueError(
            f"the first column of {name}, {column!r}, looks like user ids, not like ratings of "
            f"an item: {way_out}"
        )


def _word(label: Any) -> str:
    return "".join(filter(str.isalpha, str(label).lower()))


def _index_labels(index: Any, what: str) -> Ids:
    """Labels of a pandas index."""
    if index.nlevels > 1:
        raise ValueError(
            f"{what} must have one level, got a MultiIndex of {index.nlevels}: "
            "join the levels into one label first, or .unstack() a column of ratings whose index "
            "is users and items"
        )
    return _unique_labels(index, what)


def _unique_labels(labels: Any, what: str) -> Ids:
    """Labels in normal form, all different."""
    normal = normalize_labels(labels, what)
    check_unique(normal, what)
    return normal


def _stack(
    columns: Iterable[nw.Series[Any]], item_ids: Ids, n_users: int, name: str
) -> NDArray[np.float64]:
    """Put columns side by side."""
    values = np.empty((n_users, len(item_ids)), dtype=np.float64)
    for place, column in enumerate(columns):
        values[:, place] = _to_float64(column, item_ids[place], name)
    return values


def _to_float64(column: nw.Series[Any], item_id: Any, name: str) -> NDArray[np.float64]:
    """Numbers of one column, NaN for null."""
    numbers = _to_numbers(column)
    if numbers.dtype.kind in "biuf":
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused later
            return numbers.astype(np.float64)
    if column.null_count() == len(column):
        return np.full(len(column), np.nan)
    native = column.to_native()
    found = f"{name} column {item_id!r} has dtype {getattr(native, 'dtype', None) or native.type}"
    if numbers.dtype.kind == "c":
        raise ValueError(f"{found}: ratings must be real numbers")
    hint = ""
    if _holds_strings(column):
        place = "index" if column.implementation.is_pandas_like() else "first column"
        hint = f" (if these are user ids, they belong in the {place})"
    raise TypeError(f"{found}: ratings must be numbers{hint}")


def _to_numbers(column: nw.Series[Any]) -> NDArray[Any]:
    """One column in the form of NumPy that tells what it holds; of dtype object if no numbers."""
    import narwhals.stable.v2 as nw

    dtype = _cell_dtype(column)
    is_categorical = dtype != column.dtype
    # These have no form of their own in NumPy, or lose their nulls in it.
    if dtype in (nw.Boolean, nw.Decimal, nw.Int128, nw.UInt128) or (
        is_categorical and dtype.is_numeric()
    ):
        return column.cast(nw.Float64).to_numpy()
    # narwhals has no name for some of the dtypes that pandas takes over from NumPy.
    if dtype.is_numeric() or (dtype == nw.Unknown and column.implementation.is_pandas_like()):
        return column.to_numpy()
    return np.empty(0, dtype=object)


def _cell_dtype(column: nw.Series[Any]) -> nw.dtypes.DType:
    """Type of the cells of a column: of the categories if it has some."""
    import narwhals.stable.v2 as nw

    if column.dtype in (nw.Categorical, nw.Enum):
        return column.cat.get_categories().dtype
    return column.dtype


def _holds_strings(column: nw.Series[Any]) -> bool:
    """Whether a column is one of strings, be they plain or categories."""
    import narwhals.stable.v2 as nw

    return _cell_dtype(column) == nw.String


def _write_pandas(values: FloatArray, user_ids: Ids | None, item_ids: Ids) -> Any:
    """Make a pandas frame."""
    import pandas as pd

    return pd.DataFrame(values, index=user_ids, columns=item_ids, copy=False)


def _write_columns(values: FloatArray, user_ids: Ids | None, item_ids: Ids, kind: FrameKind) -> Any:
    """Make a frame without an index."""
    names = [str(item_id) for item_id in item_ids]
    check_unique(np.array(names, dtype=object), "item ids, as names of columns,")
    data = {name: values[:, place] for place, name in enumerate(names)}
    if user_ids is not None:
        users = _USER_COLUMN
        while users in names:
            users += "_"
        data = {users: _label_column(user_ids, kind), **data}
    if kind == "polars":
        import polars as pl

        return pl.DataFrame(data)
    import pyarrow as pa

    return pa.table(data)


def _label_column(labels: Ids, kind: FrameKind) -> Any:
    """Return labels as int64, or else as strings, of which there may be none."""
    if labels.dtype == np.int64:
        return labels
    strings = [str(label) for label in labels]
    if kind == "polars":
        import polars as pl

        return pl.Series(strings, dtype=pl.String)
    import pyarrow as pa

    return pa.array(strings, pa.string())
