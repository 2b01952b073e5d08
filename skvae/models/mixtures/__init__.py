"""Mixtures and the posterior of their components."""
