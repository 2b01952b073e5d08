"""Measures of whether a table suits factor analysis, held to published numbers and to brute force."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal

from skvae.model_selection import bartlett_sphericity, kaiser_meyer_olkin


def draw(n=200, d=6, k=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, k)) @ rng.normal(size=(k, d)) + rng.normal(size=(n, d))


@pytest.fixture(scope="module")
def bfi(test_data):
    """The 25 items of a personality questionnaire, with gaps."""
    path = test_data / "small" / "bfi.csv"
    if not path.is_file():
        pytest.skip("needs small/bfi.csv in the folder that SKVAE_TEST_DATA names")
    return pd.read_csv(path).iloc[:, :25]


def test_complete_answers_give_the_numbers_of_factor_analyzer(bfi):
    """`calculate_kmo` and `calculate_bartlett_sphericity` of factor_analyzer, as its tutorials print them."""
    rows = bfi.dropna()
    assert kaiser_meyer_olkin(rows).overall == pytest.approx(0.8486452309468382, rel=1e-9)
    test = bartlett_sphericity(rows)
    assert test.statistic == pytest.approx(18146.065577234807, rel=1e-9)
    assert test.dof == 300 and test.p_value == 0


def test_pairwise_correlations_give_the_numbers_of_psych(bfi):
    """`KMO` and `cortest.bartlett` of R's psych, which correlate the rows where both items were answered."""
    R = bfi.corr()
    found = kaiser_meyer_olkin(R, precomputed=True)
    assert round(found.overall, 2) == 0.85
    assert_allclose(found.of_columns[:5], [0.74, 0.84, 0.87, 0.87, 0.90], atol=0.006)
    test = bartlett_sphericity(R, n_samples=2800, precomputed=True)
    assert test.statistic == pytest.approx(20163.79, abs=0.006) and test.dof == 300


def test_partial_correlations_are_those_of_residuals():
    X = draw()
    Z = X - X.mean(0)
    squares, partial = np.zeros((6, 6)), np.zeros((6, 6))
    for i in range(6):
        for j in set(range(6)) - {i}:
            others = np.delete(Z, [i, j], axis=1)
            a, b = (Z[:, c] - others @ np.linalg.lstsq(others, Z[:, c], rcond=None)[0] for c in (i, j))
            squares[i, j] = np.corrcoef(X[:, i], X[:, j])[0, 1] ** 2
            partial[i, j] = np.corrcoef(a, b)[0, 1] ** 2
    found = kaiser_meyer_olkin(X)
    assert found.overall == pytest.approx(squares.sum() / (squares + partial).sum(), rel=1e-10)
    assert_allclose(found.of_columns, squares.sum(0) / (squares + partial).sum(0), rtol=1e-10)


def test_bartletts_test_is_a_likelihood_ratio_and_its_p_values_are_uniform():
    X = draw()
    Z = (X - X.mean(0)) / X.std(0)
    ratio = 2 * (
        multivariate_normal(np.zeros(6), np.corrcoef(Z.T)).logpdf(Z) - multivariate_normal(np.zeros(6)).logpdf(Z)
    )
    test = bartlett_sphericity(X)
    assert test.statistic == pytest.approx(ratio.sum() / 200 * (199 - 17 / 6), rel=1e-9) and test.dof == 15
    rng = np.random.default_rng(0)
    p = [bartlett_sphericity(rng.normal(size=(40, 5)) * 3 + 7).p_value for _ in range(500)]
    assert np.mean(p) == pytest.approx(0.5, abs=0.05) and np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.03)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_units_and_offsets_do_not_matter(scale):
    X = draw()
    weights = np.r_[scale, 1, 1, 2, 3, 1 / scale]
    other = X * weights
    assert kaiser_meyer_olkin(other).overall == pytest.approx(kaiser_meyer_olkin(X).overall, rel=1e-9)
    assert bartlett_sphericity(other).statistic == pytest.approx(bartlett_sphericity(X).statistic, rel=1e-9)
    assert kaiser_meyer_olkin(X + 1e6).overall == pytest.approx(kaiser_meyer_olkin(X).overall, rel=1e-6)


def test_a_covariance_matrix_is_as_good_as_its_rows():
    X = draw()
    S = pd.DataFrame(np.cov(X.T))
    assert kaiser_meyer_olkin(S, precomputed=True).overall == pytest.approx(kaiser_meyer_olkin(X).overall, rel=1e-10)
    test = bartlett_sphericity(S, n_samples=200, precomputed=True)
    assert test.statistic == pytest.approx(bartlett_sphericity(X).statistic, rel=1e-10)


def test_columns_that_share_one_factor_are_adequate_and_two_columns_are_in_between():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(500, 1)) + 0.3 * rng.normal(size=(500, 8))
    assert kaiser_meyer_olkin(one).overall > 0.9
    assert kaiser_meyer_olkin(draw(d=2)).overall == pytest.approx(0.5)  # no other column to give
    assert np.isnan(kaiser_meyer_olkin(np.eye(3), precomputed=True).overall)
    assert bartlett_sphericity(np.eye(3), n_samples=9, precomputed=True).p_value == 1


def test_what_has_no_answer_is_refused():
    X = draw()
    for function in (kaiser_meyer_olkin, bartlett_sphericity):
        name = function.__name__
        gap = X.copy()
        gap[3, 2] = np.nan
        with pytest.raises(ValueError, match=rf"{name} needs complete, finite rows, but X\[3, 2\] = nan"):
            function(gap)
        with pytest.raises(ValueError, match="column 1 of X is 3.0 in every row"):
            function(np.c_[X[:, 0], np.full(200, 3.0)])
        with pytest.raises(ValueError, match=f"{name}: the correlation matrix.*singular"):
            function(np.c_[X, X[:, 0] + X[:, 1]])
        with pytest.raises(ValueError, match="more rows than columns"):
            function(X[:5])
        with pytest.raises(ValueError, match="pairs of columns, but X has 1 column"):
            function(X[:, :1])
    with pytest.raises(ValueError, match="symmetric matrix of correlations"):
        kaiser_meyer_olkin(X, precomputed=True)
    with pytest.raises(ValueError, match=r"positive variances, but X\[1, 1\] = 0"):
        kaiser_meyer_olkin(np.diag([1.0, 0.0]), precomputed=True)
    for wrong in ({"n_samples": 5}, {"precomputed": True}):
        with pytest.raises(ValueError, match="needs n_samples, the number of rows, if and only if"):
            bartlett_sphericity(np.eye(3), **wrong)
    with pytest.raises(ValueError, match="n_samples must be a positive number"):
        bartlett_sphericity(np.eye(3), n_samples=-1, precomputed=True)
