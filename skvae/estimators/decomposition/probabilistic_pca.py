"""Probabilistic PCA: principal components as a model of the data."""

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from skvae._compat import warn
from skvae._tensors import Noise
from skvae.estimators._checks import column_names, draw_seed
from skvae.estimators.decomposition._linear_gaussian import (
    Imputation,
    InformationCriteria,
    LinearGaussian,
    ascend,
    known,
    model_of,
    record,
    refuse_underflow,
)
from skvae.estimators.decomposition._training_data import FLOAT
from skvae.estimators.decomposition.factor_analysis import FactorAnalysisEM
from skvae.models.decomposition import factor_analysis as fa
from skvae.models.decomposition import ppca


class ProbabilisticPCA(InformationCriteria, Imputation, LinearGaussian):
    """Principal components as a model of the data: factor analysis with one noise variance for all columns.

        z ~ N(0, I),   x | z ~ N(mu + W z, sigma^2 I);   so   x ~ N(mu, W W' + sigma^2 I)

    Without missing cells the maximum of the likelihood is known in closed form: W spans the first principal axes, as in
    :class:`sklearn.decomposition.PCA`, and sigma^2 is the mean of the variances left out. With them, it is found by
    expectation maximisation. Read more in the :doc:`user guide </user_guide/factor_analysis>`.

    Parameters
    ----------
    n_components : int or None, default=None
        Number K of components; 0 fits one variance. None: one less than columns, or two less than rows.
    tol : float, default=1e-2
        Stop EM when a step raises the log-likelihood of all rows by less, in nats.
    max_iter : int, default=1000
        EM steps.
    random_state : int, RandomState instance or None, default=0
        Seed of EM's initial loadings. None draws a fresh seed from the system, without touching NumPy's
        global generator.
    device : str, default="auto"
        Where to compute: "auto" (a CUDA GPU if there is one, else the CPU), "cpu", "cuda", "cuda:1", ...
    batch_size : int or "auto", default="auto"
        Rows handled at once; the result does not depend on it. "auto": as suits the caches.
    data_parallel : bool, default=False
        Whether the processes of `torch.distributed` share the fit, each with rows of its own. See
        :doc:`/scaling`.
    verbose : int, default=0
        1 prints about ten lines a fit, 2 a line every iteration. For a bar: `set_callbacks(ProgressBar())`.
    checkpoint : str, path-like, Checkpoint or None, default=None
        File from which an interrupted fit goes on: see :class:`~skvae.Checkpoint`.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Principal axes, orthonormal, the longest first; the largest entry of each is positive.
    explained_variance_ : ndarray of shape (n_components,)
        Variance along each axis under the model, noise included, with divisor n - 1 as PCA has it.
    explained_variance_ratio_ : ndarray of shape (n_components,)
        Share of the total variance.
    noise_variance_ : float
        sigma^2 of maximum likelihood, with divisor n. Never below 1e-12 of the mean variance; there a fit warns.
    mean_ : ndarray of shape (n_features,)
        Means; where cells are missing, of maximum likelihood too.
    loglike_ : list of float
        Log-likelihood of all rows after each EM step, nats; the maximum alone where it is known in closed form. The
        last is that of the fitted model.
    lower_bounds_ : ndarray of shape (n_iter,)
        The same per sample.
    n_iter_ : int
        EM steps done; 1 for the closed form.
    converged_ : bool
        Whether `tol` was met.
    n_samples_seen_ : float
        Weight of the rows that `fit`, or all calls of `partial_fit`, learnt from.
    device_ : str
        Where the fit ran.
    n_features_in_ : int
        Number of columns.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns, where `fit` was given a DataFrame.

    See Also
    --------
    sklearn.decomposition.PCA : The same axes, without missing cells or sample weights.
    FactorAnalysisEM : The same with a noise variance for each column.

    Notes
    -----
    `transform` gives the mean of p(z | x), which is not the projection of PCA: each coordinate is divided by its
    standard deviation, since z has unit variance, and shrunk towards 0 by what may be noise,
    z_k = sqrt(lambda_k - sigma^2) / lambda_k * (x - mu)' u_k.

    References
    ----------
    Tipping and Bishop, *Probabilistic principal component analysis*, JRSS B 61, 1999.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import ProbabilisticPCA
    >>> X = load_iris().data
    >>> X[3, 2] = float("nan")
    >>> model = ProbabilisticPCA(n_components=2).fit(X)
    >>> model.impute(X)[3, 2].round(1)
    np.float64(1.4)
    """

    _parameter_constraints = {
        name: FactorAnalysisEM._parameter_constraints[name]
        for name in (
            "n_components",
            "tol",
            "max_iter",
            "random_state",
            "device",
            "batch_size",
            "data_parallel",
            "verbose",
            "checkpoint",
        )
    }

    def __init__(
        self,
        n_components=None,
        *,
        tol=1e-2,
        max_iter=1000,
        random_state=0,
        device="auto",
        batch_size="auto",
        data_parallel=False,
        verbose=0,
        checkpoint=None,
    ):
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.device = device
        self.batch_size = batch_size
        self.data_parallel = data_parallel
        self.verbose = verbose
        self.checkpoint = checkpoint

    # ------------------------------------------------------------------------------------------------------- fitting
    def _n_components(self, n_features, n_rows):
        if self.n_components is not None:
            return int(self.n_components)
        return max(0, min(n_features - 1, int(n_rows) - 2))

    def _fitted_attributes(self, data, watch, continuation):
        K = self._n_components(len(data.origin), data.n_rows)
        if data.complete:
            D = len(data.origin)
            refuse_underflow(np.full(D, ppca.noise_floor(data.variance.sum(), D)), data, column_names(self), np.float64)
            axes, bound = self._closed_form(data, K)
            found = self._attributes(axes, None, data)
            fit = known(axes, bound, watch, lambda axes: found)
        else:
            model = model_of(data, K, tied=True, names=column_names(self))
            mu = torch.zeros(len(data.origin), dtype=FLOAT, device=data.device)

            def attributes(params):
                return self._attributes(ppca.axes_of(params), params.mu, data)

            init_params = model.init(mu, Noise(draw_seed(self.random_state)))
            fit = ascend(self, model, data, init_params, watch, attributes)
            found = attributes(fit.params)
        self._warn_of_no_noise(found["noise_variance_"], data, K)
        return {**found, **record(fit, data)}

    def _closed_form(self, data, n_components):
        """Axes of highest likelihood, and the mean log-likelihood of a row."""
        if data.statistics is not None:
            S = data.statistics["S"]
            S = S if data.device.type == "cpu" else torch.as_tensor(S, device=data.device)
            axes = ppca.closed_form(S, n_components)
            return axes, float(ppca.mean_log_evidence(axes, S.diagonal().sum()))
        if data.n_rows < n_components:
            raise ValueError(
                f"n_components={n_components} asks for more axes than X has rows, n_samples={data.n_rows:g}; lower it."
            )
        rows = torch.cat([batch.X * (batch.w / data.n).sqrt()[:, None] for batch in data.batches])
        axes = ppca.closed_form_of_rows(rows, n_components)
        return axes, float(ppca.mean_log_evidence(axes, rows.square().sum()))

    def _attributes(self, axes, mu, data):
        U, values, noise = (part.cpu().numpy() if isinstance(part, torch.Tensor) else part for part in axes)
        total = values.sum() + noise * (len(U) - len(values))
        n = data.n
        found = {
            "components_": np.ascontiguousarray(U.T),
            "explained_variance_": values * _unbiased(n),
            "explained_variance_ratio_": values / total,
            "mean_": data.origin if mu is None else mu.cpu().numpy() + data.origin,
        }
        numbers = {"noise_variance_": float(noise), "n_samples_seen_": n}
        return {name: value.astype(data.dtype) for name, value in found.items()} | numbers

    def _warn_of_no_noise(self, noise, data, n_components):
        if 0 < noise <= 2 * fa.TIED_NOISE_FLOOR * data.variance.mean():
            warn(
                f"{type(self).__name__} found no noise: {n_components} components explain all variance of the rows; "
                f"the noise variance is at its floor, {fa.TIED_NOISE_FLOOR:g} of the mean variance. The likelihood of "
                f"other rows then means nothing; use fewer than {n_components} components, or more rows.",
                ConvergenceWarning,
            )

    # ---------------------------------------------------------------------------------------------------- prediction
    def _loadings(self):
        values = self.explained_variance_.astype(np.float64) / _unbiased(self.n_samples_seen_)
        return self.components_.T.astype(np.float64) * np.sqrt(np.maximum(values - self.noise_variance_, 0))


def _unbiased(n):
    """Factor that turns a variance with divisor n into one with divisor n - 1."""
    return n / (n - 1) if n > 1 else 1.0
