"""Mixtures: a discrete latent variable, and components given it."""
