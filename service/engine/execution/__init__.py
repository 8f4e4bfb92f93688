"""How batches run on a device."""
