"""Sessions that begin where others stand, or stood: forked, or taken out and put in again."""
