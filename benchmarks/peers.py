"""Surprise's SVD on the same ratings, where it is installed: ``pip install 'cmf-recsys[bench]'``.

SVD is the same model as `cmf.MatrixFactorization` with biases. Its steps are γ (e q - λ p), so that
our learning rate is γ / 2 and our regularization 2 λ; its item step sees the user's old factors,
ours the new ones. It trains in float64 and visits ratings user by user, in the order in which its
`Trainset` holds them, as we do with ``shuffle=False``.
"""

from __future__ import annotations

from collections import defaultdict
from importlib.util import find_spec
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from benchmarks.problems import Problem

# Surprise's defaults (n_factors 100, n_epochs 20, lr_all 0.005, reg_all 0.02) in our form.
SURPRISE_DEFAULTS = {
    "n_factors": 100,
    "n_epochs": 20,
    "learning_rate": 0.0025,
    "regularization": 0.04,
}


def has_surprise() -> bool:
    """Tell whether Surprise can be compared with, and how to get it if not."""
    if find_spec("surprise") is not None:
        return True
    print("Surprise is not installed (pip install 'cmf-recsys[bench]'): cmf runs alone.\n")
    return False


def trainset(ratings: csr_array) -> Any:
    """Return the ratings as Surprise's training set, in the same order and with the same rows."""
    from surprise.trainset import Trainset

    by_user, by_item = defaultdict(list), defaultdict(list)
    for user in range(ratings.shape[0]):
        row = slice(ratings.indptr[user], ratings.indptr[user + 1])
        for item, value in zip(
            ratings.indices[row].tolist(), ratings.data[row].tolist(), strict=True
        ):
            by_user[user].append((item, value))
            by_item[item].append((user, value))
    n_users, n_items = ratings.shape
    scale = (float(ratings.data.min()), float(ratings.data.max()))
    return Trainset(by_user, by_item, n_users, n_items, ratings.nnz, scale, {}, {})


def svd(n_factors: int, n_epochs: int) -> Any:
    """Return an untrained SVD with its own learning rate and regularization."""
    from surprise import SVD

    return SVD(n_factors=n_factors, n_epochs=n_epochs, random_state=0)


def svd_rmse(problem: Problem, fitted: Any) -> float:
    """Return the clipped RMSE of a fitted SVD on the test ratings."""
    users, items = problem.test_pairs()
    products = np.einsum("nf,nf->n", fitted.pu[users], fitted.qi[items])
    return problem.rmse(
        fitted.trainset.global_mean + fitted.bu[users] + fitted.bi[items] + products
    )
