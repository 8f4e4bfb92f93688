"""Models of other origin: read, understood, checked and published, ready to serve."""
