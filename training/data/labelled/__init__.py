"""Labelled sequences: from folders, archives and tables."""
