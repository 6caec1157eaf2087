"""MovieLens: from a local folder in either layout, or from its publisher."""

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

from cmf._cells import csr_of_cells
from cmf._parameters import check_bool, check_choice, check_dtype
from cmf._typing import Ids
from cmf.exceptions import DatasetNotFoundError

__all__ = ["MovieLens", "fetch_movielens"]

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
    return csr_of_cells(keys, values, (user_ids.size, item_ids.size)), order


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
