"""Searches for good parameters and numbers of epochs."""

from __future__ import annotations

import inspect
import itertools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np

from cmf._parameters import check_int
from cmf._random import draw_seed
from cmf._typing import RandomState, RatingsLike
from cmf.exceptions import DivergenceError, NotFittedError
from cmf.model_selection._folds import Clip, Metric, clone, make_folds
from cmf.model_selection._halving import Candidate, Params, Plan, run_rungs, tabulate

__all__ = ["GridSearch", "RandomSearch"]


@dataclass(eq=False, kw_only=True)
class _Search(ABC):
    """What searches share: all but where candidates come from."""

    estimator: Any
    metric: str | Metric = "rmse"
    cv: Any = 0.1
    clip: Clip = None
    max_epochs: int | None = None
    min_epochs: int | None = None
    factor: int | None = 2
    patience: int | None = 5
    n_jobs: int | None = None
    refit: bool = True
    random_state: RandomState = None
    verbose: int = 0

    def get_params(self, deep: bool = True) -> Params:
        """Return the constructor parameters.

        Parameters
        ----------
        deep : bool, default True
            Without effect: the parameters of `estimator` are asked of `estimator`.

        Returns
        -------
        dict
            Parameter names and values.
        """
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **parameters: Any) -> Self:
        """Set constructor parameters; what has been found stays until the next `fit`.

        Parameters
        ----------
        **parameters
            Names and values. Values are checked by the next `fit`.

        Returns
        -------
        GridSearch or RandomSearch
            Itself.

        Raises
        ------
        ValueError
            If a name is not a parameter; nothing is set then.
        """
        valid = sorted(self.get_params())
        for name in parameters:
            if name not in valid:
                raise ValueError(f"Invalid parameter {name!r}. Valid parameters are: {valid}.")
        for name, value in parameters.items():
            setattr(self, name, value)
        return self

    def fit(self, ratings: RatingsLike) -> Self:
        """Find the best parameters and train an estimator with them on all ratings.

        Parameters
        ----------
        ratings : sparse array or matrix, array_like or wide data frame, of shape (n_users, n_items)
            As for `MatrixFactorization.fit`, without the ratings of a test set. With a data frame,
            `best_estimator_` knows its labels.

        Returns
        -------
        GridSearch or RandomSearch
            Itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter or the ratings are not what they must be.
        DivergenceError
            If every candidate diverged, or the best one when trained on all ratings.
        """
        plan = Plan.check(self)
        seed = draw_seed(self.random_state)
        folds = list(make_folds(self.cv, ratings, clip=plan.clip, random_state=_generator(seed, 1)))
        if not folds:
            raise ValueError("cv gives no splits")
        base = clone(self.estimator)
        if base.get_params().get("random_state", 0) is None:
            # One start for all, so that chance is not what makes the difference.
            base.set_params(random_state=int(_generator(seed, 2).integers(2**63)))
        drawn = list(self._draw(_generator(seed, 0)))
        if not drawn:
            raise ValueError("there is no candidate: a list of values is empty")
        candidates = [Candidate.of(base, params, folds, plan) for params in drawn]
        run_rungs(candidates, plan, len(folds))
        self._record(candidates, len(folds), plan)
        for name in ("best_estimator_", "refit_time_"):  # of another fit
            vars(self).pop(name, None)
        if plan.refit:
            started = time.perf_counter()
            self.best_estimator_: Any = clone(base).set_params(**self.best_params_).fit(ratings)
            self.refit_time_ = time.perf_counter() - started
        return self

    def predict(self, users: Any, items: Any) -> Any:
        """Predict with `best_estimator_`.

        Parameters
        ----------
        users, items : id or sequence of ids
            As for `MatrixFactorization.predict`.

        Returns
        -------
        ndarray or float
            Predicted ratings.

        Raises
        ------
        NotFittedError
            Before `fit`, or with ``refit=False``.
        """
        if "best_estimator_" not in vars(self):
            raise NotFittedError(
                f"This {type(self).__name__} has no best_estimator_ yet. Call 'fit' with ratings, "
                "with refit=True, before using this."
            )
        return self.best_estimator_.predict(users, items)

    @abstractmethod
    def _draw(self, generator: np.random.Generator) -> Iterable[Params]:
        """Give the candidates to try."""

    def _record(self, candidates: list[Candidate], n_splits: int, plan: Plan) -> None:
        """Set what has been found."""
        best = min(candidates, key=Candidate.rank_key)
        if math.isnan(best.score):
            raise DivergenceError(
                f"training diverged in the first epoch of each of {len(candidates)} candidates: "
                "search lower learning rates"
            )
        self.n_splits_ = n_splits
        self.rungs_ = list(plan.rungs(len(candidates)))
        self.cv_results_ = tabulate(candidates)
        self.curves_ = [candidate.curve for candidate in candidates]
        self.best_index_ = candidates.index(best)
        self.best_score_ = best.score
        self.best_epoch_ = best.best_epoch
        self.best_params_ = {**best.params, "n_epochs": best.best_epoch}


@dataclass(eq=False)
class GridSearch(_Search):  # numpydoc ignore=PR02
    """Try every combination of some parameters, and the number of epochs with each.

    Every candidate is trained on one part of the ratings and measured on the held-out rest after
    each epoch. After a quarter of `max_epochs` the better half goes on from where it stands, after
    a half the better half of these [1]_: most of the time goes into good candidates. The winner is
    trained once more, on all ratings, for the number of epochs with the lowest held-out error, or
    at most as many if it stops early by itself.

    Parameters
    ----------
    estimator : MatrixFactorization or alike
        What to find parameters for; those that are not searched keep their values. It stays as it
        is. Wanted are ``fit(ratings)``, ``partial_fit(ratings, epochs=, validation=, callbacks=)``,
        ``predict(users, items)``, ``get_params`` and ``set_params`` with a parameter `n_epochs`. If
        its `random_state` is None, all candidates get the same seed.
    param_grid : dict of str to sequence, or sequence of such dicts
        The values to try for each parameter, in all combinations; several dicts are tried one
        after the other. ``{}`` searches the number of epochs alone.
    metric : {"rmse", "mae"} or callable, default "rmse"
        What to minimize; a callable ``f(y_true, y_pred)`` returns a number, lower is better.
    cv : int, float, splitter or iterable of (train, test), default 0.1
        What to hold out, as for `cross_validate`: a float is one split with that share held out,
        an int is a number of folds. Drawn from `random_state`. Several folds cost as many times as
        much, and pay for a few thousand ratings or less.
    clip : None, "auto" or (low, high), default None
        As for `cross_validate`.
    max_epochs : int, optional
        Most epochs of any candidate. None: `n_epochs` of the estimator, or 100 if that is None.
    min_epochs : int, optional
        Least epochs before a candidate is dropped. None: ``max_epochs // factor**2``. More is safer
        where learning rates differ much (low ones are slow at first), less is quicker.
    factor : int or None, default 2
        One of so many candidates goes on, to so many times the epochs. None: all go on.
    patience : int or None, default 5
        After so many epochs without a lower error, on any fold, a candidate is not trained any
        further; it can still win. None: all go on.
    n_jobs : int, optional
        How many candidates and folds at once, on threads, as for `cross_validate`.
    refit : bool, default True
        Whether to train the winner on all ratings.
    random_state : None, int, SeedSequence, BitGenerator, Generator or RandomState, optional
        Where splits, candidates and the seed of estimators without one come from. An int gives the
        same result at each call, whatever `n_jobs`.
    verbose : int, default 0
        1 prints a line each time candidates are dropped, 2 shows a progress bar on standard error.

    Attributes
    ----------
    best_estimator_ : estimator
        Trained on all ratings with `best_params_`; only with ``refit=True``.
    best_params_ : dict
        The best combination, and with it ``n_epochs``, which is `best_epoch_`.
    best_epoch_ : int
        The epoch with the lowest mean error of the best combination.
    best_score_ : float
        That error: the mean over the splits of the metric itself, lower is better.
    best_index_ : int
        Place of the best combination in `cv_results_`.
    cv_results_ : dict of str to ndarray or list
        An entry per candidate: ``params``, ``param_<name>``, ``split<i>_test_score``,
        ``mean_test_score``, ``std_test_score``, ``rank_test_score``, ``best_epoch``,
        ``n_epochs`` (trained before it was dropped) and ``mean_fit_time``. Scores are those of
        the candidate's best epoch. NaN: it diverged in its first epoch.
    curves_ : list of ndarray
        For each candidate the mean error after each epoch.
    rungs_ : list of (int, int)
        How many candidates were trained up to which epoch.
    n_splits_ : int
        Number of splits.
    refit_time_ : float
        Seconds that the last training took.

    See Also
    --------
    RandomSearch : Draws candidates; better for more than two or three parameters.
    sklearn.model_selection.GridSearchCV : Holds out rows, that is, users.

    Notes
    -----
    Of 30 learning rates and regularizations for MovieLens 100K and up to 80 epochs, patience saves
    two thirds of the epochs, and dropping with the default `factor` and `min_epochs` a quarter of
    the rest; the winner's RMSE is higher by .0004 on average than without dropping (eight seeds).
    With ``factor=3`` and ``min_epochs=8`` it is 60 % of the rest, and .0083.

    With "rmse" or "mae" and without `clip`, epochs are measured during training; otherwise
    training stops after every epoch to predict, which takes two to three times as long.

    Early stopping of a `MatrixFactorization` leaves the candidates to `patience`; what it finds out
    about their noise from the held-out part still chooses their regularization, where that is not
    given. The winner stops early by itself, after at most `best_epoch_` epochs. Another estimator
    that ends its training by itself, given the held-out part as validation ratings, is not trained
    any further.

    Scores have the name that scikit-learn gives them, "test", but the held-out ratings take part
    in the choice: what the choice is worth is to be measured on ratings that `fit` has not seen.
    ``cross_validate(search, ratings)`` does that fold by fold. Candidates that diverge are dropped.
    Memory: a copy of the ratings for each split, and a trained model for each split and candidate
    that is still trained. The object is safe for one thread at a time.

    References
    ----------
    .. [1] K. Jamieson, A. Talwalkar, "Non-stochastic best arm identification and hyperparameter
       optimization", AISTATS 2016.

    Examples
    --------
    >>> import cmf
    >>> from cmf.model_selection import GridSearch, cross_validate
    >>> ratings = cmf.datasets.make_ratings(200, 100, 4000, random_state=0).ratings
    >>> grid = {"n_factors": [2, 4], "regularization": [0.1, 100.0]}
    >>> search = GridSearch(cmf.MatrixFactorization(), grid, max_epochs=20, random_state=0)
    >>> search.fit(ratings).best_params_["regularization"]
    0.1
    >>> ids, scores = search.best_estimator_.recommend(0, n=3)

    The error of models that are found like this, with all choices made without the test ratings:

    >>> cross_validate(search, ratings, cv=3)["test_rmse"].shape
    (3,)
    """

    estimator: Any
    param_grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Sequence[Any]]]
    _: KW_ONLY

    def _draw(self, generator: np.random.Generator) -> Iterator[Params]:
        """Yield all combinations, grid by grid."""
        grids = [self.param_grid] if isinstance(self.param_grid, Mapping) else self.param_grid
        for grid in grids:
            lists = _check_lists(grid, "param_grid")
            for values in itertools.product(*lists.values()):
                yield dict(zip(lists, values, strict=True))


@dataclass(eq=False)
class RandomSearch(_Search):  # numpydoc ignore=PR02
    """Try some parameters at random, and the number of epochs with each.

    Candidates are dropped early and the winner is trained on all ratings as by `GridSearch`.

    Parameters
    ----------
    estimator : MatrixFactorization or alike
        As for `GridSearch`, and so are all parameters that are not named here.
    param_distributions : dict of str to distribution or sequence
        For each parameter a distribution of `scipy.stats` or anything else with a method
        ``rvs(random_state=)``, or a list to choose from. Of lists alone, no combination is tried
        twice.
    n_iter : int, default 30
        How many candidates to draw; of lists alone, at most all combinations.
    metric, cv, clip, max_epochs, min_epochs, factor, patience, n_jobs, refit : optional
        As for `GridSearch`.
    random_state, verbose : optional
        As for `GridSearch`.

    Attributes
    ----------
    best_estimator_, best_params_, best_epoch_, best_score_, best_index_
        As of `GridSearch`, and so are the others.
    cv_results_, curves_, rungs_, n_splits_, refit_time_
        As of `GridSearch`.

    See Also
    --------
    GridSearch : Tries all combinations of lists.

    Notes
    -----
    As for `GridSearch`. Learning rates and regularization are best drawn from
    `scipy.stats.loguniform`.

    Examples
    --------
    >>> import cmf
    >>> from scipy.stats import loguniform
    >>> from cmf.model_selection import RandomSearch
    >>> ratings = cmf.datasets.make_ratings(200, 100, 4000, random_state=0).ratings
    >>> chances = {"learning_rate": loguniform(1e-3, 1e-1), "n_factors": [2, 4, 8]}
    >>> model = cmf.MatrixFactorization()
    >>> search = RandomSearch(model, chances, n_iter=8, max_epochs=20, random_state=0).fit(ratings)
    >>> search.rungs_  # eight candidates for 5 epochs, the best four of them to 10, two to 20
    [(8, 5), (4, 10), (2, 20)]
    >>> len(search.cv_results_["mean_test_score"])
    8
    """

    estimator: Any
    param_distributions: Mapping[str, Any]
    n_iter: int = 30
    _: KW_ONLY

    def _draw(self, generator: np.random.Generator) -> Iterator[Params]:
        """Yield random candidates."""
        n_iter = check_int(self.n_iter, "n_iter", minimum=1)
        given = self.param_distributions
        if not isinstance(given, Mapping):
            raise TypeError(f"param_distributions must be a dict, got {type(given).__name__}")
        lists = _check_lists(
            {name: values for name, values in given.items() if not hasattr(values, "rvs")},
            "param_distributions",
        )
        if len(lists) == len(given):
            lengths = [len(values) for values in lists.values()]
            for places in _distinct_places(lengths, n_iter, generator):
                yield {
                    name: values[place]
                    for (name, values), place in zip(lists.items(), places, strict=True)
                }
            return
        for _ in range(n_iter):
            yield {
                name: lists[name][int(generator.integers(len(lists[name])))]
                if name in lists
                else _plain(values.rvs(random_state=generator))
                for name, values in given.items()
            }


# --- values to choose from ------------------------------------------------------------------------


def _distinct_places(
    lengths: list[int], n_wanted: int, generator: np.random.Generator
) -> Iterable[tuple[int, ...]]:
    """Draw places in lists, no combination twice; fewer than wanted if there are no more."""
    total = math.prod(lengths)
    if total <= np.iinfo(np.int64).max:
        numbers = generator.choice(total, min(n_wanted, total), replace=False)
        if not lengths:
            return [()]
        return zip(*(places.tolist() for places in np.unravel_index(numbers, lengths)), strict=True)
    found: dict[tuple[int, ...], None] = {}  # a set that keeps the order
    while len(found) < n_wanted:
        found[tuple(int(generator.integers(length)) for length in lengths)] = None
    return found


def _check_lists(grid: Any, name: str) -> dict[str, list[Any]]:
    """Return the values to choose from, as lists."""
    if not isinstance(grid, Mapping):
        raise TypeError(f"{name} must be a dict, got {type(grid).__name__}")
    for parameter, values in grid.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise TypeError(f"{name}[{parameter!r}] must be a list of values, got {values!r}")
    lists = {parameter: [_plain(value) for value in values] for parameter, values in grid.items()}
    for parameter, values in lists.items():
        if not values:
            raise ValueError(f"{name}[{parameter!r}] holds no values")
    return lists


def _plain(value: Any) -> Any:
    """Return NumPy's numbers as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _generator(seed: int, key: int) -> np.random.Generator:
    """Return the random numbers that a search uses for one purpose."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(key,)))
