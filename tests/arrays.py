"""Factors as kernels want them in memory and as they do not, and arrays bit by bit."""

import numpy as np

from cmf._rows import copy_rows, padded_numbers, zero_rows


def padded(array):
    """Return a copy in aligned rows whose padding is NaN."""
    rows = copy_rows(array)
    numbers = padded_numbers(rows)
    numbers[:] = np.nan
    rows[...] = array
    return rows


def padding(rows):
    """Return the numbers of padded rows that are not factors."""
    return padded_numbers(rows).reshape(len(rows), -1)[:, rows.shape[1] :]


def misaligned(array):
    """Return a copy in padded rows that start one number after a multiple of 64 bytes."""
    n_rows, n_factors = array.shape
    stride = padded_numbers(zero_rows(1, n_factors, array.dtype)).size
    numbers = padded_numbers(zero_rows(n_rows + 1, n_factors, array.dtype))
    rows = numbers[1 : 1 + n_rows * stride].reshape(n_rows, stride)[:, :n_factors]
    rows[...] = array
    return rows


def unpadded(array):
    """Return a copy in rows that are aligned but follow each other."""
    numbers = padded_numbers(zero_rows(1, array.size, array.dtype))
    rows = numbers[: array.size].reshape(array.shape)
    rows[...] = array
    return rows


def overpadded(array):
    """Return a copy in aligned rows with a block too many between them."""
    per_block = 64 // array.itemsize
    rows = zero_rows(array.shape[0], array.shape[1] + per_block, array.dtype)[:, : array.shape[1]]
    rows[...] = array
    return rows


def assert_identical(found, expected):
    """Compare numbers and arrays of two sequences by their bits."""
    for mine, theirs in zip(found, expected, strict=True):
        assert np.asarray(mine).tobytes() == np.asarray(theirs).tobytes()
