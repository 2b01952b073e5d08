"""Fits that a search makes ahead, side by side, and hands to the estimators that it fits one by one.

The search clones its estimator for every candidate and fold, in their order, and calls `fit` on the clone. The network
among the clone's steps takes along the fit that was made ahead for it (`NetworkEstimator.__sklearn_clone__`), and its
`fit` takes that result if it is of the same parameters and rows. Otherwise it fits as ever.
"""

import time
from itertools import product

import joblib
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import check_cv
from sklearn.pipeline import Pipeline

from skvae import _reduce
from skvae._compat import CALLBACKS, check_method_params, safe_split
from skvae.estimators._checks import differ
from skvae.estimators._network import NetworkEstimator
from skvae.training.continuation import Continuation
from skvae.training.stacking import run_all

_CELLS_AT_ONCE = 2**26  # of the training rows of all fits that wait for each other


class FitsAhead:
    """All fits of a search, made side by side.

    Parameters
    ----------
    estimator : estimator object
        Of the search. Its network, if it has one, carries this object until `detach`.
    X, y : array-like
        What scikit-learn can take rows of.
    n_jobs : int or None
        Number of joblib's workers that train.

    Attributes
    ----------
    params : Bunch
        Arguments of the search's `fit`, by whom they are for. The search sets it once it has routed them.
    seconds : list of float
        What each fit took.
    """

    def __init__(self, estimator, X, y, n_jobs):
        self.estimator, self.X, self.y, self.n_jobs = estimator, X, y, n_jobs
        self.params, self.seconds, self.fits, self.made, self.carriers = None, [], [], None, []
        self._attach(estimator, self)

    def __getstate__(self):
        return {}  # workers get the fits of a clone, never all of them

    def _attach(self, estimator, fits):
        network = _steps(estimator)[1]
        if isinstance(network, NetworkEstimator):
            network._fits_ahead = fits
            self.carriers.append(network)

    def detach(self):
        """Leave the user's estimators as they were."""
        for network in self.carriers:
            vars(network).pop("_fits_ahead", None)

    def of_next_clone(self):
        """What the next clone takes along: this object until the fits are handed out, then one after the other."""
        return self if self.made is None else next(self.made, _NO_FITS)

    def take(self, network, X, given):
        """None: the estimator of the search is not one that was fitted ahead."""

    def make(self, candidates, cv):
        """Make the fits of all candidates to all folds, as far as they are networks."""
        self.candidates, splits = list(candidates), list(cv.split(self.X, self.y, **self.params.splitter.split))
        self.fits, self.folds = [], check_cv(splits)
        waiting = []
        for parameters, (train, _) in product(self.candidates, splits):
            self.fits.append(_Fit(clone(self.estimator), parameters, self.X, self.y, train, self.params.estimator.fit))
            waiting.append(self.fits[-1])
            if sum(fit.n_cells for fit in waiting) > _CELLS_AT_ONCE:
                _run(waiting, self.n_jobs)
                waiting = []
        _run(waiting, self.n_jobs)
        self.seconds = [fit.seconds for fit in self.fits]

    def hand_out(self):
        """From now on clones take the fits along, in the order of candidates and folds; returns the folds."""
        n_folds = self.folds.get_n_splits()
        for number, parameters in enumerate(self.candidates):  # a candidate may put another network into a step
            for value in parameters.values():
                if isinstance(value, BaseEstimator):
                    before = getattr(_steps(value)[1], "_fits_ahead", _NO_FITS)
                    own = self.fits[number * n_folds : (number + 1) * n_folds]
                    self._attach(value, CandidateFits([*before.fits, *own]))
        self.made = iter([CandidateFits([fit]) for fit in self.fits])
        return self.folds


class CandidateFits:
    """Fits among which a network finds the one that was made ahead for it.

    Parameters
    ----------
    fits : list of _Fit
    """

    def __init__(self, fits):
        self.fits = fits

    def of_next_clone(self):
        """What a clone takes along: the same fits."""
        return self

    def take(self, network, X, given):
        """Fitted attributes of the fit of this network to these rows, or None."""
        fits = [fit for fit in self.fits if fit.attributes is not None and fit.is_of(network)]
        if not fits:
            return None
        key = _key(X, {name: value for name, value in given.items() if value is not None})
        return next((fit.attributes for fit in fits if fit.key == key), None)


_NO_FITS = CandidateFits([])


class _Fit:
    """One fit ahead: up to its ascent, and then its attributes. None of both where it is no network, or fails."""

    def __init__(self, estimator, parameters, X, y, train, fit_params):
        began = time.time()
        self.network = self.prepared = self.attributes = self.key = None
        try:
            self._prepare(estimator, parameters, X, y, train, fit_params)
        except Exception:  # noqa: S110 (the search meets it again when it makes this fit itself, and scores it)
            pass
        self.seconds = time.time() - began

    def __getstate__(self):
        return {name: getattr(self, name) for name in ("network", "attributes", "key")}

    def _prepare(self, estimator, parameters, X, y, train, fit_params):
        estimator.set_params(**clone(parameters, safe=False))
        before, network, prefix = _steps(estimator)
        own = {name.removeprefix(prefix): value for name, value in fit_params.items() if name.startswith(prefix)}
        if not isinstance(network, NetworkEstimator) or len(own) < len(fit_params):
            return
        if getattr(network, CALLBACKS, None) or getattr(network, "checkpoint", None) is not None:
            return
        own = check_method_params(X, params=own, indices=train)
        X, y = safe_split(estimator, X, y, train)
        if before is not None:
            X = before.fit_transform(X, y)
        if getattr(network, "data_parallel", False) and _reduce.there_are_others():
            return  # all processes must make the same fits
        network._validate_params()
        self.key = _key(X, own)
        prepared = network._prepare(X, Continuation.FRESH, **own)
        self.network = clone(network)
        self.fitted, self.prepared = network, prepared
        if self.ascent is None:
            self.conclude(None)

    @property
    def ascent(self):
        """The `Ascent` that is still to run, or None."""
        return None if self.prepared is None else self.prepared.training.ascent

    @property
    def n_cells(self):
        """Cells of the training rows, while they are kept."""
        rows = None if self.prepared is None else self.prepared.rows
        return 0 if rows is None else rows.x.size

    def conclude(self, result):
        """Turn the result of the ascent into fitted attributes, those of scikit-learn's checks among them."""
        self.fitted._set(**self.fitted._attributes_of(self.prepared, result))
        parameters = self.fitted.get_params(deep=False)
        attributes = {name: value for name, value in vars(self.fitted).items() if name not in parameters}
        attributes.pop("_fits_ahead", None)
        self.attributes, self.prepared, self.fitted = attributes, None, None

    def is_of(self, network):
        """Whether this is the fit of a network with these parameters, to whatever rows."""
        if type(network) is not type(self.network):
            return False
        own = self.network.get_params()
        return all(not differ(own[name], value) for name, value in network.get_params().items())


def _run(fits, n_jobs):
    """Run the ascents of all fits that have one."""
    began, fits = time.time(), [fit for fit in fits if fit.ascent is not None]
    for fit, result in zip(fits, run_all([fit.ascent for fit in fits], n_jobs), strict=True):
        if result is None:
            fit.prepared = None
        else:
            fit.conclude(result)
    for fit in fits:
        fit.seconds += (time.time() - began) / len(fits)


def _key(X, given):
    """A hash of the rows and their weights."""
    return joblib.hash((X, sorted(given.items())))


def _steps(estimator):
    """What comes before the last step, if anything, the last step, and how the names of its parameters begin."""
    if type(estimator) is not Pipeline or estimator.memory is not None or estimator.transform_input is not None:
        return None, estimator, ""
    name, network = estimator.steps[-1]
    return estimator[:-1] if len(estimator) > 1 else None, network, f"{name}__"
