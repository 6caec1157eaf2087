"""Splits of ratings into training and test parts.

What is split are the ratings, that is, the stored entries of the matrix, and not its rows: every
part has the shape of the whole, so that a model trained on one part can predict the other.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cmf._checks import CheckedRatings, check_ratings
from cmf._parameters import check_bool, check_float, check_int
from cmf._random import make_generator
from cmf._typing import RandomState, RatingsLike

__all__ = ["KFold", "train_test_split"]


def train_test_split(
    ratings: RatingsLike,
    *,
    test_size: float = 0.2,
    random_state: RandomState = None,
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Split ratings at random into a training and a test part.

    Every rating is in exactly one of the parts, and each choice of test ratings is as likely as
    any other. A user or item may therefore have no rating left in one of the parts.

    Parameters
    ----------
    ratings : sparse array or matrix, array_like or wide data frame, of shape (n_users, n_items)
        At least two ratings. Every stored entry of a sparse input is a rating, an explicit 0
        included; in a dense array or a data frame, 0 and NaN mean "not rated".
    test_size : float or int, default 0.2
        A float is the share of the ratings that go into the test part, between 0 and 1, neither
        included: ``round(test_size * n_ratings)`` of them, but at least one on each side. An int
        is the number of test ratings.
    random_state : None, int, SeedSequence, BitGenerator, Generator or RandomState, optional
        Where chance comes from. The same int gives the same split of the same ratings, whatever
        the format or the order in which they are stored.

    Returns
    -------
    train, test : csr_array of shape (n_users, n_items)
        New arrays with column indices in order. Their values are float32 if those of `ratings`
        are, and float64 otherwise. Labels of a data frame are left behind.

    Raises
    ------
    TypeError
        If `test_size` is not a number.
    ValueError
        If `ratings` has fewer than two ratings or is refused for what it holds, as by
        `cmf.MatrixFactorization.fit`; if `test_size` is out of range.

    See Also
    --------
    KFold : Several splits, in which each rating is a test rating once.

    Notes
    -----
    Takes time in proportion to the number of ratings, plus sorting where column indices are not in
    order, and holds about one copy of the ratings beside the results. Safe to call from several
    threads, unless they share a generator as `random_state`.

    Examples
    --------
    >>> from scipy import sparse
    >>> from cmf.model_selection import train_test_split
    >>> ratings = sparse.csr_array([[5.0, 3.0, 0.0], [1.0, 0.0, 4.0]])
    >>> train, test = train_test_split(ratings, test_size=0.25, random_state=0)
    >>> train.nnz, test.nnz, test.shape
    (3, 1, (2, 3))
    """
    checked = _sorted_ratings(ratings)
    is_test = np.zeros(checked.nnz, dtype=np.bool_)
    is_test[: _test_count(test_size, len(is_test))] = True
    make_generator(random_state).shuffle(is_test)
    return _part(checked, ~is_test), _part(checked, is_test)


class KFold:
    """Cut ratings into folds, each of which is the test part once.

    Every rating is in exactly one fold; sizes of folds differ by one rating at most.

    Parameters
    ----------
    n_splits : int, default 5
        Number of folds, at least 2.
    shuffle : bool, default True
        Whether ratings are dealt to folds at random. If not, the j-th rating, counted row by row
        with columns in order, goes into fold ``j % n_splits``: each user's ratings are spread
        evenly, and nothing is left to chance.
    random_state : None, int, SeedSequence, BitGenerator, Generator or RandomState, optional
        Where chance comes from; only with ``shuffle=True``. With an int, each call of `split`
        gives the same folds of the same ratings.

    Raises
    ------
    TypeError
        If `n_splits` is not an integer or `shuffle` not a bool.
    ValueError
        If `n_splits` is below 2, or `random_state` is given with ``shuffle=False``.

    See Also
    --------
    train_test_split : One split.

    Notes
    -----
    Safe to use from several threads, unless they share a generator as `random_state`.

    Examples
    --------
    >>> from scipy import sparse
    >>> from cmf.model_selection import KFold
    >>> ratings = sparse.csr_array([[5.0, 3.0, 0.0], [1.0, 0.0, 4.0]])
    >>> for train, test in KFold(3, random_state=0).split(ratings):
    ...     print(train.nnz, test.nnz)
    2 2
    3 1
    3 1
    """

    def __init__(
        self, n_splits: int = 5, *, shuffle: bool = True, random_state: RandomState = None
    ) -> None:
        self.n_splits = check_int(n_splits, "n_splits", minimum=2)
        self.shuffle = check_bool(shuffle, "shuffle")
        self.random_state = random_state
        if not self.shuffle and random_state is not None:
            raise ValueError(f"random_state must be None where shuffle=False, got {random_state!r}")

    def __repr__(self) -> str:
        return (
            f"KFold(n_splits={self.n_splits}, shuffle={self.shuffle}, "
            f"random_state={self.random_state!r})"
        )

    def get_n_splits(self) -> int:
        """Return the number of folds.

        Returns
        -------
        int
            `n_splits`.
        """
        return self.n_splits

    def split(self, ratings: RatingsLike) -> Iterator[tuple[sparse.csr_array, sparse.csr_array]]:
        """Yield a training and a test part for each fold.

        Parameters
        ----------
        ratings : sparse array or matrix, array_like or wide data frame
            Shape (n_users, n_items), at least `n_splits` ratings. Every stored entry of a sparse
            input is a rating, an explicit 0 included; in a dense array or a data frame, 0 and NaN
            mean "not rated".

        Returns
        -------
        iterator of (train, test)
            Pairs of csr_array of shape (n_users, n_items): new arrays with column indices in
            order, made one pair at a time. Their values are float32 if those of `ratings` are,
            and float64 otherwise. Labels of a data frame are left behind.

        Raises
        ------
        ValueError
            If `ratings` has fewer than `n_splits` ratings or is refused for what it holds, as by
            `cmf.MatrixFactorization.fit`. Raised by the call itself, not by the first step.
        """
        checked = _sorted_ratings(ratings)
        n_ratings = checked.nnz
        if n_ratings < self.n_splits:
            raise ValueError(
                f"ratings must hold at least n_splits={self.n_splits} ratings, got {n_ratings}"
            )
        folds = np.resize(np.arange(self.n_splits, dtype=np.int32), n_ratings)
        if self.shuffle:
            make_generator(self.random_state).shuffle(folds)
        return (
            (_part(checked, folds != fold), _part(checked, folds == fold))
            for fold in range(self.n_splits)
        )


def _sorted_ratings(ratings: RatingsLike) -> CheckedRatings:
    """Check ratings and put columns in order, so that a split does not depend on storage."""
    given = getattr(ratings, "dtype", None)
    is_single = isinstance(given, np.dtype) and given.newbyteorder("=") == np.float32
    checked = check_ratings(ratings, dtype=np.float32 if is_single else np.float64, name="ratings")
    matrix = sparse.csr_array(
        (checked.values, checked.indices, checked.indptr), shape=checked.shape
    )
    if matrix.has_sorted_indices:
        return checked
    matrix = matrix.sorted_indices()
    return CheckedRatings(checked.indptr, matrix.indices, matrix.data, checked.shape)


def _test_count(test_size: float, n_ratings: int) -> int:
    """Return the number of test ratings that `test_size` asks for."""
    if n_ratings < 2:
        raise ValueError(f"ratings must hold at least two ratings to be split, got {n_ratings}")
    if isinstance(test_size, int | np.integer):
        return check_int(test_size, "test_size", minimum=1, maximum=n_ratings - 1)
    share = check_float(test_size, "test_size", exclusive=True)
    if share >= 1.0:
        raise ValueError(f"test_size must be below 1 as a float, got {test_size!r}")
    return min(max(round(share * n_ratings), 1), n_ratings - 1)


def _part(ratings: CheckedRatings, mask: NDArray[np.bool_]) -> sparse.csr_array:
    """Return the ratings that `mask` marks, in the shape of the whole."""
    kept = np.flatnonzero(mask)
    # Where row u begins: at the number of kept entries before it.
    indptr = np.searchsorted(kept, ratings.indptr)
    return sparse.csr_array(
        (ratings.values[kept], ratings.indices[kept], indptr), shape=ratings.shape
    )
