"""Models fitted on wide data frames take and return labels everywhere."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import cmf

USERS = [f"user {u}" for u in range(12)]
ITEMS = [f"item {i}" for i in range(9)]
SMALL = {"n_factors": 3, "learning_rate": 0.005, "n_epochs": 4, "random_state": 0}
KINDS = ["pandas", "polars", "pyarrow"]


def table_of(seed=0, n_users=12, n_items=9):
    rng = np.random.default_rng(seed)
    rated = rng.random((n_users, n_items)) < 0.5
    return np.where(rated, rng.integers(1, 6, rated.shape), 0).astype(float)


def make_frame(kind, table, users=USERS, items=ITEMS):
    """Make a wide frame; a missing rating is 0 here, NaN or null there."""
    if kind == "pandas":
        return pd.DataFrame(np.where(table == 0, np.nan, table), index=users, columns=items)
    columns = {
        item: [None if value == 0 else value for value in column]
        for item, column in zip(items, table.T.tolist(), strict=True)
    }
    make = pl.DataFrame if kind == "polars" else pa.table
    return make({"user": list(users), **columns})


def read_frame(frame):
    """Return users, items and values of a frame that came back."""
    if isinstance(frame, pd.DataFrame):
        return list(frame.index), list(frame.columns), frame.to_numpy()
    if isinstance(frame, pa.Table):
        frame = pl.from_arrow(frame)
    users, *items = frame.columns
    return frame[users].to_list(), items, frame.drop(users).to_numpy()


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def plain():
    return cmf.MatrixFactorization(**SMALL).fit(table_of())


@pytest.fixture(scope="module")
def labelled(kind):
    return cmf.MatrixFactorization(**SMALL).fit(make_frame(kind, table_of()))


def labels(rows, names):
    """Return labels for rows, None for -1."""
    names = np.array([*names, None], dtype=object)
    return names[rows]


def same_factors(first, second):
    return all(
        getattr(first, name).tobytes() == getattr(second, name).tobytes()
        for name in ("user_factors_", "item_factors_", "user_biases_", "item_biases_")
    )


# --- as without labels, but named -----------------------------------------------------------------


def test_labels_change_no_number(labelled, plain):
    assert same_factors(labelled, plain)
    assert labelled.user_ids_.tolist() == USERS
    assert labelled.item_ids_.tolist() == ITEMS
    assert labelled.user_ids_.dtype == labelled.item_ids_.dtype == object


def test_predict_takes_labels(labelled, plain):
    expected = plain.predict([3, 0, 3], [1, 8, 2])
    users, items = ["user 3", "user 0", "user 3"], ["item 1", "item 8", "item 2"]
    for make in (list, tuple, np.array, pd.Series, pd.Index, pl.Series, pa.array):
        np.testing.assert_array_equal(labelled.predict(make(users), make(items)), expected)
    assert labelled.predict("user 3", "item 1") == expected[0]
    np.testing.assert_array_equal(
        labelled.predict("user 3", ["item 1", "item 2"]), plain.predict(3, [1, 2])
    )


def test_recommend_takes_and_returns_labels(labelled, plain):
    rows, scores = plain.recommend(n=6)
    ids, found = labelled.recommend(n=6)
    np.testing.assert_array_equal(ids, labels(rows, ITEMS))
    np.testing.assert_array_equal(found, scores)
    assert ids.dtype == object
    one_ids, one_scores = labelled.recommend("user 4", n=6)
    np.testing.assert_array_equal(one_ids, labels(plain.recommend(4, n=6)[0], ITEMS))
    np.testing.assert_array_equal(one_scores, plain.recommend(4, n=6)[1])
    some, _ = labelled.recommend(
        ["user 4", "user 1"], n=6, items=["item 8", "item 0", "item 3"], exclude=["item 3"]
    )
    rows, _ = plain.recommend([4, 1], n=6, items=[8, 0, 3], exclude=[3])
    np.testing.assert_array_equal(some, labels(rows, ITEMS))


def test_similar_and_neighbors_take_and_return_labels(labelled, plain):
    np.testing.assert_array_equal(
        labelled.similar_items("item 2")[0], labels(plain.similar_items(2)[0], ITEMS)
    )
    np.testing.assert_array_equal(
        labelled.similar_users(["user 2", "user 5"], n=12)[0],
        labels(plain.similar_users([2, 5], n=12)[0], USERS),
    )
    ids, scores = labelled.recommend_by_neighbors("user 7")
    rows, expected = plain.recommend_by_neighbors(7)
    np.testing.assert_array_equal(ids, labels(rows, ITEMS))
    np.testing.assert_array_equal(scores, expected)


def test_reconstruct_gives_a_frame_of_the_kind_that_went_in(labelled, plain, kind):
    frame = labelled.reconstruct()
    library = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.Table}[kind]
    assert type(frame) is library
    users, items, values = read_frame(frame)
    assert users == USERS
    assert items == ITEMS
    np.testing.assert_array_equal(values, plain.reconstruct())
    assert values.dtype == np.float32
    users, items, values = read_frame(
        labelled.reconstruct(["user 5", "user 1"], ["item 8", "item 2"])
    )
    assert (users, items) == (["user 5", "user 1"], ["item 8", "item 2"])
    np.testing.assert_array_equal(values, plain.reconstruct([5, 1], [8, 2]))


def test_frames_may_be_taken_apart_by_label(labelled, kind):
    table = labelled.reconstruct()
    if kind == "pandas":
        cell = table.loc["user 3", "item 4"]
    else:
        table = pl.from_arrow(table) if kind == "pyarrow" else table
        cell = table.row(USERS.index("user 3"))[1 + ITEMS.index("item 4")]
    assert cell == labelled.predict("user 3", "item 4")


# --- alignment ------------------------------------------------------------------------------------


def shuffled(kind, table, seed=0):
    """Return the same frame with users and items in another order."""
    rng = np.random.default_rng(seed)
    users, items = rng.permutation(12), rng.permutation(9)
    assert (users != range(12)).any()
    assert (items != range(9)).any()
    return make_frame(
        kind, table[np.ix_(users, items)], np.array(USERS)[users], np.array(ITEMS)[items]
    )


def test_frames_in_another_order_mean_the_same(labelled, plain, kind):
    assert labelled.loss(shuffled(kind, table_of())).sse == pytest.approx(
        plain.loss(table_of()).sse, rel=1e-12
    )


def test_continued_training_aligns_by_label(labelled, plain, kind):
    mine, other = copy.deepcopy(labelled), copy.deepcopy(plain)
    mine.set_params(shuffle=False)
    other.set_params(shuffle=False)
    # Entries of a row arrive in the order of the frame: with one rating a user there is none.
    table = np.zeros((12, 9))
    table[range(12), table_of(5).argmax(axis=1)] = 3
    mine.partial_fit(shuffled(kind, table))
    other.partial_fit(table)
    assert same_factors(mine, other)
    assert mine.user_ids_.tolist() == USERS
    np.testing.assert_array_equal(mine.recommend(n=9)[0], labels(other.recommend(n=9)[0], ITEMS))


def test_validation_aligns_by_label(kind):
    held_out = table_of(3)
    fits = [
        cmf.MatrixFactorization(**SMALL).fit(make_frame(kind, table_of()), validation=validation)
        for validation in (shuffled(kind, held_out), make_frame(kind, held_out), held_out)
    ]
    for column in ("validation_rmse", "validation_mae"):
        for other in fits[1:]:
            np.testing.assert_allclose(fits[0].history_[column], other.history_[column], rtol=1e-12)
        assert np.isfinite(fits[0].history_[column]).all()


def test_some_of_the_labels_are_enough(labelled, plain, kind):
    table = table_of(4)
    users, items = [7, 2, 9], [8, 1, 0, 5]
    part = np.zeros_like(table)
    part[np.ix_(users, items)] = table[np.ix_(users, items)]
    frame = make_frame(
        kind, table[np.ix_(users, items)], np.array(USERS)[users], np.array(ITEMS)[items]
    )
    assert labelled.loss(frame).sse == pytest.approx(plain.loss(part).sse, rel=1e-12)
    assert labelled.loss(frame).n_ratings == np.count_nonzero(part)


def test_newcomers_rate_some_items_in_any_order(labelled, plain, kind):
    items = [8, 1, 0, 5]
    table = np.zeros((2, 9))
    table[np.ix_([0, 1], items)] = [[5, 1, 4, 0], [0, 0, 0, 2]]
    frame = make_frame(kind, table[:, items], ["new a", "user 3"], np.array(ITEMS)[items])
    found, expected = labelled.fold_in(frame), plain.fold_in(table)
    np.testing.assert_allclose(found.factors, expected.factors, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.biases, expected.biases, rtol=1e-5)
    assert found.user_ids.tolist() == ["new a", "user 3"]
    np.testing.assert_array_equal(labelled.transform(frame), found.factors)
    assert labelled.score(frame) == pytest.approx(plain.score(table), rel=1e-5)
    ids, scores = labelled.recommend(found, n=9)
    rows, expected_scores = plain.recommend(expected, n=9)
    np.testing.assert_array_equal(ids, labels(rows, ITEMS))
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)
    assert not set(ids[0]) & {"item 8", "item 1", "item 0"}
    users, items, values = read_frame(labelled.reconstruct(found, ["item 5", "item 2"]))
    assert (users, items) == (["new a", "user 3"], ["item 5", "item 2"])
    np.testing.assert_allclose(values, plain.reconstruct(expected, [5, 2]), rtol=1e-5)


def test_any_library_may_follow_any_other(labelled, plain):
    for other in KINDS:
        frame = make_frame(other, table_of())
        assert labelled.loss(frame) == plain.loss(table_of())


def test_tables_without_labels_go_by_row(labelled, plain):
    assert labelled.loss(table_of()) == plain.loss(table_of())
    mine = copy.deepcopy(labelled).partial_fit(table_of())
    assert mine.item_ids_.tolist() == ITEMS
    assert same_factors(mine, copy.deepcopy(plain).partial_fit(table_of()))


# --- unknown labels -------------------------------------------------------------------------------


def test_unknown_labels_by_policy(labelled):
    with pytest.raises(ValueError, match=r"'nobody'"):
        labelled.predict(["user 1", "nobody"], ["item 1", "item 1"])
    with pytest.raises(ValueError, match=r"'nothing'"):
        labelled.predict("user 1", "nothing")
    mean = labelled.global_mean_
    predicted = labelled.predict(
        ["user 1", "nobody", "nobody"], ["nothing", "item 2", "nothing"], unknown="mean"
    )
    expected = [mean + labelled.user_biases_[1], mean + labelled.item_biases_[2], mean]
    np.testing.assert_allclose(predicted, expected, rtol=1e-6)
    ids, _ = labelled.recommend("nobody", n=9, unknown="mean")
    order = np.argsort(-labelled.item_biases_, kind="stable")
    np.testing.assert_array_equal(ids, labels(order, ITEMS))


def test_rows_are_no_labels(labelled):
    for wrong in (3, [3], np.array([3])):
        with pytest.raises((ValueError, TypeError), match="3"):
            labelled.recommend(wrong)


@pytest.mark.parametrize("method", ["loss", "partial_fit", "fold_in"])
def test_frames_with_unknown_items_are_refused(labelled, kind, method):
    model = copy.deepcopy(labelled)
    items = [*ITEMS[:-1], "novelty"]
    with pytest.raises(ValueError, match="'novelty'"):
        getattr(model, method)(make_frame(kind, table_of(), items=items))
    assert same_factors(model, labelled)


@pytest.mark.parametrize("method", ["loss", "partial_fit"])
def test_frames_with_unknown_users_are_refused(labelled, kind, method):
    users = [*USERS[:-1], "stranger"]
    with pytest.raises(ValueError, match="'stranger'"):
        getattr(copy.deepcopy(labelled), method)(make_frame(kind, table_of(), users=users))


def test_labels_for_a_model_without_are_refused(plain, kind):
    with pytest.raises(
        TypeError, match="the labels of ratings are of another kind than the model's"
    ):
        plain.loss(make_frame(kind, table_of()))
    with pytest.raises(TypeError, match="the labels of validation are of another kind"):
        cmf.MatrixFactorization(**SMALL).fit(table_of(), validation=make_frame(kind, table_of()))
    with pytest.raises((ValueError, TypeError), match="user"):
        plain.predict("user 1", "item 1")


# --- travel ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mmap", [False, True])
def test_labels_survive_a_file(labelled, kind, mmap, tmp_path):
    labelled.save(tmp_path / "model.cmf")
    loaded = cmf.MatrixFactorization.load(tmp_path / "model.cmf", mmap=mmap)
    assert loaded.user_ids_.tolist() == USERS
    np.testing.assert_array_equal(loaded.recommend(n=9)[0], labelled.recommend(n=9)[0])
    assert type(loaded.reconstruct()) is type(labelled.reconstruct())
    loaded.partial_fit(shuffled(kind, table_of()))
    assert loaded.n_iter_ == 5


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_labels_survive_pickling(labelled, travel):
    arrived = travel(labelled)
    np.testing.assert_array_equal(arrived.recommend("user 2")[0], labelled.recommend("user 2")[0])
    newcomers = travel(labelled.fold_in(make_frame("pandas", table_of())))
    assert newcomers.user_ids.tolist() == USERS


# --- other kinds of labels ------------------------------------------------------------------------


def test_integer_labels_of_pandas_are_ids_not_rows(tmp_path):
    users, items = [100, 7, 55], [3, 1, 2, 900]
    table = table_of(0, 3, 4)
    model = cmf.MatrixFactorization(**SMALL).fit(make_frame("pandas", table, users, items))
    plain = cmf.MatrixFactorization(**SMALL).fit(table)
    for found in (model, through_file(model, tmp_path)):
        assert found.predict(7, 900) == plain.predict(1, 3)
        ids, _ = found.recommend([100, 55], n=4)
        rows, _ = plain.recommend([0, 2], n=4)
        expected = labels(rows, items)
        assert [[None if i is None else int(i) for i in row] for row in ids] == expected.tolist()
        with pytest.raises(ValueError, match="0"):
            found.predict(0, 900)


def through_file(model, tmp_path):
    model.save(tmp_path / "model.cmf")
    return cmf.MatrixFactorization.load(tmp_path / "model.cmf")


def test_polars_without_a_column_of_strings_has_items_only():
    frame = pl.DataFrame(table_of(), schema=ITEMS)
    model = cmf.MatrixFactorization(**SMALL).fit(frame)
    assert model.user_ids_ is None
    assert model.item_ids_.tolist() == ITEMS
    assert model.predict(3, "item 2") == model.reconstruct()[3, "item 2"]
    assert model.reconstruct().columns == ITEMS
    assert model.recommend(0)[0].dtype == object
    with pytest.raises(ValueError, match="the model has 12 users"):
        model.partial_fit(frame.head(5))


def test_labels_that_a_file_cannot_hold_are_refused_by_save_alone(tmp_path):
    dates = pd.date_range("2024-01-01", periods=9)
    model = cmf.MatrixFactorization(**SMALL).fit(make_frame("pandas", table_of(), USERS, dates))
    assert model.predict("user 1", dates[2]) == model.reconstruct().loc["user 1", dates[2]]
    with pytest.raises((TypeError, ValueError), match="item_ids"):
        model.save(tmp_path / "model.cmf")
    assert not list(tmp_path.iterdir())
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.recommend()[0], model.recommend()[0])


def test_frames_are_only_read(kind):
    frame = make_frame(kind, table_of())
    before = copy.deepcopy(frame)
    model = cmf.MatrixFactorization(**SMALL).fit(frame, validation=frame)
    model.partial_fit(frame)
    model.recommend(model.fold_in(frame))
    model.score(frame)
    assert frame.equals(before)


def test_changing_the_frame_later_changes_no_model():
    frame = make_frame("pandas", table_of())
    model = cmf.MatrixFactorization(**SMALL).fit(frame)
    frame.columns = [f"x{i}" for i in range(9)]
    frame.index = range(12)
    frame.iloc[:, :] = 0.0
    assert model.item_ids_.tolist() == ITEMS
    assert model.user_ids_.tolist() == USERS
    assert model.recommend("user 0")[0][0] in ITEMS
