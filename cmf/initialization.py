"""Where training starts: random factors, or the caller's.

Normal numbers are drawn from 2**16 equally likely ones, quantiles of the normal distribution: to
draw an index takes a fraction of the time. The numbers of a float32 model are those of a float64
model of the same seed, rounded, so that both start at the same place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cmf._checks import CheckedRatings, check_factors, check_row_counts
from cmf._counts import rating_counts
from cmf._kernels.draw import look_up
from cmf._parameters import Parameters
from cmf._pieces import run_pieces
from cmf._rows import machine_memory, too_large, zero_rows
from cmf._state import Factors
from cmf._typing import FloatArray
from cmf.objectives import start_value

__all__ = ["initialize", "mean_of", "refuse_too_large"]

# One task draws rows of about this many numbers, a few milliseconds, with a generator of its own.
DRAWN_AT_ONCE = 2**20
# Drawing fewer takes no longer than making a thread for it.
DRAWN_ALONE = 2**18
# It draws them in blocks of about this many, which stay in a cache meanwhile.
BLOCK_SIZE = 2**18
N_QUANTILES = 2**16
# Drawing fewer numbers takes less time than bringing the whole table into their units.
DRAWN_SINGLY = 2**16
# Bytes that every machine has, without a look at it.
ALWAYS_THERE = 2**24
PER_WORD = 4  # indices of a quantile in 64 bits

_Draw = Callable[[np.random.Generator, FloatArray], None]


def initialize(
    ratings: CheckedRatings,
    parameters: Parameters,
    init_scale: float,
    global_mean: float,
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
    init_scale : float
        See above.
    global_mean : float
        Of the model; see `mean_of`.
    generator : numpy.random.Generator
        Gives users and items a generator each; both are drawn row by row. Rows behind the first
        `DRAWN_AT_ONCE` numbers have generators that are spawned from these.
    user_factors, item_factors : array-like, optional
        Starts to copy instead of drawing. A side that is not given is drawn.

    Returns
    -------
    Factors
        Biases are zero, the global mean is the one that is given, and with ``nonnegative`` drawn
        factors have lost their signs. Rows of
        drawn factors whose user or item has no rating are zero, so that their predictions fall
        back to the mean and the known biases instead of to noise.
    """
    n_users, n_items = ratings.shape
    dtype = np.dtype(parameters.dtype)
    P, Q = _allocate(ratings.shape, parameters.n_factors, dtype)
    if user_factors is not None or item_factors is not None:
        starts = check_factors(
            P if user_factors is None else user_factors,
            Q if item_factors is None else item_factors,
            n_factors=parameters.n_factors,
            dtype=dtype,
        )
        check_row_counts(*starts, ratings.shape)
        if parameters.nonnegative:
            _refuse_negative(*starts)
    generators = generator.spawn(2)
    counts = rating_counts(ratings, parameters.n_threads)
    draw = _drawing(parameters, init_scale, P.size + Q.size)
    tasks: list[Callable[[], None]] = []
    for side, (factors, given) in enumerate(((P, user_factors), (Q, item_factors))):
        if given is not None:
            factors[...] = starts[side]
        else:
            tasks += _drawing_tasks(factors, counts[side] > 0, draw, generators[side])
    little = P.size + Q.size <= DRAWN_ALONE
    run_pieces(tasks, 1 if little else parameters.n_threads)
    return Factors(
        P,
        Q,
        np.zeros(n_users, dtype=dtype),
        np.zeros(n_items, dtype=dtype),
        global_mean,
        parameters.biases,
    )


def mean_of(ratings: CheckedRatings, parameters: Parameters) -> float:
    """Return the global mean of a model.

    Parameters
    ----------
    ratings : CheckedRatings
        At least one.
    parameters : Parameters
        Whether there are biases, and the loss.

    Returns
    -------
    float
        The number with the least loss: the mean of the ratings, or what `cmf.objectives` has for
        other losses; 0 without biases. Huber loss whose threshold is not known yet has the median.
    """
    if not parameters.biases:
        return 0.0
    loss, threshold = parameters.loss_function, parameters.huber_threshold
    if loss == "huber" and threshold is None:
        loss = "absolute"
    with np.errstate(over="ignore"):  # an infinite mean is reported as divergence
        return start_value(loss, ratings.values, ratings.weights, huber_threshold=threshold or 1.0)


def refuse_too_large(shape: tuple[int, int], n_factors: int, dtype: np.dtype[Any]) -> None:
    """Refuse factors that are larger than all memory, before anything is made for their rows.

    Parameters
    ----------
    shape : tuple of int
        Of the ratings.
    n_factors : int
        Length of the rows.
    dtype : dtype
        Of the numbers in them.

    Raises
    ------
    MemoryError
        If there is less memory: systems that promise more than they have kill who uses it.
    """
    wanted = sum(shape) * n_factors * dtype.itemsize
    if wanted > ALWAYS_THERE and wanted > machine_memory():
        raise _too_many_factors(shape, n_factors, dtype)


def _too_many_factors(shape: tuple[int, int], n_factors: int, dtype: np.dtype[Any]) -> MemoryError:
    gigabytes = sum(shape) * n_factors * dtype.itemsize / 1e9
    return too_large(shape, f"with n_factors={n_factors} want {gigabytes:.3g} GB of factors")


def _allocate(
    shape: tuple[int, int], n_factors: int, dtype: np.dtype[Any]
) -> tuple[FloatArray, FloatArray]:
    """Return zeros for factors, or say how large they would be."""
    try:
        P, Q = (zero_rows(n_rows, n_factors, dtype) for n_rows in shape)
    except (MemoryError, ValueError) as error:
        raise _too_many_factors(shape, n_factors, dtype) from error
    return P, Q


def _refuse_negative(P: FloatArray, Q: FloatArray) -> None:
    for factors, name in ((P, "user_factors"), (Q, "item_factors")):
        if factors.min() < 0:
            raise ValueError(f"{name} has negative numbers: nonnegative=True starts without")


def _drawing_tasks(
    factors: FloatArray, rated: NDArray[np.bool_], draw: _Draw, generator: np.random.Generator
) -> list[Callable[[], None]]:
    """Cut the drawing of factors into tasks, of which the first has the generator itself."""
    at_once = max(1, DRAWN_AT_ONCE // factors.shape[1])
    parts = [slice(start, start + at_once) for start in range(0, rated.shape[0], at_once)]
    generators = [generator, *generator.spawn(len(parts) - 1)]
    return [
        partial(_draw, factors[rows], rated[rows], draw, own)
        for rows, own in zip(parts, generators, strict=True)
    ]


def _draw(
    factors: FloatArray, rated: NDArray[np.bool_], draw: _Draw, generator: np.random.Generator
) -> None:
    """Fill factors with random numbers, and with zeros where nothing is rated."""
    # Indices come by the word: blocks of whole words draw what one block would.
    rows_at_once = max(PER_WORD, BLOCK_SIZE // factors.shape[1] // PER_WORD * PER_WORD)
    for start in range(0, rated.shape[0], rows_at_once):
        block = factors[start : start + rows_at_once]
        with np.errstate(over="ignore"):  # an infinite start is reported as divergence, too
            draw(generator, block)
    factors[~rated] = 0


def _drawing(parameters: Parameters, scale: float, n_numbers: int) -> _Draw:
    """Return what fills arrays, of so many numbers in all, with random ones."""
    if parameters.init == "uniform":
        return partial(_draw_uniform, scale)
    if parameters.init == "scaled":
        scale /= math.sqrt(parameters.n_factors)
    finish = partial(_finished, scale, parameters)
    if n_numbers <= DRAWN_SINGLY:
        return partial(_draw_few, finish)
    return partial(_draw_many, finish(_quantiles()))


def _finished(scale: float, parameters: Parameters, normal: NDArray[np.float64]) -> FloatArray:
    """Return standard normal numbers as the factors have them."""
    with np.errstate(over="ignore"):
        scaled: FloatArray = (normal * scale).astype(parameters.dtype)
    return np.abs(scaled) if parameters.nonnegative else scaled


def _draw_uniform(scale: float, generator: np.random.Generator, out: FloatArray) -> None:
    out[...] = generator.random(out.shape) * scale


def _draw_few(
    finish: Callable[[NDArray[np.float64]], FloatArray],
    generator: np.random.Generator,
    out: FloatArray,
) -> None:
    out[...] = finish(_quantiles()[_indices(generator, out.size)]).reshape(out.shape)


def _draw_many(table: FloatArray, generator: np.random.Generator, out: FloatArray) -> None:
    look_up(table, _indices(generator, out.size), out)


def _indices(generator: np.random.Generator, n_numbers: int) -> NDArray[np.uint16]:
    """Return the indices of quantiles that would be drawn one by one, in half the time."""
    words = generator.integers(0, 2**64, -(-n_numbers // PER_WORD), dtype=np.uint64)
    drawn = words.astype("<u8", copy=False).view("<u2").astype(np.uint16, copy=False)
    return drawn[:n_numbers]


@cache
def _quantiles() -> NDArray[np.float64]:
    """Return numbers between which the normal distribution has equal parts, in ascending order."""
    # The upper half of the distribution function by the trapezoidal rule, read backwards. Beyond
    # 5 lies a fiftieth of a part.
    grid, step = np.linspace(0, 5, N_QUANTILES + 1, retstep=True)
    density = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    below = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) * (step / 2))])
    upper = np.interp((np.arange(N_QUANTILES // 2) + 0.5) / N_QUANTILES, below, grid)
    return np.concatenate([-upper[::-1], upper])
