"""Shortcuts of training that must change nothing: layers that keep gradients, draws with their KL, noise ahead.

And modules of the user's own: those that can be fitted are called as they are, others refused.
"""

import numpy as np
import pytest
import torch

from skvae._tensors import Noise, keep_gradient
from skvae.elbo import draw_and_kl, kl_to_standard_normal
from skvae.networks import ACTIVATIONS, hidden, network
from skvae.training.members import Encoded, MemberNoise, MemberRows, Stream
from skvae.user_modules import Module


def normal(*shape, seed=0):
    return Noise(seed).normal(torch.arange(int(np.prod(shape[:-1]))), shape[-1], torch.float64).reshape(shape)


SHAPES = {  # input; axes of the weights before their own
    "one network": ((7, 4), ()),
    "one member": ((1, 7, 4), (1,)),
    "members of one input": ((1, 7, 4), (2,)),
    "members": ((2, 7, 4), (2,)),
}


def leaves_of(sizes, members, skip):
    shapes = {f"net.{i}.weight": size for i, size in enumerate(zip(sizes, sizes[1:]))}
    shapes |= {f"net.{i}.bias": (size,) for i, size in enumerate(sizes[1:])}
    if skip:
        shapes["net.skip.weight"] = (sizes[0], sizes[-1] - 1)
    params = {name: normal(*members, *shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    return {name: tensor.requires_grad_() for name, tensor in params.items()}


@pytest.mark.parametrize("layers", [range(1), range(3), range(1, 3)])
@pytest.mark.parametrize("activation", [*ACTIVATIONS.values(), torch.sin])  # the last one is nothing we know
@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("run, skip", [(hidden, False), (network, False), (network, True)])
def test_layers_that_keep_their_gradients_have_those_of_autograd(run, skip, shapes, activation, layers):
    (*rows, n_in), members = SHAPES[shapes]
    sizes = (n_in, 5, 3, 6)[: len(layers) + 1]
    params = leaves_of(sizes, members, skip)
    if layers.start:
        params = {name.replace("net.1.", "net.2.").replace("net.0.", "net.1."): t for name, t in params.items()}
    h = normal(*rows, n_in, seed=8).requires_grad_()
    expected = run(params, "net", h, layers, activation)
    upstream = normal(*expected.shape, seed=9)
    gradients = torch.autograd.grad(expected, [h, *params.values()], upstream)
    for leaf in params.values():
        keep_gradient(leaf, torch.ones_like(leaf))  # to be added to
    got = run(params, "net", h, layers, activation)
    got.backward(upstream)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(h.grad, gradients[0])
    for leaf, gradient in zip(params.values(), gradients[1:], strict=True):
        torch.testing.assert_close(leaf.grad, gradient + 1)


def test_a_draw_and_its_kl_have_the_gradients_of_autograd():
    """Also where the log-variance is held: outside of the bounds it has none."""
    mean, log_variance = (normal(2, 5, 3, seed=seed).requires_grad_() for seed in (0, 1))
    epsilon, of_z, of_kl = (normal(2, 5, 3, seed=seed) for seed in (2, 3, 4))
    held, heads = log_variance.clamp(-0.5, 0.7), torch.cat([mean, log_variance], -1)
    assert 0 < (held != log_variance).sum() < held.numel()
    z, kl = mean + (0.5 * held).exp() * epsilon, kl_to_standard_normal(mean, held)
    expected = torch.autograd.grad([z, kl], [mean, log_variance], [of_z, of_kl])
    found = draw_and_kl(heads, epsilon, -0.5, 0.7)
    torch.testing.assert_close(found, (z, kl))
    got = torch.autograd.grad(found, [mean, log_variance], [of_z, of_kl])
    torch.testing.assert_close(got, expected)


def test_noise_ahead_is_that_of_the_row():
    """Each row draws what it would draw alone, in every batch and epoch, for every purpose and width."""
    n = 5000  # more than are drawn at once
    x = torch.arange(n, dtype=torch.float32)[:, None]
    rows = MemberRows([Stream(Encoded(x, None, x), Noise(3), 1, torch.ones(1, n))])
    noise, seen = MemberNoise([Noise(3)]), []
    for epoch in range(2):
        of_epoch = noise.fold(epoch)
        for batch in rows.shuffled(300, of_epoch.fold("order")):
            for path, width in (("z", 2), ("other", 2), ("z", 3)):
                alone = Noise(3).fold(epoch).fold(path).normal(batch.row[0], width)
                torch.testing.assert_close(of_epoch.fold(path).normal(batch.row, width)[0], alone, rtol=0, atol=0)
            seen.append(batch.row[0])
    assert sorted(torch.cat(seen).tolist()) == sorted([*range(n)] * 2)


def test_noise_ahead_is_that_of_the_row_in_passes_that_take_turns():
    x = torch.arange(5000, dtype=torch.float32)[:, None]
    rows = MemberRows([Stream(Encoded(x, None, x), Noise(3), 1, torch.ones(1, 5000))])
    epoch, alone = MemberNoise([Noise(3)]).fold(0), Noise(3).fold(0)
    passes = [(rows.shuffled(300, noise.fold("order")), noise) for noise in (epoch, epoch.fold("other"))]
    for _ in range(12):
        for (batches, noise), own in zip(passes, (alone, alone.fold("other"))):
            batch = next(batches)
            expected = own.fold("z").normal(batch.row[0], 2)
            torch.testing.assert_close(noise.fold("z").normal(batch.row, 2)[0], expected, rtol=0, atol=0)


# ------------------------------------------------------------------------------------------ modules of the user's own
class Forward(torch.nn.Module):
    """A linear layer, and whatever is done with it."""

    def __init__(self, n_in, n_out, then, **attributes):
        super().__init__()
        self.layer, self.then = torch.nn.Linear(n_in, n_out), then
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, h):
        return self.then(self, self.layer(h))


def by_a_fixed_tensor(n_in, n_out):
    return Forward(n_in, n_out, lambda own, f: f * own.scale, scale=torch.ones(n_out))


def by_tensors_in_a_list(n_in, n_out):
    return Forward(n_in, n_out, lambda own, f: f * own.scales[0], scales=[torch.ones(n_out)])


def by_a_tensor_in_a_closure(n_in, n_out):
    scale = torch.ones(n_out)
    return Forward(n_in, n_out, lambda own, f: f * scale * float(f.detach().sum()))


REFUSED = {
    "an instance": (torch.nn.Linear(3, 2), r"module itself, Linear; .*lambda n_in, n_out"),
    "one argument": (lambda n: torch.nn.Linear(n, 2), r"part\(n_in=3, n_out=2\).*failed: TypeError"),
    "no parameters": (lambda n_in, n_out: torch.nn.Identity(), "without parameters"),
    "lazy": (lambda n_in, n_out: torch.nn.LazyLinear(n_out), "lazy.*weight"),
    "wrong output": (lambda n_in, n_out: torch.nn.Linear(n_in, n_out + 1), r"\(n_rows, 2\), but .* shape \(2, 3\)"),
    "wrong input": (lambda n_in, n_out: torch.nn.Linear(n_in + 1, n_out), r"rows \(n_rows, 3\).* failed: RuntimeError"),
    "no tensor": (lambda n_in, n_out: Forward(n_in, n_out, lambda own, f: (f, f)), "gave a tuple"),
    "a tensor": (by_a_fixed_tensor, r"tensors \['scale'\] that are no parameters"),
    "a list of them": (by_tensors_in_a_list, r"tensors \['scales'\] that are no parameters"),
    "one in a closure": (by_a_tensor_in_a_closure, "meta device, the module holds tensors that are no parameters"),
    "dropout": (
        lambda n_in, n_out: torch.nn.Sequential(torch.nn.Linear(n_in, n_out), torch.nn.Dropout()),
        "draws.*out",
    ),
    "rrelu": (lambda n_in, n_out: Forward(n_in, n_out, lambda own, f: torch.rrelu(f, training=True)), "draws.*rrelu"),
    "noise": (lambda n_in, n_out: Forward(n_in, n_out, lambda own, f: f + torch.randn_like(f)), "draws.*randn"),
    "noise by value": (
        lambda n_in, n_out: Forward(n_in, n_out, lambda own, f: f + torch.randn(2) * f.sum().item()),
        "draws.*randn",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_modules_that_cannot_be_fitted_are_refused_by_name(case):
    factory, message = REFUSED[case]
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        Module("part", factory, 3, 2)
    assert torch.equal(torch.get_rng_state(), before)


OFFSET = torch.ones(2)


@pytest.mark.parametrize(
    "then",
    [
        lambda own, f: torch.nn.functional.dropout(f, 0.0),
        lambda own, f: torch.nn.functional.dropout(f, 0.5, training=False),
        lambda own, f: f if f.abs().sum() > 1e9 else f + 1,  # by value, which a shape does not tell
        lambda own, f: f + OFFSET,  # a tensor that lies elsewhere
        lambda own, f: f / torch.linalg.det(own.layer.weight[:, :2]),  # not of zeros
    ],
)
def test_modules_are_called_as_they_are(then):
    module = Module("part", lambda n_in, n_out: Forward(n_in, n_out, then), 3, 2)
    params = {name: tensor[None] for name, tensor in module.init(Noise(0)).items()}
    with torch.random.fork_rng(devices=[]):
        direct = Forward(3, 2, then)
    direct.load_state_dict({name.removeprefix("part."): tensor[0] for name, tensor in params.items()})
    h = normal(5, 3).float()
    torch.testing.assert_close(module(params, h[None])[0], direct(h))
