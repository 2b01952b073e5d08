"""A network that codes a row in a few numbers and another that gives it back: what all autoencoders share.

Every tensor has a leading axis of members (`training.members`). What the encoder gives for each latent dimension are
its heads. The first head and the decoder may have a linear path beside their layers, "decoder.skip.weight".
"""

import torch

from skvae._tensors import kept
from skvae.networks import init_mlp, known, network, network_and_back
from skvae.user_modules import Module


class EncoderDecoder:
    """Encoder, decoder and likelihood of one architecture; parameters are passed in and returned.

    Parameters
    ----------
    n_inputs, n_components, n_outputs : int
        Widths of what the encoder reads, of z, and of what the decoder gives.
    hidden_layer_sizes : sequence of int
        Of the encoder; the decoder mirrors them.
    activation : callable
    likelihood : object of `skvae.likelihoods`
    encoder, decoder : callable or None, default=None
        (n_in, n_out) -> torch.nn.Module, in place of the layers.
    n_factors : int or None, default=None
        Width of what the decoder reads; None: `n_components`.
    """

    n_heads = 1  # numbers that the encoder gives for each latent dimension

    def __init__(
        self,
        n_inputs,
        n_components,
        n_outputs,
        hidden_layer_sizes,
        activation,
        likelihood,
        *,
        encoder=None,
        decoder=None,
        n_factors=None,
    ):
        self.n_components, self.activation, self.likelihood = n_components, activation, likelihood
        self.n_factors = n_components if n_factors is None else n_factors
        self.encoder_sizes = (n_inputs, *hidden_layer_sizes)
        self.decoder_sizes = (self.n_factors, *reversed(hidden_layer_sizes), n_outputs)
        self.n_outputs = n_outputs
        self.last = len(hidden_layer_sizes)  # index of each network's last layer
        n_codes = self.n_heads * n_components
        self.own_encoder = None if encoder is None else Module("encoder", encoder, n_inputs, n_codes)
        self.own_decoder = None if decoder is None else Module("decoder", decoder, self.n_factors, n_outputs)

    def module_signatures(self):
        """Text that tells the user's own modules from others; None for the built-in layers."""
        modules = {"encoder": self.own_encoder, "decoder": self.own_decoder}
        return {name: None if module is None else module.signature for name, module in modules.items()}

    def likeness(self):
        """What models must have in common to be members of one ascent: all but the latent dimensions.

        None for a model with a module of the user's own, which is computed member by member anyway.
        """
        if self.own_encoder or self.own_decoder:
            return None
        layers = self.encoder_sizes, self.decoder_sizes[1:], self.activation
        return type(self), *layers, self.likelihood.signature(), *self._settings()

    def _settings(self):
        """Settings of a subclass that the bound depends on."""
        return ()

    def _trained_by_hand(self, params):
        """Whether all parameters are trained and autograd is not needed for their gradients."""
        if self.own_encoder or self.own_decoder or not known(self.activation):
            return False
        return all(kept(tensor) is not None for tensor in params.values())

    # ------------------------------------------------------------------------------------------------ parameters
    def init(self, noise, statistics):
        """Random weights of one network, whose posterior is the prior's in scale; biases at the marginal maximum.

        `statistics` has the mean, the variance and the share of non-zero cells of each column. No axis of members.
        """
        if self.own_decoder:
            decoder = self.own_decoder.init(noise)
        else:
            decoder = init_mlp("decoder", self.decoder_sizes, noise)
            decoder[f"decoder.{self.last}.bias"] = self.likelihood.init_bias(statistics.mean, statistics.share)
        own = self.likelihood.init_own(statistics.mean, statistics.variance)
        return self._init_encoder(noise) | decoder | {f"likelihood.{name}": tensor for name, tensor in own.items()}

    def _init_encoder(self, noise):
        """Random weights; of all heads but the first, zeros."""
        if self.own_encoder:
            return self.own_encoder.init(noise)
        K, sizes = self.n_components, self.encoder_sizes
        params, first = init_mlp("encoder", sizes, noise), init_mlp("mean", (sizes[-1], K), noise)
        for key in ("weight", "bias"):
            others = K * (self.n_heads - 1)
            params[f"encoder.{self.last}.{key}"] = torch.nn.functional.pad(first[f"mean.0.{key}"], (0, others))
        return params

    # --------------------------------------------------------------------------------------------------- both ways
    def _encoded(self, params, batch):
        """Output of the encoder."""
        if self.own_encoder:
            return self.own_encoder(params, batch.u)
        return network(params, "encoder", batch.u, range(self.last + 1), self.activation)

    def _encoded_and_back(self, params, u):
        """`_encoded` of parameters that are trained, and the function that adds its gradients to them."""
        return network_and_back(params, "encoder", u, range(self.last + 1), self.activation, to_input=False)

    def log_prob(self, params, x, z):
        """log p(x | z) less the part that is constant in the parameters; of z (M, B, K) or (M, S, B, K)."""
        if z.dim() == 4:
            x = x.unsqueeze(1)
        return self.likelihood.log_prob(x, self.decode(params, z), own(params))

    def decode(self, params, z):
        """f_theta(z), of the shape of z but for the last axis."""
        if z.dim() == 4:
            return self.decode(params, z.flatten(1, 2)).unflatten(1, z.shape[1:3])
        return self._f(params, z)

    def _f(self, params, z):
        if self.own_decoder:
            return self.own_decoder(params, z)
        return network(params, "decoder", z, range(self.last + 1), self.activation)

    def mean(self, params, z):
        """E[x | z], in the layout of x."""
        return self.likelihood.mean(self.decode(params, z), own(params))

    def mean_of_layer(self, params, z, layer):
        """The same of the values of one layer, or of those of all from it on, where there are several."""
        return self.mean(params, z)

    def _log_prob_and_back(self, params, x, z):
        f, to_z = network_and_back(params, "decoder", z, range(self.last + 1), self.activation)
        log_prob, to_f = self.likelihood.log_prob_and_back(x, f, own(params))
        return log_prob, lambda upstream: to_z(to_f(upstream))

    # -------------------------------------------------------------------------------------------- more dimensions of z
    def widened(self, params, n_components):
        """Parameters of the same function of x with further latent dimensions, whose posterior is the prior.

        Their weights are zero, and stay so as long as no noise is drawn for them.
        """
        return {name: self._resized(name, tensor, n_components) for name, tensor in params.items()}

    def narrowed(self, params):
        """Parameters cut back to this model's own latent dimensions, which undoes `widened`."""
        return {name: self._resized(name, tensor, self.n_components) for name, tensor in params.items()}

    def _resized(self, name, tensor, n_components):
        if name in self._names_of_heads():
            return with_heads(tensor, n_components, self.n_heads)
        if name == "encoder.skip.weight" and not self.own_encoder:
            return _with_length(tensor, -1, n_components)
        if name in {"decoder.0.weight", "decoder.skip.weight"} and not self.own_decoder:
            return _with_length(tensor, -2, n_components)
        return tensor

    def _names_of_heads(self):
        """Names of the parameters of the encoder's output layer; empty for a user's own encoder."""
        return () if self.own_encoder else (f"encoder.{self.last}.weight", f"encoder.{self.last}.bias")


def own(params):
    """The likelihood's parameters."""
    prefix = "likelihood."
    return {name.removeprefix(prefix): tensor for name, tensor in params.items() if name.startswith(prefix)}


def with_heads(tensor, n_components, n_heads=2):
    """Cut a last axis of n_heads * K numbers to so many latent dimensions, or fill it up with zeros: with the prior."""
    if tensor.shape[-1] == n_heads * n_components:
        return tensor
    return _with_length(tensor.unflatten(-1, (n_heads, -1)), -1, n_components).flatten(-2)


def _with_length(tensor, axis, n):
    """The tensor with an axis cut to this length, or filled up with zeros."""
    if tensor.shape[axis] >= n:
        return tensor.narrow(axis, 0, n)
    shape = list(tensor.shape)
    shape[axis] = n - shape[axis]
    return torch.cat([tensor, tensor.new_zeros(shape)], axis)
