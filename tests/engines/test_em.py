"""The EM engine on a model small enough to see through: two normals of known width on a line."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from skvae import _reduce
from skvae.engines import em
from skvae.engines.watching import Watcher


class Params(NamedTuple):
    logit: Tensor  # ()   of the second component's weight
    mu: Tensor  # (2,)


class Stats(NamedTuple):
    bound: Tensor  # ()
    N: Tensor  # (2,)
    S: Tensor  # (2,)


class Batch(NamedTuple):
    x: Tensor  # (N,)
    w: Tensor  # (N,)


class TwoNormals:
    """z ~ Bern(sigmoid(logit)), x | z ~ N(mu_z, 1); it counts its E-steps, and remembers how often it saw a batch."""

    def __init__(self):
        self.n_e_steps, self.seen = 0, []

    def e_step(self, batch, params, memory=None):
        self.n_e_steps += 1
        self.seen.append(memory)
        log_pi = torch.nn.functional.logsigmoid(torch.stack([-params.logit, params.logit]))
        log_joint = log_pi - 0.5 * (batch.x[:, None] - params.mu) ** 2 - 0.5 * math.log(2 * math.pi)
        log_px = log_joint.logsumexp(1)
        gamma = batch.w[:, None] * (log_joint - log_px[:, None]).exp()
        memory = (float(batch.x[0]), 1 if memory is None else memory[1] + 1)
        return Stats(batch.w @ log_px, gamma.sum(0), batch.x @ gamma), memory

    def bound(self, stats, params):
        return stats.bound

    def m_step(self, stats, params):
        return Params(torch.log(stats.N[1] / stats.N[0]), stats.S / stats.N)

    def to_free(self, params):
        return torch.cat([params.logit[None], params.mu])

    def from_free(self, vector, params):
        return Params(vector[0], vector[1:])


def draw(seed, n=300, distance=2.0, pi=0.3):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal(n) + distance * (rng.random(n) < pi))


def batches_of(x, n_batches=1, w=None):
    w = torch.ones_like(x) if w is None else w
    return [Batch(*parts) for parts in zip(x.chunk(n_batches), w.chunk(n_batches))]


def start(logit=0.0, mu=(-1.0, 1.0)):
    return Params(torch.tensor(logit, dtype=torch.float64), torch.tensor(mu, dtype=torch.float64))


def never(iteration):
    return False


def until(tol):
    return lambda iteration: abs(iteration.gain) < tol


def climb(x, starts=None, *, model=None, max_iter=50, converged=never, n_batches=1, watcher=None, **options):
    plan = em.Plan(max_iter, converged, len(x), **options)
    return em.ascend(model or TwoNormals(), batches_of(x, n_batches), starts or [start()], plan=plan, watcher=watcher)


def assert_close(some, others, **tolerance):
    for a, b in zip(some, others):
        torch.testing.assert_close(a, b, **({"rtol": 1e-12, "atol": 1e-12} | tolerance))


class Log(Watcher):
    """Keeps every report; stops after `stop_after` of them."""

    def __init__(self, stop_after=math.inf):
        self.begun, self.reports, self.stop_after = [], [], stop_after

    def begins(self, number):
        self.begun.append(number)

    def ends(self, report):
        self.reports.append(report)
        return len(self.reports) >= self.stop_after


# --- the ascent -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_the_bound_never_falls(seed, accelerate):
    x = draw(seed, distance=0.5 + seed / 2)
    begin = start(float(np.random.default_rng(seed).normal(0, 2)), mu=(float(x[0]), float(x[1])))
    bounds = climb(x, [begin], max_iter=100, accelerate=accelerate).lower_bounds
    assert len(bounds) == 100
    assert np.diff(bounds).min() >= -1e-13 * abs(bounds[-1])
    assert bounds[-1] > bounds[0]


def test_the_bound_is_the_mean_log_density_under_the_parameters_before_the_step():
    x, log = draw(0), Log()
    fit = climb(x, max_iter=3, watcher=log)
    for report, bound in zip(log.reports, fit.lower_bounds, strict=True):
        pi = torch.sigmoid(report.before.logit)
        normal = [torch.distributions.Normal(mu, 1.0).log_prob(x).exp() for mu in report.before.mu]
        assert bound == report.lower_bound == pytest.approx(float(((1 - pi) * normal[0] + pi * normal[1]).log().mean()))


def test_the_limit_is_a_stationary_point():
    x = draw(1, n=1000)
    fit = climb(x, max_iter=3000, converged=until(1e-14))
    params = [tensor.clone().requires_grad_() for tensor in fit.params]
    stats, _ = TwoNormals().e_step(batches_of(x)[0], Params(*params))
    for gradient in torch.autograd.grad(stats.bound / len(x), params):
        assert gradient.abs().max() < 1e-6


def test_params_are_the_last_m_step_whether_it_converged_or_ran_out():
    x = draw(0)
    for options in ({"max_iter": 4}, {"max_iter": 500, "converged": until(1e-6)}):
        for accelerate in (False, True):
            log = Log()
            fit = climb(x, watcher=log, accelerate=accelerate, **options)
            stats, _ = TwoNormals().e_step(batches_of(x)[0], log.reports[-1].before)
            assert_close(fit.params, TwoNormals().m_step(stats, None))
            assert fit.n_iter == len(log.reports) == len(fit.lower_bounds)
            assert fit.converged == ("converged" in options)


def test_no_iterations_return_the_start():
    begin = start(0.3, (-2.0, 5.0))
    fit = climb(draw(0), [begin], max_iter=0)
    assert fit.params is begin
    assert (fit.n_iter, fit.lower_bounds, fit.converged, fit.memory) == (0, [], False, None)
    assert climb(draw(0), [begin, start()], max_iter=0).params is begin


@pytest.mark.parametrize("accelerate", [False, True])
def test_the_last_allowed_iteration_may_converge(accelerate):
    x = draw(0, distance=4.0)
    needed = climb(x, max_iter=500, converged=until(1e-8), accelerate=accelerate).n_iter
    assert climb(x, max_iter=needed, converged=until(1e-8), accelerate=accelerate).converged
    assert not climb(x, max_iter=needed - 1, converged=until(1e-8), accelerate=accelerate).converged


def test_the_first_gain_is_infinite_unless_the_ascent_goes_on_from_another():
    x, log = draw(0), Log()
    whole = climb(x, max_iter=6, watcher=log)
    gains = [report.gain for report in log.reports]
    assert gains[0] == math.inf
    np.testing.assert_allclose(gains[1:], np.diff(whole.lower_bounds), rtol=0, atol=1e-15)
    first = climb(x, max_iter=3)
    log = Log()
    rest = climb(x, [first.params], max_iter=3, lower_bound=first.lower_bounds[-1], watcher=log)
    assert first.lower_bounds + rest.lower_bounds == whole.lower_bounds
    assert [report.gain for report in log.reports] == gains[3:]


# --- sums over batches, weights and processes -------------------------------------------------------------------------


def test_statistics_of_a_union_are_the_sums():
    x = draw(0)
    whole, _ = em.collect(TwoNormals(), batches_of(x), start())
    parts, memory = em.collect(TwoNormals(), batches_of(x, 7), start())
    assert isinstance(parts, Stats)
    assert_close(parts, whole)
    assert len(memory) == 7
    summed = em.summed(lambda batch: TwoNormals().e_step(batch, start())[0], iter(batches_of(x, 7)))
    assert_close(summed, whole)
    assert_close(em.add(whole, whole), [2 * total for total in whole])


@pytest.mark.parametrize("accelerate", [False, True])
def test_batches_change_nothing_beyond_rounding(accelerate):
    x = draw(2)
    # Few steps: at the top, where the bound is flat, extrapolation enlarges the rounding of the parameters.
    one, many = (climb(x, max_iter=12, n_batches=n, accelerate=accelerate) for n in (1, 9))
    np.testing.assert_allclose(many.lower_bounds, one.lower_bounds, rtol=1e-12)
    assert_close(many.params, one.params, rtol=1e-9, atol=1e-9)


def test_bounds_are_means_per_unit_of_weight():
    x = draw(0, n=50)
    w = torch.from_numpy(np.random.default_rng(0).integers(1, 5, 50)).double()
    weighted = em.ascend(TwoNormals(), batches_of(x, w=w), [start()], plan=em.Plan(20, never, float(w.sum())))
    repeated = climb(x.repeat_interleave(w.long()), max_iter=20)
    np.testing.assert_allclose(weighted.lower_bounds, repeated.lower_bounds, rtol=1e-12)


def test_every_sum_over_rows_passes_the_seam_for_processes(monkeypatch):
    x = draw(0)
    whole = climb(x, max_iter=10)
    elsewhere = batches_of(x[100:])
    others = TwoNormals()
    passed = []

    def total(sums):  # as if another process held the rows from 100 on, at the same parameters
        passed.append(sums)
        return em.add(sums, others.e_step(elsewhere[0], here.params)[0])

    class Here(TwoNormals):
        def e_step(self, batch, params, memory=None):
            self.params = params
            return super().e_step(batch, params, memory)

    here = Here()
    monkeypatch.setattr(_reduce, "total", total)
    fit = em.ascend(here, batches_of(x[:100], 3), [start()], plan=em.Plan(10, never, len(x)))
    assert len(passed) == 10  # once an iteration, not once a batch
    assert all(len(sums) == len(Stats._fields) for sums in passed)
    np.testing.assert_allclose(fit.lower_bounds, whole.lower_bounds, rtol=1e-12)
    assert_close(fit.params, whole.params, rtol=1e-9, atol=1e-9)
    passed.clear()
    here.params = start()
    em.summed(lambda batch: TwoNormals().e_step(batch, start())[0], batches_of(x[:100], 3))
    assert len(passed) == 1


def test_memory_comes_back_batch_by_batch():
    x, model = draw(0), TwoNormals()
    fit = climb(x, model=model, max_iter=4, n_batches=3)
    firsts = [float(batch.x[0]) for batch in batches_of(x, 3)]
    assert fit.memory == [(first, 4) for first in firsts]
    assert model.seen == [None] * 3 + [(first, n) for n in (1, 2, 3) for first in firsts]


def test_a_new_start_remembers_nothing():
    model = TwoNormals()
    climb(draw(0), [start(), start(0.5)], model=model, max_iter=2)
    assert [memory and memory[1] for memory in model.seen] == [None, 1, None, 1]


# --- restarts ---------------------------------------------------------------------------------------------------------


def test_restarts_keep_the_best_wherever_it_stands():
    x = draw(0, distance=5.0)
    good, flat = start(mu=(0.0, 4.0)), start(mu=(1.0, 1.0))  # equal means never part
    alone = climb(x, [good], max_iter=20)
    for starts in ([good, flat], [flat, good], [flat, good, flat]):
        fit = climb(x, starts, max_iter=20)
        assert fit.lower_bounds == alone.lower_bounds
        assert_close(fit.params, alone.params)


def test_of_equal_starts_the_first_is_kept_and_each_is_made_when_its_turn_comes():
    made, log = [], Log()

    def init(number):
        made.append((number, len(log.reports)))
        return start()

    x, model = draw(0), TwoNormals()
    plan = em.Plan(5, never, len(x))
    em.ascend(model, batches_of(x), em.Restarts(3, init), plan=plan, watcher=log)
    assert made == [(0, 0), (1, 5), (2, 10)]
    assert [(report.restart, report.number) for report in log.reports] == [(s, i) for s in range(3) for i in range(5)]
    mirrored = climb(x, [start(), start(0.0, (1.0, -1.0))], max_iter=5)
    assert mirrored.params.mu[0] < mirrored.params.mu[1]


# --- the watcher ------------------------------------------------------------------------------------------------------


def test_the_watcher_is_told_of_every_iteration():
    log = Log()
    fit = climb(draw(0), max_iter=5, watcher=log)
    assert log.begun == [0, 1, 2, 3, 4] == [report.number for report in log.reports]
    assert_close(log.reports[-1].params, fit.params)
    for report, following in zip(log.reports, log.reports[1:]):
        assert_close(following.before, report.params)


@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_the_watcher_can_stop_and_what_it_saw_last_is_kept(stop_after, accelerate):
    log = Log(stop_after)
    fit = climb(draw(0), max_iter=50, watcher=log, accelerate=accelerate)
    assert fit.n_iter == stop_after
    assert not fit.converged
    assert_close(fit.params, log.reports[-1].params)


# --- the guard --------------------------------------------------------------------------------------------------------


class Breaks(TwoNormals):
    """Its bound becomes `value` in one E-step, counted from 0 over all starts."""

    def __init__(self, value, at):
        super().__init__()
        self.value, self.at = value, at

    def bound(self, stats, params):
        return stats.bound * 0 + self.value if self.n_e_steps - 1 == self.at else stats.bound


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_bound_that_is_not_finite_names_model_iteration_and_start(value):
    with pytest.raises(FloatingPointError, match=rf"bound of Breaks was {value} in iteration 2 of start 1; look for"):
        climb(draw(0), [start(), start()], model=Breaks(value, at=7), max_iter=5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_extrapolation_to_no_finite_bound_is_refused(value):
    x = draw(0, distance=1.0)
    plain = climb(x, max_iter=3)
    fit = climb(x, model=Breaks(value, at=2), max_iter=3, accelerate=True)  # the third E-step is the first of these
    np.testing.assert_allclose(fit.lower_bounds, plain.lower_bounds, rtol=1e-14)
    assert_close(fit.params, plain.params)


# --- acceleration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_squarem_reaches_the_same_limit_in_half_the_e_steps_on_slow_data(seed):
    x = draw(seed, n=2000, distance=1.5, pi=0.4)
    fits, counts = [], []
    for accelerate in (False, True):
        model = TwoNormals()
        fits.append(climb(x, model=model, max_iter=20000, converged=until(1e-13), accelerate=accelerate))
        counts.append(model.n_e_steps)
    assert all(fit.converged for fit in fits)
    assert fits[1].lower_bounds[-1] >= fits[0].lower_bounds[-1] - 1e-12
    assert_close(fits[1].params, fits[0].params, rtol=1e-3, atol=1e-3)
    assert counts[1] < counts[0] / 2


def test_an_extrapolation_takes_the_published_step():
    x, log = draw(0, distance=1.0), Log()
    climb(x, max_iter=3, watcher=log, accelerate=True)
    model = TwoNormals()
    first, second = log.reports[:2]
    free = [model.to_free(params) for params in (first.before, second.before, second.params)]
    assert_close(second.before, first.params)  # two plain EM steps came before it
    r, v = free[1] - free[0], free[2] - 2 * free[1] + free[0]
    a = -min(em._LONGEST_STEP, float(r.norm() / v.norm()))
    assert a < -1
    assert_close(log.reports[2].before, model.from_free(free[0] - 2 * a * r + a**2 * v, None))


def test_after_an_extrapolation_nothing_converges_and_the_gain_is_unknown():
    x, log, asked = draw(0, distance=1.0), Log(), []

    def converged(iteration):
        asked.append(iteration.number)
        return False

    climb(x, max_iter=30, converged=converged, watcher=log, accelerate=True)
    unknown = [report.number for report in log.reports if math.isnan(report.gain)]
    assert unknown and unknown[0] == 2
    assert sorted(asked + unknown) == list(range(30))
    assert not any(b - a == 1 for a, b in zip(unknown, unknown[1:]))  # an EM step follows each


class Overshoots(TwoNormals):
    """Extrapolates to means far off, in the given calls of from_free; what follows such a point is noted."""

    def __init__(self, bad):
        super().__init__()
        self.bad, self.n_extrapolations = bad, 0

    def from_free(self, vector, params):
        self.n_extrapolations += 1
        far = self.n_extrapolations in self.bad
        return super().from_free(vector + 50 * far, params)


def test_a_bad_extrapolation_is_refused_and_the_second_em_step_taken():
    x, log = draw(0, distance=1.0), Log()
    model = Overshoots(bad={1})
    fit = climb(x, model=model, max_iter=40, watcher=log, accelerate=True)
    plain = climb(x, max_iter=3)
    np.testing.assert_allclose(fit.lower_bounds[:3], plain.lower_bounds, rtol=1e-14)
    assert_close(log.reports[2].before, log.reports[1].params)  # the trace knows nothing of the point refused
    assert math.isfinite(log.reports[2].gain)
    assert model.n_e_steps > 40  # an E-step was lost on it
    assert np.diff(fit.lower_bounds).min() >= -1e-13 * abs(fit.lower_bounds[-1])


def test_if_every_extrapolation_is_bad_the_ascent_is_plain_em():
    x = draw(0, distance=1.0)
    model = Overshoots(bad=range(1000))
    fit = climb(x, model=model, max_iter=41, accelerate=True)
    plain = climb(x, max_iter=41)
    np.testing.assert_allclose(fit.lower_bounds, plain.lower_bounds, rtol=1e-13)
    assert_close(fit.params, plain.params)
    assert model.n_e_steps == 41 + model.n_extrapolations > 41


def test_the_longest_step_grows_by_success_and_shrinks_by_refusal():
    path = em._Squarem(TwoNormals())
    zero = torch.tensor(0.0, dtype=torch.float64)
    points = [Params(zero, torch.tensor([0.0, t], dtype=torch.float64)) for t in (0, 1, 1.999)]  # the ratio is 1000
    lengths = []
    for refused in (False, False, True, True, True, True, False, False):
        assert path.next(points[0], points[1]) is points[1]
        point = path.next(points[1], points[2])
        lengths.append(path.length)
        if path.extrapolated:
            assert float(point.mu[1]) == pytest.approx(2 * path.length - 0.001 * path.length**2)
            assert path.refuses(-2.0 if refused else -0.5, -1.0) is refused
        else:
            assert point is points[2]
            assert path.refuses(-2.0, -1.0) is False
    assert lengths == [4, 16, 64, 16, 4, 1, 4, 16]


def test_a_refused_step_that_was_shorter_than_the_longest_leaves_that_alone():
    path = em._Squarem(TwoNormals())
    zero = torch.tensor(0.0, dtype=torch.float64)
    points = [Params(zero, torch.tensor([0.0, t], dtype=torch.float64)) for t in (0, 1, 1.5)]  # the ratio is 2
    for refused in (True, False):
        path.next(points[0], points[1])
        path.next(points[1], points[2])
        assert (path.length, path.longest) == (2.0, em._LONGEST_STEP)
        assert path.refuses(-2.0 if refused else -0.5, -1.0) is refused
        assert path.longest == em._LONGEST_STEP


def test_a_step_that_cannot_be_factorised_is_refused_only_if_extrapolated():
    class Singular(TwoNormals):
        def e_step(self, batch, params, memory=None):
            stats, memory = super().e_step(batch, params, memory)
            if self.n_e_steps == 3:
                raise torch.linalg.LinAlgError("not positive definite")
            return stats, memory

    x = draw(0, distance=1.0)
    fit = climb(x, model=Singular(), max_iter=3, accelerate=True)
    np.testing.assert_allclose(fit.lower_bounds, climb(x, max_iter=3).lower_bounds, rtol=1e-14)
    with pytest.raises(torch.linalg.LinAlgError, match="not positive definite"):
        climb(x, model=Singular(), max_iter=3)


def test_a_start_at_the_limit_stays_there_when_accelerated():
    x = draw(0, distance=4.0)
    limit = climb(x, max_iter=2000, converged=until(1e-16)).params
    fit = climb(x, [limit], max_iter=20, accelerate=True)
    assert_close(fit.params, limit, rtol=1e-6, atol=1e-6)
    flat = start(mu=(1.0, 1.0))
    assert all(torch.isfinite(value).all() for value in climb(x, [flat], max_iter=20, accelerate=True).params)


def test_a_model_without_free_parameters_climbs_unaccelerated():
    class Plain(TwoNormals):
        to_free = from_free = None

    assert climb(draw(0), model=Plain(), max_iter=5).lower_bounds == climb(draw(0), max_iter=5).lower_bounds


# --- the contract -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["e_step", "bound", "m_step"])
def test_a_model_without_a_step_is_refused_before_the_ascent(name):
    model, log = type("Half", (TwoNormals,), {name: None})(), Log()
    lacks = rf"must be an? EMModel, but Half lacks {name}\(.*; see skvae.engines.em.EMModel"
    with pytest.raises(TypeError, match=lacks):
        climb(draw(0), model=model, watcher=log)
    assert log.begun == [] and model.n_e_steps == 0


def test_only_acceleration_needs_free_parameters():
    model = type("Plain", (TwoNormals,), {"to_free": None, "from_free": None})()
    with pytest.raises(TypeError, match=r"Plain lacks to_free\(params\) and from_free\(vector, params\)"):
        climb(draw(0), model=model, accelerate=True)
    assert model.n_e_steps == 0
