"""Where training starts: random factors, or the caller's.

The numbers are drawn in float64 and rounded to the wanted dtype, so that float32 and float64 models
of one seed start at the same place.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cmf._checks import CheckedRatings, check_factors, check_row_counts
from cmf._parameters import Parameters
from cmf._rows import copy_rows, zero_rows
from cmf._state import Factors
from cmf._typing import FloatArray

__all__ = ["initialize"]

# Rows are drawn in blocks of about this many numbers: a float64 copy of all factors is not needed.
BLOCK_SIZE = 2**16


def initialize(
    ratings: CheckedRatings,
    parameters: Parameters,
    generator: np.random.Generator,
    *,
    user_factors: ArrayLike | None = None,
    item_factors: ArrayLike | None = None,
) -> Factors:
    """Return the factors and biases from which training on `ratings` starts.

    Parameters
    ----------
    ratings : CheckedRatings
        Their shape, their mean, and which rows and columns hold ratings.
    parameters : Parameters
        ``init`` is ``"normal"``: N(0, init_scale²); ``"scaled"``: N(0, init_scale² / n_factors),
        so that the spread of the first predictions does not depend on the number of factors; or
        ``"uniform"``: U[0, init_scale).
    generator : numpy.random.Generator
        Users are drawn first, then items, row by row.
    user_factors, item_factors : array-like, optional
        Starts to copy instead of drawing. A side that is not given is drawn.

    Returns
    -------
    Factors
        Biases are zero and the global mean is that of the ratings, or 0 without biases. Rows of
        drawn factors whose user or item has no rating are zero, so that their predictions fall
        back to the mean and the known biases instead of to noise.
    """
    n_users, n_items = ratings.shape
    dtype = np.dtype(parameters.dtype)
    P, Q = _allocate(ratings.shape, parameters.n_factors, dtype)
    rated_users = np.diff(ratings.indptr) > 0
    rated_items = np.zeros(n_items, dtype=bool)
    rated_items[ratings.indices] = True
    _draw(P, rated_users, parameters, generator)
    _draw(Q, rated_items, parameters, generator)
    if user_factors is not None or item_factors is not None:
        P, Q = (
            copy_rows(array)
            for array in check_factors(
                P if user_factors is None else user_factors,
                Q if item_factors is None else item_factors,
                n_factors=parameters.n_factors,
                dtype=dtype,
            )
        )
        check_row_counts(P, Q, ratings.shape)
    with np.errstate(over="ignore"):  # an infinite mean is reported as divergence
        mean = float(ratings.values.mean(dtype=np.float64)) if parameters.biases else 0.0
    return Factors(
        P,
        Q,
        np.zeros(n_users, dtype=dtype),
        np.zeros(n_items, dtype=dtype),
        mean,
        parameters.biases,
    )


def _allocate(
    shape: tuple[int, int], n_factors: int, dtype: np.dtype[Any]
) -> tuple[FloatArray, FloatArray]:
    """Return zeros for factors, or say how large they would be."""
    try:
        P, Q = (zero_rows(n_rows, n_factors, dtype) for n_rows in shape)
    except (MemoryError, ValueError) as error:
        gigabytes = sum(shape) * n_factors * dtype.itemsize / 1e9
        raise MemoryError(
            f"ratings of shape {shape} with n_factors={n_factors} want {gigabytes:.3g} GB of "
            "factors, which cannot be had. Rows and columns must be numbered without gaps: ids "
            "of a database are no row numbers"
        ) from error
    return P, Q


def _draw(
    factors: FloatArray,
    rated: NDArray[np.bool_],
    parameters: Parameters,
    generator: np.random.Generator,
) -> None:
    """Fill factors with random numbers, and with zeros where nothing is rated."""
    n_factors = parameters.n_factors
    rows_at_once = max(1, BLOCK_SIZE // n_factors)
    for start in range(0, rated.shape[0], rows_at_once):
        block = factors[start : start + rows_at_once]
        if parameters.init == "uniform":
            drawn = generator.random(block.shape)
        else:
            drawn = generator.standard_normal(block.shape)
        scale = parameters.init_scale
        if parameters.init == "scaled":
            scale /= math.sqrt(n_factors)
        with np.errstate(over="ignore"):  # and so is an infinite start
            block[...] = drawn * scale
        block[~rated[start : start + rows_at_once]] = 0
