"""Fits of two networks that play against each other."""
