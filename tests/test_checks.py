"""The gate for arrays: what passes, in which form, and what is refused with which words."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import reference
from hypothesis import given
from scipy import sparse
from strategies import patterns

from cmf import _checks
from cmf._checks import (
    CheckedRatings,
    align_ratings,
    check_array,
    check_bias,
    check_csr,
    check_factors,
    check_finite,
    check_no_overlap,
    check_ratings,
    check_row_counts,
    check_writable,
)

# Four users and five items. User 2 has no rating, the row of user 3 is unsorted and has a stored 0.
INDPTR = [0, 2, 3, 3, 6]
INDICES = [0, 2, 1, 4, 0, 3]
VALUES = [5.0, 3.0, 4.0, 2.0, 1.0, 0.0]
SHAPE = (4, 5)


def make_csr(indptr=INDPTR, indices=INDICES, values=VALUES, shape=SHAPE, kind=sparse.csr_array):
    """Return a CSR matrix of exactly these arrays, whatever SciPy would say to them."""
    matrix = kind(shape)
    matrix.indptr = np.array(indptr) if isinstance(indptr, list) else indptr
    matrix.indices = np.array(indices) if isinstance(indices, list) else indices
    matrix.data = np.array(values) if isinstance(values, list) else values
    return matrix


def cells(checked):
    """Return the ratings as a dict, which forgets the order inside rows."""
    rows = np.repeat(np.arange(checked.shape[0]), np.diff(checked.indptr))
    keys = zip(rows.tolist(), checked.indices.tolist(), strict=True)
    return dict(zip(keys, checked.values.tolist(), strict=True))


STORED = {(0, 0): 5.0, (0, 2): 3.0, (1, 1): 4.0, (3, 4): 2.0, (3, 0): 1.0, (3, 3): 0.0}
WITHOUT_ZERO = {cell: value for cell, value in STORED.items() if value}


# --- what passes ------------------------------------------------------------------------------


@pytest.mark.parametrize("index_dtype", [np.int32, np.int64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_that_kernels_can_read_are_not_copied(index_dtype, dtype):
    matrix = make_csr(
        np.array(INDPTR, dtype=np.int64),
        np.array(INDICES, dtype=index_dtype),
        np.array(VALUES, dtype=dtype),
    )
    checked = check_ratings(matrix, dtype=dtype)
    assert np.shares_memory(checked.indptr, matrix.indptr)
    assert np.shares_memory(checked.indices, matrix.indices)
    assert np.shares_memory(checked.values, matrix.data)
    assert checked.indices.dtype == index_dtype
    assert (checked.shape, checked.nnz) == (SHAPE, 6)
    assert checked.user_ids is checked.item_ids is checked.frame is None


def test_row_pointers_are_64_bit_whatever_they_were():
    for dtype in ("int32", "int64", "uint32", "uint64", "int8", ">i4", ">i8"):
        checked = check_ratings(make_csr(np.array(INDPTR, dtype=dtype)), dtype="float32")
        assert checked.indptr.dtype == np.int64
        assert checked.indptr.dtype.isnative
        assert checked.indptr.tolist() == INDPTR


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "int64", "uint64", ">i4", "<i8"])
def test_indices_of_any_integer_type(dtype):
    checked = check_ratings(make_csr(indices=np.array(INDICES, dtype=dtype)), dtype="float64")
    assert checked.indices.dtype in (np.int32, np.int64)
    assert checked.indices.tolist() == INDICES


@pytest.mark.parametrize(
    "dtype",
    [
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
        "longdouble",
        ">f2",
        ">f4",
        ">f8",
        ">i2",
        ">i8",
    ],
)
@pytest.mark.parametrize("wanted", ["float32", "float64"])
def test_values_of_any_real_type(dtype, wanted):
    for ratings in (
        make_csr(values=np.array(VALUES).astype(dtype)),
        make_csr().toarray().astype(dtype),
    ):
        checked = check_ratings(ratings, dtype=wanted)
        assert checked.values.dtype == np.dtype(wanted)
        assert {cell: value for cell, value in cells(checked).items() if value} == WITHOUT_ZERO


def test_true_is_one():
    assert cells(check_ratings([[True, False]], dtype="float32")) == {(0, 0): 1.0}


def strided(values):
    return np.repeat(values, 3)[::3]


def backward(values):
    return values[::-1].copy()[::-1]


def misaligned(values):
    raw = b"\0" + values.tobytes()
    array = np.frombuffer(raw, dtype=values.dtype, offset=1)
    assert not array.flags.aligned
    return array


def read_only(values):
    array = values.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("lay_out", [strided, backward, misaligned, read_only])
def test_memory_of_any_layout(lay_out):
    matrix = make_csr(
        lay_out(np.array(INDPTR)), lay_out(np.array(INDICES)), lay_out(np.array(VALUES))
    )
    checked = check_ratings(matrix, dtype="float64")
    for array in (checked.indptr, checked.indices, checked.values):
        assert array.flags.c_contiguous
        assert array.flags.aligned
    assert cells(checked) == STORED


def test_a_memory_map_is_read_where_it_is(tmp_path):
    values = np.memmap(tmp_path / "values", dtype=np.float32, mode="w+", shape=6)
    values[:] = VALUES
    values.flush()
    mapped = np.memmap(tmp_path / "values", dtype=np.float32, mode="r", shape=6)
    checked = check_ratings(make_csr(values=mapped), dtype="float32")
    assert np.shares_memory(checked.values, mapped)
    assert cells(checked) == STORED


def test_order_inside_rows_is_kept():
    assert check_ratings(make_csr(), dtype="float64").indices.tolist() == INDICES


def test_room_behind_the_last_row_is_not_read():
    padded = make_csr(indices=[*INDICES, -7, 99], values=[*VALUES, np.nan, np.inf])
    checked = check_ratings(padded, dtype="float64")
    assert cells(checked) == STORED
    assert checked.nnz == 6
    by_column = sparse.csc_array(make_csr())
    by_column.indices = np.append(by_column.indices, -7)
    by_column.data = np.append(by_column.data, np.nan)
    assert cells(check_ratings(by_column, dtype="float64")) == STORED


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("container", ["csr", "csc", "coo"])
def test_containers_that_store_zeros_keep_them(container, kind):
    matrix = getattr(sparse, f"{container}_{kind}")(make_csr())
    checked = check_ratings(matrix, dtype="float64")
    assert cells(checked) == STORED
    assert (checked.shape, checked.nnz) == (SHAPE, 6)


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("container", ["lil", "dok", "dia"])
def test_containers_that_store_no_zeros(container, kind):
    table = make_csr().toarray()
    checked = check_ratings(getattr(sparse, f"{container}_{kind}")(table), dtype="float64")
    assert cells(checked) == WITHOUT_ZERO
    assert checked.shape == SHAPE


@pytest.mark.parametrize("kind", [sparse.bsr_array, sparse.bsr_matrix])
def test_zeros_that_fill_blocks_are_no_ratings(kind):
    table = make_csr().toarray()
    blocks = kind(table, blocksize=(2, 5))
    assert blocks.nnz == 20
    assert cells(check_ratings(blocks, dtype="float64")) == WITHOUT_ZERO
    # Blocks of one cell have nothing to fill, so that a zero is one that was stored.
    single = kind(table, blocksize=(1, 1))
    assert single.data[0, 0, 0] == 5
    single.data[0, 0, 0] = 0
    assert cells(check_ratings(single, dtype="float64")) == {**WITHOUT_ZERO, (0, 0): 0.0}


def test_blocks_of_every_shape_are_unfolded():
    table = np.arange(24.0).reshape(4, 6)
    expected = cells(check_ratings(table, dtype="float64"))
    for blocksize in [(1, 1), (1, 2), (2, 1), (2, 3), (4, 6), (4, 1)]:
        found = check_ratings(sparse.bsr_array(table, blocksize=blocksize), dtype="float64")
        assert {cell: value for cell, value in cells(found).items() if value} == expected


def test_diagonals_outside_of_the_matrix_are_not_read():
    # As an int32, which SciPy makes of it, the offset 2**32 is the main diagonal once more.
    matrix = make_dia(np.ones((4, 3)), [0, 2**32, -(2**40), 1])
    expected = {(0, 0): 1.0, (1, 1): 1.0, (2, 2): 1.0, (0, 1): 1.0, (1, 2): 1.0}
    assert cells(check_ratings(matrix, dtype="float64")) == expected


@pytest.mark.parametrize(
    "table",
    [
        [[5, 0, 3], [0, 4, 0]],
        ((5, 0, 3), (0, 4, 0)),
        np.array([[5, np.nan, 3], [0, 4, np.nan]]),
        np.asfortranarray([[5.0, 0.0, 3.0], [0.0, 4.0, 0.0]]),
        np.array([[5, 0, 3], [0, 4, 0]]).view(np.matrix),
        np.ma.array([[5, 9, 3], [9, 4, 9]], mask=[[0, 1, 0], [1, 0, 1]]),
        np.ma.array([[5.0, np.inf, 3.0], [0, 4.0, np.nan]], mask=[[0, 1, 0], [0, 0, 1]]),
        [np.array([5, 0, 3]), np.array([0, 4, 0])],
        pd.DataFrame([[5, None, 3], [0, 4, None]]),
    ],
    ids=lambda table: type(table).__name__,
)
def test_in_a_table_zero_and_nan_mean_not_rated(table):
    checked = check_ratings(table, dtype="float64")
    assert cells(checked) == {(0, 0): 5.0, (0, 2): 3.0, (1, 1): 4.0}
    assert checked.shape == (2, 3)
    assert checked.indices.dtype == np.int32


def test_a_frame_brings_its_labels():
    frame = pd.DataFrame([[5.0, 0.0]], index=["ann"], columns=["x", "y"])
    checked = check_ratings(frame, dtype="float32")
    assert checked.user_ids.tolist() == ["ann"]
    assert checked.item_ids.tolist() == ["x", "y"]
    assert checked.frame == "pandas"


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (3, 3)])
def test_nothing_is_fine_where_it_is_allowed(shape):
    for empty in (sparse.csr_array(shape), sparse.coo_array(shape), np.zeros(shape)):
        checked = check_ratings(empty, dtype="float32", allow_empty=True)
        assert (checked.shape, checked.nnz) == (shape, 0)
        assert checked.indptr.tolist() == [0] * (shape[0] + 1)


# --- duplicates --------------------------------------------------------------------------------


def twice(container):
    """User 1 rates item 2 with 4 and again with 5."""
    triples = ([1.0, 4.0, 5.0], ([0, 1, 1], [0, 2, 2]))
    if container == "csr":
        return make_csr([0, 1, 3], [0, 2, 2], [1.0, 4.0, 5.0], (2, 3))
    if container == "csc":
        return make_csr([0, 1, 1, 3], [0, 1, 1], [1.0, 4.0, 5.0], (2, 3), sparse.csc_array)
    if container == "lil":
        matrix = sparse.lil_array((2, 3))
        matrix.rows[:] = [[0], [2, 2]]
        matrix.data[:] = [[1.0], [4.0, 5.0]]
        return matrix
    if container == "bsr":
        blocks = np.array([1.0, 4.0, 5.0]).reshape(3, 1, 1)
        return sparse.bsr_array((blocks, [0, 2, 2], [0, 1, 3]), shape=(2, 3))
    if container == "dia":
        matrix = sparse.dia_array((2, 3))
        matrix.offsets = np.array([1, 1])
        matrix.data = np.array([[0.0, 0.0, 4.0], [0.0, 0.0, 5.0]])
        return matrix
    return sparse.coo_array(triples, shape=(2, 3))


@pytest.mark.parametrize("said_canonical", [False, True])
@pytest.mark.parametrize("container", ["csr", "csc", "coo", "lil", "bsr", "dia"])
def test_pairs_rated_twice_are_refused_whatever_the_flag_says(container, said_canonical):
    matrix = twice(container)
    if said_canonical and container in ("csr", "csc", "coo"):
        matrix.has_canonical_format = True
    message = r"ratings holds more than one rating of item 2 by user 1: .*SciPy would add them up"
    with pytest.raises(ValueError, match=message):
        check_ratings(matrix, dtype="float64")


def test_equal_ratings_and_zeros_are_duplicates_too():
    for values in ([4.0, 4.0], [0.0, 4.0], [4.0, 0.0]):
        with pytest.raises(ValueError, match=r"item 3 by user 0"):
            check_ratings(make_csr([0, 2], [3, 3], values, (1, 4)), dtype="float64")


def test_the_same_item_of_neighboring_users_is_no_duplicate():
    matrix = make_csr([0, 1, 2, 3], [1, 1, 1], [1.0, 2.0, 3.0], (3, 2))
    assert check_ratings(matrix, dtype="float64").nnz == 3


@given(patterns())
def test_sorting_finds_the_duplicate_that_the_kernel_finds(pattern):
    indptr, indices = pattern
    expected = reference.first_duplicate(indptr, indices, None)
    assert _checks._first_duplicate(indptr, indices) == expected


@pytest.mark.parametrize("n_items", [10, 2**16, 2**20, 2**40])
def test_duplicates_are_found_among_any_number_of_items(n_items):
    last = n_items - 1
    matrix = make_csr([0, 2, 5], [last, 0, 0, last, last], [1.0] * 5, (2, n_items))
    with pytest.raises(ValueError, match=f"item {last} by user 1"):
        check_ratings(matrix, dtype="float32")
    matrix.indices[-1] = 1
    assert check_ratings(matrix, dtype="float32").indices.tolist() == [last, 0, 0, last, 1]


# --- what is refused ----------------------------------------------------------------------------


def make_changed(position, value, what="indices"):
    """Return the matrix with one number changed."""
    arrays = {"indptr": INDPTR, "indices": INDICES, "values": VALUES}
    changed = np.array(arrays[what], dtype=np.float64 if what == "values" else np.int64)
    changed[position] = value
    return make_csr(**{what: changed})


def make_lil(rows, values):
    matrix = sparse.lil_array((len(rows), 3))
    matrix.rows[:] = rows
    matrix.data[:] = values
    return matrix


def make_coo(**changed):
    matrix = sparse.coo_array(make_csr())
    matrix.coords = (changed.pop("row", matrix.row), changed.pop("col", matrix.col))
    for name, value in changed.items():
        setattr(matrix, name, value)
    return matrix


def make_by_column(position, value):
    matrix = sparse.csc_array(make_csr())
    matrix.indices[position] = value
    return matrix


def make_dia(data, offsets):
    matrix = sparse.dia_array((3, 3))
    matrix.data, matrix.offsets = np.array(data), np.array(offsets)
    return matrix


def make_bsr(data, indices, indptr):
    matrix = sparse.bsr_array((4, 6), blocksize=(2, 3))
    matrix.data, matrix.indices, matrix.indptr = map(np.asarray, (data, indices, indptr))
    return matrix


def make_dok(key, value=1.0):
    matrix = sparse.dok_array((3, 3))
    matrix._dict[key] = value
    return matrix


REFUSED = {
    # indices
    "first column index": (
        make_changed(0, 2_000_000_000),
        "ratings has column index 2000000000 at position 0, which is out of range for 5 items",
    ),
    "column index n_items": (make_changed(3, 5), "column index 5 at position 3"),
    "last column index": (make_changed(5, 2**40), "column index 1099511627776 at position 5"),
    "negative column index": (make_changed(5, -1), "column index -1 at position 5"),
    "index beyond int64": (
        make_csr(indices=np.array([0, 2, 1, 4, 0, 2**64 - 1], dtype=np.uint64)),
        "column index 18446744073709551615 at position 5",
    ),
    "indices of floats": (
        make_csr(indices=np.array(INDICES, dtype=np.float64)),
        "ratings has column indices of type float64: integers are wanted",
    ),
    "indices of bools": (make_csr(indices=np.zeros(6, dtype=bool)), "indices of type bool"),
    "indices of two dimensions": (
        make_csr(indices=np.array([INDICES])),
        r"values of shape \(6,\) for indices of shape \(1, 6\): one each is wanted",
    ),
    "fewer indices": (make_csr(indices=INDICES[:-1]), r"shape \(6,\) for indices of shape \(5,\)"),
    "more indices": (make_csr(indices=[*INDICES, 1]), r"shape \(6,\) for indices of shape \(7,\)"),
    "indices of None": (make_csr(indices=None), r"indices of shape \(\)"),
    # indptr
    "indptr falls": (
        make_changed(2, 1, "indptr"),
        "ratings.indptr must not decrease, but goes from 2 to 1 at position 2",
    ),
    "indptr starts late": (
        make_changed(0, 1, "indptr"),
        "ratings.indptr must start with 0, got 1",
    ),
    "indptr starts early": (make_changed(0, -1, "indptr"), "must start with 0, got -1"),
    "indptr ends late": (
        make_changed(4, 7, "indptr"),
        "ratings.indptr ends at 7, but there are 6 indices",
    ),
    "indptr ends at the sky": (make_changed(4, 2**62, "indptr"), "ends at 4611686018427387904"),
    "indptr ends below": (make_changed(4, -(2**62), "indptr"), "must not decrease"),
    "indptr too short": (
        make_csr(INDPTR[:-1]),
        r"ratings.indptr has length 4: 5 is wanted for shape \(4, 5\)",
    ),
    "indptr too long": (make_csr([*INDPTR, 6]), "ratings.indptr has length 6: 5 is wanted"),
    "indptr empty": (make_csr(np.empty(0, dtype=np.int32)), "ratings.indptr has length 0"),
    "indptr of floats": (
        make_csr(np.array(INDPTR, dtype=np.float64)),
        "ratings.indptr must be a 1-D array of integers, got float64",
    ),
    "indptr of two dimensions": (make_csr(np.array([INDPTR])), "must be a 1-D array of integers"),
    "indptr of None": (make_csr(None), "must be a 1-D array of integers, got object"),
    "indptr beyond int64": (
        make_csr(np.array([0, 2, 3, 3, 2**64 - 1], dtype=np.uint64)),
        "ratings.indptr must not decrease",
    ),
    # other containers
    "CSC row index": (
        make_by_column(2, 4),
        "ratings has row index 4 at position 2, which is out of range for 4 users",
    ),
    "CSC negative row index": (make_by_column(0, -1), "row index -1 at position 0"),
    "CSC indptr": (
        make_csr([0, 1, 2], [0, 1], [1.0, 1.0], (3, 3), sparse.csc_array),
        r"ratings.indptr has length 3: 4 is wanted for shape \(3, 3\)",
    ),
    "COO row index": (
        make_coo(row=np.array([0, 0, 1, 3, 3, 4])),
        "row index 4 at position 5, which is out of range for 4 users",
    ),
    "COO column index": (make_coo(col=np.array([0, 2, 1, 4, 0, -3])), "column index -3"),
    "COO lengths": (make_coo(col=np.array([0, 2])), "ratings has 6 row and 2 column indices"),
    "COO values": (make_coo(data=np.ones(3)), r"values of shape \(3,\) for indices"),
    "LIL values": (
        make_lil([[0], [1, 2]], [[1.0], [1.0]]),
        "ratings is not a valid lil matrix: row 1 has 1 values for 2 indices",
    ),
    "LIL too many values": (
        make_lil([[0], [1]], [[1.0], [1.0] * 1000]),
        "row 1 has 1000 values for 1 indices",
    ),
    "LIL column index": (
        make_lil([[0], [3]], [[1.0], [1.0]]),
        "ratings .*(index 3|not a valid lil)",
    ),
    "LIL huge column index": (make_lil([[0], [2**40]], [[1.0], [1.0]]), "not a valid lil matrix"),
    "DIA offsets": (
        make_dia(np.ones((1, 3)), [0, 1]),
        r"ratings is not a valid dia matrix: it has int64 offsets of shape \(2,\) for data of",
    ),
    "DIA data": (make_dia(np.ones(3), [0]), "not a valid dia matrix"),
    "DIA offset type": (make_dia(np.ones((1, 3)), [0.5]), "it has float64 offsets"),
    "BSR block index": (
        make_bsr(np.ones((1, 2, 3)), [2], [0, 1, 1]),
        "ratings is not a valid bsr matrix: it has column index 2 at position 0",
    ),
    "BSR indptr": (make_bsr(np.ones((1, 2, 3)), [0], [0, 2, 1]), "bsr matrix: it.indptr must not"),
    "BSR fewer blocks": (
        make_bsr(np.ones((1, 2, 3)), [0, 1], [0, 1, 2]),
        r"it has data of shape \(1, 2, 3\) for indices of shape \(2,\)",
    ),
    "BSR flat blocks": (make_bsr(np.ones(6), [0], [0, 1, 1]), "not a valid bsr matrix"),
    "DOK row": (make_dok((3, 0)), "ratings .*(not a valid dok matrix|row index 3)"),
    "DOK negative column": (make_dok((0, -1)), "ratings .*(not a valid dok|column index -1)"),
    "DOK key": (make_dok("ab"), "ratings is not a valid dok matrix"),
    "1-D COO": (sparse.coo_array(np.ones(3)), "ratings is 1-D: a 2-D table, users by items"),
    # values
    "first NaN": (
        make_changed(0, np.nan, "values"),
        r"ratings\[0, 0\] is nan \(stored entry 0\): every rating must be a finite number",
    ),
    "last NaN": (make_changed(5, np.nan, "values"), r"ratings\[3, 3\] is nan \(stored entry 5\)"),
    "first inf": (make_changed(0, np.inf, "values"), r"ratings\[0, 0\] is inf"),
    "last -inf": (make_changed(5, -np.inf, "values"), r"ratings\[3, 3\] is -inf"),
    "row after an empty one": (make_changed(3, np.nan, "values"), r"ratings\[3, 4\] is nan"),
    "CSC NaN": (
        sparse.csc_array(make_changed(3, np.nan, "values")),
        r"ratings\[3, 4\] is nan",
    ),
    "DIA NaN": (make_dia([[1.0, np.nan, 1.0]], [0]), r"ratings\[1, 1\] is nan"),
    "table inf": ([[1.0, np.inf]], r"ratings\[0, 1\] is inf"),
    "table -inf": ([[1.0, 0.0], [0.0, -np.inf]], r"ratings\[1, 1\] is -inf"),
    "frame inf": (pd.DataFrame([[1.0, np.inf]]), r"ratings\[0, 1\] is inf"),
    "masked inf elsewhere": (
        np.ma.array([[1.0, np.inf]], mask=[[True, False]]),
        r"ratings\[0, 1\] is inf",
    ),
    # no table
    "1-D": (np.ones(3), "ratings is 1-D: a 2-D table, users by items, is wanted"),
    "3-D": (np.ones((2, 2, 2)), "ratings is 3-D"),
    "0-D": (5, "ratings is 0-D"),
    "empty list": ([], "ratings is 1-D"),
    "range": (range(4), "ratings is 1-D"),
    "ragged": ([[1, 2], [3]], "ratings is not a table: rows of equal length are wanted"),
    "missing row": ([[1.0, 2.0], None], "ratings is not a table"),
    "complex table": (np.ones((2, 2)) * 1j, "Complex data not supported: ratings is complex128"),
    "complex sparse": (make_csr(values=np.ones(6) * 1j), "Complex data not supported: ratings"),
    # emptiness
    "no users": (
        sparse.csr_array((0, 3)),
        r"ratings has no users: 0 sample\(s\) \(shape=\(0, 3\)\) while a minimum of 1 is required",
    ),
    "no items": (np.ones((3, 0)), r"ratings has no items: 0 feature\(s\) \(shape=\(3, 0\)\)"),
    "no ratings": (
        sparse.coo_array((3, 3)),
        r"ratings has shape \(3, 3\) but holds no rating: at least one is wanted",
    ),
    "only zeros": (np.zeros((2, 3)), "holds no rating"),
    "only NaN": (np.full((2, 3), np.nan), "holds no rating"),
    "all masked": (np.ma.masked_all((2, 3)), "holds no rating"),
}


@pytest.mark.parametrize("case", list(REFUSED))
@pytest.mark.parametrize("name", ["ratings", "validation"])
def test_tables_that_break_a_rule_are_refused(case, name):
    ratings, message = REFUSED[case]
    with pytest.raises(ValueError, match=message.replace("ratings", name, 1)):
        check_ratings(ratings, dtype="float64", name=name)


def test_sparse_arrays_of_three_dimensions_are_refused():
    try:
        cube = sparse.coo_array(np.ones((2, 2, 2)))
    except (TypeError, ValueError):
        pytest.skip("this SciPy has none")
    with pytest.raises(
        ValueError, match=r"^ratings is 3-D: a 2-D table, users by items, is wanted"
    ):
        check_ratings(cube, dtype="float64")


LIST_OF_ITSELF: list = []
LIST_OF_ITSELF.append(LIST_OF_ITSELF)


@pytest.mark.parametrize(
    "ratings",
    [
        None,
        "abc",
        b"abc",
        [["1", "2"]],
        {"a": 1},
        {1, 2},
        (row for row in [[1, 2]]),
        object(),
        len,
        np.ndarray,
        np.array([[None, 1]]),
        np.array([[1, 10**400]]),
        np.zeros((2, 2), dtype="M8[s]"),
        np.zeros((2, 2), dtype="m8[s]"),
        np.zeros((2, 2), dtype="f4,f4"),
        make_csr(values=np.array(VALUES, dtype=object)),
        make_csr(values=np.array(["a"] * 6)),
        make_csr(values=None),
        make_coo(data=np.array([None] * 6)),
        np.ma.array([["a", "b"]], mask=[[0, 1]]),
    ],
    ids=lambda ratings: type(ratings).__name__,
)
def test_what_holds_no_numbers_is_refused(ratings):
    one = rf"must be a sparse matrix, a 2-D array .* got {type(ratings).__name__}"
    with pytest.raises(TypeError, match=rf"^ratings ({one}|holds values of type .*real numbers)"):
        check_ratings(ratings, dtype="float64")


def test_a_list_of_itself_is_refused():
    with pytest.raises(ValueError, match=r"^ratings is not a table"):
        check_ratings(LIST_OF_ITSELF, dtype="float64")


@pytest.mark.parametrize("ratings", [pd.Series([1.0]), pd.Index([1.0])])
def test_series_are_no_tables(ratings):
    with pytest.raises(TypeError, match=r"ratings must not be a pandas.*a 2-D table is wanted"):
        check_ratings(ratings, dtype="float64")


def test_what_is_too_large_for_the_wanted_type_is_refused_with_a_way_out():
    for ratings in ([[1.0, 1e39]], make_changed(1, 1e39, "values")):
        with pytest.raises(ValueError, match=r"1e\+39, too large for float32: .*dtype='float64'$"):
            check_ratings(ratings, dtype="float32")
        assert 1e39 in check_ratings(ratings, dtype="float64").values


@pytest.mark.skipif(
    np.finfo(np.longdouble).max == np.finfo(np.float64).max, reason="long double is double here"
)
def test_what_is_too_large_for_double_is_refused():
    huge = np.array([[1, np.longdouble("1e4000")]])
    with pytest.raises(ValueError, match=r"1e\+4000, too large for float64: scale the ratings$"):
        check_ratings(huge, dtype="float64")


def test_the_largest_numbers_pass():
    for dtype in (np.float32, np.float64):
        largest = np.finfo(dtype).max
        checked = check_ratings([[largest, -largest]], dtype=dtype)
        assert checked.values.tolist() == [largest, -largest]


def test_check_csr_returns_what_kernels_read():
    indptr, indices = check_csr(np.array(INDPTR, dtype="i4"), np.array(INDICES), SHAPE, "seen")
    assert (indptr.dtype, indptr.tolist(), indices.tolist()) == (np.int64, INDPTR, INDICES)


@pytest.mark.parametrize(
    ("indptr", "indices", "message"),
    [
        ([0, 2, 1, 3, 6], INDICES, "seen.indptr must not decrease"),
        (INDPTR, [0, 2, 1, 4, 0, 5], "seen has column index 5 at position 5"),
        (INDPTR, [0, 0, 1, 4, 0, 3], "seen holds more than one rating of item 0 by user 0"),
        (INDPTR, 3, "seen.indices must be 1-D, got 0-D"),
        (INDPTR, [[0]], "seen.indices must be 1-D, got 2-D"),
    ],
)
def test_check_csr_refuses(indptr, indices, message):
    with pytest.raises(ValueError, match=message):
        check_csr(np.array(indptr), np.array(indices), SHAPE, "seen")


# --- factors ------------------------------------------------------------------------------------


def make_factors(dtype=np.float64):
    return np.ones((4, 2), dtype=dtype), np.full((5, 2), 0.5, dtype=dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_factors_that_kernels_can_read_are_not_copied(dtype):
    P, Q = make_factors(dtype)
    checked = check_factors(P, Q)
    assert np.shares_memory(checked[0], P)
    assert np.shares_memory(checked[1], Q)


@pytest.mark.parametrize(
    "lay_out",
    [
        np.asfortranarray,
        lambda values: np.repeat(np.repeat(values, 2, axis=0), 3, axis=1)[::2, ::3],
        lambda values: values.astype(">f8"),
        lambda values: values[::-1, ::-1].copy()[::-1, ::-1],
        lambda values: values.tolist(),
        lambda values: values.view(np.matrix),
        lambda values: np.ma.array(values),
        lambda values: np.broadcast_to(values[0], values.shape),
    ],
    ids=["fortran", "strided", "big-endian", "backward", "list", "matrix", "masked", "broadcast"],
)
def test_factors_of_any_layout_come_out_in_one(lay_out):
    P, Q = make_factors()
    for checked, given_ in zip(check_factors(lay_out(P), lay_out(Q)), (P, Q), strict=True):
        assert type(checked) is np.ndarray
        assert checked.dtype == np.float64
        assert checked.flags.c_contiguous
        np.testing.assert_array_equal(checked, given_)


def test_factors_are_converted_where_a_type_is_wanted():
    P, Q = np.ones((4, 2), dtype=np.int8), np.ones((5, 2), dtype=np.float16)
    for checked in check_factors(P, Q, dtype="float32", n_factors=2):
        assert checked.dtype == np.float32


def with_value(array, position, value):
    changed = array.copy()
    changed[position] = value
    return changed


FOUR, FIVE = make_factors()


@pytest.mark.parametrize(
    ("P", "Q", "options", "error", "message"),
    [
        (FOUR[0], FIVE, {}, ValueError, "user_factors is 1-D: a 2-D array is wanted"),
        (FOUR, FIVE[None], {}, ValueError, "item_factors is 3-D: a 2-D array is wanted"),
        (
            FOUR,
            FIVE[:, :1],
            {},
            ValueError,
            r"user_factors has shape \(4, 2\) and item_factors \(5, 1\): both must have the same",
        ),
        (FOUR, FIVE, {"n_factors": 3}, ValueError, "both must have n_factors=3 columns"),
        (FOUR[:, :0], FIVE[:, :0], {}, ValueError, "at least one factor is wanted"),
        (
            FOUR.astype("f4"),
            FIVE,
            {},
            ValueError,
            "user_factors is float32 and item_factors is float64: one dtype is wanted",
        ),
        (FOUR.astype("f2"), FIVE, {}, TypeError, "user_factors is float16: float32 or float64"),
        (FOUR.astype("i8"), FIVE, {}, TypeError, "user_factors is int64: float32 or float64"),
        (FOUR, FIVE.astype("g"), {}, TypeError, "item_factors is .*: float32 or float64 is wanted"),
        (FOUR * 1j, FIVE, {}, TypeError, "user_factors holds values of type complex128"),
        (FOUR, FIVE.astype(str), {}, TypeError, "item_factors holds values of type <U"),
        (None, FIVE, {}, TypeError, "user_factors holds values of type object"),
        (FOUR, {"a": 1}, {}, TypeError, "item_factors holds values of type object"),
        ([[1.0], [1.0, 2.0]], FIVE, {}, ValueError, "user_factors is not an array: .*inhomog"),
        (sparse.csr_array(FOUR), FIVE, {}, TypeError, "user_factors holds values of type object"),
        (
            np.ma.array(FOUR, mask=FOUR > 0),
            FIVE,
            {},
            ValueError,
            "user_factors has masked values: numbers are wanted in their places",
        ),
        (
            with_value(FOUR, (0, 0), np.nan),
            FIVE,
            {},
            ValueError,
            r"user_factors\[0, 0\] is nan: every value must be finite",
        ),
        (with_value(FOUR, (3, 1), np.inf), FIVE, {}, ValueError, r"user_factors\[3, 1\] is inf"),
        (FOUR, with_value(FIVE, (4, 1), -np.inf), {}, ValueError, r"item_factors\[4, 1\] is -inf"),
        (FOUR * 1e39, FIVE, {"dtype": "f4"}, ValueError, r"user_factors\[0, 0\] is inf"),
    ],
)
def test_factors_that_break_a_rule_are_refused(P, Q, options, error, message):
    with pytest.raises(error, match=message):
        check_factors(P, Q, **options)


def test_rows_of_factors_must_be_those_of_the_ratings():
    P, Q = make_factors()
    check_row_counts(P, Q, (4, 5))
    message = (
        "user_factors has 4 rows and item_factors 5, but ratings has shape {}: one row per user "
        "and one per item is wanted"
    )
    for shape, hint in (((3, 5), ""), ((4, 6), ""), ((5, 4), "; is it transposed?")):
        with pytest.raises(ValueError, match=re.escape(message.format(shape) + hint) + "$"):
            check_row_counts(P, Q, shape)


def test_arrays_that_are_written_to_must_not_overlap():
    buffer = np.zeros(64, dtype=np.float64)
    P, Q = buffer[:8].reshape(4, 2), buffer[8:18].reshape(5, 2)
    ratings = check_ratings(make_csr(indices=np.array(INDICES)), dtype="float64")
    check_no_overlap(P, Q, ratings)
    with pytest.raises(ValueError, match=r"user_factors and item_factors overlap in memory"):
        check_no_overlap(P, buffer[7:17].reshape(5, 2), ratings)
    with pytest.raises(ValueError, match=r"user_factors and item_factors overlap in memory"):
        check_no_overlap(P, P, ratings)
    for field, values in (("values", VALUES), ("indptr", INDPTR), ("indices", INDICES)):
        for array, name in ((P, "user_factors"), (Q, "item_factors")):
            end = array.reshape(-1)[-len(values) :]
            end = end if field == "values" else end.view(np.int64)
            end[:] = values
            parts = {"indptr": ratings.indptr, "indices": ratings.indices, "values": ratings.values}
            shared = CheckedRatings(**{**parts, field: end}, shape=SHAPE)
            with pytest.raises(ValueError, match=f"{name} and ratings overlap in memory"):
                check_no_overlap(P, Q, shared)


def test_one_array_of_a_known_shape():
    assert check_array([1, 2], "b", (2,), "float32").dtype == np.float32
    with pytest.raises(ValueError, match=r"b has shape \(3,\): \(2,\) is wanted"):
        check_array([1, 2, 3], "b", (2,), "float32")
    with pytest.raises(ValueError, match=r"b is 2-D: a 1-D array is wanted"):
        check_array([[1, 2]], "b", (2,), "float32")
    with pytest.raises(ValueError, match=r"b\[1\] is nan: every value must be finite"):
        check_array([1, np.nan], "b", (2,), "float32")


def test_no_biases_are_zeros():
    assert check_bias(None, "b", 3, "float32").tolist() == [0, 0, 0]
    assert check_bias([1, 2], "b", 2, "float64").tolist() == [1, 2]


def test_the_first_number_that_is_not_finite_is_named():
    table = np.zeros((2, 3, 4))
    check_finite(table, "x")
    table[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match=r"^x\[1, 2, 3\] is nan: every value must be finite$"):
        check_finite(table, "x")
    table[0, 1, 0] = -np.inf
    with pytest.raises(ValueError, match=r"^x\[0, 1, 0\] is -inf"):
        check_finite(table, "x")


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        ([[1.0]], TypeError, "P is changed in place and must be a NumPy array, got list"),
        (None, TypeError, "must be a NumPy array, got NoneType"),
        (np.ones((2, 2), "f2"), TypeError, "must be float32 or float64, got float16"),
        (np.ones((2, 2), int), TypeError, "must be float32 or float64, got int64"),
        (np.ones((2, 2), ">f8"), TypeError, "must be float32 or float64, got >f8"),
        (np.ones((2, 2), "f4,f4"), TypeError, "must be float32 or float64"),
        (np.asfortranarray(np.ones((2, 2))), ValueError, "must be C-contiguous"),
        (np.ones((4, 2))[::2], ValueError, "must be C-contiguous"),
        (read_only(np.ones((2, 2))), ValueError, "must be aligned and writeable"),
        (np.broadcast_to(1.0, (1, 1)), ValueError, "must be aligned and writeable"),
        (np.ndarray((2, 2), "f8", bytearray(40), 1), ValueError, "must be aligned and writeable"),
    ],
)
def test_what_cannot_be_changed_in_place_is_refused(array, error, message):
    with pytest.raises(error, match=message):
        check_writable(array, "P")


def test_what_can_be_changed_in_place_passes():
    for dtype in (np.float32, np.float64):
        check_writable(np.ones((2, 2), dtype=dtype), "P")


# --- alignment ----------------------------------------------------------------------------------


def test_ratings_that_are_where_they_belong_stay_as_they_are():
    checked = check_ratings(make_csr(), dtype="float64")
    assert align_ratings(checked, None, None, SHAPE, "ratings") is checked
    assert align_ratings(checked, np.arange(4), np.arange(5), SHAPE, "ratings") is checked


def test_ratings_are_moved_to_the_rows_and_columns_of_the_model():
    checked = check_ratings(make_csr(), dtype="float64")
    users, items = np.array([7, 0, 3, 2]), np.array([5, 1, 0, 2, 8])
    aligned = align_ratings(checked, users, items, (9, 10), "ratings")
    assert cells(aligned) == {
        (int(users[u]), int(items[i])): value for (u, i), value in STORED.items()
    }
    assert aligned.shape == (9, 10)
    only_items = align_ratings(checked, None, items, (4, 10), "ratings")
    assert cells(only_items) == {(u, int(items[i])): value for (u, i), value in STORED.items()}


def test_ratings_of_another_shape_are_refused():
    checked = check_ratings(make_csr(), dtype="float64")
    wanted = "held_out has shape (4, 5), but the model has 5 users and 4 items; is it transposed?"
    with pytest.raises(ValueError, match=r"^" + re.escape(wanted)):
        align_ratings(checked, None, None, (5, 4), "held_out")
    with pytest.raises(ValueError, match=r"has 6 users and 5 items$"):
        align_ratings(checked, None, None, (6, 5), "ratings")
    message = r"has 6 items \(X has 5 features, but MatrixFactorization is expecting 6 features"
    with pytest.raises(ValueError, match=message):
        align_ratings(checked, None, None, (4, 6), "ratings")
