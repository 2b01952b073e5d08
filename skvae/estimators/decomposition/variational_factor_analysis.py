"""Factor analysis whose number of factors follows from the rows."""

import numpy as np
import torch

from skvae.estimators._checks import column_names
from skvae.estimators.decomposition._linear_gaussian import LinearGaussian, ascend, climb, record, refuse_underflow
from skvae.estimators.decomposition.factor_analysis import FactorAnalysisEM
from skvae.models.decomposition import factor_analysis as fa
from skvae.models.decomposition.variational_factor_analysis import VariationalFactorAnalysis as Model


class VariationalFactorAnalysis(LinearGaussian):
    """Factor analysis that finds its number of factors, by a prior on the loadings and variational inference.

        z ~ N(0, I),   x | z ~ N(mu + W z, Psi),   w_dk ~ N(0, psi_d / alpha_k),   alpha_k and psi_d with vague priors

    Each factor k has a precision alpha_k of its own (automatic relevance determination). Of a factor that the rows do
    not support alpha_k grows, its loadings shrink to 0, and it is left out. So one fit takes the place of a search over
    `n_components`. Posteriors of loadings and noise are found by coordinate ascent of the evidence lower bound, on the
    covariance of the rows. Read more in the :doc:`user guide </user_guide/factor_analysis>`.

    Parameters
    ----------
    n_components : int or None, default=None
        Number of factors at most. None: one less than columns, or two less than rows.
    tol : float, default=1e-2
        Stop when a step raises the bound of all rows by less, in nats.
    max_iter : int, default=1000
        Steps of coordinate ascent.
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
    n_components_ : int
        Number of factors that are kept.
    components_ : ndarray of shape (n_factors, n_features)
        Posterior means of their loadings, transposed, the factor with the most signal first. The sign of each factor
        makes its largest loading positive.
    relevance_ : ndarray of shape (n_factors,)
        Mean over the columns of a factor's squared loadings, in units of the noise variance.
    noise_variance_ : ndarray of shape (n_features,)
        Variance of each column that the factors do not explain: the posterior mean, with what the uncertainty of the
        loadings adds.
    mean_ : ndarray of shape (n_features,)
        Means of the columns.
    lower_bounds_ : ndarray of shape (n_iter,)
        Evidence lower bound per row after each step of the last ascent, that of the factors which are kept, nats. The
        divergence of loadings and noise from their priors is taken off, so that it compares models without held-out
        rows.
    n_iter_ : int
        Steps of that ascent.
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
    FactorAnalysisEM : Factor analysis by maximum likelihood, with missing cells, rotations and tests of fit.

    Notes
    -----
    `score_samples` and all other methods read the Gaussian that has the mean and the covariance of a new row under the
    posterior. The bound does not depend on the units of the columns, but for the change of density.

    No cell may be missing: the posterior of the loadings would no longer be one matrix for all columns.

    References
    ----------
    Bishop, *Variational principal components*, ICANN 1999.

    Ghahramani and Beal, *Variational inference for Bayesian mixtures of factor analysers*, NeurIPS 12, 2000.

    Luttinen and Ilin, *Transformations in variational Bayesian factor analysis to speed up learning*, Neurocomputing
    73, 2010.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VariationalFactorAnalysis
    >>> X = load_wine().data
    >>> model = VariationalFactorAnalysis().fit(X)
    >>> model.n_components_
    4
    >>> model.transform(X).shape
    (178, 4)
    """

    _parameter_constraints = {
        name: FactorAnalysisEM._parameter_constraints[name]
        for name in (
            "n_components",
            "tol",
            "max_iter",
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
        device="auto",
        batch_size="auto",
        data_parallel=False,
        verbose=0,
        checkpoint=None,
    ):
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.device = device
        self.batch_size = batch_size
        self.data_parallel = data_parallel
        self.verbose = verbose
        self.checkpoint = checkpoint

    # ------------------------------------------------------------------------------------------------------- fitting
    _takes_gaps = False
    _evidence_is_known = False

    def _n_components(self, n_features, n_rows):
        most = max(0, min(n_features - 1, int(n_rows) - 2))
        return most if self.n_components is None else int(self.n_components)

    def _fitted_attributes(self, data, watch, continuation):
        if not data.complete:
            raise ValueError(
                f"{type(self).__name__} needs complete rows, but X contains NaN; fill them by the `impute` of "
                "FactorAnalysisEM, or leave these rows out."
            )
        if data.n < 2:  # below, the posterior of the noise variances has no mean
            raise ValueError(
                f"{type(self).__name__} needs rows whose weights sum to 2 or more, but sample_weight sums to "
                f"{float(data.n):.3g}: a weight says how often a row counts. Scale the weights, or give more rows."
            )
        K = self._n_components(len(data.origin), data.n_rows) if (data.variance > 0).any() else 0
        model = Model(K, torch.as_tensor(data.variance, device=data.device))
        refuse_underflow(model.floor.cpu().numpy(), data, column_names(self), data.dtype)
        axes, values = self._principal_axes(data, K)
        init_params = model.init(axes, values, data.n)

        def attributes(params):
            return self._attributes(model, params, data)

        fit = self._without_weak_factors(model, data, ascend(self, model, data, init_params, watch, attributes))
        found = record(fit, data)
        del found["loglike_"]  # the bound is none: it counts the parameters too
        return {**attributes(fit.params), **found}

    def _without_weak_factors(self, model, data, fit):
        """Leave out factors, the weakest first, as long as the bound of what is left rises."""
        while len(fit.params.alpha):
            _, _, signal, kept = model.point(fit.params)
            order = signal.argsort(descending=True)
            n_left = min(int(kept.sum()), len(order) - 1)
            smaller = climb(self, model, data, model.only(fit.params, order[:n_left]))
            if smaller.lower_bounds[-1] <= fit.lower_bounds[-1]:
                break
            fit = smaller
        return fit

    def _principal_axes(self, data, n_components):
        """Leading axes of the correlations, as columns, and the variances along them."""
        scale = torch.as_tensor(np.sqrt(np.where(data.variance > 0, data.variance, 1.0)), device=data.device)
        if data.statistics is not None:
            S = torch.as_tensor(data.statistics["S"], device=data.device)
            values, axes = torch.linalg.eigh(S / scale / scale[:, None])
            return axes.flip(1)[:, :n_components], values.flip(0)[:n_components]
        rows = torch.cat([batch.X * (batch.w / data.n).sqrt()[:, None] for batch in data.batches]) / scale
        missing = max(0, n_components - len(rows))
        _, values, axes = torch.linalg.svd(torch.cat([rows, rows.new_zeros(missing, len(scale))]), full_matrices=False)
        return axes.T[:, :n_components], values[:n_components].square()

    def _attributes(self, model, params, data):
        M, noise, signal, kept = (tensor.cpu().numpy() for tensor in model.point(params))
        order = np.argsort(-signal, kind="stable")[: np.count_nonzero(kept)]
        found = {
            "components_": np.ascontiguousarray(fa.upright(M[:, order]).T),
            "relevance_": signal[order],
            "noise_variance_": noise,
            "mean_": data.origin,
        }
        return {name: value.astype(data.dtype) for name, value in found.items()} | {"n_components_": len(order)}

    # ---------------------------------------------------------------------------------------------------- prediction
    def _loadings(self):
        return self.components_.T.astype(np.float64)
