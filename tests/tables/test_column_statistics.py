"""Weighted means and variances of columns: against exact arithmetic, with cells missing, and in little memory."""

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

from skvae.tables import column_statistics
from skvae.tables.column_statistics import column_means_and_variances
from skvae.training.factor_analysis_start import summary_of

WEIGHT = np.random.default_rng(0).integers(1, 5, 40).astype(np.float64)


def draw(n=40, d=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def exact(x, weight, seen):
    cells = [(Fraction(float(value)), Fraction(float(w))) for value, w, here in zip(x, weight, seen) if here]
    n = sum(w for _, w in cells)
    mean = sum(w * value for value, w in cells) / n
    return float(mean), float(sum(w * (value - mean) ** 2 for value, w in cells) / n)


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shift", [0.0, 1e6, 1e12])
def test_moments_are_those_of_exact_arithmetic_however_large_the_mean(missing, dtype, shift):
    X = (draw() + shift).astype(dtype)
    seen = np.random.default_rng(1).random(X.shape) >= missing
    found = column_means_and_variances(np.where(seen, X, np.nan), WEIGHT, seen if missing else None)
    expected = [exact(x, WEIGHT, here) for x, here in zip(X.T, seen.T)]
    np.testing.assert_allclose(np.transpose(found), expected, rtol=1e-12, atol=1e-15)


def test_weights_are_repeats_and_slices_change_nothing(monkeypatch):
    X = draw()
    weighted = column_means_and_variances(X, WEIGHT)
    repeated = column_means_and_variances(np.repeat(X, WEIGHT.astype(int), axis=0))
    np.testing.assert_allclose(weighted, repeated, rtol=1e-13)
    monkeypatch.setattr(column_statistics, "_CELLS_AT_ONCE", 1)
    np.testing.assert_allclose(column_means_and_variances(X, WEIGHT), weighted, rtol=1e-12)


def test_a_column_without_cells_has_no_moments_and_is_no_error():
    X = draw()
    X[:, 2] = np.nan
    mean, variance = column_means_and_variances(X, WEIGHT, ~np.isnan(X))
    assert mean[2] == variance[2] == 0 and variance[1] > 0


def test_a_table_is_not_copied_whole(monkeypatch):
    X = draw(2000, 200).astype(np.float32)
    monkeypatch.setattr(column_statistics, "_CELLS_AT_ONCE", 2**13)
    tracemalloc.start()
    try:
        column_means_and_variances(X)
        assert tracemalloc.get_traced_memory()[1] < X.nbytes / 4
    finally:
        tracemalloc.stop()


def test_what_varies_by_rounding_only_is_constant():
    X = draw()
    X[:, 1], X[:, 2], X[:, 3] = 7.0, np.nan, np.where(WEIGHT > 2, 0.1 + 0.2, 0.3)
    X[:, 4] = np.where(np.arange(40) == 3, 1.0, 0.0)
    assert summary_of(X, WEIGHT).constant.tolist() == [False, True, True, True, False, False]
    assert summary_of(X, np.where(np.arange(40) == 3, 0.0, WEIGHT)).constant[4]
