"""Two-sample tests of tables: values known in closed form or by brute force, tables of any kind, wrong input."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from pytest import approx
from scipy.spatial.distance import cdist
from scipy.stats import energy_distance as in_one_dimension
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from skvae.metrics import _energy, classifier_two_sample_accuracy, energy_distance

RNG = np.random.default_rng(0)


def by_brute_force(x, y):
    n, m = len(x), len(y)
    within = cdist(x, x).sum() / (n * (n - 1)) + cdist(y, y).sum() / (m * (m - 1))
    return 2 * cdist(x, y).mean() - within


def test_it_is_the_definition_in_standard_deviations_of_the_first_table():
    X, Y = RNG.normal(3, [1, 50, 0.2], size=(30, 3)), RNG.normal(3, [2, 60, 0.2], size=(40, 3))
    x, y = ((each - X.mean(0)) / X.std(0) for each in (X, Y))
    assert energy_distance(X, Y) == approx(by_brute_force(x, y), rel=1e-9)


def test_it_is_that_of_scipy_in_one_dimension():
    X, Y = RNG.normal(size=(2000, 1)), RNG.normal(1, 1, size=(2000, 1))
    X = (X - X.mean()) / X.std()
    assert energy_distance(X, Y) == approx(in_one_dimension(X[:, 0], Y[:, 0]) ** 2, abs=4e-3)


def test_it_is_0_on_average_for_samples_of_one_distribution():
    found = [energy_distance(*RNG.normal(size=(2, 50, 2))) for _ in range(200)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(200) and min(found) < 0 < max(found)


def test_rows_in_blocks_and_weights_that_stand_for_equal_rows_change_nothing(monkeypatch):
    x, y, count = RNG.normal(size=(20, 2)), RNG.normal(size=(30, 2)), RNG.integers(1, 4, size=20).astype(float)
    repeated = np.repeat(x, count.astype(int), axis=0)
    expected = by_brute_force(repeated, y)
    assert _energy.energy_distance(x, y, count, count) == approx(expected, rel=1e-9)
    monkeypatch.setattr(_energy, "_CELLS_AT_ONCE", 64)
    assert _energy.energy_distance(repeated, y) == approx(expected, rel=1e-9)


def test_a_category_of_two_levels_counts_as_a_column_of_zeros_and_ones():
    x, y = RNG.normal(size=(2, 60)), (RNG.random((2, 60)) < 0.3).astype(int)
    numbers = [pd.DataFrame({"a": x[i], "b": y[i]}) for i in range(2)]
    words = [table.assign(b=np.array(["no", "yes"])[table["b"]]) for table in numbers]
    categories = [table.assign(b=pd.Categorical(table["b"])) for table in numbers]
    booleans = [table.assign(b=table["b"].astype(bool)) for table in numbers]
    arrays = [table.to_numpy(dtype=object) for table in words]
    expected = energy_distance(*numbers)
    for tables in (words, categories, booleans, arrays):
        assert energy_distance(*tables) == approx(expected, rel=1e-9)
    assert energy_distance(words[0], words[1].assign(b="other")) > expected  # a level that X lacks


def test_a_classifier_tells_what_differs_and_nothing_else():
    X, Y = np.random.default_rng(1).normal(size=(2, 200, 2))
    assert classifier_two_sample_accuracy(X, Y, cv=2, random_state=0) == approx(0.5, abs=3 * 0.5 / np.sqrt(400))
    far = classifier_two_sample_accuracy(X, Y[:100] + [2, 0], classifier=LogisticRegression(), random_state=0)
    assert far == approx(0.841, abs=0.08)  # Phi(1), that of the best classifier; 100 rows of each are compared
    twice = [classifier_two_sample_accuracy(X[:50], Y[:50] + 1, cv=2, random_state=3) for _ in range(2)]
    assert twice[0] == twice[1] > 0.55


@pytest.mark.parametrize("compare", [energy_distance, partial(classifier_two_sample_accuracy, classifier=GaussianNB())])
def test_tables_that_cannot_be_compared_are_refused(compare):
    X = pd.DataFrame({"a": np.arange(12.0), "b": list("xyzx") * 3})
    with pytest.raises(ValueError, match="X has 2 columns, but Y has 1"):
        compare(X, X[["a"]])
    with pytest.raises(ValueError, match="give both the same"):
        compare(X, X[["b", "a"]])
    with pytest.raises(ValueError, match=r"Y\[3, 'b'\] is missing"):
        compare(X, X.assign(b=X["b"].where(X.index != 3)))
    with pytest.raises(ValueError, match=r"X\[0, 0\] is missing"):
        compare([[np.nan], [1.0]] * 6, np.ones((12, 1)))
    with pytest.raises(ValueError, match="infinity"):
        compare(np.ones((12, 1)), np.full((12, 1), np.inf))
    with pytest.raises(ValueError, match=r"1 row\(s\)"):
        compare(X, X[:1])
    assert np.isfinite(compare(X.assign(a=1.0), X))  # a constant column has no standard deviation


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_the_energy_distance_has_no_units(unit):
    """It was 0 where the squares of the cells are infinite, or no larger than 0."""
    X, Y = np.random.default_rng(0).normal(size=(2, 100, 2))
    assert energy_distance(unit * X, unit * (Y + [1, 0])) == pytest.approx(energy_distance(X, Y + [1, 0]), rel=1e-9)


def test_equal_numbers_are_one_level_and_texts_are_not_numbers():
    numbers = [[1, 2] * 20, [1.0, 2.0] * 20, [2, 1] * 20]
    tables = [pd.DataFrame({"c": pd.Categorical(column) if place else column}) for place, column in enumerate(numbers)]
    assert all(energy_distance(tables[0], other) < 0 for other in tables)
    codes, others = pd.DataFrame({"c": ["01", "1"] * 20}), pd.DataFrame({"c": ["1", "1"] * 20})
    assert energy_distance(codes, others) > 0.9


@pytest.mark.parametrize(
    ("X", "text"),
    [(sp.csr_array(np.eye(3)), "sparse table"), (np.eye(3) + 1j, "complex"), (pd.Series([1.0, 2.0]), "shape")],
)
def test_what_is_no_table_of_numbers_or_levels_is_refused(X, text):
    with pytest.raises((TypeError, ValueError), match=text):
        energy_distance(X, np.eye(3))
