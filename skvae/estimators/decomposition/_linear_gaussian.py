"""What factor analysis and probabilistic PCA share: the ways from a table to moments or rows, and all prediction."""

import functools
import math
import warnings
from numbers import Real
from typing import NamedTuple

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from skvae._compat import check_sample_weight, fit_context
from skvae._rounding import is_constant
from skvae._tensors import (
    Noise,
    Table,
    by_row,
    explain_out_of_memory,
    inference_device,
    resolve_device,
    rows_a_batch,
    to_read,
)
from skvae.engines import em
from skvae.estimators._base import Estimator, LikelihoodScoreMixin
from skvae.estimators._checks import check_n_samples, draw_seed
from skvae.estimators._progress import FitWatcher
from skvae.models.decomposition import factor_analysis as fa
from skvae.tables.checks import refuse_empty_columns
from skvae.tables.column_statistics import column_means_and_variances
from skvae.tables.frames import imputed
from skvae.tables.weights import weigh

_FLOAT = torch.float64  # sufficient statistics and K x K systems, whatever the dtype of X
_PROBED_ROWS = 256
_OFF_CENTRE = 10.0  # standard deviations from 0 at which rows are centred before their products are summed
_HELD_CELLS = 2**24  # of rows with missing cells: up to here, batches are made once and kept
_NARROW = 2**11  # columns up to which a covariance is cheap, however few rows it is of
_PATTERN_CELLS = 2**21  # of K x K matrices, one a pattern of missing cells, at once


class Evidence(NamedTuple):
    """What an ascent needs to know of the data.

    Attributes
    ----------
    batches : list or iterable
        Of the engine, measured from `origin`.
    origin : ndarray of shape (n_features,)
        The mean, for which `mu` is 0 where all cells were seen.
    variance : ndarray of shape (n_features,)
        0 for constant columns.
    n : float
        Weight of the rows.
    n_rows : float
        Their number, as `_n_rows` has it.
    moments : dict or None
        Of "n", "n_rows", "mean" and "S", where they were computed of all rows.
    complete : bool
        Whether no cell is missing.
    """

    batches: object
    origin: np.ndarray
    variance: np.ndarray
    n: float
    n_rows: float
    moments: dict | None = None
    complete: bool = True


class LinearGaussian(LikelihoodScoreMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, Estimator):
    """What follows from x ~ N(mu, W W' + Psi), however it was fitted.

    A subclass gives `_loadings()`, W of uncorrelated factors as (D, K); `_noise()`, the diagonal of Psi;
    `_reported(Z)`, scores of its own factors from those of the uncorrelated; `_pattern()`, their loadings;
    `_n_components` of a number of columns and of rows; and `_fitted`, the attributes that a fit leaves.
    """

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
            If there is only one row, a column without any observed value, or more factors than columns.
        FloatingPointError
            If the likelihood is not finite.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` was reached, or a noise variance fell to its floor; names the column.
        """
        with self._unchanged_on_error(), explain_out_of_memory("lower batch_size"):
            checked = self._check_X(X, reset=True, min_samples=2, finite=False)  # `_evidence` looks
            self._check_K(checked.shape[1])
            device = resolve_device(self.device)
            given = self._checked_weight(checked, sample_weight)
            n_rows = _n_rows(checked, given)
            rows, weight = weigh(checked, given)
            evidence = self._evidence(rows, weight, n_rows, device)
            return self._set(**self._fitted(evidence, X, y, checked.dtype, device))

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
            goes_on = hasattr(self, "components_")
            checked = self._check_X(X, reset=not goes_on)
            self._check_K(checked.shape[1])
            device = resolve_device(self.device)
            moments = self._united(checked, sample_weight, device, goes_on)
            evidence = _evidence_of(moments, device)
            goes_on = goes_on and self._moments["n_rows"] > checked.shape[1]  # fewer may have led where EM stays
            with warnings.catch_warnings():
                if moments["n_rows"] <= checked.shape[1]:  # of so few rows, noise at its floor is no news
                    warnings.simplefilter("ignore", ConvergenceWarning)
                return self._set(**self._fitted(evidence, X, y, checked.dtype, device, goes_on))

    def _united(self, checked, sample_weight, device, goes_on):
        """Moments of the rows seen so far and of the new ones."""
        if np.isnan(checked).any():
            raise ValueError(
                "partial_fit keeps means and covariances, which missing cells do not have, but X contains NaN; "
                "use fit with all rows."
            )
        if goes_on and self._moments is None:
            raise ValueError(
                "partial_fit cannot go on from a fit with missing cells or with fewer rows than columns, which kept no "
                "covariance; begin with partial_fit on a fresh clone."
            )
        given = self._weights_of(checked, sample_weight)
        rows, weight = weigh(checked, given)
        shift = _rough_centre(rows)
        table = Table(rows, device, _FLOAT, weight=weight, shift=shift, allow_missing=False)
        new = self._moments_of(table, shift, _n_rows(checked, given))
        if not goes_on:
            return new
        both = fa.union(
            *(
                fa.Moments(*(torch.as_tensor(m[name], dtype=_FLOAT) for name in ("n", "mean", "S")))
                for m in (self._moments, new)
            )
        )
        n_rows = self._moments["n_rows"] + new["n_rows"]
        return {"n": float(both.n), "n_rows": n_rows, "mean": both.mean.numpy(), "S": both.S.numpy()}

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
            moments, dtype = self._checked_covariance(S, n_samples, mean)
            self._check_K(len(moments["mean"]))
            device = resolve_device(self.device)
            return self._set(**self._fitted(_evidence_of(moments, device), S, None, dtype, device))

    def _checked_covariance(self, S, n_samples, mean):
        checked = validate_data(self, S, reset=True, dtype=[np.float64, np.float32], ensure_all_finite=False)
        matrix = checked.astype(np.float64)
        if not np.isfinite(matrix).all():
            raise ValueError("S must be a covariance matrix, but it holds NaN or infinity.")
        scale = np.abs(matrix).max()
        if matrix.shape[0] != matrix.shape[1] or not np.allclose(matrix, matrix.T, rtol=0, atol=1e-6 * scale):
            raise ValueError(
                f"S must be a symmetric matrix, but its shape is {matrix.shape} or it equals no transpose."
            )
        lowest = np.linalg.eigvalsh(matrix)[0]
        if lowest < -1e-6 * scale:
            raise ValueError(f"S must be a covariance matrix, but it has the eigenvalue {lowest:.3g} < 0.")
        if not isinstance(n_samples, Real) or isinstance(n_samples, bool) or not 0 < n_samples < math.inf:
            raise ValueError(f"n_samples must be a positive number of rows, but it is {n_samples!r}.")
        mean = np.zeros(len(matrix)) if mean is None else np.array(mean, dtype=np.float64)
        if mean.shape != (len(matrix),) or not np.isfinite(mean).all():
            raise ValueError(f"mean must hold {len(matrix)} finite numbers, one a column, but it is {mean!r}.")
        n = float(n_samples)
        return {"n": n, "n_rows": n, "mean": mean, "S": (matrix + matrix.T) / 2}, checked.dtype

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

    # ----------------------------------------------------------------------------------------------------- gathering
    def _check_X(self, X, *, reset, min_samples=1, finite="allow-nan"):
        return validate_data(
            self,
            X,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_all_finite=finite,
            ensure_min_samples=min_samples,
        )

    def _weights_of(self, X, sample_weight):
        if sample_weight is None:
            return None
        return check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)

    def _checked_weight(self, X, sample_weight):
        weight = self._weights_of(X, sample_weight)
        if weight is not None and np.count_nonzero(weight) == 1:
            raise ValueError(
                f"{type(self).__name__} needs at least 2 rows, but sample_weight is zero for all but 1 sample."
            )
        return weight

    def _check_K(self, n_features):
        if self.n_components is not None and self.n_components > n_features:
            raise ValueError(
                f"n_components={self.n_components} asks for more factors than X has columns, n_features={n_features}; "
                "lower it."
            )

    def _evidence(self, X, weight, n_rows, device):
        """Moments if there are as many rows as columns, else rows; those with missing cells always as rows.

        Of wide tables, rows that only their weights make many stay rows: their D x D moments would cost more.
        """
        n = float(len(X) if weight is None else weight.sum())
        if len(X) >= X.shape[1] or n_rows >= X.shape[1] <= _NARROW:
            shift = _rough_centre(X)
            table = Table(X, device, _FLOAT, weight=weight, shift=shift, allow_missing=False)
            moments = self._moments_of(table, shift, n_rows)
            if np.isfinite(moments["mean"]).all():  # one pass over the rows finds the rare cell that is not
                return _evidence_of(moments, device)
        assert_all_finite(X, allow_nan=True, estimator_name=type(self).__name__, input_name="X")
        if not np.isnan(X).any():
            return self._evidence_of_rows(X, weight, n, n_rows, device)
        return self._evidence_with_gaps(X, weight, n, n_rows, device)

    def _moments_of(self, table, shift, n_rows):
        D = table.shape[1]
        size = rows_a_batch(self.batch_size, D, table.device)
        if self.batch_size == "auto":  # each batch adds D x D products to the sums
            size = max(size, 3 * D)
        shift = torch.zeros(D, dtype=_FLOAT) if shift is None else torch.as_tensor(shift, dtype=_FLOAT)
        shift = shift.to(table.device)
        n, mean, S = fa.moments(em.summed(fa.sums, table.batches(size)), shift)
        return {"n": float(n), "n_rows": n_rows, "mean": (mean + shift).cpu().numpy(), "S": S.cpu().numpy()}

    def _evidence_of_rows(self, X, weight, n, n_rows, device):
        origin, variance = column_means_and_variances(X, weight)
        table = Table(X - origin, device, _FLOAT, weight=weight, allow_missing=False)
        size = rows_a_batch(self.batch_size, X.shape[1], device)
        return Evidence(table.batches(size), origin, _kept(variance, origin), n, n_rows)

    def _evidence_with_gaps(self, X, weight, n, n_rows, device):
        refuse_empty_columns(X, type(self).__name__)
        K, D = self._n_components(X.shape[1], n_rows), X.shape[1]
        origin, variance = column_means_and_variances(X, weight, ~np.isnan(X))
        table = Table(X, device, _FLOAT, weight=weight, shift=origin)
        size = rows_a_batch(self.batch_size, D, device)
        batches = table.batches(size, max(1, _PATTERN_CELLS // (K + 1) ** 2))
        if table.n_complete >= D:
            batches = _with_moments_first(batches)
        if isinstance(batches, list) or X.size <= _HELD_CELLS:
            batches = list(batches)
        return Evidence(batches, origin, _kept(variance, origin), n, n_rows, complete=False)

    def _report(self, fit, n, device):
        return {
            "loglike_": [bound * n for bound in fit.lower_bounds],
            "lower_bounds_": np.array(fit.lower_bounds),
            "n_iter_": fit.n_iter,
            "converged_": fit.converged,
            "n_samples_seen_": n,
            "device_": str(device),
        }

    def _ascend(self, model, evidence, start, attributes, X, y):
        """The `FitResult` of EM from a start; warns where `max_iter` was too few."""
        n_rows = evidence.n_rows
        plan = em.Plan(self.max_iter, lambda step: step.gain * n_rows < self.tol, evidence.n, accelerate=True)
        with FitWatcher(self, X, y, self.max_iter, attributes) as watcher:
            fit = em.ascend(model, evidence.batches, [start], plan=plan, watcher=watcher)
        if not fit.converged and fit.n_iter == self.max_iter:
            gain = np.diff(fit.lower_bounds[-2:]).sum() * n_rows
            warnings.warn(
                f"{type(self).__name__} did not converge: it stopped at max_iter={self.max_iter} with the "
                f"log-likelihood rising by {gain:.1e} nats (tol={self.tol:g}). Raise either.",
                ConvergenceWarning,
                stacklevel=5,
            )
        return fit

    # ---------------------------------------------------------------------------------------------------- prediction
    def _by_row(self, X, function):
        """Checked rows through `function` of (batch, params): an array of a row each, of the dtype of X."""
        device = inference_device(self.device)
        W = self._loadings()
        arrays = {"W": W, "psi": self._noise(), "mu": np.zeros(len(W))}
        params = fa.Params(**to_read(arrays, device, _FLOAT))
        table = Table(X, device, _FLOAT, shift=self.mean_)
        size = rows_a_batch(self.batch_size, X.shape[1], device)
        batches = table.batches(size, max(1, _PATTERN_CELLS // (W.shape[1] + 1) ** 2))
        return by_row(batches, len(X), lambda batch: function(batch, params), X.dtype)

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
        return self._reported(self._by_row(self._check_X(X, reset=False), self._score_function()))

    def _score_function(self):
        return _posterior_mean

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
        checked = self._check_X(X, reset=False)
        Z = self._by_row(checked, _posterior_mean)
        return imputed(X, checked, Z @ self._loadings().T + self.mean_)

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
        return self._by_row(self._check_X(X, reset=False), fa.log_prob)

    def get_covariance(self):
        """Covariance of x under the model, W W' + Psi.

        Returns
        -------
        covariance : ndarray of shape (n_features, n_features)
        """
        check_is_fitted(self)
        W = self._loadings()
        return (W @ W.T + np.diag(self._noise())).astype(self.mean_.dtype, copy=False)

    def get_precision(self):
        """Inverse of the covariance of x, by way of a matrix of n_components x n_components (Woodbury).

        Returns
        -------
        precision : ndarray of shape (n_features, n_features)
        """
        check_is_fitted(self)
        W, noise = self._loadings(), self._noise()
        precise = W / noise[:, None]
        M = np.eye(W.shape[1]) + W.T @ precise
        precision = np.diag(1 / noise) - precise @ np.linalg.solve(M, precise.T)
        return precision.astype(self.mean_.dtype, copy=False)

    def sample(self, n_samples=1, random_state=None):
        """Draw rows from the model.

        Parameters
        ----------
        n_samples : int, default=1
            How many.
        random_state : int, RandomState instance or None, default=None
            An int draws the same rows every time, None others at each call.

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
        noise = Noise(draw_seed(random_state))
        W = self._loadings()
        z = noise.fold("factors").normal(row, W.shape[1], _FLOAT).numpy()
        e = noise.fold("noise").normal(row, len(W), _FLOAT).numpy()
        return (self.mean_ + z @ W.T + e * np.sqrt(self._noise())).astype(self.mean_.dtype, copy=False)

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
        """Of X or of the rows that were fitted, and their weight."""
        check_is_fitted(self)
        if X is not None:
            return super()._log_likelihood(X, sample_weight)
        if sample_weight is not None:
            raise ValueError("sample_weight weighs the rows of X, but X is None; pass the rows too.")
        return self.loglike_[-1], self.n_samples_seen_

    def _n_parameters(self):
        """Of mean and covariance; never more than a covariance without structure has."""
        D, K = self._loadings().shape
        return D + min(D * K - K * (K - 1) // 2 + self._n_noises(D), D * (D + 1) // 2)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _n_rows(X, weight):
    """How many rows there are: a row of some weight is one, or as many as its weight says, if that is more.

    So a row given twice and a row of weight 2 say the same; parts have together as many as the whole; weights that sum
    to 1 do not make few rows of many; and it does not matter whether equal rows are merged later on, which depends on
    the size of the table.
    """
    return float(len(X)) if weight is None else float(np.maximum(weight, 1.0)[weight > 0].sum())


def _rough_centre(X):
    """About the mean, in columns that are far from 0 for their spread; None where none is."""
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is found in the sums
        probe = X[:: max(1, len(X) // _PROBED_ROWS)].astype(np.float64)
        mean = probe.mean(axis=0)
        far = np.abs(mean) > _OFF_CENTRE * probe.std(axis=0)
    return np.where(far, mean, 0.0) if far.any() else None


def _evidence_of(moments, device):
    variance = moments["S"].diagonal().copy()
    if not np.isfinite(variance).all():
        raise ValueError("X holds values whose squares overflow; scale it.")
    n, S = (torch.as_tensor(moments[name], dtype=_FLOAT, device=device) for name in ("n", "S"))
    batch = fa.Moments(n, torch.zeros(len(variance), dtype=_FLOAT, device=device), S)
    return Evidence([batch], moments["mean"], variance, moments["n"], moments["n_rows"], moments)


def refuse_underflow(model, variance):
    """Complain of columns that vary, but by so little that the least noise allowed is no full float64."""
    low = np.flatnonzero(model.floor.cpu().numpy() < np.finfo(np.float64).tiny)
    if len(low):
        raise ValueError(
            f"X holds values whose squares underflow: the variance is {variance[low].max():.3g} or less in column(s) "
            f"{', '.join(map(str, low[:10]))}; scale it."
        )


def _kept(variance, mean):
    """The variances, but 0 where only rounding makes a column vary."""
    return np.where(is_constant(variance, mean), 0.0, variance)


def _with_moments_first(batches):
    """Complete rows as their moments, which cost the same at every EM step however many they are."""
    complete, others = [], []
    for batch in batches:
        if batch.patterns is None:
            complete.append(fa.sums(batch))
        else:
            others.append(batch)
    total = complete[0] if len(complete) == 1 else functools.reduce(em.add, complete)
    return [fa.moments(total, torch.zeros(len(total.x), dtype=_FLOAT, device=batches.table.device)), *others]


def _posterior_mean(batch, params):
    return fa.posterior(batch, params).mean
