"""Factors and biases of new users, with the items as they are.

Each new user is a convex problem in as many unknowns as there are factors. Squared loss with a
ridge has a closed form. All else is Newton's method on the objective of training, in float64: every
loss is replaced by a parabola that touches it, the least point of the sum of these is looked for
under L1 and bounds by coordinate descent, and the way there is shortened until the objective falls.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cmf._checks import CheckedRatings, check_array, check_csr
from cmf._kernels.gibbs import row_products
from cmf._state import Factors, SeenItems
from cmf._typing import FloatArray, Ids
from cmf.config import simd_level
from cmf.objectives import each_loss, has_link, link

__all__ = ["NewUsers", "Objective", "Prior", "fold_in", "halves", "prior_of", "with_users"]

Doubles = NDArray[np.float64]

# Above this ratio of penalty to squared norm the normal equations lose at most about half of the
# digits of float64, and they are several times faster than a singular value decomposition.
WELL_CONDITIONED = 1e-8
# Part of the squared norm below which a direction is rounding.
LEAST_NORM = 1e-24
# Steps of Newton's method, at most; it ends where the next step would gain less than this part of
# the objective, and a rise by less than the second part is rounding.
MOST_STEPS = 50
LEAST_GAIN, ROUNDING = 1e-13, 1e-13
# Steps are halved until they gain this share of what they should, but not below this length.
LEAST_SHARE, LEAST_STEP = 0.1, 1e-18
# Huber and absolute loss have no curvature far from a rating. Part of that of the parabola which
# touches the loss from above stands in for it: 1 takes the most steps, 0 would halve the most.
STRAIGHT = 0.01
# Part of the curvature along each axis that is added to it, so that every step has a least point.
# The slopes are exact, so that it moves no solution.
DAMPING = 1e-9
# Sweeps of coordinate descent in a step.
MOST_SWEEPS = 50
# Absolute loss is rounded off this near to the rating, in units of the median error at the start:
# step by step, as the first steps need wide parabolas and the last ones sharp losses.
ROUNDED = tuple(10.0**-k for k in range(1, 7))
# Part of the variance of every number of a row that is added to it in a prior.
RIDGE = 1e-6
# Numbers of users' rows that are copied at once.
NUMBERS_AT_ONCE = 2**18
TINY = 1e-290


@dataclass(frozen=True, slots=True)
class Prior:
    """A normal distribution of what users are like: rows (p, b), or p in models without biases.

    Attributes
    ----------
    mean : ndarray of shape (width,), float64
        m.
    precision : ndarray of shape (width, width), float64
        Λ: the inverse of the covariance, times the variance of the noise of a rating.
    """

    mean: Doubles
    precision: Doubles


@dataclass(frozen=True, slots=True)
class Objective:
    """What folding in minimizes, for every user: see `fold_in`.

    Attributes
    ----------
    penalty : float
        λ, of squared factors and biases.
    power : float
        a, of how the penalty depends on the number of ratings.
    loss : str
        One of `cmf.objectives.LOSSES`.
    huber_threshold : float
        Read by Huber loss alone.
    l1 : float
        γ, of absolute factors, at every rating.
    nonnegative : bool
        Whether factors are kept from being negative; biases may be.
    prior : Prior or None
        In the place of λ.
    """

    penalty: float = 0.0
    power: float = 0.0
    loss: str = "squared"
    huber_threshold: float = 1.0
    l1: float = 0.0
    nonnegative: bool = False
    prior: Prior | None = None

    @property
    def closed(self) -> bool:
        """Tell whether the minimum has a closed form.

        Returns
        -------
        bool
            True for a ridge regression.
        """
        return self.loss == "squared" and not self.bounded and self.prior is None

    @property
    def bounded(self) -> bool:
        """Tell whether factors are held at 0.

        Returns
        -------
        bool
            True with L1 or non-negativity.
        """
        return self.l1 > 0 or self.nonnegative


class _FactorsAndBiases(NamedTuple):
    factors: FloatArray
    biases: FloatArray


class NewUsers(_FactorsAndBiases):
    """Users that were folded in, ``(factors, biases)``, for whom models predict and recommend.

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


def fold_in(factors: Factors, ratings: CheckedRatings, objective: Objective) -> NewUsers:
    r"""Find the users behind `ratings`, each the minimum of what training minimizes.

    With the items fixed, the steps of training a user with ratings R come to rest where

    .. math:: \sum_{i \in R} L(r_i, \mu + c_i + b + (p + s) \cdot q_i)
              + \tfrac{\lambda}{2} |R|^{1 - a} (\|p\|^2 + b^2) + \gamma |R| \|p\|_1

    is smallest: each of the \|R\| visits shrinks by λ / \|R\|^a, with a = 0 and λ = β/2 by the
    plain rule. L is half the squared or half the Huber loss, or all of the absolute, logistic or
    Poisson loss, as in ``_kernels/general.pyx``. A prior puts :math:`(w - m)' \Lambda (w - m) / 2`
    with w = (p, b) in the place of λ. With implicit features
    :math:`s = |R|^{-1/2} \sum_{j \in R} y_j`, else s = 0. The factors that are returned are p + s.

    Squared loss has the solution of least norm where there is no regularization. Users without
    ratings get zeros, or the mean of the prior.

    Parameters
    ----------
    factors : Factors
        The model, which is not changed.
    ratings : CheckedRatings
        One row per new user, the model's items as columns; of any floating dtype, in the range of
        the loss. Weights are not read.
    objective : Objective
        Loss and regularization.

    Returns
    -------
    NewUsers
        In the dtype of the model; solved in float64.

    Raises
    ------
    ValueError
        If ratings are so large that factors would be infinite.

    Notes
    -----
    A step of Newton's method takes as long as a ridge regression. Squared loss with a prior takes
    two of them, logistic, Poisson and Huber loss up to 10, and absolute loss 50 to 100; L1 and
    bounds make each several times as long. Absolute loss ends within about ``1e-6`` of the least
    objective. Where no solution is finite, such as for logistic loss without regularization where
    all ratings are 1, the result is one whose objective is near the limit.
    """
    n_users, k = ratings.shape[0], factors.n_factors
    P = np.zeros((n_users, k), dtype=factors.dtype)
    b = np.zeros(n_users, dtype=factors.dtype)
    for u in range(n_users):
        row = slice(ratings.indptr[u], ratings.indptr[u + 1])
        with np.errstate(all="ignore"):
            solution = _fold_row(
                factors, ratings.indices[row], ratings.values[row].astype(np.float64), objective
            )
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


def prior_of(factors: Factors, rated: NDArray[np.bool_], noise_std: float) -> Prior:
    """Return the normal distribution that the users of a model are like.

    Parameters
    ----------
    factors : Factors
        The model.
    rated : ndarray of shape (n_users,), bool
        Whose rows count.
    noise_std : float
        Standard deviation of a rating around what the model predicts for it, above 0.

    Returns
    -------
    Prior
        Mean and covariance of the rows, with a little variance added in all directions.

    Notes
    -----
    Takes ``n_users * n_factors**2`` multiplications, by the kernel that averages over the posterior
    has for them, and not BLAS, which would start threads.
    """
    k, width = factors.n_factors, factors.n_factors + factors.biased
    users = np.flatnonzero(rated)
    n_users, at_once = max(users.size, 1), NUMBERS_AT_ONCE // width
    blocks = np.split(users, range(at_once, users.size, at_once))
    mean, variances, part = np.zeros(width), np.zeros(width), np.empty((width, width))
    correlations = RIDGE * np.eye(width)

    def _rows_of(block: NDArray[np.intp]) -> Doubles:
        rows = np.empty((block.size, width))
        rows[:, :k] = factors.user_factors[block]
        if factors.biased:
            rows[:, k] = factors.user_biases[block]
        return rows

    for block in blocks:
        mean += _rows_of(block).sum(axis=0) / n_users
    for block in blocks:
        variances += np.square(_rows_of(block) - mean).sum(axis=0) / n_users
    # Biases are in units of the ratings, factors in those of their square roots.
    scales = np.sqrt(variances)
    scales[scales == 0] = scales.max() or 1.0
    for block in blocks:
        row_products(((_rows_of(block) - mean) / scales).astype(np.float32), part, simd_level())
        correlations += part / n_users
    inverse = np.asarray(np.linalg.inv(correlations), dtype=np.float64) / np.outer(scales, scales)
    return Prior(mean, noise_std**2 * inverse)


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
    if users.user_ids is not None and np.shape(users.user_ids) != P.shape[:1]:
        raise ValueError(f"users.user_ids must be one label for each of {P.shape[0]} users")
    found = replace(
        factors, user_factors=P, user_biases=b, own_user_factors=None, implicit_factors=None
    )
    return found, SeenItems(*pattern)


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
    return CheckedRatings(
        indptr=indptr,
        indices=ratings.indices[chosen],
        values=ratings.values[chosen],
        shape=ratings.shape,
    )


# --- one user -------------------------------------------------------------------------------------


def _fold_row(
    factors: Factors, items: NDArray[np.integer], values: Doubles, objective: Objective
) -> Doubles:
    """Return factors and bias of one user, or factors alone."""
    width = factors.n_factors + factors.biased
    if items.size == 0:
        return np.zeros(width) if objective.prior is None else objective.prior.mean
    design = factors.item_factors[items].astype(np.float64)
    offsets = factors.global_mean + factors.item_biases[items].astype(np.float64)
    implicit = np.zeros(width)
    if factors.implicit_factors is not None:
        summed = factors.implicit_factors[items].astype(np.float64).sum(axis=0)
        implicit[: factors.n_factors] = summed / math.sqrt(items.size)
        offsets += design @ implicit[: factors.n_factors]
    if factors.biased:
        design = np.column_stack([design, np.ones(items.size)])
    penalty = objective.penalty * items.size ** (1 - objective.power)
    if objective.closed:
        return _ridge(design, values - offsets, penalty) + implicit
    return _descend(design, values, offsets, penalty, objective, factors.n_factors) + implicit


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


def _descend(
    design: Doubles,
    values: Doubles,
    offsets: Doubles,
    penalty: float,
    objective: Objective,
    n_factors: int,
) -> Doubles:
    """Minimize an objective that has no closed form."""
    basis = None
    weak = penalty <= WELL_CONDITIONED * np.square(design).sum()
    if weak and not objective.bounded and objective.prior is None:
        # In singular vectors there are no directions that ratings do not decide.
        _, lengths, vectors = np.linalg.svd(design, full_matrices=False)
        basis = vectors[np.square(lengths) > LEAST_NORM * lengths[0] ** 2]
        design = design @ basis.T
    width = design.shape[1]
    prior = objective.prior or Prior(np.zeros(width), np.diag(np.full(width, penalty)))
    of_factors = np.arange(width) < n_factors
    problem = _Problem(
        design,
        values,
        offsets,
        objective.loss,
        objective.huber_threshold,
        prior,
        np.where(of_factors, objective.l1 * values.size, 0.0),
        np.where(of_factors & objective.nonnegative, 0.0, -np.inf),
    )
    solution = np.maximum(prior.mean, problem.lowest)
    for rounded in problem.thresholds(solution):
        solution = _minimize(replace(problem, threshold=rounded), solution)
    return solution if basis is None else solution @ basis


@dataclass(frozen=True, slots=True)
class _Problem:
    """The objective of one user, over rows w of factors and bias."""

    design: Doubles  # (n, width)
    values: Doubles  # (n,)
    offsets: Doubles  # (n,) what is predicted with w = 0
    loss: str
    threshold: float  # of Huber loss; where absolute loss is rounded off
    prior: Prior
    l1: Doubles  # (width,)
    lowest: Doubles  # (width,)

    def thresholds(self, w: Doubles) -> list[float]:
        """Return the thresholds to go through, one after the other."""
        if self.loss != "absolute":
            return [self.threshold]
        distances = np.abs(self.values - self.offsets - self.design @ w)
        distances = distances[distances > 0]
        spread = float(np.median(distances)) if distances.size else 1.0
        return [rounded * spread for rounded in ROUNDED]

    def value(self, w: Doubles) -> tuple[float, float]:
        """Return the objective, and the sum of the absolute values of its terms."""
        losses = self._losses(self.offsets + self.design @ w)
        away = w - self.prior.mean
        penalty = float(away @ self.prior.precision @ away) / 2 + float(self.l1 @ np.abs(w))
        return float(losses.sum()) + penalty, float(np.abs(losses).sum()) + penalty

    def slope(self, w: Doubles) -> Doubles:
        """Return minus the slope of the smooth part."""
        errors = self.values - link(self.loss, self.offsets + self.design @ w)
        if self.loss in ("absolute", "huber"):
            errors = np.clip(errors, -self.threshold, self.threshold)
            errors /= self.threshold if self.loss == "absolute" else 1
        slope: Doubles = self.design.T @ errors - self.prior.precision @ (w - self.prior.mean)
        return slope

    def curvature(self, w: Doubles) -> Doubles:
        """Return the second derivatives of the smooth part, and a little in all directions."""
        x = self.offsets + self.design @ w
        of_ratings: FloatArray = np.ones_like(x)
        if has_link(self.loss):
            means = link(self.loss, x)
            of_ratings = means * (1 - means) if self.loss == "logistic" else means
        elif self.loss != "squared":
            distances = np.abs(self.values - x)
            touching = self.threshold / np.maximum(distances, self.threshold)
            of_ratings = np.where(distances > self.threshold, STRAIGHT * touching, 1.0)
            of_ratings /= self.threshold if self.loss == "absolute" else 1
        curvature: Doubles = (self.design.T * of_ratings) @ self.design + self.prior.precision
        diagonal = np.diag_indices(w.size)
        curvature[diagonal] += np.maximum(DAMPING * curvature[diagonal], TINY)
        return curvature

    def _losses(self, x: Doubles) -> Doubles:
        """Return L of every rating; absolute loss less half the threshold, but near 0."""
        if self.loss == "absolute":
            distances = np.abs(self.values - x)
            near = np.minimum(distances, self.threshold)
            return near / self.threshold * (distances - near / 2)
        losses = each_loss(self.loss, self.values, x, self.threshold)
        return losses / 2 if self.loss in ("squared", "huber") else losses


def _minimize(problem: _Problem, w: Doubles) -> Doubles:
    """Go down from w by Newton's method; NaN where the objective is not finite."""
    value, scale = problem.value(w)
    for _ in range(MOST_STEPS):
        slope, curvature = problem.slope(w), problem.curvature(w)
        if not (math.isfinite(value) and np.isfinite(curvature).all() and np.isfinite(slope).all()):
            return np.full_like(w, np.nan)
        move = _least_point(problem, w, slope, curvature) - w
        gain = float(slope @ move - problem.l1 @ (np.abs(w + move) - np.abs(w)))
        share, lower = 1.0, math.inf
        while not lower <= value - LEAST_SHARE * share * gain + ROUNDING * scale:  # nor NaN
            if share < LEAST_STEP:
                return w
            found = w + share * move
            (lower, size), share = problem.value(found), share / 2
        w, value, scale = found, lower, max(scale, size)
        if gain <= LEAST_GAIN * scale:
            break
    return w


def _least_point(problem: _Problem, w: Doubles, slope: Doubles, hessian: Doubles) -> Doubles:
    """Return the least point of a parabola, L1 included, within the bounds."""
    bounded = (problem.l1 > 0) | (problem.lowest == 0)
    if not bounded.any():
        moved: Doubles = w + np.linalg.solve(hessian, slope)
        return moved
    linear = slope + hessian @ w
    found = w.copy()
    for _ in range(MOST_SWEEPS):
        before = found.copy()
        _sweep(found, linear, hessian, problem)
        if np.array_equal(found != 0, before != 0):
            _solve_free(found, linear, hessian, problem.l1, bounded)
        moves = np.abs(found - before) * np.sqrt(np.diagonal(hessian))
        sizes = np.abs(found) * np.sqrt(np.diagonal(hessian))
        if moves.max() <= 1e-13 * sizes.max():
            break
    return found


def _sweep(found: Doubles, linear: Doubles, hessian: Doubles, problem: _Problem) -> None:
    """Put each number of a row, one after the other, where it is best given all others."""
    left = linear - hessian @ found
    for j in range(found.size):
        curvature = hessian[j, j]
        pull = left[j] + curvature * found[j]
        shrunk = math.copysign(max(abs(pull) - problem.l1[j], 0.0), pull) / curvature
        new = max(shrunk, problem.lowest[j])
        if new != found[j]:
            left -= hessian[j] * (new - found[j])
            found[j] = new


def _solve_free(
    found: Doubles, linear: Doubles, hessian: Doubles, l1: Doubles, bounded: NDArray[np.bool_]
) -> None:
    """Go toward where the numbers that are not 0 are best together, until one of them is 0."""
    free = np.flatnonzero((found != 0) | ~bounded)
    if free.size == 0:
        return
    signs = np.sign(found[free])
    pulls = linear[free] - l1[free] * signs
    moves = np.linalg.solve(hessian[np.ix_(free, free)], pulls) - found[free]
    ends = np.where(bounded[free] & (moves * signs < 0), -found[free] / moves, np.inf)
    reached = min(1.0, float(ends.min()))
    moved = found[free] + reached * moves
    # Those that came to 0 are there exactly, also where rounding took them past it.
    found[free] = np.where(bounded[free] & ((ends <= reached) | (moved * signs < 0)), 0.0, moved)
