"""Session ids: which session each one names, or what became of it."""
