"""The distribution of a series' next value."""
