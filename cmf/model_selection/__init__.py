"""Splits of ratings, cross-validation over them, and searches for good parameters.

What is split are the ratings, that is, the stored entries of the matrix, and not its rows: every
part has the shape of the whole, so that a model trained on one part can predict the other.
`sklearn.model_selection.GridSearchCV` works with `cmf.MatrixFactorization` too, but cuts *rows*: it
holds out whole users and asks ``score`` how well their ratings are predicted after `fold_in`. For
"how well are missing ratings of known users predicted" take the functions and classes of this
module, which need no scikit-learn.

A test set answers one question once. What is chosen with the help of ratings, a number of epochs
included, must be chosen without those of the test set: `GridSearch` and `RandomSearch` hold out a
part of the ratings that they are given for that, train the winner on all of these, and are
estimators themselves, so that `cross_validate` can repeat the whole choice in every fold.

>>> import cmf
>>> from cmf.model_selection import GridSearch, train_test_split
>>> ratings = cmf.datasets.make_ratings(200, 100, 4000, random_state=0).ratings
>>> train, test = train_test_split(ratings, test_size=0.1, random_state=0)
>>> model = cmf.MatrixFactorization(n_factors=4, random_state=0)
>>> search = GridSearch(model, {"regularization": [0.1, 1.0]}, random_state=0).fit(train)
>>> sorted(search.best_params_)
['n_epochs', 'regularization']
>>> error = search.best_estimator_.loss(test).rmse
"""

from cmf.model_selection.search import GridSearch, RandomSearch
from cmf.model_selection.splits import KFold, split_by_time, split_by_user, train_test_split
from cmf.model_selection.validation import cross_validate

__all__ = [
    "GridSearch",
    "KFold",
    "RandomSearch",
    "cross_validate",
    "split_by_time",
    "split_by_user",
    "train_test_split",
]
