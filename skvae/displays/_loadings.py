"""A heat map of loadings."""

import numpy as np

from skvae.displays._plotting import Display, as_numbers, check_has, column_names, names_or

_MOST_NUMBERS = 200  # cells that have their number written in them
_DARK = 0.6  # share of the largest value from which the number is white


class LoadingsDisplay(Display):
    """Heat map of the loadings of a factor model: one row for each column of the table, one column for each factor.

    Create it by `from_estimator`. Read more in the :doc:`user guide </user_guide/displays>`.

    Parameters
    ----------
    loadings : array-like of shape (n_features, n_components)
        The values; the sign is shown by the colour.
    feature_names : list of str or None, default=None
        Names of the rows; None: x0, x1, ...
    component_names : list of str or None, default=None
        Names of the columns; None: their numbers, from 0.
    value_name : str, default="loading"
        What the values are.

    Attributes
    ----------
    image_ : matplotlib AxesImage
        The heat map.
    text_ : ndarray of matplotlib Text of shape (n_features, n_components), or None
        The numbers in the cells, if they are drawn.
    colorbar_ : matplotlib Colorbar or None
        The colour bar, if it is drawn.
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skvae import FactorAnalysisEM
    >>> from skvae.displays import LoadingsDisplay
    >>> X = StandardScaler().set_output(transform="pandas").fit_transform(load_wine(as_frame=True).data)
    >>> display = LoadingsDisplay.from_estimator(FactorAnalysisEM(2, rotation="varimax").fit(X))
    >>> display.image_.get_array().shape, display.ax_.get_yticklabels()[0].get_text()
    ((13, 2), 'alcohol')
    """

    def __init__(self, loadings, *, feature_names=None, component_names=None, value_name="loading"):
        self.loadings = loadings
        self.feature_names = feature_names
        self.component_names = component_names
        self.value_name = value_name

    @classmethod
    def from_estimator(cls, estimator, *, feature_names=None, component_names=None, sort=True, ax=None, **kwargs):
        """Draw the loadings of a fitted factor model.

        Parameters
        ----------
        estimator : fitted estimator
            With the attribute `components_`, such as `FactorAnalysisEM`, `ProbabilisticPCA`, or scikit-learn's
            `FactorAnalysis` and `PCA`.
        feature_names : list of str or None, default=None
            Names of the columns. None: those of the DataFrame of the fit, or x0, x1, ...
        component_names : list of str or None, default=None
            Names of the factors. None: their numbers, from 0.
        sort : bool, default=True
            Whether to put the factors in order of the sum of their squared loadings, and to choose their signs, which
            are arbitrary, so that the sum of the loadings of each is not negative. A factor keeps its number.
        ax : matplotlib Axes or None, default=None
            None: a new figure.
        **kwargs : dict
            Further arguments of `plot`.

        Returns
        -------
        display : LoadingsDisplay
        """
        check_has(cls, estimator, "components_", what="the loadings of a factor model")
        loadings = np.asarray(estimator.components_, dtype=float).T
        feature_names = column_names(estimator, len(loadings), feature_names)
        component_names = names_or("component_names", component_names, loadings.shape[1], letter="")
        if sort:
            loadings = loadings * np.where(loadings.sum(axis=0) < 0, -1, 1)
            order = np.argsort(-(loadings**2).sum(axis=0), kind="stable")
            loadings, component_names = loadings[:, order], [component_names[k] for k in order]
        display = cls(loadings, feature_names=feature_names, component_names=component_names)
        return display.plot(ax, **kwargs)

    def plot(self, ax=None, *, include_values="auto", values_format=".2f", colorbar=True, image_kw=None, text_kw=None):
        """Draw the heat map.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            None: a new figure.
        include_values : bool or "auto", default="auto"
            Whether to write the numbers in the cells. "auto": up to 200 cells.
        values_format : str, default=".2f"
            Format of the numbers.
        colorbar : bool, default=True
            Whether to draw the colour bar.
        image_kw, text_kw : dict or None, default=None
            Settings of the image, as those of `matplotlib.axes.Axes.imshow`, and of the numbers.

        Returns
        -------
        display : LoadingsDisplay
            This display.
        """
        values = as_numbers("loadings", self.loadings, None)
        if values.ndim != 2:
            raise ValueError(f"loadings must have the shape (n_features, n_components), but it is {values.shape}.")
        D, K = values.shape
        axis = self._get_axes(ax, size=(min(max(6.4, 2.5 + 0.45 * K), 10), min(max(4.8, 1 + 0.27 * D), 10)))
        largest = np.nanmax(np.abs(values), initial=0) or 1.0
        settings = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest, "aspect": "auto", "interpolation": "nearest"}
        self.image_ = axis.imshow(values, **settings | (image_kw or {}))
        self.text_ = None
        if include_values is True or (include_values == "auto" and values.size <= _MOST_NUMBERS):
            self.text_ = self._write(axis, values, values_format, text_kw)
        names = names_or("feature_names", self.feature_names, D)
        every = -(-D // 50)
        axis.set_yticks(range(0, D, every), names[::every])
        numbers = names_or("component_names", self.component_names, K, letter="")
        turned = max(map(len, numbers)) > 2 and sum(map(len, numbers)) > 40
        every = -(-K // 40)
        axis.set_xticks(range(0, K, every), numbers[::every], rotation=90 if turned else 0)
        axis.set_xlabel("factor")
        self.colorbar_ = axis.figure.colorbar(self.image_, ax=axis, label=self.value_name) if colorbar else None
        return self

    def _write(self, axis, values, values_format, given):
        text = np.empty(values.shape, dtype=object)
        most = max(map(abs, self.image_.get_clim()))
        default = {"ha": "center", "va": "center", "fontsize": 9 if values.shape[1] < 9 else 7}
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if abs(value) > _DARK * most else "black"
            number = format(value + 0.0, values_format)
            number = number.removeprefix("-") if float(number) == 0 else number  # no minus before zero
            text[row, column] = axis.text(column, row, number, **default | {"color": colour} | (given or {}))
        return text
