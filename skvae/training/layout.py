"""From rows in the model layout (`Columns`) to the tensors that networks read."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from skvae._tensors import Cells, placed
from skvae.models.autoencoders.encoder_decoder import with_heads
from skvae.models.decomposition import factor_analysis as fa
from skvae.tables.encoding import encoder_inputs
from skvae.training import factor_analysis_start as linear
from skvae.training.members import Encoded, MemberBatch

_CELLS = 2**19  # draws x rows x columns at once: more leave the caches, and take twice as long
_ROWS_AT_ONCE = 4096


class Start(NamedTuple):
    """Linear models beside a network.

    Attributes
    ----------
    fill : factor_analysis.Params
        What it expects of missing cells, the encoder reads in them.
    base : factor_analysis.Params or None
        The encoder adds to its posterior; None: it adds to none.
    """

    fill: fa.Params
    base: fa.Params | None


@dataclass
class Layout:
    """Rows in the model layout.

    Attributes
    ----------
    columns : Columns
    x : ndarray of shape (n_rows, width)
    observed : bool ndarray of shape (n_rows, width) or None
    weight : float64 ndarray of shape (n_rows,)
        With mean 1.
    device : torch.device
    with_mask : bool
        Whether the encoder reads which cells were seen.
    custom : dict or None
        The user's own likelihoods, by signature.
    """

    columns: object
    x: np.ndarray
    observed: np.ndarray | None
    weight: np.ndarray
    device: object
    with_mask: bool = False
    custom: dict | None = None

    def __len__(self):
        return len(self.x)

    @property
    def Z(self):
        """The rows with NaN where a cell is missing, in float64."""
        x = self.x.astype(np.float64)
        return x if self.observed is None else np.where(self.observed, x, np.nan)

    def rows(self, index):
        """Some of them."""
        observed = None if self.observed is None else self.observed[index]
        return replace(self, x=self.x[index], observed=observed, weight=self.weight[index])

    def reweighted(self):
        """With weights of mean 1."""
        return replace(self, weight=self.weight / self.weight.mean())

    def followed_by(self, others):
        """These rows, then those."""
        observed = None
        if self.observed is not None or others.observed is not None:
            parts = (self, others)
            observed = np.concatenate([np.ones(p.x.shape, bool) if p.observed is None else p.observed for p in parts])
        x, weight = np.concatenate([self.x, others.x]), np.concatenate([self.weight, others.weight])
        return replace(self, x=x, observed=observed, weight=weight)

    def encoded(self, start=None, dtype=torch.float32):
        """`Encoded` tensors.

        With the `Start` of a network on gaussian columns, its encoder reads in missing cells what that expects of them,
        else zeros.
        """

        def place(array):
            return placed(array, self.device, dtype)

        cells = place(self.x)
        observed = None if self.observed is None else place(self.observed)
        if start is not None:
            u = cells if observed is None else place(linear.expected(start.fill, self.x, self.observed))
        else:
            features = encoder_inputs(self.x, self.observed, self.columns, self.custom)
            u = cells if features is self.x else place(features)
        if self.with_mask:
            u = torch.cat([u, torch.ones_like(cells) if observed is None else observed], 1)
        return Encoded(cells, observed, u)


def base_of(params, rows, n_components, dtype=torch.float32):
    """Means, then log-variances of the posterior under factor analysis, (n_rows, 2 K), of rows in a `Layout`.

    Latent dimensions that it does not have are those of the prior.
    """
    base = linear.at_work(params, rows.Z, linear.posterior)
    return with_heads(torch.from_numpy(base), n_components).to(device=rows.device, dtype=dtype)


def base_for(start, rows, n_components, dtype=torch.float32):
    """`base_of` a start for one member; None where the encoder adds to none."""
    if start is None or start.base is None:
        return None
    return base_of(start.base, rows, n_components, dtype)[None]


def batches(rows, start, model, dtype, size=_ROWS_AT_ONCE):
    """Rows in batches of one member each, with their places."""
    for first in range(0, len(rows), size):
        index = torch.arange(first, min(first + size, len(rows)))
        part = rows.rows(index.numpy())
        table = part.encoded(start, dtype)
        base = base_for(start, part, model.n_components, dtype)
        observed = None if table.observed is None else table.observed[None]
        w = torch.ones(1, len(index), dtype=dtype, device=rows.device)
        x = Cells(table.x[None], observed)
        yield index, MemberBatch(x, table.u[None], w, index[None].to(rows.device), base)


def rows_at_once(cells_a_row):
    return max(1, min(_ROWS_AT_ONCE, _CELLS // max(1, cells_a_row)))
