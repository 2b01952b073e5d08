"""Generation of rows like those of a table by a generative adversarial network."""

from dataclasses import replace
from functools import partial
from itertools import groupby
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from skvae._compat import Interval, StrOptions
from skvae._tensors import Noise, inference_device, rounded
from skvae.engines.optimizer import SGD, Adam
from skvae.estimators._checks import check_n_samples, checked_sizes, draw_seed_of_sample
from skvae.estimators._progress import EpochWatcher
from skvae.estimators.autoencoders._network_transformer import TableNetwork, model_on
from skvae.models.autoencoders.gan import GAN, Levels
from skvae.networks import ACTIVATIONS
from skvae.tables.column_likelihoods import chosen_columns
from skvae.tables.decoding import as_given
from skvae.tables.frames import all_booleans, as_table, names_of
from skvae.tables.learning import read_columns
from skvae.training import defaults
from skvae.training.adversarial.game import AdversarialTraining, turns_of_players
from skvae.training.adversarial.two_sample_test import TwoSampleTest
from skvae.training.factor_analysis_start import random_network
from skvae.training.members import MemberNoise, one_member
from skvae.training.rows import rows_at_once
from skvae.training.validation import split_off

_FEWEST_COMPONENTS, _MOST_COMPONENTS = 2, 64  # where n_components="auto"


class GameWatcher(EpochWatcher):
    """Watches the epochs of two players."""

    def line(self, report):
        value, of_generator = (float(np.mean(bound)) for bound in report.lower_bound_of_turn.values())
        score = report.validation_score
        distance = "" if score is None else f"  energy distance {-float(np.max(score)):.4g}"
        return (
            f"epoch {report.number + 1}/{self.max_iter}  value {value:.4g} nats a row, of the generator "
            f"{of_generator:.4g}{distance}"
        )


class GANGenerator(TableNetwork):
    """Generate rows like those of a table by a generative adversarial network.

        z ~ N(0, I),   x = G(z),   min over G, max over D of E_data[log D(x)] + E_z[log(1 - D(G(z)))]

    A network G, the generator, turns noise into rows. Another, the discriminator D, learns to tell them from the rows
    of the table, and G learns to be taken for real. Numbers, categories and Booleans may stand in one table. A GAN has
    no likelihood: it cannot score, impute or embed rows, for which there is `VAETransformer`. Read more in the
    :doc:`user guide </user_guide/gan>`.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Dimension of z. "auto": the number of columns that vary, each level of a category counted, from 2 to 64.
    hidden_layer_sizes : tuple of int, default=(128, 128)
        Widths of the discriminator's hidden layers; the generator mirrors them.
    activation : {"identity", "logistic", "tanh", "relu", "silu"}, default="relu"
        Activation of the hidden layers. Smooth ones separate clusters badly.
    categorical_features : "auto", array-like or None, default="auto"
        Columns whose cells are levels of categories: numbers, names or a Boolean mask of columns. "auto": strings and
        categories, of a DataFrame or of an array of objects. None: none. Of the other columns, those that hold
        Booleans stay so, and all else are numbers.
    loss : {"non_saturating", "minimax"}, default="non_saturating"
        What the generator raises: E[log D(G(z))], whose gradient is large where the discriminator is sure, or
        -E[log(1 - D(G(z)))], which is that of the game.
    n_discriminator_steps : int, default=1
        Steps of the discriminator before each step of the generator (k of algorithm 1).
    optimizer : {"adam", "momentum"}, default="adam"
        "momentum": gradient steps with momentum, as in Goodfellow et al. 2014.
    momentum : float, default=0.5
        In [0, 1): decay of the averaged gradient of Adam (beta1), or share of the last step that is taken again.
    gradient_penalty : float or "auto", default="auto"
        Half of it times the mean squared gradient of the discriminator's logit at the rows of the table is what the
        discriminator pays (R1 of Mescheder et al. 2018), with columns in standard deviations. It falls as the learning
        rate does. It keeps the discriminator from learning few rows by heart, and blurs narrow clusters. "auto": 1 up
        to 300 rows, then (300 / number of rows) squared.
    learning_rate : float or "auto", default="auto"
        Of both players. "auto": 1e-3 for Adam, 2e-2 for momentum.
    learning_rate_schedule : {"cosine", "constant"}, default="cosine"
        Whether the rate falls to 2 % of its start along half a cosine over the fit, or stays.
    batch_size : int or "auto", default="auto"
        Rows a step. "auto": 256.
    max_iter : int or "auto", default="auto"
        Epochs. "auto": as many as make ten steps of the generator for each row, 8,000 at most.
    early_stopping : bool, default=False
        Whether the energy distance of generated rows from rows that are held out decides when to stop, and which epoch
        is kept. False: the last epoch is kept.
    validation_fraction : float, default=0.1
        Share of the rows that are held out for early stopping, inside (0, 1).
    n_iter_no_change : int, default=10
        Patience of early stopping, in comparisons, of which a whole fit makes 30.
    tol : float, default=0.0
        By how much the energy distance must fall to reset the patience.
    n_history_samples : int, default=25
        Rows that are kept of each comparison.
    warm_start : bool, default=False
        Whether `fit` goes on from the networks of the last fit and, from the second call on, from their optimizers'
        state. There is no early stopping then.
    precision : {"float32", "float64"}, default="float32"
        What the game is played in. "float64" rounds to 16 digits in place of 7, and takes longer.
    device : str, default="auto"
        Where to compute: "auto" (a CUDA GPU if there is one, else the CPU), "cpu", "cuda", "cuda:1", ...
    data_parallel : bool, default=False
        Whether the processes of `torch.distributed` share the fit, each with rows of its own. See
        :doc:`/scaling`.
    random_state : int, RandomState instance or None, default=None
        Seed of initial weights, order and draws. An int gives bit-equal fits on the CPU of one machine with one number
        of threads. None draws a fresh seed from the system, without touching NumPy's global generator.
    verbose : int, default=0
        1 prints about ten lines a fit, 2 a line every epoch. For a bar: `set_callbacks(ProgressBar())`.
    checkpoint : str, path-like, Checkpoint or None, default=None
        File from which an interrupted fit goes on: see :class:`~skvae.Checkpoint`.

    Attributes
    ----------
    history_ : dict of ndarray of shape (n_comparisons,)
        The course of the fit. "n_iter": epochs done. "energy_distance": of 1,000 generated rows, always from the same
        noise, from the rows that are held out (without any, from those of the fit); see
        `skvae.metrics.energy_distance`. "discriminator_accuracy": share of these rows, both samples counting half,
        that the discriminator tells right; near 0.5 at best. "value", "generator_value": what the two raised in that
        epoch, nats a row.
    sample_history_ : list of {ndarray, DataFrame} of shape (n_history_samples, n_features)
        Generated rows at each comparison, from the same noise, as `sample` gives them.
    parameters_ : dict of ndarray
        Weights, of shape (n_in, n_out), and biases of both networks.
    lower_bounds_ : ndarray of shape (n_epochs,)
        Value of the game in each epoch, as the discriminator met the rows in training; nats a row. Plus log 4 it bounds
        twice the Jensen-Shannon divergence of data and generator from below: -log 4 is the equilibrium.
    validation_scores_, validation_epochs_ : ndarrays
        Minus the energy distances, and the number of epochs done at each.
    n_iter_ : int
        Epochs done, over all calls of `partial_fit` or of `fit` with `warm_start`.
    n_samples_seen_ : float
        Weight of the rows that `fit`, or all calls of `partial_fit`, learnt from.
    device_ : str
        Where the fit ran.
    precision_ : {"float32", "float64"}
        What the game was played in.
    n_features_in_ : int
        Number of columns.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns, where `fit` was given a DataFrame.

    See Also
    --------
    VAETransformer : A model with a likelihood, which samples too.
    GaussianMixtureEM : Samples of a mixture, with a density.
    skvae.metrics.energy_distance, skvae.metrics.classifier_two_sample_accuracy : How good generated rows are.

    Notes
    -----
    Numbers are centred and scaled inside. A column that is constant in the training rows is left out of the networks
    and given back as it was. Columns of integers in a DataFrame are rounded; in an array they are numbers like others.

    References
    ----------
    Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville and Bengio, *Generative Adversarial Nets*,
    NeurIPS 2014.

    Radford, Metz and Chintala, *Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
    Networks*, ICLR 2016.

    Mescheder, Geiger and Nowozin, *Which Training Methods for GANs do actually Converge?*, ICML 2018.

    Jang, Gu and Poole, *Categorical Reparameterization with Gumbel-Softmax*, ICLR 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import GANGenerator
    >>> angle = np.random.default_rng(0).uniform(0, 2 * np.pi, size=500)
    >>> X = np.column_stack([np.cos(angle), np.sin(angle)])
    >>> gan = GANGenerator(hidden_layer_sizes=(32, 32), max_iter=500, random_state=0).fit(X)
    >>> rows = gan.sample(1000, random_state=0)
    >>> bool(abs(np.linalg.norm(rows, axis=1).mean() - 1) < 0.1)
    True
    """

    _parameter_constraints = {
        **{
            name: constraint
            for name, constraint in TableNetwork._parameter_constraints.items()
            if name != "early_stopping"
        },
        "n_components": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "categorical_features": ["array-like", StrOptions({"auto"}), None],
        "loss": [StrOptions({"non_saturating", "minimax"})],
        "n_discriminator_steps": [Interval(Integral, 1, None, closed="left")],
        "optimizer": [StrOptions({"adam", "momentum"})],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "gradient_penalty": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean"],
        "precision": [StrOptions({"float32", "float64"})],
        "n_history_samples": [Interval(Integral, 0, 1000, closed="both")],
    }

    _watcher = GameWatcher
    _units = staticmethod(lambda columns, numbers, weight: lambda values: values)  # a game has no units of the data
    _fewest_rows = 2
    _reads_gaps = False

    def __init__(
        self,
        n_components="auto",
        *,
        hidden_layer_sizes=(128, 128),
        activation="relu",
        categorical_features="auto",
        loss="non_saturating",
        n_discriminator_steps=1,
        optimizer="adam",
        momentum=0.5,
        gradient_penalty="auto",
        learning_rate="auto",
        learning_rate_schedule="cosine",
        batch_size="auto",
        max_iter="auto",
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        tol=0.0,
        n_history_samples=25,
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
        self.categorical_features = categorical_features
        self.loss = loss
        self.n_discriminator_steps = n_discriminator_steps
        self.optimizer = optimizer
        self.momentum = momentum
        self.gradient_penalty = gradient_penalty
        self.learning_rate = learning_rate
        self.learning_rate_schedule = learning_rate_schedule
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.n_history_samples = n_history_samples
        self.warm_start = warm_start
        self.precision = precision
        self.device = device
        self.data_parallel = data_parallel
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint = checkpoint

    # --------------------------------------------------------------------------------------------------------- fitting
    _beta_is_of_kl = False  # but that of the gradient penalty

    def fit(self, X, y=None, sample_weight=None, X_val=None):
        """Fit both networks to the rows of X.

        Parameters
        ----------
        X : {array-like, DataFrame} of shape (n_samples, n_features)
            Without missing cells.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            How often each row counts.
        X_val : {array-like, DataFrame} of shape (n_validation_samples, n_features) or None, default=None
            Held-out rows for early stopping, in place of a part of X. A warm start from an earlier fit does not use
            them.

        Returns
        -------
        self : object
            The estimator, fitted.

        Raises
        ------
        ValueError
            If X holds a missing or infinite cell, or if a parameter is out of its range.
        FloatingPointError
            If the game diverges even at half the learning rate.
        """
        return super().fit(X, y, sample_weight=sample_weight, X_val=X_val)

    def partial_fit(self, X, y=None, sample_weight=None):
        """Make one pass over the rows of X, at a constant learning rate and without early stopping.

        The first call settles what is known of the columns: scales, levels, and which are constant.

        Parameters
        ----------
        X : {array-like, DataFrame} of shape (n_samples, n_features)
            Without missing cells.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            How often each row counts.

        Returns
        -------
        self : object
            The estimator, fitted.
        """
        return super().partial_fit(X, y, sample_weight=sample_weight)

    # ------------------------------------------------------------------------------------------- what a fit consists of
    def _check_consistent(self):
        """All combinations of parameters are possible."""

    def _read_columns(self, X):
        who, given = type(self).__name__, self.categorical_features
        if isinstance(given, str):
            return read_columns(X, given, who=who)
        table = as_table(X, who)
        n, names = table.shape[1], names_of(table, getattr(X, "columns", None))
        kind = dict.fromkeys(range(n), "gaussian") | {j: "bernoulli" for j in range(n) if all_booleans(table, j)}
        kind |= dict.fromkeys([] if given is None else chosen_columns(given, n, names), "categorical")
        entries = [(name, [j for j in kind if kind[j] == name]) for name in ("gaussian", "bernoulli", "categorical")]
        return read_columns(X, entries, who=who)

    def _decisions(self, columns, n_rows, *, given, continuation):
        return bool(self.early_stopping) and not continuation.single_pass, False

    def _architecture_of(self, columns, with_mask):
        n_components = self.n_components
        if n_components == "auto":
            n_components = min(max(columns.width, _FEWEST_COMPONENTS), _MOST_COMPONENTS)
        return {
            "columns": columns.architecture(),
            "n_components": int(n_components),
            "hidden_layer_sizes": checked_sizes(self.hidden_layer_sizes),
            "activation": self.activation,
            "with_mask": with_mask,
        }

    def _precision(self, batch_size):
        return self.precision

    def _build(self, columns, architecture):
        return GAN(
            architecture["n_components"],
            columns.width,
            _levels(columns),
            architecture["hidden_layer_sizes"],
            ACTIVATIONS[architecture["activation"]],
            loss=self.loss,
            gradient_penalty=self.gradient_penalty != 0,
        )

    def _begin(self, model, rows, held_out, noise, *, validates, fills, continuation):
        params = one_member(random_network(model, rows, noise))
        squares = None
        if validates and held_out is None:
            rows, held_out, squares = split_off(rows, noise, self.validation_fraction)
        plan = self._plan(rows.n_all, validates=validates, continuation=continuation)
        return self._training(model, rows, held_out, squares, noise, plan, params, n_seen=rows.n_observations)

    def _go_on(self, model, rows, noise, earlier, continuation):
        params, state = earlier.params_on(rows.device, rows.dtype), earlier.optimizer_state_on(rows.device, rows.dtype)
        plan = self._plan(rows.n_all, continuation=continuation, first_epoch=earlier.n_iter)
        state = None if state is None else one_member(state)
        n_seen = earlier.n_samples_seen
        return self._training(model, rows, None, None, noise, plan, one_member(params), n_seen=n_seen, state=state)

    def _training(self, model, rows, held_out, squares, noise, plan, params, *, n_seen, state=None):
        kind = partial(Adam, betas=(self.momentum, 0.999)) if self.optimizer == "adam" else SGD
        settings = {} if self.optimizer == "adam" else {"momentum": self.momentum}
        k, gamma = self.n_discriminator_steps, self.gradient_penalty
        gamma = defaults.gan_gradient_penalty(n_seen) if gamma == "auto" else gamma
        rate_schedule = plan.rate_schedule
        plan = replace(
            plan,
            beta=lambda fraction: gamma * rate_schedule(fraction),
            turns=turns_of_players(model, k, kind(plan.learning_rate, **settings)),
            validate_every=defaults.gan_validate_every(plan.max_iter),
        )
        compared = rows if held_out is None else held_out
        test = TwoSampleTest(model, compared, squares, noise.fold("test"), self.n_history_samples)
        return AdversarialTraining(model, rows, noise, plan, params, test, optimizer_state=state)

    def _auto(self, n_rows, *, validates, from_linear):
        return defaults.gan_defaults(
            n_rows,
            batch_size=self.batch_size,
            n_discriminator_steps=self.n_discriminator_steps,
            with_adam=self.optimizer == "adam",
        )

    # ------------------------------------------------------------------------------------------------ what it leaves
    def _summary(self, prepared, kept):
        columns, earlier = prepared.rows.columns, prepared.earlier
        history = {name: each.astype(np.int64 if name == "n_iter" else float) for name, each in kept.history.items()}
        samples = [as_given(x.astype(np.float64), columns) for x in kept.sample_history if len(x)]
        if earlier.parameters is not None:
            history["n_iter"] = history["n_iter"] + earlier.n_iter
            history = {name: np.append(self.history_[name], each) for name, each in history.items()}
            samples = [*self.sample_history_, *samples]
        return super()._summary(prepared, kept) | {"history_": history, "sample_history_": samples}

    # ---------------------------------------------------------------------------------------------------- prediction
    def sample(self, n_samples=1, random_state=None):
        """Generate rows.

        Parameters
        ----------
        n_samples : int, default=1
            How many.
        random_state : int, RandomState instance or None, default=None
            An int draws the same rows every time, None others at each call: by the estimator's own RandomState, if
            it has one.

        Returns
        -------
        X : {ndarray, DataFrame} of shape (n_samples, n_features)
            A DataFrame where the fit was on one that holds more than numbers.

        Raises
        ------
        ValueError
            If n_samples is no whole number, or below 1.
        """
        check_is_fitted(self)
        row = torch.arange(check_n_samples(n_samples))
        device = inference_device(self.device)
        model, params = model_on(self, device, torch.float32)
        noise = MemberNoise([Noise(draw_seed_of_sample(self, random_state))])
        parts = row.split(rows_at_once(max(model.n_outputs, *model.generator_sizes)))
        with torch.no_grad():
            drawn = [model.generate(params, noise, row[None].to(device))[0] for row in parts]
        return as_given(torch.cat(drawn).cpu().double().numpy(), self._columns)

    def decision_function(self, X):
        """Compute the logit of the discriminator for each row: above 0 where it takes the row for real.

        It compares a row with what the generator makes, and is no density: a row far from the data can have any value.

        Parameters
        ----------
        X : {array-like, DataFrame} of shape (n_samples, n_features)
            Without missing cells.

        Returns
        -------
        logit : ndarray of shape (n_samples,)
        """
        fitted = self._fitted_rows(X)
        logit = fitted.by_row(lambda batch: fitted.model.logit(fitted.params, batch.x.value)[0])
        return rounded(logit, fitted.numbers.dtype)


def _levels(columns):
    """The columns of the layout that are drawn: runs of categories with one number of levels, and Booleans."""
    found = []
    for block in columns.blocks:
        if block.nominal:
            start = block.start
            for size, run in groupby(block.sizes):
                found.append(Levels(start, start := start + size * len(list(run)), size))
        elif not block.scaled:
            found.append(Levels(block.start, block.stop))
    return found
