"""Write ``model-v2.cmf``, the model file that every later version must still read.

Run from the root of the repository, once per format version::

    python tests/data/make_golden.py

The numbers follow from small formulas, so that the tests can state them without this script.
``model-v1.cmf`` is what this script made for version 1: the same without ``training`` and with the
parameters that version 1 knows, among them a learning rate of 0.005, a regularization of 0.02, 2
epochs and an init_scale of 0.1.
"""

from pathlib import Path

import numpy as np

from cmf._state import HISTORY_COLUMNS, Factors, ModelState, SeenItems, TrainingState
from cmf.serialization import save_state

PATH = Path(__file__).parent / "model-v2.cmf"


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
            "learning_rate": None,
            "regularization": None,
            "n_epochs": None,
            "biases": True,
            "shuffle": True,
            "init": "normal",
            "init_scale": None,
            "dtype": "float32",
            "n_threads": None,
            "random_state": [7, 11],
            "verbose": 0,
            "learning_rate_decay": 0.9,
            "adaptive": True,
            "bias_learning_rate": None,
            "user_regularization": 0.25,
            "item_regularization": None,
            "bias_regularization": 0,
            "regularization_scaling": "sqrt",
            "early_stopping": None,
            "validation_fraction": 0.1,
            "patience": 3,
            "posterior_samples": 0,
            "burn_in": 40,
            "implicit": None,
            "implicit_learning_rate": 0.01,
            "implicit_regularization": None,
            "loss_function": "huber",
            "huber_threshold": 1.5,
            "l1_regularization": 0,
            "nonnegative": False,
            "averaged_epochs": 2,
        },
        factors=factors,
        seen=seen,
        history=history,
        seed=2**100 + 1,
        n_epochs_trained=2,
        training=TrainingState(
            regularization=0.375,
            user_penalty=0.125,
            user_power=0.5,
            spread=1.1,
            noise=0.7,
            best_epoch=2,
            sums=(
                1 + np.arange(5, dtype=np.float32) / 4,
                1 + np.arange(4, dtype=np.float32) / 2,
            ),
        ),
        user_ids=np.array(["ada", "Björn", "", "陳", "eve"], dtype=object),
        item_ids=np.array([10, 20, -30, 2**40], dtype=np.int64),
        frame="pandas",
    )


if __name__ == "__main__":
    save_state(PATH, golden_state())
