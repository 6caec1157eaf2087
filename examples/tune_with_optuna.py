"""Tune with Optuna: candidates pruned while they train, the number of epochs chosen on the way.

`cmf.model_selection.RandomSearch` needs no further package. Optuna looks where earlier trials did
well, and can keep a study in a database for several machines. Run it with
``python examples/tune_with_optuna.py``; it needs ``pip install optuna``.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

import cmf
from cmf.model_selection import train_test_split

try:
    import optuna
except ImportError:
    print("This example needs Optuna: pip install optuna. Nothing was done.")
    sys.exit()


def main() -> None:
    """Run a study, train the winner on all training ratings, measure it once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of data, splits, trials and starts")
    parser.add_argument("--trials", type=int, default=20, help="how many settings to try")
    parser.add_argument("--epochs", type=int, default=40, help="most epochs of a trial")
    arguments = parser.parse_args()

    ratings = cmf.datasets.make_ratings(1000, 500, 50_000, random_state=arguments.seed).ratings
    train, test = train_test_split(ratings, test_size=0.1, random_state=arguments.seed)
    # Trials are compared, and their epochs counted, on a part of the training ratings.
    kept, validation = train_test_split(train, test_size=0.1, random_state=arguments.seed)

    def error_of(trial: optuna.Trial) -> float:
        model = cmf.MatrixFactorization(
            n_factors=trial.suggest_int("n_factors", 2, 32, log=True),
            learning_rate=trial.suggest_float("learning_rate", 1e-3, 5e-2, log=True),
            regularization=trial.suggest_float("regularization", 1e-2, 1.0, log=True),
            random_state=arguments.seed,
        )

        def after_epoch(report: cmf.EpochReport) -> None:
            trial.report(report.validation_rmse, report.epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            model.fit(kept, epochs=arguments.epochs, validation=validation, callbacks=after_epoch)
        except cmf.DivergenceError as error:
            raise optuna.TrialPruned from error
        errors = model.history_["validation_rmse"]
        trial.set_user_attr("n_epochs", int(np.argmin(errors)) + 1)
        return min(errors)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=arguments.seed),
        pruner=optuna.pruners.MedianPruner(n_warmup_steps=arguments.epochs // 4),
    )
    study.optimize(error_of, n_trials=arguments.trials)

    n_epochs = study.best_trial.user_attrs["n_epochs"]
    winner = cmf.MatrixFactorization(
        **study.best_params, n_epochs=n_epochs, random_state=arguments.seed
    ).fit(train)
    n_pruned = len(study.get_trials(states=[optuna.trial.TrialState.PRUNED]))
    print(f"Trials: {len(study.trials)}, {n_pruned} of them pruned")
    print(f"Best: {study.best_params}, {n_epochs} epochs")
    print(f"Validation RMSE: {study.best_value:.4f}")
    print(f"Test RMSE of the winner, trained on all training ratings: {winner.loss(test).rmse:.4f}")
    plain = cmf.MatrixFactorization(random_state=arguments.seed).fit(train)
    print(f"Test RMSE of the defaults: {plain.loss(test).rmse:.4f}")


if __name__ == "__main__":
    main()
