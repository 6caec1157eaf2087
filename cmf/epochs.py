"""Passes over the ratings: in which order, with which kernel, at which rates."""

from __future__ import annotations

from collections import deque
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cmf._checks import CheckedRatings
from cmf._kernels.general import general_epoch
from cmf._kernels.implicit import SCRATCH_ROWS, implicit_epoch
from cmf._kernels.interleaved import interleaved_epoch, settle_rows
from cmf._kernels.sgd import sgd_epoch
from cmf._kernels.walk import Walk
from cmf._parameters import Parameters
from cmf._ranges import fits_one_call, row_ranges
from cmf._rows import zero_rows
from cmf._state import Factors
from cmf._threads import Team
from cmf.config import simd_level
from cmf.grid import Grid, make_grid
from cmf.implicit import add_implicit, implicit_weights
from cmf.objectives import loss_number
from cmf.schedule import Schedule, Steps

__all__ = ["EpochSums", "Epochs", "make_epochs"]

# More ratings than this fit no cache. Rows are then shuffled in runs: memory that is visited in
# order comes in time, which saves a tenth of an epoch.
MOST_CACHED = 2**22
ROWS_TOGETHER = 64
# An epoch leaves the caches to factors, and what comes after it runs five times as long as it would
# again. So the orders of a few epochs are drawn at once, if they are of no more rows than this.
PLANS_AT_ONCE = 8
ROWS_OF_PLANS = 2**16
# By what `numpy.random.PCG64.jumped` advances, the fraction of the golden ratio of its period.
JUMP = 0x9E3779B97F4A7C15F39CC0605CEDC835
# The calling thread lets Python look for Ctrl-C about so often, in seconds of all processors.
PATIENCE = 0.05


class EpochSums(NamedTuple):
    """What an epoch has added up, in float64.

    Attributes
    ----------
    losses : float
        Running sum of squared errors, or of the losses times their weights.
    squares : float or None
        Of all factors and biases, as the epoch has left them; None if nobody took it.
    """

    losses: float
    squares: float | None = None


class Epochs(Protocol):
    """A way to train factors on ratings, one pass after the other.

    Nothing else is to change the factors meanwhile.
    """

    def run(self, epoch: int) -> EpochSums:
        """Visit every rating once.

        Parameters
        ----------
        epoch : int
            Counted from 1.

        Returns
        -------
        EpochSums
            Of this epoch.
        """
        ...

    def settle(self) -> None:
        """Bring the factors, as `run` has left them, into the form that is read."""
        ...


def make_epochs(
    factors: Factors,
    ratings: CheckedRatings,
    parameters: Parameters,
    schedule: Schedule,
    *,
    seed: int,
    team: Team,
    last_epoch: int,
) -> Epochs:
    """Choose how to visit ratings.

    Parameters
    ----------
    factors : Factors
        What is trained, in place.
    ratings : CheckedRatings
        Of the factors' dtype and shape.
    parameters : Parameters
        Whether to shuffle, the number of factors and what they are to minimize.
    schedule : Schedule
        Whose steps to take.
    seed : int
        Root of the orders of all epochs.
    team : Team
        Who trains on blocks of ratings.
    last_epoch : int
        No later one will be asked for.

    Returns
    -------
    Epochs
        Shuffled over a grid of blocks, or row after row.

    Raises
    ------
    ValueError
        If there are too many items for implicit features.
    """
    if not parameters.shuffle:
        return _InRows(factors, ratings, schedule, None)
    narrow = ratings.indices.dtype == np.int32
    if parameters.implicit:
        if not narrow:
            raise ValueError(f"implicit=True needs fewer than 2**31 items, got {ratings.shape[1]}")
        return _WithImplicit(factors, ratings, schedule, seed, parameters.n_threads)
    general = parameters.general or ratings.weights is not None
    if not (narrow or general):
        return _InRows(factors, ratings, schedule, seed)
    grid = make_grid(ratings, parameters.n_factors, team.n_threads)
    level = simd_level()
    kernel: _Kernel
    if general:
        kernel = _General(factors, grid, parameters, schedule, level)
    else:
        kernel = _Interleaved(factors, grid, schedule, level)
    return _Shuffled(grid, kernel, schedule, seed, team, last_epoch)


class _Kernel(Protocol):
    """What visits the blocks of a grid."""

    factors: Factors
    steps: Steps  # of the epoch that is run

    def visit(self, blocks: Walk, worker: int, rows: NDArray[np.int64]) -> bool:
        """Visit blocks of the rows in this order; False: not all yet, call again."""
        ...

    def settle(self) -> None:
        """Finish the rows of all items, wherever the visits have ended."""
        ...

    def sums(self, blocks: Walk) -> EpochSums:
        """Return what all visits have added up."""
        ...


class _Plan(NamedTuple):
    """What can be told of an epoch beforehand: the order of the rows, and their walk.

    Its steps are there, too, unless they are to be written into records when it begins.
    """

    epoch: int
    rows: NDArray[np.int64]
    blocks: Walk
    steps: Steps | None


class _Shuffled:
    """Epochs over users in random order, block by block of a grid."""

    def __init__(
        self,
        grid: Grid,
        kernel: _Kernel,
        schedule: Schedule,
        seed: int,
        team: Team,
        last_epoch: int,
    ) -> None:
        self.grid = grid
        self.kernel = kernel
        self.schedule = schedule
        self.team = team
        self.last_epoch = last_epoch
        ratings = grid.ratings
        together = ROWS_TOGETHER if ratings.nnz > MOST_CACHED else 1
        self.orders = _RowOrders(seed, ratings.shape[0], together)
        self.plans: deque[_Plan] = deque()
        # One strip means little work, which leaves the caches as they are.
        few = grid.n_strips == 1
        self.at_once = 1 if few else max(1, min(PLANS_AT_ONCE, ROWS_OF_PLANS // ratings.shape[0]))
        team.prepare(grid.n_strips)

    def run(self, epoch: int) -> EpochSums:
        """Visit every rating once and return what that adds up to."""
        if not self.plans or self.plans[0].epoch != epoch:
            self._plan_ahead(epoch)
        plan = self.plans.popleft()
        kernel, blocks = self.kernel, plan.blocks
        kernel.steps = plan.steps or self.schedule.steps(epoch)

        def work(worker: int) -> None:
            while not kernel.visit(blocks, worker, plan.rows):
                pass  # the interpreter has looked for signals

        plan_next = None if self.plans else partial(self._plan_ahead, epoch + 1)
        try:
            self.team.run(work, blocks.stop, self.grid.n_strips, plan_next)
        except BaseException:  # the factors are of use, whatever it was
            kernel.settle()
            raise
        return kernel.sums(blocks)

    def settle(self) -> None:
        """Do nothing: every strip has been settled by the last group that visited it."""

    def _plan_ahead(self, epoch: int) -> None:
        """Make the plans of an epoch and of a few that follow."""
        last = min(epoch + self.at_once - 1, self.last_epoch)
        self.plans = deque(self._make_plan(number) for number in range(epoch, last + 1))

    def _make_plan(self, epoch: int) -> _Plan:
        order = self.orders.of(epoch)
        steps = self.schedule.steps(epoch) if self.schedule.plain else None
        return _Plan(epoch, order, self._make_walk(order), steps)

    def _make_walk(self, order: NDArray[np.int64]) -> Walk:
        """Deal rows to groups, and cut these into calls that Ctrl-C need not wait for."""
        grid, ratings = self.grid, self.grid.ratings
        groups = grid.groups(order)
        if fits_one_call(ratings.nnz // grid.n_groups, self.kernel.factors.n_factors):
            return Walk(grid.n_strips, groups, np.arange(grid.n_groups + 1), PATIENCE)
        calls, group_calls = [0], [0]
        for first, last in pairwise(groups.tolist()):
            cut = row_ranges(ratings.indptr, self.kernel.factors.n_factors, order[first:last])
            calls += [first + end for _, end in cut] or [last]
            group_calls.append(len(calls) - 1)
        return Walk(grid.n_strips, np.array(calls), np.array(group_calls), PATIENCE)


class _Interleaved:
    """Squared errors: several users in turns, at the best instruction-set level."""

    def __init__(self, factors: Factors, grid: Grid, schedule: Schedule, level: int) -> None:
        self.factors = factors
        self.grid = grid
        self.level = level
        self.item_scales = np.ones_like(factors.item_biases)
        self.steps = schedule.steps(1)
        if self.steps.item_records is not None:
            # Norms are kept by recurrence within an epoch, which writes them down at its end.
            self.settle()

    def visit(self, blocks: Walk, worker: int, rows: NDArray[np.int64]) -> bool:
        """Visit blocks of the rows in this order; False: not all yet, call again."""
        grid, factors, steps = self.grid, self.factors, self.steps
        indices: Any = grid.ratings.indices
        return interleaved_epoch(
            blocks,
            worker,
            grid.bounds,
            grid.cuts,
            indices,
            grid.ratings.values,
            rows,
            factors.user_factors,
            factors.item_factors,
            factors.user_biases,
            factors.item_biases,
            self.item_scales,
            steps.user_records,
            steps.item_records,
            grid.n_strips,
            self.level,
            factors.global_mean,
            steps.rate,
            steps.rate,
            steps.bias_rate,
            steps.user_decay,
            steps.item_decay,
            steps.bias_decay,
            steps.bias_decay,
            steps.gradient_weight,
        )

    def settle(self) -> None:
        """Multiply items by their scales and write down their norms."""
        factors = self.factors
        settle_rows(
            factors.item_factors,
            self.item_scales,
            self.steps.item_records,
            0,
            factors.n_items,
            self.level,
        )

    def sums(self, blocks: Walk) -> EpochSums:
        """Return the squared errors and the squares of factors and biases."""
        return EpochSums(blocks.losses, blocks.squares)


class _General:
    """Any loss, weights, L1 and non-negativity: one user after the other."""

    def __init__(
        self,
        factors: Factors,
        grid: Grid,
        parameters: Parameters,
        schedule: Schedule,
        level: int,
    ) -> None:
        self.factors = factors
        self.grid = grid
        self.level = level
        self.steps = schedule.steps(1)
        self.huber_threshold = schedule.huber_threshold
        self.slope_limit = schedule.slope_limit
        self.loss = loss_number(parameters.loss_function)
        self.l1 = parameters.l1_regularization / 2
        self.nonnegative = parameters.nonnegative
        # Where rates are as large as adaptive ones begin, an item that steps from the new row of
        # the user grows with every visit.
        self.together = schedule.adaptive

    def visit(self, blocks: Walk, worker: int, rows: NDArray[np.int64]) -> bool:
        """Visit blocks of the rows in this order; False: not all yet, call again."""
        grid, factors, steps = self.grid, self.factors, self.steps
        assert steps.user_records is not None
        assert steps.item_records is not None
        return general_epoch(
            blocks,
            worker,
            grid.cuts,
            grid.ratings.indices,
            grid.ratings.values,
            grid.ratings.weights,
            rows,
            factors.user_factors,
            factors.item_factors,
            factors.user_biases,
            factors.item_biases,
            steps.user_records,
            steps.item_records,
            grid.n_strips,
            self.level,
            self.loss,
            self.huber_threshold,
            self.slope_limit,
            factors.biased,
            factors.global_mean,
            steps.rate,
            steps.rate,
            steps.bias_rate,
            steps.gradient_weight,
            self.l1,
            self.l1,
            self.nonnegative,
            self.together,
        )

    def settle(self) -> None:
        """Do nothing: rows are always what they stand for."""

    def sums(self, blocks: Walk) -> EpochSums:
        """Return the losses."""
        return EpochSums(blocks.losses)


class _WithImplicit:
    """Epochs of SVD++ over users in random order, in one thread: users share all items' rows."""

    def __init__(
        self,
        factors: Factors,
        ratings: CheckedRatings,
        schedule: Schedule,
        seed: int,
        n_threads: int | None,
    ) -> None:
        self.factors = factors
        self.ratings = ratings
        self.schedule = schedule
        self.orders = _RowOrders(seed, ratings.shape[0])
        self.n_threads = n_threads
        self.level = simd_level()
        self.weights = implicit_weights(ratings)

    def run(self, epoch: int) -> EpochSums:
        """Visit every rating once and return the running sum of squared errors."""
        factors, ratings, steps = self.factors, self.ratings, self.schedule.steps(epoch)
        assert factors.own_user_factors is not None
        assert factors.implicit_factors is not None
        assert steps.user_records is not None
        assert steps.item_records is not None
        row_order = self.orders.of(epoch)
        scratch = zero_rows(SCRATCH_ROWS, factors.n_factors, factors.dtype)
        indices: Any = ratings.indices
        total = 0.0
        for first, last in row_ranges(ratings.indptr, factors.n_factors, row_order):
            total += implicit_epoch(
                ratings.indptr,
                indices,
                ratings.values,
                row_order,
                self.weights,
                factors.own_user_factors,
                factors.item_factors,
                factors.implicit_factors,
                factors.user_biases,
                factors.item_biases,
                steps.user_records,
                steps.item_records,
                scratch,
                first,
                last,
                self.level,
                factors.global_mean,
                steps.rate,
                steps.rate,
                steps.bias_rate,
                steps.implicit_rate,
                steps.implicit_shrink,
                steps.gradient_weight,
            )
        return EpochSums(total)

    def settle(self) -> None:
        """Add the implicit factors to the users' own."""
        add_implicit(self.factors, self.ratings, self.n_threads)


class _InRows:
    """Epochs over users one after the other, in stored or in random order."""

    def __init__(
        self, factors: Factors, ratings: CheckedRatings, schedule: Schedule, seed: int | None
    ) -> None:
        self.factors = factors
        self.ratings = ratings
        self.schedule = schedule
        self.orders = None if seed is None else _RowOrders(seed, ratings.shape[0])

    def run(self, epoch: int) -> EpochSums:
        """Visit every rating once and return the running sum of squared errors."""
        factors, ratings, schedule = self.factors, self.ratings, self.schedule
        row_order = None if self.orders is None else self.orders.of(epoch)
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
        return EpochSums(total)

    def settle(self) -> None:
        """Do nothing: rows are always what they stand for."""


class _RowOrders:
    """Permutations of the rows that depend on the seed and the number of the epoch alone.

    Runs of `together` rows stay in one piece, in ascending order; the last may be shorter.
    """

    def __init__(self, seed: int, n_rows: int, together: int = 1) -> None:
        self.n_rows = n_rows
        self.together = together
        self.bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(1,)))
        self.start = self.bits.state
        self.generator = np.random.Generator(self.bits)

    def of(self, epoch: int) -> NDArray[np.int64]:
        """Return the order of an epoch: a permutation by the generator jumped so many times."""
        # `jumped` would make a generator anew, which takes as long as 100 ratings of 32 factors.
        self.bits.state = self.start
        self.bits.advance(epoch * JUMP)
        runs: NDArray[np.int64] = self.generator.permutation(-(-self.n_rows // self.together))
        runs = runs.astype(np.int64, copy=False)
        if self.together == 1:
            return runs
        order = (runs[:, None] * self.together + np.arange(self.together)).ravel()
        return order[order < self.n_rows]
