"""cmf itself: a whole `fit` from a CSR matrix, with its checks and all that it reports."""

from __future__ import annotations

import time
from typing import Any

import cmf
from benchmarks._problem import Problem

INSTALL = "pip install ."


def present() -> bool:
    """Tell that cmf is there."""
    return True


class Trainer:
    """Settings are the parameters of `cmf.MatrixFactorization`."""

    def __init__(self, problem: Problem) -> None:
        """Keep the matrix as it is."""
        self.train = problem.train

    def fit(self, n_epochs: int, settings: dict[str, Any]) -> float:
        """Train from the CSR matrix."""
        self.model = cmf.MatrixFactorization(**{"random_state": 0, **settings})
        started = time.perf_counter()
        self.model.fit(self.train, epochs=n_epochs)
        return time.perf_counter() - started

    def predict(self, users: Any, items: Any) -> Any:
        """Return the predictions of the model."""
        return self.model.predict(users, items)
