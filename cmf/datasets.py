"""Rating tables to try things on: two small ones, generated ones of any size, and MovieLens.

Importing this module loads nothing and opens no connection; only `fetch_movielens` ever does.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_array

from cmf._cells import csr_of_cells
from cmf._movielens import MovieLens, fetch_movielens
from cmf._parameters import check_dtype, check_float, check_int
from cmf._random import make_generator
from cmf._typing import Ids, RandomState

__all__ = [
    "MovieLens",
    "RatingTable",
    "SyntheticRatings",
    "fetch_movielens",
    "load_music",
    "load_sample",
    "make_ratings",
]

# --------------------------------------------------------------------------- two small tables

_MUSIC_USERS = ("Darth Vader", "Hermione", "Ripley", "Spock")
_MUSIC_RATINGS = {
    "Another One Bites the Dust": (4, 1, 5, 2),
    "Back in Black": (4, 0, 5, 0),
    "Bohemian Rhapsody": (2, 5, 2, 5),
    "Brandenburg Concerto No. 3": (0, 0, 1, 5),
    "Clair de Lune": (1, 5, 2, 5),
    "Comfortably Numb": (2, 2, 3, 4),
    "Don't Stop Believin'": (2, 2, 4, 3),
    "Firework": (0, 5, 4, 2),
    "Hedwig's Theme": (0, 5, 0, 3),
    "O Fortuna": (4, 2, 5, 4),
    "Survivor": (0, 2, 5, 2),
    "The Imperial March": (5, 1, 4, 0),
}
_SAMPLE_RATINGS = (
    (5, 3, 0, 1),
    (4, 0, 0, 1),
    (1, 1, 0, 5),
    (1, 0, 0, 4),
    (0, 1, 5, 4),
    (2, 1, 3, 0),
)


@dataclass(frozen=True, eq=False)
class RatingTable:
    """A small table of ratings with the names of its rows and columns.

    Attributes
    ----------
    ratings : ndarray of shape (n_users, n_items), float64, or pandas.DataFrame
        0 where a user has not rated an item. A DataFrame has the users as its index and the items
        as its columns.
    user_ids : ndarray of shape (n_users,)
        One label per row: str (dtype object) or int64.
    item_ids : ndarray of shape (n_items,)
        One label per column, likewise.
    """

    ratings: Any
    user_ids: Ids
    item_ids: Ids


def load_music(*, as_frame: bool = False) -> RatingTable:
    """Load the ratings that four users gave to twelve pieces of music.

    Parameters
    ----------
    as_frame : bool, default False
        Whether `ratings` is a labelled pandas DataFrame instead of an array.

    Returns
    -------
    RatingTable
        Ratings from 1 to 5, 39 of 48 cells rated; users and pieces by name, in alphabetic order.
        All arrays are new with each call.

    Raises
    ------
    ImportError
        If a DataFrame is asked for and pandas is not installed.

    Examples
    --------
    >>> music = load_music()
    >>> music.ratings.shape
    (4, 12)
    >>> music.user_ids.tolist()
    ['Darth Vader', 'Hermione', 'Ripley', 'Spock']
    """
    ratings = np.array(list(_MUSIC_RATINGS.values()), dtype=np.float64).T.copy()
    user_ids = np.array(_MUSIC_USERS, dtype=object)
    return _table(ratings, user_ids, np.array(list(_MUSIC_RATINGS), dtype=object), as_frame)


def load_sample(*, as_frame: bool = False) -> RatingTable:
    """Load the six users by four items on which matrix factorization is often taught.

    Parameters
    ----------
    as_frame : bool, default False
        Whether `ratings` is a labelled pandas DataFrame instead of an array.

    Returns
    -------
    RatingTable
        Ratings from 1 to 5, 16 of 24 cells rated; users and items are numbered from 0. All arrays
        are new with each call.

    Raises
    ------
    ImportError
        If a DataFrame is asked for and pandas is not installed.

    Examples
    --------
    >>> load_sample().ratings[0].tolist()
    [5.0, 3.0, 0.0, 1.0]
    """
    ratings = np.array(_SAMPLE_RATINGS, dtype=np.float64)
    n_users, n_items = ratings.shape
    user_ids, item_ids = np.arange(n_users, dtype=np.int64), np.arange(n_items, dtype=np.int64)
    return _table(ratings, user_ids, item_ids, as_frame)


def _table(
    ratings: NDArray[np.float64], user_ids: Ids, item_ids: Ids, as_frame: bool
) -> RatingTable:
    """Put a table together, as a data frame if asked."""
    if not as_frame:
        return RatingTable(ratings, user_ids, item_ids)
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("as_frame=True needs pandas: pip install pandas") from error
    return RatingTable(pd.DataFrame(ratings, index=user_ids, columns=item_ids), user_ids, item_ids)


# --------------------------------------------------------------------------- generated ratings


@dataclass(frozen=True, eq=False)
class SyntheticRatings:
    """Generated ratings together with all that they were generated from.

    Attributes
    ----------
    ratings : scipy.sparse.csr_array of shape (n_users, n_items)
        Ratings to train on.
    test : scipy.sparse.csr_array of shape (n_users, n_items)
        Ratings held out, none of them in `ratings`. Nothing is stored in it if none were asked for.
    global_mean : float
        What user and item effects are added to.
    user_biases : ndarray of shape (n_users,), float64
    item_biases : ndarray of shape (n_items,), float64
    user_factors : ndarray of shape (n_users, n_factors), float64
    item_factors : ndarray of shape (n_items, n_factors), float64
    best_rmse : float
        Standard deviation of the noise: the RMSE on held-out ratings that the planted numbers
        themselves have on average, and that no model trained on `ratings` can beat on average.
    """

    ratings: csr_array
    test: csr_array
    global_mean: float
    user_biases: NDArray[np.float64]
    item_biases: NDArray[np.float64]
    user_factors: NDArray[np.float64]
    item_factors: NDArray[np.float64]
    best_rmse: float


def make_ratings(
    n_users: int = 1000,
    n_items: int = 500,
    n_ratings: int = 50_000,
    *,
    n_test: int = 0,
    n_factors: int = 8,
    noise: float = 0.5,
    mean: float = 3.5,
    bias_scale: float = 0.4,
    signal_scale: float = 0.6,
    user_exponent: float = 0.6,
    item_exponent: float = 0.8,
    dtype: DTypeLike = "float64",
    random_state: RandomState = None,
) -> SyntheticRatings:
    """Generate ratings whose best reachable error is known.

    A rating is mean + b_u + c_i + p_u·q_i plus noise, with every number drawn from a normal
    distribution. It is neither rounded nor clipped to a scale. Who rates what does not depend on
    the ratings: cells are drawn one after another without replacement, with odds proportional to
    the activity of the user times the popularity of the item, both power laws of a random rank.
    As no cell is drawn twice, the counts follow flatter laws where the matrix is well filled.

    Parameters
    ----------
    n_users, n_items : int, default 1000 and 500
        Shape of the matrix. With few ratings some users and items have none.
    n_ratings : int, default 50_000
        Exact number of stored training ratings.
    n_test : int, default 0
        Exact number of ratings held out besides, a uniform sample of all that were drawn.
    n_factors : int, default 8
        Rank of the planted interaction; 0 for biases only.
    noise : float, default 0.5
        Standard deviation of the noise, in units of the ratings.
    mean : float, default 3.5
        Planted global mean.
    bias_scale : float, default 0.4
        Standard deviation of the user biases, and of the item biases.
    signal_scale : float, default 0.6
        Standard deviation of p_u·q_i over all users and items.
    user_exponent, item_exponent : float, default 0.6 and 0.8
        The user or item of rank k (from 1) has weight k**-exponent; 0 makes all alike. From 0 to 3.
    dtype : dtype, default "float64"
        Type of the stored ratings: float32 or float64.
    random_state : None, int, sequence of int, or any generator or seed of numpy.random
        Seed. The same seed, parameters and version of NumPy give the same ratings.

    Returns
    -------
    SyntheticRatings
        Ratings in CSR with sorted column indices, int32 wherever those suffice, without duplicates.

    Raises
    ------
    TypeError
        If a parameter is of the wrong type.
    ValueError
        If a parameter is out of range or the matrix has fewer cells than ratings are asked for.

    Notes
    -----
    Time and memory grow with the number of ratings and the size of the factors, not with the
    number of cells: about 0.4 s and 70 MB per million ratings.

    Examples
    --------
    >>> data = make_ratings(200, 100, 5000, n_test=500, noise=0.3, random_state=0)
    >>> data.ratings.nnz, data.test.nnz, data.best_rmse
    (5000, 500, 0.3)
    """
    n_users = check_int(n_users, "n_users", minimum=1)
    n_items = check_int(n_items, "n_items", minimum=1)
    n_test = check_int(n_test, "n_test", minimum=0)
    n_drawn = check_int(n_ratings, "n_ratings", minimum=1) + n_test
    if n_drawn > n_users * n_items:
        raise ValueError(
            f"n_ratings + n_test must be at most n_users * n_items = {n_users * n_items}, "
            f"got {n_drawn}"
        )
    n_factors = check_int(n_factors, "n_factors", minimum=0)
    noise = check_float(noise, "noise")
    mean = check_float(mean, "mean", minimum=-np.inf)
    bias_scale = check_float(bias_scale, "bias_scale")
    signal_scale = check_float(signal_scale, "signal_scale")
    user_weights = _power_law(n_users, user_exponent, "user_exponent")
    item_weights = _power_law(n_items, item_exponent, "item_exponent")
    value_type = check_dtype(dtype)
    rng = make_generator(random_state)

    # The variance of p·q is n_factors times the squared variance of one factor.
    factor_scale = (signal_scale / max(n_factors, 1) ** 0.5) ** 0.5
    user_factors = rng.normal(0.0, factor_scale, (n_users, n_factors))
    item_factors = rng.normal(0.0, factor_scale, (n_items, n_factors))
    user_biases = rng.normal(0.0, bias_scale, n_users)
    item_biases = rng.normal(0.0, bias_scale, n_items)
    keys = _draw_keys(rng, user_weights, item_weights, n_drawn)
    values = rng.normal(mean, noise, n_drawn)
    _add_planted(values, keys, user_biases, item_biases, user_factors, item_factors)
    values = values.astype(value_type, copy=False)
    held_out = np.zeros(n_drawn, dtype=bool)
    held_out[rng.choice(n_drawn, n_test, replace=False, shuffle=False)] = True
    return SyntheticRatings(
        ratings=csr_of_cells(keys[~held_out], values[~held_out], (n_users, n_items)),
        test=csr_of_cells(keys[held_out], values[held_out], (n_users, n_items)),
        global_mean=mean,
        user_biases=user_biases,
        item_biases=item_biases,
        user_factors=user_factors,
        item_factors=item_factors,
        best_rmse=noise,
    )


def _add_planted(
    values: NDArray[np.float64],
    keys: NDArray[np.int64],
    user_biases: NDArray[np.float64],
    item_biases: NDArray[np.float64],
    user_factors: NDArray[np.float64],
    item_factors: NDArray[np.float64],
    length: int = 1 << 18,
) -> None:
    """Add biases and p·q of each cell in place, in parts to keep temporary arrays small."""
    for start in range(0, keys.size, length):
        part = slice(start, start + length)
        users, items = np.divmod(keys[part], item_biases.size)
        values[part] += user_biases[users] + item_biases[items]
        values[part] += np.einsum("rk,rk->r", user_factors[users], item_factors[items])


def _power_law(n_ranks: int, exponent: float, name: str) -> NDArray[np.float64]:
    """Return the weights 1, 2**-exponent, 3**-exponent, …."""
    exponent = check_float(exponent, name)
    if exponent > 3.0:  # far steeper than any real table, and weights must not underflow
        raise ValueError(f"{name} must be at most 3, got {exponent:g}")
    weights: NDArray[np.float64] = np.arange(1.0, n_ranks + 1.0) ** -exponent
    return weights


def _draw_keys(
    rng: np.random.Generator,
    user_weights: NDArray[np.float64],
    item_weights: NDArray[np.float64],
    n_drawn: int,
) -> NDArray[np.int64]:
    """Draw distinct cell numbers, ascending; the weights are those of randomly chosen rows."""
    n_users, n_items = user_weights.size, item_weights.size
    ranks = _draw_cells(rng, user_weights, item_weights, n_drawn)
    users = rng.permutation(n_users)[ranks // n_items]
    keys: NDArray[np.int64] = users * n_items + rng.permutation(n_items)[ranks % n_items]
    keys.sort()
    return keys


def _draw_cells(
    rng: np.random.Generator,
    user_weights: NDArray[np.float64],
    item_weights: NDArray[np.float64],
    n_drawn: int,
) -> NDArray[np.int64]:
    """Draw distinct cells (user * n_items + item) in no particular order; weights descend.

    Drawing cells one after another with odds w_u v_i is the same as giving every cell an
    exponential arrival time of rate w_u v_i and taking the cells that arrive first. Arrivals after
    a horizon that just enough cells reach are never generated, which keeps the cost independent
    of the number of cells and works for any density.
    """
    horizon = _horizon(user_weights, item_weights, n_drawn)
    while True:
        arrivals = [
            _arrivals(rng, user_weights, item_weights, users, items, horizon)
            for users in _octaves(user_weights.size)
            for items in _octaves(item_weights.size)
        ]
        cells = np.concatenate([cells for cells, _ in arrivals])
        if cells.size >= n_drawn:
            times = np.concatenate([times for _, times in arrivals])
            first: NDArray[np.int64] = cells[np.argpartition(times, n_drawn - 1)[:n_drawn]]
            return first
        horizon *= 1.5


def _horizon(
    user_weights: NDArray[np.float64], item_weights: NDArray[np.float64], n_drawn: int
) -> float:
    """Return a time before which `n_drawn` cells almost surely arrive, and few more do."""
    target = n_drawn + 5.0 * n_drawn**0.5 + 5.0
    if target >= user_weights.size * item_weights.size:
        return float("inf")
    user_sizes, user_means = _groups(user_weights)
    item_sizes, item_means = _groups(item_weights)
    sizes = np.outer(user_sizes, item_sizes)
    rates = np.outer(user_means, item_means)

    def expected(horizon: float) -> float:
        return float(-np.sum(sizes * np.expm1(-horizon * rates)))

    high = 1.0
    while expected(high) < target:
        high *= 2.0
    low = 0.0
    for _ in range(20):
        middle = (low + high) / 2.0
        low, high = (middle, high) if expected(middle) < target else (low, middle)
    return high


def _groups(weights: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return sizes and mean weights of at most 200 groups of similar rank."""
    starts = np.unique(np.geomspace(1, weights.size, 200).astype(np.int64)) - 1
    sizes = np.diff(starts, append=weights.size)
    return sizes, np.add.reduceat(weights, starts) / sizes


def _octaves(n_ranks: int) -> list[tuple[int, int]]:
    """Cut ranks into ranges that double in length, so that weights differ little within one."""
    edges = [2**k - 1 for k in range(n_ranks.bit_length())] + [n_ranks]
    return list(itertools.pairwise(edges))


def _arrivals(
    rng: np.random.Generator,
    user_weights: NDArray[np.float64],
    item_weights: NDArray[np.float64],
    users: tuple[int, int],
    items: tuple[int, int],
    horizon: float,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the cells of one block that arrive before the horizon, and when they do.

    Candidates are drawn as if every cell had the block's highest rate; each then gets the arrival
    time that its own rate gives it, and stays if that is early enough.
    """
    n_columns = items[1] - items[0]
    top_rate = user_weights[users[0]] * item_weights[items[0]]
    places = _candidates(rng, horizon * top_rate, (users[1] - users[0]) * n_columns)
    rows, columns = np.divmod(places, n_columns)
    rows += users[0]
    columns += items[0]
    probability = -np.expm1(-horizon * top_rate)
    times = -np.log1p(-probability * rng.random(places.size))
    times /= user_weights[rows] * item_weights[columns]
    kept = times < horizon
    return (rows * item_weights.size + columns)[kept], times[kept]


def _candidates(rng: np.random.Generator, rate: float, n_places: int) -> NDArray[np.int64]:
    """Return places below `n_places`, each there with probability 1 - exp(-rate), ascending."""
    parts, last = [], -1
    while last < n_places - 1:
        mean_left = (n_places - 1 - last) * -np.expm1(-rate)
        size = int(mean_left + 5.0 * mean_left**0.5) + 16
        # A rounded-down exponential gap is a geometric one, which is what lies between successes.
        gaps = np.minimum(rng.standard_exponential(size) / rate, n_places).astype(np.int64) + 1
        parts.append(last + np.cumsum(gaps))
        last = int(parts[-1][-1])
    places = np.concatenate(parts)
    return places[: np.searchsorted(places, n_places)]
