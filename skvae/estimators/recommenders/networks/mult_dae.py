"""Recommendation by a denoising autoencoder with a multinomial likelihood."""

from skvae.estimators.recommenders.networks._autoencoder_recommender import AutoencoderRecommender
from skvae.models.recommenders.mult_dae import MultDAE
from skvae.training import defaults


class MultDAERecommender(AutoencoderRecommender):
    """Recommend items by a denoising autoencoder of users' interactions.

    A network codes a user's row, of which training hides a part, in a few numbers. Another network gives back the
    log-probabilities of all items:

        z_u = g(x_u),   x_u ~ Mult(N_u, softmax(f(z_u)))

    It is `MultVAERecommender` without noise on z and without a KL term, so there is no beta to choose: faster to fit,
    often as good on up to some ten thousand users, without a distribution of z. Read more in the
    :doc:`user guide </user_guide/recommender>`.

    Parameters
    ----------
    n_components : int, default=200
        Dimension K of the code.
    hidden_layer_sizes : tuple of int, default=()
        Widths of the encoder's hidden layers; the decoder mirrors them.
    activation : {"identity", "logistic", "tanh", "relu", "silu"}, default="tanh"
        Activation of the hidden layers and of the code.
    decoder_units : int or "auto", default="auto"
        Width of a hidden layer of SiLU units that the decoder has beside the layers above, from z to the scores. It
        adds what a linear map of z cannot say; 0: no such layer. "auto": 300 if `hidden_layer_sizes` is empty and the
        mean user has fewer than 50 items or `similarity_` is 0.33 or more, else 0. A fit that goes on from another
        keeps the width of that one.
    dropout : float, default=0.5
        Share of a row's interactions that are hidden from the encoder in each training step, in [0, 1).
    likelihood : {"multinomial", "bernoulli", "gaussian"}, default="multinomial"
        Likelihood of a row given the decoder's output, as of `MultVAERecommender`.
    confidence : tuple of two floats, default=(1.0, 10.0)
        Precisions (c_0, c_1) of the gaussian likelihood where a user did not and did interact, in 1 / value**2.
    weight_decay : float or "auto", default="auto"
        L2 penalty: the coefficient of half the sum of squares of all weights (biases are free), against the mean
        log-likelihood per user. "auto": 1e-4.
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
        Seed of initial weights, order and dropout. An int gives bit-equal fits on the CPU of one machine with one
        number of threads. None draws a fresh seed from the system, without touching NumPy's global generator.
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
        Mean log-likelihood per user in each epoch, in nats, by the dropout of training.
    validation_scores_ : ndarray
        ``NDCG@100`` of the validation users after each epoch, where there are any.
    validation_epochs_ : int ndarray
        Number of epochs done at each validation.
    n_iter_ : int
        Epochs done, over all calls of `partial_fit` or of `fit` with `warm_start`.
    n_samples_seen_ : float
        Weight of the users with interactions that `fit`, or all calls of `partial_fit`, learnt from.
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
    MultVAERecommender : The same with a distribution of z.
    EASERecommender : A linear model without epochs.

    References
    ----------
    Liang, Krishnan, Hoffman and Jebara, *Variational Autoencoders for Collaborative Filtering*, WWW 2018.

    Examples
    --------
    >>> from skvae import MultDAERecommender
    >>> from skvae.datasets import make_interactions
    >>> X = make_interactions(300, 100, random_state=0)
    >>> recommender = MultDAERecommender(n_components=20, random_state=0).fit(X)
    >>> ids, scores = recommender.recommend(X[:2], k=3)
    >>> ids.shape
    (2, 3)
    """

    _model = MultDAE

    def __init__(
        self,
        n_components=200,
        *,
        hidden_layer_sizes=(),
        activation="tanh",
        decoder_units="auto",
        dropout=0.5,
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

    def _auto(self, n_users, n_seen, users, architecture):
        auto = defaults.recommender_defaults(n_users, n_seen, users, has_units=False)
        del auto["beta"]
        return auto | {"weight_decay": 1e-4}

    def transform(self, X):
        """Embed each user: the code of the row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of the users, whether `fit` saw them or not.

        Returns
        -------
        code : ndarray of shape (n_users, n_components)
            All zeros for a user without interactions.
        """
        return super().transform(X)
