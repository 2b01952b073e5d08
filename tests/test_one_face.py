"""What a word means on one estimator it means on all: laws of every estimator that has a method."""

import numpy as np
import pytest

from skvae import BernoulliMixtureEM, FactorAnalysisEM, GaussianMixtureEM, ProbabilisticPCA, VAETransformer

DENSITIES = [
    GaussianMixtureEM(2, random_state=0),
    BernoulliMixtureEM(2, binarize=0.5, random_state=0),
    FactorAnalysisEM(1),
    ProbabilisticPCA(1),
    VAETransformer(1, hidden_layer_sizes=(3,), max_iter=2, random_state=0),
]


def draw(n=60, d=4, missing=0.0):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 1)) @ np.ones((1, d)) + rng.normal(size=(n, d))
    X[rng.random(X.shape) < missing] = np.nan
    return X


@pytest.fixture(scope="module", params=DENSITIES, ids=lambda estimator: type(estimator).__name__)
def density(request):
    return request.param.fit(draw())


@pytest.mark.parametrize("n_samples", [2.7, 2.0, 0, -1, True, "3", None])
def test_a_number_of_rows_to_draw_is_whole_and_positive(density, n_samples):
    with pytest.raises(ValueError, match=f"Invalid value for 'n_samples': {n_samples!r}; .* n_samples >= 1"):
        density.sample(n_samples)


def test_whole_numbers_of_any_kind_are_drawn(density):
    for n_samples in (3, np.int32(3), np.uint8(3)):
        drawn = density.sample(n_samples, random_state=0)
        assert len(drawn[0] if isinstance(drawn, tuple) else drawn) == 3
