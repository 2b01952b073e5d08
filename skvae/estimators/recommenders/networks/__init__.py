"""Recommenders that are networks, fitted in epochs."""
