"""Recommendation by local models, each trained around an anchor user."""

from numbers import Integral, Real

import numpy as np
import scipy.sparse as sp
import torch
from joblib import Parallel, delayed
from sklearn.base import MetaEstimatorMixin, clone
from sklearn.utils.validation import has_fit_parameter

from skvae import _reduce
from skvae._compat import Interval, StrOptions, fit_context, warn
from skvae.estimators._base import Estimator
from skvae.estimators._checks import draw_seed, seeded_clone
from skvae.estimators.clustering.kmeans_lite import KMeansLite
from skvae.estimators.recommenders._input_checks import check_recommender, refuse_no_interaction, refuse_other_items
from skvae.estimators.recommenders._recommender import RecommenderMixin, embedded_by, scorer_of
from skvae.estimators.recommenders._users_of_all import passed_on, refuse_jobs
from skvae.estimators.recommenders.networks.mult_vae import MultVAERecommender
from skvae.models.recommenders import loca as model
from skvae.tables.weights import weigh

_LEARNT_FROM, _SERVED = 0.5, 0.3  # shares of the users within the "auto" bandwidths
_COMPONENTS = 20  # of the embedding
_ORDINARY = 100  # users whose bandwidths tell how far an ordinary one's neighbourhood reaches
_FEWEST_CANDIDATES, _CANDIDATES = 1000, 20  # of whom anchors are chosen by coverage; in all, and for each anchor
_WARNS_BELOW = 1 / 3  # share of the users whom local models serve


class LOCARecommender(MetaEstimatorMixin, RecommenderMixin, Estimator):
    """Recommend items by many local models, each trained on the users around an anchor (LOCA).

    One global recommender serves everybody. Others learn from the neighbourhood of one anchor user each, weighted by a
    kernel of the angle between the users' embeddings. A user gets the mean of the local models near by:

        score(u) = alpha * global(u) + (1 - alpha) * sum_j t_j(u) local_j(u) / sum_j t_j(u)

    A user whom no local model reaches gets the global score. Users whom `fit` has not seen are embedded like the
    others. Read more in the :doc:`user guide </user_guide/recommender_family>`.

    Parameters
    ----------
    estimator : estimator or None, default=None
        Recommender whose `fit` takes sample_weight; copies of it are the global and the local models. None:
        `MultVAERecommender()`.
    embedding : transformer or None, default=None
        Embeds users by `transform`. None: ``MultVAERecommender(n_components=20)``.
    n_anchors : int, default=50
        Number of local models.
    anchors : {"coverage", "kmeans", "random"}, default="coverage"
        How anchors are chosen: greedily, so that their neighbourhoods (of `bandwidth`) hold most users; next to the
        centres of k-means of the directions of the embeddings; or at random.
    training_bandwidth : float or "auto", default="auto"
        Distance, in right angles, from which a user has no weight in the training of a local model. In (0, 2]. "auto":
        of each anchor, the distance within which half of the users lie. The paper: 0.8, 0.6 for EASE.
    bandwidth : float or "auto", default="auto"
        Distance from which a local model does not speak for a user, in (0, 2]. "auto": of each anchor, the distance
        within which three users in ten lie, fewer than it learns from. The paper: 0.4, 0.5 for EASE. How many users lie
        within a distance depends on the embedding: with many components, most are a right angle apart.
    kernel : {"epanechnikov", "triangular", "uniform"}, default="epanechnikov"
        How weights fall with the distance.
    alpha : float, default=0.5
        Share of the global score, in [0, 1]. The paper: 0.
    n_jobs : int or None, default=None
        Local models to fit at the same time, by joblib.
    data_parallel : bool, default=False
        Whether the processes of `torch.distributed` share the fits, each with users of its own: it is passed on to the
        global model, the local ones and the embedding. The embeddings of all users are sent to all processes. See
        :doc:`/scaling`.
    random_state : int, RandomState instance or None, default=None
        Seed of the models whose own random_state is None, and of the choice of anchors. All local models get the same
        seed as the global one: so they begin from the same weights, and their scores can be added.

    Attributes
    ----------
    estimator_ : estimator
        The global model.
    embedding_ : estimator
        What embeds users.
    estimators_ : list of estimators
        The local models.
    anchor_embeddings_ : ndarray of shape (n_anchors, n_components)
        Directions of the anchors' embeddings.
    training_bandwidths_, bandwidths_ : ndarrays of shape (n_anchors,)
        The bandwidths of each anchor.
    coverage_ : float
        Share of the training users for whom a local model speaks. `fit` warns where it is below a third.
    n_features_in_ : int
        Number of items.
    feature_names_in_ : ndarray of shape (n_items,)
        Names of the items, where `fit` was given a DataFrame.

    See Also
    --------
    VotingRecommender : Adds the scores of models of different kinds.

    Notes
    -----
    All local models are kept: memory is `n_anchors` times that of one. An anchor is one of 20 candidates for each
    anchor, and of 1,000 at least, drawn at random.

    References
    ----------
    Choi, Jeong, Lee and Lee, *Local Collaborative Autoencoders*, WSDM 2021.

    Examples
    --------
    >>> from skvae import EASERecommender, LOCARecommender, MultVAERecommender
    >>> from skvae.datasets import make_interactions
    >>> X = make_interactions(300, 100, random_state=0)
    >>> embedding = MultVAERecommender(n_components=20, random_state=0)
    >>> loca = LOCARecommender(EASERecommender(50), embedding=embedding, n_anchors=5).fit(X)
    >>> loca.recommend(X[:2], k=3)[0].shape
    (2, 3)
    """

    _parameter_constraints = {
        "estimator": "no_validation",  # `fit` refuses others in words that say what they lack
        "embedding": "no_validation",  # likewise
        "n_anchors": [Interval(Integral, 1, None, closed="left")],
        "anchors": [StrOptions({"coverage", "kmeans", "random"})],
        "training_bandwidth": [Interval(Real, 0, 2, closed="right"), StrOptions({"auto"})],
        "bandwidth": [Interval(Real, 0, 2, closed="right"), StrOptions({"auto"})],
        "kernel": [StrOptions({"epanechnikov", "triangular", "uniform"})],
        "alpha": [Interval(Real, 0, 1, closed="both")],
        "n_jobs": [Integral, None],
        "data_parallel": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator=None,
        *,
        embedding=None,
        n_anchors=50,
        anchors="coverage",
        training_bandwidth="auto",
        bandwidth="auto",
        kernel="epanechnikov",
        alpha=0.5,
        n_jobs=None,
        data_parallel=False,
        random_state=None,
    ):
        self.estimator = estimator
        self.embedding = embedding
        self.n_anchors = n_anchors
        self.anchors = anchors
        self.training_bandwidth = training_bandwidth
        self.bandwidth = bandwidth
        self.kernel = kernel
        self.alpha = alpha
        self.n_jobs = n_jobs
        self.data_parallel = data_parallel
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, sample_weight=None):
        """Fit the global model, embed the users, choose anchors, and fit the local models.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions: counts, ratings or ones; non-negative, zero where there was none. Users without interactions
            teach nothing and are left out.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_users,) or None, default=None
            How often each user counts.

        Returns
        -------
        self : object
            The estimator, fitted.

        Raises
        ------
        TypeError
            If `estimator` is no recommender, its `fit` takes no sample_weight, or `embedding` has no `transform`.
        ValueError
            If `embedding` is frozen and was fitted to other items.
        """
        with self._unchanged_on_error():
            base = MultVAERecommender() if self.estimator is None else self.estimator
            check_recommender(base, type(self).__name__)
            if not has_fit_parameter(base, "sample_weight"):
                raise TypeError(
                    f"{type(self).__name__} weights the users of a local model, but {type(base).__name__}.fit takes no "
                    "sample_weight."
                )
            X = self._check_to_fit(X, sample_weight, reset=True)
            refuse_no_interaction(self, X)
            refuse_jobs(self)
            kept, weight = weigh(X, sample_weight)
            kept = sp.csr_array(kept)  # small ones come dense
            kept, weight = _without_empty(kept, weight)
            refuse_no_interaction(self, kept)
            if _reduce.largest(weight is not None) and weight is None:  # those of this process are all 1
                weight = np.ones(kept.shape[0])
            rng = np.random.RandomState(draw_seed(self.random_state))
            base = passed_on(self, seeded_clone(base, np.random.RandomState(draw_seed(rng))))
            whole = clone(base).fit(kept, **({} if weight is None else {"sample_weight": weight}))
            embedding = self._fitted_embedding(kept, rng)
            users, weight_of_all, own = self._embedded(embedding, kept, weight)
            with _reduce.alone():
                anchors = _reduce.of_first(self._chosen(users, weight_of_all, rng))
                wide, narrow, coverage = _reduce.of_first(self._bandwidths(users, anchors, weight_of_all))
            local = Parallel(n_jobs=self.n_jobs)(
                delayed(_fit_local)(_unfitted(whole, base), kept, weight, self._weights(users, a, h)[own])
                for a, h in zip(anchors, wide, strict=True)
            )
            self._warn_of_few_served(coverage)
            return self._set(
                estimator_=whole,
                embedding_=embedding,
                estimators_=local,
                anchor_embeddings_=users[anchors].numpy(),
                training_bandwidths_=wide,
                bandwidths_=narrow,
                coverage_=coverage,
            )

    def _fitted_embedding(self, X, rng):
        """Fit what embeds users."""
        embedding = self.embedding
        if embedding is None:
            embedding = MultVAERecommender(n_components=min(_COMPONENTS, X.shape[1]))
        if not hasattr(embedding, "transform"):
            raise TypeError(f"embedding must have a method transform, but {type(embedding).__name__} has none.")
        fitted = passed_on(self, seeded_clone(embedding, rng)).fit(X, None)  # FrozenEstimator asks for a y
        refuse_other_items(self, fitted)
        return fitted

    def _embedded(self, embedding, X, weight):
        """Directions of the embeddings of all users, their weights, and which of them this process has passed."""
        first, n = _reduce.place(X.shape[0])
        with _reduce.alone():
            own = embedded_by(embedding, X) if X.shape[0] else None
        parts = [part for part in _reduce.gathered(own) if part is not None]
        weight = None if weight is None else np.concatenate(_reduce.gathered(weight))
        users = model.directions(torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts)))
        return users, weight, slice(first, first + X.shape[0])

    def _chosen(self, users, weight, rng):
        """Numbers of the anchors."""
        directed = np.flatnonzero(users.any(1).numpy())  # a user at the origin has no neighbours
        n = min(self.n_anchors, len(directed))
        if not n:
            return directed
        order = torch.from_numpy(directed[rng.permutation(len(directed))])
        if self.anchors == "random":
            return np.sort(order[:n].numpy())
        if self.anchors == "kmeans":
            some = users[torch.from_numpy(directed)]
            centres = self._centres(some, None if weight is None else weight[directed], n, rng)
            nearest = (some @ torch.from_numpy(centres).to(some).T).argmax(0)
            return np.unique(directed[nearest.numpy()])
        reach = self.bandwidth
        if reach == "auto":  # one for all, of an ordinary user
            some = [model.distance(users[a : a + 1], users)[0] for a in order[:_ORDINARY].tolist()]
            reach = float(np.median([model.bandwidth_of_share(d, _SERVED, weight) for d in some]))
        candidates = order[: max(_FEWEST_CANDIDATES, _CANDIDATES * n)]
        return np.array(model.covering_anchors(users, candidates, n, reach, weight), dtype=np.int64)

    def _centres(self, users, weight, n, rng):
        """Centres of k-means of the users' directions."""
        clusters = KMeansLite(n, random_state=draw_seed(rng))
        return clusters.fit(users.numpy(), sample_weight=weight).cluster_centers_

    def _bandwidths(self, users, anchors, weight):
        """Bandwidths of each anchor, of training and of use, and the share of the users whom an anchor serves."""
        wide, narrow, served = np.empty(len(anchors)), np.empty(len(anchors)), np.zeros(len(users), dtype=bool)
        for j, a in enumerate(anchors):
            d = model.distance(users[a : a + 1], users)[0]
            wide[j] = _settled(self.training_bandwidth, d, _LEARNT_FROM, weight)
            narrow[j] = _settled(self.bandwidth, d, _SERVED, weight)
            served |= (d < narrow[j]).numpy()
        return wide, narrow, float(np.average(served, weights=weight))

    def _weights(self, users, anchor, bandwidth):
        """Weights of the users in the training of the local model of an anchor."""
        d = model.distance(users[anchor : anchor + 1], users)[0]
        return model.kernel(d, bandwidth, self.kernel).double().numpy()

    def _warn_of_few_served(self, coverage):
        if coverage < _WARNS_BELOW and self.alpha < 1:
            warn(
                f"The local models of {type(self).__name__} speak for {coverage:.0%} of the training users; all others "
                f'get the global score. Use bandwidth="auto" or a wider one than {self.bandwidth!r}, more anchors than '
                f"{self.n_anchors}, or an embedding of fewer components.",
                UserWarning,
            )

    def _embedding(self, X):
        return embedded_by(self.embedding_, X)

    def _scorer(self, X):
        whole, local = scorer_of(self.estimator_, X), [scorer_of(member, X) for member in self.estimators_]
        anchors, bandwidths = torch.from_numpy(self.anchor_embeddings_), torch.from_numpy(self.bandwidths_)

        def score(users):
            scores = whole(users)
            embedded = torch.from_numpy(embedded_by(self.embedding_, users)).to(anchors)
            near = model.kernel(
                model.distance(model.directions(embedded), anchors), bandwidths.to(anchors), self.kernel
            )
            total = near.sum(1)
            share = (near / torch.where(total > 0, total, 1.0)[:, None]).to(scores)
            shared = torch.where(total > 0, self.alpha, 1.0).to(scores)
            scores *= shared[:, None]
            for j, scorer in enumerate(local):
                served = torch.nonzero(share[:, j])[:, 0]
                if len(served):
                    part = scorer(users[served.cpu().numpy()]) * (share[served, j] * (1 - shared[served]))[:, None]
                    scores.index_add_(0, served, part)
            return scores

        return score


def _without_empty(X, weight):
    """Users who have interactions, and their weights: the others teach nothing, and have no neighbours."""
    some = np.flatnonzero(np.diff(X.indptr))
    if len(some) == X.shape[0]:
        return X, weight
    weight = None if weight is None or (weight[some] == 1).all() else weight[some]
    return X[some], weight


def _settled(bandwidth, d, share, weight):
    """The bandwidth of an anchor at these distances from the users."""
    return model.bandwidth_of_share(d, share, weight) if bandwidth == "auto" else bandwidth


def _unfitted(whole, base):
    """A copy to fit to some of the users, with what the global model has chosen by validation."""
    return whole._for_some_users() if isinstance(whole, RecommenderMixin) else clone(base)


def _fit_local(member, X, weight, share):
    """Fit a local model to the users with a share in it; the shares are scaled to mean 1."""
    kept = np.flatnonzero(share)
    weight = np.ones(len(kept)) if weight is None else weight[kept]
    total, n = _reduce.total((weight @ share[kept], weight.sum()))
    mean = total / n
    member.fit(X[kept], sample_weight=weight * share[kept] / mean)
    return member._for_serving() if isinstance(member, RecommenderMixin) else member
