"""The artists hold what the model says."""

from copy import copy

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import (
    AutoencoderTransformer,
    BernoulliMixtureEM,
    FactorAnalysisEM,
    GaussianMixtureEM,
    KMeansLite,
    MultVAERecommender,
    VAETransformer,
)
from skvae.datasets import make_interactions
from skvae.displays import (
    FitHistoryDisplay,
    KLDisplay,
    LatentSpaceDisplay,
    LatentTraversalDisplay,
    LoadingsDisplay,
    MixtureDisplay,
)

CIRCLE = np.column_stack([np.cos(angle := np.linspace(0, 6, 20)), np.sin(angle)])


def points_of(ellipse):
    """Points on the line of an ellipse, in the units of the data."""
    return ellipse.get_patch_transform().transform(CIRCLE)


def distances(points, mean, covariance):
    """Mahalanobis distances."""
    return np.sqrt(np.einsum("ni,ij,nj->n", points - mean, np.linalg.inv(covariance), points - mean))


# --- mixtures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("mixture", [GaussianMixtureEM, GaussianMixture])
def test_an_ellipse_is_where_the_density_has_fallen_by_half_the_square_of_its_radius(mixture, kind, wine):
    X = wine.to_numpy()[:, [6, 9]]
    one = mixture(1, covariance_type=kind, random_state=0).fit(X)
    display = MixtureDisplay.from_estimator(one, n_std=1.5)
    ((ellipse,),) = display.ellipses_
    assert_allclose(ellipse.get_center(), one.means_[0])
    fall = one.score_samples(points_of(ellipse)) - one.score_samples(one.means_)
    assert_allclose(fall, -0.5 * 1.5**2, rtol=1e-9)


def test_ellipses_of_pairs_of_columns_have_the_covariance_of_these(mixture, wine):
    pairs = [("alcohol", "hue"), (6, 0), (-1, 3)]
    display = MixtureDisplay.from_estimator(mixture, wine, columns=pairs)
    numbers = [(0, 10), (6, 0), (12, 3)]
    for axis, pair, ellipses in zip(display.axes_, numbers, display.ellipses_, strict=True):
        assert (axis.get_xlabel(), axis.get_ylabel()) == tuple(wine.columns[list(pair)])
        for k, ellipse in enumerate(ellipses):
            covariance = mixture.covariances_[k][np.ix_(pair, pair)]
            assert_allclose(distances(points_of(ellipse), mixture.means_[k, list(pair)], covariance), 2)


def test_rows_are_drawn_in_the_colour_of_their_component_and_those_with_gaps_are_left_out(mixture, wine):
    X = wine.copy()
    X.iloc[:9, 6] = np.nan
    display = MixtureDisplay.from_estimator(mixture, X, columns=(6, 9), order=[2, 0, 1])
    assert_array_equal(display.components_, [2, 0, 1])
    labels, whole = mixture.predict(X), np.arange(len(X)) >= 9
    for k, points, ellipse in zip([2, 0, 1], display.points_[0], display.ellipses_[0], strict=True):
        assert_allclose(points.get_offsets(), X.to_numpy()[whole & (labels == k)][:, [6, 9]])
        assert_allclose(points.get_facecolor()[0, :3], ellipse.get_edgecolor()[:3])
    told = [text.get_text() for text in display.axes_[0].get_legend().get_texts()]
    assert told == [f"component {k}: {mixture.weights_[k]:.0%}" for k in (2, 0, 1)]


def test_components_without_weight_are_left_out(wine):
    many = BayesianGaussianMixture(n_components=3, random_state=0, tol=1).fit(wine)
    many.weights_ = np.array([0.6, 1e-5, 0.4])
    assert_array_equal(MixtureDisplay.from_estimator(many).components_, [0, 2])
    assert len(MixtureDisplay.from_estimator(many, min_weight=0).ellipses_[0]) == 3


def test_a_mixture_that_has_no_ellipses_is_refused(mixture, wine):
    ones = (wine > 0).to_numpy()
    with pytest.raises(TypeError, match="BernoulliMixtureEM has no covariances_ and no covariance_type"):
        MixtureDisplay.from_estimator(BernoulliMixtureEM(2, random_state=0).fit(ones))
    with pytest.raises(ValueError, match="needs two columns, but the mixture has one, alcohol"):
        MixtureDisplay.from_estimator(GaussianMixtureEM(2, random_state=0).fit(wine[["alcohol"]]))
    for columns, complaint in {(0, 13): "only 13", ("hue", "x"): "names 'x'", ((0, 1), 2): "a pair of columns"}.items():
        with pytest.raises(ValueError, match=complaint):
            MixtureDisplay.from_estimator(mixture, columns=columns)
    with pytest.raises(ValueError, match="each of the 3 components once"):
        MixtureDisplay.from_estimator(mixture, order=[0, 0, 1])
    with pytest.raises(ValueError, match="need covariances of shape"):
        MixtureDisplay(np.zeros((2, 2)), np.eye(2), [0.5, 0.5]).plot()


# --- loadings ---------------------------------------------------------------------------------------------------------


def test_the_heat_map_has_the_loadings_with_names_in_order_of_their_squares(factors, wine):
    factors = copy(factors)
    factors.components_ = factors.components_[::-1] * [[-1], [1], [1]]
    display = LoadingsDisplay.from_estimator(factors)
    values = np.asarray(display.image_.get_array())
    assert_allclose(values @ values.T, factors.components_.T @ factors.components_)  # whatever the order and signs
    assert (np.diff((values**2).sum(axis=0)) <= 0).all() and (values.sum(axis=0) >= 0).all()
    for column, label in enumerate(display.ax_.get_xticklabels()):
        assert_allclose(np.abs(values[:, column]), np.abs(factors.components_[int(label.get_text())]))
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == list(wine.columns)
    assert [[float(text.get_text()) for text in row] for row in display.text_] == values.round(2).tolist()
    low, high = display.image_.get_clim()
    assert low == -high == -np.abs(values).max()


def test_loadings_as_fitted_and_of_other_models(wine):
    pca = PCA(20).fit(np.tile(wine.to_numpy(), (1, 3)))
    display = LoadingsDisplay.from_estimator(pca, sort=False)
    assert_array_equal(display.image_.get_array(), pca.components_.T)
    assert display.text_ is None and display.ax_.get_yticklabels()[0].get_text() == "x0"
    one = LoadingsDisplay.from_estimator(FactorAnalysisEM(1).fit(wine), component_names=["strength"], colorbar=False)
    assert one.ax_.get_xticklabels()[0].get_text() == "strength" and one.colorbar_ is None
    with pytest.raises(ValueError, match="feature_names must hold 39 names, but it is"):
        LoadingsDisplay.from_estimator(pca, feature_names=["a"])


def test_no_minus_stands_before_a_zero():
    display = LoadingsDisplay([[-0.001, -0.5]]).plot()
    assert [text.get_text() for text in display.text_[0]] == ["0.00", "-0.50"]


# --- latent space -----------------------------------------------------------------------------------------------------


def test_rows_are_where_transform_puts_them_and_contours_are_those_of_the_prior(factors, wine, growers):
    display = LatentSpaceDisplay.from_estimator(factors, wine, growers, components=(2, 0))
    Z = factors.transform(wine)[:, [2, 0]]
    for grower, points in enumerate(display.points_):
        assert_allclose(points.get_offsets(), Z[growers == grower])
        assert points.get_label() == str(grower)
    prior = factors.factor_correlation_[np.ix_([2, 0], [2, 0])]
    assert abs(prior[0, 1]) > 0.05
    for radius, contour in zip((1, 2, 3), display.contours_, strict=True):
        assert_allclose(distances(points_of(contour), 0, prior), radius)
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("z2", "z0")
    assert len({tuple(points.get_facecolor()[0]) for points in display.points_}) == 3
    assert len({points.get_paths()[0].vertices.tobytes() for points in display.points_}) == 3  # the markers differ too


def test_the_dimensions_with_the_largest_kl_terms_are_drawn(vae, wine):
    display = LatentSpaceDisplay.from_estimator(vae, wine)
    chosen = np.sort(np.argsort(-vae.kl_per_dimension_)[:2])
    assert_allclose(display.points_[0].get_offsets(), vae.transform(wine)[:, chosen])


def test_models_without_a_normal_prior_have_no_contours(wine):
    plain = AutoencoderTransformer(2, max_iter=2, random_state=0).fit(wine)
    assert LatentSpaceDisplay.from_estimator(plain, wine).contours_ == []
    assert LatentSpaceDisplay.from_estimator(PCA(2).fit(wine), wine).contours_ == []


def test_numbers_get_a_colour_scale(factors, wine):
    for y in (wine["hue"], np.arange(178), np.r_[np.nan, np.ones(177)]):
        display = LatentSpaceDisplay.from_estimator(factors, wine, y)
        assert_allclose(display.points_[0].get_array(), y)
        assert display.colorbar_ is not None
    mixed = LatentSpaceDisplay.from_estimator(factors, wine, np.array([None] + ["a"] * 177, dtype=object))
    assert mixed.colorbar_ is None and len(mixed.points_) == 2


def test_a_legend_that_would_fill_the_picture_is_left_out(factors, wine):
    names = [f"class {number % 40}" for number in range(178)]
    display = LatentSpaceDisplay.from_estimator(factors, wine, names)
    assert len(display.points_) == 40 and display.ax_.get_legend() is None


def test_one_dimension_is_a_histogram_of_area_one_with_the_density_of_the_prior(wine, growers):
    one = FactorAnalysisEM(1).fit(wine)
    display = LatentSpaceDisplay.from_estimator(one, wine, growers)
    area = 0.0
    for (polygon,) in display.points_:
        x, y = polygon.get_xy().T
        area += 0.5 * abs(x @ np.roll(y, 1) - y @ np.roll(x, 1))
    assert area == pytest.approx(1)
    z, density = display.contours_[0].get_data()
    assert np.trapezoid(density, z) == pytest.approx(1, abs=0.005) and density.max() == pytest.approx(0.3989, abs=1e-3)


def test_wrong_dimensions_and_labels_of_a_latent_space_are_refused(factors, wine):
    for components in (3, (0, 1, 2), (0, -1)):
        with pytest.raises(ValueError, match="one or two dimensions|whole numbers from 0 to 2"):
            LatentSpaceDisplay.from_estimator(factors, wine, components=components)
    for y in (["a", "b"], [0.5, 1.5]):
        with pytest.raises(ValueError, match="an entry for each of the 178 rows, but its shape is .2,"):
            LatentSpaceDisplay.from_estimator(factors, wine, y)


# --- KL terms ---------------------------------------------------------------------------------------------------------


def test_bars_are_the_kl_terms_and_active_dimensions_are_counted_as_by_the_fit(vae, wine):
    display = KLDisplay.from_estimator(vae)
    heights = np.array([bar.get_height() for bar in display.bars_])
    assert_allclose(heights, np.sort(vae.kl_per_dimension_)[::-1])
    assert_array_equal([int(label.get_text()) for label in display.ax_.get_xticklabels()], display.order_)
    of_rows = KLDisplay.from_estimator(vae, wine)
    assert_allclose(of_rows.kl, vae.kl_per_dimension_, rtol=1e-4)
    assert of_rows.active.sum() == vae.n_active_
    assert of_rows.ax_.get_ylabel() == "KL term, nats per row"


def test_inactive_dimensions_are_marked_and_the_largest_of_many_are_drawn():
    kl, active = np.arange(1.0, 61), np.arange(60) % 2 == 0
    display = KLDisplay(kl, active=active).plot()
    assert len(display.bars_) == 40 and display.order_[0] == 59
    assert [bool(bar.get_hatch()) for bar in display.bars_] == [not active[k] for k in display.order_]
    assert_array_equal(display.inactive_points_.get_xdata(), np.flatnonzero(~active[display.order_]))
    assert display.ax_.get_title() == "30 of 60 dimensions active"
    assert len(KLDisplay([2.0], active=[True]).plot(max_bars=None).bars_) == 1


# --- traversals -------------------------------------------------------------------------------------------------------


def test_images_are_what_the_model_expects_of_one_dimension_at_a_time(factors):
    display = LatentTraversalDisplay.from_estimator(factors, components=[2, 0], steps=[-1, 0, 2.5], image_shape=(1, 13))
    image = np.asarray(display.images_[0].get_array()).reshape(2, 3, 13)
    for line, k in enumerate([2, 0]):
        for step, value in enumerate([-1, 0, 2.5]):
            assert_allclose(image[line, step], factors.inverse_transform(value * np.eye(3)[[k]])[0])
    assert [label.get_text() for label in display.axes_[0].get_yticklabels()] == ["z2", "z0"]
    assert [label.get_text() for label in display.axes_[0].get_xticklabels()] == ["-1", "0", "2.5"]


def test_images_keep_their_rows_and_columns_and_their_channels():
    rows = np.arange(2 * 3 * 8.0).reshape(2, 3, 8) / 48
    display = LatentTraversalDisplay(rows, image_shape=(2, 4)).plot()
    assert_array_equal(display.images_[0].get_array()[2:4, 4:8], rows[1, 1].reshape(2, 4))
    assert LatentTraversalDisplay(rows[:, :, :6], image_shape=(1, 2, 3)).plot().images_[0].get_array().shape == (
        2,
        6,
        3,
    )
    with pytest.raises(ValueError, match=r"image_shape=\(3, 3\) does not hold the 8 columns"):
        LatentTraversalDisplay(rows, image_shape=(3, 3)).plot()


def test_a_plane_has_the_first_dimension_across_and_the_second_up(factors):
    display = LatentTraversalDisplay.from_plane(factors, (1, 13), components=(0, 2), steps=3)
    image = np.asarray(display.images_[0].get_array()).reshape(3, 3, 13)
    assert_allclose(image[0, 2], factors.inverse_transform([[0.9674, 0, 0.9674]])[0], atol=1e-4)  # the 5/6 quantile
    assert_allclose(image[1, 0], factors.inverse_transform([[-0.9674, 0, 0]])[0], atol=1e-4)
    one = FactorAnalysisEM(1).fit(factors.sample(50, random_state=0))
    with pytest.raises(ValueError, match="two latent dimensions, but FactorAnalysisEM has one"):
        LatentTraversalDisplay.from_plane(one, (1, 13))


def test_heat_maps_show_the_change_from_zero_in_the_units_asked_for(vae, wine):
    display = LatentTraversalDisplay.from_estimator(vae)
    assert_array_equal(
        [axis.get_xlabel() for axis in display.axes_], [f"z{k}" for k in np.argsort(-vae.kl_per_dimension_)]
    )
    changes = np.array([image.get_array() for image in display.images_])  # of shape (lines, columns, steps)
    assert_allclose(changes[:, :, 3], 0, atol=1e-7)
    assert_allclose(np.abs(changes).max(axis=(0, 2)), 1)
    assert display.axes_[0].get_yticklabels()[0].get_text() == "alcohol"
    scaled = LatentTraversalDisplay.from_estimator(vae, components=1, scale=np.full(13, 2.0))
    expected = vae.inverse_transform([[0, 3, 0], [0, 0, 0]])
    assert_allclose(scaled.images_[0].get_array()[:, -1], (expected[0] - expected[1]) / 2, atol=1e-6)


def test_a_pipeline_and_a_mixed_table_are_traversed(wine):
    pipeline = make_pipeline(StandardScaler(), PCA(2)).fit(wine.to_numpy() * 5 + 1)
    display = LatentTraversalDisplay.from_estimator(pipeline, steps=[0, 1], components=1)
    expected = pipeline.inverse_transform([[0, 0], [0, 1]])
    assert_allclose(display.expected[0], expected)
    table = pd.DataFrame({"hue": wine["hue"], "town": np.array(["Ulm", "Bonn"])[np.arange(178) % 2]})
    mixed = VAETransformer(1, likelihood="auto", early_stopping=False, max_iter=2, random_state=0).fit(table)
    display = LatentTraversalDisplay.from_estimator(mixed)
    assert [label.get_text() for label in display.axes_[0].get_yticklabels()] == ["hue"]
    with pytest.raises(ValueError, match="whole numbers from 0 to 0"):
        LatentTraversalDisplay.from_estimator(mixed, components=[1])


# --- the course of a fit ----------------------------------------------------------------------------------------------


def test_curves_are_those_of_the_fit_and_the_weight_has_a_panel_if_it_changes(vae):
    display = FitHistoryDisplay.from_estimator(vae)
    assert_array_equal(display.bound_line_.get_xdata(), np.arange(1, 9))
    assert_array_equal(display.bound_line_.get_ydata(), vae.lower_bounds_)
    assert_array_equal(display.weight_line_.get_ydata(), vae.kl_weights_)
    assert [axis.get_ylabel() for axis in display.axes_] == ["lower bound,\nnats per row", "KL weight"]
    assert display.axes_[-1].get_xlabel() == "epoch" and display.score_line_ is None
    alone = FitHistoryDisplay.from_estimator(vae, kl_weight=False)
    assert len(alone.axes_) == 1 and alone.weight_line_ is None
    constant = FitHistoryDisplay([1.0, 2.0], kl_weights=[0.5, 0.5])
    assert len(constant.plot().axes_) == 1 and len(constant.plot(kl_weight=True).axes_) == 2


def test_the_weight_of_each_epoch_and_the_epochs_of_validations_are_recorded(wine):
    settings = {"early_stopping": False, "random_state": 0, "max_iter": 4}
    linear = VAETransformer(1, annealing="linear", anneal_fraction=0.5, beta=2, warm_start=True, **settings)
    assert_allclose(linear.fit(wine).kl_weights_, [0, 1, 2, 2])
    assert_allclose(linear.fit(wine).kl_weights_, [0, 1, 2, 2] * 2)
    linear.partial_fit(wine)
    assert_allclose(linear.kl_weights_[8:], 2)
    kept = VAETransformer(1, hidden_layer_sizes=(), beta=3).fit(wine)
    assert not kept.nonlinear_ and kept.kl_weights_.tolist() == [3]
    stopped = AutoencoderTransformer(1, max_iter=45, random_state=0).fit(wine)
    assert_array_equal(stopped.validation_epochs_, [10, 20, 30, 40, 45])
    assert len(stopped.validation_scores_) == 5 and not hasattr(stopped, "kl_weights_")
    display = FitHistoryDisplay.from_estimator(stopped)
    assert_array_equal(display.score_line_.get_xdata(), [10, 20, 30, 40, 45])
    assert (
        display.axes_[0].get_ylabel() == "minus the mean squared error, units of X squared" and len(display.axes_) == 1
    )


def test_a_second_fit_is_drawn_over_the_first_and_ranking_has_a_panel_of_its_own():
    X = make_interactions(120, 30, random_state=0)
    axes = None
    for beta in (0.2, 1.0):
        fit = MultVAERecommender(4, beta=beta, annealing="linear", max_iter=3, early_stopping=False, random_state=0)
        display = FitHistoryDisplay.from_estimator(fit.fit(X[:90], X_val=X[90:]), name=f"beta {beta}", ax=axes)
        axes = display.axes_
    assert [len(axis.lines) for axis in axes] == [2, 2, 2]
    assert [axis.get_ylabel() for axis in axes[:2]] == ["lower bound,\nnats per user", "NDCG@100\nvalidation users"]
    first, second = axes[0].lines
    assert first.get_color() != second.get_color() and first.get_linestyle() != second.get_linestyle()
    assert axes[1].lines[1].get_color() == axes[2].lines[1].get_color() == second.get_color()
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["beta 0.2", "beta 1.0"]


def test_models_fitted_by_em_have_one_curve(mixture, wine):
    for fit, label in (
        (mixture, "lower bound, nats per row"),
        (KMeansLite(2, random_state=0).fit(wine), "minus the inertia, per row"),
    ):
        display = FitHistoryDisplay.from_estimator(fit)
        assert display.axes_[0].get_xlabel() == "iteration" and display.axes_[0].get_ylabel() == label
        assert_allclose(display.bound_line_.get_ydata(), fit.lower_bounds_)
    assert plt.fignum_exists(display.figure_.number)
    with pytest.raises(ValueError, match="this fit has none"):
        FitHistoryDisplay.from_estimator(mixture, kl_weight=True)


@pytest.mark.parametrize("components", [0.7, "z0", [True, False], -1, 2, []])
def test_dimensions_are_whole_numbers(components):
    factors = FactorAnalysisEM(2).fit(np.random.default_rng(0).normal(size=(20, 4)))
    for draw in (
        lambda: LatentSpaceDisplay(np.zeros((3, 2))).plot(components=components),
        lambda: LatentTraversalDisplay.from_estimator(factors, components=components),
    ):
        with pytest.raises(ValueError, match="whole numbers from 0 to 1"):
            draw()


def test_a_traversal_in_units_of_zero_is_refused():
    with pytest.raises(ValueError, match="above 0 for each of the 2 columns"):
        LatentTraversalDisplay(np.ones((1, 3, 2)), scale=[1, 0]).plot()


def test_a_histogram_refuses_numbers_of_other_rows():
    with pytest.raises(ValueError, match="each of the 3 rows"):
        LatentSpaceDisplay(np.zeros((3, 1)), y=[0.5]).plot()
