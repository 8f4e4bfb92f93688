"""Crash points: the engine on a store that crashes at every write, held against a plain model."""
