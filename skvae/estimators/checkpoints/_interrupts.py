"""Ctrl-C during a fit with a checkpoint."""

import contextlib
import signal
import sys
import threading


class Interrupts:
    """A context in which the first Ctrl-C asks for the end of the fit, and the second ends it at once.

    Only the main thread can hear of it; elsewhere Ctrl-C does what it always does. So it does where the program ignores
    it, or handles it in a way that Python does not see.

    Parameters
    ----------
    defers : callable
        () -> whether the fit can end by itself soon. Else the first Ctrl-C ends it at once.

    Attributes
    ----------
    asked : bool
    """

    def __init__(self, defers):
        self.defers, self.asked, self.previous = defers, False, None

    def __enter__(self):
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and callable(before):
            self.previous = before
            signal.signal(signal.SIGINT, self._heard)
        return self

    def __exit__(self, *_):
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)

    def _heard(self, number, frame):
        if self.asked or not self.defers():
            self.previous(number, frame)
            return
        self.asked = True
        with contextlib.suppress(RuntimeError):  # a print that this one interrupts
            print("\nThe fit ends after this iteration; Ctrl-C again ends it at once.", file=sys.stderr, flush=True)
