"""What a fitted `VAETransformer` says of rows: their posteriors, likelihoods and missing cells; and rows of its own."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from skvae._rounding import CHANGED
from skvae._tensors import Noise, inference_device, rounded
from skvae.estimators._base import LikelihoodScoreMixin
from skvae.estimators._checks import check_n_samples, columns_of_layer, draw_seed_of_sample
from skvae.estimators.autoencoders._evidence import bound_terms, by_draws, column_measures, evidence_terms
from skvae.estimators.autoencoders._network_transformer import NetworkTransformer, linear_path_of, model_on
from skvae.likelihoods import Gaussian
from skvae.models.autoencoders import vae_evaluation
from skvae.models.autoencoders.encoder_decoder import own
from skvae.models.autoencoders.laplace import n_gradients
from skvae.models.decomposition import factor_analysis as fa
from skvae.tables.decoding import as_given, decode, fill_missing
from skvae.tables.encoding import log_jacobian
from skvae.training.ascent import fit_row_posteriors
from skvae.training.factor_analysis_start import evaluate, expected
from skvae.training.rows import heads_of_path, rows_at_once

_ELBO_DRAWS = 32
_SCORE_DRAWS, _IMPUTE_DRAWS = 128, 512  # errors of draws add to those of imputed cells
_SVI_DRAWS = 8


class VAEPrediction(LikelihoodScoreMixin, NetworkTransformer):
    """The methods of a fitted variational autoencoder; a subclass fits it."""

    # ------------------------------------------------------------------------------------------------------- prediction
    def transform(self, X):
        """Embed each row: the mean of q(z | x), of the layer that `output_layer` names.

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
            missing cells, Laplace's approximation, which needs no encoder: a mode, and the curvature there. Of several
            layers, those of the layer that `output_layer` names, over at least 32 balanced draws.
        """
        fitted = self._with_posteriors(self._fitted_rows(X))
        if len(fitted.model.layer_sizes) > 1:
            return self._posterior_of_layer(fitted)
        posterior = partial(vae_evaluation.posterior, fitted.model, fitted.params, exact=not self.nonlinear_)
        q = fitted.by_row(lambda batch: torch.cat(posterior(batch), -1)[0], n_gradients(fitted.model.n_components))
        q = rounded(q, fitted.numbers.dtype)
        mean, log_variance = np.split(q, 2, axis=1)
        return mean, np.exp(0.5 * log_variance)

    def _posterior_of_layer(self, fitted):
        """`posterior` of the output layer, or of all layers side by side."""
        epsilon = vae_evaluation.draws_for_means(fitted.model, fitted.dtype, _ELBO_DRAWS).to(fitted.rows.device)
        moments = partial(vae_evaluation.layer_moments, fitted.model, fitted.params, exact=not self.nonlinear_)
        n_draws = max(epsilon.shape[1], n_gradients(fitted.model.n_components))
        both = fitted.by_row(partial(moments, epsilon=epsilon), n_draws)[..., self._output_columns]
        both = rounded(both, fitted.numbers.dtype)
        return both[:, 0], both[:, 1]

    @property
    def _output_columns(self):
        """Which of the values of all layers, side by side, `transform` gives."""
        return columns_of_layer(self.output_layer, self._architecture["n_components"])

    @property
    def _n_features_out(self):
        columns = self._output_columns
        return columns.stop - columns.start

    @property
    def _layer(self):
        return 0 if self.output_layer == "all" else self.output_layer % np.size(self._architecture["n_components"])

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
            heads = heads_of_path(fitted.linear_path, fitted.rows, model, dtype)
            heads = 0.0 if heads is None else heads[0].cpu().numpy()
            params = {"row.posterior": torch.from_numpy(q - heads)[None].to(dtype)}
        refined = fit_row_posteriors(model, fitted.rows, params, fitted.linear_path)
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
