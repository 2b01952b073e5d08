"""Between a table as users have it and numbers."""
