"""Factor analysis:  z ~ N(0, I_K),  x | z ~ N(mu + W z, Psi),  Psi diagonal; so  x ~ N(mu, W W' + Psi).

Steps of Rubin and Thayer (*Psychometrika* 47, 1982), in the notation of Bishop, *Pattern Recognition and Machine
Learning* (2006), section 12.2.4, with the expanded parameters of Liu, Rubin and Wu (*Biometrika* 85, 1998): while the
M-step is taken, z has a mean and a covariance of its own, which then go into mu and W. Sums leave out missing cells, so
that each column is regressed on z over the rows where it was seen. Both steps stay exact.

All rows that miss the same cells share one K x K posterior covariance; no matrix of D x D is inverted. Probabilistic
PCA (Tipping and Bishop 1999) is the same model with `tied` noise, Psi = sigma^2 I; `models.ppca` has its closed form.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skvae._rounding import CONSTANT_VARIANCE, is_constant
from skvae._tensors import cholesky

UNIQUENESS_FLOOR = 1e-6  # smallest noise variance of a column, as a share of its variance
TIED_NOISE_FLOOR = 1e-12  # the same where all columns share one: their scales may differ by orders of magnitude
_LOG_2PI = math.log(2 * math.pi)


class Params(NamedTuple):
    """Mean, loadings and noise of the model.

    Attributes
    ----------
    mu : Tensor of shape (D,)
    W : Tensor of shape (D, K)
        Loadings; any rotation W R is the same model.
    psi : Tensor of shape (D,)
        Variances of the noise.
    """

    mu: Tensor
    W: Tensor
    psi: Tensor


class Sums(NamedTuple):
    """Sums over rows: n, of shape (); x, (D,); x x', (D, D). NumPy arrays if the rows are on the CPU."""

    n: Tensor | np.ndarray
    x: Tensor | np.ndarray
    xx: Tensor | np.ndarray


class Block(NamedTuple):
    """Complete rows as NumPy arrays: X of shape (N, D) and weights w of shape (N,), both of float64."""

    X: np.ndarray
    w: np.ndarray


class SufficientStatistics(NamedTuple):
    """Weight, mean and covariance of complete rows: all that the likelihood depends on, so they can stand for a batch.

    Attributes
    ----------
    n : Tensor of shape ()
        Weight of the rows.
    mean : Tensor of shape (D,)
    S : Tensor of shape (D, D)
        Covariance with divisor n.
    """

    n: Tensor
    mean: Tensor
    S: Tensor


class Stats(NamedTuple):
    """Expected statistics that the M-step reads: sums over rows, under the posterior, with r = x - mu and y = (z, 1).

    The first axis of `n` and `C` has length 1 where every column was seen in the same rows.

    Attributes
    ----------
    bound : Tensor of shape ()
        Sum of log p(x).
    n : Tensor of shape (1 or D,)
        Weight of the rows where column d was seen.
    rr : Tensor of shape (D,)
        Sum of r_d^2 over the rows where column d was seen.
    A : Tensor of shape (D, K + 1)
        Sum of r_d y over the same rows.
    C : Tensor of shape (1 or D, K + 1, K + 1)
        Sum of y y' over the same rows.
    E : Tensor of shape (K + 1, K + 1)
        Sum of y y' over all rows.
    """

    bound: Tensor
    n: Tensor
    rr: Tensor
    A: Tensor
    C: Tensor
    E: Tensor


class Posterior(NamedTuple):
    """p(z | x) = N(mean, V) of the rows of a batch.

    Attributes
    ----------
    mean : Tensor of shape (N, K)
    V : Tensor of shape (P, K, K)
        One covariance for each pattern of missing cells.
    log_det : Tensor of shape (P,)
        Log-determinant of the covariance of the observed cells.
    """

    mean: Tensor
    V: Tensor
    log_det: Tensor


class FactorAnalysis:
    """The steps of EM, for batches of rows (`TableBatch`) and for `SufficientStatistics` of complete rows.

    Parameters
    ----------
    n_components : int
        Number K of factors.
    variance : Tensor of shape (D,)
        Variances of the columns; 0 where constant.
    tied : bool, default=False
        One noise variance for all columns.
    floor : float or None, default=None
        Smallest noise variance of a column, as a share of its variance. None: `UNIQUENESS_FLOOR`, or
        `TIED_NOISE_FLOOR`.
    """

    def __init__(self, n_components, variance, tied=False, floor=None):
        self.n_components, self.tied = n_components, tied
        variance = variance.mean().expand(len(variance)) if tied else variance
        share = floor or (TIED_NOISE_FLOOR if tied else UNIQUENESS_FLOOR)
        self.floor = torch.where(variance > 0, share * variance, CONSTANT_VARIANCE)
        self.variance = variance.maximum(self.floor)
        self.scale = self.variance.sqrt()

    def init(self, mu, noise, psi=None):
        """Draw loadings that explain half of each column's variance, or as much as the noise `psi` if it is given."""
        psi = (self.variance / 2 if psi is None else psi).maximum(self.floor)
        row = torch.arange(len(mu), device=mu.device)
        W = noise.fold("loadings").normal(row, self.n_components, mu.dtype)
        return Params(mu, W * (psi / max(1, self.n_components)).sqrt()[:, None], psi)

    def e_step(self, batch, params, memory=None):
        """Compute the expected statistics of a batch; remember the sum of squares of its rows."""
        if isinstance(batch, SufficientStatistics):
            return self._e_step_of_statistics(batch, params), None
        squares = batch.w @ batch.X.square() if memory is None else memory
        return self._e_step_of_rows(batch, params, squares), squares

    def _e_step_of_statistics(self, statistics, params):
        n, mean, S = statistics
        mu, W, psi = params
        precise = W / psi[:, None]
        V, log_det_M = _inverse(W.T @ precise)
        B = precise @ V
        r = mean - mu
        z = r @ B
        rz = (B.T @ S).T + r[:, None] * z  # S is symmetric; this way round the thin product takes half the time
        rr = S.diagonal() + r.square()
        C = torch.cat([torch.cat([V + B.T @ rz, z[:, None]], 1), torch.cat([z, torch.ones_like(n)[None]])[None]])
        C = n * C  # expectation of y y'
        parts = n[None], n * rr, n * torch.cat([rz, r[:, None]], 1), C[None], C
        return self._with_bound(parts, n * (len(mu) * _LOG_2PI + psi.log().sum() + log_det_M), params)

    def _e_step_of_rows(self, batch, params, squares):
        mu = params.mu
        q = posterior(batch, params)
        y = torch.cat([q.mean, torch.ones_like(batch.w)[:, None]], 1)
        wy = batch.w[:, None] * y
        xy = batch.X.T @ wy
        n, C = self._expected_products(batch, q, y, wy)
        if batch.patterns is None:
            E, n, C, log_det, seen = C[0], n, C, n[0] * q.log_det[0], n * len(mu)
        else:
            seen_cells = batch.patterns.to(mu.dtype)
            E, log_det, seen = C.sum(0), n @ q.log_det, n * seen_cells.sum(1)
            n, C = n @ seen_cells, (seen_cells.T @ C.flatten(1)).unflatten(1, C.shape[1:])
        rr = squares - 2 * mu * xy[:, -1] + mu.square() * n
        A = xy - mu[:, None] * C[:, :, -1]
        return self._with_bound((n, rr, A, C, E), seen.sum() * _LOG_2PI + log_det, params)

    def _with_bound(self, parts, volume, params):
        """Put the statistics together with their bound, -1/2 (volume + sum of r' Sigma^-1 r).

        The sum is computed as that of (r - W z)' Psi^-1 (r - W z) + z' z at the posterior mean of z. The mean minimises
        it, so that its rounding hardly matters. r' Psi^-1 r - y' V y would lose digits where the noise is small.
        """
        n, rr, A, C, E = parts
        W, K = params.W, self.n_components
        A, C = A[:, :K], C[:, :K, :K]
        CW = W @ C[0] if len(C) == 1 else (C @ W[:, :, None])[:, :, 0]
        residual = rr - 2 * (W * A).sum(1) + (W * CW).sum(1)
        mahalanobis = (residual / params.psi).sum() + E.diagonal()[:K].sum() - K * E[-1, -1]
        return Stats(-0.5 * (volume + mahalanobis), *parts)

    def _expected_products(self, batch, q, y, wy):
        """Sum, over the rows of each pattern of missing cells, the weights and the expectations of y y'."""
        P, K = len(q.V), self.n_components
        if batch.patterns is None:
            n, C = batch.w.sum()[None], (wy.T @ y)[None]
        else:
            n = batch.w.new_zeros(P).index_add_(0, batch.pattern, batch.w)
            C = wy.new_zeros(P, K + 1, K + 1).index_add_(0, batch.pattern, wy[:, :, None] * y[:, None, :])
        C[:, :K, :K] += n[:, None, None] * q.V
        return n, C

    def bound(self, stats, params):
        """Weighted sum of log p(x) over all rows; exact, since the posterior is exact."""
        return stats.bound

    def m_step(self, stats, params):
        """Regress each column on z; then move the mean and covariance of z into mu and W (Liu, Rubin and Wu 1998)."""
        mean, cov = stats.E[:-1, -1], stats.E[:-1, :-1]
        total = stats.E[-1, -1]
        mean = mean / total
        chol = cholesky(stats.C)
        if len(chol) == 1:
            slopes = stats.A @ torch.cholesky_inverse(chol[0])
        else:
            slopes = torch.cholesky_solve(stats.A[:, :, None], chol)[:, :, 0]
        W, intercept, residual = slopes[:, :-1], slopes[:, -1], stats.rr - (slopes * stats.A).sum(1)
        psi = residual.sum() / (stats.n.expand(len(W))).sum() if self.tied else residual / stats.n
        psi = psi.expand(len(W)).maximum(self.floor)
        spread = cholesky(cov / total - mean[:, None] * mean)
        return Params(params.mu + intercept + W @ mean, W @ spread, psi)

    def to_free(self, params):
        """Turn parameters into a vector: loadings and means in standard deviations of the columns, and log noise."""
        scaled = torch.cat([params.W, params.mu[:, None]], 1) / self.scale[:, None]
        return torch.cat([scaled.flatten(), (params.psi / self.variance).log()])

    def from_free(self, vector, params):
        """Turn such a vector into parameters; the noise is kept between its floor and the column's variance."""
        D = len(params.mu)
        scaled = vector[:-D].view(D, -1) * self.scale[:, None]
        psi = (vector[-D:].clamp(max=0).exp() * self.variance).maximum(self.floor)
        return Params(scaled[:, -1], scaled[:, :-1], psi)


# ------------------------------------------------------------------------------------------------------- posterior
def posterior(batch, params):
    """Posterior p(z | x) of the rows of a batch, from their observed cells: (12.66) and (12.67)."""
    y, gram = _projected(batch, params)
    V, log_det_M = _inverse(gram)
    noise = params.psi.log()
    noise = noise.sum() if batch.patterns is None else batch.patterns.to(noise.dtype) @ noise
    return Posterior(_by_pattern(V, y, batch), V, noise + log_det_M)


def posterior_mean(batch, params):
    """Mean of p(z | x) of each row, of shape (N, K): regression scores."""
    return posterior(batch, params).mean


def bartlett(batch, params):
    """Scores z of each row by least squares weighted by the noise, without the prior (Bartlett 1937); (N, K)."""
    y, gram = _projected(batch, params)
    return _by_pattern(torch.linalg.pinv(gram, hermitian=True), y, batch)


def _projected(batch, params):
    """Compute W' Psi^-1 (x - mu) of each row, (N, K), and W' Psi^-1 W of each pattern, (P, K, K), of observed cells."""
    mu, W, psi = params
    precise = W / psi[:, None]
    if batch.patterns is None:
        return batch.X @ precise - mu @ precise, (W.T @ precise)[None]
    seen, K = batch.patterns.to(W.dtype), W.shape[1]
    gram = seen @ (precise[:, :, None] * W[:, None, :]).flatten(1)
    return batch.X @ precise - (seen @ (mu[:, None] * precise))[batch.pattern], gram.unflatten(1, (K, K))


def log_prob(batch, params):
    """Log-likelihood log p(x) of the observed cells of each row, of shape (N,)."""
    mu, W, psi = params
    q = posterior(batch, params)
    residual = batch.X - mu - q.mean @ W.T
    if batch.patterns is None:
        log_det, seen = q.log_det, len(mu)
    else:
        residual = residual * batch.observed
        log_det, seen = q.log_det[batch.pattern], batch.observed.sum(1)
    mahalanobis = residual.square() @ (1 / psi) + q.mean.square().sum(1)
    return -0.5 * (seen * _LOG_2PI + log_det + mahalanobis)


def bound_terms(batch, params):
    """Take the evidence of each row apart, in columns: log p(x), E_q[log p(x | z)] and KL(q || p(z)), (N, 3).

    q is the posterior p(z | x).
    """
    mu, W, psi = params
    q = posterior(batch, params)
    seen = torch.ones_like(batch.X) if batch.patterns is None else batch.observed
    residual = (batch.X - mu - q.mean @ W.T) * seen
    spread = _of_rows(torch.einsum("dk,pkl,dl->pd", W, q.V, W), batch) * seen  # variance of W z under q
    expected = -0.5 * (seen @ (psi.log() + _LOG_2PI) + (residual.square() + spread) @ (1 / psi))
    size = q.V.diagonal(dim1=-2, dim2=-1).sum(-1) - torch.linalg.slogdet(q.V)[1] - W.shape[1]
    kl = 0.5 * (_of_rows(size, batch) + q.mean.square().sum(1))
    return torch.stack([log_prob(batch, params), expected, kl], 1)


def factorised_gap(batch, params):
    """KL of the closest factorised normal to the posterior p(z | x), of each row, (N,); 0 if it factorises."""
    P = torch.linalg.inv(posterior(batch, params).V)  # of a normal with precision P it is the one of precision diag P
    gap = 0.5 * (P.diagonal(dim1=-2, dim2=-1).log().sum(-1) - torch.linalg.slogdet(P)[1])
    return _of_rows(gap, batch)


def _of_rows(values, batch):
    """Give each row the values of its pattern of missing cells."""
    return values[batch.pattern] if batch.patterns is not None else values.expand(len(batch.X), *values.shape[1:])


def _inverse(G):
    """Compute (I + G)^-1 and log|I + G| of Gram matrices G of shape (..., K, K)."""
    chol = cholesky(G + torch.eye(G.shape[-1], dtype=G.dtype, device=G.device))
    return torch.cholesky_inverse(chol), 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _by_pattern(matrix, y, batch):
    """Multiply each row's y by the matrix of the row's pattern."""
    return y @ matrix[0] if batch.patterns is None else (matrix[batch.pattern] @ y[:, :, None])[:, :, 0]


# ------------------------------------------------------------------------------------------------ sufficient statistics
def sums(batch):
    """Sum weights, x and x x' over the complete rows of a batch, or a `Block` of NumPy arrays.

    On the CPU by NumPy, which multiplies a matrix by its own transpose at half of torch's cost (syrk). Batches are then
    added up by NumPy, too: when the thread pools of two libraries take turns, the products take twice as long.
    """
    X, w = batch.X, batch.w
    if isinstance(X, Tensor):
        if X.device.type != "cpu":
            return Sums(w.sum(), w @ X, (X * w[:, None]).T @ X)
        X, w = X.numpy(), np.ascontiguousarray(w.numpy())  # BLAS does not take the stride 0 of expanded ones
    with np.errstate(invalid="ignore", over="ignore"):  # callers look for NaN and infinity in the sums
        weighted = X if (w == 1).all() else X * np.sqrt(w)[:, None]
        return Sums(w.sum(), w @ X, weighted.T @ weighted)


def sufficient_statistics(sums, shift):
    """Compute weight, mean and covariance from sums over rows less `shift`; constant columns have covariances 0.

    Parameters
    ----------
    sums : Sums
    shift : Tensor of shape (D,)

    Returns
    -------
    statistics : SufficientStatistics
        With `mean` measured from `shift`.
    """
    shift = shift if isinstance(sums.xx, Tensor) else shift.numpy()
    return SufficientStatistics(*map(torch.as_tensor, mean_and_covariance(sums, shift)))


def mean_and_covariance(sums, shift):
    """What `sufficient_statistics` computes, as arrays of the kind that the sums have; `shift` is one, too."""
    n, x, xx = sums
    with np.errstate(invalid="ignore", over="ignore"):  # callers look for NaN and infinity
        mean = x / n
        S = (xx / n).addr_(mean, mean, alpha=-1) if isinstance(xx, Tensor) else xx / n - mean[:, None] * mean
        constant = is_constant(S.diagonal(), mean + shift)
    if constant.any():
        S[constant] = 0
        S[:, constant] = 0
    return n, mean, S


def union(some, others):
    """Sufficient statistics of two sets of rows together, from those of each (Chan, Golub and LeVeque 1983)."""
    n = some.n + others.n
    apart = others.mean - some.mean
    share = others.n / n
    S = (1 - share) * some.S + share * others.S + share * (1 - share) * apart[:, None] * apart
    return SufficientStatistics(n, some.mean + share * apart, S)


# ------------------------------------------------------------------------------------------------------ fitted models
def covariance(W, psi):
    """Covariance of x, W W' + Psi; of NumPy arrays."""
    return W @ W.T + np.diag(psi)


def precision(W, psi):
    """Inverse of the covariance of x, by way of a K x K matrix (Woodbury); of NumPy arrays."""
    precise = W / psi[:, None]
    M = np.eye(W.shape[1]) + W.T @ precise
    return np.diag(1 / psi) - precise @ np.linalg.solve(M, precise.T)


def n_parameters(n_features, n_components, n_noise_variances):
    """Number of free parameters of mean and covariance: never more than a covariance without structure has."""
    D, K = n_features, n_components
    return D + min(D * K - K * (K - 1) // 2 + n_noise_variances, D * (D + 1) // 2)


def principal(params):
    """Rotate the loadings to the principal axes of Psi^-1/2 W, the longest first; the model stays the same.

    Then W' Psi^-1 W is diagonal, as maximum-likelihood loadings are usually reported. The sign of each column makes its
    largest loading positive.
    """
    scale = params.psi.sqrt()[:, None]
    _, _, rotation = torch.linalg.svd(params.W / scale, full_matrices=False)
    return params._replace(W=upright(params.W @ rotation.mT))


def along_principal_axes(W, psi):
    """The loadings of `principal`, from NumPy arrays.

    Once NumPy's threads have multiplied matrices, those of torch wait for them, longer than this takes.
    """
    _, _, Vt = np.linalg.svd(W / np.sqrt(psi)[:, None], full_matrices=False)
    return upright(W @ Vt.T)


def upright(W):
    """Flip the sign of each column whose largest entry is negative; of a Tensor or an array of NumPy."""
    if isinstance(W, np.ndarray):
        columns = np.arange(W.shape[1])
        return W * np.where(W[np.abs(W).argmax(0), columns] < 0, -1.0, 1.0) if len(columns) else W
    largest = W.gather(0, W.abs().argmax(0, keepdim=True)) if W.shape[1] else W[:1]
    return W * torch.where(largest < 0, -1.0, 1.0).to(W.dtype)
