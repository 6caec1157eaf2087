"""The gate: the only way arrays reach a kernel.

Kernels read and write without looking. What they assume is made true here, once: CSR arrays whose
indices are in range, one floating type, C order, finite numbers, no pair rated twice. Every refusal
names the argument, what was found and what is wanted. Inputs are never written to.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import sparse

from cmf import _frames
from cmf._kernels import csr
from cmf._typing import FloatArray, FrameKind, Ids, IndexArray, RatingsLike, Rows

__all__ = [
    "CheckedRatings",
    "align_ratings",
    "check_array",
    "check_bias",
    "check_csr",
    "check_factors",
    "check_finite",
    "check_no_overlap",
    "check_ratings",
    "check_row_counts",
    "check_weights",
    "check_writable",
    "narrow_indices",
]

MAX_INT32 = np.iinfo(np.int32).max


@dataclass(frozen=True, slots=True)
class CheckedRatings:
    """Ratings that a kernel may read: CSR arrays, users as rows.

    Attributes
    ----------
    indptr : ndarray of shape (n_users + 1,), int64
    indices : ndarray of shape (nnz,), int32 or int64, in any order inside a row
    values : ndarray of shape (nnz,), float32 or float64, finite
    shape : tuple of int
        ``(n_users, n_items)``.
    weights : ndarray of shape (nnz,) or None
        One for each rating, above 0, in the dtype of the values. None: all are 1.
    user_ids, item_ids : ndarray or None
        The labels of a wide data frame.
    frame : str or None
        The kind of data frame, if it was one.
    counted : list
        What `cmf._counts` has counted, for whoever asks again.
    """

    indptr: NDArray[np.int64]
    indices: IndexArray
    values: FloatArray
    shape: tuple[int, int]
    weights: FloatArray | None = None
    user_ids: Ids | None = None
    item_ids: Ids | None = None
    frame: FrameKind | None = None
    counted: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    @property
    def nnz(self) -> int:
        """Number of ratings."""
        return int(self.indices.shape[0])

    def with_indices(self, indices: IndexArray) -> CheckedRatings:
        """Return the same ratings with their indices in another array."""
        same = replace(self, indices=indices)
        same.counted.extend(self.counted)
        return same


def check_ratings(
    ratings: RatingsLike,
    *,
    dtype: DTypeLike,
    name: str = "ratings",
    allow_empty: bool = False,
) -> CheckedRatings:
    """Turn anything that holds ratings into checked CSR arrays.

    Every stored entry of a sparse input is a rating, an explicit 0 included; in a dense array or a
    wide data frame 0 and NaN mean "not rated". So does 0 in SciPy's dense blocks (BSR) and
    diagonals (DIA), where it fills gaps. Arrays that already are what kernels need are used as they
    are, not copied. Time and memory are linear in the numbers of ratings and of users.

    Parameters
    ----------
    ratings : sparse array or matrix, 2-D array-like, or wide data frame
        Users as rows, items as columns.
    dtype : dtype
        Wanted type of the values, float32 or float64.
    name : str
        The argument's name in messages.
    allow_empty : bool
        Whether no rows, no columns and no ratings at all are fine.

    Returns
    -------
    CheckedRatings
        Arrays that kernels may read.

    Raises
    ------
    TypeError, ValueError
        If the input is not such a table, or breaks a rule of the gate.
    """
    user_ids = item_ids = frame = None
    if sparse.issparse(ratings):
        indptr, indices, data, shape = _sparse_parts(ratings, name)
    else:
        _frames.refuse_other_frames(ratings, name)
        if _frames.is_frame(ratings):
            wide = _frames.read_wide(ratings, name)
            user_ids, item_ids, frame = wide.user_ids, wide.item_ids, wide.kind
            table = wide.values
        else:
            table = _dense_table(ratings, name)
        indptr, indices, data, shape = _dense_parts(table)
    if not allow_empty:
        _refuse_empty(shape, indices.shape[0], name)
    checked = CheckedRatings(
        indptr,
        indices,
        _values(data, np.dtype(dtype)),
        shape,
        user_ids=user_ids,
        item_ids=item_ids,
        frame=frame,
    )
    _check_no_duplicates(indptr, indices, shape, name)
    _check_values(checked, data, name)
    return checked


def check_weights(
    weights: object, ratings: RatingsLike, checked: CheckedRatings, name: str = "weights"
) -> CheckedRatings:
    """Give every rating its weight; ratings of weight 0 are left out.

    Parameters
    ----------
    weights : object
        One weight for each rating: for sparse ratings (CSR, CSC or COO) a sequence in the order of
        their ``data``, or a sparse matrix with an entry for each rating; for tables a table of the
        same shape, whose other cells are not looked at.
    ratings : sparse array or matrix, 2-D array-like, or wide data frame
        As the caller gave them.
    checked : CheckedRatings
        What `check_ratings` made of them.
    name : str
        The argument's name in messages.

    Returns
    -------
    CheckedRatings
        With weights.

    Raises
    ------
    TypeError, ValueError
        If a rating has no weight, or one that is negative or not finite; if all are 0.
    """
    dtype = checked.values.dtype
    if sparse.issparse(weights):
        found = _weights_of_matrix(weights, checked, name)
    elif sparse.issparse(ratings):
        found = _weights_in_order(weights, ratings, name)
    else:
        found = _weights_of_table(weights, checked, name)
    found = _values(found, dtype)
    position = csr.first_nonfinite(found)
    negative = position < 0 and found.min() < 0
    if position >= 0 or negative:
        position = int(np.argmin(found)) if negative else position
        where = f"{_row_of(checked.indptr, position)}, {checked.indices[position]}"
        raise ValueError(
            f"the weight of ratings[{where}] is {found[position]}: {name} must be finite and at "
            "least 0"
        )
    if not found.any():
        raise ValueError(f"{name} are all 0: no rating would count")
    return _without(replace(checked, weights=found), found == 0)


def _without(ratings: CheckedRatings, dropped: NDArray[np.bool_]) -> CheckedRatings:
    """Leave out some ratings."""
    if not dropped.any():
        return ratings
    before = np.concatenate([[0], np.cumsum(dropped)])[ratings.indptr]
    indices: IndexArray = ratings.indices[~dropped]
    return replace(
        ratings,
        indptr=ratings.indptr - before,
        indices=indices,
        values=ratings.values[~dropped],
        weights=None if ratings.weights is None else ratings.weights[~dropped],
    )


def _weights_in_order(weights: object, ratings: Any, name: str) -> NDArray[Any]:
    """Return weights that stand in the order of a sparse container's data."""
    if ratings.format not in ("csr", "csc", "coo"):
        raise ValueError(
            f"{name} must be a sparse matrix like the ratings, which are {ratings.format}: only "
            "CSR, CSC and COO have their entries in an order"
        )
    numbers = _floating_array(weights, name, 1, np.float64)
    if numbers.shape != np.shape(ratings.data):
        raise ValueError(
            f"{name} has {numbers.shape[0]} numbers for {np.shape(ratings.data)[0]} stored ratings"
        )
    # What was done to the ratings is done to the weights: any order of theirs is the same then.
    in_order: NDArray[Any] = _sparse_parts(_with_data(ratings, numbers), name)[2]
    return in_order


def _with_data(matrix: Any, data: NDArray[Any]) -> Any:
    if matrix.format == "coo":
        return sparse.coo_array((data, (matrix.row, matrix.col)), shape=matrix.shape)
    made = sparse.csr_array if matrix.format == "csr" else sparse.csc_array
    return made((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def _weights_of_matrix(weights: Any, checked: CheckedRatings, name: str) -> NDArray[Any]:
    """Return the entries of a sparse matrix at the places of the ratings."""
    found = check_ratings(weights, dtype=np.float64, name=name)
    if found.shape != checked.shape:
        raise ValueError(f"{name} has shape {found.shape}, but ratings has {checked.shape}")
    # Numbers of cells, ascending, so that each rating finds its weight by halving.
    cells, wanted = (_cells_of(ratings) for ratings in (found, checked))
    order = np.argsort(cells, kind="stable")
    places = np.minimum(np.searchsorted(cells, wanted, sorter=order), cells.shape[0] - 1)
    positions = order[places]
    missing = np.flatnonzero(cells[positions] != wanted)
    if missing.size:
        first = int(missing[0])
        raise ValueError(
            f"{name} has no entry for ratings[{_row_of(checked.indptr, first)}, "
            f"{checked.indices[first]}]: one for every rating is wanted"
        )
    at_ratings: NDArray[Any] = found.values[positions]
    return at_ratings


def _cells_of(ratings: CheckedRatings) -> NDArray[np.int64]:
    rows = np.repeat(np.arange(ratings.shape[0]), np.diff(ratings.indptr))
    cells: NDArray[np.int64] = rows * ratings.shape[1] + ratings.indices
    return cells


def _weights_of_table(weights: object, checked: CheckedRatings, name: str) -> NDArray[Any]:
    """Return the cells of a table at the places of the ratings."""
    if _frames.is_frame(weights):
        wide = _frames.read_wide(weights, name)
        for ids, of_ratings in (
            (wide.user_ids, checked.user_ids),
            (wide.item_ids, checked.item_ids),
        ):
            if ids is not None and not np.array_equal(ids, of_ratings):  # type: ignore[arg-type]
                raise ValueError(f"{name} must have the labels of the ratings, in the same order")
        table = wide.values
    else:
        table = _dense_table(weights, name)
    if table.shape != checked.shape:
        raise ValueError(f"{name} has shape {table.shape}, but ratings has {checked.shape}")
    rows = np.repeat(np.arange(checked.shape[0]), np.diff(checked.indptr))
    cells: NDArray[Any] = table[rows, checked.indices]
    return cells


def _same_labels(found: Ids | None, wanted: Ids | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return bool(np.array_equal(found, wanted))


def check_csr(
    indptr: NDArray[Any], indices: NDArray[Any], shape: tuple[int, int], name: str
) -> tuple[NDArray[np.int64], IndexArray]:
    """Check the pattern of a CSR matrix, duplicates included, and return it as kernels need it."""
    checked_indptr, checked_indices = _check_pattern(indptr, indices, shape, name, axis="column")
    _check_no_duplicates(checked_indptr, checked_indices, shape, name)
    return checked_indptr, checked_indices


def check_finite(array: FloatArray, name: str) -> None:
    """Refuse NaN and infinities, naming the first position."""
    position = csr.first_nonfinite(array.reshape(-1))
    if position >= 0:
        where = ", ".join(str(int(i)) for i in np.unravel_index(position, array.shape))
        raise ValueError(
            f"{name}[{where}] is {array.reshape(-1)[position]}: every value must be finite"
        )


def check_factors(
    user_factors: object,
    item_factors: object,
    *,
    n_factors: int | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Check two factor matrices, against each other and `n_factors` if that is given.

    They come back as they are if they are C-contiguous and of the wanted type, else as copies.
    Without `dtype` both must already share float32 or float64.
    """
    P = _floating_array(user_factors, "user_factors", 2, dtype)
    Q = _floating_array(item_factors, "item_factors", 2, dtype)
    if P.dtype != Q.dtype:
        raise ValueError(
            f"user_factors is {P.dtype} and item_factors is {Q.dtype}: one dtype is wanted"
        )
    wanted = P.shape[1] if n_factors is None else n_factors
    if not (P.shape[1] == Q.shape[1] == wanted):
        raise ValueError(
            f"user_factors has shape {P.shape} and item_factors {Q.shape}: "
            + (
                "both must have the same number of columns"
                if n_factors is None
                else f"both must have n_factors={n_factors} columns"
            )
        )
    if wanted < 1:
        raise ValueError(f"user_factors has shape {P.shape}: at least one factor is wanted")
    check_finite(P, "user_factors")
    check_finite(Q, "item_factors")
    return P, Q


def check_row_counts(P: FloatArray, Q: FloatArray, shape: tuple[int, int]) -> None:
    """Refuse checked factors that do not have a row for each user and each item of ratings."""
    found = (P.shape[0], Q.shape[0])
    if found != shape:
        raise ValueError(
            f"user_factors has {found[0]} rows and item_factors {found[1]}, but ratings has "
            f"shape {shape}: one row per user and one per item is wanted"
            + _transposed(shape, found)
        )


def check_no_overlap(P: FloatArray, Q: FloatArray, ratings: CheckedRatings) -> None:
    """Refuse arrays to be written to that share memory with each other or with the ratings."""
    # Were indices to change under a kernel after they were checked, it would write anywhere.
    if np.shares_memory(P, Q):
        raise ValueError("user_factors and item_factors overlap in memory: two arrays are wanted")
    for array, name in ((P, "user_factors"), (Q, "item_factors")):
        for read in (ratings.indptr, ratings.indices, ratings.values):
            if np.shares_memory(array, read):
                raise ValueError(f"{name} and ratings overlap in memory: two arrays are wanted")


def check_bias(values: object, name: str, length: int, dtype: DTypeLike) -> FloatArray:
    """Check one vector of biases; None gives zeros."""
    if values is None:
        return np.zeros(length, dtype=dtype)
    return check_array(values, name, (length,), dtype)


def check_array(values: object, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> FloatArray:
    """Check one array of finite numbers whose shape is known."""
    array = _floating_array(values, name, len(shape), dtype)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}: {shape} is wanted")
    check_finite(array, name)
    return array


def check_writable(array: object, name: str) -> None:
    """Refuse what a kernel cannot change in place."""
    if not isinstance(array, np.ndarray):
        raise TypeError(
            f"{name} is changed in place and must be a NumPy array, got {type(array).__name__}"
        )
    if array.dtype not in (np.float32, np.float64) or not array.dtype.isnative:
        raise TypeError(
            f"{name} is changed in place and must be float32 or float64, got {array.dtype}"
        )
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} is changed in place and must be C-contiguous")
    if not array.flags.aligned or not array.flags.writeable:
        raise ValueError(f"{name} is changed in place and must be aligned and writeable")


def align_ratings(
    ratings: CheckedRatings,
    user_rows: Rows | None,
    item_rows: Rows | None,
    shape: tuple[int, int],
    name: str,
) -> CheckedRatings:
    """Move checked ratings to the rows and columns of a model.

    Parameters
    ----------
    ratings : CheckedRatings
        As they came.
    user_rows, item_rows : ndarray of int64, or None
        The model's row for each row, and for each column, of `ratings`: unique and in range.
        None: they are the model's already, and there must be as many.
    shape : tuple of int
        The model's numbers of users and items.
    name : str
        The argument's name in messages.

    Returns
    -------
    CheckedRatings
        Of that shape; the same object if nothing moves.
    """
    wanted = (
        ratings.shape[0] if user_rows is not None else shape[0],
        ratings.shape[1] if item_rows is not None else shape[1],
    )
    if ratings.shape != wanted:
        raise ValueError(_shape_message(ratings.shape, shape, name))
    if _is_identity(user_rows, shape[0]) and _is_identity(item_rows, shape[1]):
        return ratings
    lengths = np.diff(ratings.indptr)
    rows = np.arange(shape[0]) if user_rows is None else user_rows
    columns: IndexArray = ratings.indices if item_rows is None else item_rows[ratings.indices]
    places: Any = np.arange(ratings.nnz)
    indptr, indices, places = _from_triples(np.repeat(rows, lengths), columns, places, shape, name)
    weights = None if ratings.weights is None else ratings.weights[places]
    return CheckedRatings(indptr, indices, ratings.values[places], shape, weights)


def narrow_indices(ratings: CheckedRatings) -> CheckedRatings:
    """Return ratings with int32 indices if these can number the items."""
    if ratings.shape[1] > MAX_INT32 or ratings.indices.dtype == np.int32:
        return ratings
    return ratings.with_indices(ratings.indices.astype(np.int32))


def _is_identity(rows: Rows | None, size: int) -> bool:
    return rows is None or np.array_equal(rows, np.arange(size))


def _shape_message(found: tuple[int, int], wanted: tuple[int, int], name: str) -> str:
    if found[0] == wanted[0]:  # as of new users, of whom the model has no number
        message = f"{name} has shape {found}, but the model has {wanted[1]} items"
    else:
        message = (
            f"{name} has shape {found}, but the model has {wanted[0]} users and {wanted[1]} items"
            + _transposed(found, wanted)
        )
    if found[1] != wanted[1]:
        # In scikit-learn's words as well, which its own checks look for.
        message += (
            f" (X has {found[1]} features, but MatrixFactorization is expecting {wanted[1]} "
            "features as input)"
        )
    return message


def _transposed(found: tuple[int, int], wanted: tuple[int, int]) -> str:
    return "; is it transposed?" if found == wanted[::-1] and found != wanted else ""


# --- sparse input -------------------------------------------------------------------------------


def _sparse_parts(
    matrix: Any, name: str
) -> tuple[NDArray[np.int64], IndexArray, NDArray[Any], tuple[int, int]]:
    """Return CSR arrays of any SciPy sparse container, in range; nothing is summed."""
    if matrix.ndim != 2:
        raise ValueError(f"{name} is {matrix.ndim}-D: a 2-D table, users by items, is wanted")
    shape = (int(matrix.shape[0]), int(matrix.shape[1]))
    if matrix.format == "csr":
        data = _stored(matrix.data, matrix.indices, name)
        indptr, indices = _check_pattern(matrix.indptr, matrix.indices, shape, name, axis="column")
        return indptr, indices, data[: indices.shape[0]], shape
    if matrix.format == "csc":
        data = _stored(matrix.data, matrix.indices, name)
        indptr, indices = _check_pattern(
            matrix.indptr, matrix.indices, shape[::-1], name, axis="row"
        )
        every_column = np.arange(shape[1], dtype=indices.dtype)
        columns: IndexArray = np.repeat(every_column, np.diff(indptr))  # type: ignore[assignment]
        return *_from_triples(indices, columns, data[: indices.shape[0]], shape, name), shape
    return *_from_triples(*_triples(matrix, name), shape, name), shape


def _triples(matrix: Any, name: str) -> tuple[IndexArray, IndexArray, NDArray[Any]]:
    """Return rows, columns and values of any other sparse container, checked to be in range."""
    try:
        if matrix.format == "dia":
            found = _diagonals(matrix)
        elif matrix.format == "bsr":
            found = _blocks(matrix)
        else:
            if matrix.format == "lil":
                _check_lists(matrix)
            coo = matrix if matrix.format == "coo" else matrix.tocoo()
            found = coo.row, coo.col, coo.data
    except (ValueError, IndexError, TypeError, OverflowError, AttributeError) as error:
        raise ValueError(f"{name} is not a valid {matrix.format} matrix: {error}") from error
    data = _stored(found[2], found[0], name)
    rows = _check_range(found[0], matrix.shape[0], name, axis="row")
    columns = _check_range(found[1], matrix.shape[1], name, axis="column")
    if rows.shape != columns.shape:
        raise ValueError(f"{name} has {len(rows)} row and {len(columns)} column indices")
    return rows, columns, data


_Triples: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]


def _blocks(matrix: Any) -> _Triples:
    """Return rows, columns and values of a BSR matrix; in blocks of several, zeros are gaps."""
    table = np.asarray(matrix.data)
    found = np.shape(matrix.indices)
    if table.ndim != 3 or 0 in table.shape[1:] or found != table.shape[:1]:
        raise ValueError(f"it has data of shape {table.shape} for indices of shape {found}")
    _, height, width = table.shape
    n_blocks = (matrix.shape[0] // height, matrix.shape[1] // width)
    indptr, indices = _check_pattern(matrix.indptr, matrix.indices, n_blocks, "it", axis="column")
    table = table[: indices.shape[0]]
    block, row, column = np.nonzero(table if height * width > 1 else np.ones(table.shape, bool))
    first_rows = np.repeat(np.arange(n_blocks[0]) * height, np.diff(indptr))
    first_columns = indices.astype(np.int64) * width
    return first_rows[block] + row, first_columns[block] + column, table[block, row, column]


def _diagonals(matrix: Any) -> _Triples:
    """Return rows, columns and values of a DIA matrix, which SciPy converts without looking."""
    table, offsets = np.asarray(matrix.data), np.asarray(matrix.offsets)
    if offsets.dtype.kind not in "iu" or table.ndim != 2 or offsets.shape != table.shape[:1]:
        raise ValueError(
            f"it has {offsets.dtype} offsets of shape {offsets.shape} for data of shape "
            f"{table.shape}"
        )
    diagonals, columns = np.nonzero(table)
    rows = columns - offsets.astype(np.int64)[diagonals]
    inside = (rows >= 0) & (rows < matrix.shape[0]) & (columns < matrix.shape[1])
    return rows[inside], columns[inside], table[diagonals, columns][inside]


def _check_lists(matrix: Any) -> None:
    """Refuse a LIL matrix whose rows have not as many values as indices: SciPy does not look."""
    if not len(matrix.rows) == len(matrix.data) == matrix.shape[0]:
        raise ValueError(
            f"it has {len(matrix.rows)} lists of indices, {len(matrix.data)} of values"
        )
    for row, (indices, values) in enumerate(zip(matrix.rows, matrix.data, strict=True)):
        if len(indices) != len(values):
            raise ValueError(f"row {row} has {len(values)} values for {len(indices)} indices")


def _from_triples(
    rows: IndexArray,
    columns: IndexArray,
    data: NDArray[Any],
    shape: tuple[int, int],
    name: str,
) -> tuple[NDArray[np.int64], IndexArray, NDArray[Any]]:
    """Return CSR arrays of triples in range, entries of a row in the order of the triples."""
    # SciPy sums duplicates unless the matrix is said to have none; ours are to be found. Its
    # conversion knows fewer types than its containers: positions travel instead of values.
    narrow = rows.shape[0] <= MAX_INT32
    positions: Any = np.arange(rows.shape[0], dtype=np.int32 if narrow else np.int64)
    coo: Any = sparse.coo_array((positions, (rows, columns)), shape=shape)
    coo.has_canonical_format = True
    try:
        matrix = coo.tocsr()
    except (MemoryError, ValueError) as error:
        raise MemoryError(f"{name} has shape {shape}: too many users for the memory") from error
    return matrix.indptr.astype(np.int64, copy=False), matrix.indices, data[matrix.data]


def _stored(data: Any, indices: Any, name: str) -> NDArray[Any]:
    values = np.asarray(data)
    _check_value_type(values.dtype, name)
    if values.ndim != 1 or np.shape(indices) != values.shape:
        raise ValueError(
            f"{name} has values of shape {values.shape} for indices of shape {np.shape(indices)}: "
            "one each is wanted"
        )
    return values


def _check_pattern(
    indptr: Any, indices: Any, shape: tuple[int, int], name: str, *, axis: str
) -> tuple[NDArray[np.int64], IndexArray]:
    """Return the index arrays of a compressed matrix, monotone and in range."""
    starts = np.asarray(indptr)
    if starts.dtype.kind not in "iu" or starts.ndim != 1:
        raise ValueError(f"{name}.indptr must be a 1-D array of integers, got {starts.dtype}")
    if starts.shape[0] != shape[0] + 1:
        raise ValueError(
            f"{name}.indptr has length {starts.shape[0]}: {shape[0] + 1} is wanted for "
            f"shape {shape if axis == 'column' else shape[::-1]}"
        )
    starts = _laid_out(starts, np.int64)
    if starts[0] != 0:
        raise ValueError(f"{name}.indptr must start with 0, got {starts[0]}")
    falling = np.flatnonzero(starts[1:] < starts[:-1])
    if falling.size:
        j = int(falling[0])
        raise ValueError(
            f"{name}.indptr must not decrease, but goes from {starts[j]} to {starts[j + 1]} at "
            f"position {j + 1}"
        )
    stored = np.asarray(indices)
    if stored.ndim != 1:
        raise ValueError(f"{name}.indices must be 1-D, got {stored.ndim}-D")
    if starts[-1] > stored.shape[0]:
        raise ValueError(
            f"{name}.indptr ends at {starts[-1]}, but there are {stored.shape[0]} indices"
        )
    return starts, _check_range(stored[: starts[-1]], shape[1], name, axis=axis)


def _check_range(indices: Any, size: int, name: str, *, axis: str) -> IndexArray:
    """Return row or column indices in native int32 or int64, all in ``[0, size)``."""
    found = np.asarray(indices)
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise ValueError(f"{name} has {axis} indices of type {found.dtype}: integers are wanted")
    # uint64 beyond int64 turns negative here, and is then out of range as it should be.
    checked: IndexArray = _laid_out(found, np.int32 if found.dtype == np.int32 else np.int64)
    position = csr.first_out_of_range(checked, size)
    if position >= 0:
        what = "items" if axis == "column" else "users"
        raise ValueError(
            f"{name} has {axis} index {found[position]} at position {position}, which is out of "
            f"range for {size} {what}"
        )
    return checked


# --- dense input --------------------------------------------------------------------------------


def _dense_table(ratings: Any, name: str) -> NDArray[Any]:
    """Return a 2-D array of real numbers; masked entries become NaN."""
    try:
        table = ratings if np.ma.isMaskedArray(ratings) else np.asarray(ratings)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"{name} is not a table: rows of equal length are wanted ({error})"
        ) from error
    if table.ndim == 0 and table.dtype.kind not in "fiubc":
        raise TypeError(
            f"{name} must be a sparse matrix, a 2-D array or a wide data frame, got "
            f"{type(ratings).__name__}"
        )
    _check_value_type(table.dtype, name)
    if table.ndim != 2:
        raise ValueError(
            f"{name} is {table.ndim}-D: a 2-D table, users by items, is wanted. Reshape your data "
            "with reshape(1, -1) if it holds one user"
        )
    if np.ma.isMaskedArray(table):
        filled: NDArray[Any] = np.ma.filled(table.astype(np.float64), np.nan)
        return filled
    return table


def _dense_parts(
    table: NDArray[Any],
) -> tuple[NDArray[np.int64], IndexArray, NDArray[Any], tuple[int, int]]:
    rated = table != 0
    if table.dtype.kind == "f":
        rated &= ~np.isnan(table)
    n_users, n_items = table.shape
    indptr = np.zeros(n_users + 1, dtype=np.int64)
    np.cumsum(np.count_nonzero(rated, axis=1), out=indptr[1:])
    rows, columns = np.nonzero(rated)
    indices: Any = columns.astype(np.int32 if n_items <= MAX_INT32 else np.int64)
    return indptr, indices, table[rows, columns], (n_users, n_items)


def _check_value_type(dtype: np.dtype[Any], name: str) -> None:
    if dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} is {dtype}, real numbers are wanted")
    if dtype.kind not in "fiub":
        raise TypeError(
            f"{name} holds values of type {dtype}: real numbers are wanted, in a table with users "
            "as rows and items as columns. Convert them first, for example with astype(float)"
        )


# --- values -------------------------------------------------------------------------------------


def _values(data: NDArray[Any], dtype: np.dtype[Any]) -> FloatArray:
    with np.errstate(over="ignore", invalid="ignore"):
        values: FloatArray = _laid_out(data, dtype)
    return values


def _refuse_empty(shape: tuple[int, int], nnz: int, name: str) -> None:
    for size, what, kind in ((shape[0], "sample", "users"), (shape[1], "feature", "items")):
        if size == 0:
            raise ValueError(
                f"{name} has no {kind}: 0 {what}(s) (shape={shape}) while a minimum of 1 is "
                "required."
            )
    if nnz == 0:
        raise ValueError(f"{name} has shape {shape} but holds no rating: at least one is wanted")


def _check_no_duplicates(
    indptr: NDArray[np.int64], indices: IndexArray, shape: tuple[int, int], name: str
) -> None:
    if csr.first_unsorted(indptr, indices) < 0:
        return
    # The kernel needs a number for each item, which many items and few ratings are not worth.
    if shape[1] > 2**16 and shape[1] // 8 > indices.shape[0]:
        position = _first_duplicate(indptr, indices)
    else:
        position = csr.first_duplicate(indptr, indices, np.full(shape[1], -1, dtype=np.int64))
    if position >= 0:
        user = _row_of(indptr, position)
        raise ValueError(
            f"{name} holds more than one rating of item {indices[position]} by user {user}: decide "
            "which one counts before training (SciPy would add them up)"
        )


def _first_duplicate(indptr: NDArray[np.int64], indices: IndexArray) -> int:
    """Position of the first index that its own row holds already, by sorting; -1: none."""
    rows = np.repeat(np.arange(indptr.shape[0] - 1), np.diff(indptr))
    order = np.lexsort((indices, rows))
    before, after = order[:-1], order[1:]
    again = after[(rows[before] == rows[after]) & (indices[before] == indices[after])]
    return int(again.min()) if again.size else -1


def _check_values(checked: CheckedRatings, data: NDArray[Any], name: str) -> None:
    position = csr.first_nonfinite(checked.values)
    if position < 0:
        return
    where = f"{name}[{_row_of(checked.indptr, position)}, {checked.indices[position]}]"
    if np.isfinite(data[position]):
        hint = ", or use dtype='float64'" if checked.values.dtype == np.float32 else ""
        raise ValueError(
            f"{where} is {data[position]!s}, too large for {checked.values.dtype}: scale the "
            f"ratings{hint}"
        )
    raise ValueError(
        f"{where} is {data[position]} (stored entry {position}): every rating must be a finite "
        "number, found NaN or infinity"
    )


def _row_of(indptr: NDArray[np.int64], position: int) -> int:
    return int(np.searchsorted(indptr, position, side="right")) - 1


# --- factors ------------------------------------------------------------------------------------


def _floating_array(values: object, name: str, ndim: int, dtype: DTypeLike | None) -> FloatArray:
    """Return an aligned, native, C-contiguous float array of `ndim` dimensions."""
    if np.ma.is_masked(values):
        raise ValueError(f"{name} has masked values: numbers are wanted in their places")
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{name} is not an array: {error}") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} holds values of type {array.dtype}: real numbers are wanted")
    if array.ndim != ndim:
        raise ValueError(f"{name} is {array.ndim}-D: a {ndim}-D array is wanted")
    wanted = np.dtype(dtype) if dtype is not None else array.dtype.newbyteorder("=")
    if wanted not in (np.float32, np.float64):
        raise TypeError(f"{name} is {array.dtype}: float32 or float64 is wanted")
    with np.errstate(over="ignore", invalid="ignore"):
        checked: FloatArray = _laid_out(array, wanted)
    return checked


def _laid_out(array: NDArray[Any], dtype: DTypeLike) -> Any:
    """Return the array itself if kernels can read it, else a copy that they can."""
    return np.require(array, dtype=dtype, requirements=["C_CONTIGUOUS", "ALIGNED"])
