"""On another device than the CPU: the same results, no tensor of the wrong device, and few waits for it.

The device is a pretended one (`pretend_accelerator`), whose arithmetic is that of the CPU. So results are equal to the
last digit, except where a device is given other operations: those cases state a tolerance. How many waits are counted
is a slope, those of a fit of 2 n iterations less those of n, over n: what a fit costs once does not enter.
"""

import contextlib
import functools
import inspect
import pickle
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from pretend_accelerator import MixedError, accelerator
from sklearn.base import BaseEstimator, clone
from sklearn.callback import ScoringMonitor

import skvae
from skvae import (
    AutoencoderTransformer,
    BernoulliMixtureEM,
    EASERecommender,
    ELSARecommender,
    FactorAnalysisEM,
    GANGenerator,
    GaussianMixtureEM,
    KMeansLite,
    LOCARecommender,
    MultDAERecommender,
    MultVAERecommender,
    ProbabilisticPCA,
    RecVAERecommender,
    VAETransformer,
    VariationalFactorAnalysis,
    VariationalGaussianMixture,
    VotingRecommender,
    _reduce,
)
from skvae._tensors import Noise, Rows, Split, SplitRows, WholeRows, cholesky, keep_gradient
from skvae.engines import checkpoints
from skvae.likelihoods import Bernoulli, Multinomial, WeightedGaussian
from skvae.model_selection import StackedGridSearchCV
from skvae.models.recommenders.elsa import ELSA
from skvae.models.recommenders.mult_dae import MultDAE
from skvae.models.recommenders.mult_vae import MultVAE
from skvae.models.recommenders.rec_vae import RecVAE

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:The bound or its gradient"),
]

PUBLIC = [getattr(skvae, name) for name in skvae.__all__]
ESTIMATORS = [found for found in PUBLIC if inspect.isclass(found) and issubclass(found, BaseEstimator)]


# ----------------------------------------------------------------------------------------------------------------- data
def _with_gaps(X, seed=1):
    return np.where(np.random.default_rng(seed).random(X.shape) < 0.15, np.nan, X)


def _curve(n=60, seed=0):
    rng = np.random.default_rng(seed)
    t = rng.uniform(-2, 2, size=(n, 1))
    return np.hstack([t, t**2, np.sin(3 * t), rng.normal(size=(n, 1))]) + 0.1 * rng.normal(size=(n, 4))


RNG = np.random.default_rng(0)
REAL = _curve()
WIDE = RNG.normal(size=(50, 30))
BINARY = (RNG.random((60, 5)) < [0.3, 0.5, 0.2, 0.6, 0.4]).astype(float)
LEVELS = np.column_stack([RNG.integers(0, n, size=60) for n in (3, 2, 3, 4)]).astype(float)
COUNTS = RNG.poisson([1.0, 4.0, 2.0, 9.0], size=(60, 4)).astype(float)
KINDS = np.column_stack([REAL[:, :2], BINARY[:, :1], LEVELS[:, [0, 3, 1, 2]], COUNTS[:, :2]])
OF_KINDS = [
    ("gaussian", [0, 1]),
    ("bernoulli", [2]),
    ("categorical", [3, 4, 5, 6]),
    ("poisson", [7]),
    ("negative_binomial", [8]),
]
CLICKS = sp.csr_array((RNG.random((60, 20)) < 0.3) * RNG.integers(1, 4, size=(60, 20)).astype(float))
ONES = sp.csr_array((CLICKS.toarray() > 0).astype(float))
SPARSE = sp.csr_array(sp.random(60, 12, density=0.3, random_state=0))
FRAME = pd.DataFrame({"size": REAL[:, 0], "colour": pd.Categorical(np.array(list("abc"))[LEVELS[:, 0].astype(int)])})
WEIGHT = RNG.integers(1, 4, size=60).astype(float)


def small_module(n_in, n_out):
    return torch.nn.Sequential(
        torch.nn.Linear(n_in, 5), torch.nn.LayerNorm(5), torch.nn.GELU(), torch.nn.Linear(5, n_out)
    )


# ---------------------------------------------------------------------------------------------------------------- cases
class Case(NamedTuple):
    """One fit.

    Attributes
    ----------
    estimator : Estimator
    X : array-like
    rtol : float
        0: equal to the last digit.
    """

    estimator: object
    X: object
    rtol: float = 0.0


def vae(**settings):
    defaults = {"n_components": 2, "hidden_layer_sizes": (6,), "batch_size": 25, "max_iter": 3, "random_state": 0}
    return VAETransformer(**defaults | settings)


def autoencoder(**settings):
    defaults = {"hidden_layer_sizes": (6,), "batch_size": 25, "max_iter": 3, "random_state": 0}
    return AutoencoderTransformer(2, **defaults | settings)


def gan(**settings):
    defaults = {"hidden_layer_sizes": (6,), "batch_size": 25, "max_iter": 3, "random_state": 0}
    return GANGenerator(2, **defaults | settings)


def recommender(**settings):
    return MultVAERecommender(3, **{"batch_size": 25, "max_iter": 3, "random_state": 0} | settings)


def gaussian(**settings):
    return GaussianMixtureEM(3, **{"max_iter": 6, "random_state": 0} | settings)


def variational(**settings):
    return VariationalGaussianMixture(3, **{"max_iter": 6, "random_state": 0} | settings)


def bernoulli(**settings):
    return BernoulliMixtureEM(3, **{"max_iter": 6, "n_init": 1, "random_state": 0} | settings)


# A device gets its sums over rows in other orders: of whole tables at once, by index_add, with rows of no share.
IN_ANOTHER_ORDER = 1e-9
IN_ANOTHER_ORDER_FLOAT32 = 1e-5

CASES = {
    "kmeans": Case(KMeansLite(4, random_state=0), REAL, IN_ANOTHER_ORDER),
    "kmeans, float32": Case(KMeansLite(4, random_state=0), REAL.astype(np.float32), IN_ANOTHER_ORDER_FLOAT32),
    "kmeans, sparse": Case(KMeansLite(4, random_state=0), SPARSE, IN_ANOTHER_ORDER),
    "kmeans, random starts": Case(KMeansLite(4, init="random", n_init=2, random_state=0), REAL, IN_ANOTHER_ORDER),
    "kmeans, k-means||": Case(KMeansLite(4, init="k-means||", random_state=0), REAL, IN_ANOTHER_ORDER),
    "kmeans, given centres": Case(KMeansLite(3, init=REAL[:3], n_init=1), REAL, IN_ANOTHER_ORDER),
    "kmeans, empty clusters": Case(
        KMeansLite(4, init=np.vstack([REAL[:2], REAL[:2] + 99]), n_init=1), REAL, IN_ANOTHER_ORDER
    ),
    "kmeans, few distinct rows": Case(KMeansLite(5, random_state=0), np.repeat(REAL[:3], 20, 0), IN_ANOTHER_ORDER),
    "gaussian mixture": Case(gaussian(), REAL, IN_ANOTHER_ORDER),
    "gaussian mixture, float32": Case(gaussian(), REAL.astype(np.float32), IN_ANOTHER_ORDER),
    "gaussian mixture, tied": Case(gaussian(covariance_type="tied"), REAL, IN_ANOTHER_ORDER),
    "gaussian mixture, diag": Case(gaussian(covariance_type="diag"), REAL, IN_ANOTHER_ORDER),
    "gaussian mixture, spherical": Case(gaussian(covariance_type="spherical"), REAL, IN_ANOTHER_ORDER),
    "gaussian mixture, missing": Case(gaussian(), _with_gaps(REAL), IN_ANOTHER_ORDER),
    "gaussian mixture, tied and missing": Case(gaussian(covariance_type="tied"), _with_gaps(REAL), IN_ANOTHER_ORDER),
    "gaussian mixture, diag and missing": Case(gaussian(covariance_type="diag"), _with_gaps(REAL), IN_ANOTHER_ORDER),
    "gaussian mixture, wide": Case(gaussian(reg_covar=0.1), WIDE, IN_ANOTHER_ORDER),
    "gaussian mixture, wide and tied": Case(gaussian(covariance_type="tied", reg_covar=0.1), WIDE, IN_ANOTHER_ORDER),
    "gaussian mixture, far": Case(
        gaussian(covariance_type="diag"), REAL + [0, 0, 0, 1e6] * (REAL > 0), IN_ANOTHER_ORDER
    ),
    "gaussian mixture, accelerated": Case(gaussian(acceleration="squarem"), REAL, IN_ANOTHER_ORDER),
    "gaussian mixture, accelerated and tied": Case(
        gaussian(acceleration="squarem", covariance_type="tied"), REAL, IN_ANOTHER_ORDER
    ),
    "gaussian mixture, random start": Case(gaussian(init_params="random", n_init=2), REAL, IN_ANOTHER_ORDER),
    "gaussian mixture, start from data": Case(gaussian(init_params="random_from_data"), REAL, IN_ANOTHER_ORDER),
    "gaussian mixture, given start": Case(
        gaussian(weights_init=[0.2, 0.3, 0.5], means_init=REAL[:3], precisions_init=[np.eye(4)] * 3),
        REAL,
        IN_ANOTHER_ORDER,
    ),
    "gaussian mixture, batches": Case(gaussian(batch_size=20), REAL, IN_ANOTHER_ORDER),
    "variational mixture": Case(variational(), REAL, IN_ANOTHER_ORDER),
    "variational mixture, tied, Dirichlet, missing": Case(
        variational(covariance_type="tied", weight_concentration_prior_type="dirichlet_distribution"),
        _with_gaps(REAL),
        IN_ANOTHER_ORDER,
    ),
    "variational mixture, diag and missing": Case(
        variational(covariance_type="diag"), _with_gaps(REAL), IN_ANOTHER_ORDER
    ),
    "variational mixture, wide, accelerated": Case(variational(acceleration="squarem"), WIDE, IN_ANOTHER_ORDER),
    "bernoulli mixture": Case(bernoulli(), BINARY, IN_ANOTHER_ORDER),
    "bernoulli mixture, missing": Case(bernoulli(), _with_gaps(BINARY), IN_ANOTHER_ORDER),
    "bernoulli mixture, levels": Case(bernoulli(categorical_features="all"), LEVELS, IN_ANOTHER_ORDER),
    "bernoulli mixture, levels and missing": Case(
        bernoulli(categorical_features="all"), _with_gaps(LEVELS), IN_ANOTHER_ORDER
    ),
    "bernoulli mixture, accelerated": Case(bernoulli(acceleration="squarem"), BINARY, IN_ANOTHER_ORDER),
    "bernoulli mixture, random start": Case(bernoulli(init_params="random"), LEVELS, IN_ANOTHER_ORDER),
    "factor analysis": Case(FactorAnalysisEM(2, random_state=0), WIDE, IN_ANOTHER_ORDER),
    "factor analysis, missing": Case(FactorAnalysisEM(1, random_state=0), _with_gaps(REAL), IN_ANOTHER_ORDER),
    "factor analysis, few rows": Case(FactorAnalysisEM(2, random_state=0), WIDE[:20], IN_ANOTHER_ORDER),
    "factor analysis, rotated": Case(FactorAnalysisEM(2, rotation="promax", random_state=0), WIDE, IN_ANOTHER_ORDER),
    "factor analysis, bartlett": Case(
        FactorAnalysisEM(2, score_method="bartlett", random_state=0), WIDE, IN_ANOTHER_ORDER
    ),
    "factor analysis, given noise": Case(
        FactorAnalysisEM(1, noise_variance_init=[1, 2, 3, 4.0]), REAL, IN_ANOTHER_ORDER
    ),
    "ppca": Case(ProbabilisticPCA(2, random_state=0), WIDE, IN_ANOTHER_ORDER),
    "ppca, missing": Case(ProbabilisticPCA(1, random_state=0), _with_gaps(REAL), IN_ANOTHER_ORDER),
    "variational factor analysis": Case(VariationalFactorAnalysis(3), WIDE, IN_ANOTHER_ORDER),
    "variational factor analysis, few rows": Case(VariationalFactorAnalysis(2), WIDE[:20], IN_ANOTHER_ORDER),
    "ppca, few rows": Case(ProbabilisticPCA(2, random_state=0), WIDE[:20], IN_ANOTHER_ORDER),
    "vae": Case(vae(), REAL),
    "vae, missing": Case(vae(), _with_gaps(REAL)),
    "vae, to the end": Case(vae(early_stopping=False), REAL),
    "vae, float32": Case(vae(early_stopping=False), REAL.astype(np.float32)),
    "vae, to the end and missing": Case(vae(early_stopping=False), _with_gaps(REAL)),
    "vae, isotropic": Case(vae(noise="isotropic"), REAL),
    "vae, fixed noise": Case(vae(noise=0.5), REAL),
    "vae, linear": Case(vae(hidden_layer_sizes=()), REAL),
    "vae, linear, to the end": Case(vae(hidden_layer_sizes=(), early_stopping=False), REAL),
    "vae, importance-weighted": Case(vae(objective="iwae", n_draws=2, early_stopping=False), REAL),
    "vae, several draws": Case(vae(n_draws=2, early_stopping=False), REAL),
    "vae, free bits": Case(vae(free_bits=0.1, early_stopping=False), REAL),
    "vae, two layers": Case(vae(n_components=(2, 1), max_iter=12), _with_gaps(REAL)),
    "vae, two layers, weighed": Case(vae(n_components=(2, 2), beta=(1, 2), n_draws=2, early_stopping=False), REAL),
    "vae, svi": Case(vae(inference="svi"), REAL[:30]),
    "vae, svi and missing": Case(vae(inference="svi"), _with_gaps(REAL[:30])),
    "vae, annealed": Case(
        vae(annealing="cyclical", weight_decay=0.1, activation="silu", learning_rate_schedule="cosine"), COUNTS
    ),
    "vae, modules": Case(vae(encoder=small_module, decoder=small_module), REAL),
    "vae, frame": Case(vae(likelihood="auto"), FRAME),
    **{
        f"vae, {name}{', missing' * gaps}": Case(vae(likelihood=likelihood), _with_gaps(X) if gaps else X)
        for name, likelihood, X in (
            ("bernoulli", "bernoulli", BINARY),
            ("categorical", "categorical", LEVELS),
            ("poisson", "poisson", COUNTS),
            ("negative binomial", "negative_binomial", COUNTS),
            ("multinomial", "multinomial", COUNTS),
            ("mixed", OF_KINDS, KINDS),
        )
        for gaps in (False, True)
    },
    "gan": Case(gan(n_discriminator_steps=2, gradient_penalty=0.1), REAL),
    "gan, mixed, stopped early": Case(gan(early_stopping=True, optimizer="momentum"), FRAME),
    "autoencoder": Case(autoencoder(), REAL),
    "autoencoder, missing": Case(autoencoder(), _with_gaps(REAL)),
    "autoencoder, random start": Case(autoencoder(init="random"), REAL),
    "autoencoder, linear": Case(autoencoder(hidden_layer_sizes=()), REAL),
    "autoencoder, stopped early": Case(autoencoder(early_stopping=True), _with_gaps(REAL)),
    "autoencoder, sparse": Case(autoencoder(sparsity=(0.1, 0.1)), REAL),
    "autoencoder, modules": Case(autoencoder(encoder=small_module, decoder=small_module), REAL),
    **{
        f"autoencoder, {kind}": Case(autoencoder(denoising=kind), _with_gaps(REAL))
        for kind in ("gaussian", "masking", "salt_and_pepper")
    },
    "recommender": Case(recommender(), CLICKS),
    "recommender, bernoulli": Case(recommender(likelihood="bernoulli"), ONES),
    "recommender, gaussian": Case(recommender(likelihood="gaussian"), CLICKS),
    "recommender, stopped early": Case(recommender(early_stopping=True), CLICKS),
    "recommender, linear": Case(recommender(hidden_layer_sizes=()), CLICKS),
    "recommender, deep": Case(recommender(hidden_layer_sizes=(6, 4), annealing="linear"), CLICKS),
    "recommender, float32": Case(recommender(), CLICKS.astype(np.float32)),
    "recommender, denoising": Case(MultDAERecommender(3, batch_size=25, max_iter=3, random_state=0), CLICKS),
    "recommender, deep encoder": Case(
        RecVAERecommender(3, hidden_size=6, n_layers=3, batch_size=25, max_iter=3, random_state=0), CLICKS
    ),
    "recommender, low rank": Case(ELSARecommender(3, batch_size=25, max_iter=3, random_state=0), CLICKS),
    "ease": Case(EASERecommender(), CLICKS, IN_ANOTHER_ORDER),
    "voting": Case(VotingRecommender([("vae", recommender()), ("ease", EASERecommender(20))]), CLICKS),
    "local models": Case(
        LOCARecommender(recommender(), embedding=recommender(), n_anchors=3, bandwidth=1.0, random_state=0),
        CLICKS,
    ),
}

NETWORKS = [name for name in CASES if name.startswith(("vae", "autoencoder", "recommender"))]
KINDS_OF_FITS = {  # one of each family for what does not depend on the options
    name: CASES[name]
    for name in (
        "kmeans",
        "gaussian mixture",
        "bernoulli mixture, levels",
        "factor analysis",
        "ppca",
        "vae",
        "vae, poisson",
        "autoencoder",
        "recommender",
    )
}

# Arguments of the methods that take others than X.
ARGUMENTS = {
    "sample": lambda model, X: {"n_samples": 4, "random_state": 0},
    "inverse_transform": lambda model, X: {"X": model.transform(X)},
    "condition": lambda model, X: {"given": [0], "X": np.nan_to_num(X[:, :1])},
    "get_covariance": lambda model, X: {},
    "get_precision": lambda model, X: {},
    "chi_square": lambda model, X: {},
    "get_params": lambda model, X: {"deep": False},
    "set_params": lambda model, X: {},
    "similar_items": lambda model, X: {"items": [0, 2]},
    "explain": lambda model, X: {"X": X[:4], "items": 1},
    "similar_users": lambda model, X: {"X": X[:4], "candidates": X[4:20]},  # no two of which are equal
}
MORE_ARGUMENTS = [
    ("recommend", {"k": 3, "items": [1, 2, 3, 5], "filter_items": [2]}),
    ("recommend", {"exclude_seen": False}),
    ("elbo", {"inference": "svi"}),
    ("score_samples", {"n_draws": 3}),
    ("impute", {"n_draws": 3}),
    ("impute", {"strategy": "mean"}),
    ("score", {"sample_weight": WEIGHT}),
]
FITTING = {"fit", "partial_fit", "fit_predict", "fit_transform", "fit_covariance"}


def public_methods(kind):
    """Names of the methods that the package itself defines."""
    names = [name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))]
    return [name for name in names if getattr(kind, name).__module__.startswith("skvae.")]


def answers(model, X):
    """What all public methods say of X."""
    said = {}
    for name in public_methods(type(model)):
        if name in FITTING or not hasattr(model, name):
            continue
        arguments = ARGUMENTS.get(name, lambda model, X: {"X": X})(model, X)
        try:
            said[name] = getattr(model, name)(**arguments)
        except ValueError as refusal:  # such as that of chi_square where cells are missing
            said[name] = str(refusal)
    for number, (name, arguments) in enumerate(MORE_ARGUMENTS):
        method = getattr(model, name, None)
        if method is not None and set(arguments) <= set(inspect.signature(method).parameters):
            weighs = len(arguments.get("sample_weight", ())) not in (0, X.shape[0])
            if not weighs:
                said[f"{name}, {number}"] = method(X, **arguments)
    if hasattr(model, "_evidence_terms"):  # of `evidence_decomposition`, whose gaps are differences of these
        said["evidence"] = model._evidence_terms(X, n_draws=32)
    return said


def state(model):
    """What a fit left, but for the name of the device."""
    given = model.get_params(deep=False)
    return {name: value for name, value in vars(model).items() if name not in given and name != "device_"}


def assert_same(one, other, rtol=0.0, where="result"):
    """Equal, or with arrays whose numbers differ by no more than `rtol` of the largest of them."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        raise AssertionError(f"{where} is a tensor")
    if sp.issparse(one):
        one, other = one.toarray(), other.toarray()
    if isinstance(one, BaseEstimator):  # a member of a meta-estimator
        one, other = state(one), state(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            assert_same(one[name], other[name], rtol, f"{where}[{name!r}]")
    elif isinstance(one, pd.DataFrame):
        assert_same(one.to_dict("list"), other.to_dict("list"), rtol, where)
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, rtol, f"{where}[{number}]")
    elif isinstance(one, (np.ndarray, np.generic, float)) and np.asarray(one).dtype.kind == "f":
        left, right = np.asarray(one), np.asarray(other)
        assert left.shape == right.shape and left.dtype == right.dtype, where
        finite = np.abs(left[np.isfinite(left)])
        np.testing.assert_allclose(right, left, rtol=0, atol=rtol * finite.max(initial=0.0), err_msg=where)
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other, where)
    elif hasattr(one, "__dict__") and type(one).__module__.startswith("skvae."):
        assert_same(vars(one), vars(other), rtol, where)
    elif not callable(one):
        assert one == other, where


def on(estimator, device):
    names = [name for name in estimator.get_params() if name == "device" or name.endswith("__device")]
    return clone(estimator).set_params(**dict.fromkeys(names, device))


def fitted_and_asked(estimator, X, **fit):
    """What a fit leaves and what it answers."""
    model = clone(estimator).fit(X, **fit)
    return state(model), answers(model, X)


# -------------------------------------------------------------------------------------------------------- same results
@pytest.fixture(autouse=True)
def _few_steps_a_row(monkeypatch):
    monkeypatch.setattr("skvae.training.ascent._SVI_STEPS", 3)  # of `elbo(inference="svi")`


def both(function, estimator, rtol=0.0, kind="cuda"):
    """Assert that the function of an estimator says the same on the CPU and on the device; returns what happened."""
    expected = function(on(estimator, "cpu"))
    with accelerator(kind) as device:
        found = function(on(estimator, kind))
    assert device.operations  # it was not the CPU that computed
    assert_same(expected, found, rtol)
    return device


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_the_cpu(name):
    estimator, X, rtol = CASES[name]

    def fitted(model):
        model.fit(X)
        return state(model), answers(model, X)

    both(fitted, estimator, rtol)


def test_every_estimator_has_a_case():
    on_devices = {kind for kind in ESTIMATORS if kind.__name__ != "PopularityRecommender"}  # which counts, by NumPy
    assert {type(case.estimator) for case in CASES.values()} == on_devices


@pytest.mark.parametrize("name", [name for name in KINDS_OF_FITS if name != "recommender"])
def test_weighted_results_are_those_of_the_cpu(name):
    estimator, X, rtol = KINDS_OF_FITS[name]
    weight = np.resize(WEIGHT, len(X))
    both(lambda model: state(model.fit(X, sample_weight=weight)), estimator, rtol)


@pytest.mark.parametrize("name", KINDS_OF_FITS)
def test_partial_fits_are_those_of_the_cpu(name):
    estimator, X, rtol = KINDS_OF_FITS[name]
    half = X.shape[0] // 2

    def in_parts(model):
        afresh = clone(model).partial_fit(X[:half]).partial_fit(X[half:])
        return state(afresh), state(model.fit(X).partial_fit(X))

    both(in_parts, estimator, rtol)


@pytest.mark.parametrize("name", [name for name in KINDS_OF_FITS if hasattr(CASES[name].estimator, "warm_start")])
def test_warm_starts_are_those_of_the_cpu(name):
    estimator, X, rtol = KINDS_OF_FITS[name]
    both(lambda model: state(model.set_params(warm_start=True).fit(X).fit(X).fit(X)), estimator, rtol)


@pytest.mark.parametrize("name", KINDS_OF_FITS)
def test_other_ways_to_fit_are_those_of_the_cpu(name):
    estimator, X, rtol = KINDS_OF_FITS[name]

    def ways(model):
        said = {}
        for way in ("fit_predict", "fit_transform"):
            if hasattr(model, way):
                said[way] = getattr(clone(model), way)(X)
        if hasattr(model, "fit_covariance"):
            said["fit_covariance"] = state(clone(model).fit_covariance(np.cov(X.T), 50))
        if "X_val" in inspect.signature(model.fit).parameters:
            others = clone(model).set_params(early_stopping=True)
            said["X_val"] = state(others.fit(X[:40], X_val=X[40:]))
        return said

    both(ways, estimator, rtol)


@pytest.mark.parametrize(
    ("estimator", "X"),
    [
        (KMeansLite(3, init="random", n_init=2, random_state=0), REAL),
        (gaussian(acceleration="squarem"), REAL),
        (autoencoder(early_stopping=True, max_iter=4), REAL),
        (recommender(max_iter=3), CLICKS),
    ],
    ids=lambda case: type(case).__name__,
)
def test_an_interrupted_fit_goes_on_as_on_the_cpu(estimator, X, tmp_path, monkeypatch):
    reached = checkpoints.Journal.reached

    def fails(journal, place, tree):
        reached(journal, place, tree)
        raise RuntimeError("for the test")

    def resumed(model):
        path = tmp_path / f"{model.device}.npz"
        interrupted = clone(model).set_params(checkpoint=skvae.Checkpoint(path, interval=0))
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="for the test"):
            patch.setattr(checkpoints.Journal, "reached", fails)
            interrupted.fit(X)
        went_on, whole = state(interrupted.fit(X)), state(model.fit(X))
        went_on.pop("_is_clone", None)
        assert_same(went_on, whole)
        return whole

    both(resumed, estimator, 1e-10)


@pytest.mark.parametrize("name", KINDS_OF_FITS)
def test_callbacks_see_what_they_see_on_the_cpu(name):
    estimator, X, rtol = KINDS_OF_FITS[name]

    def watched(model):
        monitor = ScoringMonitor(scoring={"fit": lambda estimator, X, y: estimator.score(X)})
        model.set_params(verbose=2).set_callbacks(monitor).fit(X)
        return [row["fit"] for row in monitor.get_logs().data]

    both(watched, estimator, rtol)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_a_collapsed_mixture_is_refused_as_on_the_cpu(kind, acceleration):
    X = np.repeat(REAL[:3], 5, axis=0)
    model = gaussian(covariance_type=kind, reg_covar=0.0, acceleration=acceleration)

    def refusal(model):
        with pytest.raises(ValueError, match="ill-defined") as refused:
            model.fit(X)
        return str(refused.value)

    both(refusal, model)


def test_a_matrix_without_a_cholesky_factor_has_one_of_nan_on_a_device():
    singular = torch.stack([torch.eye(2), -torch.eye(2)])
    with pytest.raises(torch.linalg.LinAlgError):
        cholesky(singular)
    with accelerator() as device:
        L = cholesky(singular.to("cuda", non_blocking=True))
        assert not device.waits
        first, second = L.cpu()
    assert torch.equal(first, torch.eye(2)) and second.isnan().all()


@pytest.mark.parametrize("name", ["vae", "vae, poisson", "vae, to the end", "autoencoder, masking"])
def test_a_stacked_search_is_that_of_the_cpu(name):
    estimator, X, rtol = CASES[name]

    def searched(model):
        grid = [{"n_components": [1], "random_state": [0, 1]}, {"learning_rate": [0.002]}]
        search = StackedGridSearchCV(model, grid, cv=2, error_score="raise").fit(X)
        return search.cv_results_["mean_test_score"], state(search.best_estimator_)

    both(searched, estimator, rtol)


@pytest.mark.parametrize("name", KINDS_OF_FITS)
def test_a_device_of_another_kind_will_do(name):
    estimator, X, rtol = KINDS_OF_FITS[name]
    both(lambda model: state(model.fit(X)), estimator, rtol, kind="xpu")


@pytest.mark.parametrize("name", KINDS_OF_FITS)
def test_what_was_fitted_on_a_device_is_loaded_and_asked_without_one(name, monkeypatch):
    estimator, X, rtol = KINDS_OF_FITS[name]
    with accelerator(), monkeypatch.context() as there:
        there.setattr(torch.cuda, "is_available", lambda: True)
        model = on(estimator, "auto").fit(X)
        assert model.device_.startswith("cuda")
        written = pickle.dumps(model)
    loaded = pickle.loads(written)
    loaded.set_params(device="cpu")
    assert_same(answers(on(estimator, "cpu").fit(X), X), answers(loaded, X), rtol)


# ---------------------------------------------------------------------------------------------------------------- waits
class Ascent(NamedTuple):
    """A fit whose iterations are counted.

    Attributes
    ----------
    estimator : Estimator
        It does not stop before `max_iter`.
    X : array-like
    n : int
        Iterations of the shorter fit.
    fit : dict
        More arguments of `fit`.
    """

    estimator: object
    X: object
    n: int = 3
    fit: dict = {}


EM = {
    "kmeans": Ascent(KMeansLite(12, init="random", n_init=1, tol=0, random_state=0), RNG.random((300, 3))),
    "kmeans, sparse": Ascent(KMeansLite(9, init="random", n_init=1, tol=0, random_state=0), SPARSE, 2),
    "factor analysis": Ascent(FactorAnalysisEM(2, tol=0), WIDE, 4),
    "factor analysis, missing": Ascent(FactorAnalysisEM(1, tol=0), _with_gaps(REAL), 4),
    "factor analysis, few rows": Ascent(FactorAnalysisEM(2, tol=0), WIDE[:20], 4),
    "ppca, missing": Ascent(ProbabilisticPCA(1, tol=0), _with_gaps(REAL), 4),
    **{
        f"gaussian mixture, {kind}{', missing' * gaps}{', accelerated' * fast}": Ascent(
            gaussian(covariance_type=kind, tol=0, acceleration="squarem" if fast else None),
            _with_gaps(REAL) if gaps else REAL,
            8,
        )
        for kind in ("full", "tied", "diag", "spherical")
        for gaps, fast in ((False, False), (True, False), (True, True))
    },
    "gaussian mixture, wide": Ascent(gaussian(reg_covar=0.1, tol=0, acceleration=None), WIDE, 2),
    "gaussian mixture, batches": Ascent(gaussian(batch_size=20, tol=0, acceleration=None), REAL),
    "bernoulli mixture": Ascent(bernoulli(tol=0, acceleration=None), BINARY),
    "bernoulli mixture, accelerated": Ascent(bernoulli(tol=0, acceleration="squarem"), _with_gaps(BINARY), 8),
    "bernoulli mixture, levels": Ascent(
        bernoulli(tol=0, acceleration=None, categorical_features="all"), _with_gaps(LEVELS)
    ),
}
PATIENT = {"early_stopping": True, "n_iter_no_change": 1000, "tol": 0.0}
MANY_BATCHES = {"batch_size": 3}  # 20 an epoch: then rows vote after each
EPOCHS = {
    "vae": Ascent(vae(early_stopping=False), REAL, 2),
    "vae, fixed noise": Ascent(vae(early_stopping=False, noise=0.5), REAL, 2),
    "vae, two layers": Ascent(vae(n_components=(2, 1), early_stopping=False), REAL, 2),
    "vae, svi": Ascent(vae(inference="svi"), REAL, 2),
    "vae, mixed": Ascent(vae(early_stopping=False, likelihood=OF_KINDS), _with_gaps(KINDS), 2),
    "vae, categorical": Ascent(vae(early_stopping=False, likelihood="categorical"), LEVELS, 2),
    "vae, voted": Ascent(vae(likelihood="poisson", **MANY_BATCHES, **PATIENT), COUNTS, 2),
    "vae, voted by others": Ascent(
        vae(likelihood="poisson", **MANY_BATCHES, **PATIENT), COUNTS, 2, {"X_val": COUNTS[:20]}
    ),
    "gan": Ascent(gan(gradient_penalty=0.1), FRAME, 2),
    "autoencoder": Ascent(autoencoder(), REAL, 2),
    "autoencoder, denoising": Ascent(autoencoder(denoising="masking"), REAL, 2),
    "autoencoder, stopped early": Ascent(autoencoder(**MANY_BATCHES, **PATIENT), _with_gaps(REAL), 2),
    "recommender": Ascent(recommender(), CLICKS, 2),
    "recommender, bernoulli": Ascent(recommender(likelihood="bernoulli"), ONES, 2),
    "recommender, gaussian": Ascent(recommender(likelihood="gaussian"), CLICKS, 2),
    "recommender, stopped early": Ascent(recommender(early_stopping=True, n_iter_no_change=1000), CLICKS, 2),
}


def slope(run, n):
    """By how much each count grows from run(n) to run(2 n), over n: a pair of dicts by place, waits and uploads."""
    counts = []
    for n_iter in (n, 2 * n):
        with accelerator() as device:
            run(n_iter)
        counts.append((device.waits, device.uploads))
    return [
        {place: (more[place] - less[place]) / n for place in more if more[place] != less[place]}
        for less, more in zip(*counts, strict=True)
    ]


@functools.cache
def slope_of(name):
    estimator, X, n, fit = EM.get(name) or EPOCHS[name]

    def run(n_iter):
        model = on(estimator, "cuda").set_params(max_iter=n_iter).fit(X, **fit)
        assert model.n_iter_ == n_iter

    return slope(run, n)


def assert_few(waits, limit):
    assert sum(waits.values()) <= limit, "\n".join(f"{n:6.2f} {place}" for place, n in waits.items())


@pytest.mark.parametrize("name", EM)
def test_an_em_iteration_waits_three_times_at_most(name):
    waits, uploads = slope_of(name)
    assert_few(waits, 3)
    assert_few(uploads, 0)


@pytest.mark.parametrize("name", EPOCHS)
def test_an_epoch_waits_twice_at_most(name):
    waits, _ = slope_of(name)
    assert_few(waits, 2)


@pytest.mark.parametrize("name", EPOCHS)
def test_an_epoch_needs_no_copy_that_waits(name):
    _, uploads = slope_of(name)
    assert_few(uploads, 0)


def test_an_epoch_of_a_recommender_waits_twice_however_many_blocks_of_users_vote(monkeypatch):
    monkeypatch.setattr("skvae._tensors._block_sizes._BLOCK_CELLS", 2 * CLICKS.shape[1])  # two users each
    waits, uploads = slope_of.__wrapped__("recommender, stopped early")
    assert_few(waits, 2)
    assert_few(uploads, 0)


@pytest.mark.parametrize("name", ["vae", "vae, voted"])
def test_an_epoch_of_a_stacked_search_waits_twice_at_most(name):
    estimator, X, n, _ = EPOCHS[name]
    grid = {"n_components": [1, 2], "random_state": [0, 1]}

    def run(n_iter):
        model = on(estimator, "cuda").set_params(max_iter=n_iter)
        StackedGridSearchCV(model, grid, cv=2, refit=False, scoring=lambda model, X, y=None: 0.0).fit(X)

    waits, uploads = slope(run, n)
    assert_few(waits, 2)
    assert_few(uploads, 0)


def test_rows_that_matter_are_picked_where_that_is_worth_a_wait(monkeypatch):
    monkeypatch.setattr("skvae.models.mixtures.distances._WORTH_A_WAIT", 0)
    estimator, X, rtol = CASES["gaussian mixture, wide"]
    device = both(lambda model: state(model.fit(X)), estimator, rtol)
    assert any(what == "nonzero" for what, _ in device.waits)


# ----------------------------------------------------------------------------------------------- the pretended device
def _index_put(x, index, values):
    x[index] = values


REFUSED = {
    "sum with rows of the CPU": lambda x: x + torch.ones(3),
    "product with a matrix of the CPU": lambda x: x @ torch.ones(3, 2),
    "product with a number of the CPU": lambda x: torch.mm(x, torch.tensor(2.0)),
    "join with rows of the CPU": lambda x: torch.cat([x, torch.ones(1, 3)]),
    "row of the CPU put into the device": lambda x: _index_put(x, torch.tensor([0]).to(x.device), torch.ones(1, 3)),
    "values of the CPU put under a mask": lambda x: _index_put(x, x > 0, torch.ones(9)),
    "index of the device into the CPU": lambda x: torch.ones(3)[torch.zeros(1, dtype=torch.int64, device=x.device)],
    "place of the device in the CPU": lambda x: _index_put(torch.ones(3), x[0] > 0, 0.0),
    "result into the CPU": lambda x: torch.mul(x, x, out=torch.ones(3, 3)),
    "index_select by the CPU": lambda x: x.index_select(0, torch.tensor([0])),
    "gradient of the CPU": lambda x: x.requires_grad_().sum(0).backward(torch.ones(3)),
}
ALLOWED = {
    "sum with a number of the CPU": lambda x: x + torch.tensor(2.0),
    "number": lambda x: x * 2 + np.float64(1),
    "number put under a mask": lambda x: _index_put(x, x > 0, 1.0),
    "number put into a row": lambda x: _index_put(x, 0, 1.0),
    "choice between a number and a tensor": lambda x: torch.where(x > 0, 0, x),
    "repeat_interleave with its size": lambda x: torch.arange(3, device=x.device).repeat_interleave(
        torch.tensor([1, 2, 3]).to(x.device, non_blocking=True), output_size=6
    ),
    "cholesky_ex": lambda x: torch.linalg.cholesky_ex(x @ x.mT),
    "qr": torch.linalg.qr,
    "one_hot": lambda x: torch.nn.functional.one_hot((x[0] > 9).long(), 2),
    "copy that does not block": lambda x: torch.ones(2).to(x.device, non_blocking=True),
}
WAITS = {
    "item": (lambda x: x.sum().item(), 1),
    "float": (lambda x: float(x.sum()), 1),
    "int": (lambda x: int(x.sum()), 1),
    "bool": (lambda x: bool((x > 0).any()), 1),
    "if": (lambda x: 1 if (x > 0).all() else 0, 1),
    "number as index": (lambda x: np.arange(9)[torch.ones((), dtype=torch.int64, device=x.device)], 1),
    "cpu": (lambda x: x.cpu(), 1),
    "to the CPU": (lambda x: x.to("cpu"), 1),
    "to the CPU, like another": (lambda x: x.to(torch.ones(1)), 1),
    "copy into the CPU": (lambda x: torch.ones(3, 3).copy_(x), 1),
    "part of the CPU": (lambda x: _index_put(torch.ones(4, 3), slice(0, 3), x), 1),
    "tolist": (lambda x: x.tolist(), 1),
    "nonzero": (lambda x: x.nonzero(), 1),
    "where": (lambda x: torch.where(x > 0), 1),
    "mask as index": (lambda x: x[x > 0], 1),
    "tensor put under a mask": (lambda x: _index_put(x, x > 0, x.sum()), 1),
    "masked_select": (lambda x: x.masked_select(x > 0), 1),
    "unique": (lambda x: x.unique(), 1),
    "unique_consecutive": (lambda x: x[0].unique_consecutive(), 1),
    "bincount": (lambda x: (x[0] > 0).long().bincount(), 2),
    "repeat_interleave": (lambda x: x[0].repeat_interleave((x[0] > 0).long()), 2),
    "equal": (lambda x: torch.equal(x, x), 1),
    "allclose": (lambda x: torch.allclose(x, x), 1),
    "cholesky": (lambda x: torch.linalg.cholesky(x @ x.mT), 1),
    "inv": (torch.linalg.inv, 1),
    "solve": (lambda x: torch.linalg.solve(x, x), 1),
    "eigh": (torch.linalg.eigh, 1),
    "svd": (torch.linalg.svd, 1),
    "pinv": (lambda x: torch.linalg.pinv(x @ x.mT, hermitian=True), 1),
    "lstsq": (lambda x: torch.linalg.lstsq(x, x), 1),
    "segment_reduce": (
        lambda x: torch.segment_reduce(x[0], "sum", lengths=torch.full((1,), 3, device=x.device)),
        1,
    ),
}
UPLOADS = {
    "to": lambda x: torch.ones(2).to(x.device),
    "to another's device": lambda x: torch.ones(2).to(x),
    "tensor": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "as_tensor": lambda x: torch.as_tensor(np.ones(2), device=x.device),
    "new_tensor": lambda x: x.new_tensor([1.0]),
    "index of the CPU": lambda x: x[torch.tensor([0, 1])],
    "list as index": lambda x: x[[0, 1]],
    "part from the CPU": lambda x: _index_put(x, slice(0, 1), torch.ones(1, 3)),
}


def regular():
    """A matrix on the device with an inverse."""
    return torch.tensor([[4.0, 1.0, 0.5], [1.0, 3.0, -2.0], [0.0, 0.5, 2.0]]).to("cuda", non_blocking=True)


@pytest.mark.parametrize("name", REFUSED)
def test_a_device_refuses(name):
    with accelerator(), pytest.raises((MixedError, RuntimeError), match="device|cpu"):
        REFUSED[name](regular())


@pytest.mark.parametrize("name", ALLOWED)
def test_a_device_does_without_waiting(name):
    with accelerator() as device:
        ALLOWED[name](regular())
    assert not device.waits and not device.uploads


@pytest.mark.parametrize("name", WAITS)
def test_a_wait_is_counted(name):
    function, n = WAITS[name]
    with accelerator() as device:
        function(regular())
    assert device.n_waits == n and not device.uploads


@pytest.mark.parametrize("name", UPLOADS)
def test_a_copy_that_blocks_is_counted(name):
    with accelerator() as device:
        UPLOADS[name](regular())
    assert device.n_uploads == 1 and not device.waits


def test_tensors_of_a_device_say_so_and_are_no_arrays():
    with accelerator("xpu") as device:
        x = torch.ones(2, device="xpu")
        assert x.device == device.device == torch.device("xpu:0") and not x.is_cpu and not x.is_cuda
        assert (x + 1).device.type == x.new_zeros(1).device.type == torch.zeros_like(x).device.type == "xpu"
        for convert in (x.numpy, lambda: np.asarray(x), lambda: np.exp(x)):
            with pytest.raises(TypeError, match="xpu:0"):
                convert()
        assert torch.ones(2).device.type == x.cpu().device.type == "cpu"
        assert torch.ones(2, device="meta").is_meta
    with pytest.raises(RuntimeError, match="outside"):
        x + 1


def test_operations_of_a_device_give_what_they_give_on_the_cpu():
    def results(x):
        x = x.clone()
        rows = (
            x[[2, 0]],
            x[np.array([1])],
            x[:, [True, False, True]],
            x.squeeze_(),
            x.t().mv(x[0]),
            x.new_tensor([1, 2]),
        )
        x[[0, 1]] = 5.0
        x[x > 3] = x.sum()
        x[:, 1].mul_(2)
        return [part.tolist() for part in (*rows, x, torch.where(x > 0, 0, x), x.new_full((2,), 3.0))]

    with accelerator():
        found = results(regular())
        here = regular().cpu()
    assert found == results(here)


def test_gradients_of_a_device_stay_there():
    with accelerator():
        w = torch.ones(3, 2, device="cuda", requires_grad=True)
        (regular() @ w).square().sum().backward()
        there = w.grad
        assert there.device.type == "cuda"
        here = (2 * regular().mT @ (regular() @ w)).detach()
        assert torch.equal(there, here)


class OneProcess(_reduce.Processes):
    """Processes of which there is one: what it holds is all there is, and what it sends comes back."""

    rank, size = 0, 1

    def __init__(self):
        """Join nothing."""

    def meet(self, state, tag=0):
        return True

    def _together(self, collective, tensor, *others):
        assert tensor.device.type == "cpu" and tensor.is_contiguous()


SPLIT_MODELS = {
    "multinomial": MultVAE(40, 3, (), torch.tanh, 0.3, Multinomial(), 4),
    "bernoulli": MultVAE(40, 3, (5,), torch.tanh, 0.3, Bernoulli()),
    "gaussian": MultDAE(40, 3, (), torch.tanh, 0.3, WeightedGaussian((1.0, 5.0))),
    "RecVAE": RecVAE(40, 3, 5, 2, 0.3),
    "ELSA": ELSA(40, 3, 0.3),
}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", SPLIT_MODELS)
def test_items_that_are_split_have_the_bound_and_gradients_of_whole_rows(name, device):
    model, X = SPLIT_MODELS[name], sp.csr_array(skvae.datasets.make_interactions(30, 40, random_state=0))

    def found(rows):
        params = {key: t.to(rows.device, torch.float64) for key, t in initial.items()}
        leaves = {key: t.requires_grad_() for key, t in params.items()}
        for leaf in leaves.values():
            keep_gradient(leaf, torch.zeros_like(leaf))
        old = {f"old.{key}": t.detach() for key, t in params.items()}
        batch = rows.whole()
        model.bound(leaves | old, batch, Noise(1)).descend(0.5, batch.w)
        return {key: t.grad.cpu() for key, t in leaves.items()}

    initial = model.init(Noise(0), torch.full((40,), 0.1), torch.full((40,), 0.1))
    wanted = found(Rows(X, torch.device("cpu"), torch.float64))
    with accelerator() if device == "cuda" else contextlib.nullcontext():
        split = Split(OneProcess(), 40)
        rows = SplitRows(X, split, WholeRows.of(X, torch.float64), torch.device(device), torch.float64)
        gradients = found(rows)
    for key, gradient in gradients.items():
        np.testing.assert_allclose(gradient, wanted[key], rtol=1e-10, atol=1e-12, err_msg=key)
