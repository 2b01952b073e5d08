"""What an engine tells while it climbs; both engines take the same kind of listener."""


class Watcher:
    """Told of every iteration; stops the ascent by returning True. This one sees nothing."""

    def begins(self, number):
        """Before an iteration (of the gradient engine: an epoch)."""

    def ends(self, report):
        """After an iteration, with the engine's report of it; return True to stop here."""
        return False
