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
from skvae.training import defaults
from skvae.training.clicks import UserStatistics

N_USERS, N_ITEMS, K = 9, 12, 4
COUNTS = np.random.default_rng(0).poisson(0.7, (N_USERS, N_ITEMS)).astype(float)
COUNTS[2], COUNTS[:, 5], COUNTS[3] = 0, 0, np.eye(N_ITEMS)[7]  # no item; nobody's; one item


def batch_of(dense):
    return Rows(sp.csr_array(dense), torch.device("cpu"), torch.float64).batch(np.arange(len(dense)))


def make_model(dropout=0.0, discount=0.3):
    """A model, and parameters whose vectors have any length."""
    model, mean = ELSA(N_ITEMS, K, dropout, discount), torch.from_numpy(COUNTS.mean(0))
    params = {name: tensor.double() for name, tensor in model.init(Noise(1), mean, mean).items()}
    params["items.weight"] *= 0.1 + torch.rand(N_ITEMS, 1, dtype=torch.float64, generator=torch.Generator())
    return model, params


def plain_weights(params, discount, A=None):
    """D (A A' - I) S, items x items."""
    A, p = torch.nn.functional.normalize(params["items.weight"].detach()) if A is None else A, params["popularity"]
    d = torch.where(p > 0, p**-discount, torch.zeros_like(p))
    return d[:, None] * (A @ A.T - torch.eye(N_ITEMS)) * p**0.4


@pytest.fixture(scope="module")
def X():
    return make_interactions(300, 40, n_factors=3, mean_interactions=8, random_state=0).astype(np.float64)


@pytest.mark.parametrize("discount", [0.0, 0.3])
def test_scores_are_those_of_items_times_items(discount):
    """An item that nobody had tells nothing: the user of it alone gets the order of popularity."""
    model, params = make_model(discount=discount)
    dense, weights = COUNTS.copy(), plain_weights(params, discount)
    dense[4], dense[5, 5] = 2 * np.eye(N_ITEMS)[5], 3
    expected = torch.from_numpy(dense) @ weights
    expected[[2, 4]] = params["popularity"]
    torch.testing.assert_close(model.scores(params, batch_of(dense)), expected)
    i, j = torch.cartesian_prod(torch.arange(N_ITEMS), torch.arange(N_ITEMS)).T
    torch.testing.assert_close(model.effects(params, i, j).reshape(N_ITEMS, N_ITEMS), weights)


@pytest.mark.parametrize(("dropout", "discount"), [(0.0, 0.3), (0.4, 0.3), (0.4, 0.0)])
def test_loss_and_gradient_are_those_of_whole_scores(dropout, discount):
    model, params = make_model(dropout, discount)
    x, some = batch_of(COUNTS), torch.from_numpy(COUNTS.any(1) & (COUNTS.astype(bool).sum(1) > 1))
    found = []
    for by_hand in (False, True):
        weight = params["items.weight"].clone().requires_grad_()
        if by_hand:
            A = torch.nn.functional.normalize(weight)
            seen = normalised(x, dropout, Noise(3)).dense()
            f = seen @ plain_weights(params, discount, A)
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


def test_alike_users_have_a_discount_less_dropout_and_more_steps(X):
    """Also where a fit goes on from that of other users; and explanations are still parts of the scores."""
    alike = np.repeat(np.eye(12), 3, axis=1).repeat(10, axis=0)  # each of twelve groups has three items
    alike[np.arange(120), np.arange(120) * 7 % 36] = 1
    model = ELSARecommender(5, max_iter=3, random_state=0).fit(alike)
    given = ELSARecommender(5, max_iter=3, random_state=0, dropout=0.2).fit(alike)
    assert model.similarity_ >= 0.33 > ELSARecommender(5, max_iter=1, random_state=0).fit(X).similarity_
    np.testing.assert_array_equal(model.item_embeddings_, given.item_embeddings_)
    assert (model.discount_, model.dropout_, given.set_params(dropout=0.7).fit(alike).dropout_) == (0.3, 0.2, 0.7)
    epochs = [defaults.elsa_defaults(160, UserStatistics(4, similar))["max_iter"] for similar in (0.32, 0.33)]
    assert epochs == [320 // 16, 640 // 16]
    weighed = alike * alike.mean(0) ** -0.3
    np.testing.assert_allclose(model.transform(alike), weighed @ model.item_embeddings_, rtol=1e-5, atol=1e-6)
    best = model.predict(alike)
    parts = model.explain(alike, best).sum(axis=1)
    np.testing.assert_allclose(parts, model.decision_function(alike)[np.arange(120), best], rtol=1e-5)
    unlike = np.random.default_rng(0).integers(0, 2, (50, 36)).astype(float)
    weighed = unlike * model.partial_fit(unlike).parameters_["popularity"] ** -0.3
    assert (model.discount_, model.dropout_) == (0.3, 0.2)
    np.testing.assert_allclose(model.transform(unlike), weighed @ model.item_embeddings_, rtol=1e-5, atol=1e-6)


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
