"""Measurements of whole servers, each a process of its own, by a load in another process."""
