"""Tests a factor analysis against a covariance without structure, by the likelihood ratio.

Bartlett, *Tests of significance in factor analysis*, British Journal of Psychology 3, 1950. Lawley and Maxwell, *Factor
Analysis as a Statistical Method*, 1971.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import chi2

from skvae.models.decomposition.factor_analysis import covariance


class ChiSquare(NamedTuple):
    """A test of fit.

    Attributes
    ----------
    statistic : float
    dof : int
        Degrees of freedom.
    p_value : float
        Probability of a larger statistic if the model holds; NaN without degrees of freedom.
    """

    statistic: float
    dof: int
    p_value: float


def chi_square(S, n, W, psi):
    """Test whether the covariance of n rows, S (D, D), is that of the model, W W' + Psi; of NumPy arrays.

    The statistic is n (log|Sigma| - log|S| + tr(Sigma^-1 S) - D), with Bartlett's correction
    n - 1 - (2 D + 5) / 6 - 2 K / 3 in place of n. It has ((D - K)^2 - D - K) / 2 degrees of freedom.
    """
    D, K = W.shape
    log_det_S = np.linalg.slogdet(S)[1]
    sigma = covariance(W, psi)
    discrepancy = np.linalg.slogdet(sigma)[1] - log_det_S + np.trace(np.linalg.solve(sigma, S)) - D
    statistic = float((n - 1 - (2 * D + 5) / 6 - 2 * K / 3) * discrepancy)
    dof = ((D - K) ** 2 - D - K) // 2
    return ChiSquare(statistic, dof, float(chi2.sf(statistic, dof)) if dof > 0 else math.nan)


def is_singular(S):
    """Whether a covariance is singular up to rounding, whatever the units of its columns."""
    spread = np.sqrt(S.diagonal())
    if not spread.all():
        return True
    return np.linalg.eigvalsh(S / spread[:, None] / spread)[0] <= len(S) * np.finfo(np.float64).eps
