"""How well the hidden items rank: the recommenders of skvae, peers, and each less EASE, user by user.

``--results FILE`` appends each figure to FILE as it is found (JSON lines) and skips those that FILE already has, so
that a run can be stopped and resumed. ``--table`` prints the tables of FILE and fits nothing.
"""

import argparse
import json
from functools import cached_property
from pathlib import Path

import numpy as np
from _click_sets import SETS, split_users
from _peers import EASE_GRID, ImplicitALS, IrspackMultVAE, PlainMultVAE, Popularity, published, tuned_ease
from _protocol import DATA, DEALS, evaluate, load_split, measured, timed
from sklearn.frozen import FrozenEstimator

# The published network needs 1,000 steps or so and no more: fewer epochs of larger batches where users are many.
PORT_SETTING = {"draw-100k": {"epochs": 10, "batch_size": 500}}
QUICK = ("ml-100k", "api", "draw-100")
MEMBERS = "skvae", "rec-vae", "skvae-ease"  # of the votes
VOTES = [  # weights of the members, of which "vote-chosen" takes those that are best on the validation users
    (vae, rec, ease) for vae, rec in ((1, 0), (0, 1), (0.5, 0.5)) for ease in (0.1, 0.25, 0.5)
]


class Fits:
    """The models of one split of the users, each fitted once, when it is first asked for."""

    def __init__(self, data, deal, n_anchors):
        self.data, self.deal, self.n_anchors = data, deal, n_anchors
        self.models, self.seconds, self.remarks = {}, {}, {}

    @cached_property
    def split(self):
        if self.data in DATA:
            return load_split(self.data, self.deal)
        return split_users(SETS[self.data](), self.deal)

    def __getitem__(self, name):
        if name not in self.models:
            model, self.remarks[name], *members = MODELS[name](self)
            _, took = timed(model.fit, self.split.train)
            self.models[name], self.seconds[name] = model, took + sum(self.seconds[member] for member in members)
        return self.models[name]

    def vote(self, weights, *names):
        """A vote of fitted models, and the names of those with a weight."""
        from skvae import VotingRecommender

        members = {name: weight for name, weight in zip(names, weights, strict=True) if weight}
        fitted = [(name, FrozenEstimator(self[name])) for name in members]
        return VotingRecommender(fitted, weights=list(members.values())), list(members)


def popularity(fits):
    return Popularity(), ""


def ease(fits):
    model, on_val = tuned_ease(fits.split, evaluate)
    edge = " (edge of the grid)" if model.l2 in (EASE_GRID[0], EASE_GRID[-1]) else ""
    return model, f"L2 {model.l2:g}{edge}"


def plain(fits):
    model = PlainMultVAE(seed=fits.deal, **PORT_SETTING.get(fits.data, {}))
    return model, f"600-200-600, {model.epochs} epochs of batches of {model.batch_size}"


def skvae_published(fits):
    model = published(seed=fits.deal, **PORT_SETTING.get(fits.data, {}))
    return model, f"600-200-600, {model.max_iter} epochs of batches of {model.batch_size}"


def default(name):
    """A recommender of skvae as it comes."""

    def build(fits):
        import skvae

        known = {} if name == "EASERecommender" else {"random_state": fits.deal}
        return getattr(skvae, name)(**known), ""

    return build


def vote(*weights):
    """A vote of Mult-VAE, RecVAE and EASE; `VotingRecommender()` has the weights 1, 1 and 0.5."""

    def build(fits):
        model, members = fits.vote(weights, *MEMBERS)
        return model, f"weights {listed(weights)}", *members

    return build


def vote_chosen(fits):
    """The weights that are best on the validation users."""
    on_val = {}
    for weights in VOTES:
        model = fits.vote(weights, *MEMBERS)[0].fit(fits.split.train)
        on_val[weights] = evaluate(model.decision_function, fits.split.val_in, fits.split.val_out).ndcg_100
    best = max(on_val, key=on_val.get)
    found = ", ".join(f"{listed(weights)}: {value:.4f}" for weights, value in on_val.items())
    return fits.vote(best, *MEMBERS)[0], f"weights {listed(best)}; of validation users {found}", *MEMBERS


def listed(weights):
    return ":".join(f"{weight:g}" for weight in weights)


def loca(fits):
    from skvae import LOCARecommender

    return LOCARecommender(n_anchors=fits.n_anchors, random_state=fits.deal), f"{fits.n_anchors} anchors"


def loca_ease(fits):
    from skvae import EASERecommender, LOCARecommender

    model = LOCARecommender(EASERecommender(), n_anchors=fits.n_anchors, random_state=fits.deal)
    return model, f"{fits.n_anchors} anchors"


def als(fits):
    return ImplicitALS(seed=fits.deal), "the setting chosen on ML-1M"


def irspack(fits):
    model = IrspackMultVAE(**PORT_SETTING.get(fits.data, {}))
    return model, "600-200-600, without a seed"


MODELS = {
    "popularity": popularity,
    "ease": ease,
    "plain": plain,
    "skvae-published": skvae_published,
    "skvae": default("MultVAERecommender"),
    "skvae-dae": default("MultDAERecommender"),
    "rec-vae": default("RecVAERecommender"),
    "skvae-ease": default("EASERecommender"),
    "elsa": default("ELSARecommender"),
    "vote": vote(1, 1, 0.5),
    "vote-vae": vote(1, 0, 0.25),
    "vote-rec-vae": vote(0, 1, 0.25),
    "vote-chosen": vote_chosen,
    "loca": loca,
    "loca-ease": loca_ease,
    "als": als,
    "irspack": irspack,
}


class Store:
    """Figures by data, deal and model, each a line of a file if one is given."""

    def __init__(self, path):
        self.path, self.cells = path, {}
        if path and Path(path).exists():
            for line in Path(path).read_text().splitlines():
                self._keep(json.loads(line))

    def _keep(self, cell):
        self.cells[cell["data"], cell["deal"], cell["model"]] = cell

    def __contains__(self, key):
        return key in self.cells

    def add(self, **cell):
        self._keep(cell)
        if self.path:
            with open(self.path, "a") as file:
                file.write(json.dumps(cell) + "\n")

    def deals(self, data, model):
        """The cells of a model on a data set, by deal."""
        return {deal: cell for (at, deal, name), cell in sorted(self.cells.items()) if (at, name) == (data, model)}

    def less_ease(self, data, model):
        """Mean difference of NDCG@100 and its standard error, of each deal that EASE has too."""
        base, own = self.deals(data, "ease"), self.deals(data, model)
        pairs = ((np.array(own[deal]["users"][0]) - base[deal]["users"][0]) for deal in own if deal in base)
        return np.array([(found.mean(), error(found)) for found in pairs]).reshape(-1, 2)


def run(data, names, n_deals, n_anchors, store):
    """Fit and judge the models that the store lacks."""
    for deal in range(n_deals):
        missing = [name for name in names if (data, deal, name) not in store]
        if not missing:
            continue
        fits = Fits(data, deal, n_anchors)
        print(f"\n{data}, deal {deal}: {fits.split}", flush=True)
        for name in missing:
            model = fits[name]
            found = measured(model.decision_function, fits.split.test_in, fits.split.test_out)
            users = [[round(float(value), 6) for value in values] for values in found]
            cell = {"seconds": fits.seconds[name], "remark": fits.remarks[name], "users": users}
            store.add(data=data, deal=deal, model=name, **cell)
            less = "; less EASE ".join(["", *map(shown, store.less_ease(data, name)[-1:])]) if name != "ease" else ""
            print(f"  {name:16} {show(found)}  {fits.seconds[name]:8.2f} s  {fits.remarks[name]}{less}", flush=True)


def error(values):
    """Standard error of a mean."""
    return np.std(values, ddof=1) / np.sqrt(len(values))


def show(found):
    return "  ".join(f"{label} {shown((np.mean(v), error(v)))}" for label, v in zip(COLUMNS[2:5], found, strict=True))


def shown(pair, sign=""):
    return f"{pair[0]:{sign}.4f} +- {pair[1]:.4f}"


def over_deals(pairs):
    """Mean over deals of means with errors, as if no user were in two of them."""
    pairs = np.asarray(pairs)
    return pairs[:, 0].mean(), np.sqrt((pairs[:, 1] ** 2).sum()) / len(pairs)


COLUMNS = ("data", "model", "NDCG@100", "Recall@20", "Recall@50", "less EASE", "fit s", "remark")
BY_DEAL = ("data", "model", "splits", "NDCG@100 less EASE of each split")


def tables(store, data_sets, names):
    """Rows of the table of means and of the table of differences by split."""
    rows, by_deal = [], []
    for data in data_sets:
        for name in names:
            cells = store.deals(data, name)
            if not cells:
                continue
            found = [
                over_deals([(np.mean(c["users"][i]), error(c["users"][i])) for c in cells.values()]) for i in range(3)
            ]
            less = store.less_ease(data, name) if name != "ease" else ()
            remarks = " / ".join(dict.fromkeys(c["remark"].split(";")[0] for c in cells.values() if c["remark"]))
            deals = [f"{len(cells)} deals"] if len(cells) > 1 else []
            last = (
                f"{np.median([c['seconds'] for c in cells.values()]):.2f}",
                "; ".join(filter(None, [remarks, *deals])),
            )
            mean = shown(over_deals(less), "+") if len(less) else ""
            rows.append((data, name, *map(shown, found), mean, *last))
            if len(less):
                by_deal.append((data, name, str(len(less)), ", ".join(shown(pair, "+") for pair in less)))
    return rst(COLUMNS, rows) + ("\n\n" + rst(BY_DEAL, by_deal) if by_deal else "")


def rst(columns, rows):
    """A simple table of reStructuredText."""
    table = [columns, *rows]
    width = [max(len(row[i]) for row in table) for i in range(len(columns))]
    rule = "  ".join("=" * w for w in width)
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)).rstrip() for row in table]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    sets = tuple(dict.fromkeys((*DATA, *SETS)))
    parser.add_argument("--data", nargs="+", choices=sets, default=DATA)
    parser.add_argument(
        "--only", nargs="+", choices=MODELS, default=("popularity", "ease", "plain", "skvae-published", "skvae")
    )
    parser.add_argument(
        "--splits", type=int, help="deals of the users for every data set (default: more where few users)"
    )
    parser.add_argument("--anchors", type=int, default=50, help="local models of LOCA")
    parser.add_argument("--results", help="file of JSON lines to append to and to resume from")
    parser.add_argument("--table", action="store_true", help="print the tables of --results, fit nothing")
    parser.add_argument("--rst", help="write the tables to this file as well")
    parser.add_argument("--quick", action="store_true", help=f"one deal of {', '.join(QUICK)} each")
    args = parser.parse_args()
    store, data_sets = Store(args.results), QUICK if args.quick else args.data
    for data in () if args.table else data_sets:
        try:
            run(data, args.only, args.splits or (1 if args.quick else DEALS.get(data, 1)), args.anchors, store)
        except OSError as problem:
            print(f"\n{data} is left out: {problem}")
    text = tables(store, data_sets, args.only)
    print(f"\n{text}")
    if args.rst:
        Path(args.rst).write_text(text + "\n")


if __name__ == "__main__":
    main()
