"""In what units ratings come: what the defaults measure all rates and penalties in.

With x = μ + b_u + c_i + p_u·q_i, a loss has a curvature h (its second derivative by x, or of half
of it where the loss is a square), and its slope deviates from 0 by d where x is right. A step of
rate ρ/(h s), with s the spread of x, then goes about the share ρ of the way to where a rating wants
x to be, and d²/h is the noise of a rating: the variance for squares, 1 for likelihoods.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cmf._checks import CheckedRatings
from cmf._typing import FloatArray
from cmf.objectives import has_link, link

__all__ = ["Scale", "scale_of"]

# Mean absolute deviation times this is the standard deviation of normal numbers.
LINKED_SPREAD = 1 / 0.6
NORMAL = math.sqrt(math.pi / 2)
AT_ONCE = 2**16
# A spread below this part of μ is the rounding of μ: the ratings are equal.
ROUNDING = 1e-14


@dataclass(frozen=True, slots=True)
class Scale:
    """Units of a loss on some ratings.

    Attributes
    ----------
    spread : float
        s, of x.
    curvature : float
        h, of the loss by x.
    deviation : float
        d, of the slope of the loss.
    root_loss : float
        Root of the mean loss that there is without a model.
    """

    spread: float = 1.0
    curvature: float = 1.0
    deviation: float = 1.0
    root_loss: float = 1.0

    @property
    def shrink(self) -> float:
        """Noise over signal: what a row of length √s is to be regularized by.

        Returns
        -------
        float
            The ratio d² / (h s).
        """
        return self.deviation / self.curvature * (self.deviation / self.spread)

    def share_of_noise(self, mean_loss: float) -> float:
        """Compare a mean loss with what it is without a model.

        Parameters
        ----------
        mean_loss : float
            Of ratings that have not been trained on.

        Returns
        -------
        float
            1 for a model that is no better than its mean.
        """
        return mean_loss / self.root_loss / self.root_loss


def scale_of(
    ratings: CheckedRatings, loss: str, start: float, *, spread: float | None = None
) -> Scale:
    """Measure in what units ratings come.

    Parameters
    ----------
    ratings : CheckedRatings
        At least one.
    loss : str
        That is trained on.
    start : float
        μ, as `cmf.objectives.start_value` gives it.
    spread : float, optional
        s where it is known already.

    Returns
    -------
    Scale
        Squared loss: s is the root of the mean squared deviation from μ. Absolute and Huber loss:
        1.25 times the mean absolute deviation, which is the same of normal ratings and less moved
        by outliers. Of equal ratings either is their size, or 1 of zeros. Logistic and Poisson: a
        constant, since x is a logarithm.
    """
    if has_link(loss):
        mean = float(link(loss, np.array(start)))
        curvature = mean * (1 - mean) if loss == "logistic" else mean
        curvature = max(curvature, 1e-3)
        entropy = (
            -mean * math.log(mean) - (1 - mean) * math.log1p(-mean) if loss == "logistic" else 1
        )
        return Scale(LINKED_SPREAD, curvature, math.sqrt(curvature), math.sqrt(entropy))
    if spread is None:
        spread = _spread(ratings.values, start, absolute=loss != "squared")
    if loss == "absolute":
        return Scale(spread, 1 / spread, 1.0, math.sqrt(spread))
    return Scale(spread, 1.0, spread, spread)


def _spread(values: FloatArray, start: float, *, absolute: bool) -> float:
    """Return how far ratings are from a number; where they are not, its size, or 1."""
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # reported as divergence
        for first in range(0, values.shape[0], AT_ONCE):
            part: NDArray[np.float64] = values[first : first + AT_ONCE].astype(np.float64) - start
            # Not by BLAS, whose threads would keep a processor busy for a tenth of a second more.
            total += float((np.abs(part) if absolute else np.square(part)).sum())
    mean = total / values.shape[0]
    if not math.isfinite(mean):
        return 1.0
    spread = NORMAL * mean if absolute else math.sqrt(mean)
    return spread if spread > ROUNDING * abs(start) else abs(start) or 1.0
