"""Top-N lists, similar rows, and the user-neighborhood scheme, over checked factors.

Everything is scored by our own kernels, in double, so that no BLAS threads start behind the
caller's back. Best first; equal scores by row, so that answers do not depend on n or on which other
users were asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cmf._kernels.predict import predict_block, predict_pairs
from cmf._kernels.topn import select_top
from cmf._pieces import run_pieces
from cmf._state import Factors, SeenItems
from cmf._typing import FloatArray, IndexArray, Rows
from cmf.config import simd_level

__all__ = [
    "neighbor_scores",
    "pair_predictions",
    "predictions",
    "select",
    "similar",
    "top_items",
]

# Scores are computed for blocks of users of at most about this many numbers (8 MB in float64).
SCORES_AT_ONCE = 2**20
# Factors of users that one task of predicted pairs visits: some milliseconds.
FACTORS_PER_TASK = 2**22

TopLists = tuple[Rows, FloatArray]


def pair_predictions(
    factors: Factors, users: Rows, items: Rows, n_threads: int | None = 1
) -> FloatArray:
    """Predict n pairs.

    Parameters
    ----------
    factors : Factors
        The model.
    users, items : ndarray of shape (n,), int64
        Rows; -1 is an unknown one, whose factors and bias count as 0.
    n_threads : int or None, default 1
        Most threads to use, as in `cmf.loss`. Never changes a bit of the result.

    Returns
    -------
    ndarray of shape (n,), dtype of the factors
        Predictions in rating units.
    """
    out = np.empty(users.shape[0], dtype=factors.dtype)
    pairs_per_task = max(1, FACTORS_PER_TASK // factors.n_factors)
    pieces = [
        slice(start, start + pairs_per_task) for start in range(0, users.shape[0], pairs_per_task)
    ]
    tasks = [
        partial(_predict_into, predict_pairs, factors, users[piece], items[piece], out[piece])
        for piece in pieces
    ]
    run_pieces(tasks, n_threads)
    return out


def predictions(factors: Factors, users: Rows, items: Rows) -> FloatArray:
    """Predict every user's rating of every item.

    Parameters
    ----------
    factors : Factors
        The model.
    users, items : ndarray of shape (n,) and (m,), int64
        Rows; -1 is an unknown one, whose factors and bias count as 0.

    Returns
    -------
    ndarray of shape (n, m), dtype of the factors
        Predictions in rating units: the only array that grows with n times m.
    """
    out = np.empty((users.shape[0], items.shape[0]), dtype=factors.dtype)
    _predict_into(predict_block, factors, users, items, out)
    return out


def top_items(
    factors: Factors,
    users: Rows,
    n: int,
    *,
    candidates: Rows,
    seen: SeenItems | None = None,
) -> TopLists:
    """Return the n best candidates of each user.

    Parameters
    ----------
    factors : Factors
        The model.
    users : ndarray of shape (n_users,), int64
        Rows; -1 is an unknown user, whose scores are the mean and the item biases.
    n : int
        At least 1.
    candidates : ndarray of shape (m,), int64
        Item rows to choose from, ascending and unique.
    seen : SeenItems, optional
        Items to leave out, by user row.

    Returns
    -------
    rows : ndarray of shape (n_users, n), int64
        Item rows, best first, padded with -1 where fewer than n are left.
    scores : ndarray of shape (n_users, n), dtype of the factors
        Predictions, padded with NaN.

    Notes
    -----
    Time is proportional to ``n_users * m * n_factors``; memory to the answer plus a block of
    scores.
    """
    rows = np.full((users.shape[0], n), -1, dtype=np.int64)
    scores = np.full((users.shape[0], n), np.nan, dtype=factors.dtype)
    block = np.empty(
        (
            max(1, min(users.shape[0], SCORES_AT_ONCE // max(1, candidates.shape[0]))),
            candidates.shape[0],
        ),
        dtype=factors.dtype,
    )
    left_out = np.zeros(candidates.shape[0], dtype=np.uint8)
    best = np.empty(min(n, candidates.shape[0]), dtype=np.int64)
    for start in range(0, users.shape[0], block.shape[0]):
        asked = users[start : start + block.shape[0]]
        _predict_into(predict_block, factors, asked, candidates, block[: asked.shape[0]])
        for s in range(asked.shape[0]):
            excluded = _positions(seen, int(asked[s]), candidates)
            left_out[excluded] = 1
            count = select_top(block[s], left_out, best)
            left_out[excluded] = 0
            rows[start + s, :count] = candidates[best[:count]]
            scores[start + s, :count] = block[s, best[:count]]
    return rows, scores


def similar(factors: FloatArray, rows: Rows, n: int) -> TopLists:
    """Return for each of `rows` the n other rows of the largest cosine.

    Parameters
    ----------
    factors : ndarray of shape (n_rows, n_factors)
        Of users or of items.
    rows : ndarray of shape (n_asked,), int64
        What to compare with; a row is not among its own answers.
    n : int
        At least 1.

    Returns
    -------
    rows : ndarray of shape (n_asked, n), int64
        Most similar first, padded with -1.
    cosines : ndarray of shape (n_asked, n), float64
        Padded with NaN. Rows of norm 0 have cosine 0 with everything.

    Notes
    -----
    Makes one normalized float64 copy of the factors and passes over it for each row asked.
    """
    unit = _unit_rows(factors)
    nothing = np.zeros(unit.shape[0], dtype=unit.dtype)
    itself = SeenItems(
        np.arange(unit.shape[0] + 1, dtype=np.int64), np.arange(unit.shape[0], dtype=np.int64)
    )
    found, cosines = top_items(
        Factors(unit, unit, nothing, nothing, 0.0, biased=False),
        rows,
        n,
        candidates=np.arange(unit.shape[0], dtype=np.int64),
        seen=itself,
    )
    np.clip(cosines, -1, 1, out=cosines)
    return found, cosines


def neighbor_scores(factors: Factors, user: int, n_neighbors: int) -> NDArray[np.float64]:
    """Score every item by the predicted rows of the users most like one user.

    The similarity of two users is the cosine of their predicted rows. With A = [Q, c, 1] and
    x_v = (p_v, 1, μ + b_v) the predicted row of user v is A x_v, so all similarities follow from
    the small matrix AᵀA; the predicted matrix is never built.

    Parameters
    ----------
    factors : Factors
        The model.
    user : int
        Row of the user.
    n_neighbors : int
        How many of the most similar other users count; fewer if there are no more.

    Returns
    -------
    ndarray of shape (n_items,), float64
        Sum of the neighbors' predicted rows, each weighted by its similarity.
    """
    A = _item_basis(factors)
    X = _user_coordinates(factors)
    gram = _products(A.T, A.T)
    images = _products(X, gram)
    norms = np.sqrt(np.maximum((images * X).sum(axis=1), 0))
    inner = (images * X[user]).sum(axis=1)
    lengths = norms * norms[user]
    similarities = np.divide(inner, lengths, out=np.zeros_like(inner), where=lengths > 0)
    neighbors = select(similarities, n_neighbors, np.array([user]))
    mixture = (similarities[neighbors, None] * X[neighbors]).sum(axis=0)
    scores: NDArray[np.float64] = _products(mixture[None, :], A)[0]
    return scores


def select(scores: FloatArray, n: int, left_out: IndexArray) -> Rows:
    """Choose the best of one vector of scores.

    Parameters
    ----------
    scores : ndarray of shape (m,)
        Higher is better.
    n : int
        How many, at least 1.
    left_out : ndarray of int
        Positions never to choose.

    Returns
    -------
    ndarray of shape (count,), int64
        Positions, best first, equal scores in order; fewer than n if no more are left.
    """
    mask = np.zeros(scores.shape[0], dtype=np.uint8)
    mask[left_out] = 1
    best = np.empty(min(n, scores.shape[0]), dtype=np.int64)
    return best[: select_top(scores, mask, best)]


def _predict_into(
    kernel: Callable[..., None], factors: Factors, users: Rows, items: Rows, out: FloatArray
) -> None:
    """Fill `out` by one of the two kernels that predict: of pairs or of a block."""
    kernel(
        users,
        items,
        factors.user_factors,
        factors.item_factors,
        factors.user_biases,
        factors.item_biases,
        out,
        factors.global_mean,
        simd_level(),
    )


def _positions(seen: SeenItems | None, row: int, candidates: Rows) -> Rows:
    """Return where among the candidates the items are that a row has seen."""
    if seen is None or row < 0:
        return np.empty(0, dtype=np.int64)
    items = seen.row(row)
    positions = np.searchsorted(candidates, items)
    inside = positions < candidates.shape[0]
    positions, items = positions[inside], items[inside]
    found: Rows = positions[candidates[positions] == items].astype(np.int64, copy=False)
    return found


def _unit_rows(factors: FloatArray) -> NDArray[np.float64]:
    """Return rows scaled to a norm of 1; zeros stay zeros."""
    # First by powers of two, which round nothing, lest squares are too large or too small.
    largest = np.abs(factors).max(axis=1, keepdims=True, initial=0).astype(np.float64)
    rows = np.ldexp(factors.astype(np.float64), -np.frexp(largest)[1])
    norms = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    unit: NDArray[np.float64] = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return unit


def _item_basis(factors: Factors) -> NDArray[np.float64]:
    """Return A of `neighbor_scores`."""
    ones = np.ones(factors.n_items)
    return np.column_stack([factors.item_factors, factors.item_biases, ones]).astype(np.float64)


def _user_coordinates(factors: Factors) -> NDArray[np.float64]:
    """Return x of `neighbor_scores` for all users."""
    ones = np.ones(factors.n_users)
    levels = factors.global_mean + factors.user_biases.astype(np.float64)
    return np.column_stack([factors.user_factors, ones, levels]).astype(np.float64)


def _products(X: NDArray[np.float64], Y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return X Yᵀ by our own kernel: all inner products of two sets of rows."""
    X, Y = np.ascontiguousarray(X), np.ascontiguousarray(Y)
    plain = Factors(X, Y, np.zeros(X.shape[0]), np.zeros(Y.shape[0]), global_mean=0.0, biased=False)
    out = np.empty((X.shape[0], Y.shape[0]))
    _predict_into(predict_block, plain, np.arange(X.shape[0]), np.arange(Y.shape[0]), out)
    return out
