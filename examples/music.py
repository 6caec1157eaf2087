"""Recommend music to four listeners, step by step.

Twelve pieces of music, four users, some ratings missing: first the single steps of matrix
factorization, then `cmf.MatrixFactorization`, then recommendations from similar users. Needs pandas
for tables with names. Run it with ``python examples/music.py``.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

import cmf


def show(title: str, table: pd.DataFrame, digits: int = 2) -> None:
    """Print a table with its names below a title."""
    print(f"\n{title}")
    print(table.to_string(float_format=lambda number: f"{number:.{digits}f}"))


def train_by_hand(table: pd.DataFrame, seed: int) -> None:
    """Factorize with five factors, looking at every step."""
    k, alpha, beta = 5, 0.01, 0.02  # beta is often called lambda
    rng = np.random.default_rng(seed)
    U = rng.normal(0.0, 1 / k, (table.shape[0], k))  # one row of k numbers for each user
    V = rng.normal(0.0, 1 / k, (table.shape[1], k))  # and one for each piece
    show("User factors, at random", pd.DataFrame(U, table.index))
    show("Piece factors, at random", pd.DataFrame(V, table.columns))

    # Zeros of the table are ratings that nobody gave. A sparse matrix leaves them out.
    ratings = csr_array(table.to_numpy())

    # One epoch takes the known ratings r one after the other, user by user:
    #   e = r - u·v,   u += alpha (2 e v - beta u),   v += alpha (2 e u - beta v) with the new u.
    cmf.sgd_epoch(ratings, U, V, alpha, beta)
    show("User factors after one epoch", pd.DataFrame(U, table.index))
    show("Piece factors after one epoch", pd.DataFrame(V, table.columns))

    # What training makes small: the sum of e² over known ratings. It is a sum, not a mean: `mse`
    # of the same object is what comes out after dividing by the number of ratings.
    loss = cmf.loss(ratings, U, V, beta)
    print(f"\nSum of squared errors over known ratings: {loss.sse:.4f}")
    # ... plus lambda (‖U‖² + ‖V‖²), the price of large factors:
    print(f"The same plus regularization: {loss.sse + loss.regularization:.4f}")

    n_epochs = 1000
    print("\nSum of squared errors while training:")
    for epoch in range(1, n_epochs + 1):
        cmf.sgd_epoch(ratings, U, V, alpha, beta)
        if epoch % 100 == 1 or epoch == n_epochs:
            error = cmf.loss(ratings, U, V, beta).sse
            print(f"Epoch {epoch}/{n_epochs} - Error: {error:.4f}")
    show("Predicted with five factors", pd.DataFrame(U @ V.T, table.index, table.columns).T)


def cosine_similarity(table: pd.DataFrame) -> pd.DataFrame:
    """Return the cosines of all pairs of rows, under the names of the rows."""
    rows = table.to_numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)  # rows of length 1
    return pd.DataFrame(rows @ rows.T, table.index, table.index)


def main() -> None:
    """Go through all steps, printing each result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the random starts")
    parser.add_argument(
        "--scale-to",
        type=float,
        default=5.0,
        help="stretch the ratings to the range from 0 to this",
    )
    arguments = parser.parse_args()

    table = cmf.datasets.load_music(as_frame=True).ratings  # users × pieces; 0: not rated
    show("Ratings (0: not rated)", table.T, digits=0)
    train_by_hand(table, arguments.seed)

    # A factor, not a shift: what was not rated stays 0. These ratings go from 0 to 5 already.
    scaled = table * (arguments.scale_to / table.to_numpy().max())

    print("\nMatrixFactorization with 75 factors:")
    model = cmf.MatrixFactorization(
        n_factors=75,
        learning_rate=0.001,
        regularization=0.02,
        n_epochs=600,
        biases=False,  # predict with u·v alone, as above
        shuffle=False,  # visit the ratings in their order, as above
        init="normal",
        init_scale=1 / 75,
        dtype="float64",
        random_state=arguments.seed,
        verbose=1,  # a line for each epoch: mean squared error plus regularization
    ).fit(scaled)

    predicted = model.reconstruct()  # a table with the names of the one that went in
    show("Predicted ratings", predicted.T)
    show("Cosine similarity of the users' predicted ratings", cosine_similarity(predicted))

    # The three most similar users' predicted ratings, added up with the similarities as weights,
    # without what Hermione has rated. The weights are not divided out: these are not ratings.
    pieces, scores = model.recommend_by_neighbors("Hermione", n_neighbors=3)
    print("\nFor Hermione, from the three users most like her:")
    print(pd.Series(scores, pieces).to_string(float_format="%.2f"))

    # The direct way: the highest predicted ratings among the pieces that she has not rated.
    pieces, scores = model.recommend("Hermione")
    print("\nFor Hermione, by her own predicted ratings:")
    print(pd.Series(scores, pieces).to_string(float_format="%.2f"))


if __name__ == "__main__":
    main()
