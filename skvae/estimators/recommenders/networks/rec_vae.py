"""Recommendation by a variational autoencoder with a densely connected encoder."""

from numbers import Integral, Real

import numpy as np

from skvae._compat import Interval, StrOptions
from skvae.engines.gradient import Turn
from skvae.estimators.recommenders.networks._network_recommender import NetworkRecommender
from skvae.models.recommenders.rec_vae import RecVAE
from skvae.training import defaults
from skvae.training.plan import KLWeight


class RecVAERecommender(NetworkRecommender):
    """Recommend items by a variational autoencoder with a deep encoder and a linear decoder.

    The encoder has hidden layers that are normalised. Each reads the output of the layer before it and the sum of the
    outputs of all earlier layers. The decoder is one linear layer. The KL term of a user has a weight that is
    proportional to how much the user has clicked. Its prior holds the posterior of the last epoch, so that the code of
    a user moves slowly:

        E_q[log p(x_u | z)] - gamma N_u KL(q(z | x_u) || p(z | x_u)),   N_u = sum_i x_ui,
        p(z | x) = 0.15 N(0, 1) + 0.75 q_last(z | x) + 0.1 N(0, e^10),   for each component of z

    Read more in the :doc:`user guide </user_guide/recommender_family>`.

    Parameters
    ----------
    n_components : int, default=200
        Dimension K of the latent taste.
    hidden_size : int, default=400
        Width of each hidden layer of the encoder. The paper: 600.
    n_layers : int, default=4
        Number of hidden layers of the encoder. The paper: 5.
    dropout : float, default=0.5
        Share of a row's interactions that are hidden from the encoder in each training step, in [0, 1).
    gamma : float or "auto", default="auto"
        Weight of the KL term for each interaction of a user. "auto": 8 / the number of users, from 0.002 to 0.02. The
        paper: 0.005.
    weight_decay : float or "auto", default="auto"
        L2 penalty: the coefficient of half the sum of squares of all weights (biases are free), against the mean bound
        per user. "auto": 2e-4.
    learning_rate : float or "auto", default="auto"
        Learning rate of Adam at the first step. "auto": 5e-3.
    learning_rate_schedule : {"cosine", "constant"}, default="cosine"
        Whether the rate falls to 2 % along half a cosine over the fit, or is constant.
    batch_size : int or "auto", default="auto"
        Users a step. "auto": a sixteenth of the users, from 8 to 500.
    max_iter : int or "auto", default="auto"
        Epochs. "auto": as many as make 1,500 steps, from 10 to 30, but at least 240 steps.
    early_stopping : bool or "auto", default="auto"
        Whether to stop when ``NDCG@100`` on held-out interactions of held-out users has not risen for
        `n_iter_no_change` epochs, and to keep the best weights. "auto": where `X_val` is given or there are 10,000
        users.
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
        Weights, of shape (n_in, n_out), and biases: "encoder.0.weight", "decoder.0.bias", ..., and the factors and
        offsets of the normalised layers, "encoder.0.scale" and "encoder.0.shift". Row i of the encoder's first weight
        and column i of the decoder's belong to item i.
    lower_bounds_ : ndarray of shape (n_epochs,)
        Mean per user of log p(x | z) less the KL term at weight 1, in each epoch, in nats, by the noise and dropout of
        training. The prior changes from epoch to epoch, so these are no bounds of one log-evidence.
    validation_scores_ : ndarray
        ``NDCG@100`` of the validation users after each epoch, where there are any.
    validation_epochs_ : int ndarray
        Number of epochs done at each validation.
    kl_weights_ : ndarray of shape (n_epochs,)
        Weight of the KL term per item of the user in each epoch: `gamma`, or the value of "auto".
    n_iter_ : int
        Epochs done, over all calls of `partial_fit` or of `fit` with `warm_start`.
    n_samples_seen_ : float
        Weight of the users with interactions that `fit`, or all calls of `partial_fit`, learnt from.
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
    MultVAERecommender : The same likelihood, with a standard normal prior.
    VotingRecommender : Adds the scores of a network to those of EASE.

    Notes
    -----
    The paper trains encoder and decoder by turns. Here both move in every step. Its network is
    ``RecVAERecommender(hidden_size=600, n_layers=5, gamma=0.005, weight_decay=0, learning_rate=5e-4,
    learning_rate_schedule="constant", batch_size=500)``.

    References
    ----------
    Shenbin, Alekseev, Tutubalina, Malykh and Nikolenko, *RecVAE: a New Variational Autoencoder for Top-N
    Recommendations with Implicit Feedback*, WSDM 2020.

    Examples
    --------
    >>> from skvae import RecVAERecommender
    >>> from skvae.datasets import make_interactions
    >>> X = make_interactions(300, 100, random_state=0)
    >>> recommender = RecVAERecommender(n_components=20, hidden_size=50, random_state=0).fit(X)
    >>> ids, scores = recommender.recommend(X[:2], k=3)
    >>> ids.shape
    (2, 3)
    """

    _parameter_constraints = {
        **{
            name: constraint
            for name, constraint in NetworkRecommender._parameter_constraints.items()
            if name not in ("hidden_layer_sizes", "activation")
        },
        "hidden_size": [Interval(Integral, 1, None, closed="left")],
        "n_layers": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "gamma": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "weight_decay": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        n_components=200,
        *,
        hidden_size=400,
        n_layers=4,
        dropout=0.5,
        gamma="auto",
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
        self.hidden_size = hidden_size
        self.n_layers = n_layers
        self.dropout = dropout
        self.gamma = gamma
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

    # ------------------------------------------------------------------------------------------- what a fit consists of
    def _architecture_of(self, X, users):
        return {
            "n_items": X.shape[1],
            "n_components": int(self.n_components),
            "hidden_size": int(self.hidden_size),
            "n_layers": int(self.n_layers),
        }

    def _build(self, architecture):
        return RecVAE(**architecture, dropout=self.dropout)

    def _auto(self, n_users, n_seen, users, architecture):
        auto = defaults.recommender_defaults(n_users, n_seen, users, has_units=False)
        del auto["beta"]
        return auto | {"weight_decay": 2e-4, "gamma": float(np.clip(8 / n_seen, 0.002, 0.02))}

    def _kl_weight(self, settled, continuation):
        return KLWeight(lambda fraction: settled["gamma"])

    def _turns(self, model):
        return (Turn(keeps_old="encoder."),)
