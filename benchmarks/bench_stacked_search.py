"""The stacked search beside GridSearchCV: seconds of wall clock and of CPU, and whether both find the same winner.

24 candidates (6 beta x 4 n_components) in 3 folds of digits, and the refit; the ways take turns, each in a process of
its own with as many threads of arithmetic as it takes by itself, or as asked for. CPU seconds are those of a process
and its workers; threads that wait for the next operation count, too.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np

WAYS = ("GridSearchCV", "GridSearchCV, 2 jobs", "StackedGridSearchCV", "StackedGridSearchCV, 2 jobs")
GRID = {"beta": [0.25, 0.5, 1.0, 2.0, 4.0, 8.0], "n_components": [2, 4, 8, 16]}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scoring", choices=("elbo", "score"), nargs="+", default=["elbo", "score"])
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=list(WAYS))
    parser.add_argument("--threads", type=int, help="of arithmetic in a process; by default the machine's")
    parser.add_argument("--quick", action="store_true", help="5 epochs, one round")
    parser.add_argument("--run", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, default=30, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.epochs = 1, 5
    if args.run:
        return print(json.dumps(search(args.run, args.scoring[0], args.epochs)))
    for scoring in args.scoring:
        print(f"digits, 24 candidates x 3 folds, {args.epochs} epochs, scored by {scoring}; {args.rounds} rounds")
        compare(args.ways, scoring, args.epochs, args.rounds, args.threads)


def compare(ways, scoring, epochs, rounds, threads):
    found = {way: [] for way in ways}
    env = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    for _ in range(rounds):
        for way in ways:
            run = [sys.executable, __file__, "--run", way, "--scoring", scoring, "--epochs", str(epochs)]
            found[way].append(
                json.loads(subprocess.run(run, check=True, capture_output=True, text=True, env=env).stdout)
            )
    first = found[ways[0]]
    for way, runs in found.items():
        wall, cpu = (np.array([run[kind] for run in runs]) for kind in ("wall", "cpu"))
        faster = [
            np.median(np.array([run[kind] for run in first]) / now) for kind, now in (("wall", wall), ("cpu", cpu))
        ]
        gap = np.abs(np.array(runs[0]["scores"]) - first[0]["scores"]).max()
        print(
            f"  {way:28} wall {np.median(wall):6.1f} s ({wall.min():.1f} to {wall.max():.1f}), {faster[0]:4.1f} x; "
            f"CPU {np.median(cpu):6.1f} s, {faster[1]:4.1f} x; best {runs[0]['best']}, scores differ by {gap:.0e}"
        )


def search(way, scoring, epochs):
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV, KFold

    from skvae import VAETransformer
    from skvae.model_selection import StackedGridSearchCV

    X = load_digits().data
    vae = VAETransformer(
        hidden_layer_sizes=(64,),
        early_stopping=False,
        max_iter=epochs,
        batch_size=128,
        learning_rate=1e-3,
        random_state=0,
    )
    vae.set_params(max_iter=1).fit(X)  # libraries loaded
    kind = StackedGridSearchCV if way.startswith("Stacked") else GridSearchCV
    folds = KFold(3, shuffle=True, random_state=0)
    how = {"n_jobs": 2 if "2 jobs" in way else None, "scoring": mean_elbo if scoring == "elbo" else None}
    model = kind(vae.set_params(max_iter=epochs), GRID, cv=folds, **how)
    began, cpu = time.perf_counter(), cpu_seconds()
    model.fit(X)
    wall, cpu = time.perf_counter() - began, cpu_seconds() - cpu
    return {
        "wall": wall,
        "cpu": cpu,
        "best": model.best_params_,
        "scores": model.cv_results_["mean_test_score"].tolist(),
    }


def mean_elbo(model, X, y=None):
    return float(model.elbo(X).mean())


def cpu_seconds():
    """Of this process and all workers that it started."""
    import psutil

    process = psutil.Process()
    every = [process, *process.children(recursive=True)]
    return sum(part.user + part.system for part in (each.cpu_times() for each in every))


if __name__ == "__main__":
    main()
