"""Precisions: how products in bfloat16 are rounded, that each network makes them, and all of training in float64."""

import threading
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skvae import (
    AutoencoderTransformer,
    ELSARecommender,
    GANGenerator,
    MultDAERecommender,
    MultVAERecommender,
    RecVAERecommender,
    VAETransformer,
)
from skvae._tensors import Noise, Rows, _products, keep_gradient, multiplying_by, products, products_of
from skvae.datasets import make_interactions
from skvae.engines import gradient
from skvae.likelihoods import multinomial
from skvae.model_selection import StackedGridSearchCV
from skvae.networks import init_mlp, network
from skvae.tables import weights

CLICKS = make_interactions(80, 30, random_state=0)
TABLE = np.random.default_rng(0).normal(size=(80, 4)) @ np.random.default_rng(1).normal(size=(4, 6))
EVERY_NETWORK = {
    "MultVAERecommender": (MultVAERecommender(4, max_iter=3, random_state=0), CLICKS),
    "hidden layers": (MultVAERecommender(4, hidden_layer_sizes=(8,), max_iter=3, random_state=0), CLICKS),
    "bernoulli": (MultVAERecommender(4, likelihood="bernoulli", max_iter=3, random_state=0), CLICKS > 0),
    "MultDAERecommender": (MultDAERecommender(4, max_iter=3, random_state=0), CLICKS),
    "ELSARecommender": (ELSARecommender(4, learning_rate=0.01, max_iter=3, random_state=0), CLICKS),
    "VAETransformer": (VAETransformer(2, max_iter=3, early_stopping=False, random_state=0), TABLE),
    "of several draws": (VAETransformer(2, n_draws=2, max_iter=3, early_stopping=False, random_state=0), TABLE),
    "in copies": (VAETransformer(2, likelihood="bernoulli", max_iter=8, random_state=0), (TABLE > 0).astype(float)),
    "own module": (
        VAETransformer(2, decoder=torch.nn.Linear, max_iter=3, early_stopping=False, random_state=0),
        TABLE,
    ),
    "AutoencoderTransformer": (AutoencoderTransformer(2, max_iter=3, early_stopping=False, random_state=0), TABLE),
}


@pytest.fixture(autouse=True)
def _bfloat16_anywhere(monkeypatch):
    """On a processor without such instructions torch computes the same, slowly."""
    monkeypatch.setattr(_products, "multiplies_bfloat16", lambda device: True)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rounded(tensor):
    return tensor.bfloat16().double()


@pytest.mark.parametrize("stack", [(), (3,)])
def test_factors_and_results_are_rounded_to_bfloat16_and_totals_are_not(stack):
    own, h, weight, bias = products_of("bfloat16"), draw(*stack[:0], 5, 7), draw(*stack, 7, 300), draw(*stack, 300)
    h = h if not stack else h[None]
    exact = rounded(h) @ rounded(weight)
    near = {"rtol": 2**-8, "atol": 2**-8 * float(exact.abs().max()), "check_dtype": False}
    times = own.times(h, weight)
    torch.testing.assert_close(times, exact, **near)
    torch.testing.assert_close(own.affine(h, weight, bias), times + bias.unsqueeze(-2), rtol=1e-6, atol=1e-6)
    total = 1000 + draw(*stack, 5, 300)
    expected = total + times  # in float32: terms of 1 would be lost in a bfloat16 total of 1,000
    own.add_to(total, h, weight)
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-4)
    for each in (own, products_of("float32")):
        written = torch.full_like(total, torch.nan)  # what was there does not matter
        each.add_to(written, h, weight, adds=False)
        torch.testing.assert_close(written, each.times(h, weight), rtol=1e-6, atol=1e-6)
    assert {own.times(h, weight).dtype, total.dtype} == {torch.float32}


def test_a_weight_is_copied_once_a_step():
    own, weight = products_of("bfloat16"), draw(3, 3)
    with multiplying_by(own):
        first = own.weight(weight)
        assert own.weight(weight) is first
    weight.mul_(2)
    with multiplying_by(own):
        torch.testing.assert_close(own.weight(weight), weight.bfloat16(), rtol=0, atol=0)


def test_only_the_thread_of_a_step_and_only_during_it():
    plain, seen = products(), []
    with pytest.raises(ZeroDivisionError), multiplying_by(products_of("bfloat16")):
        thread = threading.Thread(target=lambda: seen.append(products()))
        thread.start()
        thread.join()
        assert products() is not plain
        raise ZeroDivisionError
    assert products() is plain and seen == [plain]


def test_gradients_by_hand_are_those_of_autograd_to_rounding():
    """Both in bfloat16: the one node of a network whose gradients are kept, and torch's own nodes."""
    params, h = init_mlp("net", (6, 50, 4), Noise(0)), draw(9, 6)
    gradients = []
    for keeps in (True, False):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
        if keeps:
            for leaf in leaves.values():
                keep_gradient(leaf, torch.zeros_like(leaf))
        with multiplying_by(products_of("bfloat16")):
            network(leaves, "net", h, range(2), torch.tanh).square().sum().backward()
        gradients.append([leaf.grad for leaf in leaves.values()])
    for a, b in zip(*gradients, strict=True):
        assert (a - b).norm() < 0.01 * b.norm()


@pytest.mark.parametrize("blocks", [False, True])
def test_multinomial_gradients_are_near_those_of_float32(blocks, monkeypatch):
    if blocks:
        cut = [slice(0, 11), slice(11, 30)]
        monkeypatch.setattr(multinomial, "column_blocks", lambda *shape_and_device: cut)
    x = Rows(CLICKS, torch.device("cpu")).batch(np.arange(80))
    inputs = [draw(80, 5).requires_grad_(), draw(5, 30).requires_grad_(), draw(30).requires_grad_()]
    found = {}
    for precision in ("float32", "bfloat16"):
        with multiplying_by(products_of(precision)):
            value = multinomial.Multinomial().log_prob_of_linear(x, *inputs)
            found[precision] = [value, *torch.autograd.grad(value.sum(), inputs)]
    for a, b in zip(*found.values(), strict=True):
        assert a.dtype == b.dtype == torch.float32 and 0 < (a - b).norm() < 0.02 * a.norm()


@pytest.mark.parametrize("name", EVERY_NETWORK)
def test_every_network_multiplies_in_bfloat16_and_keeps_float32(name):
    estimator, X = EVERY_NETWORK[name]
    wide = clone(estimator).fit(X)
    low, again = (clone(estimator).set_params(precision="bfloat16").fit(X) for _ in range(2))
    assert (wide.precision_, low.precision_) == ("float32", "bfloat16")
    for key, value in low.parameters_.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, again.parameters_[key])
    np.testing.assert_allclose(low.lower_bounds_, wide.lower_bounds_, rtol=0.02)
    assert (low.lower_bounds_ != wide.lower_bounds_).all()
    np.testing.assert_allclose(low.transform(X), wide.transform(X), atol=0.1)


IN_FLOAT64 = EVERY_NETWORK | {
    "RecVAERecommender": (RecVAERecommender(4, hidden_size=20, n_layers=2, max_iter=2, random_state=0), CLICKS),
    "GANGenerator": (GANGenerator(max_iter=2, random_state=0), TABLE),
    "with gaps": (VAETransformer(2, max_iter=2, random_state=0), np.where(TABLE < -2, np.nan, TABLE)),
    "of several layers": (VAETransformer((2, 1), max_iter=2, early_stopping=False, random_state=0), TABLE),
    "salt and pepper": (AutoencoderTransformer(2, denoising="salt_and_pepper", max_iter=2, random_state=0), TABLE),
}


@pytest.mark.parametrize("name", IN_FLOAT64)
def test_every_network_trains_in_float64_with_the_draws_of_float32(name):
    estimator, X = IN_FLOAT64[name]
    single, double = (clone(estimator).set_params(precision=precision).fit(X) for precision in ("float32", "float64"))
    assert (single.precision_, double.precision_) == ("float32", "float64")
    for key, value in double.parameters_.items():
        assert value.dtype == np.float64
        np.testing.assert_allclose(single.parameters_[key], value, atol=1e-4)
    np.testing.assert_allclose(single.lower_bounds_, double.lower_bounds_, rtol=1e-5)
    assert {a.dtype for key, a in double._optimizer_state.items() if a.ndim} <= {np.dtype(np.float64)}
    double.set_params(warm_start=True).fit(X)
    assert {value.dtype for value in double.parameters_.values()} == {np.dtype(np.float64)}


def test_sums_in_another_order_agree_to_the_rounding_of_float64(monkeypatch):
    monkeypatch.setattr(weights, "_FEW_CELLS", 0)  # the rows of small fits are sorted
    estimator = AutoencoderTransformer(2, max_iter=5, early_stopping=False, batch_size=len(TABLE), random_state=0)
    order, apart = Noise(3).permutation(len(TABLE)), {}
    for precision, dtype in (("float32", np.float32), ("float64", np.float32), ("float64", np.float64)):
        X = TABLE.astype(dtype)
        one, other = (clone(estimator).set_params(precision=precision).fit(rows) for rows in (X, X[order]))
        apart[precision] = max(abs(other.parameters_[key] - value).max() for key, value in one.parameters_.items())
        assert precision == "float32" or apart[precision] < 1e-12
    assert apart["float32"] > 1e-9


def test_prediction_does_not_depend_on_the_precision():
    fitted = MultVAERecommender(4, max_iter=3, precision="bfloat16", random_state=0).fit(CLICKS)
    X = CLICKS.astype(np.float64)
    scores = fitted.decision_function(X)
    np.testing.assert_array_equal(fitted.set_params(precision="float32").decision_function(X), scores)


def test_without_instructions_for_it_bfloat16_is_refused_in_words(monkeypatch):
    monkeypatch.setattr(_products, "multiplies_bfloat16", lambda device: False)
    estimator = MultVAERecommender(4, max_iter=2, random_state=0)
    expected = clone(estimator).fit(CLICKS).lower_bounds_
    with pytest.warns(UserWarning, match="'cpu' has no instructions"):
        asked = clone(estimator).set_params(precision="bfloat16").fit(CLICKS)
    np.testing.assert_array_equal(asked.lower_bounds_, expected)
    assert asked.precision_ == "float32"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert clone(estimator).set_params(precision="auto").fit(CLICKS).precision_ == "float32"


def test_auto_takes_bfloat16_where_products_are_large(monkeypatch):
    plans = []
    monkeypatch.setattr(gradient, "ascend", lambda *args, plan, **others: plans.append(plan.precision) or 1 / 0)
    for n_items, n_components in ((30, 4), (5000, 200)):
        X = make_interactions(500, n_items, random_state=0)
        with pytest.raises(ZeroDivisionError):
            MultVAERecommender(n_components, batch_size=100, precision="auto", random_state=0).fit(X)
    assert plans == ["float32", "bfloat16"]


def test_a_search_over_the_precision_trains_them_apart():
    estimator = VAETransformer(2, max_iter=2, early_stopping=False, random_state=0)
    grid = {"precision": ["float32", "bfloat16"]}
    search = StackedGridSearchCV(estimator, grid, cv=2).fit(TABLE)
    one, other = search.cv_results_["split0_test_score"]
    assert one != other and abs(one - other) < 0.05 * abs(one)
