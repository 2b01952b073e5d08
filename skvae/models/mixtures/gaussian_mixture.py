"""Mixture of Gaussians:  z ~ Cat(pi),  x | z = k ~ N(mu_k, Sigma_k).

Steps of Dempster, Laird and Rubin (1977); Bishop, *Pattern Recognition and Machine Learning* (2006), section 9.2. Cells
that are missing are integrated out: log p(x_o) of the observed ones is exact, and the M-step gets the conditional
means and covariances of the others (Ghahramani and Jordan 1994; Little and Rubin 2002, section 11.3).

Where rows are complete and columns few, log p(x | z = k) is one matrix product with the quadratic features
[x_i x_j (i <= j), x, 1], and so are the statistics. That form squares the distance of a component from the origin;
where it would cost digits, and where columns are many, the distances are computed from the means instead.
"""

import abc
import math
import sys
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skvae._tensors import Workspace, cholesky
from skvae.models.mixtures.posterior import log_ratios, mixing_proportions, posterior
from skvae.models.mixtures.quadratic_features import pairs_of, pairs_on, places_of, quadratic_features, squares
from skvae.models.mixtures.small_arrays import as_tensors, concatenated, on_host, roots_of_precisions

_LOG_2PI = math.log(2 * math.pi)
_FEW_COLUMNS = 24  # up to here d (d + 1) / 2 products a row cost less than K triangular products
_TRIANGLE_ROWS = 16  # of triangular factors at once: of fewer, products are thin; of more, much of them is zero
_FAR = 1e4  # mu' P mu from which the quadratic features lose more than 1e-12 of a log-density
_INCOMPLETE_CELLS = 2**20  # K x rows x D x D held at once where cells are missing
_WORTH_A_WAIT = 2**30  # multiplications from which a GPU takes longer than to answer which rows matter
_NEGLIGIBLE = 1e-20  # responsibilities that no sum of doubles would feel


class Params(NamedTuple):
    """Parameters, with functions of them that the E-step reads: computed once an iteration, not once a batch.

    Attributes
    ----------
    pi : Tensor of shape (K,)
    mu : Tensor of shape (K, D)
    sigma : Tensor of shape (K, D, D), or (K, D) where diagonal
        Covariances; K equal ones where tied.
    root : Tensor of the shape of sigma
        Upper triangular U with precision U U', or the square roots of the precisions.
    log_norm : Tensor of shape (K,)
        log pi_k + log |U_k| - D / 2 log 2 pi; where covariances are diagonal, less mu' P mu / 2.
    theta : Tensor of shape (K, n_features) or None
        Coefficients of the quadratic features; None where they would cost digits, or too much time.
    """

    pi: Tensor
    mu: Tensor
    sigma: Tensor
    root: Tensor
    log_norm: Tensor
    theta: Tensor | None

    @property
    def origin(self):
        """The points (K, D) from which the statistics measure: 0 with quadratic features, else the means."""
        return torch.zeros_like(self.mu) if self.theta is not None else self.mu


class Stats(NamedTuple):
    """Sums over rows, by weight and responsibility; x is measured from `Params.origin`.

    Attributes
    ----------
    bound : Tensor ()
    N : Tensor of shape (K,)
    S : Tensor of shape (K, D)
        Of x.
    SS : Tensor of the shape of sigma
        Of x x', or of x**2.
    M : Tensor of shape (K, D), or of no elements
        Weight of the observed cells; only where covariances are diagonal: missing cells then leave the sums.
    """

    bound: Tensor
    N: Tensor
    S: Tensor
    SS: Tensor
    M: Tensor


class GaussianMixture(abc.ABC):
    """Base class of both kinds of covariance. `floor` is added to the diagonals, in units of x squared.

    `e_step`, which runs once a batch and iteration, works in memory that is kept from call to call. Nothing that is
    returned lies in it. `m_step` and `params` use NumPy on the CPU, which takes half of torch's time for small arrays.
    """

    def __init__(self, n_components, *, pooled=False, floor=0.0):
        self.n_components, self.pooled, self.floor = n_components, pooled, floor
        self._space = Workspace()
        self._features = None, None  # the batch that came last, and its features: a small table is one batch, kept

    def e_step(self, batch, params, memory=None):
        """Posterior of each row and the sums it weights (Bishop 2006, eq. 9.13, 9.24, 9.26)."""
        log_joint, work = self._log_joint(batch, params, self._space)
        log_px, R = posterior(log_joint, batch.w)
        return self._sums(batch, R, batch.w @ log_px, params, work, self._space), None

    def features(self, make, batch, space):
        """Quadratic features of a batch, by the function that makes them; those of the last batch of `e_step` stay."""
        if space is not self._space:
            return make(batch, space)
        if self._features[0] is not batch:
            self._features = None, None
            self._features = batch, make(batch, space)
        return self._features[1]

    def bound(self, stats, params):
        """Weighted sum of log p(x) over all rows."""
        return stats.bound

    def log_joint(self, batch, params):
        """log p(x_n, z_n = k) of the observed cells, of shape (K, n_rows)."""
        return self._log_joint(batch, params, Workspace())[0]

    def fill(self, batch, params):
        """E[x | x_o] of each row, of shape (n_rows, D): x itself where it was observed."""
        log_joint, work = self._log_joint(batch, params, Workspace())
        _, R = posterior(log_joint)
        expected = self._expected(batch, R, params, work)
        return batch.X if batch.observed is None else torch.where(batch.observed > 0, batch.X, expected)

    def stats_from_params(self, params, weight):
        """Statistics of rows of this total weight from which the M-step finds these parameters."""
        unit = self.moved(self._unit_stats(params), params.mu - params.origin)
        return Stats(*(weight * field for field in unit))

    def to_free(self, params):
        """log pi, mu, and the covariances by log-Cholesky factors: unconstrained reals."""
        return torch.cat([log_ratios(params.pi), params.mu.reshape(-1), self._free_covariance(params.sigma)])

    def from_free(self, vector, params):
        """Parameters from the vector of `to_free`, of the shapes of `params`."""
        K, D = params.mu.shape
        pi, mu, rest = vector.split([K, K * D, len(vector) - K - K * D])
        near = None if vector.is_cpu else params.theta is not None  # an E-step tells at the same time what fails
        return self.params(pi.softmax(0), mu.reshape(K, D), self._covariance_of(rest, params), near=near)

    # -------------------------------------------------------------------------------- given for each kind of covariance
    @abc.abstractmethod
    def params(self, pi, mu, sigma, *, near=None):
        """Parameters ready for the E-step; a LinAlgError whose text names components that have no density.

        To ask for that, and whether the components are `near` enough to the origin for quadratic features, the host
        waits for a device. If `near` is given, nothing is asked: the density of such components is NaN.
        """

    @abc.abstractmethod
    def m_step(self, stats, params):
        """Parameters of the highest bound; what no row belongs to stays where it is in `params`."""

    @abc.abstractmethod
    def stats_from_responsibilities(self, batch, R, column_variances=None):
        """Statistics of a batch, measured from 0, given the responsibilities R (K, n_rows)."""

    @abc.abstractmethod
    def moved(self, stats, d):
        """The same sums measured from origins that lie -d (K, D) away."""

    @abc.abstractmethod
    def split(self, params, given, rest):
        """Condition on the columns `given`: (parameters of their marginal, slopes of the rest, covariances of it)."""

    @abc.abstractmethod
    def row_width(self, n_columns):
        """How many numbers the E-step computes of a complete row."""

    @abc.abstractmethod
    def incomplete_rows(self, n_columns):
        """How many rows with missing cells to put into one batch at most."""

    @abc.abstractmethod
    def _log_joint(self, batch, params, space):
        """log p(x, z = k), of shape (K, n_rows), and intermediate results that `_sums` and `_expected` read."""

    @abc.abstractmethod
    def _sums(self, batch, R, bound, params, work, space):
        """Statistics of a batch, measured from `params.origin`, given R and the `work` of `_log_joint`."""

    @abc.abstractmethod
    def _expected(self, batch, R, params, work):
        """Expectation of each missing cell given the observed ones, in an array (n_rows, D)."""

    @abc.abstractmethod
    def _unit_stats(self, params):
        """Statistics of total weight 1 from which the M-step finds these parameters, measured from their means."""

    @abc.abstractmethod
    def _free_covariance(self, sigma):
        """Covariances as a vector of unconstrained reals."""

    @abc.abstractmethod
    def _covariance_of(self, free, params):
        """Covariances from the vector of `_free_covariance`, for `params` of the same shapes."""


class FullGaussianMixture(GaussianMixture):
    """A covariance matrix a component; `pooled`: one for all (tied)."""

    def params(self, pi, mu, sigma, *, near=None):
        """Parameters ready for the E-step.

        Raises
        ------
        torch.linalg.LinAlgError
            If a covariance is not positive definite; its text names the components.
        """
        K, D = mu.shape
        if mu.is_cpu and D <= _FEW_COLUMNS:
            pi, mu, sigma = on_host(pi, mu, sigma)
            root = self._spread(roots_of_precisions(sigma[:1] if self.pooled else sigma, K), K)
            sigma, failed, pairs = self._spread(sigma, K), np.zeros(1, bool), pairs_of(D)
        else:
            sigma = sigma.expand(K, D, D)
            L, failed = torch.linalg.cholesky_ex(sigma)
            eye = torch.eye(D, dtype=mu.dtype, device=mu.device).expand(K, D, D)
            root = torch.linalg.solve_triangular(L, eye, upper=False).mT
            pairs = pairs_on(D, mu) if D <= _FEW_COLUMNS else None
        log = torch.log if isinstance(mu, Tensor) else np.log
        log_norm = log(pi) + log(root.diagonal(0, 1, 2)).sum(1) - 0.5 * D * _LOG_2PI
        offset = (root.swapaxes(1, 2) @ mu[:, :, None])[..., 0]  # U' mu
        squares_ = (offset * offset).sum(1)
        if near is None:
            near = _checked_and_near(failed, squares_) and pairs is not None
        else:
            log_norm = log_norm.masked_fill(failed > 0, math.nan)
        theta = None
        if near:
            precision = root @ root.swapaxes(1, 2)
            i, j, factor = pairs
            quadratic = precision[:, i, j] * factor
            linear = (precision @ mu[:, :, None])[..., 0]
            theta = concatenated([quadratic, linear, (log_norm - 0.5 * squares_)[:, None]])
        return Params(*as_tensors(pi, mu, sigma, root, log_norm, theta))

    def _spread(self, matrices, K):
        """One matrix for all components where they share it."""
        return np.repeat(matrices[:1], K, axis=0) if self.pooled else matrices

    def m_step(self, stats, params):
        """Eq. 9.24 to 9.27 of Bishop (2006); a component that no row belongs to stays where it is.

        In the first M-step it has no such place: its variance is then the floor.
        """
        D = stats.S.shape[1]
        total, S, SS = on_host(*stats[1:4]) if D <= _FEW_COLUMNS else stats[1:4]
        N = total.clip(min=sys.float_info.min)
        mean = S / N[:, None]
        spread = SS - N[:, None, None] * mean[:, :, None] * mean[:, None, :]
        dead = total <= _NEGLIGIBLE * total.sum()
        knows = isinstance(dead, np.ndarray) or dead.is_cpu  # on a device, to ask would be to wait
        some_dead = bool(dead.any()) if knows else True
        if self.pooled:
            alive = spread.masked_fill(dead[:, None, None], 0) if not knows else spread[~dead] if some_dead else spread
            sigma = alive.sum(0)[None] / total.sum()
        else:
            sigma = spread / N[:, None, None]
        sigma = 0.5 * (sigma + sigma.swapaxes(1, 2))
        sigma.reshape(len(sigma), -1)[:, :: D + 1] += self.floor
        pi, mu, sigma = as_tensors(mixing_proportions(total), mean, sigma)
        if params is not None:
            mu = mu if params.theta is not None else params.mu + mu
            if some_dead:
                (dead,) = as_tensors(dead)
                mu = torch.where(dead[:, None], params.mu, mu)
                sigma = sigma if self.pooled else torch.where(dead[:, None, None], params.sigma, sigma)
        return self.params(pi, mu, sigma)

    def row_width(self, n_columns):
        features = n_columns * (n_columns + 1) // 2 if n_columns <= _FEW_COLUMNS else n_columns
        return max(features, self.n_components * n_columns // 4)

    def incomplete_rows(self, n_columns):
        """How many rows with missing cells to handle at once: each brings K matrices of its own."""
        return max(1, _INCOMPLETE_CELLS // (self.n_components * n_columns**2))

    def _log_joint(self, batch, params, space):
        if batch.observed is not None:
            return _incomplete_log_joint(batch, params)
        if params.theta is not None:
            phi = self.features(quadratic_features, batch, space)
            log_joint = space.empty("log_joint", (len(params.pi), len(batch.X)), batch.X)
            return torch.mm(params.theta, phi, out=log_joint), phi
        return _triangular_log_joint(batch.X, params, space), None

    def _sums(self, batch, R, bound, params, work, space):
        if batch.observed is not None:
            stats = _incomplete_sums(batch, R, bound, params, work)
            return stats if params.theta is None else self.moved(stats, params.mu)
        if params.theta is not None:
            return _quadratic_sums(work, R, bound, batch.X.shape[1])
        return _centred_sums(batch.X, R, bound, params.mu, space)

    def _expected(self, batch, R, params, work):
        expected = R.mT @ params.mu
        if batch.observed is None:
            return expected
        y, _ = work
        return expected + (R[..., None] * (y @ params.sigma)).sum(0)

    def stats_from_responsibilities(self, batch, R, column_variances=None):
        """Statistics of a batch, measured from 0, given the responsibilities R (K, n_rows).

        A missing cell counts as a draw of mean 0 and the variance of its column.
        """
        R = R * batch.w
        origin = R.new_zeros(self.n_components, batch.X.shape[1])
        stats = _centred_sums(batch.X, R, R.new_zeros(()), origin, Workspace())
        if batch.observed is not None:
            stats.SS.diagonal(dim1=1, dim2=2).add_((R @ (1 - batch.observed)) * column_variances)
        return stats

    def moved(self, stats, d):
        cross = stats.S[:, :, None] * d[:, None, :]
        SS = stats.SS + cross + cross.mT + stats.N[:, None, None] * d[:, :, None] * d[:, None, :]
        return stats._replace(S=stats.S + stats.N[:, None] * d, SS=SS)

    def split(self, params, given, rest):
        """Condition on the columns `given`: their marginal mixture, and that of the `rest` within each component.

        E[rest | given, k] = mu_rest + slope (given - mu_given); slope (K, n_rest, n_given), covariance (K, n_rest,
        n_rest) (Bishop 2006, eq. 2.81, 2.82).
        """
        block = params.sigma[:, given][:, :, given]
        across = params.sigma[:, rest][:, :, given]
        slope = torch.linalg.solve(block, across.mT).mT
        marginal = self.params(params.pi, params.mu[:, given], block)
        return marginal, slope, params.sigma[:, rest][:, :, rest] - slope @ across.mT

    def _unit_stats(self, params):
        mu, pi = params.mu, params.pi
        sigma = params.sigma - self.floor * torch.eye(mu.shape[1], dtype=mu.dtype, device=mu.device)
        return Stats(mu.new_zeros(()), pi, torch.zeros_like(mu), pi[:, None, None] * sigma, mu.new_zeros(0))

    def _free_covariance(self, sigma):
        L, _ = torch.linalg.cholesky_ex(sigma[:1] if self.pooled else sigma)  # `params` has checked them
        i, j = torch.tril_indices(L.shape[1], L.shape[1], device=L.device)
        diagonal = L.diagonal(dim1=1, dim2=2)
        return torch.where(i == j, diagonal[:, i].log(), L[:, i, j]).reshape(-1)

    def _covariance_of(self, free, params):
        K, D = params.mu.shape
        i, j = torch.tril_indices(D, D, device=free.device)
        values = free.reshape(1 if self.pooled else K, len(i))
        L = free.new_zeros(len(values), D, D)
        L[:, i, j] = torch.where(i == j, values.exp(), values)
        return L @ L.mT


class DiagonalGaussianMixture(GaussianMixture):
    """Independent columns within a component; `pooled`: of one variance (spherical)."""

    def params(self, pi, mu, sigma, *, near=None):
        """Parameters ready for the E-step; sigma (K, D) or, where spherical, (K, 1).

        Raises
        ------
        torch.linalg.LinAlgError
            If a variance is not positive; its text names the components.
        """
        D = mu.shape[1]
        pi, mu, sigma = on_host(pi, mu, sigma)
        sqrt, log = (torch.sqrt, torch.log) if isinstance(mu, Tensor) else (np.sqrt, np.log)
        if sigma.shape[1] != D:
            sigma = sigma + (0 * mu[:1] if isinstance(mu, Tensor) else np.zeros((1, D)))
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            root = 1 / sqrt(sigma)
            scaled = root * mu
            squares_ = (scaled * scaled).sum(1)
            near = _checked_and_near(~(sigma > 0).all(1), squares_) if near is None else near
        log_norm = log(pi) + log(root).sum(1) - 0.5 * D * _LOG_2PI - 0.5 * squares_
        theta = None
        if near:
            precision = root * root
            linear = mu * precision
            cell = log(root) - 0.5 * _LOG_2PI - 0.5 * mu * linear
            theta = concatenated([-0.5 * precision, linear, cell])
        return Params(*as_tensors(pi, mu, sigma, root, log_norm, theta))

    def m_step(self, stats, params):
        """Mean and variance of each column over its observed cells; without such cells both stay as they are."""
        N, S, SS, M = on_host(*stats[1:])
        seen = M > _NEGLIGIBLE * N.sum()
        M = M.clip(min=sys.float_info.min)
        mean = S / M
        spread = (SS - M * mean * mean).clip(min=0)
        if self.pooled:
            sigma = spread.sum(1)[:, None] / M.sum(1)[:, None]
            kept = seen.any(1)[:, None]
        else:
            sigma, kept = spread / M, seen
        pi, mu, sigma = as_tensors(mixing_proportions(N), mean, sigma + self.floor)
        if params is not None:
            mu = mu if params.theta is not None else params.mu + mu
            if not (isinstance(seen, np.ndarray) and seen.all()):
                seen, kept = as_tensors(seen, kept)
                mu = torch.where(seen, mu, params.mu)
                sigma = torch.where(kept, sigma, params.sigma[:, : sigma.shape[1]])
        return self.params(pi, mu, sigma)

    def row_width(self, n_columns):
        return max(4 * n_columns, self.n_components)  # above 4,096 rows of a few features products take longer

    def incomplete_rows(self, n_columns):
        """How many rows with missing cells to handle at once: any number, their cells just leave the sums."""
        return sys.maxsize

    def _log_joint(self, batch, params, space):
        """log p(x, z = k), of shape (K, n_rows), and the features it was computed from, if any."""
        if params.theta is None:
            return self._far_log_joint(batch, params), None
        phi, D = self.features(squares, batch, space), batch.X.shape[1]
        if batch.observed is None:
            constant, theta = params.log_norm[:, None], params.theta[:, : 2 * D]
        else:
            constant, theta = params.pi.log()[:, None], params.theta
        log_joint = space.empty("log_joint", (len(theta), len(phi)), phi)
        return torch.addmm(constant, theta, phi.mT, out=log_joint), phi

    def _sums(self, batch, R, bound, params, phi, space):
        if phi is None:
            return self._far_sums(batch, R, bound, params)
        D = batch.X.shape[1]
        T, N = R @ phi, R.sum(1)
        M = N[:, None].expand(-1, D) if batch.observed is None else T[:, 2 * D :]
        return Stats(bound, N, T[:, D : 2 * D], T[:, :D], M)

    def _expected(self, batch, R, params, work):
        return R.mT @ params.mu

    def _far_log_joint(self, batch, params):
        rows = []
        for mu, root, pi in zip(params.mu, params.root, params.pi):
            cells = root.log() - 0.5 * _LOG_2PI - 0.5 * ((batch.X - mu) * root).square()
            cells = cells if batch.observed is None else cells * batch.observed
            rows.append(cells.sum(1) + pi.log())
        return torch.stack(rows)

    def _far_sums(self, batch, R, bound, params):
        N = R.sum(1)
        observed = torch.ones_like(batch.X) if batch.observed is None else batch.observed
        S, SS = torch.empty_like(params.mu), torch.empty_like(params.mu)
        for k, mu in enumerate(params.mu):
            x = (batch.X - mu) * observed
            S[k], SS[k] = R[k] @ x, R[k] @ x.square()
        return Stats(bound, N, S, SS, R @ observed)

    def stats_from_responsibilities(self, batch, R, column_variances=None):
        """Statistics of a batch, measured from 0, given the responsibilities R (K, n_rows)."""
        R = R * batch.w
        space = Workspace()
        return self._sums(batch, R, R.new_zeros(()), None, squares(batch, space), space)

    def moved(self, stats, d):
        return stats._replace(S=stats.S + stats.M * d, SS=stats.SS + 2 * d * stats.S + stats.M * d.square())

    def split(self, params, given, rest):
        """Condition on the columns `given`, as for full covariances; columns are independent: all slopes are 0."""
        slope = params.mu.new_zeros(len(params.pi), len(rest), len(given))
        marginal = self.params(params.pi, params.mu[:, given], params.sigma[:, given])
        return marginal, slope, torch.diag_embed(params.sigma[:, rest])

    def _unit_stats(self, params):
        pi = params.pi[:, None].expand_as(params.mu)
        SS = pi * (params.sigma - self.floor)
        return Stats(params.mu.new_zeros(()), params.pi, torch.zeros_like(params.mu), SS, pi)

    def _free_covariance(self, sigma):
        return (sigma[:, :1] if self.pooled else sigma).log().reshape(-1)

    def _covariance_of(self, free, params):
        return free.exp().reshape(len(params.pi), -1)


def _checked_and_near(failed, squares):
    """Whether mu' P mu (K,) is small for all components; an error if some covariances cannot be factorised.

    Both are asked at once, since on a device each question is a wait.
    """
    if isinstance(failed, np.ndarray):
        any_failed, largest = failed.any(), squares.max()
    else:
        any_failed, largest = torch.stack([failed.any().to(squares.dtype), squares.max()]).tolist()
    if any_failed:
        (failed,) = as_tensors(failed)
        raise torch.linalg.LinAlgError(f"{failed.nonzero()[:, 0].tolist()}")
    return bool(largest < _FAR)


# ------------------------------------------------------------------------------------------------- complete rows
def _quadratic_sums(phi, R, bound, D):
    T = R @ phi.mT
    if T.is_cpu:
        SS = torch.from_numpy(T.numpy()[:, places_of(D)])
    else:
        i, j = torch.triu_indices(D, D, device=R.device)
        SS = T.new_empty(len(R), D, D)
        SS[:, i, j] = SS[:, j, i] = T[:, : len(i)]
    return Stats(bound, T[:, -1], T[:, -D - 1 : -1], SS, T.new_zeros(0))


def _triangular_log_joint(X, params, space):
    """log_norm - |U' (x - mu)|**2 / 2. U' is lower triangular: its first rows need the first columns only."""
    K, D = params.mu.shape
    lower, distance = params.root.mT, 0.0
    for start in range(0, D, _TRIANGLE_ROWS):
        stop = min(D, start + _TRIANGLE_ROWS)
        rows = lower[:, start:stop, :stop]
        offset = (rows @ params.mu[:, :stop, None]).reshape(-1, 1)
        y = space.empty("y", (K * (stop - start), len(X)), X)
        torch.mm(rows.reshape(-1, stop), X[:, :stop].mT, out=y)
        distance = distance + y.sub_(offset).square_().reshape(K, stop - start, -1).sum(1)
    return torch.sub(params.log_norm[:, None], distance, alpha=0.5)


def _centred_sums(X, R, bound, mu, space):
    """Sums measured from mu, each component's over the rows that belong to it at all."""
    K, D = mu.shape
    S, SS = X.new_empty(K, D), X.new_empty(K, D, D)
    for k, rows in enumerate(_members(R, D)):
        share = R[k] if rows is None else R[k][rows]
        share = share.sqrt()
        x = space.empty("members", (len(share), D), X)
        x = torch.sub(X, mu[k], out=x) if rows is None else torch.index_select(X, 0, rows, out=x).sub_(mu[k])
        x.mul_(share[:, None])
        if x.is_cpu:  # NumPy sees that the product is symmetric, and computes half of it
            np.matmul(x.mT.numpy(), x.numpy(), out=SS[k].numpy())
        else:
            torch.mm(x.mT, x, out=SS[k])
        S[k] = share @ x
    return Stats(bound, R.sum(1), S, SS, X.new_zeros(0))


def _members(R, D):
    """For each component the rows that belong to it at all, None for all of them.

    On a device the host waits to know them: only where that spares products of some size.
    """
    if not R.is_cpu and R.numel() * D**2 < _WORTH_A_WAIT:
        return [None] * len(R)
    belongs = R > _NEGLIGIBLE * R.max()
    if R.is_cpu:
        return (rows.nonzero()[:, 0] for rows in belongs)
    return belongs.nonzero()[:, 1].split(belongs.sum(1).tolist())


# ----------------------------------------------------------------------------------------------- incomplete rows
def observed_precisions(params, patterns):
    """Inverses of the observed blocks of each covariance, zero elsewhere, and half the log-determinants of the blocks.

    With m the 0/1 vector of a pattern, m Sigma m + (I - m) has the block Sigma_oo, the identity elsewhere, and nothing
    in between: one batched Cholesky does for all patterns. Shapes (K, n_patterns, D, D) and (K, n_patterns).
    """
    m = patterns.to(params.mu.dtype)
    both = m[:, :, None] * m[:, None, :]
    block = params.sigma[:, None] * both + torch.diag_embed(1 - m)
    L = cholesky(block)
    J = torch.cholesky_inverse(L) * both
    return J, L.diagonal(dim1=2, dim2=3).log().sum(2)


def _incomplete_log_joint(batch, params):
    J, half_log_det = observed_precisions(params, batch.patterns)
    x = (batch.X - params.mu[:, None]) * batch.observed  # (K, n, D)
    y = (J[:, batch.pattern] @ x[..., None])[..., 0]  # Sigma_oo^-1 (x_o - mu_o), zero where missing
    n_observed = batch.observed.sum(1)
    constant = params.pi.log()[:, None] - half_log_det[:, batch.pattern] - 0.5 * _LOG_2PI * n_observed
    return constant - 0.5 * (x * y).sum(2), (y, J)


def _incomplete_sums(batch, R, bound, params, work):
    """Sums with E[x | x_o] = mu + Sigma y in place of x, plus the covariance of what is missing."""
    y, J = work
    x = y @ params.sigma
    by_pattern = R.new_zeros(R.shape[0], len(batch.patterns)).index_add_(1, batch.pattern, R)
    explained = (by_pattern[:, :, None, None] * J).sum(1)
    N = R.sum(1)
    rest = N[:, None, None] * params.sigma - params.sigma @ explained @ params.sigma
    S = (R[:, None] @ x)[:, 0]
    SS = (x * R[..., None]).mT @ x + rest
    return Stats(bound, N, S, SS, R.new_zeros(0))
