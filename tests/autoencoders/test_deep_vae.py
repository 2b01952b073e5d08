"""Several layers of latent variables: the model against exact answers, its start, and the estimator around it."""

import math
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx
from scipy.stats import multivariate_normal
from sklearn.datasets import load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from test_vae import noise, rows_of

from skvae import VAETransformer
from skvae._tensors import Noise, keep_gradient, kept
from skvae.likelihoods import Gaussian
from skvae.model_selection import StackedGridSearchCV
from skvae.models.autoencoders.deep_vae import DeepVAE
from skvae.models.autoencoders.vae_evaluation import balanced_draws, draws_of_rows, log_evidence

WINE = load_wine().data
N, D = 10, 5
SHORT = {"early_stopping": False, "max_iter": 3, "random_state": 0}


def deep_model(layer_sizes, spread=0.3, hidden=(7,), **settings):
    """A model whose parameters are random, in float64 with an axis of members, and rows of no meaning."""
    model = DeepVAE(D, layer_sizes, D, hidden, torch.tanh, Gaussian(), **settings)
    statistics = SimpleNamespace(**dict.fromkeys(("mean", "variance", "share"), torch.ones(D, dtype=torch.float64)))
    generator = torch.Generator().manual_seed(0)
    params = {
        name: (tensor + spread * torch.randn(tensor.shape, generator=generator)).double()[None]
        for name, tensor in model.init(Noise(0), statistics).items()
    }
    return model, params, rows_of(torch.randn(N, D, generator=generator, dtype=torch.float64))


# ------------------------------------------------------------------------------------------ the model and its posterior
@pytest.mark.parametrize("layer_sizes", [(3, 2), (2, 4), (3, 2, 2)])
def test_gradients_by_hand_are_those_of_autograd(layer_sizes):
    model, params, batch = deep_model(layer_sizes)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    by_autograd = model.bound(leaves, batch, noise())
    by_autograd.descend(0.7, batch.w)
    for tensor in params.values():
        tensor.requires_grad_()
        keep_gradient(tensor, torch.zeros_like(tensor))
    by_hand = model.bound(params, batch, noise())
    by_hand.descend(0.7, batch.w)
    assert by_hand.by_hand is not None and by_autograd.by_hand is None
    assert_allclose(by_hand.kl, by_autograd.kl.detach(), atol=1e-12)
    assert_allclose(by_hand.log_prob, by_autograd.log_prob.detach(), atol=1e-12)
    for name, tensor in params.items():
        assert_allclose(kept(tensor).gradient, leaves[name].grad.reshape(kept(tensor).gradient.shape), atol=1e-12)


@pytest.mark.parametrize("layer_sizes", [(1, 1), (1, 1, 1)])
def test_the_evidence_is_the_integral_over_all_layers(layer_sizes):
    """Importance weights by the posterior, and a grid over xi; a KL term that is the mean of log q - log p."""
    model, params, batch = deep_model(layer_sizes)
    K = len(layer_sizes)
    grid, step = np.linspace(-5, 5, 101 if K == 2 else 34, retstep=True)
    xi = torch.from_numpy(np.stack(np.meshgrid(*[grid] * K), -1).reshape(-1, K))
    with torch.no_grad():
        at_grid = model.log_prob(params, batch.x, xi[None, :, None].expand(1, -1, N, -1))[0]
        log_prior = -0.5 * (xi.square() + math.log(2 * math.pi)).sum(-1)[:, None]
        exact = (at_grid + log_prior).logsumexp(0) + K * math.log(step)
        epsilon = Noise(1).normal(torch.arange(20_000), K, torch.float64)[None, :, None]
        weights = model.log_weights(params, batch, epsilon)[0]
        z, q = model.draw(params, model.encode(params, batch), epsilon.expand(1, -1, N, -1))
        assert_allclose(torch.stack([*model.at(params, model.encode(params, batch), z)]), torch.stack([*q]), atol=1e-12)
        ratio = model.log_prob(params, batch.x, z)[0] - weights
    draws = draws_of_rows(torch.arange(N), 4000, K, torch.float64)
    assert_allclose(log_evidence(model, params, batch, draws), exact + model.likelihood.log_base(batch.x)[0], atol=0.03)
    by_draws, error = ratio.mean(0), 4.5 * ratio.std(0) / len(ratio) ** 0.5
    kl = 0.5 * (q.mean.square() + q.log_variance.exp() - 1 - q.log_variance)
    assert ((kl.sum(-1).mean(1)[0] - by_draws).abs() < error + 1e-9).all()


@pytest.mark.parametrize("layer_sizes", [(2, 1), (2, 3), (3, 2, 1)])
def test_the_start_is_factor_analysis_whose_bound_is_tight_though_no_layer_is_idle(layer_sizes):
    model, params, batch = deep_model(layer_sizes, spread=0.0)
    rng = np.random.default_rng(0)
    k = layer_sizes[0]
    psi = torch.from_numpy(0.3 + rng.random(D))
    basis, _ = np.linalg.qr(rng.normal(size=(D, k)))
    W = torch.from_numpy((basis * [2.0, 1.2, 0.8][:k]).T) * psi.sqrt()
    mu = torch.from_numpy(rng.normal(size=D))
    precision = 1 + (W / psi * W).sum(1)
    x = batch.x.value[0]
    heads = torch.cat([((x - mu) / psi) @ W.mT / precision, -precision.log().expand(N, -1)], 1)
    params = {name: tensor[0] for name, tensor in params.items()}
    for name in ("encoder.1", "decoder.1"):
        params |= {f"{name}.{part}": torch.zeros_like(params[f"{name}.{part}"]) for part in ("weight", "bias")}
    params |= {"decoder.1.bias": mu, "decoder.skip.weight": W, "likelihood.noise": (psi - 1e-3).log()}
    params["encoder.skip.weight"] = torch.zeros(D, sum(layer_sizes), dtype=torch.float64)
    exact = multivariate_normal(mu, W.mT @ W + psi.diag()).logpdf(x)
    heads = model.heads_of_factors(heads)[None]
    for start, is_idle in ((model.with_factors(params, W, mu, psi), False), (model.without_upper_layers(params), True)):
        start = {name: tensor[None] for name, tensor in start.items()}
        q = model.encode(start, batch._replace(linear_heads=heads))
        epsilon = balanced_draws(sum(layer_sizes), 64, torch.float64)
        z, q = model.draw(start, q, epsilon)
        kl = 0.5 * (q.mean.square() + q.log_variance.exp() - 1 - q.log_variance).mean(1)[0]
        bound = model.log_prob(start, batch.x, z).mean(1)[0] - kl.sum(-1) + model.likelihood.log_base(batch.x)[0]
        assert_allclose(bound, exact, atol=1e-6)
        assert bool((kl[:, k:].mean(0).sum() < 1e-6) == is_idle)


# -------------------------------------------------------------------------------------------------------- the estimator
def two_levels(n_rows, seed):
    """Rows of two levels: one variable moves three factors along a curve, and each factor has noise of its own."""
    rng = np.random.default_rng(seed)
    loadings, t = np.random.default_rng(100).normal(size=(3, 12)), rng.normal(size=n_rows)
    curve = 1.5 * np.stack([np.sin(2 * t), np.sign(t) * np.cos(2 * t), 0.7 * t], 1)
    factors = curve + 0.3 * rng.normal(size=(n_rows, 3))
    return factors @ loadings + 0.3 * rng.normal(size=(n_rows, 12))


ONE_OF_TWO_LEVELS = {"hidden_layer_sizes": (32,), "early_stopping": False, "max_iter": 60, "random_state": 0}


@pytest.fixture(scope="module")
def deep():
    return VAETransformer((3, 2), **ONE_OF_TWO_LEVELS).fit(two_levels(1500, 0))


def test_on_rows_of_two_levels_two_layers_beat_one_of_any_size(deep):
    X, new = two_levels(1500, 0), two_levels(400, 1)
    score, bound = deep.score_samples(new), deep.elbo(new)
    assert (deep.n_active_per_layer_ == [3, 2]).all()
    for k in (3, 5):
        one = VAETransformer(k, **ONE_OF_TWO_LEVELS).fit(X)
        for gain in (score - one.score_samples(new), bound - one.elbo(new)):
            assert gain.mean() > 3 * gain.std() / math.sqrt(len(gain))


@pytest.mark.parametrize("one_layer", [(2,), [2], np.array([2])])
def test_one_layer_is_the_plain_vae_to_the_last_bit(one_layer):
    X = load_iris().data
    plain = VAETransformer(2, max_iter=3, random_state=0).fit(X)
    other = VAETransformer(one_layer, beta=[1.0], output_layer=-1, max_iter=3, random_state=0).fit(X)
    for name, array in plain.parameters_.items():
        assert_array_equal(other.parameters_[name], array)
    assert_array_equal(other.transform(X), plain.transform(X))
    assert_array_equal(other.elbo(X), plain.elbo(X))
    assert other.n_active_per_layer_.tolist() == [plain.n_active_]


@pytest.mark.parametrize("n_components", [(2, 1), (2, 3, 1)])
def test_where_factor_analysis_is_kept_it_is_that_of_the_first_layer(n_components):
    X = WINE[:40]
    with pytest.warns(ConvergenceWarning, match=r"factor analysis of n_components\[0\]=2 factors"):
        deep = VAETransformer(n_components, random_state=0).fit(X)
    one = VAETransformer(2, random_state=0).fit(X)
    assert not deep.nonlinear_ and not one.nonlinear_
    assert_allclose(deep.score_samples(X), one.score_samples(X), atol=1e-9)
    assert_allclose(deep.elbo(X), deep.score_samples(X), atol=1e-6)
    assert_allclose(deep.score_samples(X, n_draws=2000), deep.score_samples(X), atol=0.05)
    assert deep.n_active_per_layer_.tolist() == [2] + [0] * (len(n_components) - 1)
    assert deep.kl_per_dimension_.shape == (sum(n_components),)
    assert deep.kl_per_dimension_[2:] == approx(0, abs=1e-8)
    assert_allclose(deep.transform(X), one.transform(X), atol=1e-6)
    assert_allclose(deep.reconstruct(X), one.reconstruct(X), rtol=1e-6)


@pytest.fixture(scope="module")
def wine_model():
    return VAETransformer((4, 3, 2), early_stopping=False, max_iter=30, random_state=0).fit(WINE)


def test_layers_are_returned_by_their_place_in_n_components(wine_model):
    each = {}
    for layer, size in ((0, 4), (1, 3), (2, 2), (-1, 2), ("all", 9)):
        wine_model.set_params(output_layer=layer)
        each[layer] = mean, std = wine_model.posterior(WINE)
        assert mean.shape == std.shape == (178, size) and (std > 0).all()
        assert_array_equal(wine_model.transform(WINE), mean)
        assert len(wine_model.get_feature_names_out()) == size
        assert wine_model.reconstruct(WINE).shape == WINE.shape
        assert wine_model.transform(pd.DataFrame(WINE).to_numpy()[:1]).shape == (1, size)
    assert_array_equal(np.hstack([each[layer][0] for layer in range(3)]), each["all"][0])
    assert_array_equal(each[-1][0], each[2][0])
    errors = [wine_model.set_params(output_layer=layer).reconstruct(WINE) - WINE for layer in (0, 2, "all")]
    errors = [np.mean((error / WINE.std(0)) ** 2) for error in errors]
    assert errors[0] < errors[1] < 1.05  # what is above the first layer says less of x
    assert errors[2] == approx(errors[0])
    for wrong in (3, -4):
        with pytest.raises(ValueError, match="output_layer=.*from -3 to 2"):
            wine_model.set_params(output_layer=wrong).transform(WINE)
    wine_model.set_params(output_layer=0)


def test_a_layer_that_says_nothing_is_named():
    with pytest.warns(ConvergenceWarning, match=r"n_components\[1\]=2 have collapsed"):
        deep = VAETransformer((3, 2), beta=(0.5, 50), early_stopping=False, max_iter=60, random_state=0).fit(WINE)
    assert deep.n_active_per_layer_.tolist() == [3, 0] and deep.n_active_ == 3
    assert deep.kl_per_dimension_[3:] == approx(0, abs=0.01) and (deep.kl_per_dimension_[:3] > 0.5).all()


@pytest.mark.parametrize("early_stopping", [True, False])
def test_beta_of_each_layer_is_that_of_all_where_they_agree(early_stopping):
    settings = SHORT | {"early_stopping": early_stopping}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        both, one = (VAETransformer((2, 1), beta=beta, **settings).fit(WINE) for beta in ([2, 2.0], 2))
        other = VAETransformer((2, 1), beta=(2, 1), free_bits=0.1, **settings).fit(WINE)
    for name, array in one.parameters_.items():
        assert_array_equal(both.parameters_[name], array)
    assert np.isfinite(other.score(WINE))


def test_free_bits_and_weights_of_layers_are_their_formula():
    model, params, batch = deep_model((2, 1), kl_weights=(2.0, 3.0), free_bits=0.4)
    bound = model.bound(params, batch, noise())
    cost = bound.kl[0].mean(0).clamp(min=0.4) @ torch.tensor([2.0, 2.0, 3.0], dtype=torch.float64)
    assert_allclose(bound.value(0.5)[0].mean(), bound.log_prob.mean() - 0.5 * cost)
    model.free_bits = 0.0
    bound = model.bound(params, batch, noise())
    cost = bound.kl[0] @ torch.tensor([2.0, 2.0, 3.0], dtype=torch.float64)
    assert_allclose(bound.value(0.5)[0], bound.log_prob[0] - 0.5 * cost)


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "iwae", "n_draws": 3},
        {"n_draws": 2, "free_bits": 0.1},
        {"hidden_layer_sizes": ()},
        {"annealing": "linear"},
        {"noise": "isotropic", "early_stopping": True},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_option_of_one_layer_is_one_of_several(settings):
    X = WINE[::3]
    deep, again = (VAETransformer((3, 2), **SHORT | settings).fit(X) for _ in range(2))
    assert (deep.elbo(X[:9]) < deep.score_samples(X[:9], n_draws=400) + 0.2).all()
    assert_array_equal(again.transform(X[:1]), deep.transform(X[:1]))


def test_rows_may_have_posteriors_of_their_own(wine_model):
    some = WINE[::30]
    assert (wine_model.elbo(some, inference="svi") > wine_model.elbo(some) - 0.2).all()
    deep = VAETransformer((3, 2), inference="svi", max_iter=3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert np.isfinite(deep.fit(WINE[::4]).kl_per_dimension_).all()


def test_missing_cells_are_left_out_and_imputed(deep):
    X = two_levels(60, 1)
    holes = np.where(np.random.default_rng(0).random(X.shape) < 0.15, np.nan, X)
    hidden, filled = np.isnan(holes), deep.impute(holes)
    assert_array_equal(filled[~hidden], holes[~hidden])
    assert ((filled - X)[hidden] ** 2).mean() < 0.2 * X[hidden].var()
    assert (deep.elbo(holes) < deep.score_samples(holes, n_draws=400) + 0.2).all()
    nothing = np.full((1, 12), np.nan)
    assert deep.score_samples(nothing, n_draws=2000) == approx(0, abs=0.1)
    assert deep.elbo(nothing) == approx(0, abs=1e-3)  # Laplace's approximation is then the prior
    _, std = deep.posterior(nothing)
    assert_allclose(std[0], deep.transform(deep.sample(400, random_state=0)).std(0), rtol=0.4)
    again = VAETransformer((3, 2), **ONE_OF_TWO_LEVELS | {"max_iter": 2}).fit(holes)
    assert np.isfinite(again.score(holes)) and not np.isnan(again.impute(holes)).any()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fits_go_on_and_tables_may_be_mixed():
    rng = np.random.default_rng(0)
    t = rng.normal(size=120)
    table = pd.DataFrame({"size": t + rng.normal(size=120), "kind": np.where(t > 0, "a", "b"), "seen": t > -0.5})
    deep = VAETransformer((2, 1), likelihood="auto", **SHORT | {"max_iter": 60}).fit(table)
    score = deep.score(table)
    assert list(deep.sample(5, random_state=0).columns) == list(table.columns)
    assert deep.impute(table.mask(table == "a")).isna().sum().sum() == 0
    for _ in range(20):
        deep.partial_fit(table)
    assert deep.score(table) > score and deep.n_iter_ == 80
    deep.set_params(warm_start=True, max_iter=2).fit(table)
    with pytest.raises(ValueError, match="cannot go on with .*n_components"):
        deep.set_params(n_components=(2, 2)).fit(table)


@pytest.mark.filterwarnings("ignore:.* no layer above the first")
@pytest.mark.parametrize("hidden", [(8,), ()])
def test_layers_that_factor_analysis_left_idle_take_part_when_the_fit_goes_on(hidden):
    X = two_levels(45, 0)
    deep = VAETransformer((3, 2), hidden_layer_sizes=hidden, random_state=0).fit(X)
    before = deep.score(X)
    assert deep.n_active_per_layer_.tolist() == [3, 0]
    deep.partial_fit(X)
    assert deep.n_active_per_layer_.tolist() == [3, 2]
    assert deep.score(X) == approx(before, abs=0.5)


def layer(n_in, n_out):
    return torch.nn.Linear(n_in, n_out)


def test_modules_of_ones_own_read_and_give_what_the_layers_need():
    asked = []

    def encoder(n_in, n_out):
        asked.append((n_in, n_out))
        return layer(n_in, n_out)

    deep = VAETransformer((3, 2), encoder=encoder, decoder=layer, **SHORT).fit(WINE)
    assert asked[0] == (13, 10) and deep.parameters_["decoder.weight"].shape[-1] == 3
    assert np.isfinite(deep.score(WINE))


def test_a_search_chooses_among_numbers_of_layers():
    grid = {"n_components": [2, (2, 1), (3, 1)], "beta": [0.5, 1]}
    one_by_one, stacked = (
        search(VAETransformer(**SHORT), grid, cv=2, error_score="raise").fit(WINE)
        for search in (GridSearchCV, StackedGridSearchCV)
    )
    for key in ("mean_test_score", "std_test_score"):
        assert_allclose(stacked.cv_results_[key], one_by_one.cv_results_[key], atol=1e-3)
    assert stacked.best_params_ == one_by_one.best_params_


@pytest.mark.parametrize(
    "wrong", [(), [], (0,), (2, 0), (2, -1), (True, 2), (2, 1.5), "ab", ("2", 1), {2, 1}, {2: 1}, 0, ((2, 1),), None]
)
def test_what_is_no_size_of_layers_is_refused(wrong):
    with pytest.raises(ValueError, match="n_components"):
        VAETransformer(wrong, max_iter=1).fit(WINE)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"beta": (1, 2, 3)}, "beta must be one finite number >= 0, or one for each of the 2"),
        ({"beta": (1, -2)}, "beta must be"),
        ({"beta": (1, np.inf)}, "beta must be"),
        ({"beta": ("1", 2)}, "beta must be"),
        ({"beta": {1: 2, 3: 4}}, "beta must be"),
        ({"beta": (1, 2), "objective": "iwae"}, "objective='iwae'"),
        ({"output_layer": 2}, "output_layer=2 is not a layer"),
        ({"output_layer": "top"}, "output_layer"),
    ],
)
def test_what_contradicts_the_layers_is_refused_and_nothing_is_fitted(settings, match):
    deep = VAETransformer((2, 1), max_iter=1).set_params(**settings)
    with pytest.raises(ValueError, match=match):
        deep.fit(WINE)
    assert not hasattr(deep, "parameters_")
