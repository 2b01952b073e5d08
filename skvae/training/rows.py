"""Rows of a table as networks read them: arrays in the model layout, and batches of tensors."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from skvae import _reduce
from skvae._tensors import Cells, placed
from skvae.elbo import kl_to_standard_normal
from skvae.models.autoencoders.vae_evaluation import draws_for_means
from skvae.models.decomposition import factor_analysis as fa
from skvae.tables.encoding import encoder_inputs, log_jacobian
from skvae.tables.weights import scaled, weighted_mean
from skvae.training import factor_analysis_start
from skvae.training.members import Encoded, MemberBatch

_CELLS = 2**19  # draws x rows x columns at once: more leave the caches, and take twice as long
_ROWS_AT_ONCE = 4096


class LinearPath(NamedTuple):
    """The linear models beside a network.

    Attributes
    ----------
    fill : factor_analysis.Params
        Its expectations stand in for missing cells where the encoder reads them.
    posterior : factor_analysis.Params or None
        The encoder's output is added to this model's posterior; None: to nothing.
    """

    fill: fa.Params
    posterior: fa.Params | None


@dataclass
class TableRows:
    """Rows in the model layout (`tables.columns`).

    Attributes
    ----------
    columns : Columns
    x : ndarray of shape (n_rows, width)
    observed : bool ndarray of shape (n_rows, width) or None
    weight : float64 ndarray of shape (n_rows,)
        With mean 1.
    device : torch.device
    dtype : torch.dtype
        Of the tensors that a network is trained on.
    with_mask : bool
        Whether the encoder also reads which cells were seen.
    custom : dict or None
        The user's own likelihood objects, by signature.
    count : float64 ndarray of shape (n_rows,) or None
        Observations that each row stands for: the weights as given, of equal rows added up. None: one each.
    """

    columns: object
    x: np.ndarray
    observed: np.ndarray | None
    weight: np.ndarray
    device: object
    dtype: torch.dtype = torch.float32
    with_mask: bool = False
    custom: dict | None = None
    count: np.ndarray | None = None

    def __len__(self):
        return len(self.x)

    @property
    def Z(self):
        """The rows in float64, with NaN where a cell is missing."""
        x = self.x.astype(np.float64)
        return x if self.observed is None else np.where(self.observed, x, np.nan)

    @property
    def n_all(self):
        """Number of rows of all processes, to be asked for by all of them alike; so are the other sums over rows."""
        return _reduce.count(len(self))

    @property
    def n_observations(self):
        """Number of rows of all before equal ones were merged; a row of weight w counts as w, rounded up."""
        return _reduce.count(len(self) if self.count is None else int(np.ceil(self.count).sum()))

    def rows(self, index):
        """Take some of the rows."""
        x, *others = (None if part is None else part[index] for part in (self.x, self.observed, self.count))
        return replace(self, x=x, weight=self.weight[index], observed=others[0], count=others[1])

    def with_weight(self, weight):
        """The same rows, one observation each, with these weights; they are scaled to mean 1."""
        return replace(self, weight=scaled(weight), count=None)

    def followed_by(self, others):
        """Append other rows to these."""
        observed = None
        if self.observed is not None or others.observed is not None:
            parts = (self, others)
            observed = np.concatenate([np.ones(p.x.shape, bool) if p.observed is None else p.observed for p in parts])
        x, weight = np.concatenate([self.x, others.x]), np.concatenate([self.weight, others.weight])
        return replace(self, x=x, observed=observed, weight=weight, count=_joined(self, others))

    def encoded(self, linear_path=None, dtype=None):
        """Turn the rows into `Encoded` tensors on their device, in their dtype or in another one.

        The encoder reads zeros in missing cells or, with a `LinearPath`, what its `fill` expects of them.
        """

        def place(array):
            return placed(array, self.device, dtype or self.dtype)

        cells = place(self.x)
        observed = None if self.observed is None else place(self.observed)
        if linear_path is not None:
            fill = linear_path.fill
            u = cells if observed is None else place(factor_analysis_start.expected(fill, self.x, self.observed))
        else:
            inputs = encoder_inputs(self.x, self.observed, self.columns, self.custom)
            u = cells if inputs is self.x else place(inputs)
        if self.with_mask:
            u = torch.cat([u, torch.ones_like(cells) if observed is None else observed], 1)
        return Encoded(cells, observed, u)


def linear_heads(params, rows, model, dtype=None):
    """The heads of a model whose posterior of each row is that of factor analysis, (n_rows, 2 K).

    Without parameters (None), they are zeros. They come in the dtype of the rows or in another one.
    """
    dtype = dtype or rows.dtype
    if params is None:
        return torch.zeros(len(rows), 2 * model.n_components, dtype=dtype, device=rows.device)
    heads = factor_analysis_start.evaluate(factor_analysis_start.posterior, params, rows.Z)
    return model.heads_of_factors(torch.from_numpy(heads)).to(device=rows.device, dtype=dtype)


def heads_of_path(linear_path, rows, model, dtype=None):
    """`linear_heads` of a `LinearPath` with an axis of members; None where the encoder's output is added to nothing."""
    if linear_path is None or linear_path.posterior is None:
        return None
    return linear_heads(linear_path.posterior, rows, model, dtype)[None]


def batches(rows, linear_path, model, dtype, size=_ROWS_AT_ONCE):
    """Yield the rows in batches for one member, each with the places of its rows; one empty batch of no rows."""
    for first in range(0, max(1, len(rows)), size):
        index = torch.arange(first, min(first + size, len(rows)))
        part = rows.rows(index.numpy())
        table = part.encoded(linear_path, dtype)
        heads = heads_of_path(linear_path, part, model, dtype)
        observed = None if table.observed is None else table.observed[None]
        w = torch.ones(1, len(index), dtype=dtype, device=rows.device)
        x = Cells(table.x[None], observed)
        yield index, MemberBatch(x, table.u[None], w, index[None].to(rows.device), heads)


@torch.no_grad()
def posterior_summary(model, params, rows, linear_path):
    """Summarise the posteriors of the rows of all processes, by their weights.

    Returns
    -------
    kl : float64 ndarray of shape (n_components,)
        Mean KL(q(z_k | x) || p(z_k)), nats.
    variance : float64 ndarray of shape (n_components,)
        Variance of the posterior means.
    """
    dtype = next(iter(params.values())).dtype
    share = torch.from_numpy(rows.weight / _reduce.count(rows.weight.sum()))
    kl, first, second = 0.0, 0.0, 0.0
    epsilon = draws_for_means(model, dtype).to(rows.device)
    for index, batch in batches(rows, linear_path, model, dtype):
        _, q = model.draw(params, model.encode(params, batch), epsilon)
        mean, w = q.mean.mean(1)[0], share[index].to(dtype=q.mean.dtype, device=rows.device)
        kl = kl + w @ kl_to_standard_normal(*q).mean(1)[0]
        first, second = first + w @ mean, second + w @ mean.square()
    kl, first, second = _reduce.total((kl, first, second))
    return kl.cpu().double().numpy(), (second - first.square()).cpu().double().numpy()


def rows_at_once(cells_a_row):
    """How many rows of so many cells suit the caches."""
    return max(1, min(_ROWS_AT_ONCE, _CELLS // max(1, cells_a_row)))


def nats_of_data(columns, numbers, weight):
    """Give the function from mean nats of the model layout to those of the data as given."""
    jacobian = float(weighted_mean(log_jacobian(numbers, columns), weight))
    return lambda log_prob: log_prob + jacobian


def squared_units_of_data(columns, numbers, weight):
    """Give the function from mean errors of all cells of the model layout to those of observed cells, as X squared."""
    share = float(weighted_mean((~np.isnan(numbers)).mean(1), weight))
    factor = columns.scale[0] ** 2 / share
    return lambda error: error * factor


def _joined(rows, others):
    """The numbers of observations of both, or None where every row is one."""
    if rows.count is None and others.count is None:
        return None
    return np.concatenate([np.ones(len(part)) if part.count is None else part.count for part in (rows, others)])
