"""New users in closed form."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest
from scipy import sparse

import cmf


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
