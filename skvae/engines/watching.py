"""What both engines report while they run: an object that is told of every iteration."""


class Watcher:
    """Told of every iteration; stops the ascent by returning True. This one sees nothing."""

    def begins(self, number):
        """Before an iteration (of the gradient engine: an epoch)."""

    def ends(self, report):
        """After an iteration, with the engine's report of it; return True to stop here."""
        return False
