"""Generative adversarial network: a generator G turns noise into rows, a discriminator D tells them from real ones.

    z ~ N(0, I),   x = G(z),   D(x) = sigmoid(a(x))

    min_G max_D  V(D, G) = E_data[log D(x)] + E_z[log(1 - D(G(z)))]                                             (1)

Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville and Bengio, NeurIPS 2014, whose numbers of
equations are cited. For a given G the best discriminator is D* = p_data / (p_data + p_g) (2), and V(D*, G) is -log 4 +
2 JSD(p_data, p_g) (6): V + log 4 of any D bounds twice the Jensen-Shannon divergence from below, and V is -log 4 where
D* has nothing left to tell. D and G move in turn (algorithm 1), as turns of the gradient engine.

A cell of a category is a draw from the softmax of its part of G's output, by the Gumbel-max trick: D sees the level
drawn, and the gradient is that of the softmax (straight through: Jang, Gu and Poole, ICLR 2017). So is a Boolean.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from skvae.elbo import Bound
from skvae.networks import init_mlp, network, network_and_slope

_TEMPERATURE = 0.5  # of the softmax that gradients go through
_LEAST_SHARE = 1e-6  # of a level, whose logarithm is taken


class Levels(NamedTuple):
    """Neighbouring columns of the layout that are drawn: levels of categories, or Booleans.

    Attributes
    ----------
    start, stop : int
        stop excluded: the levels of the first category, then of the second, ...
    size : int
        Levels of each category; 0 for Booleans.
    """

    start: int
    stop: int
    size: int = 0


class GAN:
    """The model of one architecture; parameters are passed in and returned, with an axis of one member.

    Parameters
    ----------
    n_components : int
        Dimension of z.
    n_columns : int
    levels : sequence of Levels
        All other columns are numbers.
    hidden_layer_sizes : sequence of int
        Of the discriminator; the generator mirrors them.
    activation : callable
    loss : {"non_saturating", "minimax"}, default="non_saturating"
        What the generator raises: E_z[log D(G(z))] (section 3), or its part of -V.
    gradient_penalty : bool, default=False
        Whether D pays beta / 2 E_data|da/dx|^2, with the engine's beta for gamma (R1 of Mescheder, Geiger and Nowozin,
        ICML 2018, equation 9).
    """

    def __init__(
        self,
        n_components,
        n_columns,
        levels,
        hidden_layer_sizes,
        activation,
        *,
        loss="non_saturating",
        gradient_penalty=False,
    ):
        self.n_components, self.n_outputs, self.levels = n_components, n_columns, levels
        self.generator_sizes = (n_components, *reversed(hidden_layer_sizes), n_columns)
        self.discriminator_sizes = (n_columns, *hidden_layer_sizes, 1)
        self.layers, self.activation = range(len(hidden_layer_sizes) + 1), activation
        self.loss, self.gradient_penalty = loss, gradient_penalty

    def module_signatures(self):
        """Nothing: there are no modules of the user's own."""
        return {}

    def likeness(self):
        """None: games of several fits are not played side by side."""

    def init(self, noise, statistics):
        """Random weights of one network; G's biases give the means of numbers and the shares of levels."""
        params = init_mlp("generator", self.generator_sizes, noise)
        params |= init_mlp("discriminator", self.discriminator_sizes, noise)
        bias = statistics.mean.clone()
        for start, stop, size in self.levels:
            share = statistics.mean[start:stop].clamp(_LEAST_SHARE, 1 - _LEAST_SHARE)
            bias[start:stop] = share.log() if size else share.logit()
        params[f"generator.{self.layers[-1]}.bias"] = bias
        return params

    # --------------------------------------------------------------------------------------------- the two players
    def bound_of_discriminator(self, params, batch, noise):
        """V(D, G) of each row (1), which D raises, less the gradient penalty."""
        x, fake = batch.x.value, self.logit(params, self.generate(params, noise, batch.row))
        if not self.gradient_penalty:
            value = F.logsigmoid(self.logit(params, x)) + F.logsigmoid(-fake)
            return Bound(value, _no_kl(value))
        real, slope = network_and_slope(params, "discriminator", x, self.layers, self.activation)
        value = F.logsigmoid(real[..., 0]) + F.logsigmoid(-fake)
        penalty = 0.5 * slope.square().sum(-1)
        return Bound(value, _no_kl(value), objective=lambda beta: value - beta * penalty)

    def bound_of_generator(self, params, batch, noise):
        """What G raises: log D(G(z)), or minus its part of V."""
        fake = self.logit(params, self.generate(params, noise, batch.row))
        value = F.logsigmoid(fake) if self.loss == "non_saturating" else -F.logsigmoid(-fake)
        return Bound(value, _no_kl(value))

    def logit(self, params, x):
        """a(x), the logit of D(x), of each row: (..., B, n_columns) -> (..., B)."""
        return network(params, "discriminator", x, self.layers, self.activation)[..., 0]

    def generate(self, params, noise, row):
        """G(z) with z drawn from `noise` by the rows' numbers: rows of the layout, (..., B, n_columns)."""
        dtype = params[f"generator.{self.layers[-1]}.bias"].dtype
        z = noise.fold("z").normal(row, self.n_components, dtype)
        output = network(params, "generator", z, self.layers, self.activation)
        if not self.levels:
            return output
        u = noise.fold("level").uniform(row, self.n_outputs, dtype)
        parts, done = [], 0
        for start, stop, size in self.levels:
            parts += [output[..., done:start], _drawn(output[..., start:stop], u[..., start:stop], size)]
            done = stop
        return torch.cat([*parts, output[..., done:]], -1)


def _drawn(output, u, size):
    """A level drawn for each category, one-hot, or 0 or 1 for each Boolean, by uniform u; with a softmax's gradient."""
    if not size:
        perturbed = output + u.logit()  # above 0 with probability sigmoid(output)
        hard, soft = (perturbed > 0).to(output.dtype), (perturbed / _TEMPERATURE).sigmoid()
    else:
        perturbed = (output - (-u.log()).log()).unflatten(-1, (-1, size))  # the largest is level l with its probability
        soft = (perturbed / _TEMPERATURE).softmax(-1).flatten(-2)
        hard = F.one_hot(perturbed.argmax(-1), size).to(output.dtype).flatten(-2)
    return hard + (soft - soft.detach())


def _no_kl(value):
    return value.new_zeros(*value.shape, 0)
