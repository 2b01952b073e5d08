"""Fits to files that are larger than memory: time, passes over the file, and the peak of anonymous memory.

    python benchmarks/bench_larger_than_memory.py --folder /scratch --gigabytes 20

The script writes rows of float32 and clicks in CSR into a new folder below `--folder`, one kind after the other, and
removes them. Each estimator is fitted to the memory map in a process of its own. A thread reads the process's RssAnon
(`/proc/self/status`, Linux): memory that is the process's own, without the pages of mapped files, which the system can
drop at any time. "in all" is its peak, the libraries included; "fit adds" is that less what the process had before
`fit`. The number of iterations is small. A fit to convergence takes more passes, and no more memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import _checkout  # noqa: F401  (before whatever imports skvae)
import numpy as np
import scipy.sparse as sp

from skvae import FactorAnalysisEM, GaussianMixtureEM, KMeansLite, MultVAERecommender, VAETransformer

N_COLUMNS, N_GROUPS, N_FACTORS = 512, 8, 4
N_ITEMS, CLICKS = 1000, 200
BLOCK = 2**15  # rows that partial_fit is given at once


# name: the rows that it reads, the estimator, and what is done with it
MODELS = {
    "FactorAnalysisEM": ("table", lambda: FactorAnalysisEM(N_FACTORS), "fit"),
    "KMeansLite": ("table", lambda: KMeansLite(N_GROUPS, max_iter=3, random_state=0), "fit"),
    "GaussianMixtureEM": (
        "table",
        lambda: GaussianMixtureEM(N_GROUPS, covariance_type="diag", max_iter=2, random_state=0),
        "fit",
    ),
    "VAETransformer": ("table", lambda: VAETransformer(N_FACTORS, max_iter=1, random_state=0), "fit"),
    "KMeansLite, blocks": ("table", lambda: KMeansLite(N_GROUPS, random_state=0), "partial_fit"),
    "MultVAERecommender": (
        "clicks",
        lambda: MultVAERecommender(16, decoder_units=0, max_iter=1, random_state=0),
        "fit",
    ),
}


# ---------------------------------------------------------------------------------------------------------- the files
def write_table(folder, n_bytes):
    """Rows of float32 around a few centres that lie in a plane of some dimensions, as `table.npy`.

    The noise of a block of rows is that of the first block, to write the file at the speed of the disk.
    """
    n_rows = n_bytes // (4 * N_COLUMNS)
    rng = np.random.default_rng(0)
    loadings = rng.standard_normal((N_FACTORS, N_COLUMNS), dtype=np.float32)
    centres = 3 * rng.standard_normal((N_GROUPS, N_FACTORS), dtype=np.float32)
    noise = rng.standard_normal((BLOCK, N_COLUMNS), dtype=np.float32)
    out = np.lib.format.open_memmap(Path(folder, "table.npy"), "w+", np.float32, (n_rows, N_COLUMNS))
    for start in range(0, n_rows, BLOCK):
        n = min(BLOCK, n_rows - start)
        scores = rng.standard_normal((n, N_FACTORS), dtype=np.float32) + centres[rng.integers(0, N_GROUPS, n)]
        np.add(scores @ loadings, noise[:n], out=out[start : start + n])
    out.flush()


def read_table(folder):
    return np.load(Path(folder, "table.npy"), mmap_mode="r")


def write_clicks(folder, n_bytes):
    """Users with 200 clicks on 1,000 items, in three files; a click takes 12 bytes."""
    n_users = n_bytes // (12 * CLICKS)
    rng = np.random.default_rng(0)
    shapes = {"indptr": n_users + 1, "indices": n_users * CLICKS, "data": n_users * CLICKS}
    dtypes = {"indptr": np.int32, "indices": np.int32, "data": np.float64}
    files = {
        name: np.lib.format.open_memmap(Path(folder, f"{name}.npy"), "w+", dtypes[name], (n,))
        for name, n in shapes.items()
    }
    files["indptr"][:] = np.arange(n_users + 1) * CLICKS
    step = N_ITEMS // CLICKS  # one item of each five, half of them by the taste of the user
    chance = rng.integers(0, step, (BLOCK, CLICKS), dtype=np.int32) + step * np.arange(CLICKS, dtype=np.int32)
    by_taste = rng.random((BLOCK, CLICKS)) < 0.5
    for start in range(0, n_users, BLOCK):
        n = min(BLOCK, n_users - start)
        taste = rng.integers(0, step, (n, 1), dtype=np.int32) + step * np.arange(CLICKS, dtype=np.int32)
        span = slice(start * CLICKS, (start + n) * CLICKS)
        files["indices"][span] = np.where(by_taste[:n], taste, chance[:n]).ravel()
        files["data"][span] = 1
    for file in files.values():
        file.flush()


def read_clicks(folder):
    data, indices, indptr = (
        np.load(Path(folder, f"{name}.npy"), mmap_mode="r") for name in ("data", "indices", "indptr")
    )
    return sp.csr_array((data, indices, indptr), shape=(len(indptr) - 1, N_ITEMS))


KINDS = {"table": (write_table, read_table), "clicks": (write_clicks, read_clicks)}


# --------------------------------------------------------------------------------------------------------- one process
def anonymous():
    """RssAnon of this process, in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


class Peak:
    """The peak of RssAnon while a block runs, looked at every five milliseconds."""

    def __enter__(self):
        self.before = self.peak = anonymous()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self):
        while not self._stop.wait(0.005):
            self.peak = max(self.peak, anonymous())

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, anonymous())


def fit(name, folder):
    """What a process does: fit one model, and print what that took."""
    kind, make, how = MODELS[name]
    X, model = KINDS[kind][1](folder), make()
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    with Peak() as memory:
        if how == "fit":
            model.fit(X)
        else:
            for first in range(0, X.shape[0], BLOCK):
                model.partial_fit(X[first : first + BLOCK])
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "before": memory.before, "peak": memory.peak}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where to write the files; default: the system's folder for temporary files")
    parser.add_argument("--gigabytes", type=float, default=20)
    parser.add_argument("--quick", action="store_true", help="0.2 GB")
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        fit(args.only[0], args.work)
        return
    gigabytes = 0.2 if args.quick else args.gigabytes
    for kind, (write, _) in KINDS.items():
        names = [name for name in args.only if MODELS[name][0] == kind]
        if not names:
            continue
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            write(folder, int(gigabytes * 1e9))
            size = sum(file.stat().st_size for file in Path(folder).iterdir())
            print(f"{kind}: {size / 1e9:.1f} GB", flush=True)
            for name in names:
                command = [sys.executable, __file__, "--work", folder, "--only", name]
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                adds = found["peak"] - found["before"]
                print(
                    f"{name}: {found['seconds']:.1f} s; RssAnon {found['peak'] / 1e9:.2f} GB in all, "
                    f"fit adds {adds / 1e9:.2f} GB, {adds / size:.1%} of the file",
                    flush=True,
                )


if __name__ == "__main__":
    main()
