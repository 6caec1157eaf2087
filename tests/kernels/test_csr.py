"""What the gate asks of CSR arrays."""

import functools

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOATS, INDICES, patterns

from cmf._kernels.csr import (
    count_columns,
    cut_in_parts,
    cut_rows,
    first_duplicate,
    first_nonfinite,
    first_out_of_range,
    first_unsorted,
)


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("dtype", INDICES)
@pytest.mark.parametrize(
    ("indices", "n_items", "expected"),
    [
        ([], 0, -1),
        ([0, 2, 1], 3, -1),
        ([0, 3, 4], 3, 1),  # the first of two, one past the end
        ([0, 2, -1], 3, 2),
        ([0], 0, 0),  # nothing is in range of no items
    ],
)
def test_first_index_out_of_range(indices, n_items, expected, dtype):
    assert first_out_of_range(read_only(np.array(indices, dtype=dtype)), n_items) == expected


@pytest.mark.parametrize("dtype", INDICES)
def test_extreme_indices_are_out_of_range(dtype):
    ends = np.iinfo(dtype)
    for extreme in (ends.min, ends.max):
        assert first_out_of_range(np.array([0, extreme], dtype=dtype), ends.max) == 1


def test_indices_beyond_32_bits_are_compared_as_they_are():
    assert first_out_of_range(np.array([2**32 + 1]), 10) == 0
    assert first_out_of_range(np.array([2**32 + 1]), 2**33) == -1


@given(
    indices=st.sampled_from(INDICES).flatmap(
        lambda dtype: hnp.arrays(dtype, st.integers(0, 12), elements=st.integers(-2, 6))
    ),
    n_items=st.integers(0, 7),
)
def test_first_out_of_range_equals_its_twin(indices, n_items):
    assert first_out_of_range(indices, n_items) == reference.first_out_of_range(indices, n_items)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_first_number_that_is_not_finite(bad, dtype):
    values = np.array([1.0, bad, 2.0, bad], dtype=dtype)
    assert first_nonfinite(read_only(values)) == 1
    assert first_nonfinite(values[:1]) == -1
    assert first_nonfinite(values[:0]) == -1


@pytest.mark.parametrize("dtype", FLOATS)
def test_extreme_numbers_are_finite(dtype):
    ends = np.finfo(dtype)
    values = np.array([ends.max, ends.min, ends.tiny, ends.smallest_subnormal, -0.0], dtype=dtype)
    assert first_nonfinite(values) == -1


@given(
    st.sampled_from((32, 64)).flatmap(
        lambda width: hnp.arrays(
            f"f{width // 8}", st.integers(0, 9), elements=st.floats(width=width)
        )
    )
)
def test_first_nonfinite_equals_its_twin(values):
    assert first_nonfinite(values) == reference.first_nonfinite(values)


def duplicate(indptr, indices, kernel=first_duplicate, n_items=8):
    return kernel(indptr, indices, np.full(n_items, -1, dtype=np.int64))


@pytest.mark.parametrize("dtype", INDICES)
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], -1),
        ([[]], -1),
        ([[3, 1], [1, 3]], -1),  # in two rows, not in one
        ([[3, 1, 3]], 2),  # not next to each other
        ([[2], [], [0, 0], [5, 5]], 2),  # the first of two, after an empty row
        ([[7, 7]], 1),
    ],
)
def test_first_index_twice_in_a_row(rows, expected, dtype):
    indptr = read_only(np.cumsum([0, *map(len, rows)]))
    indices = read_only(np.array([index for row in rows for index in row], dtype=dtype))
    assert duplicate(indptr, indices) == expected


@given(patterns())
def test_first_duplicate_equals_its_twin(pattern):
    assert duplicate(*pattern) == duplicate(*pattern, reference.first_duplicate)


# --- order and counts of columns ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", INDICES)
@pytest.mark.parametrize(
    ("indptr", "indices", "expected"),
    [
        ([0], [], -1),
        ([0, 0, 3], [1, 4, 9], -1),
        ([0, 2, 4], [5, 6, 5, 6], -1),  # a row need not begin above the end of the one before
        ([0, 2, 4], [5, 6, 6, 5], 3),
        ([0, 4], [1, 2, 2, 1], 2),  # an index that is there twice is not above itself
        ([0, 3, 6], [3, 2, 1, 3, 2, 1], 1),  # the first of four
    ],
)
def test_first_index_not_above_the_one_before(indptr, indices, expected, dtype):
    found = first_unsorted(np.array(indptr), read_only(np.array(indices, dtype=dtype)))
    assert found == expected


@given(pattern=patterns())
def test_first_unsorted_equals_its_twin(pattern):
    assert first_unsorted(*pattern) == reference.first_unsorted(*pattern)


@given(pattern=patterns())
def test_rows_that_ascend_hold_no_duplicate(pattern):
    if first_unsorted(*pattern) < 0:
        assert duplicate(*pattern) == -1


@pytest.mark.parametrize("dtype", INDICES)
def test_columns_are_counted_on_top(dtype):
    counts = np.array([10, 0, 0, 0])
    count_columns(read_only(np.array([3, 1, 3, 0, 3], dtype=dtype)), counts)
    np.testing.assert_array_equal(counts, [11, 1, 0, 3])
    count_columns(np.empty(0, dtype=dtype), counts)
    assert counts.sum() == 15


@pytest.mark.parametrize(
    ("lengths", "order", "expected"),
    [
        ([1, 1, 1, 1], None, [0, 1, 4]),  # the second part begins with what makes the half full
        ([1, 1, 1, 1], [3, 2, 1, 0], [0, 1, 4]),
        ([3, 1, 1, 1], [1, 2, 3, 0], [0, 2, 4]),
        ([3, 1, 1, 1], None, [0, 0, 4]),
        ([0, 0], None, [0, 0, 2]),
        ([], None, [0, 0, 0]),
    ],
)
def test_parts_of_rows_by_hand(lengths, order, expected):
    indptr = np.cumsum([0, *lengths]).astype(np.int64)
    parts = np.full(3, -1)
    cut_in_parts(read_only(indptr), None if order is None else read_only(np.array(order)), parts)
    assert parts.tolist() == expected


@given(pattern=patterns(), n_parts=st.integers(1, 6), seed=st.none() | st.integers(0, 99))
def test_parts_of_rows_equal_their_twin(pattern, n_parts, seed):
    indptr = pattern[0]
    n_rows = len(indptr) - 1
    order = None if seed is None else np.random.default_rng(seed).permutation(n_rows)
    found, expected = np.full((2, n_parts + 1), -1)
    cut_in_parts(indptr, order, found)
    reference.cut_in_parts(indptr, order, expected)
    np.testing.assert_array_equal(found, expected)


# 4096 entries are looked at together: one block, its ends, and the entries around them.
@pytest.mark.parametrize("position", [0, 1, 4095, 4096, 4097, 8191, 8192, 8999])
@pytest.mark.parametrize("dtype", [*FLOATS, *INDICES])
def test_faults_are_found_in_every_block(position, dtype):
    entries = np.zeros(9000, dtype=dtype)
    kernel = (
        first_nonfinite
        if np.dtype(dtype).kind == "f"
        else functools.partial(first_out_of_range, n_items=5)
    )
    assert kernel(entries) == -1
    entries[position:] = np.inf if np.dtype(dtype).kind == "f" else 5
    assert kernel(entries) == position
    assert kernel(entries[: position + 1]) == position
    assert kernel(entries[:position]) == -1


@pytest.mark.parametrize("dtype", INDICES)
def test_rows_are_cut_where_strips_begin(dtype, rng):
    # Lengths around those that are passed over at once; strips that are empty, or hold everything.
    lengths = np.concatenate([np.arange(40), [300, 0, 100]])
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    rows = [np.sort(rng.permutation(300)[:n]) for n in lengths]
    bounds = np.array([0, 0, 5, 13, 100, 250, 250, 300])
    cuts = np.empty(len(lengths) * 7, dtype=np.int64)
    cut_rows(indptr, read_only(np.concatenate(rows).astype(dtype)), bounds, cuts)
    expected = [np.searchsorted(row, bounds[:-1]) for row in rows] + indptr[:-1, None]
    np.testing.assert_array_equal(cuts.reshape(-1, 7), expected)
