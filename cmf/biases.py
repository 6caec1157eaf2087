"""Biases as damped means: what can be said of users and items before any factor is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmf._checks import CheckedRatings
from cmf._counts import rating_counts
from cmf._kernels.biases import sum_residuals
from cmf._ranges import row_ranges
from cmf.objectives import link

__all__ = ["DampedBiases", "biases_of_loss", "damped_biases"]

N_PASSES = 10
FIRST_DAMPING = 5.0
LEAST_DAMPING, MOST_DAMPING = 0.1, 1e4
# Losses that bound the pull of outliers start from ratings within so many spreads of the middle.
MOST_SPREADS = 3.0


@dataclass(frozen=True, slots=True)
class DampedBiases:
    """Biases of users and items, and how strongly they are damped.

    Attributes
    ----------
    users : ndarray of shape (n_users,), float64
        In rating units; 0 without ratings.
    items : ndarray of shape (n_items,), float64
        Likewise.
    user_damping, item_damping : float
        Ratings of 0 residual that each mean is taken with: the variance of the noise over that of
        the biases.
    """

    users: NDArray[np.float64]
    items: NDArray[np.float64]
    user_damping: float
    item_damping: float


def damped_biases(ratings: CheckedRatings, global_mean: float) -> DampedBiases:
    r"""Estimate biases and their damping by expectation maximization.

    Parameters
    ----------
    ratings : CheckedRatings
        At least one.
    global_mean : float
        What biases are deviations from.

    Returns
    -------
    DampedBiases
        Multiplying all ratings by a number multiplies the biases; adding one changes nothing if it
        is added to the mean, too.

    Notes
    -----
    Biases are the means of a normal posterior, :math:`c_i = \sum_u (r_{ui} - \mu - b_u) / (n_i +
    d)` with :math:`d = \sigma^2 / \sigma_c^2`. Both variances are estimated anew in each of ten
    passes: that of the noise from the squared residuals over their degrees of freedom, that of the
    biases from their squares and their posterior variance. Each pass costs a few nanoseconds a
    rating.
    """
    counts = rating_counts(ratings)
    values = [np.zeros(count.shape[0]) for count in counts]
    damping = [FIRST_DAMPING, FIRST_DAMPING]
    with np.errstate(over="ignore", invalid="ignore"):  # reported as divergence
        for _ in range(N_PASSES):
            _improve(ratings, global_mean, counts, values, damping)
    return DampedBiases(values[0], values[1], damping[0], damping[1])


def biases_of_loss(ratings: CheckedRatings, loss: str, start: float, spread: float) -> DampedBiases:
    """Estimate where biases start with any loss.

    Parameters
    ----------
    ratings : CheckedRatings
        At least one.
    loss : str
        That will be trained on.
    start : float
        μ, as `cmf.objectives.start_value` gives it.
    spread : float
        Of the ratings, for absolute and Huber loss.

    Returns
    -------
    DampedBiases
        Damped means; absolute and Huber: of ratings that are drawn to within three spreads of μ;
        logistic and Poisson: brought to the scale of x after the means were taken.
    """
    if loss in ("absolute", "huber"):
        reach = MOST_SPREADS * spread
        values: Any = np.clip(ratings.values, start - reach, start + reach)
        return damped_biases(replace(ratings, values=values), start)
    if loss == "squared":
        return damped_biases(ratings, start)
    mean = float(link(loss, np.array(start)))
    found = damped_biases(ratings, mean)
    highest = 1 - 0.05 * (1 - mean) if loss == "logistic" else np.inf
    moved = [
        _unlink(loss, np.clip(mean + of_side, 0.05 * mean, highest)) - start
        for of_side in (found.users, found.items)
    ]
    return replace(found, users=moved[0], items=moved[1])


def _unlink(loss: str, means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return x of predicted ratings, the inverse of `cmf.objectives.link`."""
    x: NDArray[np.float64] = np.log(means / (1 - means) if loss == "logistic" else means)
    return x


def _improve(
    ratings: CheckedRatings,
    global_mean: float,
    counts: tuple[NDArray[np.int64], NDArray[np.int64]],
    values: list[NDArray[np.float64]],
    damping: list[float],
) -> None:
    """Estimate biases, then the variances that decide their damping, in place."""
    for side in (1, 0):  # items first: their means are the better known ones
        sums, _ = _residuals(ratings, values, global_mean)
        n = counts[side]
        values[side] = (sums[side] + n * values[side]) / (n + damping[side])
    _, squared = _residuals(ratings, values, global_mean)
    freedom = sum(float((n / (n + d)).sum()) for n, d in zip(counts, damping, strict=True))
    noise = squared / max(ratings.nnz - freedom, 0.05 * ratings.nnz)
    for side in (0, 1):
        rated = counts[side] > 0
        squares = values[side][rated] ** 2 + noise / (counts[side][rated] + damping[side])
        spread = float(squares.mean())
        wanted = noise / spread if spread > 0 else MOST_DAMPING
        damping[side] = min(max(wanted, LEAST_DAMPING), MOST_DAMPING)


def _residuals(
    ratings: CheckedRatings, values: list[NDArray[np.float64]], global_mean: float
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], float]:
    """Sum the residuals of users and of items, and their squares."""
    sums = np.zeros_like(values[0]), np.zeros_like(values[1])
    squared = 0.0
    for first, last in row_ranges(ratings.indptr, 1):
        squared += sum_residuals(
            ratings.indptr,
            ratings.indices,
            ratings.values,
            values[0],
            values[1],
            sums[0],
            sums[1],
            first,
            last,
            global_mean,
        )
    return sums, squared
