"""Successive halving: many candidates for a few epochs, the best of them for more."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cmf._parameters import check_bool, check_int
from cmf.exceptions import DivergenceError
from cmf.model_selection._folds import (
    Clip,
    Fold,
    Metric,
    check_clip,
    check_estimator,
    check_metrics,
    clone,
)
from cmf.model_selection._jobs import Progress, check_jobs, run_all, set_fit_threads

__all__ = ["Candidate", "Params", "Plan", "run_rungs", "tabulate"]

MOST_EPOCHS = 100  # where neither the search nor the estimator names a number

Params: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """Checked parameters of a search."""

    metric: Metric
    column: str | None  # of the report of an epoch that holds the metric
    clip: Clip
    max_epochs: int
    min_epochs: int
    factor: int | None
    patience: int | None
    jobs: int
    refit: bool
    verbose: int

    @classmethod
    def check(cls, search: Any) -> Plan:
        """Check what can be checked without ratings."""
        check_estimator(search.estimator, ("fit", "partial_fit", "predict"))
        known = search.estimator.get_params()
        if "n_epochs" not in known:
            raise TypeError(f"estimator must have a parameter n_epochs, got {search.estimator!r}")
        named = {"metric": search.metric} if callable(search.metric) else search.metric
        if not isinstance(named, dict | str):
            raise TypeError(f"metric must be 'rmse', 'mae' or a function, got {search.metric!r}")
        ((name, metric),) = check_metrics(named).items()
        clip = check_clip(search.clip)
        n_epochs = known["n_epochs"] if search.max_epochs is None else search.max_epochs
        max_epochs = check_int(
            MOST_EPOCHS if n_epochs is None else n_epochs, "max_epochs", minimum=1
        )
        factor = _check_optional(search.factor, "factor", minimum=2)
        min_epochs = _check_optional(search.min_epochs, "min_epochs", maximum=max_epochs)
        if min_epochs is None:
            min_epochs = max_epochs if factor is None else max(1, max_epochs // factor**2)
        return cls(
            metric=metric,
            column=f"validation_{name}" if clip is None and isinstance(named, str) else None,
            clip=clip,
            max_epochs=max_epochs,
            min_epochs=min_epochs,
            factor=factor,
            patience=_check_optional(search.patience, "patience"),
            jobs=check_jobs(search.n_jobs),
            refit=check_bool(search.refit, "refit"),
            verbose=check_int(search.verbose, "verbose", minimum=0, maximum=2),
        )

    def rungs(self, n_candidates: int) -> list[tuple[int, int]]:
        """Return how many candidates are trained up to which epoch."""
        counts, epochs = [n_candidates], [self.max_epochs]
        if self.factor is not None:
            while counts[-1] > 1 and epochs[0] // self.factor >= self.min_epochs:
                counts.append(math.ceil(counts[-1] / self.factor))
                epochs.insert(0, epochs[0] // self.factor)
        return list(zip(counts, epochs, strict=True))


def _check_optional(
    value: int | None, name: str, *, minimum: int = 1, maximum: int | None = None
) -> int | None:
    """Return a checked integer, or None for None."""
    return None if value is None else check_int(value, name, minimum=minimum, maximum=maximum)


class _Run:
    """A candidate on one fold: a model in training and its error after each epoch."""

    def __init__(self, model: Any, fold: Fold, plan: Plan) -> None:
        self.model = model
        self.fold = fold
        self.plan = plan
        self.errors: list[float] = []
        self.due = 0
        self.is_over = False
        self.fit_time = 0.0

    def train(self, epoch: int, progress: Progress) -> None:
        """Go on up to an epoch, or as far as it makes sense."""
        missing = epoch - self.due
        self.due = epoch
        begun = len(self.errors)
        started = time.perf_counter()
        if not self.is_over:
            try:
                if self.plan.column is None:
                    self._train_in_steps(missing, progress)
                else:
                    self._train_at_once(missing, progress)
            except DivergenceError:
                self.is_over = True
            # Also where the estimator has ended training by itself.
            self.is_over |= len(self.errors) < epoch
        self.fit_time += time.perf_counter() - started
        if self.is_over:
            self.model = None
            progress.advance(missing - (len(self.errors) - begun))

    def _train_at_once(self, n_epochs: int, progress: Progress) -> None:
        """Train on and read the error of every epoch from its report."""

        def after_epoch(report: Any) -> bool:
            return self._note(getattr(report, str(self.plan.column)), progress)

        self.model.partial_fit(
            self.fold.train, epochs=n_epochs, validation=self.fold.test, callbacks=after_epoch
        )

    def _train_in_steps(self, n_epochs: int, progress: Progress) -> None:
        """Train on, one epoch at a time, and predict after each."""
        for _ in range(n_epochs):
            self.model.partial_fit(self.fold.train, epochs=1, validation=self.fold.test)
            (error,) = self.fold.errors(self.model, [self.plan.metric])
            if self._note(error, progress):
                break

    def _note(self, error: float, progress: Progress) -> bool:
        """Keep an error and tell whether to stop."""
        if math.isnan(error):
            self.is_over = True
            return True
        self.errors.append(error)
        progress.advance(1)
        if self.plan.patience is not None:
            since_best = len(self.errors) - 1 - int(np.argmin(self.errors))
            self.is_over = since_best >= self.plan.patience
        return self.is_over


class Candidate:
    """Some parameters, and how they do."""

    def __init__(self, params: Params, runs: list[_Run]) -> None:
        self.params = params
        self.runs = runs

    @classmethod
    def of(cls, base: Any, params: Params, folds: list[Fold], plan: Plan) -> Candidate:
        """Make a model for each fold; unknown parameters are refused here."""
        if "n_epochs" in params:
            raise ValueError(
                "n_epochs is found by the search itself and must not be among the parameters: "
                "set max_epochs"
            )
        runs = []
        for fold in folds:
            model = clone(base).set_params(**params)
            if model.get_params().get("posterior_samples"):
                raise ValueError(
                    "a search counts epochs of gradient descent, and posterior_samples above 0 "
                    "takes none: compare such models with cross_validate"
                )
            set_fit_threads(model, plan.jobs)
            if hasattr(model, "_search_watches"):  # only we know how long training goes on
                model._search_watches = True
            runs.append(_Run(model, fold, plan))
        return cls(params, runs)

    def tasks(self, epoch: int, progress: Progress) -> list[partial[None]]:
        """Return what is left to do up to an epoch; folds end together, as their mean does."""
        is_over = any(run.is_over for run in self.runs)
        for run in self.runs:
            run.is_over = is_over
        return [partial(run.train, epoch, progress) for run in self.runs]

    def drop(self) -> None:
        """Free the memory of the models."""
        for run in self.runs:
            run.model = None

    @property
    def errors(self) -> NDArray[np.float64]:
        """Errors of every fold after each epoch that all have finished."""
        n_epochs = min(len(run.errors) for run in self.runs)
        return np.array([run.errors[:n_epochs] for run in self.runs])

    @property
    def curve(self) -> NDArray[np.float64]:
        """Mean error after each epoch."""
        curve: NDArray[np.float64] = self.errors.mean(axis=0)
        return curve

    @property
    def best_epoch(self) -> int:
        """The epoch with the lowest mean error; 0 if there is none."""
        curve = self.curve
        return int(np.argmin(curve)) + 1 if len(curve) else 0

    @property
    def scores(self) -> NDArray[np.float64]:
        """Error of every fold after the best epoch."""
        best = self.best_epoch
        scores: NDArray[np.float64] = np.full(len(self.runs), math.nan)
        if best > 0:
            scores[:] = self.errors[:, best - 1]
        return scores

    @property
    def score(self) -> float:
        """Mean error after the best epoch."""
        return float(self.scores.mean())

    def rank_key(self) -> tuple[bool, float]:
        """Key that sorts the best first."""
        return math.isnan(self.score), self.score


def run_rungs(candidates: list[Candidate], plan: Plan, n_folds: int) -> None:
    """Train candidates up the rungs, fewer on each."""
    rungs = plan.rungs(len(candidates))
    starts = [0, *(epoch for _, epoch in rungs)]
    total = sum(n * (end - start) for (n, end), start in zip(rungs, starts, strict=False)) * n_folds
    with Progress(plan.verbose, "epoch", total) as progress:
        for place, (n_left, epoch) in enumerate(rungs, start=1):
            ranked = sorted(candidates, key=Candidate.rank_key) if place > 1 else candidates
            for candidate in ranked[n_left:]:
                candidate.drop()
            tasks = (
                task for candidate in ranked[:n_left] for task in candidate.tasks(epoch, progress)
            )
            for _ in run_all(tasks, plan.jobs):
                pass
            best = min(candidates, key=Candidate.rank_key)
            text = f"best {best.score:.4f} with {best.params} at epoch {best.best_epoch}"
            progress.advance(0, f"best {best.score:.4f}")
            progress.say(f"Rung {place}/{len(rungs)}: {n_left} to epoch {epoch}, {text}")


def tabulate(candidates: list[Candidate]) -> dict[str, Any]:
    """Put candidates into a table, by scikit-learn's names."""
    names = sorted({name for candidate in candidates for name in candidate.params})
    found: dict[str, Any] = {"params": [candidate.params for candidate in candidates]}
    for name in names:
        column = np.empty(len(candidates), dtype=object)
        for place, candidate in enumerate(candidates):
            column[place] = candidate.params.get(name)
        absent = [name not in candidate.params for candidate in candidates]
        found[f"param_{name}"] = np.ma.MaskedArray(column, absent)
    scores = np.array([candidate.scores for candidate in candidates])
    for split, of_split in enumerate(scores.T):
        found[f"split{split}_test_score"] = of_split
    found["mean_test_score"] = scores.mean(axis=1)
    with np.errstate(invalid="ignore"):  # of a metric that is infinite
        found["std_test_score"] = scores.std(axis=1)
    keys = [candidate.rank_key() for candidate in candidates]
    ranks = [1 + sum(other < key for other in keys) for key in keys]
    found["rank_test_score"] = np.array(ranks, dtype=np.int32)
    found["best_epoch"] = np.array([candidate.best_epoch for candidate in candidates])
    runs = [candidate.runs for candidate in candidates]
    found["n_epochs"] = np.array([max(len(run.errors) for run in of_one) for of_one in runs])
    found["mean_fit_time"] = np.array(
        [sum(run.fit_time for run in of_one) / len(of_one) for of_one in runs]
    )
    return found
