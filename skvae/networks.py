"""Networks as pure functions of a dict of tensors: `{"decoder.0.weight": ..., "decoder.0.bias": ...}`.

A weight has shape (n_in, n_out), so that the first layer of a sparse row is a sum of rows of the weight. Leading axes
of the tensors broadcast, as in `torch.matmul`.
"""

import math

import torch

_BLOCK_CELLS = 2**18

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
        params[f"{name}.{layer}.weight"] = _glorot(n_in, n_out, noise.fold(name, layer))
        params[f"{name}.{layer}.bias"] = torch.zeros(n_out, dtype=torch.float32)
    return params


def _glorot(n_in, n_out, noise):
    weight = torch.empty(n_in, n_out, dtype=torch.float32)
    for rows in torch.arange(n_in).split(max(1, _BLOCK_CELLS // n_out)):  # random bits take several times the room
        weight[rows[0] : rows[-1] + 1] = noise.uniform(rows, n_out)
    return weight.mul_(2).sub_(1).mul_(math.sqrt(6 / (n_in + n_out)))


def layer(params, name, index):
    """Weight and bias of one layer."""
    return params[f"{name}.{index}.weight"], params[f"{name}.{index}.bias"]


def hidden(params, name, h, layers, activation):
    """Run h through `layers` (a range), each followed by the activation."""
    for index in layers:
        weight, bias = layer(params, name, index)
        h = activation(h @ weight + bias)
    return h
