"""Bad input at the public functions: an error that names the argument, and never a crash.

What could bring down the interpreter is tried in another process: this file is run as a script, and
what became of each case is compared here. Unit tests of the gate are in test_checks.py.
"""

from __future__ import annotations

import copy
import datetime
import decimal
import fractions
import functools
import inspect
import io
import json
import mmap
import os
import random
import re
import subprocess
import sys
import warnings
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse

import cmf

N_USERS, N_ITEMS = 6, 5


def random_table(seed=0, shape=(N_USERS, N_ITEMS)):
    """Return ratings 1 to 5, most of them rated, 0 for the others; no row or column is empty."""
    rng = np.random.default_rng(seed)
    table = np.where(rng.random(shape) < 0.6, rng.integers(1, 6, shape), 0).astype(np.float64)
    table[np.arange(shape[0]), np.arange(shape[0]) % shape[1]] = 3
    return table


TABLE = random_table()
RULE = {"learning_rate": 0.005, "regularization": 0.15, "init_scale": 0.1}
FRAME = pd.DataFrame(TABLE, index=list("uvwxyz"), columns=list("abcde"))


def make_model(**parameters):
    small = {"n_factors": 3, "n_epochs": 2, "random_state": 0, **RULE}
    return cmf.MatrixFactorization(**{**small, **parameters})


def make_default(**parameters):
    return cmf.MatrixFactorization(3, random_state=0, **parameters)


@functools.cache
def fitted():
    return make_model().fit(sparse.csr_array(TABLE))


@functools.cache
def labelled():
    return make_model().fit(FRAME)


def start_factors(dtype=np.float64):
    rng = np.random.default_rng(1)
    return tuple(rng.normal(size=(n, 3)).astype(dtype) for n in (N_USERS, N_ITEMS))


def bits_of(model):
    factors = (model.user_factors_, model.item_factors_, model.user_biases_, model.item_biases_)
    return [(array.dtype.str, array.tobytes()) for array in factors] + [model.global_mean_]


# Everything that takes ratings, with the name that its messages give them.
RATING_TAKERS = {
    "sgd_epoch": (lambda R: cmf.sgd_epoch(R, *start_factors(), 0.01, 0.1), "ratings"),
    "loss": (lambda R: cmf.loss(R, *start_factors(), 0.1), "ratings"),
    "fit": (lambda R: make_model().fit(R), "ratings"),
    "fit by default": (lambda R: make_default().fit(R), "ratings"),
    "fit in double": (lambda R: make_model(dtype="float64").fit(R), "ratings"),
    "fit, validation": (lambda R: make_model().fit(TABLE, validation=R), "validation"),
    "first partial_fit": (lambda R: make_model().partial_fit(R), "ratings"),
    "partial_fit": (lambda R: copy.deepcopy(fitted()).partial_fit(R), "ratings"),
    "partial_fit, validation": (
        lambda R: copy.deepcopy(fitted()).partial_fit(TABLE, validation=R),
        "validation",
    ),
    "model.loss": (lambda R: fitted().loss(R), "ratings"),
    "fold_in": (lambda R: fitted().fold_in(R), "ratings"),
    "transform": (lambda R: fitted().transform(R), "ratings"),
    "score": (lambda R: fitted().score(R), "ratings"),
    "fit_transform": (lambda R: make_model().fit_transform(R), "ratings"),
    "train_test_split": (
        lambda R: cmf.model_selection.train_test_split(R, random_state=0),
        "ratings",
    ),
}

# Everything that takes ids.
ID_TAKERS = {
    "predict, users": lambda model, ids: model.predict(ids, 0),
    "predict, items": lambda model, ids: model.predict(0, ids),
    "recommend": lambda model, ids: model.recommend(ids),
    "recommend, items": lambda model, ids: model.recommend(0, items=ids),
    "recommend, exclude": lambda model, ids: model.recommend(0, exclude=ids),
    "reconstruct, users": lambda model, ids: model.reconstruct(ids),
    "reconstruct, items": lambda model, ids: model.reconstruct(None, ids),
    "similar_items": lambda model, ids: model.similar_items(ids),
    "similar_users": lambda model, ids: model.similar_users(ids),
    "recommend_by_neighbors": lambda model, ids: model.recommend_by_neighbors(ids),
}


# --- what could crash, in another process ---------------------------------------------------------


class Case(NamedTuple):
    """Something to call, and the error that it must raise."""

    call: Any
    errors: tuple[str, ...]
    message: str


def make_csr(indptr=None, indices=None, data=None, kind=sparse.csr_array):
    """Return the ratings in arrays of which some are replaced, whatever SciPy would say."""
    matrix = kind(TABLE)
    for name, array in (("indptr", indptr), ("indices", indices), ("data", data)):
        if array is not None:
            setattr(matrix, name, array(getattr(matrix, name).copy()))
    return matrix


def put(position, value):
    """Return a function that puts a value into an array, of int64 if they are integers."""

    def change(array):
        changed = array.astype(np.int64) if array.dtype.kind == "i" else array
        changed[position] = value
        return changed

    return change


def with_attributes(matrix, **attributes):
    for name, value in attributes.items():
        setattr(matrix, name, value)
    return matrix


def with_lists(rows=None, values=None):
    matrix = sparse.lil_array(TABLE)
    for lists, change in ((matrix.rows, rows), (matrix.data, values)):
        if change is not None:
            lists[1] = change
    return matrix


def twice(kind):
    """User 0 rates item 2 twice."""
    pairs = ([*range(N_USERS), 0, 0], [*([0] * N_USERS), 2, 2])
    matrix = sparse.coo_array((np.arange(1.0, 9.0), pairs), shape=(N_USERS, N_ITEMS))
    matrix.has_canonical_format = True  # or SciPy adds the two up
    matrix = matrix.asformat(kind)
    matrix.has_canonical_format = True
    return matrix


BROKEN_TABLES = {
    "first index too large": (make_csr(indices=put(0, 2_000_000_000)), "index 2000000000 at posi"),
    "index n_items": (make_csr(indices=put(3, N_ITEMS)), "index 5 at position 3, .* 5 items"),
    "last index 2**40": (
        make_csr(indices=put(-1, 2**40)),
        "column index 1099511627776 at position",
    ),
    "first index negative": (make_csr(indices=put(0, -1)), "column index -1 at position 0"),
    "last index negative": (make_csr(indices=put(-1, -(2**62))), "column index -46116860184273879"),
    "indptr falls": (make_csr(put(2, 0)), "indptr must not decrease"),
    "indptr first": (make_csr(put(0, 1)), "indptr must start with 0, got 1"),
    "indptr first negative": (make_csr(put(0, -5)), "indptr must start with 0, got -5"),
    "indptr last": (make_csr(put(-1, 10**6)), "indptr ends at 1000000, but there are"),
    "indptr last 2**62": (make_csr(put(-1, 2**62)), "indptr ends at 4611686018427387904"),
    "indptr middle 2**62": (make_csr(put(3, 2**62)), "indptr must not decrease"),
    "indptr short": (make_csr(lambda a: a[:-1]), r"indptr has length 6: 7 is wanted"),
    "indptr long": (make_csr(lambda a: np.append(a, a[-1])), "indptr has length 8: 7 is wanted"),
    "indptr empty": (make_csr(lambda a: a[:0]), "indptr has length 0"),
    "indptr of floats": (make_csr(lambda a: a + 0.5), "indptr must be a 1-D array of integers"),
    "data short": (make_csr(data=lambda a: a[:-1]), "values of shape .* for indices of shape"),
    "data long": (make_csr(data=lambda a: np.append(a, 1)), "values of shape"),
    "data empty": (make_csr(data=lambda a: a[:0]), "values of shape"),
    "data of two dimensions": (make_csr(data=lambda a: a[None]), "values of shape"),
    "indices short": (make_csr(indices=lambda a: a[:-1]), "values of shape"),
    "indices empty": (make_csr(indices=lambda a: a[:0]), "values of shape"),
    "indices of floats": (make_csr(indices=lambda a: a * 1.0), "indices of type float64"),
    "CSC index": (make_csr(indices=put(-1, N_USERS), kind=sparse.csc_matrix), "row index 6 at "),
    "CSC negative index": (make_csr(indices=put(0, -2), kind=sparse.csc_array), "row index -2 at"),
    "CSC indptr": (make_csr(put(-1, 99), kind=sparse.csc_array), "indptr ends at 99"),
    "COO row": (
        with_attributes(sparse.coo_array(TABLE), row=put(0, N_USERS)(sparse.coo_array(TABLE).row)),
        "row index 6 at position 0, which is out of range for 6 users",
    ),
    "COO column": (
        with_attributes(sparse.coo_matrix(TABLE), col=put(-1, -1)(sparse.coo_matrix(TABLE).col)),
        "column index -1 at position",
    ),
    "COO data": (
        with_attributes(sparse.coo_array(TABLE), data=np.ones(3)),
        r"values of shape \(3,\)",
    ),
    "BSR index": (
        with_attributes(sparse.bsr_array(TABLE, blocksize=(1, 1)), indices=np.full(20, 2**31 - 1)),
        "not a valid bsr matrix",
    ),
    "BSR indptr": (
        with_attributes(
            sparse.bsr_array(TABLE, blocksize=(2, 5)), indptr=np.array([0, 10**9, 10**9, 10**9])
        ),
        "not a valid bsr matrix: it.indptr ends at 1000000000",
    ),
    "LIL too many values": (
        with_lists(values=[1.0] * 100_000),
        r"not a valid lil matrix: row 1 has 100000 values",
    ),
    "LIL too many indices": (with_lists(rows=list(range(100_000))), "not a valid lil matrix"),
    "LIL no list": (with_lists(rows=None, values=7), "not a valid lil matrix"),
    "DIA more offsets": (
        with_attributes(sparse.dia_array(TABLE), offsets=np.arange(100_000)),
        r"not a valid dia matrix: it has int64 offsets of shape \(100000,\)",
    ),
    "DIA flat data": (with_attributes(sparse.dia_array(TABLE), data=np.ones(3)), "not a valid dia"),
    "DOK key": (with_attributes(sparse.dok_array(TABLE), _dict={(0, 2**40): 1.0}), "not a valid d"),
    "DOK negative key": (
        with_attributes(sparse.dok_array(TABLE), _dict={(-1, 0): 1.0}),
        "not a valid dok matrix|row index -1",
    ),
    "duplicates in a CSR": (twice("csr"), "more than one rating of item 2 by user 0"),
    "duplicates in a CSC": (twice("csc"), "more than one rating of item 2 by user 0"),
    "duplicates in a COO": (twice("coo"), "more than one rating of item 2 by user 0"),
    "first NaN": (make_csr(data=put(0, np.nan)), r"\[0, \d\] is nan"),
    "last inf": (make_csr(data=put(-1, np.inf)), r"\[5, \d\] is inf"),
    "last -inf": (make_csr(data=put(-1, -np.inf), kind=sparse.csc_array), r"\[\d, 4\] is -inf"),
    "objects": (make_csr(data=lambda a: a.astype(object)), "holds values of type object"),
    "complex": (make_csr(data=lambda a: a * 1j), "Complex data not supported"),
}

NO_ROWS = {
    "-1": (-1, "is not a row of this model"),
    "n": (6, "is not a row of this model"),
    "10**30": (10**30, "is not a row of this model"),
    "-10**30": (-(10**30), "is not a row of this model"),
    "uint64": (np.uint64(2**64 - 1), "is not a row of this model"),
    "array of -1": (np.array([0, -1]), "is not a row of this model"),
    "array of uint64": (np.array([2**64 - 1], dtype=np.uint64), "is not a row of this model"),
    "list": ([0, 10**6, -7], "are not rows of this model"),
    "True": (True, "must be integer rows .* got bool True"),
    "list of False": ([0, False], "must be integer rows"),
    "1.0": (1.0, "must be integer rows .* got float 1.0"),
    "NaN": (np.nan, "must be integer rows"),
    "array of floats": (np.array([0.0]), "must be integer rows .* got an array of dtype float64"),
    "str": ("3", "must be integer rows .* got str '3'"),
    "bytes": (b"3", "must be integer rows"),
    "list of None": ([None], "must be integer rows .* got NoneType"),
    "nested": ([[0]], "must be integer rows .* got list"),
    "2-D": (np.array([[0]]), "must be one-dimensional, got 2 dimensions"),
    "set": ({0}, "must be integer rows .* got set"),
    "dict": ({0: 1}, "must be integer rows .* got dict"),
    "generator": ((u for u in [0]), "must be integer rows .* got generator"),
    "class": (np.ndarray, "must be integer rows .* got type"),
    "slice": (slice(0, 2), "must be integer rows"),
    "sparse": (sparse.csr_array(TABLE), "must be integer rows .* got csr_array"),
    "date": (np.datetime64("2024-01-01"), "must be integer rows"),
    "duration": (np.timedelta64(1, "s"), "must be integer rows"),
    "masked": (np.ma.array([0, 1], mask=[0, 1]), "must be integer rows .* got NoneType"),
    "objects": (np.array([0, None]), "must be integer rows .* got an array of dtype object"),
}


def crash_cases():
    """Return all cases that are tried in another process, by name."""
    cases = {}
    value_error, any_error = ("ValueError",), ("TypeError", "ValueError")
    for taker, (call, name) in RATING_TAKERS.items():
        for table, (ratings, message) in BROKEN_TABLES.items():
            cases[f"{taker}: {table}"] = Case(
                functools.partial(call, ratings), any_error, rf"^(?=.*\b{name}\b).*({message})"
            )
    for taker, call in ID_TAKERS.items():
        for what, (ids, message) in NO_ROWS.items():
            cases[f"{taker}: {what}"] = Case(
                functools.partial(call, fitted(), ids), any_error, f"^(user|item)s? ?.*{message}"
            )
    for n in (2**31 - 1, 2**31, 2**63, 2**200):
        message = f"^n must be at most 65536 for several ids, got {n}"
        for method in ("recommend", "similar_items", "similar_users"):
            call = functools.partial(getattr(fitted(), method), [0, 1], n)
            cases[f"{method}: n={n}"] = Case(call, value_error, message)
        message = f"^n_factors must be at most 1048576, got {n}"
        call = functools.partial(make_model(n_factors=n).fit, TABLE)
        cases[f"fit: n_factors={n}"] = Case(call, value_error, message)
    cases.update(_huge_cases())
    cases.update(_newcomer_cases())
    cases.update(_overlap_cases())
    return cases


def _huge_cases():
    """Tables of few ratings, but of more rows or columns than any memory has."""
    one = ([3.0], ([0], [0]))
    shapes = {"users": (2**62, 2), "items": (2, 2**62), "hashed items": (1, 10**12)}
    cases = {
        f"fit: {what}": Case(
            functools.partial(make_model().fit, sparse.coo_array(one, shape=shape)),
            ("MemoryError",),
            rf"^ratings .*shape {re.escape(str(shape))}",
        )
        for what, shape in shapes.items()
    }
    cases |= {
        f"fit by default: {what}": Case(
            functools.partial(make_default().fit, sparse.coo_array(one, shape=shape)),
            ("MemoryError",),
            rf"^ratings .*shape {re.escape(str(shape))}",
        )
        for what, shape in shapes.items()
    }
    wide = sparse.coo_array(one, shape=(N_USERS, 2**62))
    for taker in ("sgd_epoch", "loss", "model.loss", "fold_in"):
        cases[f"{taker}: hashed items"] = Case(
            functools.partial(RATING_TAKERS[taker][0], wide), ("ValueError",), "ratings has shape"
        )
    return cases


def _newcomer_cases():
    """Folded-in users that somebody has changed, or made by hand."""
    users = fitted().fold_in(TABLE)
    factors, biases, seen = users.factors, users.biases, users.seen

    def changed_seen(**arrays):
        given = {"indptr": seen.indptr, "indices": seen.indices, **arrays}
        return cmf.NewUsers(factors, biases, type(seen)(**given))

    broken = {
        "too few biases": (cmf.NewUsers(factors, biases[:1], seen), r"biases has shape \(1,\)"),
        "narrow factors": (cmf.NewUsers(factors[:, :2], biases, seen), r"factors has shape \(6, 2"),
        "flat factors": (cmf.NewUsers(factors[0], biases, seen), "factors is 1-D"),
        "NaN": (cmf.NewUsers(factors * np.nan, biases, seen), r"factors\[0, 0\] is nan"),
        "objects": (cmf.NewUsers(None, None, seen), "factors holds values of type object|factors"),
        "too few seen": (changed_seen(indptr=seen.indptr[:2]), "seen.indptr has length 2"),
        "wild indptr": (changed_seen(indptr=seen.indptr * 10**9), "seen.indptr ends at"),
        "wild seen": (changed_seen(indices=seen.indices + 10**8), "seen has column index"),
        "no seen": (cmf.NewUsers(factors, biases, None), "must be as fold_in has returned them"),
        "too few labels": (cmf.NewUsers(*users, seen, ["a"]), "user_ids must be one label for"),
        "replaced": (users._replace(biases=biases), "must be as fold_in has returned them"),
    }
    return {
        f"newcomers: {what}": Case(
            functools.partial(fitted().recommend, newcomers),
            ("TypeError", "ValueError"),
            f"^users.*{message}",
        )
        for what, (newcomers, message) in broken.items()
    }


def _overlap_cases():
    """Calls of sgd_epoch that would overwrite what is being read."""
    P, Q = start_factors()
    both = np.ones((N_USERS + N_ITEMS, 3))
    ratings = make_csr(
        lambda a: a.astype(np.int64), lambda a: a.astype(np.int64), lambda a: a.astype(np.float64)
    )
    nnz = ratings.nnz

    def sharing(attribute):
        """Return ratings and user factors, of which the first numbers are an array of them."""
        table, factors = ratings.copy(), np.zeros((N_USERS, 3))
        flat = np.zeros(4 * nnz)
        part = flat[: len(getattr(table, attribute))]
        part = part if attribute == "data" else part.view(np.int64)
        part[:] = getattr(table, attribute)
        setattr(table, attribute, part)
        factors = flat[: N_USERS * 3].reshape(N_USERS, 3)
        return table, factors, Q, 0.01, 0.1

    def frozen(array):
        array = array.copy()
        array.flags.writeable = False
        return array

    overlap = "^user_factors and item_factors overlap in memory"
    shared = "^user_factors and ratings overlap in memory"
    calls = {
        "same array": ((random_table(shape=(6, 6)), P, P, 0.01, 0.1), overlap),
        "shared rows": ((ratings, both[:N_USERS], both[N_USERS - 1 : -1], 0.01, 0.1), overlap),
        "shared data": (sharing("data"), shared),
        "shared indices": (sharing("indices"), shared),
        "shared indptr": (sharing("indptr"), shared),
        "read-only P": ((ratings, frozen(P), Q, 0.01, 0.1), "^user_factors .* writeable"),
        "read-only Q": ((ratings, P, frozen(Q), 0.01, 0.1), "^item_factors .* writeable"),
        "Fortran order": (
            (ratings, np.asfortranarray(P), Q, 0.01, 0.1),
            "^user_factors .* must be C-contiguous",
        ),
        "half": ((ratings, P.astype("f2"), Q, 0.01, 0.1), "^user_factors .* got float16"),
        "big-endian": ((ratings, P, Q.astype(">f8"), 0.01, 0.1), "^item_factors .* got >f8"),
        "integers": ((ratings, P.astype(int), Q, 0.01, 0.1), "^user_factors .* got int64"),
        "list": ((ratings, P.tolist(), Q, 0.01, 0.1), "^user_factors .* NumPy array, got list"),
        "two dtypes": ((ratings, P.astype("f4"), Q, 0.01, 0.1), "one dtype is wanted"),
        "NaN": ((ratings, P * np.nan, Q, 0.01, 0.1), r"^user_factors\[0, 0\] is nan"),
        "last inf": (
            (ratings, P, put((-1, -1), np.inf)(Q.copy()), 0.01, 0.1),
            r"^item_factors\[4, 2",
        ),
        "few rows": ((ratings, P[:-1].copy(), Q, 0.01, 0.1), "^user_factors has 5 rows"),
        "narrow": ((ratings, P, Q[:, :1].copy(), 0.01, 0.1), "the same number of columns"),
        "no factors": ((ratings, P[:, :0], Q[:, :0], 0.01, 0.1), "at least one factor"),
        "one row": ((ratings, P[0], Q, 0.01, 0.1), "^user_factors is 1-D"),
        "transposed": ((ratings.T, P, Q, 0.01, 0.1), r"ratings has shape \(5, 6\).*transposed\?"),
        "learning_rate": ((ratings, P, Q, -1, 0.1), "^learning_rate must be greater than 0"),
        "regularization": ((ratings, P, Q, 0.01, None), "^regularization must be a number"),
    }
    return {
        f"sgd_epoch: {what}": Case(
            functools.partial(cmf.sgd_epoch, *arguments), ("TypeError", "ValueError"), message
        )
        for what, (arguments, message) in calls.items()
    }


CRASH_CASES = crash_cases()


def limit_memory(size):
    """Have the system refuse what a bug might ask for, instead of filling the machine."""
    try:
        import resource
    except ImportError:  # Windows
        return
    if os.environ.get("CMF_SANITIZE") == "1":  # the sanitizers reserve terabytes of addresses
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (size, hard))


def report(*things):
    """Write a line for the process that waits for it."""
    sys.stdout.write(" ".join(map(str, things)) + "\n")
    sys.stdout.flush()


def try_crash_cases():
    """Print a line of JSON per case: its name, the type of the error and its message."""
    limit_memory(16 * 2**30)
    for name, case in CRASH_CASES.items():
        report(json.dumps([name]))
        try:
            case.call()
        except BaseException as error:
            report(json.dumps([name, type(error).__name__, str(error)]))


def run_in_another_process(*arguments, timeout=240):
    """Run a function of this file and return the finished process."""
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", __file__, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )


@pytest.fixture(scope="module")
def crash_reports():
    done = run_in_another_process("try_crash_cases")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{lines[-1:]} ended with {done.returncode}: {done.stderr[-2000:]}"
    return {name: error for name, *error in lines}


@pytest.mark.parametrize("name", list(CRASH_CASES))
def test_broken_input_is_an_error_and_no_crash(name, crash_reports):
    case = CRASH_CASES[name]
    assert crash_reports[name], "nothing was raised"
    error, message = crash_reports[name]
    assert error in case.errors, message
    assert re.search(case.message, message), message


# --- random arguments -----------------------------------------------------------------------------

PLAIN = [
    *(None, 0, 1, -1, 5, 6, 2**31, 2**63, -(2**63) - 1, 10**400, True, slice(2), ...),
    *(1.0, 0.5, 1e308, float("nan"), float("inf"), 1j),
    *("", "a", "u", "mean", "float32", b"u", "\0", "x" * 9999),
    *([], [0], [0, 1], ["a"], [[0]], [None], (0, 1), {}, {0: 1}, {0}, range(3)),
]

GARBAGE = [
    *(functools.partial(copy.copy, value) for value in PLAIN),
    lambda: iter([0, 1]),
    lambda: (i for i in [0]),
    lambda: np.array(0),
    lambda: np.array([0, 1], dtype="u1"),
    lambda: np.array([0.0, 1.0]),
    lambda: np.array(["u", None], dtype=object),
    lambda: np.zeros((6, 5)),
    lambda: random_table(2),
    lambda: random_table(2).T,
    lambda: random_table(2, (1, 5)),
    lambda: np.ones((6, 3), dtype="f4"),
    lambda: np.ones((5, 3)),
    lambda: np.asfortranarray(np.ones((6, 3))),
    lambda: np.ones((12, 6))[::2, ::2],
    lambda: np.broadcast_to(1.0, (6, 3)),
    lambda: np.full((6, 5), np.nan),
    lambda: np.full((6, 5), 1e308),
    lambda: np.full((6, 5), "a"),
    lambda: np.ones((6, 5)) * 1j,
    lambda: np.ones((2, 2, 2)),
    lambda: np.ones((0, 5)),
    lambda: np.ones((6, 0)),
    lambda: np.zeros(3, "M8[s]"),
    lambda: np.zeros(2, dtype=[("a", "i4")]),
    lambda: np.ma.masked_all((6, 5)),
    lambda: np.ma.array([0, 1], mask=[0, 1]),
    lambda: sparse.csr_array(TABLE),
    lambda: sparse.csc_matrix(TABLE),
    lambda: sparse.csr_array((6, 5)),
    lambda: sparse.dok_array(TABLE),
    lambda: sparse.coo_array(np.ones(5)),
    lambda: FRAME,
    lambda: FRAME.T,
    lambda: FRAME.iloc[:2],
    lambda: FRAME["a"],
    lambda: FRAME.index,
    lambda: FRAME.astype(str),
    lambda: FRAME.rename(columns={"b": "a"}),
    lambda: pd.DataFrame(),
    lambda: pd.NA,
    lambda: pd.Categorical(["u"]),
    lambda: pl.DataFrame(FRAME.reset_index()),
    lambda: pl.Series([0, 1]),
    lambda: pl.LazyFrame({"a": [1]}),
    object,
    lambda: int,
    lambda: np.ndarray,
    lambda: len,
    lambda: cmf,
    fitted,
    lambda: fitted().fold_in(TABLE),
    lambda: fitted().fold_in(TABLE)._replace(factors=np.ones((2, 3))),
    lambda: cmf.NewUsers(np.ones((6, 3)), np.ones(2), fitted().fold_in(TABLE).seen),
    lambda: datetime.date(2024, 1, 1),
    lambda: decimal.Decimal(1),
    lambda: fractions.Fraction(1, 2),
    lambda: np.datetime64(0, "s"),
    lambda: np.timedelta64(0, "s"),
    lambda: np.float32(0.1),
    lambda: np.int8(1),
    lambda: np.bool_(True),
    lambda: memoryview(b"ab"),
    lambda: io.BytesIO(b"x"),
    lambda: np.random.default_rng(0),
]

SANE = {
    "ratings": lambda: sparse.csr_array(TABLE),
    "users": lambda: [0, 1],
    "items": lambda: [0, 1],
    "user": lambda: 0,
    "user_factors": lambda: start_factors()[0],
    "item_factors": lambda: start_factors()[1],
    "learning_rate": lambda: 0.01,
    "regularization": lambda: 0.1,
}

METHODS = [
    *("fit", "partial_fit", "fit_transform", "predict", "reconstruct", "loss", "recommend"),
    *("similar_items", "similar_users", "recommend_by_neighbors", "fold_in", "transform", "score"),
]


def draw_arguments(function, chance):
    """Return garbage for some of the arguments of a function and sane ones where it needs them."""
    arguments, indices = {}, {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        if chance.random() < 0.4 or not (name in SANE or parameter.default is not parameter.empty):
            indices[name] = chance.randrange(len(GARBAGE))
            arguments[name] = GARBAGE[indices[name]]()
        elif parameter.default is parameter.empty:
            arguments[name] = SANE[name]()
    epochs = arguments.get("epochs")
    if isinstance(epochs, int) and epochs > 10:  # which would be done, and take its time
        arguments["epochs"] = 2
    return arguments, indices


def try_garbage(seed, n_calls):
    """Call everything with random arguments; print a line for each error of another type."""
    limit_memory(16 * 2**30)
    chance = random.Random(int(seed))
    long_ones = {"n_epochs", "posterior_samples"}  # which would be done, and take their time
    parameters = [name for name in make_model().get_params() if name not in long_ones]
    n_refused = 0
    for _ in range(int(n_calls)):
        method = chance.choice([*METHODS, "sgd_epoch", "cmf.loss", "parameters"])
        model = copy.deepcopy(chance.choice([fitted(), labelled(), make_model()]))
        indices: Any = None
        try:
            if method == "parameters":
                value = chance.randrange(len(GARBAGE))
                indices = {chance.choice(parameters): value}
                changed = {name: GARBAGE[value]() for name in indices}
                chance.choice([make_model, make_default])(**changed).fit(TABLE)
                continue
            functions = {"sgd_epoch": cmf.sgd_epoch, "cmf.loss": cmf.loss}
            function = functions.get(method) or getattr(model, method)
            arguments, indices = draw_arguments(function, chance)
            function(**arguments)
        except (ValueError, TypeError, cmf.DivergenceError):
            n_refused += 1
        except Exception as error:
            sys.stderr.write(f"{method}({indices}): {type(error).__name__}: {error}\n")
    report(n_refused)


def test_random_arguments_crash_nothing_and_raise_only_what_is_documented():
    done = run_in_another_process("try_garbage", "0", "4000")
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout.splitlines()[-1]) > 2000  # most are refused, not let through


# --- 64-bit offsets -------------------------------------------------------------------------------


def try_large_offsets():
    """Train the last of so many rows that its factors lie beyond 2**31 numbers.

    The matrix is memory of the system that is never written to, but for a few pages: it takes
    8 GiB of addresses, but some MiB of memory.
    """
    n_factors, n_rows = 2**16, 2**15 + 1
    no_reserve = 0x4000  # MAP_NORESERVE on Linux, which Python 3.11 does not name
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    large = np.frombuffer(mmap.mmap(-1, n_rows * n_factors * 4, flags=flags), dtype=np.float32)
    large = large.reshape(n_rows, n_factors)
    assert large.size > 2**31
    small = np.full((2, n_factors), 2.0**-8, dtype=np.float32)
    large[-1] = 2.0**-8
    users = sparse.csr_array(([3.0], ([n_rows - 1], [1])), shape=(n_rows, 2))
    users.indptr = users.indptr.astype(np.int64)
    users.indices = users.indices.astype(np.int32)
    # The inner product is 2**16 * 2**-16 = 1, so that the error is 2.
    report(cmf.sgd_epoch(users, large, small, 2.0**-10, 0.0))
    # p + 2**-10 * 2 * 2 q with p = q = 2**-8; the step of q sees the new p.
    step = 2.0**-10 * 4
    is_right = large[-1] == np.float32(2.0**-8 * (1 + step))
    report(is_right.all(), large[-2].any(), small[0, 0] * 2**8)
    large[-1] = small[1] = 2.0**-8
    items = sparse.csr_array(([3.0], ([1], [n_rows - 1])), shape=(2, n_rows))
    report(cmf.loss(items, small, large, 0.0).sse)
    large[-1, -1] = np.nan
    try:
        cmf.loss(items, small, large, 0.0)
    except ValueError as error:
        report(error)


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or sys.maxsize < 2**40,
    reason="reserves 8 GiB of addresses in the way of 64-bit Linux",
)
def test_offsets_beyond_32_bits():
    done = run_in_another_process("try_large_offsets")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "4.0",
        "True False 1.0",
        "4.0",
        "item_factors[32768, 65535] is nan: every value must be finite",
    ]


# --- the same result, whatever the ratings come in ------------------------------------------------


def results_of(ratings):
    """Return what training, folding in, measuring and one epoch make of ratings, as bits."""
    model = make_model(dtype="float64").fit(ratings, validation=ratings)
    P, Q = start_factors()
    return [
        *bits_of(model),
        model.history_["exact_mse"],
        model.history_["validation_rmse"],
        *(array.tobytes() for array in model.recommend(n=3)),
        *(array.tobytes() for array in fitted().fold_in(ratings)),
        fitted().loss(ratings),
        fitted().score(ratings),
        cmf.loss(ratings, P, Q, 0.1),
        cmf.sgd_epoch(ratings, P, Q, 0.01, 0.1),
        P.tobytes(),
        Q.tobytes(),
    ]


@functools.cache
def expected_results():
    return results_of(sparse.csr_array(TABLE))


CONTAINERS = {
    f"{name}_{kind}": getattr(sparse, f"{name}_{kind}")
    for name in ("csr", "csc", "coo", "lil", "dok", "dia", "bsr")
    for kind in ("array", "matrix")
}
TABLES = {
    "array": np.array,
    "Fortran": np.asfortranarray,
    "matrix": lambda table: table.view(np.matrix),
    "strided": lambda table: np.repeat(np.repeat(table, 2, axis=0), 2, axis=1)[::2, ::2],
    "masked": lambda table: np.ma.array(table, mask=table == 0),
    "list": lambda table: table.tolist(),
    "tuples": lambda table: tuple(map(tuple, table.tolist())),
    "NaN": lambda table: np.where(table == 0, np.nan, table),
    "blocks": lambda table: sparse.bsr_array(table, blocksize=(2, 5)),
}


@pytest.mark.parametrize("form", [*CONTAINERS, *TABLES])
def test_every_form_of_the_ratings_gives_the_result_of_csr(form):
    convert = {**CONTAINERS, **TABLES}[form]
    assert results_of(convert(TABLE.copy())) == expected_results()


DTYPES = [
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16"),
    *("float32", "float64", "longdouble", ">i4", ">i8", ">f2", ">f4", ">f8"),
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_of_number_gives_the_result_of_double(dtype):
    matrix = make_csr(data=lambda data: data.astype(dtype))
    assert matrix.dtype == np.dtype(dtype)
    for ratings in (matrix, TABLE.astype(dtype)):
        assert results_of(ratings) == expected_results()


def test_bools_are_ones():
    assert results_of(TABLE.astype(bool)) == results_of((TABLE > 0) * 1.0)
    assert results_of(sparse.csr_array(TABLE.astype(bool))) == results_of((TABLE > 0) * 1.0)


@pytest.mark.parametrize("indptr", ["int32", "int64", "uint32", ">i8"])
@pytest.mark.parametrize("indices", ["int32", "int64", "uint64", ">i4"])
def test_every_type_of_index_gives_the_same_result(indptr, indices):
    ratings = make_csr(lambda array: array.astype(indptr), lambda array: array.astype(indices))
    assert (ratings.indptr.dtype, ratings.indices.dtype) == (np.dtype(indptr), np.dtype(indices))
    assert results_of(ratings) == expected_results()


def misaligned(array):
    return np.frombuffer(b"\0" + array.tobytes(), dtype=array.dtype, offset=1)


LAYOUTS = {
    "strided": lambda array: np.repeat(array, 3)[::3],
    "backward": lambda array: array[::-1].copy()[::-1],
    "misaligned": misaligned,
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_layout_in_memory_gives_the_same_result(layout):
    assert results_of(make_csr(*[LAYOUTS[layout]] * 3)) == expected_results()


def test_a_read_only_memory_map_gives_the_same_result(tmp_path):
    def mapped(array):
        path = tmp_path / f"{array.dtype}{array.size}"
        array.tofile(path)
        return np.memmap(path, dtype=array.dtype, mode="r")

    assert results_of(make_csr(*[mapped] * 3)) == expected_results()


def arrays_inside(ratings):
    """Return the arrays of which ratings consist."""
    if isinstance(ratings, np.ndarray):
        return [ratings]
    if isinstance(ratings, pd.DataFrame):
        return [ratings.to_numpy(), ratings.index.to_numpy(), ratings.columns.to_numpy()]
    names = ("indptr", "indices", "data", "row", "col", "offsets", "rows")
    return [getattr(ratings, name) for name in names if hasattr(ratings, name)]


@pytest.mark.parametrize("form", [*CONTAINERS, "array", "Fortran", "NaN", "masked"])
@pytest.mark.parametrize("taker", list(RATING_TAKERS))
def test_ratings_are_never_written_to(taker, form):
    ratings = {**CONTAINERS, **TABLES}[form](TABLE.astype(np.float64))
    if hasattr(ratings, "indices"):  # unsorted, which somebody could want to mend
        ratings.indices[:2] = ratings.indices[:2][::-1].copy()
        ratings.data[:2] = ratings.data[:2][::-1].copy()
    before = [array.copy() for array in arrays_inside(ratings)]
    RATING_TAKERS[taker][0](ratings)
    for array, old in zip(arrays_inside(ratings), before, strict=True):
        assert array.dtype == old.dtype
        np.testing.assert_array_equal(array, old)


def test_factors_that_are_only_read_are_never_written_to():
    arrays = [*start_factors(), np.ones(N_USERS), np.ones(N_ITEMS)]
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    P, Q, b, c = arrays
    cmf.loss(TABLE, P, Q, 0.1, user_biases=b, item_biases=c, global_mean=3)
    make_model(dtype="float64").fit(TABLE, user_factors=P, item_factors=Q)
    for array, old in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, old)


def test_start_factors_of_any_layout_give_the_result_of_c_order():
    def train(lay_out):
        P, Q = map(lay_out, start_factors())
        return bits_of(make_model(dtype="float64").fit(TABLE, user_factors=P, item_factors=Q))

    expected = train(np.array)
    for lay_out in (
        np.asfortranarray,
        lambda array: array.astype(">f8"),
        lambda array: array.astype("longdouble"),
        lambda array: np.repeat(array, 2, axis=1)[:, ::2],
        lambda array: array[::-1, ::-1].copy()[::-1, ::-1],
        lambda array: array.tolist(),
        lambda array: array.view(np.matrix),
    ):
        assert train(lay_out) == expected


# --- unsorted rows, empty rows, stored zeros ------------------------------------------------------


def test_unsorted_rows_are_the_same_ratings(rng):
    ordered = sparse.csr_array(TABLE)
    shuffled = ordered.copy()
    for u in range(N_USERS):
        row = np.arange(shuffled.indptr[u], shuffled.indptr[u + 1])
        order = rng.permutation(row)
        shuffled.indices[row], shuffled.data[row] = ordered.indices[order], ordered.data[order]
    assert fitted().loss(shuffled).sse == pytest.approx(fitted().loss(ordered).sse, rel=1e-14)
    assert fitted().score(shuffled) == pytest.approx(fitted().score(ordered), rel=1e-6)
    model = make_model().fit(shuffled)
    newcomers = fitted().fold_in(shuffled)
    for ids, _ in (model.recommend(n=N_ITEMS), fitted().recommend(newcomers, n=N_ITEMS)):
        for u in range(N_USERS):
            found = set(ids[u].tolist()) - {-1}
            assert found == set(np.flatnonzero(TABLE[u] == 0).tolist())


def test_users_and_items_without_ratings_are_fine():
    table = TABLE.copy()
    table[[0, 3, 5]] = 0
    table[:, [0, 4]] = 0
    for ratings in (table, sparse.csr_array(table), sparse.csc_array(table)):
        model = make_model().fit(ratings, validation=ratings)
        assert np.isfinite(model.reconstruct()).all()
        assert model.recommend(0, n=10)[0].size == N_ITEMS
        newcomers = model.fold_in(ratings)
        assert not newcomers.factors[[0, 3, 5]].any()
        assert np.isfinite(model.score(ratings))


def test_a_stored_zero_is_a_rating_and_has_been_seen():
    ratings = sparse.csr_array(TABLE)
    ratings.data[0] = 0
    item = int(ratings.indices[0])
    assert fitted().loss(ratings).n_ratings == ratings.nnz
    assert fitted().loss(ratings.toarray()).n_ratings == ratings.nnz - 1
    assert item not in make_model().fit(ratings).recommend(0)[0]
    assert item in make_model().fit(ratings.toarray()).recommend(0)[0]


@pytest.mark.parametrize("taker", [taker for taker in RATING_TAKERS if taker != "sgd_epoch"])
@pytest.mark.parametrize("container", [sparse.csr_array, sparse.coo_matrix, np.zeros])
def test_nothing_to_learn_from_is_refused(taker, container):
    call, name = RATING_TAKERS[taker]
    for shape in [(0, N_ITEMS), (N_USERS, 0), (0, 0), (N_USERS, N_ITEMS)]:
        message = (
            rf"{name} has (no users|no items|shape \({shape[0]}, {shape[1]}\) but holds no ra)"
        )
        with pytest.raises(ValueError, match=message):
            call(container(shape))


def test_an_epoch_over_nothing_changes_nothing():
    P, Q = start_factors()
    assert cmf.sgd_epoch(sparse.csr_array((N_USERS, N_ITEMS)), P, Q, 0.1, 0.1) == 0.0
    assert [P.tobytes(), Q.tobytes()] == [array.tobytes() for array in start_factors()]
    assert cmf.sgd_epoch(np.ones((0, N_ITEMS)), P[:0], Q, 0.1, 0.1) == 0.0


@pytest.mark.parametrize("taker", list(RATING_TAKERS))
def test_what_is_no_table_of_numbers_is_refused(taker):
    call, name = RATING_TAKERS[taker]
    for ratings, error, message in (
        (np.ones(5), ValueError, "is 1-D"),
        (np.ones((2, 2, 2)), ValueError, "is 3-D"),
        ([], ValueError, "is 1-D"),
        ([[1.0], [1.0, 2.0]], ValueError, "is not a table: rows of equal length"),
        ([["a", "b"]], TypeError, "holds values of type <U1"),
        (object(), TypeError, "must be a sparse matrix, .* got object"),
        ({"u": [1.0]}, TypeError, "must be a sparse matrix, .* got dict"),
        ({1.0}, TypeError, "must be a sparse matrix, .* got set"),
        ((row for row in TABLE), TypeError, "must be a sparse matrix, .* got generator"),
        (FRAME["a"], TypeError, r"must not be a pandas\.Series: a 2-D table"),
        (FRAME.rename(columns={"b": "a"}), ValueError, "must be unique, got 'a' more than once"),
        (FRAME.rename(index={"v": "u"}), ValueError, "must be unique, got 'u' more than once"),
        (FRAME.astype(str), TypeError, "ratings must be numbers"),
    ):
        with pytest.raises(error, match=rf"(?s)(?=.*\b{name}\b).*{message}"):
            call(ratings)
    if name == "ratings":  # no validation is fine
        with pytest.raises(TypeError, match=r"ratings must be .* got NoneType"):
            call(None)


@pytest.mark.parametrize(
    "taker",
    [taker for taker in RATING_TAKERS if not re.match("fit($|_| in| by)|first|train_t", taker)],
)
def test_transposed_tables_are_recognized(taker):
    call, name = RATING_TAKERS[taker]
    message = rf"{name} has shape \(5, 6\)"
    if taker not in ("fold_in", "transform", "score"):  # which take any number of users
        message += r".*is it transposed\?"
    with pytest.raises(ValueError, match=message):
        call(sparse.csr_array(TABLE).T)


# --- unknown ids ----------------------------------------------------------------------------------


LABEL_TAKERS = {
    "predict, users": lambda ids: labelled().predict(ids, "a"),
    "predict, items": lambda ids: labelled().predict("u", ids),
    "recommend": lambda ids: labelled().recommend(ids),
    "recommend, items": lambda ids: labelled().recommend("u", items=ids),
    "recommend, exclude": lambda ids: labelled().recommend("u", exclude=ids),
    "reconstruct, users": lambda ids: labelled().reconstruct(ids),
    "reconstruct, items": lambda ids: labelled().reconstruct(None, ids),
    "similar_items": lambda ids: labelled().similar_items(ids),
    "similar_users": lambda ids: labelled().similar_users(ids),
    "recommend_by_neighbors": lambda ids: labelled().recommend_by_neighbors(ids),
}


@pytest.mark.parametrize("taker", list(LABEL_TAKERS))
def test_unknown_labels_are_named(taker):
    for ids, error, message in (
        ("q", ValueError, r"ids: 'q'; this model knows"),
        (["q", "r"], ValueError, r"ids: 'q', 'r'"),
        (0, ValueError, r"ids: 0; this model knows"),
        (True, ValueError, r"ids: True"),
        (-1, ValueError, r"ids: -1"),
        (np.array([0, 1]), ValueError, r"ids: 0, 1"),
        ([["u"]], TypeError, r"ids must be hashable, got list"),
        ({"u": 1}, TypeError, r"ids must be hashable, got dict"),
        (np.array([["u"]]), ValueError, r"ids must be one-dimensional, got 2"),
    ):
        with pytest.raises(error, match=rf"(user|item) {message}"):
            LABEL_TAKERS[taker](ids)


def test_unknown_ids_by_policy():
    model = fitted()
    mean, b, c = model.global_mean_, model.user_biases_, model.item_biases_
    for unknown_id in (-1, N_USERS, 10**30, -(10**30), np.uint64(2**64 - 1)):
        assert model.predict(unknown_id, 0, unknown="mean") == np.float32(mean + float(c[0]))
        assert model.predict(0, unknown_id, unknown="mean") == np.float32(mean + float(b[0]))
        assert model.predict(unknown_id, unknown_id, unknown="mean") == np.float32(mean)
        ids, _ = model.recommend(unknown_id, n=N_ITEMS, unknown="mean")
        np.testing.assert_array_equal(ids, np.argsort(-c, kind="stable"))
    for wrong in (True, 1.0, "3", None, [[0]]):  # no rows at all
        with pytest.raises(TypeError, match=r"users must be integer rows"):
            model.predict(wrong, 0, unknown="mean")
    for policy in ("zero", None, True, ["mean"]):
        for call in (model.predict, model.recommend):
            with pytest.raises((TypeError, ValueError), match=r"^unknown must be "):
                call(0, 1, unknown=policy)


def test_no_ids_give_empty_answers():
    for model in (fitted(), labelled()):
        for nothing in ([], (), np.array([], dtype=np.int64), pd.Series([], dtype=object)):
            assert model.predict(nothing, nothing).shape == (0,)
            assert model.recommend(nothing, n=3)[0].shape == (0, 3)
            assert model.similar_items(nothing, n=3)[1].shape == (0, 3)
            assert model.similar_users(nothing, n=3)[0].shape == (0, 3)
            assert model.reconstruct(nothing).shape[0] == 0
            assert (
                model.recommend(list("uv") if model is labelled() else [0, 1], items=nothing)[
                    0
                ].tolist()
                == [[None if model is labelled() else -1] * 10] * 2
            )


def test_lists_are_as_long_as_there_is_something_left():
    unseen = int((TABLE[0] == 0).sum())
    for n in (N_ITEMS, 1000, 10**18, 2**64):
        for exclude_seen, left in ((True, unseen), (False, N_ITEMS)):
            for call in (fitted().recommend, fitted().recommend_by_neighbors):
                ids, scores = call(0, n, exclude_seen=exclude_seen)
                assert len(ids) == len(scores) == left
                assert np.isfinite(scores).all()
        assert len(fitted().similar_items(0, n)[0]) == N_ITEMS - 1
        assert len(fitted().similar_users(0, n)[0]) == N_USERS - 1
    ids, scores = fitted().recommend([0, 1], n=1000)
    assert ids.shape == scores.shape == (2, 1000)
    assert (ids[0, unseen:] == -1).all()
    assert np.isnan(scores[0, unseen:]).all()
    assert len(fitted().recommend_by_neighbors(0, n_neighbors=2**70)[0]) == unseen


# --- before fit -----------------------------------------------------------------------------------

ATTRIBUTES = [name for name in vars(cmf.MatrixFactorization) if re.fullmatch(r"[a-z].*[^_]_", name)]


def test_nothing_is_known_before_fit():
    assert len(ATTRIBUTES) >= 10
    model = cmf.MatrixFactorization()
    calls = {
        **{name: functools.partial(getattr, model, name) for name in ATTRIBUTES},
        "save": functools.partial(model.save, io.BytesIO()),
        **{taker: functools.partial(call, model, 0) for taker, call in ID_TAKERS.items()},
        **{
            name: functools.partial(getattr(model, name), TABLE)
            for name in ("loss", "fold_in", "transform", "score")
        },
        "recommend all": model.recommend,
        "reconstruct all": model.reconstruct,
    }
    for name, call in calls.items():
        with pytest.raises(cmf.NotFittedError, match=r"is not fitted yet. Call 'fit'") as caught:
            call()
        assert isinstance(caught.value, ValueError), name
        assert isinstance(caught.value, AttributeError), name
    assert not any(hasattr(model, name) for name in ATTRIBUTES)
    model.fit(TABLE)
    assert all(hasattr(model, name) for name in ATTRIBUTES)
    assert {name for name in ATTRIBUTES if not hasattr(fitted(), name)} == {"best_epoch_"}


# --- divergence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_divergence_is_an_error_and_the_old_state_stays(dtype, biases, shuffle):
    model = make_model(dtype=dtype, biases=biases, shuffle=shuffle)
    reports = []
    model.set_params(learning_rate=1e6)
    message = r"^training diverged in epoch \d+ with learning_rate=1e\+06: .*Lower learning_rate"
    with pytest.raises(cmf.DivergenceError, match=message) as caught:
        model.fit(TABLE, epochs=100, callbacks=reports.append)
    assert isinstance(caught.value, ArithmeticError)
    assert caught.value.learning_rate == 1e6
    assert caught.value.epoch == len(reports) + 1
    assert caught.value.last_finite_loss == (reports[-1].running_total if reports else None)
    with pytest.raises(cmf.NotFittedError):
        model.predict(0, 0)

    model.set_params(learning_rate=0.01).fit(TABLE)
    before, history = bits_of(model), copy.deepcopy(model.history_)
    model.set_params(learning_rate=1e6)
    with pytest.raises(cmf.DivergenceError) as caught:
        model.partial_fit(TABLE, epochs=100)
    assert caught.value.epoch > 2
    assert np.isfinite(caught.value.last_finite_loss)
    with pytest.raises(cmf.DivergenceError):
        model.fit(TABLE, epochs=100)
    assert bits_of(model) == before
    assert repr(model.history_) == repr(history)
    assert model.n_iter_ == 2


def test_slow_divergence_tells_the_last_finite_loss():
    reports = []
    with pytest.raises(cmf.DivergenceError, match=r"the last finite running loss was") as caught:
        make_model(learning_rate=0.7, dtype="float64").fit(
            TABLE, epochs=1000, callbacks=reports.append
        )
    assert len(reports) >= 1
    assert caught.value.last_finite_loss == reports[-1].running_total
    assert f"{reports[-1].running_total:.6g}" in str(caught.value)


def test_factors_that_are_finite_but_not_their_predictions_are_divergence():
    ratings = np.array([[1e6], [0], [0]])
    make = {"n_factors": 64, "biases": False, "learning_rate": 0.05, "random_state": 0}
    model = cmf.MatrixFactorization(**make).fit(ratings, epochs=1)
    assert np.isfinite(model.reconstruct()).all()
    with pytest.raises(cmf.DivergenceError, match=r"diverged in epoch 2 with learning_rate=0.05"):
        model.fit(ratings, epochs=2)
    assert model.n_iter_ == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_epoch_that_diverges_is_an_error(dtype):
    P, Q = start_factors(dtype)
    message = r"^the factors are no longer finite after an epoch with learning_rate=1e\+30"
    with pytest.raises(cmf.DivergenceError, match=message) as caught:
        cmf.sgd_epoch(TABLE, P, Q, 1e30, 0.1)
    assert (caught.value.epoch, caught.value.learning_rate) == (None, 1e30)


@pytest.mark.parametrize("parameters", [{"learning_rate": 1e300}, {"regularization": 1e300}])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_parameters_diverge_without_a_warning(parameters, dtype):
    with pytest.raises(cmf.DivergenceError):
        make_model(dtype=dtype, **parameters).fit(TABLE)
    with pytest.raises(cmf.DivergenceError):
        make_model(dtype=dtype, init_scale=1e308).fit(TABLE)


def test_ratings_near_the_limits_of_double_are_an_error_and_no_warning():
    huge = np.where(TABLE > 0, 1.7e308, 0)
    model = make_model(dtype="float64")
    with pytest.raises(cmf.DivergenceError, match=r"scale the ratings down"):
        model.fit(huge)
    model.fit(TABLE)
    message = r"ratings are too large in row 0: .* not finite in float64"
    with pytest.raises(ValueError, match=message):
        model.fold_in(-huge)
    with pytest.raises(ValueError, match=message):
        model.transform(-huge)
    assert model.loss(huge).sse == np.inf


# --- what fit takes besides ratings ---------------------------------------------------------------


@pytest.mark.parametrize("method", ["fit", "partial_fit", "fit_transform"])
def test_pairs_of_ids_with_their_ratings_are_no_table(method):
    pairs, y = np.array([[1, 2], [3, 1], [2, 2]]), [5.0, 3.0, 1.0]
    for ratings, given in ((pairs, y), (pairs.tolist(), np.array(y)), (pd.DataFrame(pairs), y)):
        with pytest.raises(ValueError, match=r"pairs of users and items.*coo_array\(\(y, "):
            getattr(make_model(), method)(ratings, given)
    rest = sparse.csr_array(np.ones((3, 1)))
    for ratings, given in ((pairs, None), (pairs, y[:2]), (pairs, rest), (pairs + 0.5, y)):
        getattr(make_model(), method)(ratings, given)
    getattr(make_model(), method)(np.hstack([pairs, pairs]), y)


def test_what_is_refused_leaves_the_model_as_it_was():
    model = make_model().fit(TABLE)
    before = bits_of(model)

    def fail(report):
        raise RuntimeError("enough")

    def fail_late(report):
        if report.epoch >= report.n_epochs:
            raise LookupError("too late")

    refusals = [
        ({"callbacks": fail}, RuntimeError, "enough"),
        ({"callbacks": [fail_late]}, LookupError, "too late"),
        ({"callbacks": 3}, TypeError, "callbacks must be a callable or several of them, got int"),
        ({"callbacks": "ab"}, TypeError, "callbacks holds 'a', which is not callable"),
        ({"callbacks": [print, None]}, TypeError, "callbacks holds None, which is not callable"),
        ({"validation": TABLE[:-1]}, ValueError, r"validation has shape \(5, 5\), but the model"),
        ({"validation": TABLE[:, 1:]}, ValueError, r"validation has shape \(6, 4\), but the mod"),
        ({"validation": TABLE.T}, ValueError, "validation has .* is it transposed"),
        ({"validation": np.where(TABLE, np.inf, 0)}, ValueError, r"validation\[\d, \d\] is inf"),
        ({"validation": TABLE * 0}, ValueError, "validation has shape .* but holds no rating"),
        ({"validation": "held out"}, TypeError, "validation must be a sparse .* got str"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        ({"epochs": -1}, ValueError, "epochs must be at least 1, got -1"),
        ({"epochs": True}, TypeError, "epochs must be an integer, got True"),
        ({"epochs": 1.5}, TypeError, "epochs must be an integer, got 1.5"),
        ({"epochs": np.array([1])}, TypeError, "epochs must be an integer"),
        ({"exact_loss": 1}, TypeError, "exact_loss must be True or False, got 1"),
    ]
    for train in (model.fit, model.partial_fit):
        for arguments, error, message in refusals:
            with pytest.raises(error, match=message):
                train(TABLE, **arguments)
            assert bits_of(model) == before
            assert model.n_iter_ == 2
    with pytest.raises(TypeError, match=r"epochs must be an integer, got None"):
        model.partial_fit(TABLE, epochs=None)
    with pytest.raises(TypeError, match=r"epochs must be an integer, got None"):
        make_model().partial_fit(TABLE, epochs=None)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("user_factors", np.ones((5, 3)), ValueError, "user_factors has 5 rows"),
        ("item_factors", np.ones((6, 3)), ValueError, "item_factors 6, but ratings has shape"),
        ("user_factors", np.ones((6, 2)), ValueError, "both must have n_factors=3 columns"),
        ("item_factors", np.ones(5), ValueError, "item_factors is 1-D: a 2-D array is wanted"),
        ("user_factors", np.full((6, 3), np.nan), ValueError, r"user_factors\[0, 0\] is nan"),
        ("item_factors", [[1, 2, 3]] * 4 + [[1, 2, np.inf]], ValueError, r"item_factors\[4, 2\]"),
        ("user_factors", np.full((6, 3), 1e39), ValueError, r"user_factors\[0, 0\] is inf"),
        ("item_factors", np.full((5, 3), "a"), TypeError, "item_factors holds values of type <U1"),
        ("item_factors", [[1, 2, 3]] * 4 + [[1]], ValueError, "item_factors is not an array"),
        ("user_factors", object(), TypeError, "user_factors holds values of type object"),
        ("user_factors", np.ones((6, 3)) * 1j, TypeError, "user_factors holds values of type com"),
    ],
)
def test_wrong_start_factors_are_refused(name, value, error, message):
    with pytest.raises(error, match=message):
        make_model().fit(TABLE, **{name: value})


def test_refused_epochs_change_nothing():
    P, Q = start_factors()
    before = [P.tobytes(), Q.tobytes()]
    broken = [ratings for ratings, _ in BROKEN_TABLES.values()]
    for ratings in [*broken, TABLE.T, TABLE[:-1], "abc", None]:
        with pytest.raises((TypeError, ValueError)):
            cmf.sgd_epoch(ratings, P, Q, 0.01, 0.1)
    for numbers in ((0, 0.1), (np.nan, 0.1), (0.1, -1), (0.1, np.inf), ("a", 0.1), (0.1, None)):
        with pytest.raises(
            (TypeError, ValueError), match=r"^(learning_rate|regularization) must be"
        ):
            cmf.sgd_epoch(TABLE, P, Q, *numbers)
    assert [P.tobytes(), Q.tobytes()] == before


if __name__ == "__main__":
    warnings.simplefilter("error")
    globals()[sys.argv[1]](*sys.argv[2:])
