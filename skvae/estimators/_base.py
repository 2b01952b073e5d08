"""What all estimators share: state that is set as a whole or not at all, and that knows its version."""

import abc
import contextlib
import inspect

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import InconsistentVersionWarning

from skvae import _reduce
from skvae._compat import CALLBACK_STATE, CallbackSupportMixin, warn
from skvae._version import __version__
from skvae.engines import checkpoints
from skvae.estimators.checkpoints._facts import said
from skvae.estimators.checkpoints._resuming import resumable
from skvae.tables.columns import listed
from skvae.tables.weights import agree_in_weights, checked_weight

_TERRIBLE = -1e5  # nats of a row, from which score looks for columns that should be constant


class Estimator(CallbackSupportMixin, BaseEstimator):
    """What all estimators of the package have in common."""

    _parameter_constraints = {}  # of a subclass: parameter names to what scikit-learn checks of them

    # What displays write on their axes: the word for an iteration, what `lower_bounds_` and `validation_scores_` are,
    # and their units. Scores in the units of the bound are drawn beside it.
    _iteration = "iteration"
    _bound_and_units = ("lower bound", "nats per row")
    _score_and_units = ("held-out rows", "nats per row")
    _has_normal_prior = False  # whether z ~ N(0, I), or N(0, factor_correlation_)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for base in cls.__mro__:
            _hide_shared_class(base)

    @classmethod
    def _get_param_names(cls):
        if "_param_names" not in vars(cls):  # to read the signature of a constructor anew takes part of a small fit
            cls._param_names = tuple(super()._get_param_names())
        return list(cls._param_names)

    def __getstate__(self):
        return {**super().__getstate__(), "_skvae_version": __version__}

    def __setstate__(self, state):
        state = dict(state)
        written_by = state.pop("_skvae_version", None)
        if written_by != __version__:
            warn(
                InconsistentVersionWarning(
                    estimator_name=type(self).__name__,
                    current_sklearn_version=f"(skvae) {__version__}",
                    original_sklearn_version=f"(skvae) {written_by}",
                ),
            )
        super().__setstate__(state)

    @contextlib.contextmanager
    def _unchanged_on_error(self):
        """Leave the estimator as it was if the block fails, half-set attributes and all.

        With `data_parallel`, the block is shared with the other processes.
        """
        before = vars(self).copy()
        try:
            with self._shared(), checkpoints.kept_in(None):
                if _reduce.is_shared():
                    _reduce.agree(**self._said_parameters())
                yield
        except BaseException:
            running = {name: value for name, value in vars(self).items() if name in CALLBACK_STATE}
            vars(self).clear()
            vars(self).update(before | running)
            raise

    def _resumable(self, X, **given):
        """A block with a fit to X that goes on from the file of the parameter `checkpoint`, and writes it.

        `given`: the other arguments of `fit` that count. Call it in a block of `_unchanged_on_error`.
        """
        return resumable(self, X, given, of_a_clone="_is_clone" in vars(self))

    def __sklearn_clone__(self):
        clone = super().__sklearn_clone__()
        if getattr(self, "checkpoint", None) is not None:
            clone._is_clone = True  # which must not write the file of another
        return clone

    def _validate_params(self):
        """Check the parameters as scikit-learn does, before a fit; a wrong one of one process is told to all.

        The others hear of it at the first step of their fits: nothing is shared where all is well, since scikit-learn
        does not come here before a `partial_fit` of an estimator that is fitted.
        """
        try:
            super()._validate_params()
        except Exception:
            with self._shared():
                raise

    def _shared(self):
        """A block whose sums are those over all processes, if `data_parallel` says so."""
        return _reduce.shared(getattr(self, "data_parallel", False))

    def _said_parameters(self):
        """The class and those parameters in which the processes of a shared fit must agree, as texts by name."""
        own = {"device", "verbose", "checkpoint"}
        given = {name: value for name, value in self.get_params(deep=False).items() if name not in own}
        given["checkpoint"] = getattr(self, "checkpoint", None) is not None  # whatever its path on each machine
        if not isinstance(given.get("random_state"), int):
            given["random_state"] = None  # the first process draws a seed for all
        return {"estimator": type(self).__name__} | {name: said(value) for name, value in given.items()}

    def _set(self, **attributes):
        for name, value in attributes.items():
            setattr(self, name, value)
        return self


def _hide_shared_class(base):
    """Let Python's errors say "fit_covariance() missing ...", without the name of a class that no user knows.

    A class of the package is shared, and not public, if its module's name begins with an underscore.
    """
    package, _, module = base.__module__.rpartition(".")
    if package.startswith("skvae.") and module.startswith("_"):
        for name, function in vars(base).items():
            while inspect.isfunction(function):
                function.__qualname__ = name
                function = getattr(function, "__wrapped__", None)


class LikelihoodScoreMixin:
    """What follows for an estimator whose `score_samples` are log-likelihoods: a density of the package."""

    _measure = "density"  # of all columns; "probability" of levels
    _evidence_is_known = True  # False: `fit` raises the bound of an evidence in which the parameters are integrated out

    @abc.abstractmethod
    def _evidence_terms(self, X, n_draws=None, random_state=None, *, find_best=True):
        """Take log p(x) of each row apart, for `skvae.inspection.evidence_decomposition`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        n_draws, random_state
            As of `evidence_decomposition`; not read where log p(x) needs no draws.
        find_best : bool, default=True
            Whether to find the best bound of each row.

        Returns
        -------
        terms : EvidenceTerms
        """

    def _column_measures(self):
        """Say of each column of X what the fitted model gives: "density", or "probability" of a level or a count.

        Returns
        -------
        measures : list of str, of length n_features
        """
        return [self._measure] * self.n_features_in_

    def score(self, X, y=None, sample_weight=None):
        """Mean log-likelihood of the rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            How often each row counts.

        Returns
        -------
        score : float
            Nats a row, as of `score_samples`.
        """
        with self._shared():
            scores = self.score_samples(X)
            score = mean_score(scores, sample_weight)
        changed = self._changed_constants(X) if scores.min(initial=0.0) < _TERRIBLE else []
        if changed:
            columns = listed(changed, getattr(self, "feature_names_in_", None))
            warn(
                f"{type(self).__name__}.score is {score:.3g}, since column(s) {columns} did "
                "not vary in the rows of the fit and have other values here: their variance is taken to be 1e-12. Drop "
                "them, or fit to rows in which they vary.",
                UserWarning,
            )
        return score

    def _changed_constants(self, X):
        """List the columns that were constant in the fit, as of a variance of almost 0, and have other values in X."""
        return []

    def anomaly_score(self, X):
        """How unlikely each row is: minus its log-likelihood.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing.

        Returns
        -------
        score : ndarray of shape (n_samples,)
            Nats; higher is stranger.
        """
        return -self.score_samples(X)

    def _log_likelihood(self, X, sample_weight=None):
        """Of all rows together, and their weight."""
        return _total(self.score_samples(X), sample_weight)


def mean_score(scores, sample_weight=None):
    """Mean over rows by weight, as a float."""
    agree_in_weights(sample_weight)
    total, n = _reduce.total(_total(scores, sample_weight))
    return total / n


def _total(scores, sample_weight):
    """The sum over rows by weight, and that of the weights, as floats."""
    scores = scores.astype(np.float64)
    if sample_weight is None:
        return float(scores.sum()), float(len(scores))
    weight = checked_weight(sample_weight, scores)
    return float(scores @ weight), float(weight.sum())
