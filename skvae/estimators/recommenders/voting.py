"""Recommendation by the sum of several recommenders' scores."""

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import check_is_fitted

from skvae import _reduce
from skvae._compat import BaseComposition, fit_context
from skvae.estimators._base import Estimator
from skvae.estimators._checks import seeded_clone
from skvae.estimators._progress import say
from skvae.estimators.recommenders._input_checks import check_recommender, refuse_other_items
from skvae.estimators.recommenders._recommender import RecommenderMixin, scorer_of
from skvae.estimators.recommenders._users_of_all import passed_on, refuse_jobs
from skvae.estimators.recommenders.ease import EASERecommender
from skvae.estimators.recommenders.networks.mult_vae import MultVAERecommender

_DEFAULT_WEIGHTS = 1.0, 0.5  # above EASE on each of ten splits of five data sets; 0.2 and 1 gain about as much


class VotingRecommender(RecommenderMixin, BaseComposition, Estimator):
    """Recommend items by the weighted mean of several recommenders' scores.

    The scores of a user are standardised over the items first, to mean 0 and variance 1, because recommenders score in
    different units. A network beside EASE is better than both on most data: they err in different ways. Read more in
    the :doc:`user guide </user_guide/recommender>`.

    Parameters
    ----------
    estimators : list of (str, estimator) tuples or None, default=None
        Names and recommenders. "drop" in place of a recommender leaves it out. None: ``[("vae", MultVAERecommender()),
        ("ease", EASERecommender())]``.
    weights : array-like of float of shape (n_estimators,) or None, default=None
        Weights of the standardised scores. None: 1 each; 1 and 0.5 for the default estimators. The order of the lists
        depends on their ratios only, and `GridSearchCV` can choose them: ``{"weights": [(1, 0.2), (1, 0.5), (1, 1)]}``.
    n_jobs : int or None, default=None
        Recommenders to fit at the same time, by joblib.
    data_parallel : bool, default=False
        Whether the processes of `torch.distributed` share the fits, each with users of its own: it is passed on to the
        recommenders. See :doc:`/scaling`.
    random_state : int, RandomState instance or None, default=None
        Seed of the recommenders whose own random_state is None.
    verbose : bool, default=False
        Whether to print a line as each fit ends.

    Attributes
    ----------
    estimators_ : list of estimators
        The fitted recommenders that were not dropped.
    named_estimators_ : Bunch
        The same by name.
    weights_ : ndarray of shape (n_fitted,)
        Their weights, summing to 1.
    n_features_in_ : int
        Number of items.
    feature_names_in_ : ndarray of shape (n_items,)
        Names of the items, where `fit` was given a DataFrame.

    See Also
    --------
    sklearn.ensemble.VotingRegressor : The same idea for regressors.

    Examples
    --------
    >>> from skvae import EASERecommender, MultDAERecommender, VotingRecommender
    >>> from skvae.datasets import make_interactions
    >>> X = make_interactions(300, 100, random_state=0)
    >>> members = [("dae", MultDAERecommender(20, random_state=0)), ("ease", EASERecommender(50))]
    >>> both = VotingRecommender(members, weights=(1, 0.5)).fit(X)
    >>> both.recommend(X[:2], k=3)[0].shape
    (2, 3)
    """

    _parameter_constraints = {
        "estimators": [list, None],
        "weights": ["array-like", None],
        "n_jobs": [int, None],
        "data_parallel": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self, estimators=None, *, weights=None, n_jobs=None, data_parallel=False, random_state=None, verbose=False
    ):
        self.estimators = estimators
        self.weights = weights
        self.n_jobs = n_jobs
        self.data_parallel = data_parallel
        self.random_state = random_state
        self.verbose = verbose

    @property
    def named_estimators(self):
        """The recommenders that were given, by name."""
        return Bunch(**dict(self.estimators or ()))

    def get_params(self, deep=True):
        """Give the parameters, those of the recommenders included.

        Parameters
        ----------
        deep : bool, default=True
            Whether to add the recommenders by name, and their parameters as name__parameter.

        Returns
        -------
        params : dict
        """
        return self._get_params("estimators", deep=deep)

    def set_params(self, **params):
        """Set parameters, those of the recommenders as name__parameter.

        Parameters
        ----------
        **params : dict

        Returns
        -------
        self : object
        """
        self._set_params("estimators", **params)
        return self

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, sample_weight=None):
        """Fit the recommenders to the users of X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions: counts, ratings or ones; non-negative, zero where there was none.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_users,) or None, default=None
            How often each user counts; all recommenders must take it.

        Returns
        -------
        self : object
            The estimator, fitted.

        Raises
        ------
        ValueError
            If two recommenders have one name, all are dropped, the weights do not fit them, or a frozen one was
            fitted to other items.
        TypeError
            If a member is no recommender, or has no parameter data_parallel to pass it on.
        """
        with self._unchanged_on_error():
            named, weights = self._members()
            X = self._check_to_fit(X, sample_weight, reset=True)
            refuse_jobs(self)
            given = {} if sample_weight is None else {"sample_weight": sample_weight}
            rng = None if self.random_state is None else check_random_state(self.random_state)
            clones = [passed_on(self, seeded_clone(member, rng)) for _, member in named]
            fitted = Parallel(n_jobs=self.n_jobs)(delayed(_fit)(member, X, given) for member in clones)
            for member in fitted:
                refuse_other_items(self, member)
            if self.verbose and _reduce.is_first():
                say(self, "fitted " + ", ".join(name for name, _ in named))
            names = [name for name, _ in named]
            return self._set(
                estimators_=fitted, named_estimators_=Bunch(**dict(zip(names, fitted, strict=True))), weights_=weights
            )

    def _members(self):
        """The recommenders that are not dropped, by name, and their weights, which sum to 1."""
        named, weights = self.estimators, self.weights
        if named is None:
            named = [("vae", MultVAERecommender()), ("ease", EASERecommender())]
            weights = _DEFAULT_WEIGHTS if weights is None else weights
        if not named or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in named):
            raise ValueError("estimators must be a list of (name, recommender) tuples that is not empty.")
        self._validate_names([name for name, _ in named])
        weights = np.ones(len(named)) if weights is None else np.asarray(weights, dtype=np.float64)
        if weights.shape != (len(named),) or not np.isfinite(weights).all():
            raise ValueError(
                f"weights must be {len(named)} finite numbers, one a recommender, but got {self.weights!r}."
            )
        kept = [i for i, (_, member) in enumerate(named) if not (isinstance(member, str) and member == "drop")]
        if not kept:
            raise ValueError("All recommenders are dropped; keep one at least.")
        for i in kept:
            check_recommender(named[i][1], type(self).__name__)
        weights = weights[kept]
        if (weights < 0).any() or not weights.sum():
            raise ValueError(f"weights must not be negative, and one must be positive, but got {self.weights!r}.")
        return [named[i] for i in kept], weights / weights.sum()

    def _scorer(self, X):
        check_is_fitted(self)
        scorers = [scorer_of(member, X) for member in self.estimators_]

        def score(users):
            total = None
            for scorer, weight in zip(scorers, self.weights_.tolist(), strict=True):
                part = standardised(scorer(users)).mul_(weight)
                total = part if total is None else total.add_(part.to(total.device))
            return total

        return score


def standardised(scores):
    """Shift and scale each row to mean 0 and variance 1; a row of equal scores to 0."""
    scores = scores.contiguous() - scores.mean(1, keepdim=True)
    scale = scores.square().mean(1, keepdim=True).sqrt_()
    return scores.div_(torch.where(scale > 0, scale, 1.0))


def _fit(member, X, given):
    return member.fit(X, None, **given)  # FrozenEstimator asks for a y
