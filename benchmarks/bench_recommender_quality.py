"""How well the hidden items rank: skvae beside popularity, EASE and the published Mult-VAE, on five data sets."""

import argparse

import numpy as np
from _peers import EASE_GRID, PlainMultVAE, Popularity, published, tuned_ease
from _protocol import DATA, DEALS, Figures, evaluate, load_split, timed

# The published network needs 1,000 steps or so and no more: fewer epochs of larger batches where users are many.
PORT_SETTING = {"draw-100k": {"epochs": 10, "batch_size": 500}}
QUICK = ("ml-100k", "api", "draw-100")
COLUMNS = ("data", "model", "NDCG@100", "Recall@20", "Recall@50", "fit s", "remark")


def popularity(split, data, seed):
    return Popularity(), ""


def ease(split, data, seed):
    model, on_val = tuned_ease(split, evaluate)
    edge = " (edge of the grid)" if model.l2 in (EASE_GRID[0], EASE_GRID[-1]) else ""
    print(f"  ease: NDCG@100 of the validation users by L2: { {l2: round(found, 4) for l2, found in on_val.items()} }")
    return model, f"L2 {model.l2:g}{edge}"


def plain(split, data, seed):
    model = PlainMultVAE(seed=seed, **PORT_SETTING.get(data, {}))
    return model, f"600-200-600, {model.epochs} epochs of batches of {model.batch_size}"


def skvae_published(split, data, seed):
    model = published(seed=seed, **PORT_SETTING.get(data, {}))
    return model, f"600-200-600, {model.max_iter} epochs of batches of {model.batch_size}"


def skvae_default(split, data, seed):
    from skvae import MultVAERecommender

    return MultVAERecommender(random_state=seed), "MultVAERecommender()"


MODELS = {
    "popularity": popularity,
    "ease": ease,
    "plain": plain,
    "skvae-published": skvae_published,
    "skvae": skvae_default,
}


def run(data, names, n_deals):
    """Rows of the table for one data set: each model's figures over all deals of the users."""
    figures, seconds, remarks = {}, {}, {}
    for deal in range(n_deals):
        split = load_split(data, deal)
        print(f"\n{data}, deal {deal}: {split}", flush=True)
        for name in names:
            model, remark = MODELS[name](split, data, deal)
            _, took = timed(model.fit, split.train)
            found = evaluate(model.decision_function, split.test_in, split.test_out)
            print(f"  {name:16} {show(found)}  {took:8.2f} s  {remark}", flush=True)
            figures.setdefault(name, []).append(found)
            seconds.setdefault(name, []).append(took)
            remarks.setdefault(name, []).append(remark)
    return [(data, name, *cells(mean(figures[name])), *last(seconds[name], remarks[name])) for name in names]


def last(seconds, remarks):
    """The cells of the last two columns."""
    found = [" / ".join(dict.fromkeys(remark for remark in remarks if remark))]
    deals = [f"{len(seconds)} deals"] if len(seconds) > 1 else []
    return f"{np.median(seconds):.2f}", "; ".join(filter(None, found + deals))


def mean(found):
    """Mean over deals. Their test users overlap little, so the variances of the means add."""
    found = np.array(found)
    return Figures(*found[:, :3].mean(0), *(np.sqrt((found[:, 3:] ** 2).sum(0)) / len(found)))


def cells(f):
    return [f"{value:.4f} +- {error:.4f}" for value, error in zip(f[:3], f[3:])]


def show(f):
    return "  ".join(f"{label} {cell}" for label, cell in zip(COLUMNS[2:5], cells(f)))


def rst(rows):
    """A simple table of reStructuredText."""
    table = [COLUMNS, *rows]
    width = [max(len(row[i]) for row in table) for i in range(len(COLUMNS))]
    rule = "  ".join("=" * w for w in width)
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, width)).rstrip() for row in table]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=tuple(MODELS))
    parser.add_argument(
        "--seeds", type=int, help="deals of the users for every data set (default: more where few users)"
    )
    parser.add_argument("--rst", help="write the table to this file as well")
    parser.add_argument("--quick", action="store_true", help=f"one deal of {', '.join(QUICK)} each")
    args = parser.parse_args()
    rows = []
    for data in QUICK if args.quick else args.data:
        try:
            rows += run(data, args.models, args.seeds or (1 if args.quick else DEALS[data]))
        except OSError as error:
            print(f"\n{data} is left out: {error}")
    table = rst(rows)
    print(f"\n{table}")
    if args.rst:
        with open(args.rst, "w") as file:
            file.write(table + "\n")


if __name__ == "__main__":
    main()
