"""Linear-Gaussian models: factor analysis and probabilistic PCA."""
