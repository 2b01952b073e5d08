"""A grid search that trains the networks of all candidates side by side."""

from functools import partial

from sklearn.model_selection import GridSearchCV, ParameterGrid
from sklearn.utils import get_tags, indexable


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
        Number of joblib's workers, which train one group of networks each at a time, fit what cannot be trained
        together, and score. The results do not depend on it.
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
    callbacks or a checkpoint is fitted as in `GridSearchCV`.

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
        from skvae.model_selection._ahead import FitsAhead  # here: torch takes seconds to load

        self._ahead = FitsAhead(self.estimator, *indexable(X, y), self.n_jobs)
        try:
            return super().fit(X, y, **params)
        finally:
            self._ahead.detach()
            del self._ahead

    def __sklearn_tags__(self):
        tags, own = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.transformer_tags, tags.input_tags.allow_nan = own.transformer_tags, own.input_tags.allow_nan
        return tags

    def _get_routed_params_for_fit(self, params):
        routed = super()._get_routed_params_for_fit(params)
        self._ahead.params = routed
        return routed

    def _check_input_parameters(self, X, y, split_params):
        super()._check_input_parameters(X, y, split_params)
        # Here, before the search takes its workers: a backend of `parallel_config` serves one pool at a time.
        self._ahead.make(ParameterGrid(self.param_grid), self._checked_cv_orig)

    def _run_search(self, evaluate_candidates, *, callback_ctx=None):
        super()._run_search(partial(evaluate_candidates, cv=self._ahead.hand_out()), callback_ctx=callback_ctx)

    def _format_results(self, candidate_params, n_splits, out, more_results=None):
        for result, seconds in zip(out, self._ahead.seconds, strict=True):
            result["fit_time"] += seconds
        return super()._format_results(candidate_params, n_splits, out, more_results)
