"""Encoder and decoder of a user's clicks."""
