"""Ids and rows: from what callers call their users and items to rows of the factors, and back.

A model fitted on a labelled frame has an `IdMap` for its users and one for its items; a model
fitted on a matrix has a `RowMap` for each, whose ids are the rows themselves. Both are a
`RowLookup`, so that the model need not ask which of the two it has.
"""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Iterable, Sequence
from numbers import Number
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cmf._typing import Ids, Rows, UnknownPolicy

__all__ = [
    "IdMap",
    "RowLookup",
    "RowMap",
    "check_rows",
    "check_unique",
    "make_lookup",
    "normalize_labels",
]

_INT64 = np.iinfo(np.int64)
_SHOWN = 3  # how many unknown ids an error message spells out


class RowLookup(Protocol):
    """What the model needs of its users or items: ids to rows, rows to ids, how many."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def lookup(self, ids: Any, unknown: UnknownPolicy = "raise") -> tuple[Rows, bool]:
        """Return the rows of one id or of many, and whether it was one."""

    def take(self, rows: Rows) -> Ids:
        """Return the ids of rows, in the shape of `rows`."""


class RowMap:
    """Users or items without labels: their ids are the rows 0 to n - 1.

    Parameters
    ----------
    n : int
        Number of rows, not negative.
    what : {"user", "item"}
        What a row stands for, for error messages.

    Notes
    -----
    Immutable, hence safe to share between threads; picklable.

    Examples
    --------
    >>> users = RowMap(3, "user")
    >>> users.lookup([2, 0])
    (array([2, 0]), False)
    >>> users.lookup([2, 7], unknown="mean")
    (array([ 2, -1]), False)
    """

    __slots__ = ("_n", "_what")

    def __init__(self, n: int, what: str) -> None:
        self._n = n
        self._what = what

    def __len__(self) -> int:
        return self._n

    def __repr__(self) -> str:
        return f"RowMap({self._n}, {self._what!r})"

    def lookup(self, ids: Any, unknown: UnknownPolicy = "raise") -> tuple[Rows, bool]:
        """Return the rows of one id or of many, and whether it was one.

        Parameters
        ----------
        ids : int or 1-D sequence of int
            As in `check_rows`.
        unknown : {"raise", "mean"}, default "raise"
            As in `check_rows`.

        Returns
        -------
        rows : ndarray of shape (n_ids,), int64
            A new array; -1 for an unknown id.
        is_scalar : bool
            Whether `ids` was a single id; `rows` then has one element.
        """
        return check_rows(ids, self._n, self._what, unknown)

    def take(self, rows: Rows) -> Ids:
        """Return the ids of rows: the rows themselves.

        Parameters
        ----------
        rows : ndarray of int
            Any shape. -1, which stands for no row, stays -1: no row has that id.

        Returns
        -------
        ndarray of the shape of `rows`, int64
            A new array.
        """
        return np.array(rows, dtype=np.int64)


class IdMap:
    """Users or items with labels: each label is the id of one row.

    Equality of labels is typed: ``"3"`` is not 3, ``True`` and ``1.0`` are not 1. Types that differ
    only in where they come from are equal: ``numpy.str_`` and ``str``, ``numpy.int64`` and ``int``.

    Parameters
    ----------
    labels : sequence
        One label per row, unique: anything that `normalize_labels` takes. It is copied.
    what : {"user", "item"}
        What a row stands for, for error messages.

    Raises
    ------
    TypeError
        If a label is unhashable.
    ValueError
        If a label is None or NaN.

    Notes
    -----
    The index behind the look-ups is built by the first of them, which is also where a label that
    occurs twice raises ValueError. Building it takes O(n) for strings and O(n log n) for integers;
    then a look-up takes O(1) or O(log n) for each label. Safe to share between threads: two that
    come first at the same time build the same index. Picklable, without the index.

    Examples
    --------
    >>> users = IdMap(["ann", "bob"], "user")
    >>> users.lookup("bob")
    (array([1]), True)
    >>> users.rows(["bob", "eve"])
    array([ 1, -1])
    >>> users.take(np.array([1, 0]))
    array(['bob', 'ann'], dtype=object)
    """

    __slots__ = ("_index", "_labels", "_tuples_are_labels", "_what")

    def __init__(self, labels: Any, what: str) -> None:
        self._labels = normalize_labels(labels, f"{what} ids")
        self._labels.flags.writeable = False
        self._what = what
        kinds = set(map(type, self._labels)) if self._labels.dtype == object else set()
        self._tuples_are_labels = any(issubclass(kind, tuple) for kind in kinds)
        self._index: _SortedIntegers | _HashedLabels | None = None

    def __len__(self) -> int:
        return len(self._labels)

    def __repr__(self) -> str:
        return f"IdMap({reprlib.repr(self._labels.tolist())}, {self._what!r})"

    def __reduce__(self) -> tuple[type[IdMap], tuple[Ids, str]]:
        return type(self), (self._labels, self._what)

    @property
    def labels(self) -> Ids:
        """Labels in the order of the rows: read-only, int64 or object, shape (n,)."""
        return self._labels

    def rows(self, labels: Any) -> Rows:
        """Return the row of each of many labels.

        Parameters
        ----------
        labels : 1-D sequence of labels
            List, tuple, range, array or Series; each label may occur any number of times.

        Returns
        -------
        ndarray of shape (n_labels,), int64
            A new array; -1 for a label that no row has.

        Raises
        ------
        TypeError
            If one of `labels` is unhashable.
        ValueError
            If `labels` has other than one dimension.
        """
        return self._find(_as_vector(labels, f"{self._what} ids"))

    def unknown(self, labels: Any, limit: int = _SHOWN) -> list[str]:
        """Return how the first labels that no row has are written, for error messages.

        Parameters
        ----------
        labels : 1-D sequence of labels
            As in `rows`.
        limit : int, default 3
            At most so many.

        Returns
        -------
        list of str
            Shortened ``repr`` of the labels, in their order; empty if all are known.
        """
        vector = _as_vector(labels, f"{self._what} ids")
        return _written(vector, self._find(vector) < 0, limit)

    def lookup(self, ids: Any, unknown: UnknownPolicy = "raise") -> tuple[Rows, bool]:
        """Return the rows of one id or of many, and whether it was one.

        Parameters
        ----------
        ids : label, or 1-D sequence of labels
            A list, a range, an array of one dimension, a Series is many; a tuple is many too,
            unless some of the labels of this map are tuples. Everything else is one label.
        unknown : {"raise", "mean"}, default "raise"
            Whether an unknown id is an error or gets -1.

        Returns
        -------
        rows : ndarray of shape (n_ids,), int64
            A new array; -1 for an unknown id.
        is_scalar : bool
            Whether `ids` was a single id; `rows` then has one element.

        Raises
        ------
        TypeError
            If an id is unhashable.
        ValueError
            If an id is unknown and `unknown` is ``"raise"``, or if `ids` has several dimensions.
        """
        _check_policy(unknown)
        is_scalar = not _is_many(ids) or (isinstance(ids, tuple) and self._tuples_are_labels)
        vector = _one(ids) if is_scalar else _as_vector(ids, f"{self._what} ids")
        rows = self._find(vector)
        missing = rows < 0
        if unknown == "raise" and missing.any():
            raise ValueError(self._unknown_message(vector, missing))
        return rows, is_scalar

    def take(self, rows: Rows) -> Ids:
        """Return the labels of rows.

        Parameters
        ----------
        rows : ndarray of int
            Any shape of at least one dimension. A negative number stands for no row.

        Returns
        -------
        ndarray of the shape of `rows`
            A new array of the dtype of `labels`; if some of `rows` are negative, of dtype object,
            with None in their places.
        """
        missing = np.asarray(rows) < 0
        if not missing.any():
            return self._labels[rows]
        taken = np.full(missing.shape, None, dtype=object)
        taken[~missing] = self._labels[rows[~missing]]
        return taken

    def _find(self, vector: Ids | list[Any]) -> Rows:
        """Rows of an already flat collection of labels, by the index, which is built if need be."""
        index = self._index
        if index is None:
            kind = _SortedIntegers if self._labels.dtype == np.int64 else _HashedLabels
            self._index = index = kind(self._labels, f"{self._what} ids")
        return index.find(vector)

    def _unknown_message(self, vector: Ids | list[Any], missing: NDArray[np.bool_]) -> str:
        """Say which labels are unknown, how many, and what known ones look like."""
        shown = _listed(vector, missing)
        known = f"this model knows {len(self)} {self._what} ids"
        if len(self):
            known += f", such as {_write(self._labels[0])}"
        return f"unknown {self._what} ids: {shown}; {known}"


class _SortedIntegers:
    """Index of int64 labels: a sorted copy, searched by bisection."""

    __slots__ = ("_name", "_order", "_sorted")

    def __init__(self, labels: NDArray[np.int64], name: str) -> None:
        self._name = name
        self._order = np.argsort(labels, kind="stable")
        self._sorted = labels[self._order]
        if (self._sorted[1:] == self._sorted[:-1]).any():
            check_unique(labels, name)

    def find(self, vector: Ids | list[Any]) -> Rows:
        """Row of each label; -1 for what is no integer or none of the labels."""
        values, valid = _to_int64(vector)
        if isinstance(vector, list) and not valid.all():
            _refuse_unhashable(vector, self._name)
        if not len(self._sorted):
            return np.full(len(values), -1, dtype=np.int64)
        places = np.searchsorted(self._sorted, values)
        np.minimum(places, len(self._sorted) - 1, out=places)
        valid &= self._sorted[places] == values
        return np.where(valid, self._order[places], -1)


class _HashedLabels:
    """Index of labels of any other type: a dict of their keys."""

    __slots__ = ("_name", "_rows")

    def __init__(self, labels: Ids, name: str) -> None:
        self._name = name
        self._rows = {key: row for row, key in enumerate(_keys(labels.tolist()))}
        if len(self._rows) < len(labels):
            check_unique(labels, name)

    def find(self, vector: Ids | list[Any]) -> Rows:
        """Row of each label, -1 where there is none."""
        labels = _to_list(vector)
        get = self._rows.get
        try:
            rows = [get(key, -1) for key in _keys(labels)]
        except TypeError:
            _refuse_unhashable(labels, self._name)
            raise
        return np.array(rows, dtype=np.int64)


def make_lookup(labels: Ids | None, n: int, what: str) -> RowLookup:
    """Return the map for users or items that may have labels.

    Parameters
    ----------
    labels : ndarray or None
        One label per row; None where the rows are the ids.
    n : int
        Number of rows.
    what : {"user", "item"}
        What a row stands for, for error messages.

    Returns
    -------
    RowLookup
        `RowMap` without labels, else `IdMap`.

    Examples
    --------
    >>> make_lookup(None, 3, "item")
    RowMap(3, 'item')
    """
    return RowMap(n, what) if labels is None else IdMap(labels, what)


def check_rows(
    users: Any, n: int, what: str, unknown: UnknownPolicy = "raise"
) -> tuple[Rows, bool]:
    """Return the rows that a caller named by number, checked, and whether it was a single one.

    Parameters
    ----------
    users : int or 1-D sequence of int
        An integer of Python or NumPy, or a list, tuple, range, array or Series of them, of any
        integer dtype. ``bool`` and floating-point numbers are no integers here, 1.0 included.
    n : int
        Number of rows: 0 to n - 1 are valid, and negative numbers do not count from the end.
    what : {"user", "item"}
        What a row stands for, for error messages.
    unknown : {"raise", "mean"}, default "raise"
        Whether an integer out of range is an error or gets -1.

    Returns
    -------
    rows : ndarray of shape (n_rows,), int64
        A new array; -1 for an integer out of range.
    is_scalar : bool
        Whether `users` was a single integer; `rows` then has one element.

    Raises
    ------
    TypeError
        If `users` is neither an integer nor a sequence of integers.
    ValueError
        If an integer is out of range and `unknown` is ``"raise"``, if `users` has several
        dimensions, or if `unknown` is neither of the two.

    Examples
    --------
    >>> check_rows(2, 5, "user")
    (array([2]), True)
    >>> check_rows(range(3), 5, "user")
    (array([0, 1, 2]), False)
    >>> check_rows(-1, 200, "user")
    Traceback (most recent call last):
        ...
    ValueError: user -1 is not a row of this model (it has 200 users: 0 to 199)
    """
    _check_policy(unknown)
    is_scalar = not _is_many(users)
    vector = _one(users) if is_scalar else _as_vector(users, f"{what}s")
    _refuse_non_integers(users, vector, what)
    rows, valid = _to_int64(vector)
    missing = ~valid | (rows < 0) | (rows >= n)
    if missing.any():
        if unknown == "raise":
            raise ValueError(_out_of_range_message(vector, missing, n, what))
        rows[missing] = -1
    return rows, is_scalar


def normalize_labels(labels: Any, name: str) -> Ids:
    """Return labels in the one form in which models keep them.

    Parameters
    ----------
    labels : 1-D sequence of labels
        List, tuple, range, array, Series or Index of hashable objects.
    name : str
        What to call them in error messages.

    Returns
    -------
    ndarray of shape (n_labels,)
        A new array: int64 if all labels are integers (of Python or NumPy, no ``bool``) that fit;
        else of dtype object, with strings as ``str``, NumPy's numbers as Python's, and everything
        else as it is.

    Raises
    ------
    TypeError
        If a label is unhashable.
    ValueError
        If a label is null (None, NaN or one of their kind), or if `labels` has other than one
        dimension.

    Notes
    -----
    O(n). Uniqueness is not checked: `check_unique` does that.

    Examples
    --------
    >>> normalize_labels(np.array([3, 1], dtype=np.uint8), "user ids")
    array([3, 1])
    >>> normalize_labels(np.array(["b", "a"]), "user ids")
    array(['b', 'a'], dtype=object)
    >>> normalize_labels([1, "a"], "user ids")
    array([1, 'a'], dtype=object)
    """
    vector = _as_vector(labels, name)
    if isinstance(vector, np.ndarray) or (vector and _all_integers(vector)):
        values, valid = _to_int64(vector)
        if valid.all():
            return values
    items = _to_list(vector)
    if set(map(type, items)) != {str}:
        _refuse_unhashable(items, name)
        items = [_plain(label) for label in items]
        _refuse_nulls(items, name)
    return np.fromiter(items, dtype=object, count=len(items))


def check_unique(labels: Ids, name: str) -> None:
    """Refuse labels of which two are equal.

    Parameters
    ----------
    labels : ndarray of shape (n_labels,)
        As `normalize_labels` returns them.
    name : str
        What to call them in the error message.

    Raises
    ------
    ValueError
        If a label equals an earlier one; the message names the first that does.

    Examples
    --------
    >>> check_unique(np.array([1, True], dtype=object), "user ids")
    >>> check_unique(np.array(["a", "b", "a"], dtype=object), "user ids")
    Traceback (most recent call last):
        ...
    ValueError: user ids must be unique, got 'a' more than once
    """
    items = labels.tolist()
    seen = set()
    for label, key in zip(items, _keys(items), strict=True):
        if key in seen:
            raise ValueError(f"{name} must be unique, got {_write(label)} more than once")
        seen.add(key)


def _is_integer_type(kind: type) -> bool:
    """Whether instances count as integers; NumPy derives timedelta64 from its integers."""
    return issubclass(kind, int | np.integer) and not issubclass(kind, bool | np.timedelta64)


def _all_integers(items: list[Any]) -> bool:
    """Whether nothing but integers is in a list."""
    return all(map(_is_integer_type, set(map(type, items))))


def _is_many(ids: Any) -> bool:
    """Whether something holds ids rather than being one."""
    if isinstance(ids, str | bytes | np.generic | type):
        return False
    if isinstance(ids, np.ndarray):
        return ids.ndim > 0
    return isinstance(ids, Sequence) or hasattr(ids, "__array__")


def _one(ids: Any) -> list[Any]:
    """Return a single id as a list, out of its array of no dimensions if it came in one."""
    return [ids[()] if isinstance(ids, np.ndarray) else ids]


def _as_vector(ids: Any, name: str) -> Ids | list[Any]:
    """Return an integer array as it is, and every other collection of ids as a list of objects."""
    n_dimensions = len(getattr(ids, "shape", (0,)))
    if n_dimensions != 1:
        raise ValueError(f"{name} must be one-dimensional, got {n_dimensions} dimensions")
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise TypeError(f"{name} must be a sequence, got {_describe(ids)}")
    # As arrays of NumPy, dictionaries of Arrow and masked arrays would lose their nulls.
    is_lossy = hasattr(ids, "to_pylist") or hasattr(ids, "filled")
    if hasattr(ids, "__array__") and not is_lossy:
        array = np.asarray(ids)
        if array.dtype.kind in "iu":
            return array
    return _to_list(ids)


def _to_list(ids: Any) -> list[Any]:
    """Return ids as Python objects where they have such a form, else as scalars of NumPy."""
    # NumPy's own conversion would make plain integers of nanoseconds.
    if isinstance(ids, np.ndarray) and ids.dtype.kind in "mM":
        return list(ids)
    for method in ("to_pylist", "tolist", "to_list"):
        if hasattr(ids, method):
            return list(getattr(ids, method)())
    return list(ids)


def _to_int64(vector: Ids | list[Any]) -> tuple[Rows, NDArray[np.bool_]]:
    """Return a vector as int64, and which of its elements are integers that fit."""
    if isinstance(vector, np.ndarray):
        return vector.astype(np.int64), vector <= _INT64.max
    if set(map(type, vector)) <= {int}:
        try:
            return np.array(vector, dtype=np.int64), np.ones(len(vector), dtype=np.bool_)
        except OverflowError:
            pass
    integers = [operator.index(x) if _is_integer_type(type(x)) else None for x in vector]
    fitting = [x is not None and _INT64.min <= x <= _INT64.max for x in integers]
    values = [x if fits else 0 for x, fits in zip(integers, fitting, strict=True)]
    return np.array(values, dtype=np.int64), np.array(fitting, dtype=np.bool_)


def _plain(label: Any) -> Any:
    """Return Python's own form of strings and numbers that are of a derived type or NumPy's."""
    kind = type(label)
    if issubclass(kind, str):
        return str.__str__(label)  # what str() gives is not the string for members of an Enum
    if _is_integer_type(kind):
        return operator.index(label)
    if issubclass(kind, np.bool_ | np.inexact | np.bytes_):
        return label.item()
    return label


def _key(label: Any) -> Any:
    """Return what stands for a label in a dict, so that numbers of different types differ."""
    label = _plain(label)
    if isinstance(label, tuple):
        return (tuple, *map(_key, label))
    if isinstance(label, Number):
        return (type(label), label)
    return label


def _keys(items: list[Any]) -> Iterable[Any]:
    """Return the key of each label; strings are their own."""
    return items if set(map(type, items)) <= {str} else map(_key, items)


def _is_null(label: Any) -> bool:
    """Whether a label is None, or something like NaN that does not claim to equal itself."""
    if label is None:
        return True
    try:
        return not label == label  # noqa: SIM201  NaN does not equal itself
    except TypeError:  # the NA of pandas refuses to answer
        return True


def _refuse_nulls(items: list[Any], name: str) -> None:
    """Raise if a label is missing."""
    for position, label in enumerate(items):
        if _is_null(label):
            raise ValueError(f"{name} must not be null, got {label!r} at position {position}")


def _refuse_unhashable(items: list[Any], name: str) -> None:
    """Raise if a label cannot be one."""
    for position, label in enumerate(items):
        try:
            hash(label)
        except TypeError:
            raise TypeError(
                f"{name} must be hashable, got {_describe(label)} at position {position}"
            ) from None


def _refuse_non_integers(users: Any, vector: Ids | list[Any], what: str) -> None:
    """Raise if rows are named by something else than integers; `vector` holds those of `users`."""
    found = ""
    if isinstance(users, np.ndarray) and users.dtype.kind not in "iu":
        found = f"an array of dtype {users.dtype}"
    elif isinstance(vector, list) and not _all_integers(vector):
        found = _describe(next(x for x in vector if not _is_integer_type(type(x))))
    if found:
        raise TypeError(
            f"{what}s must be integer rows (one integer or a 1-D sequence of them), got {found}"
        )


def _check_policy(unknown: str) -> None:
    """Raise if the policy for unknown ids is none."""
    if unknown not in ("raise", "mean"):
        raise ValueError(f'unknown must be "raise" or "mean", got {unknown!r}')


def _describe(thing: Any) -> str:
    """Say the type and the value of something unwanted, in a few words."""
    return f"{type(thing).__name__} {reprlib.repr(thing)}"


def _write(label: Any) -> str:
    """Return a label as error messages show it."""
    return reprlib.repr(_plain(label))


def _written(vector: Ids | list[Any], chosen: NDArray[np.bool_], limit: int) -> list[str]:
    """Return the first chosen labels as error messages show them."""
    return [_write(vector[position]) for position in np.flatnonzero(chosen)[:limit]]


def _listed(vector: Ids | list[Any], chosen: NDArray[np.bool_]) -> str:
    """Say the first chosen labels, and how many there are where that is not clear."""
    n_chosen = int(np.count_nonzero(chosen))
    shown = ", ".join(_written(vector, chosen, _SHOWN)) + (", …" if n_chosen > _SHOWN else "")
    return shown if len(vector) == 1 else f"{shown} ({n_chosen} of {len(vector)})"


def _out_of_range_message(
    vector: Ids | list[Any], missing: NDArray[np.bool_], n: int, what: str
) -> str:
    """Say which rows the model does not have, and which it has."""
    has = f"it has {n} {what}{'' if n == 1 else 's'}" + (f": 0 to {n - 1}" if n else "")
    shown = _listed(vector, missing)
    if np.count_nonzero(missing) == 1:
        return f"{what} {shown} is not a row of this model ({has})"
    return f"{what}s {shown} are not rows of this model ({has})"
