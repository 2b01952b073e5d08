"""The picture of evidence and bound: what its artists hold, and the laws of EM in its numbers."""

import functools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import (
    BernoulliMixtureEM,
    FactorAnalysisEM,
    GaussianMixtureEM,
    KMeansLite,
    ProbabilisticPCA,
    VAETransformer,
    VariationalFactorAnalysis,
    VariationalGaussianMixture,
)
from skvae.displays import EvidenceDisplay

WINE = StandardScaler().fit_transform(load_wine().data)
GAPS = np.where(np.random.default_rng(0).random(WINE.shape) < 0.1, np.nan, WINE)
BITS = (WINE > 0).astype(float)
MIXTURES = [
    (GaussianMixtureEM(3, covariance_type="diag", init_params="random_from_data", n_init=2, random_state=0), GAPS),
    (GaussianMixtureEM(2, reg_covar=0, random_state=0), WINE),
    (BernoulliMixtureEM(3, alpha=1e-6, random_state=0), BITS),
]
VAE = VAETransformer(2, hidden_layer_sizes=(8,), early_stopping=False, max_iter=12)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@functools.cache
def of_mixture(number):
    model, X = MIXTURES[number]
    return EvidenceDisplay.from_estimator(model, X, max_iter=4)


@pytest.mark.parametrize("number", range(len(MIXTURES)))
def test_the_bound_touches_after_each_e_step_and_falls_behind_after_each_m_step(number):
    display = of_mixture(number)
    np.testing.assert_array_equal(display.steps, np.arange(0.5, 5, 0.5))
    gap = display.log_evidence - display.lower_bounds
    np.testing.assert_array_equal(gap[::2], 0)
    assert (gap[1::2] > 1e-6).all()
    assert (np.diff(display.lower_bounds) > -1e-6).all()  # both steps raise the bound
    np.testing.assert_array_equal(display.log_evidence[1:-1:2], display.log_evidence[2::2])  # an E-step changes q only


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_bound_after_an_m_step_is_that_of_the_posterior_before_it():
    """By hand: sum_k R_k (log pi_k p_k(x) - log R_k), with R of the parameters before."""
    display = of_mixture(2)
    before, after = (BernoulliMixtureEM(3, alpha=1e-6, n_init=1, random_state=0, max_iter=n).fit(BITS) for n in (0, 1))
    R, p = before.predict_proba(BITS), after.means_
    log_joint = BITS @ np.log(p).T + (1 - BITS) @ np.log(1 - p).T + np.log(after.weights_)
    assert display.lower_bounds[1] == pytest.approx((R * (log_joint - np.log(R))).sum(1).mean(), abs=1e-9)
    assert display.log_evidence[1] == pytest.approx(after.score(BITS), abs=1e-12)


def test_factor_models_touch_in_every_iteration():
    display = EvidenceDisplay.from_estimator(make_pipeline(StandardScaler(), FactorAnalysisEM(2)).fit(WINE), WINE)
    assert len(display.steps) > 3 and not display.half_steps
    np.testing.assert_allclose(display.lower_bounds, display.log_evidence, atol=1e-10)
    closed_form = EvidenceDisplay.from_estimator(ProbabilisticPCA(2), WINE)
    np.testing.assert_array_equal(closed_form.bound_line_.get_xdata(), [1])


def test_the_gap_of_a_network_stays():
    display = EvidenceDisplay.from_estimator(VAE, WINE, max_rows=50)
    np.testing.assert_array_equal(display.steps, [1, 2, 3, 4, 5, 6, 8, 10])
    assert (display.log_evidence > display.lower_bounds).all() and (display.standard_error > 0).all()
    assert display.ax_.get_xscale() == "log" and display.ax_.get_xlabel() == "epoch"
    again = EvidenceDisplay.from_estimator(VAE, WINE, max_rows=50, max_iter=3)
    np.testing.assert_array_equal(again.log_evidence, display.log_evidence[:3])  # its random_state was None


def test_artists_hold_the_numbers():
    display, ax = of_mixture(0), plt.subplots()[1]
    assert display.plot(ax, bound_kw={"color": "red"}) is display
    assert display.ax_ is ax and display.figure_ is ax.figure
    for line, values in ((display.evidence_line_, "log_evidence"), (display.bound_line_, "lower_bounds")):
        np.testing.assert_array_equal(line.get_xdata(), display.steps)
        np.testing.assert_array_equal(line.get_ydata(), getattr(display, values))
    assert display.bound_line_.get_color() == "red"
    np.testing.assert_array_equal(display.e_steps_.get_ydata(), display.lower_bounds[::2])
    np.testing.assert_array_equal(display.m_steps_.get_ydata(), display.lower_bounds[1::2])
    area = display.gap_.get_paths()[0].vertices
    assert {display.log_evidence[3], display.lower_bounds[3]} <= set(area[:, 1])
    assert ax.get_ylabel() == "nats per row" and ax.get_xlabel() == "iteration"
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["gap", "log-evidence", "bound", "after an E-step", "after an M-step"]


def test_neither_the_estimator_nor_the_data_change():
    model = GaussianMixtureEM(2, n_init=3, random_state=0)
    before = model.get_params()
    EvidenceDisplay.from_estimator(model, WINE, max_iter=1)
    assert model.get_params() == before and not hasattr(model, "converged_")


@pytest.mark.parametrize("model", [VariationalGaussianMixture(), VariationalFactorAnalysis()])
def test_an_evidence_that_is_not_known_is_not_drawn(model):
    with pytest.raises(TypeError, match=f"{type(model).__name__} integrates over its parameters"):
        EvidenceDisplay.from_estimator(model, WINE)


def test_models_without_a_density_are_refused():
    with pytest.raises(TypeError, match="EvidenceDisplay.from_estimator needs a density"):
        EvidenceDisplay.from_estimator(KMeansLite(2), WINE)
