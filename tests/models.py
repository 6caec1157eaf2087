"""Comparing fitted models."""


def factors_of(model):
    """Return the arrays of a model: factors and biases."""
    return [model.user_factors_, model.item_factors_, model.user_biases_, model.item_biases_]


def same_bits(first, second):
    """Tell whether two models have the same arrays, bit by bit."""
    return all(
        a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for a, b in zip(factors_of(first), factors_of(second), strict=True)
    )
