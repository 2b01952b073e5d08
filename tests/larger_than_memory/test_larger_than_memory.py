"""Memory maps are fitted without a copy, and as the same rows in memory are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone

from skvae import FactorAnalysisEM, GaussianMixtureEM, KMeansLite, MultVAERecommender, VAETransformer
from skvae._tensors import _block_sizes, is_mapped
from skvae.datasets import make_interactions
from skvae.estimators.clustering import _lloyd
from skvae.tables import weights

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N_BYTES = 84_000_000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is known on Linux only")
def test_no_fit_and_no_prediction_copies_a_memory_map(tmp_path):
    script = Path(__file__).with_name("mapped_fits.py")
    command = [sys.executable, str(script), str(tmp_path), str(N_BYTES)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert run.returncode == 0, run.stderr
    growth = json.loads(run.stdout)
    assert len(growth) == 9
    assert {name: n for name, n in growth.items() if n > N_BYTES / 2} == {}


@pytest.fixture
def mapped(tmp_path, monkeypatch):
    """A function from an array or a CSR array to the same in a memory map that counts as large."""
    monkeypatch.setattr(_block_sizes, "_LEAST_BYTES", 2**16)
    monkeypatch.setattr(_block_sizes, "_CELLS_AT_ONCE", 2**15)

    def as_map(array, name="rows"):
        if sp.issparse(array):
            parts = (as_map(getattr(array, part), part) for part in ("data", "indices", "indptr"))
            return sp.csr_array(tuple(parts), shape=array.shape)
        np.save(tmp_path / f"{name}.npy", array)
        return np.load(tmp_path / f"{name}.npy", mmap_mode="r")

    return as_map


def rows(dtype=np.float32):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(11_000, 2)) + 4 * rng.integers(0, 2, (11_000, 1))
    return (np.tanh(z) @ rng.normal(size=(2, 25)) * 3 + 5 + rng.normal(size=(11_000, 25))).astype(dtype)


def clicks():
    return sp.csr_array(make_interactions(1500, 200, random_state=0), dtype=np.float64)


FEW = {"max_iter": 2, "random_state": 0}
TABLE_MODELS = [
    (KMeansLite(3, **FEW), ["cluster_centers_", "labels_", "inertia_", "_weights"]),
    (KMeansLite(3, init="k-means||", **FEW), ["cluster_centers_", "labels_"]),
    (GaussianMixtureEM(2, **FEW), ["means_", "covariances_", "lower_bounds_"]),
    (FactorAnalysisEM(2), ["components_", "noise_variance_", "mean_"]),
    (VAETransformer(2, **FEW | {"max_iter": 1}), ["lower_bounds_", "kl_per_dimension_", "validation_scores_"]),
    (VAETransformer(2, early_stopping=False, batch_size=2048, **FEW), ["lower_bounds_", "noise_variance_"]),
]


def close(a, b, share=2e-6):
    a, b = np.asarray(a, float), np.asarray(b, float)
    return a.shape == b.shape and np.abs(a - b).max(initial=0) <= share * (1 + np.abs(b).max(initial=0))


@pytest.mark.parametrize(("model", "names"), TABLE_MODELS, ids=lambda each: type(each).__name__)
def test_a_map_of_a_table_is_fitted_as_the_array_is(mapped, model, names):
    X = rows()
    M = mapped(X)
    assert is_mapped(M)
    in_memory = {name: getattr(model.fit(X), name) for name in names}
    answer = model.transform(X) if hasattr(model, "transform") else model.score_samples(X)
    model.fit(M)
    assert [name for name in names if not close(getattr(model, name), in_memory[name])] == []
    again = model.transform(M) if hasattr(model, "transform") else model.score_samples(M)
    assert close(again, answer, 1e-4)


@pytest.mark.parametrize("n_kept", [1000, 300])  # a sample of all that is allowed; too few rows a cluster for one
def test_the_initial_centres_are_those_of_the_array_where_not_all_rows_may_be_kept(mapped, monkeypatch, n_kept):
    monkeypatch.setattr(_lloyd, "_FEWEST_SAMPLED", 200)
    monkeypatch.setattr(_lloyd, "_SAMPLED_A_CLUSTER", 200)
    for X, n_columns in ((rows(), 25), (clicks(), clicks().nnz // 1500)):
        monkeypatch.setattr(_lloyd, "MOST_CELLS", n_kept * n_columns)
        a, b = (KMeansLite(3, max_iter=1, random_state=0).fit(each) for each in (X, mapped(X)))
        assert close(b.cluster_centers_, a.cluster_centers_) and np.array_equal(a.labels_, b.labels_)


@pytest.mark.parametrize("early_stopping", [True, False])
def test_mapped_clicks_are_fitted_as_those_in_memory(mapped, early_stopping):
    C = clicks()
    M = mapped(C)
    assert is_mapped(M)
    model = MultVAERecommender(4, early_stopping=early_stopping, **FEW)
    bounds, ids = model.fit(C).lower_bounds_, model.recommend(C)[0]
    model.fit(M)
    assert close(model.lower_bounds_, bounds)
    assert np.mean(model.recommend(M)[0] == ids) > 0.99
    a, b = (KMeansLite(3, **FEW).fit(each) for each in (C, M))
    assert close(b.cluster_centers_, a.cluster_centers_)


KINDS = {
    "float64": lambda X, as_map: as_map(X),
    "big-endian": lambda X, as_map: as_map(X.astype(">f8")),
    "float16": lambda X, as_map: as_map(X.astype(np.float16)),
    "integers": lambda X, as_map: as_map(np.round(X).astype(">i4")),
    "Booleans": lambda X, as_map: as_map(X > 5),
    "by column": lambda X, as_map: as_map(np.asfortranarray(X)),
    "transposed": lambda X, as_map: as_map(np.ascontiguousarray(X.T)).T,
    "later rows": lambda X, as_map: as_map(X)[10:],
    "every other row": lambda X, as_map: as_map(X)[::2],
    "backwards": lambda X, as_map: as_map(X)[::-1],
    "some columns": lambda X, as_map: as_map(X)[:, 1:6],
    "one column": lambda X, as_map: as_map(X[:, :1]),
    "no rows": lambda X, as_map: as_map(X)[:0],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_of_any_kind_is_fitted_as_the_array_is(mapped, monkeypatch, kind):
    monkeypatch.setattr(_block_sizes, "_LEAST_BYTES", 2**10)
    monkeypatch.setattr(weights, "_FEW_CELLS", 2**10)
    M = KINDS[kind](rows(np.float64)[:900, :8], mapped)
    for model in (KMeansLite(2, **FEW), FactorAnalysisEM(1, max_iter=3), GaussianMixtureEM(2, **FEW)):
        if kind == "no rows":
            with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\)"):
                model.fit(M)
            continue
        a, b = (clone(model).fit(each).score(each) for each in (np.array(M), M))
        assert close(b, a)


def test_mapped_clicks_of_any_kind_are_fitted_as_those_in_memory(mapped, monkeypatch):
    monkeypatch.setattr(_block_sizes, "_LEAST_BYTES", 2**8)
    monkeypatch.setattr(weights, "_FEW_CELLS", 2**10)
    C = clicks()[:200, :50]
    twice = np.repeat(C.data / 2, 2), np.repeat(C.indices, 2), 2 * C.indptr
    backwards = (C.data[::-1], C.indices[::-1], np.append(0, np.diff(C.indptr)[::-1].cumsum()))
    kinds = [
        (C.data, C.indices.astype(np.int64), C.indptr.astype(np.int64)),
        (C.data.astype(np.uint8), C.indices, C.indptr.astype(np.int64)),
        (np.append(C.data[:-1], 0), C.indices, C.indptr),
        twice,
        backwards,
    ]
    for number, parts in enumerate(kinds):
        A = sp.csr_array(tuple(map(np.array, parts)), shape=C.shape)
        M = sp.csr_array(tuple(mapped(part, f"{number}{i}") for i, part in enumerate(parts)), shape=C.shape)
        assert is_mapped(M)
        for model in (KMeansLite(2, **FEW), MultVAERecommender(2, max_iter=1, random_state=0)):
            a, b = (clone(model).fit(each).score(each) for each in (A, M))
            assert close(b, a), (number, model)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bad_cell_of_a_map_is_named(mapped, value):
    X = rows()
    X[9_000, 7] = value
    with pytest.raises(ValueError, match="contains NaN" if np.isnan(value) else r"X\[9000, 7\] = inf"):
        KMeansLite(2, random_state=0).fit(mapped(X))
    if np.isinf(value):
        with pytest.raises(ValueError, match=r"X\[9000, 7\] = inf"):
            VAETransformer(2, **FEW).fit(mapped(X))


def test_missing_cells_of_a_map_are_fitted(mapped):
    X = rows()
    X[::10, 3] = np.nan
    a, b = (GaussianMixtureEM(2, **FEW).fit(each) for each in (X, mapped(X)))
    assert close(b.means_, a.means_)


def test_huge_cells_behind_a_block_of_gaps_are_refused(mapped):
    X = rows()
    X[:5_000], X[-1, 3] = np.nan, 1e30
    with pytest.raises(ValueError, match="overflow in float32, such as 1e\\+30"):
        GaussianMixtureEM(2, **FEW).fit(mapped(X))
