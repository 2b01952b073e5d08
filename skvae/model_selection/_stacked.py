"""A grid search that trains the networks of many candidates and folds together."""

import copy
import time
from itertools import product

from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags, indexable

from skvae._compat import CALLBACKS, check_method_params, safe_split

_CELLS_AT_ONCE = 2**26  # of the training rows of all fits that wait for each other


class StackedGridSearchCV(GridSearchCV):
    """Grid search that trains the networks of all candidates and folds together.

    A training step of a small network takes about a millisecond of overhead and only microseconds of computation. This
    search takes one step for the networks of many candidates together. Each network is, up to rounding, the one that
    `GridSearchCV` would have fitted, because random numbers depend on seeds and rows and not on the order of the draws.

    Networks that are trained together may differ only in `n_components`, `beta`, `annealing`, `learning_rate`,
    `weight_decay`, `random_state` and their rows. Candidates that differ in another parameter are trained in separate
    groups. An estimator that is not a network of this package, alone or as the last step of a Pipeline, is fitted as in
    `GridSearchCV`. Read more in the :doc:`user guide </user_guide/autoencoders>`.

    Parameters
    ----------
    estimator : estimator object
        A `VAETransformer`, an `AutoencoderTransformer`, a Pipeline that ends in one, or anything else.
    param_grid : dict or list of dict
        Lists of values by parameter name; the candidates are all combinations.
    scoring : str, callable, list, tuple, dict or None, default=None
        As in `GridSearchCV`; None uses the estimator's `score`.
    n_jobs : int or None, default=None
        Number of processes for scoring, and for fits that cannot be trained together.
    refit : bool, str or callable, default=True
        Whether to fit the best candidate to all rows. With several scores, the name of the score that decides. Or a
        function that chooses the best candidate from `cv_results_`.
    cv : int, cross-validation generator, iterable or None, default=None
        The folds; None makes 5 folds.
    verbose : int, default=0
        As in `GridSearchCV`.
    pre_dispatch : int or str, default="2*n_jobs"
        Number of fits that are sent to the processes in advance.
    error_score : "raise" or float, default=nan
        Score of a candidate whose fit fails; "raise" raises the error.
    return_train_score : bool, default=False
        Whether to compute scores on the training rows too.

    Attributes
    ----------
    cv_results_ : dict of ndarray
        As in `GridSearchCV`. The time of networks that were trained together is divided equally among them.
    best_estimator_ : estimator
        The best candidate, fitted to all rows.
    best_score_ : float
        Mean held-out score of the best candidate.
    best_params_ : dict
        Parameters of the best candidate.
    best_index_ : int
        Index of the best candidate in `cv_results_`.
    scorer_ : callable or dict
        The scorer, or the scorers by name.
    n_splits_ : int
        Number of folds.
    refit_time_ : float
        Seconds of the fit of the best candidate to all rows.
    multimetric_ : bool
        Whether there are several scores.

    See Also
    --------
    sklearn.model_selection.GridSearchCV : Fits any estimator, one fit at a time.

    Notes
    -----
    With ``random_state=None`` every fit has its own seed, as in `GridSearchCV`. With a number all candidates read the
    rows of a fold in the same order, which is faster and makes the comparison fairer. If a training step is not finite,
    the networks of the group are trained again in halves, until the network that fails is alone. An estimator with
    callbacks is fitted as in `GridSearchCV`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import VAETransformer
    >>> from skvae.model_selection import StackedGridSearchCV
    >>> vae = VAETransformer(early_stopping=False, max_iter=20, random_state=0)
    >>> search = StackedGridSearchCV(vae, {"beta": [0.5, 1, 2], "n_components": [1, 2]}, cv=3)
    >>> search.fit(load_iris().data).best_estimator_.n_iter_
    20
    """

    def fit(self, X, y=None, **params):
        """Fit all candidates to all folds, and the best to all rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows, as the estimator takes them.
        y : array-like of shape (n_samples,) or None, default=None
            Targets, passed to the estimator and the scorer.
        **params : dict
            Parameters of the estimator's `fit`, the scorer and the splitter. Parameters with one entry per row, such as
            `sample_weight`, are split like X.

        Returns
        -------
        self : StackedGridSearchCV
            The fitted search.
        """
        # scikit-learn's own search runs on a twin, whose estimator's clones come with a fit that was made ahead.
        twin = copy.copy(self)
        twin.estimator = clone(self.estimator)
        twin._ahead = _Ahead(twin.estimator, *indexable(X, y))
        try:
            GridSearchCV.fit(twin, X, y, **params)
        finally:
            twin._ahead.ends()
        vars(self).update({name: value for name, value in vars(twin).items() if name not in ("estimator", "_ahead")})
        return self

    def __sklearn_tags__(self):
        tags, own = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.transformer_tags, tags.input_tags.allow_nan = own.transformer_tags, own.input_tags.allow_nan
        return tags

    def _get_routed_params_for_fit(self, params):
        self._ahead.params = super()._get_routed_params_for_fit(params)
        return self._ahead.params

    def _run_search(self, evaluate_candidates, *, callback_ctx=None):
        def evaluate(candidates, **settings):
            candidates = list(candidates)
            return evaluate_candidates(candidates, cv=self._ahead.train(candidates, self._checked_cv_orig), **settings)

        super()._run_search(evaluate, callback_ctx=callback_ctx)

    def _format_results(self, candidate_params, n_splits, out, more_results=None):
        for result, seconds in zip(out, self._ahead.seconds, strict=True):
            result["fit_time"] += seconds
        return super()._format_results(candidate_params, n_splits, out, more_results)


class _Ahead:
    """The fits of a search, made ahead and handed out by the estimator's clones in the order in which it asks.

    Parameters
    ----------
    estimator : estimator object
        Its first clone is itself, the next ones come with their fits, those after the last are plain.
    X, y : array-like
        What scikit-learn can take rows of.
    """

    params = None  # of the search's fit, by whom they are for

    def __init__(self, estimator, X, y):
        self.estimator, self.X, self.y, self.fits, self.seconds = estimator, X, y, None, []
        estimator.__sklearn_clone__ = self._clone

    def __getstate__(self):
        return {}  # the search goes to all workers, who need nothing of this

    def ends(self):
        """Make the estimator one as any other."""
        vars(self.estimator).pop("__sklearn_clone__", None)

    def _clone(self):
        if self.fits is None:
            return self.estimator
        plain, fitted = self._plain(), next(self.fits, None)
        if fitted is not None:
            plain.fit = _Taken(plain, fitted)
        return plain

    def _plain(self):
        twin = copy.copy(self.estimator)
        del vars(twin)["__sklearn_clone__"]
        return clone(twin)

    def train(self, candidates, cv):
        """Make the fits of all candidates to all folds, but for those to be made one by one; returns the folds."""
        splits = list(cv.split(self.X, self.y, **self.params.splitter.split))
        pairs = list(product(candidates, splits))
        fits, self.seconds, waiting = [None] * len(pairs), [0.0] * len(pairs), {}
        for number, (parameters, (train, _)) in enumerate(pairs):
            began = time.time()
            fits[number] = fit = _prepared(self._plain(), parameters, self.X, self.y, train, self.params.estimator.fit)
            self.seconds[number] = time.time() - began
            if fit is not None and fit.task is not None:
                waiting[number] = fit
            if sum(fit.n_cells for fit in waiting.values()) > _CELLS_AT_ONCE:
                self._climb(fits, waiting)
        self._climb(fits, waiting)
        self.fits = (None if fit is None else fit.estimator for fit in fits)
        return check_cv(splits)

    def _climb(self, fits, waiting):
        from skvae.estimators._climbing import climb_all  # here: torch takes seconds to load

        began = time.time()
        outcomes = climb_all([fit.task for fit in waiting.values()])
        for (number, fit), outcome in zip(waiting.items(), outcomes, strict=True):
            if outcome is None:
                fits[number] = None
            else:
                fit.settle(outcome)
        for number in waiting:
            self.seconds[number] += (time.time() - began) / len(waiting)
        waiting.clear()


class _Taken:
    """The `fit` of an estimator that was fitted ahead; afterwards it is one as any other."""

    def __init__(self, estimator, fitted):
        self.estimator, self.fitted = estimator, fitted

    def __call__(self, X, y=None, **params):
        vars(self.estimator).pop("fit")
        vars(self.estimator).update(vars(self.fitted))
        return self.estimator


class _Fit:
    """An estimator and its network between preparation and ascent."""

    def __init__(self, estimator, network, prepared):
        self.estimator, self.network, self.prepared = estimator, network, prepared
        if self.task is None:
            self.settle()

    @property
    def task(self):
        return self.prepared.task if self.prepared else None

    @property
    def n_cells(self):
        return self.prepared.rows.x.size

    def settle(self, *outcome):
        prepared, self.prepared = self.prepared, None
        self.network._finish(prepared, *outcome)


def _prepared(estimator, parameters, X, y, train, fit_params):
    """The fit of a candidate to some rows, up to the ascent; None where it is no network, or fails."""
    try:
        estimator.set_params(**clone(parameters, safe=False))
        before, network, prefix = _parts(estimator)
        own = {name.removeprefix(prefix): value for name, value in fit_params.items() if name.startswith(prefix)}
        if len(own) < len(fit_params) or set(own) - {"sample_weight"} or not _is_network(network):
            return None
        own = check_method_params(X, params=own, indices=train)
        X, y = safe_split(estimator, X, y, train)
        if before is not None:
            X = before.fit_transform(X, y)
        network._validate_params()
        return _Fit(estimator, network, network._prepare(X, **own))
    except Exception:  # the search meets it again when it makes this fit by itself, and reports it
        return None


def _parts(estimator):
    """What comes before the last step, if anything, the last step, and how the names of its parameters begin."""
    if type(estimator) is not Pipeline or estimator.memory is not None or estimator.transform_input is not None:
        return None, estimator, ""
    name, network = estimator.steps[-1]
    return estimator[:-1] if len(estimator) > 1 else None, network, f"{name}__"


def _is_network(estimator):
    """Whether its fit is a task for an ascent, and nobody asked to watch its epochs."""
    return hasattr(estimator, "_finish") and not getattr(estimator, CALLBACKS, None)
