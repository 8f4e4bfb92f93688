"""Sessions under faults, and an oracle that knows what each reply must say: ``make chaos``."""
