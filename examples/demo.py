"""Train on a million generated ratings, and on MovieLens if it is at hand, and show what comes out.

Prints the loss of every epoch, the error on held-out ratings beside simple baselines, the speed and
ten recommendations, and draws learning curves. Needs matplotlib, which the extra ``plot`` installs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

import cmf
from cmf.plotting import LearningCurveDisplay

MOVIELENS: tuple[Literal["1m", "100k"], ...] = ("1m", "100k")


def train(
    ratings: csr_array, validation: csr_array | None, seed: int, **settings: Any
) -> cmf.MatrixFactorization:
    """Train with a progress bar; print the losses and the speed; return the fitted model."""
    model = cmf.MatrixFactorization(**settings, random_state=seed, verbose=2)
    print(f"{model}\n")
    model.fit(ratings, validation=validation)

    history = model.history_
    # mse is a mean over ratings, reg a sum over all factors: as factors grow from small numbers,
    # the total rises although the fit gets better.
    print(
        "Running loss of every epoch (each error taken just before its own step; mse is a mean,\n"
        "reg a sum over all factors, which grow from a small start: what should fall is the mse):"
    )
    for epoch, total, mse, penalty in zip(
        *(history[key] for key in ("epoch", "running_total", "running_mse", "regularization")),
        strict=True,
    ):
        print(
            f"Epoch {epoch:.0f}/{model.n_iter_} - Training Loss: {total:.4f} "
            f"(mse {mse:.4f}, reg {penalty:.4f})"
        )
    exact = model.loss(ratings)
    print(
        f"Exact loss of the finished factors: {exact.total:.4f} "
        f"(mse {exact.mse:.4f}, reg {exact.regularization:.4f})"
    )
    seconds = sum(history["seconds"])
    speed = ratings.nnz * model.n_iter_ / seconds
    print(f"Trained {speed:,.0f} ratings per second ({model.n_iter_} epochs in {seconds:.1f} s)")
    return model


def compare(
    model: cmf.MatrixFactorization,
    ratings: csr_array,
    test: csr_array,
    *,
    scale: tuple[float, float] = (-np.inf, np.inf),
    noise_floor: float | None = None,
) -> float:
    """Print the RMSE on held-out ratings beside baselines; return that of the biases alone.

    Predictions are clipped to the scale, the lowest and the highest rating there can be.
    """
    held_out = test.tocoo()

    def rmse(predicted: ArrayLike) -> float:
        return cmf.metrics.rmse(held_out.data, np.clip(predicted, *scale))

    # Factors that start at zero stay zero: what is left are the mean and the biases.
    biases = cmf.MatrixFactorization(n_factors=1, init_scale=0, random_state=0).fit(ratings)
    rows = {
        "global mean": rmse(np.full(test.nnz, ratings.data.mean(dtype=np.float64))),
        "biases only": rmse(biases.predict(held_out.row, held_out.col)),
        "factors and biases": rmse(model.predict(held_out.row, held_out.col)),
    }
    if noise_floor is not None:
        rows["noise floor"] = noise_floor
    print(f"\nRMSE on {test.nnz:,} held-out ratings:")
    for name, error in rows.items():
        print(f"  {name:<20}{error:.4f}")
    return rows["biases only"]


def draw(
    model: cmf.MatrixFactorization,
    title: str,
    path: Path,
    *,
    biases_only: float,
    noise_floor: float | None = None,
) -> None:
    """Write the learning curve to a picture, with the baseline of biases alone."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.axhline(biases_only, color="0.35", linestyle="--", label="biases only, held-out")
    LearningCurveDisplay.from_estimator(model, axes, noise_floor=noise_floor)
    axes.legend()  # again, with the line of the baseline
    axes.set_title(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"\nLearning curve: {path}")


def generated(n_ratings: int, seed: int, output: Path) -> None:
    """Show everything on ratings of which all is known, the noise included."""
    share = (n_ratings / 1_000_000) ** 0.5  # so that one cell in ten is rated at any size
    data = cmf.datasets.make_ratings(
        n_users=round(5000 * share),
        n_items=round(2000 * share),
        n_ratings=n_ratings,
        n_test=n_ratings // 10,
        dtype="float32",
        random_state=seed,
    )
    print(f"=== {n_ratings:,} generated ratings {data.ratings.shape} ===\n")
    model = train(
        data.ratings,
        data.test,
        seed,
        n_factors=16,
        learning_rate=0.005,
        regularization=0.05,
        n_epochs=20,
    )
    biases_only = compare(model, data.ratings, data.test, noise_floor=data.best_rmse)

    user = 0
    items, scores = model.recommend(user, n=10)
    true = data.global_mean + data.user_biases[user] + data.item_biases[items]
    true += data.item_factors[items] @ data.user_factors[user]
    print(f"\nTen recommendations for user {user}:\n  item  predicted  planted")
    for item, score, planted in zip(items, scores, true, strict=True):
        print(f"  {item:>4}  {score:>9.2f}  {planted:>7.2f}")
    draw(
        model,
        f"{n_ratings:,} generated ratings",
        output / "learning-curve.png",
        biases_only=biases_only,
        noise_floor=data.best_rmse,
    )


def movielens(seed: int, output: Path) -> None:
    """Show the same on the largest MovieLens set at hand."""
    for name in MOVIELENS:
        try:
            movies = cmf.datasets.fetch_movielens(name, download=False, dtype="float32")
            break
        except cmf.DatasetNotFoundError:
            continue
    else:
        print(
            "\nMovieLens is not at hand. To include it, set CMF_DATA_HOME to a folder that holds "
            "ml-1m or ml-100k,\nor run `python examples/movielens.py --download` first."
        )
        return
    ratings, test = cmf.model_selection.train_test_split(
        movies.ratings, test_size=0.1, random_state=seed
    )
    label = f"MovieLens {name.upper()}"
    print(f"\n=== {label}: {ratings.nnz:,} ratings {ratings.shape} ===\n")
    # By default a part of the training ratings tells when to stop: the test has no say in it.
    model = train(ratings, None, seed, n_factors=64)
    biases_only = compare(model, ratings, test, scale=(1, 5))

    user = 0
    items, scores = model.recommend(user, n=10)
    print(f"\nTen recommendations for user {movies.user_ids[user]}:")
    for title, score in zip(movies.titles[items], scores, strict=True):
        print(f"  {score:.2f}  {title}")
    path = output / f"learning-curve-movielens-{name}.png"
    draw(model, label, path, biases_only=biases_only)


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of data, starts and orders")
    parser.add_argument("--ratings", type=int, default=1_000_000, help="how many to generate")
    parser.add_argument(
        "--output", type=Path, default=Path("demo-output"), help="folder for the pictures"
    )
    arguments = parser.parse_args()
    generated(arguments.ratings, arguments.seed, arguments.output)
    movielens(arguments.seed, arguments.output)


if __name__ == "__main__":
    main()
