"""What factor analysis and probabilistic PCA share: fitting to rows, statistics or a covariance, and all prediction."""

import abc
import functools
import math
import warnings

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from skvae._compat import fit_context, warn
from skvae._rounding import CHANGED, CONSTANT_VARIANCE
from skvae._tensors import (
    Noise,
    Table,
    any_nan,
    by_row,
    explain_out_of_memory,
    inference_device,
    resolve_device,
    rows_a_batch,
    to_read,
)
from skvae.elbo import EvidenceTerms, FitResult
from skvae.engines import em
from skvae.engines.watching import CONVERGED
from skvae.estimators._base import Estimator, LikelihoodScoreMixin
from skvae.estimators._checks import agree_in_state, check_n_samples, column_names, draw_seed_of_sample, validated
from skvae.estimators._progress import FitWatcher
from skvae.estimators.decomposition._training_data import (
    FLOAT,
    from_statistics,
    merged_rows,
    patterns_a_batch,
    statistics_of_both,
    statistics_of_covariance,
    statistics_of_rows,
    training_data,
)
from skvae.models.decomposition import factor_analysis as fa
from skvae.models.decomposition.covariance_em import CentredFactorAnalysis
from skvae.tables.checks import naming_cells
from skvae.tables.columns import listed
from skvae.tables.frames import imputed
from skvae.tables.weights import together_if_small
from skvae.training.continuation import Continuation


def _evidence_terms(estimator, X, n_draws=None, random_state=None, *, find_best=True):
    """The evidence of each row, as `LikelihoodScoreMixin` wants it."""
    check_is_fitted(estimator)
    terms = estimator._by_row(validated(estimator, X, reset=False), fa.bound_terms)
    return EvidenceTerms.of_exact_posterior(terms, find_best)


class LinearGaussian(LikelihoodScoreMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, Estimator, abc.ABC):
    """A model x ~ N(mu, W W' + Psi), however it is fitted.

    The abstract methods below are what a subclass must give. Fitted attributes that this class reads are `components_`,
    `mean_`, `noise_variance_` and those of `record`.
    """

    _has_normal_prior = True
    _lowers_n_components = False  # where it is more than there are columns; else that is an error
    _takes_gaps = True  # whether cells may be missing

    # ---------------------------------------------------------------------------------------- what a subclass must give
    @abc.abstractmethod
    def _n_components(self, n_features, n_rows):
        """Number K of factors for a table of this shape, as an int."""

    @abc.abstractmethod
    def _fitted_attributes(self, data, watch, continuation):
        """Fit the model and return all fitted attributes, those of `record` among them.

        Parameters
        ----------
        data : TrainingData
        watch : callable
            (max_iter, attributes) -> `FitWatcher`, where `attributes` turns parameters into fitted attributes.
        continuation : Continuation
            Whether to begin from the fitted parameters.

        Returns
        -------
        attributes : dict
        """

    @abc.abstractmethod
    def _loadings(self):
        """W of uncorrelated factors, a float64 ndarray of shape (n_features, n_components)."""

    # ------------------------------------------------------------------------------------------------------- fitting
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None):
        """Raise the likelihood of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing; the likelihood is that of the observed cells.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            How often each row counts; integers say the same as repeated rows. None: once.

        Returns
        -------
        self : estimator

        Raises
        ------
        ValueError
            If there is only one row, a column without any observed value or, of principal axes, more than columns.
        FloatingPointError
            If the likelihood is not finite.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` was reached, or a noise variance fell to its floor; names the column.
        """
        with (
            self._unchanged_on_error(),
            self._resumable(X, sample_weight=sample_weight),
            explain_out_of_memory("lower batch_size"),
        ):
            checked = validated(self, X, reset=True, ensure_min_samples=2, ensure_all_finite=False)
            _check_n_components(self, checked.shape[1])
            device = resolve_device(self.device)
            name = type(self).__name__
            with together_if_small(checked, sample_weight) as (checked, sample_weight):
                rows, weight, n_rows = merged_rows(checked, sample_weight, name, min_rows=2)
                K = self._n_components(rows.shape[1], n_rows)
                with naming_cells(X, name):  # rows are checked for cells that are not finite while they are read
                    data = training_data(
                        rows,
                        weight,
                        n_rows,
                        K,
                        batch_size=self.batch_size,
                        device=device,
                        name=name,
                        names=column_names(self),
                    )
                watch = functools.partial(FitWatcher, self, X, y)
                with data.ascent():
                    return self._set(**self._fitted_attributes(data, watch, Continuation.FRESH))

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, sample_weight=None):
        """Add rows to those seen so far, and raise the likelihood of them all from the present parameters.

        Counts, means and covariances are kept (n_features x n_features numbers): whatever the split of the rows over
        the calls, the likelihood that is raised is that of `fit` to all of them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            More rows, without missing cells.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            How often each row counts.

        Returns
        -------
        self : estimator

        Raises
        ------
        ValueError
            If cells are missing, or the last call was a `fit` that kept no covariance: with missing cells, or fewer
            rows than columns.
        """
        with self._unchanged_on_error(), explain_out_of_memory("lower batch_size"):
            agree_in_state(self, "components_", "_sufficient_statistics")
            continuation = Continuation.PARTIAL_FIT if hasattr(self, "components_") else Continuation.FRESH
            checked = validated(self, X, reset=not continuation.continues)
            _check_n_components(self, checked.shape[1])
            device = resolve_device(self.device)
            before = self._sufficient_statistics if continuation.continues else None
            if any_nan(checked):
                raise ValueError(
                    "partial_fit keeps means and covariances, which missing cells do not have, but X contains NaN; "
                    "use fit with all rows."
                )
            if continuation.continues and before is None:
                raise ValueError(
                    "partial_fit cannot go on from a fit with missing cells or with fewer rows than columns, which "
                    "kept no covariance; begin with partial_fit on a fresh clone."
                )
            with together_if_small(checked, sample_weight) as (few_or_own, sample_weight):
                rows, weight, n_rows = merged_rows(few_or_own, sample_weight, type(self).__name__)
                statistics = statistics_of_rows(rows, weight, n_rows, self.batch_size, device)
            if continuation.continues:
                statistics = statistics_of_both(before, statistics)
                if before["n_rows"] <= checked.shape[1]:  # from so few rows EM may have ended where it would stay
                    continuation = Continuation.FRESH
            data = from_statistics(statistics, checked.dtype, device)
            watch = functools.partial(FitWatcher, self, X, y)
            with warnings.catch_warnings():
                if data.n_rows <= checked.shape[1]:  # noise variances of so few rows fall to their floor as a rule
                    warnings.simplefilter("ignore", ConvergenceWarning)
                with data.ascent():
                    return self._set(**self._fitted_attributes(data, watch, continuation))

    @fit_context(prefer_skip_nested_validation=True)
    def fit_covariance(self, S, n_samples, mean=None):
        """Raise the likelihood of rows of which only the covariance is known.

        Parameters
        ----------
        S : array-like of shape (n_features, n_features)
            Covariance with divisor n, as ``np.cov(X.T, bias=True)``, or a correlation matrix: the model then is that of
            standardised columns.
        n_samples : float
            Number of rows it is of.
        mean : array-like of shape (n_features,) or None, default=None
            None: zeros.

        Returns
        -------
        self : estimator

        Raises
        ------
        ValueError
            If S is not a covariance matrix, or mean not of its width.
        """
        with self._unchanged_on_error():
            checked = validated(self, S, reset=True, ensure_all_finite=False)
            statistics = statistics_of_covariance(checked, n_samples, mean)
            _check_n_components(self, len(checked))
            data = from_statistics(statistics, checked.dtype, resolve_device(self.device))
            watch = functools.partial(FitWatcher, self, S, None)
            with data.ascent():
                return self._set(**self._fitted_attributes(data, watch, Continuation.FRESH))

    def fit_transform(self, X, y=None, sample_weight=None):
        """Fit to X and give the scores of its rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            How often each row counts.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_components)
        """
        return self.fit(X, y, sample_weight=sample_weight).transform(X)

    # ---------------------------------------------------------------------------------------------------- prediction
    def _pattern(self):
        """Loadings of the factors whose scores `transform` gives, an ndarray of shape (n_features, n_components)."""
        return self._loadings()

    def _scores(self, X):
        """Scores of checked rows, as `transform` gives them."""
        return self._by_row(X, fa.posterior_mean)

    def _checked(self, X):
        """Rows to predict of, checked."""
        return validated(self, X, reset=False, ensure_all_finite="allow-nan" if self._takes_gaps else True)

    def _changed_constants(self, X):
        constant = self._noise() < 2 * CONSTANT_VARIANCE
        away = np.abs(self._checked(X).astype(np.float64) - self.mean_)
        return np.flatnonzero(constant & (away > CHANGED).any(axis=0)).tolist()

    def _by_row(self, X, function):
        """Apply a function of (batch, params) to checked rows: an array with an entry a row, of the dtype of X."""
        device = inference_device(self.device)
        W = self._loadings()
        arrays = {"W": W, "psi": self._noise(), "mu": np.zeros(len(W))}
        params = fa.Params(**to_read(arrays, device, FLOAT))
        table = Table(X, device, FLOAT, shift=self.mean_)
        batches = table.batches(rows_a_batch(self.batch_size, X.shape[1], device), patterns_a_batch(W.shape[1]))
        return by_row(batches, len(X), lambda batch: function(batch, params), X.dtype)

    def _noise(self):
        """The diagonal of Psi, a float64 ndarray of shape (n_features,)."""
        return np.full(len(self.mean_), self.noise_variance_, dtype=np.float64)

    def transform(self, X):
        """Scores of the rows on the factors.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_components)
            Given the observed cells of each row; of the dtype of X.
        """
        check_is_fitted(self)
        return self._scores(self._checked(X))

    def inverse_transform(self, X):
        """Rows that the model expects of given scores: the mean of p(x | z).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_components)
            Scores, as `transform` gives them.

        Returns
        -------
        X_original : ndarray of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        Z = check_array(X, dtype=[np.float64, np.float32], ensure_min_features=0)
        pattern = self._pattern()
        if Z.shape[1] != pattern.shape[1]:
            raise ValueError(f"X has {Z.shape[1]} columns, but the model has {pattern.shape[1]} components.")
        return (Z @ pattern.T + self.mean_).astype(Z.dtype, copy=False)

    def score_samples(self, X):
        """Log-likelihood of each row: log p(x) of its observed cells.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            Nats; 0 for a row without any observed cell.
        """
        check_is_fitted(self)
        return self._by_row(self._checked(X), fa.log_prob)

    _evidence_terms = _evidence_terms

    def get_covariance(self):
        """Covariance of x under the model, W W' + Psi.

        Returns
        -------
        covariance : ndarray of shape (n_features, n_features)
        """
        check_is_fitted(self)
        return fa.covariance(self._loadings(), self._noise()).astype(self.mean_.dtype, copy=False)

    def get_precision(self):
        """Inverse of the covariance of x under the model.

        Returns
        -------
        precision : ndarray of shape (n_features, n_features)
        """
        check_is_fitted(self)
        return fa.precision(self._loadings(), self._noise()).astype(self.mean_.dtype, copy=False)

    def sample(self, n_samples=1, random_state=None):
        """Draw rows from the model.

        Parameters
        ----------
        n_samples : int, default=1
            How many.
        random_state : int, RandomState instance or None, default=None
            An int draws the same rows every time, None others at each call: by the estimator's own RandomState, if
            it has one.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)

        Raises
        ------
        ValueError
            If n_samples is no whole number, or below 1.
        """
        check_is_fitted(self)
        row = torch.arange(check_n_samples(n_samples))
        noise = Noise(draw_seed_of_sample(self, random_state))
        W = self._loadings()
        z = noise.fold("factors").normal(row, W.shape[1], FLOAT).numpy()
        e = noise.fold("noise").normal(row, len(W), FLOAT).numpy()
        return (self.mean_ + z @ W.T + e * np.sqrt(self._noise())).astype(self.mean_.dtype, copy=False)

    @property
    def _n_features_out(self):
        return len(self.components_)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._takes_gaps
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class Imputation:
    """Filling of missing cells, for a `LinearGaussian` that is fitted to them."""

    def impute(self, X):
        """Fill missing cells with what the model expects of them, given the rest of the row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing.

        Returns
        -------
        X_filled : {ndarray, DataFrame} of shape (n_samples, n_features)
            A copy of X with no cell missing.
            A pandas DataFrame keeps its dtypes: columns of integers get rounded values, categories of numbers the
            nearest. All else gives an ndarray.
        """
        check_is_fitted(self)
        checked = self._checked(X)
        Z = self._by_row(checked, fa.posterior_mean)
        return imputed(X, checked, Z @ self._loadings().T + self.mean_)


class InformationCriteria:
    """Criteria that compare models by their likelihood and number of parameters, for a `LinearGaussian`."""

    def aic(self, X=None, sample_weight=None):
        """Akaike's information criterion; lower is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or None, default=None
            NaN where a cell is missing. None: the rows that were fitted.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            How often each row of X counts.

        Returns
        -------
        aic : float
            -2 log p(X) + 2 (number of free parameters).
        """
        log_likelihood, _ = self._log_likelihood(X, sample_weight)
        return -2 * log_likelihood + 2 * self._n_parameters()

    def bic(self, X=None, sample_weight=None):
        """Bayesian information criterion (Schwarz 1978); lower is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or None, default=None
            NaN where a cell is missing. None: the rows that were fitted.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            How often each row of X counts.

        Returns
        -------
        bic : float
            -2 log p(X) + (number of free parameters) log(n_samples).
        """
        log_likelihood, n = self._log_likelihood(X, sample_weight)
        return -2 * log_likelihood + self._n_parameters() * math.log(n)

    def _log_likelihood(self, X, sample_weight=None):
        """Log-likelihood of all rows of X, or of those that were fitted, and their weight."""
        check_is_fitted(self)
        if X is not None:
            return super()._log_likelihood(X, sample_weight)
        if sample_weight is not None:
            raise ValueError("sample_weight weighs the rows of X, but X is None; pass the rows too.")
        return self.loglike_[-1], self.n_samples_seen_

    def _n_parameters(self):
        """Number of free parameters."""
        return fa.n_parameters(*self._loadings().shape, np.size(self.noise_variance_))


# ------------------------------------------------------------------------------------------ for the fits of subclasses
def model_of(data, n_components, tied=False, names=None):
    """Build the model for training data; `tied`: one noise variance for all columns; `names`: of them.

    Raises
    ------
    ValueError
        If a column varies, but by so little that its smallest noise variance is not a normal number.
    """
    if data.statistics is not None and data.device.type == "cpu":
        model = CentredFactorAnalysis(n_components, data.statistics["S"], tied)
    else:
        model = fa.FactorAnalysis(n_components, torch.as_tensor(data.variance, device=data.device), tied)
    refuse_underflow(model.floor.cpu().numpy(), data, names, np.float64 if tied else data.dtype)
    return model


def refuse_underflow(floor, data, names, dtype):
    """Complain of columns whose smallest noise variance, in an ndarray `floor`, is not a normal number of `dtype`."""
    low = np.flatnonzero(floor < np.finfo(dtype).tiny)
    if len(low):
        raise ValueError(
            f"X holds values whose squares underflow in {np.dtype(dtype).name}: the variance is "
            f"{data.variance[low].max():.3g} or less in column(s) {listed(low, names)}; scale it"
            f"{'' if dtype == np.float64 else ' or give float64'}."
        )


def ascend(estimator, model, data, init_params, watch, attributes):
    """Raise the likelihood by EM as `max_iter` and `tol` of the estimator say; warn if `max_iter` was too few.

    Returns
    -------
    fit : FitResult
        `lower_bounds` has the bound after each M-step: the last is that of `params`.

    Raises
    ------
    FloatingPointError
        If the likelihood or the parameters are not finite.
    """
    with watch(estimator.max_iter, attributes) as watcher:
        fit = climb(estimator, model, data, init_params, watcher)
    # The engine has not seen the likelihood of the last parameters, and on an accelerator no factorisation complains.
    if not bool(torch.cat([tensor.flatten() for tensor in fit.params]).isfinite().all()):
        raise FloatingPointError(
            f"The parameters of {type(estimator).__name__} are not finite after {fit.n_iter} iterations; look for huge "
            "values or duplicated columns in X, or scale it."
        )
    if not fit.converged and fit.n_iter == estimator.max_iter:
        gain = np.diff(fit.lower_bounds[-3:-1]).sum() * data.n_rows
        warn(
            f"{type(estimator).__name__} did not converge: it stopped at max_iter={estimator.max_iter} with the "
            f"log-likelihood rising by {gain:.1e} nats (tol={estimator.tol:g}). Raise either.",
            ConvergenceWarning,
        )
    return fit


def climb(estimator, model, data, init_params, watcher=None):
    """Raise the bound as `max_iter` and `tol` of the estimator say; `lower_bounds` has it after each M-step."""
    plan = em.Plan(
        estimator.max_iter,
        lambda step: step.gain * data.n_rows < estimator.tol,
        data.n,
        accelerate=hasattr(model, "to_free"),
    )
    fit = em.ascend(model, data.batches, [init_params], plan=plan, watcher=watcher)
    fit.lower_bounds = [*fit.lower_bounds[1:], mean_bound(model, data, fit.params, fit.memory)]
    return fit


def mean_bound(model, data, params, memory=None):
    """Mean log-likelihood of a row under parameters; `memory` is what the model remembers of each batch."""
    stats, _ = em.collect(model, data.batches, params, memory)
    return float(model.bound(stats, params)) / data.n


def known(params, bound, watch, attributes):
    """Tell the watcher of parameters that need no ascent as of a fit of one iteration; return that fit."""
    with watch(1, attributes) as watcher:
        watcher.begins(0)
        watcher.ends(em.Iteration(0, 0, bound, math.inf, params, params))
        watcher.concludes(CONVERGED)
    return FitResult(params, [bound], n_iter=1, converged=True)


def record(fit, data):
    """Fitted attributes that tell how a fit went, and the sufficient statistics for `partial_fit`."""
    return {
        "loglike_": [bound * data.n for bound in fit.lower_bounds],
        "lower_bounds_": np.array(fit.lower_bounds),
        "n_iter_": fit.n_iter,
        "converged_": fit.converged,
        "n_samples_seen_": data.n,
        "device_": str(data.device),
        "_sufficient_statistics": data.statistics,
    }


def _check_n_components(estimator, n_features):
    """Refuse more components than columns, or warn where the estimator then fits as many as there are columns."""
    asked = estimator.n_components
    if asked is None or asked <= n_features:
        return
    if not estimator._lowers_n_components:
        raise ValueError(
            f"n_components={asked} asks for more factors than X has columns, n_features={n_features}; lower it."
        )
    warn(
        f"n_components={asked} asks for more factors than X has columns; {n_features} are fitted, which explain any "
        "correlations. Use fewer than columns.",
        UserWarning,
    )
