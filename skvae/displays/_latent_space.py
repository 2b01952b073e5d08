"""Rows in the latent space, with the prior's contours."""

import numpy as np

from skvae.displays._mixture import draw_ellipse
from skvae.displays._plotting import (
    COLOURS,
    GREY,
    LINES,
    MARKERS,
    Display,
    as_numbers,
    check_has,
    dimensions_of,
    has_normal_prior,
    hide_frame,
    merged,
    names_or,
    place_legend,
)

_MOST_CLASSES = 20  # of whole numbers
_RADII = (1, 2, 3)  # of the prior's contours, in standard deviations


class LatentSpaceDisplay(Display):
    """Rows in two dimensions of the latent space, with contours of the prior.

    The contours are at one, two and three standard deviations of the prior: for two dimensions they contain 39 %, 86 %
    and 99 % of its probability. A latent space of one dimension is drawn as a histogram with the density of the prior.
    Create it by `from_estimator`. Read more in the :doc:`user guide </user_guide/displays>`.

    Parameters
    ----------
    Z : array-like of shape (n_samples, n_components)
        Latent values of the rows.
    y : array-like of shape (n_samples,) or None, default=None
        Classes, which get colours and markers of their own, or numbers, which get a colour scale: fractions, and more
        than 20 different whole numbers.
    prior_covariance : array-like of shape (n_components, n_components) or None, default=None
        Covariance of the prior, whose mean is zero. None: no contours.
    component_names : list of str or None, default=None
        Names of the dimensions; None: z0, z1, ...

    Attributes
    ----------
    points_ : list of matplotlib PathCollection
        The rows, of each class; for one dimension, a list of the bars of each class.
    contours_ : list of matplotlib artists
        Ellipses of the prior, or the curve of its density.
    colorbar_ : matplotlib Colorbar or None
        The colour bar, if y is numeric.
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.

    See Also
    --------
    LatentTraversalDisplay : Rows that the model expects along the dimensions, or over a plane.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import FactorAnalysisEM
    >>> from skvae.displays import LatentSpaceDisplay
    >>> X, grower = load_wine(return_X_y=True)
    >>> display = LatentSpaceDisplay.from_estimator(FactorAnalysisEM(2).fit(X), X, grower)
    >>> len(display.points_), len(display.contours_)
    (3, 3)
    """

    def __init__(self, Z, *, y=None, prior_covariance=None, component_names=None):
        self.Z = Z
        self.y = y
        self.prior_covariance = prior_covariance
        self.component_names = component_names

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, components="auto", ax=None, **kwargs):
        """Draw rows as `transform` embeds them.

        Parameters
        ----------
        estimator : fitted estimator
            With a method `transform`. The prior is drawn if it is known to be normal: of the factor models, of
            `VAETransformer` and of `MultVAERecommender`.
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows, of the training or others.
        y : array-like of shape (n_samples,) or None, default=None
            Classes or numbers that colour the rows.
        components : "auto", int or pair of int, default="auto"
            Dimensions to draw. "auto": the two with the largest KL terms if the estimator knows these, else the first
            two.
        ax : matplotlib Axes or None, default=None
            None: a new figure.
        **kwargs : dict
            Further arguments of `plot`.

        Returns
        -------
        display : LatentSpaceDisplay
        """
        check_has(cls, estimator, "transform", what="the rows as `transform` embeds them")
        Z = np.asarray(estimator.transform(X))
        if isinstance(components, str) and components == "auto" and Z.shape[1] > 2:
            kl = getattr(estimator, "kl_per_dimension_", np.zeros(0))
            components = np.sort(np.argsort(-kl, kind="stable")[:2]) if len(kl) == Z.shape[1] else (0, 1)
        covariance = None
        if has_normal_prior(estimator):
            covariance = getattr(estimator, "factor_correlation_", np.eye(Z.shape[1]))
        return cls(Z, y=y, prior_covariance=covariance).plot(ax, components=components, **kwargs)

    def plot(self, ax=None, *, components="auto", scatter_kw=None, contour_kw=None):
        """Draw rows and contours.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            None: a new figure.
        components : "auto", int or pair of int, default="auto"
            Dimensions to draw; "auto": the first two, or the only one.
        scatter_kw : dict or None, default=None
            Settings of the rows, as those of `matplotlib.axes.Axes.scatter`; of one dimension, of the bars.
        contour_kw : dict or None, default=None
            Settings of the contours.

        Returns
        -------
        display : LatentSpaceDisplay
            This display.
        """
        Z = as_numbers("Z", self.Z, None)
        if Z.ndim != 2:
            raise ValueError(f"Z must have the shape (n_samples, n_components), but it has {Z.shape}.")
        chosen = self._chosen(components, Z.shape[1])
        names = names_or("component_names", self.component_names, Z.shape[1], letter="z")
        axis = self._get_axes(ax)
        self.colorbar_ = None
        n_components, Z, covariance = Z.shape[1], Z[:, chosen], None
        if self.y is not None and np.shape(self.y) != (len(Z),):
            raise ValueError(
                f"y must have an entry for each of the {len(Z)} rows, but its shape is {np.shape(self.y)}."
            )
        if self.prior_covariance is not None:
            covariance = as_numbers("prior_covariance", self.prior_covariance, 2)
            if covariance.shape != (n_components, n_components):
                raise ValueError(
                    f"prior_covariance must have the shape {(n_components, n_components)}, but it has "
                    f"{covariance.shape}."
                )
            covariance = covariance[np.ix_(chosen, chosen)]
        draw = self._draw_histogram if len(chosen) == 1 else self._draw_plane
        draw(axis, Z, covariance, scatter_kw or {}, contour_kw)
        axis.set_xlabel(names[chosen[0]])
        axis.set_ylabel("density" if len(chosen) == 1 else names[chosen[1]])
        hide_frame(axis)
        if axis.get_legend_handles_labels()[1]:
            place_legend(axis, beside=True)
        return self

    @staticmethod
    def _chosen(components, K):
        if isinstance(components, str) and components == "auto":
            components = range(min(K, 2))
        chosen = dimensions_of(components, K)
        if len(chosen) not in (1, 2):
            raise ValueError(f"components must be one or two dimensions, but it is {components!r}.")
        return chosen

    def _groups(self, n):
        """For each class its name, which rows it has, and its number; one unnamed class without y."""
        if self.y is None:
            return [(None, np.ones(n, dtype=bool))]
        y = np.asarray(self.y)
        y = y.astype(str) if y.dtype == object else y
        return [(str(label), y == label) for label in np.unique(y)]

    def _has_numbers(self):
        """Whether y holds numbers, not classes: fractions, or more whole numbers than a legend can name."""
        y = np.asarray(self.y if self.y is not None else [])
        if y.dtype.kind not in "iuf":
            return False
        return bool((y != np.round(y)).any()) or len(np.unique(y)) > _MOST_CLASSES

    def _draw_plane(self, axis, Z, covariance, given, contour_kw):
        self.contours_ = [] if covariance is None else self._draw_contours(axis, covariance, contour_kw)
        default = {"s": 16, "alpha": 0.7, "linewidths": 0}
        if self._has_numbers():
            own = {"c": np.asarray(self.y, dtype=float), "cmap": "viridis", "plotnonfinite": True}
            self.points_ = [axis.scatter(*Z.T, **default | own | given)]
            self.colorbar_ = axis.figure.colorbar(self.points_[0], ax=axis, label="y")
            return
        self.points_ = []
        for place, (label, rows) in enumerate(self._groups(len(Z))):
            own = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)], "label": label}
            self.points_.append(axis.scatter(*Z[rows].T, **default | own | given))

    @staticmethod
    def _draw_contours(axis, covariance, given):
        default = {"edgecolor": GREY, "linewidth": 1, "linestyle": "--", "zorder": 0}
        contours = [draw_ellipse(axis, np.zeros(2), covariance, radius, default, given) for radius in _RADII]
        axis.plot([], [], color=GREY, linestyle="--", linewidth=1, label="prior, 1, 2, 3\nstd. deviations")
        axis.set_aspect("equal", adjustable="datalim")
        return contours

    def _draw_histogram(self, axis, Z, covariance, given, contour_kw):
        from matplotlib.lines import Line2D

        edges = np.histogram_bin_edges(Z[:, 0], bins="auto")
        groups = [(None, np.ones(len(Z), dtype=bool))] if self._has_numbers() else self._groups(len(Z))
        self.points_ = []
        for place, (label, rows) in enumerate(groups):
            own = {"color": COLOURS[place % len(COLOURS)], "label": label, "alpha": 0.5, "linewidth": 1.5}
            own |= {"histtype": "stepfilled", "edgecolor": COLOURS[place % len(COLOURS)]}
            own |= {"linestyle": LINES[place % len(LINES)]}
            share = np.full(rows.sum(), 1 / (len(Z) * (edges[1] - edges[0])))
            self.points_.append(axis.hist(Z[rows, 0], edges, weights=share, **own | given)[2])
        self.contours_ = []
        if covariance is not None:
            std = np.sqrt(covariance[0, 0])
            z = np.linspace(min(Z.min(), -3 * std), max(Z.max(), 3 * std), 200)
            density = np.exp(-0.5 * (z / std) ** 2) / (std * np.sqrt(2 * np.pi))
            settings = merged({"color": GREY, "linestyle": "--", "label": "prior"}, contour_kw, Line2D)
            self.contours_ = axis.plot(z, density, **settings)
