"""Draws of the posterior: against their slow twins, and the distributions they are to have."""

import numpy as np
import pytest
import reference

from cmf._kernels.gibbs import (
    MAX_COLUMNS,
    MAX_STRIP,
    MAX_WIDTH,
    add_predictions,
    draw_features,
    draw_rows,
    multiply_rows,
    row_products,
    squared_errors,
)
from cmf._kernels.interleaved import highest_level

LEVELS = range(highest_level() + 1)
# Around multiples of the widest vector, and the most there may be with a bias.
N_FACTORS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64]


def singles(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def make_rows(rng, counts, n_others, width):
    """Rows with so many ratings each, and what they are drawn from."""
    indptr = np.concatenate([[0], np.cumsum(counts)])
    indices = np.concatenate(
        [rng.integers(n_others, size=count) for count in counts] or [[]]
    ).astype(np.int32)
    root = rng.standard_normal((width, width)) / np.sqrt(width) + np.eye(width)
    return {
        "indptr": indptr,
        "indices": indices,
        "ratings": singles(rng, indices.size),
        "others": singles(rng, n_others, width),
        "prior_means": singles(rng, len(counts), width),
        "precision": np.ascontiguousarray(root @ root.T + np.eye(width)),
        "normals": singles(rng, len(counts), width),
        "rows": np.zeros((len(counts), width), dtype=np.float32),
        "means": np.zeros((len(counts), width), dtype=np.float32),
        "first": 0,
        "last": len(counts),
    }


def in_double(arguments):
    """Copies of arguments, floats as float64."""
    return {
        name: value.astype(np.float64)
        if isinstance(value, np.ndarray) and value.dtype == np.float32
        else value
        for name, value in arguments.items()
    }


# --- rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_one_row_by_hand(level):
    # Precision 1 + 2 (2² + 1²) = 11 of the factor alone, 1 + 2·2 of the bias, 2 (2 + 1) between;
    # ratings less the others' biases are 3 and 1, so that h = 2 (3·2 + 1·1, 3 + 1).
    rows, means = np.zeros((2, 1, 2), dtype=np.float32)
    failed = draw_rows(
        np.array([0, 2]),
        np.array([0, 1], dtype=np.int32),
        np.array([3.5, 2.0], dtype=np.float32),
        np.array([[2.0, 0.5], [1.0, 1.0]], dtype=np.float32),
        np.zeros((1, 2), dtype=np.float32),
        np.eye(2),
        np.array([[1.0, -1.0]], dtype=np.float32),
        rows,
        means,
        0,
        1,
        True,
        2.0,
        level,
    )
    A = np.array([[11.0, 6.0], [6.0, 5.0]])
    mean = np.linalg.solve(A, [14.0, 8.0])
    shift = np.linalg.solve(np.linalg.cholesky(A).T, [1.0, -1.0])
    assert failed == -1
    np.testing.assert_allclose(means[0], mean, rtol=1e-6)
    np.testing.assert_allclose(rows[0], mean + shift, rtol=1e-6)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("n_factors", N_FACTORS)
def test_rows_equal_their_twin(n_factors, biased, level, rng):
    arguments = make_rows(rng, [3, 0, 1, 40, 0], 30, n_factors + biased)
    expected = in_double(arguments)
    assert draw_rows(**arguments, biased=biased, noise_precision=1.7, level=level) == -1
    assert reference.draw_rows(**expected, biased=biased, noise_precision=1.7) == -1
    np.testing.assert_allclose(arguments["means"], expected["means"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(arguments["rows"], expected["rows"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("level", LEVELS)
def test_rows_of_several_blocks_equal_their_twin(level, rng):
    arguments = make_rows(rng, [700, 256, 257], 90, 18)
    expected = in_double(arguments)
    draw_rows(**arguments, biased=True, noise_precision=0.3, level=level)
    reference.draw_rows(**expected, biased=True, noise_precision=0.3)
    np.testing.assert_allclose(arguments["rows"], expected["rows"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("level", LEVELS)
def test_one_prior_mean_serves_all_rows(level, rng):
    once = make_rows(rng, [2, 0, 5], 9, 6)
    once["prior_means"] = once["prior_means"][:1].copy()
    each = {**once, "rows": once["rows"].copy(), "means": once["means"].copy()}
    each["prior_means"] = np.repeat(once["prior_means"], 3, axis=0)
    for arguments in (once, each):
        draw_rows(**arguments, biased=True, noise_precision=1.0, level=level)
    np.testing.assert_array_equal(once["rows"], each["rows"])


@pytest.mark.parametrize("level", LEVELS)
def test_only_the_rows_asked_for_are_drawn(level, rng):
    arguments = make_rows(rng, [2, 3, 4, 5], 9, 6)
    whole = {**arguments, "rows": arguments["rows"].copy(), "means": arguments["means"].copy()}
    draw_rows(**whole, biased=True, noise_precision=1.0, level=level)
    part = {**arguments, "first": 1, "last": 3, "normals": arguments["normals"][1:3].copy()}
    draw_rows(**part, biased=True, noise_precision=1.0, level=level)
    np.testing.assert_array_equal(part["rows"][1:3], whole["rows"][1:3])
    assert not part["rows"][[0, 3]].any()
    assert not part["means"][[0, 3]].any()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("fault", ["precision", "others", "noise"])
def test_a_row_without_a_proper_distribution_is_named(fault, level, rng):
    arguments = make_rows(rng, [0, 2, 2], 9, 6)
    noise_precision = 1.0
    if fault == "precision":
        arguments["precision"] = -np.eye(6)
    elif fault == "others":
        arguments["others"][arguments["indices"][0], 0] = np.nan
    else:
        noise_precision = np.inf
    expected = 0 if fault == "precision" else 1
    failed = draw_rows(**arguments, biased=True, noise_precision=noise_precision, level=level)
    assert failed == expected
    assert not arguments["rows"][expected:].any()


@pytest.mark.parametrize("level", LEVELS)
def test_draws_have_the_mean_and_covariance_of_the_posterior(level, rng):
    n, width = 20_000, 5
    arguments = make_rows(rng, [12], 9, width)
    indptr = np.arange(n + 1) * 12
    arguments |= {
        "indptr": indptr,
        "indices": np.tile(arguments["indices"], n),
        "ratings": np.tile(arguments["ratings"], n),
        "prior_means": arguments["prior_means"][:1],
        "normals": singles(rng, n, width),
        "rows": np.zeros((n, width), dtype=np.float32),
        "means": np.zeros((n, width), dtype=np.float32),
        "last": n,
    }
    draw_rows(**arguments, biased=True, noise_precision=1.7, level=level)
    A, h = reference.row_given_others(
        arguments["others"][arguments["indices"][:12]].tolist(),
        arguments["ratings"][:12].tolist(),
        arguments["prior_means"][0].tolist(),
        arguments["precision"].tolist(),
        True,
        1.7,
    )
    # Standardized by what it ought to be: zero and the identity, to within five deviations.
    standard = (arguments["rows"] - np.linalg.solve(A, h)) @ np.linalg.cholesky(np.array(A))
    assert np.abs(standard.mean(axis=0)).max() < 5 / np.sqrt(n)
    assert np.abs(standard.T @ standard / n - np.eye(width)).max() < 5 * np.sqrt(2 / n)


def test_rows_that_are_too_long_and_levels_there_are_not_are_refused(rng):
    arguments = make_rows(rng, [1], 3, MAX_WIDTH + 1)
    with pytest.raises(ValueError, match="within their limit"):
        draw_rows(**arguments, biased=True, noise_precision=1.0, level=0)
    arguments = make_rows(rng, [1], 3, 4)
    with pytest.raises(ValueError, match="level must be available"):
        draw_rows(**arguments, biased=True, noise_precision=1.0, level=highest_level() + 1)


# --- predictions --------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("n_factors", N_FACTORS)
def test_squared_errors_equal_their_twin(n_factors, biased, level, rng):
    arguments = make_rows(rng, [3, 0, 20], 9, n_factors + biased)
    names = ("indptr", "indices", "ratings", "others")
    given = {name: arguments[name] for name in names} | {"first": 0, "last": 3}
    given["rows"] = singles(rng, 3, n_factors + biased)
    found = squared_errors(**given, biased=biased, level=level)
    expected = reference.squared_errors(**in_double(given), biased=biased)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("biased", [False, True])
def test_mean_and_squares_of_predictions(biased, level, rng):
    users, items = rng.integers(4, size=(2, 30)).astype(np.int32)
    means, squares = np.zeros((2, 30))
    draws = [(singles(rng, 4, 9), singles(rng, 4, 9)) for _ in range(5)]
    for k, (user_rows, item_rows) in enumerate(draws):
        add_predictions(users, items, user_rows, item_rows, means, squares, k + 1, biased, level)
    expected = [
        [reference.row_prediction(P[u], Q[i], biased) for u, i in zip(users, items, strict=True)]
        for P, Q in draws
    ]
    np.testing.assert_allclose(means, np.mean(expected, axis=0), atol=1e-5)
    np.testing.assert_allclose(squares, 5 * np.var(expected, axis=0), rtol=1e-4, atol=1e-5)


# --- features -----------------------------------------------------------------------------------


def make_features(rng, counts, n_rows, width):
    """Features that so many rows have each."""
    indptr = np.concatenate([[0], np.cumsum(counts)])
    indices = np.concatenate(
        [rng.choice(n_rows, size=count, replace=False) for count in counts]
    ).astype(np.int32)
    return {
        "indptr": indptr,
        "indices": indices,
        "weights": rng.uniform(0.1, 1, n_rows).astype(np.float32),
        "noise": singles(rng, len(counts), width),
        "features": singles(rng, len(counts), width),
        "residuals": singles(rng, n_rows, width),
        "first": 0,
        "last": len(counts),
    }


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("column", "n_columns"), [(0, 16), (16, 17), (3, 1), (1, 7), (2, 31)])
def test_features_equal_their_twin(column, n_columns, level, rng):
    arguments = make_features(rng, [4, 0, 1, 9, 6], 9, 33)
    arguments |= {"column": column, "n_columns": n_columns, "strength": 0.8}
    expected = in_double(arguments)
    draw_features(**arguments, level=level)
    reference.draw_features(**expected)
    np.testing.assert_allclose(arguments["features"], expected["features"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(arguments["residuals"], expected["residuals"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_features_have_the_mean_and_variance_of_their_posterior(level, rng):
    # Many features of the same two rows, but each with a pair of its own.
    n, width = 20_000, 4
    weights, residuals = np.array([0.5, 0.7], dtype=np.float32), singles(rng, 2, width)
    arguments = {
        "indptr": np.arange(n + 1) * 2,
        "indices": np.arange(2 * n, dtype=np.int32),
        "weights": np.tile(weights, n),
        "noise": singles(rng, n, width),
        "features": np.zeros((n, width), dtype=np.float32),
        "residuals": np.tile(residuals, (n, 1)),
        "first": 0,
        "last": n,
    }
    draw_features(**arguments, column=0, n_columns=width, strength=0.8, level=level)
    precision = 0.8 + 0.5**2 + 0.7**2
    standard = (arguments["features"] - weights @ residuals / precision) * np.sqrt(precision)
    assert np.abs(standard.mean(axis=0)).max() < 5 / np.sqrt(n)
    assert np.abs(standard.T @ standard / n - np.eye(width)).max() < 5 * np.sqrt(2 / n)


def test_strips_that_are_too_wide_are_refused(rng):
    arguments = make_features(rng, [1], 3, 40)
    with pytest.raises(ValueError, match="within their limit"):
        draw_features(**arguments, column=0, n_columns=MAX_STRIP + 1, strength=1.0, level=0)


# --- products -----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n_rows", [0, 1, 300])
@pytest.mark.parametrize("n_columns", [*N_FACTORS, 96, 192, MAX_COLUMNS])
def test_products_of_rows(n_columns, n_rows, level, rng):
    rows = singles(rng, n_rows, n_columns)
    products = np.full((n_columns, n_columns), np.nan)
    row_products(rows, products, level)
    expected = rows.astype(np.float64).T @ rows.astype(np.float64)
    np.testing.assert_allclose(products, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(products, products.T)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n_rows", [0, 1, 7, 8, 19])
@pytest.mark.parametrize("n_out", [1, 3, 16, 20, 33])
def test_rows_times_a_matrix(n_out, n_rows, level, rng):
    rows, matrix = singles(rng, n_rows, 21), singles(rng, 21, n_out)
    out = np.full((n_rows, n_out), np.nan, dtype=np.float32)
    multiply_rows(rows, matrix, out, level)
    np.testing.assert_allclose(out, rows @ matrix, rtol=1e-4, atol=1e-5)


def test_rows_of_too_many_columns_are_refused(rng):
    n = MAX_COLUMNS + 1
    with pytest.raises(ValueError, match="within their limit"):
        row_products(singles(rng, 2, n), np.zeros((n, n)), 0)
