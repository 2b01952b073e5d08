"""Lets a fit go on from the file of its parameter `checkpoint`, and keeps the file up to date."""

import contextlib
import hashlib
import json
import os

from skvae import _reduce
from skvae._compat import warn
from skvae.engines import checkpoints
from skvae.estimators._progress import say
from skvae.estimators.checkpoints import _file
from skvae.estimators.checkpoints._facts import facts_of
from skvae.estimators.checkpoints._interrupts import Interrupts
from skvae.estimators.checkpoints.checkpoint import as_checkpoint

_ADVICE = "Delete the file to begin anew, or give another path."


class _AnotherFitError(Exception):
    """Carries what differs past the reader of the file."""


@contextlib.contextmanager
def resumable(estimator, X, given, *, of_a_clone):
    """A block with a fit that goes on from a file, if there is one, and writes it.

    Parameters
    ----------
    estimator : Estimator
    X, given
        As of `facts_of`.
    of_a_clone : bool
        Whether the estimator is a clone, which must not share a file with others.

    Raises
    ------
    ValueError
        If the file is of another fit, or no whole checkpoint. It is left as it is.
    OSError
        If the folder cannot be written to.
    """
    settings = as_checkpoint(getattr(estimator, "checkpoint", None))
    if settings is None:
        yield
        return
    facts = facts_of(estimator, X, given)
    path = _path(settings.path, facts if of_a_clone else None)
    states, seeds = _reduce.of_first(_begun(path, facts) if _reduce.is_first() else None)
    if estimator.verbose and states and _reduce.is_first():
        say(estimator, f"goes on from {path}")
    keeper = _Keeper(path, facts, settings, states, seeds)
    try:
        with keeper.interrupts, checkpoints.kept_in(keeper.journal):
            yield
            keeper.hear_the_end()
    except checkpoints.UnusableState as error:
        raise ValueError(f"checkpoint={path!r} cannot be gone on from: {error}. {_ADVICE}") from error
    keeper.conclude(type(estimator).__name__)


class _Keeper:
    """The file of a fit that is running."""

    def __init__(self, path, facts, settings, states, seeds):
        self.path, self.facts = path, facts
        self.raises = settings.on_interrupt == "raise"
        self.is_done = self.is_late = False
        self.interrupts = Interrupts(lambda: not self.is_done and (not self.raises or self.journal.n_running))
        self.journal = checkpoints.Journal(
            self._write, settings.interval, lambda: self.interrupts.asked, self.raises, states, seeds
        )

    def _write(self, states, seeds):
        if not _reduce.is_first():
            return
        if not self._may_replace():
            warn(
                f"The checkpoint {self.path!r} was not written: since this fit began, another one has written a file "
                "there, which is left as it is. Give each fit a path of its own.",
                RuntimeWarning,
            )
            return
        try:
            _file.write(self.path, {"facts": self.facts, "seeds": seeds}, states)
        except OSError as error:
            warn(
                f"The checkpoint {self.path!r} could not be written ({error}). The fit goes on, and tries again later.",
                RuntimeWarning,
            )

    def _may_replace(self):
        """Whether there is no file at the path, or one of this fit: two may have begun before either wrote it."""
        try:
            return _file.header_of(self.path).get("facts") == self.facts
        except FileNotFoundError:
            return True
        except (OSError, _file.UnreadableFileError):
            return False

    def hear_the_end(self):
        """Note that the fit is done: a Ctrl-C that no ascent has answered is answered here, a later one at once."""
        self.is_done = True
        self.is_late = self.journal.ended()

    def conclude(self, name):
        """Remove the file of a fit that is done; warn of one that was stopped, or could not be."""
        if self.is_late:
            warn(f"Ctrl-C came after the last iteration of {name}.fit, or it has none: the fit is whole.", UserWarning)
        if self.journal.stopped:
            warn(
                f"Ctrl-C stopped {name}.fit before it was done; it keeps the best parameters so far. Call fit again "
                f"with the same parameters and rows to go on from {self.path!r}, or delete that file.",
                UserWarning,
            )
        elif _reduce.is_first() and self._may_replace():
            try:
                _file.remove(self.path)
            except OSError as error:
                warn(
                    f"{name}.fit is done, but its checkpoint {self.path!r} could not be removed ({error}).",
                    RuntimeWarning,
                )


def _path(path, facts):
    """The file of a fit; of a clone one whose name follows from what the fit is of."""
    path = os.path.realpath(os.fspath(path))  # the file that a link stands for is written, not the link
    if facts is None:
        return path
    stem, suffix = os.path.splitext(path)
    return f"{stem}-{hashlib.blake2b(json.dumps(facts).encode(), digest_size=6).hexdigest()}{suffix}"


def _begun(path, facts):
    """The states and seeds of a file; empty where there is none and one can be written."""
    if not os.path.lexists(path):
        _refuse_unwritable(path)
        return {}, []

    def check(header):
        differ = _differences(header["facts"], facts)
        if differ:
            raise _AnotherFitError(f"checkpoint={path!r} is of another fit: {differ}. {_ADVICE}")

    try:
        header, states = _file.read(path, check)
        seeds = header["seeds"]
        if not isinstance(seeds, list) or not all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds):
            raise _file.UnreadableFileError("its seeds are none")
    except _AnotherFitError as error:
        raise ValueError(str(error)) from None
    except _file.UnreadableFileError as error:
        raise ValueError(
            f"checkpoint={path!r} is no checkpoint of skvae, or it is damaged: {error}. {_ADVICE}"
        ) from error
    except OSError as error:
        raise type(error)(
            error.errno, f"checkpoint={path!r} cannot be read ({error.strerror}); give the path of a file"
        ) from error
    _refuse_unwritable(path)
    return states, seeds


def _refuse_unwritable(path):
    """Complain of a folder in which no file can be written."""
    probe = _file.temporary_of(path)
    try:
        with open(probe, "wb"):
            pass
        with contextlib.suppress(FileNotFoundError):  # an equal fit beside this one has ended, and tidied up
            os.remove(probe)
    except OSError as error:
        raise type(error)(
            error.errno, f"checkpoint={path!r} cannot be written; give a path in a folder that exists and is writable"
        ) from error


def _differences(written, facts):
    """In what two fits differ, as text."""
    differ = [name for name in {**written, **facts} if written.get(name) != facts.get(name)]
    if "estimator" in differ:  # whose parameters are others too
        differ = ["estimator"]
    return "; ".join(f"{name} was {_short(written.get(name))} and is {_short(facts.get(name))}" for name in differ)


def _short(text):
    text = str(text)
    return text if len(text) <= 100 else f"{text[:60]} ... {text[-30:]}"
