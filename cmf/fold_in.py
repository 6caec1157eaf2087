"""Factors and biases of new users in closed form, with the items as they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cmf._checks import CheckedRatings, check_array, check_csr
from cmf._state import Factors, SeenItems
from cmf._typing import FloatArray, Ids

__all__ = ["NewUsers", "fold_in", "halves", "with_users"]

# Above this ratio of penalty to squared norm the normal equations lose at most about half of the
# digits of float64, and they are several times faster than a singular value decomposition.
WELL_CONDITIONED = 1e-8


class _FactorsAndBiases(NamedTuple):
    factors: FloatArray
    biases: FloatArray


class NewUsers(_FactorsAndBiases):
    """Users that were folded in: a pair ``(factors, biases)`` that models can recommend for.

    Attributes
    ----------
    factors : ndarray of shape (n, n_factors)
        One row per new user, in the dtype of the model.
    biases : ndarray of shape (n,)
        Zeros for a model without biases.
    seen : SeenItems
        What they rated, which recommendations leave out.
    user_ids : ndarray or None
        Their labels, if their ratings came in a labelled data frame.
    """

    seen: SeenItems
    user_ids: Ids | None

    def __new__(
        cls,
        factors: FloatArray,
        biases: FloatArray,
        seen: SeenItems,
        user_ids: Ids | None = None,
    ) -> NewUsers:
        """Make the pair and remember what the users rated."""
        self = super().__new__(cls, factors, biases)
        self.seen = seen
        self.user_ids = user_ids
        return self

    def __getnewargs__(self) -> tuple[object, ...]:
        return (self.factors, self.biases, self.seen, self.user_ids)


def fold_in(
    factors: Factors, ratings: CheckedRatings, penalty: float, power: float = 0.0
) -> NewUsers:
    r"""Solve for the users behind `ratings`, one ridge regression each.

    With the items fixed, the steps of training a user with ratings R come to rest where

    .. math:: \sum_{i \in R} (r_i - \mu - c_i - b - p \cdot q_i)^2
              + \lambda |R|^{1 - a} (\|p\|^2 + b^2)

    is smallest: each of the \|R\| visits shrinks by λ / \|R\|^a, with a = 0 and λ = β/2 by the
    plain rule. Without regularization the solution of
    least norm is taken. Users without ratings get zeros.

    Parameters
    ----------
    factors : Factors
        The model, which is not changed.
    ratings : CheckedRatings
        One row per new user, the model's items as columns; of any floating dtype.
    penalty : float
        λ.
    power : float
        a.

    Returns
    -------
    NewUsers
        In the dtype of the model; solved in float64.

    Raises
    ------
    ValueError
        If ratings are so large that factors would be infinite.
    """
    n_users, k = ratings.shape[0], factors.n_factors
    P = np.zeros((n_users, k), dtype=factors.dtype)
    b = np.zeros(n_users, dtype=factors.dtype)
    for u in range(n_users):
        row = slice(ratings.indptr[u], ratings.indptr[u + 1])
        items = ratings.indices[row]
        if items.size == 0:
            continue
        design = factors.item_factors[items].astype(np.float64)
        targets = ratings.values[row] - (
            factors.global_mean + factors.item_biases[items].astype(np.float64)
        )
        if factors.biased:
            design = np.column_stack([design, np.ones(items.size)])
        with np.errstate(over="ignore", invalid="ignore"):
            solution = _ridge(design, targets, penalty * items.size ** (1 - power))
            P[u] = solution[:k]
            if factors.biased:
                b[u] = solution[k]
        if not (np.isfinite(P[u]).all() and np.isfinite(b[u])):
            raise ValueError(
                f"ratings are too large in row {u}: the factors that they give are not finite in "
                f"{factors.dtype}"
            )
    seen = SeenItems.of(ratings.indptr, ratings.indices, factors.n_items)
    return NewUsers(P, b, seen, ratings.user_ids)


def with_users(factors: Factors, users: NewUsers) -> tuple[Factors, SeenItems]:
    """Return the items of a model together with folded-in users, and what these have rated.

    Parameters
    ----------
    factors : Factors
        The model, which is not changed.
    users : NewUsers
        As `fold_in` has returned them. Anyone can make or change them, so they are checked.

    Returns
    -------
    factors : Factors
        With the new users in the place of the model's.
    seen : SeenItems
        Of the new users.
    """
    if not isinstance(getattr(users, "seen", None), SeenItems):
        raise TypeError("users must be as fold_in has returned them, with what they have rated")
    n_users = np.shape(users.factors)[:1]
    P = check_array(users.factors, "users.factors", (*n_users, factors.n_factors), factors.dtype)
    b = check_array(users.biases, "users.biases", n_users, factors.dtype)
    pattern = check_csr(
        users.seen.indptr, users.seen.indices, (P.shape[0], factors.n_items), "users.seen"
    )
    return replace(factors, user_factors=P, user_biases=b), SeenItems(*pattern)


def halves(ratings: CheckedRatings) -> Iterator[tuple[CheckedRatings, CheckedRatings]]:
    """Split every row in two, every second entry by column apart, and yield both orders.

    Parameters
    ----------
    ratings : CheckedRatings
        One row per user.

    Yields
    ------
    known, hidden : CheckedRatings
        Of the shape of `ratings`, disjoint, together all of it.
    """
    rows = np.repeat(np.arange(ratings.shape[0]), np.diff(ratings.indptr))
    order = np.lexsort((ratings.indices, rows))
    odd = (np.arange(ratings.nnz) - ratings.indptr[rows]) % 2 == 1
    first, second = (_entries(ratings, rows, order[half]) for half in (~odd, odd))
    yield first, second
    yield second, first


def _entries(
    ratings: CheckedRatings, rows: NDArray[np.int64], chosen: NDArray[np.int64]
) -> CheckedRatings:
    """Return some of the entries, which must be in the order of rows."""
    indptr = np.zeros(ratings.shape[0] + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows[chosen], minlength=ratings.shape[0]), out=indptr[1:])
    return CheckedRatings(indptr, ratings.indices[chosen], ratings.values[chosen], ratings.shape)


def _ridge(
    design: NDArray[np.float64], targets: NDArray[np.float64], penalty: float
) -> NDArray[np.float64]:
    """Minimize ‖design x - targets‖² + penalty ‖x‖²; of least norm where penalty is 0."""
    k = design.shape[1]
    if penalty > WELL_CONDITIONED * np.square(design).sum():
        gram = design.T @ design
        gram[np.diag_indices(k)] += penalty
        solution = np.linalg.solve(gram, design.T @ targets)
    else:
        # The same problem without squaring its condition: the penalty as k more equations.
        stacked = np.vstack([design, np.sqrt(penalty) * np.eye(k)])
        padded = np.concatenate([targets, np.zeros(k)])
        solution = np.linalg.lstsq(stacked, padded, rcond=None)[0]
    return solution.astype(np.float64, copy=False)
