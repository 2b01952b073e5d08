"""Which centre is nearest, proved from a few coordinates of each row in place of them all.

With orthonormal columns Q, y = Q'x and a = Q'c, and what they leave of row and centre, x' = x - Qy and c' = c - Qa,

    |x - c|^2 - |x - d|^2 = |c|^2 - |d|^2 - 2 y'(a - b) - 2 x'(c' - d')   and   |x'(c' - d')| <= |x'| |c' - d'|,

so the difference is known up to a bound that is small where Q holds most of what tells the centres apart, which a few
leading principal directions do. Unlike bounds that the triangle inequality carries along (Elkan, Hamerly), these do not
widen as the centres move.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skvae._tensors import Noise, TableBatch

_SAMPLE = 1024  # rows that the directions are sought among
_ROUNDS = 2  # of subspace iteration
_WEIGHT_OF_CENTRES = 3.0  # in the search, beside that of the sample
_SLACK = 32  # machine epsilons of the squared norms, by which rounding may change a difference of squared distances
_ROWS_AT_ONCE = 1024


class Sketch(NamedTuple):
    """A few coordinates of the rows of a batch.

    Attributes
    ----------
    basis : Tensor of shape (n_columns, width)
        Orthonormal columns.
    rows : TableBatch
        Their coordinates, of shape (n_rows, width).
    rest : Tensor of shape (n_rows,)
        Norm of what these leave of each row, from above.
    """

    basis: Tensor
    rows: TableBatch
    rest: Tensor

    @property
    def slack(self):
        """Share of the squared norms by which rounding may change a difference of squared distances."""
        return _slack(self.rest.dtype)


def _slack(dtype):
    return _SLACK * torch.finfo(dtype).eps


def leading_directions(batch, centres, width):
    """Orthonormal columns (n_columns, width) near the leading principal directions of rows and centres.

    By subspace iteration on evenly spaced rows; the centres weigh more, since their differences are what must be held.
    """
    step = math.ceil(len(batch.row) / _SAMPLE)
    sample = batch.part(slice(None, None, step)).dense()
    heavy = centres * (_WEIGHT_OF_CENTRES * math.sqrt(len(sample) / len(centres)))
    A = torch.cat([sample, heavy])
    Q = Noise(0).normal(torch.arange(A.shape[1]), width, A.dtype)
    for _ in range(_ROUNDS):
        Q = torch.linalg.qr(A.T @ (A @ Q))[0]
    return torch.linalg.qr(Q.double())[0].to(A.dtype)


def sketched(batch, basis, norms):
    """The sketch of a batch, whose rows have the squared norms `norms`, on given directions."""
    starts = range(0, len(batch.row), _ROWS_AT_ONCE)
    Y = torch.cat([batch.part(slice(start, start + _ROWS_AT_ONCE)).dense() @ basis for start in starts])
    rows = TableBatch(Y, batch.w, batch.row)
    rest = (norms * (1 + _slack(Y.dtype)) - rows.squared_norms().double()).clamp_(min=0).sqrt_()
    return Sketch(basis, rows, rest.to(Y.dtype))


def differences(sketch, centres):
    """What a sketch tells and leaves open of centres.

    Returns
    -------
    coordinates : Tensor of shape (K, width)
    apart : Tensor of shape (K, K)
        Twice the distances between what the coordinates leave of them, from above.
    left : float64 Tensor of shape (K,)
        Twice the norm of that.
    """
    Q, C = sketch.basis.double(), centres.double()
    a = C @ Q
    left = C - a @ Q.T
    apart = torch.cdist(left, left, compute_mode="donot_use_mm_for_euclid_dist")
    return a.to(centres.dtype), (apart * (2 + 1e-6)).to(centres.dtype), left.norm(dim=1) * (2 + 1e-6)
