"""Splits of ratings into training and test parts, each in the shape of the whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cmf import _frames
from cmf._checks import CheckedRatings, check_ratings
from cmf._parameters import check_bool, check_float, check_int
from cmf._random import make_generator
from cmf._typing import RandomState, RatingsLike

__all__ = [
    "KFold",
    "as_csr",
    "sorted_ratings",
    "split_by_time",
    "split_by_user",
    "train_test_split",
]

_STORED = ("csr", "csc", "coo")  # formats with one number in `data` for every entry


def train_test_split(
    ratings: RatingsLike,
    *,
    test_size: float = 0.2,
    random_state: RandomState = None,
) -> tuple[Any, Any]:
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
    train, test : csr_array, or wide data frame, of shape (n_users, n_items)
        New arrays with column indices in order. Their values are float32 if those of `ratings`
        are, and float64 otherwise. A data frame is split into two of its kind with all of its
        labels and NaN for what is not rated.

    Raises
    ------
    TypeError
        If `test_size` is not a number.
    ValueError
        If `ratings` has fewer than two ratings or is refused for what it holds, as by
        `cmf.MatrixFactorization.fit`; if `test_size` is out of range.

    See Also
    --------
    split_by_user : Holds out some ratings of each user.
    split_by_time : Holds out the latest ratings.
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
    checked = sorted_ratings(ratings)
    is_test = np.zeros(checked.nnz, dtype=np.bool_)
    is_test[: _test_count(test_size, len(is_test))] = True
    make_generator(random_state).shuffle(is_test)
    return _parts(checked, is_test)


def split_by_user(
    ratings: RatingsLike,
    *,
    test_size: float = 0.2,
    min_train: int = 1,
    random_state: RandomState = None,
) -> tuple[Any, Any]:
    """Hold out a share or a number of the ratings of every user, drawn at random.

    Parameters
    ----------
    ratings : sparse array or matrix, array_like or wide data frame, of shape (n_users, n_items)
        As for `train_test_split`.
    test_size : float or int, default 0.2
        A float is the share of each user's ratings that go into the test part, between 0 and 1,
        neither included: ``round(test_size * n)`` of n, halves to the even number. An int is the
        number of each user's test ratings: 1 is the protocol known as leave-one-out.
    min_train : int, default 1
        How many of a user's ratings stay for training at least. Users with fewer or as many keep
        them all and are not tested.
    random_state : None, int, SeedSequence, BitGenerator, Generator or RandomState, optional
        Where chance comes from, as for `train_test_split`.

    Returns
    -------
    train, test : csr_array, or wide data frame, of shape (n_users, n_items)
        As of `train_test_split`.

    Raises
    ------
    TypeError
        If `test_size` is not a number or `min_train` not an integer.
    ValueError
        If `ratings` is refused for what it holds; if `test_size` or `min_train` is out of range,
        or leaves nothing to test.

    See Also
    --------
    split_by_time : With ``per_user=True`` holds out the latest ratings of every user.

    Notes
    -----
    Every user counts for about as much in the test part as in the whole; with an int, all count
    the same, and the mean error says more about users with few ratings. Takes O(n log n) time for
    n ratings. Safe to call from several threads, unless they share a generator as `random_state`.

    Examples
    --------
    >>> from scipy import sparse
    >>> from cmf.model_selection import split_by_user
    >>> ratings = sparse.csr_array([[5.0, 3.0, 2.0], [1.0, 0.0, 4.0], [0.0, 3.0, 0.0]])
    >>> train, test = split_by_user(ratings, test_size=1, random_state=0)
    >>> (test.toarray() > 0).sum(axis=1)
    array([1, 1, 0])
    """
    checked = sorted_ratings(ratings)
    counts = _user_test_counts(checked, test_size, min_train)
    order = make_generator(random_state).random(checked.nnz)
    return _parts(checked, _last_of_users(checked, order, counts))


def split_by_time(
    ratings: RatingsLike,
    timestamps: Any,
    *,
    test_size: float = 0.2,
    per_user: bool = False,
    min_train: int = 1,
) -> tuple[Any, Any]:
    """Hold out the latest ratings, of all or of every user.

    Parameters
    ----------
    ratings : sparse array or matrix, array_like or wide data frame, of shape (n_users, n_items)
        As for `train_test_split`.
    timestamps : sparse array or matrix, or array_like
        When each rating was given: integers, finite floats or, in arrays, datetime64. A sparse
        matrix must store an entry for every rating and no other. An array of one dimension holds a
        time for each entry in the order of ``ratings.data``, for `ratings` in CSR, CSC or COO
        format. An array of two dimensions has the shape of `ratings`; cells that are not rated do
        not count.
    test_size : float or int, default 0.2
        The share or the number of test ratings: of all ratings as for `train_test_split`, or of
        each user's as for `split_by_user`.
    per_user : bool, default False
        False: no test rating is older than any training rating, which is what a system that is
        trained today and used tomorrow meets. Users and items that are new tomorrow have no
        training ratings then. True: no test rating is older than any training rating of the same
        user.
    min_train : int, default 1
        How many of a user's ratings stay for training at least; only with ``per_user=True``.

    Returns
    -------
    train, test : csr_array, or wide data frame, of shape (n_users, n_items)
        As of `train_test_split`.

    Raises
    ------
    TypeError
        If an argument is of a wrong type, as `timestamps` that are a data frame.
    ValueError
        If `ratings` is refused for what it holds; if `timestamps` does not fit to it or holds NaN,
        infinity or NaT; if `test_size` or `min_train` is out of range, or leaves nothing to test.

    See Also
    --------
    split_by_user : Chance instead of time.

    Notes
    -----
    Of ratings given at the same time, those of later users, and of one user those in later
    columns, count as later. Takes O(n log n) time for n ratings. Safe to call from several
    threads.

    Examples
    --------
    >>> from scipy import sparse
    >>> from cmf.model_selection import split_by_time
    >>> ratings = sparse.csr_array([[5.0, 3.0, 2.0], [1.0, 0.0, 4.0]])
    >>> train, test = split_by_time(ratings, [2001, 2004, 2002, 2003, 2005], test_size=2)
    >>> test.toarray()
    array([[0., 3., 0.],
           [0., 0., 4.]])
    """
    checked = sorted_ratings(ratings)
    times = _aligned_times(ratings, checked, timestamps)
    if check_bool(per_user, "per_user"):
        counts = _user_test_counts(checked, test_size, min_train)
        return _parts(checked, _last_of_users(checked, times, counts))
    if min_train != 1:
        raise ValueError(f"min_train must be 1 where per_user=False, got {min_train!r}")
    is_test = np.zeros(checked.nnz, dtype=np.bool_)
    n_train = checked.nnz - _test_count(test_size, checked.nnz)
    is_test[np.argsort(times, kind="stable")[n_train:]] = True
    return _parts(checked, is_test)


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

    def split(self, ratings: RatingsLike) -> Iterator[tuple[Any, Any]]:
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
            Pairs as of `train_test_split`, made one pair at a time.

        Raises
        ------
        ValueError
            If `ratings` has fewer than `n_splits` ratings or is refused for what it holds, as by
            `cmf.MatrixFactorization.fit`. Raised by the call itself, not by the first step.
        """
        checked = sorted_ratings(ratings)
        n_ratings = checked.nnz
        if n_ratings < self.n_splits:
            raise ValueError(
                f"ratings must hold at least n_splits={self.n_splits} ratings, got {n_ratings}"
            )
        folds = np.resize(np.arange(self.n_splits, dtype=np.int32), n_ratings)
        if self.shuffle:
            make_generator(self.random_state).shuffle(folds)
        return (_parts(checked, folds == fold) for fold in range(self.n_splits))


def sorted_ratings(ratings: RatingsLike, name: str = "ratings") -> CheckedRatings:
    """Check ratings and put columns in order, so that a split does not depend on storage.

    Parameters
    ----------
    ratings : sparse array or matrix, array_like or wide data frame, of shape (n_users, n_items)
        As for `train_test_split`.
    name : str
        What to call them in messages.

    Returns
    -------
    CheckedRatings
        With values of float32 if those of `ratings` are, and of float64 otherwise.
    """
    given = getattr(ratings, "dtype", None)
    is_single = isinstance(given, np.dtype) and given.newbyteorder("=") == np.float32
    checked = check_ratings(ratings, dtype=np.float32 if is_single else np.float64, name=name)
    matrix = as_csr(checked)
    if matrix.has_sorted_indices:
        return checked
    matrix = matrix.sorted_indices()
    return replace(checked, indices=matrix.indices, values=matrix.data)


def as_csr(ratings: CheckedRatings) -> sparse.csr_array:
    """Wrap checked ratings, without a copy, in a sparse array.

    Parameters
    ----------
    ratings : CheckedRatings
        Whatever `sorted_ratings` returns.

    Returns
    -------
    csr_array
        Of the same arrays, without labels.
    """
    return sparse.csr_array((ratings.values, ratings.indices, ratings.indptr), shape=ratings.shape)


# --- how many -------------------------------------------------------------------------------------


def _test_count(test_size: float, n_ratings: int) -> int:
    """Return the number of test ratings that `test_size` asks for."""
    if n_ratings < 2:
        raise ValueError(f"ratings must hold at least two ratings to be split, got {n_ratings}")
    if isinstance(test_size, int | np.integer):
        return check_int(test_size, "test_size", minimum=1, maximum=n_ratings - 1)
    return min(max(round(_share(test_size) * n_ratings), 1), n_ratings - 1)


def _user_test_counts(
    ratings: CheckedRatings, test_size: float, min_train: int
) -> NDArray[np.int64]:
    """Return the number of test ratings of every user."""
    least = check_int(min_train, "min_train", minimum=1)
    lengths = np.diff(ratings.indptr)
    if isinstance(test_size, int | np.integer):
        wanted = np.full_like(lengths, check_int(test_size, "test_size", minimum=1, maximum=2**62))
    else:
        wanted = np.rint(_share(test_size) * lengths).astype(np.int64)
    counts: NDArray[np.int64] = np.minimum(wanted, np.maximum(lengths - least, 0))
    if not counts.any():
        raise ValueError(
            f"test_size={test_size!r} and min_train={min_train!r} hold out no rating of any user, "
            f"of whom none has more than {int(lengths.max())} ratings"
        )
    return counts


def _share(test_size: float) -> float:
    """Return a checked share of test ratings."""
    share = check_float(test_size, "test_size", exclusive=True)
    if share >= 1.0:
        raise ValueError(f"test_size must be below 1 as a float, got {test_size!r}")
    return share


# --- which ----------------------------------------------------------------------------------------


def _last_of_users(
    ratings: CheckedRatings, keys: NDArray[Any], counts: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Mark so many ratings of each user: those with the largest keys."""
    users = np.repeat(np.arange(ratings.shape[0]), np.diff(ratings.indptr))
    order = np.lexsort((keys, users))
    is_test = np.empty(ratings.nnz, dtype=np.bool_)
    first_test: NDArray[np.int64] = ratings.indptr[1:] - counts
    is_test[order] = np.arange(ratings.nnz) >= first_test[users]
    return is_test


def _aligned_times(ratings: Any, checked: CheckedRatings, timestamps: Any) -> NDArray[Any]:
    """Return the time of each checked rating."""
    if sparse.issparse(timestamps):
        places = _places(timestamps, "timestamps")
        same = places.shape == checked.shape and np.array_equal(places.indptr, checked.indptr)
        if not (same and np.array_equal(places.indices, checked.indices)):
            raise ValueError(
                f"timestamps stores {places.nnz} entries in shape {places.shape} and ratings "
                f"{checked.nnz} in {checked.shape}: one entry for every rating and no other is "
                "wanted"
            )
        stored: Any = timestamps
        if stored.format not in _STORED:
            stored = stored.tocoo()
        return _check_times(stored.data[places.values.astype(np.int64)])
    if _frames.is_frame(timestamps):
        raise TypeError("timestamps must be sparse or an array, got a data frame: call .to_numpy()")
    times = np.asarray(timestamps)
    if times.shape == checked.shape:
        users = np.repeat(np.arange(checked.shape[0]), np.diff(checked.indptr))
        return _check_times(times[users, checked.indices])
    if times.shape != (checked.nnz,):
        raise ValueError(
            f"timestamps has shape {times.shape}: {(checked.nnz,)}, one for every rating, or "
            f"{checked.shape}, that of ratings, is wanted"
        )
    if getattr(ratings, "format", None) not in _STORED:
        raise ValueError(
            "timestamps of one dimension are taken in the order of ratings.data, which only the "
            f"formats CSR, CSC and COO have: give timestamps of shape {checked.shape}"
        )
    return _check_times(times[_places(ratings, "ratings").values.astype(np.int64)])


def _places(matrix: Any, name: str) -> CheckedRatings:
    """Return the sorted pattern of a sparse matrix with places in its ``data`` as values."""
    if matrix.ndim != 2:
        raise ValueError(f"{name} is {matrix.ndim}-D: a 2-D table, users by items, is wanted")
    if matrix.format not in _STORED:
        matrix = matrix.tocoo()
    numbers = np.arange(len(matrix.data), dtype=np.float64)
    numbered: Any
    if matrix.format == "coo":
        numbered = sparse.coo_array((numbers, (matrix.row, matrix.col)), shape=matrix.shape)
    else:
        make = sparse.csr_array if matrix.format == "csr" else sparse.csc_array
        numbered = make((numbers, matrix.indices, matrix.indptr), shape=matrix.shape)
    return sorted_ratings(numbered, name)


def _check_times(times: NDArray[Any]) -> NDArray[Any]:
    """Refuse what has no order."""
    if times.dtype.kind not in "iufM":
        raise TypeError(
            f"timestamps are of type {times.dtype}: integers, floats or datetime64 are wanted"
        )
    if not np.isfinite(times).all():
        raise ValueError("timestamps must be finite, found NaN, NaT or infinity")
    return times


# --- parts ----------------------------------------------------------------------------------------


def _parts(ratings: CheckedRatings, is_test: NDArray[np.bool_]) -> tuple[Any, Any]:
    """Return what is not marked and what is, in the shape and form of the whole."""
    return _part(ratings, ~is_test), _part(ratings, is_test)


def _part(ratings: CheckedRatings, mask: NDArray[np.bool_]) -> Any:
    """Return what is marked."""
    kept = np.flatnonzero(mask)
    # Where row u begins: at the number of kept entries before it.
    indptr = np.searchsorted(kept, ratings.indptr)
    part = sparse.csr_array(
        (ratings.values[kept], ratings.indices[kept], indptr), shape=ratings.shape
    )
    if ratings.frame is None or ratings.item_ids is None:
        return part
    table = np.full(ratings.shape, np.nan)
    table[part.nonzero()] = part.data  # a frame holds no explicit zeros
    return _frames.write_wide(table, ratings.user_ids, ratings.item_ids, ratings.frame)
