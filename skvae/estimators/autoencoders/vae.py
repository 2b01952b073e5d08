"""Compression of a table by a variational autoencoder: non-linear factor analysis."""

from dataclasses import replace
from functools import partial
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from skvae._compat import Interval, StrOptions
from skvae._rounding import CHANGED
from skvae._tensors import Noise, inference_device, rounded
from skvae.estimators._base import LikelihoodScoreMixin
from skvae.estimators._checks import check_n_samples, draw_seed_of_sample, refuse_other_modules, warn_of_many_components
from skvae.estimators._network import ANNEALING
from skvae.estimators.autoencoders._evidence import bound_terms, by_draws, column_measures, evidence_terms
from skvae.estimators.autoencoders._network_transformer import NetworkTransformer, linear_path_of, model_on, modules_of
from skvae.likelihoods import Gaussian
from skvae.models.autoencoders import vae_evaluation
from skvae.models.autoencoders.encoder_decoder import own
from skvae.models.autoencoders.laplace import n_gradients
from skvae.models.autoencoders.vae import VAE, PerRowVAE
from skvae.models.decomposition import factor_analysis as fa
from skvae.networks import ACTIVATIONS
from skvae.tables.column_likelihoods import fitted_likelihoods, likelihood_signature, model_likelihood
from skvae.tables.decoding import as_given, decode, fill_missing, noise_variance
from skvae.tables.encoding import log_jacobian
from skvae.tables.learning import read_columns
from skvae.training import defaults
from skvae.training.ascent import KnownResult, SingleNetwork, fit_row_posteriors
from skvae.training.cross_validated import CrossValidatedNetwork, factor_analysis_result, folds_of
from skvae.training.factor_analysis_start import evaluate, expected, factor_analysis
from skvae.training.members import one_member
from skvae.training.plan import kl_weight
from skvae.training.rows import heads_of_path, nats_of_data, posterior_summary, rows_at_once

_ACTIVE = 0.01  # variance of the posterior mean from which a latent dimension is active (Burda et al. 2016)
_SCORE_DRAWS, _IMPUTE_DRAWS = 128, 512  # errors of draws add to those of imputed cells
_SVI_DRAWS = 8


class VAETransformer(LikelihoodScoreMixin, NetworkTransformer):
    """Compress a table to a few latent dimensions by a variational autoencoder: non-linear factor analysis.

        z ~ N(0, I),   x | z ~ p(x | f(z)),   q(z | x) = N(mu(x), diag sigma^2(x))

    A network f computes the parameters of each column's distribution from z, another infers z from x. Both are fitted
    together by stochastic ascent of E_q[log p(x | z)] - beta KL(q || p). With a Gaussian likelihood one restart begins
    as factor analysis of the same `n_components`. The network is kept only if it gives held-out rows a higher
    log-likelihood than factor analysis by more than two standard errors; otherwise factor analysis is kept. Columns may
    be of different kinds, and cells may be missing. Read more in the :doc:`user guide </user_guide/autoencoders>`.

    Parameters
    ----------
    n_components : int, default=2
        Dimension K of z.
    hidden_layer_sizes : tuple of int, default=(64,)
        Widths of the encoder's hidden layers; the decoder mirrors them. Without any, f is linear: a Gaussian table is
        then fitted as factor analysis exactly, or, with ``early_stopping=False``, by ascent of the bound in closed
        form.
    activation : {"identity", "logistic", "tanh", "relu", "silu"}, default="tanh"
        Activation of the hidden layers.
    likelihood : str, Likelihood or list of (str or Likelihood, columns), default="gaussian"
        Likelihood of a row given z: "gaussian", "bernoulli" (cells in [0, 1]), "categorical" (any levels), "poisson",
        "negative_binomial" or "multinomial" (counts; of the last, a row is draws among the columns). Or a list that
        names every column once, by number, name, slice of numbers or Boolean mask. Or "auto": of a DataFrame, Booleans
        are bernoulli, strings and categories categorical, and numbers gaussian. In place of a name, an object of a
        class of your own that inherits from ``skvae.likelihoods.Likelihood``.
    noise : {"diag", "isotropic"} or float, default="diag"
        Variance of Gaussian columns: one for each, one for all, or this one, in the units of X.
    beta : float, default=1.0
        Weight of the KL term. 1 trains the evidence lower bound itself. Factor analysis that is kept is of this weight
        too.
    annealing : {"linear", "sigmoid", "cyclical"}, callable or None, default=None
        How the weight of the KL term rises to `beta`: along a line or a logistic curve over the first
        `anneal_fraction` of all steps, in `n_cycles` cycles that each rise over their first `anneal_fraction`, as a
        function from the fraction of all steps done to a multiplier of `beta`, or not at all.
    anneal_fraction : float, default=0.25
        In [0, 1].
    n_cycles : int, default=4
        Number of cycles of the cyclical annealing.
    free_bits : float, default=0.0
        Nats that each latent dimension may cost, on average over a batch, before the KL term counts.
    n_draws : int, default=1
        Draws of z for each row and step.
    objective : {"elbo", "iwae"}, default="elbo"
        "iwae" trains the importance-weighted bound of `n_draws` draws, which is tighter.
    inference : {"amortized", "svi"}, default="amortized"
        "amortized": an encoder infers z. "svi": every row has a posterior of its own (variational EM), for small tables
        and to measure what the encoder loses.
    encoder, decoder : callable or None, default=None
        (n_in, n_out) -> torch.nn.Module, in place of the hidden layers. An encoder's output is K means, then K
        log-variances; a decoder's has a number for each column, and for each level of a categorical one. Parameters
        are initialised here; modules with buffers, or that draw random numbers, are refused. To pickle the estimator,
        give functions of a module.
    weight_decay : float, default=0.0
        L2 penalty: the coefficient of half the sum of squares of all weights, against the mean bound per row.
    learning_rate : float or "auto", default="auto"
        Learning rate of Adam. "auto": 3e-3; 1e-3 for a network that begins as factor analysis of up to 250 rows; 1e-2
        for one that begins with random weights on up to 2,000 rows.
    learning_rate_schedule : {"cosine", "constant"}, default="constant"
        Whether the rate falls to 2 % of its start along half a cosine over the fit, or stays.
    batch_size : int or "auto", default="auto"
        Rows a step. "auto": a fortieth of the rows, from 128 to 512.
    max_iter : int or "auto", default="auto"
        Epochs. "auto": as many as make 1,000 to 5,000 steps, by the number of rows; 2,000 without early stopping.
    early_stopping : bool or "auto", default="auto"
        Whether the score on held-out rows decides when to stop and whether to keep the network at all. No step counts
        before the annealing has ended. Below 2,000 rows five copies of the network are trained, each without a fifth of
        the rows, so that every row is held out once. Above, only `validation_fraction` of the rows is held out; from
        10,000 rows on, the network that is kept has not learnt from them. False trains one network on all rows to the
        end. "auto": True, except with ``inference="svi"``.
    validation_fraction : float, default=0.1
        Share of the rows that are held out where not every row is held out once, inside (0, 1).
    n_iter_no_change : int, default=20
        Patience of early stopping, in validations. There is one about every 20 steps, from 1,000 rows on every 50.
    tol : float, default=1e-3
        By how much the held-out score must rise to reset the patience, in nats a row.
    warm_start : bool, default=False
        Whether `fit` goes on from the network of the last fit and, from the second call on, from its optimizer state.
        There is no early stopping then.
    precision : {"float32", "bfloat16", "auto"}, default="float32"
        What matrix products of training are made in; weights and sums are float32. "auto": bfloat16 where the device
        has instructions for it and the network is large enough to gain. See :doc:`/user_guide/devices`.
    device : str, default="auto"
        Where to compute: "auto" (a CUDA GPU if there is one, else the CPU), "cpu", "cuda", "cuda:1", ...
    random_state : int, RandomState instance or None, default=None
        Seed of initial weights, order and draws. An int gives bit-equal fits on the CPU of one machine with one number
        of threads. None draws a fresh seed from the system, without touching NumPy's global generator.
    verbose : int, default=0
        1 prints about ten lines a fit, 2 a line every epoch. For a bar: `set_callbacks(ProgressBar())`.

    Attributes
    ----------
    nonlinear_ : bool
        Whether the network is kept. False: the model is factor analysis.
    parameters_ : dict of ndarray
        Weights, of shape (n_in, n_out), biases, and parameters of the likelihood.
    lower_bounds_ : ndarray of shape (n_epochs,)
        Mean evidence lower bound per row in each epoch, in nats, at beta = 1 whatever beta trains with, by the draws
        of training. Where factor analysis is kept, its log-likelihood.
    validation_scores_ : ndarray
        Mean log p(x) of the held-out rows at each validation, nats a row; with `beta` other than 1 or `free_bits`, the
        mean of the bound that is trained.
    kl_per_dimension_ : ndarray of shape (n_components,)
        Mean over the training rows of KL(q(z_k | x) || p(z_k)), nats.
    n_active_ : int
        Number of latent dimensions whose posterior mean has a variance above 0.01 (Burda et al. 2016).
    noise_variance_ : ndarray of shape (n_features,)
        Variance of Gaussian columns given z, in the units of X squared; NaN for other columns, and for those that were
        constant.
    n_iter_ : int
        Epochs done, over all calls of `partial_fit` or of `fit` with `warm_start`; 1 where factor analysis is kept.
    n_samples_seen_ : float
        Weight of the rows that `fit`, or all calls of `partial_fit`, learnt from.
    device_ : str
        Where the fit ran.
    precision_ : {"float32", "bfloat16"}
        What products of training were made in.
    n_features_in_ : int
        Number of columns.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns, where `fit` was given a DataFrame.

    See Also
    --------
    FactorAnalysisEM : The linear model.
    AutoencoderTransformer : An autoencoder without a distribution of z.

    Notes
    -----
    Gaussian columns are centred and scaled inside; all likelihoods are those of the data as given. A column that is
    constant in the training rows is left out of the network and treated as normal with variance 1e-12.

    References
    ----------
    Kingma and Welling, *Auto-Encoding Variational Bayes*, ICLR 2014.

    Rezende, Mohamed and Wierstra, *Stochastic Backpropagation and Approximate Inference in Deep Generative Models*,
    ICML 2014.

    Burda, Grosse and Salakhutdinov, *Importance Weighted Autoencoders*, ICLR 2016.

    Lucas, Tucker, Grosse and Norouzi, *Don't Blame the ELBO! A Linear VAE Perspective on Posterior Collapse*,
    NeurIPS 2019.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer
    >>> X = load_wine().data
    >>> vae = VAETransformer(n_components=3, random_state=0).fit(X)
    >>> vae.transform(X).shape
    (178, 3)
    >>> X[0, 3] = float("nan")
    >>> bool(vae.impute(X)[0, 3] > 0)
    True
    """

    _parameter_constraints = {
        **NetworkTransformer._parameter_constraints,
        "likelihood": "no_validation",  # `read_columns` refuses others in words that name what an object lacks
        "noise": [StrOptions({"diag", "isotropic"}), Interval(Real, 0, None, closed="neither")],
        "beta": [Interval(Real, 0, None, closed="left")],
        **ANNEALING,
        "free_bits": [Interval(Real, 0, None, closed="left")],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
        "objective": [StrOptions({"elbo", "iwae"})],
        "inference": [StrOptions({"amortized", "svi"})],
    }

    _fewest_rows = 2  # of one, no variance is known
    _units = staticmethod(nats_of_data)

    def __init__(
        self,
        n_components=2,
        *,
        hidden_layer_sizes=(64,),
        activation="tanh",
        likelihood="gaussian",
        noise="diag",
        beta=1.0,
        annealing=None,
        anneal_fraction=0.25,
        n_cycles=4,
        free_bits=0.0,
        n_draws=1,
        objective="elbo",
        inference="amortized",
        encoder=None,
        decoder=None,
        weight_decay=0.0,
        learning_rate="auto",
        learning_rate_schedule="constant",
        batch_size="auto",
        max_iter="auto",
        early_stopping="auto",
        validation_fraction=0.1,
        n_iter_no_change=20,
        tol=1e-3,
        warm_start=False,
        precision="float32",
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.likelihood = likelihood
        self.noise = noise
        self.beta = beta
        self.annealing = annealing
        self.anneal_fraction = anneal_fraction
        self.n_cycles = n_cycles
        self.free_bits = free_bits
        self.n_draws = n_draws
        self.objective = objective
        self.inference = inference
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
        self.random_state = random_state
        self.verbose = verbose

    # ------------------------------------------------------------------------------------------- what a fit consists of
    def _check_consistent(self):
        """Refuse parameters that contradict each other."""
        if self.objective == "iwae" and (self.beta != 1 or self.free_bits or self.annealing is not None):
            raise ValueError(
                "objective='iwae' is a bound as it stands, and has no KL term to weigh: it takes beta=1, free_bits=0 "
                f"and annealing=None, but got beta={self.beta}, free_bits={self.free_bits}, annealing="
                f"{self.annealing!r}."
            )
        if self.inference == "svi" and self.encoder is not None:
            raise ValueError("inference='svi' has no encoder; leave out encoder, or use inference='amortized'.")
        if self.inference == "svi" and self.early_stopping is True:
            raise ValueError(
                "inference='svi' fits a posterior to each training row and has none for rows that are held out; use "
                "early_stopping='auto' or False, or inference='amortized'."
            )

    def _read_columns(self, X):
        return read_columns(X, self.likelihood, self.noise, who=type(self).__name__)

    def _custom_likelihoods(self, columns):
        return fitted_likelihoods(columns, self.likelihood)

    def _decisions(self, columns, n_rows, *, given, continuation):
        # early_stopping="auto" counts as True, but for a posterior of each row's own.
        validates = self.inference == "amortized" and bool(self.early_stopping) and (given or n_rows > 1)
        validates = validates and not continuation.single_pass
        likelihood = model_likelihood(columns, self._custom_likelihoods(columns))
        gaussian = isinstance(likelihood, Gaussian) and likelihood.learned
        # The fit then begins as factor analysis and may end as it: held-out rows must tell which.
        return validates, validates and gaussian and self.encoder is None and self.decoder is None

    def _held_out(self, rows, X_val):
        if self.inference == "svi":
            raise ValueError("X_val decides when to stop, but inference='svi' never asks; leave X_val out.")
        return super()._held_out(rows, X_val)

    def _architecture_of(self, columns, with_mask):
        asked = {"inference": self.inference, "likelihood": likelihood_signature(self.likelihood), "noise": self.noise}
        return super()._architecture_of(columns, with_mask) | asked

    def _build(self, columns, architecture, exact=False, **others):
        """The model of an architecture; `others` are settings in place of the estimator's."""
        settings = {"n_draws": self.n_draws, "objective": self.objective, "free_bits": self.free_bits}
        kind = VAE if architecture["inference"] == "amortized" else PerRowVAE
        return kind(
            columns.width * (1 + architecture["with_mask"]),
            architecture["n_components"],
            columns.width,
            architecture["hidden_layer_sizes"],
            ACTIVATIONS[architecture["activation"]],
            model_likelihood(columns, self._custom_likelihoods(columns), exact=exact),
            **settings | others | modules_of(self, architecture),
        )

    def _fitted_model(self):
        model = self._build(self._columns, self._architecture, exact=not self.nonlinear_)
        refuse_other_modules(self, model.module_signatures())
        return model

    def _begin(self, model, rows, held_out, noise, *, validates, fills, continuation):
        warn_of_many_components(self, rows.columns)
        n = len(rows)
        if not validates:
            return SingleNetwork(model, rows, noise, self._plan(n, continuation=continuation))
        from_linear, tied = fills, fills and model.likelihood.noise == "isotropic"
        few = rows.n_observations < defaults.FEW_ROWS and held_out is None
        if from_linear and not self.free_bits and (few or not model.last):
            found = factor_analysis(rows.Z, rows.weight, model.n_components, tied=tied, beta=self.beta)
            return KnownResult(factor_analysis_result(model, rows, noise, found, self.beta))
        folds = folds_of(rows, held_out, noise.fold("validation"), self.validation_fraction)
        if held_out is not None:
            rows = rows.followed_by(held_out)
        random_rate = None
        if n <= defaults.RANDOM_RESTART_ROWS:
            random_rate = self._plan(n, validates=True).learning_rate
        return CrossValidatedNetwork(
            model,
            rows,
            noise,
            self._plan(n, validates=True, from_linear=from_linear),
            folds,
            from_factor_analysis=from_linear,
            fallback_weight=np.where(np.arange(len(rows)) < n, rows.weight, 0.0),
            tied=tied,
            beta=self.beta,
            n_draws=defaults.n_validation_draws(len(rows)),
            random_rate=random_rate,
        )

    def _params_to_go_on(self, model, earlier, rows):
        if self.inference == "svi":
            raise ValueError("inference='svi' knows the rows of one fit only and cannot go on; call fit anew.")
        params = super()._params_to_go_on(model, earlier, rows)
        if not self.nonlinear_ and "likelihood.noise" in params:
            psi = torch.from_numpy(earlier.parameters["likelihood.noise"]).exp()
            params["likelihood.noise"] = model.likelihood.raw(psi).float().to(rows.device)
        return params

    def _kl_weight(self, continuation):
        return kl_weight(self, self.beta, continuation)

    def _auto(self, n_rows, *, validates, from_linear):
        return defaults.vae_defaults(n_rows, validates=validates, from_factor_analysis=from_linear)

    # --------------------------------------------------------------------------------------------------- what it leaves
    def _summary(self, prepared, kept):
        """Whether the network was kept, and what the posteriors of the training rows and the noise look like."""
        rows = prepared.rows
        model = self._build(rows.columns, prepared.architecture, exact=not kept.nonlinear)
        params = one_member(kept.params)
        kl, variance = posterior_summary(model, params, rows, kept.linear_path)
        noise = noise_variance(model.likelihood, own(params), rows.columns)
        return super()._summary(prepared, kept) | {
            "nonlinear_": kept.nonlinear,
            "kl_per_dimension_": kl,
            "n_active_": int((variance > _ACTIVE).sum()),
            **({} if noise is None else {"noise_variance_": noise}),
        }

    # ------------------------------------------------------------------------------------------------------- prediction
    def transform(self, X):
        """Embed each row: the mean of q(z | x).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing.

        Returns
        -------
        mean : ndarray of shape (n_samples, n_components)
        """
        return self.posterior(X)[0]

    def posterior(self, X):
        """Give q(z | x) of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing.

        Returns
        -------
        mean, std : ndarrays of shape (n_samples, n_components)
            Means and standard deviations of the factorised normal posterior: the encoder's or, where a row has
            missing cells, Laplace's approximation, which needs no encoder: a mode, and the curvature there.
        """
        fitted = self._with_posteriors(self._fitted_rows(X))
        posterior = partial(vae_evaluation.posterior, fitted.model, fitted.params, exact=not self.nonlinear_)
        q = fitted.by_row(lambda batch: torch.cat(posterior(batch), -1)[0], n_gradients(fitted.model.n_components))
        q = rounded(q, fitted.numbers.dtype)
        mean, log_variance = np.split(q, 2, axis=1)
        return mean, np.exp(0.5 * log_variance)

    def sample(self, n_samples=1, random_state=None):
        """Draw rows from the model.

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
        noise, parts = Noise(draw_seed_of_sample(self, random_state)), row.split(rows_at_once(model.n_outputs))
        with torch.no_grad():
            drawn = [vae_evaluation.sample(model, params, noise, row.to(device)) for row in parts]
        return as_given(torch.cat(drawn).cpu().double().numpy(), self._columns)

    def score_samples(self, X, n_draws=None):
        """Log-likelihood of each row: log p(x) of its observed cells, of the data as given.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing.
        n_draws : int or None, default=None
            Estimate by importance weighting with so many draws, the same for equal rows and in every call; on average a
            lower bound that rises with their number (Burda et al. 2016, eq. 8). Three quarters of the draws come from
            Laplace's approximation of the row's posterior, one eighth each from the encoder's and from the prior. None:
            exact where the model is linear and Gaussian, else by 128 draws.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            Nats.
        """
        exact = self._linear_model() if n_draws is None else None
        fitted = self._with_posteriors(self._fitted_rows(X))
        if exact is not None:
            log_prob = evaluate(fa.log_prob, exact, fitted.rows.Z)
        else:
            log_prob = by_draws(vae_evaluation.log_evidence, fitted, n_draws, _SCORE_DRAWS)
        return rounded(log_prob + log_jacobian(fitted.numbers, self._columns), fitted.numbers.dtype)

    def _changed_constants(self, X):
        numbers = self._fitted_rows(X).numbers.astype(np.float64)
        return [j for j, value in self._columns.constants.items() if (np.abs(numbers[:, j] - value) > CHANGED).any()]

    def elbo(self, X, inference=None):
        """Bound log p(x) of each row from below, at beta = 1.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing.
        inference : {"amortized", "svi"} or None, default=None
            "svi" first raises the bound of each row over its own posterior, the decoder held fixed; what that gains is
            what the encoder loses (Cremer et al., ICML 2018). None: as in the fit.

        Returns
        -------
        bound : ndarray of shape (n_samples,)
            Nats. The KL term is exact, and so is the expected log-likelihood where the decoder is linear; else it is a
            mean over at least 32 balanced draws of z that are the same for every row and every call.
        """
        if inference not in (None, "amortized", "svi"):
            raise ValueError(f"inference must be None, 'amortized' or 'svi', but it is {inference!r}.")
        fitted = self._with_posteriors(self._fitted_rows(X), inference)
        log_prob, kl, base = bound_terms(fitted, exact=not self.nonlinear_).T
        return rounded(log_prob - kl + base + log_jacobian(fitted.numbers, self._columns), fitted.numbers.dtype)

    _evidence_terms = evidence_terms
    _column_measures = column_measures

    def impute(self, X, n_draws=None):
        """Fill missing cells with what the model expects of them, given the rest of the row.

        Parameters
        ----------
        X : {array-like, DataFrame} of shape (n_samples, n_features)
            NaN where a cell is missing.
        n_draws : int or None, default=None
            Draws of z by whose importance weights the expectation is taken, as of `score_samples`. None: exact where
            the model is linear and Gaussian, else 512.

        Returns
        -------
        X_filled : {ndarray, DataFrame} of shape (n_samples, n_features)
            A copy of X with no cell missing; categorical cells by the most probable level.
            A pandas DataFrame keeps its dtypes: columns of integers get rounded values, categories of numbers the
            nearest. All else gives an ndarray.
        """
        exact = self._linear_model() if n_draws is None else None
        fitted = self._fitted_rows(X)
        rows, values = fitted.rows, fitted.rows.x
        if rows.observed is not None and exact is not None:
            values = expected(exact, rows.x, rows.observed)
        elif rows.observed is not None:
            gaps, values = np.flatnonzero(~rows.observed.all(1)), values.copy()
            if len(gaps):
                some = self._with_posteriors(replace(fitted, rows=rows.rows(gaps), numbers=fitted.numbers[gaps]))
                values[gaps] = by_draws(vae_evaluation.expected_cells, some, n_draws, _IMPUTE_DRAWS)
        return fill_missing(X, fitted.numbers, decode(values, self._columns), self._columns)

    # -------------------------------------------------------------------------------------------- what prediction needs
    def _with_posteriors(self, fitted, inference=None):
        """The fitted model and rows, with posteriors by the encoder or ("svi") of each row's own."""
        return self._refined(fitted) if (inference or self._architecture["inference"]) == "svi" else fitted

    def _refined(self, fitted):
        """Raise the bound of each row over a posterior of its own, while the decoder stays."""
        asked = self._architecture | {"inference": "svi"}
        model = self._build(self._columns, asked, not self.nonlinear_, n_draws=_SVI_DRAWS, fixed=fitted.params)
        params = model.init_rows(len(fitted.rows), dtype := fitted.dtype)
        if self._architecture["inference"] == "amortized":
            q = fitted.by_row(lambda batch: torch.cat(fitted.model.encode(fitted.params, batch), -1)[0])
            heads = heads_of_path(fitted.linear_path, fitted.rows, model.n_components, dtype)
            heads = 0.0 if heads is None else heads[0].cpu().numpy()
            params = {"row.posterior": torch.from_numpy(q - heads)[None].to(dtype)}
        refined = fit_row_posteriors(model, fitted.rows, params, fitted.linear_path, dtype)
        return replace(fitted, model=model, params=fitted.params | refined)

    def _linear_model(self):
        """The model as factor analysis, where that is what it is: its likelihood needs no draws."""
        check_is_fitted(self)
        if not self.nonlinear_:
            return linear_path_of(self).fill
        if self._architecture["hidden_layer_sizes"] or self._architecture["decoder"] is not None:
            return None
        model = self._build(self._columns, self._architecture)
        if not isinstance(model.likelihood, Gaussian):
            return None
        arrays = {name: torch.from_numpy(array).double() for name, array in self.parameters_.items()}
        psi = model.likelihood.variance(own(arrays), self._columns.width)
        return fa.Params(arrays["decoder.0.bias"], arrays["decoder.0.weight"].mT, psi.double())
