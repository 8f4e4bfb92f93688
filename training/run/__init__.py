"""One training run: its loop, its folder, what it publishes and what it says of itself."""
