r"""Averages over the posterior: many models that fit the ratings, in one that predicts their mean.

The model is Bayesian probabilistic matrix factorization (R. Salakhutdinov, A. Mnih, ICML 2008),
with the biases inside the rows. In standardized ratings :math:`z = (r - \mu) / \sigma`,

.. math:: z_{ui} \sim N(b_u + c_i + p_u \cdot q_i, 1 / \alpha), \qquad
          w_u = (p_u, b_u) \sim N(m + s_u, \Lambda^{-1}),

items likewise, with a normal-Wishart prior on :math:`m` and :math:`\Lambda` of each side and a
gamma prior on :math:`\alpha`. With implicit features, which a user has rated (and who has rated an
item) moves the mean of the row: :math:`s_u = n_u^{-1/2} \sum_{j \in N(u)} y_j`,
:math:`y_j \sim N(0, (l \Lambda)^{-1})`. This is SVD++ (Y. Koren, KDD 2008) with the term in the
prior, where sampling it costs no more than an epoch of gradient descent.

A sweep draws each of these in turn from its distribution given all others (Gibbs sampling); after
some sweeps the draws are from the posterior. The mean of the draws' predictions has a smaller error
than any one draw. Each sweep enters it twice, with the conditional means of the users' rows in the
place of the draws, and with those of the items' rows (D. Blackwell, C. R. Rao): the expectation is
the same and the noise is less. The sum of products of factors is kept as one product, cut back to
its best approximation of the wanted rank after every sweep. How far the draws' predictions are
apart is followed for a few pairs of every row, and kept as one number a row.

All random numbers are drawn for fixed pieces of rows, so that the result does not depend on the
number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cmf._checks import CheckedRatings
from cmf._kernels.gibbs import (
    MAX_COLUMNS,
    MAX_WIDTH,
    add_predictions,
    draw_features,
    draw_rows,
    multiply_rows,
    row_products,
    squared_errors,
)
from cmf._pieces import run_pieces
from cmf._state import Factors, Uncertainty
from cmf._typing import Rows
from cmf.config import simd_level
from cmf.exceptions import DivergenceError

__all__ = ["MAX_FACTORS", "PosteriorMean", "predictive_std", "sample_posterior"]

MAX_FACTORS = MAX_WIDTH - 1

Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]
Report = Callable[[int, float], bool | None]

# Standard deviation of the factors at the start. The prior follows the rows: it opens quickly from
# rows that are too large, slowly from those that are too small.
START_SCALE = 1.0
# The priors, in standardized ratings: of Λ, Wishart with the width as degrees of freedom and this
# scale; of m given Λ, N(0, (MEAN_WEIGHT Λ)^-1).
WISHART_SCALE = 10.0
MEAN_WEIGHT = 2.0
# Where l starts, and the first sweep that draws features. They find their place while the rows are
# still large: on MovieLens 100K, starting in sweep 10 the error after 60 is .03 above that of 3.
FIRST_STRENGTH = 10.0
FIRST_WITH_FEATURES = 3
# Products of a piece of rows: about a millisecond, which Ctrl-C and other threads may have to wait.
PIECE_WORK = 2**23
# Sums over rows are kept for so many stretches of pieces at most.
MOST_STRETCHES = 64
# Columns of features that are drawn together, 64 bytes.
STRIP = 16
# Pairs of every row whose predictions are followed, and how many of them a task does.
PAIRS_PER_ROW = 16
PAIRS_AT_ONCE = 2**16
# A rating counts as having drawn the variance of its prediction to this part of it at most.
LEAST_DRAWN = 0.2
# Predictions of ratings with a larger spread may have one that is infinite in float32.
LARGEST_SCALE = 1e36
# Part of the squared norm that is added to all directions, below which a direction is rounding.
RIDGE = 1e-6

# Streams of random numbers of a sweep; for each of the two sides where there are two.
_USERS, _ITEMS, _PRIOR, _FEATURES, _STRENGTH, _NOISE, _PAIRS = 0, 1, 2, 4, 6, 8, 9


@dataclass(frozen=True, slots=True)
class PosteriorMean:
    """The mean of the models that were drawn, as one model.

    Attributes
    ----------
    factors : Factors
        An ordinary model.
    uncertainty : Uncertainty
    n_samples : int
        Sweeps behind the mean.
    interrupted : bool
        Whether it was Ctrl-C that ended sampling.
    """

    factors: Factors
    uncertainty: Uncertainty
    n_samples: int
    interrupted: bool


def sample_posterior(
    ratings: CheckedRatings,
    *,
    n_factors: int,
    n_samples: int,
    burn_in: int,
    implicit: bool,
    biased: bool,
    dtype: np.dtype[Any],
    seed: int,
    n_threads: int | None,
    rank: int | None = None,
    report: Report | None = None,
) -> PosteriorMean:
    """Average models drawn from the posterior.

    Parameters
    ----------
    ratings : CheckedRatings
        Of at most 2**31 - 1 users and items.
    n_factors : int
        From 1 to `MAX_FACTORS`.
    n_samples : int
        Sweeps to average, at least 1.
    burn_in : int
        Sweeps before the first of them, at least 0.
    implicit : bool
        Whether the pattern of the ratings enters the means of the rows.
    biased : bool
        Whether there are biases and a global mean. Without, ratings are scaled but not shifted.
    dtype : numpy.dtype
        Of the model that is returned. Sampling is in float32, with sums in float64.
    seed : int
        Root of all random numbers.
    n_threads : int or None
        Threads to use, as `cmf._threads.thread_count` reads it. They do not change the result.
    rank : int, optional
        Number of factors of the model that is returned, at most ``256 - 2 * n_factors``;
        `n_factors` if not given, which costs a few ten-thousandths of the error.
    report : callable, optional
        Called after every sweep with its number from 1 and the root mean squared error of its draw
        on the ratings. The sweep in which it returns True is the last.

    Returns
    -------
    PosteriorMean
        Rows without ratings hold the mean of their prior.

    Raises
    ------
    DivergenceError
        If the distribution of a row is no longer a proper one.
    ValueError
        If sampling was ended by `report` during the burn-in, numbers are out of range, or the
        spread of the ratings is above 1e36.
    KeyboardInterrupt
        If Ctrl-C came before there was anything to average. Later it ends sampling.

    Notes
    -----
    A sweep takes about ``nnz * n_factors**2 + (n_users + n_items) * n_factors**3 / 6``
    multiplications, with implicit features ``8 * nnz * n_factors`` more, and
    ``8 * (n_users + n_items) * n_factors**2`` where it is averaged. Memory, besides the ratings: 12
    bytes for each of these (16 with int64 indices), about ten numbers of float32 for each factor of
    each user and item, and 400 bytes for each of both.
    """
    rank = n_factors if rank is None else rank
    for name, number, most in (
        ("n_factors", n_factors, MAX_FACTORS),
        ("rank", rank, MAX_COLUMNS - 2 * n_factors),
    ):
        if not 1 <= number <= most:
            raise ValueError(
                f"{name} must be from 1 to {most} for a posterior average, got {number}"
            )
    run = _Runner(n_threads, simd_level())
    chain = _Chain(ratings, n_factors, implicit, biased, seed, run)
    average = _Average(chain, rank)
    interrupted = False
    try:
        for sweep in range(1, burn_in + n_samples + 1):
            rmse = chain.sweep(sweep)
            if sweep > burn_in:
                average.add()
            if report is not None and report(sweep, rmse):
                break
    except KeyboardInterrupt:
        if average.total.n_samples == 0:
            raise
        interrupted = True
    if average.total.n_samples == 0:
        raise ValueError(f"sampling ended before burn_in={burn_in} sweeps: nothing to average")
    return average.result(np.dtype(dtype), interrupted)


def predictive_std(uncertainty: Uncertainty, users: Rows, items: Rows) -> Doubles:
    """Return the standard deviation of the rating of each pair, in units of the ratings.

    Parameters
    ----------
    uncertainty : Uncertainty
        Of the model.
    users, items : ndarray of shape (n,), int64
        Rows. Those of -1 are unknown and count as the least known ones that there are.

    Returns
    -------
    ndarray of shape (n,), float64
        The root of the variance of the draws' predictions plus that of a rating around a
        prediction. About 68 % of ratings lie within one of these of the mean, and 95 % within two.

    Notes
    -----
    A product and a root for each pair: the variance of every pair is taken as the product of one
    number of the user and one of the item.
    """
    spreads = [
        np.where(rows >= 0, of_side[rows], of_side.max()).astype(np.float64)
        for of_side, rows in (
            (uncertainty.user_spreads, users),
            (uncertainty.item_spreads, items),
        )
    ]
    deviations: Doubles = np.sqrt(spreads[0] * spreads[1] + uncertainty.noise_std**2)
    return deviations


# --- who runs what ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Runner:
    """Runs tasks over pieces of rows on threads."""

    n_threads: int | None
    level: int

    def pieces(self, task: Callable[..., None], pieces: list[tuple[int, int]]) -> None:
        """Run ``task(number, first, last)`` for all pieces, in any order and at once."""
        tasks = [partial(task, number, *piece) for number, piece in enumerate(pieces)]
        run_pieces(tasks, self.n_threads)

    def products(
        self, rows_of: Callable[[int, int], Singles], pieces: list[tuple[int, int]], width: int
    ) -> Doubles:
        """Return X'X where ``rows_of(first, last)`` gives X in pieces."""
        stretches = _stretches(pieces)
        sums = np.zeros((len(stretches), width, width))

        def add_stretch(number: int) -> None:
            products = np.empty((width, width))
            for first, last in stretches[number]:
                row_products(rows_of(first, last), products, self.level)
                sums[number] += products

        run_pieces([partial(add_stretch, k) for k in range(len(stretches))], self.n_threads)
        total: Doubles = sums.sum(axis=0)
        return total


def _stretches(pieces: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Deal pieces, in order, to a bounded number of stretches."""
    length = -(-len(pieces) // MOST_STRETCHES)
    return [pieces[start : start + length] for start in range(0, len(pieces), length)]


def _cut_pieces(indptr: NDArray[np.int64], width: int) -> list[tuple[int, int]]:
    """Cut rows into pieces that take about as long to draw; no row is cut."""
    work = np.diff(indptr) * (width**2 // 2 + width) + (width**3 // 3 + width)
    ends = np.cumsum(work)
    bounds = [0]
    while bounds[-1] < work.shape[0]:
        done = int(ends[bounds[-1] - 1]) if bounds[-1] else 0
        reached = int(np.searchsorted(ends, done + PIECE_WORK, side="right"))
        bounds.append(max(bounds[-1] + 1, reached))
    return list(pairwise(bounds))


# --- the chain ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Features:
    """The implicit features of the rows of one side: one for each row of the other side."""

    rows: Singles  # (n_others, width)
    products: Doubles  # (width, width) of the rows
    sums: Singles  # (n_rows, width) weighted, of the features that each row has
    weights: Singles  # (n_rows,)
    strength: float = FIRST_STRENGTH


@dataclass(slots=True)
class _Side:
    """Users or items: their ratings, in standardized units, and their current draw."""

    stream: int
    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    values: Singles
    pieces: list[tuple[int, int]]
    rated: NDArray[np.bool_]
    rows: Singles  # (n_rows, width) factors, then the bias
    means: Singles  # (n_rows, width) what they were drawn around
    features: _Features | None = None

    @classmethod
    def of(cls, stream: int, matrix: Any, width: int) -> _Side:
        """Take the ratings of a CSR array."""
        shape = (matrix.shape[0], width)
        indptr = matrix.indptr.astype(np.int64, copy=False)
        return cls(
            stream,
            indptr,
            matrix.indices.astype(np.int32, copy=False),
            matrix.data,
            _cut_pieces(indptr, width),
            np.diff(indptr) > 0,
            np.zeros(shape, dtype=np.float32),
            np.zeros(shape, dtype=np.float32),
        )

    def add_features(self, n_others: int) -> None:
        """Let there be implicit features, zeros at first."""
        width = self.rows.shape[1]
        counts = np.maximum(np.diff(self.indptr), 1)
        self.features = _Features(
            np.zeros((n_others, width), dtype=np.float32),
            np.zeros((width, width)),
            np.zeros_like(self.rows),
            (1 / np.sqrt(counts)).astype(np.float32),
        )

    def settled(self, first: int, last: int) -> Singles:
        """Return some rows of the draw; their means where there is nothing but the prior."""
        rated = self.rated[first:last, None]
        return np.where(rated, self.rows[first:last], self.means[first:last])


class _Chain:
    """Draws of everything, each given all the others."""

    def __init__(
        self,
        ratings: CheckedRatings,
        n_factors: int,
        implicit: bool,
        biased: bool,
        seed: int,
        run: _Runner,
    ) -> None:
        self.n_factors, self.biased, self.seed, self.run = n_factors, biased, seed, run
        self.width = n_factors + biased
        self.nnz = ratings.nnz
        self.center, self.scale, matrix = _standardized(ratings, biased)
        self.users = _Side.of(_USERS, matrix, self.width)
        self.items = _Side.of(_ITEMS, matrix.T.tocsr(), self.width)
        self.items_before = self.items.rows
        self.noise_precision = 1.5
        self.number = 0
        for side, other in ((self.users, self.items), (self.items, self.users)):
            self._start(side)
            if implicit:
                side.add_features(other.rows.shape[0])

    def generator(self, stream: int, piece: int = 0) -> np.random.Generator:
        """Return the random numbers of a piece of a stream of this sweep."""
        key = (2, self.number, stream, piece)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _start(self, side: _Side) -> None:
        """Draw the first factors of one side."""

        def start_piece(number: int, first: int, last: int) -> None:
            shape = (last - first, self.n_factors)
            normals = self.generator(side.stream, number).standard_normal(shape, dtype=np.float32)
            side.rows[first:last, : self.n_factors] = normals * np.float32(START_SCALE)

        self.run.pieces(start_piece, side.pieces)

    def sweep(self, number: int) -> float:
        """Draw everything once and return the error on the ratings, in their units."""
        self.number = number
        self.items_before = self.items.settled(0, self.items.rows.shape[0])
        self._draw_side(self.users, self.items)
        self._draw_side(self.items, self.users)
        squares = self._squared_errors()
        if not math.isfinite(squares):
            self._fail()
        shape = 1 + self.nnz / 2
        gamma = self.generator(_NOISE).standard_gamma(shape)
        self.noise_precision = float(gamma / (1 + squares / 2))
        return self.scale * math.sqrt(squares / self.nnz)

    def _fail(self) -> NoReturn:
        """Give up: the draws are no longer finite."""
        raise DivergenceError(
            f"sampling failed in sweep {self.number}: the draws are no longer finite",
            epoch=self.number,
        )

    def _draw_side(self, side: _Side, other: _Side) -> None:
        """Draw the prior of one side, its features and its rows."""
        mean, root = self._draw_prior(side, other)
        features = side.features
        if features is not None and self.number >= FIRST_WITH_FEATURES:
            self._draw_features(side, other, features, mean, root)
        means = mean[None] if features is None else features.sums + mean
        precision = np.ascontiguousarray(root @ root.T)

        def draw_piece(number: int, first: int, last: int) -> None:
            shape = (last - first, self.width)
            failed = draw_rows(
                side.indptr,
                side.indices,
                side.values,
                other.rows,
                means,
                precision,
                self.generator(side.stream, number).standard_normal(shape, dtype=np.float32),
                side.rows,
                side.means,
                first,
                last,
                self.biased,
                self.noise_precision,
                self.run.level,
            )
            if failed >= 0:
                self._fail()

        self.run.pieces(draw_piece, side.pieces)

    def _draw_prior(self, side: _Side, other: _Side) -> tuple[Singles, Doubles]:
        """Draw m and a root of Λ: Λ is the root times its transpose."""
        features = side.features
        n, mean, scatter = self._moments(side)
        inverse_scale = np.eye(self.width) / WISHART_SCALE + scatter
        inverse_scale += MEAN_WEIGHT * n / (MEAN_WEIGHT + n) * np.outer(mean, mean)
        freedom = self.width + n
        if features is not None:
            inverse_scale += features.strength * features.products
            freedom += int(other.rated.sum())
        generator = self.generator(_PRIOR + side.stream)
        root = _wishart_root(generator, inverse_scale, freedom)
        shift = np.linalg.solve(root.T, generator.standard_normal(self.width))
        drawn = n / (MEAN_WEIGHT + n) * mean + shift / math.sqrt(MEAN_WEIGHT + n)
        return drawn.astype(np.float32), root

    def _moments(self, side: _Side) -> tuple[int, Doubles, Doubles]:
        """Return number, mean and scatter of rated rows, less what their features explain."""
        ones_too = self.width + 1

        def rows_of(first: int, last: int) -> Singles:
            rated = side.rated[first:last]
            rows = np.ones((int(rated.sum()), ones_too), dtype=np.float32)
            rows[:, :-1] = side.rows[first:last][rated]
            if side.features is not None:
                rows[:, :-1] -= side.features.sums[first:last][rated]
            return rows

        products = self.run.products(rows_of, side.pieces, ones_too)
        n = int(side.rated.sum())
        mean = products[-1, :-1] / n
        return n, mean, products[:-1, :-1] - n * np.outer(mean, mean)

    def _draw_features(
        self, side: _Side, other: _Side, features: _Features, mean: Singles, root: Doubles
    ) -> None:
        """Draw one side's implicit features and their strength l."""
        spread = np.linalg.inv(root).astype(np.float32)
        noise = np.empty_like(features.rows)

        def draw_noise(number: int, first: int, last: int) -> None:
            generator = self.generator(_FEATURES + side.stream, number)
            normals = generator.standard_normal((last - first, self.width), dtype=np.float32)
            multiply_rows(normals, spread, noise[first:last], self.run.level)

        self.run.pieces(draw_noise, other.pieces)
        centered = side.rows - mean
        residuals = np.subtract(centered, features.sums, out=features.sums)
        self._pass_over_features(other, features, noise, residuals)
        np.subtract(centered, residuals, out=features.sums)

        features.products = self.run.products(
            lambda first, last: features.rows[first:last], other.pieces, self.width
        )
        n_drawn = int(other.rated.sum()) * self.width
        square = float(np.sum(features.products * (root @ root.T)))
        gamma = self.generator(_STRENGTH + side.stream).standard_gamma((1 + n_drawn) / 2)
        features.strength = float(gamma * 2 / (1 + square))

    def _pass_over_features(
        self, other: _Side, features: _Features, noise: Singles, residuals: Singles
    ) -> None:
        """Draw all features, one after the other; columns are independent, hence for threads."""

        def draw_strip(first: int, last: int, column: int, n_columns: int) -> None:
            draw_features(
                other.indptr,
                other.indices,
                features.weights,
                noise,
                features.rows,
                residuals,
                first,
                last,
                column,
                n_columns,
                features.strength,
                self.run.level,
            )

        strips = [(start, min(STRIP, self.width - start)) for start in range(0, self.width, STRIP)]
        if len(strips) > 1 and strips[-1][1] == 1:  # the bias goes with the last factors
            strips[-2:] = [(strips[-2][0], STRIP + 1)]
        for stretch in _stretches(other.pieces):
            first, last = stretch[0][0], stretch[-1][1]
            tasks = [partial(draw_strip, first, last, *strip) for strip in strips]
            run_pieces(tasks, self.run.n_threads)

    def _squared_errors(self) -> float:
        """Return the sum over all ratings, in standardized units."""
        side, other = self.items, self.users
        sums = np.zeros(len(side.pieces))

        def sum_piece(number: int, first: int, last: int) -> None:
            sums[number] = squared_errors(
                side.indptr,
                side.indices,
                side.values,
                other.rows,
                side.rows,
                first,
                last,
                self.biased,
                self.run.level,
            )

        self.run.pieces(sum_piece, side.pieces)
        return math.fsum(sums)


def _standardized(ratings: CheckedRatings, biased: bool) -> tuple[float, float, Any]:
    """Return center and scale of ratings, and what is left of them as a CSR array of float32."""
    if max(ratings.shape) > np.iinfo(np.int32).max:
        raise ValueError(
            "a posterior average takes at most 2**31 - 1 users and items, "
            f"got {ratings.shape[0]} and {ratings.shape[1]}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        center = float(ratings.values.mean(dtype=np.float64)) if biased else 0.0
        values = ratings.values - np.float64(center)
        scale = math.sqrt(float(np.mean(np.square(values))))
    if not scale <= LARGEST_SCALE:
        raise ValueError(
            f"ratings are too large: with a spread above {LARGEST_SCALE:g} the uncertainty of "
            "predictions, which is in float32, may be infinite"
        )
    if scale > 0:
        values /= scale
    indices = ratings.indices.astype(np.int32, copy=False)
    matrix = sparse.csr_array(
        (values.astype(np.float32), indices, ratings.indptr), shape=ratings.shape
    )
    return center, scale or 1.0, matrix


def _wishart_root(generator: np.random.Generator, inverse_scale: Doubles, freedom: int) -> Doubles:
    """Draw from a Wishart distribution; the draw is the returned root times its transpose.

    By M. S. Bartlett's decomposition (1933).
    """
    width = inverse_scale.shape[0]
    lower = np.zeros((width, width))
    lower[np.diag_indices(width)] = np.sqrt(generator.chisquare(freedom - np.arange(width)))
    below = np.tril_indices(width, -1)
    lower[below] = generator.standard_normal(below[0].shape[0])
    return np.linalg.solve(np.linalg.cholesky(inverse_scale).T, lower)


# --- the average --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Total:
    """The sum of the draws' models, in standardized units."""

    user_factors: Singles
    item_factors: Singles
    user_biases: Doubles
    item_biases: Doubles
    noise_variance: float = 0.0
    n_samples: int = 0


class _Average:
    """The mean of a chain's draws, as one model of a given rank."""

    def __init__(self, chain: _Chain, rank: int) -> None:
        self.chain = chain
        n_users, n_items = chain.users.rows.shape[0], chain.items.rows.shape[0]
        self.spreads = _Spreads(chain)
        self.total = _Total(
            np.zeros((n_users, rank), dtype=np.float32),
            np.zeros((n_items, rank), dtype=np.float32),
            np.zeros(n_users),
            np.zeros(n_items),
        )

    def add(self) -> None:
        """Add the chain's current draw."""
        chain, total = self.chain, self.total
        self.spreads.add(total.n_samples + 1)
        users, items, k = chain.users, chain.items, chain.n_factors
        half = np.float32(math.sqrt(0.5))

        # P E[Q|P]' + E[P|Q]Q' over two, behind the sum so far.
        def stacked_users(first: int, last: int) -> Singles:
            drawn, mean = users.settled(first, last), users.means[first:last]
            parts = [total.user_factors[first:last], half * drawn[:, :k], half * mean[:, :k]]
            return np.concatenate(parts, axis=1)

        def stacked_items(first: int, last: int) -> Singles:
            mean, before = items.means[first:last], chain.items_before[first:last]
            parts = [total.item_factors[first:last], half * mean[:, :k], half * before[:, :k]]
            return np.concatenate(parts, axis=1)

        rank = total.user_factors.shape[1]
        width = rank + 2 * k
        left, right = _best_maps(
            chain.run.products(stacked_users, users.pieces, width),
            chain.run.products(stacked_items, items.pieces, width),
            rank,
        )
        # All at once, so that Ctrl-C finds one sum or the other.
        self.total = _Total(
            self._mapped(stacked_users, users, left),
            self._mapped(stacked_items, items, right),
            *self._biases(),
            total.noise_variance + 1 / chain.noise_precision,
            total.n_samples + 1,
        )

    def _mapped(
        self, rows_of: Callable[[int, int], Singles], side: _Side, matrix: Singles
    ) -> Singles:
        """Return the product of the rows of ``rows_of`` and a matrix."""
        out = np.empty((side.rows.shape[0], matrix.shape[1]), dtype=np.float32)

        def map_piece(number: int, first: int, last: int) -> None:
            multiply_rows(rows_of(first, last), matrix, out[first:last], self.chain.run.level)

        self.chain.run.pieces(map_piece, side.pieces)
        return out

    def _biases(self) -> tuple[Doubles, Doubles]:
        """Return the sums of the biases, this draw included."""
        chain, total = self.chain, self.total
        if not chain.biased:
            return total.user_biases, total.item_biases
        users, items, k = chain.users, chain.items, chain.n_factors
        drawn = users.settled(0, users.rows.shape[0])[:, k].astype(np.float64)
        user_biases = total.user_biases + (drawn + users.means[:, k]) / 2
        before = chain.items_before[:, k].astype(np.float64)
        item_biases = total.item_biases + (before + items.means[:, k]) / 2
        return user_biases, item_biases

    def result(self, dtype: np.dtype[Any], interrupted: bool) -> PosteriorMean:
        """Return the mean in units of the ratings."""
        chain, total = self.chain, self.total
        each = chain.scale / total.n_samples
        factors = Factors(
            np.multiply(total.user_factors, math.sqrt(each), dtype=dtype),
            np.multiply(total.item_factors, math.sqrt(each), dtype=dtype),
            (total.user_biases * each).astype(dtype),
            (total.item_biases * each).astype(dtype),
            chain.center,
            chain.biased,
        )
        noise_variance = total.noise_variance / total.n_samples
        uncertainty = self.spreads.result(total.n_samples, noise_variance)
        return PosteriorMean(factors, uncertainty, total.n_samples, interrupted)


class _Spreads:
    """The variance over the draws of the predictions of some pairs of every row."""

    def __init__(self, chain: _Chain) -> None:
        self.chain = chain
        generator = chain.generator(_PAIRS)
        sides = chain.users, chain.items
        self.pairs = [_some_pairs(*sides, generator), _some_pairs(*sides[::-1], generator)]
        self.means = [np.zeros(own.shape[0]) for own, _ in self.pairs]
        self.squares = [np.zeros(own.shape[0]) for own, _ in self.pairs]

    def add(self, number: int) -> None:
        """Add the predictions of the chain's current draw."""
        chain = self.chain
        sides = chain.users, chain.items
        tasks = [
            partial(
                add_predictions,
                own[start : start + PAIRS_AT_ONCE],
                others[start : start + PAIRS_AT_ONCE],
                sides[k].rows,
                sides[1 - k].rows,
                self.means[k][start : start + PAIRS_AT_ONCE],
                self.squares[k][start : start + PAIRS_AT_ONCE],
                number,
                chain.biased,
                chain.run.level,
            )
            for k, (own, others) in enumerate(self.pairs)
            for start in range(0, own.shape[0], PAIRS_AT_ONCE)
        ]
        run_pieces(tasks, chain.run.n_threads)

    def result(self, n_samples: int, noise_variance: float) -> Uncertainty:
        """Return the spreads in units of the ratings, from so many draws."""
        chain = self.chain
        means = [
            self._row_means(k, side, n_samples, noise_variance)
            for k, side in enumerate((chain.users, chain.items))
        ]
        overall = math.sqrt(
            float(np.average(means[0], weights=np.diff(chain.users.indptr)))
            * float(np.average(means[1], weights=np.diff(chain.items.indptr)))
        )
        root = chain.scale / math.sqrt(overall or 1.0)
        users, items = ((mean * root).astype(np.float32) for mean in means)
        return Uncertainty(users, items, chain.scale * math.sqrt(noise_variance))

    def _row_means(self, k: int, side: _Side, n_samples: int, noise_variance: float) -> Doubles:
        """Return the mean over the pairs of each row of one side of their variances.

        A rating has drawn the prediction of its own pair towards it. What the variance v would be
        without it, given the variance s of the noise, is 1 / (1/v - 1/s).
        """
        own, _ = self.pairs[k]
        n_rows = side.rows.shape[0]
        variances = self.squares[k] / max(1, n_samples - 1)
        drawn = np.maximum(1 - variances / noise_variance, LEAST_DRAWN)
        variances = np.where(side.rated[own], variances / drawn, variances)
        means: Doubles = np.bincount(own, variances, n_rows) / np.bincount(own, minlength=n_rows)
        return means


def _some_pairs(
    side: _Side, other: _Side, generator: np.random.Generator
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the same number of pairs for every row: of its own ratings, or else with random rows.

    A rating counts several times in rows that have few.
    """
    n_rows = side.rows.shape[0]
    steps = np.arange(PAIRS_PER_ROW)
    counts = np.diff(side.indptr)[:, None]
    positions = side.indptr[:-1, None] + counts * steps // PAIRS_PER_ROW
    unrated = np.flatnonzero(~side.rated)
    positions[unrated] = generator.integers(side.indptr[-1], size=(unrated.size, PAIRS_PER_ROW))
    own = np.repeat(np.arange(n_rows, dtype=np.int32), PAIRS_PER_ROW)
    return own, side.indices[positions.ravel()]


def _best_maps(
    user_products: Doubles, item_products: Doubles, rank: int
) -> tuple[Singles, Singles]:
    """Return matrices L and R such that A L (B R)' is the best approximation of AB' of a rank.

    Given are A'A and B'B. With A = Q C', C lower triangular and Q'Q = I, the singular values of
    AB' = Q (BC)' and the left vectors in Q are those of C'B'BC. Without a cut AL(BR)' is AB'
    whatever C is, so that what keeps C regular does no harm.
    """
    size = user_products.shape[0]
    ridge = RIDGE * float(np.trace(user_products)) or 1.0
    lower = np.linalg.cholesky(user_products + ridge * np.eye(size))
    squares, vectors = np.linalg.eigh(lower.T @ item_products @ lower)
    squares, vectors = squares[: -rank - 1 : -1], vectors[:, : -rank - 1 : -1]
    values = np.sqrt(np.maximum(squares, 0))
    kept = values > RIDGE * values[0]
    scales = np.where(kept, np.sqrt(np.where(kept, values, 1)), 0)
    left = np.linalg.solve(lower.T, vectors) * scales
    right = lower @ vectors * np.where(kept, 1 / np.where(kept, scales, 1), 0)
    return left.astype(np.float32), right.astype(np.float32)
