"""What training produces, as plain data that every floor above reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cmf._typing import FloatArray, FrameKind, Ids, IndexArray

# One list per column, one entry per epoch; NaN where a number was not measured.
HISTORY_COLUMNS = (
    "epoch",
    "running_mse",
    "regularization",
    "running_total",
    "exact_mse",
    "exact_total",
    "validation_rmse",
    "validation_mae",
    "learning_rate",
    "seconds",
)


@dataclass(slots=True)
class Factors:
    """Factors and biases of one model: x_ui = global_mean + b_u + c_i + p_u·q_i.

    With squared, absolute and Huber loss x is the predicted rating.

    Attributes
    ----------
    user_factors : ndarray of shape (n_users, n_factors), float32 or float64, C order
    item_factors : ndarray of shape (n_items, n_factors), same dtype, C order
    user_biases : ndarray of shape (n_users,), same dtype; zeros if not `biased`
    item_biases : ndarray of shape (n_items,), same dtype; zeros if not `biased`
    global_mean : float; 0.0 if not `biased`
    biased : bool
        Whether training moves the biases.
    own_user_factors, implicit_factors : ndarray or None
        With implicit features, what `user_factors` is made of: rows of the users' own, shape
        (n_users, n_factors), and one row y per item, shape (n_items, n_factors), of which the items
        that a user has rated add up, over the root of their number.
    """

    user_factors: FloatArray
    item_factors: FloatArray
    user_biases: FloatArray
    item_biases: FloatArray
    global_mean: float
    biased: bool
    own_user_factors: FloatArray | None = None
    implicit_factors: FloatArray | None = None

    @property
    def trained(self) -> tuple[FloatArray, ...]:
        """The arrays that training changes, those of all models first."""
        found = (
            self.user_factors,
            self.item_factors,
            self.user_biases,
            self.item_biases,
            self.own_user_factors,
            self.implicit_factors,
        )
        return tuple(array for array in found if array is not None)

    @property
    def n_users(self) -> int:
        """Number of rows of the rating matrix."""
        return int(self.user_factors.shape[0])

    @property
    def n_items(self) -> int:
        """Number of columns of the rating matrix."""
        return int(self.item_factors.shape[0])

    @property
    def n_factors(self) -> int:
        """Length of one factor row."""
        return int(self.user_factors.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The floating type that all four arrays share."""
        return self.user_factors.dtype


@dataclass(slots=True)
class SeenItems:
    """Which items each user has rated: the pattern of a CSR matrix, rows in any order inside.

    Attributes
    ----------
    indptr : ndarray of shape (n_users + 1,), int64
    indices : ndarray of shape (nnz,), int32 (int64 only where n_items needs it)
    """

    indptr: NDArray[np.int64]
    indices: IndexArray

    @classmethod
    def of(cls, indptr: NDArray[np.int64], indices: IndexArray, n_items: int) -> SeenItems:
        """Copy the pattern of a checked CSR matrix, in the narrowest type."""
        narrow = n_items <= np.iinfo(np.int32).max
        kept: IndexArray = indices.astype(np.int32 if narrow else np.int64)  # type: ignore[assignment]
        return cls(indptr.copy(), kept)

    def union(self, indptr: NDArray[np.int64], indices: IndexArray, n_items: int) -> SeenItems:
        """Return the items seen here or in another checked pattern of the same users."""
        shape = (indptr.shape[0] - 1, n_items)
        patterns = (
            sparse.csr_array((np.ones(columns.shape[0], dtype=np.int8), columns, starts), shape)
            for starts, columns in ((self.indptr, self.indices), (indptr, indices))
        )
        both = sum(patterns, start=sparse.csr_array(shape, dtype=np.int8))
        return SeenItems.of(both.indptr.astype(np.int64), both.indices, n_items)

    def row(self, user: int) -> IndexArray:
        """Items of one user: a view, in no particular order."""
        return self.indices[self.indptr[user] : self.indptr[user + 1]]


@dataclass(slots=True)
class TrainingState:
    """How a model was trained, where its parameters alone do not tell.

    Attributes
    ----------
    regularization : float
        β of the losses that are reported, also where it was chosen by the ratings.
    user_penalty, user_power : float
        The factors of a user with n ratings are penalized by ``user_penalty * n**(1 - power)``
        times their squares.
    spread : float
        Root of the mean squared deviation of the ratings from the mean; 0 if it was not measured.
    noise : float
        Share of the ratings' variance that could not be predicted, 1 if it was not measured.
    best_epoch : int
        The epoch whose factors these are, of those that early stopping has seen; -1 without it.
    sums : tuple of two ndarrays or None
        Sums of squared gradients of users, shape (n_users,), and items, where rates adapt.
    """

    regularization: float = 0.0
    user_penalty: float = 0.0
    user_power: float = 0.0
    spread: float = 0.0
    noise: float = 1.0
    best_epoch: int = -1
    sums: tuple[FloatArray, FloatArray] | None = None


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """How far ratings are from the mean of a posterior, in units of the ratings.

    Attributes
    ----------
    user_spreads : ndarray of shape (n_users,), float32
    item_spreads : ndarray of shape (n_items,), float32
        The variance of what the draws predict for a pair is about the product of its two spreads.
    noise_std : float
        Standard deviation of a rating around what a draw predicts for it.
    """

    user_spreads: NDArray[np.float32]
    item_spreads: NDArray[np.float32]
    noise_std: float


@dataclass(slots=True)
class ModelState:
    """All that a fitted model knows: what a model file holds.

    Attributes
    ----------
    parameters : dict
        Constructor parameters of `cmf.MatrixFactorization`, by name.
    factors : Factors
    seen : SeenItems
    history : dict of str to list of float
        Keys are `HISTORY_COLUMNS`, all lists of one length.
    seed : int
        Non-negative, below 2**128: every permutation of continued training follows from it.
    n_epochs_trained : int
        Epochs behind these factors.
    uncertainty : Uncertainty or None
        Of an average over the posterior.
    training : TrainingState
        What continued training and folding in need to know of the training before.
    user_ids, item_ids : ndarray or None
        One label per row or column, unique: strings (dtype object, all str), int64, or other
        hashable Python objects (dtype object, refused by model files). None: rows are the ids.
    frame : str or None
        ``"pandas"``, ``"polars"`` or ``"pyarrow"`` if the ratings came as a wide frame.
    """

    parameters: dict[str, Any]
    factors: Factors
    seen: SeenItems
    history: dict[str, list[float]]
    seed: int
    n_epochs_trained: int
    uncertainty: Uncertainty | None = None
    training: TrainingState = field(default_factory=lambda: TrainingState())
    user_ids: Ids | None = None
    item_ids: Ids | None = None
    frame: FrameKind | None = None
