"""A set of ratings cut into training and test, and its way to another process: through a folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

ARRAYS = ("data", "indices", "indptr")
MATRICES = ("train", "test")


@dataclass(frozen=True)
class Problem:
    """Ratings to train on, ratings to measure on, and what there is to know about them."""

    name: str
    train: csr_array
    test: csr_array
    low: float = -np.inf  # predictions are clipped to the rating scale, where there is one
    high: float = np.inf
    best_rmse: float | None = None  # of generated ratings: the standard deviation of the noise

    def rmse(self, predicted: Any) -> float:
        """Return the RMSE of predictions of the test ratings, in stored order, once clipped."""
        errors = np.clip(np.asarray(predicted, dtype=np.float64), self.low, self.high)
        errors -= self.test.data
        return float(np.sqrt(np.mean(errors**2)))

    def model_rmse(self, model: Any) -> float:
        """Return the clipped RMSE on the test ratings of anything with `predict(users, items)`."""
        return self.rmse(model.predict(*self.test_pairs()))

    def test_pairs(self) -> tuple[Any, Any]:
        """Return rows and columns of the test ratings, in stored order."""
        rows, columns = self.test.tocoo().coords
        return rows, columns

    def describe(self) -> str:
        """Return one line for the head of a table."""
        n_users, n_items = self.train.shape
        floor = "" if self.best_rmse is None else f", noise {self.best_rmse:g}"
        return (
            f"{self.name}: {n_users:,} users x {n_items:,} items, {self.train.nnz:,} ratings to "
            f"train on, {self.test.nnz:,} to test on{floor}"
        )

    def save(self, folder: Path) -> None:
        """Write everything to an empty folder."""
        facts = {name: value for name, value in vars(self).items() if name not in MATRICES}
        (folder / "facts.json").write_text(json.dumps({**facts, "shape": self.train.shape}))
        for matrix in MATRICES:
            for array in ARRAYS:
                np.save(folder / f"{matrix}-{array}.npy", getattr(getattr(self, matrix), array))

    @classmethod
    def load(cls, folder: Path) -> Problem:
        """Read what `save` has written."""
        facts = json.loads((folder / "facts.json").read_text())
        shape = tuple(facts.pop("shape"))
        train, test = (
            csr_array(
                tuple(np.load(folder / f"{matrix}-{array}.npy") for array in ARRAYS), shape=shape
            )
            for matrix in MATRICES
        )
        return cls(train=train, test=test, **facts)
