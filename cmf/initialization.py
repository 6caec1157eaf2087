"""Where training starts: random factors, or the caller's.

The numbers are drawn in float64 and rounded to the wanted dtype, so that float32 and float64 models
of one seed start at the same place.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cmf._checks import CheckedRatings, check_factors
from cmf._parameters import Parameters
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
    rated_users = np.diff(ratings.indptr) > 0
    rated_items = np.zeros(n_items, dtype=bool)
    rated_items[ratings.indices] = True
    P = _draw(rated_users, parameters, generator)
    Q = _draw(rated_items, parameters, generator)
    if user_factors is not None or item_factors is not None:
        P, Q = (
            array.copy()
            for array in check_factors(
                P if user_factors is None else user_factors,
                Q if item_factors is None else item_factors,
                shape=ratings.shape,
                n_factors=parameters.n_factors,
                dtype=dtype,
            )
        )
    return Factors(
        P,
        Q,
        np.zeros(n_users, dtype=dtype),
        np.zeros(n_items, dtype=dtype),
        float(ratings.values.mean(dtype=np.float64)) if parameters.biases else 0.0,
        parameters.biases,
    )


def _draw(
    rated: NDArray[np.bool_], parameters: Parameters, generator: np.random.Generator
) -> FloatArray:
    n_factors = parameters.n_factors
    factors = np.empty((rated.shape[0], n_factors), dtype=parameters.dtype)
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
        block[...] = drawn * scale
        block[~rated[start : start + rows_at_once]] = 0
    return factors
