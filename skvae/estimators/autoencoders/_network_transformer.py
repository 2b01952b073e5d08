"""What estimators that are networks of a table share: the road from X to a fit and back.

X -> `Columns` -> `Layout` -> a fit (`_fits`) and its task -> `climb` -> what it comes to -> attributes
X -> `Columns` -> `Layout` -> `Work`: the fitted model and the rows that it is asked about
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from skvae._compat import fit_context
from skvae._tensors import (
    Noise,
    explain_out_of_memory,
    inference_device,
    placed,
    resolve_device,
    to_device,
    to_numpy,
    to_read,
    torch_dtype,
)
from skvae.engines import gradient, schedules
from skvae.estimators._base import Estimator
from skvae.estimators._checks import checked_sizes, draw_seed, refuse_another_architecture
from skvae.estimators._progress import NetworkWatcher
from skvae.models.decomposition import factor_analysis as fa
from skvae.tables import decoding, encoding
from skvae.tables.learning import measure_columns
from skvae.tables.weights import weigh
from skvae.training import defaults as policy
from skvae.training.fits import Plain, one_member
from skvae.training.layout import Layout, Start, batches, rows_at_once
from skvae.training.tasks import climb


class NetworkTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Estimator):
    """An estimator that compresses a table by a network.

    A subclass refuses parameters that contradict each other (`_check_consistent`) and says what is known of the columns
    (`_columns_of`), which model there is (`_architecture_of`, `_build`), whether rows that are held out vote
    (`_votes`), whether it starts from a linear model, which tells what to read in missing cells (`_starts_linear`), how
    a fit begins (`_beginning`) and in which units it is reported (`_in_units`), what "auto" stands for (`_auto`), what
    else is told of the result (`_summary`), and which rows a latent value stands for (`_means`). It has the parameters
    hidden_layer_sizes, activation, encoder, decoder, n_components, weight_decay, learning_rate, learning_rate_schedule,
    batch_size, max_iter, early_stopping, n_iter_no_change, tol, warm_start, device, random_state and verbose.
    """

    _watcher = NetworkWatcher

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
            Rows that vote, in place of a part of X.

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
        with self._unchanged_on_error(), explain_out_of_memory("lower batch_size"):
            prepared = self._prepare(X, sample_weight, X_val)
            if prepared.task is None:
                return self._finish(prepared)
            snapshot = partial(self._snapshot, prepared)
            with self._watcher(self, X, y, prepared.task.plan.max_iter, snapshot, prepared.in_units) as watcher:
                (outcome,) = climb([prepared.task], watcher)
            return self._finish(prepared, outcome)

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
        with self._unchanged_on_error(), explain_out_of_memory("lower batch_size"):
            prepared = self._prepare(X, sample_weight, one_pass=True)
            (outcome,) = climb([prepared.task])
            return self._finish(prepared, outcome)

    # ------------------------------------------------------------------------------------------- what a fit consists of
    # `StackedGridSearchCV` makes a fit by `_prepare` and `_finish`, too: in between it climbs with all tasks at once.
    def _prepare(self, X, sample_weight=None, X_val=None, *, one_pass=False):
        """Everything up to the ascent: a task for it (or None), and what its outcome means."""
        self._check_consistent()
        goes_on = (one_pass or self.warm_start) and hasattr(self, "parameters_")
        numbers, columns = self._read(X, goes_on)
        noise = Noise(draw_seed(self.random_state))
        numbers, weight = weigh(numbers, sample_weight)
        weight = np.ones(len(numbers)) if weight is None else weight
        custom = self._custom_likelihoods(columns)
        if not goes_on:
            columns = measure_columns(columns, numbers, weight, custom)
        x, observed = encoding.encode(numbers, columns)
        votes = not one_pass and self._votes(len(x), X_val is not None)
        if goes_on:
            with_mask = self._architecture["with_mask"]
        else:
            with_mask = observed is not None and not self._starts_linear(columns, votes)
        rows = Layout(columns, x, observed, weight / weight.mean(), resolve_device(self.device), with_mask, custom)
        architecture = self._architecture_of(columns, with_mask)
        if goes_on:
            architecture = self._architecture | architecture
            fit = self._going_on(rows, noise, architecture, one_pass)
        else:
            held = None if X_val is None else self._held_out(rows, X_val)
            fit = self._beginning(rows, held, noise, architecture, votes, one_pass)
        before = self._seen_before(goes_on, one_pass, weight.sum())
        return Prepared(
            rows, architecture, fit, self._in_units(columns, numbers, weight), before, one_pass or self.warm_start
        )

    def _read(self, X, goes_on):
        """X as numbers, and what is known of its columns."""
        columns = self._columns if goes_on else self._columns_of(X)
        numbers = self._numbers(columns, X, reset=not goes_on)
        if goes_on:
            encoding.refuse_changed_constants(numbers, columns)
        return numbers, columns

    def _held_out(self, rows, X_val):
        """Rows to judge by."""
        if not self.early_stopping:
            raise ValueError(
                "X_val decides when to stop, but early_stopping=False never asks; leave X_val out, or use "
                "early_stopping=True."
            )
        numbers = self._numbers(rows.columns, X_val, reset=False)
        if np.isnan(numbers).all():
            raise ValueError("X_val has no observed cell to judge by; leave it out, or give rows with values.")
        x, observed = encoding.encode(numbers, rows.columns)
        return replace(rows, x=x, observed=observed, weight=np.ones(len(x)))

    def _architecture_of(self, columns, with_mask):
        """What fixes the shapes and the meaning of the parameters."""
        return {
            "columns": columns.architecture(),
            "n_components": int(self.n_components),
            "hidden_layer_sizes": checked_sizes(self.hidden_layer_sizes),
            "activation": self.activation,
            "encoder": self.encoder,
            "decoder": self.decoder,
            "with_mask": with_mask,
        }

    def _going_on(self, rows, noise, architecture, one_pass):
        """The fit of an estimator that goes on from its parameters."""
        refuse_another_architecture(self, architecture)
        model = self._build(rows.columns, architecture)
        params = one_member(self._params_to_go_on(model, rows))
        optimizer_state = one_member(to_device(self._optimizer_state, rows.device)) or None
        start = self._fitted_start()
        begins_linear = start is not None and start.base is not None
        plan = self._plan(len(rows), one_pass=one_pass, begins_linear=begins_linear)
        return Plain(model, rows, noise, plan, params, start, optimizer_state)

    def _params_to_go_on(self, model, rows):
        """The fitted parameters, as tensors to move."""
        return to_device(self.parameters_, rows.device)  # copies: an ascent moves what it is given

    def _plan(self, n, *, votes=False, one_pass=False, begins_linear=False):
        auto = self._auto(n, votes, begins_linear or one_pass)
        chosen = {name: value if getattr(self, name) == "auto" else getattr(self, name) for name, value in auto.items()}
        chosen["batch_size"] = min(chosen["batch_size"], n)
        n_batches = math.ceil(n / chosen["batch_size"])
        beta, settles = self._weight_of_kl(one_pass)
        return gradient.Plan(
            **chosen | ({"max_iter": 1} if one_pass else {}),
            weight_decay=self.weight_decay,
            rate_schedule=getattr(schedules, "constant" if one_pass else self.learning_rate_schedule),
            beta=beta,
            patience=self.n_iter_no_change if votes else None,
            tol=self.tol,
            validate_every=policy.validate_every(n, n_batches),
            earliest_stop=settles() if votes else 0.0,
            first_epoch=getattr(self, "n_iter_", 0) if one_pass or self.warm_start else 0,
        )

    def _weight_of_kl(self, one_pass):
        """Its schedule, and what tells the fraction of the fit at which it is done rising."""
        return schedules.constant, lambda: 0.0

    def _seen_before(self, goes_on, one_pass, n_seen):
        """Records that a fit which goes on adds to."""
        if not goes_on:
            return {"n_iter_": 0, "lower_bounds_": [], "validation_scores_": [], "n_samples_seen_": n_seen}
        names = ("n_iter_", "lower_bounds_", "validation_scores_")
        before = self.n_samples_seen_ if one_pass else 0.0
        return {name: getattr(self, name) for name in names} | {"n_samples_seen_": before + n_seen}

    # --------------------------------------------------------------------------------------------------- what it leaves
    def _finish(self, prepared, outcome=None):
        """Set what the fit comes to; of a fit without a task, there is no outcome."""
        return self._set(**self._attributes(prepared, prepared.fit.settled(outcome)))

    def _attributes(self, prepared, settled):
        """All fitted attributes."""
        rows, before = prepared.rows, prepared.before
        columns = rows.columns
        found = {
            "parameters_": to_numpy(settled.params),
            "device_": str(rows.device),
            "n_iter_": before["n_iter_"] + settled.n_iter,
            "n_samples_seen_": before["n_samples_seen_"],
            "lower_bounds_": np.append(before["lower_bounds_"], prepared.in_units(settled.lower_bounds)),
            "validation_scores_": np.append(before["validation_scores_"], prepared.in_units(settled.validation_scores)),
            "_columns": columns,
            "_architecture": prepared.architecture,
            "_start": _as_arrays(settled.start),
            "_optimizer_state": to_numpy(settled.optimizer_state) if prepared.goes_on else {},
        }
        return found | self._summary(prepared, settled)

    def _snapshot(self, prepared, params):
        """The attributes at some point of the ascent: of the first start's first copy."""
        return self._attributes(prepared, prepared.fit.snapshot(params))

    def _fitted_start(self):
        """The linear models beside the network, or None."""
        return None if self._start is None else Start(*map(_as_params, self._start))

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
        model, params = self._model_at(device, dtype)
        parts = placed(Z, device, dtype).split(rows_at_once(model.n_outputs))
        with torch.no_grad():
            means = [self._means(model, params, part[None])[0] for part in parts]
        return self._as_given(torch.cat(means).cpu().numpy())

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

    # -------------------------------------------------------------------------------------------- what prediction needs
    def _check_X(self, X):
        check_is_fitted(self)
        return self._numbers(self._columns, X, reset=False)

    def _numbers(self, columns, X, *, reset):
        """X as numbers, NaN where missing, after all of scikit-learn's checks: of a frame, first of its names."""
        frame = hasattr(X, "iloc")
        if frame:
            validate_data(self, X, reset=reset, skip_check_array=True)
        numbers = encoding.as_numbers(X, columns, self._custom_likelihoods(columns))
        if not frame:
            validate_data(self, X, reset=reset, skip_check_array=True)
        return check_array(
            numbers,
            dtype=[np.float64, np.float32],
            ensure_all_finite="allow-nan",
            estimator=type(self).__name__,
            input_name="X",
        )

    def _custom_likelihoods(self, columns):
        """The user's own likelihood objects of these columns, by signature."""
        return {}

    def _fitted_model(self):
        return self._build(self._columns, self._architecture)

    def _model_at(self, device, dtype):
        """The fitted model, and its parameters as tensors with an axis of members."""
        return self._fitted_model(), one_member(to_read(self.parameters_, device, dtype))

    def _at_work(self, X):
        """The fitted model and these rows."""
        numbers = self._check_X(X)
        device, dtype = inference_device(self.device), torch_dtype(numbers.dtype)
        x, observed = encoding.encode(numbers, self._columns)
        with_mask, custom = self._architecture["with_mask"], self._custom_likelihoods(self._columns)
        rows = Layout(self._columns, x, observed, np.ones(len(x)), device, with_mask, custom)
        model, params = self._model_at(device, dtype)
        return Work(model, params, rows, self._fitted_start(), dtype, numbers)

    def _as_given(self, values):
        """Values of the model layout in the units and, where they are not plain numbers, the types of X."""
        numbers = decoding.decode(values, self._columns).astype(values.dtype, copy=False)
        return numbers if self._columns.all_numbers else decoding.restore(numbers, self._columns)

    @property
    def _n_features_out(self):
        return self._architecture["n_components"]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _as_arrays(start):
    return None if start is None else tuple(None if part is None else to_numpy(part._asdict()) for part in start)


def _as_params(arrays):
    return None if arrays is None else fa.Params(**{name: torch.from_numpy(array) for name, array in arrays.items()})


@dataclass
class Prepared:
    """A fit before its ascent.

    Attributes
    ----------
    rows : Layout
    architecture : dict
    fit : object of `_fits`
    in_units : callable
        Nats (or errors) of the model layout -> those of the data as given.
    before : dict
        Records of what went before.
    goes_on : bool
        Whether another fit may go on from this one.
    """

    rows: Layout
    architecture: dict
    fit: object
    in_units: Callable
    before: dict
    goes_on: bool

    @property
    def task(self):
        return self.fit.task


@dataclass
class Work:
    """A fitted model and the rows that it is asked about."""

    model: object
    params: dict
    rows: Layout
    start: Start | None
    dtype: torch.dtype
    numbers: np.ndarray

    @property
    def out(self):
        return self.numbers.dtype

    @torch.no_grad()
    def by_row(self, function, n_draws=1):
        """`function` of every batch, a row's result each, as one array."""
        size = rows_at_once(self.model.n_outputs * n_draws)
        parts = [function(batch) for _, batch in batches(self.rows, self.start, self.model, self.dtype, size)]
        return torch.cat(parts).cpu().numpy()
