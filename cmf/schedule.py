"""How large the steps of each epoch are, and how strongly each row is regularized.

Kernels know steps in the form rate (e q - l p): the rule α (2 e q - β p) with rate = 2 α and
l = β / 2. With another loss e is its slope.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cmf._checks import CheckedRatings
from cmf._counts import rating_counts
from cmf._parameters import Parameters
from cmf._state import TrainingState
from cmf._typing import FloatArray
from cmf.biases import DampedBiases, biases_of_loss
from cmf.scales import Scale, scale_of

__all__ = ["Schedule", "Steps", "uses_defaults"]

# Without a learning rate and with shuffling, in the units of `cmf.scales`.
# The rate falls with the root of the number of factors.
DEFAULT_RATE, MOST_RATE = 0.48, 0.1
DEFAULT_BIAS_RATE = 0.01
DEFAULT_DECAY = 0.97
DEFAULT_INIT_SCALE = 0.005
# Where steps set small factors to zero; divided by the fourth root of their number.
PROXIMAL_INIT_SCALE = 0.3
DEFAULT_USER_SHRINK, USER_POWER = 0.9, 0.5
DEFAULT_ITEM_SHRINK, ITEM_POWER = 0.27, 0.25
DEFAULT_IMPLICIT_SHRINK = 0.016
MOST_DEVIATIONS = 10.0
# Where rates are chosen for a strength that is given, or do not adapt, a row begins with one of its
# own, at which the strength takes at most this part of the row at a step. The sum of squares behind
# that rate is to remain a good number.
MOST_TAKEN, MOST_GRADIENTS = 0.5, 1e30
# Rate of implicit factors in rates of the users' own.
IMPLICIT_RATE = 0.1
# Of the plain rule, where only one of the two is given, or ratings are visited in stored order.
RULE_LEARNING_RATE = 0.005
RULE_REGULARIZATION = 0.15
RULE_INIT_SCALE = 0.1
SIDES = ("user", "item")
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


class Steps(NamedTuple):
    """What the kernels multiply gradients and rows by in one epoch.

    Attributes
    ----------
    rate, bias_rate : float
        Of factors and of biases.
    user_decay, item_decay, bias_decay : float
        1 - rate * l; with records, the least that any row can have, and of biases not read.
    gradient_weight : float
        Of squared gradients in the records' sums.
    implicit_rate, implicit_shrink : float
        Rate of implicit factors in rates of the users' own, and their l.
    user_records, item_records : ndarray of shape (n, 4) or None
        Rates and regularization of every row, see ``_kernels/simd.h``; changed by training.
    """

    rate: float
    bias_rate: float
    user_decay: float
    item_decay: float
    bias_decay: float = 1.0
    gradient_weight: float = 0.0
    implicit_rate: float = 0.0
    implicit_shrink: float = 0.0
    user_records: FloatArray | None = None
    item_records: FloatArray | None = None


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
        Share of the ratings' noise, as they would have it without a model, that is left, as far as
        is known before each epoch; the last holds for all epochs after. The default regularization
        is proportional.
    scale : Scale
        Units of all rates and penalties: 1 unless they are chosen by the ratings.
    huber_threshold : float
        Of Huber loss.
    general : bool
        Whether the fast kernel does not know the objective: another loss than squares, weights, L1
        or no negative factors.
    weighted : bool
        Whether ratings have weights.
    plain : bool
        Whether all rows are alike, and there are no records.
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
        self.scale, self.huber_threshold = Scale(), parameters.huber_threshold or 1.0
        by_spread = parameters.loss_function == "huber" and parameters.huber_threshold is None
        if self.by_default or by_spread:
            known = before.spread if before is not None and before.spread > 0 else None
            scale = scale_of(ratings, parameters.loss_function, global_mean, spread=known)
            self.scale = scale if self.by_default else self.scale
            self.huber_threshold = scale.spread if by_spread else self.huber_threshold
        self.measured = self.by_default or by_spread
        self.weighted = ratings.weights is not None
        self.general = parameters.general or self.weighted
        self.adaptive = self.by_default if parameters.adaptive is None else parameters.adaptive
        self.plain = not (
            self.adaptive
            or self.by_default
            or self.general
            or parameters.implicit
            or parameters.regularization_scaling != "rating"
        )
        self.biases: DampedBiases | None = None
        if not self.plain:
            self._prepare_rows(ratings, global_mean, None if before is None else before.sums)

    def _prepare_rows(
        self,
        ratings: CheckedRatings,
        global_mean: float,
        sums: tuple[FloatArray, FloatArray] | None,
    ) -> None:
        """Find out how strongly each row is regularized, and make the records."""
        if self.by_default and self.parameters.biases:
            self.biases = biases_of_loss(
                ratings,
                self.parameters.loss_function,
                global_mean,
                self.scale.spread,
                self.parameters.n_threads,
            )
        counts = [
            np.maximum(count, 1).astype(np.float64)
            for count in rating_counts(ratings, self.parameters.n_threads)
        ]
        self.shrink = [self._shrink(side, count) for side, count in enumerate(counts)]
        self.bias_shrink = [self._bias_shrink(side, count) for side, count in enumerate(counts)]
        self.mean_shrink = [  # without BLAS, as in cmf.scales
            float((shrink * (count / count.sum())).sum())
            for shrink, count in zip(self.shrink, counts, strict=True)
        ]
        self.records = [
            np.ones((count.shape[0], 4), dtype=ratings.values.dtype) for count in counts
        ]
        self.most_shrink = [float(shrink.max()) for shrink in self.shrink]
        self.most_bias_shrink = max(float(shrink.max()) for shrink in self.bias_shrink)
        # What the records' regularization was written with.
        self.written_noise = self.written_limit = math.nan
        if sums is not None:
            for record, column in zip(self.records, sums, strict=True):
                record[:, GRADIENTS] = column
        elif self.by_default:
            for name, record, shrink in zip(SIDES, self.records, self.shrink, strict=True):
                if not (self.adaptive and self._by_default(name)):
                    taken = 2 * self.learning_rate * shrink
                    roots = np.clip(taken / MOST_TAKEN, 1, math.sqrt(MOST_GRADIENTS))
                    record[:, GRADIENTS] = np.square(roots)

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
        if not self.by_default:
            return RULE_LEARNING_RATE
        # The more directions there are to move in, the shorter the steps are to be.
        rate = min(DEFAULT_RATE / math.sqrt(self.parameters.n_factors), MOST_RATE)
        return rate / (self.scale.curvature * self.scale.spread) / 2

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
            mean * (self.noises[-1] if self._by_default(name) else 1.0)
            for name, mean in zip(SIDES, self.mean_shrink, strict=True)
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
        parameters = self.parameters
        root = math.sqrt(self.scale.spread)
        if not self.by_default or parameters.init != "normal":
            return RULE_INIT_SCALE * root
        if parameters.nonnegative or parameters.l1_regularization > 0:
            return PROXIMAL_INIT_SCALE * root / math.sqrt(math.sqrt(parameters.n_factors))
        return DEFAULT_INIT_SCALE * root

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
            penalty = DEFAULT_USER_SHRINK * self.scale.shrink * self.noises[-1]
            power = USER_POWER
        elif not self.plain:
            power = POWERS[self.parameters.regularization_scaling]
        sums = None
        if not self.plain and self.adaptive:
            sums = self.records[0][:, GRADIENTS].copy(), self.records[1][:, GRADIENTS].copy()
        spread = self.scale.spread if self.by_default else self.huber_threshold
        return TrainingState(
            self.regularization,
            penalty,
            power,
            spread if self.measured else 0.0,
            self.noises[-1],
            best_epoch,
            sums,
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
        return float(self.learning_rate * self._decay(epoch))

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

    def noise_of(self, mean_loss: float) -> float:
        """Return the share of the noise that is left, to go into `noises`.

        Parameters
        ----------
        mean_loss : float
            Mean loss of ratings that have not been trained on.

        Returns
        -------
        float
            At most 1; always 1 where the noise follows from the predictions, as of counts.
        """
        if self.parameters.loss_function == "poisson":
            return 1.0
        return min(1.0, self.scale.share_of_noise(mean_loss))

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
        rate = 2 * self.rate_of(epoch)
        bias_rate = self._bias_rate(epoch)
        if self.plain:
            of_users, of_items, of_biases = (
                1 - step * self._given(name) / 2
                for step, name in ((rate, "user"), (rate, "item"), (bias_rate, "bias"))
            )
            return Steps(rate, bias_rate, of_users, of_items, of_biases)
        self._write_regularization(self.noises[min(epoch, len(self.noises)) - 1], bias_rate)
        least_of_users, least_of_items = (1 - rate * greatest for greatest in self.greatest)
        scale = self.scale
        gradients = self.parameters.n_factors * scale.spread * scale.deviation * scale.deviation
        return Steps(
            rate,
            bias_rate,
            least_of_users,
            least_of_items,
            gradient_weight=1 / max(gradients, TINY) if self.adaptive else 0.0,
            implicit_rate=self._implicit_rate,
            implicit_shrink=self._implicit_shrink,
            user_records=self.records[0],
            item_records=self.records[1],
        )

    @property
    def _implicit_rate(self) -> float:
        given = self.parameters.implicit_learning_rate
        return IMPLICIT_RATE if given is None else given / self.learning_rate

    @property
    def _implicit_shrink(self) -> float:
        given = self.parameters.implicit_regularization
        if given is not None:
            return given / 2
        if self._by_default("user"):
            return DEFAULT_IMPLICIT_SHRINK * self.scale.shrink
        return self._given("user") / 2

    @property
    def slope_limit(self) -> float:
        """Greatest slope, times the weight, that steps follow.

        Returns
        -------
        float
            Ten standard deviations, under the defaults, where slopes may be without measure: of
            counts far from where they belong, and with weights. Infinite otherwise.
        """
        bounded = self.by_default and (self.weighted or self.parameters.loss_function == "poisson")
        return MOST_DEVIATIONS * self.scale.deviation if bounded else math.inf

    def _decay(self, epoch: int) -> float:
        """Return the rates of an epoch in those of the first one."""
        decay = self.parameters.learning_rate_decay
        if decay is None:
            decay = DEFAULT_DECAY if self.by_default else 1.0
        return decay ** (epoch - 1)

    def _write_regularization(self, noise: float, bias_rate: float) -> None:
        """Put into the records what every row is regularized by, unless it is there already."""
        if noise != self.written_noise:
            self.written_noise, self.greatest = noise, []
            with np.errstate(over="ignore"):  # reported as divergence
                for name, record, shrink, most in zip(
                    SIDES, self.records, self.shrink, self.most_shrink, strict=True
                ):
                    share = noise if self._by_default(name) else 1.0
                    np.multiply(shrink, share, out=record[:, SHRINK], casting="same_kind")
                    self.greatest.append(float(record.dtype.type(most * share)))
        # The damping of biases is large where nothing is to be said of them, and a strength that is
        # given may be: a step takes them to zero at most, not beyond.
        limit = 1 / bias_rate if self.by_default and bias_rate > 0 else math.inf
        limit = min(limit, self.most_bias_shrink)
        if limit != self.written_limit:
            self.written_limit = limit
            with np.errstate(over="ignore"):
                for record, shrink in zip(self.records, self.bias_shrink, strict=True):
                    np.minimum(shrink, limit, out=record[:, BIAS_SHRINK], casting="same_kind")

    def _given(self, side: str | None) -> float:
        """Return β of the users, items or biases, as the parameters have it."""
        parameters = self.parameters
        own = None if side is None else getattr(parameters, f"{side}_regularization")
        if own is not None:
            return float(own)
        common = parameters.regularization
        return RULE_REGULARIZATION if common is None else common

    def _bias_rate(self, epoch: int) -> float:
        given = self.parameters.bias_learning_rate
        if not self.parameters.biases:
            return 0.0
        if given is not None:
            first = 2 * given
        elif self.by_default:
            first = DEFAULT_BIAS_RATE / self.scale.curvature
        else:
            first = 2 * self.learning_rate
        return first * self._decay(epoch)

    def _by_default(self, side: str) -> bool:
        """Tell whether the regularization of a side is chosen by the ratings."""
        parameters = self.parameters
        own = getattr(parameters, f"{side}_regularization")
        return self.by_default and parameters.regularization is None and own is None

    def _shrink(self, side: int, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._by_default(SIDES[side]):
            strength = (DEFAULT_USER_SHRINK, DEFAULT_ITEM_SHRINK)[side] * self.scale.shrink
            return strength / counts ** (USER_POWER, ITEM_POWER)[side]
        return self._scaled(SIDES[side], counts)

    def _bias_shrink(self, side: int, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.biases is not None and self._by_default("bias"):
            damping = (self.biases.user_damping, self.biases.item_damping)[side]
            return damping * self.scale.curvature / counts
        return self._scaled("bias", counts)

    def _scaled(self, name: str, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return l of every row by the strength that is given."""
        return self._given(name) / 2 / counts ** POWERS[self.parameters.regularization_scaling]
