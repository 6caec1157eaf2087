"""How many ratings each user and each item has."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from cmf._checks import CheckedRatings
from cmf._kernels.csr import count_columns
from cmf._pieces import run_pieces
from cmf._ranges import ratings_per_task
from cmf._rows import too_large

__all__ = ["rating_counts"]


def rating_counts(
    ratings: CheckedRatings, n_threads: int | None = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the ratings of users and of items.

    Parameters
    ----------
    ratings : CheckedRatings
        What to count.
    n_threads : int or None, default 1
        Most threads to use.

    Returns
    -------
    of_users, of_items : ndarray of shape (n_users,) and (n_items,), int64
        The counts, read-only: they are kept with the ratings.

    Raises
    ------
    MemoryError
        If there is no room for a number of each item.
    """
    if ratings.counted:
        return ratings.counted[0]
    n_items = ratings.shape[1]
    at_once = ratings_per_task(n_items)
    starts = range(0, max(ratings.nnz, 1), at_once)
    try:
        parts = np.zeros((len(starts), n_items), dtype=np.int64)
    except (MemoryError, ValueError) as error:
        wanted = f"want a count of each column, {n_items * 8e-9:.3g} GB"
        raise too_large(ratings.shape, wanted) from error
    tasks = [
        partial(count_columns, ratings.indices[start : start + at_once], part)
        for start, part in zip(starts, parts, strict=True)
    ]
    run_pieces(tasks, n_threads)
    found = np.diff(ratings.indptr), parts[0] if len(parts) == 1 else parts.sum(axis=0)
    for counts in found:
        counts.setflags(write=False)
    ratings.counted.append(found)
    return found
