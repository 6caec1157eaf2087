"""Fill in a small table of ratings, the way matrix factorization is first taught.

Six users have rated some of four items. P holds K numbers for each user and Q holds K numbers for
each item; they are changed, one known rating after the other, until the inner product of a user's
row and an item's row comes close to the rating. The inner products of the other pairs are then
predictions. Run it with ``python examples/from_scratch.py``.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

import cmf

Matrix = NDArray[np.float64]


def python_epoch(R: Matrix, P: Matrix, Q: Matrix, alpha: float, beta: float) -> None:
    """Run the rule that `cmf.sgd_epoch` compiles, written out in plain Python."""
    for i, j in np.argwhere(R > 0):  # row by row; 0 means "not rated"
        e = R[i, j] - P[i] @ Q[j]
        # The gradient of e² by P[i] is -2 e Q[j], so adding 2 e Q[j] goes downhill. Taking away
        # beta P[i] pulls the numbers toward zero, against overfitting.
        P[i] += alpha * (2 * e * Q[j] - beta * P[i])
        Q[j] += alpha * (2 * e * P[i] - beta * Q[j])  # with the P[i] just changed


def main() -> None:
    """Factorize the table by hand, then with the estimator."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the random start")
    parser.add_argument("--steps", type=int, default=5000, help="passes over the known ratings")
    arguments = parser.parse_args()
    np.set_printoptions(precision=2, suppress=True, floatmode="fixed")

    R = cmf.datasets.load_sample().ratings
    ratings = csr_array(R)  # the known ratings alone
    (n_users, n_items), K = R.shape, 3
    alpha, beta = 0.0002, 0.02
    rng = np.random.default_rng(arguments.seed)
    P_start, Q_start = rng.random((n_users, K)), rng.random((n_items, K))  # uniform on [0, 1)

    P, Q = P_start.copy(), Q_start.copy()
    for _ in range(arguments.steps):
        cmf.sgd_epoch(ratings, P, Q, alpha, beta)  # one pass over the known ratings, in place
    print("Completed matrix:")
    print(P @ Q.T)

    print("\nRatings it was made from (0: not rated):")
    print(R)
    print(f"\nSum of squared errors over known ratings: {cmf.loss(ratings, P, Q, beta).sse:.4f}")

    P_slow, Q_slow = P_start.copy(), Q_start.copy()
    for _ in range(arguments.steps):
        python_epoch(R, P_slow, Q_slow, alpha, beta)
    difference = np.abs(P @ Q.T - P_slow @ Q_slow.T).max()
    print(f"Largest difference from the same rule in plain Python: {difference:.1e}")

    # The estimator does all of this, and then answers questions. Its own defaults train biases and
    # visit the ratings in random order; here it is told to do exactly the above.
    model = cmf.MatrixFactorization(
        n_factors=K,
        learning_rate=alpha,
        regularization=beta,
        n_epochs=arguments.steps,
        biases=False,
        shuffle=False,
        dtype="float64",
    ).fit(ratings, user_factors=P_start, item_factors=Q_start)
    items, scores = model.recommend(users=1, n=2)  # only items that user 1 has not rated
    print("\nFor user 1, best first:")
    for item, score in zip(items, scores, strict=True):
        print(f"  item {item}: {score:.2f}")


if __name__ == "__main__":
    main()
