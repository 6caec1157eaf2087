"""The exact loss of finished factors: mean squared error plus regularization.

The *running* loss that training reports takes each error just before its own step; it is free and
describes the factors during an epoch. The loss here is one more pass over finished factors.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cmf._checks import CheckedRatings, check_bias, check_factors, check_ratings, check_row_counts
from cmf._kernels.loss import sum_errors, sum_squares
from cmf._parameters import check_float, check_threads
from cmf._pieces import run_pieces
from cmf._ranges import row_ranges
from cmf._state import Factors
from cmf._typing import RatingsLike
from cmf.config import simd_level
from cmf.objectives import has_link, linked_errors

__all__ = ["Loss", "loss"]

# Factors that one task of a loss visits: about a millisecond.
FACTORS_PER_TASK = 2**22


class Loss(NamedTuple):
    """Exact loss of a model on a set of ratings, all in float64.

    Attributes
    ----------
    sse : float
        Sum of squared errors over the stored ratings, in squared rating units.
    mse : float
        ``sse / n_ratings``.
    rmse : float
        Square root of `mse`, in rating units.
    regularization : float
        β (‖P‖² + ‖Q‖² + ‖b‖² + ‖c‖²): squared norms of all factors and biases, not divided by the
        number of ratings.
    total : float
        ``mse + regularization``.
    n_ratings : int
        Number of stored ratings, explicit zeros included.
    """

    sse: float
    mse: float
    rmse: float
    regularization: float
    total: float
    n_ratings: int


def loss(
    ratings: RatingsLike,
    user_factors: ArrayLike,
    item_factors: ArrayLike,
    regularization: float,
    *,
    user_biases: ArrayLike | None = None,
    item_biases: ArrayLike | None = None,
    global_mean: float = 0.0,
    n_threads: int | None = 1,
) -> Loss:
    r"""Exact loss of given factors on given ratings.

    .. math:: \frac{1}{n} \sum_{(u, i)} (r_{ui} - \hat r_{ui})^2
              + \beta (\|P\|^2 + \|Q\|^2 + \|b\|^2 + \|c\|^2),
              \quad \hat r_{ui} = \mu + b_u + c_i + p_u \cdot q_i

    Every stored entry counts, an explicit zero included; in dense input 0 and NaN do not.

    Parameters
    ----------
    ratings : sparse array or matrix, 2-D array-like or wide data frame, (n_users, n_items)
        Observed ratings. CSR is used as it is, anything else is converted, which copies.
    user_factors : array-like of shape (n_users, n_factors), float32 or float64
        One row per user.
    item_factors : array-like of shape (n_items, n_factors), same dtype as `user_factors`
        One row per item.
    regularization : float
        β, at least 0.
    user_biases, item_biases : array-like of shape (n_users,) and (n_items,), optional
        Zero if not given.
    global_mean : float, default 0.0
        μ.
    n_threads : int or None, default 1
        Most threads to use. None: what the environment variable ``CMF_NUM_THREADS`` says, else the
        CPUs that this process may use. Never changes a bit of the result.

    Returns
    -------
    Loss
        Named tuple of float64 numbers: sse, mse, rmse, regularization, total, n_ratings.

    Raises
    ------
    TypeError, ValueError
        If ratings or factors break a rule of the gate: shapes or dtypes that disagree, indices out
        of range, pairs rated twice, NaN or infinity, no rating at all.

    See Also
    --------
    cmf.sgd_epoch : Returns the running sum of squared errors of its pass.
    cmf.MatrixFactorization.loss : The same for a fitted model.

    Notes
    -----
    All products and sums are taken in float64 whatever the dtype of the factors, in an order that
    is the same for every number of threads and every instruction-set level. Time is proportional
    to ``n_ratings * n_factors``. Inputs are only read, the GIL is released: safe to call from
    several threads at once.

    References
    ----------
    .. [1] Y. Koren, R. Bell, C. Volinsky, "Matrix factorization techniques for recommender
       systems", Computer 42(8), 2009.

    Examples
    --------
    >>> import numpy as np
    >>> import cmf
    >>> P = np.array([[1.0, 2.0]])
    >>> Q = np.array([[1.0, 2.0], [0.0, 0.0], [0.0, 1.0]])
    >>> found = cmf.loss([[5, 0, 1]], P, Q, regularization=0.1)
    >>> found.sse, found.mse, round(found.total, 6)
    (1.0, 0.5, 1.6)
    """
    P, Q = check_factors(user_factors, item_factors)
    checked = check_ratings(ratings, dtype=P.dtype)
    check_row_counts(P, Q, checked.shape)
    factors = Factors(
        P,
        Q,
        check_bias(user_biases, "user_biases", P.shape[0], P.dtype),
        check_bias(item_biases, "item_biases", Q.shape[0], P.dtype),
        check_float(global_mean, "global_mean", minimum=-math.inf),
        biased=True,
    )
    return exact_loss(
        checked,
        factors,
        check_float(regularization, "regularization"),
        check_threads(n_threads),
    )


def exact_loss(
    ratings: CheckedRatings,
    factors: Factors,
    regularization: float,
    n_threads: int | None = 1,
    *,
    loss: str = "squared",
    l1: float = 0.0,
) -> Loss:
    """Measure checked factors on checked ratings.

    Parameters
    ----------
    ratings : CheckedRatings
        At least one, in the dtype and shape of the factors.
    factors : Factors
        The model.
    regularization : float
        β.
    n_threads : int or None, default 1
        Most threads to use, as in `cmf.loss`. Never changes a bit of the result.
    loss : str, default "squared"
        Whose link turns x into the predicted rating.
    l1 : float, default 0.0
        γ, as in `regularization_term`.

    Returns
    -------
    Loss
        Of the predicted ratings, in float64.
    """
    squared, _ = _sums(ratings, factors, n_threads, loss)
    mse = squared / ratings.nnz
    penalty = regularization_term(factors, regularization, l1)
    return Loss(squared, mse, math.sqrt(mse), penalty, mse + penalty, ratings.nnz)


def validation_errors(
    ratings: CheckedRatings,
    factors: Factors,
    n_threads: int | None = 1,
    *,
    loss: str = "squared",
) -> tuple[float, float]:
    """Measure checked factors on checked ratings that were not trained on.

    Parameters
    ----------
    ratings : CheckedRatings
        At least one, in the dtype and shape of the factors.
    factors : Factors
        The model.
    n_threads : int or None, default 1
        Most threads to use, as in `cmf.loss`. Never changes a bit of the result.
    loss : str, default "squared"
        Whose link turns x into the predicted rating.

    Returns
    -------
    rmse, mae : float
        In rating units.
    """
    squared, absolute = _sums(ratings, factors, n_threads, loss)
    return math.sqrt(squared / ratings.nnz), absolute / ratings.nnz


def regularization_term(
    factors: Factors, regularization: float, l1: float = 0.0, *, squares: float | None = None
) -> float:
    """Sum the penalty of all factors and biases.

    Parameters
    ----------
    factors : Factors
        The model.
    regularization : float
        β.
    l1 : float, default 0.0
        γ.
    squares : float, optional
        ‖P‖² + ‖Q‖² + ‖b‖² + ‖c‖², where that is known; without implicit features.

    Returns
    -------
    float
        The penalty β (‖P‖² + ‖Q‖² + ‖b‖² + ‖c‖²) + γ (‖P‖₁ + ‖Q‖₁), in float64. With implicit
        features P are the users' own factors, and Y counts, too.
    """
    own, implicit = factors.own_user_factors, factors.implicit_factors
    rows = [factors.user_factors if own is None else own, factors.item_factors]
    if squares is None:
        arrays = [*rows, factors.user_biases[None, :], factors.item_biases[None, :]]
        if implicit is not None:
            arrays.append(implicit)
        squares = sum_squares(arrays[0], simd_level(), tuple(arrays[1:]))
    penalty = regularization * squares
    if l1 > 0:
        penalty += l1 * float(sum(np.abs(array).sum(dtype=np.float64) for array in rows))
    return penalty


def _sums(
    ratings: CheckedRatings, factors: Factors, n_threads: int | None, loss: str
) -> tuple[float, float]:
    """Sum squared and absolute errors over pieces that depend on the data alone."""
    if has_link(loss):
        return linked_errors(ratings, factors, loss, n_threads)
    ranges = list(row_ranges(ratings.indptr, factors.n_factors, factors_per_call=FACTORS_PER_TASK))
    sums = [(0.0, 0.0)] * len(ranges)
    level = simd_level()

    def measure(number: int) -> None:
        sums[number] = sum_errors(
            ratings.indptr,
            ratings.indices,
            ratings.values,
            factors.user_factors,
            factors.item_factors,
            factors.user_biases,
            factors.item_biases,
            *ranges[number],
            factors.global_mean,
            level,
        )

    tasks = [partial(measure, number) for number in range(len(ranges))]
    run_pieces(tasks, n_threads)
    squared = absolute = 0.0
    for of_squared, of_absolute in sums:
        squared += of_squared
        absolute += of_absolute
    return squared, absolute
