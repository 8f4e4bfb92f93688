"""Series: read from files of every kind."""
