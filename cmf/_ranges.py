"""How much one kernel call does."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["fits_one_call", "ratings_per_task", "row_ranges"]

# One call visits about this many factors at most, some tens of milliseconds, so that Ctrl-C, which
# Python looks at between calls, is answered soon.
FACTORS_PER_CALL = 2**26
# One task of a pass that reads no factors visits so many ratings, a millisecond or a few.
RATINGS_PER_TASK = 2**20


def fits_one_call(n_ratings: int, n_factors: int) -> bool:
    """Tell whether so many visits may be one kernel call."""
    return n_ratings * n_factors <= FACTORS_PER_CALL


def ratings_per_task(n_items: int) -> int:
    """Return how many ratings a task visits that adds up a number of its own for each item.

    These numbers must be few beside what it visits.
    """
    return max(RATINGS_PER_TASK, 4 * n_items)


def row_ranges(
    indptr: NDArray[np.int64],
    n_factors: int,
    row_order: NDArray[np.int64] | None = None,
    factors_per_call: int | None = None,
) -> Iterator[tuple[int, int]]:
    """Cut the rows of a CSR matrix into kernel calls of bounded length.

    Yields first and last + 1 of the positions in `row_order`, which may hold some of the rows only,
    or of the rows themselves. A row is never cut, however long.
    """
    budget = max(1, (factors_per_call or FACTORS_PER_CALL) // n_factors)
    n_rows = indptr.shape[0] - 1 if row_order is None else row_order.shape[0]
    if indptr[-1] <= budget:
        yield 0, n_rows
        return
    ends = indptr[1:]
    if row_order is not None:
        ends = np.cumsum(indptr[1:][row_order] - indptr[row_order])
    first = done = 0
    while first < n_rows:
        last = max(first + 1, int(np.searchsorted(ends, done + budget, side="right")))
        yield first, last
        first, done = last, int(ends[last - 1])
