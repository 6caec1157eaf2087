"""cmf itself: a whole `fit` from a CSR matrix, with its checks and all that it reports."""

from __future__ import annotations

import time
from typing import Any

import cmf
from benchmarks._problem import Problem

INSTALL = "pip install ."

# The plain rule as it does well in some twenty epochs on MovieLens 1M: a constant rate that decays,
# a small start. Exactly as many epochs as asked for, which the defaults of cmf choose themselves.
PLAIN: dict[str, Any] = {
    "learning_rate": 0.01,
    "regularization": 0.1,
    "learning_rate_decay": 0.93,
    "init_scale": 0.03,
}
# The defaults' rates and regularization, for exactly as many epochs as asked for.
ADAPTIVE: dict[str, Any] = {"early_stopping": False}


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
