"""Times of a long table, and what becomes of negative values: beside the matrix, or a clear refusal."""

import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pytest

from skvae import PopularityRecommender
from skvae.datasets import to_interactions
from skvae.metrics import leave_last_out

DAYS = [dt.datetime(2020, 1, 1, 12), dt.datetime(1969, 12, 31), dt.datetime(2020, 3, 29, 3, 30, 0, 250_000)]
SECONDS = [1577880000.0, -86400.0, 1585452600.25]
BERLIN = dt.timezone(dt.timedelta(hours=2))


@pytest.fixture(scope="module")
def table():
    """400 interactions of 12 users and 9 items, many of a pair, all at different times."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 12, 400), rng.integers(0, 9, 400), rng.integers(-2, 4, 400), rng.permutation(400) - 100


@pytest.mark.parametrize("duplicates", ["sum", "last"])
def test_each_cell_has_the_time_of_its_latest_interaction(table, duplicates):
    users, items, values, times = table
    cells = {}
    for user, item, value, time in sorted(zip(*map(np.ndarray.tolist, table), strict=True), key=lambda row: row[3]):
        before = cells.get((user, item), (0,))[0] if duplicates == "sum" else 0
        cells[user, item] = (before + value, time)
    found = to_interactions(users, items, values, times=times, duplicates=duplicates)
    rows, columns = found.data.tocoo().coords
    stored = zip(zip(rows.tolist(), columns.tolist()), zip(found.data.data.tolist(), found.times.data.tolist()))
    assert dict(stored) == {cell: pair for cell, pair in cells.items() if pair[0] != 0}
    assert found.times.dtype == np.int64
    assert 0 in times and -100 in times


@pytest.mark.parametrize("duplicates", ["sum", "last"])
def test_the_order_of_the_table_does_not_matter(table, duplicates):
    shuffled = np.random.default_rng(1).permutation(400)
    one, two = (
        to_interactions(u, i, v, times=t, duplicates=duplicates)
        for u, i, v, t in (table, [column[shuffled] for column in table])
    )
    for name in ("data", "times"):
        for part in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(one[name], part), getattr(two[name], part))


def test_times_share_the_cells_of_the_data_and_change_no_value(table):
    users, items, values, times = table
    found, without = to_interactions(users, items, values, times=times), to_interactions(users, items, values)
    assert without.times is None
    assert (found.data != without.data).nnz == 0
    for part in ("indices", "indptr"):
        np.testing.assert_array_equal(getattr(found.times, part), getattr(found.data, part))
    at_once = to_interactions([0, 0, 0], [1, 1, 0], [5, 4, 3], times=[7, 7, 0], duplicates="last")
    assert at_once.data.toarray().tolist() == [[3, 4]]  # of equal times the one that is given last
    assert at_once.times.data.tolist() == [0, 7]  # a time of 0 is a time


FORMS = {
    "datetimes": DAYS,
    "zoned datetimes": [day.replace(tzinfo=dt.UTC).astimezone(BERLIN) for day in DAYS],
    "datetime64": np.array(DAYS, dtype="M8[ns]"),
    "objects": np.array([np.datetime64(day) for day in DAYS], dtype=object),
    "pandas": pd.Series(DAYS, index=[5, 3, 1]),
    "pandas zoned": pd.Series(DAYS).dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin"),
    "pandas index": pd.DatetimeIndex(DAYS).tz_localize("UTC").tz_convert("Asia/Tokyo"),
    "timestamps": [pd.Timestamp(day) for day in DAYS],
    "polars": pl.Series(DAYS),
    "polars zoned": pl.Series(DAYS).dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Berlin"),
    "floats": SECONDS,
    "nullable": pd.array(SECONDS, dtype="Float64"),
}


@pytest.mark.parametrize("form", FORMS)
def test_datetimes_of_every_kind_become_seconds_since_1970(form):
    found = to_interactions([0, 1, 2], [0, 0, 0], times=FORMS[form])
    assert found.times.dtype == np.float64
    assert found.times.data.tolist() == SECONDS


def test_dates_are_midnight_and_whole_numbers_stay_exact():
    days = [dt.date(2020, 1, 2), np.datetime64("1970-01-02")]
    assert to_interactions([0, 1], [0, 0], times=days[:1] * 2).times.data.tolist() == [1577923200.0] * 2
    assert to_interactions([0, 1], [0, 0], times=[days[1]] * 2).times.data.tolist() == [86400.0] * 2
    nanoseconds = [1577880000000000001, 1577880000000000002]
    for integers in (nanoseconds, np.array(nanoseconds, object), pl.Series(nanoseconds)):
        assert to_interactions([0, 1], [0, 0], times=integers).times.data.tolist() == nanoseconds
    assert to_interactions([0, 1], [0, 0], times=np.array([3, 2], np.uint64)).times.data.tolist() == [3, 2]
    unsigned = np.array(nanoseconds, np.uint64)
    assert to_interactions([0, 1], [0, 0], times=unsigned).times.data.tolist() == nanoseconds
    for seed in range(8):  # they are no tie, of which the seed would choose
        hidden = leave_last_out(np.ones((1, 2)), unsigned[None], seed=seed)[1]
        assert hidden.toarray().tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1, 2, 3], r"users, items, values, times must have one entry .*times: 3"),
        ([1.0, np.nan], r"times\[1\] is missing \(.*nan"),
        ([1.0, np.inf], r"times\[1\] = inf; each interaction needs a finite time"),
        (np.array(["2020-01-01", "NaT"], "M8[D]"), r"times\[1\] is missing"),
        (np.array(["2020", "300000"], "M8[Y]"), r"times\[1\] = 300000; times must lie within 290,000 years"),
        ([dt.datetime(2020, 1, 1), None], r"times\[1\] is missing \(None"),
        (pd.Series([pd.Timestamp("2020-01-01"), None]), r"times\[1\] is missing"),
        (pd.Series([None, pd.Timestamp("2020-01-01", tz="UTC")]), r"times\[0\] is missing"),
        (pd.array([1, None], dtype="Int64"), r"times\[1\] is missing"),
        (pl.Series([None, dt.datetime(2020, 1, 1)]), r"times\[0\] is missing"),
        (["2020-01-01", "2020-01-02"], r"numbers or datetimes, but holds .*'2020-01-01'.*pandas.to_datetime"),
        (pd.Series(["2020-01-01", "2020-01-02"]), r"numbers or datetimes, but holds '2020-01-01' \(str\)"),
        ([True, False], "numbers or datetimes, but holds .*True"),
        (np.array([1, 2], "m8[s]"), "numbers or datetimes, but holds .*timedelta64"),
        ([DAYS[0], 3], "mixes numbers and datetimes"),
        ([DAYS[0], DAYS[1].replace(tzinfo=dt.UTC)], "mixes datetimes with and without a time zone"),
        ([[1, 2]], r"times must be one-dimensional.*\(1, 2\)"),
        (np.ma.array([5, 6], mask=[False, True]), r"times\[1\] is missing \(masked\)"),
        (np.array([2**63 - 1, 2**63 + 1], np.uint64), r"times\[0\] = 9223372036854775807, which float64 does not hold"),
        ([-1, 2**63 + 1], r"times\[1\] = 9223372036854775809, which float64 does not hold exactly; count times from a"),
        ([1, 2**64 + 1], r"times\[1\] = 18446744073709551617, which float64"),
        ([0.5, 2**53 + 1], r"times\[1\] = 9007199254740993, which float64"),
    ],
)
def test_bad_times_are_refused(times, message):
    with pytest.raises(ValueError, match=message):
        to_interactions([0, 1], [0, 0], times=times)


def test_times_that_float64_holds_exactly_may_be_of_any_size():
    for times in ([2**63, -1], [2**64, 5], [0.5, 2**53 + 2], np.array([2**63, 2**63 + 2048], np.uint64)):
        found = to_interactions([0, 1], [0, 0], times=times).times.data
        assert found.dtype == np.float64 and [int(x) if x > 1 else x for x in found.tolist()] == list(times)


def test_a_matrix_of_times_may_be_masked_where_there_was_nothing():
    X, times = np.array([[1, 1], [0, 1]]), np.ma.array([[1, 2], [9, 3]], mask=[[0, 0], [1, 0]])
    shown, hidden = leave_last_out(X, times)
    assert hidden.toarray().tolist() == [[0, 1], [0, 0]] and shown.nnz == 2
    times[1, 1] = np.ma.masked
    with pytest.raises(ValueError, match=r"times\[1, 1\] is missing \(masked\); X has an interaction there"):
        leave_last_out(X, times)


# --- dislikes ---------------------------------------------------------------------------------------------------------


def test_negative_values_are_judged_after_duplicates_are_merged():
    table = ["ann", "ann", "bob", "bob"], ["tea", "tea", "tea", "rice"], [3, -1, -2, 1]
    times = [4, 3, 2, 1]
    kept = to_interactions(*table, times=times)
    assert kept.data.toarray().tolist() == [[0, 2], [1, -2]]
    assert kept.disliked is None
    for negative in ("ignore", "mask"):
        found = to_interactions(*table, times=times, negative=negative)
        assert found.data.toarray().tolist() == [[0, 2], [1, 0]]
        assert found.times.toarray().tolist() == [[0, 4], [1, 0]]
        assert (found.data.nnz, found.times.nnz) == (2, 2)
    assert found.disliked.dtype == bool
    assert found.disliked.toarray().tolist() == [[False, False], [False, True]]
    with pytest.raises(ValueError, match=r"1 values are negative, the first being -2 of user 'bob' and item 'tea'"):
        to_interactions(*table, negative="error")
    assert (
        to_interactions(*table, negative="error", duplicates="last", item_ids=["rice"], unknown="ignore").data.nnz == 1
    )
    with pytest.raises(ValueError, match="negative must be one of 'keep', 'error', 'ignore', 'mask', not 'drop'"):
        to_interactions(*table, negative="drop")


def test_disliked_items_are_not_recommended():
    rng = np.random.default_rng(3)
    opinions = to_interactions(
        rng.integers(0, 20, 300), rng.integers(0, 15, 300), rng.choice([-1, 1], 300), negative="mask"
    )
    assert opinions.disliked.nnz > 20
    model = PopularityRecommender().fit(opinions.data)
    ids, _ = model.recommend(opinions.data, k=15, filter_items=opinions.disliked)
    unfiltered, _ = model.recommend(opinions.data, k=15)
    disliked = opinions.disliked.toarray()
    for user, (some, every) in enumerate(zip(ids, unfiltered)):
        assert disliked[user, every[every >= 0]].sum() == disliked[user].sum()
        assert set(some[some >= 0]) == {item for item in every[every >= 0] if not disliked[user, item]}
    with pytest.raises(ValueError, match=r"Negative values.*negative='ignore'.*negative='mask'"):
        PopularityRecommender().fit(to_interactions([0, 1], [0, 1], [1, -1]).data)
    assert to_interactions([0, 1], [0, 1], [1, 1], negative="mask").disliked.nnz == 0
