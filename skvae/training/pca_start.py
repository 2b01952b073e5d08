"""Principal components: the initial parameters of autoencoders, and the solution of linear ones.

All columns have one scale. The components are found through probabilistic PCA, which has the same axes and knows what
to expect of missing cells. Its noise is kept below the variance of every axis, so that a code has its length back.
"""

import numpy as np
import torch

from skvae import _reduce
from skvae.models.decomposition import factor_analysis as fa
from skvae.models.decomposition import ppca
from skvae.tables.weights import weighted_mean
from skvae.training.ascent import NetworkResult
from skvae.training.factor_analysis_start import factor_analysis, random_network
from skvae.training.members import one_member
from skvae.training.rows import LinearPath
from skvae.training.validation import mean_error

_NEXT_TO_NOTHING = 0.01  # of their usual size: the weights of the decoder's last layer
# Share of the longest axis' variance below which one is rounding: codes of unit variance would multiply it.
_ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-6}


def principal_components(Z, weight, n_components):
    """Fit probabilistic PCA to the rows of all processes; its axes are the principal ones.

    Parameters
    ----------
    Z : ndarray of shape (n_rows, n_columns)
        NaN where a cell is missing.
    weight : ndarray of shape (n_rows,)
    n_components : int
        No more are found than the rank of the table.

    Returns
    -------
    params : factor_analysis.Params
    """
    n = min(n_components, Z.shape[1])
    if _reduce.largest(bool(np.isnan(Z).any())):
        found = factor_analysis(Z, weight, n, tied=True)
        mu, axes = found.mu, ppca.axes_of(found)
    else:
        mean = weighted_mean(Z, weight)
        centred = (Z - mean) * np.sqrt(weight / _reduce.count(weight.sum()))[:, None]
        if _reduce.count(len(Z)) < Z.shape[1]:  # a covariance would be larger than the rows
            axes = ppca.closed_form_of_rows(torch.from_numpy(np.concatenate(_reduce.gathered(centred))), n)
        else:
            axes = ppca.closed_form(torch.from_numpy(_reduce.count(centred.T @ centred)), n)
        mu = torch.from_numpy(mean)
    told_apart = _told_apart(axes.values, torch.float64)
    axes = axes._replace(axes=axes.axes[:, told_apart], values=axes.values[told_apart])
    axes = axes._replace(noise=torch.minimum(axes.noise, 0.5 * axes.values.min()))
    return fa.Params(mu, axes.loadings(), axes.noise.expand(Z.shape[1]))


def _told_apart(values, dtype):
    """Tell which axes are more than rounding, by the variance along them."""
    return values >= _ROUNDING[dtype] * values.max()


def coder(params):
    """Give the linear maps to the codes of probabilistic PCA, and back as principal components do.

    Returns
    -------
    encoder : Tensor of shape (n_columns, n_components)
        Of centred rows; codes have a variance of almost 1.
    decoder : Tensor of shape (n_components, n_columns)
    """
    squared = params.W.square().sum(0)  # the axes are orthogonal
    encoder = params.W / (squared + params.psi[0])
    return encoder, ((squared + params.psi[0]) / squared * params.W).mT


def principal_network(model, rows, noise, found, dtype=None):
    """Parameters of a network that is these components: its layers add next to nothing to a linear path.

    Not nothing: no gradient would reach the encoder, and an optimizer that divides by its size would follow rounding.
    Components that the dtype (that of the rows or another one) cannot tell from rounding are spare dimensions, as are
    those beyond the rank of the table.
    """
    params, dtype = random_network(model, rows, noise), dtype or rows.dtype
    into, back = coder(found._replace(W=found.W[:, _told_apart(found.W.square().sum(0), dtype)]))
    spare = model.n_components - into.shape[1]
    into = torch.nn.functional.pad(into, (0, spare, 0, model.encoder_sizes[0] - len(into)))
    back = torch.nn.functional.pad(back, (0, 0, 0, spare))
    last = model.last
    params[f"encoder.{last}.weight"] = torch.zeros_like(params[f"encoder.{last}.weight"])
    params[f"decoder.{last}.weight"] = _NEXT_TO_NOTHING * params[f"decoder.{last}.weight"]
    params["encoder.skip.weight" if last else "encoder.0.weight"] = into
    params["decoder.skip.weight" if last else "decoder.0.weight"] = back
    params[f"encoder.{last}.bias"] = -(found.mu @ into[: len(found.mu)])
    params[f"decoder.{last}.bias"] = found.mu
    return {name: tensor.to(device=rows.device, dtype=dtype) for name, tensor in params.items()}


def pca_result(model, rows, noise, found):
    """The result of a fit that PCA solves: a linear autoencoder of complete rows."""
    params = principal_network(model, rows, noise, found, torch.float64)
    linear_path = LinearPath(found, posterior=None)
    error = mean_error(model, one_member(params), rows, linear_path, torch.float64)
    return NetworkResult(
        params, lower_bounds=np.array([-error]), validation_scores=np.empty(0), n_iter=1, linear_path=linear_path
    )


def column_ranges(rows):
    """Range of each column, as parameters of the network that no gradient moves."""
    ends = zip(("low", "high"), _ends(rows), strict=True)
    return {f"corruption.{name}": torch.from_numpy(end).to(device=rows.device, dtype=rows.dtype) for name, end in ends}


def rows_vary(rows):
    """Tell whether some row differs from the others."""
    low, high = _ends(rows)
    return bool((high > low).any())


def _ends(rows):
    """The least and the greatest observed value of each column, 0 where none was, without a copy of the rows."""
    seen = True if rows.observed is None else rows.observed
    low, high = (f(rows.x, axis=0, where=seen, initial=end) for f, end in ((np.min, np.inf), (np.max, -np.inf)))
    low, high = (f(parts, axis=0) for f, parts in zip((np.min, np.max), zip(*_reduce.gathered((low, high)))))
    return np.where(low > high, 0, low), np.where(low > high, 0, high)
