"""Autoencoders and principal components: where a network starts from, and what a linear one comes to at once.

Both are those of the columns with one scale for all. The components are found through probabilistic PCA, whose axes
they share: it knows what to expect of cells that are missing. Its noise is kept below the variance of every axis, so
that a code has its length back.
"""

import numpy as np
import torch

from skvae.models.decomposition import factor_analysis as fa
from skvae.models.decomposition import ppca
from skvae.training import factor_analysis_start as linear
from skvae.training.fits import NetworkFit, Settled, one_member, statistics_of
from skvae.training.layout import Start, batches

_NEXT_TO_NOTHING = 0.01  # of their usual size: the weights of the decoder's last layer
# Share of the longest axis' variance below which one is rounding: codes of unit variance would multiply it.
_ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-6}


def principal_components(Z, weight, n_components):
    """Probabilistic PCA along its axes, as the Params of factor analysis.

    Parameters
    ----------
    Z : ndarray of shape (n_rows, n_columns)
        NaN where a cell is missing.
    weight : ndarray of shape (n_rows,)
    n_components : int
        Of more than the rank of the table, none is found.
    """
    n = min(n_components, Z.shape[1])
    if np.isnan(Z).any():
        found = linear.factor_analysis(Z, weight, n, tied=True)
        mu, axes = found.mu, ppca.axes_of(found)
    else:
        mean = np.average(Z, axis=0, weights=weight)
        centred = (Z - mean) * np.sqrt(weight / weight.sum())[:, None]
        mu, axes = torch.from_numpy(mean), ppca.closed_form(torch.from_numpy(centred.T @ centred), n)
    told_apart = _told_apart(axes.values, torch.float64)
    axes = axes._replace(axes=axes.axes[:, told_apart], values=axes.values[told_apart])
    axes = axes._replace(noise=torch.minimum(axes.noise, 0.5 * axes.values.min()))
    return fa.Params(mu, axes.loadings(), axes.noise.expand(Z.shape[1]))


def _told_apart(values, dtype):
    """Which axes are more than rounding, by the variance along them."""
    return values >= _ROUNDING[dtype] * values.max()


def coder(params):
    """The linear maps to the codes of probabilistic PCA and back, as the principal components give it back.

    Returns
    -------
    encoder : Tensor of shape (n_columns, n_components)
        Of centred rows; codes have a variance of almost 1.
    decoder : Tensor of shape (n_components, n_columns)
    """
    squared = params.W.square().sum(0)  # the axes are orthogonal
    encoder = params.W / (squared + params.psi[0])
    return encoder, ((squared + params.psi[0]) / squared * params.W).mT


def principal_network(model, training, noise, found, dtype=torch.float32):
    """A network that is these components, by a linear path past its layers, which add next to nothing.

    Those that its numbers cannot tell from rounding are spare dimensions, as are those beyond the rank of the table.

    Not nothing: no gradient would reach the encoder, and an optimiser that divides by its size would follow rounding.
    """
    params = model.init(noise.fold("init"), statistics_of(training.columns))
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
    return {name: tensor.to(dtype) for name, tensor in params.items()}


class Principal(NetworkFit):
    """A linear autoencoder of complete rows, which has nothing to climb.

    Parameters
    ----------
    model : Autoencoder
    training : Layout
    noise : Noise
    found : Params
    """

    def __init__(self, model, training, noise, found):
        self.model, self.training, self.noise, self.found = model, training, noise, found

    def settled(self, outcome=None):
        """The network that is these components, with its error for a bound."""
        params = principal_network(self.model, self.training, self.noise, self.found, torch.float64)
        members = {name: tensor.to(self.training.device) for name, tensor in one_member(params).items()}
        start = Start(self.found, base=None)
        error = mean_error(self.model, members, self.training, start, torch.float64)
        return Settled(params, start, None, np.array([-error]), np.empty(0), 1, {})


@torch.no_grad()
def mean_error(model, params, rows, start, dtype=torch.float32):
    """Mean over rows, by weight, of |x - f|^2 / D over what was observed of it."""
    total = 0.0
    for index, batch in batches(rows, start, model, dtype):
        log_prob = model.log_prob(params, batch.x, model.encode(params, batch))[0].cpu().double().numpy()
        total -= rows.weight[index.numpy()] @ log_prob
    return total / rows.weight.sum()


class HeldOut:
    """Minus the mean squared error of the observed cells of rows that are held out, as a share of all columns.

    Parameters
    ----------
    model : Autoencoder
    rows : Layout
    start : Start or None
    share : float
        Of the cells of the training rows that were observed: their errors are means over all cells.
    """

    def __init__(self, model, rows, start, share):
        self.model, self.rows, self.start = model, rows, start
        self.factor = share / max(observed_share(rows), 1 / rows.x.size)  # rows without any cell: an error of 0

    def __call__(self, params):
        return -mean_error(self.model, params, self.rows, self.start) * self.factor


def observed_share(rows):
    """Weighted share of the cells that were observed."""
    return 1.0 if rows.observed is None else float(np.average(rows.observed.mean(1), weights=rows.weight))


def column_ranges(rows):
    """The least and the greatest value of each column, as parameters that stay as they are."""
    ends = zip(("low", "high"), _ends(rows), strict=True)
    return {f"corruption.{name}": torch.from_numpy(end).float() for name, end in ends}


def vary(rows):
    """Whether some row differs from the others."""
    low, high = _ends(rows)
    return bool((high > low).any())


def _ends(rows):
    """The least and the greatest observed value of each column, 0 where none was, without a copy of the rows."""
    seen = True if rows.observed is None else rows.observed
    low, high = (f(rows.x, axis=0, where=seen, initial=end) for f, end in ((np.min, np.inf), (np.max, -np.inf)))
    return np.where(low > high, 0, low), np.where(low > high, 0, high)
