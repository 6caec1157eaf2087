"""Rating tables: the two small ones, generated ones, and MovieLens without a network."""

import dataclasses
import gzip
import hashlib
import io
import os
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from http.client import IncompleteRead
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from cmf import _movielens, datasets
from cmf.datasets import fetch_movielens, load_music, load_sample, make_ratings
from cmf.exceptions import DatasetNotFoundError

REAL_HOME = os.environ.get("CMF_DATA_HOME", "")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """No test reaches the network, the user's cache or the user's data unless it says so."""

    def refuse(request, timeout):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.delenv("CMF_DATA_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cmf"


# ------------------------------------------------------------------------- two small tables


def test_music_is_the_reference_table():
    music = load_music()
    expected = [
        [4, 4, 2, 0, 1, 2, 2, 0, 0, 4, 0, 5],
        [1, 0, 5, 0, 5, 2, 2, 5, 5, 2, 2, 1],
        [5, 5, 2, 1, 2, 3, 4, 4, 0, 5, 5, 4],
        [2, 0, 5, 5, 5, 4, 3, 2, 3, 4, 2, 0],
    ]
    np.testing.assert_array_equal(music.ratings, expected)
    assert music.ratings.dtype == np.float64
    assert music.ratings.flags.c_contiguous
    assert music.user_ids.tolist() == ["Darth Vader", "Hermione", "Ripley", "Spock"]
    assert music.item_ids.tolist() == [
        "Another One Bites the Dust",
        "Back in Black",
        "Bohemian Rhapsody",
        "Brandenburg Concerto No. 3",
        "Clair de Lune",
        "Comfortably Numb",
        "Don't Stop Believin'",
        "Firework",
        "Hedwig's Theme",
        "O Fortuna",
        "Survivor",
        "The Imperial March",
    ]
    assert music.user_ids.dtype == music.item_ids.dtype == object
    assert np.count_nonzero(music.ratings) == 39


def test_sample_is_the_reference_table():
    sample = load_sample()
    expected = [[5, 3, 0, 1], [4, 0, 0, 1], [1, 1, 0, 5], [1, 0, 0, 4], [0, 1, 5, 4], [2, 1, 3, 0]]
    np.testing.assert_array_equal(sample.ratings, expected)
    assert sample.ratings.dtype == np.float64
    assert sample.user_ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert sample.item_ids.tolist() == [0, 1, 2, 3]
    assert np.count_nonzero(sample.ratings) == 16


@pytest.mark.parametrize("load", [load_music, load_sample])
def test_table_as_frame_is_labelled(load):
    table, frame = load(), load(as_frame=True).ratings
    np.testing.assert_array_equal(frame.to_numpy(), table.ratings)
    assert frame.index.tolist() == table.user_ids.tolist()
    assert frame.columns.tolist() == table.item_ids.tolist()


@pytest.mark.parametrize("load", [load_music, load_sample])
def test_tables_are_new_with_each_call(load):
    load().ratings[:] = 9
    assert load().ratings.max() == 5


def test_table_as_frame_without_pandas_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert load_sample().ratings.shape == (6, 4)
    with pytest.raises(ImportError, match="as_frame=True needs pandas: pip install pandas"):
        load_sample(as_frame=True)


def test_importing_the_module_loads_nothing_slow():
    code = (
        "import sys, numpy, scipy.sparse; before = set(sys.modules); import cmf.datasets\n"
        "print(sorted({'pandas', 'tqdm', 'urllib.request', 'http.client', 'ssl', 'narwhals'}"
        " & (set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(datasets.__file__).parents[1])},
    )
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------- generated ratings


def keys_of(matrix):
    coo = matrix.tocoo()
    return coo.row.astype(np.int64) * matrix.shape[1] + coo.col


def planted_ratings(data, matrix):
    coo = matrix.tocoo()
    return (
        data.global_mean
        + data.user_biases[coo.row]
        + data.item_biases[coo.col]
        + (data.user_factors[coo.row] * data.item_factors[coo.col]).sum(axis=1)
    )


@pytest.mark.parametrize(
    ("n_users", "n_items", "n_ratings", "n_test"),
    [
        (1, 1, 1, 0),
        (7, 5, 35, 0),
        (7, 5, 20, 15),
        (7, 5, 34, 0),
        (300, 200, 59_000, 900),
        (5, 100_000, 3000, 100),
        (100_000, 5, 3000, 100),
        (400, 300, 6000, 1),
    ],
)
@pytest.mark.parametrize("exponent", [0, 0.8, 3])
def test_counts_are_exact_and_nothing_is_drawn_twice(n_users, n_items, n_ratings, n_test, exponent):
    data = make_ratings(
        n_users,
        n_items,
        n_ratings,
        n_test=n_test,
        user_exponent=exponent,
        item_exponent=exponent,
        random_state=1,
    )
    for matrix, size in ((data.ratings, n_ratings), (data.test, n_test)):
        assert isinstance(matrix, csr_array)
        assert matrix.shape == (n_users, n_items)
        assert matrix.nnz == size
        assert matrix.indices.dtype == matrix.indptr.dtype == np.int32
        assert matrix.has_sorted_indices
    keys = np.concatenate([keys_of(data.ratings), keys_of(data.test)])
    assert np.unique(keys).size == n_ratings + n_test
    assert keys.min() >= 0
    assert keys.max() < n_users * n_items


def test_planted_parameters_reproduce_ratings_without_noise():
    data = make_ratings(60, 40, 1000, n_test=200, n_factors=3, noise=0, random_state=2)
    assert data.best_rmse == 0.0
    for matrix in (data.ratings, data.test):
        np.testing.assert_allclose(matrix.data, planted_ratings(data, matrix), rtol=1e-12)


def test_noise_is_what_it_is_said_to_be_and_independent_of_the_cell():
    data = make_ratings(
        800, 500, 150_000, n_test=50_000, noise=0.7, mean=-2.0, bias_scale=0.3, random_state=3
    )
    assert data.best_rmse == 0.7
    assert data.global_mean == -2.0
    for matrix in (data.ratings, data.test):
        residuals = matrix.data - planted_ratings(data, matrix)
        assert residuals.mean() == pytest.approx(0, abs=5 * 0.7 / residuals.size**0.5)
        assert residuals.std() == pytest.approx(0.7, rel=5 / (2 * residuals.size) ** 0.5)
        assert abs(np.corrcoef(residuals[1:], residuals[:-1])[0, 1]) < 5 / residuals.size**0.5


def test_scales_are_those_of_the_planted_numbers():
    data = make_ratings(
        4000, 3000, 10, n_factors=5, bias_scale=0.3, signal_scale=0.9, random_state=4
    )
    assert data.user_factors.shape == (4000, 5)
    assert data.item_factors.shape == (3000, 5)
    assert data.user_biases.std() == pytest.approx(0.3, rel=0.06)
    assert data.item_biases.std() == pytest.approx(0.3, rel=0.06)
    assert (data.user_factors @ data.item_factors.T).std() == pytest.approx(0.9, rel=0.06)


def test_no_factors_plants_biases_only():
    data = make_ratings(30, 20, 100, n_factors=0, noise=0, bias_scale=0, random_state=5)
    assert data.user_factors.shape == (30, 0)
    np.testing.assert_array_equal(data.ratings.data, 3.5)


def rank_size_slope(counts, first, last):
    counts = np.sort(counts)[::-1][first:last]
    return np.polyfit(np.log(np.arange(first, last) + 1), np.log(counts), 1)[0]


def test_users_and_items_follow_their_power_laws():
    # Sparse, because no cell is drawn twice: where users have rated most of the popular items,
    # both laws are flatter.
    data = make_ratings(
        20_000, 10_000, 500_000, user_exponent=0.4, item_exponent=0.6, random_state=6
    ).ratings
    users, items = np.diff(data.indptr), np.bincount(data.indices, minlength=10_000)
    assert rank_size_slope(users, 20, 5000) == pytest.approx(-0.4, abs=0.03)
    assert rank_size_slope(items, 20, 3000) == pytest.approx(-0.6, abs=0.03)
    # Ranks are shuffled: popularity does not fall with the number of the row or column.
    assert abs(np.corrcoef(users, np.arange(20_000))[0, 1]) < 5 / 20_000**0.5
    assert abs(np.corrcoef(items, np.arange(10_000))[0, 1]) < 5 / 10_000**0.5


def test_exponent_zero_is_uniform():
    data = make_ratings(500, 400, 100_000, user_exponent=0, item_exponent=0, random_state=7).ratings
    counts = np.diff(data.indptr)
    assert counts.std() == pytest.approx((400 * 0.5 * 0.5) ** 0.5, rel=0.15)


@pytest.mark.parametrize(("shape", "n_drawn"), [((4, 3), 5), ((40, 30), 200)])
def test_cells_are_drawn_by_successive_sampling(shape, n_drawn):
    """Same inclusion frequencies as drawing one cell after another, for both kinds of horizon."""
    n_users, n_items = shape
    users, items = np.arange(1.0, n_users + 1) ** -1.0, np.arange(1.0, n_items + 1) ** -0.5
    odds = np.outer(users, items).ravel()
    odds /= odds.sum()
    rng = np.random.default_rng(8)
    n_rounds = 1500
    drawn, expected = np.zeros(odds.size), np.zeros(odds.size)
    for _ in range(n_rounds):
        drawn[datasets._draw_cells(rng, users, items, n_drawn)] += 1
        expected[rng.choice(odds.size, n_drawn, replace=False, p=odds)] += 1
    share = (drawn + expected) / (2 * n_rounds)
    deviation = np.sqrt(2 * n_rounds * share * (1 - share))
    z = (drawn - expected) / np.maximum(deviation, 1.0)
    assert np.abs(z).max() < 5
    assert drawn.sum() == n_rounds * n_drawn


def test_cells_are_drawn_again_if_too_few_arrive(monkeypatch):
    monkeypatch.setattr(datasets, "_horizon", lambda *arguments: 0.5)
    cells = datasets._draw_cells(np.random.default_rng(9), np.ones(20), np.ones(10), 150)
    assert np.unique(cells).size == 150


def test_same_seed_same_ratings_other_seed_others():
    first, again, other = (
        make_ratings(50, 40, 300, n_test=30, random_state=seed) for seed in (10, 10, 11)
    )
    for field in ("ratings", "test"):
        one, two = getattr(first, field), getattr(again, field)
        np.testing.assert_array_equal(one.data, two.data)
        np.testing.assert_array_equal(one.indices, two.indices)
        np.testing.assert_array_equal(one.indptr, two.indptr)
    assert not np.array_equal(first.ratings.data, other.ratings.data)
    assert not np.array_equal(first.ratings.indices, other.ratings.indices)


@pytest.mark.parametrize("dtype", ["float32", np.float64])
def test_dtype_is_that_of_the_stored_ratings(dtype):
    data = make_ratings(50, 40, 300, n_test=30, dtype=dtype, random_state=12)
    assert data.ratings.dtype == data.test.dtype == np.dtype(dtype)
    assert data.user_factors.dtype == np.float64


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_users": 0}, ValueError, "n_users must be at least 1, got 0"),
        ({"n_items": 2.0}, TypeError, "n_items must be an integer"),
        ({"n_ratings": 0}, ValueError, "n_ratings must be at least 1, got 0"),
        ({"n_ratings": True}, TypeError, "n_ratings must be an integer"),
        ({"n_test": -1}, ValueError, "n_test must be at least 0, got -1"),
        (
            {"n_users": 6, "n_items": 5, "n_ratings": 29, "n_test": 2},
            ValueError,
            r"n_ratings \+ n_test must be at most n_users \* n_items = 30, got 31",
        ),
        ({"n_factors": -1}, ValueError, "n_factors must be at least 0, got -1"),
        ({"noise": -0.1}, ValueError, "noise must be at least 0, got -0.1"),
        ({"noise": float("nan")}, ValueError, "noise must be finite"),
        ({"mean": float("inf")}, ValueError, "mean must be finite"),
        ({"bias_scale": "1"}, TypeError, "bias_scale must be a number"),
        ({"signal_scale": -1}, ValueError, "signal_scale must be at least 0, got -1"),
        ({"user_exponent": -1}, ValueError, "user_exponent must be at least 0, got -1"),
        ({"item_exponent": 3.5}, ValueError, "item_exponent must be at most 3, got 3.5"),
        ({"dtype": "int32"}, ValueError, "dtype must be 'float32' or 'float64', got 'int32'"),
        ({"random_state": -1}, ValueError, "random_state must be 0 or more, got -1"),
    ],
    ids=lambda case: str(case)[:40],
)
def test_make_ratings_refuses_bad_parameters(parameters, error, message):
    with pytest.raises(error, match=message):
        make_ratings(**parameters)


# ------------------------------------------------------------------------- MovieLens

# user, item, rating, time; ids with gaps, lines not sorted.
LINES_100K = [(3, 10, 4, 900), (1, 20, 5, 901), (1, 10, 3, 902), (3, 40, 1, 903), (2, 20, 2, 904)]
DENSE_100K = [[3, 5, 0], [0, 2, 0], [4, 0, 1]]
TITLES_100K = "10|Léon (1994)|x|y\n20|Toy Story (1995)|z\n30|Not rated (1996)|\n"
LINES_1M = [(6, 8, 4, 70), (6, 2, 3, 71), (5, 8, 1, 72)]
TITLES_1M = "2::Café au Lait (1993)::Comedy\n8::Heat: One (1995)::Action|Crime\n"


def table(lines, separator="\t"):
    return "".join(separator.join(map(str, line)) + "\n" for line in lines).encode()


def publisher_100k():
    files = {"u.data": table(LINES_100K), "u.item": TITLES_100K.encode("latin-1"), "README": b"!"}
    for k in range(1, 6):
        files[f"u{k}.base"] = table(LINES_100K[: k - 1] + LINES_100K[k:])
        files[f"u{k}.test"] = table(LINES_100K[k - 1 : k])
    return files


def publisher_1m():
    return {
        "ratings.dat": table(LINES_1M, "::"),
        "movies.dat": TITLES_1M.encode("latin-1"),
        "README": b"!",
    }


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder.parent


def assert_is_tiny_100k(movies):
    assert movies.name == "100k"
    np.testing.assert_array_equal(movies.ratings.toarray(), DENSE_100K)
    assert movies.user_ids.tolist() == [1, 2, 3]
    assert movies.item_ids.tolist() == [10, 20, 40]
    assert movies.user_ids.dtype == movies.item_ids.dtype == np.int64
    assert movies.timestamps.tolist() == [902, 901, 904, 900, 903]


def test_publishers_layout_of_100k(tmp_path):
    home = write(tmp_path / "ml-100k", publisher_100k())
    movies = fetch_movielens("100k", data_home=home)
    assert_is_tiny_100k(movies)
    assert movies.titles.tolist() == ["Léon (1994)", "Toy Story (1995)", ""]
    assert movies.titles.dtype == object
    assert len(movies.folds) == 5
    for train, test in movies.folds:
        assert train.shape == test.shape == (3, 3)
        assert (train.nnz, test.nnz) == (4, 1)
        np.testing.assert_array_equal((train + test).toarray(), DENSE_100K)
    assert movies.folds[1][1][0, 1] == 5


def test_compact_layout_of_100k(tmp_path):
    files = publisher_100k()
    files = {name: files[name] for name in ("u1.base", "u1.test")}
    movies = fetch_movielens("100k", data_home=write(tmp_path / "ml-100k", files))
    assert_is_tiny_100k(movies)
    assert movies.titles.tolist() == ["", "", ""]
    assert movies.folds is None


def test_titles_in_utf8(tmp_path):
    files = publisher_100k() | {"u.item": TITLES_100K.replace("\n", "\r\n").encode()}
    movies = fetch_movielens("100k", data_home=write(tmp_path / "ml-100k", files))
    assert movies.titles.tolist() == ["Léon (1994)", "Toy Story (1995)", ""]


def test_publishers_layout_of_1m(tmp_path):
    movies = fetch_movielens("1m", data_home=write(tmp_path / "ml-1m", publisher_1m()))
    np.testing.assert_array_equal(movies.ratings.toarray(), [[0, 1], [3, 4]])
    assert movies.user_ids.tolist() == [5, 6]
    assert movies.item_ids.tolist() == [2, 8]
    assert movies.titles.tolist() == ["Café au Lait (1993)", "Heat: One (1995)"]
    assert movies.timestamps.tolist() == [72, 71, 70]
    assert movies.folds is None


def test_compact_layout_of_1m(tmp_path):
    files = {"ratings.tsv.gz": gzip.compress(table(line[:3] for line in LINES_1M))}
    home = write(tmp_path / "ml-1m", files)
    movies = fetch_movielens("1m", data_home=str(home), dtype="float32")
    np.testing.assert_array_equal(movies.ratings.toarray(), [[0, 1], [3, 4]])
    assert movies.ratings.dtype == np.float32
    assert movies.timestamps is None


def test_folders_are_looked_in_in_order(tmp_path, monkeypatch, cache):
    def place(home, rating):
        write(home / "ml-1m", {"ratings.dat": f"1::1::{rating}::7\n".encode()})

    def found(**options):
        return fetch_movielens("1m", **options).ratings.data.tolist()

    place(cache, 1)
    assert found() == [1]
    monkeypatch.setenv("CMF_DATA_HOME", str(tmp_path / "environment"))
    assert found() == [1]
    place(tmp_path / "environment", 2)
    assert found() == [2]
    assert found(data_home=tmp_path / "empty") == [2]
    place(tmp_path / "argument", 3)
    assert found(data_home=tmp_path / "argument") == [3]


def test_set_that_is_nowhere_is_explained(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("CMF_DATA_HOME", str(tmp_path / "environment"))
    with pytest.raises(DatasetNotFoundError) as caught:
        fetch_movielens("100k", data_home=tmp_path / "argument", progress=False)
    message = str(caught.value)
    for part in (
        f"{tmp_path / 'argument' / 'ml-100k'} (data_home)",
        f"{tmp_path / 'environment' / 'ml-100k'} (CMF_DATA_HOME)",
        f"{cache / 'ml-100k'} (the cache folder)",
        "neither u.data nor u1.base and u1.test",
        "https://files.grouplens.org/datasets/movielens/ml-100k.zip failed",
        "no network in tests",
        "Set CMF_DATA_HOME to a folder that holds ml-100k/",
    ):
        assert part in message
    assert isinstance(caught.value.__cause__, urllib.error.URLError)


def test_without_download_nothing_is_opened_or_written(monkeypatch, cache):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kw: pytest.fail("opened"))
    with pytest.raises(DatasetNotFoundError, match=r"ml-1m was not found.*; download=False"):
        fetch_movielens("1m", download=False)
    assert not cache.exists()


class Reply(io.BytesIO):
    def __init__(self, content):
        super().__init__(content)
        self.headers = {"Content-Length": str(len(content))}


def archive(folder, files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as entries:
        for name, content in files.items():
            entries.writestr(f"{folder}/{name}", content)
    return packed.getvalue()


def serve(monkeypatch, name, content, *, checksum=None):
    """Answer the publisher's address with `content`, which is what is expected unless said."""
    checksum = checksum or hashlib.sha256(content).hexdigest()
    source = dataclasses.replace(_movielens._SOURCES[name], sha256=checksum)
    monkeypatch.setitem(_movielens._SOURCES, name, source)
    opened = []

    def urlopen(request, timeout):
        assert timeout > 0
        opened.append(request.full_url)
        return Reply(content)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return opened


def test_download_fills_the_cache_once(monkeypatch, cache, capsys):
    opened = serve(monkeypatch, "100k", archive("ml-100k", publisher_100k()))
    assert_is_tiny_100k(fetch_movielens("100k", progress=False))
    assert_is_tiny_100k(fetch_movielens("100k", progress=False))
    assert opened == ["https://files.grouplens.org/datasets/movielens/ml-100k.zip"]
    assert [entry.name for entry in cache.iterdir()] == ["ml-100k"]
    assert {entry.name for entry in (cache / "ml-100k").iterdir()} == set(publisher_100k())
    assert capsys.readouterr().err == ""


def test_download_shows_a_bar_on_standard_error(monkeypatch, capsys):
    opened = serve(monkeypatch, "1m", archive("ml-1m", publisher_1m()))
    assert fetch_movielens("1m").ratings.nnz == 3
    assert opened == ["https://files.grouplens.org/datasets/movielens/ml-1m.zip"]
    printed = capsys.readouterr()
    assert "ml-1m.zip: 100%" in printed.err
    assert printed.out == ""


def test_download_completes_a_folder_that_is_incomplete(monkeypatch, cache):
    write(cache / "ml-1m", {"movies.dat": b"2::Old::x\n", "mine.txt": b"kept"})
    serve(monkeypatch, "1m", archive("ml-1m", publisher_1m()))
    assert fetch_movielens("1m", progress=False).titles[0] == "Café au Lait (1993)"
    assert (cache / "ml-1m" / "mine.txt").read_bytes() == b"kept"


def test_wrong_checksum_unpacks_nothing(monkeypatch, cache):
    serve(monkeypatch, "1m", archive("ml-1m", publisher_1m()), checksum="0" * 64)
    with pytest.raises(
        DatasetNotFoundError, match=r"wrong checksum: sha256 [0-9a-f]{64}, expected"
    ):
        fetch_movielens("1m", progress=False)
    assert list(cache.iterdir()) == []


def test_known_checksums_are_those_of_the_publisher():
    assert {name: source.sha256[:8] for name, source in _movielens._SOURCES.items()} == {
        "100k": "50d2a982",
        "1m": "a6898adb",
    }
    assert all(len(source.sha256) == 64 for source in _movielens._SOURCES.values())


def test_endless_archive_is_given_up(monkeypatch, cache):
    serve(monkeypatch, "1m", bytes(300_000))
    monkeypatch.setattr(_movielens, "_LARGEST_ARCHIVE", 100_000)
    with pytest.raises(DatasetNotFoundError, match="archive is larger than 100000 bytes"):
        fetch_movielens("1m", progress=False)
    assert list(cache.iterdir()) == []


def test_interrupted_download_is_explained(monkeypatch, cache):
    class Interrupted(Reply):
        def read(self, size=-1):
            raise IncompleteRead(b"", 10)

    monkeypatch.setattr(urllib.request, "urlopen", lambda request, timeout: Interrupted(b"x"))
    with pytest.raises(DatasetNotFoundError, match="IncompleteRead"):
        fetch_movielens("1m", progress=False)
    assert list(cache.iterdir()) == []


def test_cache_that_cannot_be_written_is_explained(monkeypatch, cache):
    cache.parent.mkdir()
    cache.write_bytes(b"a file, not a folder")
    serve(monkeypatch, "1m", archive("ml-1m", publisher_1m()))
    with pytest.raises(DatasetNotFoundError, match="FileExistsError"):
        fetch_movielens("1m", progress=False)


def test_archive_cannot_write_outside_its_folder(monkeypatch, cache, tmp_path):
    files = publisher_1m() | {"../../evil.txt": b"x", "../../../evil.txt": b"x", "more.txt": b"x"}
    serve(monkeypatch, "1m", archive("ml-1m", files))
    fetch_movielens("1m", progress=False)
    assert list(tmp_path.rglob("evil.txt")) == []
    assert {entry.name for entry in (cache / "ml-1m").iterdir()} == set(publisher_1m())


def test_cache_is_in_the_home_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert _movielens._cache_folder() == tmp_path / ".cache" / "cmf"


def test_no_home_folder_is_explained(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("LOCALAPPDATA")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(DatasetNotFoundError, match=r"no home folder.*or CMF_DATA_HOME"):
        fetch_movielens("1m")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"u.data": b""}, "u.data is damaged: it is empty"),
        ({"u.data": b"1\t2\n"}, "u.data is damaged: its lines have fewer than three columns"),
        ({"u.data": b"1\t2\t3\n1\t3\n"}, "u.data is damaged: .*columns"),
        ({"u.data": b"1\tx\t3\n"}, "u.data is damaged: "),
        ({"u.data": b"1\t2\t6\n"}, "u.data is damaged: it has ratings that are not from 1 to 5"),
        (
            {"u.data": table([*LINES_100K, LINES_100K[1]])},
            "u.data is damaged: user 1, item 20 is there more than once",
        ),
        (
            {"u3.test": b"1\t7\t3\t0\n"},
            "u3.test is damaged: user 1, item 7 is not in the full set",
        ),
        ({"u.item": b"10|x\nten|y\n"}, "u.item is damaged: line 2 does not start with an item id"),
    ],
    ids=lambda case: str(case)[:30],
)
def test_damaged_files_are_named(tmp_path, changed, message):
    home = write(tmp_path / "ml-100k", publisher_100k() | changed)
    with pytest.raises(ValueError, match=message):
        fetch_movielens("100k", data_home=home)


@pytest.mark.parametrize("cut", [5, 15, -3])
def test_truncated_gzip_is_named(tmp_path, cut):
    packed = gzip.compress(table(LINES_1M))
    home = write(tmp_path / "ml-1m", {"ratings.tsv.gz": packed[:cut]})
    with pytest.raises(ValueError, match=r"ratings\.tsv\.gz is damaged"):
        fetch_movielens("1m", data_home=home)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "10m"}, ValueError, "name must be one of '100k', '1m', got '10m'"),
        ({"name": 100}, TypeError, "name must be a string"),
        ({"name": "1m", "data_home": 5}, TypeError, "data_home must be a path, got int"),
        ({"name": "1m", "download": 1}, TypeError, "download must be True or False"),
        ({"name": "1m", "progress": None}, TypeError, "progress must be True or False"),
        ({"name": "1m", "dtype": "int8"}, ValueError, "dtype must be 'float32' or 'float64'"),
    ],
    ids=str,
)
def test_fetch_refuses_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        fetch_movielens(**arguments)


def real(name):
    if not REAL_HOME or not Path(REAL_HOME, f"ml-{name}").is_dir():
        pytest.skip(f"CMF_DATA_HOME names no folder with ml-{name}")
    return fetch_movielens(name, data_home=REAL_HOME, download=False)


def test_real_100k():
    movies = real("100k")
    assert movies.ratings.shape == (943, 1682)
    assert movies.ratings.nnz == 100_000
    assert movies.ratings.data.mean() == pytest.approx(3.52986)
    assert movies.titles[0] == "Toy Story (1995)"
    assert (movies.titles != "").all()
    assert movies.timestamps.min() > 800_000_000
    held_out = sum(test for _, test in movies.folds)
    assert (held_out != movies.ratings).nnz == 0
    for train, test in movies.folds:
        assert (train.nnz, test.nnz) == (80_000, 20_000)
        assert ((train + test) != movies.ratings).nnz == 0


def test_real_1m():
    movies = real("1m")
    assert movies.ratings.shape == (6040, 3706)
    assert movies.ratings.nnz == 1_000_209
    assert movies.ratings.data.mean() == pytest.approx(3.581564, abs=1e-6)
    assert movies.titles[0] == "Toy Story (1995)"
    assert (movies.titles != "").all()
    assert movies.folds is None
