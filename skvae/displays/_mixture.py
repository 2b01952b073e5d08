"""The components of a Gaussian mixture as ellipses."""

from numbers import Real

import numpy as np

from skvae.displays._plotting import (
    COLOURS,
    LINES,
    MARKERS,
    Display,
    as_numbers,
    check_has,
    check_lengths,
    column_names,
    hide_frame,
    merged,
    names_or,
    place_legend,
)

_FEWEST_WEIGHT = 1e-3  # of a component that is drawn by default


class MixtureDisplay(Display):
    """Components of a Gaussian mixture as ellipses over two columns, for one or several pairs of columns.

    The axes of an ellipse are the eigenvectors of the component's covariance of the two columns. Half the length of an
    axis is `n_std` times the square root of the eigenvalue. With the default, two standard deviations, an ellipse
    contains 86 % of the probability of its component. Create it by `from_estimator`. Read more in the
    :doc:`user guide </user_guide/displays>`.

    Parameters
    ----------
    means : array-like of shape (n_components, n_features)
        Means of the components.
    covariances : array-like of shape (n_components, n_features, n_features)
        Covariances of the components, as full matrices.
    weights : array-like of shape (n_components,)
        Mixing proportions.
    X : ndarray of shape (n_samples, n_features) or None, default=None
        Rows to draw beneath the ellipses. Rows with a missing cell in a pair of columns are left out there.
    labels : ndarray of shape (n_samples,) or None, default=None
        Component of each row.
    feature_names : list of str or None, default=None
        Names of the columns; None: x0, x1, ...

    Attributes
    ----------
    ellipses_ : list of list of matplotlib Ellipse
        For each pair of columns, the ellipses.
    components_ : ndarray of int
        Number of the component of each ellipse, in the order of the ellipses.
    points_ : list of list of matplotlib PathCollection
        For each pair of columns, the rows of each component; empty without X.
    axes_ : ndarray of matplotlib Axes
        An axes for each pair of columns.
    figure_ : matplotlib Figure
        The figure.

    See Also
    --------
    ComponentSelectionDisplay : The held-out score against the number of components.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import GaussianMixtureEM
    >>> from skvae.displays import MixtureDisplay
    >>> X = load_iris(as_frame=True).data
    >>> mixture = GaussianMixtureEM(3, random_state=0).fit(X)
    >>> display = MixtureDisplay.from_estimator(mixture, X, columns=[("petal length (cm)", "petal width (cm)")])
    >>> len(display.ellipses_[0]), display.axes_[0].get_xlabel()
    (3, 'petal length (cm)')
    """

    def __init__(self, means, covariances, weights, *, X=None, labels=None, feature_names=None):
        self.means = means
        self.covariances = covariances
        self.weights = weights
        self.X = X
        self.labels = labels
        self.feature_names = feature_names

    @classmethod
    def from_estimator(cls, estimator, X=None, *, feature_names=None, columns=(0, 1), ax=None, **kwargs):
        """Draw the components of a fitted mixture.

        Parameters
        ----------
        estimator : fitted estimator
            With `means_`, `covariances_`, `weights_` and `covariance_type`: `GaussianMixtureEM`, or a mixture of
            scikit-learn.
        X : array-like of shape (n_samples, n_features) or None, default=None
            Rows to draw beneath, with the marker and the colour of their component. NaN where a cell is missing.
        feature_names : list of str or None, default=None
            Names of the columns. None: those of the DataFrame of the fit, or x0, x1, ...
        columns : pair, or list of pairs, of int or str, default=(0, 1)
            As of `plot`.
        ax : matplotlib Axes, array-like of Axes or None, default=None
            As of `plot`.
        **kwargs : dict
            Further arguments of `plot`.

        Returns
        -------
        display : MixtureDisplay
        """
        what = "the ellipses of a Gaussian mixture"
        check_has(cls, estimator, "means_", "covariances_", "weights_", "covariance_type", what=what)
        means = np.asarray(estimator.means_, dtype=float)
        feature_names = column_names(estimator, means.shape[1], feature_names)
        rows = labels = None
        if X is not None:
            labels, rows = estimator.predict(X), np.asarray(X, dtype=float)
        kind = getattr(estimator, "_fitted_type", estimator.covariance_type)  # which may have been set anew
        covariances = full_covariances(estimator.covariances_, kind, *means.shape)
        display = cls(means, covariances, estimator.weights_, X=rows, labels=labels, feature_names=feature_names)
        return display.plot(ax, columns=columns, **kwargs)

    def plot(
        self,
        ax=None,
        *,
        columns=(0, 1),
        n_std=2.0,
        order=None,
        min_weight=_FEWEST_WEIGHT,
        legend=True,
        ellipse_kw=None,
        scatter_kw=None,
    ):
        """Draw rows and ellipses.

        Parameters
        ----------
        ax : matplotlib Axes, array-like of Axes or None, default=None
            One axes for each pair of columns, or one that they share. None: a new figure.
        columns : pair, or list of pairs, of int or str, default=(0, 1)
            Columns on the two axes, by number or name; a panel for each pair.
        n_std : float, default=2.0
            Radius of the ellipses in standard deviations.
        order : array-like of shape (n_components,) or None, default=None
            Numbers of the components in the order in which they get their colours and markers. None: as fitted. The
            order of the means makes the colours of several fits comparable.
        min_weight : float, default=0.001
            Components with less weight are left out.
        legend : bool, default=True
            Whether to tell colours and weights of the components.
        ellipse_kw, scatter_kw : dict or None, default=None
            Settings of the ellipses, `matplotlib.patches.Ellipse`, and of the rows, `matplotlib.axes.Axes.scatter`.

        Returns
        -------
        display : MixtureDisplay
            This display.
        """
        means, covariances = as_numbers("means", self.means, 2), as_numbers("covariances", self.covariances, None)
        weights = as_numbers("weights", self.weights)
        K, D = means.shape
        if covariances.shape != (K, D, D) or weights.shape != (K,):
            raise ValueError(
                f"means of shape {means.shape} need covariances of shape {(K, D, D)} and weights of shape {(K,)}, but "
                f"they have {covariances.shape} and {weights.shape}."
            )
        self._check_rows(D)
        if not (isinstance(n_std, Real) and 0 < n_std < np.inf):
            raise ValueError(f"n_std must be a finite number above 0, but it is {n_std!r}.")
        names = names_or("feature_names", self.feature_names, D)
        pairs = pairs_of(columns, names)
        n = len(pairs)
        order = np.arange(K) if order is None else np.atleast_1d(order)
        if order.dtype.kind not in "iu" or sorted(order.tolist()) != list(range(K)):
            raise ValueError(f"order must hold each of the {K} components once, but it is {order.tolist()}.")
        across = 2 if n in (2, 4) else min(n, 3)
        size = (6.4, 4.8) if n == 1 else (3.4 * across, 3.1 * -(-n // across))
        axes = self._get_axes(ax, n, n_columns=across, size=size)
        self.components_ = order[weights[order] >= min_weight]
        self.ellipses_, self.points_ = [], []
        for axis, pair in zip(axes, pairs, strict=True):
            self.points_.append(self._draw_rows(axis, pair, order, scatter_kw))
            shapes = []
            for place, k in enumerate(order):
                if weights[k] >= min_weight:
                    of_pair = means[k][pair], covariances[k][np.ix_(pair, pair)]
                    shapes.append(draw_ellipse(axis, *of_pair, n_std, look_of(place), ellipse_kw))
            self.ellipses_.append(shapes)
            axis.set(xlabel=names[pair[0]], ylabel=names[pair[1]])
            axis.autoscale_view()
            hide_frame(axis)
        if legend:
            handles = self._handles(order, weights)
            if ax is None and n > 1:
                self.figure_.legend(handles=handles, loc="outside center right", frameon=False)
            else:
                place_legend(axes[0], beside=len(handles) > 4, handles=handles)
        return self

    def _check_rows(self, n_features):
        if self.X is None:
            return
        X = as_numbers("X", self.X, 2)
        check_lengths(X=X, labels=self.labels)
        if X.shape[1] != n_features:
            raise ValueError(f"X must have the {n_features} columns of the means, but it has {X.shape[1]}.")

    def _handles(self, order, weights):
        """Entries of the legend: the line, the marker and the weight of each component that is drawn."""
        from matplotlib.lines import Line2D

        handles = []
        for ellipse, k in zip(self.ellipses_[0], self.components_, strict=True):
            place = int(np.flatnonzero(order == k)[0])
            look = {"color": ellipse.get_edgecolor(), "linestyle": ellipse.get_linestyle()}
            look |= {} if self.X is None else {"marker": MARKERS[place % len(MARKERS)], "markersize": 4}
            handles.append(Line2D([], [], label=f"component {k}: {weights[k]:.0%}", **look))
        return handles

    def _draw_rows(self, axis, pair, order, given):
        if self.X is None:
            return []
        X = np.asarray(self.X, dtype=float)[:, pair]
        labels = np.zeros(len(X), dtype=int) if self.labels is None else np.asarray(self.labels)
        whole, drawn = np.isfinite(X).all(axis=1), []
        for place, k in enumerate(order):
            default = {"s": 14, "color": COLOURS[place % len(COLOURS)], "alpha": 0.6, "linewidths": 0}
            default |= {"marker": MARKERS[place % len(MARKERS)]}
            given = {{"c": "color", "lw": "linewidths"}.get(key, key): value for key, value in (given or {}).items()}
            drawn.append(axis.scatter(*X[whole & (labels == k)].T, **default | given))
        return drawn


def look_of(place):
    """Settings of the ellipse that is the `place`-th to get a colour."""
    return {"edgecolor": COLOURS[place % len(COLOURS)], "linestyle": LINES[place % len(LINES)], "linewidth": 2}


def draw_ellipse(axis, mean, covariance, n_std, default, given):
    """Draw the points at `n_std` standard deviations from the mean of a normal distribution of two columns."""
    from matplotlib.patches import Ellipse

    variances, directions = np.linalg.eigh(covariance)
    width, height = 2 * n_std * np.sqrt(np.maximum(variances, 0))
    angle = np.degrees(np.arctan2(*directions[::-1, 0]))
    settings = merged({"facecolor": "none"} | default, given, Ellipse)
    return axis.add_patch(Ellipse(mean, width, height, angle=angle, **settings))


def full_covariances(covariances, covariance_type, n_components, n_features):
    """The covariances of all components as full matrices.

    Parameters
    ----------
    covariances : array-like
        In the shape of `covariance_type`.
    covariance_type : {"full", "tied", "diag", "spherical"}
    n_components, n_features : int
    """
    covariances = np.asarray(covariances, dtype=float)
    K, D = n_components, n_features
    shape, shapes = (K, D, D), {"full": (K, D, D), "tied": (D, D), "diag": (K, D), "spherical": (K,)}
    if covariance_type not in shapes:
        raise ValueError(f"covariance_type must be one of {list(shapes)}, but it is {covariance_type!r}.")
    if covariances.shape != shapes[covariance_type]:
        raise ValueError(
            f"covariance_type={covariance_type!r} needs covariances_ of shape {shapes[covariance_type]}, but they have "
            f"{covariances.shape}; set it back to that of the fit, or fit again."
        )
    if covariance_type in ("full", "tied"):
        return np.broadcast_to(covariances, shape)
    variances = covariances if covariance_type == "diag" else covariances[:, None]
    return np.broadcast_to(variances[:, :, None], shape) * np.eye(D)


def pairs_of(columns, names):
    """Numbers of the columns of each pair."""
    if len(names) < 2:
        raise ValueError(f"An ellipse needs two columns, but the mixture has one, {names[0]}.")
    whole = np.iterable(columns) and not isinstance(columns, str)
    columns = list(columns) if whole else [columns]
    if len(columns) == 2 and all(isinstance(column, str | int | np.integer) for column in columns):
        columns = [columns]
    if not columns:
        raise ValueError("columns must be a pair of columns, or a list of pairs, but it is empty.")
    pairs = []
    for pair in columns:
        pair = [pair] if isinstance(pair, str) or not np.iterable(pair) else list(pair)
        if len(pair) != 2:
            raise ValueError(f"columns must be a pair of columns, or a list of pairs, but it holds {pair}.")
        pairs.append([_number_of(column, names) for column in pair])
    return pairs


def _number_of(column, names):
    if isinstance(column, str):
        if column not in names:
            raise ValueError(f"columns names {column!r}, but the columns are {names}.")
        return names.index(column)
    if not isinstance(column, int | np.integer):
        raise ValueError(f"columns must hold numbers or names of columns, but it holds {column!r}.")
    if not -len(names) <= column < len(names):
        raise ValueError(f"columns has {column}, but there are only {len(names)} columns.")
    return int(column) % len(names)
