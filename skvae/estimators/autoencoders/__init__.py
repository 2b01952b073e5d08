"""Networks that compress a table."""
