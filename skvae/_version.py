"""Version of the package: here, and not in its metadata, so that a copy that is not installed has one too."""

__version__ = "0.1.0.dev0"
