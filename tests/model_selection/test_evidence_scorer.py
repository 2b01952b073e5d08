"""One scale for all: log p(x) of every family is normalised, and models of another measure are refused."""

import itertools

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.impute import SimpleImputer
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)

from skvae import BernoulliMixtureEM, FactorAnalysisEM, GaussianMixtureEM, ProbabilisticPCA, VAETransformer
from skvae.model_selection import make_evidence_scorer

WINE = load_wine().data
RNG = np.random.default_rng(0)
PAIRS = RNG.normal(size=(80, 2)) @ [[1.0, 0.6], [0.0, 0.8]] * [1, 5]
BITS = (RNG.random((60, 4)) < [0.3, 0.5, 0.2, 0.6]).astype(float)
LEVELS = np.column_stack([RNG.integers(0, n, 60) for n in (3, 2)]).astype(float)
MIXED = pd.DataFrame(
    {"size": RNG.normal(size=60), "kind": RNG.choice(["a", "b", "c"], 60), "new": RNG.random(60) < 0.3}
)


def vae(n_components=1, **settings):
    defaults = {"hidden_layer_sizes": (4,), "early_stopping": False, "max_iter": 8, "random_state": 0}
    return VAETransformer(n_components, **defaults | settings)


# ------------------------------------------------------------------------------------------------------ the same scale
def grid_of(n_columns, n, reach):
    """Points that cover a square, and their volume, in units of standard deviations of PAIRS."""
    axis = np.linspace(-reach, reach, n)
    points = np.array([*itertools.product(axis, repeat=n_columns)]) * PAIRS.std(axis=0)[:n_columns]
    return points, np.prod((axis[1] - axis[0]) * PAIRS.std(axis=0)[:n_columns])


@pytest.mark.parametrize(
    "model",
    [
        GaussianMixtureEM(2, random_state=0),
        GaussianMixtureEM(2, covariance_type="spherical", random_state=0),
        FactorAnalysisEM(1),
        ProbabilisticPCA(1),
        vae(hidden_layer_sizes=()),
        vae(),
    ],
    ids=["full", "spherical", "factors", "principal", "linear network", "network"],
)
def test_densities_integrate_to_one(model):
    points, volume = grid_of(2, 70, 8)
    assert np.exp(clone(model).fit(PAIRS).score_samples(points)).sum() * volume == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(
    ("model", "X", "n_levels"),
    [
        (BernoulliMixtureEM(2, n_init=1, random_state=0), BITS, (2, 2, 2, 2)),
        (BernoulliMixtureEM(2, categorical_features="all", n_init=1, random_state=0), LEVELS, (3, 2)),
        (vae(likelihood="bernoulli"), BITS, (2, 2, 2, 2)),
        (vae(likelihood="categorical"), LEVELS, (3, 2)),
    ],
    ids=["bits", "levels", "network of bits", "network of levels"],
)
def test_probabilities_sum_to_one(model, X, n_levels):
    cells = np.array([*itertools.product(*map(range, n_levels))], dtype=float)
    draws = {"n_draws": 4096} if isinstance(model, VAETransformer) else {}
    assert np.exp(clone(model).fit(X).score_samples(cells, **draws)).sum() == pytest.approx(1, abs=1e-3)


def test_a_mixed_table_is_a_density_times_probabilities():
    model, axis = vae(likelihood="auto").fit(MIXED), np.linspace(-8, 8, 200)
    cells = pd.DataFrame([*itertools.product(axis, "abc", (False, True))], columns=MIXED.columns)
    assert np.exp(model.score_samples(cells)).sum() * (axis[1] - axis[0]) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("scaler", [StandardScaler(), MinMaxScaler(), RobustScaler(), make_pipeline(MaxAbsScaler())])
@pytest.mark.parametrize("gaps", [False, True])
def test_scalers_do_not_change_the_score(scaler, gaps):
    """Factor analysis is the same in any units, so that the factors of the scaler alone would show."""
    X = np.where(np.random.default_rng(0).random(WINE.shape) < 0.1, np.nan, WINE) if gaps else WINE
    scorer, model = make_evidence_scorer(), FactorAnalysisEM(2, tol=1e-8)
    plain = scorer(model.fit(X), X)
    assert plain == pytest.approx(model.score(X), abs=1e-12)
    assert scorer(make_pipeline(scaler, model).fit(X), X) == pytest.approx(plain, abs=1e-5)


# ----------------------------------------------------------------------------------------------------------- searches
def test_a_search_chooses_a_family_and_its_size():
    """Two clusters that no factor model has; scikit-learn's own mixture stands on the same scale."""
    rng = np.random.default_rng(0)
    X = np.where(rng.random((120, 1)) < 0.5, -4.0, 4.0) + rng.normal(size=(120, 3)) * [0.1, 1, 10]
    pipeline = Pipeline([("scale", StandardScaler()), ("density", FactorAnalysisEM())])
    mixture = GaussianMixtureEM(covariance_type="diag", random_state=0)
    theirs = GaussianMixture(2, covariance_type="diag", random_state=0)
    grid = [
        {"density": [FactorAnalysisEM(), ProbabilisticPCA()], "density__n_components": [1, 2]},
        {"density": [mixture], "density__n_components": [1, 2], "scale": [StandardScaler(), MinMaxScaler(), None]},
        {"density": [theirs]},
    ]
    folds = KFold(3, shuffle=True, random_state=0)
    search = GridSearchCV(pipeline, grid, scoring=make_evidence_scorer(), cv=folds, error_score="raise").fit(X)
    scores = search.cv_results_["mean_test_score"]
    best = [round(score, 1) for score in scores if score > scores.max() - 0.1]
    assert len(best) == 4 and isinstance(search.best_estimator_[-1], GaussianMixtureEM | GaussianMixture)


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
def test_a_search_over_another_measure_says_so():
    """Of the same bits, a density would win with any score it likes."""
    pipeline = Pipeline([("density", BernoulliMixtureEM())])
    grid = {"density": [BernoulliMixtureEM(2, n_init=1), vae(likelihood="bernoulli"), GaussianMixtureEM(2)]}
    search = GridSearchCV(pipeline, grid, scoring=make_evidence_scorer("probability"), cv=2)
    with pytest.warns(UserWarning, match="GaussianMixtureEM gives a density of column 0"):
        search.fit(BITS)
    np.testing.assert_array_equal(np.isnan(search.cv_results_["mean_test_score"]), [False, False, True])


@pytest.mark.parametrize(
    ("measure", "model", "X", "message"),
    [
        ("auto", BernoulliMixtureEM(2, n_init=1), BITS, r"probability of column 0.*make_evidence_scorer\(measure='pr"),
        ("probability", FactorAnalysisEM(1), BITS, "density of column 0"),
        ("density", vae(likelihood="auto"), MIXED, "probability of column 'kind'.*2 such columns"),
        (["density", "density"], vae(likelihood=[("gaussian", [0]), ("poisson", [1])]), LEVELS, "of column 1"),
        ("auto", make_pipeline(PCA(2), FactorAnalysisEM(1)), WINE, "reads 2 columns that are made of the 13"),
        (["density"], FactorAnalysisEM(1), WINE, "a list for 1 columns, but X has 13"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else None,
)
def test_other_scales_are_refused(measure, model, X, message):
    with pytest.raises(ValueError, match=message):
        make_evidence_scorer(measure)(clone(model).fit(X), X)


class Half(TransformerMixin, BaseEstimator):
    """Halves the numbers, and can be told from what it leaves only by looking at them."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X / 2


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (PowerTransformer(), "PowerTransformer changes column 0 "),
        (QuantileTransformer(n_quantiles=20), "QuantileTransformer changes column 0 "),
        (PCA(whiten=True), "PCA changes column 0 "),
        (FunctionTransformer(np.log1p), "FunctionTransformer changes column 0 "),
        (MinMaxScaler(clip=True), "clip=True.*set clip=False"),
        (make_pipeline(StandardScaler(), Half()), "Half changes column 0 "),
        (ColumnTransformer([("scale", StandardScaler(), [1])], remainder="passthrough"), "ColumnTransformer changes"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_steps_that_change_the_scale_are_refused(step, message):
    """Half of all numbers is a density that is twice as high, of the same columns."""
    with pytest.raises(ValueError, match=message):
        make_evidence_scorer()(make_pipeline(step, FactorAnalysisEM(1)).fit(WINE), WINE)


def test_steps_that_leave_the_numbers_are_no_part_of_the_score():
    X = pd.DataFrame(WINE, columns=load_wine().feature_names).astype("Float64")
    X.iloc[::7, 3] = pd.NA
    filled, scorer, model = X.fillna(X.mean()), make_evidence_scorer(), FactorAnalysisEM(1)
    expected = scorer(model.fit(filled), filled)
    for steps in ([SimpleImputer()], ["passthrough", SimpleImputer(), FunctionTransformer()]):
        assert scorer(make_pipeline(*steps, model).fit(X), X) == pytest.approx(expected)
    codes = make_pipeline(FunctionTransformer(lambda X: 1 - X), BernoulliMixtureEM(2, n_init=1)).fit(BITS)
    assert np.isfinite(make_evidence_scorer("probability")(codes, BITS))  # of other names for the levels


def test_measures_that_are_right_are_accepted():
    for measure, model, X in (
        ("auto", vae(likelihood="auto"), MIXED),
        (["density", "probability", "probability"], vae(likelihood="auto"), MIXED),
        ("auto", vae(), np.column_stack([WINE[:, 0], np.ones(178), WINE[:, 1]])),  # a column without variance
        ("probability", BernoulliMixtureEM(2, n_init=1), BITS),
        ("auto", BernoulliMixtureEM(2, n_init=1), pd.DataFrame(BITS.astype(bool))),
        ("probability", vae(likelihood="multinomial"), LEVELS),
        ("auto", PCA(2), WINE),
    ):
        model = clone(model).fit(X)
        assert make_evidence_scorer(measure)(model, X) == pytest.approx(model.score_samples(X).mean(), abs=1e-6)


def test_scores_that_are_no_likelihoods_are_refused():
    with pytest.raises(TypeError, match="BayesianGaussianMixture .* does not integrate to 1; take skvae.Variational"):
        make_evidence_scorer()(BayesianGaussianMixture(random_state=0).fit(WINE), WINE)
    with pytest.raises(TypeError, match="IsolationForest is none"):
        make_evidence_scorer()(IsolationForest(n_estimators=5, random_state=0).fit(WINE), WINE)


@pytest.mark.parametrize("measure", ["nats", 3, ["density", "auto"]])
def test_unknown_measures_are_refused(measure):
    with pytest.raises(ValueError, match="measure must be 'auto', 'density', 'probability' or a list"):
        make_evidence_scorer(measure)


def test_a_scorer_survives_cloning_and_prints():
    scorer = make_evidence_scorer("density")
    assert clone(scorer) is scorer and repr(scorer) == "make_evidence_scorer('density')"
