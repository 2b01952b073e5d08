"""The course of a fit: bound, held-out score and KL weight."""

import numpy as np

from skvae.displays._plotting import (
    Display,
    as_numbers,
    check_has,
    check_lengths,
    hide_frame,
    merged,
    place_legend,
    use_palette,
)

_BOUND, _SCORE = ("lower bound", "nats per row"), ("held-out rows", "nats per row")

_FEW = 10  # points that are marked


class FitHistoryDisplay(Display):
    """Bound and validation score of each iteration of a fit, with the weight of the KL term.

    Validation scores in the units of the bound are drawn in its panel; others, such as the ranking of held-out users,
    have a panel of their own. The weight of the KL term has one if it changes during the fit. Create it by
    `from_estimator`. Read more in the :doc:`user guide </user_guide/displays>`.

    Parameters
    ----------
    lower_bounds : array-like of shape (n_iterations,)
        Bound after each iteration.
    validation_scores : array-like of shape (n_validations,) or None, default=None
        Score of held-out rows at each validation.
    validation_epochs : array-like of shape (n_validations,) or None, default=None
        Number of iterations done at each validation. None: one validation after each iteration.
    kl_weights : array-like of shape (n_iterations,) or None, default=None
        Weight of the KL term in each iteration.
    name : str or None, default=None
        Name of the fit, for the legend.
    iteration_name : str, default="iteration"
        Word for an iteration.
    bound_and_units, score_and_units : tuple of (str, str)
        What the bound and the score are, and their units.

    Attributes
    ----------
    bound_line_ : matplotlib Line2D
        Curve of the bound.
    score_line_ : matplotlib Line2D or None
        Curve of the validation scores, if there are any.
    weight_line_ : matplotlib Line2D or None
        Curve of the KL weight, if it is drawn.
    axes_ : ndarray of matplotlib Axes
        The panels, from the top.
    figure_ : matplotlib Figure
        The figure.

    See Also
    --------
    KLDisplay : The KL term of each latent dimension after the fit.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer
    >>> from skvae.displays import FitHistoryDisplay
    >>> vae = VAETransformer(2, max_iter=30, annealing="linear", early_stopping=False, random_state=0)
    >>> display = FitHistoryDisplay.from_estimator(vae.fit(load_wine().data))
    >>> len(display.axes_), len(display.bound_line_.get_xdata())
    (2, 30)
    """

    def __init__(
        self,
        lower_bounds,
        *,
        validation_scores=None,
        validation_epochs=None,
        kl_weights=None,
        name=None,
        iteration_name="iteration",
        bound_and_units=_BOUND,
        score_and_units=_SCORE,
    ):
        self.lower_bounds = lower_bounds
        self.validation_scores = validation_scores
        self.validation_epochs = validation_epochs
        self.kl_weights = kl_weights
        self.name = name
        self.iteration_name = iteration_name
        self.bound_and_units = bound_and_units
        self.score_and_units = score_and_units

    @classmethod
    def from_estimator(cls, estimator, *, name=None, ax=None, **kwargs):
        """Draw the course of the last fit of an estimator.

        Parameters
        ----------
        estimator : fitted estimator
            With the attribute `lower_bounds_`: a mixture, a factor model, K-means, an autoencoder, a recommender with
            epochs, or scikit-learn's mixtures.
        name : str or None, default=None
            Name of the fit, for the legend.
        ax : matplotlib Axes, array-like of Axes or None, default=None
            As of `plot`. Give `display.axes_` to draw a second fit over a first.
        **kwargs : dict
            Further arguments of `plot`.

        Returns
        -------
        display : FitHistoryDisplay
        """
        check_has(cls, estimator, "lower_bounds_", what="the bound after each iteration of a fit")
        scores = getattr(estimator, "validation_scores_", ())
        display = cls(
            np.asarray(estimator.lower_bounds_, dtype=float),
            validation_scores=scores if len(scores) else None,
            validation_epochs=getattr(estimator, "validation_epochs_", None),
            kl_weights=getattr(estimator, "kl_weights_", None),
            name=name,
            iteration_name=getattr(estimator, "_iteration", "iteration"),
            bound_and_units=getattr(estimator, "_bound_and_units", _BOUND),
            score_and_units=getattr(estimator, "_score_and_units", _SCORE),
        )
        return display.plot(ax, **kwargs)

    def plot(self, ax=None, *, kl_weight="auto", bound_kw=None, score_kw=None, weight_kw=None):
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, array-like of Axes or None, default=None
            One axes for each panel, or one that the panels share. None: a new figure.
        kl_weight : bool or "auto", default="auto"
            Whether to draw the weight of the KL term. "auto": if it changes during the fit.
        bound_kw, score_kw, weight_kw : dict or None, default=None
            Settings of the lines, as those of `matplotlib.axes.Axes.plot`.

        Returns
        -------
        display : FitHistoryDisplay
            This display.
        """
        bounds = as_numbers("lower_bounds", self.lower_bounds)
        together = self.score_and_units[1] == self.bound_and_units[1]
        has_scores, weights = self.validation_scores is not None, self._weights(kl_weight)
        if has_scores:
            done = {"lower_bounds": bounds} if self.validation_epochs is None else {"validation_epochs": self._epochs()}
            check_lengths(validation_scores=as_numbers("validation_scores", self.validation_scores), **done)
        n_panels = 1 + (has_scores and not together) + (weights is not None)
        axes = self._get_axes(ax, n_panels, size=(6.4, 2.2 + 1.8 * n_panels))
        prefix = "" if self.name is None else f"{self.name}, "
        marker = {"marker": "o"} if len(bounds) < _FEW else {}
        for axis in axes:
            use_palette(axis)
            hide_frame(axis)

        label = f"{prefix}training" if has_scores and together else self.name
        iterations = np.arange(1, len(bounds) + 1)
        self.bound_line_ = self._draw(axes[0], iterations, bounds, {"label": label} | marker, bound_kw)
        axes[0].set_ylabel((", " if n_panels == 1 else ",\n").join(self.bound_and_units))
        own = {"color": self.bound_line_.get_color(), "linestyle": self.bound_line_.get_linestyle()}
        self.score_line_ = self.weight_line_ = None
        if has_scores:
            self.score_line_ = self._draw_scores(axes[0 if together else 1], together, prefix, own, score_kw)
        if weights is not None:
            epochs = np.arange(1, len(weights) + 1)
            self.weight_line_ = self._draw(axes[-1], epochs, weights, own | {"label": self.name}, weight_kw)
            axes[-1].set_ylabel("KL weight")
        self._label_iterations(axes)
        return self

    def _weights(self, asked):
        """The weights of the KL term, or None if they are not to be drawn."""
        if asked is True and self.kl_weights is None:
            raise ValueError("kl_weight=True needs the weights of the KL term, but this fit has none.")
        if asked is False or self.kl_weights is None:
            return None
        weights = as_numbers("kl_weights", self.kl_weights, None)  # of several layers a column for each
        return weights if asked is True or np.ptp(weights, axis=0).any() else None

    def _epochs(self):
        return as_numbers("validation_epochs", self.validation_epochs)

    @staticmethod
    def _draw(axis, x, y, default, given):
        from matplotlib.lines import Line2D

        (line,) = axis.plot(x, y, **merged(default, given, Line2D))
        return line

    def _draw_scores(self, axis, together, prefix, own, given):
        scores = np.asarray(self.validation_scores, dtype=float)
        done = np.arange(1, len(scores) + 1) if self.validation_epochs is None else self._epochs()
        default = own | {"label": self.name}
        if together:  # the same colour as the curve of the bound, but points
            default = own | {"label": f"{prefix}{self.score_and_units[0]}", "linestyle": ":", "marker": "."}
        elif len(scores) < _FEW:
            default["marker"] = "o"
        line = self._draw(axis, done, scores, default, given)
        if not together:
            axis.set_ylabel("\n".join(self.score_and_units))
        return line

    def _label_iterations(self, axes):
        from matplotlib.ticker import MaxNLocator

        for axis in axes:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axis.ticklabel_format(axis="y", useOffset=False)
        for axis in axes[:-1]:
            axis.tick_params(labelbottom=False)
        for axis in axes[1:]:
            if axis not in axes[0].get_shared_x_axes().get_siblings(axes[0]):
                axis.sharex(axes[0])
        axes[-1].set_xlabel(self.iteration_name)
        if n := len(axes[0].get_legend_handles_labels()[1]):
            place_legend(axes[0], beside=n > 4)
