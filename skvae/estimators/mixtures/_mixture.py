"""What every mixture does: restarts, EM, stepwise EM, and what follows from log p(x, z = k)."""

import math
import warnings

import numpy as np
import torch
from sklearn.base import DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from skvae._compat import check_sample_weight, fit_context
from skvae._tensors import Noise, Table, by_row, explain_out_of_memory, inference_device, resolve_device, rows_a_batch
from skvae.engines import em
from skvae.estimators._base import LikelihoodScoreMixin
from skvae.estimators._checks import check_n_samples, draw_seed, refuse_another_number
from skvae.estimators._progress import FitWatcher
from skvae.estimators.mixtures._starts import (
    SEEDING_ROWS,
    column_variance,
    few_lloyd_steps,
    keyed_sample,
    nearest_takes_all,
)
from skvae.models.clustering import kmeans_seeding as seeding
from skvae.models.mixtures.posterior import posterior
from skvae.tables.checks import refuse_empty_columns
from skvae.tables.weights import weigh

_SMALL_TOL = 1e-4  # from here down EM needs hundreds of steps where it is slow at all, and acceleration pays
_FORGETTING = 0.6  # kappa of Cappe and Moulines (2009): between 0.5 and 1


class MixtureMixin(LikelihoodScoreMixin, DensityMixin):
    """Fitting and using a mixture, whatever its components are.

    A subclass gives

    - `_model(n_components, learnt)`: the EM model, with log_joint, start, stats_of, moved and incomplete_rows
    - `_origin(X, weight)`: the point to measure rows from, or None
    - `_given(model, params, table, learnt)`: parameters with those that the user gave in place of the computed
    - `_attributes(params, origin, dtype, learnt)`: fitted attributes; `_parameters()`: back again, as (params, origin)
    - `_n_parameters()`, and `_draw(component, noise)`: rows drawn from the components of given numbers

    and, where columns must be learnt before the ascent, `_learn(X)` and `_learnt()`, the same of the last fit;
    `_coded(X, learnt)`: rows as the model reads them; and `_condensed(X, weight, learnt)`: fewer rows that say the
    same. Nothing is set on the estimator before the fit succeeds, but what scikit-learn sets as it checks X.
    """

    # ------------------------------------------------------------------------------------------------------- fitting
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None):
        """Raise the likelihood of X by expectation maximisation, from `n_init` starts; keep the best.

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
            If there are fewer rows than components, a column without any observed value, or a component collapses; or
            with `warm_start`, X or `n_components` do not go with the last fit.
        FloatingPointError
            If the likelihood is not finite.

        Warns
        -----
        ConvergenceWarning
            If the best start stopped at `max_iter`.
        """
        with self._unchanged_on_error(), explain_out_of_memory("lower batch_size"):
            goes_on = self.warm_start and hasattr(self, "converged_")
            return self._set(**self._ascended(X, y, sample_weight, goes_on))

    def fit_predict(self, X, y=None, sample_weight=None):
        """Fit to X and label its rows.

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
        labels : int64 ndarray of shape (n_samples,)
            Most probable component of each row.
        """
        return self.fit(X, y, sample_weight=sample_weight).predict(X)

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, sample_weight=None):
        """Take one step of stepwise EM with the rows of X; the first call, if none was fitted before, fits to them.

        The statistics of X under the present parameters enter those so far with the share (w / (w + w_before))**0.6,
        where w is the weight of X and w_before that of all rows seen before.

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
        Cappe and Moulines, *On-line expectation-maximization algorithm for latent data models*, JRSS B 71(3), 2009.
        """
        with self._unchanged_on_error(), explain_out_of_memory("lower batch_size"):
            if not hasattr(self, "converged_"):
                with warnings.catch_warnings():  # converged on what is only the first part would mean little
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    return self._set(**self._ascended(X, y, sample_weight, goes_on=False))
            self._refuse_other_components()
            return self._set(**self._step(self._read(X), sample_weight))

    def _validated(self, X, *, reset):
        return validate_data(
            self,
            X,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_all_finite="allow-nan",
            ensure_min_samples=2 if reset else 1,
        )

    def _learn(self, X):
        return None

    def _learnt(self):
        return None

    def _coded(self, X, learnt):
        return X

    def _condensed(self, X, weight, learnt):
        return X, weight

    def _read(self, X):
        """Checked rows as the fitted model reads them."""
        return self._coded(self._validated(X, reset=False), self._learnt())

    def _read_to_fit(self, X, sample_weight, goes_on):
        """Checked rows as the model reads them, their weights, and what was learnt of the columns."""
        checked, weight = self._validated(X, reset=not goes_on), None
        if sample_weight is not None:
            weight = check_sample_weight(sample_weight, checked, dtype=np.float64, ensure_non_negative=True)
        learnt = self._learnt() if goes_on else self._learn(checked)
        coded = self._coded(checked, learnt)
        self._refuse_unfit(coded, weight, goes_on)
        return *self._condensed(coded, weight, learnt), learnt

    def _refuse_unfit(self, checked, weight, goes_on):
        if len(checked) < self.n_components:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, "
                f"n_samples = {len(checked)}"
            )
        if goes_on:
            self._refuse_other_components()
        refuse_empty_columns(checked, type(self).__name__, weight)

    def _refuse_other_components(self):
        refuse_another_number(self, "components", len(self.weights_))

    def _ascended(self, X, y, sample_weight, goes_on):
        """Fitted attributes after an ascent on the rows of X."""
        checked, weight, learnt = self._read_to_fit(X, sample_weight, goes_on)
        device = resolve_device(self.device)
        rows, weight = weigh(checked, weight)
        total = float(len(rows) if weight is None else weight.sum())
        model, origin = self._model(self.n_components, learnt), self._origin(rows, weight)
        table = Table(rows, device, weight=weight, shift=origin)
        batches = self._batches(table, model)
        n_starts = 1 if goes_on else self.n_init
        if goes_on:
            starts = [self._moved_parameters(model, origin, device)]
        else:
            starts = self._starts(model, table, batches, Noise(draw_seed(self.random_state)), learnt)
        plan = em.Plan(
            self.max_iter,
            lambda step: abs(step.gain) < self.tol,
            total,
            accelerate=self._accelerates(),
            lower_bound=self.lower_bound_ if goes_on else -np.inf,
        )

        def attributes(params):
            return self._attributes(params, origin, checked.dtype, learnt)

        with (
            self._explained(),
            FitWatcher(
                self, X, y, self.max_iter, attributes, n_starts=n_starts, interval=self.verbose_interval
            ) as watcher,
        ):
            fit = em.ascend(model, batches, starts, plan=plan, watcher=watcher)
        self._warn_of(fit)
        return {
            **attributes(fit.params),
            "converged_": fit.converged,
            "n_iter_": fit.n_iter,
            "lower_bound_": fit.lower_bounds[-1] if fit.lower_bounds else -np.inf,
            "lower_bounds_": fit.lower_bounds,
            "n_samples_seen_": total,
            "device_": str(device),
        }

    def _accelerates(self):
        return self.acceleration == "squarem" or (self.acceleration == "auto" and 0 < self.tol < _SMALL_TOL)

    def _warn_of(self, fit):
        if fit.converged or not self.max_iter:
            return
        gain = fit.lower_bounds[-1] - fit.lower_bounds[-2] if fit.n_iter > 1 else np.inf
        warnings.warn(
            f"{type(self).__name__} did not converge: the best start stopped at iteration {fit.n_iter} "
            f"(max_iter={self.max_iter}) with the bound rising by {gain:.1e} nats/sample (tol={self.tol:g}). Raise "
            "either, try other init_params, or look for degenerate data.",
            ConvergenceWarning,
            stacklevel=5,  # who called `fit`
        )

    def _step(self, checked, sample_weight):
        """Fitted attributes after one step of stepwise EM."""
        device = resolve_device(self.device)
        rows, weight = weigh(checked, sample_weight)
        new = float(len(rows) if weight is None else weight.sum())
        model = self._fitted_model()
        params, origin = self._parameters(device)
        batches = self._batches(Table(rows, device, weight=weight, shift=origin), model)
        with self._explained():
            stats, _ = em.collect(model, batches, params)
            bound = float(model.bound(stats, params)) / new
            total = self.n_samples_seen_ + new
            share = (new / total) ** _FORGETTING
            before = self._stats_so_far(model, params, total)
            mixed = type(stats)(*((1 - share) * a + share * total / new * b for a, b in zip(before, stats)))
            found = model.m_step(mixed, params)
        return {
            **self._attributes(found, origin, checked.dtype, self._learnt()),
            "n_iter_": self.n_iter_ + 1,
            "lower_bound_": bound,
            "lower_bounds_": [*self.lower_bounds_, bound],
            "n_samples_seen_": self.n_samples_seen_ + new,
            "device_": str(device),
        }

    def _stats_so_far(self, model, params, total):
        """Statistics of this total weight, measured as those of new rows, whose M-step gives these parameters."""
        before = model.moved(model.stats_of(params), params.mu - params.origin)
        return type(before)(*(total * field for field in before))

    def _batches(self, table, model):
        n_columns = table.shape[1]
        size = rows_a_batch(self.batch_size, model.width(n_columns), table.device)
        return table.batches(size, model.incomplete_rows(n_columns), in_turn=True)

    def _moved_parameters(self, model, origin, device):
        """The fitted parameters, measured from another origin."""
        params, old = self._parameters(device)
        if origin is None:
            return params
        mu = params.mu + torch.as_tensor(old - origin, dtype=params.mu.dtype, device=device)
        return model.params(params.pi, mu, params.sigma)

    # ------------------------------------------------------------------------------------------------------- starting
    def _starts(self, model, table, batches, noise, learnt):
        """Parameters to start from, one for each restart, computed when their turn comes."""
        for number in range(self.n_init):
            params = None if self._all_given() else self._start(model, table, batches, noise.fold("start", number))
            yield self._given(model, params, table, learnt)

    def _start(self, model, table, batches, noise):
        """The M-step's answer to first guesses of the responsibilities."""
        K = self.n_components
        if self.init_params == "random":

            def R(batch):
                share = noise.uniform(batch.row, K, torch.float64).mT
                return share / share.sum(0)

        else:
            centres = self._centres(model, table, noise)

            def R(batch):
                return nearest_takes_all(batch.X, centres)

        variance = column_variance(table)
        return model.m_step(em.summed(lambda batch: model.start(batch, R(batch), variance), batches), None)

    def _centres(self, model, table, noise):
        """Points (K, D) each of which claims the rows nearest to it."""
        K, n = self.n_components, len(table)
        from_data = self.init_params == "random_from_data"
        few = keyed_sample(noise.fold("rows"), table.weight.numpy(), K if from_data else min(n, SEEDING_ROWS))
        few = np.resize(few, max(K, len(few)))  # equal rows may have been merged: then some are taken twice
        points = torch.as_tensor(self._points(model, table, few), dtype=table.dtype)
        if from_data:
            return points.to(table.device)
        weight = table.weight[few].to(table.dtype)
        if n > len(few):  # drawn in proportion to their weights, they count alike
            weight = torch.ones_like(weight)
        centres = seeding.seed_centres(points, weight, K, noise)
        if self.init_params == "kmeans":
            centres = few_lloyd_steps(points, weight, centres)
        return centres.to(table.device)

    def _points(self, model, table, few):
        """Some rows of a table as points of a space in which distances make sense; none of their cells is missing."""
        return np.nan_to_num(table.X[few] - (0 if table.shift is None else table.shift.cpu().numpy()))

    # ------------------------------------------------------------------------------------------------------ predicting
    def _fitted_model(self):
        """The model as it was fitted, whatever `n_components` has been set to since."""
        return self._model(len(self.weights_), self._learnt())

    def _by_row(self, X, function, *, moved=False):
        """Checked rows of X through `function` of (model, batch, parameters), which returns a tensor with a row each.

        `moved`: what it returns are rows of X measured from the origin, to be put back.
        """
        device = inference_device(self.device)
        params, origin = self._parameters(device)
        model = self._fitted_model()
        back = torch.as_tensor(origin, device=device) if moved else None

        def values(batch):
            found = function(model, batch, params)
            return found + back if moved else found

        return by_row(self._batches(Table(X, device, shift=origin), model), len(X), values, X.dtype)

    def _checked(self, X):
        check_is_fitted(self)
        return self._read(X)

    def predict(self, X):
        """Label each row by its most probable component.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing.

        Returns
        -------
        labels : int64 ndarray of shape (n_samples,)
        """
        return self._by_row(self._checked(X), _label)

    def predict_proba(self, X):
        """Posterior probability of each component.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing.

        Returns
        -------
        probability : ndarray of shape (n_samples, n_components)
            p(z = k | x); rows sum to 1.
        """
        return self._by_row(self._checked(X), _responsibilities)

    def score_samples(self, X):
        """Log-likelihood of each row: log p(x) of its observed cells.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing; 0 for a row without any observed cell.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            Nats.
        """
        return self._by_row(self._checked(X), _log_evidence)

    def aic(self, X, sample_weight=None):
        """Akaike's information criterion on X; lower is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            How often each row counts.

        Returns
        -------
        aic : float
            -2 log p(X) + 2 (number of free parameters).
        """
        log_likelihood, _ = self._log_likelihood(X, sample_weight)
        return -2 * log_likelihood + 2 * self._n_parameters()

    def bic(self, X, sample_weight=None):
        """Bayesian information criterion on X (Schwarz 1978); lower is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            How often each row counts.

        Returns
        -------
        bic : float
            -2 log p(X) + (number of free parameters) log(n_samples).
        """
        log_likelihood, n = self._log_likelihood(X, sample_weight)
        return -2 * log_likelihood + self._n_parameters() * math.log(n)

    def sample(self, n_samples=1, random_state=None):
        """Draw rows from the mixture.

        Parameters
        ----------
        n_samples : int, default=1
            How many.
        random_state : int, RandomState instance or None, default=None
            An int draws the same rows every time, None others at each call.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Sorted by component.
        labels : int64 ndarray of shape (n_samples,)
            The component that each row was drawn from.

        Raises
        ------
        ValueError
            If n_samples is no whole number, or below 1.
        """
        check_is_fitted(self)
        row = torch.arange(check_n_samples(n_samples))
        noise = Noise(draw_seed(random_state))
        u = noise.fold("component").uniform(row, 1, torch.float64)[:, 0].numpy()
        edges = np.cumsum(self.weights_, dtype=np.float64)
        labels = np.sort(np.minimum(np.searchsorted(edges / edges[-1], u), len(edges) - 1))
        return self._draw(labels, noise.fold("cells")).astype(self.means_.dtype, copy=False), labels

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _label(model, batch, params):
    return model.log_joint(batch, params).argmax(0)


def _responsibilities(model, batch, params):
    return posterior(model.log_joint(batch, params))[1].mT


def _log_evidence(model, batch, params):
    return posterior(model.log_joint(batch, params))[0]
