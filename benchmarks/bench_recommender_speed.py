"""Fits, lists, quality and memory of recommenders side by side: skvae, the plain Mult-VAE, EASE and other packages.

The plain script, skvae in float32 and in bfloat16, Cornac's VAECF and irspack's MultVAERecommender fit one network
(600-200-600) with batches of 100 and the same epochs. `MultVAERecommender()` as it comes, EASE in NumPy and implicit's
ALS stand beside them. All are fitted in one process, in turns, and judged by one code. Peers that are not installed are
left out.
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
from _peers import EASE, CornacVAECF, ImplicitALS, IrspackMultVAE, PlainMultVAE, published
from _protocol import evaluate, load_split, peak_memory, rank, strong_generalisation, timed

from skvae import datasets

HIDDEN, K, BATCH = 600, 200, 100
MODELS = {
    "plain": lambda epochs: PlainMultVAE(HIDDEN, K, epochs, BATCH),
    "skvae": lambda epochs: published(epochs, BATCH, n_components=K, hidden_layer_sizes=(HIDDEN,)),
    "skvae bfloat16": lambda epochs: MODELS["skvae"](epochs).set_params(precision="bfloat16"),
    "default": lambda epochs: default(epochs),
    "default bfloat16": lambda epochs: default(epochs).set_params(precision="bfloat16"),
    "EASE": lambda epochs: EASE(500.0),
    "implicit ALS": lambda epochs: ImplicitALS(),
    "Cornac VAECF": lambda epochs: CornacVAECF(HIDDEN, K, epochs, BATCH),
    "irspack": lambda epochs: IrspackMultVAE(HIDDEN, K, epochs, BATCH),
}
TWINS = ("plain", "skvae", "skvae bfloat16", "irspack")  # of one network
WITHOUT_EPOCHS = ("EASE", "implicit ALS")
EPOCHS = {"ml-1m": 30, "wide": 10}  # the longest run of each that still leaves time for three
TOO_WIDE = ("EASE",)  # with 20,000 items: an inverse of 3 GB


def installed(names):
    """Leave out, with a line, what is not installed here."""
    found = []
    for name in names:
        try:
            MODELS[name](1)
            found.append(name)
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return found


def default(epochs):
    """`MultVAERecommender()`: another network and other batches, for the time to the quality that a user gets."""
    from skvae import MultVAERecommender

    return MultVAERecommender(max_iter=epochs, early_stopping=False, random_state=0)


def wide():
    """4,000 users, drawn with planted factors, some 90 items each; some 20,000 of the items have a training user."""
    return strong_generalisation(datasets.make_interactions(4000, 24_600, mean_interactions=115, random_state=0))


SPLITS = {"ml-1m": lambda: load_split("ml-1m"), "wide": wide}


def compare(data, split, epochs, rounds, names):
    """Fit all in turns and print their times, figures and ratios."""
    n_users, n_items = split.train.shape
    spent, cpu, lists, found, gemm = {}, {}, {}, {}, []
    for _ in range(rounds):
        gemm.append(gemm_rate(n_items))
        for name in names:
            before = time.process_time()
            model, took = timed(MODELS[name](epochs).fit, split.train)
            spent.setdefault(name, []).append(took)
            cpu.setdefault(name, []).append(time.process_time() - before)
            lists.setdefault(name, []).append(timed(top_100, model, split.test_in)[1])
            if name not in found:  # every round is the same fit again
                found[name] = evaluate(model.decision_function, split.test_in, split.test_out)
    rate, flops = np.median(gemm), flops_per_epoch(n_users, n_items)
    print(
        f"{rounds} rounds of {epochs} epochs; matrix products at the decoder's shapes: {rate / 1e9:.1f} GFLOP/s "
        f"(float32, {torch.get_num_threads()} threads)\n"
        f"counted work: {flops / 1e9:.0f} GFLOP an epoch, at least {flops / rate:.2f} s in float32"
    )
    for name in names:
        epoch = "" if name in WITHOUT_EPOCHS else f"{np.median(spent[name]) / epochs:7.3f} s/epoch"
        share = f"{flops * epochs / np.median(spent[name]) / rate:4.0%} of the roofline" if name in TWINS else ""
        print(
            f"  {name:16} fit {np.median(spent[name]):7.2f} s {epoch:15} {np.median(cpu[name]):7.2f} CPU s, lists "
            f"{np.median(lists[name]):6.3f} s; NDCG@100 {found[name].ndcg_100:.4f} +- {found[name].ndcg_100_se:.4f}, "
            f"Recall@20 {found[name].recall_20:.4f}, Recall@50 {found[name].recall_50:.4f} {share}"
        )
    for name in [name for name in names if name != "plain"] if "plain" in names else []:
        ratios, of_cpu = (np.divide(each["plain"], each[name]) for each in (spent, cpu))
        print(
            f"  plain / {name}: median {np.median(ratios):.2f} x (min {ratios.min():.2f}, max {ratios.max():.2f}), "
            f"of CPU time {np.median(of_cpu):.2f} x",
            flush=True,
        )


def top_100(model, X):
    """Lists of 100 for all held-out users, by the model's own method where it has one."""
    if hasattr(model, "recommend"):
        return model.recommend(X, k=100)
    return rank(model.decision_function(X), X)


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


def memory(split, names):
    """Print the peak of one epoch or fit of each model above the data; of twins, what is left without their weights."""
    n_items = split.train.shape[1]
    weights = 4 * (2 * n_items * HIDDEN + 3 * HIDDEN * K + n_items + 2 * HIDDEN + 2 * K)
    extra = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.npz"
        sp.save_npz(path, split.train)
        for name in names:
            command = [sys.executable, __file__, "--child", name, str(path)]
            rise = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            beyond = ""
            if name in TWINS:
                extra[name] = rise - 3 * weights
                beyond = (
                    f"; less weights and optimiser state ({3 * weights / 1e6:.0f} MB): {extra[name] / 1e6:6.0f} MB; "
                    f"less gradients too: {(extra[name] - weights) / 1e6:6.0f} MB"
                )
            print(f"  {name:16} peak {rise / 1e6:6.0f} MB above the start of fit{beyond}", flush=True)
    for name in set(extra) - {"plain"} if "plain" in extra else ():
        print(f"  {name} / plain beyond data, weights and optimiser state: {extra[name] / extra['plain']:.2f}")


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
    parser.add_argument("--models", nargs="+", choices=MODELS, default=tuple(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help=f"default: {EPOCHS}")
    parser.add_argument(
        "--quick", action="store_true", help="two epochs: times and memory only, no quality to speak of"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out the fits that measure memory")
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
        names = installed([name for name in args.models if data == "ml-1m" or name not in TOO_WIDE])
        compare(data, split, args.epochs or (2 if args.quick else EPOCHS[data]), args.rounds, names)
        if not args.no_memory:
            memory(split, names)


if __name__ == "__main__":
    main()
