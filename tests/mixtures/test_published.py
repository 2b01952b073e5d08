"""Default fits reach the log-likelihoods that other software publishes, from any seed.

Latent classes: the examples of poLCA (Linzer and Lewis, Journal of Statistical Software 42(10), 2011), which StepMix
reproduces; their parameters maximise the likelihood alone, hence the small `alpha`. Old Faithful: mclust.
"""

import warnings
from itertools import product

import numpy as np
import pytest

from skvae import BernoulliMixtureEM, GaussianMixtureEM

# Counts in the order of itertools.product.
VALUES = [42, 23, 6, 25, 6, 24, 7, 38, 1, 4, 1, 6, 2, 9, 2, 20]
CHEATING = [207, 46, 7, 5, 13, 4, 1, 2, 10, 3, 1, 2, 11, 4, 1, 2]
# Ratings of seven pathologists, and how many slides got them.
CARCINOMA = {
    "0000000": 34, "0000100": 2, "0100000": 6, "0100001": 1, "0100100": 4, "0100101": 5, "1000000": 2, "1010101": 1,
    "1100000": 2, "1100001": 1, "1100100": 2, "1100101": 7, "1100111": 1, "1101001": 1, "1101101": 2, "1101111": 3,
    "1110101": 13, "1110111": 5, "1111101": 10, "1111111": 16,
}  # fmt: skip


def table(name):
    if name == "carcinoma":
        return np.repeat([[float(cell) for cell in row] for row in CARCINOMA], list(CARCINOMA.values()), axis=0)
    counts = {"values": VALUES, "cheating": CHEATING}[name]
    return np.repeat(np.array(list(product([1.0, 2.0], repeat=4))), counts, axis=0)


def log_likelihood(model, X):
    return model.score(X) * len(X)


@pytest.mark.parametrize(
    ("name", "K", "published"),
    [
        ("values", 2, -504.468),
        ("cheating", 2, -440.027),
        ("carcinoma", 2, -317.257),
        ("carcinoma", 3, -293.705),
        ("carcinoma", 4, -289.286),
    ],
)
def test_latent_classes_reach_the_published_likelihood(name, K, published):
    X = table(name)
    for seed in range(5):
        model = BernoulliMixtureEM(K, categorical_features="all", alpha=1e-9, random_state=seed).fit(X)
        assert model.converged_
        assert log_likelihood(model, X) == pytest.approx(published, abs=2e-3)


@pytest.mark.slow
def test_from_twenty_seeds_the_same_classes():
    X = table("values")
    for seed in range(20):
        default = BernoulliMixtureEM(2, categorical_features="all", random_state=seed).fit(X)
        assert log_likelihood(default, X) == pytest.approx(-504.503, abs=2e-3)  # alpha=0.1 costs what is missing
        plain = default.set_params(alpha=1e-9).fit(X)
        assert log_likelihood(plain, X) == pytest.approx(-504.468, abs=1e-3)
        assert plain.weights_.min() == pytest.approx(0.279, abs=1e-3)


def test_small_tables_get_more_restarts_than_large_ones():
    X = table("values")
    model = BernoulliMixtureEM(2, categorical_features="all", random_state=0).fit(X)
    ten = BernoulliMixtureEM(2, categorical_features="all", random_state=0, n_init=10).fit(X)
    assert model.lower_bounds_ == ten.lower_bounds_
    large = np.random.default_rng(0).integers(0, 2, size=(60_000, 50)).astype(float)  # 9 million products
    options = dict(max_iter=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, auto = (BernoulliMixtureEM(3, **options, n_init=n).fit(large) for n in (1, "auto"))
    assert auto.lower_bounds_ == one.lower_bounds_


def test_old_faithful_with_three_components_of_one_covariance(test_data):
    path = test_data / "small" / "faithful.csv"
    if not path.is_file():
        pytest.skip("needs small/faithful.csv in the folder that SKVAE_TEST_DATA names")
    columns = np.genfromtxt(path, delimiter=",", names=True)
    X = np.column_stack([columns["eruptions"], columns["waiting"]])
    options = dict(n_components=3, covariance_type="tied")
    found = [log_likelihood(GaussianMixtureEM(**options, random_state=seed).fit(X), X) for seed in range(20)]
    assert np.sum(np.array(found) > -1127.4) >= 14  # two of ten where K-means takes the columns in their own units
    options |= dict(tol=1e-6, max_iter=1000, n_init=3)
    for seed in range(5):
        best = log_likelihood(GaussianMixtureEM(**options, random_state=seed).fit(X), X)
        assert best == pytest.approx(-1126.316, abs=2e-3)  # mclust stops at -1126.326


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
def test_clusters_are_found_in_the_order_of_their_centres_whatever_the_seed_and_the_units(kind):
    rng = np.random.default_rng(0)
    cluster = rng.integers(2, size=300)
    X = np.column_stack([10 * cluster + rng.normal(size=300), 1e6 * rng.normal(size=300)])
    for seed in range(5):
        labels = GaussianMixtureEM(2, covariance_type=kind, random_state=seed).fit_predict(X)
        np.testing.assert_array_equal(labels, cluster)  # components are in the order of their initial means
