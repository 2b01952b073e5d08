"""Parameters that step in turn: two players of a game, an encoder and a decoder."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from pytest import approx

from skvae._tensors import Noise, Rows
from skvae.elbo import Bound
from skvae.engines import gradient, schedules
from skvae.engines.gradient import Plan, Turn
from skvae.engines.optimizer import SGD, Adam
from skvae.engines.watching import Watcher
from skvae.estimators.decomposition.factor_analysis import FactorAnalysisEM
from skvae.likelihoods import Bernoulli, Gaussian, Multinomial
from skvae.models.autoencoders.vae import VAE
from skvae.models.recommenders.mult_vae import MultVAE
from skvae.training.members import Encoded, MemberNoise, MemberRows, Stream

CPU = torch.device("cpu")


def rows_of(n, d=2, dtype=torch.float64):
    return Rows(sp.csr_array(np.ones((n, d))), CPU, dtype)


def ascend(model, params, rows, plan, **keywords):
    params = {name: tensor.clone() for name, tensor in params.items()}  # ascend moves what it is given
    return gradient.ascend(model, params, rows, plan=plan, noise=keywords.pop("noise", Noise(0)), **keywords)


class Path(Watcher):
    """Copies of the parameters after each epoch, and all reports."""

    def __init__(self):
        self.params, self.epochs = [], []

    def ends(self, epoch):
        self.params.append({name: tensor.detach().clone() for name, tensor in epoch.params.items()})
        self.epochs.append(epoch)


# ------------------------------------------------------------------------------------------------------ a bilinear game
A = np.array([[1.0, 0.2], [-0.3, 0.8]])
SIGMA = np.linalg.svd(A, compute_uv=False)
RATE = 0.9 / SIGMA[0]


class Game:
    """min over x, max over y of x' A y, whose one equilibrium is x = y = 0."""

    A = torch.from_numpy(A)

    def of_x(self, params, batch, noise):
        return self._bound(-(params["x"] @ self.A @ params["y"]), batch)

    def of_y(self, params, batch, noise):
        return self._bound(params["x"] @ self.A @ params["y"], batch)

    def bound(self, params, batch, noise):
        """Of both, each for itself."""
        x, y = params["x"], params["y"]
        return self._bound(x.detach() @ self.A @ y - x @ self.A @ y.detach(), batch)

    def _bound(self, value, batch):
        return Bound(value.expand(len(batch)), value.new_zeros(len(batch), 0))


def play(turns, max_iter):
    """Both players, and their distance to the equilibrium, at the start and after each round."""
    start = {"x": torch.tensor([1.0, -1.0]).double(), "y": torch.tensor([0.3, 0.7]).double()}
    path = Path()
    ascend(Game(), start, rows_of(4), Plan(max_iter, batch_size=4, turns=turns), watcher=path)
    states = np.array([np.concatenate([params["x"], params["y"]]) for params in [start, *path.params]])
    return states, np.linalg.norm(states, axis=1)


def in_turn(momentum_of_x, momentum_of_y):
    game = Game()
    return (
        Turn("x", moves="x", bound=game.of_x, optimizer=SGD(RATE, momentum=momentum_of_x)),
        Turn("y", moves="y", bound=game.of_y, optimizer=SGD(RATE, momentum=momentum_of_y)),
    )


@pytest.mark.parametrize("momentum", [0.0, 0.5, -0.5])
def test_players_that_step_at_once_diverge(momentum):
    """Whatever the momentum; without any, the step stretches each singular direction by sqrt(1 + rate^2 sigma^2)."""
    states, distance = play((Turn(optimizer=SGD(RATE, momentum=momentum)),), 60)
    assert distance[-1] > 50 * distance[0]
    if not momentum:
        U, sigma, Vt = np.linalg.svd(A)
        radius = np.hypot(states[:, :2] @ U, states[:, 2:] @ Vt.T)
        expected = radius[0] * np.sqrt(1 + (RATE * sigma) ** 2) ** np.arange(61)[:, None]
        np.testing.assert_allclose(radius, expected, rtol=1e-9)


def test_players_that_step_in_turn_go_round_in_circles():
    """Gidel et al. (AISTATS 2019), theorem 5: neither away nor to the equilibrium."""
    _, distance = play(in_turn(0.0, 0.0), 300)
    assert 0.5 < distance.min() / distance[0] and distance.max() / distance[0] < 2


def test_negative_momentum_in_turn_reaches_the_equilibrium():
    """Gidel et al., theorem 6: momenta -1/2 and 0 and rate <= 1 / sigma_max converge, in squared distance as below."""
    states, distance = play(in_turn(-0.5, 0.0), 350)
    rate = max(1 / 2, 1 - (RATE * SIGMA[-1]) ** 2 / 16)
    assert (distance**2 <= 10 * distance[0] ** 2 * rate ** np.arange(len(distance))).all()
    assert distance[-1] < 1e-8
    (x, y), last = np.split(states[0], 2), np.zeros(2)
    for state in states[1:]:  # the recursion itself, written out
        last = -RATE * A @ y - 0.5 * last
        x = x + last
        y = y + RATE * A.T @ x
        np.testing.assert_allclose(state, np.concatenate([x, y]), atol=1e-12)


# --------------------------------------------------------------------------------------------------- the order of steps
class Recorder:
    """Two objectives that raise the sum of what moves, so that a step of SGD is the learning rate; all calls noted."""

    def __init__(self, poisoned=()):
        self.calls, self.poisoned = [], poisoned

    def bound_of(self, name):
        def bound(params, batch, noise):
            n_before = sum(call[0] == name for call in self.calls)
            self.calls.append((name, batch.row.tolist(), noise.fold("z").uniform(batch.row, 1)[:, 0].tolist(), params))
            value = params[name].sum() * (float("nan") if (name, n_before) in self.poisoned else 1.0)
            return Bound(value.expand(len(batch)), value.new_zeros(len(batch), 0))

        return bound

    def order(self):
        return "".join(name for name, *_ in self.calls)


START = {"a": torch.zeros(2, 3), "b": torch.zeros(3), "still": torch.ones(3)}


UNIT_STEPS = SGD(1.0)


def turns_of(model, a=None, b=None, optimizer=UNIT_STEPS):
    return tuple(
        Turn(name, moves=name, bound=model.bound_of(name), optimizer=optimizer, **own)
        for name, own in (("a", a or {}), ("b", b or {}))
    )


@pytest.mark.parametrize(
    ("a", "b", "order"),
    [
        ({"n_steps": 3}, {"n_steps": 1}, "aaabaaab"),  # a has gone through its 5 batches then
        ({"n_steps": 1}, {"n_steps": 2}, "abbabbabbabbabb"),
        ({}, {}, "aaaaabbbbb"),
        ({"n_passes": 2}, {}, "a" * 10 + "b" * 5),
        ({"n_passes": 2}, {"n_steps": 3}, "a" * 10 + "bbb"),
        ({"n_steps": 2, "batch_size": 6}, {"n_steps": 1, "batch_size": 20}, "aab" * 2),
        ({}, {"batch_size": 20}, "aaaaab"),
    ],
)
def test_an_epoch_repeats_the_round_until_the_first_turn_has_seen_all_rows(a, b, order):
    model = Recorder()
    fit = ascend(model, START, rows_of(20), Plan(3, 4, turns=turns_of(model, a, b)))
    assert model.order() == 3 * order and fit.n_iter == 3
    for name in "ab":
        steps = 3 * order.count(name)
        assert fit.optimizer_state[f"{name}/step"] == steps
        torch.testing.assert_close(fit.params[name], torch.full_like(fit.params[name], steps))


def test_each_turn_has_passes_and_noise_of_its_own():
    model = Recorder()
    ascend(
        model, START, rows_of(20), Plan(2, 5, turns=turns_of(model, {"n_steps": 2}, {"n_steps": 3, "batch_size": 7}))
    )
    passes = {}
    for name, size in (("a", 4), ("b", 3)):  # batches a pass
        calls = [call for call in model.calls if call[0] == name]
        for epoch in np.split(np.arange(len(calls)), 2):
            for first in range(0, len(epoch), size):
                some = [calls[i] for i in epoch[first : first + size]]
                rows, draws = (sum((call[i] for call in some), []) for i in (1, 2))
                assert len(set(rows)) == len(rows) and (len(rows) == 20 or len(some) < size)
                passes[name, epoch[0], first] = dict(zip(rows, draws)), rows
    assert len(passes) == 2 + 4
    for draws, order in passes.values():
        for others, other in passes.values():
            if draws is not others:
                assert order != other
                assert not any(draws[row] == others[row] for row in draws.keys() & others.keys())


def test_what_does_not_move_stays_to_the_last_bit_and_has_no_gradients():
    model = Recorder()
    optimizer = Adam(0.1, weight_decay=0.5)  # with a momentum that would go on, and a decay of matrices
    fit = ascend(model, START, rows_of(20), Plan(3, 4, turns=turns_of(model, optimizer=optimizer)))
    for name, *_, params in model.calls:
        assert {key for key, tensor in params.items() if tensor.requires_grad or tensor.grad is not None} == {name}
    assert torch.equal(fit.params["still"], START["still"])
    alone = ascend(model, START, rows_of(20), Plan(3, 4, turns=turns_of(model, optimizer=optimizer)[:1]))
    assert torch.equal(alone.params["b"], START["b"]) and torch.equal(alone.params["a"], fit.params["a"])


@pytest.mark.parametrize(("moves", "stays"), ["ab", "ba"])
def test_a_turn_may_move_one_term_of_the_bound_alone(moves, stays):
    """The prior of a posterior that stays, say: the other term has no gradient."""

    class Apart:
        def bound(self, params, batch, noise):
            return Bound(params["a"].sum().expand(len(batch)), -params["b"].expand(len(batch), 3))

    fit = ascend(Apart(), START, rows_of(20), Plan(1, 4, turns=(Turn(moves=moves, optimizer=UNIT_STEPS),)))
    assert (fit.params[moves] == 5).all() and torch.equal(fit.params[stays], START[stays])


def test_a_bound_sees_the_parameters_as_the_epoch_began():
    class Memory(Recorder):
        def bound_of(self, name):
            bound = super().bound_of(name)

            def remembering(params, batch, noise):
                old.append((name, {key: params[key][0].item() for key in params if key.startswith("old.")}))
                return bound(params, batch, noise)

            return remembering

    old, start = [], {"a": torch.zeros(1), "b": torch.zeros(1)}
    turns = turns_of(Memory(), {"keeps_old": ("a", "b")})
    fit = ascend(Memory(), start, rows_of(20), Plan(3, 4, turns=turns))
    assert old == [
        (name, {"old.a": 5.0 * i, "old.b": 5.0 * i} if name == "a" else {}) for i in range(3) for name in "aaaaabbbbb"
    ]
    assert set(fit.params) == {"a", "b"}


def test_moves_may_be_a_function_and_parameters_may_move_in_both_turns():
    model = Recorder()
    a, b = turns_of(model)
    turns = (replace(a, moves=lambda name: name != "still"), replace(b, moves=("b", "a")))
    fit = ascend(model, START, rows_of(20), Plan(1, 4, turns=turns))
    assert (fit.params["a"] == 5).all() and (fit.params["b"] == 5).all()
    assert {"a/a.momentum_buffer", "a/b.momentum_buffer", "b/a.momentum_buffer"} < set(fit.optimizer_state)


@pytest.mark.parametrize("lengths", [({"n_steps": 3}, {"n_steps": 1}), ({"n_passes": 2}, {})])
@pytest.mark.parametrize("optimizer", [Adam(0.05, betas=(0.5, 0.9)), SGD(0.1, momentum=0.9)])
def test_two_calls_with_optimizer_state_are_one(lengths, optimizer):
    class Drawn(Recorder):
        """With gradients that depend on the rows and their noise."""

        def bound_of(self, name):
            def bound(params, batch, noise):
                target = noise.fold("z").normal(batch.row, 3, torch.float64)
                return Bound(-(params[name] - target).square().sum(-1), target.new_zeros(len(batch), 0))

            return bound

    start = {name: tensor[..., :3].reshape(-1, 3)[0].double() for name, tensor in START.items()}
    plan = Plan(4, 4, turns=turns_of(Drawn(), *lengths, optimizer=optimizer))
    whole = ascend(None, start, rows_of(20), plan)
    first = ascend(None, start, rows_of(20), replace(plan, max_iter=2))
    rest = replace(plan, max_iter=2, first_epoch=2)
    without = ascend(None, first.params, rows_of(20), rest)
    second = ascend(None, first.params, rows_of(20), rest, optimizer_state=first.optimizer_state)
    torch.testing.assert_close(second.params, whole.params, rtol=0, atol=0)
    torch.testing.assert_close(second.optimizer_state, whole.optimizer_state, rtol=0, atol=0)
    assert first.lower_bounds + second.lower_bounds == whole.lower_bounds
    assert not torch.equal(without.params["a"], whole.params["a"])


# ------------------------------------------------------------------------------------------------- guard and reports
def test_each_turn_has_a_guard_of_its_own():
    """A refused step of one leaves out that step, and halves that turn's rate alone."""
    model = Recorder(poisoned={("b", 1), ("a", 6)})
    with pytest.warns(RuntimeWarning) as told:
        fit = ascend(model, START, rows_of(20), Plan(3, 4, turns=turns_of(model)))
    assert [str(warning.message).split("were")[0] for warning in told] == [
        "The bound or its gradient was not finite in 1 steps of epoch 0 of turn 'b'. They ",
        "The bound or its gradient was not finite in 1 steps of epoch 1 of turn 'a'. They ",
    ]
    assert (fit.params["b"] == 4 + 5 / 2 + 5 / 2).all() and (fit.params["a"] == 5 + 4 + 5 / 2).all()
    model = Recorder(poisoned={("b", 1), ("b", 6)})
    with warnings.catch_warnings(), pytest.raises(FloatingPointError, match="epoch 1 of turn 'b', .* halved to 0.5"):
        warnings.simplefilter("ignore")
        ascend(model, START, rows_of(20), Plan(3, 4, turns=turns_of(model)))


def test_reports_are_of_the_first_turn_and_of_each_by_name():
    model, path = Recorder(), Path()
    fit = ascend(model, START, rows_of(20), Plan(2, 4, turns=turns_of(model)), watcher=path, log_base=7.0)
    a = [7 + 6 * np.mean(range(5)), 7 + 6 * np.mean(range(5, 10))]  # the sum of 6 numbers, each the number of steps
    b = [7 + 3 * np.mean(range(5)), 7 + 3 * np.mean(range(5, 10))]
    assert fit.lower_bounds == approx(a) and fit.lower_bounds_of_turn == {"a": approx(a), "b": approx(b)}
    assert [epoch.lower_bound for epoch in path.epochs] == [epoch.log_prob for epoch in path.epochs] == approx(a)
    assert [epoch.lower_bound_of_turn["b"] for epoch in path.epochs] == approx(b)


def test_validation_follows_the_whole_epoch_and_the_best_is_kept_of_all_turns():
    model, seen = Recorder(), []

    def validate(params):
        seen.append([params[name].max().item() for name in "ab"])
        return {1: 1.0, 2: 3.0, 3: 2.0, 4: 0.0}[len(seen)]

    plan = Plan(9, 4, turns=turns_of(model, {"n_passes": 2}), patience=2)
    fit = ascend(model, START, rows_of(20), plan, validate=validate)
    assert seen == [[10, 5], [20, 10], [30, 15], [40, 20]] and fit.n_iter == 4 and fit.best == 1
    assert (fit.params["a"] == 20).all() and (fit.params["b"] == 10).all()


def test_schedules_see_the_fraction_of_the_steps_of_all_turns():
    model, seen = Recorder(), []
    turns = turns_of(model, {"n_steps": 3}, {"n_steps": 1})
    ascend(model, START, rows_of(20), Plan(2, 4, turns=turns, rate_schedule=lambda f: seen.append(f) or 1.0))
    assert seen == approx(np.arange(16) / 16)


# ----------------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ((Turn("a"), Turn("a")), r"different names, but theirs are \['a', 'a'\]"),
        ((Turn("a"), Turn("b", moves="c")), r"Turn 'b' moves='c' none of the parameters \['a', 'b', 'still'\]"),
    ],
)
def test_turns_that_cannot_be_are_refused(turns, message):
    with pytest.raises(ValueError, match=message):
        ascend(Game(), START, rows_of(4), Plan(1, 4, turns=turns))


@pytest.mark.parametrize("length", [{"n_steps": 0}, {"n_passes": 0}])
def test_a_turn_without_steps_is_refused(length):
    with pytest.raises(ValueError, match=r"Turn\('a', .*=0.* would take no step"):
        Turn("a", **length)


class Nothing:
    """Neither a model nor rows."""


def test_a_model_without_a_bound_is_refused_where_a_turn_needs_one():
    model = Recorder()
    turns = turns_of(model)
    assert ascend(Nothing(), START, rows_of(4), Plan(1, 4, turns=turns)).n_iter == 1
    with pytest.raises(TypeError, match=r"ascend\(model=...\) must be a Model, but Nothing lacks bound\(params, batch"):
        ascend(Nothing(), START, rows_of(4), Plan(1, 4, turns=(turns[0], Turn("b", moves="b"))))


def test_rows_without_batches_are_refused():
    message = r"ascend\(rows=...\) must be a BatchSource, but Nothing lacks n_batches\(batch_size\).* and shuffled"
    with pytest.raises(TypeError, match=message):
        ascend(Game(), START, Nothing(), Plan(1, 4))


# ------------------------------------------------------------------------------------------------ encoder and decoder
D, K = 6, 2


def linear_data(n=200, seed=0):
    rng = np.random.default_rng(seed)
    W = np.linalg.qr(rng.normal(size=(D, K)))[0] * [2.5, 1.8]
    return rng.normal(size=(n, K)) @ W.T + rng.normal(size=(n, D)) * (0.6 + 0.6 * rng.random(D))


class StandardColumns:
    mean, variance, share = torch.zeros(D), torch.ones(D), torch.ones(D)


def members(tables, layers=()):
    """A Gaussian VAE, its parameters with an axis of members, one for each table, their rows, plan and noise."""
    model = VAE(D, K, D, layers, torch.tanh, Gaussian())
    noises = [Noise(member) for member in range(len(tables))]
    each = [model.init(noise.fold("init"), StandardColumns) for noise in noises]
    params = {name: torch.stack([own[name] for own in each]) for name in each[0]}
    xs = [torch.from_numpy(x).float() for x in tables]
    rows = MemberRows([Stream(Encoded(x, None, x), noise, 1, torch.ones(1, len(x))) for x, noise in zip(xs, noises)])
    noise = MemberNoise(noises, rows.stream_of_member if len(tables) > 1 else None)
    plan = Plan(1, len(tables[0]), fit_of_member=np.arange(len(tables)))
    return model, params, rows, plan, noise


def test_a_linear_vae_in_turns_of_epochs_reaches_the_optimum_of_joint_training():
    """That of factor analysis (Lucas et al., NeurIPS 2019); of two members, each that of its own rows."""
    tables = [linear_data(seed=seed) for seed in (1, 6)]
    model, params, rows, plan, noise = members(tables)
    fast = Adam(0.1, betas=(0.9, 0.95))
    coders = (
        Turn("encoder", moves="encoder.", optimizer=fast, n_passes=2),
        Turn("decoder", moves=("decoder.", "likelihood."), optimizer=fast),
    )
    ends = []
    for turns, n_epochs in ((coders, 300), ((Turn(optimizer=fast),), 900)):
        plan = replace(plan, max_iter=n_epochs, turns=turns, rate_schedule=schedules.cosine)
        fit = ascend(model, params, rows, plan, noise=noise, log_base=-0.5 * D * np.log(2 * np.pi))
        ends.append(fit.lower_bounds[-1])
    exact = [FactorAnalysisEM(K, tol=1e-8, max_iter=5000).fit(x).score(x) for x in tables]
    np.testing.assert_allclose(ends, [exact, exact], atol=1e-3)
    assert abs(exact[0] - exact[1]) > 0.1


@pytest.mark.parametrize("moves", ["encoder.", "decoder.", "likelihood."])
@pytest.mark.parametrize("layers", [(), (4,)])
def test_what_moves_alone_steps_as_among_all(moves, layers):
    """A gradient is the same whether the other parameters have one too; by hand, by autograd, in closed form."""
    model, params, rows, plan, noise = members([linear_data()], layers)
    steps = [
        ascend(model, params, rows, replace(plan, turns=(turn,)), noise=noise).params
        for turn in (Turn(optimizer=SGD(0.1)), Turn(moves=moves, optimizer=SGD(0.1)))
    ]
    for name, start in params.items():
        everyone, alone = (own[name] for own in steps)
        if name.startswith(moves):
            torch.testing.assert_close(alone, everyone, rtol=1e-4, atol=1e-6)
            assert not torch.equal(alone, start)
        else:
            assert torch.equal(alone, start)


@pytest.mark.parametrize("likelihood", [Multinomial(), Bernoulli()])
@pytest.mark.parametrize("moves", ["encoder.", "decoder.", "decoder.1.weight", "encoder.0.bias"])
def test_what_moves_alone_steps_as_among_all_in_a_recommender(moves, likelihood):
    X = sp.random(30, 12, density=0.3, format="csr", random_state=0)
    X.data[:] = 1
    model = MultVAE(12, 3, (5,), torch.tanh, 0.2, likelihood)
    params = model.init(Noise(0), torch.full((12,), 0.3), torch.full((12,), 0.3))
    steps = [
        ascend(model, params, Rows(X, CPU), Plan(1, 30, turns=(turn,))).params
        for turn in (Turn(optimizer=SGD(0.1)), Turn(moves=moves, optimizer=SGD(0.1)))
    ]
    for name, start in params.items():
        everyone, alone = (own[name] for own in steps)
        if name.startswith(moves):
            torch.testing.assert_close(alone, everyone)
            assert not torch.equal(alone, start)
        else:
            assert torch.equal(alone, start)
