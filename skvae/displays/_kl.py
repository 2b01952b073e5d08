"""The KL term of each latent dimension."""

import numpy as np

from skvae.displays._plotting import (
    COLOURS,
    Display,
    as_numbers,
    check_has,
    check_lengths,
    has_normal_prior,
    hide_frame,
    merged,
    place_legend,
)

_ACTIVE = 0.01  # variance of the posterior mean from which a latent dimension is active (Burda et al. 2016)


class KLDisplay(Display):
    """KL term of each latent dimension, and which dimensions are active.

    The KL term is the information that a dimension has about a row, in nats. A dimension is active if the mean of its
    posterior differs from row to row, with a variance above 0.01 (Burda, Grosse and Salakhutdinov, ICLR 2016). Bars of
    inactive dimensions are hatched and crossed. Create it by `from_estimator`. Read more in the
    :doc:`user guide </user_guide/displays>`.

    Parameters
    ----------
    kl : array-like of shape (n_components,)
        Mean over rows of KL(q(z_k | x) || p(z_k)), in nats.
    active : array-like of bool of shape (n_components,) or None, default=None
        Whether each dimension is active; None if this is not known.
    unit : str, default="nats per row"
        Units of the KL term.

    Attributes
    ----------
    bars_ : matplotlib BarContainer
        The bars, the largest first.
    inactive_points_ : matplotlib Line2D or None
        The crosses at inactive dimensions, if there are any.
    order_ : ndarray of shape (n_components,)
        Number of the dimension of each bar.
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.

    See Also
    --------
    LatentTraversalDisplay : What each dimension stands for.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer
    >>> from skvae.displays import KLDisplay
    >>> X = load_wine().data
    >>> vae = VAETransformer(3, max_iter=30, early_stopping=False, random_state=0).fit(X)
    >>> display = KLDisplay.from_estimator(vae, X)
    >>> len(display.bars_), display.active.shape
    (3, (3,))
    """

    def __init__(self, kl, *, active=None, unit="nats per row"):
        self.kl = kl
        self.active = active
        self.unit = unit

    @classmethod
    def from_estimator(cls, estimator, X=None, *, ax=None, **kwargs):
        """Draw the KL terms of a variational autoencoder.

        Parameters
        ----------
        estimator : fitted estimator
            With a method `posterior` or an attribute `kl_per_dimension_`, such as `VAETransformer`.
        X : {array-like, sparse matrix} of shape (n_samples, n_features) or None, default=None
            Rows over which the mean is taken, with the prior N(0, I). None: `kl_per_dimension_` of the training rows;
            which dimensions are active is then not shown.
        ax : matplotlib Axes or None, default=None
            None: a new figure.
        **kwargs : dict
            Further arguments of `plot`.

        Returns
        -------
        display : KLDisplay
        """
        what = "the KL term of each dimension of a variational autoencoder"
        unit = getattr(estimator, "_bound_and_units", (None, "nats per row"))[1]
        if X is None:
            check_has(cls, estimator, "kl_per_dimension_", what=f"{what}, of the training rows unless X is given")
            return cls(np.asarray(estimator.kl_per_dimension_), unit=unit).plot(ax, **kwargs)
        check_has(cls, estimator, "posterior", what=what)
        if not has_normal_prior(estimator):
            raise TypeError(f"{cls.__name__} needs the prior N(0, I), which {type(estimator).__name__} has not.")
        mean, std = estimator.posterior(X)
        kl = 0.5 * (mean**2 + std**2 - 1 - 2 * np.log(std)).mean(axis=0)
        return cls(kl, active=mean.var(axis=0) > _ACTIVE, unit=unit).plot(ax, **kwargs)

    def plot(self, ax=None, *, max_bars=40, bar_kw=None):
        """Draw the bars.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            None: a new figure.
        max_bars : int or None, default=40
            Number of dimensions with the largest KL terms to draw; None draws all.
        bar_kw : dict or None, default=None
            Settings of the bars, as those of `matplotlib.axes.Axes.bar`.

        Returns
        -------
        display : KLDisplay
            This display.
        """
        kl = as_numbers("kl", self.kl)
        check_lengths(kl=kl, active=self.active)
        if not (max_bars is None or isinstance(max_bars, int | np.integer) and max_bars >= 1):
            raise ValueError(f"max_bars must be None or a whole number from 1, but it is {max_bars!r}.")
        axis = self._get_axes(ax)
        self.inactive_points_ = None
        from matplotlib.patches import Patch

        self.order_ = np.argsort(-kl, kind="stable")[:max_bars]
        places = np.arange(len(self.order_))
        settings = merged({"facecolor": COLOURS[0], "edgecolor": "white", "linewidth": 0.5}, bar_kw, Patch)
        self.bars_ = axis.bar(places, kl[self.order_], **settings)
        if self.active is not None:
            active = np.asarray(self.active, dtype=bool)
            for bar, k in zip(self.bars_, self.order_, strict=True):
                if not active[k]:
                    bar.set(facecolor="white", edgecolor=COLOURS[1], hatch="////")
            at = places[~active[self.order_]]
            if len(at):  # also where the bar is too low to be seen
                crosses = {"color": COLOURS[1], "linestyle": "none", "marker": "x", "label": "inactive"}
                (self.inactive_points_,) = axis.plot(at, kl[self.order_][at], **crosses)
                place_legend(axis, beside=False)
            axis.set_title(f"{active.sum()} of {len(kl)} dimensions active")
        every = -(-len(places) // 15)  # so that the numbers do not touch
        axis.set_xticks(places[::every], self.order_[::every])
        axis.set_xlim(-0.75, max(len(places), 4) - 0.25)
        some = "" if len(places) == len(kl) else f", {len(places)} of {len(kl)}"
        axis.set_xlabel(f"latent dimension{some}")
        axis.set_ylabel(f"KL term, {self.unit}")
        hide_frame(axis)
        return self
