"""Shortcuts of training that must change nothing: layers that keep gradients, draws with their KL, noise ahead."""

import numpy as np
import pytest
import torch

from skvae._members import Encoded, MemberNoise, MemberRows, Stream
from skvae._tensors import Noise
from skvae.elbo import draw_and_kl, kl_to_standard_normal
from skvae.networks import ACTIVATIONS, affine


def normal(*shape, seed=0):
    return Noise(seed).normal(torch.arange(int(np.prod(shape[:-1]))), shape[-1], torch.float64).reshape(shape)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize(
    "shapes", [((7, 4), (4, 3), (3,)), ((1, 7, 4), (2, 4, 3), (2, 3)), ((2, 7, 4), (2, 4, 3), (2, 3))]
)
def test_a_layer_that_keeps_its_gradients_has_those_of_autograd(activation, shapes):
    activation = ACTIVATIONS.get(activation)
    h, weight, bias = leaves = [normal(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]
    expected = affine(h, weight, bias, activation)
    upstream = normal(*expected.shape, seed=9)
    gradients = torch.autograd.grad(expected, leaves, upstream)
    for leaf in (weight, bias):
        leaf.grad, leaf.adds_in_place = torch.ones_like(leaf), True  # to be added to
    got = affine(h, weight, bias, activation)
    got.backward(upstream)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(h.grad, gradients[0])
    torch.testing.assert_close(weight.grad, gradients[1] + 1)
    torch.testing.assert_close(bias.grad, gradients[2] + 1)


def test_a_draw_and_its_kl_have_the_gradients_of_autograd():
    """Also where the log-variance is held: outside of the bounds it has none."""
    mean, log_variance = (normal(2, 5, 3, seed=seed).requires_grad_() for seed in (0, 1))
    epsilon, of_z, of_kl = (normal(2, 5, 3, seed=seed) for seed in (2, 3, 4))
    held = log_variance.clamp(-0.5, 0.7)
    assert 0 < (held != log_variance).sum() < held.numel()
    z, kl = mean + (0.5 * held).exp() * epsilon, kl_to_standard_normal(mean, held)
    expected = torch.autograd.grad([z, kl], [mean, log_variance], [of_z, of_kl])
    found = draw_and_kl(mean, log_variance, epsilon, -0.5, 0.7)
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
