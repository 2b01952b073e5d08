"""Networks as pure functions of a dict of tensors: `{"decoder.0.weight": ..., "decoder.0.bias": ...}`.

A weight has shape (n_in, n_out), so that the first layer of a sparse row is a sum of rows of the weight. Leading axes
of the tensors broadcast, as in `torch.matmul`.
"""

import math

import torch

ACTIVATIONS = {
    "identity": lambda h: h,
    "logistic": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "silu": torch.nn.functional.silu,
}


def init_mlp(name, sizes, noise):
    """Parameters of a chain of linear layers: Glorot and Bengio's (2010) uniform weights, zero biases.

    Parameters
    ----------
    name : str
    sizes : sequence of int
        Widths, input first; one layer between each two.
    noise : Noise

    Returns
    -------
    params : dict of float32 Tensors
    """
    params = {}
    for layer, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        unit = noise.fold(name, layer).uniform(torch.arange(n_in), n_out)
        params[f"{name}.{layer}.weight"] = (2 * unit - 1) * math.sqrt(6 / (n_in + n_out))
        params[f"{name}.{layer}.bias"] = torch.zeros(n_out)
    return params


def layer(params, name, index):
    """Weight and bias of one layer."""
    return params[f"{name}.{index}.weight"], params[f"{name}.{index}.bias"]


def hidden(params, name, h, layers, activation):
    """Run h through `layers` (a range), each followed by the activation."""
    for index in layers:
        weight, bias = layer(params, name, index)
        h = activation(h @ weight + bias)
    return h
