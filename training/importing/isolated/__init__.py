"""Runs graphs of other origin in a process of their own, which they may crash."""

SECONDS = 60.0
"""The most that one request may take, unless told otherwise."""
