"""Recommendation by a variational autoencoder with a multinomial likelihood."""

from numbers import Real

import torch

from skvae._compat import Interval, StrOptions
from skvae._tensors import Noise, block_rows
from skvae.estimators._network import ANNEALING
from skvae.estimators.recommenders.networks._autoencoder_recommender import AutoencoderRecommender
from skvae.estimators.recommenders.networks._network_recommender import rows_beside
from skvae.models.recommenders.mult_vae import MultVAE
from skvae.training import defaults
from skvae.training.plan import kl_weight

_ELBO_DRAWS = 32


class MultVAERecommender(AutoencoderRecommender):
    """Recommend items by a variational autoencoder of users' interactions.

    A user's row of clicks is a number of draws from a multinomial over the items. A network computes the
    log-probabilities of the items from a latent taste; another network infers the taste from the row:

        z_u ~ N(0, I),   x_u ~ Mult(N_u, softmax(f(z_u))),   q(z_u | x_u) = N(mu(x_u), diag sigma^2(x_u))

    Both are fitted together by stochastic ascent of E_q[log p(x | z)] - beta KL(q || p). New users need no new fit:
    their row is enough. Read more in the :doc:`user guide </user_guide/recommender>`.

    Parameters
    ----------
    n_components : int, default=200
        Dimension K of the latent taste.
    hidden_layer_sizes : tuple of int, default=()
        Widths of the encoder's hidden layers; the decoder mirrors them. Without any, both networks are linear maps
        around the latent layer, which suits up to some ten thousand users. The paper: (600,).
    activation : {"identity", "logistic", "tanh", "relu", "silu"}, default="tanh"
        Activation of the hidden layers.
    decoder_units : int or "auto", default="auto"
        Width of a hidden layer of SiLU units that the decoder has beside the layers above, from z to the scores. It
        adds what a linear map of z cannot say; 0: no such layer. "auto": 300 if `hidden_layer_sizes` is empty and the
        mean user has fewer than 50 items or `similarity_` is 0.33 or more, else 0. A fit that goes on from another
        keeps the width of that one.
    dropout : float, default=0.3
        Share of a row's interactions that are hidden from the encoder in each training step, in [0, 1). The paper: 0.5.
    beta : float or "auto", default="auto"
        Weight of the KL term once the annealing has ended. 1 trains the evidence lower bound itself; ranking is best
        well below it. "auto": the number of users / 400,000, from 0.02 to 0.2. The paper: 0.2.
    annealing : {"linear", "sigmoid", "cyclical"}, callable or None, default="linear"
        How the weight of the KL term rises to `beta`: along a line or a logistic curve over the first
        `anneal_fraction` of all steps, in `n_cycles` cycles that each rise over their first `anneal_fraction`, as a
        function from the fraction of all steps done to a multiplier of `beta`, or not at all (None: `beta` throughout).
    anneal_fraction : float, default=0.25
        In [0, 1]. It is a fraction of all steps, because a fixed number of steps that suits many users would leave a
        small data set at a weight of almost zero.
    n_cycles : int, default=4
        Number of cycles of the cyclical annealing.
    likelihood : {"multinomial", "bernoulli", "gaussian"}, default="multinomial"
        Likelihood of a row given the decoder's output. "bernoulli" (X in [0, 1]) takes clicks as independent,
        "gaussian" weighs squares by confidence; the paper compares all three.
    confidence : tuple of two floats, default=(1.0, 10.0)
        Precisions (c_0, c_1) of the gaussian likelihood where a user did not and did interact, in 1 / value**2.
    weight_decay : float or "auto", default="auto"
        L2 penalty: the coefficient of half the sum of squares of all weights (biases are free), against the mean bound
        per user. "auto": 1e-5 for each item of the mean user, from 2e-5 to 1e-3; twice that where the learning rate of
        "auto" is 1e-2.
    learning_rate : float or "auto", default="auto"
        Learning rate of Adam at the first step. "auto": 5e-3; but 1e-2 if the decoder has units and `similarity_` is
        0.33 or more.
    learning_rate_schedule : {"cosine", "constant"}, default="cosine"
        Whether the rate falls to 2 % along half a cosine over the fit, or is constant. After the fall the last epoch
        is nearly always the best, so that early stopping need not set users aside.
    batch_size : int or "auto", default="auto"
        Users a step. "auto": a sixteenth of the users, from 8 to 500. If the decoder has units: a thirty-second, but
        100 if that is more and no more than a sixteenth.
    max_iter : int or "auto", default="auto"
        Epochs. "auto": as many as make 1,500 steps, from 10 to 30, but at least 240 steps. Where the learning rate of
        "auto" is 1e-2: from 10 to 35.
    early_stopping : bool or "auto", default="auto"
        Whether to stop when ``NDCG@100`` on held-out interactions of held-out users has not risen for
        `n_iter_no_change` epochs, and to keep the best weights; no epoch counts before the annealing has ended. "auto":
        where `X_val` is given or there are 10,000 users.
    validation_fraction : float, default=0.1
        Share of the users to set aside for early stopping where `fit` is given no `X_val`, inside (0, 1).
    n_iter_no_change : int, default=10
        Patience of early stopping, in epochs.
    warm_start : bool, default=False
        Whether `fit` goes on from the weights of the last fit and, from the second call on, from its optimizer state.
    precision : {"float32", "float64", "bfloat16", "auto"}, default="float32"
        What training computes in. "float64" rounds to 16 digits in place of 7, and takes longer. "bfloat16" is for
        the factors of matrix products; weights and sums stay float32. "auto": bfloat16 where the device has
        instructions for it and the network is large enough to gain. See :doc:`/user_guide/devices`.
    device : str, default="auto"
        Where to compute: "auto" (a CUDA GPU if there is one, else the CPU), "cpu", "cuda", "cuda:1", ...
    data_parallel : bool, default=False
        Whether the processes of `torch.distributed` share the fit. Each passes users of its own, with all items; in the
        fit each holds the weights of a part of the items. See :doc:`/scaling`.
    random_state : int, RandomState instance or None, default=None
        Seed of initial weights, order, dropout and draws. An int gives bit-equal fits on the CPU of one machine with
        one number of threads. None draws a fresh seed from the system, without touching NumPy's global generator.
    verbose : int, default=0
        1 prints about ten lines a fit, 2 a line every epoch. For a bar: `set_callbacks(ProgressBar())`.
    checkpoint : str, path-like, Checkpoint or None, default=None
        File from which an interrupted fit goes on: see :class:`~skvae.Checkpoint`.

    Attributes
    ----------
    parameters_ : dict of ndarray
        Weights, of shape (n_in, n_out), and biases of the two networks: "encoder.0.weight", "decoder.0.bias", ...
        Row i of the encoder's first weight and column i of the decoder's last belong to item i.
    lower_bounds_ : ndarray of shape (n_epochs,)
        Mean evidence lower bound per user in each epoch, in nats, at beta = 1 whatever beta trains with, by the noise
        and dropout of training.
    validation_scores_ : ndarray
        ``NDCG@100`` of the validation users after each epoch, where there are any.
    validation_epochs_ : int ndarray
        Number of epochs done at each validation.
    kl_weights_ : ndarray of shape (n_epochs,)
        Weight of the KL term at the first step of each epoch, as `annealing` raises it to `beta`.
    n_iter_ : int
        Epochs done, over all calls of `partial_fit` or of `fit` with `warm_start`.
    n_samples_seen_ : int
        Users with interactions that `fit`, or all calls of `partial_fit`, learnt from.
    decoder_units_ : int
        `decoder_units` as the fit had it.
    weight_decay_ : float
        `weight_decay` as the fit had it.
    items_per_user_ : float
        Mean number of items of the users who have any, in the first fit of those that went on from one another.
    similarity_ : float
        How much more alike users are than by chance, in the same fit: (s - s_0) / (1 - s_0), where s is the mean cosine
        similarity of a user's items to those of the most similar user, and s_0 the same after the items have been
        shuffled among the users. Up to 1,000 users with different items are compared.
    device_ : str
        Where the fit ran.
    precision_ : {"float32", "float64", "bfloat16"}
        What training computed in.
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

    _has_normal_prior = True

    _parameter_constraints = {
        **AutoencoderRecommender._parameter_constraints,
        "beta": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        **ANNEALING,
    }

    def __init__(
        self,
        n_components=200,
        *,
        hidden_layer_sizes=(),
        activation="tanh",
        decoder_units="auto",
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
        precision="float32",
        device="auto",
        data_parallel=False,
        random_state=None,
        verbose=0,
        checkpoint=None,
    ):
        self.n_components = n_components
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.decoder_units = decoder_units
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
        self.precision = precision
        self.device = device
        self.data_parallel = data_parallel
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint = checkpoint

    _model = MultVAE

    # ------------------------------------------------------------------------------------------- what a fit consists of
    def _auto(self, n_users, n_seen, users, architecture):
        return defaults.recommender_defaults(n_users, n_seen, users, has_units=architecture["decoder_units"] > 0)

    def _kl_weight(self, settled, continuation):
        return kl_weight(self, settled["beta"], continuation)

    # ---------------------------------------------------------------------------------------------------- prediction
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
        model, params = self._fitted_model(X.dtype)
        rows = rows_beside(X, params)
        model.likelihood.check(X)
        draws = Noise(0).fold("elbo").normal(torch.arange(_ELBO_DRAWS), model.n_components, rows.dtype)
        size = block_rows(X.shape[1])
        bounds = [model.expected_bound(params, batch, draws.to(rows.device)) for batch in rows.batches(size)]
        return torch.cat(bounds).cpu().numpy()
