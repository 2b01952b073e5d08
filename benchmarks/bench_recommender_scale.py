"""One epoch of `MultVAERecommender` on a catalogue of 200,000 items: seconds and peak memory above the data.

Users draw their clicks from items whose popularity falls as 1 / rank. The network is linear around K dimensions.
"""

import argparse

import numpy as np
import scipy.sparse as sp
from _protocol import forget_peak, peak_memory, timed

from skvae import MultVAERecommender


def clicks(n_users, n_items, per_user, seed=0):
    """CSR array of ones with about `per_user` items a user (equal ones are merged), drawn with popularity 1 / rank."""
    rng = np.random.default_rng(seed)
    share = (1 / np.arange(10, n_items + 10)).cumsum()
    indices = np.empty(n_users * per_user, dtype=np.int32)
    for part in np.array_split(indices, max(1, len(indices) // 2**22)):
        part[:] = share.searchsorted(rng.random(len(part)) * share[-1])
    ends = np.arange(0, len(indices) + 1, per_user, dtype=np.int32)
    X = sp.csr_array((np.ones(len(indices), dtype=np.float32), indices, ends), shape=(n_users, n_items))
    X.sum_duplicates()
    X.data[:] = 1
    return X


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--clicks", type=int, default=100, help="of a user")
    parser.add_argument("--components", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()
    X = clicks(args.users, args.items, args.clicks)
    model = MultVAERecommender(
        args.components,
        batch_size=args.batch_size,
        max_iter=1,
        early_stopping=False,
        precision=args.precision,
        random_state=0,
    )
    small = X[:150, :50]
    MultVAERecommender(5, max_iter=1, random_state=0).fit(small)  # what torch loads is nobody's working memory
    before = forget_peak()
    _, seconds = timed(model.fit, X)
    rise = peak_memory() - before
    stored = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
    print(
        f"{X.shape[0]:,} users x {X.shape[1]:,} items, {X.nnz:,} clicks ({stored / 1e6:.0f} MB), K = "
        f"{args.components}, batches of {args.batch_size}, {model.precision_}\n"
        f"  one epoch: {seconds:.0f} s, {X.shape[0] / seconds:,.0f} users/s; peak {rise / 1e6:,.0f} MB above the data; "
        f"bound {model.lower_bounds_[0]:.2f} nats a user"
    )


if __name__ == "__main__":
    main()
