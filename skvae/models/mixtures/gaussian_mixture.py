"""Mixture of Gaussians:  z ~ Cat(pi),  x | z = k ~ N(mu_k, Sigma_k).

Steps of Dempster, Laird and Rubin (1977); Bishop, *Pattern Recognition and Machine Learning* (2006), section 9.2. Cells
that are missing are integrated out: log p(x_o) of the observed ones is exact, and the M-step gets the conditional
means and covariances of the others (Ghahramani and Jordan 1994; Little and Rubin 2002, section 11.3).

Where rows are complete, log p(x | z = k) is one matrix product with features of the rows, and so are the statistics:
with [x_i x_j (i <= j), x, 1] where columns are few, with [x**2, x, 1] where covariances are diagonal, and with [x, 1]
where components share one covariance, since x' P x is then the same for all of them. That form squares the distance of
a component from the origin; where it would cost digits, the distances are computed from the means instead.
"""

import abc
import math
import sys
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skvae._tensors import Workspace, as_tensors, at_least, concatenated, library, on_host
from skvae.models.mixtures.distances import NEGLIGIBLE, centred_sums, roots_of_precisions, triangular_log_joint
from skvae.models.mixtures.features import itself, pairs_of, pairs_on, places_of, products, squares
from skvae.models.mixtures.incomplete_rows import incomplete_log_joint, incomplete_sums, observed_precisions
from skvae.models.mixtures.posterior import log_ratios, mixing_proportions, posterior

_LOG_2PI = math.log(2 * math.pi)
_FEW_COLUMNS = 24  # up to here d (d + 1) / 2 products a row cost less than K triangular products
_FAR = 1e4  # mu' P mu from which the quadratic features lose more than 1e-12 of a log-density
_INCOMPLETE_CELLS = 2**20  # K x rows x D x D held at once where cells are missing


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
        log pi_k + log |U_k| - D / 2 log 2 pi.
    theta : Tensor of shape (K, n_features) or None
        Coefficients of the features; None where they would cost digits, or too much time.
    log_pi : Tensor of shape (K,)
        What stands for log pi_k in the E-step: of `reweighted` parameters any numbers.
    """

    pi: Tensor
    mu: Tensor
    sigma: Tensor
    root: Tensor
    log_norm: Tensor
    theta: Tensor | None
    log_pi: Tensor

    @property
    def origin(self):
        """The points (K, D) from which the statistics measure: 0 with features, else the means."""
        return torch.zeros_like(self.mu) if self.theta is not None else self.mu

    def reweighted(self, log_weight):
        """The same densities times exp(log_weight), a Tensor (K,), in place of pi: as far below 0 as they may be."""
        change, theta = log_weight - self.log_pi, self.theta
        if theta is not None:
            theta = torch.cat([theta[:, :-1], theta[:, -1:] + change[:, None]], 1)
        return self._replace(log_pi=log_weight, log_norm=self.log_norm + change, theta=theta)


class Stats(NamedTuple):
    """Sums over rows, by weight and responsibility; x is measured from `Params.origin`.

    `e_step` returns arrays of NumPy on the CPU.

    Attributes
    ----------
    bound : Tensor ()
    N : Tensor of shape (K,)
    S : Tensor of shape (K, D)
        Of x.
    SS : Tensor of shape (K, D, D), (1, D, D) or (K, D)
        Of x x', where tied over all components; or of x**2 where diagonal.
    M : Tensor of shape (K, D) or (K, 1), or of no elements
        Weight of the observed cells, (K, 1) where none is missing; only where covariances are diagonal: missing cells
        then leave the sums.
    """

    bound: Tensor
    N: Tensor
    S: Tensor
    SS: Tensor
    M: Tensor


class GaussianMixture(abc.ABC):
    """Base class of both kinds of covariance. `floor` is added to the diagonals, in units of x squared.

    `e_step`, which runs once a batch and iteration, works in memory that is kept from call to call. Nothing that is
    returned lies in it. On the CPU NumPy does what is not special to far or incomplete rows, in half of torch's time.
    """

    def __init__(self, n_components, *, pooled=False, floor=0.0):
        self.n_components, self.pooled, self.floor = n_components, pooled, floor
        self._space = Workspace()
        self._features = None, None  # the batch that came last, and its features: a small table is one batch, kept

    def e_step(self, batch, params, memory=None):
        """Posterior of each row and the sums it weights (Bishop 2006, eq. 9.13, 9.24, 9.26)."""
        log_joint, work = self._log_joint(batch, params, self._space)
        w = on_host(batch.w)[0] if isinstance(log_joint, np.ndarray) else batch.w
        log_px, R = posterior(log_joint, w)
        stats, memory = self._sums(batch, R, w @ log_px, params, work, self._space, memory)
        return Stats(*on_host(*stats)), memory

    def features(self, batch, space):
        """Features of a batch; those of the last batch of `e_step` stay."""
        if space is not self._space:
            return self._make_features(batch, space)
        if self._features[0] is not batch:
            self._features = None, None
            self._features = batch, self._make_features(batch, space)
        return self._features[1]

    def bound(self, stats, params):
        """Weighted sum of log p(x) over all rows."""
        return stats.bound

    def log_joint(self, batch, params):
        """log p(x_n, z_n = k) of the observed cells, of shape (K, n_rows)."""
        log_joint, _ = self._log_joint(batch, params, Workspace())
        return as_tensors(log_joint)[0]

    def fill(self, batch, params):
        """E[x | x_o] of each row, of shape (n_rows, D): x itself where it was observed."""
        log_joint, work = self._log_joint(batch, params, Workspace())
        _, R = posterior(as_tensors(log_joint)[0])
        expected = self._expected(batch, R, params, work)
        return batch.X if batch.observed is None else torch.where(batch.observed > 0, batch.X, expected)

    def stats_from_params(self, params, weight):
        """Statistics of rows of this total weight from which the M-step finds these parameters."""
        unit = self.moved(self._unit_stats(params), params.mu - params.origin)
        return Stats(*on_host(*(weight * field for field in unit)))

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
    def half_log_det(self, batch, params):
        """Half the log-determinants of the covariances of the observed cells, of shape (K, n_rows) or (K, 1)."""

    @abc.abstractmethod
    def row_width(self, n_columns):
        """How many numbers the E-step computes of a complete row."""

    @abc.abstractmethod
    def incomplete_rows(self, n_columns):
        """How many rows with missing cells to put into one batch at most."""

    @abc.abstractmethod
    def _make_features(self, batch, space):
        """Features of a batch, as the functions of `features` return them."""

    @abc.abstractmethod
    def _log_joint(self, batch, params, space):
        """log p(x, z = k), of shape (K, n_rows), and intermediate results that `_sums` and `_expected` read.

        Terms that are equal for all components may be left out: `_sums` adds them to the bound, `log_joint` to each
        row. An array of NumPy where features are used on the CPU.
        """

    @abc.abstractmethod
    def _sums(self, batch, R, bound, params, work, space, memory):
        """Statistics of a batch, measured from `params.origin`, given R and the `work` of `_log_joint`.

        Returns (statistics, memory), as `e_step` does.
        """

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
        if self.pooled:
            sigma = sigma[:1]
        if mu.is_cpu and D <= _FEW_COLUMNS:
            pi, mu, sigma = on_host(pi, mu, sigma)
            root, failed = roots_of_precisions(sigma, K), np.zeros(1, bool)
        else:
            L, failed = torch.linalg.cholesky_ex(sigma)
            failed = failed.expand(K)
            eye = torch.eye(D, dtype=mu.dtype, device=mu.device).expand(sigma.shape)
            root = torch.linalg.solve_triangular(L, eye, upper=False).mT
        log = library(mu).log
        log_norm = log(pi) + log(root.diagonal(0, 1, 2)).sum(1) - 0.5 * D * _LOG_2PI
        offset = root.swapaxes(1, 2) @ mu[:, :, None]  # U' mu
        squares_ = (offset * offset).sum(1)[:, 0]
        if near is None:
            near = _checked_and_near(failed, squares_)
        else:
            log_norm = log_norm.masked_fill(failed > 0, math.nan)
        theta = None
        if near and (self.pooled or D <= _FEW_COLUMNS):
            linear = [(root @ offset)[:, :, 0], (log_norm - 0.5 * squares_)[:, None]]
            theta = concatenated(linear if self.pooled else [self._quadratic(root), *linear])
        pi, mu, sigma, root, log_norm, theta = as_tensors(pi, mu, sigma, root, log_norm, theta)
        return Params(pi, mu, sigma.expand(K, D, D), root.expand(K, D, D), log_norm, theta, pi.log())

    def _quadratic(self, root):
        """Coefficients of the products x_i x_j (i <= j), of shape (K, D (D + 1) / 2)."""
        D = root.shape[1]
        place, factor = pairs_of(D) if isinstance(root, np.ndarray) else pairs_on(D, root)
        return (root @ root.swapaxes(1, 2)).reshape(-1, D * D)[:, place] * factor

    def _pooled(self, matrices):
        """The sum (1, D, D) of the matrices of all components where they share a covariance."""
        return matrices.sum(0)[None] if self.pooled else matrices

    def m_step(self, stats, params):
        """Eq. 9.24 to 9.27 of Bishop (2006); a component that no row belongs to stays where it is.

        In the first M-step it has no such place: its variance is then the floor.
        """
        D = stats.S.shape[1]
        total, S, SS = (on_host if D <= _FEW_COLUMNS else as_tensors)(*stats[1:4])
        N = total + sys.float_info.min
        mean = S / N[:, None]
        spread = SS - self._pooled(N[:, None, None] * mean[:, :, None] * mean[:, None, :])
        sigma = spread / (total.sum() if self.pooled else N[:, None, None])
        sigma = 0.5 * (sigma + sigma.swapaxes(1, 2))
        sigma.reshape(len(sigma), -1)[:, :: D + 1] += self.floor
        dead = total <= NEGLIGIBLE * total.sum()
        knows = isinstance(dead, np.ndarray) or dead.is_cpu  # on a device, to ask would be to wait
        some_dead = bool(dead.any()) if knows else True
        pi, mu, sigma, dead = as_tensors(mixing_proportions(total), mean, sigma, dead)
        if params is not None:
            mu = mu if params.theta is not None else params.mu + mu
            if some_dead:
                mu = torch.where(dead[:, None], params.mu, mu)
                sigma = sigma if self.pooled else torch.where(dead[:, None, None], params.sigma, sigma)
        return self.params(pi, mu, sigma)

    def row_width(self, n_columns):
        if self.pooled:
            return max(4 * n_columns, self.n_components)
        features = n_columns * (n_columns + 1) // 2 if n_columns <= _FEW_COLUMNS else n_columns
        return max(features, self.n_components * n_columns // 4)

    def incomplete_rows(self, n_columns):
        """How many rows with missing cells to handle at once: each brings K matrices of its own."""
        return max(1, _INCOMPLETE_CELLS // (self.n_components * n_columns**2))

    def _make_features(self, batch, space):
        return (itself if self.pooled else products)(batch, space)

    def _log_joint(self, batch, params, space):
        if batch.observed is not None:
            return incomplete_log_joint(batch, params)
        if params.theta is None:
            return triangular_log_joint(batch.X, params, space), None
        phi = self.features(batch, space)
        return _product(params.theta, phi, space), phi

    def log_joint(self, batch, params):
        """log p(x_n, z_n = k) of the observed cells, of shape (K, n_rows)."""
        log_joint = super().log_joint(batch, params)
        if self.pooled and params.theta is not None and batch.observed is None:
            log_joint -= 0.5 * (batch.X @ params.root[0]).square().sum(1)  # x' P x
        return log_joint

    def _sums(self, batch, R, bound, params, work, space, memory=None):
        if batch.observed is not None:
            N, S, SS = incomplete_sums(batch, R, params, work)
            stats = Stats(bound, N, S, self._pooled(SS), R.new_zeros(0))
            return stats if params.theta is None else self.moved(stats, params.mu), None
        if params.theta is None:
            N, S, SS = centred_sums(batch.X, R, params.mu, space)
            return Stats(bound, N, S, self._pooled(SS), R.new_zeros(0)), None
        stats = self._sums_of_features(batch, R, bound, work, memory)
        if not self.pooled:
            return stats, None
        SS = stats.SS[0]
        U = params.root[0].numpy() if isinstance(SS, np.ndarray) else params.root[0]
        return stats._replace(bound=bound - 0.5 * ((SS @ U) * U).sum()), SS

    def _sums_of_features(self, batch, R, bound, phi, SS=None):
        """Statistics measured from 0; where tied, SS is the sum of x x' (D, D) if it is known."""
        D, T = batch.X.shape[1], R @ phi.T
        if self.pooled:
            SS = (_products(batch) if SS is None else SS)[None]  # the same in every iteration
        else:
            SS = _squares_of(T, D)
        return Stats(bound, T[:, -1], T[:, -D - 1 : -1], SS, T[:0, 0])

    def half_log_det(self, batch, params):
        if batch.observed is None:
            return -params.root.diagonal(dim1=1, dim2=2).log().sum(1)[:, None]
        return observed_precisions(params, batch.patterns)[1][:, batch.pattern]

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
        R, bound = R * batch.w, R.new_zeros(())
        if batch.observed is None and (self.pooled or batch.X.shape[1] <= _FEW_COLUMNS):
            return self._sums_of_features(batch, *on_host(R, bound), self._make_features(batch, Workspace()))
        origin = R.new_zeros(self.n_components, batch.X.shape[1])
        N, S, SS = centred_sums(batch.X, R, origin, Workspace())
        if batch.observed is not None:
            SS.diagonal(dim1=1, dim2=2).add_((R @ (1 - batch.observed)) * column_variances)
        return Stats(*on_host(bound, N, S, self._pooled(SS), R.new_zeros(0)))

    def moved(self, stats, d):
        bound, N, S, SS, M = as_tensors(*stats)
        cross = S[:, :, None] * d[:, None, :]
        SS = SS + self._pooled(cross + cross.mT + N[:, None, None] * d[:, :, None] * d[:, None, :])
        return Stats(bound, N, S + N[:, None] * d, SS, M)

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
        SS = self._pooled(pi[:, None, None] * sigma)
        return Stats(mu.new_zeros(()), pi, torch.zeros_like(mu), SS, mu.new_zeros(0))

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
        log, sqrt = library(mu).log, library(mu).sqrt
        if sigma.shape[1] != D:
            sigma = sigma + 0 * mu[:1]
        failed = (~(sigma > 0)).any(1)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            root = 1 / sqrt(sigma)
            precision = root * root
            linear = mu * precision
            squares_ = (mu * linear).sum(1)
            near = _checked_and_near(failed, squares_) if near is None else near
        log_norm = log(pi) + log(root).sum(1) - 0.5 * D * _LOG_2PI
        theta = concatenated([-0.5 * precision, linear, (log_norm - 0.5 * squares_)[:, None]]) if near else None
        pi, *others = as_tensors(pi, mu, sigma, root, log_norm, theta)
        return Params(pi, *others, pi.log())

    def m_step(self, stats, params):
        """Mean and variance of each column over its observed cells; without such cells both stay as they are."""
        N, S, SS, M = on_host(*stats[1:])
        seen = M > NEGLIGIBLE * N.sum()
        M = M + sys.float_info.min
        mean = S / M
        spread = at_least(SS - S * mean, 0.0)
        if self.pooled:
            sigma = (spread.mean(1) / M.mean(1))[:, None]
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

    def _make_features(self, batch, space):
        return squares(batch, space)

    def _log_joint(self, batch, params, space):
        """log p(x, z = k), of shape (K, n_rows), and the features it was computed from, if any."""
        if params.theta is None:
            return self._far_log_joint(batch, params), None
        phi = self.features(batch, space)
        if batch.observed is None:
            return _product(params.theta, phi, space), phi
        D = batch.X.shape[1]  # in place of the constant, one for each observed cell
        cell = params.root.log() - 0.5 * _LOG_2PI - 0.5 * params.mu * params.theta[:, D : 2 * D]
        log_joint = _product(torch.cat([params.theta[:, : 2 * D], cell], 1), phi, space)
        log_joint += on_host(params.log_pi[:, None])[0]
        return log_joint, phi

    def _sums(self, batch, R, bound, params, phi, space, memory=None):
        if phi is None:
            return self._far_sums(batch, R, bound, params), None
        D, T = batch.X.shape[1], R @ phi.T
        N, M = (T[:, -1], T[:, -1:]) if batch.observed is None else (R.sum(1), T[:, 2 * D :])
        return Stats(bound, N, T[:, D : 2 * D], T[:, :D], M), None

    def half_log_det(self, batch, params):
        log_root = params.root.log()
        return -log_root.sum(1)[:, None] if batch.observed is None else -(log_root @ batch.observed.mT)

    def _expected(self, batch, R, params, work):
        return R.mT @ params.mu

    def _far_log_joint(self, batch, params):
        rows = []
        for mu, root, log_pi in zip(params.mu, params.root, params.log_pi):
            cells = root.log() - 0.5 * _LOG_2PI - 0.5 * ((batch.X - mu) * root).square()
            cells = cells if batch.observed is None else cells * batch.observed
            rows.append(cells.sum(1) + log_pi)
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
        R, bound = on_host(R * batch.w, R.new_zeros(()))
        return self._sums(batch, R, bound, None, squares(batch, Workspace()), None)[0]

    def moved(self, stats, d):
        bound, N, S, SS, M = as_tensors(*stats)
        return Stats(bound, N, S + M * d, SS + 2 * d * S + M * d.square(), M)

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


def _product(theta, phi, space):
    """theta @ phi, in memory of a workspace; an array of the kind of phi."""
    theta = on_host(theta)[0] if isinstance(phi, np.ndarray) else theta
    out = space.empty("log_joint", (len(theta), phi.shape[1]), phi)
    return library(phi).matmul(theta, phi, out=out)


def _squares_of(T, D):
    """Sums of x x' (K, D, D) from the sums T of the products of all pairs of columns."""
    if isinstance(T, np.ndarray):
        return T.take(places_of(D), 1).reshape(-1, D, D)
    i, j = torch.triu_indices(D, D, device=T.device)
    SS = T.new_empty(len(T), D, D)
    SS[:, i, j] = SS[:, j, i] = T[:, : len(i)]
    return SS


def _products(batch):
    """The weighted sum of x x' over all rows, of shape (D, D)."""
    X, w = on_host(batch.X, batch.w)
    x = X * library(w).sqrt(w)[:, None]
    return x.T @ x
