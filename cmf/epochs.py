"""Passes over the ratings: in which order, with which kernel, at which rates."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cmf._checks import CheckedRatings
from cmf._kernels.interleaved import interleaved_epoch, settle_rows
from cmf._kernels.sgd import sgd_epoch
from cmf._parameters import Parameters
from cmf._ranges import fits_one_call, row_ranges
from cmf._state import Factors
from cmf._threads import Team
from cmf._typing import FloatArray
from cmf.config import simd_level
from cmf.grid import make_grid
from cmf.schedule import Schedule, Steps

__all__ = ["Epochs", "make_epochs"]


class Epochs(Protocol):
    """A way to visit all ratings once."""

    def run(self, factors: Factors, schedule: Schedule, epoch: int) -> float:
        """Visit every rating once.

        Parameters
        ----------
        factors : Factors
            Changed in place.
        schedule : Schedule
            Whose steps to take.
        epoch : int
            Counted from 1.

        Returns
        -------
        float
            Running sum of squared errors.
        """
        ...


def make_epochs(ratings: CheckedRatings, parameters: Parameters, seed: int, team: Team) -> Epochs:
    """Choose how to visit ratings.

    Parameters
    ----------
    ratings : CheckedRatings
        Of the factors' dtype and shape.
    parameters : Parameters
        Whether to shuffle, and the number of factors.
    seed : int
        Root of the orders of all epochs.
    team : Team
        Who trains on blocks of ratings.

    Returns
    -------
    Epochs
        Shuffled over a grid of blocks, or row after row.
    """
    if not parameters.shuffle:
        return _InRows(ratings, None)
    if ratings.indices.dtype != np.int32:  # more items than an int32 can number
        return _InRows(ratings, seed)
    return _Shuffled(ratings, parameters, seed, team)


class _Shuffled:
    """Epochs over users in random order, several of them in turns, block by block of a grid."""

    def __init__(
        self, ratings: CheckedRatings, parameters: Parameters, seed: int, team: Team
    ) -> None:
        self.seed = seed
        self.team = team
        self.level = simd_level()
        self.grid = make_grid(ratings, parameters.n_factors)

    def run(self, factors: Factors, schedule: Schedule, epoch: int) -> float:
        """Visit every rating once and return the running sum of squared errors."""
        grid, n = self.grid, self.grid.n_strips
        row_order = _row_order(self.seed, epoch, grid.ratings.shape[0])
        groups = grid.groups(row_order)
        item_scales = np.ones_like(factors.item_biases)
        steps = schedule.steps(epoch)
        records = steps.item_records
        # Norms are kept by recurrence within an epoch, from what they are now.
        settle_rows(factors.item_factors, item_scales, records, 0, item_scales.shape[0])
        squared_errors = np.zeros((n, n))

        def train_block(group: int, strip: int) -> None:
            rows = row_order[groups[group] : groups[group + 1]]
            squared_errors[group, strip] = self._run_block(factors, item_scales, steps, rows, strip)
            if (strip - group) % n == n - 1:  # the last group to visit this strip
                first, last = grid.bounds[strip : strip + 2]
                settle_rows(factors.item_factors, item_scales, records, first, last)

        try:
            self.team.run_grid(train_block, n)
        finally:  # whatever ended it, the factors are of use
            settle_rows(factors.item_factors, item_scales, records, 0, item_scales.shape[0])
        return math.fsum(squared_errors.flat)

    def _run_block(
        self,
        factors: Factors,
        item_scales: FloatArray,
        steps: Steps,
        rows: NDArray[np.int64],
        strip: int,
    ) -> float:
        """Train on one strip of some rows."""
        grid, ratings = self.grid, self.grid.ratings
        indices: Any = ratings.indices
        scalars = steps.scalars()
        total = 0.0
        if rows.shape[0] == 0:
            return total
        ranges: Iterable[tuple[int, int]] = [(0, rows.shape[0])]
        if not fits_one_call(ratings.nnz // grid.n_strips, factors.n_factors):
            ranges = row_ranges(ratings.indptr, factors.n_factors, rows)
        for first, last in ranges:
            total += interleaved_epoch(
                grid.cuts,
                indices,
                ratings.values,
                rows,
                factors.user_factors,
                factors.item_factors,
                factors.user_biases,
                factors.item_biases,
                item_scales,
                steps.user_records,
                steps.item_records,
                first,
                last,
                strip,
                grid.n_strips,
                self.level,
                factors.global_mean,
                *scalars,
            )
        return total


class _InRows:
    """Epochs over users one after the other, in stored or in random order."""

    def __init__(self, ratings: CheckedRatings, seed: int | None) -> None:
        self.ratings = ratings
        self.seed = seed

    def run(self, factors: Factors, schedule: Schedule, epoch: int) -> float:
        """Visit every rating once and return the running sum of squared errors."""
        ratings = self.ratings
        row_order = None if self.seed is None else _row_order(self.seed, epoch, ratings.shape[0])
        total = 0.0
        for first, last in row_ranges(ratings.indptr, factors.n_factors, row_order):
            total += sgd_epoch(
                ratings.indptr,
                ratings.indices,
                ratings.values,
                row_order,
                None,
                factors.user_factors,
                factors.item_factors,
                factors.user_biases if factors.biased else None,
                factors.item_biases if factors.biased else None,
                first,
                last,
                factors.global_mean,
                schedule.rule_rate_of(epoch),
                schedule.regularization,
            )
        return total


def _row_order(seed: int, epoch: int, n_rows: int) -> NDArray[np.int64]:
    """Return a permutation of the rows that depends on the seed and the epoch alone."""
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, epoch)))
    return generator.permutation(n_rows).astype(np.int64, copy=False)
