"""The listener of an ascent; both engines take the same kind."""

CONVERGED, LIMIT, STOPPED = "converged", "max_iter was reached", "a callback stopped it"
INTERRUPTED = "Ctrl-C"
EARLY = "early stopping, the score on held-out rows rose no more"


class Watcher:
    """A listener that is told of every iteration and may stop the ascent. This one does nothing."""

    def begins(self, number):
        """Hear that an iteration (of the gradient engine: an epoch) begins."""

    def ends(self, report):
        """Hear the engine's report of an iteration; return True to stop after it."""
        return False

    def concludes(self, reason):
        """Hear why the iterations of a restart, or the epochs of a fit, ended: `CONVERGED`, or another short phrase."""
