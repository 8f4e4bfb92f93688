"""The label of a sequence."""
