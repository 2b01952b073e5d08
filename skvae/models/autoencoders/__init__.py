"""Encoder and decoder of a table's rows."""
