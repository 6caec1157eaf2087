"""Sparse arrays from cell numbers: row * n_columns + column."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from cmf._typing import FloatArray

__all__ = ["csr_of_cells"]


def csr_of_cells(keys: NDArray[np.int64], values: FloatArray, shape: tuple[int, int]) -> csr_array:
    """Build a CSR array from ascending, distinct cell numbers (row * n_columns + column)."""
    n_rows, n_columns = shape
    fits = max(n_columns, keys.size) <= np.iinfo(np.int32).max
    index_type = np.int32 if fits else np.int64
    row_starts = np.arange(n_rows + 1, dtype=np.int64) * n_columns
    indptr = np.searchsorted(keys, row_starts).astype(index_type)
    return csr_array((values, (keys % n_columns).astype(index_type), indptr), shape=shape)
