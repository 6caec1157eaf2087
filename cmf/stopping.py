"""Early stopping: which epoch predicts best what training has not seen."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmf._checks import CheckedRatings, narrow_indices
from cmf._state import Factors
from cmf._typing import FloatArray
from cmf.implicit import forget_factors
from cmf.losses import validation_errors
from cmf.objectives import each_loss
from cmf.recommendation import pair_predictions
from cmf.schedule import Schedule
from cmf.training import EpochReport

__all__ = ["NoiseMeter", "Stopper", "hold_out"]

FRACTION = 0.05
LEAST_HELD_OUT, MOST_HELD_OUT = 200, 100_000
# Standard errors by which factors must beat the biases that they start from.
SURENESS = 2.0


def hold_out(
    ratings: CheckedRatings, fraction: float | None, seed: int
) -> tuple[CheckedRatings, CheckedRatings] | None:
    """Split ratings for early stopping.

    Parameters
    ----------
    ratings : CheckedRatings
        All there are.
    fraction : float or None
        Share to hold out. None: a twentieth, but at least 200 (or a fifth, if that is less) and at
        most 100,000.
    seed : int
        Which ones follows from it.

    Returns
    -------
    rest, held_out : CheckedRatings, or None
        Both of the shape of `ratings`. None if there are too few to split.

    Notes
    -----
    Copies the ratings: 8 bytes each in float32, for as long as the parts are in use.
    """
    if fraction is None:
        least = min(LEAST_HELD_OUT, 0.2 * ratings.nnz)
        wanted = int(min(max(FRACTION * ratings.nnz, least), MOST_HELD_OUT))
    else:
        wanted = round(fraction * ratings.nnz)
    if not 1 <= wanted < ratings.nnz:
        return None
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    chosen = np.sort(generator.choice(ratings.nnz, wanted, replace=False, shuffle=False))
    before = np.searchsorted(chosen, ratings.indptr).astype(np.int64)
    kept = np.ones(ratings.nnz, dtype=np.bool_)
    kept[chosen] = False
    indices: Any = narrow_indices(ratings).indices[kept]
    values: Any = ratings.values[kept]
    weights: Any = None if ratings.weights is None else ratings.weights[kept]
    rest = replace(
        ratings, indptr=ratings.indptr - before, indices=indices, values=values, weights=weights
    )
    held_out = replace(
        ratings,
        indptr=before,
        indices=ratings.indices[chosen],
        values=ratings.values[chosen],
        weights=None,
    )
    return rest, held_out


class NoiseMeter:
    """A callback that tells the schedule what share of the variance is left after every epoch.

    Parameters
    ----------
    factors : Factors
        In training.
    schedule : Schedule
        Whose regularization, if it is chosen by the ratings, follows.
    held_out : CheckedRatings
        What epochs are measured on.
    n_threads : int or None
        Threads that measure.

    Attributes
    ----------
    mean : float
        Mean loss of what is held out, as it is now.
    """

    def __init__(
        self,
        factors: Factors,
        schedule: Schedule,
        held_out: CheckedRatings,
        n_threads: int | None,
    ) -> None:
        self.factors = factors
        self.schedule = schedule
        self.held_out = held_out
        self.n_threads = n_threads
        self.users = np.repeat(np.arange(held_out.shape[0]), np.diff(held_out.indptr))
        self.squared = schedule.parameters.loss_function == "squared"
        self.mean = self._mean_loss()
        if schedule.by_default:
            schedule.noises = [schedule.noise_of(self.mean)]

    def __call__(self, report: EpochReport) -> bool:
        """Look at an epoch; training goes on."""
        rmse = report.validation_rmse
        self.mean = rmse**2 if self.squared and rmse is not None else self._mean_loss()
        if self.schedule.by_default:
            self.schedule.noises.append(self.schedule.noise_of(self.mean))
        return False

    def _mean_loss(self) -> float:
        """Mean loss of what is held out, as reports have it."""
        if self.squared:
            return validation_errors(self.held_out, self.factors, self.n_threads)[0] ** 2
        with np.errstate(over="ignore"):  # infinite, and never the least
            return float(self._losses().mean())

    def _losses(self) -> NDArray[np.float64]:
        """Losses of all that is held out."""
        items = self.held_out.indices.astype(np.int64)
        return self._losses_at(pair_predictions(self.factors, self.users, items, self.n_threads))

    def _losses_at(self, x: FloatArray) -> NDArray[np.float64]:
        schedule = self.schedule
        return each_loss(
            schedule.parameters.loss_function, self.held_out.values, x, schedule.huber_threshold
        )


class Stopper(NoiseMeter):
    """One that remembers the best epoch and ends training when it is long past.

    Parameters
    ----------
    factors : Factors
        In training.
    schedule : Schedule
        As for `NoiseMeter`.
    held_out : CheckedRatings
        What epochs are measured on.
    patience : int
        Epochs without a better one after which training ends.
    n_threads : int or None
        Threads that measure.

    Attributes
    ----------
    best_epoch : int
        Counted from 1; 0 if no epoch beats where training started, or none beats biases alone by
        more than chance.
    """

    def __init__(
        self,
        factors: Factors,
        schedule: Schedule,
        held_out: CheckedRatings,
        patience: int,
        n_threads: int | None,
    ) -> None:
        super().__init__(factors, schedule, held_out, n_threads)
        self.patience = patience
        self.best_epoch = 0
        self.best = self.mean
        self.kept = self._copies()
        self.first_biases = self.kept[2:4]

    def __call__(self, report: EpochReport) -> bool:
        """Look at an epoch; True ends training."""
        super().__call__(report)
        if self.mean < self.best:
            self.best, self.best_epoch = self.mean, report.epoch
            self.kept = self._copies()
        return report.epoch - self.best_epoch >= self.patience

    def settle(self) -> None:
        """Put the best epoch's factors in place, or the first biases alone if they are as good."""
        for array, kept in zip(self._arrays(), self.kept, strict=True):
            array[...] = kept
        # Losses may be infinite, and what is no number is no gain.
        with np.errstate(over="ignore", invalid="ignore"):
            gains = self._losses_of_biases() - self._losses()
            gains /= np.abs(gains).max() or 1.0
        if not gains.mean() > SURENESS * gains.std() / math.sqrt(gains.shape[0]):
            self.best_epoch = 0
            forget_factors(self.factors)
            self.factors.user_biases[...], self.factors.item_biases[...] = self.first_biases
        self.schedule.noises = self.schedule.noises[: max(1, self.best_epoch)]

    def _losses_of_biases(self) -> NDArray[np.float64]:
        """Losses of the biases that training started from, without factors."""
        of_users, of_items = (biases.astype(np.float64) for biases in self.first_biases)
        return self._losses_at(
            self.factors.global_mean + of_users[self.users] + of_items[self.held_out.indices]
        )

    def _arrays(self) -> tuple[FloatArray, ...]:
        records = () if self.schedule.plain else tuple(self.schedule.records)
        return (*self.factors.trained, *records)

    def _copies(self) -> list[FloatArray]:
        return [array.copy() for array in self._arrays()]
