"""Fits that many processes share, on paper: memory, operations, bytes on the wire and seconds; and a check of it here.

    python benchmarks/scaling_model.py             prints the tables of doc/scaling_arithmetic.rst
    python benchmarks/scaling_model.py --measure   predicts the seconds of two processes on this machine, and measures

The seconds of a step are those of its operations at a rate, of the bytes that it moves through memory, and of the bytes
and messages that it sends. Nothing overlaps. A `Machine` has the rates. With --measure they are those of this machine:
the seconds of a fit by one process alone, for two numbers of rows, and the latency and bandwidth of a sum by gloo. From
these the model predicts what bench_data_parallel.py measures: the same rows shared (strong scaling), and as many rows
for each process (weak scaling). All is measured in turns in the same processes.
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
from typing import NamedTuple

import _checkout  # noqa: F401  (before whatever imports skvae)
import numpy as np


class Machine(NamedTuple):
    """What one process has.

    Attributes
    ----------
    name : str
    operations : float
        A second, in matrix products: the published peak times the share that products of this shape are taken to reach.
    memory : float
        Bytes a second between the memory and the processor: the published peak times another such share.
    link : float
        Bytes a second that the process sends, while it receives as many: again a share of the published peak.
    latency : float
        Seconds of a message to the next process.
    caches : bool, default=False
        Whether a block of scores stays in the caches, so that it does not move through the memory.
    """

    name: str
    operations: float
    memory: float
    link: float
    latency: float
    caches: bool = False


class Step(NamedTuple):
    """What one process does in one step or iteration.

    Attributes
    ----------
    operations, moved, sent : float
        Operations of matrix products, bytes through memory, bytes sent.
    messages : float
        Messages sent one after the other.
    """

    operations: float
    moved: float
    sent: float
    messages: float

    def seconds(self, machine):
        """Seconds of computing, of moving and of sending."""
        on_the_wire = self.sent / machine.link + self.messages * machine.latency
        return self.operations / machine.operations, self.moved / machine.memory, on_the_wire


# -------------------------------------------------------------------------------------------------- sums over processes
def ring_bytes(size, n_processes):
    """Bytes that each process sends to add up `size` bytes over a ring: each part goes round twice, less one stop."""
    return 2 * (n_processes - 1) / n_processes * size


# ------------------------------------------------------------------------------------------------------- EM and K-means
class Sums(NamedTuple):
    """What the processes tell one another in an iteration.

    Attributes
    ----------
    numbers : int
        Numbers of 8 bytes that each process contributes to sums.
    reductions, meetings, objects : int
        Sums of the arrays of one dtype, exchanges of two numbers, exchanges of objects (first their sizes, then they).
    """

    numbers: int
    reductions: int
    meetings: int
    objects: int

    def sent(self, n_processes):
        return ring_bytes(8 * self.numbers, n_processes)

    def messages(self, n_processes):
        return (n_processes - 1) * (2 * self.reductions + self.meetings + 2 * self.objects)


def em_sums(model, n_clusters, n_columns):
    """`Sums` of an iteration. In each, the processes meet twice, and the first one tells whether to stop."""
    k, d = n_clusters, n_columns
    return {
        "K-means": Sums(k * (d + 2) + 1, 2, 2, 2),
        "mixture, spherical or diag": Sums(2 * k * (d + 1) + 1, 1, 2, 1),
        "mixture, tied": Sums(k * (d + 1) + d * d + 1, 1, 2, 1),
        "mixture, full": Sums(k * (d * d + d + 1) + 1, 1, 2, 1),
        "factor analysis": Sums(0, 0, 1, 1),
    }[model]


START = Sums(0, 8, 15, 7)  # of a fit, about: the processes compare parameters, count rows, sum up columns


def kmeans_iteration(n_rows, n_columns, n_clusters, n_processes, itemsize=4):
    """One of Lloyd's iterations, if every row is compared with every centre: bounds on distances may save a part."""
    own, sums = n_rows / n_processes, em_sums("K-means", n_clusters, n_columns)
    operations = 2 * own * n_clusters * n_columns
    return Step(operations, own * n_columns * itemsize, sums.sent(n_processes), sums.messages(n_processes))


def kmeans_seeding(n_rows, n_columns, n_clusters, n_processes, rounds=5, itemsize=4):
    """Seeding by k-means||: the first row and about 2 K rows a round, each compared with all rows, twice in all."""
    own, seeds = n_rows / n_processes, 1 + 2 * rounds * n_clusters
    operations = 2 * 2 * own * seeds * n_columns
    sent = (n_processes - 1) / n_processes * seeds * n_columns * itemsize + ring_bytes(8 * seeds, n_processes)
    passes = 2 * (1 + rounds) + 1  # in each round the nearest seed, then the distance to it; at the end the nearest
    return Step(operations, passes * own * n_columns * itemsize, sent, passes * 4 * (n_processes - 1))


# ------------------------------------------------------------------------------------------------------------- Mult-VAE
BYTES_A_WEIGHT = 32  # that Adam moves: weight, gradient and two averages, read and written
BYTES_A_SCORE = 68  # that a step moves in float32: 28 forward, 40 backward


class MultVAE(NamedTuple):
    """The published network, I-H-K-H-I."""

    n_items: int
    hidden: int = 600
    components: int = 200

    @property
    def wide(self):
        """Weights and biases that belong to items: they can be split among processes."""
        return 2 * self.n_items * self.hidden + self.n_items

    @property
    def middle(self):
        """Weights and biases between the hidden layers, biases of the first one included."""
        return 3 * self.hidden * self.components + 2 * self.hidden + 2 * self.components

    @property
    def parameters(self):
        return self.wide + self.middle

    def memory(self, n_processes=1):
        """Bytes of a process's weights, gradients and Adam's two averages; the first layer has no whole gradient."""
        return 4 * (4 * (self.wide / n_processes + self.middle) - self.n_items * self.hidden / n_processes)

    def operations(self, n_processes=1, in_blocks=True):
        """Operations of products for one user: scores, again where they are made in blocks, and two gradients."""
        last = (8 if in_blocks else 6) * self.hidden * self.n_items
        return last / n_processes + 6 * 3 * self.hidden * self.components

    def step(self, n_users, n_processes, split="items", caches=False):
        """One step for n_users users.

        Parameters
        ----------
        n_users, n_processes : int
        split : {"items", "users"}
            What the processes divide: "items", so that activations travel, or "users", so that gradients do.
        caches : bool, default=False
            Whether a block of scores stays in the caches.
        """
        own = self.wide / (n_processes if split == "items" else 1) + self.middle
        scores = 0 if caches else n_users * self.n_items / n_processes * BYTES_A_SCORE
        if split == "users":
            operations, payload, n_sums = n_users / n_processes * self.operations(), self.parameters, 1
        else:
            operations, payload, n_sums = n_users * self.operations(n_processes), self.shared(n_users), 5
        messages = n_sums * 3 * (n_processes - 1)  # before each sum the processes meet
        return Step(operations, own * BYTES_A_WEIGHT + scores, ring_bytes(4 * payload, n_processes), messages)

    def shared(self, n_users):
        """Numbers of a step's sums if the items are split.

        They are the first layer's output, the gradient of the last hidden layer, and three of each user: the largest
        score, the sum of exp(score), the sum of the scores of the user's items. One more says if all is finite.
        """
        return n_users * (2 * self.hidden + 3) + 1


def clicks_bytes(n_users, per_user, n_processes=1):
    """Bytes of a process's columns as CSR: item, value and end of row, and three facts of each whole row."""
    return n_users * per_user * 8 / n_processes + n_users * (8 + 12)


# --------------------------------------------------------------------------------------------------------------- tables
# Published peaks (dense bfloat16, memory, NVLink one way), of which products and copies are taken to reach these parts.
PRODUCTS, COPIES = 0.4, 0.7
GLOO = 1e9  # between processes of one machine
H100 = Machine("H100", PRODUCTS * 989e12, COPIES * 3.35e12, COPIES * 450e9, 10e-6)
A100 = Machine("A100", PRODUCTS * 312e12, COPIES * 2.0e12, COPIES * 300e9, 10e-6)
SERVER = Machine("64 cores, float32", PRODUCTS * 5e12, COPIES * 400e9, COPIES * 12.5e9, 50e-6, caches=True)
CLASSES = (
    ("1 H100", H100, 1, "items"),
    ("8 H100, gloo", H100._replace(link=GLOO, latency=50e-6), 8, "items"),
    ("8 H100, NVLink", H100, 8, "items"),
    ("8 H100, NVLink, users divided", H100, 8, "users"),
    ("8 A100, NVLink", A100, 8, "items"),
    ("64 H100, 400 Gb/s each", H100._replace(link=COPIES * 50e9), 64, "items"),
    ("32 servers of 64 cores, 100 Gb/s", SERVER, 32, "items"),
)
USERS, ITEMS, CLICKS, BATCH = 100_000_000, 1_000_000, 100, 32_768
ROWS, COLUMNS, CLUSTERS = 10**10, 512, 1_000


def tables():
    """Title, head and rows of each table, as text."""
    yield from mult_vae_tables()
    yield from kmeans_tables()
    models = ("K-means", "mixture, spherical or diag", "mixture, tied", "mixture, full")
    rows = [(model, size(8 * em_sums(model, CLUSTERS, COLUMNS).numbers)) for model in models]
    rows.append(("factor analysis, once in a fit", size(8 * (COLUMNS**2 + COLUMNS + 1))))
    yield f"Sums of an iteration, K = {CLUSTERS:,}, D = {COLUMNS}", ("Model", "Bytes"), rows


def mult_vae_tables():
    net = MultVAE(ITEMS)
    block, whole = 4 * 2**26, 4 * BATCH * ITEMS
    rows = [
        ("weights and biases", f"{net.parameters:,}", size(4 * net.parameters)),
        ("with gradients and Adam's averages", "", size(net.memory())),
        ("the same on each of 8 processes", "", size(net.memory(8))),
        ("clicks", f"{USERS * CLICKS:,}", size(clicks_bytes(USERS, CLICKS))),
        ("their columns on each of 8 processes", "", size(clicks_bytes(USERS, CLICKS, 8))),
        (f"scores of {BATCH:,} users, all items", f"{BATCH * ITEMS:,}", size(whole)),
        ("scores of one block of items", f"{2**26:,}", size(block)),
    ]
    yield (
        f"Mult-VAE: memory of {USERS:,} users, {CLICKS} clicks each, and {ITEMS:,} items",
        ("What", "Numbers", "Bytes"),
        rows,
    )
    rows = []
    for split in ("items", "users"):
        step = net.step(BATCH, 8, split)
        payload = 4 * (net.shared(BATCH) if split == "items" else net.parameters)
        rows.append((split, f"{step.operations:.2e}", size(payload), size(step.sent)))
    head = ("Processes divide", "Operations a process", "Sums", "Sent by a process")
    yield f"Mult-VAE: a step for {BATCH:,} users, 8 processes", head, rows
    rows = []
    for name, machine, n, split in CLASSES:
        seconds = net.step(BATCH, n, split, machine.caches).seconds(machine)
        rows.append((name, *map(time_of, seconds), time_of(sum(seconds) * USERS / BATCH)))
    head = ("Machines", "Products", "Memory", "Wire", "Epoch")
    yield f"Mult-VAE: a step for {BATCH:,} users, and an epoch of {USERS:,}", head, rows


def kmeans_tables():
    gpu = Machine("H100, float32", PRODUCTS * 67e12, COPIES * 3.35e12, GLOO, 50e-6)
    rows = []
    for machine, n, name in ((SERVER, 64, "64 servers"), (SERVER, 256, "256 servers"), (gpu, 512, "512 H100")):
        iteration = kmeans_iteration(ROWS, COLUMNS, CLUSTERS, n)
        seeding = kmeans_seeding(ROWS, COLUMNS, CLUSTERS, n)
        seconds = iteration.seconds(machine)
        ideal = sum(kmeans_iteration(ROWS, COLUMNS, CLUSTERS, 1).seconds(machine)[:2]) / n
        rows.append(
            (
                f"{name}, {size(4 * ROWS * COLUMNS / n)} each",
                time_of(seconds[0] + seconds[1]),
                time_of(seconds[2]),
                f"{ideal / sum(seconds):.1%}",
                time_of(sum(seeding.seconds(machine))),
            )
        )
    head = ("Machines, rows", "Computing", "Wire", "Of ideal", "k-means||")
    yield f"K-means: an iteration, and seeding, of {ROWS:,} rows, D = {COLUMNS}, K = {CLUSTERS:,}, float32", head, rows


def size(n_bytes):
    """Bytes in units of thousands."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} PB"


def time_of(seconds):
    """Seconds in a unit that suits them."""
    for unit, length in (("h", 3600), ("min", 60), ("s", 1), ("ms", 1e-3)):
        if seconds >= 1.5 * length or unit == "ms":
            return f"{float(f'{seconds / length:.2g}'):g} {unit}"


def print_tables():
    for title, head, rows in tables():
        print(title)
        widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
        for row in (head, *rows):
            print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
        print()


# ---------------------------------------------------------------------------------------------- a check on this machine
KINDS = {
    "KMeansLite": "K-means",
    "GaussianMixtureEM, diag": "mixture, spherical or diag",
    "GaussianMixtureEM, full": "mixture, full",
    "FactorAnalysisEM": "factor analysis",
}
RUNS = ("alone, a quarter", "alone", "side by side", "shared, a half", "shared")


def measured(n_rows, rounds, out):
    """What each process does: write the seconds of each model and run, and of sums and exchanges.

    They are the least of the rounds, since other work on the machine only adds; and how far above it the median is.
    """
    import torch
    import torch.distributed as dist
    from bench_data_parallel import models, rows
    from sklearn.base import clone

    from skvae import _reduce

    dist.init_process_group("gloo")
    warnings.simplefilter("ignore")
    rank = dist.get_rank()
    processes = _reduce.Processes()
    of = {
        "reduction": lambda: processes.add(torch.zeros(1)),
        "meeting": lambda: processes.meet(0),
        "objects": lambda: processes.objects(False),
        "reduction of 8 MB": lambda: processes.add(torch.zeros(2**20, dtype=torch.float64)),
    }
    lines = [f"{name}\t\t{seconds_between_work(action)}\t0" for name, action in of.items()]
    X = rows(n_rows, seed=rank)
    for name, model in ((name, models("rows")[name][0]) for name in KINDS):
        if name == "KMeansLite":
            model.set_params(batch_size=2**18)  # the steps of a shared fit in a fit that is not
        alone = clone(model).set_params(data_parallel=False)
        seconds = [seconds_of_runs(alone, model, X, rank) for _ in range(rounds + 1)]  # the first are not counted
        least, middle = np.min(seconds[1:], axis=0), np.median(seconds[1:], axis=0)
        lines += [f"{name}\t{run}\t{one}\t{two / one - 1}" for run, one, two in zip(RUNS, least, middle)]
    if rank == 0:
        Path(out).write_text("\n".join(lines))
    dist.destroy_process_group()


def seconds_between_work(action, n=20, rounds=20):
    """Seconds that a message adds to some milliseconds of work of each process: quartiles of rounds of n."""
    A = np.ones((300, 300))
    work = [seconds_of(lambda: [A @ A for _ in range(n)]) for _ in range(rounds)]
    both = [seconds_of(lambda: [(A @ A, action()) for _ in range(n)]) for _ in range(rounds)]
    return (np.percentile(both, 25) - np.percentile(work, 25)) / n


def seconds_of_runs(alone, model, X, rank):
    """Seconds of each of `RUNS`."""
    import torch.distributed as dist

    actions = (
        lambda: rank or alone.fit(X[: len(X) // 4]),
        lambda: rank or alone.fit(X),
        lambda: alone.fit(X),
        lambda: model.fit(X[: len(X) // 2]),
        lambda: model.fit(X),
    )
    found = []
    for action in actions:
        dist.barrier()
        found.append(seconds_of(lambda action=action: (action(), dist.barrier())))
    return found


def seconds_of(action):
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def launched(n_rows, rounds):
    """Seconds of each (model, run), as two processes of one thread measure them, and how much they vary, as a share."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
        command += [f"--master-port={port}", __file__, "--work", f"{folder}/out", "--rows", str(n_rows)]
        subprocess.run([*command, "--rounds", str(rounds)], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
        lines = [line.split("\t") for line in Path(folder, "out").read_text().splitlines()]
    return {(name, run): tuple(map(float, numbers)) for name, run, *numbers in lines}


def predicted(model, n_rows, times, iterations, n_clusters, n_columns):
    """Seconds of a fit of two processes to n_rows rows, from times of one process and of sums.

    Parameters
    ----------
    model : str
        Of `KINDS`.
    n_rows : float
        As a share of those of the run "alone".
    times : dict
        (model or sum, run) -> seconds.
    iterations, n_clusters, n_columns : int

    Returns
    -------
    seconds : float
    """
    quarter, whole = times[model, RUNS[0]], times[model, RUNS[1]]
    a_row = (whole - quarter) / 0.75
    sums = em_sums(KINDS[model], n_clusters, n_columns)
    counts = np.add(START[1:], iterations * np.array(sums[1:]))
    latency = sum(times[kind, ""] * n for kind, n in zip(("reduction", "meeting", "objects"), counts))
    return whole + a_row * (n_rows / 2 - 1) + latency + iterations * sums.sent(2) / bandwidth_of(times)


def bandwidth_of(times):
    """Bytes a second that a process sends in a large sum."""
    return ring_bytes(2**23, 2) / (times["reduction of 8 MB", ""] - times["reduction", ""])


def compare(n_rows, rounds):
    """Print predicted beside measured seconds of two processes, and the shares of ideal."""
    from bench_data_parallel import ITERATIONS, N_CLUSTERS, N_COLUMNS

    found = launched(n_rows, rounds)
    times = {key: numbers[0] for key, numbers in found.items()}
    print(
        f"gloo, two processes of this machine: a sum of one number {1e6 * times['reduction', '']:.0f} us, a meeting "
        f"{1e6 * times['meeting', '']:.0f} us, an exchange of objects {1e6 * times['objects', '']:.0f} us, "
        f"{bandwidth_of(times) / 1e9:.2f} GB/s\n{n_rows:,} x {N_COLUMNS}, K = {N_CLUSTERS}, {ITERATIONS} iterations; "
        "seconds, and the share of ideal; in brackets, with the slowdown of two fits side by side"
    )
    for model in KINDS:
        alone, beside = times[model, RUNS[1]], times[model, RUNS[2]] / times[model, RUNS[1]]
        spread = max(found[model, run][1] for run in RUNS)
        print(
            f"{model}: alone {alone:.3f} s, side by side {beside:.2f} times as long; medians up to {spread:.0%} higher"
        )
        for name, n, run, ideal in (("strong", 1, RUNS[3], alone / 2), ("weak", 2, RUNS[4], alone)):
            guess = predicted(model, n, times, ITERATIONS, N_CLUSTERS, N_COLUMNS)
            with_slowdown, seen = guess + (beside - 1) * ideal, times[model, run]
            print(
                f"  {name}: predicted {guess:.3f} s, {ideal / guess:.0%} ({with_slowdown:.3f} s, "
                f"{ideal / with_slowdown:.0%}); measured {seen:.3f} s, {ideal / seen:.0%}",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="predict and measure two processes of this machine")
    parser.add_argument("--rows", type=int, default=200_000, help="of one process")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        measured(args.rows, args.rounds, args.work)
    elif args.measure:
        compare(args.rows, args.rounds)
    else:
        print_tables()


if __name__ == "__main__":
    main()
