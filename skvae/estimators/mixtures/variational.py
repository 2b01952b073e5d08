"""Gaussian mixtures with a posterior over their parameters."""

from numbers import Real

import numpy as np
import torch
from scipy.special import gammaincinv

from skvae import _reduce
from skvae._compat import Interval, StrOptions
from skvae.elbo import EvidenceTerms
from skvae.estimators.mixtures._gaussian import BaseGaussianMixture
from skvae.estimators.mixtures._starts import checked_shape
from skvae.models.mixtures.mixing_weights import DirichletWeights, StickWeights
from skvae.models.mixtures.posterior import bound_terms, posterior
from skvae.models.mixtures.variational_gaussian_mixture import Prior
from skvae.models.mixtures.variational_gaussian_mixture import VariationalGaussianMixture as Model
from skvae.tables.column_statistics import column_means_and_variances, seen_weight, without_rounding
from skvae.tables.weights import in_order_of_values

_WEIGHTS = {"dirichlet_process": StickWeights, "dirichlet_distribution": DirichletWeights}


class VariationalGaussianMixture(BaseGaussianMixture):
    """Describe a table by a mixture of Gaussians with a posterior over its parameters, by variational inference.

        pi ~ Dirichlet or sticks,   (mu_k, Lambda_k) ~ Normal-Wishart,   z ~ Cat(pi),   x | z = k ~ N(mu_k, Lambda_k^-1)

    Components that the rows do not need empty themselves: `n_components` is an upper limit. A drop-in for
    :class:`sklearn.mixture.BayesianGaussianMixture` that also takes sample weights and missing cells, imputes them,
    learns in parts, gives the evidence lower bound in nats, and runs on a GPU. Read more in the
    :doc:`user guide </user_guide/mixtures>`.

    Parameters
    ----------
    n_components : int, default=1
        Largest number K of components.
    covariance_type : {"full", "tied", "diag", "spherical"}, default="full"
        Form of the posterior of the precisions: a matrix a component, one for all, a diagonal one a component, or a
        multiple of the identity.
    tol : float, default=1e-3
        Stop when an iteration changes `lower_bound_`, the sum over all rows, by less. This is scikit-learn's rule.
    reg_covar : float, default=1e-6
        Added to the covariance of the rows of a component, in squared units of X. The bound is sure to rise with 0.
    max_iter : int, default=100
        Largest number of iterations of one restart. 0 leaves the initial parameters.
    n_init : int, default=1
        Number of restarts, of which the one with the highest bound is kept.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}, default="kmeans"
        How rows are first shared out: to the nearest centre of k-means, of its seeds, or of rows drawn at random, or by
        random responsibilities. K-means sees at most 20,000 rows.
    weight_concentration_prior_type : {"dirichlet_process", "dirichlet_distribution"}, default="dirichlet_process"
        Prior of the weights: an infinite mixture by sticks that are broken off, of which K may be used, or a symmetric
        Dirichlet distribution over K weights.
    weight_concentration_prior : float or None, default=None
        Concentration of that prior; a smaller one empties more components. None: 1 / n_components.
    mean_precision_prior : float or None, default=None
        Weight of `mean_prior`, in rows. None: 1.
    mean_prior : array-like of shape (n_features,) or None, default=None
        Prior mean of the means. None: the means of the columns.
    degrees_of_freedom_prior : float or None, default=None
        Degrees of freedom of the Wishart prior, above n_features - 1. None: n_features.
    covariance_prior : array-like or float or None, default=None
        Inverse scale matrix of the Wishart prior: of shape (n_features, n_features) for "full" and "tied",
        (n_features,) for "diag", a float for "spherical". None: the covariance of X, its variances, or their mean.
    random_state : int, RandomState instance or None, default=None
        Seed of the restarts. None draws a fresh seed from the system, without touching NumPy's global generator.
    warm_start : bool, default=False
        Whether `fit` continues from the parameters of the last fit; `n_init` is then ignored.
    verbose : int, default=0
        1 prints a line every `verbose_interval` iterations, 2 every one.
    verbose_interval : int, default=10
        Iterations from line to line.
    learning_decay : float, default=0.7
        Exponent kappa of the step sizes of `partial_fit`, (learning_offset + t)**-kappa in call t after the first.
        Steps converge for kappa in (0.5, 1]; with 0 every call is a whole step of coordinate ascent.
    learning_offset : float, default=10.0
        Makes early steps smaller; at least 1.
    total_samples : float or None, default=None
        Number of rows of the whole table that the parts of `partial_fit` are drawn from. None: as many as have come.
    acceleration : {"auto", "squarem"} or None, default="auto"
        Whether to extrapolate steps (Varadhan and Roland 2008), guarded so that the bound never falls. "auto": where
        0 < `tol` < 1e-4.
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
        Posterior means of the mixing proportions, scaled to sum to 1.
    means_ : ndarray of shape (n_components, n_features)
        Posterior means of the means.
    covariances_ : ndarray
        Inverses of the posterior means of the precisions. Of shape (n_components, n_features, n_features) for "full",
        (n_features, n_features) for "tied", (n_components, n_features) for "diag", (n_components,) for "spherical".
    precisions_ : ndarray
        Their inverses, of the same shape.
    precisions_cholesky_ : ndarray
        Upper triangular U with precision U U', or square roots of the precisions; of the same shape.
    weight_concentration_ : tuple of two ndarrays, or ndarray, of shape (n_components,)
        Parameters of the Beta distributions of the sticks, or of the Dirichlet distribution.
    mean_precision_ : ndarray of shape (n_components,)
        Weight of the rows of each component and of the prior.
    degrees_of_freedom_ : ndarray of shape (n_components,), or float where tied
        Degrees of freedom of the Wishart distributions; where tied, as scikit-learn counts them, 1 / n_components of
        those of the posterior.
    weight_concentration_prior_, mean_precision_prior_, degrees_of_freedom_prior_ : float
        The parameters that were used.
    mean_prior_ : ndarray of shape (n_features,)
        The same.
    covariance_prior_ : ndarray or float
        The same.
    converged_ : bool
        Whether the best restart met `tol`.
    n_iter_ : int
        Iterations of the best restart.
    lower_bound_ : float
        Bound after the last iteration, of all rows and without its constants, as scikit-learn gives it.
    lower_bounds_ : list of float
        The evidence lower bound before each update of the parameters in the best restart, nats per sample.
    n_samples_seen_ : float
        Weight of the rows that `fit`, or all calls of `partial_fit`, learnt from.
    n_batch_iter_ : int
        Calls of `partial_fit` after the first fit.
    device_ : str
        Where the fit ran.
    n_features_in_ : int
        Number of columns.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns, where `fit` was given a DataFrame.

    See Also
    --------
    sklearn.mixture.BayesianGaussianMixture : The class this one replaces.
    GaussianMixtureEM : The same without priors: the most likely parameters in place of their posterior.

    Notes
    -----
    `score_samples` is the log of the predictive density, a mixture of Student's t distributions, and `sample` draws
    from it. scikit-learn's are those of the E-step, whose density does not integrate to 1, and of Gaussians. `predict`
    and `predict_proba` are scikit-learn's: the posterior of the components that the E-step finds.

    Cells that are NaN become latent variables with a posterior of their own, given the component. So the bound is exact
    with them too, and rises.

    `aic` and `bic` count the parameters of all components, also of empty ones; `lower_bounds_` already weighs fit
    against complexity.

    "diag" and "spherical" restrict the posterior, not the model: the bound is that of full covariances with the same
    prior, and is lower where columns are correlated.

    References
    ----------
    Bishop, *Pattern Recognition and Machine Learning*, Springer, 2006, section 10.2.

    Blei and Jordan, *Variational inference for Dirichlet process mixtures*, Bayesian Analysis 1(1), 2006.

    Hoffman, Blei, Wang and Paisley, *Stochastic variational inference*, JMLR 14, 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import VariationalGaussianMixture
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(size=(100, 2)), rng.normal(8, 1, size=(200, 2))])
    >>> mixture = VariationalGaussianMixture(5, max_iter=500, random_state=0).fit(X)
    >>> np.sort(mixture.weights_.round(2))[::-1].tolist()
    [0.65, 0.34, 0.0, 0.0, 0.0]
    >>> mixture.lower_bounds_[-1] > VariationalGaussianMixture(1).fit(X).lower_bounds_[-1]
    True
    """

    _parameter_constraints = {
        **BaseGaussianMixture._parameter_constraints,
        "weight_concentration_prior_type": [StrOptions(set(_WEIGHTS))],
        "weight_concentration_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "mean_precision_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "mean_prior": [None, "array-like"],
        "degrees_of_freedom_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "covariance_prior": [None, "array-like", Interval(Real, 0.0, None, closed="neither")],
        "learning_decay": [Interval(Real, 0.0, 1.0, closed="both")],
        "learning_offset": [Interval(Real, 1.0, None, closed="left")],
        "total_samples": [None, Interval(Real, 0.0, None, closed="neither")],
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
        weight_concentration_prior_type="dirichlet_process",
        weight_concentration_prior=None,
        mean_precision_prior=None,
        mean_prior=None,
        degrees_of_freedom_prior=None,
        covariance_prior=None,
        random_state=None,
        warm_start=False,
        verbose=0,
        verbose_interval=10,
        learning_decay=0.7,
        learning_offset=10.0,
        total_samples=None,
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
        self.weight_concentration_prior_type = weight_concentration_prior_type
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.learning_decay = learning_decay
        self.learning_offset = learning_offset
        self.total_samples = total_samples

    _tol_is_in = " nats of all rows"

    def partial_fit(self, X, y=None, sample_weight=None):
        """Take one step of stochastic variational inference with the rows of X; an unfitted estimator is fitted to X.

        The posterior that `total_samples` rows like those of X would give enters the posterior so far with the share
        (learning_offset + t)**-learning_decay in its natural parameters. The prior stays that of the first part.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            New rows; NaN where a cell is missing.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            How often each row counts.

        Returns
        -------
        self : estimator

        References
        ----------
        Hoffman, Blei, Wang and Paisley, *Stochastic variational inference*, JMLR 14, 2013.
        """
        return super().partial_fit(X, y, sample_weight=sample_weight)

    def score_samples(self, X):
        """Log of the predictive density of each row: sum_k E[pi_k] St(x | k), of its observed cells.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing; 0 for a row without any observed cell.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            Nats.
        """

        def log_predictive(model, batch, params):
            return posterior(model.log_predictive(batch, params))[0]

        return self._by_row(self._checked(X), log_predictive)

    _evidence_is_known = False

    def _evidence_terms(self, X, n_draws=None, random_state=None, *, find_best=True):
        """Take the predictive density apart: z is the component, and q its exact posterior under that density."""

        def terms(model, batch, params):
            return bound_terms(model.log_predictive(batch, params), params.gaussian.pi)

        return EvidenceTerms.of_exact_posterior(self._by_row(self._checked(X), terms), find_best)

    # ------------------------------------------------------------------------------------------------------- the prior
    def _read_to_fit(self, rows, weight, learnt):
        rows, weight = in_order_of_values(rows, weight)
        return rows, weight, self._prior(rows, weight)

    def _prior(self, rows, weight):
        """The prior of a fit, from parameters and, by default, from the rows."""
        D, K = rows.shape[1], self.n_components
        alpha, beta, nu = self.weight_concentration_prior, self.mean_precision_prior, self.degrees_of_freedom_prior
        if nu is not None and nu <= D - 1.0:
            raise ValueError(
                f"The parameter 'degrees_of_freedom_prior' should be greater than {D - 1}, but got {nu:.3f}."
            )
        mean = None if self.mean_prior is None else checked_shape(self.mean_prior, (D,), "means")
        if self.covariance_prior is not None:
            shape = {"diag": (D,), "spherical": (1,)}.get(self.covariance_type, (D, D))
            name = f"{self.covariance_type} covariance_prior"
            covariance = self._checked_matrices(np.atleast_1d(self.covariance_prior), shape, name)
        if mean is None or self.covariance_prior is None:
            column_means, observed = self._moments(rows, weight)
            mean = column_means if mean is None else mean
            covariance = observed if self.covariance_prior is None else covariance
        return self._as_prior(
            1.0 / K if alpha is None else alpha,
            1.0 if beta is None else beta,
            mean,
            D if nu is None else nu,
            covariance,
            K,
        )

    def _as_prior(self, alpha, beta, mean, nu, covariance, K):
        """The prior of the model; scikit-learn gives each tied component 1 / K of one Wishart distribution."""
        copies = K if self.covariance_type == "tied" else 1
        mean, covariance = np.asarray(mean, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
        if self.covariance_type == "spherical":
            covariance = np.broadcast_to(covariance, mean.shape)
        return Prior(float(alpha), float(beta), mean, float(copies * nu), copies * covariance)

    def _moments(self, rows, weight):
        """Mean of each column, and unbiased covariance or variances; where singular, with `reg_covar` added."""
        weight = np.ones(len(rows)) if weight is None else weight
        seen = ~np.isnan(rows)
        seen = seen if _reduce.largest(not seen.all()) else None
        mean, variance = column_means_and_variances(rows, weight, seen)
        variance = without_rounding(variance, mean)
        total = _reduce.count(weight.sum())
        unbiased = total / max(total - 1, 0.5 * total)  # n / (n - 1), and 2 where that has no sense
        if self.covariance_type in ("full", "tied"):
            covariance = unbiased * _covariance(rows, weight, seen, mean)
            eigenvalues = np.linalg.eigvalsh(covariance)
            if eigenvalues[0] <= len(mean) * np.finfo(np.float64).eps * eigenvalues[-1]:
                covariance = covariance + self.reg_covar * np.eye(len(mean))
            singular = np.linalg.eigvalsh(covariance)[0] <= 0
        else:
            covariance = unbiased * (variance if self.covariance_type == "diag" else variance.mean())
            covariance = np.where(covariance > 0, covariance, self.reg_covar)
            singular = not (covariance > 0).all()
        if singular:
            raise ValueError(
                "The covariance of X, the default covariance_prior, is singular: columns are constant or depend on "
                f"each other. Drop some, give covariance_prior, or raise reg_covar (now {self.reg_covar:g})."
            )
        return mean, covariance

    def _learnt(self):
        return self._as_prior(
            self.weight_concentration_prior_,
            self.mean_precision_prior_,
            self.mean_prior_,
            self.degrees_of_freedom_prior_,
            self.covariance_prior_,
            len(self.weights_),
        )

    # ---------------------------------------------------------------------------------------- what every mixture gives
    def _model(self, n_components, learnt):
        gaussian = self._gaussian_model(n_components, float(self.reg_covar))
        return Model(gaussian, learnt, _WEIGHTS[self.weight_concentration_prior_type]())

    def _fitted_model(self):
        weights = StickWeights() if isinstance(self.weight_concentration_, tuple) else DirichletWeights()
        return Model(self._fitted_gaussian_model(), self._learnt(), weights)

    def _initial_params(self, model, table, noise, learnt):
        stats, variances = self._first_stats(model, table, noise)
        return model.first_m_step(stats, learnt.measured_from(table.shift), variances)

    def _attributes(self, params, table, learnt):
        tied = self.covariance_type == "tied"
        K, alpha = len(params.beta), tuple(params.alpha)
        W_inv = learnt.W_inv / K if tied else learnt.W_inv
        return {
            **self._gaussian_attributes(params.gaussian, table),
            "weight_concentration_": alpha if len(alpha) > 1 else alpha[0],
            "mean_precision_": params.beta,
            "degrees_of_freedom_": float(params.nu[0]) / K if tied else params.nu,
            "weight_concentration_prior_": learnt.alpha,
            "mean_precision_prior_": learnt.beta,
            "mean_prior_": torch.as_tensor(learnt.m),
            "degrees_of_freedom_prior_": learnt.nu / K if tied else learnt.nu,
            "covariance_prior_": float(W_inv[0]) if self.covariance_type == "spherical" else torch.as_tensor(W_inv),
            "lower_bound_": float(params.simplified_bound),
            "n_batch_iter_": 0,
        }

    def _fitted_params(self, model, table):
        if isinstance(model.weights, StickWeights) != isinstance(self.weight_concentration_, tuple):
            raise ValueError(
                f"weight_concentration_prior_type={self.weight_concentration_prior_type!r} is not that of the fit; "
                "set it back, or fit a clone."
            )

        def place(array):
            return torch.tensor(np.asarray(array, dtype=np.float64)).to(table.shift)

        K, own = len(self.weights_), self._fitted_origin()
        nu = np.full(K, K * self.degrees_of_freedom_) if self.covariance_type == "tied" else self.degrees_of_freedom_
        return model.params(
            model.prior.measured_from(table.shift),
            place(np.atleast_2d(self.weight_concentration_)),
            place(self.mean_precision_),
            place(self.means_ - own) + (place(own) - table.shift),
            place(nu),
            place(self._as_model(self._covariances())),
            self.lower_bound_,
        )

    def _draw(self, labels, noise):
        D, K = self.means_.shape[1], len(self.weights_)
        nu = np.broadcast_to(self.degrees_of_freedom_ * (K if self.covariance_type == "tied" else 1), K)
        freedom = nu.astype(np.float64) + 1 - D
        u = noise.fold("scale").uniform(torch.arange(len(labels)), 1, torch.float64)[:, 0].numpy()
        chi_squared = 2 * gammaincinv(0.5 * freedom[labels], u)
        stretch = np.sqrt((1 + 1 / self.mean_precision_.astype(np.float64)) * nu)[labels] / np.sqrt(chi_squared)
        means = self.means_[labels]
        return means + stretch[:, None] * (super()._draw(labels, noise) - means)

    # ---------------------------------------------------------------------------------- rules of stopping and of steps
    def _has_converged(self, iteration):
        return abs(float(iteration.params.simplified_bound - iteration.before.simplified_bound)) < self.tol

    def _step(self, new):
        total = self.n_samples_seen_ + new if self.total_samples is None else float(self.total_samples)
        return total, (self.learning_offset + self.n_batch_iter_ + 1) ** -self.learning_decay

    def _mean_bound(self, model, stats, params, new, total):
        return float(stats.bound) / new - float(model.divergence(params)) / total

    def _stepped(self, X, sample_weight):
        return super()._stepped(X, sample_weight) | {"n_batch_iter_": self.n_batch_iter_ + 1}


def _covariance(rows, weight, seen, mean):
    """Weighted covariance of rows; with missing cells at the mean, scaled so that variances are those observed."""
    x = rows - mean
    if seen is not None:
        x[~seen] = 0
    covariance = _reduce.count((x * weight[:, None]).T @ x)
    if seen is None:
        return covariance / _reduce.count(weight.sum())
    root = np.sqrt(seen_weight(weight, seen))
    return covariance / (root[:, None] * root)
