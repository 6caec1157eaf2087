"""Learning curves: the right numbers under the right labels, and no pyplot behind one's back."""

from __future__ import annotations

import io
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from cmf._state import HISTORY_COLUMNS
from cmf.exceptions import NotFittedError
from cmf.plotting import LearningCurveDisplay

NAN = float("nan")


def make_history(n_epochs=4, **columns):
    history = {name: [NAN] * n_epochs for name in HISTORY_COLUMNS}
    history["epoch"] = [float(epoch) for epoch in range(1, n_epochs + 1)]
    history["running_mse"] = [4.0 / epoch for epoch in range(1, n_epochs + 1)]
    return history | columns


def drawn(display):
    return {line.get_label(): line for line in display.lines_}


def test_each_measure_is_drawn_where_it_was_measured():
    history = make_history(
        running_mse=[4.0, 2.25, 1.0, 0.25],
        exact_mse=[NAN, 1.44, NAN, 0.16],
        validation_rmse=[3.0, 2.0, 1.0, NAN],
    )
    ax = Figure().subplots()
    display = LearningCurveDisplay(history, noise_floor=0.3)
    assert display.ax_ is display.figure_ is display.lines_ is None
    assert display.plot(ax) is display
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    lines = drawn(display)
    expected = {
        "training RMSE (running)": ([1, 2, 3, 4], [2.0, 1.5, 1.0, 0.5]),
        "training RMSE (exact)": ([2, 4], [1.2, 0.4]),
        "validation RMSE": ([1, 2, 3], [3.0, 2.0, 1.0]),
    }
    for label, (epochs, values) in expected.items():
        np.testing.assert_allclose(lines[label].get_xdata(), epochs)
        np.testing.assert_allclose(lines[label].get_ydata(), values, rtol=1e-15)
    np.testing.assert_array_equal(lines["noise floor"].get_ydata(), 0.3)
    assert list(lines) == [*expected, "noise floor"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(lines)
    assert ax.get_xlabel() == "epoch"
    assert ax.get_ylabel() == "RMSE (rating units)"


def test_exact_points_are_markers_and_not_joined():
    history = make_history(exact_mse=[1.0, NAN, NAN, 0.2])
    line = drawn(LearningCurveDisplay(history).plot(Figure().subplots()))["training RMSE (exact)"]
    assert line.get_linestyle() == "None"
    assert line.get_marker() not in ("None", "")


def test_unmeasured_columns_are_left_out():
    display = LearningCurveDisplay(make_history()).plot(Figure().subplots())
    assert list(drawn(display)) == ["training RMSE (running)"]


@pytest.mark.parametrize("n_epochs", [1, 2, 3, 7])
def test_ticks_are_whole_epochs(n_epochs):
    display = LearningCurveDisplay(make_history(n_epochs)).plot(Figure().subplots())
    display.figure_.savefig(io.BytesIO(), format="png")
    ticks = display.ax_.get_xticks()
    np.testing.assert_array_equal(ticks, np.round(ticks))


def test_a_single_epoch_can_be_seen():
    display = LearningCurveDisplay(make_history(1, validation_rmse=[1.0]))
    for line in display.plot(Figure().subplots()).lines_:
        assert line.get_marker() not in ("None", "")


def test_short_curves_have_a_marker_at_each_point():
    (line,) = LearningCurveDisplay(make_history(30)).plot(Figure().subplots()).lines_
    assert line.get_markevery() == list(range(30))


def test_markers_of_long_curves_do_not_run_together():
    exact = [NAN, *[1.0] * 999]
    display = LearningCurveDisplay(make_history(1000, exact_mse=exact)).plot(Figure().subplots())
    for line, n_points in zip(display.lines_, (1000, 999), strict=True):
        assert len(line.get_xdata()) == n_points
        shown = line.get_markevery()
        assert 25 <= len(shown) <= 30
        assert shown[-1] == n_points - 1
        assert len(set(np.diff(shown))) == 1


@pytest.mark.parametrize("noise_floor", [0.01, 0.95, 0.9999, 1.0, 2.0001, 3.0])
def test_noise_floor_is_not_hidden_by_the_frame(noise_floor):
    display = LearningCurveDisplay(make_history(), noise_floor=noise_floor)
    low, high = display.plot(Figure().subplots()).ax_.get_ylim()
    margin = 0.02 * (high - low)
    assert low + margin < noise_floor < high - margin


def test_limits_that_are_set_stay():
    ax = Figure().subplots()
    ax.set_ylim(0.0, 1.0)
    LearningCurveDisplay(make_history(), noise_floor=0.5).plot(ax)
    assert ax.get_ylim() == (0.0, 1.0)


def test_from_estimator_draws_history():
    model = SimpleNamespace(history_=make_history())
    ax = Figure().subplots()
    display = LearningCurveDisplay.from_estimator(model, ax, noise_floor=0.5)
    assert display.ax_ is ax
    assert list(drawn(display)) == ["training RMSE (running)", "noise floor"]
    assert display.history is model.history_


def test_subclasses_stay_themselves():
    class Mine(LearningCurveDisplay):
        pass

    model = SimpleNamespace(history_=make_history())
    assert type(Mine.from_estimator(model, Figure().subplots())) is Mine


def test_unfitted_models_are_named():
    with pytest.raises(NotFittedError, match=r"SimpleNamespace has no history_; call fit first"):
        LearningCurveDisplay.from_estimator(SimpleNamespace())


def test_new_figure_comes_from_pyplot():
    plt = pytest.importorskip("matplotlib.pyplot")
    with mpl.rc_context({"backend": "agg"}):
        before = plt.get_fignums()
        display = LearningCurveDisplay(make_history()).plot()
        assert len(plt.get_fignums()) == len(before) + 1
        assert plt.gcf() is display.figure_
        plt.close(display.figure_)


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )


SETUP = """
    import sys
    from cmf.plotting import LearningCurveDisplay
    assert "matplotlib" not in sys.modules
    history = {"epoch": [1], "running_mse": [1], "exact_mse": [1], "validation_rmse": [1]}
"""


def test_given_axes_leave_pyplot_alone():
    code = (
        SETUP
        + """
    from matplotlib.figure import Figure
    LearningCurveDisplay(history, noise_floor=0.1).plot(Figure().subplots())
    assert "matplotlib.pyplot" not in sys.modules
    """
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_missing_matplotlib_says_what_to_install():
    code = (
        SETUP
        + """
    sys.modules["matplotlib"] = None
    LearningCurveDisplay(history).plot()
    """
    )
    done = run_python(code)
    message = (
        "ImportError: plotting needs matplotlib, which is not installed: "
        'pip install "cmf-recsys[plot]"'
    )
    assert done.stderr.strip().splitlines()[-1] == message


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ({}, "history must have the columns epoch, .* missing"),
        (make_history(0), "history is empty; at least one epoch is needed"),
        (make_history(2, exact_mse=[NAN]), "history must have columns of equal length"),
        (make_history(1, epoch=[[1]]), "history must have columns of equal length"),
        (make_history(1, exact_mse=["low"]), "history must hold columns of real numbers"),
        (make_history(1, exact_mse=[1j]), "history must hold columns of real numbers"),
        (make_history(1, running_mse=[-1.0]), r"history\['running_mse'\] must be finite"),
        (make_history(1, validation_rmse=[np.inf]), r"history\['validation_rmse'\] must be finite"),
        (make_history(1, running_mse=[NAN]), "history holds no measured error"),
    ],
)
def test_bad_history(history, message):
    with pytest.raises(ValueError, match=message):
        LearningCurveDisplay(history)


def test_wrong_types():
    with pytest.raises(TypeError, match="history must be a dict of columns, got list"):
        LearningCurveDisplay([1.0])
    with pytest.raises(TypeError, match="noise_floor"):
        LearningCurveDisplay(make_history(), noise_floor="0.5")
    with pytest.raises(ValueError, match="noise_floor"):
        LearningCurveDisplay(make_history(), noise_floor=-0.5)


def test_history_is_not_written_to():
    history = make_history(exact_mse=[NAN, 1.0, NAN, 1.0])
    copies = {name: list(column) for name, column in history.items()}
    LearningCurveDisplay(history).plot(Figure().subplots())
    np.testing.assert_equal(history, copies)


def test_repr():
    display = LearningCurveDisplay(make_history(3), noise_floor=0.25)
    assert repr(display) == "LearningCurveDisplay(n_epochs=3, noise_floor=0.25)"
