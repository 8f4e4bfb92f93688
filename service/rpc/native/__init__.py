"""Cellar's own protocol, cellar.v1."""
