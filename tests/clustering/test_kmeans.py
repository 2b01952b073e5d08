"""K-means: laws of the model under the engine, and agreement of the estimator with scikit-learn and brute force."""

import itertools
import pickle
import re
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from pytest import approx
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

from skvae import KMeansLite
from skvae._tensors import Noise, Rows, TableBatch
from skvae.engines import em
from skvae.models.clustering import kmeans
from skvae.models.clustering import kmeans_seeding as seeding
from skvae.models.clustering import kmeans_sketch as sketch

CPU = torch.device("cpu")


def draw(n=300, d=4, k=6, seed=0, spread=1.0):
    """Blobs that overlap."""
    rng = np.random.default_rng(seed)
    return 3 * rng.normal(size=(k, d))[rng.integers(k, size=n)] + spread * rng.normal(size=(n, d))


def table(X, w=None):
    w = np.ones(len(X)) if w is None else w
    return TableBatch(torch.from_numpy(X), torch.from_numpy(w).to(torch.from_numpy(X).dtype), torch.arange(len(X)))


def split(batch, size):
    return [batch.part(slice(start, start + size)) for start in range(0, len(batch.row), size)]


def climb(model, batches, centres, max_iter=30, converged=lambda report: False):
    return em.ascend(model, batches, [kmeans.Params(centres)], plan=em.Plan(max_iter, converged, 1.0))


def lloyd(X, centres, max_iter, w=None):
    """As in the textbook; an empty cluster keeps its centre."""
    w, inertias = np.ones(len(X)) if w is None else w, []
    for _ in range(max_iter):
        distance = ((X[:, None] - centres) ** 2).sum(-1)
        label = distance.argmin(1)
        inertias.append(w @ distance.min(1))
        centres = np.array(
            [
                np.average(X[label == k], axis=0, weights=w[label == k]) if (label == k).any() else centres[k]
                for k in range(len(centres))
            ]
        )
    return centres, np.array(inertias)


@pytest.fixture
def bounds_always(monkeypatch):
    """Hamerly's bounds on the smallest problems too."""
    monkeypatch.setattr(kmeans, "_SMALL_BATCH", 0)
    monkeypatch.setattr(kmeans, "_COSTLY_ROW", 0)
    monkeypatch.setattr(kmeans, "_WORTH_BOUNDS", 1.0)


# ---------------------------------------------------------------------------------------------------------- the model
def wide(n=700, k=6, seed=0, dtype=np.float64, noise=0.05):
    """Rows of 160 cells that mostly vary along a dozen directions, about centres that overlap."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(12, 160)) / np.arange(1, 13)[:, None]
    z = rng.normal(size=(k, 12))[rng.integers(k, size=n)] + 0.7 * rng.normal(size=(n, 12))
    return (z @ directions + noise * rng.normal(size=(n, 160))).astype(dtype)


@pytest.fixture
def sketches_soon(monkeypatch):
    """Sketches of small batches, too, asked whenever they are there; returns how many rows each left unsure."""
    asked, ask = [], kmeans.nearest_two_by_sketch

    def noted(*args):
        found = ask(*args)
        asked.append((len(found[3]), int(found[3].sum())))
        return found

    monkeypatch.setattr(kmeans, "nearest_two_by_sketch", noted)
    for name, value in {"_SMALL_BATCH": 0, "_COSTLY_ROW": 0, "_ROWS_OF_A_TRIAL": 32, "_WORTH_ASKING": 0.0}.items():
        monkeypatch.setattr(kmeans, name, value)
    return asked


@pytest.mark.parametrize("seed", range(5))
def test_the_model_takes_lloyds_steps(seed):
    X, w = draw(seed=seed), np.random.default_rng(seed).random(300)
    fit = climb(kmeans.KMeans(6, relocate=False), [table(X, w)], torch.from_numpy(X[:6].copy()), 8)
    centres, inertias = lloyd(X, X[:6], 8, w)
    np.testing.assert_allclose(fit.params.centres.numpy(), centres, atol=1e-12)
    np.testing.assert_allclose(fit.lower_bounds, -inertias, rtol=1e-12)


@pytest.mark.usefixtures("bounds_always")
@pytest.mark.parametrize("seed", range(5))
def test_bounds_change_nothing(seed):
    X = draw(400, 3, 8, seed)
    fit = climb(kmeans.KMeans(8, relocate=False), split(table(X), 150), torch.from_numpy(X[:8].copy()), 25)
    assert all(len(memory.nearest) == len(memory.label) for memory in fit.memory)
    centres, inertias = lloyd(X, X[:8], 25)
    np.testing.assert_allclose(fit.params.centres.numpy(), centres, atol=1e-11)
    np.testing.assert_allclose(fit.lower_bounds, -inertias, rtol=1e-12)


@pytest.mark.parametrize("relocated", [False, True])
def test_bounds_hold_after_every_move(relocated):
    X, rng = draw(500, 3, 7), np.random.default_rng(0)
    batch = table(X)
    centres = torch.from_numpy(X[:7].copy())
    label, nearest, other = kmeans.nearest_two(batch, centres, batch.squared_norms())
    norms = batch.squared_norms()
    memory = kmeans.Memory(centres, label, None, None, None, norms, None, None, nearest=nearest, other=other)
    moved = centres + torch.from_numpy(rng.normal(size=(7, 3)) * 0.3)
    moved[0] += 20.0 * relocated
    nearest, other = kmeans._moved_bounds(memory, moved)
    distance = np.sqrt(((X[:, None] - moved.numpy()) ** 2).sum(-1))
    own = distance[np.arange(500), label.numpy()]
    distance[np.arange(500), label.numpy()] = np.inf
    assert (own <= nearest.numpy()).all()
    sure = (nearest < other).numpy()
    assert (distance.min(1)[sure] > own[sure]).all()
    assert sure.any()


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("move", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("k", [6, 40])  # products of few columns are laid out otherwise
def test_a_sketch_is_sure_of_what_is_true_only(k, move, dtype, scale):
    rng = np.random.default_rng(k)
    X = wide(600, k)
    centres = np.array([X[place::k].mean(0) for place in range(k)]) + 0.5 * X[:k]
    centres += move * rng.normal(size=centres.shape)
    hidden = rng.normal(size=(200, 160)) * 1e-3  # rows half way between two centres, or nearly
    X[:200] = (centres[rng.integers(k, size=200)] + centres[rng.integers(k, size=200)]) / 2 + hidden
    X[200:220], X[220:230] = X[230], 0.0
    X, centres = (X * scale).astype(dtype), (centres * scale).astype(dtype)
    batch, C = table(X), torch.from_numpy(centres)
    norms = batch.squared_norms().double()
    basis = sketch.leading_directions(batch, torch.from_numpy(X[:k]), 16)
    index = torch.from_numpy(rng.permutation(600)[:500])
    found = kmeans.nearest_two_by_sketch(sketch.sketched(batch, basis, norms), C, norms, index, torch.zeros(600).long())
    label, nearest, other, unsure = (array.numpy() for array in found)
    distance = np.sqrt(((X[index][:, None].astype(float) - centres.astype(float)) ** 2).sum(-1))
    own = distance[np.arange(500), label]
    distance[np.arange(500), label] = np.inf
    assert (own <= nearest).all()
    assert (other <= distance.min(1)).all()
    assert (own < distance.min(1))[~unsure].all()
    if move < 1.0:  # a sketch that is never sure would have passed so far
        assert 0.03 < unsure.mean() < 0.9
        assert np.median(nearest / own) < 1.2


def test_a_sketch_cannot_tell_equal_centres_apart():
    X = wide()
    batch, centres = table(X), torch.from_numpy(X[[3, 3, 9]])
    norms = batch.squared_norms()
    few = sketch.sketched(batch, sketch.leading_directions(batch, centres, 16), norms)
    label, _, _, unsure = kmeans.nearest_two_by_sketch(few, centres, norms, slice(0, 700), torch.zeros(700).long())
    assert unsure[label < 2].all()
    assert not unsure.all()


@pytest.mark.parametrize("relocate", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("seed", range(3))
def test_sketches_change_nothing(seed, dtype, relocate, sketches_soon, monkeypatch):
    X = wide(1500, 8, seed, dtype, noise=0.2)
    X[100:200] = X[:100]
    start = X[:8].copy()
    start[5] += 100 * relocate  # nearest to nothing
    w = np.random.default_rng(seed).random(1500)
    model = kmeans.KMeans(8, relocate=relocate)
    fit = climb(model, split(table(X, w), 750), torch.from_numpy(start), 20)
    assert all(memory.sketch is not None for memory in fit.memory)
    rows, unsure = np.sum(sketches_soon, 0)
    assert 0 < unsure < rows / 2
    monkeypatch.setattr(kmeans, "_WIDE_ROW", 1000)
    plain = climb(model, split(table(X, w), 750), torch.from_numpy(start), 20)
    assert all(memory.sketch is None for memory in plain.memory)
    assert all(torch.equal(some.label, others.label) for some, others in zip(fit.memory, plain.memory))
    assert torch.equal(fit.params.centres, plain.params.centres)
    assert fit.lower_bounds == plain.lower_bounds
    if not relocate:
        centres, inertias = lloyd(X.astype(float), start, 20, w)
        np.testing.assert_allclose(fit.params.centres.numpy(), centres, atol=1e4 * np.finfo(dtype).eps)
        np.testing.assert_allclose(fit.lower_bounds, -inertias, rtol=1e2 * np.finfo(dtype).eps)


def test_a_memory_that_was_saved_goes_on_as_it_would(sketches_soon):
    X = wide(1500, 8, noise=0.2)
    model, batches = kmeans.KMeans(8), split(table(X), 750)
    fit = climb(model, batches, torch.from_numpy(X[:8].copy()), 12)
    for batch, memory in zip(batches, fit.memory, strict=True):
        loaded = model.loaded_memory(batch, model.saved_memory(memory))
        assert loaded.sketch is not None and memory.sketch is not None
        ways = [model.e_step(batch, fit.params, each) for each in (loaded, memory)]
        for (some, found), (others, wanted) in [ways]:
            assert all(torch.equal(*pair) for pair in zip(some[:4], others[:4], strict=True))
            for name in ("label", "nearest", "other", "S"):
                assert torch.equal(getattr(found, name), getattr(wanted, name)), name
    with pytest.raises(ValueError, match="labels are not those of these rows"):
        model.loaded_memory(batches[0].part(slice(0, 9)), model.saved_memory(fit.memory[0]))


def test_no_sketch_is_made_where_it_would_tell_little(sketches_soon):
    X = np.random.default_rng(0).normal(size=(1000, 160))  # varies as much in every direction
    fit = climb(kmeans.KMeans(20), [table(X)], torch.from_numpy(X[:20].copy()), 8)
    assert fit.memory[0].sketch is None
    assert len(sketches_soon) == 2  # it was tried in passes 3 and 5
    X = wide(dtype=np.float32)
    sparse = Rows(sp.csr_array(X * (X > 0)), CPU).batch(np.arange(700))
    for batch in (table(X[:, :100].copy()), table(X[:200]), sparse):
        fit = climb(kmeans.KMeans(6), [batch], batch.part(slice(0, 6)).dense(), 8)
        assert fit.memory[0].sketch is None


@pytest.mark.usefixtures("bounds_always")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("seed", range(5))
def test_the_bound_never_falls(seed, dtype):
    X = draw(500, 5, 6, seed).astype(dtype)
    w = np.random.default_rng(seed).integers(1, 4, 500).astype(float)
    fit = climb(kmeans.KMeans(9, relocate=False), split(table(X, w), 170), torch.from_numpy(X[:9].copy()), 40)
    assert np.diff(fit.lower_bounds).min() >= -10 * np.finfo(dtype).eps * abs(fit.lower_bounds[0])


def test_statistics_add_over_batches():
    X = draw()
    model, params = kmeans.KMeans(6), kmeans.Params(torch.from_numpy(X[:6].copy()))
    whole, _ = em.collect(model, [table(X)], params)
    parts, _ = em.collect(model, split(table(X), 77), params)
    for field in ("count", "N", "S", "squares"):
        torch.testing.assert_close(getattr(parts, field), getattr(whole, field), rtol=1e-12, atol=1e-12)


def test_sums_that_are_updated_equal_new_sums():
    X, w = draw(), np.random.default_rng(0).random(300)
    model, params, memory = kmeans.KMeans(6), kmeans.Params(torch.from_numpy(X[:6].copy())), None
    for _ in range(10):
        stats, memory = em.collect(model, [table(X, w)], params, memory)
        fresh, _ = em.collect(model, [table(X, w)], params)
        for field in ("count", "N", "S", "squares"):
            torch.testing.assert_close(getattr(stats, field), getattr(fresh, field), rtol=1e-11, atol=1e-11)
        params = model.m_step(stats, params)


def test_the_farthest_rows_of_a_union_do_not_depend_on_its_parts():
    X = draw(60, 2)
    far = torch.full((2,), 1e3, dtype=torch.float64)  # two clusters that no row is near to
    params = kmeans.Params(torch.cat([torch.from_numpy(X[:3].copy()), torch.stack([far, -far])]))
    model = kmeans.KMeans(5)
    whole = em.collect(model, [table(X)], params)[0].farthest
    parts = [model.e_step(batch, params)[0].farthest for batch in split(table(X), 7)]
    for order in ([0, 1, 2, 3, 4, 5, 6, 7, 8], [8, 3, 1, 0, 2, 7, 6, 5, 4]):
        union = sum((parts[i] for i in order[1:]), start=parts[order[0]])
        assert union.row.tolist() == whole.row.tolist()
        assert union.distance.tolist() == approx(whole.distance.tolist())
    distance = ((X[:, None] - params.centres[:3].numpy()) ** 2).sum(-1).min(1)
    assert whole.row.tolist() == np.argsort(-distance)[:2].tolist()


def test_sparse_rows_take_the_same_steps():
    X = draw() * (np.random.default_rng(0).random((300, 4)) < 0.5)
    w = np.random.default_rng(1).random(300)
    start = torch.from_numpy(X[:6] + 0.1)
    sparse = Rows(sp.csr_array(X), CPU, torch.float64, w).batch(np.arange(300))
    fits = [climb(kmeans.KMeans(6), split(batch, 90), start, 12) for batch in (sparse, table(X, w))]
    np.testing.assert_allclose(fits[0].lower_bounds, fits[1].lower_bounds, rtol=1e-12)
    torch.testing.assert_close(fits[0].params.centres, fits[1].params.centres, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("n", "d", "k"), [(5000, 3, 40), (700, 90, 300), (300, 500, 700), (1, 1, 1)])
def test_the_nearest_centre_is_found(n, d, k):
    rng = np.random.default_rng(0)
    X, centres = rng.normal(size=(n, d)), rng.normal(size=(k, d))
    label = kmeans.nearest_centre(table(X), torch.from_numpy(centres))
    distance = (X**2).sum(1)[:, None] - 2 * X @ centres.T + (centres**2).sum(1)
    assert (label.numpy() == distance.argmin(1)).all()
    own = kmeans.squared_distances(table(X), torch.from_numpy(centres), label)
    np.testing.assert_allclose(own.numpy(), distance.min(1), rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_what_runs_on_a_gpu_takes_the_same_steps(dtype, monkeypatch):
    X = draw(400, 3, 8).astype(dtype)
    start = np.vstack([X[:7], np.full((1, 3), 1e3, dtype)])  # one cluster to relocate
    expected = KMeansLite(8, init=start).fit(X)
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)  # torch alone, on tensors that are here after all
    model = KMeansLite(8, init=start).fit(X)
    np.testing.assert_allclose(model.cluster_centers_, expected.cluster_centers_, rtol=1e3 * np.finfo(dtype).eps)
    assert (model.labels_ == expected.labels_).all()
    start = start[:7]
    _, nearest, other = kmeans.nearest_two(table(X), torch.from_numpy(start), table(X).squared_norms().double())
    distance = np.sort(np.sqrt(((X[:, None] - start) ** 2).sum(-1)), axis=1)
    np.testing.assert_allclose(np.column_stack([nearest, other]), distance[:, :2], rtol=1e-3, atol=3e-2)


# -------------------------------------------------------------------------------------------------------------- seeds
@pytest.mark.parametrize("seeds", [seeding.spread_seeds, seeding.scalable_seeds, seeding.random_seeds])
def test_seeds_are_rows_and_of_clusters_far_apart_one_each(seeds):
    X = draw(400, 3, 5, spread=1e-3)
    found = seeds(table(X), 5, Noise(0)).numpy()
    assert all((X == seed).all(1).any() for seed in found)
    if seeds is not seeding.random_seeds:
        nearest = ((X[:, None] - found) ** 2).sum(-1).min(1)
        assert nearest.max() < 0.1


def test_seeds_of_greedy_k_means_plus_plus_are_as_good_as_scikit_learns():
    from sklearn.cluster import kmeans_plusplus

    X = draw(500, 4, 20, spread=0.5)

    def cost(centres):
        return ((X[:, None] - centres) ** 2).sum(-1).min(1).sum()

    ours = [cost(seeding.seed_centres(table(X).X, table(X).w, 20, Noise(seed)).numpy()) for seed in range(20)]
    theirs = [cost(kmeans_plusplus(X, 20, random_state=seed)[0]) for seed in range(20)]
    error = np.hypot(np.std(ours), np.std(theirs)) / np.sqrt(20)
    assert np.mean(ours) == approx(np.mean(theirs), abs=4 * error)


def test_k_means_parallel_seeks_among_few_rows_that_carry_all_weight(monkeypatch):
    X, w, asked = draw(2000, 3, 9), np.random.default_rng(0).random(2000), []
    spread = seeding.spread_seeds
    monkeypatch.setattr(seeding, "spread_seeds", lambda batch, k, noise: asked.append(batch) or spread(batch, k, noise))
    seeding.scalable_seeds(table(X, w), 9, Noise(0))
    (batch,) = asked
    assert 9 < len(batch.row) < 200  # some 2 K a round and one
    assert float(batch.w.sum()) == approx(w.sum())


@pytest.mark.parametrize("seeds", [seeding.spread_seeds, seeding.random_seeds])
def test_draws_follow_the_weights(seeds):
    X, w = np.arange(4.0)[:, None], np.array([1.0, 2.0, 3.0, 4.0])
    first = [float(seeds(table(X, w), 1, Noise(seed))[0, 0]) for seed in range(1000)]
    share = np.bincount(np.array(first, int), minlength=4) / 1000
    np.testing.assert_allclose(share, w / 10, atol=0.07)


# ---------------------------------------------------------------------------------------------- against scikit-learn
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array, sp.csr_matrix])
def test_the_same_start_gives_what_scikit_learn_finds(form, dtype, weighted):
    X = draw() + 5
    X = form((X * (X > 4)).astype(dtype))
    w = np.random.default_rng(0).random(300) if weighted else None
    start = np.array(X[:6].toarray() if sp.issparse(X) else X[:6])
    parameters = {"n_clusters": 6, "init": start, "n_init": 1, "tol": 0}
    ours = KMeansLite(**parameters).fit(X, sample_weight=w)
    theirs = KMeans(**parameters).fit(X, sample_weight=w)
    close = 1e-10 if dtype is np.float64 else 1e-5
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=close, atol=close)
    assert (ours.labels_ == theirs.labels_).all()
    assert ours.inertia_ == approx(theirs.inertia_, rel=close)
    assert ours.n_iter_ == theirs.n_iter_
    for name in ("cluster_centers_", "labels_"):
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype
    assert type(ours.inertia_) is float
    np.testing.assert_allclose(ours.transform(X), theirs.transform(X), rtol=100 * close, atol=100 * close)
    assert ours.transform(X).dtype == dtype
    assert ours.score(X, sample_weight=w) == approx(theirs.score(X, sample_weight=w), rel=close)
    assert (ours.get_feature_names_out() == [f"kmeanslite{i}" for i in range(6)]).all()


@pytest.mark.parametrize("tol", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("max_iter", [1, 3, 300])
def test_the_fit_stops_where_scikit_learns_does(tol, max_iter):
    X = draw(600, 3, 8, spread=2.0)
    parameters = {"n_clusters": 8, "init": X[:8], "n_init": 1, "tol": tol, "max_iter": max_iter}
    ours, theirs = KMeansLite(**parameters).fit(X), KMeans(**parameters).fit(X)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.inertia_ == approx(theirs.inertia_, rel=1e-12)
    assert len(ours.lower_bounds_) == ours.n_iter_


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
def test_an_empty_cluster_is_relocated_as_in_scikit_learn(form):
    X = draw()
    start = np.vstack([X[:4], np.full((1, 4), 1e3)])
    parameters = {"n_clusters": 5, "init": start, "n_init": 1}
    for max_iter in (1, 100):
        ours, theirs = (cls(**parameters, max_iter=max_iter).fit(form(X)) for cls in (KMeansLite, KMeans))
        np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, atol=1e-10)
        assert (np.bincount(ours.labels_, minlength=5) > 0).all()


def test_several_empty_clusters_are_given_the_farthest_rows():
    X = draw()
    start = np.vstack([X[:4], np.full((1, 4), 1e3), np.full((1, 4), -1e3)])
    ours, theirs = (cls(6, init=start, n_init=1, max_iter=1).fit(X) for cls in (KMeansLite, KMeans))
    for cls in (ours, theirs):  # which of the rows goes to which cluster is nobody's promise
        cls.cluster_centers_ = cls.cluster_centers_[np.lexsort(cls.cluster_centers_.T)]
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, atol=1e-10)


@pytest.mark.parametrize("init", ["random", "k-means++", "k-means||"])
def test_many_starts_end_as_low_as_scikit_learns(init):
    X = draw(300, 2, 8, spread=0.7)
    ours = KMeansLite(8, init=init, n_init=30, random_state=0).fit(X)
    assert ours.inertia_ <= KMeans(8, n_init=30, random_state=0).fit(X).inertia_ * (1 + 5e-3)


def test_large_fits_start_from_a_sample_and_end_as_low():
    X = draw(25_000, 4, 10, spread=1.5)
    ours = [KMeansLite(10, random_state=seed).fit(X).inertia_ for seed in range(3)]
    theirs = [KMeans(10, random_state=seed).fit(X).inertia_ for seed in range(3)]
    assert np.mean(ours) <= np.mean(theirs) * (1 + 2e-2)


@pytest.mark.parametrize(
    ("parameters", "rows", "message"),
    [
        ({"n_clusters": 9}, 8, "n_samples=8 should be >= n_clusters=9"),
        ({"init": np.zeros((7, 4))}, 20, r"The shape of the initial centers \(7, 4\) does not match the number of c"),
        ({"init": np.zeros((8, 3))}, 20, r"The shape of the initial centers \(8, 3\) does not match the number of f"),
        ({"init": lambda X, k, random_state: X[:2]}, 20, "The shape of the initial centers"),
        ({"init": np.full((8, 4), np.nan)}, 20, "NaN"),
        ({"init": "k-means"}, 20, "The 'init' parameter"),
        ({"n_init": 0}, 20, "The 'n_init' parameter"),
        ({"algorithm": "auto"}, 20, "The 'algorithm' parameter"),
    ],
)
@pytest.mark.parametrize("estimator", [KMeans, KMeansLite])
def test_wrong_parameters_are_refused_in_the_same_words(estimator, parameters, rows, message):
    with pytest.raises(ValueError, match=message):
        estimator(**parameters).fit(draw(rows))


@pytest.mark.parametrize("estimator", [KMeans, KMeansLite])
def test_several_starts_from_given_centres_are_warned_of(estimator):
    X = draw()
    with pytest.warns(RuntimeWarning, match=f"performing only one init in {estimator.__name__} instead of n_init=5"):
        estimator(3, init=X[:3], n_init=5).fit(X)


@pytest.mark.parametrize("estimator", [KMeans, KMeansLite])
def test_fewer_distinct_rows_than_clusters_are_warned_of(estimator):
    X = np.repeat(draw(3), 4, axis=0)
    message = r"Number of distinct clusters \(3\) found smaller than n_clusters \(5\). Possibly due to duplicate points"
    with pytest.warns(ConvergenceWarning, match=message):
        model = estimator(5, random_state=0).fit(X)
    assert model.inertia_ == approx(0, abs=1e-25)
    assert np.isfinite(model.cluster_centers_).all()


@pytest.mark.parametrize("init", ["random", "k-means||"])
def test_other_starts_survive_duplicates(init):
    with pytest.warns(ConvergenceWarning):
        model = KMeansLite(5, init=init, random_state=0).fit(np.repeat(draw(3), 4, axis=0))
    assert model.inertia_ == approx(0, abs=1e-25)


# --------------------------------------------------------------------------------------------------------------- laws
def partitions(n, k):
    return (labels for labels in itertools.product(range(k), repeat=n) if len(set(labels)) == k)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_optimum_is_reached_and_never_beaten(k):
    X = draw(8, 2, seed=3)

    def cost(labels):
        labels = np.array(labels)
        return sum(((X[labels == c] - X[labels == c].mean(0)) ** 2).sum() for c in range(k))

    best = min(map(cost, partitions(8, k)))
    found = [KMeansLite(k, random_state=seed).fit(X).inertia_ for seed in range(10)]
    assert min(found) >= best * (1 - 1e-12)
    assert KMeansLite(k, n_init=50, random_state=0).fit(X).inertia_ == approx(best, rel=1e-12)


def test_labels_and_inertia_are_those_of_the_final_centres():
    X, w = draw(400, 3, 6), np.random.default_rng(0).random(400)
    w[:20] = 0
    for max_iter in (1, 2, 300):
        model = KMeansLite(6, max_iter=max_iter, random_state=0).fit(X, sample_weight=w)
        distance = ((X[:, None] - model.cluster_centers_) ** 2).sum(-1)
        assert (model.labels_ == distance.argmin(1)).all()
        assert (model.labels_ == model.predict(X)).all()
        assert model.inertia_ == approx(w @ distance.min(1), rel=1e-12)
        assert model.score(X, sample_weight=w) == -model.inertia_
        np.testing.assert_allclose(model.transform(X), np.sqrt(distance), rtol=1e-9)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
def test_weights_equal_repeats(form):
    rng = np.random.default_rng(0)
    X, w = draw(200), rng.integers(0, 4, 200)
    model = KMeansLite(5, random_state=0)
    weighted = clone(model).fit(form(X), sample_weight=w)
    repeated = clone(model).fit(form(np.repeat(X, w, axis=0)))
    np.testing.assert_allclose(weighted.cluster_centers_, repeated.cluster_centers_, rtol=1e-12)
    assert (np.repeat(weighted.labels_, w) == repeated.labels_).all()
    assert weighted.n_iter_ == repeated.n_iter_
    assert weighted.inertia_ == approx(repeated.inertia_, rel=1e-12)


def test_weights_equal_repeats_in_fits_too_large_to_merge_rows():
    X = draw(20_000, 16, 5)
    w = np.random.default_rng(0).integers(0, 3, len(X))
    model = KMeansLite(5, init=X[:5])
    weighted, repeated = model.fit(X, sample_weight=w), clone(model).fit(np.repeat(X, w, axis=0))
    np.testing.assert_allclose(weighted.cluster_centers_, repeated.cluster_centers_, rtol=1e-9)
    assert weighted.n_iter_ == repeated.n_iter_


@pytest.mark.parametrize("unit", [1e-320, 1e-46, 3e-5, 1e38, 1e300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_only_ratios_of_weights_matter(dtype, unit):
    X, w = draw(200).astype(dtype), np.random.default_rng(0).choice([0.5, 1.0, 2.0], 200)
    model = KMeansLite(5, random_state=0)
    plain, scaled = clone(model).fit(X, sample_weight=w), clone(model).fit(X, sample_weight=w * unit)
    np.testing.assert_allclose(scaled.cluster_centers_, plain.cluster_centers_, rtol=1e-5)
    assert scaled.inertia_ == approx(plain.inertia_ * unit, rel=2e-3 if unit < 1e-300 else 1e-5)
    assert scaled.score(X, sample_weight=w * unit) == -scaled.inertia_
    for one, other in ((plain, scaled), (clone(model), clone(model))):
        for half in (X[:100], X[100:]):
            one.partial_fit(half, sample_weight=w[:100])
            other.partial_fit(half, sample_weight=w[:100] * unit)
        rtol = 2e-3 if unit < 1e-300 else 1e-5
        np.testing.assert_allclose(other.cluster_centers_, one.cluster_centers_, rtol=rtol)


def test_batches_and_the_order_of_rows_change_nothing():
    X = draw(500, 3, 6)
    model = KMeansLite(6, random_state=0, batch_size=500).fit(X)
    order = np.random.default_rng(0).permutation(500)
    other = KMeansLite(6, random_state=0, batch_size=37).fit(X[order])
    np.testing.assert_allclose(other.cluster_centers_, model.cluster_centers_, rtol=1e-10)
    assert (other.labels_ == model.labels_[order]).all()


@pytest.mark.parametrize("scale", [1e8, 1e-8])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_scale_and_offset_change_nothing(scale, offset):
    X = draw(300, 3, 5)
    start = X[:5].copy()
    plain = KMeansLite(5, init=start).fit(X)
    moved = KMeansLite(5, init=scale * (start + offset)).fit(scale * (X + offset))
    assert (plain.labels_ == moved.labels_).all()
    assert moved.n_iter_ == plain.n_iter_
    assert moved.inertia_ == approx(plain.inertia_ * scale**2, rel=1e-9)


def test_degenerate_shapes():
    X = draw(6, 3)
    each = KMeansLite(6, random_state=0).fit(X)
    assert each.inertia_ == approx(0, abs=1e-28)
    assert sorted(each.labels_) == list(range(6))
    one = KMeansLite(1, random_state=0).fit(X)
    np.testing.assert_allclose(one.cluster_centers_[0], X.mean(0))
    assert KMeansLite(2, random_state=0).fit(X[:, :1]).cluster_centers_.shape == (2, 1)
    constant = KMeansLite(2, random_state=0).fit(np.column_stack([X, np.full(6, 7.0)]))
    np.testing.assert_allclose(constant.cluster_centers_[:, 3], 7.0)
    with pytest.warns(ConvergenceWarning, match="distinct clusters"):
        assert KMeansLite(2, random_state=0).fit(np.ones((5, 2))).inertia_ == 0
    assert KMeansLite(1).fit(X[:1]).inertia_ == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
def test_what_is_not_finite_is_refused(form, bad):
    X = draw(20)
    X[3, 1] = bad
    with pytest.raises(ValueError, match="NaN|infinity"):
        KMeansLite(2).fit(form(X))
    model = KMeansLite(2, random_state=0).fit(draw(20))
    for method in (model.predict, model.transform, model.score, model.partial_fit):
        with pytest.raises(ValueError, match="NaN|infinity"):
            method(form(X))


def test_stored_zeros_and_duplicate_entries_of_sparse_rows_count_as_what_they_are():
    X = draw(50) * (draw(50, seed=1) > 0)
    canonical = sp.csr_array(X)
    halves = np.repeat(canonical.data / 2, 2)
    doubled = sp.csr_array((halves, np.repeat(canonical.indices, 2), 2 * canonical.indptr), shape=X.shape)
    before = doubled.data.copy()
    model, plain = KMeansLite(3, init=X[:3]).fit(doubled), KMeansLite(3, init=X[:3]).fit(X)
    np.testing.assert_allclose(model.cluster_centers_, plain.cluster_centers_, atol=1e-12)
    assert model.inertia_ == approx(plain.inertia_, rel=1e-12)
    assert (doubled.data == before).all()


# --------------------------------------------------------------------------------------------------------- partial fit
def test_partial_fit_weighs_each_cluster_by_all_that_it_has_had():
    X, w = draw(90, 2, 3, spread=0.2), np.random.default_rng(0).random(90)
    start = KMeansLite(3, random_state=0).fit(X).cluster_centers_
    model = KMeansLite(3, init=start)
    for part in np.split(np.arange(90), 3):
        model.partial_fit(X[part], sample_weight=w[part])
    label = ((X[:, None] - start) ** 2).sum(-1).argmin(1)
    means = [np.average(X[label == k], axis=0, weights=w[label == k]) for k in range(3)]
    np.testing.assert_allclose(model.cluster_centers_, means, rtol=1e-12)
    assert model.n_iter_ == 3
    assert (model.labels_ == model.predict(X[60:])).all()


def test_partial_fit_after_fit_adds_to_the_weights_of_fit():
    X = draw(100, 2, 1)
    model = KMeansLite(1).fit(X[:60], sample_weight=np.full(60, 3.0)).partial_fit(X[60:])
    np.testing.assert_allclose(model.cluster_centers_[0], (3 * X[:60].sum(0) + X[60:].sum(0)) / 220, rtol=1e-12)


@pytest.mark.parametrize("n_clusters", [2, 5])
def test_partial_fit_refuses_another_number_of_clusters(n_clusters):
    X = draw(60, 2, 3)
    model = KMeansLite(3, random_state=0).fit(X)
    before = model.cluster_centers_
    with pytest.raises(ValueError, match=f"has 3 clusters and cannot go on with n_clusters={n_clusters}; fit a clone"):
        model.set_params(n_clusters=n_clusters).partial_fit(X)
    assert model.cluster_centers_ is before
    assert len(model.predict(X)) == 60  # predictions go on with what was fitted


def test_partial_fit_finds_what_fit_finds_and_goes_on_from_it():
    X = draw(3000, 3, 5, spread=0.3)
    fitted = KMeansLite(5, n_init=5, random_state=0).fit(X)
    model = KMeansLite(5, random_state=0)
    for part in np.split(X, 30):
        model.partial_fit(part)
    assert -model.score(X) <= 3 * fitted.inertia_
    before = fitted.cluster_centers_.copy()
    fitted.partial_fit(X[:1] + 1)
    moved = np.flatnonzero((fitted.cluster_centers_ != before).any(1))
    assert len(moved) <= 1  # one row pulls one centre, by one share of a cluster's weight
    assert np.abs(fitted.cluster_centers_ - before).max() < 0.1
    with pytest.raises(ValueError, match="should be >= n_clusters"):
        KMeansLite(5).partial_fit(X[:4])


# ----------------------------------------------------------------------------------------------------------- the face
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("init", ["random", "k-means||"])
def test_checks_pass_from_other_starts_too(init):
    model = KMeansLite(init=init, n_init=2)
    for check in (
        estimator_checks.check_sample_weight_equivalence_on_dense_data,
        estimator_checks.check_sample_weight_equivalence_on_sparse_data,
        estimator_checks.check_fit_idempotent,
        estimator_checks.check_methods_subset_invariance,
    ):
        check("KMeansLite", clone(model))


def test_a_callable_is_given_the_rows_and_a_generator():
    X, seen = draw() + 100, []

    def init(rows, n_clusters, random_state):
        seen.append(random_state.randint(2**31))
        np.testing.assert_array_equal(rows, X)
        return rows[random_state.permutation(len(rows))[:n_clusters]]

    model = KMeansLite(4, init=init, n_init=3, random_state=0).fit(X)
    assert len(set(seen)) == 3
    np.testing.assert_array_equal(clone(model).fit(X).cluster_centers_, model.cluster_centers_)


def test_n_init_auto_is_ten_random_starts_or_one_good_one():
    X, calls = draw(), []
    KMeansLite(3, init=lambda X, k, random_state: calls.append(0) or X[:k]).fit(X)
    assert len(calls) == 10
    ten, one = (KMeansLite(6, init="random", n_init=n, random_state=0).fit(X).inertia_ for n in ("auto", 1))
    assert ten == KMeansLite(6, init="random", n_init=10, random_state=0).fit(X).inertia_ <= one * (1 + 1e-12)


def test_nothing_of_the_input_is_changed():
    X = draw()
    start, w = X[:3].copy(), np.arange(300.0)
    before = X.copy(), start.copy(), w.copy()
    KMeansLite(3, init=start, copy_x=False).fit(X, sample_weight=w).partial_fit(X, sample_weight=w)
    for array, was in zip((X, start, w), before):
        np.testing.assert_array_equal(array, was)


def test_read_only_and_odd_layouts():
    X = draw()
    expected = KMeansLite(3, init=X[:3]).fit(X).labels_
    frozen = X.copy()
    frozen.flags.writeable = False
    for other in (frozen, np.asfortranarray(X), X[:, ::-1][:, ::-1], X.astype(">f8"), X.tolist()):
        model = KMeansLite(3, init=X[:3]).fit(other, sample_weight=np.broadcast_to(2.0, 300))
        assert (model.labels_ == expected).all()
        assert (model.predict(other) == expected).all()


def test_state_is_arrays_and_survives_pickling_and_cloning():
    X = draw().astype(np.float32)
    model = KMeansLite(4, random_state=0).fit(X)
    state = {name: type(value) for name, value in vars(model).items() if name.endswith("_") or name == "_weights"}
    assert set(state.values()) <= {np.ndarray, int, float, str}
    assert b"torch" not in pickle.dumps(model)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.transform(X), model.transform(X))
    with pytest.raises(NotFittedError):
        clone(model).predict(X)
    np.testing.assert_array_equal(clone(model).fit(X).cluster_centers_, model.cluster_centers_)


def test_a_failed_fit_leaves_the_estimator_as_it_was():
    X = draw()
    model = KMeansLite(4, random_state=0).fit(X)
    before = {name: value for name, value in vars(model).items()}
    model.set_params(init=lambda X, k, random_state: X[:1])
    for bad in (X, X[:, :2]):
        with pytest.raises(ValueError, match="initial centers"):
            model.fit(bad)
    assert vars(model) == before | {"init": model.init}


def test_in_a_pipeline_under_a_grid_search():
    X = draw(200, 4, 4, spread=0.1)
    search = GridSearchCV(make_pipeline(PCA(3), KMeansLite(random_state=0)), {"kmeanslite__n_clusters": [1, 4]}, cv=3)
    search.fit(X)
    assert search.best_params_ == {"kmeanslite__n_clusters": 4}
    assert search.predict(X).shape == (200,)
    assert (search.transform(X) >= 0).all()


class Recorder:
    """A callback that keeps what it is shown, and may stop the fit."""

    def __init__(self, stop_after=None):
        self.stop_after, self.inertias = stop_after, []

    def setup(self, estimator, context): ...

    def teardown(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None, metadata=None): ...

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None):
        if context.task_name == "iteration":
            self.inertias.append(fitted_estimator.inertia_)
            assert fitted_estimator.score(X) == -self.inertias[-1]
        return self.stop_after == len(self.inertias)


def test_callbacks_see_every_iteration_and_may_stop_the_fit():
    X = draw(400, 3, 8, spread=2.0)
    seen = Recorder()
    model = KMeansLite(8, init=X[:8], tol=0).set_callbacks(seen).fit(X)
    assert len(seen.inertias) == model.n_iter_ > 4
    assert np.diff(seen.inertias).max() <= 1e-9
    stopped = KMeansLite(8, init=X[:8], tol=0).set_callbacks(Recorder(stop_after=3)).fit(X)
    assert stopped.n_iter_ == 3
    assert (stopped.labels_ == stopped.predict(X)).all()


def test_verbose_tells_the_inertia(capsys):
    X = draw()
    KMeansLite(3, random_state=0).fit(X)
    assert capsys.readouterr().out == ""
    model = KMeansLite(3, random_state=0, verbose=2).fit(X)
    first, *lines, end = capsys.readouterr().out.splitlines()
    assert first == "[KMeansLite] Initialization complete"
    assert len(lines) == model.n_iter_
    assert all(re.match(r"\[KMeansLite\] Iteration [0-9]+, inertia [0-9]", line) for line in lines)
    assert end.startswith(f"[KMeansLite] ended: Converged at iteration {model.n_iter_}: ")


def test_random_state_repeats_and_none_does_not():
    X = draw(300, 2, 12, spread=2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, again = (KMeansLite(12, random_state=3).fit(X) for _ in range(2))
        fresh = {KMeansLite(12).fit(X).inertia_ for _ in range(8)}
    np.testing.assert_array_equal(first.cluster_centers_, again.cluster_centers_)
    assert len(fresh) > 1
