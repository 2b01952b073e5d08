"""Recommenders that are networks: their fit in epochs, and embeddings of users."""

import abc
import math
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin

from skvae._compat import fit_context
from skvae._sparse import entry
from skvae._tensors import Noise, Rows, block_rows, inference_device, resolve_device, to_read, torch_dtype
from skvae.estimators._checks import draw_seed, refuse_another_architecture
from skvae.estimators._network import NetworkEstimator, PreparedFit
from skvae.estimators._progress import RankingWatcher
from skvae.estimators.recommenders._input_checks import advice, refuse_long_table, refuse_no_interaction
from skvae.estimators.recommenders._recommender import LIST_LENGTH, RecommenderMixin, rank
from skvae.metrics import content_holdout, ndcg_at_k
from skvae.tables.weights import drop_weightless, weigh
from skvae.training import defaults
from skvae.training.clicks import ClickTraining, UserStatistics, informative_users, initial_params, with_new_items
from skvae.training.continuation import Continuation
from skvae.training.plan import CONSTANT_WEIGHT, make_plan, settle
from skvae.training.validation import Validation

_SMALLEST, _LARGEST = 1e-15, 1e15  # of an interaction


class NetworkRecommender(RecommenderMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, NetworkEstimator):
    """A recommender that is fitted by gradient ascent.

    A subclass has the parameters n_components, learning_rate, learning_rate_schedule, batch_size, max_iter,
    weight_decay, early_stopping, validation_fraction, n_iter_no_change, warm_start, device, random_state and verbose.
    """

    _watcher = RankingWatcher
    _bound_and_units = ("lower bound", "nats per user")
    _score_and_units = ("NDCG@100", "validation users")

    # -------------------------------------------------------------------------------------- what a subclass gives
    @abc.abstractmethod
    def _architecture_of(self, X, users):
        """What fixes the shapes and the meaning of the parameters, in plain values.

        "n_items" and "n_components" are among them. `users` are the `UserStatistics`.
        """

    @abc.abstractmethod
    def _build(self, architecture):
        """The model of an architecture.

        It has `n_components`, a `likelihood` (a `ClickLikelihood`), and the methods init, bound, encode and decode, as
        `models.recommenders.mult_vae.MultVAE` has them.
        """

    @abc.abstractmethod
    def _auto(self, n_users, n_seen, users, architecture):
        """Defaults that replace "auto", as a dict; always learning_rate, batch_size and max_iter.

        `n_seen` is the number of users of this fit or, after calls of `partial_fit`, of all of them. `users` are the
        `UserStatistics`; a fit that goes on from another has those of the other.
        """

    def _kl_weight(self, settled, continuation):
        """The weight of the KL term over the fit, given the parameters without "auto"."""
        return CONSTANT_WEIGHT

    def _turns(self, model):
        """Turns of the ascent, as those of `gradient.Plan`; none: all parameters move in every step."""
        return ()

    # ------------------------------------------------------------------------------------------------------- fitting
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None, X_val=None):
        """Fit the network to the users of X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions: counts, ratings or ones; non-negative, zero where there was none. Never made dense as a
            whole. Users without interactions teach nothing and are left out.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_users,) or None, default=None
            How often each user counts in the bound. Scores of validation users are not weighted.
        X_val : {array-like, sparse matrix} of shape (n_validation_users, n_items) or None, default=None
            Other users, a fifth of whose interactions are hidden and ranked after every epoch
            (`validation_scores_`). With None and early stopping, `validation_fraction` of the users of X is set aside.

        Returns
        -------
        self : object
            The estimator, fitted.

        Raises
        ------
        ValueError
            If X holds negative values, NaN or infinity, no interaction at all, values above 1 for the bernoulli
            likelihood, if its columns are named as those of a long table, or if a parameter is out of its range.
        FloatingPointError
            If the bound diverges even at half the learning rate.

        Warns
        -----
        UserWarning
            If a few large values hold most of the weight of X, if X looks like a long table, or if there are more
            components than items.
        """
        given = {"sample_weight": sample_weight, "X_val": X_val}
        with self._fitting(), self._resumable(X, **given):
            return self._taken_ahead(X, **given) or self._run(self._prepare(X, self._continuation, **given), X, y)

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, sample_weight=None, new_items=None):
        """Make one pass over the users of X, at full beta and a constant learning rate, without early stopping.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of new users, or of known ones as they are now. Columns are the items of the earlier calls, and
            then `new_items`.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_users,) or None, default=None
            How often each user counts in the bound.
        new_items : array-like of int or str, default=None
            Items that no earlier call has seen, the last columns of X: their numbers, from `n_features_in_` on, or
            after a fit on a DataFrame their names. Their weights begin as those of a new fit. None: X has the items of
            the earlier calls.

        Returns
        -------
        self : object
            The estimator, fitted.
        """
        with self._fitting():
            if new_items is not None:
                self._take_in(new_items)
            return self._run(self._prepare(X, Continuation.PARTIAL_FIT, sample_weight))

    def _prepare(self, X, continuation, sample_weight=None, X_val=None):
        fitted = self._goes_on(continuation)
        X = self._check_training_X(X, reset=not fitted)
        for text in advice(self, X):
            warnings.warn(text, UserWarning, stacklevel=4)  # the caller of `fit`
        given, (X, weight) = X, drop_weightless(X, sample_weight)
        users = UserStatistics(self.items_per_user_, self.similarity_) if fitted else UserStatistics.of(X, weight)
        architecture = self._architecture_of(X, users)
        model = self._build(architecture)
        model.likelihood.check(given)
        X_val = None if X_val is None else self._check_X(X_val, reset=False)
        noise = Noise(draw_seed(self.random_state))
        if not continuation.single_pass:
            X, weight, X_val = self._held_out(X, weight, X_val, noise)
        refuse_no_interaction(self, X)
        X, weight = weigh(*informative_users(X, weight, model.likelihood))
        X = sp.csr_array(X)  # small ones come dense
        n_users = X.shape[0] if weight is None else float(weight.sum())
        weight = None if weight is None else weight / weight.mean()
        device, earlier = resolve_device(self.device), self._earlier(continuation, n_users)
        optimizer_state = None
        if fitted:
            known = self._architecture["n_items"]
            refuse_another_architecture(self, architecture | {"n_items": known})
            params, optimizer_state = earlier.params_on(device), earlier.optimizer_state_on(device)
            if X.shape[1] > known:
                params, optimizer_state = with_new_items(
                    params, optimizer_state, initial_params(model, X, weight, noise, device)
                )
        else:
            params = initial_params(model, X, weight, noise, device)
        validation = None if X_val is None else HeldOutRanking(model, X_val)
        auto = self._auto(X.shape[0], earlier.n_samples_seen, users, architecture)
        plan = self._plan(X.shape[0], auto, earlier, continuation, validation is not None)
        plan = replace(plan, turns=self._turns(model))
        training = ClickTraining(
            model, X, weight, noise, plan, params, validation=validation, optimizer_state=optimizer_state
        )
        known = {f"{name}_": value for name, value in users._asdict().items()}
        known["weight_decay_"] = float(plan.weight_decay)
        return PreparedFit(training, architecture, earlier, device, known=known)

    def _check_training_X(self, X, *, reset):
        """Users to learn from, as a CSR array; complain of values that float32 cannot take."""
        refuse_long_table(X)
        X = self._check_X(X, reset=reset)
        outside = np.flatnonzero((X.data < _SMALLEST) | (X.data > _LARGEST))  # their squares leave float32 too
        if len(outside):
            raise ValueError(
                f"fit computes in float32 and takes interactions between {_SMALLEST:g} and {_LARGEST:g}, but "
                f"{entry(X, outside[0])}; scale X, or binarise it."
            )
        return X

    def _held_out(self, X, weight, X_val, noise):
        """Users to learn from, their weights, and users whose held-out interactions are ranked after every epoch."""
        if X_val is not None:
            if not len(_rankable(X_val)):
                raise ValueError("X_val holds no user with two interactions: one to show, one to rank.")
            return X, weight, X_val
        candidates = _rankable(X)
        if self.early_stopping == "auto" and len(candidates) < defaults.MANY_USERS or not self.early_stopping:
            return X, weight, None
        aside = noise.fold("validation").permutation(len(candidates))
        aside = candidates[aside[: math.ceil(self.validation_fraction * len(candidates))]]
        rest = np.setdiff1d(np.arange(X.shape[0]), aside)
        if not len(aside) or not X[rest].nnz:
            raise ValueError(
                f"early_stopping=True with validation_fraction={self.validation_fraction} would set aside {len(aside)} "
                f"of the {len(candidates)} users with two interactions and leave {len(rest)} of n_samples = "
                f"{X.shape[0]} users to train on; it needs some in both parts. Change the fraction, pass X_val or "
                "use early_stopping=False."
            )
        return X[rest], None if weight is None else weight[rest], X[np.sort(aside)]

    def _plan(self, n_users, auto, earlier, continuation, has_validation):
        """The plan of a fit to so many users, with everything that is "auto" settled."""
        settled = {"weight_decay": self.weight_decay} | settle(self, auto)
        return make_plan(
            self,
            settled,
            n_users,
            continuation=continuation,
            kl=self._kl_weight(settled, continuation),
            validates=has_validation and self.early_stopping in ("auto", True),
            first_epoch=earlier.n_iter,
            precision=self._precision(settled["batch_size"]),
        )

    def _summary(self, prepared, kept):
        return {}

    # ---------------------------------------------------------------------------------------------------- prediction
    def transform(self, X):
        """Embed each user: the mean of q(z | x).

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of the users, whether `fit` saw them or not.

        Returns
        -------
        mean : ndarray of shape (n_users, n_components)
            All zeros, the mean of the prior, for a user without interactions.
        """
        return self.posterior(X)[0]

    def posterior(self, X):
        """Give q(z | x) of each user.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of the users, whether `fit` saw them or not.

        Returns
        -------
        mean, std : ndarrays of shape (n_users, n_components)
            Means and standard deviations of the factorised normal posterior.
        """
        X = self._check_fitted_X(X)
        model, params = self._fitted_model(X.dtype)
        batches = rows_beside(X, params).batches(block_rows(model.n_components))
        with torch.no_grad():
            parts = [model.encode(params, batch) for batch in batches]
        mean = torch.cat([q.mean for q in parts])
        std = torch.cat([(0.5 * q.log_variance).exp() for q in parts])
        return mean.cpu().numpy(), std.cpu().numpy()

    def _fitted_model(self, dtype):
        """The fitted model, and its parameters as tensors of a NumPy dtype."""
        params = to_read(self.parameters_, inference_device(self.device), torch_dtype(dtype))
        return self._build(self._architecture), params

    def _scorer(self, X):
        return partial(_score, *self._fitted_model(X.dtype))

    @property
    def _n_features_out(self):
        return self._architecture["n_components"]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class HeldOutRanking(Validation):
    """NDCG@100 of hidden interactions of held-out users, who are split once for all epochs.

    Parameters
    ----------
    model : object with encode(params, batch) and decode(params, z)
    X : CSR array of shape (n_users, n_items)
    """

    def __init__(self, model, X):
        self.model = model
        self.shown, self.hidden = content_holdout(X)

    def measure(self, params):
        """Rank the items for the users: ids of the first 100."""
        ids, _ = rank(partial(_score, self.model, params), self.shown, LIST_LENGTH)
        return torch.from_numpy(ids)

    def score(self, measured):
        return float(ndcg_at_k(self.hidden, ranked=measured, k=LIST_LENGTH))


def _rankable(X):
    """Rows with an interaction to show and another to rank."""
    return np.flatnonzero(np.diff(X.indptr) >= 2)


def rows_beside(X, params):
    """The rows of X on the device and in the dtype that all parameters share."""
    some = next(iter(params.values()))
    return Rows(X, some.device, some.dtype)


@torch.no_grad()
def _score(model, params, X):
    """Scores of all items for the users of X, at the mean of their posteriors."""
    batch = rows_beside(X, params).whole()
    return model.decode(params, model.encode(params, batch).mean)
