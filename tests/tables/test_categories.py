"""Categories: numbers of values, whatever type the values have and however they are sorted."""

import numpy as np
import pytest

from skvae.tables.categories import Levels, codes_of, distinct, sorted_values

VALUES = {
    "floats": [-1.5, 2.0, 7.0],
    "integers": [3, 1, 2**53 + 1],
    "booleans": [False, True],
    "words": ["b", "a", "c"],
    "mixed": [1, "a", 2.5],
}


@pytest.mark.parametrize("as_objects", [False, True])
@pytest.mark.parametrize("name", VALUES)
def test_codes_are_places_among_the_levels(name, as_objects):
    levels, rng = VALUES[name], np.random.default_rng(0)
    place = rng.integers(0, len(levels), 50)
    values = np.array([levels[i] for i in place], dtype=object)
    if not as_objects and name not in ("words", "mixed"):
        values = np.array(values.tolist())
    missing = rng.random(50) < 0.3
    for order in (levels, levels[::-1]):
        codes, unknown = codes_of(values, missing, order)
        expected = [np.nan if gone else order.index(levels[i]) for i, gone in zip(place, missing)]
        np.testing.assert_array_equal(codes, expected)
        assert codes.dtype == np.float64 and not unknown.any()


@pytest.mark.parametrize("dtype", [float, object])
def test_unknown_values_are_told_apart_from_missing_ones(dtype):
    values = np.array([2.0, 9.0, 1.0, 2.5], dtype=dtype)
    codes, unknown = codes_of(values, np.array([False, False, True, False]), [1.0, 2.0, 4.0])
    np.testing.assert_array_equal(codes, [1, np.nan, np.nan, np.nan])
    assert unknown.tolist() == [False, True, False, True]
    codes, unknown = codes_of(values, np.zeros(4, dtype=bool), [])
    assert np.isnan(codes).all() and unknown.all()


def test_numbers_are_no_words_and_missing_columns_have_no_values():
    codes, unknown = codes_of(np.array([np.nan, 1.0]), np.array([True, False]), ["1", "2"])
    assert np.isnan(codes).all() and unknown.tolist() == [False, True]


@pytest.mark.parametrize("values", [np.array([3.0, 1.0, 3.0, -2.0]), np.array(["b", np.str_("a"), "b"], dtype=object)])
def test_distinct_values_are_plain_and_number_the_cells(values):
    found, number = distinct(values)
    assert [found[i] for i in number] == values.tolist() and len(set(found)) == len(found)
    assert not any(isinstance(value, np.generic) for value in found)
    assert sorted_values(values, "c") == sorted(set(values.tolist()))


def test_a_table_of_numbers_learns_the_levels_that_networks_learn():
    X = np.array([[0.0, 5.0], [1.0, np.nan], [1.0, -3.0], [np.nan, 5.0]])
    levels = Levels.of(X, np.array([1]))
    assert [each.tolist() for each in levels.categories] == [[0, 1], [-3, 5]]
    coded = levels.coded(X, None, unknown_is_missing=False, who="Mine")
    for column in range(2):
        codes, _ = codes_of(X[:, column], np.isnan(X[:, column]), levels.categories[column])
        np.testing.assert_array_equal(coded[:, column], codes)
