"""What all displays do alike, as scikit-learn's do."""

import sys
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV

from skvae import EASERecommender, FactorAnalysisEM, GaussianMixtureEM, KMeansLite, VAETransformer, displays
from skvae.displays import _plotting

X = np.random.default_rng(0).normal(size=(30, 3)) @ np.array([[1, 0.4, 0], [0, 1, 0.2], [0, 0, 1]])
MIXTURE = displays.MixtureDisplay([[0.0, 0.0]], [np.eye(2)], [1.0])
MADE = {
    "ComponentSelectionDisplay": displays.ComponentSelectionDisplay([1, 2, 3], [0.0, 1.0, 0.5], errors=[0.1, 0.1, 0.1]),
    "EvidenceDisplay": displays.EvidenceDisplay([1, 2], [-1.0, -0.9], [-2.0, -1.5]),
    "FitHistoryDisplay": displays.FitHistoryDisplay([1.0, 2.0, 2.5]),
    "KLDisplay": displays.KLDisplay([1.0, 0.0], active=[True, False]),
    "LatentSpaceDisplay": displays.LatentSpaceDisplay(X, y=[0, 1] * 15, prior_covariance=np.eye(3)),
    "LatentTraversalDisplay": displays.LatentTraversalDisplay(np.zeros((2, 3, 4)), image_shape=(2, 2)),
    "LoadingsDisplay": displays.LoadingsDisplay(X[:4]),
    "MixtureDisplay": MIXTURE,
    "RankingDisplay": displays.RankingDisplay([1, 10], [0.1, 0.2]),
}
CALLS = {  # of an estimator that may not be fitted, or is another
    "ComponentSelectionDisplay": displays.ComponentSelectionDisplay.from_cv_results,
    "FitHistoryDisplay": displays.FitHistoryDisplay.from_estimator,
    "KLDisplay": displays.KLDisplay.from_estimator,
    "LatentSpaceDisplay": lambda estimator: displays.LatentSpaceDisplay.from_estimator(estimator, X),
    "LatentTraversalDisplay": displays.LatentTraversalDisplay.from_estimator,
    "LoadingsDisplay": displays.LoadingsDisplay.from_estimator,
    "MixtureDisplay": displays.MixtureDisplay.from_estimator,
    "RankingDisplay": lambda estimator: displays.RankingDisplay.from_estimator(estimator, X > 0),
}
UNFITTED = {
    "ComponentSelectionDisplay": GridSearchCV(FactorAnalysisEM(), {"n_components": [1]}),
    "FitHistoryDisplay": GaussianMixtureEM(),
    "KLDisplay": VAETransformer(),
    "LatentSpaceDisplay": VAETransformer(),
    "LatentTraversalDisplay": FactorAnalysisEM(),
    "LoadingsDisplay": FactorAnalysisEM(),
    "MixtureDisplay": GaussianMixtureEM(),
    "RankingDisplay": EASERecommender(),
}


@pytest.mark.parametrize("name", MADE)
def test_plot_draws_on_given_axes_or_on_new_ones_and_returns_the_display(name):
    display = MADE[name]
    _, ax = plt.subplots()
    assert display.plot(ax) is display
    drawn = display.axes_[0] if hasattr(display, "axes_") else display.ax_
    assert drawn is ax and display.figure_ is ax.figure and ax.has_data()
    display.plot()
    assert display.figure_ is not ax.figure and display.figure_.get_layout_engine() is not None
    display.figure_.draw_without_rendering()


@pytest.mark.parametrize(("name", "ax"), list(product(MADE, [[None], 7])))
def test_what_is_no_axes_is_refused(name, ax):
    with pytest.raises(ValueError, match="needs ax=None, one matplotlib Axes"):
        MADE[name].plot(ax)


def test_several_panels_share_an_axes_or_take_one_each():
    display = displays.MixtureDisplay(np.zeros((1, 3)), np.eye(3)[None], [1.0])
    pairs = [(0, 1), (1, 2)]
    figure, ax = plt.subplots()
    assert len(display.plot(ax, columns=pairs).axes_) == 2 and ax not in figure.axes and len(figure.axes) == 2
    _, axes = plt.subplots(2, 1)
    assert list(display.plot(axes, columns=pairs).axes_) == list(axes)
    with pytest.raises(ValueError, match="or 2 of them, but ax is 3 objects"):
        display.plot(plt.subplots(3)[1], columns=pairs)


@pytest.mark.parametrize("name", CALLS)
def test_an_estimator_that_is_not_fitted_or_another_is_refused(name):
    with pytest.raises(NotFittedError):
        CALLS[name](UNFITTED[name])
    wrong = KMeansLite(2, random_state=0).fit(X)
    if name in {"FitHistoryDisplay", "LatentSpaceDisplay"}:  # which have what these draw
        wrong = "no estimator"
    with pytest.raises(TypeError, match=f"{name}.from_.*but"):
        CALLS[name](wrong)


ONE = [[0.0, 0.0]], [np.eye(2)], [1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: displays.ComponentSelectionDisplay([1], ["a"]), "scores must hold numbers"),
        (lambda: displays.EvidenceDisplay([1], [0.0], [0.0, 1.0]), "log_evidence has 1, lower_bounds has 2"),
        (lambda: displays.FitHistoryDisplay("abc"), "lower_bounds must hold numbers"),
        (lambda: displays.FitHistoryDisplay(np.eye(2)), r"array of numbers with 1 axes, but its shape is \(2, 2\)"),
        (lambda: displays.FitHistoryDisplay([1.0], validation_scores=[1.0, 2.0]), "validation_scores has 2, lower_bo"),
        (
            lambda: displays.FitHistoryDisplay([1.0], validation_scores=[1.0], validation_epochs=[1, 2]),
            "validation_scores has 1, validation_epochs has 2",
        ),
        (lambda: displays.KLDisplay([1.0, 0.0], active=[True]), "kl has 2, active has 1"),
        (lambda: displays.LatentSpaceDisplay(X, component_names=["a"]), "component_names must hold 3 names"),
        (
            lambda: displays.LatentSpaceDisplay(X, prior_covariance=np.eye(2)),
            r"\(3, 3\), but it has \(2, 2\)",
        ),
        (lambda: displays.LoadingsDisplay([[1.0], [1.0, 2.0]]), "loadings must hold numbers, in rows of one length"),
        (
            lambda: displays.LoadingsDisplay(X[:4], feature_names="abcd"),
            "feature_names must hold 4 names",
        ),
        (lambda: displays.MixtureDisplay([0.0, 0.0], *ONE[1:]), "means must be an array of numbers with 2 axes"),
        (lambda: displays.MixtureDisplay(*ONE, X=X[:, :2], labels=[0]), "X has 30, labels has 1"),
        (lambda: displays.MixtureDisplay(*ONE, X=X), "the 2 columns of the means, but it has 3"),
    ],
)
def test_numbers_that_cannot_be_drawn_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make().plot()


@pytest.mark.parametrize(
    ("display", "settings", "message"),
    [
        ("KLDisplay", {"max_bars": 0}, "max_bars must be None or a whole number from 1, but it is 0"),
        ("LatentSpaceDisplay", {"components": [0, 3]}, "whole numbers from 0 to 2"),
        ("LatentSpaceDisplay", {"components": "z"}, "whole numbers from 0 to 2"),
        ("MixtureDisplay", {"columns": 1}, r"must be a pair of columns, or a list of pairs, but it holds \[1\]"),
        ("MixtureDisplay", {"columns": []}, "but it is empty"),
        ("MixtureDisplay", {"columns": [(0, 2)]}, "columns has 2, but there are only 2 columns"),
        ("MixtureDisplay", {"columns": [(0, 0.5)]}, "numbers or names of columns, but it holds 0.5"),
        ("MixtureDisplay", {"order": 0.0}, "each of the 1 components once"),
        ("MixtureDisplay", {"n_std": "two"}, "n_std must be a finite number above 0, but it is 'two'"),
    ],
)
def test_settings_that_cannot_be_are_named(display, settings, message):
    with pytest.raises(ValueError, match=message):
        MADE[display].plot(**settings)


def test_a_type_of_covariance_set_after_the_fit_is_not_drawn():
    ours, theirs = GaussianMixtureEM(2, random_state=0).fit(X), GaussianMixture(2, random_state=0).fit(X)
    drawn = displays.MixtureDisplay.from_estimator(ours)
    again = displays.MixtureDisplay.from_estimator(ours.set_params(covariance_type="diag"))
    np.testing.assert_array_equal(again.covariances, drawn.covariances)
    with pytest.raises(ValueError, match=r"'diag' needs covariances_ of shape \(2, 3\), but they have \(2, 3, 3\)"):
        displays.MixtureDisplay.from_estimator(theirs.set_params(covariance_type="diag"))


def test_curves_differ_in_colour_and_line_and_are_seen_on_white():
    axis = plt.subplots()[1]
    _plotting.use_palette(axis)
    lines = [axis.plot([0, 1])[0] for _ in range(28)]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 28
    luminance = [np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722)) for colour in _plotting.COLOURS]
    assert max(luminance) < 0.7


def test_settings_of_artists_take_short_names():
    display = displays.FitHistoryDisplay([1.0, 2.0]).plot(bound_kw={"c": "red", "lw": 3})
    assert display.bound_line_.get_color() == "red" and display.bound_line_.get_linewidth() == 3


def test_without_matplotlib_plot_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="KLDisplay.plot requires matplotlib. You can install matplotlib with"):
        displays.KLDisplay([1.0]).plot()
