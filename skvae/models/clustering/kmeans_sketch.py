"""Finds the nearest centre of a wide row from a few coordinates, with a bound on the error.

Let Q have orthonormal columns. A row x has the coordinates y = Q'x and the rest x' = x - Qy; centres c and d have the
coordinates a = Q'c and b = Q'd, and the rests c' = c - Qa and d' = d - Qb. Then

    |x - c|^2 - |x - d|^2 = |c|^2 - |d|^2 - 2 y'(a - b) - 2 x'(c' - d')   and   |x'(c' - d')| <= |x'| |c' - d'|,

so the difference is known up to an error that is small if Q holds most of the differences between the centres. A few
leading principal directions do. Unlike bounds by the triangle inequality (Elkan, Hamerly), these bounds do not widen as
the centres move.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skvae._tensors import Noise, TableBatch

_SAMPLE = 1024  # rows from which the directions are computed
_ROUNDS = 2  # rounds of subspace iteration
_WEIGHT_OF_CENTRES = 3.0  # in computing directions, relative to the sample
_SLACK = 32  # machine epsilons of the squared norms, by which rounding may change a difference of squared distances
_ROWS_AT_ONCE = 1024


class Sketch(NamedTuple):
    """A few coordinates of the rows of a batch.

    Attributes
    ----------
    basis : Tensor of shape (n_columns, width)
        Orthonormal columns Q.
    rows : TableBatch
        Coordinates y of the rows, of shape (n_rows, width).
    rest : Tensor of shape (n_rows,)
        Upper bound on the norm |x'| of the rest of each row.
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
    """Find orthonormal columns (n_columns, width) near the leading principal directions of rows and centres.

    By subspace iteration on evenly spaced rows. The centres have more weight, since Q must hold their differences.
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
    """Sketch a batch on given directions; `norms` are the squared norms of its rows."""
    starts = range(0, len(batch.row), _ROWS_AT_ONCE)
    Y = torch.cat([batch.part(slice(start, start + _ROWS_AT_ONCE)).dense() @ basis for start in starts])
    rows = TableBatch(Y, batch.w, batch.row)
    rest = (norms * (1 + _slack(Y.dtype)) - rows.squared_norms().double()).clamp_(min=0).sqrt_()
    return Sketch(basis, rows, rest.to(Y.dtype))


def differences(sketch, centres):
    """Coordinates of centres, and bounds on what the coordinates leave open of them.

    Returns
    -------
    coordinates : Tensor of shape (K, width)
        a, b, ...
    apart : Tensor of shape (K, K)
        Upper bounds on 2 |c' - d'|.
    left : float64 Tensor of shape (K,)
        Upper bounds on 2 |c'|.
    """
    Q, C = sketch.basis.double(), centres.double()
    a = C @ Q
    left = C - a @ Q.T
    apart = torch.cdist(left, left, compute_mode="donot_use_mm_for_euclid_dist")
    return a.to(centres.dtype), (apart * (2 + 1e-6)).to(centres.dtype), left.norm(dim=1) * (2 + 1e-6)
