"""Model files: what is saved comes back, what is damaged is refused, what fails leaves no trace."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import cmf
from cmf import serialization
from cmf._state import HISTORY_COLUMNS, Factors, ModelState, SeenItems, TrainingState, Uncertainty
from cmf.exceptions import ModelFileError
from cmf.serialization import load_state, save_state

GOLDEN = {version: Path(__file__).parent / "data" / f"model-v{version}.cmf" for version in (1, 2)}
MEBIBYTE = 2**20
DTYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "u1"}
CODES = {np.dtype(name): code for code, name in DTYPES.items()}

STRINGS = ["", "a", "Zoë", "日本語", "\x00", 'quo"te\\', "👩‍🔬", "long" * 500, "x y", "\n"]
IDS: dict[str, Callable[[int], Any]] = {
    "none": lambda n: None,
    "int": lambda n: np.array([-(2**63), 2**63 - 1, *range(n - 2)], dtype=np.int64),
    "str": lambda n: np.array((STRINGS + [f"id {i}" for i in range(n)])[:n], dtype=object),
}


def make_state(
    *,
    dtype: str = "float32",
    index_dtype: str = "int32",
    user_ids: str = "none",
    item_ids: str = "none",
    biased: bool = True,
    n_epochs: int = 3,
    seed: int = 0,
    n_users: int = 12,
    n_items: int = 15,
    frame: str | None = None,
    adaptive: bool = True,
) -> ModelState:
    """A small model with random numbers in every array."""
    rng = np.random.default_rng(seed)
    n_factors = 4
    scale = 1.0 if biased else 0.0
    factors = Factors(
        rng.normal(size=(n_users, n_factors)).astype(dtype),
        rng.normal(size=(n_items, n_factors)).astype(dtype),
        (scale * rng.normal(size=n_users)).astype(dtype),
        (scale * rng.normal(size=n_items)).astype(dtype),
        scale * float(rng.normal()),
        biased,
    )
    counts = rng.integers(0, n_items, size=n_users)
    rows = [rng.permutation(n_items)[:count] for count in counts]
    seen = SeenItems(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.concatenate(rows).astype(index_dtype),
    )
    history = {column: rng.normal(size=n_epochs).tolist() for column in HISTORY_COLUMNS}
    if n_epochs:
        history["validation_mae"][0] = float("nan")
    parameters = {
        **cmf.MatrixFactorization().get_params(),
        "n_factors": n_factors,
        "learning_rate": 0.1 + 0.2,
        "regularization": 0,
        "n_epochs": 20,
        "biases": biased,
        "shuffle": False,
        "init": "normal",
        "init_scale": 5e-324,
        "dtype": dtype,
        "n_threads": None,
        "random_state": seed,
        "verbose": 1,
        "adaptive": adaptive,
        "bias_learning_rate": 0.1 + 0.7,
        "item_regularization": 2,
        "regularization_scaling": "count",
    }
    sums = tuple((1 + rng.random(n)).astype(dtype) for n in (n_users, n_items))
    training = TrainingState(0.1 + 0.2, 5e-324, 0.25, 1e300, 0.5, n_epochs, sums)
    return ModelState(
        parameters,
        factors,
        seen,
        history,
        seed=2**128 - 1 - seed,
        n_epochs_trained=n_epochs + 1,
        training=training if adaptive else replace(training, sums=None),
        user_ids=IDS[user_ids](n_users),
        item_ids=IDS[item_ids](n_items),
        frame=frame,
    )


def assert_same_array(found: Any, wanted: Any) -> None:
    if wanted is None:
        assert found is None
        return
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    assert found.flags.c_contiguous
    assert found.flags.aligned
    assert found.tolist() == wanted.tolist()


def assert_same_training(found: TrainingState, wanted: TrainingState) -> None:
    assert replace(found, sums=None) == replace(wanted, sums=None)
    for side in (0, 1):
        pair = [None if state.sums is None else state.sums[side] for state in (found, wanted)]
        assert_same_array(*pair)


def assert_same_state(found: ModelState, wanted: ModelState) -> None:
    for name in ("user_factors", "item_factors", "user_biases", "item_biases"):
        assert_same_array(getattr(found.factors, name), getattr(wanted.factors, name))
    assert found.factors.global_mean == wanted.factors.global_mean
    assert found.factors.biased is wanted.factors.biased
    assert_same_array(found.seen.indptr, wanted.seen.indptr)
    assert_same_array(found.seen.indices, wanted.seen.indices)
    assert_same_training(found.training, wanted.training)
    assert (found.uncertainty is None) == (wanted.uncertainty is None)
    if found.uncertainty is not None and wanted.uncertainty is not None:
        assert found.uncertainty.noise_std == wanted.uncertainty.noise_std
        assert_same_array(found.uncertainty.user_spreads, wanted.uncertainty.user_spreads)
        assert_same_array(found.uncertainty.item_spreads, wanted.uncertainty.item_spreads)
    assert list(found.history) == list(HISTORY_COLUMNS)
    for column, numbers in wanted.history.items():
        np.testing.assert_array_equal(found.history[column], numbers, strict=True)
    assert_same_array(found.user_ids, wanted.user_ids)
    assert_same_array(found.item_ids, wanted.item_ids)
    assert found.parameters == wanted.parameters
    for name, value in wanted.parameters.items():
        assert type(found.parameters[name]) is type(value)
    assert (found.seed, found.n_epochs_trained, found.frame) == (
        wanted.seed,
        wanted.n_epochs_trained,
        wanted.frame,
    )


def sums_of(state: ModelState) -> tuple[Any, Any]:
    assert state.training.sums is not None
    return state.training.sums


def to_bytes(state: ModelState) -> bytes:
    file = io.BytesIO()
    save_state(file, state)
    return file.getvalue()


def from_bytes(blob: bytes, **options: bool) -> ModelState:
    return load_state(io.BytesIO(blob), **options)


# A second, independent writer of the format: it takes any content, however wrong.


def split(blob: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata and tensors of a model file."""
    length = int.from_bytes(blob[:8], "little")
    entries = json.loads(blob[8 : 8 + length])
    payload = blob[8 + length :]
    metadata = entries.pop("__metadata__")
    tensors = {}
    for name, entry in entries.items():
        start, stop = entry["data_offsets"]
        array = np.frombuffer(payload[start:stop], dtype=DTYPES[entry["dtype"]])
        tensors[name] = array.reshape(entry["shape"]).copy()
    return metadata, tensors


def compact(value: object, **options: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, **options)


def join(
    metadata: dict[str, Any],
    tensors: dict[str, Any],
    *,
    rehash: bool = True,
    edit: Callable[[dict[str, Any]], None] = lambda entries: None,
    spell: Callable[[dict[str, Any]], str] = compact,
    padding: int | None = None,
) -> bytes:
    """A file of the given content with checksums that fit; `edit` changes the header at the end."""
    metadata = dict(metadata)
    if rehash:
        digests = {
            name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in tensors.items()
        }
        metadata["sha256"] = compact(digests)
        described = {
            "metadata": {key: text for key, text in metadata.items() if key != "header_sha256"},
            "tensors": {
                name: [CODES[array.dtype], list(array.shape)] for name, array in tensors.items()
            },
        }
        canonical = compact(described, sort_keys=True).encode()
        metadata["header_sha256"] = hashlib.sha256(canonical).hexdigest()
    entries: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for name, array in tensors.items():
        entries[name] = {
            "dtype": CODES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    edit(entries)
    header = spell(entries).encode()
    header += b" " * (-len(header) % 8 if padding is None else padding)
    payload = b"".join(array.tobytes() for array in tensors.values())
    return len(header).to_bytes(8, "little") + header + payload


# ------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@pytest.mark.parametrize("mmap", [False, True])
def test_arrays_come_back_bit_for_bit(
    tmp_path: Path, dtype: str, index_dtype: str, mmap: bool
) -> None:
    state = make_state(dtype=dtype, index_dtype=index_dtype)
    save_state(tmp_path / "model", state)
    assert_same_state(load_state(tmp_path / "model", mmap=mmap), state)


@pytest.mark.parametrize("user_ids", IDS)
@pytest.mark.parametrize("item_ids", IDS)
@pytest.mark.parametrize("mmap", [False, True])
def test_ids_come_back(tmp_path: Path, user_ids: str, item_ids: str, mmap: bool) -> None:
    state = make_state(user_ids=user_ids, item_ids=item_ids, frame="polars")
    save_state(tmp_path / "model", state)
    assert_same_state(load_state(tmp_path / "model", mmap=mmap), state)


@pytest.mark.parametrize("n_epochs", [0, 1, 200])
def test_history_comes_back(n_epochs: int) -> None:
    state = make_state(n_epochs=n_epochs)
    assert_same_state(from_bytes(to_bytes(state)), state)


def test_a_single_user_with_an_empty_label_and_nothing_seen() -> None:
    state = make_state(n_users=1, user_ids="str")
    state.seen = SeenItems(np.zeros(2, dtype=np.int64), np.zeros(0, dtype=np.int32))
    assert_same_state(from_bytes(to_bytes(state)), state)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_whose_rates_do_not_adapt_has_no_sums(
    tmp_path: Path, dtype: str, mmap: bool
) -> None:
    state = make_state(dtype=dtype, adaptive=False)
    save_state(tmp_path / "model", state)
    found = load_state(tmp_path / "model", mmap=mmap)
    assert found.training.sums is None
    assert_same_state(found, state)


def average(state: ModelState, **changed: Any) -> ModelState:
    """Return the state of an average over the posterior with the same factors."""
    rng = np.random.default_rng(1)
    spreads = [rng.random(n, dtype=np.float32) for n in (12, 15)]
    return replace(
        state,
        parameters={**state.parameters, "adaptive": None, "posterior_samples": 30},
        training=replace(state.training, sums=None),
        uncertainty=replace(Uncertainty(*spreads, noise_std=0.1 + 0.2), **changed),
    )


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_average_over_the_posterior_comes_back(tmp_path: Path, dtype: str, mmap: bool) -> None:
    state = average(make_state(dtype=dtype))
    save_state(tmp_path / "model", state)
    assert_same_state(load_state(tmp_path / "model", mmap=mmap), state)


@pytest.mark.parametrize(
    ("message", "edit"),
    [
        ("noise_std must not be negative", lambda m, t: m.update(noise_std="-0.5")),
        ("noise_std must be a finite number", lambda m, t: m.update(noise_std="nan")),
        ("noise_std must be a finite number", lambda m, t: m.update(noise_std="0.50")),
        ("unknown tensor 'uncertainty.item_spreads'", lambda m, t: m.update(noise_std="none")),
        ("missing metadata key 'noise_std'", lambda m, t: m.pop("noise_std")),
        ("missing tensor 'uncertainty.user_spr", lambda m, t: t.pop("uncertainty.user_spreads")),
        (
            "uncertainty.item_spreads must be F32 of shape",
            lambda m, t: t.update({"uncertainty.item_spreads": np.ones(15)}),
        ),
        (
            "uncertainty.user_spreads must not be negative, got -2",
            lambda m, t: t["uncertainty.user_spreads"].__setitem__(3, -2),
        ),
        (
            r"uncertainty.user_spreads\[3\] is nan",
            lambda m, t: t["uncertainty.user_spreads"].__setitem__(3, np.nan),
        ),
        (
            "contradicts parameter posterior_samples=0",
            lambda m, t: m.update(
                parameters=m["parameters"].replace(
                    '"posterior_samples":30', '"posterior_samples":0'
                )
            ),
        ),
    ],
)
def test_uncertainty_must_be_whole(
    message: str,
    edit: Callable[[dict[str, Any], dict[str, Any]], None],
    refuse: Callable[..., str],
) -> None:
    metadata, tensors = split(to_bytes(average(make_state())))
    edit(metadata, tensors)
    assert re.search(message, refuse(join(metadata, tensors)))


@pytest.mark.parametrize("best_epoch", [-1, 0, 1, 4])
def test_the_state_of_training_comes_back_exactly(best_epoch: int) -> None:
    state = make_state()
    state.training = TrainingState(1e-320, 0.1 + 0.2, 1.0, 0.0, 0.0, best_epoch, sums_of(state))
    assert_same_state(from_bytes(to_bytes(state)), state)


def test_numbers_of_numpy_in_the_state_of_training_are_saved_as_plain_ones() -> None:
    state = make_state()
    wanted = replace(state.training, noise=0.25, best_epoch=2)
    state.training = replace(wanted, noise=np.float64(0.25), best_epoch=np.int64(2))  # type: ignore[arg-type]
    found = from_bytes(to_bytes(state)).training
    assert_same_training(found, wanted)
    assert (type(found.noise), type(found.best_epoch)) == (float, int)


def test_every_parameter_and_every_number_of_training_has_its_place() -> None:
    types = serialization._PARAMETER_TYPES[serialization._FORMAT_VERSION]
    defaults = cmf.MatrixFactorization().get_params()
    assert set(types) == set(defaults)
    for name, default in defaults.items():
        assert type(default) in types[name], name
    assert list(serialization._DEFAULTS) == [name for name in types if name != "random_state"]
    assert {*serialization._TRAINING_NUMBERS, "sums"} == {
        field.name for field in fields(TrainingState)
    }


def test_what_version_1_lacks_is_filled_in_with_the_defaults() -> None:
    defaults = cmf.MatrixFactorization().get_params()
    added = {
        name: serialization._DEFAULTS[name]
        for name in defaults.keys() - serialization._PARAMETER_TYPES["1"].keys()
    }
    assert added
    assert added == {name: defaults[name] for name in added}


def test_no_biases_come_back_as_zeros() -> None:
    state = make_state(biased=False)
    assert_same_state(from_bytes(to_bytes(state)), state)


@pytest.mark.parametrize("frame", [None, "pandas", "polars", "pyarrow"])
def test_kind_of_frame_comes_back(frame: str | None) -> None:
    assert from_bytes(to_bytes(make_state(frame=frame))).frame == frame


@pytest.mark.parametrize("mean", [0.1 + 0.2, 5e-324, -0.0, 1.7976931348623157e308, 1e22])
def test_global_mean_is_exact(mean: float) -> None:
    state = make_state()
    state.factors.global_mean = mean
    assert from_bytes(to_bytes(state)).factors.global_mean.hex() == mean.hex()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, None),
        (7, 7),
        (10**50, 10**50),
        (np.int32(7), 7),
        ([1, 2**63, 2**70], [1, 2**63, 2**70]),
        ((1, 2), [1, 2]),
        (np.array([3, 4], dtype=np.uint32), [3, 4]),
        ([], []),
        (np.random.default_rng(0), None),
        (np.random.RandomState(0), None),
        (np.random.SeedSequence(1), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_random_state_is_kept_if_it_is_a_number(given: Any, kept: Any) -> None:
    state = make_state()
    state.parameters["random_state"] = given
    assert from_bytes(to_bytes(state)).parameters["random_state"] == kept


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("learning_rate", np.float64(0.25), 0.25),
        ("n_epochs", np.int64(5), 5),
        ("shuffle", np.bool_(True), True),
        ("dtype", np.float32, "float32"),
        ("dtype", np.dtype(">f4"), "float32"),
        ("n_threads", 2, 2),
        ("init", "größe", "größe"),
        ("verbose", True, True),
    ],
)
def test_parameters_become_plain(name: str, given: Any, kept: Any) -> None:
    state = make_state()
    state.parameters[name] = given
    found = from_bytes(to_bytes(state)).parameters[name]
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize(
    "transform",
    [
        np.asfortranarray,
        lambda array: array.astype(array.dtype.newbyteorder(">")),
        lambda array: np.repeat(array, 2, axis=0)[::2],
        lambda array: array[::-1].copy()[::-1],
        lambda array: np.asfortranarray(array.astype(array.dtype.newbyteorder(">")))[:],
    ],
    ids=["fortran", "big-endian", "strided", "reversed", "fortran-big-endian"],
)
def test_any_memory_layout_is_saved_right(transform: Callable[[Any], Any]) -> None:
    state = make_state()
    factors = state.factors
    awkward = replace(
        state,
        factors=Factors(
            transform(factors.user_factors),
            transform(factors.item_factors),
            transform(factors.user_biases),
            transform(factors.item_biases),
            factors.global_mean,
            True,
        ),
        seen=SeenItems(transform(state.seen.indptr), transform(state.seen.indices)),
        training=replace(state.training, sums=tuple(map(transform, sums_of(state)))),
    )
    assert to_bytes(awkward) == to_bytes(state)


def test_the_same_state_gives_the_same_bytes() -> None:
    assert to_bytes(make_state(user_ids="str")) == to_bytes(make_state(user_ids="str"))


def test_saving_changes_nothing() -> None:
    state = make_state(user_ids="str", item_ids="int")
    for array in (
        state.factors.user_factors,
        state.factors.item_factors,
        state.factors.user_biases,
        state.factors.item_biases,
        state.seen.indptr,
        state.seen.indices,
        state.user_ids,
        state.item_ids,
        *sums_of(state),
    ):
        array.flags.writeable = False  # type: ignore[union-attr]
    save_state(io.BytesIO(), state)
    assert_same_state(state, make_state(user_ids="str", item_ids="int"))


def test_loaded_arrays_are_writable_without_mmap() -> None:
    state = from_bytes(to_bytes(make_state(item_ids="int")))
    for array in (
        state.factors.user_factors,
        state.seen.indices,
        state.item_ids,
        *sums_of(state),
    ):
        assert array.flags.writeable  # type: ignore[union-attr]


# -------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize("name", ["model.cmf", "model", "model.npz", "Модель ☃.bin", "a" * 255])
@pytest.mark.parametrize("kind", [str, Path])
def test_paths_are_taken_as_they_are(tmp_path: Path, name: str, kind: type) -> None:
    state = make_state()
    save_state(kind(tmp_path / name), state)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert_same_state(load_state(kind(tmp_path / name)), state)


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_state("model", make_state())
    assert_same_state(load_state("model", mmap=True), make_state())


def test_file_objects_are_used_from_their_position_on(tmp_path: Path) -> None:
    states = [make_state(seed=seed) for seed in (1, 2)]
    with open(tmp_path / "two", "wb") as file:
        save_state(file, states[0])
        middle = file.tell()
        save_state(file, states[1])
    with open(tmp_path / "two", "rb") as file:
        file.seek(middle)
        assert_same_state(load_state(file), states[1])
        assert not file.closed


def test_unbuffered_files_that_take_a_part_only() -> None:
    class Reluctant(io.BytesIO):
        def write(self, data: Any, /) -> int:
            return super().write(data[:7])

        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(5, size or 0))

    file = Reluctant()
    save_state(file, make_state())
    assert file.getvalue() == to_bytes(make_state())
    file.seek(0)
    assert_same_state(load_state(file), make_state())


def test_file_objects_that_do_not_count() -> None:
    class Silent:
        def __init__(self) -> None:
            self.parts: list[bytes] = []

        def write(self, data: Any) -> None:
            self.parts.append(bytes(data))

    file = Silent()
    save_state(file, make_state())  # type: ignore[arg-type]
    assert b"".join(file.parts) == to_bytes(make_state())


def test_text_handles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with open(path, "w") as text, pytest.raises(TypeError, match="opened in binary mode"):
        save_state(text, make_state())  # type: ignore[arg-type]
    with open(path) as text, pytest.raises(TypeError, match="opened in binary mode"):
        load_state(text)  # type: ignore[arg-type]
    with tempfile.TemporaryFile("w+") as text:
        with pytest.raises(TypeError, match="opened in binary mode"):
            save_state(text, make_state())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="opened in binary mode"):
            load_state(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("thing", [None, 3, b"model", ["model"], object()])
def test_what_is_no_file_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match=rf"file must be .*, got {type(thing).__name__}"):
        save_state(thing, make_state())
    with pytest.raises(TypeError, match=rf"file must be .*, got {type(thing).__name__}"):
        load_state(thing)


def test_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path))):
        save_state(tmp_path, make_state())
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        load_state(tmp_path)
    assert not list(tmp_path.parent.glob(".cmf-*"))


def test_a_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no-such-model"):
        load_state(tmp_path / "no-such-model")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no-such-folder" / "model"
    with pytest.raises(FileNotFoundError, match=r"no-such-folder.model'$"):
        save_state(path, make_state())
    assert not list(tmp_path.iterdir())


@contextmanager
def without_privileges() -> Iterator[None]:
    """Permissions do not bind root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="permissions of folders are POSIX's")
def test_a_read_only_folder_is_a_permission_error() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        path = os.path.join(folder, "model")
        with without_privileges(), pytest.raises(PermissionError, match=re.escape(path)):
            save_state(path, make_state())
        assert os.listdir(folder) == []
        os.chmod(folder, 0o755)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a regular file"):
        save_state(pipe, make_state())
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_failure_in_mid_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    save_state(path, make_state(seed=1))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_state(path, make_state(seed=2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    assert_same_state(load_state(path), make_state(seed=1))


def test_an_interrupt_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(source: str, target: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path / "model", make_state())
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX's")
def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        path.unlink(missing_ok=True)
        previous = os.umask(mask)
        try:
            save_state(path, make_state())
        finally:
            os.umask(previous)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    path.chmod(0o640)
    save_state(path, make_state())
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need a privilege elsewhere")
def test_symbolic_links_keep_pointing(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    link = tmp_path / "latest"
    link.symlink_to(Path("store") / "model")
    save_state(link, make_state())
    assert link.is_symlink()
    assert [entry.name for entry in (tmp_path / "store").iterdir()] == ["model"]
    assert_same_state(load_state(link), make_state())


SAVE_LOOP = """
import sys
sys.path.insert(0, sys.argv[2])
from test_serialization import make_state, save_state

states = [make_state(seed=seed, n_users=2000) for seed in (1, 2)]
save_state(sys.argv[1], states[0])
print("ready", flush=True)
while True:
    for state in reversed(states):
        save_state(sys.argv[1], state)
"""


@pytest.mark.skipif(os.name != "posix", reason="kill is POSIX's")
def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "model"
    wanted = [make_state(seed=seed, n_users=2000) for seed in (1, 2)]
    for attempt in range(5):
        command = [sys.executable, "-c", SAVE_LOOP, str(path), str(Path(__file__).parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(0.017 * (attempt + 1))
            writer.send_signal(signal.SIGKILL)
        assert writer.returncode == -signal.SIGKILL
        found = load_state(path)
        assert_same_state(found, wanted[0 if found.seed == wanted[0].seed else 1])


# ------------------------------------------------------------------------------------------ mmap


def owner(array: Any) -> Any:
    """The array, or other object, at the end of the chain of views."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def test_mapped_arrays_are_read_only_views_of_one_mapping(tmp_path: Path) -> None:
    save_state(tmp_path / "model", make_state(user_ids="int"))
    state = load_state(tmp_path / "model", mmap=True)
    factors = state.factors
    mapped = [
        factors.user_factors,
        factors.item_factors,
        factors.user_biases,
        factors.item_biases,
        state.seen.indptr,
        state.seen.indices,
        *sums_of(state),
    ]
    for array in mapped:
        assert isinstance(owner(array), np.memmap)
        assert owner(array) is owner(mapped[0])
        assert type(array) is np.ndarray
        with pytest.raises(ValueError, match="read-only"):
            array[:1] = 0
    assert state.user_ids is not None
    assert state.user_ids.flags.writeable


def test_a_mapped_file_can_be_saved_over(tmp_path: Path) -> None:
    path = tmp_path / "model"
    save_state(path, make_state(seed=1))
    old = load_state(path, mmap=True)
    save_state(path, old)
    assert_same_state(load_state(path), make_state(seed=1))
    save_state(path, make_state(seed=2, n_users=3))
    assert_same_state(old, make_state(seed=1))
    assert_same_state(load_state(path, mmap=True), make_state(seed=2, n_users=3))


def test_mmap_needs_a_path() -> None:
    with pytest.raises(ValueError, match="mmap=True needs the path"):
        load_state(io.BytesIO(to_bytes(make_state())), mmap=True)


@pytest.mark.parametrize("padding", range(8))
def test_tensors_anywhere_in_a_foreign_file(tmp_path: Path, padding: int) -> None:
    state = make_state(user_ids="str", item_ids="int", dtype="float64")
    metadata, tensors = split(to_bytes(state))
    narrow_first = dict(sorted(tensors.items(), key=lambda item: item[1].itemsize))
    path = tmp_path / "model"
    path.write_bytes(join(metadata, narrow_first, padding=padding))
    for mmap in (False, True):
        found = load_state(path, mmap=mmap)
        assert_same_state(found, state)
        assert found.factors.user_factors.flags.writeable is not mmap


# ----------------------------------------------------------------------------------- safetensors


def test_the_safetensors_package_reads_a_model_file(tmp_path: Path) -> None:
    path = tmp_path / "model"
    state = make_state(user_ids="str", item_ids="int", n_epochs=0)
    save_state(path, state)
    tensors = safetensors.numpy.load_file(path)
    np.testing.assert_array_equal(tensors["user_factors"], state.factors.user_factors, strict=True)
    np.testing.assert_array_equal(tensors["seen.indices"], state.seen.indices, strict=True)
    np.testing.assert_array_equal(tensors["item_ids"], state.item_ids, strict=True)
    for side, sums in zip(("user", "item"), sums_of(state), strict=True):
        np.testing.assert_array_equal(tensors[f"training.{side}_sums"], sums, strict=True)
    assert bytes(tensors["user_ids.utf8"]).decode() == "".join(state.user_ids)  # type: ignore[arg-type]
    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata()
    assert metadata["format"] == "cmf"
    assert metadata["format_version"] == "2"
    assert json.loads(metadata["training"])["user_power"] == state.training.user_power
    assert metadata["seed"] == str(state.seed)
    assert json.loads(metadata["parameters"]) == state.parameters
    assert float(metadata["global_mean"]) == state.factors.global_mean


@pytest.mark.parametrize("kind", IDS)
@pytest.mark.parametrize("n_epochs", [0, 3])
def test_what_safetensors_writes_anew_is_the_same_model(
    tmp_path: Path, kind: str, n_epochs: int
) -> None:
    state = make_state(user_ids=kind, item_ids=kind, n_epochs=n_epochs)
    state.parameters["init"] = 'ünïcode "quoted"\n\t\x1f\x7f/'
    save_state(tmp_path / "model", state)
    tensors = safetensors.numpy.load_file(tmp_path / "model")
    with safetensors.safe_open(tmp_path / "model", "np") as file:
        metadata = file.metadata()
    path = tmp_path / "again"
    safetensors.numpy.save_file(
        dict(sorted(tensors.items())), path, metadata=dict(sorted(metadata.items()))
    )
    for mmap in (False, True):
        assert_same_state(load_state(path, mmap=mmap), state)


def test_header_is_canonical_and_payload_is_aligned() -> None:
    blob = to_bytes(make_state(user_ids="str"))
    length = int.from_bytes(blob[:8], "little")
    assert length % 8 == 0
    text = blob[8 : 8 + length].decode()
    entries = json.loads(text)
    assert text.rstrip(" ") == compact(entries)
    for name, entry in entries.items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % np.dtype(DTYPES[entry["dtype"]]).itemsize == 0


# --------------------------------------------------------------------------- what cannot be saved


def with_factors(state: ModelState, **arrays: Any) -> ModelState:
    return replace(state, factors=replace(state.factors, **arrays))


def with_training(state: ModelState, **changed: Any) -> ModelState:
    return replace(state, training=replace(state.training, **changed))


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (
            lambda s: replace(s, user_ids=np.array([1.5] * 12)),
            TypeError,
            r"user_ids must be str or int .*1\.5 of type float: convert them to str or int",
        ),
        (
            lambda s: replace(s, item_ids=np.array([("a", i) for i in range(15)], dtype="O,i4")),
            TypeError,
            "item_ids must be str or int .* convert them to str or int",
        ),
        (
            lambda s: replace(s, user_ids=np.array([2**64 - 1 - i for i in range(12)])),
            TypeError,
            "user_ids must be str or int",
        ),
        (
            lambda s: replace(s, user_ids=np.array(["a"] * 12, dtype=object)),
            ValueError,
            "user_ids must be unique",
        ),
        (
            lambda s: replace(s, user_ids=np.array([f"\ud800{i}" for i in range(12)], object)),
            ValueError,
            "user_ids must be valid Unicode",
        ),
        (
            lambda s: replace(s, user_ids=np.arange(5)),
            ValueError,
            r"user_ids must be I64 of shape \(12,\)",
        ),
        (lambda s: replace(s, seed=-1), ValueError, "seed must be a whole number"),
        (lambda s: replace(s, seed=2**128), ValueError, "seed must be a whole number"),
        (lambda s: replace(s, n_epochs_trained=2), ValueError, "history has 3 entries"),
        (
            lambda s: with_training(s, best_epoch=5),
            ValueError,
            "best_epoch=5 of training is after n_epochs_trained=4",
        ),
        (
            lambda s: with_training(s, noise=float("nan")),
            ValueError,
            "noise of training must be finite, from 0 to 1, got nan",
        ),
        (
            lambda s: with_training(s, spread=float("inf")),
            ValueError,
            "spread of training must be finite",
        ),
        (
            lambda s: with_training(s, sums=None),
            ValueError,
            "adaptive=True contradicts the missing tensor 'training.user_sums'",
        ),
        (
            lambda s: with_training(s, sums=(sums_of(s)[0], np.full(15, 0.5, np.float32))),
            ValueError,
            r"training.item_sums\[0\] is 0\.5: sums start at 1",
        ),
        (
            lambda s: with_training(s, sums=(np.ones(11, np.float32), sums_of(s)[1])),
            ValueError,
            "training.user_sums must be F32 of shape",
        ),
        (
            lambda s: with_training(s, sums=tuple(map(np.float16, sums_of(s)))),
            TypeError,
            "training.user_sums must be float32 or float64, got float16",
        ),
        (lambda s: replace(s, frame="spark"), ValueError, "frame must be one of"),
        (
            lambda s: replace(s, history={"epoch": [1.0]}),
            ValueError,
            "missing tensor 'history",
        ),
        (
            lambda s: replace(s, history={**s.history, "epoch": [1.0]}),
            ValueError,
            r"history\.\w+ must be F64 of shape",
        ),
        (
            lambda s: with_factors(s, user_factors=np.full((12, 4), np.nan, np.float32)),
            ValueError,
            r"user_factors\[0, 0\] is nan",
        ),
        (
            lambda s: with_factors(s, user_factors=np.ones((12, 4), np.float16)),
            TypeError,
            "user_factors must be float32 or float64, got float16",
        ),
        (
            lambda s: with_factors(s, item_biases=np.ones(15)),
            ValueError,
            "item_biases must be F32",
        ),
        (
            lambda s: with_factors(s, global_mean=float("inf")),
            ValueError,
            "global_mean must be a finite number",
        ),
        (lambda s: with_factors(s, biased=False), ValueError, "biased=False contradicts"),
        (
            lambda s: replace(s, parameters={**s.parameters, "extra": 1}),
            ValueError,
            "unknown parameter 'extra'",
        ),
        (
            lambda s: replace(s, parameters={**s.parameters, "n_factors": "4"}),
            TypeError,
            "parameter 'n_factors' must be int, got '4'",
        ),
        (
            lambda s: replace(s, parameters={**s.parameters, "n_factors": True}),
            TypeError,
            "parameter 'n_factors' must be int, got True",
        ),
        (
            lambda s: replace(s, parameters={**s.parameters, "regularization": float("nan")}),
            ValueError,
            "parameter 'regularization' must be finite",
        ),
        (
            lambda s: replace(s, parameters={**s.parameters, "random_state": [2**900] * 2000}),
            ValueError,
            "is random_state a long sequence",
        ),
    ],
)
def test_what_cannot_be_read_back_is_not_written(
    tmp_path: Path, edit: Callable[[ModelState], ModelState], error: type[Exception], message: str
) -> None:
    path = tmp_path / "model"
    with pytest.raises(error, match=message):
        save_state(path, edit(make_state()))
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------- damage


@pytest.fixture(scope="module")
def blob() -> bytes:
    return to_bytes(make_state(user_ids="str", item_ids="int"))


@contextmanager
def little_memory() -> Iterator[None]:
    """No more than 8 MiB at any moment, with small files."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    yield
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before < 8 * MEBIBYTE


@pytest.fixture
def refuse() -> Iterator[Callable[..., str]]:
    """A function that checks that a file is refused, in little memory, and returns the message."""

    def check(blob: bytes, **options: bool) -> str:
        with little_memory(), pytest.raises(ModelFileError, match=r"^<BytesIO>: .+") as caught:
            load_state(io.BytesIO(blob), **options)
        return str(caught.value)

    tracemalloc.start()
    yield check
    tracemalloc.stop()


def test_truncated_anywhere(blob: bytes, refuse: Callable[..., str]) -> None:
    lengths = {*range(40), *range(0, len(blob), 61), *range(len(blob) - 9, len(blob))}
    for length in lengths:
        refuse(blob[:length])
        refuse(blob[:length], verify=False)
    assert "truncated" in refuse(blob[:-1])
    assert "has 3 bytes, too few" in refuse(blob[:3])


def test_flipped_bits_anywhere(blob: bytes, refuse: Callable[..., str]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(400):
        damaged = np.frombuffer(blob, dtype=np.uint8).copy()
        for bit in rng.choice(len(blob) * 8, size=rng.integers(1, 5), replace=False):
            damaged[bit // 8] ^= 1 << (bit % 8)
        refuse(damaged.tobytes())


def test_a_flipped_bit_in_every_byte_of_the_header(blob: bytes, refuse: Callable[..., str]) -> None:
    rng = np.random.default_rng(1)
    length = 8 + int.from_bytes(blob[:8], "little")
    for position, bit in enumerate(rng.integers(0, 8, size=length)):
        damaged = bytearray(blob)
        damaged[position] ^= 1 << bit
        # Checksums of the payload have no part in this.
        refuse(bytes(damaged), verify=False)


def test_a_flipped_bit_in_every_tensor_is_named(blob: bytes, refuse: Callable[..., str]) -> None:
    length = int.from_bytes(blob[:8], "little")
    for name, entry in json.loads(blob[8 : 8 + length]).items():
        if name != "__metadata__":
            damaged = bytearray(blob)
            damaged[8 + length + entry["data_offsets"][1] - 1] ^= 1
            assert f"the checksum of {name} does not match" in refuse(bytes(damaged))


def test_only_the_checksums_of_the_payload_can_be_skipped(blob: bytes) -> None:
    metadata, tensors = split(blob)
    tensors["user_biases"][0] += 1
    changed = join(metadata, tensors, rehash=False)
    with pytest.raises(ModelFileError, match="checksum of user_biases"):
        from_bytes(changed)
    assert from_bytes(changed, verify=False).factors.user_biases[0] == tensors["user_biases"][0]
    tensors["user_biases"][0] = np.nan
    with pytest.raises(ModelFileError, match=r"user_biases\[0\] is nan"):
        from_bytes(join(metadata, tensors, rehash=False), verify=False)


@pytest.mark.parametrize("extra", [b"\x00", b" " * 8, b"PK\x05\x06" + bytes(18), bytes(100)])
def test_appended_bytes(blob: bytes, extra: bytes, refuse: Callable[..., str]) -> None:
    assert "was appended to" in refuse(blob + extra)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize("protocol", range(6))
def test_pickles(protocol: int, refuse: Callable[..., str]) -> None:
    for thing in (Harmful(), None, {"user_factors": np.zeros((3, 2))}):
        message = refuse(pickle.dumps(thing, protocol=protocol))
        assert ("it is a pickle" in message) is (protocol >= 2)


def test_zip_bombs(refuse: Callable[..., str]) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("user_factors.npy", bytes(8 * MEBIBYTE))
    assert "it is a zip archive" in refuse(file.getvalue())
    file = io.BytesIO()
    np.savez(file, user_factors=np.zeros((3, 2)))
    assert "it is a zip archive" in refuse(file.getvalue())


@pytest.mark.parametrize(
    "content",
    [b"", bytes(8), bytes(100), b"\xff" * 100, b"not a model at all", b"\x93NUMPY\x01\x00" * 9],
)
def test_other_files(content: bytes, refuse: Callable[..., str]) -> None:
    refuse(content)


@pytest.mark.parametrize("length", [2**18 + 1, 10**8, 2**31, 2**32, 2**63, 2**64 - 1])
def test_a_huge_header_length(blob: bytes, length: int, refuse: Callable[..., str]) -> None:
    assert "announce a header of" in refuse(length.to_bytes(8, "little") + blob[8:])
    assert "262144 are possible" in refuse(length.to_bytes(8, "little") + bytes(2**19))


def with_header(header: str | bytes, payload: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else header.encode()
    return len(raw).to_bytes(8, "little") + raw + payload


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 40_000, "nested too deeply"),
        (b"\xff\xfe{}", "utf-8"),
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ("7", "not a JSON object"),
        ('{"a":NaN}', "NaN is not a JSON number"),
        ('{"a":-Infinity}', "-Infinity is not a JSON number"),
        ("{" + '"a":1,' * 3 + '"b":2}', "a name occurs twice"),
        ('{"a":' + "9" * 5000 + "}", "not valid JSON"),
        ("{}", "safetensors file, but not a cmf model"),
        ('{"__metadata__":[]}', "safetensors file, but not a cmf model"),
        ('{"__metadata__":{"format":"pt"}}', "safetensors file, but not a cmf model"),
        ('{"__metadata__":{"format":"cmf"}}', "unknown format_version ''"),
        ('{"__metadata__":{"format":"cmf","format_version":1}}', "metadata must be strings"),
        ('{"__metadata__":{"format":"cmf","format_version":"0"}}', "unknown format_version '0'"),
        ('{"__metadata__":{"format":"cmf","format_version":"1.5"}}', "unknown format_version"),
        ('{"__metadata__":{"format":"cmf","format_version":"1"}}', "checksum of the header"),
        ('{"__metadata__":{"format":"cmf","format_version":"1"},"a":1e999}', "JSON"),
        ('{"__metadata__":{"format":"cmf","format_version":"1"},"a":"\\ud800"}', "canonical"),
        ('{"__metadata__":{"format":"cmf","format_version":"1"},"a":[]}', "must be a JSON object"),
    ],
)
def test_hostile_headers(header: str | bytes, message: str, refuse: Callable[..., str]) -> None:
    assert message in refuse(with_header(header))


def test_nesting_just_at_the_limit(refuse: Callable[..., str]) -> None:
    start = '{"__metadata__":{"format":"cmf","format_version":"1"},"a":'
    for depth in range(700, 1100):
        refuse(with_header(start + "[" * depth + "]" * depth + "}"))


def test_messages_name_the_file(tmp_path: Path, blob: bytes) -> None:
    path = tmp_path / "broken"
    path.write_bytes(blob[:-1])
    with pytest.raises(ModelFileError, match=re.escape(repr(str(path)))):
        load_state(path)
    with (
        open(path, "rb") as file,
        pytest.raises(ModelFileError, match=re.escape(repr(str(path)))),
    ):
        load_state(file)


@pytest.mark.parametrize("version", ["3", "10", "99999999999999999999"])
def test_a_later_version_asks_for_an_upgrade(
    blob: bytes, version: str, refuse: Callable[..., str]
) -> None:
    metadata, tensors = split(blob)
    later = join({**metadata, "format_version": version, "news": "x"}, tensors)
    assert f"it has format version {version}, this cmf reads up to 2: upgrade cmf-recsys" in refuse(
        later
    )


def test_a_safetensors_file_of_something_else(refuse: Callable[..., str]) -> None:
    for metadata in (None, {"format": "np"}):
        other = safetensors.numpy.save({"weight": np.zeros((2, 3))}, metadata=metadata)
        assert "it is a safetensors file, but not a cmf model" in refuse(other)


@pytest.mark.parametrize(
    "spell",
    [
        lambda entries: json.dumps(entries, ensure_ascii=False),
        lambda entries: compact(entries).replace('"cmf"', '"\\u0063mf"', 1),
        lambda entries: "\n" + compact(entries),
        lambda entries: compact(entries) + "\t",
        lambda entries: compact(entries) + "\x00",
        lambda entries: compact(entries) + " " * 8,
        lambda entries: compact(entries)[:-1] + ',"a":{"a":1,"a":1}}',
        lambda entries: compact(entries)[:-1] + ',"__metadata__":{}}',
        lambda entries: "\ufeff" + compact(entries),
    ],
    ids=["spaces", "escape", "newline", "tab", "null", "padding", "inner", "outer", "mark"],
)
def test_only_the_canonical_spelling_is_read(
    blob: bytes, spell: Callable[[dict[str, Any]], str], refuse: Callable[..., str]
) -> None:
    metadata, tensors = split(blob)
    from_bytes(join(metadata, tensors))
    refuse(join(metadata, tensors, spell=spell, padding=0))


def entry_edit(name: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda entries: entries[name].update(changes)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (entry_edit("user_biases", dtype="F16"), "dtype must be one of"),
        (entry_edit("user_biases", dtype="f4"), "dtype must be one of"),
        (entry_edit("user_biases", dtype=["F32"]), "dtype must be one of"),
        (entry_edit("user_biases", dtype="O"), "dtype must be one of"),
        (entry_edit("user_biases", shape=[11]), "data_offsets contradict"),
        (entry_edit("user_biases", shape=[-12]), "shape must be"),
        (entry_edit("user_biases", shape=[12.0]), "shape must be"),
        (entry_edit("user_biases", shape=[True]), "shape must be"),
        (entry_edit("user_biases", shape=12), "shape must be"),
        (entry_edit("user_biases", shape=[]), "shape must be"),
        (entry_edit("user_biases", shape=[1, 1, 12]), "shape must be"),
        (entry_edit("user_biases", shape=[10**40]), "shape must be"),
        (entry_edit("user_factors", shape=[2**62, 2**62]), "data_offsets contradict"),
        (entry_edit("user_factors", shape=[2**61, 8]), "data_offsets contradict"),
        (entry_edit("user_factors", shape=[0, 2**62], data_offsets=[0, 0]), "header"),
        (entry_edit("user_biases", data_offsets=[0]), "data_offsets must be"),
        (entry_edit("user_biases", data_offsets=[-48, 0]), "data_offsets must be"),
        (entry_edit("user_biases", data_offsets=[48, 0]), "data_offsets contradict"),
        (entry_edit("user_biases", data_offsets=[8, 56]), "begins at byte"),
        (entry_edit("user_biases", data_offsets=[2**60, 2**60 + 48]), "begins at byte"),
        (entry_edit("user_biases", comment=""), "unknown key"),
        (lambda entries: entries["user_biases"].pop("shape"), "missing key"),
        (lambda entries: entries.update(user_biases=None), "must be a JSON object"),
        (lambda entries: entries.pop("user_biases"), "checksum of the header"),
    ],
)
def test_entries_of_the_header(
    blob: bytes,
    edit: Callable[[dict[str, Any]], None],
    message: str,
    refuse: Callable[..., str],
) -> None:
    assert message in refuse(join(*split(blob), edit=edit))


# Files whose checksums fit, and which are wrong all the same: one rule broken each.

Edit = Callable[[dict[str, Any], dict[str, Any]], None]


def set_metadata(**changes: str) -> Edit:
    return lambda metadata, tensors: metadata.update(changes)


def set_parameter(**changes: Any) -> Edit:
    def edit(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        parameters = json.loads(metadata["parameters"]) | changes
        metadata["parameters"] = compact(parameters)

    return edit


def set_tensor(name: str, change: Callable[[Any], Any]) -> Edit:
    def edit(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors[name] = np.ascontiguousarray(change(tensors[name]))

    return edit


def set_value(name: str, place: Any, value: Any) -> Edit:
    def edit(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors[name][place] = value

    return edit


def repeat_seen_item(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    start = int(np.flatnonzero(np.diff(tensors["seen.indptr"]) >= 2)[0])
    first = tensors["seen.indptr"][start]
    tensors["seen.indices"][first + 1] = tensors["seen.indices"][first]


def no_users(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["user_factors"] = tensors["user_factors"][:0]
    tensors["user_biases"] = tensors["user_biases"][:0]
    tensors["training.user_sums"] = tensors["training.user_sums"][:0]
    tensors["user_ids.offsets"] = tensors["user_ids.offsets"][:1]
    tensors["user_ids.utf8"] = tensors["user_ids.utf8"][:0]
    tensors["seen.indptr"] = tensors["seen.indptr"][:1]
    tensors["seen.indices"] = tensors["seen.indices"][:0]


def no_factors(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    set_parameter(n_factors=0)(metadata, tensors)
    for name in ("user_factors", "item_factors"):
        tensors[name] = tensors[name][:, :0]


def without_biases(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    set_parameter(biases=False)(metadata, tensors)
    metadata["biased"] = "false"


def mean_without_biases(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    without_biases(metadata, tensors)
    tensors["user_biases"][:] = 0
    tensors["item_biases"][:] = 0


def drop_user_ids(tensors: dict[str, Any]) -> None:
    del tensors["user_ids.offsets"], tensors["user_ids.utf8"]


def drop_sums(tensors: dict[str, Any]) -> None:
    del tensors["training.user_sums"], tensors["training.item_sums"]


def set_training(**changed: Any) -> Edit:
    def edit(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        metadata["training"] = compact({**json.loads(metadata["training"]), **changed})

    return edit


def set_training_text(old: str, new: str) -> Edit:
    def edit(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        assert metadata["training"].count(old) == 1
        metadata["training"] = metadata["training"].replace(old, new)

    return edit


RULES: list[tuple[str, Edit]] = [
    ("unknown metadata key 'recommend'", set_metadata(recommend="7")),
    ("unknown metadata key '__class__'", set_metadata(__class__="os.system")),
    ("missing metadata key 'seed'", lambda m, t: m.pop("seed")),
    ("seed must be a whole number", set_metadata(seed="-1")),
    ("seed must be a whole number", set_metadata(seed="007")),
    ("seed must be a whole number", set_metadata(seed="7\n")),
    ("seed must be a whole number", set_metadata(seed="٣")),
    ("seed must be a whole number", set_metadata(seed=str(2**128))),
    ("seed must be a whole number", set_metadata(seed="9" * 5000)),
    ("n_epochs_trained must be a whole number", set_metadata(n_epochs_trained="1e3")),
    ("more than n_epochs_trained=2", set_metadata(n_epochs_trained="2")),
    ("global_mean must be a finite number", set_metadata(global_mean="nan")),
    ("global_mean must be a finite number", set_metadata(global_mean="inf")),
    ("global_mean must be a finite number", set_metadata(global_mean="3.50")),
    ("global_mean must be a finite number", set_metadata(global_mean="1_0.0")),
    ("global_mean must be a finite number", set_metadata(global_mean="three")),
    ("biased must be one of", set_metadata(biased="True")),
    ("biased=False contradicts parameter biases=True", set_metadata(biased="false")),
    ("missing metadata key 'training'", lambda m, t: m.pop("training")),
    ("training: not valid JSON", set_metadata(training="{")),
    ("training: not valid JSON: NaN is not", set_training_text("0.5", "NaN")),
    ("training must be a JSON object", set_metadata(training="[]")),
    ("unknown number of training 'momentum'", set_training(momentum=0.5)),
    ("missing number of training 'best_epoch'", set_metadata(training="{}")),
    ("noise of training must be float, got 1", set_training(noise=1)),
    ("noise of training must be float, got '1.0'", set_training(noise="1.0")),
    ("best_epoch of training must be int, got 3.0", set_training(best_epoch=3.0)),
    ("best_epoch of training must be int, got True", set_training(best_epoch=True)),
    ("regularization of training must be finite, from 0", set_training(regularization=-0.5)),
    ("user_penalty of training must be finite", set_training_text("5e-324", "1e999")),
    ("user_power of training must be finite, from 0 to 1", set_training(user_power=1.5)),
    ("spread of training must be finite, from 0", set_training(spread=-1e-300)),
    ("noise of training must be finite, from 0 to 1", set_training(noise=1.0000001)),
    ("best_epoch of training must be finite, from -1", set_training(best_epoch=-2)),
    ("best_epoch=5 of training is after n_epochs_trained=4", set_training(best_epoch=5)),
    ("missing tensor 'training.item_sums'", lambda m, t: t.pop("training.item_sums")),
    ("missing tensor 'training.user_sums'", lambda m, t: t.pop("training.user_sums")),
    ("adaptive=False contradicts the present tensor", set_parameter(adaptive=False)),
    ("adaptive=True contradicts the missing tensor", lambda m, t: drop_sums(t)),
    ("training.user_sums must be F32", set_tensor("training.user_sums", lambda a: a[:-1])),
    ("training.item_sums must be F32", set_tensor("training.item_sums", lambda a: a.astype("<f8"))),
    (r"training.user_sums\[3\] is nan", set_value("training.user_sums", 3, np.nan)),
    (r"training.item_sums\[14\] is inf", set_value("training.item_sums", 14, np.inf)),
    (r"training.user_sums\[11\] is 0\.99", set_value("training.user_sums", 11, 0.99)),
    ("parameter 'adaptive' must be bool or NoneType, got 1", set_parameter(adaptive=1)),
    ("parameter 'patience' must be int, got None", set_parameter(patience=None)),
    ("parameter 'regularization_scaling' must be str", set_parameter(regularization_scaling=1)),
    ("zero biases and a zero global mean", without_biases),
    ("zero biases and a zero global mean", mean_without_biases),
    ("user_ids must be one of none, int, str", set_metadata(user_ids="object")),
    ("unknown tensor 'user_ids.offsets'", set_metadata(user_ids="none")),
    ("missing tensor 'user_ids'", lambda m, t: (m.update(user_ids="int"), drop_user_ids(t))),
    ("frame must be one of", set_metadata(frame="../x")),
    ("parameters: not valid JSON", set_metadata(parameters="{")),
    ("the JSON in its header is nested too deeply", set_metadata(parameters="[" * 100_000)),
    ("parameters: not valid JSON: a name occurs twice", set_metadata(parameters='{"a":1,"a":1}')),
    ("parameters must be a JSON object", set_metadata(parameters="[]")),
    ("unknown parameter 'recommend'", set_parameter(recommend=7)),
    ("missing parameter 'adaptive'", set_metadata(parameters="{}")),
    ("parameter 'n_factors' must be int, got 4.0", set_parameter(n_factors=4.0)),
    ("parameter 'n_factors' must be int, got True", set_parameter(n_factors=True)),
    ("parameter 'biases' must be bool, got 1", set_parameter(biases=1)),
    ("parameter 'init' must be str, got None", set_parameter(init=None)),
    ("parameter 'random_state' must hold integers", set_parameter(random_state=[1, "a"])),
    ("parameter 'random_state' must be int or list", set_parameter(random_state={"a": 1})),
    (
        "'learning_rate' must be finite",
        lambda m, t: m.update(parameters=m["parameters"].replace("0.30000000000000004", "1e999")),
    ),
    ("parameter 'dtype' must be 'float32' or 'float64'", set_parameter(dtype="float16")),
    ("item_factors must be F64|user_factors must be F64", set_parameter(dtype="float64")),
    (r"_factors must be F32 of shape \(1\d, 5\)", set_parameter(n_factors=5)),
    (r"_factors must be F32 of shape \(1\d, -4\)", set_parameter(n_factors=-4)),
    ("_factors must not be empty", no_factors),
    ("user_factors must not be empty", no_users),
    ("item_factors must be", set_tensor("item_factors", lambda a: a[:, :3])),
    ("item_factors must be", set_tensor("item_factors", lambda a: a.reshape(-1))),
    ("user_biases must be F32", set_tensor("user_biases", lambda a: a[:-1])),
    ("user_biases must be F32", set_tensor("user_biases", lambda a: a.astype("<f8"))),
    ("item_biases must be F32", set_tensor("item_biases", lambda a: a[:, None])),
    ("seen.indptr must be I64", set_tensor("seen.indptr", lambda a: a[:-1])),
    ("seen.indptr must be I64", set_tensor("seen.indptr", lambda a: a.astype("<i4"))),
    ("seen.indices must be I32 or I64", set_tensor("seen.indices", lambda a: a.astype("<f4"))),
    ("seen.indptr must start with 0", set_value("seen.indptr", 0, 1)),
    ("seen.indptr must not decrease", set_value("seen.indptr", 3, 2**62)),
    ("seen.indptr must not decrease", set_value("seen.indptr", -2, -1)),
    ("seen.indptr ends at", set_value("seen.indptr", -1, 2**62)),
    ("seen.indptr must end at", set_tensor("seen.indices", lambda a: np.append(a, a[:1]))),
    ("out of range", set_value("seen.indices", 0, 15)),
    ("out of range", set_value("seen.indices", -1, -1)),
    ("more than one rating of item", repeat_seen_item),
    (r"user_factors\[11, 3\] is nan", set_value("user_factors", (11, 3), np.nan)),
    (r"item_factors\[0, 1\] is inf", set_value("item_factors", (0, 1), np.inf)),
    (r"user_biases\[2\] is -inf", set_value("user_biases", 2, -np.inf)),
    (r"item_biases\[14\] is nan", set_value("item_biases", 14, np.nan)),
    ("item_ids must be I64", set_tensor("item_ids", lambda a: a[:-1])),
    ("item_ids must be unique", set_value("item_ids", 3, 5)),
    ("user_ids must be unique", set_value("user_ids.offsets", slice(None, -1), 0)),
    ("user_ids.offsets must be I64", set_tensor("user_ids.offsets", lambda a: a[:-1])),
    ("user_ids.offsets must rise", set_value("user_ids.offsets", 0, 1)),
    ("user_ids.offsets must rise", set_value("user_ids.offsets", slice(0, 2), 1)),
    ("user_ids.offsets must rise", set_value("user_ids.offsets", 4, -(2**63))),
    ("user_ids.offsets must rise", set_value("user_ids.offsets", -1, 2**62)),
    ("user_ids.utf8 must be U8", set_tensor("user_ids.utf8", lambda a: a.astype("<i4"))),
    ("user_ids.utf8 holds a label that is not valid UTF-8", set_value("user_ids.utf8", 0, 255)),
    ("history.seconds must be F64", set_tensor("history.seconds", lambda a: a[:2])),
    ("history.epoch must be F64", set_tensor("history.epoch", lambda a: a.astype("<i8"))),
    ("missing tensor 'history.seconds'", lambda m, t: t.pop("history.seconds")),
    ("unknown tensor 'history.loss'", lambda m, t: t.update({"history.loss": np.zeros(3)})),
    ("missing tensor 'user_factors'", lambda m, t: t.pop("user_factors")),
    ("unknown tensor '../x'", lambda m, t: t.update({"../x": np.zeros(3)})),
]


@pytest.mark.parametrize(("message", "edit"), RULES)
def test_rules_between_fields(
    tmp_path: Path, blob: bytes, message: str, edit: Edit, refuse: Callable[..., str]
) -> None:
    metadata, tensors = split(blob)
    from_bytes(join(metadata, tensors))
    edit(metadata, tensors)
    forged = join(metadata, tensors)
    assert re.search(message, refuse(forged))
    path = tmp_path / "forged"
    path.write_bytes(forged)
    with pytest.raises(ModelFileError, match=re.escape(repr(str(path)))):
        load_state(path, mmap=True)


@pytest.mark.parametrize("checksums", ['{"user_factors":1}', "[]", '{"user_factors":"AB"}', "{}"])
def test_the_table_of_checksums(
    blob: bytes, checksums: str, refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata, tensors = split(blob)
    monkeypatch.setattr(serialization, "_header_digest", lambda *_: metadata["header_sha256"])
    metadata["sha256"] = checksums
    assert re.search(
        "sha256 must map|missing checksum", refuse(join(metadata, tensors, rehash=False))
    )


HOSTILE = """
import resource, sys
from pathlib import Path
from cmf.exceptions import ModelFileError
from cmf.serialization import load_state

pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 64 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    for mmap in (False, True):
        try:
            load_state(path, mmap=mmap)
        except ModelFileError:
            continue
        sys.exit(f"{path} was read")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are set as Linux does")
def test_hostile_files_under_a_memory_limit(tmp_path: Path, blob: bytes) -> None:
    """Files that claim gigabytes are refused by a process that may not have them."""
    big = 40 * 2**30
    metadata, tensors = split(blob)
    claim = entry_edit("user_factors", shape=[big // 16, 4], data_offsets=[0, big])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("user_factors.npy", bytes(64 * MEBIBYTE))
    files = {
        "claims": join(metadata, tensors, edit=claim),
        "truncated": blob[:-100],
        "header": (2**40).to_bytes(8, "little") + blob[8:],
        "deep": with_header("[" * 260_000),
        "zip": file.getvalue(),
        "pickle": pickle.dumps(Harmful()),
    }
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with open(folder / "sparse", "wb") as sparse:
        sparse.write((2**18).to_bytes(8, "little"))
        sparse.truncate(big)
    result = subprocess.run(
        [sys.executable, "-c", HOSTILE, str(folder)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 32 * 1024  # KiB


def test_loading_holds_one_copy_of_the_model(tmp_path: Path) -> None:
    path = tmp_path / "model"
    state = make_state()
    large = np.ones((600_000, 4), dtype=np.float32)
    save_state(
        path,
        replace(
            state,
            factors=replace(
                state.factors, user_factors=large, user_biases=np.zeros(600_000, dtype=np.float32)
            ),
            seen=SeenItems(np.zeros(600_001, dtype=np.int64), state.seen.indices[:0]),
            training=replace(
                state.training, sums=(np.ones(600_000, dtype=np.float32), sums_of(state)[1])
            ),
        ),
    )
    size = path.stat().st_size
    tracemalloc.start()
    try:
        mapped = load_state(path, mmap=True)
        _, peak = tracemalloc.get_traced_memory()
        assert peak < 8 * MEBIBYTE
        tracemalloc.reset_peak()
        load_state(path)
        _, peak = tracemalloc.get_traced_memory()
        assert peak < size + 8 * MEBIBYTE
    finally:
        tracemalloc.stop()
    assert mapped.factors.n_users == 600_000


# ---------------------------------------------------------------------------------------- golden


GOLDEN_PARAMETERS = {
    "n_factors": 3,
    "learning_rate": 0.005,
    "regularization": 0.02,
    "n_epochs": 2,
    "biases": True,
    "shuffle": True,
    "init": "normal",
    "init_scale": 0.1,
    "dtype": "float32",
    "n_threads": None,
    "random_state": [7, 11],
    "verbose": 0,
    "learning_rate_decay": None,
    "adaptive": None,
    "bias_learning_rate": None,
    "user_regularization": None,
    "item_regularization": None,
    "bias_regularization": None,
    "regularization_scaling": "rating",
    "early_stopping": None,
    "validation_fraction": None,
    "patience": 10,
    "posterior_samples": 0,
    "burn_in": 40,
    "implicit": None,
    "implicit_learning_rate": None,
    "implicit_regularization": None,
    "loss_function": "squared",
    "huber_threshold": None,
    "l1_regularization": 0.0,
    "nonnegative": False,
    "averaged_epochs": 1,
}


def assert_golden(state: ModelState) -> None:
    """Check what all golden files hold; see tests/data/README.md."""
    user_factors = np.array(
        [
            [-1.0, -0.875, -0.75],
            [-0.625, -0.5, -0.375],
            [-0.25, -0.125, 0.0],
            [0.125, 0.25, 0.375],
            [0.5, 0.625, 0.75],
        ],
        dtype=np.float32,
    )
    item_factors = np.array(
        [[-1.5, -1.25, -1.0], [-0.75, -0.5, -0.25], [0.0, 0.25, 0.5], [0.75, 1.0, 1.25]],
        dtype=np.float32,
    )
    factors = state.factors
    np.testing.assert_array_equal(factors.user_factors, user_factors, strict=True)
    np.testing.assert_array_equal(factors.item_factors, item_factors, strict=True)
    predictions = (
        factors.global_mean
        + factors.user_biases[:, None].astype(np.float64)
        + factors.item_biases
        + user_factors.astype(np.float64) @ item_factors.T
    )
    expected = [
        [7.69375, 5.475, 3.00625, 2.5375],
        [5.5375, 4.1625, 2.5375, 2.9125],
        [4.38125, 3.85, 3.06875, 4.2875],
        [3.1, 3.4125, 3.475, 5.5375],
        [0.56875, 1.725, 2.63125, 5.5375],
    ]
    np.testing.assert_allclose(predictions, expected, rtol=1e-14)
    assert factors.global_mean == 3.6
    assert factors.biased is True
    assert state.seen.indptr.tolist() == [0, 2, 2, 5, 6, 7]
    assert state.seen.indices.tolist() == [3, 0, 1, 2, 0, 3, 2]
    assert state.seen.indices.dtype == np.int32
    assert state.history["running_mse"] == [1.25, 0.75]
    assert state.history["seconds"] == [1.0, 2.0]
    assert all(np.isnan(state.history["validation_rmse"]))
    assert state.seed == 2**100 + 1
    assert state.n_epochs_trained == 2
    assert state.user_ids is not None
    assert state.user_ids.tolist() == ["ada", "Björn", "", "陳", "eve"]
    assert state.item_ids is not None
    assert state.item_ids.tolist() == [10, 20, -30, 2**40]
    assert state.frame == "pandas"


@pytest.mark.parametrize("mmap", [False, True])
def test_the_golden_file_of_version_1(mmap: bool) -> None:
    """What cmf 0.1.0 has written stays readable, and means what it did."""
    state = load_state(GOLDEN[1], mmap=mmap)
    assert_golden(state)
    assert state.parameters == GOLDEN_PARAMETERS
    assert_same_training(state.training, TrainingState(regularization=0.02, user_penalty=0.01))


@pytest.mark.parametrize("mmap", [False, True])
def test_the_golden_file_of_version_2(mmap: bool) -> None:
    state = load_state(GOLDEN[2], mmap=mmap)
    assert_golden(state)
    assert state.parameters == {
        **GOLDEN_PARAMETERS,
        "learning_rate": None,
        "regularization": None,
        "n_epochs": None,
        "init_scale": None,
        "learning_rate_decay": 0.9,
        "adaptive": True,
        "user_regularization": 0.25,
        "bias_regularization": 0,
        "regularization_scaling": "sqrt",
        "validation_fraction": 0.1,
        "patience": 3,
        "implicit_learning_rate": 0.01,
        "loss_function": "huber",
        "huber_threshold": 1.5,
        "l1_regularization": 0,
        "averaged_epochs": 2,
    }
    sums = (
        np.array([1.0, 1.25, 1.5, 1.75, 2.0], dtype=np.float32),
        np.array([1.0, 1.5, 2.0, 2.5], dtype=np.float32),
    )
    assert_same_training(state.training, TrainingState(0.375, 0.125, 0.5, 1.1, 0.7, 2, sums))


def test_a_model_of_version_1_trains_on_as_if_this_version_had_made_it() -> None:
    pandas = pytest.importorskip("pandas")
    old = cmf.MatrixFactorization.load(GOLDEN[1])
    table = [[5, 1, 0, 2], [0, 3, 4, 0], [1, 0, 0, 5], [2, 2, 0, 0], [0, 1, 3, 4]]
    ratings = pandas.DataFrame(table, old.user_ids_, old.item_ids_)
    fresh = cmf.MatrixFactorization(**old.get_params()).fit(ratings)
    states = [model._get_fitted().state for model in (old, fresh)]
    assert_same_training(states[0].training, states[1].training)
    # With the same factors before, the same ones after: nothing else takes part.
    states[1].factors, states[1].seed = states[0].factors, states[0].seed
    old.partial_fit(ratings)
    fresh.partial_fit(ratings)
    assert old.n_iter_ == fresh.n_iter_ == 3
    assert_same_array(old.user_factors_, fresh.user_factors_)
    assert_same_array(old.item_factors_, fresh.item_factors_)
    assert not np.array_equal(old.user_factors_, states[0].factors.user_factors)


def version_1() -> tuple[dict[str, Any], dict[str, Any]]:
    return split(GOLDEN[1].read_bytes())


def test_a_file_of_version_1_survives_a_second_writer() -> None:
    assert_golden(from_bytes(join(*version_1())))


@pytest.mark.parametrize(
    ("message", "edit"),
    [
        ("unknown metadata key 'training'", lambda m, t: m.update(training="{}")),
        (
            "unknown tensor 'training.user_sums'",
            lambda m, t: t.update({"training.user_sums": np.ones(5, "<f4")}),
        ),
        ("unknown parameter 'patience'", set_parameter(patience=3)),
        (
            "'learning_rate' must be float or int, got None",
            set_parameter(learning_rate=None),
        ),
        ("missing metadata key 'noise_std'", lambda m, t: m.update(format_version="2")),
        (
            "regularization of training must be finite",
            set_parameter(regularization=-1),
        ),
        (
            "regularization of training must be finite",
            set_parameter(regularization=10**400),
        ),
        ("format_version", lambda m, t: m.update(format_version="1.0")),
    ],
)
def test_version_1_knows_nothing_of_later_ones(
    message: str, edit: Edit, refuse: Callable[..., str]
) -> None:
    metadata, tensors = version_1()
    edit(metadata, tensors)
    assert re.search(message, refuse(join(metadata, tensors)))
