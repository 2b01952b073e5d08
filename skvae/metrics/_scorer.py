"""Scorers for scikit-learn's model selection, which evaluate a recommender by strong generalisation."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from skvae._sparse import canonical_csr
from skvae.metrics import _ranking
from skvae.metrics._holdout import check_seed, check_test_size, content_holdout
from skvae.metrics._pipelines import transformed, unwrap
from skvae.metrics._ranking import best_items, check_k, row_blocks

_LIST_LENGTH = 100  # where nobody says how long
_METRICS = {
    "ndcg": _ranking.ndcg_at_k,
    "recall": _ranking.recall_at_k,
    "precision": _ranking.precision_at_k,
    "dcg": _ranking.dcg_at_k,
    "average_precision": _ranking.average_precision_at_k,
    "hit_rate": _ranking.hit_rate_at_k,
    "mrr": _ranking.mrr,
}


def make_ranking_scorer(metric="ndcg", *, k=None, holdout=0.2, seed=0):
    """Make a scorer for recommenders, to pass as `scoring=` to `GridSearchCV`, `cross_validate` and similar functions.

    The folds split the users. For every test user the scorer hides a part of the interactions, lets the recommender
    rank the items given the rest, and computes the metric of the hidden part. This is the strong generalisation of
    Liang et al. (2018).

    Parameters
    ----------
    metric : str or list of str, default="ndcg"
        "ndcg", "recall", "precision", "dcg", "average_precision", "hit_rate" or "mrr". The length of the list may
        follow: "recall@20". A list of metrics is computed from one ranking, and the scorer then returns a dict.
        `cross_validate` and `GridSearchCV(..., refit="ndcg@100")` take such a scorer; `HalvingGridSearchCV` takes only
        a single metric.
    k : int or None, default=None
        Length of the list for every metric that has no length of its own. None: 100.
    holdout : float, default=0.2
        Share of each row to hide, inside (0, 1), if no held-out interactions are given as y.
    seed : int, default=0
        Seed of the choice of the hidden items. `content_holdout` makes this choice for all rows of a test fold at once.
        So all candidates are scored on the same hidden items, whatever n_jobs is. In another order of the rows, equal
        rows exchange their hidden items.

    Returns
    -------
    scorer : callable
        `scorer(estimator, X, y=None)` returns a float, or a dict of floats for a list of metrics; greater is better.

    Raises
    ------
    ValueError
        If a metric is unknown or named twice, if k is given but every metric has a length of its own, or if another
        argument is out of its range.

    See Also
    --------
    holdout_split : Makes a pair X, y before the search.

    Notes
    -----
    - The recommender needs `recommend(X, k=...)`, which returns `(ids, scores)` of items that are not in X, or
      `decision_function(X)`, which returns scores of shape users x items. `decision_function` is called on blocks of
      users, and the scorer excludes the items in X.
    - A y of two dimensions has the shape of X and holds the interactions to be found. The recommender then sees all of
      X. Items of y that are also in X do not count, because seen items are not recommended. A y of one dimension is
      ignored.
    - Without y, a search fits to whole rows of its training users. With y, it fits to the rows of X.
    - The searches take a sparse y. `cross_validate` and `cross_val_score` do not, whatever the scorer. Cross-validate
      by `GridSearchCV(recommender, {}, scoring=..., refit=False)` instead, or give no y.
    - In a Pipeline, all steps but the last transform X, and y if it is given. The items are hidden after that. So if
      the first step drops ratings below 4, a rating of 2 never counts as a hit. For a fitted search, the scorer uses
      its `best_estimator_`.
    - Users with nothing to find (fewer than two interactions) are left out. If no user is left, the scorer raises
      ValueError.

    References
    ----------
    Liang, Krishnan, Hoffman and Jebara, *Variational autoencoders for collaborative filtering*, WWW 2018, section 4.2.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.base import BaseEstimator
    >>> from sklearn.model_selection import cross_validate
    >>> from skvae.metrics import make_ranking_scorer
    >>> class Popularity(BaseEstimator):
    ...     def fit(self, X, y=None):
    ...         self.clicks_ = X.sum(axis=0)
    ...         return self
    ...
    ...     def decision_function(self, X):
    ...         return np.tile(self.clicks_, (X.shape[0], 1))
    >>> X = (np.random.RandomState(0).rand(60, 30) < np.linspace(0.05, 0.5, 30)).astype(float)
    >>> scoring = make_ranking_scorer(["ndcg@100", "recall@5"])
    >>> scoring
    make_ranking_scorer(['ndcg@100', 'recall@5'], holdout=0.2, seed=0)
    >>> results = cross_validate(Popularity(), X, scoring=scoring, cv=3)
    >>> sorted(name for name in results if name.startswith("test_"))
    ['test_ndcg@100', 'test_recall@5']
    """
    if k is not None:
        check_k(k)
    check_test_size(holdout, "holdout")
    check_seed(seed)
    several = not isinstance(metric, str)
    names = tuple(metric) if several else (metric,)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"metric must name one metric or several different ones, but it is {metric!r}.")
    reads_k = None in [_parse(name, None)[1] for name in names]
    if k is not None and not reads_k:
        raise ValueError(
            f"k={k} is for metrics without a length of their own, but {metric!r} has its own; leave out one of the two."
        )
    k = (_LIST_LENGTH if k is None else int(k)) if reads_k else None
    return _RankingScorer(names, several, k, float(holdout), int(seed))


@dataclass(frozen=True, repr=False)
class _RankingScorer:
    names: tuple
    several: bool
    k: int | None  # None where every metric has a length of its own
    holdout: float
    seed: int

    def __call__(self, estimator, X, y=None):
        scores = self._scores(estimator, X, y)
        return scores if self.several else scores[self.names[0]]

    def scores_of_users(self, estimator, X, y=None):
        """Each metric of each user by its name: NaN for users with nothing to find."""
        return self._scores(estimator, X, y, per_user=True)

    def _scores(self, estimator, X, y, **settings):
        transforms, model = _unwrap(estimator)
        foldin, truth = self.foldin_and_truth(transforms, X, y)
        if not truth.nnz:
            raise self.no_truth(y)
        metrics = {name: _parse(name, self.k) for name in self.names}
        ranked = _rank(model, foldin, min(foldin.shape[1], max(k for _, k in metrics.values())))
        return {name: metric(truth, ranked=ranked, k=k, **settings) for name, (metric, k) in metrics.items()}

    @staticmethod
    def no_truth(y):
        """The error to raise where there is nothing to find."""
        return ValueError(
            "A ranking scorer needs a user with a held-out item, but "
            + (
                "no user of X has two interactions, one to show and one to hide."
                if y is None or np.ndim(y) == 1
                else "y holds none that is not in X too: what was seen is not counted."
            )
        )

    def foldin_and_truth(self, transforms, X, y, split=content_holdout):
        """What the model sees of the users, and what it is to find; `split` hides a part of X where y has none."""
        if y is None or np.ndim(y) == 1:
            X = _transform(transforms, X)
            foldin, heldout = split(X, self.holdout, self.seed)
            return _like(foldin, X), heldout
        if np.shape(y) != np.shape(X):
            raise ValueError(
                f"y must hold the held-out interactions, in the shape of X, {np.shape(X)}, but it has {np.shape(y)}; "
                "give y=None to have a part of X hidden."
            )
        _refuse_other_columns(X, y)
        X, y = _transform(transforms, X), _transform(transforms, _like(y, X))
        relevant, seen = canonical_csr(y, "y", sp.csr_array), canonical_csr(X, "X", sp.csr_array)
        if relevant.shape != seen.shape:
            raise ValueError(
                f"The transformed y must have the shape of the transformed X, {seen.shape}; it has {relevant.shape}."
            )
        return X, relevant.astype(bool) > seen.astype(bool)

    def __repr__(self):
        metric = list(self.names) if self.several else self.names[0]
        k = "" if self.k is None else f"k={self.k}, "
        return f"make_ranking_scorer({metric!r}, {k}holdout={self.holdout}, seed={self.seed})"

    def __sklearn_clone__(self):
        return self  # nothing in it can change


def _parse(name, k):
    """The metric and the length of the list that "recall@20" or "recall" asks for."""
    metric, at, length = str(name).partition("@")
    if metric not in _METRICS or (at and not (length.isdecimal() and int(length) >= 1)):
        raise ValueError(
            f"{name!r} is no ranking metric; choose from {', '.join(_METRICS)}, with the length of the list if you "
            "like: 'recall@20'."
        )
    return _METRICS[metric], int(length) if at else k


def _unwrap(estimator):
    """The transforms that come before a recommender, in order, and the recommender itself."""
    transforms, estimator = unwrap(estimator)
    if not (hasattr(estimator, "recommend") or hasattr(estimator, "decision_function")):
        raise TypeError(
            f"A ranking scorer needs a recommender, with recommend or decision_function, but "
            f"{type(estimator).__name__} has neither. (A search must be fitted, with refit, to be scored.)"
        )
    return transforms, estimator


def _transform(transforms, X):
    """X after all transforms, with rows that an index selects: CSR, a data frame or an array."""
    X = transformed(transforms, X)
    if sp.issparse(X):
        return X.tocsr()
    return X if _is_frame(X) else np.asarray(X)


def _rank(model, foldin, k):
    """Lists of the k best unseen items of each user, of shape (n_users, k or more); k is at most n_items."""
    if hasattr(model, "recommend"):
        ids, _ = model.recommend(foldin, k=k)
        return ids
    lists = []
    for rows in row_blocks(*foldin.shape):
        some = foldin.iloc[rows] if _is_frame(foldin) else foldin[rows]
        scores = np.array(model.decision_function(some), dtype=np.float64)  # a copy: it may be the model's own
        if scores.shape != some.shape:
            raise ValueError(
                f"{type(model).__name__}.decision_function must score every item, shape {some.shape}, but it returned "
                f"{scores.shape}."
            )
        seen = canonical_csr(some)
        scores[np.repeat(np.arange(seen.shape[0]), np.diff(seen.indptr)), seen.indices] = -np.inf
        lists.append(best_items(scores, k))
    return np.concatenate(lists)


# --- containers: what the model was fitted on is what it should see, a data frame with its names included ----------


def _is_frame(X):
    return hasattr(X, "iloc") and hasattr(X, "columns")


def _refuse_other_columns(X, y):
    """Complain of two frames whose columns are not the same items in the same order."""
    if not (hasattr(X, "columns") and hasattr(y, "columns")) or list(X.columns) == list(y.columns):
        return
    at = next(i for i, pair in enumerate(zip(X.columns, y.columns)) if pair[0] != pair[1])
    raise ValueError(
        f"y must have the columns of X in their order, but column {at} of y is {y.columns[at]!r} where X has "
        f"{X.columns[at]!r}; pass y[X.columns]."
    )


def _like(values, X):
    """`values` with the column names of X if that is a data frame, without names if not."""
    if _is_frame(values) == _is_frame(X):
        return values
    values = values.toarray() if sp.issparse(values) else np.asarray(values)
    return type(X)(values, index=X.index, columns=X.columns) if _is_frame(X) else values
