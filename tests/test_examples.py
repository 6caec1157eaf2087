"""The examples, run as people run them: in a process of their own, by their file names."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

import cmf

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
DATA_HOME = os.environ.get("CMF_DATA_HOME")
OFFLINE = 99  # exit status of an example that reached for the network

# Python imports this module before the example; the process ends at the first use of the network.
SITECUSTOMIZE = f"""
import os, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        os._exit({OFFLINE})

sys.addaudithook(refuse)
"""

needs_movielens = pytest.mark.skipif(
    DATA_HOME is None or not (Path(DATA_HOME) / "ml-100k").is_dir(),
    reason="CMF_DATA_HOME names no folder that holds ml-100k",
)


def start(folder, name, *arguments, data_home=None):
    """Run an example with an empty home in `folder`, where it cannot use the network."""
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    environment = {key: text for key, text in os.environ.items() if key != "CMF_DATA_HOME"}
    for variable in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        environment[variable] = str(folder)
    path = [str(folder), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    environment["MPLCONFIGDIR"] = matplotlib.get_cachedir()  # spares looking for fonts again
    environment["PYTHONIOENCODING"] = "utf-8"
    if data_home is not None:
        environment["CMF_DATA_HOME"] = str(Path(data_home).resolve())
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def output_of(*arguments, **options):
    """Run an example that is to succeed and return what it printed."""
    done = start(*arguments, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def section(output, heading):
    """Return the lines from below a heading to the next empty line."""
    lines = [*output.splitlines(), ""]
    first = next(n for n, line in enumerate(lines) if line.startswith(heading)) + 1
    return lines[first : lines.index("", first)]


def table(output, heading):
    """Return row names, column names and numbers of a printed table."""
    header, *rows = section(output, heading)
    cells = [re.split(r"\s{2,}", row.strip()) for row in rows]
    names = re.split(r"\s{2,}", header.strip())
    return [row[0] for row in cells], names, np.array([row[1:] for row in cells], dtype=float)


def numbers(text):
    """Return the numbers of a line or of several."""
    return [float(number) for number in re.findall(r"-?\d+\.\d+(?:e[+-]?\d+)?", text)]


# --------------------------------------------------------------------------- the first program


@pytest.fixture(scope="module")
def from_scratch(tmp_path_factory):
    return output_of(tmp_path_factory.mktemp("from_scratch"), "from_scratch.py")


def test_from_scratch_completes_the_sample_with_its_known_ratings(from_scratch):
    R = cmf.datasets.load_sample().ratings
    lines = section(from_scratch, "Completed matrix:")
    completed = np.array([numbers(line) for line in lines])
    assert completed.shape == R.shape
    assert np.abs(completed - R)[R > 0].max() < 0.25
    # 16 known cells are reproduced to about a twentieth of a point each.
    (line,) = [text for text in from_scratch.splitlines() if "Sum of squared errors" in text]
    assert 0 < numbers(line)[0] < 0.25


def test_from_scratch_agrees_with_its_plain_python(from_scratch):
    (line,) = [text for text in from_scratch.splitlines() if "plain Python" in text]
    assert numbers(line)[0] < 1e-9


def test_from_scratch_recommends_only_what_user_1_has_not_rated(from_scratch):
    lines = section(from_scratch, "For user 1")
    completed = np.array([numbers(line) for line in section(from_scratch, "Completed matrix:")])
    found = {int(re.search(r"item (\d)", line)[1]): numbers(line)[0] for line in lines}
    # User 1 rated items 0 and 3. The estimator was started where the loop was, so it ends there.
    assert found == {item: completed[1, item] for item in (1, 2)}
    assert list(found.values()) == sorted(found.values(), reverse=True)


# --------------------------------------------------------------------------- the second program


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    return output_of(tmp_path_factory.mktemp("music"), "music.py")


def test_music_shows_its_steps_in_the_order_of_the_reference(music):
    headings = [
        "Ratings (0: not rated)",
        "User factors, at random",
        "Piece factors, at random",
        "User factors after one epoch",
        "Sum of squared errors over known ratings: ",
        "The same plus regularization: ",
        "Epoch 1/1000 - Error: ",
        "Epoch 901/1000 - Error: ",
        "Epoch 1/600 - Training Loss: ",
        "Epoch 600/600 - Training Loss: ",
        "Predicted ratings\n",
        "Cosine similarity",
        "For Hermione, from the three users most like her:",
    ]
    places = [music.index(heading) for heading in headings]
    assert places == sorted(places)
    assert len(re.findall(r"^Epoch \d+/600 - Training Loss: ", music, re.M)) == 600
    assert "MSE" not in music


def test_music_prints_the_ratings_under_their_names(music):
    expected = cmf.datasets.load_music()
    pieces, users, shown = table(music, "Ratings (0: not rated)")
    assert pieces == expected.item_ids.tolist()
    assert users == expected.user_ids.tolist()
    np.testing.assert_array_equal(shown.T, expected.ratings)


def test_music_reports_sums_of_squared_errors_that_fall(music):
    errors = [float(text) for text in re.findall(r"Epoch \d+/1000 - Error: (\S+)", music)]
    assert len(errors) == 11  # every hundredth, and the last
    assert all(after < before for before, after in itertools.pairwise(errors))
    plain, penalized = (
        float(re.search(rf"{heading}: (\S+)", music)[1])
        for heading in ("errors over known ratings", "plus regularization")
    )
    # Predictions of an untrained model are near 0, so the sum is near that of the squared ratings;
    # a mean would be near 13.
    R = cmf.datasets.load_music().ratings
    assert plain == pytest.approx(np.square(R).sum(), rel=0.1)
    assert plain < penalized < plain + 1


def test_music_by_hand_reproduces_every_known_rating(music):
    R = cmf.datasets.load_music().ratings
    _, _, predicted = table(music, "Predicted with five factors")
    assert np.abs(predicted.T - R)[R > 0].max() < 0.25


def test_music_estimator_reproduces_the_known_ratings_on_the_whole(music):
    R = cmf.datasets.load_music().ratings
    pieces, users, predicted = table(music, "Predicted ratings")
    assert (pieces, users) == (
        cmf.datasets.load_music().item_ids.tolist(),
        cmf.datasets.load_music().user_ids.tolist(),
    )
    # From so small a start 600 epochs leave a typical error of 0.2; single cells are further off.
    errors = (predicted.T - R)[R > 0]
    assert np.sqrt(np.mean(errors**2)) < 0.25


def test_music_labels_the_similarities_in_the_order_of_the_rows(music):
    _, users, predicted = table(music, "Predicted ratings")
    rows, columns, shown = table(music, "Cosine similarity")
    assert rows == columns == users == ["Darth Vader", "Hermione", "Ripley", "Spock"]
    unit = predicted.T / np.linalg.norm(predicted.T, axis=1, keepdims=True)
    np.testing.assert_allclose(shown, unit @ unit.T, atol=0.011)  # both are rounded to 0.01


def test_music_recommends_to_hermione_what_the_reference_does(music):
    lines = section(music, "For Hermione, from the three users most like her:")
    found = [re.split(r"\s{2,}", line.strip()) for line in lines]
    assert [name for name, _ in found] == ["Back in Black", "Brandenburg Concerto No. 3"]
    assert float(found[0][1]) == pytest.approx(10.7, abs=1.5)
    assert float(found[1][1]) == pytest.approx(5.5, abs=1.0)


def test_music_scaled_to_ten_predicts_twice_as_much(tmp_path):
    R = cmf.datasets.load_music().ratings
    _, _, predicted = table(output_of(tmp_path, "music.py", "--scale-to", "10"), "Predicted rat")
    errors = (predicted.T - 2 * R)[R > 0]
    assert np.sqrt(np.mean(errors**2)) < 0.5


def test_examples_print_the_same_for_the_same_seed_only(tmp_path, from_scratch):
    assert output_of(tmp_path, "from_scratch.py", "--seed", "0") == from_scratch
    few = ("from_scratch.py", "--steps", "10")
    assert output_of(tmp_path, *few, "--seed", "1") != output_of(tmp_path, *few)


# --------------------------------------------------------------------------- MovieLens


def test_movielens_without_data_says_what_to_do_and_stays_offline(tmp_path):
    done = start(tmp_path, "movielens.py")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for wanted in ("ml-100k", "CMF_DATA_HOME", "--download"):
        assert wanted in done.stderr


def test_movielens_goes_online_if_it_is_told_to(tmp_path):
    # It also shows that the guard, which the test above trusts, sees an attempt.
    assert start(tmp_path, "movielens.py", "--download").returncode == OFFLINE


@needs_movielens
def test_movielens_reports_errors_titles_and_a_newcomer(tmp_path):
    output = output_of(tmp_path, "movielens.py", data_home=DATA_HOME)
    (first,) = [numbers(line) for line in output.splitlines() if line.startswith("First fold")]
    (five,) = [numbers(line) for line in output.splitlines() if line.startswith("Five folds")]
    # Models of this kind with the defaults of other libraries come to an RMSE of about 0.938.
    assert 0.90 < five[0] < 0.92
    assert 0.91 < first[0] < 0.93  # the first fold is the hardest
    assert 0.6 < five[1] < five[0]
    for heading, count in (("For user 1:", 10), ("Like Star Wars", 5), ("For a newcomer", 10)):
        scores = [numbers(line)[0] for line in section(output, heading)]
        assert len(scores) == count
        assert scores == sorted(scores, reverse=True)
    assert "Empire Strikes Back, The (1980)" in section(output, "Like Star Wars")[0]
    assert "Toy Story (1995)" not in "".join(section(output, "For a newcomer"))


# --------------------------------------------------------------------------- tuning


def test_tuning_with_optuna_prunes_and_measures_the_winner(tmp_path):
    pytest.importorskip("optuna")
    output = output_of(tmp_path, "tune_with_optuna.py", "--trials", "12", "--epochs", "20")
    trials, pruned = map(int, re.search(r"Trials: (\d+), (\d+) of them pruned", output).groups())
    assert trials == 12
    assert pruned > 0
    winner, plain = (
        float(re.search(rf"Test RMSE of the {name}.*: (\S+)$", output, re.M)[1])
        for name in ("winner", "defaults")
    )
    # The noise is 0.5; predicting the mean would give 0.96.
    assert 0.5 < winner < 0.75
    assert 0.5 < plain < 0.75


def test_tuning_without_optuna_says_so(tmp_path):
    (tmp_path / "optuna.py").write_text("raise ImportError('hidden')")
    output = output_of(tmp_path, "tune_with_optuna.py")
    assert output == "This example needs Optuna: pip install optuna. Nothing was done.\n"


# --------------------------------------------------------------------------- the demonstration


def held_out_errors(output):
    """Return the RMSE lines of one part by name."""
    lines = section(output, "RMSE on ")
    return {line[:20].strip(): float(line[20:]) for line in lines}


def check_picture(path):
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    assert width > height > 500


def test_demo_trains_draws_and_recommends(tmp_path):
    done = start(tmp_path, "demo.py", "--ratings", "100000", "--output", "pictures")
    assert done.returncode == 0, done.stderr
    output = done.stdout
    errors = held_out_errors(output)
    floor = errors["noise floor"]
    assert floor * 0.97 < errors["factors and biases"] < errors["biases only"] * 0.9
    # Standard deviations planted: noise 0.5, interaction 0.6, users' and items' biases 0.4 each.
    assert floor == 0.5
    assert errors["biases only"] == pytest.approx((0.5**2 + 0.6**2) ** 0.5, rel=0.03)
    assert errors["global mean"] == pytest.approx((0.5**2 + 0.6**2 + 2 * 0.4**2) ** 0.5, rel=0.03)
    assert "unning loss" in output
    losses = re.findall(
        r"^Epoch (\d+)/20 - Training Loss: (\S+) \(mse (\S+), reg (\S+)\)$", output, re.M
    )
    assert [int(epoch) for epoch, *_ in losses] == list(range(1, 21))
    assert float(losses[-1][2]) < float(losses[0][2]) / 1.5
    assert re.search(r"^Exact loss of the finished factors: \d", output, re.M)
    assert re.search(r"Trained [\d,]+ ratings per second", output)
    predicted = [numbers(line)[0] for line in section(output, "Ten recommendations")[1:]]
    assert len(predicted) == 10
    assert predicted == sorted(predicted, reverse=True)
    assert "MovieLens is not at hand" in output
    check_picture(tmp_path / "pictures" / "learning-curve.png")


def test_demo_shows_its_bar_in_few_updates_where_there_is_no_terminal(tmp_path):
    done = start(tmp_path, "demo.py", "--ratings", "20000")
    assert done.returncode == 0, done.stderr
    assert "20/20" in done.stderr
    assert done.stderr.count("\r") <= 25  # at most one for each epoch, and those of opening it
    assert "\r" not in done.stdout
    assert (tmp_path / "demo-output" / "learning-curve.png").is_file()  # the folder by default


@needs_movielens
def test_demo_includes_the_movielens_set_at_hand(tmp_path):
    # The small set, under its own folder, so that it is found before the large one.
    home = tmp_path / "data"
    home.mkdir()
    (home / "ml-100k").symlink_to(Path(DATA_HOME).resolve() / "ml-100k", target_is_directory=True)
    output = output_of(tmp_path, "demo.py", "--ratings", "20000", data_home=home)
    _, movielens = output.split("=== MovieLens 100K")
    errors = held_out_errors(movielens)
    assert 0.88 < errors["factors and biases"] < errors["biases only"] < errors["global mean"]
    titles = section(movielens, "Ten recommendations for user 1:")
    assert len(titles) == 10
    assert all(re.fullmatch(r"  \d\.\d\d  .+ \(\d{4}\)", line) for line in titles)
    check_picture(tmp_path / "demo-output" / "learning-curve-movielens-100k.png")
