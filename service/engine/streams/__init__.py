"""The engine's side of a Stream call."""
