"""What the models attacked are called, for those who need not have made them."""

import string

SYMBOLS = tuple(string.ascii_lowercase + " ")
LETTERS, PRICES, LABELS, WHOLE = "letters", "prices", "labels", "whole"
NAMES = (LETTERS, PRICES, LABELS, WHOLE)
"""Reads text and writes it; reads prices; labels what it has read; labels whole sequences only."""

__all__ = ["LABELS", "LETTERS", "NAMES", "PRICES", "SYMBOLS", "WHOLE"]
