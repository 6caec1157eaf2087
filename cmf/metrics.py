"""How good predictions and recommendations are: textbook definitions, in float64.

Rating metrics compare predicted with true ratings, in the unit of the ratings. Ranking metrics
compare lists of recommended items with the items that turned out to be relevant, and are averaged
over the users that have at least one relevant item.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from cmf._checks import check_ratings
from cmf._parameters import check_int
from cmf._typing import Rows

__all__ = [
    "average_precision_at_k",
    "hit_rate_at_k",
    "mae",
    "ndcg_at_k",
    "precision_at_k",
    "recall_at_k",
    "reciprocal_rank_at_k",
    "rmse",
]

_NO_ITEM = -1


def rmse(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Root mean squared error: √(mean (y_true − y_pred)²).

    Parameters
    ----------
    y_true : array_like of shape (n,)
        True ratings: real, finite, n ≥ 1.
    y_pred : array_like of shape (n,)
        Predicted ratings, in the same order.

    Returns
    -------
    float
        In the unit of the ratings; 0 is perfect. Computed in float64 whatever the inputs' types.

    Raises
    ------
    ValueError
        If an argument is empty, not one-dimensional, not of real numbers or not finite, or if the
        lengths differ.

    See Also
    --------
    mae : Weighs large errors less.

    Notes
    -----
    Nothing is clipped or rounded: do that to `y_pred` before, where the scale of ratings is known.
    Safe to call from several threads.

    Examples
    --------
    >>> from cmf.metrics import rmse
    >>> rmse([5.0, 3.0], [2.0, 7.0])
    3.5355339
    """
    errors, exponent = _errors(y_true, y_pred)
    return _times_power(np.sqrt(np.mean(np.square(errors))), exponent)


def mae(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Mean absolute error: mean |y_true − y_pred|.

    Parameters
    ----------
    y_true : array_like of shape (n,)
        True ratings: real, finite, n ≥ 1.
    y_pred : array_like of shape (n,)
        Predicted ratings, in the same order.

    Returns
    -------
    float
        In the unit of the ratings; 0 is perfect. Computed in float64 whatever the inputs' types.

    Raises
    ------
    ValueError
        If an argument is empty, not one-dimensional, not of real numbers or not finite, or if the
        lengths differ.

    See Also
    --------
    rmse : Weighs large errors more.

    Notes
    -----
    Nothing is clipped or rounded: do that to `y_pred` before, where the scale of ratings is known.
    Safe to call from several threads.

    Examples
    --------
    >>> from cmf.metrics import mae
    >>> mae([5.0, 3.0], [2.0, 7.0])
    3.5
    """
    errors, exponent = _errors(y_true, y_pred)
    return _times_power(np.mean(np.abs(errors)), exponent)


def precision_at_k(recommended: ArrayLike, relevant: Any, k: int = 10) -> float:
    """Share of the first k places that hold a relevant item: hits / k.

    The divisor is k even where a user has fewer relevant items, or got fewer recommendations,
    than that: the best reachable value may be below 1.

    Parameters
    ----------
    recommended : array_like of int of shape (n_users, n)
        One list of items per user, best first, as ``recommend`` returns it for many users; -1
        (None in an array of objects) where a list is shorter. No row may hold an item twice.
        Places beyond the k-th do not count; if n < k, the missing places hold no hit.
    relevant : sparse array of shape (n_users, n_items), or list of n_users sequences of int
        The relevant items of the same users. In a sparse array or matrix these are the stored
        entries, whatever their value. In sequences, an item that comes twice counts once.
    k : int, default 10
        Length of the lists that are judged, at least 1.

    Returns
    -------
    float
        Mean over the users with at least one relevant item, between 0 and 1. Users without one do
        not count.

    Raises
    ------
    TypeError
        If `k` is not an integer, or `relevant` neither sparse nor a list or tuple of sequences.
    ValueError
        If `recommended` is not two-dimensional or not of integers, holds an item twice in one row
        or an item that does not exist; if the numbers of users differ; if no user has a relevant
        item; if ``k < 1``.

    See Also
    --------
    recall_at_k : Divides by the number of relevant items.

    Notes
    -----
    Section 8.4 of [1]_. Takes O((n_users n + n_relevant) log n_relevant) time and a few arrays of
    the size of its inputs. Safe to call from several threads.

    References
    ----------
    .. [1] C. D. Manning, P. Raghavan, H. Schütze, "Introduction to Information Retrieval",
       Cambridge University Press, 2008, chapter 8.

    Examples
    --------
    >>> from cmf.metrics import precision_at_k
    >>> precision_at_k([[3, 0], [1, 2]], [[0, 4], [1, 2]], k=2)
    0.75
    """
    hits, _ = _judge(recommended, relevant, k)
    return float(np.mean(hits.sum(axis=1) / k))


def recall_at_k(recommended: ArrayLike, relevant: Any, k: int = 10) -> float:
    """Share of the relevant items that the first k places hold: hits / number of relevant items.

    The divisor is the number of relevant items even where that is above k.

    Parameters
    ----------
    recommended : array_like of int of shape (n_users, n)
        One list of items per user, best first, padded with -1; see `precision_at_k`.
    relevant : sparse array of shape (n_users, n_items), or list of n_users sequences of int
        The relevant items of the same users; see `precision_at_k`.
    k : int, default 10
        Length of the lists that are judged, at least 1.

    Returns
    -------
    float
        Mean over the users with at least one relevant item, between 0 and 1. Users without one do
        not count.

    Raises
    ------
    TypeError, ValueError
        As `precision_at_k`.

    See Also
    --------
    precision_at_k : Divides by k.

    Notes
    -----
    Section 8.4 of [1]_. Cost and thread safety as `precision_at_k`.

    References
    ----------
    .. [1] C. D. Manning, P. Raghavan, H. Schütze, "Introduction to Information Retrieval",
       Cambridge University Press, 2008, chapter 8.

    Examples
    --------
    >>> from cmf.metrics import recall_at_k
    >>> recall_at_k([[3, 0], [1, 2]], [[0, 4], [1, 2]], k=2)
    0.75
    """
    hits, n_relevant = _judge(recommended, relevant, k)
    return float(np.mean(hits.sum(axis=1) / n_relevant))


def ndcg_at_k(recommended: ArrayLike, relevant: Any, k: int = 10) -> float:
    """NDCG: normalized discounted cumulative gain of the first k places, gains being 0 or 1.

    DCG is the sum over the places r = 1 … k that hold a relevant item of 1 / log₂(r + 1). It is
    divided by the DCG of an ideal list, whose first min(k, number of relevant items) places are
    all hits.

    Parameters
    ----------
    recommended : array_like of int of shape (n_users, n)
        One list of items per user, best first, padded with -1; see `precision_at_k`.
    relevant : sparse array of shape (n_users, n_items), or list of n_users sequences of int
        The relevant items of the same users; see `precision_at_k`. Ratings stored in a sparse
        array are no gains: every stored entry is worth 1.
    k : int, default 10
        Length of the lists that are judged, at least 1.

    Returns
    -------
    float
        Mean over the users with at least one relevant item, between 0 and 1. Users without one do
        not count.

    Raises
    ------
    TypeError, ValueError
        As `precision_at_k`.

    See Also
    --------
    average_precision_at_k : Another measure of order, with a steeper discount.

    Notes
    -----
    The idea is that of [1]_, the discount of every place by log₂(r + 1) that of [2]_. Cost and
    thread safety as `precision_at_k`.

    References
    ----------
    .. [1] K. Järvelin, J. Kekäläinen, "Cumulated gain-based evaluation of IR techniques",
       ACM Transactions on Information Systems 20(4), 2002.
    .. [2] C. Burges et al., "Learning to rank using gradient descent", ICML 2005.

    Examples
    --------
    >>> from cmf.metrics import ndcg_at_k
    >>> ndcg_at_k([[3, 0, 4]], [[0]], k=3)
    0.63092975
    """
    hits, n_relevant = _judge(recommended, relevant, k)
    n_ideal = np.minimum(n_relevant, min(k, int(n_relevant.max())))
    discounts = 1.0 / np.log2(np.arange(2, 2 + max(hits.shape[1], int(n_ideal.max()))))
    gains = (hits * discounts[: hits.shape[1]]).sum(axis=1)
    return float(np.mean(gains / np.cumsum(discounts)[n_ideal - 1]))


def average_precision_at_k(recommended: ArrayLike, relevant: Any, k: int = 10) -> float:
    """Mean average precision of the first k places, often called MAP@k.

    Of one user: the precision at r, summed over the places r = 1 … k that hold a relevant item,
    divided by min(k, number of relevant items), so that a list that begins with nothing but hits
    scores 1.

    Parameters
    ----------
    recommended : array_like of int of shape (n_users, n)
        One list of items per user, best first, padded with -1; see `precision_at_k`.
    relevant : sparse array of shape (n_users, n_items), or list of n_users sequences of int
        The relevant items of the same users; see `precision_at_k`.
    k : int, default 10
        Length of the lists that are judged, at least 1.

    Returns
    -------
    float
        Mean over the users with at least one relevant item, between 0 and 1. Users without one do
        not count.

    Raises
    ------
    TypeError, ValueError
        As `precision_at_k`.

    See Also
    --------
    ndcg_at_k : Another measure of order, with a gentler discount.

    Notes
    -----
    Section 8.4 of [1]_, where lists are not cut and the divisor is the number of relevant items;
    with lists cut at k, that number is capped at k. Cost and thread safety as `precision_at_k`.

    References
    ----------
    .. [1] C. D. Manning, P. Raghavan, H. Schütze, "Introduction to Information Retrieval",
       Cambridge University Press, 2008, chapter 8.

    Examples
    --------
    The hits are at places 1 and 3, with precisions 1 and 2/3.

    >>> from cmf.metrics import average_precision_at_k
    >>> average_precision_at_k([[4, 1, 0]], [[0, 4]], k=3)
    0.8333333
    """
    hits, n_relevant = _judge(recommended, relevant, k)
    precisions = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    n_ideal = np.minimum(n_relevant, min(k, int(n_relevant.max())))
    return float(np.mean((hits * precisions).sum(axis=1) / n_ideal))


def reciprocal_rank_at_k(recommended: ArrayLike, relevant: Any, k: int = 10) -> float:
    """Mean reciprocal rank within the first k places: 1 / place of the first hit, else 0.

    Parameters
    ----------
    recommended : array_like of int of shape (n_users, n)
        One list of items per user, best first, padded with -1; see `precision_at_k`.
    relevant : sparse array of shape (n_users, n_items), or list of n_users sequences of int
        The relevant items of the same users; see `precision_at_k`.
    k : int, default 10
        Length of the lists that are judged, at least 1.

    Returns
    -------
    float
        Mean over the users with at least one relevant item, between 0 and 1. Users without one do
        not count.

    Raises
    ------
    TypeError, ValueError
        As `precision_at_k`.

    See Also
    --------
    hit_rate_at_k : Asks only whether there is a hit.

    Notes
    -----
    The measure of [1]_. Cost and thread safety as `precision_at_k`.

    References
    ----------
    .. [1] E. M. Voorhees, "The TREC-8 question answering track report", TREC 1999.

    Examples
    --------
    >>> from cmf.metrics import reciprocal_rank_at_k
    >>> reciprocal_rank_at_k([[3, 0], [1, 2]], [[0, 4], [1, 2]], k=2)
    0.75
    """
    hits, _ = _judge(recommended, relevant, k)
    reciprocal_ranks = hits / np.arange(1, hits.shape[1] + 1)
    return float(np.mean(reciprocal_ranks.max(axis=1, initial=0.0)))


def hit_rate_at_k(recommended: ArrayLike, relevant: Any, k: int = 10) -> float:
    """Share of users with at least one relevant item among the first k places.

    Parameters
    ----------
    recommended : array_like of int of shape (n_users, n)
        One list of items per user, best first, padded with -1; see `precision_at_k`.
    relevant : sparse array of shape (n_users, n_items), or list of n_users sequences of int
        The relevant items of the same users; see `precision_at_k`.
    k : int, default 10
        Length of the lists that are judged, at least 1.

    Returns
    -------
    float
        Mean over the users with at least one relevant item, between 0 and 1. Users without one do
        not count.

    Raises
    ------
    TypeError, ValueError
        As `precision_at_k`.

    See Also
    --------
    reciprocal_rank_at_k : Asks how early the first hit is.

    Notes
    -----
    The measure of [1]_, there with one relevant item per user, where it equals `recall_at_k`. Cost
    and thread safety as `precision_at_k`.

    References
    ----------
    .. [1] M. Deshpande, G. Karypis, "Item-based top-N recommendation algorithms",
       ACM Transactions on Information Systems 22(1), 2004.

    Examples
    --------
    >>> from cmf.metrics import hit_rate_at_k
    >>> hit_rate_at_k([[3, 0], [1, 2]], [[0, 4], [5]], k=2)
    0.5
    """
    hits, _ = _judge(recommended, relevant, k)
    return float(np.mean(hits.any(axis=1)))


def _errors(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[NDArray[np.float64], int]:
    """Return checked differences y_true − y_pred in float64, and the power of two to multiply by.

    They are at most 1, so that sums of their squares are numbers. Powers of two round nothing.
    """
    true = _check_vector(y_true, "y_true")
    predicted = _check_vector(y_pred, "y_pred")
    if len(true) != len(predicted):
        raise ValueError(
            f"y_true and y_pred must have the same length, got {len(true)} and {len(predicted)}"
        )
    halves = true / 2 - predicted / 2
    exponent = int(np.frexp(np.abs(halves).max())[1])
    return np.ldexp(halves, -exponent), exponent + 1


def _times_power(number: np.floating[Any], exponent: int) -> float:
    with np.errstate(over="ignore"):  # the mean error itself may be too large
        return float(np.ldexp(number, exponent))


def _check_vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return a finite, non-empty float64 vector of `values`."""
    array = _as_array(values, name)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got {array.ndim} dimensions")
    if not array.size:
        raise ValueError(f"{name} is empty; at least one rating is needed")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}")
    # A long double beyond the range of float64 becomes inf here, and is then refused as such.
    with np.errstate(over="ignore"):
        vector = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(vector))
    if bad.size:
        raise ValueError(f"{name} must be finite, got {vector[bad[0]]} at position {bad[0]}")
    return vector


def _judge(
    recommended: ArrayLike, relevant: Any, k: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return the hits, (n_judged, min(k, n)) bools, and how many items were relevant, at least 1.

    Only users with a relevant item are judged.
    """
    k = check_int(k, "k", minimum=1)
    lists = _check_recommended(recommended)
    n_users = len(lists)
    if sparse.issparse(relevant):
        users, items = _stored_pairs(relevant, lists)
    else:
        users, items = _listed_pairs(relevant, n_users)
    if not users.size:
        raise ValueError("relevant names no item for any user; at least one is needed")

    # Items are numbered anew, so that a pair fits into one integer whatever the ids are.
    catalog, columns = np.unique(items, return_inverse=True)
    pairs = np.unique(users * len(catalog) + columns)
    n_relevant = np.bincount(pairs // len(catalog), minlength=n_users)
    judged = np.flatnonzero(n_relevant)

    lists = lists[judged, :k]
    places = np.minimum(np.searchsorted(catalog, lists), len(catalog) - 1)
    wanted = judged[:, np.newaxis] * len(catalog) + places
    found = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    return (catalog[places] == lists) & (pairs[found] == wanted), n_relevant[judged]


def _check_recommended(recommended: ArrayLike) -> Rows:
    """Return lists of ids, (n_users, n) int64, -1 where there is none."""
    array = _as_array(recommended, "recommended")
    if array.ndim != 2:
        raise ValueError(
            "recommended must be two-dimensional, one row of items per user, "
            f"got {array.ndim} dimensions"
        )
    lists = _as_ids(array, "recommended", lowest=_NO_ITEM)
    ordered = np.sort(lists, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != _NO_ITEM)
    if twice.any():
        row, column = np.argwhere(twice)[0]
        raise ValueError(
            f"recommended holds item {ordered[row, column]} twice in row {row}; "
            "an item may be recommended to a user once"
        )
    return lists


def _stored_pairs(relevant: Any, lists: Rows) -> tuple[Rows, Rows]:
    """Return users and items of what a sparse `relevant` stores; its shape must fit `lists`."""
    checked = check_ratings(relevant, dtype=np.float64, name="relevant", allow_empty=True)
    n_users, n_items = checked.shape
    _check_n_users(n_users, len(lists))
    if lists.size and lists.max() >= n_items:
        row, column = np.argwhere(lists >= n_items)[0]
        raise ValueError(
            f"recommended holds item {lists[row, column]} in row {row}, "
            f"but relevant has {n_items} columns"
        )
    users = np.repeat(np.arange(n_users), np.diff(checked.indptr))
    return users, checked.indices.astype(np.int64, copy=False)


def _listed_pairs(relevant: Any, n_users: int) -> tuple[Rows, Rows]:
    """Return users and items of a list of sequences of ids."""
    if not isinstance(relevant, list | tuple):
        raise TypeError(
            "relevant must be a SciPy sparse array of shape (n_users, n_items) or a list with one "
            f"sequence of items per user, got {type(relevant).__name__}"
        )
    _check_n_users(len(relevant), n_users)
    rows = [_relevant_row(row, user) for user, row in enumerate(relevant)]
    users = np.repeat(np.arange(n_users), [len(row) for row in rows])
    return users, np.concatenate(rows) if rows else users


def _relevant_row(row: Any, user: int) -> Rows:
    """Return the relevant ids of one user as int64."""
    name = f"relevant[{user}]"
    if isinstance(row, str | bytes) or not isinstance(row, Iterable):
        raise TypeError(f"{name} must be a sequence of items, got {type(row).__name__}")
    array = _as_array(row if isinstance(row, np.ndarray) else list(row), name)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got {array.ndim} dimensions")
    return _as_ids(array, name, lowest=0)


def _check_n_users(found: int, n_users: int) -> None:
    """Refuse a `relevant` of other users than `recommended`."""
    if found != n_users:
        raise ValueError(
            f"relevant and recommended must be of the same users, got {found} and {n_users} of them"
        )


def _as_array(values: Any, name: str) -> NDArray[Any]:
    """Return `values` as an array of any kind."""
    if np.ma.is_masked(values):
        raise ValueError(f"{name} has masked entries; drop or fill them first")
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} is not an array of numbers: {error}") from error


def _as_ids(array: NDArray[Any], name: str, *, lowest: int) -> Rows:
    """Return ids of at least `lowest` as int64; None in an array of objects becomes -1."""
    if not array.size:
        return np.empty(array.shape, dtype=np.int64)
    if array.dtype.kind == "O":
        ids = [_NO_ITEM if item is None else item for item in array.ravel()]
        if all(isinstance(item, int | np.integer) and type(item) is not bool for item in ids):
            # Integers beyond 64 bits stay objects, and are refused below.
            array = np.array(ids).reshape(array.shape)
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must hold integers (rows of the item factors), got dtype {array.dtype}; "
            "map labels to rows first"
        )
    smallest, largest = int(array.min()), int(array.max())
    if smallest < lowest or largest > np.iinfo(np.int64).max:
        found = smallest if smallest < lowest else largest
        raise ValueError(f"{name} must hold items from {lowest} to 2**63 - 1, got {found}")
    return array.astype(np.int64, copy=False)
