"""More than 2**32 of everything: the same bits as at low addresses. And the memory of a fit.

Large arrays are addresses without memory: only pages that are written to, or read, come to exist.
"""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from blocks import interleaved_block
from strategies import FLOATS

from cmf import config
from cmf._kernels.csr import cut_rows
from cmf._kernels.interleaved import highest_level, settle_rows
from cmf._kernels.loss import sum_errors
from cmf._kernels.predict import predict_pairs
from cmf._kernels.sgd import sgd_epoch

# Entries before the first one in use: offsets overflow 32 bits, signed and unsigned.
BEYOND = 2**32 + 2**12
N_USERS, N_ITEMS, PER_USER = 7, 11, 5
N_STRIPS = 2


def reserved(n, dtype):
    """Return n zeros, as addresses alone where they are many."""
    size = n * np.dtype(dtype).itemsize
    if sys.maxsize < 2**40:
        pytest.skip("this process has no addresses for arrays of 2**32 numbers")
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        pytest.skip("this system gives no addresses without memory")
    # Linux has MAP_NORESERVE, which Python 3.11 does not name; elsewhere nothing is reserved.
    no_reserve = 0x4000 if sys.platform.startswith("linux") else 0
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    try:
        memory = mmap.mmap(-1, size, flags=flags)
    except OSError as error:
        pytest.skip(f"the system refuses {size} bytes of addresses: {error}")
    return np.frombuffer(memory, dtype=dtype)[:n]


@dataclass
class Problem:
    """A small model and its ratings, with as many unused users, items and ratings before them."""

    n_factors: int
    users_before: int
    items_before: int
    ratings_before: int
    indptr: Any
    cuts: Any
    indices: Any
    ratings: Any
    P: Any
    Q: Any
    user_biases: Any
    item_biases: Any

    @property
    def rows(self):
        """The users that there are, in an order of visits."""
        return self.users_before + np.random.default_rng(1).permutation(N_USERS)

    @property
    def arrays(self):
        return self.P, self.Q, self.user_biases, self.item_biases

    def bits(self):
        """Return all that training may have changed."""
        befores = (self.users_before, self.items_before) * 2
        return [array[n:].tobytes() for array, n in zip(self.arrays, befores, strict=True)]


def make_problem(dtype, n_factors, *, users_before=0, items_before=0, ratings_before=0):
    """Return the same small problem, wherever it begins."""
    rng = np.random.default_rng(0)
    n_users, n_items = users_before + N_USERS, items_before + N_ITEMS
    nnz = ratings_before + N_USERS * PER_USER
    problem = Problem(
        n_factors,
        users_before,
        items_before,
        ratings_before,
        reserved(n_users + 1, np.int64),
        reserved(n_users * N_STRIPS + 1, np.int64),
        reserved(nnz, np.int32),
        reserved(nnz, dtype),
        reserved(n_users * n_factors, dtype).reshape(n_users, n_factors),
        reserved(n_items * n_factors, dtype).reshape(n_items, n_factors),
        reserved(n_users, dtype),
        reserved(n_items, dtype),
    )
    columns = np.sort([rng.choice(N_ITEMS, PER_USER, replace=False) for _ in range(N_USERS)])
    problem.indices[ratings_before:] = items_before + columns.reshape(-1)
    problem.ratings[ratings_before:] = rng.integers(1, 6, N_USERS * PER_USER)
    problem.P[users_before:] = rng.normal(0, 0.1, (N_USERS, n_factors))
    problem.Q[items_before:] = rng.normal(0, 0.1, (N_ITEMS, n_factors))
    problem.user_biases[users_before:] = rng.normal(0, 0.1, N_USERS)
    problem.item_biases[items_before:] = rng.normal(0, 0.1, N_ITEMS)
    problem.indptr[users_before:] = ratings_before + np.arange(N_USERS + 1) * PER_USER
    cut_rows(
        problem.indptr[users_before:],
        problem.indices,
        np.array([0, items_before + N_ITEMS // 2, n_items]),
        problem.cuts[users_before * N_STRIPS : -1],
    )
    problem.cuts[-1] = nnz
    return problem


# --- each kernel is called in one place -----------------------------------------------------------


def run_interleaved(problem, level):
    """One epoch of the fast path, strip by strip; return the sums of squared errors."""
    n_items = problem.items_before + N_ITEMS
    scales = reserved(n_items, problem.Q.dtype)
    scales[problem.items_before :] = 1
    sums = [
        interleaved_block(
            problem.cuts,
            problem.indices,
            problem.ratings,
            problem.rows,
            problem.P,
            problem.Q,
            problem.user_biases,
            problem.item_biases,
            scales,
            None,
            None,
            0,
            N_USERS,
            strip,
            N_STRIPS,
            level,
            3.0,
            *[0.02] * 3,
            *[1 - 0.01 * 0.02] * 4,
            0.0,
        )
        for strip in range(N_STRIPS)
    ]
    settle_rows(problem.Q, scales, None, problem.items_before, n_items, level)
    return sums


def run_stored_order(problem):
    """One epoch of the stored order; return the sum of squared errors."""
    return sgd_epoch(
        problem.indptr,
        problem.indices,
        problem.ratings,
        problem.rows,
        None,
        *problem.arrays,
        0,
        N_USERS,
        3.0,
        0.01,
        0.02,
    )


def run_loss(problem):
    """Return the sums of squared and absolute errors."""
    return sum_errors(
        problem.indptr,
        problem.indices,
        problem.ratings,
        *problem.arrays,
        problem.users_before,
        problem.users_before + N_USERS,
        3.0,
    )


def run_predict(problem):
    """Return the predictions of all pairs of a user and an item."""
    users, items = (
        np.ascontiguousarray(numbers.reshape(-1))
        for numbers in np.meshgrid(
            problem.users_before + np.arange(N_USERS), problem.items_before + np.arange(N_ITEMS)
        )
    )
    predicted = np.empty(users.shape[0], dtype=problem.P.dtype)
    predict_pairs(users, items, *problem.arrays, predicted, 3.0)
    return predicted.tobytes()


KERNELS = {
    "stored order": run_stored_order,
    "loss": run_loss,
    "predict": run_predict,
    **{
        f"interleaved {name}": lambda problem, level=level: run_interleaved(problem, level)
        for level, name in enumerate(config.LEVELS[: highest_level() + 1])
    },
}


# 16 and 64 factors stay in registers, the latter with scales; 256 do not.
@pytest.mark.parametrize("n_factors", [16, 64, 256])
@pytest.mark.parametrize("large", ["users", "items", "ratings"])
@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("dtype", FLOATS)
def test_more_than_2_to_the_32_numbers(dtype, kernel, large, n_factors):
    before = BEYOND if large == "ratings" else BEYOND // n_factors
    low = make_problem(dtype, n_factors)
    high = make_problem(dtype, n_factors, **{f"{large}_before": before})
    assert max(high.P.size, high.Q.size, high.ratings.size) > 2**32
    start = low.bits()
    assert high.bits() == start
    assert KERNELS[kernel](high) == KERNELS[kernel](low)
    assert high.bits() == low.bits()
    assert (low.bits() == start) == (kernel in ("loss", "predict"))


# --- memory ---------------------------------------------------------------------------------------

MEASURE = """
import json
import sys
import numpy as np
from scipy.sparse import csr_array
import cmf

n_users, n_items, per_user, n_factors = map(int, sys.argv[2:])

def peak():
    return 1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])

rng = np.random.default_rng(0)
# User u rates every so many items, beginning with another one than the user before.
step = n_items // per_user
rows = (np.arange(n_users)[:, None] % step + step * np.arange(per_user)).astype(np.int32)
ratings = csr_array(
    (
        rng.integers(1, 6, n_users * per_user).astype(np.float32),
        rows.reshape(-1),
        np.arange(0, n_users * per_user + 1, per_user),
    ),
    shape=(n_users, n_items),
)
ratings.indptr = ratings.indptr.astype(np.int64)
model = cmf.MatrixFactorization(
    n_factors, n_epochs=2, random_state=0, n_threads=2, **json.loads(sys.argv[1])
)
model.fit(np.eye(5))  # so that everything is imported
before = peak()
model.fit(ratings)
print(peak() - before, model.user_factors_.nbytes + model.item_factors_.nbytes, ratings.nnz)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
@pytest.mark.skipif("CMF_SANITIZE" in os.environ, reason="sanitizers take memory of their own")
@pytest.mark.parametrize(
    "shape",
    [
        # users, items, ratings per user, factors
        pytest.param((6000, 4000, 500, 64), id="many ratings"),
        pytest.param((6000, 4000, 500, 20), id="padded rows"),
        pytest.param((100_000, 2_000, 4, 128), id="large factors"),
        pytest.param((100_000, 2_000, 4, 100), id="large padded factors"),
    ],
)
@pytest.mark.parametrize(
    ("settings", "bytes_per_rating", "bytes_per_row", "share_of_factors"),
    [
        pytest.param({"learning_rate": 0.005}, 12, 0, 1.25, id="plain rule"),
        pytest.param({"learning_rate": 0.005, "adaptive": True}, 12, 32, 1.25, id="rates by row"),
        # The ratings that are not held out, and the factors of the best epoch so far.
        pytest.param({}, 12, 64, 2.4, id="defaults"),
    ],
)
def test_peak_memory_of_fit(shape, settings, bytes_per_rating, bytes_per_row, share_of_factors):
    done = subprocess.run(
        [sys.executable, "-P", "-c", MEASURE, json.dumps(settings), *map(str, shape)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    peak, factors, n_ratings = map(int, done.stdout.split())
    # A megabyte for what does not grow: the interpreter's own, stacks of threads.
    wanted = bytes_per_rating * n_ratings + bytes_per_row * sum(shape[:2])
    assert peak <= wanted + share_of_factors * factors + 2**20, (
        f"{peak / n_ratings:.1f} bytes a rating, of which {factors / n_ratings:.1f} are factors"
    )
