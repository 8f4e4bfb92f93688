"""Calls of several steps: generate, forecast, predict."""
