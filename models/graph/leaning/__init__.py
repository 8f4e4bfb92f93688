"""Graphs with fewer operators."""
