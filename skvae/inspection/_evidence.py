"""The evidence of each row, taken apart: bound, gap, and what the gap consists of."""

from typing import NamedTuple

import numpy as np

from skvae.metrics._pipelines import transformed, unwrap


class EvidenceDecomposition(NamedTuple):
    """log p(x) of each row and its parts, in nats: ndarrays of shape (n_samples,).

    ::

        log_evidence = elbo + kl_gap
        elbo         = expected_log_likelihood - kl_to_prior
        kl_gap       = approximation_gap + amortization_gap

    Parameters
    ----------
    log_evidence : ndarray
        log p(x) of the observed cells, as `score_samples` gives it.
    standard_error : ndarray
        Standard error of `log_evidence`; 0 where it is exact.
    elbo : ndarray
        Evidence lower bound at the model's own posterior q(z | x).
    kl_gap : ndarray
        KL(q(z | x) || p(z | x)): how far the bound is below the evidence.
    approximation_gap : ndarray
        Part of `kl_gap` that stays with the best posterior of the family of q: the price of its shape.
    amortization_gap : ndarray
        Part of `kl_gap` that the best posterior of each row would save: the price of an encoder.
    expected_log_likelihood : ndarray
        E_q[log p(x | z)]: how well the row is reconstructed.
    kl_to_prior : ndarray
        KL(q(z | x) || p(z)): how much is told about z.
    """

    log_evidence: np.ndarray
    standard_error: np.ndarray
    elbo: np.ndarray
    kl_gap: np.ndarray
    approximation_gap: np.ndarray
    amortization_gap: np.ndarray
    expected_log_likelihood: np.ndarray
    kl_to_prior: np.ndarray


def evidence_decomposition(estimator, X, *, n_draws=None, split_gap=True, random_state=None):
    """Take log p(x) of each row apart: the bound, the gap above it, and what causes the gap.

    Every model of the package raises the evidence lower bound of a posterior q::

        log p(x) = E_q[log p(x | z)] - KL(q(z | x) || p(z)) + KL(q(z | x) || p(z | x))

    The first two terms are the bound, the last is the gap. Models that are fitted by expectation maximisation have the
    exact posterior and no gap. A variational autoencoder has a gap for two reasons (Cremer et al. 2018): its posterior
    is factorised and normal, and an encoder finds it. How large each is tells what to change: a better decoder or fewer
    dimensions, or a better encoder.

    Parameters
    ----------
    estimator : estimator
        A fitted mixture, factor model or `VAETransformer`, or a pipeline that ends with one or a search over them: then
        everything is of the columns as they reach the model. Of `VariationalGaussianMixture` and
        `VariationalFactorAnalysis` the evidence is that of the predictive density of `score_samples`, which has no gap;
        the bound of their fits is in `lower_bounds_`.
    X : {array-like, DataFrame} of shape (n_samples, n_features)
        NaN where a cell is missing: everything is of the cells that were observed.
    n_draws : int or None, default=None
        Draws of z for each row by which the evidence is estimated where it is not exact, 32 or more. None: exact where
        the model allows it, else 512. With a number, also a linear Gaussian autoencoder takes draws.
    split_gap : bool, default=True
        Whether to find the best posterior of each row, which of a network takes most of the time. False: NaN in
        `approximation_gap` and `amortization_gap`.
    random_state : int, RandomState instance or None, default=None
        Seed of these draws. None: those of `VAETransformer.score_samples`, the same in every call.

    Returns
    -------
    decomposition : EvidenceDecomposition
        The parts by name, each an ndarray of shape (n_samples,).

    Raises
    ------
    TypeError
        If the estimator has no density.
    ValueError
        If the model is a `VAETransformer` and `n_draws` is no whole number from 32 on. Mixtures and factor models have
        the exact evidence, and ignore it.

    Notes
    -----
    The importance-weighted evidence is, on average over draws, a lower bound (Burda et al. 2016), so where draws are
    few, gaps are too small and may even be negative within `standard_error`. The expectation in the bound is in closed
    form where the decoder is linear, else a mean over the draws of `VAETransformer.elbo`.

    The best posterior of a row is found in closed form where the model is linear and Gaussian, else by 300 steps of
    gradient ascent from that of the encoder, which counts as a candidate: `amortization_gap` is never negative but for
    rounding. For a row with missing cells the model's own posterior is that of `VAETransformer.posterior`.

    References
    ----------
    Cremer, Li and Duvenaud, *Inference suboptimality in variational autoencoders*, ICML 2018.

    Burda, Grosse and Salakhutdinov, *Importance weighted autoencoders*, ICLR 2016.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import FactorAnalysisEM, VAETransformer
    >>> from skvae.inspection import evidence_decomposition
    >>> X = load_wine().data
    >>> parts = evidence_decomposition(FactorAnalysisEM(2).fit(X), X)
    >>> bool(abs(parts.kl_gap).max() < 1e-8)
    True
    >>> vae = VAETransformer(2, hidden_layer_sizes=(), early_stopping=False, max_iter=100, random_state=0).fit(X)
    >>> parts = evidence_decomposition(vae, X)
    >>> bool((parts.kl_gap > 0).all())
    True
    """
    transforms, model = unwrap(estimator)
    check_has_density(model, "evidence_decomposition")
    terms = model._evidence_terms(transformed(transforms, X), n_draws, random_state, find_best=split_gap)
    elbo = terms.expected_log_prob - terms.kl
    return EvidenceDecomposition(
        log_evidence=terms.log_evidence,
        standard_error=terms.standard_error,
        elbo=elbo,
        kl_gap=terms.log_evidence - elbo,
        approximation_gap=terms.log_evidence - terms.best_bound,
        amortization_gap=terms.best_bound - elbo,
        expected_log_likelihood=terms.expected_log_prob,
        kl_to_prior=terms.kl,
    )


def check_has_density(model, who):
    """Refuse an estimator that gives no log p(x)."""
    if not hasattr(model, "_evidence_terms"):
        raise TypeError(
            f"{who} needs a density with a bound: a mixture, a factor model or VAETransformer, but got "
            f"{type(model).__name__}. (A search must be fitted, with refit.)"
        )
