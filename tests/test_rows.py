"""Padded rows: where they start, what is between them, and how they are moved together."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from scipy import sparse
from strategies import FLOATS

import cmf
from cmf import _rows, initialization
from cmf._rows import compact_rows, copy_rows, machine_memory, padded_numbers, zero_rows

N_FACTORS = [1, 2, 7, 8, 9, 12, 13, 15, 16, 17, 25, 26, 31, 32, 33, 64, 100, 129]


def whole_numbers(n_rows, n_factors, dtype):
    """Return rows of numbers none of which occurs twice."""
    return np.arange(1, n_rows * n_factors + 1, dtype=dtype).reshape(n_rows, n_factors)


def padded_length(n_factors, dtype):
    """Return how many numbers there are from row to row."""
    per_block = 64 // np.dtype(dtype).itemsize
    return (n_factors + per_block - 1) // per_block * per_block


@pytest.mark.parametrize("n_factors", N_FACTORS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_start_at_multiples_of_64_bytes(dtype, n_factors):
    kept = []  # so that memory is not used again, and starts elsewhere each time
    for n_rows in (1, 2, 3, 5, 100, 3000):
        rows = zero_rows(n_rows, n_factors, np.dtype(dtype))
        kept.append(rows)
        assert rows.shape == (n_rows, n_factors)
        assert rows.dtype == dtype
        assert rows.flags.writeable
        assert rows.strides == (
            padded_length(n_factors, dtype) * rows.itemsize,
            rows.itemsize,
        )
        assert rows.ctypes.data % 64 == 0
        assert not padded_numbers(rows).any()
    assert len({array.ctypes.data for array in kept}) == len(kept)


def test_no_rows_are_no_rows():
    rows = zero_rows(0, 5, np.dtype(np.float32))
    assert rows.shape == (0, 5)
    assert padded_numbers(rows).shape == (0,)
    assert copy_rows(np.empty((0, 5))).shape == (0, 5)


@pytest.mark.parametrize("n_factors", N_FACTORS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_all_numbers_are_the_rows_and_zeros_between_them(dtype, n_factors):
    rows = copy_rows(whole_numbers(5, n_factors, dtype))
    numbers = padded_numbers(rows)
    assert np.shares_memory(numbers, rows)
    length = padded_length(n_factors, dtype)
    expected = np.pad(whole_numbers(5, n_factors, dtype), ((0, 0), (0, length - n_factors)))
    np.testing.assert_array_equal(numbers, expected.reshape(-1))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "arrange",
    [
        np.ascontiguousarray,
        np.asfortranarray,
        lambda array: np.repeat(array, 2, axis=1)[:, ::2],
        lambda array: array[::-1].copy()[::-1],
        copy_rows,
    ],
)
def test_copies_are_equal_and_their_own(arrange, dtype):
    array = arrange(whole_numbers(6, 5, dtype))
    array.flags.writeable = False
    rows = copy_rows(array)
    assert rows.dtype == dtype
    np.testing.assert_array_equal(rows, whole_numbers(6, 5, dtype))
    assert not np.shares_memory(rows, array)
    rows[...] = 0
    np.testing.assert_array_equal(array, whole_numbers(6, 5, dtype))


# 4096 rows are moved at once: one block, almost, exactly, and one row more; then several.
@pytest.mark.parametrize("n_rows", [0, 1, 2, 3, 50, 4095, 4096, 4097, 8192, 8193, 10_000])
@pytest.mark.parametrize("n_factors", N_FACTORS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_moved_together_hold_the_same_numbers(dtype, n_factors, n_rows):
    # float32 numbers the first 2**24 whole numbers: 10 000 · 129 are fewer.
    together = compact_rows(copy_rows(whole_numbers(n_rows, n_factors, dtype)))
    assert together.flags.c_contiguous
    assert together.dtype == dtype
    np.testing.assert_array_equal(together, whole_numbers(n_rows, n_factors, dtype), strict=True)
    assert together.reshape(-1).shape == (n_rows * n_factors,)


@pytest.mark.parametrize(
    ("dtype", "n_factors", "moved"),
    [
        (np.float64, 1, False),  # 8 numbers for 1
        (np.float64, 7, True),  # 8 for 7
        (np.float64, 12, False),  # 16 for 12, a third more
        (np.float64, 13, True),  # 16 for 13, 23 % more
        (np.float64, 25, False),  # 32 for 25, 28 % more
        (np.float64, 26, True),  # 32 for 26, 23 % more
        (np.float32, 12, False),
        (np.float32, 13, True),
        (np.float32, 51, False),  # 64 for 51, 25.5 % more
        (np.float32, 52, True),  # 64 for 52, 23 % more
        (np.float32, 100, True),
    ],
)
def test_rows_are_copied_where_a_quarter_and_more_would_be_padding(dtype, n_factors, moved):
    rows = copy_rows(whole_numbers(5, n_factors, dtype))
    together = compact_rows(rows)
    assert np.shares_memory(together, rows) == moved
    if moved:
        assert together.ctypes.data == rows.ctypes.data
    else:
        assert together.base is None
        np.testing.assert_array_equal(rows, together)


@pytest.mark.parametrize(("dtype", "n_factors"), [(np.float32, 32), (np.float64, 8)])
def test_rows_without_padding_are_together_already(dtype, n_factors):
    rows = copy_rows(whole_numbers(5, n_factors, dtype))
    assert compact_rows(rows) is rows


def test_memory_of_the_machine_and_of_its_container(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(_rows, "LIMIT", limit)
    whole = machine_memory()
    assert 2**27 < whole < math.inf or not hasattr(os, "sysconf")
    limit.write_text("max\n")
    assert machine_memory() == whole
    limit.write_text("1000000\n")
    assert machine_memory() == 1e6
    monkeypatch.delattr(os, "sysconf", raising=False)
    limit.unlink()
    assert machine_memory() == math.inf


def test_factors_larger_than_memory_are_refused_before_they_are_made(monkeypatch):
    monkeypatch.setattr(initialization, "machine_memory", lambda: 1e6)
    ids = sparse.coo_array(([5.0, 3.0], ([999_999, 7], [2, 999_998])), shape=(10**6, 10**6))
    with pytest.raises(MemoryError, match=r"want 0\.032 GB of factors.*ids of a database"):
        cmf.MatrixFactorization(4, random_state=0).fit(ids)
