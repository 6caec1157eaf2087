"""LIBMF through its C interface: any build of it, from records in memory.

The environment variable ``LIBMF_OBJ`` names the shared library to load, as python-libmf has it;
without it we take the one that ``pip install libmf`` has built, for the baseline of the processor
and without its SIMD code. python-libmf's own `fit` turns every index into a float and back on each
call. Here the ratings are the records that ``mf_train`` takes, so that neither that nor reading
text is in the time, and so that a build of LIBMF alone will do.

LIBMF minimizes the squared errors, of ratings divided by their standard deviation, plus
λ (‖p‖² + ‖q‖²) of each rating, with a learning rate of its own for every row. It has no biases and
does not subtract the mean.
"""

from __future__ import annotations

import ctypes
import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._problem import Problem

INSTALL = "pip install libmf, or --libmf and a shared library (benchmarks/README.md)"

RECORD = np.dtype([("u", np.int32), ("v", np.int32), ("r", np.float32)])
SETTINGS = {"k": 64, "eta": 0.1, "lambda": 0.05, "nr_threads": 1, "nr_bins": 20}

_INTS = [(name, ctypes.c_int) for name in ("fun", "k", "nr_threads", "nr_bins", "nr_iters")]
_RATES = ("lambda_p1", "lambda_p2", "lambda_q1", "lambda_q2", "eta")
_FLOATS = [(name, ctypes.c_float) for name in _RATES]
_BOOLS = [(name, ctypes.c_bool) for name in ("do_nmf", "quiet", "copy_data")]
_FLOAT_POINTER = ctypes.POINTER(ctypes.c_float)


class _Problem(ctypes.Structure):
    """Ratings as records."""

    _fields_ = (
        ("m", ctypes.c_int),
        ("n", ctypes.c_int),
        ("nnz", ctypes.c_longlong),
        ("R", ctypes.c_void_p),
    )


class _Model(ctypes.Structure):
    """What a training leaves."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("fun", "m", "n", "k")),
        ("b", ctypes.c_float),
        ("P", _FLOAT_POINTER),
        ("Q", _FLOAT_POINTER),
    )


class _OldParameters(ctypes.Structure):
    """Of older versions, such as the one in python-libmf."""

    _fields_ = (*_INTS, *_FLOATS, *_BOOLS)


class _Parameters(ctypes.Structure):
    """Of the present version."""

    _fields_ = (
        *_INTS,
        *_FLOATS,
        ("alpha", ctypes.c_float),
        ("c", ctypes.c_float),
        *_BOOLS,
    )


def present() -> bool:
    """Tell whether there is a library: the one that is named, or the one of pip."""
    return bool(os.environ.get("LIBMF_OBJ")) or pip_library() is not None


def pip_library() -> Path | None:
    """Return the library that ``pip install libmf`` has put beside its package."""
    spec = find_spec("libmf")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parents[1].glob("libmf*.so"), None)


class Trainer:
    """Settings are those of LIBMF, with ``lambda`` for the λ of both sides."""

    def __init__(self, problem: Problem) -> None:
        """Load the library and make the records."""
        path = os.environ.get("LIBMF_OBJ") or pip_library()
        self.loaded = ctypes.CDLL(str(path))
        self.loaded.mf_train.restype = ctypes.POINTER(_Model)
        ratings = problem.train
        self.records = np.empty(ratings.nnz, dtype=RECORD)
        self.records["u"], self.records["v"] = ratings.tocoo().coords
        self.records["r"] = ratings.data
        self.problem = _Problem(*ratings.shape, ratings.nnz, self.records.ctypes.data)

    def fit(self, n_epochs: int, settings: dict[str, Any]) -> float:
        """Train from the records, of which LIBMF makes a copy."""
        parameters = self._parameters(n_epochs, {**SETTINGS, **settings})
        started = time.perf_counter()
        model = self.loaded.mf_train(ctypes.byref(self.problem), parameters)
        seconds = time.perf_counter() - started
        found = model.contents
        user_factors = np.ctypeslib.as_array(found.P, (found.m, found.k)).copy()
        item_factors = np.ctypeslib.as_array(found.Q, (found.n, found.k)).copy()
        self.model = (found.b, user_factors, item_factors)
        self.loaded.mf_destroy_model(ctypes.byref(model))
        return seconds

    def predict(self, users: Any, items: Any) -> Any:
        """Return products of factors, and the mean where a row had no rating, as LIBMF does."""
        mean, user_factors, item_factors = self.model
        products = np.einsum("nf,nf->n", user_factors[users], item_factors[items])
        return np.where(np.isnan(products), mean, products)

    def _parameters(self, n_epochs: int, settings: dict[str, Any]) -> ctypes.Structure:
        """Return the parameters in the layout of this library."""
        self.loaded.mf_get_default_param.restype = _Parameters
        defaults: ctypes.Structure = self.loaded.mf_get_default_param()
        # In the shorter layout do_nmf, quiet and copy_data (off, off, on) lie where alpha is.
        if bytes(defaults)[_Parameters.alpha.offset :][:3] == b"\0\0\1":
            defaults = _OldParameters.from_buffer_copy(defaults)
        regularization = settings.pop("lambda")
        values = {"nr_iters": n_epochs, "quiet": True, **settings}
        values |= {"lambda_p1": 0.0, "lambda_q1": 0.0}
        values |= {"lambda_p2": regularization, "lambda_q2": regularization}
        for name, value in values.items():
            setattr(defaults, name, value)
        return defaults
