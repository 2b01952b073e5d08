"""Rows that a model expects along latent dimensions, or over a plane of two."""

import numbers

import numpy as np
from scipy.stats import norm

from skvae.displays._plotting import GREY, Display, check_has, column_names, dimensions_of

_MOST_NAMES = 30  # columns that have their name at the axis


class LatentTraversalDisplay(Display):
    """Rows that a model expects while one latent dimension moves and the others stay at zero.

    With `image_shape` the rows are drawn as images, a line of images for each dimension. Without it there is a heat map
    for each dimension: it shows by how much the expected value of each column differs from its value at zero.
    `from_plane` draws images over a grid of two dimensions. Create it by `from_estimator` or `from_plane`. Read more in
    the :doc:`user guide </user_guide/displays>`.

    Parameters
    ----------
    expected : array-like of shape (n_lines, n_steps, n_features)
        Expected rows.
    image_shape : tuple of int or None, default=None
        Height, width and, for images in colour, the number of channels. None: heat maps.
    center : array-like of shape (n_features,) or None, default=None
        Expected row at z = 0, from which heat maps show the differences; None: the mean of `expected`.
    scale : array-like of shape (n_features,) or None, default=None
        Units of the differences, such as the standard deviations of the columns. None: the largest difference of each
        column.
    step_names, line_names : list of str or None, default=None
        Names of the steps, and of the lines.
    step_title, line_title : str, default=""
        What the steps and the lines are.
    feature_names : list of str or None, default=None
        Names of the columns; None: x0, x1, ...

    Attributes
    ----------
    images_ : list of matplotlib AxesImage
        One image of all images, or a heat map for each dimension.
    colorbar_ : matplotlib Colorbar or None
        The colour bar of heat maps.
    axes_ : ndarray of matplotlib Axes
        One axes for images; for heat maps, an axes for each dimension.
    figure_ : matplotlib Figure
        The figure.

    See Also
    --------
    LatentSpaceDisplay : Where rows are in the latent space.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skvae import FactorAnalysisEM
    >>> from skvae.displays import LatentTraversalDisplay
    >>> images = load_digits().data
    >>> factors = FactorAnalysisEM(3).fit(images[:, images.std(axis=0) > 1])
    >>> display = LatentTraversalDisplay.from_estimator(factors, components=[0, 2], steps=5)
    >>> len(display.images_), display.expected.shape[:2]
    (2, (2, 5))
    """

    def __init__(
        self,
        expected,
        *,
        image_shape=None,
        center=None,
        scale=None,
        step_names=None,
        line_names=None,
        step_title="",
        line_title="",
        feature_names=None,
    ):
        self.expected = expected
        self.image_shape = image_shape
        self.center = center
        self.scale = scale
        self.step_names = step_names
        self.line_names = line_names
        self.step_title = step_title
        self.line_title = line_title
        self.feature_names = feature_names

    @classmethod
    def from_estimator(
        cls,
        estimator,
        *,
        components="auto",
        steps=7,
        limit=3.0,
        image_shape=None,
        scale=None,
        feature_names=None,
        ax=None,
        **kwargs,
    ):
        """Move one latent dimension at a time.

        Parameters
        ----------
        estimator : fitted estimator
            With `inverse_transform` and `get_feature_names_out`: a factor model, an autoencoder, scikit-learn's `PCA`,
            or a Pipeline that ends in one.
        components : "auto" or list of int, default="auto"
            Dimensions to move, in this order. "auto": the four with the largest KL terms if the estimator knows these,
            else the first four.
        steps : int or array-like of shape (n_steps,), default=7
            Values of the dimension, or how many from -limit to limit.
        limit : float, default=3.0
            Largest value of the dimension: standard deviations of a standard normal prior.
        image_shape : tuple of int or None, default=None
            Height, width and, for images in colour, the number of channels. None: heat maps of the columns.
        scale : array-like of shape (n_features,) or None, default=None
            Units of the differences in heat maps, such as ``X.std(axis=0)``. None: the largest difference of each
            column.
        feature_names : list of str or None, default=None
            Names of the columns. None: those of the DataFrame of the fit, or x0, x1, ...
        ax : matplotlib Axes, array-like of Axes or None, default=None
            As of `plot`.
        **kwargs : dict
            Further arguments of `plot`.

        Returns
        -------
        display : LatentTraversalDisplay
        """
        K = cls._n_components(estimator)
        if isinstance(components, str) and components == "auto":
            last = getattr(estimator, "steps", [(None, estimator)])[-1][1]
            kl = getattr(last, "kl_per_dimension_", np.zeros(0))
            components = np.argsort(-kl, kind="stable")[:4] if len(kl) == K else range(min(K, 4))
        components = dimensions_of(components, K)
        if isinstance(steps, numbers.Integral):
            steps = np.linspace(-limit, limit, steps)
        steps = np.asarray(steps, dtype=float)
        Z = np.zeros((len(components), len(steps), K))
        for line, k in enumerate(components):
            Z[line, :, k] = steps
        center, names = _expected_rows(estimator, np.zeros((1, 1, K)), feature_names)
        display = cls(
            _expected_rows(estimator, Z, feature_names)[0],
            image_shape=image_shape,
            center=center[0, 0],
            scale=scale,
            step_names=[f"{step:.2g}" for step in steps],
            line_names=[f"z{k}" for k in components],
            step_title="value of the dimension",
            feature_names=names,
        )
        return display.plot(ax, **kwargs)

    @classmethod
    def from_plane(cls, estimator, image_shape, *, components=(0, 1), steps=12, ax=None, **kwargs):
        """Draw the images that a model expects over a plane of two latent dimensions.

        The grid is at quantiles of the standard normal distribution, so its cells have equal prior probability. The
        other dimensions stay at zero.

        Parameters
        ----------
        estimator : fitted estimator
            With `inverse_transform` and `get_feature_names_out`.
        image_shape : tuple of int
            Height, width and, for images in colour, the number of channels.
        components : pair of int, default=(0, 1)
            The dimension across and the dimension up.
        steps : int, default=12
            Images on each side of the grid.
        ax : matplotlib Axes or None, default=None
            As of `plot`.
        **kwargs : dict
            Further arguments of `plot`.

        Returns
        -------
        display : LatentTraversalDisplay
        """
        K = cls._n_components(estimator)
        if K < 2:
            raise ValueError(f"A plane needs two latent dimensions, but {type(estimator).__name__} has one.")
        components = dimensions_of(components, K)
        if len(components) != 2:
            raise ValueError(f"A plane has two dimensions, but components={list(components)}.")
        values = norm.ppf((np.arange(steps) + 0.5) / steps)
        Z = np.zeros((steps, steps, K))
        Z[:, :, components[0]] = values
        Z[:, :, components[1]] = values[::-1, None]
        return cls(
            _expected_rows(estimator, Z, None)[0],
            image_shape=image_shape,
            step_names=[f"{value:.1f}" for value in values],
            line_names=[f"{value:.1f}" for value in values[::-1]],
            step_title=f"z{components[0]}",
            line_title=f"z{components[1]}",
        ).plot(ax, **kwargs)

    @classmethod
    def _n_components(cls, estimator):
        what = "the rows that a model expects of latent values"
        check_has(cls, estimator, "inverse_transform", "get_feature_names_out", what=what)
        return len(estimator.get_feature_names_out())

    def plot(self, ax=None, *, image_kw=None):
        """Draw images or heat maps.

        Parameters
        ----------
        ax : matplotlib Axes, array-like of Axes or None, default=None
            One axes for images. For heat maps one for each dimension, or one that they share. None: a new figure.
        image_kw : dict or None, default=None
            Settings, as those of `matplotlib.axes.Axes.imshow`.

        Returns
        -------
        display : LatentTraversalDisplay
            This display.
        """
        expected = np.asarray(self.expected, dtype=float)
        if expected.ndim != 3:
            raise ValueError(
                f"expected must have the shape (n_lines, n_steps, n_features), but it is {expected.shape}."
            )
        self.colorbar_ = None
        if self.image_shape is None:
            self._draw_heat_maps(ax, expected, image_kw or {})
        else:
            self._draw_images(ax, expected, image_kw or {})
        return self

    def _draw_images(self, ax, expected, given):
        n_lines, n_steps, D = expected.shape
        height, width, *channels = self.image_shape
        if D != np.prod(self.image_shape):
            raise ValueError(f"image_shape={tuple(self.image_shape)} does not hold the {D} columns of a row.")
        tiles = expected.reshape(n_lines, n_steps, height, width, *channels).swapaxes(1, 2)
        tiles = tiles.reshape(n_lines * height, n_steps * width, *channels)
        across = 6.4 if n_steps * width >= n_lines * height else 4.8
        size = (across, np.clip((across - 0.6) * n_lines * height / (n_steps * width) + 0.8, 1.8, 9))
        (axis,) = self._get_axes(ax, 1, size=size)
        self.images_ = [axis.imshow(tiles, **{"cmap": "Greys", "interpolation": "nearest"} | given)]
        middle = (np.arange(max(n_steps, n_lines)) + 0.5, -0.5)
        _label(axis.set_xticks, width * middle[0][:n_steps] + middle[1], self.step_names)
        _label(axis.set_yticks, height * middle[0][:n_lines] + middle[1], self.line_names)
        axis.set(xlabel=self.step_title, ylabel=self.line_title)
        axis.set_xticks(width * np.arange(1, n_steps) - 0.5, minor=True)
        axis.set_yticks(height * np.arange(1, n_lines) - 0.5, minor=True)
        axis.grid(which="minor", color=GREY, linewidth=0.4)  # between the images
        axis.tick_params(which="both", length=0)

    def _draw_heat_maps(self, ax, expected, given):
        n_lines, n_steps, D = expected.shape
        center = expected.mean(axis=(0, 1)) if self.center is None else np.asarray(self.center, dtype=float)
        change = expected - center
        largest = np.abs(change).max(axis=(0, 1))
        scale = np.where(largest > 0, largest, 1) if self.scale is None else np.asarray(self.scale, dtype=float)
        if np.shape(scale) not in ((), (D,)) or not (np.isfinite(scale) & (scale > 0)).all():
            raise ValueError(f"scale must hold a finite number above 0 for each of the {D} columns, but it is {scale}.")
        change = change / scale
        across = min(n_lines, 4)
        size = (max(6.4, 1.9 * across + 1.5), min(max(3.2, 1.2 + 0.2 * min(D, 30)) * -(-n_lines // across), 10))
        axes = self._get_axes(ax, n_lines, n_columns=across, size=size)
        names = [f"x{j}" for j in range(D)] if self.feature_names is None else list(self.feature_names)
        most, every = np.abs(change).max() or 1.0, -(-D // _MOST_NAMES)
        settings = {"cmap": "RdBu_r", "vmin": -most, "vmax": most, "aspect": "auto", "interpolation": "nearest"} | given
        self.images_ = []
        for line, (axis, values) in enumerate(zip(axes, change, strict=True)):
            self.images_.append(axis.imshow(values.T, **settings))
            axis.set_yticks(range(0, D, every), names[::every] if line % across == 0 else [])
            axis.set_xlabel("" if self.line_names is None else self.line_names[line])
            _label(axis.set_xticks, np.arange(n_steps), self.step_names, most=5)
        units = "largest = 1" if self.scale is None else "in units of scale"
        self.colorbar_ = axes[0].figure.colorbar(self.images_[-1], ax=list(axes), label=f"change of E[x | z], {units}")


def _label(set_ticks, places, names, most=15):
    """Put the names at their places, at most so many of them; no ticks without names."""
    every = -(-len(places) // most)
    first = (len(places) - 1) % every // 2
    set_ticks([] if names is None else places[first::every], None if names is None else list(names)[first::every])


def _expected_rows(estimator, Z, feature_names):
    """Numeric columns of the rows expected of latent values, of shape (..., n_features), and their names."""
    rows = estimator.inverse_transform(Z.reshape(-1, Z.shape[-1]))
    if hasattr(rows, "select_dtypes"):
        rows = rows.select_dtypes(["number", "bool"])
        if not rows.shape[1]:
            raise TypeError("A traversal draws numeric columns, but the model has none.")
        names = [str(name) for name in rows.columns] if feature_names is None else feature_names
        rows = rows.to_numpy(dtype=float)
    else:
        rows = np.asarray(rows, dtype=float)
        names = column_names(estimator, rows.shape[1], feature_names)
    return rows.reshape(*Z.shape[:-1], rows.shape[1]), names
