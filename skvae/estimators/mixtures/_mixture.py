"""Base class of all mixtures: restarts, EM, stepwise EM, and all that follows from log p(x, z = k)."""

import math
import warnings
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from skvae import _reduce
from skvae._compat import Interval, StrOptions, fit_context, one_blas_thread, warn
from skvae._tensors import Noise, by_row, explain_out_of_memory, inference_device, resolve_device
from skvae.elbo import EvidenceTerms
from skvae.engines import em
from skvae.engines.contracts import check_contract
from skvae.estimators._base import Estimator, LikelihoodScoreMixin
from skvae.estimators._checks import (
    agree_in_state,
    check_n_samples,
    column_names,
    draw_seed,
    draw_seed_of_sample,
    refuse_another_number,
    validated,
)
from skvae.estimators._progress import FitWatcher
from skvae.estimators.checkpoints.checkpoint import CHECKPOINT
from skvae.estimators.mixtures._contract import MixtureContract, MixtureModel
from skvae.models.mixtures.posterior import bound_terms, posterior
from skvae.tables.checks import refuse_empty_columns
from skvae.tables.weights import checked_weight, together_if_small, weigh
from skvae.training.continuation import Continuation

_SMALL_TOL = 1e-4  # from here down EM needs hundreds of steps where it is slow at all, and acceleration pays


class BaseMixture(MixtureContract, LikelihoodScoreMixin, DensityMixin, Estimator):
    """Base class of mixtures: fits and uses a mixture, whatever its components are.

    A subclass gives the abstract methods of `MixtureContract`. A parameter of its own needs an `__init__` that hands
    the others on, and an entry in `_parameter_constraints`.
    """

    _parameter_constraints = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions({"kmeans", "k-means++", "random", "random_from_data"})],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "acceleration": [StrOptions({"auto", "squarem"}), None],
        "device": [str],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "data_parallel": ["boolean"],
        "checkpoint": CHECKPOINT,
    }

    def __init__(
        self,
        n_components=1,
        *,
        tol=1e-3,
        max_iter=100,
        n_init=1,
        init_params="kmeans",
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
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.acceleration = acceleration
        self.device = device
        self.batch_size = batch_size
        self.data_parallel = data_parallel
        self.checkpoint = checkpoint

    # ------------------------------------------------------------------------------------------------------- fitting
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None):
        """Raise the likelihood of X, or the bound on it, step by step in `n_init` restarts; keep the best.

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
            If the best restart stopped at `max_iter`.
        """
        continues = self.warm_start and hasattr(self, "converged_")
        continuation = Continuation.WARM_START if continues else Continuation.FRESH
        with (
            self._unchanged_on_error(),
            self._resumable(X, sample_weight=sample_weight),
            explain_out_of_memory("lower batch_size"),
        ):
            return self._set(**self._ascended(X, y, sample_weight, continuation))

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
        """Take one step of stepwise EM with the rows of X; an estimator that is not fitted is fitted to them instead.

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
            agree_in_state(self, *self._state)
            if not hasattr(self, "converged_"):
                with warnings.catch_warnings():  # to converge on the first part of the rows would mean little
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    return self._set(**self._ascended(X, y, sample_weight, Continuation.FRESH))
            return self._set(**self._stepped(X, sample_weight))

    _state = ("weights_", "means_", "n_iter_", "n_samples_seen_")  # what a later fit goes on from

    def _validated(self, X, *, reset):
        return validated(self, X, reset=reset, ensure_min_samples=2 if reset else 1)

    def _ascended(self, X, y, sample_weight, continuation):
        """Fit to the rows of X by EM; returns the fitted attributes."""
        if self.warm_start:
            agree_in_state(self, *self._state)
        checked, weight = self._validated(X, reset=not continuation.continues), None
        if sample_weight is not None:
            weight = checked_weight(sample_weight, checked)
        with together_if_small(checked, weight) as (checked, weight):
            learnt = self._learnt() if continuation.continues else self._learn(checked)
            coded = self._coded(checked, learnt)
            n = _reduce.count(len(coded))
            if n < self.n_components:
                raise ValueError(
                    f"Expected n_samples >= n_components but got n_components = {self.n_components}, n_samples = {n}"
                )
            if continuation.continues:
                refuse_another_number(self, "components", len(self.weights_))
            refuse_empty_columns(coded, type(self).__name__, weight, column_names(self))
            condensed, weight = self._condensed(coded, weight, learnt)
            with together_if_small(condensed, weight) as (rows, weight):
                if rows is not condensed:  # those of all processes
                    rows, weight = self._condensed(rows, weight, learnt)
                read = self._read_to_fit(*weigh(rows, weight, n_hashed=self._n_hashed), learnt)
                return self._climbed(*read, X, y, continuation)

    def _climbed(self, rows, weight, learnt, X, y, continuation):
        """Fit to weighed rows; X and y are for callbacks."""
        total = _total_weight(rows, weight)
        device = resolve_device(self.device)
        model = self._model(self.n_components, learnt)
        check_contract(model, MixtureModel, f"{type(self).__name__}._model(...)")
        table = self._table(rows, device, weight, to_fit=True)
        if continuation.continues:
            init_params = [self._fitted_params(model, table)]
        else:
            n_restarts, noise = self._n_restarts(model, table), Noise(draw_seed(self.random_state))
            init_params = em.Restarts(
                n_restarts,
                lambda number: self._initial_params(model, table, noise.fold("start", number), learnt),
            )
        pays = 0 < self.tol < _SMALL_TOL and hasattr(model, "to_free")
        plan = em.Plan(
            self.max_iter,
            self._has_converged,
            total,
            accelerate=self.acceleration == "squarem" or (self.acceleration == "auto" and pays),
            lower_bound=self.lower_bounds_[-1] if continuation.continues and self.lower_bounds_ else -np.inf,
        )

        def attributes(params):
            return _as_arrays(self._attributes(params, table, learnt), rows.dtype)

        watcher = FitWatcher(
            self, X, y, self.max_iter, attributes, n_restarts=len(init_params), interval=self.verbose_interval
        )
        # Products are small, or workers compute them: threads of NumPy's own would only take cores from others.
        with self._explain_errors(), watcher, one_blas_thread():
            fit = em.ascend(model, self._batches(table, model), init_params, plan=plan, watcher=watcher)
        self._warn_unless_converged(fit)
        return {
            "converged_": fit.converged,
            "n_iter_": fit.n_iter,
            "lower_bound_": fit.lower_bounds[-1] if fit.lower_bounds else -np.inf,
            "lower_bounds_": fit.lower_bounds,
            "n_samples_seen_": total,
            "device_": str(device),
            **attributes(fit.params),
        }

    def _warn_unless_converged(self, fit):
        if fit.converged or not self.max_iter:
            return
        gain = fit.lower_bounds[-1] - fit.lower_bounds[-2] if fit.n_iter > 1 else np.inf
        warn(
            # The first two sentences are scikit-learn's: scripts look for them.
            "Best performing initialization did not converge. Try different init parameters, or increase max_iter, "
            f"tol, or check for degenerate data. {type(self).__name__} did not converge: the best start stopped at "
            f"iteration {fit.n_iter} (max_iter={self.max_iter}) with the bound rising by {gain:.1e} nats/sample "
            f"(tol={self.tol:g}{self._tol_is_in}).",
            ConvergenceWarning,
        )

    def _stepped(self, X, sample_weight):
        """Take one step of stepwise EM with the rows of X; returns the fitted attributes."""
        refuse_another_number(self, "components", len(self.weights_))
        learnt, device = self._learnt(), resolve_device(self.device)
        coded = self._coded(self._validated(X, reset=False), learnt)
        with together_if_small(coded, sample_weight) as (coded, sample_weight):
            return self._stepped_by(*weigh(coded, sample_weight, n_hashed=self._n_hashed), learnt, device)

    def _stepped_by(self, rows, weight, learnt, device):
        """Take that step with weighed rows."""
        new = _total_weight(rows, weight)
        total, share = self._step(new)
        model = self._model(self.n_components, learnt)
        table = self._table(rows, device, weight, to_fit=False)
        params = self._fitted_params(model, table)
        with self._explain_errors():
            stats, _ = em.collect(model, self._batches(table, model), params)
            bound = self._mean_bound(model, stats, params, new, total)
            before = self._fitted_model().stats_from_params(params, total)
            mixed = type(stats)(*((1 - share) * a + share * total / new * b for a, b in zip(before, stats)))
            found = model.m_step(mixed, params)
        return {
            "n_iter_": self.n_iter_ + 1,
            "lower_bound_": bound,
            "lower_bounds_": [*self.lower_bounds_, bound],
            "n_samples_seen_": self.n_samples_seen_ + new,
            "device_": str(device),
            **_as_arrays(self._attributes(found, table, learnt), rows.dtype),
        }

    # ------------------------------------------------------------------------------------------------------ predicting
    def _checked(self, X):
        """Checked rows as the fitted model reads them."""
        check_is_fitted(self)
        return self._coded(self._validated(X, reset=False), self._learnt())

    def _by_row(self, X, function):
        """Apply a function of (model, batch, params) to checked rows; it returns a tensor with an entry a row."""
        model, table = self._fitted_model(), self._table(X, inference_device(self.device), to_fit=False)
        params = self._fitted_params(model, table)
        batches = self._batches(table, model)
        return by_row(batches, len(X), lambda batch: function(model, batch, params), X.dtype)

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
        return self._by_row(self._checked(X), lambda model, batch, params: model.log_joint(batch, params).argmax(0))

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

        def responsibilities(model, batch, params):
            return posterior(model.log_joint(batch, params))[1].mT

        return self._by_row(self._checked(X), responsibilities)

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

        def log_evidence(model, batch, params):
            return posterior(model.log_joint(batch, params))[0]

        return self._by_row(self._checked(X), log_evidence)

    def _evidence_terms(self, X, n_draws=None, random_state=None, *, find_best=True):
        def terms(model, batch, params):
            return bound_terms(model.log_joint(batch, params), params.pi)

        return EvidenceTerms.of_exact_posterior(self._by_row(self._checked(X), terms), find_best)

    def score(self, X, y=None, sample_weight=None):
        """Mean log-likelihood of the rows.

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
        score : float
            Nats a row: the mean of `score_samples`, without weights in its dtype, as scikit-learn's mixtures take it.
        """
        if sample_weight is None and not self.data_parallel:
            return float(self.score_samples(X).mean())
        return super().score(X, sample_weight=sample_weight)

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
            An int draws the same rows every time, None others at each call: by the estimator's own RandomState, if
            it has one.

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
        noise = Noise(draw_seed_of_sample(self, random_state))
        u = noise.fold("component").uniform(row, 1, torch.float64)[:, 0].numpy()
        edges = np.cumsum(self.weights_, dtype=np.float64)
        labels = np.sort(np.minimum(np.searchsorted(edges / edges[-1], u), len(edges) - 1))
        return self._draw(labels, noise.fold("cells")).astype(self.weights_.dtype, copy=False), labels

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _total_weight(rows, weight):
    return _reduce.count(float(len(rows) if weight is None else weight.sum()))


def _as_arrays(attributes, dtype):
    """Fitted attributes with arrays of a dtype in place of tensors, also in tuples."""

    def as_array(value):
        if isinstance(value, tuple):
            return tuple(map(as_array, value))
        return value.cpu().numpy().astype(dtype) if isinstance(value, torch.Tensor) else value

    return {name: as_array(value) for name, value in attributes.items()}
