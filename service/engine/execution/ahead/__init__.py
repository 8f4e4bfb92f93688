"""Runs that are begun before the ones before them have ended."""
