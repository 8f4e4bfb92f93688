"""``make bench-triton``: Cellar beside NVIDIA Triton, in one run with the same kind of load."""
