"""Several cells on the same data and budget."""
