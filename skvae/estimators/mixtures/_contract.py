"""What a kind of mixture gives, so that `BaseMixture` can fit it and use it: of its model, and of its estimator."""

import abc
import contextlib
import functools
from typing import Protocol

import numpy as np

from skvae._tensors import Table, rows_a_batch
from skvae.engines import em
from skvae.estimators.mixtures._starts import initial_responsibilities
from skvae.tables.column_statistics import column_means_and_variances


class MixtureModel(em.EMModel, Protocol):
    """What a mixture's estimator wants of its model, beside the steps that the EM engine wants.

    Batches are `TableBatch`: X (n_rows, n_columns) holds 0 where a cell is missing, `observed` tells where (None: no
    cell is), `w` (n_rows,) holds the weights of the rows. Components come first in all that is returned for each row:
    the shape is (K, n_rows). The first M-step is asked with params=None.
    """

    n_components: int

    def log_joint(self, batch, params):
        """log p(x_n, z_n = k) of the observed cells, of shape (K, n_rows)."""

    def stats_from_responsibilities(self, batch, R):
        """Statistics of a batch whose row n belongs to component k by the share R[k, n]; their bound is 0."""

    def stats_from_params(self, params, weight):
        """Statistics of rows of this total weight, by which the M-step finds these parameters."""


class MixtureContract(abc.ABC):
    """What a kind of mixture gives: the abstract methods, and of the others those whose default does not suit it.

    Nothing may be set on the estimator in any of them: `fit` sets all attributes together, once it has succeeded.
    """

    # -------------------------------------------------------------------------------------------------------- required
    @abc.abstractmethod
    def _model(self, n_components, learnt):
        """The `MixtureModel` of this many components, for columns of which `_learn` found `learnt`."""

    @abc.abstractmethod
    def _attributes(self, params, table, learnt):
        """Fitted attributes by name, `weights_` (K,) among them; tensors become arrays of the dtype of X."""

    @abc.abstractmethod
    def _fitted_params(self, model, table):
        """Parameters from the fitted attributes, as float64 on `table.device`: the inverse of `_attributes`."""

    @abc.abstractmethod
    def _n_parameters(self):
        """Number of free parameters of the fitted model."""

    @abc.abstractmethod
    def _draw(self, labels, noise):
        """Draw a row from each component that the int ndarray `labels` names: an ndarray (n_rows, n_features)."""

    # -------------------------------------------------------------------------------------------------------- optional
    def _learn(self, X):
        """What the model must know of the columns beforehand, such as their categories; default: None, nothing."""
        return None

    def _learnt(self):
        """What `_learn` found in the last fit, from the fitted attributes."""
        return None

    def _coded(self, X, learnt):
        """Rows as the model reads them, or an error that says why it cannot read them; default: X as it is."""
        return X

    def _condensed(self, X, weight, learnt):
        """Fewer rows and their weights that say the same as these; default: the same rows."""
        return X, weight

    def _table(self, X, device, weight=None, *, to_fit):
        """Rows placed on a device: those to fit to, or those for which a fitted model is used; default: as they are."""
        return Table(X, device, weight=weight)

    def _batches(self, table, model):
        """The batches of a table, each so large that what the model computes of it stays in the caches."""
        width = max(table.shape[1], model.n_components)
        return table.batches(rows_a_batch(self.batch_size, width, table.device), in_turn=True)

    def _points(self, model, table, index):
        """Rows of a table as points for K-means, none of their cells missing; default: as they are, filled by means."""
        X = table.X[index]
        seen = ~np.isnan(X)
        return np.where(seen, X, column_means_and_variances(X, seen=seen)[0])

    def _init_params(self, model, table, noise, learnt):
        """Parameters that one restart begins from; default: those of the M-step from first guesses of the posterior."""
        points = functools.partial(self._points, model, table)
        R = initial_responsibilities(self.init_params, table, points, model.n_components, noise)
        batches = self._batches(table, model)
        return model.m_step(em.summed(lambda batch: model.stats_from_responsibilities(batch, R(batch)), batches), None)

    def _fitted_model(self):
        """The model of the last fit, whatever `n_components` has been set to since."""
        return self._model(len(self.weights_), self._learnt())

    @contextlib.contextmanager
    def _explain_errors(self):
        """Turn errors of the model into such as tell the user what to do; default: leave them as they are."""
        yield
