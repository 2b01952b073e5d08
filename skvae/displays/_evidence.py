"""The evidence and its bound over the iterations of a fit."""

import warnings

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, resample

from skvae.displays._plotting import COLOURS, Display, as_numbers, check_lengths, hide_frame, merged, place_legend
from skvae.inspection._evidence import check_has_density, evidence_decomposition
from skvae.metrics._pipelines import transformed, unwrap

_ITERATIONS = 10  # of a mixture, from which on steps are too small to be seen
_NEXT = 1.3  # ratio of the numbers of the epochs that are looked at
_EVIDENCE, _BOUND, _GAP = COLOURS[6], COLOURS[0], COLOURS[4]


class EvidenceDisplay(Display):
    """Mean log-evidence and bound over the iterations of a fit: where the bound touches, and where a gap stays.

    Expectation maximisation raises the bound in turns. Each E-step takes the exact posterior as q, and the bound
    touches the evidence; each M-step moves the parameters, so that both rise, and the bound falls behind. A variational
    autoencoder has no exact posterior: its gap stays. Create it by `from_estimator`. Read more in the
    :doc:`user guide </user_guide/evidence>`.

    Parameters
    ----------
    steps : ndarray of shape (n_points,)
        Number of the iteration or epoch. Half steps lie between: the E-step of iteration t at t - 0.5, its M-step at t.
    log_evidence : ndarray of shape (n_points,)
        Mean of log p(x) over rows, nats.
    lower_bounds : ndarray of shape (n_points,)
        Mean of the bound over the same rows, nats.
    standard_error : ndarray of shape (n_points,) or None, default=None
        Standard error of `log_evidence` by its draws; None: it is exact.
    half_steps : bool, default=False
        Whether E-steps and M-steps take turns, beginning and ending with an E-step.
    unit : {"iteration", "epoch"}, default="iteration"
        What is counted; epochs are drawn on a logarithmic scale.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The panel.
    figure_ : matplotlib Figure
        The figure.
    evidence_line_ : matplotlib Line2D
        Curve of the log-evidence.
    bound_line_ : matplotlib Line2D
        Curve of the bound.
    gap_ : matplotlib PolyCollection
        The area between them.
    e_steps_, m_steps_ : matplotlib Line2D or None
        Marks of the bound after E-steps and after M-steps, with half steps.

    See Also
    --------
    skvae.inspection.evidence_decomposition : The gap of each row after the fit, and its parts.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import GaussianMixtureEM
    >>> from skvae.displays import EvidenceDisplay
    >>> mixture = GaussianMixtureEM(3, covariance_type="diag", random_state=0)
    >>> display = EvidenceDisplay.from_estimator(mixture, load_wine().data, max_iter=5)
    >>> gap = display.log_evidence - display.lower_bounds
    >>> bool((gap[::2] < 1e-9).all() and (gap[1::2] > 0).all())
    True
    """

    def __init__(self, steps, log_evidence, lower_bounds, *, standard_error=None, half_steps=False, unit="iteration"):
        self.steps = steps
        self.log_evidence = log_evidence
        self.lower_bounds = lower_bounds
        self.standard_error = standard_error
        self.half_steps = half_steps
        self.unit = unit

    @classmethod
    def from_estimator(
        cls, estimator, X, *, max_iter=None, max_rows=200, n_draws=128, random_state=0, ax=None, **kwargs
    ):
        """Fit a clone to X, and draw evidence and bound on the way.

        Parameters
        ----------
        estimator : estimator
            A mixture, a factor model or a `VAETransformer`, fitted or not; or a fitted pipeline that ends with one or a
            fitted search over them.
        X : {array-like, DataFrame} of shape (n_samples, n_features)
            Rows to fit to.
        max_iter : int or None, default=None
            Number of iterations. None: 10 of a mixture, else as the estimator says.
        max_rows : int, default=200
            Of a network, evidence and bound are means over at most so many rows of X, drawn at random.
        n_draws : int, default=128
            Draws of z for each row and point where the evidence is not exact.
        random_state : int, RandomState instance or None, default=0
            Chooses the rows, and seeds a fit whose own random_state is None.
        ax : matplotlib Axes or None, default=None
            As of `plot`.
        **kwargs : dict
            Further arguments of `plot`.

        Returns
        -------
        display : EvidenceDisplay

        Raises
        ------
        TypeError
            If the estimator has no density, or integrates over its parameters.

        Notes
        -----
        Mixtures are fitted from one start and without acceleration, whose steps are other steps. All half steps are
        drawn. Factor models converge by accelerated steps, and are drawn after each: bound and evidence coincide. Of a
        network, epochs 1, 2, 3, 4, 6, 8, 11, ... are looked at; of several copies that are trained together, the first.
        """
        transforms, model = unwrap(estimator)
        check_has_density(model, f"{cls.__name__}.from_estimator")
        if not model._evidence_is_known:
            raise TypeError(
                f"{type(model).__name__} integrates over its parameters, and the evidence of that is not known: only "
                "its bound can be drawn, lower_bounds_."
            )
        X, rng = transformed(transforms, X), _generator(random_state)
        model = clone(model)
        if model.get_params().get("random_state", 0) is None:
            model.set_params(random_state=rng.randint(2**31 - 1))
        if hasattr(model, "predict_proba"):
            numbers = _half_steps(model, X, _ITERATIONS if max_iter is None else max_iter)
        else:
            numbers = _whole_steps(model, X, max_iter, max_rows, n_draws, rng)
        return cls(**numbers).plot(ax, **kwargs)

    def plot(self, ax=None, *, evidence_kw=None, bound_kw=None, gap_kw=None):
        """Draw the curves and the gap between them.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            None: a new figure.
        evidence_kw, bound_kw, gap_kw : dict or None, default=None
            Settings of the two lines, as of ``Axes.plot``, and of the area, as of ``Axes.fill_between``.

        Returns
        -------
        display : EvidenceDisplay
            Itself.
        """
        steps, evidence = as_numbers("steps", self.steps), as_numbers("log_evidence", self.log_evidence)
        bounds = as_numbers("lower_bounds", self.lower_bounds)
        check_lengths(steps=steps, log_evidence=evidence, lower_bounds=bounds)
        axis = self._get_axes(ax)
        from matplotlib.collections import PolyCollection
        from matplotlib.lines import Line2D

        marker = {} if len(steps) > 1 else {"marker": "o"}
        area = {"color": _GAP, "alpha": 0.35, "linewidth": 0, "label": "gap"}
        self.gap_ = axis.fill_between(steps, bounds, evidence, **merged(area, gap_kw, PolyCollection))
        upper = {"color": _EVIDENCE, "label": "log-evidence"} | marker
        (self.evidence_line_,) = axis.plot(steps, evidence, **merged(upper, evidence_kw, Line2D))
        lower = {"color": _BOUND, "linestyle": "--", "label": "bound"} | marker
        (self.bound_line_,) = axis.plot(steps, bounds, **merged(lower, bound_kw, Line2D))
        self.e_steps_ = self.m_steps_ = None
        if self.half_steps:
            marks = {"linestyle": "none", "color": _BOUND, "markersize": 6}
            e_step = marks | {"marker": "o", "label": "after an E-step"}
            m_step = marks | {"marker": "v", "label": "after an M-step", "markerfacecolor": "white"}
            (self.e_steps_,) = axis.plot(steps[::2], bounds[::2], **e_step)
            (self.m_steps_,) = axis.plot(steps[1::2], bounds[1::2], **m_step)
        elif self.unit == "epoch" and len(steps) > 1:
            axis.set_xscale("log")
        axis.set(xlabel=self.unit, ylabel="nats per row")
        hide_frame(axis)
        place_legend(axis, beside=False)
        return self


class _Recorder:
    """A callback that keeps the estimator as it is after some iterations or epochs."""

    def __init__(self, ratio=1.0):
        self.ratio, self.number, self.due = ratio, 0, 1
        self.unit, self.numbers, self.models = "iteration", [], []

    def setup(self, estimator, context): ...

    def teardown(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context): ...

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if context.task_name not in ("iteration", "epoch"):
            return
        self.unit, self.number = context.task_name, self.number + 1
        if self.number >= self.due:
            self.due = max(self.number + 1, round(self.number * self.ratio))
            self.numbers.append(self.number)
            self.models.append(fitted_estimator)


def _generator(random_state):
    return np.random.RandomState() if random_state is None else check_random_state(random_state)


def _fitted(model, X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a few iterations are asked for
        return model.fit(X)


def _half_steps(model, X, max_iter):
    """Evidence and bound of a mixture after each E-step and each M-step."""
    model.set_params(n_init=1, acceleration=None, warm_start=False)
    first = _fitted(clone(model).set_params(max_iter=0), X)
    recorder = _Recorder()
    _fitted(model.set_params(max_iter=max_iter).set_callbacks(recorder), X)
    models = [first, *recorder.models]
    evidence = np.array([each.score_samples(X).mean(dtype=np.float64) for each in models])
    behind = [_mean_kl(old.predict_proba(X), new.predict_proba(X)) for old, new in zip(models[:-1], models[1:])]
    gap = np.zeros(2 * len(models) - 1)
    gap[1::2] = behind
    log_evidence = np.concatenate([evidence[:1], np.repeat(evidence[1:], 2)])
    steps = 0.5 + 0.5 * np.arange(len(gap))
    return {"steps": steps, "log_evidence": log_evidence, "lower_bounds": log_evidence - gap, "half_steps": True}


def _mean_kl(old, new):
    """Mean over rows of KL(old || new): how far the bound with the old posterior is below the evidence."""
    old, new = old.astype(np.float64), new.astype(np.float64)
    return float((old * (np.log(old) - np.log(new))).sum(axis=1).mean())


def _whole_steps(model, X, max_iter, max_rows, n_draws, rng):
    """Evidence and bound after iterations or epochs."""
    if max_iter is not None:
        model.set_params(max_iter=max_iter)
    recorder = _Recorder(_NEXT)
    fitted = _fitted(model.set_callbacks(recorder), X)
    if not recorder.models:  # factor analysis was kept without any epoch
        recorder.numbers, recorder.models = [1], [fitted]
    if recorder.unit == "epoch" and len(X) > max_rows:
        X = resample(X, replace=False, n_samples=max_rows, random_state=rng)
    parts = [evidence_decomposition(each, X, n_draws=n_draws, split_gap=False) for each in recorder.models]
    return {
        "steps": np.array(recorder.numbers),
        "log_evidence": np.array([part.log_evidence.mean() for part in parts]),
        "lower_bounds": np.array([part.elbo.mean() for part in parts]),
        "standard_error": np.array([np.sqrt((part.standard_error**2).sum()) / len(part.elbo) for part in parts]),
        "unit": recorder.unit,
    }
