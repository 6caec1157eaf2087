"""cornac's MF on its CPU backend: biased SGD in stored order, several threads without any locks.

Its steps are γ (e q - λ p). With more than one thread two runs differ; with a seed it insists on
one thread, so that none is given and the start differs from run to run.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks._problem import Problem

INSTALL = "pip install cornac"


def present() -> bool:
    """Tell whether cornac is installed."""
    return find_spec("cornac") is not None


class Trainer:
    """Settings are the parameters of `cornac.models.MF`."""

    def __init__(self, problem: Problem) -> None:
        """Make a `Dataset` whose user and item numbers are our rows."""
        from cornac.data import Dataset

        n_users, n_items = problem.train.shape
        users, items = problem.train.tocoo().coords
        self.dataset = Dataset(
            n_users,
            n_items,
            dict(zip(range(n_users), range(n_users), strict=True)),
            dict(zip(range(n_items), range(n_items), strict=True)),
            (users.astype(np.int64), items.astype(np.int64), problem.train.data),
        )

    def fit(self, n_epochs: int, settings: dict[str, Any]) -> float:
        """Train from the ready `Dataset`."""
        from cornac.models import MF

        self.model = MF(**{"backend": "cpu", "max_iter": n_epochs, **settings})
        started = time.perf_counter()
        self.model.fit(self.dataset)
        return time.perf_counter() - started

    def predict(self, users: Any, items: Any) -> Any:
        """Return what the factors and biases of MF predict."""
        model = self.model
        products = np.einsum("nf,nf->n", model.u_factors[users], model.i_factors[items])
        return model.global_mean + model.u_biases[users] + model.i_biases[items] + products
