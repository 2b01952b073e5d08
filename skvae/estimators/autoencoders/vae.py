"""Compression of a table by a variational autoencoder: non-linear factor analysis."""

from numbers import Integral, Real

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from skvae import _reduce
from skvae._compat import Interval, StrOptions, warn
from skvae.estimators._checks import (
    check_betas,
    checked_layers,
    columns_of_layer,
    refuse_other_modules,
    warn_of_many_components,
)
from skvae.estimators._network import ANNEALING
from skvae.estimators.autoencoders._network_transformer import modules_of
from skvae.estimators.autoencoders._vae_prediction import VAEPrediction
from skvae.likelihoods import Gaussian
from skvae.models.autoencoders.deep_vae import DeepVAE, PerRowDeepVAE
from skvae.models.autoencoders.encoder_decoder import own
from skvae.models.autoencoders.vae import VAE, PerRowVAE
from skvae.networks import ACTIVATIONS
from skvae.tables.column_likelihoods import fitted_likelihoods, likelihood_signature, model_likelihood
from skvae.tables.decoding import noise_variance
from skvae.tables.learning import read_columns
from skvae.training import defaults
from skvae.training.ascent import KnownResult, SingleNetwork
from skvae.training.cross_validated import CrossValidatedNetwork, factor_analysis_result, folds_of
from skvae.training.factor_analysis_start import factor_analysis, summary_of
from skvae.training.members import one_member
from skvae.training.plan import kl_weight
from skvae.training.rows import nats_of_data, posterior_summary

_KINDS = {  # inference, whether there is one layer -> the model
    ("amortized", True): VAE,
    ("amortized", False): DeepVAE,
    ("svi", True): PerRowVAE,
    ("svi", False): PerRowDeepVAE,
}
_ACTIVE = 0.01  # variance of the posterior mean from which a latent dimension is active (Burda et al. 2016)


class VAETransformer(VAEPrediction):
    """Compress a table to a few latent dimensions by a variational autoencoder: non-linear factor analysis.

        z ~ N(0, I),   x | z ~ p(x | f(z)),   q(z | x) = N(mu(x), diag sigma^2(x))

    A network f computes the parameters of each column's distribution from z, another infers z from x. Both are fitted
    together by stochastic ascent of E_q[log p(x | z)] - beta KL(q || p). With a Gaussian likelihood one restart begins
    as factor analysis of the same `n_components`. The network is kept only if it gives held-out rows a higher
    log-likelihood than factor analysis by more than two standard errors; otherwise factor analysis is kept. Columns may
    be of different kinds, and cells may be missing. Read more in the :doc:`user guide </user_guide/autoencoders>`.

    Parameters
    ----------
    n_components : int or tuple of int, default=2
        Dimension K of z. A tuple such as (16, 8) stacks layers of latent variables, sizes from the data upwards: a deep
        latent Gaussian model. Then x depends on z_1, of 16 dimensions, and the mean and the variance of each of them on
        z_2, of 8. It begins as, and may be kept as, factor analysis of the first size.
    output_layer : int or "all", default=0
        Layer that `transform`, `posterior` and `inverse_transform` are of, by its place in `n_components`: 0 is next to
        the data and has all that the model knows of a row, -1 is the top. "all": all side by side, from the data
        upwards.
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
    beta : float or sequence of float, default=1.0
        Weight of the KL term, or one for each layer. 1 trains the evidence lower bound itself. Factor analysis that is
        kept is of this weight too, or of the first.
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
        log-variances, those of all layers from the data upwards; a decoder reads the layer next to the data, and its
        output has a number for each column, and for each level of a categorical one. Parameters
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
        Seed of initial weights, order and draws. An int gives bit-equal fits on the CPU of one machine with one number
        of threads. None draws a fresh seed from the system, without touching NumPy's global generator.
    verbose : int, default=0
        1 prints about ten lines a fit, 2 a line every epoch. For a bar: `set_callbacks(ProgressBar())`.
    checkpoint : str, path-like, Checkpoint or None, default=None
        File from which an interrupted fit goes on: see :class:`~skvae.Checkpoint`.

    Attributes
    ----------
    nonlinear_ : bool
        Whether the network is kept. False: the model is factor analysis.
    parameters_ : dict of ndarray
        Weights, of shape (n_in, n_out), biases, and parameters of the likelihood.
    lower_bounds_ : ndarray of shape (n_epochs,)
        Mean evidence lower bound per row in each epoch, in nats, at beta = 1 whatever beta trains with, by the draws
        of training. Where factor analysis is kept, its log-likelihood.
    validation_scores_, validation_epochs_ : ndarrays
        Mean log p(x) of the held-out rows at each validation, nats a row; with `beta` other than 1 or `free_bits`, the
        mean of the bound that is trained. And the number of epochs done at each.
    kl_weights_ : ndarray of shape (n_epochs,)
        Weight of the KL term at the first step of each epoch, as `annealing` raises it to `beta`.
    kl_per_dimension_ : ndarray of shape (n_components,)
        Mean over the training rows of KL(q(z_k | x) || p(z_k)), nats. Of several layers those of all, from the data
        upwards; each given the layer above.
    n_active_ : int
        Number of latent dimensions whose posterior mean has a variance above 0.01 (Burda et al. 2016). In a layer that
        is not the top, the mean counts in standard deviations from what the layer above expects.
    n_active_per_layer_ : ndarray of shape (n_layers,)
        The same of each layer. 0: the layer has collapsed, of which `fit` warns.
    noise_variance_ : ndarray of shape (n_features,)
        Variance of Gaussian columns given z, in the units of X squared; NaN for other columns, and for those that were
        constant.
    n_iter_ : int
        Epochs done, over all calls of `partial_fit` or of `fit` with `warm_start`; 1 where factor analysis is kept.
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

    Sonderby, Raiko, Maaloe, Sonderby and Winther, *Ladder Variational Autoencoders*, NeurIPS 2016.

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
        **VAEPrediction._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "output_layer": [Integral, StrOptions({"all"})],
        "likelihood": "no_validation",  # `read_columns` refuses others in words that name what an object lacks
        "noise": [StrOptions({"diag", "isotropic"}), Interval(Real, 0, None, closed="neither")],
        "beta": [Interval(Real, 0, None, closed="left"), "array-like"],
        **ANNEALING,
        "free_bits": [Interval(Real, 0, None, closed="left")],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
        "objective": [StrOptions({"elbo", "iwae"})],
        "inference": [StrOptions({"amortized", "svi"})],
    }

    _has_normal_prior, _reads_in_blocks = True, True
    _fewest_rows = 2  # of one row, no variance is known
    _units = staticmethod(nats_of_data)

    def __init__(
        self,
        n_components=2,
        *,
        output_layer=0,
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
        data_parallel=False,
        random_state=None,
        verbose=0,
        checkpoint=None,
    ):
        self.n_components = n_components
        self.output_layer = output_layer
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
        self.data_parallel = data_parallel
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint = checkpoint

    # ------------------------------------------------------------------------------------------- what a fit consists of
    def _check_consistent(self):
        """Refuse parameters that contradict each other."""
        layers = checked_layers(self.n_components)
        columns_of_layer(self.output_layer, layers)
        check_betas(self.beta, layers)
        beta, weights = self._betas()
        if self.objective == "iwae" and (beta != 1 or weights or self.free_bits or self.annealing is not None):
            raise ValueError(
                "objective='iwae' is a bound as it stands, and has no KL term to weigh: it takes beta=1, free_bits=0 "
                f"and annealing=None, but got beta={self.beta}, free_bits={self.free_bits}, annealing="
                f"{self.annealing!r}."
            )
        if self.inference == "svi" and _reduce.is_in_company():
            raise ValueError(
                "inference='svi' fits a posterior to each row, which only the process that has the row would know; use "
                "inference='amortized' with data_parallel=True."
            )
        if self.inference == "svi" and self.encoder is not None:
            raise ValueError("inference='svi' has no encoder; leave out encoder, or use inference='amortized'.")
        if self.inference == "svi" and self.early_stopping is True:
            raise ValueError(
                "inference='svi' fits a posterior to each training row and has none for rows that are held out; use "
                "early_stopping='auto' or False, or inference='amortized'."
            )

    def _betas(self):
        """Weight of the KL term, and factors of it for each layer or None where all are alike."""
        betas = np.ravel(self.beta).astype(float)
        return (float(betas[0]), None) if len(set(betas)) == 1 else (1.0, tuple(betas.tolist()))

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

    def _numbers_held_out(self, columns, X_val):
        if self.inference == "svi":
            raise ValueError("X_val decides when to stop, but inference='svi' never asks; leave X_val out.")
        return super()._numbers_held_out(columns, X_val)

    def _architecture_of(self, columns, with_mask):
        asked = {"inference": self.inference, "likelihood": likelihood_signature(self.likelihood), "noise": self.noise}
        return super()._architecture_of(columns, with_mask) | asked

    def _build(self, columns, architecture, exact=False, **others):
        """The model of an architecture; `others` are settings in place of the estimator's."""
        settings = {"n_draws": self.n_draws, "objective": self.objective, "free_bits": self.free_bits}
        if not isinstance(architecture["n_components"], int):
            settings["kl_weights"] = self._betas()[1]
        return _KINDS[architecture["inference"], isinstance(architecture["n_components"], int)](
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
        n, n_here = rows.n_all, len(rows)
        if not validates:
            return SingleNetwork(model, rows, noise, self._plan(n, continuation=continuation))
        beta, _ = self._betas()
        from_linear, tied = fills, fills and model.likelihood.noise == "isotropic"
        few = rows.n_observations < defaults.FEW_ROWS and held_out is None
        if from_linear and not self.free_bits and (few or not model.last):
            linear_beta = beta * model.kl_weights[0] if model.kl_weights else beta
            summary = summary_of(rows.Z, rows.weight)
            found = factor_analysis(summary, model.n_factors, tied=tied, beta=linear_beta)
            return KnownResult(factor_analysis_result(model, rows, summary, noise, found, linear_beta))
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
            fallback_weight=np.where(np.arange(len(rows)) < n_here, rows.weight, 0.0),
            tied=tied,
            beta=beta,
            n_draws=defaults.n_validation_draws(rows.n_all),
            random_rate=random_rate,
        )

    def _params_to_go_on(self, model, earlier, rows):
        if self.inference == "svi":
            raise ValueError("inference='svi' knows the rows of one fit only and cannot go on; call fit anew.")
        params = super()._params_to_go_on(model, earlier, rows)
        if not self.nonlinear_ and "likelihood.noise" in params:
            arrays = {name: torch.from_numpy(array) for name, array in earlier.parameters.items()}
            W = arrays["decoder.skip.weight" if model.last else "decoder.0.weight"]
            mu, psi = arrays[f"decoder.{model.last}.bias"], arrays["likelihood.noise"].exp()
            arrays = model.with_factors(arrays, W, mu, psi) | {"likelihood.noise": model.likelihood.raw(psi)}
            params = {name: tensor.to(params[name]) for name, tensor in arrays.items()}
        return params

    def _kl_weight(self, continuation):
        return kl_weight(self, self._betas()[0], continuation)

    def _auto(self, n_rows, *, validates, from_linear):
        return defaults.vae_defaults(n_rows, validates=validates, from_factor_analysis=from_linear)

    # --------------------------------------------------------------------------------------------------- what it leaves
    def _summary(self, prepared, kept):
        """Whether the network was kept, and what the posteriors of the training rows and the noise look like."""
        rows = prepared.rows
        model = self._build(rows.columns, prepared.architecture, exact=not kept.nonlinear)
        params = one_member(kept.params)
        ends = np.cumsum(model.layer_sizes)
        kl, variance = posterior_summary(model, params, rows, kept.linear_path)
        noise = noise_variance(model.likelihood, own(params), rows.columns)
        return super()._summary(prepared, kept) | {
            "nonlinear_": kept.nonlinear,
            "kl_per_dimension_": kl,
            "n_active_": int((variance > _ACTIVE).sum()),
            "n_active_per_layer_": np.array([int((part > _ACTIVE).sum()) for part in np.split(variance, ends[:-1])]),
            **({} if noise is None else {"noise_variance_": noise}),
            **({} if kept.nonlinear else {"kl_weights_": np.array([self._betas()[0]])}),
        }

    def _warn_of(self, prepared, attributes):
        """Warn of layers that the model does not make use of, unless the fit may go on."""
        sizes = checked_layers(self.n_components)
        unused = [layer for layer, n in enumerate(attributes["n_active_per_layer_"]) if not n]
        if not unused or isinstance(sizes, int) or prepared.earlier.may_go_on:
            return
        if attributes["nonlinear_"]:
            layers = ", ".join(f"n_components[{layer}]={sizes[layer]}" for layer in unused)
            said = f"layer(s) {layers} have collapsed: their posterior is next to the prior in every row"
        else:
            said = f"it keeps factor analysis of n_components[0]={sizes[0]} factors, and no layer above the first"
        warn(
            f"{type(self).__name__}(n_components={sizes}): {said}. Use fewer layers, or more rows.",
            ConvergenceWarning,
        )
