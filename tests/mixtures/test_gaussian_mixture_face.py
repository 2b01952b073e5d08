"""`GaussianMixtureEM` as its user meets it: fits, weights, missing cells, parts, degenerate data, state."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal
from sklearn import config_context
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning, InconsistentVersionWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import GaussianMixtureEM
from skvae.tables import weights as _input

KINDS = ("full", "tied", "diag", "spherical")
every_kind = pytest.mark.parametrize("kind", KINDS)
N, D, K = 240, 3, 3
FITTED = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")


@pytest.fixture(scope="module")
def X():
    return clusters(0)


def clusters(seed, n=N, missing=0.0, apart=5.0):
    """Rows around the corners of a triangle, in random order; some cells are NaN."""
    rng = np.random.default_rng(seed)
    centres = apart * np.eye(K, D)
    X = centres[rng.integers(K, size=n)] + rng.normal(size=(n, D)) @ np.diag([1.0, 0.7, 1.5])
    X[rng.random(X.shape) < missing] = np.nan
    return X


def mixture(**parameters):
    return GaussianMixtureEM(**{"n_components": K, "random_state": 0, **parameters})


def given_start(X, kind="full"):
    """Parameters of a start that draws nothing."""
    variance = np.nanvar(X, axis=0)
    precisions = {
        "full": np.stack([np.diag(1 / variance)] * K),
        "tied": np.diag(1 / variance),
        "diag": np.stack([1 / variance] * K),
        "spherical": np.full(K, 1 / variance.mean()),
    }[kind]
    means = np.nanmean(X, axis=0) + np.diag(np.sqrt(variance))[:K]
    return dict(
        covariance_type=kind, weights_init=np.full(K, 1 / K), means_init=means, precisions_init=precisions, tol=1e-6
    )


def state(model):
    return {name: np.copy(value) for name, value in vars(model).items() if name.endswith("_")}


def assert_same_fit(some, other, rtol=1e-9):
    for name in FITTED:
        expected = getattr(other, name)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(getattr(some, name), expected, rtol=rtol, atol=rtol * scale, err_msg=name)


def same_state(some, other):
    return some.keys() == other.keys() and all(np.array_equal(some[name], other[name]) for name in some)


# ------------------------------------------------------------------------------------------------- laws of a fit
@every_kind
@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_integer_weights_are_repeated_rows(kind, missing):
    """In small fits to the last bit, starts drawn at random included."""
    X, count = clusters(1, missing=missing), np.random.default_rng(1).integers(0, 4, N)
    weighted = mixture(covariance_type=kind).fit(X, sample_weight=count)
    repeated = mixture(covariance_type=kind).fit(np.repeat(X, count, axis=0))
    assert_same_fit(weighted, repeated, rtol=0)
    assert weighted.lower_bounds_ == repeated.lower_bounds_
    assert weighted.score(X, sample_weight=count) == pytest.approx(repeated.score(np.repeat(X, count, axis=0)))
    assert weighted.bic(X, sample_weight=count) == pytest.approx(repeated.bic(np.repeat(X, count, axis=0)))
    assert weighted.aic(X, sample_weight=count) == pytest.approx(repeated.aic(np.repeat(X, count, axis=0)))


@every_kind
def test_integer_weights_are_repeated_rows_where_none_are_merged(kind, monkeypatch):
    monkeypatch.setattr(_input, "_FEW_CELLS", 0)
    X, count = clusters(2, missing=0.05), np.random.default_rng(2).integers(0, 4, N)
    start = given_start(X, kind)
    weighted = mixture(**start).fit(X, sample_weight=count)
    repeated = mixture(**start).fit(np.repeat(X, count, axis=0))
    np.testing.assert_allclose(weighted.lower_bounds_, repeated.lower_bounds_, rtol=1e-10)
    assert_same_fit(weighted, repeated, rtol=1e-8)


def test_the_first_covariance_weighs_what_stands_for_missing_cells(monkeypatch):
    monkeypatch.setattr(_input, "_FEW_CELLS", 0)
    X, count = clusters(2, missing=0.3), np.random.default_rng(2).integers(0, 4, N)
    start = mixture(n_components=1, init_params="random", max_iter=0)
    weighted, repeated = clone(start).fit(X, sample_weight=count), clone(start).fit(np.repeat(X, count, axis=0))
    np.testing.assert_allclose(weighted.covariances_, repeated.covariances_, rtol=1e-10)


@every_kind
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_only_ratios_of_weights_matter(kind, scale):
    X, weight = clusters(3), np.random.default_rng(3).random(N)
    plain = mixture(covariance_type=kind).fit(X, sample_weight=weight)
    scaled = mixture(covariance_type=kind).fit(X, sample_weight=weight * scale)
    assert_same_fit(scaled, plain, rtol=1e-8)


@every_kind
def test_batches_and_the_order_of_rows_change_nothing(kind):
    X = clusters(4, missing=0.1)
    order = np.random.default_rng(4).permutation(N)
    whole = mixture(covariance_type=kind).fit(X)
    for other in (mixture(covariance_type=kind, batch_size=17).fit(X), mixture(covariance_type=kind).fit(X[order])):
        np.testing.assert_allclose(other.lower_bounds_, whole.lower_bounds_, rtol=1e-10)
        assert_same_fit(other, whole, rtol=1e-8)
    by_one = clone(whole).set_params(batch_size=1)
    vars(by_one).update({name: value for name, value in vars(whole).items() if name.endswith("_")})
    np.testing.assert_allclose(by_one.score_samples(X), whole.score_samples(X), rtol=1e-10)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples", "impute"])
@every_kind
def test_a_subset_is_predicted_as_part_of_the_whole(kind, method):
    X = clusters(5, missing=0.2)
    model = mixture(covariance_type=kind).fit(X)
    rows = np.random.default_rng(5).permutation(N)[:50]
    whole, part = getattr(model, method)(X)[rows], getattr(model, method)(X[rows])
    np.testing.assert_allclose(part, whole, rtol=1e-9, atol=1e-12)


@every_kind
@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_the_bound_never_falls(kind, acceleration):
    X, weight = clusters(6, missing=0.15), np.random.default_rng(6).random(N)
    model = mixture(
        covariance_type=kind, acceleration=acceleration, tol=1e-9, max_iter=500, reg_covar=0, init_params="random"
    ).fit(X, sample_weight=weight)
    bounds = np.array(model.lower_bounds_)
    assert np.diff(bounds).min() >= -1e-12 * abs(bounds[-1])
    assert model.lower_bound_ == bounds[-1] and model.n_iter_ == len(bounds)


@every_kind
def test_acceleration_stops_no_earlier_and_no_lower(kind):
    X = clusters(7, apart=2.0)
    start = {**given_start(X, kind), "tol": 1e-9, "max_iter": 5000, "reg_covar": 0}
    plain, fast = (mixture(**start, acceleration=how).fit(X) for how in (None, "squarem"))
    assert fast.converged_ and plain.converged_
    assert fast.score(X) >= plain.score(X) - 1e-8
    assert fast.n_iter_ < plain.n_iter_


@every_kind
def test_planted_parameters_are_found_with_a_fifth_of_the_cells_missing(kind):
    X = clusters(8, 4000, missing=0.2)
    model = mixture(covariance_type=kind).fit(X)
    order = model.means_.argmax(axis=1)
    np.testing.assert_array_equal(np.sort(order), np.arange(K))
    np.testing.assert_allclose(model.means_, 5 * np.eye(K)[order], atol=0.2)
    np.testing.assert_allclose(model.weights_, 1 / 3, atol=0.03)
    sd = np.array([1.0, 0.7, 1.5])
    expected = {
        "full": np.stack([np.diag(sd**2)] * K),
        "tied": np.diag(sd**2),
        "diag": np.stack([sd**2] * K),
        "spherical": np.full(K, (sd**2).mean()),
    }[kind]
    np.testing.assert_allclose(model.covariances_, expected, atol=0.25)


@every_kind
def test_the_likelihood_is_that_of_the_density_of_observed_cells(kind):
    X = clusters(9, 60, missing=0.3)
    model = mixture(covariance_type=kind, reg_covar=1e-3).fit(X)
    expected = np.zeros((len(X), K))
    for n, x in enumerate(X):
        o = ~np.isnan(x)
        for k in range(K):
            if o.any():
                S = covariance_matrices(model)[k][np.ix_(o, o)]
                expected[n, k] = multivariate_normal(model.means_[k][o], S).logpdf(x[o])
    joint = np.exp(expected) * model.weights_
    np.testing.assert_allclose(model.score_samples(X), np.log(joint.sum(axis=1)), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.predict_proba(X), joint / joint.sum(axis=1, keepdims=True), rtol=1e-8, atol=1e-30)
    np.testing.assert_array_equal(model.predict(X), joint.argmax(axis=1))
    assert model.score(X) == pytest.approx(model.score_samples(X).mean())


def covariance_matrices(model):
    """Covariances of a fitted mixture as K matrices, whatever its kind."""
    K, D = model.means_.shape
    return {
        "full": lambda c: c,
        "tied": lambda c: np.stack([c] * K),
        "diag": lambda c: np.stack([np.diag(row) for row in c]),
        "spherical": lambda c: np.stack([variance * np.eye(D) for variance in c]),
    }[model.covariance_type](model.covariances_)


@every_kind
def test_covariances_precisions_and_roots_are_consistent(kind, X):
    model = mixture(covariance_type=kind).fit(X)
    if kind in ("full", "tied"):
        product = model.covariances_ @ model.precisions_
        np.testing.assert_allclose(product, np.broadcast_to(np.eye(D), product.shape), atol=1e-9)
        root = model.precisions_cholesky_
        np.testing.assert_allclose(root @ root.swapaxes(-1, -2), model.precisions_, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(root, np.triu(root))
    else:
        np.testing.assert_allclose(model.covariances_ * model.precisions_, 1)
        np.testing.assert_allclose(model.precisions_cholesky_**2, model.precisions_)


# ----------------------------------------------------------------------------------------------------------- starting
@pytest.mark.parametrize("how", ["kmeans", "k-means++", "random", "random_from_data"])
def test_every_start_leads_to_the_clusters(how):
    X = clusters(10, apart=12.0)
    best = mixture(init_params=how, n_init=8, max_iter=300).fit(X)
    np.testing.assert_array_equal(np.sort(best.means_.argmax(axis=1)), np.arange(K))


def test_rows_rounded_to_float32_begin_where_float64_rows_do():
    X = np.random.default_rng(3).normal(size=(200, 4))
    wide, narrow = (GaussianMixtureEM(6, max_iter=0, random_state=0).fit(part) for part in (X, X.astype(np.float32)))
    np.testing.assert_allclose(narrow.means_, wide.means_, atol=1e-4)


def test_more_starts_are_never_worse():
    X = clusters(11, apart=1.5)
    options = dict(n_components=6, init_params="random_from_data", max_iter=1000)
    scores = [mixture(**options, n_init=n).fit(X).lower_bound_ for n in (1, 2, 4, 8)]
    assert scores == sorted(scores)
    assert scores[-1] > scores[0]


def test_seeds_repeat_and_none_is_fresh():
    X = clusters(12, apart=1.0)
    options = dict(n_components=8, init_params="random", max_iter=3, tol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        first, again, other, fresh, fresher = (
            mixture(**options, random_state=seed).fit(X).means_ for seed in (1, 1, 2, None, None)
        )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other) and not np.allclose(fresh, fresher)


def test_a_warm_start_step_by_step_is_one_long_fit():
    X = clusters(13, apart=2.0)
    options = {**given_start(X), "tol": 1e-12, "acceleration": None}
    with pytest.warns(ConvergenceWarning):
        whole = mixture(**options, max_iter=12).fit(X)
    stepwise = mixture(**options, max_iter=1, warm_start=True)
    bounds = []
    for _ in range(12):
        with pytest.warns(ConvergenceWarning):
            bounds += stepwise.fit(X).lower_bounds_
    np.testing.assert_allclose(bounds, whole.lower_bounds_, rtol=1e-12)
    assert_same_fit(stepwise, whole, rtol=1e-7)


def test_a_warm_start_of_a_converged_fit_stops_at_once():
    X = clusters(14)
    model = mixture(warm_start=True).fit(X)
    assert model.fit(X).n_iter_ <= 2
    assert model.converged_


def test_a_fit_that_cannot_go_on_says_why(X):
    model = mixture(warm_start=True).fit(X)
    with pytest.raises(ValueError, match="has 3 components and cannot go on with n_components=2"):
        clone_with_state(model, n_components=2).fit(X)
    with pytest.raises(ValueError, match="has 3 components and cannot go on with n_components=2"):
        clone_with_state(model, n_components=2).partial_fit(X)
    with pytest.raises(ValueError, match="X has 2 features, but GaussianMixtureEM is expecting 3"):
        model.fit(X[:, :2])
    with pytest.raises(ValueError, match="covariance_type='diag' is not that of the fit"):
        clone_with_state(model, covariance_type="diag").fit(X)
    with pytest.raises(ValueError, match="covariance_type='diag' is not that of the fit"):
        clone_with_state(model, covariance_type="diag").predict(X)


@pytest.mark.parametrize(("fitted", "asked"), [("tied", "diag"), ("diag", "tied")])
def test_a_type_that_was_not_fitted_is_refused_though_the_shapes_agree(fitted, asked, X):
    model = mixture(covariance_type=fitted, warm_start=True).fit(X)
    assert model.covariances_.shape == (3, 3) == model.means_.shape
    other = clone_with_state(model, covariance_type=asked)
    calls = [(getattr(other, name), X) for name in ("fit", "partial_fit", "predict", "score", "bic", "impute")]
    for method, argument in [*calls, (other.sample, 2)]:
        with pytest.raises(ValueError, match=f"covariance_type='{asked}' is not that of the fit"):
            method(argument)


@pytest.mark.parametrize("n_components", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_number_of_components_set_after_the_fit_changes_nothing_before_the_next(kind, n_components, X):
    model = mixture(covariance_type=kind).fit(X)
    other = clone_with_state(model, n_components=n_components)
    drawn, labels = other.sample(300, random_state=0)
    np.testing.assert_array_equal(labels, model.sample(300, random_state=0)[1])
    assert set(labels) == {0, 1, 2}
    np.testing.assert_array_equal(drawn, model.sample(300, random_state=0)[0])
    assert other.bic(X) == model.bic(X)
    np.testing.assert_array_equal(other.predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(other.condition(0, X[:, :1]).means, model.condition(0, X[:, :1]).means)


def clone_with_state(model, **parameters):
    return pickle.loads(pickle.dumps(model)).set_params(**parameters)


def test_no_iteration_leaves_the_start(X):
    start = given_start(X)
    model = mixture(**start, max_iter=0).fit(X)
    np.testing.assert_allclose(model.means_, start["means_init"], rtol=1e-12)
    np.testing.assert_allclose(model.precisions_, start["precisions_init"], rtol=1e-12)
    np.testing.assert_array_equal(model.weights_, start["weights_init"])
    assert (model.n_iter_, model.lower_bounds_, model.converged_) == (0, [], False)


# ---------------------------------------------------------------------------------------------------- learning in parts
def test_the_first_part_is_a_fit(X):
    assert_same_fit(mixture().partial_fit(X), mixture().fit(X), rtol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixture(max_iter=1).partial_fit(X)


@every_kind
def test_many_parts_approach_the_fit_to_all(kind):
    X = clusters(15, 3000)
    whole = mixture(covariance_type=kind, random_state=1).fit(X)
    model = clone(whole)
    for part in np.array_split(X, 30):
        model.partial_fit(part)
    assert model.n_samples_seen_ == 3000
    assert model.score(X) == pytest.approx(whole.score(X), abs=0.02)


@every_kind
def test_tiny_parts_do_not_destroy_the_model(kind):
    X = clusters(16, 600, missing=0.1)
    model = mixture(covariance_type=kind).fit(X)
    before = model.score(X)
    for row in clusters(17, 80, missing=0.1):
        model.partial_fit(row[None])
    assert model.score(X) > before - 0.2
    assert np.isfinite(model.covariances_).all()
    assert model.weights_.sum() == pytest.approx(1)


@every_kind
def test_a_part_of_the_same_rows_moves_a_converged_model_nowhere(kind):
    X = clusters(18, missing=0.1)
    model = mixture(covariance_type=kind, tol=1e-13, max_iter=3000).fit(X)
    before = state(model)
    model.partial_fit(X)
    np.testing.assert_allclose(model.means_, before["means_"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.covariances_, before["covariances_"], rtol=1e-4, atol=1e-5)


def test_parts_may_be_weighted():
    X, count = clusters(19), np.random.default_rng(19).integers(0, 3, N)
    weighted, repeated = (mixture().fit(X) for _ in range(2))
    weighted.partial_fit(X, sample_weight=count)
    repeated.partial_fit(np.repeat(X, count, axis=0))
    assert_same_fit(weighted, repeated)
    assert weighted.n_samples_seen_ == repeated.n_samples_seen_ == N + count.sum()


# --------------------------------------------------------------------------------------------- imputing, conditioning
@every_kind
def test_impute_is_the_conditional_expectation(kind):
    X = clusters(20, 60, missing=0.3)
    model = mixture(covariance_type=kind).fit(X)
    filled = model.impute(X)
    seen = ~np.isnan(X)
    np.testing.assert_array_equal(filled[seen], X[seen])
    assert np.isfinite(filled).all()
    shares, matrices = model.predict_proba(X), covariance_matrices(model)
    for x, o, share, found in zip(X, seen, shares, filled):
        means = [
            m[~o] + S[np.ix_(~o, o)] @ np.linalg.inv(S[np.ix_(o, o)]) @ (x[o] - m[o])
            for m, S in zip(model.means_, matrices)
        ]
        np.testing.assert_allclose(found[~o], share @ means if o.any() else model.weights_ @ means, rtol=1e-8)


@every_kind
def test_conditioning_divides_densities(kind, X):
    model = mixture(covariance_type=kind).fit(X)
    given, rows = [2, 0], X[:20]
    conditional = model.condition(given, rows[:, given])
    np.testing.assert_array_equal(conditional.columns, [1])
    with_gaps = rows.copy()
    with_gaps[:, 1] = np.nan
    ratio = np.exp(model.score_samples(rows) - model.score_samples(with_gaps))  # p(x_1 | x_0, x_2)
    for n, x in enumerate(rows):
        density = sum(
            w * multivariate_normal(m, S).pdf(x[[1]])
            for w, m, S in zip(conditional.weights[n], conditional.means[n], conditional.covariances)
        )
        assert density == pytest.approx(ratio[n], rel=1e-8)
    np.testing.assert_allclose(conditional.mean()[:, 0], model.impute(with_gaps)[:, 1], rtol=1e-9)


@every_kind
def test_the_conditional_covariance_is_that_of_draws(kind, X):
    """Of its own mixture, by Monte Carlo with the error of 200,000 draws."""
    conditional = mixture(covariance_type=kind, n_components=2).fit(X).condition([1], X[:2, [1]])
    rng = np.random.default_rng(0)
    for n in range(2):
        k = rng.choice(2, p=conditional.weights[n], size=200_000)
        roots = np.linalg.cholesky(conditional.covariances)
        draws = conditional.means[n][k] + np.einsum("nde,ne->nd", roots[k], rng.normal(size=(len(k), 2)))
        scale = np.trace(conditional.covariance()[n])
        np.testing.assert_allclose(conditional.covariance()[n], np.cov(draws.T), atol=0.02 * scale)
        np.testing.assert_allclose(conditional.mean()[n], draws.mean(axis=0), atol=0.02 * np.sqrt(scale))


def test_columns_to_condition_on_by_number_name_and_mask(X):
    frame = pd.DataFrame(X, columns=["ab", "a", "b"])
    model = mixture().fit(frame)
    expected = model.condition([0, 2], X[:5, [0, 2]]).mean()
    for given in (["ab", "b"], [-3, 2], [True, False, True], np.array([0, 2]), pd.Index(["ab", "b"])):
        np.testing.assert_array_equal(model.condition(given, X[:5, [0, 2]]).mean(), expected)
    for alone in (0, "ab", [0], ["ab"]):
        assert model.condition(alone, X[:5, [0]]).mean().shape == (5, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([0, 1, 2], "some, but not all, of 3 columns"),
        ([], "distinct columns"),
        ([1, -2], "distinct columns"),
        ([3], "of 3 columns, but got \\[3\\]"),
        ([0.5], "numbers, names or a mask"),
        ("z", "no column is named 'z'"),
    ],
)
def test_columns_that_cannot_be_conditioned_on(given, message, X):
    with pytest.raises(ValueError, match=message):
        mixture().fit(X).condition(given, X[:2, [0]])


def test_values_to_condition_on_must_fit(X):
    model = mixture().fit(X)
    with pytest.raises(ValueError, match="X has 2 columns, but 1 are given"):
        model.condition([0], X[:, :2])
    with pytest.raises(ValueError, match="contains NaN"):
        model.condition([0], [[np.nan]])


def test_impute_returns_what_it_was_given():
    frame = pd.DataFrame(clusters(21), columns=["a", "b", "c"], index=np.arange(N) * 2)
    frame["d"] = np.arange(N)
    frame.iloc[3, 1] = np.nan
    model = mixture().fit(frame)
    before = frame.copy()
    filled = model.impute(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert filled.index.equals(frame.index) and list(filled.dtypes) == list(frame.dtypes)
    assert filled.isna().sum().sum() == 0 and filled.iloc[3, 1] != 0
    pd.testing.assert_frame_equal(filled.drop(index=6), frame.drop(index=6))
    single = frame.astype(np.float32)
    assert (mixture().fit(single).impute(single).dtypes == np.float32).all()
    rows = frame.to_numpy()
    assert isinstance(mixture().fit(rows).impute(rows.tolist()), np.ndarray)


# ----------------------------------------------------------------------------------------------------------- sampling
@every_kind
def test_draws_have_the_moments_of_the_mixture(kind, X):
    model = mixture(covariance_type=kind).fit(X)
    draws, labels = model.sample(60_000, random_state=3)
    assert draws.shape == (60_000, D) and (np.diff(labels) >= 0).all()
    counts = np.bincount(labels, minlength=K)
    np.testing.assert_allclose(counts / 60_000, model.weights_, atol=5 * np.sqrt(0.25 / 60_000))
    for k, S in enumerate(covariance_matrices(model)):
        rows = draws[labels == k]
        np.testing.assert_allclose(rows.mean(axis=0), model.means_[k], atol=0.06)
        np.testing.assert_allclose(np.cov(rows.T), S, atol=0.12)
    assert model.score(draws) == pytest.approx(model.score(X), abs=0.15)


def test_seeds_of_draws(X):
    model = mixture().fit(X)
    first, again = model.sample(20, random_state=5), model.sample(20, random_state=5)
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.allclose(first[0], model.sample(20, random_state=6)[0])
    assert not np.allclose(model.sample(20)[0], model.sample(20)[0])
    with pytest.raises(ValueError, match="Invalid value for 'n_samples': 0"):
        model.sample(0)


# -------------------------------------------------------------------------------------------------------- odd data
@every_kind
def test_a_constant_column_has_the_floor_for_its_variance(kind, X):
    model = mixture(covariance_type=kind, reg_covar=1e-4).fit(np.column_stack([X, np.full(N, 7.0)]))
    np.testing.assert_allclose(model.means_[:, -1], 7)
    if kind != "spherical":
        variances = np.stack([np.diag(S) for S in covariance_matrices(model)])[:, -1]
        np.testing.assert_allclose(variances, 1e-4, rtol=1e-6)


@every_kind
@pytest.mark.parametrize("how", ["kmeans", "k-means++", "random", "random_from_data"])
def test_fewer_distinct_rows_than_components(kind, how):
    rows = np.repeat([[0.0, 0.0], [1.0, 1.0]], 10, axis=0)
    model = mixture(covariance_type=kind, init_params=how).fit(rows)
    assert np.isfinite(model.score(rows)) and np.isfinite(model.means_).all()
    assert model.weights_.sum() == pytest.approx(1)
    labels = model.predict(rows)
    assert len(set(labels[:10])) == len(set(labels[10:])) == 1


@every_kind
def test_one_column_and_two_rows(kind):
    model = mixture(covariance_type=kind, n_components=2).fit([[0.0], [1.0]])
    assert np.sort(model.means_[:, 0]).tolist() == pytest.approx([0, 1])
    assert mixture(covariance_type=kind, n_components=1).fit(np.eye(2, 5)).covariances_.shape[-1] in (1, 5)


@every_kind
def test_fewer_rows_than_columns(kind):
    rows = np.random.default_rng(0).normal(size=(4, 7))
    model = mixture(covariance_type=kind, n_components=2, reg_covar=1e-2).fit(rows)
    assert np.isfinite(model.score(rows))


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_a_collapse_is_named(kind):
    rows = np.repeat([[0.0, 0.0], [9.0, 9.0], [4.0, 5.0], [5.0, 4.0]], 3, axis=0)
    with pytest.raises(
        ValueError, match=r"ill-defined empirical covariance .* number \[.*\] of 3 \(reg_covar is now 0\)"
    ):
        mixture(covariance_type=kind, reg_covar=0).fit(rows)


@every_kind
def test_rows_without_any_cell_say_nothing(kind):
    X = clusters(22)
    gaps = np.vstack([X, np.full((30, D), np.nan)])
    start = given_start(X, kind)
    plain, with_gaps = mixture(**start).fit(X), mixture(**start).fit(gaps)
    np.testing.assert_allclose(with_gaps.means_, plain.means_, atol=0.05)
    np.testing.assert_allclose(with_gaps.score_samples(gaps)[N:], 0, atol=1e-15)  # shares sum to 1 but for rounding
    np.testing.assert_allclose(with_gaps.predict_proba(gaps)[N:], np.tile(with_gaps.weights_, (30, 1)))


def test_columns_without_any_cell_are_refused(X):
    with pytest.raises(ValueError, match=r"every cell is NaN in column\(s\) 1, 3"):
        mixture().fit(np.column_stack([X[:, 0], np.full(N, np.nan), X[:, 1], np.full(N, np.nan)]))
    model = mixture().fit(X)
    gone = X.copy()
    gone[:, 1] = np.nan
    assert np.isfinite(model.score(gone)) and np.isfinite(model.partial_fit(gone).score(X))


@every_kind
@pytest.mark.parametrize("scale", [1e8, 1e-8])
def test_units_do_not_matter(kind, scale):
    """With the floor in the same units: the bound moves by D log(scale), as does scikit-learn's."""
    X = clusters(23)
    peer = GaussianMixture(K, covariance_type=kind, max_iter=0, random_state=0).fit(X)
    start = dict(weights_init=peer.weights_, means_init=peer.means_, precisions_init=peer.precisions_)
    plain = mixture(covariance_type=kind, **start).fit(X)
    start |= dict(means_init=peer.means_ * scale, precisions_init=peer.precisions_ / scale**2)
    scaled = mixture(covariance_type=kind, reg_covar=1e-6 * scale**2, **start).fit(X * scale)
    theirs = GaussianMixture(K, covariance_type=kind, reg_covar=1e-6 * scale**2, **start).fit(X * scale)
    expected = np.array(plain.lower_bounds_) - D * np.log(scale)
    np.testing.assert_allclose(scaled.lower_bounds_, expected, rtol=1e-10)
    np.testing.assert_allclose(scaled.lower_bounds_, theirs.lower_bounds_, rtol=1e-9)
    np.testing.assert_allclose(scaled.means_, plain.means_ * scale, rtol=1e-7)


@pytest.mark.parametrize("shift", [1e6, 1e9])
def test_a_far_origin_does_not_matter(shift):
    """What of the rows is left at that distance, by doubles of 16 digits, is fitted as well as near 0."""
    X = clusters(24)
    near = (X + shift) - shift
    far, near = (mixture(n_init=5).fit(rows) for rows in (X + shift, near))  # each draws other seeds
    np.testing.assert_allclose(far.lower_bound_, near.lower_bound_, rtol=1e-8)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinity_is_refused(value, X):
    bad = X.copy()
    bad[3, 1], bad[4, 0] = value, np.nan
    with pytest.raises(ValueError, match="infinity"):
        mixture().fit(bad)
    with pytest.raises(ValueError, match="infinity"):
        mixture().fit(X).predict(bad)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_squares_that_overflow_are_an_error_not_a_fit(X):
    with pytest.raises((ValueError, FloatingPointError), match="scale"):
        mixture().fit(X * 1e200)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-np.ones(N), "[Nn]egative"),
        (np.zeros(N), "non-zero"),
        (np.full(N, np.nan), "NaN"),
        (np.ones(N - 1), "inconsistent|shape"),
    ],
)
def test_bad_weights(weight, message, X):
    with pytest.raises(ValueError, match=message):
        mixture().fit(X, sample_weight=weight)


@pytest.mark.parametrize(
    "bad",
    [
        dict(n_components=0),
        dict(n_components=2.5),
        dict(covariance_type="round"),
        dict(tol=-1e-3),
        dict(reg_covar=-1.0),
        dict(max_iter=-1),
        dict(n_init=0),
        dict(init_params="zeros"),
        dict(weights_init=3),
        dict(random_state="seed"),
        dict(warm_start="yes"),
        dict(verbose=-1),
        dict(verbose_interval=0),
        dict(acceleration="anderson"),
        dict(device=0),
        dict(device="abacus"),
        dict(batch_size=0),
        dict(batch_size="large"),
    ],
    ids=str,
)
def test_bad_parameters_are_named(bad, X):
    with pytest.raises(ValueError, match=next(iter(bad))):
        GaussianMixtureEM(**bad).fit(X)


# ------------------------------------------------------------------------------------------- words and the watched fit
def test_the_warning_tells_gain_and_tol():
    X = clusters(25, apart=1.0)
    with pytest.warns(ConvergenceWarning, match=r"max_iter=3\) .* rising by \d\.\de-\d+ nats/sample \(tol=1e-09\)"):
        model = mixture(n_components=5, max_iter=3, tol=1e-9, acceleration=None).fit(X)
    assert not model.converged_ and model.n_iter_ == 3


def test_verbose_speaks_at_its_interval(capsys):
    X = clusters(26, apart=1.0)
    options = dict(n_components=4, max_iter=12, tol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture(**options).fit(X)
        assert capsys.readouterr().out == ""
        mixture(**options, verbose=1, verbose_interval=4).fit(X)
        *lines, end = capsys.readouterr().out.splitlines()
        assert [line.split("  ")[0] for line in lines] == [f"[GaussianMixtureEM] iteration {i}/12" for i in (4, 8, 12)]
        assert end == "[GaussianMixtureEM] ended: max_iter was reached"
        mixture(**options, verbose=2, n_init=2).fit(X)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 26 and lines[13].startswith("[GaussianMixtureEM] start 2, iteration 1/12")


class Recorder:
    """A callback that keeps each iteration's bound, and may stop the fit."""

    def __init__(self, stop_after=None):
        self.stop_after, self.scores = stop_after, []

    def setup(self, estimator, context): ...

    def teardown(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None, metadata=None): ...

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None):
        if context.task_name == "iteration":
            self.scores.append(fitted_estimator.score(X))
        return self.stop_after == len(self.scores)


def test_callbacks_see_every_iteration_and_may_stop_the_fit():
    X = clusters(27, apart=1.5)
    seen, options = Recorder(), dict(tol=1e-6, max_iter=1000, acceleration=None)
    model = mixture(**options).set_callbacks(seen).fit(X)
    assert len(seen.scores) == model.n_iter_ > 3
    np.testing.assert_allclose(seen.scores[:-1], model.lower_bounds_[1:], rtol=1e-4)  # but for reg_covar
    with pytest.warns(ConvergenceWarning):
        stopped = mixture(**options).set_callbacks(Recorder(stop_after=3)).fit(X)
    assert stopped.n_iter_ == 3
    assert stopped.score(X) == pytest.approx(seen.scores[2])


def test_scikit_learns_monitor_scores_each_iteration(X):
    monitor = ScoringMonitor(scoring={"bound": lambda model, X, y=None: model.score(X)})
    model = mixture().set_callbacks(monitor).fit(X)
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "iteration"]
    assert [row["task_id"] for row in rows] == list(range(model.n_iter_))
    assert rows[-1]["bound"] == pytest.approx(model.score(X))


# ---------------------------------------------------------------------------------------------------------------- state
def test_a_pickle_is_the_same_model_and_knows_its_version(X, monkeypatch):
    model = mixture().fit(X)
    twin = pickle.loads(pickle.dumps(model))
    assert same_state(state(twin), state(model))
    np.testing.assert_array_equal(twin.predict_proba(X), model.predict_proba(X))
    assert b"torch" not in pickle.dumps(model)
    written = pickle.dumps(model)
    monkeypatch.setattr("skvae.estimators._base.__version__", "99.0")
    with pytest.warns(InconsistentVersionWarning, match="skvae"):
        pickle.loads(written)


def test_fitted_state_is_arrays_and_plain_values(X):
    plain = (np.ndarray, int, float, bool, str, list)
    assert all(type(value) in plain for name, value in vars(mixture().fit(X)).items() if name.endswith("_"))


def test_fit_changes_no_parameter_and_no_data():
    X = clusters(28, missing=0.1)
    start = given_start(X)
    copies = {name: np.copy(value) for name, value in start.items()}
    before = X.copy()
    mixture(**start).fit(X).partial_fit(X).impute(X)
    np.testing.assert_array_equal(X, before)
    for name, value in start.items():
        np.testing.assert_array_equal(value, copies[name])


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_failure_leaves_the_model_as_it_was(method, X):
    model = mixture().fit(X)
    before = state(model)
    bad = X.copy()
    bad[0, 0] = np.inf
    for rows, weight in ((bad, None), (X[:, :2] if method == "partial_fit" else X[:1], None), (X, -np.ones(N))):
        with pytest.raises(ValueError):
            getattr(model, method)(rows, sample_weight=weight)
        assert same_state(state(model), before)
    fresh = mixture(reg_covar=0)
    with pytest.raises(ValueError):
        getattr(fresh, method)(np.repeat(np.eye(3), 4, axis=0))
    assert not state(fresh)


def test_prediction_changes_nothing(X):
    model = mixture().fit(X)
    before = state(model)
    for method in ("predict", "predict_proba", "score_samples", "score", "aic", "bic", "impute"):
        getattr(model, method)(X)
    model.sample(3)
    model.condition([0], X[:, [0]])
    assert same_state(state(model), before) and set(before) == set(state(model))


@every_kind
def test_float32_in_float32_out(kind, X):
    single = X.astype(np.float32)
    model, double = mixture(covariance_type=kind).fit(single), mixture(covariance_type=kind).fit(single.astype(float))
    assert {getattr(model, name).dtype for name in FITTED} == {np.dtype(np.float32)}
    np.testing.assert_allclose(model.lower_bounds_, double.lower_bounds_, rtol=1e-10)
    for method in ("predict_proba", "score_samples", "impute"):
        found = getattr(model, method)(single)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, getattr(double, method)(single.astype(float)), rtol=1e-3, atol=1e-4)
    assert model.sample(2)[0].dtype == np.float32
    assert model.condition([0], single[:, [0]]).mean().dtype == np.float32
    assert model.partial_fit(single).means_.dtype == np.float32


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_columns_that_add_up_in_float32(kind):
    """Their covariances, as float32, are not positive definite any more; what was fitted must still predict."""
    X = 100 * np.random.default_rng(29).normal(size=(400, 3))
    single = np.column_stack([X, X[:, 0] + X[:, 1]]).astype(np.float32)
    model, double = (mixture(covariance_type=kind).fit(rows) for rows in (single, single.astype(np.float64)))
    assert model.score(single) == pytest.approx(double.score(single.astype(np.float64)), abs=1e-3)
    assert model.sample(5)[0].shape == (5, 4)
    assert np.isfinite(model.partial_fit(single).score(single))


def test_read_only_memory_maps_serve(tmp_path):
    X = clusters(30, missing=0.1)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = mixture().fit(mapped).partial_fit(mapped)
        model.impute(mapped)
        assert_same_fit(model, mixture().fit(X).partial_fit(X), rtol=0)


def test_frames_with_gaps_and_names():
    frame = pd.DataFrame(clusters(31, missing=0.1), columns=["a", "b", "c"])
    model = mixture().fit(frame)
    np.testing.assert_array_equal(model.feature_names_in_, ["a", "b", "c"])
    np.testing.assert_array_equal(model.predict(frame), mixture().fit(frame.to_numpy()).predict(frame.to_numpy()))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.rename(columns={"a": "z"}))


def test_columns_that_pandas_can_leave_empty():
    frame = pd.DataFrame(clusters(32), columns=["a", "b", "c"])
    frame["d"] = pd.array([None, *range(N - 1)], dtype="Int64")
    filled = mixture().fit(frame).impute(frame)
    assert filled["d"].notna().all()
    np.testing.assert_array_equal(filled["d"][1:].astype(float), np.arange(N - 1))


# ------------------------------------------------------------------------------------------------ scikit-learn's tools
def test_a_grid_search_finds_the_number_of_clusters():
    X = clusters(33, 400, apart=7.0)
    grid = {"n_components": [1, 2, 3], "covariance_type": ["full", "spherical"]}
    search = GridSearchCV(GaussianMixtureEM(random_state=0), grid, cv=3, error_score="raise").fit(X)
    assert search.best_params_["n_components"] == 3
    by_bic = GridSearchCV(GaussianMixtureEM(random_state=0), grid, cv=3, scoring=lambda model, X, y=None: -model.bic(X))
    assert by_bic.fit(X).best_params_["n_components"] == 3


def test_pipelines_pass_rows_and_weights(X):
    pipe = make_pipeline(StandardScaler(), mixture())
    assert pipe.fit(X).predict(X).shape == (N,)
    assert pipe.score(X) == pytest.approx(pipe[-1].score(pipe[0].transform(X)))
    weight = np.random.default_rng(34).integers(0, 3, N)
    weighted = clone(pipe).fit(X, gaussianmixtureem__sample_weight=weight)
    assert_same_fit(weighted[-1], mixture().fit(StandardScaler().fit_transform(X), sample_weight=weight), rtol=0)


def test_weights_are_routed(X):
    weight = np.random.default_rng(35).integers(0, 3, N)
    with config_context(enable_metadata_routing=True):
        model = mixture().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        search = GridSearchCV(model, {"n_components": [1, 3]}, cv=2, error_score="raise").fit(X, sample_weight=weight)
        routed = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), model)
        routed.fit(X, sample_weight=weight)
    assert_same_fit(search.best_estimator_, mixture(n_components=3).fit(X, sample_weight=weight), rtol=0)
    assert_same_fit(routed[-1], mixture().fit(StandardScaler().fit_transform(X), sample_weight=weight), rtol=0)


# ---------------------------------------------------------------------------------------------------------- real data
@pytest.fixture(scope="module")
def faithful(test_data):
    path = test_data / "small" / "faithful.csv"
    if not path.is_file():
        pytest.skip("needs small/faithful.csv in the folder that SKVAE_TEST_DATA names")
    return pd.read_csv(path)


@pytest.fixture(scope="module")
def bfi(test_data):
    path = test_data / "small" / "bfi.csv"
    if not path.is_file():
        pytest.skip("needs small/bfi.csv in the folder that SKVAE_TEST_DATA names")
    return pd.read_csv(path)


def test_old_faithful_as_published(faithful):
    """The two eruption types of mclust and of many textbooks."""
    model = GaussianMixtureEM(2, tol=1e-10, max_iter=1000, random_state=0).fit(faithful)
    short, long = np.argsort(model.means_[:, 0])
    np.testing.assert_allclose(model.means_[[short, long]], [[2.036, 54.479], [4.290, 79.968]], atol=2e-3)
    np.testing.assert_allclose(model.weights_[[short, long]], [0.356, 0.644], atol=5e-4)
    assert model.score(faithful) * len(faithful) == pytest.approx(-1130.264, abs=2e-3)


def test_regression_by_conditioning_follows_old_faithful(faithful):
    """The wait, given how long it erupted, is told better by the mixture than by a constant, by five to one."""
    model = GaussianMixtureEM(2, random_state=0).fit(faithful)
    conditional = model.condition("eruptions", faithful[["eruptions"]])
    residual = faithful["waiting"].to_numpy() - conditional.mean()[:, 0]
    assert np.var(residual) < 0.2 * np.var(faithful["waiting"])
    np.testing.assert_allclose(conditional.covariance()[:, 0, 0].mean(), np.var(residual), rtol=0.1)


@every_kind
def test_a_questionnaire_with_gaps(kind, bfi):
    model = GaussianMixtureEM(3, covariance_type=kind, random_state=0, max_iter=300).fit(bfi)
    assert model.converged_ and np.diff(model.lower_bounds_).min() > 0
    filled = model.impute(bfi)
    assert not filled.isna().any(axis=None)
    seen = bfi.notna().to_numpy()
    np.testing.assert_array_equal(filled.to_numpy()[seen], bfi.to_numpy()[seen])
    assert model.score(filled) < model.score(bfi)  # more cells, more nats to explain


def test_withheld_answers_are_told_better_than_by_their_mean(bfi):
    answers = bfi.iloc[:, :25].to_numpy(dtype=float)
    hidden = (np.random.default_rng(0).random(answers.shape) < 0.05) & ~np.isnan(answers)
    gaps = np.where(hidden, np.nan, answers)
    filled = GaussianMixtureEM(2, random_state=0).fit(gaps).impute(gaps)
    by_mean = np.broadcast_to(np.nanmean(gaps, axis=0), answers.shape)
    assert np.mean((filled - answers)[hidden] ** 2) < 0.75 * np.mean((by_mean - answers)[hidden] ** 2)


@pytest.mark.parametrize("load", [load_wine, load_digits])
@every_kind
def test_tables_of_many_units_and_constant_columns(kind, load):
    """Wine's columns differ in scale by a thousand; digits has constant and nearly constant ones."""
    X = load().data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = mixture(covariance_type=kind, max_iter=20).fit(X)
    assert np.diff(model.lower_bounds_).min() > 0 and np.isfinite(model.score(X))


def test_condition_takes_a_frame_by_its_names():
    X = pd.DataFrame(load_iris().data, columns=list("abcd"))
    mixture = GaussianMixtureEM(2, random_state=0).fit(X)
    expected = mixture.condition(["a", "b"], X[["a", "b"]]).mean()
    np.testing.assert_allclose(mixture.condition(["b", "a"], X[["a", "b"]]).mean(), expected, rtol=1e-10)
    with pytest.raises(ValueError, match="should have the columns that are given"):
        mixture.condition(["a"], pd.DataFrame({"zzz": [5.0]}))


@pytest.mark.parametrize("scale", [1e155, 1e300])
def test_values_whose_squares_overflow_are_refused(scale):
    with pytest.raises(ValueError, match="squares overflow"):
        GaussianMixtureEM(2, random_state=0).fit(load_iris().data * scale)


@pytest.mark.parametrize("name", ["predict", "predict_proba", "score_samples", "score", "bic", "impute", "partial_fit"])
def test_rows_whose_squares_overflow_are_refused_after_the_fit(name, X):
    model = mixture().fit(X)
    with pytest.raises(ValueError, match="squares overflow in float64, such as"):
        getattr(model, name)(X * 1e200)
    with pytest.raises(ValueError, match="squares overflow in float64, such as"):
        model.condition([0], X[:, :1] * 1e200)
    assert np.isfinite(model.score(X * 1e140))


@every_kind
def test_a_part_may_have_another_floor(kind):
    """What was fitted loses the floor it had, and all gets the present one."""
    X = clusters(31)
    model = mixture(covariance_type=kind, tol=1e-10, max_iter=1000, reg_covar=1e-3).fit(X)
    before = model.covariances_.copy()
    model.set_params(reg_covar=0.5).partial_fit(X, sample_weight=np.full(N, 1e-9))
    added = 0.5 - 1e-3
    expected = before + (added if kind in ("diag", "spherical") else added * np.eye(D))
    np.testing.assert_allclose(model.covariances_, expected, rtol=1e-3, atol=1e-4)
