"""How large the steps of each epoch are, and how strongly each row is regularized.

Kernels know steps in the form rate (e q - l p): the rule α (2 e q - β p) with rate = 2 α and
l = β / 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cmf._checks import CheckedRatings
from cmf._parameters import Parameters
from cmf._state import TrainingState
from cmf._typing import FloatArray
from cmf.biases import DampedBiases, damped_biases, rating_counts

__all__ = ["Schedule", "Steps", "uses_defaults"]

# Without a learning rate and with shuffling: in units of the ratings' standard deviation.
DEFAULT_RATE = 0.1
DEFAULT_BIAS_RATE = 0.01
DEFAULT_DECAY = 0.95
DEFAULT_INIT_SCALE = 0.005
DEFAULT_USER_SHRINK, USER_POWER = 0.9, 0.5
DEFAULT_ITEM_SHRINK, ITEM_POWER = 0.27, 0.25
# Of the plain rule, where only one of the two is given, or ratings are visited in stored order.
RULE_LEARNING_RATE = 0.005
RULE_REGULARIZATION = 0.15
RULE_INIT_SCALE = 0.1
POWERS = {"rating": 0.0, "sqrt": 0.5, "count": 1.0}
TINY = float(np.finfo(np.float64).tiny)
GRADIENTS, _, SHRINK, BIAS_SHRINK = range(4)  # columns of a record: see simd.h


def uses_defaults(parameters: Parameters) -> bool:
    """Tell whether steps are chosen by the ratings: no learning rate is given.

    Parameters
    ----------
    parameters : Parameters
        Of a model.

    Returns
    -------
    bool
        False in stored order, which is the plain rule's.
    """
    return parameters.learning_rate is None and parameters.shuffle


@dataclass(frozen=True, slots=True)
class Steps:
    """What the kernels multiply gradients and rows by in one epoch.

    Attributes
    ----------
    user_rate, item_rate, bias_rate : float
        Rates.
    user_decay, item_decay, user_bias_decay, item_bias_decay : float
        1 - rate * l; with records, the least that any row can have.
    gradient_weight : float
        Of squared gradients in the records' sums.
    user_records, item_records : ndarray of shape (n, 4) or None
        Rates and regularization of every row, see ``_kernels/simd.h``; changed by training.
    """

    user_rate: float
    item_rate: float
    bias_rate: float
    user_decay: float
    item_decay: float
    user_bias_decay: float
    item_bias_decay: float
    gradient_weight: float = 0.0
    user_records: FloatArray | None = None
    item_records: FloatArray | None = None

    def scalars(self) -> tuple[float, ...]:
        """Return all numbers, in the order of the kernel.

        Returns
        -------
        tuple of float
            User rate first.
        """
        return (
            self.user_rate,
            self.item_rate,
            self.bias_rate,
            self.user_decay,
            self.item_decay,
            self.user_bias_decay,
            self.item_bias_decay,
            self.gradient_weight,
        )


class Schedule:
    """Steps of all epochs of one training.

    Parameters
    ----------
    parameters : Parameters
        Rates, regularization and how they are scaled.
    ratings : CheckedRatings
        What will be trained on: their spread and how many there are of each row.
    global_mean : float
        Of the model.
    before : TrainingState, optional
        What earlier training left behind.

    Attributes
    ----------
    noises : list of float
        Share of the ratings' variance that cannot be predicted, as far as is known before each
        epoch; the last holds for all epochs after. The default regularization is proportional.
    spread : float
        Root of the mean squared deviation of the ratings from the global mean.
    biases : DampedBiases or None
        Where biases start, under the defaults.
    """

    def __init__(
        self,
        parameters: Parameters,
        ratings: CheckedRatings,
        global_mean: float,
        *,
        before: TrainingState | None = None,
    ) -> None:
        self.parameters = parameters
        self.noises = [1.0 if before is None else before.noise]
        self.by_default = uses_defaults(parameters)
        self.spread = 1.0
        if self.by_default:
            known = before is not None and before.spread > 0
            self.spread = before.spread if known else _spread(ratings, global_mean)  # type: ignore[union-attr]
        self.biases: DampedBiases | None = None
        self.adaptive = self.by_default if parameters.adaptive is None else parameters.adaptive
        self.plain = not (
            self.adaptive or self.by_default or parameters.regularization_scaling != "rating"
        )
        if self.plain:
            return
        if self.by_default and parameters.biases:
            self.biases = damped_biases(ratings, global_mean)
        counts = [np.maximum(count, 1).astype(np.float64) for count in rating_counts(ratings)]
        self.shrink = [self._shrink(side, count) for side, count in enumerate(counts)]
        self.bias_shrink = [self._bias_shrink(side, count) for side, count in enumerate(counts)]
        self.weights = [count / count.sum() for count in counts]
        self.records = [
            np.ones((count.shape[0], 4), dtype=ratings.values.dtype) for count in counts
        ]
        if before is not None and before.sums is not None:
            for record, column in zip(self.records, before.sums, strict=True):
                record[:, GRADIENTS] = column

    @property
    def learning_rate(self) -> float:
        """Rate α of the first epoch; of rows that have not moved yet, where rates adapt.

        Returns
        -------
        float
            Above 0.
        """
        given = self.parameters.learning_rate
        if given is not None:
            return given
        return DEFAULT_RATE / self.spread / 2 if self.by_default else RULE_LEARNING_RATE

    @property
    def regularization(self) -> float:
        """Regularization β; where rows have their own, its mean over all ratings and both sides.

        Returns
        -------
        float
            At least 0.
        """
        if self.plain:
            return self._given(None)
        means = [
            float(shrink @ weight) * (self.noises[-1] if self._by_default(name) else 1.0)
            for name, shrink, weight in zip(
                ("user", "item"), self.shrink, self.weights, strict=True
            )
        ]
        return sum(means)

    @property
    def init_scale(self) -> float:
        """Spread of the factors that training starts from, unless it is given.

        Returns
        -------
        float
            As `initialize` takes it.
        """
        given = self.parameters.init_scale
        if given is not None:
            return given
        small = self.by_default and self.parameters.init == "normal"
        return DEFAULT_INIT_SCALE * math.sqrt(self.spread) if small else RULE_INIT_SCALE

    def state(self, best_epoch: int = -1) -> TrainingState:
        """Return what is to be known after training.

        Parameters
        ----------
        best_epoch : int
            That of early stopping, or -1.

        Returns
        -------
        TrainingState
            Of this moment.
        """
        power, penalty = 0.0, self._given("user") / 2
        if self._by_default("user"):
            penalty = DEFAULT_USER_SHRINK * self.spread * self.noises[-1]
            power = USER_POWER
        elif not self.plain:
            power = POWERS[self.parameters.regularization_scaling]
        sums = None
        if not self.plain and self.adaptive:
            sums = self.records[0][:, GRADIENTS].copy(), self.records[1][:, GRADIENTS].copy()
        spread = self.spread if self.by_default else 0.0
        return TrainingState(
            self.regularization, penalty, power, spread, self.noises[-1], best_epoch, sums
        )

    def rate_of(self, epoch: int) -> float:
        """Return α of an epoch.

        Parameters
        ----------
        epoch : int
            Counted from 1.

        Returns
        -------
        float
            Learning rate, of rows that have not moved yet where rates adapt.
        """
        decay = self.parameters.learning_rate_decay
        if decay is None:
            decay = DEFAULT_DECAY if self.by_default else 1.0
        return float(self.learning_rate * decay ** (epoch - 1))

    def rule_rate_of(self, epoch: int) -> float:
        """Return α of an epoch for kernels that know the plain rule only.

        Parameters
        ----------
        epoch : int
            Counted from 1.

        Returns
        -------
        float
            Small enough for rates that do not adapt.
        """
        rate = self.rate_of(epoch)
        return rate if self.plain else min(rate, RULE_LEARNING_RATE)

    def steps(self, epoch: int) -> Steps:
        """Return the steps of an epoch.

        Parameters
        ----------
        epoch : int
            Counted from 1.

        Returns
        -------
        Steps
            Its records, if there are any, are changed by training.
        """
        noise = self.noises[min(epoch, len(self.noises)) - 1]
        rate = 2 * self.rate_of(epoch)
        bias_rate = self._bias_rate(rate)
        if self.plain:
            of_users, of_items, of_biases = (
                self._given(name) / 2 for name in ("user", "item", "bias")
            )
            bias_decay = 1 - bias_rate * of_biases
            return Steps(
                rate,
                rate,
                bias_rate,
                1 - rate * of_users,
                1 - rate * of_items,
                bias_decay,
                bias_decay,
            )
        for name, record, shrink, bias_shrink in zip(
            ("user", "item"), self.records, self.shrink, self.bias_shrink, strict=True
        ):
            with np.errstate(over="ignore"):  # reported as divergence
                record[:, SHRINK] = shrink * noise if self._by_default(name) else shrink
                record[:, BIAS_SHRINK] = bias_shrink
        least_of_users, least_of_items = (
            1 - rate * float(record[:, SHRINK].max()) for record in self.records
        )
        steps = Steps(rate, rate, bias_rate, least_of_users, least_of_items, 1.0, 1.0)
        k, cube = self.parameters.n_factors, self.spread * self.spread * self.spread
        return replace(
            steps,
            gradient_weight=1 / max(k * cube, TINY) if self.adaptive else 0.0,
            user_records=self.records[0],
            item_records=self.records[1],
        )

    def _given(self, side: str | None) -> float:
        """Return β of the users, items or biases, as the parameters have it."""
        parameters = self.parameters
        own = None if side is None else getattr(parameters, f"{side}_regularization")
        if own is not None:
            return float(own)
        common = parameters.regularization
        return RULE_REGULARIZATION if common is None else common

    def _bias_rate(self, rate: float) -> float:
        parameters = self.parameters
        if not parameters.biases:
            return 0.0
        if parameters.bias_learning_rate is not None:
            return 2 * parameters.bias_learning_rate * rate / (2 * self.learning_rate)
        if self.by_default:
            return DEFAULT_BIAS_RATE * rate / (2 * self.learning_rate)
        return rate

    def _by_default(self, side: str) -> bool:
        """Tell whether the regularization of a side is chosen by the ratings."""
        parameters = self.parameters
        own = getattr(parameters, f"{side}_regularization")
        return self.by_default and parameters.regularization is None and own is None

    def _shrink(self, side: int, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        name = ("user", "item")[side]
        if self._by_default(name):
            strength = (DEFAULT_USER_SHRINK, DEFAULT_ITEM_SHRINK)[side] * self.spread
            return strength / counts ** (USER_POWER, ITEM_POWER)[side]
        power = POWERS[self.parameters.regularization_scaling]
        return self._given(name) / 2 / counts**power

    def _bias_shrink(self, side: int, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.biases is not None and self._by_default("bias"):
            damping = (self.biases.user_damping, self.biases.item_damping)[side]
            return damping / counts
        power = POWERS[self.parameters.regularization_scaling]
        return self._given("bias") / 2 / counts**power


def _spread(ratings: CheckedRatings, global_mean: float) -> float:
    """Return the root of the mean squared deviation, or 1 where there is none."""
    total = 0.0
    at_once = 2**16
    with np.errstate(over="ignore", invalid="ignore"):  # reported as divergence
        for start in range(0, ratings.nnz, at_once):
            part = ratings.values[start : start + at_once].astype(np.float64) - global_mean
            total += float(part @ part)
    mean = total / ratings.nnz
    return float(np.sqrt(mean)) if np.isfinite(mean) and mean > 0 else 1.0
