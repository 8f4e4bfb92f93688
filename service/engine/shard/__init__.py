"""One device's share of a model, and its turns."""
