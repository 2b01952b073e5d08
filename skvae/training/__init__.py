"""How a network is fitted to rows, of a table or of clicks."""
