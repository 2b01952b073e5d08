"""What all estimators share: state that is set as a whole or not at all, and that knows its version."""

import contextlib
import warnings
from importlib.metadata import version
from numbers import Integral

import joblib
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.utils import check_random_state

from skvae._compat import CALLBACK_STATE, CallbackSupportMixin, check_sample_weight

_MAX_SEED = 2**31 - 1


class Estimator(CallbackSupportMixin, BaseEstimator):
    """What all estimators of the package have in common."""

    def __getstate__(self):
        return {**super().__getstate__(), "_skvae_version": version("skvae")}

    def __setstate__(self, state):
        state = dict(state)
        written_by = state.pop("_skvae_version", None)
        if written_by != version("skvae"):
            warnings.warn(
                InconsistentVersionWarning(
                    estimator_name=type(self).__name__,
                    current_sklearn_version=f"(skvae) {version('skvae')}",
                    original_sklearn_version=f"(skvae) {written_by}",
                ),
                stacklevel=2,
            )
        super().__setstate__(state)

    @contextlib.contextmanager
    def _unchanged_on_error(self):
        """Leave the estimator as it was if the block fails, half-set attributes and all."""
        before = vars(self).copy()
        try:
            yield
        except BaseException:
            running = {name: value for name, value in vars(self).items() if name in CALLBACK_STATE}
            vars(self).clear()
            vars(self).update(before | running)
            raise

    def _set(self, **attributes):
        for name, value in attributes.items():
            setattr(self, name, value)
        return self


class LikelihoodScoreMixin:
    """What follows for an estimator whose `score_samples` are log-likelihoods."""

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
        return mean_score(self.score_samples(X), sample_weight)

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
    total, n = _total(scores, sample_weight)
    return total / n


def _total(scores, sample_weight):
    """The sum over rows by weight, and that of the weights, as floats."""
    scores = scores.astype(np.float64)
    if sample_weight is None:
        return float(scores.sum()), float(len(scores))
    weight = check_sample_weight(sample_weight, scores, dtype=np.float64, ensure_non_negative=True)
    return float(scores @ weight), float(weight.sum())


def check_n_samples(n_samples):
    """How many rows to draw, as an int; complain of what is no whole number above 0."""
    if not isinstance(n_samples, Integral) or isinstance(n_samples, bool) or n_samples < 1:
        raise ValueError(f"Invalid value for 'n_samples': {n_samples!r}; to draw, it must be whole and n_samples >= 1.")
    return int(n_samples)


def draw_seed(random_state):
    """One integer for a whole fit. None takes fresh entropy from the system, so that no global generator advances."""
    if random_state is None:
        return int(np.random.default_rng().integers(_MAX_SEED))
    return int(check_random_state(random_state).randint(_MAX_SEED))


def checked_sizes(sizes):
    """`hidden_layer_sizes` as a tuple of int."""
    sizes = (sizes,) if isinstance(sizes, Integral) else tuple(sizes)
    if not all(isinstance(size, Integral) and size >= 1 for size in sizes):
        raise ValueError(f"hidden_layer_sizes must hold whole numbers >= 1, such as (600,), but it is {sizes!r}.")
    return tuple(int(size) for size in sizes)


def refuse_another_architecture(estimator, architecture):
    """Of an estimator that is to go on from its fit: what fixes the meaning of its parameters must be as it was."""
    changed = {name: value for name, value in architecture.items() if _differ(estimator._architecture[name], value)}
    if changed:
        fitted = {name: estimator._architecture[name] for name in changed}
        raise ValueError(
            f"{type(estimator).__name__} was fitted with {fitted} and cannot go on with {changed}; call fit with "
            "warm_start=False to begin anew."
        )


def refuse_another_number(estimator, of_what, fitted):
    """Of an estimator that is to go on from its fit: it must be asked for as many as were `fitted`."""
    asked = getattr(estimator, f"n_{of_what}")
    if asked != fitted:
        raise ValueError(
            f"This {type(estimator).__name__} has {fitted} {of_what} and cannot go on with n_{of_what}={asked}; fit a "
            "clone of it."
        )


def _differ(one, other):
    try:
        return bool(one != other)
    except ValueError:  # arrays in a list
        return joblib.hash(one) != joblib.hash(other)
