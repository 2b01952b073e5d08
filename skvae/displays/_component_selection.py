"""A score against the number of components, with the one-standard-error rule."""

import numpy as np

from skvae.displays._curves import as_curves, curves_of, cv_results_of, draw_curves
from skvae.displays._plotting import GREY, Display, place_legend


class ComponentSelectionDisplay(Display):
    """Score against the number of components, with the choice of the one-standard-error rule.

    The best mean score is a random number: with other folds, another number of components would often be the best. The
    rule takes the smallest number of components whose mean score is at most one standard error worse than the best
    (Breiman, Friedman, Olshen and Stone, *Classification and Regression Trees*, 1984, section 3.4.3). The shaded band
    is this standard error. A star marks the best score, and a ring the choice of the rule. Create it by
    `from_cv_results`. Read more in the :doc:`user guide </user_guide/displays>`.

    Parameters
    ----------
    n_components : array-like of shape (n_values,)
        Numbers of components, the simplest model first.
    scores : array-like of shape (n_values,) or (n_curves, n_values)
        Mean scores; NaN where there is none.
    errors : array-like of the shape of `scores` or None, default=None
        Standard errors. Without them the choice is the best score.
    labels : list of str or None, default=None
        Names of the curves.
    greater_is_better : bool, default=True
        False: the best score is the lowest, as of BIC or inertia.
    score_name : str, default="score"
        Name of the score, with its units.
    param_name : str, default="n_components"
        Name of the parameter.

    Attributes
    ----------
    best_ : tuple of (int, str or None)
        Number of components and name of the curve of the best score.
    selected_ : tuple of (int, str or None)
        Those of the choice of the rule.
    containers_ : list of matplotlib ErrorbarContainer
        The curves.
    best_point_, selected_point_ : matplotlib Line2D
        Star and ring. Without a standard error of the best score there is no ring: the second is None.
    band_ : matplotlib artist or None
        The band of one standard error below the best score, if it is known.
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.

    See Also
    --------
    sklearn.model_selection.ValidationCurveDisplay : Makes the fits itself, for one parameter.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skvae import FactorAnalysisEM
    >>> from skvae.displays import ComponentSelectionDisplay
    >>> search = GridSearchCV(FactorAnalysisEM(), {"n_components": [1, 2]}, cv=5).fit(load_iris().data)
    >>> display = ComponentSelectionDisplay.from_cv_results(search)
    >>> display.best_[0] in (1, 2), display.ax_.get_xlabel()
    (True, 'n_components')
    """

    def __init__(
        self,
        n_components,
        scores,
        *,
        errors=None,
        labels=None,
        greater_is_better=True,
        score_name="score",
        param_name="n_components",
    ):
        self.n_components = n_components
        self.scores = scores
        self.errors = errors
        self.labels = labels
        self.greater_is_better = greater_is_better
        self.score_name = score_name
        self.param_name = param_name

    @classmethod
    def from_cv_results(
        cls, search, *, param_name="n_components", metric=None, negate_score=False, score_name=None, ax=None, **kwargs
    ):
        """Draw the scores of a fitted search.

        Parameters
        ----------
        search : fitted search, or dict
            A `GridSearchCV`, another search with `cv_results_`, or its `cv_results_`. If other parameters vary too,
            there is a curve for each combination of these.
        param_name : str, default="n_components"
            Name of the parameter, such as "n_clusters". What comes before "__" in a Pipeline may be left out.
        metric : str or None, default=None
            Name of the score, if the search has several.
        negate_score : bool, default=False
            Whether to draw minus the score: the inertia of K-means, say. The lowest is then the best.
        score_name : str or None, default=None
            Name of the score, with its units. None: "held-out score", or the metric.
        ax : matplotlib Axes or None, default=None
            None: a new figure.
        **kwargs : dict
            Further arguments of `plot`.

        Returns
        -------
        display : ComponentSelectionDisplay
        """
        curves, metric = curves_of(cv_results_of(cls, search), param_name, metric)
        if score_name is None:
            score_name = "held-out score" if metric == "score" else f"held-out {metric}"
        display = cls(
            curves.values,
            -curves.scores if negate_score else curves.scores,
            errors=curves.errors,
            labels=curves.labels,
            greater_is_better=not negate_score,
            score_name=score_name,
            param_name=param_name.rpartition("__")[2],
        )
        return display.plot(ax, **kwargs)

    def plot(self, ax=None, *, scale="auto", line_kw=None, band_kw=None):
        """Draw the curves and mark the choices.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            None: a new figure.
        scale : {"auto", "linear", "log"}, default="auto"
            Scale of the horizontal axis. "auto": logarithmic if the numbers of components differ by a factor of 20.
        line_kw, band_kw : dict or None, default=None
            Settings of the curves, as those of `matplotlib.axes.Axes.errorbar`, and of the band, as those of
            `matplotlib.axes.Axes.axhspan`.

        Returns
        -------
        display : ComponentSelectionDisplay
            This display.
        """
        curves = as_curves(self.n_components, self.scores, self.errors, self.labels)
        best, selected = one_standard_error(curves.scores, curves.errors, self.greater_is_better)
        self.best_, self.selected_ = self._named(curves, best), self._named(curves, selected)
        axis = self._get_axes(ax)
        self.band_ = None
        places, self.containers_ = draw_curves(axis, curves, scale=scale, given=line_kw)
        if curves.errors[best] > 0:
            top = curves.scores[best]
            worse = top - curves.errors[best] if self.greater_is_better else top + curves.errors[best]
            default = {"color": GREY, "alpha": 0.15, "linewidth": 0, "zorder": 0}
            self.band_ = axis.axhspan(top, worse, **default | (band_kw or {}))
        at = {"linestyle": "none", "color": "black", "zorder": 5}
        place, score = places[best[1]], curves.scores[best]
        (self.best_point_,) = axis.plot(place, score, marker="*", markersize=12, label="best", **at)
        self.selected_point_ = None
        if np.isfinite(curves.errors[best]):
            place, score = places[selected[1]], curves.scores[selected]
            ring = {"marker": "o", "markersize": 14, "markerfacecolor": "none", "markeredgewidth": 1.5}
            ring["label"] = "one-standard-error rule"
            (self.selected_point_,) = axis.plot(place, score, **ring, **at)
        axis.set(xlabel=self.param_name, ylabel=self.score_name)
        place_legend(axis, beside=len(curves.scores) > 2)
        return self

    @staticmethod
    def _named(curves, at):
        value = curves.values[at[1]]
        value = int(value) if isinstance(value, np.integer) else value
        return value, None if curves.labels is None else curves.labels[at[0]]


def one_standard_error(scores, errors, greater_is_better=True):
    """Find the best score, and the simplest model that is at most one standard error worse.

    Parameters
    ----------
    scores, errors : ndarray of shape (n_curves, n_values)
        The simplest model in the first column. NaN where there is no score, or no error.
    greater_is_better : bool, default=True

    Returns
    -------
    best, selected : tuple of int
        Row and column.
    """
    gain = scores if greater_is_better else -scores
    if not np.isfinite(gain).any():
        raise ValueError("There is no finite score: every fit of the search failed.")
    gain = np.where(np.isfinite(gain), gain, -np.inf)
    first = np.argmax(gain == gain.max(), axis=None)
    best = tuple(int(place) for place in np.unravel_index(first, gain.shape))
    near = gain >= gain[best] - np.nan_to_num(errors[best])
    column = int(np.argmax(near.any(axis=0)))
    return best, (int(np.argmax(np.where(near[:, column], gain[:, column], -np.inf))), column)
