"""The gate for scalars: hyper-parameters and the numbers that methods take."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args

import numpy as np

from cmf._typing import UnknownPolicy

__all__ = ["Parameters", "check_bool", "check_choice", "check_float", "check_int", "check_unknown"]

DTYPES = ("float32", "float64")
INITS = ("normal", "scaled", "uniform")


def check_int(value: object, name: str, *, minimum: int, maximum: int | None = None) -> int:
    """Return `value` as an int, or say what is wrong with it. bool is not an integer here."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"{name} must be an integer, got {value!r} of type {type(value).__name__}"
        ) from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    if maximum is not None and number > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {number}")
    return number


def check_float(
    value: object, name: str, *, minimum: float = 0.0, exclusive: bool = False
) -> float:
    """Return `value` as a finite float that is at least (or above) `minimum`."""
    number_types = (int, float, np.integer, np.floating)
    no_numbers = (bool, np.bool_, np.timedelta64)  # NumPy derives the last from its integers
    if isinstance(value, no_numbers) or not isinstance(value, number_types):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value!r}")
    if number < minimum or (exclusive and number <= minimum):
        wanted = "greater than" if exclusive else "at least"
        raise ValueError(f"{name} must be {wanted} {minimum:g}, got {number:g}")
    return number


def check_bool(value: object, name: str) -> bool:
    """Return `value` if it is a bool; truthy things are not."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(
            f"{name} must be True or False, got {value!r} of type {type(value).__name__}"
        )
    return bool(value)


def check_choice(value: object, name: str, choices: tuple[str, ...]) -> str:
    """Return `value` if it is one of the strings in `choices`."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r} of type {type(value).__name__}")
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def check_unknown(value: object) -> UnknownPolicy:
    """Return `value` if it names a policy for unknown users and items."""
    policy: UnknownPolicy = check_choice(value, "unknown", get_args(UnknownPolicy))  # type: ignore[assignment]
    return policy


def check_dtype(value: object) -> str:
    """Return ``"float32"`` or ``"float64"`` for anything NumPy reads as one of the two."""
    try:
        name = np.dtype(value).name  # type: ignore[call-overload]
    except Exception:  # NumPy reads a small language here, with errors of many types
        raise TypeError(f"dtype must be 'float32' or 'float64', got {value!r}") from None
    if value is None or name not in DTYPES:
        raise ValueError(f"dtype must be 'float32' or 'float64', got {value!r}")
    return str(name)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Checked constructor parameters of `cmf.MatrixFactorization`, of plain Python types."""

    n_factors: int
    learning_rate: float
    regularization: float
    n_epochs: int
    biases: bool
    shuffle: bool
    init: str
    init_scale: float
    dtype: str
    n_threads: int | None
    verbose: int

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> Parameters:
        """Check every value, in the order of the fields; other keys are not looked at."""
        n_threads, verbose = values["n_threads"], values["verbose"]
        checked = cls(
            n_factors=check_int(values["n_factors"], "n_factors", minimum=1, maximum=2**20),
            learning_rate=check_float(values["learning_rate"], "learning_rate", exclusive=True),
            regularization=check_float(values["regularization"], "regularization"),
            n_epochs=check_int(values["n_epochs"], "n_epochs", minimum=1),
            biases=check_bool(values["biases"], "biases"),
            shuffle=check_bool(values["shuffle"], "shuffle"),
            init=check_choice(values["init"], "init", INITS),
            init_scale=check_float(values["init_scale"], "init_scale"),
            dtype=check_dtype(values["dtype"]),
            n_threads=None
            if n_threads is None
            else check_int(n_threads, "n_threads", minimum=1, maximum=2**15),
            verbose=int(verbose)
            if isinstance(verbose, (bool, np.bool_))
            else check_int(verbose, "verbose", minimum=0, maximum=2),
        )
        if checked.init_scale == 0 and not checked.biases:
            raise ValueError(
                "init_scale=0 with biases=False starts at a saddle point that no step leaves: "
                "give an init_scale above 0, or biases=True for a model of biases alone"
            )
        return checked

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the fields, in order."""
        return tuple(field.name for field in fields(cls))
