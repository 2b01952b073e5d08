"""Networks that climb together: each must be the one that it would be alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pytest import approx

from skvae._tensors import Cells, Noise
from skvae.engines.gradient import Plan
from skvae.likelihoods import Bernoulli, Gaussian
from skvae.models.autoencoders.vae import VAE, PerRowVAE
from skvae.training.ascent import ascent_of_members
from skvae.training.members import Encoded, MemberBatch, MemberNoise, MemberRows, Stream
from skvae.training.stacking import run_together
from skvae.training.validation import Validation

D = 5
PLAN = Plan(max_iter=6, batch_size=16, learning_rate=0.01)


def table(n, seed=0, missing=0.0):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy((rng.normal(size=(n, 2)) @ rng.normal(size=(2, D)) + rng.normal(size=(n, D))).astype("f4"))
    if not missing:
        return Encoded(x, None, x)
    observed = torch.from_numpy((rng.random((n, D)) >= missing).astype("f4"))
    return Encoded(x * observed, observed, x * observed)


def stream(n=40, seed=0, missing=0.0, n_members=1, linear_heads=None):
    weight = torch.from_numpy(np.random.default_rng(seed + 9).random((n_members, n)).astype("f4"))
    weight = weight / weight.mean(1, keepdim=True)
    return Stream(table(n, seed, missing), Noise(seed), n_members, weight, linear_heads)


class Moments:
    mean, variance, share = torch.zeros(D), torch.ones(D), torch.ones(D)


def task(K=2, seed=0, rows=None, kind=VAE, validation=None, linear_path=False, init=0, **changes):
    plan = {name: changes.pop(name) for name in list(changes) if name in Plan.__dataclass_fields__}
    model = kind(D, K, D, changes.pop("layers", (6,)), torch.tanh, changes.pop("likelihood", Gaussian()), **changes)
    own = stream(seed=seed) if rows is None else rows
    n = len(own.table.x)
    if linear_path:
        own = own._replace(linear_heads=Noise(4).normal(torch.arange(n), 2 * K).reshape(1, n, 2 * K))
    params = {name: tensor[None] for name, tensor in model.init(Noise(init), Moments).items()}
    if isinstance(model, PerRowVAE):
        params |= model.init_rows(n)
    beta = plan.pop("beta", 1.0)
    return ascent_of_members(model, params, own, replace(PLAN, beta=lambda _: beta, **plan), validation=validation)


def copies(tasks):
    """Ascent moves parameters in place: give every run its own."""
    return [replace(each, params={name: tensor.clone() for name, tensor in each.params.items()}) for each in tasks]


def assert_alone_is_together(tasks, atol=1e-5):
    together = run_together(copies(tasks))
    for one, joint in zip(tasks, together, strict=True):
        alone = copies([one])[0].run()
        assert alone.params.keys() == joint.params.keys()
        moved = max(float((alone.params[name] - one.params[name]).abs().max()) for name in alone.params)
        for name, tensor in alone.params.items():
            np.testing.assert_allclose(joint.params[name], tensor, rtol=0, atol=atol, err_msg=name)
        np.testing.assert_allclose(joint.lower_bounds, alone.lower_bounds, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(joint.validation_scores, alone.validation_scores, rtol=1e-5)
        assert (joint.best, joint.n_iter) == (alone.best, alone.n_iter)
        assert np.shape(joint.lower_bounds) == np.shape(alone.lower_bounds)
    return together, moved


# --------------------------------------------------------------------------------------------------- together as alone
SHARED = stream()
STACKS = {
    "beta": lambda: [task(beta=beta, rows=SHARED) for beta in (0.3, 1.0, 4.0)],
    "learning rate": lambda: [task(learning_rate=rate, rows=SHARED) for rate in (0.03, 0.001, 0.001, 0.03)],
    "weight decay": lambda: [task(weight_decay=decay, rows=SHARED) for decay in (0.0, 0.3)],
    "rate and decay": lambda: [
        task(weight_decay=d, learning_rate=r, rows=SHARED) for d, r in ((0.1, 0.01), (0.1, 0.02), (0.0, 0.02))
    ],
    "seed": lambda: [task(seed=seed, init=seed) for seed in (0, 1, 2)],
    "components": lambda: [task(K, rows=SHARED) for K in (3, 1, 2)],
    "rows": lambda: [task(rows=stream(n, seed=n)) for n in (40, 37, 33)],
    "missing cells": lambda: [task(rows=stream(33, 1, missing=0.3)), task(rows=stream(40, 2))],
    "streams that alternate": lambda: [task(beta=b, seed=s) for b, s in ((1.0, 0), (1.0, 1), (0.5, 0), (0.5, 1))],
    "everything": lambda: [
        task(3, beta=0.5, learning_rate=0.02, rows=stream(40, 3)),
        task(1, beta=2.0, learning_rate=0.005, weight_decay=0.1, rows=stream(36, 4), init=4),
        task(2, rows=stream(33, 5, missing=0.2), init=5),
    ],
    "linear path": lambda: [task(K, linear_path=True, rows=SHARED) for K in (1, 3)],
    "free bits": lambda: [task(K, free_bits=0.1, rows=stream(n, n)) for K, n in ((1, 33), (3, 40))],
    "iwae": lambda: [task(K, n_draws=4, objective="iwae", rows=stream(n, n)) for K, n in ((1, 33), (3, 40))],
    "closed form": lambda: [task(K, layers=(), rows=stream(n, n)) for K, n in ((1, 33), (3, 40))],
    "draws": lambda: [task(K, n_draws=3, likelihood=Bernoulli()) for K in (1, 3)],
    "per row": lambda: [task(K, kind=PerRowVAE, beta=b) for K, b in ((1, 1.0), (3, 0.5))],
}


@pytest.mark.parametrize("differing", STACKS)
def test_a_stack_of_fits_is_each_fit_alone(differing):
    together, moved = assert_alone_is_together(STACKS[differing]())
    assert moved > 1e-3  # it has learnt something
    distinct = [np.array(result.lower_bounds).tobytes() for result in together]
    assert len(set(distinct)) >= 2  # and not the same


class Scripted(Validation):
    """Scores that are known beforehand; what is measured are the shapes of the parameters."""

    def __init__(self, scores):
        self.scores, self.shapes = iter(scores), None

    def measure(self, params):
        self.shapes = {name: tuple(tensor.shape) for name, tensor in params.items()}
        return torch.zeros(2, 3)

    def score(self, measured):
        assert measured.shape == (2, 3)
        return next(self.scores)


def test_each_fit_of_a_stack_stops_by_its_own_scores():
    """The fit that lasts longest keeps the engine going; what it sees then must not reach the others."""
    scripts = [[1, 5, 4, 3, 9, 9, 9, 9], [1, 2, 3, 4, 5, 6, 7, 6], [7, 6, 5, 9, 9, 9, 9, 9]]

    def tasks():
        return [
            task(seed=seed, validation=Scripted(script), patience=2, max_iter=8, init=seed)
            for seed, script in enumerate(scripts)
        ]

    together = run_together(tasks())
    for number, joint in enumerate(together):
        alone = tasks()[number].run()
        assert (joint.best, joint.n_iter) == (alone.best, alone.n_iter)
        np.testing.assert_array_equal(joint.validation_scores, alone.validation_scores)
        np.testing.assert_allclose(joint.lower_bounds, alone.lower_bounds, atol=1e-5)
        for name, tensor in alone.params.items():
            np.testing.assert_allclose(joint.params[name], tensor, atol=1e-5)
    assert [int(result.best[0]) for result in together] == [1, 6, 0]
    assert [result.n_iter for result in together] == [4, 8, 3]


def test_a_validation_sees_the_members_of_its_own_fit_at_their_own_width():
    tasks = [task(K, validation=Scripted([0.0] * 9), rows=SHARED) for K in (1, 3)]
    initial = [{name: tuple(tensor.shape) for name, tensor in each.params.items()} for each in tasks]
    run_together(tasks)
    assert [each.validation.shapes for each in tasks] == initial


class Diverging(VAE):
    """The member whose first bias is marked has a bound that is no number."""

    def bound(self, params, batch, noise):
        bound = super().bound(params, batch, noise)
        marked = params["decoder.0.bias"][:, :1] > 100
        return bound._replace(log_prob=torch.where(marked, math.nan, bound.log_prob.detach()))


def test_a_member_that_diverges_is_reported():
    tasks = [task(kind=Diverging, rows=SHARED, init=init) for init in (0, 1)]
    tasks[1].params["decoder.0.bias"] += 1000
    with pytest.warns(RuntimeWarning, match="epoch 0"), pytest.raises(FloatingPointError, match="epoch 1"):
        run_together(tasks)


# --------------------------------------------------------------------------------------------------- more dimensions
def whole(own):
    """All rows of a stream in one batch."""
    n = len(own.table.x)
    observed = None if own.table.observed is None else own.table.observed[None]
    x = Cells(own.table.x[None], observed)
    return MemberBatch(x, own.table.u[None], own.weight, torch.arange(n)[None], own.linear_heads)


@pytest.mark.parametrize("layers", [(), (6,), (6, 4)])
def test_widened_is_the_same_function_and_narrowed_takes_it_back(layers):
    small, large = task(2, layers=layers, rows=SHARED), task(4, layers=layers, rows=SHARED)
    K = small.model.n_components
    small.params["decoder.skip.weight"] = torch.full((1, K, D), 0.3)
    small.params["encoder.skip.weight"] = torch.full((1, D, K), 0.2)
    wide = small.model.widened(small.params, 4)
    batch = whole(SHARED)
    q, wider = small.model.encode(small.params, batch), large.model.encode(wide, batch)
    torch.testing.assert_close(wider.mean[..., :2], q.mean)
    assert not wider.mean[..., 2:].any() and not wider.log_variance[..., 2:].any()
    z = torch.nn.functional.pad(q.mean, (0, 2), value=7.0)  # the decoder does not look at what is new
    torch.testing.assert_close(large.model.decode(wide, z), small.model.decode(small.params, q.mean))
    live = MemberNoise([Noise(3)], None, torch.tensor([1.0, 1, 0, 0]).reshape(1, 1, 4))
    bound, wider = small.model.bound(small.params, batch, MemberNoise([Noise(3)])), large.model.bound(wide, batch, live)
    torch.testing.assert_close(wider.log_prob, bound.log_prob)
    torch.testing.assert_close(wider.kl.sum(-1), bound.kl.sum(-1))
    for name, tensor in small.model.narrowed(wide).items():
        assert torch.equal(tensor, small.params[name])


def sequential(n_in, n_out):
    return torch.nn.Sequential(torch.nn.Linear(n_in, 7), torch.nn.Tanh(), torch.nn.Linear(7, n_out))


def test_a_module_of_the_users_own_is_not_widened():
    """Its "decoder.0.weight" is of another shape, and (n_out, n_in)."""
    fits = [task(2, rows=SHARED, encoder=sequential, decoder=sequential, beta=beta) for beta in (0.5, 1.0)]
    together, _ = assert_alone_is_together(fits)
    assert together[0].params["decoder.0.weight"].shape == (1, 7, 2)


# -------------------------------------------------------------------------------------------------------------- batches
def streams(missing=(0.0, 0.0, 0.0)):
    return [stream(n, n, share, members) for n, share, members in zip((40, 37, 33), missing, (2, 1, 3))]


def folded(own):
    return MemberNoise([each.noise.fold("order") for each in own])


@pytest.mark.parametrize("missing", [(0.0, 0.0, 0.0), (0.0, 0.4, 0.0)])
def test_padded_batches_keep_each_members_weighted_mean(missing):
    """Of any function of a row, here of cells, mask and number; batch by batch as with the stream alone."""
    own = streams(missing)
    joint = MemberRows(own)
    g = lambda batch: batch.x.over_cells(batch.x.value.square() + 1) + batch.u.sum(-1)  # noqa: E731
    together = [(batch.w * g(batch)).mean(-1) for batch in joint.shuffled(16, folded(own))]
    member = 0
    for each in own:
        alone = MemberRows([each])
        assert alone.n_batches(16) == joint.n_batches(16) == len(together) == 3
        batches = [(batch.w * g(batch)).mean(-1) for batch in alone.shuffled(16, folded([each]))]
        for one, many in zip(batches, together, strict=True):
            torch.testing.assert_close(many[member : member + each.n_members], one)
        member += each.n_members


def test_a_pass_has_every_row_once():
    own = streams()
    batches = list(MemberRows(own).shuffled(16, folded(own)))
    first_members = (0, 2, 3)
    for place, (each, member) in enumerate(zip(own, first_members)):
        rows = torch.cat([batch.row[place][batch.w[member] > 0] for batch in batches])
        assert sorted(rows.tolist()) == list(range(len(each.table.x)))
        x = torch.cat([batch.x.value[member][batch.w[member] > 0] for batch in batches])
        assert torch.equal(x[rows.argsort()], each.table.x)
    weights = torch.cat([batch.w for batch in batches], 1).sum(1)
    assert weights.numpy() == approx(np.full(6, 40.0), rel=0.1)  # as long as the longest


def test_one_stream_broadcasts():
    own = stream(20, n_members=3)
    batch = next(MemberRows([own]).shuffled(20, folded([own])))
    assert batch.x.value.shape == (1, 20, D) and batch.w.shape == (3, 20) and batch.row.shape == (1, 20)


# ---------------------------------------------------------------------------------------------------------------- noise
def test_noise_of_members_is_that_of_their_streams():
    row = torch.stack([torch.arange(7), torch.arange(7).flip(0)])
    own = [Noise(3), Noise(8)]
    noise = MemberNoise(own, torch.tensor([0, 0, 1])).fold("z", 2)
    for draw in ("normal", "uniform"):
        drawn = getattr(noise, draw)(row, 4)
        assert drawn.shape == (3, 7, 4)
        for member, number in enumerate((0, 0, 1)):
            assert torch.equal(drawn[member], getattr(own[number].fold("z", 2), draw)(row[number], 4))


def test_dimensions_that_are_not_live_draw_nothing_and_move_no_other():
    live = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])[:, None]
    row = torch.arange(6)[None]
    drawn = MemberNoise([Noise(1)], None, live).normal(row, 3)
    assert torch.equal(drawn[0], Noise(1).normal(row[0], 3))
    assert torch.equal(drawn[1, :, :1], drawn[0, :, :1]) and not drawn[1, :, 1:].any()
