"""Parallel analysis counts planted factors, finds none in noise, and depends on nothing but content and seed."""

import csv

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skvae.model_selection import parallel_analysis

METHODS = ("permutation", "normal")


def draw_factors(seed, n=400, d=12, k=3, strength=0.7):
    rng = np.random.default_rng(seed)
    loadings = np.kron(np.eye(k), np.full((1, d // k), strength))
    return rng.standard_normal((n, k)) @ loadings + np.sqrt(1 - strength**2) * rng.standard_normal((n, d))


@pytest.mark.parametrize("correlation", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_planted_factors_are_counted(method, correlation, seed):
    X = draw_factors(seed)
    assert parallel_analysis(X, method=method, correlation=correlation, random_state=seed).n_components == 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(100, 10), (20, 40)])
def test_noise_holds_no_factor_in_nineteen_of_twenty_draws(method, shape):
    rng = np.random.default_rng(0)
    found = [
        parallel_analysis(rng.standard_normal(shape), method=method, n_draws=40, random_state=seed).n_components
        for seed in range(100)
    ]
    assert 1 <= np.count_nonzero(found) <= 10  # 5 are expected


def test_permutations_respect_the_distributions_of_the_columns():
    rng = np.random.default_rng(0)
    X = rng.standard_cauchy((300, 8))  # covariances of heavy tails vary far more than a normal sample's
    kept, normal = (parallel_analysis(X, method=m, correlation=False, random_state=0).thresholds for m in METHODS)
    covariance_alone = np.sort(X.var(0, ddof=1))[::-1]
    assert_allclose(kept[0], covariance_alone[0], rtol=0.05)
    assert normal[0] > 1.05 * covariance_alone[0]


@pytest.mark.parametrize("correlation", [True, False])
@pytest.mark.parametrize("shape", [(60, 8), (6, 9), (9, 9), (10, 9)])
def test_the_short_way_to_normal_thresholds_leads_where_the_long_one_does(shape, correlation):
    scale = np.arange(1, shape[1] + 1)
    rng = np.random.default_rng(0)
    X = scale * rng.standard_normal(shape)
    short = parallel_analysis(X, method="normal", correlation=correlation, n_draws=1000, quantile=0.5, random_state=0)
    drawn = []
    for _ in range(1000):
        Y = X.std(0) / scale * scale * rng.standard_normal(shape)
        drawn.append(np.linalg.eigvalsh(np.corrcoef(Y.T) if correlation else np.cov(Y.T))[::-1])
    if not correlation:
        drawn = np.array(drawn) * shape[0] / (shape[0] - 1)  # std above divides by n
    assert_allclose(short.thresholds, np.median(drawn, 0), rtol=0.05, atol=0.02 * short.thresholds[0])


@pytest.mark.parametrize("shape", [(50, 7), (7, 7), (5, 11)])
def test_eigenvalues_are_those_of_the_correlation_or_covariance_matrix(shape):
    X = np.random.default_rng(1).standard_normal(shape) * 10.0 ** np.arange(shape[1]) + 3
    found = parallel_analysis(X, n_draws=5, random_state=0)
    assert_allclose(found.eigenvalues, np.linalg.eigvalsh(np.corrcoef(X.T))[::-1], atol=1e-12)
    assert found.eigenvalues.sum() == pytest.approx(shape[1], rel=1e-12)
    X = np.random.default_rng(1).standard_normal(shape) + 3
    found = parallel_analysis(X, n_draws=5, correlation=False, random_state=0)
    assert_allclose(found.eigenvalues, np.linalg.eigvalsh(np.cov(X.T))[::-1], atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_thresholds_fall_along_the_components_and_rise_with_the_quantile(method):
    X = draw_factors(0)
    low, high = (parallel_analysis(X, method=method, quantile=q, random_state=0).thresholds for q in (0.5, 0.95))
    assert low.shape == high.shape == (12,)
    assert (np.diff(high) < 0).all() and (np.diff(low) < 0).all()
    assert (high > low).all()
    assert low.sum() == pytest.approx(12, rel=0.01)  # a correlation matrix's trace


def test_counting_stops_at_the_first_component_that_does_not_beat_its_threshold():
    rng = np.random.default_rng(0)  # one strong factor; with few rows the small eigenvalues differ from the null's
    for seed in range(20):
        found = parallel_analysis(draw_factors(seed, n=30, k=1), n_draws=20, random_state=rng.integers(100))
        beaten = found.eigenvalues > found.thresholds
        assert found.n_components == (beaten.argmin() if not beaten.all() else 12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("correlation", [True, False])
def test_order_of_rows_and_columns_changes_nothing(method, correlation):
    rng = np.random.default_rng(0)
    X = np.c_[draw_factors(0, n=80), rng.integers(0, 2, (80, 3)), 30 * rng.standard_normal((80, 2))]
    one = parallel_analysis(X, method=method, correlation=correlation, n_draws=20, random_state=0)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        turned = rng.permutation(rng.permutation(X, axis=0), axis=1)
        other = parallel_analysis(turned, method=method, correlation=correlation, n_draws=20, random_state=0)
        assert_allclose(other.eigenvalues, one.eigenvalues, rtol=1e-10, atol=1e-10)
        assert_allclose(other.thresholds, one.thresholds, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_shift_and_scale_of_the_columns_change_nothing_about_correlations(method):
    X = draw_factors(1, n=100)
    one = parallel_analysis(X, method=method, n_draws=20, random_state=0)
    for scale in (1e-200, 1e-8, 1e8, 1e200):
        other = parallel_analysis(scale * (X + 2), method=method, n_draws=20, random_state=0)
        assert_allclose(other.eigenvalues, one.eigenvalues, rtol=1e-10)
        assert_allclose(other.thresholds, one.thresholds, rtol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_repeats_and_none_does_not(method):
    X = draw_factors(0)
    one, same, other = (parallel_analysis(X, method=method, n_draws=5, random_state=s).thresholds for s in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    fresh, again = (parallel_analysis(X, method=method, n_draws=5).thresholds for _ in range(2))
    assert not np.array_equal(fresh, again)  # and tests/conftest.py sees that the global generator was left alone


def test_a_longer_run_begins_with_the_draws_of_a_shorter():
    X = draw_factors(0)
    one, two = (parallel_analysis(X, n_draws=n, quantile=0.5, random_state=7).thresholds for n in (1, 2))
    three = parallel_analysis(X, n_draws=2, quantile=1e-12, random_state=7).thresholds  # of each the smaller
    assert_allclose(np.minimum(one, 2 * two - one), three, rtol=1e-6)


def test_input_is_left_alone_and_may_be_a_frame_or_float32():
    pandas = pytest.importorskip("pandas")
    X = draw_factors(0)
    kept = X.copy()
    one = parallel_analysis(X, n_draws=5, random_state=0)
    assert np.array_equal(X, kept)
    frame = parallel_analysis(pandas.DataFrame(X), n_draws=5, random_state=0)
    assert np.array_equal(frame.thresholds, one.thresholds)
    single = parallel_analysis(X.astype(np.float32), n_draws=5, random_state=0)
    assert single.eigenvalues.dtype == np.float64
    assert_allclose(single.eigenvalues, one.eigenvalues, rtol=1e-5)


def test_one_column_two_rows_and_perfect_correlation_are_answered():
    rng = np.random.default_rng(0)
    assert parallel_analysis(rng.standard_normal((10, 1)), random_state=0).n_components == 0
    two_rows = parallel_analysis(rng.standard_normal((2, 4)), random_state=0)
    assert_allclose(two_rows.eigenvalues, [4, 0, 0, 0], atol=1e-12)
    assert_allclose(two_rows.thresholds, [4, 0, 0, 0], atol=1e-12)
    one_factor = parallel_analysis(np.outer(rng.standard_normal(50), np.arange(1, 6)), random_state=0)
    assert one_factor.n_components == 1
    assert (one_factor.eigenvalues >= 0).all()


def test_all_components_count_where_all_beat_their_thresholds():
    X = np.random.default_rng(0).standard_normal((50, 3))
    assert parallel_analysis(X, quantile=1e-6, random_state=0).n_components == 3


@pytest.mark.parametrize("method", METHODS)
def test_personality_items_hold_five_components(test_data, method):
    path = test_data / "small" / "bfi.csv"
    if not path.is_file():
        pytest.skip("needs small/bfi.csv in the folder that SKVAE_TEST_DATA names")
    with path.open() as file:
        rows = [row[:25] for row in list(csv.reader(file))[1:]]
    X = np.array([[float(cell) for cell in row] for row in rows if all(row)])
    assert X.shape == (2436, 25)
    found = parallel_analysis(X, method=method, random_state=0)
    assert found.n_components == 5  # agreeableness, conscientiousness, extraversion, neuroticism, openness
    assert_allclose(found.eigenvalues[:6], [5.134, 2.752, 2.143, 1.852, 1.548, 1.074], atol=1e-3)


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (lambda X: X.__setitem__((3, 2), np.nan), {}, ValueError, r"X\[3, 2\] = nan \(1 such cells\); drop these rows"),
        (lambda X: X.__setitem__((1, 0), -np.inf), {}, ValueError, r"X\[1, 0\] = -inf"),
        (lambda X: X.__setitem__((slice(None), 4), 0.1), {}, ValueError, "column 4 of X is 0.1 in every row"),
        (lambda X: None, {"n_draws": 0}, ValueError, "n_draws == 0, must be >= 1"),
        (lambda X: None, {"n_draws": 2.5}, TypeError, "n_draws must be an instance of int"),
        (lambda X: None, {"quantile": 1.0}, ValueError, "quantile == 1.0, must be < 1"),
        (lambda X: None, {"quantile": np.nan}, ValueError, "quantile must lie between 0 and 1, but is nan"),
        (lambda X: None, {"method": "bootstrap"}, ValueError, "'permutation' or 'normal', not 'bootstrap'"),
    ],
)
def test_errors_name_the_fault(change, options, error, message):
    X = draw_factors(0, n=20)
    change(X)
    with pytest.raises(error, match=message):
        parallel_analysis(X, **options)


def test_a_constant_column_has_no_correlation_but_a_covariance():
    X = draw_factors(0)
    X[:, 0] = 0.1
    for method in METHODS:
        assert parallel_analysis(X, correlation=False, method=method, random_state=0).n_components == 3


def test_one_row_is_refused():
    with pytest.raises(ValueError, match="minimum of 2"):
        parallel_analysis(np.ones((1, 3)))
