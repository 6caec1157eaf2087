"""What the five losses have in common outside the kernel: names, ranges, starts, means and sums.

A model computes x = μ + b_u + c_i + p_u·q_i. What x stands for depends on the loss: for squared,
absolute and Huber it is the rating itself; for logistic the log-odds of a rating of 1; for Poisson
the logarithm of the mean count. The formulas of losses and slopes are in _kernels/general.pyx.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmf._checks import CheckedRatings
from cmf._kernels.general import sum_losses
from cmf._kernels.predict import predict_pairs
from cmf._pieces import run_pieces
from cmf._state import Factors
from cmf._typing import FloatArray
from cmf.config import simd_level

__all__ = ["LOSSES", "check_rating_range", "exact_sum", "link", "loss_number", "start_value"]

# In the order of their numbers in the kernel.
LOSSES = ("squared", "absolute", "huber", "logistic", "poisson")

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
    if loss not in ("logistic", "poisson") or ratings.nnz == 0:
        return
    highest = 1.0 if loss == "logistic" else math.inf
    if ratings.values.min() >= 0 and ratings.values.max() <= highest:
        return
    position = int(np.argmax((ratings.values < 0) | (ratings.values > highest)))
    user = int(np.searchsorted(ratings.indptr, position, side="right")) - 1
    wanted = "ratings from 0 to 1 are" if loss == "logistic" else "ratings of at least 0 are"
    raise ValueError(
        f"{name}[{user}, {ratings.indices[position]}] is {ratings.values[position]}: with "
        f"loss={loss!r} {wanted} wanted"
    )


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
    weights: FloatArray | None = None,
    n_threads: int | None = 1,
) -> float:
    """Sum the losses of ratings under finished factors.

    Parameters
    ----------
    ratings : CheckedRatings
        In the dtype and shape of the factors, and in the range of the loss.
    factors : Factors
        The model.
    loss : str
        One of `LOSSES`. With e = abs(r − x): squared e²; absolute e; Huber e², from the threshold
        t on t (2 e − t); logistic log(1 + exp(x)) − r x; Poisson exp(x) − r x, perhaps negative.
    huber_threshold : float, default 1.0
        Read by Huber loss alone.
    weights : ndarray of shape (nnz,), same dtype, optional
        Weights of the ratings, in their order. None: all 1.
    n_threads : int or None, default 1
        Most threads to use, as in `cmf.loss`. Never changes a bit of the result.

    Returns
    -------
    float
        The sum of weight times loss. Each x is that of `predict_pairs`, rounded to the dtype of the
        factors; all that follows is in float64.
    """
    starts = range(0, ratings.nnz, RATINGS_PER_TASK)
    sums = [0.0] * len(starts)
    number, level = loss_number(loss), simd_level()

    def _measure(piece: int) -> None:
        chosen = slice(starts[piece], min(starts[piece] + RATINGS_PER_TASK, ratings.nnz))
        sums[piece] = sum_losses(
            ratings.values[chosen],
            None if weights is None else weights[chosen],
            _predictions(ratings, factors, chosen, level),
            number,
            huber_threshold,
        )

    run_pieces([partial(_measure, piece) for piece in range(len(starts))], n_threads)
    total = 0.0
    for of_piece in sums:
        total += of_piece
    return total


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
