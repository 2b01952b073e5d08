"""Compression of a table by an autoencoder: non-linear principal component analysis."""

import math
from functools import partial
from numbers import Integral, Real

import numpy as np

from skvae._compat import Interval, StrOptions
from skvae.estimators._base import mean_score
from skvae.estimators._checks import checked_sizes
from skvae.estimators._progress import ErrorWatcher
from skvae.estimators.autoencoders._network_transformer import NetworkTransformer
from skvae.models.autoencoders.autoencoder import Autoencoder
from skvae.networks import ACTIVATIONS
from skvae.tables.decoding import decode, fill_missing
from skvae.tables.learning import read_columns
from skvae.training import defaults as policy
from skvae.training.fits import Plain, one_member, statistics_of
from skvae.training.layout import Start
from skvae.training.pca_start import (
    HeldOut,
    Principal,
    column_ranges,
    mean_error,
    observed_share,
    principal_components,
    principal_network,
    vary,
)
from skvae.training.validation import fold_copies


class AutoencoderTransformer(NetworkTransformer):
    """Compress a table to a few dimensions by an autoencoder: non-linear principal component analysis.

        minimise  mean (x - f(g(x)))^2

    A network g computes a code of `n_components` numbers from a row, another gives the row back. Without hidden layers
    they are principal component analysis (PCA); with them, the fit begins as it and bends. Rows may be corrupted in
    training, so that the network learns to undo it, and the code may be held to be sparse. Cells may be missing. Read
    more in the :doc:`user guide </user_guide/autoencoders>`.

    Parameters
    ----------
    n_components : int, default=2
        Length K of the code.
    hidden_layer_sizes : tuple of int, default=(64,)
        Widths of the encoder's hidden layers; the decoder mirrors them. Without any, both are linear.
    activation : {"identity", "logistic", "tanh", "relu", "silu"}, default="tanh"
        Of the hidden layers.
    init : {"pca", "random"}, default="pca"
        "pca": linear paths lead past the hidden layers and begin as PCA, to which the layers add next to nothing. A
        linear autoencoder of complete rows that has no corruption and no `weight_decay` is then PCA exactly, with no
        epochs. "random": the layers alone, from random weights; so it is in any case with `sparsity`, or with a module
        of your own.
    denoising : {None, "gaussian", "masking", "salt_and_pepper"}, default=None
        What happens to a row, anew in every epoch, before it is encoded (Vincent et al. 2010): noise is added, some
        cells are set to the mean of their column, or to its least or greatest value by the toss of a coin. It is the
        row itself that must be given back.
    noise_level : float, default=0.25
        Of "gaussian" the standard deviation, as a share of the root mean variance of the columns; else the share of
        cells.
    sparsity : (float, float) or None, default=None
        (rho, weight): the code is logistic, in (0, 1), and the mean activation a_k of each unit in a batch is held to
        rho by a penalty, weight times the sum of KL(rho || a_k) (Ng 2011), beside the mean squared error as a share of
        the columns' mean variance.
    encoder, decoder : callable or None, default=None
        (n_in, n_out) -> torch.nn.Module, in place of the hidden layers. Parameters are initialised here; modules with
        buffers are refused. To pickle the estimator, give functions of a module.
    weight_decay : float, default=0.0
        L2 penalty: the coefficient of half the sum of squares of all weights, beside the mean squared error as a share
        of the columns' mean variance.
    learning_rate : float or "auto", default="auto"
        Of Adam. "auto": 1e-3 up to 250 rows, 3e-3 above; 1e-2 without hidden layers.
    learning_rate_schedule : {"cosine", "constant"}, default="cosine"
        Whether the rate falls to 2 % of its start along half a cosine over the fit, or stays.
    batch_size : int or "auto", default="auto"
        Rows a step. "auto": a fortieth of the rows, from 128 to 512.
    max_iter : int or "auto", default="auto"
        Epochs. "auto": as many as make 4,000 steps, at least 10; without early stopping 2,000, of fewer than 50 rows
        200.
    early_stopping : bool or "auto", default="auto"
        Whether rows that are held out decide when to stop and which parameters to keep; without, a network learns a
        small table by heart. "auto": from 50 rows on, or with `X_val`.
    validation_fraction : float, default=0.1
        Share of the rows that are held out, inside (0, 1).
    n_iter_no_change : int, default=10
        Patience of early stopping, in validations; there is one about every 50 steps, below 1,000 rows every 20.
    tol : float, default=1e-4
        By how much the validation error must fall for the patience, as a share of the columns' mean variance.
    warm_start : bool, default=False
        Whether `fit` goes on from the last fit's network and, from the second call on, the optimiser's state; without
        early stopping.
    device : str, default="auto"
        Where to compute: "auto" (a CUDA GPU if there is one, else the CPU), "cpu", "cuda", "cuda:1", ...
    random_state : int, RandomState instance or None, default=None
        Seed of initial weights, order, corruption and held-out rows. An int gives bit-equal fits on the CPU of one
        machine with one number of threads. None draws a fresh seed from the system, without touching NumPy's global
        generator.
    verbose : int, default=0
        1 prints about ten lines a fit, 2 a line every epoch. For a bar: `set_callbacks(ProgressBar())`.

    Attributes
    ----------
    parameters_ : dict of ndarray
        Weights, of shape (n_in, n_out), and biases.
    reconstruction_error_ : float
        Mean squared error of the observed cells of the training rows, in the units of X squared; without corruption.
    lower_bounds_ : ndarray of shape (n_epochs,)
        Minus the mean squared error of the observed cells in each epoch, in the units of X squared, as the rows were
        met in training; penalties left out.
    validation_scores_ : ndarray
        Minus the mean squared error of the rows held out, without corruption, at each validation; PCA, where the fit
        begins, is kept if none is better than that.
    n_iter_ : int
        Epochs done, over all calls of `partial_fit` or of `fit` with `warm_start`; 1 where PCA was the answer.
    n_samples_seen_ : float
        Weight of the rows that `fit`, or all calls of `partial_fit`, learnt from.
    device_ : str
        Where the fit ran.
    n_features_in_ : int
        Number of columns.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns, where `fit` was given a DataFrame.

    See Also
    --------
    VAETransformer : With a distribution of the code, and of rows given it: columns of any kind, log-likelihoods.
    ProbabilisticPCA : The linear model of both.

    Notes
    -----
    Columns are centred, and all are divided by one number. So, as for PCA, the ones that vary most count most:
    standardise columns that are measured in different units. Missing cells count nothing; with ``init="pca"`` and
    without `denoising` the encoder reads in them what probabilistic PCA expects of them, else the column's mean and
    which cells were seen. With ``init="pca"`` the code has about unit variance in each dimension, and begins along the
    principal axes, the longest first.

    References
    ----------
    Baldi and Hornik, *Neural Networks and Principal Component Analysis*, Neural Networks 2, 1989.

    Vincent, Larochelle, Lajoie, Bengio and Manzagol, *Stacked Denoising Autoencoders*, JMLR 11, 2010.

    Ng, *Sparse Autoencoder*, CS294A lecture notes, Stanford University, 2011.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skvae import AutoencoderTransformer
    >>> X = StandardScaler().fit_transform(load_wine().data)
    >>> pca = AutoencoderTransformer(n_components=3, hidden_layer_sizes=()).fit(X)
    >>> round(pca.reconstruction_error_, 3)
    0.335
    >>> AutoencoderTransformer(n_components=3, random_state=0).fit_transform(X).shape
    (178, 3)
    """

    _parameter_constraints = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "init": [StrOptions({"pca", "random"})],
        "denoising": [StrOptions({"gaussian", "masking", "salt_and_pepper"}), None],
        "noise_level": [Interval(Real, 0, None, closed="left")],
        "sparsity": [tuple, list, None],
        "encoder": [callable, None],
        "decoder": [callable, None],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "learning_rate": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "learning_rate_schedule": [StrOptions({"cosine", "constant"})],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_iter": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "early_stopping": [StrOptions({"auto"}), "boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "warm_start": ["boolean"],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    _watcher = ErrorWatcher

    def __init__(
        self,
        n_components=2,
        *,
        hidden_layer_sizes=(64,),
        activation="tanh",
        init="pca",
        denoising=None,
        noise_level=0.25,
        sparsity=None,
        encoder=None,
        decoder=None,
        weight_decay=0.0,
        learning_rate="auto",
        learning_rate_schedule="cosine",
        batch_size="auto",
        max_iter="auto",
        early_stopping="auto",
        validation_fraction=0.1,
        n_iter_no_change=10,
        tol=1e-4,
        warm_start=False,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.init = init
        self.denoising = denoising
        self.noise_level = noise_level
        self.sparsity = sparsity
        self.encoder = encoder
        self.decoder = decoder
        self.weight_decay = weight_decay
        self.learning_rate = learning_rate
        self.learning_rate_schedule = learning_rate_schedule
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # ------------------------------------------------------------------------------------------- what a fit consists of
    def _check_consistent(self):
        """Refuse parameters that contradict each other."""
        if self.denoising in ("masking", "salt_and_pepper") and self.noise_level > 1:
            raise ValueError(
                f"denoising={self.denoising!r} replaces a share of the cells, so noise_level must be in [0, 1], but it "
                f"is {self.noise_level}."
            )
        if self.sparsity is not None:
            self._check_sparsity()

    def _check_sparsity(self):
        numbers = len(self.sparsity) == 2 and all(isinstance(part, Real) for part in self.sparsity)
        if not numbers or not 0 < self.sparsity[0] < 1 or not 0 <= self.sparsity[1] < math.inf:
            raise ValueError(
                "sparsity must be (rho, weight), a mean activation inside (0, 1) and a finite weight >= 0, such as "
                f"(0.05, 0.1), but it is {self.sparsity!r}."
            )

    def _columns_of(self, X):
        return read_columns(X, "gaussian", "isotropic", who=type(self).__name__)

    def _in_units(self, columns, numbers, weight):
        """From means over all cells of the model layout to means over observed cells of the data as given."""
        share = float(np.average((~np.isnan(numbers)).mean(1), weights=weight))
        factor = columns.scale[0] ** 2 / share
        return lambda error: error * factor

    def _starts_linear(self, columns, votes):
        """Whether the encoder reads in missing cells what PCA expects of them; not where it must not see the others."""
        return self._begins_as_pca() and self.denoising is None

    def _begins_as_pca(self):
        return self.init == "pca" and self.sparsity is None and self.encoder is None and self.decoder is None

    def _architecture_of(self, columns, with_mask):
        own = {"sparse": self.sparsity is not None, "with_skip": self._begins_as_pca()}
        return super()._architecture_of(columns, with_mask) | own

    def _build(self, columns, architecture):
        return Autoencoder(
            columns.width * (1 + architecture["with_mask"]),
            architecture["n_components"],
            columns.width,
            architecture["hidden_layer_sizes"],
            ACTIVATIONS[architecture["activation"]],
            corruption=self.denoising,
            level=float(self.noise_level),
            sparsity=tuple(map(float, self.sparsity or (0.5, 0.0))) if architecture["sparse"] else None,
            encoder=architecture["encoder"],
            decoder=architecture["decoder"],
        )

    def _beginning(self, rows, held, noise, architecture, votes, one_pass):
        """The fit of an estimator that knows nothing yet."""
        model = self._build(rows.columns, architecture)
        if one_pass and not vary(rows):
            raise ValueError(
                "The first call of partial_fit settles the scale of the columns, but all rows are equal; "
                "call it with rows that differ."
            )
        found = self._components(rows)
        if found is not None and not one_pass and self._is_pca(model, rows):
            return Principal(model, rows, noise, found)
        if votes and held is None:
            rows, held = self._split(rows, noise)
            found = self._components(rows)
        fills = found is not None and self._starts_linear(rows.columns, votes)
        start = Start(found, base=None) if fills else None
        vote = HeldOut(model, held, start, observed_share(rows)) if votes else None
        params = one_member(self._first_params(model, rows, noise, found))
        return Plain(
            model, rows, noise, self._plan(len(rows), votes=votes, one_pass=one_pass), params, start, vote=vote
        )

    def _components(self, rows):
        """Where the fit begins; None where it begins at random, as it must where no row differs from the others."""
        if not self._begins_as_pca() or not vary(rows):
            return None
        return principal_components(rows.Z, rows.weight, int(self.n_components))

    def _is_pca(self, model, rows):
        """Whether PCA is the answer."""
        return not model.last and rows.observed is None and self.denoising is None and not self.weight_decay

    def _votes(self, n, judged):
        """Whether rows that are held out vote: `judged` ones given for it, or some of n."""
        if self.early_stopping == "auto":
            return judged or n >= policy.FEW_ROWS
        return self.early_stopping and (judged or n > 1)

    def _split(self, rows, noise):
        """The rows to learn from, and those that are held out."""
        copies = fold_copies(rows.weight, noise.fold("validation"), 1, self.validation_fraction)
        learnt, (_, held) = np.flatnonzero(copies.weight[1]), copies.held_out
        if not len(learnt):
            raise ValueError(
                f"validation_fraction={self.validation_fraction} of {len(rows)} rows leaves none to learn from; lower "
                "it, or use early_stopping=False."
            )
        return rows.rows(learnt).reweighted(), rows.rows(held)

    def _params_to_go_on(self, model, rows):
        return self._ranges(rows) | super()._params_to_go_on(model, rows)

    def _ranges(self, rows):
        """What some corruption knows of the columns, as parameters that stay as they are."""
        found = column_ranges(rows) if self.denoising == "salt_and_pepper" else {}
        return {name: tensor.to(rows.device) for name, tensor in found.items()}

    def _first_params(self, model, rows, noise, found):
        """Of one network."""
        if found is not None:
            params = principal_network(model, rows, noise, found)
        else:
            params = model.init(noise.fold("init"), statistics_of(rows.columns))
        return params | self._ranges(rows)

    def _auto(self, n, votes, begins_linear):
        return policy.autoencoder_defaults(n, votes, linear=not checked_sizes(self.hidden_layer_sizes))

    # ------------------------------------------------------------------------------------------------ what it leaves
    def _summary(self, prepared, settled):
        dtype = next(iter(settled.params.values())).dtype
        model = self._build(prepared.rows.columns, prepared.architecture)
        error = mean_error(model, one_member(settled.params), prepared.rows, settled.start, dtype)
        return {"reconstruction_error_": float(prepared.in_units(error))}

    # ---------------------------------------------------------------------------------------------------- prediction
    def transform(self, X):
        """Encode each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing.

        Returns
        -------
        code : ndarray of shape (n_samples, n_components)
        """
        work = self._at_work(X)
        return work.by_row(lambda batch: work.model.encode(work.params, batch)[0])

    def score_samples(self, X):
        """Minus the mean squared error of each row over its observed cells.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing.

        Returns
        -------
        score : ndarray of shape (n_samples,)
            In the units of X squared, at most 0; 0 for a row of which nothing was observed.
        """
        work = self._at_work(X)
        return (work.by_row(partial(_minus_error, work)) * self._columns.scale[0] ** 2).astype(work.out, copy=False)

    def score(self, X, y=None, sample_weight=None):
        """Minus the mean squared error.

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
            Mean of `score_samples`; higher is better.
        """
        return mean_score(self.score_samples(X), sample_weight)

    def anomaly_score(self, X):
        """How badly each row is given back: its mean squared error.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing.

        Returns
        -------
        score : ndarray of shape (n_samples,)
            In the units of X squared; higher is stranger.
        """
        return -self.score_samples(X)

    def impute(self, X):
        """Fill missing cells with what the decoder gives back in their place.

        Parameters
        ----------
        X : {array-like, DataFrame} of shape (n_samples, n_features)
            NaN where a cell is missing.

        Returns
        -------
        X_filled : {ndarray, DataFrame} of shape (n_samples, n_features)
            A copy of X with no cell missing.
            A pandas DataFrame keeps its dtypes: columns of integers get rounded values, categories of numbers the
            nearest. All else gives an ndarray.
        """
        work = self._at_work(X)
        values = work.by_row(lambda batch: work.model.decode(work.params, work.model.encode(work.params, batch))[0])
        return fill_missing(X, work.numbers, decode(values, self._columns), self._columns)

    # ------------------------------------------------------------------------------------------- what prediction needs
    def _means(self, model, params, z):
        return model.decode(params, z)


def _minus_error(work, batch):
    """Minus the mean squared error over observed cells, (n_rows,)."""
    model, params = work.model, work.params
    errors = model.log_prob(params, batch.x, model.encode(params, batch))[0] * model.n_outputs
    return errors / batch.x.n_observed()[0].clamp(min=1)
