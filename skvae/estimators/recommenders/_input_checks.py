"""What is said of input that is no matrix of users by items, or not a good one."""

from inspect import signature

import numpy as np
import scipy.sparse as sp

from skvae import _reduce
from skvae._compat import warn
from skvae._sparse import entry
from skvae._tensors import entry_slices

_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))  # native ones
_EVEN_ENOUGH = 0.05  # below this share of effective interactions, ranking was worse by more than 0.007 NDCG@100
_FEWEST_IDS = 11  # distinct whole numbers in a column that may hold ids
_WIDEST_TABLE = 6  # columns of a long table
_USERS = {"user", "customer", "client", "visitor", "member", "reviewer"}
_ITEMS = {
    "item",
    "product",
    "movie",
    "film",
    "book",
    "song",
    "track",
    "artist",
    "article",
    "game",
    "sku",
    "isbn",
    "asin",
}

# What to do about an error of scikit-learn's, by words of its message.
_REMEDIES = {
    "Negative values": "Interactions are counts, ratings or ones: leave out steps that centre X, such as "
    "StandardScaler, and drop dislikes, by X.clip(min=0) or to_interactions(..., negative='ignore'); negative='mask' "
    "makes a filter for recommend of them.",
    "could not convert string": "X takes rows of numbers, not ids: make it from a long table of users and items by "
    "skvae.datasets.to_interactions.",
    "setting an array element with a sequence": "X takes a row of numbers for each user, not lists of ids: make it "
    "from a long table of users and items by skvae.datasets.to_interactions.",
    "float() argument must be": "X takes a row of numbers for each user, not ids: make it from a long table of users "
    "and items by skvae.datasets.to_interactions.",
    "features, but": "Columns are items: an item must be the same column in every call, and only partial_fit takes new "
    "ones, which come last and are named by new_items.",
    "feature names should match": "Columns are items: those that fit saw must come first and in the same order, as in "
    "X.reindex(columns=model.feature_names_in_, fill_value=0), and only partial_fit takes new ones, which come last "
    "and are named by new_items.",
    "Expected 2D array": "X takes rows of numbers, not ids: for the users in rows 3 and 5 of a matrix X, pass "
    "X[[3, 5]].",
}


def is_in_form(estimator, X):
    """Whether X passes all checks of a fitted recommender as it is, without a conversion or a word about it.

    The checks are those of scikit-learn's `validate_data`, whose answer takes ten times as long, and that a sparse X
    is canonical. What does not pass, or is of another type, is for that function to convert or to refuse.
    """
    if not (type(X) is np.ndarray or sp.issparse(X) and X.format == "csr") or X.ndim != 2 or X.dtype not in _DTYPES:
        return False
    n_users, n_items = X.shape
    if not n_users or n_items != estimator.n_features_in_ or hasattr(estimator, "feature_names_in_"):
        return False
    if type(X) is np.ndarray:
        return bool(X.min(initial=0) >= 0 and X.max(initial=0) < np.inf)  # NaN is neither
    in_range = X.data.min(initial=1) > 0 and X.data.max(initial=0) < np.inf
    return bool(in_range and X.has_canonical_format)


def explained(error, name="X"):
    """The error to raise in place of one of scikit-learn's about X: the same, with a remedy where one is known.

    `name` is that of the parameter, where it is not X.
    """
    kind, message = TypeError if isinstance(error, TypeError) else ValueError, str(error)
    if name != "X":
        return kind(f"{name}: {explained(error)}")
    if "contains NaN" in message:
        return kind(
            "Input X contains NaN. Zero, not NaN, says that there was no interaction: pass X.fillna(0) of a pivot "
            "table, or make X from the long table by skvae.datasets.to_interactions."
        )
    remedy = next((remedy for words, remedy in _REMEDIES.items() if words in message), None)
    return error if remedy is None else kind(f"{message.strip().rstrip('.')}. {remedy}")


def check_new_items(estimator, known, new_items):
    """Complain of new items that do not continue those of a fitted estimator, whose names are `known` or None."""
    who = f"{type(estimator).__name__}.partial_fit"
    if not hasattr(estimator, "n_features_in_"):
        raise ValueError(f"{who} got new_items, but no fit has seen an item: leave new_items out of the first call.")
    n, given = estimator.n_features_in_, np.asarray(new_items, dtype=object)
    if given.ndim != 1:
        raise ValueError(f"{who} takes new_items as a list of columns, but got {new_items!r}.")
    given = given.tolist()
    if known is None:
        expected = list(range(n, n + len(given)))
        if given != expected:
            raise ValueError(
                f"{who} got new_items={given!r}, but new items come after the {n} known ones: {len(given)} of them are "
                f"the columns {expected}."
            )
        return
    strange = [name for name in given if not isinstance(name, str)]
    if strange:
        raise ValueError(f"{who}: the items have names, so new_items takes names, but got {strange[0]!r}.")
    taken = [name for i, name in enumerate(given) if name in given[:i] or name in set(known)]
    if taken:
        raise ValueError(f"{who} got {taken[0]!r} as a new item, but there is one of that name.")


def refuse_no_interaction(estimator, X):
    """Complain of a CSR array without any entry; in a shared fit, where no process has any."""
    if not _reduce.count(X.nnz):
        shape = _reduce.count(X.shape[0]), X.shape[1]
        raise ValueError(f"{type(estimator).__name__} found no interaction in X: all {shape} cells are zero.")


def refuse_long_table(X):
    """Complain of a data frame with a column of users and a column of items."""
    names = list(getattr(X, "columns", ()))
    if not 2 <= len(names) <= _WIDEST_TABLE:
        return
    users, items = ([name for name in names if _subject(name) in subjects] for subjects in (_USERS, _ITEMS))
    if users and items:
        raise ValueError(
            f"X has the columns {users[0]!r} and {items[0]!r}, as a long table with one interaction per row, but it "
            "must have a row for each user and a column for each item. Make such a matrix by "
            f"skvae.datasets.to_interactions(X[{users[0]!r}], X[{items[0]!r}]).data, with values= if there are any."
        )


def _subject(name):
    """What a column is about, from its name: "user" of "userId", "USER_ID" and "Users"."""
    letters = "".join(filter(str.isalpha, str(name).lower()))
    return letters.removesuffix("id").removesuffix("s")


def advice(estimator, X):
    """Warnings about a CSR array that an estimator is to be fitted to, as sentences."""
    return [text for text in (_on_large_values(estimator, X), _on_components(estimator, X)) if text]


def warn_of_long_table(X):
    """Warn of a CSR array of few columns with hardly a zero, two of which hold whole numbers that may be ids."""
    n_rows, n_columns = X.shape
    if not n_rows or not 2 <= n_columns <= 4 or X.nnz < 0.95 * n_rows * n_columns:
        return
    may_be_ids = [
        (column == np.rint(column)).all() and len(np.unique(column)) >= _FEWEST_IDS for column in X.toarray().T
    ]
    if sum(may_be_ids) >= 2:
        warn(
            f"X has {n_columns} columns and hardly a zero, which leaves nothing to recommend. If each row is one "
            "interaction (user, item, value), make a matrix of users by items by "
            "skvae.datasets.to_interactions(users, items, values).data.",
            UserWarning,
        )


def _on_large_values(estimator, X):
    """On interactions so few of which hold most of the total that the likelihood hardly sees the others.

    Weights w are worth (sum w)^2 / sum w^2 equal ones, Kish's effective sample size.
    """
    total = X.data.sum(dtype=np.float64)
    squares = sum(np.square(X.data[part], dtype=np.float64).sum() for part in entry_slices(X.nnz))
    if total**2 >= _EVEN_ENOUGH * X.nnz * squares:
        return None
    least = float(X.data.max())
    while (largest := _at_least(least, X.data)).sum() < 0.5 * total:
        least /= 2
    descending = np.sort(largest)[::-1]
    n_half = int(np.searchsorted(descending.cumsum(), 0.5 * total)) + 1
    return (
        f"{n_half} of the {X.nnz} interactions in X hold half of their total; the largest is "
        f"{entry(X, X.data.argmax())}. A value weighs as much as so many clicks, so the fit learns little from the "
        "other interactions. Damp counts in a first step, "
        f"make_pipeline(FunctionTransformer(np.log1p), {type(estimator).__name__}()), or binarise them by Binarizer()."
    )


def _at_least(least, values):
    """The values that are not smaller, in float64."""
    parts = (values[part] for part in entry_slices(len(values)))
    return np.concatenate([part[part >= least].astype(np.float64) for part in parts])


def _on_components(estimator, X):
    """On more components than items, unless their number is the default, which nobody chose."""
    chosen, n_items = estimator.n_components, X.shape[1]
    if chosen <= n_items or chosen == signature(type(estimator)).parameters["n_components"].default:
        return None
    return (
        f"n_components={chosen} is larger than the number of items, {n_items}. Components beyond {n_items} cost time "
        "and hold no information: lower n_components."
    )


def check_recommender(estimator, who):
    """Complain of a member of `who` that cannot score users."""
    if isinstance(estimator, type) or not hasattr(estimator, "fit"):
        raise TypeError(f"{who} takes recommenders, objects such as EASERecommender(), but got {estimator!r}.")
    if not hasattr(estimator, "decision_function"):
        raise TypeError(
            f"{who} takes recommenders, which score items by `decision_function`, but {type(estimator).__name__} has "
            "no such method."
        )


def refuse_other_items(estimator, member):
    """Complain of a fitted member, a frozen one, that knows other items than the estimator it is part of."""
    who, what = type(estimator).__name__, type(getattr(member, "estimator", member)).__name__
    n, known = estimator.n_features_in_, getattr(member, "n_features_in_", None)
    if known not in (None, n):
        raise ValueError(f"{who} was given {n} items, but {what} in it is frozen and was fitted to {known}.")
    names, own = (getattr(each, "feature_names_in_", None) for each in (member, estimator))
    if names is None or own is None or np.array_equal(names, own):
        return
    at = int(np.flatnonzero(names != own)[0])
    raise ValueError(
        f"{who}: column {at} is {own[at]!r}, but {what} in it is frozen and was fitted to a DataFrame where it is "
        f"{names[at]!r}. Bring the columns into the same order, as in X[member.feature_names_in_]."
    )
