"""VAETransformer() as it comes against factor analysis of the same K: held-out likelihood, imputation, binarised MNIST.

Four parts: "likelihood", "imputation", "discrete" (tables of categories), and, with --mnist EPOCHS, the test
log-likelihood of MNIST.
"""

import argparse
import gzip
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

from skvae import BernoulliMixtureEM, FactorAnalysisEM, VAETransformer

N_FOLDS = 3
N_CONVERGED = {"tol": 1e-6, "max_iter": 10_000, "device": "cpu"}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="of the folds or the hidden cells, and of the fit")
    parser.add_argument("--only", default="", help="parts and data sets whose name holds this, as in 'imputation wine'")
    parser.add_argument("--quick", action="store_true", help="one seed; wine and breast cancer only")
    parser.add_argument("--mnist", type=int, metavar="EPOCHS", help="and MNIST, nothing else")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.mnist:
        mnist(args.mnist)
        return
    seeds = range(1 if args.quick else args.seeds)
    for part, names in ((likelihood, LIKELIHOOD), (imputation, IMPUTATION)):
        for name in ("wine", "breast cancer") if args.quick else names:
            if args.only not in f"{part.__name__} {name}":
                continue
            load, n_components = SETS[name]
            X = load()
            if X is None:
                print(f"{name}: left out, needs SKVAE_TEST_DATA")
            else:
                part(name, X, n_components, seeds)
    for name, (load, n_components, classes) in () if args.quick else DISCRETE.items():
        if args.only in f"discrete {name}":
            discrete(name, load(), n_components, classes, seeds)


# -------------------------------------------------------------------------------------------------- held-out likelihood
def likelihood(name, X, n_components, seeds):
    """Three folds a seed; columns scaled by their training part, and left out where constant in it."""
    found = np.array([[held_out(X, n_components, *fold, seed) for fold in folds(X, seed)] for seed in seeds])
    linear, network, kept, seconds = found.transpose(2, 0, 1)
    gain = (network - linear).mean(1)
    print(
        f"likelihood, {name}, {len(X):,} x {X.shape[1]}, K={n_components}: factor analysis {linear.mean():.2f}, "
        f"VAE {network.mean():.2f} nats a row, gain {gain.mean():+.2f} (by seed {' '.join(f'{g:+.2f}' for g in gain)}; "
        f"lowest fold {(network - linear).min():+.2f}); network kept in {kept.sum():.0f} of {kept.size}; "
        f"{np.median(seconds):.1f} s a fit",
        flush=True,
    )


def folds(X, seed):
    return KFold(N_FOLDS, shuffle=True, random_state=seed).split(X)


def held_out(X, n_components, training, test, seed):
    X = X[:, np.ptp(X[training], axis=0) > 0]
    scaler = StandardScaler().fit(X[training])
    seen, new = scaler.transform(X[training]), scaler.transform(X[test])
    factors = FactorAnalysisEM(n_components, **N_CONVERGED).fit(seen)
    started = time.process_time()
    vae = VAETransformer(n_components, random_state=seed, device="cpu").fit(seen)
    return factors.score(new), vae.score(new), vae.nonlinear_, time.process_time() - started


# ----------------------------------------------------------------------------------------------------------- imputation
def imputation(name, X, n_components, seeds):
    """Cells hidden at random from the whole table, standardised; mean squared error of what is put into them."""
    X = StandardScaler().fit_transform(X[:, np.ptp(X, axis=0) > 0])
    for share in (0.2, 0.5):
        factors, vae, mean = np.array([errors(X, n_components, share, seed) for seed in seeds]).T
        print(
            f"imputation, {name}, {share:.0%} of the cells hidden, K={n_components}: squared error of factor analysis "
            f"{factors.mean():.3f}, VAE {vae.mean():.3f} (by seed, less factor analysis: "
            f"{' '.join(f'{change:+.3f}' for change in vae - factors)}), column means {mean.mean():.3f}",
            flush=True,
        )


def errors(X, n_components, share, seed):
    hidden = np.random.default_rng(seed).random(X.shape) < share
    holes = np.where(hidden, np.nan, X)
    factors = FactorAnalysisEM(n_components, **N_CONVERGED)
    vae = VAETransformer(n_components, random_state=seed, device="cpu")
    filled = [model.fit(holes).impute(holes) for model in (factors, vae)]
    filled.append(np.broadcast_to(np.nanmean(holes, axis=0), X.shape))
    return [np.square(values - X)[hidden].mean() for values in filled]


# ------------------------------------------------------------------------------------------------- tables of categories
def discrete(name, table, n_components, classes, seeds):
    """Three folds a seed, against independent columns and the latent class model with the best BIC."""
    codes = table.apply(lambda column: column.cat.codes).to_numpy(np.float64)
    found = []
    for seed in seeds:
        for training, test in folds(codes, seed):
            models = [
                BernoulliMixtureEM(k, n_init=5, random_state=0, **CATEGORIES).fit(codes[training]) for k in classes
            ]
            best = min(models, key=lambda model: model.bic(codes[training]))
            vae = VAETransformer(n_components, likelihood="auto", random_state=seed, device="cpu")
            vae.fit(table.iloc[training])
            scores = vae.score_samples(table.iloc[test], n_draws=1000).mean()
            found.append((independence(codes[training], codes[test]), best.score(codes[test]), scores))
    columns, classes, vae = np.mean(found, axis=0)
    print(
        f"discrete, {name}, {len(table):,} rows, {len(table.drop_duplicates()):,} distinct, K={n_components}: "
        f"independent columns {columns:.2f}, latent classes {classes:.2f}, VAE {vae:.2f} nats a row",
        flush=True,
    )


def independence(training, test):
    """Mean log-probability of the test rows by frequencies of the columns, half a count added."""
    total = 0.0
    for seen, new in zip(training.T.astype(int), test.T.astype(int), strict=True):
        counts = np.bincount(seen, minlength=max(seen.max(), new.max()) + 1) + 0.5
        total = total + np.log(counts / counts.sum())[new]
    return total.mean()


def categories(frame):
    """All columns as categories."""
    return frame.astype(str).astype("category")


def titanic():
    """The 2,201 people on board: class, sex, age and survival (Dawson, Journal of Statistics Education 3, 1995)."""
    people = [
        (*who, outcome)
        for who, counts in TITANIC.items()
        for outcome, count in zip(("died", "survived"), counts, strict=True)
        for _ in range(count)
    ]
    return categories(pd.DataFrame(people, columns=["class", "sex", "age", "outcome"]))


def survey(n=600, seed=0):
    """Answers of three planted classes to six questions with four answers."""
    rng = np.random.default_rng(seed)
    classes, shares = rng.integers(0, 3, n), rng.dirichlet(np.ones(4) * 0.7, (3, 6))
    return categories(
        pd.DataFrame([[rng.choice(4, p=shares[k, j]) for k in classes] for j in range(6)]).T.add_prefix("q")
    )


def pairs():
    """Ten rows, sixty times each: one column tells the other."""
    return categories(pd.DataFrame({"a": list("abcdefghij") * 60, "b": list("ABCDEFGHIJ") * 60}))


# ---------------------------------------------------------------------------------------------------------------- MNIST
def mnist(n_epochs, n_rows=1000, n_draws=500, published=3280):
    """The network of Burda et al. (ICLR 2016), 784-200-200-50, pixels drawn anew from their grey in every epoch."""
    grey, test = (read_images(f"{part}-images-idx3-ubyte.gz") for part in ("train", "t10k"))
    if grey is None or test is None:
        print("MNIST: left out, needs SKVAE_TEST_DATA")
        return
    test = binarised(test, np.random.default_rng(0))
    some = test[np.random.default_rng(1).choice(len(test), n_rows, replace=False)]
    vae = VAETransformer(
        50, hidden_layer_sizes=(200, 200), likelihood="bernoulli", batch_size=128, random_state=0, device="cpu"
    )
    rng, seconds = np.random.default_rng(2), 0.0
    for epoch in range(n_epochs):
        rate = 1e-3 if epoch < 0.75 * n_epochs else 1e-4
        X = binarised(grey, rng)
        started = time.process_time()
        vae.set_params(learning_rate=rate).partial_fit(X)
        seconds += time.process_time() - started
        print(f"  epoch {epoch + 1}, {seconds:.0f} s: bound {vae.lower_bounds_[-1]:.2f} in training", flush=True)
    each = vae.score_samples(some, n_draws=n_draws)
    error = each.std() / np.sqrt(n_rows)
    bounds = vae.elbo(some).mean(), vae.elbo(test).mean()
    print(f"MNIST, pixels drawn anew in every epoch, 784-200-200-50, {n_epochs} epochs, {seconds:.0f} s of one core:")
    print(f"  log p(x) of {n_rows:,} test images {each.mean():.2f} +- {error:.2f} nats by {n_draws} draws")
    print(
        f"  bound of these {bounds[0]:.2f}, of all test images {bounds[1]:.2f}; {vae.n_active_} of 50 dimensions active"
    )
    hours = published * seconds / n_epochs / 3600
    print(f"  published -86.76, by {published:,} epochs, which would take {hours:.1f} hours at this speed")


def binarised(grey, rng):
    return (rng.random(grey.shape, dtype=np.float32) < grey).astype(np.float32)


# ----------------------------------------------------------------------------------------------------------------- data
def data_file(name):
    folder = os.environ.get("SKVAE_TEST_DATA")
    path = Path(folder or ".") / name
    return path if folder and path.exists() else None


def read_images(name):
    path = data_file(f"mnist/{name}")
    if path is None:
        return None
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784).astype(np.float32) / 255


def frey_faces():
    from scipy.io import loadmat

    path = data_file("frey_faces/frey_rawface.mat")
    return None if path is None else loadmat(path)["ff"].T.astype(np.float64)


def covertype(n_rows=3000):
    path = data_file("covtype_ramp_test.csv.gz")
    if path is None:
        return None
    X = np.loadtxt(path, delimiter=",", skiprows=1, usecols=range(10))
    return X[np.random.default_rng(0).choice(len(X), n_rows, replace=False)]


def planted(n=600, d=10, n_components=3, seed=0):
    """Drawn from factor analysis itself: there is nothing to gain."""
    rng = np.random.default_rng(seed)
    noise = rng.uniform(0.4, 1.0, d)
    return rng.normal(size=(n, n_components)) @ rng.normal(size=(n_components, d)) + rng.normal(size=(n, d)) * noise


SETS = {
    "iris": (lambda: load_iris().data, 2),
    "wine": (lambda: load_wine().data, 3),
    "diabetes": (lambda: load_diabetes().data, 3),
    "breast cancer": (lambda: load_breast_cancer().data, 5),
    "digits": (lambda: load_digits().data, 10),
    "planted linear, 130 rows": (lambda: planted(130), 3),
    "planted linear, 600 rows": (planted, 3),
    "Covertype, part": (covertype, 3),
    "Frey faces": (frey_faces, 10),
}
TITANIC = {  # (died, survived)
    ("1st", "man", "child"): (0, 5),
    ("1st", "man", "adult"): (118, 57),
    ("1st", "woman", "child"): (0, 1),
    ("1st", "woman", "adult"): (4, 140),
    ("2nd", "man", "child"): (0, 11),
    ("2nd", "man", "adult"): (154, 14),
    ("2nd", "woman", "child"): (0, 13),
    ("2nd", "woman", "adult"): (13, 80),
    ("3rd", "man", "child"): (35, 13),
    ("3rd", "man", "adult"): (387, 75),
    ("3rd", "woman", "child"): (17, 14),
    ("3rd", "woman", "adult"): (89, 76),
    ("crew", "man", "adult"): (670, 192),
    ("crew", "woman", "adult"): (3, 20),
}
DISCRETE = {
    "Titanic": (titanic, 2, (1, 2, 3, 4, 6)),
    "survey": (survey, 2, (1, 2, 3, 4)),
    "pairs": (pairs, 2, (2, 5, 10)),
}
CATEGORIES = {"binarize": None, "categorical_features": "all", "handle_unknown": "missing"}
LIKELIHOOD = tuple(SETS)
IMPUTATION = ("wine", "breast cancer", "digits")


if __name__ == "__main__":
    main()
