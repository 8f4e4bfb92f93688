"""Sessions that are put where they stood: out of the store, from the log, or back to less."""
