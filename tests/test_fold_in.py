"""New users: the minimum of what training minimizes, with the items as they are."""

from __future__ import annotations

import copy
import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize, sparse

import cmf
from cmf._checks import check_ratings
from cmf._state import Factors
from cmf.fold_in import Objective, Prior, fold_in, halves, prior_of, with_users
from cmf.losses import exact_loss


def random_ratings(n_users=40, n_items=25, density=0.4, seed=0):
    rng = np.random.default_rng(seed)
    rated = rng.random((n_users, n_items)) < density
    return np.where(rated, rng.integers(1, 6, rated.shape), 0).astype(float)


NEW = random_ratings(6, seed=9)
NEW[2] = 0
NEW[3] = 0
NEW[3, 4] = 5


def fit(**changed):
    make = {
        "n_factors": 4,
        "learning_rate": 0.005,
        "regularization": 0.15,
        "n_epochs": 5,
        "dtype": "float64",
        "random_state": 0,
        **changed,
    }
    return cmf.MatrixFactorization(**make).fit(random_ratings())


@pytest.fixture(scope="module")
def model():
    return fit()


def targets(model, row):
    """Return the rated items and what is left of their ratings for factors and bias to explain."""
    items = np.flatnonzero(row)
    return items, row[items] - model.global_mean_ - model.item_biases_.astype(float)[items]


def objective(model, row, x):
    """Return the objective of one user: the loss terms, a share of a squared norm at each visit."""
    items, rest = targets(model, row)
    p, b = x[:-1], x[-1]
    errors = rest - model.item_factors_[items] @ p - b
    penalty = p @ p + (b * b if model.biases else 0)
    return errors @ errors + len(items) * strength(model, len(items)) * penalty


def strength(model, count):
    """Return what one of a user's visits takes off, over the rate and what is left."""
    if model.learning_rate is None and model.regularization is None:
        trained = model._get_fitted().state.training
        return 0.9 * trained.spread * trained.noise / count**0.5
    beta = model.user_regularization
    beta = model.regularization if beta is None else beta
    return (
        beta / 2 / {"rating": 1, "sqrt": count**0.5, "count": count}[model.regularization_scaling]
    )


def gradient(model, row, x, step=1e-5):
    """Return central differences of the objective."""
    free = len(x) if model.biases else len(x) - 1
    return np.array(
        [
            (objective(model, row, x + step * e) - objective(model, row, x - step * e)) / (2 * step)
            for e in np.eye(len(x))[:free]
        ]
    )


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("regularization", [0.02, 0.1, 3.0])
def test_solution_is_where_the_objective_is_flat(biases, regularization):
    model = fit(biases=biases, regularization=regularization)
    P, b = model.fold_in(NEW)
    for u, row in enumerate(NEW):
        x = np.append(P[u], b[u])
        if not row.any():
            assert not x.any()
            continue
        scale = np.abs(gradient(model, row, np.zeros_like(x))).max()
        assert np.abs(gradient(model, row, x)).max() < 1e-8 * scale
        if not biases:
            assert b[u] == 0


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize(
    "changed",
    [
        {"regularization_scaling": "sqrt"},
        {"regularization_scaling": "count"},
        {"user_regularization": 0.4},
        {"user_regularization": 0.4, "regularization_scaling": "count", "adaptive": True},
        {"learning_rate": None, "regularization": 2.0, "regularization_scaling": "sqrt"},
        {"learning_rate": None, "regularization": None, "early_stopping": False},
        {"learning_rate": None, "regularization": None},
    ],
    ids=str,
)
def test_users_are_regularized_as_in_training(changed, biases):
    model = fit(biases=biases, **changed)
    if model.learning_rate is None and model.early_stopping is None:
        model.item_factors_[:] = fit(biases=biases).item_factors_  # so few ratings gave zeros
    P, b = model.fold_in(NEW)
    for p, bias, row in zip(P, b, NEW, strict=True):
        if row.any():
            x = np.append(p, bias)
            scale = np.abs(gradient(model, row, np.zeros_like(x))).max()
            assert np.abs(gradient(model, row, x)).max() < 1e-8 * scale


@pytest.mark.parametrize("biases", [True, False])
def test_solution_is_where_training_comes_to_rest_with_items_frozen(biases):
    model = fit(biases=biases, init_scale=0.5, regularization=1.0)
    row, alpha, beta = NEW[0], 2e-4, 1.0
    items, rest = targets(model, row)
    Q = model.item_factors_[items]
    p, b = np.zeros(4), 0.0
    for _ in range(5_000):
        for q, r in zip(Q, rest, strict=True):
            e = r - p @ q - b
            p = p + alpha * (2 * e * q - beta * p)
            if biases:
                b = b + alpha * (2 * e - beta * b)
    folded = model.fold_in(row[None])
    # Steps of finite length circle the point of rest at a distance in proportion to alpha.
    np.testing.assert_allclose(p, folded.factors[0], atol=2e-3)
    np.testing.assert_allclose(b, folded.biases[0], atol=2e-3)
    assert np.abs(folded.factors[0]).max() > 0.1


@pytest.mark.parametrize("regularization", [1e-3, 1e-7, 1e-9, 1e-12])
def test_both_ways_of_solving_agree_where_they_meet(regularization, monkeypatch):
    # Weak penalties are solved another way, which needs no square of the condition number.
    model = fit(regularization=regularization)
    found = model.fold_in(NEW)
    items, rest = targets(model, NEW[0])
    design = np.column_stack([model.item_factors_[items], np.ones(len(items))])
    penalty = regularization * len(items) / 2
    assert len(items) > 5
    expected = np.linalg.lstsq(
        np.vstack([design, np.sqrt(penalty) * np.eye(5)]), np.append(rest, np.zeros(5)), rcond=None
    )[0]
    np.testing.assert_allclose(np.append(found.factors[0], found.biases[0]), expected, rtol=1e-6)


@pytest.mark.parametrize("biases", [True, False])
def test_without_regularization_the_least_norm_is_taken(biases):
    model = fit(regularization=0.0, biases=biases)
    P, b = model.fold_in(NEW)
    for u in (0, 3):  # more ratings than unknowns, and one rating only
        items, rest = targets(model, NEW[u])
        design = model.item_factors_[items]
        if biases:
            design = np.column_stack([design, np.ones(len(items))])
        expected = np.linalg.pinv(design) @ rest
        np.testing.assert_allclose(np.append(P[u], b[u])[: len(expected)], expected, rtol=1e-9)
    # One rating is met exactly.
    predicted = model.global_mean_ + b[3] + model.item_biases_[4] + P[3] @ model.item_factors_[4]
    assert predicted == pytest.approx(5.0, rel=1e-12)


def test_users_without_ratings_get_zeros(model):
    P, b = model.fold_in(NEW)
    assert not P[2].any()
    assert b[2] == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_result_has_the_type_of_the_model_and_is_solved_in_double(dtype):
    model = fit(dtype=dtype)
    found = model.fold_in(NEW)
    P, b = found
    assert isinstance(found, cmf.NewUsers)
    assert P is found.factors
    assert b is found.biases
    assert P.shape == (6, 4)
    assert b.shape == (6,)
    assert P.dtype == b.dtype == dtype
    if dtype == "float32":
        x = np.append(P[0], b[0]).astype(float)
        scale = np.abs(gradient(model, NEW[0], np.zeros(5), 1e-3)).max()
        assert np.abs(gradient(model, NEW[0], x, 1e-3)).max() < 1e-5 * scale


@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csr_matrix, sparse.coo_array, np.array])
def test_one_and_many_and_every_format_agree(model, kind):
    P, b = model.fold_in(NEW)
    many = model.fold_in(kind(NEW))
    np.testing.assert_array_equal(many.factors, P)
    np.testing.assert_array_equal(many.biases, b)
    for u in (0, 3, 5):
        one = model.fold_in(kind(NEW[[u]]))
        np.testing.assert_array_equal(one.factors[0], P[u])
        assert one.biases[0] == b[u]


def test_model_stays_as_it_is():
    model = fit()
    before = copy.deepcopy(model)
    model.recommend(model.fold_in(NEW))
    model.transform(NEW)
    model.score(NEW)
    for name in ("user_factors_", "item_factors_", "user_biases_", "item_biases_"):
        assert getattr(model, name).tobytes() == getattr(before, name).tobytes()
    np.testing.assert_array_equal(model.recommend(n=25)[0], before.recommend(n=25)[0])
    assert model.n_iter_ == 5


def test_regularization_is_that_of_the_fit():
    model = fit(regularization=0.5)
    expected = model.fold_in(NEW)
    model.set_params(regularization=0.0)
    np.testing.assert_array_equal(model.fold_in(NEW).factors, expected.factors)


def test_known_users_folded_in_come_out_near_their_trained_factors():
    # From the same items the closed form finds what training was on the way to.
    model = fit(n_epochs=2000, learning_rate=0.002, regularization=0.1, shuffle=False)
    P, _ = model.fold_in(random_ratings())
    # Directions that few ratings decide are still on their way after 2000 epochs.
    assert np.median(np.abs(P - model.user_factors_)) < 0.01 * np.median(np.abs(P))


# --- recommending for newcomers -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_recommendations_for_newcomers_are_manual_scores_without_what_they_rated(dtype):
    model = fit(dtype=dtype)
    newcomers = model.fold_in(NEW)
    P, b = (array.astype(float) for array in newcomers)
    table = (
        model.global_mean_
        + b[:, None]
        + model.item_biases_.astype(float)
        + P @ model.item_factors_.astype(float).T
    ).astype(dtype)
    ids, scores = model.recommend(newcomers, n=25)
    for u in range(6):
        order = np.argsort(-table[u], kind="stable")
        order = order[NEW[u][order] == 0]
        assert set(ids[u, len(order) :]) <= {-1}
        np.testing.assert_allclose(scores[u, : len(order)], table[u, order], rtol=1e-6)
        assert set(ids[u, : len(order)]) == set(order)
    everything, _ = model.recommend(newcomers, n=25, exclude_seen=False)
    assert (np.sort(everything, axis=1) == np.arange(25)).all()
    few, _ = model.recommend(newcomers, n=2, items=[1, 2, 3], exclude=[2])
    assert set(few.ravel()) <= {-1, 1, 3}
    found = model.reconstruct(newcomers)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, table, rtol=1e-6)
    np.testing.assert_array_equal(model.reconstruct(newcomers, [7, 0]), found[:, [7, 0]])


@pytest.mark.parametrize(
    "ask",
    [
        lambda model, users: model.predict(users, 0),
        lambda model, users: model.similar_users(users),
        lambda model, users: model.recommend_by_neighbors(users),
    ],
)
def test_newcomers_are_no_ids(ask):
    model = fit()
    with pytest.raises(TypeError, match="new users are taken by recommend and reconstruct"):
        ask(model, model.fold_in(NEW))


def test_newcomers_of_another_model_are_refused():
    with pytest.raises(ValueError, match=r"users.factors has shape \(6, 3\): \(6, 4\) is wanted"):
        fit().recommend(fit(n_factors=3).fold_in(NEW))


def test_newcomers_travel(model):
    newcomers = model.fold_in(NEW)
    for arrived in (pickle.loads(pickle.dumps(newcomers)), copy.deepcopy(newcomers)):
        np.testing.assert_array_equal(arrived.factors, newcomers.factors)
        np.testing.assert_array_equal(
            model.recommend(arrived, n=9)[0], model.recommend(newcomers, n=9)[0]
        )


@pytest.mark.parametrize(
    ("ratings", "error", "message"),
    [
        (np.ones((2, 24)), ValueError, r"ratings has shape \(2, 24\), but the model has 25 items"),
        (np.full((1, 25), np.inf), ValueError, r"ratings\[0, 0\] is inf"),
        (np.ones(25), ValueError, "ratings is 1-D"),
        (np.zeros((1, 25)), ValueError, "holds no rating"),
        ("nothing", ValueError, "ratings"),
    ],
)
def test_bad_ratings_are_refused(model, ratings, error, message):
    for call in (model.fold_in, model.transform, model.score):
        with pytest.raises((error, TypeError), match=message):
            call(ratings)


# --- transform, fit_transform, score --------------------------------------------------------------


def test_transform_is_the_first_part(model):
    np.testing.assert_array_equal(model.transform(NEW), model.fold_in(NEW).factors)
    fresh = cmf.MatrixFactorization(
        4, learning_rate=0.005, n_epochs=5, dtype="float64", random_state=0
    )
    transformed = fresh.fit_transform(random_ratings(), epochs=7)
    assert fresh.n_iter_ == 7
    np.testing.assert_array_equal(transformed, fresh.transform(random_ratings()))


def test_score_predicts_every_second_rating_from_the_others(model):
    squared, count = 0.0, 0
    for row in NEW:
        items = np.flatnonzero(row)
        for hidden in (items[::2], items[1::2]):
            known = row.copy()
            known[hidden] = 0
            p, b = np.zeros(4), 0.0
            if known.any():
                (p,), (b,) = model.fold_in(known[None])
            predicted = (
                model.global_mean_
                + b
                + model.item_biases_[hidden]
                + model.item_factors_[hidden] @ p
            )
            squared += ((row[hidden] - predicted) ** 2).sum()
            count += len(hidden)
    assert count == np.count_nonzero(NEW)
    assert model.score(NEW) == pytest.approx(-np.sqrt(squared / count), rel=1e-12)
    unsorted, rng = sparse.csr_array(NEW), np.random.default_rng(0)
    for start, stop in itertools.pairwise(unsorted.indptr):
        order = start + rng.permutation(stop - start)
        unsorted.indices[start:stop] = unsorted.indices[order]
        unsorted.data[start:stop] = unsorted.data[order]
    unsorted.has_sorted_indices = False
    assert model.score(unsorted) == pytest.approx(model.score(NEW), rel=1e-12)


def test_score_prefers_a_better_model():
    data = cmf.datasets.make_ratings(600, 200, 30_000, n_factors=2, random_state=0)
    train, rest = data.ratings[:500], data.ratings[500:]
    scores = [
        cmf.MatrixFactorization(
            2,
            init_scale=scale,
            learning_rate=0.01,
            n_epochs=40,
            regularization=0.05,
            random_state=0,
        )
        .fit(train)
        .score(rest)
        for scale in (0.1, 0)
    ]
    # Noise has 0.5, the planted interaction 0.6 on top; the second model is of biases alone.
    assert -0.75 < scores[1] + 0.1 < scores[0] < -0.5


# --- other objectives -----------------------------------------------------------------------------

LOSSES = ["squared", "absolute", "huber", "logistic", "poisson"]
THRESHOLD = 0.8


def make_factors(biased=True, dtype="float64", implicit=False, seed=0, n_items=25, k=4):
    """Return a model of one user, with items that are not small."""
    rng = np.random.default_rng(seed)
    Q, Y = (0.7 * rng.normal(size=(n_items, k)).astype(dtype) for _ in range(2))
    c = (0.5 * rng.normal(size=n_items) if biased else np.zeros(n_items)).astype(dtype)
    P, b = np.ones((1, k), dtype=dtype), np.zeros(1, dtype=dtype)
    own = P.copy() if implicit else None
    return Factors(P, Q, b, c, 0.3 * biased, biased, own, Y if implicit else None)


def stored(table, dtype="float64"):
    """Return ratings where the table is not NaN."""
    users, items = np.nonzero(~np.isnan(table))
    matrix = sparse.csr_array((table[users, items], (users, items)), shape=table.shape)
    return check_ratings(matrix, dtype=dtype, allow_empty=True)


def ratings_for(loss, n_items=25, n_users=5, seed=3):
    """Return a table of what the loss is made for; NaN is not rated."""
    rng = np.random.default_rng(seed)
    table = {
        "logistic": rng.integers(0, 2, (n_users, n_items)).astype(float),
        "poisson": rng.poisson(2.0, (n_users, n_items)).astype(float),
    }.get(loss, rng.integers(1, 6, (n_users, n_items)).astype(float))
    table[rng.random(table.shape) < 0.4] = np.nan
    table[-1, 1:] = np.nan
    table[-1, 0] = 1.0
    return table


def loss_of(loss, r, x):
    """Return the loss that has the slope of the step."""
    e = np.abs(r - x)
    return {
        "squared": lambda: e**2 / 2,
        "absolute": lambda: e,
        "huber": lambda: np.where(e < THRESHOLD, e**2 / 2, THRESHOLD * (e - THRESHOLD / 2)),
        "logistic": lambda: np.log1p(np.exp(x)) - r * x,
        "poisson": lambda: np.exp(x) - r * x,
    }[loss]()


def pieces(factors, row):
    """Return ratings, what is predicted of them without the user, and the design."""
    items = np.flatnonzero(~np.isnan(row))
    Q = factors.item_factors[items].astype(float)
    offsets = factors.global_mean + factors.item_biases[items].astype(float)
    if factors.implicit_factors is not None:
        offsets = offsets + Q @ shift(factors, items)
    return row[items], offsets, np.column_stack([Q, np.ones((len(items), int(factors.biased)))])


def shift(factors, items):
    """Return what implicit features add to the factors of a user."""
    return factors.implicit_factors[items].astype(float).sum(axis=0) / np.sqrt(len(items))


def total_of(factors, objective, row, w):
    """Return the objective of one user, from its formula."""
    r, offsets, design = pieces(factors, row)
    strength = objective.penalty * len(r) ** (1 - objective.power)
    l1 = len(r) * objective.l1 * np.abs(w[: factors.n_factors]).sum()
    losses = loss_of(objective.loss, r, offsets + design @ w).sum()
    if objective.prior is None:
        return losses + strength / 2 * w @ w + l1
    away = w - objective.prior.mean
    return losses + away @ objective.prior.precision @ away / 2 + l1


def found_rows(factors, objective, table):
    """Fold in, and return what was solved for."""
    users = fold_in(factors, stored(table), objective)
    rows = users.factors.astype(float)
    if factors.implicit_factors is not None:
        rows -= [shift(factors, np.flatnonzero(~np.isnan(row))) for row in table]
    if not factors.biased:
        assert not users.biases.any()
        return rows
    return np.column_stack([rows, users.biases.astype(float)])


def slow_least(factors, objective, row):
    """Return the least objective, by a general method that sees its values only.

    Rows are the difference of two that are not negative, so that the L1 norm is smooth.
    """
    k, width = factors.n_factors, factors.n_factors + factors.biased

    def row_of(v):
        return np.concatenate([v[:k] - v[width:], v[k:width]])

    upper = [(0, 0 if objective.nonnegative else None)] * k
    bounds = [(0, None)] * k + [(None, None)] * (width - k) + upper
    start = [0.3 * (high != 0) for _, high in bounds]
    with np.errstate(all="ignore"):  # of rows that are tried on the way
        return optimize.minimize(
            lambda v: total_of(factors, objective, row, row_of(v)),
            start,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": 5000, "maxfun": 100_000, "ftol": 1e-15, "gtol": 1e-9},
        ).fun


def slow_least_absolute(factors, objective, row):
    """Return the least sum of absolute losses with a ridge, from the dual problem."""
    r, offsets, design = pieces(factors, row)
    strength = objective.penalty * len(r) ** (1 - objective.power)
    rest = r - offsets
    gram = design @ design.T / strength

    def dual(a):
        return a @ gram @ a / 2 - rest @ a, gram @ a - rest

    found = optimize.minimize(
        dual,
        np.zeros(len(r)),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-1, 1)] * len(r),
        options={"maxiter": 20_000, "maxfun": 100_000, "ftol": 1e-15, "gtol": 1e-10},
    )
    return -found.fun


def assert_least(factors, objective, table, least, rtol=1e-8):
    rows = found_rows(factors, objective, table)
    for w, row in zip(rows, table, strict=True):
        expected = least(factors, objective, row)
        found = total_of(factors, objective, row, w)
        # Never above the slow twin, which may fall short itself, but not by much.
        assert found <= expected + rtol * (1 + abs(expected))
        assert found >= expected - 1e-4 * (1 + abs(expected))
    return rows


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("power", [0.0, 0.5])
@pytest.mark.parametrize("loss", ["squared", "huber", "logistic", "poisson"])
def test_every_smooth_loss_is_minimized(loss, power, biased, implicit):
    factors = make_factors(biased, implicit=implicit)
    objective = Objective(0.2, power, loss, THRESHOLD)
    table = ratings_for(loss)
    rows = assert_least(factors, objective, table, slow_least)
    for w, row in zip(rows, table, strict=True):  # and the objective is flat there
        slopes = [
            total_of(factors, objective, row, w + 1e-5 * e)
            - total_of(factors, objective, row, w - 1e-5 * e)
            for e in np.eye(len(w))
        ]
        assert np.abs(slopes).max() / 2e-5 < 1e-5


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("penalty", [0.02, 0.5])
def test_absolute_loss_is_minimized(penalty, biased, implicit):
    factors = make_factors(biased, implicit=implicit)
    objective = Objective(penalty, 0.5, "absolute")
    assert_least(factors, objective, ratings_for("absolute"), slow_least_absolute, rtol=3e-6)


@pytest.mark.parametrize("l1", [0.0, 0.1])
@pytest.mark.parametrize("nonnegative", [False, True])
def test_absolute_loss_without_a_ridge_is_a_linear_program(l1, nonnegative):
    factors, table = make_factors(), ratings_for("absolute")
    objective = Objective(0.0, 0.0, "absolute", l1=l1, nonnegative=nonnegative)

    def least(factors, objective, row):
        r, offsets, design = pieces(factors, row)
        n, k = len(r), factors.n_factors
        costs = np.concatenate([np.full(2 * k, n * l1), [0, 0], np.ones(2 * n)])
        pairs = np.column_stack([design[:, :k], -design[:, :k], np.ones(n), -np.ones(n)])
        equations = np.column_stack([pairs, np.eye(n), -np.eye(n)])
        upper = np.full(costs.shape, np.inf)
        upper[k : 2 * k] = 0 if nonnegative else np.inf
        bounds = np.column_stack([np.zeros_like(upper), upper])
        found = optimize.linprog(costs, A_eq=equations, b_eq=r - offsets, bounds=bounds)
        return found.fun

    rows = assert_least(factors, objective, table, least, rtol=1e-5)
    assert not nonnegative or rows[:, :4].min() >= 0


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("l1", "nonnegative"), [(0.08, False), (0.0, True), (0.03, True)])
@pytest.mark.parametrize("loss", ["squared", "huber", "logistic", "poisson"])
def test_bounded_factors_are_optimal(loss, l1, nonnegative, biased):
    factors = make_factors(biased)
    objective = Objective(0.05, 0.5, loss, THRESHOLD, l1, nonnegative)
    table = ratings_for(loss)
    rows = assert_least(factors, objective, table, slow_least)
    smooth = replace(objective, l1=0.0)
    for w, row in zip(rows, table, strict=True):
        count = np.count_nonzero(~np.isnan(row))
        for j in range(len(w)):
            step = 1e-5 * np.eye(len(w))[j]
            slope = total_of(factors, smooth, row, w + step)
            slope = (slope - total_of(factors, smooth, row, w - step)) / 2e-5
            pull = count * l1 if j < 4 else 0.0
            if w[j] != 0 or j == 4:
                assert slope + pull * np.sign(w[j]) == pytest.approx(0, abs=1e-5)
            else:
                assert slope >= -pull - 1e-5
                assert nonnegative or slope <= pull + 1e-5
    P = rows[:, :4]
    assert (P == 0).any()  # exactly
    assert (P != 0).any()
    assert not nonnegative or P.min() >= 0


def test_biases_may_be_negative_where_factors_may_not():
    factors, table = make_factors(), ratings_for("squared")
    rows = found_rows(factors, Objective(0.1, nonnegative=True), -table)
    assert rows[:, :4].min() >= 0
    assert rows[:, 4].max() < 0


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_strong_l1_leaves_biases_alone(loss, nonnegative):
    factors, table = make_factors(), ratings_for(loss)
    objective = Objective(0.1, 0.5, loss, THRESHOLD, l1=1e3, nonnegative=nonnegative)
    rows = found_rows(factors, objective, table)
    assert not rows[:, :4].any()
    assert rows[:, 4].all()


@pytest.mark.parametrize("loss", LOSSES)
def test_models_of_single_precision_are_solved_in_double(loss):
    objective, table = Objective(0.2, 0.5, loss, THRESHOLD), ratings_for(loss)
    narrow = make_factors(dtype="float32")
    wide = Factors(
        *(getattr(narrow, name).astype(float) for name in ("user_factors", "item_factors")),
        *(getattr(narrow, name).astype(float) for name in ("user_biases", "item_biases")),
        narrow.global_mean,
        biased=True,
    )
    found = fold_in(narrow, stored(table, "float32"), objective)
    expected = fold_in(wide, stored(table), objective)
    assert found.factors.dtype == found.biases.dtype == "float32"
    np.testing.assert_array_equal(found.factors, expected.factors.astype("float32"))
    np.testing.assert_array_equal(found.biases, expected.biases.astype("float32"))


@pytest.mark.parametrize("bounded", [{}, {"l1": 0.05}, {"nonnegative": True}])
@pytest.mark.parametrize("loss", LOSSES)
def test_users_do_not_depend_on_each_other(loss, bounded):
    factors, table = make_factors(), ratings_for(loss)
    objective = Objective(0.2, 0.5, loss, THRESHOLD, **bounded)
    together = fold_in(factors, stored(table), objective)
    for u in range(len(table)):
        alone = fold_in(factors, stored(table[[u]]), objective)
        assert alone.factors[0].tobytes() == together.factors[u].tobytes()
        assert alone.biases[0] == together.biases[u]


def test_the_general_way_agrees_with_the_closed_form():
    # A prior that is a ridge is not solved as one.
    table = ratings_for("squared")[:1]
    strength = 0.3 * np.count_nonzero(~np.isnan(table)) ** 0.5
    for biased in (True, False):
        factors, width = make_factors(biased), 4 + biased
        same = Objective(prior=Prior(np.zeros(width), strength * np.eye(width)))
        np.testing.assert_allclose(
            found_rows(factors, same, table),
            found_rows(factors, Objective(0.3, 0.5), table),
            rtol=1e-9,
        )


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"loss_function": "absolute"}, {"loss": "absolute"}),
        (
            {"loss_function": "huber", "huber_threshold": 0.7},
            {"loss": "huber", "huber_threshold": 0.7},
        ),
        ({"loss_function": "poisson"}, {"loss": "poisson"}),
        ({"l1_regularization": 0.1}, {"l1": 0.05}),
        ({"nonnegative": True}, {"nonnegative": True}),
        ({"loss_function": "huber"}, {"loss": "huber"}),
        (
            {"loss_function": "huber", "learning_rate": None, "early_stopping": False},
            {"loss": "huber"},
        ),
        ({"implicit": True}, {}),
    ],
    ids=str,
)
def test_models_fold_in_what_they_were_trained_on(changed, expected):
    model = fit(n_epochs=20, init_scale=0.5, **changed)
    state = model._get_fitted().state
    trained = state.training
    if changed.get("loss_function") == "huber" and "huber_threshold" not in changed:
        expected = {**expected, "huber_threshold": trained.spread}
        assert 0.5 < trained.spread < 3
    objective = Objective(trained.user_penalty, trained.user_power, **expected)
    by_hand = fold_in(state.factors, check_ratings(NEW, dtype="float64"), objective)
    found = model.fold_in(NEW)
    assert found.factors.tobytes() == by_hand.factors.tobytes()
    assert found.biases.tobytes() == by_hand.biases.tobytes()
    assert found.factors.any()
    assert model.score(NEW) < 0


@pytest.mark.parametrize("loss", LOSSES)
def test_items_without_factors_and_no_biases_leave_nothing(loss):
    factors = make_factors(biased=False)
    factors.item_factors[:] = 0
    for penalty in (0.0, 0.1):
        objective = Objective(penalty, 0.5, loss, THRESHOLD)
        assert not found_rows(factors, objective, ratings_for(loss)).any()


# --- implicit features ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_implicit_features_are_added_to_what_is_solved_for(dtype):
    factors = make_factors(dtype=dtype, implicit=True)
    table = np.full((2, 25), np.nan)
    table[0, [3, 7, 20]] = [5, 1, 4]
    P, b = fold_in(factors, stored(table, dtype), Objective(0.4))
    y = factors.implicit_factors.astype(float)
    s = (y[3] + y[7] + y[20]) / np.sqrt(3)
    Q = factors.item_factors[[3, 7, 20]].astype(float)
    rest = np.array([5, 1, 4]) - 0.3 - factors.item_biases[[3, 7, 20]].astype(float) - Q @ s
    X = np.column_stack([Q, np.ones(3)])
    w = np.linalg.solve(X.T @ X + 3 * 0.4 * np.eye(5), X.T @ rest)
    np.testing.assert_allclose(P[0], w[:4] + s, rtol=1e-5 if dtype == "float32" else 1e-12)
    np.testing.assert_allclose(b[0], w[4], rtol=1e-5 if dtype == "float32" else 1e-12)
    assert not P[1].any()  # no ratings
    assert b[1] == 0


def test_folded_in_users_have_no_rows_of_their_own():
    factors = make_factors(implicit=True)
    users = fold_in(factors, stored(ratings_for("squared")), Objective(0.4))
    found, _ = with_users(factors, users)
    assert found.own_user_factors is None
    assert found.implicit_factors is None
    assert found.user_factors.tobytes() == users.factors.tobytes()
    assert factors.implicit_factors is not None


# --- priors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("biased", [True, False])
def test_a_prior_takes_the_place_of_the_penalty(biased):
    factors, table = make_factors(biased), ratings_for("squared")
    table[1] = np.nan
    rng, width = np.random.default_rng(5), 4 + biased
    root = rng.normal(size=(width, width))
    prior = Prior(rng.normal(size=width), root @ root.T)
    rows = found_rows(factors, Objective(123.0, 0.5, prior=prior), table)
    for w, row in zip(rows, table, strict=True):
        r, offsets, X = pieces(factors, row)
        expected = np.linalg.solve(
            X.T @ X + prior.precision, X.T @ (r - offsets) + prior.precision @ prior.mean
        )
        np.testing.assert_allclose(w, expected, rtol=1e-7)
    np.testing.assert_array_equal(rows[1], prior.mean)  # without ratings


@pytest.mark.parametrize("loss", ["huber", "logistic", "poisson"])
def test_every_loss_takes_a_prior(loss):
    factors, table = make_factors(), ratings_for(loss)
    root = np.random.default_rng(5).normal(size=(5, 5))
    prior = Prior(np.full(5, 0.2), root @ root.T)
    assert_least(factors, Objective(0.0, 0.0, loss, THRESHOLD, prior=prior), table, slow_least)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("block", [2**18, 64])
def test_prior_is_mean_and_covariance_of_rated_users(biased, dtype, block, monkeypatch):
    monkeypatch.setattr("cmf.fold_in.NUMBERS_AT_ONCE", block)
    rng = np.random.default_rng(0)
    P = (1000 + rng.normal(size=(200, 3)) @ rng.normal(size=(3, 3))).astype(dtype)
    b = (rng.normal(size=200) if biased else np.zeros(200)).astype(dtype)
    rated = rng.random(200) < 0.7
    P[~rated] = 1e6
    items = np.ones((5, 3), dtype=dtype)
    factors = Factors(P, items, b, np.zeros(5, dtype=dtype), 0.0, biased)
    prior = prior_of(factors, rated, 0.5)
    rows = np.column_stack([P, b]).astype(float)[rated][:, : 3 + biased]
    covariance = np.cov(rows.T, bias=True)
    np.testing.assert_allclose(prior.mean, rows.mean(axis=0), rtol=1e-12, atol=1e-12)
    scale = np.trace(covariance)
    np.testing.assert_allclose(
        np.linalg.inv(prior.precision / 0.25), covariance, rtol=1e-5, atol=1e-6 * scale
    )


@pytest.mark.parametrize("n_rated", [0, 1, 2])
@pytest.mark.parametrize("same", [True, False])
def test_prior_of_few_users_is_a_proper_one(n_rated, same):
    rng = np.random.default_rng(0)
    P = np.ones((4, 3)) if same else rng.normal(size=(4, 3))
    factors = Factors(P, rng.normal(size=(5, 3)), P[:, 0].copy(), np.zeros(5), 3.0, biased=True)
    rated = np.arange(4) < n_rated
    prior = prior_of(factors, rated, 0.5)
    assert np.linalg.eigvalsh(prior.precision).min() > 0
    table = np.full((2, 5), np.nan)
    table[0, :2] = 4.0
    users = fold_in(factors, stored(table), Objective(prior=prior))
    assert np.isfinite(users.factors).all()
    if n_rated == 1:  # who knows one user takes all to be like that one
        np.testing.assert_allclose(users.factors, np.tile(P[0], (2, 1)), rtol=1e-3, atol=1e-3)


def test_a_prior_helps_where_users_are_alike():
    data = cmf.datasets.make_ratings(600, 200, 30_000, n_factors=3, random_state=0)
    model = cmf.MatrixFactorization(6, posterior_samples=20, burn_in=10, random_state=0)
    model.fit(data.ratings[:500])
    state, rest = model._get_fitted().state, check_ratings(data.ratings[500:], dtype="float32")
    prior = prior_of(state.factors, np.diff(state.seen.indptr) > 0, state.uncertainty.noise_std)
    trained = state.training
    errors = []
    for objective in (Objective(prior=prior), Objective(trained.user_penalty, trained.user_power)):
        squared = 0.0
        for known, hidden in halves(rest):
            factors, _ = with_users(state.factors, fold_in(state.factors, known, objective))
            squared += exact_loss(hidden, factors, 0.0).sse
        errors.append(np.sqrt(squared / rest.nnz))
    assert errors[0] < errors[1] - 0.005
    # It is what the model does.
    assert model.score(data.ratings[500:]) == pytest.approx(-errors[0], rel=1e-6)
    newcomers = model.fold_in(np.vstack([np.zeros(200), np.arange(200) % 5]))
    np.testing.assert_allclose(newcomers.factors[0], prior.mean[:6], rtol=1e-6)
    assert newcomers.biases[0] == pytest.approx(prior.mean[6], rel=1e-6)


# --- the edge of what can be solved ---------------------------------------------------------------


@pytest.mark.parametrize(("k", "dtype"), [(1, "float64"), (4, "float32"), (12, "float64")])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("bounded", [{}, {"l1": 0.05}, {"nonnegative": True}])
@pytest.mark.parametrize(
    ("loss", "rating"),
    [("logistic", 0.0), ("logistic", 1.0), ("poisson", 0.0), ("poisson", 1e15)]
    + [(loss, 3.0) for loss in ("squared", "absolute", "huber")],
)
def test_results_are_finite_without_regularization(loss, rating, bounded, biased, dtype, k):
    # With links, all alike or all zero: what is best lies at infinity.
    factors = make_factors(biased, dtype, k=k)
    table = np.full((3, 25), np.nan)
    table[0], table[1, :3], table[2, 0] = rating, rating, rating
    P, b = fold_in(factors, stored(table, dtype), Objective(0.0, 0.0, loss, THRESHOLD, **bounded))
    assert np.isfinite(P).all()
    assert np.isfinite(b).all()
    assert not bounded.get("nonnegative") or P.min() >= 0
    if biased and loss in ("logistic", "poisson"):
        design = np.column_stack([factors.item_factors, np.ones(25)]).astype(float)
        x = design[0] @ np.append(P[2], b[2]) + factors.global_mean + factors.item_biases[0]
        mean = np.exp(x) if loss == "poisson" else 1 / (1 + np.exp(-x))
        # x is rounded to the dtype.
        assert mean == pytest.approx(rating, rel=1e-4 if dtype == "float32" else 1e-6, abs=1e-6)


@pytest.mark.parametrize("bounded", [{}, {"l1": 0.05}, {"nonnegative": True}])
@pytest.mark.parametrize("loss", LOSSES)
def test_items_without_factors_leave_the_bias(loss, bounded):
    factors = make_factors()
    factors.item_factors[:] = 0
    for penalty in (0.0, 0.1):
        objective = Objective(penalty, 0.5, loss, THRESHOLD, **bounded)
        rows = found_rows(factors, objective, ratings_for(loss))
        assert np.abs(rows[:, :4]).max() < 1e-12
        assert np.abs(rows[:, 4]).min() > 1e-3


@pytest.mark.parametrize("bounded", [{}, {"l1": 0.05}, {"nonnegative": True}])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-30, 1e30, 1e160, 1e300])
def test_extreme_items_give_finite_factors_or_an_error(loss, scale, bounded):
    factors = make_factors()
    factors.item_factors[:] *= scale
    for penalty in (0.0, 0.1):
        objective = Objective(penalty, 0.5, loss, THRESHOLD, **bounded)
        try:
            users = fold_in(factors, stored(ratings_for(loss)), objective)
        except ValueError as error:
            assert "too large" in str(error)  # noqa: PT017
        else:
            assert np.isfinite(users.factors).all()


@pytest.mark.parametrize(
    "bounded", [{"l1": 0.05}, {"nonnegative": True}, {"prior": Prior(np.zeros(5), np.eye(5))}]
)
def test_ratings_that_are_too_large_are_an_error(bounded):
    factors, table = make_factors(), np.full((2, 25), np.nan)
    table[0, :3], table[1, :3] = 1.0, 1e200
    with pytest.raises(ValueError, match=r"ratings are too large in row 1: .* in float64"):
        fold_in(factors, stored(table), Objective(0.1, **bounded))


@pytest.mark.parametrize("loss", ["absolute", "huber"])
def test_large_ratings_are_no_trouble_for_robust_losses(loss):
    factors, table = make_factors(), ratings_for(loss)
    objective, outlier = (
        Objective(0.2, 0.5, loss, THRESHOLD),
        np.flatnonzero(~np.isnan(table[0]))[0],
    )
    rows = []
    for rating in (20.0, 1e5, 1e200):
        table[0, outlier] = rating
        rows.append(found_rows(factors, objective, table))
    np.testing.assert_allclose(rows[1], rows[0], rtol=1e-3, atol=1e-3)  # no matter how far
    assert np.isfinite(rows[2]).all()


def test_halves_take_ratings_with_weights():
    ratings = stored(ratings_for("squared"))
    weighted = replace(ratings, weights=np.full(ratings.nnz, 2.0))
    for (known, hidden), (expected, _) in zip(halves(weighted), halves(ratings), strict=True):
        np.testing.assert_array_equal(known.values, expected.values)
        assert known.nnz + hidden.nnz == ratings.nnz
        assert known.weights is None
        assert known.user_ids is None
