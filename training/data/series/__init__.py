"""Series: columns of numbers in order of time."""
