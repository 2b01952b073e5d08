"""to_interactions: what goes in comes out, counted by brute force; ids of any type; clear refusals."""

import datetime
import re

import numpy as np
import pytest

from skvae.datasets import to_interactions


def brute_force(users, items, values, duplicates):
    """Return {(user, item): value} without the zeros."""
    cells = {}
    for user, item, value in zip(users, items, values, strict=True):
        before = cells.get((user, item), 0) if duplicates == "sum" else 0
        cells[user, item] = before + value
    return {cell: value for cell, value in cells.items() if value != 0}


def back(table):
    """Return {(user id, item id): value} of a matrix."""
    coo = table.data.tocoo()
    users, items = table.user_ids[coo.coords[0]].tolist(), table.item_ids[coo.coords[1]].tolist()
    return dict(zip(zip(users, items, strict=True), coo.data.tolist(), strict=True))


ID_TYPES = {
    "int": lambda n: (n * 7 - 20).tolist(),
    "uint8": lambda n: n.astype(np.uint8),
    "float": lambda n: n / 4,
    "str": lambda n: [f"id {i}" for i in n],
    "bytes": lambda n: [b"id %d" % i for i in n],
    "object": lambda n: np.array([f"id {i}" for i in n], dtype=object),
    "bool": lambda n: n % 2 == 0,
    "date": lambda n: [datetime.date(2020, 1, 1) + datetime.timedelta(int(i)) for i in n],
    "datetime64": lambda n: np.datetime64("2020-01-01") + n,
    "pairs": lambda n: _objects([("x", int(i)) for i in n]),
}


def _objects(entries):
    array = np.empty(len(entries), dtype=object)
    array[:] = entries
    return array


@pytest.mark.parametrize("duplicates", ["sum", "last"])
@pytest.mark.parametrize("kind", ID_TYPES)
def test_round_trip_agrees_with_brute_force(kind, duplicates):
    rng = np.random.default_rng(0)
    users, items = ID_TYPES[kind](rng.integers(0, 12, 200)), ID_TYPES[kind](rng.integers(0, 9, 200))
    values = rng.integers(-2, 4, 200)
    table = to_interactions(users, items, values, duplicates=duplicates)
    plain = [x.tolist() if isinstance(x, np.ndarray) else x for x in (users, items)]
    assert back(table) == brute_force(*plain, values.tolist(), duplicates)
    for ids, given in ((table.user_ids, plain[0]), (table.item_ids, plain[1])):
        assert ids.tolist() == sorted(set(given))
    assert table.data.has_canonical_format
    assert table.data.dtype == np.float32
    assert table.data.indices.dtype == np.int32


def test_without_values_interactions_are_counted():
    table = to_interactions([1, 1, 2, 1], ["a", "a", "a", "b"])
    assert back(table) == {(1, "a"): 2, (1, "b"): 1, (2, "a"): 1}
    table = to_interactions([1, 1, 2, 1], ["a", "a", "a", "b"], duplicates="last", dtype=np.int8)
    assert back(table) == {(1, "a"): 1, (1, "b"): 1, (2, "a"): 1}
    assert table.data.dtype == np.int8


def test_integers_are_summed_exactly():
    table = to_interactions([0, 0], [0, 0], [2**60, 1], dtype=np.int64)
    assert table.data.data.tolist() == [2**60 + 1]


def test_sums_beyond_int64_do_not_wrap_around():
    found = to_interactions([1, 1, 2], [1, 1, 1], [2**62, 2**62, 5], dtype=np.float64)
    assert found.data.data.tolist() == [2.0**63, 5]


@pytest.mark.parametrize("ids", [[-1, 2**63, 2**63 + 1], [0.5, 2**53, 2**53 + 1]])
def test_large_ids_of_a_list_are_not_merged_by_rounding(ids):
    assert to_interactions([0, 0, 0], ids).item_ids.tolist() == ids


def test_order_of_the_rows_matters_only_to_last():
    rng = np.random.default_rng(1)
    users, items, values = rng.integers(0, 30, 500), rng.integers(0, 20, 500), rng.integers(1, 5, 500)
    shuffled = rng.permutation(500)
    one, two = (
        to_interactions(users, items, values),
        to_interactions(users[shuffled], items[shuffled], values[shuffled]),
    )
    assert (one.data != two.data).nnz == 0
    assert to_interactions([7, 7, 7], [1, 2, 1], [5, 6, 4], duplicates="last").data.toarray().tolist() == [[4, 6]]


def test_pandas_columns_of_every_kind_agree_with_lists():
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(2)
    n = rng.integers(0, 9, 60)
    frame = pandas.DataFrame({"n": n, "name": [f"u{i}" for i in n], "value": rng.integers(1, 4, 60)}, index=n[::-1])
    frame["category"] = frame["name"].astype("category")
    frame["nullable"] = frame["n"].astype("Int64")
    frame["text"] = frame["name"].astype("string")
    frame["day"] = pandas.Timestamp("2020-01-01") + pandas.to_timedelta(n, unit="D")
    frame["zoned"] = frame["day"].dt.tz_localize("Europe/Berlin")
    expected = to_interactions(n.tolist(), n.tolist(), frame["value"].tolist())
    for column in ("name", "category", "nullable", "text", "day", "zoned"):
        table = to_interactions(frame[column], frame["n"], frame["value"])
        assert np.array_equal(table.data.toarray(), expected.data.toarray()), column
        mapped = to_interactions(frame[column], frame["n"], frame["value"], user_ids=table.user_ids)
        assert np.array_equal(mapped.data.toarray(), expected.data.toarray()), column
    with pytest.raises(ValueError, match=r"users\[1\] is missing"):
        to_interactions(pandas.array([1, None], dtype="Int64"), [1, 1])
    with pytest.raises(ValueError, match=r"items\[0\] is missing"):
        to_interactions([1, 1], pandas.Series([None, "a"], dtype="category"))
    with pytest.raises(ValueError, match="one-dimensional"):
        to_interactions(frame[["n"]], frame["n"])


def test_given_ids_fix_the_order_of_rows_and_columns():
    table = to_interactions([5, 3], ["b", "a"], [1, 2], user_ids=[5, 4, 3], item_ids=["b", "c", "a"])
    assert table.data.toarray().tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 2]]
    assert table.user_ids.tolist() == [5, 4, 3]
    assert table.item_ids.tolist() == ["b", "c", "a"]


def test_new_users_arrive_on_the_old_columns():
    old = to_interactions(["u", "v"], ["a", "b"])
    new = to_interactions(["x", "w", "w"], ["zzz", "b", "zzz"], item_ids=old.item_ids, unknown="ignore")
    assert new.data.toarray().tolist() == [[0, 1], [0, 0]]  # a user left with nothing keeps a row
    assert new.user_ids.tolist() == ["w", "x"]


def test_everything_unknown_leaves_an_empty_matrix():
    for duplicates in ("sum", "last"):
        with pytest.warns(
            UserWarning, match=r"None of the 1 distinct items is in item_ids.* 'z'.* 'a', 'b'\.$"
        ) as caught:
            table = to_interactions([1], ["z"], item_ids=["a", "b"], unknown="ignore", duplicates=duplicates)
        assert caught[0].filename == __file__
        assert table.data.shape == (1, 2)
        assert table.data.nnz == 0


def test_unknown_ids_are_counted_and_named():
    with pytest.raises(ValueError, match=r"4 of the 5 distinct items are not in item_ids, .* 'b', 'c', 'd', \.\.\.;"):
        to_interactions([1] * 6, list("abcdeb"), item_ids=["a"])
    with pytest.raises(ValueError, match=r"1 of the 2 distinct users are not in user_ids, the first being 2;.*ignore"):
        to_interactions([1, 2], [1, 1], user_ids=[1])


@pytest.mark.parametrize(
    ("given", "known", "hint"),
    [
        (["1"], np.array([1, 2]), "items hold str, item_ids number: convert one of them."),
        ([1, 2], ["1", "2"], "items hold number, item_ids str: convert one of them."),
        (np.array(["2020-01-01"], "M8[D]"), ["2020-01-01"], "items hold date, item_ids str: convert one of them."),
    ],
)
def test_ids_of_another_type_than_the_known_ones_are_pointed_out(given, known, hint):
    users = [1] * len(given)
    with pytest.warns(UserWarning, match=re.escape(hint)):
        table = to_interactions(users, given, item_ids=known, unknown="ignore")
    assert table.data.nnz == 0
    with pytest.raises(ValueError, match=re.escape(hint)):
        to_interactions(users, given, item_ids=known)
    with pytest.raises(ValueError, match="ignore' to leave their interactions out\\.$"):
        to_interactions([1, 1], [1.5, 2.0], item_ids=[2])  # numbers of two types are compared as numbers


def test_dates_of_different_resolution_meet():
    days = np.array(["2020-01-02", "2020-01-01"], dtype="M8[D]")
    table = to_interactions(days.astype("M8[ns]"), [0, 0], [1, 2], user_ids=days)
    assert table.data.toarray().tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([], []), {}, "users is empty"),
        (([1], [1, 2]), {}, "users: 1, items: 2"),
        (([1, 2], [1, 2], [1]), {}, "values: 1"),
        (([[1, 2]], [1, 2]), {}, r"users must be one-dimensional.*\(1, 2\)"),
        ((3, [1]), {}, "users must be one-dimensional"),
        (([1.0, np.nan], [1, 2]), {}, r"users\[1\] is missing \(.*nan"),
        (([1, 2], ["a", None]), {}, r"items\[1\] is missing \(None"),
        (([1, 2], ["a", np.nan]), {}, r"items\[1\] is missing \(nan"),
        (([1, 2], np.array(["NaT", "2020-01-01"], "M8[D]")), {}, r"items\[0\] is missing"),
        (([1, 2], [1, 2], [1, np.nan]), {}, r"values\[1\] = nan"),
        ((np.ma.array([1, 2], mask=[0, 1]), [1, 2]), {}, r"users\[1\] is missing \(masked\)"),
        (([1, 2], np.ma.array(["a", "b"], mask=[1, 0])), {}, r"items\[0\] is missing \(masked\)"),
        (([1, 2], [1, 2], np.ma.array([1.5, 2], mask=[0, 1])), {}, r"values\[1\] is missing \(masked\)"),
        (([1, 2], [1, 2]), {"item_ids": np.ma.array([1, 2], mask=[0, 1])}, r"item_ids\[1\] is missing \(masked\)"),
        (([1, 2], [1, 2], ["a", "b"]), {}, "values must be numbers"),
        (([1, 2], [1, 2]), {"user_ids": [1, 2, 2, 1, 3, 3, 4]}, "user_ids must not repeat, but 2, 1, 3 do"),
        (([1, 2], [1, 2]), {"item_ids": [1, None]}, r"item_ids\[1\] is missing"),
        (([1, 2], [1, 2]), {"item_ids": []}, "item_ids is empty"),
        (([1, 2], [1, 2]), {"duplicates": "mean"}, "duplicates must be one of 'sum', 'last', not 'mean'"),
        (([1, 2], [1, 2]), {"unknown": "drop"}, "unknown must be one of"),
        (([1, 2], [1, 2], [0.5, 1]), {"dtype": np.int32}, "dtype=int32 cannot hold"),
        (([1, 1], [1, 1], [100, 100]), {"dtype": np.int8}, "dtype=int8 cannot hold"),
        (([1, 2], [1, 2], [1e300, 1]), {}, "dtype=float32 cannot hold"),
        (([1, 2], [1, 2]), {"dtype": str}, "dtype must be"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        to_interactions(*arguments, **options)


@pytest.mark.parametrize("users", [[1, "a"], [1, b"a"], _objects([[1], [2]])])
def test_ids_without_a_common_order_are_refused(users):
    with pytest.raises(TypeError, match="users must be ids of one type"):
        to_interactions(users, [1, 2])


def test_inputs_are_left_as_they_were():
    columns = [np.array(x) for x in ([3, 1, 3], [2, 2, 2], [1.0, 2.0, 3.0])]
    copies = [column.copy() for column in columns]
    for column in columns:
        column.flags.writeable = False
    to_interactions(*columns)
    assert all(np.array_equal(*pair) for pair in zip(columns, copies, strict=True))
