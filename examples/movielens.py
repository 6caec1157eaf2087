"""Rate, recommend, compare and welcome a newcomer on MovieLens 100K.

Looks for the data in the folder that the environment variable CMF_DATA_HOME names and in the cache
folder. Run it with ``python examples/movielens.py``, the first time with ``--download``.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

import cmf
from cmf.datasets import MovieLens

# What a newcomer says about films that most people have seen.
NEWCOMER = {
    "Toy Story (1995)": 5,
    "Wallace & Gromit: The Best of Aardman Animation (1996)": 5,
    "Lion King, The (1994)": 4,
    "Scream (1996)": 1,
    "Pulp Fiction (1994)": 2,
}


def new_model(arguments: argparse.Namespace) -> cmf.MatrixFactorization:
    """Return the model that all parts of this example train."""
    return cmf.MatrixFactorization(
        n_factors=64,
        learning_rate=0.005,
        regularization=0.2,
        n_epochs=arguments.epochs,
        random_state=arguments.seed,
    )


def errors(model: cmf.MatrixFactorization, test: csr_array) -> tuple[float, float]:
    """Return RMSE and MAE on held-out ratings."""
    held_out = test.tocoo()
    predicted = model.predict(held_out.row, held_out.col)
    predicted = np.clip(predicted, 1, 5)  # nobody can give less than one star or more than five
    return cmf.metrics.rmse(held_out.data, predicted), cmf.metrics.mae(held_out.data, predicted)


def cross_validate(movies: MovieLens, arguments: argparse.Namespace) -> None:
    """Train on each of the official folds and report the errors on what it holds out."""
    if movies.folds is None:
        sys.exit("This copy of MovieLens 100K lacks the official folds u1.base, ..., u5.test.")
    found = []
    for train, test in movies.folds:
        found.append(errors(new_model(arguments).fit(train), test))
        if len(found) == 1:
            print(f"First fold: RMSE {found[0][0]:.4f}, MAE {found[0][1]:.4f}")
    rmse, mae = np.mean(found, axis=0)
    print(f"Five folds: RMSE {rmse:.4f}, MAE {mae:.4f} (means)")


def show(title: str, titles: NDArray[np.object_], scores: NDArray[np.floating]) -> None:
    """Print titles with their scores."""
    print(f"\n{title}")
    for name, score in zip(titles, scores, strict=True):
        print(f"  {score:.2f}  {name}")


def column(movies: MovieLens, title: str) -> int:
    """Return the column of the movie with a title."""
    return int(np.flatnonzero(movies.titles == title)[0])


def main() -> None:
    """Run all parts one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the random starts and orders")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the ratings")
    parser.add_argument("--download", action="store_true", help="allow the download (5 MB)")
    arguments = parser.parse_args()
    try:
        movies = cmf.datasets.fetch_movielens("100k", download=arguments.download)
    except cmf.DatasetNotFoundError as error:
        hint = "" if arguments.download else "\nOr let this example fetch them: --download"
        sys.exit(f"{error}{hint}")

    cross_validate(movies, arguments)

    model = new_model(arguments).fit(movies.ratings)
    user = 0
    items, scores = model.recommend(user)  # without what the user has rated
    show(f"For user {movies.user_ids[user]}:", movies.titles[items], scores)

    known = "Star Wars (1977)"
    items, cosines = model.similar_items(column(movies, known), n=5)
    show(f"Like {known}, by the cosine of the factors:", movies.titles[items], cosines)

    # The newcomer's factors and biases follow from five ratings at once; the model stays as it is.
    columns = [column(movies, title) for title in NEWCOMER]
    ratings = csr_array(
        (list(NEWCOMER.values()), ([0] * len(columns), columns)), shape=(1, movies.ratings.shape[1])
    )
    items, scores = model.recommend(model.fold_in(ratings))
    show("For a newcomer who likes animation:", movies.titles[items[0]], scores[0])


if __name__ == "__main__":
    main()
