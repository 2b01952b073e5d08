"""One fit shared by several processes, one thread each: strong scaling (the same rows) and weak scaling (rows grow).

    python benchmarks/bench_data_parallel.py --processes 1 2

Each process makes its own rows. The table shows the seconds of a fit of a fixed number of iterations, median of the
rounds, and the share of ideal: the time of one process over (processes x time) for the same rows, over the time for
rows that grow. Also the bytes of the sums of an iteration; of factor analysis, of the one sum of a fit.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import _checkout  # noqa: F401  (before whatever imports skvae)
import numpy as np
import torch.distributed as dist

from skvae import FactorAnalysisEM, GaussianMixtureEM, KMeansLite

ITERATIONS = 10
N_COLUMNS, N_CLUSTERS = 32, 16
CENTRES = np.random.default_rng(9).normal(size=(N_CLUSTERS, N_COLUMNS)) / 3  # of clusters that overlap


def models():
    centres = CENTRES + np.random.default_rng(8).normal(size=CENTRES.shape) / 4
    given = {"max_iter": ITERATIONS, "tol": 0, "data_parallel": True}
    parts = given | {"weights_init": np.full(N_CLUSTERS, 1 / N_CLUSTERS), "means_init": centres}
    unit = np.ones((N_CLUSTERS, N_COLUMNS))
    return {
        "KMeansLite": (KMeansLite(N_CLUSTERS, init=centres, **given), N_CLUSTERS * (N_COLUMNS + 2) + 1),
        "GaussianMixtureEM, diag": (
            GaussianMixtureEM(N_CLUSTERS, covariance_type="diag", precisions_init=unit, **parts),
            N_CLUSTERS * (2 * N_COLUMNS + 2) + 1,
        ),
        "GaussianMixtureEM, full": (
            GaussianMixtureEM(N_CLUSTERS, precisions_init=unit[:, None] * np.eye(N_COLUMNS), **parts),
            N_CLUSTERS * (N_COLUMNS**2 + N_COLUMNS + 1) + 1,
        ),
        "FactorAnalysisEM": (FactorAnalysisEM(8, **given), N_COLUMNS**2 + N_COLUMNS + 1),
    }


def rows(n, seed=0):
    """Rows of a process, all from the same clusters."""
    rng = np.random.default_rng(seed)
    return CENTRES[rng.integers(0, N_CLUSTERS, n)] + rng.normal(size=(n, N_COLUMNS))


def work(n_rows, rounds, out):
    """What each process does: print the median seconds of a fit to its part."""
    dist.init_process_group("gloo")
    warnings.simplefilter("ignore")
    own = rows(n_rows // dist.get_world_size(), seed=dist.get_rank())
    lines = []
    for name, (model, _) in models().items():
        model.fit(own)
        seconds = []
        for _ in range(rounds):
            dist.barrier()
            start = time.perf_counter()
            model.fit(own)
            seconds.append(time.perf_counter() - start)
        lines.append(f"{name}\t{np.median(seconds)}")
    if dist.get_rank() == 0:
        Path(out).write_text("\n".join(lines))
    dist.destroy_process_group()


def launched(n_processes, n_rows, rounds):
    """Median seconds of each model, by several processes."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={n_processes}"]
        command += ["--master-addr=127.0.0.1", f"--master-port={port}", __file__, "--work", f"{folder}/out"]
        command += ["--rows", str(n_rows), "--rounds", str(rounds)]
        subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
        found = Path(folder, "out").read_text().splitlines()
    return {name: float(seconds) for name, seconds in (line.split("\t") for line in found)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=200_000, help="of one process, and of all for strong scaling")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.rows, args.rounds, args.work)
        return
    print(f"{args.rows:,} x {N_COLUMNS}, K = {N_CLUSTERS}, {ITERATIONS} iterations, one thread a process")
    first = args.processes[0]
    strong = {n: launched(n, args.rows, args.rounds) for n in args.processes}
    weak = {n: strong[n] if n == first else launched(n, args.rows * n // first, args.rounds) for n in args.processes}
    for name, (_, numbers) in models().items():
        for n in args.processes:
            shares = first * strong[first][name] / (n * strong[n][name]), weak[first][name] / weak[n][name]
            print(
                f"{name}, {n} processes: same rows {strong[n][name]:.2f} s, {shares[0]:.0%} of ideal; "
                f"{args.rows * n // first:,} rows {weak[n][name]:.2f} s, {shares[1]:.0%}; {8 * numbers:,} bytes",
                flush=True,
            )


if __name__ == "__main__":
    main()
