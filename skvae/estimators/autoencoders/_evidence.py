"""What a fitted VAE says of log p(x): estimates over draws of z, and the bound and its terms."""

from functools import partial
from numbers import Integral

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from skvae._tensors import content_keys, rounded, row_slices
from skvae.elbo import EvidenceTerms
from skvae.estimators._checks import draw_seed
from skvae.models.autoencoders import vae_evaluation
from skvae.models.autoencoders.laplace import n_gradients
from skvae.models.decomposition import factor_analysis as fa
from skvae.tables.column_likelihoods import measures
from skvae.tables.encoding import log_jacobian
from skvae.training.factor_analysis_start import evaluate

_ELBO_DRAWS = 32
_EVIDENCE_DRAWS = 512


def by_draws(function, fitted, n_draws, default, seed=0):
    """Apply `function(model, params, batch, epsilon)` to all rows, by `n_draws` draws of z (None: the default)."""
    n_draws = default if n_draws is None else n_draws
    if not isinstance(n_draws, Integral) or isinstance(n_draws, bool) or n_draws < 1:
        raise ValueError(f"n_draws must be a whole number >= 1, but it is {n_draws!r}.")
    key = np.concatenate([content_keys(fitted.numbers[part]) for part in row_slices(fitted.numbers)])
    key, K = torch.from_numpy(key).to(fitted.rows.device), fitted.model.n_components

    def of_batch(batch):
        epsilon = vae_evaluation.draws_of_rows(key[batch.row[0]], n_draws, K, fitted.dtype, seed)
        return function(fitted.model, fitted.params, batch, epsilon)

    return fitted.by_row(of_batch, max(n_draws, n_gradients(K)))


def bound_terms(fitted, *, exact):
    """E_q[log p(x | z)] less its base, KL(q || p) and the base of each row, in the model layout: three columns."""
    K = fitted.model.n_components
    epsilon = vae_evaluation.balanced_draws(K, _ELBO_DRAWS, fitted.dtype).to(fitted.rows.device)
    terms = partial(vae_evaluation.bound_terms, fitted.model, fitted.params, epsilon=epsilon, exact=exact)
    return fitted.by_row(terms, max(len(epsilon[0]), n_gradients(K)))


def column_measures(estimator):
    """Measures of the columns that a VAE was fitted to, as `LikelihoodScoreMixin` wants them."""
    check_is_fitted(estimator)
    return measures(estimator._columns, estimator._custom_likelihoods(estimator._columns))


def evidence_terms(estimator, X, n_draws=None, random_state=None, *, find_best=True):
    """The evidence of each row, as `LikelihoodScoreMixin` wants it."""
    linear, rows = estimator._linear_model(), estimator._fitted_rows(X)
    fitted, exact = estimator._with_posteriors(rows), not estimator.nonlinear_
    log_prob, kl, base = bound_terms(fitted, exact=exact).T
    elbo = log_prob - kl + base
    if linear is None or n_draws is not None:
        _check_enough(n_draws)
        seed = 0 if random_state is None else draw_seed(random_state)
        estimate = vae_evaluation.log_evidence_and_error
        log_evidence, error = by_draws(estimate, fitted, n_draws, _EVIDENCE_DRAWS, seed).T
    else:
        log_evidence = evaluate(fa.log_prob, linear, fitted.rows.Z)
        error = np.zeros_like(log_evidence)
    if not find_best:
        best = np.full_like(elbo, np.nan)
    elif linear is not None:
        best = evaluate(fa.log_prob, linear, fitted.rows.Z) - evaluate(fa.factorised_gap, linear, fitted.rows.Z)
    elif fitted.model.amortised:
        own_log_prob, own_kl, _ = bound_terms(estimator._refined(rows), exact=exact).T
        best = np.maximum(elbo, own_log_prob - own_kl + base)  # the encoder's posterior is of the family, too
    else:
        best = elbo
    in_units, dtype = log_jacobian(fitted.numbers, estimator._columns), fitted.numbers.dtype
    of_data = log_evidence + in_units, error, log_prob + base + in_units, kl, best + in_units
    return EvidenceTerms(*(rounded(values, dtype) for values in of_data))


def _check_enough(n_draws):
    """Refuse so few draws that they do not tell their own error."""
    if isinstance(n_draws, Integral) and not isinstance(n_draws, bool) and n_draws < vae_evaluation.FEWEST_FOR_ERROR:
        raise ValueError(
            f"n_draws={n_draws} draws do not tell the standard error of their mean; use "
            f"{vae_evaluation.FEWEST_FOR_ERROR} or more."
        )
