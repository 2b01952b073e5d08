"""Imported for its effect: puts the repository on the path where skvae is not installed."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("skvae") is None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
