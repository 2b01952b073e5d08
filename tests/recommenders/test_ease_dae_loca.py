"""EASE, Mult-DAE and LOCA against what they must be by their equations."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import TruncatedSVD
from sklearn.frozen import FrozenEstimator

from skvae import (
    EASERecommender,
    LOCARecommender,
    MultDAERecommender,
    MultVAERecommender,
    PopularityRecommender,
    VotingRecommender,
)
from skvae._tensors import Noise, Rows
from skvae.datasets import make_interactions
from skvae.likelihoods import Multinomial
from skvae.models.recommenders.loca import bandwidth_of_share, covering_anchors, directions, distance, kernel
from skvae.models.recommenders.mult_dae import MultDAE
from skvae.models.recommenders.mult_vae import MultVAE

QUICK = {"learning_rate": 0.05, "max_iter": 8, "random_state": 0}


@pytest.fixture(scope="module")
def X():
    return make_interactions(120, 20, n_factors=2, mean_interactions=6, random_state=0).astype(np.float64)


# ---------------------------------------------------------------------------------------------------------------- EASE
@pytest.mark.parametrize("weighted", [False, True])
def test_ease_is_a_ridge_regression_of_each_item_on_the_others(weighted, X):
    weight = np.random.default_rng(0).random(120) + 0.1 if weighted else np.ones(120)
    found = EASERecommender(7.0).fit(X, sample_weight=weight if weighted else None).item_weights_
    dense = X.toarray()
    for item in range(20):
        others = np.delete(np.arange(20), item)
        A = dense[:, others]
        by_hand = np.linalg.solve((A.T * weight) @ A + 7.0 * np.eye(19), (A.T * weight) @ dense[:, item])
        np.testing.assert_allclose(found[others, item], by_hand, rtol=1e-8, atol=1e-10)
        assert found[item, item] == 0


def test_passes_over_parts_are_one_fit(X):
    stream = EASERecommender(7.0)
    for part in (X[:50], X[50:51], X[51:]):
        stream.partial_fit(part)
    whole = EASERecommender(7.0).fit(X)
    np.testing.assert_allclose(stream.item_weights_, whole.item_weights_, rtol=1e-9, atol=1e-12)
    assert stream.n_samples_seen_ == whole.n_samples_seen_ == 120


def test_ease_chooses_a_penalty_that_ranks_well(X):
    chosen = EASERecommender().fit(X)
    assert chosen.l2_ in (10, 50, 200, 500, 1000)
    np.testing.assert_array_equal(chosen.item_weights_, EASERecommender(chosen.l2_).fit(X).item_weights_)


def test_items_that_do_not_fit_into_memory_are_refused(monkeypatch, X):
    monkeypatch.setattr("skvae.estimators.recommenders.ease._memory", lambda: 1000)
    with pytest.raises(MemoryError, match=r"for 20 items take .* GB of float64.*or use ELSARecommender"):
        EASERecommender(7.0).fit(X)


def test_popularity_halves_with_age():
    X = sp.csr_array(np.array([[1.0, 1], [0, 1]]))
    times = sp.csr_array(np.array([[10.0, 6], [0, 2]]))
    model = PopularityRecommender(half_life=4).fit(X, times=times)
    np.testing.assert_allclose(model.popularity_, [1, 0.5 + 0.25])
    stream = PopularityRecommender(half_life=4)
    for user in (1, 0):
        stream.partial_fit(X[[user]], times=times[[user]])
    np.testing.assert_allclose(stream.popularity_, model.popularity_)
    with pytest.raises(ValueError, match="given no times"):
        PopularityRecommender(half_life=4).fit(X)
    with pytest.raises(ValueError, match="those of the last fit have none"):
        PopularityRecommender().fit(X).set_params(half_life=4).partial_fit(X, times=times)
    with pytest.raises(ValueError, match="those of the last fit have decayed"):
        clone(model).fit(X, times=times).set_params(half_life=None).partial_fit(X)


def test_ages_count_from_the_latest_interaction_that_has_weight():
    X, times = np.array([[1, 1], [0, 1]]), np.array([[10, 6], [0, 18]])
    model = PopularityRecommender(half_life=4).fit(X, times=times, sample_weight=[1, 0])
    np.testing.assert_array_equal(model.popularity_, [1, 0.5])
    assert model.last_time_ == 10


def test_calls_without_interactions_leave_no_nan():
    nothing = np.zeros((1, 2))
    model = PopularityRecommender(half_life=1e-310).fit(nothing, times=nothing).partial_fit(nothing, times=nothing)
    np.testing.assert_array_equal(model.popularity_, [0, 0])
    model.partial_fit([[1, 1]], times=[[1, 2]])
    np.testing.assert_array_equal(model.popularity_, [0, 1])


# ------------------------------------------------------------------------------------------------------------ Mult-DAE
def test_the_dae_is_the_vae_without_noise_and_kl(X):
    """Of linear networks, whose codes no activation changes."""
    sizes = 20, 3, (), torch.positive, 0.0, Multinomial()
    dae, vae = MultDAE(*sizes), MultVAE(*sizes)
    mean = torch.from_numpy(np.asarray(X.mean(axis=0)))
    params = {name: tensor.double() for name, tensor in vae.init(Noise(0), mean, mean).items()}
    narrow = {name: tensor[..., :3] if name.startswith("encoder") else tensor for name, tensor in params.items()}
    batch = Rows(X, torch.device("cpu"), torch.float64).batch(np.arange(120))
    torch.testing.assert_close(dae.bound(narrow, batch).log_prob, vae.bound(params, batch).log_prob)
    assert dae.bound(narrow, batch, Noise(1)).kl.shape == (120, 0)
    assert (dae.encode(narrow, batch).log_variance == -np.inf).all()


def test_the_dae_has_codes_of_no_width(X):
    model = MultDAERecommender(3, **QUICK).fit(X)
    mean, std = model.posterior(X)
    np.testing.assert_array_equal(mean, model.transform(X))
    assert (std == 0).all() and not hasattr(model, "elbo")
    np.testing.assert_array_equal(model.transform(np.zeros((1, 20))), 0)


# ---------------------------------------------------------------------------------------------------------------- LOCA
@pytest.mark.parametrize("base", [EASERecommender(7.0), MultVAERecommender(3, **QUICK)], ids=["EASE", "MultVAE"])
def test_one_anchor_with_wide_kernels_is_the_base_model(base, X):
    wide = {"kernel": "uniform", "training_bandwidth": 2, "bandwidth": 2, "n_anchors": 1}
    loca = LOCARecommender(base, embedding=MultVAERecommender(2, **QUICK), random_state=0, **wide).fit(X)
    expected = clone(base).fit(X).decision_function(X)
    np.testing.assert_allclose(loca.decision_function(X), expected, rtol=1e-6, atol=1e-7)


def test_with_alpha_1_it_is_the_global_model(X):
    loca = LOCARecommender(EASERecommender(7.0), embedding=MultVAERecommender(2, **QUICK), n_anchors=3, alpha=1.0)
    np.testing.assert_allclose(
        loca.fit(X).decision_function(X), EASERecommender(7.0).fit(X).decision_function(X), rtol=1e-12
    )


@pytest.mark.parametrize("anchors", ["coverage", "kmeans", "random"])
def test_scores_are_the_weighted_mean_of_local_models(anchors, X):
    embedding = MultVAERecommender(2, **QUICK)
    settings = {"n_anchors": 4, "bandwidth": 0.5, "alpha": 0.3, "anchors": anchors, "random_state": 0}
    loca = LOCARecommender(EASERecommender(7.0), embedding=embedding, **settings).fit(X)
    e = loca.embedding_.transform(X)
    cosine = (e / np.linalg.norm(e, axis=1, keepdims=True)) @ loca.anchor_embeddings_.T
    near = 0.75 * np.maximum(0, 1 - (2 / np.pi * np.arccos(np.clip(cosine, -1, 1)) / 0.5) ** 2)
    local = np.stack([member.decision_function(X) for member in loca.estimators_], 1)
    whole, reached = loca.estimator_.decision_function(X), near.sum(1) > 0
    mean = (near[reached, :, None] * local[reached]).sum(1) / near[reached].sum(1)[:, None]
    expected = whole.copy()
    expected[reached] = 0.3 * whole[reached] + 0.7 * mean
    assert 0 < reached.sum()
    np.testing.assert_allclose(loca.decision_function(X), expected, rtol=1e-6, atol=1e-7)


def test_distances_and_kernels_are_their_formulas():
    e = directions(torch.tensor([[2.0, 0], [0, 3], [-1, 0], [1, 1], [0, 0]], dtype=torch.float64))
    found = distance(e[:1], e)[0]
    torch.testing.assert_close(found, torch.tensor([0.0, 1, 2, 0.5, 1], dtype=torch.float64))
    weights = [kernel(found.clone(), 1.0, kind).tolist() for kind in ("epanechnikov", "triangular", "uniform")]
    np.testing.assert_allclose(weights[0], [0.75, 0, 0, 0.75 * 0.75, 0])
    np.testing.assert_allclose(weights[1], [1, 0, 0, 0.5, 0])
    np.testing.assert_allclose(weights[2], [1, 0, 0, 1, 0])


@pytest.mark.parametrize("weighted", [False, True])
def test_anchors_are_those_of_the_plain_greedy_rule(weighted):
    rng = np.random.default_rng(0)
    users = directions(torch.from_numpy(rng.normal(size=(150, 3))))
    weight = rng.random(150) if weighted else None
    near = (2 / np.pi * np.arccos(np.clip((users @ users.T).numpy(), -1, 1))) < 0.3
    left = np.ones(150) if weight is None else weight.copy()
    expected = []
    for _ in range(6):
        expected.append(int((near @ left).argmax()))
        left[near[expected[-1]]] = 0
    found = covering_anchors(users, torch.arange(150), 6, 0.3, weight)
    covered = [(near[found[:n]].any(0) * (1 if weight is None else weight)).sum() for n in range(1, 7)]
    by_hand = [(near[expected[:n]].any(0) * (1 if weight is None else weight)).sum() for n in range(1, 7)]
    np.testing.assert_allclose(covered, by_hand)  # ties may go to another candidate


def test_anchors_go_on_when_all_is_covered():
    users = directions(torch.from_numpy(np.random.default_rng(0).normal(size=(30, 2))))
    found = covering_anchors(users, torch.arange(30), 20, 1.5)
    assert len(set(found)) == 20


def test_a_bandwidth_of_a_share_holds_that_share():
    rng = np.random.default_rng(0)
    d, weight = torch.from_numpy(rng.random(40).round(1)), rng.integers(1, 4, 40)  # with ties
    repeated = d.repeat_interleave(torch.from_numpy(weight))
    for share in (0.01, 0.3, 0.5, 0.99):
        h = bandwidth_of_share(d, share, weight.astype(np.float64))
        assert h == pytest.approx(bandwidth_of_share(repeated, share))
        inside = repeated[repeated < h]
        assert len(inside) >= share * len(repeated) > (inside < inside.max()).sum()  # and it is the smallest
        assert (d - h).abs().min() > 0.04  # of distances a tenth apart
    assert bandwidth_of_share(d, 1.0) == 2
    assert bandwidth_of_share(torch.tensor([0.0, 1e-4, 1e-4, 0.7]), 0.5) == pytest.approx(0.355)  # equal users, float32


def test_auto_bandwidths_serve_users_whatever_the_embedding(X):
    """A fixed distance serves few users where there are many components."""
    embedding = TruncatedSVD(15, random_state=0)
    loca = LOCARecommender(EASERecommender(), embedding=embedding, n_anchors=8, random_state=0).fit(X)
    e = loca.embedding_.transform(X)
    cosine = (e / np.linalg.norm(e, axis=1, keepdims=True)) @ loca.anchor_embeddings_.T
    d = 2 / np.pi * np.arccos(np.clip(cosine, -1, 1))
    assert ((d < loca.training_bandwidths_ + 1e-9).mean(0) >= 0.5).all()
    assert (loca.bandwidths_ <= loca.training_bandwidths_).all()
    assert loca.coverage_ == pytest.approx((d < loca.bandwidths_).any(1).mean(), abs=1e-9)
    assert loca.coverage_ > 0.7
    assert {member.l2 for member in loca.estimators_} == {loca.estimator_.l2_}  # chosen once
    with pytest.raises(ValueError, match="keeps no sums"):  # they took as much memory as the weights
        loca.estimators_[0].partial_fit(X)
    with pytest.warns(UserWarning, match=r"speak for \d+% of the training users.*bandwidth=.auto."):
        narrow = loca.set_params(bandwidth=0.05).fit(X)
    assert narrow.coverage_ < 1 / 3
    np.testing.assert_array_equal(narrow.bandwidths_, 0.05)


def test_what_is_frozen_is_not_fitted_again(X):
    embedding = FrozenEstimator(TruncatedSVD(3, random_state=0).fit(X))
    loca = LOCARecommender(EASERecommender(7.0), embedding=embedding, n_anchors=2, random_state=0).fit(X[:60])
    np.testing.assert_array_equal(loca.embedding_.transform(X), embedding.transform(X))
    ease = EASERecommender(7.0).fit(X)
    vote = VotingRecommender([("ease", FrozenEstimator(ease))]).fit(X[:60])
    np.testing.assert_array_equal(vote.recommend(X, k=5)[0], ease.recommend(X, k=5)[0])


def test_a_vote_as_it_comes_is_of_two_networks_and_ease():
    named, weights = VotingRecommender()._members()
    assert [(name, type(member).__name__) for name, member in named] == [
        ("vae", "MultVAERecommender"),
        ("rec", "RecVAERecommender"),
        ("ease", "EASERecommender"),
    ]
    np.testing.assert_allclose(weights, [0.4, 0.4, 0.2])


def test_frozen_members_know_the_same_items_in_the_same_order(X):
    """Columns in another order gave other lists, and the same order a warning that the names were missing."""
    frame = pd.DataFrame(X.toarray(), columns=[f"i{j}" for j in range(20)])
    ease, embedding = EASERecommender(7.0).fit(frame), FrozenEstimator(TruncatedSVD(3, random_state=0).fit(frame))
    members = [("ease", FrozenEstimator(ease))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = VotingRecommender(members).fit(frame).recommend(frame, k=5, names=True)[0]
    np.testing.assert_array_equal(found, ease.recommend(frame, k=5, names=True)[0])
    for model in VotingRecommender(members), LOCARecommender(EASERecommender(7.0), embedding=embedding, n_anchors=2):
        with pytest.raises(ValueError, match="column 0 is 'i19', but .* is frozen .* where it is 'i0'"):
            model.fit(frame[frame.columns[::-1]])
    with pytest.raises(ValueError, match="was given 9 items, but EASERecommender in it .* fitted to 20"):
        VotingRecommender(members).fit(X[:, :9])


def test_users_without_items_leave_no_anchor(X):
    with_empty = sp.vstack([X, sp.csr_array((5, 20))], format="csr")
    loca = LOCARecommender(
        EASERecommender(7.0), embedding=MultVAERecommender(2, **QUICK), n_anchors=200, random_state=0
    )
    assert (np.linalg.norm(loca.fit(with_empty).anchor_embeddings_, axis=1) > 0.99).all()


def test_what_cannot_be_local_is_refused(X):
    class Unweighted(PopularityRecommender):
        def fit(self, X, y=None):
            return super().fit(X)

    with pytest.raises(TypeError, match="takes no sample_weight"):
        LOCARecommender(Unweighted()).fit(X)
    with pytest.raises(TypeError, match="has no such method|has none"):
        LOCARecommender(EASERecommender(), embedding=PopularityRecommender()).fit(X)
    with pytest.raises(TypeError, match="takes recommenders"):
        LOCARecommender(EASERecommender).fit(X)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, None], ids=repr)
def test_scores_that_cannot_be_averaged_are_refused(bad, X):
    """NaN in one score left a column that is not there, and infinity made all scores of the user NaN."""

    class OfAnotherMake(BaseEstimator):
        def fit(self, X, y=None, sample_weight=None):
            return self

        def decision_function(self, users):
            scores = np.ones(users.shape)
            scores[-1, 7] = bad
            return scores[0] if bad is None else scores

    words = r"scores of \(20,\)" if bad is None else rf"OfAnotherMake.*score {bad} to item 7.*must be finite"
    embedding = TruncatedSVD(2, random_state=0)
    for model in (
        VotingRecommender([("other", OfAnotherMake()), ("popular", PopularityRecommender())]),
        LOCARecommender(OfAnotherMake(), embedding=embedding, n_anchors=2, random_state=0),
    ):
        with pytest.raises(ValueError, match=words):
            model.fit(X).recommend(X[:3])
