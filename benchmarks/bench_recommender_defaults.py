"""NDCG@100 of `MultVAERecommender()` less that of EASE, user by user, on sets of different density and shape.

``--rec-vae`` adds `RecVAERecommender()`, and what it has less Mult-VAE in its first setting.
"""

import argparse

import numpy as np
from _click_sets import SETS, split_users
from _peers import EASE_GRID, Popularity, tuned_ease
from _protocol import Figures, measured, timed

from skvae import MultVAERecommender, RecVAERecommender


def ndcg(score, X_in, X_out):
    """NDCG@100 of each user with something hidden."""
    return measured(score, X_in, X_out)[0]


def mean_and_error(values):
    return f"{values.mean():.4f} +- {values.std(ddof=1) / np.sqrt(len(values)):.4f}"


def compare(data, deal, settings, rec_vae=False):
    """Print the figures of one split."""
    parts = split_users(SETS[data](), deal)
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
