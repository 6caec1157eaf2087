"""`MatrixFactorization`: the object that people hold."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, BinaryIO, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from cmf import (
    _frames,
    fold_in,
    initialization,
    losses,
    posterior,
    recommendation,
    serialization,
    training,
)
from cmf._checks import (
    CheckedRatings,
    align_ratings,
    check_ratings,
    check_weights,
    narrow_indices,
)
from cmf._ids import RowLookup, make_lookup
from cmf._parameters import Parameters, check_bool, check_int, check_unknown
from cmf._random import draw_seed
from cmf._rows import compact_rows, copy_rows
from cmf._state import Factors, ModelState, SeenItems, TrainingState
from cmf._typing import FloatArray, Ids, RandomState, RatingsLike, Rows, UnknownPolicy
from cmf.exceptions import ModelFileError, NotFittedError
from cmf.fold_in import NewUsers
from cmf.implicit import forget_factors, rebase, with_implicit
from cmf.losses import Loss
from cmf.objectives import check_rating_range, link
from cmf.schedule import Schedule, uses_defaults
from cmf.stopping import NoiseMeter, Stopper, hold_out
from cmf.training import Callback

__all__ = ["MatrixFactorization"]

# Lists for several ids are padded to n, and this much padding cannot be meant.
MOST_PADDED = 2**16


# Passes where their number is not given: at most, or by the plain rule exactly.
DEFAULT_EPOCHS, RULE_EPOCHS = 100, 40


def _stops_early(parameters: Parameters) -> bool:
    """Tell whether training keeps the epoch that does best on ratings it has not seen."""
    wanted = parameters.early_stopping
    return uses_defaults(parameters) if wanted is None else wanted


def _most_epochs(parameters: Parameters) -> int:
    if parameters.n_epochs is not None:
        return parameters.n_epochs
    return DEFAULT_EPOCHS if uses_defaults(parameters) else RULE_EPOCHS


@dataclass(frozen=True, slots=True)
class _Fitted:
    """One finished state with its lookups: replaced as a whole, so that readers see old or new."""

    state: ModelState
    parameters: Parameters
    users: RowLookup
    items: RowLookup
    prior: fold_in.Prior | None = None  # of new users, of an average over the posterior

    @classmethod
    def of(cls, state: ModelState) -> _Fitted:
        factors = state.factors
        prior = None
        if state.uncertainty is not None:
            rated = np.diff(state.seen.indptr) > 0
            prior = fold_in.prior_of(factors, rated, state.uncertainty.noise_std)
        return cls(
            state,
            Parameters.check(state.parameters),
            make_lookup(state.user_ids, factors.n_users, "user"),
            make_lookup(state.item_ids, factors.n_items, "item"),
            prior,
        )


class MatrixFactorization:
    r"""Matrix factorization of explicit ratings by stochastic gradient descent.

    A rating is predicted as

    .. math:: \hat r_{ui} = \mu + b_u + c_i + p_u \cdot q_i

    (for counts and for likes and dislikes see `loss_function`), and each step on a rating
    :math:`r`, with :math:`e = r - \hat r` before the step, is

    .. math:: p_u \leftarrow p_u + \alpha (2 e q_i - \beta p_u), \quad
              q_i \leftarrow q_i + \alpha (2 e p_u - \beta q_i), \\
              b_u \leftarrow b_u + \alpha (2 e - \beta b_u), \quad
              c_i \leftarrow c_i + \alpha (2 e - \beta c_i)

    where the item step sees the user's new factors. That is the plain rule, with one α and one β.

    Where `learning_rate` is not given, the ratings decide: rates adapt to each row and fall from
    epoch to epoch, regularization depends on a row's number of ratings and on how much noise the
    ratings are measured to have, biases start as damped means, and a part of the ratings is held
    out to find the best number of epochs, for which all ratings are then trained on. See Notes.

    Parameters
    ----------
    n_factors : int, default 64
        Length of the factor rows, at most 2**20.
    learning_rate : float or None, default None
        α of the first epoch. None: chosen by the ratings, see Notes; in stored order
        (``shuffle=False``) 0.005. A number alone, with the other defaults, is the plain rule.
    regularization : float or None, default None
        β, applied at every rating's step. None: chosen by the ratings if `learning_rate` is, else
        0.15.
    n_epochs : int or None, default None
        Passes over all ratings; with early stopping the most that there can be. None: 100 if
        `learning_rate` is chosen by the ratings, else 40.
    biases : bool, default True
        Whether to predict with the mean of the training ratings and to train biases.
    shuffle : bool, default True
        Whether each epoch visits the users in a new random order drawn from `random_state`, a few
        of them in turns, a rating of each: several times as fast, and not tied to the order of the
        data. Of more than 4 million ratings, runs of 64 users are shuffled, each run in its order.
        False means exactly the stored order, one rating after the other.
    init : {"normal", "scaled", "uniform"}, default "normal"
        Factors start as N(0, init_scale²), N(0, init_scale² / n_factors) or U[0, init_scale).
    init_scale : float or None, default None
        See `init`. With biases, 0 gives a model of biases alone. None: 0.1; if `learning_rate` is
        chosen by the ratings ``0.1 * sqrt(s)``, for normal starts ``0.005 * sqrt(s)``, with s as in
        Notes.
    dtype : {"float32", "float64"}, default "float32"
        Of factors, biases and the arithmetic of training. Losses are summed in float64 always.
    n_threads : int or None, default None
        Most threads to train with. None: what the environment variable ``CMF_NUM_THREADS`` says,
        else the CPUs that this process may use, one inside workers of joblib. Never changes a bit
        of the result. In stored order (``shuffle=False``) and for little work there is one.
    random_state : None, int, SeedSequence, BitGenerator, Generator or RandomState, default None
        Seed of the start and of the order of visits. NumPy's global state is never touched.
    verbose : int, default 0
        1 prints a line for each epoch, 2 shows a progress bar on standard error. The epochs that
        look for the best number of epochs are not shown.
    learning_rate_decay : float or None, default None
        d, above 0 and at most 1: epoch t has the rates of the first one times d**(t - 1). None:
        0.97 if `learning_rate` is chosen by the ratings, else 1.
    adaptive : bool or None, default None
        Whether every user and every item has a rate of its own for its factors,
        :math:`\alpha / \sqrt{G}`, where G starts at 1, or as Notes tell, and grows at each step by
        :math:`\|e q - \beta p / 2\|^2 / (k s^3)`, k the number of factors: AdaGrad with one sum a
        row [2]_, as LIBMF has it; s is 1 if `learning_rate` is given. Both rows of a rating then
        see each other as they were before the step. Biases keep their rate. None: whether
        `learning_rate` is chosen by the ratings.
    bias_learning_rate : float or None, default None
        α of the biases in the first epoch. None: 0.005 if `learning_rate` is chosen by the
        ratings, else the same as that of the factors.
    user_regularization, item_regularization, bias_regularization : float or None, default None
        β of the factors of users, of the factors of items, and of all biases. None: that of
        `regularization`.
    regularization_scaling : {"rating", "sqrt", "count"}, default "rating"
        How the strengths that are given depend on a row's number of ratings n. ``"rating"``: each
        of the n steps shrinks the row by β, which makes its penalty n β/2 ‖p‖², as the weighted
        regularization of ALS-WR, of LIBMF and of Spark's ALS. ``"sqrt"``: by β/√n at each step,
        as MyMediaLite's frequency regularization. ``"count"``: by β/n, which makes the penalty
        β/2 ‖p‖² whatever n is, as in ALS without weighting and in cmfrec.
    early_stopping : bool or None, default None
        Whether training keeps the epoch with the smallest error on ratings that it has not seen.
        If `fit` gets validation ratings, these decide and the factors of that epoch are kept. Else
        a part of the ratings is held out, and once the best epoch is known all ratings are trained
        on for as many epochs, from the same start: about twice as many passes. None: whether
        `learning_rate` is chosen by the ratings.
    validation_fraction : float or None, default None
        Share of the ratings that early stopping holds out, between 0 and 1. None: a twentieth, but
        at least 200 ratings (or a fifth of all, if that is less) and at most 100,000.
    patience : int, default 10
        Epochs without a better one after which early stopping ends the search.
    posterior_samples : int, default 0
        Above 0, the model is the mean of that many models drawn from the posterior of Bayesian
        matrix factorization instead, see `cmf.posterior`. Neither learning rates, regularization
        nor early stopping have a part in it. After each draw that counts, threads of NumPy's BLAS
        keep processors busy for a while: with ``OPENBLAS_NUM_THREADS=1`` in the environment few
        factors take a third less time.
    burn_in : int, default 40
        Draws before those that count.
    implicit : bool or None, default None
        Whether to use which items a user has rated, too, as SVD++ does [3]_: a user's factors are
        :math:`p_u + n_u^{-1/2} \sum_j y_j` over the n_u items j that the user has rated, and y is
        trained as well; an epoch takes about three times as long and has one thread, and the model
        keeps p and y besides. None: only in draws from the posterior.
    implicit_learning_rate : float or None, default None
        α of the implicit part, which a user's visits move as a whole: each step adds
        α (2 e q_i - β s) to the sum s, and what a sum has moved by when the user is done is shared
        out to its y_j with weights :math:`n_u^{-1/2}`. None: a tenth of that of the factors.
    implicit_regularization : float or None, default None
        β of the implicit part. None: 0.032 s if `learning_rate` is chosen by the ratings, else
        that of the users' factors.
    loss_function : {"squared", "absolute", "huber", "logistic", "poisson"}, default "squared"
        What is minimized, with :math:`x = \mu + b_u + c_i + p_u \cdot q_i`; in the steps the
        error e becomes the slope d:

        - ``"squared"``: (r - x)², d = r - x;
        - ``"absolute"``: \|r - x\|, d = sign(r - x): predicts medians, not moved by outliers;
        - ``"huber"``: squared up to the threshold t and t (2 \|r - x\| - t) beyond,
          d = r - x kept within ±t;
        - ``"logistic"``: log(1 + exp(x)) - r x for ratings from 0 to 1, d = r - σ(x) with
          σ(x) = 1 / (1 + exp(-x)), which is what `predict` returns;
        - ``"poisson"``: exp(x) - r x for counts, d = r - exp(x); `predict` returns exp(x).

        μ is the constant of least loss: mean, median, between both, log-odds or logarithm of the
        mean. Other losses than squares are trained by a plainer kernel, which is several times
        slower; so are weights, `l1_regularization` and `nonnegative`.
    huber_threshold : float or None, default None
        t in units of the ratings. None: 1.25 times the mean absolute deviation of the ratings from
        their median.
    l1_regularization : float, default 0.0
        γ: every step also moves each factor towards 0 by α γ, and not across it, which leaves
        exact zeros [4]_. The penalty γ (‖P‖₁ + ‖Q‖₁) is part of the losses that are reported.
    nonnegative : bool, default False
        Whether factors (not biases) are kept at 0 or above, by lifting those below 0 after every
        step; they start as absolute values.
    averaged_epochs : int, default 1
        Factors and biases become their mean over so many last epochs of those that were asked for:
        over fewer, or none, if a callback ends training before. Of use where rates do not fall;
        continued training goes on from the mean. Where early stopping looks for the number of
        epochs, that is done without averaging.

    Attributes
    ----------
    user_factors_ : ndarray of shape (n_users, n_factors)
        P, one row per user. Rows of users without ratings are zero.
    item_factors_ : ndarray of shape (n_items, n_factors)
        Q, one row per item.
    user_biases_ : ndarray of shape (n_users,)
        b; zeros without biases.
    item_biases_ : ndarray of shape (n_items,)
        c; zeros without biases.
    global_mean_ : float
        μ, the mean of the ratings of the first fit; 0.0 without biases.
    history_ : dict of str to list of float
        One entry per epoch: ``epoch``, ``running_mse`` (each error taken just before its own
        step; with another loss or weights the weighted mean loss), ``regularization`` and
        ``running_total`` (with the factors as the epoch left them), ``exact_mse`` (squared errors
        of what is predicted, without weights) and ``exact_total`` (the objective; both of those
        factors, always there for the last epoch, else NaN unless asked for), ``validation_rmse``
        and ``validation_mae`` (NaN without validation ratings), ``learning_rate`` and ``seconds``.
        Where early stopping held ratings out, the validation errors are those that the search for
        the best epoch measured on them; all else is of the training on all ratings. No
        entries if biases alone were best.
    best_epoch_ : int
        The epoch that early stopping has chosen, 0 if no epoch predicts better than biases alone
        by more than chance. AttributeError if it had no part in the last training.
    user_ids_, item_ids_ : ndarray or None
        Labels of a model fitted on a wide data frame. None: rows are the ids.
    n_features_in_ : int
        Number of items.
    n_iter_ : int
        Epochs trained. Where early stopping has put the factors of `best_epoch_` back, those after
        it count, too: continued training goes on counting from here.

    See Also
    --------
    cmf.sgd_epoch : One pass of the rule over factors of your own.
    cmf.loss : Exact loss of factors of your own.

    Notes
    -----
    A rating is every *stored* entry of a sparse input, an explicit 0 included. In a dense array or
    a wide data frame 0 and NaN mean "not rated", and so does 0 in SciPy's blocks (BSR) and
    diagonals (DIA), where it fills gaps.

    Reading methods (`predict`, `recommend`, ...) may be called from many threads at once, also
    while another thread trains: training builds new factors and puts them in place at its end.
    Training one model from two threads at once is not supported.

    The estimator follows scikit-learn's conventions without needing scikit-learn.

    **The defaults.** With s the root of the mean squared deviation of the ratings from μ, v the
    share of that variance which the model leaves unexplained on held-out ratings (1 at first, then
    measured after every epoch of the search), and n the number of ratings of a row:

    - α is 0.24/(s √k) with k factors, at most 0.05/s, in the first epoch and 0.97 of the last one
      in each other, `adaptive`; where β is given, that of a row begins at 1/(2 β) at most, which
      no strength makes diverge;
    - β is 1.8 s v/√n for users and 0.54 s v/n**(1/4) for items;
    - biases start as means of what is left, damped by as much as makes them posterior means, with
      variances estimated from the ratings; they are trained with α = 0.005 and kept near zero by
      the same damping, spread over the n steps;
    - factors start as N(0, (0.005 √s)²), with `nonnegative` or `l1_regularization` as
      N(0, 0.09 s / √k);
    - up to 100 epochs are trained with a part held out, until ten in a row are no better than the
      best one; then all ratings, with the same seed, for as many epochs as were best.

    All of it is in units of s: multiplying all ratings by a number multiplies the predictions.
    With another `loss_function`, h its curvature and d² the variance of its slope at the mean, α is
    divided by h, β has d²/(h s) in the place of s, and v is the mean loss over that of μ alone (1
    for counts); s is 1.25 times the mean absolute deviation for absolute and Huber loss, and 5/3 on
    the scales of log-odds and of logarithms; slopes of counts, and weighted ones, are kept within
    ten d.
    Where even the best epoch is no better than biases alone by more than chance, as with few or
    random ratings, factors are zero. Any setting that is given takes the place of the chosen one.

    **Settings from elsewhere.** Programs and papers step with γ (e q - λ p), which is α = γ/2 and
    β = 2 λ:

    - Surprise: ``learning_rate=lr_all / 2, regularization=2 * reg_all``;
    - LIBMF: ``adaptive=True, learning_rate=eta / 2, regularization=2 * lambda``;
    - Surprise's SVD++: besides, ``implicit=True, implicit_learning_rate=lr_yj / 2,
      implicit_regularization=2 * reg_yj``;
    - LIBMF's L1: ``l1_regularization=2 * lambda_l1``; its non-negative mode: ``nonnegative=True``;
    - MyMediaLite's frequency regularization: ``regularization_scaling="sqrt"``;
    - ALS with λ on the plain sum of squares, cmfrec: ``regularization_scaling="count"``;
    - Spark's ALS, λ times counts: ``regularization_scaling="rating"``, each with β = 2 λ.

    References
    ----------
    .. [1] Y. Koren, R. Bell, C. Volinsky, "Matrix factorization techniques for recommender
       systems", Computer 42(8), 2009.
    .. [2] W.-S. Chin, Y. Zhuang, Y.-C. Juan, C.-J. Lin, "A learning-rate schedule for stochastic
       gradient methods to matrix factorization", PAKDD 2015.
    .. [3] Y. Koren, "Factorization meets the neighborhood: a multifaceted collaborative filtering
       model", KDD 2008.
    .. [4] J. Duchi, Y. Singer, "Efficient online and batch learning using forward backward
       splitting", JMLR 10, 2009.

    Examples
    --------
    >>> import cmf
    >>> data = cmf.datasets.make_ratings(400, 200, 20_000, n_test=2_000, random_state=0)
    >>> model = cmf.MatrixFactorization(n_factors=8, random_state=0).fit(data.ratings)
    >>> ids, scores = model.recommend(0, n=3)     # items that user 0 has not rated
    >>> ids.shape, model.predict([0, 1], [2, 3]).shape
    ((3,), (2,))

    Noise of 0.5 is in these ratings; predicting their mean has an error of about 1.

    >>> 0.5 < model.loss(data.test).rmse < 0.7
    True
    >>> model.best_epoch_ == model.n_iter_ <= 100
    True

    The plain rule, as it is often taught, on a table where 0 means "not rated":

    >>> ratings = [[5, 3, 0, 1], [4, 0, 0, 1], [1, 1, 0, 5], [1, 0, 4, 4]]
    >>> model = cmf.MatrixFactorization(
    ...     n_factors=2, learning_rate=0.005, regularization=0.15, n_epochs=200, random_state=0
    ... ).fit(ratings)
    >>> model.predict([0, 2], [0, 3]).round()
    array([5., 5.], dtype=float32)
    >>> ids, scores = model.recommend(0, n=2)     # item 2 is all that user 0 has not rated
    >>> ids
    array([2])
    """

    # A search sets it: training stops where the search says, not where early stopping would.
    _search_watches = False

    def __init__(
        self,
        n_factors: int = 64,
        *,
        learning_rate: float | None = None,
        regularization: float | None = None,
        n_epochs: int | None = None,
        biases: bool = True,
        shuffle: bool = True,
        init: Literal["normal", "scaled", "uniform"] = "normal",
        init_scale: float | None = None,
        dtype: str = "float32",
        n_threads: int | None = None,
        random_state: RandomState = None,
        verbose: int = 0,
        learning_rate_decay: float | None = None,
        adaptive: bool | None = None,
        bias_learning_rate: float | None = None,
        user_regularization: float | None = None,
        item_regularization: float | None = None,
        bias_regularization: float | None = None,
        regularization_scaling: Literal["rating", "sqrt", "count"] = "rating",
        early_stopping: bool | None = None,
        validation_fraction: float | None = None,
        patience: int = 10,
        posterior_samples: int = 0,
        burn_in: int = 40,
        implicit: bool | None = None,
        implicit_learning_rate: float | None = None,
        implicit_regularization: float | None = None,
        loss_function: Literal["squared", "absolute", "huber", "logistic", "poisson"] = "squared",
        huber_threshold: float | None = None,
        l1_regularization: float = 0.0,
        nonnegative: bool = False,
        averaged_epochs: int = 1,
    ) -> None:
        self.n_factors = n_factors
        self.learning_rate = learning_rate
        self.regularization = regularization
        self.n_epochs = n_epochs
        self.biases = biases
        self.shuffle = shuffle
        self.init = init
        self.init_scale = init_scale
        self.dtype = dtype
        self.n_threads = n_threads
        self.random_state = random_state
        self.verbose = verbose
        self.learning_rate_decay = learning_rate_decay
        self.adaptive = adaptive
        self.bias_learning_rate = bias_learning_rate
        self.user_regularization = user_regularization
        self.item_regularization = item_regularization
        self.bias_regularization = bias_regularization
        self.regularization_scaling = regularization_scaling
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.posterior_samples = posterior_samples
        self.burn_in = burn_in
        self.implicit = implicit
        self.implicit_learning_rate = implicit_learning_rate
        self.implicit_regularization = implicit_regularization
        self.loss_function = loss_function
        self.huber_threshold = huber_threshold
        self.l1_regularization = l1_regularization
        self.nonnegative = nonnegative
        self.averaged_epochs = averaged_epochs

    # --- parameters, as scikit-learn wants them -----------------------------------------------

    @classmethod
    @cache  # to read a signature takes longer than a small epoch
    def _parameter_names(cls) -> list[str]:
        return sorted(name for name in inspect.signature(cls.__init__).parameters if name != "self")

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor parameters.

        Parameters
        ----------
        deep : bool, default True
            Without effect: no parameter is an estimator.

        Returns
        -------
        dict
            Parameter names and values.
        """
        return {name: getattr(self, name) for name in self._parameter_names()}

    def set_params(self, **parameters: Any) -> Self:
        """Set constructor parameters; what has been fitted stays until the next `fit`.

        Parameters
        ----------
        **parameters
            Names and values. Values are checked by the next `fit`.

        Returns
        -------
        MatrixFactorization
            Itself.

        Raises
        ------
        ValueError
            If a name is not a parameter; nothing is set then.
        """
        valid = self._parameter_names()
        for name in parameters:
            if name not in valid:
                raise ValueError(
                    f"Invalid parameter {name!r} for estimator {self!r}. Valid parameters are: "
                    f"{valid}."
                )
        for name, value in parameters.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        changed = [
            f"{name}={getattr(self, name)!r}"
            for name in defaults
            if name != "self" and repr(getattr(self, name)) != repr(defaults[name].default)
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_is_fitted__(self) -> bool:
        return "_fitted" in vars(self)

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(preserves_dtype=[]),
            input_tags=InputTags(sparse=True, allow_nan=True),
        )

    # --- training ---------------------------------------------------------------------------------

    def fit(
        self,
        ratings: RatingsLike,
        y: object = None,
        *,
        weights: object = None,
        epochs: int | None = None,
        validation: RatingsLike | None = None,
        callbacks: Callback | Iterable[Callback] | None = None,
        exact_loss: bool = False,
        user_factors: ArrayLike | None = None,
        item_factors: ArrayLike | None = None,
    ) -> Self:
        """Train on ratings, from a new start.

        By default a part of the ratings is held out first, to find the best number of epochs; then
        all ratings are trained on for that many. See the class for what else the defaults do.

        Parameters
        ----------
        ratings : sparse array or matrix, 2-D array-like or wide data frame, (n_users, n_items)
            Users as rows, items as columns. CSR is read in place, and must not be changed
            meanwhile; anything else is converted. A data frame gives the model its labels: the
            index (pandas) or a first column of strings (polars, pyarrow) for users, the column
            names for items.
        y : object
            Not used; there for scikit-learn. Ratings of pairs in two columns are refused.
        weights : array-like of shape (nnz,), or like `ratings`; optional
            How much each rating counts: its loss is multiplied by its weight, its part of the
            regularization is not. For sparse ratings (CSR, CSC, COO) numbers in the order of
            ``ratings.data``, or a sparse matrix with an entry for each rating; for tables a table
            of the same shape. At least 0; a rating of weight 0 is as if it were not there. Where
            `learning_rate` is chosen by the ratings, weights are divided by their mean. Errors on
            held-out and validation ratings have no weights. Not with `implicit`,
            `posterior_samples` or in stored order.
        epochs : int, optional
            Overrides `n_epochs`. Not with `posterior_samples`.
        validation : like `ratings`, optional
            Ratings to measure after every epoch, of the same shape or labels. Never trained on.
            With early stopping nothing else is held out then: the epoch with the smallest error on
            them is kept, so that they are no test of the model any more.
        callbacks : callable or iterable of callables, optional
            Each is called with a `cmf.EpochReport` after every epoch; returning True ends
            training with that epoch. The search for the best epoch calls none.
        exact_loss : bool, default False
            Whether to measure the exact loss after every epoch (one more pass each). The last
            epoch is always measured.
        user_factors, item_factors : array-like of shape (n_users or n_items, n_factors), optional
            Where to start instead of random numbers. Copied.

        Returns
        -------
        MatrixFactorization
            Itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter or an input is not what it must be; nothing has changed then.
        DivergenceError
            If training diverged. The model is what it was before the call.
        MemoryError
            If the factors are larger than memory, as when ids serve as row numbers.
        KeyboardInterrupt
            On Ctrl-C, after the model has taken over the factors reached so far; the history ends
            with the last epoch that was finished.

        Notes
        -----
        Time per epoch is proportional to ``n_ratings * n_factors``. A fit with ratings held out
        takes about twice `best_epoch_` passes, and `patience` more. Memory over the input: the
        factors, 4 to 9 bytes a rating where the input is CSR, and about 16 more for a while where
        it must be converted. Early stopping holds the factors twice, and 8 more bytes a rating in
        float32 while a part of the ratings is held out.
        """
        parameters = self._checked_parameters()
        checked = _read_ratings(ratings, weights, parameters)
        _refuse_pairs(checked, y)
        most_epochs = check_int(
            _most_epochs(parameters) if epochs is None else epochs, "epochs", minimum=1
        )
        seed = draw_seed(self.random_state)
        if parameters.posterior_samples:
            if any(given is not None for given in (epochs, callbacks, user_factors, item_factors)):
                raise ValueError(
                    "epochs, callbacks, user_factors and item_factors are for gradient descent: "
                    "they do not go with posterior_samples"
                )
            return self._fit_posterior(checked, parameters, seed, validation)
        callbacks = training.check_callbacks(callbacks)  # an iterator is read once
        begin = partial(
            self._begin,
            parameters=parameters,
            seed=seed,
            user_factors=user_factors,
            item_factors=item_factors,
        )
        stopping = _stops_early(parameters)
        if stopping and validation is not None and parameters.averaged_epochs > 1:
            raise ValueError(
                "averaged_epochs above 1 averages the last epochs, which early stopping on "
                "validation ratings does not know before: give early_stopping=False"
            )
        if stopping and validation is None:
            found = self._fit_twice(
                checked, seed, begin, parameters, most_epochs, callbacks, exact_loss
            )
            if found is not None:
                return found
        return self._fit_once(
            checked, begin, parameters, most_epochs, validation, callbacks, exact_loss, stopping
        )

    def _begin(
        self,
        ratings: CheckedRatings,
        known: CheckedRatings | None = None,
        *,
        parameters: Parameters,
        seed: int,
        user_factors: ArrayLike | None,
        item_factors: ArrayLike | None,
    ) -> tuple[ModelState, Schedule]:
        """Return where training on some ratings starts; `known` are all there are."""
        initialization.refuse_too_large(
            ratings.shape, parameters.n_factors, np.dtype(parameters.dtype)
        )
        mean = initialization.mean_of(ratings, parameters)
        schedule = Schedule(parameters, ratings, mean)
        factors = initialization.initialize(
            ratings,
            parameters,
            schedule.init_scale,
            mean,
            np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,))),
            user_factors=user_factors,
            item_factors=item_factors,
        )
        if schedule.biases is not None:
            factors.user_biases[:] = schedule.biases.users
            factors.item_biases[:] = schedule.biases.items
        if parameters.implicit:
            factors = with_implicit(factors)
        # What is known besides these is borrowed: a copy would be 4 bytes a rating, for nothing
        # unless an interrupt leaves this model.
        seen = (
            SeenItems.of(ratings.indptr, ratings.indices, ratings.shape[1])
            if known is None
            else SeenItems(known.indptr, known.indices)
        )
        state = ModelState(
            parameters=self.get_params(),
            factors=factors,
            seen=seen,
            history=training.new_history(),
            seed=seed,
            n_epochs_trained=0,
            user_ids=ratings.user_ids,
            item_ids=ratings.item_ids,
            frame=ratings.frame,
        )
        return state, schedule

    def _fit_posterior(
        self,
        ratings: CheckedRatings,
        parameters: Parameters,
        seed: int,
        validation: RatingsLike | None,
    ) -> Self:
        """Average models drawn from the posterior."""
        history = training.new_history()
        mean = posterior.sample_posterior(
            ratings,
            n_factors=parameters.n_factors,
            n_samples=parameters.posterior_samples,
            burn_in=parameters.burn_in,
            implicit=parameters.implicit is not False,
            biased=parameters.biases,
            dtype=np.dtype(parameters.dtype),
            seed=seed,
            n_threads=parameters.n_threads,
            report=training.sweep_recorder(history, parameters),
        )
        variance = float(np.square(mean.factors.user_factors, dtype=np.float64).mean())
        noise = mean.uncertainty.noise_std**2
        state = ModelState(
            parameters=self.get_params(),
            factors=mean.factors,
            seen=SeenItems.of(ratings.indptr, ratings.indices, ratings.shape[1]),
            history=history,
            seed=seed,
            n_epochs_trained=0,
            uncertainty=mean.uncertainty,
            training=TrainingState(user_penalty=noise / max(variance, 1e-12), user_power=1.0),
            user_ids=ratings.user_ids,
            item_ids=ratings.item_ids,
            frame=ratings.frame,
        )
        fitted = _Fitted.of(state)
        training.record_errors(
            history,
            ratings,
            None if validation is None else _read_known(validation, fitted, "validation"),
            mean.factors,
            parameters,
        )
        self._adopt(fitted)
        if mean.interrupted:
            raise KeyboardInterrupt
        return self

    def _fit_once(
        self,
        ratings: CheckedRatings,
        begin: Callable[..., tuple[ModelState, Schedule]],
        parameters: Parameters,
        epochs: int,
        validation: RatingsLike | None,
        callbacks: Callback | Iterable[Callback] | None,
        exact_loss: bool,
        stopping: bool,
    ) -> Self:
        """Train on all ratings; with validation ratings and stopping, keep the best epoch."""
        start, schedule = begin(ratings)
        return self._train(
            start,
            ratings.with_indices(start.seen.indices),  # narrow, and out of the caller's reach
            parameters,
            schedule,
            epochs=epochs,
            validation=validation,
            callbacks=callbacks,
            exact_loss=exact_loss,
            stopping=stopping and validation is not None,
        )

    def _fit_twice(
        self,
        ratings: CheckedRatings,
        seed: int,
        begin: Callable[..., tuple[ModelState, Schedule]],
        parameters: Parameters,
        epochs: int,
        callbacks: Callback | Iterable[Callback] | None,
        exact_loss: bool,
    ) -> Self | None:
        """Find the best epoch with a part held out, then train on all; None if they are too few."""
        check_bool(exact_loss, "exact_loss")
        parts = hold_out(ratings, parameters.validation_fraction, seed)
        if parts is None:
            return None
        rest, held_out = parts
        # What is held out has been rated, too: an interrupt leaves this model.
        state, search = begin(rest, ratings)
        self._train(
            state,
            narrow_indices(rest),
            replace(parameters, verbose=0, averaged_epochs=1),
            search,
            epochs=epochs,
            validation=held_out,
            callbacks=None,
            exact_loss=False,
            stopping=True,
            passing=True,
        )
        found = state.history
        best_epoch = state.training.best_epoch
        alone = not state.factors.user_factors.any()  # the biases are
        del state, rest, held_out, parts
        start, schedule = begin(ratings)
        schedule.noises = search.noises
        if best_epoch == 0:
            if alone:
                forget_factors(start.factors)
            start.training = schedule.state(0)
            self._adopt(_Fitted.of(start))
            return self
        self._train(
            start,
            ratings.with_indices(start.seen.indices),
            parameters,
            schedule,
            epochs=best_epoch,
            validation=None,
            callbacks=callbacks,
            exact_loss=exact_loss,
            best_epoch=best_epoch,
        )
        n_epochs = len(start.history["epoch"])
        start.training.best_epoch = n_epochs  # a callback may have ended training before
        for column in ("validation_rmse", "validation_mae"):
            start.history[column][:] = found[column][:n_epochs]
        return self

    def partial_fit(
        self,
        ratings: RatingsLike,
        y: object = None,
        *,
        weights: object = None,
        epochs: int = 1,
        validation: RatingsLike | None = None,
        callbacks: Callback | Iterable[Callback] | None = None,
        exact_loss: bool = False,
    ) -> Self:
        """Continue training where it stands, on the same users and items.

        The ratings may be the ones of before, new ones, or both. Without early stopping
        ``fit(R, epochs=5)`` followed by ``partial_fit(R, epochs=5)`` gives the same bits as
        ``fit(R, epochs=10)``. Nothing is held out here: exactly `epochs` passes are made, with the
        rates, the sums of adaptive rows, the spread and the noise that the training before has
        arrived at. Counts of ratings are those of the new ratings. The global mean stays that of
        the first fit. Items of the new ratings join the seen ones. On a model that has not been
        fitted it is `fit` with at most that many epochs.

        Parameters
        ----------
        ratings : sparse array or matrix, 2-D array-like or wide data frame
            Of the model's shape, or a frame of some of its labels.
        y : object
            Not used; there for scikit-learn.
        weights : array-like of shape (nnz,), or like `ratings`; optional
            As in `fit`.
        epochs : int, default 1
            Passes over these ratings.
        validation : like `ratings`, optional
            As in `fit`.
        callbacks : callable or iterable of callables, optional
            As in `fit`.
        exact_loss : bool, default False
            As in `fit`.

        Returns
        -------
        MatrixFactorization
            Itself.

        Raises
        ------
        TypeError, ValueError
            As `fit`; also if the shape is another one or a label is unknown, or if the parameters
            `n_factors`, `dtype` or `biases` have been changed since `fit`.
        DivergenceError
            If training diverged. The model is what it was before the call.

        Notes
        -----
        Trains on a copy of the factors, so that other threads may go on reading.
        """
        n_epochs = check_int(epochs, "epochs", minimum=1)
        if not self.__sklearn_is_fitted__():
            return self.fit(
                ratings,
                y,
                weights=weights,
                epochs=n_epochs,
                validation=validation,
                callbacks=callbacks,
                exact_loss=exact_loss,
            )
        parameters = self._checked_parameters()
        fitted = self._get_fitted()
        state, factors = fitted.state, fitted.state.factors
        if state.uncertainty is not None or parameters.posterior_samples:
            raise ValueError(
                "partial_fit goes on with gradient descent, which an average over the posterior "
                "is not: fit it anew"
            )
        _refuse_changes(parameters, fitted)
        checked = _read_known(ratings, fitted, "ratings", weights)
        start = replace(
            state,
            parameters=self.get_params(),
            factors=_copied(factors),
            seen=state.seen.union(checked.indptr, checked.indices, factors.n_items),
            history={column: list(values) for column, values in state.history.items()},
        )
        if parameters.implicit:
            rebase(start.factors, checked, parameters.n_threads)
        return self._train(
            start,
            narrow_indices(checked),
            parameters,
            Schedule(parameters, checked, factors.global_mean, before=state.training),
            epochs=n_epochs,
            validation=validation,
            callbacks=callbacks,
            exact_loss=exact_loss,
        )

    def _train(
        self,
        start: ModelState,
        ratings: CheckedRatings,
        parameters: Parameters,
        schedule: Schedule,
        *,
        epochs: int,
        validation: RatingsLike | CheckedRatings | None,
        callbacks: Callback | Iterable[Callback] | None,
        exact_loss: bool,
        stopping: bool = False,
        best_epoch: int = -1,
        passing: bool = False,
    ) -> Self:
        """Train `start` in place and take it over when it is done (if not `passing`) or cut."""
        exact = check_bool(exact_loss, "exact_loss")
        called = training.check_callbacks(callbacks)
        fitted = None if passing else _Fitted.of(start)
        held_out = validation
        if fitted and validation is not None and not isinstance(validation, CheckedRatings):
            held_out = _read_known(validation, fitted, "validation")
        stopper = None
        n_threads = parameters.n_threads
        if held_out is not None and self._search_watches and not passing:
            if _stops_early(parameters):
                called = (*called, NoiseMeter(start.factors, schedule, held_out, n_threads))
        elif held_out is not None and stopping:
            stopper = Stopper(start.factors, schedule, held_out, parameters.patience, n_threads)
            called = (*called, stopper)
        first_epoch = start.n_epochs_trained + 1
        try:
            training.train(
                start.factors,
                ratings,
                parameters,
                schedule,
                start.history,
                n_epochs=epochs,
                first_epoch=first_epoch,
                seed=start.seed,
                validation=held_out,
                exact=exact,
                callbacks=called,
            )
        except KeyboardInterrupt:
            if training.all_finite(start.factors):
                if passing:
                    seen, n_items = start.seen, start.factors.n_items
                    start.seen = SeenItems.of(seen.indptr, seen.indices, n_items)
                start.training = schedule.state()
                self._adopt(fitted or _Fitted.of(start))
            raise
        if stopper is not None:
            stopper.settle()
            best_epoch = stopper.best_epoch
        start.training = schedule.state(best_epoch)
        if fitted:
            self._adopt(fitted)
        return self

    def _adopt(self, fitted: _Fitted) -> None:
        state, factors = fitted.state, fitted.state.factors
        factors.user_factors = compact_rows(factors.user_factors)
        factors.item_factors = compact_rows(factors.item_factors)
        if factors.own_user_factors is not None:
            factors.own_user_factors = compact_rows(factors.own_user_factors)
        if factors.implicit_factors is not None:
            factors.implicit_factors = compact_rows(factors.implicit_factors)
        epochs = state.history["epoch"]
        state.n_epochs_trained = int(epochs[-1]) if epochs else 0
        self._fitted = fitted

    def _checked_parameters(self) -> Parameters:
        return Parameters.check(self.get_params())

    # --- what has been fitted ---------------------------------------------------------------------

    def _get_fitted(self) -> _Fitted:
        try:
            fitted: _Fitted = vars(self)["_fitted"]
        except KeyError:
            raise NotFittedError(
                f"This {type(self).__name__} instance is not fitted yet. Call 'fit' with ratings "
                "before using this."
            ) from None
        return fitted

    @property
    def user_factors_(self) -> FloatArray:
        """Factors P, one row per user."""
        return self._get_fitted().state.factors.user_factors

    @property
    def item_factors_(self) -> FloatArray:
        """Factors Q, one row per item."""
        return self._get_fitted().state.factors.item_factors

    @property
    def user_biases_(self) -> FloatArray:
        """Biases b, one per user."""
        return self._get_fitted().state.factors.user_biases

    @property
    def item_biases_(self) -> FloatArray:
        """Biases c, one per item."""
        return self._get_fitted().state.factors.item_biases

    @property
    def global_mean_(self) -> float:
        """Mean μ of the ratings of the first fit."""
        return self._get_fitted().state.factors.global_mean

    @property
    def history_(self) -> dict[str, list[float]]:
        """What each epoch measured."""
        return self._get_fitted().state.history

    @property
    def user_ids_(self) -> Ids | None:
        """Labels of the users, or None."""
        return self._get_fitted().state.user_ids

    @property
    def item_ids_(self) -> Ids | None:
        """Labels of the items, or None."""
        return self._get_fitted().state.item_ids

    @property
    def n_features_in_(self) -> int:
        """Number of items."""
        return self._get_fitted().state.factors.n_items

    @property
    def best_epoch_(self) -> int:
        """Epoch that early stopping has chosen."""
        best_epoch = self._get_fitted().state.training.best_epoch
        if best_epoch < 0:
            raise AttributeError("best_epoch_ is there after training with early stopping only")
        return best_epoch

    @property
    def n_iter_(self) -> int:
        """Epochs trained, those after the best one included."""
        return self._get_fitted().state.n_epochs_trained

    # --- predictions ------------------------------------------------------------------------------

    def predict_std(
        self, users: Any, items: Any, *, unknown: UnknownPolicy = "raise"
    ) -> NDArray[np.float64] | np.float64:
        """Return the standard deviation of the ratings of pairs around what `predict` returns.

        Only averages over the posterior (``posterior_samples`` above 0) know it.

        Parameters
        ----------
        users, items : id or sequence of ids
            As in `predict`.
        unknown : {"raise", "mean"}, default "raise"
            As in `predict`. An unknown user or item counts as the least known one.

        Returns
        -------
        ndarray of shape (n,), float64
            Root of the variance of the drawn models' predictions plus that of a rating around a
            prediction, in rating units: about 68 % of ratings are at most one of it from their
            prediction. A single number if both `users` and `items` are one id.

        Raises
        ------
        ValueError
            If the model is not an average over the posterior, or as `predict`.

        Examples
        --------
        >>> import cmf
        >>> data = cmf.datasets.make_ratings(60, 40, 900, random_state=0)
        >>> model = cmf.MatrixFactorization(2, posterior_samples=30, random_state=0)
        >>> deviation = model.fit(data.ratings).predict_std(0, 1)
        >>> bool(0.3 < deviation < 1.5)
        True
        """
        fitted = self._get_fitted()
        if fitted.state.uncertainty is None:
            raise ValueError("predict_std needs a model that was fitted with posterior_samples")
        user_rows, item_rows, single = _pairs(fitted, users, items, unknown)
        deviations = posterior.predictive_std(fitted.state.uncertainty, user_rows, item_rows)
        return deviations[0] if single else deviations

    def predict(
        self, users: Any, items: Any, *, unknown: UnknownPolicy = "raise"
    ) -> FloatArray | np.floating[Any]:
        """Predict the ratings of pairs.

        Parameters
        ----------
        users : id or sequence of n ids
            Labels if the model has them, else rows. One id goes with every item.
        items : id or sequence of n ids
            Likewise. One id goes with every user.
        unknown : {"raise", "mean"}, default "raise"
            Whether an unknown id is an error, or is predicted from the mean and the biases that
            are known.

        Returns
        -------
        ndarray of shape (n,), dtype of the model
            Predictions in rating units, computed in float64, not clipped to any range. A single
            number if both `users` and `items` are one id.

        Raises
        ------
        ValueError
            If ids are unknown under ``"raise"``, or there are not as many users as items.

        Examples
        --------
        >>> import cmf
        >>> model = cmf.MatrixFactorization(2, random_state=0).fit([[5, 1], [4, 0]])
        >>> model.predict([0, 1], [0, 1]).shape
        (2,)
        """
        fitted = self._get_fitted()
        user_rows, item_rows, single = _pairs(fitted, users, items, unknown)
        predicted = recommendation.pair_predictions(
            fitted.state.factors, user_rows, item_rows, fitted.parameters.n_threads
        )
        predicted = link(fitted.parameters.loss_function, predicted)
        return predicted[0] if single else predicted

    def reconstruct(self, users: Any = None, items: Any = None) -> Any:
        """Predict every rating of some or all users and items.

        Parameters
        ----------
        users : id, sequence of ids, or `NewUsers` from `fold_in`; optional
            Rows wanted, in that order; all users of the model if not given.
        items : id or sequence of ids, optional
            Columns wanted, likewise.

        Returns
        -------
        ndarray of shape (n_users, n_items), dtype of the model, or data frame
            Predictions, of the rated cells as well. A frame with the labels, of the kind that
            `fit` got, if it got one.

        Notes
        -----
        The result is dense: ``n_users * n_items`` numbers. Nothing else grows with that product;
        ask for blocks of users where it is too large.
        """
        fitted = self._get_fitted()
        factors, user_ids = fitted.state.factors, fitted.state.user_ids
        if isinstance(users, NewUsers):
            factors, _ = fold_in.with_users(factors, users)
            user_rows, user_ids = np.arange(factors.n_users), users.user_ids
        else:
            user_rows = _rows_or_all(users, fitted.users)
            user_ids = None if user_ids is None else fitted.users.take(user_rows)
        item_rows = _rows_or_all(items, fitted.items)
        predicted = recommendation.predictions(factors, user_rows, item_rows)
        predicted = link(fitted.parameters.loss_function, predicted)
        if fitted.state.frame is None:
            return predicted
        return _frames.write_wide(
            predicted, user_ids, fitted.items.take(item_rows), fitted.state.frame
        )

    def loss(self, ratings: RatingsLike) -> Loss:
        """Exact loss of the model on ratings of its users and items.

        Parameters
        ----------
        ratings : sparse array or matrix, 2-D array-like or wide data frame
            Of the model's shape, or a frame of some of its labels.

        Returns
        -------
        cmf.Loss
            Named tuple of sse, mse, rmse, regularization, total and n_ratings, in float64.

        See Also
        --------
        cmf.loss : The formula, and the same for factors of your own.
        """
        fitted = self._get_fitted()
        checked = _read_known(ratings, fitted, "ratings")
        return losses.exact_loss(
            checked,
            fitted.state.factors,
            fitted.state.training.regularization,
            fitted.parameters.n_threads,
            loss=fitted.parameters.loss_function,
        )

    # --- recommendations --------------------------------------------------------------------------

    def recommend(
        self,
        users: Any = None,
        n: int = 10,
        *,
        exclude_seen: bool = True,
        items: Any = None,
        exclude: Any = None,
        unknown: UnknownPolicy = "raise",
    ) -> tuple[Ids, FloatArray]:
        """Recommend the items with the highest predictions.

        Parameters
        ----------
        users : id, sequence of ids, or `NewUsers` from `fold_in`; optional
            Whom to recommend for; all users if not given.
        n : int, default 10
            How many items, at least 1. For several users at most 65536, or the number of items if
            there are more.
        exclude_seen : bool, default True
            Whether to leave out what a user has rated in training, or in `fold_in`.
        items : sequence of ids, optional
            The only items to choose from.
        exclude : sequence of ids, optional
            Items never to recommend.
        unknown : {"raise", "mean"}, default "raise"
            Whether an unknown user is an error, or gets the items with the highest biases.

        Returns
        -------
        ids : ndarray
            Item ids, best first, equal scores by row. For one user of shape (m,), with m < n if
            fewer are left. For many of shape (n_users, n), padded with -1 (None for labels).
        scores : ndarray of the same shape
            Predictions, padded with NaN.

        Notes
        -----
        A user without ratings has zero factors, and so gets the items with the highest biases.
        Time is proportional to ``n_users * n_items * n_factors``; memory to the answer.

        Examples
        --------
        >>> import cmf
        >>> model = cmf.MatrixFactorization(2, random_state=0).fit([[5, 1, 0], [4, 2, 3]])
        >>> ids, scores = model.recommend([0, 1], n=2)
        >>> ids
        array([[ 2, -1],
               [-1, -1]])
        """
        fitted = self._get_fitted()
        leave_out_seen = check_bool(exclude_seen, "exclude_seen")
        policy = check_unknown(unknown)
        factors, seen, one_user = fitted.state.factors, fitted.state.seen, False
        if isinstance(users, NewUsers):
            factors, seen = fold_in.with_users(factors, users)
            user_rows = np.arange(factors.n_users, dtype=np.int64)
        elif users is None:
            user_rows = np.arange(factors.n_users, dtype=np.int64)
        else:
            user_rows, one_user = fitted.users.lookup(users, policy)
        rows, scores = recommendation.top_items(
            factors,
            user_rows,
            _how_many(n, fitted.items, one_user),
            candidates=_candidates(fitted, items, exclude),
            seen=seen if leave_out_seen else None,
        )
        scores = link(fitted.parameters.loss_function, scores)
        return _answer(fitted.items, rows, scores, one_user)

    def similar_items(self, items: Any, n: int = 10) -> tuple[Ids, FloatArray]:
        """Return the items whose factors point the same way: the largest cosines.

        Parameters
        ----------
        items : id or sequence of ids
            What to compare with. An item is not among its own answers.
        n : int, default 10
            How many, as in `recommend`.

        Returns
        -------
        ids, scores : ndarray
            As `recommend`, with cosines between -1 and 1 as float64 scores. Biases do not count;
            items without factors have cosine 0.
        """
        fitted = self._get_fitted()
        return _most_similar(fitted.state.factors.item_factors, fitted.items, items, n)

    def similar_users(self, users: Any, n: int = 10) -> tuple[Ids, FloatArray]:
        """Return the users whose factors point the same way: the largest cosines.

        Parameters
        ----------
        users : id or sequence of ids
            Whom to compare with. A user is not among the own answers.
        n : int, default 10
            How many, as in `recommend`.

        Returns
        -------
        ids, scores : ndarray
            As `similar_items`.
        """
        fitted = self._get_fitted()
        _refuse_new_users(users, "users")
        return _most_similar(fitted.state.factors.user_factors, fitted.users, users, n)

    def recommend_by_neighbors(
        self, user: Any, n: int = 10, *, n_neighbors: int = 3, exclude_seen: bool = True
    ) -> tuple[Ids, FloatArray]:
        """Recommend what the most similar users are predicted to like.

        The similarity of two users is the cosine of their predicted rows, over all items (with
        logistic and Poisson loss of x, as `loss_function` has it, not of probabilities or counts,
        here and in all that follows). The
        predicted rows of the `n_neighbors` most similar other users are added up, each weighted by
        its similarity; what the user has rated is dropped, the rest is sorted.

        Parameters
        ----------
        user : id
            One user.
        n : int, default 10
            How many items, at least 1.
        n_neighbors : int, default 3
            How many other users count, at least 1.
        exclude_seen : bool, default True
            Whether to leave out what the user has rated.

        Returns
        -------
        ids : ndarray of shape (m,)
            Item ids, best first, m ≤ n.
        scores : ndarray of shape (m,), float64
            The weighted sums: not in rating units, since the weights are not divided out.

        Notes
        -----
        Time is proportional to ``(n_users + n_items) * n_factors**2``; the predicted matrix is
        never built.
        """
        fitted = self._get_fitted()
        n_wanted = check_int(n, "n", minimum=1)
        neighbors = check_int(n_neighbors, "n_neighbors", minimum=1)
        leave_out_seen = check_bool(exclude_seen, "exclude_seen")
        _refuse_new_users(user, "user")
        rows, one_user = fitted.users.lookup(user)
        if not one_user:
            raise TypeError("user must be one id, got several")
        row = int(rows[0])
        scores = recommendation.neighbor_scores(fitted.state.factors, row, neighbors)
        seen = fitted.state.seen.row(row) if leave_out_seen else np.empty(0, dtype=np.int64)
        best = recommendation.select(scores, n_wanted, seen)
        return fitted.items.take(best), scores[best]

    # --- new users --------------------------------------------------------------------------------

    def fold_in(self, ratings: RatingsLike) -> NewUsers:
        """Find factors and biases of new users from their ratings; the model stays as it is.

        Each user's are the minimum of the training objective with the items fixed: with squared
        loss a ridge regression, see `cmf.fold_in.fold_in` for the formulas.

        Parameters
        ----------
        ratings : sparse array or matrix, 2-D array-like or wide data frame, (n, n_items)
            One row per new user; the model's items as columns. A frame may have some of the
            model's labels, in any order.

        Returns
        -------
        NewUsers
            A pair ``(factors, biases)`` of shapes (n, n_factors) and (n,), which `recommend` and
            `reconstruct` take in the place of users. Users without ratings get zeros, or the mean
            user of an average over the posterior.

        Notes
        -----
        Time per user is proportional to ``n_ratings * n_factors**2 + n_factors**3``; other losses,
        `l1_regularization` and `nonnegative` solve such problems some ten to a hundred times.
        Calls from several threads are safe.

        Examples
        --------
        >>> import cmf
        >>> model = cmf.MatrixFactorization(2, random_state=0).fit([[5, 1, 4], [4, 2, 3]])
        >>> newcomers = model.fold_in([[5, 0, 0]])
        >>> ids, scores = model.recommend(newcomers, n=1)
        >>> ids.shape
        (1, 1)
        """
        fitted = self._get_fitted()
        return fold_in.fold_in(
            fitted.state.factors,
            _read_new_users(ratings, fitted),
            _objective_of(fitted),
        )

    def transform(self, ratings: RatingsLike) -> FloatArray:
        """Return the factors of users from their ratings: the first part of `fold_in`.

        Parameters
        ----------
        ratings : as in `fold_in`
            Rows are taken as new users, as scikit-learn does.

        Returns
        -------
        ndarray of shape (n, n_factors)
            Factors.
        """
        return self.fold_in(ratings).factors

    def fit_transform(
        self, ratings: RatingsLike, y: object = None, **fit_params: Any
    ) -> FloatArray:
        """Train on ratings, then fold the same ratings in.

        Parameters
        ----------
        ratings : as in `fit`
            Users as rows.
        y : object
            Not used; there for scikit-learn.
        **fit_params
            Passed on to `fit`.

        Returns
        -------
        ndarray of shape (n_users, n_factors)
            ``fit(ratings).transform(ratings)``, close to but not the same as `user_factors_`.
        """
        return self.fit(ratings, y, **fit_params).transform(ratings)

    def score(self, ratings: RatingsLike, y: object = None) -> float:
        """Return minus the RMSE of predicting each user's ratings from the user's other ratings.

        This is what scikit-learn's cross-validation asks for, which hands over rows that training
        has not seen: every second rating of a row (by column) is predicted after folding in the
        rest, then the other way round. For ratings of users that the model knows, take
        ``-model.loss(ratings).rmse``.

        Parameters
        ----------
        ratings : as in `fold_in`
            Rows are taken as new users.
        y : object
            Not used; there for scikit-learn.

        Returns
        -------
        float
            Never above 0; higher is better.
        """
        fitted = self._get_fitted()
        checked = _read_new_users(ratings, fitted)
        squared = 0.0
        for known, hidden in fold_in.halves(checked):
            newcomers = fold_in.fold_in(fitted.state.factors, known, _objective_of(fitted))
            factors, _ = fold_in.with_users(fitted.state.factors, newcomers)
            if hidden.nnz:
                loss = fitted.parameters.loss_function
                squared += losses.exact_loss(hidden, factors, 0.0, loss=loss).sse
        return -math.sqrt(squared / checked.nnz)

    # --- files ------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str] | BinaryIO) -> None:
        """Write the fitted model to a file, in one piece or not at all.

        Parameters
        ----------
        path : str, PathLike or binary file object
            The name is taken as it is. A file there is replaced when the new one is complete.

        Notes
        -----
        Factors, biases, labels, parameters, seen items and history are kept. A `random_state` that
        is neither None nor made of ints is not; continued training needs only the seed drawn from
        it, which is kept. The file is in the safetensors layout with a checksum per array.
        """
        state = self._get_fitted().state
        serialization.save_state(path, state)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | BinaryIO,
        *,
        mmap: bool = False,
        verify: bool = True,
    ) -> Self:
        """Read a model that `save` has written.

        Parameters
        ----------
        path : str, PathLike or binary file object
            What to read. Files from people you do not trust are safe to read: nothing in them is
            executed, and every size is checked before it is allocated.
        mmap : bool, default False
            Whether to map the file instead of reading it, so that several processes share one
            copy. The factors are read-only then; `partial_fit` works on copies.
        verify : bool, default True
            Whether to compare the checksums of the arrays, which reads the whole file once.

        Returns
        -------
        MatrixFactorization
            The fitted model.

        Raises
        ------
        ModelFileError
            If the file is damaged, of a later format, or not a model.
        OSError
            If it cannot be opened.
        """
        state = serialization.load_state(
            path, mmap=check_bool(mmap, "mmap"), verify=check_bool(verify, "verify")
        )
        model = cls(**state.parameters)
        try:
            draw_seed(model.random_state)
            model._fitted = _Fitted.of(state)
        except (TypeError, ValueError) as error:
            raise ModelFileError(f"{path!s} holds an invalid parameter: {error}") from error
        return model


# --- helpers that need no model -------------------------------------------------------------------


def _read_ratings(
    ratings: RatingsLike, weights: object, parameters: Parameters, name: str = "ratings"
) -> CheckedRatings:
    """Check ratings that are to be trained on, and their weights."""
    checked = check_ratings(ratings, dtype=parameters.dtype, name=name)
    check_rating_range(checked, parameters.loss_function, name)
    if weights is None:
        return checked
    if parameters.implicit or parameters.posterior_samples or not parameters.shuffle:
        raise ValueError("weights do not go with implicit, posterior_samples or shuffle=False")
    weighted = check_weights(weights, ratings, checked)
    if uses_defaults(parameters):
        assert weighted.weights is not None
        relative: Any = weighted.weights / weighted.weights.mean(dtype=np.float64)
        weighted = replace(weighted, weights=relative.astype(parameters.dtype))
    return weighted


def _refuse_pairs(ratings: CheckedRatings, y: object) -> None:
    """Refuse ids in two columns with their ratings in `y`: ids would pass for ratings."""
    is_long = isinstance(y, Sized) and not sparse.issparse(y) and len(y) == ratings.shape[0]
    if is_long and ratings.shape[1] == 2 and not (ratings.values % 1).any():
        raise ValueError(
            "ratings has two columns of whole numbers, and y a value for each row: pairs of users "
            "and items, and their ratings? A table is wanted: "
            "scipy.sparse.coo_array((y, (users, items)))"
        )


def _copied(factors: Factors) -> Factors:
    """Return a copy that training may change."""
    own, implicit = factors.own_user_factors, factors.implicit_factors
    return replace(
        factors,
        user_factors=copy_rows(factors.user_factors),
        item_factors=copy_rows(factors.item_factors),
        user_biases=factors.user_biases.copy(),
        item_biases=factors.item_biases.copy(),
        own_user_factors=None if own is None else copy_rows(own),
        implicit_factors=None if implicit is None else copy_rows(implicit),
    )


def _read_known(
    ratings: RatingsLike, fitted: _Fitted, name: str, weights: object = None
) -> CheckedRatings:
    """Check ratings of the model's users and items, and bring labels into the model's order."""
    factors = fitted.state.factors
    checked = _read_ratings(ratings, weights, fitted.parameters, name)
    return align_ratings(
        checked,
        _rows_of(checked.user_ids, fitted.users, name),
        _rows_of(checked.item_ids, fitted.items, name),
        (factors.n_users, factors.n_items),
        name,
    )


def _read_new_users(ratings: RatingsLike, fitted: _Fitted) -> CheckedRatings:
    """Check ratings of new users, one a row, and bring item labels into the model's order."""
    factors = fitted.state.factors
    checked = _read_ratings(ratings, None, fitted.parameters)
    aligned = align_ratings(
        checked,
        None,
        _rows_of(checked.item_ids, fitted.items, "ratings"),
        (checked.shape[0], factors.n_items),
        "ratings",
    )
    return replace(aligned, user_ids=checked.user_ids)


def _objective_of(fitted: _Fitted) -> fold_in.Objective:
    """Return what the model's users were trained to minimize."""
    parameters, trained = fitted.parameters, fitted.state.training
    return fold_in.Objective(
        penalty=trained.user_penalty,
        power=trained.user_power,
        loss=parameters.loss_function,
        huber_threshold=parameters.huber_threshold or trained.spread or 1.0,
        l1=parameters.l1_regularization / 2,
        nonnegative=parameters.nonnegative,
        prior=fitted.prior,
    )


def _rows_of(labels: Ids | None, lookup: RowLookup, name: str) -> Rows | None:
    """Return the model's rows of the labels of a data frame."""
    if labels is None:
        return None
    try:
        return lookup.lookup(labels)[0]
    except TypeError as error:
        raise TypeError(
            f"the labels of {name} are of another kind than the model's, which has its own only "
            f"if it was fitted on a labelled data frame: {error}"
        ) from error


def _pairs(
    fitted: _Fitted, users: Any, items: Any, unknown: UnknownPolicy
) -> tuple[Rows, Rows, bool]:
    """Return rows of users and of items, as many of both, and whether one pair was asked for."""
    policy = check_unknown(unknown)
    _refuse_new_users(users, "users")
    user_rows, one_user = fitted.users.lookup(users, policy)
    item_rows, one_item = fitted.items.lookup(items, policy)
    if one_user:
        user_rows = np.repeat(user_rows, len(item_rows))
    elif one_item:
        item_rows = np.repeat(item_rows, len(user_rows))
    if len(user_rows) != len(item_rows):
        raise ValueError(
            f"users has {len(user_rows)} ids and items has {len(item_rows)}: pairs are wanted"
        )
    return user_rows, item_rows, one_user and one_item


def _refuse_new_users(users: Any, name: str) -> None:
    """Refuse users from `fold_in`, which would pass for a table of numbers."""
    if isinstance(users, NewUsers):
        raise TypeError(f"{name} must be ids: new users are taken by recommend and reconstruct")


def _refuse_changes(parameters: Parameters, fitted: _Fitted) -> None:
    """Refuse to go on training with parameters that the fitted factors do not have."""
    factors = fitted.state.factors
    for name, wanted, found in (
        ("n_factors", parameters.n_factors, factors.n_factors),
        ("dtype", parameters.dtype, factors.dtype.name),
        ("biases", parameters.biases, factors.biased),
        ("loss_function", parameters.loss_function, fitted.parameters.loss_function),
        ("implicit", bool(parameters.implicit), factors.implicit_factors is not None),
    ):
        if wanted != found:
            raise ValueError(
                f"{name} is {wanted!r}, but the model was fitted with {found!r}: call fit to "
                "start again"
            )


def _rows_or_all(ids: Any, lookup: RowLookup) -> Rows:
    return np.arange(len(lookup), dtype=np.int64) if ids is None else lookup.lookup(ids)[0]


def _candidates(fitted: _Fitted, items: Any, exclude: Any) -> Rows:
    """Return the item rows to choose from, ascending."""
    rows = _rows_or_all(items, fitted.items)
    if items is not None:
        rows = np.unique(rows)
    if exclude is not None:
        rows = rows[~np.isin(rows, fitted.items.lookup(exclude)[0])]
    return rows


def _most_similar(
    factors: FloatArray, lookup: RowLookup, ids: Any, n: int
) -> tuple[Ids, FloatArray]:
    rows, one = lookup.lookup(ids)
    found, cosines = recommendation.similar(factors, rows, _how_many(n, lookup, one))
    return _answer(lookup, found, cosines, one)


def _how_many(n: object, lookup: RowLookup, one: bool) -> int:
    """Return the length of lists out of all ids: `n`, if it is not absurd."""
    wanted = check_int(n, "n", minimum=1)
    if one:
        return min(wanted, len(lookup))
    most = max(len(lookup), MOST_PADDED)
    if wanted > most:
        raise ValueError(
            f"n must be at most {most} for several ids, got {wanted}: there are {len(lookup)} to "
            "choose from, and all else would be padding"
        )
    return wanted


def _answer(lookup: RowLookup, rows: Rows, scores: FloatArray, one: bool) -> tuple[Ids, FloatArray]:
    """Return ids for rows: as they are for many, without the padding for one."""
    if not one:
        return lookup.take(rows), scores
    count = int((rows[0] >= 0).sum())
    return lookup.take(rows[0, :count]), scores[0, :count]
