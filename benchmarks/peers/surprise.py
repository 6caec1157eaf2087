"""Surprise's SVD: the same model as `cmf.MatrixFactorization` with biases.

Its steps are γ (e q - λ p), so that our learning rate is γ / 2 and our regularization 2 λ; its item
step sees the user's old factors, ours the new ones. It trains in float64 and visits ratings user by
user, in the order in which its `Trainset` holds them, as we do with ``shuffle=False``.
"""

from __future__ import annotations

import time
from collections import defaultdict
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks._problem import Problem

INSTALL = "pip install scikit-surprise"

# Surprise's defaults (n_factors 100, n_epochs 20, lr_all 0.005, reg_all 0.02) in our form.
DEFAULTS = {"n_factors": 100, "learning_rate": 0.0025, "regularization": 0.04}


def present() -> bool:
    """Tell whether Surprise is installed."""
    return find_spec("surprise") is not None


class Trainer:
    """Settings are the parameters of `surprise.SVD`."""

    def __init__(self, problem: Problem) -> None:
        """Make a `Trainset` with the same rows in the same order."""
        from surprise.trainset import Trainset

        ratings = problem.train
        by_user, by_item = defaultdict(list), defaultdict(list)
        for user in range(ratings.shape[0]):
            row = slice(ratings.indptr[user], ratings.indptr[user + 1])
            items, values = ratings.indices[row].tolist(), ratings.data[row].tolist()
            for item, value in zip(items, values, strict=True):
                by_user[user].append((item, value))
                by_item[item].append((user, value))
        scale = (float(ratings.data.min()), float(ratings.data.max()))
        self.trainset = Trainset(by_user, by_item, *ratings.shape, ratings.nnz, scale, {}, {})

    def fit(self, n_epochs: int, settings: dict[str, Any]) -> float:
        """Train from the ready `Trainset`."""
        from surprise import SVD

        self.model = SVD(**{"random_state": 0, "n_epochs": n_epochs, **settings})
        started = time.perf_counter()
        self.model.fit(self.trainset)
        return time.perf_counter() - started

    def predict(self, users: Any, items: Any) -> Any:
        """Return what SVD's factors and biases predict, without its calls one by one."""
        svd = self.model
        products = np.einsum("nf,nf->n", svd.pu[users], svd.qi[items])
        return self.trainset.global_mean + svd.bu[users] + svd.bi[items] + products
