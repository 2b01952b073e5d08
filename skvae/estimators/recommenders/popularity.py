"""Recommendation of what most users have."""

from numbers import Real

import numpy as np
import scipy.sparse as sp
import torch

from skvae import _reduce
from skvae._compat import Interval, fit_context
from skvae._times import stored_times
from skvae.estimators._base import Estimator
from skvae.estimators._checks import agree_in_state
from skvae.estimators.recommenders._recommender import RecommenderMixin, widened
from skvae.tables.weights import drop_weightless


class PopularityRecommender(RecommenderMixin, Estimator):
    """Recommend the items with the most interactions, the same to every user: the baseline of all others.

    Parameters
    ----------
    half_life : float or None, default=None
        Time after which an interaction counts half, in the units of `times`: seconds, if they were made of datetimes.
        None: all count alike.
    data_parallel : bool, default=False
        Whether the processes of `torch.distributed` share the fit, each with users of its own. See
        :doc:`/scaling`.

    Attributes
    ----------
    popularity_ : float64 ndarray of shape (n_items,)
        Sum of the interactions with each item, by weight and age.
    last_time_ : float or None
        Time of the latest interaction, from which ages are counted. None without times.
    n_features_in_ : int
        Number of items.
    feature_names_in_ : ndarray of shape (n_items,)
        Names of the items, where `fit` was given a DataFrame.

    See Also
    --------
    EASERecommender : Recommends by the items of a user.

    Examples
    --------
    >>> from skvae import PopularityRecommender
    >>> PopularityRecommender().fit([[1, 1, 0], [0, 1, 0]]).predict([[0, 1, 0], [0, 0, 0]])
    array([0, 1])
    """

    _parameter_constraints = {
        "half_life": [Interval(Real, 0, None, closed="neither"), None],
        "data_parallel": ["boolean"],
    }

    def __init__(self, half_life=None, *, data_parallel=False):
        self.half_life = half_life
        self.data_parallel = data_parallel

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None, times=None):
        """Count the interactions with each item.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions: counts, ratings or ones; non-negative, zero where there was none.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_users,) or None, default=None
            How often each user counts.
        times : {array-like, sparse matrix} of shape (n_users, n_items) or None, default=None
            When each interaction took place: numbers, of which greater is later. A sparse matrix needs an entry for
            each interaction of X, of value 0 too, as ``to_interactions(..., times=...).times`` has it. Needed where
            `half_life` is given, and not used otherwise.

        Returns
        -------
        self : object
            The estimator, fitted.
        """
        with self._unchanged_on_error():
            return self._fit(X, sample_weight, times, fitted=False)

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, sample_weight=None, times=None, new_items=None):
        """Add interactions, and items if there are new ones: the result is that of one `fit` to all of them.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            New interactions. Columns are the items of the earlier calls, and then `new_items`.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_users,) or None, default=None
            How often each user counts.
        times : {array-like, sparse matrix} of shape (n_users, n_items) or None, default=None
            When each interaction took place, as in `fit`.
        new_items : array-like of int or str, default=None
            Items that no earlier call has seen, the last columns of X: their numbers, from `n_features_in_` on, or
            after a fit on a DataFrame their names. None: X has the items of the earlier calls.

        Returns
        -------
        self : object
            The estimator, fitted.
        """
        with self._unchanged_on_error():
            agree_in_state(self, "popularity_", "last_time_")
            if new_items is not None:
                self._take_in(new_items)
            return self._fit(X, sample_weight, times, fitted=hasattr(self, "popularity_"))

    def _fit(self, X, sample_weight, times, *, fitted):
        X = self._check_to_fit(X, sample_weight, reset=not fitted)
        rows, weight = drop_weightless(np.arange(X.shape[0]), sample_weight)
        counted = X.astype(np.float64)[rows]
        self._refuse_unknown_ages(times, fitted)
        last, aged = None, 1.0
        if self.half_life is not None:
            times = sp.csr_array((stored_times(X, times).astype(np.float64), X.indices, X.indptr), shape=X.shape)
            at = times[rows].data
            before = self.last_time_ if fitted else -np.inf
            last = float(max(_reduce.largest(at.max(initial=-np.inf)), before))
            counted.data *= self._left(at - last)
            aged = self._left(before - last) if last > before else 1.0
        weight = np.ones(len(rows)) if weight is None else weight
        popularity = _reduce.count(weight @ counted)
        if fitted:
            popularity = popularity + aged * widened(self.popularity_, X.shape[1])
        return self._set(popularity_=popularity, last_time_=last)

    def _refuse_unknown_ages(self, times, fitted):
        """Complain where ages are not known, or did not count in the same way in the fit that is to go on."""
        if self.half_life is not None and times is None:
            raise ValueError("half_life asks for the age of interactions, but fit was given no times; pass times=...")
        if not fitted or (self.half_life is None) == (self.last_time_ is None):
            return
        if self.half_life is None:
            raise ValueError(
                "half_life=None counts interactions of any age alike, but those of the last fit have decayed. Call fit "
                "anew, or keep the half-life."
            )
        raise ValueError(
            "half_life asks for the age of interactions, but those of the last fit have none: it was made with "
            "half_life=None. Call fit anew, with the times of all interactions."
        )

    def _left(self, time):
        """What is left of an interaction, by the time (negative) since."""
        with np.errstate(over="ignore"):
            return np.exp2(time / self.half_life)

    def _scorer(self, X):
        popularity = torch.from_numpy(self.popularity_.astype(X.dtype))
        return lambda users: popularity.repeat(users.shape[0], 1)
