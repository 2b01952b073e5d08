"""Networks that compress a table to a few latent dimensions and give it back."""

import math
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from skvae._compat import Interval, StrOptions, check_sample_weight, fit_context
from skvae._members import MemberBatch
from skvae._tensors import Cells, Noise, explain_out_of_memory, inference_device, resolve_device, to_numpy, to_read
from skvae.elbo import kl_to_standard_normal
from skvae.engines import gradient, schedules
from skvae.estimators import _linear as linear
from skvae.estimators._base import Estimator, draw_seed
from skvae.estimators._climbing import climb
from skvae.estimators._columns import Columns
from skvae.estimators._em import weigh
from skvae.estimators._encoding import Layout, base_of
from skvae.estimators._gradient import AnnealingMixin, EpochWatcher, checked_sizes
from skvae.estimators._vae_fits import Copies, Linear, Plain, Voted, fold_copies, one_member
from skvae.likelihoods import Mixed
from skvae.models import factor_analysis as fa
from skvae.models.vae import VAE, PerRowVAE, at, own
from skvae.networks import ACTIVATIONS

_FEW_ROWS = 50  # below, no network could be told from factor analysis
_ALL_VOTE = 1000  # up to here every row is judged by a copy that has not seen it
_MANY_ROWS = 10_000  # from here on, one network learns and the rows set aside judge
_N_FOLDS = 5
_ACTIVE = 0.01  # variance of the posterior mean from which a latent dimension is active (Burda et al. 2016)
_CELLS = 2**22  # draws x rows x columns at once
_ROWS_AT_ONCE = 4096
_ELBO_DRAWS = 32
_STEPS_A_VOTE = (20, 50)  # of few rows and of many
_SCORE_DRAWS = 128
_SVI_STEPS = 300
_SVI_DRAWS = 8
_SVI_RATE = 0.05


class VAETransformer(AnnealingMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, Estimator):
    """VAE."""

    _parameter_constraints = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "likelihood": [str, list, tuple],
        "noise": [StrOptions({"diag", "isotropic"}), Interval(Real, 0, None, closed="neither")],
        "beta": [Interval(Real, 0, None, closed="left")],
        "annealing": [StrOptions({"linear", "cyclical", "sigmoid"}), callable, None],
        "anneal_fraction": [Interval(Real, 0, 1, closed="both")],
        "n_cycles": [Interval(Integral, 1, None, closed="left")],
        "free_bits": [Interval(Real, 0, None, closed="left")],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
        "objective": [StrOptions({"elbo", "iwae"})],
        "inference": [StrOptions({"amortized", "svi"})],
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
        n_iter_no_change=10,
        tol=1e-3,
        warm_start=False,
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
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # ------------------------------------------------------------------------------------------------------- fitting
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None, X_val=None):
        """Raise the bound."""
        with self._unchanged_on_error(), explain_out_of_memory("lower batch_size"):
            prepared = self._prepare(X, sample_weight, X_val)
            if prepared.task is None:
                return self._set(**self._attributes(prepared, prepared.settled()))
            with EpochWatcher(self, X, y, prepared.task.plan.max_iter, partial(self._snapshot, prepared)) as watcher:
                (outcome,) = climb([prepared.task], watcher)
            return self._set(**self._attributes(prepared, prepared.settled(outcome)))

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, sample_weight=None):
        """Make one pass over the rows of X."""
        with self._unchanged_on_error(), explain_out_of_memory("lower batch_size"):
            prepared = self._prepare(X, sample_weight, one_pass=True)
            (outcome,) = climb([prepared.task])
            return self._set(**self._attributes(prepared, prepared.settled(outcome)))

    # ------------------------------------------------------------------------------------------- what a fit consists of
    def _prepare(self, X, sample_weight=None, X_val=None, *, one_pass=False):
        """Everything up to the ascent: a task for it (or None), and what its outcome means."""
        self._check_consistent()
        goes_on = (one_pass or self.warm_start) and hasattr(self, "parameters_")
        numbers, columns = self._read(X, goes_on)
        noise = Noise(draw_seed(self.random_state))
        numbers, weight = weigh(numbers, sample_weight)
        weight = np.ones(len(numbers)) if weight is None else weight
        if not goes_on:
            columns.measured(numbers, weight)
        x, observed = columns.encode(numbers)
        with_mask = self._architecture["with_mask"] if goes_on else observed is not None
        with_mask = with_mask and not self._starts_linear(columns)
        rows = Layout(columns, x, observed, weight / weight.mean(), resolve_device(self.device), with_mask)
        architecture = self._architecture_of(columns, with_mask)
        if goes_on:
            fit = self._going_on(rows, noise, architecture, one_pass)
        else:
            held = None if X_val is None else self._held_out(rows, X_val)
            fit = self._beginning(rows, held, noise, architecture, one_pass)
        return _Prepared(rows, architecture, fit, self._seen_before(goes_on, one_pass, weight.sum()))

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

    def _read(self, X, goes_on):
        """X as numbers, and what is known of its columns."""
        name = type(self).__name__
        columns = self._columns if goes_on else Columns.read(X, self.likelihood, self.noise, who=name)
        numbers = _checked_numbers(columns.numeric(X), name)
        validate_data(self, X, reset=not goes_on, skip_check_array=True)
        return numbers, columns

    def _held_out(self, rows, X_val):
        """Rows to judge by."""
        validate_data(self, X_val, reset=False, skip_check_array=True)
        numbers = _checked_numbers(rows.columns.numeric(X_val), type(self).__name__)
        x, observed = rows.columns.encode(numbers)
        return Layout(rows.columns, x, observed, np.ones(len(x)), rows.device, rows.with_mask)

    def _starts_linear(self, columns):
        """Whether the fit begins as factor analysis, and may end as it."""
        gaussian = all(block.kind == "gaussian" for block in columns.blocks) and isinstance(self.noise, str)
        layers = self.encoder is None and self.decoder is None and self.inference == "amortized"
        return gaussian and layers and self.early_stopping in ("auto", True)

    def _architecture_of(self, columns, with_mask):
        """What fixes the shapes and the meaning of the parameters."""
        return {
            "columns": columns.architecture(),
            "n_components": int(self.n_components),
            "hidden_layer_sizes": checked_sizes(self.hidden_layer_sizes),
            "activation": self.activation,
            "inference": self.inference,
            "with_mask": with_mask,
        }

    def _build(self, columns, architecture, floor=None):
        likelihood = columns.likelihood()
        if floor is not None:
            likelihood.floor = floor
        kind = VAE if architecture["inference"] == "amortized" else PerRowVAE
        return kind(
            columns.width * (1 + architecture["with_mask"]),
            architecture["n_components"],
            columns.width,
            architecture["hidden_layer_sizes"],
            ACTIVATIONS[architecture["activation"]],
            likelihood,
            n_draws=self.n_draws,
            objective=self.objective,
            free_bits=self.free_bits,
            encoder=self.encoder,
            decoder=self.decoder,
        )

    def _beginning(self, rows, held, noise, architecture, one_pass):
        """The fit of an estimator that knows nothing yet."""
        model, n = self._build(rows.columns, architecture), len(rows)
        votes = not one_pass and self.inference == "amortized" and self.early_stopping in ("auto", True)
        if not votes or n < 2 and held is None:
            return Plain(model, rows, noise, self._plan(n, one_pass=one_pass))
        linear_start, tied = self._starts_linear(rows.columns), self.noise == "isotropic"
        if linear_start and (not model.last or n < _FEW_ROWS and held is None):
            return Linear(model, rows, noise, tied)
        copies = self._copies(rows, held, noise)
        if held is not None:
            rows = rows.followed_by(held)
        fallback = np.where(np.arange(len(rows)) < n, rows.weight, 0.0)
        return Voted(
            model,
            rows,
            noise,
            self._plan(n, votes=True),
            copies,
            linear_start=linear_start,
            fallback_weight=fallback,
            tied=tied,
            n_draws=16 if len(rows) < _MANY_ROWS else 4,
        )

    def _copies(self, rows, held, noise):
        n = len(rows)
        if held is not None:
            weight = np.concatenate([rows.weight, np.zeros(len(held))])
            return Copies(weight[None], [np.arange(n, n + len(held))])
        n_folds = min(_N_FOLDS, n) if n < _ALL_VOTE else 1
        copies = fold_copies(rows.weight, noise.fold("validation"), n_folds, self.validation_fraction)
        if n < _MANY_ROWS:
            return copies
        return Copies(copies.weight[1:], copies.held_out[1:])

    def _going_on(self, rows, noise, architecture, one_pass):
        """The fit of an estimator that goes on from its parameters."""
        changed = {name: value for name, value in architecture.items() if self._architecture[name] != value}
        if changed:
            fitted = {name: self._architecture[name] for name in changed}
            raise ValueError(
                f"{type(self).__name__} was fitted with {fitted} and cannot go on with {changed}; call fit with "
                "warm_start=False to begin anew."
            )
        if self.inference == "svi":
            raise ValueError("inference='svi' knows the rows of one fit only and cannot go on; call fit anew.")
        model = self._build(rows.columns, architecture)
        params = one_member(to_read(self.parameters_, rows.device, torch.float32))
        if not self.nonlinear_ and "likelihood.noise" in params:
            psi = torch.from_numpy(self.parameters_["likelihood.noise"]).exp()
            params["likelihood.noise"] = model.likelihood.raw(psi).float()[None].to(rows.device)
        moments = one_member(to_read(self._moments, rows.device, torch.float32)) if self._moments else None
        return Plain(
            model, rows, noise, self._plan(len(rows), one_pass=one_pass), params, self._start_params(), moments
        )

    def _plan(self, n, *, votes=False, one_pass=False):
        auto = _defaults(n, votes)
        chosen = {name: value if getattr(self, name) == "auto" else getattr(self, name) for name, value in auto.items()}
        chosen["batch_size"] = min(chosen["batch_size"], n)
        n_batches = math.ceil(n / chosen["batch_size"])
        multiplier, ends = (schedules.constant, lambda: 0.0) if one_pass else self._annealing()
        cap = self.beta
        return gradient.Plan(
            **chosen | ({"max_iter": 1} if one_pass else {}),
            weight_decay=self.weight_decay,
            rate_schedule=getattr(schedules, "constant" if one_pass else self.learning_rate_schedule),
            beta=lambda fraction: cap * multiplier(fraction),
            patience=self.n_iter_no_change if votes else None,
            tol=self.tol,
            validate_every=max(1, round(_STEPS_A_VOTE[n >= _ALL_VOTE] / n_batches)),
            earliest_stop=ends() if votes else 0.0,
            first_epoch=getattr(self, "n_iter_", 0) if one_pass or self.warm_start else 0,
        )

    def _seen_before(self, goes_on, one_pass, n_seen):
        """Records that a fit which goes on adds to."""
        if not goes_on:
            return {"n_iter_": 0, "lower_bounds_": [], "validation_scores_": [], "n_samples_seen_": n_seen}
        names = ("n_iter_", "lower_bounds_", "validation_scores_")
        before = self.n_samples_seen_ if one_pass else 0.0
        return {name: getattr(self, name) for name in names} | {"n_samples_seen_": before + n_seen}

    # ------------------------------------------------------------------------------------------------ what it leaves
    def _attributes(self, prepared, settled):
        """All fitted attributes."""
        rows, before = prepared.rows, prepared.before
        columns = rows.columns
        jacobian = float(np.average(columns.log_jacobian(rows.observed, len(rows)), weights=rows.weight))
        goes_on = self.warm_start or prepared.fit.goes_on
        found = {
            "parameters_": to_numpy(settled.params),
            "nonlinear_": settled.linear is None,
            "device_": str(rows.device),
            "n_iter_": before["n_iter_"] + settled.n_iter,
            "n_samples_seen_": before["n_samples_seen_"],
            "lower_bounds_": np.append(before["lower_bounds_"], settled.lower_bounds + jacobian),
            "validation_scores_": np.append(before["validation_scores_"], settled.validation_scores + jacobian),
            "_columns": columns,
            "_architecture": prepared.architecture,
            "_start": None if settled.start is None else to_numpy(settled.start._asdict()),
            "_moments": to_numpy(settled.moments) if goes_on else {},
        }
        return found | self._summary(prepared, settled)

    def _summary(self, prepared, settled):
        """What the posteriors of the training rows and the noise look like."""
        rows = prepared.rows
        model = self._build(rows.columns, prepared.architecture, None if settled.linear is None else 0.0)
        params = one_member(settled.params)
        dtype = next(iter(settled.params.values())).dtype
        share = torch.from_numpy(rows.weight / rows.weight.sum())
        kl, first, second = 0.0, 0.0, 0.0
        with torch.no_grad():
            for index, batch in _batches(rows, settled.start, model, dtype):
                q = model.encode(params, batch)
                w = share[index].to(dtype=q.mean.dtype, device=rows.device)
                kl = kl + w @ kl_to_standard_normal(*q)[0]
                first, second = first + w @ q.mean[0], second + w @ q.mean[0].square()
        variance = (second - first.square()).cpu().double().numpy()
        noise = _noise_variance(rows.columns, model.likelihood, own(params))
        return {
            "kl_per_dimension_": kl.cpu().double().numpy(),
            "n_active_": int((variance > _ACTIVE).sum()),
            **({} if noise is None else {"noise_variance_": noise}),
        }

    def _snapshot(self, prepared, params):
        """The attributes at some point of the ascent: of the first start's first copy."""
        return self._attributes(prepared, prepared.fit.snapshot(params))

    def _start_params(self):
        if self._start is None:
            return None
        return fa.Params(**{name: torch.from_numpy(array) for name, array in self._start.items()})

    # ---------------------------------------------------------------------------------------------------- prediction
    def transform(self, X):
        """Means."""
        return self.posterior(X)[0]

    def posterior(self, X):
        """Give q(z | x)."""
        work = self._at_work(X)
        q = work.by_row(lambda batch: torch.stack(work.model.encode(work.params, batch), -1)[0])
        return q[..., 0], np.exp(0.5 * q[..., 1])

    def inverse_transform(self, X):
        """Rows that the model expects."""
        check_is_fitted(self)
        Z = check_array(X, dtype=[np.float64, np.float32])
        if Z.shape[1] != self._n_features_out:
            raise ValueError(f"X has {Z.shape[1]} columns, but the model has {self._n_features_out} components.")
        device, dtype = inference_device(self.device), torch.from_numpy(Z[:0]).dtype
        model, params = self._model_at(device, dtype)
        parts = torch.from_numpy(np.ascontiguousarray(Z)).to(device).split(_rows_at_once(model.n_outputs))
        with torch.no_grad():
            means = [model.likelihood.mean(model.decode(params, part[None]), own(params))[0] for part in parts]
        return self._as_given(torch.cat(means).cpu().numpy())

    def reconstruct(self, X):
        """As if through the bottleneck."""
        return self.inverse_transform(self.transform(X))

    def sample(self, n_samples=1, random_state=None):
        """Draw rows."""
        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or n_samples < 1:
            raise ValueError(f"sample needs a whole n_samples >= 1 to draw, but got {n_samples!r}.")
        device = inference_device(self.device)
        model, params = self._model_at(device, torch.float32)
        noise, parts = (
            Noise(draw_seed(random_state)),
            torch.arange(int(n_samples)).split(_rows_at_once(model.n_outputs)),
        )
        with torch.no_grad():
            drawn = [self._drawn(model, params, noise, row.to(device)) for row in parts]
        return self._as_given(torch.cat(drawn).cpu().double().numpy())

    @staticmethod
    def _drawn(model, params, noise, row):
        z = noise.fold("z").normal(row, model.n_components)
        f = model.decode(params, z[None])[0]
        return model.likelihood.sample(f, {name: part[0] for name, part in own(params).items()}, noise.fold("x"), row)

    def score_samples(self, X, n_draws=None):
        """log p(x)."""
        exact = self._linear_model() if n_draws is None else None
        work = self._at_work(X)
        if exact is not None:
            log_prob = linear.at_work(exact, work.rows.Z, linear.log_prob)
        else:
            epsilon = self._draws(n_draws or _SCORE_DRAWS, work)
            log_prob = work.by_row(partial(_log_evidence, work, epsilon), epsilon.shape[1])
        return (log_prob + self._columns.log_jacobian(work.rows.observed, len(work.rows))).astype(work.out)

    def score(self, X, y=None, sample_weight=None):
        """Mean of score_samples."""
        log_prob = self.score_samples(X).astype(np.float64)
        if sample_weight is not None:
            sample_weight = check_sample_weight(sample_weight, log_prob, dtype=np.float64, ensure_non_negative=True)
        return float(np.average(log_prob, weights=sample_weight))

    def elbo(self, X, inference=None):
        """Bound log p(x) of each row from below."""
        if inference not in (None, "amortized", "svi"):
            raise ValueError(f"inference must be None, 'amortized' or 'svi', but it is {inference!r}.")
        work = self._at_work(X, inference)
        epsilon = self._draws(_ELBO_DRAWS, work)
        bound = work.by_row(partial(_expected_bound, work, epsilon), epsilon.shape[1])
        return (bound + self._columns.log_jacobian(work.rows.observed, len(work.rows))).astype(work.out)

    def anomaly_score(self, X):
        """Minus log p(x)."""
        return -self.score_samples(X)

    def impute(self, X, n_draws=None):
        """Fill missing cells."""
        exact = self._linear_model() if n_draws is None else None
        work = self._at_work(X)
        rows = work.rows
        if rows.observed is None:
            values = rows.x
        elif exact is not None:
            values = linear.expected(exact, rows.x, rows.observed)
        else:
            epsilon = self._draws(n_draws or _SCORE_DRAWS, work)
            values = work.by_row(partial(_expected_cells, work, epsilon), epsilon.shape[1])
        return self._columns.fill(X, work.numbers, self._columns.decode(values))

    # ------------------------------------------------------------------------------------------- what prediction needs
    def _check_X(self, X):
        check_is_fitted(self)
        numbers = self._columns.numeric(X)
        validate_data(self, X, reset=False, skip_check_array=True)
        return _checked_numbers(numbers, type(self).__name__)

    def _model_at(self, device, dtype, inference=None):
        """The fitted model, and its parameters as tensors with an axis of members."""
        architecture = self._architecture | ({"inference": inference} if inference else {})
        model = self._build(self._columns, architecture, None if self.nonlinear_ else 0.0)
        return model, one_member(to_read(self.parameters_, device, dtype))

    def _at_work(self, X, inference=None):
        numbers = self._check_X(X)
        device, dtype = inference_device(self.device), torch.from_numpy(numbers[:0]).dtype
        x, observed = self._columns.encode(numbers)
        rows = Layout(self._columns, x, observed, np.ones(len(x)), device, self._architecture["with_mask"])
        model, params = self._model_at(device, dtype)
        work = _Work(model, params, rows, self._start_params(), dtype, numbers)
        return self._refined(work) if (inference or self._architecture["inference"]) == "svi" else work

    def _refined(self, work):
        """With a posterior of each row's own, raised while the decoder stays."""
        model, _ = self._model_at(work.rows.device, work.dtype, "svi")
        model.n_draws, model.several, model.fixed = _SVI_DRAWS, True, work.params
        params = model.init_rows(len(work.rows), work.dtype)
        if self._architecture["inference"] == "amortized":
            q = work.by_row(lambda batch: torch.stack(work.model.encode(work.params, batch), -1)[0])
            base = 0.0 if work.start is None else base_of(work.start, work.rows, model.n_components, work.dtype).numpy()
            offset = torch.from_numpy(q - base).to(work.dtype)
            params = {"row.mean": offset[None, ..., 0], "row.log_variance": offset[None, ..., 1]}
        fit = Plain(model, work.rows, Noise(0), _svi_plan(len(work.rows)), params, work.start, dtype=work.dtype)
        (outcome,) = climb([fit.task])
        return _Work(model, outcome.params, work.rows, work.start, work.dtype, work.numbers)

    def _draws(self, n_draws, work):
        """Standard normal draws, (1, n_draws, 1, n_components), the same for every row and every call."""
        if not isinstance(n_draws, Integral) or n_draws < 1:
            raise ValueError(f"n_draws must be a whole number >= 1, but it is {n_draws!r}.")
        draws = Noise(0).fold("score").normal(torch.arange(n_draws), work.model.n_components, work.dtype)
        return draws[None, :, None].to(work.rows.device)

    def _linear_model(self):
        """The model as factor analysis, where that is what it is: its likelihood needs no draws."""
        check_is_fitted(self)
        if not self.nonlinear_:
            return self._start_params()
        if self._architecture["hidden_layer_sizes"] or self.decoder is not None or not self._gaussian():
            return None
        model = self._build(self._columns, self._architecture)
        arrays = {name: torch.from_numpy(array).double() for name, array in self.parameters_.items()}
        psi = model.likelihood.variance(own(arrays), self._columns.width)
        return fa.Params(arrays["decoder.0.bias"], arrays["decoder.0.weight"].mT, psi.double())

    def _gaussian(self):
        return all(block.kind == "gaussian" for block in self._columns.blocks)

    def _as_given(self, values):
        """Values of the model layout in the units and, where they are not plain numbers, the types of X."""
        numbers = self._columns.decode(values).astype(values.dtype, copy=False)
        return numbers if self._columns.all_numbers else self._columns.restore(numbers)

    @property
    def _n_features_out(self):
        return self._architecture["n_components"]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


@dataclass
class _Prepared:
    """A fit before its ascent: rows in the model layout, what fixes the parameters, the fit, and earlier records."""

    rows: Layout
    architecture: dict
    fit: Plain | Linear | Voted
    before: dict

    @property
    def task(self):
        return self.fit.task


@dataclass
class _Work:
    """A fitted model and the rows that it is asked about."""

    model: VAE
    params: dict
    rows: Layout
    start: fa.Params | None
    dtype: torch.dtype
    numbers: np.ndarray

    @property
    def out(self):
        return self.numbers.dtype

    @torch.no_grad()
    def by_row(self, function, n_draws=1):
        """`function` of every batch, a row's result each, as one array."""
        size = _rows_at_once(self.model.n_outputs * n_draws)
        parts = [function(batch) for _, batch in _batches(self.rows, self.start, self.model, self.dtype, size)]
        return torch.cat(parts).cpu().numpy()


def _log_evidence(work, epsilon, batch):
    """log p(x) by importance weighting, (n_rows,)."""
    weights = work.model.log_weights(work.params, batch, epsilon)[0]
    log_base = work.model.likelihood.log_base(batch.x)[0]
    return weights.logsumexp(0) - math.log(len(weights)) + log_base


def _expected_bound(work, epsilon, batch):
    """The bound, its expectation over draws or in closed form, (n_rows,)."""
    model, params = work.model, work.params
    q = model.encode(params, batch)
    if model.closed_form:
        log_prob = model.expected_log_prob(params, batch.x, q)
    else:
        log_prob = model.log_prob(params, batch.x, at(q, epsilon)).mean(1)
    return (log_prob - kl_to_standard_normal(*q).sum(-1) + model.likelihood.log_base(batch.x))[0]


def _expected_cells(work, epsilon, batch):
    """E[x | what was observed of it] by importance weighting, (n_rows, width)."""
    model, params = work.model, work.params
    z = at(model.encode(params, batch), epsilon)
    share = model.log_weights(params, batch, epsilon).softmax(1)
    means = model.likelihood.mean(model.decode(params, z), own(params))
    return (share[..., None] * means).sum(1)[0]


def _batches(rows, start, model, dtype, size=_ROWS_AT_ONCE):
    """Rows in batches of one member each, with their places."""
    for first in range(0, len(rows), size):
        index = torch.arange(first, min(first + size, len(rows)))
        part = rows.rows(index.numpy())
        table = part.encoded(start, dtype)
        base = None if start is None else base_of(start, part, model.n_components, dtype)[None]
        observed = None if table.observed is None else table.observed[None]
        w = torch.ones(1, len(index), dtype=dtype, device=rows.device)
        x = Cells(table.x[None], observed)
        yield index, MemberBatch(x, table.u[None], w, index[None].to(rows.device), base)


def _rows_at_once(cells_a_row):
    return max(1, min(_ROWS_AT_ONCE, _CELLS // max(1, cells_a_row)))


def _checked_numbers(numbers, name):
    return check_array(
        numbers, dtype=[np.float64, np.float32], ensure_all_finite="allow-nan", estimator=name, input_name="X"
    )


def _noise_variance(columns, likelihood, own_parameters):
    """Of the gaussian columns in the units of X, NaN for the others; None where no column is gaussian."""
    variance = np.full(columns.n_features, np.nan)
    for number, block in enumerate(columns.blocks):
        if block.kind != "gaussian":
            continue
        part, names = likelihood, own_parameters
        if isinstance(likelihood, Mixed):
            part = likelihood.parts[number][0]
            prefix = f"{number}."
            names = {key.removeprefix(prefix): value for key, value in names.items() if key.startswith(prefix)}
        psi = part.variance(names, block.stop - block.start).reshape(-1).detach().cpu().double().numpy()
        variance[list(block.columns)] = psi * columns.scale[block.span] ** 2
    return None if np.isnan(variance).all() else variance


def _svi_plan(n):
    return gradient.Plan(_SVI_STEPS, n, _SVI_RATE, rate_schedule=schedules.cosine)


def _defaults(n, votes):
    """What "auto" stands for; the evidence is in doc/user_guide/autoencoders.rst."""
    batch_size = int(np.clip(n // 40, 128, 512))
    n_batches = math.ceil(n / batch_size)
    if votes:
        steps = 400 if n <= 150 else 1500 if n <= 1300 else 4000
    else:
        steps = 2000
    return {
        "batch_size": batch_size,
        "learning_rate": 1e-3 if n <= 250 else 3e-3,
        "max_iter": max(10, math.ceil(steps / n_batches)),
    }
