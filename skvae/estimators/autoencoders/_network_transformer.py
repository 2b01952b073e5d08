"""The way of a table through a network: from X to a fit, and from X to predictions.

X -> `Columns` -> `TableRows` -> `Training` -> `Ascent` (the gradient engine) -> fitted attributes
X -> `Columns` -> `TableRows` -> `FittedRows`: the fitted model and the rows that it is asked about
"""

import abc
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from skvae import _reduce
from skvae._compat import Interval, fit_context
from skvae._tensors import (
    Noise,
    alias,
    dtype_of,
    inference_device,
    placed,
    resolve_device,
    to_numpy,
    to_read,
    torch_dtype,
)
from skvae.estimators._checks import (
    agree_in_columns,
    agree_in_state,
    checked_layers,
    checked_sizes,
    column_names,
    draw_seed,
    refuse_another_architecture,
    refuse_other_modules,
    refuse_too_few,
)
from skvae.estimators._network import NetworkEstimator, PreparedFit
from skvae.models.decomposition import factor_analysis as fa
from skvae.tables import decoding, encoding
from skvae.tables.checks import refuse_gaps, refuse_overflow
from skvae.tables.column_likelihoods import likelihood_of
from skvae.tables.columns import listed
from skvae.tables.frames import as_table, is_frame
from skvae.tables.learning import columns_of_all, measure_columns
from skvae.tables.weights import scaled, spread, together_if_small, weigh
from skvae.training import defaults
from skvae.training.ascent import SingleNetwork
from skvae.training.continuation import Continuation
from skvae.training.members import one_member
from skvae.training.plan import CONSTANT_WEIGHT, make_plan, settle
from skvae.training.rows import LinearPath, TableRows, batches, rows_at_once

_HUGE = 1e15  # of a scaled cell, from which float32 does not hold squares that are divided by a small variance


class TableNetwork(NetworkEstimator):
    """An estimator that fits a network to a table.

    A subclass has the parameters hidden_layer_sizes, activation, n_components, learning_rate, learning_rate_schedule,
    batch_size, max_iter, early_stopping, n_iter_no_change, tol, warm_start, precision, device, data_parallel,
    random_state and verbose.
    """

    _parameter_constraints = {
        **NetworkEstimator._parameter_constraints,
        "tol": [Interval(Real, 0, None, closed="left")],
        "data_parallel": ["boolean"],
    }

    weight_decay = 0.0  # of a subclass without the parameter
    _reads_gaps = True  # whether cells may be missing

    # -------------------------------------------------------------------------------------- what a subclass gives
    @abc.abstractmethod
    def _check_consistent(self):
        """Refuse parameters that contradict each other."""

    @abc.abstractmethod
    def _read_columns(self, X):
        """Learn the likelihoods and the levels of the columns of X; returns `Columns`."""

    @abc.abstractmethod
    def _decisions(self, columns, n_rows, *, given, continuation):
        """What a fit that begins anew does with its rows.

        Parameters
        ----------
        columns : Columns
        n_rows : int
            Before equal rows were merged.
        given : bool
            Whether rows were given to decide when to stop.
        continuation : Continuation

        Returns
        -------
        validates : bool
            Whether held-out rows decide when to stop.
        fills : bool
            Whether a linear model fills missing cells for the encoder, which else reads which cells were seen.
        """

    @abc.abstractmethod
    def _begin(self, model, rows, held_out, noise, *, validates, fills, continuation):
        """The `Training` of an estimator that begins anew.

        Parameters
        ----------
        model : EncoderDecoder or GAN
        rows : TableRows
        held_out : TableRows or None
            Rows that were given to decide when to stop.
        noise : Noise
        validates, fills : bool
            As of `_decisions`.
        continuation : Continuation
        """

    @abc.abstractmethod
    def _build(self, columns, architecture):
        """The model of an architecture, an `EncoderDecoder` or a `GAN`."""

    @abc.abstractmethod
    def _auto(self, n_rows, *, validates, from_linear):
        """Defaults that replace "auto", as a dict: learning_rate, batch_size and max_iter.

        `from_linear`: whether the network begins as a linear model.
        """

    _fewest_rows = 1  # that a fit which begins anew may be of
    _layer = 0  # of latent values that `transform` gives, where there are several
    _units: Callable  # (columns, numbers, weight) -> a function from bounds of the model layout to those of the data

    def _architecture_of(self, columns, with_mask):
        """What fixes the shapes and the meaning of the parameters, in plain values."""
        return {
            "columns": columns.architecture(),
            "n_components": checked_layers(self.n_components),
            "hidden_layer_sizes": checked_sizes(self.hidden_layer_sizes),
            "activation": self.activation,
            "with_mask": with_mask,
        }

    def _kl_weight(self, continuation):
        """The `KLWeight` over the fit; default: of a model without a KL term."""
        return CONSTANT_WEIGHT

    def _custom_likelihoods(self, columns):
        """The user's own likelihood objects of these columns, by signature."""
        return {}

    def _params_to_go_on(self, model, earlier, rows):
        """The parameters of an earlier fit, as tensors that an ascent may move."""
        return earlier.params_on(rows.device, rows.dtype)

    # ---------------------------------------------------------------------------------------------------------- fitting
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None, X_val=None):
        """Fit the network to the rows of X.

        Parameters
        ----------
        X : {array-like, DataFrame} of shape (n_samples, n_features)
            NaN (in a DataFrame also None and NA) where a cell is missing; what was observed of a row is fitted.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            How often each row counts.
        X_val : {array-like, DataFrame} of shape (n_validation_samples, n_features) or None, default=None
            Held-out rows that decide when to stop, in place of a part of X. A warm start from an earlier fit has no
            early stopping and does not use them.

        Returns
        -------
        self : object
            The estimator, fitted.

        Raises
        ------
        ValueError
            If X holds infinity, what a column cannot have, or a column without any observed value, or if a
            parameter is out of its range or contradicts another.
        FloatingPointError
            If the objective diverges even at half the learning rate.
        """
        given = {"sample_weight": sample_weight, "X_val": X_val}
        with self._fitting(), self._resumable(X, **given):
            return self._taken_ahead(X, **given) or self._run(self._prepare(X, self._continuation, **given), X, y)

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, sample_weight=None):
        """Make one pass over the rows of X, at a constant learning rate, without annealing or early stopping.

        The first call settles what is known of the columns: scales, levels, and which are constant. A fit that ended as
        factor analysis goes on with noise of at least 0.001 of a column's variance, the least that a network learns
        with: where factor analysis explains a column in full, the first pass lowers the likelihood at once.

        Parameters
        ----------
        X : {array-like, DataFrame} of shape (n_samples, n_features)
            NaN where a cell is missing.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            How often each row counts.

        Returns
        -------
        self : object
            The estimator, fitted.
        """
        with self._fitting():
            return self._run(self._prepare(X, Continuation.PARTIAL_FIT, sample_weight))

    def _prepare(self, X, continuation, sample_weight=None, X_val=None):
        self._check_consistent()
        if continuation.continues:
            agree_in_state(self, "parameters_", "_optimizer_state", "n_iter_", "n_samples_seen_")
        _reduce.agree(X_val="no X_val" if X_val is None else "X_val")
        fitted = self._goes_on(continuation)
        columns = self._columns if fitted else self._columns_of_all(X)
        numbers = self._numbers_to_learn(columns, X, reset=not fitted, min_samples=1 if fitted else self._fewest_rows)
        if fitted:
            encoding.refuse_changed_constants(numbers, columns)
        held_out = None if X_val is None or fitted else self._numbers_held_out(columns, X_val)
        noise = Noise(draw_seed(self.random_state))
        with together_if_small(numbers, sample_weight) as (rows, weight):
            if held_out is not None and rows is not numbers:  # those of all processes
                with _reduce.together():
                    held_out = np.concatenate(_reduce.gathered(held_out))
            return self._prepared(columns, rows, weight, held_out, noise, continuation)

    def _prepared(self, columns, numbers, sample_weight, numbers_held_out, noise, continuation):
        """The fit to checked rows; in a shared fit those of all processes if they are few."""
        fitted = self._goes_on(continuation)
        numbers, weight = spread(*weigh(numbers, sample_weight), defaults.LEAST_BATCH)
        count, weight = weight, np.ones(len(numbers)) if weight is None else weight
        custom = self._custom_likelihoods(columns)
        if not fitted:
            columns = measure_columns(columns, numbers, weight, custom)
        x, observed = _encoded(numbers, columns)
        device, dtype = resolve_device(self.device), dtype_of(self.precision)
        rows = TableRows(columns, x, observed, scaled(weight), device, dtype, custom=custom, count=count)
        earlier = self._earlier(continuation, _reduce.count(weight.sum()))
        if fitted:
            with_mask = self._architecture["with_mask"]
        else:
            given = numbers_held_out is not None
            validates, fills = self._decisions(columns, rows.n_observations, given=given, continuation=continuation)
            with_mask = observed is not None and not fills
        rows = replace(rows, with_mask=with_mask)
        architecture = self._architecture_of(columns, with_mask)
        model = self._build(columns, architecture)
        architecture |= model.module_signatures()
        if fitted:
            refuse_another_architecture(self, architecture)
            architecture = self._architecture | architecture
            training = self._go_on(model, rows, noise, earlier, continuation)
        else:
            held_out = None if numbers_held_out is None else _held_out(rows, numbers_held_out)
            training = self._begin(
                model, rows, held_out, noise, validates=validates, fills=fills, continuation=continuation
            )
        in_units = self._units(columns, numbers, weight)
        is_spread = _reduce.is_shared() or not _reduce.is_in_company()
        return PreparedFit(training, architecture, earlier, device, rows, in_units, is_spread=is_spread)

    def _columns_of_all(self, X):
        """What is known of the columns before the numbers are read, from the rows of all processes."""
        has_rows = not _reduce.is_shared() or as_table(X, type(self).__name__).shape[0] > 0
        return columns_of_all(self._read_columns(X) if has_rows else None)

    def _numbers_to_learn(self, columns, X, **checks):
        """Rows of a fit, checked here; in float64 if the fit is."""
        numbers = _checked_numbers(self, columns, X, **checks)
        return numbers.astype(np.float64, copy=False) if self.precision == "float64" else numbers

    def _numbers_held_out(self, columns, X_val):
        """Rows that were given to decide when to stop, checked here."""
        if not self.early_stopping:
            raise ValueError(
                "X_val decides when to stop, but early_stopping=False never asks; leave X_val out, or use "
                "early_stopping=True."
            )
        numbers = self._numbers_to_learn(columns, X_val, reset=False)
        if not _reduce.largest(bool((~np.isnan(numbers)).any())):
            raise ValueError("X_val has no observed cell to judge by; leave it out, or give rows with values.")
        return numbers

    def _go_on(self, model, rows, noise, earlier, continuation):
        """The `Training` of an estimator that goes on from an earlier fit."""
        params = one_member(self._params_to_go_on(model, earlier, rows))
        optimizer_state = earlier.optimizer_state_on(rows.device, rows.dtype)
        optimizer_state = None if optimizer_state is None else one_member(optimizer_state)
        path = linear_path_of(self)
        from_linear = path is not None and path.posterior is not None
        plan = self._plan(rows.n_all, continuation=continuation, from_linear=from_linear, first_epoch=earlier.n_iter)
        return SingleNetwork(model, rows, noise, plan, params, linear_path=path, optimizer_state=optimizer_state)

    def _plan(self, n_rows, *, validates=False, continuation=Continuation.FRESH, from_linear=False, first_epoch=0):
        """The plan of a fit to so many rows, with everything that is "auto" settled."""
        auto = self._auto(n_rows, validates=validates, from_linear=from_linear or continuation.single_pass)
        settled = settle(self, auto) | {"weight_decay": self.weight_decay}
        return make_plan(
            self,
            settled,
            n_rows,
            continuation=continuation,
            kl=self._kl_weight(continuation),
            validates=validates,
            validate_every=defaults.validate_every(n_rows, settled["batch_size"]),
            first_epoch=first_epoch,
            precision=self._precision(settled["batch_size"]),
        )

    def _attributes_of(self, prepared, result):
        kept = prepared.training.conclude(result)
        if len(kept.without_noise):
            _warn_of_heywood(self, prepared.rows.columns, kept.without_noise)
        attributes = self._attributes(prepared, kept)
        self._warn_of(prepared, attributes)
        return attributes

    def _warn_of(self, prepared, attributes):
        """Warn of what the fitted attributes tell."""

    def _summary(self, prepared, kept):
        return {"_columns": prepared.rows.columns, "_linear_path": _as_arrays(kept.linear_path)}

    def _fitted_model(self):
        """The model of the fitted parameters; complain if its modules are others by now."""
        model = self._build(self._columns, self._architecture)
        refuse_other_modules(self, model.module_signatures())
        return model

    def _fitted_rows(self, X):
        """The fitted model and the rows of X, which are checked here."""
        check_is_fitted(self)
        numbers = _checked_numbers(self, self._columns, X, reset=False)
        refuse_overflow(numbers, np.float64)
        with_mask, custom = self._architecture["with_mask"], self._custom_likelihoods(self._columns)
        doubled = any(likelihood_of(block, self._columns, custom).in_float64 for block in self._columns.blocks)
        with np.errstate(over="ignore"):
            x, observed = encoding.encode(numbers.astype(np.float64) if doubled else numbers, self._columns)
        if x.dtype == np.float32 and max(x.max(), -x.min()) > _HUGE:
            x, observed = encoding.encode(numbers.astype(np.float64), self._columns)
        device, dtype = inference_device(self.device), torch_dtype(x.dtype)
        rows = TableRows(self._columns, x, observed, np.ones(len(x)), device, dtype, with_mask, custom)
        model, params = model_on(self, device, dtype)
        return FittedRows(model, params, rows, linear_path_of(self), dtype, numbers)


class NetworkTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, TableNetwork):
    """An estimator that compresses a table by a network.

    A subclass has the parameters of a `TableNetwork`, and encoder, decoder and weight_decay.
    """

    _parameter_constraints = {
        **TableNetwork._parameter_constraints,
        "encoder": [callable, None],
        "decoder": [callable, None],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
    }

    # ------------------------------------------------------------------------------------------------------- prediction
    def inverse_transform(self, X):
        """Rows that the model expects of given latent values.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_components)
            Latent values, as `transform` gives them.

        Returns
        -------
        X_original : {ndarray, DataFrame} of shape (n_samples, n_features)
            In the units of the data; the most probable level of categorical columns. A DataFrame where the fit was on
            one that holds more than numbers.
        """
        check_is_fitted(self)
        Z = check_array(X, dtype=[np.float64, np.float32])
        if Z.shape[1] != self._n_features_out:
            raise ValueError(f"X has {Z.shape[1]} columns, but the model has {self._n_features_out} components.")
        device, dtype = inference_device(self.device), torch_dtype(Z.dtype)
        model, params = model_on(self, device, dtype)
        parts = placed(Z, device, dtype).split(rows_at_once(model.n_outputs))
        with torch.no_grad():
            means = [model.mean_of_layer(params, part[None], self._layer)[0] for part in parts]
        return decoding.as_given(torch.cat(means).cpu().numpy(), self._columns)

    def reconstruct(self, X):
        """Give back each row as the latent dimensions hold it: ``inverse_transform(transform(X))``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing.

        Returns
        -------
        X_reconstructed : {ndarray, DataFrame} of shape (n_samples, n_features)
            As of `inverse_transform`; of a DataFrame one with its index and names.
        """
        check_is_fitted(self)
        return decoding.with_index_of(X, self.inverse_transform(self.transform(X)), self._columns)

    @property
    def _n_features_out(self):
        return self._architecture["n_components"]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _warn_of_heywood(estimator, columns, places):
    """Warn of columns of the model layout in which factor analysis found no noise."""
    number = np.concatenate([np.asarray(block.columns) for block in columns.blocks])
    low = listed(number[places], column_names(estimator))
    warnings.warn(
        f"{type(estimator).__name__} keeps factor analysis, which found no noise in column(s) {low} (a Heywood case: "
        f"its variance is at the floor); use fewer than {np.ravel(estimator.n_components)[0]} components, more rows, "
        "or drop columns that repeat others.",
        ConvergenceWarning,
        stacklevel=6,  # the caller of `fit`
    )


def _checked_numbers(estimator, columns, X, *, reset, min_samples=1):
    """X as numbers, NaN where missing, after all of scikit-learn's checks; those of a frame's names come first."""
    frame = is_frame(X)
    if frame:
        validate_data(estimator, X, reset=reset, skip_check_array=True)
    numbers = encoding.as_numbers(X, columns, estimator._custom_likelihoods(columns))
    if not frame:
        validate_data(estimator, X, reset=reset, skip_check_array=True)
    if not estimator._reads_gaps:
        refuse_gaps(numbers, columns)
    checked = check_array(
        numbers,
        dtype=[np.float64, np.float32],
        ensure_all_finite="allow-nan",
        ensure_min_samples=0 if _reduce.is_shared() else min_samples,
        estimator=type(estimator).__name__,
        input_name="X",
    )
    refuse_too_few(checked, min_samples)
    agree_in_columns(estimator, checked)
    return checked


def _encoded(numbers, columns):
    """`encoding.encode`, with the cells that were observed marked by all processes of a shared fit, or by none."""
    x, observed = encoding.encode(numbers, columns)
    some = _reduce.largest(observed is not None)
    return x, np.ones(x.shape, dtype=bool) if some and observed is None else observed


def _held_out(rows, numbers):
    """Rows that were given to decide when to stop, as `TableRows` beside those of training."""
    x, observed = _encoded(numbers, rows.columns)
    return replace(rows, x=x, observed=observed, weight=np.ones(len(x)), count=None)


def model_on(estimator, device, dtype):
    """The fitted model, and its parameters as tensors with an axis of members."""
    return estimator._fitted_model(), one_member(to_read(estimator.parameters_, device, dtype))


def modules_of(estimator, architecture):
    """The user's own encoder and decoder, as arguments of a model; None where a fit of this architecture had none."""
    return {name: getattr(estimator, name) if architecture.get(name, True) else None for name in ("encoder", "decoder")}


def linear_path_of(estimator):
    """The linear models beside a fitted network, or None."""
    if estimator._linear_path is None:
        return None
    models = ({name: alias(a) for name, a in (arrays or {}).items()} for arrays in estimator._linear_path)
    return LinearPath(*(fa.Params(**tensors) if tensors else None for tensors in models))


def _as_arrays(linear_path):
    if linear_path is None:
        return None
    return tuple(None if part is None else to_numpy(part._asdict()) for part in linear_path)


@dataclass(frozen=True)
class FittedRows:
    """A fitted model and the rows that it is asked about.

    Attributes
    ----------
    model : EncoderDecoder
    params : dict of Tensor
        With an axis of one member.
    rows : TableRows
    linear_path : LinearPath or None
    dtype : torch.dtype
    numbers : ndarray of shape (n_rows, n_features)
        The rows as numbers in the units of X.
    """

    model: object
    params: dict
    rows: TableRows
    linear_path: LinearPath | None
    dtype: torch.dtype
    numbers: np.ndarray

    @torch.no_grad()
    def by_row(self, function, n_draws=1):
        """Apply `function(batch)` to all rows in batches; its results, a row each, come as one array."""
        size = rows_at_once(self.model.n_outputs * n_draws)
        parts = [function(batch) for _, batch in batches(self.rows, self.linear_path, self.model, self.dtype, size)]
        return torch.cat(parts).cpu().numpy()
