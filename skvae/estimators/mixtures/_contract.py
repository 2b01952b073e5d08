"""What `BaseMixture` wants of a kind of mixture: methods of its model, and methods of its estimator."""

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
    """What a mixture's estimator wants of its model, beside the three steps of the EM engine.

    A batch is a `TableBatch`. Its `X` (n_rows, n_columns) is 0 where a cell is missing; `observed`, of the same shape,
    is 0 there and 1 elsewhere, or None where no cell of the batch is missing; `w` (n_rows,) has the weights of the
    rows. Numbers for each row and component have the shape (K, n_rows), components first. The M-step that finds the
    initial parameters is called with params=None.
    """

    n_components: int

    def log_joint(self, batch, params):
        """log p(x_n, z_n = k) of the observed cells, of shape (K, n_rows)."""

    def stats_from_responsibilities(self, batch, R):
        """Statistics of a batch, with a bound of 0, if row n belongs to component k by the share R[k, n]."""

    def stats_from_params(self, params, weight):
        """Statistics of rows of this total weight from which the M-step finds these parameters."""


class MixtureContract(abc.ABC):
    """Methods that a kind of mixture gives: the abstract ones, and others where the default does not suit it.

    None of them may set anything on the estimator: `fit` sets all attributes together, once it has succeeded.
    """

    _n_hashed = None  # `weigh` sorts rows by so many columns at a time; None: by all at once, where many rows are equal

    # -------------------------------------------------------------------------------------------------------- required
    @abc.abstractmethod
    def _model(self, n_components, learnt):
        """Make the `MixtureModel` of this many components, for columns of which `_learn` found `learnt`."""

    @abc.abstractmethod
    def _attributes(self, params, table, learnt):
        """Turn parameters into a dict of fitted attributes, `weights_` among them; tensors become arrays later."""

    @abc.abstractmethod
    def _fitted_params(self, model, table):
        """Turn fitted attributes back into parameters, as tensors of `table.dtype` on `table.device`."""

    @abc.abstractmethod
    def _n_parameters(self):
        """Count the free parameters of the fitted model."""

    @abc.abstractmethod
    def _draw(self, labels, noise):
        """Draw a row for each of the ndarray `labels`, from that component; an ndarray (n_labels, n_features)."""

    # -------------------------------------------------------------------------------------------------------- optional
    def _learn(self, X):
        """Learn what the model must know of the columns before EM, such as categories; default: nothing, None."""
        return None

    def _learnt(self):
        """Rebuild what `_learn` found in the last fit from the fitted attributes; default: None."""
        return None

    def _coded(self, X, learnt):
        """Turn checked rows into rows that the model reads, or raise a ValueError; default: X as it is."""
        return X

    def _condensed(self, X, weight, learnt):
        """Replace rows and their weights by fewer that have the same likelihood; default: the same rows."""
        return X, weight

    def _table(self, X, device, weight=None, *, to_fit):
        """Place rows on a device, to fit to them or to use the fitted model on them; default: as they are."""
        return Table(X, device, weight=weight)

    def _n_restarts(self, model, table):
        """Number of restarts of a fit that begins afresh; default: `n_init`."""
        return self.n_init

    def _batches(self, table, model):
        """Cut a table into batches that suit the caches; default: for K numbers a row, or its cells if more."""
        width = max(table.shape[1], model.n_components)
        return table.batches(rows_a_batch(self.batch_size, width, table.device), in_turn=True)

    def _points(self, model, table, index):
        """Turn some rows of a table into points for K-means; default: rows with missing cells filled by means."""
        X = table.X[index]
        seen = ~np.isnan(X)
        return np.where(seen, X, column_means_and_variances(X, seen=seen)[0])

    def _initial_params(self, model, table, noise, learnt):
        """Compute the parameters that one restart begins from; default: an M-step from first guesses of R."""
        points = functools.partial(self._points, model, table)
        R = initial_responsibilities(self.init_params, table, points, model.n_components, noise)
        batches = self._batches(table, model)
        return model.m_step(em.summed(lambda batch: model.stats_from_responsibilities(batch, R(batch)), batches), None)

    def _fitted_model(self):
        """Make the model of the last fit, whatever `n_components` has been set to since."""
        return self._model(len(self.weights_), self._learnt())

    @contextlib.contextmanager
    def _explain_errors(self):
        """Replace errors of the model by errors that tell the user what to do; default: none is replaced."""
        yield
