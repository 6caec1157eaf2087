"""What the five losses have in common outside the kernel: names, ranges, starts, means and sums.

A model computes x = μ + b_u + c_i + p_u·q_i. What x stands for depends on the loss: for squared,
absolute and Huber it is the rating itself; for logistic the log-odds of a rating of 1; for Poisson
the logarithm of the mean count. The formulas of losses and slopes are in _kernels/general.pyx.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmf._checks import CheckedRatings
from cmf._kernels.general import sum_losses
from cmf._kernels.predict import predict_pairs
from cmf._parameters import LOSSES
from cmf._pieces import run_pieces
from cmf._state import Factors
from cmf._typing import FloatArray
from cmf.config import simd_level

__all__ = [
    "LOSSES",
    "check_rating_range",
    "each_loss",
    "exact_sum",
    "has_link",
    "link",
    "linked_errors",
    "loss_number",
    "start_value",
]

# As in general.h: above this, a Poisson loss goes on with the slope that it has here.
LARGEST_LOG_MEAN = 40.0

RATINGS_PER_TASK = 2**16


def loss_number(loss: str) -> int:
    """Return the number by which the kernel knows a loss.

    Parameters
    ----------
    loss : str
        One of `LOSSES`.

    Returns
    -------
    int
        From 0 to 4.
    """
    return LOSSES.index(loss)


def check_rating_range(ratings: CheckedRatings, loss: str, name: str = "ratings") -> None:
    """Refuse ratings that a loss has no meaning for.

    Logistic loss takes 0, 1 and probabilities between them, Poisson loss counts and other numbers
    that are not negative; the others take any number.

    Parameters
    ----------
    ratings : CheckedRatings
        Finite ratings.
    loss : str
        One of `LOSSES`.
    name : str
        The argument's name in messages.

    Raises
    ------
    ValueError
        If a rating is out of range, naming the first one.
    """
    if not has_link(loss) or ratings.nnz == 0:
        return
    highest = 1.0 if loss == "logistic" else math.inf
    if ratings.values.min() >= 0 and ratings.values.max() <= highest:
        return
    position = int(np.argmax((ratings.values < 0) | (ratings.values > highest)))
    user = int(np.searchsorted(ratings.indptr, position, side="right")) - 1
    wanted = "ratings from 0 to 1 are" if loss == "logistic" else "ratings of at least 0 are"
    raise ValueError(
        f"{name}[{user}, {ratings.indices[position]}] is {ratings.values[position]}: with "
        f"loss_function={loss!r} {wanted} wanted"
    )


def has_link(loss: str) -> bool:
    """Tell whether what a model computes is something else than the predicted rating.

    Parameters
    ----------
    loss : str
        One of `LOSSES`.

    Returns
    -------
    bool
        True for logistic and Poisson loss.
    """
    return loss in ("logistic", "poisson")


def link(loss: str, x: FloatArray) -> FloatArray:
    """Turn what a model computes into predicted ratings.

    Parameters
    ----------
    loss : str
        One of `LOSSES`.
    x : ndarray of float32 or float64
        μ + b_u + c_i + p_u·q_i, of any shape.

    Returns
    -------
    ndarray
        Of the same dtype and shape. Squared, absolute and Huber: `x` itself, not copied. Logistic:
        1 / (1 + exp(−x)), the probability of a 1. Poisson: exp(x), the mean count, at most exp(40).
        All are increasing in x, so that rankings need no link. NaN stays NaN.
    """
    means: Any = x
    if loss == "logistic":
        small = np.exp(-np.abs(x))
        means = np.where(x < 0, small, 1) / (1 + small)
    elif loss == "poisson":
        means = np.exp(np.minimum(x, LARGEST_LOG_MEAN))
    return means  # type: ignore[no-any-return]


def each_loss(
    loss: str, values: FloatArray, x: FloatArray, huber_threshold: float
) -> NDArray[np.float64]:
    """Return the loss of every rating, without weights.

    Parameters
    ----------
    loss : str
        One of `LOSSES`.
    values : ndarray of shape (n,)
        Ratings.
    x : ndarray of shape (n,)
        What a model computes for them.
    huber_threshold : float
        Read by Huber loss alone.

    Returns
    -------
    ndarray of shape (n,), float64
        As `exact_sum` adds them up.
    """
    r, at = values.astype(np.float64), x.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # reported as divergence
        if loss == "logistic":
            return np.logaddexp(0, at) - r * at
        if loss == "poisson":
            limited = np.minimum(at, LARGEST_LOG_MEAN)
            return np.exp(limited) * (1 + at - limited) - r * at
        distances: NDArray[np.float64] = np.abs(r - at)
        if loss == "absolute":
            return distances
        if loss == "squared":
            return np.square(distances)
        limits = np.minimum(distances, huber_threshold)
        return limits * (2 * distances - limits)


def start_value(
    loss: str,
    values: FloatArray,
    weights: FloatArray | None = None,
    *,
    huber_threshold: float = 1.0,
) -> float:
    """Return the number μ that alone, without biases and factors, has the least loss.

    It is what the biases and factors of training start around, and what is predicted of unknown
    users and items: with squared loss the mean, with absolute loss the median, with Huber loss a
    number between them, with logistic loss the log-odds of the mean, with Poisson loss its
    logarithm. Where the last two would be infinite, all ratings being 0 (or 1), they are taken as
    if half of one more rating were different.

    Parameters
    ----------
    loss : str
        One of `LOSSES`.
    values : ndarray of shape (nnz,), float32 or float64
        At least one rating, in the range of the loss.
    weights : ndarray of shape (nnz,), optional
        Weights of the ratings, at least 0 and not all 0. None: all 1.
    huber_threshold : float, default 1.0
        Read by Huber loss alone.

    Returns
    -------
    float
        On the scale of x, not of the link.

    Notes
    -----
    Absolute and Huber loss copy the ratings as float64.
    """
    if loss == "absolute":
        return _median(values.astype(np.float64), weights)
    if loss == "huber":
        return _huber_location(values.astype(np.float64), weights, huber_threshold)
    mean = _mean(values, weights)
    if loss == "squared":
        return mean
    total = values.shape[0] if weights is None else float(weights.sum(dtype=np.float64))
    least = 0.5 / (total + 1)
    if loss == "poisson":
        return math.log(max(mean, least))
    probability = min(max(mean, least), 1 - least)
    return math.log(probability / (1 - probability))


def _mean(values: NDArray[Any], weights: FloatArray | None) -> float:
    """Return the mean, weighted if there are weights, from sums in float64."""
    if weights is None:
        return float(values.mean(dtype=np.float64))
    weighted = np.multiply(values, weights, dtype=np.float64)
    return float(weighted.sum() / weights.sum(dtype=np.float64))


def _median(values: NDArray[np.float64], weights: FloatArray | None) -> float:
    """Return a number with at most half of the weight on either side; of several, the middle."""
    if weights is None:
        return float(np.median(values))
    order = np.argsort(values)
    below = np.cumsum(weights[order], dtype=np.float64)
    half = below[-1] / 2
    ends = (np.searchsorted(below, half, side=side) for side in ("left", "right"))
    first, last = (float(values[order[end]]) for end in ends)
    return (first + last) / 2


def _huber_location(
    values: NDArray[np.float64], weights: FloatArray | None, threshold: float
) -> float:
    """Find where the errors, each at most the threshold, have a mean of 0: Newton's method."""
    low, high = float(values.min()), float(values.max())
    location = _median(values, weights)
    for _ in range(100):
        errors = values - location
        slope = _mean(np.clip(errors, -threshold, threshold), weights)
        if slope > 0:
            low = location
        else:
            high = location
        inside = _mean(np.abs(errors) <= threshold, weights)
        if slope == 0:
            break
        found = location + slope / inside if inside else math.inf
        if not low <= found <= high:  # few ratings are near: halve what is left
            found = (low + high) / 2
        if abs(found - location) <= 1e-9 * threshold:
            break
        location = found
    return location


def exact_sum(
    ratings: CheckedRatings,
    factors: Factors,
    loss: str,
    *,
    huber_threshold: float = 1.0,
    n_threads: int | None = 1,
) -> float:
    """Sum the losses of ratings under finished factors.

    Parameters
    ----------
    ratings : CheckedRatings
        In the dtype and shape of the factors, and in the range of the loss. Their weights count.
    factors : Factors
        The model.
    loss : str
        One of `LOSSES`. With e = abs(r − x): squared e²; absolute e; Huber e², from the threshold
        t on t (2 e − t); logistic log(1 + exp(x)) − r x; Poisson exp(x) − r x, perhaps negative.
    huber_threshold : float, default 1.0
        Read by Huber loss alone.
    n_threads : int or None, default 1
        Most threads to use, as in `cmf.loss`. Never changes a bit of the result.

    Returns
    -------
    float
        The sum of weight times loss. Each x is that of `predict_pairs`, rounded to the dtype of the
        factors; all that follows is in float64.
    """
    number, level, weights = loss_number(loss), simd_level(), ratings.weights

    def _measure(chosen: slice) -> tuple[float, ...]:
        of_chosen = None if weights is None else weights[chosen]
        x = _predictions(ratings, factors, chosen, level)
        return (sum_losses(ratings.values[chosen], of_chosen, x, number, huber_threshold),)

    return _sum_over_pieces(ratings, _measure, n_threads)[0]


def linked_errors(
    ratings: CheckedRatings, factors: Factors, loss: str, n_threads: int | None = 1
) -> tuple[float, float]:
    """Sum the squared and the absolute errors of predicted ratings, without weights.

    Parameters
    ----------
    ratings : CheckedRatings
        At least one, in the dtype and shape of the factors.
    factors : Factors
        The model.
    loss : str
        Whose link turns x into a rating.
    n_threads : int or None, default 1
        Most threads to use, as in `cmf.loss`. Never changes a bit of the result.

    Returns
    -------
    squared, absolute : float
        In float64.
    """
    level = simd_level()

    def _measure(chosen: slice) -> tuple[float, ...]:
        predicted = link(loss, _predictions(ratings, factors, chosen, level))
        errors = ratings.values[chosen].astype(np.float64) - predicted
        with np.errstate(over="ignore"):  # reported as divergence
            return float(np.square(errors).sum()), float(np.abs(errors).sum())

    squared, absolute = _sum_over_pieces(ratings, _measure, n_threads)
    return squared, absolute


def _sum_over_pieces(
    ratings: CheckedRatings,
    measure: Callable[[slice], tuple[float, ...]],
    n_threads: int | None,
) -> list[float]:
    """Add up what is measured of pieces of the ratings, in their order."""
    starts = range(0, ratings.nnz, RATINGS_PER_TASK)
    found: list[tuple[float, ...]] = [()] * len(starts)

    def measure_piece(piece: int) -> None:
        start = starts[piece]
        found[piece] = measure(slice(start, min(start + RATINGS_PER_TASK, ratings.nnz)))

    run_pieces([partial(measure_piece, piece) for piece in range(len(starts))], n_threads)
    # One after the other: Python's own sum compensates for rounding in some versions only.
    return [functools.reduce(operator.add, column, 0.0) for column in zip(*found, strict=True)]


def _predictions(
    ratings: CheckedRatings, factors: Factors, chosen: slice, level: int
) -> FloatArray:
    """Return x of the ratings at some positions."""
    first = int(np.searchsorted(ratings.indptr, chosen.start, side="right")) - 1
    last = int(np.searchsorted(ratings.indptr, chosen.stop, side="left"))
    within = np.clip(ratings.indptr[first : last + 1], chosen.start, chosen.stop)
    users = np.repeat(np.arange(first, last, dtype=np.int64), np.diff(within))
    x: FloatArray = np.empty(users.shape[0], dtype=factors.dtype)
    predict_pairs(
        users,
        ratings.indices[chosen].astype(np.int64, copy=False),
        factors.user_factors,
        factors.item_factors,
        factors.user_biases,
        factors.item_biases,
        x,
        factors.global_mean,
        level,
    )
    return x
