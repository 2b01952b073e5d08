"""Run in a process of its own by test_larger_than_memory.py: fits to memory maps, and the anonymous memory they add."""

import gc
import json
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from skvae import FactorAnalysisEM, GaussianMixtureEM, KMeansLite, MultVAERecommender, VAETransformer

N_COLUMNS = 256


def anonymous():
    """RssAnon of this process in bytes: memory of its own, without the pages of mapped files."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


class Peak:
    """By how much RssAnon rises while a block runs, looked at every millisecond."""

    def __enter__(self):
        gc.collect()
        self.before = self.peak = anonymous()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self):
        while not self._stop.wait(0.001):
            self.peak = max(self.peak, anonymous())

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self.growth = max(self.peak, anonymous()) - self.before


def table(path, n_bytes):
    """Rows of float32 in two groups, one of which the model must find."""
    n, rng = n_bytes // (4 * N_COLUMNS), np.random.default_rng(0)
    block = rng.normal(size=(2**11, N_COLUMNS)).astype(np.float32)
    out = np.lib.format.open_memmap(path, "w+", np.float32, (n, N_COLUMNS))
    for start in range(0, n, len(block)):
        part = out[start : start + len(block)]
        part[:] = block[: len(part)]
        part[: len(part) // 2] += 5
    out.flush()
    del out
    return np.load(path, mmap_mode="r")


def clicks(folder, n_bytes):
    """Users with 50 of 500 items, in three files."""
    each, n_items = 50, 500
    n = n_bytes // (12 * each)
    rng = np.random.default_rng(0)
    items = np.arange(each) * (n_items // each) + rng.integers(0, n_items // each, (n, each))
    parts = {
        "data": np.ones(n * each),
        "indices": items.ravel().astype(np.int32),
        "indptr": (np.arange(n + 1) * each).astype(np.int32),
    }
    for name, part in parts.items():
        np.save(folder / f"{name}.npy", part)
    data, indices, indptr = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in parts)
    return sp.csr_array((data, indices, indptr), shape=(n, n_items))


def main(folder, n_bytes):
    warnings.simplefilter("ignore")
    X, C = table(folder / "table.npy", n_bytes), clicks(folder, n_bytes)
    few = {"random_state": 0, "max_iter": 1}
    start = {"means_init": X[[0, -1]], "init_params": "random"}
    network = {"early_stopping": False, "batch_size": 2048, **few}
    found = {}
    for model, rows, *calls in (
        (KMeansLite(2, init=X[[0, -1]], max_iter=1), X, "fit", "transform"),
        (KMeansLite(2, init=C[[0, 1]].toarray(), max_iter=1), C, "fit"),
        (GaussianMixtureEM(2, covariance_type="diag", **start, **few), X, "fit", "score_samples"),
        (FactorAnalysisEM(1, max_iter=2), X, "fit"),
        (VAETransformer(1, hidden_layer_sizes=(4,), **network), X, "fit", "transform"),
        (MultVAERecommender(2, decoder_units=0, **network), C, "fit"),
    ):
        for call in calls:
            began = time.process_time()
            with Peak() as memory:
                getattr(model, call)(rows)
            name = f"{type(model).__name__}.{call} of {'clicks' if rows is C else 'a table'}"
            found[name] = memory.growth
            print(name, memory.growth // 2**20, f"{time.process_time() - began:.2f}", file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
