"""The gradient engine, on a model of four lines: it must not matter which model is fitted."""

import gc
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from skvae._tensors import Noise, Rows
from skvae.elbo import Bound, kl_to_standard_normal
from skvae.engines import gradient, schedules

N_ROWS, N_COLUMNS = 37, 5
PLAN = gradient.Plan(max_iter=4, batch_size=8, learning_rate=0.05)


class Line:
    """x ~ N(x w + b, 1) about itself, with one noisy latent: enough to have a bound, a KL term and two shapes."""

    def bound(self, params, x, noise):
        mean = x.linear(params["w"], params["bias"])
        z = mean + 0.1 * noise.fold("z").normal(x.row, 2)
        return Bound(-(x.sum()[:, None] - z).square().sum(-1), kl_to_standard_normal(mean, torch.zeros_like(mean)))


class Poisoned(Line):
    """Not finite for the rows of one epoch's batches, or in its gradient only."""

    def __init__(self, bad_calls, where="loss"):
        self.bad_calls, self.where, self.calls = bad_calls, where, 0

    def bound(self, params, x, noise):
        bound = super().bound(params, x, noise)
        self.calls += 1
        if self.calls - 1 not in self.bad_calls:
            return bound
        if self.where == "loss":
            return Bound(bound.log_prob * math.nan, bound.kl)
        zero = params["bias"].sum() * 0.0
        return Bound(bound.log_prob + (zero * zero).sqrt(), bound.kl)  # 0 with a gradient of 0 * inf


@pytest.fixture
def rows():
    return Rows(sp.random(N_ROWS, N_COLUMNS, density=0.6, format="csr", random_state=0), torch.device("cpu"))


@pytest.fixture
def start():
    return {"w": 0.1 * Noise(1).normal(torch.arange(N_COLUMNS), 2), "bias": torch.zeros(2)}


def fit_line(rows, start, model=None, noise=0, **changes):
    keywords = {
        name: changes.pop(name) for name in ("validate", "watcher", "optimizer_state", "log_base") if name in changes
    }
    start = {name: tensor.clone() for name, tensor in start.items()}  # ascend moves what it is given
    return gradient.ascend(model or Line(), start, rows, plan=replace(PLAN, **changes), noise=Noise(noise), **keywords)


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_bound_rises(rows, start):
    fit = fit_line(rows, start, max_iter=30)
    assert fit.lower_bounds[-1] > fit.lower_bounds[0] + 1
    assert len(fit.lower_bounds) == fit.n_iter == 30


def test_small_full_batch_steps_never_lower_the_bound(rows, start):
    class Still(Line):
        def bound(self, params, x, noise):
            return super().bound(params, x, Noise(0))

    fit = fit_line(rows, start, model=Still(), max_iter=60, batch_size=N_ROWS, learning_rate=1e-3)
    assert np.diff(fit.lower_bounds).min() > 0


def test_refits_are_bit_equal_and_seeds_differ(rows, start):
    assert equal(fit_line(rows, start).params, fit_line(rows, start).params)
    assert not equal(fit_line(rows, start).params, fit_line(rows, start, noise=1).params)


def test_a_bound_is_of_the_rows_not_of_their_batches(rows, start):
    """At a learning rate of nothing, an epoch's bound is the same whatever the batches: noise is keyed to rows."""
    bounds = [
        fit_line(rows, start, batch_size=size, learning_rate=1e-30, max_iter=1).lower_bounds[0]
        for size in (1, 8, 37, 99)
    ]
    np.testing.assert_allclose(bounds, bounds[0], rtol=1e-5)


def test_bounds_are_at_beta_one_and_include_the_base(rows, start):
    free = fit_line(rows, start, beta=lambda _: 0.0, learning_rate=1e-30, max_iter=1)
    full = fit_line(rows, start, beta=lambda _: 1.0, learning_rate=1e-30, max_iter=1, log_base=2.5)
    assert full.lower_bounds[0] - 2.5 == pytest.approx(free.lower_bounds[0], rel=1e-6)


def test_beta_weighs_the_kl_term(rows, start):
    def kl(beta):
        params = fit_line(rows, start, beta=lambda _: beta, max_iter=40).params
        return Line().bound(params, rows.batch(np.arange(N_ROWS)), Noise(0)).kl.mean()

    assert kl(0.0) > kl(3.0) > kl(30.0)


def test_two_calls_with_optimizer_state_are_one(rows, start):
    whole = fit_line(rows, start, max_iter=2)
    first = fit_line(rows, start, max_iter=1)
    without = fit_line(rows, first.params, max_iter=1, first_epoch=1)
    second = fit_line(rows, first.params, max_iter=1, first_epoch=1, optimizer_state=first.optimizer_state)
    assert equal(second.params, whole.params)
    assert first.lower_bounds + second.lower_bounds == whole.lower_bounds
    assert not equal(without.params, whole.params)


def test_schedules_see_the_fraction_of_all_steps(rows, start):
    seen = []
    fit_line(rows, start, max_iter=2, batch_size=19, beta=lambda fraction: seen.append(fraction) or 1.0)
    assert seen == [0, 0.25, 0.5, 0.75]


def test_weight_decay_shrinks_matrices_and_spares_biases(rows, start):
    class Flat:
        def bound(self, params, x, noise):
            nothing = 0 * params["w"].sum() + 0 * params["bias"].sum()
            return Bound(nothing.expand(len(x)), torch.zeros(len(x), 1))

    start = {"w": torch.ones(N_COLUMNS, 2), "bias": torch.ones(2)}
    fit = fit_line(rows, start, model=Flat(), weight_decay=0.1)
    assert (fit.params["w"] < 1).all() and torch.equal(fit.params["bias"], start["bias"])


def scripted(scores, kept):
    scores = iter(scores)

    def validate(params):
        kept.append({name: tensor.detach().clone() for name, tensor in params.items()})
        return next(scores)

    return validate


def test_early_stopping_keeps_the_best_and_waits_its_turn(rows, start):
    kept = []
    fit = fit_line(rows, start, max_iter=9, patience=2, validate=scripted([1, 5, 4, 3, 9], kept))
    assert fit.n_iter == 4 and fit.validation_scores == [1, 5, 4, 3]
    assert equal(fit.params, kept[1])


def test_nothing_counts_before_the_annealing_has_ended(rows, start):
    kept = []
    fit = fit_line(
        rows, start, max_iter=8, patience=2, earliest_stop=0.5, validate=scripted([9, 8, 7, 1, 3, 2, 1], kept)
    )
    assert fit.n_iter == 7
    assert equal(fit.params, kept[4])


def test_without_patience_the_last_is_kept(rows, start):
    kept = []
    fit = fit_line(rows, start, validate=scripted([9, 1, 1, 1], kept))
    assert fit.validation_scores == [9, 1, 1, 1] and equal(fit.params, kept[3])


def test_a_watcher_sees_every_epoch_and_may_stop(rows, start):
    class Stopper(gradient.Watcher):
        def __init__(self):
            self.log = []

        def begins(self, number):
            self.log.append(number)

        def ends(self, epoch):
            self.log.append(round(epoch.log_prob - epoch.kl - epoch.lower_bound, 9))
            return epoch.number == 1

    watcher = Stopper()
    assert fit_line(rows, start, watcher=watcher).n_iter == 2
    assert watcher.log == [0, 0.0, 1, 0.0]


def test_an_epoch_of_many_steps_keeps_few_tensors(start):
    """Small ones among the large ones of every step would scatter memory: 1 GB in 20,000 steps."""

    class Counting(Line):
        n_calls, found = 0, []

        def bound(self, *arguments):
            self.n_calls += 1
            if self.n_calls in (2, 200):
                self.found.append(sum(type(each) is torch.Tensor for each in gc.get_objects()))
            return super().bound(*arguments)

    many = Rows(sp.random(200, N_COLUMNS, density=0.6, format="csr", random_state=0), torch.device("cpu"))
    fit_line(many, start, Counting(), max_iter=1, batch_size=1)
    first, last = Counting.found
    assert last < first + 150  # of the 400 sums and refusals of all steps


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_refused_once(rows, start, where):
    """The last good state is kept, the rate is halved, and the ascent goes on."""
    steps = -(-N_ROWS // PLAN.batch_size)
    with pytest.warns(RuntimeWarning, match=r"1 steps of epoch 1.*left out.*now 0\.025"):
        fit = fit_line(rows, start, model=Poisoned({steps}, where))
    assert all(torch.isfinite(tensor).all() for tensor in fit.params.values())
    assert fit.n_iter == 4 and np.isfinite(fit.lower_bounds).all()


def test_a_refused_step_changes_nothing(rows, start):
    with pytest.warns(RuntimeWarning, match="5 steps of epoch 0"):
        fit = fit_line(rows, start, model=Poisoned(range(5)), max_iter=1)
    assert equal(fit.params, start) and np.isnan(fit.lower_bounds).all()


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_second_epoch_of_them_is_an_error_that_names_it(rows, start, where):
    with pytest.warns(RuntimeWarning), pytest.raises(FloatingPointError, match=r"epoch 3.*halved to 0\.025"):
        fit_line(rows, start, model=Poisoned(range(5, 99), where), first_epoch=1)


@pytest.mark.parametrize("name", ["w", "log_noise"])
def test_every_gradient_is_watched(rows, start, name):
    """Also that of a weight whose bias has a finite one, and of a parameter that is neither."""

    class Overflowing(Line):
        def bound(self, params, x, noise):
            zero = 0.0 * params[name].sum()
            bound = super().bound(params, x, noise)
            return Bound(bound.log_prob + (zero * zero).sqrt(), bound.kl)

    start = {**start, "log_noise": torch.zeros(())}
    with pytest.warns(RuntimeWarning):
        fit = fit_line(rows, start, model=Overflowing(), max_iter=1)
    assert equal(fit.params, start)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_does_not_matter(rows, start, mode):
    with mode():
        inside = fit_line(rows, start)
    assert equal(inside.params, fit_line(rows, start).params)


# --------------------------------------------------------------------------------------------------------- schedules
@pytest.mark.parametrize("schedule", [schedules.linear, schedules.sigmoid])
@pytest.mark.parametrize("ramp", [0.25, 0.5, 1.0])
def test_ramps_rise_from_zero_to_one_and_stay(schedule, ramp):
    fractions = np.linspace(0, 1, 201)
    weights = np.array([schedule(f, ramp) for f in fractions])
    assert weights[0] == pytest.approx(0) and (np.diff(weights) >= 0).all()
    assert weights[fractions >= ramp] == pytest.approx(1)
    assert schedule(ramp / 2, ramp) == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", [schedules.linear, schedules.sigmoid])
def test_no_ramp_is_no_annealing(schedule):
    assert schedule(0.0, 0) == pytest.approx(1)


def test_cycles_repeat():
    weights = np.array([schedules.cyclical(f, 0.5, 4) for f in np.arange(400) / 400]).reshape(4, 100)
    np.testing.assert_allclose(weights, np.tile(weights[0], (4, 1)), atol=1e-12)
    assert weights[0, 0] == 0 and (weights[0, 50:] == 1).all()


def test_cosine_falls_from_one_to_its_last():
    values = np.array([schedules.cosine(f) for f in np.linspace(0, 1, 50)])
    assert values[0] == 1 and values[-1] == pytest.approx(0.02) and (np.diff(values) < 0).all()
