"""Factor analysis: correlations of many columns explained by a few factors."""

from numbers import Integral, Real

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from skvae._compat import Interval, StrOptions, warn
from skvae._tensors import Noise
from skvae.estimators._checks import column_names, draw_seed
from skvae.estimators.checkpoints.checkpoint import CHECKPOINT
from skvae.estimators.decomposition._linear_gaussian import (
    Imputation,
    InformationCriteria,
    LinearGaussian,
    ascend,
    known,
    mean_bound,
    model_of,
    record,
)
from skvae.estimators.decomposition._training_data import FLOAT
from skvae.models.decomposition import factor_analysis as fa
from skvae.models.decomposition import goodness_of_fit
from skvae.models.decomposition.covariance_em import explain_all
from skvae.models.decomposition.rotation import OBLIQUE, ORTHOGONAL, rotate
from skvae.tables.columns import listed

_HEYWOOD = 2 * fa.UNIQUENESS_FLOOR  # share of its column's variance below which a noise variance is at its floor


class FactorAnalysisEM(InformationCriteria, Imputation, LinearGaussian):
    """Explain the correlations of many columns by a few factors, fitted by expectation maximisation.

        z ~ N(0, I),   x | z ~ N(mu + W z, Psi),   Psi diagonal;   so   x ~ N(mu, W W' + Psi)

    A drop-in for :class:`sklearn.decomposition.FactorAnalysis` with at least its likelihood. It also takes missing
    cells, sample weights and covariance matrices, learns in parts, rotates obliquely, tests its fit, and runs on a GPU.
    Rows are read once: EM runs on their covariance, with expanded parameters and extrapolation, in milliseconds.
    Read more in the :doc:`user guide </user_guide/factor_analysis>`.

    Parameters
    ----------
    n_components : int or None, default=None
        Number K of factors; 0 fits independent Gaussians. None: as many as columns.
    tol : float, default=1e-2
        Stop when an EM step raises the log-likelihood of all rows by less, in nats.
    copy : bool, default=True
        Accepted for scikit-learn's sake; X is never overwritten.
    max_iter : int, default=1000
        EM steps.
    noise_variance_init : array-like of shape (n_features,) or None, default=None
        Initial noise variances, positive. None: half of each column's variance.
    svd_method : {"lapack", "randomized"}, default="randomized"
        Accepted for scikit-learn's sake; EM needs no SVD.
    iterated_power : int, default=3
        Accepted for scikit-learn's sake.
    rotation : {"varimax", "quartimax", "equamax", "promax", "oblimin"} or None, default=None
        Rotation to simple structure, after the fit: orthogonal, or (the last two) oblique, with correlated factors.
        Likelihood and covariance stay as they are. None: along the principal axes of Psi^-1/2 W.
    random_state : int, RandomState instance or None, default=0
        Seed of the initial loadings. None draws a fresh seed from the system, without touching NumPy's global
        generator.
    score_method : {"regression", "bartlett"}, default="regression"
        How `transform` scores rows: by the mean of p(z | x), which is shrunk towards 0, or by weighted least squares,
        which is unbiased given z.
    normalize : bool, default=True
        Whether the rotation gives all columns the same weight, whatever their communality (Kaiser's normalisation). So
        do R's `factanal`, SPSS and SAS. False gives the loadings of scikit-learn, whose `FactorAnalysis` does not
        normalise. X itself is never normalised.
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
        Loadings, transposed: covariances of columns and factors, or if these are oblique, regression weights. The sign
        of each factor makes its largest loading positive, before any rotation.
    noise_variance_ : ndarray of shape (n_features,)
        Variance of each column that the factors do not explain. Never below a millionth of the column's variance.
    mean_ : ndarray of shape (n_features,)
        Means; where cells are missing, of maximum likelihood too.
    communalities_ : ndarray of shape (n_features,)
        Share of each column's variance under the model that the factors explain.
    factor_correlation_ : ndarray of shape (n_components, n_components)
        Phi; the identity unless the rotation is oblique. The covariance of x is
        ``components_.T @ Phi @ components_ + Psi``.
    rotation_matrix_ : ndarray of shape (n_components, n_components)
        The matrix by which scores of the unrotated factors are multiplied.
    loglike_ : list of float
        Log-likelihood of all rows after each EM step, nats. The last is that of the fitted model.
    lower_bounds_ : ndarray of shape (n_iter,)
        The same per sample.
    n_iter_ : int
        EM steps done; 1 where as many factors as columns explain all covariance, which needs no ascent.
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
    sklearn.decomposition.FactorAnalysis : The class this one replaces.
    ProbabilisticPCA : The same with one noise variance for all columns.

    Notes
    -----
    Cells that are NaN are integrated out exactly, in fitting and in every method: the likelihood is that of the
    observed cells, which is right where cells are missing at random (Little and Rubin 2002).

    A noise variance that falls to its floor (a Heywood case) gives a warning. The likelihood then has no maximum at
    positive noise variances, as happens with too many factors, too few rows, or columns that repeat each other.

    References
    ----------
    Rubin and Thayer, *EM algorithms for ML factor analysis*, Psychometrika 47, 1982.

    Liu, Rubin and Wu, *Parameter expansion to accelerate EM: the PX-EM algorithm*, Biometrika 85, 1998.

    Varadhan and Roland, *Simple and globally convergent methods for accelerating the convergence of any EM algorithm*,
    Scandinavian Journal of Statistics 35, 2008.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import FactorAnalysisEM
    >>> X = load_iris().data
    >>> X[3, 2] = float("nan")
    >>> model = FactorAnalysisEM(n_components=1).fit(X)
    >>> model.transform(X).shape
    (150, 1)
    >>> model.communalities_.round(1)
    array([0.8, 0.2, 1. , 0.9])
    """

    _parameter_constraints = {
        "n_components": [Interval(Integral, 0, None, closed="left"), None],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "copy": ["boolean"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "noise_variance_init": ["array-like", None],
        "svd_method": [StrOptions({"randomized", "lapack"})],
        "iterated_power": [Interval(Integral, 0, None, closed="left")],
        "rotation": [StrOptions({*ORTHOGONAL, *OBLIQUE}), None],
        "random_state": ["random_state"],
        "score_method": [StrOptions({"regression", "bartlett"})],
        "normalize": ["boolean"],
        "device": [str],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "data_parallel": ["boolean"],
        "verbose": ["verbose"],
        "checkpoint": CHECKPOINT,
    }

    def __init__(
        self,
        n_components=None,
        *,
        tol=1e-2,
        copy=True,
        max_iter=1000,
        noise_variance_init=None,
        svd_method="randomized",
        iterated_power=3,
        rotation=None,
        random_state=0,
        score_method="regression",
        normalize=True,
        device="auto",
        batch_size="auto",
        data_parallel=False,
        verbose=0,
        checkpoint=None,
    ):
        self.n_components = n_components
        self.tol = tol
        self.copy = copy
        self.max_iter = max_iter
        self.noise_variance_init = noise_variance_init
        self.svd_method = svd_method
        self.iterated_power = iterated_power
        self.rotation = rotation
        self.random_state = random_state
        self.score_method = score_method
        self.normalize = normalize
        self.device = device
        self.batch_size = batch_size
        self.data_parallel = data_parallel
        self.verbose = verbose
        self.checkpoint = checkpoint

    # ------------------------------------------------------------------------------------------------------- fitting
    _lowers_n_components = True  # as scikit-learn's class does

    def _n_components(self, n_features, n_rows):
        return n_features if self.n_components is None else min(int(self.n_components), n_features)

    def _fitted_attributes(self, data, watch, continuation):
        model = model_of(data, self._n_components(len(data.origin), data.n_rows), names=column_names(self))

        def attributes(params):
            return self._attributes(params, data)

        psi = self._given_noise(len(data.origin))
        everything = data.statistics is not None and model.n_components == len(data.origin)
        found = explain_all(data.statistics["S"], psi) if everything else None
        if found is not None:
            mu = torch.zeros(len(data.origin), dtype=FLOAT, device=data.device)
            params = fa.Params(mu, *(torch.from_numpy(array).to(data.device) for array in found))
            fit = known(params, mean_bound(model, data, params), watch, attributes)
        else:
            fit = ascend(self, model, data, self._init_params(model, data, psi, continuation), watch, attributes)
        found = attributes(fit.params)
        self._warn_of_heywood(found["noise_variance_"], data)
        return {**found, **record(fit, data)}

    def _given_noise(self, n_features):
        """`noise_variance_init` as a float64 ndarray, or None."""
        if self.noise_variance_init is None:
            return None
        psi = np.array(self.noise_variance_init, dtype=np.float64)
        if psi.shape != (n_features,) or not (psi > 0).all() or not np.isfinite(psi).all():
            raise ValueError(
                f"noise_variance_init must hold {n_features} positive numbers, one for each column of X, but it is "
                f"{self.noise_variance_init!r}."
            )
        return psi

    def _init_params(self, model, data, psi, continuation):
        """Fitted loadings and noise if the fit goes on and asks for as many factors, else random loadings."""
        mu = torch.zeros(len(data.origin), dtype=FLOAT, device=data.device)
        if continuation.continues and len(self.components_) == model.n_components:
            W, psi = (torch.tensor(a, dtype=FLOAT, device=data.device) for a in (self._loadings(), self._noise()))
            return fa.Params(mu, W, psi)
        psi = None if psi is None else torch.tensor(psi).to(data.device)
        return model.init(mu, Noise(draw_seed(self.random_state)), psi)

    def _attributes(self, params, data):
        mu, W, psi = (tensor.cpu().numpy() for tensor in params)
        W = fa.along_principal_axes(W, psi)
        variance = (W**2).sum(axis=1)
        turned, phi, L = np.eye(W.shape[1]), np.eye(W.shape[1]), W
        if self.rotation is not None:
            L, turned, phi = rotate(W, self.rotation, normalize=self.normalize)
        found = {
            "components_": np.ascontiguousarray(L.T),
            "noise_variance_": psi,
            "mean_": mu + data.origin,
            "communalities_": variance / (variance + psi),
            "factor_correlation_": phi,
            "rotation_matrix_": turned,
        }
        return {name: value.astype(data.dtype) for name, value in found.items()}

    def _warn_of_heywood(self, noise, data):
        low = np.flatnonzero((noise <= _HEYWOOD * data.variance) & (data.variance > 0))
        if len(low):
            K, columns = self._n_components(len(noise), data.n_rows), listed(low, column_names(self))
            warn(
                f"{type(self).__name__} found no noise in column(s) {columns} (a Heywood case: its variance is at the "
                f"floor, {fa.UNIQUENESS_FLOOR:g} of the column's); use fewer than {K} factors, more rows, or drop "
                "columns that repeat others.",
                ConvergenceWarning,
            )

    # ---------------------------------------------------------------------------------------------------- prediction
    def chi_square(self):
        """Test whether the factors explain the correlations of the fitted rows, by the likelihood ratio.

        Returns
        -------
        test : ChiSquare
            The statistic, with Bartlett's correction (n - 1 - (2 D + 5) / 6 - 2 K / 3) in place of n; its degrees of
            freedom ((D - K)^2 - D - K) / 2; and the p-value, NaN where they are not positive.

        Raises
        ------
        ValueError
            If the model was fitted with missing cells or fewer rows than columns, or the covariance of the rows is
            singular, as with constant columns.

        References
        ----------
        Bartlett, *Tests of significance in factor analysis*, British Journal of Psychology 3, 1950. Lawley and Maxwell,
        *Factor Analysis as a Statistical Method*, 1971.
        """
        check_is_fitted(self)
        if self._sufficient_statistics is None:
            raise ValueError(
                "chi_square needs the covariance of the fitted rows, which is unknown where cells are missing or there "
                "are fewer rows than columns."
            )
        n, S = self._sufficient_statistics["n"], self._sufficient_statistics["S"]
        if goodness_of_fit.is_singular(S):
            raise ValueError(
                "chi_square: the covariance of the fitted rows is singular; drop constant columns and those that "
                "others add up to, or fit to more distinct rows than columns."
            )
        return goodness_of_fit.chi_square(S, n, self._loadings(), self._noise())

    def _pattern(self):
        return self.components_.T

    def _loadings(self):
        return self.components_.T.astype(np.float64) @ self._from_uncorrelated()

    def _scores(self, X):
        Z = self._by_row(X, fa.bartlett if self.score_method == "bartlett" else fa.posterior_mean)
        return (Z @ self._from_uncorrelated().T).astype(Z.dtype, copy=False)

    def _from_uncorrelated(self):
        """C with C C' = Phi: the rotated factors are C z."""
        return np.linalg.cholesky(self.factor_correlation_.astype(np.float64))
