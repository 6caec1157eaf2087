"""The errors that a caller may want to catch by name."""

from __future__ import annotations

__all__ = ["DatasetNotFoundError", "DivergenceError", "ModelFileError", "NotFittedError"]


class NotFittedError(ValueError, AttributeError):
    """A model was asked for something that it can only answer after ``fit``.

    It is a ``ValueError`` and an ``AttributeError``, as scikit-learn's error of the same name is,
    so that code written for one catches the other's.
    """


class DivergenceError(ArithmeticError):
    """Training was stopped because factors, biases or the loss became infinite or NaN.

    The model that was being trained keeps the state it had before the call.

    Parameters
    ----------
    message : str
        What happened and what to change.
    epoch : int or None
        The epoch that diverged, counted from 1; None where there are no epochs.
    learning_rate : float
        The learning rate of that epoch.
    last_finite_loss : float or None
        Running loss (mse plus regularization) of the last epoch that ended well, if any did.
    """

    def __init__(
        self,
        message: str,
        *,
        epoch: int | None = None,
        learning_rate: float = float("nan"),
        last_finite_loss: float | None = None,
    ) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.learning_rate = learning_rate
        self.last_finite_loss = last_finite_loss


class ModelFileError(ValueError):
    """A file is not a model that this version of cmf can read, or it is damaged.

    Nothing of the file has been executed, and nothing that it claims has been allocated.
    """


class DatasetNotFoundError(OSError):
    """A data set is neither in the local folders nor to be had from its publisher."""
