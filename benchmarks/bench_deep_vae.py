"""Two layers of latent variables against one: held-out log-likelihood of VAETransformer, row by row.

Each table is dealt to three folds. The columns are scaled by their training part, and left out where constant in it. A
difference is a mean over all rows, each held out once a seed, with its standard error over the rows.
"""

import argparse
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

from skvae import FactorAnalysisEM, VAETransformer

N_FOLDS = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="of the folds, and of the fit")
    parser.add_argument("--only", default="", help="tables whose name holds this")
    parser.add_argument("--quick", action="store_true", help="one seed of wine")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for name, (load, layers) in TABLES.items():
        if args.only in name and (not args.quick or name == "wine"):
            X = load()
            if X is None:
                print(f"{name}: left out, needs SKVAE_TEST_DATA")
            else:
                compare(name, X, layers, range(1 if args.quick else args.seeds))


def compare(name, X, layers, seeds):
    """Print the gain of two layers over one of the size of the first, and over one of both sizes together."""
    models = [layers[0], sum(layers), layers]
    scores = np.array([held_out(X, models, seed) for seed in seeds])  # (n_seeds, 3, n_rows, 2)
    (linear, *_), (small, large, deep) = scores[..., 1].mean(0), scores[..., 0].mean(0)
    gains = ", ".join(f"{mean(deep - other)} over one of {k}" for other, k in ((small, models[0]), (large, models[1])))
    print(
        f"{name}, {len(X):,} x {X.shape[1]}: factor analysis of {layers[0]} {linear.mean():.2f}, one layer of "
        f"{models[0]} {small.mean():.2f}, of {models[1]} {large.mean():.2f}, layers {layers} {deep.mean():.2f} nats a "
        f"row; two layers gain {gains}",
        flush=True,
    )


def mean(difference):
    """A mean and its standard error, in words."""
    return f"{difference.mean():+.3f} ({difference.std() / len(difference) ** 0.5:.3f})"


def held_out(X, models, seed):
    """Log p of every row by the fit to the other folds: of each model, and of factor analysis."""
    scores = np.empty((len(models), len(X), 2))
    for training, test in KFold(N_FOLDS, shuffle=True, random_state=seed).split(X):
        part = X[:, np.ptp(X[training], axis=0) > 0]
        scaler = StandardScaler().fit(part[training])
        seen, new = scaler.transform(part[training]), scaler.transform(part[test])
        factors = FactorAnalysisEM(models[0], tol=1e-6, max_iter=10_000, device="cpu").fit(seen)
        for number, n_components in enumerate(models):
            started = time.process_time()
            vae = VAETransformer(n_components, random_state=seed, device="cpu").fit(seen)
            seconds = time.process_time() - started
            scores[number, test, 0], scores[number, test, 1] = vae.score_samples(new), factors.score_samples(new)
            print(
                f"  {n_components}: kept {vae.nonlinear_}, active {vae.n_active_per_layer_}, {seconds:.1f} s",
                flush=True,
            )
    return scores


# -------------------------------------------------------------------------------------------------------------- tables
def planted(n_rows=1000, n_columns=12, seed=0):
    """A table of two levels: one variable moves three factors along a curve, and each factor has noise of its own."""
    rng = np.random.default_rng(seed)
    loadings, t = rng.normal(size=(3, n_columns)), rng.normal(size=n_rows)
    curve = 1.5 * np.stack([np.sin(2 * t), np.sign(t) * np.cos(2 * t), 0.7 * t], 1)
    factors = curve + 0.3 * rng.normal(size=(n_rows, 3))
    return factors @ loadings + 0.3 * rng.normal(size=(n_rows, n_columns))


def survey():
    """The 25 items of bfi, of people who answered all."""
    folder = os.environ.get("SKVAE_TEST_DATA")
    if folder is None:
        return None
    return pd.read_csv(Path(folder) / "small" / "bfi.csv").filter(regex=r"^[ACENO]\d$").dropna().to_numpy(float)


def digits():
    """Digits without pixels that are nearly always off."""
    X = load_digits().data
    return X[:, (X > 0).mean(0) > 0.02]


TABLES = {  # the data, and the sizes of the layers
    "planted": (planted, (3, 2)),
    "wine": (lambda: load_wine().data, (3, 2)),
    "diabetes": (lambda: load_diabetes().data, (3, 2)),
    "breast cancer": (lambda: load_breast_cancer().data, (5, 2)),
    "digits": (digits, (10, 5)),
    "bfi": (survey, (5, 3)),
}

if __name__ == "__main__":
    main()
