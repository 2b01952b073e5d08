"""Users x items in, ranked items out."""
