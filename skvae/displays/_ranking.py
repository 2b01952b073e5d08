"""Ranking metrics against the length of the list, or against a parameter."""

import numpy as np

from skvae.displays._curves import as_curves, curves_of, cv_results_of, draw_curves
from skvae.displays._plotting import GREY, Display, check_has, use_palette
from skvae.metrics import make_ranking_scorer

_SIGNS = {"ndcg": "NDCG", "mrr": "MRR", "dcg": "DCG"}


class RankingDisplay(Display):
    """Ranking metrics against the length k of the list, or against a parameter such as beta.

    Error bars are standard errors: over the users for `from_estimator`, over the folds for `from_cv_results`. Create it
    by one of these. Read more in the :doc:`user guide </user_guide/displays>`.

    Parameters
    ----------
    values : array-like of shape (n_values,)
        Lengths of the list, or values of the parameter.
    scores : array-like of shape (n_values,) or (n_curves, n_values)
        Mean of the metric; NaN where there is none.
    errors : array-like of the shape of `scores` or None, default=None
        Standard errors.
    labels : list of str or None, default=None
        Names of the curves.
    name : str or None, default=None
        Name of the model, for the legend.
    value_name : str, default="k, length of the list"
        What the values are.
    score_name : str, default="metric"
        Name of the metric.

    Attributes
    ----------
    containers_ : list of matplotlib ErrorbarContainer
        The curves.
    baseline_line_, baseline_band_ : matplotlib artists or None
        The baseline and its standard error, if they were given.
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.

    See Also
    --------
    skvae.metrics.make_ranking_scorer : The scorer whose metrics these are.

    Examples
    --------
    >>> from skvae import EASERecommender, PopularityRecommender
    >>> from skvae.datasets import make_interactions
    >>> from skvae.displays import RankingDisplay
    >>> X = make_interactions(300, 80, random_state=0)
    >>> display = RankingDisplay.from_estimator(EASERecommender().fit(X[:200]), X[200:], name="EASE")
    >>> popular = PopularityRecommender().fit(X[:200])
    >>> other = RankingDisplay.from_estimator(popular, X[200:], name="popularity", ax=display.ax_)
    >>> [text.get_text() for text in display.ax_.get_legend().get_texts()]
    ['EASE', 'popularity']
    """

    def __init__(
        self,
        values,
        scores,
        *,
        errors=None,
        labels=None,
        name=None,
        value_name="k, length of the list",
        score_name="metric",
    ):
        self.values = values
        self.scores = scores
        self.errors = errors
        self.labels = labels
        self.name = name
        self.value_name = value_name
        self.score_name = score_name

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y=None,
        *,
        metrics="ndcg",
        ks=(1, 2, 5, 10, 20, 50, 100),
        holdout=0.2,
        seed=0,
        name=None,
        ax=None,
        **kwargs,
    ):
        """Rank hidden items of users, and draw metrics against the length of the list.

        Parameters
        ----------
        estimator : fitted recommender
            With `recommend` or `decision_function`; or a Pipeline that ends in one, or a search.
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of users that the fit has not seen.
        y : {array-like, sparse matrix} of shape (n_users, n_items) or None, default=None
            Held-out interactions. None: a part of each row of X is hidden, the same for all recommenders.
        metrics : str or list of str, default="ndcg"
            "ndcg", "recall", "precision", "dcg", "average_precision", "hit_rate" or "mrr".
        ks : array-like of int, default=(1, 2, 5, 10, 20, 50, 100)
            Lengths of the list. Those above the number of items are left out.
        holdout : float, default=0.2
            Share of each row to hide.
        seed : int, default=0
            Seed of the choice of the hidden items.
        name : str or None, default=None
            Name of the model, for the legend.
        ax : matplotlib Axes or None, default=None
            None: a new figure.
        **kwargs : dict
            Further arguments of `plot`.

        Returns
        -------
        display : RankingDisplay
        """
        if not any(hasattr(estimator, method) for method in ("recommend", "decision_function", "best_estimator_")):
            check_has(cls, estimator, "recommend", what="the lists of a recommender")
        metrics = [metrics] if isinstance(metrics, str) else list(metrics)
        ks = [int(k) for k in ks if k <= np.shape(X)[1]]
        if not ks or any("@" in metric for metric in metrics):
            raise ValueError(
                f"ks must hold lengths up to {np.shape(X)[1]}, the number of items, and metrics no lengths of their "
                f"own, but the lengths in range are {ks} and metrics={metrics}."
            )
        names = [f"{metric}@{k}" for metric in metrics for k in ks]
        per_user = make_ranking_scorer(names, holdout=holdout, seed=seed).scores_of_users(estimator, X, y)
        found = np.array([per_user[name][np.isfinite(per_user[name])] for name in names])
        shape = len(metrics), len(ks)
        errors = np.full(len(found), np.nan)
        if found.shape[1] > 1:
            errors = found.std(axis=1, ddof=1) / np.sqrt(found.shape[1])
        signs = [_SIGNS.get(metric, metric.replace("_", " ")) for metric in metrics]
        display = cls(
            ks,
            found.mean(axis=1).reshape(shape),
            errors=errors.reshape(shape),
            labels=signs if len(metrics) > 1 else None,
            name=name,
            score_name=f"{signs[0]}@k" if len(metrics) == 1 else "mean over users",
        )
        return display.plot(ax, **kwargs)

    @classmethod
    def from_cv_results(cls, search, param_name="beta", *, metric=None, name=None, ax=None, **kwargs):
        """Draw a metric of a fitted search against one of its parameters.

        Parameters
        ----------
        search : fitted search, or dict
            A `GridSearchCV`, another search with `cv_results_`, or its `cv_results_`. If other parameters vary too,
            there is a curve for each combination of these.
        param_name : str, default="beta"
            Name of the parameter. What comes before "__" in a Pipeline may be left out.
        metric : str or None, default=None
            Name of the score, such as "ndcg@100", if the search has several.
        name : str or None, default=None
            Name of the model, for the legend.
        ax : matplotlib Axes or None, default=None
            None: a new figure.
        **kwargs : dict
            Further arguments of `plot`.

        Returns
        -------
        display : RankingDisplay
        """
        curves, metric = curves_of(cv_results_of(cls, search), param_name, metric)
        start, at, k = metric.partition("@")
        display = cls(
            curves.values,
            curves.scores,
            errors=curves.errors,
            labels=curves.labels,
            name=name,
            value_name=param_name.rpartition("__")[2],
            score_name="held-out score" if metric == "score" else f"{_SIGNS.get(start, start)}{at}{k}, mean over folds",
        )
        return display.plot(ax, **kwargs)

    def plot(self, ax=None, *, scale="auto", baseline=None, baseline_name="baseline", line_kw=None):
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            None: a new figure.
        scale : {"auto", "linear", "log"}, default="auto"
            Scale of the horizontal axis. "auto": logarithmic if the values differ by a factor of 20.
        baseline : float, pair of float or None, default=None
            A score to compare with, such as that of popularity, alone or with its standard error.
        baseline_name : str, default="baseline"
            Its name, for the legend.
        line_kw : dict or None, default=None
            Settings of the curves, as those of `matplotlib.axes.Axes.errorbar`.

        Returns
        -------
        display : RankingDisplay
            This display.
        """
        curves = as_curves(self.values, self.scores, self.errors, self.labels)
        axis = self._get_axes(ax)
        use_palette(axis)
        self.baseline_line_ = self.baseline_band_ = None
        if baseline is not None:
            level, *error = np.atleast_1d(baseline).tolist()
            self.baseline_line_ = axis.axhline(level, color=GREY, linestyle=":", label=baseline_name, zorder=0)
            if error:
                ends = level - error[0], level + error[0]
                self.baseline_band_ = axis.axhspan(*ends, color=GREY, alpha=0.2, linewidth=0)
        self.containers_ = draw_curves(axis, curves, scale=scale, given=line_kw, name=self.name)[1]
        axis.set(xlabel=self.value_name, ylabel=self.score_name)
        return self
