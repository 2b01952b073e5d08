"""One fit shared by several processes, one thread each: strong scaling (the same rows) and weak scaling (rows grow).

    python benchmarks/bench_data_parallel.py --processes 1 2
    python benchmarks/bench_data_parallel.py --processes 1 2 --only networks
    python benchmarks/bench_data_parallel.py --processes 1 2 --only clicks

Each process makes its own rows. The table shows the seconds of a fit of a fixed number of iterations, median of the
rounds, and the share of ideal: the time of one process over (processes x time) for the same rows, over the time for
rows that grow. Also the bytes of the sums of an iteration; of factor analysis, of the one sum of a fit. With
``--only networks``: VAEs that go through the rows once, and the bytes of the sums of a step.

With ``--only clicks``: a Mult-VAE of many items, which the processes split among them. Seconds an epoch for the same
users, and the bytes of what a process puts into sums in a step, beside those of the gradients of all weights.
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
import scipy.sparse as sp
import torch.distributed as dist

from skvae import FactorAnalysisEM, GaussianMixtureEM, KMeansLite, MultVAERecommender, VAETransformer
from skvae._reduce import Processes

ITERATIONS = 10
N_ITEMS, N_CLICKS, N_COMPONENTS, BATCH = 20_000, 100, 200, 500
N_COLUMNS, N_CLUSTERS = 32, 16
CENTRES = np.random.default_rng(9).normal(size=(N_CLUSTERS, N_COLUMNS)) / 3  # of clusters that overlap


def models(only):
    if only == "networks":
        sizes = (64, 512), (512, 512), (512, 4096)
        return {f"VAETransformer, {units} units, {size} rows a step": network(units, size) for units, size in sizes}
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


def network(units, batch_size):
    """A VAE that goes through the rows once, and how many float64 take as many bytes as its float32 gradients."""
    given = {"batch_size": batch_size, "max_iter": 1, "early_stopping": False, "random_state": 0, "data_parallel": True}
    weights = units * (2 * N_COLUMNS + 3 * 8 + 2) + 2 * 8 + 2 * N_COLUMNS
    return VAETransformer(8, hidden_layer_sizes=(units,), **given), (weights + 3) / 2


def rows(n, seed=0):
    """Rows of a process, all from the same clusters."""
    rng = np.random.default_rng(seed)
    return CENTRES[rng.integers(0, N_CLUSTERS, n)] + rng.normal(size=(n, N_COLUMNS))


def work(n_rows, rounds, out, only):
    """What each process does: print the median seconds of a fit to its part."""
    dist.init_process_group("gloo")
    warnings.simplefilter("ignore")
    own = rows(n_rows // dist.get_world_size(), seed=dist.get_rank())
    lines = []
    for name, (model, _) in models(only).items():
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


def clicks(n_users, seed=0):
    """Users with about a hundred of the items each, by Zipf's law."""
    rng = np.random.default_rng(seed)
    item = (N_ITEMS ** rng.random(n_users * N_CLICKS)).astype(np.int64) - 1
    X = sp.csr_array(
        (np.ones(len(item), np.float32), item, np.arange(n_users + 1) * N_CLICKS), shape=(n_users, N_ITEMS)
    )
    X.sum_duplicates()
    X.data[:] = 1
    return X


def work_on_clicks(n_users, rounds, out):
    """What each process does: print the seconds of an epoch over its users and those of the others."""
    dist.init_process_group("gloo")
    warnings.simplefilter("ignore")
    sent = []

    def counting(plain):
        def count(self, *tensors):
            sent.append(sum(tensor.nbytes for tensor in tensors))
            return plain(self, *tensors)

        return count

    Processes.sums_in_step = counting(Processes.sums_in_step)
    Processes.largest_in_step = counting(Processes.largest_in_step)
    own = clicks(n_users)[dist.get_rank() :: dist.get_world_size()]
    given = {"decoder_units": 0, "batch_size": BATCH, "early_stopping": False, "random_state": 0, "data_parallel": True}

    def timed(n_epochs):
        dist.barrier()
        sent.clear()
        start = time.perf_counter()
        MultVAERecommender(N_COMPONENTS, max_iter=n_epochs, **given).fit(own)
        return np.array([time.perf_counter() - start, sum(sent)])

    timed(1)
    seconds, nbytes = np.median([timed(2) - timed(1) for _ in range(rounds)], axis=0)
    if dist.get_rank() == 0:
        Path(out).write_text(f"seconds\t{seconds}\nbytes\t{nbytes / (n_users / BATCH)}")
    dist.destroy_process_group()


def compare_clicks(processes, n_users, rounds):
    weights = N_ITEMS * (3 * N_COMPONENTS + 1) + 2 * N_COMPONENTS
    print(f"{n_users:,} users x {N_ITEMS:,} items, K = {N_COMPONENTS}, {BATCH} users a step, one thread a process")
    found = {n: launched(n, n_users, rounds, "clicks") for n in processes}
    first = processes[0]
    for n, each in found.items():
        share = first * found[first]["seconds"] / (n * each["seconds"])
        print(
            f"MultVAERecommender, {n} processes: {each['seconds']:.2f} s an epoch, {share:.0%} of ideal; "
            f"{each['bytes']:,.0f} bytes a step (4 B (3 K + 3) + 4 = {4 * BATCH * (3 * N_COMPONENTS + 3) + 4:,}; "
            f"gradients of all weights: {4 * weights:,})",
            flush=True,
        )


def launched(n_processes, n_rows, rounds, only="rows"):
    """What the first of several processes found, by name: of rows, the median seconds of each model."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={n_processes}"]
        command += ["--master-addr=127.0.0.1", f"--master-port={port}", __file__, "--work", f"{folder}/out"]
        command += ["--rows", str(n_rows), "--rounds", str(rounds), "--only", only]
        subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
        found = Path(folder, "out").read_text().splitlines()
    return {name: float(seconds) for name, seconds in (line.split("\t") for line in found)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", choices=["rows", "networks", "clicks"], default="rows")
    parser.add_argument(
        "--rows", type=int, help="of one process, and of all for strong scaling; 200,000, clicks 20,000"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.rows = args.rows or (20_000 if args.only == "clicks" else 200_000)
    if args.work and args.only == "clicks":
        work_on_clicks(args.rows, args.rounds, args.work)
        return
    if args.work:
        work(args.rows, args.rounds, args.work, args.only)
        return
    if args.only == "clicks":
        compare_clicks(args.processes, args.rows, args.rounds)
        return
    kind = "one epoch" if args.only == "networks" else f"K = {N_CLUSTERS}, {ITERATIONS} iterations"
    print(f"{args.rows:,} x {N_COLUMNS}, {kind}, one thread a process")
    first = args.processes[0]
    strong = {n: launched(n, args.rows, args.rounds, args.only) for n in args.processes}
    weak = {
        n: strong[n] if n == first else launched(n, args.rows * n // first, args.rounds, args.only)
        for n in args.processes
    }
    for name, (_, numbers) in models(args.only).items():
        for n in args.processes:
            shares = first * strong[first][name] / (n * strong[n][name]), weak[first][name] / weak[n][name]
            print(
                f"{name}, {n} processes: same rows {strong[n][name]:.2f} s, {shares[0]:.0%} of ideal; "
                f"{args.rows * n // first:,} rows {weak[n][name]:.2f} s, {shares[1]:.0%}; {8 * numbers:,.0f} bytes",
                flush=True,
            )


if __name__ == "__main__":
    main()
