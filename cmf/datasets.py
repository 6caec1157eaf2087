"""Rating tables to try things on: two small ones, generated ones of any size, and MovieLens.

Importing this module loads nothing and opens no connection; only `fetch_movielens` ever does.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import os
import shutil
import sys
import tempfile
import zipfile
import zlib
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_array

from cmf._parameters import check_bool, check_choice, check_dtype, check_float, check_int
from cmf._random import make_generator
from cmf._typing import FloatArray, Ids, RandomState
from cmf.exceptions import DatasetNotFoundError

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
        ratings=_csr(keys[~held_out], values[~held_out], (n_users, n_items)),
        test=_csr(keys[held_out], values[held_out], (n_users, n_items)),
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


def _csr(keys: NDArray[np.int64], values: FloatArray, shape: tuple[int, int]) -> csr_array:
    """Build a CSR array from ascending, distinct cell numbers (row * n_columns + column)."""
    n_rows, n_columns = shape
    fits = max(n_columns, keys.size) <= np.iinfo(np.int32).max
    index_type = np.int32 if fits else np.int64
    row_starts = np.arange(n_rows + 1, dtype=np.int64) * n_columns
    indptr = np.searchsorted(keys, row_starts).astype(index_type)
    return csr_array((values, (keys % n_columns).astype(index_type), indptr), shape=shape)


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


# --------------------------------------------------------------------------- MovieLens

_URL = "https://files.grouplens.org/datasets/movielens/"
_TIMEOUT = 30.0  # seconds without a byte
_LARGEST_ARCHIVE = 64 << 20  # bytes; both archives are below 6 MB


@dataclass(frozen=True)
class _Source:
    """Where one MovieLens set comes from and how its files are called."""

    folder: str
    sha256: str
    full: str
    compact: tuple[str, ...]
    titles: str
    title_separator: str
    others: tuple[str, ...]

    @property
    def url(self) -> str:
        return f"{_URL}{self.folder}.zip"

    @property
    def members(self) -> tuple[str, ...]:
        """Files to keep of the publisher's archive, the licence among them."""
        return ("README", self.titles, *self.others, self.full)

    def rating_files(self, home: Path) -> list[Path]:
        """Files in `home` that together hold all ratings; empty if there are none."""
        for names in ((self.full,), self.compact):
            files = [home / self.folder / name for name in names]
            if all(file.is_file() for file in files):
                return files
        return []


_FOLDS = tuple((f"u{k}.base", f"u{k}.test") for k in range(1, 6))
_SOURCES = {
    "100k": _Source(
        folder="ml-100k",
        sha256="50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        full="u.data",
        compact=_FOLDS[0],
        titles="u.item",
        title_separator="|",
        others=tuple(itertools.chain(*_FOLDS)),
    ),
    "1m": _Source(
        folder="ml-1m",
        sha256="a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        full="ratings.dat",
        compact=("ratings.tsv.gz",),
        titles="movies.dat",
        title_separator="::",
        others=(),
    ),
}


@dataclass(frozen=True, eq=False)
class MovieLens:
    """A MovieLens set.

    Attributes
    ----------
    name : str
        ``"100k"`` or ``"1m"``.
    ratings : scipy.sparse.csr_array of shape (n_users, n_items)
        Ratings from 1 to 5 with sorted column indices; rows and columns in the order of the ids.
    user_ids : ndarray of shape (n_users,), int64
        The publisher's number of each row's user, ascending.
    item_ids : ndarray of shape (n_items,), int64
        The publisher's number of each column's movie, ascending.
    titles : ndarray of shape (n_items,), dtype object
        Title and year of each movie as str; ``""`` where no title is known.
    timestamps : ndarray of shape (n_ratings,), int64, or None
        When each entry of ``ratings.data`` was given, in seconds since 1970 (UTC); None if the
        local copy does not say.
    folds : tuple of five (train, test) pairs of csr_array, or None
        The official cross-validation folds u1 to u5 of MovieLens 100K, each of the shape of
        `ratings`. None for the other sets, and where the local copy lacks a file of them.
    """

    name: str
    ratings: csr_array
    user_ids: NDArray[np.int64]
    item_ids: NDArray[np.int64]
    titles: Ids
    timestamps: NDArray[np.int64] | None
    folds: tuple[tuple[csr_array, csr_array], ...] | None


def fetch_movielens(
    name: Literal["100k", "1m"],
    *,
    data_home: str | os.PathLike[str] | None = None,
    download: bool = True,
    progress: bool = True,
    dtype: DTypeLike = "float64",
) -> MovieLens:
    r"""Load a MovieLens set from a local copy, or from its publisher the first time.

    The folder ``ml-100k`` or ``ml-1m`` is looked for in `data_home`, in the folder that the
    environment variable ``CMF_DATA_HOME`` names, and in the cache folder, in this order. The cache
    is ``$XDG_CACHE_HOME/cmf``, by default ``~/.cache/cmf``, and ``%LOCALAPPDATA%\cmf`` on Windows.
    Failing that, the publisher's archive (5 or 6 MB) is downloaded, checked against a known SHA-256
    before anything is unpacked, and unpacked into the cache folder.

    Parameters
    ----------
    name : {"100k", "1m"}
        100,000 ratings by 943 users of 1,682 movies, or 1,000,209 by 6,040 of 3,706.
    data_home : str or path-like, optional
        Folder to look in first. Nothing is ever written to it.
    download : bool, default True
        Whether the network may be used.
    progress : bool, default True
        Whether a download shows a bar on the standard error stream.
    dtype : dtype, default "float64"
        Type of the stored ratings: float32 or float64.

    Returns
    -------
    MovieLens
        Ratings in CSR, ids, titles and, for 100K, the official folds.

    Raises
    ------
    DatasetNotFoundError
        If no folder has the set and it cannot be downloaded; the message says where it was looked
        for and why the download failed.
    TypeError
        If a parameter is of the wrong type.
    ValueError
        If `name` or `dtype` is not one of those above, or a local file is damaged.

    Notes
    -----
    The publisher, GroupLens Research at the University of Minnesota, allows use for research only
    and no redistribution; the file ``README`` beside the data has the terms, and asks to cite [1]_.

    A local copy is either as the publisher unpacks (``u.data``, ``u.item``, ``u1.base``, … or
    ``ratings.dat``, ``movies.dat``) or compact: only the fold files (``u1.base`` and ``u1.test``
    at the least) or ``ratings.tsv.gz`` (user, movie, rating, separated by tabs). The file of titles
    may be missing.

    Loading takes about 0.5 s. Several processes may fetch at the same time.

    References
    ----------
    .. [1] F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM
       Transactions on Interactive Intelligent Systems 5(4), 2015.

    Examples
    --------
    >>> from cmf.datasets import fetch_movielens
    >>> movies = fetch_movielens("100k")  # doctest: +SKIP
    >>> movies.ratings.shape  # doctest: +SKIP
    (943, 1682)
    """
    source = _SOURCES[check_choice(name, "name", tuple(_SOURCES))]
    download = check_bool(download, "download")
    progress = check_bool(progress, "progress")
    value_type = check_dtype(dtype)
    homes = _local_homes(data_home)
    found = next((home for home in homes.values() if source.rating_files(home)), None)
    if found is None:
        found = homes["the cache folder"] = _cache_folder()
        if not source.rating_files(found):
            _obtain(source, homes, download, progress)
    return _read_set(name, source, found, value_type)


def _local_homes(data_home: str | os.PathLike[str] | None) -> dict[str, Path]:
    """Return the folders that the user named, in order, by what messages call them."""
    homes = {}
    if data_home is not None:
        if not isinstance(data_home, (str, os.PathLike)):
            raise TypeError(f"data_home must be a path, got {type(data_home).__name__}")
        homes["data_home"] = Path(data_home).expanduser()
    if from_environment := os.environ.get("CMF_DATA_HOME"):
        homes["CMF_DATA_HOME"] = Path(from_environment).expanduser()
    return homes


def _cache_folder() -> Path:
    """Return the folder for downloads, which need not exist yet."""
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    parent = Path(os.environ.get(variable, ""))
    if not parent.is_absolute():  # unset, or one that the XDG rules say to ignore
        try:
            parent = Path.home() / ".cache"
        except RuntimeError as error:
            raise DatasetNotFoundError(
                f"there is no home folder to keep downloads in: set {variable} or CMF_DATA_HOME"
            ) from error
    return parent / "cmf"


def _obtain(source: _Source, homes: dict[str, Path], download: bool, progress: bool) -> None:
    """Download a set that none of the folders has into the last of them, or say why not."""
    reason, cause = "download=False", None
    if download:
        try:
            _download(source, list(homes.values())[-1], progress)
            return
        except OSError as error:
            reason, cause = f"downloading {source.url} failed: {error!r}", error
    places = ", ".join(f"{home / source.folder} ({what})" for what, home in homes.items())
    raise DatasetNotFoundError(
        f"MovieLens {source.folder} was not found: neither {source.full} nor "
        f"{' and '.join(source.compact)} is in {places}; {reason}. Set CMF_DATA_HOME to a folder "
        f"that holds {source.folder}/ (unpacked from {source.url}), or pass it as data_home."
    ) from cause


def _download(source: _Source, cache: Path, progress: bool) -> None:
    """Bring one set into the cache folder, whole or not at all."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{source.folder}-", dir=cache) as folder:
        archive, unpacked = Path(folder, "archive.zip"), Path(folder, source.folder)
        with archive.open("wb") as file:
            _transfer(source, file, progress)
        # Only known names are unpacked, so no entry of the archive can name another place.
        unpacked.mkdir()
        with zipfile.ZipFile(archive) as entries:
            for member in source.members:
                with (
                    entries.open(f"{source.folder}/{member}") as packed,
                    (unpacked / member).open("wb") as file,
                ):
                    shutil.copyfileobj(packed, file)
        target = cache / source.folder
        try:
            unpacked.rename(target)
        except OSError:  # an incomplete folder is in the way, or another process was faster
            for member in source.members:
                (unpacked / member).replace(target / member)


def _transfer(source: _Source, file: BinaryIO, progress: bool) -> None:
    """Write the publisher's archive to `file`; OSError if it is not the one that is known."""
    # Imported here: loading them takes longer than the rest of the library does.
    import http.client
    import urllib.request

    request = urllib.request.Request(source.url, headers={"User-Agent": "cmf"})
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as reply:
            announced = reply.headers.get("Content-Length")
            with _progress_bar(f"{source.folder}.zip", announced, progress) as bar:
                while chunk := reply.read(1 << 16):
                    digest.update(chunk)
                    file.write(chunk)
                    if file.tell() > _LARGEST_ARCHIVE:
                        raise OSError(f"the archive is larger than {_LARGEST_ARCHIVE} bytes")
                    if bar is not None:
                        bar.update(len(chunk))
    except http.client.HTTPException as error:
        raise OSError(repr(error)) from error
    if digest.hexdigest() != source.sha256:
        raise OSError(
            f"the {file.tell()} bytes received have the wrong checksum: "
            f"sha256 {digest.hexdigest()}, expected {source.sha256}"
        )


def _progress_bar(name: str, announced: str | None, progress: bool) -> Any:
    """Return a context manager that gives a bar of bytes, or None if none is wanted."""
    if not progress:
        return nullcontext()
    from tqdm.auto import tqdm  # type: ignore[import-untyped,unused-ignore]

    total = int(announced) if announced and announced.isdecimal() else None
    return tqdm(desc=name, total=total, unit="B", unit_scale=True, unit_divisor=1024)


def _read_set(name: str, source: _Source, home: Path, dtype: str) -> MovieLens:
    """Read a set whose rating files are known to be there."""
    files = source.rating_files(home)
    tables = [_read_table(file) for file in files]
    n_columns = min(table.shape[1] for table in tables)
    table = np.concatenate([table[:, :n_columns] for table in tables])
    user_ids, item_ids = np.unique(table[:, 0]), np.unique(table[:, 1])
    ratings, order = _table_to_csr(table, user_ids, item_ids, dtype, files[0])
    folder = home / source.folder
    return MovieLens(
        name=name,
        ratings=ratings,
        user_ids=user_ids,
        item_ids=item_ids,
        titles=_read_titles(folder / source.titles, source.title_separator, item_ids),
        timestamps=table[order, 3] if n_columns > 3 else None,
        folds=_read_folds(folder, user_ids, item_ids, dtype) if name == "100k" else None,
    )


def _read_table(file: Path) -> NDArray[np.int64]:
    """Read user, item, rating and perhaps time, one rating per line."""
    content = file.read_bytes()
    try:
        if file.suffix == ".gz":
            content = gzip.decompress(content)
        if not content.strip():
            raise ValueError("it is empty")
        lines = io.BytesIO(content.replace(b"::", b"\t"))
        table = np.loadtxt(lines, dtype=np.int64, delimiter="\t", comments=None, ndmin=2)
        if table.shape[1] < 3:
            raise ValueError("its lines have fewer than three columns")
        if table[:, 2].min() < 1 or table[:, 2].max() > 5:
            raise ValueError("it has ratings that are not from 1 to 5")
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    return table


def _table_to_csr(
    table: NDArray[np.int64],
    user_ids: NDArray[np.int64],
    item_ids: NDArray[np.int64],
    dtype: str,
    file: Path,
) -> tuple[csr_array, NDArray[np.intp]]:
    """Build a CSR array; also return the line of the table that each stored entry is from."""
    users = np.searchsorted(user_ids, table[:, 0]).clip(max=user_ids.size - 1)
    items = np.searchsorted(item_ids, table[:, 1]).clip(max=item_ids.size - 1)
    known = (user_ids[users] == table[:, 0]) & (item_ids[items] == table[:, 1])
    if not known.all():
        user, item = table[np.argmin(known), :2]
        raise ValueError(f"{file} is damaged: user {user}, item {item} is not in the full set")
    keys = users * item_ids.size + items
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    repeated = np.flatnonzero(keys[1:] == keys[:-1])
    if repeated.size:
        user, item = table[order[repeated[0]], :2]
        raise ValueError(f"{file} is damaged: user {user}, item {item} is there more than once")
    values = table[order, 2].astype(dtype)
    return _csr(keys, values, (user_ids.size, item_ids.size)), order


def _read_folds(
    folder: Path, user_ids: NDArray[np.int64], item_ids: NDArray[np.int64], dtype: str
) -> tuple[tuple[csr_array, csr_array], ...] | None:
    """Read the five folds of MovieLens 100K, if all their files are there."""
    if not all((folder / name).is_file() for name in itertools.chain(*_FOLDS)):
        return None

    def read(name: str) -> csr_array:
        file = folder / name
        return _table_to_csr(_read_table(file), user_ids, item_ids, dtype, file)[0]

    return tuple((read(train), read(test)) for train, test in _FOLDS)


def _read_titles(file: Path, separator: str, item_ids: NDArray[np.int64]) -> Ids:
    """Return the titles of the movies, empty where the file does not name them."""
    titles: dict[int, str] = {}
    if file.is_file():
        content = file.read_bytes()
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:  # the publisher's own encoding
            text = content.decode("latin-1")
        for number, line in enumerate(text.rstrip("\r\n").split("\n"), start=1):
            item, _, rest = line.partition(separator)
            if not (item.isascii() and item.isdecimal()):
                raise ValueError(f"{file} is damaged: line {number} does not start with an item id")
            titles[int(item)] = rest.partition(separator)[0].strip()
    return np.array([titles.get(item, "") for item in item_ids.tolist()], dtype=object)
