"""The kernel of five losses: by hand, against its twin, against derivatives, and its properties."""

import itertools
import math

import numpy as np
import pytest
import reference
from arrays import misaligned, overpadded, padding, unpadded
from blocks import general_block
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOATS, INDICES, make_problem, problems

from cmf._kernels.general import sum_losses
from cmf._kernels.interleaved import highest_level
from cmf._kernels.sgd import sgd_epoch
from cmf._rows import copy_rows

LEVELS = range(highest_level() + 1)
LOSSES = range(5)
SQUARED, ABSOLUTE, HUBER, LOGISTIC, POISSON = LOSSES
# Slopes are minus the derivative of this multiple of the loss.
MULTIPLES = {SQUARED: 0.5, ABSOLUTE: 1, HUBER: 0.5, LOGISTIC: 1, POISSON: 1}

FACTORS = ("user_factors", "item_factors")
TRAINED = (*FACTORS, "user_biases", "item_biases", "user_records", "item_records")

# A row is visited at most 8 times, and each visit rounds numbers whose last place is 2**-22 a
# handful of times; slopes of exp round in proportion to it. A missing term is 1e-4.
TOLERANCES = {np.float32: {"rtol": 2e-5, "atol": 1e-5}, np.float64: {"rtol": 1e-11, "atol": 1e-13}}


def case_of(problem, loss, rng, **changed):
    """Return all arguments of an epoch, by name, with every option in use."""
    dtype = problem.dtype
    return {
        "cuts": problem.indptr,
        "indices": problem.indices,
        "ratings": as_rated_for(loss, problem.ratings),
        "weights": rng.choice([0, 0.5, 1, 2.5], len(problem.ratings)).astype(dtype),
        "row_order": problem.row_order,
        "user_factors": problem.user_factors,
        "item_factors": problem.item_factors,
        "user_biases": problem.user_biases / 4,
        "item_biases": problem.item_biases / 4,
        "user_records": records(rng, problem.n_users, dtype),
        "item_records": records(rng, problem.n_items, dtype),
        "first": 0,
        "last": problem.n_users,
        "strip": 0,
        "n_strips": 1,
        "level": highest_level(),
        "loss": loss,
        "huber_threshold": 0.75,
        "slope_limit": 1.25,
        "biased": True,
        "global_mean": 0.5,
        "user_rate": 2.0**-5,
        "item_rate": 3 * 2.0**-7,
        "bias_rate": 2.0**-6,
        "gradient_weight": 0.25,
        "l1_user": 0.5,
        "l1_item": 0.75,
        "nonnegative": False,
        "together": True,
        **changed,
    }


def records(rng, n_rows, dtype):
    """Return G, a number that is not to be read, l and lb of each row."""
    columns = rng.uniform(1, 3, n_rows), [np.nan] * n_rows, *rng.uniform(0, 0.5, (2, n_rows))
    return np.column_stack(columns).astype(dtype)


def as_rated_for(loss, values):
    """Make values from -1 to 5 ratings that a loss can take."""
    if loss == LOGISTIC:
        shares = (values + 1) / 6
        return np.where(shares < 0.6, np.round(shares), shares).astype(values.dtype)
    return np.round(abs(values)) if loss == POISSON else values


def random_case(loss, rng, *, dtype=np.float64, index_dtype=np.int32, n_factors=11, **changed):
    problem = make_problem(
        rng, rng.random((7, 8)) < 0.5, n_factors, dtype=dtype, index_dtype=index_dtype
    )
    return case_of(problem, loss, rng, **changed)


def one_rating(loss, rating, *, p=(0.0,), q=(0.0,), b=0.0, c=0.0, dtype=np.float64, **changed):
    """Return the case of a single rating, with constant rates of 0 and nothing else in use."""
    return {
        "cuts": np.array([0, 1]),
        "indices": np.zeros(1, dtype=np.int32),
        "ratings": np.array([rating], dtype=dtype),
        "weights": None,
        "row_order": None,
        "user_factors": np.array([p], dtype=dtype),
        "item_factors": np.array([q], dtype=dtype),
        "user_biases": np.array([b], dtype=dtype),
        "item_biases": np.array([c], dtype=dtype),
        "user_records": np.array([[1, 0, 0, 0]], dtype=dtype),
        "item_records": np.array([[1, 0, 0, 0]], dtype=dtype),
        "first": 0,
        "last": 1,
        "strip": 0,
        "n_strips": 1,
        "level": highest_level(),
        "loss": loss,
        "huber_threshold": 0.5,
        "slope_limit": np.inf,
        "biased": True,
        "global_mean": 0.0,
        "user_rate": 0.0,
        "item_rate": 0.0,
        "bias_rate": 0.0,
        "gradient_weight": 0.0,
        "l1_user": 0.0,
        "l1_item": 0.0,
        "nonnegative": False,
        "together": False,
        **changed,
    }


def run(case, epoch=general_block, copy=np.array):
    """Run one epoch on copies of what is trained; return the sum and the copies by name."""
    copies = {name: copy(case[name]) for name in TRAINED}
    if epoch is general_block:
        copies.update({name: copy_rows(case[name]) for name in FACTORS})
    total = epoch(**{**case, **copies})
    if epoch is general_block and np.isfinite(total):
        assert not any(padding(copies[name]).any() for name in FACTORS)
    return total, copies


def in_double(array):
    return np.array(array, dtype=np.float64)


def assert_equals_twin(case):
    found, mine = run(case)
    expected, theirs = run(case, reference.general_epoch, in_double)
    tolerance = TOLERANCES[case["ratings"].dtype.type]
    for name in TRAINED:
        np.testing.assert_allclose(mine[name], theirs[name], err_msg=name, **tolerance)
    assert found == pytest.approx(
        expected, rel=tolerance["rtol"], abs=tolerance["atol"] * len(case["ratings"])
    )


def assert_identical(found, expected):
    assert np.float64(found[0]).tobytes() == np.float64(expected[0]).tobytes()
    for name in TRAINED:
        assert found[1][name].tobytes() == expected[1][name].tobytes(), name


# --- by hand ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_one_step_by_hand(dtype):
    # error = 10 - (2·3 + 1·-2) = 6, of weight 0.5: d = 3. Rates: 0.2 / sqrt(4) and 0.1 / sqrt(1).
    case = one_rating(
        SQUARED,
        10,
        p=[2, 1],
        q=[3, -2],
        dtype=dtype,
        weights=np.array([0.5], dtype=dtype),
        user_records=np.array([[4, 0, 0.5, 0]], dtype=dtype),
        item_records=np.array([[1, 0, 0.25, 0]], dtype=dtype),
        user_rate=0.2,
        item_rate=0.1,
        gradient_weight=0.01,
        l1_user=1.0,
        l1_item=0.5,
    )
    losses, found = run(case)
    assert losses == 18.0
    # 2 + .1 (3·3 - .5·2) = 2.8 and 1 + .1 (3·-2 - .5·1) = .35, shrunk by .1
    assert found["user_factors"][0].tolist() == pytest.approx([2.7, 0.25], rel=1e-6)
    # 3 + .1 (3·2.7 - .25·3) = 3.735 and -2 + .1 (3·.25 - .25·-2) = -1.875, shrunk by .05
    assert found["item_factors"][0].tolist() == pytest.approx([3.685, -1.825], rel=1e-6)
    assert found["user_records"][0, 0] == pytest.approx(4 + 0.01 * (8**2 + 6.5**2), rel=1e-6)
    assert found["item_records"][0, 0] == pytest.approx(1 + 0.01 * (7.35**2 + 1.25**2), rel=1e-6)
    _, found = run({**case, "nonnegative": True})
    assert found["item_factors"][0].tolist() == pytest.approx([3.685, 0], rel=1e-6)
    _, found = run({**case, "together": True})
    # 3 + .1 (3·2 - .25·3) = 3.525 and -2 + .1 (3·1 - .25·-2) = -1.65, shrunk by .05
    assert found["item_factors"][0].tolist() == pytest.approx([3.475, -1.6], rel=1e-6)


@pytest.mark.parametrize("dtype", FLOATS)
def test_biases_by_hand(dtype):
    # error = 10 - (1 + 2 - 3 + 2·3) = 4
    case = one_rating(
        SQUARED,
        10,
        p=[2],
        q=[3],
        b=2,
        c=-3,
        dtype=dtype,
        global_mean=1.0,
        bias_rate=0.1,
        user_records=np.array([[4, 0, 0, 0.5]], dtype=dtype),
        item_records=np.array([[9, 0, 0, 0.25]], dtype=dtype),
        l1_user=9.0,
        nonnegative=True,
    )
    losses, found = run(case)
    assert losses == 16.0
    assert found["user_biases"][0] == pytest.approx(2.3, rel=1e-6)  # 2 + .1 (4 - .5·2)
    assert found["item_biases"][0] == pytest.approx(-2.525, rel=1e-6)  # -3 + .1 (4 - .25·-3)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("loss", "rating", "x", "value", "slope"),
    [
        (SQUARED, 3, 1, 4, 2),
        (SQUARED, 1, 3, 4, -2),
        (ABSOLUTE, 3, 1, 2, 1),
        (ABSOLUTE, 1, 3, 2, -1),
        (ABSOLUTE, 2, 2, 0, 0),
        (HUBER, 1.25, 1, 0.0625, 0.25),
        (HUBER, 1, 1.5, 0.25, -0.5),
        (HUBER, 3, 1, 1.75, 0.5),  # .5 (2·2 - .5)
        (HUBER, 1, 3, 1.75, -0.5),
        (LOGISTIC, 1, 0, math.log(2), 0.5),
        (LOGISTIC, 0, 0, math.log(2), -0.5),
        (LOGISTIC, 0.25, 0, math.log(2), -0.25),
        (LOGISTIC, 0, math.log(3), math.log(4), -0.75),
        (LOGISTIC, 0, -math.log(3), math.log(4 / 3), -0.25),
        (LOGISTIC, 1, 800, 0, 0),
        (LOGISTIC, 0, 800, 800, -1),
        (LOGISTIC, 1, -800, 800, 1),
        (POISSON, 2, 0, 1, 1),
        (POISSON, 3, math.log(5), 5 - 3 * math.log(5), -2),
        (POISSON, 0, -900, 0, 0),
        (POISSON, 1, 40, math.exp(40) - 40, 1 - math.exp(40)),
        (POISSON, 1, 42, 3 * math.exp(40) - 42, 1 - math.exp(40)),
        (POISSON, 1, 1e30, 1e30 * math.exp(40), 1 - math.exp(40)),
    ],
)
def test_losses_by_hand(loss, rating, x, value, slope, dtype):
    # With a rate of 1 and nothing else, what is added to a bias of 0 is the slope.
    case = one_rating(loss, rating, b=x, dtype=dtype, bias_rate=1.0)
    losses, found = run(case)
    assert losses == pytest.approx(value, rel=1e-6, abs=1e-6)
    assert found["item_biases"][0] == pytest.approx(slope, rel=1e-6, abs=1e-6)
    predictions = np.array([x], dtype=dtype)
    assert sum_losses(case["ratings"], None, predictions, loss, 0.5) == losses


# --- the twin -----------------------------------------------------------------------------------

OPTIONS = {
    "weights": [None],
    "biased": [False],
    "gradient_weight": [0.0],
    "l1_user": [0.0],
    "l1_item": [0.0],
    "nonnegative": [True],
    "together": [False],
    "slope_limit": [np.inf],
}


def combinations():
    """Yield what is changed of a case in which all options are in use, in all combinations."""
    keep = object()
    for values in itertools.product(*((keep, *others) for others in OPTIONS.values())):
        yield {
            name: value for name, value in zip(OPTIONS, values, strict=True) if value is not keep
        }


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("index_dtype", INDICES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_combination_equals_its_twin(dtype, index_dtype, loss, level, rng):
    case = random_case(loss, rng, dtype=dtype, index_dtype=index_dtype, level=level)
    for changed in combinations():
        assert_equals_twin({**case, **changed})


@given(
    problem=problems(dtypes=(np.float64,)),
    loss=st.sampled_from(LOSSES),
    n_strips=st.integers(1, 3),
    ordered=st.booleans(),
    data=st.data(),
)
def test_epoch_equals_its_twin(problem, loss, n_strips, ordered, data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    case = case_of(problem, loss, np.random.default_rng(seed))
    # Each row is cut somewhere, and one of the strips is visited.
    inner = [
        sorted(data.draw(st.tuples(*[st.integers(start, stop)] * (n_strips - 1))))
        for start, stop in itertools.pairwise(problem.indptr.tolist())
    ]
    starts = [[start, *more] for start, more in zip(problem.indptr.tolist(), inner, strict=False)]
    first = data.draw(st.integers(0, problem.n_users))
    assert_equals_twin(
        {
            **case,
            "cuts": np.array([*itertools.chain(*starts), problem.indptr[-1]]),
            "strip": data.draw(st.integers(0, n_strips - 1)),
            "n_strips": n_strips,
            "first": first,
            "last": data.draw(st.integers(first, problem.n_users)),
            "row_order": problem.row_order if ordered else None,
            **data.draw(st.sampled_from(list(combinations()))),
        }
    )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n_factors", [*range(1, 41), 64, 128, 255, 256, 257, 300])
def test_every_number_of_factors_equals_the_twin(n_factors, dtype, level, rng):
    case = random_case(SQUARED, rng, dtype=dtype, n_factors=n_factors, level=level)
    assert_equals_twin(case)
    assert_equals_twin({**case, "l1_user": 0.0, "l1_item": 0.0, "together": False})


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("rating", [np.nan, np.inf])
def test_what_is_not_finite_stays_to_be_seen(rating, nonnegative, dtype, level, rng):
    case = random_case(SQUARED, rng, dtype=dtype, level=level, nonnegative=nonnegative)
    case["ratings"] = np.full_like(case["ratings"], rating)
    total, found = run({**case, "weights": None, "slope_limit": np.inf})
    assert not np.isfinite(total)
    rated = np.diff(case["cuts"]) > 0
    assert not np.isfinite(found["user_factors"][rated]).any()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_sums_equal_their_twin(dtype, loss, weighted, rng):
    predictions = rng.normal(0, 2, 200).astype(dtype)
    ratings = as_rated_for(loss, rng.uniform(-1, 5, 200).astype(dtype))
    weights = rng.uniform(0, 2, 200).astype(dtype) if weighted else None
    given = ratings, weights, predictions, loss, 0.75
    assert sum_losses(*given) == pytest.approx(reference.sum_losses(*given), rel=1e-13)


@pytest.mark.parametrize("loss", [-1, 5])
def test_unknown_losses_are_refused(loss):
    message = f"^loss must be a number from 0 to 4, got {loss}$"
    with pytest.raises(ValueError, match=message):
        run(one_rating(loss, 1))
    with pytest.raises(ValueError, match=message):
        sum_losses(np.ones(1), None, np.ones(1), loss, 0.5)


# --- the rule -----------------------------------------------------------------------------------


@given(problem=problems(), biased=st.booleans())
def test_squared_loss_is_the_rule(problem, biased):
    dtype = problem.dtype
    record = np.array([1, 0, problem.regularization / 2, problem.regularization / 2], dtype=dtype)
    case = case_of(
        problem,
        SQUARED,
        np.random.default_rng(0),
        weights=None,
        user_biases=problem.user_biases if biased else np.zeros(problem.n_users, dtype=dtype),
        item_biases=problem.item_biases if biased else np.zeros(problem.n_items, dtype=dtype),
        user_records=np.tile(record, (problem.n_users, 1)),
        item_records=np.tile(record, (problem.n_items, 1)),
        biased=biased,
        global_mean=problem.global_mean if biased else 0.0,
        user_rate=2 * problem.learning_rate,
        item_rate=2 * problem.learning_rate,
        bias_rate=2 * problem.learning_rate,
        gradient_weight=0.0,
        l1_user=0.0,
        l1_item=0.0,
        together=False,
        slope_limit=np.inf,
    )
    losses, found = run(case)
    P, Q = problem.user_factors.copy(), problem.item_factors.copy()
    b, c = (problem.user_biases.copy(), problem.item_biases.copy()) if biased else (None, None)
    squared = sgd_epoch(
        problem.indptr,
        problem.indices,
        problem.ratings,
        problem.row_order,
        None,
        P,
        Q,
        b,
        c,
        0,
        problem.n_users,
        problem.global_mean,
        problem.learning_rate,
        problem.regularization,
    )
    tolerance = TOLERANCES[dtype.type]
    expected = dict(zip(TRAINED, (P, Q, b, c) if biased else (P, Q), strict=False))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, **tolerance)
    assert losses == pytest.approx(squared, rel=tolerance["rtol"], abs=tolerance["atol"])
    if not biased:
        assert not found["user_biases"].any()
        assert not found["item_biases"].any()


# --- the derivative -----------------------------------------------------------------------------


def downhill(function, x, h=1e-5):
    """Return minus the derivatives, by central differences."""
    return np.array([(function(x - d) - function(x + d)) / (2 * h) for d in h * np.eye(len(x))])


@pytest.mark.parametrize("weight", [1.0, 2.5])
@pytest.mark.parametrize("n_factors", [1, 3, 8])
@pytest.mark.parametrize(
    ("loss", "rating"),
    [
        (SQUARED, 4.0),
        (ABSOLUTE, 4.0),
        (ABSOLUTE, -4.0),
        (HUBER, 4.0),
        (HUBER, -4.0),
        (HUBER, None),  # within the threshold
        (LOGISTIC, 0.0),
        (LOGISTIC, 0.3),
        (LOGISTIC, 1.0),
        (POISSON, 0.0),
        (POISSON, 3.0),
    ],
)
def test_steps_go_down_the_stated_objective(loss, rating, n_factors, weight, rng):
    p, q = rng.normal(size=(2, n_factors)) / 2
    b, c, mean = 0.2, -0.1, 0.3
    if rating is None:
        rating = mean + b + c + p @ q + 0.2
    l_user, l_item, lb_user, lb_item = 0.3, 0.2, 0.1, 0.4

    def case(p, q, b, c, **rates):
        return one_rating(
            loss,
            rating,
            p=p,
            q=q,
            b=b[0],
            c=c[0],
            global_mean=mean,
            weights=np.array([weight]),
            user_records=np.array([[4, 0, l_user, lb_user]]),
            item_records=np.array([[9, 0, l_item, lb_item]]),
            **rates,
        )

    def objective(p, q, b, c):
        penalty = l_user * p @ p + l_item * q @ q + lb_user * b @ b + lb_item * c @ c
        return MULTIPLES[loss] * run(case(p, q, b, c))[0] + penalty / 2

    start = [p, q, np.array([b]), np.array([c])]
    rates = {"user_rate": 0.02, "item_rate": 0.03, "bias_rate": 0.05}
    # One side at a time, since the item's row sees the user's new one.
    for which, name, rate, eta in (
        (0, "user_factors", "user_rate", 0.02 / 2),
        (1, "item_factors", "item_rate", 0.03 / 3),
        (2, "user_biases", "bias_rate", 0.05),
        (3, "item_biases", "bias_rate", 0.05),
    ):
        _, found = run(case(*start, **{rate: rates[rate]}))
        before, after = start[:which], start[which + 1 :]
        np.testing.assert_allclose(
            (found[name].ravel() - start[which]) / eta,
            downhill(
                lambda x, before=before, after=after: objective(*before, x, *after), start[which]
            ),
            rtol=1e-6,
            atol=1e-8,
        )
    # With both, the item's step is that at the user's new row with the slope of before.
    _, found = run(case(*start, **rates))
    d = downhill(lambda x: MULTIPLES[loss] * run(case(p, q, x, start[3]))[0], start[2])
    np.testing.assert_allclose(
        found["item_factors"][0],
        q + 0.01 * (d * found["user_factors"][0] - l_item * q),
        rtol=1e-6,
        atol=1e-8,
    )


def objective_of(case):
    """Return what an epoch goes down: multiple of the loss, and penalties for each visit."""
    users = np.repeat(np.arange(len(case["user_factors"])), np.diff(case["cuts"]))
    sides = (users, "user"), (case["indices"], "item")
    total = MULTIPLES[case["loss"]] * run({**case, **still(case)})[0]
    for rows, side in sides:
        factors, biases = case[f"{side}_factors"][rows], case[f"{side}_biases"][rows]
        l_rows, l_biases = case[f"{side}_records"][rows, 2:].T
        total += (l_rows * (factors**2).sum(axis=1) + l_biases * biases**2).sum() / 2
        total += case[f"l1_{side}"] * abs(factors).sum()
    return total


def still(case):
    """Return changes with which an epoch moves nothing."""
    rates = dict.fromkeys(("user_rate", "item_rate", "bias_rate", "gradient_weight"), 0.0)
    return {**rates, "nonnegative": False}


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("gradient_weight", [0.0, 0.1])
@pytest.mark.parametrize("loss", LOSSES)
def test_epochs_go_down_the_stated_objective(loss, gradient_weight, nonnegative, rng):
    case = random_case(
        loss,
        rng,
        user_rate=2e-3,
        item_rate=2e-3,
        bias_rate=2e-3,
        gradient_weight=gradient_weight,
        l1_user=0.05,
        l1_item=0.02,
        nonnegative=nonnegative,
    )
    if nonnegative:
        case.update({name: abs(case[name]) for name in FACTORS})
    objectives = [objective_of(case)]
    for _ in range(20):
        case.update(run(case)[1])
        objectives.append(objective_of(case))
    assert np.all(np.diff(objectives) < 0)
    assert objectives[-1] < objectives[0] - 0.01 * abs(objectives[0])
    if nonnegative:
        assert all((case[name] >= 0).all() for name in FACTORS)


def test_proximal_step_is_the_nearest_point_for_its_price():
    # Of all z (at least 0 if wished), the step chooses the one with the least
    # (z - v)² / 2 + threshold |z|, where v is the step without either.
    values = np.linspace(-2, 2, 41)
    for threshold, nonnegative in itertools.product([0.0, 0.35], [False, True]):
        case = one_rating(
            SQUARED,
            0,
            p=values,
            q=np.zeros(41),
            user_rate=0.7,
            l1_user=threshold / 0.7,
            nonnegative=nonnegative,
        )
        found = run(case)[1]["user_factors"][0]
        z = np.arange(0 if nonnegative else -2, 2, 0.001)[:, None]
        best = z[np.argmin((z - values) ** 2 / 2 + threshold * abs(z), axis=0), 0]
        np.testing.assert_allclose(found, best, atol=0.0011)
        assert (found[abs(values) <= threshold] == 0).all()


# --- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_weights_of_one_change_nothing(dtype, loss, rng):
    case = random_case(loss, rng, dtype=dtype)
    ones = np.ones_like(case["ratings"])
    assert_identical(run({**case, "weights": ones}), run({**case, "weights": None}))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_weights_of_two_are_twice_the_gradient(dtype, loss, rng):
    # eta (2 d q - l p) = 2 eta (d q - l/2 p), in powers of two to the last bit.
    case = random_case(loss, rng, dtype=dtype, slope_limit=np.inf)
    halved = {}
    for name in ("user_records", "item_records"):
        halved[name] = case[name] * np.array([1, 1, 0.5, 0.5], dtype=dtype)
    twos = np.full_like(case["ratings"], 2)
    doubled, found = run({**case, "weights": twos})
    single, expected = run(
        {
            **case,
            **halved,
            "weights": None,
            **{name: 2 * case[name] for name in ("user_rate", "item_rate", "bias_rate")},
            "gradient_weight": 4 * case["gradient_weight"],
            "l1_user": case["l1_user"] / 2,
            "l1_item": case["l1_item"] / 2,
        }
    )
    assert doubled == 2 * single
    for name in (*FACTORS, "user_biases", "item_biases"):
        np.testing.assert_array_equal(found[name], expected[name])
    np.testing.assert_array_equal(found["user_records"][:, 0], expected["user_records"][:, 0])


@pytest.mark.parametrize("loss", LOSSES)
def test_a_weight_of_zero_leaves_regularization_alone(loss):
    case = one_rating(
        loss,
        1.0,
        p=[0.5, -2],
        q=[3, 1],
        weights=np.zeros(1),
        user_records=np.array([[1, 0, 0.5, 0]]),
        user_rate=0.1,
        item_rate=0.1,
    )
    losses, found = run(case)
    assert losses == 0
    np.testing.assert_allclose(found["user_factors"], [[0.475, -1.9]], rtol=1e-15)
    assert found["item_factors"].tolist() == [[3, 1]]


# --- what is visited, and what is left alone ----------------------------------------------------


@given(problem=problems(), loss=st.sampled_from(LOSSES), data=st.data())
def test_rows_in_several_calls_equal_rows_in_one(problem, loss, data):
    case = case_of(problem, loss, np.random.default_rng(1))
    expected = run(case)[1]
    inner = data.draw(st.lists(st.integers(0, problem.n_users), max_size=4))
    for first, last in itertools.pairwise([0, *sorted(inner), problem.n_users]):
        case.update(run({**case, "first": first, "last": last})[1])
    assert_identical((0, case), (0, expected))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("wrong", [misaligned, unpadded, overpadded])
def test_rows_that_are_not_padded_and_aligned_are_refused(wrong, name, dtype, rng):
    case = random_case(HUBER, rng, dtype=dtype)
    rows = {other: copy_rows(case[other]) for other in FACTORS}
    with pytest.raises(ValueError, match="rows must be padded"):
        general_block(**{**case, **rows, name: wrong(case[name])})


@pytest.mark.parametrize("level", [-1, highest_level() + 1, 99])
def test_levels_that_are_not_available_are_refused(level, rng):
    with pytest.raises(ValueError, match="level available"):
        run(random_case(HUBER, rng, level=level))


def test_only_what_is_trained_changes(rng):
    case = random_case(HUBER, rng)
    for value in case.values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    visited, rated = case["row_order"][:3], set()
    for u in visited:
        rated.update(case["indices"][case["cuts"][u] : case["cuts"][u + 1]].tolist())
    _, found = run({**case, "last": 3})
    for side, changed in (("user", visited), ("item", sorted(rated))):
        for name in ("factors", "biases", "records"):
            before, after = case[f"{side}_{name}"], found[f"{side}_{name}"]
            same = np.delete(np.arange(len(before)), changed)
            np.testing.assert_array_equal(after[same], before[same])
        np.testing.assert_array_equal(
            found[f"{side}_records"][:, 1:], case[f"{side}_records"][:, 1:]
        )
    _, found = run({**case, "biased": False})
    np.testing.assert_array_equal(found["user_biases"], case["user_biases"])
    _, found = run({**case, "gradient_weight": 0.0})
    np.testing.assert_array_equal(found["user_records"], case["user_records"])


def test_nothing_is_visited_where_nothing_is():
    case = one_rating(SQUARED, 1, cuts=np.zeros(2, dtype=np.int64))
    assert run(case)[0] == 0
    assert sum_losses(np.empty(0), None, np.empty(0), SQUARED, 1.0) == 0


# --- numbers that are not finite ----------------------------------------------------------------


@pytest.mark.parametrize("changed", [{}, {"nonnegative": True}, {"gradient_weight": 0.0}])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["user_factors", "item_factors", "user_biases", "item_biases"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_numbers_that_are_not_finite_show_in_the_sum(dtype, loss, where, bad, changed, rng):
    case = random_case(loss, rng, dtype=dtype, weights=None, **changed)
    case[where] = case[where].copy()
    case[where][np.diff(case["cuts"]).argmax() if "user" in where else case["indices"][0]] = bad
    assert not math.isfinite(run(case)[0])


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("l1", [0.0, 0.5])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_proximal_steps_and_slopes_keep_nan(dtype, loss, l1, nonnegative):
    case = one_rating(loss, 1, p=[np.nan, 2], q=[1, 1], dtype=dtype, user_rate=0.1, bias_rate=1.0)
    _, found = run({**case, "l1_user": l1, "l1_item": l1, "nonnegative": nonnegative})
    assert np.isnan(found["user_factors"][0, 0])
    if loss != ABSOLUTE:  # whose slope is that of one side or the other, or 0
        assert np.isnan(found["item_biases"][0])


@pytest.mark.parametrize("loss", [SQUARED, ABSOLUTE, HUBER])
@pytest.mark.parametrize("dtype", FLOATS)
def test_divergence_shows_in_the_sum(dtype, loss, rng):
    constant = {"gradient_weight": 0.0, "l1_user": 0.0, "l1_item": 0.0, "weights": None}
    case = random_case(loss, rng, dtype=dtype, user_rate=1e9, item_rate=1e9, **constant)
    for _ in range(40):
        losses, trained = run(case)
        case.update(trained)
    assert not math.isfinite(losses)


@pytest.mark.parametrize("dtype", FLOATS)
def test_large_poisson_means_overflow_nothing(dtype):
    case = one_rating(
        POISSON, 3, p=[2], q=[50], dtype=dtype, user_rate=0.1, item_rate=0.1, gradient_weight=0.01
    )
    losses, found = run(case)
    assert losses == pytest.approx(61 * math.exp(40), rel=1e-6)
    for name in (*FACTORS, "user_records"):
        assert np.isfinite(found[name]).all()
