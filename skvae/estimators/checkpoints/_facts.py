"""What a fit is of, in words: class, parameters, rows and the fit that it goes on from."""

import functools
import hashlib
import inspect
import pickle
import re

import joblib
import numpy as np
import scipy.sparse as sp

from skvae import _reduce
from skvae._compat import CALLBACK_STATE, CALLBACKS
from skvae._version import __version__
from skvae.tables.frames import all_numbers, cells_of, is_frame

_NO_MATTER = {"checkpoint", "device", "verbose", "verbose_interval", "data_parallel", "copy"}  # to the result
_BYTES_AT_ONCE = 2**24
_PLAIN = (bool, int, float, str, type(None))


def facts_of(estimator, X, given):
    """What a fit is of: name -> text. Fits of equal facts and seed are equal.

    Parameters
    ----------
    estimator : Estimator
    X : array-like, sparse matrix or DataFrame
    given : dict
        The other arguments of `fit` that count.
    """
    found = {"estimator": type(estimator).__name__, "the version of skvae": __version__}
    for name, value in estimator.get_params(deep=False).items():
        if name not in _NO_MATTER:
            found[name] = said(value)
    rows = {name: None if value is None else described(value) for name, value in {"X": X, **given}.items()}
    everybody = _reduce.gathered_from_all(rows)
    found["the number of processes"] = str(len(everybody))
    for name in rows:
        found[name] = "; ".join(str(own[name]) for own in everybody)
    found["the fit that it goes on from"] = _earlier(estimator)
    return found


def _earlier(estimator):
    """The fitted state of an estimator from which its next fit goes on, as a hash; "none" if it begins anew."""
    own = {*estimator.get_params(deep=False), *CALLBACK_STATE, CALLBACKS}
    state = {name: value for name, value in vars(estimator).items() if name not in own and name.endswith("_")}
    if not getattr(estimator, "warm_start", False) or not state.keys() - {"n_features_in_", "feature_names_in_"}:
        return "none"
    return hash_of_state(state)


def hash_of_state(state):
    """A hash of fitted attributes, the same in a process that has read them from a file."""
    return joblib.hash(pickle.loads(pickle.dumps(state)))


def said(value):
    """A parameter as text: without addresses, which differ from process to process, and no array cut short."""
    if inspect.isfunction(value):
        return f"{value.__module__}.{value.__qualname__} with hash {_hash_of_function(value)}"
    if isinstance(value, functools.partial):
        return f"partial {said([value.func, value.args, value.keywords])}"
    if isinstance(value, np.ndarray) or sp.issparse(value) or is_frame(value):
        return described(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name!r}: {said(each)}' for name, each in value.items())}}}"
    if type(value) in (list, tuple):
        return (
            f"{'[' if type(value) is list else '('}{', '.join(map(said, value))}{']' if type(value) is list else ')'}"
        )
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _hash_of_function(function):
    """A hash of the code of a function and of the plain values that it has as defaults or encloses.

    All lambdas of a module may have one name, and a body may have changed since a file was written. Other values that a
    function encloses do not count: they may be those that it changes.
    """
    enclosed = inspect.getclosurevars(function).nonlocals.values()
    values = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *enclosed]
    plain = [repr(value) for value in values if isinstance(value, _PLAIN)]
    return hashlib.blake2b(f"{_of_code(function.__code__)}{plain}".encode(), digest_size=8).hexdigest()


def _of_code(code):
    """What code does, without where it stands; sets have another order in another process."""
    constants = [
        _of_code(each) if inspect.iscode(each) else sorted(map(repr, each)) if type(each) is frozenset else repr(each)
        for each in code.co_consts
    ]
    return [code.co_code.hex(), code.co_names, constants]


def described(X):
    """Shape and dtype of rows or weights, and a hash of all that they hold."""
    if sp.issparse(X):
        named = X if X.format in ("csr", "csc", "coo", "bsr") else X.tocsr()
        parts = [getattr(named, name) for name in ("data", "indices", "indptr", "row", "col") if hasattr(named, name)]
        return f"{X.format} of {X.dtype} of shape {X.shape} with hash {_hash(parts)}"
    if is_frame(X):
        return f"a {type(X).__name__} of shape {X.shape} with hash {_hash(_parts_of_frame(X))}"
    array = X if isinstance(X, np.ndarray) else np.asarray(X)
    if array.dtype.hasobject and not array.ndim:  # nothing that a fit takes, such as a generator
        return f"a {type(X).__name__}"
    return f"{array.dtype} of shape {array.shape} with hash {_hash([array])}"


def _parts_of_frame(frame):
    """Arrays that say all of a frame but its index, which no fit reads, and how columns lie in memory together."""
    dtypes = list(frame.dtypes)
    yield np.array([repr((name, str(dtype))) for name, dtype in zip(frame.columns, dtypes, strict=True)])
    if all_numbers(frame) and len(set(dtypes)) == 1:
        yield np.asarray(frame)
        return
    for j, dtype in enumerate(dtypes):
        if hasattr(dtype, "ordered"):  # categories of pandas; the text of a dtype of polars names its own
            yield np.array([dtype.ordered, *dtype.categories], dtype=object)
        yield from cells_of(frame, j)


def _hash(arrays):
    """A hash of arrays, some rows at a time: a memory map is never in memory as a whole."""
    key = hashlib.blake2b(digest_size=8)
    for array in arrays:
        key.update(f"{array.dtype.str}{array.shape}".encode())
        array = np.atleast_1d(array)
        n = max(1, _BYTES_AT_ONCE * len(array) // max(1, array.nbytes))
        for start in range(0, len(array), n):
            some = array[start : start + n]
            if array.dtype.hasobject:  # of equal cells, some may be one object and some two
                key.update(
                    repr([cell.item() if isinstance(cell, np.generic) else cell for cell in some.ravel()]).encode()
                )
            else:
                key.update(np.ascontiguousarray(some).view(np.uint8))
    return key.hexdigest()
