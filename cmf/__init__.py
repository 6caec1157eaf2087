"""Matrix factorization for explicit ratings by stochastic gradient descent.

>>> import cmf
>>> ratings = cmf.datasets.make_ratings(200, 100, 4000, random_state=0).ratings
>>> model = cmf.MatrixFactorization(n_factors=8, random_state=0).fit(ratings)
>>> ids, scores = model.recommend(users=0, n=5)
>>> len(ids)
5
"""

from cmf import datasets, metrics, model_selection, plotting
from cmf._version import __version__
from cmf.config import show_config
from cmf.exceptions import DatasetNotFoundError, DivergenceError, ModelFileError, NotFittedError
from cmf.fold_in import NewUsers
from cmf.losses import Loss, loss
from cmf.model import MatrixFactorization
from cmf.training import EpochReport, sgd_epoch

__all__ = [
    "DatasetNotFoundError",
    "DivergenceError",
    "EpochReport",
    "Loss",
    "MatrixFactorization",
    "ModelFileError",
    "NewUsers",
    "NotFittedError",
    "__version__",
    "datasets",
    "loss",
    "metrics",
    "model_selection",
    "plotting",
    "sgd_epoch",
    "show_config",
]
