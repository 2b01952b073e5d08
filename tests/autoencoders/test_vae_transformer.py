"""`VAETransformer`: what users are promised of it, on planted data whose answers are known."""

import copy
import inspect
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from pytest import approx
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import AutoencoderTransformer, FactorAnalysisEM, VAETransformer
from skvae.models.decomposition import factor_analysis as fa
from skvae.training import factor_analysis_start as linear

N, D = 60, 6
LINEAR = {
    "hidden_layer_sizes": (),
    "early_stopping": False,
    "learning_rate": 0.02,
    "learning_rate_schedule": "cosine",
    "random_state": 0,
}


def factor_data(n=N, d=D, seed=0, missing=0.0):
    rng = np.random.default_rng(seed)
    W = np.repeat(np.eye(2), -(-d // 2), axis=1)[:, :d]  # columns enough for each factor: no Heywood case
    X = rng.normal(size=(n, 2)) @ W + 0.5 * rng.normal(size=(n, d)) + 3
    return np.where(rng.random((n, d)) < missing, np.nan, X)


def curve(n, seed):
    """A curve in 10 dimensions with noise."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(-1, 1, n)[:, None]
    bends = np.c_[np.sin(3 * t), np.cos(3 * t), 2 * t**2, np.exp(t), np.sin(5 * t), np.cos(5 * t)]
    return np.c_[2 * t * np.ones(4), bends] + 0.1 * rng.normal(size=(n, 10))


def tiny(**parameters):
    plain = {"hidden_layer_sizes": (8,), "max_iter": 5, "early_stopping": False, "random_state": 0}
    return VAETransformer(parameters.pop("n_components", 2), **plain | parameters)


@pytest.fixture(scope="module")
def X():
    X = factor_data()
    X.setflags(write=False)
    return X


@pytest.fixture(scope="module")
def model(X):
    return tiny(max_iter=100, learning_rate=0.02).fit(X)


@pytest.fixture(scope="module")
def gappy():
    """A network fitted on rows with gaps."""
    X = factor_data(missing=0.2)
    X[0] = np.nan
    X.setflags(write=False)
    return tiny(max_iter=100, learning_rate=0.02).fit(X), X


@pytest.fixture(scope="module")
def linear_fit(X):
    return VAETransformer(2, max_iter=1500, **LINEAR).fit(X)


def frozen(value):
    """A copy of nested containers in which two states can be compared exactly."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: frozen(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [frozen(item) for item in value]
    return frozen(vars(value)) if type(value).__module__.startswith("skvae.") else value


def state(model):
    return frozen(vars(model))


def weights_of(model):
    return frozen(model.parameters_)


# ------------------------------------------------------------------------------------------------- likelihoods of rows
def exact_log_prob(model, X):
    """log p(x) by SciPy, of a fitted linear model as the parameters have it."""
    p = {name: array.astype(np.float64) for name, array in model.parameters_.items()}
    mean, std = X.mean(0), X.std(0)
    psi = 1e-3 + np.exp(p["likelihood.noise"])
    cov = p["decoder.0.weight"].T @ p["decoder.0.weight"] + np.diag(np.broadcast_to(psi, X.shape[1]))
    return multivariate_normal(p["decoder.0.bias"], cov).logpdf((X - mean) / std) - np.log(std).sum()


def test_scores_of_a_linear_model_are_its_exact_marginal(linear_fit, X):
    exact = exact_log_prob(linear_fit, X)
    np.testing.assert_allclose(linear_fit.score_samples(X), exact, atol=1e-5)
    drawn = linear_fit.score_samples(X, n_draws=1000)
    assert drawn.mean() == approx(exact.mean(), abs=0.02)
    assert not np.array_equal(drawn, exact)
    bound = linear_fit.elbo(X)
    assert (bound <= exact + 1e-6).all() and bound.mean() > exact.mean() - 0.02


def test_a_linear_network_reaches_factor_analysis(linear_fit, X):
    assert linear_fit.score(X) == approx(FactorAnalysisEM(2, tol=1e-6).fit(X).score(X), abs=0.01)


def test_bound_and_draws_lie_in_order(model, X):
    """On average over the rows."""
    assert model.elbo(X).mean() < model.score_samples(X, n_draws=3000).mean() + 0.02
    assert model.score_samples(X, n_draws=1).mean() < model.score_samples(X, n_draws=3000).mean() - 0.03


def test_noise_variance_is_in_the_units_of_the_data(X, linear_fit):
    exact = FactorAnalysisEM(2, tol=1e-6).fit(X)
    np.testing.assert_allclose(linear_fit.noise_variance_, exact.noise_variance_, rtol=0.1)
    fixed = tiny(noise=0.3).fit(X)
    assert fixed.noise_variance_ == approx(np.full(D, 0.3), rel=1e-6)
    assert len(set(tiny(noise="isotropic").fit(X).noise_variance_.round(12))) == 1


@pytest.mark.parametrize("early_stopping", [False, "auto"])
def test_scale_and_offset_only_move_the_likelihood_by_the_jacobian(early_stopping, monkeypatch):
    monkeypatch.setattr("skvae.tables.weights._FEW_CELLS", 0)  # small fits sort rows by content, which scaling changes
    X = factor_data(40)
    scale, offset = np.array([1e6, 1e-3, 1, 10, 1e3, 1]), np.array([1e6, -1, 0, 5, 0, 1])
    one = tiny(early_stopping=early_stopping, max_iter=20).fit(X)
    other = tiny(early_stopping=early_stopping, max_iter=20).fit(X * scale + offset)
    np.testing.assert_allclose(other.transform(X * scale + offset), one.transform(X), atol=1e-5)
    moved = other.elbo(X * scale + offset) - one.elbo(X)
    np.testing.assert_allclose(moved, -np.log(scale).sum(), atol=1e-4)
    moved = other.score_samples(X * scale + offset) - one.score_samples(X)  # by draws that the content of a row seeds
    np.testing.assert_allclose(moved, -np.log(scale).sum(), atol=0.1)
    np.testing.assert_allclose(other.lower_bounds_ - one.lower_bounds_, -np.log(scale).sum(), atol=1e-3)


def test_the_score_is_the_weighted_mean(model, X):
    w = np.random.default_rng(0).random(N)
    assert model.score(X) == approx(model.score_samples(X).mean())
    assert model.score(X, sample_weight=w) == approx(np.average(model.score_samples(X), weights=w))
    np.testing.assert_array_equal(model.anomaly_score(X), -model.score_samples(X))


# ------------------------------------------------------------------------------------------------- linear or not
@pytest.mark.parametrize("n", [40, 80])
def test_linear_data_get_factor_analysis(n):
    X, new = factor_data(n, 6), factor_data(500, 6, seed=1)
    model = VAETransformer(2, random_state=0).fit(X)
    exact = FactorAnalysisEM(2, tol=1e-6).fit(X)
    assert not model.nonlinear_ and model.n_iter_ == 1
    assert model.score(new) == approx(exact.score(new), abs=0.02)
    np.testing.assert_allclose(model.noise_variance_, exact.noise_variance_, rtol=0.05)
    assert model.elbo(X).mean() == approx(model.score(X), abs=1e-6)  # its posterior is exact, the draws are balanced


@pytest.mark.slow
def test_linear_data_mostly_get_factor_analysis():
    kept = []
    for seed in range(4):
        X, new = factor_data(150, 6, seed=seed), factor_data(500, 6, seed=100 + seed)
        model = VAETransformer(2, random_state=seed).fit(X)
        kept.append(model.nonlinear_)
        assert model.score(new) == approx(FactorAnalysisEM(2, tol=1e-6).fit(X).score(new), abs=0.02)
    assert sum(kept) <= 1


def test_a_curve_gets_a_network():
    """And rows that no fit has seen are the judges."""
    X, new = curve(120, 0), curve(1000, 1)
    model = VAETransformer(2, random_state=0).fit(X)
    assert model.nonlinear_ and model.n_iter_ > 1
    assert model.score(new) > FactorAnalysisEM(2).fit(X).score(new) + 0.5
    assert model.validation_scores_.max() > model.validation_scores_[0]


def test_hidden_layers_are_needed_for_more_than_factor_analysis(X):
    model = VAETransformer(2, hidden_layer_sizes=(), random_state=0).fit(X)
    assert not model.nonlinear_
    assert model.score(X) == approx(FactorAnalysisEM(2, tol=1e-6).fit(X).score(X), abs=1e-3)


# ------------------------------------------------------------------------------------------------- rows and weights
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_weights_are_repeats_and_zero_is_absence(early_stopping, missing):
    X = factor_data(55, missing=missing)
    w = np.random.default_rng(0).integers(0, 3, len(X))
    settings = {"early_stopping": early_stopping, "max_iter": 6}
    weighted = tiny(**settings).fit(X, sample_weight=w)
    repeated = tiny(**settings).fit(np.repeat(X, w, axis=0))
    assert weights_of(weighted) == weights_of(repeated)
    np.testing.assert_array_equal(weighted.transform(X), repeated.transform(X))
    assert weighted.n_samples_seen_ == repeated.n_samples_seen_ == w.sum()


@pytest.mark.parametrize("early_stopping", [False, True])
def test_refits_with_one_seed_are_bit_equal(early_stopping, X):
    fits = [tiny(early_stopping=early_stopping, random_state=seed).fit(X) for seed in (3, 3, 4)]
    assert state(fits[0]) == state(fits[1])
    if not early_stopping:
        assert weights_of(fits[0]) != weights_of(fits[2])


@pytest.mark.parametrize("method", ["transform", "score_samples", "elbo", "svi", "impute", "posterior"])
@pytest.mark.parametrize("which", ["model", "gappy"])
def test_a_subset_is_the_subset(which, method, request, X):
    fitted = request.getfixturevalue(which)
    fitted, X = fitted if isinstance(fitted, tuple) else (fitted, X)
    call = {"svi": lambda X: fitted.elbo(X, inference="svi"), "posterior": lambda X: fitted.posterior(X)[1]}.get(
        method, getattr(fitted, method, None)
    )
    some = np.array([31, 4, 17, 5, 59])
    whole = call(X)
    np.testing.assert_allclose(call(X[some]), whole[some], rtol=1e-7, atol=1e-9)
    assert whole.dtype == np.float64


@pytest.mark.parametrize("method", ["transform", "score_samples", "elbo", "impute", "reconstruct"])
def test_float32_stays_float32(method, gappy):
    model, X = gappy
    X = np.array(X)[1:]
    found = getattr(model, method)(X.astype(np.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, getattr(model, method)(X), rtol=2e-3, atol=2e-3)


# ---------------------------------------------------------------------------------------------- posteriors per row
def test_posteriors_per_row_raise_the_bound(model, X):
    before = state(model)
    amortised, refined, top = model.elbo(X), model.elbo(X, inference="svi"), model.score_samples(X, n_draws=500)
    assert (refined > amortised - 0.05).all()
    assert refined.mean() > amortised.mean() + 0.01
    assert refined.mean() < top.mean() + 0.05
    assert state(model) == before


def test_posteriors_per_row_are_exact_for_a_linear_model(linear_fit, X):
    """Where its posterior factorises, which a rotation of z brings about; the bound is then log p(x)."""
    turned = copy.deepcopy(linear_fit)
    W = turned.parameters_["decoder.0.weight"]
    psi = 1e-3 + np.exp(turned.parameters_["likelihood.noise"])
    turned.parameters_["decoder.0.weight"] = np.linalg.eigh((W / psi) @ W.T)[1].T.astype(np.float32) @ W
    np.testing.assert_allclose(turned.score_samples(X), linear_fit.score_samples(X), atol=1e-4)
    np.testing.assert_allclose(turned.elbo(X, inference="svi"), linear_fit.score_samples(X), atol=0.02)


def test_a_fit_with_posteriors_per_row(X):
    model = tiny(inference="svi", max_iter=60, learning_rate=0.02).fit(X)
    assert model.lower_bounds_[-5:].mean() > model.lower_bounds_[:5].mean() + 0.5
    assert model.elbo(X).mean() < model.score(X) + 0.05
    some = [3, 40, 11]
    np.testing.assert_allclose(model.transform(X[some]), model.transform(X)[some], rtol=1e-7, atol=1e-9)
    new = factor_data(7, seed=5)  # rows that were not in the fit
    assert model.transform(new).shape == (7, 2) and np.isfinite(model.score_samples(new)).all()
    with pytest.raises(ValueError, match="cannot go on"):
        model.partial_fit(X)


# ---------------------------------------------------------------------------------------------------------- missing
def test_rows_without_any_cell_are_the_prior(gappy):
    model, X = gappy
    empty = np.full((2, D), np.nan)
    assert model.score_samples(empty) == approx(np.zeros(2), abs=0.35)
    linear = VAETransformer(2, random_state=0).fit(X[:40])
    mean, std = linear.posterior(empty)
    assert mean == approx(np.zeros((2, 2)), abs=1e-6) and std == approx(np.ones((2, 2)), abs=1e-6)
    assert linear.score_samples(empty) == approx(np.zeros(2), abs=1e-9)
    assert linear.elbo(empty) == approx(np.zeros(2), abs=1e-6)
    assert linear.impute(empty) == approx(np.tile(linear.inverse_transform(np.zeros((1, 2))), (2, 1)), rel=1e-6)


def test_missing_cells_leave_the_likelihood_of_the_others(linear_fit, X):
    """Of the exact marginal, and of its estimate by draws."""
    kept = [0, 2, 3, 5]
    Y = np.array(X)
    Y[:, [1, 4]] = np.nan
    p = {name: array.astype(np.float64) for name, array in linear_fit.parameters_.items()}
    mean, std = X.mean(0), X.std(0)
    cov = p["decoder.0.weight"].T @ p["decoder.0.weight"] + np.diag(1e-3 + np.exp(p["likelihood.noise"]))
    marginal = multivariate_normal(p["decoder.0.bias"][kept], cov[np.ix_(kept, kept)])
    exact = marginal.logpdf(((X - mean) / std)[:, kept]) - np.log(std[kept]).sum()
    np.testing.assert_allclose(linear_fit.score_samples(Y), exact, atol=1e-5)
    assert linear_fit.score_samples(Y, n_draws=5000).mean() == approx(exact.mean(), abs=0.1)


def test_impute_is_the_conditional_mean_and_leaves_the_rest_alone(gappy):
    model, X = gappy
    filled = model.impute(X)
    seen = ~np.isnan(X)
    np.testing.assert_array_equal(filled[seen], X[seen])
    assert np.isfinite(filled).all()
    linear = VAETransformer(2, random_state=0).fit(X[1:41])
    exact = FactorAnalysisEM(2, tol=1e-8, max_iter=5000).fit(X[1:41])
    np.testing.assert_allclose(linear.impute(X), exact.impute(X), rtol=0.02, atol=0.02)
    np.testing.assert_array_equal(model.impute(filled), filled)


def test_impute_gives_the_frame_back(gappy):
    model, X = gappy
    frame = pd.DataFrame(X, columns=list("abcdef"), index=[f"row {i}" for i in range(len(X))])
    model = tiny().fit(frame)
    filled = model.impute(frame)
    assert isinstance(filled, pd.DataFrame) and filled.index.equals(frame.index)
    assert list(filled.columns) == list("abcdef") and not filled.isna().any().any()
    assert frame.isna().any().any()  # a copy


def test_imputed_cells_are_better_than_means(gappy):
    _, X = gappy
    truth = factor_data()
    X = np.array(X)[1:]
    hidden = np.isnan(X)
    model = VAETransformer(2, random_state=0).fit(X)
    error = lambda Y: ((Y - truth[1:])[hidden] ** 2).mean()  # noqa: E731
    assert error(model.impute(X)) < 0.5 * error(np.where(hidden, np.nanmean(X, 0), X))
    assert error(model.impute(X)) < 1.02 * error(FactorAnalysisEM(2).fit(X).impute(X))


# ------------------------------------------------------------------------------------------------------------ mixed
def mixed_table(n=80, seed=0):
    """Two factors behind measured, yes-or-no, nominal and counted columns."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 2))
    towns = np.array(["Bonn", "Kiel", "Ulm"])
    return pd.DataFrame(
        {
            "height": 170 + 10 * z[:, 0] + rng.normal(size=n),
            "weight": (70 + 8 * z[:, 0] + rng.normal(size=n)).astype(np.float32),
            "member": z[:, 1] + 0.3 * rng.normal(size=n) > 0,
            "town": pd.Categorical(towns[np.digitize(z[:, 1] + 0.3 * rng.normal(size=n), [-0.5, 0.5])]),
            "visits": rng.poisson(np.exp(1 + 0.8 * z[:, 1])).astype(float),
        }
    )


PARTS = [
    ("gaussian", ["height", "weight"]),
    ("bernoulli", ["member"]),
    ("categorical", ["town"]),
    ("poisson", ["visits"]),
]


@pytest.fixture(scope="module")
def mixed():
    frame = mixed_table(150)
    rng = np.random.default_rng(1)
    gappy = frame.copy()
    for name in ("height", "town", "visits"):
        gappy.loc[rng.random(len(frame)) < 0.2, name] = None
    return tiny(likelihood=PARTS, max_iter=150, learning_rate=0.02).fit(gappy), frame, gappy


def test_a_mixed_table_goes_there_and_back(mixed):
    model, frame, gappy = mixed
    tables = [model.sample(30, random_state=0), model.reconstruct(gappy), model.impute(gappy)]
    for table, n in zip(tables, (30, 150, 150)):
        assert isinstance(table, pd.DataFrame) and len(table) == n
        assert table.dtypes.equals(frame.dtypes)
        assert not table.isna().any().any()
    assert (tables[0]["visits"] >= 0).all() and (tables[0]["visits"] % 1 == 0).all()
    seen = gappy.notna()
    for name in gappy.columns:
        assert (tables[2][name][seen[name]] == gappy[name][seen[name]]).all()
    assert np.isfinite(model.score_samples(gappy)).all() and np.isfinite(model.elbo(gappy)).all()
    assert np.isnan(model.noise_variance_).tolist() == [False, False, True, True, True]
    assert model.transform(gappy).shape == (150, 2)


def test_a_mixed_table_is_understood(mixed):
    """Cells that were hidden are told better than by the most frequent level, and reconstructions resemble the data."""
    model, frame, gappy = mixed
    hidden = gappy["town"].isna()
    told = (model.impute(gappy)["town"] == frame["town"])[hidden].mean()
    assert told > (frame["town"] == gappy["town"].mode()[0])[hidden].mean() + 0.1
    again = model.reconstruct(gappy)
    assert np.corrcoef(again["height"], frame["height"])[0, 1] > 0.7
    assert (again["member"] == frame["member"]).mean() > 0.8
    assert np.corrcoef(again["visits"], frame["visits"])[0, 1] > 0.5


def test_auto_tells_likelihoods_by_dtype():
    frame = mixed_table(40)
    model = tiny(likelihood="auto").fit(frame)
    found = {name: kind for kind, columns in PARTS for name in columns} | {"visits": "gaussian"}
    listed = tiny(likelihood=[(kind, [name]) for name, kind in found.items()]).fit(frame)
    np.testing.assert_array_equal(model.score_samples(frame), listed.score_samples(frame))
    assert model.sample(3, random_state=0).dtypes.equals(frame.dtypes)


def test_samples_repeat_by_seed_and_follow_the_data(X, linear_fit):
    drawn = linear_fit.sample(4000, random_state=1)
    np.testing.assert_array_equal(drawn, linear_fit.sample(4000, random_state=1))
    assert not np.array_equal(drawn, linear_fit.sample(4000, random_state=2))
    np.testing.assert_allclose(drawn[:10], linear_fit.sample(10, random_state=1), rtol=1e-5)
    assert not np.array_equal(linear_fit.sample(2), linear_fit.sample(2))
    np.testing.assert_allclose(drawn.mean(0), X.mean(0), atol=0.15)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(X.T), atol=0.4)
    with pytest.raises(ValueError, match="n_samples >= 1"):
        linear_fit.sample(0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["poisson", "categorical"])
def test_planted_counts_and_levels_are_recovered(kind):
    """Two factors and six dimensions: what each cell is expected to be; of counts, no more active than factors."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3000, 2))
    if kind == "poisson":
        truth = np.exp(1 + z @ np.repeat([[0.8, 0.0], [0.0, 0.8]], 4, axis=1))
        X = rng.poisson(truth).astype(float)
        marginal = X.mean(0)
    else:
        logits = 1.5 * np.repeat(z, 4, axis=1)[..., None] * [1.0, 0.0, -1.0]
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        X = (rng.random((3000, 8, 1)) > p.cumsum(-1)).sum(-1).astype(float)
    model = VAETransformer(6, likelihood=kind, random_state=0).fit(X)
    again = model.reconstruct(X)
    if kind == "poisson":
        assert np.corrcoef(again.ravel(), truth.ravel())[0, 1] > 0.9
        assert ((np.log(again) - np.log(truth)) ** 2).mean() < 0.2 * ((np.log(marginal) - np.log(truth)) ** 2).mean()
        assert model.n_active_ == 2
    else:
        assert (again == p.argmax(-1)).mean() > 0.8


# ------------------------------------------------------------------------------------------------------- odd tables
@pytest.mark.parametrize("early_stopping", [False, "auto"])
@pytest.mark.parametrize(
    "table",
    {
        "a constant column": lambda: np.c_[factor_data(), np.full(N, 7.0)],
        "constant columns only": lambda: np.ones((N, 3)) * [1.0, 0.0, -5.0],
        "two rows": lambda: factor_data(2),
        "one column": lambda: factor_data()[:, :1],
        "more dimensions than columns": lambda: factor_data()[:, :2],
        "a column of two values": lambda: np.c_[factor_data(), np.arange(N) == 3],
        "large and raw": lambda: 1e6 * (factor_data() + 5),
        "a column seen once": lambda: np.c_[factor_data(), np.where(np.arange(N) == 3, 2.0, np.nan)],
    }.items(),
    ids=lambda item: item[0],
)
@pytest.mark.filterwarnings("ignore:.*Heywood")  # two rows leave no noise
@pytest.mark.filterwarnings("ignore:.*does not compress X")
def test_odd_tables_are_fitted(table, early_stopping):
    X = table[1]()
    model = tiny(n_components=3, early_stopping=early_stopping, max_iter=3, batch_size=1000).fit(X)
    assert model.transform(X).shape == (len(X), 3)
    for values in (model.transform(X), model.score_samples(X), model.elbo(X), model.reconstruct(X), model.sample(3)):
        assert np.isfinite(values).all()
    assert np.isfinite(model.impute(X)).all() and np.isfinite(model.lower_bounds_).all()


COUNTS = np.random.default_rng(0).poisson(3.0, (20, 3)).astype(float)


@pytest.mark.parametrize(
    ("settings", "X", "message"),
    [
        ({}, np.c_[factor_data(), np.full(N, np.nan)], "6"),
        ({}, np.where(np.arange(D) == 2, np.inf, factor_data()), "X"),
        ({"likelihood": "poisson"}, -COUNTS, "counts"),
        ({"likelihood": "negative_binomial"}, COUNTS + 0.5, "counts"),
        ({"likelihood": "bernoulli"}, COUNTS, r"\[0, 1\]"),
        ({"likelihood": "wrong"}, COUNTS, "wrong"),
        ({"likelihood": [("poisson", [0, 1])]}, COUNTS, "2"),
        ({"objective": "iwae", "beta": 0.5}, COUNTS, "beta=1"),
        ({"objective": "iwae", "free_bits": 0.5}, COUNTS, "free_bits=0"),
        ({"objective": "iwae", "annealing": "linear"}, COUNTS, "annealing=None"),
        ({"inference": "svi", "early_stopping": True}, COUNTS, "held out"),
        ({"hidden_layer_sizes": (0,)}, COUNTS, "hidden_layer_sizes"),
        ({"annealing": lambda fraction: -1.0}, COUNTS, "annealing"),
        ({"noise": -1.0}, COUNTS, "noise"),
        ({"n_components": 0}, COUNTS, "n_components"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_the_estimator_alone(settings, X, message):
    fresh = tiny(**settings)
    before = state(fresh)
    with pytest.raises(ValueError, match=message):
        fresh.fit(X)
    assert state(fresh) == before
    fitted = tiny().fit(COUNTS).set_params(**settings)
    before = state(fitted)
    with pytest.raises(ValueError, match=message):
        fitted.fit(X)
    assert state(fitted) == before


def test_unseen_levels_are_named():
    X = np.array([["a", "x"], ["b", "y"]] * 10, dtype=object)
    model = tiny(likelihood="categorical").fit(X)
    with pytest.raises(ValueError, match="'c'"):
        model.transform(np.array([["c", "x"]], dtype=object))


def test_a_diverging_fit_leaves_the_estimator_alone(X):
    """Outliers beyond float32 in a fixed scale, at an absurd rate: refused steps, one halving, then an error."""
    model = tiny().fit(X)
    before = state(model)
    model.set_params(learning_rate=1e30)
    before["learning_rate"] = 1e30
    with warnings.catch_warnings(), pytest.raises(FloatingPointError, match=r"epoch \d+.*learning_rate"):
        warnings.simplefilter("ignore", RuntimeWarning)
        model.fit(X)
    assert state(model) == before


# ------------------------------------------------------------------------------------------ modules of the user's own
def encoder(n_in, n_out):
    return torch.nn.Sequential(
        torch.nn.Linear(n_in, 9), torch.nn.LayerNorm(9), torch.nn.Tanh(), torch.nn.Linear(9, n_out)
    )


def decoder(n_in, n_out):
    return torch.nn.Sequential(torch.nn.Linear(n_in, 9), torch.nn.Tanh(), torch.nn.Linear(9, n_out))


class NamedAsOurs(torch.nn.Module):
    """With parameters whose names are those of paths in the built-in networks."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.skip, self.inner = torch.nn.Linear(n_in, n_out), torch.nn.Linear(n_in, n_out)

    def forward(self, h):
        return self.skip(h) + torch.tanh(self.inner(h))


def with_buffers(n_in, n_out):
    return torch.nn.Sequential(torch.nn.BatchNorm1d(n_in), torch.nn.Linear(n_in, n_out))


def no_module(n_in, n_out):
    return "a string"


@pytest.mark.parametrize(
    "own",
    [
        {"encoder": encoder},
        {"decoder": decoder},
        {"encoder": encoder, "decoder": decoder},
        {"encoder": NamedAsOurs, "decoder": NamedAsOurs},
    ],
)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_modules_of_the_users_own_learn_and_pickle(own, early_stopping, X):
    model = tiny(**own, max_iter=40, learning_rate=0.01, early_stopping=early_stopping).fit(X)
    assert model.lower_bounds_[-3:].mean() > model.lower_bounds_[0] + 0.5
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))
    assert state(clone(model).fit(X)) == state(model)
    some = [5, 2]
    np.testing.assert_allclose(model.transform(X[some]), model.transform(X)[some], rtol=1e-7)
    if not early_stopping:  # which has no part in posteriors of the rows' own
        assert model.elbo(X, inference="svi").mean() > model.elbo(X).mean() - 0.05
    assert np.isfinite(model.reconstruct(X)).all() and model.sample(4).shape == (4, D)


@pytest.mark.parametrize(("factory", "message"), [(with_buffers, "buffers.*running_mean"), (no_module, "a string")])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_modules_that_keep_state_are_refused(part, factory, message, X):
    with pytest.raises(ValueError, match=message):
        tiny(**{part: factory}).fit(X)


def test_a_fitted_model_is_used_with_its_own_modules_only(X):
    model = tiny(encoder=lambda n_in, n_out: torch.nn.Linear(n_in, n_out)).fit(X)
    expected = model.transform(X)
    model.set_params(encoder=lambda n_in, n_out: torch.nn.Linear(n_in, n_out))  # another function, the same module
    np.testing.assert_array_equal(model.transform(X), expected)
    model.set_params(encoder=encoder)
    for use in (
        model.transform,
        model.score_samples,
        lambda X: model.sample(),
        lambda X: model.inverse_transform(X[:, :2]),
    ):
        with pytest.raises(ValueError, match="was fitted with encoder = .*Linear.*set it back, or fit again"):
            use(X)
    with pytest.raises(ValueError, match="was fitted with .*encoder.* cannot go on"):
        model.partial_fit(X)


@pytest.mark.parametrize("fit", ["fit", "partial_fit"])
def test_one_row_is_too_few(fit, X):
    model = tiny()
    with pytest.raises(ValueError, match="1 sample.* a minimum of 2 is required by VAETransformer"):
        getattr(model, fit)(X[:1])
    assert not hasattr(model, "parameters_")
    assert model.fit(X).transform(X[:1]).shape == (1, 2)
    assert model.partial_fit(X[:1]).n_samples_seen_ == N + 1


def test_the_encoder_has_no_place_in_svi(X):
    with pytest.raises(ValueError, match="has no encoder"):
        tiny(inference="svi", encoder=encoder).fit(X)


# --------------------------------------------------------------------------------------------------- how it is trained
def test_beta_and_free_bits_weigh_the_kl_term(X):
    kl = lambda **settings: tiny(max_iter=60, learning_rate=0.02, **settings).fit(X).kl_per_dimension_.sum()  # noqa: E731
    assert kl(beta=0.1) > kl() > kl(beta=10.0)
    assert tiny(max_iter=100, learning_rate=0.02, beta=50.0).fit(X).n_active_ == 0
    assert kl(beta=10.0, free_bits=0.5) > kl(beta=10.0) + 0.3


def test_annealing_is_followed(X):
    asked = []

    def schedule(fraction):
        asked.append(fraction)
        return min(1.0, 2 * fraction)

    model = tiny(annealing=schedule, max_iter=4).fit(X)
    assert asked[-4:] == [0.0, 0.25, 0.5, 0.75]
    assert weights_of(model) == weights_of(tiny(annealing="linear", anneal_fraction=0.5, max_iter=4).fit(X))
    assert weights_of(model) != weights_of(tiny(max_iter=4).fit(X))


def test_no_vote_wins_before_the_annealing_has_ended(X):
    model = tiny(
        early_stopping=True,
        likelihood="poisson",
        annealing="linear",
        anneal_fraction=0.9,
        max_iter=400,
        n_iter_no_change=1,
        tol=100.0,
    ).fit(COUNTS)
    assert model.n_iter_ >= 360


def test_iwae_trains_the_tighter_bound(X):
    draws = [tiny(max_iter=60, learning_rate=0.02, objective=o, n_draws=8).fit(X) for o in ("elbo", "iwae")]
    assert weights_of(draws[0]) != weights_of(draws[1])
    gap = [model.score_samples(X, n_draws=300).mean() - model.elbo(X).mean() for model in draws]
    assert gap[1] > gap[0]  # its posterior may be wider than the bound of one draw likes


def test_warm_start_goes_on(X):
    model = tiny(warm_start=True, max_iter=5)
    first = weights_of(model.fit(X))
    bounds = model.lower_bounds_
    model.fit(X)
    assert model.n_iter_ == len(model.lower_bounds_) == 10
    np.testing.assert_array_equal(model.lower_bounds_[:5], bounds)
    assert weights_of(model) != first
    assert model.lower_bounds_[5:].mean() > bounds.mean()
    with pytest.raises(ValueError, match=r"cannot go on with \{'hidden_layer_sizes': \(4,\)\}"):
        model.set_params(hidden_layer_sizes=(4,)).fit(X)


@pytest.mark.parametrize("again", ["fit", "partial_fit"])
def test_going_on_moves_no_array_of_the_last_fit(again, X):
    model = tiny(warm_start=True).fit(X)
    old, before = model.parameters_, weights_of(model)
    getattr(model, again)(X)
    assert frozen(old) == before and weights_of(model) != before


def test_a_failure_on_the_way_on_leaves_the_last_fit(X):
    model = tiny(warm_start=True).fit(X)
    model.set_params(annealing=lambda fraction: 1.0 if fraction < 0.5 else 1 / 0)
    before = state(model)
    with pytest.raises(ZeroDivisionError):
        model.fit(X)
    assert state(model) == before


def test_passes_of_partial_fit_keep_the_optimizer_state(X):
    """Two calls with a moment each are not two first calls; shapes stay those of the parameters."""
    model = tiny(batch_size=16).partial_fit(X).partial_fit(X).partial_fit(X)
    for name, array in model.parameters_.items():
        assert model._optimizer_state[f"{name}.exp_avg"].shape == array.shape
    assert {name: int(array) for name, array in model._optimizer_state.items() if array.ndim == 0} == {"step": 12}


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_passes_do_not_depend_on_early_stopping(missing):
    """They ignore it: with missing cells, too, the encoder reads the same."""
    X = factor_data(missing=missing)
    one, other = (tiny(early_stopping=stops).partial_fit(X).partial_fit(X) for stops in ("auto", False))
    np.testing.assert_array_equal(one.transform(X), other.transform(X))


def test_chunks_raise_the_score(X):
    new = factor_data(300, seed=7)
    model, scores = tiny(learning_rate=0.01, batch_size=16), []
    for _ in range(40):
        for chunk in np.array_split(X, 3):
            model.partial_fit(chunk)
        scores.append(model.score(new))
    assert scores[-1] > scores[0] + 0.5
    assert model.n_iter_ == len(model.lower_bounds_) == 120 and model.n_samples_seen_ == 40 * N


def test_partial_fit_goes_on_from_factor_analysis(X):
    """It is the network that stands for it, and one small pass moves its score by little."""
    model = VAETransformer(2, random_state=0, learning_rate=1e-5).fit(X[:40])
    assert not model.nonlinear_
    before = model.score(X)
    model.partial_fit(X)
    assert model.nonlinear_ and model.score(X) == approx(before, abs=0.05)


@pytest.fixture(scope="module")
def trapped():
    """A table of which factor analysis explains a column in full, its network, and new rows."""
    X = StandardScaler().fit_transform(load_iris().data)
    new = np.arange(len(X)) % 3 == 0
    return X[~new], VAETransformer(2, random_state=0).fit(X[~new]), X[new]


def test_random_weights_lead_out_of_the_trap_of_factor_analysis(trapped):
    X, model, new = trapped
    with pytest.warns(match="Heywood"):
        exact = FactorAnalysisEM(2, tol=1e-8, max_iter=10_000).fit(X)
    assert model.nonlinear_ and model.score(new) > exact.score(new) + 0.3


def test_the_network_of_the_random_start_is_the_same_wherever_it_is_used(trapped):
    """In a pass that goes on from it, in posteriors of the rows' own, and beside missing cells."""
    X, model, new = trapped
    assert model._linear_path[1] is None  # the other restart is not the best
    again = copy.deepcopy(model).set_params(learning_rate=1e-6).partial_fit(X)
    assert again.score(new) == approx(model.score(new), abs=0.02)
    assert again.partial_fit(X).score(new) == approx(model.score(new), abs=0.02)
    assert model.elbo(new, inference="svi").mean() > model.elbo(new).mean() - 0.01
    holes = np.where(np.arange(new.size).reshape(new.shape) % 7 == 0, np.nan, new)
    hidden = np.isnan(holes)
    assert np.square(model.impute(holes) - new)[hidden].mean() < 0.5 * np.square(new[hidden]).mean()


def test_rows_may_be_given_to_vote(X):
    new = factor_data(30, seed=1)
    settings = {"early_stopping": True, "max_iter": 40, "likelihood": "gaussian", "noise": 0.25}
    model = tiny(**settings).fit(X, X_val=new)
    other = tiny(**settings).fit(X, X_val=new + 100)
    assert other.validation_scores_[0] < model.validation_scores_[0] - 100
    assert model.n_samples_seen_ == N


def test_voters_are_not_learnt_from_twice():
    """Below 50 rows only rows to judge by make a network possible."""
    X, new = curve(45, 0), curve(200, 1)
    assert not VAETransformer(2, random_state=0, max_iter=30).fit(X).nonlinear_
    model = VAETransformer(2, random_state=0, max_iter=400).fit(X, X_val=new)
    assert model.nonlinear_ and model.score(curve(200, 2)) > FactorAnalysisEM(2).fit(X).score(curve(200, 2))


# ------------------------------------------------------------------------------------------------ scikit-learn's tools
class Recorder:
    """Notes what a fit tells its callbacks, and stops it after some epochs."""

    def __init__(self, stop_after=None):
        self.stop_after, self.events, self.epochs = stop_after, [], []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        self.events.append(f"end {context.task_name}")
        if context.task_name == "epoch":
            self.epochs.append(fitted_estimator)
            return self.stop_after is not None and len(self.epochs) >= self.stop_after


@pytest.mark.parametrize("early_stopping", [False, True])
def test_callbacks_see_every_epoch_and_may_stop(early_stopping, X):
    recorder = Recorder()
    settings = {"early_stopping": early_stopping, "max_iter": 3}
    model = tiny(**settings).set_callbacks(recorder).fit(X)
    epoch = ["begin epoch", "end epoch"]
    assert recorder.events == ["setup", "begin fit", *epoch * 3, "end fit", "teardown"]
    scores = [fitted.score(X) for fitted in recorder.epochs]
    assert len(set(scores)) == 3
    plain = tiny(**settings).fit(X)
    np.testing.assert_array_equal(model.score_samples(X), plain.score_samples(X))  # watching changes nothing
    if not early_stopping:
        assert scores[-1] == model.score(X)
        stopped = tiny(max_iter=9).set_callbacks(Recorder(stop_after=2)).fit(X)
        assert stopped.n_iter_ == len(stopped.lower_bounds_) == 2


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_a_callback_may_stop_before_the_first_validation(likelihood, X):
    """No score tells that the network is better: factor analysis is kept where it applies."""
    X = X if likelihood == "gaussian" else (X > np.median(X, axis=0)).astype(float)
    model = tiny(likelihood=likelihood, early_stopping=True, max_iter=200).set_callbacks(Recorder(stop_after=1)).fit(X)
    assert len(model.validation_scores_) == 0 and model.n_iter_ == 1
    assert model.nonlinear_ == (likelihood == "bernoulli") and np.isfinite(model.score(X))


def test_a_line_every_epoch(X, capsys):
    tiny(verbose=2, max_iter=3).fit(X)
    *lines, end, kept = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all("VAETransformer" in line and "bound" in line for line in lines)
    assert "ended: " in end and "kept the " in kept


def test_pipelines_and_searches(X):
    pipe = make_pipeline(StandardScaler(), tiny())
    grid = {"vaetransformer__beta": [0.5, 1.0], "vaetransformer__n_components": [1, 2]}
    search = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert len(set(search.cv_results_["mean_test_score"])) == 4
    assert search.transform(X).shape == (N, search.best_params_["vaetransformer__n_components"])
    named = make_pipeline(StandardScaler(), tiny()).set_output(transform="pandas").fit_transform(X)
    assert list(named.columns) == ["vaetransformer0", "vaetransformer1"]


def test_every_attribute_that_is_promised_is_there(model):
    promised = inspect.getdoc(VAETransformer).split("Attributes\n")[1].split("See Also")[0]
    entries = [line.split(" :")[0] for line in promised.splitlines() if " : " in line and not line.startswith(" ")]
    names = [name for entry in entries for name in entry.split(", ")]
    assert len(names) > 8
    assert all(hasattr(model, name) for name in names if name != "feature_names_in_")


@pytest.mark.parametrize("seed", [4, 5, 8, 9])
def test_a_column_that_is_constant_among_the_rows_of_a_copy_has_no_loadings(seed):
    # With the start's loadings beside the tiny noise of the column, Gram matrices lose all their digits.
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 8)) + 0.5 * rng.normal(size=(200, 8))
    Z[:, 7] = -0.1
    Z[:10, 7] = rng.normal(5, 1, 10)
    Z = (Z - Z.mean(axis=0)) / Z.std(axis=0)
    Z[rng.random(Z.shape) < 0.2] = np.nan
    weight = np.ones(200)
    start = linear.factor_analysis(linear.summary_of(Z, weight), 3)
    weight[:10] = 0
    rows = linear.summary_of(Z, weight)
    found = linear.factor_analysis(rows, 3, init_params=start)
    assert found.W[7].abs().max() < 1e-6
    again = linear.factor_analysis(rows, 3)
    scores = [linear.evaluate(fa.log_prob, params, Z[10:]).mean() for params in (found, again)]
    assert scores[0] == approx(scores[1], abs=0.5)


# ----------------------------------------------------------------------------------------------- what users ran into
def test_a_random_start_on_a_small_table_gets_near_its_maximum():
    X = factor_data(120, 6)
    exact = FactorAnalysisEM(2, tol=1e-6).fit(X).score(X)
    linear = VAETransformer(2, hidden_layer_sizes=(), early_stopping=False, random_state=0).fit(X)
    assert linear.score(X) == approx(exact, abs=0.01)
    fixed = VAETransformer(2, noise=float(linear.noise_variance_.mean()), random_state=0).fit(X)
    assert fixed.score(X) > exact - 1


def test_new_parameters_leave_the_fitted_model_as_it_is():
    X = factor_data(60, 4)
    model = VAETransformer(2, early_stopping=False, max_iter=3, random_state=0).fit(X)
    before = model.score(X)
    model.set_params(encoder=lambda n_in, n_out: 1 / 0, decoder=lambda n_in, n_out: 1 / 0, n_draws=3, free_bits=1.0)
    assert model.score(X) == before


def test_a_reconstruction_has_the_index_and_names_of_its_frame():
    X = factor_data(60, 2)
    frame = pd.DataFrame({"x": X[:, 0], "kind": np.where(X[:, 1] > 0, "a", "b")}, index=range(1000, 1060))
    for table, likelihood in ((frame, "auto"), (frame[["x"]].assign(y=X[:, 1]), "gaussian")):
        found = VAETransformer(1, likelihood=likelihood, max_iter=2, random_state=0).fit(table).reconstruct(table)
        assert found.index.equals(table.index) and found.columns.equals(table.columns)


def test_a_column_that_wakes_up_is_refused():
    X = factor_data(60, 4)
    quiet = X[:20].copy()
    quiet[:, 3] = 1.0
    model = VAETransformer(2, random_state=0).partial_fit(quiet).partial_fit(quiet)
    with pytest.raises(ValueError, match=r"left out column 3, which was constant \(1\)"):
        model.partial_fit(X)


@pytest.mark.parametrize("settings", [{"early_stopping": False}, {"inference": "svi"}])
def test_rows_that_nobody_would_ask_are_refused(settings):
    X = factor_data(60, 4)
    with pytest.raises(ValueError, match="X_val decides when to stop"):
        VAETransformer(2, **settings).fit(X, X_val=X)


@pytest.mark.parametrize("n_draws", [0, False, True, 2.0])
def test_numbers_of_draws_are_checked(n_draws):
    X = factor_data(60, 4)
    model = VAETransformer(2, early_stopping=False, max_iter=2, random_state=0).fit(X)
    with pytest.raises(ValueError, match="n_draws must be a whole number"):
        model.score_samples(X, n_draws=n_draws)


def test_printed_bounds_are_in_units_of_the_data(capsys):
    X = factor_data(60, 4) * 1e5
    model = VAETransformer(2, early_stopping=False, max_iter=1, verbose=2, random_state=0).fit(X)
    assert f"bound {model.lower_bounds_[0]:.4g} nats" in capsys.readouterr().out


def test_declared_categories_are_levels_though_unseen():
    kinds = pd.Categorical(["a", "b"] * 20, categories=["a", "b", "c"])
    frame = pd.DataFrame({"kind": kinds, "x": np.arange(40.0)})
    rare = frame.iloc[:2].assign(kind=pd.Categorical(["c", "a"], categories=["a", "b", "c"]))
    model = VAETransformer(1, likelihood="auto", max_iter=2, random_state=0).fit(frame)
    scores = model.score_samples(rare)
    assert np.isfinite(scores).all() and scores[0] < scores[1]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({}, {"likelihood": "poisson"}),
        ({"noise": "isotropic"}, {"noise": 2.0}),
        ({"likelihood": [("gaussian", np.arange(4))]}, {"likelihood": [("poisson", np.arange(4))]}),
    ],
)
def test_what_the_columns_are_cannot_change_on_the_way(first, then):
    X = np.random.default_rng(0).poisson(3.0, (40, 4)).astype(float)
    model = tiny(warm_start=True, **first).fit(X)
    model.fit(X)
    with pytest.raises(ValueError, match=f"was fitted with .*{next(iter(then))}.* and cannot go on"):
        model.set_params(**then).fit(X)


@pytest.mark.parametrize("settings", [{"early_stopping": False}, {"noise": 0.5}])
def test_what_the_encoder_reads_stays_as_it_was_fitted(settings):
    X = factor_data(missing=0.2)
    model = tiny(**settings).fit(X)
    model.set_params(early_stopping="auto").partial_fit(X)
    assert np.isfinite(model.score(X))


def test_validation_rows_without_any_cell_are_refused(X):
    with pytest.raises(ValueError, match="X_val has no observed cell"):
        tiny(early_stopping=True).fit(X, X_val=np.full((3, X.shape[1]), np.nan))


@pytest.mark.parametrize("kind", [VAETransformer, AutoencoderTransformer])
def test_fits_do_not_depend_on_torchs_default_dtype(kind):
    X = np.random.default_rng(0).normal(size=(80, 4))
    expected = kind(2, max_iter=3, random_state=0).fit(X).transform(X)
    try:
        torch.set_default_dtype(torch.float64)
        found = kind(2, max_iter=3, random_state=0).fit(X).transform(X)
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(found, expected)
