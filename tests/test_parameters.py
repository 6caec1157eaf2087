"""The gate for scalars: hyper-parameters and the numbers that methods take."""

from __future__ import annotations

import decimal
import fractions
import re
from dataclasses import astuple

import numpy as np
import pytest

import cmf
from cmf._parameters import (
    Parameters,
    check_bool,
    check_choice,
    check_dtype,
    check_float,
    check_int,
    check_unknown,
)

NO_INTEGERS = [
    True,
    False,
    np.True_,
    1.0,
    np.float64(1),
    float("nan"),
    "1",
    b"1",
    None,
    1j,
    [1],
    np.array([1]),
    np.array(1.0),
    int,
    decimal.Decimal(1),
    np.timedelta64(1, "s"),
]
NO_NUMBERS = [
    True,
    np.False_,
    "0.1",
    b"0.1",
    None,
    1j,
    [0.1],
    np.array(0.1),
    float,
    decimal.Decimal("0.1"),
    fractions.Fraction(1, 2),
    np.timedelta64(1, "s"),
]


# --- numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [3, np.int8(3), np.uint64(3), np.array(3)], ids=lambda value: type(value).__name__
)
def test_integers_of_any_type_become_int(value):
    checked = check_int(value, "n", minimum=1)
    assert checked == 3
    assert type(checked) is int


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
def test_what_is_no_integer_is_refused(value):
    message = f"n must be an integer, got {value!r} of type {type(value).__name__}"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        check_int(value, "n", minimum=0)


def test_bounds_of_integers_belong_to_them():
    assert check_int(2, "n", minimum=2, maximum=4) == 2
    assert check_int(4, "n", minimum=2, maximum=4) == 4
    assert check_int(2**100, "n", minimum=2) == 2**100
    with pytest.raises(ValueError, match=r"^n must be at least 2, got 1$"):
        check_int(1, "n", minimum=2, maximum=4)
    with pytest.raises(ValueError, match=r"^n must be at most 4, got 5$"):
        check_int(5, "n", minimum=2, maximum=4)


@pytest.mark.parametrize(
    "value",
    [1, 1.0, np.float16(1), np.float32(1), np.longdouble(1), np.int64(1), np.uint8(1)],
    ids=lambda value: type(value).__name__,
)
def test_numbers_of_any_type_become_float(value):
    checked = check_float(value, "x")
    assert checked == 1.0
    assert type(checked) is float


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_number_is_refused(value):
    message = f"x must be a number, got {value!r} of type {type(value).__name__}"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        check_float(value, "x")


@pytest.mark.parametrize(
    "value", [np.nan, np.inf, -np.inf, np.float32("nan"), 10**400], ids=lambda value: str(value)[:9]
)
def test_numbers_must_be_finite(value):
    with pytest.raises(ValueError, match=r"^x must be finite, got "):
        check_float(value, "x")


def test_bounds_of_floats():
    assert check_float(0, "x") == 0.0
    assert check_float(-2, "x", minimum=-np.inf) == -2.0
    assert check_float(5e-324, "x", exclusive=True) == 5e-324
    with pytest.raises(ValueError, match=r"^x must be at least 0, got -1e-300$"):
        check_float(-1e-300, "x")
    with pytest.raises(ValueError, match=r"^x must be greater than 0, got 0$"):
        check_float(-0.0 + 0, "x", exclusive=True)
    with pytest.raises(ValueError, match=r"^x must be at least 0.5, got 0.25$"):
        check_float(0.25, "x", minimum=0.5)


# --- everything else ----------------------------------------------------------------------------


def test_only_bools_are_bools():
    assert check_bool(True, "b") is True
    assert check_bool(np.False_, "b") is False
    for value in (1, 0, None, "True", [], np.array(True)):
        with pytest.raises(
            TypeError, match=f"^b must be True or False, got {re.escape(repr(value))}"
        ):
            check_bool(value, "b")


def test_choices():
    assert check_choice(np.str_("a"), "c", ("a", "b")) == "a"
    with pytest.raises(ValueError, match=r"^c must be one of 'a', 'b', got 'A'$"):
        check_choice("A", "c", ("a", "b"))
    for value in (None, b"a", 1, ["a"]):
        with pytest.raises(TypeError, match=r"^c must be a string, got .* of type "):
            check_choice(value, "c", ("a", "b"))
    assert [check_unknown("raise"), check_unknown("mean")] == ["raise", "mean"]
    with pytest.raises(ValueError, match=r"^unknown must be one of 'raise', 'mean', got 'zero'$"):
        check_unknown("zero")


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("float32", "float32"),
        ("f4", "float32"),
        ("single", "float32"),
        (np.float32, "float32"),
        (np.dtype(">f4"), "float32"),
        ("double", "float64"),
        (float, "float64"),
        (np.dtype("float64"), "float64"),
    ],
)
def test_dtypes_by_any_name(value, name):
    assert check_dtype(value) == name
    assert type(check_dtype(value)) is str


@pytest.mark.parametrize(
    "value",
    # What comes after 3 makes NumPy raise, or warn, in a way of its own each.
    [
        None,
        "int32",
        int,
        complex,
        "float16",
        "longdouble",
        "O",
        "f4,f4",
        "(2,2)f4",
        [],
        3,
        "x",
        "",
        ",",
        "a",
        "m8[xx]",
        {"names": 1},
        [("a", 1.5)],
        len,
        np.zeros(2),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_only_two_dtypes_are_fine(value):
    wanted = f"dtype must be 'float32' or 'float64', got {value!r}"
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(wanted)}$"):
        check_dtype(value)


# --- the parameters of a model --------------------------------------------------------------------

INTEGER = r"must be an integer, got"
NUMBER = r"must be a number, got"
SWITCH_OR_NONE = [(value, TypeError, "must be True or False, got") for value in (0, 1, "yes", [])]
SWITCH = [*SWITCH_OR_NONE, (None, TypeError, "must be True or False, got")]
COUNT = [
    *((value, TypeError, INTEGER) for value in NO_INTEGERS),
    (-1, ValueError, "must be at least 0, got -1"),
]
POSITIVE_OR_ZERO = [
    *((value, TypeError, NUMBER) for value in NO_NUMBERS if value is not None),
    (-1e-9, ValueError, "must be at least 0, got -1e-09"),
    (np.nan, ValueError, "must be finite"),
    (np.inf, ValueError, "must be finite"),
]
WRONG = {
    "n_factors": [
        *((value, TypeError, INTEGER) for value in NO_INTEGERS),
        (0, ValueError, "must be at least 1, got 0"),
        (-3, ValueError, "must be at least 1, got -3"),
        (2**20 + 1, ValueError, "must be at most 1048576, got 1048577"),
        (2**80, ValueError, "must be at most 1048576"),
    ],
    "learning_rate": [
        *((value, TypeError, NUMBER) for value in NO_NUMBERS if value is not None),
        (0, ValueError, "must be greater than 0, got 0"),
        (0.0, ValueError, "must be greater than 0, got 0"),
        (-0.01, ValueError, "must be greater than 0, got -0.01"),
        (np.nan, ValueError, "must be finite, got nan"),
        (np.inf, ValueError, "must be finite, got inf"),
        (np.float32(-np.inf), ValueError, "must be finite"),
        (10**400, ValueError, "must be finite"),
    ],
    "regularization": [
        *((value, TypeError, NUMBER) for value in NO_NUMBERS if value is not None),
        (-1e-9, ValueError, "must be at least 0, got -1e-09"),
        (np.nan, ValueError, "must be finite"),
        (np.inf, ValueError, "must be finite"),
    ],
    "n_epochs": [
        *((value, TypeError, INTEGER) for value in NO_INTEGERS if value is not None),
        (0, ValueError, "must be at least 1, got 0"),
        (-1, ValueError, "must be at least 1, got -1"),
    ],
    "biases": [
        (value, TypeError, "must be True or False, got") for value in (None, 0, 1, "yes", 1.0, [])
    ],
    "shuffle": [
        (value, TypeError, "must be True or False, got") for value in (None, 0, 1, "no", 1.0, [])
    ],
    "init": [
        *((value, TypeError, "must be a string") for value in (None, 1, b"normal", ["normal"])),
        ("gauss", ValueError, "must be one of 'normal', 'scaled', 'uniform', got 'gauss'"),
        ("", ValueError, "must be one of"),
    ],
    "init_scale": [
        *((value, TypeError, NUMBER) for value in NO_NUMBERS if value is not None),
        (-0.1, ValueError, "must be at least 0, got -0.1"),
        (np.nan, ValueError, "must be finite"),
        (np.inf, ValueError, "must be finite"),
    ],
    "dtype": [
        (None, ValueError, "must be 'float32' or 'float64', got None"),
        ("float16", ValueError, "must be 'float32' or 'float64', got 'float16'"),
        (int, ValueError, "must be 'float32' or 'float64'"),
        ("real", TypeError, "must be 'float32' or 'float64', got 'real'"),
        (32, TypeError, "must be 'float32' or 'float64', got 32"),
    ],
    "n_threads": [
        *((value, TypeError, INTEGER) for value in NO_INTEGERS if value is not None),
        (0, ValueError, "must be at least 1, got 0"),
        (-1, ValueError, "must be at least 1, got -1; None takes as many as there are processors"),
        (10**9, ValueError, "must be at most 32768"),
    ],
    "verbose": [
        *((value, TypeError, INTEGER) for value in (1.0, None, "1", np.array([1]), np.nan)),
        (-1, ValueError, "must be at least 0, got -1"),
        (3, ValueError, "must be at most 2, got 3"),
    ],
    "learning_rate_decay": [
        *((value, TypeError, NUMBER) for value in NO_NUMBERS if value is not None),
        (0, ValueError, "must be greater than 0, got 0"),
        (1.5, ValueError, "must be at most 1, got 1.5"),
        (np.nan, ValueError, "must be finite"),
    ],
    "adaptive": SWITCH_OR_NONE,
    "bias_learning_rate": POSITIVE_OR_ZERO,
    "user_regularization": POSITIVE_OR_ZERO,
    "item_regularization": POSITIVE_OR_ZERO,
    "bias_regularization": POSITIVE_OR_ZERO,
    "regularization_scaling": [
        *((value, TypeError, "must be a string") for value in (None, 1, b"sqrt", ["sqrt"])),
        ("log", ValueError, "must be one of 'rating', 'sqrt', 'count', got 'log'"),
    ],
    "early_stopping": SWITCH_OR_NONE,
    "validation_fraction": [
        *((value, TypeError, NUMBER) for value in NO_NUMBERS if value is not None),
        (0, ValueError, "must be greater than 0, got 0"),
        (1, ValueError, "must be less than 1, got 1"),
        (np.inf, ValueError, "must be finite"),
    ],
    "patience": [
        *((value, TypeError, INTEGER) for value in NO_INTEGERS),
        (0, ValueError, "must be at least 1, got 0"),
        (-1, ValueError, "must be at least 1, got -1"),
    ],
    "posterior_samples": COUNT,
    "burn_in": COUNT,
    "implicit": SWITCH_OR_NONE,
    "implicit_learning_rate": POSITIVE_OR_ZERO,
    "implicit_regularization": POSITIVE_OR_ZERO,
    "loss_function": [
        *((value, TypeError, "must be a string") for value in (None, 1, b"huber", ["huber"])),
        ("log", ValueError, "must be one of 'squared', 'absolute', 'huber', 'logistic', 'poisson'"),
    ],
    "huber_threshold": [
        *((value, TypeError, NUMBER) for value in NO_NUMBERS if value is not None),
        (0, ValueError, "must be greater than 0, got 0"),
        (np.inf, ValueError, "must be finite"),
    ],
    "l1_regularization": [
        *((value, TypeError, NUMBER) for value in NO_NUMBERS),
        (-1, ValueError, "must be at least 0, got -1"),
        (np.nan, ValueError, "must be finite"),
    ],
    "nonnegative": SWITCH,
    "averaged_epochs": [
        *((value, TypeError, INTEGER) for value in NO_INTEGERS),
        (0, ValueError, "must be at least 1, got 0"),
    ],
    "random_state": [
        *(
            (value, TypeError, "must be None, an int of 0 or more")
            for value in (True, 1.5, "1", {})
        ),
        (-1, ValueError, "must be 0 or more, got -1"),
        ([1, -1], ValueError, "must be 0 or more, got -1"),
        ([[1]], TypeError, "must be an int of 0 or more, got list"),
    ],
}
CASES = [(name, *case) for name, cases in WRONG.items() for case in cases]


def test_every_parameter_has_its_cases():
    assert list(WRONG)[:-1] == list(Parameters.names())
    assert set(WRONG) == set(cmf.MatrixFactorization().get_params())


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    CASES,
    ids=[f"{case[0]}-{case[1]!r:.20}" for case in CASES],
)
def test_wrong_parameters_are_stored_and_refused_by_fit(name, value, error, message):
    model = cmf.MatrixFactorization(**{name: value})
    assert getattr(model, name) is value
    for train in (model.fit, model.partial_fit):
        with pytest.raises(error, match=rf"^{name}(\[\d\])? {re.escape(message)}"):
            train([[5.0, 3.0]])
    with pytest.raises(cmf.NotFittedError):
        model.predict(0, 0)


RIGHT = {
    "n_factors": [1, np.int64(2), np.uint8(3), np.array(2)],
    "learning_rate": [None, 1e-9, 1, np.float32(0.01), np.int8(1), 5e-324],
    "regularization": [None, 0, 0.0, np.float16(0.5), np.longdouble(0.1)],
    "n_epochs": [None, 1, np.int32(2)],
    "biases": [np.True_, False],
    "shuffle": [np.False_, True],
    "init": ["normal", "scaled", "uniform", np.str_("scaled")],
    "init_scale": [None, 0, np.float32(0.1), 1],
    "dtype": ["f4", float, np.float32, np.dtype(">f8")],
    "n_threads": [None, 1, np.int64(4), 2**15],
    "verbose": [0, False, np.False_, np.int8(0)],
    "learning_rate_decay": [None, 1, 0.5, np.float32(0.9)],
    "adaptive": [None, np.True_, False],
    "bias_learning_rate": [None, 0, np.float32(0.01)],
    "user_regularization": [None, 0, np.float16(0.5)],
    "item_regularization": [None, 0, np.float16(0.5)],
    "bias_regularization": [None, 0, np.float16(0.5)],
    "regularization_scaling": ["rating", "sqrt", np.str_("count")],
    "early_stopping": [None, np.True_, False],
    "validation_fraction": [None, 0.5, np.float32(0.25)],
    "patience": [1, np.int8(3)],
    "posterior_samples": [0, np.int8(2)],
    "burn_in": [0, np.int64(3)],
    "implicit": [None, np.False_, True],
    "implicit_learning_rate": [None, 0, np.float32(0.01)],
    "implicit_regularization": [None, 0, np.float16(0.5)],
    "loss_function": ["squared", "absolute", "huber", np.str_("poisson")],
    "huber_threshold": [None, 1, np.float32(0.5)],
    "l1_regularization": [0, np.float32(0.01), 1],
    "nonnegative": [np.True_, False],
    "averaged_epochs": [1, np.int8(3)],
    "random_state": [None, 0, 2**200, [1, 2], np.uint64(3), np.random.SeedSequence(0)],
}


def test_every_parameter_has_right_values():
    assert set(RIGHT) == set(WRONG)


@pytest.mark.parametrize("by_rule", [True, False])
@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in RIGHT.items() for value in values]
)
def test_right_parameters_train(name, value, by_rule):
    given = {"n_factors": 2, "n_epochs": 1}
    if by_rule:
        given |= {"learning_rate": 0.01, "regularization": 0.1}
    model = cmf.MatrixFactorization(**{**given, name: value}).fit([[1.0, 0.5], [0.5, 2.0]])
    assert np.isfinite(model.reconstruct()).all()


def test_checked_parameters_are_plain():
    checked = Parameters.check(
        {
            "n_factors": np.int64(3),
            "learning_rate": np.float32(0.5),
            "regularization": 1,
            "n_epochs": np.int8(2),
            "biases": np.True_,
            "shuffle": np.True_,
            "init": "normal",
            "init_scale": 0,
            "dtype": np.float64,
            "n_threads": None,
            "verbose": np.True_,
            "learning_rate_decay": 1,
            "adaptive": np.True_,
            "bias_learning_rate": np.float32(0.25),
            "user_regularization": 2,
            "item_regularization": np.int8(3),
            "bias_regularization": None,
            "regularization_scaling": "sqrt",
            "early_stopping": np.False_,
            "validation_fraction": np.float32(0.125),
            "patience": np.int64(4),
            "posterior_samples": np.int8(5),
            "burn_in": np.int64(6),
            "implicit": np.False_,
            "implicit_learning_rate": 1,
            "implicit_regularization": None,
            "loss_function": "squared",
            "huber_threshold": np.float32(0.5),
            "l1_regularization": 0,
            "nonnegative": np.False_,
            "averaged_epochs": np.int8(1),
            "random_state": "not looked at",
        }
    )
    plain = (3, 0.5, 1.0, 2, True, True, "normal", 0.0, "float64", None, 1)
    options = (1.0, True, 0.25, 2.0, 3.0, None, "sqrt", False, 0.125, 4, 5, 6, False)
    options += (1.0, None, "squared", 0.5, 0.0, False, 1)
    assert astuple(checked) == plain + options
    assert [type(value) for value in astuple(checked)[11:]] == [type(value) for value in options]
    assert [type(value) for value in astuple(checked)[:6]] == [int, float, float, int, bool, bool]
    assert type(checked.verbose) is int


def test_a_start_that_no_step_leaves_is_refused():
    message = "init_scale=0 with biases=False starts at a saddle point"
    with pytest.raises(ValueError, match=message):
        cmf.MatrixFactorization(2, init_scale=0, biases=False).fit([[1.0]])


@pytest.mark.parametrize("value", [None, "1", 1.5, True, np.array([1]), np.nan])
@pytest.mark.parametrize("name", ["n", "n_neighbors"])
def test_lengths_of_lists_must_be_integers(name, value):
    model = cmf.MatrixFactorization(2, n_epochs=1).fit([[5.0, 3.0]])
    calls = {
        "n": [model.recommend, model.similar_items, model.similar_users],
        "n_neighbors": [],
    }[name]
    for call in [*calls, model.recommend_by_neighbors]:
        with pytest.raises(TypeError, match=f"^{name} must be an integer, got "):
            call(0, **{name: value})
        for number in (0, -1, -(2**70)):
            with pytest.raises(ValueError, match=f"^{name} must be at least 1, got {number}$"):
                call(0, **{name: number})


@pytest.mark.parametrize("value", [None, 1, 0, "no", []])
def test_switches_must_be_bools(value):
    model = cmf.MatrixFactorization(2, n_epochs=1).fit([[5.0, 3.0]])
    for call in (model.recommend, model.recommend_by_neighbors):
        with pytest.raises(TypeError, match=r"^exclude_seen must be True or False, got "):
            call(0, exclude_seen=value)
    with pytest.raises(TypeError, match=r"^exact_loss must be True or False, got "):
        model.fit([[5.0]], exact_loss=value)
    for name in ("mmap", "verify"):
        with pytest.raises(TypeError, match=f"^{name} must be True or False, got "):
            cmf.MatrixFactorization.load("missing", **{name: value})
