"""Ratings cut into blocks that threads may train on at once without changing the result.

Items are cut into n strips and users are dealt to m groups for every strip, all of about the same
number of ratings. In round t of an epoch group g is at place (g + t) mod m n of a circle, where
every m-th place is a strip: the blocks of a round share neither users nor items, so that it does
not matter who runs them, and when. After m n rounds every group has met every strip. The grid
depends on the ratings and the number of factors alone, never on the number of threads, and so does
the result of training. With m above 1 threads share the end of an epoch more evenly.

The scheme is that of R. Gemulla, P. J. Haas, E. Nijkamp, Y. Sismanis, "Large-scale matrix
factorization with distributed stochastic gradient descent", KDD 2011.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cmf._checks import CheckedRatings
from cmf._counts import rating_counts
from cmf._kernels.csr import cut_in_parts, cut_rows, first_unsorted
from cmf._pieces import run_pieces
from cmf._ranges import row_ranges

__all__ = ["Grid", "make_grid"]

# An epoch of fewer products than this is over before a second thread is of use.
LEAST_WORK = 2**24
# Ratings that a user should have in a strip: shorter visits cost more in turns than in steps.
LEAST_VISIT = 32
MOST_STRIPS = 32
# At the end of an epoch threads wait for the last block: with one group for each strip 3 to 4 % of
# an epoch on two threads, with four 1 %.
GROUPS_PER_STRIP = 4
SORTED_AT_ONCE = 2**18
# Ratings whose rows one task cuts: about a millisecond.
CUT_AT_ONCE = 2**20


@dataclass(frozen=True, slots=True)
class Grid:
    """Ratings whose rows are cut into strips of items.

    Attributes
    ----------
    ratings : CheckedRatings
        With int32 indices that ascend inside rows if there are several strips.
    cuts : ndarray of shape (n_users * n_strips + 1,), int64
        Strip s of row u holds the entries from ``cuts[u * n_strips + s]`` to the next cut.
    bounds : ndarray of shape (n_strips + 1,), int64
        Strip s holds the items from ``bounds[s]`` to the next bound.
    """

    ratings: CheckedRatings
    cuts: NDArray[np.int64]
    bounds: NDArray[np.int64]

    @property
    def n_strips(self) -> int:
        """Number of strips: as many blocks can be visited at once.

        Returns
        -------
        int
            At least 1.
        """
        return int(self.bounds.shape[0]) - 1

    @property
    def n_groups(self) -> int:
        """Number of groups of users, a multiple of `n_strips`.

        Returns
        -------
        int
            1 if there is one strip.
        """
        return GROUPS_PER_STRIP * self.n_strips if self.n_strips > 1 else 1

    def groups(self, row_order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Deal rows to groups of about the same number of ratings.

        Parameters
        ----------
        row_order : ndarray of shape (n_users,), int64
            A permutation of the rows.

        Returns
        -------
        ndarray of shape (n_groups + 1,), int64
            Group g holds the rows at positions ``groups[g]`` to ``groups[g + 1] - 1``.
        """
        groups = np.empty(self.n_groups + 1, dtype=np.int64)
        cut_in_parts(self.ratings.indptr, row_order, groups)
        return groups


def make_grid(ratings: CheckedRatings, n_factors: int, n_threads: int | None = 1) -> Grid:
    """Cut ratings as suits their number and the number of factors.

    Parameters
    ----------
    ratings : CheckedRatings
        With int32 indices.
    n_factors : int
        Together with the number of ratings it tells how long an epoch takes.
    n_threads : int or None, default 1
        Most threads to cut with.

    Returns
    -------
    Grid
        Of one strip for little work. Ratings whose indices do not ascend inside rows are copied if
        there are more.

    Notes
    -----
    Takes two passes over the ratings, and memory for ``n_users * n_strips`` numbers.
    """
    n_users, n_items = ratings.shape
    n_strips = _n_strips(ratings.nnz, n_users, n_factors)
    if n_strips == 1:
        return Grid(ratings, ratings.indptr, np.array([0, n_items]))
    if first_unsorted(ratings.indptr, ratings.indices) >= 0:
        ratings = _sorted(ratings)
    _, of_items = rating_counts(ratings, n_threads)
    bounds = np.empty(n_strips + 1, dtype=np.int64)
    cut_in_parts(np.concatenate([[0], np.cumsum(of_items)]), None, bounds)
    cuts = np.empty(n_users * n_strips + 1, dtype=np.int64)
    tasks = [
        partial(
            cut_rows,
            ratings.indptr[first : last + 1],
            ratings.indices,
            bounds,
            cuts[first * n_strips : last * n_strips],
        )
        for first, last in row_ranges(ratings.indptr, 1, factors_per_call=CUT_AT_ONCE)
    ]
    run_pieces(tasks, n_threads)
    cuts[-1] = ratings.nnz
    return Grid(ratings, cuts, bounds)


def _sorted(ratings: CheckedRatings) -> CheckedRatings:
    """Return a copy whose indices ascend inside rows, sorted a number of rows at a time."""
    indices = np.empty_like(ratings.indices)
    order = np.empty(ratings.nnz, dtype=np.int64)
    for first, last in row_ranges(ratings.indptr, 1, factors_per_call=SORTED_AT_ONCE):
        start, stop = ratings.indptr[first], ratings.indptr[last]
        part = sparse.csr_array(
            (
                np.arange(start, stop),
                ratings.indices[start:stop],
                ratings.indptr[first : last + 1] - start,
            ),
            shape=(last - first, ratings.shape[1]),
        ).sorted_indices()
        indices[start:stop], order[start:stop] = part.indices, part.data
    weights = None if ratings.weights is None else ratings.weights[order]
    return replace(ratings, indices=indices, values=ratings.values[order], weights=weights)


def _n_strips(n_ratings: int, n_users: int, n_factors: int) -> int:
    """Return how many strips: more for more work, fewer for short rows."""
    work = n_ratings * n_factors
    if work < LEAST_WORK:
        return 1
    for_work = 4
    while for_work < MOST_STRIPS and work >= 8 * LEAST_WORK:
        for_work *= 2
        work //= 8
    return max(4, min(for_work, n_ratings // (LEAST_VISIT * n_users)))
