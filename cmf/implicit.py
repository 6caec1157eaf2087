"""Implicit features: which items a user has rated tells of the user, whatever the ratings are.

A user's row is p_u + n_u^(-1/2) Σ y_j over the n_u items j that the user has rated, the model of
SVD++ (Y. Koren, "Factorization meets the neighborhood", KDD 2008). Training moves p and y; the sum
of both is what everybody else reads as the user's factors.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from cmf._checks import CheckedRatings
from cmf._kernels.implicit import implicit_sums
from cmf._pieces import run_pieces
from cmf._ranges import row_ranges
from cmf._rows import copy_rows, zero_rows
from cmf._state import Factors
from cmf._typing import FloatArray
from cmf.config import simd_level

__all__ = [
    "add_implicit",
    "forget_factors",
    "implicit_part",
    "implicit_weights",
    "rebase",
    "with_implicit",
]

# Factors that one task adds up: about a millisecond.
FACTORS_PER_TASK = 2**22


def implicit_weights(ratings: CheckedRatings) -> FloatArray:
    """Return n_u^(-1/2) of every user.

    Parameters
    ----------
    ratings : CheckedRatings
        Whose pattern counts.

    Returns
    -------
    ndarray of shape (n_users,), dtype of the ratings
        1 for users without ratings.
    """
    counts = np.maximum(np.diff(ratings.indptr), 1)
    weights: Any = 1 / np.sqrt(counts)
    return weights.astype(ratings.values.dtype)  # type: ignore[no-any-return]


def implicit_part(
    ratings: CheckedRatings, implicit_factors: FloatArray, n_threads: int | None
) -> FloatArray:
    """Return n_u^(-1/2) Σ y_j of every user.

    Parameters
    ----------
    ratings : CheckedRatings
        Whose pattern counts, with int32 indices.
    implicit_factors : ndarray of shape (n_items, n_factors)
        y, in rows as `cmf._rows` makes them.
    n_threads : int or None
        Most threads to use. Never changes a bit of the result.

    Returns
    -------
    ndarray of shape (n_users, n_factors)
        In such rows, too; zeros for users without ratings.
    """
    n_factors = implicit_factors.shape[1]
    out = zero_rows(ratings.shape[0], n_factors, implicit_factors.dtype)
    if ratings.nnz == 0:
        return out
    weights, level, indices = implicit_weights(ratings), simd_level(), _narrow(ratings)
    ranges = row_ranges(ratings.indptr, n_factors, factors_per_call=FACTORS_PER_TASK)
    tasks = [
        partial(
            implicit_sums,
            ratings.indptr,
            indices,
            weights,
            implicit_factors,
            out,
            first,
            last,
            level,
        )
        for first, last in ranges
    ]
    run_pieces(tasks, n_threads)
    return out


def with_implicit(factors: Factors) -> Factors:
    """Give factors implicit ones of zero, to train.

    Parameters
    ----------
    factors : Factors
        A start, in rows as `cmf._rows` makes them.

    Returns
    -------
    Factors
        Whose users' own rows are those of the start.
    """
    return replace(
        factors,
        user_factors=copy_rows(factors.user_factors),
        own_user_factors=factors.user_factors,
        implicit_factors=zero_rows(factors.n_items, factors.n_factors, factors.dtype),
    )


def add_implicit(factors: Factors, ratings: CheckedRatings, n_threads: int | None) -> None:
    """Write the sum of own and implicit rows into the users' factors.

    Parameters
    ----------
    factors : Factors
        Changed in place.
    ratings : CheckedRatings
        That are trained on.
    n_threads : int or None
        Most threads to use.
    """
    assert factors.own_user_factors is not None
    assert factors.implicit_factors is not None
    part = implicit_part(ratings, factors.implicit_factors, n_threads)
    with np.errstate(over="ignore", invalid="ignore"):  # reported as divergence
        np.add(factors.own_user_factors, part, out=factors.user_factors)


def forget_factors(factors: Factors) -> None:
    """Leave nothing but biases.

    Parameters
    ----------
    factors : Factors
        Changed in place.
    """
    for array in (
        factors.user_factors,
        factors.item_factors,
        factors.own_user_factors,
        factors.implicit_factors,
    ):
        if array is not None:
            array[...] = 0


def rebase(factors: Factors, ratings: CheckedRatings, n_threads: int | None) -> None:
    """Make a trained model ready to go on with other ratings, with predictions as they are.

    Parameters
    ----------
    factors : Factors
        Whose users' own rows change in place, so that with the items of `ratings` they add up to
        the same factors. With the items of the training before nothing changes, not a bit.
    ratings : CheckedRatings
        To train on.
    n_threads : int or None
        Most threads to use.
    """
    assert factors.own_user_factors is not None
    assert factors.implicit_factors is not None
    part = implicit_part(ratings, factors.implicit_factors, n_threads)
    if not np.array_equal(factors.own_user_factors + part, factors.user_factors):
        np.subtract(factors.user_factors, part, out=factors.own_user_factors)


def _narrow(ratings: CheckedRatings) -> Any:
    return ratings.indices.astype(np.int32, copy=False)
