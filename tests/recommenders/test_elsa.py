"""ELSA against plain formulas: scores and loss by matrices of items x items, and what a fit learns."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from skvae import EASERecommender, ELSARecommender
from skvae._tensors import Noise, Rows, keep_gradient
from skvae.datasets import make_interactions
from skvae.models.recommenders.elsa import ELSA, Direction
from skvae.models.recommenders.mult_vae import normalised

N_USERS, N_ITEMS, K = 9, 12, 4
COUNTS = np.random.default_rng(0).poisson(0.7, (N_USERS, N_ITEMS)).astype(float)
COUNTS[2], COUNTS[:, 5], COUNTS[3] = 0, 0, np.eye(N_ITEMS)[7]  # no item; nobody's; one item


def batch_of(dense):
    return Rows(sp.csr_array(dense), torch.device("cpu"), torch.float64).batch(np.arange(len(dense)))


def make_model(dropout=0.0, n_components=K):
    """A model, and parameters whose vectors have any length."""
    model, mean = ELSA(N_ITEMS, n_components, dropout), torch.from_numpy(COUNTS.mean(0))
    params = {name: tensor.double() for name, tensor in model.init(Noise(1), mean, mean).items()}
    params["items.weight"] *= 0.1 + torch.rand(N_ITEMS, 1, dtype=torch.float64, generator=torch.Generator())
    return model, params


def plain_weights(params):
    """(A A' - I) S, items x items."""
    A = torch.nn.functional.normalize(params["items.weight"].detach())
    return (A @ A.T - torch.eye(N_ITEMS)) * params["popularity"] ** 0.4


@pytest.fixture(scope="module")
def X():
    return make_interactions(300, 40, n_factors=3, mean_interactions=8, random_state=0).astype(np.float64)


def test_scores_are_those_of_items_times_items():
    model, params = make_model()
    scores = model.scores(params, batch_of(COUNTS))
    expected = torch.from_numpy(COUNTS) @ plain_weights(params)
    expected[2] = params["popularity"]
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_loss_and_gradient_are_those_of_whole_scores(dropout):
    model, params = make_model(dropout)
    x, some = batch_of(COUNTS), torch.from_numpy(COUNTS.any(1) & (COUNTS.astype(bool).sum(1) > 1))
    found = []
    for by_hand in (False, True):
        weight = params["items.weight"].clone().requires_grad_()
        if by_hand:
            A = torch.nn.functional.normalize(weight)
            seen = normalised(x, dropout, Noise(3)).dense()
            f = (seen @ A @ A.T - seen) * params["popularity"] ** 0.4
            target, f = (torch.nn.functional.normalize(each[some]) for each in (torch.from_numpy(COUNTS), f))
            loss = (target - f).square().sum(1)
            loss.sum().backward()
        else:
            keep_gradient(weight, torch.zeros_like(weight))
            bound = model.bound(params | {"items.weight": weight}, x, Noise(3))
            assert bound.kl.shape == (N_USERS, 0)
            loss = -bound.log_prob[some]
            bound.descend(1.0, N_USERS * some.double())
        found.append((loss.detach(), weight.grad))
    torch.testing.assert_close(*found)


def test_the_loss_is_the_distance_of_directions():
    model, params = make_model()
    x, f = batch_of(COUNTS), model.scores(params, batch_of(COUNTS))
    some = COUNTS.any(1)
    torch.testing.assert_close(model.bound(params, x).log_prob[some], Direction().log_prob(x, f)[some])
    assert (model.bound(params, x).log_prob[some] <= 1e-12).all()


def test_permuted_items_are_the_same_model():
    order = np.random.default_rng(0).permutation(N_ITEMS)
    model, params = make_model()
    permuted = {name: tensor[order] for name, tensor in params.items()}
    x, other = batch_of(COUNTS), batch_of(COUNTS[:, order])
    torch.testing.assert_close(model.bound(permuted, other).log_prob, model.bound(params, x).log_prob)
    torch.testing.assert_close(model.scores(permuted, other), model.scores(params, x)[:, order])


def test_vectors_of_items_have_length_one_and_no_item_predicts_itself(X):
    model = ELSARecommender(5, max_iter=3, random_state=0).fit(X)
    np.testing.assert_allclose(np.linalg.norm(model.item_embeddings_, axis=1), 1, rtol=1e-6)
    ones = np.eye(40)
    assert (model.explain(ones, np.arange(40)).data == 0).all()
    np.testing.assert_allclose(np.diag(model.decision_function(ones)), 0, atol=1e-6)
    np.testing.assert_allclose(model.transform(X), X @ model.item_embeddings_, rtol=1e-5, atol=1e-6)
    with pytest.raises(AttributeError):
        ELSARecommender().item_embeddings_  # noqa: B018


def test_lists_of_blocks_are_those_of_all_scores(X, monkeypatch):
    model = ELSARecommender(5, max_iter=3, random_state=0).fit(X)
    ids, scores = model.recommend(X, k=5)
    monkeypatch.setattr("skvae._tensors._block_sizes._BLOCK_CELLS", 7 * 40)
    in_blocks = model.recommend(X, k=5)
    np.testing.assert_array_equal(in_blocks[0], ids)
    np.testing.assert_allclose(in_blocks[1], scores, rtol=1e-9)


def test_the_loss_falls_and_the_order_comes_near_that_of_ease(X):
    ease, elsa = EASERecommender().fit(X), ELSARecommender(40, random_state=0).fit(X)
    assert elsa.lower_bounds_[-1] > elsa.lower_bounds_[0] + 0.1
    random = ELSARecommender(40, random_state=0, learning_rate=1e-9, max_iter=1).fit(X)
    assert elsa.score(X) > ease.score(X) - 0.05 > random.score(X)


def test_popularity_is_the_mean_over_all_calls(X):
    """Also of new items, since they came; and a warm start has that of its own users."""
    model = ELSARecommender(3, max_iter=1, random_state=0)
    weight = np.random.default_rng(0).random(300) + 0.5
    model.partial_fit(X[:100, :30], sample_weight=weight[:100])
    model.partial_fit(X[100:], sample_weight=weight[100:], new_items=range(30, 40))
    dense = X.toarray()
    whole, late = np.average(dense, axis=0, weights=weight), np.average(dense[100:], axis=0, weights=weight[100:])
    found = model.parameters_["popularity"]
    some, first = np.diff(X.indptr) > 0, np.diff(X[:100, :30].indptr) > 0
    if some.all() and first.all():
        np.testing.assert_allclose(found[:30], whole[:30], rtol=1e-5)
    np.testing.assert_allclose(found[30:], late[30:], rtol=1e-5)
    model.set_params(warm_start=True).fit(X)
    np.testing.assert_allclose(model.parameters_["popularity"], dense.mean(0), rtol=1e-5)


def test_one_pass_more_keeps_what_was_learnt():
    X = make_interactions(600, 60, n_factors=3, mean_interactions=10, random_state=1)
    model = ELSARecommender(20, random_state=0).fit(X[:400])
    before = model.score(X[400:])
    assert model.partial_fit(X[400:500]).score(X[500:]) > before - 0.05
