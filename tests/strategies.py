"""Hypothesis strategies for what kernels are given."""

from dataclasses import dataclass, fields

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st

FLOATS = (np.float32, np.float64)
INDICES = (np.int32, np.int64)

# One past two turns of the widest unrolled loop of point.h (16 float32): every tail is drawn.
MAX_FACTORS = 40


@dataclass(frozen=True, eq=False)
class Problem:
    """A CSR matrix, a model that fits it, an order of visits, and the scalars of training."""

    indptr: np.ndarray
    indices: np.ndarray
    ratings: np.ndarray
    user_factors: np.ndarray
    item_factors: np.ndarray
    user_biases: np.ndarray
    item_biases: np.ndarray
    row_order: np.ndarray
    entry_order: np.ndarray
    global_mean: float
    learning_rate: float
    regularization: float

    @property
    def n_users(self):
        return self.user_factors.shape[0]

    @property
    def n_items(self):
        return self.item_factors.shape[0]

    @property
    def dtype(self):
        return self.ratings.dtype

    @property
    def rows(self):
        """Row of every stored entry."""
        return np.repeat(np.arange(self.n_users), np.diff(self.indptr))

    @property
    def arrays(self):
        """All arrays, in the order of the fields."""
        values = [getattr(self, field.name) for field in fields(self)]
        return [value for value in values if isinstance(value, np.ndarray)]


def make_problem(
    rng,
    rated,
    n_factors,
    *,
    dtype=np.float64,
    index_dtype=np.int32,
    unsorted=False,
    read_only=False,
    global_mean=0.0,
    learning_rate=0.01,
    regularization=0.1,
):
    """Fill a pattern of rated cells with numbers of a sane size: factors N(0, 1 / n_factors)."""
    n_users, n_items = rated.shape
    rows = [np.flatnonzero(row) for row in rated]
    if unsorted:
        rows = [rng.permutation(row) for row in rows]
    lengths = [len(row) for row in rows]
    nnz = sum(lengths)
    problem = Problem(
        indptr=np.cumsum([0, *lengths], dtype=np.int64),
        indices=np.concatenate([*rows, np.empty(0)]).astype(index_dtype),
        # About every eighth rating is an explicit zero.
        ratings=np.where(rng.random(nnz) < 1 / 8, 0, rng.uniform(-1, 5, nnz)).astype(dtype),
        user_factors=(rng.normal(size=(n_users, n_factors)) / n_factors**0.5).astype(dtype),
        item_factors=(rng.normal(size=(n_items, n_factors)) / n_factors**0.5).astype(dtype),
        user_biases=rng.normal(size=n_users).astype(dtype),
        item_biases=rng.normal(size=n_items).astype(dtype),
        row_order=rng.permutation(n_users).astype(np.int64),
        entry_order=np.concatenate([*map(rng.permutation, lengths), np.empty(0)]).astype(np.int32),
        global_mean=global_mean,
        learning_rate=learning_rate,
        regularization=regularization,
    )
    for array in problem.arrays:
        array.flags.writeable = not read_only
    return problem


def rated_rows(rng, lengths, n_items):
    """Return which cells are rated: so many of each row, anywhere in it."""
    rated = np.zeros((len(lengths), n_items), dtype=bool)
    for row, length in zip(rated, lengths, strict=True):
        row[rng.permutation(n_items)[:length]] = True
    return rated


# Rows of very different lengths, many of them empty or of one rating; something is rated.
LENGTHS = st.lists(st.sampled_from((0, 0, 1, 1, 2, 3, 5, 9)), min_size=1, max_size=9).filter(any)


@st.composite
def problems(draw, *, dtypes=FLOATS, index_dtypes=INDICES):
    """Small problems: empty rows and columns, one user, one item, any order inside rows."""
    shape = draw(st.tuples(st.integers(1, 7), st.integers(1, 8)))
    return make_problem(
        np.random.default_rng(draw(st.integers(0, 2**32 - 1))),
        draw(hnp.arrays(np.bool_, shape)),
        draw(st.integers(1, MAX_FACTORS)),
        dtype=draw(st.sampled_from(dtypes)),
        index_dtype=draw(st.sampled_from(index_dtypes)),
        unsorted=draw(st.booleans()),
        read_only=draw(st.booleans()),
        # Scalars are float32 numbers, so that kernels of both types are given the same.
        global_mean=draw(st.floats(-4, 4, width=32)),
        learning_rate=draw(st.floats(2**-10, 2**-5, width=32)),
        regularization=draw(st.floats(0, 0.5, width=32)),
    )


@st.composite
def patterns(draw, *, n_items=8):
    """Row pointers and column indices in range, with pairs that may occur twice."""
    rows = draw(st.lists(st.lists(st.integers(0, n_items - 1), max_size=6), max_size=6))
    indptr = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    dtype = draw(st.sampled_from(INDICES))
    return indptr, np.array([index for row in rows for index in row], dtype=dtype)


# Few different numbers, so that ties are common; both zeros are equal.
SCORES = (-np.inf, -1.5, -0.0, 0.0, 0.25, 1.0, 2.0, np.inf, np.nan)


@st.composite
def score_lists(draw, *, max_size=30):
    """Scores of one user and what is left out, as `select_top` takes them."""
    size = draw(st.integers(0, max_size))
    scores = draw(
        st.lists(st.sampled_from(SCORES) | st.floats(-5, 5, width=32), min_size=size, max_size=size)
    )
    left_out = draw(st.lists(st.sampled_from((0, 0, 0, 1, 255)), min_size=size, max_size=size))
    dtype = draw(st.sampled_from(FLOATS))
    return np.array(scores, dtype=dtype), np.array(left_out, dtype=np.uint8)
