"""Seconds per epoch, quality, share of the matrix-product roofline and peak memory: skvae beside the plain Mult-VAE.

Same network (600-200-600), batches of 100, epochs and annealing, in one process, in turns: plain, skvae, plain, ... and
`MultVAERecommender()` as it comes beside them ("default").
Memory is taken in a fresh process for each, in which only that model is fitted.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from _peers import PlainMultVAE, published
from _protocol import evaluate, load_split, peak_memory, strong_generalisation, timed

from skvae import datasets

HIDDEN, K, BATCH = 600, 200, 100
MODELS = {
    "plain": lambda epochs: PlainMultVAE(HIDDEN, K, epochs, BATCH),
    "skvae": lambda epochs: published(epochs, BATCH, n_components=K, hidden_layer_sizes=(HIDDEN,)),
    "default": lambda epochs: default(epochs),
}
TWINS = ("plain", "skvae")  # of one network
EPOCHS = {"ml-1m": 30, "wide": 10}  # the longest run of each that still leaves time for three


def default(epochs):
    """`MultVAERecommender()`: another network and other batches, for the time to the quality that a user gets."""
    from skvae import MultVAERecommender

    return MultVAERecommender(max_iter=epochs, early_stopping=False, random_state=0)


def wide():
    """4,000 users, drawn with planted factors, some 90 items each; some 20,000 of the items have a training user."""
    return strong_generalisation(datasets.make_interactions(4000, 24_600, mean_interactions=115, random_state=0))


SPLITS = {"ml-1m": lambda: load_split("ml-1m"), "wide": wide}


def compare(data, split, epochs, rounds):
    """Fit both in turns and print their times, figures and ratio."""
    n_users, n_items = split.train.shape
    seconds, cpu, ndcg, gemm = {name: [] for name in MODELS}, {name: [] for name in MODELS}, {}, []
    for _ in range(rounds):
        gemm.append(gemm_rate(n_items))
        for name, make in MODELS.items():
            before = time.process_time()
            model, took = timed(make(epochs).fit, split.train)
            seconds[name].append(took / epochs)
            cpu[name].append((time.process_time() - before) / epochs)
            if name not in ndcg:  # every round is the same fit again
                ndcg[name] = evaluate(model.decision_function, split.test_in, split.test_out)
    rate, flops = np.median(gemm), flops_per_epoch(n_users, n_items)
    print(
        f"{rounds} rounds of {epochs} epochs; matrix products at the decoder's shapes: {rate / 1e9:.1f} GFLOP/s "
        f"(float32, {torch.get_num_threads()} threads)"
    )
    print(f"counted work: {flops / 1e9:.0f} GFLOP an epoch, at least {flops / rate:.2f} s")
    for name, took in seconds.items():
        share = f", {flops / np.median(took) / rate:.0%} of the roofline" if name in TWINS else ""
        found = ndcg[name]
        print(
            f"  {name:8} {np.median(took):7.3f} s/epoch (min {min(took):.3f}, max {max(took):.3f}){share}, "
            f"{np.median(cpu[name]):.3f} CPU s; NDCG@100 {found.ndcg_100:.4f} +- {found.ndcg_100_se:.4f}"
        )
    for name in ("skvae", "default"):
        ratios, of_cpu = (np.divide(spent["plain"], spent[name]) for spent in (seconds, cpu))
        print(
            f"  plain / {name}: median {np.median(ratios):.2f} x (min {ratios.min():.2f}, max {ratios.max():.2f}), "
            f"of CPU time {np.median(of_cpu):.2f} x",
            flush=True,
        )


def flops_per_epoch(n_users, n_items):
    """Work that no exact epoch can leave out: 6 n (H I + H K + 2 K H).

    Two operations a multiply-add; three products a layer (values, gradient of the weights, gradient of the input) for
    the last layer (H x I), the decoder's first (K x H) and the encoder's last (H x 2K). The first layer is left out:
    its input is sparse. The plain model runs it dense, 4 n I H more, which are not counted to its credit.
    """
    return 6 * n_users * (HIDDEN * n_items + 3 * K * HIDDEN)


def gemm_rate(n_items, repeats=20):
    """Operations a second of the three products of the last layer, best half of the repeats."""
    h, W, d = torch.rand(BATCH, HIDDEN), torch.rand(HIDDEN, n_items), torch.rand(BATCH, n_items)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        h @ W, h.T @ d, d @ W.T
        seconds.append(time.perf_counter() - start)
    return 3 * 2 * BATCH * HIDDEN * n_items / np.median(np.sort(seconds)[: repeats // 2])


def memory(split):
    """Print the peak of one epoch of each model beyond data, weights and optimiser state."""
    n_items = split.train.shape[1]
    weights = 4 * (2 * n_items * HIDDEN + 3 * HIDDEN * K + n_items + 2 * HIDDEN + 2 * K)
    extra = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.npz"
        sp.save_npz(path, split.train)
        for name in TWINS:
            command = [sys.executable, __file__, "--child", name, str(path)]
            rise = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            extra[name] = rise - 3 * weights
            print(
                f"  {name:6} peak {rise / 1e6:6.0f} MB above the start of fit; less weights and optimiser state "
                f"({3 * weights / 1e6:.0f} MB): {extra[name] / 1e6:6.0f} MB; less gradients too: "
                f"{(extra[name] - weights) / 1e6:6.0f} MB"
            )
    print(
        f"  skvae / plain beyond data, weights and optimiser state: {extra['skvae'] / extra['plain']:.2f}", flush=True
    )


def child(name, path):
    """Print how far one epoch raises the peak resident memory of this process, in bytes."""
    X = sp.csr_matrix(sp.load_npz(path))
    MODELS[name](1).fit(X[:150, :50])  # what torch loads at its first step is nobody's working memory
    before = peak_memory()
    MODELS[name](1).fit(X)
    print(peak_memory() - before)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=SPLITS, default=tuple(SPLITS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help=f"default: {EPOCHS}")
    parser.add_argument(
        "--quick", action="store_true", help="two epochs: times and memory only, no quality to speak of"
    )
    parser.add_argument("--child", nargs=2, metavar=("MODEL", "PATH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return
    for data in args.data:
        try:
            split = SPLITS[data]()
        except OSError as error:
            print(f"\n{data} is left out: {error}")
            continue
        print(f"\n{data}: {split}", flush=True)
        compare(data, split, args.epochs or (2 if args.quick else EPOCHS[data]), args.rounds)
        memory(split)


if __name__ == "__main__":
    main()
