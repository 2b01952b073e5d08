"""Recommendation by local models, each trained around an anchor user."""

from numbers import Integral, Real

import numpy as np
import scipy.sparse as sp
import torch
from joblib import Parallel, delayed
from sklearn.base import MetaEstimatorMixin, clone
from sklearn.utils.validation import has_fit_parameter

from skvae._compat import Interval, StrOptions, fit_context
from skvae.estimators._base import Estimator
from skvae.estimators._checks import draw_seed, seeded_clone
from skvae.estimators.clustering.kmeans_lite import KMeansLite
from skvae.estimators.recommenders._input_checks import check_recommender
from skvae.estimators.recommenders._recommender import RecommenderMixin, scorer_of
from skvae.estimators.recommenders.networks.mult_vae import MultVAERecommender
from skvae.models.recommenders import loca as model
from skvae.tables.weights import weigh


class LOCARecommender(MetaEstimatorMixin, RecommenderMixin, Estimator):
    """Recommend items by many local models, each trained on the users around an anchor (LOCA).

    One global recommender serves everybody. Others learn from the neighbourhood of one anchor user each, weighted by a
    kernel of the angle between the users' embeddings. A user gets the mean of the local models near by:

        score(u) = alpha * global(u) + (1 - alpha) * sum_j t_j(u) local_j(u) / sum_j t_j(u)

    A user whom no local model reaches gets the global score. Users whom `fit` has not seen are embedded like the
    others. Read more in the :doc:`user guide </user_guide/recommender>`.

    Parameters
    ----------
    estimator : estimator or None, default=None
        Recommender whose `fit` takes sample_weight; copies of it are the global and the local models. None:
        `MultVAERecommender()`.
    embedding : transformer or None, default=None
        Embeds users by `transform`. None: the global model, if it has such a method, else `MultVAERecommender()`.
    n_anchors : int, default=50
        Number of local models.
    anchors : {"coverage", "kmeans", "random"}, default="coverage"
        How anchors are chosen: greedily, so that their neighbourhoods (of `bandwidth`) hold most users; next to the
        centres of k-means of the directions of the embeddings; or at random.
    training_bandwidth : float, default=0.8
        Distance, in right angles, from which a user has no weight in the training of a local model. In (0, 2].
    bandwidth : float, default=0.4
        Distance from which a local model does not speak for a user, in (0, 2]. Smaller than `training_bandwidth`: a
        model learns from more users than it serves.
    kernel : {"epanechnikov", "triangular", "uniform"}, default="epanechnikov"
        How weights fall with the distance.
    alpha : float, default=0.0
        Share of the global score, in [0, 1].
    n_jobs : int or None, default=None
        Local models to fit at the same time, by joblib.
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
    n_features_in_ : int
        Number of items.
    feature_names_in_ : ndarray of shape (n_items,)
        Names of the items, where `fit` was given a DataFrame.

    See Also
    --------
    VotingRecommender : Adds the scores of models of different kinds.

    Notes
    -----
    All local models are kept: memory is `n_anchors` times that of one.

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
        "training_bandwidth": [Interval(Real, 0, 2, closed="right")],
        "bandwidth": [Interval(Real, 0, 2, closed="right")],
        "kernel": [StrOptions({"epanechnikov", "triangular", "uniform"})],
        "alpha": [Interval(Real, 0, 1, closed="both")],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator=None,
        *,
        embedding=None,
        n_anchors=50,
        anchors="coverage",
        training_bandwidth=0.8,
        bandwidth=0.4,
        kernel="epanechnikov",
        alpha=0.0,
        n_jobs=None,
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
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, sample_weight=None):
        """Fit the global model, embed the users, choose anchors, and fit the local models.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions: counts, ratings or ones; non-negative, zero where there was none.
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
        """
        with self._unchanged_on_error():
            base = MultVAERecommender() if self.estimator is None else self.estimator
            check_recommender(base, type(self).__name__)
            if not has_fit_parameter(base, "sample_weight"):
                raise TypeError(
                    f"{type(self).__name__} weights the users of a local model, but {type(base).__name__}.fit takes no "
                    "sample_weight."
                )
            X = self._check_X(X, reset=True)
            kept, weight = weigh(X, sample_weight)
            kept = sp.csr_array(kept)  # small ones come dense
            rng = np.random.RandomState(draw_seed(self.random_state))
            base = seeded_clone(base, np.random.RandomState(draw_seed(rng)))
            whole = clone(base).fit(kept, **({} if weight is None else {"sample_weight": weight}))
            embedding = self._fitted_embedding(whole, kept, rng)
            users = model.directions(torch.from_numpy(embedding.transform(kept)))
            anchors = self._chosen(users, weight, rng)
            local = Parallel(n_jobs=self.n_jobs)(
                delayed(_fit_local)(clone(base), kept, weight, self._weights(users[a : a + 1], users)) for a in anchors
            )
            return self._set(
                estimator_=whole,
                embedding_=embedding,
                estimators_=local,
                anchor_embeddings_=users[anchors].numpy(),
            )

    def _fitted_embedding(self, whole, X, rng):
        """What embeds users: the global model itself, or a transformer that is fitted here."""
        if self.embedding is None and hasattr(whole, "transform"):
            return whole
        embedding = MultVAERecommender() if self.embedding is None else self.embedding
        if not hasattr(embedding, "transform"):
            raise TypeError(f"embedding must have a method transform, but {type(embedding).__name__} has none.")
        return seeded_clone(embedding, rng).fit(X)

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
        return np.array(model.covering_anchors(users, order, n, self.bandwidth, weight), dtype=np.int64)

    def _centres(self, users, weight, n, rng):
        """Centres of k-means of the users' directions."""
        clusters = KMeansLite(n, random_state=draw_seed(rng))
        return clusters.fit(users.numpy(), sample_weight=weight).cluster_centers_

    def _weights(self, anchor, users):
        """Weights of the users in the training of the local model of an anchor."""
        return model.kernel(model.distance(anchor, users)[0], self.training_bandwidth, self.kernel).double().numpy()

    def _scorer(self, X):
        whole, local = scorer_of(self.estimator_, X), [scorer_of(member, X) for member in self.estimators_]
        anchors = torch.from_numpy(self.anchor_embeddings_)

        def score(users):
            scores = whole(users)
            embedded = torch.from_numpy(self.embedding_.transform(users)).to(anchors)
            near = model.kernel(model.distance(model.directions(embedded), anchors), self.bandwidth, self.kernel)
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


def _fit_local(member, X, weight, share):
    """Fit a local model to the users with a share in it; the shares are scaled to mean 1."""
    kept = np.flatnonzero(share)
    weight = np.ones(len(kept)) if weight is None else weight[kept]
    mean = weight @ share[kept] / weight.sum()
    return member.fit(X[kept], sample_weight=weight * share[kept] / mean)
