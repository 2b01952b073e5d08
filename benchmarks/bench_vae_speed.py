"""Seconds per epoch of a variational autoencoder: skvae beside pythae, skorch and a plain DataLoader loop.

Same network, likelihood, batch size, optimiser and epochs, in one process, in turns; after each fit the bound that it
reaches on held-out rows. Beside the times stands the share of the roofline: the time of the bare matrix products of the
same shapes over that of the whole fit. Memory is taken in a fresh process for each, in which only that model is fitted.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from _protocol import forget_peak, peak_memory
from _vae_peers import FITS, installed

CASES = {  # rows, (columns, hidden, latent), batch size, epochs
    "60k x 784, batch 128": (60_000, (784, 400, 20), 128, 3),
    "60k x 784, batch 512": (60_000, (784, 400, 20), 512, 3),
    "50k x 32, batch 128": (50_000, (32, 64, 8), 128, 10),
}
TARGETS = {  # times as fast per epoch, of processor time
    "60k x 784, batch 128": {"pythae": 2.0, "skorch": 1.6},
    "50k x 32, batch 128": {"pythae": 2.5, "skorch": 2.5},
}
N_HELD_OUT = 5000


def planted(n, d, n_factors=10, seed=0):
    """Rows of a logistic model with ten factors, float32 zeros and ones; the last `N_HELD_OUT` are held out."""
    rng = np.random.default_rng(seed)
    W, b = rng.normal(size=(n_factors, d)), rng.normal(size=d) - 1
    X = np.empty((n + N_HELD_OUT, d), dtype=np.float32)
    for rows in np.array_split(np.arange(len(X)), 20):
        f = rng.normal(size=(len(rows), n_factors)) @ W + b
        X[rows] = rng.random(f.shape) < 1 / (1 + np.exp(-f))
    return X[:n], X[n:]


def mnist():
    """Digits with pixels above 127 as ones, from the folder named by SKVAE_TEST_DATA; None without them."""
    folder = os.environ.get("SKVAE_TEST_DATA")
    paths = [Path(folder or ".") / f"mnist/{part}-images-idx3-ubyte.gz" for part in ("train", "t10k")]
    if not folder or not all(path.is_file() for path in paths):
        return None
    train, test = (np.frombuffer(gzip.open(path).read(), np.uint8, offset=16).reshape(-1, 784) for path in paths)
    return (train > 127).astype(np.float32), (test[:N_HELD_OUT] > 127).astype(np.float32)


def data_of(n, d):
    """Training and held-out rows."""
    return (mnist() if d == 784 and n == 60_000 else None) or planted(n, d)


def products(shape, batch_size):
    """Pairs of matrices whose products are all that an epoch's step cannot leave out.

    Three for each layer (values, gradient of the weights, gradient of the input), but for the first, whose input needs
    no gradient.
    """
    d, hidden, k = shape
    pairs = []
    for n_in, n_out in ((d, hidden), (hidden, k), (hidden, k), (k, hidden), (hidden, d)):
        h, W, g = torch.rand(batch_size, n_in), torch.rand(n_in, n_out), torch.rand(batch_size, n_out)
        pairs += [(h, W), (h.T, g)] + ([] if n_in == d and n_out == hidden else [(g, W.T)])
    return pairs


def floor(n, shape, batch_size, repeats=60):
    """Processor seconds of an epoch's matrix products, the median of many, and their operations a second."""
    pairs = [(a, b, torch.empty(len(a), b.shape[1])) for a, b in products(shape, batch_size)]
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        for a, b, out in pairs:
            torch.mm(a, b, out=out)
        seconds.append(time.process_time() - start)
    step = np.median(seconds)
    flops = sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b, _ in pairs)
    return step * n / batch_size, flops / step


def compare(case, names, rounds, epochs):
    """Fit all in turns, and print their times, bounds and ratios."""
    n, shape, batch_size, usual = CASES[case]
    X, held_out = data_of(n, shape[0])
    epochs = epochs or usual
    cpu, wall, bounds, floors = {name: [] for name in names}, {name: [] for name in names}, {}, []
    for name in names:  # what is loaded and built at a first call is nobody's epoch
        FITS[name](X[:500], shape, batch_size, 1)
    for _ in range(rounds):
        floors.append(floor(n, shape, batch_size))
        for name in names:
            of_wall, of_cpu = time.perf_counter(), time.process_time()
            model = FITS[name](X, shape, batch_size, epochs)
            cpu[name].append((time.process_time() - of_cpu) / epochs)
            wall[name].append((time.perf_counter() - of_wall) / epochs)
            if name not in bounds:
                bounds[name] = model.bound(held_out)
    least, rate = (float(np.median(part)) for part in zip(*floors, strict=True))
    print(
        f"{rounds} rounds of {epochs} epochs; matrix products at these shapes: {rate / 1e9:.1f} GFLOP/s (float32, "
        f"{torch.get_num_threads()} threads), at least {least:.3f} CPU s an epoch"
    )
    for name in names:
        print(
            f"  {name:7} {np.median(cpu[name]):7.3f} CPU s/epoch (min {min(cpu[name]):.3f}, max {max(cpu[name]):.3f}), "
            f"{np.median(wall[name]):7.3f} s; {least / np.median(cpu[name]):4.0%} of the roofline; held-out bound "
            f"{bounds[name]:.2f}"
        )
    for name in names[1:]:
        ratios, target = np.divide(cpu[name], cpu["skvae"]), TARGETS.get(case, {}).get(name)
        aim = f"; aim {target}" if target else ""
        print(
            f"  {name} / skvae: median {np.median(ratios):.2f} x (min {ratios.min():.2f}, max {ratios.max():.2f}){aim}",
            flush=True,
        )


def memory(case, names):
    """Print how far one epoch of each raises the peak above the rows themselves."""
    n, shape, _, _ = CASES[case]
    for name in names:
        command = [sys.executable, __file__, "--child", name, case]
        rise = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(
            f"  {name:7} peak {rise / 2**20:5.0f} MiB above the start of fit; X has {4 * n * shape[0] / 2**20:.0f} MiB"
        )


def child(name, case):
    """Print how far one epoch raises the peak resident memory of this process, in bytes."""
    n, shape, batch_size, _ = CASES[case]
    X = data_of(n, shape[0])[0]
    FITS[name](X[:500], shape, batch_size, 1)
    before = forget_peak()
    FITS[name](X, shape, batch_size, 1)
    print(peak_memory() - before)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=tuple(CASES))
    parser.add_argument("--models", nargs="+", choices=tuple(FITS)[1:], default=tuple(FITS)[1:], help="beside skvae")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one round of one epoch")
    parser.add_argument("--child", nargs=2, metavar=("MODEL", "CASE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return
    names = [name for name in installed() if name in ("skvae", *args.models)]
    for case in args.cases:
        print(f"\n{case}", flush=True)
        compare(case, names, 1 if args.quick else args.rounds, 1 if args.quick else args.epochs)
        if not args.no_memory:
            memory(case, names)


if __name__ == "__main__":
    main()
