"""How held-out rows decide: observations of merged rows, disasters of the linear model, the bound that is trained."""

import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from pytest import approx
from sklearn.datasets import load_wine
from sklearn.exceptions import ConvergenceWarning

from skvae import AutoencoderTransformer, VAETransformer
from skvae._tensors import Noise
from skvae.tables.weights import observations, spread
from skvae.training import factor_analysis_start as linear
from skvae.training.rows import TableRows
from skvae.training.validation import CrossValidatedGain, LinearScore, deal_folds, mean_and_error


def table_rows(count):
    count = np.asarray(count, dtype=np.float64)
    return TableRows(None, np.arange(len(count))[:, None], None, count / count.mean(), None, count=count)


# ------------------------------------------------------------------------------------------------------- observations
@pytest.mark.parametrize("n_folds", [1, 5])
def test_observations_are_dealt_as_if_rows_had_never_been_merged(n_folds):
    count = np.array([40, 1, 2, 17, 60])
    noise = Noise(0)
    merged = deal_folds(table_rows(count), noise, n_folds, 0.1)
    apart = deal_folds(TableRows(None, np.zeros((120, 1)), None, np.ones(120), None), noise, n_folds, 0.1)
    row = np.repeat(np.arange(5), count)
    for copy in range(1, 1 + n_folds):
        fold, of_copies = merged.held_out[copy], apart.held_out[copy]
        expected = np.bincount(row[of_copies.index], minlength=5)
        np.testing.assert_array_equal(np.bincount(fold.index, fold.count, 5), expected)
        np.testing.assert_array_equal(fold.squares, fold.count)
        np.testing.assert_allclose(merged.weight[copy], (count - expected) / count.mean())
    if n_folds > 1:
        assert sum(fold.count.sum() for fold in merged.held_out) == 120


@pytest.mark.parametrize("most", [None, 50])
def test_fractional_weights_lose_nothing(most):
    weight = np.random.default_rng(0).exponential(5, 40)
    row, weight_of = observations(weight, most)
    np.testing.assert_allclose(np.bincount(row, weight_of, 40), weight)
    assert (weight_of > 0).all() and len(row) <= 40 + (most or np.inf)


def test_weights_that_sum_to_one_are_rows():
    row, weight_of = observations(np.full(7, 1 / 7))
    np.testing.assert_array_equal(row, np.arange(7))
    assert (weight_of == 1 / 7).all()


def test_heavy_rows_are_split_into_whole_observations():
    X, weight = np.arange(3)[:, None], np.array([1.0, 10.5, 600.0])
    rows, split = spread(X, weight, 128)
    np.testing.assert_allclose(np.bincount(rows[:, 0], split), weight)
    assert 100 < len(rows) <= 130 and np.sum(split % 1 > 0) == 1
    assert np.ptp(split[rows[:, 0] == 2]) <= 1
    assert len(spread(X, np.array([0.5, 1.5, 1.9]), 128)[0]) == 3


def test_the_error_is_that_of_observations():
    """Of a row with weight w it is that of w equal rows."""
    gain = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    count = torch.tensor([4.0, 3.0, 2.0], dtype=torch.float64)
    mean, error = mean_and_error(gain, count, count)
    each = np.repeat(gain.numpy(), count.numpy().astype(int))
    assert float(mean) == approx(each.mean()) and float(error) == approx(each.std() / 3)


def test_a_table_of_few_distinct_rows_is_learnt():
    """Ten rows, 30 times each: independence has -4.61 nats, the best is -2.30; it was -4.24."""
    frame = pd.DataFrame({"a": list("abcdefghij") * 30, "b": list("ABCDEFGHIJ") * 30})
    model = VAETransformer(2, likelihood="auto", max_iter=250, random_state=0).fit(frame)
    assert model.score(frame) > -2.9
    drawn = model.sample(1000, random_state=0)
    assert (drawn["a"] == drawn["b"].str.lower()).mean() > 0.5


@pytest.mark.parametrize("estimator", [VAETransformer, AutoencoderTransformer])
def test_integer_weights_are_repeats_where_rows_are_few(estimator):
    X = np.random.default_rng(0).integers(0, 2, (12, 4)) + np.eye(12, 4)
    weight = np.random.default_rng(1).integers(1, 30, 12)
    model = estimator(2, max_iter=3, random_state=0)
    weighted = model.fit(X, sample_weight=weight).transform(X)
    np.testing.assert_array_equal(weighted, model.fit(np.repeat(X, weight, axis=0)).transform(X))


# ------------------------------------------------------------------------------------------------------------ disasters
def gappy_factors():
    """Two tables of factor analysis with 80 % of the cells missing."""
    rng = np.random.default_rng(1)
    W = rng.normal(size=(3, 10))
    for _ in "ab":
        hidden = rng.random((200, 10)) < 0.8
        yield np.where(hidden, np.nan, rng.normal(size=(200, 3)) @ W + rng.normal(size=(200, 10)))


def test_disasters_of_the_linear_model_do_not_make_a_gain_uncertain():
    rng = np.random.default_rng(0)
    linear_value = torch.from_numpy(rng.normal(-5, 1, 200))
    value = linear_value + 0.5
    w = torch.ones(200, dtype=torch.float64)
    plain_mean, plain_error = mean_and_error(LinearScore.of(linear_value, w).gain(value), w, w)
    linear_value[3] = -1e6
    mean, error = mean_and_error(LinearScore.of(linear_value, w).gain(value), w, w)
    assert plain_mean == approx(0.5) and plain_error == approx(0, abs=1e-9)
    assert mean - 2 * error > 0.4


def test_a_gain_is_never_overstated():
    linear_value, value = torch.tensor([-1e6, -1e3, -5.0, -4.0]), torch.tensor([-1e7, -900.0, -6.0, -3.0])
    gain = LinearScore(linear_value, -20.0).gain(value)
    assert (gain <= value - linear_value).all() and gain.tolist() == [-9e6, 0.0, -1.0, 1.0]


def test_factor_analysis_that_is_kept_is_no_disaster_where_held_out_rows_tell(monkeypatch):
    """By itself it has -12,404 nats."""
    monkeypatch.setattr(CrossValidatedGain, "best_restart", lambda self, number: (0, False))
    X, new = gappy_factors()
    with pytest.warns(ConvergenceWarning, match="Heywood") as warned:
        model = VAETransformer(3, max_iter=1, random_state=0).fit(X)
    assert not model.nonlinear_ and model.score(new) > -6
    assert warned[0].filename == __file__


@pytest.mark.parametrize("n", [40, 80])
def test_a_heywood_case_is_told_with_the_names_of_its_columns(n):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(n, 5)), columns=list("abcde"))
    frame["twice"] = 2 * frame["b"]
    with pytest.warns(ConvergenceWarning, match="'b', 'twice'"):
        VAETransformer(1, hidden_layer_sizes=(), random_state=0).fit(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VAETransformer(1, hidden_layer_sizes=(), random_state=0).fit(frame[list("acde")])


# -------------------------------------------------------------------------------------------- the bound that is trained
@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_the_bound_of_factor_analysis_is_that_of_its_best_posterior(beta, missing):
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(200, 2)) @ np.repeat(np.eye(2), 4, axis=1) + 0.5 * rng.normal(size=(200, 8))
    Z = np.where(rng.random(Z.shape) < missing, np.nan, Z)
    found = linear.factor_analysis(linear.summary_of(Z, np.ones(200)), 2, beta=beta)
    bound = linear.bound_of_rows(found, Z, beta)
    observed = ~np.isnan(Z)
    for row in range(5):  # of a full Gaussian q: its precision is I + W' W / (beta psi)
        seen = observed[row]
        W, psi = found.W.numpy()[seen], found.psi.numpy()[seen]
        V = np.linalg.inv(np.eye(2) + W.T @ (W / (beta * psi)[:, None]))
        mean = V @ (W.T @ ((Z[row, seen] - found.mu.numpy()[seen]) / (beta * psi)))
        residual = Z[row, seen] - found.mu.numpy()[seen] - W @ mean
        spread_of_f = np.einsum("dk,kl,dl->d", W, V, W)
        log_prob = -0.5 * (np.log(2 * np.pi * psi) + (residual**2 + spread_of_f) / psi).sum()
        kl = 0.5 * (np.trace(V) + mean @ mean - 2 - np.linalg.slogdet(V)[1])
        assert bound[row] == approx(log_prob - beta * kl)
    # No change is better; noise may be at its floor, so that it is only raised.
    for other in (
        found._replace(W=0.95 * found.W),
        found._replace(W=1.05 * found.W),
        found._replace(psi=1.05 * found.psi),
    ):
        assert linear.bound_of_rows(other, Z, beta).mean() < bound.mean() + 1e-6


@pytest.mark.parametrize("settings", [{}, {"hidden_layer_sizes": ()}])
def test_a_larger_beta_leaves_fewer_dimensions_where_factor_analysis_is_kept(settings):
    X = load_wine().data[:40] if not settings else load_wine().data
    fits = [VAETransformer(3, beta=beta, random_state=0, **settings).fit(X) for beta in (1, 4, 100)]
    assert not any(fit.nonlinear_ for fit in fits)
    active = [fit.n_active_ for fit in fits]
    assert active[0] == 3 > active[1] > active[2] == 0
    kl = [fit.kl_per_dimension_.sum() for fit in fits]
    assert kl[0] > kl[1] > kl[2] == approx(0, abs=1e-3)
    for fit in fits[1:]:
        assert (fit.elbo(X) <= fit.score_samples(X) + 1e-9).all()
        assert fit.score(X) == approx(fit.score_samples(X, n_draws=5000).mean(), abs=0.05)


def test_held_out_rows_judge_by_the_bound_that_is_trained():
    """On wine the network of beta=4 has one dimension without held-out rows; factor analysis of beta=1 has three."""
    wine = load_wine().data
    model = VAETransformer(3, beta=4, max_iter=40, random_state=0).fit(wine)
    assert model.n_active_ <= 1


def test_free_bits_are_counted_for_factor_analysis_too():
    X = np.random.default_rng(0).normal(size=(40, 3))
    model = VAETransformer(2, free_bits=0.5, max_iter=2, random_state=0).fit(X)
    assert len(model.kl_per_dimension_) == 2 and np.isfinite(model.score(X))


# -------------------------------------------------------------------------------------------------------------- memory
@pytest.mark.parametrize("estimator", ["VAETransformer", "AutoencoderTransformer"])
def test_memory_grows_with_the_columns_not_with_their_square(estimator):
    """The covariance of 3,000 columns has 69 MB; of 20,000, the peak was 6.5 and 3.4 GB."""
    code = f"""
import resource
import numpy as np
from skvae import {estimator}
X = np.random.default_rng(0).normal(size=(20, 3000))
{estimator}(2, max_iter=2, random_state=0).fit(X[:, :50])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{estimator}(2, max_iter=2, random_state=0).fit(X)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 40
