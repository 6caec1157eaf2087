"""The gate for scalars: hyper-parameters and the numbers that methods take."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, get_args

import numpy as np

from cmf._typing import UnknownPolicy

__all__ = [
    "Parameters",
    "check_bool",
    "check_choice",
    "check_float",
    "check_int",
    "check_threads",
    "check_unknown",
]

DTYPES = ("float32", "float64")
INITS = ("normal", "scaled", "uniform")
SCALINGS = ("rating", "sqrt", "count")
# In the order of their numbers in the kernel.
LOSSES = ("squared", "absolute", "huber", "logistic", "poisson")


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


def check_threads(value: object, name: str = "n_threads") -> int | None:
    """Return a number of threads, or None for as many as there are processors."""
    if value is None:
        return None
    try:
        return check_int(value, name, minimum=1, maximum=2**15)
    except ValueError as error:  # -1, as joblib has it, for one
        raise ValueError(f"{error}; None takes as many as there are processors") from None


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
    learning_rate: float | None
    regularization: float | None
    n_epochs: int | None
    biases: bool
    shuffle: bool
    init: str
    init_scale: float | None
    dtype: str
    n_threads: int | None
    verbose: int
    learning_rate_decay: float | None = None
    adaptive: bool | None = None
    bias_learning_rate: float | None = None
    user_regularization: float | None = None
    item_regularization: float | None = None
    bias_regularization: float | None = None
    regularization_scaling: str = "rating"
    early_stopping: bool | None = None
    validation_fraction: float | None = None
    patience: int = 10
    posterior_samples: int = 0
    burn_in: int = 40
    implicit: bool | None = None
    implicit_learning_rate: float | None = None
    implicit_regularization: float | None = None
    loss_function: str = "squared"
    huber_threshold: float | None = None
    l1_regularization: float = 0.0
    nonnegative: bool = False
    averaged_epochs: int = 1

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> Parameters:
        """Check every value, in the order of the fields; other keys are not looked at."""
        checked = cls(**{name: check(values[name], name) for name, check in _CHECKS.items()})
        if checked.init_scale == 0 and not checked.biases:
            raise ValueError(
                "init_scale=0 with biases=False starts at a saddle point that no step leaves: "
                "give an init_scale above 0, or biases=True for a model of biases alone"
            )
        _refuse_contradictions(checked)
        return checked

    @property
    def general(self) -> bool:
        """Whether a parameter asks for another objective than squares."""
        return self.loss_function != "squared" or self.l1_regularization > 0 or self.nonnegative

    @property
    def by_row(self) -> bool:
        """Whether a parameter asks for more than the plain rule."""
        return (
            self.general
            or bool(self.adaptive)
            or (bool(self.implicit) and not self.posterior_samples)
            or self.regularization_scaling != "rating"
            or any(
                getattr(self, name) is not None
                for name in (
                    "learning_rate_decay",
                    "bias_learning_rate",
                    "user_regularization",
                    "item_regularization",
                    "bias_regularization",
                )
            )
        )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the fields, in order."""
        return tuple(field.name for field in fields(cls))


def _refuse_contradictions(parameters: Parameters) -> None:
    """Refuse values that are fine alone, but not together."""
    if parameters.posterior_samples:
        for name, asked in (
            ("loss_function", parameters.loss_function != "squared"),
            ("l1_regularization", parameters.l1_regularization > 0),
            ("nonnegative", parameters.nonnegative),
            ("averaged_epochs", parameters.averaged_epochs > 1),
        ):
            if asked:
                raise ValueError(
                    f"{name}={getattr(parameters, name)!r} is for gradient descent: it does not "
                    "go with posterior_samples"
                )
    if not parameters.shuffle and parameters.by_row:
        raise ValueError(
            "shuffle=False visits ratings by the plain rule: adaptive, learning_rate_decay, "
            "bias_learning_rate, regularization by user, item or bias, regularization_scaling, "
            "implicit, l1_regularization, nonnegative and loss functions other than 'squared' need "
            "shuffle=True"
        )
    if parameters.implicit and parameters.general:
        raise ValueError(
            "implicit=True goes with loss_function='squared', without l1_regularization and "
            "without nonnegative"
        )


_Check = Callable[[object, str], Any]


def _optional(check: _Check) -> _Check:
    """Let None pass."""
    return lambda value, name: None if value is None else check(value, name)


def _positive(value: object, name: str) -> float:
    return check_float(value, name, exclusive=True)


def _share(value: object, name: str) -> float:
    number = check_float(value, name, exclusive=True)
    if number >= 1:
        raise ValueError(f"{name} must be less than 1, got {number:g}")
    return number


def _decay(value: object, name: str) -> float:
    number = check_float(value, name, exclusive=True)
    if number > 1:
        raise ValueError(f"{name} must be at most 1, got {number:g}")
    return number


def _verbosity(value: object, name: str) -> int:
    if isinstance(value, (bool, np.bool_)):
        return int(value)
    return check_int(value, name, minimum=0, maximum=2)


_CHECKS: dict[str, _Check] = {
    "n_factors": partial(check_int, minimum=1, maximum=2**20),
    "learning_rate": _optional(_positive),
    "regularization": _optional(check_float),
    "n_epochs": _optional(partial(check_int, minimum=1)),
    "biases": check_bool,
    "shuffle": check_bool,
    "init": partial(check_choice, choices=INITS),
    "init_scale": _optional(check_float),
    "dtype": lambda value, _: check_dtype(value),
    "n_threads": check_threads,
    "verbose": _verbosity,
    "learning_rate_decay": _optional(_decay),
    "adaptive": _optional(check_bool),
    "bias_learning_rate": _optional(check_float),
    "user_regularization": _optional(check_float),
    "item_regularization": _optional(check_float),
    "bias_regularization": _optional(check_float),
    "regularization_scaling": partial(check_choice, choices=SCALINGS),
    "early_stopping": _optional(check_bool),
    "validation_fraction": _optional(_share),
    "patience": partial(check_int, minimum=1),
    "posterior_samples": partial(check_int, minimum=0),
    "burn_in": partial(check_int, minimum=0),
    "implicit": _optional(check_bool),
    "implicit_learning_rate": _optional(check_float),
    "implicit_regularization": _optional(check_float),
    "loss_function": partial(check_choice, choices=LOSSES),
    "huber_threshold": _optional(_positive),
    "l1_regularization": check_float,
    "nonnegative": check_bool,
    "averaged_epochs": partial(check_int, minimum=1),
}
