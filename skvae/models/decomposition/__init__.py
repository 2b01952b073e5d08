"""Factor analysis, probabilistic PCA and rotations."""
