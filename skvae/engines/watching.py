"""The listener of an ascent; both engines take the same kind."""


class Watcher:
    """A listener that is told of every iteration and may stop the ascent. This one does nothing."""

    def begins(self, number):
        """Hear that an iteration (of the gradient engine: an epoch) begins."""

    def ends(self, report):
        """Hear the engine's report of an iteration; return True to stop after it."""
        return False
