"""Pictures of training. They need matplotlib: ``pip install "cmf-recsys[plot]"``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cmf._parameters import check_float
from cmf.exceptions import NotFittedError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D

__all__ = ["LearningCurveDisplay"]

_MISSING_MATPLOTLIB = (
    'plotting needs matplotlib, which is not installed: pip install "cmf-recsys[plot]"'
)
_MAX_MARKERS = 30
_COLUMNS = ("epoch", "running_mse", "exact_mse", "validation_rmse")


class LearningCurveDisplay:
    """Learning curve: root mean squared error by epoch, in the unit of the ratings.

    Three kinds of number are drawn, as far as they were measured, each under its own label. The
    *running* training RMSE of an epoch takes each error just before its own step, so it lags
    behind the *exact* training RMSE, which is of the factors at the end of the epoch. The
    validation RMSE is of those factors too, on ratings that are not trained on. Regularization is
    in none of them.

    Parameters
    ----------
    history : mapping of str to sequence of float
        ``history_`` of a fitted model: at least the columns ``epoch``, ``running_mse``,
        ``exact_mse`` and ``validation_rmse``, equally long, NaN where not measured.
    noise_floor : float, optional
        RMSE that no model can beat on new ratings, in the unit of the ratings, as it is known for
        generated data; drawn as a horizontal line.

    Attributes
    ----------
    ax_ : matplotlib Axes or None
        What was drawn on; None before `plot`.
    figure_ : matplotlib Figure or None
        The figure of `ax_`.
    lines_ : list of matplotlib Line2D or None
        The lines drawn, in the order of the legend.

    Raises
    ------
    TypeError
        If `history` is not a mapping or `noise_floor` not a number.
    ValueError
        If a column is missing, the columns differ in length or are empty, no error was measured,
        or a number is negative or infinite.

    See Also
    --------
    LearningCurveDisplay.from_estimator : Draw the curve of a fitted model.

    Notes
    -----
    matplotlib is imported by `plot`, not before. Not safe to call from several threads, since
    matplotlib is not.

    Examples
    --------
    >>> from cmf.plotting import LearningCurveDisplay
    >>> nan = float("nan")
    >>> history = {
    ...     "epoch": [1, 2],
    ...     "running_mse": [1.44, 1.0],
    ...     "exact_mse": [nan, 0.81],
    ...     "validation_rmse": [nan, nan],
    ... }
    >>> LearningCurveDisplay(history, noise_floor=0.8)
    LearningCurveDisplay(n_epochs=2, noise_floor=0.8)
    """

    def __init__(
        self, history: Mapping[str, Sequence[float]], *, noise_floor: float | None = None
    ) -> None:
        columns = _check_history(history)
        if noise_floor is not None:
            noise_floor = check_float(noise_floor, "noise_floor", minimum=0.0)
        self.history = history
        self.noise_floor = noise_floor
        self.ax_: Axes | None = None
        self.figure_: Figure | SubFigure | None = None
        self.lines_: list[Line2D] | None = None
        self._epochs = columns["epoch"]
        self._curves = {
            "training RMSE (running)": np.sqrt(columns["running_mse"]),
            "training RMSE (exact)": np.sqrt(columns["exact_mse"]),
            "validation RMSE": columns["validation_rmse"],
        }

    def __repr__(self) -> str:
        return (
            f"LearningCurveDisplay(n_epochs={len(self._epochs)}, noise_floor={self.noise_floor!r})"
        )

    @classmethod
    def from_estimator(
        cls, model: Any, ax: Axes | None = None, *, noise_floor: float | None = None
    ) -> LearningCurveDisplay:
        """Draw the learning curve of a fitted model.

        Parameters
        ----------
        model : MatrixFactorization, or any object with ``history_``
            A fitted model.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.
        noise_floor : float, optional
            RMSE that no model can beat on new ratings; drawn as a horizontal line.

        Returns
        -------
        LearningCurveDisplay
            With the curve drawn; its ``figure_`` can be saved.

        Raises
        ------
        cmf.NotFittedError
            If `model` has no ``history_``.
        ImportError
            If matplotlib is not installed.
        TypeError, ValueError
            As the class, for what ``history_`` holds.
        """
        try:
            history = model.history_
        except AttributeError as error:
            raise NotFittedError(
                f"model has no learning curve: this {type(model).__name__} has no history_; "
                "call fit first"
            ) from error
        return cls(history, noise_floor=noise_floor).plot(ax)

    def plot(self, ax: Axes | None = None) -> LearningCurveDisplay:
        """Draw the learning curve.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw. By default a new figure is made with ``matplotlib.pyplot.subplots``;
            otherwise pyplot is not touched.

        Returns
        -------
        LearningCurveDisplay
            This object, with ``ax_``, ``figure_`` and ``lines_`` set.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        try:
            from matplotlib.ticker import MaxNLocator
        except ImportError as error:
            raise ImportError(_MISSING_MATPLOTLIB) from error
        axes = _new_axes() if ax is None else ax

        lines = self._draw_curves(axes)
        if self.noise_floor is not None:
            lines.append(
                axes.axhline(
                    self.noise_floor, color="0.35", linestyle=":", zorder=1.5, label="noise floor"
                )
            )
            # A line inside the limits, but at their edge, does not move them by itself.
            axes.autoscale_view(scalex=False)
        axes.set_xlabel("epoch")
        axes.set_ylabel("RMSE (rating units)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        axes.grid(visible=True, color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.legend(handles=lines)
        self.ax_, self.figure_, self.lines_ = axes, axes.figure, lines
        return self

    def _draw_curves(self, axes: Axes) -> list[Line2D]:
        """Draw each curve that has a measured point."""
        styles: list[dict[str, Any]] = [
            {"color": "C0", "marker": "."},
            {"color": "C0", "marker": "D", "linestyle": "none", "markerfacecolor": "white"},
            {"color": "C1", "marker": "."},
        ]
        lines = []
        for (label, values), style in zip(self._curves.items(), styles, strict=True):
            measured = np.flatnonzero(~np.isnan(values))
            if measured.size:
                # All points are drawn; markers are thinned out so that they do not run together,
                # evenly and from the last, which counts most.
                step = -(-measured.size // _MAX_MARKERS)
                shown = range((measured.size - 1) % step, measured.size, step)
                lines += axes.plot(
                    self._epochs[measured],
                    values[measured],
                    label=label,
                    markevery=list(shown),
                    **style,
                )
        return lines


def _new_axes() -> Axes:
    """Axes of a new pyplot figure."""
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(layout="constrained")
    return axes


def _check_history(history: Mapping[str, Sequence[float]]) -> dict[str, NDArray[np.float64]]:
    """Columns of `history` that are drawn, as checked float64 arrays."""
    if not isinstance(history, Mapping):
        raise TypeError(f"history must be a dict of columns, got {type(history).__name__}")
    missing = [name for name in _COLUMNS if name not in history]
    if missing:
        raise ValueError(f"history must have the columns {', '.join(_COLUMNS)}; {missing} missing")
    try:
        columns = {name: np.asarray(history[name], dtype=np.float64) for name in _COLUMNS}
    except (TypeError, ValueError) as error:
        raise ValueError(f"history must hold columns of real numbers: {error}") from error
    shapes = {name: column.shape for name, column in columns.items()}
    if len(set(shapes.values())) > 1 or columns["epoch"].ndim != 1:
        raise ValueError(f"history must have columns of equal length, got shapes {shapes}")
    if not columns["epoch"].size:
        raise ValueError("history is empty; at least one epoch is needed")
    for name, column in columns.items():
        if np.isinf(column).any() or (column < 0.0).any():
            raise ValueError(f"history[{name!r}] must be finite, 0 or more, or NaN")
    if all(np.isnan(column).all() for name, column in columns.items() if name != "epoch"):
        raise ValueError("history holds no measured error; all is NaN")
    return columns
