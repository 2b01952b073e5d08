"""The seam for interrupted fits: what an ascent needs in order to go on later passes here.

A fit with a checkpoint keeps a `Journal`: the state of each of its ascents, by its place among them. All that comes
before an ascent is a function of data, parameters and seed, and is computed again. An engine asks for its place by
`ascent`, begins from what was saved there, and tells its state after every iteration. In a fit without a checkpoint
nothing is saved, and to tell a state costs nothing.

A state is a tree: dicts and lists of arrays, numbers, short strings and None. `packed` makes trees of tensors, and
`unpacked` makes tensors of them, like a template: what comes from a file is checked before it is used.
"""

import contextlib
import time
from contextvars import ContextVar
from numbers import Real
from typing import get_args, get_type_hints

import numpy as np
import torch

from skvae import _reduce

_WRITING = 0.05  # the largest share of the time that is spent on writing
_scope = ContextVar("the journal of the fit, and the place in it where ascents begin", default=None)


class UnusableState(Exception):
    """Raised where a saved state is not one of the ascent that would go on from it."""


class Journal:
    """States of the ascents of one fit.

    Parameters
    ----------
    write : callable
        Called at a safe point with (states, seeds), as all processes of a shared fit have them.
    interval : float
        Seconds from one call of `write` to the next, at least; more where writing takes long. 0: at every safe point.
    asked : callable
        () -> whether the user has asked for the end of the fit.
    raises : bool
        Whether to raise a KeyboardInterrupt then. Else the ascents end at their next safe points.
    states : dict of tree
        Of an earlier fit, by place: "0" and "1" for the first two ascents; "1/2.0" for the first one that finds initial
        parameters of restart 2 of ascent 1.
    seeds : list of int
        That the earlier fit has drawn.
    """

    def __init__(self, write, interval, asked, raises, states, seeds):
        self.write, self.interval, self.asked, self.raises = write, interval, asked, raises
        self.states, self.seeds, self.n_drawn = dict(states), list(seeds), 0
        self.n_running, self.stopped = 0, False
        self.due = time.monotonic() + interval

    def seed(self, drawn, fresh):
        """Keep a seed that the fit has drawn. A fit that goes on gets that of the earlier one.

        `fresh`: whether it is one of the system's entropy, so that it may be replaced.
        """
        self.n_drawn += 1
        if self.n_drawn > len(self.seeds):
            self.seeds.append(drawn)
        elif not fresh and self.seeds[self.n_drawn - 1] != drawn:
            raise UnusableState(
                f"the seed was {self.seeds[self.n_drawn - 1]} and is {drawn} (a RandomState gives another at each call)"
            )
        return self.seeds[self.n_drawn - 1]

    def reached(self, place, state):
        """Hear the state of an ascent at a safe point; return True if the ascent shall end there.

        Parameters
        ----------
        place : str
        state : callable
            () -> tree. It is called when the state is written, which may be after the ascent.
        """
        if self.stopped:
            return True
        self.states[place] = state
        due, asked = self._heard_of_all()
        if due or asked:
            self._write()
        if asked and self.raises:
            raise KeyboardInterrupt
        self.stopped = asked
        return asked

    def ended(self):
        """Hear that the fit is done; return True if the user has asked for its end since the last safe point."""
        late = not self.stopped and self._heard_of_all()[1]
        if late and self.raises:
            self._write()
            raise KeyboardInterrupt
        return late

    def _write(self):
        began = time.monotonic()
        self.write({key: each() if callable(each) else each for key, each in self.states.items()}, self.seeds)
        ended = time.monotonic()
        self.due = ended + (max(self.interval, (ended - began) / _WRITING) if self.interval else 0)

    def _heard_of_all(self):
        """Whether the first process finds it time to write, and whether any is asked for the end."""
        told = _reduce.gathered_from_all((time.monotonic() >= self.due, self.asked()))
        return told[0][0], any(asked for _, asked in told)

    def forget(self, beginning):
        """Drop the states of all places that begin so."""
        for place in [place for place in self.states if place.startswith(beginning)]:
            del self.states[place]


class _Scope:
    """Where ascents begin: in the fit itself, or in what finds initial parameters of an ascent."""

    def __init__(self, journal, prefix=""):
        self.journal, self.prefix, self.n_begun = journal, prefix, 0

    def next_place(self):
        self.n_begun += 1
        return f"{self.prefix}{self.n_begun - 1}"


class Unkept:
    """An ascent of a fit without a checkpoint: it begins anew, and nothing is saved.

    Attributes
    ----------
    saved : tree or None
        The state to go on from.
    stopped : bool
        Whether the fit shall end.
    """

    saved, stopped = None, False

    def reached(self, state):
        """Tell the state, () -> tree; returns True if the ascent shall end there."""
        return False

    def finding(self, restart):
        """A block that finds the initial parameters of a restart, perhaps by ascents."""
        return contextlib.nullcontext()


class _Kept(Unkept):
    """An ascent of a fit with a checkpoint."""

    def __init__(self, journal, place):
        self.journal, self.place = journal, place
        self.saved = journal.states.get(place)

    @property
    def stopped(self):
        return self.journal.stopped

    def reached(self, state):
        return self.journal.reached(self.place, state)

    def finding(self, restart):
        beginning = f"{self.place}/{restart}."
        for place in [place for place in self.journal.states if place.startswith(f"{self.place}/")]:
            if not place.startswith(beginning):
                self.journal.forget(place)
        return _set(_Scope(self.journal, beginning))


@contextlib.contextmanager
def _set(scope):
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)


def kept_in(journal):
    """A block whose ascents are kept in a `Journal`; with None those of a fit without a checkpoint."""
    return _set(None if journal is None else _Scope(journal))


@contextlib.contextmanager
def ascent():
    """A block with one ascent, an `Unkept` or what has its methods.

    Ascents within it belong to somebody else, such as a callback, and are not kept, but for those of `finding`.
    """
    scope = _scope.get()
    if scope is None:
        yield Unkept()
        return
    journal, place = scope.journal, scope.next_place()
    journal.n_running += 1
    try:
        with _set(None):
            yield _Kept(journal, place)
        journal.forget(f"{place}/")
    finally:
        journal.n_running -= 1


def seed(drawn, fresh):
    """The seed to use in place of one that the fit has drawn: as of `Journal.seed`."""
    scope = _scope.get()
    return drawn if scope is None else scope.journal.seed(drawn, fresh)


# --------------------------------------------------------------------------------------------------------------- trees
def packed(value):
    """A tree of tensors, NamedTuples, dicts, lists, arrays, numbers and None; on the CPU it shares their memory.

    Where axes do not lie in memory in their order, or are expanded, the tree says so: a product of matrices may have
    other last digits if a factor is stored otherwise.
    """
    if isinstance(value, torch.Tensor):
        return _packed_array(value.detach().cpu().numpy())
    if isinstance(value, np.ndarray):
        return _packed_array(value)
    if isinstance(value, dict):
        return {name: packed(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [packed(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value


def _packed_array(array):
    if array.flags.c_contiguous:
        return array
    axes = np.argsort([-stride for stride in array.strides], kind="stable").tolist()
    once = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides)
    return {
        "dense": np.ascontiguousarray(array[once].transpose(axes)),
        "axes": axes,
        "shape": list(array.shape),
    }


def unpacked(saved, like, name):
    """What a tree of `packed` was made of, checked against a template.

    Parameters
    ----------
    saved : tree
    like : Tensor, ndarray, NamedTuple, dict, list or number
        Of the types, shapes and dtypes that are expected, on the device to place tensors on. Fields of a NamedTuple
        that are declared as ``Tensor | None`` may be there at one iteration and not at another.
    name : str
        Of the value, for errors.

    Raises
    ------
    UnusableState
        If the tree does not match, or a number is NaN.
    """
    if isinstance(like, torch.Tensor | np.ndarray):
        return _unpacked_array(saved, like, name)
    if isinstance(like, dict):
        if not isinstance(saved, dict) or saved.keys() != like.keys():
            raise UnusableState(f"{name} has other entries than in this fit")
        return {key: unpacked(saved[key], like[key], f"{name}.{key}") for key in like}
    if isinstance(like, list | tuple):
        if not isinstance(saved, list) or len(saved) != len(like):
            raise UnusableState(f"{name} has another length than in this fit")
        if hasattr(like, "_fields"):
            hints = get_type_hints(type(like))
            return like._make(
                _unpacked_field(own, other, f"{name}.{field}", type(None) in get_args(hints[field]))
                for own, other, field in zip(saved, like, like._fields, strict=True)
            )
        return type(like)(unpacked(own, other, name) for own, other in zip(saved, like, strict=True))
    if not isinstance(saved, Real) or saved != saved:
        raise UnusableState(f"{name} is {saved!r}, which is no number")
    return type(like)(saved)


def _unpacked_field(saved, like, name, optional):
    """The same of a field, which may be None in the tree or in the template if it is optional."""
    if optional and saved is None:
        return None
    if optional and like is None:
        return _tensor(_checked_array(saved, None, None, name))
    return unpacked(saved, like, name)


def _unpacked_array(saved, like, name):
    is_tensor = isinstance(like, torch.Tensor)
    dtype = torch.empty(0, dtype=like.dtype).numpy().dtype if is_tensor else like.dtype
    array = _checked_array(saved, tuple(like.shape), dtype, name)
    return _tensor(array).to(like.device) if is_tensor else array.copy(order="K")


def _checked_array(saved, shape, dtype, name):
    """The array that a tree holds; an error if it is not of a shape and dtype (None: any), or has NaN."""
    if isinstance(saved, dict):
        try:
            back = np.argsort(saved["axes"])
            array = np.broadcast_to(saved["dense"].transpose(back), saved["shape"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UnusableState(f"{name} is no array ({error})") from error
    else:
        array = saved
    if not isinstance(array, np.ndarray):
        raise UnusableState(f"{name} is no array")
    if shape is not None and (array.shape != shape or array.dtype != dtype):
        raise UnusableState(
            f"{name} is an array of {array.dtype} of shape {array.shape}, not of {dtype} and {shape} as in this fit"
        )
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise UnusableState(f"{name} holds NaN")
    return array


def tensors_of(saved, name):
    """A dict of a tree with tensors on the CPU in place of arrays."""
    return {
        key: _tensor(_checked_array(each, None, None, f"{name}.{key}")) if _is_array(each) else each
        for key, each in saved.items()
    }


def _is_array(saved):
    return isinstance(saved, np.ndarray | dict)


def _tensor(array):
    """A copy of an array as a tensor whose axes lie in memory as those of the array."""
    # The memory of torch is aligned, as that of the tensor was; `expand` keeps an expanded axis one.
    dense = array[(*(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides), ...)]
    return torch.from_numpy(dense.copy(order="K")).clone().expand(array.shape)


def copy_into(tensors, saved, name):
    """Copy what a tree of `packed` holds into a dict of tensors of the same shapes and dtypes."""
    if not isinstance(saved, dict) or saved.keys() != tensors.keys():
        raise UnusableState(f"{name} has other entries than in this fit")
    for key, tensor in tensors.items():
        tensor.detach().copy_(_unpacked_array(saved[key], tensor, f"{name}.{key}"))


def checked_count(saved, most, name):
    """A whole number of a tree, from 0 to `most`."""
    if not isinstance(saved, int) or isinstance(saved, bool) or not 0 <= saved <= most:
        raise UnusableState(f"{name} is {saved!r}; in this fit it is at most {most}")
    return saved


def checked_records(saved, n, name):
    """A list of what an array of a tree holds, one entry for each of n iterations."""
    if not isinstance(saved, np.ndarray) or saved.ndim == 0 or len(saved) != n or saved.dtype != np.float64:
        raise UnusableState(f"{name} is no record of {n} iterations")
    return list(saved)


@contextlib.contextmanager
def reading():
    """A block that reads a saved state; all that goes wrong in it is the state's fault."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise UnusableState(f"it cannot be read ({type(error).__name__}: {error})") from error
