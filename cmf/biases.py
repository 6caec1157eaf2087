"""Biases as damped means: what can be said of users and items before any factor is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmf._checks import CheckedRatings
from cmf._counts import rating_counts
from cmf._kernels.biases import damp_users, moments, sum_deviations
from cmf._pieces import run_pieces
from cmf._ranges import ratings_per_task, row_ranges
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


def damped_biases(
    ratings: CheckedRatings, global_mean: float, n_threads: int | None = 1
) -> DampedBiases:
    r"""Estimate biases and their damping by expectation maximization.

    Parameters
    ----------
    ratings : CheckedRatings
        At least one.
    global_mean : float
        What biases are deviations from.
    n_threads : int or None, default 1
        Most threads to use; the result does not depend on it.

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
    with np.errstate(over="ignore", invalid="ignore"):  # reported as divergence
        estimate = _Estimate(ratings, global_mean, n_threads)
        for _ in range(N_PASSES):
            estimate.improve()
    (users, items), (user_damping, item_damping) = estimate.values, estimate.damping
    return DampedBiases(users, items, user_damping, item_damping)


def biases_of_loss(
    ratings: CheckedRatings, loss: str, start: float, spread: float, n_threads: int | None = 1
) -> DampedBiases:
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
    n_threads : int or None, default 1
        As `damped_biases` takes it.

    Returns
    -------
    DampedBiases
        Damped means; absolute and Huber: of ratings that are drawn to within three spreads of μ;
        logistic and Poisson: brought to the scale of x after the means were taken.
    """
    if loss in ("absolute", "huber"):
        reach = MOST_SPREADS * spread
        values: Any = np.clip(ratings.values, start - reach, start + reach)
        return damped_biases(replace(ratings, values=values), start, n_threads)
    if loss == "squared":
        return damped_biases(ratings, start, n_threads)
    mean = float(link(loss, np.array(start)))
    found = damped_biases(ratings, mean, n_threads)
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


class _Estimate:
    """Biases and their damping as they are after some passes, and what the next one begins with."""

    def __init__(self, ratings: CheckedRatings, global_mean: float, n_threads: int | None) -> None:
        n_users, n_items = ratings.shape
        self.ratings = ratings
        self.n_threads = n_threads
        per_task = ratings_per_task(n_items)
        self.ranges = list(row_ranges(ratings.indptr, 1, factors_per_call=per_task))
        self.counts = rating_counts(ratings, n_threads)
        self.n_rated = [int(np.count_nonzero(counts)) for counts in self.counts]
        self.values = [np.zeros(n_users), np.zeros(n_items)]
        self.damping = [FIRST_DAMPING, FIRST_DAMPING]
        # Sums of r - mean, and of their squares.
        user_sums = np.zeros(n_users)
        item_sums, self.squares = self._sum(
            lambda items, first, last: sum_deviations(
                ratings.indptr,
                ratings.indices,
                ratings.values,
                user_sums,
                items,
                first,
                last,
                global_mean,
            )
        )
        self.sums = (user_sums, item_sums)
        # Of each item, the sum of the biases of the users who rated it.
        self.known = np.zeros(n_items)

    def improve(self) -> None:
        """Estimate biases, then the variances that decide their damping."""
        # Items first: their means are the better known ones.
        n = self.counts[1]
        self.values[1] = (self.sums[1] - self.known) / (n + self.damping[1])
        self.known, products = self._sum(
            lambda items, first, last: damp_users(
                self.ratings.indptr,
                self.ratings.indices,
                self.sums[0],
                self.values[1],
                self.values[0],
                items,
                first,
                last,
                self.damping[0],
            )
        )
        users, items = (
            moments(counts, sums, values, damping)
            for counts, sums, values, damping in zip(
                self.counts, self.sums, self.values, self.damping, strict=True
            )
        )
        noise = self._noise(2 * products + users[0] + items[0], users[1] + items[1])
        for number, (_, _, squares, shares) in enumerate((users, items)):
            # Of rated rows: the squares of their biases and the posterior variances of these.
            spread = (squares + noise * shares) / self.n_rated[number]
            wanted = noise / spread if spread > 0 else MOST_DAMPING
            self.damping[number] = min(max(wanted, LEAST_DAMPING), MOST_DAMPING)

    def _noise(self, explained: float, freedom: float) -> float:
        """Return the mean square of what biases leave of the ratings.

        No pass is needed: with d = r - mean, the sum of (d - b - c)² is that of d² + 2 b c, and for
        each row of either side with n ratings, bias v and sum s of d, of v (n v - 2 s).
        """
        nnz = self.ratings.nnz
        # Where biases leave nothing, rounding can make it less.
        return max(self.squares + explained, 0.0) / max(nnz - freedom, 0.05 * nnz)

    def _sum(
        self, kernel: Callable[[NDArray[np.float64], int, int], float]
    ) -> tuple[NDArray[np.float64], float]:
        """Add up what a kernel finds for each range of users, in a fixed order."""
        of_items = np.zeros((len(self.ranges), self.ratings.shape[1]))
        totals = [0.0] * len(self.ranges)

        def work(number: int) -> None:
            totals[number] = kernel(of_items[number], *self.ranges[number])

        run_pieces([partial(work, number) for number in range(len(self.ranges))], self.n_threads)
        return of_items[0] if len(of_items) == 1 else of_items.sum(axis=0), sum(totals)
