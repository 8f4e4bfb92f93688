"""Forecasts far ahead, the plain methods they are held against, and the scores of both."""
