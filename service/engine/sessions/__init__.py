"""Sessions, and the slots they live in."""
