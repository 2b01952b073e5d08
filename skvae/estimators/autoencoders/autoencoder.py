"""Compression of a table by an autoencoder: non-linear principal component analysis."""

import math
from numbers import Real

import numpy as np

from skvae._compat import Interval, StrOptions
from skvae._tensors import rounded
from skvae.estimators._base import mean_score
from skvae.estimators._checks import checked_sizes, warn_of_many_components
from skvae.estimators._progress import ErrorWatcher
from skvae.estimators.autoencoders._network_transformer import NetworkTransformer, modules_of
from skvae.models.autoencoders.autoencoder import Autoencoder
from skvae.networks import ACTIVATIONS
from skvae.tables.decoding import decode, fill_missing
from skvae.tables.learning import read_columns
from skvae.training import defaults
from skvae.training.ascent import KnownResult, SingleNetwork
from skvae.training.factor_analysis_start import random_network
from skvae.training.members import one_member
from skvae.training.pca_start import column_ranges, pca_result, principal_components, principal_network, rows_vary
from skvae.training.rows import LinearPath, squared_units_of_data
from skvae.training.validation import HeldOutError, mean_error, observed_share, split_off


class AutoencoderTransformer(NetworkTransformer):
    """Compress a table to a few dimensions by an autoencoder: non-linear principal component analysis.

        minimise  mean (x - f(g(x)))^2

    A network g computes a code of `n_components` numbers from a row, another network f reconstructs the row from the
    code. Without hidden layers this is principal component analysis (PCA). With them, the fit begins at PCA and becomes
    non-linear. Rows may be corrupted in training, so that the network learns to undo it, and the code may be made
    sparse. Cells may be missing. Read more in the :doc:`user guide </user_guide/autoencoders>`.

    Parameters
    ----------
    n_components : int, default=2
        Length K of the code.
    hidden_layer_sizes : tuple of int, default=(64,)
        Widths of the encoder's hidden layers; the decoder mirrors them. Without any, both are linear.
    activation : {"identity", "logistic", "tanh", "relu", "silu"}, default="tanh"
        Activation of the hidden layers.
    init : {"pca", "random"}, default="pca"
        "pca": there are linear paths beside the hidden layers. They begin as PCA, and the layers begin by adding almost
        nothing. A linear autoencoder of complete rows without corruption or `weight_decay` is then PCA exactly, with no
        epochs. "random": there are only the layers, with random weights. This is always so with `sparsity` or with a
        module of your own.
    denoising : {None, "gaussian", "masking", "salt_and_pepper"}, default=None
        How a row is corrupted in every epoch before it is encoded (Vincent et al. 2010). "gaussian" adds noise,
        "masking" sets some cells to the mean of their column, "salt_and_pepper" sets them to its least or greatest
        value at random. The network must reconstruct the row as it was.
    noise_level : float, default=0.25
        Standard deviation of "gaussian" noise, as a share of the root mean variance of the columns; otherwise the share
        of the cells that are corrupted.
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
        Learning rate of Adam. "auto": 1e-3 up to 250 rows, 3e-3 above; 1e-2 without hidden layers.
    learning_rate_schedule : {"cosine", "constant"}, default="cosine"
        Whether the rate falls to 2 % of its start along half a cosine over the fit, or stays.
    batch_size : int or "auto", default="auto"
        Rows a step. "auto": a fortieth of the rows, from 128 to 512.
    max_iter : int or "auto", default="auto"
        Epochs. "auto": as many as make 4,000 steps, at least 10; without early stopping 2,000, of fewer than 50 rows
        200.
    early_stopping : bool or "auto", default="auto"
        Whether held-out rows decide when to stop and which parameters to keep. Without them, a network overfits a small
        table. "auto": True from 50 rows on, or with `X_val`.
    validation_fraction : float, default=0.1
        Share of the rows that are held out, inside (0, 1).
    n_iter_no_change : int, default=10
        Patience of early stopping, in validations; there is one about every 50 steps, below 1,000 rows every 20.
    tol : float, default=1e-4
        By how much the validation error must fall for the patience, as a share of the columns' mean variance.
    warm_start : bool, default=False
        Whether `fit` goes on from the network of the last fit and, from the second call on, from its optimizer state.
        There is no early stopping then.
    precision : {"float32", "float64", "bfloat16", "auto"}, default="float32"
        What training computes in. "float64" rounds to 16 digits in place of 7, and takes longer. "bfloat16" is for
        the factors of matrix products; weights and sums stay float32. "auto": bfloat16 where the device has
        instructions for it and the network is large enough to gain. See :doc:`/user_guide/devices`.
    device : str, default="auto"
        Where to compute: "auto" (a CUDA GPU if there is one, else the CPU), "cpu", "cuda", "cuda:1", ...
    data_parallel : bool, default=False
        Whether the processes of `torch.distributed` share the fit, each with rows of its own. See
        :doc:`/scaling`.
    random_state : int, RandomState instance or None, default=None
        Seed of initial weights, order, corruption and held-out rows. An int gives bit-equal fits on the CPU of one
        machine with one number of threads. None draws a fresh seed from the system, without touching NumPy's global
        generator.
    verbose : int, default=0
        1 prints about ten lines a fit, 2 a line every epoch. For a bar: `set_callbacks(ProgressBar())`.
    checkpoint : str, path-like, Checkpoint or None, default=None
        File from which an interrupted fit goes on: see :class:`~skvae.Checkpoint`.

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
        Minus the mean squared error of the held-out rows, without corruption, at each validation. The initial
        parameters (PCA) are kept if no later ones are better.
    validation_epochs_ : int ndarray
        Number of epochs done at each validation.
    n_iter_ : int
        Epochs done, over all calls of `partial_fit` or of `fit` with `warm_start`; 1 where PCA is the solution.
    n_samples_seen_ : float
        Weight of the rows that `fit`, or all calls of `partial_fit`, learnt from.
    device_ : str
        Where the fit ran.
    precision_ : {"float32", "float64", "bfloat16"}
        What training computed in.
    n_features_in_ : int
        Number of columns.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns, where `fit` was given a DataFrame.

    See Also
    --------
    VAETransformer : An autoencoder with distributions of the code and of the rows: columns of any kind, likelihoods.
    ProbabilisticPCA : The linear model of both.

    Notes
    -----
    Columns are centred, and all are divided by one number. As in PCA, the columns that vary most count most:
    standardise columns that are measured in different units. Missing cells add nothing to the error. With
    ``init="pca"`` and without `denoising`, the encoder reads the expectations of probabilistic PCA in their place; else
    it reads the column means, and which cells were seen. With ``init="pca"`` each dimension of the code has about unit
    variance, and the code begins along the principal axes, the longest first.

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

    _bound_and_units = ("minus the mean squared error", "units of X squared")
    _score_and_units = ("held-out rows", "units of X squared")

    _parameter_constraints = {
        **NetworkTransformer._parameter_constraints,
        "init": [StrOptions({"pca", "random"})],
        "denoising": [StrOptions({"gaussian", "masking", "salt_and_pepper"}), None],
        "noise_level": [Interval(Real, 0, None, closed="left")],
        "sparsity": [tuple, list, None],
    }

    _watcher = ErrorWatcher
    _units = staticmethod(squared_units_of_data)

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
        self.precision = precision
        self.device = device
        self.data_parallel = data_parallel
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint = checkpoint

    # ------------------------------------------------------------------------------------------- what a fit consists of
    def _check_consistent(self):
        """Refuse parameters that contradict each other."""
        if self.denoising in ("masking", "salt_and_pepper") and self.noise_level > 1:
            raise ValueError(
                f"denoising={self.denoising!r} replaces a share of the cells, so noise_level must be in [0, 1], but it "
                f"is {self.noise_level}."
            )
        if self.sparsity is None:
            return
        numbers = len(self.sparsity) == 2 and all(isinstance(part, Real) for part in self.sparsity)
        if not numbers or not 0 < self.sparsity[0] < 1 or not 0 <= self.sparsity[1] < math.inf:
            raise ValueError(
                "sparsity must be (rho, weight), a mean activation inside (0, 1) and a finite weight >= 0, such as "
                f"(0.05, 0.1), but it is {self.sparsity!r}."
            )

    def _read_columns(self, X):
        return read_columns(X, "gaussian", "isotropic", who=type(self).__name__)

    def _decisions(self, columns, n_rows, *, given, continuation):
        if self.early_stopping == "auto":
            validates = given or n_rows >= defaults.FEW_ROWS
        else:
            validates = self.early_stopping and (given or n_rows > 1)
        # An encoder of corrupted rows must not see, in filled cells, what was taken from the others.
        return not continuation.single_pass and validates, self._begins_as_pca() and self.denoising is None

    def _begins_as_pca(self):
        return self.init == "pca" and self.sparsity is None and self.encoder is None and self.decoder is None

    def _architecture_of(self, columns, with_mask):
        asked = {"sparse": self.sparsity is not None, "with_skip": self._begins_as_pca()}
        return super()._architecture_of(columns, with_mask) | asked

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
            **modules_of(self, architecture),
        )

    def _begin(self, model, rows, held_out, noise, *, validates, fills, continuation):
        if self.denoising is None and self.sparsity is None:  # which make use of more codes than columns
            warn_of_many_components(self, rows.columns)
        if continuation.single_pass and not rows_vary(rows):
            raise ValueError(
                "The first call of partial_fit settles the scale of the columns, but all rows are equal; "
                "call it with rows that differ."
            )
        found = self._components(rows)
        solved = not model.last and rows.observed is None and self.denoising is None and not self.weight_decay
        if found is not None and solved and not continuation.single_pass:
            return KnownResult(pca_result(model, rows, noise, found))
        if validates and held_out is None:
            rows, held_out, _ = split_off(rows, noise, self.validation_fraction)
            found = self._components(rows)
        linear_path = LinearPath(found, posterior=None) if found is not None and fills else None
        validation = HeldOutError(model, held_out, linear_path, observed_share(rows)) if validates else None
        if found is not None:
            params = principal_network(model, rows, noise, found)
        else:
            params = random_network(model, rows, noise)
        params = one_member(params | self._ranges(rows))
        plan = self._plan(rows.n_all, validates=validates, continuation=continuation)
        return SingleNetwork(model, rows, noise, plan, params, linear_path=linear_path, validation=validation)

    def _components(self, rows):
        """The principal components; None where the fit begins at random, as it must where no row differs."""
        if not self._begins_as_pca() or not rows_vary(rows):
            return None
        return principal_components(rows.Z, rows.weight, int(self.n_components))

    def _params_to_go_on(self, model, earlier, rows):
        return self._ranges(rows) | super()._params_to_go_on(model, earlier, rows)

    def _ranges(self, rows):
        """The ranges of the columns that some corruption needs, as parameters that stay as they are."""
        return column_ranges(rows) if self.denoising == "salt_and_pepper" else {}

    def _auto(self, n_rows, *, validates, from_linear):
        return defaults.autoencoder_defaults(
            n_rows, validates=validates, linear=not checked_sizes(self.hidden_layer_sizes)
        )

    # ------------------------------------------------------------------------------------------------ what it leaves
    def _summary(self, prepared, kept):
        dtype = next(iter(kept.params.values())).dtype
        model = self._build(prepared.rows.columns, prepared.architecture)
        error = mean_error(model, one_member(kept.params), prepared.rows, kept.linear_path, dtype)
        return super()._summary(prepared, kept) | {"reconstruction_error_": float(prepared.in_units(error))}

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
        fitted = self._fitted_rows(X)
        code = fitted.by_row(lambda batch: fitted.model.encode(fitted.params, batch)[0])
        return rounded(code, fitted.numbers.dtype)

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
        fitted = self._fitted_rows(X)
        model, params = fitted.model, fitted.params

        def minus_error(batch):
            errors = model.log_prob(params, batch.x, model.encode(params, batch))[0] * model.n_outputs
            return errors / batch.x.n_observed()[0].clamp(min=1)

        errors = fitted.by_row(minus_error).astype(np.float64) * self._columns.scale[0] ** 2
        return rounded(errors, fitted.numbers.dtype)

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
        with self._shared():
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
        fitted = self._fitted_rows(X)
        model, params = fitted.model, fitted.params
        values = fitted.by_row(lambda batch: model.decode(params, model.encode(params, batch))[0])
        return fill_missing(X, fitted.numbers, decode(values, self._columns), self._columns)
