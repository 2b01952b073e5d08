"""Recommenders: users x items in, ranked items out."""

import math
from functools import partial
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin

from skvae._compat import Interval, StrOptions, fit_context
from skvae._sparse import entry
from skvae._tensors import Noise, Rows, block_rows, explain_out_of_memory, inference_device, to_read, torch_dtype
from skvae.engines import gradient, schedules
from skvae.estimators._base import Estimator
from skvae.estimators._checks import checked_sizes, draw_seed
from skvae.estimators._progress import EpochWatcher
from skvae.estimators.recommenders._network_recommender import RecommenderFit
from skvae.estimators.recommenders._recommender import LIST_LENGTH, RecommenderMixin, rank
from skvae.likelihoods import Bernoulli, Multinomial, WeightedGaussian
from skvae.metrics import content_holdout, ndcg_at_k
from skvae.models.recommenders.mult_vae import MultVAE
from skvae.networks import ACTIVATIONS
from skvae.training.annealing import AnnealingMixin

_MANY_USERS = 10_000  # from here on, early_stopping="auto" can spare a tenth of them
_ELBO_DRAWS = 32
_SMALLEST, _LARGEST = 1e-15, 1e15  # of an interaction


class MultVAERecommender(
    RecommenderMixin, AnnealingMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, Estimator
):
    """Recommend items by a variational autoencoder of users' interactions.

    A user's row of clicks is taken as draws from a multinomial over the items, whose log-probabilities a network
    computes from a latent taste; another network infers the taste from the row:

        z_u ~ N(0, I),   x_u ~ Mult(N_u, softmax(f(z_u))),   q(z_u | x_u) = N(mu(x_u), diag sigma^2(x_u))

    Both are fitted together by stochastic ascent of E_q[log p(x | z)] - beta KL(q || p). A user whom `fit` never saw is
    folded in by their row alone. Read more in the :doc:`user guide </user_guide/recommender>`.

    Parameters
    ----------
    n_components : int, default=200
        Dimension K of the latent taste.
    hidden_layer_sizes : tuple of int, default=()
        Widths of the encoder's hidden layers; the decoder mirrors them. Without any, both networks are linear maps
        around the latent layer, which suits up to some ten thousand users. The paper: (600,).
    activation : {"identity", "logistic", "tanh", "relu", "silu"}, default="tanh"
        Of the hidden layers.
    dropout : float, default=0.3
        Share of a row's interactions that each training step hides from the encoder, in [0, 1). The paper: 0.5.
    beta : float or "auto", default="auto"
        Weight of the KL term once the annealing has ended. 1 trains the evidence lower bound itself; ranking is best
        well below it. "auto": the number of users / 400,000, from 0.02 to 0.2. The paper: 0.2.
    annealing : {"linear", "sigmoid", "cyclical"}, callable or None, default="linear"
        How the weight of the KL term rises to `beta`: along a line or a logistic curve over the first
        `anneal_fraction` of all steps, in `n_cycles` cycles that each rise over their first `anneal_fraction`, as a
        function from the fraction of all steps done to a multiplier of `beta`, or not at all (None: `beta` throughout).
    anneal_fraction : float, default=0.25
        In [0, 1]. A fraction of all steps, since a number of steps that suits many users leaves few at beta = 0.
    n_cycles : int, default=4
        Number of cycles of the cyclical annealing.
    likelihood : {"multinomial", "bernoulli", "gaussian"}, default="multinomial"
        Of a row given the decoder's output. The other two are the paper's comparisons: independent clicks (X in
        [0, 1]) and confidence-weighted squares.
    confidence : tuple of two floats, default=(1.0, 10.0)
        Precisions (c_0, c_1) of the gaussian likelihood where a user did not and did interact, in 1 / value**2.
    weight_decay : float or "auto", default="auto"
        L2 penalty: the coefficient of half the sum of squares of all weights (biases are free), against the mean bound
        per user. "auto": 2e-4.
    learning_rate : float or "auto", default="auto"
        Of Adam, at the start. "auto": 5e-3.
    learning_rate_schedule : {"cosine", "constant"}, default="cosine"
        Whether the rate falls to 2 % of its start along half a cosine over the fit, or stays. After the fall the last
        epoch is nearly always the best, which spares the users that early stopping would set aside.
    batch_size : int or "auto", default="auto"
        Users a step. "auto": a sixteenth of the users, from 8 to 500.
    max_iter : int or "auto", default="auto"
        Epochs. "auto": as many as make 1,500 steps, from 10 to 30, but at least 240 steps.
    early_stopping : bool or "auto", default="auto"
        Whether to stop when NDCG@100 on held-out interactions of held-out users has not risen for `n_iter_no_change`
        epochs, and to keep the best weights; no epoch counts before the annealing has ended. "auto": where `X_val` is
        given or there are 10,000 users.
    validation_fraction : float, default=0.1
        Share of the users to set aside for early stopping where `fit` is given no `X_val`, inside (0, 1).
    n_iter_no_change : int, default=10
        Patience of early stopping, in epochs.
    warm_start : bool, default=False
        Whether `fit` goes on from the last fit's weights (and, from the second call on, the optimiser's state).
    device : str, default="auto"
        Where to compute: "auto" (a CUDA GPU if there is one, else the CPU), "cpu", "cuda", "cuda:1", ...
    random_state : int, RandomState instance or None, default=None
        Seed of initial weights, order, dropout and draws. An int gives bit-equal fits on the CPU of one machine with
        one number of threads. None draws a fresh seed from the system, without touching NumPy's global generator.
    verbose : int, default=0
        1 prints about ten lines a fit, 2 a line every epoch. For a bar: `set_callbacks(ProgressBar())`.

    Attributes
    ----------
    parameters_ : dict of ndarray
        Weights, of shape (n_in, n_out), and biases of the two networks: "encoder.0.weight", "decoder.0.bias", ...
        Row i of the encoder's first weight and column i of the decoder's last belong to item i.
    lower_bounds_ : ndarray of shape (n_epochs,)
        Mean evidence lower bound per user of each epoch, in nats, at beta = 1 whatever beta trains with; by the noise
        and dropout of training.
    validation_scores_ : ndarray
        NDCG@100 of the validation users after each epoch, where there are any.
    n_iter_ : int
        Epochs done, over all calls of `partial_fit` or of `fit` with `warm_start`.
    n_samples_seen_ : int
        Users with interactions that `fit`, or all calls of `partial_fit`, learnt from.
    device_ : str
        Where the fit ran.
    n_features_in_ : int
        Number of items.
    feature_names_in_ : ndarray of shape (n_items,)
        Names of the items, where `fit` was given a DataFrame.

    See Also
    --------
    skvae.metrics.make_ranking_scorer : Scores for `GridSearchCV` and its kin.
    skvae.datasets.to_interactions : Makes X from a long table of users and items.

    Notes
    -----
    The published setting is ``MultVAERecommender(hidden_layer_sizes=(600,), dropout=0.5, beta=0.2,
    anneal_fraction=0.85, weight_decay=0, learning_rate=1e-3, learning_rate_schedule="constant", batch_size=500,
    max_iter=200, early_stopping=True)``.

    References
    ----------
    Liang, Krishnan, Hoffman and Jebara, *Variational Autoencoders for Collaborative Filtering*, WWW 2018.

    Examples
    --------
    >>> from skvae import MultVAERecommender
    >>> from skvae.datasets import make_interactions
    >>> X = make_interactions(300, 100, random_state=0)
    >>> recommender = MultVAERecommender(n_components=20, random_state=0).fit(X)
    >>> ids, scores = recommender.recommend(X[:2], k=3)
    >>> ids.shape
    (2, 3)
    >>> recommender.transform(X).shape
    (300, 20)
    """

    _parameter_constraints = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "beta": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "annealing": [StrOptions({"linear", "cyclical", "sigmoid"}), callable, None],
        "anneal_fraction": [Interval(Real, 0, 1, closed="both")],
        "n_cycles": [Interval(Integral, 1, None, closed="left")],
        "likelihood": [StrOptions({"multinomial", "bernoulli", "gaussian"})],
        "confidence": [tuple, list],
        "weight_decay": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "learning_rate": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "learning_rate_schedule": [StrOptions({"cosine", "constant"})],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_iter": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "early_stopping": [StrOptions({"auto"}), "boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_components=200,
        *,
        hidden_layer_sizes=(),
        activation="tanh",
        dropout=0.3,
        beta="auto",
        annealing="linear",
        anneal_fraction=0.25,
        n_cycles=4,
        likelihood="multinomial",
        confidence=(1.0, 10.0),
        weight_decay="auto",
        learning_rate="auto",
        learning_rate_schedule="cosine",
        batch_size="auto",
        max_iter="auto",
        early_stopping="auto",
        validation_fraction=0.1,
        n_iter_no_change=10,
        warm_start=False,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.beta = beta
        self.annealing = annealing
        self.anneal_fraction = anneal_fraction
        self.n_cycles = n_cycles
        self.likelihood = likelihood
        self.confidence = confidence
        self.weight_decay = weight_decay
        self.learning_rate = learning_rate
        self.learning_rate_schedule = learning_rate_schedule
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # ------------------------------------------------------------------------------------------------------- fitting
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, X_val=None):
        """Raise the bound on the users of X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions: counts, ratings or ones; non-negative, zero where there was none. Never made dense as a
            whole. Users without interactions teach nothing and are left out.
        y : ignored
            Present for scikit-learn's convention.
        X_val : {array-like, sparse matrix} of shape (n_validation_users, n_items) or None, default=None
            Other users, a fifth of whose interactions are hidden and ranked after every epoch
            (`validation_scores_`). With None and early stopping, `validation_fraction` of the users of X is set aside.

        Returns
        -------
        self : MultVAERecommender

        Raises
        ------
        ValueError
            If X holds negative values, NaN or infinity, no interaction at all, values above 1 for the bernoulli
            likelihood, or if a parameter is out of its range.
        FloatingPointError
            If the bound diverges even at half the learning rate.
        """
        with self._unchanged_on_error(), explain_out_of_memory("lower batch_size"):
            goes_on = self.warm_start and hasattr(self, "parameters_")
            users = self._check_training_X(X, reset=not goes_on)
            X_val = None if X_val is None else self._check_X(X_val, reset=False)
            noise = Noise(draw_seed(self.random_state))
            y = np.zeros(users.shape[0]) if y is None else y  # scikit-learn's ScoringMonitor scores no fit without y
            users, X_val, early = self._validation(users, X_val, noise)
            task = RecommenderFit(self, users, noise, goes_on)
            plan = self._plan(task, early)
            with EpochWatcher(self, X, y, plan.max_iter, task.attributes) as watcher:
                fit = task.ascend(plan, X_val, watcher)
            return self._set(**task.attributes(fit.params), **task.record(fit, keep_optimizer_state=self.warm_start))

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None):
        """Make one pass over the users of X, at full beta and a constant learning rate, without early stopping.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of new users, or of known ones as they are now; the same items in every call.
        y : ignored
            Present for scikit-learn's convention.

        Returns
        -------
        self : MultVAERecommender
        """
        with self._unchanged_on_error(), explain_out_of_memory("lower batch_size"):
            goes_on = hasattr(self, "parameters_")
            users = self._check_training_X(X, reset=not goes_on)
            task = RecommenderFit(self, users, Noise(draw_seed(self.random_state)), goes_on, adds_rows=True)
            fit = task.ascend(self._one_pass(task))
            return self._set(**task.attributes(fit.params), **task.record(fit, keep_optimizer_state=True))

    def _check_training_X(self, X, *, reset):
        X = self._check_X(X, reset=reset)
        _check_range(X)
        _likelihood(self._architecture_of(X)).check(X)
        return X

    def _architecture_of(self, X):
        """What fixes the shapes and the meaning of the parameters."""
        return {
            "n_items": X.shape[1],
            "n_components": int(self.n_components),
            "hidden_layer_sizes": checked_sizes(self.hidden_layer_sizes),
            "activation": self.activation,
            "likelihood": self.likelihood,
            "confidence": _checked_confidence(self.confidence) if self.likelihood == "gaussian" else None,
        }

    def _validation(self, users, X_val, noise):
        """Users to train on, users to validate on (or None), and whether to stop early."""
        if X_val is not None:
            if not len(_rankable(X_val)):
                raise ValueError("X_val holds no user with two interactions: one to show, one to rank.")
            return users, X_val, self.early_stopping in ("auto", True)
        candidates = _rankable(users)
        if self.early_stopping == "auto" and len(candidates) < _MANY_USERS or not self.early_stopping:
            return users, None, False
        aside = noise.fold("validation").permutation(len(candidates))
        aside = candidates[aside[: math.ceil(self.validation_fraction * len(candidates))]]
        rest = np.setdiff1d(np.arange(users.shape[0]), aside)
        if not len(aside) or not users[rest].nnz:
            raise ValueError(
                f"early_stopping=True with validation_fraction={self.validation_fraction} would set aside {len(aside)} "
                f"of the {len(candidates)} users with two interactions and leave {len(rest)} of n_samples = "
                f"{users.shape[0]} users to train on; it needs some in both parts. Change the fraction, pass X_val or "
                "use early_stopping=False."
            )
        return users[rest], users[np.sort(aside)], True

    def _plan(self, task, early):
        chosen, cap = self._chosen(task)
        multiplier, ends = self._annealing()
        ends = ends() if early else 0.0
        return gradient.Plan(
            **chosen,
            rate_schedule=getattr(schedules, self.learning_rate_schedule),
            beta=lambda fraction: cap * multiplier(fraction),
            patience=self.n_iter_no_change if early else None,
            earliest_stop=ends,
            first_epoch=task.n_iter,
        )

    def _one_pass(self, task):
        chosen, cap = self._chosen(task)
        return gradient.Plan(**chosen | {"max_iter": 1}, beta=lambda fraction: cap, first_epoch=task.n_iter)

    def _chosen(self, task):
        """The parameters that may be "auto", settled for these users, and beta's cap beside them."""
        auto = _defaults(len(task.rows), task.n_seen)
        chosen = {name: value if getattr(self, name) == "auto" else getattr(self, name) for name, value in auto.items()}
        return chosen, chosen.pop("beta")

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
        model, params, rows = self._at_work(X)
        with torch.no_grad():
            parts = [model.encode(params, batch) for batch in rows.batches(block_rows(model.n_components))]
        mean = torch.cat([q.mean for q in parts])
        std = torch.cat([(0.5 * q.log_variance).exp() for q in parts])
        return mean.cpu().numpy(), std.cpu().numpy()

    def elbo(self, X):
        """Bound log p(x) of each user from below, at beta = 1.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of the users, whether `fit` saw them or not.

        Returns
        -------
        bound : ndarray of shape (n_users,)
            Nats. The KL term is exact, the expected log-likelihood a mean over 32 draws of z that are the same for
            every user and every call. It is normalised, with the multinomial coefficient: 0 for a user without
            interactions. (Under the other likelihoods such a row is evidence too, and its bound is negative.)
        """
        X = self._check_fitted_X(X)
        model, params, rows = self._at_work(X)
        model.likelihood.check(X)
        draws = Noise(0).fold("elbo").normal(torch.arange(_ELBO_DRAWS), model.n_components, rows.dtype)
        size = block_rows(X.shape[1])
        bounds = [_expected_bound(model, params, batch, draws.to(rows.device)) for batch in rows.batches(size)]
        return torch.cat(bounds).cpu().numpy()

    def _at_work(self, X):
        """The fitted model, its parameters as tensors of the dtype of X, and X as rows beside them."""
        device = inference_device(self.device)
        rows = Rows(X, device, torch_dtype(X.dtype))
        return self._build(self._architecture), to_read(self.parameters_, device, rows.dtype), rows

    def _scorer(self, X):
        model, params, _ = self._at_work(X)
        return partial(_score, model, params)

    @property
    def _n_features_out(self):
        return self._architecture["n_components"]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _build(self, architecture):
        return MultVAE(
            architecture["n_items"],
            architecture["n_components"],
            architecture["hidden_layer_sizes"],
            ACTIVATIONS[architecture["activation"]],
            self.dropout,
            _likelihood(architecture),
        )

    def _validator(self, model, X_val):
        """A function from parameters to the NDCG of what is hidden of X_val, which is split once for all epochs."""
        foldin, heldout = content_holdout(X_val)

        def validate(params):
            ids, _ = rank(partial(_score, model, params), foldin, LIST_LENGTH)
            return float(ndcg_at_k(heldout, ranked=ids, k=LIST_LENGTH))

        return validate


def _check_range(X):
    """Raise where a value, or its square in the optimiser, leaves the range of float32, in which training computes."""
    outside = np.flatnonzero((X.data < _SMALLEST) | (X.data > _LARGEST))
    if len(outside):
        raise ValueError(
            f"fit computes in float32 and takes interactions between {_SMALLEST:g} and {_LARGEST:g}, but "
            f"{entry(X, outside[0])}; scale X, or binarise it."
        )


def _rankable(X):
    """Rows with an interaction to show and another to rank."""
    return np.flatnonzero(np.diff(X.indptr) >= 2)


def _checked_confidence(confidence):
    if len(confidence) != 2 or not all(isinstance(c, Real) and 0 < c < math.inf for c in confidence):
        raise ValueError(f"confidence must be two positive numbers (c_0, c_1), but it is {confidence!r}.")
    return tuple(float(c) for c in confidence)


def _likelihood(architecture):
    if architecture["likelihood"] == "gaussian":
        return WeightedGaussian(architecture["confidence"])
    return {"multinomial": Multinomial, "bernoulli": Bernoulli}[architecture["likelihood"]]()


def _defaults(n_users, n_seen):
    """What "auto" stands for; the evidence is in doc/user_guide/recommender.rst.

    `n_seen` is the number of users of this fit or, after calls of `partial_fit`, of all of them.
    """
    batch_size = int(np.clip(n_users // 16, 8, 500))
    steps = math.ceil(n_users / batch_size)  # an epoch
    return {
        "beta": float(np.clip(n_seen / 400_000, 0.02, 0.2)),
        "weight_decay": 2e-4,
        "learning_rate": 5e-3,
        "batch_size": batch_size,
        "max_iter": max(math.ceil(240 / steps), int(np.clip(1500 // steps, 10, 30))),
    }


@torch.no_grad()
def _score(model, params, X):
    """Scores of all items for the users of X, at the mean of their posteriors."""
    some = next(iter(params.values()))  # for the device and dtype they all share
    batch = Rows(X, some.device, some.dtype).batch(np.arange(X.shape[0]))
    return model.decode(params, model.encode(params, batch).mean)


@torch.no_grad()
def _expected_bound(model, params, batch, draws):
    """The normalised bound of each row, its expectation taken over the given standard normal draws (S, K)."""
    q = model.encode(params, batch)
    std = (0.5 * q.log_variance).exp()
    log_prob = torch.stack([model.log_prob(params, batch, q.mean + std * draw) for draw in draws]).mean(0)
    return log_prob + model.likelihood.log_base(batch) - model.kl(q).sum(-1)
