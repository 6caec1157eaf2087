"""Model files: one fitted model in one file, written whole or not at all, read with suspicion.

The layout is that of safetensors, so that any safetensors reader opens a model file::

    8 bytes    length of the header, unsigned, little-endian
    header     compact JSON in UTF-8, at most 256 KiB, padded with fewer than 8 spaces
    payload    the tensors, little-endian, C order, back to back to the end of the file

The header maps each tensor's name to its ``dtype``, ``shape`` and ``data_offsets`` (start and stop
in the payload), and ``__metadata__`` to strings:

===================== ==========================================================================
``format``            ``cmf``
``format_version``    ``2``
``cmf_version``       version of the writer
``parameters``        constructor parameters, as JSON
``seed``              decimal number below 2**128
``n_epochs_trained``  decimal number
``global_mean``       shortest decimal number that reads back to the same float64
``biased``            ``true`` or ``false``
``training``          numbers of `TrainingState`, as JSON
``noise_std``         that of `Uncertainty`, written as ``global_mean``; ``none`` without
``user_ids``          ``none``, ``int`` or ``str``; ``item_ids`` likewise
``frame``             ``none``, ``pandas``, ``polars`` or ``pyarrow``
``sha256``            JSON object: tensor name to the hexadecimal sha256 of its bytes
``header_sha256``     sha256 of ``{"metadata": the above, "tensors": {name: [dtype, shape]}}`` as
                      compact JSON with sorted keys, so that the order of tensors is free
===================== ==========================================================================

The tensors are ``user_factors``, ``item_factors``, ``user_biases``, ``item_biases`` (F32 or F64),
``seen.indptr`` (I64), ``seen.indices`` (I32 or I64) and one ``history.<column>`` (F64) per column.
With implicit features there are ``own_user_factors`` and ``implicit_factors``, of the same type.
Where rates adapt there are ``training.user_sums`` and ``training.item_sums``, likewise;
where `Uncertainty` is known, ``uncertainty.user_spreads`` and ``uncertainty.item_spreads`` (F32).
Integer ids are ``user_ids`` (I64); string ids are ``user_ids.utf8`` (U8), all labels without a
separator, and ``user_ids.offsets`` (I64), where each begins and where the last one ends.

A file of version 2 holds exactly this: neither unknown nor missing names are accepted. One of
version 1 lacks ``training``, ``noise_std``, their tensors and the parameters that came later; what
it does not say follows from what it does, since there was one rule to train by.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import operator
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of
from itertools import pairwise
from types import NoneType
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cmf._checks import check_csr, check_finite
from cmf._ids import check_unique, normalize_labels
from cmf._parameters import Parameters, check_dtype
from cmf._state import HISTORY_COLUMNS, Factors, ModelState, SeenItems, TrainingState, Uncertainty
from cmf._typing import FrameKind, Ids
from cmf._version import __version__
from cmf.exceptions import ModelFileError

__all__ = ["load_state", "save_state"]

_FORMAT = "cmf"
_VERSIONS = ("1", "2")
_FORMAT_VERSION = _VERSIONS[-1]
_DISTRIBUTION = "cmf-recsys"

# Every parameter of the constructor and the types that JSON may give it, by format version. Once a
# version is released, a parameter that is added is written under the next one; reading an older
# file fills in its default, which is that of `Parameters`.
_FIRST_PARAMETERS: dict[str, tuple[type, ...]] = {
    "n_factors": (int,),
    "learning_rate": (float, int),
    "regularization": (float, int),
    "n_epochs": (int,),
    "biases": (bool,),
    "shuffle": (bool,),
    "init": (str,),
    "init_scale": (float, int),
    "dtype": (str,),
    "n_threads": (int, NoneType),
    "random_state": (int, list, NoneType),
    "verbose": (int, bool),
}
_PARAMETER_TYPES: dict[str, dict[str, tuple[type, ...]]] = {
    "1": _FIRST_PARAMETERS,
    "2": {
        **_FIRST_PARAMETERS,
        "learning_rate": (float, int, NoneType),
        "regularization": (float, int, NoneType),
        "n_epochs": (int, NoneType),
        "init_scale": (float, int, NoneType),
        "learning_rate_decay": (float, int, NoneType),
        "adaptive": (bool, NoneType),
        "bias_learning_rate": (float, int, NoneType),
        "user_regularization": (float, int, NoneType),
        "item_regularization": (float, int, NoneType),
        "bias_regularization": (float, int, NoneType),
        "regularization_scaling": (str,),
        "early_stopping": (bool, NoneType),
        "validation_fraction": (float, int, NoneType),
        "patience": (int,),
        "posterior_samples": (int,),
        "burn_in": (int,),
        "implicit": (bool, NoneType),
        "implicit_learning_rate": (float, int, NoneType),
        "implicit_regularization": (float, int, NoneType),
        "loss_function": (str,),
        "huber_threshold": (float, int, NoneType),
        "l1_regularization": (float, int),
        "nonnegative": (bool,),
        "averaged_epochs": (int,),
    },
}
_DEFAULTS = {field.name: field.default for field in fields_of(Parameters)}

# The numbers of `TrainingState`: their type, the least and the greatest that there can be.
_TRAINING_NUMBERS: dict[str, tuple[type, float, float]] = {
    "regularization": (float, 0, math.inf),
    "user_penalty": (float, 0, math.inf),
    "user_power": (float, 0, 1),
    "spread": (float, 0, math.inf),
    "noise": (float, 0, 1),
    "best_epoch": (int, -1, 2**63 - 1),
}
_SUMS = ("training.user_sums", "training.item_sums")
_IMPLICIT = ("own_user_factors", "implicit_factors")
_SPREADS = ("uncertainty.user_spreads", "uncertainty.item_spreads")

_METADATA_KEYS = frozenset(
    {
        "format",
        "format_version",
        "cmf_version",
        "parameters",
        "seed",
        "n_epochs_trained",
        "global_mean",
        "biased",
        "training",
        "noise_std",
        "user_ids",
        "item_ids",
        "frame",
        "sha256",
        "header_sha256",
    }
)
_ID_KINDS = ("none", "int", "str")
_FRAMES: dict[str, FrameKind | None] = {
    "none": None,
    "pandas": "pandas",
    "polars": "polars",
    "pyarrow": "pyarrow",
}
_ENTRY_KEYS = frozenset({"dtype", "shape", "data_offsets"})

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
}
_CODES = {(dtype.kind, dtype.itemsize): code for code, dtype in _DTYPES.items()}
_VALUE_CODES = {"float32": "F32", "float64": "F64"}

_TEXT_HANDLE = "file must be opened in binary mode, got a text handle"

_PREFIX_BYTES = 8
_ALIGNMENT = 8
_HEADER_LIMIT = 256 * 1024
_CHUNK_BYTES = 1024 * 1024

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,38}", re.ASCII)  # 2**128 has 39 digits
_SHA256 = re.compile(r"[0-9a-f]{64}")

_Arrays: TypeAlias = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One entry of the header; `start` and `stop` count from the beginning of the payload."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Fields:
    """The metadata, parsed; what version 1 does not say is filled in."""

    version: str
    parameters: dict[str, Any]
    seed: int
    n_epochs_trained: int
    global_mean: float
    biased: bool
    training: TrainingState  # without its sums
    noise_std: float | None
    id_kinds: dict[str, str]
    frame: FrameKind | None
    checksums: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Header:
    """All that stands before the payload, checked."""

    fields: _Fields
    tensors: dict[str, _Tensor]
    payload_start: int


# ---------------------------------------------------------------------------- the two public names


def save_state(file: str | os.PathLike[str] | BinaryIO, state: ModelState) -> None:
    """Write a fitted model to a model file.

    A path is written through a temporary file in the same folder, flushed to the disk and renamed:
    whoever reads the path, at whatever moment, finds the old file or the new one. The suffix of the
    path is taken as it is. A symbolic link keeps pointing where it did, and its target is replaced.

    Parameters
    ----------
    file : str, os.PathLike or binary file object
        Where to write. A file object is written from its current position on and left open.
    state : ModelState
        What to write; never modified. Arrays of any memory order and byte order are accepted.

    Raises
    ------
    TypeError
        If ids are neither strings nor integers, an array or a parameter has a type that model
        files do not know, or `file` is neither a path nor a binary file object.
    ValueError
        If `state` contradicts itself or holds NaN or infinite factors; nothing is written then.
    OSError
        If the file cannot be written; no temporary file is left behind.

    See Also
    --------
    load_state : The way back.

    Notes
    -----
    ``random_state`` is kept if it is None, an int or a sequence of ints, and becomes None
    otherwise: continued training follows from `ModelState.seed`, which is kept in any case.

    Time and disk space are linear in the size of the model; besides the ids, memory is used only
    for arrays that are not C-contiguous and little-endian already. The new file has the
    permissions of the one it replaces, or those of any newly created file. A file that is mapped
    (``load_state(..., mmap=True)``) may be replaced, the mapping keeps showing the old model; only
    Windows refuses. Threads may save at the same time as long as none of them trains the model.

    Examples
    --------
    >>> import io
    >>> import numpy as np
    >>> import cmf
    >>> from cmf._state import HISTORY_COLUMNS, Factors, ModelState, SeenItems
    >>> from cmf.serialization import load_state, save_state
    >>> parameters = cmf.MatrixFactorization(2, learning_rate=0.01, dtype="float64").get_params()
    >>> factors = Factors(np.eye(3, 2), np.ones((4, 2)), np.zeros(3), np.zeros(4), 3.5, True)
    >>> seen = SeenItems(np.array([0, 1, 1, 3]), np.array([2, 0, 3], dtype=np.int32))
    >>> history = {column: [] for column in HISTORY_COLUMNS}
    >>> file = io.BytesIO()
    >>> save_state(file, ModelState(parameters, factors, seen, history, 0, 0))
    >>> position = file.seek(0)
    >>> load_state(file).factors.global_mean
    3.5
    """
    blocks = _encode(state)
    if isinstance(file, str | os.PathLike):
        _replace_file(os.fsdecode(file), blocks)
        return
    _check_method(file, "write")
    try:
        file.write(b"")
    except TypeError as error:
        raise TypeError(_TEXT_HANDLE) from error
    _write_blocks(file, blocks)


def load_state(
    file: str | os.PathLike[str] | BinaryIO, *, mmap: bool = False, verify: bool = True
) -> ModelState:
    """Read a fitted model from a model file.

    Nothing in the file is executed. Sizes, names, types, shapes, offsets and checksums are all
    compared with each other and with the length of the file before the arrays are allocated, so
    that a damaged or hostile file costs an error and little memory.

    Parameters
    ----------
    file : str, os.PathLike or binary file object
        What to read. A file object needs ``read``, ``seek`` and ``tell``; it is read from its
        current position to its end, and left open.
    mmap : bool, default False
        Map the file instead of reading it: factors, biases and seen items become read-only views
        of one mapping, which all processes that map the same file share. Needs a path. The file
        must not be overwritten in place meanwhile; `save_state` never does that.
    verify : bool, default True
        Whether to compare the payload with its checksums. False skips these and no other check.

    Returns
    -------
    ModelState
        What `save_state` was given, bit for bit.

    Raises
    ------
    ModelFileError
        If the file is not a model file, is of a later format version, or is damaged.
    OSError
        If the file cannot be read; FileNotFoundError if there is none.
    TypeError
        If `file` is neither a path nor a binary file object.
    ValueError
        If `mmap` is asked for with a file object.

    See Also
    --------
    save_state : The way there.

    Notes
    -----
    Reading takes time linear in the size of the file and memory for the model itself. The values
    are checked with ``mmap=True`` too, so that every page is touched once. A checksum finds damage,
    not forgery: whoever can write the file can write its checksums. Safe to call from any thread,
    with different file objects.

    Examples
    --------
    >>> import io
    >>> from cmf.serialization import load_state
    >>> load_state(io.BytesIO(b"PK.an archive"))
    Traceback (most recent call last):
        ...
    cmf.exceptions.ModelFileError: <BytesIO>: it is a zip archive (.npz?), not a cmf model file
    """
    if isinstance(file, str | os.PathLike):
        with open(file, "rb") as stream:
            return _load(stream, repr(os.fsdecode(file)), mmap, verify)
    _check_method(file, "read")
    if mmap:
        raise ValueError("mmap=True needs the path of a file, got a file object")
    if not isinstance(file.read(0), bytes):
        raise TypeError(_TEXT_HANDLE)
    name = getattr(file, "name", None)
    return _load(
        file, repr(name) if isinstance(name, str) else f"<{type(file).__name__}>", False, verify
    )


# ------------------------------------------------------------------------------------ both ways


def _check_method(file: object, method: str) -> None:
    if not callable(getattr(file, method, None)):
        raise TypeError(
            f"file must be a str, an os.PathLike or a binary file object that can {method}, "
            f"got {type(file).__name__}"
        )


def _check_names(found: set[str], wanted: set[str] | frozenset[str], what: str) -> None:
    """Both sets must be the same."""
    for names, complaint in ((found - wanted, "unknown"), (wanted - found, "missing")):
        if names:
            raise ValueError(f"{complaint} {what} {_shorten(repr(min(names)))}")


def _shorten(text: str) -> str:
    """Cut what a message quotes from a file down to one line."""
    return text if len(text) <= 80 else text[:77] + "..."


def _header_digest(metadata: dict[str, str], tensors: dict[str, _Tensor]) -> str:
    """Checksum of all that the header says but where the tensors are, which may change."""
    described = {
        "metadata": {key: text for key, text in metadata.items() if key != "header_sha256"},
        "tensors": {name: [tensor.dtype, tensor.shape] for name, tensor in tensors.items()},
    }
    return hashlib.sha256(_to_json(described, sort_keys=True).encode()).hexdigest()


def _to_json(value: object, *, sort_keys: bool = False) -> str:
    """Write JSON in the one spelling that model files use; safetensors writes it like that too."""
    return json.dumps(
        value, separators=(",", ":"), ensure_ascii=False, allow_nan=False, sort_keys=sort_keys
    )


def _check_parameters(parameters: Any, version: str) -> None:
    """Names and types; the ranges are the estimator's to check."""
    if not isinstance(parameters, dict):
        raise ValueError(f"parameters must be a JSON object, got {type(parameters).__name__}")
    wanted = _PARAMETER_TYPES[version]
    _check_names(set(parameters), set(wanted), "parameter")
    for name, types in wanted.items():
        value = parameters[name]
        if type(value) not in types:
            kinds = " or ".join(kind.__name__ for kind in types)
            raise TypeError(f"parameter {name!r} must be {kinds}, got {_shorten(repr(value))}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"parameter {name!r} must be finite, got {value}")
        if isinstance(value, list) and any(type(number) is not int for number in value):
            raise TypeError(f"parameter {name!r} must hold integers, got {_shorten(repr(value))}")


def _check_training(numbers: Any) -> None:
    """Names, types and ranges of the numbers of `TrainingState`."""
    if not isinstance(numbers, dict):
        raise ValueError(f"training must be a JSON object, got {type(numbers).__name__}")
    _check_names(set(numbers), set(_TRAINING_NUMBERS), "number of training")
    for name, (kind, least, most) in _TRAINING_NUMBERS.items():
        value = numbers[name]
        if type(value) not in (kind,):
            raise TypeError(
                f"{name} of training must be {kind.__name__}, got {_shorten(repr(value))}"
            )
        if not (least <= value <= most and math.isfinite(value)):
            raise ValueError(
                f"{name} of training must be finite, from {least} to {most}, "
                f"got {_shorten(repr(value))}"
            )


def _expected_tensors(
    fields: _Fields, tensors: dict[str, _Tensor]
) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Tell the allowed dtypes and the shape of every tensor that goes with these fields."""

    def length(name: str) -> int:
        shape = tensors[name].shape if name in tensors else ()
        return shape[0] if shape else 0

    n_factors = fields.parameters["n_factors"]
    rows = {"user": length("user_factors"), "item": length("item_factors")}
    values = (_VALUE_CODES.get(fields.parameters["dtype"], "F32"),)
    expected: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
        "seen.indptr": (("I64",), (rows["user"] + 1,)),
        "seen.indices": (("I32", "I64"), (length("seen.indices"),)),
    }
    for side, n_rows in rows.items():
        expected[f"{side}_factors"] = (values, (n_rows, n_factors))
        expected[f"{side}_biases"] = (values, (n_rows,))
        kind = fields.id_kinds[side]
        if kind == "int":
            expected[f"{side}_ids"] = (("I64",), (n_rows,))
        elif kind == "str":
            expected[f"{side}_ids.offsets"] = (("I64",), (n_rows + 1,))
            expected[f"{side}_ids.utf8"] = (("U8",), (length(f"{side}_ids.utf8"),))
    if fields.version != "1" and any(name in tensors for name in _SUMS):
        for name, n_rows in zip(_SUMS, rows.values(), strict=True):
            expected[name] = (values, (n_rows,))
    if _is_implicit(fields.parameters):
        for name, n_rows in zip(_IMPLICIT, rows.values(), strict=True):
            expected[name] = (values, (n_rows, n_factors))
    if fields.noise_std is not None:
        for name, n_rows in zip(_SPREADS, rows.values(), strict=True):
            expected[name] = (("F32",), (n_rows,))
    n_entries = length(f"history.{HISTORY_COLUMNS[0]}")
    for column in HISTORY_COLUMNS:
        expected[f"history.{column}"] = (("F64",), (n_entries,))
    return expected


def _is_implicit(parameters: dict[str, Any]) -> bool:
    """Tell whether gradient descent trained implicit factors."""
    return bool(parameters["implicit"]) and not parameters["posterior_samples"]


def _check_layout(fields: _Fields, tensors: dict[str, _Tensor]) -> None:
    """Compare the fields with the types and shapes of the tensors."""
    if fields.parameters["dtype"] not in _VALUE_CODES:
        raise ValueError(
            f"parameter 'dtype' must be 'float32' or 'float64', "
            f"got {_shorten(repr(fields.parameters['dtype']))}"
        )
    expected = _expected_tensors(fields, tensors)
    _check_names(set(tensors), set(expected), "tensor")
    _check_names(set(fields.checksums), set(expected), "checksum of tensor")
    for name, (dtypes, shape) in expected.items():
        tensor = tensors[name]
        if tensor.dtype not in dtypes or tensor.shape != shape:
            raise ValueError(
                f"{name} must be {' or '.join(dtypes)} of shape {shape} by the parameters and the "
                f"other tensors, got {tensor.dtype} of shape {tensor.shape}"
            )
    for name in ("user_factors", "item_factors"):
        if 0 in tensors[name].shape:
            raise ValueError(f"{name} must not be empty, got shape {tensors[name].shape}")
    n_entries = tensors[f"history.{HISTORY_COLUMNS[0]}"].shape[0]
    if n_entries > fields.n_epochs_trained:
        raise ValueError(
            f"history has {n_entries} entries, more than n_epochs_trained={fields.n_epochs_trained}"
        )
    best_epoch = fields.training.best_epoch
    if best_epoch > fields.n_epochs_trained:
        raise ValueError(
            f"best_epoch={best_epoch} of training is after "
            f"n_epochs_trained={fields.n_epochs_trained}"
        )
    n_samples = fields.parameters["posterior_samples"]
    if (n_samples > 0) != (fields.noise_std is not None):
        raise ValueError(
            f"noise_std={fields.noise_std} contradicts parameter posterior_samples={n_samples}"
        )
    adaptive, summed = fields.parameters["adaptive"], _SUMS[0] in tensors
    # Draws from a posterior have no rates, whatever the parameter says.
    if adaptive is not None and summed != (adaptive and n_samples == 0):
        raise ValueError(
            f"parameter adaptive={adaptive} contradicts the "
            f"{'present' if summed else 'missing'} tensor {_SUMS[0]!r}"
        )
    if fields.biased != fields.parameters["biases"]:
        raise ValueError(
            f"biased={fields.biased} contradicts parameter biases={fields.parameters['biases']}"
        )


def _check_values(fields: _Fields, arrays: _Arrays) -> None:
    """Check the numbers themselves; no index is trusted before this."""
    for name in ("user_factors", "item_factors", "user_biases", "item_biases", *_IMPLICIT):
        if name in arrays:
            check_finite(arrays[name], name)
    for name in _SUMS:
        if name in arrays:
            _check_sums(arrays[name], name)
    for name in _SPREADS:
        if name in arrays:
            check_finite(arrays[name], name)
            if (arrays[name] < 0).any():
                raise ValueError(f"{name} must not be negative, got {arrays[name].min()}")
    if not fields.biased and (
        fields.global_mean != 0.0 or arrays["user_biases"].any() or arrays["item_biases"].any()
    ):
        raise ValueError("a model without biases must have zero biases and a zero global mean")
    indptr, indices = arrays["seen.indptr"], arrays["seen.indices"]
    shape = (len(arrays["user_factors"]), len(arrays["item_factors"]))
    check_csr(indptr, indices, shape, "seen")
    if indptr[-1] != len(indices):
        raise ValueError(
            f"seen.indptr must end at {len(indices)}, the number of indices, got {indptr[-1]}"
        )


def _check_sums(sums: NDArray[Any], name: str) -> None:
    check_finite(sums, name)
    if (sums < 1).any():
        row = int(np.argmax(sums < 1))
        raise ValueError(f"{name}[{row}] is {sums[row]}: sums start at 1 and never fall")


def _parse_fields(metadata: dict[str, str]) -> _Fields:
    """Metadata as values; each text must be the one that `_describe` writes for its value."""
    version = metadata["format_version"]
    later = {"training", "noise_std"} if version == "1" else set()
    _check_names(set(metadata), _METADATA_KEYS - later, "metadata key")
    parameters = _parse_json(metadata["parameters"], "parameters")
    _check_parameters(parameters, version)
    checksums = _parse_json(metadata["sha256"], "sha256")
    if not isinstance(checksums, dict) or not all(
        isinstance(digest, str) and _SHA256.fullmatch(digest) for digest in checksums.values()
    ):
        raise ValueError("sha256 must map tensor names to hexadecimal checksums")
    if version == "1":
        training = _first_training(parameters)
        added = _PARAMETER_TYPES[_FORMAT_VERSION].keys() - parameters.keys()
        parameters = {**parameters, **{name: _DEFAULTS[name] for name in added}}
    else:
        training = _parse_json(metadata["training"], "training")
    _check_training(training)
    return _Fields(
        version=version,
        parameters=parameters,
        seed=_parse_decimal(metadata, "seed", 2**128),
        n_epochs_trained=_parse_decimal(metadata, "n_epochs_trained", 2**63),
        global_mean=_parse_float(metadata, "global_mean"),
        biased=_parse_choice(metadata, "biased", ("true", "false")) == "true",
        training=TrainingState(**training),
        noise_std=_parse_noise(metadata.get("noise_std", "none")),
        id_kinds={
            side: _parse_choice(metadata, f"{side}_ids", _ID_KINDS) for side in ("user", "item")
        },
        frame=_FRAMES[_parse_choice(metadata, "frame", tuple(_FRAMES))],
        checksums=checksums,
    )


def _first_training(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return how models of version 1 were trained: all rows alike, as the parameters say."""
    state = TrainingState()
    numbers = {name: getattr(state, name) for name in _TRAINING_NUMBERS}
    try:
        regularization = float(parameters["regularization"])
    except OverflowError:
        regularization = math.inf
    return {**numbers, "regularization": regularization, "user_penalty": regularization / 2}


def _parse_noise(text: str) -> float | None:
    noise = None if text == "none" else _parse_float({"noise_std": text}, "noise_std")
    if noise is not None and noise < 0:
        raise ValueError(f"noise_std must not be negative, got {text}")
    return noise


def _parse_choice(metadata: dict[str, str], key: str, choices: tuple[str, ...]) -> str:
    if metadata[key] not in choices:
        raise ValueError(
            f"{key} must be one of {', '.join(choices)}, got {_shorten(repr(metadata[key]))}"
        )
    return metadata[key]


def _parse_float(metadata: dict[str, str], key: str) -> float:
    text = metadata[key]
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or repr(number) != text:
        raise ValueError(f"{key} must be a finite number, got {_shorten(repr(text))}")
    return number


def _parse_decimal(metadata: dict[str, str], key: str, limit: int) -> int:
    text = metadata[key]
    if not _DECIMAL.fullmatch(text) or int(text) >= limit:
        raise ValueError(
            f"{key} must be a whole number from 0 to {limit - 1}, got {_shorten(repr(text))}"
        )
    return int(text)


# --------------------------------------------------------------------------------------- writing


def _encode(state: ModelState) -> list[memoryview]:
    """Every byte of the file, in order; refuses a state that `load_state` would refuse."""
    id_kinds, arrays = _encode_arrays(state)
    tensors = _lay_out(arrays)
    metadata = _describe(state, id_kinds, arrays)
    metadata["header_sha256"] = _header_digest(metadata, tensors)
    fields = _parse_fields(metadata)
    _check_layout(fields, tensors)
    _check_values(fields, arrays)
    return [memoryview(_encode_header(metadata, tensors)), *map(_bytes_of, arrays.values())]


def _encode_arrays(state: ModelState) -> tuple[dict[str, str], _Arrays]:
    """Kinds of ids and all tensors, the widest types first, so that each is aligned to its type."""
    factors = state.factors
    values = ("F32", "F64")
    arrays = {
        "user_factors": _as_tensor(factors.user_factors, "user_factors", values),
        "item_factors": _as_tensor(factors.item_factors, "item_factors", values),
        "user_biases": _as_tensor(factors.user_biases, "user_biases", values),
        "item_biases": _as_tensor(factors.item_biases, "item_biases", values),
        "seen.indptr": _as_tensor(state.seen.indptr, "seen.indptr", ("I64",)),
        "seen.indices": _as_tensor(state.seen.indices, "seen.indices", ("I32", "I64")),
    }
    for name in _IMPLICIT:
        if (rows := getattr(factors, name)) is not None:
            arrays[name] = _as_tensor(rows, name, values)
    if state.training.sums is not None:
        for name, sums in zip(_SUMS, state.training.sums, strict=True):
            arrays[name] = _as_tensor(sums, name, values)
    if state.uncertainty is not None:
        spreads = state.uncertainty.user_spreads, state.uncertainty.item_spreads
        for name, variances in zip(_SPREADS, spreads, strict=True):
            arrays[name] = _as_tensor(variances, name, ("F32",))
    for column, numbers in state.history.items():
        arrays[f"history.{column}"] = np.asarray(numbers, dtype=_DTYPES["F64"])
    id_kinds = {}
    for side, ids in (("user", state.user_ids), ("item", state.item_ids)):
        id_kinds[side], encoded = _encode_ids(ids, f"{side}_ids")
        arrays.update(encoded)
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    return id_kinds, {name: arrays[name] for name in order}


def _as_tensor(values: Any, name: str, codes: tuple[str, ...]) -> NDArray[Any]:
    """C order and little-endian; a copy only where `values` are not so already."""
    array = np.asarray(values)
    code = _CODES.get((array.dtype.kind, array.dtype.itemsize), "")
    if code not in codes:
        wanted = " or ".join(_DTYPES[code].name for code in codes)
        raise TypeError(f"{name} must be {wanted}, got {array.dtype}")
    return np.ascontiguousarray(array, dtype=_DTYPES[code])


def _encode_ids(ids: Ids | None, name: str) -> tuple[str, _Arrays]:
    """Kind of the labels and the tensors that hold them."""
    if ids is None:
        return "none", {}
    labels = normalize_labels(ids, name)
    if labels.dtype == np.int64:
        check_unique(labels, name)
        return "int", {name: labels.astype(_DTYPES["I64"], copy=False)}
    for label in labels:
        if type(label) is not str:
            raise TypeError(
                f"{name} must be str or int (below 2**63) to be saved, got {_shorten(repr(label))} "
                f"of type {type(label).__name__}: convert them to str or int before fitting"
            )
    check_unique(labels, name)
    return "str", _encode_strings(labels, name)


def _encode_strings(labels: Ids, name: str) -> _Arrays:
    try:
        encoded = [label.encode() for label in labels]
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} must be valid Unicode to be saved, got {_shorten(repr(error.object))}"
        ) from error
    offsets = np.zeros(len(encoded) + 1, dtype=_DTYPES["I64"])
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    utf8 = np.frombuffer(b"".join(encoded), dtype=_DTYPES["U8"])
    return {f"{name}.offsets": offsets, f"{name}.utf8": utf8}


def _describe(state: ModelState, id_kinds: dict[str, str], arrays: _Arrays) -> dict[str, str]:
    """Write the metadata, but for the checksum of the header."""
    parameters = {name: _plain_parameter(name, value) for name, value in state.parameters.items()}
    _check_parameters(parameters, _FORMAT_VERSION)
    training = {
        name: kind(getattr(state.training, name))
        for name, (kind, _, _) in _TRAINING_NUMBERS.items()
    }
    _check_training(training)
    checksums = {
        name: hashlib.sha256(_bytes_of(array)).hexdigest() for name, array in arrays.items()
    }
    return {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "cmf_version": __version__,
        "parameters": _to_json(parameters),
        "seed": str(operator.index(state.seed)),
        "n_epochs_trained": str(operator.index(state.n_epochs_trained)),
        "global_mean": repr(float(state.factors.global_mean)),
        "biased": "true" if state.factors.biased else "false",
        "training": _to_json(training),
        "noise_std": "none"
        if state.uncertainty is None
        else repr(float(state.uncertainty.noise_std)),
        "user_ids": id_kinds["user"],
        "item_ids": id_kinds["item"],
        "frame": "none" if state.frame is None else state.frame,
        "sha256": _to_json(checksums),
    }


def _plain_parameter(name: str, value: Any) -> Any:
    """Turn a parameter into what JSON knows."""
    if name == "dtype":
        return check_dtype(value)
    if isinstance(value, np.generic):
        return value.item()
    if name == "random_state" and type(value) is not int:
        return _plain_seeds(value)
    return value


def _plain_seeds(value: Any) -> list[int] | None:
    """Turn a sequence of ints into a list, and generators into None: their state moves on."""
    if not isinstance(value, (list, tuple, np.ndarray)):
        return None
    items = value.reshape(-1) if isinstance(value, np.ndarray) else value
    seeds = [seed.item() if isinstance(seed, np.generic) else seed for seed in items]
    return seeds if all(type(seed) is int for seed in seeds) else None


def _lay_out(arrays: _Arrays) -> dict[str, _Tensor]:
    """Place the tensors back to back."""
    tensors = {}
    start = 0
    for name, array in arrays.items():
        stop = start + array.nbytes
        code = _CODES[array.dtype.kind, array.itemsize]
        tensors[name] = _Tensor(code, array.shape, start, stop)
        start = stop
    return tensors


def _encode_header(metadata: dict[str, str], tensors: dict[str, _Tensor]) -> bytes:
    """Length, JSON and padding."""
    entries: dict[str, object] = {"__metadata__": metadata}
    for name, tensor in tensors.items():
        entries[name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": (tensor.start, tensor.stop),
        }
    text = _to_json(entries).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > _HEADER_LIMIT:
        raise ValueError(
            f"the parameters need a header of {len(text)} bytes, at most {_HEADER_LIMIT} fit; "
            f"is random_state a long sequence?"
        )
    return len(text).to_bytes(_PREFIX_BYTES, "little") + text


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """View the memory of a C-contiguous array."""
    return array.reshape(-1).view(np.uint8).data


def _write_blocks(stream: BinaryIO, blocks: list[memoryview]) -> None:
    for block in blocks:
        rest = block
        while rest:
            # Unbuffered files may take a part only; some file-like objects return nothing.
            written = stream.write(rest[:_CHUNK_BYTES])
            rest = rest[min(len(rest), _CHUNK_BYTES) if written is None else written :]


def _replace_file(path: str, blocks: list[memoryview]) -> None:
    """Write to a temporary file next to `path`, then let it take the name."""
    target = os.path.realpath(path)
    if os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if os.path.exists(target) and not os.path.isfile(target):
        raise OSError(errno.EINVAL, "not a regular file, which saving would replace", path)
    temporary = os.path.join(os.path.dirname(target), f".cmf-{os.urandom(8).hex()}.tmp")
    try:
        with open(temporary, "xb") as stream:
            _write_blocks(stream, blocks)
            stream.flush()
            os.fsync(stream.fileno())
        if os.path.exists(target):
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            os.remove(temporary)
        if isinstance(error, OSError) and error.filename == temporary and not error.filename2:
            error.filename = path  # the name that the caller knows
        raise


# --------------------------------------------------------------------------------------- reading


def _load(stream: BinaryIO, name: str, mmap: bool, verify: bool) -> ModelState:
    """All of `load_state` but the opening; complaints about the content get the file's name."""
    base = stream.tell()
    stream.seek(0, os.SEEK_END)
    size = stream.tell() - base
    try:
        header = _read_header(stream, base, size)
        if verify:
            _verify_checksums(stream, header)
        arrays = _map_arrays(stream, header) if mmap else _read_arrays(stream, header)
        _check_values(header.fields, arrays)
        return _restore(header.fields, arrays)
    except RecursionError:
        raise ModelFileError(f"{name}: the JSON in its header is nested too deeply") from None
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"{name}: {error}") from error


def _read_header(stream: BinaryIO, base: int, size: int) -> _Header:
    """Read and check all that can be checked without the payload."""
    prefix = b"".join(_chunks(stream, base, min(size, _PREFIX_BYTES)))
    length = int.from_bytes(prefix, "little")
    if length > min(_HEADER_LIMIT, size - _PREFIX_BYTES):
        raise ValueError(_explain_prefix(prefix, length, size))
    raw = b"".join(_chunks(stream, base + _PREFIX_BYTES, length))
    text = raw.decode("utf-8").rstrip(" ")
    entries = _parse_json(text, "the header")
    metadata = _identify(entries)
    # With one spelling only, no byte of the header can change without changing what it says.
    if text != _to_json(entries) or len(raw) - len(text.encode()) >= _ALIGNMENT:
        raise ValueError("the header is not written in its canonical form: the file is damaged")
    tensors = {
        key: _parse_tensor(key, entry) for key, entry in entries.items() if key != "__metadata__"
    }
    if metadata.get("header_sha256") != _header_digest(metadata, tensors):
        raise ValueError("the checksum of the header does not match: the file is damaged")
    fields = _parse_fields(metadata)
    _check_layout(fields, tensors)
    payload_start = _PREFIX_BYTES + length
    _check_offsets(tensors, size - payload_start)
    return _Header(fields, tensors, base + payload_start)


def _chunks(stream: BinaryIO, offset: int, n_bytes: int) -> Iterator[bytes]:
    """`n_bytes` of the file from `offset` on, in pieces that are cheap to hold."""
    stream.seek(offset)
    left = n_bytes
    while left:
        chunk = stream.read(min(left, _CHUNK_BYTES))
        if not chunk:
            raise ValueError(f"the file ended {left} bytes early while it was read")
        left -= len(chunk)
        yield chunk


def _explain_prefix(prefix: bytes, length: int, size: int) -> str:
    """Why these first bytes do not begin a model file."""
    if prefix[:1] == b"\x80" and prefix[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "it is a pickle, which can execute anything and is never opened"
    if prefix[:2] == b"PK":
        return "it is a zip archive (.npz?), not a cmf model file"
    if size < _PREFIX_BYTES:
        return f"it has {size} bytes, too few for a cmf model file"
    return (
        f"its first bytes announce a header of {length} bytes, where at most "
        f"{min(_HEADER_LIMIT, size - _PREFIX_BYTES)} are possible: "
        f"not a cmf model file, or truncated"
    )


def _parse_json(text: str, what: str) -> Any:
    """Strict JSON: no name twice in an object, no NaN, no infinities."""
    try:
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    except ValueError as error:
        raise ValueError(f"{what}: not valid JSON: {_shorten(str(error))}") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return mapping


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def _identify(entries: Any) -> dict[str, str]:
    """Return the metadata, if they are those of a cmf model of a known version."""
    if not isinstance(entries, dict):
        raise ValueError("the header is not a JSON object: not a cmf model file")
    metadata = entries.get("__metadata__")
    if not isinstance(metadata, dict) or metadata.get("format") != _FORMAT:
        raise ValueError("it is a safetensors file, but not a cmf model")
    if not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("the metadata must be strings")
    version = metadata.get("format_version", "")
    if version not in _VERSIONS:
        if _DECIMAL.fullmatch(version) and int(version) > int(_FORMAT_VERSION):
            raise ValueError(
                f"it has format version {version}, this cmf reads up to {_FORMAT_VERSION}: "
                f"upgrade {_DISTRIBUTION}"
            )
        raise ValueError(f"unknown format_version {_shorten(repr(version))}")
    return metadata


def _parse_tensor(name: str, entry: Any) -> _Tensor:
    """One entry of the header, consistent in itself."""
    what = f"tensor {_shorten(repr(name))}"
    if not isinstance(entry, dict):
        raise ValueError(f"{what} must be a JSON object")
    _check_names(set(entry), _ENTRY_KEYS, f"key in {what}:")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"{what}: dtype must be one of {', '.join(_DTYPES)}")
    for key, numbers, lengths in (("shape", shape, (1, 2)), ("data_offsets", offsets, (2,))):
        if not _are_counts(numbers) or len(numbers) not in lengths:
            raise ValueError(f"{what}: {key} must be a short list of non-negative integers")
    if offsets[1] - offsets[0] != math.prod(shape) * _DTYPES[dtype].itemsize:
        raise ValueError(f"{what}: data_offsets contradict its dtype and shape")
    return _Tensor(dtype, tuple(shape), offsets[0], offsets[1])


def _are_counts(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(n) is int and 0 <= n < 2**63 for n in numbers)


def _check_offsets(tensors: dict[str, _Tensor], payload_bytes: int) -> None:
    """Check that the tensors tile the payload: no gap, no overlap, nothing after the last."""
    position = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if tensor.start != position:
            raise ValueError(f"{name} begins at byte {tensor.start} of the payload, not {position}")
        position = tensor.stop
    if position != payload_bytes:
        state = "truncated" if position > payload_bytes else "damaged or was appended to"
        raise ValueError(
            f"the header describes {position} bytes of tensors, the file holds {payload_bytes}: "
            f"it is {state}"
        )


def _verify_checksums(stream: BinaryIO, header: _Header) -> None:
    """Compare the payload with its checksums, piece by piece."""
    for name, tensor in header.tensors.items():
        digest = hashlib.sha256()
        n_bytes = tensor.stop - tensor.start
        for chunk in _chunks(stream, header.payload_start + tensor.start, n_bytes):
            digest.update(chunk)
        if digest.hexdigest() != header.fields.checksums[name]:
            raise ValueError(f"the checksum of {name} does not match: the file is damaged")


def _read_arrays(stream: BinaryIO, header: _Header) -> _Arrays:
    """Read the tensors into arrays of their own."""
    arrays: _Arrays = {}
    for name, tensor in header.tensors.items():
        array = np.empty(tensor.shape, dtype=_DTYPES[tensor.dtype])
        memory = _bytes_of(array)
        position = 0
        n_bytes = tensor.stop - tensor.start
        for chunk in _chunks(stream, header.payload_start + tensor.start, n_bytes):
            memory[position : position + len(chunk)] = chunk
            position += len(chunk)
        arrays[name] = _native(array)
    return arrays


def _map_arrays(stream: BinaryIO, header: _Header) -> _Arrays:
    """Map the file once and view it, read-only, as tensors."""
    mapped = np.asarray(np.memmap(stream, dtype=np.uint8, mode="r"))
    arrays: _Arrays = {}
    for name, tensor in header.tensors.items():
        dtype = _DTYPES[tensor.dtype]
        start = header.payload_start + tensor.start
        block = mapped[start : header.payload_start + tensor.stop]
        if start % dtype.itemsize:
            # Other writers may place a tensor anywhere; kernels need it aligned.
            block = block.copy()
        array = _native(block.view(dtype).reshape(tensor.shape))
        array.flags.writeable = False
        arrays[name] = array
    return arrays


def _native(array: NDArray[Any]) -> NDArray[Any]:
    """Give the numbers the byte order of this machine: a copy on big-endian ones only."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _restore(fields: _Fields, arrays: _Arrays) -> ModelState:
    factors = Factors(
        arrays["user_factors"],
        arrays["item_factors"],
        arrays["user_biases"],
        arrays["item_biases"],
        fields.global_mean,
        fields.biased,
        *(arrays.get(name) for name in _IMPLICIT),
    )
    return ModelState(
        parameters=fields.parameters,
        factors=factors,
        seen=SeenItems(arrays["seen.indptr"], arrays["seen.indices"]),
        history={column: arrays[f"history.{column}"].tolist() for column in HISTORY_COLUMNS},
        seed=fields.seed,
        n_epochs_trained=fields.n_epochs_trained,
        uncertainty=_uncertainty_of(fields, arrays),
        training=replace(fields.training, sums=_sums_of(arrays)),
        user_ids=_decode_ids(fields.id_kinds["user"], arrays, "user_ids"),
        item_ids=_decode_ids(fields.id_kinds["item"], arrays, "item_ids"),
        frame=fields.frame,
    )


def _sums_of(arrays: _Arrays) -> tuple[NDArray[Any], NDArray[Any]] | None:
    return (arrays[_SUMS[0]], arrays[_SUMS[1]]) if _SUMS[0] in arrays else None


def _uncertainty_of(fields: _Fields, arrays: _Arrays) -> Uncertainty | None:
    if fields.noise_std is None:
        return None
    return Uncertainty(arrays[_SPREADS[0]], arrays[_SPREADS[1]], fields.noise_std)


def _decode_ids(kind: str, arrays: _Arrays, name: str) -> Ids | None:
    """Labels as `ModelState` holds them, in memory of their own."""
    if kind == "none":
        return None
    if kind == "int":
        labels = arrays[name].copy()
    else:
        labels = _decode_strings(arrays[f"{name}.offsets"], arrays[f"{name}.utf8"], name)
    check_unique(labels, name)
    return labels


def _decode_strings(offsets: NDArray[np.int64], utf8: NDArray[np.uint8], name: str) -> Ids:
    if offsets[0] != 0 or offsets[-1] != utf8.size or (offsets[1:] < offsets[:-1]).any():
        raise ValueError(f"{name}.offsets must rise from 0 to {utf8.size}, the size of {name}.utf8")
    blob = utf8.tobytes()
    labels = np.empty(offsets.size - 1, dtype=object)
    try:
        labels[:] = [blob[start:stop].decode() for start, stop in pairwise(offsets.tolist())]
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}.utf8 holds a label that is not valid UTF-8") from error
    return labels
