"""Write ``model-v1.cmf``, the model file that every later version must still read.

Run from the root of the repository, once per format version::

    python tests/data/make_golden.py

The numbers follow from small formulas, so that the tests can state them without this script.
"""

from pathlib import Path

import numpy as np

from cmf._state import HISTORY_COLUMNS, Factors, ModelState, SeenItems
from cmf.serialization import save_state

PATH = Path(__file__).parent / "model-v1.cmf"


def golden_state() -> ModelState:
    """Five users, four items, three factors, two epochs."""
    factors = Factors(
        user_factors=(np.arange(15, dtype=np.float32) / 8 - 1).reshape(5, 3),
        item_factors=(np.arange(12, dtype=np.float32) / 4 - 1.5).reshape(4, 3),
        user_biases=np.array([0.5, -0.25, 0.0, 0.125, -1.0], dtype=np.float32),
        item_biases=np.array([0.25, 0.0, -0.5, 1.0], dtype=np.float32),
        global_mean=3.6,
        biased=True,
    )
    seen = SeenItems(
        indptr=np.array([0, 2, 2, 5, 6, 7], dtype=np.int64),
        indices=np.array([3, 0, 1, 2, 0, 3, 2], dtype=np.int32),
    )
    history = {column: [1.0, 2.0] for column in HISTORY_COLUMNS}
    history["running_mse"] = [1.25, 0.75]
    history["validation_rmse"] = [float("nan"), float("nan")]
    return ModelState(
        parameters={
            "n_factors": 3,
            "learning_rate": 0.005,
            "regularization": 0.02,
            "n_epochs": 2,
            "biases": True,
            "shuffle": True,
            "init": "normal",
            "init_scale": 0.1,
            "dtype": "float32",
            "n_threads": None,
            "random_state": [7, 11],
            "verbose": 0,
        },
        factors=factors,
        seen=seen,
        history=history,
        seed=2**100 + 1,
        n_epochs_trained=2,
        user_ids=np.array(["ada", "Björn", "", "陳", "eve"], dtype=object),
        item_ids=np.array([10, 20, -30, 2**40], dtype=np.int64),
        frame="pandas",
    )


if __name__ == "__main__":
    save_state(PATH, golden_state())
