"""cmfrec's CMF: alternating least squares with conjugate gradients, on its own terms.

An iteration solves for all users and then for all items; it is another thing than an epoch of SGD.
What can be compared is the whole fit and the error after it.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

from benchmarks._problem import Problem

INSTALL = "pip install cmfrec threadpoolctl"


def present() -> bool:
    """Tell whether cmfrec is installed, with what it imports and does not ask pip for."""
    return find_spec("cmfrec") is not None and find_spec("threadpoolctl") is not None


class Trainer:
    """Settings are the parameters of `cmfrec.CMF`."""

    def __init__(self, problem: Problem) -> None:
        """Make the matrix of triplets that CMF takes without converting."""
        self.ratings = problem.train.tocoo()

    def fit(self, n_epochs: int, settings: dict[str, Any]) -> float:
        """Train from triplets, without what only predictions for new users need."""
        from cmfrec import CMF
        from scipy.sparse import coo_matrix

        ratings = coo_matrix(self.ratings)
        own = {"niter": n_epochs, "precompute_for_predictions": False, "verbose": False}
        self.model = CMF(**{**own, **settings})
        started = time.perf_counter()
        self.model.fit(ratings)
        return time.perf_counter() - started

    def predict(self, users: Any, items: Any) -> Any:
        """Return the predictions of CMF."""
        return self.model.predict(users, items)
