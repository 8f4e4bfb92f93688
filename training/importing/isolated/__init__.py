"""Runs graphs of other origin in a process of their own, which they may crash."""
