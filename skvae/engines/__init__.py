"""The two ways up the bound; no engine knows a model by name."""
