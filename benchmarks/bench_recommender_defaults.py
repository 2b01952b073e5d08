"""NDCG@100 of `MultVAERecommender()` less that of EASE, user by user, on sets of different density and shape.

``--rec-vae`` adds `RecVAERecommender()`, and what it has less Mult-VAE in its first setting.
"""

import argparse

import numpy as np
import scipy.sparse as sp
from _click_sets import SETS
from _peers import EASE_GRID, Popularity, tuned_ease
from _protocol import SEED, Figures, Split, blocks, rank, timed

from skvae import MultVAERecommender, RecVAERecommender
from skvae.metrics import holdout_split, ndcg_at_k


def split(X, deal):
    """15 % of the users (2,000 at most) to test, as many to validate; a fifth of their items hidden, one at least."""
    n_held = min(round(0.15 * X.shape[0]), 2000)
    users = np.random.RandomState(SEED + deal).permutation(X.shape[0])
    train, val, test = (X[np.sort(part)] for part in np.split(users, [len(users) - 2 * n_held, len(users) - n_held]))
    known = np.flatnonzero(np.bincount(train.indices, minlength=X.shape[1]))
    train, val, test = (sp.csr_matrix(part[:, known]) for part in (train, val, test))
    shown = (holdout_split(part, 0.2, random_state=SEED + deal + i) for i, part in enumerate((val, test)))
    return Split(train, *(part for pair in shown for part in pair))


def ndcg(score, X_in, X_out, block=1000):
    """NDCG@100 of each user with something hidden."""
    parts = [X_in[start : start + block] for start in blocks(X_in, block)]
    values = ndcg_at_k(X_out, ranked=np.vstack([rank(score(part), part) for part in parts]), k=100, per_user=True)
    return values[np.isfinite(values)]


def mean_and_error(values):
    return f"{values.mean():.4f} +- {values.std(ddof=1) / np.sqrt(len(values)):.4f}"


def compare(data, deal, settings, rec_vae=False):
    """Print the figures of one split."""
    parts = split(SETS[data](), deal)
    X = parts.train
    print(f"\n{data}, split {deal}: {X.shape[0]:,} x {X.shape[1]:,}, {X.nnz / X.shape[0]:.1f} items a user", flush=True)
    ease, on_val = tuned_ease(parts, lambda score, *held: Figures(*[ndcg(score, *held).mean()] * 6))
    ease.fit(X)
    models = {"popularity": Popularity().fit(X), f"EASE, L2 {ease.l2:g} of {len(EASE_GRID)}": ease}
    base = ndcg(ease.decision_function, parts.test_in, parts.test_out)
    for decoder_units in settings:
        model = MultVAERecommender(decoder_units=decoder_units, random_state=deal)
        _, took = timed(model.fit, X)
        models[f"decoder_units={decoder_units} ({model.decoder_units_}), {took:.1f} s"] = model
    found = {name: ndcg(model.decision_function, parts.test_in, parts.test_out) for name, model in models.items()}
    for name, values in found.items():
        print(f"  {name:34} {mean_and_error(values)}   less EASE {mean_and_error(values - base)}", flush=True)
    if rec_vae:
        model = RecVAERecommender(random_state=deal)
        _, took = timed(model.fit, X)
        values = ndcg(model.decision_function, parts.test_in, parts.test_out)
        less = mean_and_error(values - found[list(models)[2]])
        name = f"RecVAE, {took:.1f} s"
        print(
            f"  {name:34} {mean_and_error(values)}   less EASE {mean_and_error(values - base)}   less Mult-VAE {less}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=SETS, default=tuple(SETS))
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--decoder-units", nargs="+", default=["auto"], help="widths to compare, such as auto 0 300")
    parser.add_argument("--rec-vae", action="store_true")
    args = parser.parse_args()
    settings = [units if units == "auto" else int(units) for units in args.decoder_units]
    for data in args.data:
        for deal in range(args.splits):
            compare(data, deal, settings, args.rec_vae)


if __name__ == "__main__":
    main()
