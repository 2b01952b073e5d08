"""What a fit or a score that several processes share must know of the users of all; of one process, its own users."""

import numpy as np
import scipy.sparse as sp
from sklearn.frozen import FrozenEstimator

from skvae import _reduce
from skvae._sparse import canonical_csr
from skvae.metrics import ndcg_at_k
from skvae.metrics._holdout import content_keys, hide, rank_among_equals, share_of_rows


def content_split(X, test_size=0.2, seed=0):
    """Hide interactions as `content_holdout` does, where equal users are told apart over all processes."""
    X = canonical_csr(X)
    return hide(X, content_keys(X, seed, _ranks_of_all), share_of_rows(X, test_size))


def _ranks_of_all(keys):
    first, _ = _reduce.place(len(keys))
    return rank_among_equals(np.concatenate(_reduce.gathered(keys)))[first : first + len(keys)]


def first_by_key(noise, n, most):
    """Numbers of those of this process's n users who are among the `most` first of all by `noise`, and their keys.

    They are in the order of the keys, which of one process is that of `noise.permutation`.
    """
    first, _ = _reduce.place(n)
    keys = noise.keys(np.arange(first, first + n, dtype=np.int64))
    chosen = _reduce.places_of_least(keys, most)
    chosen = chosen[np.argsort(keys[chosen], kind="stable")]
    return chosen, keys[chosen]


def gathered_rows(X):
    """The rows of all processes as one CSR array; the very same object where the fit is not shared."""
    return sp.csr_array(sp.vstack(_reduce.gathered(X), format="csr")) if _reduce.is_shared() else X


def mean_ranking(scorer, estimator, X, y, k):
    """Mean ``NDCG@k`` over the users of all processes, each of whom is ranked by the process that passed them."""
    foldin, truth = scorer.foldin_and_truth((), X, y, content_split)
    _reduce.agree(n_features=foldin.shape[1])
    values = np.empty(0)
    if truth.nnz:  # else there may be no user at all
        with _reduce.alone():
            ranked, _ = estimator.recommend(foldin, k=k)
        values = ndcg_at_k(truth, ranked=ranked, k=k, per_user=True)
        values = values[~np.isnan(values)]
    total, n = _reduce.total((float(values.sum()), len(values)))
    if not n:
        raise scorer.no_truth(y)
    return total / n


def passed_on(estimator, member):
    """A member of an estimator that is to be fitted with its `data_parallel`; complain where it has no such parameter.

    A frozen one is fitted already.
    """
    if not estimator.data_parallel or isinstance(member, FrozenEstimator):
        return member
    if "data_parallel" not in member.get_params(deep=False):
        raise TypeError(
            f"{type(estimator).__name__}(data_parallel=True) fits its members to the users of all processes, but "
            f"{type(member).__name__} has no parameter data_parallel; fit it to all users first, and pass "
            "FrozenEstimator of it."
        )
    return member.set_params(data_parallel=True)


def refuse_jobs(estimator):
    """Complain of jobs beside the processes of a shared fit."""
    if _reduce.is_shared() and estimator.n_jobs not in (None, 1):
        raise ValueError(
            f"n_jobs={estimator.n_jobs} starts processes of its own, which cannot share a fit with others; use "
            "n_jobs=None with data_parallel=True."
        )
