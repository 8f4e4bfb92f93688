"""Measurements, each a program that ends in one JSON line."""
