"""Recommenders that are networks: their fit in epochs, and embeddings of users."""

import abc
import math
from dataclasses import replace
from functools import partial

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin

from skvae import _reduce
from skvae._compat import fit_context, warn
from skvae._sparse import entry
from skvae._tensors import (
    Noise,
    Rows,
    SomeRows,
    SplitRows,
    WholeRows,
    block_rows,
    dtype_of,
    entry_slices,
    inference_device,
    is_mapped,
    resolve_device,
    some_rows,
    to_read,
    torch_dtype,
)
from skvae.estimators._checks import agree_in_state, draw_seed, refuse_another_architecture
from skvae.estimators._network import NetworkEstimator, PreparedFit
from skvae.estimators._progress import RankingWatcher
from skvae.estimators.recommenders._filters import seen
from skvae.estimators.recommenders._input_checks import advice, refuse_no_interaction
from skvae.estimators.recommenders._recommender import LIST_LENGTH, RecommenderMixin, best, rank
from skvae.estimators.recommenders._users_of_all import content_split, first_by_key, gathered_rows
from skvae.metrics import content_holdout, ndcg_at_k
from skvae.tables.weights import drop_weightless, together_if_small, weigh
from skvae.training import defaults
from skvae.training.clicks import (
    ClickTraining,
    UserStatistics,
    add_to_means,
    informative_users,
    initial_params,
    with_new_items,
)
from skvae.training.continuation import Continuation
from skvae.training.plan import CONSTANT_WEIGHT, make_plan, settle
from skvae.training.validation import Validation

_SMALLEST, _LARGEST = 1e-15, 1e15  # of an interaction
_MOST_ASIDE = 2**22  # interactions of the users of a memory map who are set aside


class NetworkRecommender(RecommenderMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, NetworkEstimator):
    """A recommender that is fitted by gradient ascent.

    A subclass has the parameters n_components, learning_rate, learning_rate_schedule, batch_size, max_iter,
    early_stopping, validation_fraction, n_iter_no_change, warm_start, device, data_parallel, random_state and verbose,
    and may have weight_decay.
    """

    _parameter_constraints = {**NetworkEstimator._parameter_constraints, "data_parallel": ["boolean"]}

    weight_decay = 0.0  # of a subclass without the parameter

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

        It has `n_components`, a `likelihood` (a `ClickLikelihood`), and the methods init, bound, encode and scores, as
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
        if continuation.continues:
            agree_in_state(self, "parameters_", "_optimizer_state", "n_iter_", "n_samples_seen_")
        X = self._check_training_X(X, sample_weight, reset=not fitted)
        _reduce.agree(X_val="no X_val" if X_val is None else "X_val")
        for text in advice(self, X):
            warn(text, UserWarning)
        given, (X, weight) = X, drop_weightless(X, sample_weight)
        users = UserStatistics(self.items_per_user_, self.similarity_) if fitted else UserStatistics.of(X, weight)
        architecture = self._architecture_of(X, users)
        model = self._build(architecture)
        model.likelihood.check(given)
        X_val = None if X_val is None else self._check_X(X_val, reset=False, name="X_val")
        noise = Noise(draw_seed(self.random_state))
        if not continuation.single_pass:
            X, weight, X_val = self._held_out(X, weight, X_val, noise)
        refuse_no_interaction(self, X)
        with together_if_small(*informative_users(X, weight, model.likelihood)) as (X, weight):
            X, weight = weigh(X, weight)
            if _reduce.largest(weight is not None) and weight is None:  # those of this process are all 1
                weight = np.ones(X.shape[0])
            X = X if isinstance(X, SomeRows) else sp.csr_array(X)  # small ones come dense
            training, earlier, device = self._training(
                model, X, weight, noise, X_val, continuation, users, architecture
            )
        known = {f"{name}_": value for name, value in users._asdict().items()}
        if "weight_decay" in self._get_param_names():
            known["weight_decay_"] = float(training.ascent.plan.weight_decay)
        return PreparedFit(training, architecture, earlier, device, known=known)

    def _training(self, model, X, weight, noise, X_val, continuation, users, architecture):
        """The fit to weighed users, what it goes on from, and where it runs."""
        n = _reduce.count(X.shape[0])
        n_users = n if weight is None else float(_reduce.count(weight.sum()))
        weight = None if weight is None else weight / (n_users / n)
        device, dtype = resolve_device(self.device), dtype_of(self.precision)
        earlier = self._earlier(continuation, n_users)
        optimizer_state = None
        if earlier.parameters is not None:
            known = self._architecture["n_items"]
            refuse_another_architecture(self, architecture | {"n_items": known})
            params, optimizer_state = earlier.params_on(device, dtype), earlier.optimizer_state_on(device, dtype)
            if X.shape[1] > known:
                params, optimizer_state = with_new_items(
                    params, optimizer_state, initial_params(model, X, weight, noise, device, dtype)
                )
            add_to_means(model, params, X, weight, n_users / earlier.n_samples_seen)
        else:
            params = initial_params(model, X, weight, noise, device, dtype)
        validation = None if X_val is None else ranking_of_held_out(model, X_val)
        auto = self._auto(n, earlier.n_samples_seen, users, architecture)
        plan = self._plan(n, auto, earlier, continuation, validation is not None)
        _reduce.agree(precision=plan.precision)
        plan = replace(plan, turns=self._turns(model))
        training = ClickTraining(
            model,
            X,
            weight,
            noise,
            plan,
            params,
            validation=validation,
            optimizer_state=optimizer_state,
            keeps_state=earlier.may_go_on,
        )
        return training, earlier, device

    def _check_training_X(self, X, sample_weight, *, reset):
        """Users to learn from, as a CSR array; complain of values whose squares leave float32."""
        X = self._check_to_fit(X, sample_weight, reset=reset)
        for part in entry_slices(X.nnz):
            outside = np.flatnonzero((X.data[part] < _SMALLEST) | (X.data[part] > _LARGEST))
            if len(outside):
                raise ValueError(
                    f"fit takes interactions between {_SMALLEST:g} and {_LARGEST:g}, but "
                    f"{entry(X, part.start + outside[0])}; scale X, or binarise it."
                )
        return X

    def _held_out(self, X, weight, X_val, noise):
        """Users to learn from, their weights, and users whose held-out interactions are ranked after every epoch."""
        if X_val is not None:
            if not _reduce.count(len(_rankable(X_val))):
                raise ValueError("X_val holds no user with two interactions: one to show, one to rank.")
            return X, weight, X_val
        candidates = _rankable(X)
        n_candidates = _reduce.count(len(candidates))
        if self.early_stopping == "auto" and n_candidates < defaults.MANY_USERS or not self.early_stopping:
            return X, weight, None
        n_aside = math.ceil(self.validation_fraction * n_candidates)
        if is_mapped(X):  # those who are set aside are kept in memory
            n_aside = min(n_aside, max(1, _MOST_ASIDE * X.shape[0] // max(1, X.nnz)))
        aside = candidates[first_by_key(noise.fold("validation"), len(candidates), n_aside)[0]]
        rest = np.setdiff1d(np.arange(X.shape[0]), aside)
        learnt = some_rows(X, rest)
        n_left, left = _reduce.total((len(rest), learnt.nnz))
        if not n_aside or not left:
            raise ValueError(
                f"early_stopping=True with validation_fraction={self.validation_fraction} would set aside {n_aside} "
                f"of the {n_candidates} users with two interactions and leave {n_left} of n_samples = "
                f"{n_left + n_aside} users to train on; it needs some in both parts. Change the fraction, pass X_val "
                "or use early_stopping=False."
            )
        return learnt, None if weight is None else weight[rest], X[np.sort(aside)]

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
        return self._posterior(self._check_fitted_X(X))

    def _embedding(self, X):
        return self._posterior(X)[0]  # `transform` would miss the names of the items, which have been compared

    def _posterior(self, X):
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
    model : object with scores(params, batch)
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


class SplitRanking(Validation):
    """The same of the users of all processes, each of which ranks its own items for them.

    Parameters
    ----------
    model : object with scores(params, batch)
    X : CSR array of shape (n_own_users, n_items)
    split : Split
    """

    def __init__(self, model, X, split):
        self.model, self.split = model, split
        shown, self.hidden = content_split(X)
        self.first, _ = _reduce.place(X.shape[0])
        self.whole = WholeRows(*map(np.concatenate, zip(*_reduce.gathered(WholeRows.of(shown, torch.float64)))))
        self.shown = split.columns_of_all(shown)

    def measure(self, params):
        """Rank the items for all users: ids of the first 100."""
        some = next(iter(params.values()))
        rows = SplitRows(self.shown, self.split, self.whole, some.device, some.dtype)
        every = [seen(self.shown)]
        ids, scores = best(self._blocks(params, rows), every, LIST_LENGTH, self.shown.shape[1], np.float64)
        with _reduce.together():
            parts = _reduce.gathered((np.where(ids < 0, ids, ids + self.split.own.start), scores))
        ids, scores = (np.concatenate(each, axis=1) for each in zip(*parts))
        order = np.argsort(-scores, axis=1, kind="stable")[:, :LIST_LENGTH]  # of equal scores the lower column's
        return torch.from_numpy(np.take_along_axis(ids, order, 1))

    @torch.no_grad()
    def _blocks(self, params, rows):
        size = block_rows(self.split.n_columns)  # the same for all
        for start in range(0, len(rows), size):
            batch = rows.batch(np.arange(start, min(start + size, len(rows))))
            yield slice(start, start + size), self.model.scores(params, batch)

    def score(self, measured):
        own = measured[self.first : self.first + self.hidden.shape[0]]
        values = ndcg_at_k(self.hidden, ranked=own, k=LIST_LENGTH, per_user=True) if self.hidden.nnz else np.empty(0)
        values = values[~np.isnan(values)]
        with _reduce.together():
            total, n = _reduce.total((float(values.sum()), len(values)))
        return total / n


def ranking_of_held_out(model, X):
    """A function from the `Split` of a fit, or None, to the `Validation` by these users of this process."""
    if not _reduce.is_shared():  # also where all are gathered on each process
        with _reduce.together():
            X = gathered_rows(X)
        return lambda split: HeldOutRanking(model, X)
    return partial(SplitRanking, model, X)


def _rankable(X):
    """Rows with an interaction to show and another to rank."""
    return np.flatnonzero(np.diff(X.indptr) >= 2)


def rows_beside(X, params):
    """The rows of X on the device and in the dtype that all parameters share."""
    some = next(iter(params.values()))
    return Rows(X, some.device, some.dtype)


@torch.no_grad()
def _score(model, params, X):
    """Scores of all items for the users of X."""
    return model.scores(params, rows_beside(X, params).whole())
