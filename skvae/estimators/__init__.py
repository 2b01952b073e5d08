"""The scikit-learn face: parameters, docstrings and fitted attributes; no mathematics."""
