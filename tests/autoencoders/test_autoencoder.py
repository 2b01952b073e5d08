"""AutoencoderTransformer: its linear limit is PCA; corruption, sparsity and weights are what they are said to be."""

import pickle

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import AutoencoderTransformer, ProbabilisticPCA
from skvae._tensors import Cells, Noise
from skvae.model_selection import StackedGridSearchCV
from skvae.models.autoencoders.autoencoder import Autoencoder, penalty
from skvae.training.members import MemberBatch, MemberNoise

LINEAR = {"hidden_layer_sizes": ()}
SHORT = {"hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0}


@pytest.fixture(scope="module")
def wine():
    return StandardScaler().fit_transform(load_wine().data)


def low_rank(n=400, d=12, k=2, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    clean = rng.normal(size=(n, k)) @ rng.normal(size=(k, d))
    return clean, clean + noise * rng.normal(size=(n, d))


def pca_error(X, k):
    pca = PCA(k).fit(X)
    return pca, np.mean((X - pca.inverse_transform(pca.transform(X))) ** 2)


# ------------------------------------------------------------------------------------------------------- linear = PCA
@pytest.mark.parametrize("scale", [1.0, 1e6, np.geomspace(1e-2, 1e2, 13)])
@pytest.mark.parametrize("k", [1, 3, 13])
def test_without_hidden_layers_it_is_pca(wine, scale, k):
    X = 7 + wine * scale
    model = AutoencoderTransformer(k, **LINEAR).fit(X)
    pca, error = pca_error(X, k)
    spread = X.var(axis=0).mean()
    assert model.reconstruction_error_ == pytest.approx(error, rel=1e-9, abs=1e-12 * spread)
    np.testing.assert_allclose(model.reconstruct(X), pca.inverse_transform(pca.transform(X)), atol=1e-8 * spread**0.5)
    assert subspace_angles(model.parameters_["decoder.0.weight"].T, pca.components_.T).max() < 1e-6
    # one axis of the code for each component, in their order, and on one scale
    correlation = np.corrcoef(model.transform(X).T, pca.transform(X).T)[:k, k:]
    np.testing.assert_allclose(np.abs(correlation), np.eye(k), atol=1e-4)


def test_pca_of_fewer_rows_than_columns_and_of_equal_variances():
    X = np.random.default_rng(0).normal(size=(6, 20))
    assert AutoencoderTransformer(2, **LINEAR).fit(X).reconstruction_error_ == pytest.approx(pca_error(X, 2)[1])
    X = np.concatenate([np.eye(5), -np.eye(5)])  # probabilistic PCA has no axes here, PCA has
    assert AutoencoderTransformer(2, **LINEAR).fit(X).reconstruction_error_ == pytest.approx(pca_error(X, 2)[1])


@pytest.mark.filterwarnings("ignore:.*does not compress X")
def test_more_components_than_columns_give_the_rows_back(wine):
    model = AutoencoderTransformer(5, **LINEAR).fit(wine[:, :3])
    np.testing.assert_allclose(model.reconstruct(wine[:, :3]), wine[:, :3], atol=1e-6)


@pytest.mark.parametrize("missing", [False, True])
def test_dimensions_beyond_the_rank_of_the_table_are_spare(missing):
    """A row off the plane of the training rows must not be multiplied by what rounding left across it."""
    rng = np.random.default_rng(0)
    T = rng.normal(size=(120, 4))
    T = np.c_[T, T.sum(1)]
    new = T[100:] + [0, 0, 0, 0, 0.01] * rng.normal(size=(20, 5))
    if missing:
        T[::7, 1] = new[::5, 1] = np.nan
    for parameters, least in ((LINEAR, -1e-4), ({"hidden_layer_sizes": (8,), "max_iter": 10}, -0.05)):
        model = AutoencoderTransformer(5, **parameters, random_state=0).fit(T[:100])
        assert np.abs(model.transform(new)).max() < 6
        assert model.score(new) > least


def test_a_linear_network_from_random_weights_climbs_to_pca(wine):
    model = AutoencoderTransformer(3, **LINEAR, init="random", early_stopping=False, max_iter=300, random_state=0)
    model.set_params(learning_rate=0.03).fit(wine)
    pca, error = pca_error(wine, 3)
    assert error <= model.reconstruction_error_ < error * (1 + 1e-3)
    assert np.rad2deg(subspace_angles(model.parameters_["decoder.0.weight"].T, pca.components_.T).max()) < 3


def test_a_network_begins_as_pca(wine):
    pca, error = pca_error(wine, 3)
    model = AutoencoderTransformer(3, learning_rate=1e-9, max_iter=1, early_stopping=False, random_state=0).fit(wine)
    assert model.reconstruction_error_ == pytest.approx(error, rel=1e-3)
    np.testing.assert_allclose(model.reconstruct(wine), pca.inverse_transform(pca.transform(wine)), atol=0.05)


def test_it_bends_where_the_data_do():
    t = np.random.default_rng(0).uniform(-1, 1, 600)
    X = np.column_stack([t, t**2, t**3]) + 0.01 * np.random.default_rng(1).normal(size=(600, 3))
    model = AutoencoderTransformer(1, max_iter=100, random_state=0).fit(X[:400])
    pca = PCA(1).fit(X[:400])
    linear = np.mean((X[400:] - pca.inverse_transform(pca.transform(X[400:]))) ** 2)
    assert -model.score(X[400:]) < 0.3 * linear


# ---------------------------------------------------------------------------------------------------------- corruption
def corrupted(kind, level, row, n_columns=20, observed=None):
    model = Autoencoder(n_columns, 1, n_columns, (), torch.tanh, corruption=kind, level=level)
    u = torch.full((1, len(row), n_columns), 2.0)
    params = {"corruption.low": torch.full((1, n_columns), -5.0), "corruption.high": torch.full((1, n_columns), 9.0)}
    batch = MemberBatch(Cells(u, observed), u, torch.ones(1, len(row)), row[None])
    return model.corrupted(params, batch, MemberNoise([Noise(3)]))[0].numpy()


def test_gaussian_noise_has_the_stated_spread():
    added = corrupted("gaussian", 0.4, torch.arange(4000)) - 2.0
    assert abs(added.mean()) < 0.4 * 4 / np.sqrt(added.size)
    assert added.std() == pytest.approx(0.4, rel=0.01)


def test_masking_and_salt_hit_the_stated_share_of_cells():
    error = 4 * np.sqrt(0.3 * 0.7 / 80_000)
    masked = corrupted("masking", 0.3, torch.arange(4000))
    assert set(np.unique(masked)) == {0.0, 2.0}
    assert np.mean(masked == 0) == pytest.approx(0.3, abs=error)
    salted = corrupted("salt_and_pepper", 0.3, torch.arange(4000))
    assert set(np.unique(salted)) == {-5.0, 2.0, 9.0}
    assert np.mean(salted == -5) == pytest.approx(0.15, abs=error)
    assert np.mean(salted == 9) == pytest.approx(0.15, abs=error)


@pytest.mark.parametrize("kind", ["gaussian", "masking", "salt_and_pepper"])
def test_a_row_is_corrupted_alike_in_any_batch(kind):
    together = corrupted(kind, 0.3, torch.arange(50))
    np.testing.assert_array_equal(corrupted(kind, 0.3, torch.tensor([7, 33])), together[[7, 33]])
    assert len(np.unique(together, axis=0)) == 50  # and each in its own way


def test_cells_that_were_not_seen_are_left_alone():
    seen = (torch.arange(20) % 2).float().expand(1, 30, 20)
    noisy = corrupted("gaussian", 0.4, torch.arange(30), observed=seen)
    assert (noisy[:, ::2] == 2).all()
    assert (noisy[:, 1::2] != 2).all()


def test_denoising_recovers_what_was_planted_better():
    clean, noisy = low_rank(n=150, d=10, k=2, noise=0.7)
    common = {"hidden_layer_sizes": (32,), "early_stopping": False, "max_iter": 150, "learning_rate": 0.01}

    def error(**parameters):
        model = AutoencoderTransformer(6, **common, **parameters, random_state=0).fit(noisy)
        return np.mean((model.reconstruct(noisy) - clean) ** 2)

    assert error(denoising="gaussian", noise_level=0.6) < 0.8 * error()


@pytest.mark.parametrize("kind", ["gaussian", "masking", "salt_and_pepper"])
def test_every_corruption_learns_and_goes_on(wine, kind):
    model = AutoencoderTransformer(2, denoising=kind, **SHORT).fit(wine)
    assert model.score(wine) > -wine.var(axis=0).mean()
    assert model.partial_fit(wine).n_iter_ > SHORT["max_iter"]
    if kind == "salt_and_pepper":  # what replaces cells is no weight
        np.testing.assert_allclose(model.parameters_["corruption.high"], wine.max(axis=0), rtol=1e-5)


# ------------------------------------------------------------------------------------------------------------ sparsity
def test_the_penalty_is_the_divergence_of_mean_activations():
    z = torch.tensor([[[0.2, 0.9], [0.4, 0.5]]], dtype=torch.float64)
    w = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    a = np.array([0.25 * 0.2 + 0.75 * 0.4, 0.25 * 0.9 + 0.75 * 0.5])
    kl = 0.1 * np.log(0.1 / a) + 0.9 * np.log(0.9 / (1 - a))
    assert float(penalty(z, w, 0.1, 2.0)) == pytest.approx(2 * kl.sum())
    assert float(penalty(torch.full((1, 3, 4), 0.1), torch.ones(1, 3), 0.1, 2.0)) == pytest.approx(0, abs=1e-6)


def test_sparsity_drives_mean_activations_to_rho(wine):
    common = {"hidden_layer_sizes": (), "learning_rate": 0.05, "early_stopping": False, "max_iter": 150}
    near = (
        AutoencoderTransformer(8, sparsity=(0.1, 100.0), random_state=0, **common)
        .fit(wine)
        .transform(wine)
        .mean(axis=0)
    )
    far = (
        AutoencoderTransformer(8, sparsity=(0.1, 0.0), random_state=0, **common).fit(wine).transform(wine).mean(axis=0)
    )
    np.testing.assert_allclose(near, 0.1, atol=0.02)
    assert np.abs(far - 0.1).max() > 0.2


def test_the_penalty_is_no_part_of_what_is_reported(wine):
    model = AutoencoderTransformer(3, sparsity=(0.05, 100.0), early_stopping=False, **SHORT).fit(wine)
    assert -3 < model.lower_bounds_.min() < model.lower_bounds_.max() < 0


# ------------------------------------------------------------------------------------------------------- missing cells
def with_gaps(X, share=0.2, seed=0):
    X = X.copy()
    X[np.random.default_rng(seed).random(X.shape) < share] = np.nan
    return X


def test_imputation_keeps_what_is_there_and_beats_the_mean(wine):
    gaps = with_gaps(wine)
    model = AutoencoderTransformer(3, random_state=0, max_iter=50).fit(gaps)
    filled, missing = model.impute(gaps), np.isnan(gaps)
    np.testing.assert_array_equal(filled[~missing], wine[~missing])
    by_mean = np.mean((np.nanmean(gaps, axis=0) - wine)[missing] ** 2)
    assert np.mean((filled - wine)[missing] ** 2) < 0.75 * by_mean


def test_missing_cells_are_read_as_probabilistic_pca_expects_them(wine):
    gaps = with_gaps(wine)
    model = AutoencoderTransformer(3, **LINEAR).fit(wine)
    expected = ProbabilisticPCA(3).fit(wine).impute(gaps)
    np.testing.assert_allclose(model.transform(gaps), model.transform(expected), atol=1e-6)


def test_scores_are_of_observed_cells_only(wine):
    gaps = with_gaps(wine)
    gaps[0] = np.nan
    for init in ("pca", "random"):
        model = AutoencoderTransformer(2, init=init, **SHORT).fit(gaps)
        score = model.score_samples(gaps)
        assert score[0] == 0
        by_hand = -np.nanmean((gaps[1:] - model.reconstruct(gaps)[1:]) ** 2, axis=1)
        np.testing.assert_allclose(score[1:], by_hand, rtol=1e-6)
        observed = ~np.isnan(gaps)
        of_cells = np.nansum((gaps - model.reconstruct(gaps)) ** 2) / observed.sum()
        assert model.reconstruction_error_ == pytest.approx(of_cells, rel=1e-4)


# --------------------------------------------------------------------------------------------------------- conventions
def test_scores_are_minus_squared_errors_in_the_units_of_the_data(wine):
    X = 100 * wine + 5
    model = AutoencoderTransformer(2, early_stopping=False, **SHORT).fit(X)
    by_hand = np.mean((X - model.reconstruct(X)) ** 2, axis=1)
    np.testing.assert_allclose(model.score_samples(X), -by_hand)
    np.testing.assert_array_equal(model.anomaly_score(X), -model.score_samples(X))
    w = np.arange(len(X))
    assert model.score(X, sample_weight=w) == pytest.approx(-np.average(by_hand, weights=w))
    assert model.reconstruction_error_ == pytest.approx(by_hand.mean(), rel=1e-4)
    assert model.lower_bounds_[-1] == pytest.approx(-by_hand.mean(), rel=0.2)


def test_weights_are_repeats(wine):
    rows = wine[:60]
    w = np.arange(60) % 3
    for parameters in (LINEAR, SHORT):
        weighted = AutoencoderTransformer(2, **parameters).fit(rows, sample_weight=w)
        repeated = AutoencoderTransformer(2, **parameters).fit(np.repeat(rows, w, axis=0))
        np.testing.assert_array_equal(weighted.transform(rows), repeated.transform(rows))


def test_one_seed_one_fit(wine):
    first, again = (AutoencoderTransformer(2, denoising="masking", **SHORT).fit(wine) for _ in range(2))
    other = AutoencoderTransformer(2, denoising="masking", **SHORT | {"random_state": 1}).fit(wine)
    for name, value in first.parameters_.items():
        np.testing.assert_array_equal(value, again.parameters_[name])
    assert (first.transform(wine) != other.transform(wine)).any()


@pytest.mark.parametrize("parameters", [{}, {"denoising": "gaussian"}, {"sparsity": (0.1, 1.0)}, {"init": "random"}])
def test_a_part_of_the_rows_is_encoded_as_all_are(wine, parameters):
    gaps = with_gaps(wine)
    model = AutoencoderTransformer(2, **SHORT, **parameters).fit(gaps)
    np.testing.assert_allclose(model.transform(gaps[5:9]), model.transform(gaps)[5:9], atol=1e-7)
    np.testing.assert_allclose(model.inverse_transform(model.transform(gaps)), model.reconstruct(gaps), atol=1e-12)


def test_held_out_rows_decide(wine):
    model = AutoencoderTransformer(2, hidden_layer_sizes=(64,), learning_rate=1e-2, random_state=0)
    model.fit(wine[:120], X_val=wine[120:])
    best = model.validation_scores_.max()
    assert model.score(wine[120:]) == pytest.approx(best, rel=1e-4)
    assert best > model.validation_scores_[-1]  # it went on, and came back
    assert AutoencoderTransformer(2, early_stopping=False, **SHORT).fit(wine).validation_scores_.size == 0


@pytest.mark.parametrize("learning_rate", [0.1, 1e6])
def test_pca_is_kept_where_no_epoch_improves_on_it(learning_rate):
    """The truth is linear, and the steps are too long: the rows held out have a vote on the start too."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 2)) @ rng.normal(size=(2, 6)) + 0.3 * rng.normal(size=(120, 6))
    pca, _ = pca_error(X[:90], 2)
    error = np.mean((X[90:] - pca.inverse_transform(pca.transform(X[90:]))) ** 2)
    model = AutoencoderTransformer(2, learning_rate=learning_rate, max_iter=60, random_state=0)
    model.set_params(warm_start=True).fit(X[:90], X_val=X[90:])
    assert model.score(X[90:]) == pytest.approx(-error, rel=1e-2)
    assert model.score(X[90:]) > model.validation_scores_.max()
    model.set_params(learning_rate=1e-9, max_iter=1).fit(X[:90])  # and goes on from there, without their momentum
    assert model.score(X[90:]) == pytest.approx(-error, rel=1e-2)


def test_partial_fit_and_warm_start_go_on(wine):
    model = AutoencoderTransformer(2, hidden_layer_sizes=(8,), random_state=0)
    for _ in range(3):
        model.partial_fit(wine)
    assert model.n_iter_ == len(model.lower_bounds_) == 3
    assert model.n_samples_seen_ == 3 * len(wine)
    warm = AutoencoderTransformer(2, warm_start=True, early_stopping=False, **SHORT).fit(wine)
    before = warm.reconstruction_error_
    assert warm.fit(wine).n_iter_ == 2 * SHORT["max_iter"]
    assert warm.reconstruction_error_ < before
    with pytest.raises(ValueError, match="cannot go on with"):
        warm.set_params(n_components=3).fit(wine)


def test_in_a_pipeline_a_search_and_a_pickle(wine):
    pipe = make_pipeline(StandardScaler(), AutoencoderTransformer(**LINEAR))
    search = GridSearchCV(pipe, {"autoencodertransformer__n_components": [1, 3]}, cv=3).fit(wine)
    assert search.best_params_ == {"autoencodertransformer__n_components": 3}
    model = AutoencoderTransformer(2, denoising="salt_and_pepper", **SHORT).fit(wine)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).transform(wine), model.transform(wine))
    assert clone(model).get_params() == model.get_params()
    assert list(model.get_feature_names_out()) == ["autoencodertransformer0", "autoencodertransformer1"]


def small_network(n_in, n_out):
    return torch.nn.Sequential(torch.nn.Linear(n_in, 5), torch.nn.Tanh(), torch.nn.Linear(5, n_out))


def test_modules_of_ones_own(wine):
    model = AutoencoderTransformer(2, encoder=small_network, decoder=small_network, max_iter=60, random_state=0)
    assert model.fit(wine).transform(wine).shape == (len(wine), 2)
    assert model.score(wine) > -1
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).transform(wine), model.transform(wine))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"denoising": "masking", "noise_level": 1.5}, "share of the cells"),
        ({"denoising": "blur"}, "denoising"),
        ({"sparsity": (1.5, 1.0)}, "rho"),
        ({"sparsity": (0.1,)}, "rho"),
        ({"sparsity": (0.1, np.inf)}, "finite weight"),
        ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes"),
        ({"early_stopping": True, "validation_fraction": 0.999}, "leaves none to learn from"),
    ],
)
def test_parameters_that_cannot_be_are_refused(wine, parameters, message):
    model = AutoencoderTransformer(2, **parameters)
    with pytest.raises(ValueError, match=message):
        model.fit(wine)
    assert not hasattr(model, "parameters_")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (np.inf, r"X\[3, 2\] = inf"),
        ("a", "is a string"),
    ],
)
def test_cells_that_cannot_be_are_refused(wine, spoil, message):
    X = wine.astype(object)
    X[3, 2] = spoil
    with pytest.raises(ValueError, match=message):
        AutoencoderTransformer(2, **SHORT).fit(X)
    X = wine.copy()
    X[:, 4] = np.nan
    with pytest.raises(ValueError, match="4"):
        AutoencoderTransformer(2, **SHORT).fit(X)


@pytest.mark.filterwarnings("ignore:.*does not compress X")
@pytest.mark.parametrize("X", [np.ones((5, 3)), np.arange(3.0)[None], np.arange(6.0)[:, None], np.eye(4) * 1e6])
def test_tables_with_little_in_them(X):
    for parameters in (LINEAR, SHORT):
        model = AutoencoderTransformer(2, **parameters).fit(X)
        assert np.isfinite(model.transform(X)).all()
        by_hand = np.mean((X - model.reconstruct(X)) ** 2, axis=1)
        np.testing.assert_allclose(model.score_samples(X), -by_hand, atol=1e-12)


def test_a_stacked_search_fits_the_same_networks(wine):
    grid = {"n_components": [1, 3], "weight_decay": [0, 0.01]}
    for parameters in ({}, {"denoising": "gaussian"}, {"sparsity": (0.1, 1.0)}):
        model = AutoencoderTransformer(**parameters, **SHORT)
        stacked, alone = (search(model, grid, cv=2).fit(wine) for search in (StackedGridSearchCV, GridSearchCV))
        np.testing.assert_allclose(*(each.cv_results_["mean_test_score"] for each in (stacked, alone)), rtol=1e-5)


def test_progress_is_printed(wine, capsys):
    model = AutoencoderTransformer(2, verbose=2, **SHORT).fit(10 * wine)  # in the units of X squared
    *lines, end, kept = capsys.readouterr().out.splitlines()
    assert len(lines) == SHORT["max_iter"] and "ended: " in end and "kept the " in kept
    assert f"epoch 5/5  squared error {-model.lower_bounds_[-1]:.4g}  " in lines[-1]
    assert f"of rows held out {-model.validation_scores_[-1]:.4g}" in lines[-1]


# ------------------------------------------------------------------------------------------------------ nothing to see
@pytest.mark.parametrize("layers", [(), (8,)])
@pytest.mark.parametrize("n", [1, 60])
def test_rows_without_variance_tell_no_directions(n, layers):
    """Codes of unit variance along axes of none would be as long as rounding makes them."""
    X = np.tile([1.0, 2.0, 5.0], (n, 1))
    model = AutoencoderTransformer(2, hidden_layer_sizes=layers, max_iter=3, random_state=0).fit(X)
    assert np.abs(model.transform(X + 1)).max() < 10
    np.testing.assert_allclose(model.reconstruct(X), X, atol=0.2)
    with pytest.raises(ValueError, match="first call of partial_fit settles the scale"):
        AutoencoderTransformer(2, hidden_layer_sizes=layers).partial_fit(X)


def test_corruption_may_change_on_the_way(wine):
    model = AutoencoderTransformer(2, max_iter=3, random_state=0).fit(wine)
    score = model.set_params(denoising="salt_and_pepper").partial_fit(wine).partial_fit(wine).score(wine)
    assert score > -1
