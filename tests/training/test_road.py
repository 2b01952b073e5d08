"""One road for every network: settled parameters, earlier fits, validation, and no joining for a lone fit."""

import numpy as np
import pytest

from skvae import AutoencoderTransformer, MultVAERecommender, VAETransformer
from skvae.datasets import make_interactions
from skvae.estimators.recommenders.networks._network_recommender import HeldOutRanking
from skvae.training import stacking
from skvae.training.ascent import Ascent
from skvae.training.continuation import Continuation
from skvae.training.plan import kl_weight, make_plan, settle
from skvae.training.validation import CrossValidatedGain, HeldOutError, Validation

TABLE = np.random.default_rng(0).normal(size=(70, 4)) @ np.random.default_rng(1).normal(size=(4, 5))
CLICKS = make_interactions(60, 20, random_state=0)
SETTLED = {"learning_rate": 0.1, "batch_size": 16, "max_iter": 7, "weight_decay": 0.0}


def fits(**settings):
    yield VAETransformer(random_state=0, **settings), TABLE
    yield AutoencoderTransformer(hidden_layer_sizes=(4,), random_state=0, **settings), TABLE
    yield MultVAERecommender(n_components=3, random_state=0, **settings), CLICKS


@pytest.fixture
def ascents(monkeypatch):
    """All ascents that run; none may be joined to others."""
    seen, run = [], Ascent.run

    def watched(self, watcher=None):
        seen.append(self)
        return run(self, watcher)

    def joined(*args):
        raise AssertionError("a lone fit was joined to others")

    monkeypatch.setattr(Ascent, "run", watched)
    for name in ("run_together", "_joint_plan", "_joint_stream", "_joint_noise"):
        monkeypatch.setattr(stacking, name, joined)
    return seen


def test_every_network_takes_the_same_road_and_a_lone_fit_is_not_joined(ascents):
    kinds = (CrossValidatedGain, HeldOutError, HeldOutRanking)
    for (model, X), kind in zip(fits(early_stopping=True, max_iter=2), kinds, strict=True):
        model.fit(X)
        assert len(ascents) == 1 and isinstance(ascents.pop().validation, kind) and issubclass(kind, Validation)


@pytest.mark.parametrize("number", range(3))
def test_a_warm_start_and_a_partial_fit_go_on_from_the_same_records(number, ascents):
    warm, X = list(fits(early_stopping=False, max_iter=2, warm_start=True))[number]
    partial, _ = list(fits(early_stopping=False, max_iter=2))[number]
    warm.fit(X).fit(X)
    partial.partial_fit(X).partial_fit(X)
    assert warm.n_iter_ == len(warm.lower_bounds_) == 4 and partial.n_iter_ == len(partial.lower_bounds_) == 2
    assert partial.n_samples_seen_ == 2 * warm.n_samples_seen_ == 2 * X.shape[0]
    first, second, *passes = ascents
    assert first.optimizer_state is None and second.plan.first_epoch == 2 and passes[1].plan.first_epoch == 1
    for earlier, later in ((first, second), passes):
        assert later.optimizer_state.keys() and earlier.optimizer_state is None


def test_auto_is_settled_and_what_is_given_stays():
    model = VAETransformer(batch_size="auto", max_iter=5)
    assert settle(model, {"batch_size": 32, "max_iter": 9}) == {"batch_size": 32, "max_iter": 5}


def test_a_partial_fit_is_one_epoch_at_a_constant_rate_and_weight():
    model = VAETransformer(beta=3.0, annealing="linear", learning_rate_schedule="cosine")
    kl = kl_weight(model, 3.0, Continuation.PARTIAL_FIT)
    plan = make_plan(model, SETTLED, 10, continuation=Continuation.PARTIAL_FIT, kl=kl)
    assert plan.max_iter == 1 and plan.batch_size == 10 and plan.patience is None
    assert {plan.rate_schedule(f) for f in (0, 0.5, 0.9)} == {1.0} and {plan.beta(f) for f in (0, 0.5, 0.9)} == {3.0}
    whole = make_plan(
        model,
        SETTLED,
        40,
        continuation=Continuation.FRESH,
        kl=kl_weight(model, 3.0, Continuation.FRESH),
        validates=True,
    )
    assert (whole.max_iter, whole.batch_size, whole.patience) == (7, 16, model.n_iter_no_change)
    assert whole.beta(0.0) == 0 and whole.beta(0.5) == 3.0 and whole.earliest_stop == model.anneal_fraction
    assert whole.rate_schedule(0.9) < 1


class Recorder:
    """A callback that notes what it is told."""

    def __init__(self):
        self.events = []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, **data):
        self.events.append(f"end {context.task_name}")


@pytest.mark.parametrize("model", [VAETransformer(2), AutoencoderTransformer(2, hidden_layer_sizes=())])
def test_callbacks_are_told_of_a_fit_without_an_ascent(model):
    recorder = Recorder()
    model.set_callbacks(recorder).fit(TABLE[:40])
    assert recorder.events == ["setup", "begin fit", "end fit", "teardown"] and model.n_iter_ == 1
