"""Gaussian mixtures."""

import contextlib
import functools
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from skvae._compat import Interval, StrOptions
from skvae._tensors import Table
from skvae.estimators._base import Estimator
from skvae.estimators.mixtures._mixture import MixtureMixin
from skvae.estimators.mixtures._starts import checked_shape, checked_weights
from skvae.estimators.mixtures.conditional import ConditionalMixture
from skvae.models.mixtures.gaussian_mixture import DiagonalGaussianMixture, FullGaussianMixture
from skvae.tables.checks import columns_of, refuse_overflow
from skvae.tables.column_statistics import column_means_and_variances
from skvae.tables.frames import imputed

_MODELS = {
    "full": (FullGaussianMixture, False),
    "tied": (FullGaussianMixture, True),
    "diag": (DiagonalGaussianMixture, False),
    "spherical": (DiagonalGaussianMixture, True),
}


class GaussianMixtureEM(MixtureMixin, Estimator):
    """Describe a table by a mixture of Gaussians, fitted by expectation maximisation.

        z ~ Cat(pi),   x | z = k ~ N(mu_k, Sigma_k)

    A drop-in for :class:`sklearn.mixture.GaussianMixture`, to the last digits of the likelihood, that also takes sample
    weights and missing cells, imputes them, conditions some columns on others, learns in parts, and runs on a GPU. Read
    more in the :doc:`user guide </user_guide/mixtures>`.

    Parameters
    ----------
    n_components : int, default=1
        Number K of components.
    covariance_type : {"full", "tied", "diag", "spherical"}, default="full"
        A covariance matrix a component, one for all, a variance for each component and column, or for each component.
    tol : float, default=1e-3
        Stop when an iteration changes the mean log-likelihood by less, in nats a sample.
    reg_covar : float, default=1e-6
        Added to the diagonals of the covariances, in squared units of X: the floor of a component that collapses.
        Calls of `partial_fit` may change it: what was fitted then loses the old one.
    max_iter : int, default=100
        EM iterations of one start. 0 leaves the starting parameters.
    n_init : int, default=1
        Starts, of which the one with the highest likelihood is kept.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}, default="kmeans"
        How rows are first shared out: to the nearest centre of k-means, of its seeds, or of rows drawn at random, or by
        random responsibilities. K-means sees at most 20,000 rows.
    weights_init : array-like of shape (n_components,) or None, default=None
        Proportions to start from, in place of the computed ones.
    means_init : array-like of shape (n_components, n_features) or None, default=None
        Means to start from.
    precisions_init : array-like or None, default=None
        Inverse covariances to start from, of the shape that `precisions_` has for this `covariance_type`.
    random_state : int, RandomState instance or None, default=None
        Seed of the starts. None draws a fresh seed from the system, without touching NumPy's global generator.
    warm_start : bool, default=False
        Whether `fit` goes on from the last fit's parameters; `n_init` is then ignored.
    verbose : int, default=0
        1 prints a line every `verbose_interval` iterations, 2 every one.
    verbose_interval : int, default=10
        Iterations from line to line.
    acceleration : {"auto", "squarem"} or None, default="auto"
        Whether to extrapolate EM steps (Varadhan and Roland 2008), guarded so that the likelihood never falls. "auto":
        where 0 < `tol` < 1e-4. It never stops before plain EM would.
    device : str, default="auto"
        Where to compute: "auto" (a CUDA GPU if there is one, else the CPU), "cpu", "cuda", "cuda:1", ...
    batch_size : int or "auto", default="auto"
        Rows handled at once; the result does not depend on it. "auto": as suits the caches.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
        Mixing proportions.
    means_ : ndarray of shape (n_components, n_features)
        Means.
    covariances_ : ndarray
        Of shape (n_components, n_features, n_features) for "full", (n_features, n_features) for "tied",
        (n_components, n_features) for "diag", (n_components,) for "spherical".
    precisions_ : ndarray
        Their inverses, of the same shape.
    precisions_cholesky_ : ndarray
        Upper triangular U with precision U U', or square roots of the precisions; of the same shape.
    converged_ : bool
        Whether the best start met `tol`.
    n_iter_ : int
        Iterations of the best start.
    lower_bound_ : float
        The last of `lower_bounds_`.
    lower_bounds_ : list of float
        Mean log-likelihood per sample before each M-step of the best start, nats.
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
    sklearn.mixture.GaussianMixture : The class this one replaces.
    BernoulliMixtureEM : The same for binary columns.
    KMeansLite : Its limit of equal, vanishing variances.

    Notes
    -----
    Cells that are NaN are integrated out exactly, in fitting and in every method: the likelihood is that of the
    observed cells, which is right where cells are missing at random (Little and Rubin 2002).

    References
    ----------
    Dempster, Laird and Rubin, *Maximum likelihood from incomplete data via the EM algorithm*, JRSS B 39, 1977.

    Ghahramani and Jordan, *Supervised learning from incomplete data via an EM approach*, NIPS 1994.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import GaussianMixtureEM
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, np.nan], [10, 0]])
    >>> mixture = GaussianMixtureEM(2, random_state=0).fit(X)
    >>> np.sort(mixture.means_[:, 0]).round(3)
    array([ 1., 10.])
    >>> mixture.predict([[0, 0], [12, np.nan]]).tolist() == mixture.predict([[1, 2], [10, 2]]).tolist()
    True
    """

    _parameter_constraints = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions(set(_MODELS))],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions({"kmeans", "k-means++", "random", "random_from_data"})],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "acceleration": [StrOptions({"auto", "squarem"}), None],
        "device": [str],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_components=1,
        *,
        covariance_type="full",
        tol=1e-3,
        reg_covar=1e-6,
        max_iter=100,
        n_init=1,
        init_params="kmeans",
        weights_init=None,
        means_init=None,
        precisions_init=None,
        random_state=None,
        warm_start=False,
        verbose=0,
        verbose_interval=10,
        acceleration="auto",
        device="auto",
        batch_size="auto",
    ):
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.acceleration = acceleration
        self.device = device
        self.batch_size = batch_size

    # ------------------------------------------------------------------------------------------------ missing columns
    def impute(self, X):
        """Replace missing cells by their expectation given the observed ones.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing.

        Returns
        -------
        X_filled : {ndarray, DataFrame} of shape (n_samples, n_features)
            A copy with E[x | x_o] = sum_k p(k | x_o) E[x | x_o, k] in the missing cells; the others as they were.
            A pandas DataFrame keeps its dtypes: columns of integers get rounded values, categories of numbers the
            nearest. All else gives an ndarray.
        """
        checked = self._checked(X)
        return imputed(
            X, checked, self._by_row(checked, lambda model, batch, params: model.fill(batch, params), moved=True)
        )

    def condition(self, given, X):
        """Condition the mixture on the values of some columns: a mixture over the other columns, for each row.

        Its mean is mixture regression: E[rest | given] of the joint density.

        Parameters
        ----------
        given : int, str, array-like of them, or bool mask of shape (n_features,)
            The columns to condition on, by number or by name.
        X : array-like of shape (n_samples, n_given)
            Their values, in the order of `given`.

        Returns
        -------
        conditional : ConditionalMixture
            With `weights`, `means`, `covariances`, `columns`, and the methods `mean()` and `covariance()`.

        Raises
        ------
        ValueError
            If `given` names no column, all of them, one twice or an unknown one, or X has another number of columns,
            or is a DataFrame with columns of other names.
        """
        check_is_fitted(self)
        given = columns_of(self, given)
        if hasattr(X, "columns") and hasattr(self, "feature_names_in_"):
            X = _in_order(X, self.feature_names_in_[given].tolist())
        rest = np.delete(np.arange(self.n_features_in_), given)
        X = check_array(X, dtype=[np.float64, np.float32], input_name="X")
        refuse_overflow(X)
        if X.shape[1] != len(given):
            raise ValueError(f"X has {X.shape[1]} columns, but {len(given)} are given: {given.tolist()}.")
        params, origin = self._parameters(torch.device("cpu"))
        model = self._fitted_model()
        marginal, slope, sigma = model.split(params, torch.from_numpy(given), torch.from_numpy(rest))
        batch = Table(X, torch.device("cpu"), shift=origin[given], allow_missing=False).batch(0, len(X))
        weights = model.log_joint(batch, marginal).softmax(0).mT
        means = params.mu[:, rest] + ((batch.X[:, None] - marginal.mu)[:, :, None] @ slope.mT)[:, :, 0]
        arrays = (array.numpy().astype(X.dtype, copy=False) for array in (weights, means, sigma))
        weights, means, sigma = arrays
        return ConditionalMixture(weights, means + origin[rest].astype(X.dtype), sigma, rest)

    # -------------------------------------------------------------------------------------- what the mixin asks for
    def _model(self, n_components, learnt):
        family, pooled = _MODELS[self.covariance_type]
        return family(n_components, pooled=pooled, floor=float(self.reg_covar))

    def _coded(self, X, learnt):
        refuse_overflow(X)
        return X

    def _origin(self, X, weight):
        if np.isnan(np.sum(X)):
            return column_means_and_variances(X, weight, ~np.isnan(X))[0]
        return np.average(X, axis=0, weights=weight).astype(np.float64)

    @contextlib.contextmanager
    def _explained(self):
        try:
            yield
        except torch.linalg.LinAlgError as error:
            raise ValueError(
                "Fitting the mixture model failed because some components have ill-defined empirical covariance (for "
                f"instance caused by singleton or collapsed samples): number {error} of {self.n_components}. Try to "
                f"decrease the number of components, increase reg_covar (now {self.reg_covar:g}), or scale the input "
                "data."
            ) from error

    def _attributes(self, params, origin, dtype, learnt):
        sigma, root = params.sigma, params.root
        precision = root @ root.mT if sigma.dim() == 3 else root.square()
        as_attribute = {
            "full": lambda a: a,
            "tied": lambda a: a[0],
            "diag": lambda a: a,
            "spherical": lambda a: a[:, 0],
        }
        pick = as_attribute[self.covariance_type]
        arrays = {
            "weights_": params.pi,
            "means_": params.mu + torch.as_tensor(origin, dtype=params.mu.dtype, device=params.mu.device),
            "covariances_": pick(sigma),
            "precisions_cholesky_": pick(root),
            "precisions_": pick(precision),
        }
        found = {name: tensor.cpu().numpy().astype(dtype) for name, tensor in arrays.items()}
        return {**found, "_fitted_type": self.covariance_type, "_fitted_floor": float(self.reg_covar)}

    def _stats_so_far(self, model, params, total):
        # The floor that was added is taken off; the M-step adds the present one, which may be another.
        floor = getattr(self, "_fitted_floor", model.floor)
        as_fitted = type(model)(model.n_components, pooled=model.pooled, floor=floor)
        return super()._stats_so_far(as_fitted, params, total)

    def _parameters(self, device):
        place = functools.partial(torch.tensor, dtype=torch.float64, device=device)
        weights = np.asarray(self.weights_, dtype=np.float64)
        origin = weights / weights.sum() @ self.means_
        sigma = self._as_model(self._covariances())
        return self._fitted_model().params(place(weights), place(self.means_ - origin), place(sigma)), origin

    def _covariances(self):
        """As float64. Rounding to float32 may cost a matrix its definiteness, but not the root of its inverse."""
        self._refuse_other_type()
        if self.covariances_.dtype == np.float64 or self.covariance_type in ("diag", "spherical"):
            return np.asarray(self.covariances_, dtype=np.float64)
        root = np.linalg.inv(self.precisions_cholesky_.astype(np.float64))
        return root.swapaxes(-1, -2) @ root

    def _refuse_other_type(self):
        # The shape alone does not tell "tied" from "diag" where there are as many components as columns.
        same = getattr(self, "_fitted_type", self.covariance_type) == self.covariance_type
        if not same or self.covariances_.shape != self._covariance_shape(*self.means_.shape):
            raise ValueError(
                f"covariance_type={self.covariance_type!r} is not that of the fit, whose covariances_ have the shape "
                f"{self.covariances_.shape}; set it back, or fit a clone."
            )

    def _covariance_shape(self, K, D):
        return {"full": (K, D, D), "tied": (D, D), "diag": (K, D), "spherical": (K,)}[self.covariance_type]

    def _as_model(self, array):
        """A covariance (or precision) as the attribute has it -> with the axes that the model expects."""
        return {"tied": array[None], "spherical": array[:, None]}.get(self.covariance_type, array)

    def _n_parameters(self):
        K, D = self.means_.shape
        triangle = D * (D + 1) // 2
        covariance = {"full": K * triangle, "tied": triangle, "diag": K * D, "spherical": K}[self.covariance_type]
        return covariance + K * D + K - 1

    def _draw(self, labels, noise):
        draws = noise.normal(torch.arange(len(labels)), self.means_.shape[1], torch.float64).numpy()
        covariances = self._covariances()
        for k in np.unique(labels):
            rows = labels == k
            if self.covariance_type in ("full", "tied"):
                L = np.linalg.cholesky(covariances[k] if covariances.ndim == 3 else covariances)
                draws[rows] = draws[rows] @ L.T
            else:
                draws[rows] *= np.sqrt(covariances[k])
        return draws + self.means_[labels]

    # ---------------------------------------------------------------------------------------- given starting values
    def _all_given(self):
        return not any(given is None for given in (self.weights_init, self.means_init, self.precisions_init))

    def _given(self, model, params, table, learnt):
        pi, mu, sigma = (None, None, None) if params is None else (params.pi, params.mu, params.sigma)
        place = functools.partial(torch.tensor, dtype=torch.float64, device=table.device)
        if self.weights_init is not None:
            pi = place(checked_weights(self.weights_init, self.n_components))
        if self.means_init is not None:
            mu = place(checked_shape(self.means_init, (self.n_components, table.shape[1]), "means")) - table.shift
        if self.precisions_init is not None:
            sigma = place(self._checked_precisions(table.shape[1]))
            sigma = torch.linalg.inv(sigma) if sigma.dim() == 3 else 1 / sigma
        elif params is not None and model.pooled:
            sigma = sigma[:1] if sigma.dim() == 3 else sigma[:, :1]
        return model.params(pi, mu, sigma)

    def _checked_precisions(self, D):
        shape = self._covariance_shape(self.n_components, D)
        precisions = checked_shape(self.precisions_init, shape, f"{self.covariance_type} precision")
        if precisions.ndim == len(shape) and self.covariance_type in ("full", "tied"):
            for precision in self._as_model(precisions):
                if not np.allclose(precision, precision.T) or np.any(np.linalg.eigvalsh(precision) <= 0.0):
                    raise ValueError(f"'{self.covariance_type} precision' should be symmetric, positive-definite")
        elif np.any(precisions <= 0.0):
            raise ValueError(f"'{self.covariance_type} precision' should be positive")
        return self._as_model(precisions)


def _in_order(frame, names):
    """The columns of a DataFrame in the order of their names."""
    if sorted(map(str, frame.columns)) != sorted(names):
        raise ValueError(f"X should have the columns that are given, {names}, but has {list(frame.columns)}.")
    return frame[names]
