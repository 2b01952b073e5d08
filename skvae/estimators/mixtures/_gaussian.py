"""What the mixtures of Gaussians share, fitted by expectation maximisation or by variational inference."""

import contextlib
import functools
from numbers import Real

import numpy as np
import torch

from skvae import _reduce
from skvae._compat import Interval, StrOptions
from skvae._tensors import Table, inference_device, rows_a_batch
from skvae.engines import em
from skvae.estimators.mixtures._mixture import BaseMixture
from skvae.estimators.mixtures._starts import checked_shape, initial_responsibilities
from skvae.models.mixtures.gaussian_mixture import DiagonalGaussianMixture, FullGaussianMixture
from skvae.tables.checks import refuse_overflow
from skvae.tables.column_statistics import column_means_and_variances
from skvae.tables.frames import imputed

_MODELS = {
    "full": (FullGaussianMixture, False),
    "tied": (FullGaussianMixture, True),
    "diag": (DiagonalGaussianMixture, False),
    "spherical": (DiagonalGaussianMixture, True),
}


class BaseGaussianMixture(BaseMixture):
    """Base class of mixtures of Gaussians: tables, the shapes of covariances, first guesses, imputation."""

    _parameter_constraints = {
        **BaseMixture._parameter_constraints,
        "covariance_type": [StrOptions(set(_MODELS))],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
    }

    _n_hashed = 2  # as a rule two columns of real numbers tell rows apart

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
        origin = torch.as_tensor(self._fitted_origin(), device=inference_device(self.device))
        filled = self._by_row(checked, lambda model, batch, params: model.fill(batch, params) + origin)
        return imputed(X, checked, filled)

    # ---------------------------------------------------------------------------------------- what every mixture gives
    def _gaussian_model(self, n_components, floor):
        """The model of the E-step."""
        family, pooled = _MODELS[self.covariance_type]
        return family(n_components, pooled=pooled, floor=floor)

    def _fitted_gaussian_model(self):
        # It knows the floor that was added: a step of stepwise EM takes that off, and adds the present one.
        return self._gaussian_model(len(self.weights_), getattr(self, "_fitted_floor", float(self.reg_covar)))

    def _coded(self, X, learnt):
        refuse_overflow(X, np.float64)
        return X

    def _table(self, X, device, weight=None, *, to_fit):
        """Rows measured from their mean, which keeps digits, or from that of the fitted mixture."""
        if not to_fit:
            return Table(X, device, weight=weight, shift=self._fitted_origin())
        if X.dtype != np.float64:  # `_coded` has asked it of float64
            refuse_overflow(X)
        complete = not _reduce.largest(bool(np.isnan(np.sum(X))))
        if _reduce.is_shared():
            seen = None if complete else ~np.isnan(X)
            origin = column_means_and_variances(X, weight, seen)[0].astype(X.dtype).astype(np.float64)
        elif not complete:
            origin = column_means_and_variances(X, weight, ~np.isnan(X))[0]
        elif weight is None:
            origin = X.mean(axis=0).astype(np.float64)
        else:
            origin = np.average(X, axis=0, weights=weight).astype(np.float64)
        return Table(X, device, weight=weight, shift=origin, allow_missing=not complete)

    def _batches(self, table, model):
        n_columns = table.shape[1]
        size = rows_a_batch(self.batch_size, model.row_width(n_columns), table.device)
        return table.batches(size, model.incomplete_rows(n_columns), in_turn=True)

    @contextlib.contextmanager
    def _explain_errors(self):
        try:
            yield
        except torch.linalg.LinAlgError as error:
            raise ValueError(
                # The first two sentences are scikit-learn's: scripts look for them.
                "Fitting the mixture model failed because some components have ill-defined empirical covariance (for "
                "instance caused by singleton or collapsed samples). Try to decrease the number of components, "
                f"increase reg_covar, or scale the input data. They are number {error} of {self.n_components} "
                f"(reg_covar is now {self.reg_covar:g})."
            ) from error

    def _gaussian_attributes(self, params, table):
        """Fitted attributes that say which Gaussians the mixture has, from parameters of the E-step's model."""
        root = params.root
        pick = {"tied": lambda a: a[0], "spherical": lambda a: a[:, 0]}.get(self.covariance_type, lambda a: a)
        return {
            "weights_": params.pi,
            "means_": params.mu + table.shift,
            "covariances_": pick(params.sigma),
            "precisions_cholesky_": pick(root),
            "precisions_": pick(root @ root.mT if root.dim() == 3 else root.square()),
            "_fitted_type": self.covariance_type,
            "_fitted_floor": float(self.reg_covar),
        }

    def _fitted_origin(self):
        """The mean of the fitted mixture, an ndarray (D,)."""
        weights = np.asarray(self.weights_, dtype=np.float64)
        return weights / weights.sum() @ self.means_

    def _covariances(self):
        """Fitted covariances as float64; an error if `covariance_type` is no longer that of the fit."""
        # The shape alone does not tell "tied" from "diag" where there are as many components as columns.
        same = getattr(self, "_fitted_type", self.covariance_type) == self.covariance_type
        if not same or self.covariances_.shape != self._covariance_shape(*self.means_.shape):
            raise ValueError(
                f"covariance_type={self.covariance_type!r} is not that of the fit, whose covariances_ have the shape "
                f"{self.covariances_.shape}; set it back, or fit a clone."
            )
        if self.covariances_.dtype == np.float64 or self.covariance_type in ("diag", "spherical"):
            return np.asarray(self.covariances_, dtype=np.float64)
        # Rounded to float32 a matrix may no longer be positive definite; the root of its inverse still gives one.
        root = np.linalg.inv(self.precisions_cholesky_.astype(np.float64))
        return root.swapaxes(-1, -2) @ root

    def _covariance_shape(self, K, D):
        return {"full": (K, D, D), "tied": (D, D), "diag": (K, D), "spherical": (K,)}[self.covariance_type]

    def _as_model(self, array):
        """Give covariances (or precisions), shaped as the attribute is, the axes that the model expects."""
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

    def _first_stats(self, model, table, noise):
        """Statistics of all rows for first guesses of the responsibilities, and the variances of the columns.

        The variances are None where no cell is missing.
        """
        points = functools.partial(self._points, model, table)
        seen = ~np.isnan(table.X) if _reduce.largest(table.patterns is not None) else None
        variance = column_means_and_variances(table.X, table.weight.numpy(), seen)[1]
        # Only of spherical components do the units of the columns matter.
        scale = None if self.covariance_type == "spherical" else np.sqrt(np.where(variance > 0, variance, 1))
        R = initial_responsibilities(self.init_params, table, points, model.n_components, noise, scale)
        variance = None if seen is None else torch.as_tensor(variance, dtype=table.dtype, device=table.device)

        def stats(batch):
            # A missing cell, 0, stands at the mean of its column: the guess takes it as if it were observed there.
            return model.stats_from_responsibilities(batch, R(batch._replace(observed=None)), variance)

        return em.summed(stats, self._batches(table, model)), variance

    def _checked_matrices(self, array, shape, name):
        """A parameter as covariances or precisions of a given shape, positive definite."""
        array = checked_shape(array, shape, name)
        if self.covariance_type in ("full", "tied"):
            for matrix in array.reshape(-1, *shape[-2:]):
                if not np.allclose(matrix, matrix.T) or np.any(np.linalg.eigvalsh(matrix) <= 0.0):
                    raise ValueError(f"'{name}' should be symmetric, positive-definite")
        elif np.any(array <= 0.0):
            raise ValueError(f"'{name}' should be positive")
        return array

    def _points(self, model, table, index):
        points = table.X.take(index, 0) - table.shift.cpu().numpy()
        return points if table.patterns is None else np.nan_to_num(points)
