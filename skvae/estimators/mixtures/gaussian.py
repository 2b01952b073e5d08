"""Gaussian mixtures."""

import functools

import numpy as np
import torch
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from skvae._tensors import Table
from skvae.estimators.mixtures._gaussian import BaseGaussianMixture
from skvae.estimators.mixtures._starts import checked_shape, checked_weights
from skvae.estimators.mixtures.conditional import ConditionalMixture
from skvae.tables.checks import columns_of, naming_cells, refuse_overflow


class GaussianMixtureEM(BaseGaussianMixture):
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
        Largest number of EM iterations of one restart. 0 leaves the initial parameters.
    n_init : int, default=1
        Number of restarts, of which the one with the highest likelihood is kept.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}, default="kmeans"
        How rows are first shared out: to the nearest centre of k-means, of its seeds, or of rows drawn at random, or by
        random responsibilities. K-means sees at most 20,000 rows.
    weights_init : array-like of shape (n_components,) or None, default=None
        Initial proportions, in place of the computed ones.
    means_init : array-like of shape (n_components, n_features) or None, default=None
        Initial means.
    precisions_init : array-like or None, default=None
        Initial inverse covariances, of the shape that `precisions_` has for this `covariance_type`.
    random_state : int, RandomState instance or None, default=None
        Seed of the restarts. None draws a fresh seed from the system, without touching NumPy's global generator.
    warm_start : bool, default=False
        Whether `fit` continues from the parameters of the last fit; `n_init` is then ignored.
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
    data_parallel : bool, default=False
        Whether the processes of `torch.distributed` share the fit, each with rows of its own. See
        :doc:`/scaling`.
    checkpoint : str, path-like, Checkpoint or None, default=None
        File from which an interrupted fit goes on: see :class:`~skvae.Checkpoint`.

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
        Whether the best restart met `tol`.
    n_iter_ : int
        Iterations of the best restart.
    lower_bound_ : float
        The last of `lower_bounds_`.
    lower_bounds_ : list of float
        Mean log-likelihood per sample before each M-step of the best restart, nats.
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
        **BaseGaussianMixture._parameter_constraints,
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
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
        data_parallel=False,
        checkpoint=None,
    ):
        super().__init__(
            n_components,
            tol=tol,
            max_iter=max_iter,
            n_init=n_init,
            init_params=init_params,
            random_state=random_state,
            warm_start=warm_start,
            verbose=verbose,
            verbose_interval=verbose_interval,
            acceleration=acceleration,
            device=device,
            batch_size=batch_size,
            data_parallel=data_parallel,
            checkpoint=checkpoint,
        )
        self.covariance_type = covariance_type
        self.reg_covar = reg_covar
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init

    # ------------------------------------------------------------------------------------------------ missing columns
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
            names = self.feature_names_in_[given].tolist()
            if sorted(map(str, X.columns)) != sorted(names):
                raise ValueError(f"X should have the columns that are given, {names}, but has {list(X.columns)}.")
            X = X[names]
        rest = np.delete(np.arange(self.n_features_in_), given)
        with naming_cells(X, type(self).__name__, gaps=False):
            X = check_array(X, dtype=[np.float64, np.float32], input_name="X")
        refuse_overflow(X, np.float64)
        if X.shape[1] != len(given):
            raise ValueError(f"X has {X.shape[1]} columns, but {len(given)} are given: {given.tolist()}.")
        model, origin = self._fitted_model(), self._fitted_origin()
        params = self._params_measured_from(model, torch.as_tensor(origin))
        marginal, slope, sigma = model.split(params, torch.from_numpy(given), torch.from_numpy(rest))
        batch = Table(X, torch.device("cpu"), shift=origin[given], allow_missing=False).batch(0, len(X))
        weights = model.log_joint(batch, marginal).softmax(0).mT
        means = params.mu[:, rest] + ((batch.X[:, None] - marginal.mu)[:, :, None] @ slope.mT)[:, :, 0]
        weights, means, sigma = (array.numpy().astype(X.dtype, copy=False) for array in (weights, means, sigma))
        return ConditionalMixture(weights, means + origin[rest].astype(X.dtype), sigma, rest)

    # ---------------------------------------------------------------------------------------- what every mixture gives
    def _model(self, n_components, learnt):
        return self._gaussian_model(n_components, float(self.reg_covar))

    def _fitted_model(self):
        return self._fitted_gaussian_model()

    def _attributes(self, params, table, learnt):
        return self._gaussian_attributes(params, table)

    def _fitted_params(self, model, table):
        return self._params_measured_from(model, table.shift)

    def _params_measured_from(self, model, origin):
        """Fitted parameters whose means are measured from an origin, a Tensor (D,)."""
        place = functools.partial(torch.tensor, dtype=origin.dtype, device=origin.device)
        own = self._fitted_origin()
        mu = place(self.means_ - own) + (place(own) - origin)
        return model.params(place(self.weights_), mu, place(self._as_model(self._covariances())))

    # --------------------------------------------------------------------------------------------- initial parameters
    def _initial_params(self, model, table, noise, learnt):
        K, D = model.n_components, table.shape[1]
        place = functools.partial(torch.tensor, dtype=torch.float64, device=table.device)
        pi = mu = sigma = None
        if self.weights_init is not None:
            pi = place(checked_weights(self.weights_init, K))
        if self.means_init is not None:
            mu = place(checked_shape(self.means_init, (K, D), "means")) - table.shift
        if self.precisions_init is not None:
            shape = self._covariance_shape(K, D)
            precision = self._checked_matrices(self.precisions_init, shape, f"{self.covariance_type} precision")
            precision = place(self._as_model(precision))
            sigma = torch.linalg.inv(precision) if precision.dim() == 3 else 1 / precision
        if pi is None or mu is None or sigma is None:
            computed = model.m_step(self._first_stats(model, table, noise)[0], None)
            pi = computed.pi if pi is None else pi
            mu = computed.mu if mu is None else mu
            sigma = computed.sigma if sigma is None else sigma
        return model.params(pi, mu, sigma)
