"""InteractionEncoder: one table as to_interactions has it, later tables on the same rows and columns."""

import datetime as dt
import pickle
import time

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks

from skvae import PopularityRecommender
from skvae.datasets import InteractionEncoder, fetch_movielens, to_interactions


def draw(seed, n=300, n_users=20, n_items=15):
    """Columns of a long table with names as ids, values of both signs and different times."""
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, n_users, n), rng.integers(0, n_items, n)
    return [f"u{i}" for i in users], [f"i{i}" for i in items], rng.integers(-2, 4, n), rng.permutation(n)


def same(one, two):
    """Whether two results of an encoder are equal in every part."""
    for name in ("data", "times", "disliked"):
        if (one[name] is None) != (two[name] is None):
            return False
        if one[name] is not None and not all(
            np.array_equal(getattr(one[name], part), getattr(two[name], part)) for part in ("data", "indices", "indptr")
        ):
            return False
    return all(one[name].tolist() == two[name].tolist() for name in ("user_ids", "item_ids"))


OPTIONS = [
    {},
    {"duplicates": "last", "negative": "mask"},
    {"user_ids": [f"u{i}" for i in range(30)], "item_ids": [f"i{i}" for i in range(14)], "unknown": "ignore"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "mask", "given ids"])
def test_encoding_agrees_with_to_interactions(options):
    users, items, values, times = draw(0)
    expected = to_interactions(users, items, values, times=times, **options)
    names = {"unknown": "handle_unknown"}
    encoder = InteractionEncoder(**{names.get(name, name): value for name, value in options.items()})
    assert same(encoder.fit_transform(users, items, values, times=times), expected)
    assert same(encoder.transform(users, items, values, times=times), expected)
    for twin in (clone(encoder).fit(users, items), pickle.loads(pickle.dumps(encoder))):
        assert same(twin.transform(users, items, values, times=times), expected)
    new = draw(1, n=60)
    by_function = to_interactions(
        new[0], new[1], new[2], times=new[3], **options | {"user_ids": None, "item_ids": expected.item_ids}
    )
    assert same(encoder.transform(new[0], new[1], new[2], times=new[3], rows="given"), by_function)


@pytest.mark.parametrize("container", [list, np.array, pd.Series, pl.Series, lambda x: pd.Series(x).astype("category")])
def test_columns_of_every_container_are_one_encoder(container):
    users, items, values, times = draw(0)
    encoder = InteractionEncoder().fit(users, items)
    expected = encoder.transform(users, items, values, times=times)
    columns = [container(column) for column in (users, items, values, times)]
    found = InteractionEncoder().fit(*columns[:2]).transform(columns[0], columns[1], values, times=times)
    assert same(found, expected)
    assert same(encoder.transform(*columns[:2], np.asarray(columns[2]), times=np.asarray(columns[3])), expected)


def test_later_tables_keep_rows_and_columns():
    encoder = InteractionEncoder(handle_unknown="ignore").fit(["ann", "bob"], ["tea", "rice"])
    for _ in range(2):
        later = encoder.transform(["bob", "eve", "ann", "bob"], ["tea", "tea", "soap", "tea"])
        assert later.data.toarray().tolist() == [[0, 0], [0, 2]]
        assert (later.user_ids.tolist(), later.item_ids.tolist()) == (["ann", "bob"], ["rice", "tea"])
    given = encoder.transform(["eve", "bob", "eve"], ["tea", "rice", "soap"], rows="given")
    assert given.data.toarray().tolist() == [[1, 0], [0, 1]]
    assert given.user_ids.tolist() == ["bob", "eve"]
    with pytest.warns(UserWarning, match="None of the 1 distinct items is in item_ids") as caught:
        encoder.transform(["ann"], ["soap"])
    assert caught[0].filename == __file__


def test_unknown_ids_are_an_error_by_default():
    encoder = InteractionEncoder().fit([1, 2], ["tea", "rice"])
    before = pickle.dumps(encoder)
    with pytest.raises(
        ValueError, match="1 of the 2 distinct users are not in user_ids, .* 3; pass handle_unknown='ig"
    ):
        encoder.transform([1, 3], ["tea", "tea"])
    with pytest.raises(ValueError, match="1 of the 1 distinct items are not in item_ids, the first being 'soap'"):
        encoder.transform([3], ["soap"], rows="given")
    with pytest.raises(ValueError, match="1 of 2 items are not known, the first being 'soap'; with handle_unknown"):
        encoder.encode_items(["tea", "soap"])
    with pytest.raises(ValueError, match="users hold str, the known users number"):
        encoder.encode_users(["1"])
    assert pickle.dumps(encoder) == before


def test_ids_given_beforehand_are_all_that_fit_knows():
    encoder = InteractionEncoder(item_ids=["tea", "rice", "milk"])
    assert encoder.fit_transform([5], ["rice"]).data.toarray().tolist() == [[0, 1, 0]]
    with pytest.raises(ValueError, match="'soap'; pass handle_unknown='ignore'"):
        encoder.fit([5], ["soap"])
    assert encoder.user_ids_.tolist() == [5]
    assert encoder.partial_fit([4], ["soap"]).item_ids_.tolist() == ["tea", "rice", "milk", "soap"]
    first = InteractionEncoder(item_ids=["tea", "rice"]).partial_fit([5], ["soap"])
    assert (first.user_ids_.tolist(), first.item_ids_.tolist()) == ([5], ["tea", "rice", "soap"])
    with pytest.raises(ValueError, match="item_ids must not repeat, but 'tea' do"):
        InteractionEncoder(item_ids=["tea", "tea"]).fit([5], ["tea"])


def test_partial_fit_appends_and_moves_nothing():
    encoder, old = InteractionEncoder(), draw(0, n_users=9, n_items=5)[:2]
    users, items = encoder.partial_fit(*old).user_ids_, encoder.item_ids_
    before = encoder.transform(*old).data
    for seed, shuffle in ((1, False), (1, True), (2, False)):
        new = np.array(draw(seed)[:2])
        encoder.partial_fit(*(new[:, ::-1] if shuffle else new))
        assert encoder.user_ids_[: len(users)].tolist() == users.tolist()
        assert encoder.item_ids_[: len(items)].tolist() == items.tolist()
        assert sorted(encoder.item_ids_) == sorted({*items, *new[1]})
        users, items = encoder.user_ids_, encoder.item_ids_
    assert items[5:].tolist() == sorted(items[5:])  # new ones of a call are sorted, whatever their order in the table
    after = encoder.transform(*old).data
    assert after.shape == (len(users), len(items))
    assert (after[:9, :5] != before).nnz == 0
    assert encoder.encode_items(items).tolist() == list(range(len(items)))
    assert encoder.fit(["ann"], ["tea"]).item_ids_.tolist() == ["tea"]  # fit forgets


def test_appended_ids_keep_their_type():
    numbers = InteractionEncoder().fit([1, 2], [2**60 + 1, 7])
    with pytest.raises(ValueError, match=r"new items, such as 'tea', are of another type\. items hold str"):
        numbers.partial_fit([1], ["tea"])
    with pytest.raises(ValueError, match=r"new items, such as 0\.5, are of another type"):  # 2**60 + 1 is no float
        numbers.partial_fit([1], [0.5])
    assert numbers.item_ids_.tolist() == [7, 2**60 + 1]
    assert numbers.partial_fit([2.5], [8]).user_ids_.tolist() == [1, 2, 2.5]
    assert numbers.encode_users([2, 2.5]).tolist() == [1, 2]
    assert InteractionEncoder().fit(["a"], [1]).partial_fit(["long name"], [1]).user_ids_.tolist() == ["a", "long name"]
    days = InteractionEncoder().fit([1], np.array(["2020-01-02"], "M8[D]"))
    days.partial_fit([1, 1], np.array(["2020-01-01T12:00", "2020-01-02T00:00"], "M8[s]"))
    assert days.item_ids_.tolist() == [dt.datetime(2020, 1, 2), dt.datetime(2020, 1, 1, 12)]
    for unit in ("D", "s", "ms"):
        assert days.encode_items(np.array(["2020-01-02"], f"M8[{unit}]")).tolist() == [0]
    pairs = np.empty(2, dtype=object)
    pairs[:] = [("x", 1), ("x", 0)]
    assert InteractionEncoder().partial_fit([1, 1], pairs).item_ids_.tolist() == [("x", 0), ("x", 1)]


@pytest.mark.parametrize("unit", ["D", "s", "us", "ns"])
def test_dates_come_back_as_dates_at_any_resolution(unit):
    """Those of pandas, in nanoseconds, came back as whole numbers, and whole numbers were found among them."""
    days = np.array(["2020-01-02", "2020-01-01"], f"M8[{unit}]")
    encoder = InteractionEncoder().fit(["ann", "bob"], days)
    (first, second, none), days = encoder.decode_items([0, 1, -1]).tolist(), days.astype("M8[D]").tolist()
    assert [dt.date(day.year, day.month, day.day) for day in (first, second)] == days[::-1] and none is None
    assert encoder.encode_items([second, first]).tolist() == [1, 0]
    assert encoder.encode_items(np.array(["2020-01-02"], "M8[ms]")).tolist() == [1]
    assert len(encoder.partial_fit(["eve"], np.array(["2020-01-03"], "M8[ns]")).item_ids_) == 3
    with pytest.raises(ValueError, match="items hold number, the known items dat"):
        encoder.encode_items([int(encoder.item_ids_.astype("M8[D]").astype("M8[ns]").astype(np.int64)[0])])


def test_what_python_cannot_hold_stays_with_numpy():
    fine = np.array(["2020-01-01T00:00:00.000000001", "2020-01-01"], "M8[ns]")
    assert InteractionEncoder().fit([0, 1], fine).decode_items([1]).tolist() == [fine[0]]
    lengths = np.array([3, 2], "m8[M]")
    assert InteractionEncoder().fit([0, 1], lengths).decode_items([0, 1]).tolist() == [lengths[1], lengths[0]]
    far = np.array(["20000-01-01"], "M8[D]")
    encoder = InteractionEncoder().fit([0], far)
    assert encoder.decode_items([0])[0] == far[0] and encoder.encode_items(far).tolist() == [0]


def test_inverse_transform_leads_back():
    users, items, values, _ = draw(0)
    encoder = InteractionEncoder(handle_unknown="ignore").fit(users[:200], items[:200])
    X = encoder.transform(users, items, values).data
    table = encoder.inverse_transform(X)
    assert (encoder.transform(**table).data != X).nnz == 0
    assert len(table.users) == X.nnz
    given = encoder.transform(users, items, values, rows="given")
    table = encoder.inverse_transform(given.data.toarray(), user_ids=given.user_ids)
    assert (encoder.transform(**table, rows="given").data != given.data).nnz == 0
    with pytest.raises(ValueError, match=r"X has shape \(3, 15\), but there are 20 users and 15 items"):
        encoder.inverse_transform(X[:3])


def test_names_go_in_and_come_out():
    users, items, _, _ = draw(0)
    encoder = InteractionEncoder(handle_unknown="ignore")
    X = encoder.fit_transform(users, items).data
    model = PopularityRecommender().fit(X)
    ids, _ = model.recommend(X, k=14, filter_items=encoder.encode_items(["i3"]))
    names = encoder.decode_items(ids)
    assert names.shape == ids.shape
    for user, row in enumerate(names):
        have = {item for who, item in zip(users, items) if who == encoder.user_ids_[user]}
        assert set(row) - {None} == set(items) - have - {"i3"}
    assert encoder.encode_items(names[0, :1]).tolist() == ids[0, :1].tolist()
    assert encoder.encode_items(["i3", "soap"]).tolist()[1] == -1
    assert encoder.encode_items([]).tolist() == []
    assert encoder.decode_users(encoder.encode_users(["u7", "u1"])).tolist() == ["u7", "u1"]
    assert encoder.decode_users(-1) is None
    for columns, message in (([0, 15], "hold 15, but run from 0 to 14"), ([-2], "hold -2"), ([0.5], "float64")):
        with pytest.raises(ValueError, match=f"columns .*{message}"):
            encoder.decode_items(columns)


def test_ids_are_not_indexed_anew():
    n = 50_000
    encoder = InteractionEncoder().fit(np.arange(n), np.arange(n).astype(str))
    seconds = []
    for _ in range(5):
        start = time.process_time()
        encoder.transform([3], ["5"], rows="given")
        seconds.append(time.process_time() - start)
    start = time.process_time()
    to_interactions([3], ["5"], item_ids=encoder.item_ids_)
    assert min(seconds) < (time.process_time() - start) / 10  # measured: less than a hundredth


BAD = [
    ({"handle_unknown": "drop"}, "handle_unknown must be one of 'error', 'ignore', not 'drop'"),
    ({"duplicates": "mean"}, "duplicates must be one of"),
    ({"negative": "drop"}, "negative must be one of"),
    ({"dtype": str}, "dtype must be"),
]


@pytest.mark.parametrize(("parameters", "message"), BAD)
def test_bad_parameters_are_refused_by_name_when_fitting(parameters, message):
    for method in ("fit", "fit_transform", "partial_fit"):
        encoder = InteractionEncoder(**parameters)
        with pytest.raises(ValueError, match=message):
            getattr(encoder, method)([1], [1])
        assert not hasattr(encoder, "item_ids_")


def test_bad_tables_are_refused_by_every_method():
    encoder = InteractionEncoder().fit([1], [1])
    for method in ("fit", "fit_transform", "partial_fit", "transform"):
        with pytest.raises(ValueError, match="users: 1, items: 2"):
            getattr(encoder, method)([1], [1, 2])
        with pytest.raises(ValueError, match=r"times\[0\] is missing"):
            getattr(encoder, method)([1], [1], times=[None])
        with pytest.raises(ValueError, match=r"values\[0\] = nan"):
            getattr(encoder, method)([1], [1], [np.nan])
    with pytest.raises(ValueError, match="rows must be one of 'fitted', 'given'"):
        encoder.transform([1], [1], rows="new")


def test_an_unfitted_encoder_says_so():
    for method in ("transform", "inverse_transform", "encode_items", "decode_items", "encode_users", "decode_users"):
        arguments = ([1], [1]) if method == "transform" else ([[1]],)
        with pytest.raises(NotFittedError):
            getattr(InteractionEncoder(), method)(*arguments)


# scikit-learn's checks that do not pass a table of features, which an encoder does not take.
CHECKS = [
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_valid_tag_types",
    "check_estimator_tags_renamed",
]


@pytest.mark.parametrize("check", CHECKS)
def test_scikit_learns_checks_of_parameters_pass(check):
    getattr(estimator_checks, check)("InteractionEncoder", InteractionEncoder())


def test_a_web_log_in_two_weeks(test_data):
    """The Microsoft web log: the second half of its visitors on the columns of the first."""
    import gzip

    path = test_data / "msweb" / "anonymous-msweb.data.gz"
    if not path.is_file():
        pytest.skip("needs msweb/anonymous-msweb.data.gz in the folder that SKVAE_TEST_DATA names")
    users, items, user = [], [], None
    with gzip.open(path, "rt", encoding="latin-1") as lines:
        for line in lines:
            if line.startswith("C,"):
                user = int(line.split(",")[2])
            elif line.startswith("V,"):
                users.append(user)
                items.append(int(line.split(",")[1]))
    whole = to_interactions(users, items)
    assert whole.data.shape == (32_711, 285)
    half = len(users) // 2
    encoder = InteractionEncoder().partial_fit(users[:half], items[:half])
    old = encoder.item_ids_
    assert len(old) < 285
    encoder.partial_fit(users[half:], items[half:])
    assert encoder.item_ids_[: len(old)].tolist() == old.tolist()
    columns = encoder.encode_items(whole.item_ids)
    assert (
        encoder.transform(users, items).data[encoder.encode_users(whole.user_ids)][:, columns] != whole.data
    ).nnz == 0


def test_movielens_goes_through_the_encoder_and_back(ml_100k_path):
    ratings = fetch_movielens(data_home=ml_100k_path.parent, download_if_missing=False)
    encoder = InteractionEncoder(user_ids=ratings.user_ids, item_ids=ratings.item_ids)
    table = encoder.fit([1], [1]).inverse_transform(ratings.data)
    assert (encoder.transform(**table).data != ratings.data).nnz == 0
    assert len(table.users) == 100_000
