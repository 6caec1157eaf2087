"""The epoch loop: in which order, with which kernel, what is measured, and when it ends."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmf._checks import (
    CheckedRatings,
    check_factors,
    check_no_overlap,
    check_ratings,
    check_row_counts,
    check_writable,
)
from cmf._kernels import csr
from cmf._kernels.sgd import sgd_epoch as epoch_kernel
from cmf._parameters import Parameters, check_float
from cmf._ranges import row_ranges
from cmf._rows import padded_numbers
from cmf._state import HISTORY_COLUMNS, Factors
from cmf._threads import Team
from cmf._typing import FloatArray, RatingsLike
from cmf.epochs import make_epochs
from cmf.exceptions import DivergenceError
from cmf.losses import Loss, exact_loss, regularization_term, validation_errors
from cmf.objectives import exact_sum
from cmf.schedule import Schedule

__all__ = [
    "Callback",
    "EpochReport",
    "all_finite",
    "check_callbacks",
    "new_history",
    "record_errors",
    "sgd_epoch",
    "sweep_recorder",
    "train",
]

logger = logging.getLogger("cmf")
logger.addHandler(logging.NullHandler())

History = dict[str, list[float]]

# What callbacks may look at.
SHOWN = ("user_factors", "item_factors", "user_biases", "item_biases")


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What a callback sees after each epoch.

    Attributes
    ----------
    epoch : int
        Counted from 1; continued training goes on counting.
    n_epochs : int
        The epoch at which this call to fit will end.
    learning_rate : float
        Rate of this epoch.
    seconds : float
        Wall time of the epoch, measuring not included.
    running_mse : float
        Mean of the squared errors, each taken just before its own step; with another loss or with
        weights, the weighted mean of the losses.
    regularization : float
        The penalty of the factors as the epoch left them.
    running_total : float
        ``running_mse + regularization``.
    exact : cmf.Loss or None
        Loss of the factors as the epoch left them; None if it was not asked for.
    validation_rmse, validation_mae : float or None
        Exact errors on the validation ratings, if there are any.
    user_factors, item_factors, user_biases, item_biases : ndarray
        Read-only views of the factors in training, of use during the call: copy what is to be
        kept.
    """

    epoch: int
    n_epochs: int
    learning_rate: float
    seconds: float
    running_mse: float
    regularization: float
    running_total: float
    exact: Loss | None
    validation_rmse: float | None
    validation_mae: float | None
    user_factors: FloatArray
    item_factors: FloatArray
    user_biases: FloatArray
    item_biases: FloatArray


Callback = Callable[[EpochReport], Any]


def sgd_epoch(
    ratings: RatingsLike,
    user_factors: FloatArray,
    item_factors: FloatArray,
    learning_rate: float,
    regularization: float,
) -> float:
    r"""Run one epoch of stochastic gradient descent in place, in CSR order.

    For each stored rating, user by user and in stored order inside a user, with
    :math:`e = r_{ui} - p_u \cdot q_i` taken before the step:

    .. math:: p_u \leftarrow p_u + \alpha (2 e q_i - \beta p_u), \qquad
              q_i \leftarrow q_i + \alpha (2 e p_u - \beta q_i)

    where the second step sees the new :math:`p_u`. No biases, no mean, no shuffling.

    Parameters
    ----------
    ratings : sparse array or matrix, 2-D array-like or wide data frame, (n_users, n_items)
        Observed ratings. CSR of the factors' dtype is used as it is; anything else is converted at
        every call, so convert once before a loop.
    user_factors : ndarray of shape (n_users, n_factors), float32 or float64, C-contiguous
        Changed in place.
    item_factors : ndarray of shape (n_items, n_factors), same dtype, C-contiguous
        Changed in place; must overlap neither `user_factors` nor the ratings.
    learning_rate : float
        α, greater than 0.
    regularization : float
        β, at least 0.

    Returns
    -------
    float
        The running sum of squared errors: each error as it was just before its own step, summed in
        float64. The loss of the finished factors is `cmf.loss`.

    Raises
    ------
    TypeError, ValueError
        If ratings or factors break a rule of the gate. Nothing has been changed then.
    DivergenceError
        If a factor became infinite or NaN. The factors are of no use then.

    See Also
    --------
    cmf.loss : Exact loss of finished factors.
    cmf.MatrixFactorization : Biases, shuffling, history and recommendations.

    Notes
    -----
    Time is proportional to ``n_ratings * n_factors``. The GIL is released. Calls on disjoint
    factors may run at once; two calls on the same factors may not.

    Examples
    --------
    >>> import numpy as np
    >>> import cmf
    >>> P, Q = np.array([[2.0]]), np.array([[3.0]])
    >>> cmf.sgd_epoch([[10.0]], P, Q, learning_rate=0.1, regularization=0.5)
    16.0
    >>> P.round(6), Q.round(6)     # 2 + .1 (2·4·3 - .5·2),  3 + .1 (2·4·4.3 - .5·3)
    (array([[4.3]]), array([[6.29]]))
    """
    alpha = check_float(learning_rate, "learning_rate", exclusive=True)
    beta = check_float(regularization, "regularization")
    check_writable(user_factors, "user_factors")
    check_writable(item_factors, "item_factors")
    P, Q = check_factors(user_factors, item_factors)
    checked = check_ratings(ratings, dtype=P.dtype, allow_empty=True)
    check_row_counts(P, Q, checked.shape)
    check_no_overlap(P, Q, checked)
    total = 0.0
    for first, last in row_ranges(checked.indptr, P.shape[1]):
        total += epoch_kernel(
            checked.indptr,
            checked.indices,
            checked.values,
            None,
            None,
            P,
            Q,
            None,
            None,
            first,
            last,
            0.0,
            alpha,
            beta,
        )
    if not (math.isfinite(total) and _all_finite(P, Q)):
        raise DivergenceError(
            f"the factors are no longer finite after an epoch with learning_rate={alpha:g}: "
            "lower it, or scale the ratings down",
            learning_rate=alpha,
        )
    return total


def new_history() -> History:
    """Make a history of no epochs.

    Returns
    -------
    dict of str to list of float
        One empty list for each of `HISTORY_COLUMNS`.
    """
    return {column: [] for column in HISTORY_COLUMNS}


def check_callbacks(callbacks: object) -> tuple[Callback, ...]:
    """Read the argument `callbacks`.

    Parameters
    ----------
    callbacks : None, callable or iterable of callables
        As `fit` takes it.

    Returns
    -------
    tuple of callables
        In order.
    """
    if callbacks is None:
        return ()
    found = (callbacks,) if callable(callbacks) else callbacks
    if not isinstance(found, Iterable):
        raise TypeError(
            f"callbacks must be a callable or several of them, got {type(found).__name__}"
        )
    listed = tuple(found)
    for callback in listed:
        if not callable(callback):
            raise TypeError(f"callbacks holds {callback!r}, which is not callable")
    return listed


def train(
    factors: Factors,
    ratings: CheckedRatings,
    parameters: Parameters,
    schedule: Schedule,
    history: History,
    *,
    n_epochs: int,
    first_epoch: int,
    seed: int,
    validation: CheckedRatings | None = None,
    exact: bool = False,
    callbacks: tuple[Callback, ...] = (),
) -> None:
    """Train factors in place and add one entry per finished epoch to `history`.

    Parameters
    ----------
    factors : Factors
        In rows as `cmf._rows` makes them, changed in place. After `DivergenceError` they are of no
        use; after any other exception they hold what training had reached.
    ratings : CheckedRatings
        Of the factors' dtype and shape.
    parameters : Parameters
        shuffle, n_factors, n_threads and verbose are read.
    schedule : Schedule
        Steps of every epoch.
    history : dict
        As `new_history` gives it, or as earlier training left it.
    n_epochs : int
        Epochs to run.
    first_epoch : int
        Number of the first of them, from 1. With `seed` it decides the order of the visits, so that
        training in two parts equals training in one.
    seed : int
        Root of all permutations.
    validation : CheckedRatings, optional
        Measured after every epoch, never trained on.
    exact : bool
        Whether to measure the exact loss after every epoch; the last one is always measured.
    callbacks : tuple of callables
        Called with an `EpochReport` after every epoch, in order; the epoch in which any of them
        returns True is the last.

    Raises
    ------
    DivergenceError
        If a factor, a bias or the loss is no longer finite after an epoch, or errors at the end
        are too large for predictions to be.
    """
    last_epoch = first_epoch + n_epochs - 1
    with (
        _Progress(parameters.verbose, n_epochs) as progress,
        Team(parameters.n_threads) as team,
    ):
        epochs = make_epochs(
            factors,
            ratings,
            parameters,
            schedule,
            seed=seed,
            team=team,
            last_epoch=last_epoch,
        )
        measures = _Measures(factors, ratings, validation, parameters, schedule)
        n_averaged = min(parameters.averaged_epochs, n_epochs)
        average = _Average(factors, last_epoch - n_averaged if n_averaged > 1 else last_epoch)
        try:
            for epoch in range(first_epoch, last_epoch + 1):
                started = time.perf_counter()
                losses, squares = epochs.run(epoch)
                exact_now = exact or epoch == last_epoch
                if validation is not None or callbacks or exact_now or epoch > average.after:
                    epochs.settle()
                seconds = time.perf_counter() - started
                penalty = measures.penalty(squares)
                _refuse_divergence(
                    factors, losses, penalty, schedule.rate_of(epoch), epoch, history
                )
                average.add(epoch)
                report = measures.report(
                    epoch, last_epoch, seconds, losses, penalty, exact=exact_now
                )
                _record(history, report)
                progress.show(report)
                answers = [callback(report) for callback in callbacks]
                if any(isinstance(answer, (bool, np.bool_)) and answer for answer in answers):
                    break
        finally:
            epochs.settle()
        if average.write():
            _refuse_divergence(factors, losses, measures.penalty(), 0.0, epoch, history)
            measures.record(history)
        elif math.isnan(history["exact_mse"][-1]):
            _record_exact(history, measures.exact())
        # Finite factors may have infinite predictions: if the root of the mean squared error is no
        # number of their dtype, some prediction is not.
        largest = float(np.finfo(factors.dtype).max)
        if history["exact_mse"][-1] > largest * largest:
            raise _divergence(schedule.rate_of(epoch), epoch, history)


def sweep_recorder(history: History, parameters: Parameters) -> Callable[[int, float], None]:
    """Return what notes the sweeps of a sampler as epochs.

    Parameters
    ----------
    history : dict
        As `new_history` gives it.
    parameters : Parameters
        How many sweeps there will be, and how verbose to be.

    Returns
    -------
    callable
        Takes the number of a sweep, from 1, and the root mean squared error of its draw.
    """
    n_sweeps = parameters.burn_in + parameters.posterior_samples
    last = time.perf_counter()

    def _record_sweep(sweep: int, rmse: float) -> None:
        nonlocal last
        now = time.perf_counter()
        for column in HISTORY_COLUMNS:
            history[column].append(math.nan)
        history["epoch"][-1] = float(sweep)
        history["running_mse"][-1] = rmse**2
        history["seconds"][-1], last = now - last, now
        logger.info("Sweep %d/%d - Training RMSE of the draw: %.4f", sweep, n_sweeps, rmse)
        if parameters.verbose:
            sys.stdout.write(f"Sweep {sweep}/{n_sweeps} - Training RMSE of the draw: {rmse:.4f}\n")
            sys.stdout.flush()

    return _record_sweep


def record_errors(
    history: History,
    ratings: CheckedRatings,
    validation: CheckedRatings | None,
    factors: Factors,
    parameters: Parameters,
) -> None:
    """Write the exact errors of a finished model into the last entry of a history.

    Parameters
    ----------
    history : dict
        Of at least one epoch.
    ratings : CheckedRatings
        What the model was fitted to.
    validation : CheckedRatings or None
        What it was not.
    factors : Factors
        The model.
    parameters : Parameters
        Threads to use.
    """
    _record_exact(history, exact_loss(ratings, factors, 0.0, parameters.n_threads))
    _record_validation(history, validation, factors, parameters)


def _refuse_divergence(
    factors: Factors,
    squared_errors: float,
    penalty: float,
    learning_rate: float,
    epoch: int,
    history: History,
) -> None:
    # A finite sum of squares is one of finite numbers; an infinite one may be, too.
    if math.isfinite(squared_errors) and (math.isfinite(penalty) or all_finite(factors)):
        return
    raise _divergence(learning_rate, epoch, history)


def _divergence(learning_rate: float, epoch: int, history: History) -> DivergenceError:
    """Return the error in which training ends, with the last finite loss of a history."""
    last = history["running_total"][-1] if history["running_total"] else None
    return DivergenceError(
        f"training diverged in epoch {epoch} with learning_rate={learning_rate:g}: "
        "factors or loss are no longer finite. Lower learning_rate (a tenth is a good next try) "
        "or scale the ratings down"
        + ("" if last is None else f"; the last finite running loss was {last:.6g}"),
        epoch=epoch,
        learning_rate=learning_rate,
        last_finite_loss=last,
    )


def all_finite(factors: Factors) -> bool:
    """Tell whether training may go on from factors.

    Parameters
    ----------
    factors : Factors
        The model.

    Returns
    -------
    bool
        Whether all factors and biases are finite.
    """
    return _all_finite(
        factors.user_factors, factors.item_factors, factors.user_biases, factors.item_biases
    )


def _all_finite(*arrays: FloatArray) -> bool:
    return all(csr.first_nonfinite(_all_numbers(array)) < 0 for array in arrays)


def _all_numbers(array: FloatArray) -> FloatArray:
    return array.reshape(-1) if array.flags.c_contiguous else padded_numbers(array)


class _Measures:
    """What is told of factors after an epoch."""

    def __init__(
        self,
        factors: Factors,
        ratings: CheckedRatings,
        validation: CheckedRatings | None,
        parameters: Parameters,
        schedule: Schedule,
    ) -> None:
        self.factors = factors
        self.ratings = ratings
        self.validation = validation
        self.parameters = parameters
        self.schedule = schedule
        # Made once: after an epoch, whatever runs does so out of cold caches.
        self.views = {name: _read_only(getattr(factors, name)) for name in SHOWN}
        weights = ratings.weights
        self.total_weight = ratings.nnz if weights is None else float(weights.sum(dtype=np.float64))

    def penalty(self, squares: float | None = None) -> float:
        """Regularization as it is reported, given the squares of factors if they are known."""
        l1 = self.parameters.l1_regularization
        return regularization_term(self.factors, self.schedule.regularization, l1, squares=squares)

    def exact(self) -> Loss:
        """Exact errors; the total is of what training minimizes, with another loss as well."""
        parameters, n_threads = self.parameters, self.parameters.n_threads
        found = exact_loss(
            self.ratings,
            self.factors,
            self.schedule.regularization,
            n_threads,
            loss=parameters.loss_function,
            l1=parameters.l1_regularization,
        )
        if not self.schedule.general:
            return found
        losses = exact_sum(
            self.ratings,
            self.factors,
            parameters.loss_function,
            huber_threshold=self.schedule.huber_threshold,
            n_threads=n_threads,
        )
        return found._replace(total=losses / self.total_weight + found.regularization)

    def record(self, history: History) -> None:
        """Write errors of factors that are not those of the last epoch into its entry."""
        _record_exact(history, self.exact())
        _record_validation(history, self.validation, self.factors, self.parameters)

    def report(
        self,
        epoch: int,
        n_epochs: int,
        seconds: float,
        losses: float,
        penalty: float,
        *,
        exact: bool,
    ) -> EpochReport:
        """Tell all there is to tell of an epoch."""
        mean_loss = losses / self.total_weight
        errors = _validation_of(self.validation, self.factors, self.parameters)
        return EpochReport(
            epoch=epoch,
            n_epochs=n_epochs,
            learning_rate=self.schedule.rate_of(epoch),
            seconds=seconds,
            running_mse=mean_loss,
            regularization=penalty,
            running_total=mean_loss + penalty,
            exact=self.exact() if exact else None,
            validation_rmse=errors[0],
            validation_mae=errors[1],
            **self.views,
        )


class _Average:
    """The mean of the factors after each epoch that comes after a certain one."""

    def __init__(self, factors: Factors, after: int) -> None:
        self.factors = factors
        self.after = after
        self.means: list[FloatArray] = []
        self.n_epochs = 0

    def add(self, epoch: int) -> None:
        """Take in what an epoch has left, if it counts."""
        if epoch <= self.after:
            return
        self.n_epochs += 1
        if self.n_epochs == 1:
            self.means = [array.copy() for array in self.factors.trained]
            return
        for mean, array in zip(self.means, self.factors.trained, strict=True):
            with np.errstate(over="ignore", invalid="ignore"):  # reported as divergence
                mean += (array - mean) / self.n_epochs

    def write(self) -> bool:
        """Put the mean in the place of the factors; False if there is nothing to average."""
        if self.n_epochs < 2:
            return False
        for mean, array in zip(self.means, self.factors.trained, strict=True):
            array[...] = mean
        return True


def _validation_of(
    validation: CheckedRatings | None, factors: Factors, parameters: Parameters
) -> tuple[float | None, float | None]:
    if validation is None:
        return None, None
    return validation_errors(
        validation, factors, parameters.n_threads, loss=parameters.loss_function
    )


def _read_only(array: FloatArray) -> FloatArray:
    view = array.view()
    view.flags.writeable = False
    return view


def _record(history: History, report: EpochReport) -> None:
    numbers = {
        "epoch": report.epoch,
        "running_mse": report.running_mse,
        "regularization": report.regularization,
        "running_total": report.running_total,
        "exact_mse": None if report.exact is None else report.exact.mse,
        "exact_total": None if report.exact is None else report.exact.total,
        "validation_rmse": report.validation_rmse,
        "validation_mae": report.validation_mae,
        "learning_rate": report.learning_rate,
        "seconds": report.seconds,
    }
    for column in HISTORY_COLUMNS:
        number = numbers[column]
        history[column].append(math.nan if number is None else float(number))


def _record_exact(history: History, measured: Loss) -> None:
    history["exact_mse"][-1] = measured.mse
    history["exact_total"][-1] = measured.total


def _record_validation(
    history: History,
    validation: CheckedRatings | None,
    factors: Factors,
    parameters: Parameters,
) -> None:
    errors = _validation_of(validation, factors, parameters)
    for column, error in zip(("validation_rmse", "validation_mae"), errors, strict=True):
        history[column][-1] = math.nan if error is None else error


class _Progress:
    """One line an epoch on standard output, a bar on standard error, or nothing; always the log."""

    def __init__(self, verbose: int, n_epochs: int) -> None:
        self.verbose = verbose
        self.n_epochs = n_epochs
        self.bar: Any = None

    def __enter__(self) -> _Progress:
        if self.verbose == 2:
            from tqdm.auto import tqdm

            self.bar = tqdm(total=self.n_epochs, unit="epoch", desc="Training", file=sys.stderr)
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, report: EpochReport) -> None:
        if not (self.verbose or logger.isEnabledFor(logging.INFO)):
            return
        line = (
            f"Epoch {report.epoch}/{report.n_epochs} - Training Loss: {report.running_total:.4f} "
            f"(mse {report.running_mse:.4f}, reg {report.regularization:.4f})"
        )
        logger.info("%s", line)
        if self.verbose == 1:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        elif self.bar is not None:
            numbers = {
                "loss": f"{report.running_total:.4f}",
                "mse": f"{report.running_mse:.4f}",
            }
            if report.validation_rmse is not None:
                numbers["validation_rmse"] = f"{report.validation_rmse:.4f}"
            self.bar.set_postfix(numbers, refresh=False)
            self.bar.update(1)
