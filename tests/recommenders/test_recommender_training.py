"""What the parameters of `fit` make the engine do."""

import gc
import re
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from skvae import MultVAERecommender
from skvae._tensors import Rows
from skvae.datasets import make_interactions
from skvae.engines import gradient
from skvae.estimators.recommenders.networks import _network_recommender as face
from skvae.likelihoods import Multinomial
from skvae.training import defaults
from skvae.training.clicks import UserStatistics


@pytest.fixture(scope="module")
def X():
    return make_interactions(60, 20, random_state=0)


def tiny(**parameters):
    return MultVAERecommender(**{"n_components": 4, "max_iter": 3, "random_state": 0, **parameters})


@pytest.fixture
def engine(monkeypatch):
    """Calls of the engine, as they come: rows, keywords, and the order of the rows in each epoch."""
    calls = []
    ascend, batches = gradient.ascend, Rows.batches

    def spy(model, params, rows, **keywords):
        calls.append({"rows": rows, "model": model, "orders": [], **keywords})
        return ascend(model, params, rows, **keywords)

    def watched(self, batch_size, order=None):
        if order is not None:
            calls[-1]["orders"].append(order.tolist())
        return batches(self, batch_size, order)

    monkeypatch.setattr(gradient, "ascend", spy)
    monkeypatch.setattr(Rows, "batches", watched)
    return calls


def test_users_set_aside_are_not_trained_on(X, engine, monkeypatch):
    held = []
    split = face.content_holdout
    monkeypatch.setattr(face, "content_holdout", lambda rows: held.append(rows) or split(rows))
    tiny(early_stopping=True, validation_fraction=0.25).fit(X)
    rows = engine[0]["rows"]
    trained = {tuple(rows.indices[a:b]) for a, b in zip(rows.indptr[:-1], rows.indptr[1:], strict=True)}
    aside = {tuple(row.indices) for row in held[0]}
    assert len(rows) == 45 and held[0].shape[0] == 15
    assert not trained & aside


def test_equal_validation_users_are_asked_for_different_items():
    assert (face.HeldOutRanking(None, sp.csr_array(np.ones((200, 4)))).hidden.sum(axis=0) > 25).all()


def test_every_epoch_has_an_order_of_its_own(X, engine):
    tiny().fit(X)
    orders = engine[0]["orders"]
    assert all(sorted(order) == list(range(60)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("change", [{"dropout": 0.9}, {"learning_rate_schedule": "constant"}, {"beta": 5.0}])
def test_what_is_asked_for_reaches_the_fit(X, change):
    base, changed = tiny(dropout=0.0).fit(X), tiny(**{"dropout": 0.0, **change}).fit(X)
    assert not np.allclose(base.decision_function(X), changed.decision_function(X), atol=1e-3)


def test_calls_of_partial_fit_hand_the_optimizer_state_on(X, engine):
    model = tiny().partial_fit(X[:30])
    kept = {name: array.copy() for name, array in model._optimizer_state.items()}
    model.partial_fit(X[30:])
    first, second = engine
    assert first["optimizer_state"] is None
    assert kept.keys() == second["optimizer_state"].keys() and any(array.any() for array in kept.values())
    assert model._optimizer_state["step"] == 2 * kept["step"] > 0


def test_partial_fit_keeps_its_rate_and_its_beta(X, engine):
    tiny(beta=0.7, annealing="linear").partial_fit(X)
    plan = engine[0]["plan"]
    assert plan.max_iter == 1
    assert [plan.rate_schedule(f) for f in (0.0, 0.5, 0.99)] == [1, 1, 1]
    assert [plan.beta(f) for f in (0.0, 0.5, 0.99)] == [0.7, 0.7, 0.7]


@pytest.mark.parametrize(
    ("n_users", "users", "units", "beta", "batch_size", "max_iter", "learning_rate", "weight_decay"),
    [
        (30, (100, 0.1), 0, 0.02, 8, 60, 5e-3, 1e-3),  # 240 steps
        (600, (50, 0.32), 0, 0.02, 37, 30, 5e-3, 5e-4),
        (600, (20, 0.32), 300, 0.02, 37, 30, 5e-3, 2e-4),
        (600, (20, 0.33), 300, 0.02, 37, 35, 1e-2, 4e-4),
        (2_000, (20, 0.1), 300, 0.02, 100, 30, 5e-3, 2e-4),
        (8_000, (50, 0.1), 0, 0.02, 500, 30, 5e-3, 5e-4),
        (8_000, (50, 0.4), 300, 0.02, 250, 35, 1e-2, 1e-3),
        (40_000, (4, 0.4), 300, 0.1, 500, 18, 1e-2, 8e-5),  # 1,500 steps
        (100_000, (100, 0.1), 0, 0.2, 500, 10, 5e-3, 1e-3),
        (1_000_000, (1, 0.1), 300, 0.2, 500, 10, 5e-3, 2e-5),
    ],
)
def test_auto_is_what_the_docstring_says(
    n_users, users, units, beta, batch_size, max_iter, learning_rate, weight_decay
):
    users = UserStatistics(*users)
    assert defaults.decoder_units(users) == units
    chosen = defaults.recommender_defaults(n_users, n_users, users, has_units=units > 0)
    assert [chosen[name] for name in ("beta", "weight_decay")] == pytest.approx([beta, weight_decay])
    assert chosen["learning_rate"] == learning_rate
    linear = defaults.recommender_defaults(n_users, n_users, users, has_units=False)
    assert linear["learning_rate"] == 5e-3 and linear["max_iter"] <= max(30, max_iter)
    assert (chosen["batch_size"], chosen["max_iter"]) == (batch_size, max_iter)


def test_the_penalty_is_that_of_the_first_fit_of_those_that_go_on(engine):
    short, long = (sp.csr_array(np.ones((12, 1)) * (np.arange(40) < n)) for n in (3, 40))
    model = tiny(weight_decay="auto").fit(short).partial_fit(long)
    used = [call["plan"].weight_decay for call in engine]
    assert used == [model.weight_decay_] * 2 == pytest.approx([3e-5, 3e-5])
    assert model.fit(long).weight_decay_ == pytest.approx(4e-4) and model.items_per_user_ == 40


def test_partial_fit_in_pieces_has_the_beta_of_the_whole(X, engine, monkeypatch):
    monkeypatch.setattr(
        defaults, "recommender_defaults", lambda n, n_seen, *_, **__: {**DEFAULTS, "beta": n_seen / 100}
    )
    model = tiny()
    for rows in (X[:10], X[10:30], X[30:]):
        model.partial_fit(rows)
    assert [call["plan"].beta(1.0) for call in engine] == [0.1, 0.3, 0.6]
    assert model.n_samples_seen_ == 60
    assert model.fit(X).n_samples_seen_ == 60


DEFAULTS = {"weight_decay": 0.0, "learning_rate": 1e-3, "batch_size": 10, "max_iter": 3}


def test_early_stopping_auto_turns_on_where_users_are_many(X, engine, monkeypatch):
    monkeypatch.setattr(defaults, "MANY_USERS", 50)
    assert len(tiny().fit(X).validation_scores_) == 3 and len(engine[0]["rows"]) == 54
    monkeypatch.setattr(defaults, "MANY_USERS", 61)
    assert len(tiny().fit(X).validation_scores_) == 0


@pytest.mark.parametrize(
    ("annealing", "ends"),
    [(lambda f: f**4, 1.0), (lambda f: min(1, f / 0.6), 0.6), (lambda f: 1.0, 0.0), (None, 0.0), ("linear", 0.25)],
)
def test_no_epoch_counts_before_a_schedule_has_settled(X, engine, annealing, ends):
    tiny(annealing=annealing, early_stopping=True).fit(X)
    assert engine[0]["plan"].earliest_stop == pytest.approx(ends, abs=0.01)


def test_rows_without_clicks_teach_where_they_are_evidence(X):
    empty = np.vstack([X.toarray(), np.zeros((200, 20))])

    def level(likelihood):
        return tiny(likelihood=likelihood, max_iter=1).fit(empty).parameters_["decoder.0.bias"].mean()

    alone = {name: tiny(likelihood=name, max_iter=1).fit(X).parameters_["decoder.0.bias"].mean() for name in KINDS}
    assert level("multinomial") == pytest.approx(alone["multinomial"], abs=1e-6)
    assert level("bernoulli") < alone["bernoulli"] - 0.5
    assert level("gaussian") < alone["gaussian"] - 0.1


KINDS = ("multinomial", "bernoulli", "gaussian")


@pytest.mark.parametrize("value", [1e-50, 1e39, 1e25])
def test_values_that_float32_cannot_train_on_are_named(X, value):
    dense = X.toarray().astype(float)
    dense[7] = 0
    dense[7, 3] = value
    with pytest.raises(ValueError, match=re.escape(f"between 1e-15 and 1e+15, but X[7, 3] = {value:g}")):
        tiny().fit(dense)


def test_running_out_of_memory_on_a_gpu_names_the_batch_size(X, monkeypatch):
    def exhausted(*args, **keywords):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(gradient, "ascend", exhausted)
    with pytest.raises(MemoryError, match="lower batch_size"):
        tiny().fit(X)


# -------------------------------------------------------------------------------------------------------------- memory
def test_the_pass_before_the_epochs_keeps_no_tensor_a_batch(X, monkeypatch):
    """Small ones among the large ones of every batch would scatter memory: 0.3 GB in 16,000 batches."""
    of_batch, found = Multinomial.log_base, []

    def counting(self, x):
        found.append(sum(type(each) is torch.Tensor for each in gc.get_objects()))
        return of_batch(self, x)

    monkeypatch.setattr(Multinomial, "log_base", counting)
    tiny(batch_size=1).fit(X)
    assert len(found) == 60 and found[-1] < found[1] + 30


def test_no_array_of_users_x_items_is_made_where_it_would_be_large():
    """Two arrays of a batch's users x items would take 500 MB (it was 281 with one)."""
    code = """
import pathlib, re
import numpy as np, scipy.sparse as sp
from skvae import MultVAERecommender

status = pathlib.Path("/proc/self/status")
megabytes = lambda name: int(re.search(name + r":\\s*(\\d+)", status.read_text())[1]) / 1024
items = np.sort(np.random.default_rng(0).integers(10_000, size=(1100, 5)) + 10_000 * np.arange(5))
X = sp.csr_array((np.ones(5500), items.ravel(), np.arange(0, 5501, 5)), shape=(1100, 60_000))
settings = dict(n_components=2, decoder_units=0, max_iter=1, batch_size=1100, early_stopping=False, random_state=0)
MultVAERecommender(**settings).fit(X[:200, :500])
before = megabytes("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")
MultVAERecommender(**settings).fit(X)
print(megabytes("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 120
