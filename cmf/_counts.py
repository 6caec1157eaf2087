"""How many ratings each user and each item has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cmf._checks import CheckedRatings
from cmf._kernels.csr import count_columns
from cmf._rows import too_large

__all__ = ["rating_counts"]


def rating_counts(ratings: CheckedRatings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the ratings of users and of items.

    Parameters
    ----------
    ratings : CheckedRatings
        What to count.

    Returns
    -------
    of_users, of_items : ndarray of shape (n_users,) and (n_items,), int64
        The counts.

    Raises
    ------
    MemoryError
        If there is no room for a number of each item.
    """
    try:
        of_items = np.zeros(ratings.shape[1], dtype=np.int64)
    except (MemoryError, ValueError) as error:
        wanted = f"want a count of each column, {ratings.shape[1] * 8e-9:.3g} GB"
        raise too_large(ratings.shape, wanted) from error
    count_columns(ratings.indices, of_items)
    return np.diff(ratings.indptr), of_items
