"""Rows of factors as training wants them: aligned to 64 bytes and padded with zeros to as many.

To the outside such an array has `n_factors` columns; the padding is in its strides only. When
training is done the rows are moved together, so that people get a contiguous array.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from cmf._typing import FloatArray

__all__ = [
    "compact_rows",
    "copy_rows",
    "machine_memory",
    "padded_numbers",
    "too_large",
    "zero_rows",
]

ROW_BYTES = 64
ROWS_AT_ONCE = 4096
LIMIT = Path("/sys/fs/cgroup/memory.max")


def zero_rows(n_rows: int, n_factors: int, dtype: np.dtype[Any]) -> FloatArray:
    """Return (n_rows, n_factors) zeros in aligned, padded rows."""
    stride = _stride(n_factors, dtype)
    memory: NDArray[Any] = np.zeros(n_rows * stride + ROW_BYTES // dtype.itemsize, dtype=dtype)
    skipped = -memory.ctypes.data % ROW_BYTES // dtype.itemsize
    return memory[skipped : skipped + n_rows * stride].reshape(n_rows, stride)[:, :n_factors]


def machine_memory() -> float:
    """Return the bytes of memory there are for this process, or infinity if nobody tells."""
    found = math.inf
    with suppress(AttributeError, OSError, ValueError):  # as on Windows
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # a container may have less; "max" is no number
        found = min(found, int(LIMIT.read_text()))
    return found if found > 0 else math.inf


def too_large(shape: tuple[int, int], what: str) -> MemoryError:
    """Return the error for ratings of a shape that no memory has room for."""
    return MemoryError(
        f"ratings of shape {shape} {what}, which cannot be had. Rows and columns must be numbered "
        "without gaps: ids of a database are no row numbers"
    )


def _stride(n_factors: int, dtype: np.dtype[Any]) -> int:
    per_block = ROW_BYTES // dtype.itemsize
    return -(-n_factors // per_block) * per_block


def copy_rows(array: FloatArray) -> FloatArray:
    """Return a copy in aligned, padded rows."""
    rows = zero_rows(array.shape[0], array.shape[1], array.dtype)
    rows[...] = array
    return rows


def padded_numbers(rows: FloatArray) -> FloatArray:
    """Return all numbers of rows made here, padding included, as a flat view."""
    n_numbers = rows.shape[0] * _stride(rows.shape[1], rows.dtype)
    numbers: Any = as_strided(rows, shape=(n_numbers,), strides=(rows.itemsize,))
    return numbers  # type: ignore[no-any-return]


def compact_rows(rows: FloatArray) -> FloatArray:
    """Return the numbers of rows made here as a C-contiguous array, and give up the rows.

    They are moved inside their own memory, unless the padding is so large a part of it that a copy
    is worth its while.
    """
    n_rows, n_factors = rows.shape
    if rows.flags.c_contiguous:
        return rows
    if _stride(n_factors, rows.dtype) > 1.25 * n_factors:
        return rows.copy()
    numbers = padded_numbers(rows)
    for start in range(0, n_rows, ROWS_AT_ONCE):
        block = rows[start : start + ROWS_AT_ONCE].flatten()
        numbers[start * n_factors : start * n_factors + block.shape[0]] = block
    return numbers[: n_rows * n_factors].reshape(n_rows, n_factors)
