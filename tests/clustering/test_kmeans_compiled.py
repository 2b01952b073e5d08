"""K-means by scikit-learn's compiled steps: the same as without them, the same twice, on threads of its own."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_info

from skvae import KMeansLite, _compat
from skvae._tensors import Noise, Rows, TableBatch, uniform_at
from skvae.engines import em
from skvae.estimators._checks import draw_seed
from skvae.models.clustering import kmeans, kmeans_compiled
from skvae.models.clustering import kmeans_seeding as seeding

CPU = torch.device("cpu")
FORMS = {"dense": np.asarray, "sparse": sp.csr_array}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
every_dtype = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def draw(n=600, d=4, k=6, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return (3 * rng.normal(size=(k, d))[rng.integers(k, size=n)] + rng.normal(size=(n, d))).astype(dtype)


def table(X, w):
    X = torch.from_numpy(X)
    return TableBatch(X, torch.from_numpy(w).to(X.dtype), torch.arange(len(X)))


@pytest.fixture
def no_kernels(monkeypatch):
    """As with a release of scikit-learn that has them no more."""
    monkeypatch.setattr(_compat, "lloyd_kernels", lambda: None)
    monkeypatch.setattr(kmeans_compiled, "lloyd_kernels", lambda: None)


def climb(model, batch, start):
    plan = em.Plan(20, lambda report: False, 1.0)
    return em.ascend(model, [batch], [kmeans.Params(torch.from_numpy(start.copy()))], plan=plan)


@every_dtype
@pytest.mark.parametrize("relocated", [0, 1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_compiled_steps_are_lloyds_steps(seed, relocated, dtype):
    X, w = draw(seed=seed, dtype=dtype), np.random.default_rng(seed).random(600) + 0.1
    start = X[:6].copy()
    start[:relocated] += 100  # nearest to nothing
    batch = table(X, w)
    with _compat.one_blas_thread():
        ours = climb(kmeans_compiled.CompiledKMeans(batch, 6), batch, start)
        plain = climb(kmeans.KMeans(6), batch, start)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(ours.params.centres, plain.params.centres, atol=1e3 * eps)
    np.testing.assert_allclose(ours.lower_bounds, plain.lower_bounds, rtol=1e2 * eps)
    assert np.diff(ours.lower_bounds[2:]).min() >= -1e2 * eps * abs(ours.lower_bounds[2])


@every_form
@every_dtype
@pytest.mark.parametrize(("n", "d", "k"), [(700, 3, 40), (300, 60, 70), (1, 1, 1)])
def test_kernels_find_the_nearest_centre_that_torch_finds(n, d, k, dtype, form, no_kernels, monkeypatch):
    rng = np.random.default_rng(0)
    X, centres = rng.normal(size=(n, d)).astype(dtype), torch.from_numpy(rng.normal(size=(k, d)).astype(dtype))
    rows = form(X)
    sparse = sp.issparse(rows)
    batch = Rows(rows, CPU, centres.dtype, np.ones(n)).batch(np.arange(n)) if sparse else table(X, np.ones(n))
    plain = kmeans.nearest_centre(batch, centres)
    monkeypatch.undo()
    found = kmeans.nearest_centre(batch, centres)
    assert torch.equal(found, plain)


@every_form
def test_fits_without_kernels_are_the_same(form, request):
    X = form(draw(2000, 5, 9))
    expected = KMeansLite(9, random_state=0).fit(X)
    request.getfixturevalue("no_kernels")
    found = KMeansLite(9, random_state=0).fit(X)
    assert not kmeans_compiled.CompiledKMeans.suits(table(draw(), np.ones(600)), 6)
    np.testing.assert_array_equal(found.labels_, expected.labels_)
    np.testing.assert_allclose(found.cluster_centers_, expected.cluster_centers_, rtol=1e-12)


def test_which_steps_run_is_decided_by_the_rows(monkeypatch):
    X = draw(40_000, 64)
    few, wide = table(X[:600], np.ones(600)), table(X, np.ones(40_000))
    sparse = Rows(sp.csr_array(X * (X > 3)), CPU, few.w.dtype).batch(np.arange(40_000))
    suits = kmeans_compiled.CompiledKMeans.suits
    assert suits(few, 64)
    assert not suits(wide, 64)  # bounds may pay
    assert suits(sparse, 64)  # a row stores few of its cells
    monkeypatch.setattr(kmeans_compiled, "lloyd_threads", lambda *args: 3)
    assert not suits(few, 64)  # sums of three threads would be added in any order


CHILD = """
import pathlib, re
import numpy as np
from skvae import KMeansLite

X = np.random.default_rng(0).normal(size=(9000, 6)).astype(np.float32)
print(*{KMeansLite(9, random_state=0).fit(X).cluster_centers_.tobytes().hex() for _ in range(3)})

X = np.random.default_rng(0).random((60000, 2)) * 5
status = pathlib.Path("/proc/self/status")
megabytes = lambda name: int(re.search(name + r":\\s*(\\d+)", status.read_text())[1]) / 1024
KMeansLite(2, max_iter=1, random_state=0).fit(X)
before = megabytes("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")
KMeansLite(500, max_iter=1, random_state=0).fit(X)
print(megabytes("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def child():
    """Centres of fits in another process of two threads, and the memory that many seeds take in it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "2"}
    run = subprocess.run([sys.executable, "-c", CHILD], env=environment, text=True, check=True, capture_output=True)
    return run.stdout.splitlines()


def test_the_same_seed_gives_the_same_bits_in_another_process(child):
    X = np.random.default_rng(0).normal(size=(9000, 6)).astype(np.float32)
    assert child[0] == KMeansLite(9, random_state=0).fit(X).cluster_centers_.tobytes().hex()


def test_the_threads_of_others_are_as_before():
    before = [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info()], torch.get_num_threads()
    X = draw()
    model = KMeansLite(6, random_state=0).fit(X)
    model.predict(X)
    model.score(X)
    with pytest.raises(ValueError, match="n_samples"):
        KMeansLite(1000).fit(X)
    after = [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info()], torch.get_num_threads()
    assert after == before


# -------------------------------------------------------------------------------------------------------------- seeds
@pytest.mark.parametrize("random_state", [0, 7, np.int64(5), 2**32 - 1])
def test_the_generator_that_is_kept_draws_what_a_new_one_draws(random_state):
    expected = np.random.RandomState(random_state).randint(2**31 - 1)
    assert [draw_seed(random_state) for _ in range(2)] == [expected, expected]


def seeds_of(rows, k=30):
    dtype = torch.float64 if sp.issparse(rows) else torch.from_numpy(rows[:0]).dtype
    n = rows.shape[0]
    batch = Rows(rows, CPU, dtype, np.ones(n)).batch(np.arange(n)) if sp.issparse(rows) else table(rows, np.ones(n))
    return seeding.spread_seeds(batch, k, Noise(1)).double().numpy()


@pytest.mark.parametrize(("n", "d"), [(600, 4), (9000, 7), (9000, 150), (6000, 200)])
@pytest.mark.parametrize("density", [1, 0.01])
def test_seeds_do_not_depend_on_dtype_or_form(n, d, density):
    X = draw(n, d, dtype=np.float32) * (np.random.default_rng(0).random((n, d)) < density)
    expected = seeds_of(X.astype(np.float64))
    np.testing.assert_array_equal(seeds_of(X), expected)
    np.testing.assert_array_equal(seeds_of(sp.csr_array(X)), expected)


@pytest.mark.parametrize("d", [150, 200])  # of which only the second are measured ahead
def test_the_number_of_threads_changes_no_seed(d, monkeypatch):
    started, before = [], threading.active_count()

    class Counted(seeding.Workers):
        def __init__(self, n_workers):
            started.append(n_workers)
            super().__init__(n_workers)

    monkeypatch.setattr(seeding, "Workers", Counted)
    monkeypatch.setattr(seeding, "_WORTH_A_THREAD", 1)
    X, found = draw(8000, d, dtype=np.float32), []
    for n_threads in (1, 2, 3):
        monkeypatch.setattr(seeding, "threads_to_share", lambda n=n_threads: n)
        found += [seeds_of(X), seeds_of(X.astype(np.float64))]
    assert started == [1, 1, 2, 2] and threading.active_count() == before
    for seeds in found[1:]:
        np.testing.assert_array_equal(seeds, found[0])


def test_rows_measured_ahead_are_drawn_as_often():
    X = np.array([0.0, 1.0, 3.0, 7.0, 7.5])[:, None]
    batch, n, k = table(X, np.array([1.0, 2.0, 1.0, 0.5, 1.0])), 1500, 4
    turns = [np.zeros((k, len(X))) for _ in range(2)]  # how often each row is drawn in each turn
    for seed in range(n):
        keys = Noise(seed).keys(np.arange(k))
        turns[0][range(k), seeding._spread_on_cpu(batch, uniform_at(keys[:, None], np.arange(2)))] += 1
        turns[1][range(k), seeding._spread_ahead(batch, Noise(n + seed).keys(np.arange(k)), 2, 6)] += 1
    share = (turns[0] + turns[1]) / (2 * n)
    error = np.sqrt(2 * share * (1 - share) / n)
    assert (abs(turns[0] - turns[1]) / n <= 4 * error).all()


def test_seeds_measured_ahead_come_from_few_distinct_rows_too():
    X = np.repeat(draw(3, 200), 2000, axis=0)
    assert len(np.unique(seeds_of(X), axis=0)) == 3


def test_seeds_on_a_device_are_those_of_the_cpu():
    batch = table(draw(900, 5), np.random.default_rng(0).random(900))
    draws = np.random.default_rng(1).random((12, 4))
    expected = seeding._spread_on_cpu(batch, draws)
    assert seeding._spread_on_device(batch, torch.from_numpy(draws)).tolist() == expected


def test_draws_follow_weight_times_mass_in_urns_small_and_large():
    rng = np.random.default_rng(0)
    for n in (300, 10_000):
        urn = seeding._Urn(w := rng.random(n))
        urn.mass[:] = rng.random(n) * (rng.random(n) < 0.5)
        uniform = rng.random(5000)
        reached = (w * urn.mass).cumsum()
        np.testing.assert_array_equal(urn.draw(uniform), reached.searchsorted(uniform * reached[-1], side="right"))
        urn.mass[:] = 0
        np.testing.assert_array_equal(urn.draw(uniform), (uniform * n).astype(int))


def test_many_seeds_take_little_memory(child):
    assert float(child[1]) < 40  # it was 1,463 megabytes


# --------------------------------------------------------------------------------------------------------- precision
def test_rows_that_float32_cannot_tell_apart_are_kept_apart_in_float64():
    X = np.repeat(draw(8, 3), 2, axis=0)
    X[1::2] *= 1 + 1e-12
    times = np.arange(16) % 3
    fits = [
        KMeansLite(3, random_state=0).fit(X, sample_weight=times),
        KMeansLite(3, random_state=0).fit(np.repeat(X, times, axis=0)[::-1]),
    ]
    np.testing.assert_array_equal(fits[0].cluster_centers_, fits[1].cluster_centers_)


@every_form
@every_dtype
def test_the_distance_of_a_row_to_itself_is_0(form, dtype):
    X = (draw(20, 5) + 1000).astype(dtype)
    model = KMeansLite(20, init=X, max_iter=1).fit(form(X))
    assert (model.transform(form(model.cluster_centers_)).diagonal() == 0).all()
    assert model.transform(form(model.cluster_centers_ * dtype(1 + 1e-6))).min() > 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n", "k"), [(300, 8), (9000, 6)])
def test_the_same_seed_ends_at_the_same_inertia_in_every_dtype_and_form(seed, n, k):
    X = make_blobs(n, 30, centers=k, random_state=seed)[0]  # in float32 it is rounded
    forms = (X, X.astype(np.float32), sp.csr_array(X), sp.csr_array(X.astype(np.float32)))
    fits = [KMeansLite(k, random_state=seed).fit(rows) for rows in forms]
    inertia = [fit.inertia_ for fit in fits]
    np.testing.assert_allclose(inertia, inertia[0], rtol=1e-4)
    for fit in fits[1:]:
        np.testing.assert_array_equal(fit.labels_, fits[0].labels_)


@every_dtype
@pytest.mark.parametrize("n", [400, 100_000])
def test_sparse_rows_far_from_zero_are_clustered(n, dtype, recwarn):
    X, y = make_blobs(n, 3, centers=[[0, 0, 9], [9, 0, 0], [0, 9, 0], [9, 9, 9]], cluster_std=0.5, random_state=0)
    X = sp.csr_array((X + 1e5).astype(dtype))
    model = KMeansLite(4, random_state=0).fit(X)
    assert adjusted_rand_score(y, model.labels_) == 1
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    assert not recwarn.list


# ------------------------------------------------------------------------------------------------------------- weights
def test_negative_weights_are_refused_in_scikit_learns_words(recwarn):
    X = draw(50)
    weight = -np.ones(50)
    model = KMeansLite(3, random_state=0).fit(X)
    for method in (model.fit, model.partial_fit, model.fit_predict, model.fit_transform, model.score):
        with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight`"):
            method(X, sample_weight=weight)
    assert not recwarn.list
