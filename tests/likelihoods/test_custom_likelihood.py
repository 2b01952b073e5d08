"""Likelihoods of the user's own: they keep the contract, and `VAETransformer` takes them as it takes a name."""

import copy
import inspect
import pickle
import textwrap
from pathlib import Path

import numpy as np
import pytest
from contract import N_COLUMNS, Contract, by_cell
from exponential import Exponential, bounded
from pytest import approx
from scipy import stats
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skvae import VAETransformer
from skvae.likelihoods import Gaussian, Likelihood, Multinomial, Poisson
from skvae.model_selection import StackedGridSearchCV
from skvae.tables.column_likelihoods import likelihood_signature

N = 80


class TestExponential(Contract):
    likelihood = Exponential()
    impossible = (0.0, -1.0)
    reference = staticmethod(by_cell(lambda x, f, own: stats.expon.logpdf(x, scale=np.exp(-f))))

    def draw(self, rng, n_rows):
        return rng.exponential([0.2, 1.0, 3.0, 20.0, 0.7], (n_rows, N_COLUMNS))


class Erlang(Exponential):
    """The same law under a parameter that it does not use."""

    def __init__(self, shape=1):
        self.shape = shape


class Forgetful(Exponential):
    def __init__(self, shape):
        self.kept = shape


class Laplace(Likelihood):
    """Scaled columns with one spread for all: only what a likelihood must have."""

    scaling = "each"

    def log_prob(self, x, f, own=None):
        return -x.over_cells((x.value - f).abs())

    def log_base(self, x):
        return -np.log(2) * x.n_observed()

    def mean(self, f, own=None):
        return f

    def sample(self, f, own, noise, row):
        u = noise.uniform(row, f.shape[-1], f.dtype) - 0.5
        return f - u.sign() * (1 - 2 * u.abs()).log()

    def init_bias(self, mean, share):
        return mean.clone()


def waits(n=N, seed=0):
    """Waiting times whose rates share a factor."""
    rng = np.random.default_rng(seed)
    return rng.exponential(np.exp(rng.normal(size=(n, 1)) @ [[1.0, -0.7, 0.5, 1.2]]))


def small(**settings):
    chosen = {"hidden_layer_sizes": (4,), "max_iter": 5, "early_stopping": False, "random_state": 0}
    return VAETransformer(1, **chosen | settings)


@pytest.fixture(scope="module")
def fitted():
    return small(likelihood=Exponential(), max_iter=60).fit(waits())


def test_the_page_shows_the_tested_example():
    page = (Path(__file__).parents[2] / "doc" / "developer" / "add_a_likelihood.rst").read_text()
    for shown in (Exponential, bounded):
        assert textwrap.indent(inspect.getsource(shown), "   ", lambda line: line.strip()) in page


# ------------------------------------------------------------------------------------------------------- as a parameter
@pytest.mark.parametrize(("own", "name"), [(Poisson(), "poisson"), (Multinomial(), "multinomial")])
def test_an_object_does_what_its_name_does(own, name):
    X = np.random.default_rng(0).poisson(3.0, (N, 3)).astype(float)
    by_object, by_name = small(likelihood=own).fit(X), small(likelihood=name).fit(X)
    for method in ("transform", "score_samples", "impute"):
        np.testing.assert_array_equal(getattr(by_object, method)(X), getattr(by_name, method)(X))
    np.testing.assert_array_equal(by_object.sample(5, random_state=0), by_name.sample(5, random_state=0))


@pytest.mark.parametrize("noise", ["diag", "isotropic", 0.5])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_gaussian_object_brings_its_own_noise(noise, early_stopping):
    """With early stopping it starts from factor analysis, and is exactly that where no network is kept."""
    X = np.random.default_rng(0).normal(size=(N, 1)) @ np.ones((1, 4)) + np.random.default_rng(1).normal(size=(N, 4))
    X[::9, 1] = np.nan
    by_object = small(likelihood=Gaussian(noise), early_stopping=early_stopping).fit(X)
    by_name = small(noise=noise, early_stopping=early_stopping).fit(X)
    assert by_object.nonlinear_ == by_name.nonlinear_
    np.testing.assert_array_equal(by_object.noise_variance_, by_name.noise_variance_)
    np.testing.assert_array_equal(by_object.score_samples(X), by_name.score_samples(X))


def test_an_object_reads_writes_and_draws(fitted):
    X = waits(30, seed=1)
    gaps = X.copy()
    gaps[::3, 0] = np.nan
    filled, drawn = fitted.impute(gaps), fitted.sample(500, random_state=0)
    np.testing.assert_array_equal(filled[~np.isnan(gaps)], X[~np.isnan(gaps)])
    assert (filled > 0).all() and (drawn > 0).all() and np.isfinite(fitted.transform(gaps)).all()
    assert (fitted.elbo(X) <= fitted.score_samples(X, n_draws=500) + 0.2).all()
    bare = small(likelihood=Exponential(), beta=1e3, max_iter=200, learning_rate=0.01).fit(waits())  # z says nothing
    expected = stats.expon.logpdf(X, scale=waits().mean(0)).sum(1)
    np.testing.assert_allclose(bare.score_samples(X), expected, atol=1.5)
    assert bare.score(X) == approx(expected.mean(), abs=0.2)


def test_a_list_mixes_objects_and_names():
    X = np.column_stack([waits(), np.random.default_rng(0).normal(5, 2, (N, 2))])
    listed = [(Exponential(), [0, 1]), ("gaussian", slice(4, 6)), (Laplace(), [3]), (Exponential(), [2])]
    model = small(likelihood=listed).fit(X)
    assert np.isfinite(model.score_samples(X)).all() and model.sample(4)[:, :3].min() > 0
    assert np.isnan(model.noise_variance_).tolist() == [True] * 4 + [False] * 2
    grouped = small(likelihood=[(Exponential(), [0, 1, 2]), ("gaussian", [4, 5]), (Laplace(), [3])]).fit(X)
    np.testing.assert_array_equal(model.score_samples(X), grouped.score_samples(X))


def test_scaled_columns_are_scored_in_the_units_of_the_data(monkeypatch):
    monkeypatch.setattr("skvae.tables.weights._FEW_CELLS", 0)  # small fits sort rows by content, which scaling changes
    X = waits()
    one, other = (small(likelihood=Laplace()).fit(factor * X) for factor in (1.0, 1024.0))
    np.testing.assert_allclose(other.elbo(1024 * X), one.elbo(X) - 4 * np.log(1024), rtol=1e-5)
    moved = other.score(1024 * X) - one.score(X)  # by draws that the content of a row seeds
    assert moved == pytest.approx(-4 * np.log(1024), abs=0.05)
    still = np.column_stack([X, np.full(N, 3.0)])
    assert (small(likelihood=Laplace()).fit(still).sample(3)[:, 4] == 3).all()


def test_copies_searches_and_pickles(fitted):
    X = waits()
    model = small(likelihood=[(Exponential(), [0, 1]), (Erlang(2), [2, 3])])
    again = clone(model)
    assert again.get_params()["likelihood"][1][0] is not model.likelihood[1][0]
    assert again.get_params()["likelihood"][1][0].shape == 2
    np.testing.assert_array_equal(again.fit(X).score_samples(X), model.fit(X).score_samples(X))
    for other in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):
        np.testing.assert_array_equal(other.score_samples(X), fitted.score_samples(X))
    grid = {"likelihood": ["gaussian", Exponential()], "n_components": [1, 2]}
    scores = []
    for search in (GridSearchCV, StackedGridSearchCV):
        found = search(small(max_iter=80), grid, cv=2, error_score="raise").fit(X)
        assert isinstance(found.best_params_["likelihood"], Exponential)
        scores.append(found.cv_results_["mean_test_score"])
    np.testing.assert_allclose(*scores, rtol=1e-3, atol=1e-3)


def test_no_object_is_kept_in_the_fitted_state(fitted):
    state = {name: value for name, value in vars(fitted).items() if name not in fitted.get_params()}
    assert b"Exponential" in pickle.dumps(state)  # its signature
    assert pickle.dumps(state).count(b"cexponential") == 0

    def walk(value):
        assert not isinstance(value, Likelihood | type)
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
            walk(part)

    walk(state)


def test_passes_go_on_with_an_equal_object():
    X = waits()
    model = small(likelihood=Exponential(), warm_start=True).fit(X)
    model.set_params(likelihood=Exponential()).fit(X).partial_fit(X)
    assert model.n_iter_ == 11


# -------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize("other", ["gaussian", Erlang(), [("gaussian", [0, 1]), (Laplace(), [2, 3])]], ids=str)
@pytest.mark.parametrize("method", ["fit", "partial_fit", "transform", "score", "impute", "sample"])
def test_another_object_is_refused(other, method):
    X = waits()
    model = small(likelihood=Exponential(), warm_start=True).fit(X)
    before = model.score(X)
    model.set_params(likelihood=other)
    with pytest.raises(ValueError, match=r"was fitted with the likelihood .*Exponential\(\) and cannot go on with"):
        model.sample() if method == "sample" else getattr(model, method)(X)
    assert model.set_params(likelihood=Exponential()).score(X) == before


def test_an_object_in_place_of_a_name_is_refused_only_where_the_fit_goes_on():
    X = waits()
    model = small(warm_start=True).fit(X)
    before = model.score(X)
    assert model.set_params(likelihood=Exponential()).score(X) == before
    with pytest.raises(ValueError, match="was fitted with .*'gaussian'.* and cannot go on with .*Exponential"):
        model.fit(X)


class Bare:
    """A likelihood that was begun."""

    def log_prob(self, x, f, own=None): ...

    def mean(self, f, own=None): ...


@pytest.mark.parametrize(
    ("likelihood", "error", "message"),
    [
        (Exponential, ValueError, r"It is a class; give an object of it, Exponential\(\)"),
        (Bare(), ValueError, "Bare has no method init_bias, log_base, sample, and does not inherit from skvae.likel"),
        (stats.expon, ValueError, "VAETransformer knows no likelihood <scipy"),
        (3, ValueError, "VAETransformer knows no likelihood 3; choose among 'gaussian'"),
        ([(Bare(), [0, 1, 2, 3])], ValueError, "Bare has no method"),
        (Forgetful(2), TypeError, "takes 'shape' but has no attribute of that name"),
    ],
)
def test_what_is_no_likelihood_is_told_what_it_lacks(likelihood, error, message):
    with pytest.raises(error, match=message):
        small(likelihood=likelihood).fit(waits())


def test_an_abstract_method_that_is_missing_is_named_by_python():
    class Half(Exponential):
        sample = Likelihood.sample

    with pytest.raises(TypeError, match="abstract.*sample"):
        Half()


def test_cells_outside_the_domain_are_named_at_fit_and_at_predict(fitted):
    X = waits()
    X[3, 2] = 0
    words = r"with likelihood 'Exponential' expects positive numbers, but X\[3, 2\] = 0; shift it, or give this column"
    for call in (small(likelihood=Exponential()).fit, fitted.transform):
        with pytest.raises(ValueError, match=words):
            call(X)


# ---------------------------------------------------------------------------------------------------------- signatures
def test_signatures_tell_objects_apart_by_class_and_parameters():
    assert Erlang(2).signature() == Erlang(np.int64(2)).signature() == "test_custom_likelihood.Erlang(shape=2)"
    assert len({Erlang().signature(), Erlang(2).signature(), Exponential().signature()}) == 3
    arrays = [Gaussian(np.full(500, 0.5)), Gaussian(np.full(500, 0.6)), Gaussian(np.full(500, 0.5))]
    first, second, third = (each.signature() for each in arrays)
    assert first == third != second and len(first) < 100
    assert len(Erlang("a" * 1000).signature()) < 100


def test_the_signature_of_a_parameter_is_plain():
    listed = [("poisson", np.array([0, 1])), (Exponential(), slice(2, None)), (Erlang(), "name"), ("gaussian", 5)]
    assert likelihood_signature(listed) == [
        ("poisson", [0, 1]),
        ("exponential.Exponential()", "slice(2, None, None)"),
        ("test_custom_likelihood.Erlang(shape=1)", "name"),
        ("gaussian", 5),
    ]
    assert likelihood_signature("auto") == "auto"
